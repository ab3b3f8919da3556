// What a client still has to do for answers that are given already: it holds no caller, and closing the client waits for it.
import * as Cause from "effect/Cause"
import type * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Scope from "effect/Scope"

/** How long closing a client waits for what is left to be written. */
const PATIENCE = "5 seconds"

export interface Background {
  /** Runs an effect, if there is one, as far as it goes at once, and the rest aside. What it fails with is logged. */
  readonly run: (effect: Effect.Effect<unknown> | void) => void
  /** Logs what somebody's code threw where it must not hinder anybody. */
  readonly report: (defect: unknown) => void
}

export const make: Effect.Effect<Background, never, Scope.Scope> = Effect.gen(function*() {
  const context: Context.Context<never> = yield* Effect.context()
  const running = new Set<Fiber.Fiber<unknown>>()
  const fork = Effect.runForkWith(context)
  const report = (defect: unknown): void => {
    fork(Effect.logWarning("A guard or a store threw; the call went on", Cause.die(defect)))
  }
  const scope = yield* Effect.scope
  yield* Scope.addFinalizer(
    scope,
    Effect.suspend(() =>
      running.size === 0
        ? Effect.void
        : Effect.andThen(
          Effect.timeoutOption(Fiber.awaitAll([...running]), PATIENCE),
          Fiber.interruptAll([...running])
        )
    )
  )
  return {
    report,
    run: (effect) => {
      if (effect === undefined) return
      const fiber = fork(effect)
      const done = fiber.pollUnsafe()
      if (done === undefined) {
        running.add(fiber)
        fiber.addObserver(() => running.delete(fiber))
      }
      fiber.addObserver((exit) => {
        if (exit._tag === "Failure" && !Cause.hasInterruptsOnly(exit.cause)) report(Cause.squash(exit.cause))
      })
    }
  }
})
