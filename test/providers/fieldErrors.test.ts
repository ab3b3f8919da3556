// What servers and networks do to a call instead of answering it, asked of every adapter. The rows' names are those of
// the field cases.
import { NodeHttpClient } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import { LlmClient, type LlmConfig } from "effect-resilient-llm"
import { details, type ProviderError } from "effect-resilient-llm/LlmError"
import type { LlmProvider } from "effect-resilient-llm/LlmProvider"
import { DispatcherHttpClient } from "effect-resilient-llm/node"
import { Anthropic, Cohere, Gemini, OpenAi, OpenAiCompatible } from "effect-resilient-llm/providers"
import { Bedrock } from "effect-resilient-llm/providers/Bedrock"
import { NOT_DECODED, TOO_LARGE } from "effect-resilient-llm/providers/internal/errors"
import { Ollama } from "effect-resilient-llm/providers/Ollama"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as FetchHttpClient from "effect/http/FetchHttpClient"
import type { HttpClient } from "effect/http/HttpClient"
import * as HttpClientError from "effect/http/HttpClientError"
import * as Layer from "effect/Layer"
import * as Redacted from "effect/Redacted"
import * as Stream from "effect/Stream"
import { TestClock } from "effect/testing"
import { createServer, type ServerResponse } from "node:http"
import { createServer as createTlsServer } from "node:https"
import { type AddressInfo, createServer as createTcpServer, type Socket } from "node:net"
import { brotliCompressSync, deflateRawSync, deflateSync, gzipSync } from "node:zlib"
import { apiKey, connect, digest, type Make, play, randomChunks, run, type Script, seeded, serve } from "./support.ts"

interface Adapter {
  readonly name: string
  readonly make: Make
  /** A whole answer that says "Hi". */
  readonly whole: string
  readonly stream: string
  /** The vendor's own refusal of a request, and its "no money left". */
  readonly refusal: unknown
  readonly quota: unknown
}

const sse = (...events: ReadonlyArray<unknown>): string =>
  events.map((event) => `data: ${typeof event === "string" ? event : JSON.stringify(event)}\n\n`).join("")

const openAiError = (code: string, message = "…") => ({ error: { message, type: "invalid_request_error", code } })
const chat = {
  whole: JSON.stringify({ choices: [{ message: { content: "Hi" }, finish_reason: "stop" }] }),
  stream: sse(
    { choices: [{ delta: { content: "Hi" } }] },
    { choices: [{ delta: {}, finish_reason: "stop" }] },
    "[DONE]"
  ),
  refusal: openAiError("unsupported_parameter"),
  quota: openAiError("insufficient_quota")
}
const message = { type: "message", role: "assistant", content: [{ type: "output_text", text: "Hi", annotations: [] }] }
const answered = { object: "response", status: "completed", output: [message] }
const candidate = { candidates: [{ content: { parts: [{ text: "Hi" }] }, finishReason: "STOP" }] }
const google = {
  whole: JSON.stringify(candidate),
  stream: sse(candidate),
  refusal: { error: { code: 400, message: "Invalid value", status: "INVALID_ARGUMENT" } },
  quota: {
    error: { code: 429, status: "RESOURCE_EXHAUSTED", details: [{ violations: [{ quotaId: "RequestsPerDay" }] }] }
  }
}

const adapters: ReadonlyArray<Adapter> = [
  { name: "OpenAI chat", make: OpenAi.make({ apiKey }), ...chat },
  {
    name: "a compatible server",
    make: OpenAiCompatible.make({ baseUrl: "https://llm.test/v1", defaultModel: "m", apiKey }),
    ...chat
  },
  {
    ...chat,
    name: "OpenAI responses",
    make: OpenAi.make({ apiKey, api: "responses" }),
    whole: JSON.stringify(answered),
    stream: sse(
      { type: "response.output_text.delta", output_index: 0, content_index: 0, delta: "Hi" },
      { type: "response.completed", response: answered }
    )
  },
  {
    name: "Anthropic",
    make: Anthropic.make({ apiKey }),
    whole: JSON.stringify({ type: "message", content: [{ type: "text", text: "Hi" }], stop_reason: "end_turn" }),
    stream: sse(
      { type: "message_start", message: {} },
      { type: "content_block_start", index: 0, content_block: { type: "text", text: "" } },
      { type: "content_block_delta", index: 0, delta: { type: "text_delta", text: "Hi" } },
      { type: "message_delta", delta: { stop_reason: "end_turn" } },
      { type: "message_stop" }
    ),
    refusal: { type: "error", error: { type: "invalid_request_error", message: "messages: roles must alternate" } },
    quota: { type: "error", error: { type: "billing_error", message: "…" } }
  },
  {
    name: "Cohere",
    make: Cohere.make({ apiKey }),
    whole: JSON.stringify({
      finish_reason: "COMPLETE",
      message: { role: "assistant", content: [{ type: "text", text: "Hi" }] }
    }),
    stream: sse(
      { type: "content-start", index: 0, delta: { message: { content: { type: "text", text: "" } } } },
      { type: "content-delta", index: 0, delta: { message: { content: { text: "Hi" } } } },
      { type: "message-end", delta: { finish_reason: "COMPLETE" } }
    ),
    refusal: { message: "invalid request: message must be at least 1 token long" },
    quota: { message: "You are using a Trial key, which is limited to 1000 API calls / month." }
  },
  { name: "Gemini", make: Gemini.make({ apiKey }), ...google },
  {
    name: "Vertex AI",
    make: Gemini.make({ vertex: { project: "project", location: "global", accessToken: apiKey } }),
    ...google
  },
  {
    ...chat,
    name: "Bedrock",
    make: Bedrock.make({ region: "eu-central-1", apiKey, defaultModel: "m" }),
    whole: JSON.stringify({ output: { message: { content: [{ text: "Hi" }] } }, stopReason: "end_turn" }),
    stream: "event: contentBlockDelta\ndata: {\"contentBlockIndex\":0,\"delta\":{\"text\":\"Hi\"}}\n\n"
      + "event: messageStop\ndata: {\"stopReason\":\"end_turn\"}\n\n",
    refusal: { message: "A conversation must start with a user message." },
    quota: { code: "ServiceQuotaExceededException", message: "…" }
  },
  {
    name: "Ollama",
    make: Ollama.make({ defaultModel: "m", apiKey }),
    whole: JSON.stringify({ message: { content: "Hi" }, done: true, done_reason: "stop" }),
    stream: `${JSON.stringify({ message: { content: "Hi" } })}\n${
      JSON.stringify({ done: true, done_reason: "stop" })
    }\n`,
    refusal: { error: "invalid format" },
    quota: { error: "you have reached your weekly usage limit" }
  }
]

const settle = TestClock.withLive(Effect.sleep("10 millis"))
const tagOf = (error: ProviderError | undefined): string | undefined => error?.reason._tag
const problemOf = (error: ProviderError | undefined): string | undefined =>
  error?.reason._tag === "MalformedResponse" ? error.reason.problem : error?.reason._tag
const bytes = (text: string) => Uint8Array.from(new TextEncoder().encode(text))

/** The same of each adapter, whole and streamed. */
const each = (
  name: string,
  test: (adapter: Adapter, streaming: boolean) => Effect.Effect<void, unknown>
): void => {
  for (const adapter of adapters) {
    for (const streaming of [false, true]) {
      it.effect(`${name}: ${adapter.name}, ${streaming ? "streamed" : "whole"}`, () => test(adapter, streaming))
    }
  }
}

const eventStream = { "content-type": "text/event-stream" }

// -----------------------------------------------------------------------------
// A6
// -----------------------------------------------------------------------------

type Bytes = Uint8Array<ArrayBuffer>
const compressions: ReadonlyArray<readonly [coding: string, compress: (body: string) => Bytes]> = [
  ["gzip", (body) => Uint8Array.from(gzipSync(body))],
  ["X-GZIP", (body) => Uint8Array.from(gzipSync(body))],
  ["deflate", (body) => Uint8Array.from(deflateSync(body))],
  ["deflate", (body) => Uint8Array.from(deflateRawSync(body))],
  ["br", (body) => Uint8Array.from(brotliCompressSync(body))],
  ["deflate, gzip", (body) => Uint8Array.from(gzipSync(deflateSync(body)))],
  ["identity", bytes],
  // Undone by a transport that left the header.
  ["gzip", bytes],
  ["br", bytes],
  ["deflate", bytes]
]

describe("A6 what comes compressed", () => {
  const random = seeded(6)

  each("A6 an error has its class, an answer its text", (adapter, streaming) =>
    Effect.gen(function*() {
      for (const [coding, compress] of compressions) {
        const script = (status: number, body: string): Script => ({
          status,
          headers: { "content-encoding": coding, ...(streaming && status === 200 ? eventStream : {}) },
          body: randomChunks(compress(body), random)
        })
        const failed = yield* play(adapter.make, script(429, JSON.stringify(adapter.quota)), streaming)
        assert.strictEqual(tagOf(failed.error), "Quota", coding)
        const answered = yield* play(adapter.make, script(200, streaming ? adapter.stream : adapter.whole), streaming)
        assert.strictEqual(answered.error, undefined, `${coding} ${answered.error?.message}`)
        assert.strictEqual(digest(answered).text, "Hi", coding)
      }
    }))

  each("A6 nobody is asked to compress", (adapter, streaming) =>
    Effect.gen(function*() {
      const transport = serve({ status: 400 })
      yield* run(yield* connect(adapter.make, transport), streaming)
      assert.strictEqual(transport.sent[0]!.request.headers["accept-encoding"], "identity")
    }))

  it.effect("A6 who wants it may ask", () =>
    Effect.gen(function*() {
      const transport = serve({ status: 400 })
      yield* run(yield* connect(OpenAi.make({ apiKey, headers: { "Accept-Encoding": "gzip" } }), transport), false)
      assert.strictEqual(transport.sent[0]!.request.headers["accept-encoding"], "gzip")
    }))

  it.effect("A6 what cannot be read is malformed, but a status counts", () =>
    Effect.gen(function*() {
      const cut = Uint8Array.from(gzipSync(chat.whole.repeat(100)).subarray(0, 60))
      const noise = Uint8Array.from({ length: 64 }, (_, i) => (i * 167 + 131) % 256)
      const many = Array.from({ length: 9 }, () => "gzip").join(", ")
      for (
        const [coding, body] of [["gzip", cut], ["gzip", noise], ["br", noise], ["deflate", noise], ["zstd", noise], [
          "compress",
          noise
        ], [many, noise]] as const
      ) {
        for (const streaming of [false, true]) {
          const headers = { "content-encoding": coding, ...(streaming ? eventStream : {}) }
          const { error } = yield* play(OpenAi.make({ apiKey }), { headers, body: [body] }, streaming)
          assert.strictEqual(problemOf(error), NOT_DECODED, coding)
          const failed = yield* play(OpenAi.make({ apiKey }), { status: 503, headers, body: [body] }, streaming)
          assert.strictEqual(tagOf(failed.error), "Overloaded", coding)
        }
      }
    }))

  it.effect("A6 a small body that becomes a large one is cut at the limit", () =>
    Effect.gen(function*() {
      const bomb = gzipSync("a".repeat(20_000_000))
      const make = OpenAi.make({ apiKey, maxBodyBytes: 100_000 })
      for (const streaming of [false, true]) {
        const body = [Uint8Array.from(streaming ? gzipSync(`data: ${"a".repeat(20_000_000)}`) : bomb)]
        const transport = serve({
          headers: { "content-encoding": "gzip", ...(streaming ? eventStream : {}) },
          body,
          after: "hang"
        })
        const { error } = yield* run(yield* connect(make, transport), streaming)
        assert.strictEqual(problemOf(error), TOO_LARGE)
        yield* settle
        assert.strictEqual(transport.cancelled, 1)
      }
      const headers = { "content-encoding": "gzip", "retry-after": "7" }
      const { error } = yield* play(make, { status: 429, headers, body: [Uint8Array.from(bomb)] }, false)
      assert.strictEqual(tagOf(error), "RateLimit")
    }))

  it.effect("A6 an interrupted call closes the connection", () =>
    Effect.gen(function*() {
      for (const streaming of [false, true]) {
        const transport = serve({
          headers: { "content-encoding": "gzip", ...(streaming ? eventStream : {}) },
          body: [Uint8Array.from(gzipSync(chat.stream.repeat(9)).subarray(0, 50))],
          after: "hang"
        })
        const fiber = yield* Effect.forkChild(run(yield* connect(OpenAi.make({ apiKey }), transport), streaming))
        yield* settle
        assert.strictEqual(transport.cancelled, 0)
        yield* Fiber.interrupt(fiber)
        yield* settle
        assert.strictEqual(transport.cancelled, 1)
      }
    }))

  it.effect("A6 a connection that breaks inside a compressed body is a network failure", () =>
    Effect.gen(function*() {
      const { error } = yield* play(OpenAi.make({ apiKey }), {
        headers: { "content-encoding": "gzip" },
        body: [Uint8Array.from(gzipSync(chat.whole.repeat(9)).subarray(0, 50))],
        after: "reset"
      }, false)
      assert.deepStrictEqual(error?.reason, { _tag: "Network", sent: true, kind: "reset" })
    }))
})

// -----------------------------------------------------------------------------
// A7
// -----------------------------------------------------------------------------

describe("A7 an error body that never ends", () => {
  each("A7 the status counts after a second, with what came", (adapter, streaming) =>
    Effect.gen(function*() {
      for (const [body, reason] of [[JSON.stringify(adapter.quota), "Quota"], ["", "RateLimit"]] as const) {
        const transport = serve({ status: 429, headers: { "retry-after": "7" }, body: [body], after: "hang" })
        const fiber = yield* Effect.forkChild(run(yield* connect(adapter.make, transport), streaming))
        yield* settle
        yield* TestClock.adjust("999 millis")
        assert.strictEqual(fiber.pollUnsafe(), undefined)
        yield* TestClock.adjust("1 millis")
        const { error } = yield* Fiber.join(fiber)
        assert.strictEqual(tagOf(error), reason)
        assert.strictEqual(Duration.toMillis(error!.retryAfter!), 7000)
        yield* settle
        assert.strictEqual(transport.cancelled, 1)
      }
    }))

  it.effect("A7 a body that ends costs no wait", () =>
    Effect.gen(function*() {
      const { error } = yield* play(OpenAi.make({ apiKey }), { status: 429, body: ["{}", ""] }, false)
      assert.strictEqual(tagOf(error), "RateLimit")
    }))
})

// -----------------------------------------------------------------------------
// A9, B4, B5, B8, B10, B11
// -----------------------------------------------------------------------------

describe("statuses and words, in each adapter", () => {
  const page = "<!doctype html><html><title>Just a moment...</title></html>"
  const quoted = (inner: unknown) => ({ error: { message: `upstream said ${JSON.stringify(inner)}`, code: "500" } })
  const wrapped = { error: { code: 429, message: "slow down", status: "RESOURCE_EXHAUSTED" } }
  const cases: ReadonlyArray<readonly [row: string, script: Script, reason: string]> = [
    ["A9", { status: 407 }, "Unknown"],
    ["A9", { status: 425, body: "{}" }, "Unknown"],
    ["A9", { status: 400, body: page }, "Unknown"],
    ["A9", { status: 400, body: JSON.stringify({ error: { message: "…", type: "InternalServerError" } }) }, "Unknown"],
    ["A9", { status: 400, body: JSON.stringify({ error: { message: "Insufficient quota available" } }) }, "Quota"],
    ["B4", { status: 499 }, "ClientClosed"],
    ["B5", { status: 403, body: page }, "Unknown"],
    ["B5", { status: 401, body: page }, "Unknown"],
    ["B5", { status: 403, headers: { "cf-mitigated": "challenge" } }, "Unknown"],
    ["B8", { status: 400, body: JSON.stringify({ error: { message: "Prompt exceeds max length" } }) }, "ContextLength"],
    ["B8", { status: 429, body: JSON.stringify({ error: { message: "Too many tokens, please wait" } }) }, "RateLimit"],
    ["B10", { status: 500, body: JSON.stringify(quoted(wrapped)) }, "RateLimit"],
    ["B10", { status: 403, body: JSON.stringify({ error: { message: "Key limit exceeded" } }) }, "Quota"]
  ]
  each("A9 B4 B5 B8 B10", (adapter, streaming) =>
    Effect.gen(function*() {
      for (const [row, script, reason] of cases) {
        const { error } = yield* play(adapter.make, script, streaming)
        assert.strictEqual(tagOf(error), reason, `${row} ${JSON.stringify(script)}`)
        assert.strictEqual(error!.status, script.status)
      }
      const refused = yield* play(adapter.make, { status: 400, body: JSON.stringify(adapter.refusal) }, streaming)
      assert.strictEqual(tagOf(refused.error), "InvalidRequest")
    }))

  each("B11", (adapter, streaming) =>
    Effect.gen(function*() {
      yield* TestClock.setTime(1_767_225_600_000)
      for (
        const [headers, delay] of [
          [{ "retry-after": "1767225630" }, 30_000],
          [{ "retry-after": "1 minute and 30 seconds" }, 90_000],
          [{ "retry-after": "Thu Jan  1 00:00:05 2026" }, 5000],
          [{ "retry-after": "Thu, 01 Jan 2026 00:00:05 GMT, 45" }, 45_000],
          [{ "x-ratelimit-reset-after": "7" }, 7000],
          [{ "x-ms-retry-after-ms": "1500" }, 1500],
          [{ ratelimit: "\"default\";r=0;t=30" }, 30_000],
          [{ "retry-after": "99999999" }, 31 * 86_400_000]
        ] as const
      ) {
        const { error } = yield* play(adapter.make, { status: 429, headers }, streaming)
        assert.strictEqual(Duration.toMillis(error!.retryAfter!), delay, JSON.stringify(headers))
      }
    }))

  each(
    "nothing is published that holds a key, or is too long to be a name",
    (adapter, streaming) =>
      Effect.gen(function*() {
        const key = Redacted.value(apiKey)
        const body = JSON.stringify({
          error: { code: `bad_${key}`, type: key, message: "…" },
          request_id: `req-${key}`
        })
        const echoed = yield* play(adapter.make, { status: 401, headers: { "x-request-id": key }, body }, streaming)
        assert.strictEqual(tagOf(echoed.error), "Authentication")
        assert.notInclude(JSON.stringify(echoed.error), key)
        for (const form of [Buffer.from(key).toString("base64url"), Buffer.from(key).toString("hex")]) {
          const { error } = yield* play(adapter.make, {
            status: 401,
            headers: { "x-request-id": form, ratelimit: `"${form}";r=0;t=30, "${key}";r=0;t=30, "requests";r=0;t=7` },
            body: JSON.stringify({ error: { code: form, message: `No ${key}.` }, request_id: form })
          }, streaming)
          assert.deepStrictEqual([error?.code, error?.requestId], [undefined, undefined])
          assert.deepStrictEqual(error?.rateLimits?.map(({ dimension }) => dimension), ["requests"])
          assert.deepStrictEqual(details(error).map(({ text }) => text), ["No [key]."])
        }
        const long = JSON.stringify({ error: { code: "c".repeat(99), message: "…" } })
        const { error } = yield* play(adapter.make, {
          status: 400,
          headers: { "x-request-id": "r".repeat(300) },
          body: long
        }, streaming)
        assert.deepStrictEqual([error?.code, error?.requestId], [undefined, undefined])
      })
  )

  each("nor in an answer: its id, its model, its request id", (adapter, streaming) =>
    Effect.gen(function*() {
      const key = Redacted.value(apiKey)
      const names = { id: `id-${key}`, model: `model-${key}`, responseId: `id-${key}`, modelVersion: `model-${key}` }
      const named = (text: string): string => {
        const json = JSON.parse(text)
        const of = (value: any): any => ({
          ...names,
          ...value,
          ...(value.message === undefined || adapter.name !== "Anthropic"
            ? {}
            : { message: { ...names, ...value.message } }),
          ...(value.response === undefined ? {} : { response: { ...names, ...value.response } })
        })
        return JSON.stringify(of(json))
      }
      const body = streaming
        ? adapter.stream.replaceAll(/\{.*\}/g, named)
        : named(adapter.whole)
      const headers = { "x-request-id": `req-${key}`, ...(streaming ? eventStream : {}) }
      const outcome = yield* play(adapter.make, { headers, body }, streaming)
      assert.strictEqual(digest(outcome).text, "Hi", outcome.error?.message)
      assert.notInclude(JSON.stringify(outcome.parts), key)
    }))

  each("5,000 levels in an error body leave the status", (adapter, streaming) =>
    Effect.gen(function*() {
      for (const levels of [5000, 30_000]) {
        const body = "{\"error\":".repeat(levels) + "1" + "}".repeat(levels)
        const { error } = yield* play(adapter.make, { status: 503, body }, streaming)
        assert.strictEqual(tagOf(error), "Overloaded")
        const { error: refused } = yield* play(adapter.make, { status: 400, body }, streaming)
        assert.strictEqual(tagOf(refused), "Unknown")
      }
    }))
})

// -----------------------------------------------------------------------------
// B7, B12
// -----------------------------------------------------------------------------

describe("B12 errors under a success status", () => {
  const quotas: ReadonlyArray<unknown> = [
    { base_resp: { status_code: 1008, status_msg: "insufficient balance" } },
    { code: 402, msg: "no money" },
    { code: "insufficient_quota", message: "…" },
    { detail: "Your credit balance is too low" },
    { type: "error", message: "insufficient balance" },
    { error: "insufficient_quota" },
    { error: { code: "insufficient_quota", message: "…" } },
    { success: false, errors: [{ code: 402, message: "…" }] },
    { type: "about:blank", title: "Payment Required", status: 402, detail: "…" }
  ]
  const types = ["application/json", "Application/JSON; charset=utf-8", "application/problem+json", "text/plain", ""]

  each("B7 B12 their class, in any form and under any type", (adapter, streaming) =>
    Effect.gen(function*() {
      for (const quota of quotas) {
        for (const type of [...types, "text/event-stream"]) {
          const headers = { "retry-after": "17", ...(type === "" ? {} : { "content-type": type }) }
          const body = JSON.stringify(quota, undefined, adapter.name === "Ollama" ? undefined : 2)
          const outcome = yield* play(adapter.make, { headers, body }, streaming)
          assert.strictEqual(tagOf(outcome.error), "Quota", `${type} ${body} ${outcome.error?.message}`)
          assert.strictEqual(outcome.error?.retryAfter, undefined)
          assert.deepStrictEqual(outcome.parts, [])
        }
      }
    }))

  for (const adapter of adapters) {
    it.effect(`B7 B12 inside a stream, framed or not, also if it never ends: ${adapter.name}`, () =>
      Effect.gen(function*() {
        const lines = adapter.name === "Ollama"
        for (const quota of quotas) {
          const text = JSON.stringify(quota)
          const forms = lines
            ? [`${text}\n`]
            : [`data: ${text}\n\n`, `event: error\ndata: ${text}\n\n`, `error: ${text}\n\n`]
          for (const form of forms) {
            const transport = serve({ headers: eventStream, body: [form], after: "hang" })
            const { error } = yield* run(yield* connect(adapter.make, transport), true)
            assert.strictEqual(tagOf(error), "Quota", form)
            yield* settle
            assert.strictEqual(transport.cancelled, 1)
          }
        }
      }))
  }
})

// -----------------------------------------------------------------------------
// B14
// -----------------------------------------------------------------------------

const broken = (code: string, wrap = true) =>
  serve((request) => {
    const cause = Object.assign(new Error("…"), { code })
    return Effect.fail(
      new HttpClientError.HttpClientError({
        reason: new HttpClientError.TransportError({
          request,
          cause: wrap ? new TypeError("fetch failed", { cause }) : cause
        })
      })
    )
  })

describe("B14 how far a request came", () => {
  const cases = [
    ["ENOTFOUND", "dns", false],
    ["EAI_AGAIN", "dns", false],
    ["ECONNREFUSED", "connect", false],
    ["UND_ERR_CONNECT_TIMEOUT", "connect", false],
    ["DEPTH_ZERO_SELF_SIGNED_CERT", "tls", false],
    ["ERR_TLS_CERT_ALTNAME_INVALID", "tls", false],
    ["CERT_HAS_EXPIRED", "tls", false],
    ["ERR_SSL_WRONG_VERSION_NUMBER", "tls", false],
    ["EMFILE", "local", false],
    ["ENFILE", "local", false],
    ["EADDRNOTAVAIL", "local", false],
    ["ECONNRESET", "reset", true],
    ["UND_ERR_SOCKET", "reset", true],
    ["EPIPE", "reset", true],
    ["SOMETHING_ELSE", undefined, true]
  ] as const
  each("B14", (adapter, streaming) =>
    Effect.gen(function*() {
      for (const [code, kind, sent] of cases) {
        for (const wrap of [false, true]) {
          const { error } = yield* run(yield* connect(adapter.make, broken(code, wrap)), streaming)
          const expected = kind === undefined ? { _tag: "Network", sent } : { _tag: "Network", sent, kind }
          assert.deepStrictEqual(error?.reason, expected as never, code)
          assert.strictEqual(error?.code, code)
        }
      }
    }))

  const clientOf = (providers: readonly [LlmProvider, ...Array<LlmProvider>], options: LlmConfig.Options) =>
    Effect.map(
      Layer.build(LlmClient.layerDynamic(providers, { cache: false, ...options })),
      (context) => Context.get(context, LlmClient)
    )

  it.effect("B14 an untrusted certificate: one try, then the next provider", () =>
    Effect.gen(function*() {
      const untrusted = broken("DEPTH_ZERO_SELF_SIGNED_CERT")
      const client = yield* clientOf([
        yield* connect(OpenAi.make({ apiKey }), untrusted),
        yield* connect(Anthropic.make({ apiKey }), serve({ body: adapters[3]!.whole }))
      ], {})
      assert.strictEqual((yield* client.complete("Hi")).provider, "anthropic")
      assert.strictEqual(untrusted.sent.length, 1)
    }))

  it.effect("B14 without a free port: tried again, nobody else is asked, and the circuit stays closed", () =>
    Effect.gen(function*() {
      const second = serve({ body: adapters[3]!.whole })
      const first = broken("EMFILE")
      const client = yield* clientOf([
        yield* connect(OpenAi.make({ apiKey }), first),
        yield* connect(Anthropic.make({ apiKey }), second)
      ], {
        retry: { maxRetries: 1, baseDelay: 1 },
        retryBudget: false,
        rateLimit: { limits: [{ dimension: "tokens", limit: 1000, per: "1 hour" }] }
      })
      for (let i = 0; i < 100; i++) {
        const fiber = yield* Effect.forkChild(Effect.flip(client.complete("Hi")))
        yield* TestClock.adjust("10 millis")
        const error = yield* Fiber.join(fiber)
        assert.strictEqual(error._tag, "ProviderError")
      }
      assert.strictEqual(first.sent.length, 200)
      assert.strictEqual(second.sent.length, 0)
      const { rateLimit, targets } = yield* client.status
      assert.strictEqual(targets[0]!.circuit?.state, "closed")
      // What was reserved for a request that never left is given back.
      assert.strictEqual(rateLimit?.levels["tokens"], 1000)
    }))

  it.effect("a call of 5,000 levels: twelve calls of twelve are answered by the second target", () =>
    Effect.gen(function*() {
      const args = JSON.stringify("[".repeat(5000) + "]".repeat(5000))
      const tool =
        `{"choices":[{"delta":{"tool_calls":[{"function":{"name":"f","arguments":${args}}}]},"finish_reason":"stop"}]}`
      const deep = serve({ headers: eventStream, body: `data: ${tool}\n\ndata: [DONE]\n\n` })
      const second = serve({ headers: eventStream, body: adapters[3]!.stream })
      const client = yield* clientOf([
        yield* connect(OpenAi.make({ apiKey }), deep),
        yield* connect(Anthropic.make({ apiKey }), second)
      ], { retry: false })
      for (let i = 0; i < 12; i++) {
        const stream = yield* client.open("Hi")
        yield* Stream.runDrain(stream.parts)
        assert.strictEqual((yield* stream.response).provider, "anthropic")
      }
      assert.strictEqual(second.sent.length, 12)
    }))

  it.effect("A9 under an idempotency key: another provider answers, and a refusal of the way is not replayed", () =>
    Effect.gen(function*() {
      const way = serve({ status: 407 })
      const alone = yield* clientOf([yield* connect(OpenAi.make({ apiKey }), way)], {})
      const request = { prompt: "Hi", idempotencyKey: "k" }
      for (let i = 0; i < 2; i++) {
        const error = yield* Effect.flip(alone.complete(request))
        assert.strictEqual(error._tag === "ProviderError" ? error.reason._tag : error._tag, "Unknown")
      }
      assert.strictEqual(way.sent.length, 2)
      const wrong = serve({ status: 400, body: JSON.stringify(chat.refusal) })
      const refused = yield* clientOf([yield* connect(OpenAi.make({ apiKey }), wrong)], {})
      for (let i = 0; i < 2; i++) yield* Effect.flip(refused.complete(request))
      assert.strictEqual(wrong.sent.length, 1)
      const both = yield* clientOf([
        yield* connect(OpenAi.make({ apiKey }), way),
        yield* connect(Anthropic.make({ apiKey }), serve({ body: adapters[3]!.whole }))
      ], {})
      assert.strictEqual((yield* both.complete(request)).provider, "anthropic")
      assert.strictEqual(way.sent.length, 3)
    }))
})

// -----------------------------------------------------------------------------
// real sockets
// -----------------------------------------------------------------------------

const key = `-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgmv3WM3XK+6+asGfn
NC13ecyOhSq4SrTwx0Ygg1Q04sGhRANCAAS6k+40cUsycYrLnsgOPRT+fZ9ajo54
/7nW2vMwHuL7ppMnp5R3T6yRk9FutfPsBtLg51HbqV9oga5Pz5z0Xg5i
-----END PRIVATE KEY-----`
const cert = `-----BEGIN CERTIFICATE-----
MIIBfTCCASOgAwIBAgIUJkkbWRepI9c1MgUrhLlZoQYGlzwwCgYIKoZIzj0EAwIw
EzERMA8GA1UEAwwIbGxtLnRlc3QwIBcNMjYxMTI4MDA1NDM0WhgPMjEyNjExMDQw
MDU0MzRaMBMxETAPBgNVBAMMCGxsbS50ZXN0MFkwEwYHKoZIzj0CAQYIKoZIzj0D
AQcDQgAEupPuNHFLMnGKy57IDj0U/n2fWo6OeP+51trzMB7i+6aTJ6eUd0+skZPR
brXz7AbS4OdR26lfaIGuT8+c9F4OYqNTMFEwHQYDVR0OBBYEFMGqlCQDNuNIRLax
yPRcpjfwze2EMB8GA1UdIwQYMBaAFMGqlCQDNuNIRLaxyPRcpjfwze2EMA8GA1Ud
EwEB/wQFMAMBAf8wCgYIKoZIzj0EAwIDSAAwRQIgBR+FAQaXpoUCt1fmyq5G++vm
TDADCIvvTRR1vgu2xeICIQD+b04xoGu08fzoJj8+qgMqsbNeD1p0AOghr+de0iiP
rA==
-----END CERTIFICATE-----`

const listening = (server: ReturnType<typeof createServer | typeof createTcpServer>, scheme: string) =>
  Effect.acquireRelease(
    Effect.callback<string>((resume) => {
      server.listen(
        0,
        "127.0.0.1",
        () => resume(Effect.succeed(`${scheme}://127.0.0.1:${(server.address() as AddressInfo).port}`))
      )
    }),
    () =>
      Effect.sync(() => {
        if ("closeAllConnections" in server) server.closeAllConnections()
        server.close()
      })
  )

const clients: ReadonlyArray<readonly [string, Layer.Layer<HttpClient>]> = [
  ["undici", NodeHttpClient.layerUndici],
  ["fetch", FetchHttpClient.layer]
]

for (const [name, client] of clients) {
  describe(`over ${name}`, () => {
    it.live("A6 compressed answers and errors, whole and streamed", () =>
      Effect.gen(function*() {
        let answer: (response: ServerResponse) => void = () => {}
        const server = createServer((request, response) => {
          request.resume().on("end", () => answer(response))
        })
        const url = yield* listening(server, "http")
        const provider = yield* OpenAi.make({ apiKey, baseUrl: url })
        for (const [coding, compress] of compressions.slice(0, 7)) {
          answer = (response) => {
            response.writeHead(429, { "content-encoding": coding })
            response.end(compress(JSON.stringify(chat.quota)))
          }
          // A fetch of Node's gives up on what it cannot decode: there the status alone is left.
          assert.include(
            ["Quota", ...(name === "fetch" ? ["RateLimit"] : [])],
            tagOf((yield* run(provider, false)).error)
          )
          for (const streaming of [false, true]) {
            answer = (response) => {
              response.writeHead(200, { "content-encoding": coding, ...(streaming ? eventStream : {}) })
              response.end(compress(streaming ? chat.stream : chat.whole))
            }
            const outcome = yield* run(provider, streaming)
            assert.strictEqual(digest(outcome).text, "Hi", `${coding} ${outcome.error?.message}`)
          }
        }
      }).pipe(Effect.provide(client)))

    it.live("A7 429 with one chunk of body and no end", () =>
      Effect.gen(function*() {
        const closed: Array<number> = []
        const server = createServer((request, response) => {
          response.on("close", () => closed.push(performance.now()))
          request.resume().on("end", () => {
            response.writeHead(429, { "retry-after": "7" })
            response.write(JSON.stringify(chat.quota))
          })
        })
        const provider = yield* OpenAi.make({ apiKey, baseUrl: yield* listening(server, "http") })
        const start = performance.now()
        const { error } = yield* run(provider, false)
        assert.strictEqual(tagOf(error), "Quota")
        assert.isBelow(performance.now() - start, 4000)
        for (let i = 0; i < 100 && closed.length === 0; i++) yield* Effect.sleep("10 millis")
        assert.strictEqual(closed.length, 1)
      }).pipe(Effect.provide(client)))

    it.live("B14 a certificate that nobody trusts, and a server that speaks no TLS", () =>
      Effect.gen(function*() {
        const untrusted = createTlsServer({ key, cert }, (_, response) => response.end())
        const provider = yield* OpenAi.make({ apiKey, baseUrl: yield* listening(untrusted, "https") })
        assert.deepStrictEqual((yield* run(provider, false)).error?.reason, {
          _tag: "Network",
          sent: false,
          kind: "tls"
        })
        const plain = yield* listening(createServer((_, response) => response.end()), "https")
        const { error } = yield* run(yield* OpenAi.make({ apiKey, baseUrl: plain }), true)
        assert.deepStrictEqual(error?.reason, { _tag: "Network", sent: false, kind: "tls" })
      }).pipe(Effect.provide(client)))

    it.live("B14 no such host", () =>
      Effect.gen(function*() {
        const provider = yield* OpenAi.make({ apiKey, baseUrl: "https://no-such-host.invalid/v1" })
        assert.deepStrictEqual((yield* run(provider, false)).error?.reason, {
          _tag: "Network",
          sent: false,
          kind: "dns"
        })
      }).pipe(Effect.provide(client)))
  })
}

const continuing = (client: Layer.Layer<HttpClient>) =>
  Effect.gen(function*() {
    const sockets = new Set<Socket>()
    const server = createTcpServer((socket) => {
      sockets.add(socket)
      socket.once("data", () => {
        socket.write("HTTP/1.1 100 Continue\r\n\r\n")
        const head = `HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: ${chat.whole.length}\r\n\r\n`
        socket.write(head + chat.whole)
      })
    })
    const url = yield* listening(server, "http")
    const outcome = yield* run(yield* OpenAi.make({ apiKey, baseUrl: url }), false)
    for (const socket of sockets) socket.destroy()
    return outcome
  }).pipe(Effect.provide(client))

it.live("an unasked 100 Continue is no failure", () =>
  Effect.map(continuing(NodeHttpClient.layerNodeHttp), (outcome) => {
    assert.strictEqual(digest(outcome).text, "Hi")
  }))

// Its parser breaks the connection before any handler hears of it: see docs/providers.md. Once it does not, this fails.
it.live.each([...clients, ["the dispatcher", DispatcherHttpClient.layerAgent()] as const])(
  "an unasked 100 Continue is more than undici takes: over %s",
  ([, client]) =>
    Effect.map(continuing(client), ({ error }) => {
      assert.deepStrictEqual(error?.reason, { _tag: "Network", sent: true, kind: "reset" })
    })
)
