// The pipeline is a value, built by functions from stage to stage; each adds its own errors.
import type * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Pull from "effect/Pull"
import type { DeadlineExceeded, StreamInterrupted } from "../LlmError.ts"
import { isDone } from "../LlmGuard.ts"
import { type Answer, type Part, type Source, type StreamPart } from "../LlmResponse.ts"
import type { Attempt } from "./attempt.ts"
import type { Call } from "./call.ts"

/** Answers a call. `now` is the moment at which it is asked. */
export type Stage<out E> = (call: Call, now: number) => Effect.Effect<Served, E>

/** What happens inside one attempt: everything is held, and the attempt's books are open. */
export type Try<out E> = (attempt: Attempt, now: number) => Effect.Effect<Served, E>

export type ErrorOf<S> = S extends Stage<infer E> ? E : never

export type Chunk = readonly [StreamPart, ...ReadonlyArray<StreamPart>]

export type Rest = Pull.Pull<Chunk, StreamInterrupted | DeadlineExceeded>

/** An answer on its way to the caller. */
export interface Served {
  readonly source: Source
  /** Milliseconds since a stored answer was fetched. */
  readonly age: number
  /** `parts` grows while a stream is read; it is whole once {@link isWhole} says so. */
  readonly answer: Answer
  /** The parts to begin with, where they are not those of `answer` as it is. */
  readonly opening?: ReadonlyArray<StreamPart>
  /** Brings the parts after them; absent when the answer came whole. */
  readonly rest: Rest | undefined
  /** Who is told how `rest` ended, innermost stage first; by the stream, before the last part is handed on. */
  readonly ends: Array<End>
  readonly isWhole: () => boolean
}

/** What a stage does when a stream's answer is whole, or will never be. */
export interface End {
  readonly onWhole: () => Effect.Effect<void> | undefined
  readonly onFailed?: ((cause: Cause.Cause<StreamInterrupted | DeadlineExceeded>) => Effect.Effect<void>) | undefined
}

const always = (): boolean => true
const nobody: Array<End> = []

/** An answer that came, or was kept, whole. */
export const whole = (answer: Answer, source: Source, age: number): Served => ({
  source,
  age,
  answer,
  rest: undefined,
  ends: nobody,
  isWhole: always
})

/** Tells a stage when the answer it passes on is whole, or will never be. */
export const whenEnded = (
  served: Served,
  onWhole: End["onWhole"],
  onFailed?: End["onFailed"]
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

/** Goes on with what an effect gives: at once when it is done already, as a memory's answers are. */
export const chain = <A, E, B, E2>(
  first: Effect.Effect<A, E>,
  next: (value: A) => Effect.Effect<B, E2>
): Effect.Effect<B, E | E2> =>
  isDone(first)
    ? Exit.isSuccess(first) ? next(first.value) : Effect.failCause(first.cause)
    : Effect.flatMap(first, next)

/** Reads a stream to its end. */
export const drain = ({ rest }: Served): Effect.Effect<void, StreamInterrupted | DeadlineExceeded> =>
  rest === undefined ? Effect.void : Pull.catchDone(Effect.forever(rest), () => Effect.void)

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
