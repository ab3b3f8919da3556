import { assert, describe, it } from "@effect/vitest"
import { Clock, Config, ConfigProvider, Duration, Effect, Exit, Fiber, Layer } from "effect"
import * as RateLimiter from "effect-resilient-llm/resilience/RateLimiter"
import { TestClock } from "effect/testing"
import { full, journal, level, make, nobodyWaits, tenPerTenSeconds } from "./RateLimiter.support.ts"
import { calm, countingSleeps, now, ringingLate, start, steps } from "./waiting.ts"

describe("RateLimiter", () => {
  it.effect("who goes together with the first one, through a full bucket, changes nobody's time", () =>
    Effect.gen(function*() {
      const limiter = yield* make({
        limits: [
          { dimension: "requests", limit: 10, per: "10 seconds" },
          { dimension: "tokens", limit: 10, per: "10 seconds" }
        ]
      })
      const tokens = (count: number) => ({ requests: 0, tokens: count })
      yield* limiter.acquire(tokens(10))
      const { enter, entries, held } = journal(limiter)
      yield* enter("first", tokens(1))
      yield* enter("with it", 1)
      yield* enter("later", tokens(5), { maxWait: 6000 })
      yield* TestClock.adjust("1 second")
      yield* enter("too late", tokens(5), { maxWait: 9999 })
      held("first").settleUnsafe(tokens(3))
      yield* calm
      assert.deepStrictEqual(entries, [
        ["first", 1000],
        ["with it", 1000],
        ["too late", 1000, "tokens", 10_000],
        ["later", 1000, "tokens", 7000]
      ])
    }))

  describe("costs", () => {
    it.effect("a number costs requests, or the first limit; a record 1 request unless it says otherwise", () =>
      Effect.gen(function*() {
        const both = yield* make({
          limits: [
            { dimension: "tokens", limit: 100, per: "1 hour" },
            { dimension: "requests", limit: 100, per: "1 hour" }
          ]
        })
        yield* both.acquire(3)
        assert.deepStrictEqual((yield* both.snapshot).levels, { tokens: 100, requests: 97 })
        yield* both.acquire({ tokens: 10, unknown: -1 })
        assert.deepStrictEqual((yield* both.snapshot).levels, { tokens: 90, requests: 96 })
        yield* both.acquire({ tokens: 10, requests: 0 })
        assert.deepStrictEqual((yield* both.snapshot).levels, { tokens: 80, requests: 96 })
        const tokens = yield* make({ limits: [{ dimension: "tokens", limit: 100, per: "1 hour" }] })
        yield* tokens.acquire(30)
        assert.deepStrictEqual((yield* tokens.snapshot).levels, { tokens: 70 })
      }))

    it.effect("refund(\"tokens\") keeps the request", () =>
      Effect.gen(function*() {
        const limiter = yield* make({
          limits: [
            { dimension: "requests", limit: 100, per: "1 hour" },
            { dimension: "input-tokens", limit: 100, per: "1 hour" },
            { dimension: "output-tokens", limit: 100, per: "1 hour" }
          ]
        })
        const reservation = yield* limiter.acquire({ "input-tokens": 20, "output-tokens": 30 })
        reservation.refundUnsafe("tokens")
        assert.deepStrictEqual(
          (yield* limiter.snapshot).levels,
          { requests: 99, "input-tokens": 100, "output-tokens": 100 }
        )
      }))

    it.effect("a refund never lifts a level above the bucket", () =>
      Effect.gen(function*() {
        const limiter = yield* make(tenPerTenSeconds)
        const reservation = yield* limiter.acquire(10)
        yield* TestClock.adjust(9000)
        reservation.refundUnsafe("all")
        assert.strictEqual(yield* level(limiter), 10)
      }))
  })

  describe("waiting", () => {
    it.effect("the line is bounded; a refusal names the dimension and the wait", () =>
      Effect.gen(function*() {
        const limiter = yield* make({ ...tenPerTenSeconds, queue: 2 })
        yield* full(limiter, 10)
        const { enter, entries } = journal(limiter)
        for (const name of ["a", "b", "c"]) yield* enter(name)
        assert.deepStrictEqual(entries, [["c", 0, "requests", 3000]])
        assert.strictEqual((yield* limiter.snapshot).queued, 2)
      }))

    it.effect("maxWait of one acquisition is inclusive, limits further, and never extends", () =>
      Effect.gen(function*() {
        const limiter = yield* make({ ...tenPerTenSeconds, maxWait: 5000 })
        yield* full(limiter, 10)
        const { enter, entries } = journal(limiter)
        yield* enter("short", 1, { maxWait: 999 })
        yield* enter("exact", 1, { maxWait: 1000 })
        yield* enter("long", 5, { maxWait: 60_000 })
        yield* enter("nonsense", 1, { maxWait: NaN })
        yield* TestClock.adjust("1 minute")
        assert.deepStrictEqual(entries, [
          ["short", 0, "requests", 1000],
          ["long", 0, "requests", 6000],
          ["nonsense", 0, "requests", 2000],
          ["exact", 1000]
        ])
      }))

    it.effect("an expensive settlement ends waits that become too long, and only those", () =>
      countingSleeps((sleeps) =>
        Effect.gen(function*() {
          const limiter = yield* make({ ...tenPerTenSeconds, maxWait: 5000 })
          const { enter, entries, held } = journal(limiter)
          yield* enter("settles", 10)
          yield* enter("first", 1)
          yield* enter("large", 4)
          assert.deepStrictEqual(entries, [["settles", 0]])
          yield* TestClock.adjust(500)
          held("settles").settleUnsafe(12)
          yield* calm
          assert.deepStrictEqual(entries.slice(1), [["large", 500, "requests", 6500]])
          yield* enter("small", 1)
          yield* TestClock.adjust("1 minute")
          assert.deepStrictEqual(entries.slice(2), [["first", 3000], ["small", 4000]])
          assert.strictEqual(sleeps.pending, 0)
        })
      ))

    it.effect("a long block ends all waits at once", () =>
      Effect.gen(function*() {
        const limiter = yield* make(tenPerTenSeconds)
        yield* full(limiter, 10)
        const { enter, entries } = journal(limiter)
        yield* enter("a")
        yield* enter("b")
        yield* TestClock.adjust(100)
        yield* limiter.block("1 minute")
        yield* calm
        assert.deepStrictEqual(entries, [["a", 100, "requests", 60_000], ["b", 100, "requests", 60_000]])
        yield* nobodyWaits(limiter)
      }))

    it.effect("a higher limit lets the first waiter go sooner", () =>
      Effect.gen(function*() {
        const limiter = yield* make(tenPerTenSeconds)
        yield* full(limiter, 10)
        const { enter, entries } = journal(limiter)
        yield* enter("a")
        yield* TestClock.adjust(500)
        yield* limiter.setLimit("requests", 100)
        yield* TestClock.adjust("1 minute")
        assert.deepStrictEqual(entries, [["a", 550]])
      }))

    it.effect("a waiter behind one that leaves is planned anew", () =>
      Effect.gen(function*() {
        const limiter = yield* make(tenPerTenSeconds)
        yield* full(limiter, 10)
        const { enter, entries } = journal(limiter)
        yield* enter("a", 10)
        const b = yield* enter("b", 10)
        yield* enter("c", 10)
        yield* Fiber.interrupt(b)
        yield* enter("d", 10)
        yield* TestClock.adjust("1 minute")
        assert.deepStrictEqual(entries, [["a", 10_000], ["c", 20_000], ["d", 30_000]])
      }))

    it.effect.each([["a", "c"], ["c", "a"]] as const)(
      "two that leave, %s and then %s: everybody behind is planned anew",
      (gone) =>
        Effect.gen(function*() {
          const limiter = yield* make(tenPerTenSeconds)
          yield* full(limiter, 10)
          const { enter, entries } = journal(limiter)
          const waiting = {
            a: yield* enter("a", 5),
            b: yield* enter("b", 5),
            c: yield* enter("c", 5),
            d: yield* enter("d", 5)
          }
          for (const name of gone) yield* Fiber.interrupt(waiting[name])
          yield* enter("e", 5, { maxWait: 15_000 })
          yield* TestClock.adjust("1 minute")
          assert.deepStrictEqual(entries, [["b", 5000], ["d", 10_000], ["e", 15_000]])
        })
    )

    it.effect("a line without places: whoever need not wait is granted, the others are refused", () =>
      Effect.gen(function*() {
        const limiter = yield* make({ ...tenPerTenSeconds, queue: 0 })
        const { enter, entries, held } = journal(limiter)
        yield* enter("first", 10)
        yield* enter("second")
        held("first").refundUnsafe("all")
        yield* enter("third")
        assert.deepStrictEqual(entries, [["first", 0], ["second", 0, "requests", 1000], ["third", 0]])
      }))

    it.effect("a reservation says how long it was waited for", () =>
      Effect.gen(function*() {
        const limiter = yield* make(tenPerTenSeconds)
        yield* TestClock.adjust(500)
        yield* full(limiter, 10)
        const { enter, held } = journal(limiter)
        yield* enter("waiter", 2)
        yield* TestClock.adjust("1 minute")
        assert.strictEqual(held("waiter").waited, 2000)
      }))

    it.effect("of two dimensions that are equally late, the first is named", () =>
      Effect.gen(function*() {
        const limiter = yield* make({
          limits: [{ dimension: "tokens", limit: 10, per: "10 seconds" }, ...tenPerTenSeconds.limits!],
          maxWait: 0
        })
        const { enter, entries } = journal(limiter)
        yield* enter("a", { tokens: 10, requests: 10 })
        yield* enter("b", { tokens: 1, requests: 1 })
        assert.deepStrictEqual(entries, [["a", 0], ["b", 0, "tokens", 1000]])
      }))

    it.effect("a lower limit ends waits that become too long, and only those", () =>
      Effect.gen(function*() {
        const limiter = yield* make({ limits: [{ dimension: "requests", limit: 1, per: "1 second" }], maxWait: 2500 })
        yield* full(limiter, 1)
        const { enter, entries } = journal(limiter)
        yield* enter("first")
        yield* enter("second")
        yield* limiter.setLimit("requests", 0.5)
        yield* calm
        assert.deepStrictEqual(entries, [["second", 0, "requests", 3000]])
        yield* TestClock.adjust("1 minute")
        assert.deepStrictEqual(entries.slice(1), [["first", 1000]])
      }))

    it.effect("a raised limit ends the wait of who costs more than a bucket, which takes longer to fill now", () =>
      Effect.gen(function*() {
        const limiter = yield* make({ ...tenPerTenSeconds, maxWait: "6 seconds" })
        yield* full(limiter, 5)
        const { enter, entries } = journal(limiter)
        yield* enter("big", 20)
        yield* limiter.setLimit("requests", 20)
        yield* calm
        assert.deepStrictEqual(entries, [["big", 0, "requests", 7500]])
      }))

    it.effect("nobody is let in behind one whom a raised limit makes wait longer, by the plan of before", () =>
      Effect.gen(function*() {
        const limiter = yield* make({
          limits: [
            { dimension: "requests", limit: 10, per: "10 seconds" },
            { dimension: "tokens", limit: 10, per: "10 seconds" }
          ],
          maxWait: "1 minute"
        })
        yield* Effect.orDie(limiter.acquire({ tokens: 5 }))
        const { enter, entries } = journal(limiter)
        yield* enter("big", { tokens: 20 })
        yield* limiter.setLimit("tokens", 20)
        yield* enter("behind", { tokens: 0 }, { maxWait: 6000 })
        yield* TestClock.adjust("1 minute")
        assert.deepStrictEqual(entries, [["behind", 0, "tokens", 7500], ["big", 7500]])
      }))

    it.effect("nobody waits longer than they may, also where timers ring late and full buckets lose what would come", () =>
      ringingLate(
        () => 100,
        Effect.gen(function*() {
          const limiter = yield* make({ capacity: 1, refillPerSecond: 1, maxWait: "5 seconds" })
          yield* full(limiter, 1)
          const { enter, entries } = journal(limiter)
          for (let i = 0; i < 120; i++) {
            yield* enter(`${i}`)
            yield* TestClock.adjust("1 second")
          }
          const waits = entries.filter(({ length }) => length === 2).map(([name, at]) => at - Number(name) * 1000)
          // A timer's own delay is told only when it rings.
          assert.isAtMost(Math.max(...waits), 5100)
          assert.isAtLeast(waits.length, 105)
        })
      ))

    it.effect("a timer that rings late makes all later who come after it, also who comes then", () =>
      ringingLate(
        () => 100,
        Effect.gen(function*() {
          for (const tenants of [["x", "x", "x"], ["x", "y", "z"]]) {
            const limiter = yield* make({ capacity: 1, refillPerSecond: 1 })
            yield* full(limiter, 1)
            const { enter, entries } = journal(limiter)
            for (const [i, tenant] of tenants.entries()) yield* enter(`${i}`, 1, { tenant })
            yield* TestClock.adjust(1100)
            assert.strictEqual(entries.length, 1)
            const error = yield* Effect.flip(limiter.acquire(1, { tenant: tenants[2]!, maxWait: 2950 }))
            assert.deepInclude(error, { _tag: "RateLimited", retryAfter: Duration.millis(3000) })
          }
        })
      ))

    const requestsAndTokens = {
      limits: [
        { dimension: "requests", limit: 1, per: "1 second" },
        { dimension: "tokens", limit: 1, per: "1500 millis" }
      ]
    } as const

    it.effect("who waits too long by a timer that rang late is refused then, and who is behind goes in their own time", () =>
      ringingLate(
        () => 100,
        Effect.gen(function*() {
          const limiter = yield* make(requestsAndTokens)
          yield* limiter.acquire({ requests: 1, tokens: 1 })
          const { enter, entries } = journal(limiter)
          yield* enter("behind", { requests: 0, tokens: 1 })
          yield* enter("first", 1, { priority: "critical" })
          yield* enter("impatient", 1, { priority: "critical", maxWait: 2050 })
          yield* TestClock.adjust(5000)
          assert.deepStrictEqual(entries, [["first", 1100], ["impatient", 1100, "requests", 1000], ["behind", 1600]])
        })
      ))

    it.effect("a timer that rang late makes nobody later who waits for something else, and refuses nobody for that", () =>
      Effect.suspend(() => {
        let late = 100
        return ringingLate(
          () => late,
          Effect.gen(function*() {
            const limiter = yield* make(requestsAndTokens)
            yield* limiter.acquire({ requests: 1, tokens: 1 })
            const { enter, entries } = journal(limiter)
            yield* enter("first", 1)
            yield* enter("second", { requests: 0, tokens: 1 })
            late = 0
            yield* TestClock.adjust(1100)
            yield* enter("third", { requests: 0, tokens: 1 }, { maxWait: 1900 })
            yield* TestClock.adjust(5000)
            assert.deepStrictEqual(entries, [["first", 1100], ["second", 1500], ["third", 3000]])
          })
        )
      }))

    it.effect("whose time has passed when a timer rings late is refused, and takes nothing", () =>
      ringingLate(
        () => 1500,
        Effect.gen(function*() {
          const limiter = yield* make(requestsAndTokens)
          yield* limiter.acquire({ requests: 1, tokens: 1 })
          const { enter, entries } = journal(limiter)
          yield* enter("first", 1)
          yield* enter("second", { requests: 0, tokens: 1 }, { maxWait: 1600 })
          yield* TestClock.adjust(2500)
          assert.deepStrictEqual(entries.map(([name, at, why]) => [name, at, why !== undefined]), [
            ["first", 2500, false],
            ["second", 2500, true]
          ])
          assert.deepStrictEqual((yield* limiter.snapshot).levels, { requests: 0, tokens: 1 })
        })
      ))

    it.effect("at most one timer, whatever the length of the line", () =>
      countingSleeps((sleeps) =>
        Effect.gen(function*() {
          const limiter = yield* make(tenPerTenSeconds)
          yield* full(limiter, 10)
          const { enter, entries } = journal(limiter)
          for (let i = 0; i < 20; i++) yield* enter(`${i}`)
          for (let t = 0; t < 21_000; t += 250) {
            assert.isAtMost(sleeps.pending, 1)
            yield* TestClock.adjust(250)
          }
          assert.strictEqual(entries.length, 20)
          assert.strictEqual(sleeps.pending, 0)
        })
      ))
  })

  describe("blocks", () => {
    it.effect("only the named dimension; an unknown one blocks all; five minutes at most", () =>
      Effect.gen(function*() {
        const limiter = yield* make({
          limits: [
            { dimension: "requests", limit: 10, per: "10 seconds" },
            { dimension: "tokens", limit: 10, per: "10 seconds" }
          ],
          maxWait: "10 minutes"
        })
        yield* limiter.block("2 seconds", "tokens")
        const { enter, entries } = journal(limiter)
        yield* enter("request", { tokens: 0 })
        yield* enter("tokens", { tokens: 1 })
        yield* TestClock.adjust("1 minute")
        assert.deepStrictEqual(entries, [["request", 0], ["tokens", 2000]])
        yield* limiter.block("3 days", "images")
        yield* enter("blocked", { tokens: 0 })
        yield* TestClock.adjust("10 minutes")
        assert.deepStrictEqual(entries.at(-1), ["blocked", 360_000])
      }))

    it.effect("nonsense blocks nothing", () =>
      Effect.gen(function*() {
        const limiter = yield* make(tenPerTenSeconds)
        for (const millis of [NaN, 0, -5]) limiter.blockUnsafe(millis, yield* now)
        assert.strictEqual((yield* limiter.snapshot).blockedFor, 0)
        yield* limiter.acquire(1)
      }))
  })

  describe("observe", () => {
    const observed = Effect.gen(function*() {
      const limiter = yield* make(tenPerTenSeconds)
      const first = yield* limiter.acquire(1)
      const second = yield* limiter.acquire(1)
      return { limiter, first, second }
    })

    it.effect("remaining only lowers", () =>
      Effect.gen(function*() {
        const { first, limiter, second } = yield* observed
        first.observeUnsafe([{ dimension: "requests", remaining: 100 }, {
          dimension: "tokens",
          remaining: 0,
          resetAfter: 1000
        }])
        assert.strictEqual(yield* level(limiter), 8)
        second.observeUnsafe([{ dimension: "requests", remaining: 3, resetAfter: 10_000 }])
        assert.deepStrictEqual(yield* limiter.snapshot, {
          levels: { requests: 3 },
          queued: 0,
          maxQueued: 256,
          blockedFor: 0
        })
      }))

    it.effect("older responses are ignored", () =>
      Effect.gen(function*() {
        const { first, limiter, second } = yield* observed
        second.observeUnsafe([{ dimension: "requests", remaining: 5 }])
        first.observeUnsafe([{ dimension: "requests", remaining: 1 }])
        assert.strictEqual(yield* level(limiter), 5)
      }))

    it.effect("one response may speak twice", () =>
      Effect.gen(function*() {
        const { limiter, second } = yield* observed
        second.observeUnsafe([{ dimension: "requests", remaining: 5 }, { dimension: "requests", remaining: 4 }])
        assert.strictEqual(yield* level(limiter), 4)
        second.observeUnsafe([{ dimension: "requests", remaining: 3 }])
        assert.strictEqual(yield* level(limiter), 3)
      }))

    it.effect("a lower level ends waits that become too long", () =>
      Effect.gen(function*() {
        const limiter = yield* make({ ...tenPerTenSeconds, maxWait: 5000 })
        const first = yield* limiter.acquire(7)
        const { enter, entries } = journal(limiter)
        yield* enter("waiter", 8)
        first.observeUnsafe([{ dimension: "requests", remaining: 2 }])
        yield* calm
        assert.deepStrictEqual(entries, [["waiter", 0, "requests", 6000]])
      }))

    it.effect("reset blocks only when nothing remains", () =>
      Effect.gen(function*() {
        const { first, limiter } = yield* observed
        first.observeUnsafe([{ dimension: "requests", remaining: 0, resetAfter: 4000 }])
        assert.deepStrictEqual(yield* limiter.snapshot, {
          levels: { requests: 0 },
          queued: 0,
          maxQueued: 256,
          blockedFor: 4000
        })
        const { enter, entries } = journal(limiter)
        yield* enter("a")
        yield* TestClock.adjust("1 minute")
        assert.deepStrictEqual(entries, [["a", 4000]])
      }))

    it.effect("nonsense is ignored", () =>
      Effect.gen(function*() {
        const { first, limiter } = yield* observed
        for (const remaining of [NaN, -1]) first.observeUnsafe([{ dimension: "requests", remaining, resetAfter: 4000 }])
        first.observeUnsafe([{ dimension: "requests" }])
        assert.deepStrictEqual(yield* limiter.snapshot, {
          levels: { requests: 8 },
          queued: 0,
          maxQueued: 256,
          blockedFor: 0
        })
      }))
  })

  describe("isIdleUnsafe", () => {
    it.effect("nothing is to be remembered when all buckets are full, nobody waits and nothing is blocked", () =>
      Effect.gen(function*() {
        const limiter = yield* make({
          limits: [
            { dimension: "requests", limit: 1, per: "1 second" },
            { dimension: "tokens", limit: 10, per: "1 second" }
          ]
        })
        assert.isTrue(limiter.isIdleUnsafe(0))
        yield* limiter.acquire({ requests: 0, tokens: 1 })
        assert.deepStrictEqual([0, 99, 100].map(limiter.isIdleUnsafe), [false, false, true])
        limiter.blockUnsafe(500, 0)
        assert.deepStrictEqual([499, 500].map(limiter.isIdleUnsafe), [false, true])
        // Somebody waits still, whose timer rings late.
        yield* limiter.block(1)
        yield* Effect.forkChild(limiter.acquire(1), { startImmediately: true })
        assert.isFalse(limiter.isIdleUnsafe(10_000))
      }))
  })

  describe("tryAcquireUnsafe", () => {
    it.effect("takes what needs no wait without an Effect; else nothing happened", () =>
      Effect.gen(function*() {
        const limiter = yield* make(tenPerTenSeconds)
        const clock = yield* Clock.clockWith(Effect.succeed)
        const take = (cost: RateLimiter.Cost) => limiter.tryAcquireUnsafe(cost, clock, 0)
        assert.strictEqual(take(8)?.waited, 0)
        assert.isUndefined(take(3))
        assert.isUndefined(take(-1))
        assert.isUndefined(take({ requests: NaN }))
        assert.strictEqual(yield* level(limiter), 2)
        const { enter, entries } = journal(limiter)
        yield* enter("large", 5)
        assert.isUndefined(take(1), "the waiter is first")
        take(0)?.refundUnsafe("all")
        yield* TestClock.adjust("1 minute")
        assert.deepStrictEqual(entries, [["large", 3000]])
      }))
  })

  describe("take", () => {
    it.effect("keeps the cost on success and on failure", () =>
      Effect.gen(function*() {
        const limiter = yield* make(tenPerTenSeconds)
        assert.strictEqual(yield* Effect.succeed("ok").pipe(limiter.take(2)), "ok")
        assert.strictEqual(yield* Effect.flip(Effect.fail("no").pipe(limiter.take(3))), "no")
        assert.strictEqual(yield* level(limiter), 5)
      }))

    it.effect("keeps the cost when the work is interrupted", () =>
      Effect.gen(function*() {
        const limiter = yield* make(tenPerTenSeconds)
        const fiber = yield* start(Effect.never.pipe(limiter.take(2)))
        yield* Fiber.interrupt(fiber)
        assert.strictEqual(yield* level(limiter), 8)
      }))

    it.effect("the wait can be interrupted, and limited", () =>
      Effect.gen(function*() {
        const limiter = yield* make(tenPerTenSeconds)
        yield* full(limiter, 10)
        let ran = 0
        const work = Effect.sync(() => {
          ran += 1
        })
        const fiber = yield* start(work.pipe(limiter.take(1)))
        yield* Fiber.interrupt(fiber)
        const refused = yield* Effect.flip(work.pipe(limiter.take(1, { maxWait: 500 })))
        assert.strictEqual(refused._tag, "RateLimited")
        assert.strictEqual(ran, 0)
        yield* nobodyWaits(limiter)
      }))

    it.effect("gives the cost back when the interruption comes before the work", () =>
      Effect.gen(function*() {
        const limiter = yield* make(tenPerTenSeconds)
        let ran = false
        const work = Effect.sync(() => {
          ran = true
        })
        // The interruption comes in the very step of the grant.
        const fiber = yield* start(Effect.withFiber((self) =>
          work.pipe(
            limiter.take(4),
            Effect.updateService(Clock.Clock, (clock) =>
              Object.assign(Object.create(clock) as Clock.Clock, {
                monotonicTimeNanosUnsafe: () => {
                  self.interruptUnsafe()
                  return clock.monotonicTimeNanosUnsafe()
                }
              }))
          )
        ))
        assert.isTrue(Exit.hasInterrupts(yield* Fiber.await(fiber)))
        assert.isFalse(ran)
        assert.strictEqual(yield* level(limiter), 10)
      }))

    it.effect("leaves an uninterruptible caller uninterruptible", () =>
      Effect.gen(function*() {
        const limiter = yield* make(tenPerTenSeconds)
        yield* full(limiter, 10)
        const fiber = yield* start(Effect.uninterruptible(Effect.succeed("ok").pipe(limiter.take(1))))
        fiber.interruptUnsafe()
        yield* calm
        assert.strictEqual((yield* limiter.snapshot).queued, 1)
        yield* steps(1000)
        yield* nobodyWaits(limiter)
        assert.strictEqual(yield* level(limiter), 0)
      }))
  })

  describe("options", () => {
    const limit = { dimension: "requests", limit: 10, per: "1 second" } as const
    const known = "capacity, refillPerSecond, maxWait, queue, mode"
    const cases: ReadonlyArray<
      readonly [name: string, options: unknown, path: string, rule: string, kind?: string]
    > = [
      ["capacity of zero", { capacity: 0 }, "capacity", "a number above zero"],
      ["capacity as a text", { capacity: "10" }, "capacity", "a number above zero"],
      ["endless capacity", { capacity: Infinity }, "capacity", "a number above zero"],
      ["no refill", { refillPerSecond: 0 }, "refillPerSecond", "a number above zero"],
      ["negative wait", { maxWait: -1 }, "maxWait", "a duration that is not negative"],
      ["half a waiter", { queue: 0.5 }, "queue", "a whole number of at least 0"],
      ["another mode", { mode: "off" }, "mode", "one of enforce, shadow"],
      ["unknown option", { capcity: 1 }, "capcity", `one of limits, ${known}`],
      ["both forms", { limits: [limit], capacity: 1 }, "capacity", "absent when \"limits\" is given"],
      [
        "both forms, again",
        { limits: [limit], refillPerSecond: 1 },
        "refillPerSecond",
        "absent when \"limits\" is given"
      ],
      ["no limit", { limits: [] }, "limits", "a list of at least one limit"],
      ["limits that are none", { limits: "many" }, "limits", "a list of at least one limit"],
      [
        "the same dimension twice",
        { limits: [limit, limit] },
        "limits[1].dimension",
        "different from the dimensions before it"
      ],
      ["no dimension", { limits: [{ ...limit, dimension: "" }] }, "limits[0].dimension", "the name of one"],
      ["a number as dimension", { limits: [{ ...limit, dimension: 42 }] }, "limits[0].dimension", "the name of one"],
      ["limit of NaN", { limits: [{ ...limit, limit: NaN }] }, "limits[0].limit", "a number above zero"],
      [
        "no window",
        { limits: [{ dimension: "requests", limit: 10 }] },
        "limits[0].per",
        "given",
        "missing"
      ],
      [
        "endless window",
        { limits: [{ ...limit, per: Infinity }] },
        "limits[0].per",
        "a finite duration above zero",
        "infinite"
      ],
      ["burst of zero", { limits: [{ ...limit, burst: 0 }] }, "limits[0].burst", "a number above zero"],
      ["strict of 1", { limits: [{ ...limit, strict: 1 }] }, "limits[0].strict", "a number between 0 and 1"],
      ["strict of 0", { limits: [{ ...limit, strict: 0 }] }, "limits[0].strict", "a number between 0 and 1"],
      [
        "strict and burst",
        { limits: [{ ...limit, strict: 0.1, burst: 1 }] },
        "limits[0].burst",
        "absent when \"strict\" is given",
        "a whole number"
      ]
    ]
    it.effect.each(cases)(
      "%s is a typed error, which says what must be",
      ([, options, path, rule, kind]) =>
        Effect.gen(function*() {
          const error = yield* Effect.flip(RateLimiter.make(options as RateLimiter.Options))
          assert.deepInclude(error, { _tag: "LlmConfigError", path: `rateLimit.${path}`, rule })
          assert.match(error.message, /must be \S.*, but is \S/)
          if (kind !== undefined) assert.strictEqual(error.kind, kind)
        })
    )

    it.effect("defaults: 3500, 58.33 per second, 30 s, 256", () =>
      Effect.gen(function*() {
        assert.deepStrictEqual(RateLimiter.policy(), {
          limits: [{ dimension: "requests", limit: 3500, burst: 3500, rate: 0.05833 }],
          perTenant: [],
          maxWait: 30_000,
          queue: 256,
          isShadow: false
        })
        const limiter = yield* RateLimiter.make()
        assert.strictEqual(yield* level(limiter), 3500)
      }))

    it.effect("setLimit refuses an unknown dimension and nonsense", () =>
      Effect.gen(function*() {
        const limiter = yield* make(tenPerTenSeconds)
        const refused = (dimension: string, limit: number, path: string, rule: string) =>
          Effect.map(Effect.flip(limiter.setLimit(dimension, limit)), (error) => {
            assert.deepInclude(error, { path, rule })
            assert.match(error.message, /must be \S.*, but is \S/)
          })
        yield* refused("tokens", 5, "dimension", "a dimension that has a limit")
        for (const nonsense of [0, -1, NaN, Infinity, "5" as never]) {
          yield* refused("requests", nonsense, "limit", "a number above zero")
        }
        assert.strictEqual(yield* level(limiter), 10)
      }))

    it.effect("setLimit keeps the proportion of the burst", () =>
      Effect.gen(function*() {
        const limiter = yield* make({ limits: [{ dimension: "requests", limit: 60, per: "60 seconds", burst: 6 }] })
        yield* limiter.setLimit("requests", 120)
        yield* TestClock.adjust("1 minute")
        assert.strictEqual(yield* level(limiter), 12)
      }))
  })

  describe("layers", () => {
    it.effect("layer", () =>
      Effect.gen(function*() {
        const limiter = yield* RateLimiter.RateLimiter
        yield* limiter.acquire(2)
        assert.strictEqual(yield* level(limiter), 3)
      }).pipe(Effect.provide(RateLimiter.layer({ capacity: 5 }))))

    it.effect("layerConfig", () =>
      Effect.gen(function*() {
        const limiter = yield* RateLimiter.RateLimiter
        assert.strictEqual(yield* level(limiter), 7)
      }).pipe(
        Effect.provide(RateLimiter.layerConfig({ capacity: Config.Finite("CAPACITY") })),
        Effect.provide(ConfigProvider.layer(ConfigProvider.fromEnvRecord({ CAPACITY: "7" })))
      ))

    it.effect("layerConfig with a wrong value fails to build", () =>
      Effect.gen(function*() {
        const error = yield* Effect.flip(Effect.scoped(Layer.build(
          RateLimiter.layerConfig({ capacity: Config.Finite("CAPACITY") })
        )))
        assert.strictEqual(error._tag, "LlmConfigError")
      }).pipe(Effect.provide(ConfigProvider.layer(ConfigProvider.fromEnvRecord({ CAPACITY: "0" })))))
  })
})
