/**
 * The client as a language model of the AI SDK (`ai`), and the pipeline round models that an application already has.
 * Needs `@ai-sdk/provider` 4.x, which comes with `ai` 7.
 *
 * @since 0.2.0
 */
import {
  APICallError,
  type LanguageModelV4,
  type LanguageModelV4CallOptions,
  type LanguageModelV4GenerateResult,
  type LanguageModelV4Middleware,
  type LanguageModelV4StreamPart,
  type SharedV4Warning
} from "@ai-sdk/provider"
import * as Effect from "effect/Effect"
import type { Status } from "../LlmClient.ts"
import type { Options as PipelineOptions } from "../LlmConfig.ts"
import type { LlmEvent } from "../LlmEvent.ts"
import type * as LlmRequest from "../LlmRequest.ts"
import { type LlmResponse, NAMESPACE, type StreamPart } from "../LlmResponse.ts"
import type { ResilientLlm, ResilientStream } from "../promise/index.ts"
import * as Core from "../promise/internal/core.ts"
import { Reader } from "../promise/internal/stream.ts"
import { ResilientLlmError } from "../promise/ResilientLlmError.ts"
import { toFinish, toInput, toResult, toStreamPart } from "./internal/convert.ts"
import { type Call, CallOptions, providerOf } from "./internal/models.ts"

/**
 * What the SDK has no word for. As a default of a model, or of one call as
 * `providerOptions: { "effect-resilient-llm": { idempotencyKey: "order-17" } }`.
 *
 * @category models
 * @since 0.2.0
 */
export interface Settings extends Omit<LlmRequest.Settings, "maxTokens" | "stop"> {}

// -----------------------------------------------------------------------------
// the client as a model
// -----------------------------------------------------------------------------

/**
 * The client as a model for `generateText`, `streamText`, `generateObject` and agents.
 *
 * **Details**
 *
 * - Retries of the SDK do not multiply ours: failures are `APICallError`s with `isRetryable: false`; `data` has our
 *   `code`, `retryAfterMs` and the ledger, and `cause` the whole error.
 * - `providerMetadata["effect-resilient-llm"]` says where an answer came from: `source`, `target`, `attempts`.
 * - What the SDK can ask for and a request cannot say is in the `warnings` of the result.
 *
 * **Example** (One line changes)
 *
 * ```ts
 * import { generateText } from "ai"
 * import { resilient } from "effect-resilient-llm/ai-sdk"
 * import { createResilientLlm } from "effect-resilient-llm/promise"
 *
 * const llm = createResilientLlm({ providers: { openai: {}, anthropic: {} } })
 * const { text } = await generateText({ model: resilient(llm), prompt: "What is AI?" })
 * ```
 *
 * @category constructors
 * @since 0.2.0
 */
export const resilient = (llm: ResilientLlm, settings: Settings = {}): LanguageModelV4 =>
  modelOf({
    modelId: settings.model ?? llm.targets.join(", "),
    settings,
    unchanged: false,
    supportedUrls: {},
    complete: (input, { abortSignal: signal }) => llm.complete(input, { signal }),
    stream: (input, { abortSignal: signal }) => llm.stream(input, { signal })
  })

interface Face {
  readonly modelId: string
  readonly settings: Settings
  /** Do those behind it get a call's options as they are? Then nothing of them is lost in the request. */
  readonly unchanged: boolean
  readonly supportedUrls: LanguageModelV4["supportedUrls"]
  readonly complete: (input: LlmRequest.Input, call: LanguageModelV4CallOptions) => Promise<LlmResponse>
  readonly stream: (
    input: LlmRequest.Input,
    call: LanguageModelV4CallOptions
  ) => Pick<ResilientStream, "parts" | "response">
}

const asked = (call: LanguageModelV4CallOptions, { settings, unchanged }: Face) => {
  const { input, warnings } = toInput(call)
  const given = Object.entries(input).filter(([, value]) => value !== undefined)
  const asRequest = {
    ...settings,
    ...call.providerOptions?.[NAMESPACE],
    ...Object.fromEntries(given),
    prompt: input.prompt
  }
  if (!unchanged) return { input: asRequest, warnings }
  const own = { [NAMESPACE]: beside(call, warnings.length > 0) }
  return { input: { ...asRequest, providerOptions: { ...asRequest.providerOptions, ...own } }, warnings: [] }
}

/**
 * What reaches a model beside the request, as part of the question: calls that differ only there are two. Where a prompt
 * says what a request cannot, the prompt as it was; the bytes of its files are in the request.
 */
const beside = ({ prompt, ...call }: LanguageModelV4CallOptions, isPromptPoorer: boolean) => {
  const text = JSON.stringify(
    { ...call, abortSignal: undefined, prompt: isPromptPoorer ? prompt : undefined },
    (_, value: unknown) => value instanceof Uint8Array ? value.length : value
  )
  return JSON.parse(text) as Record<string, unknown>
}

const modelOf = (face: Face): LanguageModelV4 => ({
  specificationVersion: "v4",
  provider: NAMESPACE,
  modelId: face.modelId,
  supportedUrls: face.supportedUrls,
  doGenerate: async (call): Promise<LanguageModelV4GenerateResult> => {
    const { input, warnings } = asked(call, face)
    try {
      return toResult(await face.complete(input, call), warnings)
    } catch (error) {
      throw apiError(error)
    }
  },
  doStream: async (call) => {
    const { input, warnings } = asked(call, face)
    const streaming = face.stream(input, call)
    const iterator = streaming.parts[Symbol.asyncIterator]()
    try {
      // Until the first part it can still fail over, and a failure is one of the call, not of its stream.
      const first = await iterator.next()
      return { stream: streamOf(first, iterator, () => streaming.response, warnings) }
    } catch (error) {
      throw apiError(error)
    }
  }
})

const streamOf = (
  first: IteratorResult<StreamPart, unknown>,
  iterator: AsyncIterator<StreamPart>,
  response: () => Promise<LlmResponse>,
  warnings: Array<SharedV4Warning>
): ReadableStream<LanguageModelV4StreamPart> => {
  let known: IteratorResult<StreamPart, unknown> | undefined = first
  let isOpened = false
  const partsOf = async (): Promise<ReadonlyArray<LanguageModelV4StreamPart>> => {
    const pulled = known ?? await iterator.next()
    known = undefined
    if (pulled.done === true) return [toFinish(await response())]
    // The finish part is made of the whole response, when all is known that belongs to it.
    return pulled.value.type === "finish" ? [] : toStreamPart(pulled.value)
  }
  return new ReadableStream<LanguageModelV4StreamPart>({
    pull: async (controller) => {
      try {
        let enqueued = 0
        while (enqueued === 0) {
          for (const part of await partsOf()) {
            // A model behind us may have warnings of its own.
            const own = part.type === "stream-start" ? part.warnings : []
            if (!isOpened) controller.enqueue({ type: "stream-start", warnings: [...warnings, ...own] })
            isOpened = true
            if (part.type !== "stream-start") controller.enqueue(part)
            if (part.type === "finish") controller.close()
            enqueued++
          }
        }
      } catch (error) {
        if (!ResilientLlmError.isInstance(error)) return controller.error(error)
        controller.enqueue({ type: "error", error: apiError(error) })
        controller.close()
      }
    },
    cancel: async () => {
      await iterator.return?.()
    }
  }, { highWaterMark: 0 })
}

/** Aborts and bugs stay what they are. */
const apiError = (error: unknown): unknown => {
  if (!ResilientLlmError.isInstance(error)) return error
  const { code, ledger, message, reason, retryAfterMs, retryable, status } = error
  return new APICallError({
    message: message.replace("`error.details`", "`error.cause.details`"),
    url: "",
    requestBodyValues: {},
    ...(status === undefined ? undefined : { statusCode: status }),
    ...(retryAfterMs === undefined
      ? undefined
      : { responseHeaders: { "retry-after-ms": String(Math.ceil(retryAfterMs)) } }),
    isRetryable: false,
    data: { code, reason, retryable, retryAfterMs, ledger },
    cause: error
  })
}

// -----------------------------------------------------------------------------
// models of the SDK behind the pipeline
// -----------------------------------------------------------------------------

/**
 * A model over others, with the state of its targets.
 *
 * @category models
 * @since 0.2.0
 */
export interface ResilientModel extends LanguageModelV4, AsyncDisposable {
  /** How the models are doing. */
  readonly status: () => Promise<Status>
  /** Ends all calls. */
  readonly close: () => Promise<void>
}

/**
 * Options of {@link resilientModels} and {@link resilientMiddleware}: those of the pipeline, and default settings.
 *
 * @category models
 * @since 0.2.0
 */
export interface Options extends PipelineOptions {
  readonly settings?: Settings | undefined
  /** Told of everything that happens, while it happens. It must be quick. */
  readonly onEvent?: ((event: LlmEvent) => void) | undefined
}

/**
 * The whole pipeline over models that you already have, in failover order. Each model gets a call's options as they are:
 * provider options, headers, everything.
 *
 * **Example** (Failover between two models)
 *
 * ```ts
 * import { anthropic } from "@ai-sdk/anthropic"
 * import { openai } from "@ai-sdk/openai"
 * import { streamText } from "ai"
 * import { resilientModels } from "effect-resilient-llm/ai-sdk"
 *
 * const model = resilientModels([openai("gpt-4.1-mini"), anthropic("claude-haiku-4-5")], {
 *   timeout: { attempt: "20 seconds" }
 * })
 * const { textStream } = streamText({ model, prompt: "What is AI?" })
 * ```
 *
 * @category constructors
 * @since 0.2.0
 */
export const resilientModels = (models: ReadonlyArray<LanguageModelV4>, options: Options = {}): ResilientModel => {
  const { onEvent, settings = {}, ...pipeline } = options
  const names = new Map<string, number>()
  const providers = models.map((model) => {
    const name = `${model.provider}/${model.modelId}`
    const count = (names.get(name) ?? 0) + 1
    names.set(name, count)
    return providerOf(count === 1 ? name : `${name} #${count}`, model)
  })
  const { client, close, run } = Core.make(providers, pipeline, onEvent, Effect.void)
  const along = (options: LanguageModelV4CallOptions) => {
    const call: Call = { options }
    return <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
      Effect.provideService(effect, CallOptions, call)
  }
  const model = modelOf({
    modelId: models.map(({ modelId }) => modelId).join(", "),
    settings,
    unchanged: true,
    supportedUrls: common(models),
    complete: (input, options) => run(along(options)(client.complete(input)), options.abortSignal),
    stream: (input, options) => {
      const reader = new Reader(along(options)(client.open(input)), run, options.abortSignal)
      return {
        parts: reader.parts,
        get response() {
          return reader.response()
        }
      }
    }
  })
  return Object.assign(model, {
    status: () => run(client.status, undefined),
    close,
    [Symbol.asyncDispose]: close
  })
}

/** Only what every model takes by its address need not be downloaded. */
const common = async (models: ReadonlyArray<LanguageModelV4>): Promise<Record<string, Array<RegExp>>> => {
  const none = (): Record<string, Array<RegExp>> => ({})
  const [first = {}, ...others] = await Promise.all(
    models.map(({ supportedUrls }) => Promise.resolve(supportedUrls).catch(none))
  )
  return Object.fromEntries(
    Object.entries(first)
      .map(([type, patterns]): [string, Array<RegExp>] => [
        type,
        patterns.filter((pattern) =>
          others.every((other) => (other[type] ?? []).some(({ source }) => source === pattern.source))
        )
      ])
      .filter(([, patterns]) => patterns.length > 0)
  )
}

/**
 * The pipeline round one model, as a middleware for `wrapLanguageModel`. What it learns about a model lives in the
 * middleware: make it once.
 *
 * **Example** (Timeouts and retries for a model that somebody else made)
 *
 * ```ts
 * import { openai } from "@ai-sdk/openai"
 * import { wrapLanguageModel } from "ai"
 * import { resilientMiddleware } from "effect-resilient-llm/ai-sdk"
 *
 * const model = wrapLanguageModel({
 *   model: openai("gpt-4.1-mini"),
 *   middleware: resilientMiddleware({ retry: { maxRetries: 5 }, timeout: { firstToken: "10 seconds" } })
 * })
 * ```
 *
 * @category constructors
 * @since 0.2.0
 */
export const resilientMiddleware = (options: Options = {}): LanguageModelV4Middleware => {
  const wrapped = new WeakMap<LanguageModelV4, ResilientModel>()
  const round = (model: LanguageModelV4): ResilientModel => {
    const known = wrapped.get(model)
    if (known !== undefined) return known
    const made = resilientModels([model], options)
    wrapped.set(model, made)
    return made
  }
  return {
    specificationVersion: "v4",
    wrapGenerate: ({ model, params }) => round(model).doGenerate(params),
    wrapStream: ({ model, params }) => round(model).doStream(params)
  }
}
