/**
 * Google's Gemini models, through the Gemini API or Vertex AI.
 *
 * @since 0.1.0
 */
import * as Config from "effect/Config"
import * as Effect from "effect/Effect"
import type { HttpClient } from "effect/http/HttpClient"
import * as Option from "effect/Option"
import type * as Redacted from "effect/Redacted"
import * as Schema from "effect/Schema"
import { attempt, optionsOf, readOptions } from "../internal/option.ts"
import type { LlmConfigError } from "../LlmError.ts"
import type { LlmProvider } from "../LlmProvider.ts"
import { protocol } from "./internal/gemini.ts"
import * as Http from "./internal/http.ts"
import {
  commonFields,
  commonOf,
  type CommonOptions,
  endpointUrl,
  optionalVariable,
  provider,
  secret
} from "./internal/vendor.ts"
import { bearerOf, below, keyOrVertex, placeOf, type Vertex, VertexSchema } from "./internal/vertex.ts"

/**
 * Model asked when neither the request nor the options name one.
 *
 * @category defaults
 * @since 0.1.0
 */
export const defaultModel = "gemini-2.5-flash"

export type { Vertex }

/**
 * Options of {@link Gemini}: either `apiKey` or `vertex`.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options extends CommonOptions {
  /** A key of the Gemini API. */
  readonly apiKey?: Redacted.Redacted | undefined
  /** Ask Vertex AI instead of the Gemini API. */
  readonly vertex?: Vertex | undefined
}

const schema = optionsOf<Options>()({
  ...commonFields,
  apiKey: Schema.optional(secret),
  vertex: Schema.optional(VertexSchema)
}).check(keyOrVertex)

/** `tunedModels/x` and `models/x` are whole names; anything else is a name among `models`. */
const modelPath = (model: string): string => {
  const [, collection = "models", name = model] = /^(models|tunedModels)\/(.+)$/.exec(model) ?? []
  return `${collection}/${encodeURIComponent(name)}`
}

const operation = (base: string): Http.Endpoint["url"] => (model, stream) =>
  below(
    base,
    `/${modelPath(model)}:${stream ? "streamGenerateContent" : "generateContent"}`,
    stream ? "alt=sse" : undefined
  )

const make = (given: Options): Effect.Effect<LlmProvider, LlmConfigError, HttpClient> =>
  Effect.flatMap(
    attempt((): Http.Endpoint => {
      const options = readOptions(schema, given, "gemini")
      const { apiKey, baseUrl, vertex } = options
      const common = commonOf(options, "gemini", defaultModel)
      if (vertex === undefined) {
        return {
          ...common,
          url: operation(endpointUrl(baseUrl ?? "https://generativelanguage.googleapis.com", "/v1beta")),
          headers: { ...common.headers, "x-goog-api-key": apiKey! },
          secretHeaders: [...common.secretHeaders, "x-goog-api-key"],
          reasoning: "google",
          protocol: protocol({ callIds: true })
        }
      }
      const { host, path } = placeOf(vertex, "google", "v1beta1")
      return {
        ...common,
        url: operation(endpointUrl(baseUrl ?? host, path)),
        credentials: bearerOf(vertex, common.id),
        reasoning: "google",
        protocol: protocol({ callIds: false })
      }
    }),
    Http.make
  )

// Either variable; when both are missing, the failure names the first.
const key: Config.Config<Redacted.Redacted> = Config.flatMap(
  Config.option(Config.Redacted("GOOGLE_API_KEY")),
  Option.match({
    onNone: () => Config.Redacted("GEMINI_API_KEY"),
    onSome: (other) => Config.withDefault(Config.Redacted("GEMINI_API_KEY"), other)
  })
)

const config: Config.Config<Options> = Config.all({
  apiKey: key,
  baseUrl: optionalVariable("GEMINI_BASE_URL")
})

/**
 * Google Gemini as a provider.
 *
 * **Details**
 *
 * - `Gemini.layer(options)` needs an `HttpClient`; `Gemini.layerConfig()` reads `GEMINI_API_KEY` or `GOOGLE_API_KEY`
 *   and, when set, `GEMINI_BASE_URL`, an address without `/v1beta`; `Gemini.make(options)` gives the provider as a
 *   value. With `vertex` in place of `apiKey`, Vertex AI is asked.
 * - System messages go to `systemInstruction`, and neighbours of one role become one turn. Tool results are objects:
 *   any other value is sent as `output`, a failure as `error`.
 * - Files: any type. Bytes go as `inlineData`, addresses (`https`, and `gs` at Vertex AI) as `fileData`. Files in tool
 *   results need a Gemini 3 model.
 * - Schemas are sent as they are, in `parametersJsonSchema` and `responseJsonSchema`. `strict` and the name of a schema
 *   have no place and are left out.
 * - A `thoughtSignature` is kept as metadata under `google`, of text, reasoning, files and tool calls, and is sent back
 *   with its part. Reasoning without one is not sent back. Calls that another vendor made are marked as foreign where
 *   the model, from Gemini 3 on, wants a signature.
 * - Calls without an id get one. Ids are sent back, except to Vertex AI, which refuses them.
 * - Pages of grounding and citations are `source` parts before the finish part.
 * - A prompt that was blocked is an answer without content that finishes with `content-filter`.
 * - A stream is whole only if its last chunk has a finish reason; without, it fails as truncated.
 *
 * **Gotchas**
 *
 * - Models before Gemini 3 refuse tools together with a JSON format.
 * - Limits per minute and per day both read "you exceeded your current quota". The latter are reason `Quota`, the former
 *   `RateLimit`.
 *
 * **Example** (Vertex AI with a token that is renewed)
 *
 * ```ts import.meta.vitest
 * import { Effect, Exit, Redacted } from "effect"
 * import { FetchHttpClient } from "effect/http"
 * import { Gemini } from "effect-resilient-llm/providers/Gemini"
 *
 * const askForToken = Effect.succeed(Redacted.make("token")) // your credentials library
 *
 * const program = Effect.gen(function*() {
 *   const accessToken = yield* Effect.cachedWithTTL(
 *     askForToken,
 *     (exit) => Exit.isSuccess(exit) ? "30 minutes" : 0
 *   )
 *   const provider = yield* Gemini.make({
 *     id: "vertex",
 *     vertex: { project: "my-project", location: "europe-west4", accessToken }
 *   })
 *   return [provider.id, provider.defaultModel]
 * })
 * await Effect.runPromise(Effect.provide(program, FetchHttpClient.layer)) // => ["vertex", "gemini-2.5-flash"]
 * ```
 *
 * @category services
 * @since 0.1.0
 */
export class Gemini
  extends provider<Options>({ id: "gemini", make, config })<Gemini>()("effect-resilient-llm/Gemini")
{}
