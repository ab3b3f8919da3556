// What a limiter in shadow mode keeps in mind, moment by moment.
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { LlmError } from "effect-resilient-llm"
import { RateLimiter } from "effect-resilient-llm/resilience"
import { TestClock } from "effect/testing"

const two = {
  limits: [
    { dimension: "requests", limit: 10, per: "10 seconds" },
    { dimension: "tokens", limit: 100, per: "10 seconds" }
  ],
  mode: "shadow"
} as const
const one = { capacity: 1, refillPerSecond: 1, mode: "shadow" } as const

/** As asked by whoever forgets tenants that are done. */
const isIdle = (limiter: RateLimiter.RateLimiter) =>
  Effect.clockWith((clock) =>
    Effect.map(clock.monotonicTimeNanos, (nanos) => limiter.isIdleUnsafe(Number(nanos / 1_000_000n)))
  )

describe("is idle", () => {
  it.effect("while all of its buckets are full", () =>
    Effect.gen(function*() {
      const limiter = yield* RateLimiter.make(two)
      assert.isTrue(yield* isIdle(limiter))
      yield* limiter.acquire({ requests: 0, tokens: 10 })
      assert.isFalse(yield* isIdle(limiter), "one of them is not")
      yield* TestClock.adjust(999)
      assert.isFalse(yield* isIdle(limiter))
      yield* TestClock.adjust(1)
      assert.isTrue(yield* isIdle(limiter))
    }))

  it.effect("and none is blocked", () =>
    Effect.gen(function*() {
      const limiter = yield* RateLimiter.make(two)
      yield* limiter.block("1 second", "tokens")
      assert.isFalse(yield* isIdle(limiter))
      yield* TestClock.adjust("1 second")
      assert.isTrue(yield* isIdle(limiter))
    }))
})

describe("its line", () => {
  it.effect("displaces nobody, and is as long as the policy says", () =>
    Effect.gen(function*() {
      const limiter = yield* RateLimiter.make({ ...one, queue: 3 })
      const { displaces, maxQueued, queued } = limiter.lineUnsafe(0)
      assert.deepStrictEqual([queued, maxQueued, displaces()], [0, 3, false])
    }))

  it.effect("holds whoever would wait until what is owed is refilled, at the rate of the bucket", () =>
    Effect.gen(function*() {
      const limiter = yield* RateLimiter.make({ ...one, refillPerSecond: 0.5 })
      yield* limiter.acquire(1)
      assert.deepStrictEqual((yield* limiter.acquire(1)).would, { decision: "would-wait", millis: 2000 })
      for (const [millis, queued] of [[1000, 1], [999, 1], [1, 0]] as const) {
        yield* TestClock.adjust(millis)
        assert.strictEqual((yield* limiter.snapshot).queued, queued)
      }
    }))

  it.effect("is full with as many as it may hold: the next one would be refused", () =>
    Effect.gen(function*() {
      const limiter = yield* RateLimiter.make({ ...one, queue: 1 })
      const decisions: Array<string | undefined> = []
      for (let i = 0; i < 3; i++) decisions.push((yield* limiter.acquire(1)).would?.decision)
      assert.deepStrictEqual(decisions, [undefined, "would-wait", "would-refuse"])
    }))

  it.effect("lets nobody pass the only one in it, who waits for something else", () =>
    Effect.gen(function*() {
      const limiter = yield* RateLimiter.make(two)
      yield* limiter.acquire({ tokens: 100 })
      yield* limiter.acquire({ tokens: 30 })
      assert.deepStrictEqual((yield* limiter.acquire({ tokens: 0 })).would, { decision: "would-wait", millis: 3000 })
    }))
})

describe("a block", () => {
  it.effect.each(
    [
      ["of one dimension leaves the others", "tokens", undefined],
      ["of all holds all", undefined, { decision: "would-wait", millis: 2000 }],
      ["of a dimension without a limit holds all", "others", { decision: "would-wait", millis: 2000 }]
    ] as const
  )("%s", ([, dimension, would]) =>
    Effect.gen(function*() {
      const limiter = yield* RateLimiter.make(two)
      yield* limiter.block("2 seconds", dimension)
      assert.deepStrictEqual((yield* limiter.acquire({ tokens: 0 })).would, would)
    }))
})

describe("what a vendor says", () => {
  const said = (remaining: number, resetAfter?: number) => [{
    dimension: "requests",
    remaining,
    ...(resetAfter !== undefined && { resetAfter })
  }]

  it.effect("twice with one answer counts twice", () =>
    Effect.gen(function*() {
      const limiter = yield* RateLimiter.make(two)
      const held = yield* limiter.acquire({ tokens: 0 })
      yield* held.observe(said(5))
      yield* held.observe(said(3))
      assert.strictEqual((yield* limiter.snapshot).levels["requests"], 3)
    }))

  it.effect("of an empty bucket without the end of that blocks nothing", () =>
    Effect.gen(function*() {
      const limiter = yield* RateLimiter.make(two)
      yield* (yield* limiter.acquire({ tokens: 0 })).observe(said(0))
      const { blockedFor, levels } = yield* limiter.snapshot
      assert.deepStrictEqual([blockedFor, levels["requests"]], [0, 0])
    }))
})

it.effect("what was given back is not given back again", () =>
  Effect.gen(function*() {
    const limiter = yield* RateLimiter.make(two)
    const held = yield* limiter.acquire({ tokens: 50 })
    yield* held.settle({ tokens: 30 })
    yield* held.settle({ tokens: 10 })
    assert.strictEqual((yield* limiter.snapshot).levels["tokens"], 70)
  }))

it.effect.each(
  [
    ["others", 1, "dimension", "a dimension that has a limit"],
    ["requests", 0, "limit", "a number above zero"]
  ] as const
)("a limit for %s of %s is refused by path and rule", ([dimension, limit, path, rule]) =>
  Effect.gen(function*() {
    const limiter = yield* RateLimiter.make(two)
    const error = yield* Effect.flip(limiter.setLimit(dimension, limit))
    assert.instanceOf(error, LlmError.LlmConfigError)
    assert.deepStrictEqual([error.path, error.rule], [path, rule])
  }))
