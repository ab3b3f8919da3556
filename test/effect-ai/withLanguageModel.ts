// Stands in for the helper of Effect's own tests of `effect/ai` (their `utils.ts`): the same signature, but the scripted
// model is a provider behind the whole pipeline, reached through `LlmLanguageModel`.
import { Effect, Layer, Stream } from "effect"
import { LlmClient, LlmLanguageModel, LlmProvider, type LlmRequest, LlmResponse } from "effect-resilient-llm"
import { type LanguageModel, Prompt, type Response } from "effect/ai"
import { dual } from "effect/Function"

interface Options {
  readonly generateText?:
    | Array<Response.PartEncoded>
    | ((
      options: LanguageModel.ProviderOptions
    ) => Array<Response.PartEncoded> | Effect.Effect<Array<Response.PartEncoded>>)
  readonly streamText?:
    | Array<Response.StreamPartEncoded>
    | ((
      options: LanguageModel.ProviderOptions
    ) => Array<Response.StreamPartEncoded> | Stream.Stream<Response.StreamPartEncoded>)
}

// Two things are legal in these mocks and a failure here: a stream that does not say that it is over, and an answer
// that says nothing at all. What is missing is added, so tests that count parts exactly cannot pass.
const finish: Response.FinishPartEncoded = {
  type: "finish",
  reason: "stop",
  usage: { inputTokens: {}, outputTokens: {} }
}

const whole = (parts: ReadonlyArray<Response.PartEncoded>): Array<Response.PartEncoded> =>
  parts.some(LlmResponse.isContent) ? [...parts] : [{ type: "text", text: "…" }, ...parts]

const finished = <E, R>(
  stream: Stream.Stream<Response.StreamPartEncoded, E, R>
): Stream.Stream<Response.StreamPartEncoded, E, R> =>
  Stream.suspend(() => {
    let isFinished = false
    let hasContent = false
    const filler = (): Array<Response.StreamPartEncoded> =>
      hasContent ? [] : [{ type: "text-delta", id: "filler", delta: "…" }]
    return stream.pipe(
      Stream.mapArray((parts) => {
        if (parts.some(LlmResponse.isContent)) hasContent = true
        if (!parts.some((part) => part.type === "finish")) return parts
        isFinished = true
        const [first, ...others] = [...filler(), ...parts]
        return [first!, ...others] as const
      }),
      Stream.concat(Stream.suspend(() => Stream.fromIterable(isFinished ? [] : [...filler(), finish])))
    )
  })

// What a provider can know of the options.
const seen = ({ prompt, toolChoice }: LlmRequest.LlmRequest): LanguageModel.ProviderOptions =>
  ({
    prompt: Prompt.make(prompt),
    tools: [],
    toolChoice: toolChoice ?? "auto",
    responseFormat: { type: "text" },
    previousResponseId: undefined,
    incrementalPrompt: undefined
  }) as unknown as LanguageModel.ProviderOptions

const provider = ({ generateText, streamText }: Options): LlmProvider.LlmProvider =>
  LlmProvider.make({
    id: "mock",
    generate: (request) => {
      const result = typeof generateText === "function" ? generateText(seen(request)) : generateText ?? []
      return Effect.isEffect(result) ? Effect.map(result, whole) : Effect.succeed(whole(result))
    },
    stream: (request) => {
      const result = typeof streamText === "function" ? streamText(seen(request)) : streamText ?? []
      return finished(Array.isArray(result) ? Stream.fromIterable(result) : result)
    }
  })

export const withLanguageModel: {
  (options: Options): <A, E, R>(
    effect: Effect.Effect<A, E, R>
  ) => Effect.Effect<A, E, Exclude<R, LanguageModel.LanguageModel>>
  <A, E, R>(
    effect: Effect.Effect<A, E, R>,
    options: Options
  ): Effect.Effect<A, E, Exclude<R, LanguageModel.LanguageModel>>
} = dual(2, <A, E, R>(effect: Effect.Effect<A, E, R>, options: Options) =>
  Effect.provide(
    effect,
    Layer.orDie(Layer.provide(LlmLanguageModel.layer(), LlmClient.layerDynamic([provider(options)])))
  ))
