/**
 * Servers that speak OpenAI's chat completions protocol: gateways, other vendors, local servers.
 *
 * @since 0.1.0
 */
import * as Config from "effect/Config"
import * as Effect from "effect/Effect"
import type { HttpClient } from "effect/http/HttpClient"
import type * as Redacted from "effect/Redacted"
import { attempt, OptionsReader } from "../internal/options.ts"
import type { LlmConfigError } from "../LlmError.ts"
import type { LlmProvider } from "../LlmProvider.ts"
import { protocol } from "./internal/chat.ts"
import * as Http from "./internal/http.ts"
import {
  commonNames,
  commonOf,
  type CommonOptions,
  endpointUrl,
  optionalVariable,
  provider,
  secretOf,
  textOption
} from "./internal/vendor.ts"

/**
 * Options of {@link OpenAiCompatible}.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options extends CommonOptions {
  /** Address of the API, up to what comes before `/chat/completions`. */
  readonly baseUrl: string
  /** Left out for servers that want none. */
  readonly apiKey?: Redacted.Redacted | undefined
  /**
   * Header that carries the key. `authorization` (the default) sends it as a bearer token, any other, such as Azure's
   * `api-key`, as it is.
   */
  readonly authHeader?: string | undefined
  /** Field for the token limit; `max_tokens` by default. */
  readonly maxTokensField?: "max_tokens" | "max_completion_tokens" | undefined
  /**
   * Ask for usage at the end of a stream with `stream_options` (default true). Some servers refuse the field, and most
   * of these send usage anyway.
   */
  readonly streamOptions?: boolean | undefined
}

const make = (options: Options): Effect.Effect<LlmProvider, LlmConfigError, HttpClient> =>
  Effect.flatMap(
    attempt((): Http.Endpoint => {
      const reader = new OptionsReader<Options>("openAiCompatible", options, [
        ...commonNames,
        "apiKey",
        "authHeader",
        "maxTokensField",
        "streamOptions"
      ])
      const common = commonOf(reader, "openai-compatible", undefined)
      const key = options.apiKey === undefined ? undefined : secretOf(reader, "apiKey")
      const header = (textOption(reader, "authHeader") ?? "authorization").toLowerCase()
      return {
        ...common,
        url: endpointUrl(reader, undefined, "/chat/completions"),
        headers: {
          ...common.headers,
          ...(key === undefined ? undefined : { [header]: header === "authorization" ? `Bearer ${key}` : key })
        },
        secretHeaders: [...common.secretHeaders, header],
        protocol: protocol({
          provider: common.id,
          maxTokensField: reader.oneOf("maxTokensField", ["max_tokens", "max_completion_tokens"], "max_tokens"),
          streamOptions: reader.boolean("streamOptions", true),
          requireDone: false
        })
      }
    }),
    Http.make
  )

const config: Config.Config<Options> = Config.all({
  baseUrl: Config.String("OPENAI_COMPATIBLE_BASE_URL"),
  apiKey: Config.withDefault(Config.Redacted("OPENAI_COMPATIBLE_API_KEY"), undefined),
  defaultModel: optionalVariable("OPENAI_COMPATIBLE_MODEL")
})

/**
 * A server that speaks OpenAI's chat completions protocol, as a provider.
 *
 * **Details**
 *
 * - `layerConfig()` reads `OPENAI_COMPATIBLE_BASE_URL` and, when set, `OPENAI_COMPATIBLE_API_KEY` and
 *   `OPENAI_COMPATIBLE_MODEL`. There is no default model: name one in the options or in each request.
 * - Requests are mapped as for {@link OpenAi}, except for the name of the token limit.
 * - Answers are read leniently: a missing `id`, `index` or `usage`; arguments as text or object; content as text or
 *   list; errors as object, text or flat; `[DONE]` may be absent when the answer has a finish reason.
 * - Token counts are passed on as the server tells them.
 *
 * **Example** (A local server)
 *
 * ```ts import.meta.vitest
 * import { Effect, Layer } from "effect"
 * import { FetchHttpClient } from "effect/http"
 * import { OpenAiCompatible } from "effect-resilient-llm/providers/OpenAiCompatible"
 *
 * class Local extends OpenAiCompatible.Service<Local>()("app/Local") {}
 *
 * const live = Local.layer({ id: "local", baseUrl: "http://localhost:11434/v1", defaultModel: "llama3.2" })
 *   .pipe(Layer.provide(FetchHttpClient.layer))
 *
 * const program = Effect.map(Local, (provider) => `${provider.id}: ${provider.defaultModel}`)
 * await Effect.runPromise(Effect.provide(program, live)) // => "local: llama3.2"
 * ```
 *
 * @category services
 * @since 0.1.0
 */
export class OpenAiCompatible
  extends provider<Options>({ make, config })<OpenAiCompatible>()("effect-resilient-llm/OpenAiCompatible")
{}
