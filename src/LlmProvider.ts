/**
 * The contract of a provider, and how to define one.
 *
 * @since 0.1.0
 */
import type * as Response from "effect/ai/Response"
import * as Effect from "effect/Effect"
import * as Stream from "effect/Stream"
import { effectOf } from "./internal/effect.ts"
import type { ProviderError } from "./LlmError.ts"
import type { Guard } from "./LlmGuard.ts"
import type { LlmRequest } from "./LlmRequest.ts"
import * as LlmResponse from "./LlmResponse.ts"

/**
 * What a provider makes of a field of a request that its vendor has no place for. `unsupported`: without it the request
 * would ask something else, so this provider must not be asked.
 *
 * @category models
 * @since 0.2.0
 */
export interface Change {
  /** Such as `seed`, `responseFormat`, `prompt.file`. */
  readonly field: string
  readonly action: "dropped" | "substituted" | "unsupported"
  /** How it is sent instead, in a few fixed words: events hold no content. */
  readonly detail?: string | undefined
}

/**
 * Something that can answer: one attempt per invocation, no retries inside, no state that outlives it.
 *
 * **Details**
 *
 * - `generate` returns the parts of one whole answer; `stream` emits stream parts and must end with a `finish` part.
 *   A stream that ends without one counts as truncated.
 * - `response-metadata` parts carry the served model (`modelId`) and, as metadata, what
 *   {@link LlmResponse.httpMetadata} builds: request id and rate-limit facts.
 * - Both receive `request.model` already mapped to this provider's own name, or absent when nothing is known.
 * - Interrupting either must stop the work and free its connection.
 *
 * @category models
 * @since 0.1.0
 */
export interface LlmProvider {
  /** Identifier for errors, ledgers and metrics, such as `openai`. */
  readonly id: string
  /** Asked when a request names no model, or one this provider has no mapping for. */
  readonly defaultModel?: string | undefined
  /** Logical model name → this provider's name. */
  readonly models?: Readonly<Record<string, string>> | undefined
  /**
   * The name in a part's `options` under which this provider finds the marks of its own reasoning; reasoning of others
   * is not sent to it, and the ledger says so. `false`: it takes none. Absent: it decides by itself, silently.
   */
  readonly reasoning?: string | false | undefined
  /**
   * Stands in front of each attempt, and hears how it ended: how a pool picks the host to ask. It is asked after the
   * patterns that wait, right before the circuit breaker.
   */
  readonly guard?: Guard<ProviderError> | undefined
  /** The name under which `providerOptions` of a request are meant for it; the `id` by default. */
  readonly vendor?: string | undefined
  /**
   * Says, without asking anybody, what this provider will leave out of a request or send in another way. The ledger
   * tells it; with an `unsupported` the target is skipped. Absent: nothing.
   */
  readonly changes?: ((request: LlmRequest) => ReadonlyArray<Change>) | undefined
  /**
   * `false`: it does nothing with a request's `metadata`, and is not given it. Where no target reads it, questions that
   * differ only there are the same question. Default: it may read it.
   */
  readonly readsMetadata?: boolean | undefined
  /**
   * What it lacks to be asked at all: the name of a variable that is not set. A client leaves it out. Absent: nothing.
   */
  readonly missing?: string | undefined
  readonly generate: (request: LlmRequest) => Effect.Effect<ReadonlyArray<Response.PartEncoded>, ProviderError>
  readonly stream: (request: LlmRequest) => Stream.Stream<Response.StreamPartEncoded, ProviderError>
}

/**
 * What {@link make} needs.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options {
  readonly id: string
  readonly defaultModel?: string | undefined
  readonly models?: Readonly<Record<string, string>> | undefined
  /** See {@link LlmProvider}. */
  readonly reasoning?: string | false | undefined
  readonly vendor?: string | undefined
  readonly changes?: ((request: LlmRequest) => ReadonlyArray<Change>) | undefined
  readonly readsMetadata?: boolean | undefined
  /** A text, or the parts of an answer. */
  readonly generate: (
    request: LlmRequest
  ) => Effect.Effect<string | ReadonlyArray<Response.PartEncoded>, ProviderError>
  /** When absent, `stream` emits what `generate` returns. */
  readonly stream?: ((request: LlmRequest) => Stream.Stream<Response.StreamPartEncoded, ProviderError>) | undefined
}

/**
 * Defines a provider.
 *
 * **Example** (A provider of your own)
 *
 * ```ts import.meta.vitest
 * import { Context, Effect, Layer } from "effect"
 * import { LlmClient, LlmProvider } from "effect-resilient-llm"
 *
 * class Echo extends Context.Service<Echo, LlmProvider.LlmProvider>()("app/Echo") {
 *   static readonly layer = Layer.succeed(Echo, LlmProvider.make({
 *     id: "echo",
 *     generate: (request) => Effect.succeed(`${request.prompt.length} message(s) received`)
 *   }))
 * }
 * const program = Effect.gen(function*() {
 *   const client = yield* LlmClient
 *   return (yield* client.complete("What is AI?")).text
 * })
 * const live = Layer.provide(LlmClient.layer([Echo]), Echo.layer)
 * await Effect.runPromise(Effect.provide(program, live)) // => "1 message(s) received"
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = (options: Options): LlmProvider => {
  const generate: LlmProvider["generate"] = (request) =>
    Effect.map(effectOf(options.generate(request), "provider", options.id), LlmResponse.toParts)
  return {
    id: options.id,
    defaultModel: options.defaultModel,
    models: options.models,
    reasoning: options.reasoning,
    vendor: options.vendor,
    changes: options.changes,
    readsMetadata: options.readsMetadata,
    generate,
    stream: options.stream ??
      ((request) =>
        Stream.unwrap(Effect.map(generate(request), (parts) => Stream.fromIterable(LlmResponse.toStreamParts(parts)))))
  }
}
