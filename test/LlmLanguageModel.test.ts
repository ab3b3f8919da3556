import { NodeHttpClient } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import { Duration, Effect, ExecutionPlan, Layer, Option, Redacted, Ref, Schema, Stream, Tracer } from "effect"
import {
  type Client,
  LlmClient,
  type LlmConfig,
  LlmError,
  LlmLanguageModel,
  LlmProvider,
  type LlmRequest
} from "effect-resilient-llm"
import { Anthropic, OpenAi } from "effect-resilient-llm/providers"
import { FaultServer, ScriptedProvider } from "effect-resilient-llm/testing"
import { AiError, Chat, LanguageModel, Prompt, type Response, ResponseIdTracker, Tool, Toolkit } from "effect/ai"
import { Persistence } from "effect/persistence"

class Primary extends ScriptedProvider.Service<Primary>()("primary") {}
class Secondary extends ScriptedProvider.Service<Secondary>()("secondary") {}

const calm = { retry: false, cache: false } as const

const scripted = (...steps: ReadonlyArray<ScriptedProvider.Step>) =>
  LlmLanguageModel.layer().pipe(
    Layer.provide(LlmClient.layer([Primary], calm)),
    Layer.provide(Primary.layer(steps))
  )

/** A model over one provider of which the requests are known. */
const recording = (answers: ReadonlyArray<ReadonlyArray<Response.PartEncoded>>, options: LlmConfig.Options = calm) => {
  const requests: Array<LlmRequest.LlmRequest> = []
  const provider = LlmProvider.make({
    id: "recording",
    generate: (request) => Effect.sync(() => answers[Math.min(requests.push(request), answers.length) - 1]!)
  })
  return {
    requests,
    live: LlmLanguageModel.layer().pipe(Layer.provide(LlmClient.layerDynamic([provider], options)))
  }
}

const usage = { inputTokens: { total: 3 }, outputTokens: { total: 2 } } as const
const finish = (reason: Response.FinishReason = "stop"): Response.FinishPartEncoded => ({
  type: "finish",
  reason,
  usage
})
const text = (text: string): Response.PartEncoded => ({ type: "text", text })

describe("a program written against effect/ai alone", () => {
  const Weather = Tool.make("Weather", {
    description: "The weather of a city",
    parameters: Schema.Struct({ city: Schema.String }),
    success: Schema.Struct({ celsius: Schema.Number })
  })
  const toolkit = Toolkit.make(Weather)

  const program = Effect.gen(function*() {
    const chat = yield* Chat.fromPrompt([{ role: "system", content: "You know the weather." }])
    const first = yield* chat.generateText({ prompt: "How warm is it in Berlin?", toolkit })
    const second = yield* chat.generateText({ prompt: [], toolkit })
    const streamed = yield* chat.streamText({ prompt: "Thank you." }).pipe(
      Stream.filter((part) => part.type === "text-delta"),
      Stream.map((part) => part.delta),
      Stream.mkString
    )
    const history = yield* Ref.get(chat.history)
    return {
      results: first.toolResults.map((result) => result.result),
      answer: second.text,
      streamed,
      roles: history.content.map((message) => message.role)
    }
  })

  it.live("runs over two vendors with a 503, a cut stream and a failover in it", () =>
    Effect.gen(function*() {
      const openai = yield* FaultServer.make()
      const anthropic = yield* FaultServer.make()
      yield* openai.play(
        FaultServer.status(503),
        FaultServer.ok({ toolCalls: [{ name: "Weather", params: { city: "Berlin" } }] }),
        FaultServer.status(503),
        FaultServer.status(503),
        FaultServer.truncate({ afterChunks: 0 }),
        FaultServer.ok({ text: "You are welcome." })
      )
      yield* anthropic.play(FaultServer.ok({ text: "21 degrees." }))
      const observed: Array<string> = []
      const live = LlmLanguageModel.layer().pipe(
        Layer.provide(LlmClient.layer([OpenAi, Anthropic], {
          retry: { maxRetries: 1, baseDelay: "1 milli" },
          failover: {}
        })),
        Layer.provide([
          OpenAi.layer({ apiKey: Redacted.make("k"), baseUrl: openai.openai, defaultModel: "gpt" }),
          Anthropic.layer({ apiKey: Redacted.make("k"), baseUrl: anthropic.anthropic, defaultModel: "claude" })
        ]),
        Layer.provide(NodeHttpClient.layerUndici)
      )
      const result = yield* program.pipe(
        LlmLanguageModel.onResponse((response) => Effect.sync(() => observed.push(response.provider))),
        Effect.provide(toolkit.toLayer({ Weather: () => Effect.succeed({ celsius: 21 }) })),
        Effect.provide(live)
      )
      assert.deepStrictEqual(result, {
        results: [{ celsius: 21 }],
        answer: "21 degrees.",
        streamed: "You are welcome.",
        roles: ["system", "user", "assistant", "tool", "assistant", "user", "assistant"]
      })
      assert.deepStrictEqual(observed, ["openai", "anthropic", "openai"])
      // The second turn took the tool's call and result to the other vendor.
      const [asked] = yield* anthropic.requests
      assert.include(JSON.stringify(asked?.body), "tool_result")
    }))
})

describe("what effect/ai has no field for", () => {
  it.effect("is taken from the configuration, the inner over the outer", () => {
    const { live, requests } = recording([[text("Hello."), finish()]])
    return Effect.gen(function*() {
      yield* LanguageModel.generateText({ prompt: "Hi" }).pipe(
        LlmLanguageModel.withConfigOverride({ temperature: 0, maxTokens: 5 }),
        LlmLanguageModel.withConfigOverride({ temperature: 1, model: "m", stop: ["!"] })
      )
      yield* Stream.runDrain(
        LanguageModel.streamText({ prompt: "Hi" }).pipe(LlmLanguageModel.withConfigOverride({ seed: 7 }))
      )
      yield* LlmLanguageModel.withConfigOverride(LanguageModel.generateText({ prompt: "Hi" }), { topP: 0.5 })
      const [first, second, third] = requests
      assert.deepStrictEqual(
        [first?.temperature, first?.maxTokens, first?.model, first?.stop],
        [0, 5, "m", ["!"]]
      )
      assert.strictEqual(second?.seed, 7)
      assert.deepStrictEqual([third?.topP, third?.seed], [0.5, undefined])
    }).pipe(Effect.provide(live))
  })

  it.effect("a wrong setting is an InvalidRequestError that names it", () =>
    Effect.gen(function*() {
      const error = yield* LanguageModel.generateText({ prompt: "Hi" }).pipe(
        LlmLanguageModel.withConfigOverride({ temperature: 3 }),
        Effect.flip
      )
      assert.strictEqual(error.reason._tag, "InvalidRequestError")
      assert.include(error.message, "temperature")
    }).pipe(Effect.provide(scripted())))

  it.effect("ledger and source are told to observers; finish parts say how it came about", () =>
    Effect.gen(function*() {
      const told: Array<string> = []
      const tell = (name: string) =>
        LlmLanguageModel.onResponse((response) =>
          Effect.sync(() => told.push(`${name} ${response.source} ${response.ledger.at(-1)?._tag}`))
        )
      const response = yield* LanguageModel.generateText({ prompt: "Hi" }).pipe(tell("inner"), tell("outer"))
      const part = response.content.find((part) => part.type === "finish")
      assert.deepStrictEqual(part?.metadata["effect-resilient-llm"], {
        source: "provider",
        target: "primary",
        provider: "primary",
        attempts: 1,
        age: 0
      })
      const streamed = yield* LanguageModel.streamText({ prompt: "Hi" }).pipe(tell("stream"), Stream.runCollect)
      const last = streamed.at(-1)
      assert.strictEqual(last?.type === "finish" && last.metadata["effect-resilient-llm"]?.source, "provider")
      assert.deepStrictEqual(told, [
        "outer provider CallEnded",
        "inner provider CallEnded",
        "stream provider CallEnded"
      ])
    }).pipe(Effect.provide(scripted())))

  it.effect("a stale answer is marked", () =>
    Effect.gen(function*() {
      yield* LanguageModel.generateText({ prompt: "Hi" })
      const again = yield* LanguageModel.generateText({ prompt: "Hi" })
      const part = again.content.find((part) => part.type === "finish")
      assert.strictEqual(part?.metadata["effect-resilient-llm"]?.source, "stale")
    }).pipe(Effect.provide(
      LlmLanguageModel.layer().pipe(
        Layer.provide(LlmClient.layer([Primary], { retry: false })),
        Layer.provide(Primary.layer([ScriptedProvider.answer("Old."), ScriptedProvider.overloaded]))
      )
    )))
})

describe("responses", () => {
  const facts: Response.ResponseMetadataPartEncoded = {
    type: "response-metadata",
    id: "resp-1",
    modelId: "m-1",
    timestamp: "2026-01-02T03:04:05.000Z"
  }
  const marked: Response.FinishPartEncoded = { ...finish(), metadata: { vendor: { tier: "flex" } } }

  it.effect("keep id, timestamp and the vendor's own finish metadata", () => {
    const { live } = recording([[facts, text("Hello."), marked]])
    return Effect.gen(function*() {
      const whole = yield* LanguageModel.generateText({ prompt: "Hi" })
      const streamed = yield* Stream.runCollect(LanguageModel.streamText({ prompt: "Hi" }))
      for (const parts of [whole.content, streamed]) {
        const metadata = parts.find((part) => part.type === "response-metadata")
        assert.deepStrictEqual([metadata?.id, metadata?.modelId], ["resp-1", "m-1"])
        const end = parts.find((part) => part.type === "finish")
        assert.deepStrictEqual(end?.metadata["vendor"], { tier: "flex" })
      }
      assert.strictEqual(streamed.at(-1)?.type, "finish")
    }).pipe(Effect.provide(live))
  })

  it.effect("have no finish part when the provider gave none, so that tool handlers run", () => {
    const Ping = Tool.make("Ping", { success: Schema.String })
    const toolkit = Toolkit.make(Ping)
    const { live } = recording([[{ type: "tool-call", id: "c", name: "Ping", params: {} }]])
    return Effect.gen(function*() {
      const response = yield* LanguageModel.generateText({ prompt: "Hi", toolkit })
      assert.deepStrictEqual(response.content.map((part) => part.type), ["tool-call", "tool-result"])
      assert.deepStrictEqual(response.toolResults.map((result) => result.result), ["pong"])
    }).pipe(Effect.provide(toolkit.toLayer({ Ping: () => Effect.succeed("pong") })), Effect.provide(live))
  })

  it.effect("ids reach a ResponseIdTracker from whole answers too; the full prompt is sent all the same", () => {
    const { live, requests } = recording([[facts, text("Hello."), finish()]])
    return Effect.gen(function*() {
      const tracker = yield* ResponseIdTracker.make
      const ask = (prompt: Prompt.Prompt) =>
        Effect.provideService(LanguageModel.generateText({ prompt }), ResponseIdTracker.ResponseIdTracker, tracker)
      const first = Prompt.make("Hi")
      const answer = yield* ask(first)
      const second = Prompt.concat(Prompt.concat(first, Prompt.fromResponseParts(answer.content)), "And?")
      yield* ask(second)
      const prepared = tracker.prepareUnsafe(Prompt.concat(second, [
        { role: "assistant", content: "x" },
        { role: "user", content: "y" }
      ]))
      assert.strictEqual(Option.getOrUndefined(prepared)?.previousResponseId, "resp-1")
      assert.strictEqual(requests[1]?.prompt.length, 3)
    }).pipe(Effect.provide(live))
  })

  it.effect("an empty prompt is the provider's to judge", () =>
    Effect.gen(function*() {
      const response = yield* LanguageModel.generateText({ prompt: [] })
      assert.strictEqual(response.text, "Even so.")
    }).pipe(Effect.provide(scripted(ScriptedProvider.answer("Even so.")))))
})

describe("a persisted chat", () => {
  it.effect("asks the same question twice, although every message has a random id", () => {
    const { live, requests } = recording([[text("Hello."), finish()]], { retry: false, cache: { readThrough: true } })
    const turns = Effect.gen(function*() {
      const persistence = yield* Chat.Persistence
      const chat = yield* persistence.getOrCreate(`chat-${yield* Effect.sync(() => Math.random())}`)
      yield* chat.generateText({ prompt: "Hi" })
      yield* chat.generateText({ prompt: "And?" })
    }).pipe(LlmLanguageModel.withConfigOverride({ temperature: 0 }))
    return Effect.gen(function*() {
      yield* turns
      yield* turns
      assert.strictEqual(requests.length, 2)
      assert.notInclude(JSON.stringify(requests), "effect/ai")
    }).pipe(
      Effect.provide(live),
      Effect.provide(Layer.provide(Chat.layerPersisted({ storeId: "chats" }), Persistence.layerBackingMemory))
    )
  })
})

describe("tools", () => {
  const { live, requests } = recording([[text("Hello."), finish()]])
  const asked = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
    Effect.gen(function*() {
      requests.length = 0
      yield* effect
      return requests[0]!
    })

  const Search = Tool.make("Search", {
    description: "Finds things",
    parameters: Schema.Struct({ query: Schema.String, limit: Schema.optionalKey(Schema.Number) }),
    success: Schema.String
  })

  it.effect("are sent as JSON schemas, with the choice", () =>
    Effect.gen(function*() {
      const toolkit = Toolkit.make(Search, Tool.make("Other", { success: Schema.String }))
      const handlers = toolkit.toLayer({ Search: () => Effect.succeed(""), Other: () => Effect.succeed("") })
      const ask = (toolChoice: LanguageModel.ToolChoice<"Search" | "Other">) =>
        asked(Effect.provide(LanguageModel.generateText({ prompt: "Hi", toolkit, toolChoice }), handlers))
      const request = yield* ask("auto")
      assert.deepStrictEqual(request.tools?.map((tool) => tool.name), ["Search", "Other"])
      assert.strictEqual(request.tools?.[0]?.description, "Finds things")
      assert.strictEqual(request.tools?.[0]?.strict, undefined)
      assert.strictEqual(request.toolChoice, "auto")
      assert.deepStrictEqual((yield* ask({ tool: "Search" })).toolChoice, { tool: "Search" })
      const one = yield* ask({ mode: "required", oneOf: ["Other"] })
      assert.deepStrictEqual([one.toolChoice, one.tools?.map((tool) => tool.name)], ["required", ["Other"]])
      assert.strictEqual((yield* ask({ oneOf: ["Other"] })).toolChoice, "auto")
      assert.strictEqual((yield* ask("none")).toolChoice, "none")
    }).pipe(Effect.provide(live)))

  it.effect("that are strict get a schema that vendors follow exactly, and are called with what they declare", () => {
    const Strict = Tool.make("Strict", {
      parameters: Schema.Struct({ query: Schema.String, limit: Schema.optionalKey(Schema.Number) }),
      success: Schema.String
    }).annotate(Tool.Strict, true)
    const toolkit = Toolkit.make(Strict)
    const called: Array<unknown> = []
    const handlers = toolkit.toLayer({ Strict: (params) => Effect.sync(() => `${called.push(params)}`) })
    const call = { type: "tool-call", id: "c", name: "Strict", params: { query: "x", limit: null } } as const
    const strict = recording([[call, finish("tool-calls")]])
    return Effect.gen(function*() {
      yield* LanguageModel.generateText({ prompt: "Hi", toolkit })
      yield* Stream.runDrain(LanguageModel.streamText({ prompt: "Hi", toolkit }))
      const tool = strict.requests[0]?.tools?.[0]
      assert.strictEqual(tool?.strict, true)
      assert.strictEqual(tool?.parameters["additionalProperties"], false)
      assert.deepStrictEqual(tool?.parameters["required"], ["query", "limit"])
      assert.deepStrictEqual(called, [{ query: "x" }, { query: "x" }])
    }).pipe(Effect.provide(handlers), Effect.provide(strict.live))
  })

  it.effect("of a vendor keep its name there and the program's name here", () => {
    const WebSearch = Tool.providerDefined({
      id: "openai.web_search",
      customName: "OpenAiWebSearch",
      providerName: "web_search",
      parameters: Schema.Struct({ query: Schema.String }),
      success: Schema.Struct({ found: Schema.Number })
    })
    const search = recording([[
      { type: "tool-call", id: "c", name: "web_search", params: { query: "x" }, providerExecuted: true },
      {
        type: "tool-result",
        id: "c",
        name: "web_search",
        result: { found: 1 },
        isFailure: false,
        providerExecuted: true
      },
      text("Found."),
      finish()
    ]])
    const toolkit = Toolkit.make(WebSearch())
    return Effect.gen(function*() {
      const response = yield* LanguageModel.generateText({
        prompt: "Hi",
        toolkit,
        toolChoice: { tool: "OpenAiWebSearch" }
      })
      const [request] = search.requests
      assert.deepStrictEqual(request?.tools?.[0]?.provider, { id: "openai.web_search", args: {} })
      assert.strictEqual(request?.tools?.[0]?.name, "web_search")
      assert.deepStrictEqual(request?.toolChoice, { tool: "web_search" })
      assert.deepStrictEqual(response.toolCalls.map((part) => part.name), ["OpenAiWebSearch"])
      assert.deepStrictEqual(response.toolResults.map((part) => part.name), ["OpenAiWebSearch"])
    }).pipe(Effect.provide(search.live))
  })
})

describe("generateObject", () => {
  it.effect("asks for JSON by a schema that every vendor takes, and decodes by the program's own", () => {
    const Event = Schema.Struct({
      title: Schema.String,
      seats: Schema.optionalKey(Schema.FiniteFromString)
    }).annotate({ identifier: "app/Event v1" })
    const { live, requests } = recording([[text(`{"title":"Talk","seats":"12"}`), finish()]])
    return Effect.gen(function*() {
      const { value } = yield* LanguageModel.generateObject({ prompt: "Hi", schema: Event })
      assert.deepStrictEqual(value, { title: "Talk", seats: 12 })
      const format = requests[0]?.responseFormat
      assert.strictEqual(format?.type, "json")
      if (format?.type !== "json") return
      assert.deepStrictEqual([format.name, format.strict], ["app_Event_v1", true])
      assert.strictEqual(format.schema?.["additionalProperties"], false)
    }).pipe(Effect.provide(live))
  })

  it.effect("reads an answer in a code fence", () => {
    const { live } = recording([[text("```json\n{\"title\":\"Talk\"}\n```"), finish()]])
    return Effect.gen(function*() {
      const schema = Schema.Struct({ title: Schema.String })
      assert.deepStrictEqual((yield* LanguageModel.generateObject({ prompt: "Hi", schema })).value, { title: "Talk" })
    }).pipe(Effect.provide(live))
  })

  it.effect("a recursive schema goes out as it is, not strict", () => {
    interface Tree {
      readonly name: string
      readonly children: ReadonlyArray<Tree>
    }
    const Tree = Schema.Struct({
      name: Schema.String,
      children: Schema.Array(Schema.suspend((): Schema.Codec<Tree> => Tree))
    }).annotate({ identifier: "Tree" })
    const { live, requests } = recording([[text(`{"name":"a","children":[{"name":"b","children":[]}]}`), finish()]])
    return Effect.gen(function*() {
      const { value } = yield* LanguageModel.generateObject({ prompt: "Hi", schema: Tree })
      assert.strictEqual(value.children[0]?.name, "b")
      const format = requests[0]?.responseFormat
      assert.isTrue(format?.type === "json" && format.schema !== undefined && format.strict === undefined)
    }).pipe(Effect.provide(live))
  })
})

describe("failures", () => {
  const provider = (reason: LlmError.Reason["_tag"], more: object = {}) =>
    new LlmError.ProviderError({
      provider: "p",
      reason: reason === "Network"
        ? { _tag: reason, sent: false }
        : reason === "MalformedResponse"
        ? { _tag: reason, problem: "x" }
        : { _tag: reason },
      ...more
    })
  const second = Duration.seconds(1)
  const cases: ReadonlyArray<readonly [LlmError.LlmError, AiError.AiErrorReason["_tag"]]> = [
    [provider("RateLimit", { retryAfter: second, status: 429 }), "RateLimitError"],
    [provider("Quota"), "QuotaExhaustedError"],
    [provider("Overloaded"), "InternalProviderError"],
    [provider("Server"), "InternalProviderError"],
    [provider("Timeout"), "InternalProviderError"],
    [provider("Conflict"), "InternalProviderError"],
    [provider("Network"), "InternalProviderError"],
    [provider("MalformedResponse"), "InvalidResponseError"],
    [provider("Authentication"), "AuthenticationError"],
    [provider("Permission"), "AuthenticationError"],
    [provider("NotFound"), "InvalidRequestError"],
    [provider("ContextLength"), "InvalidRequestError"],
    [provider("PayloadTooLarge"), "InvalidRequestError"],
    [provider("ContentPolicy"), "ContentPolicyError"],
    [provider("InvalidRequest"), "InvalidRequestError"],
    [provider("ClientClosed"), "InvalidRequestError"],
    [new LlmError.InvalidRequest({ path: "p", rule: "r", kind: "k" }), "InvalidRequestError"],
    [new LlmError.StreamInterrupted({ provider: "p", kind: "reset", partialParts: 1 }), "InvalidResponseError"],
    [new LlmError.AttemptTimeout({ kind: "idle", after: second }), "InternalProviderError"],
    [new LlmError.DeadlineExceeded({ after: second }), "InternalProviderError"],
    [new LlmError.CircuitOpen({ key: "t", state: "open", retryAfter: second }), "RateLimitError"],
    [new LlmError.RateLimited({ dimension: "requests", retryAfter: second }), "RateLimitError"],
    [new LlmError.BulkheadFull({}), "RateLimitError"],
    [new LlmError.Shed({ reason: "throttled", retryAfter: second }), "RateLimitError"],
    [new LlmError.IdempotencyConflict({ keyHash: "h" }), "InvalidRequestError"],
    [new LlmError.IdempotencyInProgress({ retryAfter: second }), "RateLimitError"],
    [new LlmError.AllProvidersUnavailable({ retryAfter: second }), "RateLimitError"],
    [
      new LlmError.AllProvidersFailed({
        targets: ["a", "b"],
        errors: [
          provider("RateLimit", { retryAfter: Duration.seconds(9) }),
          new LlmError.CircuitOpen({ key: "b", state: "open", retryAfter: second })
        ]
      }),
      "RateLimitError"
    ],
    [
      new LlmError.AllProvidersFailed({
        targets: ["a", "b"],
        errors: [provider("RateLimit"), provider("Authentication")]
      }),
      "InternalProviderError"
    ]
  ]

  const failing = (error: unknown): Client<unknown> => ({
    complete: () => Effect.fail(error),
    generateObject: () => Effect.fail(error),
    open: () => Effect.fail(error),
    stream: () => Stream.fail(error),
    events: Stream.empty,
    status: Effect.never
  })

  for (const [error, expected] of cases) {
    const name = error._tag === "ProviderError" ? `${error._tag} ${error.reason._tag}` : error._tag
    it.effect(`${name} is a ${expected}, and final`, () =>
      Effect.gen(function*() {
        const model = yield* LlmLanguageModel.make(failing(error))
        const whole = yield* Effect.flip(model.generateText({ prompt: "Hi" }))
        const streamed = yield* Effect.flip(Stream.runDrain(model.streamText({ prompt: "Hi" })))
        for (const made of [whole, streamed]) {
          assert.strictEqual(made.reason._tag, expected)
          assert.isTrue(LlmLanguageModel.isFinal(made))
          assert.strictEqual(LlmLanguageModel.failureOf(made), error)
          assert.deepStrictEqual("metadata" in made.reason && made.reason.metadata["effect-resilient-llm"], {
            tag: error._tag,
            attempts: 0,
            final: true
          })
          // It survives a trip over the wire as well as any other.
          const encoded = yield* Schema.encodeEffect(AiError.AiError)(made)
          assert.deepEqual(JSON.parse(JSON.stringify(encoded)).reason._tag, expected)
        }
        if (whole.reason._tag === "RateLimitError" && error._tag !== "BulkheadFull") {
          assert.strictEqual(Duration.toMillis(whole.retryAfter!), 1000)
        }
      }))
  }

  it.effect("say where the vendor's own words are", () =>
    Effect.gen(function*() {
      const unread = LlmError.ProviderError.fromHttp({ provider: "openai", status: 400, body: "no such field" })
      const model = yield* LlmLanguageModel.make(failing(unread))
      const error = yield* Effect.flip(model.generateText({ prompt: "Hi" }))
      assert.include(error.message, "`LlmError.details(LlmLanguageModel.failureOf(error))`")
      assert.deepStrictEqual(LlmError.details(LlmLanguageModel.failureOf(error)), [
        { provider: "openai", text: "no such field" }
      ])
    }))

  it.effect("of a guard of the user's own are UnknownError with its tag", () =>
    Effect.gen(function*() {
      const model = yield* LlmLanguageModel.make(failing({ _tag: "Maintenance" }))
      const error = yield* Effect.flip(model.generateText({ prompt: "Hi" }))
      assert.strictEqual(error.reason._tag, "UnknownError")
      assert.isTrue(LlmLanguageModel.isFinal(error))
    }))

  it.effect("carry attempts and target", () =>
    Effect.gen(function*() {
      const error = yield* Effect.flip(LanguageModel.generateText({ prompt: "Hi" }))
      assert.deepStrictEqual(
        error.reason._tag === "InternalProviderError" && error.reason.metadata["effect-resilient-llm"],
        { tag: "AllProvidersFailed", attempts: 2, target: "secondary", final: true }
      )
    }).pipe(Effect.provide(
      LlmLanguageModel.layer().pipe(
        Layer.provide(LlmClient.layer([Primary, Secondary], calm)),
        Layer.provide([Primary.layer([ScriptedProvider.overloaded]), Secondary.layer([ScriptedProvider.overloaded])])
      )
    )))

  it.effect("a plan that asks isFinal goes on to nothing; what effect/ai finds wrong is not final", () => {
    let asked = 0
    const counting = LlmProvider.make({
      id: "counting",
      generate: () => Effect.sync(() => ++asked === 1 ? "not json" : `{"n":1}`)
    })
    const live = LlmLanguageModel.layer().pipe(Layer.provide(LlmClient.layerDynamic([counting], calm)))
    const plan = ExecutionPlan.make({
      provide: live,
      attempts: 3,
      while: (error: unknown) => !LlmLanguageModel.isFinal(error)
    })
    return Effect.gen(function*() {
      const { value } = yield* LanguageModel.generateObject({
        prompt: "Hi",
        schema: Schema.Struct({ n: Schema.Number })
      }).pipe(Effect.withExecutionPlan(plan))
      assert.deepStrictEqual([value, asked], [{ n: 1 }, 2])
    })
  })

  it.effect("that a ResponseIdTracker has repeated are not asked of the providers again", () => {
    let asked = 0
    const refusing = LlmProvider.make({
      id: "refusing",
      generate: () =>
        Effect.suspend(() => {
          asked++
          return Effect.fail(new LlmError.ProviderError({ provider: "refusing", reason: { _tag: "InvalidRequest" } }))
        })
    })
    const prompt = Prompt.make("Hi")
    const tracker = {
      clearUnsafe: () => {},
      markParts: () => {},
      prepareUnsafe: () => Option.some({ previousResponseId: "r", prompt })
    }
    return Effect.gen(function*() {
      const error = yield* Effect.flip(LanguageModel.generateText({ prompt }))
      assert.deepStrictEqual([error.reason._tag, asked], ["InvalidRequestError", 1])
      const streamed = yield* Effect.flip(Stream.runDrain(LanguageModel.streamText({ prompt })))
      assert.deepStrictEqual([streamed.reason._tag, asked], ["InvalidRequestError", 2])
    }).pipe(
      Effect.provideService(ResponseIdTracker.ResponseIdTracker, tracker),
      Effect.provide(LlmLanguageModel.layer().pipe(Layer.provide(LlmClient.layerDynamic([refusing], calm))))
    )
  })

  it.effect("a stream that breaks tells what came before", () =>
    Effect.gen(function*() {
      const seen: Array<string> = []
      const error = yield* LanguageModel.streamText({ prompt: "Hi" }).pipe(
        Stream.runForEach((part) => Effect.sync(() => part.type === "text-delta" && seen.push(part.delta))),
        Effect.flip
      )
      assert.deepStrictEqual([seen, error.reason._tag], [["One "], "InvalidResponseError"])
      const ours = LlmLanguageModel.failureOf(error)
      assert.isTrue(ours instanceof LlmError.StreamInterrupted && ours.partialParts === 1)
    }).pipe(Effect.provide(scripted(ScriptedProvider.stream("One ", ScriptedProvider.cut)))))
})

describe("layers", () => {
  it.effect("takes a tag of your own, and nested ones are each their own", () => {
    class Inner extends LlmClient.Class<Inner>()("app/Inner", [Secondary], { circuitBreaker: false }) {}
    const outer = LlmLanguageModel.layer().pipe(
      Layer.provide(LlmClient.layer([Primary])),
      Layer.provide(Primary.layer([ScriptedProvider.answer("outer"), ScriptedProvider.answer("outer")]))
    )
    const inner = LlmLanguageModel.layer(Inner).pipe(
      Layer.provide(Inner.layer),
      Layer.provide(Secondary.layer([ScriptedProvider.answer("inner")]))
    )
    const ask = Effect.map(LanguageModel.generateText({ prompt: "Hi" }), (response) => response.text)
    return Effect.gen(function*() {
      assert.deepStrictEqual([yield* ask, yield* Effect.provide(ask, inner)], ["outer", "inner"])
    }).pipe(Effect.provide(outer))
  })
})

describe("telemetry", () => {
  it.effect("the framework's span has our annotations, and ours stand inside it", () => {
    const spans: Array<Tracer.NativeSpan> = []
    const tracer = Tracer.make({
      span: (options) => {
        const span = new Tracer.NativeSpan(options)
        spans.push(span)
        return span
      }
    })
    const { live } = recording([[
      { type: "response-metadata", id: "resp-1", modelId: "m-1" },
      text("Hello."),
      finish()
    ]])
    return Effect.gen(function*() {
      yield* LanguageModel.generateText({ prompt: "Hi" }).pipe(LlmLanguageModel.withConfigOverride({ model: "m" }))
      const [framework, call, attempt] = spans
      assert.deepStrictEqual(
        [framework?.name, call?.name, attempt?.name],
        ["LanguageModel.generateText", "llm.call", "llm.attempt"]
      )
      const parent = (span: Tracer.NativeSpan | undefined) => Option.getOrUndefined(span!.parent)
      assert.deepStrictEqual([parent(call)?.spanId, parent(attempt)?.spanId], [framework?.spanId, call?.spanId])
      const attributes = Object.fromEntries(framework!.attributes)
      assert.deepInclude(attributes, {
        "gen_ai.provider.name": "recording",
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": "m",
        "gen_ai.response.id": "resp-1",
        "gen_ai.response.model": "m-1",
        "gen_ai.usage.input_tokens": 3,
        "gen_ai.usage.output_tokens": 2
      })
    }).pipe(Effect.provide(live), Effect.withTracer(tracer))
  })
})
