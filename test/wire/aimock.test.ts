// A mock server that somebody else wrote reads the vendors' protocols as we do: each adapter talks to it over HTTP, whole
// and streamed.
import { LLMock } from "@copilotkit/aimock"
import { assert, describe, it } from "@effect/vitest"
import type { LlmRequest } from "effect-resilient-llm/LlmRequest"
import { Anthropic, Cohere, Gemini, OpenAi, OpenAiCompatible } from "effect-resilient-llm/providers"
import { Ollama } from "effect-resilient-llm/providers/Ollama"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as FetchHttpClient from "effect/http/FetchHttpClient"
import { apiKey, digest, type Make, run, wellFormed } from "../providers/support.ts"

/** `lacks`: what the mock does not say where this vendor says it. */
const adapters: ReadonlyArray<readonly [name: string, make: (url: string) => Make, lacks: ReadonlyArray<string>]> = [
  ["OpenAI", (url) => OpenAi.make({ apiKey, baseUrl: `${url}/v1` }), []],
  ["OpenAI responses", (url) => OpenAi.make({ apiKey, baseUrl: `${url}/v1`, api: "responses" }), ["length"]],
  ["a compatible server", (url) => OpenAiCompatible.make({ baseUrl: `${url}/v1`, defaultModel: "m" }), []],
  ["Anthropic", (url) => Anthropic.make({ apiKey, baseUrl: url }), []],
  ["Gemini", (url) => Gemini.make({ apiKey, baseUrl: url }), []],
  ["Cohere", (url) => Cohere.make({ apiKey, baseUrl: url }), ["reasoning"]],
  ["Ollama", (url) => Ollama.make({ baseUrl: url, defaultModel: "m" }), ["reasoning", "length"]]
]

const TEXT = "Grüezi, Welt 😀: the weather is fine."
const makeMock = Effect.acquireRelease(
  Effect.promise(async () => {
    const mock = new LLMock({ port: 0 })
    mock.onMessage("plain", { content: TEXT }, { chunkSize: 5 })
    mock.onMessage("thoughtful", { content: TEXT, reasoning: "Hm, let me see." }, { chunkSize: 5 })
    mock.onMessage("calling", {
      content: "I look.",
      toolCalls: [{ name: "weather", arguments: "{\"city\":\"Zürich\"}" }, {
        name: "weather",
        arguments: "{\"city\":\"Bern\"}"
      }]
    })
    mock.onMessage("long", { content: TEXT, finishReason: "length" })
    mock.onMessage("refused", {
      error: { message: "Rate limit reached for requests", type: "rate_limit_error", code: "rate_limit_exceeded" },
      status: 429,
      retryAfter: 7
    })
    mock.onMessage("cut", { content: TEXT }, { chunkSize: 5, truncateAfterChunks: 4 })
    await mock.start()
    return mock
  }),
  (mock) => Effect.promise(() => mock.stop())
)

const say = (text: string): LlmRequest => ({
  prompt: [{ role: "system", content: "Be brief." }, { role: "user", content: [{ type: "text", text }] }],
  tools: [{ name: "weather", description: "Tells it.", parameters: { type: "object", properties: {} } }]
})

describe.each(adapters)("%s against aimock", (_, make, lacks) => {
  const asked = (text: string, streaming: boolean) =>
    Effect.gen(function*() {
      const mock = yield* makeMock
      return yield* run(yield* make(mock.url), streaming, say(text))
    }).pipe(Effect.scoped, Effect.provide(FetchHttpClient.layer))

  for (const streaming of [false, true]) {
    const how = streaming ? "streamed" : "whole"
    it.live(`text and reasoning, ${how}`, () =>
      Effect.gen(function*() {
        const plain = yield* asked("plain", streaming)
        wellFormed(plain)
        assert.deepStrictEqual([digest(plain).text, digest(plain).finish?.reason], [TEXT, "stop"])
        if (lacks.includes("reasoning")) return
        const thoughtful = yield* asked("thoughtful", streaming)
        wellFormed(thoughtful)
        const { finish, reasoning, text } = digest(thoughtful)
        assert.deepStrictEqual([reasoning, text, finish?.reason], ["Hm, let me see.", TEXT, "stop"])
      }))

    it.live(`tool calls, ${how}`, () =>
      Effect.gen(function*() {
        const outcome = yield* asked("calling", streaming)
        wellFormed(outcome)
        const { finish, toolCalls } = digest(outcome)
        assert.deepStrictEqual(
          toolCalls.map(({ name, params }) => [name, params]),
          [["weather", { city: "Zürich" }], ["weather", { city: "Bern" }]]
        )
        assert.strictEqual(new Set(toolCalls.map(({ id }) => id)).size, 2)
        assert.strictEqual(finish?.reason, "tool-calls")
      }))

    it.live.skipIf(lacks.includes("length"))(`an answer without room, ${how}`, () =>
      Effect.gen(function*() {
        assert.strictEqual(digest(yield* asked("long", streaming)).finish?.reason, "length")
      }))

    it.live(`a refusal, ${how}`, () =>
      Effect.gen(function*() {
        const { error } = yield* asked("refused", streaming)
        assert.deepStrictEqual([error?.reason._tag, error?.status], ["RateLimit", 429])
        assert.strictEqual(error?.retryAfter === undefined ? undefined : Duration.toMillis(error.retryAfter), 7000)
      }))
  }

  it.live("a stream that is cut is no answer", () =>
    Effect.gen(function*() {
      const { error, parts } = yield* asked("cut", true)
      assert.isDefined(error)
      assert.isFalse(parts.some(({ type }) => type === "finish"))
    }))
})
