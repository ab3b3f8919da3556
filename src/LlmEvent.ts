/**
 * What happened, as typed facts.
 *
 * One union serves two views. While a call runs, each fact is published to the client's bounded hub
 * (`client.events`); when it ends, the facts of that call are its **ledger**, carried by the response and by every
 * error alike. Metrics, logs and traces are views of the same facts, so they cannot disagree.
 *
 * No event holds prompt text, completion text, provider messages, keys or URLs: only identifiers, numbers and reasons.
 *
 * @since 0.1.0
 */
import type * as Context from "effect/Context"
import * as Schema from "effect/Schema"

const base = {
  /** Number of the call within its client, starting at 1. */
  call: Schema.Number,
  /** Milliseconds since the call began. */
  at: Schema.Number
}

/**
 * An error reduced to what is safe to publish: its tag, the provider's reason and identifiers.
 *
 * @category models
 * @since 0.1.0
 */
export const ErrorSummary = Schema.Struct({
  tag: Schema.String,
  reason: Schema.optionalKey(Schema.String),
  status: Schema.optionalKey(Schema.Number),
  code: Schema.optionalKey(Schema.String),
  requestId: Schema.optionalKey(Schema.String),
  /** Milliseconds the provider, or the pattern, asked to wait. */
  retryAfter: Schema.optionalKey(Schema.Number)
})
/** @category models @since 0.1.0 */
export interface ErrorSummary extends Schema.Schema.Type<typeof ErrorSummary> {}

/** An attempt that was disturbed on purpose, such as by `Chaos` of `/testing`: what it met says nothing of its vendor. */
const injected = Schema.optionalKey(Schema.Literal(true))

/** What an attempt without an answer has cost. Absent where the vendor refused it, or where nothing is known. */
const spent = {
  inputTokens: Schema.optionalKey(Schema.Number),
  outputTokens: Schema.optionalKey(Schema.Number),
  /**
   * It was at least so much: what the vendor had told by then, and beyond that an estimate of the prompt and of the text that
   * came, as limits make it. Absent where the vendor has told all of it.
   */
  atLeast: Schema.optionalKey(Schema.Literal(true))
}

/**
 * The call began.
 *
 * @category models
 * @since 0.1.0
 */
export const CallStarted = Schema.TaggedStruct("CallStarted", {
  ...base,
  operation: Schema.Literals(["complete", "stream"]),
  model: Schema.optionalKey(Schema.String)
})
/** @category models @since 0.2.0 */
export interface CallStarted extends Schema.Schema.Type<typeof CallStarted> {}

/**
 * The idempotency layer decided: a key was `generated`, the call `led` work others may join, `joined` work in flight,
 * or was answered by a `replayed` stored answer. `unavailable` means that the store failed and the call went on.
 *
 * @category models
 * @since 0.1.0
 */
export const Idempotency = Schema.TaggedStruct("Idempotency", {
  ...base,
  result: Schema.Literals(["generated", "led", "joined", "replayed", "unavailable"]),
  /** A generated key. A key of yours is never published. */
  key: Schema.optionalKey(Schema.String)
})
/** @category models @since 0.2.0 */
export interface Idempotency extends Schema.Schema.Type<typeof Idempotency> {}

/**
 * An attempt is about to reach its provider: every permit is held.
 *
 * @category models
 * @since 0.1.0
 */
export const AttemptStarted = Schema.TaggedStruct("AttemptStarted", {
  ...base,
  target: Schema.String,
  /** Number of the attempt within the call, starting at 1. */
  attempt: Schema.Number,
  model: Schema.optionalKey(Schema.String),
  injected
})
/** @category models @since 0.2.0 */
export interface AttemptStarted extends Schema.Schema.Type<typeof AttemptStarted> {}

/**
 * The first content part of a stream arrived: from here on neither retry nor failover can happen.
 *
 * @category models
 * @since 0.1.0
 */
export const AttemptCommitted = Schema.TaggedStruct("AttemptCommitted", {
  ...base,
  target: Schema.String,
  attempt: Schema.Number,
  /** Milliseconds from the start of the attempt to the first content part. */
  duration: Schema.Number,
  injected
})
/** @category models @since 0.2.0 */
export interface AttemptCommitted extends Schema.Schema.Type<typeof AttemptCommitted> {}

/**
 * An attempt ended well.
 *
 * @category models
 * @since 0.1.0
 */
export const AttemptSucceeded = Schema.TaggedStruct("AttemptSucceeded", {
  ...base,
  target: Schema.String,
  attempt: Schema.Number,
  duration: Schema.Number,
  inputTokens: Schema.optionalKey(Schema.Number),
  outputTokens: Schema.optionalKey(Schema.Number),
  /** Input tokens that were read from, or written to, the provider's own cache; part of `inputTokens`. */
  cacheReadTokens: Schema.optionalKey(Schema.Number),
  cacheWriteTokens: Schema.optionalKey(Schema.Number),
  /** Part of `outputTokens`. */
  reasoningTokens: Schema.optionalKey(Schema.Number),
  injected
})
/** @category models @since 0.2.0 */
export interface AttemptSucceeded extends Schema.Schema.Type<typeof AttemptSucceeded> {}

/**
 * An attempt failed. `outcome` is how the circuit breaker counts it. One whose answer was on its way (a timer fired, a stream
 * broke, an answer could not be used) has cost tokens.
 *
 * @category models
 * @since 0.1.0
 */
export const AttemptFailed = Schema.TaggedStruct("AttemptFailed", {
  ...base,
  target: Schema.String,
  attempt: Schema.Number,
  duration: Schema.Number,
  error: ErrorSummary,
  outcome: Schema.Literals(["failure", "ignored"]),
  afterCommit: Schema.Boolean,
  ...spent,
  injected
})
/** @category models @since 0.2.0 */
export interface AttemptFailed extends Schema.Schema.Type<typeof AttemptFailed> {}

/**
 * An attempt ended without a typed outcome: the caller interrupted it, the provider has a bug (`defect`), or another
 * attempt answered first (`lost`). It says nothing about the provider's health, but it has cost tokens.
 *
 * @category models
 * @since 0.1.0
 */
export const AttemptInterrupted = Schema.TaggedStruct("AttemptInterrupted", {
  ...base,
  target: Schema.String,
  attempt: Schema.Number,
  duration: Schema.Number,
  by: Schema.Literals(["caller", "defect", "lost"]),
  ...spent,
  injected
})
/** @category models @since 0.2.0 */
export interface AttemptInterrupted extends Schema.Schema.Type<typeof AttemptInterrupted> {}

/**
 * The attempt waited for a permit, for tokens or for a guard of yours before it started.
 *
 * @category models
 * @since 0.1.0
 */
export const Waited = Schema.TaggedStruct("Waited", {
  ...base,
  target: Schema.String,
  for: Schema.Literals(["bulkhead", "rate-limit", "guard"]),
  /** The name of a guard of yours. */
  guard: Schema.optionalKey(Schema.String),
  duration: Schema.Number
})
/** @category models @since 0.2.0 */
export interface Waited extends Schema.Schema.Type<typeof Waited> {}

/**
 * An attempt was refused by our own guards before it reached its provider.
 *
 * @category models
 * @since 0.1.0
 */
export const AttemptRefused = Schema.TaggedStruct("AttemptRefused", {
  ...base,
  target: Schema.String,
  by: Schema.Literals(["circuit-breaker", "bulkhead", "rate-limit", "throttle", "guard"]),
  /** The name of a guard of yours. */
  guard: Schema.optionalKey(Schema.String),
  /** It was shed, and why: see `Shed`. */
  shed: Schema.optionalKey(Schema.Literals(["throttled", "queue-full", "deadline"]))
})
/** @category models @since 0.2.0 */
export interface AttemptRefused extends Schema.Schema.Type<typeof AttemptRefused> {}

/**
 * The next attempt on the same target is scheduled. `delayedBy` tells whether our backoff or the provider's hint
 * decided the delay.
 *
 * @category models
 * @since 0.1.0
 */
export const RetryScheduled = Schema.TaggedStruct("RetryScheduled", {
  ...base,
  target: Schema.String,
  /** The attempt that failed. */
  attempt: Schema.Number,
  delay: Schema.Number,
  delayedBy: Schema.Literals(["backoff", "retry-after"]),
  error: ErrorSummary,
  injected
})
/** @category models @since 0.2.0 */
export interface RetryScheduled extends Schema.Schema.Type<typeof RetryScheduled> {}

/**
 * A retryable failure that is not retried, and why.
 *
 * @category models
 * @since 0.1.0
 */
export const RetryDenied = Schema.TaggedStruct("RetryDenied", {
  ...base,
  target: Schema.String,
  attempt: Schema.Number,
  because: Schema.Literals(["attempts-exhausted", "budget", "deadline", "retry-after", "circuit-open", "refused"]),
  error: ErrorSummary,
  injected
})
/** @category models @since 0.2.0 */
export interface RetryDenied extends Schema.Schema.Type<typeof RetryDenied> {}

/**
 * `target` is asked first, and why: the `request` names its targets, the tenant or conversation is `sticky`, or by the
 * `weights` or measured speeds (`fastest`). Where targets are asked as they are listed, there is no such event.
 *
 * @category models
 * @since 0.2.0
 */
export const Routed = Schema.TaggedStruct("Routed", {
  ...base,
  by: Schema.Literals(["request", "sticky", "weights", "fastest"]),
  target: Schema.String
})
/** @category models @since 0.2.0 */
export interface Routed extends Schema.Schema.Type<typeof Routed> {}

/**
 * A target was passed over without a call, and why.
 *
 * @category models
 * @since 0.1.0
 */
export const TargetSkipped = Schema.TaggedStruct("TargetSkipped", {
  ...base,
  target: Schema.String,
  because: Schema.Literals([
    "circuit-open",
    "cooling-down",
    "rate-limited",
    "bulkhead-full",
    "throttled",
    "no-model",
    "context-too-small",
    "guard",
    "unsupported",
    "attempts-exhausted"
  ]),
  /** The name of a guard of yours. */
  guard: Schema.optionalKey(Schema.String),
  /** The part of the request that the target cannot take, for `unsupported`. */
  field: Schema.optionalKey(Schema.String),
  /** Milliseconds until the target may be asked again, when known. */
  retryAfter: Schema.optionalKey(Schema.Number)
})
/** @category models @since 0.2.0 */
export interface TargetSkipped extends Schema.Schema.Type<typeof TargetSkipped> {}

/**
 * A target was slow, and a second attempt was due on the side: it `started` on `target`, or was `suppressed` because the
 * retry budget of that target is empty. Who loses ends with `AttemptInterrupted` (`lost`).
 *
 * @category models
 * @since 0.2.0
 */
export const Hedged = Schema.TaggedStruct("Hedged", {
  ...base,
  result: Schema.Literals(["started", "suppressed"]),
  /** Number of the hedge in the turn of `from`, starting at 1. */
  line: Schema.Number,
  from: Schema.String,
  target: Schema.String
})
/** @category models @since 0.2.0 */
export interface Hedged extends Schema.Schema.Type<typeof Hedged> {}

/**
 * A pattern in shadow mode has decided, and nothing came of it: the call went on as if the pattern were off. A circuit in
 * shadow mode tells by `CircuitChanged` (`would-open`).
 *
 * @category models
 * @since 0.2.0
 */
export const Shadowed = Schema.TaggedStruct("Shadowed", {
  ...base,
  target: Schema.String,
  by: Schema.Literals(["rate-limit", "load-shedding", "retry-budget", "hedge"]),
  decision: Schema.Literals(["would-wait", "would-refuse", "would-shed", "would-deny", "would-hedge"]),
  /** Milliseconds that the attempt would have waited, or would have had to. */
  duration: Schema.optionalKey(Schema.Number)
})
/** @category models @since 0.2.0 */
export interface Shadowed extends Schema.Schema.Type<typeof Shadowed> {}

/**
 * The call moved on to the next target.
 *
 * @category models
 * @since 0.1.0
 */
export const FailedOver = Schema.TaggedStruct("FailedOver", {
  ...base,
  from: Schema.String,
  to: Schema.String
})
/** @category models @since 0.2.0 */
export interface FailedOver extends Schema.Schema.Type<typeof FailedOver> {}

/**
 * The request's model has no mapping at this target; its default model was asked instead.
 *
 * @category models
 * @since 0.1.0
 */
export const ModelSubstituted = Schema.TaggedStruct("ModelSubstituted", {
  ...base,
  target: Schema.String,
  requested: Schema.String,
  model: Schema.String
})
/** @category models @since 0.2.0 */
export interface ModelSubstituted extends Schema.Schema.Type<typeof ModelSubstituted> {}

/**
 * Reasoning of another provider in the prompt was not sent to this target.
 *
 * @category models
 * @since 0.1.0
 */
export const ReasoningDropped = Schema.TaggedStruct("ReasoningDropped", {
  ...base,
  target: Schema.String,
  parts: Schema.Number
})
/** @category models @since 0.2.0 */
export interface ReasoningDropped extends Schema.Schema.Type<typeof ReasoningDropped> {}

/**
 * An answer is not the value that was asked for: at `path` it must be `rule`, and is `kind`.
 *
 * @category models
 * @since 0.2.0
 */
export const AnswerRejected = Schema.TaggedStruct("AnswerRejected", {
  ...base,
  target: Schema.String,
  path: Schema.String,
  rule: Schema.String,
  kind: Schema.String,
  /** Number of the repair that follows, starting at 1; absent when none is left. */
  repair: Schema.optionalKey(Schema.Number)
})
/** @category models @since 0.2.0 */
export interface AnswerRejected extends Schema.Schema.Type<typeof AnswerRejected> {}

/**
 * A target was asked for something else than the request says, because its vendor cannot be asked for it: `field` was
 * left out (`dropped`) or sent in another way (`substituted`, and `detail` says which).
 *
 * @category models
 * @since 0.2.0
 */
export const RequestAdapted = Schema.TaggedStruct("RequestAdapted", {
  ...base,
  target: Schema.String,
  /** Such as `seed`, `responseFormat` or `providerOptions.openai`. */
  field: Schema.String,
  action: Schema.Literals(["dropped", "substituted"]),
  detail: Schema.optionalKey(Schema.String)
})
/** @category models @since 0.2.0 */
export interface RequestAdapted extends Schema.Schema.Type<typeof RequestAdapted> {}

/**
 * The response cache answered (`fresh`), could have but had nothing fresh (`miss`), stood in for a failure (`stale`),
 * stored an answer, or refused to store one that is not whole, or too large (`rejected`). `unavailable`: the store failed,
 * and the call went on.
 *
 * @category models
 * @since 0.1.0
 */
export const Cache = Schema.TaggedStruct("Cache", {
  ...base,
  result: Schema.Literals(["fresh", "miss", "stale", "stored", "rejected", "unavailable"]),
  /** Age of the answer in milliseconds. */
  age: Schema.optionalKey(Schema.Number),
  /** What failed, for a stale answer. */
  error: Schema.optionalKey(ErrorSummary)
})
/** @category models @since 0.2.0 */
export interface Cache extends Schema.Schema.Type<typeof Cache> {}

const CircuitState = Schema.Literals(["closed", "open", "half-open", "forced-open", "forced-closed", "shadow"])

/**
 * A circuit breaker changed its state. It belongs to a target, not to a call: `call` is 0 and `at` is the time since
 * the client was built.
 *
 * @category models
 * @since 0.1.0
 */
export const CircuitChanged = Schema.TaggedStruct("CircuitChanged", {
  ...base,
  target: Schema.String,
  /** With a circuit per model: which one. */
  model: Schema.optionalKey(Schema.String),
  from: CircuitState,
  /** `would-open`: the breaker only measures, and would have opened. */
  to: Schema.Union([CircuitState, Schema.Literal("would-open")])
})
/** @category models @since 0.2.0 */
export interface CircuitChanged extends Schema.Schema.Type<typeof CircuitChanged> {}

/**
 * A store that processes share went away, or is back. It belongs to no call: `call` is 0 and `at` is the time since the
 * client was built. Calls go on without it.
 *
 * @category models
 * @since 0.2.0
 */
export const StoreChanged = Schema.TaggedStruct("StoreChanged", {
  ...base,
  /** `redis`, `sqlite`, `sql`, or `store` for one of your own. */
  store: Schema.String,
  to: Schema.Literals(["up", "down"]),
  /** What was waited for in vain, or failed. */
  operation: Schema.optionalKey(Schema.String)
})
/** @category models @since 0.2.0 */
export interface StoreChanged extends Schema.Schema.Type<typeof StoreChanged> {}

/**
 * The call ended; published exactly once per call.
 *
 * @category models
 * @since 0.1.0
 */
export const CallEnded = Schema.TaggedStruct("CallEnded", {
  ...base,
  operation: Schema.Literals(["complete", "stream"]),
  outcome: Schema.Literals(["provider", "replay", "cache", "stale", "failure", "interrupted", "defect"]),
  duration: Schema.Number,
  target: Schema.optionalKey(Schema.String),
  attempts: Schema.Number,
  error: Schema.optionalKey(ErrorSummary)
})
/** @category models @since 0.2.0 */
export interface CallEnded extends Schema.Schema.Type<typeof CallEnded> {}

const events = [
  CallStarted,
  Idempotency,
  AttemptStarted,
  AttemptCommitted,
  AttemptSucceeded,
  AttemptFailed,
  AttemptInterrupted,
  Waited,
  AttemptRefused,
  RetryScheduled,
  RetryDenied,
  TargetSkipped,
  Hedged,
  Shadowed,
  FailedOver,
  Routed,
  ModelSubstituted,
  ReasoningDropped,
  AnswerRejected,
  RequestAdapted,
  Cache,
  CircuitChanged,
  StoreChanged,
  CallEnded
] as const

/**
 * Every fact the library reports.
 *
 * @category models
 * @since 0.1.0
 */
export const LlmEvent: LlmEventSchema = Schema.Union(events)
/** @category models @since 0.1.0 */
export type LlmEvent =
  | CallStarted
  | Idempotency
  | AttemptStarted
  | AttemptCommitted
  | AttemptSucceeded
  | AttemptFailed
  | AttemptInterrupted
  | Waited
  | AttemptRefused
  | RetryScheduled
  | RetryDenied
  | TargetSkipped
  | Hedged
  | Shadowed
  | FailedOver
  | Routed
  | ModelSubstituted
  | ReasoningDropped
  | AnswerRejected
  | RequestAdapted
  | Cache
  | CircuitChanged
  | StoreChanged
  | CallEnded

/**
 * The type of {@link LlmEvent} by a name, which editors and declarations show instead of all its members.
 *
 * @category models
 * @since 0.2.0
 */
export interface LlmEventSchema extends Schema.Union<typeof events> {
  readonly Type: LlmEvent
}

/**
 * Everything one call did, in order. `ledger.filter((e) => e._tag === "AttemptFailed")` answers most questions.
 *
 * @category models
 * @since 0.1.0
 */
export const Ledger: LedgerSchema = Schema.Array(LlmEvent)
/** @category models @since 0.1.0 */
export type Ledger = ReadonlyArray<LlmEvent>

/**
 * The type of {@link Ledger} by a name, which editors and declarations show instead of all its events.
 *
 * @category models
 * @since 0.2.0
 */
export interface LedgerSchema extends Schema.$Array<LlmEventSchema> {
  readonly Type: Ledger
}

/**
 * Is told of each event, synchronously and in order, with the context of the fibre that made the call. It must be quick
 * and must not throw: one that throws is reported once, as a warning, and told nothing more.
 *
 * @category models
 * @since 0.1.0
 */
export type Listener = (event: LlmEvent, caller: Context.Context<never>) => void
