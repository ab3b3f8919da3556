// What code of users gives us in the place of an effect.
import * as Effect from "effect/Effect"

/**
 * The effect that somebody's code returned. Without types it may return anything, and Effect ends a fibre that meets such a
 * thing on the spot, without its finalizers: all that is held would stay held.
 */
export const effectOf = <A, E, R>(effect: Effect.Effect<A, E, R>, whose: string): Effect.Effect<A, E, R> =>
  Effect.isEffect(effect) ? effect : Effect.die(new TypeError(`The ${whose} returned what is no effect`))
