// The one classifier of failures: what a server sent → why it failed, and when to come again. What it knows about
// vendors is data: codes and types, statuses, sentences. Pure, and independent of the transport.
import type { RateLimitFact, Reason } from "../../LlmError.ts"
import {
  delayOfText,
  type Headers,
  isIdentifier,
  longestRetryAfter,
  parseDuration,
  rateLimitsOf,
  requestIdFrom,
  requestIdOf,
  resetOfExhausted,
  retryAfterOf,
  shouldRetryOf
} from "./headers.ts"
import { type Fields, fieldsOf, isFields, listOf, parse, textOf } from "./json.ts"
import { hidesNothing, masked } from "./secrets.ts"

/** The `problem` of a response whose status is neither a success nor an error. */
export const UNEXPECTED_STATUS = "the HTTP status is neither a success nor an error"

/** A reason that needs no further field. */
export type Tag = Exclude<Reason["_tag"], "Network" | "MalformedResponse">

/** What becomes a `ProviderError`. Times are milliseconds. */
export interface Facts {
  readonly reason: Reason
  readonly status?: number | undefined
  readonly code?: string | undefined
  readonly requestId?: string | undefined
  readonly retryAfter?: number | undefined
  readonly shouldRetry?: boolean | undefined
  readonly rateLimits?: ReadonlyArray<RateLimitFact> | undefined
  readonly detail?: string | undefined
  readonly host?: string | undefined
}

/** What is known of a response that failed. */
export interface Failed {
  readonly status: number
  /** By lower-case name. */
  readonly headers: Headers
  /** The text of the body, or what it means as JSON. */
  readonly body: unknown
  /** Wall clock in milliseconds. */
  readonly now: number
  readonly statuses?: Statuses | undefined
  /** What must not be published. */
  readonly secrets?: ReadonlyArray<string> | undefined
}

// -----------------------------------------------------------------------------
// codes and types
// -----------------------------------------------------------------------------

const byWord = (words: { readonly [K in Tag]?: string }): ReadonlyMap<string, Tag> =>
  new Map(
    Object.entries(words).flatMap(([tag, list]) => list.split(/\s+/).map((word): [string, Tag] => [word, tag as Tag]))
  )

// Codes and types that say by themselves what happened, in lower case. They beat the status. `base_resp:` are MiniMax's
// numbers.
const decisive = byWord({
  Quota: "insufficient_quota credit_balance_exhausted organization_usage_limit_exceeded"
    + " organization_spend_limit_exceeded project_spend_limit_exceeded billing_hard_limit_reached"
    + " enforced_spend_limit_reached billing_error billing_not_active insufficient_credits insufficient_balance"
    + " insufficient_balance_error not_enough_balance exceeded_current_quota_error payment_required key_limit_exceeded"
    + " usage_limit_reached usage_limit_exceeded freeusagelimiterror arrearage base_resp:1008 base_resp:2056"
    + " servicequotaexceededexception",
  RateLimit: "rate_limit_exceeded rate_limit_error rate_limit_reached_error rate_limited ratelimitreached slow_down"
    + " ratelimiterror too_many_requests toomanyrequests toomanyrequestserror resource_exhausted 1300"
    + " throttlingexception throttling throttling.ratequota throttling.allocationquota limitrequests"
    + " token_quota_exceeded request_quota_exceeded too_many_tokens_error base_resp:1002 base_resp:1039 base_resp:1041"
    + " base_resp:2045",
  Overloaded: "overloaded_error server_is_overloaded engine_overloaded engine_overloaded_error model_overloaded"
    + " service_unavailable_error service_unavailable serviceunavailableerror unavailable upstream_unavailable"
    + " serviceunavailableexception modelnotreadyexception",
  Timeout: "timeout_error request_timeout deadline_exceeded vector_store_timeout base_resp:1001 modeltimeoutexception",
  Conflict: "conflict_error",
  Authentication: "authentication_error authenticationerror invalid_api_key invalidapikey invalid_authentication_error"
    + " incorrect_api_key_error api_key_invalid unauthenticated account_deactivated base_resp:1004 base_resp:2049"
    + " unrecognizedclientexception invalidsignatureexception expiredtokenexception incompletesignatureexception"
    + " missingauthenticationtokenexception",
  Permission: "permission_error permission_denied permission_denied_error unsupported_country_region_territory"
    + " service_disabled failed_precondition data_residency_mismatch accessdeniedexception",
  NotFound: "not_found_error not_found model_not_found modelnotfound unknown_model invalid_model model_decommissioned"
    + " model_not_available model_not_supported deploymentnotfound resource_not_found_error notfounderror resourcenotfoundexception",
  ContextLength: "context_length_exceeded too_many_tokens too_many_prompt_tokens context_window_exceeded"
    + " contextwindowexceedederror exceed_context_size_error prompt_too_long",
  PayloadTooLarge: "request_too_large",
  ContentPolicy: "content_filter content_policy_violation contentpolicyviolationerror responsibleaipolicyviolation"
    + " invalid_prompt data_inspection_failed datainspectionfailed image_content_policy_violation bio_policy"
    + " base_resp:1026 base_resp:1027",
  ClientClosed: "client_closed_request",
  // The rest are codes of OpenAI's responses, which come without a status.
  InvalidRequest: "tool_use_failed invalid_image invalid_image_format invalid_base64_image invalid_image_url"
    + " invalid_image_mode image_too_large image_too_small image_parse_error image_file_too_large"
    + " unsupported_image_media_type empty_image_file failed_to_download_image image_file_not_found"
})

// Words that providers put on failures of many kinds; they count only where no status says more.
const vague = byWord({
  InvalidRequest: "invalid_request_error invalid_request badrequesterror bad_request invalid_argument invalid-argument"
    + " base_resp:1042 base_resp:2013 validationexception",
  Server: "api_error apierror server_error internal_server_error internal_error internal internalservererror"
    + " internalserverexception modelerrorexception modelstreamerrorexception upstream_error bad_gateway base_resp:1000 base_resp:1013 base_resp:1024 base_resp:1033"
})

const firstOf = (table: ReadonlyMap<string, Tag>, words: ReadonlyArray<string>): Tag | undefined => {
  for (const word of words) {
    const found = table.get(word.toLowerCase())
    if (found !== undefined) return found
  }
  return undefined
}

// -----------------------------------------------------------------------------
// statuses
// -----------------------------------------------------------------------------

/** Statuses that mean something else at one vendor. */
export type Statuses = ReadonlyMap<number, Tag>

const byStatus: Statuses = new Map([
  [400, "InvalidRequest"],
  [401, "Authentication"],
  [402, "Quota"],
  [403, "Permission"],
  [404, "NotFound"],
  [408, "Timeout"],
  [409, "Conflict"],
  [413, "PayloadTooLarge"],
  [422, "InvalidRequest"],
  [429, "RateLimit"],
  [498, "Overloaded"],
  [499, "ClientClosed"],
  [503, "Overloaded"],
  [504, "Timeout"],
  [524, "Timeout"],
  [529, "Overloaded"]
])

/** What a status says when nothing else is known; `undefined` for one that is no error. */
export const reasonOfStatus = (status: number, statuses?: Statuses): Tag | undefined =>
  statuses?.get(status) ?? byStatus.get(status) ??
    (status >= 500 && status <= 599 ? "Server" : status >= 400 && status <= 499 ? "Unknown" : undefined)

// A gateway puts another server's status into a body of its own status. These are clear enough to beat a status that
// blames the request or the gateway.
const clear: ReadonlySet<number> = new Set([401, 402, 404, 413, 429, 503, 504, 529])
const wraps = (status: number): boolean => status >= 500 || status === 400 || status === 403 || status === 422

// -----------------------------------------------------------------------------
// sentences
// -----------------------------------------------------------------------------

interface TextRule {
  /** The class so far, which the text may refine. */
  readonly from: ReadonlySet<Tag>
  readonly pattern: RegExp
  readonly to: Tag
}

const refine = (from: ReadonlyArray<Tag>, pattern: RegExp, to: Tag): TextRule => ({ from: new Set(from), pattern, to })

const sentences = (...alternatives: ReadonlyArray<string>): RegExp => new RegExp(alternatives.join("|"), "i")

// Where a sentence is cut off from what it is about by more than this, it is about something else.
const near = ".{0,60}"

// The last resort: some failures hide behind a general status and a vague code. First match wins. Patterns are the
// providers' own sentences; single words such as "billing" or "quota" also occur in plain rate limits.
const texts: ReadonlyArray<TextRule> = [
  refine(
    ["RateLimit", "InvalidRequest", "PayloadTooLarge"],
    sentences("request too large\\b.*\\bper (?:min|minute|day)\\b"),
    "PayloadTooLarge"
  ),
  // Before the sentences about length and quota: "too many tokens, please wait", "quota of requests per minute".
  refine(
    ["InvalidRequest", "Permission", "Unknown"],
    sentences(
      "too many (?:tokens|requests)\\b.{0,10}\\b(?:please )?(?:wait|slow down|try again)",
      "too many requests",
      "(?:tokens|requests|calls|quota|limit)\\b.{0,60}\\bper[ -]?(?:min|minute|second)\\b",
      "rate[ -]limit(?:ed)? (?:exceeded|reached)",
      "rate[ -]limited\\b",
      "\\bthrottl"
    ),
    "RateLimit"
  ),
  refine(
    ["InvalidRequest", "PayloadTooLarge", "Unknown", "Server"],
    sentences(
      "(?:prompt|input|request|conversation|messages?) (?:is |are )?too long",
      "too many (?:input |prompt )?tokens",
      "maximum (?:allowed )?(?:context|prompt|sequence) (?:length|size|window)",
      `(?:exceed\\w*|overflow\\w*|(?:longer|larger|greater) than|bigger than|beyond)\\b${near}\\b`
        + "(?:context[ _-]?(?:window|length|size|limit)|(?:prompt|input|sequence)[ _-]?(?:length|limit))",
      `\\b(?:context|prompt|input|sequence)[ _-]?(?:window|length|size|limit|tokens?)\\b.{0,40}\\bexceed`,
      "input token count",
      "token count\\b.{0,20}\\bexceeds",
      "exceed\\w* (?:the )?(?:model )?(?:model'?s )?token limit",
      "token limit exceeded",
      "\\d tokens > \\d+ maximum",
      "too large for model with \\d+ maximum",
      "(?:prompt|input|messages?) exceeds? max",
      "must have less than \\d+ tokens",
      "range of input length should be",
      "should not exceed max_num_tokens",
      "reduce the length of (?:the |your )?(?:messages|prompt|input)"
    ),
    "ContextLength"
  ),
  refine(
    ["InvalidRequest", "PayloadTooLarge", "Permission"],
    sentences("inputs?`? tokens?\\b.{0,40}\\bmust be <="),
    "ContextLength"
  ),
  refine(
    ["InvalidRequest", "RateLimit", "Permission", "Unknown", "Server"],
    sentences(
      "credit balance is too low",
      "insufficient (?:account )?(?:balance|credits?|funds)",
      "(?:calls|requests|tokens) ?(?:/|per) ?month",
      "reached (?:your|its) (?:specified api|monthly|weekly|subscription) ",
      "\\b(?:weekly|monthly|spending|spend|weekly/monthly) (?:usage )?(?:limit|cap)\\b",
      "\\busage limit\\b",
      "\\bkey limit exceeded\\b",
      "subscription quota",
      "out of credits",
      "have(?:n't| not|) any credits",
      "used all available credits",
      "credits? (?:are|is|have been|has been) (?:depleted|exhausted|used up)",
      "requires more credits"
    ),
    "Quota"
  ),
  // Not from a rate limit: Google says "exceeded your current quota" of a minute's.
  refine(
    ["InvalidRequest", "Permission", "Unknown"],
    sentences(
      "(?:insufficient|out of|no (?:more |remaining )?)\\s?quota",
      "quota\\b.{0,20}\\b(?:exceeded|exhausted|used up|depleted|reached)",
      "exceeded\\b.{0,30}\\bquota"
    ),
    "Quota"
  ),
  refine(
    ["RateLimit", "InvalidRequest", "Unknown", "Server"],
    sentences("capacity exceeded", "overloaded", "(?:at|no|insufficient|not enough) capacity", "out of capacity"),
    "Overloaded"
  ),
  refine(
    ["InvalidRequest", "Unknown"],
    sentences(
      "(?:incorrect|invalid|missing) api[ _-]?key",
      "api[ _-]?key (?:not|is not|is in)\\s?valid",
      "api key not found"
    ),
    "Authentication"
  ),
  refine(
    ["InvalidRequest", "Permission", "Unknown"],
    sentences(
      "requires moderation",
      "content management policy",
      "blocked by (?:our |the )?content filter",
      "violates? (?:our|the) (?:content|usage) polic"
    ),
    "ContentPolicy"
  ),
  refine(
    ["InvalidRequest", "Unknown"],
    sentences(
      "\\bmodel\\b.{0,80}\\b(?:does not exist|not found|was removed)",
      "is not a valid model\\b",
      "\\bmodel identifier is invalid",
      "\\bmodel\\b.{0,80}\\bhas been (?:removed|deprecated|decommissioned)"
    ),
    "NotFound"
  ),
  refine(
    ["InvalidRequest", "Unknown"],
    sentences("not (?:supported|available) in your (?:country|region)", "location is not supported"),
    "Permission"
  ),
  // The way to the provider, or its inside, under a status that blames the request or the key.
  refine(
    ["InvalidRequest", "Authentication", "Permission"],
    sentences(
      "internal (?:server )?error",
      "\\bbad gateway\\b",
      "upstream (?:connect |request |provider )?(?:error|failed|timed? ?out)",
      "(?:temporarily|currently) unavailable",
      "^\\s*error code: 1\\d{3}\\b", // a content delivery network's
      "your request was blocked"
    ),
    "Unknown"
  )
]

const refined = (tag: Tag, message: string): Tag => {
  for (const rule of texts) if (rule.from.has(tag) && rule.pattern.test(message)) return rule.to
  return tag
}

/** The class that a sentence alone tells. */
const inWords = (message: string): Tag | undefined => {
  const tag = refined("Unknown", message)
  return tag === "Unknown" ? undefined : tag
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
  /** An object that says something about an error; no page, no other text. */
  readonly isError: boolean
}

const maxMessage = 4096 // what patterns look at
const mostWrapped = 3

const asStatus = (u: unknown): number | undefined => {
  const number = typeof u === "number" ? u : typeof u === "string" && /^\d{3}$/.test(u) ? Number(u) : NaN
  return number >= 400 && number <= 599 ? number : undefined
}

/** MiniMax's own status, of which zero is a success. */
const baseStatusOf = (body: Fields): number | undefined => {
  const code = fieldsOf(body["base_resp"])["status_code"]
  return typeof code === "number" && code !== 0 ? code : undefined
}

const messageOf = (body: Fields, error: Fields): string => {
  const found = textOf(error["message"]) ?? textOf(error["msg"]) ?? textOf(body["error"]) ?? textOf(body["message"]) ??
    textOf(body["detail"]) ?? textOf(fieldsOf(body["detail"])["message"]) ?? textOf(body["msg"]) ??
    textOf(fieldsOf(body["base_resp"])["status_msg"]) ?? textOf(body["title"]) ?? textOf(body["Message"])
  if (found !== undefined) return found
  return listOf(body["detail"]).map((issue) => textOf(fieldsOf(issue)["msg"]) ?? "").join("; ")
}

/** The error between a text's first and last brace: gateways quote the bodies of other servers. */
const quoted = (text: string): unknown => {
  const from = text.indexOf("{")
  const inner = from === -1 ? undefined : parse(text.slice(from, text.lastIndexOf("}") + 1))
  return tellsFailure(inner) ? inner : undefined
}

const data = /^(?:data|error):[ \t]?(.*)$/

/** The meaning of an error body: JSON, also as the data of an event, or the text itself. */
const read = (body: unknown): unknown => {
  if (typeof body !== "string") return body
  const json = parse(body)
  if (json !== undefined) return json
  const lines = body.split(/\r\n|\r|\n/, 32).flatMap((line) => data.exec(line)?.[1] ?? [])
  return parse(lines.join("\n")) ?? body
}

/** Names of the classes in which Python gateways speak: `litellm.RateLimitError: …`. */
const exception = /^\s*(?:[\w.]*\.)?(\w+(?:Error|Exception))\b/
const statusInText = /^\s*(?:[\w.]*(?:Error|Exception): )?error code: (\d{3})\b/i

/**
 * Reads an error in any of the shapes seen: `{error: {…}}`, `{error: "…"}`, flat, `{errors: [{…}]}`, FastAPI's
 * `{detail}`, `{code, msg}`, MiniMax's `base_resp`, problem+json, Google's list of one; and in each of them another
 * one as the text of the message. Anything else is a text.
 */
const tell = (input: unknown, depth = 0): Told => {
  const body = Array.isArray(input) ? fieldsOf(input[0]) : fieldsOf(input)
  const [listed] = listOf(body["errors"])
  const error = isFields(body["error"]) ? body["error"] : isFields(listed) ? listed : body
  const details = listOf(error["details"]).map(fieldsOf)
  const metadata = fieldsOf(error["metadata"])
  const base = baseStatusOf(body)
  const message = typeof input === "string" ? input : messageOf(body, error)
  const raw = textOf(metadata["raw"])
  const inner = depth < mostWrapped ? quoted(message) ?? quoted(raw ?? "") : undefined
  const wrapped = inner === undefined ? undefined : tell(inner, depth + 1)
  const candidates = [
    ...wrapped?.words ?? [],
    fieldsOf(error["details"])["error_code"],
    fieldsOf(error["innererror"])["code"],
    ...details.map((detail) => detail["reason"]),
    base === undefined ? undefined : `base_resp:${base}`,
    error["code"],
    metadata["error_type"],
    error["status"],
    error["type"],
    error["error_type"],
    error["reason"],
    error === body ? body["error"] : body["code"],
    fieldsOf(body["detail"])["code"],
    exception.exec(message.slice(0, 128))?.[1]
  ]
  const words = candidates.flatMap((word) =>
    typeof word === "string" && word !== "" && word !== "error" && asStatus(word) === undefined ? [word] : []
  )
  const delay = details.map((detail) => textOf(detail["retryDelay"])).find((text) => text !== undefined)
  const quotas = details.flatMap((detail) =>
    listOf(detail["violations"]).map((v) => textOf(fieldsOf(v)["quotaId"]) ?? "")
  )
  return {
    words,
    status: wrapped?.status ?? asStatus(error["status_code"]) ?? asStatus(error["statusCode"]) ??
      asStatus(error["code"]) ?? asStatus(body["code"]) ?? asStatus(error["raw_status_code"]) ??
      asStatus(error["status"]) ?? asStatus(statusInText.exec(message.slice(0, 128))?.[1]),
    message: [message, raw, wrapped?.message].filter((text) => text !== undefined).join(" ").slice(0, maxMessage),
    requestId: requestIdFrom(body["request_id"]) ?? (error === body ? requestIdFrom(body["id"]) : undefined) ??
      wrapped?.requestId,
    retryDelay: wrapped?.retryDelay ?? (delay === undefined ? undefined : parseDuration(delay)),
    perDay: quotas.some((id) => id.includes("PerDay")) || wrapped?.perDay === true,
    isError: typeof input !== "string" && (message !== "" || words.length > 0)
  }
}

// Fields that only an answer, or an event of one, has.
const answers = ["choices", "output", "candidates", "content", "response", "delta", "item", "event", "usage", "model"]

/** Some servers tell an error of which all fields are empty beside each answer. */
const saysSomething = (error: unknown): boolean =>
  typeof error === "object" && error !== null ? Object.values(error).some(saysSomething) : Boolean(error)

/**
 * Does a body that came under a success status tell of a failure? Fields that answers have too (`message`, `code`)
 * count only where nothing of an answer is there.
 */
export const tellsFailure = (body: unknown): boolean => {
  if (Array.isArray(body)) return body.length === 1 && isFields(body[0]) && isFields(body[0]["error"])
  if (!isFields(body)) return false
  const { detail, error, errors, message, msg, object, success, type } = body
  const code = body["code"] ?? body["status"] ?? undefined
  if (saysSomething(error)) return true
  if (object === "error" || type === "error") return true
  if (body["base_resp"] !== undefined && baseStatusOf(body) !== undefined) return true
  // Nearly every event is none of these: it must not be searched for what answers have.
  const said = typeof message === "string" || msg !== undefined || detail !== undefined
  if (!said && success !== false && errors === undefined && code === undefined) return false
  if (answers.some((field) => body[field] !== undefined && body[field] !== null)) return false
  if (isFields(message)) return false
  if (success === false || isFields(listOf(errors)[0])) return true
  return textOf(detail) !== undefined || isFields(listOf(detail)[0]) ||
    ((textOf(msg) ?? textOf(message)) !== undefined && (type === undefined || code !== undefined)) ||
    (typeof type !== "string" || type === "about:blank" || type.includes("/")) && asStatus(code) !== undefined
}

// -----------------------------------------------------------------------------
// reasons
// -----------------------------------------------------------------------------

const isPage = (headers: Headers, body: unknown): boolean =>
  typeof body === "string" && (/^\s*</.test(body) || /^text\/html\b/i.test(headers["content-type"] ?? ""))

// Reasons that blame the request or the key, and that a server's own status and words must confirm.
const blames: ReadonlySet<Tag> = new Set<Tag>(["InvalidRequest", "Authentication", "Permission"])

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
  const inner = told.status
  const beaten = status === undefined || (inner !== undefined && wraps(status) && clear.has(inner))
  const known = beaten ? inner : status
  const byNumber = known === undefined ? undefined : reasonOfStatus(known, statuses)
  const weak = firstOf(vague, told.words)
  if (byNumber === undefined) return weak === undefined ? undefined : refined(weak, told.message)
  const tag = refined(byNumber, told.message)
  // An inner status of the server, or its word, under a status that blames the request or the key.
  const serverSays = weak === "Server" || (inner !== undefined && inner >= 500)
  return blames.has(tag) && serverSays ? "Unknown" : tag
}

/** What a response says whose status is no success. */
const reasonOfResponse = (told: Told, body: unknown, { headers, status, statuses }: Failed): Tag | undefined => {
  const page = isPage(headers, body)
  const tag = page ? reasonOfStatus(status, statuses) : reasonOf(told, status, statuses)
  if (tag === undefined) return undefined
  // The way to the provider answered, not the provider.
  if (headers["cf-mitigated"] !== undefined || (page && blames.has(tag))) return "Unknown"
  // Only a vendor that says so can know that a request is wrong, and will be wrong again.
  return tag === "InvalidRequest" && !told.isError ? "Unknown" : tag
}

// -----------------------------------------------------------------------------
// facts
// -----------------------------------------------------------------------------

// Delays in a text or a reset mean something only where waiting helps.
const waits: ReadonlySet<string> = new Set<Tag>(["RateLimit", "Quota", "Overloaded"])

const bounded = (delay: number | undefined): number | undefined =>
  delay === undefined ? undefined : Math.min(delay, longestRetryAfter)

/** A text fit to be published, unless it holds a secret. */
export const published = (text: string | undefined, { secrets }: Pick<Failed, "secrets">): string | undefined =>
  text !== undefined && hidesNothing(text, secrets) ? text : undefined

/** The limits that headers tell, by names that hold no secret. */
export const limitsOf = ({ headers, now, secrets }: Omit<Failed, "body" | "status">): ReadonlyArray<RateLimitFact> => {
  const limits = rateLimitsOf(headers, now)
  return limits.every(({ dimension }) => hidesNothing(dimension, secrets))
    ? limits
    : limits.filter(({ dimension }) => hidesNothing(dimension, secrets))
}

const codeOf = (told: Told, failed: Pick<Failed, "secrets">): string | undefined =>
  published(told.words.find(isIdentifier), failed)

/** AWS tells the type of an error in a header, such as `ThrottlingException:http://…`. */
const withType = (told: Told, headers: Headers): Told => {
  const type = /^[\w.#]*?(\w+)(?::|$)/.exec(headers["x-amzn-errortype"] ?? "")?.[1]
  return type === undefined ? told : { ...told, words: [...told.words, type] }
}

/** A response whose status is no success. */
export const ofResponse = (failed: Failed): Facts => {
  const { headers, now, status } = failed
  const body = read(failed.body)
  const told = withType(tell(body), headers)
  const tag = reasonOfResponse(told, body, failed)
  const rateLimits = limitsOf(failed)
  return {
    reason: tag === undefined ? { _tag: "MalformedResponse", problem: UNEXPECTED_STATUS } : { _tag: tag },
    status,
    code: codeOf(told, failed),
    requestId: published(requestIdOf(headers), failed) ?? published(told.requestId, failed),
    retryAfter: bounded(
      retryAfterOf(headers, now) ?? told.retryDelay ?? (tag !== undefined && waits.has(tag)
        ? resetOfExhausted(rateLimits) ?? delayOfText(told.message)
        : undefined)
    ),
    shouldRetry: shouldRetryOf(headers),
    rateLimits,
    detail: masked(told.message, failed.secrets)
  }
}

/** An error that came inside an answer with a success status: its headers say nothing about it. */
export const ofEvent = (
  failed: Omit<Failed, "now">,
  fallback: Tag = "Server"
): Facts => {
  const told = tell(read(failed.body))
  const tag = reasonOf(told, undefined, failed.statuses) ?? inWords(told.message) ?? refined(fallback, told.message)
  return {
    reason: { _tag: tag },
    code: codeOf(told, failed),
    requestId: published(requestIdOf(failed.headers), failed) ?? published(told.requestId, failed),
    retryAfter: bounded(told.retryDelay ?? (waits.has(tag) ? delayOfText(told.message) : undefined)),
    detail: masked(told.message, failed.secrets)
  }
}

/** Any response that failed, by its status. */
export const ofHttp = (failed: Failed): Facts =>
  failed.status >= 200 && failed.status <= 299 ? ofEvent(failed) : ofResponse(failed)
