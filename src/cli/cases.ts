// The cases of the demo: what is played, what is asked, and what must have happened.
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Stream from "effect/Stream"
import type { Client } from "../LlmClient.ts"
import type { Options } from "../LlmConfig.ts"
import type { LlmError } from "../LlmError.ts"
import type { LlmEvent } from "../LlmEvent.ts"
import type { LlmResponse } from "../LlmResponse.ts"
import * as FaultServer from "../testing/FaultServer.ts"
import { duration } from "./render.ts"

export const PRIMARY = "openai"
export const SECONDARY = "anthropic"

// Short times, so that everything can be watched; otherwise the defaults.
export const main = {
  retry: { maxRetries: 2, baseDelay: "200 millis" },
  timeout: { attempt: "700 millis", deadline: "8 seconds" },
  circuitBreaker: { failureThreshold: 3, recoveryTimeout: "1500 millis" }
} as const satisfies Options

export const limited = { rateLimit: { capacity: 2, refillPerSecond: 4 } } as const satisfies Options

export const streams = {
  retry: { maxRetries: 1, baseDelay: "200 millis" },
  timeout: { firstToken: "500 millis" }
} as const satisfies Options

export interface Stage {
  /** Speaks OpenAI's protocol, and is asked first. */
  readonly primary: FaultServer.FaultServer
  /** Speaks Anthropic's. */
  readonly secondary: FaultServer.FaultServer
  readonly main: Client<LlmError>
  /** With a small token bucket. */
  readonly limited: Client<LlmError>
  /** Impatient for first tokens. */
  readonly streams: Client<LlmError>
}

/** Something that must have happened: what did, or else what was expected. */
export interface Check {
  readonly what: string
  readonly holds: boolean
}

export interface Case {
  readonly title: string
  readonly about: string
  readonly client: "main" | "limited" | "streams"
  readonly run: (stage: Stage, say: (text: string) => void) => Effect.Effect<ReadonlyArray<Check>, LlmError>
}

const QUESTION = "What is resilience?"
/** Answered in the first case, and again when nobody else can. */
const OLD_QUESTION = "What is AI?"

// -----------------------------------------------------------------------------
// checks
// -----------------------------------------------------------------------------

const check = (holds: boolean, what: string, otherwise = what): Check => ({ what: holds ? what : otherwise, holds })

const times = (n: number): string =>
  n === 0 ? "not asked" : n === 1 ? "asked once" : n === 2 ? "asked twice" : `asked ${n} times`

/** The servers themselves count what reached them. */
const asked = (stage: Stage, primary: number, secondary: number): Effect.Effect<Check> =>
  Effect.gen(function*() {
    const [one, two] = [(yield* stage.primary.stats).received, (yield* stage.secondary.stats).received]
    const what = `${PRIMARY} ${times(primary)}, ${SECONDARY} ${times(secondary)}`
    return check(one === primary && two === secondary, what, `${what}; it was ${one} and ${two}`)
  })

const answeredBy = ({ source, target, text }: LlmResponse, expected: string): Check =>
  check(source === "provider" && target === expected && text !== "", `the answer is ${expected}'s`)

const breakerIs = (stage: Stage, expected: string): Effect.Effect<Check> =>
  Effect.map(
    stage.main.status,
    ({ targets: [primary] }) => check(primary?.circuit?.state === expected, `${PRIMARY}'s breaker is ${expected}`)
  )

const all = <T extends LlmEvent["_tag"]>(ledger: ReadonlyArray<LlmEvent>, tag: T) =>
  ledger.filter((event): event is Extract<LlmEvent, { readonly _tag: T }> => event._tag === tag)

/** Moments at which the requests arrived, from the first one on. */
const arrivals = (server: FaultServer.FaultServer): Effect.Effect<ReadonlyArray<number>> =>
  Effect.map(server.requests, (requests) => requests.map(({ at }) => at - requests[0]!.at))

/** A server notices that its client has left a moment later. */
const left = (server: FaultServer.FaultServer): Effect.Effect<number> =>
  server.stats.pipe(
    Effect.map(({ aborted }) => aborted),
    Effect.tap((aborted) => aborted === 0 ? Effect.sleep("10 millis") : Effect.void),
    Effect.repeat({ times: 50, until: (aborted) => aborted > 0 })
  )

const overloaded = FaultServer.error("Overloaded")

// -----------------------------------------------------------------------------
// cases
// -----------------------------------------------------------------------------

export const cases: ReadonlyArray<Case> = [
  {
    title: "A healthy call",
    about: "One request, one answer. It gets an idempotency key, and is kept for bad times.",
    client: "main",
    run: (stage) =>
      Effect.gen(function*() {
        const response = yield* stage.main.complete(OLD_QUESTION)
        return [yield* asked(stage, 1, 0), answeredBy(response, PRIMARY)]
      })
  },
  {
    title: "429 with Retry-After",
    about: "The provider says when to come back: in 1 s. The retry comes no sooner.",
    client: "main",
    run: (stage) =>
      Effect.gen(function*() {
        yield* stage.primary.play(FaultServer.status(429, { retryAfter: 1 }))
        const response = yield* stage.main.complete(QUESTION)
        const [, second = 0] = yield* arrivals(stage.primary)
        return [
          yield* asked(stage, 2, 0),
          answeredBy(response, PRIMARY),
          check(
            second >= 999,
            `the second request came after ${duration(second)}`,
            `the second request after 1 s or more; it came after ${duration(second)}`
          ),
          check(
            all(response.ledger, "RetryScheduled").some(({ delayedBy }) => delayedBy === "retry-after"),
            "the delay was Retry-After's"
          )
        ]
      })
  },
  {
    title: "An outage: retries, then failover",
    about:
      "The primary answers 503. Two retries with backoff, then the secondary is asked. The third failure in a row " +
      "opens the primary's circuit breaker.",
    client: "main",
    run: (stage) =>
      Effect.gen(function*() {
        yield* stage.primary.always(overloaded)
        const response = yield* stage.main.complete(QUESTION)
        return [
          yield* asked(stage, 3, 1),
          answeredBy(response, SECONDARY),
          check(all(response.ledger, "FailedOver").length === 1, "one failover"),
          yield* breakerIs(stage, "open")
        ]
      })
  },
  {
    title: "An open breaker skips the dead provider",
    about: "The primary is still down. Nobody waits for it: it is not even asked.",
    client: "main",
    run: (stage) =>
      Effect.gen(function*() {
        yield* stage.primary.always(overloaded)
        const response = yield* stage.main.complete(QUESTION)
        return [
          yield* asked(stage, 0, 1),
          answeredBy(response, SECONDARY),
          check(
            all(response.ledger, "TargetSkipped").some(({ because }) => because === "circuit-open"),
            `${PRIMARY} skipped`
          )
        ]
      })
  },
  {
    title: "Recovery through half-open",
    about:
      "The primary is well again. After the breaker's 1.5 s one probe is let through; it succeeds and closes the " +
      "breaker.",
    client: "main",
    run: (stage, say) =>
      Effect.gen(function*() {
        const { targets: [primary] } = yield* stage.main.status
        const wait = Duration.toMillis(primary?.circuit?.retryAfter ?? Duration.zero)
        say(`${PRIMARY}'s breaker stays open for another ${duration(wait)}`)
        yield* Effect.sleep(wait + 1)
        const response = yield* stage.main.complete(QUESTION)
        return [yield* asked(stage, 1, 0), answeredBy(response, PRIMARY), yield* breakerIs(stage, "closed")]
      })
  },
  {
    title: "A hang, cut by the timeout",
    about:
      "The primary accepts the request and never answers. After 700 ms the attempt is over, its connection closed, " +
      "and the retry succeeds.",
    client: "main",
    run: (stage) =>
      Effect.gen(function*() {
        yield* stage.primary.play(FaultServer.hang())
        const response = yield* stage.main.complete(QUESTION)
        const [cut] = all(response.ledger, "AttemptFailed")
        return [
          yield* asked(stage, 2, 0),
          answeredBy(response, PRIMARY),
          check(
            cut?.error.tag === "AttemptTimeout" && cut.duration >= 699 && cut.duration < 1400,
            `the timeout cut it after ${duration(cut?.duration ?? 0)}`,
            `the timeout to cut it after 700 ms; it took ${duration(cut?.duration ?? 0)}`
          ),
          check((yield* left(stage.primary)) === 1, "its connection is closed")
        ]
      })
  },
  {
    title: "The same key again",
    about: "Two calls, one after the other, with the same idempotency key. The second gets the stored answer.",
    client: "main",
    run: (stage) =>
      Effect.gen(function*() {
        const request = { prompt: QUESTION, idempotencyKey: "order-1" }
        const first = yield* stage.main.complete(request)
        const second = yield* stage.main.complete(request)
        return [
          yield* asked(stage, 1, 0),
          check(second.source === "replay" && second.text === first.text, "the second answer is the first one again")
        ]
      })
  },
  {
    title: "Concurrent duplicates",
    about: "Five calls at once with the same key. The first asks, the others wait for its answer.",
    client: "main",
    run: (stage) =>
      Effect.gen(function*() {
        yield* stage.primary.always(FaultServer.slowHeaders(150))
        const request = { prompt: QUESTION, idempotencyKey: "order-2" }
        const responses = yield* Effect.all(Array.from({ length: 5 }, () => stage.main.complete(request)), {
          concurrency: "unbounded"
        })
        const joined = responses.flatMap(({ ledger }) => all(ledger, "Idempotency")).filter(({ result }) =>
          result === "joined"
        )
        return [
          yield* asked(stage, 1, 0),
          check(
            responses.every(({ text }) => text === responses[0]?.text && text !== ""),
            "five times the same answer"
          ),
          check(joined.length === 4, "four calls joined the first")
        ]
      })
  },
  {
    title: "Both providers down: a stale answer",
    about:
      "Every attempt at both fails. The first case answered this question, so the caller gets that answer, marked as old.",
    client: "main",
    run: (stage) =>
      Effect.gen(function*() {
        yield* stage.primary.always(overloaded)
        yield* stage.secondary.always(overloaded)
        const response = yield* stage.main.complete(OLD_QUESTION)
        return [
          yield* asked(stage, 3, 3),
          check(response.source === "stale" && response.text !== "", "source is \"stale\""),
          check(response.age > 1000, `age is ${duration(response.age)}`, "an age of seconds")
        ]
      })
  },
  {
    title: "The rate limit makes calls wait",
    about: "A bucket of 2 tokens, refilled with 4 per second, and four calls at once. Two pass, two wait for a token.",
    client: "limited",
    run: (stage) =>
      Effect.gen(function*() {
        const responses = yield* Effect.all(Array.from({ length: 4 }, () => stage.limited.complete(QUESTION)), {
          concurrency: "unbounded"
        })
        const waits = responses.flatMap(({ ledger }) => all(ledger, "Waited"))
        const [, , third = 0, fourth = 0] = yield* arrivals(stage.primary)
        return [
          yield* asked(stage, 4, 0),
          check(waits.length === 2, "two calls waited"),
          check(
            third >= 200 && fourth >= 450,
            `their requests came after ${duration(third)} and ${duration(fourth)}`,
            `their requests after 250 and 500 ms; they came after ${duration(third)} and ${duration(fourth)}`
          )
        ]
      })
  },
  {
    title: "Streaming: failover before the first token",
    about: "The primary answers 200 and breaks before its first token: first by an error event, then by silence. " +
      "The secondary streams; the caller sees one whole answer and nothing of the failures.",
    client: "streams",
    run: (stage) =>
      Effect.gen(function*() {
        yield* stage.primary.play(FaultServer.errorEvent(), FaultServer.stall())
        yield* stage.secondary.always(FaultServer.ok({ firstTokenMillis: 60, chunkDelayMillis: 15 }))
        const { parts, response } = yield* stage.streams.open(QUESTION)
        const deltas: Array<string> = []
        yield* Stream.runForEach(parts, (part) =>
          Effect.sync(() => {
            if (part.type === "text-delta") deltas.push(part.delta)
          }))
        const whole = yield* response
        return [
          yield* asked(stage, 2, 1),
          answeredBy(whole, SECONDARY),
          check(deltas.join("") === whole.text && deltas.length > 1, `${deltas.length} text parts, as they arrived`),
          check(whole.finishReason === "stop", "the stream ended by itself"),
          check((yield* left(stage.primary)) === 1, "the silent connection is closed")
        ]
      }).pipe(Effect.scoped)
  }
]
