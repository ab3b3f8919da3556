import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Fiber, Scheduler } from "effect"
import * as RateLimiter from "effect-resilient-llm/resilience/RateLimiter"
import { TestClock } from "effect/testing"
import { calm, countingSleeps, start } from "./waiting.ts"

const BUDGETS = Array.from({ length: 62 }, (_, i) => i + 3)

type Acquire = (limiter: RateLimiter.RateLimiter, acquired: () => void) => Effect.Effect<unknown, unknown>

const ways: ReadonlyArray<readonly [name: string, acquire: Acquire]> = [
  [
    "restore",
    (limiter, acquired) =>
      Effect.uninterruptibleMask((restore) => Effect.map(limiter.acquire(1, { restore }), () => acquired()))
  ],
  ["onAcquired", (limiter, acquired) => limiter.acquire(1, { onAcquired: acquired })],
  ["take", (limiter, acquired) => Effect.sync(acquired).pipe(limiter.take(1))]
]

const triggers: ReadonlyArray<
  readonly [name: string, trigger: (token: RateLimiter.Reservation) => Effect.Effect<unknown>]
> = [
  ["a refund", (token) => Effect.sync(() => token.refundUnsafe("all"))],
  ["time", () => Effect.forkChild(TestClock.adjust(1000))]
]

const limits: ReadonlyArray<readonly [name: string, limits: ReadonlyArray<RateLimiter.Limit>]> = [
  ["of all", [{ dimension: "requests", limit: 10, per: "10 seconds" }]],
  ["of all behind those of a tenant", [
    { dimension: "requests", limit: 10, per: "10 seconds" },
    { dimension: "requests", limit: 20, per: "1000 days", by: "tenant" }
  ]]
]

/** Three wait; one token comes; the first is interrupted `steps` yields later. Answers whether it was too late. */
const scenario = (
  [how, acquire]: (typeof ways)[number],
  [what, trigger]: (typeof triggers)[number],
  [of, rules]: (typeof limits)[number],
  budget: number,
  steps: number
) =>
  Effect.gen(function*() {
    const where = `budget ${budget}, step ${steps}`
    const limiter = yield* RateLimiter.make({ limits: rules })
    yield* limiter.acquire(9)
    const token = yield* limiter.acquire(1)
    const acquired: Array<string> = []
    const enter = (name: string) =>
      start(
        acquire(limiter, () => acquired.push(name)).pipe(Effect.provideService(Scheduler.MaxOpsBeforeYield, budget))
      )
    const a = yield* enter("a")
    const b = yield* enter("b")
    const c = yield* enter("c")
    yield* calm
    assert.deepStrictEqual(acquired, [])
    yield* trigger(token)
    for (let i = 0; i < steps; i++) yield* Effect.yieldNow
    const late = a.pollUnsafe() !== undefined
    a.interruptUnsafe()
    yield* calm
    yield* calm
    const kept = acquired[0] === "a"
    const exit = yield* Fiber.await(a)
    if (late) assert.isTrue(kept && Exit.isSuccess(exit), where)
    // `take` keeps the cost of work that was interrupted before its first step: it cannot know.
    const { levels } = yield* limiter.snapshot
    const inDoubt = how === "take" && !kept && acquired.length === 0 && levels["requests"] === 0
    // The one token has one owner at once: who came first, or the next one.
    if (what === "a refund") {
      assert.deepStrictEqual(acquired, kept ? ["a"] : inDoubt ? [] : ["b"], where)
      assert.strictEqual(levels["requests"], 0, where)
    }
    yield* TestClock.adjust(what === "time" ? "3 seconds" : "4 seconds")
    assert.deepStrictEqual(acquired, kept ? ["a", "b", "c"] : ["b", "c"], where)
    yield* Fiber.join(b)
    yield* Fiber.join(c)
    // What came in went to those who acquired, or is still there.
    const came = what === "time" ? 4 : 5
    const spent = acquired.length + (inDoubt ? 1 : 0)
    assert.approximately((yield* limiter.snapshot).levels["requests"]!, came - spent, 1e-9, where)
    assert.strictEqual((yield* limiter.snapshot).queued, 0, where)
    if (of !== "of all") {
      yield* TestClock.adjust("10 seconds")
      let left = 0
      while (Exit.isSuccess(yield* Effect.exit(limiter.acquire(1, { maxWait: 0 })))) left += 1
      assert.strictEqual(left, 20 - (what === "time" ? 10 : 9) - spent, where)
    }
    return late
  })

describe("RateLimiter under interruption", () => {
  for (const way of ways) {
    for (const trigger of triggers) {
      it.effect.each(limits)(
        `L24 (cross-media-measurement#4444) ${way[0]}: a waiter that ${
          trigger[0]
        } grants is interrupted at every step (limits %s)`,
        (rules) =>
          countingSleeps((sleeps) =>
            Effect.gen(function*() {
              let interrupted = 0
              for (const budget of BUDGETS) {
                for (let steps = 0, late = false; !late; steps++) {
                  late = yield* scenario(way, trigger, rules, budget, steps)
                  if (!late) interrupted += 1
                }
              }
              assert.isAbove(interrupted, 90)
              assert.strictEqual(sleeps.pending, 0)
            })
          )
      )
    }
  }

  it.effect("arriving, waiting and leaving at every step keeps the order of the others", () =>
    Effect.gen(function*() {
      for (const budget of BUDGETS) {
        for (let steps = 0; steps < 12; steps++) {
          const limiter = yield* RateLimiter.make({ capacity: 10, refillPerSecond: 1 })
          yield* limiter.acquire(10)
          const acquired: Array<number> = []
          const fibers: Array<Fiber.Fiber<unknown, unknown>> = []
          for (let i = 0; i < 6; i++) {
            fibers.push(
              yield* start(
                limiter.acquire(1, { onAcquired: () => acquired.push(i) }).pipe(
                  Effect.provideService(Scheduler.MaxOpsBeforeYield, i % 2 === 0 ? budget : 2048)
                )
              )
            )
          }
          for (let i = 0; i < steps; i++) yield* Effect.yieldNow
          const { queued } = yield* limiter.snapshot
          assert.isAtMost(queued, 6)
          fibers[0]!.interruptUnsafe()
          fibers[3]!.interruptUnsafe()
          yield* calm
          const inLine = (yield* limiter.snapshot).queued
          assert.strictEqual(inLine, 4)
          yield* TestClock.adjust("4 seconds")
          assert.strictEqual((yield* limiter.snapshot).queued, 0)
          assert.deepStrictEqual(acquired.toSorted(), [1, 2, 4, 5])
        }
      }
    }))
})
