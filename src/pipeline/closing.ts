// The end of a client is the end of its calls: each ends with an interruption, and none of the fibres that asked is
// interrupted, so what its caller does next goes on.
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import type * as Scope from "effect/Scope"
import type { Restore } from "../internal/line.ts"
import { type Link, link, makeRing, unlink } from "../internal/ring.ts"

/**
 * Runs a call in a fibre of the client's own, as far as it goes at once, and goes on with how it ended: at once too, or after
 * a wait in the region that `restore` belongs to.
 */
export type Closing = <A, E, B, E2>(
  caller: Fiber.Fiber<unknown, unknown>,
  restore: Restore,
  call: Effect.Effect<A, E>,
  next: (exit: Exit.Exit<A, E>) => Effect.Effect<B, E2>
) => Effect.Effect<B, E2>

interface Running extends Link {
  readonly fiber: Fiber.Fiber<unknown, unknown>
}

/** Until the scope closes; calls that begin later end at once. */
export const closing: Effect.Effect<Closing, never, Scope.Scope> = Effect.gen(function*() {
  const running = makeRing()
  let isClosed = false
  yield* Effect.addFinalizer(() =>
    Effect.sync(() => {
      isClosed = true
      while (running.newer !== running) {
        const one = running.newer as Running
        unlink(one)
        one.fiber.interruptUnsafe()
      }
    })
  )
  return <A, E, B, E2>(
    caller: Fiber.Fiber<unknown, unknown>,
    restore: Restore,
    call: Effect.Effect<A, E>,
    next: (exit: Exit.Exit<A, E>) => Effect.Effect<B, E2>
  ) => {
    if (isClosed) return next(Exit.interrupt())
    const fiber = Effect.runForkWith(caller.context)(call)
    const done = fiber.pollUnsafe()
    if (done !== undefined) return next(done)
    const one: Running = { fiber, older: running, newer: running }
    link(running, one)
    const ended = Effect.callback<Exit.Exit<A, E>>((resume) => {
      fiber.addObserver((exit) => {
        unlink(one)
        resume(Effect.succeed(exit))
      })
    })
    // The wait itself fails only when its caller is interrupted.
    return Effect.matchCauseEffect(restore(ended), {
      onSuccess: next,
      onFailure: (cause) => Effect.flatMap(Fiber.interrupt(fiber), () => next(Exit.failCause(cause)))
    })
  }
})
