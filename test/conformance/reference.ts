// What one call must do under any set of enabled patterns, as plain arithmetic. Written from the tables of SEMANTICS.md
// (§0.1 outcomes, §0.2 composition), not from the pipeline. It knows one call at a time, two targets, draws of .5, and
// a transport that answers at once or never.
import type { LlmConfig } from "effect-resilient-llm"
import type { Kind } from "../support.ts"
import { breaker, budget, timers } from "./support.ts"

export const toggles = [
  "idempotency",
  "cache",
  "rateLimit",
  "circuitBreaker",
  "timeout",
  "retry",
  "failover",
  "bulkhead"
] as const
export type Toggle = (typeof toggles)[number]
export type Enabled = ReadonlySet<Toggle>

/**
 * The settings of an enabled pattern: those of the vectors, but tighter where one call would not notice the pattern
 * otherwise. The breaker opens at the second failure, the bucket holds two tokens, there is one permit.
 */
const settings = {
  idempotency: { ttl: "24 hours" },
  cache: { ttl: "60 seconds", staleIfError: "1 hour" },
  rateLimit: { capacity: 2, refillPerSecond: 0.5, maxWait: "30 seconds", queue: 256 },
  circuitBreaker: { ...breaker, failureThreshold: 2 },
  timeout: timers,
  retry: { maxRetries: 2, baseDelay: 500, maxDelay: 8000, maxRetryAfter: "60 seconds" },
  failover: { maxRetryAfter: "5 seconds", coolDown: "10 minutes" },
  bulkhead: { maxConcurrent: 1, queue: 100, maxWait: "30 seconds" }
} as const

export const optionsOf = (enabled: Enabled): LlmConfig.Options => ({
  ...Object.fromEntries(toggles.map((toggle) => [toggle, enabled.has(toggle) ? settings[toggle] : false])),
  retryBudget: enabled.has("retry") ? budget : false
})

/** Success, 503, 400, 429 with 2 s, silence, a cut after the first content. */
export type Answer = "S" | "F" | "400" | "429" | "hang" | "cut"

interface Failure {
  readonly word: string
  readonly breaker: "failure" | "ignored"
  readonly retry: boolean
  readonly failover: boolean
  readonly stale: boolean
  readonly hint?: number
}

const transient = (word: string): Failure => ({ word, breaker: "failure", retry: true, failover: true, stale: true })

const failureOf = (answer: Answer, kind: Kind): Failure => {
  switch (answer) {
    case "400":
      return { word: "InvalidRequest", breaker: "ignored", retry: false, failover: false, stale: false }
    case "429":
      return { ...transient("RateLimit"), breaker: "ignored", hint: 2000 }
    case "cut": // a whole answer that is cut off has no content that was seen
      return kind === "complete"
        ? transient("MalformedResponse")
        : { word: "StreamInterrupted truncated", breaker: "failure", retry: false, failover: false, stale: false }
    default:
      return transient("Overloaded")
  }
}

export interface Expected {
  /** When each target was asked. */
  readonly calls: readonly [ReadonlyArray<number>, ReadonlyArray<number>]
  readonly at: number
  /** `provider p`, `stale p`, or the error in words. */
  readonly result: string
  /** What a repetition under the same key gets when the targets are healthy again: the same, or a new answer. */
  readonly repeated: string
}

const ATTEMPT = 120_000
const DEADLINE = 300_000

/**
 * One call at time 0 with everything fresh and an old answer in the cache. `scripts[i]` is what target `i` does, its
 * last element for ever. `patience`: when the test interrupts a call that never ends.
 */
export const expect = (
  enabled: Enabled,
  kind: Kind,
  scripts: readonly [ReadonlyArray<Answer>, ReadonlyArray<Answer>],
  patience: number
): Expected => {
  const on = (toggle: Toggle) => enabled.has(toggle)
  const calls: [Array<number>, Array<number>] = [[], []]
  const deadline = on("timeout") ? DEADLINE : Infinity
  let now = 0
  let tokens = 2
  let tokensAt = 0

  const takeToken = () => {
    if (!on("rateLimit")) return
    tokens = Math.min(2, tokens + (now - tokensAt) * 0.0005)
    const wait = Math.max(0, Math.ceil((1 - tokens) / 0.0005))
    now += wait
    tokens += wait * 0.0005 - 1
    tokensAt = now
  }

  /** When a target's time is over, and how much it was given; the deadline is divided among those that can be asked. */
  interface Share {
    readonly end: number
    readonly given: number
  }
  const shareOf = (target: 0 | 1): Share => {
    const given = on("failover") && target === 0 ? (deadline - now) / 2 : deadline - now
    return { end: now + given, given }
  }

  /** Cut by its share, or by the deadline: the provider's failure if it had at least half of what was given. */
  const cut = (target: 0 | 1, share: Share, from: number): Failure => {
    const breaker = share.end - from >= share.given / 2 ? "failure" : "ignored"
    return share.end < deadline || (target === 0 && on("failover"))
      ? { ...transient("AttemptTimeout attempt"), breaker }
      : { word: "DeadlineExceeded", breaker, retry: false, failover: false, stale: true }
  }

  const attempt = (target: 0 | 1, share: Share): Failure | "success" | "interrupted" => {
    takeToken()
    const script = scripts[target]
    const answer = script[Math.min(calls[target].length, script.length - 1)]!
    calls[target].push(now)
    if (answer === "S") return "success"
    if (answer !== "hang") return failureOf(answer, kind)
    if (!on("timeout")) {
      now = patience
      return "interrupted"
    }
    if (now + ATTEMPT > share.end) {
      const failure = cut(target, share, now)
      now = share.end
      return failure
    }
    now += ATTEMPT
    // Both limits are equal; for a stream it is the first token that did not come.
    return transient(kind === "complete" ? "AttemptTimeout attempt" : "AttemptTimeout firstToken")
  }

  const withRetries = (target: 0 | 1): Failure | "success" | "interrupted" => {
    let streak = 0
    let failedAt = 0
    const share = shareOf(target)
    for (let k = 1;; k++) {
      const outcome = attempt(target, share)
      if (typeof outcome === "string") return outcome
      if (outcome.breaker === "failure") {
        streak = now - failedAt > 60_000 ? 1 : streak + 1 // a long silence ends the row
        failedAt = now
      }
      const open = on("circuitBreaker") && streak >= 2
      if (!on("retry") || !outcome.retry || k > 2 || open) return outcome
      const backoff = 0.75 * 500 * 2 ** (k - 1)
      const hint = outcome.hint === undefined ? 0 : outcome.hint + 0.5 * Math.min(1000, outcome.hint / 10)
      const delay = Math.max(backoff, hint)
      if (now + delay >= share.end) return outcome
      now += delay
    }
  }

  const overTargets = (): { readonly result: string; readonly stale: boolean } => {
    const first = withRetries(0)
    if (first === "success") return { result: "provider p", stale: false }
    if (first === "interrupted") return { result: "interrupted", stale: false }
    if (!on("failover") || !first.failover) return { result: first.word, stale: first.stale }
    const second = withRetries(1)
    if (second === "success") return { result: "provider s", stale: false }
    if (second === "interrupted") return { result: "interrupted", stale: false }
    if (!second.failover) return { result: second.word, stale: second.stale }
    return { result: `AllProvidersFailed ${first.word} ${second.word}`, stale: first.stale || second.stale }
  }

  const live = overTargets()
  const result = on("cache") && live.stale ? "stale p" : live.result
  const kept = on("idempotency") && (result.startsWith("provider") || result === "InvalidRequest")
  return {
    calls,
    at: now,
    result,
    repeated: !kept ? "provider p" : result.replace("provider", "replay")
  }
}
