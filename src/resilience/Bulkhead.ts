/**
 * A bound on what is in flight, with a bounded waiting line: the more urgent first, tenants in turn, and of one tenant first
 * come, first served. Weights never overtake.
 *
 * @since 0.1.0
 */
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Config from "effect/Config"
import * as Context from "effect/Context"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import { monotonicMillis } from "../internal/clock.ts"
import { kindOf } from "../internal/issue.ts"
import { type Restore, Waiter, WaitingLine } from "../internal/line.ts"
import { attempt, integer, millis, optionsOf, readOptions } from "../internal/option.ts"
import { BulkheadFull, isOverload, LlmConfigError, withoutStack } from "../LlmError.ts"
import * as AdaptiveConcurrency from "./AdaptiveConcurrency.ts"
import type { Priority } from "./LoadShedder.ts"

// -----------------------------------------------------------------------------
// options
// -----------------------------------------------------------------------------

/**
 * @category models
 * @since 0.1.0
 */
export interface Options {
  /** Most weight in flight. Default 20; with `adaptive` that one's `max` counts. */
  readonly maxConcurrent?: number | undefined
  /**
   * Finds out how much may be in flight: more after successes, less when the other side is overloaded
   * (`AdaptiveConcurrency`). `true`: with its defaults. Default `false`.
   */
  readonly adaptive?: boolean | AdaptiveConcurrency.Options | undefined
  /** Most waiters. Default 100. */
  readonly queue?: number | undefined
  /** Longest wait. `0` never waits. Default 30 seconds. */
  readonly maxWait?: Duration.Input | undefined
}

/**
 * The schema of {@link Options}: defaults and rules.
 *
 * @category schemas
 * @since 0.2.0
 */
export const OptionsSchema = optionsOf<Options>()({
  maxConcurrent: integer(20, 1),
  adaptive: Schema.optional(
    Schema.Union([AdaptiveConcurrency.OptionsSchema, Schema.Boolean]).annotate({
      expected: "an object of options, true or false"
    })
  ),
  queue: integer(100),
  maxWait: millis("30 seconds")
})

/**
 * Checked options; milliseconds.
 *
 * @category models
 * @since 0.1.0
 */
export interface Policy {
  /** To begin with. */
  readonly maxConcurrent: number
  readonly adaptive: AdaptiveConcurrency.Policy | undefined
  readonly queue: number
  readonly maxWait: number
}

/**
 * Checks options; throws `LlmConfigError`.
 *
 * @category constructors
 * @since 0.1.0
 */
export const policy = (options?: Options, path = "bulkhead"): Policy => {
  const { adaptive, ...rules } = readOptions(OptionsSchema, options, path)
  if (adaptive === undefined || adaptive === false) return { ...rules, adaptive: undefined }
  const policy = AdaptiveConcurrency.withInitial(adaptive === true ? AdaptiveConcurrency.policy() : adaptive)
  return { ...rules, maxConcurrent: policy.initial, adaptive: policy }
}

// -----------------------------------------------------------------------------
// service
// -----------------------------------------------------------------------------

/**
 * A place inside. It is held until `release`, which counts once, may be run at any time, and lets the first waiter in.
 *
 * @category models
 * @since 0.1.0
 */
export interface Permit {
  /** Milliseconds spent in the line. */
  readonly waited: number
  readonly release: Effect.Effect<void>
  /** @internal */
  readonly releaseUnsafe: () => void
  /**
   * What the end of its call says about the load, before the release. It moves the bound of an adaptive bulkhead.
   *
   * @internal
   */
  readonly recordUnsafe: (outcome: AdaptiveConcurrency.Outcome) => void
}

/**
 * @category models
 * @since 0.1.0
 */
export interface AcquireOptions {
  /** How many places it takes: a whole number of at least 1. Default 1. */
  readonly weight?: number | undefined
  /**
   * Milliseconds; limits the wait further, such as the time left until a deadline. A function is asked again when its
   * time is over, for deadlines that move.
   */
  readonly maxWait?: number | (() => number) | undefined
  /** In the line the more urgent go first. Who has waited for 30 seconds rises a class. Default `default`. */
  readonly priority?: Priority | undefined
  /**
   * In the line tenants of one class take turns; a full one makes room for a tenant that has fewer in it than another. No
   * tenant counts as one.
   */
  readonly tenant?: string | undefined
  /** @internal */
  readonly onDisplaced?: (() => void) | undefined
  /** Runs in the step that hands the permit over, before anything can interrupt. */
  readonly onAcquired?: ((permit: Permit) => void) | undefined
  /** What the wait runs in, when the caller is uninterruptible: the `restore` of its `Effect.uninterruptibleMask`. */
  readonly restore?: Restore | undefined
}

/**
 * The state at one moment.
 *
 * @category models
 * @since 0.1.0
 */
export interface Snapshot {
  /** Weight inside. Above `maxConcurrent` only after a `resize` to less. */
  readonly inUse: number
  readonly maxConcurrent: number
  /** Waiters in the line. */
  readonly queued: number
  /** Waiters the line has room for. */
  readonly maxQueued: number
}

const TypeId = "~effect-resilient-llm/Bulkhead"

/**
 * A bulkhead: one value bounds one thing. Use one per target.
 *
 * @category models
 * @since 0.1.0
 */
export interface Bulkhead {
  readonly [TypeId]: typeof TypeId
  /**
   * Takes a permit, after a wait if necessary.
   *
   * **Details**
   *
   * Fails with `BulkheadFull` when the line is full, when the wait was too long, or at once when the weight exceeds
   * `maxConcurrent`.
   *
   * **Gotchas**
   *
   * Between the grant and the next step of an interruptible fibre, an interruption loses the permit. Use
   * {@link Bulkhead.protect}, or acquire in an uninterruptible region (`restore`, `onAcquired`, `Effect.acquireRelease`).
   * A weight that is not a whole number of at least 1 is a defect.
   */
  readonly acquire: (options?: AcquireOptions) => Effect.Effect<Permit, BulkheadFull>
  /**
   * {@link Bulkhead.acquire} with weight 1 if that needs no wait; else `undefined`, and nothing happened.
   *
   * @internal
   */
  readonly tryAcquireUnsafe: () => Permit | undefined
  /**
   * By which it was made.
   *
   * @internal
   */
  readonly policy: Policy
  /** @internal */
  readonly isAdaptive: boolean
  /**
   * What somebody who came now would find: waiters, room for them, whether one would leave for it, and about how many
   * milliseconds to wait, if the line has moved lately.
   *
   * @internal
   */
  readonly lineUnsafe: (
    rank: Pick<AcquireOptions, "priority" | "tenant">,
    now: number
  ) => {
    readonly queued: number
    readonly maxQueued: number
    readonly displaces: () => boolean
    readonly wait: number | undefined
  }
  /** Runs an effect inside: the permit is held until the effect and its finalizers have ended. */
  readonly protect: <A, E, R>(self: Effect.Effect<A, E, R>) => Effect.Effect<A, E | BulkheadFull, R>
  /**
   * Changes the bound. Permits are never revoked; waiters that are heavier than the new bound fail at once.
   */
  readonly resize: (maxConcurrent: number) => Effect.Effect<void, LlmConfigError>
  readonly snapshot: Effect.Effect<Snapshot>
}

/**
 * Is it a bulkhead?
 *
 * @category guards
 * @since 0.2.0
 */
export const isBulkhead = (u: unknown): u is Bulkhead =>
  typeof u === "object" && u !== null && (u as { readonly [TypeId]?: unknown })[TypeId] === TypeId

class Wall implements Bulkhead {
  readonly [TypeId] = TypeId
  readonly policy: Policy
  private maxConcurrent: number
  private readonly maxWait: number
  private readonly queue: number
  private readonly adaptive: AdaptiveConcurrency.Policy | undefined
  private limit: AdaptiveConcurrency.State | undefined
  private inUse = 0
  private readonly pace = new Pace()
  /** Waiters want a weight. */
  private readonly line: WaitingLine<number, Permit, BulkheadFull>

  constructor(policy: Policy) {
    this.policy = policy
    this.maxConcurrent = policy.maxConcurrent
    this.adaptive = policy.adaptive
    this.limit = policy.adaptive && AdaptiveConcurrency.initial(policy.adaptive)
    this.maxWait = policy.maxWait
    this.queue = policy.queue
    this.line = new WaitingLine({
      serve: (first, now) => {
        if (!this.fits(first.wants)) return Infinity
        this.pace.step(now)
        this.line.end(first, Exit.succeed(this.grant(first.wants, now - first.arrived)))
        if (this.line.size === 0) this.pace.forget()
        return 0
      },
      undo: (permit) => permit.releaseUnsafe()
    })
  }

  readonly acquire: Bulkhead["acquire"] = (options) =>
    Effect.withFiber((fiber) => {
      const weight = options?.weight ?? 1
      if (!isCount(weight)) return Effect.die(new RangeError("The weight must be a whole number of at least 1."))
      if (weight > this.maxConcurrent) return Effect.fail(withoutStack(() => new BulkheadFull({})))
      if (this.isFree(weight)) return Effect.succeed(handOver(this.grant(weight, 0), options))
      return Effect.uninterruptibleMask((restore) => this.lineUp(fiber, weight, options?.restore ?? restore, options))
    })

  readonly tryAcquireUnsafe: Bulkhead["tryAcquireUnsafe"] = () => this.isFree(1) ? this.grant(1, 0) : undefined

  get isAdaptive(): boolean {
    return this.adaptive !== undefined
  }

  readonly lineUnsafe: Bulkhead["lineUnsafe"] = (rank, now) => {
    let ahead = 0
    const { millis } = this.pace
    if (millis !== undefined) this.line.ahead(rank, now, () => ++ahead > 0)
    return {
      queued: this.line.size,
      maxQueued: this.queue,
      displaces: () => this.line.canDisplace(rank),
      wait: millis && millis * (ahead + 1)
    }
  }

  readonly protect: Bulkhead["protect"] = (self) =>
    Effect.uninterruptibleMask((restore) =>
      Effect.flatMap(
        this.acquire({ restore }),
        (permit) =>
          Effect.onExit(restore(self), (exit) => {
            if (this.adaptive !== undefined) permit.recordUnsafe(outcomeOf(exit))
            permit.releaseUnsafe()
            return Effect.void
          })
      )
    )

  readonly resize: Bulkhead["resize"] = (maxConcurrent) =>
    Effect.suspend(() => {
      if (!isCount(maxConcurrent)) {
        const rule = "a whole number of at least 1"
        return Effect.fail(new LlmConfigError({ path: "maxConcurrent", rule, kind: kindOf(maxConcurrent) }))
      }
      this.bound(maxConcurrent)
      return Effect.void
    })

  readonly snapshot: Bulkhead["snapshot"] = Effect.sync(() => ({
    inUse: this.inUse,
    maxConcurrent: this.maxConcurrent,
    queued: this.line.size,
    maxQueued: this.queue
  }))

  private bound(maxConcurrent: number): void {
    this.maxConcurrent = maxConcurrent
    // oxlint-disable-next-line unicorn/no-useless-spread -- ending a wait changes the line
    for (const waiter of [...this.line]) {
      if (waiter.wants > maxConcurrent) this.line.end(waiter, Exit.fail(new BulkheadFull({})))
    }
    this.line.changed()
  }

  get epoch(): number {
    return this.limit?.epoch ?? 0
  }

  record(epoch: number, outcome: AdaptiveConcurrency.Outcome): void {
    const before = this.limit
    if (before === undefined) return
    this.limit = AdaptiveConcurrency.record(this.adaptive!, before, epoch, outcome, this.inUse)
    if (this.limit.limit !== before.limit) this.bound(this.limit.limit)
  }

  private fits(weight: number): boolean {
    return this.inUse + weight <= this.maxConcurrent
  }

  private isFree(weight: number): boolean {
    return this.line.size === 0 && this.fits(weight)
  }

  private grant(weight: number, waited: number): Permit {
    this.inUse += weight
    return new Held(this, weight, waited)
  }

  private hasRoom(options: AcquireOptions | undefined): boolean {
    return this.line.size < this.queue || this.line.displace(options, () => new BulkheadFull({}))
  }

  private lineUp(
    fiber: Fiber.Fiber<unknown, unknown>,
    weight: number,
    restore: Restore,
    options: AcquireOptions | undefined
  ): Effect.Effect<Permit, BulkheadFull> {
    if (this.isFree(weight)) return Effect.succeed(handOver(this.grant(weight, 0), options))
    const clock = fiber.getRef(Clock.Clock)
    const arrived = monotonicMillis(clock)
    const own = options?.maxWait ?? Infinity
    const patience = (): number => {
      const waited = monotonicMillis(clock) - arrived
      return Math.min(this.maxWait - waited, typeof own === "number" ? own - waited : own())
    }
    if (!(patience() > 0) || !this.hasRoom(options)) return Effect.fail(withoutStack(() => new BulkheadFull({})))
    const waiter = new Waiter<number, Permit, BulkheadFull>(weight, options, clock, arrived, fiber)
    const tired: Effect.Effect<never, BulkheadFull> = Effect.suspend(() => {
      const left = patience()
      return left > 0 ? Effect.flatMap(Effect.sleep(Math.ceil(left)), () => tired) : Effect.fail(new BulkheadFull({}))
    })
    return Effect.map(this.line.join(waiter, restore, tired), (permit) => handOver(permit, options))
  }

  leave(weight: number): void {
    this.inUse -= weight
    if (this.line.size > 0) this.line.changed()
  }
}

/** How fast a line moves: the mean time between two grants, in which the last ones count most. */
class Pace {
  millis: number | undefined
  private last: number | undefined

  step(now: number): void {
    if (this.last !== undefined) {
      const gap = now - this.last
      this.millis = this.millis === undefined ? gap : this.millis + (gap - this.millis) / 8
    }
    this.last = now
  }

  /** Nobody waits: how long it took will say nothing about the next line. */
  forget(): void {
    this.millis = this.last = undefined
  }
}

const isCount = (value: unknown): value is number => Number.isInteger(value) && value as number >= 1

const handOver = (permit: Permit, options: AcquireOptions | undefined): Permit => {
  try {
    options?.onAcquired?.(permit)
  } catch (defect) {
    // Nobody got it.
    permit.releaseUnsafe()
    throw defect
  }
  return permit
}

/** A failure counts as `LlmError.isOverload` has it. */
const outcomeOf = (exit: Exit.Exit<unknown, unknown>): AdaptiveConcurrency.Outcome => {
  if (Exit.isSuccess(exit)) return "success"
  const error = Cause.findErrorOption(exit.cause)
  return error._tag === "Some" && isOverload(error.value) ? "overload" : "neutral"
}

class Held implements Permit {
  readonly waited: number
  private readonly wall: Wall
  private readonly epoch: number
  private weight: number

  constructor(wall: Wall, weight: number, waited: number) {
    this.wall = wall
    this.weight = weight
    this.waited = waited
    this.epoch = wall.epoch
  }

  get release(): Effect.Effect<void> {
    return Effect.sync(() => this.releaseUnsafe())
  }

  recordUnsafe(outcome: AdaptiveConcurrency.Outcome): void {
    if (this.weight > 0) this.wall.record(this.epoch, outcome)
  }

  releaseUnsafe(): void {
    const weight = this.weight
    this.weight = 0
    this.wall.leave(weight)
  }
}

/**
 * The service tag of one bulkhead.
 *
 * @category services
 * @since 0.1.0
 */
export const Bulkhead: Context.Service<Bulkhead, Bulkhead> = Context.Service("effect-resilient-llm/Bulkhead")

/** @internal */
export const fromPolicy = (policy: Policy): Bulkhead => new Wall(policy)

/**
 * Makes a bulkhead.
 *
 * **Example** (One at a time, one in the line)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { Bulkhead } from "effect-resilient-llm/resilience"
 *
 * const program = Effect.gen(function*() {
 *   const bulkhead = yield* Bulkhead.make({ maxConcurrent: 1, queue: 1 })
 *   const call = Effect.sleep("10 millis").pipe(
 *     Effect.as("ok"),
 *     bulkhead.protect,
 *     Effect.catchTag("BulkheadFull", (error) => Effect.succeed(error._tag))
 *   )
 *   return yield* Effect.all([call, call, call], { concurrency: "unbounded" })
 * })
 * await Effect.runPromise(program) // => ["ok", "ok", "BulkheadFull"]
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = (options?: Options): Effect.Effect<Bulkhead, LlmConfigError> =>
  attempt(() => fromPolicy(policy(options)))

/**
 * Provides one bulkhead.
 *
 * @category layers
 * @since 0.1.0
 */
export const layer = (options?: Options): Layer.Layer<Bulkhead, LlmConfigError> => Layer.effect(Bulkhead, make(options))

/**
 * Provides one bulkhead whose options come from configuration.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerConfig = (
  options: Config.Wrap<Options>
): Layer.Layer<Bulkhead, LlmConfigError | Config.ConfigError> =>
  Layer.effect(Bulkhead, Effect.flatMap(Config.unwrap(options), make))
