/**
 * A simulated provider: a real HTTP server on the loopback interface that speaks the wire formats of OpenAI, Anthropic,
 * Cohere and Amazon Bedrock, and fails on demand in every way providers fail.
 *
 * @since 0.1.0
 */
import * as Effect from "effect/Effect"
import * as Random from "effect/Random"
import type * as Scope from "effect/Scope"
import { attempt } from "../internal/option.ts"
import type { LlmConfigError, Reason } from "../LlmError.ts"
import { Simulation } from "./internal/simulation.ts"

/**
 * Why a vendor refuses, in the words of `LlmError.Reason`. Each dialect renders it in its vendor's status, codes and
 * sentences.
 *
 * @category models
 * @since 0.1.0
 */
export type ErrorReason = Exclude<Reason["_tag"], "Network" | "MalformedResponse">

/**
 * What an answer says, and at which pace. All times are milliseconds.
 *
 * @category models
 * @since 0.1.0
 */
export interface AnswerOptions {
  /** The text; a fixed sentence (or the server's `reply`) when absent, and none when there are only tool calls. */
  readonly text?: string | undefined
  /** The text as the deltas of a stream; one word each when absent. */
  readonly chunks?: ReadonlyArray<string> | undefined
  readonly reasoning?: string | undefined
  /** `params` is any JSON value; a string is sent as it is, so that it may be invalid JSON. */
  readonly toolCalls?:
    | ReadonlyArray<{ readonly name: string; readonly params?: unknown; readonly id?: string | undefined }>
    | undefined
  readonly finish?: "stop" | "length" | "tool-calls" | "content-filter" | undefined
  /** Total input includes cached tokens, total output includes reasoning. Estimated from the lengths when absent. */
  readonly usage?: {
    readonly inputTokens?: number | undefined
    readonly outputTokens?: number | undefined
    readonly cachedInputTokens?: number | undefined
    readonly reasoningTokens?: number | undefined
  } | undefined
  /** Added to the vendor's own headers, or instead of them. */
  readonly headers?: Readonly<Record<string, string>> | undefined
  /** Before the headers. */
  readonly delayMillis?: number | undefined
  /** Between the headers (with a vendor's opening events, where it sends them early) and the first content. */
  readonly firstTokenMillis?: number | undefined
  /** Between two content deltas of a stream. */
  readonly chunkDelayMillis?: number | undefined
  /** While silent or stalled, sends the vendor's keep-alive this often; blank lines when not streaming. */
  readonly keepAliveMillis?: number | undefined
}

/**
 * An answer that breaks. A chunk is one delta of text, reasoning or tool arguments. After 0 chunks the break comes
 * right behind the headers; after more than there are (`Infinity`), between the content and the end. An answer that is
 * not streamed breaks in the middle of its JSON, or behind the headers when `afterChunks` is 0.
 *
 * @category models
 * @since 0.1.0
 */
export interface BreakOptions extends AnswerOptions {
  readonly afterChunks?: number | undefined
}

/**
 * A healthy answer.
 *
 * @category models
 * @since 0.1.0
 */
export interface Ok extends AnswerOptions {
  readonly _tag: "Ok"
}

/**
 * An error instead of an answer. `reason` chooses the vendor's body, and its status unless `status` is given.
 *
 * @category models
 * @since 0.1.0
 */
export interface Status {
  readonly _tag: "Status"
  readonly status?: number | undefined
  readonly reason?: ErrorReason | undefined
  readonly headers?: Readonly<Record<string, string>> | undefined
  /** A text, or a value sent as JSON, instead of the vendor's own body. */
  readonly body?: unknown
  /** Seconds, or any text (an HTTP date, nonsense). Seconds also appear in the vendor's rate-limit headers. */
  readonly retryAfter?: number | string | undefined
  readonly retryAfterMs?: number | undefined
  readonly delayMillis?: number | undefined
}

/** @category models @since 0.1.0 */
export interface Hang {
  readonly _tag: "Hang"
}

/** @category models @since 0.1.0 */
export interface ResetBeforeHeaders {
  readonly _tag: "ResetBeforeHeaders"
  readonly delayMillis?: number | undefined
}

/** @category models @since 0.1.0 */
export interface ResetInBody extends BreakOptions {
  readonly _tag: "ResetInBody"
}

/** @category models @since 0.1.0 */
export interface Stall extends BreakOptions {
  readonly _tag: "Stall"
}

/** @category models @since 0.1.0 */
export interface Truncate extends BreakOptions {
  readonly _tag: "Truncate"
  /** Cut inside the next event instead of before it. */
  readonly midEvent?: boolean | undefined
}

/** @category models @since 0.1.0 */
export interface ErrorEvent extends BreakOptions {
  readonly _tag: "ErrorEvent"
  /** Default `Overloaded`. */
  readonly reason?: ErrorReason | undefined
  /** Instead of the vendor's own type and sentence. */
  readonly type?: string | undefined
  readonly message?: string | undefined
}

/** @category models @since 0.1.0 */
export interface MalformedJson extends BreakOptions {
  readonly _tag: "MalformedJson"
}

/** @category models @since 0.2.0 */
export interface Duplicate extends BreakOptions {
  readonly _tag: "Duplicate"
}

/** @category models @since 0.1.0 */
export interface EmptyBody {
  readonly _tag: "EmptyBody"
  readonly delayMillis?: number | undefined
}

/** @category models @since 0.1.0 */
export interface KeepAlives {
  readonly _tag: "KeepAlives"
  readonly everyMillis: number
  /** Until the client leaves when absent. */
  readonly forMillis?: number | undefined
  readonly delayMillis?: number | undefined
}

/**
 * Any answer, byte for byte.
 *
 * @category models
 * @since 0.1.0
 */
export interface Raw {
  readonly _tag: "Raw"
  readonly body: string | Uint8Array
  /** Default 200. */
  readonly status?: number | undefined
  /** Headers of the connection and the body's length and encoding are left out: the server frames the body itself. */
  readonly headers?: Readonly<Record<string, string>> | undefined
  /** Size of each chunk; random sizes when absent. */
  readonly chunkBytes?: number | undefined
  readonly chunkDelayMillis?: number | undefined
  readonly delayMillis?: number | undefined
}

/**
 * One step of a script: what one request gets. Plain data; the constructors of this module build it.
 *
 * @category models
 * @since 0.1.0
 */
export type Fault =
  | Ok
  | Status
  | Hang
  | ResetBeforeHeaders
  | ResetInBody
  | Stall
  | Truncate
  | ErrorEvent
  | MalformedJson
  | Duplicate
  | EmptyBody
  | KeepAlives
  | Raw

/**
 * A healthy answer. `ok({ text: "" })` is an empty one.
 *
 * @category constructors
 * @since 0.1.0
 */
export const ok = (options?: AnswerOptions): Ok => ({ ...options, _tag: "Ok" })

/**
 * An HTTP error in the vendor's own words for that status, or for `reason` when the status alone does not tell:
 * `status(429, { reason: "Quota" })`, `status(400, { reason: "ContextLength" })`.
 *
 * **Details**
 *
 * 502, 504 and 520 to 526 without a reason answer with the HTML page of a content delivery network. A rate limit
 * without `retryAfter` names no delay anywhere, so a client falls back to its own backoff.
 *
 * @category constructors
 * @since 0.1.0
 */
export const status = (status: number, options?: Omit<Status, "_tag" | "status">): Status => ({
  ...options,
  _tag: "Status",
  status
})

/**
 * An HTTP error for a reason, with the status that each vendor uses for it (overloaded is 503 at OpenAI and Cohere, 529
 * at Anthropic).
 *
 * @category constructors
 * @since 0.1.0
 */
export const error = (reason: ErrorReason, options?: Omit<Status, "_tag" | "status" | "reason">): Status => ({
  ...options,
  _tag: "Status",
  reason
})

/**
 * No headers for a while, then the answer.
 *
 * @category constructors
 * @since 0.1.0
 */
export const slowHeaders = (millis: number, options?: AnswerOptions): Ok => ok({ ...options, delayMillis: millis })

/**
 * Headers at once, then silence (Anthropic: its opening events and a ping first), then the answer. `keepAliveMillis`
 * fills the silence.
 *
 * @category constructors
 * @since 0.1.0
 */
export const slowFirstToken = (millis: number, options?: AnswerOptions): Ok =>
  ok({ ...options, firstTokenMillis: millis })

/**
 * The answer stops and never goes on, until the client leaves. With `keepAliveMillis` it keeps pretending to live.
 *
 * @category constructors
 * @since 0.1.0
 */
export const stall = (options?: BreakOptions): Stall => ({ ...options, _tag: "Stall" })

/**
 * No headers, ever.
 *
 * @category constructors
 * @since 0.1.0
 */
export const hang = (): Hang => ({ _tag: "Hang" })

/**
 * The connection is reset (TCP RST) instead of answered.
 *
 * @category constructors
 * @since 0.1.0
 */
export const resetBeforeHeaders = (): ResetBeforeHeaders => ({ _tag: "ResetBeforeHeaders" })

/**
 * The connection is reset (TCP RST) inside the answer.
 *
 * @category constructors
 * @since 0.1.0
 */
export const resetInBody = (options?: BreakOptions): ResetInBody => ({ ...options, _tag: "ResetInBody" })

/**
 * The answer ends early and cleanly: HTTP is satisfied, but a stream lacks its terminal event, and JSON its second
 * half.
 *
 * @category constructors
 * @since 0.1.0
 */
export const truncate = (options?: Omit<Truncate, "_tag">): Truncate => ({ ...options, _tag: "Truncate" })

/**
 * An error after HTTP 200, in the vendor's grammar: OpenAI's `data: {"error":…}`, Anthropic's `event: error`, Cohere's
 * `message-end` with `finish_reason` `ERROR`. Not streaming, the JSON body is the error.
 *
 * @category constructors
 * @since 0.1.0
 */
export const errorEvent = (options?: Omit<ErrorEvent, "_tag">): ErrorEvent => ({ ...options, _tag: "ErrorEvent" })

/**
 * One event of the stream is not JSON; the others follow. Not streaming, the body is not JSON.
 *
 * @category constructors
 * @since 0.1.0
 */
export const malformedJson = (options?: BreakOptions): MalformedJson => ({ ...options, _tag: "MalformedJson" })

/**
 * The chunk after the first `afterChunks` comes twice, and the answer goes on. Not streaming, it is a healthy answer.
 *
 * @category constructors
 * @since 0.2.0
 */
export const duplicate = (options?: BreakOptions): Duplicate => ({ ...options, _tag: "Duplicate" })

/**
 * HTTP 200 and not a single byte.
 *
 * @category constructors
 * @since 0.1.0
 */
export const emptyBody = (): EmptyBody => ({ _tag: "EmptyBody" })

/**
 * Headers, then nothing but the vendor's keep-alives (pings, comments; blank lines when not streaming), then a clean
 * end without any answer.
 *
 * @category constructors
 * @since 0.1.0
 */
export const keepAlives = (options: Omit<KeepAlives, "_tag">): KeepAlives => ({ ...options, _tag: "KeepAlives" })

/**
 * Serves a recorded answer in chunks of random sizes (drawn from Effect's `Random` when the server is made), which also
 * split characters and line ends.
 *
 * @category constructors
 * @since 0.1.0
 */
export const raw = (options: Omit<Raw, "_tag">): Raw => ({ ...options, _tag: "Raw" })

/**
 * The same step, later: waits before anything is sent.
 *
 * @category combinators
 * @since 0.1.0
 */
export const delay = <F extends Fault>(millis: number, fault: F): F =>
  fault._tag === "Hang" ? fault : { ...fault, delayMillis: (fault.delayMillis ?? 0) + millis }

/**
 * A request as the server saw it. Keys in headers and in the query are replaced by `<redacted>`.
 *
 * @category models
 * @since 0.1.0
 */
export interface Recorded {
  readonly method: string
  readonly path: string
  /** The wire format that the path chose; absent for an unknown path. */
  readonly dialect?: "openai" | "anthropic" | "cohere" | "bedrock"
  readonly headers: Readonly<Record<string, string>>
  /** The parsed JSON body; `undefined` when it was none, or has not arrived yet. */
  readonly body: unknown
  /** Milliseconds since the server was made. */
  readonly at: number
  /** The client left before it had its answer. */
  readonly aborted: boolean
}

/**
 * @category models
 * @since 0.1.0
 */
export interface Stats {
  /** Requests since the start or the last `reset`. */
  readonly received: number
  /** Requests without a finished answer, now. */
  readonly active: number
  readonly maxActive: number
  /** Requests whose client left before it had its answer. */
  readonly aborted: number
}

/**
 * @category models
 * @since 0.1.0
 */
export interface VerdictOptions {
  /** How many answers of this server the client took for whole. Without it, unread truncation cannot be seen. */
  readonly answered?: number | undefined
  /** The shortest pause before a retry when no `retry-after` names one. Default 100. */
  readonly pauseMillis?: number | undefined
}

/**
 * How a client behaved, by its requests since the start or the last `reset`; of those, the last `keep`.
 *
 * @category models
 * @since 0.1.0
 */
export interface Verdict {
  /** Retries before the time that a refusal's `retry-after` or `retry-after-ms` named. */
  readonly ignoredRetryAfter: number
  /** Retries less than `pauseMillis` after a failure that named no time. */
  readonly earlyRetries: number
  /** Requests sent again while the first was being answered, or after it had been answered. */
  readonly duplicateSends: number
  /** Answers that the client took for whole and that were cut, broken or refused; `undefined` without `answered`. */
  readonly unreadTruncations: number | undefined
  /** Each fault as a sentence, its requests counted from 1 as in `requests`. Empty: nothing to complain of. */
  readonly findings: ReadonlyArray<string>
}

/**
 * @category models
 * @since 0.1.0
 */
export interface Options {
  /** What a request gets when the script is empty. Default: a healthy answer. */
  readonly otherwise?: Fault | undefined
  /** Milliseconds before every answer. Default 0. */
  readonly latencyMillis?: number | undefined
  /** Text of healthy answers that do not set their own. Default: a fixed sentence that says nothing of the request. */
  readonly reply?: ((request: Recorded) => string) | undefined
  /** How many requests are remembered. Default 10 000. */
  readonly keep?: number | undefined
}

/**
 * A running server.
 *
 * @category models
 * @since 0.1.0
 */
export interface FaultServer {
  /** `http://127.0.0.1:<port>` */
  readonly url: string
  /** Base URL for OpenAI clients, which add `/chat/completions`. */
  readonly openai: string
  /** Base URL for Anthropic clients, which add `/v1/messages`. */
  readonly anthropic: string
  /** Base URL for Cohere clients, which add `/v2/chat`. */
  readonly cohere: string
  /** Base URL for clients of Amazon Bedrock, which add `/model/…/converse` or `/model/…/converse-stream`. */
  readonly bedrock: string
  /** Appends steps to the script. Each request takes one, in the order of arrival. */
  readonly play: (...steps: ReadonlyArray<Fault>) => Effect.Effect<void>
  /** Forgets the script: every request gets this step until `reset`. Steps played later come before it. */
  readonly always: (step: Fault) => Effect.Effect<void>
  /** Back to the state after `make`: no script, no records, statistics at zero. Requests in flight go on. */
  readonly reset: Effect.Effect<void>
  /** The last requests, oldest first. */
  readonly requests: Effect.Effect<ReadonlyArray<Recorded>>
  readonly stats: Effect.Effect<Stats>
  /**
   * Grades the client. A request is the same as an earlier one when path, body and `idempotency-key` are: let a test ask
   * different questions. A break in the middle of an answer that is repeated is a retry; a hedge on one server is a
   * duplicate send.
   */
  readonly verdict: (options?: VerdictOptions) => Effect.Effect<Verdict>
}

/**
 * Starts a server on a free port of 127.0.0.1; it ends, with all its connections and timers, when the scope closes.
 *
 * **Details**
 *
 * The path chooses the wire format: `…/chat/completions`, `…/v1/messages`, `…/v2/chat` or `…/converse`; the body's `stream`
 * chooses server-sent events or JSON, and `…/converse-stream` binary frames. Other paths get 404 and bodies that are not JSON get 400. Any API key is accepted. Ids
 * and token counts follow from the number and size of the request, so every run sees the same ones.
 *
 * **Gotchas**
 *
 * - It is real HTTP in real time: `TestClock` does not move it. Use `it.live`.
 * - A step that cannot be played (a status of 99, a negative delay) is a defect of `play` and `always`.
 * - A client's departure is noticed when its socket closes, a moment after the client gave up.
 *
 * **Example** (Overloaded, then well again)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { FaultServer } from "effect-resilient-llm/testing"
 *
 * const program = Effect.gen(function*() {
 *   const server = yield* FaultServer.make()
 *   yield* server.play(FaultServer.error("Overloaded"), FaultServer.ok({ text: "Hello." }))
 *   const ask = Effect.promise(async () => {
 *     const response = await fetch(`${server.anthropic}/v1/messages`, {
 *       method: "POST",
 *       body: JSON.stringify({ model: "claude", max_tokens: 9, messages: [{ role: "user", content: "Hi" }] })
 *     })
 *     await response.text()
 *     return response.status
 *   })
 *   return [yield* ask, yield* ask]
 * })
 * await Effect.runPromise(Effect.scoped(program)) // => [529, 200]
 * ```
 *
 * **Example** (Is a client well behaved?)
 *
 * ```ts import.meta.vitest
 * import { Effect, Redacted } from "effect"
 * import { LlmClient } from "effect-resilient-llm"
 * import { OpenAi } from "effect-resilient-llm/providers"
 * import { FaultServer } from "effect-resilient-llm/testing"
 * import { FetchHttpClient } from "effect/http"
 *
 * const program = Effect.gen(function*() {
 *   const server = yield* FaultServer.make()
 *   yield* server.play(FaultServer.error("RateLimit", { retryAfterMs: 300 }), FaultServer.truncate())
 *   const live = OpenAi.layer({ apiKey: Redacted.make("any"), baseUrl: server.openai })
 *   const client = yield* Effect.provide(LlmClient.make([OpenAi], { retry: { baseDelay: "200 millis" } }), live)
 *   yield* client.complete("Hi")
 *   return yield* server.verdict({ answered: 1 })
 * })
 * const { findings } = await Effect.runPromise(Effect.scoped(Effect.provide(program, FetchHttpClient.layer)))
 * findings // => []
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = (options?: Options): Effect.Effect<FaultServer, LlmConfigError, Scope.Scope> =>
  Effect.gen(function*() {
    const random = yield* Random.Random
    const simulation = yield* attempt(() => new Simulation(options, () => random.nextDoubleUnsafe()))
    const port = yield* Effect.acquireRelease(simulation.start, () => simulation.stop)
    const url = `http://127.0.0.1:${port}`
    return {
      url,
      openai: `${url}/v1`,
      anthropic: url,
      cohere: url,
      bedrock: url,
      play: (...steps) => Effect.sync(() => simulation.play(steps)),
      always: (step) => Effect.sync(() => simulation.always(step)),
      reset: Effect.sync(() => simulation.reset()),
      requests: Effect.sync(() => simulation.requests()),
      stats: Effect.sync(() => simulation.stats()),
      verdict: (options) => Effect.sync(() => simulation.verdict(options))
    }
  })
