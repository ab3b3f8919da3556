/**
 * OpenAI, through the chat completions API or the responses API.
 *
 * @since 0.1.0
 */
import * as Config from "effect/Config"
import * as Effect from "effect/Effect"
import type { HttpClient } from "effect/http/HttpClient"
import type * as Redacted from "effect/Redacted"
import * as Schema from "effect/Schema"
import { attempt, boolean, oneOf, optionsOf, readOptions } from "../internal/option.ts"
import type { LlmConfigError } from "../LlmError.ts"
import type { LlmProvider } from "../LlmProvider.ts"
import * as Chat from "./internal/chat.ts"
import * as Http from "./internal/http.ts"
import { openAiIds } from "./internal/ids.ts"
import * as Responses from "./internal/responses.ts"
import {
  commonFields,
  commonOf,
  type CommonOptions,
  endpointUrl,
  headerText,
  optionalVariable,
  provider,
  requiredSecret
} from "./internal/vendor.ts"

/**
 * Model asked when neither the request nor the options name one: small, and accepts every field a request can have.
 *
 * @category defaults
 * @since 0.1.0
 */
export const defaultModel = "gpt-4.1-mini"

/**
 * Options of {@link OpenAi}.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options extends CommonOptions {
  /** A key of the vendor. Blanks around it are left out. */
  readonly apiKey: Redacted.Redacted
  /** Which API is asked: chat completions (default) or responses. */
  readonly api?: "chat" | "responses" | undefined
  /**
   * Have the responses API give reasoning in encrypted form (default false), so that it can be sent back with the next
   * request. Models that do not reason refuse this.
   */
  readonly encryptedReasoning?: boolean | undefined
  /** Sent as `OpenAI-Organization`. */
  readonly organization?: string | undefined
  /** Sent as `OpenAI-Project`. */
  readonly project?: string | undefined
}

const schema = optionsOf<Options>()({
  ...commonFields,
  apiKey: requiredSecret,
  api: oneOf(["chat", "responses"], "chat"),
  encryptedReasoning: boolean(false),
  organization: Schema.optional(headerText),
  project: Schema.optional(headerText)
})

const make = (given: Options): Effect.Effect<LlmProvider, LlmConfigError, HttpClient> =>
  Effect.flatMap(
    attempt((): Http.Endpoint => {
      const options = readOptions(schema, given, "openAi")
      const { api, apiKey, baseUrl, encryptedReasoning, organization, project } = options
      const common = commonOf(options, "openai", defaultModel)
      return {
        ...common,
        url: endpointUrl(
          baseUrl ?? "https://api.openai.com/v1",
          api === "responses" ? "/responses" : "/chat/completions"
        ),
        headers: {
          ...common.headers,
          authorization: `Bearer ${apiKey}`,
          ...(organization === undefined ? undefined : { "openai-organization": organization }),
          ...(project === undefined ? undefined : { "openai-project": project })
        },
        secretHeaders: [...common.secretHeaders, "openai-organization", "openai-project"],
        reasoning: api === "responses" ? "openai" : false,
        protocol: api === "responses"
          ? Responses.protocol({ provider: common.id, encryptedReasoning, vendor: "openai" })
          : Chat.protocol({
            provider: common.id,
            maxTokensField: "max_completion_tokens",
            seedField: "seed",
            streamOptions: true,
            requireDone: true,
            vendor: "openai",
            marks: false,
            ids: openAiIds,
            images: true,
            topK: false
          })
      }
    }),
    Http.make
  )

const config: Config.Config<Options> = Config.all({
  apiKey: Config.Redacted("OPENAI_API_KEY"),
  baseUrl: optionalVariable("OPENAI_BASE_URL"),
  organization: optionalVariable("OPENAI_ORG_ID"),
  project: optionalVariable("OPENAI_PROJECT_ID")
})

/**
 * OpenAI as a provider.
 *
 * **Details**
 *
 * - `OpenAi.layer(options)` needs an `HttpClient`; `OpenAi.layerConfig()` reads `OPENAI_API_KEY` and, when set,
 *   `OPENAI_BASE_URL`, `OPENAI_ORG_ID` and `OPENAI_PROJECT_ID`; `OpenAi.make(options)` gives the provider as a value.
 * - A refusal is kept as `refusal` in the metadata of the finish part. Calls of tools that ran at the provider are not
 *   sent back.
 *
 * The chat completions API (`api: "chat"`, the default):
 *
 * - Every field of a request has a place: `maxTokens` is sent as `max_completion_tokens`, `responseFormat` as
 *   `response_format`. Reasoning in the prompt is not sent back.
 * - Images go as `image_url`, WAV and MP3 as `input_audio`, other files by their bytes as `file`. A file other than an
 *   image that is given by its address cannot be sent: the request fails with reason `InvalidRequest`.
 * - Pages that the model cites are `source` parts before the finish part.
 * - A stream is whole only with its `[DONE]` marker; without, it fails as truncated.
 *
 * The responses API (`api: "responses"`):
 *
 * - Nothing is kept at the provider: `store` is false and each request holds the whole conversation.
 * - System messages that open the prompt go to `instructions`, `maxTokens` to `max_output_tokens` and `responseFormat` to
 *   `text.format`. `stop` and `seed` have no place and are left out.
 * - Images go as `input_image`, other files by bytes or address as `input_file`; audio fails with `InvalidRequest`.
 * - With `encryptedReasoning` reasoning keeps its `encryptedContent` and `itemId` as metadata under `openai`, and is sent
 *   back only with it. Pages that the model cites are `source` parts.
 * - A stream is whole only with `response.completed` or `response.incomplete`; errors inside a stream, which this API
 *   sends with status 200, have the class of the error.
 *
 * **Gotchas**
 *
 * Reasoning models refuse `temperature`, `topP` and `stop`; leave these out when you choose one. The responses API
 * refuses a `maxTokens` below 16.
 *
 * **Example** (A second account as its own target)
 *
 * ```ts import.meta.vitest
 * import { Effect, Layer, Redacted } from "effect"
 * import { FetchHttpClient } from "effect/http"
 * import { OpenAi } from "effect-resilient-llm/providers/OpenAi"
 *
 * class OpenAiEu extends OpenAi.Service<OpenAiEu>()("app/OpenAiEu") {}
 *
 * const live = OpenAiEu.layer({
 *   id: "openai-eu",
 *   apiKey: Redacted.make("your-key"),
 *   baseUrl: "https://eu.api.openai.com/v1"
 * }).pipe(Layer.provide(FetchHttpClient.layer))
 *
 * const program = Effect.map(OpenAiEu, (provider) => provider.id)
 * await Effect.runPromise(Effect.provide(program, live)) // => "openai-eu"
 * ```
 *
 * **Example** (The responses API, with reasoning that goes along)
 *
 * ```ts import.meta.vitest
 * import { Effect, Redacted } from "effect"
 * import { FetchHttpClient } from "effect/http"
 * import { OpenAi } from "effect-resilient-llm/providers/OpenAi"
 *
 * const make = OpenAi.make({
 *   apiKey: Redacted.make("your-key"),
 *   api: "responses",
 *   encryptedReasoning: true,
 *   defaultModel: "gpt-5-mini"
 * })
 *
 * const program = Effect.map(make, (provider) => provider.defaultModel)
 * await Effect.runPromise(Effect.provide(program, FetchHttpClient.layer)) // => "gpt-5-mini"
 * ```
 *
 * @category services
 * @since 0.1.0
 */
export class OpenAi
  extends provider<Options>({ id: "openai", make, config })<OpenAi>()("effect-resilient-llm/OpenAi")
{}
