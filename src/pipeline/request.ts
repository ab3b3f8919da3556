// The request as one target gets it: the model in its words, the key sent upstream, a vendor's options for itself alone.
import type { Change, LlmProvider } from "../LlmProvider.ts"
import type { LlmRequest } from "../LlmRequest.ts"
import type { Call } from "./call.ts"
import type { TargetConfig } from "./target.ts"

/** What is asked for at one place of the failover order. */
export interface Place {
  readonly config: TargetConfig
  readonly index: number
}

const mapped = ({ models, provider }: TargetConfig, logical: string): string | undefined => {
  if (models !== undefined && Object.hasOwn(models, logical)) return models[logical]
  return provider.models !== undefined && Object.hasOwn(provider.models, logical) ? provider.models[logical] : undefined
}

/**
 * A request's model in the target's words. Unmapped, the first target gets it verbatim, a later one its default; `undefined`
 * where there is none.
 */
export const modelAt = ({ config, index }: Place, { model }: LlmRequest): string | undefined => {
  const { defaultModel, provider } = config
  const own = defaultModel ?? provider.defaultModel
  return model === undefined ? own : mapped(config, model) ?? (index === 0 ? model : own)
}

/** Does the target have no model for this request? */
export const hasNoModel = (place: Place, request: LlmRequest): boolean =>
  request.model !== undefined && modelAt(place, request) === undefined

/** What of the request this target cannot be asked, if there is something. */
export const unsupportedAt = (place: Place, request: LlmRequest): Change | undefined => {
  const { changes } = place.config.provider
  if (changes === undefined) return undefined
  const model = modelAt(place, request)
  return changes(model === undefined ? request : { ...request, model }).find(({ action }) => action === "unsupported")
}

/** Options of other vendors, which this one does not get. */
const foreignOptions = ({ providerOptions }: LlmRequest, { id, vendor = id }: LlmProvider): ReadonlyArray<string> =>
  providerOptions === undefined ? [] : Object.keys(providerOptions).filter((name) => name !== vendor)

/** Parts of reasoning in the prompt that this provider cannot take, because they carry no mark of its own. */
const foreignReasoning = ({ prompt }: LlmRequest, own: string | false | undefined): number => {
  if (own === undefined) return 0
  let count = 0
  for (const { content, role } of prompt) {
    if (role !== "assistant" || typeof content === "string") continue
    for (const part of content) {
      if (part.type === "reasoning" && (own === false || part.options?.[own] === undefined)) count += 1
    }
  }
  return count
}

export const requestFor = ({ request, root }: Call, place: Place, now: number): LlmRequest => {
  const { config, index } = place
  const model = modelAt(place, request)
  const about = { call: root.id, at: root.since(now), target: config.id }
  if (index > 0 && request.model !== undefined && model !== undefined && mapped(config, request.model) === undefined) {
    root.emit({ _tag: "ModelSubstituted", ...about, requested: request.model, model })
  }
  const parts = foreignReasoning(request, config.provider.reasoning)
  if (parts > 0) root.emit({ _tag: "ReasoningDropped", ...about, parts })
  const own: { -readonly [K in keyof LlmRequest]: LlmRequest[K] } = { ...request }
  if (model !== undefined) own.model = model
  const key = root.upstreamKey
  if (key !== undefined) own.idempotencyKey = key
  if (config.provider.readsMetadata === false) delete own.metadata
  for (const { action, detail, field } of config.provider.changes?.(own) ?? []) {
    // What the provider cannot be asked at all it refuses by itself, if it is asked all the same.
    if (action === "unsupported") continue
    const told = detail === undefined ? undefined : { detail }
    root.emit({ _tag: "RequestAdapted", ...about, field, action, ...told })
  }
  const foreign = foreignOptions(request, config.provider)
  if (foreign.length === 0) return own
  own.providerOptions = { ...request.providerOptions }
  for (const name of foreign) {
    delete (own.providerOptions as Record<string, unknown>)[name]
    root.emit({ _tag: "RequestAdapted", ...about, field: `providerOptions.${name}`, action: "dropped" })
  }
  return own
}
