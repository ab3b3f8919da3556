// A rate limiter whose buckets several processes share.
//
// A process takes a few acquisitions along with the one it needs (a chunk), and spends them without a further trip. What is
// settled goes into that pool too, so most calls cost no trip at all. One question is under way at a time; whoever comes
// meanwhile stands in line, and may be served by what it brings. While the store is away, a bucket of this process alone
// holds its share of the limits.
import type * as Clock from "effect/Clock"
import type * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type * as Fiber from "effect/Fiber"
import type * as Scope from "effect/Scope"
import { monotonicMillis } from "../../internal/clock.ts"
import { kindOf } from "../../internal/issue.ts"
import type { Restore } from "../../internal/line.ts"
import { InvalidRequest, LlmConfigError, RateLimited, type RateLimitFact, withoutStack } from "../../LlmError.ts"
import * as Health from "../../persistence/Health.ts"
import type { AcquireOptions, Cost, Policy, RateLimiter, Reservation, Snapshot } from "../RateLimiter.ts"
import { DRIFT, type LimitStore, MAX_BLOCK, type Reserved, type Settle, type StoreLimit } from "./buckets.ts"
import { Costs, isCost, takeWith, TypeId, type Vector } from "./costs.ts"
import { handOver, Taken } from "./reservation.ts"

/** Milliseconds of its own traffic that a process takes along. */
const CHUNK = 50
/** The most of a bucket that lies with one process: a quarter of its part. */
const PART = 4
/** Milliseconds after which what nobody used goes back, and after which what is owed is paid. */
const IDLE = 200
const SOON = 50
/** Milliseconds over which the own traffic is averaged, and after which a process names itself again. */
const MEMORY = 500
const BEAT = 2000
export interface SharedOptions {
  readonly key: string
  readonly policy: Policy
  readonly store: LimitStore
  /** Names this process among those that share the limits. */
  readonly instance: string
  readonly scope: Scope.Scope
  /** What is done that nobody waits for runs in it. */
  readonly context: Context.Context<never>
  readonly clock: Clock.Clock
  /** Makes a limiter of this process alone. */
  readonly local: (policy: Policy) => RateLimiter
}

/** How a wait in line ends. */
type Outcome =
  | { readonly _tag: "Go" }
  /** At `due`. */
  | { readonly _tag: "Later"; readonly due: number }
  /** Without the store. */
  | { readonly _tag: "Alone" }
  | { readonly _tag: "Refused"; readonly error: RateLimited }

class Waiter {
  readonly costs: Vector
  /** Monotonic milliseconds after which it is too late. */
  readonly latest: number
  /** Set once, in the step that decides. */
  outcome: Outcome | undefined
  gone = false
  private resume: ((outcome: Effect.Effect<Outcome>) => void) | undefined

  constructor(costs: Vector, latest: number) {
    this.costs = costs
    this.latest = latest
  }

  wait(resume: (outcome: Effect.Effect<Outcome>) => void): void {
    this.resume = resume
  }

  end(outcome: Outcome): void {
    this.outcome = outcome
    this.resume?.(Effect.succeed(outcome))
  }
}

export class SharedLimiter implements RateLimiter {
  readonly [TypeId] = TypeId
  readonly dimensions: ReadonlyArray<string>
  private readonly key: string
  private readonly store: LimitStore
  private readonly health: Health.Health
  private readonly instance: string
  private readonly run: <A, E>(effect: Effect.Effect<A, E>) => Fiber.Fiber<A, E>
  private readonly clock: Clock.Clock
  private readonly makeLocal: SharedOptions["local"]
  readonly policy: Policy
  readonly costs: Costs
  private limits: ReadonlyArray<StoreLimit>

  /** What this process has taken and not spent; below zero it owes. */
  private readonly pool: Array<number>
  private usedAt = -Infinity
  /** Acquisitions per millisecond, and what one costs, as of late. */
  private traffic = 0
  private trafficAt = -Infinity
  private readonly average: Array<number>
  private instances = 1
  private beatAt = -Infinity
  /** What the store said last of the levels, and when. */
  private known: { readonly levels: Vector; readonly at: number } | undefined
  private readonly blockedUntil: Array<number>
  /** Nothing that costs as much, and waits no longer, is asked before. */
  private refusal:
    | { readonly costs: Vector; readonly longest: number; readonly until: number; readonly dimension: string }
    | undefined

  private readonly line: Array<Waiter> = []
  /** Those in line, and those that were told a time. */
  private waiting = 0
  private asking = false
  /** The latest moment that somebody here was told. */
  private lastDue = -Infinity
  /** The bucket of this process alone, and whether it is used, because the store is away. */
  private alone: RateLimiter | undefined
  private isAlone = false

  /** What the store has not been told yet: levels that are too high, and moments before which nothing is granted. */
  private atMost: Array<number | undefined>
  private blocks: Array<number>
  private isDirty = false
  private flushing: { readonly due: number; readonly fiber: Fiber.Fiber<unknown> } | undefined
  private grants = 0
  /** Per dimension, the last grant whose response was observed. */
  private readonly observed: Array<number>

  constructor(options: SharedOptions) {
    const { clock, context, instance, key, local, policy, scope, store } = options
    this.dimensions = policy.limits.map(({ dimension }) => dimension)
    this.key = key
    this.store = store
    this.instance = instance
    this.run = Effect.runForkWith(context)
    this.clock = clock
    this.makeLocal = local
    this.policy = policy
    this.costs = new Costs(policy.limits)
    this.limits = policy.limits.map(({ burst, dimension, rate }) => ({ burst, dimension, rate }))
    this.health = Health.of(store, () => store.snapshot(key, this.limits), scope)
    const zeros = policy.limits.map(() => 0)
    this.pool = [...zeros]
    this.average = [...zeros]
    this.blockedUntil = [...zeros]
    this.blocks = [...zeros]
    this.observed = [...zeros]
    this.atMost = zeros.map(() => undefined)
  }

  // --- the service --------------------------------------------------------------

  readonly acquire: RateLimiter["acquire"] = (cost, options) =>
    Effect.suspend((): Effect.Effect<Reservation, RateLimited | InvalidRequest> => {
      const free = this.tryAcquireUnsafe(cost, this.clock, this.now())
      if (free !== undefined) return Effect.succeed(handOver(free, options))
      const costs = this.costs.of(cost)
      if (costs instanceof InvalidRequest) return Effect.fail(costs)
      return Effect.uninterruptibleMask((restore) => this.lineUp(cost, costs, options?.restore ?? restore, options))
    })

  readonly tryAcquireUnsafe: RateLimiter["tryAcquireUnsafe"] = (cost, _, now) => {
    const costs = this.costs.of(cost)
    if (costs instanceof InvalidRequest) return undefined
    // What costs nothing has nothing to wait for.
    const isFree = costs.every((one) => one === 0) || (this.line.length === 0 && this.spend(costs, now))
    return isFree ? this.grant(costs, 0) : undefined
  }

  /** While something lies here or is owed, a flush is to come. */
  readonly isIdleUnsafe: RateLimiter["isIdleUnsafe"] = () => this.waiting === 0 && this.flushing === undefined

  readonly lineUnsafe: RateLimiter["lineUnsafe"] = () => ({
    queued: this.waiting,
    maxQueued: this.policy.queue,
    displaces: never
  })

  readonly take: RateLimiter["take"] = takeWith(this.acquire)

  readonly block: RateLimiter["block"] = (duration, dimension) =>
    Effect.sync(() => {
      this.blockUnsafe(Duration.toMillis(Duration.fromInputUnsafe(duration)), this.now(), dimension)
    })

  readonly blockUnsafe: RateLimiter["blockUnsafe"] = (millis, now, dimension) => {
    if (!(millis > 0)) return
    const bounded = Math.min(millis, MAX_BLOCK)
    const index = this.limits.findIndex((limit) => limit.dimension === dimension)
    for (let i = 0; i < this.limits.length; i++) {
      if (index >= 0 && index !== i) continue
      this.blockedUntil[i] = Math.max(this.blockedUntil[i]!, now + bounded)
      this.blocks[i] = Math.max(this.blocks[i]!, now + bounded)
    }
    this.tell(0)
    this.alone?.blockUnsafe(bounded, now, dimension)
  }

  readonly setLimit: RateLimiter["setLimit"] = (dimension, limit) =>
    Effect.suspend(() => {
      const i = this.limits.findIndex((known) => known.dimension === dimension)
      const known = this.policy.limits[i]
      if (known === undefined) {
        const rule = "a dimension that has a limit"
        return Effect.fail(new LlmConfigError({ path: "dimension", rule, kind: kindOf(dimension) }))
      }
      if (!(isCost(limit) && limit > 0)) {
        return Effect.fail(new LlmConfigError({ path: "limit", rule: "a number above zero", kind: kindOf(limit) }))
      }
      const part = limit / known.limit
      this.limits = this.limits.map((old, j) =>
        i === j ? { dimension, burst: known.burst * part, rate: known.rate * part } : old
      )
      return this.alone === undefined
        ? Effect.void
        : this.alone.setLimit(dimension, limit / this.instances)
    })

  readonly snapshot: RateLimiter["snapshot"] = Effect.suspend(() =>
    Effect.matchCauseEffect(
      this.health.ask("snapshot", Effect.suspend(() => this.store.snapshot(this.key, this.limits))),
      {
        onSuccess: ({ blockedFor, levels }) =>
          Effect.succeed<Snapshot>({
            levels: Object.fromEntries(this.limits.map(({ dimension }, i) => [dimension, levels[i]! + this.pool[i]!])),
            queued: this.waiting,
            maxQueued: this.policy.queue,
            blockedFor: Math.max(0, ...blockedFor)
          }),
        onFailure: () => this.byItself().snapshot
      }
    )
  )

  private now(): number {
    return monotonicMillis(this.clock)
  }

  private grant(costs: Vector, waited: number): Held {
    this.grants += 1
    return new Held(this, costs, this.grants, waited)
  }

  // --- the pool -----------------------------------------------------------------

  private covers(costs: Vector, now: number): boolean {
    for (let i = 0; i < costs.length; i++) {
      const cost = costs[i]!
      if (cost === 0) continue
      if (this.pool[i]! + DRIFT * this.limits[i]!.burst < cost || this.blockedUntil[i]! > now) return false
    }
    return true
  }

  private spend(costs: Vector, now: number): boolean {
    if (!this.covers(costs, now)) return false
    this.count(costs, now)
    this.addToPool(costs, -1)
    this.usedAt = now
    this.watchPool()
    return true
  }

  private addToPool(costs: Vector, times = 1): void {
    for (let i = 0; i < costs.length; i++) this.pool[i] = this.pool[i]! + times * costs[i]!
  }

  private count(costs: Vector, now: number): void {
    const isFirst = this.trafficAt === -Infinity
    const fade = Math.exp(-Math.max(0, now - this.trafficAt) / MEMORY)
    this.traffic = this.traffic * fade + 1 / MEMORY
    this.trafficAt = now
    for (let i = 0; i < costs.length; i++) {
      this.average[i] = isFirst ? costs[i]! : this.average[i]! + (costs[i]! - this.average[i]!) / 20
    }
  }

  /** How many acquisitions are worth taking along: those of the next moments, but never much of a bucket. */
  private chunk(): number {
    let count = Math.floor(this.traffic * CHUNK)
    for (const [i, each] of this.average.entries()) {
      count = Math.min(count, Math.floor(this.part(i) / each))
    }
    return Math.max(0, count)
  }

  /** The most of a bucket that may lie here. */
  private part(i: number): number {
    return this.limits[i]!.burst / (PART * this.instances)
  }

  private surplus(i: number): number {
    return this.pool[i]! - Math.max(this.part(i), 2 * this.average[i]!)
  }

  /** Something was settled: it can be spent here, or is owed. */
  credit(amounts: Vector): void {
    this.addToPool(amounts)
    this.usedAt = this.now()
    if (this.pool.some((tokens, i) => tokens < 0 || this.surplus(i) > 0)) this.tell(SOON)
    else this.watchPool()
  }

  /** It did not wait for the store, which is only slow: what it takes is taken there all the same. */
  private owe(costs: Vector, waited: number): Reservation {
    this.addToPool(costs, -1)
    this.tell(SOON)
    return this.grant(costs, waited)
  }

  observe(facts: ReadonlyArray<RateLimitFact>, grant: number): void {
    const now = this.now()
    for (const { dimension, remaining, resetAfter } of facts) {
      const i = this.limits.findIndex((limit) => limit.dimension === dimension)
      const limit = this.limits[i]
      if (limit === undefined || grant < this.observed[i]! || !isCost(remaining)) continue
      this.observed[i] = grant
      const { known } = this
      const level = known === undefined
        ? limit.burst
        : Math.min(limit.burst, known.levels[i]! + Math.max(0, now - known.at) * limit.rate)
      if (remaining < level) {
        this.known = { levels: (known?.levels ?? this.limits.map(({ burst }) => burst)).with(i, remaining), at: now }
        this.atMost[i] = Math.min(this.atMost[i] ?? Infinity, remaining)
        this.pool[i] = Math.min(this.pool[i]!, remaining)
        this.tell(SOON)
      }
      if (remaining === 0 && resetAfter !== undefined) this.blockUnsafe(resetAfter, now, dimension)
    }
  }

  // --- the line -----------------------------------------------------------------

  private lineUp(
    cost: Cost,
    costs: Vector,
    restore: Restore,
    options: AcquireOptions | undefined
  ): Effect.Effect<Reservation, RateLimited | InvalidRequest> {
    const arrived = this.now()
    const longest = Math.min(this.policy.maxWait, options?.maxWait ?? Infinity)
    const handedOver = Effect.sync(() => handOver(this.grant(costs, this.now() - arrived), options))
    const withoutStore = Effect.suspend(() => {
      const maxWait = Math.max(0, arrived + longest - this.now())
      const own = this.byItself().acquire(cost, { ...options, onAcquired: undefined, maxWait, restore })
      return Effect.map(
        own,
        (reservation) => handOver(this.health.isUp() ? this.owe(costs, reservation.waited) : reservation, options)
      )
    })
    const patience = options?.patience ?? Health.makePatience()
    if (!this.health.isUp() || patience.left <= 0) return withoutStore
    const isFull = this.waiting >= this.policy.queue
    const error = isFull
      ? refused(this.limits[0]!.dimension, this.lastDue - arrived)
      : this.refusalOf(costs, longest, arrived)
    if (error !== undefined) return Effect.fail(error)
    this.count(costs, arrived)
    const waiter = new Waiter(costs, arrived + longest)
    const decided = Effect.callback<Outcome>((resume) => {
      let tired: Fiber.Fiber<unknown> | undefined
      waiter.wait((outcome) => {
        tired?.interruptUnsafe()
        resume(outcome)
      })
      this.line.push(waiter)
      this.ask()
      if (waiter.outcome !== undefined) return undefined
      tired = this.run(Effect.map(Health.awake(this.clock, patience.left, patience), () => this.givesUp(waiter)))
      return Effect.sync(() => tired?.interruptUnsafe())
    })
    this.waiting += 1
    return Effect.flatMap(
      Effect.exit(restore(decided)),
      (exit): Effect.Effect<Reservation, RateLimited | InvalidRequest> => {
        this.waiting -= 1
        if (Exit.isFailure(exit)) {
          this.left(waiter)
          return Effect.failCause(exit.cause)
        }
        switch (exit.value._tag) {
          case "Go":
            return handedOver
          case "Later":
            return Effect.andThen(this.untilDue(exit.value.due, costs, restore), handedOver)
          case "Alone":
            return withoutStore
          case "Refused":
            return Effect.fail(exit.value.error)
        }
      }
    )
  }

  /** Somebody was interrupted in line, perhaps in the moment in which it was served. */
  private left(waiter: Waiter): void {
    waiter.gone = true
    const { outcome } = waiter
    if (outcome?._tag === "Go") return this.credit(waiter.costs)
    if (outcome?._tag === "Later") return this.giveBack(waiter.costs, outcome.due - this.now())
    const i = this.line.indexOf(waiter)
    // The first one may be being asked for: what comes of it is given back then.
    if (i > 0 || (i === 0 && !this.asking)) this.line.splice(i, 1)
  }

  /** It goes on alone. What comes of the question all the same is given back. */
  private givesUp(waiter: Waiter): void {
    this.left(waiter)
    waiter.end(alone)
  }

  private untilDue(due: number, costs: Vector, restore: Restore): Effect.Effect<void> {
    const left = due - this.now()
    if (left <= 0) return Effect.void
    this.waiting += 1
    return Effect.flatMap(Effect.exit(restore(this.clock.sleep(Duration.millis(Math.ceil(left))))), (exit) => {
      this.waiting -= 1
      // Who leaves gives back what it was promised; who was told a time keeps it.
      if (Exit.isFailure(exit)) this.giveBack(costs, due - this.now())
      return exit
    })
  }

  /** What the store has said to one that asked for no more, and was ready to wait as long. */
  private refusalOf(costs: Vector, longest: number, now: number): RateLimited | undefined {
    const { refusal } = this
    if (refusal === undefined || now >= refusal.until) {
      this.refusal = undefined
      return undefined
    }
    if (longest > refusal.longest || costs.some((cost, i) => cost < refusal.costs[i]!)) return undefined
    return refused(refusal.dimension, refusal.until - now + refusal.longest)
  }

  /** Serves from the pool, in order, and asks for the first who is left. Who is served may come back here at once. */
  private ask(): void {
    while (!this.asking) {
      const now = this.now()
      const [first] = this.line
      if (first === undefined) return
      const outcome = this.withoutAsking(first, now)
      if (outcome === undefined) return this.askFor(first, now)
      this.line.shift()
      first.end(outcome)
    }
  }

  private withoutAsking({ costs, latest }: Waiter, now: number): Outcome | undefined {
    if (this.covers(costs, now)) {
      this.addToPool(costs, -1)
      this.usedAt = now
      return go
    }
    const error = this.refusalOf(costs, Math.max(0, latest - now), now)
    return error && { _tag: "Refused", error }
  }

  /** One question at a time. It takes along what those behind the first one need, and some more. */
  private askFor(first: Waiter, now: number): void {
    this.asking = true
    const { costs } = first
    const each = [...this.average]
    const count = this.line.length - 1 + this.chunk()
    const isBeat = now - this.beatAt >= BEAT
    const reserve = Effect.suspend(() =>
      this.store.reserve({
        key: this.key,
        limits: this.limits,
        costs,
        maxWait: Math.max(0, first.latest - now),
        extra: count > 0 ? { count, each } : undefined,
        instance: isBeat ? this.instance : undefined
      })
    )
    const late = (reserved: Reserved) => {
      if (reserved._tag === "Refused") return Effect.void
      const back = costs.map((cost, i) => cost + reserved.extra * each[i]!)
      return this.store.settle({ key: this.key, limits: this.limits, back, early: reserved.wait })
    }
    this.run(Effect.map(Effect.exit(this.health.ask("reserve", reserve, { late })), (exit) => {
      this.asking = false
      if (Exit.isFailure(exit)) {
        // Everybody in line goes on alone.
        for (const waiter of this.line.splice(0)) waiter.end(alone)
        return
      }
      if (isBeat) this.beatAt = now
      this.heard(this.line.shift()!, exit.value, each)
      this.ask()
    }))
  }

  private heard(first: Waiter, reserved: Reserved, each: Vector): void {
    const now = this.now()
    this.isAlone = false
    this.known = { levels: reserved.levels, at: now }
    if (reserved.instances !== undefined && reserved.instances !== this.instances) {
      this.instances = Math.max(1, reserved.instances)
      this.alone = undefined
    }
    if (reserved._tag === "Refused") {
      const { dimension } = this.limits[reserved.binding]!
      const left = Math.max(0, first.latest - now)
      this.refusal = {
        costs: first.costs,
        longest: left,
        until: now + Math.max(0, reserved.retryAfter - left),
        dimension
      }
      first.end({ _tag: "Refused", error: refused(dimension, reserved.retryAfter) })
      return
    }
    if (reserved.extra > 0) {
      this.addToPool(each, reserved.extra)
      this.usedAt = now
      this.watchPool()
    }
    if (first.gone && reserved.wait > 0) return this.giveBack(first.costs, reserved.wait)
    if (first.gone) return this.credit(first.costs)
    const due = now + reserved.wait
    this.lastDue = Math.max(this.lastDue, due)
    first.end(reserved.wait === 0 ? go : { _tag: "Later", due })
  }

  // --- without the store ----------------------------------------------------------

  /** The part of the limits that this process may use by itself, and at least one a second. */
  private byItself(): RateLimiter {
    const part = 1 / this.instances
    const limiter = this.alone ??= this.makeLocal({
      ...this.policy,
      limits: this.policy.limits.map((limit, i) => ({
        ...limit,
        burst: Math.max(1, this.limits[i]!.burst * part),
        rate: Math.max(0.001, this.limits[i]!.rate * part)
      }))
    })
    if (this.isAlone) return limiter
    this.isAlone = true
    const { known } = this
    const now = this.now()
    if (known !== undefined) {
      // What the others have spent is spent.
      const facts = this.limits.map(({ dimension, rate }, i) => ({
        dimension,
        remaining: Math.max(0, (known.levels[i]! + (now - known.at) * rate) * part)
      }))
      limiter.tryAcquireUnsafe(0, this.clock, now)?.observeUnsafe(facts)
    }
    for (const [i, { dimension }] of this.limits.entries()) {
      limiter.blockUnsafe(this.blockedUntil[i]! - now, now, dimension)
    }
    return limiter
  }

  // --- what is told to the store, and nobody waits for ----------------------------

  private giveBack(costs: Vector, early: number): void {
    this.run(this.settle({ back: costs, early: Math.max(0, early) }))
  }

  private settle(change: Pick<Settle, "back" | "early" | "atMost" | "block">): Effect.Effect<void> {
    const settle = Effect.suspend(() => this.store.settle({ key: this.key, limits: this.limits, ...change }))
    return Effect.ignoreCause(this.health.ask("settle", settle))
  }

  /** What is in the pool goes back when nobody has used it for a while. */
  private watchPool(): void {
    if (this.flushing === undefined) this.flushIn(IDLE)
  }

  private tell(millis: number): void {
    this.isDirty = true
    if (this.flushing === undefined || this.flushing.due > this.now() + millis) this.flushIn(millis)
  }

  private flushIn(millis: number): void {
    this.flushing?.fiber.interruptUnsafe()
    const flush: Effect.Effect<void> = Effect.suspend(() => {
      this.flushing = undefined
      const idleFor = this.now() - this.usedAt
      if (this.isDirty || idleFor >= IDLE) return this.send(idleFor >= IDLE)
      if (this.pool.some((tokens) => tokens > 0)) this.flushIn(Math.ceil(IDLE - idleFor))
      return Effect.void
    })
    const due = this.now() + millis
    // A test clock does not yield for no time at all, and the fibre must be known before it flushes.
    const sleep = millis > 0 ? this.clock.sleep(Duration.millis(millis)) : Effect.yieldNow
    this.flushing = { due, fiber: this.run(Effect.andThen(sleep, flush)) }
  }

  private send(all: boolean): Effect.Effect<void> {
    const now = this.now()
    const back = this.pool.map((tokens, i) => all || tokens < 0 ? tokens : Math.max(0, this.surplus(i)))
    const { atMost } = this
    const block = this.blocks.map((until) => Math.max(0, until - now))
    this.addToPool(back, -1)
    this.atMost = atMost.map(() => undefined)
    this.blocks = block.map(() => 0)
    this.isDirty = false
    if (this.pool.some((tokens) => tokens > 0)) this.watchPool()
    const isNothing = [...back, ...block].every((amount) => amount === 0) &&
      atMost.every((level) => level === undefined)
    return isNothing ? Effect.void : this.settle({ back, atMost, block })
  }

  /** Names this process, and learns of the others and of the levels, before anybody waits for it. */
  readonly hello: Effect.Effect<void> = Effect.suspend(() => {
    const costs = this.limits.map(() => 0)
    const { instance, key, limits } = this
    this.beatAt = this.now()
    const reserve = Effect.suspend(() => this.store.reserve({ key, limits, costs, maxWait: 0, instance }))
    return Effect.ignoreCause(Effect.map(this.health.ask("reserve", reserve), ({ instances, levels }) => {
      this.known ??= { levels, at: this.now() }
      this.instances = Math.max(this.instances, instances ?? 1)
    }))
  })

  /** Gives back what is left, when the process ends. */
  readonly leave: Effect.Effect<void> = Effect.suspend(() => {
    this.flushing?.fiber.interruptUnsafe()
    this.flushing = undefined
    return this.send(true)
  })
}

const never = (): boolean => false
const go: Outcome = { _tag: "Go" }
const alone: Outcome = { _tag: "Alone" }

const refused = (dimension: string, retryAfter: number): RateLimited =>
  withoutStack(() => new RateLimited({ dimension, retryAfter: Duration.millis(Math.max(1, Math.ceil(retryAfter))) }))

class Held extends Taken {
  readonly waited: number
  private readonly limiter: SharedLimiter
  private readonly costs: Vector
  private readonly grant: number
  private isDone = false

  constructor(limiter: SharedLimiter, costs: Vector, grant: number, waited: number) {
    super()
    this.limiter = limiter
    this.costs = costs
    this.grant = grant
    this.waited = waited
  }

  settleUnsafe(actual: Cost): void {
    this.giveBack(() => this.limiter.costs.difference(this.costs, actual))
  }

  refundUnsafe(which: "all" | "tokens"): void {
    this.giveBack(() => which === "all" ? this.costs : this.limiter.costs.withoutRequests(this.costs))
  }

  observeUnsafe(facts: ReadonlyArray<RateLimitFact>): void {
    this.limiter.observe(facts, this.grant)
  }

  private giveBack(amounts: () => Vector): void {
    if (this.isDone) return
    this.isDone = true
    this.limiter.credit(amounts())
  }
}
