// From an effect to a promise, for people who know no fibers.
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import { closedError, thrown } from "../ResilientLlmError.ts"

/** Rejects with the reason of an abort, a `ResilientLlmError`, or a bug as it is. */
export interface Run {
  <A>(effect: Effect.Effect<A, unknown>, signal: AbortSignal | undefined): Promise<A>
}

export const make = (isClosed: () => boolean): Run => async (effect, signal) => {
  // Neither a signal that is aborted already nor a client that is closed would stop an effect's first steps.
  if (isAborted(signal)) throw signal?.reason
  if (isClosed()) throw closedError()
  const exit = await Effect.runPromiseExit(effect, signal === undefined ? undefined : { signal })
  if (Exit.isSuccess(exit)) return exit.value
  // What breaks while a client is being closed, breaks for that reason.
  throw isClosed() && !isAborted(signal) ? closedError() : thrown(exit.cause, signal)
}

const isAborted = (signal: AbortSignal | undefined): boolean => signal?.aborted === true
