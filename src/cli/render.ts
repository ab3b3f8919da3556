// How facts look: colours, durations, and the ledger as a table. Pure; fits 80 columns.
import type { ErrorSummary, LlmEvent } from "../LlmEvent.ts"

// -----------------------------------------------------------------------------
// colours
// -----------------------------------------------------------------------------

export type Tone = "good" | "bad" | "warn" | "quiet" | "strong" | "normal"
export type Paint = (tone: Tone, text: string) => string

const codes: { readonly [K in Tone]: string | undefined } = {
  good: "32",
  bad: "31",
  warn: "33",
  quiet: "2",
  strong: "1",
  normal: undefined
}

export const plain: Paint = (_, text) => text

export const colours: Paint = (tone, text) => {
  const code = codes[tone]
  return code === undefined || text === "" ? text : `\u001b[${code}m${text}\u001b[0m`
}

// -----------------------------------------------------------------------------
// words
// -----------------------------------------------------------------------------

/** `7 ms`, `1.25 s`, `12.3 s`, `3 min 5 s`, `2 h`. */
export const duration = (millis: number): string =>
  short(millis)?.replace(/\.?0+ s$/, " s") ?? long(millis, [" h", " min", " s"])

/** The same for columns: `1.00 s`, `3m 5s`. */
const digits = (millis: number): string => short(millis) ?? long(millis, ["h", "m", "s"])

const short = (millis: number): string | undefined => {
  if (millis < 999.5) return `${Math.round(millis)} ms`
  const seconds = millis / 1000
  if (seconds < 9.995) return `${seconds.toFixed(2)} s`
  return seconds < 59.95 ? `${seconds.toFixed(1)} s` : undefined
}

/** The two largest units. */
const long = (millis: number, [h, min, s]: readonly [string, string, string]): string => {
  const seconds = Math.round(millis / 1000)
  const [large, small, first, second] = seconds < 3600 ? [60, 1, min, s] as const : [3600, 60, h, min] as const
  const rest = Math.floor(seconds % large / small)
  return `${Math.floor(seconds / large)}${first}${rest === 0 ? "" : ` ${rest}${second}`}`
}

const reasons: ReadonlyMap<string, string> = new Map(Object.entries({
  RateLimit: "rate limited",
  Quota: "quota used up",
  Overloaded: "overloaded",
  Server: "internal error",
  Timeout: "gave up waiting",
  Conflict: "conflict",
  Network: "not reached",
  MalformedResponse: "unusable answer",
  Authentication: "key not accepted",
  Permission: "not permitted",
  NotFound: "unknown model",
  ContextLength: "prompt too long",
  PayloadTooLarge: "request too large",
  ContentPolicy: "content refused",
  InvalidRequest: "request not readable",
  ClientClosed: "closed by the client",
  Unknown: "refused, no reason told",
  // timers
  attempt: "no answer in time",
  firstToken: "no first token in time",
  idle: "fell silent",
  // streams
  truncated: "ended early",
  reset: "connection broke",
  error: "error in the stream"
}))

const tags: ReadonlyMap<string, string> = new Map(Object.entries({
  DeadlineExceeded: "deadline exceeded",
  CircuitOpen: "breaker open",
  RateLimited: "local rate limit",
  BulkheadFull: "too many calls in flight",
  Shed: "shed",
  AllProvidersFailed: "all providers failed",
  AllProvidersUnavailable: "no provider available",
  IdempotencyConflict: "key used for something else",
  IdempotencyInProgress: "key in use elsewhere",
  InvalidRequest: "invalid request"
}))

/** A failure in few words: `HTTP 429, rate limited`. */
export const failure = ({ reason, status, tag }: ErrorSummary): string => {
  const words = (reason === undefined ? undefined : reasons.get(reason)) ?? tags.get(tag) ?? tag
  return status === undefined ? words : `HTTP ${status}, ${words}`
}

// -----------------------------------------------------------------------------
// JSON
// -----------------------------------------------------------------------------

// What a terminal obeys, or what hides or reorders what a reader sees: DEL and C1 controls, soft hyphens, marks and
// overrides of direction, characters without width, and tags, which are half of a pair each.
// oxlint-disable-next-line no-control-regex -- exactly these
const unseen =
  /[\u007f-\u009f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]|\udb40[\udc00-\udc7f]/g

const escape = (text: string): string =>
  Array.from({ length: text.length }, (_, i) => `\\u${text.charCodeAt(i).toString(16).padStart(4, "0")}`).join("")

/** A JSON document that shows all it holds: what JSON itself leaves unescaped and nobody sees is escaped, too. */
export const json = (value: unknown): string => JSON.stringify(value, undefined, 2).replace(unseen, escape)

// -----------------------------------------------------------------------------
// the ledger
// -----------------------------------------------------------------------------

/** One line of a ledger. */
export interface Row {
  /** Milliseconds since the call began. */
  at: number
  target: string
  what: string
  text: string
  tone: Tone
  took: number | undefined
}

const denials = {
  "attempts-exhausted": "the retries are used up",
  budget: "the retry budget is empty",
  deadline: "the deadline comes first",
  "retry-after": "the wait asked for is too long",
  "circuit-open": "the breaker is open",
  refused: "refused locally"
} as const

const skips = {
  guard: "a guard refused",
  "circuit-open": "breaker open",
  "cooling-down": "cooling down",
  "rate-limited": "local rate limit",
  "bulkhead-full": "too many calls in flight",
  throttled: "accepts too little",
  "no-model": "has no model for this",
  unsupported: "cannot take this request",
  "context-too-small": "its context is too small",
  "attempts-exhausted": "no attempt is left for it"
} as const

const keys = {
  led: "first call with this key",
  joined: "joined the call in flight",
  replayed: "answered before with this key",
  unavailable: "key store unavailable"
} as const

const refusals = {
  guard: "a guard refused",
  "circuit-breaker": "the circuit is open",
  bulkhead: "no free place",
  "rate-limit": "the rate limit is reached",
  throttle: "it accepts too little"
} as const

const routes = {
  request: "the request says so",
  sticky: "as before",
  weights: "by chance and weight",
  fastest: "the fastest, or to measure it"
} as const

const sheds = {
  throttled: refusals.throttle,
  "queue-full": "the line is too long for its priority",
  deadline: "the line is too long for its deadline"
} as const

const caches = {
  unavailable: "store unavailable",
  fresh: "fresh answer",
  miss: "no fresh answer",
  stale: "stale answer instead",
  stored: "answer kept for bad times",
  rejected: "answer not kept: not whole, or too large"
} as const

const endedBy = { caller: "interrupted", defect: "broken by a defect" } as const

const lostTo = (winner: string | undefined): string => `lost the race${winner === undefined ? "" : ` to ${winner}`}`

const results = {
  provider: "answered",
  replay: "answered without a request",
  cache: "answered from the cache",
  stale: "answered with an old answer",
  interrupted: "interrupted",
  defect: "broken by a defect"
} as const

/** The rows of one call. An attempt is one row, at the moment it began. */
export const rows = (events: ReadonlyArray<LlmEvent>): ReadonlyArray<Row> => {
  const out: Array<Row> = []
  const attempts = new Map<number, Row>()
  const add = (at: number, target: string, what: string, text: string, tone: Tone = "normal", took?: number): Row => {
    const row: Row = { at, target, what, text, tone, took }
    out.push(row)
    return row
  }
  const attempt = (event: { readonly attempt: number; readonly duration: number }, text: string, tone: Tone): void => {
    const row = attempts.get(event.attempt)
    if (row !== undefined) Object.assign(row, { text, tone, took: event.duration })
  }
  const winner = events.flatMap((event) =>
    event._tag === "AttemptSucceeded" || event._tag === "AttemptCommitted" ? event.target : []
  ).at(-1)
  for (const event of events) {
    const { at } = event
    switch (event._tag) {
      case "CallStarted":
        break
      case "Idempotency":
        if (event.result === "generated") add(at, "", "key", event.key ?? "generated", "quiet")
        else add(at, "", "key", keys[event.result], event.result === "unavailable" ? "warn" : "normal")
        break
      case "AttemptStarted":
        attempts.set(event.attempt, add(at, event.target, `attempt ${event.attempt}`, "…", "quiet"))
        break
      case "AttemptCommitted":
        add(at, event.target, "stream", "first token", "normal", event.duration)
        break
      case "AttemptSucceeded": {
        const { inputTokens, outputTokens } = event
        const tokens = inputTokens === undefined || outputTokens === undefined
          ? ""
          : `, ${inputTokens} + ${outputTokens} tokens`
        attempt(event, `✓ answered${tokens}`, "good")
        break
      }
      case "AttemptFailed": {
        const { retryAfter } = event.error
        attempt(
          event,
          `✗ ${failure(event.error)}${retryAfter === undefined ? "" : ` for ${duration(retryAfter)}`}`,
          "bad"
        )
        break
      }
      case "AttemptInterrupted":
        attempt(event, `– ${event.by === "lost" ? lostTo(winner) : endedBy[event.by]}`, "warn")
        break
      case "Waited":
        add(
          at - event.duration,
          event.target,
          "wait",
          event.for === "rate-limit"
            ? "for the rate limit"
            : event.for === "guard"
            ? "for a guard"
            : "for a free place",
          "warn",
          event.duration
        )
        break
      case "AttemptRefused":
        add(at, event.target, "refused", event.shed === undefined ? refusals[event.by] : sheds[event.shed], "warn")
        break
      case "RetryScheduled":
        add(at, event.target, "wait", event.delayedBy === "backoff" ? "backoff" : "Retry-After", "warn", event.delay)
        break
      case "RetryDenied":
        add(at, event.target, "no retry", denials[event.because])
        break
      case "TargetSkipped": {
        const left = event.retryAfter === undefined ? "" : `, ${duration(event.retryAfter)} left`
        add(at, event.target, "skipped", `${skips[event.because]}${left}`, "warn")
        break
      }
      case "Hedged":
        add(
          at,
          event.target,
          event.result === "started" ? "hedge" : "no hedge",
          event.result === "started" ? `${event.from} is slow` : "the retry budget is empty",
          "warn"
        )
        break
      case "Shadowed":
        add(at, event.target, "shadow", `${event.by} ${event.decision}`, "quiet", event.duration)
        break
      case "Routed":
        add(at, event.target, "first", routes[event.by], "quiet")
        break
      case "FailedOver":
        add(at, event.to, "failover", `from ${event.from}`)
        break
      case "ModelSubstituted":
        add(at, event.target, "model", `${event.model} for ${event.requested}`)
        break
      case "ReasoningDropped":
        add(at, event.target, "reasoning", `${event.parts} parts of others not sent`, "quiet")
        break
      case "AnswerRejected":
        add(at, event.target, "does not fit", `"${event.path}" must be ${event.rule}, but is ${event.kind}`, "warn")
        break
      case "RequestAdapted":
        add(at, event.target, "request", `${event.field} ${event.detail ?? event.action}`, "quiet")
        break
      case "Cache":
        add(at, "", "cache", cache(event), event.result === "stale" ? "warn" : "quiet")
        break
      case "CircuitChanged":
        add(at, event.target, "breaker", `${event.from} → ${event.to}`, event.to === "closed" ? "good" : "warn")
        break
      case "StoreChanged":
        add(at, "", "store", `${event.store} is ${event.to}`, event.to === "up" ? "good" : "warn")
        break
      case "CallEnded": {
        const { duration: took, error, outcome } = event
        if (outcome === "failure") add(at, "", "failed", error === undefined ? "" : failure(error), "bad", took)
        else {add(
            at,
            outcome === "provider" ? event.target ?? "" : "",
            "done",
            results[outcome],
            outcome === "provider" ? "normal" : "warn",
            took
          )}
        break
      }
    }
  }
  return out
}

const cache = ({ age, result }: Extract<LlmEvent, { readonly _tag: "Cache" }>): string =>
  age === undefined ? caches[result] : `${caches[result]}, ${duration(age)} old`

const WIDTH = 80
const INDENT = "    "

/** Lays out rows, aligned over all of them. */
const layout = (all: ReadonlyArray<Row>, paint: Paint) => {
  const widest = (of: (row: Row) => string) => Math.max(0, ...all.map((row) => of(row).length))
  const target = widest((row) => row.target)
  const what = widest((row) => row.what)
  const text = WIDTH - INDENT.length - 7 - 2 - target - 2 - what - 2 - 9
  return (row: Row): string => {
    const took = row.took === undefined ? "" : digits(row.took)
    return [
      INDENT,
      paint("quiet", digits(row.at).padStart(7)),
      "  ",
      row.target.padEnd(target),
      "  ",
      row.what.padEnd(what),
      "  ",
      paint(row.tone, row.text),
      took === "" ? "" : " ".repeat(Math.max(0, text - row.text.length)) + took.padStart(9)
    ].join("")
  }
}

/** The same facts, in about the same time. */
const alike = (one: ReadonlyArray<Row>, two: ReadonlyArray<Row>): boolean =>
  one.length === two.length && one.every((row, i) => {
    const other = two[i]!
    return row.target === other.target && row.what === other.what && row.text === other.text &&
      Math.abs((row.took ?? 0) - (other.took ?? 0)) < 100
  })

/**
 * A ledger, or the events of several calls, as text without a final line end. Calls that did the same share one story:
 * that of the first, with its times.
 */
export const ledger = (events: ReadonlyArray<LlmEvent>, paint: Paint): string => {
  const calls = [...byCall(events).values()].map(rows)
  const line = layout(calls.flat(), paint)
  const stories: Array<{ readonly numbers: Array<number>; readonly rows: ReadonlyArray<Row> }> = []
  calls.forEach((rows, i) => {
    const same = stories.find((story) => alike(story.rows, rows))
    if (same === undefined) stories.push({ numbers: [i + 1], rows })
    else same.numbers.push(i + 1)
  })
  const lines: Array<string> = []
  for (const story of stories) {
    if (calls.length > 1) lines.push(INDENT + paint("strong", heading(story.numbers)))
    lines.push(...story.rows.map(line))
  }
  return lines.join("\n")
}

const heading = (numbers: ReadonlyArray<number>): string =>
  numbers.length === 1 ? `call ${numbers[0]}` : `calls ${numbers.slice(0, -1).join(", ")} and ${numbers.at(-1)}, each`

/** A breaker's change belongs to no call; it is told by the call whose next event it caused. */
const byCall = (events: ReadonlyArray<LlmEvent>): ReadonlyMap<number, ReadonlyArray<LlmEvent>> => {
  const calls = new Map<number, Array<LlmEvent>>()
  let changes: Array<LlmEvent> = []
  for (const event of events) {
    if (event._tag === "CircuitChanged" || event._tag === "StoreChanged") {
      changes.push(event)
      continue
    }
    let call = calls.get(event.call)
    if (call === undefined) calls.set(event.call, call = [])
    for (const change of changes) call.push({ ...change, at: event.at })
    changes = []
    call.push(event)
  }
  return calls
}

/** Pieces joined in lines of at most 80 columns, broken only between them. */
export const flow = (pieces: ReadonlyArray<string>, separator: string, indent = INDENT): string => {
  const lines: Array<string> = []
  let line = ""
  for (const piece of pieces) {
    const longer = line === "" ? piece : line + separator + piece
    if (line === "" || indent.length + longer.length <= WIDTH) line = longer
    else {
      lines.push(indent + line)
      line = piece
    }
  }
  if (line !== "") lines.push(indent + line)
  return lines.join("\n")
}
