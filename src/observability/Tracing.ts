/**
 * What traces say about calls.
 *
 * Where a tracer is installed (`Otlp.layer`, `@effect/opentelemetry`, any `Tracer`), each call is a span `llm.call` and
 * each attempt that reaches a provider a span `llm.attempt` below it. They begin and end with the call's events and are
 * made from nothing else, so they cannot say anything that the ledger does not. Without a tracer nothing is made.
 *
 * | span | kind | attributes |
 * | --- | --- | --- |
 * | `llm.call` | internal | `llm.operation`, `llm.model` (the logical one), `llm.outcome`, `llm.target`, `llm.attempts`, `llm.duration` |
 * | `llm.attempt` | client | `gen_ai.*` (below), `llm.target`, `llm.attempt`, `llm.outcome`, `llm.duration`, `llm.after_commit`; after a retry `llm.retry.delay` and `llm.retry.reason` |
 *
 * - `gen_ai.*` follows version 1.41 of OpenTelemetry's conventions: `operation.name`, `provider.name`,
 *   `request.{model,stream,temperature,top_p,max_tokens,seed}`, `output.type`,
 *   `response.{id,model,finish_reasons,time_to_first_chunk}`,
 *   `usage.{input_tokens,output_tokens,cache_read.input_tokens,cache_creation.input_tokens,reasoning.output_tokens}`. It
 *   stands on attempts alone: who adds up the tokens of all spans counts each token once. `llm.at_least`: they are a lower
 *   bound, because nobody got the answer.
 * - A span that failed has `error.type` (the provider's reason such as `RateLimit`, else the tag of the error such as
 *   `DeadlineExceeded`, `_OTHER` for a bug), `llm.error.status`, `llm.error.code` and `llm.error.request_id` where the
 *   provider told them. One that was interrupted, or lost to another attempt, ends as interrupted, which is not an error.
 * - Everything else is an event of `llm.call` at its moment: `llm.retry_scheduled`, `llm.retry_denied`,
 *   `llm.target_skipped`, `llm.failed_over`, `llm.attempt_refused`, `llm.waited`, `llm.cache`, `llm.idempotency`,
 *   `llm.model_substituted`, `llm.reasoning_dropped`; `llm.attempt_committed` stands on the attempt. Their attributes are
 *   the fields of `LlmEvent`; all times are milliseconds.
 * - A call that joined another one links to its span.
 *
 * **Privacy**
 *
 * Spans below `llm.attempt`, such as those of the HTTP client, belong to the same trace, but without addresses, headers
 * and messages of errors, all of which can hold keys: attributes `url.*` except the scheme and `http.*.header.*` are
 * left out. Built-in providers send no trace headers. Prompts, stop sequences and completions are recorded only with
 * {@link layerContent}.
 *
 * @see https://github.com/open-telemetry/semantic-conventions/blob/v1.41.0/docs/gen-ai/gen-ai-spans.md
 * @since 0.1.0
 */
import type * as Context from "effect/Context"
import * as Layer from "effect/Layer"
import * as Attributes from "../internal/attributes.ts"

/**
 * Takes out of a text what must not be recorded. It is given each text by itself: of a message, of reasoning, the JSON of a
 * tool's parameters or result, a stop sequence. One that throws records nothing.
 *
 * @category models
 * @since 0.1.0
 */
export type Redactor = (text: string) => string

/**
 * Whether prompts and completions of the calls below are recorded, and what is taken out of them first. Default: they
 * are not.
 *
 * @category references
 * @since 0.1.0
 */
export const Content: Context.Reference<Redactor | undefined> = Attributes.Content

/**
 * Records prompts and completions of the calls made below this layer: `gen_ai.input.messages` and
 * `gen_ai.output.messages` as JSON, and `gen_ai.request.stop_sequences`, on each attempt.
 *
 * The last 8192 characters of a conversation are kept. Of files only the media type is recorded.
 *
 * **Example** (Without addresses of e-mail)
 *
 * ```ts import.meta.vitest
 * import { Effect, Layer, Tracer } from "effect"
 * import { LlmClient } from "effect-resilient-llm"
 * import { Tracing } from "effect-resilient-llm/observability"
 * import { ScriptedProvider } from "effect-resilient-llm/testing"
 *
 * class Vendor extends ScriptedProvider.Service<Vendor>()("app/Vendor") {}
 *
 * const spans: Array<Tracer.Span> = []
 * const tracer = Tracer.make({
 *   span: (options) => {
 *     const span = new Tracer.NativeSpan(options)
 *     spans.push(span)
 *     return span
 *   }
 * })
 * const live = Layer.mergeAll(
 *   LlmClient.layer([Vendor]).pipe(Layer.provide(Vendor.layer([ScriptedProvider.answer("Done.")]))),
 *   Tracing.layerContent((text) => text.replaceAll(/\S+@\S+/g, "<e-mail>")),
 *   Layer.succeed(Tracer.Tracer, tracer)
 * )
 * const program = Effect.flatMap(LlmClient, (client) => client.complete("Write to ada@example.com"))
 * await Effect.runPromise(Effect.provide(program, live))
 * spans.map((span) => span.name) // => ["llm.call", "llm.attempt"]
 * const input = spans[1]?.attributes.get("gen_ai.input.messages")
 * input // => '[{"role":"user","parts":[{"type":"text","content":"Write to <e-mail>"}]}]'
 * ```
 *
 * @category layers
 * @since 0.1.0
 */
export const layerContent = (redact: Redactor): Layer.Layer<never> => Layer.succeed(Content, redact)
