/**
 * A token bucket for one or several dimensions (requests, tokens, …), with a waiting line: the more urgent first, tenants in
 * turn, and of one tenant first come, first served.
 *
 * A bucket of size `burst` refills continuously at `limit / per` (the leaky bucket as a meter, ITU-T I.371). An
 * acquisition is granted when every dimension it costs holds its cost, or is full when the cost is larger than the
 * bucket; then all are debited at once and may go negative. An arrival knows its exact grant time through the line, as the
 * line stands: a wait that would be too long fails at once and consumes nothing.
 *
 * @since 0.1.0
 */
import * as Clock from "effect/Clock"
import * as Config from "effect/Config"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import { monotonicMillis } from "../internal/clock.ts"
import { kindOf } from "../internal/issue.ts"
import { type Restore, Waiter, WaitingLine } from "../internal/line.ts"
import {
  attempt,
  finiteDuration,
  integer,
  list,
  millis,
  mode,
  optionsOf,
  positive,
  readOptions,
  rule,
  share,
  text
} from "../internal/option.ts"
import { sha256 } from "../internal/sha256.ts"
import { InvalidRequest, LlmConfigError, RateLimited, type RateLimitFact, withoutStack } from "../LlmError.ts"
import type * as Health from "../persistence/Health.ts"
import { ownName } from "../persistence/internal/bounds.ts"
import * as Buckets from "./internal/buckets.ts"
import { Costs, isCost, REQUESTS, takeWith, TypeId, type Vector } from "./internal/costs.ts"
import { handOver, Taken } from "./internal/reservation.ts"
import { ShadowLimiter } from "./internal/shadowLimiter.ts"
import { SharedLimiter } from "./internal/sharedLimiter.ts"
import { TenantLimiter } from "./internal/tenantLimiter.ts"
import type { Priority } from "./LoadShedder.ts"

// -----------------------------------------------------------------------------
// options
// -----------------------------------------------------------------------------

/**
 * At most `limit` of one dimension per `per`.
 *
 * **Gotchas**
 *
 * A full bucket can pass up to `burst + limit` in the first `per`, twice the limit by default. Where a provider
 * counts fixed windows strictly, set `strict`.
 *
 * @category models
 * @since 0.1.0
 */
export interface Limit {
  /**
   * What is limited; every limit has its own. A client charges its calls in `requests`, `tokens`, `input-tokens` and
   * `output-tokens`, and takes limits of these alone; a limiter by itself takes any name.
   */
  readonly dimension: string
  /** How much of it there is in `per`. */
  readonly limit: number
  /** Finite and above zero. */
  readonly per: Duration.Input
  /** Size of the bucket. Default: `limit`. */
  readonly burst?: number | undefined
  /**
   * A share `f` between 0 and 1: the bucket holds `f·limit` and refills at `(1 - f)·limit / per`, so that no window of
   * length `per` sees more than `limit`. Instead of `burst`.
   */
  readonly strict?: number | undefined
  /**
   * `tenant`: each tenant has a bucket of this size, and whoever has none is one tenant. What one has used up is in nobody
   * else's way. 10,000 tenants are told apart; any more share a bucket. Default: one bucket for all.
   */
  readonly by?: "tenant" | undefined
}

const LimitSchema = optionsOf<Limit>()({
  dimension: text("the name of one"),
  limit: positive,
  per: finiteDuration(),
  burst: Schema.optional(positive),
  strict: Schema.optional(share),
  by: Schema.optional(Schema.Literal("tenant"))
}).check(
  rule(({ burst, strict }) =>
    burst === undefined || strict === undefined ? undefined : ["burst", "absent when \"strict\" is given"]
  )
)

/**
 * `capacity` and `refillPerSecond` are the short form of one limit of the dimension `requests`; give them or `limits`.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options {
  /** One bucket each. An acquisition is granted by all of them together or not at all. */
  readonly limits?: ReadonlyArray<Limit> | undefined
  /** Size of the bucket. Default 3500. */
  readonly capacity?: number | undefined
  /** Default 58.33. */
  readonly refillPerSecond?: number | undefined
  /** Longest wait; an arrival that would wait longer fails at once. `0` never waits. Default 30 seconds. */
  readonly maxWait?: Duration.Input | undefined
  /** Most waiters. Default 256. */
  readonly queue?: number | undefined
  /**
   * `shadow`: everything is granted at once; what would have waited or been refused is told (`Reservation.would`). Over a
   * store it is about this process alone. Default `enforce`.
   */
  readonly mode?: "enforce" | "shadow" | undefined
}

/**
 * The schema of {@link Options}: defaults and rules.
 *
 * @category schemas
 * @since 0.2.0
 */
export const OptionsSchema = optionsOf<Options>()({
  limits: Schema.optional(list(LimitSchema, "a list of at least one limit")),
  capacity: Schema.optional(positive),
  refillPerSecond: Schema.optional(positive),
  maxWait: millis("30 seconds"),
  queue: integer(256),
  mode: mode()
}).check(rule(({ capacity, limits, refillPerSecond }) => {
  if (limits === undefined) return undefined
  if (capacity !== undefined) return ["capacity", "absent when \"limits\" is given"]
  if (refillPerSecond !== undefined) return ["refillPerSecond", "absent when \"limits\" is given"]
  const twice = limits.findIndex(({ by, dimension }, i) =>
    limits.findIndex((other) => other.dimension === dimension && other.by === by) < i
  )
  return twice < 0 ? undefined : [["limits", twice, "dimension"], "different from the dimensions before it"]
}))

/**
 * Checked options: milliseconds, tokens per millisecond.
 *
 * @category models
 * @since 0.1.0
 */
export interface Policy {
  readonly limits: ReadonlyArray<{
    readonly dimension: string
    readonly limit: number
    readonly burst: number
    readonly rate: number
  }>
  /** Of each tenant. */
  readonly perTenant: Policy["limits"]
  readonly maxWait: number
  readonly queue: number
  readonly isShadow: boolean
}

const isPositive = (value: unknown): boolean => typeof value === "number" && value > 0 && value < Infinity

const limitPolicy = ({ burst, dimension, limit, per, strict }: typeof LimitSchema.Type): Policy["limits"][number] =>
  strict === undefined
    ? { dimension, limit, burst: burst ?? limit, rate: limit / per }
    : { dimension, limit, burst: strict * limit, rate: (1 - strict) * limit / per }

/**
 * Checks options; throws `LlmConfigError`.
 *
 * @category constructors
 * @since 0.1.0
 */
export const policy = (options?: Options, path = "rateLimit"): Policy => {
  const { capacity = 3500, limits, maxWait, mode, queue, refillPerSecond = 58.33 } = readOptions(
    OptionsSchema,
    options,
    path
  )
  const short = { dimension: REQUESTS, limit: capacity, burst: capacity, rate: refillPerSecond / 1000 }
  return {
    maxWait,
    queue,
    isShadow: mode === "shadow",
    limits: limits === undefined ? [short] : limits.filter(({ by }) => by === undefined).map(limitPolicy),
    perTenant: limits === undefined ? [] : limits.filter(({ by }) => by === "tenant").map(limitPolicy)
  }
}

// -----------------------------------------------------------------------------
// core
// -----------------------------------------------------------------------------

/** Float drift that is forgiven, as a share of the bucket's size. It is owed, not given: the level goes below zero. */
const DRIFT = 1e-9
const MAX_BLOCK = 5 * 60_000

/** One dimension. The level is rebased only where it jumps: on a debit, a credit, a changed limit. */
interface Bucket {
  burst: number
  rate: number
  level: number
  at: number
  blockedUntil: number
}

const levelAt = (bucket: Bucket, now: number): number =>
  now <= bucket.at ? bucket.level : Math.min(bucket.burst, bucket.level + (now - bucket.at) * bucket.rate)

/** Adds to the level, or takes from it, at `now`. */
const move = (bucket: Bucket, amount: number, now: number): void => {
  bucket.level = Math.min(bucket.burst, levelAt(bucket, now) + amount)
  bucket.at = now
}

/** What the level lacks for `cost`. A cost above the bucket's size needs a full bucket. */
const missing = (bucket: Bucket, level: number, cost: number): number =>
  Math.min(cost, bucket.burst) - level - DRIFT * bucket.burst

const isAffordable = (buckets: ReadonlyArray<Bucket>, costs: Vector, now: number): boolean =>
  buckets.every((bucket, i) => {
    const cost = costs[i]!
    return cost === 0 || (bucket.blockedUntil <= now && missing(bucket, levelAt(bucket, now), cost) <= 0)
  })

/** Walks along a line: the moment of one grant after the other, the levels at it, and the dimension that made it so late. */
class Plan {
  at: number
  binding = 0
  private readonly levels: Array<number>
  private readonly buckets: ReadonlyArray<Bucket>

  constructor(buckets: ReadonlyArray<Bucket>, now: number) {
    this.at = now
    this.levels = buckets.map((bucket) => levelAt(bucket, now))
    this.buckets = buckets
  }

  copy(): Plan {
    const copy = new Plan(this.buckets, this.at)
    for (const [i, level] of this.levels.entries()) copy.levels[i] = level
    copy.binding = this.binding
    return copy
  }

  /** When `costs` could be granted at the earliest. Waits are whole milliseconds. */
  next(costs: Vector): number {
    const { buckets, levels } = this
    let wait = 0
    for (let i = 0; i < buckets.length; i++) {
      if (costs[i] === 0) continue
      const bucket = buckets[i]!
      const lacks = missing(bucket, levels[i]!, costs[i]!) / bucket.rate
      const own = Math.ceil(Math.max(lacks, bucket.blockedUntil - this.at))
      if (own > wait) {
        wait = own
        this.binding = i
      }
    }
    return this.at + wait
  }

  /** Grants `costs` at the moment that {@link next} has found. */
  grant(costs: Vector, at: number): void {
    const { buckets, levels } = this
    const wait = at - this.at
    for (let i = 0; i < buckets.length; i++) {
      const { burst, rate } = buckets[i]!
      levels[i] = Math.min(burst, levels[i]! + wait * rate) - costs[i]!
    }
    this.at = at
  }
}

/** By how many milliseconds at most grants come later when `amounts` more are taken before them. */
const delayBy = (buckets: ReadonlyArray<Bucket>, amounts: Vector): number => {
  let most = 0
  for (let i = 0; i < buckets.length; i++) {
    if (amounts[i]! > 0) most = Math.max(most, Math.ceil(amounts[i]! / buckets[i]!.rate) + 1)
  }
  return most
}

// -----------------------------------------------------------------------------
// service
// -----------------------------------------------------------------------------

/**
 * What an acquisition costs: a number (of `requests`, or of the first limit when there is no such dimension), or a
 * number per dimension. In a record, a dimension that is not named costs 1 if it is `requests`, else 0; names without
 * a limit are ignored.
 *
 * @category models
 * @since 0.1.0
 */
export type Cost = number | Readonly<Record<string, number>>

/**
 * @category models
 * @since 0.2.0
 */
export interface Would {
  readonly decision: "would-wait" | "would-refuse"
  readonly millis: number
}

/**
 * What was taken from the buckets for one acquisition. It is kept unless one of `settle` and `refund` gives something
 * back; the first of them counts, later ones do nothing. Both may be called at any time.
 *
 * @category models
 * @since 0.1.0
 */
export interface Reservation {
  /** In shadow mode: what would have become of it, and the milliseconds that it would have waited, or would have had to. */
  readonly would?: Would | undefined
  /** Milliseconds spent in the line. */
  readonly waited: number
  /**
   * Replaces the estimate by what was really used: the difference goes back, or is taken in addition. Dimensions that
   * are not named, and values that are not a finite number of at least zero, keep what was reserved. What comes back
   * adds to what has been refilled meanwhile, up to a full bucket.
   */
  readonly settle: (actual: Cost) => Effect.Effect<void>
  /** Gives back everything, because nothing was sent, or everything but `requests`. */
  readonly refund: (which: "all" | "tokens") => Effect.Effect<void>
  /**
   * Applies what the response to this acquisition says about the provider's own limits: `remaining` may only lower a
   * level, `resetAfter` blocks (5 minutes at most) only when nothing remains. Facts older than the last applied ones
   * are ignored.
   */
  readonly observe: (facts: ReadonlyArray<RateLimitFact>) => Effect.Effect<void>
  /** @internal */
  readonly settleUnsafe: (actual: Cost) => void
  /** @internal */
  readonly refundUnsafe: (which: "all" | "tokens") => void
  /** @internal */
  readonly observeUnsafe: (facts: ReadonlyArray<RateLimitFact>) => void
}

/**
 * @category models
 * @since 0.1.0
 */
export interface AcquireOptions {
  /** Milliseconds; limits the wait further, such as the time left until a deadline. */
  readonly maxWait?: number | undefined
  /** In the line the more urgent go first. Who has waited for 30 seconds rises a class. Default `default`. */
  readonly priority?: Priority | undefined
  /**
   * In the line tenants of one class take turns; a full one makes room for a tenant that has fewer in it than another. No
   * tenant counts as one.
   */
  readonly tenant?: string | undefined
  /** @internal */
  readonly onDisplaced?: (() => void) | undefined
  /** Runs in the step that hands the reservation over, before anything can interrupt. */
  readonly onAcquired?: ((reservation: Reservation) => void) | undefined
  /** What the wait runs in, when the caller is uninterruptible: the `restore` of its `Effect.uninterruptibleMask`. */
  readonly restore?: Restore | undefined
  /**
   * What the caller still waits for a store.
   *
   * @internal
   */
  readonly patience?: Health.Patience | undefined
}

/**
 * The state at one moment.
 *
 * @category models
 * @since 0.1.0
 */
export interface Snapshot {
  /** What is in each bucket; negative after a grant that was larger than the bucket. */
  readonly levels: Readonly<Record<string, number>>
  /** Waiters in the line. */
  readonly queued: number
  /** Waiters the line has room for. */
  readonly maxQueued: number
  /** Milliseconds until no dimension is blocked. */
  readonly blockedFor: number
  /** With limits by tenant: the tenants that are remembered. `levels` are those of the limits that all share. */
  readonly tenants?: number | undefined
}

/**
 * A rate limiter: one value limits one thing. Use one limiter per key, model or tenant.
 *
 * @category models
 * @since 0.1.0
 */
export interface RateLimiter {
  readonly [TypeId]: typeof TypeId
  /**
   * By which it was made.
   *
   * @internal
   */
  readonly policy: Policy
  /**
   * Takes `cost`, after a wait if necessary. A cost of zero is granted at once.
   *
   * **Details**
   *
   * Fails with `RateLimited` when the wait would exceed `maxWait`, when the line is full, or as soon as a block, a lower
   * limit, an expensive settlement or somebody more urgent makes a wait too long; with `InvalidRequest` when the cost is not a number of at
   * least zero. Neither consumes anything, nor does an interrupted wait.
   *
   * **Gotchas**
   *
   * Between the grant and the next step of an interruptible fibre, an interruption loses the reservation, and its cost
   * stays taken. Use {@link RateLimiter.take}, or acquire in an uninterruptible region (`restore`, `onAcquired`).
   */
  readonly acquire: (
    cost: Cost,
    options?: AcquireOptions
  ) => Effect.Effect<Reservation, RateLimited | InvalidRequest>
  /**
   * {@link RateLimiter.acquire} if that needs no wait and the cost is valid; else `undefined`, and nothing happened. In
   * shadow mode nothing needs a wait, and one above `maxWait` would be refused.
   *
   * @internal
   */
  readonly tryAcquireUnsafe: (
    cost: Cost,
    clock: Clock.Clock,
    now: number,
    tenant?: string,
    maxWait?: number
  ) => Reservation | undefined
  /**
   * Is there nothing to remember: no line, no block, all buckets full?
   *
   * @internal
   */
  readonly isIdleUnsafe: (now: number) => boolean
  /**
   * How many wait where somebody who came now would, for how many there is room, and whether one would leave for it.
   *
   * @internal
   */
  readonly lineUnsafe: (
    now: number,
    rank?: Pick<AcquireOptions, "priority" | "tenant">
  ) => { readonly queued: number; readonly maxQueued: number; readonly displaces: () => boolean }
  /**
   * Takes `cost` before an effect. It stays taken whatever the effect does, unless an interruption comes first.
   */
  readonly take: (
    cost: Cost,
    options?: Pick<AcquireOptions, "maxWait" | "priority" | "tenant">
  ) => <A, E, R>(self: Effect.Effect<A, E, R>) => Effect.Effect<A, E | RateLimited | InvalidRequest, R>
  /**
   * Grants nothing for a while, because a server said so. Never shortens an earlier block; 5 minutes at most. A
   * dimension without a limit here blocks all.
   */
  readonly block: (duration: Duration.Input, dimension?: string) => Effect.Effect<void>
  /**
   * {@link RateLimiter.block} at a known moment: `millis` after the monotonic time `now`.
   *
   * @internal
   */
  readonly blockUnsafe: (millis: number, now: number, dimension?: string) => void
  /** Changes a limit; its bucket's size and refill change in proportion. Nothing is added to what is in it. */
  readonly setLimit: (dimension: string, limit: number) => Effect.Effect<void, LlmConfigError>
  readonly snapshot: Effect.Effect<Snapshot>
  /** The dimensions that have a limit. */
  readonly dimensions: ReadonlyArray<string>
}

/**
 * Is it a rate limiter?
 *
 * @category guards
 * @since 0.2.0
 */
export const isRateLimiter = (u: unknown): u is RateLimiter =>
  typeof u === "object" && u !== null && (u as { readonly [TypeId]?: unknown })[TypeId] === TypeId

interface Wish {
  readonly costs: Vector
  /** Monotonic milliseconds after which it is too late. */
  readonly latest: number
}

type Queued = Waiter<Wish, Held, RateLimited>

class Limiter implements RateLimiter {
  readonly [TypeId] = TypeId
  readonly dimensions: ReadonlyArray<string>
  readonly policy: Policy
  private readonly limits: Policy["limits"]
  private readonly maxWait: number
  private readonly queue: number
  private readonly buckets: ReadonlyArray<Bucket>
  readonly costs: Costs
  private readonly line: WaitingLine<Wish, Held, RateLimited>
  /** The plan of the whole line, while the line is simple. */
  private end: Plan | undefined
  /** Since it was made some have left, tokens came back, or a timer rang late: it may be later than the line will be, and never sooner. */
  private isLate = false
  /** By how much all grants could come later, at least, and nobody be too late. */
  private slack = Infinity
  /** When the first in line can be served, as far as it is known that it must wait. */
  private due = Infinity
  private grants = 0
  /** Per dimension, the last grant whose response was observed. */
  private readonly observed: Array<number>

  constructor(policy: Policy) {
    this.policy = policy
    this.dimensions = policy.limits.map(({ dimension }) => dimension)
    this.limits = policy.limits
    this.maxWait = policy.maxWait
    this.queue = policy.queue
    this.buckets = policy.limits.map(({ burst, rate }) => ({ burst, rate, level: burst, at: 0, blockedUntil: 0 }))
    this.costs = new Costs(policy.limits)
    this.observed = policy.limits.map(() => 0)
    this.line = new WaitingLine({
      serve: (first, now) => this.serve(first, now),
      left: (waiter) => {
        if (this.line.size === 0) {
          this.end = undefined
          this.slack = Infinity
          this.due = Infinity
        } else if (waiter.outcome === undefined) {
          this.isLate = true
          // Its tenant's next one has its turn earlier, so that those of others may come later.
          if (!this.line.isSimple) this.slack = -Infinity
        }
      },
      rose: ({ wants }) => {
        this.slack -= delayBy(this.buckets, wants.costs)
      },
      undo: (held) => held.refundUnsafe("all")
    })
  }

  readonly acquire: RateLimiter["acquire"] = (cost, options) =>
    Effect.withFiber((fiber): Effect.Effect<Reservation, RateLimited | InvalidRequest> => {
      const clock = fiber.getRef(Clock.Clock)
      const free = this.tryAcquireUnsafe(cost, clock, monotonicMillis(clock))
      if (free !== undefined) return Effect.succeed(handOver(free, options))
      const costs = this.costs.of(cost)
      if (costs instanceof InvalidRequest) return Effect.fail(costs)
      return Effect.uninterruptibleMask((restore) => this.lineUp(fiber, costs, options?.restore ?? restore, options))
    })

  readonly tryAcquireUnsafe: RateLimiter["tryAcquireUnsafe"] = (cost, clock, now) => {
    const costs = this.costs.of(cost)
    return Array.isArray(costs) && this.isFree(costs, now) ? this.grant(costs, clock, now, now) : undefined
  }

  readonly isIdleUnsafe: RateLimiter["isIdleUnsafe"] = (now) =>
    this.line.size === 0 &&
    this.buckets.every((bucket) =>
      bucket.blockedUntil <= now && missing(bucket, levelAt(bucket, now), bucket.burst) <= 0
    )

  readonly lineUnsafe: RateLimiter["lineUnsafe"] = (_now, rank) => ({
    queued: this.line.size,
    maxQueued: this.queue,
    displaces: () => this.line.canDisplace(rank)
  })

  readonly take: RateLimiter["take"] = takeWith(this.acquire)

  readonly block: RateLimiter["block"] = (duration, dimension) =>
    Effect.clockWith((clock) => {
      this.blockUnsafe(Duration.toMillis(Duration.fromInputUnsafe(duration)), monotonicMillis(clock), dimension)
      return Effect.void
    })

  readonly blockUnsafe: RateLimiter["blockUnsafe"] = (millis, now, dimension) => {
    if (!(millis > 0)) return
    const until = now + Math.min(millis, MAX_BLOCK)
    const index = this.limits.findIndex((limit) => limit.dimension === dimension)
    for (const [i, bucket] of this.buckets.entries()) {
      if (index < 0 || index === i) bucket.blockedUntil = Math.max(bucket.blockedUntil, until)
    }
    this.changed(Infinity)
  }

  readonly setLimit: RateLimiter["setLimit"] = (dimension, limit) =>
    Effect.clockWith((clock) => {
      const i = this.limits.findIndex((known) => known.dimension === dimension)
      const known = this.limits[i]
      if (known === undefined) {
        const rule = "a dimension that has a limit"
        return Effect.fail(new LlmConfigError({ path: "dimension", rule, kind: kindOf(dimension) }))
      }
      if (!isPositive(limit)) {
        return Effect.fail(new LlmConfigError({ path: "limit", rule: "a number above zero", kind: kindOf(limit) }))
      }
      const bucket = this.buckets[i]!
      const now = monotonicMillis(clock)
      const level = levelAt(bucket, now)
      bucket.burst = known.burst * limit / known.limit
      bucket.rate = known.rate * limit / known.limit
      bucket.level = Math.min(level, bucket.burst)
      bucket.at = now
      // Also of a higher one: what costs more than its bucket holds needs a full bucket, which is larger now.
      this.changed(Infinity)
      return Effect.void
    })

  readonly snapshot: RateLimiter["snapshot"] = Effect.clockWith((clock) => {
    const now = monotonicMillis(clock)
    return Effect.succeed({
      levels: Object.fromEntries(this.limits.map(({ dimension }, i) => [dimension, levelAt(this.buckets[i]!, now)])),
      queued: this.line.size,
      maxQueued: this.queue,
      blockedFor: Math.max(0, ...this.buckets.map((bucket) => bucket.blockedUntil - now))
    })
  })

  // --- grants -----------------------------------------------------------------

  /** May it go at once? What costs nothing has nothing to wait for. */
  private isFree(costs: Vector, now: number): boolean {
    return (this.line.size === 0 && isAffordable(this.buckets, costs, now)) || costs.every((cost) => cost === 0)
  }

  private grant(costs: Vector, clock: Clock.Clock, arrived: number, now: number): Held {
    for (let i = 0; i < costs.length; i++) if (costs[i] !== 0) move(this.buckets[i]!, -costs[i]!, now)
    this.grants += 1
    return new Held(this, costs, clock, this.grants, now - arrived)
  }

  private lineUp(
    fiber: Fiber.Fiber<unknown, unknown>,
    costs: Vector,
    restore: Restore,
    options: AcquireOptions | undefined
  ): Effect.Effect<Reservation, RateLimited> {
    const clock = fiber.getRef(Clock.Clock)
    const now = monotonicMillis(clock)
    if (this.isFree(costs, now)) return Effect.succeed(handOver(this.grant(costs, clock, now, now), options))
    const longest = Math.min(this.maxWait, options?.maxWait ?? Infinity)
    let plan = this.planFor(options, now, now + longest)
    let at = plan.next(costs)
    if (this.isLate && this.end !== undefined && (!(at - now <= longest) || this.line.size >= this.queue)) {
      // Nobody is refused for those who have left.
      this.end = undefined
      plan = this.planFor(options, now, now + longest)
      at = plan.next(costs)
    }
    const refusal = (): RateLimited => this.refusal(plan.binding, at, now)
    if (!(at - now <= longest) || !this.hasRoom(options, refusal)) return Effect.fail(refusal())
    const waiter: Queued = new Waiter({ costs, latest: now + longest }, options, clock, now, fiber)
    this.slack = Math.min(this.slack, now + longest - at)
    if (this.line.isSimpleWith(options)) {
      plan.grant(costs, at)
      this.end = plan
    } else {
      // Some are behind it.
      this.end = undefined
      this.slack -= delayBy(this.buckets, costs)
    }
    const joined = this.line.join(waiter, restore, this.line.keepTime(waiter))
    if (this.slack < 0) this.refuseLate(now)
    return Effect.map(joined, (held) => handOver(held, options))
  }

  private hasRoom(options: AcquireOptions | undefined, refusal: () => RateLimited): boolean {
    if (this.line.size < this.queue) return true
    if (!this.line.displace(options, refusal)) return false
    // Its tenant's turns have changed.
    this.end = undefined
    this.slack = -Infinity
    return true
  }

  /** Looks at the first waiter: grants, or says how long it takes. */
  private serve(first: Queued, now: number): number {
    if (this.slack < 0) {
      this.refuseLate(now)
      if (first.outcome !== undefined) return 0
    }
    const { costs } = first.wants
    if (!isAffordable(this.buckets, costs, now)) {
      this.due = new Plan(this.buckets, now).next(costs)
      return this.due - now
    }
    this.overslept(costs, now)
    this.line.end(first, Exit.succeed(this.grant(costs, first.clock, first.arrived, now)))
    return 0
  }

  /** Timers ring late, and what would have come into a full bucket meanwhile is lost: so much later come all others. */
  private overslept(costs: Vector, now: number): void {
    const delay = now - this.due
    this.due = Infinity
    if (!(delay > 0)) return
    if (!this.buckets.some((bucket, i) => costs[i] !== 0 && levelAt(bucket, now) >= bucket.burst)) return
    this.slack -= delay
    this.isLate = true
    if (this.end !== undefined) this.end.at += delay
  }

  private refusal(binding: number, at: number, now: number): RateLimited {
    return withoutStack(() =>
      new RateLimited({
        dimension: this.limits[binding]!.dimension,
        retryAfter: Duration.millis(Math.max(Math.ceil(at - now), 1))
      })
    )
  }

  // --- the plan ---------------------------------------------------------------

  /** The plan of those who would be served before somebody who comes now, as far as it is needed. */
  private planFor(rank: AcquireOptions | undefined, now: number, latest: number): Plan {
    const isSimple = this.line.isSimpleWith(rank)
    if (isSimple && this.end !== undefined) return this.end.copy()
    if (isSimple) this.isLate = false
    const plan = new Plan(this.buckets, now)
    this.line.ahead(rank, now, ({ wants }) => {
      plan.grant(wants.costs, plan.next(wants.costs))
      return isSimple || plan.at <= latest
    })
    return plan
  }

  /** Plans the whole line, and ends the waits that have become too long: nobody waits for what they cost. */
  private refuseLate(now: number): void {
    const plan = new Plan(this.buckets, now)
    const late: Array<() => void> = []
    this.slack = Infinity
    this.line.walk(now, (waiter) => {
      const { costs, latest } = waiter.wants
      const { binding } = plan
      const at = plan.next(costs)
      if (at > latest) {
        const error = this.refusal(plan.binding, at, now)
        late.push(() => this.line.end(waiter, Exit.fail(error)))
        plan.binding = binding
      } else {
        plan.grant(costs, at)
        this.slack = Math.min(this.slack, latest - at)
      }
    })
    for (const end of late) end()
    // Where tenants take turns, those behind them have other turns now.
    if (late.length > 0 && this.line.size > 0 && !this.line.isSimple) this.slack = -Infinity
  }

  /** Something moved all grants: earlier, or later by `delay` at most. */
  private changed(delay: number): void {
    if (this.line.size === 0) return
    if (delay > 0) this.end = undefined
    else this.isLate = true
    // Of who waits for ever and who is delayed for ever, the difference is no number.
    this.slack = delay === Infinity ? -Infinity : this.slack - delay
    this.line.changed()
  }

  // --- what reservations do ---------------------------------------------------

  credit(amounts: Vector, now: number): void {
    for (let i = 0; i < amounts.length; i++) if (amounts[i] !== 0) move(this.buckets[i]!, amounts[i]!, now)
    this.changed(delayBy(this.buckets, amounts.map((amount) => -amount)))
  }

  observe(facts: ReadonlyArray<RateLimitFact>, grant: number, now: number): void {
    for (const { dimension, remaining, resetAfter } of facts) {
      const i = this.limits.findIndex((limit) => limit.dimension === dimension)
      const bucket = this.buckets[i]
      if (bucket === undefined || grant < this.observed[i]! || !isCost(remaining)) continue
      this.observed[i] = grant
      if (remaining < levelAt(bucket, now)) {
        move(bucket, remaining - levelAt(bucket, now), now)
        this.changed(Infinity)
      }
      if (remaining === 0 && resetAfter !== undefined) this.blockUnsafe(resetAfter, now, dimension)
    }
  }
}

class Held extends Taken {
  readonly waited: number
  private readonly limiter: Limiter
  private readonly costs: Vector
  private readonly clock: Clock.Clock
  private readonly grant: number
  private isDone = false

  constructor(limiter: Limiter, costs: Vector, clock: Clock.Clock, grant: number, waited: number) {
    super()
    this.limiter = limiter
    this.costs = costs
    this.clock = clock
    this.grant = grant
    this.waited = waited
  }

  settleUnsafe(actual: Cost): void {
    if (!this.isDone) this.giveBack(this.limiter.costs.difference(this.costs, actual))
  }

  refundUnsafe(which: "all" | "tokens"): void {
    if (!this.isDone) this.giveBack(which === "all" ? this.costs : this.limiter.costs.withoutRequests(this.costs))
  }

  observeUnsafe(facts: ReadonlyArray<RateLimitFact>): void {
    this.limiter.observe(facts, this.grant, monotonicMillis(this.clock))
  }

  private giveBack(amounts: Vector): void {
    this.isDone = true
    this.limiter.credit(amounts, monotonicMillis(this.clock))
  }
}

/**
 * The service tag of one rate limiter.
 *
 * @category services
 * @since 0.1.0
 */
export const RateLimiter: Context.Service<RateLimiter, RateLimiter> = Context.Service(
  "effect-resilient-llm/RateLimiter"
)

/** @internal */
export const fromPolicy = (policy: Policy): RateLimiter => {
  const { isShadow, limits, perTenant } = policy
  const make = (policy: Policy): RateLimiter => isShadow ? new ShadowLimiter(policy) : new Limiter(policy)
  if (perTenant.length === 0) return make(policy)
  return new TenantLimiter({
    shared: limits.length === 0 ? undefined : make(policy),
    make: () => ({ limiter: make({ ...policy, limits: perTenant }) }),
    run: Effect.runFork,
    policy
  })
}

/**
 * Makes a rate limiter.
 *
 * **Example** (Ten calls, then one per second)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { RateLimiter } from "effect-resilient-llm/resilience"
 *
 * const program = Effect.gen(function*() {
 *   const limiter = yield* RateLimiter.make({ capacity: 10, refillPerSecond: 1, maxWait: 0 })
 *   const call = Effect.succeed("ok").pipe(
 *     limiter.take(1),
 *     Effect.catchTag("RateLimited", (error) => Effect.succeed(`too many ${error.dimension}`))
 *   )
 *   return yield* Effect.all(Array.from({ length: 11 }, () => call))
 * })
 * const answers = await Effect.runPromise(program)
 * answers.slice(-2) // => ["ok", "too many requests"]
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = (options?: Options): Effect.Effect<RateLimiter, LlmConfigError> =>
  attempt(() => fromPolicy(policy(options)))

/**
 * Where limits are kept that several processes share. `undefined` (the default): each limiter has buckets of its own.
 *
 * **Details**
 *
 * - Each arrival is debited at once and told the moment at which it may go, so the order is that of arrival at the store;
 *   within a process it is first come, first served. Who leaves or settles gives back, and later arrivals profit: who was
 *   told a time keeps it.
 * - A process takes a few acquisitions along with the one it needs, at most 50 ms of its own traffic and a quarter of its
 *   part of a bucket, and gives back after 200 ms what it did not use. So most acquisitions cost no round trip.
 * - Without the store a process goes on with what it has taken along, and then with its share: the limits divided by the
 *   processes seen last, and at least one a second.
 *
 * @category services
 * @since 0.2.0
 */
export const RateLimiterStore: Context.Reference<Buckets.LimitStore | undefined> = Context.Reference<
  Buckets.LimitStore | undefined
>("effect-resilient-llm/RateLimiterStore", { defaultValue: () => undefined })

export type { Buckets, LimitStore, Reserve, Reserved, Settle, StoreLimit } from "./internal/buckets.ts"

/**
 * Makes a rate limiter whose buckets other processes share, under a key.
 *
 * **Example** (Two processes, one limit)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { RateLimiter } from "effect-resilient-llm/resilience"
 *
 * const program = Effect.gen(function*() {
 *   const store = yield* RateLimiter.storeMemory()
 *   const limits = { capacity: 10, refillPerSecond: 1, maxWait: 0 }
 *   const here = yield* RateLimiter.makeShared("vendor", store, limits)
 *   const there = yield* RateLimiter.makeShared("vendor", store, limits)
 *   const call = (limiter: typeof here) => Effect.exit(limiter.take(1)(Effect.void))
 *   const calls = yield* Effect.forEach(Array.from({ length: 20 }), (_, i) => call(i % 2 === 0 ? here : there))
 *   return calls.filter(({ _tag }) => _tag === "Success").length
 * })
 * await Effect.runPromise(Effect.scoped(program)) // => 10
 * ```
 *
 * @category constructors
 * @since 0.2.0
 */
export const makeShared = (
  key: string,
  store: Buckets.LimitStore,
  options?: Options
): Effect.Effect<RateLimiter, LlmConfigError, Scope.Scope> =>
  Effect.flatMap(attempt(() => policy(options)), (checked) => sharedFromPolicy(key, store, checked))

/** @internal */
export const sharedFromPolicy = (
  key: string,
  store: Buckets.LimitStore,
  policy: Policy
): Effect.Effect<RateLimiter, never, Scope.Scope> =>
  policy.isShadow ? Effect.sync(() => fromPolicy(policy)) : Effect.gen(function*() {
    const { limits, perTenant } = policy
    const scope = yield* Effect.scope
    const context = yield* Effect.context()
    const common = { store, instance: yield* ownName, scope, context, clock: yield* Clock.Clock, local: fromPolicy }
    const make = (key: string, limits: Policy["limits"]) =>
      new SharedLimiter({ ...common, key, policy: { ...policy, limits, perTenant: [] } })
    const shared = limits.length === 0 ? undefined : make(key, limits)
    if (shared !== undefined) {
      yield* Effect.addFinalizer(() => shared.leave)
      yield* Effect.forkScoped(shared.hello)
      if (perTenant.length === 0) return shared
    }
    const limiter = new TenantLimiter({
      shared,
      // A name is somebody's, and no store needs it.
      make: (tenant, kind) => {
        const limiter = make(`${key}:${kind}:${tenant === undefined ? "" : sha256(tenant)}`, perTenant)
        return { limiter, leave: limiter.leave }
      },
      run: Effect.runForkWith(context),
      policy
    })
    yield* Effect.addFinalizer(() => limiter.leave)
    return limiter
  })

/**
 * A store of limits in the memory of this process: for clients that share them, and for tests. It keeps 10,000 keys; then
 * one leaves whose buckets are full.
 *
 * @category constructors
 * @since 0.2.0
 */
export const storeMemory = (): Effect.Effect<Buckets.LimitStore> => Effect.sync(() => Buckets.memory())

/**
 * Provides one rate limiter.
 *
 * @category layers
 * @since 0.1.0
 */
export const layer = (options?: Options): Layer.Layer<RateLimiter, LlmConfigError> =>
  Layer.effect(RateLimiter, make(options))

/**
 * Provides one rate limiter whose options come from configuration.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerConfig = (
  options: Config.Wrap<Options>
): Layer.Layer<RateLimiter, LlmConfigError | Config.ConfigError> =>
  Layer.effect(RateLimiter, Effect.flatMap(Config.unwrap(options), make))
