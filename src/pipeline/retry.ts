// Retry: the one owner of all retries, per target, paid from the target's budget.
import { type AttemptTimeout, classify, isLlmError, type ProviderError, summary, type Verdict } from "../LlmError.ts"
import type { LlmEvent } from "../LlmEvent.ts"
import * as Retry from "../resilience/Retry.ts"
import type { RetryBudget } from "../resilience/RetryBudget.ts"
import type { Call } from "./call.ts"
import { overdrawn } from "./hedge.ts"
import type { Served, Stage } from "./stage.ts"

/** What retries need to know about their target. */
export interface Retried {
  readonly id: string
  readonly budget: RetryBudget | undefined
  readonly circuit: { readonly peek: (request: Call["request"], now: number) => unknown } | undefined
}

/** What a failure of an attempt means here, or what the table says. */
export const verdictOf = ({ books: { failed } }: Call, error: unknown): Verdict =>
  failed !== undefined && failed.error === error ? failed.verdict : classify(error)

/** `longestHint`: how long a hint may be waited for right now, for those who could go elsewhere. */
export type Retrying<out E> = (call: Call, now: number, longestHint?: () => number) => ReturnType<Stage<E>>

/** What overrules the table, and bounds all targets' attempts together. */
interface Rules {
  readonly when: Retry.Policy["when"]
  readonly maxAttempts: number | undefined
}

export const retried =
  (policy: Retry.Policy | undefined, target: Retried, maxAttempts: number | undefined) =>
  <E>(self: Stage<E>): Retrying<E> => {
    if (policy === undefined) return self
    const usual = Retry.retries(policy)
    const rules = { when: policy.when, maxAttempts }
    return (call, now, longestHint) => {
      const { retry } = call.request
      if (retry === false) return self(call, now)
      const retrying = retry === undefined ? usual : Retry.retries({ ...policy, maxRetries: retry.maxRetries })
      return retrying(self(call, now), new Again(self, call, target, longestHint, rules))
    }
  }

const isOfAttempt = (error: unknown): error is ProviderError | AttemptTimeout =>
  isLlmError(error) && (error._tag === "ProviderError" || error._tag === "AttemptTimeout")

class Again<E> implements Retry.Again<Served, E, never> {
  private readonly self: Stage<E>
  private readonly call: Call
  private readonly target: Retried
  readonly maxRetryAfter: (() => number) | undefined
  private readonly rules: Rules

  constructor(self: Stage<E>, call: Call, target: Retried, longestHint: (() => number) | undefined, rules: Rules) {
    this.self = self
    this.call = call
    this.target = target
    this.maxRetryAfter = longestHint
    this.rules = rules
  }

  again(): ReturnType<Stage<E>> {
    return this.self(this.call, this.call.root.now())
  }

  get withdraw(): RetryBudget["withdrawUnsafe"] | undefined {
    const { call, target: { budget, id } } = this
    return budget && ((now) => {
      const paid = budget.withdrawUnsafe(now)
      if (paid?.isOverdrawn === true) overdrawn(call, id, now)
      return paid
    })
  }

  when(error: E): boolean {
    if (this.isRefusal(error)) return false
    const { when } = this.rules
    return when !== undefined && isOfAttempt(error)
      ? when(error)
      : verdictOf(this.call, error).retry
  }

  isSpent(): boolean {
    const { maxAttempts } = this.rules
    return maxAttempts !== undefined && this.call.root.counted() >= maxAttempts
  }

  isRefusal(error: E): boolean {
    return this.call.books.refused?.error === error
  }

  isBlocked(now: number): boolean {
    return this.target.circuit?.peek(this.call.request, now) !== undefined
  }

  deadlineAt(): number {
    return this.call.deadline.end
  }

  launches(): number {
    return this.call.books.launches
  }

  onScheduled(error: E, delay: number, delayedBy: "backoff" | "retry-after", now: number): void {
    const { books, root } = this.call
    this.emit({
      _tag: "RetryScheduled",
      call: root.id,
      at: root.since(now),
      target: this.target.id,
      attempt: books.attempt,
      delay,
      delayedBy,
      error: summary(error)
    })
  }

  onDenied(error: E, because: Retry.Denial): void {
    const { books, root } = this.call
    this.emit({
      _tag: "RetryDenied",
      call: root.id,
      at: root.since(),
      target: this.target.id,
      attempt: books.attempt,
      because,
      error: summary(error)
    })
  }

  /** Told by the attempt, if there was one. */
  private emit(event: Extract<LlmEvent, { readonly _tag: "RetryScheduled" | "RetryDenied" }>): void {
    const { books, root } = this.call
    const teller = books.current ?? root
    teller.emit(event)
  }
}
