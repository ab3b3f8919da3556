// What every wire format of the fault server has to know, and the answer all of them render.
import * as Failure from "../../providers/internal/failure.ts"
import type { AnswerOptions, ErrorReason } from "../FaultServer.ts"

/** One event of a stream. `content` marks the deltas of text, reasoning and tool arguments: they count as chunks. */
export interface Frame {
  readonly text: string
  readonly content: boolean
}

/** An answer with every choice made. */
export interface Answer {
  readonly reasoning: ReadonlyArray<string>
  readonly text: ReadonlyArray<string>
  readonly toolCalls: ReadonlyArray<{ readonly id: string | undefined; readonly name: string; readonly params: string }>
  readonly finish: "stop" | "length" | "tool-calls" | "content-filter"
  readonly usage: {
    readonly input: number
    readonly cached: number
    readonly output: number
    readonly reasoning: number
  }
}

/** What an answer takes from its request, and from the moment it is given. */
export interface Context {
  /** Number of the request, from which all its ids follow. */
  readonly number: number
  readonly epochMillis: number
  readonly model: string | undefined
  readonly inputTokens: number
  readonly includeUsage: boolean
}

/** A failure in a vendor's words. `code` is `null` where the vendor sends null. */
export interface VendorError {
  readonly status: number
  readonly type: string
  readonly code?: string | null
  readonly param?: string | null
  readonly message: string
}

/** What the rate-limit headers say: plenty left, nothing for `seconds`, or nothing at all. */
export type Limits = "plenty" | "silent" | { readonly seconds: number }

export interface Dialect {
  readonly name: "openai" | "anthropic" | "cohere" | "bedrock"
  /** Whether the opening events come before the first token exists. */
  readonly early: boolean
  readonly keepAlive: string
  /** The media type of streams in binary frames, whose texts are a character per byte. */
  readonly binary?: string
  /** An event that holds this instead of JSON, where it is not a line of text. */
  readonly broken?: (text: string) => string
  readonly json: (answer: Answer, context: Context) => string
  readonly frames: (answer: Answer, context: Context) => ReadonlyArray<Frame>
  /** The vendor's error for a reason; `status` when the caller fixed it, `wait` the seconds it will ask to wait. */
  readonly error: (reason: ErrorReason, context: Context, status?: number, wait?: number) => VendorError
  readonly errorBody: (error: VendorError, context: Context) => string
  /** The error inside a stream that already answered 200. */
  readonly errorEvent: (error: VendorError, context: Context) => string
  /** The error inside a JSON body that already answered 200. */
  readonly errorJson: (error: VendorError, context: Context) => string
  /** All headers but the content type. */
  readonly headers: (context: Context, limits: Limits, failed: ErrorReason | undefined) => Record<string, string>
}

const DEFAULT_TEXT = "This answer was made up by a simulated provider."

const words = (text: string): ReadonlyArray<string> => text.match(/\s*\S+|\s+$/gu) ?? []
const tokens = (chunks: ReadonlyArray<string>): number => Math.ceil(chunks.join("").length / 4)

/** Fills in what an answer leaves open. */
export const completeAnswer = (options: AnswerOptions, text: string | undefined, context: Context): Answer => {
  const toolCalls = (options.toolCalls ?? []).map((call) => ({
    id: call.id,
    name: call.name,
    params: typeof call.params === "string" ? call.params : JSON.stringify(call.params ?? {})
  }))
  const fallback = toolCalls.length > 0 ? "" : text ?? DEFAULT_TEXT
  const chunks = options.chunks ?? words(options.text ?? fallback)
  const reasoning = words(options.reasoning ?? "")
  const thought = options.usage?.reasoningTokens ?? tokens(reasoning)
  return {
    reasoning,
    text: chunks,
    toolCalls,
    finish: options.finish ?? (toolCalls.length > 0 ? "tool-calls" : "stop"),
    usage: {
      input: options.usage?.inputTokens ?? context.inputTokens,
      cached: options.usage?.cachedInputTokens ?? 0,
      output: options.usage?.outputTokens ??
        thought + tokens(chunks) + tokens(toolCalls.map((call) => call.name + call.params)),
      reasoning: thought
    }
  }
}

/** Pieces of a tool call's arguments, never splitting a character. */
export const fragments = (params: string): ReadonlyArray<string> => params.match(/.{1,8}/gsu) ?? []

export const event = (name: string, data: string): string => `event: ${name}\ndata: ${data}\n\n`
export const dataOnly = (data: string): string => `data: ${data}\n\n`

const contentPolicy = new Map([[498, "ContentPolicy"]] as const)

/** What a vendor's HTTP status means when nothing else is said. */
export const reasonOfStatus = (status: number): ErrorReason =>
  Failure.reasonOfStatus(status, contentPolicy) ?? "Unknown"

const BASE62 = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
const HEX = "0123456789abcdef"

// mulberry32: ids look random, and are the same in every run.
const characters = (alphabet: string, length: number, seed: number): string => {
  let state = Math.imul(seed, 0x9E3779B1)
  let out = ""
  for (let i = 0; i < length; i++) {
    state = (state + 0x6D2B79F5) | 0
    let t = Math.imul(state ^ (state >>> 15), 1 | state)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    out += alphabet[((t ^ (t >>> 14)) >>> 0) % alphabet.length]
  }
  return out
}

/** Ids of the `index`-th thing of the `number`-th request. */
export const token = (length: number, number: number, index = 0): string =>
  characters(BASE62, length, number * 64 + index)
export const hex = (length: number, number: number, index = 0): string => characters(HEX, length, number * 64 + index)
export const uuid = (number: number): string => {
  const digits = hex(32, number)
  const at = (from: number, to: number) => digits.slice(from, to)
  return `${at(0, 8)}-${at(8, 12)}-4${at(13, 16)}-a${at(17, 20)}-${at(20, 32)}`
}
