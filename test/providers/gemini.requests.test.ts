// What is sent to Gemini, from options and requests.
import { assert, describe, it } from "@effect/vitest"
import { LlmConfigError } from "effect-resilient-llm/LlmError"
import type { LlmProvider } from "effect-resilient-llm/LlmProvider"
import type * as LlmRequest from "effect-resilient-llm/LlmRequest"
import { Gemini } from "effect-resilient-llm/providers"
import * as Config from "effect/Config"
import * as ConfigProvider from "effect/ConfigProvider"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as HttpClient from "effect/http/HttpClient"
import * as Layer from "effect/Layer"
import * as Redacted from "effect/Redacted"
import * as Tracer from "effect/Tracer"
import { apiKey, ask, connect, type Make, run, sent, serve } from "./support.ts"

const token = Redacted.make("token")
const gemini = Gemini.make({ apiKey })
const vertex = Gemini.make({ vertex: { project: "my-project", location: "europe-west4", accessToken: token } })

const schema = { type: "object", properties: { city: { type: "string" } }, required: ["city"] }
const signed = (thoughtSignature: string) => ({ options: { google: { thoughtSignature } } })

const everything: LlmRequest.Input = {
  model: "model-1",
  prompt: [
    { role: "system", content: "Be brief." },
    { role: "system", content: "Be kind." },
    {
      role: "user",
      content: [
        { type: "text", text: "What is this?" },
        { type: "file", mediaType: "image/png", data: new Uint8Array([1, 2, 3]) },
        { type: "file", mediaType: "application/pdf", data: new URL("https://files.test/a.pdf") },
        { type: "file", mediaType: "video/mp4", data: "gs://bucket/a.mp4" }
      ]
    },
    {
      role: "assistant",
      content: [
        { type: "reasoning", text: "Hm", ...signed("dA==") },
        { type: "reasoning", text: "Not signed" },
        { type: "text", text: "Let me see.", ...signed("dB==") },
        { type: "text", text: "" },
        { type: "tool-call", id: "call_1", name: "weather", params: { city: "Bern" }, ...signed("dC==") },
        { type: "tool-call", id: "call_2", name: "clock", params: "{\"zone\":1}" },
        { type: "tool-call", id: "call_3", name: "clock", params: {} },
        { type: "tool-call", id: "srv", name: "web_search", params: {}, providerExecuted: true }
      ]
    },
    {
      role: "tool",
      content: [{ type: "tool-result", id: "call_1", name: "weather", isFailure: false, result: { degrees: 21 } }]
    },
    {
      role: "tool",
      content: [
        { type: "tool-result", id: "call_2", name: "clock", isFailure: true, result: "no clock" },
        { type: "tool-result", id: "call_3", name: "clock", isFailure: false, result: "noon" }
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
  idempotencyKey: "key-1"
}

/** The body of {@link everything}; `id` is what a call's id becomes. */
const body = (id: (id: string) => object) => ({
  contents: [
    {
      role: "user",
      parts: [
        { text: "What is this?" },
        { inlineData: { mimeType: "image/png", data: "AQID" } },
        { fileData: { mimeType: "application/pdf", fileUri: "https://files.test/a.pdf" } },
        { fileData: { mimeType: "video/mp4", fileUri: "gs://bucket/a.mp4" } }
      ]
    },
    {
      role: "model",
      parts: [
        { text: "Hm", thought: true, thoughtSignature: "dA==" },
        { text: "Let me see.", thoughtSignature: "dB==" },
        { functionCall: { ...id("call_1"), name: "weather", args: { city: "Bern" } }, thoughtSignature: "dC==" },
        { functionCall: { ...id("call_2"), name: "clock", args: { zone: 1 } } },
        { functionCall: { ...id("call_3"), name: "clock", args: {} } }
      ]
    },
    {
      role: "user",
      parts: [
        { functionResponse: { ...id("call_1"), name: "weather", response: { degrees: 21 } } },
        { functionResponse: { ...id("call_2"), name: "clock", response: { error: "no clock" } } },
        { functionResponse: { ...id("call_3"), name: "clock", response: { output: "noon" } } }
      ]
    },
    { role: "user", parts: [{ text: "And now?" }] }
  ],
  systemInstruction: { parts: [{ text: "Be brief." }, { text: "Be kind." }] },
  tools: [{
    functionDeclarations: [
      { name: "weather", description: "The weather", parametersJsonSchema: schema },
      { name: "clock", parametersJsonSchema: { type: "object", properties: {} } }
    ]
  }],
  toolConfig: { functionCallingConfig: { mode: "ANY", allowedFunctionNames: ["weather"] } },
  generationConfig: {
    maxOutputTokens: 100,
    temperature: 1.5,
    topP: 0.9,
    stopSequences: ["END"],
    seed: 7,
    responseMimeType: "application/json",
    responseJsonSchema: schema
  }
})

describe("Gemini's requests", () => {
  it.effect("every field, streamed", () =>
    Effect.gen(function*() {
      const { json, request, url } = yield* sent(gemini, everything, true)
      assert.strictEqual(
        url,
        "https://generativelanguage.googleapis.com/v1beta/models/model-1:streamGenerateContent?alt=sse"
      )
      assert.strictEqual(request.method, "POST")
      assert.deepStrictEqual({ ...request.headers }, {
        accept: "text/event-stream",
        "accept-encoding": "identity",
        "content-length": request.headers["content-length"],
        "content-type": "application/json",
        "idempotency-key": "key-1",
        "x-goog-api-key": "test-key"
      })
      assert.deepStrictEqual(json, body((id) => ({ id })))
    }))

  it.effect("the least", () =>
    Effect.gen(function*() {
      const { json, request, url } = yield* sent(gemini, "Hi")
      assert.strictEqual(
        url,
        "https://generativelanguage.googleapis.com/v1beta/models/gemini-2.5-flash:generateContent"
      )
      assert.strictEqual(request.headers["accept"], "application/json")
      const contents = [{ role: "user", parts: [{ text: "Hi" }] }]
      assert.deepStrictEqual(json, { contents })
      const list = yield* sent(gemini, {
        prompt: "Hi",
        tools: [],
        toolChoice: "required",
        stop: [],
        responseFormat: { type: "json" }
      })
      assert.deepStrictEqual(list.json, { contents, generationConfig: { responseMimeType: "application/json" } })
    }))

  it.effect("tool choices", () =>
    Effect.gen(function*() {
      const tools = [{ name: "f", parameters: { type: "object" } }]
      for (const [toolChoice, mode] of [["auto", "AUTO"], ["none", "NONE"], ["required", "ANY"]] as const) {
        const { json } = yield* sent(gemini, { prompt: "Hi", tools, toolChoice })
        assert.deepStrictEqual(json.toolConfig, { functionCallingConfig: { mode } })
      }
      assert.isUndefined((yield* sent(gemini, { prompt: "Hi", tools })).json.toolConfig)
    }))

  it.effect("results that hold texts and files", () =>
    Effect.gen(function*() {
      const { json } = yield* sent(gemini, {
        prompt: [{
          role: "tool",
          content: [{
            type: "tool-result",
            id: "c",
            name: "f",
            isFailure: false,
            result: { ignored: true },
            modelOutput: [{ type: "text", text: "see" }, { type: "file", mediaType: "image/png", data: "AQID" }]
          }, { type: "tool-result", id: "d", name: "g", isFailure: false, result: null }]
        }]
      })
      assert.deepStrictEqual(json.contents, [{
        role: "user",
        parts: [
          {
            functionResponse: {
              id: "c",
              name: "f",
              response: { output: "see" },
              parts: [{ inlineData: { mimeType: "image/png", data: "AQID" } }]
            }
          },
          { functionResponse: { id: "d", name: "g", response: { output: null } } }
        ]
      }])
    }))

  it.effect("a step that another vendor made is marked where a signature is wanted", () =>
    Effect.gen(function*() {
      const call = (id: string, more: object = {}) =>
        ({ type: "tool-call", id, name: "f", params: {}, ...more }) as const
      const signatures = (model: string, ...calls: ReadonlyArray<ReturnType<typeof call>>) =>
        Effect.map(
          sent(gemini, {
            model,
            prompt: [
              { role: "user", content: "Hi" },
              { role: "assistant", content: [{ type: "text", text: "Let me see." }, ...calls] }
            ]
          }),
          ({ json }) => json.contents[1].parts.slice(1).map((part: any) => part.thoughtSignature)
        )
      const foreign = "skip_thought_signature_validator"
      for (const model of ["gemini-3-flash-preview", "gemini-3.5-flash", "models/gemini-10-pro"]) {
        assert.deepStrictEqual(yield* signatures(model, call("a"), call("b")), [foreign, undefined])
        assert.deepStrictEqual(yield* signatures(model, call("a", signed("c2ln")), call("b")), ["c2ln", undefined])
      }
      for (const model of ["gemini-2.5-flash", "gemini-1.5-pro", "my-model"]) {
        assert.deepStrictEqual(yield* signatures(model, call("a"), call("b")), [undefined, undefined])
      }
    }))

  it.effect("what came with a signature can be sent back", () =>
    Effect.gen(function*() {
      const parts = [
        { text: "a" },
        { text: "", thoughtSignature: "YQ==" },
        { inlineData: { mimeType: "image/png", data: "AQID" }, thoughtSignature: "Yg==" },
        { functionCall: { id: "c", name: "f", args: { x: 1 } }, thoughtSignature: "Yw==" }
      ]
      const answer = { candidates: [{ content: { parts, role: "model" }, finishReason: "STOP" }] }
      const provider = yield* connect(gemini, serve({ body: JSON.stringify(answer) }))
      const content = (yield* provider.generate(ask)).flatMap((part: any) =>
        part.type === "response-metadata" || part.type === "finish" ? [] : [{ ...part, options: part.metadata }]
      )
      const { json } = yield* sent(gemini, { prompt: [...ask.prompt, { role: "assistant", content }] })
      assert.deepStrictEqual(json.contents[1], { role: "model", parts })
    }))

  it.effect("models and addresses", () =>
    Effect.gen(function*() {
      const url = (make: Make, model: string, streaming = false) =>
        Effect.map(sent(make, { prompt: "Hi", model }, streaming), (request) => request.url)
      const api = "https://generativelanguage.googleapis.com/v1beta"
      assert.strictEqual(yield* url(gemini, "models/gemini-x"), `${api}/models/gemini-x:generateContent`)
      assert.strictEqual(yield* url(gemini, "tunedModels/x"), `${api}/tunedModels/x:generateContent`)
      // No model name leads elsewhere.
      assert.strictEqual(yield* url(gemini, "../x?key=1#"), `${api}/models/..%2Fx%3Fkey%3D1%23:generateContent`)
      const gateway = Gemini.make({ apiKey, baseUrl: "https://gateway.test/google/?tenant=a?b" })
      assert.strictEqual(
        yield* url(gateway, "m", true),
        "https://gateway.test/google/v1beta/models/m:streamGenerateContent?tenant=a?b&alt=sse"
      )
      assert.strictEqual(
        yield* url(gateway, "m"),
        "https://gateway.test/google/v1beta/models/m:generateContent?tenant=a?b"
      )
      const at = (location: string, baseUrl?: string) =>
        url(Gemini.make({ baseUrl, vertex: { project: "p.test:x-1", location, accessToken: token } }), "m")
      const path = (location: string) =>
        `/v1beta1/projects/p.test:x-1/locations/${location}/publishers/google/models/m:generateContent`
      for (
        const [location, host] of [
          ["us-central1", "us-central1-aiplatform.googleapis.com"],
          ["global", "aiplatform.googleapis.com"],
          ["eu", "aiplatform.eu.rep.googleapis.com"]
        ] as const
      ) assert.strictEqual(yield* at(location), `https://${host}${path(location)}`)
      assert.strictEqual(yield* at("global", "https://gateway.test/v"), `https://gateway.test/v${path("global")}`)
    }))

  it.effect("keys and tokens show in no span", () =>
    Effect.gen(function*() {
      const spans: Array<Tracer.Span> = []
      const tracer = Tracer.make({
        span: (options) => {
          const span = new Tracer.NativeSpan(options)
          spans.push(span)
          return span
        }
      })
      for (const [make, header] of [[gemini, "x-goog-api-key"], [vertex, "authorization"]] as const) {
        yield* run(yield* connect(make, serve({ status: 400 })), false).pipe(
          Effect.withTracer(tracer),
          Effect.provideService(HttpClient.TracerHeaderFilter, () => true)
        )
        const shown = JSON.stringify(Array.from(spans.pop()!.attributes))
        assert.include(shown, header)
        for (const secret of ["test-key", "token"]) assert.notInclude(shown, secret)
      }
    }))

  it.effect("Vertex AI: a bearer token, and no ids", () =>
    Effect.gen(function*() {
      const { json, request, url } = yield* sent(vertex, everything, true)
      assert.strictEqual(
        url,
        "https://europe-west4-aiplatform.googleapis.com/v1beta1/projects/my-project/locations/europe-west4" +
          "/publishers/google/models/model-1:streamGenerateContent?alt=sse"
      )
      assert.strictEqual(request.headers["authorization"], "Bearer token")
      assert.isUndefined(request.headers["x-goog-api-key"])
      assert.deepStrictEqual(json, body(() => ({})))
    }))

  it.effect("Vertex AI: asks for a token with each request", () =>
    Effect.gen(function*() {
      let asked = 0
      const accessToken = Effect.sync(() => Redacted.make(` token-${++asked}\n`))
      const transport = serve({ status: 401 })
      const provider = yield* connect(
        Gemini.make({ vertex: { project: "p", location: "global", accessToken } }),
        transport
      )
      assert.strictEqual(asked, 0)
      for (const streaming of [false, true]) yield* run(provider, streaming)
      assert.deepStrictEqual(transport.sent.map(({ request }) => request.headers["authorization"]), [
        "Bearer token-1",
        "Bearer token-2"
      ])
    }))

  it.effect("Vertex AI: without a token nothing is sent, and the failure says nothing of it", () =>
    Effect.gen(function*() {
      const cases: ReadonlyArray<[Effect.Effect<any, unknown>, unknown, string]> = [
        [Effect.fail(new Error("SECRET")), { _tag: "Network", sent: false }, "access_token_unavailable"],
        [Effect.succeed(Redacted.make("SECRET\nx: y")), { _tag: "Authentication" }, "invalid_access_token"],
        [Effect.succeed("SECRET"), { _tag: "Authentication" }, "invalid_access_token"]
      ]
      for (const [accessToken, reason, code] of cases) {
        const transport = serve({})
        const make = Gemini.make({ id: "v", vertex: { project: "p", location: "global", accessToken } })
        for (const streaming of [false, true]) {
          const { error } = yield* run(yield* connect(make, transport), streaming)
          assert.strictEqual(error?.provider, "v")
          assert.deepStrictEqual(error?.reason, reason as never)
          assert.strictEqual(error?.code, code)
          assert.notInclude(`${error?.message}${JSON.stringify(error)}`, "SECRET")
        }
        assert.deepStrictEqual(transport.sent, [])
      }
    }))

  it.effect("Vertex AI: waiting for a token can be interrupted", () =>
    Effect.gen(function*() {
      let released = 0
      const accessToken = Effect.onInterrupt(Effect.never, () => Effect.sync(() => released++))
      const transport = serve({})
      const provider = yield* connect(
        Gemini.make({ vertex: { project: "p", location: "global", accessToken } }),
        transport
      )
      for (const streaming of [false, true]) {
        const fiber = yield* Effect.forkChild(run(provider, streaming), { startImmediately: true })
        yield* Fiber.interrupt(fiber)
      }
      assert.strictEqual(released, 2)
      assert.deepStrictEqual(transport.sent, [])
    }))
})

// -----------------------------------------------------------------------------
// layers
// -----------------------------------------------------------------------------

type Http = HttpClient.HttpClient
class GeminiEu extends Gemini.Service<GeminiEu>()("app/GeminiEu") {}

const http = (transport = serve({ status: 400 })) => Layer.succeed(HttpClient.HttpClient, transport.client)
const env = (variables: Record<string, string>) => ConfigProvider.layer(ConfigProvider.fromEnvRecord(variables))

describe("Gemini's layers", () => {
  it("types are precise", () => {
    const layer: Layer.Layer<GeminiEu, LlmConfigError, Http> = GeminiEu.layer({ apiKey })
    // @ts-expect-error a layer of one tag is not a layer of another
    const wrong: Layer.Layer<Gemini, LlmConfigError, Http> = GeminiEu.layer({ apiKey })
    // @ts-expect-error the key must be redacted
    const plain = Gemini.layer({ apiKey: "plain" })
    // @ts-expect-error all of Vertex AI's options are required
    const partial = Gemini.layer({ vertex: { project: "p", accessToken: token } })
    for (const each of [layer, wrong, plain, partial]) assert.isTrue(Layer.isLayer(each))
  })

  it.effect("each tag has a provider of its own", () =>
    Effect.gen(function*() {
      const live: Layer.Layer<Gemini | GeminiEu, LlmConfigError> = Layer.mergeAll(
        Gemini.layer({ apiKey }),
        GeminiEu.layer({
          id: "vertex-eu",
          models: { fast: "gemini-x" },
          vertex: { project: "p", location: "eu", accessToken: token }
        })
      ).pipe(Layer.provide(http()))
      const [own, eu] = yield* Effect.all([Gemini, GeminiEu]).pipe(Effect.provide(live))
      assert.deepStrictEqual([own.id, own.defaultModel], ["gemini", "gemini-2.5-flash"])
      assert.deepStrictEqual([eu.id, eu.models], ["vertex-eu", { fast: "gemini-x" }])
      assert.deepStrictEqual([Gemini.key, GeminiEu.key], ["effect-resilient-llm/Gemini", "app/GeminiEu"])
    }))

  it.effect("layerConfig reads one of two variables, and names the usual one when both are missing", () =>
    Effect.gen(function*() {
      const transport = serve({ status: 400 })
      const call = (variables: Record<string, string>) =>
        Effect.flatMap(Gemini, (provider) => Effect.flip(provider.generate(ask))).pipe(
          Effect.provide(Gemini.layerConfig().pipe(Layer.provide(http(transport)), Layer.provide(env(variables))))
        )
      yield* call({ GEMINI_API_KEY: "key-1", GOOGLE_API_KEY: "key-2" })
      yield* call({ GOOGLE_API_KEY: "key-2", GEMINI_BASE_URL: "https://gateway.test" })
      assert.deepStrictEqual(transport.sent.map(({ request }) => request.headers["x-goog-api-key"]), ["key-1", "key-2"])
      assert.strictEqual(
        transport.sent[1]!.url,
        "https://gateway.test/v1beta/models/gemini-2.5-flash:generateContent"
      )
      const error = yield* Effect.flip(call({}))
      if (!(error instanceof LlmConfigError)) return assert.fail("a LlmConfigError")
      assert.strictEqual(error.path, "GEMINI_API_KEY")
    }))

  it.effect("layerConfig takes a Config for each option", () =>
    Effect.gen(function*() {
      const transport = serve({ status: 400 })
      const layer = GeminiEu.layerConfig({
        vertex: {
          project: Config.String("PROJECT"),
          location: Config.succeed("global"),
          accessToken: Config.succeed(Effect.succeed(token))
        }
      })
      yield* Effect.flatMap(GeminiEu, (provider) => Effect.flip(provider.generate(ask))).pipe(
        Effect.provide(layer.pipe(Layer.provide(http(transport)), Layer.provide(env({ PROJECT: "p-1" }))))
      )
      assert.include(transport.sent[0]!.url, "/projects/p-1/locations/global/")
      assert.strictEqual(transport.sent[0]!.request.headers["authorization"], "Bearer token")
    }))

  it.effect("invalid options are named, with their rule, never their value", () =>
    Effect.gen(function*() {
      const at = (options: object) =>
        Gemini.make({ vertex: { project: "p", location: "global", accessToken: token, ...options } })
      const cases: ReadonlyArray<[Effect.Effect<LlmProvider, LlmConfigError, Http>, string]> = [
        [Gemini.make({}), "gemini.apiKey"],
        [Gemini.make({ apiKey: "SECRET" as never }), "gemini.apiKey"],
        [Gemini.make({ apiKey: Redacted.make("SECRET\r\nx: y") }), "gemini.apiKey"],
        [Gemini.make({ apiKey, baseUrl: "SECRET" }), "gemini.baseUrl"],
        [Gemini.make({ apiKey, other: 1 } as never), "gemini.other"],
        [Gemini.make({ apiKey, vertex: { project: "p", location: "global", accessToken: token } }), "gemini.apiKey"],
        [Gemini.make({ vertex: "SECRET" as never }), "gemini.vertex"],
        [at({ project: "SECRET/../x" }), "gemini.vertex.project"],
        [at({ project: ".." }), "gemini.vertex.project"],
        [at({ location: "secret.test/" }), "gemini.vertex.location"],
        [at({ apiVersion: "SECRET/../v1" }), "gemini.vertex.apiVersion"],
        [at({ apiVersion: "" }), "gemini.vertex.apiVersion"],
        [at({ location: undefined }), "gemini.vertex.location"],
        [at({ accessToken: undefined }), "gemini.vertex.accessToken"],
        [at({ accessToken: "SECRET" }), "gemini.vertex.accessToken"],
        [at({ accessToken: Redacted.make("SECRET\n:") }), "gemini.vertex.accessToken"],
        [at({ publisher: "SECRET" }), "gemini.vertex.publisher"]
      ]
      for (const [effect, path] of cases) {
        const error = yield* Effect.flip(Effect.provide(effect, http()))
        assert.instanceOf(error, LlmConfigError)
        assert.strictEqual(error.path, path)
        assert.notInclude(`${error.message}${JSON.stringify(error)}`, "SECRET")
      }
    }))
})
