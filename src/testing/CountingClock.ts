/**
 * A clock that counts its sleeps: wraps the current clock (such as `TestClock`), so that a test can prove that nothing
 * is left sleeping.
 *
 * @since 0.1.0
 */
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"

/**
 * @category models
 * @since 0.1.0
 */
export interface CountingClock {
  /** Sleeps that have begun and not ended. */
  readonly pending: Effect.Effect<number>
  /** Sleeps that were ever begun. */
  readonly started: Effect.Effect<number>
}

/**
 * The service tag of the counters.
 *
 * @category services
 * @since 0.1.0
 */
export const CountingClock: Context.Service<CountingClock, CountingClock> = Context.Service(
  "effect-resilient-llm/testing/CountingClock"
)

/**
 * Replaces the clock by a counting one and provides its counters. Everything else about the clock stays as it is, so
 * `TestClock.adjust` works below it.
 *
 * **Example** (Nothing is left sleeping)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { CountingClock } from "effect-resilient-llm/testing"
 *
 * const program = Effect.gen(function*() {
 *   const counting = yield* CountingClock.CountingClock
 *   yield* Effect.timeoutOption(Effect.sleep("1 hour"), "1 milli")
 *   return [yield* counting.started, yield* counting.pending]
 * })
 * await Effect.runPromise(Effect.provide(program, CountingClock.layer)) // => [2, 0]
 * ```
 *
 * @category layers
 * @since 0.1.0
 */
export const layer: Layer.Layer<CountingClock> = Layer.effectContext(
  Effect.map(Effect.clockWith(Effect.succeed), (inner) => {
    let started = 0
    let pending = 0
    const clock: Clock.Clock = Object.assign(Object.create(inner) as Clock.Clock, {
      sleep: (duration: Parameters<Clock.Clock["sleep"]>[0]) =>
        Effect.acquireUseRelease(
          Effect.sync(() => {
            started += 1
            pending += 1
          }),
          () => inner.sleep(duration),
          () =>
            Effect.sync(() => {
              pending -= 1
            })
        )
    })
    return Context.make(Clock.Clock, clock).pipe(
      Context.add(CountingClock, { pending: Effect.sync(() => pending), started: Effect.sync(() => started) })
    )
  })
)
