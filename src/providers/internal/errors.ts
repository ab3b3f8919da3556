// The one classifier of provider failures, as data: what was sent back → why it failed, and when to come again.
import * as Duration from "effect/Duration"
import type { HttpClientError } from "effect/http/HttpClientError"
import type * as Random from "effect/Random"
import * as Redacted from "effect/Redacted"
import { ProviderError, type Reason } from "../../LlmError.ts"
import {
  delayOfText,
  type Headers,
  parseDuration,
  rateLimitsOf,
  requestIdFrom,
  requestIdOf,
  resetOfExhausted,
  retryAfterOf,
  shouldRetryOf
} from "./headers.ts"
import { type Fields, fieldsOf, isFields, listOf, parse, textOf } from "./json.ts"

// -----------------------------------------------------------------------------
// problems of an answer that breaks its protocol
// -----------------------------------------------------------------------------

export const EMPTY_BODY = "the body is empty"
export const NOT_JSON = "the body is not JSON"
export const EVENT_NOT_JSON = "an event of the stream is not JSON"
export const WRONG_SHAPE = "the body does not have the shape of the protocol"
export const NO_CHOICE = "the body holds no answer"
export const NESTED = "the JSON is nested deeper than 1,000 levels"
export const ONLY_KEEP_ALIVES = "the stream holds nothing but signs of life"
export const TOO_LARGE = "the body, or one event of it, is larger than allowed"
export const UNEXPECTED_STATUS = "the HTTP status is neither a success nor an error"

// -----------------------------------------------------------------------------
// tables
// -----------------------------------------------------------------------------

export type Tag = Exclude<Reason["_tag"], "Network" | "MalformedResponse">

const byWord = (words: { readonly [K in Tag]?: string }): ReadonlyMap<string, Tag> =>
  new Map(
    Object.entries(words).flatMap(([tag, list]) => list.split(/\s+/).map((word): [string, Tag] => [word, tag as Tag]))
  )

// Codes and types that say by themselves what happened, in lower case. They beat the status.
const decisive = byWord({
  Quota: "insufficient_quota credit_balance_exhausted organization_usage_limit_exceeded"
    + " organization_spend_limit_exceeded project_spend_limit_exceeded billing_hard_limit_reached"
    + " enforced_spend_limit_reached billing_error billing_not_active insufficient_credits insufficient_balance"
    + " exceeded_current_quota_error",
  RateLimit: "rate_limit_exceeded rate_limit_error rate_limit_reached_error rate_limited ratelimitreached slow_down"
    + " too_many_requests toomanyrequests resource_exhausted 1300",
  Overloaded: "overloaded_error server_is_overloaded engine_overloaded engine_overloaded_error model_overloaded"
    + " service_unavailable_error service_unavailable unavailable",
  Timeout: "timeout_error deadline_exceeded vector_store_timeout",
  Conflict: "conflict_error",
  Authentication: "authentication_error invalid_api_key invalid_authentication_error incorrect_api_key_error"
    + " api_key_invalid unauthenticated account_deactivated",
  Permission: "permission_error permission_denied permission_denied_error unsupported_country_region_territory"
    + " service_disabled failed_precondition data_residency_mismatch",
  NotFound: "not_found_error not_found model_not_found unknown_model invalid_model model_decommissioned"
    + " deploymentnotfound resource_not_found_error notfounderror",
  ContextLength: "context_length_exceeded too_many_tokens too_many_prompt_tokens context_window_exceeded"
    + " exceed_context_size_error prompt_too_long",
  PayloadTooLarge: "request_too_large",
  ContentPolicy: "content_filter content_policy_violation responsibleaipolicyviolation invalid_prompt"
    + " data_inspection_failed image_content_policy_violation bio_policy",
  // The rest are codes of OpenAI's responses, which come without a status.
  InvalidRequest: "tool_use_failed invalid_image invalid_image_format invalid_base64_image invalid_image_url"
    + " invalid_image_mode image_too_large image_too_small image_parse_error image_file_too_large"
    + " unsupported_image_media_type empty_image_file failed_to_download_image image_file_not_found"
})

// Words that providers put on failures of many kinds; they count only where no status says more.
const vague = byWord({
  InvalidRequest: "invalid_request_error invalid_request badrequesterror bad_request invalid_argument invalid-argument",
  Server: "api_error server_error internal_server_error internal_error internal internalservererror"
})

const byStatus: Readonly<Record<number, Tag>> = {
  400: "InvalidRequest",
  401: "Authentication",
  402: "Quota",
  403: "Permission",
  404: "NotFound",
  408: "Timeout",
  409: "Conflict",
  413: "PayloadTooLarge",
  422: "InvalidRequest",
  429: "RateLimit",
  498: "Overloaded",
  499: "ClientClosed",
  503: "Overloaded",
  504: "Timeout",
  524: "Timeout",
  529: "Overloaded"
}

interface TextRule {
  /** The class so far, which the text may refine. */
  readonly from: ReadonlySet<Tag>
  readonly pattern: RegExp
  readonly to: Tag
}

const refine = (from: ReadonlyArray<Tag>, pattern: RegExp, to: Tag): TextRule => ({ from: new Set(from), pattern, to })

const sentences = (...alternatives: ReadonlyArray<string>): RegExp => new RegExp(alternatives.join("|"), "i")

// The last resort: some failures hide behind a general status and a vague code. First match wins. Patterns are the
// providers' own sentences; single words such as "billing" or "quota" also occur in plain rate limits.
const texts: ReadonlyArray<TextRule> = [
  refine(
    ["RateLimit", "InvalidRequest", "PayloadTooLarge"],
    sentences("request too large\\b.*\\bper (?:min|minute|day)\\b"),
    "PayloadTooLarge"
  ),
  refine(
    ["InvalidRequest", "PayloadTooLarge", "Permission"],
    sentences(
      "(?:prompt|input|request) is too long",
      "too many tokens",
      "maximum (?:context|prompt) length",
      "context[ _](?:window|length|size)",
      "input token count",
      "tokens?\\b.{0,40}\\bmust be <=",
      "reduce the length of (?:the )?(?:messages|prompt|input)"
    ),
    "ContextLength"
  ),
  refine(
    ["InvalidRequest", "RateLimit", "Permission"],
    sentences(
      "credit balance is too low",
      "insufficient (?:balance|credits?|funds)",
      "(?:calls|requests|tokens) ?(?:/|per) ?month",
      "reached (?:your|its) (?:specified api|monthly) ",
      "(?:monthly|spending|spend) (?:limit|cap)\\b",
      "out of credits",
      "have(?:n't| not|) any credits",
      "used all available credits",
      "requires more credits"
    ),
    "Quota"
  ),
  refine(["RateLimit", "InvalidRequest", "Server"], sentences("capacity exceeded", "overloaded"), "Overloaded"),
  refine(
    ["InvalidRequest"],
    sentences(
      "(?:incorrect|invalid|missing) api[ _-]?key",
      "api[ _-]?key (?:not|is not|is in)\\s?valid",
      "api key not found"
    ),
    "Authentication"
  ),
  refine(
    ["InvalidRequest", "Permission"],
    sentences("requires moderation", "content management policy", "violates? (?:our|the) (?:content|usage) polic"),
    "ContentPolicy"
  ),
  refine(
    ["InvalidRequest"],
    sentences(
      "\\bmodel\\b.{0,80}\\b(?:does not exist|not found|was removed)",
      "is not a valid model\\b",
      "\\bmodel\\b.{0,80}\\bhas been (?:removed|deprecated|decommissioned)"
    ),
    "NotFound"
  ),
  refine(
    ["InvalidRequest"],
    sentences("not (?:supported|available) in your (?:country|region)", "location is not supported"),
    "Permission"
  )
]

/** Statuses that mean something else at one vendor. */
export type Statuses = Readonly<Record<number, Tag>>

const statusReason = (status: number, statuses: Statuses | undefined): Tag | undefined =>
  statuses?.[status] ?? byStatus[status] ??
    (status >= 500 && status <= 599 ? "Server" : status >= 400 && status <= 499 ? "InvalidRequest" : undefined)

const refined = (tag: Tag, message: string): Tag => {
  for (const rule of texts) if (rule.from.has(tag) && rule.pattern.test(message)) return rule.to
  return tag
}

const firstOf = (table: ReadonlyMap<string, Tag>, words: ReadonlyArray<string>): Tag | undefined => {
  for (const word of words) {
    const found = table.get(word.toLowerCase())
    if (found !== undefined) return found
  }
  return undefined
}

/**
 * `code`/`type`, then status, then text. A request too large for a limit is no rate limit, whatever its code says: it
 * will be as large the next time.
 */
const reasonOf = (told: Told, status: number | undefined, statuses: Statuses | undefined): Tag | undefined => {
  const code = firstOf(decisive, told.words)
  if (told.perDay && code === "RateLimit") return "Quota"
  if (code === "RateLimit" || code === "PayloadTooLarge") {
    return refined(status === 413 ? "PayloadTooLarge" : code, told.message)
  }
  if (code !== undefined) return code
  const known = status ?? told.status
  const byNumber = known === undefined ? undefined : statusReason(known, statuses)
  if (byNumber !== undefined) return refined(byNumber, told.message)
  const weak = firstOf(vague, told.words)
  return weak === undefined ? undefined : refined(weak, told.message)
}

// -----------------------------------------------------------------------------
// error bodies
// -----------------------------------------------------------------------------

interface Told {
  /** Codes and types, the most specific first. */
  readonly words: ReadonlyArray<string>
  /** A status inside the body. */
  readonly status: number | undefined
  readonly message: string
  readonly requestId: string | undefined
  /** Google's `RetryInfo`. */
  readonly retryDelay: number | undefined
  /** Google's daily quota. */
  readonly perDay: boolean
}

const maxMessage = 4096 // what patterns look at
const maxDetail = 500
const published = /^[\w.:-]{1,64}$/
const asStatus = (u: unknown): number | undefined => {
  const number = typeof u === "number" ? u : typeof u === "string" && /^\d{3}$/.test(u) ? Number(u) : NaN
  return number >= 400 && number <= 599 ? number : undefined
}

const messageOf = (body: Fields, error: Fields): string => {
  const found = textOf(error["message"]) ?? textOf(body["error"]) ?? textOf(body["message"]) ?? textOf(body["detail"])
  if (found !== undefined) return found
  return listOf(body["detail"]).map((issue) => textOf(fieldsOf(issue)["msg"]) ?? "").join("; ")
}

/**
 * Reads an error in any of the shapes seen: `{error: {…}}`, `{error: "…"}`, flat, FastAPI's `{detail}`, Google's list of
 * one. Anything else is a text.
 */
const tell = (input: unknown): Told => {
  const body = Array.isArray(input) ? fieldsOf(input[0]) : fieldsOf(input)
  const error = isFields(body["error"]) ? body["error"] : body
  const details = listOf(error["details"]).map(fieldsOf)
  const metadata = fieldsOf(error["metadata"])
  const candidates = [
    fieldsOf(error["details"])["error_code"],
    fieldsOf(error["innererror"])["code"],
    ...details.map((detail) => detail["reason"]),
    error["code"],
    metadata["error_type"],
    error["status"],
    error["type"],
    error["error_type"],
    error === body ? undefined : body["code"]
  ]
  const words = candidates.flatMap((word) =>
    typeof word === "string" && word !== "" && word !== "error" && asStatus(word) === undefined ? [word] : []
  )
  const delay = details.map((detail) => textOf(detail["retryDelay"])).find((text) => text !== undefined)
  const quotas = details.flatMap((detail) =>
    listOf(detail["violations"]).map((v) => textOf(fieldsOf(v)["quotaId"]) ?? "")
  )
  const raw = textOf(metadata["raw"])
  const message = typeof input === "string" ? input : messageOf(body, error)
  return {
    words,
    status: asStatus(error["status_code"]) ?? asStatus(error["code"]) ?? asStatus(body["code"]) ??
      asStatus(error["raw_status_code"]) ?? asStatus(error["status"]),
    message: (raw === undefined ? message : `${message} ${raw}`).slice(0, maxMessage),
    requestId: requestIdFrom(body["request_id"]) ?? (error === body ? requestIdFrom(body["id"]) : undefined),
    retryDelay: delay === undefined ? undefined : parseDuration(delay),
    perDay: quotas.some((id) => id.includes("PerDay"))
  }
}

// -----------------------------------------------------------------------------
// errors
// -----------------------------------------------------------------------------

/** What is known about one HTTP exchange once its headers are here. */
export interface Exchange {
  readonly provider: string
  readonly statuses: Statuses | undefined
  readonly status: number
  readonly headers: Headers
  /** Wall clock in milliseconds. */
  readonly now: number
  /** Where the names of calls come from that the server gave none. */
  readonly random?: Pick<Random.Random, "nextDoubleUnsafe"> | undefined
}

interface Details {
  readonly status?: number | undefined
  readonly code?: string | undefined
  readonly requestId?: string | undefined
  readonly retryAfter?: number | undefined
  readonly shouldRetry?: boolean | undefined
  readonly rateLimits?: ProviderError["rateLimits"]
  readonly detail?: string | undefined
}

export const providerError = (provider: string, reason: Reason, details: Details = {}): ProviderError =>
  new ProviderError({
    provider,
    reason,
    ...(details.status === undefined ? undefined : { status: details.status }),
    ...(details.code === undefined || !published.test(details.code) ? undefined : { code: details.code }),
    ...(details.requestId === undefined ? undefined : { requestId: details.requestId }),
    ...(details.retryAfter === undefined ? undefined : { retryAfter: Duration.millis(details.retryAfter) }),
    ...(details.shouldRetry === undefined ? undefined : { shouldRetry: details.shouldRetry }),
    ...(details.rateLimits === undefined || details.rateLimits.length === 0
      ? undefined
      : { rateLimits: details.rateLimits }),
    ...(details.detail === undefined || details.detail === ""
      ? undefined
      : { detail: Redacted.make(details.detail.slice(0, maxDetail)) })
  })

/** An answer with a success status that breaks its protocol. */
export const malformed = (exchange: Exchange, problem: string): ProviderError =>
  providerError(exchange.provider, { _tag: "MalformedResponse", problem }, { requestId: requestIdOf(exchange.headers) })

// Delays in a text or a reset mean something only where waiting helps.
const waits: ReadonlySet<string> = new Set<Tag>(["RateLimit", "Quota", "Overloaded"])

/** A response whose status is not a success. */
export const ofResponse = (exchange: Exchange, body: string): ProviderError => {
  const { headers, now, provider, status, statuses } = exchange
  const json = parse(body)
  const told = tell(json === undefined ? body : json)
  const tag = reasonOf(told, status, statuses)
  const rateLimits = rateLimitsOf(headers, now)
  return providerError(
    provider,
    tag === undefined ? { _tag: "MalformedResponse", problem: UNEXPECTED_STATUS } : { _tag: tag },
    {
      status,
      code: told.words[0],
      requestId: requestIdOf(headers) ?? told.requestId,
      retryAfter: retryAfterOf(headers, now) ?? told.retryDelay ?? (tag !== undefined && waits.has(tag)
        ? resetOfExhausted(rateLimits) ?? delayOfText(told.message)
        : undefined),
      shouldRetry: shouldRetryOf(headers),
      rateLimits,
      detail: told.message
    }
  )
}

/** An error that came inside an answer with a success status: its headers say nothing about it. */
export const ofEvent = (exchange: Exchange, body: unknown, fallback: Tag = "Server"): ProviderError => {
  const told = tell(body)
  const tag = reasonOf(told, undefined, exchange.statuses) ?? refined(fallback, told.message)
  return providerError(exchange.provider, { _tag: tag }, {
    code: told.words[0],
    requestId: requestIdOf(exchange.headers) ?? told.requestId,
    retryAfter: told.retryDelay ?? (waits.has(tag) ? delayOfText(told.message) : undefined),
    detail: told.message
  })
}

/** A request that this vendor cannot express, found before anything was sent. */
export const unsupported = (provider: string, code: string): ProviderError =>
  providerError(provider, { _tag: "InvalidRequest" }, { code })

// -----------------------------------------------------------------------------
// transport
// -----------------------------------------------------------------------------

// The request provably never left: no address, no route, or nobody accepted the connection.
const neverSent = new Set([
  "ECONNREFUSED",
  "ENOTFOUND",
  "EAI_AGAIN",
  "EHOSTUNREACH",
  "ENETUNREACH",
  "UND_ERR_CONNECT_TIMEOUT"
])

const causeCodes = (error: unknown, depth = 0): ReadonlyArray<string> => {
  if (typeof error !== "object" || error === null || depth > 5) return []
  const { cause, code, errors } = error as {
    readonly cause?: unknown
    readonly code?: unknown
    readonly errors?: unknown
  }
  return [
    ...(typeof code === "string" ? [code] : []),
    ...causeCodes(cause, depth + 1),
    ...listOf(errors).flatMap((inner) => causeCodes(inner, depth + 1))
  ]
}

/** A failure before the response's headers. */
export const ofTransport = (provider: string, error: HttpClientError): ProviderError => {
  const { reason } = error
  if (reason._tag === "EncodeError" || reason._tag === "InvalidUrlError") return unsupported(provider, reason._tag)
  const codes = causeCodes(reason)
  const sent = codes.length === 0 || !codes.every((code) => neverSent.has(code))
  return providerError(provider, { _tag: "Network", sent }, { code: codes[0] })
}

/** The connection broke inside the body. */
export const ofBody = (exchange: Exchange, error: HttpClientError): ProviderError =>
  error.reason._tag === "EmptyBodyError"
    ? malformed(exchange, EMPTY_BODY)
    : providerError(exchange.provider, { _tag: "Network", sent: true }, {
      code: causeCodes(error.reason)[0],
      requestId: requestIdOf(exchange.headers)
    })
