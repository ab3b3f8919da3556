import { assert } from "@effect/vitest"
import { Duration, Effect } from "effect"
import { Health, type Store } from "effect-resilient-llm/persistence"
import * as RateLimiter from "effect-resilient-llm/resilience/RateLimiter"
import { now, start } from "./waiting.ts"

export type Entry =
  | readonly [name: string, at: number]
  | readonly [name: string, at: number, dimension: string, retryAfter: number]

export const tenPerTenSeconds: RateLimiter.Options = {
  limits: [{ dimension: "requests", limit: 10, per: "10 seconds" }]
}

/** Logs when an acquisition is granted, or refused with which hint. */
export const journal = (limiter: RateLimiter.RateLimiter) => {
  const entries: Array<Entry> = []
  const reservations = new Map<string, RateLimiter.Reservation>()
  const enter = (name: string, cost: RateLimiter.Cost = 1, options?: RateLimiter.AcquireOptions) =>
    start(Effect.matchEffect(limiter.acquire(cost, options), {
      onSuccess: (reservation) =>
        Effect.map(now, (at) => {
          reservations.set(name, reservation)
          entries.push([name, at])
        }),
      onFailure: (error) =>
        Effect.map(now, (at) =>
          entries.push(
            error._tag === "RateLimited"
              ? [name, at, error.dimension, Duration.toMillis(error.retryAfter)]
              : [name, at, error.path, NaN]
          ))
    }))
  return { entries, enter, held: (name: string) => reservations.get(name)! }
}

export const make = (options: RateLimiter.Options) => Effect.orDie(RateLimiter.make(options))
export const full = (limiter: RateLimiter.RateLimiter, level: number) =>
  Effect.asVoid(Effect.orDie(limiter.acquire(level)))
export const level = (limiter: RateLimiter.RateLimiter, dimension = "requests") =>
  Effect.map(limiter.snapshot, ({ levels }) => levels[dimension]!)
export const nobodyWaits = (limiter: RateLimiter.RateLimiter) =>
  Effect.map(limiter.snapshot, ({ queued }) => assert.strictEqual(queued, 0))

/** A store in memory whose trips are counted, and which can be told to hang or fail. */
export const counted = Effect.gen(function*() {
  const memory = yield* RateLimiter.storeMemory()
  const health = Health.make({ name: "test", ping: Effect.suspend(() => does.how), scope: yield* Effect.scope })
  const does = { how: Effect.void as Effect.Effect<void, Store.StoreError>, reserved: 0, settled: 0, delay: 0 }
  const through = <A>(effect: Effect.Effect<A, Store.StoreError>) =>
    Effect.suspend(() => Effect.andThen(does.how, does.delay === 0 ? effect : Effect.delay(effect, does.delay)))
  const store: RateLimiter.LimitStore = {
    health,
    reserve: (request) => {
      does.reserved += 1
      return through(memory.reserve(request))
    },
    settle: (change) => {
      does.settled += 1
      return through(memory.settle(change))
    },
    snapshot: (key, limits) => through(memory.snapshot(key, limits))
  }
  return { store, memory, does, health }
})
