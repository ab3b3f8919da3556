// Limits of which each tenant has its own, and behind them those that all share.
//
// A call passes its tenant's limits first: whoever has used up its own waits there, and is in nobody's way. What it took
// there goes back when the limits of all refuse it. Tenants are kept while they are owed something or were here lately.
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import { monotonicMillis } from "../../internal/clock.ts"
import { LlmConfigError, type RateLimitFact } from "../../LlmError.ts"
import type { Cost, Policy, RateLimiter, Reservation, Would } from "../RateLimiter.ts"
import { MAX_BLOCK } from "./buckets.ts"
import { REQUESTS, takeWith, TypeId } from "./costs.ts"
import { handOver, Taken } from "./reservation.ts"

/** Tenants with limits of their own; any more share one, until somebody leaves. */
export const MAX_TENANTS = 10_000
/** How many are looked at to make room for one. */
const LOOKS = 64
/** Milliseconds for which one that is owed nothing is kept. */
const KEPT = 60_000

type Tenant = string | undefined

export interface TenantOptions {
  /** The limits of all, if there are such. */
  readonly shared: RateLimiter | undefined
  /** The limits of one tenant; `overflow`: of those for whom there is no room. */
  readonly make: (tenant: Tenant, kind: "tenant" | "overflow") => Own
  /** Runs what is left to be done for a tenant that is not kept any more. */
  readonly run: (leave: Effect.Effect<void>) => void
  readonly policy: Policy
}

/** The limits of one tenant, and what is to be done when they are given up. */
export interface Own {
  readonly limiter: RateLimiter
  readonly leave?: Effect.Effect<void>
}

interface Entry extends Own {
  usedAt: number
}

interface Block {
  readonly until: number
  readonly dimension: string | undefined
}

export class TenantLimiter implements RateLimiter {
  readonly [TypeId] = TypeId
  readonly dimensions: ReadonlyArray<string>
  readonly policy: Policy
  private readonly options: TenantOptions
  /** In the order of their last use. */
  private readonly tenants = new Map<Tenant, Entry>()
  private readonly overflow: Own
  /** What a plain number is the cost of. */
  private readonly main: string
  /** Where there are no limits of all: what a new tenant has to respect as well. */
  private blocks: ReadonlyArray<Block> = []

  constructor(options: TenantOptions) {
    this.options = options
    this.policy = options.policy
    this.overflow = options.make(undefined, "overflow")
    this.dimensions = [...new Set([...options.shared?.dimensions ?? [], ...this.overflow.limiter.dimensions])]
    this.main = this.dimensions.includes(REQUESTS) ? REQUESTS : this.dimensions[0]!
  }

  readonly acquire: RateLimiter["acquire"] = (cost, options) =>
    Effect.clockWith((clock) => {
      const begun = monotonicMillis(clock)
      const { policy: { isShadow, maxWait }, shared } = this.options
      const watched = isShadow
        ? this.tryAcquireUnsafe(cost, clock, begun, options?.tenant, options?.maxWait)
        : undefined
      if (watched !== undefined) return Effect.succeed(handOver(watched, options))
      const costs = this.named(cost)
      const own = this.of(options?.tenant, begun)
      return Effect.uninterruptibleMask((restore) => {
        const inner = { ...options, restore: options?.restore ?? restore, onAcquired: undefined }
        return Effect.flatMap(own.acquire(costs, inner), (mine) => {
          const both = (theirs: Reservation | undefined): Reservation => handOver(new Both(mine, theirs), options)
          const left = Math.min(maxWait, options?.maxWait ?? Infinity) - (monotonicMillis(clock) - begun)
          const all = shared === undefined
            ? Effect.sync(() => both(undefined))
            : Effect.map(shared.acquire(costs, { ...inner, maxWait: Math.max(left, 0) }), both)
          return Effect.onExit(all, (exit) => {
            if (Exit.isFailure(exit)) mine.refundUnsafe("all")
            return Effect.void
          })
        })
      })
    })

  readonly tryAcquireUnsafe: RateLimiter["tryAcquireUnsafe"] = (cost, clock, now, tenant, maxWait) => {
    const costs = this.named(cost)
    const { shared } = this.options
    const mine = this.of(tenant, now).tryAcquireUnsafe(costs, clock, now, tenant, maxWait)
    const asked = isRefused(mine) ? this.named(0) : costs
    const theirs = mine && shared?.tryAcquireUnsafe(asked, clock, now, tenant, maxWait)
    if (mine === undefined || (theirs === undefined && shared !== undefined)) {
      mine?.refundUnsafe("all")
      return undefined
    }
    if (isRefused(theirs)) mine.refundUnsafe("all")
    return new Both(mine, theirs)
  }

  readonly take: RateLimiter["take"] = takeWith(this.acquire)

  readonly block: RateLimiter["block"] = (duration, dimension) =>
    Effect.clockWith((clock) => {
      this.blockUnsafe(Duration.toMillis(Duration.fromInputUnsafe(duration)), monotonicMillis(clock), dimension)
      return Effect.void
    })

  readonly blockUnsafe: RateLimiter["blockUnsafe"] = (millis, now, dimension) => {
    const { shared } = this.options
    if (shared !== undefined) return shared.blockUnsafe(millis, now, dimension)
    if (!(millis > 0)) return
    for (const { limiter } of this.tenants.values()) limiter.blockUnsafe(millis, now, dimension)
    this.overflow.limiter.blockUnsafe(millis, now, dimension)
    const until = now + Math.min(millis, MAX_BLOCK)
    const others = this.blocks.filter((block) => block.until > now && block.dimension !== dimension)
    const same = this.blocks.find((block) => block.dimension === dimension && block.until > until)
    this.blocks = [...others, same ?? { until, dimension }]
  }

  readonly setLimit: RateLimiter["setLimit"] = (dimension, limit) =>
    this.options.shared === undefined
      ? Effect.fail(new LlmConfigError({ path: "dimension", rule: "a dimension that all share", kind: "a text" }))
      : this.options.shared.setLimit(dimension, limit)

  readonly snapshot: RateLimiter["snapshot"] = Effect.suspend(() =>
    Effect.gen({ self: this }, function*() {
      const now = yield* Effect.clockWith((clock) => Effect.succeed(monotonicMillis(clock)))
      this.forget(now)
      const { shared } = this.options
      const { maxQueued, queued } = this.lineUnsafe(now)
      const { blockedFor, levels } = shared === undefined
        ? { blockedFor: Math.max(0, ...this.blocks.map(({ until }) => until - now)), levels: {} }
        : yield* shared.snapshot
      return { levels, queued, maxQueued, blockedFor, tenants: this.tenants.size }
    })
  )

  /** Without a tenant: of all together. */
  readonly lineUnsafe: RateLimiter["lineUnsafe"] = (now, rank) => {
    const shared = this.options.shared?.lineUnsafe(now, rank)
    if (rank !== undefined) {
      const own = (this.tenants.get(rank.tenant) ?? this.overflow).limiter.lineUnsafe(now)
      return shared !== undefined && shared.queued > own.queued ? shared : own
    }
    let { maxQueued, queued } = this.overflow.limiter.lineUnsafe(now)
    for (const { limiter } of this.tenants.values()) queued += limiter.lineUnsafe(now).queued
    if (shared !== undefined) {
      queued += shared.queued
      maxQueued = shared.maxQueued
    }
    return { queued, maxQueued, displaces: () => false }
  }

  /** Nobody gives one limiter to another. */
  readonly isIdleUnsafe = (): boolean => false

  /** Gives up all of them, when the process ends. */
  readonly leave: Effect.Effect<void> = Effect.suspend(() =>
    Effect.forEach([this.overflow, ...this.tenants.values()], ({ leave }) => leave ?? Effect.void, { discard: true })
  )

  private named(cost: Cost): Cost {
    return typeof cost === "number" ? { [this.main]: cost } : cost
  }

  private of(tenant: Tenant, now: number): RateLimiter {
    const known = this.tenants.get(tenant)
    if (known === undefined) return this.admit(tenant, now)
    known.usedAt = now
    this.tenants.delete(tenant)
    this.tenants.set(tenant, known)
    return known.limiter
  }

  private admit(tenant: Tenant, now: number): RateLimiter {
    this.forget(now)
    if (this.tenants.size >= MAX_TENANTS && !this.makeRoom(now)) return this.overflow.limiter
    const own = this.options.make(tenant, "tenant")
    for (const { dimension, until } of this.blocks) own.limiter.blockUnsafe(until - now, now, dimension)
    this.tenants.set(tenant, { ...own, usedAt: now })
    return own.limiter
  }

  /** Who was not here for a while, and is owed nothing, leaves. */
  private forget(now: number): void {
    let owing = 0
    for (const [tenant, entry] of this.tenants) {
      if (entry.usedAt > now - KEPT || owing >= LOOKS) return
      if (entry.limiter.isIdleUnsafe(now)) this.remove(tenant, entry)
      else owing += 1
    }
  }

  /** Of those used longest ago one that owes nothing. Who does is not looked at again soon. */
  private makeRoom(now: number): boolean {
    let looks = 0
    for (const [tenant, entry] of this.tenants) {
      if (looks++ >= LOOKS) return false
      if (entry.limiter.isIdleUnsafe(now)) {
        this.remove(tenant, entry)
        return true
      }
      this.tenants.delete(tenant)
      this.tenants.set(tenant, entry)
    }
    return false
  }

  private remove(tenant: Tenant, { leave }: Own): void {
    this.tenants.delete(tenant)
    if (leave !== undefined) this.options.run(leave)
  }
}

/** In shadow mode: what would be refused takes nothing of the other limits. */
const isRefused = (taken: Reservation | undefined): boolean => taken?.would?.decision === "would-refuse"

const worse = (mine: Would | undefined, theirs: Would | undefined): Would | undefined =>
  theirs === undefined || (theirs.decision === "would-wait" && mine !== undefined && mine.millis > theirs.millis)
    ? mine
    : theirs

/** What was taken of a tenant's limits, and of those of all. */
class Both extends Taken {
  readonly waited: number
  private readonly mine: Reservation
  private readonly theirs: Reservation | undefined
  readonly would: Would | undefined

  constructor(mine: Reservation, theirs: Reservation | undefined) {
    super()
    this.would = worse(mine.would, theirs?.would)
    this.mine = mine
    this.theirs = theirs
    this.waited = mine.waited + (theirs?.waited ?? 0)
  }

  settleUnsafe(actual: Cost): void {
    this.mine.settleUnsafe(actual)
    this.theirs?.settleUnsafe(actual)
  }

  refundUnsafe(which: "all" | "tokens"): void {
    this.mine.refundUnsafe(which)
    this.theirs?.refundUnsafe(which)
  }

  /** What a provider says is about all. */
  observeUnsafe(facts: ReadonlyArray<RateLimitFact>): void {
    this.theirs?.observeUnsafe(facts)
  }
}
