/**
 * The resilient client as the `LanguageModel` of `effect/ai`: programs written against `LanguageModel`, `Chat`, `Tool`
 * and `Toolkit` gain the whole pipeline by a change of one Layer.
 *
 * @since 0.2.0
 */
import * as AiError from "effect/ai/AiError"
import * as LanguageModel from "effect/ai/LanguageModel"
import type * as Response from "effect/ai/Response"
import * as Telemetry from "effect/ai/Telemetry"
import * as Tool from "effect/ai/Tool"
import * as Context from "effect/Context"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import { dual } from "effect/Function"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Stream from "effect/Stream"
import { providerName } from "./internal/attributes.ts"
import { codecTransformer, definitionOf, isStrict, paramsOf } from "./internal/tools.ts"
import { type Client, LlmClient } from "./LlmClient.ts"
import * as LlmError from "./LlmError.ts"
import type { Ledger } from "./LlmEvent.ts"
import { unfenced } from "./LlmObject.ts"
import type * as LlmRequest from "./LlmRequest.ts"
import { httpMetadata, type LlmResponse, NAMESPACE, type Part, type StreamPart } from "./LlmResponse.ts"

// -----------------------------------------------------------------------------
// models
// -----------------------------------------------------------------------------

/**
 * What `effect/ai` has no field for: the fields of a request that are not its prompt, tools or format.
 *
 * @category models
 * @since 0.2.0
 */
export interface ConfigOptions extends LlmRequest.Settings {}

/**
 * How an answer came about, under `metadata["effect-resilient-llm"]` of its finish part.
 *
 * @category models
 * @since 0.2.0
 */
export type FinishFacts = {
  /** `provider`, `replay`, `cache` or `stale`. */
  readonly source: string
  readonly target: string
  readonly provider: string
  /** Attempts of the call. */
  readonly attempts: number
  /** Age of a stored answer in milliseconds. */
  readonly age: number
}

/**
 * What ended a call, under `reason.metadata["effect-resilient-llm"]` of an `AiError`.
 *
 * @category models
 * @since 0.2.0
 */
export type FailureFacts = {
  /** Tag of our own error. */
  readonly tag: string
  /** Attempts of the call. */
  readonly attempts: number
  /** The target that was asked last. */
  readonly target?: string
  /** Always true: retries and other targets are behind it, so asking again is up to nobody else. See {@link isFinal}. */
  readonly final: boolean
}

declare module "effect/ai/Response" {
  interface FinishPartMetadata {
    readonly "effect-resilient-llm"?: FinishFacts
  }
}

// -----------------------------------------------------------------------------
// what the caller sets
// -----------------------------------------------------------------------------

/**
 * The settings that calls of the language model are made with; empty by default.
 *
 * **Example** (A model and a temperature for a whole program)
 *
 * ```ts import.meta.vitest
 * import { Effect, Layer } from "effect"
 * import { LanguageModel } from "effect/ai"
 * import { LlmClient, LlmLanguageModel } from "effect-resilient-llm"
 * import { ScriptedProvider } from "effect-resilient-llm/testing"
 *
 * class Vendor extends ScriptedProvider.Service<Vendor>()("app/Vendor") {}
 *
 * const live = LlmLanguageModel.layer().pipe(
 *   Layer.provide(LlmClient.layer([Vendor])),
 *   Layer.provide(Vendor.layer([ScriptedProvider.answer("Hello.")])),
 *   Layer.merge(Layer.succeed(LlmLanguageModel.Config, { model: "small", temperature: 0 }))
 * )
 * const program = Effect.map(LanguageModel.generateText({ prompt: "Hi" }), (response) => response.text)
 * await Effect.runPromise(Effect.provide(program, live)) // => "Hello."
 * ```
 *
 * @category references
 * @since 0.2.0
 */
export const Config: Context.Reference<ConfigOptions> = Context.Reference<ConfigOptions>(
  "effect-resilient-llm/LlmLanguageModel/Config",
  { defaultValue: () => ({}) }
)

/**
 * Is told of each response, with its ledger, source and target, before the caller of the language model has it (of a
 * stream: before its finish part).
 *
 * @category models
 * @since 0.2.0
 */
export interface Observer {
  (response: LlmResponse): Effect.Effect<unknown>
}

const Observers: Context.Reference<ReadonlyArray<Observer>> = Context.Reference<ReadonlyArray<Observer>>(
  "effect-resilient-llm/LlmLanguageModel/Observers",
  { defaultValue: () => [] }
)

/** An effect or a stream that calls a language model. */
type Program = Effect.Effect<unknown, unknown, unknown> | Stream.Stream<unknown, unknown, unknown>

/** The same program, without what a subtype of effects may have beside. */
type Same<P extends Program> = P extends Stream.Stream<infer A, infer E, infer R> ? Stream.Stream<A, E, R>
  : P extends Effect.Effect<infer A, infer E, infer R> ? Effect.Effect<A, E, R>
  : never

const updated = <S>(self: Program, reference: Context.Reference<S>, update: (before: S) => S): Program =>
  Stream.isStream(self)
    ? Stream.unwrap(Effect.map(reference, (before) => Stream.provideService(self, reference, update(before))))
    : Effect.flatMap(reference, (before) => Effect.provideService(self, reference, update(before)))

const isProgram = (args: IArguments): boolean => Effect.isEffect(args[0]) || Stream.isStream(args[0])

/**
 * Settings for the calls in an effect or a stream; what is not named stays as it is outside.
 *
 * **Gotchas**
 *
 * An `idempotencyKey` is for one call. A `Chat` with tools makes several, and each is another question.
 *
 * **Example** (A deadline and a key for one call)
 *
 * ```ts import.meta.vitest
 * import { Effect, Layer } from "effect"
 * import { LanguageModel } from "effect/ai"
 * import { LlmClient, LlmLanguageModel } from "effect-resilient-llm"
 * import { ScriptedProvider } from "effect-resilient-llm/testing"
 *
 * class Vendor extends ScriptedProvider.Service<Vendor>()("app/Vendor") {}
 *
 * const live = LlmLanguageModel.layer().pipe(
 *   Layer.provide(LlmClient.layer([Vendor])),
 *   Layer.provide(Vendor.layer([ScriptedProvider.answer("Once."), ScriptedProvider.answer("Twice.")]))
 * )
 * const ask = LanguageModel.generateText({ prompt: "Hi" }).pipe(
 *   LlmLanguageModel.withConfigOverride({ idempotencyKey: "order-17", deadline: "20 seconds" })
 * )
 * const program = Effect.map(Effect.all([ask, ask]), (responses) => responses.map((response) => response.text))
 * await Effect.runPromise(Effect.provide(program, live)) // => ["Once.", "Once."]
 * ```
 *
 * @category combinators
 * @since 0.2.0
 */
export const withConfigOverride: {
  (overrides: ConfigOptions): <P extends Program>(self: P) => Same<P>
  <P extends Program>(self: P, overrides: ConfigOptions): Same<P>
} = dual(
  isProgram,
  (self: Program, overrides: ConfigOptions) => updated(self, Config, (before) => ({ ...before, ...overrides }))
)

/**
 * Tells `observer` of every response that the language model gets in an effect or a stream: `effect/ai` has no place
 * for a ledger, a source or a target in its own. Observers add up.
 *
 * **Example** (Where did the answer come from?)
 *
 * ```ts import.meta.vitest
 * import { Effect, Layer } from "effect"
 * import { LanguageModel } from "effect/ai"
 * import { LlmClient, LlmLanguageModel } from "effect-resilient-llm"
 * import { ScriptedProvider } from "effect-resilient-llm/testing"
 *
 * class Vendor extends ScriptedProvider.Service<Vendor>()("app/Vendor") {}
 *
 * const live = LlmLanguageModel.layer().pipe(
 *   Layer.provide(LlmClient.layer([Vendor])),
 *   Layer.provide(Vendor.layer([ScriptedProvider.answer("Hello.")]))
 * )
 * const seen: Array<string> = []
 * const program = LanguageModel.generateText({ prompt: "Hi" }).pipe(
 *   LlmLanguageModel.onResponse((response) => Effect.sync(() => seen.push(response.source)))
 * )
 * await Effect.runPromise(Effect.provide(program, live))
 * seen // => ["provider"]
 * ```
 *
 * @category combinators
 * @since 0.2.0
 */
export const onResponse: {
  (observer: Observer): <P extends Program>(self: P) => Same<P>
  <P extends Program>(self: P, observer: Observer): Same<P>
} = dual(
  isProgram,
  (self: Program, observer: Observer) => updated(self, Observers, (before) => [...before, observer])
)

// -----------------------------------------------------------------------------
// failures
// -----------------------------------------------------------------------------

const failures = new WeakMap<AiError.AiError, unknown>()

/**
 * Did this failure come out of the pipeline, with its retries and other targets behind it? Then asking again, or asking
 * an outer fallback for the same, is a decision of its own, whatever `isRetryable` says.
 *
 * **Example** (A plan that does not multiply attempts)
 *
 * ```ts import.meta.vitest
 * import { Effect, ExecutionPlan, Layer } from "effect"
 * import { LanguageModel } from "effect/ai"
 * import { LlmClient, LlmLanguageModel } from "effect-resilient-llm"
 * import { ScriptedProvider } from "effect-resilient-llm/testing"
 *
 * class Vendor extends ScriptedProvider.Service<Vendor>()("app/Vendor") {}
 *
 * const live = LlmLanguageModel.layer().pipe(
 *   Layer.provide(LlmClient.layer([Vendor], { retry: false, cache: false })),
 *   Layer.provide(Vendor.layer([ScriptedProvider.overloaded, ScriptedProvider.answer("Asked again.")]))
 * )
 * const plan = ExecutionPlan.make({ provide: live, attempts: 3, while: (error) => !LlmLanguageModel.isFinal(error) })
 * const error = await Effect.runPromise(
 *   LanguageModel.generateText({ prompt: "Hi" }).pipe(Effect.withExecutionPlan(plan), Effect.flip)
 * )
 * LlmLanguageModel.isFinal(error) // => true
 * ```
 *
 * @category guards
 * @since 0.2.0
 */
export const isFinal = (error: unknown): boolean => AiError.isAiError(error) && failures.has(error)

/**
 * Our own error behind an `AiError`, with ledger and provider facts; `undefined` for those that `effect/ai` made itself.
 * Users' guards may fail with errors that are not in `LlmError`, hence `unknown`; `LlmError` tells them apart by tag.
 *
 * @category accessors
 * @since 0.2.0
 */
export const failureOf = (error: AiError.AiError): unknown => failures.get(error)

const isTagged = (u: unknown): u is { readonly _tag: string } =>
  typeof u === "object" && u !== null && "_tag" in u && typeof u._tag === "string"

const ledgerOf = (u: unknown): Ledger =>
  typeof u === "object" && u !== null && "ledger" in u && Array.isArray(u.ledger) ? u.ledger as Ledger : []

const attemptsOf = (ledger: Ledger): number => ledger.filter((event) => event._tag === "AttemptStarted").length

const factsOf = (error: unknown): FailureFacts => {
  const ledger = ledgerOf(error)
  const last = ledger.findLast((event) => event._tag === "AttemptStarted")
  return {
    tag: isTagged(error) ? error._tag : "UnknownError",
    attempts: attemptsOf(ledger),
    ...(last === undefined ? undefined : { target: last.target }),
    final: true
  }
}

const failed = (method: string) => (error: unknown): AiError.AiError => {
  const made = AiError.make({
    module: "LlmLanguageModel",
    method,
    reason: reasonOf(error, { [NAMESPACE]: { ...factsOf(error) } })
  })
  failures.set(made, error)
  return made
}

const WORDS = " Its own words: `LlmError.details(LlmLanguageModel.failureOf(error))`."

const reasonOf = (error: unknown, metadata: AiError.ProviderMetadata): AiError.AiErrorReason => {
  const description = error instanceof Error ? LlmError.withoutWords(error.message, WORDS) : String(error)
  if (!LlmError.isLlmError(error)) return new AiError.UnknownError({ description, metadata })
  const later = (retryAfter: Duration.Duration | undefined) => new AiError.RateLimitError({ retryAfter, metadata })
  switch (error._tag) {
    case "RateLimited":
    case "BulkheadFull":
    case "CircuitOpen":
    case "Shed":
    case "AllProvidersUnavailable":
    case "IdempotencyInProgress":
      return later(error.retryAfter)
    case "AttemptTimeout":
    case "DeadlineExceeded":
      return new AiError.InternalProviderError({ description, metadata })
    case "StreamInterrupted":
      return new AiError.InvalidResponseError({ description, metadata })
    case "InvalidRequest":
      return new AiError.InvalidRequestError({
        parameter: error.path,
        constraint: `must be ${error.rule}, but is ${error.kind}`,
        metadata
      })
    case "IdempotencyConflict":
      return new AiError.InvalidRequestError({ description, metadata })
    case "AllProvidersFailed": {
      // What all of them say is what is wrong; where they differ, the whole of them is broken.
      const reasons = error.errors.map((one) => reasonOf(one, metadata))
      const first = reasons[0]!
      if (reasons.some((reason) => reason._tag !== first._tag)) {
        return new AiError.InternalProviderError({ description, metadata })
      }
      return first._tag === "RateLimitError" ? later(error.retryAfter) : first
    }
    case "ProviderError":
      return ofProvider(error, description, metadata)
  }
}

const ofProvider = (
  error: LlmError.ProviderError,
  description: string,
  metadata: AiError.ProviderMetadata
): AiError.AiErrorReason => {
  const common = {
    metadata,
    ...(error.status === undefined ? undefined : { http: { response: { status: error.status, headers: {} } } })
  }
  switch (error.reason._tag) {
    case "RateLimit":
      return new AiError.RateLimitError({ ...common, retryAfter: error.retryAfter })
    case "Quota":
      return new AiError.QuotaExhaustedError(common)
    case "Authentication":
      return new AiError.AuthenticationError({ ...common, kind: "InvalidKey", description })
    case "Permission":
      return new AiError.AuthenticationError({ ...common, kind: "InsufficientPermissions", description })
    case "ContentPolicy":
      return new AiError.ContentPolicyError({ ...common, description })
    case "NotFound":
    case "ContextLength":
    case "PayloadTooLarge":
    case "InvalidRequest":
    case "ClientClosed":
      return new AiError.InvalidRequestError({ ...common, description })
    case "MalformedResponse":
      return new AiError.InvalidResponseError({ ...common, description })
    default:
      return new AiError.InternalProviderError({ ...common, description })
  }
}

// -----------------------------------------------------------------------------
// requests
// -----------------------------------------------------------------------------

const toolChoiceOf = (choice: LanguageModel.ProviderOptions["toolChoice"], names: Names): LlmRequest.ToolChoice => {
  if (typeof choice === "string") return choice
  if ("tool" in choice) return { tool: names.toProvider(choice.tool) }
  // `oneOf` has chosen the tools that are sent.
  return choice.mode === "required" ? "required" : "auto"
}

/** Vendors know their own tools by their own names, programs by the names of a toolkit. */
interface Names {
  readonly toProvider: (name: string) => string
  readonly toProgram: (name: string) => string
}

const namesOf = (tools: ReadonlyArray<Tool.Any>): Names => {
  const mapper = new Tool.NameMapper(tools)
  return {
    toProvider: (name) => mapper.getProviderName(name),
    toProgram: (name) => mapper.getCustomName(name)
  }
}

// What OpenAI allows in the name of a schema.
const schemaName = (name: string): string => name.replaceAll(/[^\w-]/g, "_").slice(0, 64)

const requestOf = (
  { prompt, responseFormat, toolChoice, tools }: LanguageModel.ProviderOptions,
  config: ConfigOptions,
  names: Names,
  method: string
): Effect.Effect<LlmRequest.Input, AiError.AiError> =>
  Effect.try({
    try: () => {
      const request: LlmRequest.Input = {
        ...config,
        prompt,
        ...(tools.length === 0
          ? undefined
          : { tools: tools.map(definitionOf), toolChoice: toolChoiceOf(toolChoice, names) })
      }
      if (responseFormat.type === "text") return request
      const { jsonSchema } = codecTransformer(responseFormat.schema)
      return {
        ...request,
        responseFormat: {
          type: "json" as const,
          name: schemaName(responseFormat.objectName),
          schema: jsonSchema,
          ...(isStrict(jsonSchema) ? { strict: true } : undefined)
        }
      }
    },
    catch: (error) =>
      AiError.make({
        module: "LlmLanguageModel",
        method,
        reason: new AiError.UnsupportedSchemaError({
          description: error instanceof Error ? error.message : String(error)
        })
      })
  })

// -----------------------------------------------------------------------------
// responses
// -----------------------------------------------------------------------------

/** Rewrites what a vendor calls its tools, and what strict tools were called with. `undefined`: nothing to rewrite. */
const rewriting = (tools: ReadonlyArray<Tool.Any>, names: Names) => {
  if (!tools.some((tool) => Tool.isProviderDefined(tool) || Tool.getStrictMode(tool) === true)) return undefined
  const byName = new Map(tools.map((tool) => [tool.name, tool]))
  return <P extends Part | StreamPart>(part: P): Effect.Effect<P> => {
    switch (part.type) {
      case "tool-call": {
        const name = names.toProgram(part.name)
        const tool = byName.get(name)
        const params = tool === undefined || part.providerExecuted === true
          ? Effect.succeed(part.params)
          : paramsOf(tool, part.params)
        return Effect.map(params, (params) => ({ ...part, name, params }))
      }
      case "tool-result":
      case "tool-params-start":
        return Effect.succeed({ ...part, name: names.toProgram(part.name) })
      default:
        return Effect.succeed(part)
    }
  }
}

const withFacts = (finish: Response.FinishPartEncoded, response: LlmResponse): Response.FinishPartEncoded => {
  const { age, ledger, provider, source, target } = response
  const facts: FinishFacts = { source, target, provider, attempts: attemptsOf(ledger), age }
  return { ...finish, metadata: { ...finish.metadata, [NAMESPACE]: facts } }
}

const partsOf = (response: LlmResponse, { type }: LanguageModel.ProviderOptions["responseFormat"]): Array<Part> => {
  const { content, finish, id, model, requestId, timestamp } = response
  const parts: Array<Part> = []
  if (id !== undefined || model !== undefined || timestamp !== undefined || requestId !== undefined) {
    parts.push({
      type: "response-metadata",
      id,
      modelId: model,
      timestamp,
      metadata: httpMetadata({ requestId })
    })
  }
  for (const part of content) {
    parts.push(type === "json" && part.type === "text" ? { ...part, text: unfenced(part.text) } : part)
  }
  if (finish !== undefined) parts.push(withFacts(finish, response))
  return parts
}

// -----------------------------------------------------------------------------
// telemetry
// -----------------------------------------------------------------------------

const annotateRequest = ({ span }: LanguageModel.ProviderOptions, config: ConfigOptions): void =>
  Telemetry.addGenAIAnnotations(span, {
    operation: { name: "chat" },
    request: {
      model: config.model,
      temperature: config.temperature,
      topP: config.topP,
      maxTokens: config.maxTokens,
      stopSequences: config.stop,
      seed: config.seed
    }
  })

const annotateResponse = ({ span }: LanguageModel.ProviderOptions, response: LlmResponse): void =>
  Telemetry.addGenAIAnnotations(span, {
    provider: { name: providerName(response.provider) },
    response: {
      id: response.id,
      model: response.model,
      finishReasons: [response.finishReason.replaceAll("-", "_")]
    },
    usage: { inputTokens: response.usage.inputTokens.total, outputTokens: response.usage.outputTokens.total }
  })

// -----------------------------------------------------------------------------
// construction
// -----------------------------------------------------------------------------

/**
 * A language model that asks through `client`. {@link layer} is what most programs want.
 *
 * @category constructors
 * @since 0.2.0
 */
export const make = (client: Client<unknown, unknown>): Effect.Effect<LanguageModel.LanguageModel> => {
  // With a `ResponseIdTracker` around, effect/ai sends a request that was refused once more, without the id that a
  // vendor may have forgotten. Nothing of ours depends on that id, so the second answer is known.
  const refused = new WeakMap<object, AiError.AiError>()
  const asked = <A, E, R>(
    options: LanguageModel.ProviderOptions,
    method: string,
    ask: (request: LlmRequest.Input, names: Names) => Effect.Effect<A, E | AiError.AiError, R>
  ): Effect.Effect<A, E | AiError.AiError, R> =>
    Effect.flatMap(Config, (config) => {
      const known = options.incrementalFallback === true ? refused.get(options.span) : undefined
      if (known !== undefined) return Effect.fail(known)
      annotateRequest(options, config)
      const names = namesOf(options.tools)
      return Effect.flatMap(requestOf(options, config, names, method), (request) => ask(request, names))
    })
  const remember = (options: LanguageModel.ProviderOptions) => (error: AiError.AiError): AiError.AiError => {
    if (options.incrementalPrompt !== undefined) refused.set(options.span, error)
    return error
  }
  const answered = (options: LanguageModel.ProviderOptions, response: LlmResponse): Effect.Effect<LlmResponse> => {
    annotateResponse(options, response)
    return Effect.flatMap(
      Observers,
      (observers) => Effect.as(Effect.forEach(observers, (observer) => observer(response), { discard: true }), response)
    )
  }
  return LanguageModel.make({
    codecTransformer,
    generateText: (options) =>
      asked(options, "generateText", (request, names) =>
        client.complete(request).pipe(
          Effect.mapError((error) => remember(options)(failed("generateText")(error))),
          Effect.flatMap((response) => answered(options, response)),
          Effect.flatMap((response) => {
            const parts = partsOf(response, options.responseFormat)
            const rewrite = rewriting(options.tools, names)
            return rewrite === undefined ? Effect.succeed(parts) : Effect.forEach(parts, rewrite)
          })
        )),
    streamText: (options) =>
      Stream.unwrap(asked(options, "streamText", (request, names) =>
        Effect.map(
          Effect.mapError(client.open(request), (error) => remember(options)(failed("streamText")(error))),
          ({ parts, response }) => {
            const rewrite = rewriting(options.tools, names)
            let finish: Response.FinishPartEncoded | undefined
            // The finish part waits until all is known that belongs to it.
            const before = Stream.filter(parts, (part) => {
              if (part.type === "finish") finish = part
              return part.type !== "finish"
            })
            const end = Effect.flatMap(response, (whole) =>
              Effect.as(
                answered(options, whole),
                Option.map(Option.fromUndefinedOr(finish), (part) => withFacts(part, whole))
              ))
            return (rewrite === undefined ? before : Stream.mapEffect(before, rewrite)).pipe(
              Stream.concat(Stream.unwrap(
                Effect.map(end, Option.match({ onNone: () => Stream.empty, onSome: Stream.succeed<StreamPart> }))
              )),
              Stream.mapError(failed("streamText"))
            )
          }
        )))
  })
}

/**
 * The language model of `effect/ai` over {@link LlmClient}, or over a client tag of your own.
 *
 * **Details**
 *
 * - What `effect/ai` has no field for is in {@link Config} and {@link withConfigOverride}; ledgers go to
 *   {@link onResponse}, and what is most asked for is in the metadata of finish parts and errors.
 * - The whole prompt is sent with every request: a vendor's memory of earlier turns is of no use to the next target.
 * - Tools of a vendor (`Tool.providerDefined`) are asked of targets of that vendor only.
 *
 * **Gotchas**
 *
 * It is a function, because a constant layer is built once for nested `Effect.provide`s: the inner client would
 * silently be the outer one.
 *
 * **Example** (An existing program changes one Layer)
 *
 * ```ts import.meta.vitest
 * import { Effect, Layer } from "effect"
 * import { LanguageModel } from "effect/ai"
 * import { LlmClient, LlmLanguageModel } from "effect-resilient-llm"
 * import { ScriptedProvider } from "effect-resilient-llm/testing"
 *
 * // The program knows nothing of this library.
 * const program = Effect.map(LanguageModel.generateText({ prompt: "What is AI?" }), (response) => response.text)
 *
 * class Primary extends ScriptedProvider.Service<Primary>()("app/Primary") {}
 * class Secondary extends ScriptedProvider.Service<Secondary>()("app/Secondary") {}
 *
 * const live = LlmLanguageModel.layer().pipe(
 *   Layer.provide(LlmClient.layer([Primary, Secondary], { retry: false })),
 *   Layer.provide([
 *     Primary.layer([ScriptedProvider.overloaded]),
 *     Secondary.layer([ScriptedProvider.answer("Artificial intelligence.")])
 *   ])
 * )
 * await Effect.runPromise(Effect.provide(program, live)) // => "Artificial intelligence."
 * ```
 *
 * @category layers
 * @since 0.2.0
 */
export const layer: {
  (): Layer.Layer<LanguageModel.LanguageModel, never, LlmClient>
  <I, CE, SE>(tag: Context.Key<I, Client<CE, SE>>): Layer.Layer<LanguageModel.LanguageModel, never, I>
} = <I, CE, SE>(tag?: Context.Key<I, Client<CE, SE>>) => tag === undefined ? over(LlmClient) : over(tag)

const over = <I, CE, SE>(
  tag: Context.Key<I, Client<CE, SE>>
): Layer.Layer<LanguageModel.LanguageModel, never, I> =>
  Layer.effect(LanguageModel.LanguageModel, Effect.flatMap(tag, make))
