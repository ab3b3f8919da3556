/**
 * The client behind an HTTP server: the status of a failure, and streams as server-sent events.
 *
 * Everything here is of the web platform (`Response`, `ReadableStream`), which every server takes; `effect/http` does by
 * `HttpServerResponse.fromWeb`.
 *
 * @since 0.2.0
 */
import type * as Cause from "effect/Cause"
import type * as Context from "effect/Context"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Sse from "effect/encoding/Sse"
import * as Exit from "effect/Exit"
import { dual } from "effect/Function"
import * as Pull from "effect/Pull"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as LlmError from "./LlmError.ts"
import { NAMESPACE, type StreamPart } from "./LlmResponse.ts"

// -----------------------------------------------------------------------------
// failures
// -----------------------------------------------------------------------------

/**
 * What a server answers when a call failed.
 *
 * @category models
 * @since 0.2.0
 */
export interface Status {
  readonly status: number
  /** `retry-after` in whole seconds, where it is known when to come back. */
  readonly headers: Readonly<Record<string, string>>
}

/**
 * The HTTP status for a failure of a call.
 *
 * **Details**
 *
 * | status | failures |
 * | --- | --- |
 * | 400 | a request that we or a provider cannot read, is too long for the model, or refused for its content |
 * | 409 | an idempotency key that was used with another request, or is being worked on elsewhere |
 * | 413 | a request that is too large |
 * | 429 | a limit of ours or of a provider |
 * | 499 | the client has left |
 * | 502 | a provider that failed, is misconfigured here, broke a stream, or gave no value that fits |
 * | 503 | nobody can be asked now: circuits open, no permits, overload, quota, turned away |
 * | 504 | a limit of time |
 * | 500 | anything else |
 *
 * When all providers failed, it is the status that all of their failures have, or else 502. The errors of
 * `effect-resilient-llm/promise` have the status of the failure behind them.
 *
 * **Example** (Come back in a minute)
 *
 * ```ts import.meta.vitest
 * import { Duration } from "effect"
 * import { LlmError, LlmHttp } from "effect-resilient-llm"
 *
 * const error = new LlmError.AllProvidersUnavailable({ retryAfter: Duration.millis(59_001) })
 * LlmHttp.status(error) // => { status: 503, headers: { "retry-after": "60" } }
 * ```
 *
 * @category conversions
 * @since 0.2.0
 */
export const status = (error: unknown): Status => {
  const behind = failureOf(error)
  const after = LlmError.retryAfterMillis(behind)
  return {
    status: codeOf(behind),
    headers: after === undefined ? {} : { "retry-after": String(Math.ceil(after / 1000)) }
  }
}

/** What a promise rejects with is a plain error round one of ours. */
const failureOf = (error: unknown): unknown =>
  !LlmError.isLlmError(error) && error instanceof Error && isKnown(error.cause) ? error.cause : error

const isKnown = (u: unknown): boolean => LlmError.isLlmError(u) || u instanceof LlmError.InvalidOutput

const ofReason = (reason: LlmError.Reason): number => {
  switch (reason._tag) {
    case "RateLimit":
      return 429
    case "Overloaded":
    case "Quota":
      return 503
    case "Timeout":
      return 504
    case "ContextLength":
    case "ContentPolicy":
    case "InvalidRequest":
      return 400
    case "PayloadTooLarge":
      return 413
    case "ClientClosed":
      return 499
    default:
      return 502
  }
}

const byTag: Readonly<Record<Exclude<LlmError.LlmError["_tag"], "ProviderError" | "AllProvidersFailed">, number>> = {
  InvalidRequest: 400,
  IdempotencyConflict: 409,
  IdempotencyInProgress: 409,
  RateLimited: 429,
  BulkheadFull: 503,
  CircuitOpen: 503,
  Shed: 503,
  AllProvidersUnavailable: 503,
  AttemptTimeout: 504,
  DeadlineExceeded: 504,
  StreamInterrupted: 502
}

const codeOf = (error: unknown): number => {
  if (error instanceof LlmError.InvalidOutput) return 502
  if (!LlmError.isLlmError(error)) return 500
  if (error._tag === "ProviderError") return ofReason(error.reason)
  if (error._tag === "AllProvidersFailed") {
    const codes = new Set(error.errors.map(codeOf))
    const [code = 502] = codes
    return codes.size === 1 ? code : 502
  }
  return byTag[error._tag]
}

const tagOf = (error: unknown): string =>
  typeof error === "object" && error !== null && "_tag" in error && typeof error._tag === "string"
    ? error._tag
    : "UnknownError"

// A bug of ours, or an error of somebody else, may say what no client should read.
const publicOf = (error: unknown): object => {
  const behind = failureOf(error)
  return LlmError.isLlmError(behind) || behind instanceof LlmError.InvalidOutput
    ? { tag: behind._tag, message: LlmError.withoutWords(behind.message) }
    : { tag: tagOf(behind), message: "The request failed." }
}

/**
 * A failure as a response: its {@link status}, and a JSON body with tag and message.
 *
 * @category conversions
 * @since 0.2.0
 */
export const failure = (error: unknown): Response => {
  const { headers, status: code } = status(error)
  return new Response(JSON.stringify({ error: publicOf(error) }), {
    status: code,
    headers: { ...headers, "content-type": "application/json" }
  })
}

// -----------------------------------------------------------------------------
// streams
// -----------------------------------------------------------------------------

/**
 * How a stream is written.
 *
 * @category models
 * @since 0.2.0
 */
export interface SseOptions {
  /** How often a comment keeps the connection alive while nothing comes. Default 15 seconds; `false` for never. */
  readonly keepAlive?: Duration.Input | false | undefined
}

const encoded = new TextEncoder()
const event = (name: string, data: unknown): Uint8Array =>
  encoded.encode(
    Sse.encoder.write({ _tag: "Event", event: name, id: undefined, data: JSON.stringify(data) ?? "null" })
  )
const comment = encoded.encode(": keep-alive\n\n")

/** What a vendor says of your account's limits is not for those who are served. */
const withoutLimits = (part: StreamPart): StreamPart => {
  if (part.type !== "response-metadata") return part
  const own = part.metadata?.[NAMESPACE]
  if (typeof own !== "object" || own === null) return part
  const others = Object.fromEntries(Object.entries(own).filter(([name]) => name !== "rateLimits"))
  return { ...part, metadata: { ...part.metadata, [NAMESPACE]: others } }
}

/**
 * Parts as server-sent events: one `message` with each part as JSON (without what the vendor says of your limits), and,
 * when the stream breaks, an `error` event with `status`, `tag` and `message`. It never fails: what is on its way cannot
 * change its status any more.
 *
 * **Example** (What travels)
 *
 * ```ts import.meta.vitest
 * import { Effect, Stream } from "effect"
 * import { LlmError, LlmHttp } from "effect-resilient-llm"
 *
 * const broken = new LlmError.StreamInterrupted({ provider: "openai", kind: "reset", partialParts: 1 })
 * const parts = Stream.concat(Stream.make({ type: "text-delta", id: "0", delta: "Hi" } as const), Stream.fail(broken))
 * const text = await Effect.runPromise(Stream.mkString(Stream.decodeText(LlmHttp.toSse(parts))))
 * text.split("\n\n")[0] // => "data: {\"type\":\"text-delta\",\"id\":\"0\",\"delta\":\"Hi\"}"
 * text.split("\n")[2] // => "event: error"
 * ```
 *
 * @category conversions
 * @since 0.2.0
 */
export const toSse: {
  (options?: SseOptions): <E, R>(parts: Stream.Stream<StreamPart, E, R>) => Stream.Stream<Uint8Array, never, R>
  <E, R>(parts: Stream.Stream<StreamPart, E, R>, options?: SseOptions): Stream.Stream<Uint8Array, never, R>
} = dual(
  (args) => Stream.isStream(args[0]),
  <E, R>(parts: Stream.Stream<StreamPart, E, R>, options: SseOptions = {}): Stream.Stream<Uint8Array, never, R> => {
    const events = parts.pipe(
      Stream.map((part) => event("message", withoutLimits(part))),
      Stream.catch((error) => Stream.succeed(event("error", { ...publicOf(error), status: codeOf(error) })))
    )
    const { keepAlive = "15 seconds" } = options
    if (keepAlive === false) return events
    const alive = Stream.forever(Stream.fromEffect(Effect.delay(Effect.succeed(comment), keepAlive)))
    return Stream.merge(events, alive, { haltStrategy: "left" })
  }
)

/**
 * How a stream becomes a response.
 *
 * @category models
 * @since 0.2.0
 */
export interface ResponseOptions extends SseOptions {
  /** Server-sent events (default), or nothing but the text, as it comes. */
  readonly as?: "sse" | "text" | undefined
  readonly headers?: Readonly<Record<string, string>> | undefined
}

/**
 * A stream as a streamed response.
 *
 * **Details**
 *
 * - It waits for the first part, so that a call that fails before it does so here, with a status of its own (see
 *   {@link failure}).
 * - What the stream holds is held as long as the body lasts, and let go when the client leaves.
 * - A body that nobody reads or cancels holds it until the call's own limits of time.
 *
 * **Example** (A handler)
 *
 * ```ts import.meta.vitest
 * import { Effect, Layer } from "effect"
 * import { LlmClient, LlmHttp } from "effect-resilient-llm"
 * import { ScriptedProvider } from "effect-resilient-llm/testing"
 *
 * class Vendor extends ScriptedProvider.Service<Vendor>()("app/Vendor") {}
 *
 * const handler = Effect.gen(function*() {
 *   const client = yield* LlmClient
 *   return yield* LlmHttp.toResponse(client.stream("What is AI?"), { as: "text" })
 * }).pipe(Effect.catch((error) => Effect.succeed(LlmHttp.failure(error))))
 *
 * const live = LlmClient.layer([Vendor], { retry: false, cache: false }).pipe(
 *   Layer.provide(Vendor.layer([ScriptedProvider.stream("Artificial ", "intelligence."), ScriptedProvider.overloaded]))
 * )
 * const program = Effect.gen(function*() {
 *   const good = yield* handler
 *   const text = yield* Effect.promise(() => good.text())
 *   return [good.status, text, (yield* handler).status]
 * })
 * await Effect.runPromise(Effect.provide(program, live)) // => [200, "Artificial intelligence.", 503]
 * ```
 *
 * @category conversions
 * @since 0.2.0
 */
export const toResponse: {
  (options?: ResponseOptions): <E, R>(parts: Stream.Stream<StreamPart, E, R>) => Effect.Effect<Response, E, R>
  <E, R>(parts: Stream.Stream<StreamPart, E, R>, options?: ResponseOptions): Effect.Effect<Response, E, R>
} = dual(
  (args) => Stream.isStream(args[0]),
  <E, R>(parts: Stream.Stream<StreamPart, E, R>, options: ResponseOptions = {}): Effect.Effect<Response, E, R> =>
    Effect.uninterruptibleMask((restore) =>
      Effect.contextWith((context: Context.Context<R>) => {
        const scope = Scope.makeUnsafe()
        const opened = Effect.flatMap(Scope.provide(Stream.toPull(parts), scope), (pull) =>
          Effect.matchCauseEffect(pull, {
            onSuccess: (first) =>
              Effect.succeed(Stream.concat(Stream.fromIterable(first), Stream.fromPull(Effect.succeed(pull)))),
            onFailure: (cause) =>
              Pull.isDoneCause(cause) ? Effect.succeed(Stream.empty) : Effect.failCause(cause as Cause.Cause<E>)
          }))
        return restore(opened).pipe(
          Effect.onError((cause) =>
            Scope.close(scope, Exit.failCause(cause))
          ),
          Effect.map((stream) => {
            const ending = Stream.ensuring(stream, Scope.close(scope, Exit.void))
            const body = options.as === "text" ? textsOf(ending) : toSse(ending, options)
            const type = options.as === "text" ? "text/plain; charset=utf-8" : "text/event-stream"
            return new Response(Stream.toReadableStreamWith(body, context), {
              headers: { "content-type": type, "cache-control": "no-store", ...options.headers }
            })
          })
        )
      })
    )
)

const textsOf = <E, R>(parts: Stream.Stream<StreamPart, E, R>): Stream.Stream<Uint8Array, E, R> =>
  parts.pipe(
    Stream.filter((part) => part.type === "text-delta"),
    Stream.map((part) => encoded.encode(part.delta))
  )
