import { assert, describe, it } from "@effect/vitest"
import { Cause, Clock, Context, Duration, Effect, Exit, Queue, Stream } from "effect"
import { LlmError, type LlmResponse } from "effect-resilient-llm"
import { Retry, Timeout } from "effect-resilient-llm/resilience"
import { CountingClock, ScriptedProvider } from "effect-resilient-llm/testing"
import { TestClock } from "effect/testing"
import { vi } from "vitest"
import { ask, chance, failure, kinds, nothingHeld, now, rig, success, timed, vector } from "../support.ts"
import {
  always,
  assertInterrupted,
  breaker,
  F,
  interrupt,
  millis,
  over,
  ping,
  rateLimited,
  rigOf,
  S,
  start,
  timers,
  wait,
  word
} from "./support.ts"

const { hang, stream } = ScriptedProvider

const twice = { maxRetries: 1, baseDelay: 500, maxDelay: 8000 }

const after = (error: LlmError.LlmError): number | undefined => "after" in error ? millis(error.after) : undefined

describe.each(kinds)("%s", (kind) => {
  it.effect("T1 no answer, two attempts of 1000: calls [0, 1375], the end at 2375, kind attempt", () =>
    vector(Effect.gen(function*() {
      const r = yield* rig([always(hang)], { retry: twice, timeout: { ...timers, attempt: 1000 } })
      const { at, exit } = yield* timed(ask(kind, r.client))
      const error = failure(exit)
      assert.strictEqual(at, 2375)
      assert.strictEqual(word(error), "AttemptTimeout attempt")
      assert.strictEqual(after(error), 1000)
      assert.deepStrictEqual(yield* r.calls(), [0, 1375])
      yield* nothingHeld(r)
    })))

  it.effect("T2 with a deadline of 1500 the second attempt gets 125 ms: the end at 1500, kind deadline", () =>
    vector(Effect.gen(function*() {
      const r = yield* rig([always(hang)], { retry: twice, timeout: { ...timers, attempt: 1000, deadline: 1500 } })
      const { at, exit } = yield* timed(ask(kind, r.client))
      const error = failure(exit)
      assert.strictEqual(at, 1500)
      assert.strictEqual(word(error), "DeadlineExceeded")
      assert.strictEqual(after(error), 1500)
      assert.deepStrictEqual(yield* r.calls(), [0, 1375])
      yield* nothingHeld(r)
    })))

  it.effect("T3 ten seconds of cleanup: the caller is free at 1000, the permit at 11 000", () =>
    vector(Effect.gen(function*() {
      const r = yield* rig([[{ ...hang, cleanup: "10 seconds" }, S]], {
        retry: false,
        timeout: { ...timers, attempt: 1000 },
        bulkhead: { maxConcurrent: 1, queue: 100, maxWait: "30 seconds" }
      })
      const first = yield* start(ask(kind, r.client))
      const second = yield* start(ask(kind, r.client))
      yield* TestClock.adjust(1000)
      assert.strictEqual(word(failure(over(first))), "AttemptTimeout attempt")
      assert.strictEqual(first.at(), 1000)
      yield* TestClock.adjust(9999)
      assert.deepStrictEqual(yield* r.calls(), [0])
      yield* TestClock.adjust(1)
      success(over(second))
      assert.strictEqual(second.at(), 11_000)
      assert.deepStrictEqual(yield* r.calls(), [0, 11_000])
      yield* nothingHeld(r)
    })))

  it.effect("T3 also when the cleanup is inside the provider's effect, not in its scope", () =>
    vector(Effect.gen(function*() {
      const scripted = yield* ScriptedProvider.make([], { otherwise: S })
      let first = true
      const slowly = <A>(then: Effect.Effect<A>) => {
        if (!first) return then
        first = false
        return Effect.andThen(Effect.onInterrupt(Effect.never, () => Effect.sleep("10 seconds")), then)
      }
      const provider: ScriptedProvider.ScriptedProvider = {
        ...scripted,
        generate: (request) => Effect.andThen(slowly(Effect.void), scripted.generate(request)),
        stream: (request) => Stream.unwrap(Effect.as(slowly(Effect.void), scripted.stream(request)))
      }
      const r = yield* rigOf([provider], {
        retry: false,
        timeout: { ...timers, attempt: 1000 },
        bulkhead: { maxConcurrent: 1, queue: 100, maxWait: "30 seconds" }
      })
      const caller = yield* start(ask(kind, r.client))
      const second = yield* start(ask(kind, r.client))
      yield* TestClock.adjust("1 minute")
      assert.strictEqual(word(failure(over(caller))), "AttemptTimeout attempt")
      assert.strictEqual(caller.at(), 1000)
      assert.strictEqual(second.at(), 11_000)
      yield* nothingHeld(r)
    })))

  it.effect("T4 the caller's own timeout at 500 is an interruption: the streak unchanged, no permit held", () =>
    vector(Effect.gen(function*() {
      const r = yield* rig([{ script: [F], always: hang }], {
        retry: false,
        timeout: { ...timers, attempt: 1000 },
        circuitBreaker: breaker,
        bulkhead: { maxConcurrent: 1 }
      })
      yield* Effect.exit(ask(kind, r.client))
      const { at, exit } = yield* timed(Effect.timeout(ask(kind, r.client), 500), 500)
      assert.strictEqual(at, 500)
      assert.isTrue(Cause.isTimeoutError(failure(exit)))
      const [status] = yield* r.client.status
      assert.deepInclude(status?.circuit, { streak: 1, calls: 1, failures: 1 })
      yield* nothingHeld(r)
    })))

  it.effect.each([[999, 999, "Hello."], [1001, 1000, "AttemptTimeout attempt"]] as const)(
    "T9 an answer at %d under a limit of 1000",
    ([delay, at, expected]) =>
      vector(Effect.gen(function*() {
        const r = yield* rig([always({ ...S, delay })], { retry: false, timeout: { ...timers, attempt: 1000 } })
        const ended = yield* timed(ask(kind, r.client))
        assert.strictEqual(ended.at, at)
        assert.strictEqual(Exit.isSuccess(ended.exit) ? ended.exit.value.text : word(failure(ended.exit)), expected)
        yield* nothingHeld(r)
      }))
  )

  it.effect("T10 a transport that cannot be interrupted answers at 1500: the failure is at 1000 and counts once", () =>
    vector(Effect.gen(function*() {
      const r = yield* rig([[{ ...S, delay: 1500, uninterruptible: true }]], {
        retry: false,
        timeout: { ...timers, attempt: 1000 },
        circuitBreaker: breaker,
        bulkhead: { maxConcurrent: 1 }
      })
      const call = yield* start(ask(kind, r.client))
      yield* TestClock.adjust(1000)
      const error = failure(over(call))
      assert.strictEqual(word(error), "AttemptTimeout attempt")
      const before = yield* r.client.status
      assert.strictEqual(before[0]?.bulkhead?.inUse, 1)
      yield* TestClock.adjust("10 seconds")
      const [status] = yield* r.client.status
      assert.deepInclude(status?.circuit, { state: "closed", streak: 1, calls: 1, failures: 1 })
      assert.strictEqual(error.ledger.length, 4) // nothing was added to it afterwards
      yield* nothingHeld(r)
    })))

  it.effect("T11 a hint of 30 s and a deadline of 10 s: RateLimit at 0, not the deadline", () =>
    vector(Effect.gen(function*() {
      const r = yield* rig([always(rateLimited("30 seconds"))], { timeout: { ...timers, deadline: "10 seconds" } })
      const { at, exit } = yield* timed(ask(kind, r.client))
      assert.strictEqual(at, 0)
      assert.strictEqual(word(failure(exit)), "RateLimit")
      assert.deepStrictEqual(yield* r.calls(), [0])
      yield* nothingHeld(r)
    })))

  it.effect("T12 a limiter's wait of 1500 and a deadline of 1000: RateLimited at 0, no token consumed", () =>
    vector(Effect.gen(function*() {
      const r = yield* rig([always(S)], {
        timeout: { ...timers, deadline: 1000 },
        rateLimit: { capacity: 1, refillPerSecond: 1 / 1.5, maxWait: "30 seconds" }
      })
      yield* Effect.exit(ask(kind, r.client))
      for (let i = 0; i < 3; i++) {
        const { at, exit } = yield* timed(ask(kind, r.client), 0)
        const error = failure(exit)
        assert.strictEqual(at, 0)
        assert.strictEqual(error._tag, "RateLimited")
        assert.strictEqual(millis((error as LlmError.RateLimited).retryAfter), 1500)
      }
      assert.deepStrictEqual(yield* r.calls(), [0])
      yield* TestClock.adjust(1500)
      success((yield* timed(ask(kind, r.client), 0)).exit)
      yield* nothingHeld(r)
    })))

  it.effect.each([false, { attempt: false, firstToken: false, idle: false, deadline: false }] as const)(
    "T13 without timers a transport may take an hour (%j)",
    (timeout) =>
      vector(Effect.gen(function*() {
        const r = yield* rig([always({ ...S, delay: "1 hour" })], { timeout })
        const { at, exit } = yield* timed(ask(kind, r.client))
        assert.strictEqual(success(exit).text, "Hello.")
        assert.strictEqual(at, 3_600_000)
        yield* nothingHeld(r)
      }))
  )

  it.effect("T14 a deadline that is spent already: no call", () =>
    vector(Effect.gen(function*() {
      const r = yield* rig([always(S), always(S)], { timeout: { ...timers, deadline: 1000 }, bulkhead: {}, circuitBreaker: breaker })
      const { at, exit } = yield* timed(ask(kind, r.client, { prompt: "Hi", deadline: 0 }))
      assert.strictEqual(at, 0)
      assert.strictEqual(word(failure(exit)), "DeadlineExceeded")
      assert.deepStrictEqual([yield* r.calls(0), yield* r.calls(1)], [[], []])
      yield* nothingHeld(r)
    })))

  it.effect("a request's own deadline replaces the client's, shorter or longer", () =>
    vector(Effect.gen(function*() {
      const r = yield* rig([always(hang)], { retry: false, timeout: { ...timers, deadline: 1000 } })
      for (const deadline of [500, 2000]) {
        const { at, exit } = yield* timed(ask(kind, r.client, { prompt: "Hi", deadline }), 5000)
        assert.strictEqual(word(failure(exit)), "DeadlineExceeded")
        assert.strictEqual(at, deadline)
      }
      yield* nothingHeld(r)
    })))

  it.effect("a caller's own interruption waits for the provider's cleanup", () =>
    vector(Effect.gen(function*() {
      const r = yield* rig([always({ ...hang, cleanup: "10 seconds" })], { timeout: timers })
      const call = yield* start(ask(kind, r.client))
      yield* TestClock.adjust(100)
      yield* interrupt(call)
      assert.isUndefined(call.exit())
      yield* TestClock.adjust("10 seconds")
      assertInterrupted(call, 10_100)
      yield* nothingHeld(r)
    })))

  describe("bugs other projects shipped", () => {
    it.effect("Effect.timeout: a slow finalizer does not stretch the limit, nor does it delay the retry", () =>
      vector(Effect.gen(function*() {
        const r = yield* rig([[{ ...hang, cleanup: "1 hour" }, S]], { timeout: { ...timers, attempt: 1000 } })
        const { at, exit } = yield* timed(ask(kind, r.client), "2 hours")
        assert.strictEqual(success(exit).text, "Hello.")
        assert.strictEqual(at, 1375)
        yield* nothingHeld(r)
      })))

    it.effect("anthropic-sdk#867 #959 #998 #749, AutoGPT PR#14206: the limit covers the body, not only the headers", () =>
      vector(Effect.gen(function*() {
        // Headers at once, then nothing useful for an hour.
        const r = yield* rig([always(stream(ping, wait(3_600_000), "late"))], { retry: false, timeout: { ...timers, attempt: 1000 } })
        const { at, exit } = yield* timed(ask(kind, r.client))
        assert.strictEqual(word(failure(exit)), "AttemptTimeout attempt")
        assert.strictEqual(at, 1000)
        yield* nothingHeld(r)
      })))

    it.effect("ai-retry#50, litellm#34819: our limit fails over, the deadline does not", () =>
      vector(Effect.gen(function*() {
        const r = yield* rig([always(hang), always(hang)], { retry: false, timeout: { ...timers, attempt: 1000, deadline: 1500 } })
        const { at, exit } = yield* timed(ask(kind, r.client))
        assert.strictEqual(word(failure(exit)), "DeadlineExceeded")
        assert.strictEqual(at, 1500)
        assert.deepStrictEqual([yield* r.calls(0), yield* r.calls(1)], [[0], [1000]])
        yield* nothingHeld(r)
      })))
  })
})

/** Where each part of a stream reached its consumer, and how the stream ended. */
const watch = <E>(parts: Stream.Stream<LlmResponse.StreamPart, E>, consumer: Effect.Effect<unknown> = Effect.void) =>
  Effect.gen(function*() {
    const seen: Array<number> = []
    const ended = yield* timed(Stream.runForEach(parts, (part) =>
      part.type !== "text-delta" ? Effect.void : Effect.andThen(
        Effect.map(now, (at) => void seen.push(at)),
        consumer
      )))
    return { ...ended, seen }
  })

describe("stream", () => {
  it.effect("T5 content at 1500, 2400, 3300, then silence: three parts, kind idle at 4300, one call", () =>
    vector(Effect.gen(function*() {
      const r = yield* rig([always(stream(wait(1500), "a", wait(900), "b", wait(900), "c", "stall")), always(S)], {
        timeout: { ...timers, firstToken: 2000, idle: 1000 }
      })
      const { at, exit, seen } = yield* watch(r.client.stream("Hi"))
      const error = failure(exit)
      assert.strictEqual(word(error), "StreamInterrupted idle")
      assert.strictEqual((error as LlmError.StreamInterrupted).partialParts, 3)
      assert.strictEqual(at, 4300)
      assert.deepStrictEqual(seen, [1500, 2400, 3300])
      assert.deepStrictEqual([yield* r.calls(0), yield* r.calls(1)], [[0], []])
      yield* nothingHeld(r)
    })))

  const pings = Array.from({ length: 100 }, () => [wait(500), ping]).flat()

  it.effect("T6 only pings: kind firstToken at 2000", () =>
    vector(Effect.gen(function*() {
      const r = yield* rig([always(stream(...pings))], { retry: false, timeout: { ...timers, firstToken: 2000, idle: 1000 } })
      const { at, exit, seen } = yield* watch(r.client.stream("Hi"))
      assert.strictEqual(word(failure(exit)), "AttemptTimeout firstToken")
      assert.strictEqual(at, 2000)
      assert.deepStrictEqual(seen, [])
      yield* nothingHeld(r)
    })))

  it.effect("T6 it is retryable", () =>
    vector(Effect.gen(function*() {
      const r = yield* rig([[stream(...pings), S]], { timeout: { ...timers, firstToken: 2000, idle: 1000 } })
      const { at, exit } = yield* watch(r.client.stream("Hi"))
      success(exit)
      assert.strictEqual(at, 2375)
      assert.deepStrictEqual(yield* r.calls(), [0, 2375])
      yield* nothingHeld(r)
    })))

  it.effect("T7 content at 1500, pings at 2000, 2500, 3000: idle at 2500, not 4000 (ARCHITECTURE §5: only content feeds the idle timer)", () =>
    vector(Effect.gen(function*() {
      const r = yield* rig([always(stream(wait(1500), "a", wait(500), ping, wait(500), ping, wait(500), ping, "stall"))], {
        timeout: { ...timers, firstToken: 2000, idle: 1000 }
      })
      const { at, exit, seen } = yield* watch(r.client.stream("Hi"))
      assert.strictEqual(word(failure(exit)), "StreamInterrupted idle")
      assert.strictEqual(at, 2500)
      assert.deepStrictEqual(seen, [1500])
      yield* nothingHeld(r)
    })))

  /** Sends on its own, whether somebody pulls or not: a text at each of the given moments, then the end. */
  const sending = (...moments: ReadonlyArray<number>) =>
    Effect.gen(function*() {
      const scripted = yield* ScriptedProvider.make()
      const finish = { type: "finish", reason: "stop", usage: { inputTokens: {}, outputTokens: {} } } as const
      const sent = Effect.gen(function*() {
        const queue = yield* Queue.unbounded<LlmResponse.StreamPart, Cause.Done>()
        yield* Effect.forkScoped(Effect.gen(function*() {
          for (const [i, moment] of moments.entries()) {
            yield* Effect.sleep(moment - (moments[i - 1] ?? 0))
            yield* Queue.offer(queue, { type: "text-delta", id: "0", delta: "x" })
          }
          yield* Queue.offer(queue, finish)
          yield* Queue.end(queue)
        }))
        return Stream.fromQueue(queue)
      })
      return { ...scripted, stream: () => Stream.unwrap(sent) }
    })

  it.effect("T8 a slow consumer: chunks sent at 0 and 100, pulled at 0 and 5000, both delivered", () =>
    vector(Effect.gen(function*() {
      const r = yield* rigOf([yield* sending(0, 100)], { timeout: { ...timers, firstToken: 1000, idle: 1000 } })
      const { exit, seen } = yield* watch(r.client.stream("Hi"), Effect.sleep(5000))
      success(exit)
      assert.deepStrictEqual(seen, [0, 5000])
      yield* nothingHeld(r)
    })))

  it.effect("T8 the silence before a slow consumer's pull does not count, that of its pulls adds up", () =>
    vector(Effect.gen(function*() {
      const elements = ["a", wait(600), ping, wait(300), "b", wait(600), ping, wait(600), "c"] as const
      const r = yield* rig([always(stream(...elements))], { timeout: { ...timers, idle: 1000 } })
      const { at, exit, seen } = yield* watch(r.client.stream("Hi"), Effect.sleep(5000))
      assert.strictEqual(word(failure(exit)), "StreamInterrupted idle")
      assert.deepStrictEqual(seen, [0, 5900])
      assert.strictEqual(at, 11_900)
      yield* nothingHeld(r)
    })))

  it.effect("the deadline bounds a stream after its commit", () =>
    vector(Effect.gen(function*() {
      const r = yield* rig([always(stream("a", wait(900), "b", wait(900), "c"))], { timeout: { ...timers, deadline: 1000 } })
      const { at, exit, seen } = yield* watch(r.client.stream("Hi"))
      assert.strictEqual(word(failure(exit)), "DeadlineExceeded")
      assert.strictEqual(at, 1000)
      assert.deepStrictEqual(seen, [0, 900])
      yield* nothingHeld(r)
    })))

  it.effect("T3 after the commit too: the consumer is free when the idle timer fires, cleanup goes on", () =>
    vector(Effect.gen(function*() {
      const r = yield* rig([always({ ...stream("a", "stall"), cleanup: "10 seconds" })], {
        timeout: { ...timers, idle: 1000 },
        bulkhead: { maxConcurrent: 1 }
      })
      const call = yield* start(ask("stream", r.client))
      yield* TestClock.adjust(1000)
      assert.strictEqual(word(failure(over(call))), "StreamInterrupted idle")
      assert.strictEqual(call.at(), 1000)
      assert.strictEqual((yield* r.client.status)[0]?.bulkhead?.inUse, 1)
      yield* TestClock.adjust("10 seconds")
      yield* nothingHeld(r)
    })))

  describe("bugs other projects shipped", () => {
    it.effect("opencode PR#29348: after the commit the attempt limit no longer counts", () =>
      vector(Effect.gen(function*() {
        const long = Array.from({ length: 20 }, () => [wait(900), "x"]).flat()
        const r = yield* rig([always(stream(...long))], { timeout: { ...timers, attempt: 1000, firstToken: 1000, idle: 1000 } })
        const { at, exit } = yield* watch(r.client.stream("Hi"))
        success(exit)
        assert.strictEqual(at, 18_000)
        yield* nothingHeld(r)
      })))

    it.effect("jp PR#708, openfox PR#226: `idle: false` lets a model think for an hour", () =>
      vector(Effect.gen(function*() {
        const r = yield* rig([always(stream("a", wait(3_000_000), "b"))], { timeout: { ...timers, idle: false, deadline: false } })
        const { at, exit } = yield* watch(r.client.stream("Hi"))
        success(exit)
        assert.strictEqual(at, 3_000_000)
      })))

    it.effect("goose PR#8134, pipecat#5804 #5842: a stream that dribbles without content is not alive", () =>
      vector(Effect.gen(function*() {
        const dribble = Array.from({ length: 100 }, () => [wait(10), { type: "text-delta", id: "0", delta: "" } as const]).flat()
        const r = yield* rig([always(stream("a", ...dribble))], { timeout: { ...timers, idle: 500 } })
        const { at, exit } = yield* watch(r.client.stream("Hi"))
        assert.strictEqual(word(failure(exit)), "StreamInterrupted idle")
        assert.strictEqual(at, 500)
        yield* nothingHeld(r)
      })))
  })
})

// -----------------------------------------------------------------------------
// the same rows on the standalone combinators, on both kinds of timer
// -----------------------------------------------------------------------------

/** A transport of its own, without any pipeline. */
const transport = (work: Effect.Effect<string, LlmError.ProviderError>) => {
  const calls: Array<number> = []
  return { calls, call: Effect.andThen(Effect.map(now, (at) => void calls.push(at)), work) }
}

const backoff = Retry.retry({ maxRetries: 1, baseDelay: 500, maxDelay: 8000 })

describe("standalone", () => {
  const frame = <A, E>(effect: Effect.Effect<A, E, CountingClock.CountingClock>) => vector(effect)
  const noSleeps = Effect.gen(function*() {
    assert.strictEqual(yield* (yield* CountingClock.CountingClock).pending, 0)
  })

  it.effect("T1 retry around attempt", () =>
    frame(Effect.gen(function*() {
      const { call, calls } = transport(Effect.never)
      const { at, exit } = yield* timed(call.pipe(Timeout.attempt(1000), backoff))
      assert.strictEqual(word(failure(exit)), "AttemptTimeout attempt")
      assert.strictEqual(at, 2375)
      assert.deepStrictEqual(calls, [0, 1375])
      yield* noSleeps
    })))

  it.effect("T2 deadline around retry around attempt", () =>
    frame(Effect.gen(function*() {
      const { call, calls } = transport(Effect.never)
      const { at, exit } = yield* timed(call.pipe(Timeout.attempt(1000), backoff, Timeout.deadline(1500)))
      const error = failure(exit)
      assert.strictEqual(word(error), "DeadlineExceeded")
      assert.strictEqual(after(error), 1500)
      assert.strictEqual(at, 1500)
      assert.deepStrictEqual(calls, [0, 1375])
      yield* noSleeps
    })))

  it.effect("T3 cleanup of ten seconds: released at 1000, the cleanup ends at 11 000", () =>
    frame(Effect.gen(function*() {
      let cleaned: number | undefined
      const cleanup = Effect.andThen(Effect.sleep("10 seconds"), Effect.map(now, (at) => { cleaned = at }))
      const { at, exit } = yield* timed(Effect.never.pipe(Effect.onInterrupt(() => cleanup), Timeout.attempt(1000)))
      assert.strictEqual(word(failure(exit)), "AttemptTimeout attempt")
      assert.strictEqual(at, 1000)
      assert.strictEqual(cleaned, 11_000)
      yield* noSleeps
    })))

  it.effect("T4 an outer Effect.timeout interrupts", () =>
    frame(Effect.gen(function*() {
      let interrupted = false
      const work = Effect.onInterrupt(Effect.never, () => Effect.sync(() => { interrupted = true }))
      const { at, exit } = yield* timed(work.pipe(Timeout.attempt(1000), Effect.timeout(500)))
      assert.isTrue(Cause.isTimeoutError(failure(exit)))
      assert.strictEqual(at, 500)
      assert.isTrue(interrupted)
      yield* noSleeps
    })))

  type Part = "ping" | "content"
  const script = (...elements: ReadonlyArray<readonly [number, Part]>) =>
    Stream.concat(
      Stream.mapEffect(Stream.fromIterable(elements), ([millis, part]) => Effect.as(Effect.sleep(millis), part)).pipe(
        Stream.rechunk(1)
      ),
      Stream.never
    )
  const limits = { firstToken: 2000, idle: 1000, isContent: (part: Part) => part === "content" }

  it.effect.each<[string, ReadonlyArray<readonly [number, Part]>, string, number, ReadonlyArray<number>]>([
    ["T5", [[1500, "content"], [900, "content"], [900, "content"]], "AttemptTimeout idle", 4300, [1500, 2400, 3300]],
    ["T6", Array.from({ length: 50 }, () => [500, "ping"] as const), "AttemptTimeout firstToken", 2000, []],
    ["T7 (idle at 2500, ARCHITECTURE §5)", [[1500, "content"], [500, "ping"], [500, "ping"], [500, "ping"]], "AttemptTimeout idle", 2500, [1500]]
  ])("%s", ([, elements, expected, at, contents]) =>
    frame(Effect.gen(function*() {
      const seen: Array<number> = []
      const limited = script(...elements).pipe(Timeout.stream(limits))
      const ended = yield* timed(Stream.runForEach(limited, (part) =>
        part === "ping" ? Effect.void : Effect.map(now, (moment) => void seen.push(moment))))
      assert.strictEqual(word(failure(ended.exit)), expected)
      assert.strictEqual(ended.at, at)
      assert.deepStrictEqual(seen, contents)
      yield* noSleeps
    })))

  it.effect("T8 a slow consumer", () =>
    frame(Effect.gen(function*() {
      const seen: Array<number> = []
      const limited = script([0, "content"], [100, "content"]).pipe(Stream.take(2), Timeout.stream({ idle: 1000 }))
      const { exit } = yield* timed(Stream.runForEach(limited, () =>
        Effect.andThen(Effect.map(now, (at) => void seen.push(at)), Effect.sleep(5000))))
      success(exit)
      assert.deepStrictEqual(seen, [0, 5100]) // this source only moves when it is pulled
      yield* noSleeps
    })))

  it.effect.each([[999, 999], [1001, 1000]] as const)("T9 an answer at %d", ([delay, at]) =>
    frame(Effect.gen(function*() {
      const ended = yield* timed(Effect.delay(Effect.succeed("Hello."), delay).pipe(Timeout.attempt(1000)))
      assert.strictEqual(ended.at, at)
      assert.strictEqual(Exit.isSuccess(ended.exit), delay === 999)
      yield* noSleeps
    })))

  it.effect("T10 work that cannot be interrupted", () =>
    frame(Effect.gen(function*() {
      let finished: number | undefined
      const work = Effect.uninterruptible(Effect.andThen(Effect.sleep(1500), Effect.map(now, (at) => { finished = at })))
      const { at, exit } = yield* timed(Timeout.attempt(1000)(work))
      assert.strictEqual(word(failure(exit)), "AttemptTimeout attempt")
      assert.deepStrictEqual([at, finished], [1000, 1500])
      yield* noSleeps
    })))

  it.effect("T13 an infinite limit", () =>
    frame(Effect.gen(function*() {
      const { at, exit } = yield* timed(Effect.sleep("1 hour").pipe(Timeout.attempt(Duration.infinity), Timeout.deadline(Duration.infinity)))
      success(exit)
      assert.strictEqual(at, 3_600_000)
      yield* noSleeps
    })))

  it.effect("T14 a limit of zero: nothing that waits gets through", () =>
    frame(Effect.gen(function*() {
      const { at, exit } = yield* timed(Effect.sleep(1).pipe(Timeout.deadline(0)))
      assert.strictEqual(word(failure(exit)), "DeadlineExceeded")
      assert.strictEqual(at, 0)
      yield* noSleeps
    })))
})

describe("which timer ran", () => {
  const defaultClock = Context.get(Context.empty(), Clock.Clock)

  /** Counts bare timers of these lengths, and sleeps of the default clock. */
  const spying = async (waits: ReadonlyArray<number>, test: () => Promise<void>) => {
    const timer = vi.spyOn(globalThis, "setTimeout")
    const sleep = vi.spyOn(defaultClock, "sleep")
    try {
      await test()
      return {
        timers: timer.mock.calls.filter(([, wait]) => waits.includes(wait as number)).map(([, wait]) => wait),
        sleeps: sleep.mock.calls.map(([duration]) => Duration.toMillis(duration))
      }
    } finally {
      timer.mockRestore()
      sleep.mockRestore()
    }
  }

  /** The default clock of Effect, driven by hand: its timers and its monotonic time. */
  const turning = async (test: (advance: (millis: number) => Promise<void>) => Promise<void>) => {
    vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout"] })
    const begun = process.hrtime.bigint()
    let turned = 0n
    const hrtime = vi.spyOn(process.hrtime, "bigint").mockImplementation(() => begun + turned)
    const advance = async (millis: number) => {
      for (let i = 0; i < millis; i++) {
        turned += 1_000_000n
        await vi.advanceTimersByTimeAsync(1)
      }
    }
    try {
      await test(advance)
      assert.strictEqual(vi.getTimerCount(), 0, "timers left behind")
    } finally {
      hrtime.mockRestore()
      vi.useRealTimers()
    }
  }

  const settled = <A>(promise: Promise<A>) => {
    let result: { readonly value: A } | undefined
    void promise.then((value) => { result = { value } })
    return () => result?.value
  }

  it("T1 on the default clock: a bare setTimeout, and no sleep but that of the backoff", () =>
    turning(async (advance) => {
      let calls = 0
      const call = Effect.andThen(Effect.sync(() => void calls++), Effect.never)
      const used = await spying([1000], async () => {
        const result = settled(Effect.runPromise(Effect.flip(call.pipe(Timeout.attempt(1000), backoff)).pipe(chance(0.5))))
        await advance(1374)
        assert.strictEqual(calls, 1)
        await advance(1)
        assert.strictEqual(calls, 2)
        await advance(999)
        assert.isUndefined(result())
        await advance(1)
        assert.strictEqual((result() as LlmError.AttemptTimeout | undefined)?._tag, "AttemptTimeout")
      })
      assert.deepStrictEqual(used, { timers: [1000, 1000], sleeps: [375] })
    }))

  it("T9 on the default clock: an answer at 999 and one at 1001", () =>
    turning(async (advance) => {
      const used = await spying([1000], async () => {
        const at = (delay: number) =>
          settled(Effect.runPromise(Effect.exit(Effect.delay(Effect.succeed("Hello."), delay).pipe(Timeout.attempt(1000)))))
        const early = at(999)
        const late = at(1001)
        await advance(998)
        assert.isUndefined(early())
        await advance(1)
        assert.deepStrictEqual(early(), Exit.succeed("Hello."))
        assert.isUndefined(late())
        await advance(1)
        assert.strictEqual(word(failure(late()!)), "AttemptTimeout attempt")
      })
      assert.deepStrictEqual(used, { timers: [1000, 1000], sleeps: [999, 1001] })
    }))

  it.effect("T1 T9 under TestClock: a sleeping fibre, and no bare timer", () =>
    vector(Effect.gen(function*() {
      const clock = yield* CountingClock.CountingClock
      const used = yield* Effect.promise(() =>
        spying([12_345], async () => {})
      )
      assert.deepStrictEqual(used, { timers: [], sleeps: [] })
      const timer = vi.spyOn(globalThis, "setTimeout")
      try {
        const { exit } = yield* timed(Effect.never.pipe(Timeout.attempt(12_345)))
        assert.strictEqual(word(failure(exit)), "AttemptTimeout attempt")
        assert.strictEqual(yield* clock.started, 1)
        assert.deepStrictEqual(timer.mock.calls.filter(([, wait]) => wait === 12_345), [])
      } finally {
        timer.mockRestore()
      }
    })))

  it.effect("work that ends at once starts no timer at all", () =>
    vector(Effect.gen(function*() {
      const clock = yield* CountingClock.CountingClock
      assert.strictEqual(yield* Effect.succeed(1).pipe(Timeout.attempt(1000), Timeout.deadline(1000)), 1)
      assert.strictEqual(yield* clock.started, 0)
    })))
})

