/**
 * One call per key: equal calls in flight share one piece of work, and a repeated call gets the recorded answer.
 *
 * There is no service tag and no layer here, because the stored value and its failure are type parameters: build one
 * with {@link make} inside a Layer of your own and share it there.
 *
 * @since 0.1.0
 */
import * as Cause from "effect/Cause"
import type * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Result from "effect/Result"
import * as Scope from "effect/Scope"
import { attempt, OptionsReader } from "../internal/options.ts"
import { IdempotencyConflict, type LlmConfigError } from "../LlmError.ts"
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
  /** When this caller will leave, on the clock of your choice. The pattern only compares it. Default `Infinity`. */
  readonly deadlineAt?: number | undefined
  /**
   * Told by `run` how this call is going to be answered, as soon as that is decided; again when a caller it joined
   * gave up. `age` as in {@link Answer}.
   */
  readonly onDecided?: ((how: Answer<unknown>["how"], age: number) => void) | undefined
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
 * What is recorded under a key. Plain data, as long as `A` and `E` are.
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
   *   interrupted leaves at once. Only when the last one leaves, the work is interrupted, and that caller waits until
   *   the work has cleaned up. A caller that comes in the meantime starts anew.
   * - A failure goes to every member and is not recorded, unless the option `storeFailure` says so.
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
  ) => Effect.Effect<Answer<A>, E | IdempotencyConflict, R>
  /**
   * For work that cannot move to another fibre, such as a stream that is being consumed: the leader works in place,
   * members wait for its end.
   *
   * **Details**
   *
   * Taking the ticket and installing its release is one uninterruptible step: when the scope closes before
   * `ticket.complete`, the flight is abandoned.
   */
  readonly enter: (request: Request) => Effect.Effect<Entered<A, E>, IdempotencyConflict, Scope.Scope>
  /** The number of keys that are being worked on. */
  readonly inFlight: Effect.Effect<number>
}

/**
 * Options of {@link make}.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options<A, E> {
  /** How long an answer is replayed. Default 24 hours. */
  readonly ttl?: Duration.Input | undefined
  /** Where answers are recorded. Default: the memory of this process, within the two bounds below. */
  readonly store?: Store.Store<Stored<A, E>> | undefined
  /** The most answers the memory holds. Default 10 000. */
  readonly maxEntries?: number | undefined
  /** The most bytes the memory holds, counting `Produced.size`, keys and fingerprints. Default 64 MiB. */
  readonly maxBytes?: number | undefined
  /** Which failures are as final as an answer, and recorded. Default none. */
  readonly storeFailure?: ((error: E) => boolean) | undefined
  /** Told once for every operation of the store that failed. The call goes on without the store. */
  readonly onStoreError?: ((operation: "get" | "set") => void) | undefined
}

// -----------------------------------------------------------------------------
// flight
// -----------------------------------------------------------------------------

interface Member<A, E> {
  readonly deadlineAt: number
  readonly leader: boolean
  readonly resume: (effect: Effect.Effect<Outcome<A, E> | "abandoned">) => void
}

type Found<A, E> = Store.Entry<Stored<A, E>>

/** One key being worked on. All its methods are synchronous; the kernel below decides when they run. */
class FlightState<A, E> implements Flight {
  readonly key: string
  readonly fingerprint: string
  /** `reading`: is there a record? `working`: no. `settling`: the result is being recorded. `over`: see `result`. */
  phase: "reading" | "working" | "settling" | "over" = "reading"
  storeFailed = false
  result: Outcome<A, E> | "abandoned" | undefined
  /** The work, when it belongs to the flight and not to a leader in place. */
  fiber: Fiber.Fiber<unknown> | undefined
  deadlineAt = -Infinity
  /** What the leader found in the store, for those that came while it was `reading`. `undefined`: look again. */
  found: Deferred.Deferred<Found<A, E> | undefined> | undefined
  private readonly members = new Set<Member<A, E>>()

  constructor(request: Request) {
    this.key = request.key
    this.fingerprint = request.fingerprint
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
  }

  end(result: Outcome<A, E> | "abandoned"): void {
    this.phase = "over"
    // Nobody inherits an interruption that is not its own.
    const foreign = result !== "abandoned" && Exit.isFailure(result.exit) && Cause.hasInterruptsOnly(result.exit.cause)
    this.result = foreign ? "abandoned" : result
    for (const member of this.members) member.resume(Effect.succeed(member.leader ? result : this.result))
  }
}

const hash = (key: string): Effect.Effect<string> =>
  Effect.promise(async () => {
    const digest = await globalThis.crypto.subtle.digest("SHA-256", new TextEncoder().encode(key))
    return Array.from(new Uint8Array(digest, 0, 8), (byte) => byte.toString(16).padStart(2, "0")).join("")
  }).pipe(
    // Browsers offer no digest to pages without TLS.
    Effect.catchCause(() => Effect.succeed("unavailable"))
  )

/** A listener that throws must not lose an answer. */
const quietly = (tell: () => void): void => {
  try {
    tell()
  } catch {
    // nobody to tell
  }
}

const conflict = (key: string): Effect.Effect<never, IdempotencyConflict> =>
  Effect.flatMap(hash(key), (keyHash) => Effect.fail(new IdempotencyConflict({ keyHash })))

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
 * @category constructors
 * @since 0.1.0
 */
export const make = <A, E>(options?: Options<A, E>): Effect.Effect<Idempotency<A, E>, LlmConfigError> =>
  Effect.flatMap(
    attempt(() => {
      const known = ["ttl", "store", "maxEntries", "maxBytes", "storeFailure", "onStoreError"] as const
      const read = new OptionsReader("idempotency", options, known)
      return {
        ttl: read.millis("ttl", "24 hours"),
        maxEntries: read.integer("maxEntries", 10_000, 1),
        maxBytes: read.number("maxBytes", 64 * 1024 * 1024, 1)
      }
    }),
    ({ maxBytes, maxEntries, ttl }) =>
      Effect.map(
        options?.store === undefined
          ? Store.memory<Stored<A, E>>({ maxEntries, maxBytes })
          : Effect.succeed(options.store),
        (store) => build(store, ttl, options?.storeFailure, options?.onStoreError)
      )
  )

const build = <A, E>(
  store: Store.Store<Stored<A, E>>,
  ttl: number,
  storeFailure: ((error: E) => boolean) | undefined,
  onStoreError: ((operation: "get" | "set") => void) | undefined
): Idempotency<A, E> => {
  const flights = new Map<string, FlightState<A, E>>()

  const report = (operation: "get" | "set"): void => quietly(() => onStoreError?.(operation))

  // A flight owns its key until its phase is `over`, so whatever comes late is fenced by the phase.
  const abandon = (flight: FlightState<A, E>): void => {
    if (flight.phase !== "working") return
    flights.delete(flight.key)
    flight.end("abandoned")
  }

  // --- entering: runs uninterruptibly, `restore` opens the waits ---

  const replay = (request: Request, { age, value }: Found<A, E>): Effect.Effect<Admitted<A, E>, IdempotencyConflict> =>
    value.fingerprint !== request.fingerprint ? conflict(request.name ?? request.key) : Effect.succeed({
      _tag: "Replay",
      exit: value._tag === "Success" ? Exit.succeed(value.value) : Exit.fail(value.error),
      age
    })

  const admit = (request: Request, restore: Restore): Effect.Effect<Admitted<A, E>, IdempotencyConflict> => {
    const flight = flights.get(request.key)
    if (flight === undefined) return look(request, restore)
    if (flight.phase === "reading") {
      return Effect.flatMap(
        restore(Deferred.await(flight.found ??= Deferred.makeUnsafe())),
        (record) => record === undefined ? admit(request, restore) : replay(request, record)
      )
    }
    return flight.fingerprint === request.fingerprint
      ? Effect.succeed({ _tag: "Join", flight })
      : conflict(request.name ?? request.key)
  }

  // The flight exists before the store is read: otherwise a caller could miss the record and the work alike.
  const look = (request: Request, restore: Restore): Effect.Effect<Admitted<A, E>, IdempotencyConflict> => {
    const flight = new FlightState<A, E>(request)
    flights.set(request.key, flight)
    // The inner exit is the store's. The outer one fails only when this caller is interrupted.
    const get = Effect.exit(Effect.suspend(() => store.get(request.key)))
    return Effect.flatMap(Effect.exit(restore(get)), (looked) => {
      const read = Exit.isSuccess(looked) ? looked.value : undefined
      const record = read !== undefined && Exit.isSuccess(read) ? read.value : undefined
      const over = read === undefined || record !== undefined
      if (over) flights.delete(request.key)
      else flight.phase = "working"
      if (flight.found !== undefined) Deferred.doneUnsafe(flight.found, Effect.succeed(record))
      if (over) return record === undefined ? Effect.interrupt : replay(request, record)
      if (Exit.isFailure(read)) {
        flight.storeFailed = true
        report("get")
      }
      return Effect.succeed({ _tag: "Lead", flight })
    })
  }

  // --- waiting ---

  const leave = (flight: FlightState<A, E>, member: Member<A, E>): Effect.Effect<void> =>
    Effect.suspend(() => {
      flight.leave(member)
      if (!flight.empty || flight.fiber === undefined) return Effect.void
      // A result that is being recorded stays: it is paid for, and others may still join it.
      abandon(flight)
      return Fiber.interrupt(flight.fiber)
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
      const value = recordOf(flight, exit)
      if (value === undefined) return Effect.void
      const size = (Exit.isSuccess(exit) ? exit.value.size ?? 0 : 0) + 2 * flight.fingerprint.length
      return Effect.catchCause(Effect.suspend(() => store.set(flight.key, value, { ttl, size })), () => {
        flight.storeFailed = true
        report("set")
        return Effect.void
      })
    })

  /** Runs uninterruptibly. Whoever comes second, or too late, changes nothing. */
  const complete = (flight: FlightState<A, E>, exit: Exit.Exit<Produced<A>, E>): Effect.Effect<boolean> => {
    if (flight.phase !== "working") return Effect.succeed(false)
    flight.phase = "settling"
    return Effect.map(Effect.exit(record(flight, exit)), (recorded) => {
      flights.delete(flight.key)
      const { storeFailed } = flight
      const answer = Exit.map(exit, ({ value }) => value)
      // `storeFailure` is the caller's code: what it throws is a defect, and nobody waits for ever.
      flight.end({ exit: Exit.isFailure(recorded) ? Exit.failCause(recorded.cause) : answer, storeFailed })
      return storeFailed
    })
  }

  // --- verbs ---

  const run = <R>(
    request: Request,
    work: (flight: Flight) => Effect.Effect<Produced<A>, E, R>
  ): Effect.Effect<Answer<A>, E | IdempotencyConflict, R> => {
    type Answered = Effect.Effect<Answer<A>, E | IdempotencyConflict, R>
    const deadlineAt = request.deadlineAt ?? Infinity
    const decided = (how: Answer<A>["how"], age: number): void => quietly(() => request.onDecided?.(how, age))

    const start = (flight: FlightState<A, E>, context: Context.Context<R>) => () =>
      Effect.runForkWith(context)(
        Effect.flatMap(
          Effect.exit(Effect.interruptible(Effect.suspend(() => work(flight)))),
          (exit) => complete(flight, exit)
        ),
        { uninterruptible: true }
      )

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
            if (flight.fiber === undefined) abandon(flight) // interrupted before it could start
            return Effect.failCause(exit.cause)
          })
        )
      })

    return Effect.uninterruptibleMask(go)
  }

  const enterIn = (scope: Scope.Scope, request: Request): Effect.Effect<Entered<A, E>, IdempotencyConflict> =>
    Effect.uninterruptibleMask((restore) =>
      Effect.flatMap(admit(request, restore), (admitted): Effect.Effect<Entered<A, E>> => {
        if (admitted._tag === "Replay") return Effect.succeed(admitted)
        const { flight } = admitted
        if (admitted._tag === "Join") {
          return Effect.succeed({ _tag: "Join", await: wait(flight, request.deadlineAt ?? Infinity) })
        }
        const giveUp = Effect.sync(() => abandon(flight))
        const ticket: Ticket<A, E> = {
          complete: (exit) => Effect.uninterruptible(Effect.suspend(() => complete(flight, exit))),
          abandon: giveUp
        }
        return Effect.as(Scope.addFinalizer(scope, giveUp), { _tag: "Lead", ticket })
      })
    )

  return {
    run,
    enter: (request) => Effect.flatMap(Effect.scope, (scope) => enterIn(scope, request)),
    inFlight: Effect.sync(() => flights.size)
  }
}
