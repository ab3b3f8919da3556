// The request as one target gets it: the model in its words, the key sent upstream, a vendor's options for itself alone.
import { InvalidRequest, withoutStack } from "../LlmError.ts"
import type { Change, LlmProvider } from "../LlmProvider.ts"
import type { LlmRequest } from "../LlmRequest.ts"
import type { Feature } from "../resilience/Failover.ts"
import * as Routing from "../resilience/Routing.ts"
import type { Call } from "./call.ts"
import type { TargetConfig } from "./target.ts"

/** What is asked for at one place of the failover order. */
export interface Place {
  readonly config: TargetConfig
  readonly index: number
}

const mapped = ({ models, provider }: TargetConfig, logical: string): string | undefined => {
  if (typeof models === "object" && Object.hasOwn(models, logical)) return models[logical]
  return provider.models !== undefined && Object.hasOwn(provider.models, logical) ? provider.models[logical] : undefined
}

/**
 * A request's model in the target's words. Unmapped, the first target gets it verbatim, a later one its default, and a
 * strict one none; `undefined` where there is none.
 */
export const modelAt = ({ config, index }: Place, { model }: LlmRequest): string | undefined => {
  const { defaultModel, provider } = config
  const own = defaultModel ?? provider.defaultModel
  if (model === undefined) return own
  return mapped(config, model) ?? (config.models === "strict" ? undefined : index === 0 ? model : own)
}

/** Does the target have no model for this request? */
export const hasNoModel = (place: Place, request: LlmRequest): boolean =>
  request.model !== undefined && modelAt(place, request) === undefined

/** What a request needs of a target, worked out when somebody asks. */
export class Needs implements Routing.Needs {
  private readonly request: LlmRequest
  private counted: number | undefined

  constructor(request: LlmRequest) {
    this.request = request
  }

  get tokens(): number {
    // For what surely does not fit, rather too few.
    return this.counted ??= promptTokens(this.request, 4) + (this.request.maxTokens ?? 0)
  }

  get tools(): boolean {
    return this.request.tools !== undefined && this.request.tools.length > 0
  }

  get schema(): boolean {
    const { responseFormat } = this.request
    return responseFormat?.type === "json" && responseFormat.schema !== undefined
  }

  get vision(): boolean {
    return this.request.prompt.some(({ content }) =>
      typeof content !== "string" && content.some((part) => part.type === "file")
    )
  }
}

/** Why this target cannot be asked, as far as that is known: by what it is said to support, and by its provider. */
export const unfitAt = (place: Place, request: LlmRequest, needs: Needs): Routing.Unfit | undefined => {
  const unfit = Routing.unfit(needs, place.config)
  if (unfit !== undefined) return unfit
  const change = unsupportedAt(place, request)
  return change && { because: "unsupported", field: change.field }
}

/** What of the request is not sent as it is to this place. */
const changesAt = (place: Place, request: LlmRequest): ReadonlyArray<Change> => {
  const { changes } = place.config.provider
  if (changes === undefined) return []
  const model = modelAt(place, request)
  return changes(model === undefined ? request : { ...request, model })
}

/** What of the request this provider cannot be asked, if there is something. */
const unsupportedAt = (place: Place, request: LlmRequest): Change | undefined =>
  changesAt(place, request).find(({ action }) => action === "unsupported")

/** The field that this target must take as it is asked, and would not. */
export const missedBy = (place: Place, request: LlmRequest, required: ReadonlyArray<Feature>): string | undefined =>
  required.length === 0 ?
    undefined :
    changesAt(place, request).find(({ field }) =>
      required.some((feature) => field === feature || field.startsWith(`${feature}.`))
    )?.field

/** What none of these places can be asked, although the caller insists on it. */
export const refusedBy = (
  places: ReadonlyArray<Place>,
  request: LlmRequest,
  required: ReadonlyArray<Feature>
): InvalidRequest | undefined => {
  const missing = places.map((place) => hasNoModel(place, request) ? "model" : missedBy(place, request, required))
  const [path] = missing
  if (path === undefined || missing.includes(undefined)) return undefined
  const rule = path === "model" ? "a name that a target maps" : "what a target takes as it is asked"
  return withoutStack(() => new InvalidRequest({ path, rule, kind: "given" }))
}

/** Options of other vendors, which this one does not get. */
const foreignOptions = ({ providerOptions }: LlmRequest, { id, vendor = id }: LlmProvider): ReadonlyArray<string> =>
  providerOptions === undefined ? [] : Object.keys(providerOptions).filter((name) => name !== vendor)

/** Parts of reasoning in the prompt that this provider cannot take, because they carry no mark of its own. */
const foreignReasoning = ({ prompt }: LlmRequest, own: string | false | undefined): number => {
  if (own === undefined) return 0
  let count = 0
  for (const { content } of prompt) {
    if (typeof content === "string") continue
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

/** Of UTF-8, where a number of tokens is to come near what a vendor will count. */
export const BYTES_PER_TOKEN = 3.5

/**
 * About how many tokens a prompt has, by its bytes in UTF-8: characters of scripts without an alphabet are a token each,
 * and three bytes. The bytes of a file are not text, and count as a thousand tokens.
 */
export const promptTokens = ({ prompt }: LlmRequest, bytesPerToken: number): number => {
  let bytes = 0
  let files = 0
  // No recursion: what tools return can be nested deeper than a stack is.
  const open: Array<unknown> = [prompt]
  while (open.length > 0) {
    const value = open.pop()
    if (typeof value === "string") bytes += bytesOf(value)
    else if (typeof value !== "object" || value === null) bytes += 1
    else if ("type" in value && value.type === "file") files += 1
    else for (const inner of Object.values(value)) open.push(inner)
  }
  return Math.ceil(bytes / bytesPerToken) + files * 1000
}

export const bytesOf = (text: string): number => {
  let bytes = text.length
  for (let i = 0; i < text.length; i++) {
    const unit = text.charCodeAt(i)
    // Each half of a pair is two of its four bytes.
    if (unit > 0x7f) bytes += unit > 0x7ff && (unit < 0xd800 || unit > 0xdfff) ? 2 : 1
  }
  return bytes
}
