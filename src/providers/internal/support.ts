// What a protocol has a place for, as data: from it follows what the ledger tells of a request that asks for more.
import type * as Prompt from "effect/ai/Prompt"
import type { Change } from "../../LlmProvider.ts"
import type { LlmRequest } from "../../LlmRequest.ts"
import { type Fields, isFields } from "./json.ts"
import { type File, fileOf, isOurs, partsOf } from "./prompt.ts"

type Field =
  | "stop"
  | "seed"
  | "topK"
  | "presencePenalty"
  | "frequencyPenalty"
  | "reasoningEffort"
  | "toolChoice"
  | "responseFormat"
  | "temperature"
  | "topP"

/** How a field is sent instead: `dropped`, in a few words, or `undefined` for as it is. */
type Instead = (request: LlmRequest, model: string) => string | undefined

export interface Support {
  /** Fields that have no place, or not always one of their own. */
  readonly fields: { readonly [K in Field]?: "dropped" | Instead }
  /** Can this file be a part of a user's message? */
  readonly file: (file: File) => boolean
  /** Can results of tools hold files? */
  readonly resultFiles: boolean
  /** Can the assistant's own files be told back? */
  readonly ownFiles: boolean
  /** Do system messages come before all others, wherever they stand? */
  readonly systemFirst?: boolean | undefined
  /** Starts the names of the vendor's own tools, such as `openai.`; absent: they have no place. */
  readonly vendorTools?: string | undefined
}

const filesOf = (parts: ReadonlyArray<Prompt.UserMessagePartEncoded | Prompt.AssistantMessagePartEncoded>) =>
  parts.flatMap((part) => part.type === "file" ? [part] : [])

/** Does a system message say something after others have spoken? */
const isMoved = (prompt: LlmRequest["prompt"]): boolean => {
  const start = prompt.findIndex(({ role }) => role !== "system")
  return start !== -1 &&
    prompt.slice(start).some((message) => message.role === "system" && message.content.trim() !== "")
}

/** What of the prompt is not sent as it is. */
const ofPrompt = (prompt: LlmRequest["prompt"], support: Support): ReadonlyArray<Change> => {
  const changes = new Map<string, Change>()
  const note = (field: string, action: Change["action"]): void => {
    if (changes.get(field)?.action !== "unsupported") changes.set(field, { field, action })
  }
  if (support.systemFirst === true && isMoved(prompt)) {
    changes.set("prompt.system", { field: "prompt.system", action: "substituted", detail: "at the start" })
  }
  for (const message of prompt) {
    if (typeof message.content === "string") continue
    if (message.role === "user") {
      for (const file of filesOf(partsOf<Prompt.UserMessagePartEncoded>(message.content))) {
        if (!support.file(fileOf(file))) note("prompt.file", "unsupported")
      }
    } else if (message.role === "assistant") {
      const parts = partsOf<Prompt.AssistantMessagePartEncoded>(message.content)
      if (!support.ownFiles && filesOf(parts).length > 0) note("prompt.file", "dropped")
      if (parts.some((part) => (part.type === "tool-call" || part.type === "tool-result") && !isOurs(part))) {
        note("prompt.providerExecuted", "dropped")
      }
    } else if (message.role === "tool") {
      for (const part of message.content) {
        if (part.type !== "tool-result") continue
        const files = (part.modelOutput ?? []).flatMap((output) => output.type === "file" ? [output] : [])
        if (files.length > 0 && !support.resultFiles) note("prompt.toolResult.file", "dropped")
        else if (files.some((file) => !support.file(fileOf(file)))) note("prompt.toolResult.file", "unsupported")
      }
    }
  }
  return Array.from(changes.values())
}

const isAsked = (request: LlmRequest, field: Field): boolean => {
  const value: unknown = request[field]
  return value !== undefined && !(Array.isArray(value) && value.length === 0) &&
    !(field === "responseFormat" && request.responseFormat?.type === "text") &&
    !(field === "toolChoice" && (request.tools ?? []).length === 0)
}

/** What a provider of this kind leaves out of the request, or sends in another way. */
export const changesOf = (support: Support, request: LlmRequest, model: string): ReadonlyArray<Change> => {
  const changes: Array<Change> = []
  for (const [field, instead] of Object.entries(support.fields)) {
    if (!isAsked(request, field as Field)) continue
    const how = typeof instead === "string" ? instead : instead(request, model)
    if (how === "dropped") changes.push({ field, action: "dropped" })
    else if (how !== undefined) changes.push({ field, action: "substituted", detail: how })
  }
  for (const { provider } of request.tools ?? []) {
    if (provider === undefined) continue
    if (support.vendorTools === undefined || !provider.id.startsWith(support.vendorTools)) {
      changes.push({ field: "tools", action: "unsupported" })
      break
    }
  }
  for (const change of ofPrompt(request.prompt, support)) changes.push(change)
  return changes
}

/** Puts a vendor's own fields into the body: last, objects into objects, so that they win. */
export const withOptions = (body: Fields, options: Fields | undefined): Fields => {
  if (options === undefined) return body
  const merged: Record<string, unknown> = { ...body }
  for (const [key, value] of Object.entries(options)) {
    const before = merged[key]
    Object.defineProperty(merged, key, {
      value: isFields(before) && isFields(value) ? withOptions(before, value) : value,
      configurable: true,
      enumerable: true,
      writable: true
    })
  }
  return merged
}

/** The request's options for this vendor. */
export const optionsFor = ({ providerOptions }: LlmRequest, vendor: string): Fields | undefined =>
  providerOptions !== undefined && Object.hasOwn(providerOptions, vendor) ? providerOptions[vendor] : undefined

const composed = ["anyOf", "oneOf", "allOf", "$ref"]

/** A tool's parameters as vendors insist on them: an object, which says which fields it has, be they none. */
export const parametersOf = (schema: Fields): Fields => {
  if (composed.some((word) => schema[word] !== undefined) || (schema["type"] ?? "object") !== "object") return schema
  return schema["type"] !== undefined && isFields(schema["properties"])
    ? schema
    : { ...schema, type: "object", properties: isFields(schema["properties"]) ? schema["properties"] : {} }
}

/** Asks for JSON where the vendor has no field for it. */
export const jsonInstruction = "Answer with one JSON object and nothing else."

/** Tokens of thinking by effort, for vendors that count them. */
export const thinkingBudget = { minimal: 1024, low: 2048, medium: 8192, high: 16_384, xhigh: 32_768 } as const

/** Steps of effort, for vendors that have but these. */
export const threeSteps = { minimal: "low", low: "low", medium: "medium", high: "high", xhigh: "high" } as const
