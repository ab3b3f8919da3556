// What the pipeline adds to each part of a stream.
import { Cause, Effect, Exit, Stream } from "effect"
import type { LlmConfig, LlmError, LlmResponse } from "../../../src/index.ts"
import type { Group } from "../measure.ts"
import { chunksOf, client, loop, off, on, PROMPT, provider } from "../stubs.ts"

const PARTS = 100

/** Reads prepared chunks; `isAsync`: each after a turn of the microtask queue, as from a socket. */
const source = (perChunk: number, isAsync: boolean): Stream.Stream<LlmResponse.StreamPart, LlmError.ProviderError> => {
  const chunks = chunksOf(PARTS, perChunk)
  return Stream.fromPull(Effect.sync(() => {
    let i = 0
    const next = () => {
      const chunk = chunks[i++]
      return chunk === undefined ? Cause.done() : Exit.succeed(chunk as [typeof chunk[0] & {}])
    }
    return isAsync ?
      Effect.callback<ReturnType<typeof next> extends Effect.Effect<infer A, infer _E> ? A : never, Cause.Done>(
        (resume) => queueMicrotask(() => resume(next()))
      ) :
      Effect.suspend(next)
  }))
}

export const streaming: Group = Object.fromEntries(
  [false, true].flatMap((isAsync) =>
    [1, 2, 5].map((perChunk) => {
      const decoded = source(perChunk, isAsync)
      const through = (options: LlmConfig.Options) => () =>
        loop(Stream.runDrain(client([provider(() => Effect.never, () => decoded)], options).stream(PROMPT)))
      const subjects = {
        "decoding alone": () => loop(Stream.runDrain(decoded)),
        "effect-resilient-llm": through(on),
        "effect-resilient-llm, everything off": through(off)
      }
      const how = isAsync ? "asynchronous" : "at once"
      return [`${perChunk} ${perChunk === 1 ? "part" : "parts"} in a chunk, ${how}`, { per: PARTS, subjects }]
    })
  )
)
