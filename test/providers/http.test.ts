import { assert, describe, it } from "@effect/vitest"
import { classify, type ProviderError, TRUNCATED } from "effect-resilient-llm/LlmError"
import { Anthropic, Gemini, OpenAi, OpenAiCompatible } from "effect-resilient-llm/providers"
import { Bedrock } from "effect-resilient-llm/providers/Bedrock"
import {
  EMPTY_BODY,
  EVENT_NOT_JSON,
  NO_CHOICE,
  NOT_JSON,
  TOO_LARGE,
  WRONG_SHAPE
} from "effect-resilient-llm/providers/internal/errors"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as HttpClient from "effect/http/HttpClient"
import * as HttpClientError from "effect/http/HttpClientError"
import * as Redacted from "effect/Redacted"
import * as Stream from "effect/Stream"
import { TestClock } from "effect/testing"
import * as Tracer from "effect/Tracer"
import { anthropic, compatible, openAi, plain } from "./samples.ts"
import { apiKey, ask, connect, digest, type Make, play, run, serve } from "./support.ts"

const sse = { "content-type": "text/event-stream" }
const problem = (error: ProviderError | undefined): string | undefined =>
  error?.reason._tag === "MalformedResponse" ? error.reason.problem : error?.reason._tag
const settle = TestClock.withLive(Effect.sleep("5 millis"))

describe("transport", () => {
  it.effect("names what is wrong with an answer", () =>
    Effect.gen(function*() {
      const whole = (body: string) =>
        Effect.map(play(openAi, { body, headers: { "x-request-id": "req_1" } }, false), ({ error }) => error)
      assert.strictEqual(problem(yield* whole("")), EMPTY_BODY)
      assert.strictEqual(problem(yield* whole(" \n")), EMPTY_BODY)
      assert.strictEqual(problem(yield* whole("<html>")), NOT_JSON)
      assert.strictEqual(problem(yield* whole("[]")), WRONG_SHAPE)
      assert.strictEqual(problem(yield* whole("{\"choices\":[]}")), NO_CHOICE)
      assert.strictEqual(problem(yield* whole("{\"choices\":[{}]}")), NO_CHOICE)
      const error = yield* whole("{}")
      assert.strictEqual(problem(error), WRONG_SHAPE)
      assert.strictEqual(error?.requestId, "req_1")
      assert.strictEqual(error?.status, undefined)

      const stream = (body: string) =>
        Effect.map(play(openAi, { body, headers: sse }, true), ({ error }) => problem(error))
      assert.strictEqual(yield* stream(""), EMPTY_BODY)
      assert.strictEqual(yield* stream(": keep-alive\n\n"), TRUNCATED)
      assert.strictEqual(yield* stream("data: oops\n\n" + plain(openAi, "Hi")), EVENT_NOT_JSON)
      assert.strictEqual(yield* stream("data: 7\n\n" + plain(openAi, "Hi")), WRONG_SHAPE)
    }))

  it.effect("emits the parts of a network chunk together, and those before a failure first", () =>
    Effect.gen(function*() {
      const text = (t: string) => `data: {"id":"c","choices":[{"delta":{"content":"${t}"}}]}\n\n`
      const body = [text("a") + text("b"), ": nothing\n\n", text("c") + "data: oops\n\n" + text("d")]
      const provider = yield* connect(openAi, serve({ headers: sse, body }))
      const arrays: Array<ReadonlyArray<string>> = []
      const error = yield* provider.stream(ask).pipe(
        Stream.runForEachArray((parts) =>
          Effect.sync(() => arrays.push(parts.map((part) => part.type === "text-delta" ? part.delta : part.type)))
        ),
        Effect.flip
      )
      assert.deepStrictEqual(arrays, [["response-metadata", "text-start", "a", "b"], ["c"]])
      assert.strictEqual(problem(error), EVENT_NOT_JSON)
    }))

  it.effect("a connection that breaks inside a body is a network failure of a sent request", () =>
    Effect.gen(function*() {
      for (const streaming of [false, true]) {
        const { error, parts } = yield* play(openAi, {
          headers: { ...(streaming ? sse : {}), "x-request-id": "req_1" },
          body: [streaming ? "data: {\"choices\":[{\"delta\":{\"content\":\"H\"}}]}\n\n" : "{\"choices\":"],
          after: "reset"
        }, streaming)
        assert.deepStrictEqual(error?.reason, { _tag: "Network", sent: true, kind: "reset" })
        assert.strictEqual(error?.requestId, "req_1")
        assert.strictEqual(error?.code, "ECONNRESET")
        assert.strictEqual(parts.length, streaming ? 3 : 0)
      }
    }))

  it.effect("an error counts by its status even when its body breaks or has no end in sight", () =>
    Effect.gen(function*() {
      const broken = yield* play(openAi, { status: 503, body: ["{\"err"], after: "reset" }, false)
      assert.strictEqual(problem(broken.error), "Overloaded")
      const long = serve({ status: 429, body: Array.from({ length: 100 }, () => "x".repeat(10_000)), after: "hang" })
      const { error } = yield* run(yield* connect(openAi, long), true)
      assert.strictEqual(problem(error), "RateLimit")
      assert.strictEqual(Redacted.value(error!.detail!).length, 500)
      yield* settle
      assert.strictEqual(long.cancelled, 1)
    }))

  it.effect("cuts a body, a line and a set of arguments that are too large", () =>
    Effect.gen(function*() {
      const make = OpenAiCompatible.make({ baseUrl: "https://llm.test/v1", defaultModel: "m", maxBodyBytes: 2000 })
      const piece = "x".repeat(500)
      for (
        const [streaming, body] of [
          [false, [piece, piece, piece, piece, piece]],
          [true, ["data: ", piece, piece, piece, piece, piece]],
          [true, Array.from({ length: 5 }, () => `data: ${piece}\n`)],
          [
            true,
            Array.from(
              { length: 5 },
              () =>
                `data: {"choices":[{"delta":{"tool_calls":[{"index":0,"id":"c","function":{"name":"f","arguments":"${piece}"}}]}}]}\n\n`
            )
          ],
          [
            true,
            Array.from(
              { length: 40 },
              (_, i) => `data: {"choices":[{"delta":{"tool_calls":[{"index":${i},"id":"c${i}"}]}}]}\n\n`
            )
          ],
          [true, Array.from({ length: 5 }, () => `data: {"choices":[{"delta":{"refusal":"${piece}"}}]}\n\n`)]
        ] as const
      ) {
        const transport = serve({ headers: streaming ? sse : {}, body, after: "hang" })
        const { error } = yield* run(yield* connect(make, transport), streaming)
        assert.strictEqual(problem(error), TOO_LARGE)
        yield* settle
        assert.strictEqual(transport.cancelled, 1)
      }
      // A long answer is no large event.
      const many = Array.from({ length: 100 }, () => `data: {"choices":[{"delta":{"content":"${piece}"}}]}\n\n`)
      const { error, parts } = yield* play(make, { headers: sse, body: [...many, plain(compatible, "!")] }, true)
      assert.strictEqual(error, undefined)
      assert.strictEqual(digest({ error, parts }).text.length, 50_001)
    }))

  it.effect("closes the connection when it is interrupted, wherever that happens", () =>
    Effect.gen(function*() {
      for (const streaming of [false, true]) {
        const transport = serve({
          headers: streaming ? sse : {},
          body: [streaming ? ": wait\n\n" : "{"],
          after: "hang"
        })
        const provider = yield* connect(openAi, transport)
        const fiber = yield* Effect.forkChild(run(provider, streaming))
        yield* settle
        assert.strictEqual(transport.sent.length, 1)
        assert.strictEqual(transport.cancelled, 0)
        yield* Fiber.interrupt(fiber)
        yield* settle
        assert.strictEqual(transport.cancelled, 1)
      }
    }))

  it.effect("closes the connection when the consumer of a stream has enough", () =>
    Effect.gen(function*() {
      const transport = serve({
        headers: sse,
        body: ["data: {\"choices\":[{\"delta\":{\"content\":\"H\"}}]}\n\n"],
        after: "hang"
      })
      const provider = yield* connect(openAi, transport)
      assert.strictEqual((yield* Stream.runCollect(Stream.take(provider.stream(ask), 2))).length, 2)
      yield* settle
      assert.strictEqual(transport.cancelled, 1)
    }))

  it.effect("does not abort what was read to its end", () =>
    Effect.gen(function*() {
      const body = "{\"choices\":[{\"message\":{\"content\":\"Hi\"},\"finish_reason\":\"stop\"}]}"
      const whole = serve({ headers: { "content-length": `${body.length}` }, body })
      yield* run(yield* connect(openAi, whole), false)
      // Where the length is not announced the body is read as a stream, and Effect's own client aborts after its end.
      const unannounced = serve({ body })
      yield* run(yield* connect(openAi, unannounced), false)
      const streamed = serve({ headers: sse, body: [plain(openAi, "Hi"), "\n", ": bye\n\n"] })
      assert.strictEqual((yield* run(yield* connect(openAi, streamed), true)).error, undefined)
      yield* settle
      assert.strictEqual(unannounced.cancelled, 0)
      for (const { aborted, cancelled } of [whole, streamed]) {
        assert.deepStrictEqual({ aborted, cancelled }, { aborted: 0, cancelled: 0 })
      }
    }))

  it.effect("ends after the terminal event even if the body does not", () =>
    Effect.gen(function*() {
      for (const make of [openAi, anthropic]) {
        const transport = serve({ headers: sse, body: [plain(make, "Hi")], after: "hang" })
        const provider = yield* connect(make, transport)
        const fiber = yield* Effect.forkChild(run(provider, true))
        yield* settle
        yield* TestClock.adjust("100 millis")
        const outcome = yield* Fiber.join(fiber)
        assert.strictEqual(outcome.error, undefined)
        assert.strictEqual(digest(outcome).text, "Hi")
        yield* settle
        assert.strictEqual(transport.cancelled, 1)
      }
    }))

  it.effect("sends no trace headers and shows no account header to traces", () =>
    Effect.gen(function*() {
      const spans: Array<Tracer.NativeSpan> = []
      const tracer = Tracer.make({
        span: (options) => {
          const span = new Tracer.NativeSpan(options)
          spans.push(span)
          return span
        }
      })
      const make = OpenAi.make({ apiKey, organization: "org-1", headers: { "x-gateway": Redacted.make("secret") } })
      const transport = serve({ status: 400 })
      const provider = yield* connect(make, transport)
      yield* run(provider, false).pipe(
        Effect.withTracer(tracer),
        Effect.provideService(HttpClient.TracerHeaderFilter, () => true)
      )
      assert.isUndefined(transport.sent[0]!.request.headers["traceparent"])
      assert.isUndefined(transport.sent[0]!.request.headers["b3"])
      assert.strictEqual(spans.length, 1)
      const shown = JSON.stringify(Array.from(spans[0]!.attributes))
      assert.include(shown, "openai-organization")
      for (const secret of ["test-key", "org-1", "secret"]) assert.notInclude(shown, secret)
    }))

  it.effect("a key in the address shows in no trace, and in no error that echoes it", () =>
    Effect.gen(function*() {
      const baseUrl = "https://llm.test/v1?key=sk-gateway-0123&api-version=2026-01-01"
      const rows: ReadonlyArray<Make> = [
        OpenAi.make({ apiKey, baseUrl }),
        Gemini.make({ apiKey, baseUrl }),
        Bedrock.make({ region: "eu-central-1", apiKey, defaultModel: "m", baseUrl })
      ]
      for (const make of rows) {
        for (const streaming of [false, true]) {
          const spans: Array<Tracer.NativeSpan> = []
          const tracer = Tracer.make({
            span: (options) => {
              const span = new Tracer.NativeSpan(options)
              spans.push(span)
              return span
            }
          })
          const transport = serve({ status: 401, headers: { "x-request-id": "sk-gateway-0123" } })
          const { error } = yield* Effect.withTracer(run(yield* connect(make, transport), streaming), tracer)
          assert.include(transport.sent[0]!.url, "key=sk-gateway-0123")
          const shown = JSON.stringify([error, spans.map(({ attributes }) => Array.from(attributes))])
          assert.notInclude(shown, "sk-gateway-0123")
          assert.include(shown, "api-version=2026-01-01")
        }
      }
    }))

  it.effect("understands a client that turns statuses into errors", () =>
    Effect.gen(function*() {
      const transport = serve({
        status: 429,
        headers: { "retry-after": "2" },
        body: "{\"error\":{\"code\":\"insufficient_quota\"}}"
      })
      const strict = { ...transport, client: HttpClient.filterStatusOk(transport.client) as typeof transport.client }
      const { error } = yield* run(yield* connect(openAi, strict), false)
      assert.strictEqual(problem(error), "Quota")
      assert.strictEqual(Duration.toMillis(error!.retryAfter!), 2000)
    }))

  it.effect("a request that never left says so", () =>
    Effect.gen(function*() {
      const transport = serve((request) =>
        Effect.fail(
          new HttpClientError.HttpClientError({
            reason: new HttpClientError.TransportError({
              request,
              cause: new TypeError("fetch failed", { cause: Object.assign(new Error("…"), { code: "ECONNREFUSED" }) })
            })
          })
        )
      )
      const provider = yield* connect(openAi, transport)
      for (const streaming of [false, true]) {
        const { error } = yield* run(provider, streaming)
        assert.deepStrictEqual(error?.reason, { _tag: "Network", sent: false, kind: "connect" })
        assert.strictEqual(error?.code, "ECONNREFUSED")
        assert.isTrue(classify(error).retry)
      }
    }))

  it.effect("reads an HTTP date by the wall clock", () =>
    Effect.gen(function*() {
      yield* TestClock.setTime(Date.parse("2026-01-01T00:00:00Z"))
      const { error } = yield* play(openAi, {
        status: 503,
        headers: { "retry-after": "Thu, 01 Jan 2026 00:00:05 GMT" }
      }, false)
      assert.strictEqual(Duration.toMillis(error!.retryAfter!), 5000)
    }))

  it.effect("never reads Retry-After from a success, but its limits", () =>
    Effect.gen(function*() {
      const outcome = yield* play(Anthropic.make({ apiKey }), {
        headers: {
          "retry-after": "17",
          "request-id": "req_1",
          "anthropic-ratelimit-requests-remaining": "0",
          "anthropic-ratelimit-requests-reset": "1970-01-01T00:00:03Z"
        },
        body: "{\"content\":[{\"type\":\"text\",\"text\":\"Hi\"}],\"stop_reason\":\"end_turn\"}"
      }, false)
      assert.deepStrictEqual(outcome.parts[0], {
        type: "response-metadata",
        metadata: {
          "effect-resilient-llm": {
            requestId: "req_1",
            rateLimits: [{ dimension: "requests", remaining: 0, resetAfter: 3000 }]
          }
        }
      })
    }))
})
