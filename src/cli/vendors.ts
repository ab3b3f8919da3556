// Who can be asked: the vendors whose keys are set, or else simulated ones.
import * as Config from "effect/Config"
import * as Data from "effect/Data"
import * as Effect from "effect/Effect"
import type { HttpClient } from "effect/http/HttpClient"
import * as Option from "effect/Option"
import * as Redacted from "effect/Redacted"
import type * as Scope from "effect/Scope"
import type { LlmConfigError } from "../LlmError.ts"
import type { LlmProvider } from "../LlmProvider.ts"
import { Anthropic } from "../providers/Anthropic.ts"
import { Cohere } from "../providers/Cohere.ts"
import { OpenAi } from "../providers/OpenAi.ts"
import * as FaultServer from "../testing/FaultServer.ts"

export const vendorIds = ["openai", "anthropic", "cohere"] as const
export type VendorId = (typeof vendorIds)[number]

interface Vendor {
  readonly id: VendorId
  readonly keyVariable: string
  /** Names of the models it makes. */
  readonly models: RegExp
  readonly real: Effect.Effect<LlmProvider, LlmConfigError | Config.ConfigError, HttpClient>
  readonly simulated: (server: FaultServer.FaultServer) => Effect.Effect<LlmProvider, LlmConfigError, HttpClient>
}

const apiKey = Redacted.make("simulated")

const vendors: { readonly [K in VendorId]: Vendor } = {
  openai: {
    id: "openai",
    keyVariable: "OPENAI_API_KEY",
    models: /^(gpt|chatgpt|o\d)/i,
    real: Effect.provide(OpenAi, OpenAi.layerConfig()),
    simulated: ({ openai }) => OpenAi.make({ apiKey, baseUrl: openai })
  },
  anthropic: {
    id: "anthropic",
    keyVariable: "ANTHROPIC_API_KEY",
    models: /^claude/i,
    real: Effect.provide(Anthropic, Anthropic.layerConfig()),
    simulated: ({ anthropic }) => Anthropic.make({ apiKey, baseUrl: anthropic })
  },
  cohere: {
    id: "cohere",
    keyVariable: "COHERE_API_KEY",
    models: /^(command|c4ai|aya)/i,
    real: Effect.provide(Cohere, Cohere.layerConfig()),
    simulated: ({ cohere }) => Cohere.make({ apiKey, baseUrl: cohere })
  }
}

export const keyVariables = "OPENAI_API_KEY, ANTHROPIC_API_KEY or COHERE_API_KEY"

export const keyVariable = (id: string): string | undefined =>
  Object.hasOwn(vendors, id) ? vendors[id as VendorId].keyVariable : undefined

export const baseUrlVariable = (keyVariable: string): string => keyVariable.replace("_API_KEY", "_BASE_URL")

/** A provider was asked for, by name or by the variable of its address, and its key is not set. */
export class MissingKey extends Data.TaggedError("MissingKey")<{
  readonly provider: string
  readonly variable: string
  /** The variable that says where to ask. */
  readonly address: string | undefined
}> {
  override get message(): string {
    return `There is no key for ${this.provider}: the environment variable ${this.variable} is not set.`
  }
}

/** A value was asked for that fits a schema, and there is nobody who could make one. */
export class NoKeys extends Data.TaggedError("NoKeys") {
  override get message(): string {
    return `--object needs a model, and there is no ${keyVariables}: what is simulated fits no schema.`
  }
}

export interface Choice {
  /** In failover order. */
  readonly providers: readonly [LlmProvider, ...ReadonlyArray<LlmProvider>]
  readonly simulated: boolean
}

/**
 * Those named, or all of them with the maker of `model` first. Keys decide who is asked; without any, a local server
 * answers in everybody's name.
 */
export const choose = (
  named: ReadonlyArray<VendorId>,
  model: string | undefined
): Effect.Effect<Choice, MissingKey | LlmConfigError | Config.ConfigError, HttpClient | Scope.Scope> =>
  Effect.gen(function*() {
    const order = named.length > 0 ? [...new Set(named)].map((id) => vendors[id]) : byMaker(model)
    const keyed = yield* Effect.filter(vendorIds.map((id) => vendors[id]), ({ keyVariable }) => isSet(keyVariable))
    const simulated = keyed.length === 0
    // Who says where to ask means somebody real, who may want no key in particular.
    const without = simulated
      ? yield* Effect.findFirst(order, ({ keyVariable }) => isSet(baseUrlVariable(keyVariable)))
      : Option.fromUndefinedOr(named.length > 0 ? order.find((vendor) => !keyed.includes(vendor)) : undefined)
    if (Option.isSome(without)) {
      const { id, keyVariable: variable } = without.value
      return yield* new MissingKey({
        provider: id,
        variable,
        address: simulated ? baseUrlVariable(variable) : undefined
      })
    }
    const server = simulated ? yield* simulation : undefined
    const [first, ...others] = yield* Effect.forEach(
      order.filter((vendor) => simulated || keyed.includes(vendor)),
      (vendor) => server === undefined ? vendor.real : vendor.simulated(server)
    )
    return { providers: [first!, ...others], simulated } // a vendor with a key, or all of them
  })

const byMaker = (model: string | undefined): ReadonlyArray<Vendor> => {
  const all = vendorIds.map((id) => vendors[id])
  const maker = model === undefined ? undefined : all.find((vendor) => vendor.models.test(model))
  return maker === undefined ? all : [maker, ...all.filter((vendor) => vendor !== maker)]
}

const isSet = (variable: string): Effect.Effect<boolean, Config.ConfigError> =>
  Effect.map(Config.option(Config.String(variable)), (value) => Option.isSome(value) && value.value.trim() !== "")

const simulation = FaultServer.make({
  latencyMillis: 300,
  otherwise: FaultServer.ok({ chunkDelayMillis: 25 }),
  reply: ({ body, dialect }) =>
    `This is a simulated answer in the words of ${dialect ?? "nobody"}: no model was asked. ` +
    `With a key of your own, a model would now answer “${questionOf(body)}”.`
})

/** The last thing the user said, in any of the three wire formats. */
const questionOf = (body: unknown): string => {
  const messages = (body as { readonly messages?: ReadonlyArray<{ readonly content?: unknown }> } | null)?.messages
  const content = messages?.at(-1)?.content
  const parts: ReadonlyArray<{ readonly text?: unknown }> = Array.isArray(content) ? content : [{ text: content }]
  const text = parts.map((part) => typeof part.text === "string" ? part.text : "").join("")
  return text.length > 200 ? `${text.slice(0, 200)}…` : text
}
