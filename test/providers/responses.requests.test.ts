import { assert, describe, it } from "@effect/vitest"
import { ProviderError } from "effect-resilient-llm/LlmError"
import { OpenAi, OpenAiCompatible } from "effect-resilient-llm/providers"
import * as Effect from "effect/Effect"
import { compatible, make, reasoner } from "./responses.samples.ts"
import { apiKey, connect, type Make, sent, serve } from "./support.ts"

const schema = { type: "object", properties: { city: { type: "string" } }, required: ["city"] }

describe("responses: requests", () => {
  it.effect("every field", () =>
    Effect.gen(function*() {
      const { json, request, url } = yield* sent(make, {
        model: "model-1",
        prompt: [
          { role: "system", content: "Be brief." },
          { role: "system", content: "Be kind." },
          {
            role: "user",
            content: [
              { type: "text", text: "What is this?" },
              { type: "file", mediaType: "image/png", data: new Uint8Array([1, 2, 3]) },
              { type: "file", mediaType: "image/jpeg", data: new URL("https://img.test/a.jpg") },
              { type: "file", mediaType: "application/pdf", fileName: "a.pdf", data: "AQID" },
              { type: "file", mediaType: "application/pdf", data: new URL("https://files.test/b.pdf") }
            ]
          },
          {
            role: "assistant",
            content: [
              {
                type: "reasoning",
                text: "Hm",
                options: { openai: { itemId: "rs_1", encryptedContent: "sealed-1" } }
              },
              { type: "reasoning", text: "", options: { openai: { encryptedContent: "sealed-2" } } },
              { type: "reasoning", text: "Of another vendor", options: { anthropic: { signature: "sig" } } },
              { type: "text", text: "Let me see.", options: { openai: { phase: "commentary" } } },
              { type: "text", text: "" },
              { type: "tool-call", id: "call_1", name: "weather", params: { city: "Bern" } },
              { type: "tool-call", id: "call_2", name: "draw", params: {} },
              { type: "tool-call", id: "srv", name: "web_search", params: {}, providerExecuted: true }
            ]
          },
          {
            role: "tool",
            content: [
              { type: "tool-result", id: "call_1", name: "weather", isFailure: false, result: { degrees: 21 } },
              {
                type: "tool-result",
                id: "call_2",
                name: "draw",
                isFailure: false,
                result: 1,
                modelOutput: [{ type: "text", text: "see" }, { type: "file", mediaType: "image/png", data: "AQID" }]
              }
            ]
          },
          { role: "system", content: "Now in German." },
          { role: "user", content: "And now?" }
        ],
        maxTokens: 100,
        temperature: 1.5,
        topP: 0.9,
        stop: ["END"],
        seed: 7,
        tools: [
          { name: "weather", description: "The weather", parameters: schema, strict: true },
          { name: "draw", parameters: { type: "object", properties: {} } }
        ],
        toolChoice: { tool: "weather" },
        responseFormat: { type: "json", name: "answer", schema, strict: true },
        idempotencyKey: "key-1",
        tenant: "t",
        metadata: { a: "b" }
      }, true)
      assert.strictEqual(url, "https://api.openai.com/v1/responses")
      assert.strictEqual(request?.headers["authorization"], "Bearer test-key")
      assert.strictEqual(request?.headers["idempotency-key"], "key-1")
      assert.strictEqual(request?.headers["accept"], "text/event-stream")
      assert.deepStrictEqual(json, {
        model: "model-1",
        instructions: "Be brief.\n\nBe kind.",
        input: [
          {
            role: "user",
            content: [
              { type: "input_text", text: "What is this?" },
              { type: "input_image", image_url: "data:image/png;base64,AQID" },
              { type: "input_image", image_url: "https://img.test/a.jpg" },
              { type: "input_file", filename: "a.pdf", file_data: "data:application/pdf;base64,AQID" },
              { type: "input_file", file_url: "https://files.test/b.pdf" }
            ]
          },
          {
            type: "reasoning",
            id: "rs_1",
            summary: [{ type: "summary_text", text: "Hm" }],
            encrypted_content: "sealed-1"
          },
          { type: "reasoning", summary: [], encrypted_content: "sealed-2" },
          { role: "assistant", content: "Let me see.", phase: "commentary" },
          { type: "function_call", call_id: "call_1", name: "weather", arguments: "{\"city\":\"Bern\"}" },
          { type: "function_call", call_id: "call_2", name: "draw", arguments: "{}" },
          { type: "function_call_output", call_id: "call_1", output: "{\"degrees\":21}" },
          {
            type: "function_call_output",
            call_id: "call_2",
            output: [
              { type: "input_text", text: "see" },
              { type: "input_image", image_url: "data:image/png;base64,AQID" }
            ]
          },
          { role: "system", content: "Now in German." },
          { role: "user", content: "And now?" }
        ],
        max_output_tokens: 100,
        temperature: 1.5,
        top_p: 0.9,
        tools: [
          { type: "function", name: "weather", description: "The weather", parameters: schema, strict: true },
          { type: "function", name: "draw", parameters: { type: "object", properties: {} }, strict: false }
        ],
        tool_choice: { type: "function", name: "weather" },
        text: { format: { type: "json_schema", name: "answer", schema, strict: true } },
        store: false,
        stream: true
      })
    }))

  it.effect("the least, choices and formats", () =>
    Effect.gen(function*() {
      const least = { model: "gpt-4.1-mini", input: [{ role: "user", content: "Hi" }], store: false }
      assert.deepStrictEqual((yield* sent(make, "Hi")).json, least)
      const tools = [{ name: "f", parameters: { type: "object" } }]
      for (const toolChoice of ["auto", "none", "required"] as const) {
        const { json } = yield* sent(make, { prompt: "Hi", tools, toolChoice })
        assert.strictEqual(json.tool_choice, toolChoice)
      }
      const empty = yield* sent(make, { prompt: "Hi", tools: [], toolChoice: "auto", responseFormat: { type: "text" } })
      assert.deepStrictEqual(empty.json, least)
      const object = yield* sent(make, { prompt: "Hi", responseFormat: { type: "json" } })
      assert.deepStrictEqual(object.json.text, { format: { type: "json_object" } })
      const bare = yield* sent(make, { prompt: "Hi", responseFormat: { type: "json", schema } })
      assert.deepStrictEqual(bare.json.text, { format: { type: "json_schema", name: "response", schema } })
      const onlySystem = yield* sent(make, { prompt: [{ role: "system", content: "Speak." }] })
      assert.deepStrictEqual(onlySystem.json, { ...least, instructions: "Speak.", input: [] })
    }))

  it.effect("encrypted reasoning is asked for by option, of any server", () =>
    Effect.gen(function*() {
      assert.deepStrictEqual((yield* sent(reasoner, "Hi")).json.include, ["reasoning.encrypted_content"])
      assert.isUndefined((yield* sent(compatible, "Hi")).json.include)
      const other = OpenAiCompatible.make({
        baseUrl: "https://llm.test/v1?v=1",
        api: "responses",
        encryptedReasoning: true,
        apiKey,
        authHeader: "api-key",
        maxTokensField: "max_tokens" // belongs to the other API
      })
      const { json, request, url } = yield* sent(other, { prompt: "Hi", model: "m", maxTokens: 20 })
      assert.strictEqual(url, "https://llm.test/v1/responses?v=1")
      assert.strictEqual(request?.headers["api-key"], "test-key")
      assert.deepStrictEqual(json, {
        model: "m",
        input: [{ role: "user", content: "Hi" }],
        max_output_tokens: 20,
        include: ["reasoning.encrypted_content"],
        store: false
      })
    }))

  it.effect("audio fails before anything is sent", () =>
    Effect.gen(function*() {
      for (const streaming of [false, true]) {
        const { error, json } = yield* sent(make, {
          prompt: [{ role: "user", content: [{ type: "file", mediaType: "audio/wav", data: "AQID" }] }]
        }, streaming)
        assert.isUndefined(json)
        assert.instanceOf(error, ProviderError)
        assert.strictEqual(error.reason._tag, "InvalidRequest")
        assert.strictEqual(error.code, "unsupported_media_type")
      }
    }))

  it.effect("invalid options are named", () =>
    Effect.gen(function*() {
      const cases: ReadonlyArray<[Make, string]> = [
        [OpenAi.make({ apiKey, api: "SECRET" as never }), "openAi.api"],
        [OpenAi.make({ apiKey, encryptedReasoning: "SECRET" as never }), "openAi.encryptedReasoning"],
        [OpenAiCompatible.make({ baseUrl: "http://x", api: "SECRET" as never }), "openAiCompatible.api"],
        [OpenAiCompatible.make({ baseUrl: "http://x", seedField: "SECRET" as never }), "openAiCompatible.seedField"]
      ]
      for (const [make, path] of cases) {
        const error = yield* Effect.flip(connect(make, serve({})))
        assert.strictEqual(error.path, path)
        assert.notInclude(error.message, "SECRET")
      }
    }))
})
