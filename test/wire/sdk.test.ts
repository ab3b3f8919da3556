// The vendors' own SDKs talk to our FaultServer and do not notice: what it sends is what the vendors send. Where an SDK
// lets a broken answer pass as a good one, a test pins it, because our adapters must not; see "what the SDKs let pass".
import Anthropic, { APIError as AnthropicError } from "@anthropic-ai/sdk"
import { assert, describe, it } from "@effect/vitest"
import { type Cohere, CohereClientV2, CohereError } from "cohere-ai"
import type { LlmProvider } from "effect-resilient-llm/LlmProvider"
import * as Adapters from "effect-resilient-llm/providers"
import { FaultServer } from "effect-resilient-llm/testing"
import * as Effect from "effect/Effect"
import * as FetchHttpClient from "effect/http/FetchHttpClient"
import OpenAI, { APIError as OpenAIError } from "openai"
import { apiKey, digest, run } from "../providers/support.ts"

/** An answer as a user of an SDK sees it. */
interface Seen {
  readonly text: string
  readonly reasoning?: string
  readonly calls: ReadonlyArray<{ readonly id: string; readonly name: string; readonly params: unknown }>
  readonly finish: string | null | undefined
  /** Total input, of it from the cache, total output. */
  readonly usage: readonly [number | undefined, number | undefined, number | undefined]
}

/** A failure as a user of an SDK sees it. */
interface Failed {
  readonly class: string
  readonly status: number | undefined
  readonly requestId: string | null | undefined
  readonly retryAfter: string | null | undefined
  /** The vendor's word or sentence for it. */
  readonly says: string | null | undefined
}

interface Sdk {
  readonly name: "openai" | "anthropic" | "cohere"
  readonly ask: (server: FaultServer.FaultServer, streaming: boolean) => Promise<Seen>
  readonly failed: (error: unknown) => Failed
  /** Our adapter for the same server. */
  readonly adapter: (server: FaultServer.FaultServer) => Effect.Effect<LlmProvider>
  readonly finish: { readonly stop: string; readonly length: string; readonly tools: string }
  readonly errors: ReadonlyArray<readonly [reason: FaultServer.ErrorReason, failed: Pick<Failed, "class" | "status">]>
}

const question = "How is the weather in Zürich?"
const parameters = { type: "object" as const, properties: { city: { type: "string" } } }

// -----------------------------------------------------------------------------
// OpenAI
// -----------------------------------------------------------------------------

const openAiClient = (server: FaultServer.FaultServer) =>
  new OpenAI({ apiKey: "sk-test", baseURL: server.openai, maxRetries: 0 })

const openAiRequest = {
  model: "gpt-4.1-mini",
  messages: [{ role: "user", content: question }],
  tools: [{ type: "function", function: { name: "weather", parameters } }]
} satisfies OpenAI.ChatCompletionCreateParams

const seenByOpenAi = ({ choices: [choice], usage }: OpenAI.ChatCompletion): Seen => ({
  text: choice?.message.content ?? "",
  calls: (choice?.message.tool_calls ?? []).flatMap((call) =>
    call.type === "function"
      ? [{ id: call.id, name: call.function.name, params: JSON.parse(call.function.arguments) }]
      : []
  ),
  finish: choice?.finish_reason,
  usage: [usage?.prompt_tokens, usage?.prompt_tokens_details?.cached_tokens, usage?.completion_tokens]
})

const openai: Sdk = {
  name: "openai",
  ask: async (server, streaming) => {
    const { chat } = openAiClient(server)
    return seenByOpenAi(
      streaming
        ? await chat.completions.stream({ ...openAiRequest, stream: true, stream_options: { include_usage: true } })
          .finalChatCompletion()
        : await chat.completions.create(openAiRequest)
    )
  },
  failed: (error) => {
    assert.instanceOf(error, OpenAIError)
    const { code, headers, requestID, status, type } = error
    const retryAfter = headers?.get("retry-after")
    return { class: error.constructor.name, status, requestId: requestID, retryAfter, says: code ?? type }
  },
  adapter: (server) =>
    Adapters.OpenAi.make({ apiKey, baseUrl: server.openai }).pipe(Effect.provide(FetchHttpClient.layer), Effect.orDie),
  finish: { stop: "stop", length: "length", tools: "tool_calls" },
  errors: [
    ["InvalidRequest", { class: "BadRequestError", status: 400 }],
    ["ContextLength", { class: "BadRequestError", status: 400 }],
    ["Authentication", { class: "AuthenticationError", status: 401 }],
    ["Permission", { class: "PermissionDeniedError", status: 403 }],
    ["NotFound", { class: "NotFoundError", status: 404 }],
    ["RateLimit", { class: "RateLimitError", status: 429 }],
    ["Quota", { class: "RateLimitError", status: 429 }],
    ["Server", { class: "InternalServerError", status: 500 }],
    ["Overloaded", { class: "InternalServerError", status: 503 }]
  ]
}

// -----------------------------------------------------------------------------
// Anthropic
// -----------------------------------------------------------------------------

const anthropicClient = (server: FaultServer.FaultServer) =>
  new Anthropic({ apiKey: "sk-test", baseURL: server.anthropic, maxRetries: 0 })

const anthropicRequest = {
  model: "claude-haiku-4-5",
  max_tokens: 100,
  messages: [{ role: "user", content: question }],
  tools: [{ name: "weather", input_schema: parameters }]
} satisfies Anthropic.MessageCreateParams

const anthropic: Sdk = {
  name: "anthropic",
  ask: async (server, streaming) => {
    const { messages } = anthropicClient(server)
    const message = streaming
      ? await messages.stream(anthropicRequest).finalMessage()
      : await messages.create(anthropicRequest)
    const { content, stop_reason, usage } = message
    const cached = usage.cache_read_input_tokens ?? 0
    return {
      text: content.map((block) => block.type === "text" ? block.text : "").join(""),
      reasoning: content.map((block) => block.type === "thinking" ? block.thinking : "").join(""),
      calls: content.flatMap((block) =>
        block.type === "tool_use" ? [{ id: block.id, name: block.name, params: block.input }] : []
      ),
      finish: stop_reason,
      usage: [usage.input_tokens + cached + (usage.cache_creation_input_tokens ?? 0), cached, usage.output_tokens]
    }
  },
  failed: (error) => {
    assert.instanceOf(error, AnthropicError)
    const { headers, requestID, status, type } = error
    const retryAfter = headers?.get("retry-after")
    return { class: error.constructor.name, status, requestId: requestID, retryAfter, says: type }
  },
  adapter: (server) =>
    Adapters.Anthropic.make({ apiKey, baseUrl: server.anthropic })
      .pipe(Effect.provide(FetchHttpClient.layer), Effect.orDie),
  finish: { stop: "end_turn", length: "max_tokens", tools: "tool_use" },
  errors: [
    ["InvalidRequest", { class: "BadRequestError", status: 400 }],
    ["ContextLength", { class: "BadRequestError", status: 400 }],
    ["Quota", { class: "BadRequestError", status: 400 }],
    ["Authentication", { class: "AuthenticationError", status: 401 }],
    ["Permission", { class: "PermissionDeniedError", status: 403 }],
    ["NotFound", { class: "NotFoundError", status: 404 }],
    ["RateLimit", { class: "RateLimitError", status: 429 }],
    ["Server", { class: "InternalServerError", status: 500 }],
    ["Overloaded", { class: "OverloadedError", status: 529 }]
  ]
}

// -----------------------------------------------------------------------------
// Cohere
// -----------------------------------------------------------------------------

const cohereClient = (server: FaultServer.FaultServer) =>
  new CohereClientV2({ token: "test", baseUrl: server.cohere, maxRetries: 0 })

const cohereRequest = {
  model: "command-a-03-2025",
  messages: [{ role: "user", content: question }],
  tools: [{ type: "function", function: { name: "weather", parameters } }]
} satisfies Cohere.V2ChatRequest

const usageOfCohere = (usage: Cohere.Usage | undefined): Seen["usage"] => [
  usage?.tokens?.inputTokens,
  usage?.cachedTokens,
  usage?.tokens?.outputTokens
]

/** Its stream has no accumulator, so this is what every user writes. */
const cohereStream = async (server: FaultServer.FaultServer): Promise<Seen> => {
  let text = ""
  let reasoning = ""
  const calls: Array<{ id: string; name: string; params: string }> = []
  let end: Cohere.ChatMessageEndEventDelta | undefined
  for await (const event of await cohereClient(server).chatStream(cohereRequest)) {
    if (event.type === "content-delta") {
      text += event.delta?.message?.content?.text ?? ""
      reasoning += event.delta?.message?.content?.thinking ?? ""
    } else if (event.type === "tool-call-start") {
      const call = event.delta?.message?.toolCalls
      calls.push({ id: call?.id ?? "", name: call?.function?.name ?? "", params: call?.function?.arguments ?? "" })
    } else if (event.type === "tool-call-delta") {
      calls[calls.length - 1]!.params += event.delta?.message?.toolCalls?.function?.arguments ?? ""
    } else if (event.type === "message-end") end = event.delta
  }
  return {
    text,
    reasoning,
    calls: calls.map(({ id, name, params }) => ({ id, name, params: JSON.parse(params) })),
    finish: end?.finishReason,
    usage: usageOfCohere(end?.usage)
  }
}

const cohere: Sdk = {
  name: "cohere",
  ask: async (server, streaming) => {
    if (streaming) return cohereStream(server)
    const { finishReason, message, usage } = await cohereClient(server).chat(cohereRequest)
    const content = message.content ?? []
    return {
      text: content.map((item) => item.type === "text" ? item.text : "").join(""),
      reasoning: content.map((item) => item.type === "thinking" ? item.thinking : "").join(""),
      calls: (message.toolCalls ?? []).map((call) => ({
        id: call.id,
        name: call.function?.name ?? "",
        params: JSON.parse(call.function?.arguments ?? "")
      })),
      finish: finishReason,
      usage: usageOfCohere(usage)
    }
  },
  failed: (error) => {
    assert.instanceOf(error, CohereError)
    const { body, rawResponse, statusCode } = error
    return {
      class: error.constructor.name,
      status: statusCode,
      requestId: rawResponse?.headers.get("x-debug-trace-id"),
      retryAfter: rawResponse?.headers.get("retry-after"),
      says: (body as { readonly message?: string } | undefined)?.message
    }
  },
  adapter: (server) =>
    Adapters.Cohere.make({ apiKey, baseUrl: server.cohere }).pipe(Effect.provide(FetchHttpClient.layer), Effect.orDie),
  finish: { stop: "COMPLETE", length: "MAX_TOKENS", tools: "TOOL_CALL" },
  errors: [
    ["InvalidRequest", { class: "BadRequestError", status: 400 }],
    ["ContextLength", { class: "BadRequestError", status: 400 }],
    ["Authentication", { class: "UnauthorizedError", status: 401 }],
    ["Permission", { class: "ForbiddenError", status: 403 }],
    ["NotFound", { class: "NotFoundError", status: 404 }],
    ["RateLimit", { class: "TooManyRequestsError", status: 429 }],
    ["Quota", { class: "TooManyRequestsError", status: 429 }],
    // Its name for 498, which the API sends when a filter blocks the input.
    ["ContentPolicy", { class: "InvalidTokenError", status: 498 }],
    ["Server", { class: "InternalServerError", status: 500 }],
    ["Overloaded", { class: "ServiceUnavailableError", status: 503 }]
  ]
}

// -----------------------------------------------------------------------------
// the same for all
// -----------------------------------------------------------------------------

const sdks: ReadonlyArray<Sdk> = [openai, anthropic, cohere]
const kinds = [["whole", false], ["streamed", true]] as const

const asked = (sdk: Sdk, server: FaultServer.FaultServer, streaming: boolean): Effect.Effect<Seen> =>
  Effect.promise(() => sdk.ask(server, streaming))

const failure = (sdk: Sdk, server: FaultServer.FaultServer, streaming: boolean): Effect.Effect<Failed> =>
  Effect.promise(() => sdk.ask(server, streaming).then(() => assert.fail("should have failed"), sdk.failed))

describe.each(sdks)("the SDK of $name", (sdk) => {
  describe.each(kinds)("%s", (_, streaming) => {
    it.live("text, with usage", () =>
      Effect.gen(function*() {
        const server = yield* FaultServer.make()
        yield* server.play(
          FaultServer.ok({
            text: "Grüezi 😀 — 你好",
            usage: { inputTokens: 12, cachedInputTokens: 5, outputTokens: 7 },
            chunkDelayMillis: 1
          }),
          FaultServer.ok({ text: "Cut", finish: "length", usage: { inputTokens: 3, outputTokens: 1 } }),
          FaultServer.slowFirstToken(30, { text: "Late", keepAliveMillis: 5 })
        )
        const seen = yield* asked(sdk, server, streaming)
        assert.deepStrictEqual([seen.text, seen.calls], ["Grüezi 😀 — 你好", []])
        assert.deepStrictEqual([seen.finish, seen.usage], [sdk.finish.stop, [12, 5, 7]])
        const cut = yield* asked(sdk, server, streaming)
        assert.deepStrictEqual([cut.text, cut.finish, cut.usage], ["Cut", sdk.finish.length, [3, 0, 1]])
        const late = yield* asked(sdk, server, streaming)
        assert.deepStrictEqual([late.text, late.finish], ["Late", sdk.finish.stop])
        assert.deepStrictEqual((yield* server.requests).map(({ dialect }) => dialect), [sdk.name, sdk.name, sdk.name])
      }))

    it.live("tools", () =>
      Effect.gen(function*() {
        const server = yield* FaultServer.make()
        const calls = [
          { id: "call_1", name: "weather", params: { city: "Zürich 😀", days: [1, 2] } },
          { id: "call_2", name: "clock", params: {} }
        ]
        yield* server.play(
          FaultServer.ok({ text: "Let me see.", toolCalls: calls }),
          FaultServer.ok({ toolCalls: calls })
        )
        const seen = yield* asked(sdk, server, streaming)
        assert.deepStrictEqual([seen.text, seen.finish], ["Let me see.", sdk.finish.tools])
        assert.deepStrictEqual(seen.calls, calls)
        assert.deepStrictEqual((yield* asked(sdk, server, streaming)).calls, calls)
      }))

    if (sdk.name !== "openai") { // its chat API shows no reasoning
      it.live("reasoning", () =>
        Effect.gen(function*() {
          const server = yield* FaultServer.make()
          yield* server.play(FaultServer.ok({ reasoning: "Let me think.", text: "Done." }))
          const { reasoning, text } = yield* asked(sdk, server, streaming)
          assert.deepStrictEqual([reasoning, text], ["Let me think.", "Done."])
        }))
    }

    it.live("errors, in its own classes, as our adapter reads them", () =>
      Effect.gen(function*() {
        const server = yield* FaultServer.make()
        const adapter = yield* sdk.adapter(server)
        for (const [reason, expected] of sdk.errors) {
          yield* server.always(FaultServer.error(reason, { retryAfter: 7 }))
          const seen = yield* failure(sdk, server, streaming)
          assert.deepStrictEqual({ class: seen.class, status: seen.status }, expected, reason)
          assert.strictEqual(seen.retryAfter, "7")
          assert.isString(seen.says, reason)
          assert.match(seen.requestId ?? "", /^[\w-]{20,}$/)
          const { error } = yield* run(adapter, streaming)
          assert.deepStrictEqual([error?.reason._tag, error?.status], [reason, expected.status])
          assert.match(error?.requestId ?? "", /^[\w-]{20,}$/)
        }
        assert.strictEqual((yield* server.stats).received, 2 * sdk.errors.length) // nobody retries
      }))

    it.live("a connection that breaks", () =>
      Effect.gen(function*() {
        const server = yield* FaultServer.make()
        for (const fault of [FaultServer.resetBeforeHeaders(), FaultServer.resetInBody({ afterChunks: 2 })]) {
          yield* server.always(fault)
          yield* Effect.flip(Effect.tryPromise(() => sdk.ask(server, streaming)))
        }
      }))
  })
})

describe("an error after HTTP 200", () => {
  it.live("the SDK of openai throws it", () =>
    Effect.gen(function*() {
      const server = yield* FaultServer.make()
      yield* server.play(FaultServer.errorEvent({ reason: "Overloaded", afterChunks: 2 }))
      const { requestId, says, status } = yield* failure(openai, server, true)
      assert.deepStrictEqual([status, says], [undefined, "server_is_overloaded"])
      assert.match(requestId ?? "", /^req_/)
    }))

  it.live("the SDK of anthropic throws it", () =>
    Effect.gen(function*() {
      const server = yield* FaultServer.make()
      yield* server.play(FaultServer.errorEvent({ reason: "Overloaded", afterChunks: 2 }))
      const { requestId, says, status } = yield* failure(anthropic, server, true)
      assert.deepStrictEqual([status, says], [undefined, "overloaded_error"])
      assert.match(requestId ?? "", /^req_/)
    }))

  it.live("the SDK of cohere does not: it is a finish reason", () =>
    Effect.gen(function*() {
      const server = yield* FaultServer.make()
      yield* server.play(FaultServer.errorEvent({ reason: "Overloaded", afterChunks: 2, text: "One two three" }))
      const { finish, text } = yield* asked(cohere, server, true)
      assert.deepStrictEqual([text, finish], ["One two", "ERROR"])
    }))
})

// Pinned for these versions of the SDKs. When one of them learns, its test fails and can go.
describe("what the SDKs let pass, and our adapters do not", () => {
  const compared = (sdk: Sdk, fault: FaultServer.Fault, ask: (server: FaultServer.FaultServer) => Promise<unknown>) =>
    Effect.gen(function*() {
      const server = yield* FaultServer.make()
      yield* server.always(fault)
      const seen = yield* Effect.promise(() => ask(server))
      const outcome = yield* run(yield* sdk.adapter(server), true)
      return { seen, ours: [digest(outcome).text, outcome.error?.reason._tag] }
    })

  /** All text of a plain loop over the chunks, as users write it. */
  const openAiLoop = async (server: FaultServer.FaultServer): Promise<string> => {
    let text = ""
    for await (const chunk of await openAiClient(server).chat.completions.create({ ...openAiRequest, stream: true })) {
      text += chunk.choices[0]?.delta.content ?? ""
    }
    return text
  }

  const anthropicLoop = async (server: FaultServer.FaultServer): Promise<string> => {
    let text = ""
    for await (const event of await anthropicClient(server).messages.create({ ...anthropicRequest, stream: true })) {
      if (event.type === "content_block_delta" && event.delta.type === "text_delta") text += event.delta.text
    }
    return text
  }

  const truncated = FaultServer.truncate({ text: "One two three", afterChunks: 2 })

  it.live("openai: a stream that ends without finish reason and [DONE]", () =>
    Effect.gen(function*() {
      const { ours, seen } = yield* compared(openai, truncated, openAiLoop)
      assert.deepStrictEqual(seen, "One two")
      assert.deepStrictEqual(ours, ["One two", "MalformedResponse"])
    }))

  it.live("openai: an empty body", () =>
    Effect.gen(function*() {
      const { ours, seen } = yield* compared(openai, FaultServer.emptyBody(), openAiLoop)
      assert.deepStrictEqual(seen, "")
      assert.deepStrictEqual(ours, ["", "MalformedResponse"])
    }))

  it.live("cohere: a stream that ends without message-end", () =>
    Effect.gen(function*() {
      const { ours, seen } = yield* compared(cohere, truncated, cohereStream)
      const nothing = { reasoning: "", calls: [], finish: undefined, usage: usageOfCohere(undefined) }
      assert.deepStrictEqual(seen, { text: "One two", ...nothing })
      assert.deepStrictEqual(ours, ["One two", "MalformedResponse"])
    }))

  it.live("anthropic: a stream that ends without message_stop, in a plain loop", () =>
    Effect.gen(function*() {
      const { ours, seen } = yield* compared(anthropic, truncated, anthropicLoop)
      assert.deepStrictEqual(seen, "One two")
      assert.deepStrictEqual(ours, ["One two", "MalformedResponse"])
    }))

  it.live("anthropic's accumulator lets neither pass", () =>
    Effect.gen(function*() {
      const server = yield* FaultServer.make()
      for (const fault of [truncated, FaultServer.emptyBody()]) {
        yield* server.always(fault)
        yield* Effect.flip(Effect.tryPromise(() => anthropic.ask(server, true)))
      }
    }))
})
