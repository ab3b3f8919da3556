import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Fiber } from "effect"
import { LlmError } from "effect-resilient-llm"
import * as Bulkhead from "effect-resilient-llm/resilience/Bulkhead"
import { TestClock } from "effect/testing"
import { calm, countingSleeps, start } from "./waiting.ts"

const provider = (reason: LlmError.Reason) => new LlmError.ProviderError({ provider: "p", reason })
const overloaded = provider({ _tag: "Overloaded" })

/** Calls that take a second and then end in some way. */
const run = (bulkhead: Bulkhead.Bulkhead, count: number, end: Effect.Effect<unknown, unknown> = Effect.void) =>
  Effect.forEach(
    Array.from({ length: count }),
    () => start(Effect.exit(bulkhead.protect(Effect.andThen(Effect.sleep(1000), end))))
  )

const limit = (bulkhead: Bulkhead.Bulkhead) => Effect.map(bulkhead.snapshot, ({ maxConcurrent }) => maxConcurrent)

describe("Bulkhead: adaptive", () => {
  it.effect("K10 one overload lowers the bound once; waiters wait for the new one", () =>
    countingSleeps((sleeps) =>
      Effect.gen(function*() {
        const bulkhead = yield* Bulkhead.make({ adaptive: { initial: 20 } })
        assert.strictEqual(yield* limit(bulkhead), 20)
        yield* run(bulkhead, 20, Effect.fail(overloaded))
        const waiting = yield* run(bulkhead, 20)
        yield* TestClock.adjust(1000)
        yield* calm
        assert.deepStrictEqual(yield* bulkhead.snapshot, { inUse: 14, maxConcurrent: 14, queued: 6, maxQueued: 100 })
        yield* TestClock.adjust(2000)
        yield* calm
        assert.isTrue(waiting.every((fiber) => fiber.pollUnsafe() !== undefined))
        assert.strictEqual(sleeps.pending, 0)
      })
    ))

  it.effect("K10 whoever came after it may lower the bound again, also one alone", () =>
    Effect.gen(function*() {
      const bulkhead = yield* Bulkhead.make({ adaptive: { initial: 20 } })
      for (const bound of [14, 9, 6]) {
        yield* run(bulkhead, 1, Effect.fail(overloaded))
        yield* TestClock.adjust(1000)
        assert.strictEqual(yield* limit(bulkhead), bound)
      }
    }))

  it.effect("a permit that is back teaches nothing, nor does one of a bulkhead that is not adaptive", () =>
    Effect.gen(function*() {
      const adaptive = yield* Bulkhead.make({ adaptive: true })
      const plain = yield* Bulkhead.make()
      assert.deepStrictEqual([adaptive.isAdaptive, plain.isAdaptive], [true, false])
      const permit = yield* adaptive.acquire()
      permit.releaseUnsafe()
      permit.recordUnsafe("overload")
      assert.strictEqual(yield* limit(adaptive), 10)
      const held = yield* plain.acquire()
      held.recordUnsafe("overload")
      assert.strictEqual(yield* limit(plain), 20)
    }))

  it.effect("K11 as many successes as the bound, while half of it is in use, raise it by one", () =>
    Effect.gen(function*() {
      const bulkhead = yield* Bulkhead.make({ adaptive: true })
      yield* run(bulkhead, 10)
      yield* TestClock.adjust(1000)
      yield* calm
      // Of ten that end together the last four leave less than half.
      assert.strictEqual(yield* limit(bulkhead), 10)
      yield* run(bulkhead, 10)
      yield* TestClock.adjust(1000)
      yield* calm
      assert.strictEqual(yield* limit(bulkhead), 11)
    }))

  it.effect("K14 interruptions and what the client did wrong say nothing", () =>
    Effect.gen(function*() {
      const bulkhead = yield* Bulkhead.make({ adaptive: true })
      for (let i = 0; i < 50; i++) {
        const fibers = yield* run(bulkhead, 5, Effect.fail(provider({ _tag: "InvalidRequest" })))
        yield* Fiber.interrupt(fibers[0]!)
        yield* TestClock.adjust(1000)
        yield* calm
      }
      assert.deepStrictEqual(yield* bulkhead.snapshot, { inUse: 0, maxConcurrent: 10, queued: 0, maxQueued: 100 })
    }))

  it.effect("finds the bound of a service that takes eight at once, and stays near it", () =>
    Effect.gen(function*() {
      const bulkhead = yield* Bulkhead.make({ adaptive: true, queue: 1000, maxWait: Infinity })
      let inside = 0
      let answered = 0
      let refused = 0
      const call = bulkhead.protect(Effect.suspend(() => {
        inside += 1
        const end = inside > 8 ? Effect.fail(overloaded) : Effect.delay(Effect.void, 1000)
        return Effect.onExit(end, () => Effect.sync(() => inside -= 1))
      }))
      const bounds: Array<number> = []
      // Somebody always waits.
      for (let second = 0; second < 300; second++) {
        for (let i = 0; i < 12; i++) {
          yield* start(Effect.map(Effect.exit(call), (exit) => Exit.isSuccess(exit) ? answered += 1 : refused += 1))
        }
        yield* TestClock.adjust(1000)
        yield* calm
        if (second >= 100) bounds.push(yield* limit(bulkhead))
      }
      const mean = bounds.reduce((sum, bound) => sum + bound, 0) / bounds.length
      assert.isAtLeast(mean, 5.5)
      assert.isAtMost(mean, 9)
      assert.isAbove(answered, 5 * 300)
    }))

  it.effect("reads its options", () =>
    Effect.gen(function*() {
      const off = { maxConcurrent: 20, adaptive: undefined, queue: 100, maxWait: 30_000 }
      assert.deepStrictEqual(Bulkhead.policy(), off)
      assert.deepStrictEqual(Bulkhead.policy({ adaptive: false }), off)
      const { adaptive, maxConcurrent } = Bulkhead.policy({ adaptive: { max: 50 }, maxConcurrent: 3 })
      assert.deepStrictEqual([maxConcurrent, adaptive?.initial, adaptive?.max], [10, 10, 50])
      const error = yield* Effect.flip(Bulkhead.make({ adaptive: { min: 0 } }))
      assert.strictEqual(error.path, "bulkhead.adaptive.min")
      assert.strictEqual((yield* Effect.flip(Bulkhead.make({ adaptive: 3 as never }))).path, "bulkhead.adaptive")
      assert.strictEqual(
        (yield* Effect.flip(Bulkhead.make({ adaptive: { initial: 9, max: 8 } }))).path,
        "bulkhead.adaptive.initial"
      )
    }))
})
