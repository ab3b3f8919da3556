// A limiter in shadow mode beside one that enforces: it says of each call what the other does with it.
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { LlmError } from "effect-resilient-llm"
import { RateLimiter } from "effect-resilient-llm/resilience"
import { TestClock } from "effect/testing"

const shadow = { mode: "shadow" } as const
const limits = [
  { dimension: "requests", limit: 5, per: "10 seconds" },
  { dimension: "tokens", limit: 100, per: "10 seconds", burst: 60 }
] as const

describe("a limiter in shadow mode", () => {
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

describe("what it takes", () => {
  it.effect("grants all, tells with the reservation, and takes back what was not used", () =>
    Effect.gen(function*() {
      const limiter = yield* RateLimiter.make({ capacity: 2, refillPerSecond: 1, maxWait: "1 second", ...shadow })
      const taken = yield* Effect.forEach([1, 1, 1, 1], (cost) => limiter.acquire(cost))
      assert.deepStrictEqual(taken.map(({ would }) => would), [
        undefined,
        undefined,
        { decision: "would-wait", millis: 1000 },
        { decision: "would-refuse", millis: 2000 }
      ])
      yield* taken[2]!.refund("all")
      yield* taken[3]!.refund("all")
      assert.deepStrictEqual((yield* limiter.snapshot).levels, { requests: 0 })
      const work = yield* limiter.take(1)(Effect.succeed("done"))
      assert.strictEqual(work, "done")
    }))

  it.effect("who would go earlier than promised, because others gave back, is not in the line any longer", () =>
    Effect.gen(function*() {
      const limiter = yield* RateLimiter.make({ capacity: 10, refillPerSecond: 1, maxWait: "1 minute", ...shadow })
      const taken = yield* Effect.forEach([10, 10, 10], (cost) => limiter.acquire(cost))
      assert.strictEqual((yield* limiter.snapshot).queued, 2)
      for (const one of taken) yield* one.settle(1)
      yield* limiter.acquire(1)
      assert.strictEqual((yield* limiter.snapshot).queued, 0)
    }))

  it.effect("a limit that is raised adds nothing to what is in the bucket", () =>
    Effect.gen(function*() {
      const levels = (mode: "enforce" | "shadow", first: number) =>
        Effect.gen(function*() {
          const limits = [{ dimension: "requests", limit: 60, per: "1 minute" }] as const
          const limiter = yield* RateLimiter.make({ limits, mode })
          if (first > 0) yield* limiter.acquire(first)
          yield* TestClock.adjust("10 seconds")
          yield* limiter.setLimit("requests", 600)
          const raised = (yield* limiter.snapshot).levels
          yield* TestClock.adjust("1 second")
          return [raised, (yield* limiter.snapshot).levels]
        })
      for (const first of [0, 60]) {
        assert.deepStrictEqual(yield* levels("shadow", first), yield* levels("enforce", first))
      }
    }))

  it.effect("what an older answer says of the limits is ignored", () =>
    Effect.gen(function*() {
      const limiter = yield* RateLimiter.make({ capacity: 10, refillPerSecond: 1, ...shadow })
      const [first, second] = yield* Effect.all([limiter.acquire(1), limiter.acquire(1)])
      const remaining = (remaining: number) => [{ dimension: "requests", limit: 10, remaining, resetAfter: 1000 }]
      yield* second.observe(remaining(5))
      yield* first.observe(remaining(0))
      const { blockedFor, levels } = yield* limiter.snapshot
      assert.deepStrictEqual({ blockedFor, levels }, { blockedFor: 0, levels: { requests: 5 } })
    }))

  const perTenant = (maxWait: number) => ({
    limits: [
      { dimension: "requests", limit: 4, per: "40 seconds" },
      { dimension: "requests", limit: 1, per: "10 seconds", by: "tenant" }
    ] as const,
    maxWait,
    ...shadow
  })

  it.effect("who would be refused by its own limits takes nothing of those of all, and the other way round", () =>
    Effect.gen(function*() {
      const limiter = yield* RateLimiter.make(perTenant(0))
      const would = (tenant: string) => Effect.map(limiter.acquire(1, { tenant }), ({ would }) => would?.decision)
      assert.deepStrictEqual(
        yield* Effect.forEach(Array.from({ length: 10 }), () => would("flood")),
        [undefined, ...Array.from({ length: 9 }, () => "would-refuse")]
      )
      assert.deepStrictEqual(yield* Effect.forEach(["a", "b", "c"], would), [undefined, undefined, undefined])
      assert.deepStrictEqual((yield* limiter.snapshot).levels, { requests: 0 })
      assert.strictEqual(yield* would("d"), "would-refuse")
      yield* TestClock.adjust("10 seconds")
      assert.isUndefined(yield* would("d"))
    }))

  it.effect("of two limits the one that would refuse is told, and two waits are told as one", () =>
    Effect.gen(function*() {
      const limiter = yield* RateLimiter.make({
        limits: [
          { dimension: "requests", limit: 1, per: "1 minute" },
          { dimension: "requests", limit: 1, per: "10 seconds", by: "tenant" }
        ],
        maxWait: "30 seconds",
        ...shadow
      })
      yield* limiter.acquire(1, { tenant: "a" })
      const { would } = yield* limiter.acquire(1, { tenant: "a" })
      assert.deepStrictEqual(would, { decision: "would-refuse", millis: 60_000 })
      const patient = yield* RateLimiter.make({
        limits: [
          { dimension: "requests", limit: 1, per: "20 seconds" },
          { dimension: "requests", limit: 1, per: "10 seconds", by: "tenant" }
        ],
        maxWait: "30 seconds",
        ...shadow
      })
      yield* patient.acquire(1, { tenant: "a" })
      assert.deepStrictEqual((yield* patient.acquire(1, { tenant: "a" })).would, {
        decision: "would-wait",
        millis: 20_000
      })
    }))

  it.effect("with limits by tenant nobody is counted as waiting for longer than it would", () =>
    Effect.gen(function*() {
      const limiter = yield* RateLimiter.make(perTenant(60_000))
      for (let i = 0; i < 3; i++) yield* limiter.acquire(1, { tenant: "a" })
      assert.isAbove((yield* limiter.snapshot).queued, 0)
      yield* TestClock.adjust("30 seconds")
      assert.strictEqual((yield* limiter.snapshot).queued, 0)
    }))
})
