import { assert, describe, it } from "@effect/vitest"
import { Duration, Effect, Exit, Fiber, Schema } from "effect"
import * as RateLimiter from "effect-resilient-llm/resilience/RateLimiter"
import { TestClock } from "effect/testing"
import { calm, countingSleeps, now, start } from "./waiting.ts"

// A model that ticks: millisecond by millisecond, with rates that are exact in binary. It plans nothing; to know a
// grant time it copies itself and lets time pass.

interface Wait {
  readonly name: number
  readonly costs: ReadonlyArray<number>
  readonly latest: number
}

type Outcome = { readonly name: number; readonly at: number; readonly retryAfter?: number }

const PER = 128
const HORIZON = 60_000

class Model {
  now = 0
  limits: Array<number>
  levels: Array<number>
  blockedUntil: Array<number>
  waits: Array<Wait> = []
  outcomes: Array<Outcome> = []
  readonly maxWait: number
  readonly queue: number

  constructor(limits: ReadonlyArray<number>, maxWait: number, queue: number) {
    this.limits = [...limits]
    this.levels = [...limits]
    this.blockedUntil = limits.map(() => 0)
    this.maxWait = maxWait
    this.queue = queue
  }

  copy(): Model {
    const copy = new Model(this.limits, this.maxWait, this.queue)
    copy.now = this.now
    copy.levels = [...this.levels]
    copy.blockedUntil = [...this.blockedUntil]
    return copy
  }

  canPay(costs: ReadonlyArray<number>): boolean {
    return costs.every((cost, i) =>
      cost === 0 || (this.now >= this.blockedUntil[i]! && this.levels[i]! >= Math.min(cost, this.limits[i]!))
    )
  }

  add(amounts: ReadonlyArray<number>, sign: 1 | -1): void {
    this.levels = this.levels.map((level, i) => Math.min(this.limits[i]!, level + sign * amounts[i]!))
  }

  tick(): void {
    this.now += 1
    this.levels = this.levels.map((level, i) => Math.min(this.limits[i]!, level + this.limits[i]! / PER))
  }

  /** Lets the first ones go that can. */
  serve(): void {
    let first = this.waits[0]
    while (first !== undefined && this.canPay(first.costs)) {
      this.add(first.costs, -1)
      this.outcomes.push({ name: first.name, at: this.now })
      this.waits.shift()
      first = this.waits[0]
    }
  }

  advance(millis: number): void {
    for (let i = 0; i < millis; i++) {
      this.tick()
      this.serve()
    }
  }

  /** When `costs` would be granted after those in the line; the line is walked without those who cannot make it. */
  walk(last: Wait, onHopeless: (wait: Wait, at: number) => void): number {
    let state = this.copy()
    let at = this.now
    for (const wait of [...this.waits, last]) {
      const next = state.copy()
      while (!next.canPay(wait.costs) && next.now < this.now + HORIZON) next.tick()
      at = next.now
      if (at > wait.latest && wait !== last) onHopeless(wait, at)
      else {
        next.add(wait.costs, -1)
        state = next
      }
    }
    return at
  }

  acquire(name: number, costs: ReadonlyArray<number>, maxWait: number): void {
    if (costs.every((cost) => cost === 0) || (this.waits.length === 0 && this.canPay(costs))) {
      this.add(costs, -1)
      this.outcomes.push({ name, at: this.now })
      return
    }
    const latest = this.now + Math.min(this.maxWait, maxWait)
    const at = this.walk({ name, costs, latest }, () => {})
    if (at > latest || this.waits.length >= this.queue) {
      this.outcomes.push({ name, at: this.now, retryAfter: Math.max(at - this.now, 1) })
    } else this.waits.push({ name, costs, latest })
  }

  /** Those who cannot make it any more leave. */
  refuse(): void {
    const hopeless = new Set<Wait>()
    this.walk({ name: -1, costs: this.limits.map(() => 0), latest: Infinity }, (wait, at) => {
      hopeless.add(wait)
      this.outcomes.push({ name: wait.name, at: this.now, retryAfter: at - this.now })
    })
    this.waits = this.waits.filter((wait) => !hopeless.has(wait))
  }
}

const int = (minimum: number, maximum: number) => Schema.Int.check(Schema.isBetween({ minimum, maximum }))

const Acquire = Schema.TaggedStruct("acquire", { requests: int(0, 10), tokens: int(0, 80), maxWait: int(0, 400) })
const Patient = Schema.TaggedStruct("acquire", { requests: int(1, 4), tokens: int(8, 40), maxWait: int(300, 310) })
const Settle = Schema.TaggedStruct("settle", { which: int(0, 30), requests: int(0, 6), tokens: int(0, 90) })
const Advance = Schema.TaggedStruct("advance", { millis: int(5, 150) })

/** Mixed so that there is a line most of the time, and that it moves. */
const Op = Schema.Union([
  Acquire,
  Patient,
  Patient,
  Patient,
  Advance,
  Advance,
  Advance,
  Advance,
  Settle,
  Schema.TaggedStruct("cancel", { which: int(0, 30) }),
  Schema.TaggedStruct("refund", { which: int(0, 30), all: Schema.Boolean }),
  Schema.TaggedStruct("block", { millis: int(1, 100), dimension: int(0, 2) }),
  Schema.TaggedStruct("limit", { dimension: int(0, 1), factor: Schema.Literals([0.5, 1, 2]) })
])

const NAMES = ["requests", "tokens"]
const LIMITS = [8, 64]

const play = (ops: ReadonlyArray<typeof Op.Type>) =>
  countingSleeps((sleeps) =>
    Effect.gen(function*() {
      const zero = yield* now
      const limiter = yield* RateLimiter.make({
        limits: NAMES.map((dimension, i) => ({ dimension, limit: LIMITS[i]!, per: PER })),
        maxWait: 300,
        queue: 6
      })
      const model = new Model(LIMITS, 300, 6)
      const outcomes: Array<Outcome> = []
      const granted: Array<{ readonly name: number; readonly held: RateLimiter.Reservation }> = []
      const costsOf = new Map<number, ReadonlyArray<number>>()
      const fibers = new Map<number, Fiber.Fiber<unknown, unknown>>()
      const settled = new Set<number>()

      for (const [name, op] of ops.entries()) {
        switch (op._tag) {
          case "acquire": {
            costsOf.set(name, [op.requests, op.tokens])
            model.acquire(name, [op.requests, op.tokens], op.maxWait)
            const acquire = limiter.acquire({ requests: op.requests, tokens: op.tokens }, { maxWait: op.maxWait })
            fibers.set(
              name,
              yield* start(Effect.matchEffect(acquire, {
                onSuccess: (held) =>
                  Effect.map(now, (at) => {
                    granted.push({ name, held })
                    outcomes.push({ name, at: at - zero })
                  }),
                onFailure: (error) =>
                  Effect.map(now, (at) =>
                    outcomes.push({
                      name,
                      at: at - zero,
                      retryAfter: error._tag === "RateLimited" ? Duration.toMillis(error.retryAfter) : NaN
                    }))
              }))
            )
            break
          }
          case "cancel": {
            const wait = model.waits[op.which % Math.max(model.waits.length, 1)]
            if (wait === undefined) break
            model.waits = model.waits.filter((other) => other !== wait)
            model.serve()
            const exit = yield* Effect.andThen(
              Fiber.interrupt(fibers.get(wait.name)!),
              Fiber.await(fibers.get(wait.name)!)
            )
            assert.isTrue(Exit.hasInterrupts(exit))
            break
          }
          case "settle":
          case "refund": {
            const one = granted[op.which % Math.max(granted.length, 1)]
            if (one === undefined) break
            const costs = costsOf.get(one.name)!
            const back = op._tag === "settle"
              ? [costs[0]! - op.requests, costs[1]! - op.tokens]
              : [op.all ? costs[0]! : 0, costs[1]!]
            if (op._tag === "settle") one.held.settleUnsafe({ requests: op.requests, tokens: op.tokens })
            else one.held.refundUnsafe(op.all ? "all" : "tokens")
            if (settled.has(one.name)) break
            settled.add(one.name)
            model.add(back, 1)
            if (back.some((amount) => amount < 0)) model.refuse()
            model.serve()
            break
          }
          case "block": {
            yield* limiter.block(op.millis, ["requests", "tokens", undefined][op.dimension])
            model.blockedUntil = model.blockedUntil.map((until, i) =>
              op.dimension === 2 || op.dimension === i ? Math.max(until, model.now + op.millis) : until
            )
            model.refuse()
            model.serve()
            break
          }
          case "limit": {
            const limit = LIMITS[op.dimension]! * op.factor
            yield* limiter.setLimit(NAMES[op.dimension]!, limit)
            const isLower = limit < model.limits[op.dimension]!
            model.limits[op.dimension] = limit
            model.add([0, 0], 1)
            if (isLower) model.refuse()
            model.serve()
            break
          }
          case "advance": {
            model.advance(op.millis)
            yield* TestClock.adjust(op.millis)
            break
          }
        }
        yield* calm
        const state = yield* limiter.snapshot
        // Order matters among grants; refusals of one moment may come in any order.
        const byName = (list: ReadonlyArray<Outcome>, refused: boolean) =>
          list.filter((outcome) => (outcome.retryAfter !== undefined) === refused)
        assert.deepStrictEqual(byName(outcomes, false), byName(model.outcomes, false))
        assert.deepStrictEqual(
          byName(outcomes, true).toSorted((a, b) => a.name - b.name),
          byName(model.outcomes, true).toSorted((a, b) => a.name - b.name)
        )
        assert.strictEqual(state.queued, model.waits.length)
        assert.deepStrictEqual(NAMES.map((name) => state.levels[name]), model.levels)
        assert.isAtMost(sleeps.pending, 1)
      }
      for (const fiber of fibers.values()) yield* Fiber.interrupt(fiber)
      assert.strictEqual((yield* limiter.snapshot).queued, 0)
      assert.strictEqual(sleeps.pending, 0)
    })
  )

describe("RateLimiter against its model", () => {
  it.effect.prop(
    "grants, refusals, levels and the line are those of the model (P3, P9)",
    { ops: Schema.Array(Op).check(Schema.isMinLength(40), Schema.isMaxLength(80)) },
    ({ ops }) => Effect.provide(Effect.scoped(play(ops)), TestClock.layer()),
    { arbitrary: { runs: 120, seed: 1 } }
  )

  const Spend = Schema.Struct({ cost: int(1, 25), actual: int(0, 25), pause: int(0, 40) })

  it.effect.prop(
    "P2 what is granted in any interval, less what is given back in it, is bounded by bucket and refill",
    { spends: Schema.Array(Spend).check(Schema.isMinLength(30), Schema.isMaxLength(60)) },
    ({ spends }) =>
      Effect.gen(function*() {
        const limiter = yield* RateLimiter.make({
          limits: [{ dimension: "tokens", limit: 10, per: 100 }],
          maxWait: 2000,
          queue: 50
        })
        const flows: Array<{ readonly at: number; readonly amount: number }> = []
        for (const { actual, cost, pause } of spends) {
          yield* start(Effect.ignore(Effect.flatMap(limiter.acquire(cost), (held) =>
            Effect.gen(function*() {
              flows.push({ at: yield* now, amount: cost })
              yield* Effect.sleep(pause)
              held.settleUnsafe(Math.min(actual, cost))
              flows.push({ at: yield* now, amount: Math.min(actual, cost) - cost })
            }))))
          yield* TestClock.adjust(pause)
        }
        yield* TestClock.adjust("1 minute")
        assert.isAbove(flows.length, 10)
        const excess = Math.max(...spends.map(({ cost }) => cost - 10), 0)
        for (let i = 0; i < flows.length; i++) {
          let sum = 0
          for (let j = i; j < flows.length; j++) {
            sum += flows[j]!.amount
            assert.isAtMost(sum, 10 + 0.1 * (flows[j]!.at - flows[i]!.at) + excess + 1e-6)
          }
        }
        assert.deepStrictEqual(yield* limiter.snapshot, {
          levels: { tokens: 10 },
          queued: 0,
          maxQueued: 50,
          blockedFor: 0
        })
      }).pipe(Effect.scoped, Effect.provide(TestClock.layer())),
    { arbitrary: { runs: 40, seed: 2 } }
  )
})
