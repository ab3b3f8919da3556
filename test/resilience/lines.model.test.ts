// Long lines of the limiter, and lines at random.
import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber, Schema } from "effect"
import * as RateLimiter from "effect-resilient-llm/resilience/RateLimiter"
import { TestClock } from "effect/testing"
import { countingSleeps, now, start } from "./waiting.ts"

describe("a line of the limiter with priorities", () => {
  const int = (minimum: number, maximum: number) => Schema.Int.check(Schema.isBetween({ minimum, maximum }))
  const Op = Schema.Struct({
    cost: int(1, 12),
    tokens: int(0, 60),
    level: int(0, 3),
    tenant: int(0, 3),
    maxWait: int(0, 2000),
    pause: int(0, 60),
    cancel: Schema.Boolean,
    settle: int(0, 90)
  })

  it.effect.prop(
    "whoever is let in gets through in time or is told so before; nothing is lost",
    { ops: Schema.Array(Op).check(Schema.isMinLength(40), Schema.isMaxLength(120)) },
    ({ ops }) =>
      countingSleeps((sleeps) =>
        Effect.gen(function*() {
          const limiter = yield* RateLimiter.make({
            limits: [{ dimension: "requests", limit: 8, per: 128 }, { dimension: "tokens", limit: 64, per: 128 }],
            maxWait: Infinity,
            queue: 50
          })
          const fibers: Array<Fiber.Fiber<unknown, unknown>> = []
          const held: Array<RateLimiter.Reservation> = []
          const late: Array<unknown> = []
          let given = 0
          let answered = 0
          for (const op of ops) {
            const priority = (["sheddable", "batch", "default", "critical"] as const)[op.level]!
            const begun = yield* now
            // Some wait for long enough to rise, and some for as long as it takes.
            const maxWait = op.maxWait % 7 === 0 ? 40_000 : op.maxWait % 7 === 1 ? Infinity : op.maxWait
            const call = limiter.acquire({ requests: op.cost, tokens: op.tokens }, {
              priority,
              tenant: `${op.tenant}`,
              maxWait
            })
            given += 1
            fibers.push(
              yield* start(Effect.onExit(call, (exit) =>
                Effect.map(now, (at) => {
                  answered += 1
                  if (at - begun > maxWait) late.push([maxWait, at - begun])
                  if (exit._tag === "Success") held.push(exit.value)
                })))
            )
            if (op.cancel) fibers[op.settle % fibers.length]!.interruptUnsafe()
            const one = held[op.settle % Math.max(held.length, 1)]
            if (op.settle % 3 === 0) one?.settleUnsafe({ tokens: op.settle })
            if (op.pause % 5 === 0) yield* limiter.block(op.pause)
            yield* TestClock.adjust(op.pause)
            assert.isAtMost(sleeps.pending, 1)
          }
          yield* TestClock.adjust("2 minutes")
          assert.deepStrictEqual([answered, sleeps.pending, late], [given, 0, []])
          const { levels, queued } = yield* limiter.snapshot
          assert.deepStrictEqual({ levels, queued }, { levels: { requests: 8, tokens: 64 }, queued: 0 })
        })
      ).pipe(Effect.scoped, Effect.provide(TestClock.layer())),
    { arbitrary: { runs: 60, seed: 5 } }
  )
  it.live(
    "who comes to 16,000 waiters and leaves again does not plan them anew, nor does who gives tokens back",
    () =>
      Effect.gen(function*() {
        const limiter = yield* RateLimiter.make({
          capacity: 40,
          refillPerSecond: 0.01,
          queue: 20_000,
          maxWait: Infinity
        })
        const taken = yield* Effect.forEach(Array.from({ length: 40 }), () => limiter.acquire(1))
        const fibers = yield* Effect.forEach(Array.from({ length: 16_000 }), () => start(limiter.acquire(1)))
        const median = Effect.fnUntraced(function*(change: (i: number) => Effect.Effect<unknown>) {
          const millis: Array<number> = []
          for (let i = 0; i < 20; i++) {
            const begun = performance.now()
            yield* change(i)
            millis.push(performance.now() - begun)
          }
          return millis.toSorted((a, b) => a - b)[10]!
        })
        const comeAndGo = Effect.flatMap(start(limiter.acquire(1)), Fiber.interrupt)
        assert.isBelow(yield* median(() => comeAndGo), 0.5, "milliseconds, to come and go")
        const giveBackAndCome = (i: number) =>
          Effect.andThen(
            Effect.sync(() => taken[i]!.settleUnsafe(0.5)),
            Effect.map(start(limiter.acquire(1)), (fiber) => fibers.push(fiber))
          )
        assert.isBelow(yield* median(giveBackAndCome), 0.5, "milliseconds, to give back and come")
        for (const fiber of fibers) fiber.interruptUnsafe()
      })
  )
  it.live("a settlement behind 16,000 waiters does not plan them anew", () =>
    Effect.gen(function*() {
      const limiter = yield* RateLimiter.make({ capacity: 10, refillPerSecond: 0.01, queue: 16_000, maxWait: Infinity })
      const taken = yield* Effect.forEach(Array.from({ length: 10 }), () => limiter.acquire(1))
      const fibers = yield* Effect.forEach(Array.from({ length: 16_000 }), () => start(limiter.acquire(1)))
      const millis: Array<number> = []
      for (const [i, one] of taken.entries()) {
        const begun = performance.now()
        one.settleUnsafe(i % 2 === 0 ? 1.5 : 1.2)
        millis.push(performance.now() - begun)
      }
      assert.isBelow(millis.toSorted((a, b) => a - b)[5]!, 1, "milliseconds of the median")
      for (const fiber of fibers) fiber.interruptUnsafe()
    }))
})
