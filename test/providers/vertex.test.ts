// Anthropic's models at Vertex AI, and the version of its address.
import { assert, describe, it } from "@effect/vitest"
import type { LlmRequest } from "effect-resilient-llm/LlmRequest"
import { Anthropic, Gemini } from "effect-resilient-llm/providers"
import * as Effect from "effect/Effect"
import * as Redacted from "effect/Redacted"
import { apiKey, ask, connect, digest, run, serve } from "./support.ts"

const accessToken = Redacted.make("ya29.token")
const place = { project: "my-project", location: "europe-west1", accessToken }
const path = "/v1/projects/my-project/locations/europe-west1/publishers/anthropic/models"

const sent = (make: ReturnType<typeof Anthropic.make>, streaming = false, request: LlmRequest = ask) =>
  Effect.gen(function*() {
    const transport = serve({ status: 400 })
    const provider = yield* connect(make, transport)
    yield* run(provider, streaming, request)
    return { provider, ...transport.sent[0]! }
  })

describe("Anthropic at Vertex AI", () => {
  it.effect("the model is in the address, the version in the body, the token in the header", () =>
    Effect.gen(function*() {
      const make = Anthropic.make({ vertex: place, beta: ["context-1m-2025-08-07"] })
      const { json, provider, request, url } = yield* sent(make)
      assert.strictEqual(
        url,
        `https://europe-west1-aiplatform.googleapis.com${path}/claude-haiku-4-5%4020251001:rawPredict`
      )
      assert.strictEqual(provider.defaultModel, "claude-haiku-4-5@20251001")
      assert.strictEqual(provider.reasoning, "anthropic")
      assert.deepStrictEqual(json, {
        anthropic_version: "vertex-2023-10-16",
        max_tokens: 8192,
        messages: [{ role: "user", content: [{ type: "text", text: "Hi" }] }]
      })
      assert.strictEqual(request.headers["authorization"], "Bearer ya29.token")
      assert.strictEqual(request.headers["anthropic-beta"], "context-1m-2025-08-07")
      for (const name of ["x-api-key", "anthropic-version"]) assert.isUndefined(request.headers[name])

      const streamed = yield* sent(Anthropic.make({ vertex: place, version: "vertex-next" }), true, {
        ...ask,
        model: "claude-opus-4-6"
      })
      assert.match(streamed.url, /\/models\/claude-opus-4-6:streamRawPredict$/)
      assert.strictEqual(streamed.json.stream, true)
      assert.strictEqual(streamed.json.anthropic_version, "vertex-next")
    }))

  it.effect("answers are those of the messages protocol", () =>
    Effect.gen(function*() {
      const make = Anthropic.make({ vertex: place })
      const events = [
        { type: "message_start", message: { id: "msg_vrtx_1", model: "claude-haiku-4-5", usage: { input_tokens: 3 } } },
        { type: "content_block_start", index: 0, content_block: { type: "text", text: "" } },
        { type: "content_block_delta", index: 0, delta: { type: "text_delta", text: "Hi" } },
        { type: "content_block_stop", index: 0 },
        { type: "message_delta", delta: { stop_reason: "end_turn" }, usage: { output_tokens: 1 } },
        { type: "message_stop" }
      ]
      const body = events.map((event) => `event: ${event.type}\ndata: ${JSON.stringify(event)}\n\n`).join("")
      const streamed = serve({ headers: { "content-type": "text/event-stream" }, body })
      assert.strictEqual(digest(yield* run(yield* connect(make, streamed), true)).text, "Hi")
      const whole = serve({
        body: JSON.stringify({ content: [{ type: "text", text: "Hi" }], stop_reason: "end_turn" })
      })
      assert.strictEqual(digest(yield* run(yield* connect(make, whole), false)).text, "Hi")
      // Errors are Google's.
      const quota = { error: { code: 429, message: "Quota exceeded for aiplatform", status: "RESOURCE_EXHAUSTED" } }
      const failed = serve({ status: 429, body: JSON.stringify([quota]) })
      assert.strictEqual((yield* run(yield* connect(make, failed), false)).error?.reason._tag, "RateLimit")
    }))

  it.effect("a token may be an effect, which runs once per request", () =>
    Effect.gen(function*() {
      let asked = 0
      const token = Effect.sync(() => Redacted.make(`token-${++asked}-0123456789`))
      const transport = serve({
        status: 401,
        body: "{\"error\":{\"code\":\"bad_token-2-0123456789\",\"message\":\"…\"}}"
      })
      const provider = yield* connect(Anthropic.make({ vertex: { ...place, accessToken: token } }), transport)
      yield* run(provider, false)
      const { error } = yield* run(provider, true)
      assert.strictEqual(transport.sent[1]!.request.headers["authorization"], "Bearer token-2-0123456789")
      // What holds the token of this request is not told.
      assert.deepStrictEqual([error?.reason._tag, error?.code], ["Authentication", undefined])
      const without = Anthropic.make({ vertex: { ...place, accessToken: Effect.fail("no") } })
      const failed = yield* run(yield* connect(without, serve({})), false)
      assert.deepStrictEqual(failed.error?.reason, { _tag: "Network", sent: false })
    }))

  it.effect("wrong options are told with their path", () =>
    Effect.gen(function*() {
      const cases = [
        [Anthropic.make({ apiKey, vertex: place }), "anthropic.apiKey"],
        [Anthropic.make({ vertex: { ...place, project: "../SECRET" } }), "anthropic.vertex.project"],
        [Anthropic.make({ vertex: { ...place, apiVersion: "SECRET" } }), "anthropic.vertex.apiVersion"],
        [Anthropic.make({}), "anthropic.apiKey"]
      ] as const
      for (const [make, path] of cases) {
        const error = yield* Effect.flip(connect(make, serve({})))
        assert.strictEqual(error.path, path)
        assert.notInclude(error.message, "SECRET")
      }
    }))
})

it.effect("B15 Vertex AI behind a server that knows only /v1", () =>
  Effect.gen(function*() {
    const vertex = { ...place, apiVersion: "v1" }
    const gemini = yield* sent(Gemini.make({ vertex }))
    assert.match(gemini.url, /googleapis\.com\/v1\/projects\/my-project\//)
    const usual = yield* sent(Gemini.make({ vertex: place }))
    assert.match(usual.url, /googleapis\.com\/v1beta1\/projects\/my-project\//)
    const anthropic = yield* sent(Anthropic.make({ vertex: { ...place, apiVersion: "v1beta1" } }))
    assert.match(anthropic.url, /googleapis\.com\/v1beta1\/projects\/my-project\//)
  }))
