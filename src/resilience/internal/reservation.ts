// What was taken of a limiter: the public verbs over the synchronous ones, and how it is handed over.
import * as Effect from "effect/Effect"
import type { RateLimitFact } from "../../LlmError.ts"
import type { AcquireOptions, Cost, Reservation } from "../RateLimiter.ts"

export abstract class Taken implements Reservation {
  abstract readonly waited: number
  abstract settleUnsafe(actual: Cost): void
  abstract refundUnsafe(which: "all" | "tokens"): void
  abstract observeUnsafe(facts: ReadonlyArray<RateLimitFact>): void

  settle(actual: Cost): Effect.Effect<void> {
    return Effect.sync(() => this.settleUnsafe(actual))
  }

  refund(which: "all" | "tokens"): Effect.Effect<void> {
    return Effect.sync(() => this.refundUnsafe(which))
  }

  observe(facts: ReadonlyArray<RateLimitFact>): Effect.Effect<void> {
    return Effect.sync(() => this.observeUnsafe(facts))
  }
}

export const handOver = (reservation: Reservation, options: AcquireOptions | undefined): Reservation => {
  try {
    options?.onAcquired?.(reservation)
  } catch (defect) {
    // Nobody got it.
    reservation.refundUnsafe("all")
    throw defect
  }
  return reservation
}
