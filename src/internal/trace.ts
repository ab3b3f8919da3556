// The spans of one call: a view of its events.
import type * as Effect from "effect/Effect"
import type * as Fiber from "effect/Fiber"
import type { LlmEvent } from "../LlmEvent.ts"
import type { LlmRequest } from "../LlmRequest.ts"
import type { Answer } from "../LlmResponse.ts"

export interface Trace {
  readonly on: (event: LlmEvent) => void
  /** Runs what an attempt asks its provider below the attempt's span. */
  readonly within: <A, E, R>(attempt: number, effect: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R>
  /** Told before the event that says that the attempt succeeded. */
  readonly answered: (attempt: number, answer: Answer) => void
}

/** `undefined` while no tracer is installed. */
export const traceOf = (
  _fiber: Fiber.Fiber<unknown, unknown>,
  _operation: "complete" | "stream",
  _request: LlmRequest
): Trace | undefined => undefined
