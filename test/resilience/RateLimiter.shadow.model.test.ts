// A limiter in shadow mode beside one that enforces, at random.
import { assert, describe, it } from "@effect/vitest"
import { Duration, Effect, Exit, Fiber, Random, Schema } from "effect"
import { type LlmError } from "effect-resilient-llm"
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
})

describe("what it takes", () => {
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
    { arbitrary: { runs: 100, seed: 7 } }
  )
})
