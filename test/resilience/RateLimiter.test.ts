import { assert, describe, it } from "@effect/vitest"
import { Cause, Clock, Config, ConfigProvider, Duration, Effect, Exit, Fiber, Layer } from "effect"
import * as RateLimiter from "effect-resilient-llm/resilience/RateLimiter"
import { TestClock } from "effect/testing"
import { calm, countingSleeps, now, start, steps } from "./waiting.ts"

type Entry =
  | readonly [name: string, at: number]
  | readonly [name: string, at: number, dimension: string, retryAfter: number]

const tenPerTenSeconds: RateLimiter.Options = { limits: [{ dimension: "requests", limit: 10, per: "10 seconds" }] }

/** Logs when an acquisition is granted, or refused with which hint. */
const journal = (limiter: RateLimiter.RateLimiter) => {
  const entries: Array<Entry> = []
  const reservations = new Map<string, RateLimiter.Reservation>()
  const enter = (name: string, cost: RateLimiter.Cost = 1, options?: RateLimiter.AcquireOptions) =>
    start(Effect.matchEffect(limiter.acquire(cost, options), {
      onSuccess: (reservation) =>
        Effect.map(now, (at) => {
          reservations.set(name, reservation)
          entries.push([name, at])
        }),
      onFailure: (error) =>
        Effect.map(now, (at) =>
          entries.push(
            error._tag === "RateLimited"
              ? [name, at, error.dimension, Duration.toMillis(error.retryAfter)]
              : [name, at, error.path, NaN]
          ))
    }))
  return { entries, enter, held: (name: string) => reservations.get(name)! }
}

const make = (options: RateLimiter.Options) => Effect.orDie(RateLimiter.make(options))
const full = (limiter: RateLimiter.RateLimiter, level: number) => Effect.asVoid(Effect.orDie(limiter.acquire(level)))
const level = (limiter: RateLimiter.RateLimiter, dimension = "requests") =>
  Effect.map(limiter.snapshot, ({ levels }) => levels[dimension]!)
const nobodyWaits = (limiter: RateLimiter.RateLimiter) =>
  Effect.map(limiter.snapshot, ({ queued }) => assert.strictEqual(queued, 0))

describe("RateLimiter", () => {
  describe("vectors", () => {
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
        held("A").settle({ tokens: 200 })
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
        held("A").settle({ tokens: 900 })
        assert.strictEqual(yield* level(limiter, "tokens"), -400)
        held("rest").settle({ tokens: 600 })
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
            reservation.observe([{ dimension: "requests", limit: 60, remaining: 59, resetAfter: 1000 }])
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
        assert.deepStrictEqual(yield* limiter.snapshot, { levels: { requests: 10_000 }, queued: 0, blockedFor: 0 })
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
        held("a").settle(40)
        held("a").settle(0)
        held("a").refund("all")
        assert.strictEqual(yield* level(limiter, "tokens"), 960)
        yield* enter("b", 10)
        held("b").refund("all")
        held("b").settle(500)
        assert.strictEqual(yield* level(limiter, "tokens"), 960)
        yield* enter("c", 5)
        held("c").settle(50_000)
        assert.strictEqual(yield* level(limiter, "tokens"), 960 - 50_000)
        for (const nonsense of [NaN, -1, Infinity, -Infinity]) {
          yield* limiter.acquire(0)
          yield* enter("d", 0)
          held("d").settle(nonsense)
          held("d").settle(7)
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
        reservation!.settle(10)
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
          if (error._tag === "InvalidRequest") assert.deepStrictEqual([error.path, error.kind], [path, kind])
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

  describe("bug threads", () => {
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
          held(`${i}`).refund("all")
        }
        yield* enter("all", 10)
        yield* TestClock.adjust(1000)
        assert.strictEqual(yield* level(limiter), 1)
        assert.strictEqual(entries.length, 51)
      }))
  })

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
        reservation.refund("tokens")
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
        reservation.refund("all")
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
          held("settles").settle(12)
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
        first.observe([{ dimension: "requests", remaining: 100 }, {
          dimension: "tokens",
          remaining: 0,
          resetAfter: 1000
        }])
        assert.strictEqual(yield* level(limiter), 8)
        second.observe([{ dimension: "requests", remaining: 3, resetAfter: 10_000 }])
        assert.deepStrictEqual(yield* limiter.snapshot, { levels: { requests: 3 }, queued: 0, blockedFor: 0 })
      }))

    it.effect("older responses are ignored", () =>
      Effect.gen(function*() {
        const { first, limiter, second } = yield* observed
        second.observe([{ dimension: "requests", remaining: 5 }])
        first.observe([{ dimension: "requests", remaining: 1 }])
        assert.strictEqual(yield* level(limiter), 5)
      }))

    it.effect("reset blocks only when nothing remains", () =>
      Effect.gen(function*() {
        const { first, limiter } = yield* observed
        first.observe([{ dimension: "requests", remaining: 0, resetAfter: 4000 }])
        assert.deepStrictEqual(yield* limiter.snapshot, { levels: { requests: 0 }, queued: 0, blockedFor: 4000 })
        const { enter, entries } = journal(limiter)
        yield* enter("a")
        yield* TestClock.adjust("1 minute")
        assert.deepStrictEqual(entries, [["a", 4000]])
      }))

    it.effect("nonsense is ignored", () =>
      Effect.gen(function*() {
        const { first, limiter } = yield* observed
        for (const remaining of [NaN, -1]) first.observe([{ dimension: "requests", remaining, resetAfter: 4000 }])
        first.observe([{ dimension: "requests" }])
        assert.deepStrictEqual(yield* limiter.snapshot, { levels: { requests: 8 }, queued: 0, blockedFor: 0 })
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
    const cases: ReadonlyArray<readonly [name: string, options: unknown, path: string]> = [
      ["capacity of zero", { capacity: 0 }, "rateLimit.capacity"],
      ["endless capacity", { capacity: Infinity }, "rateLimit.capacity"],
      ["no refill", { refillPerSecond: 0 }, "rateLimit.refillPerSecond"],
      ["negative wait", { maxWait: -1 }, "rateLimit.maxWait"],
      ["half a waiter", { queue: 0.5 }, "rateLimit.queue"],
      ["unknown option", { capcity: 1 }, "rateLimit.capcity"],
      ["both forms", { limits: [limit], capacity: 1 }, "rateLimit.capacity"],
      ["both forms, again", { limits: [limit], refillPerSecond: 1 }, "rateLimit.refillPerSecond"],
      ["no limit", { limits: [] }, "rateLimit.limits"],
      ["limits that are none", { limits: "many" }, "rateLimit.limits"],
      ["the same dimension twice", { limits: [limit, limit] }, "rateLimit.limits[1].dimension"],
      ["no dimension", { limits: [{ ...limit, dimension: "" }] }, "rateLimit.limits[0].dimension"],
      ["limit of NaN", { limits: [{ ...limit, limit: NaN }] }, "rateLimit.limits[0].limit"],
      ["no window", { limits: [{ dimension: "requests", limit: 10 }] }, "rateLimit.limits[0].per"],
      ["endless window", { limits: [{ ...limit, per: Infinity }] }, "rateLimit.limits[0].per"],
      ["burst of zero", { limits: [{ ...limit, burst: 0 }] }, "rateLimit.limits[0].burst"],
      ["strict of 1", { limits: [{ ...limit, strict: 1 }] }, "rateLimit.limits[0].strict"],
      ["strict of 0", { limits: [{ ...limit, strict: 0 }] }, "rateLimit.limits[0].strict"],
      ["strict and burst", { limits: [{ ...limit, strict: 0.1, burst: 1 }] }, "rateLimit.limits[0].burst"]
    ]
    it.effect.each(cases)("%s is a typed error", ([, options, path]) =>
      Effect.gen(function*() {
        const error = yield* Effect.flip(RateLimiter.make(options as RateLimiter.Options))
        assert.deepStrictEqual([error._tag, error.path], ["LlmConfigError", path])
      }))

    it.effect("defaults: 3500, 58.33 per second, 30 s, 256", () =>
      Effect.gen(function*() {
        assert.deepStrictEqual(RateLimiter.policy(), {
          limits: [{ dimension: "requests", limit: 3500, burst: 3500, rate: 0.05833 }],
          maxWait: 30_000,
          queue: 256
        })
        const limiter = yield* RateLimiter.make()
        assert.strictEqual(yield* level(limiter), 3500)
      }))

    it.effect("setLimit refuses an unknown dimension and nonsense", () =>
      Effect.gen(function*() {
        const limiter = yield* make(tenPerTenSeconds)
        assert.strictEqual((yield* Effect.flip(limiter.setLimit("tokens", 5))).path, "dimension")
        for (const nonsense of [0, -1, NaN, Infinity]) {
          assert.strictEqual((yield* Effect.flip(limiter.setLimit("requests", nonsense))).path, "limit")
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
