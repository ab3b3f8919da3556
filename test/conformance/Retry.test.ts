import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Fiber, Redacted, Stream } from "effect"
import { type LlmConfig, LlmError, LlmProvider } from "effect-resilient-llm"
import { retryAfterOf } from "effect-resilient-llm/providers/internal/headers"
import { OpenAi } from "effect-resilient-llm/providers/OpenAi"
import { Retry } from "effect-resilient-llm/resilience"
import { CountingClock, ScriptedProvider } from "effect-resilient-llm/testing"
import { HttpClient, HttpClientResponse } from "effect/http"
import { TestClock } from "effect/testing"
import { ask, failure, kinds, nothingHeld, now, setUp, success, timed, vector } from "../support.ts"
import {
  always,
  answered,
  assertInterrupted,
  breaker,
  code,
  failing,
  find,
  interrupt,
  millis,
  network,
  over,
  overloads,
  rateLimited,
  setUpWith,
  start,
  succeeds,
  timers,
  word
} from "./support.ts"

const { answer, stream } = ScriptedProvider

const gaps = (calls: ReadonlyArray<number>): ReadonlyArray<number> => calls.slice(1).map((at, i) => at - calls[i]!)

const policy = (options: Retry.Options = {}) =>
  Retry.policy({ maxRetries: 2, baseDelay: 500, maxDelay: 8000, ...options })

describe.each(kinds)("%s", (kind) => {
  /** The vector of most rows: one target, one call; when it was asked, when and how the call ended. */
  const row = (
    script: Parameters<typeof setUp>[0][0],
    expected: { readonly calls: ReadonlyArray<number>; readonly at: number; readonly word: string },
    options: LlmConfig.Options = {}
  ) =>
    Effect.gen(function*() {
      const r = yield* setUp([script], options)
      const { at, exit } = yield* timed(ask(kind, r.client))
      assert.deepStrictEqual(yield* r.calls(), expected.calls)
      assert.strictEqual(at, expected.at)
      assert.strictEqual(Exit.isSuccess(exit) ? exit.value.text : word(failure(exit)), expected.word)
      yield* nothingHeld(r)
      return exit
    })

  const delays = (u: number, expected: ReadonlyArray<number>) =>
    vector(
      Effect.gen(function*() {
        const r = yield* setUp([always(overloads)], {
          retry: { maxRetries: expected.length, baseDelay: 500, maxDelay: 8000 }
        })
        yield* timed(ask(kind, r.client))
        assert.deepStrictEqual(gaps(yield* r.calls()), expected)
        yield* nothingHeld(r)
      }),
      u
    )

  it.effect("R1 delays with u = 0", () => delays(0, [250, 500, 1000, 2000, 4000, 4000]))

  it.effect("R2 always F: three calls, the last failure, no sleep after it", () =>
    vector(Effect.gen(function*() {
      const e1 = answered(503, { "x-request-id": "one" })
      const e3 = answered(503, { "x-request-id": "three" })
      const exit = yield* row([failing(e1), overloads, failing(e3)], {
        calls: [0, 375, 1125],
        at: 1125,
        word: "Overloaded"
      })
      const error = failure(exit) as LlmError.ProviderError
      assert.strictEqual(error.status, 503)
      assert.strictEqual(error.requestId, "three")
      assert.strictEqual(yield* (yield* CountingClock.CountingClock).started, 2)
    })))

  it.effect("R3 delays with u = .5: jitter survives at the cap", () => delays(0.5, [375, 750, 1500, 3000, 6000, 6000]))

  it.effect("R3 the tenth delay is 4000 with u = 0", () =>
    delays(0, [250, 500, 1000, 2000, 4000, 4000, 4000, 4000, 4000, 4000]))

  it.effect("R4 F, then S", () => vector(row([overloads, succeeds], { calls: [0, 375], at: 375, word: "Hello." })))

  it.effect.each<[string, LlmError.ProviderError, string]>([
    ["400", answered(400, {}, code("invalid_value")), "InvalidRequest"],
    ["401", answered(401), "Authentication"],
    ["403", answered(403), "Permission"],
    ["404", answered(404), "NotFound"],
    ["413", answered(413), "PayloadTooLarge"],
    ["422", answered(422, {}, code("invalid_value")), "InvalidRequest"],
    ["501", answered(501), "Server"],
    ["content policy", answered(400, {}, code("content_policy_violation")), "ContentPolicy"]
  ])(
    "R5 %s: one call, its own typed error at 0",
    ([, error, reason]) => vector(row(always(failing(error)), { calls: [0], at: 0, word: reason }))
  )

  it.effect("R6 429 with a hint of 2 s", () =>
    vector(row([rateLimited("2 seconds"), succeeds], { calls: [0, 2100], at: 2100, word: "Hello." })))

  it.effect("R7 429 with a hint of 0", () =>
    vector(row([rateLimited(0), succeeds], { calls: [0, 375], at: 375, word: "Hello." })))

  it.effect("R8 503 with a hint of 30 s", () =>
    vector(
      row([failing(answered(503, { "retry-after": "30" })), succeeds], {
        calls: [0, 30_500],
        at: 30_500,
        word: "Hello."
      })
    ))

  it.effect("R9 retry-after-ms beats retry-after", () =>
    vector(
      row([failing(answered(429, { "retry-after-ms": "1500", "retry-after": "9" })), succeeds], {
        calls: [0, 1500],
        at: 1500,
        word: "Hello."
      }),
      0
    ))

  it.effect("R10 a hint of three days: one call, RateLimit at 0, the hint kept", () =>
    vector(Effect.gen(function*() {
      const exit = yield* row(always(failing(answered(429, { "retry-after": "277403" }))), {
        calls: [0],
        at: 0,
        word: "RateLimit"
      })
      const error = failure(exit) as LlmError.ProviderError
      assert.strictEqual(millis(error.retryAfter), 277_403_000)
      assert.deepStrictEqual(find(error.ledger, "RetryDenied").map((e) => e.because), ["retry-after"])
      assert.strictEqual(yield* (yield* CountingClock.CountingClock).started, 0)
    })))

  const wall = Date.parse("2026-01-01T00:00:00Z")

  it.effect.each<[string, number]>([
    ["Thu, 01 Jan 2026 00:00:05 GMT", 5000],
    ["Thu, 01 Jan 2026 00:00:00 GMT", 250],
    ["Wed, 31 Dec 2025 23:59:00 GMT", 250]
  ])("R11 a hint as a date: %s", ([date, at]) =>
    vector(
      row([failing(answered(429, { "retry-after": date }, "", wall)), succeeds], {
        calls: [0, at],
        at,
        word: "Hello."
      }),
      0
    ))

  it.effect.each(["-5", "1.5", "abc", "", "5 s"])("R12 the hint '%s' is no hint", (text) =>
    vector(
      row([failing(answered(429, { "retry-after": text })), succeeds], { calls: [0, 250], at: 250, word: "Hello." }),
      0
    ))

  it.effect("R13 interrupted in backoff", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([always(overloads)])
      const call = yield* start(ask(kind, r.client))
      yield* TestClock.adjust(100)
      yield* interrupt(call)
      assertInterrupted(call, 100)
      assert.deepStrictEqual(yield* r.calls(), [0])
      yield* nothingHeld(r)
      yield* TestClock.adjust("1 hour")
      assert.deepStrictEqual(yield* r.calls(), [0])
    })))

  it.effect("R14 a deadline of 1000: no sleep that cannot end before it", () =>
    vector(Effect.gen(function*() {
      const exit = yield* row(always(overloads), { calls: [0, 375], at: 375, word: "Overloaded" }, {
        timeout: { ...timers, deadline: 1000 }
      })
      assert.deepStrictEqual(find(failure(exit).ledger, "RetryDenied").map((e) => e.because), ["deadline"])
    })))

  it.effect("R15 one counter for all causes", () =>
    vector(row([overloads, overloads, network, succeeds], { calls: [0, 375, 1125], at: 1125, word: "Network" })))

  it.effect.each<[string, LlmError.ProviderError, string]>([
    ["429 with code insufficient_quota", answered(429, {}, code("insufficient_quota")), "Quota"],
    ["503 with x-should-retry: false", answered(503, { "x-should-retry": "false" }), "Overloaded"]
  ])(
    "R16 %s: one call (the class of a 503 is Overloaded here, PROVIDERS §6)",
    ([, error, reason]) => vector(row(always(failing(error)), { calls: [0], at: 0, word: reason }))
  )

  it.effect("R17 400 with x-should-retry: true, then S", () =>
    vector(
      row([failing(answered(400, { "x-should-retry": "true" })), succeeds], {
        calls: [0, 375],
        at: 375,
        word: "Hello."
      })
    ))

  it.effect("R20 the body of a failed attempt is closed before the next one", () =>
    vector(Effect.gen(function*() {
      const log: Array<string> = []
      const note = (text: string) => Effect.map(now, (at) => void log.push(`${text} ${at}`))
      const body = Effect.acquireRelease(note("open"), () => note("closed"))
      const parts = Effect.andThen(body, Effect.fail(answered(503)))
      const provider = {
        ...LlmProvider.make({
          id: "p",
          generate: () => Effect.scoped(parts),
          stream: () => Stream.unwrap(Effect.as(body, Stream.fail(answered(503))))
        }),
        requests: Effect.succeed([]),
        active: Effect.succeed(0),
        play: () => Effect.void
      }
      const r = yield* setUpWith([provider], { retry: { maxRetries: 1, baseDelay: 500, maxDelay: 8000 } })
      const call = yield* start(ask(kind, r.client))
      yield* TestClock.adjust(374)
      assert.deepStrictEqual(log, ["open 0", "closed 0"])
      yield* TestClock.adjust(1)
      assert.strictEqual(word(failure(over(call))), "Overloaded")
      assert.deepStrictEqual(log, ["open 0", "closed 0", "open 375", "closed 375"])
    })))

  it.effect("R21 the breaker opens on the second failure: no sleep, the original 503", () =>
    vector(Effect.gen(function*() {
      const exit = yield* row(always(overloads), { calls: [0, 375], at: 375, word: "Overloaded" }, {
        circuitBreaker: { ...breaker, failureThreshold: 2 }
      })
      assert.deepStrictEqual(find(failure(exit).ledger, "RetryDenied").map((e) => e.because), ["circuit-open"])
      assert.strictEqual(yield* (yield* CountingClock.CountingClock).started, 1)
    })))

  it.effect("R21 the breaker opens on the second failure: the secondary at once", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([always(overloads), always(succeeds)], {
        circuitBreaker: { ...breaker, failureThreshold: 2 }
      })
      const { at, exit } = yield* timed(ask(kind, r.client))
      assert.strictEqual(success(exit).target, "s")
      assert.strictEqual(at, 375)
      assert.deepStrictEqual([yield* r.calls(0), yield* r.calls(1)], [[0, 375], [375]])
      yield* nothingHeld(r)
    })))

  it.effect("R22 livekit PR#5335, code_puppy PR#317: three attempts are three HTTP requests, adapters do not retry", () =>
    vector(Effect.gen(function*() {
      let requests = 0
      const http = HttpClient.make((request) =>
        Effect.sync(() => {
          requests += 1
          return HttpClientResponse.fromWeb(request, new Response("", { status: 503 }))
        })
      )
      const openai = yield* OpenAi.make({ apiKey: Redacted.make("key") }).pipe(
        Effect.provideService(HttpClient.HttpClient, http)
      )
      const scripted = yield* ScriptedProvider.make()
      const r = yield* setUpWith([{ ...scripted, ...openai }])
      const fiber = yield* Effect.forkChild(Effect.exit(ask(kind, r.client)), { startImmediately: true })
      // The body of an error is read through a web stream, which is not the clock's.
      const turn = Effect.promise(() => new Promise<void>((done) => setImmediate(done)))
      for (let i = 0; fiber.pollUnsafe() === undefined && i < 200; i++) {
        yield* turn
        yield* TestClock.adjust(100)
      }
      assert.strictEqual(word(failure(yield* Fiber.join(fiber))), "Overloaded")
      assert.strictEqual(requests, 3)
      yield* nothingHeld(r)
    })))

  describe("bugs other projects shipped", () => {
    it.effect("openai-node#2580, vercel/ai#7656, opensea-sdk#2003, cockatiel, smithy: an abort in backoff ends it now", () =>
      vector(Effect.gen(function*() {
        const r = yield* setUp([{ script: [overloads], always: succeeds }], {
          retry: { maxRetries: 2, baseDelay: "1 hour", maxDelay: "1 hour" }
        })
        const call = yield* start(ask(kind, r.client))
        yield* TestClock.adjust(1)
        yield* interrupt(call)
        assertInterrupted(call, 1)
        yield* TestClock.adjust("2 hours")
        assert.deepStrictEqual(yield* r.calls(), [0])
        yield* nothingHeld(r)
      })))

    it.effect("sim PR#6281: an abort in backoff is an abort, not the HTTP error before it", () =>
      vector(Effect.gen(function*() {
        const r = yield* setUp([always(overloads), always(succeeds)])
        const call = yield* start(ask(kind, r.client))
        yield* TestClock.adjust(500)
        yield* interrupt(call)
        assertInterrupted(call, 500)
        assert.deepStrictEqual([yield* r.calls(0), yield* r.calls(1)], [[0, 375], []])
        yield* nothingHeld(r)
      })))

    it.effect("pi#6911: a monthly quota's hint is not slept, with or without a deadline", () =>
      vector(Effect.gen(function*() {
        for (const timeout of [false, timers] as const) {
          yield* row(always(failing(answered(429, { "retry-after": "277403" }))), {
            calls: [0],
            at: 0,
            word: "RateLimit"
          }, {
            timeout
          })
        }
      })))

    it.effect("xingyu#72: every attempt has a whole timer of its own", () =>
      vector(row(
        always({ ...succeeds, delay: 1001 }),
        { calls: [0, 1375, 3125], at: 4125, word: "AttemptTimeout attempt" },
        { timeout: { ...timers, attempt: 1000 } }
      )))

    it.effect("Effect retryTransient: failures of two kinds share one counter", () =>
      vector(
        row([overloads, network, overloads, network, succeeds], { calls: [0, 375, 1125], at: 1125, word: "Overloaded" })
      ))

    it.effect("Kevlar#506: no sleep past the deadline, also when the hint asks for it", () =>
      vector(row(always(rateLimited("2 seconds")), { calls: [0], at: 0, word: "RateLimit" }, {
        timeout: { ...timers, deadline: 2100 }
      })))

    it.effect("vercel/ai#5018, openai-node#1840: a hint is obeyed, but not beyond its cap", () =>
      vector(row([rateLimited(59_999), succeeds], { calls: [0, 60_499], at: 60_499, word: "Hello." })))

    it.effect("vercel/ai#5018, openai-node#1840: a hint above 60 s is the end", () =>
      vector(row(always(rateLimited(60_001)), { calls: [0], at: 0, word: "RateLimit" })))

    it.effect("litellm#20722: the delay follows the latest failure, not the first", () =>
      vector(row([rateLimited("10 seconds"), rateLimited("2 seconds"), succeeds], {
        calls: [0, 10_500, 12_600],
        at: 12_600,
        word: "Hello."
      })))
  })
})

describe("stream", () => {
  it.effect.each<[string, ScriptedProvider.Step]>([
    ["an error", stream({ type: "text-start", id: "0" }, { error: answered(503) })],
    ["a cut", stream({ type: "text-start", id: "0" }, ScriptedProvider.cut)],
    ["an error part", stream({ type: "text-start", id: "0" }, { type: "error", error: "broken" })]
  ])(
    "R18 %s before the first content: retried, and only the second stream is seen",
    ([, first]) =>
      vector(Effect.gen(function*() {
        const r = yield* setUp([[first, stream("Hi")]])
        const { at, exit } = yield* timed(Stream.runCollect(r.client.stream("Hello?")))
        const parts = success(exit).map((part) => part.type === "text-delta" ? part.delta : part.type)
        assert.deepStrictEqual(parts, ["response-metadata", "Hi", "finish"])
        assert.strictEqual(at, 375)
        assert.deepStrictEqual(yield* r.calls(), [0, 375])
        yield* nothingHeld(r)
      }))
  )

  it.effect("R19 content, then a reset: the content, then StreamInterrupted, one call", () =>
    vector(Effect.gen(function*() {
      const lost = new LlmError.ProviderError({ provider: "p", reason: { _tag: "Network", sent: true } })
      const reset = stream("A", { error: lost })
      const r = yield* setUp([{ script: [reset], always: succeeds }])
      const seen: Array<string> = []
      const { at, exit } = yield* timed(
        Stream.runForEach(r.client.stream("Hello?"), (part) => Effect.sync(() => seen.push(part.type)))
      )
      const error = failure(exit)
      assert.strictEqual(word(error), "StreamInterrupted reset")
      assert.strictEqual((error as LlmError.StreamInterrupted).partialParts, 1)
      assert.strictEqual(at, 0)
      assert.deepStrictEqual(seen, ["response-metadata", "text-delta"])
      assert.deepStrictEqual(yield* r.calls(), [0])
      yield* nothingHeld(r)
    })))

  it.effect("litellm#29808, OrcaRouter-Lite#115: an error after content is final, no second answer is spliced in", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([
        { script: [stream("A", { type: "error", error: "overloaded" })], always: answer("B") },
        always(succeeds)
      ])
      const { exit } = yield* timed(Stream.runCollect(r.client.stream("Hello?")))
      assert.strictEqual(word(failure(exit)), "StreamInterrupted error")
      assert.deepStrictEqual([yield* r.calls(0), yield* r.calls(1)], [[0], []])
      yield* nothingHeld(r)
    })))
})

describe("core", () => {
  it("R3 the tenth delay is 6000 with u = .5, and the two-thousandth is finite", () => {
    assert.strictEqual(Retry.backoffMillis(policy(), 10, 0.5), 6000)
    assert.strictEqual(Retry.backoffMillis(policy(), 2000, 0.5), 6000)
    assert.strictEqual(Retry.backoffMillis(policy({ maxDelay: Infinity }), 2000, 0.5), 500 * 2 ** 60 * 0.75)
  })

  it("Polly#2163: no overflow at large attempts, whatever the factor", () => {
    for (const k of [61, 1024, 1_000_000, Number.MAX_SAFE_INTEGER]) {
      assert.strictEqual(Retry.backoffMillis(policy({ factor: 10 }), k, 0.5), 6000)
    }
  })

  it("finagle Backoff, r4j: the jitter does not end at the cap", () => {
    assert.deepStrictEqual([0, 0.25, 0.999].map((u) => Retry.backoffMillis(policy(), 20, u)), [4000, 5000, 7996])
  })

  it("Polly DelayGenerator: no delay of our own is above its maximum", () => {
    for (const jitter of ["equal", "full", "none"] as const) {
      for (let k = 1; k <= 70; k++) assert.isAtMost(Retry.backoffMillis(policy({ jitter }), k, 1 - 2 ** -53), 8000)
    }
  })

  it("R9 R12 headers: what is a hint and what is none", () => {
    const at = (headers: Record<string, string>) => retryAfterOf(headers, 0)
    assert.strictEqual(at({ "retry-after-ms": "1500", "retry-after": "9" }), 1500)
    assert.strictEqual(at({ "retry-after-ms": "-1", "retry-after": "9" }), 9000)
    assert.strictEqual(at({ "retry-after-ms": "abc", "retry-after": "9" }), 9000)
    for (const value of ["-5", "1.5", "abc", "", "5 s", "NaN", "Infinity", "1e3", "0x10"]) {
      assert.strictEqual(at({ "retry-after": value }), undefined, value)
    }
  })
})
