/**
 * Every failure of the library, and the one table that says what a failure means.
 *
 * All errors are tagged, serialisable and carry the **ledger** of the call they ended: which targets were tried, what
 * was waited for, what was skipped and why. Messages are our own sentences. A provider's own text can echo prompts and
 * keys, so it is kept only as a clipped `Redacted` detail of {@link ProviderError}.
 *
 * @since 0.1.0
 */
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Redacted from "effect/Redacted"
import * as Schema from "effect/Schema"
import * as SchemaGetter from "effect/SchemaGetter"
import { type ErrorSummary, Ledger, type LedgerSchema } from "./LlmEvent.ts"
import * as Failure from "./providers/internal/failure.ts"
import { isIdentifier, requestIdFrom } from "./providers/internal/headers.ts"

/**
 * The ledger of an error: empty until a call ends with it.
 *
 * @category models
 * @since 0.2.0
 */
export interface LedgerField extends Schema.withConstructorDefault<LedgerSchema> {}

const ledger: LedgerField = Ledger.pipe(Schema.withConstructorDefault(Effect.succeed<Ledger>([])))
const seconds = (duration: Duration.Duration): string => Duration.format(duration)
const hint = (retryAfter: Duration.Duration | undefined): string =>
  retryAfter === undefined ? "" : ` Try again in ${seconds(retryAfter)}.`

// Stays in the process: there is none in what the schema encodes, and what it decodes is left out.
const detail = Schema.optionalKey(Schema.Unknown).pipe(
  Schema.decodeTo(Schema.optionalKey(Schema.Redacted(Schema.String)), {
    decode: SchemaGetter.omit(),
    encode: SchemaGetter.omit()
  })
)

/**
 * One limit a provider told us about in its response headers.
 *
 * @category models
 * @since 0.1.0
 */
export const RateLimitFact = Schema.Struct({
  /** The vendor's own name: `requests`, `tokens`, `input-tokens`, … */
  dimension: Schema.String,
  limit: Schema.optionalKey(Schema.Number),
  remaining: Schema.optionalKey(Schema.Number),
  /** Milliseconds until the limit is whole again. */
  resetAfter: Schema.optionalKey(Schema.Number)
})
/** @category models @since 0.1.0 */
export interface RateLimitFact extends Schema.Schema.Type<typeof RateLimitFact> {}

const Network = Schema.TaggedStruct("Network", {
  /** `false` when the request provably never left. */
  sent: Schema.Boolean,
  kind: Schema.optionalKey(Schema.Literals(["dns", "connect", "tls", "reset", "local"]))
})

const MalformedResponse = Schema.TaggedStruct("MalformedResponse", {
  /** What was wrong with it, in words of ours. */
  problem: Schema.String
})

const reasonMembers = [
  Schema.TaggedStruct("RateLimit", {}),
  Schema.TaggedStruct("Quota", {}),
  Schema.TaggedStruct("Overloaded", {}),
  Schema.TaggedStruct("Server", {}),
  Schema.TaggedStruct("Timeout", {}),
  Schema.TaggedStruct("Conflict", {}),
  Network,
  MalformedResponse,
  Schema.TaggedStruct("Authentication", {}),
  Schema.TaggedStruct("Permission", {}),
  Schema.TaggedStruct("NotFound", {}),
  Schema.TaggedStruct("ContextLength", {}),
  Schema.TaggedStruct("PayloadTooLarge", {}),
  Schema.TaggedStruct("ContentPolicy", {}),
  Schema.TaggedStruct("InvalidRequest", {}),
  Schema.TaggedStruct("ClientClosed", {}),
  Schema.TaggedStruct("Unknown", {})
] as const

/**
 * Why a provider's answer is a failure.
 *
 * | reason | meaning |
 * | --- | --- |
 * | `RateLimit` | too many requests or tokens; passes by itself |
 * | `Quota` | money or a plan's limit; does not pass by itself |
 * | `Overloaded` | the provider has no capacity (503, 529) |
 * | `Server` | the provider broke (5xx) |
 * | `Timeout` | the provider gave up waiting (408, 504) |
 * | `Conflict` | 409 |
 * | `Network` | no answer. `sent: false` when the request provably never left; `kind` as below |
 * | `MalformedResponse` | an answer that breaks its protocol, is empty, or ends early |
 * | `Authentication`, `Permission`, `NotFound` | key, rights, model |
 * | `ContextLength`, `PayloadTooLarge` | too much input for this model or endpoint |
 * | `ContentPolicy` | refused by the provider's policy |
 * | `InvalidRequest` | the provider itself says that it cannot read the request |
 * | `ClientClosed` | 499: something between saw the connection closed |
 * | `Unknown` | a refusal that may be the way's: a proxy's page or status, a status that says nothing certain |
 *
 * Kinds of `Network`: `dns` no address, `connect` nobody accepted the connection, `tls` a certificate or handshake that
 * cannot be trusted, `reset` the connection broke, `local` this machine has no socket or port left. Absent when the
 * transport does not tell.
 *
 * @category models
 * @since 0.1.0
 */
export const Reason: ReasonSchema = Schema.Union(reasonMembers)
/** @category models @since 0.1.0 */
export type Reason =
  | NetworkReason
  | MalformedResponseReason
  | PlainReason<"RateLimit">
  | PlainReason<"Quota">
  | PlainReason<"Overloaded">
  | PlainReason<"Server">
  | PlainReason<"Timeout">
  | PlainReason<"Conflict">
  | PlainReason<"Authentication">
  | PlainReason<"Permission">
  | PlainReason<"NotFound">
  | PlainReason<"ContextLength">
  | PlainReason<"PayloadTooLarge">
  | PlainReason<"ContentPolicy">
  | PlainReason<"InvalidRequest">
  | PlainReason<"ClientClosed">
  | PlainReason<"Unknown">

/**
 * A reason that its tag says all of.
 *
 * @category models
 * @since 0.2.0
 */
export interface PlainReason<out Tag extends string> {
  readonly _tag: Tag
}

/** @category models @since 0.2.0 */
export interface NetworkReason extends Schema.Schema.Type<typeof Network> {}

/** @category models @since 0.2.0 */
export interface MalformedResponseReason extends Schema.Schema.Type<typeof MalformedResponse> {}

/**
 * The type of {@link Reason} by a name, which editors and declarations show instead of all its members.
 *
 * @category models
 * @since 0.2.0
 */
export interface ReasonSchema extends Schema.Union<typeof reasonMembers> {
  readonly Type: Reason
}

const sentence: { readonly [K in Reason["_tag"]]: string } = {
  RateLimit: "limits the rate of requests",
  Quota: "says that the account's quota or credit is used up",
  Overloaded: "is overloaded",
  Server: "failed internally",
  Timeout: "did not answer in its own time limit",
  Conflict: "reports a conflict with another request",
  Network: "could not be reached",
  MalformedResponse: "sent an answer that cannot be used",
  Authentication: "does not accept the API key",
  Permission: "does not permit this request",
  NotFound: "does not know the model or endpoint",
  ContextLength: "cannot take a prompt of this length",
  PayloadTooLarge: "cannot take a request of this size",
  ContentPolicy: "refused the content by its policy",
  InvalidRequest: "cannot read the request",
  ClientClosed: "saw the connection closed by the client",
  Unknown: "or something before it refused the request, for a reason it does not tell"
}

/**
 * The `problem` of a `MalformedResponse` whose stream ended without its protocol's terminal event.
 *
 * @category models
 * @since 0.1.0
 */
export const TRUNCATED = "the stream ended before its terminal event"

/**
 * A response that failed, as {@link ProviderError.fromHttp} takes it.
 *
 * @category models
 * @since 0.2.0
 */
export interface HttpFailure {
  /** The provider's identifier. */
  readonly provider: string
  readonly status: number
  /** Names in any case; a `Headers` of the web will do, and so do the headers of `node:http`. */
  readonly headers?:
    | Readonly<Record<string, string | ReadonlyArray<string> | undefined>>
    | Iterable<readonly [name: string, value: string]>
    | undefined
  /** The text of the body, or what it means as JSON. The first 64 KiB are enough. */
  readonly body?: unknown
  /** Wall clock in milliseconds since 1970; that of the running fibre by default. */
  readonly now?: number | undefined
  /** Keys that were sent: what contains one is not published. */
  readonly secrets?: ReadonlyArray<Redacted.Redacted> | undefined
}

/**
 * A provider, asked once, did not give a usable answer.
 *
 * @category errors
 * @since 0.1.0
 */
export class ProviderError extends Schema.TaggedError<ProviderError>("effect-resilient-llm/ProviderError")(
  "ProviderError",
  {
    /** The provider's identifier, such as `openai`. */
    provider: Schema.String,
    reason: Reason,
    status: Schema.optionalKey(Schema.Number),
    /** The vendor's error code or type. */
    code: Schema.optionalKey(Schema.String),
    requestId: Schema.optionalKey(Schema.String),
    /** The host that could not be reached, for reason `Network`. */
    host: Schema.optionalKey(Schema.String),
    /** How long the provider asked to wait. */
    retryAfter: Schema.optionalKey(Schema.Duration),
    /** The provider's explicit `x-should-retry`; it overrides the table for *retry same target* only. */
    shouldRetry: Schema.optionalKey(Schema.Boolean),
    rateLimits: Schema.optionalKey(Schema.Array(RateLimitFact)),
    /** The provider's own text, clipped. Redacted and never encoded, because it can echo prompts and keys. */
    detail,
    /** True when the retry budget was empty and this failure was therefore final. */
    budgetExhausted: Schema.optionalKey(Schema.Boolean),
    ledger
  }
) {
  /**
   * The failure that an HTTP response tells of, read as the built-in providers read theirs: codes and types that say by
   * themselves what happened, then the status, then the vendors' known sentences.
   *
   * **Details**
   *
   * - `headers` give the delay (`retry-after` and its kin), the limits, the request id and `x-should-retry`.
   * - A body under a success status counts as an error told in place of an answer; then the headers say nothing about
   *   the delay.
   * - A code or request id that holds one of the `secrets`, or is no identifier, is left out. The body's own words are
   *   kept only as `detail`, redacted and clipped.
   * - Moments are compared with the server's `date`, else with the clock of the running fibre.
   *
   * **Example** (A rate limit)
   *
   * ```ts import.meta.vitest
   * import { Duration } from "effect"
   * import { ProviderError } from "effect-resilient-llm/LlmError"
   *
   * const error = ProviderError.fromHttp({
   *   provider: "in-house",
   *   status: 429,
   *   headers: { "Retry-After": "7", "X-Request-Id": "req_1" },
   *   body: "{\"error\":{\"code\":\"rate_limit_exceeded\",\"message\":\"Slow down.\"}}"
   * })
   * error.reason._tag // => "RateLimit"
   * error.code // => "rate_limit_exceeded"
   * error.requestId // => "req_1"
   * Duration.toSeconds(error.retryAfter ?? Duration.infinity) // => 7
   * ```
   *
   * @since 0.2.0
   */
  static fromHttp(response: HttpFailure): ProviderError {
    const { body, headers, now, provider, secrets, status } = response
    return providerError(
      provider,
      Failure.ofHttp({
        status,
        headers: lowerCased(headers),
        body,
        now: now ?? wallClock(),
        secrets: secrets?.map(Redacted.value)
      })
    )
  }

  override get message(): string {
    const { code, host, reason, status } = this
    const facts = reason._tag === "Network"
      ? [code, host].filter((fact) => fact !== undefined).join(" ")
      : status === undefined
      ? ""
      : `HTTP ${status}`
    const problem = reason._tag === "MalformedResponse" ? `: ${reason.problem}` : ""
    const what = reason._tag === "Network" && reason.kind === "reset"
      ? "broke off the connection"
      : sentence[reason._tag]
    const said = `${this.provider} ${what}${facts === "" ? "" : ` (${facts})`}${problem}.`
    return `${said}${hint(this.retryAfter)}${status !== undefined && telling.has(reason._tag) ? WORDS : ""}`
  }
}

/** Reasons that only the provider's own words explain, and where to look for these. */
const telling: ReadonlySet<Reason["_tag"]> = new Set(["InvalidRequest", "NotFound", "Permission", "Unknown"])
const WORDS = " Its own words: `LlmError.details(error)`."

/** @internal */
export const withoutWords = (message: string, instead = ""): string => message.replaceAll(WORDS, instead)

const lowerCased = (headers: HttpFailure["headers"]): Readonly<Record<string, string | undefined>> => {
  const out: Record<string, string | undefined> = Object.create(null)
  const entries: Iterable<readonly [string, unknown]> = headers === undefined || headers === null
    ? []
    : Symbol.iterator in headers
    ? headers as Iterable<readonly [string, string]>
    : Object.entries(headers)
  // Whoever has no types can have put anything there.
  for (const [name, value] of entries) {
    const text = Array.isArray(value) ? value.join(", ") : typeof value === "number" ? `${value}` : value
    if (typeof text === "string") out[name.toLowerCase()] = text
  }
  return out
}

const wallClock = (): number => {
  const fiber = Fiber.getCurrent()
  return (fiber === undefined ? Clock.Clock.defaultValue() : fiber.getRef(Clock.Clock)).currentTimeMillisUnsafe()
}

const maxDetail = 500

/** @internal */
export const providerError = (provider: string, facts: Failure.Facts): ProviderError => {
  const { code, detail, host, rateLimits, reason, requestId, retryAfter, shouldRetry, status } = facts
  return withoutStack(() =>
    new ProviderError({
      provider,
      reason,
      ...(host === undefined ? undefined : { host }),
      ...(status === undefined ? undefined : { status }),
      ...(code === undefined ? undefined : { code }),
      ...(requestId === undefined ? undefined : { requestId }),
      ...(retryAfter === undefined ? undefined : { retryAfter: Duration.millis(retryAfter) }),
      ...(shouldRetry === undefined ? undefined : { shouldRetry }),
      ...(rateLimits === undefined || rateLimits.length === 0 ? undefined : { rateLimits }),
      ...(detail === undefined || detail === "" ? undefined : { detail: Redacted.make(detail.slice(0, maxDetail)) })
    })
  )
}

/**
 * The request was refused before any call: `path` names the field, `rule` what it must be, `kind` what it was.
 * The value itself is never part of the error.
 *
 * @category errors
 * @since 0.1.0
 */
export class InvalidRequest extends Schema.TaggedError<InvalidRequest>("effect-resilient-llm/InvalidRequest")(
  "InvalidRequest",
  { path: Schema.String, rule: Schema.String, kind: Schema.String, ledger }
) {
  override get message(): string {
    return `Invalid request: "${this.path}" must be ${this.rule}, but is ${this.kind}.`
  }
}

/**
 * An answer came, but it is not the value that was asked for, also after `repairs` repairs: at `path` it must be `rule`,
 * and is `kind`. Only `client.generateObject` fails with it.
 *
 * @category errors
 * @since 0.2.0
 */
export class InvalidOutput extends Schema.TaggedError<InvalidOutput>("effect-resilient-llm/InvalidOutput")(
  "InvalidOutput",
  {
    path: Schema.String,
    rule: Schema.String,
    kind: Schema.String,
    /** The target that gave the last answer. */
    target: Schema.String,
    /** How often it was asked for again. */
    repairs: Schema.Number,
    /** The last answer's text, clipped. Redacted. */
    detail,
    ledger
  }
) {
  /** @internal */
  static of(
    text: string,
    facts: Pick<InvalidOutput, "path" | "rule" | "kind" | "target" | "repairs" | "ledger">
  ): InvalidOutput {
    return new InvalidOutput({ ...facts, detail: Redacted.make(text.slice(0, maxDetail)) })
  }

  override get message(): string {
    const where = this.path === "" ? "it" : `"${this.path}"`
    const after = this.repairs === 0 ? "" : this.repairs === 1 ? " after a repair" : ` after ${this.repairs} repairs`
    return `The answer from ${this.target} is not what was asked for${after}: ${where} must be ${this.rule}, ` +
      `but is ${this.kind}.`
  }
}

/**
 * A stream broke after its first content part: the consumer has `partialParts` content parts of an answer that will
 * not be finished. `truncated` = the stream ended without its protocol's terminal event, `reset` = the connection
 * broke, `error` = the provider sent an error event, `idle` = no content within the idle limit.
 *
 * @category errors
 * @since 0.1.0
 */
export class StreamInterrupted extends Schema.TaggedError<StreamInterrupted>("effect-resilient-llm/StreamInterrupted")(
  "StreamInterrupted",
  {
    provider: Schema.String,
    kind: Schema.Literals(["truncated", "reset", "error", "idle"]),
    /** Content parts handed to the consumer before the break. */
    partialParts: Schema.Number,
    /** Tokens the provider reported before the break: Anthropic and Gemini tell those of the prompt, others only at the end. */
    usage: Schema.optionalKey(Schema.Struct({
      inputTokens: Schema.optionalKey(Schema.Number),
      outputTokens: Schema.optionalKey(Schema.Number)
    })),
    /** The provider's reason, when it gave one. */
    reason: Schema.optionalKey(Reason),
    ledger
  }
) {
  override get message(): string {
    return `The stream from ${this.provider} broke (${this.kind}) after ${this.partialParts} content parts.`
  }
}

/**
 * One attempt took longer than its timer allows. `attempt` bounds the whole attempt (for a stream: up to the first
 * content part), `firstToken` the wait for the first content part, `idle` the silence between content parts. `idle` is
 * told by `Timeout.stream` alone: a client's stream that falls silent is a {@link StreamInterrupted}, which says what came.
 *
 * @category errors
 * @since 0.1.0
 */
export class AttemptTimeout extends Schema.TaggedError<AttemptTimeout>("effect-resilient-llm/AttemptTimeout")(
  "AttemptTimeout",
  { kind: Schema.Literals(["attempt", "firstToken", "idle"]), after: Schema.Duration, ledger }
) {
  override get message(): string {
    return `The attempt exceeded its ${this.kind} limit of ${seconds(this.after)}.`
  }
}

/**
 * The call as a whole took longer than its deadline.
 *
 * @category errors
 * @since 0.1.0
 */
export class DeadlineExceeded extends Schema.TaggedError<DeadlineExceeded>("effect-resilient-llm/DeadlineExceeded")(
  "DeadlineExceeded",
  { after: Schema.Duration, ledger }
) {
  override get message(): string {
    return `The call exceeded its deadline of ${seconds(this.after)}.`
  }
}

/**
 * The circuit breaker of `key` does not let calls through. `retryAfter` is absent while it probes.
 *
 * @category errors
 * @since 0.1.0
 */
export class CircuitOpen extends Schema.TaggedError<CircuitOpen>("effect-resilient-llm/CircuitOpen")(
  "CircuitOpen",
  {
    key: Schema.String,
    state: Schema.Literals(["open", "half-open", "forced-open"]),
    retryAfter: Schema.optionalKey(Schema.Duration),
    ledger
  }
) {
  override get message(): string {
    return `The circuit breaker of "${this.key}" is ${this.state}.${hint(this.retryAfter)}`
  }
}

/**
 * Our own rate limiter would have to hold the call back for longer than allowed. Nothing was consumed.
 *
 * @category errors
 * @since 0.1.0
 */
export class RateLimited extends Schema.TaggedError<RateLimited>("effect-resilient-llm/RateLimited")(
  "RateLimited",
  { dimension: Schema.String, retryAfter: Schema.Duration, ledger }
) {
  override get message(): string {
    return `The local rate limit of "${this.dimension}" is reached.${hint(this.retryAfter)}`
  }
}

/**
 * Too many calls are in flight and the bulkhead's queue is full, or its wait was too long.
 *
 * @category errors
 * @since 0.1.0
 */
export class BulkheadFull extends Schema.TaggedError<BulkheadFull>("effect-resilient-llm/BulkheadFull")(
  "BulkheadFull",
  { retryAfter: Schema.optionalKey(Schema.Duration), ledger }
) {
  override get message(): string {
    return `Too many calls are in flight.${hint(this.retryAfter)}`
  }
}

/**
 * Turned away early, so that others are served. `throttled`: the provider accepted too little lately. `queue-full`: the
 * waiting line has no room left for calls of this priority, or what there was went to a tenant with fewer calls in it.
 * `deadline`: the wait could not end in time.
 *
 * @category errors
 * @since 0.2.0
 */
export class Shed extends Schema.TaggedError<Shed>("effect-resilient-llm/Shed")(
  "Shed",
  {
    reason: Schema.Literals(["throttled", "queue-full", "deadline"]),
    retryAfter: Schema.optionalKey(Schema.Duration),
    ledger
  }
) {
  override get message(): string {
    return `The call was shed (${this.reason}).${hint(this.retryAfter)}`
  }
}

/**
 * The idempotency key was used before with another request. `keyHash` is the first 16 hexadecimal digits of the
 * key's SHA-256.
 *
 * @category errors
 * @since 0.1.0
 */
export class IdempotencyConflict
  extends Schema.TaggedError<IdempotencyConflict>("effect-resilient-llm/IdempotencyConflict")(
    "IdempotencyConflict",
    { keyHash: Schema.String, ledger }
  )
{
  override get message(): string {
    return `The idempotency key (hash ${this.keyHash}) was already used with another request.`
  }
}

/**
 * Another process is working on the same idempotency key and did not finish in time.
 *
 * @category errors
 * @since 0.1.0
 */
export class IdempotencyInProgress
  extends Schema.TaggedError<IdempotencyInProgress>("effect-resilient-llm/IdempotencyInProgress")(
    "IdempotencyInProgress",
    { retryAfter: Schema.Duration, ledger }
  )
{
  override get message(): string {
    return `Another process is working on the same idempotency key.${hint(this.retryAfter)}`
  }
}

/**
 * A failure of one target, as {@link AllProvidersFailed} lists it.
 *
 * @category errors
 * @since 0.1.0
 */
export type TargetError = ProviderError | AttemptTimeout | CircuitOpen | RateLimited | BulkheadFull | Shed

/**
 * Every target was tried or skipped, and none gave an answer. `errors[i]` belongs to `targets[i]`, in failover order.
 *
 * @category errors
 * @since 0.1.0
 */
export class AllProvidersFailed
  extends Schema.TaggedError<AllProvidersFailed>("effect-resilient-llm/AllProvidersFailed")(
    "AllProvidersFailed",
    {
      targets: Schema.NonEmptyArray(Schema.String),
      errors: Schema.NonEmptyArray(
        Schema.Union([ProviderError, AttemptTimeout, CircuitOpen, RateLimited, BulkheadFull, Shed])
      ),
      ledger
    }
  )
{
  /** The soonest of their hints, when there is one. */
  get retryAfter(): Duration.Duration | undefined {
    const hints = this.errors.flatMap((error) => "retryAfter" in error ? error.retryAfter ?? [] : [])
    return hints.length === 0 ? undefined : hints.reduce((a, b) => Duration.min(a, b))
  }

  override get message(): string {
    const each = this.errors.map((error, i) => {
      const message = withoutWords(error.message)
      const target = this.targets[i]!
      return message.startsWith(`${target} `) ? message : `${target}: ${message}`
    })
    const words = this.errors.some(({ message }) => message.endsWith(WORDS)) ? WORDS : ""
    return `All providers failed. ${each.join(" ")}${words}`
  }
}

/**
 * Every target is unavailable (breaker open, cooling down, no permit), so none was called. `retryAfter` is the
 * earliest moment one of them may be asked again, when known.
 *
 * @category errors
 * @since 0.1.0
 */
export class AllProvidersUnavailable
  extends Schema.TaggedError<AllProvidersUnavailable>("effect-resilient-llm/AllProvidersUnavailable")(
    "AllProvidersUnavailable",
    { retryAfter: Schema.optionalKey(Schema.Duration), ledger }
  )
{
  override get message(): string {
    return `All providers are unavailable.${hint(this.retryAfter)}`
  }
}

/**
 * An option is wrong; raised only while a client or a pattern is built.
 *
 * @category errors
 * @since 0.1.0
 */
export class LlmConfigError extends Schema.TaggedError<LlmConfigError>("effect-resilient-llm/LlmConfigError")(
  "LlmConfigError",
  { path: Schema.String, rule: Schema.String, kind: Schema.String }
) {
  override get message(): string {
    return `Invalid configuration: "${this.path}" must be ${this.rule}, but is ${this.kind}.`
  }
}

/**
 * Everything a call through the full pipeline can fail with.
 *
 * @category errors
 * @since 0.1.0
 */
export type LlmError =
  | ProviderError
  | InvalidRequest
  | StreamInterrupted
  | AttemptTimeout
  | DeadlineExceeded
  | CircuitOpen
  | RateLimited
  | BulkheadFull
  | Shed
  | IdempotencyConflict
  | IdempotencyInProgress
  | AllProvidersFailed
  | AllProvidersUnavailable

// -----------------------------------------------------------------------------
// classification
// -----------------------------------------------------------------------------

/**
 * What a failure means for each pattern.
 *
 * @category classification
 * @since 0.1.0
 */
export interface Verdict {
  /** How the circuit breaker counts it. */
  readonly outcome: "failure" | "ignored"
  /** May the same target be asked again? */
  readonly retry: boolean
  /** May another target be asked? `larger`: only one that is not known to have a smaller window. */
  readonly failover: boolean | "larger"
  /** Should the target be left alone for a while (quota, keys)? */
  readonly coolDown: boolean
  /** May a stale cached answer stand in? */
  readonly stale: boolean
}

const verdict = (
  outcome: Verdict["outcome"],
  retry: boolean,
  failover: Verdict["failover"],
  stale: boolean,
  coolDown = false
): Verdict => ({ outcome, retry, failover, coolDown, stale })

const transient = verdict("failure", true, true, true)
const transientIgnored = verdict("ignored", true, true, true)
const refused = verdict("ignored", false, true, true) // a local refusal: not recorded anywhere
const final = verdict("ignored", false, false, false)
const finalFailure = verdict("failure", false, false, false)

const byReason: { readonly [K in Exclude<Reason["_tag"], "Network">]: Verdict } = {
  RateLimit: transientIgnored,
  Quota: verdict("ignored", false, true, true, true),
  Overloaded: transient,
  Server: transient,
  Timeout: transient,
  Conflict: transientIgnored,
  MalformedResponse: transient,
  Authentication: verdict("ignored", false, true, false, true),
  Permission: verdict("ignored", false, true, false, true),
  NotFound: verdict("ignored", false, true, false),
  ContextLength: verdict("ignored", false, "larger", false),
  PayloadTooLarge: verdict("ignored", false, "larger", false),
  ContentPolicy: final,
  InvalidRequest: final,
  ClientClosed: transientIgnored,
  Unknown: verdict("ignored", false, true, true)
}

const byKind: { readonly [K in NonNullable<NetworkReason["kind"]>]: Verdict } = {
  dns: transient,
  connect: transient,
  reset: transient,
  // A certificate is as bad the next time.
  tls: verdict("failure", false, true, true),
  // Every target of this process is as far away.
  local: verdict("ignored", true, false, true)
}

const ofReason = (reason: Reason): Verdict =>
  reason._tag !== "Network" ? byReason[reason._tag] : reason.kind === undefined ? transient : byKind[reason.kind]

const verdictOf = ({ reason, shouldRetry, status }: ProviderError): Verdict => {
  const found = status === 501 ? final : ofReason(reason)
  return shouldRetry === undefined || shouldRetry === found.retry ? found : { ...found, retry: shouldRetry }
}

const byTag: { readonly [K in Exclude<LlmError["_tag"], "ProviderError">]: Verdict } = {
  InvalidRequest: final,
  StreamInterrupted: finalFailure,
  AttemptTimeout: transient,
  // The caller's time, not the provider's: a hang shows in the attempt's own timer.
  DeadlineExceeded: verdict("ignored", false, false, true),
  CircuitOpen: refused,
  RateLimited: refused,
  BulkheadFull: refused,
  // Turned away from a waiting line, it is not to go and wait in the next one.
  Shed: verdict("ignored", false, false, true),
  IdempotencyConflict: final,
  IdempotencyInProgress: final,
  // Whether a stale answer may stand in, its errors say.
  AllProvidersFailed: final,
  AllProvidersUnavailable: verdict("ignored", false, false, true)
}

/**
 * The one table: what does this failure mean?
 *
 * **Details**
 *
 * - `x-should-retry` overrides the table for *retry* only. HTTP 501 is never retried and says nothing about health.
 * - A `Network` failure of kind `tls` is not retried; one of kind `local` is, but no other target is asked.
 * - An error that is not ours (the patterns work on any Effect) counts as a transient failure.
 * - {@link AllProvidersFailed} allows a stale answer when at least one of its errors does.
 *
 * @category classification
 * @since 0.1.0
 */
export const classify = (error: unknown): Verdict => {
  if (!isOurs(error)) return transient
  switch (error._tag) {
    case "ProviderError":
      return verdictOf(error)
    case "AllProvidersFailed":
      return { ...byTag.AllProvidersFailed, stale: error.errors.some((e) => classify(e).stale) }
    case "Shed":
      return error.reason === "throttled" ? refused : byTag.Shed
    default:
      return byTag[error._tag]
  }
}

const TypeId = "~effect-resilient-llm/LlmError"

// By a mark and not by the class, so that the errors of a second copy of this package are known as well; and not by the
// tag, which anybody may give to an error.
const ours = [
  ProviderError,
  InvalidRequest,
  StreamInterrupted,
  AttemptTimeout,
  DeadlineExceeded,
  CircuitOpen,
  RateLimited,
  BulkheadFull,
  Shed,
  IdempotencyConflict,
  IdempotencyInProgress,
  AllProvidersFailed,
  AllProvidersUnavailable
]
for (const one of ours) {
  Object.defineProperty(one.prototype, TypeId, { value: TypeId })
}

// What `console.log` and a failure that nobody handles show: the sentence, and how much the ledger holds, not its facts.
for (const shown of [...ours, InvalidOutput, LlmConfigError]) {
  Object.defineProperty(shown.prototype, Symbol.for("nodejs.util.inspect.custom"), {
    value(this: Error & { readonly ledger?: Ledger }): string {
      const facts = this.ledger?.length ?? 0
      return facts === 0 ? this.stack ?? this.message : `${this.stack} (${facts} facts in its ledger)`
    }
  })
}

const isOurs = (error: unknown): error is LlmError =>
  typeof error === "object" && error !== null && (error as { readonly [TypeId]?: unknown })[TypeId] === TypeId

const isOf = <Tag extends LlmError["_tag"]>(...tags: ReadonlyArray<Tag>) => {
  const known: ReadonlySet<string> = new Set(tags)
  return (error: unknown): error is Extract<LlmError, { readonly _tag: Tag }> => isOurs(error) && known.has(error._tag)
}

/**
 * Is it one of ours? Errors of another copy of this package are; others with the same tag are not.
 *
 * @category guards
 * @since 0.2.0
 */
export const isLlmError = isOurs

/**
 * Is it a {@link ProviderError}, by the same mark as {@link isLlmError}?
 *
 * @category guards
 * @since 0.2.0
 */
export const isProviderError = isOf("ProviderError")

/** @internal */
export const isDeadlineExceeded = isOf("DeadlineExceeded")

/** @internal */
export const isShed = isOf("Shed")

const hasKind = isOf("AttemptTimeout", "StreamInterrupted")

/** @internal */
export const isStreamInterrupted = isOf("StreamInterrupted")

/**
 * Does this failure refuse the call locally, so that no provider was asked?
 *
 * @category classification
 * @since 0.1.0
 */
export const isLocalRefusal = isOf("CircuitOpen", "RateLimited", "BulkheadFull", "Shed")

/**
 * Does this failure say that the other side, or the way to it, has too much to do: a rate limit, an overload, a timeout,
 * a broken connection? What is not ours counts as such; what this process is short of (a `Network` failure of kind
 * `local`) does not.
 *
 * @category classification
 * @since 0.2.0
 */
export const isOverload = (error: unknown): boolean => {
  if (!isProviderError(error)) return classify(error) === transient
  const { reason } = error
  return reason._tag === "RateLimit" || reason._tag === "Overloaded" ||
    (reason._tag === "Network" && reason.kind !== "local")
}

/**
 * How long the failure asks to wait, in milliseconds.
 *
 * @category classification
 * @since 0.1.0
 */
export const retryAfterMillis = (error: unknown): number | undefined => {
  if (typeof error !== "object" || error === null) return undefined
  const { retryAfter } = error as { readonly retryAfter?: unknown }
  return Duration.isDuration(retryAfter) ? Duration.toMillis(retryAfter) : undefined
}

/**
 * What providers themselves said of a failure, clipped to 500 characters: for somebody who looks for its cause, such as
 * the field that a vendor did not like. It may echo the prompt, so it is in no message, log, span or ledger; show it to
 * nobody who may not read that.
 *
 * **Example** (What was wrong with the request?)
 *
 * ```ts import.meta.vitest
 * import { LlmError } from "effect-resilient-llm"
 *
 * const error = LlmError.ProviderError.fromHttp({
 *   provider: "openai",
 *   status: 400,
 *   body: `{ "error": { "message": "Unsupported parameter: 'temperature'" } }`
 * })
 * error.message // => "openai cannot read the request (HTTP 400). Its own words: `LlmError.details(error)`."
 * LlmError.details(error) // => [{ provider: "openai", text: "Unsupported parameter: 'temperature'" }]
 * ```
 *
 * @category guards
 * @since 0.2.0
 */
export const details = (error: unknown): ReadonlyArray<{ readonly provider: string; readonly text: string }> => {
  if (isOf("AllProvidersFailed")(error)) return error.errors.flatMap(details)
  return isProviderError(error) && error.detail !== undefined
    ? [{ provider: error.provider, text: Redacted.value(error.detail) }]
    : []
}

/**
 * Reduces an error to what may be published.
 *
 * @category classification
 * @since 0.1.0
 */
export const summary = (error: unknown): ErrorSummary => {
  const tag = typeof error === "object" && error !== null && "_tag" in error ? String(error._tag) : "UnknownError"
  const found: { -readonly [K in keyof ErrorSummary]: ErrorSummary[K] } = { tag }
  if (isProviderError(error)) {
    const { code, reason, requestId, status } = error
    found.reason = reason._tag
    if (status !== undefined) found.status = status
    // A provider of the user's own may have copied them from anywhere.
    if (code !== undefined && isIdentifier(code)) found.code = code
    if (requestIdFrom(requestId) !== undefined) found.requestId = requestId!
  } else if (hasKind(error)) found.reason = error.kind
  const retryAfter = retryAfterMillis(error)
  if (retryAfter !== undefined) found.retryAfter = retryAfter
  return found
}

// V8's; elsewhere it has no effect.
const stacks: ErrorConstructor & { stackTraceLimit?: number } = Error

/**
 * Builds an error that is expected in great numbers, such as the refusals of an open breaker, without a stack: it is
 * most of an error's cost.
 *
 * @internal
 */
export const withoutStack = <E>(make: () => E): E => {
  const limit = stacks.stackTraceLimit
  // Where built-ins are frozen it cannot be set, and nothing is saved.
  if (limit === undefined || !Reflect.set(stacks, "stackTraceLimit", 0)) return make()
  try {
    return make()
  } finally {
    stacks.stackTraceLimit = limit
  }
}

// A copy, because callers who share work share its failure and each has a ledger of its own. Its stack is the
// original's, as a text: V8 keeps the frames of an error, and with them whatever their functions can reach, until
// somebody reads its stack, and whoever keeps an error must not keep the call.
const copyWith = <E extends LlmError>(error: E, fields: object): E => {
  const Self = error.constructor as new(fields: object, options: { readonly disableChecks: true }) => E
  const copy = withoutStack(() => new Self(Object.assign({}, error, fields), { disableChecks: true }))
  if (error._tag === "AllProvidersFailed") { for (const inner of error.errors) void inner.stack }
  return Object.defineProperty(copy, "stack", { configurable: true, writable: true, value: error.stack })
}

/**
 * The same error with the ledger of the call it ended.
 *
 * @category combinators
 * @since 0.1.0
 */
export const withLedger = <E extends LlmError>(error: E, ledger: Ledger): E => copyWith(error, { ledger })

/**
 * Marks a failure as final because the retry budget was empty. Failures that are not a provider's stay as they are.
 *
 * @category combinators
 * @since 0.1.0
 */
export const withBudgetExhausted = <E>(error: E): E =>
  isProviderError(error) ? copyWith(error, { budgetExhausted: true }) : error

/**
 * The same broken stream, for somebody who received `partialParts` of it.
 *
 * @internal
 */
export const withParts = (error: StreamInterrupted, partialParts: number): StreamInterrupted =>
  copyWith(error, { partialParts })
