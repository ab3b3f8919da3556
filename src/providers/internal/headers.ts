// What response headers and error texts say about limits, delays and identity.
import type { RateLimitFact } from "../../LlmError.ts"

export type Headers = Readonly<Record<string, string | undefined>>

/** The longest delay an error tells. What asks for more means something else. */
export const longestRetryAfter = 31 * 86_400_000

const unitMillis: ReadonlyMap<string, number> = new Map([
  ["ns", 1e-6],
  ["us", 1e-3],
  ["µs", 1e-3],
  ["ms", 1],
  ["millisecond", 1],
  ["s", 1000],
  ["sec", 1000],
  ["second", 1000],
  ["m", 60_000],
  ["min", 60_000],
  ["minute", 60_000],
  ["h", 3_600_000],
  ["hr", 3_600_000],
  ["hour", 3_600_000],
  ["d", 86_400_000],
  ["day", 86_400_000]
])
const unit = "milliseconds?|seconds?|minutes?|hours?|days?|secs?|mins?|hrs?|ms|[µun]s|[smhd]"
const between = String.raw`(?:\s*(?:,\s*)?(?:and\s+)?(?=\d)|\s*)`
const amount = String.raw`\d+(?:\.\d+)?\s*(?:${unit})(?![a-z])${between}`
const nextAmount = new RegExp(String.raw`(\d+(?:\.\d+)?)\s*(${unit})(?![a-z])${between}`, "iy")
const delayInText = new RegExp(String.raw`\b(?:again|retry)\b[^.\d]{0,20}\b(?:in|after)\s+((?:${amount})+)`, "i")

// Waits are rounded up to whole milliseconds; the subtraction forgives the last bit of a decimal fraction.
const ceil = (millis: number): number => Math.ceil(millis - 1e-6)

/** `6m0s`, `17.4s`, `20 seconds`, `1 minute and 30 seconds` in milliseconds. A bare number is no duration. */
export const parseDuration = (text: string): number | undefined => {
  let millis = 0
  nextAmount.lastIndex = 0
  do {
    const found = nextAmount.exec(text)
    if (found === null) return undefined
    const name = found[2]!.toLowerCase()
    millis += Number(found[1]) * (unitMillis.get(name) ?? unitMillis.get(name.slice(0, -1)) ?? 0)
  } while (nextAmount.lastIndex < text.length)
  return ceil(millis)
}

/** The delay a message asks for: `try again in 9m38.016s`, `retry after 86400 seconds`. */
export const delayOfText = (text: string): number | undefined => {
  const found = delayInText.exec(text)?.[1]
  return found === undefined ? undefined : parseDuration(found)
}

const decimal = /^\d+(?:\.\d+)?$/
const whole = /^\d+$/
const httpDate = /^(?:mon|tue|wed|thu|fri|sat|sun)[a-z]*,? .*\d/i
const weekday = /^(?:mon|tue|wed|thu|fri|sat|sun)[a-z]*$/i
const zone = /(?:gmt|utc?|[+-]\d{4}|z)\s*$/i
const timestamp = /^\d{4}-\d\d-\d\dT\d\d:\d\d/
const spelledOut = /(?:second|minute|hour|day)s?$/i

/** A date of HTTP, also in the form of C's `asctime`, which names no zone and means GMT. */
const dateOf = (text: string): number => httpDate.test(text) ? Date.parse(zone.test(text) ? text : `${text} GMT`) : NaN

/**
 * The server's wall clock when it answered, else ours: moments in headers are the server's, so its own `date` cancels
 * any difference between the clocks.
 */
const serverNow = (headers: Headers, now: number): number => {
  const parsed = dateOf(headers["date"] ?? "")
  return Number.isNaN(parsed) ? now : parsed
}

const until = (moment: number, headers: Headers, now: number): number | undefined =>
  Number.isNaN(moment) ? undefined : Math.max(0, ceil(moment - serverNow(headers, now)))

/** A number so large that it can only be a moment, in seconds or milliseconds since 1970. */
const epochOf = (number: number): number | undefined =>
  number >= 1e12 ? number : number >= 1e9 ? number * 1000 : undefined

/**
 * A reset in any of the formats seen. A bare small number is in seconds only where the header is known to mean that:
 * Azure sends bare numbers of an unknown unit under the per-dimension names.
 */
const resetOf = (value: string, bareSeconds: boolean, headers: Headers, now: number): number | undefined => {
  if (decimal.test(value)) {
    const number = Number(value)
    const moment = epochOf(number)
    if (moment !== undefined) return until(moment, headers, now)
    return bareSeconds ? ceil(number * 1000) : undefined
  }
  return timestamp.test(value) ? until(Date.parse(value), headers, now) : parseDuration(value)
}

// -----------------------------------------------------------------------------
// limits
// -----------------------------------------------------------------------------

type Fact = { -readonly [K in keyof RateLimitFact]: RateLimitFact[K] }

const fields: ReadonlySet<string> = new Set(["limit", "remaining", "reset"])
const maxFacts = 16

/** `x-ratelimit-remaining-tokens`, `anthropic-ratelimit-tokens-remaining`, `ratelimit-reset` → dimension and field. */
const limitOf = (name: string): readonly [dimension: string, field: string] | undefined => {
  const at = name.indexOf("ratelimit-")
  if (at === -1) return undefined
  const rest = name.slice(at + 10)
  if (name.startsWith("anthropic-")) {
    const dash = rest.lastIndexOf("-")
    return dash === -1 ? undefined : [rest.slice(0, dash), rest.slice(dash + 1)]
  }
  const dash = rest.indexOf("-")
  return dash === -1 ? ["", rest] : [rest.slice(dash + 1), rest.slice(0, dash)]
}

// The structured fields of the IETF's draft, and of its older form.
const policy = /^\s*"?([\w.-]{1,64})"?\s*((?:;[^;]*)*)$/
const parameter = /;\s*([a-z]+)\s*=\s*"?(\d+)"?\s*(?=;|$)/g
const oldField = /^\s*(limit|remaining|reset)\s*=\s*(\d+)/

/** `ratelimit: "default";r=0;t=30`, `ratelimit-policy: "default";q=100;w=60`, or `ratelimit: limit=100, reset=30`. */
const structured = (headers: Headers, factOf: (dimension: string) => Fact | undefined): void => {
  for (const name of ["ratelimit-policy", "ratelimit"]) {
    for (const item of (headers[name] ?? "").slice(0, 1024).split(",")) {
      const old = oldField.exec(item)
      const [, dimension, parameters] = old === null ? policy.exec(item) ?? [] : ["", "", `;${old[1]}=${old[2]}`]
      if (parameters === undefined || parameters === "") continue
      const fact = factOf(dimension === "default" ? "" : dimension ?? "")
      for (const [, key, value] of fact === undefined ? [] : parameters.matchAll(parameter)) {
        if (key === "q" || key === "limit") fact!.limit = Number(value)
        if (key === "r" || key === "remaining") fact!.remaining = Number(value)
        if (key === "t" || key === "reset") fact!.resetAfter = Number(value) * 1000
      }
    }
  }
}

/** The limits a response tells about, by dimension; `requests` when it names none. */
export const rateLimitsOf = (headers: Headers, now: number): ReadonlyArray<RateLimitFact> => {
  let found: Map<string, Fact> | undefined
  const factOf = (dimension: string): Fact | undefined => {
    found ??= new Map()
    let fact = found.get(dimension)
    if (fact !== undefined || found.size === maxFacts) return fact
    found.set(dimension, fact = { dimension: dimension || "requests" })
    return fact
  }
  for (const name in headers) {
    const [dimension, field] = limitOf(name) ?? []
    const value = headers[name]
    if (dimension === undefined || field === undefined || !fields.has(field) || typeof value !== "string") continue
    if (dimension === "after") continue // a delay, see `retryAfterOf`
    const fact = factOf(dimension)
    if (fact === undefined) continue
    if (field === "reset") {
      const after = resetOf(value, dimension === "", headers, now)
      if (after !== undefined) fact.resetAfter = after
    } else if (decimal.test(value)) fact[field as "limit" | "remaining"] = Number(value)
  }
  if (headers["ratelimit"] !== undefined || headers["ratelimit-policy"] !== undefined) structured(headers, factOf)
  return found === undefined ? [] : Array.from(found.values())
}

// -----------------------------------------------------------------------------
// delays
// -----------------------------------------------------------------------------

/** The values of a list. A date has a comma of its own, behind its weekday. */
const listed = (value: string): ReadonlyArray<string> => {
  const out: Array<string> = []
  for (const piece of value.slice(0, 1024).split(",")) {
    const last = out[out.length - 1]
    if (last !== undefined && weekday.test(last)) out[out.length - 1] = `${last},${piece}`.trim()
    else out.push(piece.trim())
  }
  return out
}

/** Whole seconds, a date, a moment; `5 s` is none, but words that cannot mean anything else are. */
const delayOf = (value: string, headers: Headers, now: number): number | undefined => {
  if (whole.test(value)) {
    const moment = epochOf(Number(value))
    return moment === undefined ? Number(value) * 1000 : until(moment, headers, now)
  }
  return spelledOut.test(value) ? parseDuration(value) : until(dateOf(value), headers, now)
}

const longest = (delays: ReadonlyArray<number | undefined>): number | undefined => {
  const known = delays.filter((delay) => delay !== undefined)
  return known.length === 0 ? undefined : Math.max(...known)
}

const millisHeaders = ["retry-after-ms", "x-ms-retry-after-ms"]

/**
 * The server's delay in milliseconds, from headers meant for it. Read it on failures only: some send it with 200. Of
 * several values in one header the longest counts.
 */
export const retryAfterOf = (headers: Headers, now: number): number | undefined => {
  for (const name of millisHeaders) {
    const millis = longest(
      listed(headers[name] ?? "").map((value) =>
        decimal.test(value) && Number(value) > 0 ? epochDelay(Number(value), headers, now) : undefined
      )
    )
    if (millis !== undefined) return millis
  }
  const after = longest(listed(headers["retry-after"] ?? "").map((value) => delayOf(value, headers, now)))
  if (after !== undefined) return after
  const reset = headers["x-ratelimit-reset-after"]?.trim() ?? ""
  return resetOf(reset, true, headers, now)
}

const epochDelay = (millis: number, headers: Headers, now: number): number | undefined =>
  millis >= 1e12 ? until(millis, headers, now) : ceil(millis)

/** How long until every exhausted limit is whole again. One that does not tell what remains counts as exhausted. */
export const resetOfExhausted = (facts: ReadonlyArray<RateLimitFact>): number | undefined =>
  longest(facts.map(({ remaining, resetAfter }) => (remaining ?? 0) > 0 ? undefined : resetAfter))

// -----------------------------------------------------------------------------
// identity
// -----------------------------------------------------------------------------

const identifier = /^[\w.:-]{1,64}$/

/** A code or type fit to be published. */
export const isIdentifier = (text: string): boolean => identifier.test(text)

const requestIdHeaders = [
  "x-request-id",
  "request-id",
  "apim-request-id",
  "x-debug-trace-id",
  "mistral-correlation-id",
  "x-ds-trace-id",
  "x-generation-id",
  "x-amzn-requestid"
]
const requestId = /^[\w.:/+=-]{1,128}$/

/** An identifier fit to be published. */
export const requestIdFrom = (value: unknown): string | undefined =>
  typeof value === "string" && requestId.test(value) ? value : undefined

export const requestIdOf = (headers: Headers): string | undefined => {
  for (const name of requestIdHeaders) {
    const found = requestIdFrom(headers[name])
    if (found !== undefined) return found
  }
  return undefined
}

/** `x-should-retry`, when the provider says so explicitly. */
export const shouldRetryOf = (headers: Headers): boolean | undefined => {
  const value = headers["x-should-retry"]
  return value === "true" ? true : value === "false" ? false : undefined
}
