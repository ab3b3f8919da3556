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
import { attempt, integerAtLeast, number, optionsOf, readOptions } from "../internal/option.ts"
import { type Link, link, makeRing, unlink } from "../internal/ring.ts"
import { lengthOfNames, nameOf, Shelf } from "../internal/shelf.ts"
import type { LlmConfigError } from "../LlmError.ts"
import type { Health } from "./Health.ts"

/**
 * What is asked of a store.
 *
 * @category models
 * @since 0.2.0
 */
export const Operation = Schema.Literals([
  "get",
  "set",
  "remove",
  "acquire",
  "renew",
  "complete",
  "release",
  "reserve",
  "settle",
  "block",
  "snapshot",
  "trip",
  "probe",
  "look"
])

/**
 * @category models
 * @since 0.2.0
 */
export type Operation = typeof Operation.Type

/**
 * The store could not be read or written. It names the operation and never a key or a value: they may hold prompts.
 *
 * **Details**
 *
 * `reason`: the store `failed` (default), did not answer in time (`timeout`), was not asked because it has not answered
 * before (`down`), or the value is larger than it keeps (`too-large`).
 *
 * @category errors
 * @since 0.1.0
 */
export class StoreError extends Schema.TaggedError<StoreError>("effect-resilient-llm/StoreError")(
  "StoreError",
  {
    operation: Operation,
    reason: Schema.optional(Schema.Literals(["failed", "timeout", "down", "too-large"]))
  }
) {
  override get message(): string {
    return `The store failed (${this.operation}${this.reason === undefined ? "" : `, ${this.reason}`}).`
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
  /** Whose it is. A store with bounds makes room at the cost of whoever takes up most of it. Default: nobody's. */
  readonly share?: string | undefined
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
 * An implementation may fail, hang or answer late. Its users wait for at most 100 ms an operation, and then do without
 * it until it answers again; what they no longer wait for is not interrupted.
 *
 * @category models
 * @since 0.1.0
 */
export interface Store<in out A> {
  /** Of several stores over one connection: what is learned of one holds for all. Default: each learns by itself. */
  readonly health?: Health | undefined
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
 * How a key may be leased although it is not free.
 *
 * @category models
 * @since 0.2.0
 */
export interface AcquireOptions<out A> {
  /** A lease of another process counts as ended: for whoever knows that no other process is alive. Default `false`. */
  readonly takeOver?: boolean | undefined
  /** A value equal to this one counts as absent: it was found before, and could not be read. */
  readonly replacing?: A | undefined
}

/**
 * A store in which a key can be leased to the one process that works on its value. A key holds nothing, a value or a
 * lease; to `get`, a lease is nothing, `set` and `remove` replace and end it.
 *
 * **Details**
 *
 * - Each operation is one atomic step, and each reads time from the store's own clock, so that processes whose clocks
 *   differ agree. Redis: one script over one hash; SQL: one conditional `INSERT … ON CONFLICT`.
 * - A lease ends when `lease` milliseconds have passed; nobody has to notice that its holder is gone. A holder that
 *   lives renews it in time, so leases can be short.
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
  /**
   * Leases the key for `lease` milliseconds, unless it holds a value or a lease. The holder is the process, that is
   * whoever made this store: only leases of others can be taken over.
   */
  readonly acquire: (
    key: string,
    lease: number,
    options?: AcquireOptions<A>
  ) => Effect.Effect<Acquired<A>, StoreError>
  /** The lease runs for `lease` milliseconds from now. `false`: nothing changed, because it has ended. */
  readonly renew: (key: string, fence: number, lease: number) => Effect.Effect<boolean, StoreError>
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
 * import { Idempotency } from "effect-resilient-llm/resilience"
 * import { ScriptedProvider } from "effect-resilient-llm/testing"
 *
 * class Vendor extends ScriptedProvider.Service<Vendor>()("app/Vendor") {}
 *
 * const program = Effect.gen(function*() {
 *   const here = yield* LlmClient.make([Vendor])
 *   const there = yield* LlmClient.make([Vendor]) // in another process
 *   const order = { prompt: "Hi", idempotencyKey: "order-7" }
 *   return [yield* here.complete(order), yield* there.complete(order)].map(({ source, text }) => `${source}: ${text}`)
 * })
 *
 * const records = Layer.effect(Idempotency.IdempotencyStore, Store.memory<string>({ maxEntries: 1000 }))
 * const live = Layer.merge(Vendor.layer([ScriptedProvider.answer("Hello.")]), records)
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

const MemoryOptionsSchema = optionsOf<MemoryOptions>()({
  maxEntries: integerAtLeast(1),
  maxBytes: number(Infinity, 1)
})

/**
 * Makes a store in the memory of this process: bounded, and the least recently used entry leaves
 * first.
 *
 * **Details**
 *
 * Ages are measured on the monotonic clock, so a jump of the wall clock changes nothing. An expired entry is dropped
 * when it is read or when it is next in line to leave. A value that alone exceeds `maxBytes` is not kept, and neither
 * is the value it would have replaced. A lease is an entry like any other, without a size. Where values have a `share`,
 * room is made at the cost of the share that takes up most, give or take half.
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
    const { maxBytes, maxEntries } = readOptions(MemoryOptionsSchema, options, "store")
    return makeMemory<A>(maxEntries, maxBytes)
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
 * A shared store for values that are not texts.
 *
 * **Details**
 *
 * - A value that cannot be decoded, because another version of the program or another hand wrote it, counts as absent:
 *   `get` gives nothing, `acquire` leases its key, so that it is replaced. `onUndecodable` is told.
 * - A value that cannot be encoded is a failure of the store.
 *
 * @category constructors
 * @since 0.1.0
 */
export const withSchema = <A>(
  store: LeaseStore<string>,
  schema: Schema.Codec<A, unknown>,
  onUndecodable?: () => void
): LeaseStore<A> => {
  const json = Schema.fromJsonString(Schema.toCodecJson(schema))
  const refuse = (operation: Operation) => () => new StoreError({ operation })
  const encoded = Schema.encodeEffect(json)
  const decoded = Schema.decodeEffect(json)
  const unreadable = (): undefined => {
    onUndecodable?.()
  }
  const decode = <B>(text: string, use: (value: A) => B): Effect.Effect<B | undefined> =>
    Effect.match(decoded(text), { onFailure: unreadable, onSuccess: use })
  const acquire = (
    key: string,
    lease: number,
    options: AcquireOptions<string>
  ): Effect.Effect<Acquired<A>, StoreError> =>
    Effect.flatMap(store.acquire(key, lease, options), (acquired) => {
      if (acquired._tag !== "Found") return Effect.succeed(acquired)
      if (acquired.value === options.replacing) return Effect.fail(new StoreError({ operation: "acquire" }))
      return Effect.flatMap(
        decode(acquired.value, (value) => ({ ...acquired, value })),
        (found): Effect.Effect<Acquired<A>, StoreError> =>
          found === undefined
            ? acquire(key, lease, { ...options, replacing: acquired.value })
            : Effect.succeed(found)
      )
    })
  const encode = <B>(
    operation: "set" | "complete",
    value: A,
    options: SetOptions,
    use: (text: string, options: SetOptions) => Effect.Effect<B, StoreError>
  ): Effect.Effect<B, StoreError> =>
    Effect.flatMap(
      Effect.mapError(encoded(value), refuse(operation)),
      (text) => use(text, { ...options, size: 2 * text.length })
    )
  return {
    health: store.health,
    get: (key) =>
      Effect.flatMap(store.get(key), (entry) =>
        entry === undefined
          ? Effect.undefined
          : decode(entry.value, (value) => ({ value, age: entry.age }))),
    set: (key, value, options) => encode("set", value, options, (text, sized) => store.set(key, text, sized)),
    remove: store.remove,
    acquire: (key, lease, options) => acquire(key, lease, { takeOver: options?.takeOver }),
    renew: store.renew,
    complete: (key, fence, value, options) =>
      encode("complete", value, options, (text, sized) => store.complete(key, fence, text, sized)),
    release: store.release
  }
}

// -----------------------------------------------------------------------------
// memory
// -----------------------------------------------------------------------------

interface Slot<A> extends Link {
  readonly key: string
  readonly name: string
  /** Absent from a lease. */
  readonly value: A | undefined
  /** Of a lease; 0 for a value. */
  readonly fence: number
  storedAt: number
  ttl: number
  readonly size: number
  readonly share: Share
}

/** What belongs to one of those who share the memory, in the order of use. */
interface Share {
  readonly name: string
  readonly ring: Link
  bytes: number
  entries: number
  /** Shares are filed by the power of two of what they take, so that a largest one is found at once. */
  rank: number
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

const RANKS = 32

/** @internal */
export const makeMemory = <A>(maxEntries: number, maxBytes: number): Memory<A> => {
  const slots = new Shelf<Slot<A>>()
  const shares = new Map<string, Share>()
  const ranks: Array<Set<Share>> = Array.from({ length: RANKS }, () => new Set())
  let bytes = 0
  let fences = 0

  const shareOf = (name: string): Share => {
    let share = shares.get(name)
    if (share === undefined) {
      share = { name, ring: makeRing(), bytes: 0, entries: 0, rank: 0 }
      shares.set(name, share)
      ranks[0]!.add(share)
    }
    return share
  }

  const count = (share: Share, size: number, entries: 1 | 0 | -1): void => {
    bytes += size
    share.bytes += size
    share.entries += entries
    const part = Math.min(Math.max(share.entries / maxEntries, share.bytes / maxBytes), 1)
    const rank = Math.max(0, RANKS - 1 - Math.clz32(part * 2 ** (RANKS - 1)))
    if (share.entries === 0) {
      shares.delete(share.name)
      ranks[share.rank]!.delete(share)
    } else if (rank !== share.rank) {
      ranks[share.rank]!.delete(share)
      ranks[rank]!.add(share)
      share.rank = rank
    }
  }

  const drop = (slot: Slot<A>): void => {
    unlink(slot)
    slots.delete(slot)
    count(slot.share, -slot.size, -1)
  }

  const living = (key: string, now: number): Slot<A> | undefined => {
    const slot = slots.get(key)
    if (slot === undefined || now - slot.storedAt < slot.ttl) return slot
    drop(slot)
    return undefined
  }

  const read = (slot: Slot<A>, now: number): Entry<A> => {
    unlink(slot)
    link(slot.share.ring, slot)
    return { value: slot.value as A, age: now - slot.storedAt }
  }

  /** What is to leave: whoever takes up most gives way first, with what it used least recently. */
  const tooMuch = (): Slot<A> | undefined => {
    if (slots.size <= maxEntries && bytes <= maxBytes) return undefined
    for (let rank = RANKS - 1; rank >= 0; rank--) {
      for (const { ring } of ranks[rank]!) if (ring.newer !== ring) return ring.newer as Slot<A>
    }
    return undefined
  }

  const put = (
    key: string,
    value: A | undefined,
    fence: number,
    { share: name = "", size: bare = 0, ttl }: SetOptions,
    now: number
  ): void => {
    const named = nameOf(key)
    let before = slots.at(named, key)
    const size = bare + 2 * (key.length + lengthOfNames(key))
    if (before !== undefined && (size > maxBytes || before.share.name !== name || before.key !== key)) {
      drop(before)
      before = undefined
    }
    if (size > maxBytes) return
    const share = before?.share ?? shareOf(name)
    const slot: Slot<A> = {
      key: before?.key ?? key,
      name: before?.name ?? named,
      value,
      fence,
      storedAt: now,
      ttl,
      size,
      share,
      older: share.ring,
      newer: share.ring
    }
    // In the same place of the map: to take a key out and put it in again costs more than all else here.
    slots.set(slot)
    if (before !== undefined) unlink(before)
    link(share.ring, slot)
    count(share, size - (before?.size ?? 0), before === undefined ? 1 : 0)
    for (let { newer } = share.ring; newer !== share.ring; newer = share.ring.newer) {
      const oldest = newer as Slot<A>
      if (now - oldest.storedAt < oldest.ttl) break
      drop(oldest)
    }
    for (let oldest = tooMuch(); oldest !== undefined; oldest = tooMuch()) drop(oldest)
  }

  const getUnsafe = (key: string, now: number): Entry<A> | undefined => {
    const slot = living(key, now)
    return slot === undefined || slot.fence > 0 ? undefined : read(slot, now)
  }

  const setUnsafe = (key: string, value: A, options: SetOptions, now: number): void => put(key, value, 0, options, now)

  // One process made it, so there is nobody to take over from.
  const acquire = (key: string, lease: number, now: number, options?: AcquireOptions<A>): Acquired<A> => {
    const slot = living(key, now)
    const isFree = slot === undefined ||
      (slot.fence === 0 && options?.replacing !== undefined && slot.value === options.replacing)
    if (isFree) {
      put(key, undefined, ++fences, { ttl: lease }, now)
      return { _tag: "Acquired", fence: fences }
    }
    return slot.fence > 0
      ? { _tag: "Held", left: slot.ttl - (now - slot.storedAt) }
      : { _tag: "Found", ...read(slot, now) }
  }

  const renew = (key: string, fence: number, lease: number, now: number): boolean => {
    const slot = living(key, now)
    if (slot === undefined || slot.fence === 0 || slot.fence !== fence) return false
    read(slot, now)
    slot.storedAt = now
    slot.ttl = lease
    return true
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
    acquire: (key, lease, options) => atNow((now) => acquire(key, lease, now, options)),
    renew: (key, fence, lease) => atNow((now) => renew(key, fence, lease, now)),
    complete: (key, fence, value, options) => atNow((now) => complete(key, fence, value, options, now)),
    release: (key, fence) =>
      Effect.sync(() => {
        const slot = slots.get(key)
        if (slot !== undefined && slot.fence > 0 && slot.fence === fence) drop(slot)
      })
  }
}
