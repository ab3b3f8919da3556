// Processes that share their limits, at random.
import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber, Random, Schema } from "effect"
import { RateLimiter } from "effect-resilient-llm/resilience"
import { TestClock } from "effect/testing"
import { counted } from "./RateLimiter.support.ts"
import { now } from "./waiting.ts"

describe("RateLimiter.makeShared", () => {
  it.effect.prop(
    "random processes: no interval sees more than burst and refill, whoever leaves, and everything goes back in the end",
    { seed: Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 1e9 })) },
    ({ seed }) =>
      Effect.scoped(Effect.gen(function*() {
        const { does, memory, store } = yield* counted
        const per = 10_000
        const options: RateLimiter.Options = {
          limits: [
            { dimension: "requests", limit: 40, per },
            { dimension: "tokens", limit: 4000, per }
          ],
          maxWait: "5 seconds"
        }
        const of = [{ dimension: "requests", burst: 40, rate: 40 / per }, {
          dimension: "tokens",
          burst: 4000,
          rate: 4000 / per
        }]
        const processes = yield* Effect.all(
          Array.from({ length: 3 }, () => RateLimiter.makeShared("k", store, options))
        )
        const draw = (n: number) => Effect.map(Random.next, (u) => Math.floor(u * n))
        const granted: Array<{ readonly at: number; readonly cost: number }> = []
        for (let i = 0; i < 150; i++) {
          does.delay = [0, 0, 1, 40][yield* draw(4)]!
          const limiter = processes[yield* draw(3)]!
          const tokens = 10 * (1 + (yield* draw(40)))
          const interruptAt = (yield* draw(4)) === 0 ? yield* draw(200) : undefined
          const settled = yield* draw(3)
          const fiber = yield* Effect.forkChild(
            Effect.matchEffect(limiter.acquire({ requests: 1, tokens }), {
              onSuccess: (reservation) =>
                Effect.map(now, (at) => {
                  const cost = settled === 0 ? tokens : settled === 1 ? Math.floor(tokens / 2) : 0
                  granted.push({ at, cost: settled === 2 ? 0 : 1 })
                  if (settled === 1) reservation.settleUnsafe({ tokens: cost })
                  if (settled === 2) reservation.refundUnsafe("all")
                }),
              onFailure: () => Effect.void
            }),
            { startImmediately: true }
          )
          if (interruptAt !== undefined) {
            yield* Effect.forkChild(Effect.delay(Fiber.interrupt(fiber), interruptAt), { startImmediately: true })
          }
          yield* TestClock.adjust(yield* draw(120))
        }
        does.delay = 0
        yield* TestClock.adjust(6000)
        // P2, with what lies with the processes.
        const times = granted.toSorted((a, b) => a.at - b.at)
        for (let a = 0; a < times.length; a++) {
          let sum = 0
          for (let b = a; b < times.length; b++) {
            sum += times[b]!.cost
            assert.isAtMost(sum, 40 + 40 / per * (times[b]!.at - times[a]!.at) + 11)
          }
        }
        // Everything goes back in the end.
        yield* TestClock.adjust(40_000)
        const { levels } = yield* memory.snapshot("k", of)
        assert.deepStrictEqual(levels.map(Math.round), [40, 4000])
        for (const limiter of processes) assert.strictEqual((yield* limiter.snapshot).queued, 0)
      })).pipe(Effect.provide(TestClock.layer()), Random.withSeed(seed)),
    { arbitrary: { runs: 15 } }
  )
})
