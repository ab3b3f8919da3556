// What attempts have cost: as the vendor says where there is an answer, else at least so much.
import { isProviderError } from "../LlmError.ts"
import type { AttemptSucceeded } from "../LlmEvent.ts"
import type { Spent } from "../LlmGuard.ts"
import { type Answer, type Usage, usageOf, usageReported } from "../LlmResponse.ts"
import type { Attempt } from "./attempt.ts"
import { BYTES_PER_TOKEN, bytesOf } from "./request.ts"

export type Mutable<A> = { -readonly [K in keyof A]: A[K] }

/** Writes into its event what an answer has cost. */
export const tellUsage = (event: Mutable<AttemptSucceeded>, { inputTokens, outputTokens }: Usage): void => {
  if (inputTokens.total !== undefined) event.inputTokens = inputTokens.total
  if (outputTokens.total !== undefined) event.outputTokens = outputTokens.total
  if (inputTokens.cacheRead !== undefined) event.cacheReadTokens = inputTokens.cacheRead
  if (inputTokens.cacheWrite !== undefined) event.cacheWriteTokens = inputTokens.cacheWrite
  if (outputTokens.reasoning !== undefined) event.reasoningTokens = outputTokens.reasoning
}

/**
 * Does a failure leave open whether its vendor was at work? What a vendor refuses costs nothing. The same failures leave a
 * reservation of tokens as it is.
 */
export const isOpen = (error: unknown): boolean => !isProviderError(error) || error.reason._tag === "MalformedResponse"

/**
 * What an attempt without an answer has cost, as far as it is known. `wasAtWork`: its vendor had the prompt. After a bug
 * nobody knows, for it may have come before the request was sent.
 */
export const spentBy = ({ got, request, to }: Attempt, wasAtWork: boolean): Spent | undefined => {
  // What a provider and a tokenizer give may throw, and the attempt must end all the same.
  try {
    const usage = got === undefined ? undefined : usageOf(got)
    const told = got === undefined ? undefined : usageReported(got)
    const { inputTokens: { total: input }, outputTokens: { total: output } } = usage ?? unknown
    const inputTokens = input ?? told?.inputTokens ?? (wasAtWork ? to.tokensOf(request) : undefined)
    const outputTokens = output ?? (Math.max(told?.outputTokens ?? 0, tokensIn(got)) || undefined)
    if (inputTokens === undefined && outputTokens === undefined) return undefined
    return {
      ...(inputTokens === undefined ? undefined : { inputTokens }),
      ...(outputTokens === undefined ? undefined : { outputTokens }),
      ...(input === undefined || output === undefined ? { atLeast: true } : undefined)
    }
  } catch (defect) {
    to.background.report(defect)
    return undefined
  }
}

const unknown: Usage = { inputTokens: {}, outputTokens: {} }

/** About how many tokens of text came. */
const tokensIn = (got: Answer | undefined): number => {
  let bytes = 0
  for (const part of got?.parts ?? []) {
    if ("delta" in part) bytes += bytesOf(part.delta)
    else if ("text" in part) bytes += bytesOf(part.text)
  }
  return Math.ceil(bytes / BYTES_PER_TOKEN)
}
