// Providers that answer at once, and clients over them.
import { Context, Effect, Scope, Stream } from "effect"
import { LlmClient, LlmError, type LlmProvider, type LlmRequest, type LlmResponse } from "../../src/index.ts"
import type * as LlmConfig from "../../src/LlmConfig.ts"

/** A prompt of 100 characters. */
export const PROMPT =
  "What is artificial intelligence? Please explain it in one short sentence that a child can follow now"
export const ANSWER = "Artificial intelligence is when machines learn to do things that people do by thinking."

const usage = {
  inputTokens: { total: 20, uncached: undefined, cacheRead: undefined, cacheWrite: undefined },
  outputTokens: { total: 18, text: undefined, reasoning: undefined }
}
export const parts: ReadonlyArray<LlmResponse.Part> = [
  { type: "text", text: ANSWER },
  { type: "finish", reason: "stop", usage }
]

export type Answer = Effect.Effect<ReadonlyArray<LlmResponse.Part>, LlmError.ProviderError>

export const now: Answer = Effect.succeed(parts)
/** Answers after a turn of the microtask queue, as anything behind a promise does. */
export const soon: Answer = Effect.callback((resume) => queueMicrotask(() => resume(now)))
export const overloaded = new LlmError.ProviderError({ provider: "stub", reason: { _tag: "Overloaded" } })

/** A stream of `count` text parts, `perChunk` in each chunk. */
export const chunksOf = (count: number, perChunk: number): ReadonlyArray<ReadonlyArray<LlmResponse.StreamPart>> => {
  const all: ReadonlyArray<LlmResponse.StreamPart> = [
    { type: "text-start", id: "0" },
    ...Array.from({ length: count }, (): LlmResponse.StreamPart => ({ type: "text-delta", id: "0", delta: "word " })),
    { type: "text-end", id: "0" },
    { type: "finish", reason: "stop", usage }
  ]
  return Array.from({ length: Math.ceil(all.length / perChunk) }, (_, i) => all.slice(i * perChunk, (i + 1) * perChunk))
}

export const provider = (
  generate: () => Answer,
  stream: (request: LlmRequest.LlmRequest) => Stream.Stream<LlmResponse.StreamPart, LlmError.ProviderError> = () =>
    Stream.never
): LlmProvider.LlmProvider => ({ id: "stub", generate, stream })

const scope = Scope.makeUnsafe()

/** Everything on, with a bucket that a benchmark cannot empty: 3500 tokens are gone in 20 ms. */
export const on: LlmConfig.Options = { rateLimit: { capacity: 1e12, refillPerSecond: 1e9 } }

export const off = {
  idempotency: false,
  cache: false,
  rateLimit: false,
  circuitBreaker: false,
  timeout: false,
  retry: false,
  failover: false,
  bulkhead: false
} satisfies LlmConfig.Options

export const client = (
  providers: ReadonlyArray<LlmProvider.LlmProvider>,
  options: LlmConfig.Options = on,
  watching: Context.Context<never> = Context.empty()
) => {
  const [first, ...others] = providers.map((_, i) => Context.Service<never, LlmProvider.LlmProvider>(`bench/${i}`))
  const context = providers.reduce(
    (all, one, i) => Context.add(all, i === 0 ? first! : others[i - 1]!, one),
    watching
  )
  return Effect.runSync(
    LlmClient.make([first!, ...others], options).pipe(
      Effect.provideContext(context),
      Scope.provide(scope),
      Effect.orDie
    )
  )
}

/** `count` runs of an effect inside one fibre. */
export const loop = (effect: Effect.Effect<unknown, unknown>) => (count: number): Promise<void> => {
  let i = 0
  return Effect.runPromise(Effect.whileLoop({ while: () => i++ < count, body: () => effect, step: () => {} }))
}
