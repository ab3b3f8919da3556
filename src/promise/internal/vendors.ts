// The vendors by the names people give them, and where their keys are.
import type * as Effect from "effect/Effect"
import type * as HttpClient from "effect/http/HttpClient"
import type * as Redacted from "effect/Redacted"
import { variable } from "../../internal/runtime.ts"
import type { LlmConfigError } from "../../LlmError.ts"
import type { LlmProvider } from "../../LlmProvider.ts"
import * as AnthropicModule from "../../providers/Anthropic.ts"
import * as CohereModule from "../../providers/Cohere.ts"
import * as GeminiModule from "../../providers/Gemini.ts"
import * as OllamaModule from "../../providers/Ollama.ts"
import * as OpenAiModule from "../../providers/OpenAi.ts"
import * as CompatibleModule from "../../providers/OpenAiCompatible.ts"

/** A vendor's options, with the key as a plain text that may come from the environment. */
export type Keyed<O> = Omit<O, "apiKey"> & { readonly apiKey?: string | undefined }

export interface Vendors {
  /** `OPENAI_API_KEY`; also `OPENAI_BASE_URL`, `OPENAI_ORG_ID` and `OPENAI_PROJECT_ID`. */
  readonly openai?: Keyed<OpenAiModule.Options> | undefined
  /** `ANTHROPIC_API_KEY`; also `ANTHROPIC_BASE_URL`. */
  readonly anthropic?: Keyed<AnthropicModule.Options> | undefined
  /** `GEMINI_API_KEY` or `GOOGLE_API_KEY`. */
  readonly gemini?: Keyed<GeminiModule.Options> | undefined
  /** `COHERE_API_KEY`; also `COHERE_BASE_URL`. */
  readonly cohere?: Keyed<CohereModule.Options> | undefined
  /** `MISTRAL_API_KEY` */
  readonly mistral?: Keyed<CompatibleModule.KeyedPresetOptions> | undefined
  /** `GROQ_API_KEY` */
  readonly groq?: Keyed<CompatibleModule.KeyedPresetOptions> | undefined
  /** `DEEPSEEK_API_KEY` */
  readonly deepseek?: Keyed<CompatibleModule.KeyedPresetOptions> | undefined
  /** `OPENROUTER_API_KEY` */
  readonly openrouter?: Keyed<CompatibleModule.KeyedPresetOptions> | undefined
  /** `TOGETHER_API_KEY` */
  readonly together?: Keyed<CompatibleModule.KeyedPresetOptions> | undefined
  /** `XAI_API_KEY` */
  readonly xai?: Keyed<CompatibleModule.KeyedPresetOptions> | undefined
  /** `PERPLEXITY_API_KEY` */
  readonly perplexity?: Keyed<CompatibleModule.KeyedPresetOptions> | undefined
  /** `AZURE_OPENAI_API_KEY` */
  readonly azure?: Keyed<CompatibleModule.AzureOptions> | undefined
  /** A local server; needs no key. */
  readonly ollama?: Keyed<OllamaModule.Options> | undefined
  /** Any server with OpenAI's protocol: `baseUrl` says where; a key if it wants one. */
  readonly compatible?: Keyed<CompatibleModule.Options> | undefined
}

export type Name = keyof Vendors

type Made = Effect.Effect<LlmProvider, LlmConfigError, HttpClient.HttpClient>

interface Vendor {
  /** Absent where no key is needed. */
  readonly variables?: ReadonlyArray<string>
  readonly make: (options: object, apiKey: Redacted.Redacted | undefined) => Made
}

const keyed = <O extends { readonly apiKey: Redacted.Redacted }>(
  variables: ReadonlyArray<string>,
  make: (options: O) => Made,
  more: Readonly<Record<string, string>> = {}
): Vendor => ({
  variables,
  make: (options, apiKey) => make({ ...fromEnvironment(more), ...options, apiKey } as O)
})

const fromEnvironment = (names: Readonly<Record<string, string>>): Record<string, string> =>
  Object.fromEntries(
    Object.entries(names).flatMap(([option, name]) => {
      const value = variable(name)
      return value === undefined ? [] : [[option, value]]
    })
  )

const { presets } = CompatibleModule.OpenAiCompatible
const compatible = CompatibleModule.OpenAiCompatible.make

const preset = (name: string, toOptions: (options: CompatibleModule.KeyedPresetOptions) => CompatibleModule.Options) =>
  keyed<CompatibleModule.KeyedPresetOptions>([name], (options) => compatible(toOptions(options)))

export const vendors: ReadonlyMap<string, Vendor> = new Map<Name, Vendor>([
  [
    "openai",
    keyed<OpenAiModule.Options>(["OPENAI_API_KEY"], OpenAiModule.OpenAi.make, {
      baseUrl: "OPENAI_BASE_URL",
      organization: "OPENAI_ORG_ID",
      project: "OPENAI_PROJECT_ID"
    })
  ],
  [
    "anthropic",
    keyed<AnthropicModule.Options & { readonly apiKey: Redacted.Redacted }>(
      ["ANTHROPIC_API_KEY"],
      AnthropicModule.Anthropic.make,
      {
        baseUrl: "ANTHROPIC_BASE_URL"
      }
    )
  ],
  [
    "gemini",
    keyed<GeminiModule.Options & { readonly apiKey: Redacted.Redacted }>(
      ["GEMINI_API_KEY", "GOOGLE_API_KEY"],
      GeminiModule.Gemini.make
    )
  ],
  ["cohere", keyed<CohereModule.Options>(["COHERE_API_KEY"], CohereModule.Cohere.make, { baseUrl: "COHERE_BASE_URL" })],
  ["mistral", preset("MISTRAL_API_KEY", presets.mistral)],
  ["groq", preset("GROQ_API_KEY", presets.groq)],
  ["deepseek", preset("DEEPSEEK_API_KEY", presets.deepseek)],
  ["openrouter", preset("OPENROUTER_API_KEY", presets.openrouter)],
  ["together", preset("TOGETHER_API_KEY", presets.together)],
  ["xai", preset("XAI_API_KEY", presets.xai)],
  ["perplexity", preset("PERPLEXITY_API_KEY", presets.perplexity)],
  [
    "azure",
    keyed<CompatibleModule.AzureOptions & { readonly apiKey: Redacted.Redacted }>(
      ["AZURE_OPENAI_API_KEY"],
      (options) => compatible(presets.azure(options))
    )
  ],
  ["ollama", {
    make: (options, apiKey) =>
      OllamaModule.Ollama.make(
        { ...fromEnvironment({ baseUrl: "OLLAMA_BASE_URL" }), ...options, apiKey }
      )
  }],
  ["compatible", { make: (options, apiKey) => compatible({ ...options, apiKey } as CompatibleModule.Options) }]
])

export const keyOf = (vendor: Vendor, given: unknown): unknown =>
  given ?? vendor.variables?.map(variable).find((value) => value !== undefined)
