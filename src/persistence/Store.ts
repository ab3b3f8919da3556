/**
 * The port behind which recorded answers live, and its default: the memory of this process.
 *
 * `Idempotency` and `ResponseCache` know only this port. Whatever fulfils it (Redis, SQL, files) can replace the
 * memory without touching their logic. {@link LeaseStore} adds what several processes need to share work.
 *
 * @since 0.1.0
 */
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import { monotonicMillis } from "../internal/clock.ts"
import { attempt, OptionsReader } from "../internal/options.ts"
import { type Link, link, makeRing, unlink } from "../internal/ring.ts"
import type { LlmConfigError } from "../LlmError.ts"

/**
 * The store could not be read or written. It names the operation and nothing else: keys and values may hold prompts.
 *
 * @category errors
 * @since 0.1.0
 */
export class StoreError extends Schema.TaggedError<StoreError>("effect-resilient-llm/StoreError")(
  "StoreError",
  { operation: Schema.Literals(["get", "set", "remove", "acquire", "complete", "release"]) }
) {
  override get message(): string {
    return `The store failed (${this.operation}).`
  }
}

/**
 * A value as the store holds it. `age` = milliseconds since it was set, never negative.
 *
 * @category models
 * @since 0.1.0
 */
export interface Entry<out A> {
  readonly value: A
  readonly age: number
}

/**
 * What a value is set with.
 *
 * @category models
 * @since 0.1.0
 */
export interface SetOptions {
  /** Milliseconds after which the value is gone. */
  readonly ttl: number
  /** The size of the value in bytes, as far as it is known. Default 0. */
  readonly size?: number | undefined
}

/**
 * Keeps values by key for a limited time.
 *
 * **Details**
 *
 * - `get` answers `undefined` for a key that is unknown, evicted or as old as its `ttl`.
 * - `set` replaces value, age and `ttl` as a whole. A store may drop a value at any time to stay within its bounds.
 * - The users of this port carry on without the store when it fails, whether by a {@link StoreError} or by a defect.
 *
 * **Gotchas**
 *
 * Calls wait for `get` and `set`, so an implementation bounds its own time and fails rather than hangs.
 *
 * @category models
 * @since 0.1.0
 */
export interface Store<in out A> {
  readonly get: (key: string) => Effect.Effect<Entry<A> | undefined, StoreError>
  readonly set: (key: string, value: A, options: SetOptions) => Effect.Effect<void, StoreError>
  readonly remove: (key: string) => Effect.Effect<void, StoreError>
}

/**
 * What {@link LeaseStore.acquire} finds:
 *
 * - `Found`: a value.
 * - `Held`: somebody else's lease, which has `left` milliseconds to run.
 * - `Acquired`: nothing; from now on the key is leased to the caller. `fence` is the number of its lease.
 *
 * @category models
 * @since 0.1.0
 */
export type Acquired<A> =
  | { readonly _tag: "Found"; readonly value: A; readonly age: number }
  | { readonly _tag: "Held"; readonly left: number }
  | { readonly _tag: "Acquired"; readonly fence: number }

/**
 * A store in which a key can be leased to the one process that works on its value. A key holds nothing, a value or a
 * lease; to `get`, a lease is nothing, `set` and `remove` replace and end it.
 *
 * **Details**
 *
 * - Each operation is one atomic step, and each reads time from the store's own clock, so that processes whose clocks
 *   differ agree. Redis: one script over `GET`, `SET … PX`, `INCR`; SQL: one conditional `INSERT … ON CONFLICT`.
 * - A lease ends when `lease` milliseconds have passed; nobody has to notice that its holder is gone.
 * - Fences grow: a lease has a higher one than every lease of the same key before it, and no number comes twice, also
 *   not after the store was restarted. The fence is the holder's only proof.
 * - A store may drop a lease early to stay within its bounds.
 *
 * **Gotchas**
 *
 * A lease bounds who may record, not who may work: a process that is stopped for longer than its lease does not know
 * that it has lost it. See "How to do distributed locking" (M. Kleppmann, 2016) on fences.
 *
 * @category models
 * @since 0.1.0
 */
export interface LeaseStore<in out A> extends Store<A> {
  /** Leases the key for `lease` milliseconds, unless it holds a value or a lease. */
  readonly acquire: (key: string, lease: number) => Effect.Effect<Acquired<A>, StoreError>
  /**
   * Puts the value in the place of the lease. `false`: nothing changed, because the key holds a value or a lease with
   * another fence. A lease that has ended but that nobody took over does not hinder.
   */
  readonly complete: (
    key: string,
    fence: number,
    value: A,
    options: SetOptions
  ) => Effect.Effect<boolean, StoreError>
  /** Ends the lease. Does nothing unless the key holds a lease with this fence. */
  readonly release: (key: string, fence: number) => Effect.Effect<void, StoreError>
}

/**
 * A store that processes share. Its values are JSON texts, so whatever keeps texts can fulfil it.
 *
 * **Example** (Two clients that share what they record)
 *
 * ```ts import.meta.vitest
 * import { Effect, Layer } from "effect"
 * import { LlmClient } from "effect-resilient-llm"
 * import { Store } from "effect-resilient-llm/persistence"
 * import { ScriptedProvider } from "effect-resilient-llm/testing"
 *
 * class Vendor extends ScriptedProvider.Service<Vendor>()("app/Vendor") {}
 *
 * const program = Effect.gen(function*() {
 *   const store = yield* Store.SharedStore
 *   const options = { idempotency: { store } }
 *   const here = yield* LlmClient.make([Vendor], options)
 *   const there = yield* LlmClient.make([Vendor], options) // in another process
 *   const order = { prompt: "Hi", idempotencyKey: "order-7" }
 *   return [yield* here.complete(order), yield* there.complete(order)].map(({ source, text }) => `${source}: ${text}`)
 * })
 *
 * const live = Layer.merge(Vendor.layer([ScriptedProvider.answer("Hello.")]), Store.layerMemory({ maxEntries: 1000 }))
 * await Effect.runPromise(Effect.scoped(Effect.provide(program, live))) // => ["provider: Hello.", "replay: Hello."]
 * ```
 *
 * @category services
 * @since 0.1.0
 */
export class SharedStore
  extends Context.Service<SharedStore, LeaseStore<string>>()("effect-resilient-llm/SharedStore")
{}

/**
 * The bounds of a store in memory.
 *
 * @category models
 * @since 0.1.0
 */
export interface MemoryOptions {
  /** At most this many entries; at least 1. */
  readonly maxEntries: number
  /** At most this many bytes, counting the given sizes and two bytes per character of the keys. Default: no limit. */
  readonly maxBytes?: number | undefined
}

/**
 * Makes a store in the memory of this process: bounded, and the least recently used entry leaves first.
 *
 * **Details**
 *
 * Ages are measured on the monotonic clock, so a jump of the wall clock changes nothing. An expired entry is dropped
 * when it is read or when it is next in line to leave. A value that alone exceeds `maxBytes` is not kept, and neither
 * is the value it would have replaced. A lease is an entry like any other, without a size.
 *
 * **Example** (A value and its age)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { Store } from "effect-resilient-llm/persistence"
 *
 * const program = Effect.gen(function*() {
 *   const store = yield* Store.memory<string>({ maxEntries: 2 })
 *   for (const key of ["a", "b", "c"]) {
 *     yield* store.set(key, key.toUpperCase(), { ttl: 60_000 })
 *   }
 *   return [(yield* store.get("a"))?.value, (yield* store.get("c"))?.value]
 * })
 *
 * await Effect.runPromise(program) // => [undefined, "C"]
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const memory = <A>(options: MemoryOptions): Effect.Effect<LeaseStore<A>, LlmConfigError> =>
  attempt(() => {
    const read = new OptionsReader("store", options, ["maxEntries", "maxBytes"])
    // No default: an absent `maxEntries` is refused like any other value that is no number.
    return makeMemory<A>(read.integer("maxEntries", NaN, 1), read.number("maxBytes", Infinity, 1))
  })

/**
 * {@link memory} as a {@link SharedStore}: for clients in one process, and for tests.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerMemory = (options: MemoryOptions): Layer.Layer<SharedStore, LlmConfigError> =>
  Layer.effect(SharedStore, memory<string>(options))

/**
 * A shared store for values that are not texts. What cannot be encoded, or not be decoded because another version of
 * the program wrote it, is a failure of the store.
 *
 * @category constructors
 * @since 0.1.0
 */
export const withSchema = <A>(store: LeaseStore<string>, schema: Schema.Codec<A, unknown>): LeaseStore<A> => {
  const json = Schema.fromJsonString(Schema.toCodecJson(schema))
  const refuse = (operation: StoreError["operation"]) => () => new StoreError({ operation })
  const decode = (operation: "get" | "acquire", text: string): Effect.Effect<A, StoreError> =>
    Effect.mapError(Schema.decodeEffect(json)(text), refuse(operation))
  const encode = <B>(
    operation: "set" | "complete",
    value: A,
    options: SetOptions,
    use: (text: string, options: SetOptions) => Effect.Effect<B, StoreError>
  ): Effect.Effect<B, StoreError> =>
    Effect.flatMap(
      Effect.mapError(Schema.encodeEffect(json)(value), refuse(operation)),
      (text) => use(text, { ttl: options.ttl, size: 2 * text.length })
    )
  return {
    get: (key) =>
      Effect.flatMap(store.get(key), (entry) =>
        entry === undefined
          ? Effect.undefined
          : Effect.map(decode("get", entry.value), (value) => ({ value, age: entry.age }))),
    set: (key, value, options) => encode("set", value, options, (text, sized) => store.set(key, text, sized)),
    remove: store.remove,
    acquire: (key, lease) =>
      Effect.flatMap(
        store.acquire(key, lease),
        (acquired): Effect.Effect<Acquired<A>, StoreError> =>
          acquired._tag === "Found"
            ? Effect.map(decode("acquire", acquired.value), (value) => ({ ...acquired, value }))
            : Effect.succeed(acquired)
      ),
    complete: (key, fence, value, options) =>
      encode("complete", value, options, (text, sized) => store.complete(key, fence, text, sized)),
    release: store.release
  }
}

interface Slot<A> extends Link {
  readonly key: string
  /** Absent from a lease. */
  readonly value: A | undefined
  /** Of a lease; 0 for a value. */
  readonly fence: number
  readonly storedAt: number
  readonly ttl: number
  readonly size: number
}

/**
 * A store that needs no effect, for those who hold it directly.
 *
 * @internal
 */
export interface Memory<in out A> extends LeaseStore<A> {
  readonly getUnsafe: (key: string, now: number) => Entry<A> | undefined
  readonly setUnsafe: (key: string, value: A, options: SetOptions, now: number) => void
}

/** @internal */
export const makeMemory = <A>(maxEntries: number, maxBytes: number): Memory<A> => {
  const slots = new Map<string, Slot<A>>()
  /** In the order of use. */
  const ring = makeRing()
  let bytes = 0
  let fences = 0

  const drop = (slot: Slot<A>): void => {
    unlink(slot)
    slots.delete(slot.key)
    bytes -= slot.size
  }

  const living = (key: string, now: number): Slot<A> | undefined => {
    const slot = slots.get(key)
    if (slot === undefined || now - slot.storedAt < slot.ttl) return slot
    drop(slot)
    return undefined
  }

  const read = (slot: Slot<A>, now: number): Entry<A> => {
    unlink(slot)
    link(ring, slot)
    return { value: slot.value as A, age: now - slot.storedAt }
  }

  const put = (key: string, value: A | undefined, fence: number, ttl: number, bare: number, now: number): void => {
    const before = slots.get(key)
    const size = bare + 2 * key.length
    if (size > maxBytes) {
      if (before !== undefined) drop(before)
      return
    }
    if (before !== undefined) {
      unlink(before)
      bytes -= before.size
    }
    const slot: Slot<A> = { key, value, fence, storedAt: now, ttl, size, older: ring, newer: ring }
    slots.set(key, slot)
    link(ring, slot)
    bytes += size
    while (ring.newer !== ring) {
      const oldest = ring.newer as Slot<A>
      if (slots.size <= maxEntries && bytes <= maxBytes && now - oldest.storedAt < oldest.ttl) break
      drop(oldest)
    }
  }

  const getUnsafe = (key: string, now: number): Entry<A> | undefined => {
    const slot = living(key, now)
    return slot === undefined || slot.fence > 0 ? undefined : read(slot, now)
  }

  const setUnsafe = (key: string, value: A, { size, ttl }: SetOptions, now: number): void =>
    put(key, value, 0, ttl, size ?? 0, now)

  const acquire = (key: string, lease: number, now: number): Acquired<A> => {
    const slot = living(key, now)
    if (slot === undefined) {
      put(key, undefined, ++fences, lease, 0, now)
      return { _tag: "Acquired", fence: fences }
    }
    return slot.fence > 0
      ? { _tag: "Held", left: slot.ttl - (now - slot.storedAt) }
      : { _tag: "Found", ...read(slot, now) }
  }

  const complete = (key: string, fence: number, value: A, options: SetOptions, now: number): boolean => {
    const slot = living(key, now)
    if (slot !== undefined && (slot.fence === 0 || slot.fence !== fence)) return false
    setUnsafe(key, value, options, now)
    return true
  }

  const atNow = <B>(use: (now: number) => B): Effect.Effect<B> =>
    Clock.clockWith((clock) => Effect.succeed(use(monotonicMillis(clock))))

  return {
    getUnsafe,
    setUnsafe,
    get: (key) => atNow((now) => getUnsafe(key, now)),
    set: (key, value, options) => atNow((now) => setUnsafe(key, value, options, now)),
    remove: (key) =>
      Effect.sync(() => {
        const slot = slots.get(key)
        if (slot !== undefined) drop(slot)
      }),
    acquire: (key, lease) => atNow((now) => acquire(key, lease, now)),
    complete: (key, fence, value, options) => atNow((now) => complete(key, fence, value, options, now)),
    release: (key, fence) =>
      Effect.sync(() => {
        const slot = slots.get(key)
        if (slot !== undefined && slot.fence > 0 && slot.fence === fence) drop(slot)
      })
  }
}
