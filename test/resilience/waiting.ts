import { Clock, Duration, Effect, type Fiber } from "effect"
import { TestClock } from "effect/testing"

/** The monotonic time of the test, in milliseconds. */
export const now: Effect.Effect<number> = Effect.map(Clock.monotonicTimeNanos, (nanos) => Number(nanos) / 1e6)

/** Lets everything that is ready run. */
export const calm: Effect.Effect<void> = Effect.gen(function*() {
  for (let i = 0; i < 60; i++) yield* Effect.yieldNow
})

/** Steps through time, one millisecond after the other. */
export const steps = (millis: number): Effect.Effect<void> =>
  Effect.gen(function*() {
    for (let i = 0; i < millis; i++) yield* TestClock.adjust(1)
  })

export interface Sleeps {
  pending: number
  started: number
}

/** Runs a test under a clock that counts the sleeps of the test clock. */
export const countingSleeps = <A, E, R>(test: (sleeps: Sleeps) => Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
  TestClock.testClockWith((clock) => {
    const sleeps: Sleeps = { pending: 0, started: 0 }
    const sleep = (duration: Duration.Duration): Effect.Effect<void> =>
      Effect.acquireUseRelease(
        Effect.sync(() => {
          sleeps.pending += 1
          sleeps.started += 1
        }),
        () => clock.sleep(duration),
        () =>
          Effect.sync(() => {
            sleeps.pending -= 1
          })
      )
    return Effect.provideService(test(sleeps), Clock.Clock, { ...clock, sleep } as Clock.Clock)
  })

/** Runs a test under a clock whose timers ring so many milliseconds late. */
export const ringingLate = <A, E, R>(by: () => number, test: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
  TestClock.testClockWith((clock) => {
    const sleep = (duration: Duration.Duration) => clock.sleep(Duration.sum(duration, Duration.millis(by())))
    return Effect.provideService(test, Clock.Clock, { ...clock, sleep })
  })

export const start = <A, E, R>(self: Effect.Effect<A, E, R>): Effect.Effect<Fiber.Fiber<A, E>, never, R> =>
  Effect.forkChild(self, { startImmediately: true })
