import { assert, describe, it } from "@effect/vitest"
import { Cause, Effect, Exit, Fiber } from "effect"
import type * as RateLimiter from "effect-resilient-llm/resilience/RateLimiter"
import { TestClock } from "effect/testing"
import { full, journal, level, make, nobodyWaits, tenPerTenSeconds } from "./RateLimiter.support.ts"
import { calm, countingSleeps, now, start } from "./waiting.ts"

describe("RateLimiter vectors", () => {
  it.effect("L1 ten at 0, the 11th at 1000", () =>
    countingSleeps((sleeps) =>
      Effect.gen(function*() {
        const limiter = yield* make(tenPerTenSeconds)
        const { enter, entries } = journal(limiter)
        for (let i = 1; i <= 11; i++) yield* enter(`${i}`)
        assert.strictEqual(entries.length, 10)
        assert.strictEqual(sleeps.started, 1)
        yield* TestClock.adjust(999)
        assert.strictEqual(entries.length, 10)
        yield* TestClock.adjust(1)
        assert.deepStrictEqual(entries.map(([, at]) => at), [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1000])
        assert.strictEqual(sleeps.pending, 0)
        yield* nobodyWaits(limiter)
      })
    ))

  it.effect("L2 two queued on an empty bucket: 1000, 2000", () =>
    Effect.gen(function*() {
      const limiter = yield* make(tenPerTenSeconds)
      yield* full(limiter, 10)
      const { enter, entries, held } = journal(limiter)
      yield* enter("a")
      yield* enter("b")
      yield* TestClock.adjust("1 minute")
      assert.deepStrictEqual(entries, [["a", 1000], ["b", 2000]])
      assert.strictEqual(held("a").waited, 1000)
      assert.strictEqual(held("b").waited, 2000)
    }))

  it.effect("L3 (r4j#1283 r4j#2336 commitpulse#5932) maxWait 0: refused at once, nothing consumed", () =>
    Effect.gen(function*() {
      const limiter = yield* make({ ...tenPerTenSeconds, maxWait: 0 })
      yield* full(limiter, 10)
      yield* TestClock.adjust(500)
      const { enter, entries } = journal(limiter)
      yield* enter("a")
      assert.deepStrictEqual(entries, [["a", 500, "requests", 500]])
      assert.strictEqual(yield* level(limiter), 0.5)
      yield* nobodyWaits(limiter)
    }))

  it.effect("L4 a small late cost does not overtake", () =>
    Effect.gen(function*() {
      const limiter = yield* make(tenPerTenSeconds)
      yield* full(limiter, 10)
      const { enter, entries } = journal(limiter)
      yield* enter("A", 5)
      yield* enter("B", 1)
      yield* TestClock.adjust("1 minute")
      assert.deepStrictEqual(entries, [["A", 5000], ["B", 6000]])
    }))

  it.effect("L5 (r4j#1521) the first waiter is interrupted at 500: the second goes at 1000", () =>
    countingSleeps((sleeps) =>
      Effect.gen(function*() {
        const limiter = yield* make(tenPerTenSeconds)
        yield* full(limiter, 10)
        const { enter, entries } = journal(limiter)
        const a = yield* enter("A", 5)
        yield* enter("B", 1)
        yield* TestClock.adjust(500)
        yield* Fiber.interrupt(a)
        yield* TestClock.adjust(499)
        assert.deepStrictEqual(entries, [])
        yield* TestClock.adjust(1)
        assert.deepStrictEqual(entries, [["B", 1000]])
        assert.strictEqual(sleeps.pending, 0)
      })
    ))

  it.effect("L5 the first waiter is interrupted at 3000: the second goes immediately", () =>
    Effect.gen(function*() {
      const limiter = yield* make(tenPerTenSeconds)
      yield* full(limiter, 10)
      const { enter, entries } = journal(limiter)
      const a = yield* enter("A", 5)
      yield* enter("B", 1)
      yield* TestClock.adjust(3000)
      yield* Fiber.interrupt(a)
      yield* calm
      assert.deepStrictEqual(entries, [["B", 3000]])
      assert.strictEqual(yield* level(limiter), 2)
    }))

  it.effect("L6 (redis-gcra#6) a cost above the capacity is charged in full", () =>
    Effect.gen(function*() {
      const limiter = yield* make(tenPerTenSeconds)
      const { enter, entries } = journal(limiter)
      yield* enter("large", 25)
      assert.strictEqual(yield* level(limiter), -15)
      yield* enter("small", 1)
      yield* TestClock.adjust("1 minute")
      assert.deepStrictEqual(entries, [["large", 0], ["small", 16_000]])
    }))

  it.effect("L7 (litellm#29191 openlimit#8 emqx#2508) a cost above the capacity waits for a full bucket only", () =>
    Effect.gen(function*() {
      const limiter = yield* make(tenPerTenSeconds)
      yield* full(limiter, 5)
      const { enter, entries } = journal(limiter)
      yield* enter("large", 25)
      yield* TestClock.adjust("1 minute")
      assert.deepStrictEqual(entries, [["large", 5000]])
    }))

  const requestsAndTokens = (requests: number): RateLimiter.Options => ({
    limits: [
      { dimension: "requests", limit: requests, per: "60 seconds" },
      { dimension: "tokens", limit: 1000, per: "10 seconds" }
    ]
  })

  it.effect("L8 the scarcer dimension decides", () =>
    Effect.gen(function*() {
      const limiter = yield* make(requestsAndTokens(60))
      const { enter, entries } = journal(limiter)
      yield* enter("A", { requests: 1, tokens: 800 })
      yield* enter("B", { requests: 1, tokens: 300 })
      yield* TestClock.adjust("1 minute")
      assert.deepStrictEqual(entries, [["A", 0], ["B", 1000]])
    }))

  it.effect("L9 (kora#463 envoy/ratelimit#185) a waiter for one dimension takes nothing of another", () =>
    Effect.gen(function*() {
      const limiter = yield* make(requestsAndTokens(2))
      const { enter, entries } = journal(limiter)
      for (const name of ["a", "b", "c"]) yield* enter(name, { tokens: 100 })
      assert.strictEqual(yield* level(limiter, "tokens"), 800)
      yield* TestClock.adjust(29_999)
      assert.strictEqual(yield* level(limiter, "tokens"), 1000)
      yield* TestClock.adjust(1)
      assert.deepStrictEqual(entries, [["a", 0], ["b", 0], ["c", 30_000]])
    }))

  it.effect("L9 a refusal by one dimension takes nothing of another", () =>
    Effect.gen(function*() {
      const limiter = yield* make({ ...requestsAndTokens(2), maxWait: 0 })
      const { enter, entries } = journal(limiter)
      for (const name of ["a", "b", "c"]) yield* enter(name, { tokens: 100 })
      assert.deepStrictEqual(entries, [["a", 0], ["b", 0], ["c", 0, "requests", 30_000]])
      assert.deepStrictEqual((yield* limiter.snapshot).levels, { requests: 0, tokens: 800 })
    }))

  it.effect("L8 a refusal names the dimension that binds, also one ahead in the line", () =>
    Effect.gen(function*() {
      const limiter = yield* make({ ...requestsAndTokens(60), maxWait: 1000 })
      const { enter, entries } = journal(limiter)
      yield* enter("A", { tokens: 1000 })
      yield* enter("B", { tokens: 150 })
      yield* enter("C", { tokens: 100 })
      yield* enter("D", { requests: 1 }, { maxWait: 999 })
      yield* enter("E", { requests: 60 })
      assert.deepStrictEqual(entries, [
        ["A", 0],
        ["B", 0, "tokens", 1500],
        ["D", 0, "tokens", 1000],
        ["E", 0, "requests", 2000]
      ])
    }))

  it.effect("L10 a settlement below the estimate wakes the first waiter", () =>
    Effect.gen(function*() {
      const limiter = yield* make(requestsAndTokens(60))
      const { enter, entries, held } = journal(limiter)
      yield* enter("A", { tokens: 800 })
      yield* enter("B", { tokens: 300 })
      yield* TestClock.adjust(100)
      held("A").settleUnsafe({ tokens: 200 })
      yield* calm
      assert.deepStrictEqual(entries, [["A", 0], ["B", 100]])
      assert.approximately(yield* level(limiter, "tokens"), 510, 1e-6)
    }))

  it.effect("L10 a settlement above the estimate goes below zero", () =>
    Effect.gen(function*() {
      const limiter = yield* make(requestsAndTokens(60))
      const { enter, entries, held } = journal(limiter)
      yield* enter("rest", { tokens: 500 })
      yield* enter("A", { tokens: 100 })
      assert.strictEqual(yield* level(limiter, "tokens"), 400)
      held("A").settleUnsafe({ tokens: 900 })
      assert.strictEqual(yield* level(limiter, "tokens"), -400)
      held("rest").settleUnsafe({ tokens: 600 })
      assert.strictEqual(yield* level(limiter, "tokens"), -500)
      yield* enter("B", { tokens: 1 })
      yield* TestClock.adjust("1 minute")
      assert.deepStrictEqual(entries.at(-1), ["B", 5010])
    }))

  it.effect("L12 (misina#92 anthropic-sdk#357) headers never change the window", () =>
    Effect.gen(function*() {
      const limiter = yield* make({
        limits: [{ dimension: "requests", limit: 60, per: "60 seconds" }],
        maxWait: Infinity,
        queue: 1000
      })
      let sent = 0
      for (let i = 0; i < 601; i++) {
        yield* start(Effect.map(limiter.acquire(1), (reservation) => {
          sent += 1
          reservation.observeUnsafe([{ dimension: "requests", limit: 60, remaining: 59, resetAfter: 1000 }])
        }))
      }
      yield* TestClock.adjust(9999)
      assert.isAtMost(sent, 70)
      assert.isAtLeast(sent, 60)
    }))

  it.effect("L13 (litellm#18730) 1000 fibres at once: exactly the capacity is granted", () =>
    Effect.gen(function*() {
      const limiter = yield* make({ capacity: 100, refillPerSecond: 1, maxWait: 0 })
      const exits = yield* Effect.forEach(
        Array.from({ length: 1000 }, (_, i) => i),
        () => Effect.andThen(Effect.yieldNow, Effect.exit(limiter.acquire(1))),
        { concurrency: "unbounded" }
      )
      assert.strictEqual(exits.filter(Exit.isSuccess).length, 100)
      assert.strictEqual(yield* level(limiter), 0)
    }))

  it.effect("L14 (kubeflow/mcp-server#222) a wall clock that goes back changes nothing", () =>
    Effect.gen(function*() {
      const limiter = yield* make(tenPerTenSeconds)
      yield* TestClock.adjust("2 hours")
      yield* full(limiter, 10)
      yield* TestClock.adjust(1)
      const empty = yield* now
      yield* TestClock.setTime(3_600_000)
      assert.strictEqual(yield* now, empty)
      const { enter, entries } = journal(limiter)
      yield* enter("next")
      yield* TestClock.adjust("1 minute")
      assert.deepStrictEqual(entries, [["next", empty + 999]])
    }))

  it.effect(
    "L15 (seastar#1723) a rate of a third of a token: no drift, one timer per grant",
    () =>
      countingSleeps((sleeps) =>
        Effect.gen(function*() {
          const limiter = yield* make({
            limits: [{ dimension: "requests", limit: 3, per: "10 seconds" }],
            queue: 1000,
            maxWait: Infinity
          })
          yield* full(limiter, 3)
          const { enter, entries } = journal(limiter)
          for (let k = 1; k <= 1000; k++) yield* enter(`${k}`)
          yield* TestClock.adjust("1 hour")
          assert.strictEqual(entries.length, 1000)
          for (const [i, [name, at]] of entries.entries()) {
            assert.strictEqual(name, `${i + 1}`)
            assert.approximately(at, Math.ceil((i + 1) * 10_000 / 3), 1)
          }
          assert.isAtMost(sleeps.started, 1000)
        })
      ),
    30_000
  )

  it.effect("L15 float drift costs no millisecond", () =>
    Effect.gen(function*() {
      const limiter = yield* make({ limits: [{ dimension: "tokens", limit: 1, per: 10 }] })
      yield* full(limiter, 1)
      yield* TestClock.adjust(5)
      yield* full(limiter, 0.4)
      const { enter, entries } = journal(limiter)
      yield* enter("a", 0.2)
      yield* TestClock.adjust(100)
      assert.deepStrictEqual(entries, [["a", 6]])
    }))

  it.effect("L16 (r4j#2489) a limit below the level", () =>
    Effect.gen(function*() {
      const limiter = yield* make({ limits: [{ dimension: "requests", limit: 100, per: "10 seconds" }] })
      yield* limiter.setLimit("requests", 10)
      assert.strictEqual(yield* level(limiter), 10)
      yield* limiter.setLimit("requests", 20)
      assert.strictEqual(yield* level(limiter), 10)
      yield* TestClock.adjust(1000)
      assert.approximately(yield* level(limiter), 12, 1e-9)
      yield* TestClock.adjust("1 minute")
      assert.strictEqual(yield* level(limiter), 20)
    }))

  it.effect("L17 a limiter keeps nothing per name that a cost mentions", () =>
    Effect.gen(function*() {
      const limiter = yield* make({ capacity: 10_000, refillPerSecond: 1000 })
      for (let i = 0; i < 10_000; i++) yield* limiter.acquire({ [`tenant-${i}`]: 5 })
      assert.deepStrictEqual((yield* limiter.snapshot).levels, { requests: 0 })
      yield* TestClock.adjust("80 seconds")
      assert.deepStrictEqual(yield* limiter.snapshot, {
        levels: { requests: 10_000 },
        queued: 0,
        maxQueued: 256,
        blockedFor: 0
      })
    }))

  it.effect("L18 a server's hint blocks; a shorter one does not shorten it", () =>
    Effect.gen(function*() {
      const limiter = yield* make(tenPerTenSeconds)
      yield* limiter.block("2 seconds")
      const { enter, entries } = journal(limiter)
      yield* enter("a")
      yield* TestClock.adjust(500)
      yield* limiter.block("1 second")
      assert.strictEqual((yield* limiter.snapshot).blockedFor, 1500)
      yield* TestClock.adjust(1499)
      assert.deepStrictEqual(entries, [])
      yield* TestClock.adjust(1)
      assert.deepStrictEqual(entries, [["a", 2000]])
    }))

  it.effect("L19 burst 1 paces", () =>
    Effect.gen(function*() {
      const limiter = yield* make({
        limits: [{ dimension: "requests", limit: 60, per: "60 seconds", burst: 1 }]
      })
      const { enter, entries } = journal(limiter)
      for (const name of ["a", "b", "c"]) yield* enter(name)
      yield* TestClock.adjust("1 minute")
      assert.deepStrictEqual(entries, [["a", 0], ["b", 1000], ["c", 2000]])
    }))

  it.effect("L20 the exact wait through the line decides", () =>
    Effect.gen(function*() {
      const limiter = yield* make(tenPerTenSeconds)
      yield* full(limiter, 10)
      const { enter, entries } = journal(limiter)
      for (const name of ["a", "b", "c"]) yield* enter(name, 10)
      yield* enter("late", 1)
      assert.deepStrictEqual(entries, [["late", 0, "requests", 31_000]])
      yield* TestClock.adjust("1 minute")
      assert.deepStrictEqual(entries.slice(1), [["a", 10_000], ["b", 20_000], ["c", 30_000]])
    }))

  it.effect("L21 the first settlement or refund counts", () =>
    Effect.gen(function*() {
      const limiter = yield* make({ limits: [{ dimension: "tokens", limit: 1000, per: "1 hour" }] })
      const { enter, held } = journal(limiter)
      yield* enter("a", 100)
      held("a").settleUnsafe(40)
      held("a").settleUnsafe(0)
      held("a").refundUnsafe("all")
      assert.strictEqual(yield* level(limiter, "tokens"), 960)
      yield* enter("b", 10)
      held("b").refundUnsafe("all")
      held("b").settleUnsafe(500)
      assert.strictEqual(yield* level(limiter, "tokens"), 960)
      yield* enter("c", 5)
      held("c").settleUnsafe(50_000)
      assert.strictEqual(yield* level(limiter, "tokens"), 960 - 50_000)
      for (const nonsense of [NaN, -1, Infinity, -Infinity]) {
        yield* limiter.acquire(0)
        yield* enter("d", 0)
        held("d").settleUnsafe(nonsense)
        held("d").settleUnsafe(7)
        assert.strictEqual(yield* level(limiter, "tokens"), 960 - 50_000)
      }
    }))

  it.effect("L21 an interruption of the work keeps the reservation, which can still be settled", () =>
    Effect.gen(function*() {
      const limiter = yield* make({ limits: [{ dimension: "tokens", limit: 100, per: "1 hour" }] })
      let reservation: RateLimiter.Reservation | undefined
      const fiber = yield* start(Effect.flatMap(limiter.acquire(60), (held) => {
        reservation = held
        return Effect.never
      }))
      yield* Fiber.interrupt(fiber)
      assert.strictEqual(yield* level(limiter, "tokens"), 40)
      reservation!.settleUnsafe(10)
      assert.strictEqual(yield* level(limiter, "tokens"), 90)
    }))

  it.effect("L22 a cost of zero is granted at once, whatever the level", () =>
    Effect.gen(function*() {
      const limiter = yield* make(tenPerTenSeconds)
      yield* full(limiter, 25)
      const { enter, entries } = journal(limiter)
      yield* enter("waits", 1)
      yield* enter("zero", 0)
      assert.deepStrictEqual(entries, [["zero", 0]])
      assert.strictEqual(yield* level(limiter), -15)
    }))

  it.effect("L22 a cost that is not a finite number of at least zero is a typed error", () =>
    Effect.gen(function*() {
      const limiter = yield* make(requestsAndTokens(60))
      for (
        const [cost, path, kind] of [
          [-1, "cost", "a negative number"],
          [NaN, "cost", "not a number"],
          [Infinity, "cost", "infinite"],
          [{ tokens: -1 }, "cost.tokens", "a negative number"],
          [{ requests: NaN }, "cost.requests", "not a number"],
          [{ tokens: "5" as unknown as number }, "cost.tokens", "a text"]
        ] as const
      ) {
        const error = yield* Effect.flip(limiter.acquire(cost))
        assert.strictEqual(error._tag, "InvalidRequest")
        assert.deepInclude(error, { path, kind, rule: "a finite number of at least zero" })
      }
      assert.deepStrictEqual((yield* limiter.snapshot).levels, { requests: 60, tokens: 1000 })
    }))

  it.effect("L23 (notification-api#2921) strict: no window sees more than the limit", () =>
    Effect.gen(function*() {
      const saturate = (strict: number | undefined) =>
        Effect.gen(function*() {
          const limiter = yield* make({
            limits: [{ dimension: "requests", limit: 60, per: "60 seconds", strict }],
            maxWait: Infinity,
            queue: 300
          })
          const { enter, entries } = journal(limiter)
          const zero = yield* now
          for (let i = 0; i < 250; i++) yield* enter(`${i}`)
          yield* TestClock.adjust("5 minutes")
          return entries.map(([, at]) => at - zero)
        })
      const most = (times: ReadonlyArray<number>) =>
        Math.max(...times.map((from) => times.filter((at) => at >= from && at <= from + 60_000).length))
      const strict = yield* saturate(0.1)
      assert.deepStrictEqual(strict.slice(0, 9), [0, 0, 0, 0, 0, 0, 1112, 2223, 3334])
      assert.strictEqual(strict.length, 250)
      assert.strictEqual(most(strict), 60)
      assert.strictEqual(most(yield* saturate(undefined)), 120)
    }))

  it.effect("L25 (leaky-bucket#30) ten idle hours give no more than a full bucket", () =>
    Effect.gen(function*() {
      const limiter = yield* make(tenPerTenSeconds)
      yield* full(limiter, 10)
      yield* TestClock.adjust("10 hours")
      const { enter, entries } = journal(limiter)
      for (let i = 1; i <= 11; i++) yield* enter(`${i}`)
      yield* TestClock.adjust("1 minute")
      assert.deepStrictEqual(entries.map(([, at]) => at - 36_000_000), [...Array.from({ length: 10 }, () => 0), 1000])
    }))
})

describe("RateLimiter bug threads", () => {
  it.effect("r4j#626 an interrupted waiter exits with its interruption", () =>
    Effect.gen(function*() {
      const limiter = yield* make(tenPerTenSeconds)
      yield* full(limiter, 10)
      const fiber = yield* start(limiter.acquire(1))
      yield* Fiber.interrupt(fiber)
      const exit = yield* Fiber.await(fiber)
      assert.isTrue(Exit.isFailure(exit) && Cause.hasInterruptsOnly(exit.cause))
      yield* nobodyWaits(limiter)
    }))

  it.effect("firecracker#3370 a tiny and a huge bucket", () =>
    Effect.gen(function*() {
      const tiny = yield* make({
        limits: [{ dimension: "requests", limit: 1, per: "30 days", burst: 0.001 }],
        maxWait: Infinity
      })
      const one = journal(tiny)
      yield* one.enter("a", 0.001)
      yield* one.enter("b", 0.001)
      yield* TestClock.adjust("30 days")
      assert.deepStrictEqual(one.entries, [["a", 0], ["b", 2_592_000]])
      const zero = yield* now
      const huge = yield* make({ limits: [{ dimension: "requests", limit: 1e15, per: 1 }] })
      const two = journal(huge)
      yield* two.enter("a", 1e15)
      yield* two.enter("b", 1e15)
      yield* TestClock.adjust("1 second")
      assert.deepStrictEqual(two.entries, [["a", zero], ["b", zero + 1]])
    }))

  it.effect("envoy#21327 late timers lose no rate", () =>
    Effect.gen(function*() {
      const limiter = yield* make({ ...tenPerTenSeconds, queue: 1000, maxWait: Infinity })
      yield* full(limiter, 10)
      const { enter, entries } = journal(limiter)
      for (let i = 0; i < 100; i++) yield* enter(`${i}`)
      // Every timer fires 400 ms after the moment it was set for, and nothing runs in between.
      yield* TestClock.testClockWith((clock) =>
        Effect.gen(function*() {
          for (let i = 0; i < 72; i++) yield* clock.adjust(1400)
        })
      )
      assert.strictEqual(entries.length, 100)
      assert.isAtMost(entries.at(-1)![1], 100_000)
    }))

  it.effect("leaky-bucket#39 debits and credits in the same millisecond do not stop the refill", () =>
    Effect.gen(function*() {
      const limiter = yield* make(tenPerTenSeconds)
      const { enter, entries, held } = journal(limiter)
      for (let i = 0; i < 50; i++) {
        yield* enter(`${i}`, 10)
        held(`${i}`).refundUnsafe("all")
      }
      yield* enter("all", 10)
      yield* TestClock.adjust(1000)
      assert.strictEqual(yield* level(limiter), 1)
      assert.strictEqual(entries.length, 51)
    }))
})
