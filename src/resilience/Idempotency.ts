/**
 * One call per key: equal calls in flight share one piece of work, and a repeated call gets the recorded answer. With a
 * store that several processes share, that holds for all of them together.
 *
 * There is no service tag and no layer here, because the stored value and its failure are type parameters: build one
 * with {@link make} inside a Layer of your own and share it there.
 *
 * @since 0.1.0
 */
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Random from "effect/Random"
import * as Result from "effect/Result"
import * as Scope from "effect/Scope"
import { monotonicMillis } from "../internal/clock.ts"
import { attempt, boolean, finite, integer, millis, number, optionsOf, readOptions } from "../internal/option.ts"
import { sha256 } from "../internal/sha256.ts"
import { IdempotencyConflict, IdempotencyInProgress, type LlmConfigError } from "../LlmError.ts"
import * as Health from "../persistence/Health.ts"
import * as Store from "../persistence/Store.ts"

// -----------------------------------------------------------------------------
// models
// -----------------------------------------------------------------------------

/**
 * What is asked: the same `key` with the same `fingerprint` is the same call.
 *
 * @category models
 * @since 0.1.0
 */
export interface Request {
  /** The identity of the call; put the tenant and the operation into it. */
  readonly key: string
  /** What the caller calls the key; its hash names it in a conflict. Default: `key`. */
  readonly name?: string | undefined
  /** Stands for everything that affects the answer. Another fingerprint under a used key is a conflict. */
  readonly fingerprint: string
  /** Whose share of a bounded memory the record takes, such as a tenant's. Default: nobody's. */
  readonly share?: string | undefined
  /**
   * When this caller will leave, in milliseconds of the monotonic clock. In memory the pattern only compares it; with a
   * shared store it waits no longer than that for another process. Default `Infinity`.
   */
  readonly deadlineAt?: number | undefined
  /**
   * Told by `run` how this call is going to be answered, as soon as that is decided; again when a caller it joined
   * gave up. `age` as in {@link Answer}.
   */
  readonly onDecided?: ((how: Answer<unknown>["how"], age: number) => void) | undefined
  /**
   * What the caller still waits for stores. Waiting for another process is not waiting for the store.
   *
   * @internal
   */
  readonly patience?: Health.Patience | undefined
}

/**
 * The shared work, as the work itself sees it.
 *
 * @category models
 * @since 0.1.0
 */
export interface Flight {
  /** The latest `deadlineAt` of the callers that are waiting now. Read it anew whenever it matters. */
  readonly deadlineAt: number
  /** It has been later: a caller with more time has left. */
  readonly wasLater: boolean
}

/**
 * A finished answer. `store` says whether it may be recorded and replayed, `size` how many bytes it takes.
 *
 * @category models
 * @since 0.1.0
 */
export interface Produced<out A> {
  readonly value: A
  readonly store: boolean
  readonly size?: number | undefined
}

/**
 * What is recorded under a key. Plain data, as long as `A` and `E` are. A shared store gets the fingerprint's SHA-256.
 *
 * @category models
 * @since 0.1.0
 */
export type Stored<A, E> =
  | { readonly _tag: "Success"; readonly fingerprint: string; readonly value: A }
  | { readonly _tag: "Failure"; readonly fingerprint: string; readonly error: E }

/**
 * An answer and how this caller came by it. `age` = milliseconds since a replayed answer was recorded, else 0;
 * `storeFailed` = the store could not be read or written, so a repetition may do the work again.
 *
 * @category models
 * @since 0.1.0
 */
export interface Answer<out A> {
  readonly value: A
  readonly how: "led" | "joined" | "replayed"
  readonly age: number
  readonly storeFailed: boolean
}

/**
 * How a flight ended.
 *
 * @category models
 * @since 0.1.0
 */
export interface Outcome<out A, out E> {
  readonly exit: Exit.Exit<A, E>
  readonly storeFailed: boolean
}

/**
 * The leader's duty to end its flight, once. Whatever comes second does nothing.
 *
 * @category models
 * @since 0.1.0
 */
export interface Ticket<in A, in E> {
  /** Records the result if it may be recorded, then hands it to every member. `true` = the store failed. */
  readonly complete: (exit: Exit.Exit<Produced<A>, E>) => Effect.Effect<boolean>
  /** Gives up without a result: one of the members does the work instead. */
  readonly abandon: Effect.Effect<void>
}

/**
 * What a caller that leads in its own fibre finds:
 *
 * - `Replay`: the key is known.
 * - `Join`: the same call is in flight. `await` waits for its end; on `"abandoned"` enter again. A caller counts as a
 *   member exactly while it runs `await`.
 * - `Lead`: the caller does the work and ends the flight by its ticket.
 *
 * @category models
 * @since 0.1.0
 */
export type Entered<A, E> =
  | { readonly _tag: "Replay"; readonly exit: Exit.Exit<A, E>; readonly age: number }
  | { readonly _tag: "Join"; readonly await: Effect.Effect<Outcome<A, E> | "abandoned"> }
  | { readonly _tag: "Lead"; readonly ticket: Ticket<A, E> }

/**
 * Shares and replays the answers of equal calls.
 *
 * @category models
 * @since 0.1.0
 */
export interface Idempotency<in out A, in out E> {
  /**
   * Answers a call: known key → recorded answer, same call in flight → join it, else do the work.
   *
   * **Details**
   *
   * - The work runs in a fibre of its own, with the context of the caller that started it. A caller that is
   *   interrupted leaves at once; while it asks a `store`, as soon as that has answered, or after 100 ms. Only when the last one leaves,
   *   the work is interrupted, and that caller waits until the work has cleaned up. A caller that comes in the meantime
   *   starts anew.
   * - A failure goes to every member and is not recorded, unless the option `storeFailure` says so.
   * - A lease of this process is renewed each third of its length for as long as the work goes on.
   * - Another process works on the key: this one waits until the record appears, the lease ends (then it does the work)
   *   or there is no time for another look before `deadlineAt` (then it fails with `IdempotencyInProgress`).
   * - If the work interrupts itself, the caller that brought it is interrupted and another member does its own work.
   *
   * **Gotchas**
   *
   * Work that calls `run` with its own key waits for itself. Work can outlive the caller that brought it, so it opens
   * its own `Scope` and does not use that caller's.
   */
  readonly run: <R>(
    request: Request,
    work: (flight: Flight) => Effect.Effect<Produced<A>, E, R>
  ) => Effect.Effect<Answer<A>, E | IdempotencyConflict | IdempotencyInProgress, R>
  /**
   * For work that cannot move to another fibre, such as a stream that is being consumed: the leader works in place,
   * members wait for its end.
   *
   * **Details**
   *
   * Taking the ticket and installing its release is one uninterruptible step: when the scope closes before
   * `ticket.complete`, the flight is abandoned.
   */
  readonly enter: (
    request: Request
  ) => Effect.Effect<Entered<A, E>, IdempotencyConflict | IdempotencyInProgress, Scope.Scope>
  /** The number of keys that are being worked on. */
  readonly inFlight: Effect.Effect<number>
}

/**
 * What can stand in a configuration.
 *
 * @category models
 * @since 0.2.0
 */
export interface Settings {
  /** How long an answer is replayed. Default 24 hours. */
  readonly ttl?: Duration.Input | undefined
  /**
   * With a store: how long a key stays with a process that gives no sign of life. A process that lives renews its
   * leases, so this is not a limit of the work; one that dies blocks its keys for so long. Default 15 seconds.
   */
  readonly lease?: Duration.Input | undefined
  /**
   * With a store: do not wait for leases of other processes, because there are none that live, as in a batch program
   * that was killed and starts again. With another one alive, work is done twice. Default `false`.
   */
  readonly takeOver?: boolean | undefined
  /** The most answers the memory holds. Default 10 000. */
  readonly maxEntries?: number | undefined
  /** The most bytes the memory holds, counting answers, keys and fingerprints. Default 64 MiB. */
  readonly maxBytes?: number | undefined
}

/**
 * The schema of {@link Settings}: defaults and rules.
 *
 * @category schemas
 * @since 0.2.0
 */
export const SettingsSchema = optionsOf<Settings>()({
  ttl: millis("24 hours"),
  lease: finite("15 seconds", 1),
  takeOver: boolean(false),
  maxEntries: integer(10_000, 1),
  maxBytes: number(64 * 1024 * 1024, 1)
})

/**
 * Options of {@link make}.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options<A, E> extends Settings {
  /**
   * Where answers are recorded, and keys are leased to the process that works on them. It sees keys and fingerprints as
   * SHA-256. `Store.withSchema` makes one of a `SharedStore`. Default: the memory of this process, within `maxEntries`
   * and `maxBytes`.
   */
  readonly store?: Store.LeaseStore<Stored<A, E>> | undefined
  /** Which failures are as final as an answer, and recorded. Default none. */
  readonly storeFailure?: ((error: E) => boolean) | undefined
  /**
   * Told once for every operation of the store that failed, or was not waited for any longer. The call goes on without
   * the store. `renew`: a lease ended although the work went on, so another process may have begun it as well.
   */
  readonly onStoreError?: ((operation: "acquire" | "renew" | "complete") => void) | undefined
}

/**
 * Where the clients that are built below record their calls for each other, and lease keys. `undefined` (default): each in
 * a memory of its own.
 *
 * **Details**
 *
 * What is recorded: whole answers with their ledger, and refused requests (without the provider's own text) under a given
 * key. Keys and questions are hashed; answers are plain JSON, so protect the store like the answers themselves. Clients that
 * share a store share answers, whatever their targets: separate applications by the store's key prefix.
 *
 * @category references
 * @since 0.2.0
 */
export const IdempotencyStore = Context.Reference<Store.LeaseStore<string> | undefined>(
  "effect-resilient-llm/IdempotencyStore",
  { defaultValue: () => undefined }
)

// -----------------------------------------------------------------------------
// flight
// -----------------------------------------------------------------------------

interface Member<A, E> {
  readonly deadlineAt: number
  readonly leader: boolean
  readonly resume: (effect: Effect.Effect<Outcome<A, E> | "abandoned">) => void
}

type Found<A, E> = Store.Entry<Stored<A, E>>

/** A lease of another process: when it ends, and when the store is looked at again. */
interface Held {
  readonly until: number
  readonly lookAt: number
}

/** One key being worked on. All its methods are synchronous; the kernel below decides when they run. */
class FlightState<A, E> implements Flight {
  readonly key: string
  readonly fingerprint: string
  readonly share: string | undefined
  /**
   * `reading`: is there a record, or another process at work? `working`: no. `settling`: the result is being recorded,
   * or the lease given back. `over`: see `result`.
   */
  phase: "reading" | "working" | "settling" | "over" = "reading"
  storeFailed = false
  /** Of the lease; 0 without one. */
  fence = 0
  /** Renews the lease. */
  renewal: Fiber.Fiber<unknown> | undefined
  readonly patience: Health.Patience
  held: Held | undefined
  result: Outcome<A, E> | "abandoned" | undefined
  /** The work, when it belongs to the flight and not to a leader in place. */
  fiber: Fiber.Fiber<unknown> | undefined
  deadlineAt = -Infinity
  wasLater = false
  /** What the leader found in the store, for those that came while it was `reading`. `undefined`: look again. */
  found: Deferred.Deferred<Found<A, E> | undefined> | undefined
  private readonly members = new Set<Member<A, E>>()

  constructor(request: Request) {
    this.key = request.key
    this.fingerprint = request.fingerprint
    this.share = request.share
    this.patience = request.patience ?? Health.makePatience()
  }

  /** Tells those that came while it was `reading`. */
  tell(found: Found<A, E> | undefined): void {
    const waiting = this.found
    this.found = undefined
    if (waiting !== undefined) Deferred.doneUnsafe(waiting, Effect.succeed(found))
  }

  get empty(): boolean {
    return this.members.size === 0
  }

  join(member: Member<A, E>): void {
    this.members.add(member)
    if (member.deadlineAt > this.deadlineAt) this.deadlineAt = member.deadlineAt
  }

  leave(member: Member<A, E>): void {
    this.members.delete(member)
    if (member.deadlineAt !== this.deadlineAt) return
    this.deadlineAt = -Infinity
    for (const { deadlineAt } of this.members) {
      if (deadlineAt > this.deadlineAt) this.deadlineAt = deadlineAt
      if (deadlineAt === member.deadlineAt) break
    }
    this.wasLater ||= this.deadlineAt < member.deadlineAt
  }

  end(result: Outcome<A, E> | "abandoned"): void {
    this.phase = "over"
    // Nobody inherits an interruption that is not its own.
    const foreign = result !== "abandoned" && Exit.isFailure(result.exit) && Cause.hasInterruptsOnly(result.exit.cause)
    this.result = foreign ? "abandoned" : result
    for (const member of this.members) member.resume(Effect.succeed(member.leader ? result : this.result))
  }
}

/** A listener that throws must not lose an answer. */
const quietly = (tell: () => void): void => {
  try {
    tell()
  } catch {
    // nobody to tell
  }
}

const conflict = (key: string): Effect.Effect<never, IdempotencyConflict> =>
  Effect.suspend(() => Effect.fail(new IdempotencyConflict({ keyHash: sha256(key).slice(0, 16) })))

const inProgress = (held: Held): Effect.Effect<never, IdempotencyInProgress> =>
  Clock.clockWith((clock) => {
    const left = Math.max(0, Math.ceil(held.until - monotonicMillis(clock)))
    return Effect.fail(new IdempotencyInProgress({ retryAfter: Duration.millis(left) }))
  })

// -----------------------------------------------------------------------------
// books: where a flight looks its key up, and where it records
// -----------------------------------------------------------------------------

interface Books<A, E> {
  readonly acquire: (
    key: string,
    patience: Health.Patience | undefined
  ) => Effect.Effect<Store.Acquired<Stored<A, E>>, Store.StoreError>
  readonly renew: (key: string, fence: number) => Effect.Effect<boolean, Store.StoreError>
  readonly complete: (
    key: string,
    fence: number,
    value: Stored<A, E>,
    options: Store.SetOptions,
    patience: Health.Patience
  ) => Effect.Effect<unknown, Store.StoreError>
  readonly release: (key: string, fence: number, patience: Health.Patience) => Effect.Effect<void, Store.StoreError>
  /** How long a lease lasts without a renewal. */
  readonly lease: number
  /** How a request is named there. */
  readonly nameOf: (request: Request) => Request
}

const isLate = (cause: Cause.Cause<Store.StoreError>): boolean =>
  cause.reasons.some((reason) => reason._tag === "Fail" && reason.error.reason === "timeout")

const free: Store.Acquired<never> = { _tag: "Acquired", fence: 0 }

/** In one process the flights are the leases. */
const privateBooks = <A, E>(memory: Store.Memory<Stored<A, E>>): Books<A, E> => ({
  acquire: (key) =>
    Clock.clockWith((clock) => {
      const found = memory.getUnsafe(key, monotonicMillis(clock))
      return Effect.succeed(found === undefined ? free : { _tag: "Found", value: found.value, age: found.age })
    }),
  renew: () => Effect.succeed(true),
  complete: (key, _, value, options) => memory.set(key, value, options),
  release: () => Effect.void,
  lease: Infinity,
  nameOf: (request) => request
})

/** Nobody waits for the store longer than its health allows. What comes too late is put right. */
const sharedBooks = <A, E>(
  store: Store.LeaseStore<Stored<A, E>>,
  lease: number,
  takeOver: boolean,
  { ask }: Health.Health
): Books<A, E> => {
  return {
    acquire: (key, patience) =>
      ask("acquire", Effect.suspend(() => store.acquire(key, lease, { takeOver })), {
        patience,
        late: (acquired) => acquired._tag === "Acquired" ? store.release(key, acquired.fence) : Effect.void
      }),
    renew: (key, fence) => ask("renew", Effect.suspend(() => store.renew(key, fence, lease))),
    complete: (key, fence, value, options, patience) =>
      ask("complete", Effect.suspend(() => store.complete(key, fence, value, options)), { patience }),
    release: (key, fence, patience) => ask("release", Effect.suspend(() => store.release(key, fence)), { patience }),
    lease,
    // Keys may name people and fingerprints hold prompts: neither leaves memory as it is.
    nameOf: (request) => ({
      ...request,
      key: sha256(request.key),
      name: request.name ?? request.key,
      fingerprint: sha256(request.fingerprint)
    })
  }
}

/** No request has this key: theirs are hashes. */
const PING = "ping"

/** @internal */
export const healthOf = <A>(store: Store.LeaseStore<A>, scope?: Scope.Scope): Health.Health =>
  Health.of(store, () => store.get(PING), scope)

/** How long to wait before the store is looked at again: 50 ms, doubled up to 1 s, half of it by chance. */
const FIRST_LOOK = 50
const LAST_LOOK = 1000
const pause = (looks: number, u: number): number => Math.min(FIRST_LOOK * 2 ** looks, LAST_LOOK) * (0.5 + u / 2)

/** Renewals per lease, and how often one that failed is tried again before the lease ends. */
const RENEWALS = 3
const TRIES = 5

const TAKES_OVER =
  "idempotency.takeOver: leases of other processes do not count. With another one alive, work is done twice."

// -----------------------------------------------------------------------------
// constructor
// -----------------------------------------------------------------------------

type Restore = <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R>

type Admitted<A, E> =
  | { readonly _tag: "Replay"; readonly exit: Exit.Exit<A, E>; readonly age: number }
  | { readonly _tag: "Join" | "Lead"; readonly flight: FlightState<A, E> }

/**
 * Makes an {@link Idempotency}: single flight plus a record of finished answers.
 *
 * **Details**
 *
 * - A key is worked on at most once at a time in this process, also while a slow store is being read or written.
 *   Callers wait for the record to be written, so a repetition never overtakes it.
 * - A store that fails never fails a call: reading → the work is done, writing → the answer is returned.
 * - With a `store`, a key is also worked on by one process at a time: by the one that holds its lease. That is "at most
 *   once" as long as the lease can be renewed. If it cannot, because the process or the store is stopped for longer than
 *   the lease, another process may do the work again; then the first record stays, the later one is refused, and each caller has the answer of its own
 *   process. Exactly once would need the cooperation of whom the work calls.
 * - Memory: one flight per key in work, bounded by the callers that wait.
 *
 * **Example** (Two equal calls, one piece of work)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import * as Idempotency from "effect-resilient-llm/resilience/Idempotency"
 *
 * const program = Effect.gen(function*() {
 *   const idempotency = yield* Idempotency.make<number, never>()
 *   let runs = 0
 *   const call = idempotency.run(
 *     { key: "invoice-7", fingerprint: "sum 1 2" },
 *     () => Effect.delay(Effect.sync(() => ({ value: ++runs, store: true })), "1 millis")
 *   )
 *   const answers = yield* Effect.all([call, call], { concurrency: 2 })
 *   const repeated = yield* call
 *   return [...answers, repeated].map(({ how, value }) => `${how} ${value}`)
 * })
 *
 * await Effect.runPromise(program) // => ["led 1", "joined 1", "replayed 1"]
 * ```
 *
 * **Example** (Two processes, one piece of work)
 *
 * ```ts import.meta.vitest
 * import { Effect, Schema } from "effect"
 * import { Store } from "effect-resilient-llm/persistence"
 * import * as Idempotency from "effect-resilient-llm/resilience/Idempotency"
 *
 * const Stored = Schema.TaggedStruct("Success", { fingerprint: Schema.String, value: Schema.Number })
 *
 * const program = Effect.gen(function*() {
 *   const store = Store.withSchema<Idempotency.Stored<number, never>>(yield* Store.SharedStore, Stored)
 *   const here = yield* Idempotency.make<number, never>({ store, lease: "1 minute" })
 *   const there = yield* Idempotency.make<number, never>({ store, lease: "1 minute" })
 *   const call = { key: "invoice-7", fingerprint: "sum 1 2" }
 *   const slow = Effect.delay(Effect.succeed({ value: 3, store: true }), "1 millis")
 *   const answers = yield* Effect.all([here.run(call, () => slow), there.run(call, () => slow)], { concurrency: 2 })
 *   return answers.map(({ how, value }) => `${how} ${value}`)
 * })
 *
 * const live = Store.layerMemory({ maxEntries: 1000 })
 * await Effect.runPromise(Effect.provide(program, live)) // => ["led 3", "replayed 3"]
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = <A, E>(options?: Options<A, E>): Effect.Effect<Idempotency<A, E>, LlmConfigError> =>
  attempt(() => {
    const { onStoreError, store, storeFailure, ...settings } = options ?? {}
    const { lease, maxBytes, maxEntries, takeOver, ttl } = readOptions(SettingsSchema, settings, "idempotency")
    const books = store === undefined
      ? privateBooks(Store.makeMemory<Stored<A, E>>(maxEntries, maxBytes))
      : sharedBooks(store, lease, takeOver, healthOf(store))
    const idempotency = build(books, ttl, storeFailure, onStoreError)
    const warned = takeOver && store !== undefined ? Effect.logWarning(TAKES_OVER) : Effect.void
    return Effect.as(warned, idempotency)
  }).pipe(Effect.flatten)

const build = <A, E>(
  books: Books<A, E>,
  ttl: number,
  storeFailure: ((error: E) => boolean) | undefined,
  onStoreError: ((operation: "acquire" | "renew" | "complete") => void) | undefined
): Idempotency<A, E> => {
  const flights = new Map<string, FlightState<A, E>>()

  const report = (operation: "acquire" | "renew" | "complete"): void => quietly(() => onStoreError?.(operation))

  // --- leases ---

  /** Keeps the lease until the work ends. One that cannot be renewed costs nobody anything: the fence decides. */
  const keepLease = (flight: FlightState<A, E>, until: number): Effect.Effect<void> => {
    const again = (millis: number, until: number): Effect.Effect<void> =>
      Effect.andThen(
        Effect.sleep(millis),
        Clock.clockWith((clock) => {
          const asked = monotonicMillis(clock)
          return Effect.matchCauseEffect(Effect.suspend(() => books.renew(flight.key, flight.fence)), {
            onSuccess: (renewed) => {
              if (renewed) return again(books.lease / RENEWALS, asked + books.lease)
              report("renew")
              return Effect.void
            },
            onFailure: () => {
              const left = until - monotonicMillis(clock)
              if (left > 0) return again(Math.min(left, books.lease / RENEWALS / TRIES), until)
              report("renew")
              return Effect.void
            }
          })
        })
      )
    return again(books.lease / RENEWALS, until)
  }

  const endRenewal = (flight: FlightState<A, E>): void => {
    flight.renewal?.interruptUnsafe()
    flight.renewal = undefined
  }

  /** Gives the lease back, if there is one. It ends by itself, so nobody minds when that fails. */
  const release = (flight: FlightState<A, E>): Effect.Effect<void> =>
    flight.fence === 0
      ? Effect.void
      : Effect.ignoreCause(Effect.suspend(() => books.release(flight.key, flight.fence, flight.patience)))

  // A flight owns its key until its phase is `over`, so whatever comes late is fenced by the phase. At once without a
  // lease; else what it returns runs uninterruptibly, and the key is free for other processes first.
  const abandon = (flight: FlightState<A, E>): Effect.Effect<void> => {
    if (flight.phase !== "working") return Effect.void
    const end = (): void => {
      flights.delete(flight.key)
      flight.end("abandoned")
    }
    flight.phase = "settling"
    endRenewal(flight)
    if (flight.fence > 0) return Effect.map(release(flight), end)
    end()
    return Effect.void
  }

  // --- entering: runs uninterruptibly, `restore` opens the waits ---

  type Admission = Effect.Effect<Admitted<A, E>, IdempotencyConflict | IdempotencyInProgress>

  const replay = (request: Request, { age, value }: Found<A, E>): Admission =>
    value.fingerprint !== request.fingerprint ? conflict(request.name ?? request.key) : Effect.succeed({
      _tag: "Replay",
      exit: value._tag === "Success" ? Exit.succeed(value.value) : Exit.fail(value.error),
      age
    })

  const isTooLate = ({ deadlineAt = Infinity }: Request, { lookAt }: Held): boolean => lookAt >= deadlineAt

  const admit = (request: Request, restore: Restore): Admission => {
    const flight = flights.get(request.key)
    if (flight === undefined) {
      // It exists before the store is read: otherwise a caller could miss the record and the work alike.
      const flight = new FlightState<A, E>(request)
      flights.set(request.key, flight)
      return look(flight, request, restore, 0)
    }
    if (flight.phase === "reading") {
      if (flight.held !== undefined && isTooLate(request, flight.held)) return inProgress(flight.held)
      return Effect.flatMap(
        restore(Deferred.await(flight.found ??= Deferred.makeUnsafe())),
        (record) => record === undefined ? admit(request, restore) : replay(request, record)
      )
    }
    return flight.fingerprint === request.fingerprint
      ? Effect.succeed({ _tag: "Join", flight })
      : conflict(request.name ?? request.key)
  }

  // Asking is taking, so it is not interrupted; only the pause between two looks is.
  const look = (flight: FlightState<A, E>, request: Request, restore: Restore, looks: number): Admission =>
    Effect.withFiber((fiber) => {
      const clock = fiber.getRef(Clock.Clock)
      const asked = monotonicMillis(clock)
      // Later looks are for the other process.
      const patience = looks === 0 ? flight.patience : undefined
      const acquiring = Effect.suspend(() => books.acquire(request.key, patience))
      return Effect.flatMap(Effect.exit(acquiring), (looked): Admission => {
        const acquired = Exit.isSuccess(looked) ? looked.value : undefined
        switch (acquired?._tag) {
          case "Held":
            return waitForOthers(flight, request, restore, looks, acquired.left)
          case "Found":
            flights.delete(request.key)
            flight.tell(acquired)
            return replay(request, acquired)
          case "Acquired":
            flight.fence = acquired.fence
            if (acquired.fence > 0) {
              flight.renewal = Effect.runForkWith(fiber.context)(keepLease(flight, asked + books.lease))
            }
            break
          case undefined:
            flight.storeFailed = true
            report("acquire")
        }
        flight.phase = "working"
        flight.tell(undefined)
        return Effect.succeed({ _tag: "Lead", flight })
      })
    })

  const waitForOthers = (
    flight: FlightState<A, E>,
    request: Request,
    restore: Restore,
    looks: number,
    left: number
  ): Admission =>
    Effect.withFiber((fiber) => {
      const now = monotonicMillis(fiber.getRef(Clock.Clock))
      const u = fiber.getRef(Random.Random).nextDoubleUnsafe()
      // The end of a lease is looked at as it comes, but a store that cannot tell it is not asked without a pause: one that
      // gives no number, or still says "soon" when that is over.
      const isKnown = left > 0 && left < Infinity
      const isStuck = flight.held !== undefined && now >= flight.held.until && left < FIRST_LOOK
      const longest = pause(looks, u)
      const millis = Math.max(1, Math.ceil(isKnown && !isStuck ? Math.min(longest, left) : longest))
      const held = flight.held = { until: now + (isKnown ? left : millis), lookAt: now + millis }
      const giveUp = (): void => {
        flights.delete(request.key)
        flight.tell(undefined)
      }
      if (isTooLate(request, held)) {
        giveUp()
        return inProgress(held)
      }
      // Others of this process that wait may have less time.
      flight.tell(undefined)
      return Effect.flatMap(Effect.exit(restore(Effect.sleep(millis))), (slept) => {
        if (Exit.isSuccess(slept)) return look(flight, request, restore, looks + 1)
        giveUp()
        return Effect.failCause(slept.cause)
      })
    })

  // --- waiting ---

  const leave = (flight: FlightState<A, E>, member: Member<A, E>): Effect.Effect<void> =>
    Effect.suspend(() => {
      flight.leave(member)
      const { fiber } = flight
      if (!flight.empty || fiber === undefined) return Effect.void
      // A result that is being recorded stays: it is paid for, and others may still join it.
      const abandoned = abandon(flight)
      fiber.interruptUnsafe()
      return Effect.andThen(abandoned, Effect.asVoid(Fiber.await(fiber)))
    })

  /** Registers the member and what removes it in one step. */
  const wait = (
    flight: FlightState<A, E>,
    deadlineAt: number,
    start?: () => Fiber.Fiber<unknown>
  ): Effect.Effect<Outcome<A, E> | "abandoned"> =>
    Effect.callback((resume) => {
      if (flight.result !== undefined) return resume(Effect.succeed(flight.result))
      const member: Member<A, E> = { deadlineAt, leader: start !== undefined, resume }
      flight.join(member)
      if (start !== undefined) flight.fiber = start()
      return leave(flight, member)
    })

  // --- ending ---

  const recordOf = (flight: FlightState<A, E>, exit: Exit.Exit<Produced<A>, E>): Stored<A, E> | undefined => {
    const fingerprint = flight.fingerprint
    if (Exit.isSuccess(exit)) {
      return exit.value.store ? { _tag: "Success", fingerprint, value: exit.value.value } : undefined
    }
    if (storeFailure === undefined || Cause.hasInterrupts(exit.cause) || Cause.hasDies(exit.cause)) return undefined
    const error = Cause.findError(exit.cause)
    return Result.isSuccess(error) && storeFailure(error.success)
      ? { _tag: "Failure", fingerprint, error: error.success }
      : undefined
  }

  const record = (flight: FlightState<A, E>, exit: Exit.Exit<Produced<A>, E>): Effect.Effect<void> =>
    Effect.suspend(() => {
      let value: Stored<A, E> | undefined
      try {
        value = recordOf(flight, exit)
      } catch (defect) {
        // `storeFailure` is the caller's code: what it throws is a defect, and nobody waits for ever.
        return Effect.andThen(release(flight), Effect.die(defect))
      }
      if (value === undefined) return release(flight)
      const stored = value
      const size = (Exit.isSuccess(exit) ? exit.value.size ?? 0 : 0) + 2 * flight.fingerprint.length
      const options = { ttl, size, share: flight.share }
      const complete = Effect.suspend(() => books.complete(flight.key, flight.fence, stored, options, flight.patience))
      // Refused when another process has taken over: then that one's record counts.
      return Effect.matchCauseEffect(complete, {
        onSuccess: () => Effect.void,
        onFailure: (cause) => {
          flight.storeFailed = true
          report("complete")
          // What nobody waits for any more may still arrive: the lease is kept for it, and ends by itself.
          return isLate(cause) ? Effect.void : release(flight)
        }
      })
    })

  /** Runs uninterruptibly. Whoever comes second, or too late, changes nothing. */
  const complete = (flight: FlightState<A, E>, exit: Exit.Exit<Produced<A>, E>): Effect.Effect<boolean> => {
    if (flight.phase !== "working") return Effect.succeed(false)
    flight.phase = "settling"
    endRenewal(flight)
    return Effect.map(Effect.exit(record(flight, exit)), (recorded) => {
      flights.delete(flight.key)
      const { storeFailed } = flight
      const answer = Exit.map(exit, ({ value }) => value)
      flight.end({ exit: Exit.isFailure(recorded) ? Exit.failCause(recorded.cause) : answer, storeFailed })
      return storeFailed
    })
  }

  // --- verbs ---

  const run = <R>(
    asked: Request,
    work: (flight: Flight) => Effect.Effect<Produced<A>, E, R>
  ): Effect.Effect<Answer<A>, E | IdempotencyConflict | IdempotencyInProgress, R> => {
    type Answered = Effect.Effect<Answer<A>, E | IdempotencyConflict | IdempotencyInProgress, R>
    const request = books.nameOf(asked)
    const deadlineAt = request.deadlineAt ?? Infinity
    const decided = (how: Answer<A>["how"], age: number): void => quietly(() => request.onDecided?.(how, age))

    const start = (flight: FlightState<A, E>, context: Context.Context<R>) => () => {
      const fiber = Effect.runForkWith(context)(
        Effect.flatMap(
          Effect.exit(Effect.interruptible(Effect.suspend(() => work(flight)))),
          (exit) => complete(flight, exit)
        ),
        { uninterruptible: true }
      )
      // A fibre that met what is no effect has ended on the spot; nobody waits for it for ever.
      fiber.addObserver((exit) => {
        if (Exit.isFailure(exit) && flight.phase === "working") {
          Effect.runForkWith(context)(complete(flight, Exit.failCause(exit.cause)))
        }
      })
      return fiber
    }

    const answer = (how: Answer<A>["how"], age: number, { exit, storeFailed }: Outcome<A, E>): Answered =>
      Exit.isSuccess(exit)
        ? Effect.succeed({ value: exit.value, how, age, storeFailed })
        : Effect.failCause(exit.cause)

    const go = (restore: Restore): Answered =>
      Effect.flatMap(admit(request, restore), (admitted): Answered => {
        if (admitted._tag === "Replay") {
          decided("replayed", admitted.age)
          return answer("replayed", admitted.age, { exit: admitted.exit, storeFailed: false })
        }
        const { flight } = admitted
        const how = admitted._tag === "Join" ? "joined" : "led"
        decided(how, 0)
        const ended = (result: Outcome<A, E> | "abandoned"): Answered =>
          result === "abandoned" ? go(restore) : answer(how, 0, result)
        if (how === "joined") return Effect.flatMap(restore(wait(flight, deadlineAt)), ended)
        return Effect.contextWith((context: Context.Context<R>) =>
          Effect.flatMap(Effect.exit(restore(wait(flight, deadlineAt, start(flight, context)))), (exit) => {
            if (Exit.isSuccess(exit)) return ended(exit.value)
            // Interrupted before it could start?
            return Effect.andThen(
              flight.fiber === undefined ? abandon(flight) : Effect.void,
              Effect.failCause(exit.cause)
            )
          })
        )
      })

    return Effect.uninterruptibleMask(go)
  }

  const enterIn = (
    scope: Scope.Scope,
    request: Request
  ): Effect.Effect<Entered<A, E>, IdempotencyConflict | IdempotencyInProgress> =>
    Effect.uninterruptibleMask((restore) =>
      Effect.flatMap(admit(request, restore), (admitted): Effect.Effect<Entered<A, E>> => {
        if (admitted._tag === "Replay") return Effect.succeed(admitted)
        const { flight } = admitted
        if (admitted._tag === "Join") {
          return Effect.succeed({ _tag: "Join", await: wait(flight, request.deadlineAt ?? Infinity) })
        }
        const giveUp = Effect.uninterruptible(Effect.suspend(() => abandon(flight)))
        const ticket: Ticket<A, E> = {
          complete: (exit) => Effect.uninterruptible(Effect.suspend(() => complete(flight, exit))),
          abandon: giveUp
        }
        return Effect.as(Scope.addFinalizer(scope, giveUp), { _tag: "Lead", ticket })
      })
    )

  return {
    run,
    enter: (request) => Effect.flatMap(Effect.scope, (scope) => enterIn(scope, books.nameOf(request))),
    inFlight: Effect.sync(() => flights.size)
  }
}
