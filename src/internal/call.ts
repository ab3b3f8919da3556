// What one call owns while it runs.
import type * as Cause from "effect/Cause"
import type { Clock } from "effect/Clock"
import type * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Pull from "effect/Pull"
import type * as Scope from "effect/Scope"
import { type DeadlineExceeded, InvalidRequest, type LlmError, type StreamInterrupted } from "../LlmError.ts"
import type { Hub, LlmEvent } from "../LlmEvent.ts"
import { identity, type LlmRequest } from "../LlmRequest.ts"
import type { Answer, Part, Source, StreamPart } from "../LlmResponse.ts"
import { monotonicMillis } from "./clock.ts"
import type { Trace } from "./trace.ts"

export type Operation = "complete" | "stream"

export interface Call {
  readonly id: number
  readonly operation: Operation
  readonly request: LlmRequest
  /** Of the fibre that made the call. */
  readonly context: Context.Context<never>
  readonly trace: Trace | undefined
  readonly clock: Clock
  readonly startedAt: number
  /** Monotonic milliseconds; of work that several wait for, it moves to the latest of theirs. */
  readonly until: { readonly deadlineAt: number }
  /** Length of the caller's own deadline in milliseconds. */
  readonly deadline: number
  /** What a stream opens hangs below this scope; a `complete` opens nothing that outlives its attempts. */
  readonly scope: Scope.Closeable | undefined
  readonly hub: Hub
  /** The ledger so far. */
  readonly events: Array<LlmEvent>
  readonly progress: {
    attempts: number
    /** The target asked last. */
    target: string | undefined
    /** When the last attempt succeeded. */
    answeredAt: number
    /** What the request asks, apart from who asks; made when it is first needed. */
    identity: string | undefined
    /** Sent upstream with every attempt: the caller's own, or a generated one. */
    idempotencyKey: string | undefined
    /** The refusal of the bucket that all targets share, if it refused. */
    sharedRefusal: unknown
    ended: boolean
  }
}

export const nowOf = (call: Call): number => monotonicMillis(call.clock)

/** The `at` of an event: milliseconds since the call began. */
export const since = (call: Call, now = nowOf(call)): number => now - call.startedAt

/**
 * Adds an event to the ledger and publishes it. Whoever has read the clock in this step already says what it said; and
 * events are written down whole, because it costs more to add fields to an object than to make it with them.
 */
export const emit = (call: Call, event: LlmEvent): void => {
  call.events.push(event)
  call.trace?.on(event)
  call.hub.publish(event, call.context)
}

/** Throws `InvalidRequest` when parameters or results of tools hold what JSON cannot: see `Pipeline.run`. */
export const identityOf = ({ progress, request }: Call): string => {
  try {
    return progress.identity ??= identity(request)
  } catch {
    throw new InvalidRequest({ path: "request", rule: "what JSON can hold", kind: "a bigint or a cycle" })
  }
}

/** What a call can fail with before its answer, or its stream's first content part, is there. */
export type CallError = Exclude<LlmError, { readonly _tag: "StreamInterrupted" }>

/** One layer of the pipeline; `now` is the moment at which it is asked. */
export type Layer = (call: Call, now: number) => Effect.Effect<Served, CallError>

export type Rest = Pull.Pull<
  readonly [StreamPart, ...ReadonlyArray<StreamPart>],
  StreamInterrupted | DeadlineExceeded
>

/** An answer on its way to the caller. */
export interface Served {
  readonly source: Source
  /** Milliseconds since a stored answer was fetched. */
  readonly age: number
  /** `parts` grows while a stream is read; it is whole once {@link isWhole} says so. */
  readonly answer: Answer
  /** Brings the parts that are not in `answer` yet; absent when the answer came whole. */
  readonly rest: Rest | undefined
  /** Who is told how `rest` ended, innermost layer first; by the attempt, before the last part is handed on. */
  readonly ends: Array<End>
  readonly isWhole: () => boolean
}

/** What a layer does when a stream's answer is whole, or will never be. */
export interface End {
  readonly onWhole: () => Effect.Effect<void> | undefined
  readonly onFailed?: ((cause: Cause.Cause<LlmError>) => Effect.Effect<void>) | undefined
}

const always = (): boolean => true
const nobody: Array<End> = []

export const whole = (answer: Answer, source: Source, age: number): Served => ({
  source,
  age,
  answer,
  rest: undefined,
  ends: nobody,
  isWhole: always
})

/** Tells a layer when the answer it passes on is whole, or will never be. */
export const whenEnded = (
  served: Served,
  onWhole: () => Effect.Effect<void> | undefined,
  onFailed?: (cause: Cause.Cause<LlmError>) => Effect.Effect<void>
): Effect.Effect<Served> => {
  if (served.rest === undefined) return followedBy(onWhole(), served)
  served.ends.push({ onWhole, onFailed })
  return Effect.succeed(served)
}

/** Tells everyone who waits for the end of a stream, once. */
export const tell = (
  ends: Array<End>,
  how: (end: End) => Effect.Effect<void> | undefined
): Effect.Effect<void> | undefined => {
  let all: Effect.Effect<void> | undefined
  for (const end of ends.splice(0)) {
    const told = how(end)
    if (told !== undefined) all = all === undefined ? told : Effect.andThen(all, told)
  }
  return all
}

/** A value after something that may have nothing to do. */
export const followedBy = <A>(first: Effect.Effect<void> | undefined, value: A): Effect.Effect<A> =>
  first === undefined ? Effect.succeed(value) : Effect.as(first, value)

/** Reads a stream to its end. */
export const drain = ({ rest }: Served): Effect.Effect<void, CallError> =>
  rest === undefined
    ? Effect.void
    : Pull.catchDone(Effect.forever(rest), () => Effect.void) as Effect.Effect<void, CallError>

/** Characters of what may have no text. */
const textSize = (value: unknown): number => {
  try {
    return JSON.stringify(value)?.length ?? 0
  } catch {
    return 256
  }
}

/** Roughly the bytes a part takes. */
export const partSize = (part: Part | StreamPart): number => {
  let size = 64
  if ("delta" in part) size += part.delta.length
  else if ("text" in part) size += part.text.length
  else if ("data" in part) size += part.data.length
  else if (part.type === "tool-call") size += textSize(part.params)
  else if (part.type === "tool-result") size += textSize(part.result)
  return size * 2
}

/** Roughly the bytes an answer takes. */
export const sizeOf = (answer: Answer): number => {
  let size = 0
  for (const part of answer.parts) size += partSize(part)
  return size
}
