// What response headers and error texts say about limits, delays and identity.
import type { RateLimitFact } from "../../LlmError.ts"

export type Headers = Readonly<Record<string, string | undefined>>

const unitMillis: Readonly<Record<string, number>> = {
  ns: 1e-6,
  us: 1e-3,
  µs: 1e-3,
  ms: 1,
  millisecond: 1,
  s: 1000,
  sec: 1000,
  second: 1000,
  m: 60_000,
  min: 60_000,
  minute: 60_000,
  h: 3_600_000,
  hr: 3_600_000,
  hour: 3_600_000,
  d: 86_400_000,
  day: 86_400_000
}
const unit = "milliseconds?|seconds?|minutes?|hours?|days?|secs?|mins?|hrs?|ms|[µun]s|[smhd]"
const amount = String.raw`\d+(?:\.\d+)?\s*(?:${unit})(?![a-z])\s*`
const nextAmount = new RegExp(String.raw`(\d+(?:\.\d+)?)\s*(${unit})(?![a-z])\s*`, "iy")
const delayInText = new RegExp(String.raw`\b(?:again|retry)\b[^.\d]{0,20}\b(?:in|after)\s+((?:${amount})+)`, "i")

// Waits are rounded up to whole milliseconds; the subtraction forgives the last bit of a decimal fraction.
const ceil = (millis: number): number => Math.ceil(millis - 1e-6)

/** `6m0s`, `17.4s`, `1h8m25.745s`, `20 seconds` in milliseconds. A bare number is no duration. */
export const parseDuration = (text: string): number | undefined => {
  let millis = 0
  nextAmount.lastIndex = 0
  do {
    const found = nextAmount.exec(text)
    if (found === null) return undefined
    const name = found[2]!.toLowerCase()
    millis += Number(found[1]) * (unitMillis[name] ?? unitMillis[name.slice(0, -1)] ?? 0)
  } while (nextAmount.lastIndex < text.length)
  return ceil(millis)
}

/** The delay a message asks for: `try again in 9m38.016s`, `retry after 86400 seconds`. */
export const delayOfText = (text: string): number | undefined => {
  const found = delayInText.exec(text)?.[1]
  return found === undefined ? undefined : parseDuration(found)
}

const decimal = /^\d+(?:\.\d+)?$/
const httpDate = /^(?:mon|tue|wed|thu|fri|sat|sun)[a-z]*,? .*\d/i
const timestamp = /^\d{4}-\d\d-\d\dT\d\d:\d\d/

/**
 * The server's wall clock when it answered, else ours: moments in headers are the server's, so its own `date` cancels
 * any difference between the clocks.
 */
const serverNow = (headers: Headers, now: number): number => {
  const { date } = headers
  const parsed = date === undefined || !httpDate.test(date) ? NaN : Date.parse(date)
  return Number.isNaN(parsed) ? now : parsed
}

const until = (moment: number, headers: Headers, now: number): number | undefined =>
  Number.isNaN(moment) ? undefined : Math.max(0, ceil(moment - serverNow(headers, now)))

/**
 * A reset in any of the formats seen. A bare small number is in seconds only where the header is known to mean that:
 * Azure sends bare numbers of an unknown unit under the per-dimension names.
 */
const resetOf = (value: string, bareSeconds: boolean, headers: Headers, now: number): number | undefined => {
  if (decimal.test(value)) {
    const number = Number(value)
    if (number >= 1e12) return until(number, headers, now)
    if (number >= 1e9) return until(number * 1000, headers, now)
    return bareSeconds ? ceil(number * 1000) : undefined
  }
  return timestamp.test(value) ? until(Date.parse(value), headers, now) : parseDuration(value)
}

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

/** The limits a response tells about, by dimension; `requests` when it names none. */
export const rateLimitsOf = (headers: Headers, now: number): ReadonlyArray<RateLimitFact> => {
  let found: Map<string, { dimension: string; limit?: number; remaining?: number; resetAfter?: number }> | undefined
  for (const name in headers) {
    const [dimension, field] = limitOf(name) ?? []
    const value = headers[name]
    if (dimension === undefined || field === undefined || !fields.has(field) || typeof value !== "string") continue
    found ??= new Map()
    let fact = found.get(dimension)
    if (fact === undefined) {
      if (found.size === maxFacts) continue
      found.set(dimension, fact = { dimension: dimension || "requests" })
    }
    if (field === "reset") {
      const after = resetOf(value, dimension === "", headers, now)
      if (after !== undefined) fact.resetAfter = after
    } else if (decimal.test(value)) fact[field as "limit" | "remaining"] = Number(value)
  }
  return found === undefined ? [] : Array.from(found.values())
}

/** The server's delay in milliseconds, from headers meant for it. Read it on failures only: some send it with 200. */
export const retryAfterOf = (headers: Headers, now: number): number | undefined => {
  const millis = headers["retry-after-ms"]?.trim()
  if (millis !== undefined && decimal.test(millis) && Number(millis) > 0) return ceil(Number(millis))
  const value = headers["retry-after"]?.trim()
  if (value === undefined) return undefined
  if (decimal.test(value)) {
    const seconds = Number(value)
    return Number.isFinite(seconds) ? ceil(seconds * 1000) : undefined
  }
  return httpDate.test(value) ? until(Date.parse(value), headers, now) : undefined
}

/** How long until every exhausted limit is whole again. One that does not tell what remains counts as exhausted. */
export const resetOfExhausted = (facts: ReadonlyArray<RateLimitFact>): number | undefined => {
  let longest: number | undefined
  for (const { remaining, resetAfter } of facts) {
    if ((remaining ?? 0) > 0 || resetAfter === undefined) continue
    if (longest === undefined || resetAfter > longest) longest = resetAfter
  }
  return longest
}

const requestIdHeaders = [
  "x-request-id",
  "request-id",
  "apim-request-id",
  "x-debug-trace-id",
  "mistral-correlation-id",
  "x-ds-trace-id",
  "x-generation-id"
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
