import { NodeHttpClient } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber, Layer, Redacted, Schema, type Scope } from "effect"
import {
  LlmClient,
  type LlmConfig,
  LlmError,
  type LlmEvent,
  LlmGuard,
  LlmObject,
  type LlmProvider
} from "effect-resilient-llm"
import { Anthropic, Cohere, Gemini, Ollama, OpenAi, OpenAiCompatible } from "effect-resilient-llm/providers"
import { Bedrock } from "effect-resilient-llm/providers/Bedrock"
import { FaultServer, ScriptedProvider } from "effect-resilient-llm/testing"
import { Tool, Toolkit } from "effect/ai"
import type { HttpClient } from "effect/http"
import { TestClock } from "effect/testing"
import { createServer } from "node:http"
import type { AddressInfo } from "node:net"
import { z } from "zod"

const Report = Schema.Struct({ city: Schema.String, celsius: Schema.Finite })
const good = `{"city":"Berlin","celsius":21}`
const bad = `{"city":"Berlin","celsius":"warm"}`
const prompt = "Berlin has 21 degrees."

const { answer } = ScriptedProvider

const setUp = (steps: ReadonlyArray<ScriptedProvider.Step>, options: LlmConfig.Options = {}) =>
  Effect.gen(function*() {
    const provider = yield* ScriptedProvider.make(steps, { id: "vendor" })
    const context = yield* Layer.build(LlmClient.layerDynamic([provider], options))
    const client = yield* Effect.provideContext(LlmClient, context)
    return { client, requests: provider.requests }
  })

const fields = (error: object) => Object.assign({}, error)
const tags = (ledger: LlmEvent.Ledger) => ledger.map((event) => event._tag)

describe("an answer that does not fit", () => {
  it.effect("is asked for again with the complaint, in one call", () =>
    Effect.gen(function*() {
      const { client, requests } = yield* setUp([answer(bad), answer(good)])
      const { response, value } = yield* client.generateObject({ prompt, schema: Report })
      assert.deepStrictEqual(value, { city: "Berlin", celsius: 21 })
      const rejected = response.ledger.find((event) => event._tag === "AnswerRejected")
      assert.deepInclude(rejected, {
        target: "vendor",
        path: "celsius",
        rule: "a number",
        kind: "a text",
        repair: 1
      })
      assert.strictEqual(tags(response.ledger).filter((tag) => tag === "CallStarted").length, 1)
      assert.notInclude(tags(response.ledger), "RetryDenied")
      assert.notInclude(tags(response.ledger), "Shadowed")
      assert.deepInclude(response.ledger.at(-1), { _tag: "CallEnded", attempts: 2, outcome: "provider" })
      const [first, second] = yield* requests
      assert.deepInclude(first?.request.responseFormat, { type: "json", name: "object", strict: true })
      assert.deepStrictEqual(second?.request.prompt.map((message) => message.role), ["user", "assistant", "user"])
      assert.include(JSON.stringify(second?.request.prompt[1]), "warm")
      assert.include(JSON.stringify(second?.request.prompt[2]), "celsius")
      assert.deepStrictEqual(second?.request.responseFormat, first?.request.responseFormat)
    }))

  it.effect("for good is an InvalidOutput that names path, rule and kind, and never the answer", () =>
    Effect.gen(function*() {
      const { client, requests } = yield* setUp([answer(bad), answer("I cannot."), answer("")], { retry: false })
      const error = yield* Effect.flip(client.generateObject({ prompt, schema: Report }))
      assert.instanceOf(error, LlmError.InvalidOutput)
      assert.deepInclude(fields(error), { path: "", rule: "JSON", kind: "a text that is not JSON", repairs: 1 })
      assert.strictEqual(
        error.message,
        "The answer from vendor is not what was asked for after a repair: it must be JSON, but is a text that is not JSON."
      )
      assert.strictEqual((yield* requests).length, 2)
      assert.strictEqual(error.ledger.length > 0, true)
      assert.notInclude(JSON.stringify(error), "cannot")
      assert.strictEqual(Redacted.value(error.detail!), "I cannot.")
      const encoded = yield* Schema.encodeEffect(LlmError.InvalidOutput)(error)
      assert.notInclude(JSON.stringify(encoded), "cannot")
    }))

  const usage = { inputTokens: {}, outputTokens: {} }
  const hopeless: ReadonlyArray<readonly [string, ScriptedProvider.Step]> = [
    [
      "a call of a tool",
      answer([
        { type: "text", text: "Let me see." },
        { type: "tool-call", id: "1", name: "Weather", params: {} },
        { type: "finish", reason: "tool-calls", usage }
      ])
    ],
    [
      "a call of a tool",
      answer([
        { type: "text", text: bad },
        { type: "tool-call", id: "1", name: "Weather", params: {} },
        { type: "finish", reason: "tool-calls", usage }
      ])
    ],
    [
      "kept back by the provider's policy",
      answer([{ type: "text", text: "I can" }, { type: "finish", reason: "content-filter", usage }])
    ],
    ["cut off by its token limit", answer([{ type: "text", text: "{" }, { type: "finish", reason: "length", usage }])]
  ]
  for (const [kind, step] of hopeless) {
    it.effect(`is not asked for again where that is no use: ${kind}`, () =>
      Effect.gen(function*() {
        const { client, requests } = yield* setUp([step, answer(good)])
        const error = yield* Effect.flip(client.generateObject({ prompt, schema: Report }))
        assert.deepInclude(fields(error), { _tag: "InvalidOutput", kind, repairs: 0 })
        assert.strictEqual((yield* requests).length, 1)
      }))
  }

  const list = Schema.Array(Schema.Struct({ city: Schema.String }))
  const bare: ReadonlyArray<readonly [string, Schema.Codec<unknown>, unknown, unknown]> = [
    ["a list", list, [{ city: "Berlin" }], [{ city: 1 }]],
    [
      "a union",
      Schema.Union([Schema.Struct({ value: Schema.String }), Schema.Struct({ b: Schema.Finite })]),
      { b: 1 },
      1
    ],
    ["a number", Schema.Finite, 21, "warm"],
    ["a word", Schema.Literals(["hot", "cold"]), "hot", "warm"]
  ]
  it.effect.each(bare)(
    "%s is asked for inside of an object, and read with and without it",
    ([, schema, value, wrong]) =>
      Effect.gen(function*() {
        const text = (u: unknown) => answer(JSON.stringify(u))
        const { client, requests } = yield* setUp(
          [text({ value }), text(value), text({ value: wrong }), text({ value })],
          { cache: false }
        )
        for (let i = 0; i < 3; i++) {
          assert.deepStrictEqual((yield* client.generateObject({ prompt: `${i}`, schema })).value, value)
        }
        const seen = yield* requests
        assert.strictEqual(seen.length, 4)
        const format = seen[0]?.request.responseFormat
        assert.isTrue(format?.type === "json" && format.strict)
        const jsonSchema = format?.type === "json" ? format.schema : undefined
        assert.deepInclude(jsonSchema, { type: "object", required: ["value"], additionalProperties: false })
        assert.include(JSON.stringify(seen[3]?.request.prompt), "does not fit the JSON schema")
      })
  )

  it.effect("a schema of another library that is no object keeps its definitions where they are found", () =>
    Effect.gen(function*() {
      const Place = z.object({ city: z.string() }).meta({ id: "Place" })
      const { client, requests } = yield* setUp([
        answer(`{ "value": [{ "city": "Bonn" }] }`),
        answer(`[{ "city": "Bonn" }]`)
      ], {
        cache: false
      })
      const schema = LlmObject.fromStandard(z.array(Place), z.toJSONSchema(z.array(Place)))
      for (let i = 0; i < 2; i++) {
        assert.deepStrictEqual((yield* client.generateObject({ prompt: `${i}`, schema })).value, [{ city: "Bonn" }])
      }
      const format = (yield* requests)[0]?.request.responseFormat
      const sent = format?.type === "json" ? format.schema as { $defs: object; properties: object } : undefined
      assert.deepInclude(sent?.properties, { value: { type: "array", items: { $ref: "#/$defs/Place" } } })
      assert.property(sent?.$defs, "Place")

      // A reference to the root would mean another root.
      const recursive = { type: "array", items: { $ref: "#" } }
      const among = {
        type: "array",
        items: { $ref: "#/$defs/A" },
        $defs: { A: { properties: { more: { $ref: "#" } } } }
      }
      for (const schema of [recursive, among]) {
        assert.deepStrictEqual(LlmObject.fromStandard(z.array(z.any()), schema).jsonSchema, schema)
      }
    }))

  it.effect("does not touch the breaker", () =>
    Effect.gen(function*() {
      const { client } = yield* setUp([], { circuitBreaker: { failureThreshold: 1 }, retry: false })
      for (let i = 0; i < 5; i++) yield* Effect.flip(client.generateObject({ prompt: `${i}`, schema: Report }))
      const { targets } = yield* client.status
      assert.strictEqual(targets[0]?.circuit?.state, "closed")
    }))

  it.effect("pays for its repairs from the purse of the target that gave it", () =>
    Effect.gen(function*() {
      const { client, requests } = yield* setUp([answer(bad), answer(bad), answer(good), answer(bad)], {
        retryBudget: { capacity: 2, perAttempt: 0, perSecond: 0 },
        retry: { maxRetries: 3 }
      })
      const purse = Effect.map(client.status, ({ targets }) => targets[0]?.retryBudget)
      const { response } = yield* client.generateObject({ prompt, schema: Report, repairs: 5 })
      assert.deepInclude(response.ledger.at(-1), { _tag: "CallEnded", attempts: 3 })
      assert.strictEqual(yield* purse, 0)
      const denied = yield* Effect.flip(client.generateObject({ prompt: "Another one.", schema: Report }))
      assert.instanceOf(denied, LlmError.InvalidOutput)
      assert.deepInclude(fields(denied), { repairs: 0, path: "celsius", target: "vendor" })
      assert.deepInclude(denied.ledger.find((event) => event._tag === "RetryDenied"), {
        target: "vendor",
        because: "budget",
        attempt: 1,
        error: { tag: "InvalidOutput" }
      })
      assert.notProperty(denied.ledger.find((event) => event._tag === "AnswerRejected"), "repair")
      assert.strictEqual((yield* requests).length, 4)
    }))

  it.effect("an empty purse in shadow mode denies no repair, and tells", () =>
    Effect.gen(function*() {
      const { client } = yield* setUp([answer(bad), answer(good)], {
        retryBudget: { capacity: 0, perAttempt: 0, perSecond: 0, mode: "shadow" }
      })
      const { response } = yield* client.generateObject({ prompt, schema: Report })
      assert.deepInclude(response.ledger.find((event) => event._tag === "Shadowed"), {
        target: "vendor",
        by: "retry-budget",
        decision: "would-deny"
      })
    }))

  it.effect("a repair that nobody was asked for is not paid; without purses all are free", () =>
    Effect.gen(function*() {
      const closed = LlmGuard.make(
        "closed",
        ({ request }) =>
          request.prompt.length > 1
            ? Effect.fail(new LlmError.InvalidRequest({ path: "a", rule: "b", kind: "c" }))
            : Effect.void
      )
      const provider = yield* ScriptedProvider.make([answer(bad)], { id: "vendor" })
      const client = yield* Effect.provideContext(
        LlmClient,
        yield* Layer.build(LlmClient.layerDynamic([provider], {
          retryBudget: { capacity: 2, perAttempt: 0, perSecond: 0 },
          guards: [closed]
        }))
      )
      assert.strictEqual(
        (yield* Effect.flip(client.generateObject({ prompt, schema: Report })))._tag,
        "InvalidRequest"
      )
      assert.strictEqual((yield* client.status).targets[0]?.retryBudget, 2)
      const free = yield* setUp([answer(bad), answer(bad), answer(good)], { retryBudget: false })
      assert.strictEqual((yield* free.client.generateObject({ prompt, schema: Report, repairs: 2 })).value.celsius, 21)
    }))

  it.effect("is not asked for again when that is off, or when it was cut off", () =>
    Effect.gen(function*() {
      const cut = { type: "finish", reason: "length", usage: { inputTokens: {}, outputTokens: {} } } as const
      const { client, requests } = yield* setUp([answer(bad), answer([{ type: "text", text: "{\"city\":" }, cut])])
      const off = yield* Effect.flip(client.generateObject({ prompt, schema: Report, repairs: 0 }))
      assert.deepInclude(fields(off), { path: "celsius", repairs: 0 })
      const short = yield* Effect.flip(client.generateObject({ prompt: "other", schema: Report, repairs: 3 }))
      assert.deepInclude(fields(short), { kind: "cut off by its token limit", repairs: 0 })
      assert.strictEqual((yield* requests).length, 2)
    }))

  it.effect("is repaired at another target, and inside the deadline", () =>
    Effect.gen(function*() {
      const first = yield* ScriptedProvider.make([answer(bad), ScriptedProvider.always(ScriptedProvider.overloaded)], {
        id: "a"
      })
      const second = yield* ScriptedProvider.make([answer(good), ScriptedProvider.always(ScriptedProvider.hang)], {
        id: "b"
      })
      const layer = LlmClient.layerDynamic([first, second], { retry: false, cache: false })
      const client = yield* Effect.provideContext(LlmClient, yield* Layer.build(layer))
      const { response } = yield* client.generateObject({ prompt, schema: Report })
      assert.strictEqual(response.target, "b")
      const late = yield* Effect.forkChild(
        Effect.flip(client.generateObject({ prompt, schema: Report, deadline: "3 seconds" }))
      )
      yield* TestClock.adjust("5 seconds")
      assert.strictEqual((yield* Fiber.join(late))._tag, "DeadlineExceeded")
    }))
})

describe("what is kept", () => {
  const reuse = { cache: { readThrough: true }, retry: false } as const
  const ask = { prompt, schema: Report, temperature: 0 }

  it.effect("a bad answer is not cached; the repaired one is the answer to its own question", () =>
    Effect.gen(function*() {
      const { client, requests } = yield* setUp([answer(bad), answer(bad), answer(good)], reuse)
      yield* Effect.flip(client.generateObject(ask))
      const { response } = yield* client.generateObject(ask)
      assert.deepStrictEqual([response.source, (yield* requests).length], ["provider", 3])
      const again = yield* client.generateObject(ask)
      assert.deepStrictEqual([again.response.source, (yield* requests).length], ["cache", 3])
    }))

  it.effect("a stored bad answer is not given, fresh or stale", () =>
    Effect.gen(function*() {
      const other = yield* setUp([answer(good)])
      yield* other.client.generateObject(ask)
      const { responseFormat } = (yield* other.requests)[0]!.request
      // The same question as a plain request: its answer is good enough for that.
      const { client, requests } = yield* setUp([answer(bad), ScriptedProvider.overloaded, answer(good)], reuse)
      const plain = { prompt, temperature: 0, responseFormat }
      yield* client.complete(plain)
      assert.strictEqual((yield* client.complete(plain)).source, "cache")
      const failed = yield* Effect.flip(client.generateObject(ask))
      assert.strictEqual(failed._tag, "ProviderError")
      const { value } = yield* client.generateObject(ask)
      assert.deepStrictEqual([value.celsius, (yield* requests).length], [21, 3])
    }))

  it.effect("under a key it is one unit: callers at once share the value, later ones get the first that fits", () =>
    Effect.gen(function*() {
      const slow = { delay: "1 second" } as const
      const { client, requests } = yield* setUp([answer(bad, slow), answer(good, slow), answer("later")])
      const once = client.generateObject({ prompt, schema: Report, idempotencyKey: "k" })
      const both = yield* Effect.forkChild(Effect.all([once, once], { concurrency: 2 }))
      yield* TestClock.adjust("5 seconds")
      const values = (yield* Fiber.join(both)).map(({ value }) => value.celsius)
      const later = yield* once
      assert.deepStrictEqual([values, later.value.celsius, later.response.source], [[21, 21], 21, "replay"])
      assert.strictEqual((yield* requests).length, 2)
    }))

  it.effect("under a key a value that never came is asked for anew", () =>
    Effect.gen(function*() {
      const { client, requests } = yield* setUp([answer(bad), answer(bad), answer(good)])
      const once = client.generateObject({ prompt, schema: Report, idempotencyKey: "k" })
      yield* Effect.flip(once)
      assert.strictEqual((yield* once).value.celsius, 21)
      assert.strictEqual((yield* requests).length, 3)
    }))
})

describe("reading", () => {
  const cases: ReadonlyArray<readonly [string, string]> = [
    ["plain", good],
    ["with blanks", `\n  ${good}\n`],
    ["behind a byte order mark", `\ufeff${good}`],
    ["in a fence", `\`\`\`json\n${good}\n\`\`\``],
    ["in a fence without a name", `\`\`\`\n${good}\n\`\`\``]
  ]
  for (const [name, text] of cases) {
    it.effect(name, () =>
      Effect.gen(function*() {
        const { client } = yield* setUp([answer(text)])
        assert.deepStrictEqual((yield* client.generateObject({ prompt, schema: Report })).value, {
          city: "Berlin",
          celsius: 21
        })
      }))
  }

  it.effect("a fence that is never closed, with blank lines without end, holds nobody up", () =>
    Effect.gen(function*() {
      const { client } = yield* setUp([answer(`\`\`\`json${"\n".repeat(100_000)}`), answer(good)])
      const began = performance.now()
      assert.strictEqual((yield* client.generateObject({ prompt, schema: Report })).value.celsius, 21)
      assert.isBelow(performance.now() - began, 2000)
    }))

  it.effect("transformations are the schema's own", () =>
    Effect.gen(function*() {
      const { client } = yield* setUp([answer(`{"at":"2026-01-02T03:04:05.000Z","note":null}`)])
      const schema = Schema.Struct({ at: Schema.DateFromString, note: Schema.optionalKey(Schema.String) })
      const { value } = yield* client.generateObject({ prompt, schema })
      assert.deepStrictEqual(value, { at: new Date("2026-01-02T03:04:05.000Z") })
    }))

  it.effect("wrong settings are refused before anybody is asked", () =>
    Effect.gen(function*() {
      const { client, requests } = yield* setUp([])
      const wrong = yield* Effect.flip(client.generateObject({ prompt, schema: Report, repairs: -1 }))
      assert.deepInclude(fields(wrong), { _tag: "InvalidRequest", path: "repairs" })
      const none = yield* Effect.flip(client.generateObject({ prompt, schema: {} as typeof Report }))
      assert.deepInclude(fields(none), { _tag: "InvalidRequest", path: "schema" })
      assert.strictEqual((yield* requests).length, 0)
    }))
})

describe("vendors are asked in their own way", () => {
  const apiKey = Redacted.make("k")
  const usage = { input_tokens: 1, output_tokens: 1 }
  /** Vendors whose wire `FaultServer` does not speak: their answer with a text. */
  const spoken = {
    responses: (text: string) => ({
      id: "resp_1",
      object: "response",
      model: "m",
      status: "completed",
      output: [{
        id: "m",
        type: "message",
        role: "assistant",
        status: "completed",
        content: [{ type: "output_text", text }]
      }],
      usage
    }),
    gemini: (text: string) => ({
      candidates: [{ content: { role: "model", parts: [{ text }] }, finishReason: "STOP" }]
    }),
    ollama: (text: string) => ({
      model: "m",
      message: { role: "assistant", content: text },
      done: true,
      done_reason: "stop"
    })
  }
  const server = (texts: ReadonlyArray<string>, say: (text: string) => object) =>
    Effect.acquireRelease(
      Effect.callback<{ readonly url: string; readonly bodies: Array<string>; readonly close: () => void }>(
        (resume) => {
          const bodies: Array<string> = []
          const left = [...texts]
          const http = createServer((request, response) => {
            let body = ""
            request.on("data", (chunk) => body += chunk).on("end", () => {
              bodies.push(body)
              response.setHeader("content-type", "application/json")
              response.end(JSON.stringify(say(left.shift() ?? "")))
            })
          })
          http.listen(0, "127.0.0.1", () => {
            const { port } = http.address() as AddressInfo
            resume(Effect.succeed({
              url: `http://127.0.0.1:${port}`,
              bodies,
              close: () => {
                http.closeAllConnections()
                http.close()
              }
            }))
          })
        }
      ),
      ({ close }) => Effect.sync(close)
    )

  interface World {
    readonly provider: LlmProvider.LlmProvider
    readonly bodies: Effect.Effect<ReadonlyArray<string>>
  }
  const faulty = (
    make: (server: FaultServer.FaultServer) => Effect.Effect<LlmProvider.LlmProvider, unknown, HttpClient.HttpClient>
  ) =>
  (texts: ReadonlyArray<string>) =>
    Effect.gen(function*() {
      const server = yield* FaultServer.make()
      yield* server.play(...texts.map((text) => FaultServer.ok({ text })))
      const bodies = Effect.map(server.requests, (requests) => requests.map(({ body }) => JSON.stringify(body)))
      return { provider: yield* make(server), bodies } satisfies World
    })
  const own = (
    say: (text: string) => object,
    make: (url: string) => Effect.Effect<LlmProvider.LlmProvider, unknown, HttpClient.HttpClient>
  ) =>
  (texts: ReadonlyArray<string>) =>
    Effect.gen(function*() {
      const { bodies, url } = yield* server(texts, say)
      return { provider: yield* make(url), bodies: Effect.sync(() => bodies) } satisfies World
    })

  const credentials = Effect.succeed({ accessKeyId: "a", secretAccessKey: Redacted.make("s") })
  const vendors = {
    openai: ["response_format", faulty((s) => OpenAi.make({ apiKey, baseUrl: s.openai }))],
    "openai, responses": [
      "text",
      own(spoken.responses, (baseUrl) => OpenAi.make({ apiKey, baseUrl, api: "responses" }))
    ],
    compatible: ["response_format", faulty((s) => OpenAiCompatible.make({ baseUrl: s.openai, defaultModel: "m" }))],
    anthropic: ["output_config", faulty((s) => Anthropic.make({ apiKey, baseUrl: s.anthropic }))],
    bedrock: [
      "outputConfig",
      faulty((s) => Bedrock.make({ region: "eu-central-1", credentials, baseUrl: s.bedrock, defaultModel: "m" }))
    ],
    cohere: ["response_format", faulty((s) => Cohere.make({ apiKey, baseUrl: s.cohere }))],
    gemini: ["generationConfig", own(spoken.gemini, (baseUrl) => Gemini.make({ apiKey, baseUrl }))],
    ollama: ["format", own(spoken.ollama, (baseUrl) => Ollama.make({ baseUrl, defaultModel: "m" }))]
  } as const

  for (const [name, [field, make]] of Object.entries(vendors)) {
    const world = (texts: ReadonlyArray<string>) =>
      Effect.gen(function*() {
        const { bodies, provider } = yield* make(texts)
        const layer = LlmClient.layerDynamic([provider], { retry: false })
        return { bodies, client: yield* Effect.provideContext(LlmClient, yield* Layer.build(layer)) }
      })
    const test = (what: string, body: Effect.Effect<void, unknown, HttpClient.HttpClient | Scope.Scope>) =>
      it.live(`${name}: ${what}`, () => Effect.provide(body, NodeHttpClient.layerUndici))

    test(
      "a value, after a repair",
      Effect.gen(function*() {
        const { bodies, client } = yield* world([bad, good])
        const { response, value } = yield* client.generateObject({ prompt, schema: Report })
        assert.deepStrictEqual(value, { city: "Berlin", celsius: 21 })
        assert.deepInclude(response.ledger.at(-1), { _tag: "CallEnded", attempts: 2 })
        const sent = yield* bodies
        assert.strictEqual(sent.length, 2)
        for (const body of sent) {
          // Bedrock takes the schema as a text.
          assert.include(JSON.stringify(JSON.parse(body)[field]).replaceAll("\\", ""), `"celsius":{"type":"number"`)
        }
        assert.notInclude(sent[0], "warm")
        assert.include(sent[1], "warm")
        assert.include(sent[1], "does not fit the JSON schema")
      })
    )

    test(
      "an answer that never fits is an InvalidOutput, and under a key it is not replayed",
      Effect.gen(function*() {
        const { bodies, client } = yield* world([bad, "I cannot.", good])
        const once = client.generateObject({ prompt, schema: Report, idempotencyKey: "report-1" })
        const error = yield* Effect.flip(once)
        assert.instanceOf(error, LlmError.InvalidOutput)
        assert.deepInclude(fields(error), { rule: "JSON", repairs: 1 })
        assert.strictEqual((yield* once).response.source, "provider")
        const again = yield* once
        assert.deepStrictEqual([again.value.celsius, again.response.source], [21, "replay"])
        assert.strictEqual((yield* bodies).length, 3)
      })
    )
  }
})

describe("tool calls", () => {
  const Weather = Tool.make("Weather", {
    parameters: Schema.Struct({ city: Schema.String, note: Schema.optionalKey(Schema.String) })
  }).annotate(Tool.Strict, true)
  const Sunrise = Tool.make("Sunrise", { parameters: Schema.Struct({ day: Schema.DateFromString }) })
  const toolkit = Toolkit.make(Weather, Sunrise)
  const calling = (...calls: ReadonlyArray<readonly [name: string, params: unknown]>) =>
    Effect.gen(function*() {
      const { client } = yield* setUp([
        answer([
          ...calls.map(([name, params], i) => ({ type: "tool-call" as const, id: `${i}`, name, params })),
          { type: "tool-call", id: "own", name: "web_search", params: {}, providerExecuted: true },
          { type: "finish", reason: "tool-calls", usage: { inputTokens: {}, outputTokens: {} } }
        ])
      ])
      return yield* client.complete({ prompt, tools: toolkit })
    })

  it.effect("are read by their tools, also what a strict schema writes in its own way", () =>
    Effect.gen(function*() {
      const response = yield* calling(["Weather", { city: "Rome", note: null }], ["Sunrise", { day: "2026-06-21" }])
      const calls = yield* LlmObject.toolCalls(response, toolkit)
      const told = calls.map((call) => call.name === "Sunrise" ? call.params.day.getUTCFullYear() : call.params.city)
      assert.deepStrictEqual(told satisfies ReadonlyArray<string | number>, ["Rome", 2026])
      assert.deepStrictEqual(calls[0], { id: "0", name: "Weather", params: { city: "Rome" } })
    }))

  it.effect("that do not fit are an InvalidOutput that says where", () =>
    Effect.gen(function*() {
      const wrong = yield* calling(["Weather", { city: "Rome" }], ["Weather", { city: 1 }])
      const error = yield* Effect.flip(LlmObject.toolCalls(wrong, toolkit))
      assert.deepInclude(fields(error), { path: "toolCalls[1].params.city", rule: "a text", kind: "a whole number" })
      const garbled = yield* calling(["Weather", "{"])
      const { path } = yield* Effect.flip(LlmObject.toolCalls(garbled, toolkit))
      assert.strictEqual(path, "toolCalls[0].params")
      const other = yield* calling(["Sunrise", { day: "2026-06-21" }])
      assert.strictEqual(
        (yield* Effect.flip(LlmObject.toolCalls(other, [Weather]))).message,
        "The answer from vendor is not what was asked for: \"toolCalls[0].name\" must be one of Weather, but is another name."
      )
    }))
})
