import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Layer, Stream } from "effect"
import { LlmClient, type LlmConfig, LlmError } from "effect-resilient-llm"
import { CountingClock, ScriptedProvider } from "effect-resilient-llm/testing"
import { TestClock } from "effect/testing"
import { vi } from "vitest"
import { ask, failure, kinds, nothingHeld, now, setUp, success, timed, vector, vectorOptions } from "../support.ts"
import {
  ageOf,
  always,
  breaker,
  budget,
  callAtOnce,
  find,
  millis,
  over,
  overloads,
  perTenSeconds,
  rateLimited,
  recorded,
  start,
  succeeds,
  tags,
  timers,
  word
} from "./support.ts"

const { hang, stream } = ScriptedProvider

/** So many requests, and none more for a day. */
const perDay = (limit: number) => [{ dimension: "requests", limit, per: "1 day" }] as const

describe.each(kinds)("%s", (kind) => {
  const twoTargets = setUp([always(overloads), always(succeeds)], { retryBudget: budget, circuitBreaker: breaker })

  /** Three requests, one after the other. */
  const first = Effect.gen(function*() {
    const r = yield* twoTargets
    const one = Effect.gen(function*() {
      const { at, exit } = yield* timed(ask(kind, r.client), 0)
      return { at, exit }
    })
    const calls: Array<number> = []
    const all = yield* start(Effect.forEach([1, 2, 3], () =>
      Effect.andThen(
        Effect.map(ask(kind, r.client), (response) => assert.strictEqual(response.target, "s")),
        Effect.map(now, (at) => void calls.push(at))
      )))
    yield* TestClock.adjust(1500)
    success(over(all))
    return { r, one, finished: calls }
  })

  it.effect("E1 p always F, s always S, three requests: they end at 1125, 1500, 1500; the fifth failure opens p", () =>
    vector(Effect.gen(function*() {
      const { finished, r } = yield* first
      assert.deepStrictEqual(finished, [1125, 1500, 1500])
      assert.deepStrictEqual(yield* r.calls(0), [0, 375, 1125, 1125, 1500])
      assert.deepStrictEqual(yield* r.calls(1), [1125, 1500, 1500])
      const { targets: [p, s] } = yield* r.client.status
      assert.strictEqual(p?.circuit?.state, "open")
      assert.strictEqual(millis(p?.circuit?.retryAfter), 5000)
      assert.strictEqual(s?.circuit?.state, "closed")
      yield* nothingHeld(r)
    })))

  it.effect("E2 a request at 6499: p is not called", () =>
    vector(Effect.gen(function*() {
      const { one, r } = yield* first
      yield* TestClock.adjust(4999)
      const { at, exit } = yield* one
      assert.strictEqual(success(exit).target, "s")
      assert.strictEqual(at, 0)
      assert.strictEqual((yield* r.calls(0)).length, 5)
      yield* nothingHeld(r)
    })))

  it.effect("E2 a request at 6500: p is probed once, open until 16 500, then s", () =>
    vector(Effect.gen(function*() {
      const { one, r } = yield* first
      yield* TestClock.adjust(5000)
      const { at, exit } = yield* one
      assert.strictEqual(success(exit).target, "s")
      assert.strictEqual(at, 0)
      assert.deepStrictEqual((yield* r.calls(0)).slice(5), [6500])
      assert.strictEqual(millis((yield* r.client.status).targets[0]?.circuit?.retryAfter), 10_000)
      yield* nothingHeld(r)
    })))

  it.effect("E3 everything on, both always F, an answer stored at 0: stale at 100 000, with its age and its story", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([{ script: [succeeds], always: overloads }, always(overloads)], {
        retryBudget: budget,
        circuitBreaker: breaker,
        timeout: timers,
        rateLimit: perTenSeconds(10),
        idempotency: {},
        bulkhead: { maxConcurrent: 20, queue: 100, maxWait: "30 seconds" },
        cache: { ttl: "60 seconds", staleIfError: "1 hour" }
      })
      yield* ask(kind, r.client)
      yield* TestClock.adjust(100_000)
      const { at, exit } = yield* timed(ask(kind, r.client))
      const response = success(exit)
      assert.strictEqual(at, 2250)
      assert.deepStrictEqual([response.source, response.text, ageOf(response)], ["stale", "Hello.", 100_000])
      assert.deepStrictEqual((yield* r.calls(0)).slice(1), [100_000, 100_375, 101_125])
      assert.deepStrictEqual(yield* r.calls(1), [101_125, 101_500, 102_250])
      const { ledger } = response
      assert.strictEqual(find(ledger, "AttemptFailed").length, 6)
      assert.deepStrictEqual(find(ledger, "FailedOver").map((e) => e.at), [1125])
      assert.deepStrictEqual(find(ledger, "Cache").map(({ age, error, result }) => [result, age, error?.tag]), [
        ["stale", 100_000, "AllProvidersFailed"]
      ])
      assert.deepStrictEqual(find(ledger, "CallEnded").map((e) => e.outcome), ["stale"])
      yield* nothingHeld(r)
    })))

  it.effect("E4 everything on, nothing fails: one call at 0, the result at 0, no sleep, one token, one permit", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([always(succeeds)], {
        retryBudget: budget,
        circuitBreaker: breaker,
        timeout: timers,
        rateLimit: { capacity: 2, refillPerSecond: 1e-6, maxWait: 0 },
        idempotency: {},
        bulkhead: { maxConcurrent: 1, queue: 0 },
        cache: {}
      })
      const call = yield* start(ask(kind, r.client))
      assert.strictEqual(success(over(call)).source, "provider") // without a turn of the clock
      assert.strictEqual(call.at(), 0)
      assert.deepStrictEqual(yield* r.calls(), [0])
      assert.strictEqual(yield* (yield* CountingClock.CountingClock).started, 0)
      yield* nothingHeld(r)
      assert.strictEqual((yield* ask(kind, r.client)).source, "provider") // the permit is back, one token was left
      const another = { prompt: "Another question" } // the cache could stand in for the first one
      assert.strictEqual((yield* Effect.flip(ask(kind, r.client, another)))._tag, "RateLimited")
    })))

  it.effect("E6 p always 429 with 1 s: calls [0, 1050, 2100], the block adds no wait, the breaker counts nothing", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([always(rateLimited("1 second"))], { circuitBreaker: breaker }, [
        { limits: perTenSeconds(10) }
      ])
      const { at, exit } = yield* timed(ask(kind, r.client))
      assert.strictEqual(word(failure(exit)), "RateLimit")
      assert.strictEqual(at, 2100)
      assert.deepStrictEqual(yield* r.calls(), [0, 1050, 2100])
      assert.deepStrictEqual(find(failure(exit).ledger, "Waited"), [])
      assert.deepInclude((yield* r.client.status).targets[0]?.circuit, { state: "closed", calls: 0, streak: 0 })
      yield* nothingHeld(r)
    })))

  it.effect("E6 three requests are used, their tokens are all given back", () =>
    vector(Effect.gen(function*() {
      // One estimate fits: without the refund the second attempt would find no tokens.
      const r = yield* setUp([{ script: Array(3).fill(rateLimited("1 second")), always: succeeds }], {}, [{
        limits: [...perDay(4), { dimension: "tokens", limit: 1100, per: "1 day" }]
      }])
      const request = { prompt: "Hi", maxTokens: 1000 }
      assert.strictEqual(word(failure((yield* timed(ask(kind, r.client, request), 10_000)).exit)), "RateLimit")
      success((yield* timed(ask(kind, r.client, request), 10_000)).exit)
      const error = failure((yield* timed(ask(kind, r.client, request), 10_000)).exit)
      assert.strictEqual(error._tag === "RateLimited" ? error.dimension : error._tag, "requests")
      assert.strictEqual((yield* r.calls()).length, 4)
    })))

  it.effect("E7 a stream holds the only permit for 10 s: who has 5 s fails at 5000, unsent and unpaid", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([[stream("a", { wait: 10_000 }, "b")]], {
        timeout: timers,
        bulkhead: { maxConcurrent: 1, queue: 100, maxWait: "30 seconds" },
        rateLimit: { capacity: 2, refillPerSecond: 1e-6, maxWait: 0 }
      }, [{ limits: perDay(2) }])
      const a = yield* start(ask("stream", r.client))
      const b = yield* start(ask(kind, r.client, { prompt: "Hi", deadline: "5 seconds" }))
      yield* TestClock.adjust("1 minute")
      assert.strictEqual(success(over(a)).text, "ab")
      assert.strictEqual(word(failure(over(b))), "DeadlineExceeded")
      assert.strictEqual(b.at(), 5000)
      assert.deepStrictEqual(yield* r.calls(), [0])
      success(yield* Effect.exit(ask(kind, r.client)))
      assert.strictEqual((yield* Effect.flip(ask(kind, r.client)))._tag, "RateLimited")
      yield* nothingHeld(r)
    })))

  it.effect("E8 an open breaker is seen before anything is spent: neither p's limiter nor the client's", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([{ script: [overloads], always: succeeds }], {
        retry: false,
        circuitBreaker: { ...breaker, failureThreshold: 1 },
        rateLimit: { capacity: 2, refillPerSecond: 1e-6, maxWait: 0 }
      }, [{ limits: perDay(2) }])
      yield* Effect.exit(ask(kind, r.client))
      for (let i = 0; i < 5; i++) assert.strictEqual((yield* Effect.flip(ask(kind, r.client)))._tag, "CircuitOpen")
      yield* TestClock.adjust(5000)
      success(yield* Effect.exit(ask(kind, r.client))) // the second of two
      assert.strictEqual((yield* Effect.flip(ask(kind, r.client)))._tag, "RateLimited")
      yield* nothingHeld(r)
    })))

  it.effect("§0.2 no token is spent for an attempt that never reached its transport", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([always(succeeds), always(succeeds)], {
        rateLimit: { capacity: 2, refillPerSecond: 1e-6, maxWait: 0 }
      }, [
        { limits: perDay(1) }
      ])
      assert.strictEqual((yield* ask(kind, r.client)).target, "p")
      // p's own limit refuses after the client's bucket has granted: s finds that last token again.
      assert.strictEqual((yield* ask(kind, r.client)).target, "s")
      yield* nothingHeld(r)
    })))

  it.effect("§0.2 the bucket that all targets share refuses once, for all of them", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([always(succeeds), always(succeeds)], {
        rateLimit: { capacity: 1, refillPerSecond: 1e-6, maxWait: 0 }
      })
      yield* ask(kind, r.client)
      const error = yield* Effect.flip(ask(kind, r.client))
      assert.strictEqual(error._tag, "RateLimited")
      assert.deepStrictEqual(tags(error.ledger), ["CallStarted", "AttemptRefused", "CallEnded"])
      assert.deepStrictEqual([yield* r.calls(0), yield* r.calls(1)], [[0], []])
      yield* nothingHeld(r)
    })))

  it.effect("E9 a half-open p whose permits are busy for 60 s: who waits for one holds no half-open slot", () =>
    vector(Effect.gen(function*() {
      const long = { ...succeeds, delay: 60_000 }
      const r = yield* setUp([{ script: [long, overloads, long], always: succeeds }], {
        retry: false,
        circuitBreaker: { ...breaker, failureThreshold: 1 },
        bulkhead: { maxConcurrent: 2, queue: 100, maxWait: "60 seconds" }
      })
      const before = yield* start(ask(kind, r.client)) // holds a permit until 60 000
      yield* Effect.exit(ask(kind, r.client)) // opens
      yield* TestClock.adjust(5000)
      const probe = yield* start(ask(kind, r.client)) // holds the other until 65 000
      const waiting = yield* start(ask(kind, r.client))
      yield* TestClock.adjust(1)
      const { targets: [status] } = yield* r.client.status
      assert.deepInclude(status?.circuit, { state: "half-open", probes: 1 })
      assert.deepInclude(status?.bulkhead, { inUse: 2, queued: 1 })
      yield* TestClock.adjust("2 minutes")
      assert.deepStrictEqual([before.at(), waiting.at(), probe.at()], [60_000, 60_000, 65_000])
      assert.strictEqual((yield* r.client.status).targets[0]?.circuit?.state, "closed")
      yield* nothingHeld(r)
    })))

  it.effect("E10 p hangs behind 20 permits, a thousand requests: p opens once at 1000, all succeed via s", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([always(hang), always(succeeds)], {
        retryBudget: budget,
        circuitBreaker: breaker,
        timeout: { ...timers, attempt: 1000 }
      }, [
        { bulkhead: { maxConcurrent: 20, queue: 1000, maxWait: "30 seconds" } },
        { bulkhead: { maxConcurrent: 1000, queue: 1000 } }
      ])
      const events = yield* recorded(r)
      const calls = yield* callAtOnce(1000, kind, r)
      yield* TestClock.adjust("1 minute")
      const ends = calls.map((call) => {
        assert.strictEqual(success(over(call)).target, "s")
        return call.at()!
      })
      const changes = find(events, "CircuitChanged").map(({ at, target, to }) => [at, target, to])
      assert.deepStrictEqual(changes, [[1000, "p", "open"]])
      const asked = (yield* r.calls(0)).length
      assert.isTrue(asked >= 20 && asked <= 24, `${asked} calls of p`)
      assert.isAtMost(Math.max(...ends), 2000)
      assert.strictEqual((yield* r.calls(1)).length, 1000)
      yield* nothingHeld(r)
    })))

  it("E13 an AbortSignal in backoff: rejected at once, no timer left", async () => {
    const started = vi.spyOn(globalThis, "setTimeout")
    const cleared = vi.spyOn(globalThis, "clearTimeout")
    /** Timers of a second and more that keep the process alive. */
    const alive = () => {
      const handles = started.mock.results.filter((_, i) => (started.mock.calls[i]?.[1] ?? 0) >= 1000).map((r) =>
        r.value
      )
      return handles.filter((handle) => !cleared.mock.calls.some(([other]) => other === handle)).length
    }
    const turn = () => new Promise<void>((done) => setImmediate(done))
    try {
      const layer = Layer.unwrap(Effect.map(
        ScriptedProvider.make([ScriptedProvider.always(overloads)], { id: "p" }),
        (provider) => LlmClient.layerDynamic([provider], { retry: { baseDelay: "1 minute" } })
      ))
      const controller = new AbortController()
      const program = Effect.flatMap(LlmClient, (client) => ask(kind, client))
      let ended = false
      const promise = Effect.runPromise(Effect.provide(program, layer), { signal: controller.signal }).then(
        () => assert.fail("resolved"),
        () => {
          ended = true
        }
      )
      for (let i = 0; i < 10; i++) await turn()
      assert.isFalse(ended)
      assert.isAtLeast(alive(), 1, "the sleep of the backoff")
      controller.abort()
      for (let i = 0; i < 3; i++) await turn()
      assert.isTrue(ended)
      assert.strictEqual(alive(), 0)
      await promise
    } finally {
      started.mockRestore()
      cleared.mockRestore()
    }
  })

  it.effect("E14 two clients from one value of options share nothing", () =>
    vector(Effect.gen(function*() {
      const options: LlmConfig.Options = {
        ...vectorOptions,
        retry: { maxRetries: 1, baseDelay: 0, maxDelay: 0 },
        retryBudget: { capacity: 1, perAttempt: 0, perSecond: 0 },
        circuitBreaker: { ...breaker, failureThreshold: 2 },
        rateLimit: { capacity: 4, refillPerSecond: 1e-6, maxWait: 0 },
        idempotency: {},
        cache: {}
      }
      const provider = yield* ScriptedProvider.make([succeeds, overloads, overloads, overloads, overloads, succeeds], {
        id: "p"
      })
      const build = Effect.map(
        Layer.build(LlmClient.layerDynamic([provider], options)),
        (context) => Context.get(context, LlmClient)
      )
      const a = yield* build
      const b = yield* build
      const request = { prompt: "Hi", idempotencyKey: "k" }
      yield* ask(kind, a, request) // `a` has stored and cached an answer
      const other = { prompt: "Hello?" }
      // Now the breaker of `a` is open and its purse empty.
      assert.strictEqual(word(yield* Effect.flip(ask(kind, a, other))), "Overloaded")
      assert.strictEqual((yield* a.status).targets[0]?.circuit?.state, "open")
      assert.deepInclude((yield* b.status).targets[0]?.circuit, { state: "closed", calls: 0 })
      // `b` can retry, has nothing stored, and all its four tokens.
      assert.strictEqual(word(yield* Effect.flip(ask(kind, b, request))), "Overloaded")
      assert.strictEqual((yield* provider.requests).length, 5)
      assert.strictEqual((yield* ask(kind, a, request)).source, "replay")
      yield* TestClock.adjust(5000)
      assert.strictEqual((yield* ask(kind, b, request)).source, "provider")
      assert.strictEqual((yield* provider.requests).length, 6)
    })))
})

// Rows of the breaker and the bulkhead that only a pipeline can show.
describe("stream", () => {
  it.effect("C22 headers, three chunks, then a reset, five times: open, each counted at its end", () =>
    vector(Effect.gen(function*() {
      const lost = new LlmError.ProviderError({ provider: "p", reason: { _tag: "Network", sent: true } })
      const r = yield* setUp([always(stream("a", "b", { wait: 100 }, "c", { error: lost }))], {
        circuitBreaker: breaker
      })
      for (let i = 0; i < 5; i++) {
        const call = yield* start(ask("stream", r.client))
        yield* TestClock.adjust(99)
        assert.isUndefined(call.exit())
        assert.strictEqual((yield* r.client.status).targets[0]?.circuit?.streak, i) // not counted yet
        yield* TestClock.adjust(1)
        assert.strictEqual(word(failure(over(call))), "StreamInterrupted reset")
      }
      assert.strictEqual((yield* r.client.status).targets[0]?.circuit?.state, "open")
      yield* nothingHeld(r)
    })))

  it.effect("C22 a whole stream of several chunks counts as one success, at its end", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([[overloads, stream("a", { wait: 100 }, "b")]], { retry: false, circuitBreaker: breaker })
      yield* Effect.exit(ask("stream", r.client))
      const call = yield* start(ask("stream", r.client))
      assert.deepInclude((yield* r.client.status).targets[0]?.circuit, { calls: 1, streak: 1 })
      yield* TestClock.adjust(100)
      assert.deepStrictEqual(tags(success(over(call)).ledger), [
        "CallStarted",
        "AttemptStarted",
        "AttemptCommitted",
        "AttemptSucceeded",
        "CallEnded"
      ])
      assert.deepInclude((yield* r.client.status).targets[0]?.circuit, { calls: 2, failures: 1, streak: 0 })
      yield* nothingHeld(r)
    })))

  it.effect("C23 a consumer that stops after the first chunk, ten times: closed, never a failure, no slot held", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([always(stream("a", { wait: 1000 }, "b"))], {
        timeout: timers,
        circuitBreaker: breaker,
        bulkhead: { maxConcurrent: 1, queue: 0 }
      })
      for (let i = 0; i < 10; i++) {
        const text = r.client.stream("Hi").pipe(Stream.filter((part) => part.type === "text-delta"), Stream.take(1))
        assert.strictEqual((yield* Stream.runCollect(text)).length, 1)
      }
      assert.deepInclude((yield* r.client.status).targets[0]?.circuit, { state: "closed", failures: 0, streak: 0 })
      yield* nothingHeld(r)
    })))

  it.effect("K9 a stream of 10 s holds its permit to the end, not to its first chunk", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([{ script: [stream({ wait: 100 }, "a", { wait: 9900 }, "b")], always: succeeds }], {
        bulkhead: { maxConcurrent: 1 }
      })
      const first = yield* start(ask("stream", r.client))
      const second = yield* start(ask("complete", r.client))
      yield* TestClock.adjust("1 minute")
      assert.deepStrictEqual([first.at(), second.at()], [10_000, 10_000])
      assert.deepStrictEqual(yield* r.calls(), [0, 10_000])
      yield* nothingHeld(r)
    })))
})
