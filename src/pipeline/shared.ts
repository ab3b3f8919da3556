// What a client shares with other processes, where a store is provided: who tells when it is away, and whose limits hold.
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import type { LlmConfigError } from "../LlmError.ts"
import { type Health, trusted } from "../persistence/Health.ts"
import * as CircuitBreaker from "../resilience/CircuitBreaker.ts"
import * as Failover from "../resilience/Failover.ts"
import { type Fleet, fleetOf } from "../resilience/internal/sharedCircuit.ts"
import * as RateLimiter from "../resilience/RateLimiter.ts"
import type { Hub } from "./hub.ts"

/** Publishes one event each time a store goes away or is back, as long as the scope is open. */
export const watching = (
  hub: Hub,
  builtAt: number
): Effect.Effect<(health: Health) => void, never, Scope.Scope> =>
  Effect.map(
    Effect.acquireRelease(
      Effect.sync(() => new Map<Health, () => void>()),
      (watched) =>
        Effect.sync(() => {
          for (const forget of watched.values()) forget()
        })
    ),
    (watched) => (given) => {
      const health = trusted(given)
      if (watched.has(health)) return
      const forget = health.watch(({ now, operation, store, to }) => {
        const event = { _tag: "StoreChanged" as const, call: 0, at: now - builtAt, store, to }
        hub.publish(operation === undefined ? event : { ...event, operation })
      })
      watched.set(health, forget)
    }
  )

/** The order of targets, whose cool-downs other processes may know. */
export const makeOrder = (
  ids: ReadonlyArray<string>,
  policy: Failover.Policy,
  watch: (health: Health) => void
): Effect.Effect<Failover.Failover, LlmConfigError, Scope.Scope> =>
  Effect.flatMap(Failover.CoolDownStore, (store) => {
    if (store === undefined) return Failover.make(ids, policy)
    if (store.health !== undefined) watch(store.health)
    return Failover.makeShared(ids, store, policy)
  })

export type MakeLimiter = (
  key: string,
  limits: RateLimiter.Policy | RateLimiter.RateLimiter
) => Effect.Effect<RateLimiter.RateLimiter, never, Scope.Scope>

/** Limiters of this client alone, or under a key of a store that processes share; one that is given is taken as it is. */
export const makesLimiters = (watch: (health: Health) => void): Effect.Effect<MakeLimiter> =>
  Effect.map(RateLimiter.RateLimiterStore, (store) => {
    if (store?.health !== undefined) watch(store.health)
    return (key, limits) =>
      RateLimiter.isRateLimiter(limits)
        ? Effect.succeed(limits)
        : store === undefined
        ? Effect.sync(() => RateLimiter.fromPolicy(limits))
        : RateLimiter.sharedFromPolicy(key, store, limits)
  })

/** The processes that share the circuits of targets, under the names of these. */
export const makeFleet = (
  watch: (health: Health) => void
): Effect.Effect<Fleet | undefined, never, Scope.Scope> =>
  Effect.flatMap(CircuitBreaker.CircuitBreakerStore, (store) => {
    if (store === undefined) return Effect.undefined
    return Effect.tap(fleetOf(store), ({ health }) => Effect.sync(() => watch(health)))
  })
