// Ollama's own API: what is sent, and what whole and streamed answers decode to.
import { assert, describe, it } from "@effect/vitest"
import { ProviderError, type Reason, TRUNCATED } from "effect-resilient-llm/LlmError"
import * as LlmRequest from "effect-resilient-llm/LlmRequest"
import { fromAnswer } from "effect-resilient-llm/LlmResponse"
import { Ollama } from "effect-resilient-llm/providers/Ollama"
import * as ConfigProvider from "effect/ConfigProvider"
import * as Effect from "effect/Effect"
import * as HttpClient from "effect/http/HttpClient"
import * as Layer from "effect/Layer"
import * as Stream from "effect/Stream"
import {
  apiKey,
  connect,
  digest,
  hash,
  type Outcome,
  play,
  randomChunks,
  seeded,
  serve,
  withInvented
} from "./support.ts"

const make = Ollama.make({ defaultModel: "m" })
const headers = { "content-type": "application/x-ndjson" }
const bytes = (text: string) => new TextEncoder().encode(text)
const lines = (events: ReadonlyArray<object>, end = "\n"): string =>
  events.map((event) => JSON.stringify(event) + end).join("")

const problem = (outcome: Outcome): string | undefined =>
  outcome.error?.reason._tag === "MalformedResponse" ? outcome.error.reason.problem : outcome.error?.reason._tag

const sent = (input: string | LlmRequest.Input, streaming = false, options = {}) =>
  Effect.gen(function*() {
    const transport = serve({ status: 400 })
    const provider = yield* connect(Ollama.make({ defaultModel: "m", ...options }), transport)
    const request = yield* LlmRequest.make(input)
    const error = yield* Effect.flip(streaming ? Stream.runDrain(provider.stream(request)) : provider.generate(request))
    return { error, ...transport.sent[0] }
  })

const schema = { type: "object", properties: { city: { type: "string" } } }
const tools = [{ name: "weather", description: "The weather", parameters: schema, strict: true }, {
  name: "clock",
  parameters: { type: "object" }
}]

describe("Ollama: requests", () => {
  it.effect("every field", () =>
    Effect.gen(function*() {
      const { json, request, url } = yield* sent(
        {
          model: "model-1",
          prompt: [
            { role: "system", content: "Be brief." },
            {
              role: "user",
              content: [
                { type: "text", text: "What is this?" },
                { type: "file", mediaType: "image/png", data: new Uint8Array([1, 2, 3]) }
              ]
            },
            {
              role: "assistant",
              content: [
                { type: "reasoning", text: "Hm" },
                { type: "text", text: "Let me see." },
                { type: "tool-call", id: "call_1", name: "weather", params: { city: "Bern" } },
                { type: "tool-call", id: "srv", name: "search", params: {}, providerExecuted: true }
              ]
            },
            {
              role: "tool",
              content: [{
                type: "tool-result",
                id: "call_1",
                name: "weather",
                isFailure: false,
                result: { degrees: 21 }
              }]
            },
            { role: "user", content: "And now?" }
          ],
          maxTokens: 100,
          temperature: 1.5,
          topP: 0.9,
          stop: ["END"],
          seed: 7,
          tools,
          toolChoice: { tool: "weather" },
          responseFormat: { type: "json", name: "answer", schema, strict: true }
        },
        true,
        { apiKey, baseUrl: "https://ollama.test/" }
      )
      assert.strictEqual(url, "https://ollama.test/api/chat")
      assert.strictEqual(request?.headers["authorization"], "Bearer test-key")
      assert.deepStrictEqual(json, {
        model: "model-1",
        messages: [
          { role: "system", content: "Be brief." },
          { role: "user", content: "What is this?", images: ["AQID"] },
          {
            role: "assistant",
            content: "Let me see.",
            tool_calls: [{ id: "call_1", function: { name: "weather", arguments: { city: "Bern" } } }]
          },
          { role: "tool", tool_name: "weather", tool_call_id: "call_1", content: "{\"degrees\":21}" },
          { role: "user", content: "And now?" }
        ],
        tools: [{ type: "function", function: { name: "weather", description: "The weather", parameters: schema } }],
        format: schema,
        options: { num_predict: 100, temperature: 1.5, top_p: 0.9, stop: ["END"], seed: 7 },
        stream: true
      })
    }))

  it.effect("the least, and tools that must not be called", () =>
    Effect.gen(function*() {
      const least = { model: "m", messages: [{ role: "user", content: "Hi" }], stream: false }
      const { json, request, url } = yield* sent("Hi")
      assert.strictEqual(url, "http://localhost:11434/api/chat")
      assert.isUndefined(request?.headers["authorization"])
      assert.deepStrictEqual(json, least)
      assert.deepStrictEqual((yield* sent({ prompt: "Hi", tools, toolChoice: "none" })).json, least)
      assert.strictEqual((yield* sent({ prompt: "Hi", tools, toolChoice: "auto" })).json.tools.length, 2)
      const object = yield* sent({ prompt: "Hi", responseFormat: { type: "json" } })
      assert.deepStrictEqual(object.json, { ...least, format: "json" })
    }))

  it.effect("a file it cannot take fails before anything is sent", () =>
    Effect.gen(function*() {
      for (
        const [mediaType, data, code] of [
          ["application/pdf", "AQID", "unsupported_media_type"],
          ["image/png", "https://img.test/a.png", "unsupported_file_url"]
        ] as const
      ) {
        const { error, json } = yield* sent({
          prompt: [{ role: "user", content: [{ type: "file", mediaType, data }] }]
        })
        assert.isUndefined(json)
        assert.instanceOf(error, ProviderError)
        assert.strictEqual(error.code, code)
      }
    }))

  it.effect("layerConfig reads its variables", () =>
    Effect.gen(function*() {
      const transport = serve({ status: 400 })
      const variables = { OLLAMA_BASE_URL: "http://ollama.test:1", OLLAMA_API_KEY: "key-1", OLLAMA_MODEL: "qwen3" }
      const provider = yield* Ollama.pipe(Effect.provide(
        Ollama.layerConfig().pipe(
          Layer.provide(Layer.succeed(HttpClient.HttpClient, transport.client)),
          Layer.provide(ConfigProvider.layer(ConfigProvider.fromEnvRecord(variables)))
        )
      ))
      yield* Effect.flip(provider.generate({ prompt: [{ role: "user", content: "Hi" }] }))
      assert.strictEqual(provider.id, "ollama")
      assert.strictEqual(transport.sent[0]!.url, "http://ollama.test:1/api/chat")
      assert.strictEqual(transport.sent[0]!.json.model, "qwen3")
      assert.strictEqual(transport.sent[0]!.request.headers["authorization"], "Bearer key-1")
    }))
})

const weather = { id: "call_2k7r", function: { index: 0, name: "weather", arguments: { city: "Zürich 😀" } } }
const clock = { function: { name: "clock", arguments: {} } }
const end = { model: "m-1", done: true, done_reason: "stop", prompt_eval_count: 10, eval_count: 7, total_duration: 9 }
const whole = JSON.stringify({
  ...end,
  message: { role: "assistant", thinking: "Hm", content: "Grüezi 😀", tool_calls: [weather, clock] }
})
const say = (message: object) => ({ model: "m-1", message: { role: "assistant", ...message }, done: false })
const events = [
  say({ content: "", thinking: "H" }),
  say({ thinking: "m" }),
  say({ content: "Grüezi " }),
  say({ content: "😀" }),
  say({ content: "", tool_calls: [weather] }),
  say({ content: "", tool_calls: [clock] }),
  { ...end, message: { role: "assistant", content: "" } }
]
const content = [
  { type: "reasoning", text: "Hm" },
  { type: "text", text: "Grüezi 😀" },
  { type: "tool-call", id: "call_2k7r", name: "weather", params: { city: "Zürich 😀" } },
  { type: "tool-call", id: "invented_0", name: "clock", params: {} }
]
const answer = (outcome: Outcome) =>
  fromAnswer(
    { parts: withInvented(outcome.parts) as never, target: "t", provider: "p" },
    "provider",
    0,
    { events: [] } as never
  )

describe("Ollama: answers", () => {
  for (
    const [name, body] of [["whole", whole], ["lines", lines(events)], ["CRLF", lines(events, "\r\n\r\n")]] as const
  ) {
    const streaming = name !== "whole"
    it.effect(`${name}: decodes, and cut at any byte gives a typed result`, () =>
      Effect.gen(function*() {
        const random = seeded(hash(name))
        const check = (outcome: Outcome): void => {
          assert.strictEqual(outcome.error, undefined)
          const got = answer(outcome)
          assert.deepStrictEqual(got.content, content as never)
          assert.strictEqual(got.finishReason, "tool-calls")
          assert.strictEqual(got.model, "m-1")
          assert.deepStrictEqual(got.usage, { inputTokens: { total: 10 }, outputTokens: { total: 7 } })
        }
        for (let round = 0; round < 10; round++) {
          check(
            yield* play(make, { headers: streaming ? headers : {}, body: randomChunks(bytes(body), random) }, streaming)
          )
        }
        const all = bytes(body)
        for (let length = 1; length < all.length; length += 5) {
          const cut = [Uint8Array.from(all.subarray(0, length))]
          const outcome = yield* play(make, { headers: streaming ? headers : {}, body: cut }, streaming)
          if (outcome.error === undefined) check(outcome) // only line ends are missing
          else {
            assert.strictEqual(outcome.error.reason._tag, "MalformedResponse")
            if (streaming) assert.strictEqual(problem(outcome), TRUNCATED)
            assert.deepStrictEqual(digest(outcome).toolCalls, [])
          }
        }
      }))
  }

  it.effect("finish reasons, and usage that is not told", () =>
    Effect.gen(function*() {
      for (const [told, reason] of [["stop", "stop"], ["length", "length"], ["load", "other"], [null, "unknown"]]) {
        const body = { message: { content: "Hi" }, done: true, done_reason: told }
        const one = yield* play(make, { body: JSON.stringify(body) }, false)
        const two = yield* play(make, { headers, body: lines([body]) }, true)
        for (const outcome of [one, two]) {
          assert.strictEqual(digest(outcome).text, "Hi")
          assert.strictEqual(digest(outcome).finish?.reason, reason)
          assert.deepStrictEqual(digest(outcome).finish?.usage, { inputTokens: {}, outputTokens: {} })
        }
      }
    }))

  it.effect("errors, before and inside an answer", () =>
    Effect.gen(function*() {
      const cases: ReadonlyArray<[number, string, Reason["_tag"]]> = [
        [404, "model 'x' not found, try pulling it first", "NotFound"],
        [503, "server busy, please try again. maximum pending requests exceeded", "Overloaded"],
        [500, "llama runner process has terminated", "Server"],
        [401, "unauthorized", "Authentication"],
        [200, "an error was encountered while running the model", "Server"]
      ]
      for (const [status, error, tag] of cases) {
        const { error: got } = yield* play(make, { status, body: JSON.stringify({ error }) }, false)
        assert.strictEqual(got?.reason._tag, tag)
        assert.notInclude(got?.message ?? "", error)
      }
      const inside = yield* play(make, { headers, body: lines([events[2]!, { error: "stopped" }]) }, true)
      assert.strictEqual(digest(inside).text, "Grüezi ")
      assert.strictEqual(problem(inside), "Server")
      const junk = yield* play(make, { headers, body: `${lines([events[2]!])}<html>\n` }, true)
      assert.strictEqual(problem(junk), "an event of the stream is not JSON")
    }))

  it.effect("a line longer than allowed is refused", () =>
    Effect.gen(function*() {
      const small = Ollama.make({ defaultModel: "m", maxBodyBytes: 1024 })
      const body = lines([say({ content: "Hi" }), say({ content: "x".repeat(2000) }), end])
      const random = seeded(1)
      for (const chunks of [[body], randomChunks(bytes(body), random)]) {
        const outcome = yield* play(small, { headers, body: chunks }, true)
        assert.strictEqual(problem(outcome), "the body, or one event of it, is larger than allowed")
      }
    }))
})
