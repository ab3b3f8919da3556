// A rate limiter that grants everything at once, and knows what would have become of it. Levels are those of a limiter whose
// callers were told to wait: below zero by what would still be waited for.
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import { monotonicMillis } from "../../internal/clock.ts"
import { kindOf } from "../../internal/issue.ts"
import { InvalidRequest, LlmConfigError, type RateLimitFact } from "../../LlmError.ts"
import type { Cost, Policy, RateLimiter, Reservation, Would } from "../RateLimiter.ts"
import * as Buckets from "./buckets.ts"
import { Costs, isCost, takeWith, TypeId, type Vector } from "./costs.ts"
import { handOver, Taken } from "./reservation.ts"

export class ShadowLimiter implements RateLimiter {
  readonly [TypeId] = TypeId
  readonly dimensions: ReadonlyArray<string>
  readonly policy: Policy
  readonly costs: Costs
  private limits: ReadonlyArray<Buckets.StoreLimit>
  private state = Buckets.empty
  /** When those who would wait would go. */
  private due: ReadonlyArray<number> = []
  private grants = 0
  /** Per dimension, the last grant whose response was observed. */
  private readonly observed: Array<number>

  constructor(policy: Policy) {
    this.policy = policy
    this.dimensions = policy.limits.map(({ dimension }) => dimension)
    this.costs = new Costs(policy.limits)
    this.limits = policy.limits.map(({ burst, dimension, rate }) => ({ burst, dimension, rate }))
    this.observed = policy.limits.map(() => 0)
  }

  readonly acquire: RateLimiter["acquire"] = (cost, options) =>
    Clock.clockWith((clock): Effect.Effect<Reservation, InvalidRequest> => {
      const costs = this.costs.of(cost)
      if (costs instanceof InvalidRequest) return Effect.fail(costs)
      return Effect.succeed(handOver(this.grant(costs, clock, monotonicMillis(clock), options?.maxWait), options))
    })

  readonly tryAcquireUnsafe: RateLimiter["tryAcquireUnsafe"] = (cost, clock, now, _tenant, maxWait) => {
    const costs = this.costs.of(cost)
    return costs instanceof InvalidRequest ? undefined : this.grant(costs, clock, now, maxWait)
  }

  readonly take: RateLimiter["take"] = takeWith(this.acquire)

  readonly lineUnsafe: RateLimiter["lineUnsafe"] = (now) => ({
    queued: this.queued(now),
    maxQueued: this.policy.queue,
    displaces: () => false
  })

  readonly isIdleUnsafe: RateLimiter["isIdleUnsafe"] = (now) => {
    const { blockedFor, levels } = Buckets.look(this.state, this.limits, now)
    return levels.every((level, i) => level >= this.limits[i]!.burst) && blockedFor.every((millis) => millis === 0)
  }

  readonly block: RateLimiter["block"] = (duration, dimension) =>
    Clock.clockWith((clock) =>
      Effect.sync(() =>
        this.blockUnsafe(Duration.toMillis(Duration.fromInputUnsafe(duration)), monotonicMillis(clock), dimension)
      )
    )

  readonly blockUnsafe: RateLimiter["blockUnsafe"] = (millis, now, dimension) => {
    const isKnown = this.dimensions.includes(dimension ?? "")
    this.settle({ block: this.dimensions.map((own) => isKnown && own !== dimension ? 0 : millis) }, now)
  }

  readonly setLimit: RateLimiter["setLimit"] = (dimension, limit) =>
    Clock.clockWith((clock) => {
      const known = this.policy.limits.find((own) => own.dimension === dimension)
      if (known === undefined) {
        const rule = "a dimension that has a limit"
        return Effect.fail(new LlmConfigError({ path: "dimension", rule, kind: kindOf(dimension) }))
      }
      if (!(isCost(limit) && limit > 0)) {
        return Effect.fail(new LlmConfigError({ path: "limit", rule: "a number above zero", kind: kindOf(limit) }))
      }
      // What was refilled until now was so at the old rate.
      this.settle({}, monotonicMillis(clock))
      const part = limit / known.limit
      this.limits = this.limits.map((own) =>
        own.dimension === dimension ? { dimension, burst: known.burst * part, rate: known.rate * part } : own
      )
      return Effect.void
    })

  readonly snapshot: RateLimiter["snapshot"] = Clock.clockWith((clock) =>
    Effect.sync(() => {
      const now = monotonicMillis(clock)
      const { blockedFor, levels } = Buckets.look(this.state, this.limits, now)
      return {
        levels: Object.fromEntries(this.dimensions.map((dimension, i) => [dimension, levels[i]!])),
        queued: this.queued(now),
        maxQueued: this.policy.queue,
        blockedFor: Math.max(0, ...blockedFor)
      }
    })
  )

  settle(change: Omit<Buckets.Settle, "key" | "limits">, now: number): void {
    this.state = Buckets.settle(this.state, { key: "", limits: this.limits, ...change }, now)
  }

  observe(facts: ReadonlyArray<RateLimitFact>, grant: number, now: number): void {
    for (const { dimension, remaining, resetAfter } of facts) {
      const i = this.dimensions.indexOf(dimension)
      if (i < 0 || grant < this.observed[i]! || !isCost(remaining)) continue
      this.observed[i] = grant
      this.settle({ atMost: this.dimensions.map((own) => own === dimension ? remaining : undefined) }, now)
      if (remaining === 0 && resetAfter !== undefined) this.blockUnsafe(resetAfter, now, dimension)
    }
  }

  /** Would still wait: the last one until all that is owed is refilled, which is earlier where something came back. */
  private queued(now: number): number {
    if (this.due.length === 0) return 0
    const { blockedFor, levels } = Buckets.look(this.state, this.limits, now)
    const latest = now + Math.ceil(Math.max(0, ...blockedFor, ...this.limits.map(({ rate }, i) => -levels[i]! / rate)))
    this.due = this.due.map((at) => Math.min(at, latest)).filter((at) => at > now)
    return this.due.length
  }

  private grant(costs: Vector, clock: Clock.Clock, now: number, longest = Infinity): Reservation {
    const isFull = this.queued(now) >= this.policy.queue
    const maxWait = isFull ? 0 : Math.min(this.policy.maxWait, longest)
    const { blocked } = this.state
    // First come, first served: nobody goes before the last one of the line.
    const last = this.due.at(-1) ?? 0
    const behind = new Map(this.dimensions.map((dimension) => [dimension, Math.max(blocked.get(dimension) ?? 0, last)]))
    const request = { key: "", limits: this.limits, costs, maxWait }
    const [reserved, state] = Buckets.reserve({ ...this.state, blocked: behind }, request, now)
    // Nobody is told a time that has to be kept: what comes back is there at once.
    this.state = { ...state, blocked, told: 0 }
    this.grants += 1
    if (reserved._tag === "Refused") {
      const would = { decision: "would-refuse" as const, millis: reserved.retryAfter }
      return new ShadowTaken(this, clock, this.grants, undefined, would)
    }
    if (reserved.wait === 0) return new ShadowTaken(this, clock, this.grants, costs, undefined)
    this.due = [...this.due, now + reserved.wait]
    return new ShadowTaken(this, clock, this.grants, costs, { decision: "would-wait", millis: reserved.wait })
  }
}

class ShadowTaken extends Taken {
  readonly waited = 0
  readonly would: Would | undefined
  private readonly limiter: ShadowLimiter
  private readonly clock: Clock.Clock
  private readonly grant: number
  /** Absent where nothing was taken. */
  private costs: Vector | undefined

  constructor(
    limiter: ShadowLimiter,
    clock: Clock.Clock,
    grant: number,
    costs: Vector | undefined,
    would: Would | undefined
  ) {
    super()
    this.limiter = limiter
    this.clock = clock
    this.grant = grant
    this.costs = costs
    this.would = would
  }

  settleUnsafe(actual: Cost): void {
    this.giveBack((costs) => this.limiter.costs.difference(costs, actual))
  }

  refundUnsafe(which: "all" | "tokens"): void {
    this.giveBack((costs) => which === "all" ? costs : this.limiter.costs.withoutRequests(costs))
  }

  observeUnsafe(facts: ReadonlyArray<RateLimitFact>): void {
    this.limiter.observe(facts, this.grant, monotonicMillis(this.clock))
  }

  private giveBack(amounts: (costs: Vector) => Vector): void {
    const { costs } = this
    this.costs = undefined
    if (costs !== undefined) this.limiter.settle({ back: amounts(costs) }, monotonicMillis(this.clock))
  }
}
