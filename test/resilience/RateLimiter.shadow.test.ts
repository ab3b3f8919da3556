// A limiter in shadow mode beside one that enforces: it says of each call what the other does with it.
import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Fiber, Random, Schema } from "effect"
import { LlmError } from "effect-resilient-llm"
import { RateLimiter } from "effect-resilient-llm/resilience"
import { TestClock } from "effect/testing"

const shadow = { mode: "shadow" } as const
const limits = [
  { dimension: "requests", limit: 5, per: "10 seconds" },
  { dimension: "tokens", limit: 100, per: "10 seconds", burst: 60 }
] as const

describe("a limiter in shadow mode", () => {
  it.effect.prop(
    "tells of each call what an enforcing one does: nothing, so long a wait, or a refusal",
    { seed: Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 1e9 })) },
    ({ seed }) =>
      Effect.gen(function*() {
        const draw = (n: number) => Effect.map(Random.next, (u) => Math.floor(u * n))
        const rules = { limits, maxWait: "6 seconds", queue: 3 } as const
        const real = yield* RateLimiter.make(rules)
        const watching = yield* RateLimiter.make({ ...rules, ...shadow })
        const fates: Array<readonly [would: RateLimiter.Would | undefined, real: Fiber.Fiber<unknown, unknown>]> = []
        for (let i = 0; i < 25; i++) {
          yield* TestClock.adjust([0, 0, 100, 1000, 4000][yield* draw(5)]!)
          const cost = { tokens: yield* draw(40) }
          const { would } = yield* watching.acquire(cost)
          const waited = Effect.map(real.acquire(cost), ({ waited }) => waited)
          fates.push([would, yield* Effect.forkChild(Effect.exit(waited), { startImmediately: true })])
          assert.deepStrictEqual((yield* watching.snapshot).queued, (yield* real.snapshot).queued, `line after ${i}`)
        }
        yield* TestClock.adjust("10 minutes")
        for (const [i, [would, fiber]] of fates.entries()) {
          const exit = yield* Fiber.join(fiber) as Effect.Effect<Exit.Exit<number, LlmError.LlmError>>
          const fate = Exit.isSuccess(exit)
            ? exit.value === 0 ? undefined : { decision: "would-wait", millis: exit.value }
            : { decision: "would-refuse" }
          if (would?.decision === "would-refuse") {
            assert.deepStrictEqual(fate, { decision: "would-refuse" }, `call ${i}`)
          } else assert.deepStrictEqual(would, fate, `call ${i}`)
        }
        const full = { requests: 5, tokens: 60 }
        assert.deepStrictEqual((yield* watching.snapshot).levels, full)
      }).pipe(Random.withSeed(seed)),
    { arbitrary: { runs: 60, seed: 7 } }
  )

  it.effect("what comes back, what a vendor says and what is blocked count as they do elsewhere", () =>
    Effect.gen(function*() {
      const limiter = yield* RateLimiter.make({ limits, ...shadow })
      const levels = Effect.map(limiter.snapshot, ({ levels }) => levels)
      const first = yield* limiter.acquire({ tokens: 50 })
      assert.deepStrictEqual(yield* levels, { requests: 4, tokens: 10 })
      yield* first.settle({ tokens: 30 })
      assert.deepStrictEqual(yield* levels, { requests: 4, tokens: 30 })
      yield* first.refund("all")
      assert.deepStrictEqual(yield* levels, { requests: 4, tokens: 30 }, "the first of them counts")
      const second = yield* limiter.acquire({ tokens: 20 })
      yield* second.refund("tokens")
      assert.deepStrictEqual(yield* levels, { requests: 3, tokens: 30 })
      yield* (yield* limiter.acquire({ tokens: 0 })).observe([
        { dimension: "requests", remaining: 1 },
        { dimension: "others", remaining: 0, resetAfter: 5000 }
      ])
      assert.deepStrictEqual(yield* levels, { requests: 1, tokens: 30 })
      yield* (yield* limiter.acquire({ tokens: 0 })).observe([{
        dimension: "requests",
        remaining: 0,
        resetAfter: 4000
      }])
      assert.strictEqual((yield* limiter.snapshot).blockedFor, 4000)
      assert.deepStrictEqual((yield* limiter.acquire({ tokens: 0 })).would, { decision: "would-wait", millis: 4000 })
      yield* limiter.block("20 seconds", "tokens")
      assert.strictEqual((yield* limiter.snapshot).blockedFor, 20_000)
      yield* TestClock.adjust("1 minute")
      yield* limiter.setLimit("requests", 10)
      assert.deepStrictEqual(yield* levels, { requests: 5, tokens: 60 })
      yield* TestClock.adjust("1 minute")
      assert.deepStrictEqual(yield* levels, { requests: 10, tokens: 60 })
      for (const [dimension, limit] of [["others", 1], ["requests", 0], ["requests", Number.NaN]] as const) {
        assert.instanceOf(yield* Effect.flip(limiter.setLimit(dimension, limit)), LlmError.LlmConfigError)
      }
      assert.instanceOf(yield* Effect.flip(limiter.acquire(-1)), LlmError.InvalidRequest)
      assert.deepStrictEqual(limiter.dimensions, ["requests", "tokens"])
    }))

  it.effect("a wait that would be too long for this call alone is a refusal, and nothing is taken", () =>
    Effect.gen(function*() {
      const limiter = yield* RateLimiter.make({ capacity: 1, refillPerSecond: 1, ...shadow })
      yield* limiter.acquire(1)
      const late = yield* limiter.acquire(1, { maxWait: 999 })
      assert.deepStrictEqual(late.would, { decision: "would-refuse", millis: 1000 })
      const patient = yield* limiter.acquire(1, { maxWait: 1000 })
      assert.deepStrictEqual(patient.would, { decision: "would-wait", millis: 1000 })
      assert.deepStrictEqual((yield* limiter.snapshot).levels, { requests: -1 })
    }))
})
