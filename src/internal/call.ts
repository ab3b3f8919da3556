// What one call owns while it runs.
import type * as Cause from "effect/Cause"
import type { Clock } from "effect/Clock"
import type * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Pull from "effect/Pull"
import type * as Scope from "effect/Scope"
import type { DeadlineExceeded, LlmError, StreamInterrupted } from "../LlmError.ts"
import type { Hub, LlmEvent } from "../LlmEvent.ts"
import type { LlmRequest } from "../LlmRequest.ts"
import type { Answer, Source, StreamPart } from "../LlmResponse.ts"
import { monotonicMillis } from "./clock.ts"
import type { Trace } from "./trace.ts"

export type Operation = "complete" | "stream"

/** An event before the call has stamped it. */
export type Fact = LlmEvent extends infer E ? E extends LlmEvent ? Omit<E, "call" | "at"> : never : never

export interface Call {
  readonly id: number
  readonly operation: Operation
  readonly request: LlmRequest
  /** Of the fibre that made the call. */
  readonly context: Context.Context<never>
  readonly trace: Trace | undefined
  readonly clock: Clock
  readonly startedAt: number
  /** Monotonic milliseconds; the longest of all callers that wait for this work. */
  readonly deadlineAt: () => number
  /** Length of the caller's own deadline in milliseconds. */
  readonly deadline: number
  /** What a stream opens hangs below this scope; a `complete` opens nothing that outlives its attempts. */
  readonly scope: Scope.Closeable | undefined
  /** What the request asks, apart from who asks; made when it is first needed. */
  readonly identity: () => string
  readonly hub: Hub
  /** The ledger so far. */
  readonly events: Array<LlmEvent>
  readonly progress: {
    attempts: number
    /** The target asked last. */
    target: string | undefined
    /** Sent upstream with every attempt: the caller's own, or a generated one. */
    idempotencyKey: string | undefined
    /** The refusal of the bucket that all targets share, if it refused. */
    sharedRefusal: unknown
    ended: boolean
  }
}

export const nowOf = (call: Call): number => monotonicMillis(call.clock)

/**
 * Stamps a fact (a fresh object, which becomes the event), adds it to the ledger and publishes it. Who has read the
 * clock in this step already says what it said.
 */
export const emit = (call: Call, fact: Fact, now = nowOf(call)): void => {
  const event = fact as LlmEvent & { call: number; at: number }
  event.call = call.id
  event.at = now - call.startedAt
  call.events.push(event)
  call.trace?.on(event)
  call.hub.publish(event, call.context)
}

/** What a call can fail with before its answer, or its stream's first content part, is there. */
export type CallError = Exclude<LlmError, { readonly _tag: "StreamInterrupted" }>

/** One layer of the pipeline. */
export type Layer = (call: Call) => Effect.Effect<Served, CallError>

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

/** Roughly the bytes an answer takes. */
export const sizeOf = (answer: Answer): number => {
  let size = 0
  for (const part of answer.parts) {
    size += 64
    if ("delta" in part) size += part.delta.length
    else if ("text" in part) size += part.text.length
    else if ("data" in part) size += part.data.length
    else if (part.type === "tool-call") size += 256
  }
  return size * 2
}
