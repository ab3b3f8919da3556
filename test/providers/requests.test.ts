import { assert, describe, it } from "@effect/vitest"
import type * as LlmRequest from "effect-resilient-llm/LlmRequest"
import { Anthropic, Cohere, OpenAi, OpenAiCompatible } from "effect-resilient-llm/providers"
import * as Effect from "effect/Effect"
import * as Redacted from "effect/Redacted"
import * as Stream from "effect/Stream"
import { anthropic, cohere, compatible, openAi } from "./samples.ts"
import { apiKey, ask, connect, type Make, sent, serve } from "./support.ts"

const schema = { type: "object", properties: { city: { type: "string" } }, required: ["city"] }

const everything: LlmRequest.Input = {
  model: "model-1",
  prompt: [
    { role: "system", content: "Be brief." },
    {
      role: "user",
      content: [
        { type: "text", text: "What is this?" },
        { type: "file", mediaType: "image/png", data: new Uint8Array([1, 2, 3]) },
        { type: "file", mediaType: "image/jpeg", data: new URL("https://img.test/a.jpg") }
      ]
    },
    {
      role: "assistant",
      content: [
        { type: "reasoning", text: "Hm", options: { anthropic: { signature: "sig" }, cohere: { toolPlan: true } } },
        { type: "reasoning", text: "Not signed" },
        { type: "text", text: "Let me see." },
        { type: "tool-call", id: "call_1", name: "weather", params: { city: "Bern" } },
        { type: "tool-call", id: "call_2", name: "clock", params: {} },
        { type: "tool-call", id: "srv", name: "web_search", params: {}, providerExecuted: true }
      ]
    },
    {
      role: "tool",
      content: [
        { type: "tool-result", id: "call_1", name: "weather", isFailure: false, result: { degrees: 21 } },
        { type: "tool-result", id: "call_2", name: "clock", isFailure: true, result: "no clock" }
      ]
    },
    { role: "user", content: "And now?" }
  ],
  maxTokens: 100,
  temperature: 1.5,
  topP: 0.9,
  stop: ["END"],
  seed: 7,
  tools: [
    { name: "weather", description: "The weather", parameters: schema, strict: true },
    { name: "clock", parameters: { type: "object", properties: {} } }
  ],
  toolChoice: { tool: "weather" },
  responseFormat: { type: "json", name: "answer", schema, strict: true },
  idempotencyKey: "key-1",
  tenant: "t",
  cache: "never",
  metadata: { a: "b" },
  deadline: "1 minute"
}

const functions = (strict: boolean) => [
  {
    type: "function",
    function: {
      name: "weather",
      description: "The weather",
      parameters: schema,
      ...(strict ? { strict: true } : undefined)
    }
  },
  { type: "function", function: { name: "clock", parameters: { type: "object", properties: {} } } }
]
const calls = [
  { id: "call_1", type: "function", function: { name: "weather", arguments: "{\"city\":\"Bern\"}" } },
  { id: "call_2", type: "function", function: { name: "clock", arguments: "{}" } }
]
const images = [
  { type: "text", text: "What is this?" },
  { type: "image_url", image_url: { url: "data:image/png;base64,AQID" } },
  { type: "image_url", image_url: { url: "https://img.test/a.jpg" } }
]
const results = [
  { role: "tool", tool_call_id: "call_1", content: "{\"degrees\":21}" },
  { role: "tool", tool_call_id: "call_2", content: "no clock" }
]
const chat = {
  model: "model-1",
  messages: [
    { role: "system", content: "Be brief." },
    { role: "user", content: images },
    { role: "assistant", content: "Let me see.", tool_calls: calls },
    ...results,
    { role: "user", content: "And now?" }
  ],
  temperature: 1.5,
  top_p: 0.9,
  stop: ["END"],
  seed: 7,
  tools: functions(true),
  tool_choice: { type: "function", function: { name: "weather" } },
  response_format: { type: "json_schema", json_schema: { name: "answer", schema, strict: true } }
}

describe("requests", () => {
  it.effect("OpenAI: every field", () =>
    Effect.gen(function*() {
      const { json, request, url } = yield* sent(openAi, everything, true)
      assert.strictEqual(url, "https://api.openai.com/v1/chat/completions")
      assert.strictEqual(request.method, "POST")
      assert.deepStrictEqual({ ...request.headers }, {
        accept: "text/event-stream",
        "accept-encoding": "identity",
        authorization: "Bearer test-key",
        "content-length": request.headers["content-length"],
        "content-type": "application/json",
        "idempotency-key": "key-1"
      })
      assert.deepStrictEqual(json, {
        ...chat,
        max_completion_tokens: 100,
        stream: true,
        stream_options: { include_usage: true }
      })
    }))

  it.effect("OpenAI: the least", () =>
    Effect.gen(function*() {
      const { json, request } = yield* sent(openAi, "Hi")
      assert.deepStrictEqual(json, { model: "gpt-4.1-mini", messages: [{ role: "user", content: "Hi" }] })
      assert.strictEqual(request.headers["accept"], "application/json")
      assert.isUndefined(request.headers["idempotency-key"])
      const list = yield* sent(openAi, {
        prompt: "Hi",
        tools: [],
        toolChoice: "required",
        stop: [],
        responseFormat: { type: "json" }
      })
      assert.deepStrictEqual(list.json, {
        model: "gpt-4.1-mini",
        messages: [{ role: "user", content: "Hi" }],
        response_format: { type: "json_object" }
      })
    }))

  it.effect("OpenAI: organisation, project, own headers and address", () =>
    Effect.gen(function*() {
      const make = OpenAi.make({
        apiKey: Redacted.make(" test-key\n"),
        organization: "org-1",
        project: "proj-1",
        headers: { "X-Gateway": Redacted.make("secret"), "x-title": "app" },
        baseUrl: "https://gateway.test/openai/?api-version=2024-10-21"
      })
      const { request, url } = yield* sent(make, "Hi")
      assert.strictEqual(url, "https://gateway.test/openai/chat/completions?api-version=2024-10-21")
      assert.strictEqual(request.headers["authorization"], "Bearer test-key")
      assert.strictEqual(request.headers["openai-organization"], "org-1")
      assert.strictEqual(request.headers["openai-project"], "proj-1")
      assert.strictEqual(request.headers["x-gateway"], "secret")
      assert.strictEqual(request.headers["x-title"], "app")
    }))

  it.effect("OpenAI: files", () =>
    Effect.gen(function*() {
      const content = (mediaType: string, data: string, fileName?: string) =>
        Effect.map(
          sent(openAi, { prompt: [{ role: "user", content: [{ type: "file", mediaType, data, fileName }] }] }),
          ({ json }) => json.messages[0].content[0]
        )
      assert.deepStrictEqual(yield* content("image/*", "AQID"), {
        type: "image_url",
        image_url: { url: "data:image/jpeg;base64,AQID" }
      })
      assert.deepStrictEqual(yield* content("image/gif", "data:image/gif;base64,AQID"), {
        type: "image_url",
        image_url: { url: "data:image/gif;base64,AQID" }
      })
      assert.deepStrictEqual(yield* content("audio/mpeg", "AQID"), {
        type: "input_audio",
        input_audio: { data: "AQID", format: "mp3" }
      })
      assert.deepStrictEqual(yield* content("application/pdf", "AQID", "a.pdf"), {
        type: "file",
        file: { filename: "a.pdf", file_data: "data:application/pdf;base64,AQID" }
      })
    }))

  it.effect("a file that a vendor cannot take fails before anything is sent", () =>
    Effect.gen(function*() {
      const prompt = (mediaType: string, data: string): LlmRequest.LlmRequest => ({
        prompt: [{ role: "user", content: [{ type: "file", mediaType, data }] }]
      })
      const cases: ReadonlyArray<[Make, LlmRequest.LlmRequest]> = [
        [openAi, prompt("application/pdf", "https://files.test/a.pdf")],
        [compatible, prompt("audio/wav", "https://files.test/a.wav")],
        [anthropic, prompt("audio/wav", "AQID")],
        [cohere, prompt("application/pdf", "AQID")]
      ]
      for (const [make, request] of cases) {
        const transport = serve({})
        const provider = yield* connect(make, transport)
        for (const call of [provider.generate(request), Stream.runDrain(provider.stream(request))]) {
          const error = yield* Effect.flip(call as Effect.Effect<unknown, any>)
          assert.strictEqual(error.reason._tag, "InvalidRequest")
          assert.isString(error.code)
        }
        assert.deepStrictEqual(transport.sent, [])
      }
    }))

  it.effect("compatible servers: every field, and its dialect", () =>
    Effect.gen(function*() {
      const { json, url } = yield* sent(compatible, everything, true)
      assert.strictEqual(url, "https://llm.test/v1/chat/completions")
      assert.deepStrictEqual(json, { ...chat, max_tokens: 100, stream: true, stream_options: { include_usage: true } })

      const azure = OpenAiCompatible.make({
        baseUrl: "https://res.openai.azure.com/openai/v1",
        apiKey,
        authHeader: "api-key",
        maxTokensField: "max_completion_tokens",
        streamOptions: false
      })
      const other = yield* sent(azure, { prompt: "Hi", model: "m", maxTokens: 5 }, true)
      assert.deepStrictEqual(other.json, {
        model: "m",
        messages: [{ role: "user", content: "Hi" }],
        max_completion_tokens: 5,
        stream: true
      })
      assert.strictEqual(other.request.headers["api-key"], "test-key")
      assert.isUndefined(other.request.headers["authorization"])
    }))

  it.effect("Anthropic: every field", () =>
    Effect.gen(function*() {
      const { json, request, url } = yield* sent(anthropic, everything, true)
      assert.strictEqual(url, "https://api.anthropic.com/v1/messages")
      assert.strictEqual(request.headers["x-api-key"], "test-key")
      assert.strictEqual(request.headers["anthropic-version"], "2023-06-01")
      assert.isUndefined(request.headers["anthropic-beta"])
      assert.strictEqual(request.headers["idempotency-key"], "key-1")
      assert.deepStrictEqual(json, {
        model: "model-1",
        max_tokens: 100,
        system: [{ type: "text", text: "Be brief." }],
        messages: [
          {
            role: "user",
            content: [
              { type: "text", text: "What is this?" },
              { type: "image", source: { type: "base64", media_type: "image/png", data: "AQID" } },
              { type: "image", source: { type: "url", url: "https://img.test/a.jpg" } }
            ]
          },
          {
            role: "assistant",
            content: [
              { type: "thinking", thinking: "Hm", signature: "sig" },
              { type: "text", text: "Let me see." },
              { type: "tool_use", id: "call_1", name: "weather", input: { city: "Bern" } },
              { type: "tool_use", id: "call_2", name: "clock", input: {} }
            ]
          },
          {
            role: "user",
            content: [
              { type: "tool_result", tool_use_id: "call_1", content: "{\"degrees\":21}" },
              { type: "tool_result", tool_use_id: "call_2", content: "no clock", is_error: true },
              { type: "text", text: "And now?" }
            ]
          }
        ],
        temperature: 1,
        top_p: 0.9,
        stop_sequences: ["END"],
        tools: [
          { name: "weather", description: "The weather", input_schema: schema, strict: true },
          { name: "clock", input_schema: { type: "object", properties: {} } }
        ],
        tool_choice: { type: "tool", name: "weather" },
        output_config: { format: { type: "json_schema", schema } },
        stream: true
      })
    }))

  it.effect("Anthropic: the least, its options, and tool choices", () =>
    Effect.gen(function*() {
      const least = yield* sent(anthropic, "Hi")
      assert.deepStrictEqual(least.json, {
        model: "claude-haiku-4-5",
        max_tokens: 8192,
        messages: [{ role: "user", content: [{ type: "text", text: "Hi" }] }]
      })
      const make = Anthropic.make({
        apiKey,
        version: "2024-01-01",
        beta: ["a-1", "b-2"],
        maxTokens: 50,
        baseUrl: "https://proxy.test/"
      })
      const own = yield* sent(make, "Hi")
      assert.strictEqual(own.url, "https://proxy.test/v1/messages")
      assert.strictEqual(own.request.headers["anthropic-version"], "2024-01-01")
      assert.strictEqual(own.request.headers["anthropic-beta"], "a-1,b-2")
      assert.strictEqual(own.json.max_tokens, 50)
      const tools = [{ name: "f", parameters: { type: "object" } }]
      for (const [choice, type] of [["auto", "auto"], ["none", "none"], ["required", "any"]] as const) {
        const { json } = yield* sent(anthropic, { prompt: "Hi", tools, toolChoice: choice })
        assert.deepStrictEqual(json.tool_choice, { type })
      }
    }))

  it.effect("Anthropic: documents, cache marks and redacted thinking", () =>
    Effect.gen(function*() {
      const cacheControl = { anthropic: { cacheControl: { type: "ephemeral" } } }
      const { json } = yield* sent(anthropic, {
        prompt: [
          { role: "system", content: "Long", options: cacheControl },
          {
            role: "user",
            content: [{ type: "file", mediaType: "application/pdf", fileName: "a.pdf", data: "AQID" }, {
              type: "text",
              text: "Read"
            }],
            options: cacheControl
          },
          {
            role: "assistant",
            content: [{ type: "reasoning", text: "", options: { anthropic: { redactedData: "xyz" } } }, {
              type: "text",
              text: ""
            }],
            options: cacheControl // thinking takes no mark
          },
          {
            role: "tool",
            content: [{
              type: "tool-result",
              id: "c",
              name: "f",
              isFailure: false,
              result: 1,
              modelOutput: [{ type: "text", text: "see" }, { type: "file", mediaType: "image/png", data: "AQID" }]
            }]
          }
        ]
      })
      const mark = { cache_control: { type: "ephemeral" } }
      assert.deepStrictEqual(json.system, [{ type: "text", text: "Long", ...mark }])
      assert.deepStrictEqual(json.messages, [
        {
          role: "user",
          content: [
            {
              type: "document",
              source: { type: "base64", media_type: "application/pdf", data: "AQID" },
              title: "a.pdf"
            },
            { type: "text", text: "Read", ...mark }
          ]
        },
        { role: "assistant", content: [{ type: "redacted_thinking", data: "xyz" }] },
        {
          role: "user",
          content: [{
            type: "tool_result",
            tool_use_id: "c",
            content: [
              { type: "text", text: "see" },
              { type: "image", source: { type: "base64", media_type: "image/png", data: "AQID" } }
            ]
          }]
        }
      ])
    }))

  it.effect("Cohere: every field", () =>
    Effect.gen(function*() {
      const { json, request, url } = yield* sent(Cohere.make({ apiKey, clientName: "app" }), everything, true)
      assert.strictEqual(url, "https://api.cohere.com/v2/chat")
      assert.strictEqual(request.headers["authorization"], "Bearer test-key")
      assert.strictEqual(request.headers["x-client-name"], "app")
      assert.deepStrictEqual(json, {
        model: "model-1",
        messages: [
          { role: "system", content: "Be brief." },
          { role: "user", content: images },
          { role: "assistant", content: "Let me see.", tool_plan: "Hm", tool_calls: calls },
          ...results,
          { role: "user", content: "And now?" }
        ],
        max_tokens: 100,
        temperature: 1.5,
        p: 0.9,
        stop_sequences: ["END"],
        seed: 7,
        tools: functions(false).slice(0, 1),
        tool_choice: "REQUIRED",
        strict_tools: true,
        response_format: { type: "json_object", json_schema: schema },
        stream: true
      })
      const least = yield* sent(cohere, "Hi")
      assert.deepStrictEqual(least.json, {
        model: "command-a-03-2025",
        messages: [{ role: "user", content: "Hi" }],
        stream: false
      })
    }))

  it.effect("a media type that is the name of a property is no format of audio", () =>
    Effect.gen(function*() {
      const file = { type: "file", mediaType: "constructor", data: "AQID" } as const
      const { json } = yield* sent(openAi, { prompt: [{ role: "user", content: [file] }] })
      assert.notInclude(JSON.stringify(json), "input_audio")
    }))

  it.effect("P16 an idempotency key that no header can carry is escaped, and no two become one", () =>
    Effect.gen(function*() {
      const keys = [
        "a b\né",
        "a b",
        "a%20b",
        "a%2520b",
        "x".repeat(255),
        "x".repeat(256),
        "é".repeat(60),
        "\ud800",
        "\ud801"
      ]
      const headers: Array<string | undefined> = []
      for (const idempotencyKey of keys) {
        headers.push((yield* sent(openAi, { prompt: "Hi", idempotencyKey })).request.headers["idempotency-key"])
      }
      assert.deepStrictEqual(headers.slice(0, 5), ["a%20b%0A%C3%A9", "a%20b", "a%2520b", "a%252520b", "x".repeat(255)])
      for (const header of headers.slice(5)) assert.match(header!, /^[0-9a-f]{64}$/)
      assert.strictEqual(new Set(headers).size, keys.length)
    }))

  it.effect("a request without any model is invalid", () =>
    Effect.gen(function*() {
      const transport = serve({})
      const provider = yield* connect(OpenAiCompatible.make({ baseUrl: "https://llm.test/v1" }), transport)
      const error = yield* Effect.flip(provider.generate(ask))
      assert.strictEqual(error.reason._tag, "InvalidRequest")
      assert.strictEqual(error.code, "missing_model")
      assert.strictEqual(transport.sent.length, 0)
    }))

  it.effect("values that JSON cannot carry are invalid, not defects", () =>
    Effect.gen(function*() {
      const provider = yield* connect(openAi, serve({}))
      const error = yield* Effect.flip(provider.generate({
        prompt: [{ role: "assistant", content: [{ type: "tool-call", id: "c", name: "f", params: { big: 1n } }] }]
      }))
      assert.strictEqual(error.code, "not_serialisable")
    }))
})
