/**
 * What came back: content, usage, where it came from, and the ledger of how.
 *
 * @since 0.1.0
 */
import type * as Prompt from "effect/ai/Prompt"
import type * as Response from "effect/ai/Response"
import * as Schema from "effect/Schema"
import { copy } from "./internal/copy.ts"
import { isPlain } from "./internal/reading.ts"
import { RateLimitFact, type Reason } from "./LlmError.ts"
import type { Ledger } from "./LlmEvent.ts"

/** @category models @since 0.1.0 */
export type Part = Response.PartEncoded
/** @category models @since 0.1.0 */
export type StreamPart = Response.StreamPartEncoded
/** @category models @since 0.1.0 */
export type Usage = Response.FinishPartEncoded["usage"]

/**
 * An answer as a message of a prompt.
 *
 * @category models
 * @since 0.2.0
 */
export interface AssistantMessage extends Prompt.AssistantMessageEncoded {
  readonly content: ReadonlyArray<Prompt.AssistantMessagePartEncoded>
}

/**
 * Where an answer came from: a `provider` asked by this call, a `replay` of another call with the same idempotency key
 * (stored or joined), the fresh `cache`, or a `stale` cached answer that stands in for a failure.
 *
 * @category models
 * @since 0.1.0
 */
export type Source = "provider" | "replay" | "cache" | "stale"

/**
 * A whole answer as a provider gave it, and as stores keep it: plain JSON, nothing about the call that fetched it.
 *
 * @category models
 * @since 0.1.0
 */
export interface Answer {
  /** Parts as they came: parts of a whole answer, or stream parts. */
  readonly parts: ReadonlyArray<Part> | ReadonlyArray<StreamPart>
  /** Failover target that answered. */
  readonly target: string
  readonly provider: string
  /** The model that was asked, in the provider's own words. */
  readonly model?: string | undefined
  /** Were parts of a very long stream delivered but not kept here? */
  readonly cut?: boolean | undefined
}

/**
 * The response of a call.
 *
 * @category models
 * @since 0.1.0
 */
export interface LlmResponse {
  /** Text, reasoning, tool calls, files and sources, in order. */
  readonly content: ReadonlyArray<Part>
  /** All text of `content`. */
  readonly text: string
  /**
   * The answer as a message for the next turn: append it to the prompt, then what comes next. It has everything the
   * provider needs back: reasoning with its signatures, tool calls with their ids.
   */
  readonly message: AssistantMessage
  /** As the model wrote them; `LlmObject.toolCalls` reads them by their tools. */
  readonly toolCalls: ReadonlyArray<Response.ToolCallPartEncoded>
  readonly finishReason: Response.FinishReason
  /** Total input includes cached tokens, total output includes reasoning; an unknown number is absent, not zero. */
  readonly usage: Usage
  readonly target: string
  readonly provider: string
  /** The model that answered, when known. */
  readonly model?: string
  readonly requestId?: string
  /** The vendor's own id of the answer. */
  readonly id?: string
  /** When the vendor says it made the answer, in ISO 8601. */
  readonly timestamp?: string
  /** The finish part as the provider gave it, with its metadata; absent when there was none. */
  readonly finish?: Response.FinishPartEncoded
  /** True when the stream was so long (over 100 000 parts or 16 MiB) that `content` does not hold all of it. */
  readonly cut?: boolean
  readonly source: Source
  /** Age of a stored answer in milliseconds; 0 for one fetched by this call. */
  readonly age: number
  readonly ledger: Ledger
}

/**
 * Under which key metadata and options of others (`effect/ai`, the AI SDK) hold what is ours.
 *
 * @internal
 */
export const NAMESPACE = "effect-resilient-llm"

/**
 * The `metadata` of a `response-metadata` part: request id and rate-limit facts of the HTTP response.
 *
 * @category constructors
 * @since 0.1.0
 */
export const httpMetadata = (facts: {
  readonly requestId?: string | undefined
  readonly rateLimits?: ReadonlyArray<RateLimitFact> | undefined
  /** Tokens the vendor told before the end, for streams that break. */
  readonly usage?: UsageFact | undefined
}): Response.ProviderMetadata => {
  const { rateLimits, requestId, usage } = facts
  const own: Record<string, Response.ProviderMetadata[string]> = {}
  if (usage !== undefined) own["usage"] = { ...usage }
  if (requestId !== undefined) own["requestId"] = requestId
  if (rateLimits !== undefined && rateLimits.length > 0) {
    own["rateLimits"] = Array.from(rateLimits, (fact) => ({ ...fact }))
  }
  return { [NAMESPACE]: own }
}

const factsOf = (part: Response.ResponseMetadataPartEncoded): object => {
  const facts = part.metadata?.[NAMESPACE]
  return typeof facts === "object" && facts !== null ? facts : {}
}

const requestIdOf = (part: Response.ResponseMetadataPartEncoded): string | undefined => {
  const facts = factsOf(part)
  return "requestId" in facts && typeof facts.requestId === "string" ? facts.requestId : undefined
}

const isFacts = Schema.is(Schema.Array(RateLimitFact))

/**
 * What the vendor said of its limits with an answer.
 *
 * @internal
 */
export const limitsReported = ({ parts }: Answer): ReadonlyArray<RateLimitFact> => {
  for (const part of parts) {
    if (part.type !== "response-metadata") continue
    const facts = factsOf(part)
    if ("rateLimits" in facts && isFacts(facts.rateLimits)) return facts.rateLimits
  }
  return []
}

/**
 * Tokens told in the middle of a stream.
 *
 * @category models
 * @since 0.2.0
 */
export interface UsageFact {
  readonly inputTokens?: number
  readonly outputTokens?: number
}

/**
 * The tokens a broken stream has told, last word first.
 *
 * @internal
 */
export const usageReported = ({ parts }: Answer): UsageFact | undefined => {
  let told: UsageFact | undefined
  for (const part of parts) {
    if (part.type !== "response-metadata") continue
    const facts = factsOf(part)
    if (!("usage" in facts) || !isRecord(facts.usage)) continue
    const { inputTokens, outputTokens } = facts.usage as {
      readonly inputTokens?: unknown
      readonly outputTokens?: unknown
    }
    told = Object.assign(
      told ?? {},
      isCount(inputTokens) ? { inputTokens } : undefined,
      isCount(outputTokens) ? { outputTokens } : undefined
    )
  }
  return told
}

const noUsage = (): Usage => ({ inputTokens: {}, outputTokens: {} })

// A provider of one's own may leave out what the type asks for, and tell what is no number of tokens: that is not told.
const usageIn = ({ usage }: { readonly usage?: Partial<Usage> | null }): Usage => {
  const inputTokens = counts(usage?.inputTokens)
  const outputTokens = counts(usage?.outputTokens)
  return inputTokens === usage?.inputTokens && outputTokens === usage?.outputTokens
    ? usage as Usage
    : { inputTokens, outputTokens }
}

const counts = <A extends object>(told: A | undefined): Partial<A> => {
  if (!isRecord(told)) return {}
  for (const name in told) {
    if (told[name] !== undefined && !isCount(told[name])) {
      return Object.fromEntries(Object.entries(told).filter(([, count]) => isCount(count))) as Partial<A>
    }
  }
  return told
}

const isCount = (value: unknown): value is number => Number.isInteger(value) && value as number >= 0

const isRecord = (value: unknown): value is object => typeof value === "object" && value !== null

/**
 * The tokens of an answer, as far as they were told.
 *
 * @internal
 */
export const usageOf = ({ parts }: Answer): Usage | undefined => {
  for (let i = parts.length - 1; i >= 0; i--) {
    const part = parts[i]
    if (part?.type === "finish") return usageIn(part)
  }
  return undefined
}

/**
 * Builds the response from an answer.
 *
 * @category constructors
 * @since 0.1.0
 */
export const fromAnswer = (answer: Answer, source: Source, age: number, ledger: Ledger): LlmResponse => {
  // Stores and joined callers have the same answer: this response is its caller's alone.
  const content: Array<Part> = []
  const toolCalls: Array<Response.ToolCallPartEncoded> = []
  let blocks: Blocks | undefined
  let text = ""
  let finishReason: Response.FinishReason = "unknown"
  let usage: Usage | undefined
  let model = answer.model
  let requestId: string | undefined
  let id: string | undefined
  let timestamp: string | undefined
  let finish: Response.FinishPartEncoded | undefined
  for (const part of answer.parts) {
    switch (part.type) {
      case "text-start":
      case "text-end":
        if (part.metadata !== undefined) (blocks ??= new Blocks(content)).add("text", part.id, "", part.metadata)
        break
      case "reasoning-start":
      case "reasoning-end":
        if (part.metadata !== undefined && "id" in part) {
          ;(blocks ??= new Blocks(content)).add("reasoning", part.id, "", part.metadata)
        }
        break
      case "text-delta":
        ;(blocks ??= new Blocks(content)).add("text", part.id, part.delta, part.metadata)
        break
      case "reasoning-delta":
        if ("delta" in part) {
          ;(blocks ??= new Blocks(content)).add("reasoning", part.id, part.delta, part.metadata)
        }
        break
      case "text":
        content.push(ownText(part))
        break
      case "reasoning":
      case "file":
      case "source":
      case "tool-result":
      case "tool-approval-request":
        content.push(copy(part))
        break
      case "tool-call": {
        const call = copy(part)
        content.push(call)
        toolCalls.push(call)
        break
      }
      case "response-metadata":
        model = part.modelId ?? model
        requestId = requestIdOf(part) ?? requestId
        id = part.id ?? id
        timestamp = part.timestamp ?? timestamp
        break
      case "finish":
        finish = ownFinish(part)
        finishReason = finish.reason
        usage = usageIn(finish)
        break
    }
  }
  for (const part of content) if (part.type === "text") text += part.text
  const response: { -readonly [K in keyof LlmResponse]: LlmResponse[K] } = {
    content,
    text,
    message: { role: "assistant", content: toMessageParts(content) },
    toolCalls,
    finishReason,
    usage: usage ?? noUsage(),
    target: answer.target,
    provider: answer.provider,
    source,
    age,
    ledger
  }
  if (model !== undefined) response.model = model
  if (requestId !== undefined) response.requestId = requestId
  if (id !== undefined) response.id = id
  if (timestamp !== undefined) response.timestamp = timestamp
  if (finish !== undefined) response.finish = finish
  if (answer.cut === true) response.cut = true
  return response
}

// What is in every answer is copied field by field: to walk over it costs three times as much.

const ownText = (part: Response.TextPartEncoded): Response.TextPartEncoded => {
  if (!isPlain(part)) return part
  return part.metadata === undefined ? { ...part } : { ...part, metadata: copy(part.metadata) }
}

const ownFinish = (part: Response.FinishPartEncoded): Response.FinishPartEncoded => {
  const { usage } = part
  const isUsual = isPlain(part) && part.metadata === undefined && part.response === undefined && isPlain(usage) &&
    isPlain(usage.inputTokens) && isPlain(usage.outputTokens)
  if (!isUsual) return copy(part)
  const { inputTokens, outputTokens } = usage
  return { ...part, usage: { ...usage, inputTokens: { ...inputTokens }, outputTokens: { ...outputTokens } } }
}

/** Puts the deltas of a stream together. A block begins with its first; its start and end may bring metadata. */
class Blocks {
  private readonly content: Array<Part>
  /** Where in `content` they are. */
  private readonly places = new Map<string, number>()

  constructor(content: Array<Part>) {
    this.content = content
  }

  add(
    type: "text" | "reasoning",
    id: string,
    delta: string,
    metadata: Response.ProviderMetadata | undefined
  ): void {
    const { content, places } = this
    const key = `${type}:${id}`
    const index = places.get(key) ?? content.length
    places.set(key, index)
    const before = content[index]
    const old = before?.type === type ? before : { text: "", metadata: undefined }
    const merged = metadata === undefined ? old.metadata : { ...old.metadata, ...copy(metadata) }
    content[index] = merged === undefined
      ? { type, text: old.text + delta }
      : { type, text: old.text + delta, metadata: merged }
  }
}

// What a prompt cannot hold, such as sources, is not sent back; no provider asks for it.
const toMessageParts = (content: ReadonlyArray<Part>): ReadonlyArray<Prompt.AssistantMessagePartEncoded> => {
  const parts: Array<Prompt.AssistantMessagePartEncoded> = []
  for (const part of content) {
    switch (part.type) {
      case "text":
      case "reasoning": {
        const { metadata, text, type } = part
        parts.push(metadata === undefined ? { type, text } : { type, text, options: metadata })
        break
      }
      case "file":
      case "tool-call":
      case "tool-result":
      case "tool-approval-request": {
        const { metadata, ...rest } = part
        parts.push(metadata === undefined ? rest : { ...rest, options: metadata })
        break
      }
    }
  }
  return parts
}

/**
 * Is this part content? Only content commits a stream and feeds its `firstToken` and `idle` timers: a non-empty text
 * or reasoning delta, the start of a tool call, a tool call, a file, a source.
 *
 * @category guards
 * @since 0.1.0
 */
export const isContent = (part: Part | StreamPart): boolean => {
  switch (part.type) {
    case "text":
    case "reasoning":
      return part.text.length > 0
    case "text-delta":
    case "reasoning-delta":
      return "delta" in part && part.delta.length > 0
    case "tool-params-start":
    case "tool-call":
    case "file":
    case "source":
      return true
    default:
      return false
  }
}

/** Does this part say something? White space and reasoning alone are no answer. */
const isSaid = (part: Part | StreamPart): boolean => {
  switch (part.type) {
    case "text":
      return part.text.trim() !== ""
    case "text-delta":
      return part.delta.trim() !== ""
    case "reasoning":
    case "reasoning-delta":
      return false
    default:
      return isContent(part)
  }
}

/**
 * Why a whole answer cannot be used, if it cannot: it says nothing, or nothing but reasoning, although the model was not
 * cut off; or the provider's policy kept it back.
 *
 * @internal
 */
export const unusable = (parts: ReadonlyArray<Part | StreamPart>): Reason | undefined => {
  let reason: string | undefined
  let content = false
  for (const part of parts) {
    if (isSaid(part)) return undefined
    content ||= isContent(part)
    if (part.type === "finish") reason = part.metadata?.["refusal"] === undefined ? part.reason : "content-filter"
  }
  if (reason === "length" || reason === "pause") return undefined
  // What a filter left of an answer, its finish reason explains.
  if (reason === "content-filter") return content ? undefined : { _tag: "ContentPolicy" }
  return { _tag: "MalformedResponse", problem: content ? "the answer says nothing" : "the answer is empty" }
}

/**
 * May this answer be given again as a good one? Only if it is whole: it says something beside its reasoning, it finished
 * by itself, it is not a refusal, and its tool calls have parameters that parsed.
 *
 * @category guards
 * @since 0.1.0
 */
export const isReplayable = (answer: Answer): boolean => {
  if (answer.cut === true) return false
  let said = false
  let finished = false
  for (const part of answer.parts) {
    if (part.type === "finish") {
      finished = (part.reason === "stop" || part.reason === "tool-calls") && part.metadata?.["refusal"] === undefined
    } else if (part.type === "tool-call" && typeof part.params === "string") {
      return false
    } else said ||= isSaid(part)
  }
  return said && finished
}

/**
 * A text, or parts, as the parts of a whole answer.
 *
 * @category conversions
 * @since 0.1.0
 */
export const toParts = (output: string | ReadonlyArray<Part>): ReadonlyArray<Part> =>
  typeof output === "string"
    ? [{ type: "text", text: output }, { type: "finish", reason: "stop", usage: noUsage() }]
    : output

/**
 * The parts of a whole answer as a stream would have brought them.
 *
 * @category conversions
 * @since 0.1.0
 */
export const toStreamParts = (parts: ReadonlyArray<Part>): ReadonlyArray<StreamPart> =>
  parts.flatMap((part, i): ReadonlyArray<StreamPart> => {
    const id = String(i)
    const metadata = "metadata" in part && part.metadata !== undefined ? { metadata: part.metadata } : undefined
    switch (part.type) {
      case "text":
        return [
          { type: "text-start", id },
          ...(part.text === "" ? [] : [{ type: "text-delta" as const, id, delta: part.text }]),
          { type: "text-end", id, ...metadata }
        ]
      case "reasoning":
        return [
          { type: "reasoning-start", id },
          ...(part.text === "" ? [] : [{ type: "reasoning-delta" as const, id, delta: part.text }]),
          { type: "reasoning-end", id, ...metadata }
        ]
      default:
        return [part]
    }
  })
