/**
 * Answers of the past, for two uses: a fresh one instead of a call, and a stale one when the call fails.
 *
 * The three ages of an answer are those of RFC 9111 and RFC 5861: fresh, stale-while-revalidate, stale-if-error.
 * There is no service tag and no layer here, because the stored value is a type parameter: build a cache with
 * {@link make} inside a Layer of your own and share it there.
 *
 * @since 0.1.0
 */
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Result from "effect/Result"
import type * as Scope from "effect/Scope"
import { monotonicMillis } from "../internal/clock.ts"
import { effectOf } from "../internal/effect.ts"
import { attempt, integer, millis, number, optionsOf, readOptions } from "../internal/option.ts"
import { classify, type LlmConfigError } from "../LlmError.ts"
import * as Health from "../persistence/Health.ts"
import * as Store from "../persistence/Store.ts"

// -----------------------------------------------------------------------------
// core
// -----------------------------------------------------------------------------

/**
 * What an answer may be used for: `fresh` in place of a call, `revalidate` likewise while a refresh runs in the
 * background, `stale` only when the call fails.
 *
 * @category models
 * @since 0.1.0
 */
export type State = "fresh" | "revalidate" | "stale"

const stateOf = (age: number, ttl: number, swr: number): State =>
  age < ttl ? "fresh" : age < ttl + swr ? "revalidate" : "stale"

// -----------------------------------------------------------------------------
// models
// -----------------------------------------------------------------------------

/**
 * An answer of the past. `age` = milliseconds since it was stored.
 *
 * @category models
 * @since 0.1.0
 */
export interface Hit<out A> {
  readonly value: A
  readonly age: number
  readonly state: State
}

/**
 * Keeps answers and knows what they may still be used for. No verb ever fails: a broken store is a miss.
 *
 * @category models
 * @since 0.1.0
 */
export interface ResponseCache<in out A> {
  /** The answer under a key, unless it is too old for any use. */
  readonly lookup: (key: string) => Effect.Effect<Hit<A> | undefined>
  /** Keeps an answer of `size` bytes (default 0). `false`: it is too large or the store failed; an older one stays. */
  readonly store: (key: string, value: A, size?: number) => Effect.Effect<boolean>
  /**
   * Starts `refresh` in the background, which stores what it gets. `false`: it was not started, because a refresh of
   * this key is running or ended less than `swrMinInterval` ago.
   *
   * **Details**
   *
   * The refresh belongs to the cache: the caller may go, and it is interrupted when the cache's scope closes. What it
   * fails with is nobody's failure.
   */
  readonly revalidate: <E, R>(key: string, refresh: Effect.Effect<unknown, E, R>) => Effect.Effect<boolean, never, R>
  /**
   * {@link ResponseCache.lookup} as of a known moment, monotonic, `late` milliseconds ago. The memory of this process
   * answers with an effect that is done. `failed` is told when the store failed. `patience`: what the call still waits for
   * stores.
   *
   * @internal
   */
  readonly lookupAt: (
    key: string,
    asOf: number,
    late: number,
    failed?: () => void,
    patience?: Health.Patience
  ) => Effect.Effect<Hit<A> | undefined>
  /** @internal */
  readonly storeAt: (
    key: string,
    value: A,
    size: number,
    now: number,
    failed?: () => void
  ) => Effect.Effect<boolean>
}

/**
 * What can stand in a configuration.
 *
 * @category models
 * @since 0.2.0
 */
export interface Settings {
  /** How long an answer is fresh. Default 1 hour. */
  readonly ttl?: Duration.Input | undefined
  /** How long after that it may still be used while it is refreshed in the background. Default 0: never. */
  readonly swr?: Duration.Input | undefined
  /** How long after `ttl` it may stand in for a failure. Default 24 hours. */
  readonly staleIfError?: Duration.Input | undefined
  /** The least time from the end of a key's refresh to its next one. Default 1 second. */
  readonly swrMinInterval?: Duration.Input | undefined
  /** The most answers the memory holds. Default 1000. */
  readonly maxEntries?: number | undefined
  /** The most bytes the memory holds, and one answer takes in any store, keys included. Default 64 MiB. */
  readonly maxBytes?: number | undefined
}

/**
 * The schema of {@link Settings}: defaults and rules.
 *
 * @category schemas
 * @since 0.2.0
 */
export const SettingsSchema = optionsOf<Settings>()({
  ttl: millis("1 hour"),
  swr: millis(0),
  staleIfError: millis("24 hours"),
  swrMinInterval: millis("1 second"),
  maxEntries: integer(1000, 1),
  maxBytes: number(64 * 1024 * 1024, 1)
})

/**
 * Options of {@link make}.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options<A> extends Settings {
  /** Where answers are kept. Default: the memory of this process, within `maxEntries` and `maxBytes`. */
  readonly store?: Store.Store<A> | undefined
  /** Told once for every operation of the store that failed. The call goes on without the store. */
  readonly onStoreError?: ((operation: "get" | "set") => void) | undefined
}

/**
 * Where the clients that are built below keep their answers. `undefined` (default): each in a memory of its own.
 *
 * @category references
 * @since 0.2.0
 */
export const ResponseCacheStore = Context.Reference<Store.Store<string> | undefined>(
  "effect-resilient-llm/ResponseCacheStore",
  { defaultValue: () => undefined }
)

// -----------------------------------------------------------------------------
// constructor
// -----------------------------------------------------------------------------

/** Keys whose next refresh is not due are remembered, at least so many. */
const MIN_RESTING = 1000

/**
 * Makes a cache. Background refreshes live in the scope it is made in.
 *
 * **Details**
 *
 * An answer is `fresh` while `age < ttl`, usable for `revalidate` while `age < ttl + swr`, and `stale` while
 * `age < ttl + max(swr, staleIfError)`; then it is gone. Ages in memory are measured on the monotonic clock.
 *
 * **Example** (A fresh answer spares the call)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import * as ResponseCache from "effect-resilient-llm/resilience/ResponseCache"
 *
 * const program = Effect.gen(function*() {
 *   const cache = yield* ResponseCache.make<string>({ ttl: "10 minutes" })
 *   let calls = 0
 *   const ask = Effect.sync(() => `answer ${++calls}`).pipe(
 *     ResponseCache.cached(cache, { key: "question", fresh: true })
 *   )
 *   return [yield* ask, yield* ask].map(({ source, value }) => `${source}: ${value}`)
 * })
 *
 * await Effect.runPromise(Effect.scoped(program)) // => ["live: answer 1", "fresh: answer 1"]
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = <A>(options?: Options<A>): Effect.Effect<ResponseCache<A>, LlmConfigError, Scope.Scope> =>
  Effect.gen(function*() {
    const { onStoreError, store: given, ...settings } = options ?? {}
    const policy = yield* attempt(() => readOptions(SettingsSchema, settings, "cache"))
    const { maxBytes, maxEntries, swr, swrMinInterval, ttl } = policy
    const horizon = ttl + Math.max(swr, policy.staleIfError)
    const scope = yield* Effect.scope
    const memory = given === undefined ? Store.makeMemory<A>(maxEntries, maxBytes) : undefined
    const store: Store.Store<A> = memory ?? given!
    // A store is waited for no longer than its health allows.
    const { ask } = Health.of(store, () => store.get("ping"), scope)

    // The caller's own interruption does not come here: it passes handlers by.
    const withoutStore = <B>(operation: "get" | "set", instead: B, failed: (() => void) | undefined) => (): B => {
      try {
        failed?.()
        onStoreError?.(operation)
      } catch {
        // A listener that throws must not lose an answer.
      }
      return instead
    }

    const judge = (entry: Store.Entry<A> | undefined, late: number): Hit<A> | undefined => {
      if (entry === undefined) return undefined
      const age = Math.max(entry.age - late, 0)
      return age >= horizon ? undefined : { value: entry.value, age, state: stateOf(age, ttl, swr) }
    }

    const lookupAt: ResponseCache<A>["lookupAt"] = (key, asOf, late, failed, patience) =>
      memory !== undefined
        ? Exit.succeed(judge(memory.getUnsafe(key, asOf), 0))
        : Effect.matchCause(
          ask("get", Effect.suspend(() => effectOf(store.get(key), "store")), { patience }),
          {
            onFailure: withoutStore("get", undefined, failed),
            onSuccess: (entry) => judge(entry, late)
          }
        )

    const storeAt: ResponseCache<A>["storeAt"] = (key, value, size, now, failed) => {
      const set = { ttl: horizon, size }
      if (size + 2 * key.length > maxBytes) return Exit.succeed(false)
      if (memory === undefined) {
        return Effect.matchCause(
          ask("set", Effect.suspend(() => effectOf(store.set(key, value, set), "store"))),
          {
            onFailure: withoutStore("set", false, failed),
            onSuccess: () => true
          }
        )
      }
      memory.setUnsafe(key, value, set, now)
      return Exit.succeed(true)
    }

    const atNow = <B>(use: (now: number) => Effect.Effect<B>): Effect.Effect<B> =>
      Clock.clockWith((clock) => use(monotonicMillis(clock)))

    const running = new Set<string>()
    // Key → when its next refresh may start, in the order of that time.
    const resting = new Map<string, number>()

    // No rest is forgotten: when too many keys are resting or at work, others wait until one of them is done.
    const most = Math.max(maxEntries, MIN_RESTING)
    const isBusy = (key: string, now: number): boolean => {
      for (const [oldest, until] of resting) {
        if (until > now) break
        resting.delete(oldest)
      }
      return running.has(key) || resting.has(key) || running.size + resting.size >= most
    }

    const revalidate = <E, R>(key: string, refresh: Effect.Effect<unknown, E, R>): Effect.Effect<boolean, never, R> =>
      Effect.uninterruptible(Clock.clockWith((clock) => {
        if (isBusy(key, monotonicMillis(clock))) return Effect.succeed(false)
        running.add(key)
        return Effect.map(Effect.forkIn(refresh, scope), (fiber) => {
          fiber.addObserver(() => {
            running.delete(key)
            resting.set(key, monotonicMillis(clock) + swrMinInterval)
          })
          return true
        })
      }))

    return {
      lookup: (key) => atNow((now) => lookupAt(key, now, 0)),
      store: (key, value, size = 0) => atNow((now) => storeAt(key, value, size, now)),
      revalidate,
      lookupAt,
      storeAt
    }
  })

// -----------------------------------------------------------------------------
// combinator
// -----------------------------------------------------------------------------

/**
 * An answer and where it comes from: the effect itself (`live`), the cache in place of it (`fresh`), or the cache
 * because the effect failed with `error` (`stale`). `age` is in milliseconds, as of the look into the cache.
 *
 * @category models
 * @since 0.1.0
 */
export type Cached<A, E> =
  | { readonly source: "live" | "fresh"; readonly value: A; readonly age: number }
  | { readonly source: "stale"; readonly value: A; readonly age: number; readonly error: E }

/**
 * Options of {@link cached}.
 *
 * @category models
 * @since 0.1.0
 */
export interface CachedOptions<A, E> {
  /** Must contain everything that affects the answer. */
  readonly key: string
  /** May the cache spare the call? When `false`, it only stands in for failures. */
  readonly fresh: boolean
  /** The size of an answer in bytes. */
  readonly size?: ((value: A) => number) | undefined
  /** Which answers may be kept. Default all. */
  readonly cacheable?: ((value: A) => boolean) | undefined
  /** Which failures an old answer may stand in for. Default: what `LlmError.classify` says. */
  readonly staleWhen?: ((error: E) => boolean) | undefined
}

/**
 * Puts a cache around any effect.
 *
 * **Details**
 *
 * - The cache is asked before the effect runs. With `fresh`, a fresh answer is used; so is one within `swr`, while
 *   the effect runs once in the background.
 * - A live answer is kept when it is `cacheable`. A failure never overwrites or removes an answer.
 * - Only a typed failure is replaced by an old answer. Interruption and defects pass through.
 *
 * @category combinators
 * @since 0.1.0
 */
export const cached =
  <A, EX = unknown>(cache: ResponseCache<A>, options: CachedOptions<A, EX>) =>
  <E extends EX, R>(self: Effect.Effect<A, E, R>): Effect.Effect<Cached<A, E>, E, R> => {
    const { cacheable, fresh, key, size, staleWhen } = options
    const live = Effect.flatMap(self, (value) => {
      const answer: Cached<A, E> = { source: "live", value, age: 0 }
      if (cacheable !== undefined && !cacheable(value)) return Effect.succeed(answer)
      return Effect.as(cache.store(key, value, size?.(value)), answer)
    })
    const orStale = ({ age, value }: Hit<A>): Effect.Effect<Cached<A, E>, E, R> =>
      Effect.catchCause(live, (cause) => {
        const error = Cause.findError(cause)
        const usable = Result.isSuccess(error) && !Cause.hasDies(cause) && !Cause.hasInterrupts(cause) &&
          (staleWhen === undefined ? classify(error.success).stale : staleWhen(error.success))
        return usable ? Effect.succeed({ source: "stale", value, age, error: error.success }) : Effect.failCause(cause)
      })
    return Effect.flatMap(cache.lookup(key), (hit): Effect.Effect<Cached<A, E>, E, R> => {
      if (hit === undefined) return live
      if (!fresh || hit.state === "stale") return orStale(hit)
      const answer: Cached<A, E> = { source: "fresh", value: hit.value, age: hit.age }
      return hit.state === "fresh" ? Effect.succeed(answer) : Effect.as(cache.revalidate(key, live), answer)
    })
  }
