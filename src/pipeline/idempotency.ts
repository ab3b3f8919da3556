// Idempotency: one key, one call. Who leads, who joins, and what they hand each other.
import * as Cause from "effect/Cause"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Random from "effect/Random"
import * as Scope from "effect/Scope"
import {
  type DeadlineExceeded,
  type IdempotencyConflict,
  type IdempotencyInProgress,
  isDeadlineExceeded,
  isProviderError,
  type LlmConfigError
} from "../LlmError.ts"
import { isReplayable } from "../LlmResponse.ts"
import type { Health } from "../persistence/Health.ts"
import * as Idempotency from "../resilience/Idempotency.ts"
import { Broadcast, untilDeadline } from "./broadcast.ts"
import { type Fallback, questionOf } from "./cache.ts"
import type { Call } from "./call.ts"
import { accepts } from "./checked.ts"
import { recordsIn, type Shared, type Work } from "./records.ts"
import type { Settings } from "./settings.ts"
import { type Served, sizeOf, type Stage, whole } from "./stage.ts"

/** What this stage adds. A waiting caller's own time can end before the work's. */
export type IdempotencyError = IdempotencyConflict | IdempotencyInProgress | DeadlineExceeded

interface Flights<E> {
  readonly of: Idempotency.Idempotency<Shared, E>
  /** Streams that are being read, by key. */
  readonly streams: Map<string, Broadcast<E>>
  /** Are answers recorded? */
  readonly keep: boolean
  /** With other processes? */
  readonly shared: boolean
}

export const idempotent = <E>(
  { derive, ...memory }: NonNullable<Settings["idempotency"]>,
  watch: (health: Health) => void,
  orStale: Fallback,
  self: Stage<E>
): Effect.Effect<Stage<E | IdempotencyError>, LlmConfigError, Scope.Scope> =>
  Effect.gen(function*() {
    const store = yield* Idempotency.IdempotencyStore
    const health = store === undefined ? undefined : Idempotency.healthOf(store, yield* Effect.scope)
    if (health !== undefined) watch(health)
    const shared = store === undefined ? undefined : { store: { ...recordsIn<E>(store), health } }
    const isShared = shared !== undefined
    // What is only joined is not recorded, so other processes would wait for nothing.
    const derived: Flights<E> = {
      of: yield* Idempotency.make<Shared, E>(derive === "replay" ? { ...memory, ...shared } : memory),
      streams: new Map(),
      keep: derive === "replay",
      shared: derive === "replay" && isShared
    }
    const named: Flights<E> = {
      of: yield* Idempotency.make<Shared, E>({
        ...memory,
        ...shared,
        // A request the provider cannot read stays unreadable; every other failure may be tried again.
        storeFailure: (error) =>
          isProviderError(error) && error.reason._tag === "InvalidRequest" && !isFromSecondChoice(error)
      }),
      streams: new Map(),
      keep: true,
      shared: isShared
    }

    let prefix: string | undefined
    return (call, now) => {
      const { request, root } = call
      const { idempotencyKey: key, tenant } = request
      if (key !== undefined) {
        const scoped = JSON.stringify([root.operation, tenant ?? null, key])
        return share(named, { key: scoped, name: key }, call, orStale, self)
      }
      prefix ??= randomPrefix(Context.get(root.context, Random.Random))
      const generated = root.upstreamKey = `${prefix}-${root.id}`
      if (derive === false) {
        root.emit({ _tag: "Idempotency", call: root.id, at: root.since(now), result: "generated", key: generated })
        return self(call, now)
      }
      return share(derived, { key: questionOf(call) }, call, orStale, self)
    }
  })

/** 60 random bits, once per client: together with the number of the call they make a key that nobody else has. */
const randomPrefix = (random: { readonly nextDoubleUnsafe: () => number }): string => {
  const digits = () => ((random.nextDoubleUnsafe() * 2 ** 30) | 0).toString(36)
  return `llm-${digits()}-${digits()}`
}

/** Answers a call by work that it may share with others of the same key. */
const share = <E>(
  flights: Flights<E>,
  name: Pick<Idempotency.Request, "key" | "name">,
  call: Call,
  orStale: Fallback,
  self: Stage<E>
): Effect.Effect<Served, E | IdempotencyError> => {
  const request = {
    ...name,
    fingerprint: call.root.identity,
    share: call.request.tenant,
    deadlineAt: call.deadline.end,
    patience: flights.shared ? call.root.patience : undefined
  }
  const served = call.root.operation === "complete"
    ? shareAnswer(flights, request, call, self)
    : shareStream(flights, request, call, self)
  // Who waits for another's work waits no longer than its own deadline; then a stale answer may stand in.
  return Effect.catch(
    served,
    (error): Effect.Effect<Served, E | IdempotencyError> =>
      isDeadlineExceeded(error) ? orStale(call, error) : Effect.fail(error)
  )
}

/** The work belongs to nobody in particular: it goes on while one of its callers is left. */
const shareAnswer = <E>(
  flights: Flights<E>,
  request: Idempotency.Request,
  call: Call,
  self: Stage<E>
): Effect.Effect<Served, E | IdempotencyError> => {
  let decision: Idempotency.Answer<Shared>["how"] = "led"
  let own: Idempotency.Flight | undefined
  const work = (flight: Idempotency.Flight) => {
    own = flight
    return Effect.mapBoth(self(call.of(flight), call.root.now()), {
      onSuccess: (served) => produced(served, flights.keep, call),
      onFailure: (error) => {
        failedWith(error, call)
        return error
      }
    })
  }
  const onDecided = (how: typeof decision): void => {
    decision = how
    decided(call, how)
  }
  const answered = flights.of.run({ ...request, onDecided }, work)
  return untilDeadline(call, answered, () => own).pipe(
    Effect.map(({ age, how, storeFailed, value }) => {
      if (storeFailed) unavailable(call)
      if (how === "led") return whole(value.answer, value.source, value.age)
      if (how === "joined") adopt(call, value.work)
      return replayed(value, age)
    }),
    Effect.mapError((error) => decision === "joined" ? alsoFailed(call, error) : error)
  )
}

/** A stream in work is read by all its callers, each at its own place: see `Broadcast`. */
const shareStream = <E>(
  flights: Flights<E>,
  request: Idempotency.Request,
  call: Call,
  self: Stage<E>
): Effect.Effect<Served, E | IdempotencyError> =>
  Effect.uninterruptibleMask((restore) => {
    const scope = Scope.makeUnsafe()
    const entering = Scope.provide(flights.of.enter(request), scope)
    // The memory answers at once.
    const entered = restore(flights.shared ? untilDeadline(call, entering) : entering)
    return Effect.flatMap(
      Effect.tapCause(entered, (cause) => Scope.close(scope, Exit.failCause(cause))),
      (entered): Effect.Effect<Served, E | IdempotencyError> => {
        switch (entered._tag) {
          case "Replay":
            decided(call, "replayed")
            return Effect.map(entered.exit, (shared) => replayed(shared, entered.age))
          case "Join": {
            const broadcast = flights.streams.get(request.key)
            // Its leader is about to begin.
            if (broadcast === undefined) {
              return Effect.andThen(restore(Effect.yieldNow), shareStream(flights, request, call, self))
            }
            decided(call, "joined")
            return broadcast.join(call, () => adopt(call, workOf(broadcast.call)), restore)
          }
          case "Lead": {
            decided(call, "led")
            const { abandon, complete } = entered.ticket
            const broadcast = new Broadcast<E>(call, scope, {
              whole: (served) =>
                Effect.map(complete(Exit.succeed(produced(served, flights.keep, call))), (storeFailed) => {
                  if (storeFailed) unavailable(call)
                }),
              failed: (cause) => {
                failedWith(Cause.squash(cause), call)
                return Effect.map(complete(Exit.failCause(cause)), (storeFailed) => {
                  if (storeFailed) unavailable(call)
                })
              },
              broken: abandon,
              over: () => {
                if (flights.streams.get(request.key) === broadcast) flights.streams.delete(request.key)
              }
            })
            flights.streams.set(request.key, broadcast)
            broadcast.start(self)
            return broadcast.join(call, undefined, restore)
          }
        }
      }
    )
  })

// -----------------------------------------------------------------------------
// books
// -----------------------------------------------------------------------------

const decided = ({ request, root }: Call, result: "led" | "joined" | "replayed"): void => {
  const key = result === "led" && request.idempotencyKey === undefined ? root.upstreamKey : undefined
  const event = { _tag: "Idempotency" as const, call: root.id, at: root.since(), result }
  root.emit(key === undefined ? event : { ...event, key })
}

const unavailable = ({ root }: Call): void =>
  root.emit({ _tag: "Idempotency", call: root.id, at: root.since(), result: "unavailable" })

const produced = ({ age, answer, source }: Served, keep: boolean, call: Call): Idempotency.Produced<Shared> => ({
  value: { answer, source, age, work: workOf(call) },
  store: keep && source === "provider" && isReplayable(answer) && accepts(call, answer),
  size: sizeOf(answer) + call.root.events.length * BYTES_PER_EVENT
})

/** Roughly. */
const BYTES_PER_EVENT = 200

const replayed = ({ age, answer, source }: Shared, storedFor: number): Served =>
  whole(answer, source === "stale" ? "stale" : "replay", age + storedFor)

const workOf = ({ root: { events, startedAt, trace } }: Call): Work => {
  const span = trace?.reference()
  const work = { startedAt, events: [...events] }
  return span === undefined ? work : { ...work, span }
}

/** What the work behind a shared failure did. */
const failedWork = new WeakMap<object, Work>()

const failedWith = (error: unknown, call: Call): void => {
  if (typeof error === "object" && error !== null) failedWork.set(error, workOf(call))
}

/** What is no object was never put there. */
const workBehind = (error: unknown): Work | undefined => failedWork.get(error as object)

const alsoFailed = <E>(call: Call, error: E): E => {
  const work = workBehind(error)
  if (work !== undefined) adopt(call, work)
  return error
}

/** Did other targets fail, or were they passed over, before this one failed? Then they might do better next time. */
const isFromSecondChoice = (error: unknown): boolean =>
  workBehind(error)?.events.some(({ _tag }) => _tag === "FailedOver" || _tag === "TargetSkipped") === true

/** What was done for work that this call waited for belongs into its ledger too. */
const adopt = ({ root }: Call, { events, span, startedAt }: Work): void => {
  if (span !== undefined) root.trace?.joined(span)
  const shift = startedAt - root.startedAt
  for (const event of events) {
    if (event._tag !== "CallStarted" && event._tag !== "CallEnded" && event._tag !== "Idempotency") {
      // What happened before this call began stands at its beginning.
      root.events.push({ ...event, at: Math.max(0, event.at + shift) })
    }
  }
  root.events.sort((one, other) => one.at - other.at)
}
