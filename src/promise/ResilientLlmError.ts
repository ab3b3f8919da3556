/**
 * What a promise of a resilient client rejects with.
 *
 * @since 0.2.0
 */
import * as Cause from "effect/Cause"
import * as LlmError from "../LlmError.ts"
import type { Ledger } from "../LlmEvent.ts"

/**
 * Why it failed: the tag of the typed error behind it, or `Closed` when the client was closed meanwhile.
 *
 * @category models
 * @since 0.2.0
 */
export type Code = LlmError.LlmError["_tag"] | "InvalidOutput" | "LlmConfigError" | "Closed" | (string & {})

const BRAND = Symbol.for("effect-resilient-llm/ResilientLlmError")

/**
 * A call failed: retries, other targets and stored answers are behind it. The message is a sentence of ours; prompts,
 * answers and keys are in none.
 *
 * **Details**
 *
 * | `code` | means |
 * | --- | --- |
 * | `ProviderError` | one provider did not give an answer; `reason` says why |
 * | `AllProvidersFailed` | every provider was tried or skipped; `cause.errors` has each failure |
 * | `AllProvidersUnavailable` | none can be asked now; come back after `retryAfterMs` |
 * | `DeadlineExceeded`, `AttemptTimeout` | it took too long |
 * | `StreamInterrupted` | a stream broke after its first content |
 * | `InvalidOutput` | the answer is not the value that was asked for |
 * | `InvalidRequest`, `LlmConfigError` | a field or an option is wrong; the message names it |
 * | `RateLimited`, `BulkheadFull`, `CircuitOpen`, `Shed` | refused here, before any provider was asked |
 * | `IdempotencyConflict`, `IdempotencyInProgress` | the key was used with another request, or is being worked on elsewhere |
 * | `Closed` | the client was closed |
 *
 * @category errors
 * @since 0.2.0
 */
export class ResilientLlmError extends Error {
  /** One of these, also one of another copy of this package, which `instanceof` does not know. */
  static isInstance(error: unknown): error is ResilientLlmError {
    return typeof error === "object" && error !== null && BRAND in error
  }

  override readonly name = "ResilientLlmError"
  readonly code: Code
  /** A provider's reason, such as `RateLimit` or `Authentication`. */
  readonly reason: string | undefined
  /** May the same call succeed later? */
  readonly retryable: boolean
  /** How long to wait before it is worth another try, when known. */
  readonly retryAfterMs: number | undefined
  /** HTTP status of the provider's answer, when there was one. */
  readonly status: number | undefined
  /** What happened, from the first attempt to the last. */
  readonly ledger: Ledger

  constructor(message: string, facts: {
    readonly code: Code
    readonly reason?: string | undefined
    readonly retryable?: boolean | undefined
    readonly retryAfterMs?: number | undefined
    readonly status?: number | undefined
    readonly ledger?: Ledger | undefined
    readonly cause?: unknown
  }) {
    super(message, facts.cause === undefined ? undefined : { cause: facts.cause })
    this.code = facts.code
    this.reason = facts.reason
    this.retryable = facts.retryable ?? false
    this.retryAfterMs = facts.retryAfterMs
    this.status = facts.status
    this.ledger = facts.ledger ?? []
  }

  /**
   * What providers themselves said, clipped. It may echo the prompt, so it is in no other field, and nothing prints it by
   * itself.
   */
  get details(): ReadonlyArray<{ readonly provider: string; readonly text: string }> {
    return LlmError.details(this.cause)
  }
}

Object.defineProperty(ResilientLlmError.prototype, BRAND, { value: true })

// What `console.log` and a rejection that nobody handles show: one line after the sentence and its stack, not the ledger,
// and not the error behind it, which says the same.
Object.defineProperty(ResilientLlmError.prototype, Symbol.for("nodejs.util.inspect.custom"), {
  value(this: ResilientLlmError): string {
    const { code, ledger, reason, retryAfterMs, retryable, status } = this
    const facts = Object.entries({ code, reason, status, retryable, retryAfterMs })
      .filter(([, value]) => value !== undefined)
      .map(([name, value]) => `${name}: ${value}`)
    if (ledger.length > 0) facts.push(`${ledger.length} facts in its ledger`)
    return `${this.stack ?? this.message} (${facts.join(", ")})`
  }
})

const isTagged = (u: unknown): u is { readonly _tag: string } =>
  typeof u === "object" && u !== null && "_tag" in u && typeof u._tag === "string"

const isRetryable = (error: unknown): boolean => {
  if (!LlmError.isLlmError(error)) return false
  switch (error._tag) {
    case "AllProvidersFailed":
      return error.errors.some(isRetryable)
    case "AllProvidersUnavailable":
    case "IdempotencyInProgress":
    case "DeadlineExceeded":
    case "StreamInterrupted":
      return true
    default:
      return LlmError.classify(error).retry || LlmError.isLocalRefusal(error)
  }
}

/**
 * The plain error for one of ours, or for whatever a guard of your own failed with.
 *
 * @internal
 */
export const fromFailure = (error: unknown): ResilientLlmError => {
  const { reason, status } = LlmError.summary(error)
  const ledger = typeof error === "object" && error !== null && "ledger" in error ? error.ledger as Ledger : undefined
  const message = error instanceof Error ? error.message : "The call failed."
  return new ResilientLlmError(LlmError.withoutWords(message, " Its own words: `error.details`."), {
    code: isTagged(error) ? error._tag : "UnknownError",
    reason,
    retryable: isRetryable(error),
    retryAfterMs: LlmError.retryAfterMillis(error),
    status,
    ledger,
    cause: error
  })
}

/** @internal */
export const closedError = (): ResilientLlmError => new ResilientLlmError("The client is closed.", { code: "Closed" })

/**
 * What to throw for the end of an effect: the reason of an abort, our error, or a bug as it is.
 *
 * @internal
 */
export const thrown = (cause: Cause.Cause<unknown>, signal: AbortSignal | undefined): unknown => {
  if (Cause.hasInterruptsOnly(cause)) return signal?.aborted === true ? signal.reason : closedError()
  const failure = Cause.findErrorOption(cause)
  return failure._tag === "Some" ? fromFailure(failure.value) : Cause.squash(cause)
}
