/**
 * Servers that speak OpenAI's protocols: other vendors, gateways, local servers.
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
import { anyIds, type IdRule, mistralIds, openAiIds } from "./internal/ids.ts"
import { compact } from "./internal/json.ts"
import * as Responses from "./internal/responses.ts"
import {
  commonFields,
  commonOf,
  type CommonOptions,
  endpointUrl,
  headerText,
  optionalVariable,
  provider,
  requiredAddress,
  secret
} from "./internal/vendor.ts"

/**
 * Options of {@link OpenAiCompatible}.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options extends CommonOptions {
  /** Address of the API, up to what comes before `/chat/completions` or `/responses`. */
  readonly baseUrl: string
  /** Which API is asked: chat completions (default) or responses. The options of the other one have no effect. */
  readonly api?: "chat" | "responses" | undefined
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
   * Field for the seed; `seed` by default. Mistral calls it `random_seed`: its preset says so, a
   * gateway of yours in front of it has to be told.
   */
  readonly seedField?: "seed" | "random_seed" | undefined
  /**
   * Ask for usage at the end of a stream with `stream_options` (default true). Some servers refuse the field, and most
   * of these send usage anyway.
   */
  readonly streamOptions?: boolean | undefined
  /** Do the server's models see images (default true)? A target without is skipped for requests that hold one. */
  readonly images?: boolean | undefined
  /** Does the server take `top_k` (default false)? */
  readonly topK?: boolean | undefined
  /**
   * The vendor's name in `providerOptions`, and the one under which parts keep what only this vendor understands and
   * wants back, see {@link OpenAiCompatible}; the `id` by default. Providers that ask the same vendor need the same name.
   */
  readonly vendor?: string | undefined
  /** Have the responses API give reasoning in encrypted form (default false), as for `OpenAi`. */
  readonly encryptedReasoning?: boolean | undefined
}

/** Whose names of calls are not OpenAI's: Mistral's are narrower, and Kimi's models are shown theirs by the server. */
const idsOf: ReadonlyMap<string, IdRule> = new Map([
  ["mistral", mistralIds],
  ["moonshot", anyIds],
  ["vllm", anyIds],
  ["lmstudio", anyIds],
  ["ollama", anyIds]
])

const schema = optionsOf<Options>()({
  ...commonFields,
  baseUrl: requiredAddress,
  apiKey: Schema.optional(secret),
  api: oneOf(["chat", "responses"], "chat"),
  authHeader: Schema.optional(headerText),
  maxTokensField: oneOf(["max_tokens", "max_completion_tokens"], "max_tokens"),
  seedField: oneOf(["seed", "random_seed"], "seed"),
  streamOptions: boolean(true),
  images: boolean(true),
  topK: boolean(false),
  vendor: Schema.optional(headerText),
  encryptedReasoning: boolean(false)
})

const make = (given: Options): Effect.Effect<LlmProvider, LlmConfigError, HttpClient> =>
  Effect.flatMap(
    attempt((): Http.Endpoint => {
      const options = readOptions(schema, given, "openAiCompatible")
      const { api, apiKey, baseUrl, encryptedReasoning, images, maxTokensField, seedField, streamOptions, topK } =
        options
      const common = commonOf(options, "openai-compatible", undefined)
      const header = (options.authHeader ?? "authorization").toLowerCase()
      const vendor = options.vendor ?? common.id
      return {
        ...common,
        url: endpointUrl(baseUrl, api === "responses" ? "/responses" : "/chat/completions"),
        headers: {
          ...common.headers,
          ...(apiKey === undefined ? undefined : { [header]: header === "authorization" ? `Bearer ${apiKey}` : apiKey })
        },
        secretHeaders: [...common.secretHeaders, header],
        reasoning: api === "responses" ? "openai" : vendor,
        protocol: api === "responses"
          ? Responses.protocol({ provider: common.id, encryptedReasoning, vendor })
          : Chat.protocol({
            provider: common.id,
            maxTokensField,
            seedField,
            streamOptions,
            requireDone: false,
            vendor,
            marks: true,
            ids: idsOf.get(vendor) ?? openAiIds,
            images,
            topK
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

// -----------------------------------------------------------------------------
// presets
// -----------------------------------------------------------------------------

/**
 * Options of a preset: every option of {@link OpenAiCompatible}, which wins over the preset.
 *
 * @category models
 * @since 0.1.0
 */
export interface PresetOptions extends Omit<Options, "baseUrl"> {
  readonly baseUrl?: string | undefined
}

/**
 * Options of a preset whose server wants a key.
 *
 * @category models
 * @since 0.1.0
 */
export interface KeyedPresetOptions extends PresetOptions {
  readonly apiKey: Redacted.Redacted
}

/**
 * Options of the preset for Azure. `apiVersion` chooses the older address, that of one `deployment`; whatever model a
 * request names, this deployment answers.
 *
 * @category models
 * @since 0.1.0
 */
export type AzureOptions =
  & Omit<KeyedPresetOptions, "baseUrl">
  & {
    /** Address of the resource, such as `https://my-resource.openai.azure.com`. */
    readonly endpoint: string
  }
  & (
    | { readonly deployment?: string | undefined; readonly apiVersion?: undefined }
    | { readonly deployment: string; readonly apiVersion: string }
  )

const preset = (base: Options) => (options: PresetOptions = {}): Options => ({
  ...base,
  vendor: base.id,
  ...compact({ ...options })
})

const azure = ({ apiVersion, deployment, endpoint, ...options }: AzureOptions): Options => {
  const base = `${endpoint}/`.replace(/\/+$/, "/openai")
  return preset({
    id: "azure",
    authHeader: "api-key",
    defaultModel: deployment,
    ...(apiVersion === undefined
      ? { baseUrl: `${base}/v1`, maxTokensField: "max_completion_tokens" }
      : {
        baseUrl: `${base}/deployments/${encodeURIComponent(deployment)}?api-version=${encodeURIComponent(apiVersion)}`
      })
  })(options)
}

/**
 * Options for well-known servers: what to fill in where a server differs.
 *
 * **Details**
 *
 * | Preset | Address | Differences |
 * | --- | --- | --- |
 * | `azure` | `{endpoint}/openai/v1`, or that of one deployment | `api-key` header; `max_completion_tokens` on `v1` |
 * | `groq` | `https://api.groq.com/openai/v1` | |
 * | `mistral` | `https://api.mistral.ai/v1` | `random_seed`; refuses `stream_options`; `mistral-small-latest` |
 * | `deepseek` | `https://api.deepseek.com` | sees no images |
 * | `openrouter` | `https://openrouter.ai/api/v1` | `openrouter/auto` |
 * | `together` | `https://api.together.xyz/v1` | sends usage unasked |
 * | `xai` | `https://api.x.ai/v1` | |
 * | `perplexity` | `https://api.perplexity.ai` | sends usage unasked; `sonar` |
 * | `ollama` | `http://localhost:11434/v1` | no key |
 * | `huggingface` | `https://router.huggingface.co/v1` | |
 * | `moonshot` | `https://api.moonshot.ai/v1` | |
 * | `zai` | `https://api.z.ai/api/paas/v4` | |
 * | `cerebras` | `https://api.cerebras.ai/v1` | `max_completion_tokens` |
 * | `vercel` | `https://ai-gateway.vercel.sh/v1` | |
 * | `vllm` | `http://localhost:8000/v1` | no key |
 * | `lmstudio` | `http://localhost:1234/v1` | no key |
 *
 * The preset's name is the provider's `id`. A default model is set only where the vendor keeps a name for it; on Azure it
 * is the `deployment`. How the servers answer differently is understood without being told.
 *
 * **Gotchas**
 *
 * - Azure's older address takes the token limit as `max_tokens`; for reasoning models set
 *   `maxTokensField: "max_completion_tokens"`. It has no responses API. With a token of Entra ID instead of a key, set
 *   `authHeader: "authorization"`.
 * - OpenRouter shows your application by the headers `HTTP-Referer` and `X-Title`: give them as `headers`.
 *
 * **Example** (Two vendors, one by its key from the environment)
 *
 * ```ts import.meta.vitest
 * import { Config, Effect, Layer, Redacted } from "effect"
 * import { FetchHttpClient } from "effect/http"
 * import { OpenAiCompatible } from "effect-resilient-llm/providers/OpenAiCompatible"
 *
 * const { azure, groq } = OpenAiCompatible.presets
 *
 * class Azure extends OpenAiCompatible.Service<Azure>()("app/Azure") {}
 * class Groq extends OpenAiCompatible.Service<Groq>()("app/Groq") {}
 *
 * export const fromEnvironment = Groq.layerConfig(
 *   Config.map(Config.Redacted("GROQ_API_KEY"), (apiKey) => groq({ apiKey }))
 * )
 *
 * const live = Azure.layer(
 *   azure({ endpoint: "https://my-resource.openai.azure.com", deployment: "gpt-small", apiKey: Redacted.make("key") })
 * ).pipe(Layer.provide(FetchHttpClient.layer))
 *
 * const program = Effect.map(Azure, (provider) => `${provider.id}: ${provider.defaultModel}`)
 * await Effect.runPromise(Effect.provide(program, live)) // => "azure: gpt-small"
 * ```
 *
 * @category presets
 * @since 0.1.0
 */
export interface Presets {
  readonly azure: (options: AzureOptions) => Options
  readonly groq: (options: KeyedPresetOptions) => Options
  readonly mistral: (options: KeyedPresetOptions) => Options
  readonly deepseek: (options: KeyedPresetOptions) => Options
  readonly openrouter: (options: KeyedPresetOptions) => Options
  readonly together: (options: KeyedPresetOptions) => Options
  readonly xai: (options: KeyedPresetOptions) => Options
  readonly perplexity: (options: KeyedPresetOptions) => Options
  readonly huggingface: (options: KeyedPresetOptions) => Options
  readonly moonshot: (options: KeyedPresetOptions) => Options
  readonly zai: (options: KeyedPresetOptions) => Options
  readonly cerebras: (options: KeyedPresetOptions) => Options
  readonly vercel: (options: KeyedPresetOptions) => Options
  readonly ollama: (options?: PresetOptions) => Options
  readonly vllm: (options?: PresetOptions) => Options
  readonly lmstudio: (options?: PresetOptions) => Options
}

const presets: Presets = {
  azure,
  groq: preset({ id: "groq", baseUrl: "https://api.groq.com/openai/v1" }),
  mistral: preset({
    id: "mistral",
    baseUrl: "https://api.mistral.ai/v1",
    defaultModel: "mistral-small-latest",
    seedField: "random_seed",
    streamOptions: false
  }),
  deepseek: preset({ id: "deepseek", baseUrl: "https://api.deepseek.com", images: false }),
  openrouter: preset({
    id: "openrouter",
    baseUrl: "https://openrouter.ai/api/v1",
    defaultModel: "openrouter/auto",
    topK: true
  }),
  together: preset({ id: "together", baseUrl: "https://api.together.xyz/v1", streamOptions: false, topK: true }),
  xai: preset({ id: "xai", baseUrl: "https://api.x.ai/v1" }),
  perplexity: preset({
    id: "perplexity",
    baseUrl: "https://api.perplexity.ai",
    defaultModel: "sonar",
    streamOptions: false,
    topK: true
  }),
  huggingface: preset({ id: "huggingface", baseUrl: "https://router.huggingface.co/v1" }),
  moonshot: preset({ id: "moonshot", baseUrl: "https://api.moonshot.ai/v1" }),
  zai: preset({ id: "zai", baseUrl: "https://api.z.ai/api/paas/v4" }),
  cerebras: preset({ id: "cerebras", baseUrl: "https://api.cerebras.ai/v1", maxTokensField: "max_completion_tokens" }),
  vercel: preset({ id: "vercel", baseUrl: "https://ai-gateway.vercel.sh/v1" }),
  ollama: preset({ id: "ollama", baseUrl: "http://localhost:11434/v1" }),
  vllm: preset({ id: "vllm", baseUrl: "http://localhost:8000/v1", topK: true }),
  lmstudio: preset({ id: "lmstudio", baseUrl: "http://localhost:1234/v1", topK: true })
}

/**
 * A server that speaks OpenAI's chat completions or responses protocol, as a provider.
 *
 * **Details**
 *
 * - `OpenAiCompatible.presets` holds the options for well-known servers, see {@link Presets}.
 * - `layerConfig()` reads `OPENAI_COMPATIBLE_BASE_URL` and, when set, `OPENAI_COMPATIBLE_API_KEY` and
 *   `OPENAI_COMPATIBLE_MODEL`. There is no default model: name one in the options or in each request.
 * - Requests are mapped as for `OpenAi`, except for the names of the token limit and the seed.
 * - Answers are read leniently: a missing `id`, `index` or `usage`; arguments as text or object; content as text or
 *   list; errors as object, text or flat; `[DONE]` may be absent when the answer has a finish reason.
 * - Token counts are passed on as the server tells them.
 * - What a vendor wants back is kept in the metadata of parts under its name, and sent back to it alone: the details of
 *   reasoning (`reasoning_details`) and the extras of tool calls (`extra_content`) always, reasoning in its own field with
 *   a turn that called tools, as DeepSeek asks.
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
export class OpenAiCompatible extends provider<Options>({ id: "openai-compatible", make, config })<OpenAiCompatible>()(
  "effect-resilient-llm/OpenAiCompatible"
) {
  /** Options for well-known servers. */
  static readonly presets: Presets = presets
}
