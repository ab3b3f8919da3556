// What code of users gives us in the place of an effect.
import * as Effect from "effect/Effect"
import { kindOf } from "./issue.ts"

/**
 * The effect that somebody's code returned. Without types it may return anything, and Effect ends a fibre that meets such a
 * thing on the spot, without its finalizers: all that is held would stay held.
 */
export const effectOf = <A, E, R>(
  effect: Effect.Effect<A, E, R>,
  whose: string,
  id?: string
): Effect.Effect<A, E, R> => Effect.isEffect(effect) ? effect : dieOf(effect, "effect", whose, id)

/** A defect that says whose code returned what instead. */
export const dieOf = (
  value: unknown,
  wanted: "effect" | "stream",
  whose: string,
  id?: string
): Effect.Effect<never> => {
  const name = id === undefined ? whose : `${whose} "${id}"`
  const came = value instanceof Promise ? "a promise" : value === undefined ? "nothing" : kindOf(value)
  return Effect.die(new TypeError(`The ${name} returned what is no ${wanted}, but ${came}`))
}
