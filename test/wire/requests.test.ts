// What our adapters send is what the vendors' own SDKs send for the same question. The SDK's half is written in its
// published types, so the compiler checks every field, and both halves are compared as a server receives them.
import { assert, describe, it } from "@effect/vitest"
import * as LlmRequest from "effect-resilient-llm/LlmRequest"
import * as Adapters from "effect-resilient-llm/providers"
import { Ollama } from "effect-resilient-llm/providers/Ollama"
import * as Effect from "effect/Effect"
import { apiKey, connect, type Make, run, serve } from "../providers/support.ts"
import { anthropicCases } from "./requests.anthropic.ts"
import { cohereCases } from "./requests.cohere.ts"
import { openAiCases, responsesCases } from "./requests.openai.ts"
import { conversation, least, png, same, schema, structured } from "./requests.ts"

describe.each([
  ["OpenAI", openAiCases],
  ["OpenAI (responses)", responsesCases],
  ["Anthropic", anthropicCases],
  ["Cohere", cohereCases]
])("requests as the SDK of %s sends them", (_, cases) => {
  for (const one of cases) it.live(one.name, () => same(one))
})

// -----------------------------------------------------------------------------
// Gemini
// -----------------------------------------------------------------------------

// No SDK here: the fields of `GenerateContentRequest` (v1beta) that a request of ours can need, by its reference.
interface GeminiRequest {
  readonly contents: ReadonlyArray<{ readonly role: "user" | "model"; readonly parts: ReadonlyArray<GeminiPart> }>
  readonly systemInstruction?: { readonly parts: ReadonlyArray<{ readonly text: string }> }
  readonly tools?: ReadonlyArray<{
    readonly functionDeclarations: ReadonlyArray<{
      readonly name: string
      readonly description?: string
      readonly parametersJsonSchema?: object
    }>
  }>
  readonly toolConfig?: {
    readonly functionCallingConfig: {
      readonly mode: "AUTO" | "ANY" | "NONE"
      readonly allowedFunctionNames?: ReadonlyArray<string>
    }
  }
  readonly generationConfig?: {
    readonly maxOutputTokens?: number
    readonly temperature?: number
    readonly topP?: number
    readonly stopSequences?: ReadonlyArray<string>
    readonly seed?: number
    readonly responseMimeType?: "application/json"
    readonly responseJsonSchema?: object
  }
}
type GeminiPart =
  & { readonly thoughtSignature?: string; readonly thought?: boolean }
  & (
    | { readonly text: string }
    | { readonly inlineData: { readonly mimeType: string; readonly data: string } }
    | { readonly fileData: { readonly mimeType: string; readonly fileUri: string } }
    | { readonly functionCall: { readonly id?: string; readonly name: string; readonly args: object } }
    | { readonly functionResponse: { readonly id?: string; readonly name: string; readonly response: object } }
  )

const geminiContents = (ids: boolean): GeminiRequest["contents"] => {
  const id = (id: string) => ids ? { id } : undefined
  return [
    {
      role: "user",
      parts: [
        { text: "Grüezi 😀, what is this?" },
        { inlineData: { mimeType: "image/png", data: png } },
        { fileData: { mimeType: "image/jpeg", fileUri: "https://img.test/a.jpg" } }
      ]
    },
    {
      role: "model",
      parts: [
        { text: "Let me see." },
        { functionCall: { ...id("call_1"), name: "weather", args: { city: "Bern", maxDays: 2 } } },
        { functionCall: { ...id("call_2"), name: "clock", args: {} } }
      ]
    },
    {
      role: "user",
      parts: [
        { functionResponse: { ...id("call_1"), name: "weather", response: { degrees: 21 } } },
        { functionResponse: { ...id("call_2"), name: "clock", response: { error: "no clock" } } }
      ]
    },
    { role: "user", parts: [{ text: "And now?" }] }
  ]
}

const geminiConversation = (ids: boolean): GeminiRequest => ({
  contents: geminiContents(ids),
  systemInstruction: { parts: [{ text: "Be brief." }] },
  tools: [{
    functionDeclarations: [
      { name: "weather", description: "The weather", parametersJsonSchema: schema },
      { name: "clock", description: "The time", parametersJsonSchema: { type: "object", properties: {} } }
    ]
  }],
  toolConfig: { functionCallingConfig: { mode: "ANY" } },
  generationConfig: {
    maxOutputTokens: 100,
    temperature: 0.7,
    topP: 0.9,
    stopSequences: ["END", "STOP"],
    seed: 7
  }
})

// -----------------------------------------------------------------------------
// what a type cannot say
// -----------------------------------------------------------------------------

describe("required headers and fields", () => {
  const sent = (make: Make, streaming: boolean, input: LlmRequest.Input = least) =>
    Effect.gen(function*() {
      const transport = serve({ status: 400 })
      yield* run(yield* connect(make, transport), streaming, yield* LlmRequest.make(input))
      const { json, request } = transport.sent[0]!
      return { headers: request.headers, json, url: transport.sent[0]!.url }
    })

  it.effect("OpenAI", () =>
    Effect.gen(function*() {
      const { headers, json } = yield* sent(Adapters.OpenAi.make({ apiKey }), true, { ...least, maxTokens: 5 })
      assert.strictEqual(headers["authorization"], "Bearer test-key")
      assert.deepStrictEqual(json.stream_options, { include_usage: true }) // no usage in a stream without
      assert.deepStrictEqual([json.max_completion_tokens, json.max_tokens], [5, undefined]) // o-series refuse the old name
      const whole = yield* sent(Adapters.OpenAi.make({ apiKey }), false)
      assert.notProperty(whole.json, "stream_options") // refused without stream
    }))

  it.effect("Anthropic", () =>
    Effect.gen(function*() {
      const { headers, json } = yield* sent(Adapters.Anthropic.make({ apiKey }), true)
      assert.strictEqual(headers["x-api-key"], "test-key")
      assert.strictEqual(headers["anthropic-version"], "2023-06-01")
      assert.notProperty(headers, "authorization")
      assert.isAbove(json.max_tokens, 0)
    }))

  it.effect("Cohere", () =>
    Effect.gen(function*() {
      const { headers, json } = yield* sent(Adapters.Cohere.make({ apiKey }), false)
      assert.strictEqual(headers["authorization"], "Bearer test-key")
      assert.strictEqual(json.stream, false)
    }))

  it.effect("Gemini", () =>
    Effect.gen(function*() {
      const { headers, json, url } = yield* sent(Adapters.Gemini.make({ apiKey }), true, { ...conversation, seed: 7 })
      assert.strictEqual(headers["x-goog-api-key"], "test-key")
      assert.notProperty(headers, "authorization")
      const address = "https://generativelanguage.googleapis.com/v1beta/models"
      assert.strictEqual(url, `${address}/model-1:streamGenerateContent?alt=sse`) // a JSON list without
      assert.deepStrictEqual(json, geminiConversation(true))
      const whole = yield* sent(Adapters.Gemini.make({ apiKey }), false, structured)
      assert.strictEqual(whole.url, `${address}/model-1:generateContent`)
      const { generationConfig } = whole.json as GeminiRequest
      assert.strictEqual(generationConfig?.responseMimeType, "application/json")
      assert.deepStrictEqual(generationConfig?.responseJsonSchema, schema)
    }))

  it.effect("Gemini at Vertex AI", () =>
    Effect.gen(function*() {
      const vertex = { project: "p", location: "europe-west4", accessToken: apiKey }
      const { headers, json, url } = yield* sent(Adapters.Gemini.make({ vertex }), false, { ...conversation, seed: 7 })
      assert.strictEqual(headers["authorization"], "Bearer test-key")
      assert.notProperty(headers, "x-goog-api-key")
      const models = "projects/p/locations/europe-west4/publishers/google/models"
      assert.strictEqual(
        url,
        `https://europe-west4-aiplatform.googleapis.com/v1beta1/${models}/model-1:generateContent`
      )
      assert.deepStrictEqual(json, geminiConversation(false)) // it refuses ids of calls
    }))

  it.effect("Ollama", () =>
    Effect.gen(function*() {
      const { headers, json, url } = yield* sent(Ollama.make({}), false, { ...structured, seed: 7 })
      assert.notProperty(headers, "authorization")
      assert.strictEqual(url, "http://localhost:11434/api/chat")
      assert.deepStrictEqual(json, {
        model: "model-1",
        messages: [{ role: "user", content: "Where?" }],
        format: schema,
        options: { num_predict: 100, temperature: 0.7, top_p: 0.9, stop: ["END", "STOP"], seed: 7 },
        stream: false // it streams unless told
      })
      const hosted = yield* sent(Ollama.make({ apiKey, baseUrl: "https://ollama.com" }), false)
      assert.strictEqual(hosted.headers["authorization"], "Bearer test-key")
    }))
})
