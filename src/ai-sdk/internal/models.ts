// A model of the AI SDK as a provider.
import {
  APICallError,
  EmptyResponseBodyError,
  InvalidPromptError,
  InvalidResponseDataError,
  JSONParseError,
  type LanguageModelV4,
  type LanguageModelV4CallOptions,
  type LanguageModelV4StreamPart,
  LoadAPIKeyError,
  NoContentGeneratedError,
  NoSuchModelError,
  TypeValidationError,
  UnsupportedFunctionalityError
} from "@ai-sdk/provider"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Redacted from "effect/Redacted"
import * as Stream from "effect/Stream"
import { ProviderError, type Reason } from "../../LlmError.ts"
import * as LlmProvider from "../../LlmProvider.ts"
import type { LlmRequest } from "../../LlmRequest.ts"
import { NAMESPACE } from "../../LlmResponse.ts"
import { fromResult, fromStreamPart } from "./convert.ts"

export interface Call {
  readonly options: LanguageModelV4CallOptions
}

/** The options of the call under way. They ride beside the request, so that a model gets them unchanged. */
export const CallOptions = Context.Reference<Call | undefined>("effect-resilient-llm/ai-sdk/CallOptions", {
  defaultValue: () => undefined
})

const optionsOf = (request: LlmRequest, id: string): Effect.Effect<LanguageModelV4CallOptions, ProviderError> =>
  Effect.flatMap(CallOptions, (call) =>
    call === undefined
      ? Effect.die(new Error(`${id} is asked by the client that was made for it, ${request.prompt.length} messages`))
      : Effect.succeed(call.options))

export const providerOf = (id: string, model: LanguageModelV4): LlmProvider.LlmProvider =>
  LlmProvider.make({
    id,
    defaultModel: model.modelId,
    readsMetadata: false,
    vendor: NAMESPACE,
    generate: (request) =>
      Effect.flatMap(optionsOf(request, id), (options) =>
        Effect.map(
          Effect.tryPromise({
            try: (abortSignal) => Promise.resolve(model.doGenerate({ ...options, abortSignal })),
            catch: (error) => failure(id, error)
          }),
          fromResult
        )),
    stream: (request) =>
      Stream.unwrap(Effect.flatMap(optionsOf(request, id), (options) =>
        Effect.map(opened(id, model, options), (stream) =>
          Stream.fromReadableStream({
            evaluate: () =>
              stream,
            onError: (error) =>
              failure(id, error)
          }).pipe(
            Stream.mapEffect((part): Effect.Effect<LanguageModelV4StreamPart, ProviderError> =>
              part.type === "error" ? Effect.fail(failure(id, part.error)) : Effect.succeed(part)
            ),
            Stream.map(fromStreamPart),
            Stream.filter((part) => part !== undefined)
          ))))
  })

// The signal ends with the stream's scope, not with the promise of its headers.
const opened = (id: string, model: LanguageModelV4, options: LanguageModelV4CallOptions) =>
  Effect.flatMap(
    Effect.acquireRelease(
      Effect.sync(() => new AbortController()),
      (controller) => Effect.sync(() => controller.abort())
    ),
    (controller) =>
      Effect.map(
        Effect.tryPromise({
          try: () => Promise.resolve(model.doStream({ ...options, abortSignal: controller.signal })),
          catch: (error) => failure(id, error)
        }),
        ({ stream }) => stream
      )
  )

const reasonOf = (error: unknown): Reason => {
  if (LoadAPIKeyError.isInstance(error)) return { _tag: "Authentication" }
  if (NoSuchModelError.isInstance(error)) return { _tag: "NotFound" }
  if (InvalidPromptError.isInstance(error) || UnsupportedFunctionalityError.isInstance(error)) {
    return { _tag: "InvalidRequest" }
  }
  if (
    JSONParseError.isInstance(error) || TypeValidationError.isInstance(error) ||
    EmptyResponseBodyError.isInstance(error) || InvalidResponseDataError.isInstance(error) ||
    NoContentGeneratedError.isInstance(error)
  ) return { _tag: "MalformedResponse", problem: "the model's package could not read the answer" }
  return { _tag: "Server" }
}

const failure = (provider: string, error: unknown): ProviderError => {
  if (!APICallError.isInstance(error)) {
    return new ProviderError({
      provider,
      reason: reasonOf(error),
      ...(error instanceof Error ? { detail: Redacted.make(error.message.slice(0, 500)) } : undefined)
    })
  }
  const { responseBody, responseHeaders = {}, statusCode } = error
  if (statusCode === undefined) return new ProviderError({ provider, reason: { _tag: "Network", sent: true } })
  return ProviderError.fromHttp({ provider, status: statusCode, headers: responseHeaders, body: responseBody ?? "" })
}
