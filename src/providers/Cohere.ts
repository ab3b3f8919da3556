/**
 * Cohere, through version 2 of the chat API.
 *
 * @since 0.1.0
 */
import * as Config from "effect/Config"
import * as Effect from "effect/Effect"
import type { HttpClient } from "effect/http/HttpClient"
import type * as Redacted from "effect/Redacted"
import * as Schema from "effect/Schema"
import { attempt, optionsOf, readOptions } from "../internal/option.ts"
import type { LlmConfigError } from "../LlmError.ts"
import type { LlmProvider } from "../LlmProvider.ts"
import { protocol } from "./internal/cohere.ts"
import * as Http from "./internal/http.ts"
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
 * Model asked when neither the request nor the options name one.
 *
 * @category defaults
 * @since 0.1.0
 */
export const defaultModel = "command-a-03-2025"

/**
 * Options of {@link Cohere}.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options extends CommonOptions {
  /** A key of the vendor. Blanks around it are left out. */
  readonly apiKey: Redacted.Redacted
  /** Sent as `X-Client-Name`. */
  readonly clientName?: string | undefined
}

const schema = optionsOf<Options>()({
  ...commonFields,
  apiKey: requiredSecret,
  clientName: Schema.optional(headerText)
})

const make = (given: Options): Effect.Effect<LlmProvider, LlmConfigError, HttpClient> =>
  Effect.flatMap(
    attempt((): Http.Endpoint => {
      const options = readOptions(schema, given, "cohere")
      const { apiKey, baseUrl, clientName } = options
      const common = commonOf(options, "cohere", defaultModel)
      return {
        ...common,
        url: endpointUrl(baseUrl ?? "https://api.cohere.com", "/v2/chat"),
        headers: {
          ...common.headers,
          authorization: `Bearer ${apiKey}`,
          ...(clientName === undefined ? undefined : { "x-client-name": clientName })
        },
        secretHeaders: common.secretHeaders,
        statuses: new Map([[498, "ContentPolicy"]]),
        reasoning: "cohere",
        protocol: protocol(common.id)
      }
    }),
    Http.make
  )

const config: Config.Config<Options> = Config.all({
  apiKey: Config.Redacted("COHERE_API_KEY"),
  baseUrl: optionalVariable("COHERE_BASE_URL")
})

/**
 * Cohere as a provider.
 *
 * **Details**
 *
 * - `Cohere.layer(options)` needs an `HttpClient`; `Cohere.layerConfig()` reads `COHERE_API_KEY` and, when set,
 *   `COHERE_BASE_URL`, an address without `/v2`; `Cohere.make(options)` gives the provider as a value.
 * - Files: images only, by bytes or address. Any other file fails with reason `InvalidRequest` before it is sent.
 * - A tool choice that names a tool offers this tool alone and requires a call. `strict_tools` is set when every tool
 *   is strict. The name of a response schema has no place and is left out.
 * - The plan before tool calls is reasoning with `{ cohere: { toolPlan: true } }` as metadata, and is sent back as a
 *   plan. Other reasoning is not sent back.
 * - Documents that the model cites are `source` parts before the finish part, as pages if they have a `url`. Of cited
 *   results of tools only those with a `url` are. The cited text is left out.
 * - Tokens are the ones that went through the model (`usage.tokens`), not the billed ones.
 * - A stream is whole only with its `message-end` event; without, it fails as truncated.
 *
 * **Example** (A provider as a value)
 *
 * ```ts import.meta.vitest
 * import { Effect, Redacted } from "effect"
 * import { FetchHttpClient } from "effect/http"
 * import { Cohere } from "effect-resilient-llm/providers/Cohere"
 *
 * const program = Effect.gen(function*() {
 *   const provider = yield* Cohere.make({ apiKey: Redacted.make("your-key") })
 *   return provider.defaultModel
 * })
 * await Effect.runPromise(Effect.provide(program, FetchHttpClient.layer)) // => "command-a-03-2025"
 * ```
 *
 * @category services
 * @since 0.1.0
 */
export class Cohere
  extends provider<Options>({ id: "cohere", make, config })<Cohere>()("effect-resilient-llm/Cohere")
{}
