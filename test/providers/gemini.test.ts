// Answers of Gemini: hand-written ones whole and in pieces, damaged ones, and what is special about them.
import { assert, describe, it } from "@effect/vitest"
import { classify, ProviderError, TRUNCATED } from "effect-resilient-llm/LlmError"
import { isContent, isReplayable, usageReported } from "effect-resilient-llm/LlmResponse"
import { Gemini } from "effect-resilient-llm/providers"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import { apiKey, digest, hash, mutants, type Outcome, play, randomChunks, seeded, wellFormed } from "./support.ts"

const gemini = Gemini.make({ apiKey })
const bytes = (text: string) => new TextEncoder().encode(text)
const json = { "content-type": "application/json; charset=UTF-8" }
const eventStream = { "content-type": "text/event-stream" }
const sse = (chunks: ReadonlyArray<unknown>, end = "\r\n\r\n"): string =>
  chunks.map((chunk) => `data: ${JSON.stringify(chunk)}${end}`).join("")
const problem = (outcome: Outcome): string | undefined =>
  outcome.error?.reason._tag === "MalformedResponse" ? outcome.error.reason.problem : outcome.error?.reason._tag
const signature = (thoughtSignature: string) => ({ metadata: { google: { thoughtSignature } } })

const candidate = (parts: ReadonlyArray<unknown>, more: object = {}, top: object = {}) => ({
  candidates: [{ content: { parts, role: "model" }, index: 0, ...more }],
  modelVersion: "gemini-x",
  responseId: "r1",
  ...top
})
const answer = (parts: ReadonlyArray<unknown>, more: object = {}, top: object = {}) =>
  JSON.stringify(candidate(parts, { finishReason: "STOP", ...more }, top))
const whole = (body: string) => play(gemini, { headers: json, body }, false)
const streamed = (chunks: ReadonlyArray<unknown>) => play(gemini, { headers: eventStream, body: sse(chunks) }, true)

const usageMetadata = {
  promptTokenCount: 10,
  cachedContentTokenCount: 4,
  candidatesTokenCount: 5,
  thoughtsTokenCount: 2,
  totalTokenCount: 17,
  promptTokensDetails: [{ modality: "TEXT", tokenCount: 10 }]
}
const usage = {
  inputTokens: { total: 10, uncached: 6, cacheRead: 4 },
  outputTokens: { total: 7, text: 5, reasoning: 2 }
}
const weather = { functionCall: { name: "weather", args: { city: "Zürich 😀" }, id: "w1" }, thoughtSignature: "c2ln" }
const clock = { functionCall: { name: "clock", args: {} } }
const grounding = {
  groundingMetadata: {
    groundingChunks: [{ web: { uri: "https://a.test/1", title: "A" } }, { web: { uri: "https://a.test/1" } }]
  },
  citationMetadata: { citationSources: [{ startIndex: 1, endIndex: 2, uri: "https://b.test/" }, { uri: "no address" }] }
}
const chunks = [
  candidate([{ text: "H", thought: true }], {}, { usageMetadata: { promptTokenCount: 8, totalTokenCount: 8 } }),
  candidate([{ text: "m", thought: true }]),
  candidate([{ text: "Grüe" }], { groundingMetadata: grounding.groundingMetadata }),
  candidate([{ text: "zi 😀" }, {}, weather]),
  { usageMetadata: { promptTokenCount: 9 } },
  candidate([clock]),
  candidate([{ text: "" }], { finishReason: "STOP", finishMessage: "…", ...grounding }, { usageMetadata })
]

interface Sample {
  readonly name: string
  readonly streaming: boolean
  readonly headers: Record<string, string>
  readonly body: string
}
const samples: ReadonlyArray<Sample> = [
  {
    name: "generateContent",
    streaming: false,
    headers: json,
    body: JSON.stringify({
      candidates: [
        { index: 1, content: { parts: [{ text: "not this one" }] }, finishReason: "MAX_TOKENS" },
        {
          content: { parts: [{ text: "Hm", thought: true }, { text: "Grüezi 😀" }, weather, clock], role: "model" },
          finishReason: "STOP",
          ...grounding
        }
      ],
      usageMetadata,
      modelVersion: "gemini-x",
      responseId: "r1"
    })
  },
  { name: "streamGenerateContent", streaming: true, headers: eventStream, body: sse(chunks) },
  { name: "streamGenerateContent without alt=sse", streaming: true, headers: json, body: JSON.stringify(chunks) }
]

const isRight = (outcome: Outcome, hint?: string): void => {
  const got = digest(outcome)
  assert.strictEqual(outcome.error, undefined, hint)
  assert.strictEqual(got.text, "Grüezi 😀", hint)
  assert.strictEqual(got.reasoning, "Hm", hint)
  assert.deepStrictEqual(got.toolCalls, [
    { type: "tool-call", id: "w1", name: "weather", params: { city: "Zürich 😀" }, ...signature("c2ln") },
    { type: "tool-call", id: "invented_0", name: "clock", params: {} }
  ], hint)
  assert.deepStrictEqual(
    outcome.parts.filter(({ type }) => type === "source"),
    [["https://a.test/1", "A"], ["https://b.test/", "https://b.test/"]].map(([url, title], i) => ({
      type: "source" as const,
      sourceType: "url" as const,
      id: `source_${i}`,
      url: url!,
      title: title!
    }))
  )
  assert.strictEqual(got.finish?.reason, "tool-calls", hint)
  assert.deepStrictEqual(got.finish?.usage, usage, hint)
  assert.strictEqual(got.metadata?.modelId, "gemini-x")
  assert.strictEqual(got.metadata?.id, "r1")
}

describe("Gemini's answers", () => {
  for (const sample of samples) {
    const get = (body: string | ReadonlyArray<Uint8Array<ArrayBuffer>>) =>
      play(gemini, { headers: sample.headers, body }, sample.streaming)

    it.effect(`${sample.name}: decodes`, () =>
      Effect.gen(function*() {
        const random = seeded(hash(sample.name))
        for (let round = 0; round < 10; round++) {
          const outcome = yield* get(randomChunks(bytes(sample.body), random))
          isRight(outcome)
          wellFormed(outcome)
        }
      }))

    it.effect(`${sample.name}: cut at any byte gives a typed result`, () =>
      Effect.gen(function*() {
        const all = bytes(sample.body)
        for (let length = 0; length < all.length; length += sample.streaming ? 5 : 1) {
          const outcome = yield* get([Uint8Array.from(all.subarray(0, length))])
          wellFormed(outcome)
          // Only what follows the last chunk may be missing.
          if (outcome.error === undefined) isRight(outcome, `cut at ${length}`)
          else {
            assert.strictEqual(outcome.error.reason._tag, "MalformedResponse", `cut at ${length}`)
            assert.isTrue(classify(outcome.error).retry)
            assert.strictEqual(digest(outcome).finish, undefined)
            assert.strictEqual(digest(outcome).toolCalls.length, 0)
            if (sample.headers === eventStream && length > 0) {
              assert.strictEqual(problem(outcome), TRUNCATED, `cut at ${length}`)
            }
          }
        }
      }))

    it.effect(`${sample.name}: damaged anywhere gives a typed result`, () =>
      Effect.gen(function*() {
        const random = seeded(hash(sample.name) + 1)
        const junk = [
          "",
          "null",
          "0",
          "[]",
          "{}",
          "\"x\"",
          "\u0000",
          "é",
          "}",
          "]",
          ":",
          ",",
          "-1",
          "1e999",
          "\n",
          "\r"
        ]
        for (let round = 0; round < 150; round++) {
          const at = Math.floor(random() * sample.body.length)
          const body = sample.body.slice(0, at) + junk[Math.floor(random() * junk.length)]! +
            sample.body.slice(at + Math.floor(random() * 12))
          const outcome = yield* get(randomChunks(bytes(body), random))
          if (outcome.error !== undefined) assert.instanceOf(outcome.error, ProviderError, JSON.stringify(body))
          else wellFormed(outcome)
        }
      }))

    it.effect(`${sample.name}: any JSON value in place of any other gives a typed result`, () =>
      Effect.gen(function*() {
        const values = [null, 0, -1, 1.5, true, "", "x", "constructor", [], {}, [null], { error: {} }, [[]], {
          text: 1
        }]
        const framed = sample.headers === eventStream
        const pieces = framed ? sample.body.split("\r\n\r\n") : [sample.body]
        let tried = 0
        for (let p = 0; p < pieces.length; p++) {
          const at = pieces[p]!.search(/[{[]/)
          if (at === -1) continue
          const head = pieces[p]!.slice(0, at)
          for (const mutant of mutants(JSON.parse(pieces[p]!.slice(at)), values)) {
            tried++
            const body = pieces.map((piece, i) => i === p ? head + JSON.stringify(mutant) : piece).join("\r\n\r\n")
            const outcome = yield* get(body)
            if (outcome.error !== undefined) assert.instanceOf(outcome.error, ProviderError, body)
            else wellFormed(outcome)
          }
        }
        assert.isAbove(tried, 300)
      }))
  }

  it.effect("has a reason for each of Google's, and one of its own for calls", () =>
    Effect.gen(function*() {
      const cases: ReadonlyArray<[string | undefined, string]> = [
        ["STOP", "stop"],
        ["MAX_TOKENS", "length"],
        ...[
          "SAFETY",
          "RECITATION",
          "BLOCKLIST",
          "PROHIBITED_CONTENT",
          "SPII",
          "IMAGE_SAFETY",
          "IMAGE_PROHIBITED_CONTENT",
          "IMAGE_RECITATION",
          "MODEL_ARMOR"
        ].map((raw): [string, string] => [raw, "content-filter"]),
        ["MALFORMED_FUNCTION_CALL", "error"],
        ["UNEXPECTED_TOOL_CALL", "error"],
        ["TOO_MANY_TOOL_CALLS", "error"],
        ["LANGUAGE", "other"],
        ["OTHER", "other"],
        ["NO_IMAGE", "other"],
        ["IMAGE_OTHER", "other"],
        ["SOMETHING_NEW", "other"],
        ["constructor", "other"],
        [undefined, "unknown"]
      ]
      for (const [finishReason, reason] of cases) {
        const outcome = yield* whole(answer([{ text: "Hi" }], { finishReason }))
        assert.strictEqual(digest(outcome).finish?.reason, reason, finishReason)
        const called = yield* whole(answer([clock], { finishReason }))
        assert.strictEqual(digest(called).finish?.reason, reason === "stop" ? "tool-calls" : reason, finishReason)
        assert.strictEqual(digest(called).toolCalls.length, 1)
        if (finishReason === undefined) continue
        const stream = yield* streamed([candidate([{ text: "Hi" }]), candidate([clock], { finishReason })])
        assert.strictEqual(digest(stream).finish?.reason, reason === "stop" ? "tool-calls" : reason, finishReason)
        assert.deepStrictEqual(digest(stream).toolCalls, digest(called).toolCalls)
      }
    }))

  it.effect("a blocked prompt is an answer without content", () =>
    Effect.gen(function*() {
      const blocked = { promptFeedback: { blockReason: "SAFETY", safetyRatings: [] }, usageMetadata }
      for (const outcome of [yield* whole(JSON.stringify(blocked)), yield* streamed([blocked])]) {
        wellFormed(outcome)
        assert.strictEqual(digest(outcome).finish?.reason, "content-filter")
        assert.strictEqual(digest(outcome).finish?.usage.inputTokens.total, 10)
        assert.isFalse(outcome.parts.some(isContent))
        assert.isFalse(isReplayable({ parts: outcome.parts as never, target: "t", provider: "p" }))
      }
      // Feedback alone blocks nothing.
      const rated = yield* streamed([{ promptFeedback: { safetyRatings: [] } }, candidate([{ text: "H" }])])
      assert.strictEqual(problem(rated), TRUNCATED)
    }))

  it.effect("empty answers finish without content, and no candidate is no answer", () =>
    Effect.gen(function*() {
      const empty = [
        candidate([{ text: "" }], { finishReason: "STOP" }),
        { candidates: [{ finishReason: "STOP" }] },
        // Sources without content do not make an answer.
        candidate([], { finishReason: "STOP", ...grounding }),
        { candidates: [{ finishReason: "OTHER", finishMessage: "…" }] }
      ]
      for (const body of empty) {
        for (const outcome of [yield* whole(JSON.stringify(body)), yield* streamed([body])]) {
          wellFormed(outcome)
          assert.isDefined(digest(outcome).finish)
          assert.isFalse(outcome.parts.some(isContent))
          assert.isFalse(isReplayable({ parts: outcome.parts as never, target: "t", provider: "p" }))
        }
      }
      const none = yield* whole(JSON.stringify({ usageMetadata, modelVersion: "gemini-x" }))
      assert.strictEqual(problem(none), "the body holds no answer")
      assert.isTrue(classify(none.error!).failover !== false)
      assert.strictEqual(problem(yield* whole("[]")), "the body holds no answer")
      assert.strictEqual(problem(yield* streamed([{ usageMetadata }])), TRUNCATED)
    }))

  it.effect("a cut stream has told the tokens of its prompt", () =>
    Effect.gen(function*() {
      const { parts } = yield* streamed([candidate([{ text: "H" }], {}, { usageMetadata: { promptTokenCount: 8 } })])
      assert.deepStrictEqual(usageReported({ parts: parts as never, target: "t", provider: "p" }), { inputTokens: 8 })
    }))

  it.effect("a stream is whole when its last chunk of content has a reason", () =>
    Effect.gen(function*() {
      const stop = (text: string) => candidate([{ text }], { finishReason: "STOP" })
      // Older models tell the reason in every chunk; the last one counts.
      const each = yield* streamed([stop("a"), stop("b"), candidate([{ text: "c" }], { finishReason: "MAX_TOKENS" })])
      assert.strictEqual(digest(each).text, "abc")
      assert.strictEqual(digest(each).finish?.reason, "length")
      const after = yield* streamed([stop("a"), { usageMetadata }, candidate([], {})])
      assert.strictEqual(digest(after).finish?.reason, "stop")
      assert.deepStrictEqual(digest(after).finish?.usage, usage)
      const more = yield* streamed([stop("a"), candidate([{ text: "b" }])])
      assert.strictEqual(problem(more), TRUNCATED)
      assert.strictEqual(digest(more).text, "ab")
      const list = [candidate([{ text: "a" }]), candidate([{ text: "b" }])]
      const cut = yield* play(gemini, { headers: json, body: JSON.stringify(list) }, true)
      assert.strictEqual(problem(cut), TRUNCATED)
    }))

  it.effect("the last usage wins, unknown numbers are absent", () =>
    Effect.gen(function*() {
      const told = (...given: ReadonlyArray<unknown>) =>
        Effect.map(
          streamed(
            given.map((usageMetadata) => candidate([{ text: "a" }], { finishReason: "STOP" }, { usageMetadata }))
          ),
          (outcome) => digest(outcome).finish?.usage as unknown
        )
      assert.deepStrictEqual(
        yield* told({ promptTokenCount: 8 }, { promptTokenCount: 1089, candidatesTokenCount: 3 }, undefined),
        { inputTokens: { total: 1089 }, outputTokens: { total: 3 } }
      )
      assert.deepStrictEqual(yield* told({ promptTokenCount: 15, thoughtsTokenCount: 2 }), {
        inputTokens: { total: 15 },
        outputTokens: { total: 2, text: 0, reasoning: 2 }
      })
      assert.deepStrictEqual(yield* told({ promptTokenCount: 0 }), {
        inputTokens: { total: 0 },
        outputTokens: {}
      })
      assert.deepStrictEqual(yield* told(undefined), { inputTokens: {}, outputTokens: {} })
    }))

  it.effect("signatures stay with their part", () =>
    Effect.gen(function*() {
      const pieces = [
        { text: "Hm", thought: true, thoughtSignature: "dA==" },
        { text: "a" },
        { text: "b", thoughtSignature: "Yg==" },
        { text: "c" },
        { text: "d" },
        { text: "", thoughtSignature: "ZA==" },
        { inlineData: { mimeType: "image/png", data: "AQID" }, thoughtSignature: "aQ==" },
        { inlineData: { mimeType: "image/png", data: "AQID" }, thought: true }
      ]
      const first = yield* whole(answer(pieces))
      wellFormed(first)
      assert.deepStrictEqual(first.parts.slice(1, -1), [
        { type: "reasoning", text: "Hm", ...signature("dA==") },
        { type: "text", text: "a" },
        { type: "text", text: "b", ...signature("Yg==") },
        { type: "text", text: "cd" },
        { type: "text", text: "", ...signature("ZA==") },
        { type: "file", mediaType: "image/png", data: "AQID", ...signature("aQ==") }
      ])
      const chunks = pieces.map((piece) => candidate([piece], { finishReason: "STOP" }))
      const second = yield* streamed(chunks)
      wellFormed(second)
      assert.deepStrictEqual(second.parts.slice(1, -1), [
        { type: "reasoning-start", id: "0" },
        { type: "reasoning-delta", id: "0", delta: "Hm" },
        { type: "reasoning-end", id: "0", ...signature("dA==") },
        { type: "text-start", id: "1" },
        { type: "text-delta", id: "1", delta: "a" },
        { type: "text-end", id: "1" },
        { type: "text-start", id: "2" },
        { type: "text-delta", id: "2", delta: "b" },
        { type: "text-end", id: "2", ...signature("Yg==") },
        { type: "text-start", id: "3" },
        { type: "text-delta", id: "3", delta: "c" },
        { type: "text-delta", id: "3", delta: "d" },
        { type: "text-end", id: "3" },
        { type: "text-start", id: "4" },
        { type: "text-end", id: "4", ...signature("ZA==") },
        { type: "file", mediaType: "image/png", data: "AQID", ...signature("aQ==") }
      ])
    }))

  it.effect("files stay in their place", () =>
    Effect.gen(function*() {
      const file = { type: "file" as const, mediaType: "image/png", data: "AQID" }
      const pieces = [{ text: "a" }, { inlineData: { mimeType: "image/png", data: "AQID" } }, { text: "b" }]
      const first = yield* whole(answer(pieces))
      wellFormed(first)
      assert.deepStrictEqual(first.parts.slice(1, -1), [{ type: "text", text: "a" }, file, { type: "text", text: "b" }])
      const second = yield* streamed([candidate(pieces, { finishReason: "STOP" })])
      wellFormed(second)
      assert.deepStrictEqual(second.parts.slice(1, -1), [
        { type: "text-start", id: "0" },
        { type: "text-delta", id: "0", delta: "a" },
        { type: "text-end", id: "0" },
        file,
        { type: "text-start", id: "1" },
        { type: "text-delta", id: "1", delta: "b" },
        { type: "text-end", id: "1" }
      ])
    }))

  it.effect("sources of any kind are told once, after the text", () =>
    Effect.gen(function*() {
      const outcome = yield* whole(answer([{ text: "Hi" }], {
        groundingMetadata: {
          groundingChunks: [
            { web: { uri: "https://a.test/", title: "A" } },
            { retrievedContext: { uri: "gs://bucket/b", title: "B" } },
            { maps: { uri: "https://maps.test/c" } },
            { web: {} },
            {}
          ]
        },
        citationMetadata: { citations: [{}, { uri: "https://a.test/" }, { uri: "https://d.test/", title: "D" }] }
      }))
      wellFormed(outcome)
      assert.deepStrictEqual(
        outcome.parts.flatMap((part) =>
          part.type === "source" && part.sourceType === "url" ? [[part.url, part.title]] : []
        ),
        [
          ["https://a.test/", "A"],
          ["gs://bucket/b", "B"],
          ["https://maps.test/c", "https://maps.test/c"],
          ["https://d.test/", "D"]
        ]
      )
      assert.deepStrictEqual(outcome.parts.map(({ type }) => type).slice(0, 3), ["response-metadata", "text", "source"])
    }))

  it.effect("what is kept of a stream until its end is bounded", () =>
    Effect.gen(function*() {
      const make = Gemini.make({ apiKey, maxBodyBytes: 2048 })
      const long = "x".repeat(200)
      const kinds: ReadonlyArray<(i: number) => unknown> = [
        (i) => candidate([], { citationMetadata: { citations: [{ uri: `https://${i}.test/${long}` }] } }),
        () => candidate([{ functionCall: { name: "f", args: { long } } }]),
        () => candidate([{ functionCall: { name: "f" }, thoughtSignature: long }])
      ]
      for (const kind of kinds) {
        const body = sse([...Array(20).keys()].map(kind))
        const outcome = yield* play(make, { headers: eventStream, body }, true)
        assert.match(problem(outcome)!, /larger than allowed/)
      }
      const text = sse([...[...Array(20).keys()].map(() => candidate([{ text: long }])), {
        candidates: [{ finishReason: "STOP" }]
      }])
      assert.strictEqual((yield* play(make, { headers: eventStream, body: text }, true)).error, undefined)
    }))

  it.effect("errors inside a 200, in every shape", () =>
    Effect.gen(function*() {
      const error = { error: { code: 503, message: "The model is overloaded.", status: "UNAVAILABLE" } }
      const first = yield* streamed([error])
      assert.strictEqual(problem(first), "Overloaded")
      assert.deepStrictEqual(first.parts, [])
      const later = yield* streamed([candidate([{ text: "H" }], { finishReason: "STOP" }), [error]])
      assert.strictEqual(problem(later), "Overloaded")
      assert.strictEqual(digest(later).text, "H")
      assert.strictEqual(digest(later).finish, undefined)
      for (const body of [error, [error], [candidate([{ text: "H" }]), error]]) {
        const outcome = yield* whole(JSON.stringify(body))
        assert.strictEqual(problem(outcome), "Overloaded")
        assert.isUndefined(outcome.error?.status)
      }
    }))

  it.effect("error bodies: lists, delays, and a spent minute against a spent day", () =>
    Effect.gen(function*() {
      const quota = (...ids: ReadonlyArray<string>) => ({
        error: {
          code: 429,
          message: "You exceeded your current quota, please check your plan and billing details.",
          status: "RESOURCE_EXHAUSTED",
          details: [
            { "@type": "type.googleapis.com/google.rpc.QuotaFailure", violations: ids.map((quotaId) => ({ quotaId })) },
            { "@type": "type.googleapis.com/google.rpc.RetryInfo", retryDelay: "34.4s" }
          ]
        }
      })
      const minute = "GenerateRequestsPerMinutePerProjectPerModel-FreeTier"
      const day = "GenerateRequestsPerDayPerProjectPerModel-FreeTier"
      const failed = (status: number, body: unknown, streaming: boolean) =>
        play(gemini, {
          status,
          headers: streaming ? eventStream : json,
          body: typeof body === "string" ? body : JSON.stringify(body)
        }, streaming)
      for (const streaming of [false, true]) {
        const limited = yield* failed(429, [quota(minute)], streaming)
        assert.strictEqual(problem(limited), "RateLimit")
        assert.strictEqual(limited.error?.status, 429)
        assert.strictEqual(limited.error?.code, "RESOURCE_EXHAUSTED")
        assert.strictEqual(Duration.toMillis(limited.error!.retryAfter!), 34_400)
        assert.notInclude(limited.error!.message, "billing")
        const spent = yield* failed(429, quota(minute, day), streaming)
        assert.strictEqual(problem(spent), "Quota")
        const text = yield* failed(429, { error: { code: 429, message: "Please retry in 48.93s." } }, streaming)
        assert.strictEqual(Duration.toMillis(text.error!.retryAfter!), 48_930)
        const key = yield* failed(400, {
          error: { code: 400, message: "…", status: "INVALID_ARGUMENT", details: [{ reason: "API_KEY_INVALID" }] }
        }, streaming)
        assert.strictEqual(problem(key), "Authentication")
        assert.strictEqual(
          problem(yield* failed(499, { error: { code: 499, status: "CANCELLED" } }, streaming)),
          "ClientClosed"
        )
        assert.strictEqual(
          problem(yield* failed(500, { error: { code: 500, status: "INTERNAL" } }, streaming)),
          "Server"
        )
        assert.strictEqual(
          problem(yield* failed(504, { error: { code: 504, status: "DEADLINE_EXCEEDED" } }, streaming)),
          "Timeout"
        )
        assert.strictEqual(problem(yield* failed(502, "<html>Bad Gateway</html>", streaming)), "Server")
      }
    }))
})
