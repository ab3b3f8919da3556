// A limiter in shadow mode beside one that enforces: it says of each call what the other does with it.
import { assert, describe, it } from "@effect/vitest"
import { Duration, Effect, Exit, Fiber, Random, Schema } from "effect"
import { LlmError } from "effect-resilient-llm"
import { RateLimiter } from "effect-resilient-llm/resilience"
import { TestClock } from "effect/testing"
import { failure } from "../support.ts"

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

  const int = (minimum: number, maximum: number) => Schema.Int.check(Schema.isBetween({ minimum, maximum }))
  const Op = Schema.Struct({
    kind: int(0, 9),
    tokens: int(0, 60),
    tenant: int(0, 2),
    which: int(0, 50),
    pause: int(0, 60)
  })

  it.effect.prop(
    "where nobody may wait it tells of those, and only those, that an enforcing one refuses",
    { ops: Schema.Array(Op).check(Schema.isMinLength(40), Schema.isMaxLength(120)), byTenant: Schema.Boolean },
    ({ byTenant, ops }) =>
      Effect.gen(function*() {
        const limits: ReadonlyArray<RateLimiter.Limit> = [
          { dimension: "requests", limit: 8, per: 128 },
          { dimension: "tokens", limit: 128, per: 256 },
          ...byTenant ? [{ dimension: "tokens", limit: 64, per: 256, by: "tenant" } as const] : []
        ]
        const enforced = yield* RateLimiter.make({ limits, maxWait: 0 })
        const watched = yield* RateLimiter.make({ limits, maxWait: 0, ...shadow })
        const held: Array<readonly [RateLimiter.Reservation, RateLimiter.Reservation]> = []
        for (const { kind, pause, tenant, tokens, which } of ops) {
          const options = { tenant: `${tenant}` }
          const both = <A, E>(use: (limiter: RateLimiter.RateLimiter) => Effect.Effect<A, E>) =>
            Effect.all([use(enforced), use(watched)])
          const pair = held[which % Math.max(held.length, 1)]
          const remaining = [{ dimension: "tokens", limit: 128, remaining: tokens, resetAfter: pause }]
          if (kind < 5) {
            const one = yield* Effect.exit(enforced.acquire({ tokens }, options))
            const other = yield* watched.acquire({ tokens }, options)
            if (Exit.isSuccess(one)) {
              assert.isUndefined(other.would)
              held.push([one.value, other])
            } else {
              const error = failure(one)
              assert.strictEqual(error._tag, "RateLimited")
              const millis = error._tag === "RateLimited" ? Duration.toMillis(error.retryAfter) : 0
              assert.deepStrictEqual(other.would, { decision: "would-refuse", millis })
            }
          } else if (kind === 5) yield* Effect.forEach(pair ?? [], (one) => one.settle({ tokens: which }))
          else if (kind === 6) {
            yield* Effect.forEach(pair ?? [], (one) => one.refund(which % 2 === 0 ? "all" : "tokens"))
          } else if (kind === 7) yield* Effect.forEach(pair ?? [], (one) => one.observe(remaining))
          else if (kind === 8) yield* both((limiter) => limiter.block(pause, which % 2 === 0 ? "tokens" : undefined))
          else yield* both((limiter) => limiter.setLimit("requests", 1 + which))
          yield* TestClock.adjust(pause)
          const [mine, theirs] = yield* both(({ snapshot }) => snapshot)
          for (const [dimension, level] of Object.entries(mine.levels)) {
            assert.closeTo(theirs.levels[dimension]!, level, 1e-6)
          }
          assert.strictEqual(theirs.queued, 0)
        }
      }).pipe(Effect.provide(TestClock.layer())),
    { arbitrary: { runs: 100, seed: 7 }, timeout: 60_000 }
  )
})
