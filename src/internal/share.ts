// Calls with the same idempotency key: who leads, who joins, and what they hand each other.
import * as Cause from "effect/Cause"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Schema from "effect/Schema"
import * as SchemaTransformation from "effect/SchemaTransformation"
import * as Scope from "effect/Scope"
import type { ExternalSpan } from "effect/Tracer"
import { DeadlineExceeded, type LlmError, ProviderError, withParts } from "../LlmError.ts"
import { Ledger, type LlmEvent } from "../LlmEvent.ts"
import { type Answer, isReplayable, type Source } from "../LlmResponse.ts"
import * as Store from "../persistence/Store.ts"
import type * as Idempotency from "../resilience/Idempotency.ts"
import * as Timeout from "../resilience/Timeout.ts"
import {
  type Call,
  type CallError,
  emit,
  identityOf,
  type Layer,
  nowOf,
  type Served,
  since,
  sizeOf,
  whenEnded,
  whole
} from "./call.ts"

/** What callers with the same key share. */
export interface Shared {
  readonly answer: Answer
  readonly source: Source
  readonly age: number
  /** What the work did, for the ledgers of those who joined. */
  readonly work: Work
}

interface Work {
  readonly startedAt: number
  readonly events: ReadonlyArray<LlmEvent>
  /** The span of the call that did it. */
  readonly span?: ExternalSpan | undefined
}

const workOf = ({ events, startedAt, trace }: Call): Work => {
  const span = trace?.reference()
  const work = { startedAt, events: [...events] }
  return span === undefined ? work : { ...work, span }
}

/** What the work behind a shared failure did. */
const failedWork = new WeakMap<CallError, Work>()

export interface Flights {
  readonly of: Idempotency.Idempotency<Shared, CallError>
  /** Are answers recorded? */
  readonly keep: boolean
  /** With other processes? */
  readonly shared: boolean
}
/** A stale answer for a failure, or the failure. */
export type Fallback = (call: Call, error: CallError) => Effect.Effect<Served, CallError>

// The provider's own text stays here: it can echo prompts and keys.
const { detail: _, ...published } = ProviderError.fields
const Refusal = Schema.Struct(published).pipe(Schema.decodeTo(
  Schema.toType(ProviderError),
  SchemaTransformation.transform({
    decode: (fields) => new ProviderError(fields),
    encode: (error) => {
      const { detail: _, ...fields } = error
      return fields
    }
  })
))

// Plain data already, but a field may be there and `undefined`.
const Parts = Schema.Json.pipe(Schema.decodeTo(
  Schema.Array(Schema.Unknown),
  SchemaTransformation.transform<ReadonlyArray<unknown>, Schema.Json>({
    decode: (parts) => parts as ReadonlyArray<Schema.Json>,
    encode: (parts) => JSON.parse(JSON.stringify(parts)) as Schema.Json
  })
))

/** What is recorded, as other processes read it. */
const Recorded = Schema.Union([
  Schema.TaggedStruct("Success", {
    fingerprint: Schema.String,
    value: Schema.Struct({
      answer: Schema.Struct({
        parts: Parts,
        target: Schema.String,
        provider: Schema.String,
        model: Schema.optional(Schema.String)
      }),
      source: Schema.Literal("provider"),
      age: Schema.Number,
      work: Schema.Struct({ startedAt: Schema.Number, events: Ledger })
    })
  }),
  Schema.TaggedStruct("Failure", { fingerprint: Schema.String, error: Refusal })
])

/** A store of texts as the records of flights. */
export const forProcesses = (
  store: Store.LeaseStore<string>
): Store.LeaseStore<Idempotency.Stored<Shared, CallError>> =>
  // Parts are what a provider gave as JSON, and no other failure than a refusal is recorded.
  Store.withSchema(store, Recorded as unknown as Schema.Codec<Idempotency.Stored<Shared, CallError>, unknown>)

/** Answers a call by work that it may share with others of the same key. */
export const share = (
  flights: Flights,
  name: Pick<Idempotency.Request, "key" | "name">,
  call: Call,
  orStale: Fallback,
  next: Layer
): Effect.Effect<Served, CallError> => {
  const request = { ...name, fingerprint: identityOf(call), deadlineAt: call.until.deadlineAt }
  const served = call.operation === "complete"
    ? shareAnswer(flights, request, call, next)
    : shareStream(flights, request, call, next)
  // Who waits for another's work waits no longer than its own deadline; then a stale answer may stand in.
  return Effect.catch(served, (error) => error._tag === "DeadlineExceeded" ? orStale(call, error) : Effect.fail(error))
}

/** The work belongs to nobody in particular: it goes on while one of its callers is left. */
const shareAnswer = (
  flights: Flights,
  request: Idempotency.Request,
  call: Call,
  next: Layer
): Effect.Effect<Served, CallError> => {
  let decision: Idempotency.Answer<Shared>["how"] = "led"
  const work = (flight: Idempotency.Flight) =>
    Effect.mapBoth(next({ ...call, until: flight }, nowOf(call)), {
      onSuccess: (served) => produced(served, flights.keep, call),
      onFailure: (error) => {
        failedWork.set(error, workOf(call))
        return error
      }
    })
  const onDecided = (how: typeof decision): void => {
    decision = how
    decided(call, how)
  }
  const answered = flights.of.run({ ...request, onDecided }, work)
  return untilDeadline(call, answered).pipe(
    Effect.map(({ age, how, storeFailed, value }) => {
      if (storeFailed) unavailable(call)
      if (how === "led") return whole(value.answer, value.source, value.age)
      return how === "joined" ? joined(call, value) : replayed(value, age)
    }),
    Effect.mapError((error) => decision === "joined" ? alsoFailed(call, error) : error)
  )
}

/** A stream is read by its first caller; the others wait for its recorded end. */
const shareStream = (
  flights: Flights,
  request: Idempotency.Request,
  call: Call,
  next: Layer
): Effect.Effect<Served, CallError> => {
  const entering = Scope.provide(flights.of.enter(request), call.scope!)
  return Effect.flatMap(
    // The memory answers at once.
    flights.shared ? untilDeadline(call, entering) : entering,
    (entered): Effect.Effect<Served, CallError> => {
      switch (entered._tag) {
        case "Replay":
          decided(call, "replayed")
          return Effect.map(entered.exit, (shared) => replayed(shared, entered.age))
        case "Join":
          decided(call, "joined")
          return Effect.flatMap(untilDeadline(call, entered.await), (outcome) =>
            outcome === "abandoned"
              // Callers that are interrupted together with the leader are gone after a step.
              ? Effect.andThen(Effect.yieldNow, shareStream(flights, request, call, next))
              : Effect.mapBoth(outcome.exit, {
                onSuccess: (shared) => joined(call, shared),
                onFailure: (error) => alsoFailed(call, error)
              }))
        case "Lead": {
          decided(call, "led")
          const { abandon, complete } = entered.ticket
          const end = (exit: Exit.Exit<Idempotency.Produced<Shared>, CallError>) =>
            Effect.map(complete(exit), (storeFailed) => {
              if (storeFailed) unavailable(call)
            })
          const failed = (cause: Cause.Cause<LlmError>) => {
            const found = Cause.findErrorOption(cause)
            if (found._tag === "None") {
              return Cause.hasInterruptsOnly(cause)
                ? abandon
                : end(Exit.failCause(cause as Cause.Cause<never>))
            }
            const error = found.value
            // The leader's own time is up: another caller may have more of it.
            if (error._tag === "DeadlineExceeded") return abandon
            // Those who waited have received nothing of the broken stream.
            const shared = (error._tag === "StreamInterrupted" ? withParts(error, 0) : error) as CallError
            failedWork.set(shared, workOf(call))
            return end(Exit.fail(shared))
          }
          return Effect.flatMap(
            Effect.tapCause(next(call, nowOf(call)), failed),
            (served) => whenEnded(served, () => end(Exit.succeed(produced(served, flights.keep, call))), failed)
          )
        }
      }
    }
  )
}

const decided = (call: Call, result: "led" | "joined" | "replayed"): void => {
  const generated = result === "led" && call.request.idempotencyKey === undefined
  const key = call.progress.idempotencyKey
  const event = { _tag: "Idempotency" as const, call: call.id, at: since(call), result }
  emit(call, generated && key !== undefined ? { ...event, key } : event)
}

const unavailable = (call: Call): void =>
  emit(call, { _tag: "Idempotency", call: call.id, at: since(call), result: "unavailable" })

const produced = ({ age, answer, source }: Served, keep: boolean, call: Call): Idempotency.Produced<Shared> => ({
  value: { answer, source, age, work: workOf(call) },
  store: keep && source === "provider" && isReplayable(answer),
  size: sizeOf(answer) + call.events.length * BYTES_PER_EVENT
})

/** Roughly. */
const BYTES_PER_EVENT = 200

/** The answer of work that this call waited for: what was done for it belongs into this ledger too. */
const joined = (call: Call, shared: Shared): Served => {
  adopt(call, shared.work)
  return replayed(shared, 0)
}

const replayed = ({ age, answer, source }: Shared, storedFor: number): Served =>
  whole(answer, source === "stale" ? "stale" : "replay", age + storedFor)

const alsoFailed = (call: Call, error: CallError): CallError => {
  const work = failedWork.get(error)
  if (work !== undefined) adopt(call, work)
  return error
}

/** Did other targets fail, or were they passed over, before this one failed? Then they might do better next time. */
export const isFromSecondChoice = (error: CallError): boolean =>
  failedWork.get(error)?.events.some(({ _tag }) => _tag === "FailedOver" || _tag === "TargetSkipped") === true

const adopt = (call: Call, { events, span, startedAt }: Work): void => {
  if (span !== undefined) call.trace?.joined(span)
  const shift = startedAt - call.startedAt
  for (const event of events) {
    if (event._tag !== "CallStarted" && event._tag !== "CallEnded" && event._tag !== "Idempotency") {
      call.events.push({ ...event, at: event.at + shift })
    }
  }
}

const untilDeadline = <A, E>(call: Call, self: Effect.Effect<A, E>): Effect.Effect<A, E | DeadlineExceeded> =>
  Number.isFinite(call.deadline)
    ? Timeout.bounded(
      self,
      (now) => call.until.deadlineAt - now,
      () => new DeadlineExceeded({ after: Duration.millis(call.deadline) })
    )
    : self
