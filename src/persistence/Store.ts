/**
 * The port behind which recorded answers live, and its default: the memory of this process.
 *
 * `Idempotency` and `ResponseCache` know only this port. Whatever fulfils it (Redis, SQL, files) can replace the
 * memory without touching their logic.
 *
 * @since 0.1.0
 */
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { monotonicMillis } from "../internal/clock.ts"
import { attempt, OptionsReader } from "../internal/options.ts"
import type { LlmConfigError } from "../LlmError.ts"

/**
 * The store could not be read or written. It names the operation and nothing else: keys and values may hold prompts.
 *
 * @category errors
 * @since 0.1.0
 */
export class StoreError extends Schema.TaggedError<StoreError>("effect-resilient-llm/StoreError")(
  "StoreError",
  { operation: Schema.Literals(["get", "set", "remove"]) }
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
 * is the value it would have replaced.
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
export const memory = <A>(options: MemoryOptions): Effect.Effect<Store<A>, LlmConfigError> =>
  attempt(() => {
    const read = new OptionsReader("store", options, ["maxEntries", "maxBytes"])
    // No default: an absent `maxEntries` is refused like any other value that is no number.
    return makeMemory<A>(read.integer("maxEntries", NaN, 1), read.number("maxBytes", Infinity, 1))
  })

// A ring in the order of use. (A `Map` alone would do, but one whose oldest entry is deleted again and again searches
// ever longer for the next oldest: 5 µs more per `set` with 10 000 entries.)
interface Link {
  older: Link
  newer: Link
}

interface Slot<A> extends Link {
  readonly key: string
  readonly value: A
  readonly storedAt: number
  readonly ttl: number
  readonly size: number
}

const unlink = (link: Link): void => {
  link.older.newer = link.newer
  link.newer.older = link.older
}

/**
 * A store that needs no effect, for those who hold it directly.
 *
 * @internal
 */
export interface Memory<in out A> extends Store<A> {
  readonly getUnsafe: (key: string, now: number) => Entry<A> | undefined
  readonly setUnsafe: (key: string, value: A, options: SetOptions, now: number) => void
}

/** @internal */
export const makeMemory = <A>(maxEntries: number, maxBytes: number): Memory<A> => {
  const slots = new Map<string, Slot<A>>()
  const ring = {} as Link
  ring.older = ring.newer = ring
  let bytes = 0

  const link = (slot: Slot<A>): void => {
    slot.older = ring.older
    slot.newer = ring
    slot.older.newer = ring.older = slot
  }

  const drop = (slot: Slot<A>): void => {
    unlink(slot)
    slots.delete(slot.key)
    bytes -= slot.size
  }

  const getUnsafe = (key: string, now: number): Entry<A> | undefined => {
    const slot = slots.get(key)
    if (slot === undefined) return undefined
    const age = now - slot.storedAt
    if (age >= slot.ttl) {
      drop(slot)
      return undefined
    }
    unlink(slot)
    link(slot)
    return { value: slot.value, age }
  }

  const setUnsafe = (key: string, value: A, options: SetOptions, now: number): void => {
    const before = slots.get(key)
    const size = (options.size ?? 0) + 2 * key.length
    if (size > maxBytes) {
      if (before !== undefined) drop(before)
      return
    }
    if (before !== undefined) {
      unlink(before)
      bytes -= before.size
    }
    const slot: Slot<A> = { key, value, storedAt: now, ttl: options.ttl, size, older: ring, newer: ring }
    slots.set(key, slot)
    link(slot)
    bytes += size
    while (ring.newer !== ring) {
      const oldest = ring.newer as Slot<A>
      if (slots.size <= maxEntries && bytes <= maxBytes && now - oldest.storedAt < oldest.ttl) break
      drop(oldest)
    }
  }

  return {
    getUnsafe,
    setUnsafe,
    get: (key) => Clock.clockWith((clock) => Effect.succeed(getUnsafe(key, monotonicMillis(clock)))),
    set: (key, value, options) =>
      Clock.clockWith((clock) => {
        setUnsafe(key, value, options, monotonicMillis(clock))
        return Effect.void
      }),
    remove: (key) =>
      Effect.sync(() => {
        const slot = slots.get(key)
        if (slot !== undefined) drop(slot)
      })
  }
}
