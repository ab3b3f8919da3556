// What events say, as attributes of spans and fields of log lines.
import * as Context from "effect/Context"
import type { ErrorSummary, LlmEvent } from "../LlmEvent.ts"

type Attributes = Readonly<Record<string, unknown>>

/** Takes out of a text what must not be recorded; public in observability/Tracing. */
export type Redactor = (text: string) => string

/** Whether prompts and completions are recorded; public in observability/Tracing. */
export const Content = Context.Reference<Redactor | undefined>("effect-resilient-llm/observability/Tracing/Content", {
  defaultValue: () => undefined
})

export const OTHER = "_OTHER"

/** The class of an error, of which there are few. */
export const errorType = ({ reason, tag }: ErrorSummary): string =>
  tag === "ProviderError" ? reason ?? OTHER : tag === "UnknownError" ? OTHER : tag

const usageNames: Readonly<Record<string, string>> = {
  inputTokens: "gen_ai.usage.input_tokens",
  outputTokens: "gen_ai.usage.output_tokens",
  cacheReadTokens: "gen_ai.usage.cache_read.input_tokens",
  cacheWriteTokens: "gen_ai.usage.cache_creation.input_tokens",
  reasoningTokens: "gen_ai.usage.reasoning.output_tokens"
}

export const snake = (name: string): string => name.replaceAll(/(?<!^)[A-Z]/g, (letter) => `_${letter}`).toLowerCase()

/** Everything an event says besides its name, its call and its moment. */
export const attributesOf = (event: LlmEvent): Attributes => {
  const attributes: Record<string, unknown> = {}
  for (const [key, value] of Object.entries(event)) {
    if (key === "_tag" || key === "call" || key === "at") continue
    if (key !== "error") attributes[usageNames[key] ?? `llm.${snake(key)}`] = value
  }
  if ("error" in event && event.error !== undefined) {
    const { code, requestId, retryAfter, status } = event.error
    attributes["error.type"] = errorType(event.error)
    if (status !== undefined) attributes["llm.error.status"] = status
    if (code !== undefined) attributes["llm.error.code"] = code
    if (requestId !== undefined) attributes["llm.error.request_id"] = requestId
    if (retryAfter !== undefined) attributes["llm.error.retry_after"] = retryAfter
  }
  return attributes
}

// The conventions' own names, where they differ from ours.
const providerNames: Readonly<Record<string, string>> = {
  azure: "azure.ai.openai",
  gemini: "gcp.gemini",
  mistral: "mistral_ai",
  vertex: "gcp.vertex_ai",
  xai: "x_ai"
}

/** The name that the GenAI conventions give a provider. */
export const providerName = (id: string): string => Object.hasOwn(providerNames, id) ? providerNames[id]! : id
