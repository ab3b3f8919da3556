// Why an answer ended, in the words of every protocol: servers borrow each other's.
import type * as Response from "effect/ai/Response"
import { type Exchange, ofEvent, type Tag } from "./errors.ts"
import { textOf } from "./json.ts"

type FinishReason = Response.FinishReason

const table = <A extends string>(words: { readonly [K in A]?: string }): ReadonlyMap<string, A> =>
  new Map(
    Object.entries(words).flatMap(([to, list]) =>
      (list as string).split(/\s+/).map((word): [string, A] => [word, to as A])
    )
  )

/** In lower case. */
const reasons = table<FinishReason>({
  stop: "stop eos eos_token end_turn stop_sequence complete completed",
  length: "length max_tokens max_output_tokens max_length model_length model_context_window_exceeded",
  "tool-calls": "tool_calls tool_call tool_use function_call",
  "content-filter": "content_filter content_filtered refusal guardrail_intervened sensitive safety recitation blocklist"
    + " prohibited_content spii image_safety image_prohibited_content image_recitation model_armor",
  // The model's own mistakes: the answer is there, and says so.
  error: "malformed_function_call unexpected_tool_call too_many_tool_calls malformed_model_output malformed_tool_use"
})

/** Reasons of an answer that the server gave up: what came of it is no answer, and the attempt failed. */
const failures = table<Tag>({
  Server: "error internal_error server_error network_error abort aborted cancelled canceled failed",
  Overloaded: "insufficient_system_resource engine_overloaded overloaded",
  Timeout: "timeout timed_out deadline_exceeded",
  RateLimit: "rate_limit rate_limited rate_limit_exceeded"
})

/** Reasons of an answer that is not all there is to say. */
const cuts: ReadonlySet<FinishReason | undefined> = new Set<FinishReason>(["length", "content-filter", "error"])
const inOurWords = (word: unknown): FinishReason | undefined => reasons.get(textOf(word)?.toLowerCase() ?? "")

/** Of two words told in a row, nothing being said between them: what was cut stays cut, else the later one counts. */
export const laterReason = (before: unknown, word: unknown): unknown =>
  textOf(word) === undefined || (cuts.has(inOurWords(before)) && !cuts.has(inOurWords(word))) ? before : word

/**
 * The reason in our words: one that is missing is `unknown`, one that nobody knows is `other`. Calls have a reason of
 * their own, whichever word the server has for an answer that ended well. Throws what a failure means; `told` is the
 * part of the answer that may say more about it.
 */
export const finishReason = (exchange: Exchange, word: unknown, calls: boolean, told: object = {}): FinishReason => {
  const raw = textOf(word)
  if (raw === undefined) return "unknown"
  const failure = failures.get(raw.toLowerCase())
  if (failure !== undefined) throw ofEvent(exchange, { code: raw, ...told }, failure)
  const reason = inOurWords(raw) ?? "other"
  return reason === "stop" && calls ? "tool-calls" : reason
}
