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
  /** When those who would wait would go, in order. */
  private readonly due: Array<number> = []

  constructor(policy: Policy) {
    this.policy = policy
    this.dimensions = policy.limits.map(({ dimension }) => dimension)
    this.costs = new Costs(policy.limits)
    this.limits = policy.limits.map(({ burst, dimension, rate }) => ({ burst, dimension, rate }))
  }

  readonly acquire: RateLimiter["acquire"] = (cost, options) =>
    Clock.clockWith((clock): Effect.Effect<Reservation, InvalidRequest> => {
      const costs = this.costs.of(cost)
      if (costs instanceof InvalidRequest) return Effect.fail(costs)
      const maxWait = Math.min(this.policy.maxWait, options?.maxWait ?? Infinity)
      return Effect.succeed(handOver(this.grant(costs, clock, monotonicMillis(clock), maxWait), options))
    })

  readonly tryAcquireUnsafe: RateLimiter["tryAcquireUnsafe"] = (cost, clock, now) => {
    const costs = this.costs.of(cost)
    return costs instanceof InvalidRequest ? undefined : this.grant(costs, clock, now, this.policy.maxWait)
  }

  readonly take: RateLimiter["take"] = takeWith(this.acquire)

  readonly lineUnsafe: RateLimiter["lineUnsafe"] = () => ({
    queued: this.due.length,
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
    Effect.suspend(() => {
      const known = this.policy.limits.find((own) => own.dimension === dimension)
      if (known === undefined) {
        const rule = "a dimension that has a limit"
        return Effect.fail(new LlmConfigError({ path: "dimension", rule, kind: kindOf(dimension) }))
      }
      if (!(isCost(limit) && limit > 0)) {
        return Effect.fail(new LlmConfigError({ path: "limit", rule: "a number above zero", kind: kindOf(limit) }))
      }
      const part = limit / known.limit
      this.limits = this.limits.map((own) =>
        own.dimension === dimension ? { dimension, burst: known.burst * part, rate: known.rate * part } : own
      )
      return Effect.void
    })

  readonly snapshot: RateLimiter["snapshot"] = Clock.clockWith((clock) =>
    Effect.sync(() => {
      const now = monotonicMillis(clock)
      this.forget(now)
      const { blockedFor, levels } = Buckets.look(this.state, this.limits, now)
      return {
        levels: Object.fromEntries(this.dimensions.map((dimension, i) => [dimension, levels[i]!])),
        queued: this.due.length,
        maxQueued: this.policy.queue,
        blockedFor: Math.max(0, ...blockedFor)
      }
    })
  )

  settle(change: Omit<Buckets.Settle, "key" | "limits">, now: number): void {
    this.state = Buckets.settle(this.state, { key: "", limits: this.limits, ...change }, now)
  }

  private forget(now: number): void {
    while (this.due.length > 0 && this.due[0]! <= now) this.due.shift()
  }

  private grant(costs: Vector, clock: Clock.Clock, now: number, maxWait: number): Reservation {
    this.forget(now)
    const isFull = this.due.length >= this.policy.queue
    const request = { key: "", limits: this.limits, costs, maxWait: isFull ? 0 : maxWait }
    const [reserved, state] = Buckets.reserve(this.state, request, now)
    this.state = state
    if (reserved._tag === "Refused") {
      return new ShadowTaken(this, clock, undefined, { decision: "would-refuse", millis: reserved.retryAfter })
    }
    if (reserved.wait === 0) return new ShadowTaken(this, clock, costs, undefined)
    this.due.push(now + reserved.wait)
    return new ShadowTaken(this, clock, costs, { decision: "would-wait", millis: reserved.wait })
  }
}

class ShadowTaken extends Taken {
  readonly waited = 0
  readonly would: Would | undefined
  private readonly limiter: ShadowLimiter
  private readonly clock: Clock.Clock
  /** Absent where nothing was taken. */
  private costs: Vector | undefined

  constructor(limiter: ShadowLimiter, clock: Clock.Clock, costs: Vector | undefined, would: Would | undefined) {
    super()
    this.limiter = limiter
    this.clock = clock
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
    const now = monotonicMillis(this.clock)
    for (const { dimension, remaining, resetAfter } of facts) {
      if (!isCost(remaining) || !this.limiter.dimensions.includes(dimension)) continue
      this.limiter.settle(
        { atMost: this.limiter.dimensions.map((own) => own === dimension ? remaining : undefined) },
        now
      )
      if (remaining === 0 && resetAfter !== undefined) this.limiter.blockUnsafe(resetAfter, now, dimension)
    }
  }

  private giveBack(amounts: (costs: Vector) => Vector): void {
    const { costs } = this
    this.costs = undefined
    if (costs !== undefined) this.limiter.settle({ back: amounts(costs) }, monotonicMillis(this.clock))
  }
}
