/**
 * Time limits with typed errors: per attempt, per first token, per silence between tokens, and for the whole call.
 *
 * When a limit passes, the caller is released at once and the loser's cleanup goes on in its own fibre; a caller that
 * is interrupted waits for the cleanup. (`Effect.timeout` makes the caller wait for the loser's finalizers, and for
 * uninterruptible work.)
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
import * as Stream from "effect/Stream"
import { monotonicMillis } from "../internal/clock.ts"
import {
  duration as durationOption,
  millisOrOff,
  millisOrOffIfGiven,
  optionsOf,
  readOption,
  readOptions
} from "../internal/option.ts"
import { AttemptTimeout, DeadlineExceeded } from "../LlmError.ts"

// -----------------------------------------------------------------------------
// policy
// -----------------------------------------------------------------------------

/**
 * Each limit can be `false` for none.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options {
  /** One attempt: a whole `complete`, a stream up to its first content part. Default 60 seconds. */
  readonly attempt?: Duration.Input | false | undefined
  /**
   * From the start of a stream's attempt to its first content part. Default: `attempt`. A stream begins in seconds where
   * a whole answer takes a minute, so it can be given up earlier.
   */
  readonly firstToken?: Duration.Input | false | undefined
  /** Silence between content parts while the consumer is waiting. Default 60 seconds. */
  readonly idle?: Duration.Input | false | undefined
  /** The whole call with all its waits, retries and targets. Default 5 minutes. */
  readonly deadline?: Duration.Input | false | undefined
}

/**
 * The schema of {@link Options}: defaults and rules.
 *
 * @category schemas
 * @since 0.2.0
 */
export const OptionsSchema = optionsOf<Options>()({
  attempt: millisOrOff("60 seconds"),
  firstToken: millisOrOffIfGiven(),
  idle: millisOrOff("60 seconds"),
  deadline: millisOrOff("5 minutes")
})

/**
 * Checked options: milliseconds, `Infinity` for none.
 *
 * @category models
 * @since 0.1.0
 */
export interface Policy {
  readonly attempt: number
  readonly firstToken: number
  readonly idle: number
  readonly deadline: number
}

/**
 * Checks options; throws `LlmConfigError`.
 *
 * @category constructors
 * @since 0.1.0
 */
export const policy = (options?: Options, path = "timeout"): Policy => {
  const { firstToken, ...limits } = readOptions(OptionsSchema, options, path)
  return { ...limits, firstToken: firstToken ?? limits.attempt }
}

// -----------------------------------------------------------------------------
// kernel
// -----------------------------------------------------------------------------

const MAX_TIMER = 2 ** 31 - 1

let defaultClock: Clock.Clock | undefined
/** The clock of a fibre that was given none. `Clock.Clock.defaultValue()` would make another object. */
const isDefaultClock = (clock: Clock.Clock): boolean =>
  clock === (defaultClock ??= Context.get(Context.empty(), Clock.Clock))

/**
 * Who waits for a timer.
 *
 * @internal
 */
export interface Waiting {
  /** Milliseconds it may still take. */
  readonly left: () => number
  /** The timer went off. */
  readonly ring: () => void
}

/**
 * A timer. It serves many short waits in a row, such as the pulls of a stream: it is not started anew for each of them,
 * and whoever waits when it goes off says how long it still takes.
 *
 * @internal
 */
export class Alarm {
  private waiting: Waiting | undefined
  /** What runs: a bare timer, or a sleeping fibre and what makes it forget us. */
  private timer: Parameters<typeof clearTimeout>[0]
  private sleeper: Fiber.Fiber<void> | undefined
  private forget: (() => void) | undefined

  /** `waiting.ring` is called after `left()` milliseconds, or earlier when the timer runs for an earlier wait. */
  set(caller: { readonly context: Context.Context<never> }, clock: Clock.Clock, waiting: Waiting): void {
    this.waiting = waiting
    if (this.timer !== undefined || this.sleeper !== undefined) return
    const left = waiting.left()
    if (!Number.isFinite(left)) return
    const millis = Math.min(Math.ceil(Math.max(left, 0)), MAX_TIMER)
    if (isDefaultClock(clock)) {
      // A bare timer costs a tenth of a sleeping fibre; both run the same vectors.
      // oxlint-disable-next-line eslint/no-restricted-globals
      this.timer = setTimeout(goOff, millis, this)
      return
    }
    this.sleeper = Effect.runForkWith(caller.context)(clock.sleep(Duration.millis(millis)))
    this.forget = this.sleeper.addObserver((exit) => {
      if (Exit.isSuccess(exit)) goOff(this)
    })
  }

  /** Nobody waits; the timer runs on. */
  unset(): void {
    this.waiting = undefined
  }

  /** Nobody waits, and the timer stops. */
  cancel(): void {
    clearTimeout(this.timer)
    this.forget?.()
    this.sleeper?.interruptUnsafe()
    this.waiting =
      this.timer =
      this.sleeper =
      this.forget =
        undefined
  }

  /** It has gone off. */
  end(): void {
    this.timer = this.sleeper = this.forget = undefined
    this.waiting?.ring()
  }
}

const goOff = (alarm: Alarm): void => alarm.end()

/**
 * The kernel of every limit: runs an effect in a fibre of its own, under a timer that can be extended while it runs.
 *
 * **Details**
 *
 * - `left(now)` is asked when the effect suspends and whenever the timer fires; a positive answer re-arms it,
 *   `Infinity` needs no timer. An effect that completes synchronously never starts one.
 * - `expired` makes the error, and gets the fibre of the loser. It runs before that is interrupted; then the caller is
 *   released without waiting for it.
 *
 * @internal
 */
export const bounded = <A, E, R, E2>(
  self: Effect.Effect<A, E, R>,
  left: (now: number) => number,
  expired: Expired<E2>
): Effect.Effect<A, E | E2, R> => Effect.uninterruptibleMask((restore) => boundedIn(restore, self, left, expired))

/** @internal */
export type Expired<out E> = (now: number, loser: Fiber.Fiber<unknown, unknown>) => E

/**
 * {@link bounded} for a caller that is uninterruptible already, because it holds something that it must release: there is
 * no moment at which it can be interrupted before `self` has started. `self` itself may be interrupted.
 *
 * @internal
 */
export const boundedIn = <A, E, R, E2>(
  restore: <B, E3, R3>(effect: Effect.Effect<B, E3, R3>) => Effect.Effect<B, E3, R3>,
  self: Effect.Effect<A, E, R>,
  left: (now: number) => number,
  expired: Expired<E2>
): Effect.Effect<A, E | E2, R> =>
  Effect.withFiber<A, E | E2, R>((parent) => {
    const child = Effect.runForkWith(parent.context as Context.Context<R>)(self)
    const done = child.pollUnsafe()
    if (done !== undefined) return done
    const limited = new Limited(parent, child, left, expired)
    // Nothing in here can be interrupted but the wait, so this is `onInterrupt`, at no cost for what succeeds.
    return Effect.catchCause(
      restore(Effect.callback<A, E | E2>((resume) => limited.wait(resume))),
      (cause) =>
        Cause.hasInterrupts(cause)
          ? Effect.andThen(limited.interrupt(), Effect.failCause(cause))
          : Effect.failCause(cause)
    )
  })

/** An effect that has suspended, and the caller that waits for it or for the timer. */
class Limited<A, E, E2> implements Waiting {
  private readonly caller: Fiber.Fiber<unknown, unknown>
  private readonly child: Fiber.Fiber<A, E>
  private readonly remaining: (now: number) => number
  private readonly expired: Expired<E2>
  private readonly clock: Clock.Clock
  private readonly alarm = new Alarm()
  private resume: ((effect: Effect.Effect<A, E | E2>) => void) | undefined
  private forget: (() => void) | undefined

  constructor(
    caller: Fiber.Fiber<unknown, unknown>,
    child: Fiber.Fiber<A, E>,
    remaining: (now: number) => number,
    expired: Expired<E2>
  ) {
    this.caller = caller
    this.child = child
    this.remaining = remaining
    this.expired = expired
    this.clock = caller.getRef(Clock.Clock)
  }

  wait(resume: (effect: Effect.Effect<A, E | E2>) => void): void {
    this.resume = resume
    this.forget = this.child.addObserver((exit) => {
      this.alarm.cancel()
      resume(exit)
    })
    // It may have ended before there was a timer to cancel.
    if (this.child.pollUnsafe() !== undefined) return
    this.alarm.set(this.caller, this.clock, this)
  }

  left(): number {
    return this.remaining(monotonicMillis(this.clock))
  }

  ring(): void {
    const now = monotonicMillis(this.clock)
    if (this.remaining(now) > 0) return this.alarm.set(this.caller, this.clock, this)
    this.forget!()
    const error = this.expired(now, this.child)
    this.child.interruptUnsafe()
    this.resume!(Effect.fail(error))
  }

  interrupt(): Effect.Effect<void> {
    this.alarm.cancel()
    return Fiber.interrupt(this.child)
  }
}

/**
 * Who waits for an effect that is run again and again, such as the pull of a stream, and what it may take each time.
 *
 * @internal
 */
export interface Limits<out E> {
  /** The one timer of all runs; whoever gave it cancels it. */
  readonly alarm: Alarm
  readonly clock: Clock.Clock
  readonly left: (now: number) => number
  readonly expired: (now: number) => E
  /** A run was given up. */
  readonly interrupted: (now: number) => void
}

/**
 * {@link bounded} for an effect that is run again and again, one run at a time. A fibre lives on from one run to the next
 * when whoever got a result asks for another before it does anything else: to make a fibre costs more than to go on in one.
 *
 * @internal
 */
export class Repeated<A, E, E2> implements Waiting {
  /** The next run. */
  readonly next: Effect.Effect<A, E | E2> = Effect.callback((resume) => this.ask(resume))
  /** In which it runs. */
  readonly context: Context.Context<never>
  private readonly limits: Limits<E2>
  private readonly run: Effect.Effect<A, E>
  private fiber: Fiber.Fiber<A, E> | undefined
  /** Who waits. */
  private resume: ((effect: Effect.Effect<A, E | E2>) => void) | undefined
  /** A result is being handed over; is another one wanted from the same fibre? */
  private handing: "no" | "yes" | "again" = "no"

  constructor(context: Context.Context<never>, self: Effect.Effect<A, E>, limits: Limits<E2>) {
    this.context = context
    this.limits = limits
    this.run = Effect.flatMap(self, (value) => this.handOver(value))
  }

  /** Ends the run that somebody waits for, and with it the wait. */
  end(): void {
    if (this.resume !== undefined) this.fiber!.interruptUnsafe()
  }

  private ask(resume: (effect: Effect.Effect<A, E | E2>) => void): Effect.Effect<void> | void {
    if (this.handing === "yes") this.handing = "again"
    else {
      const fiber = Effect.runForkWith(this.context)(this.run)
      const done = fiber.pollUnsafe()
      if (done !== undefined) return resume(done)
      this.fiber = fiber
      fiber.addObserver((exit) => {
        if (this.fiber === fiber) this.leave()?.(exit)
      })
    }
    this.resume = resume
    this.limits.alarm.set(this, this.limits.clock, this)
    return this.givenUp
  }

  private handOver(value: A): Effect.Effect<A, E> {
    const { resume } = this
    // It was there at once: who asks looks at the fibre's end.
    if (resume === undefined) return Effect.succeed(value)
    this.resume = undefined
    this.limits.alarm.unset()
    this.handing = "yes"
    resume(Effect.succeed(value))
    const isAgain = this.isAgain
    this.handing = "no"
    return isAgain ? this.run : Effect.succeed(value)
  }

  private get isAgain(): boolean {
    return this.handing === "again"
  }

  left(): number {
    const { clock, left } = this.limits
    return left(monotonicMillis(clock))
  }

  ring(): void {
    const { alarm, clock, expired, left } = this.limits
    const now = monotonicMillis(clock)
    if (left(now) > 0) return alarm.set(this, clock, this)
    const { fiber } = this
    const resume = this.leave()
    const error = expired(now)
    fiber!.interruptUnsafe()
    resume!(Effect.fail(error))
  }

  private readonly givenUp: Effect.Effect<void> = Effect.suspend(() => {
    const { fiber, limits } = this
    // A run that ended as if it were interrupted was not given up.
    if (this.leave() === undefined) return Effect.void
    limits.interrupted(monotonicMillis(limits.clock))
    return Fiber.interrupt(fiber!)
  })

  /** Nothing is under way any more. Returns who waited, if anybody did. */
  private leave(): ((effect: Effect.Effect<A, E | E2>) => void) | undefined {
    const { resume } = this
    if (resume !== undefined) this.limits.alarm.unset()
    this.fiber = this.resume = undefined
    this.handing = "no"
    return resume
  }
}

// -----------------------------------------------------------------------------
// combinators
// -----------------------------------------------------------------------------

const notNegative = durationOption()

/** Milliseconds of a combinator's duration; throws `LlmConfigError` when it is none, or negative. */
const checkedMillis = (name: string, duration: Duration.Input): number => readOption(notNegative, duration, name)

const limit = <E2>(duration: Duration.Input, error: (after: Duration.Duration) => E2) => {
  const millis = checkedMillis("duration", duration)
  return <A, E, R>(self: Effect.Effect<A, E, R>): Effect.Effect<A, E | E2, R> =>
    Effect.clockWith((clock) => {
      const due = monotonicMillis(clock) + millis
      return bounded(self, (now) => due - now, () => error(Duration.millis(millis)))
    })
}

/**
 * Limits one attempt. Fails with `AttemptTimeout { kind: "attempt" }`. Throws `LlmConfigError` when the duration is
 * negative.
 *
 * **Example** (A typed timeout)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { Timeout } from "effect-resilient-llm/resilience"
 *
 * const slow = Effect.never.pipe(Timeout.attempt("20 millis"))
 * const error = await Effect.runPromise(Effect.flip(slow))
 * error.message // => "The attempt exceeded its attempt limit of 20ms."
 * ```
 *
 * @category combinators
 * @since 0.1.0
 */
export const attempt = (
  duration: Duration.Input
): <A, E, R>(self: Effect.Effect<A, E, R>) => Effect.Effect<A, E | AttemptTimeout, R> =>
  limit(duration, (after) => new AttemptTimeout({ kind: "attempt", after }))

/**
 * Limits a whole call. Fails with `DeadlineExceeded`. Throws `LlmConfigError` when the duration is negative.
 *
 * @category combinators
 * @since 0.1.0
 */
export const deadline = (
  duration: Duration.Input
): <A, E, R>(self: Effect.Effect<A, E, R>) => Effect.Effect<A, E | DeadlineExceeded, R> =>
  limit(duration, (after) => new DeadlineExceeded({ after }))

/**
 * The clock of a stream's silence: counts only time during which a pull is outstanding, and only content resets it.
 *
 * @internal
 */
export class IdleClock {
  private spent = 0
  private pulling = 0
  readonly limit: number

  constructor(limit: number) {
    this.limit = limit
  }

  /** Milliseconds of silence that the next pull may last. */
  get remaining(): number {
    return this.limit - this.spent
  }

  start(now: number): void {
    this.pulling = now
  }

  left(now: number): number {
    return this.limit - this.spent - (now - this.pulling)
  }

  stop(now: number, sawContent: boolean): void {
    this.spent = sawContent ? 0 : this.spent + (now - this.pulling)
  }
}

/**
 * Limits a stream: `firstToken` until the first element that counts, `idle` between elements that count while the
 * consumer is waiting. A slow consumer never trips it. Fails with `AttemptTimeout`.
 *
 * **Details**
 *
 * `isContent` says which elements count (default: all). Keep-alives that count nothing feed neither limit.
 *
 * @category combinators
 * @since 0.1.0
 */
export const stream = <A>(options: {
  readonly firstToken?: Duration.Input | undefined
  readonly idle?: Duration.Input | undefined
  readonly isContent?: ((element: A) => boolean) | undefined
}) =>
<E, R>(self: Stream.Stream<A, E, R>): Stream.Stream<A, E | AttemptTimeout, R> => {
  const first = checkedMillis("firstToken", options.firstToken ?? Duration.infinity)
  const idle = checkedMillis("idle", options.idle ?? Duration.infinity)
  const isContent = options.isContent ?? (() => true)
  return Stream.transformPull(self, (pull) =>
    Effect.clockWith((clock) => {
      let kind: "firstToken" | "idle" = "firstToken"
      let silence = new IdleClock(first)
      return Effect.succeed(Effect.suspend(() => {
        silence.start(monotonicMillis(clock))
        return Effect.map(
          bounded(pull, (now) =>
            silence.left(now), () =>
            new AttemptTimeout({ kind, after: Duration.millis(silence.limit) })),
          (elements) => {
            const sawContent = elements.some(isContent)
            silence.stop(monotonicMillis(clock), sawContent)
            if (sawContent && kind === "firstToken") {
              kind = "idle"
              silence = new IdleClock(idle)
            }
            return elements
          }
        )
      }))
    }))
}
