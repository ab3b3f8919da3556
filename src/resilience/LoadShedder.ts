/**
 * Turning calls away early, so that those that are let in are served.
 *
 * Two things share the name. The **throttle** looks at what the other side accepted lately and lets only so many calls
 * through that about half of them are accepted (adaptive throttling; Beyer et al., "Site Reliability Engineering",
 * chapter 21). The **doors** decide who may join a waiting line that fills up: the less urgent, the earlier they close.
 *
 * @since 0.2.0
 */
import * as Cause from "effect/Cause"
import * as Config from "effect/Config"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Random from "effect/Random"
import { monotonicMillis } from "../internal/clock.ts"
import { attempt, millis, mode, number, optionsOf, orFalse, readOptions } from "../internal/option.ts"
import * as Order from "../internal/order.ts"
import { isOverload, type LlmConfigError, Shed, withoutStack } from "../LlmError.ts"

// -----------------------------------------------------------------------------
// doors
// -----------------------------------------------------------------------------

/**
 * How urgent a call is, from the most to the least urgent.
 *
 * @category models
 * @since 0.2.0
 */
export type Priority = "critical" | "default" | "batch" | "sheddable"

/**
 * From the least to the most urgent.
 *
 * @category models
 * @since 0.2.0
 */
export const priorities: ReadonlyArray<Priority> = Order.priorities

/**
 * The share of a waiting line that may be full when a call of some priority joins it.
 *
 * @category models
 * @since 0.2.0
 */
export interface Thresholds {
  /** Default 1. */
  readonly critical?: number | undefined
  /** Default 0.9. */
  readonly default?: number | undefined
  /** Default 0.75. */
  readonly batch?: number | undefined
  /** Default 0.5. */
  readonly sheddable?: number | undefined
}

// -----------------------------------------------------------------------------
// policy
// -----------------------------------------------------------------------------

/**
 * @category models
 * @since 0.2.0
 */
export interface ThrottleOptions {
  /** How many calls are let through for one that was accepted. Default 2. */
  readonly ratio?: number | undefined
  /**
   * How far back it looks: twelve buckets, the oldest of which leaves as a whole. After a recovery the full load is back
   * within two windows. Default 1 minute.
   */
  readonly window?: Duration.Input | undefined
  /** The largest share it rejects. Below 1, so that it notices a recovery. Default 0.9. */
  readonly maxRejection?: number | undefined
}

const BUCKETS = 12

/**
 * The schema of {@link ThrottleOptions}: defaults and rules.
 *
 * @category schemas
 * @since 0.2.0
 */
export const ThrottleOptionsSchema = optionsOf<ThrottleOptions>()({
  ratio: number(2, 1),
  window: millis("1 minute", BUCKETS),
  maxRejection: number(0.9, 0, 0.99)
})

/**
 * Checked options; milliseconds.
 *
 * @category models
 * @since 0.2.0
 */
export interface ThrottlePolicy {
  readonly ratio: number
  readonly window: number
  readonly maxRejection: number
}

/**
 * Checks options; throws `LlmConfigError`.
 *
 * @category constructors
 * @since 0.2.0
 */
export const throttlePolicy = (options?: ThrottleOptions, path = "throttle"): ThrottlePolicy =>
  readOptions(ThrottleOptionsSchema, options, path)

/**
 * The schema of {@link Thresholds}: defaults and rules.
 *
 * @category schemas
 * @since 0.2.0
 */
export const ThresholdsSchema = optionsOf<Thresholds>()({
  critical: number(1, 0, 1),
  default: number(0.9, 0, 1),
  batch: number(0.75, 0, 1),
  sheddable: number(0.5, 0, 1)
})

/**
 * Checked thresholds.
 *
 * @category models
 * @since 0.2.0
 */
export type Doors = { readonly [K in Priority]: number }

/**
 * Checks thresholds; throws `LlmConfigError`.
 *
 * @category constructors
 * @since 0.2.0
 */
export const doors = (options?: Thresholds, path = "thresholds"): Doors => readOptions(ThresholdsSchema, options, path)

/**
 * What a client sheds.
 *
 * @category models
 * @since 0.2.0
 */
export interface Options {
  /** Rejects calls to a target that accepts too little. Default: on. */
  readonly throttle?: ThrottleOptions | false | undefined
  /**
   * Who may join the lines of bulkhead, client bucket and target limits; a call that may not, or that could not be served
   * before its deadline, fails at once with `Shed`, and no other target is asked. Default: on.
   */
  readonly thresholds?: Thresholds | false | undefined
  /** `shadow`: nothing is shed; what would have been is told. Default `enforce`. */
  readonly mode?: "enforce" | "shadow" | undefined
}

/**
 * The schema of {@link Options}: defaults and rules.
 *
 * @category schemas
 * @since 0.2.0
 */
export const OptionsSchema = optionsOf<Options>()({
  throttle: orFalse(ThrottleOptionsSchema),
  thresholds: orFalse(ThresholdsSchema),
  mode: mode()
})

/**
 * Checked options.
 *
 * @category models
 * @since 0.2.0
 */
export interface Policy {
  readonly throttle: ThrottlePolicy | undefined
  readonly doors: Doors | undefined
  readonly isShadow: boolean
}

/**
 * Checks options; throws `LlmConfigError`.
 *
 * @category constructors
 * @since 0.2.0
 */
export const policy = (options?: Options, path = "loadShedding"): Policy => {
  const { mode, thresholds, throttle } = readOptions(OptionsSchema, options, path)
  return {
    throttle: throttle === false ? undefined : throttle ?? throttlePolicy(),
    doors: thresholds === false ? undefined : thresholds ?? doors(),
    isShadow: mode === "shadow"
  }
}

// -----------------------------------------------------------------------------
// core
// -----------------------------------------------------------------------------

/**
 * May a call join a line with room for `capacity` waiters, of whom `length` are there?
 *
 * @category core
 * @since 0.2.0
 */
export const admits = (doors: Doors, priority: Priority, length: number, capacity: number): boolean =>
  length < capacity * doors[priority]

/**
 * Requests of one twelfth of the window, and how many of them were accepted.
 *
 * @category models
 * @since 0.2.0
 */
export interface Bucket {
  /** `floor(now / (window / 12))` */
  readonly bucket: number
  readonly requests: number
  readonly accepts: number
}

/**
 * What a throttle knows, as plain immutable data. The youngest bucket is part of the state itself.
 *
 * @category models
 * @since 0.2.0
 */
export interface Throttled extends Bucket {
  /** At most eleven older buckets, oldest first, and their sums. */
  readonly older: ReadonlyArray<Bucket>
  readonly olderRequests: number
  readonly olderAccepts: number
}

/**
 * The state of a new throttle.
 *
 * @category core
 * @since 0.2.0
 */
export const unthrottled: Throttled = {
  bucket: 0,
  requests: 0,
  accepts: 0,
  older: [],
  olderRequests: 0,
  olderAccepts: 0
}

const bucketOf = (policy: ThrottlePolicy, now: number): number => Math.floor(now / (policy.window / BUCKETS))

const advance = (policy: ThrottlePolicy, state: Throttled, now: number): Throttled => {
  const bucket = bucketOf(policy, now)
  if (bucket <= state.bucket) return state
  const { accepts, requests } = state
  const older = [...state.older, { bucket: state.bucket, requests, accepts }]
    .filter((old) => old.requests > 0 && old.bucket > bucket - BUCKETS)
  let olderRequests = 0
  let olderAccepts = 0
  for (const old of older) {
    olderRequests += old.requests
    olderAccepts += old.accepts
  }
  return { bucket, requests: 0, accepts: 0, older, olderRequests, olderAccepts }
}

/**
 * The share of calls that is to be rejected now: `(requests − ratio · accepts) / (requests + 1)`, from 0 to
 * `maxRejection`.
 *
 * @category core
 * @since 0.2.0
 */
export const rejection = (policy: ThrottlePolicy, state: Throttled, now: number): number => {
  const at = advance(policy, state, now)
  const requests = at.requests + at.olderRequests
  const accepts = at.accepts + at.olderAccepts
  return Math.min(Math.max((requests - policy.ratio * accepts) / (requests + 1), 0), policy.maxRejection)
}

/**
 * The state after a call that was accepted or not. Not accepted is what was rejected here as well as what failed of
 * overload.
 *
 * **Gotchas**
 *
 * Counted when the end is known: a call that is still under way says nothing yet, or the first calls of a slow service
 * would look like an outage.
 *
 * @category core
 * @since 0.2.0
 */
export const count = (policy: ThrottlePolicy, state: Throttled, isAccepted: boolean, now: number): Throttled => {
  const at = advance(policy, state, now)
  return {
    bucket: at.bucket,
    requests: at.requests + 1,
    accepts: at.accepts + (isAccepted ? 1 : 0),
    older: at.older,
    olderRequests: at.olderRequests,
    olderAccepts: at.olderAccepts
  }
}

/**
 * Milliseconds until the oldest knowledge may be forgotten: before that a rejected call has no better chance.
 *
 * @category core
 * @since 0.2.0
 */
export const retryAfter = (policy: ThrottlePolicy, now: number): number => {
  const length = policy.window / BUCKETS
  return Math.ceil((bucketOf(policy, now) + 1) * length - now)
}

// -----------------------------------------------------------------------------
// service
// -----------------------------------------------------------------------------

/**
 * Options of one throttle.
 *
 * @category models
 * @since 0.2.0
 */
export interface MakeOptions extends ThrottleOptions {
  /** Did the other side fail for overload? Default: `LlmError.isOverload`. */
  readonly isOverload?: ((error: unknown) => boolean) | undefined
}

/**
 * @category models
 * @since 0.2.0
 */
export interface ProtectOptions {
  /** `critical` is never rejected, but counted. Default `default`. */
  readonly priority?: Priority | undefined
}

/**
 * A throttle in front of one thing.
 *
 * @category models
 * @since 0.2.0
 */
export interface LoadShedder {
  /** The share of calls that it rejects now. */
  readonly rejection: Effect.Effect<number>
  /**
   * Runs an effect, or fails with `Shed { reason: "throttled" }`. What fails for overload counts as not accepted, what
   * succeeds or fails otherwise as accepted, interruptions and defects not at all.
   */
  readonly protect: (
    options?: ProtectOptions
  ) => <A, E, R>(self: Effect.Effect<A, E, R>) => Effect.Effect<A, E | Shed, R>
}

/**
 * The service tag of one throttle.
 *
 * @category services
 * @since 0.2.0
 */
export const LoadShedder: Context.Service<LoadShedder, LoadShedder> = Context.Service(
  "effect-resilient-llm/LoadShedder"
)

/**
 * Makes a throttle. Fails when the options are invalid.
 *
 * **Example** (A service that accepts nothing)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { LoadShedder } from "effect-resilient-llm/resilience"
 *
 * const program = Effect.gen(function*() {
 *   const shedder = yield* LoadShedder.make()
 *   const call = Effect.fail("overloaded").pipe(shedder.protect(), Effect.exit)
 *   for (let i = 0; i < 200; i++) yield* call
 *   return yield* shedder.rejection
 * })
 * await Effect.runPromise(program) // => 0.9
 * ```
 *
 * @category constructors
 * @since 0.2.0
 */
export const make = (options?: MakeOptions): Effect.Effect<LoadShedder, LlmConfigError> =>
  attempt(() => {
    const { isOverload, ...rules } = options ?? {}
    return fromPolicy(throttlePolicy(rules), isOverload)
  })

/**
 * Provides one throttle.
 *
 * @category layers
 * @since 0.2.0
 */
export const layer = (options?: MakeOptions): Layer.Layer<LoadShedder, LlmConfigError> =>
  Layer.effect(LoadShedder, make(options))

/**
 * Provides one throttle whose options come from configuration.
 *
 * @category layers
 * @since 0.2.0
 */
export const layerConfig = (
  options: Config.Wrap<ThrottleOptions>
): Layer.Layer<LoadShedder, LlmConfigError | Config.ConfigError> =>
  Layer.effect(LoadShedder, Effect.flatMap(Config.unwrap(options), make))

type Chance = (typeof Random.Random)["Service"]

/**
 * The state of one throttle.
 *
 * @internal
 */
export class Throttle {
  readonly policy: ThrottlePolicy
  private state = unthrottled
  /** Until then nothing is rejected, unless something is not accepted. */
  private quietUntil = 0

  constructor(policy: ThrottlePolicy) {
    this.policy = policy
  }

  rejection(now: number): number {
    return rejection(this.policy, this.state, now)
  }

  count(isAccepted: boolean, now: number): void {
    if (!isAccepted) this.quietUntil = 0
    this.state = count(this.policy, this.state, isAccepted, now)
  }

  /** Is this call to be rejected? Then it is counted. Chance is asked only where it decides. */
  rejects(priority: Priority, random: () => Chance, now: number): boolean {
    if (priority === "critical" || now < this.quietUntil) return false
    const share = this.rejection(now)
    // Within a bucket what is accepted makes the share no larger.
    if (share === 0) this.quietUntil = now + retryAfter(this.policy, now) - 1
    if (share === 0 || random().nextDoubleUnsafe() >= share) return false
    this.count(false, now)
    return true
  }
}

/** @internal */
export const fromPolicy = (
  policy: ThrottlePolicy,
  fails: (error: unknown) => boolean = isOverload
): LoadShedder => {
  const throttle = new Throttle(policy)
  return {
    rejection: Effect.clockWith((clock) => Effect.succeed(throttle.rejection(monotonicMillis(clock)))),
    protect: ({ priority = "default" } = {}) => <A, E, R>(self: Effect.Effect<A, E, R>) =>
      Effect.withFiber<A, E | Shed, R>((fiber) =>
        Effect.clockWith<A, E | Shed, R>((clock) => {
          const now = monotonicMillis(clock)
          if (throttle.rejects(priority, () => fiber.getRef(Random.Random), now)) return Effect.fail(shed(policy, now))
          return Effect.onExit(self, (exit) => {
            const end = monotonicMillis(clock)
            if (Exit.isSuccess(exit)) throttle.count(true, end)
            else {
              const error = Cause.findErrorOption(exit.cause)
              if (error._tag === "Some") throttle.count(!fails(error.value), end)
            }
            return Effect.void
          })
        })
      )
  }
}

/** @internal */
export const shed = (policy: ThrottlePolicy, now: number): Shed =>
  withoutStack(() => new Shed({ reason: "throttled", retryAfter: Duration.millis(retryAfter(policy, now)) }))
