/**
 * Anthropic, through the messages API.
 *
 * @since 0.1.0
 */
import * as Config from "effect/Config"
import * as Effect from "effect/Effect"
import type { HttpClient } from "effect/http/HttpClient"
import type * as Redacted from "effect/Redacted"
import * as Schema from "effect/Schema"
import { attempt, integer, optionsOf, readOptions } from "../internal/option.ts"
import type { LlmConfigError } from "../LlmError.ts"
import type { LlmProvider } from "../LlmProvider.ts"
import * as Http from "./internal/http.ts"
import { protocol } from "./internal/messages.ts"
import {
  commonFields,
  commonOf,
  type CommonOptions,
  endpointUrl,
  headerText,
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
export const defaultModel = "claude-haiku-4-5"

/**
 * The same at Vertex AI, where the names of models tell their date.
 *
 * @category defaults
 * @since 0.2.0
 */
export const defaultVertexModel = "claude-haiku-4-5@20251001"

export type { Vertex }

/**
 * Options of {@link Anthropic}: either `apiKey` or `vertex`.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options extends CommonOptions {
  /** A key of Anthropic's own API. */
  readonly apiKey?: Redacted.Redacted | undefined
  /** Ask Vertex AI instead. Models have names of their own there, such as `claude-haiku-4-5@20251001`. */
  readonly vertex?: Vertex | undefined
  /** Sent as `max_tokens` when the request has no `maxTokens`, because the API requires one. Default 8192. */
  readonly maxTokens?: number | undefined
  /** Sent as `anthropic-version`. Default `2023-06-01`; at Vertex AI `vertex-2023-10-16`. */
  readonly version?: string | undefined
  /** Features sent as `anthropic-beta`. */
  readonly beta?: ReadonlyArray<string> | undefined
}

const BETA = "a list of feature names"

const schema = optionsOf<Options>()({
  ...commonFields,
  apiKey: Schema.optional(secret),
  vertex: Schema.optional(VertexSchema),
  maxTokens: integer(8192, 1),
  version: Schema.optional(headerText),
  beta: Schema.optional(
    Schema.Array(Schema.String).annotate({ expected: BETA }).check(
      Schema.makeFilter((names) => names.every((name) => /^[\w.-]+$/.test(name)), { expected: BETA })
    )
  )
}).check(keyOrVertex)

const make = (given: Options): Effect.Effect<LlmProvider, LlmConfigError, HttpClient> =>
  Effect.flatMap(
    attempt((): Http.Endpoint => {
      const options = readOptions(schema, given, "anthropic")
      const { apiKey, baseUrl, beta = [], maxTokens, version, vertex } = options
      const common = commonOf(options, "anthropic", vertex === undefined ? defaultModel : defaultVertexModel)
      const dialect = { provider: common.id, maxTokens }
      const headers = { ...common.headers, ...(beta.length === 0 ? undefined : { "anthropic-beta": beta.join(",") }) }
      if (vertex === undefined) {
        return {
          ...common,
          url: endpointUrl(baseUrl ?? "https://api.anthropic.com", "/v1/messages"),
          headers: { ...headers, "x-api-key": apiKey!, "anthropic-version": version ?? "2023-06-01" },
          secretHeaders: [...common.secretHeaders, "anthropic-organization-id"],
          reasoning: "anthropic",
          protocol: protocol(dialect)
        }
      }
      const { host, path } = placeOf(vertex, "anthropic", "v1")
      const base = endpointUrl(baseUrl ?? host, path)
      return {
        ...common,
        headers,
        url: (model, stream) =>
          below(base, `/models/${encodeURIComponent(model)}:${stream ? "streamRawPredict" : "rawPredict"}`),
        credentials: bearerOf(vertex, common.id),
        reasoning: "anthropic",
        protocol: protocol({ ...dialect, bodyVersion: version ?? "vertex-2023-10-16" })
      }
    }),
    Http.make
  )

const config: Config.Config<Options> = Config.all({
  apiKey: Config.Redacted("ANTHROPIC_API_KEY"),
  baseUrl: optionalVariable("ANTHROPIC_BASE_URL")
})

/**
 * Anthropic as a provider.
 *
 * **Details**
 *
 * - `Anthropic.layer(options)` needs an `HttpClient`; `Anthropic.layerConfig()` reads `ANTHROPIC_API_KEY` and, when
 *   set, `ANTHROPIC_BASE_URL`, an address without `/v1`; `Anthropic.make(options)` gives the provider as a value.
 *   With `vertex` in place of `apiKey`, Vertex AI is asked.
 * - System messages go to `system`, tool results into user turns, and neighbours of one role become one turn.
 * - Files: images and PDF, by bytes or address. Any other file fails with reason `InvalidRequest` before it is sent.
 * - `seed`, a JSON format without a schema and the name of a schema have no place and are left out. A `temperature`
 *   above 1 is sent as 1, the most there is.
 * - `options: { anthropic: { cacheControl: { type: "ephemeral" } } }` of a part or message marks a cached prefix.
 *   Reasoning keeps its `signature` or `redactedData` as metadata under `anthropic`, and is sent back only with it.
 * - Pages and documents that the model cites are `source` parts before the finish part; a document's id is its file id,
 *   or `document_0` for the first document of the request. The cited text is left out.
 * - Total input counts what was read from and written to the cache.
 * - A stream is whole only with its `message_stop` event; without, it fails as truncated.
 *
 * **Example** (A provider as a value)
 *
 * ```ts import.meta.vitest
 * import { Effect, Redacted } from "effect"
 * import { FetchHttpClient } from "effect/http"
 * import { Anthropic } from "effect-resilient-llm/providers/Anthropic"
 *
 * const program = Effect.gen(function*() {
 *   const provider = yield* Anthropic.make({ apiKey: Redacted.make("your-key") })
 *   return provider.defaultModel
 * })
 * await Effect.runPromise(Effect.provide(program, FetchHttpClient.layer)) // => "claude-haiku-4-5"
 * ```
 *
 * @category services
 * @since 0.1.0
 */
export class Anthropic
  extends provider<Options>({ id: "anthropic", make, config })<Anthropic>()("effect-resilient-llm/Anthropic")
{}
