/**
 * Virtual time: a clock whose sleepers wake in order as fast as the machine can, a scheduler that runs everything else in
 * between, and seeded chance. An hour with twenty thousand calls takes a second, and the same seed gives the same hour.
 *
 * `TestClock` moves when a test tells it to; this one moves by itself, to the next moment at which somebody wakes.
 *
 * @since 0.2.0
 */
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Random from "effect/Random"
import * as Scheduler from "effect/Scheduler"
import * as Schema from "effect/Schema"
import { Agenda } from "./internal/agenda.ts"

// -----------------------------------------------------------------------------
// models
// -----------------------------------------------------------------------------

/**
 * @category models
 * @since 0.2.0
 */
export interface Options {
  /** Where chance begins: a whole number. Default 1. */
  readonly seed?: number | undefined
  /** How often something may happen, sleeps and turns of fibres, before the run counts as endless. Default 100 million. */
  readonly maxSteps?: number | undefined
}

/**
 * A time of its own.
 *
 * @category models
 * @since 0.2.0
 */
export interface VirtualTime {
  /** The clock, the scheduler and the chance that follow it, for `Effect.runForkWith(time.context)`. */
  readonly context: Context.Context<never>
  /** Milliseconds since it began, with their fraction. */
  readonly now: () => number
  /** Sleeps and appointments that are still to come; those that were cancelled are not among them. */
  readonly pending: () => number
  /** Does something at a moment, in milliseconds. What it returns cancels that. */
  readonly at: (moment: number, onMoment: () => void) => () => void
  /** Runs what is ready; else goes to the next moment for which there is something, and does that. `false`: nothing is left. */
  readonly step: () => boolean
  /**
   * Runs an effect to its end, with the services that are there. Other fibres of the program get their turn now and then, so
   * it can be interrupted. What the effect leaves running stands still until somebody goes on.
   */
  readonly run: <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.Effect<A, E | VirtualTimeError, R>
}

/**
 * The time stands still, or never will.
 *
 * @category errors
 * @since 0.2.0
 */
export class VirtualTimeError
  extends Schema.TaggedError<VirtualTimeError>("effect-resilient-llm/testing/VirtualTimeError")("VirtualTimeError", {
    /** `stuck`: it waits for something that never comes. `endless`: more than `maxSteps` happened. */
    reason: Schema.Literals(["stuck", "endless"]),
    /** When, in virtual milliseconds. */
    at: Schema.Number
  })
{
  override get message(): string {
    return this.reason === "stuck"
      ? `After ${this.at} ms it waits for something that never comes.`
      : `After ${this.at} ms it still does not come to an end.`
  }
}

// -----------------------------------------------------------------------------
// constructors
// -----------------------------------------------------------------------------

/** Between two turns of everybody else. */
const SLICE = 4096

/**
 * Makes a time that stands at 0.
 *
 * @category constructors
 * @since 0.2.0
 */
export const make = ({ maxSteps = 100_000_000, seed = 1 }: Options = {}): VirtualTime => {
  const agenda = new Agenda()
  let now = 0
  let steps = 0
  let ready: Array<() => void> = []

  const at: VirtualTime["at"] = (moment, onMoment) => {
    if (!(moment < Infinity)) return () => {}
    const entry = agenda.add(moment, onMoment)
    return () => agenda.remove(entry)
  }
  const nanos = (): bigint => BigInt(Math.round(now * 1e6))
  const clock: Clock.Clock = {
    currentTimeMillisUnsafe: () => Math.floor(now),
    currentTimeMillis: Effect.sync(() => Math.floor(now)),
    currentTimeNanosUnsafe: nanos,
    currentTimeNanos: Effect.sync(nanos),
    monotonicTimeNanosUnsafe: nanos,
    monotonicTimeNanos: Effect.sync(nanos),
    sleep: (duration) =>
      Effect.callback<void>((resume) => {
        const cancel = at(now + Duration.toMillis(duration), () => resume(Effect.void))
        return Effect.sync(cancel)
      })
  }
  const scheduler = new Scheduler.MixedScheduler("async", (task) => {
    let isCancelled = false
    ready.push(() => {
      if (!isCancelled) task()
    })
    return () => {
      isCancelled = true
    }
  })

  const runReady = (): void => {
    while (ready.length > 0 && steps <= maxSteps) {
      const tasks = ready
      ready = []
      steps += tasks.length
      for (const task of tasks) task()
    }
  }
  const step = (): boolean => {
    if (ready.length > 0) {
      runReady()
      return true
    }
    const entry = agenda.next()
    if (entry === undefined) return false
    now = Math.max(now, entry.at)
    steps += 1
    entry.fire()
    return true
  }
  const slice = (isOver: () => boolean): boolean | VirtualTimeError => {
    for (let i = 0; i < SLICE; i++) {
      runReady()
      if (isOver()) return true
      if (steps > maxSteps) return new VirtualTimeError({ reason: "endless", at: now })
      if (!step()) return new VirtualTimeError({ reason: "stuck", at: now })
    }
    return false
  }
  const advance = (isOver: () => boolean): Effect.Effect<void, VirtualTimeError> =>
    Effect.suspend(() => {
      const end = slice(isOver)
      if (end === true) return Effect.void
      return end === false ? Effect.andThen(Effect.yieldNow, advance(isOver)) : Effect.fail(end)
    })
  const context = Context.make(Clock.Clock, clock).pipe(
    Context.add(Scheduler.Scheduler, scheduler),
    Context.add(Random.Random, chance(seed))
  )
  const run: VirtualTime["run"] = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
    Effect.contextWith((outer: Context.Context<R>) => {
      const fiber = Effect.runForkWith(Context.merge(outer, context))(effect)
      const ended = advance(() => fiber.pollUnsafe() !== undefined)
      // What it holds is given back in its own time.
      const interrupted = Effect.suspend(() => {
        fiber.interruptUnsafe()
        return Effect.ignore(ended)
      })
      return Effect.flatMap(Effect.onInterrupt(ended, () => interrupted), () => fiber.pollUnsafe()!)
    })
  return { context, now: () => now, pending: () => agenda.size, at, step, run }
}

/**
 * Chance that is the same for the same seed: a generator of Marsaglia's kind (xorshift32).
 *
 * @category constructors
 * @since 0.2.0
 */
export const chance = (seed: number): Random.Random => {
  let state = seed | 0 || 1
  const next = (): number => {
    state ^= state << 13
    state ^= state >>> 17
    state ^= state << 5
    return (state >>> 0) / 2 ** 32
  }
  return { nextDoubleUnsafe: next, nextIntUnsafe: () => Math.floor(next() * 2 ** 31) }
}

// -----------------------------------------------------------------------------
// running
// -----------------------------------------------------------------------------

/**
 * Runs an effect in a virtual time of its own, with the services that are there. It ends with the effect: fibres that
 * outlive it stand still.
 *
 * **Gotchas**
 *
 * Only what sleeps by Effect's `Clock` is virtual. A promise or a timer of the platform is not waited for: what waits for
 * one is `stuck`.
 *
 * **Example** (An hour in no time)
 *
 * ```ts import.meta.vitest
 * import { Clock, Effect } from "effect"
 * import { VirtualTime } from "effect-resilient-llm/testing"
 *
 * const program = Effect.gen(function*() {
 *   yield* Effect.sleep("1 hour")
 *   return yield* Clock.currentTimeMillis
 * })
 * await Effect.runPromise(VirtualTime.run(program)) // => 3600000
 * ```
 *
 * @category running
 * @since 0.2.0
 */
export const run = <A, E, R>(
  effect: Effect.Effect<A, E, R>,
  options?: Options
): Effect.Effect<A, E | VirtualTimeError, R> => Effect.suspend(() => make(options).run(effect))
