/**
 * Retry with exponential backoff, by the one owner of all retries.
 *
 * Delays follow equal jitter (Brooker, "Exponential Backoff And Jitter"): attempt `k` waits
 * `c/2 + u·c/2` with `c = min(maxDelay, baseDelay·factor^(k-1))`. A server's `Retry-After` (RFC 9110 §10.2.3) is a
 * floor with jitter only above it, and a hint that is too long is not slept: the failure is final at once.
 *
 * @since 0.1.0
 */
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Pull from "effect/Pull"
import * as Random from "effect/Random"
import * as Schedule from "effect/Schedule"
import { monotonicMillis } from "../internal/clock.ts"
import { effectOf } from "../internal/effect.ts"
import { integer, millis, number, oneOf, optionsOf, readOptions, value } from "../internal/option.ts"
import {
  type AttemptTimeout,
  classify,
  isLocalRefusal,
  type ProviderError,
  retryAfterMillis,
  withBudgetExhausted
} from "../LlmError.ts"
import type { RetryBudget } from "./RetryBudget.ts"

// -----------------------------------------------------------------------------
// core
// -----------------------------------------------------------------------------

/**
 * @category models
 * @since 0.1.0
 */
export interface Options {
  /** Attempts after the first one, per target. Default 3. */
  readonly maxRetries?: number | undefined
  /** Delay before the first retry, before jitter. Default 1 second. */
  readonly baseDelay?: Duration.Input | undefined
  /** Growth per retry. Default 2. */
  readonly factor?: number | undefined
  /** Longest delay of our own. Default 60 seconds. */
  readonly maxDelay?: Duration.Input | undefined
  /** `equal`: half fixed, half random; `full`: all random; `none`. Default `equal`. */
  readonly jitter?: "equal" | "full" | "none" | undefined
  /** Longest `Retry-After` that is waited for. Default 60 seconds. */
  readonly maxRetryAfter?: Duration.Input | undefined
  /**
   * Delays by a schedule of your own instead of the backoff above; `maxRetries` still bounds it. One that fails, such as
   * `Schedule.cron` of a text that is none, is a defect.
   */
  readonly schedule?: Schedule.Schedule<unknown, unknown, unknown> | undefined
  /**
   * Is this failure of an attempt worth another one? Asked once per failure, instead of the table and of
   * `x-should-retry`; `LlmError.classify(error).retry` is what they say.
   */
  readonly when?: ((error: ProviderError | AttemptTimeout) => boolean) | undefined
}

/**
 * The schema of {@link Options}: defaults and rules.
 *
 * @category schemas
 * @since 0.2.0
 */
export const OptionsSchema = optionsOf<Options>()({
  maxRetries: integer(3),
  baseDelay: millis("1 second"),
  factor: number(2, 1),
  maxDelay: millis("60 seconds"),
  jitter: oneOf(["equal", "full", "none"], "equal"),
  maxRetryAfter: millis("60 seconds"),
  schedule: value((u): u is Schedule.Schedule<unknown, unknown, unknown> => Schedule.isSchedule(u), "a Schedule"),
  when: value((u): u is NonNullable<Options["when"]> => typeof u === "function", "a function")
})

/**
 * Only `true` is one: without types, somebody may answer with a promise.
 *
 * @internal
 */
export const isYes = (answer: unknown): boolean => answer === true

/**
 * Checked options; durations in milliseconds.
 *
 * @category models
 * @since 0.1.0
 */
export type Policy = typeof OptionsSchema.Type

/**
 * Checks options; throws `LlmConfigError`.
 *
 * @category constructors
 * @since 0.1.0
 */
export const policy = (options?: Options, path = "retry"): Policy => readOptions(OptionsSchema, options, path)

/**
 * The delay in whole milliseconds before retry `k` (1, 2, …), for a random draw `u` in [0, 1).
 *
 * @category core
 * @since 0.1.0
 */
export const backoffMillis = (policy: Policy, k: number, u: number): number => {
  const growth = Math.min(policy.factor ** Math.min(k - 1, 60), Number.MAX_VALUE)
  const ceiling = Math.min(policy.maxDelay, policy.baseDelay * growth)
  const delay = policy.jitter === "none"
    ? ceiling
    : policy.jitter === "full"
    ? u * ceiling
    : ceiling / 2 + u * ceiling / 2
  return Math.ceil(delay)
}

/**
 * The least delay that respects a server's hint: jitter goes only above it, at most a tenth or one second.
 *
 * @category core
 * @since 0.1.0
 */
export const hintMillis = (retryAfter: number, u: number): number =>
  Math.ceil(retryAfter + u * Math.min(1000, retryAfter / 10))

/**
 * Why a retryable failure is final.
 *
 * @category models
 * @since 0.1.0
 */
export type Denial = "attempts-exhausted" | "budget" | "deadline" | "retry-after" | "circuit-open" | "refused"

/**
 * What surrounds one run: everything is optional, so that the pattern works alone.
 *
 * @internal
 */
export interface Hooks<E> {
  /** May this failure be retried? Default: the table of `LlmError.classify`. */
  readonly when?: ((error: E) => boolean) | undefined
  /** Was the attempt refused before it reached anybody? Such a refusal ends the retries with the failure before it. */
  readonly isRefusal?: ((error: E) => boolean) | undefined
  /** Monotonic milliseconds at which the call must be over. */
  readonly deadlineAt?: (() => number) | undefined
  /** Longest hint to wait for right now; asked per failure. */
  readonly maxRetryAfter?: (() => number) | undefined
  /** Are all attempts used that the run shares with others? */
  readonly isSpent?: (() => boolean) | undefined
  /** Is it known already that the next attempt would be refused? */
  readonly isBlocked?: ((now: number) => boolean) | undefined
  /** Pays for one retry; `undefined` denies it. Refunded when the retry never reaches anybody. */
  readonly withdraw?: ((now: number) => Payment | undefined) | undefined
  /** How many attempts have reached somebody; without it, an attempt counts when its delay is over. */
  readonly launches?: (() => number) | undefined
  /** `now`: when the pause begins. */
  readonly onScheduled?:
    | ((error: E, delay: number, delayedBy: "backoff" | "retry-after", now: number) => void)
    | undefined
  readonly onDenied?: ((error: E, because: Denial) => void) | undefined
}

/**
 * What a retry was paid with.
 *
 * @internal
 */
export interface Payment {
  readonly refundUnsafe: () => void
}

type Step = (now: number, input: unknown) => Pull.Pull<[unknown, Duration.Duration], unknown, unknown>
/** Makes the steps of one run. */
type Steps = ReturnType<typeof stepsOf>

/**
 * Runs an effect until it succeeds or its failure is final. The failure is the last one, never an aggregate.
 *
 * **Details**
 *
 * A retry starts only if, in this order: attempts are left, the failure is retryable, nothing is known to refuse it,
 * the hint is not too long, the next start lies before the deadline, and the budget pays. Otherwise the failure is
 * final at once: nothing is slept in vain. Interruption during the delay is an interruption, not the last failure.
 *
 * @internal
 */
export const run = <A, E, R>(
  self: Effect.Effect<A, E, R>,
  policy: Policy,
  hooks: Hooks<E> = {}
): Effect.Effect<A, E, R> => retries(policy)(self, { ...hooks, again: () => self })

/**
 * What surrounds a run whose effect is made anew for each retry.
 *
 * @internal
 */
export interface Again<A, E, R> extends Hooks<E> {
  readonly again: () => Effect.Effect<A, E, R>
}

/**
 * {@link run} under one policy, for the first attempt and those that may follow.
 *
 * @internal
 */
export const retries = (policy: Policy) => {
  const steps = stepsOf(policy)
  return <A, E, R>(first: Effect.Effect<A, E, R>, hooks: Again<A, E, R>): Effect.Effect<A, E, R> =>
    Effect.catch(first, (error) => {
      const run = new Run(policy, steps, hooks, error)
      return Effect.onExitPrimitive(run.failed(error), (exit) => run.ended(exit))
    })
}

/** One run after its first failure; a run without failures costs nothing but the `catch`. */
class Run<A, E, R> {
  private readonly policy: Policy
  private readonly steps: Steps
  private readonly hooks: Again<A, E, R>
  /** The caller's fibre, which runs all of it. */
  private readonly fiber = Fiber.getCurrent()!
  /** Its services, without the metadata that an attempt sees. */
  private readonly context = this.fiber.context
  /** Attempts that have failed. */
  private k = 0
  private last: E
  private step: Step | undefined
  private payment: Payment | undefined
  private launches = 0
  /** Wall clock at the first failure and the one before. */
  private begun = 0
  private before = 0

  constructor(policy: Policy, steps: Steps, hooks: Again<A, E, R>, first: E) {
    this.policy = policy
    this.steps = steps
    this.hooks = hooks
    this.last = first
  }

  failed(error: E): Effect.Effect<A, E, R> {
    const { hooks, policy } = this
    if (this.k > 0 && (hooks.isRefusal === undefined ? isLocalRefusal(error) : hooks.isRefusal(error))) {
      this.refund()
      return this.deny(this.last, "refused")
    }
    this.k += 1
    this.last = error
    this.refund()
    if (!isYes(hooks.when === undefined ? classify(error).retry : hooks.when(error))) return Effect.fail(error)
    if (this.k > policy.maxRetries) {
      return policy.maxRetries === 0 ? Effect.fail(error) : this.deny(error, "attempts-exhausted")
    }
    if (hooks.isSpent?.() === true) return this.deny(error, "attempts-exhausted")
    return this.pause(error, this.fiber.getRef(Clock.Clock))
  }

  /** The caller's services are its own again. Interrupted in a pause: nothing was got for the payment. */
  ended(exit: Exit.Exit<A, E>): undefined {
    this.fiber.setContext(this.context)
    if (Exit.isFailure(exit) && Cause.hasInterrupts(exit.cause)) this.refund()
  }

  /** Gives the payment back, unless the retry it paid for has reached somebody. */
  private refund(): void {
    if (this.payment !== undefined && (this.hooks.launches?.() ?? 0) === this.launches) this.payment.refundUnsafe()
    this.payment = undefined
  }

  private deny(error: E, because: Denial): Effect.Effect<never, E> {
    this.hooks.onDenied?.(error, because)
    return Effect.fail(because === "budget" ? withBudgetExhausted(error) : error)
  }

  private pause(error: E, clock: Clock.Clock): Effect.Effect<A, E, R> {
    const { hooks, policy } = this
    const now = monotonicMillis(clock)
    if (hooks.isBlocked?.(now) === true) return this.deny(error, "circuit-open")
    const hint = retryAfterMillis(error)
    if (hint !== undefined && hint > Math.min(policy.maxRetryAfter, hooks.maxRetryAfter?.() ?? Infinity)) {
      return this.deny(error, "retry-after")
    }
    // As Effect drives schedules: by the wall clock, so that those that read it (`cron`) mean what they say.
    const wall = clock.currentTimeMillisUnsafe()
    const stepped = this.step === undefined
      ? Effect.flatMap(this.steps, (step) => (this.step = step)(wall, error))
      : this.step(wall, error)
    return Effect.matchCauseEffectEager(stepped, {
      onSuccess: ([output, delay]) => this.sleep(error, now, wall, output, delay, clock),
      onFailure: (cause) =>
        Pull.isDoneCause(cause) ? this.deny(error, "attempts-exhausted") : Effect.die(Cause.squash(cause))
    })
  }

  private sleep(
    error: E,
    now: number,
    wall: number,
    output: unknown,
    duration: Duration.Duration,
    clock: Clock.Clock
  ): Effect.Effect<A, E, R> {
    const { hooks } = this
    const delay = Math.ceil(Duration.toMillis(duration))
    if (now + delay >= (hooks.deadlineAt?.() ?? Infinity)) return this.deny(error, "deadline")
    if (hooks.withdraw !== undefined) {
      this.payment = hooks.withdraw(now)
      if (this.payment === undefined) return this.deny(error, "budget")
      this.launches = hooks.launches?.() ?? 0
    }
    hooks.onScheduled?.(error, delay, hinted.has(duration) ? "retry-after" : "backoff", now)
    if (this.k === 1) this.begun = this.before = wall
    const metadata: Schedule.Metadata = {
      input: error,
      output,
      duration,
      attempt: this.k,
      start: this.begun,
      now: wall,
      elapsed: wall - this.begun,
      elapsedSincePrevious: wall - this.before
    }
    this.before = wall
    return Effect.flatMap(clock.sleep(duration), () => {
      if (hooks.launches === undefined) this.payment = undefined
      const next = hooks.again()
      this.fiber.setContext(Context.add(this.context, Schedule.CurrentMetadata, metadata))
      return Effect.catch(next, (error) => {
        this.fiber.setContext(this.context)
        return this.failed(error)
      })
    })
  }
}

// -----------------------------------------------------------------------------
// combinator and schedule
// -----------------------------------------------------------------------------

/**
 * Retries any effect: by options, or by a `Schedule` of your own.
 *
 * **Details**
 *
 * By default `LlmError.classify` decides what is retried: our own final failures are not, and a failure that is not
 * ours counts as transient. `when` overrides that.
 *
 * **Gotchas**
 *
 * Throws `LlmConfigError` when the options are invalid.
 *
 * **Example** (Two failures, then an answer)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { Retry } from "effect-resilient-llm/resilience"
 *
 * let calls = 0
 * const flaky = Effect.suspend(() => ++calls < 3 ? Effect.fail("busy") : Effect.succeed("answer"))
 * await Effect.runPromise(flaky.pipe(Retry.retry({ baseDelay: "1 milli" }))) // => "answer"
 * calls // => 3
 * ```
 *
 * @category combinators
 * @since 0.1.0
 */
export const retry = <E = unknown>(
  options:
    | (Omit<Options, "when"> & {
      readonly when?: ((error: E) => boolean) | undefined
      /** Pays for each retry; the first attempt fills it. */
      readonly budget?: RetryBudget | undefined
    })
    | Schedule.Schedule<unknown, E>
) => {
  const { budget, when, ...rest } = Schedule.isSchedule(options)
    ? {
      budget: undefined,
      when: undefined,
      schedule: options as Schedule.Schedule<unknown>,
      maxRetries: Number.MAX_SAFE_INTEGER
    }
    : options
  // By the schema, not by `policy`: this `when` judges errors that a client's options do not know.
  const retrying = retries(readOptions(OptionsSchema, { ...rest, when }, ""))
  return <A, E1 extends E, R>(self: Effect.Effect<A, E1, R>): Effect.Effect<A, E1, R> => {
    const run = retrying(self, { when, withdraw: budget?.withdrawUnsafe, again: () => self })
    return budget === undefined ? run : Effect.andThen(budget.deposit, run)
  }
}

/**
 * The backoff as a `Schedule`, for use with `Effect.retry` and everything else that takes one. It is the one that
 * {@link run} and the pipeline step. Each step's output is its delay.
 *
 * **Details**
 *
 * A `retryAfter` of the failing error is respected as a floor; a hint above `maxRetryAfter` ends the schedule. A
 * `schedule` of your own is bounded by both, and by `maxRetries`.
 *
 * @category schedules
 * @since 0.1.0
 */
export const schedule = (options?: Options): Schedule.Schedule<Duration.Duration> =>
  Schedule.fromStep(
    Effect.map(stepsOf(policy(options)), (step) => (now: number, input: unknown) =>
      Effect.suspend(() => step(now, input)))
  )

/** Delays that a hint has decided. */
const hinted = new WeakSet<Duration.Duration>()

const stepsOf = (policy: Policy): Effect.Effect<ReturnType<typeof stepOf>> =>
  policy.schedule === undefined
    ? Effect.sync(() => stepOf(policy, undefined))
    : Effect.map(Schedule.toStep(policy.schedule), (own) => stepOf(policy, own))

const stepOf = (policy: Policy, own: Step | undefined) => {
  let k = 0
  const decide = (backoff: number, hint: number | undefined, u: number): Delayed => {
    const floor = hint === undefined ? 0 : hintMillis(hint, u)
    const delay = Duration.millis(Math.max(backoff, floor))
    if (floor > backoff) hinted.add(delay)
    return Effect.succeed([delay, delay])
  }
  return (now: number, input: unknown): Delayed => {
    k += 1
    const hint = retryAfterMillis(input)
    if (k > policy.maxRetries || (hint !== undefined && hint > policy.maxRetryAfter)) return Cause.done(Duration.zero)
    // Steps are asked for where they are run, so there is a fibre.
    const u = Fiber.getCurrent()!.getRef(Random.Random).nextDoubleUnsafe()
    return own === undefined
      ? decide(backoffMillis(policy, k, u), hint, u)
      : Effect.matchCauseEffect(effectOf(own(now, input), "schedule"), {
        onSuccess: ([, duration]) => decide(Math.ceil(Duration.toMillis(duration)), hint, u),
        onFailure: (cause) => Pull.isDoneCause(cause) ? Cause.done(Duration.zero) : Effect.die(Cause.squash(cause))
      })
  }
}

type Delayed = Pull.Pull<[Duration.Duration, Duration.Duration], never, Duration.Duration>
