/**
 * Ollama, through its own API.
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
import * as Http from "./internal/http.ts"
import { protocol } from "./internal/ollama.ts"
import {
  commonFields,
  commonOf,
  type CommonOptions,
  endpointUrl,
  optionalVariable,
  provider,
  secret
} from "./internal/vendor.ts"

/**
 * Options of {@link Ollama}.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options extends CommonOptions {
  /** Left out for a local server; `ollama.com` wants one. */
  readonly apiKey?: Redacted.Redacted | undefined
}

const schema = optionsOf<Options>()({ ...commonFields, apiKey: Schema.optional(secret) })

const make = (given: Options): Effect.Effect<LlmProvider, LlmConfigError, HttpClient> =>
  Effect.flatMap(
    attempt((): Http.Endpoint => {
      const options = readOptions(schema, given, "ollama")
      const { apiKey, baseUrl } = options
      const common = commonOf(options, "ollama", undefined)
      return {
        ...common,
        url: endpointUrl(baseUrl ?? "http://localhost:11434", "/api/chat"),
        headers: { ...common.headers, ...(apiKey === undefined ? undefined : { authorization: `Bearer ${apiKey}` }) },
        reasoning: false,
        protocol: protocol(common.id)
      }
    }),
    Http.make
  )

const config: Config.Config<Options> = Config.all({
  apiKey: Config.withDefault(Config.Redacted("OLLAMA_API_KEY"), undefined),
  baseUrl: optionalVariable("OLLAMA_BASE_URL"),
  defaultModel: optionalVariable("OLLAMA_MODEL")
})

/**
 * Ollama as a provider, through its own API. Its OpenAI-compatible one is the preset `ollama` of `OpenAiCompatible`.
 *
 * **Details**
 *
 * - `layerConfig()` reads `OLLAMA_BASE_URL`, `OLLAMA_API_KEY` and `OLLAMA_MODEL`, all of which may be missing. There is
 *   no default model: name one in the options or in each request.
 * - `maxTokens`, `temperature`, `topP`, `stop` and `seed` go to `options`, a JSON format with or without a schema to
 *   `format`. There is no choice of tools: with `none` no tools are sent, with a name only that one.
 * - Images go by their bytes. Any other file, and an image given by its address, fails with reason `InvalidRequest`.
 * - A stream is whole only with the line that is `done`; without, it fails as truncated.
 *
 * **Example** (A local model)
 *
 * ```ts import.meta.vitest
 * import { Effect, Layer } from "effect"
 * import { FetchHttpClient } from "effect/http"
 * import { Ollama } from "effect-resilient-llm/providers/Ollama"
 *
 * const live = Ollama.layer({ defaultModel: "llama3.2" }).pipe(Layer.provide(FetchHttpClient.layer))
 *
 * const program = Effect.map(Ollama, (provider) => `${provider.id}: ${provider.defaultModel}`)
 * await Effect.runPromise(Effect.provide(program, live)) // => "ollama: llama3.2"
 * ```
 *
 * @category services
 * @since 0.1.0
 */
export class Ollama
  extends provider<Options>({ id: "ollama", make, config })<Ollama>()("effect-resilient-llm/Ollama")
{}
