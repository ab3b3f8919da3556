/**
 * Hedging: when an answer takes longer than most, ask a second time, take the answer that comes first, and give the
 * other one up (Dean and Barroso, "The Tail at Scale").
 *
 * It cuts the slowest hundredth at the price of a few more calls. What is asked twice may be done twice and is billed
 * twice, so it is off unless asked for, and not for work with effects outside.
 *
 * @since 0.2.0
 */
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Config from "effect/Config"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import { monotonicMillis } from "../internal/clock.ts"
import { attempt, duration, integer, millis, mode, optionsOf, readOptions, withDefault } from "../internal/option.ts"
import { Recent } from "../internal/recent.ts"
import { classify, type LlmConfigError } from "../LlmError.ts"
import { Alarm } from "./Timeout.ts"

// -----------------------------------------------------------------------------
// policy
// -----------------------------------------------------------------------------

/**
 * @category models
 * @since 0.2.0
 */
export interface Options {
  /**
   * How long after the start of the one before a hedge starts. `"p95"`: as long as 95 of the last 100 successes took at
   * most; fewer than 20 of them give no hedge. Default `"p95"`.
   */
  readonly delay?: Duration.Input | "p95" | undefined
  /** The least measured delay. Default 500 milliseconds. */
  readonly minDelay?: Duration.Input | undefined
  /** `shadow`: no hedge starts; that one was due is told. Default `enforce`. */
  readonly mode?: "enforce" | "shadow" | undefined
  /** Most hedges of one call. Default 1. */
  readonly maxHedges?: number | undefined
}

/**
 * The schema of {@link Options}: defaults and rules.
 *
 * @category schemas
 * @since 0.2.0
 */
export const OptionsSchema = optionsOf<Options>()({
  delay: withDefault(Schema.Union([Schema.Literal("p95"), duration()]), "p95"),
  minDelay: millis("500 millis"),
  maxHedges: integer(1, 1),
  mode: mode()
})

/**
 * Checked options; milliseconds.
 *
 * @category models
 * @since 0.2.0
 */
export type Policy = typeof OptionsSchema.Type

/**
 * Checks options; throws `LlmConfigError`.
 *
 * @category constructors
 * @since 0.2.0
 */
export const policy = (options?: Options, path = "hedge"): Policy => readOptions(OptionsSchema, options, path)

// -----------------------------------------------------------------------------
// core
// -----------------------------------------------------------------------------

const SAMPLES = 100
const ENOUGH = 20

/**
 * How long the last successes took.
 *
 * @internal
 */
export const makeSamples = (): Recent => new Recent(SAMPLES, 0.95)

/**
 * Milliseconds after which a hedge starts; `undefined` while too little is known.
 *
 * @internal
 */
export const delayOf = (policy: Policy, samples: Recent): number | undefined =>
  policy.delay !== "p95"
    ? policy.delay
    : samples.count < ENOUGH
    ? undefined
    : Math.max(samples.quantile!, policy.minDelay)

// -----------------------------------------------------------------------------
// service
// -----------------------------------------------------------------------------

/**
 * What surrounds one run: everything is optional, so that the pattern works alone. A hook that throws ends the run with
 * a defect.
 *
 * @category models
 * @since 0.2.0
 */
export interface Hooks<in E> {
  /** Is this failure worth a hedge at once, when nothing else is under way? Default: what `LlmError.classify` would retry. */
  readonly when?: ((error: E) => boolean) | undefined
  /** Pays for one hedge; `false` refuses it, and no further one is tried. Default: free. `now` is monotonic milliseconds. */
  readonly pay?: ((now: number) => boolean) | undefined
  /** A hedge starts; the first one has the number 1. */
  readonly onHedge?: ((line: number, now: number) => void) | undefined
  /** A hedge was due, and `pay` refused it, or it is in shadow mode. */
  readonly onSuppressed?: ((now: number) => void) | undefined
  /** Another one was faster: this one is about to be interrupted. */
  readonly onLost?: ((line: number, now: number) => void) | undefined
}

/**
 * Runs effects with hedges, and measures how long they take.
 *
 * @category models
 * @since 0.2.0
 */
export interface Hedge {
  /** How long it would wait now; `undefined` while too little is measured. */
  readonly delay: Effect.Effect<Duration.Duration | undefined>
  /**
   * Runs `attempt(0)`, and `attempt(1)` and so on when they are due.
   *
   * **Details**
   *
   * - The first *success* wins; how long it took by itself is measured. The others are interrupted, and the caller does
   *   not wait for their cleanup.
   * - A failure while another one is under way is only remembered. With nothing under way, a failure that `when` accepts
   *   starts the next hedge at once; otherwise the run fails, with the failures in the order of their starts.
   * - A defect, or an interruption from inside, ends the run at once.
   * - An interrupted caller interrupts them all, and waits for their cleanup.
   */
  readonly run: <A, E, R>(
    attempt: (line: number) => Effect.Effect<A, E, R>,
    hooks?: Hooks<E>
  ) => Effect.Effect<A, E, R>
  /** {@link Hedge.run} with the same effect every time. */
  readonly protect: <A, E, R>(self: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R>
}

/**
 * The service tag of hedging.
 *
 * @category services
 * @since 0.2.0
 */
export const Hedge: Context.Service<Hedge, Hedge> = Context.Service("effect-resilient-llm/Hedge")

/**
 * Makes a hedge: one value for one thing that is asked. Fails when the options are invalid.
 *
 * **Example** (The second one is faster)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { Hedge } from "effect-resilient-llm/resilience"
 *
 * const program = Effect.gen(function*() {
 *   const hedge = yield* Hedge.make({ delay: "20 millis" })
 *   return yield* hedge.run((line) => line === 0 ? Effect.never : Effect.succeed("from the hedge"))
 * })
 * await Effect.runPromise(program) // => "from the hedge"
 * ```
 *
 * @category constructors
 * @since 0.2.0
 */
export const make = (options?: Options): Effect.Effect<Hedge, LlmConfigError> =>
  attempt(() => fromPolicy(policy(options)))

/**
 * Provides one hedge.
 *
 * @category layers
 * @since 0.2.0
 */
export const layer = (options?: Options): Layer.Layer<Hedge, LlmConfigError> => Layer.effect(Hedge, make(options))

/**
 * Provides one hedge whose options come from configuration.
 *
 * @category layers
 * @since 0.2.0
 */
export const layerConfig = (
  options: Config.Wrap<Options>
): Layer.Layer<Hedge, LlmConfigError | Config.ConfigError> =>
  Layer.effect(Hedge, Effect.flatMap(Config.unwrap(options), make))

const never = (): boolean => false

/** @internal */
export const fromPolicy = (policy: Policy): Hedge => {
  const samples = makeSamples()
  const run: Hedge["run"] = (attempt, hooks = noHooks) =>
    race({
      maxHedges: policy.maxHedges,
      delay: () => delayOf(policy, samples),
      attempt,
      onWon: (_, duration) => samples.add(duration),
      hooks: policy.mode === "shadow" ? { ...hooks, when: never, pay: never } : hooks
    })
  return {
    delay: Effect.sync(() => {
      const millis = delayOf(policy, samples)
      return millis === undefined ? undefined : Duration.millis(millis)
    }),
    run,
    protect: (self) => run(() => self)
  }
}

const noHooks: Hooks<unknown> = {}

// -----------------------------------------------------------------------------
// race
// -----------------------------------------------------------------------------

/**
 * What a race runs by.
 *
 * @internal
 */
export interface Rules<A, E, R> {
  readonly maxHedges: number
  /** Milliseconds from the start of one line to that of the next; asked at each start. */
  readonly delay: () => number | undefined
  readonly attempt: (line: number) => Effect.Effect<A, E, R>
  readonly onWon: (line: number, duration: number) => void
  readonly hooks: Hooks<E>
}

/**
 * Runs lines until the first of them succeeds.
 *
 * @internal
 */
export const race = <A, E, R>(rules: Rules<A, E, R>): Effect.Effect<A, E, R> =>
  Effect.uninterruptibleMask((restore) => Effect.withFiber((fiber) => new Race(rules, fiber).run(restore)))

interface Line<A, E> {
  readonly number: number
  readonly startedAt: number
  readonly fiber: Fiber.Fiber<A, E>
}

/** One run: the lines under way, and the timer for the next one. */
class Race<A, E, R> {
  private readonly rules: Rules<A, E, R>
  private readonly hooks: Hooks<E>
  private readonly caller: Fiber.Fiber<unknown, unknown>
  private readonly clock: Clock.Clock
  private readonly alarm = new Alarm()
  private readonly lines: Array<Line<A, E>> = []
  private readonly failures: Array<Cause.Cause<E>> = []
  private open = 0
  /** How many hedges may still start, and when the next one does. */
  private hedges: number
  private due = Infinity
  private outcome: Exit.Exit<A, E> | undefined
  private resume: ((exit: Exit.Exit<A, E>) => void) | undefined

  constructor(rules: Rules<A, E, R>, caller: Fiber.Fiber<unknown, unknown>) {
    this.rules = rules
    this.hooks = rules.hooks
    this.caller = caller
    this.clock = caller.getRef(Clock.Clock)
    this.hedges = rules.maxHedges
  }

  /** The caller is uninterruptible but for the wait, so there is no line that nobody would interrupt. */
  run(restore: <B, E2, R2>(effect: Effect.Effect<B, E2, R2>) => Effect.Effect<B, E2, R2>): Effect.Effect<A, E> {
    this.start(monotonicMillis(this.clock))
    return Effect.catchCause(
      restore(Effect.callback<A, E>((resume) => {
        if (this.outcome === undefined) this.resume = resume
        else resume(this.outcome)
      })),
      (cause) =>
        this.outcome === undefined ? Effect.andThen(this.interrupt(), Effect.failCause(cause)) : Effect.failCause(cause)
    )
  }

  /** Milliseconds until the next hedge. */
  left(): number {
    return this.due - monotonicMillis(this.clock)
  }

  /** The timer went off. */
  ring(): void {
    const now = monotonicMillis(this.clock)
    if (this.due > now) return this.alarm.set(this.caller, this.clock, this)
    this.guarded(now, () => this.isPaid(now) && this.start(now))
  }

  private start(now: number): void {
    const number = this.lines.length
    const delay = this.hedges > 0 ? this.rules.delay() : undefined
    this.due = delay === undefined ? Infinity : now + delay
    this.open += 1
    const fiber = Effect.runForkWith(this.caller.context as Context.Context<R>)(
      Effect.suspend(() => this.rules.attempt(number))
    )
    const line: Line<A, E> = { number, startedAt: now, fiber }
    this.lines.push(line)
    fiber.addObserver((exit) => this.ended(line, exit))
    // One that failed at once leaves the next one its time.
    if (this.outcome === undefined) this.alarm.set(this.caller, this.clock, this)
  }

  private ended(line: Line<A, E>, exit: Exit.Exit<A, E>): void {
    if (this.outcome !== undefined) return
    this.open -= 1
    const now = monotonicMillis(this.clock)
    if (Exit.isSuccess(exit)) {
      this.rules.onWon(line.number, now - line.startedAt)
      return this.end(exit, now)
    }
    const { cause } = exit
    const [first] = cause.reasons
    // A defect, or an interruption that is not ours.
    if (first?._tag !== "Fail" || cause.reasons.some((reason) => reason._tag !== "Fail")) return this.end(exit, now)
    this.failures[line.number] = cause
    if (this.open > 0) return
    this.guarded(now, () => {
      const when = this.hooks.when ?? isTransient
      if (this.hedges > 0 && when(first.error) && this.isPaid(now)) return this.start(now)
      // All lines have failed.
      this.end(Exit.failCause(this.failures.reduce((before, cause) => Cause.combine(before, cause))), now)
    })
  }

  private isPaid(now: number): boolean {
    if (this.hooks.pay?.(now) === false) {
      this.hedges = 0
      this.hooks.onSuppressed?.(now)
      return false
    }
    this.hedges -= 1
    this.hooks.onHedge?.(this.lines.length, now)
    return true
  }

  /** Runs what calls hooks. */
  private guarded(now: number, step: () => unknown): void {
    try {
      step()
    } catch (defect) {
      this.end(Exit.die(defect), now)
    }
  }

  /** The others are told and interrupted before the caller goes on. */
  private end(exit: Exit.Exit<A, E>, now: number): void {
    this.outcome = exit
    this.alarm.cancel()
    for (const { fiber, number } of this.lines) {
      if (fiber.pollUnsafe() !== undefined) continue
      try {
        this.hooks.onLost?.(number, now)
      } catch (defect) {
        this.outcome = Exit.die(defect)
      }
      fiber.interruptUnsafe()
    }
    this.resume?.(this.outcome)
  }

  private interrupt(): Effect.Effect<void> {
    this.outcome = Exit.interrupt()
    this.alarm.cancel()
    return Fiber.interruptAll(this.lines.map(({ fiber }) => fiber))
  }
}

const isTransient = (error: unknown): boolean => classify(error).retry
