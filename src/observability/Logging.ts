/**
 * Structured log lines about calls.
 *
 * One line at the end of each call, and one for each event that is worth knowing while it happens. The message is one of
 * a few fixed sentences; what differs stands in annotations, named as in traces (`llm.target`, `llm.attempts`,
 * `error.type`, …; times in milliseconds). No line holds prompts, completions, keys or addresses. Annotations, spans and
 * loggers are those of the caller, so a line can be found by the caller's own request id and by its trace.
 *
 * @since 0.1.0
 */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import type * as Layer from "effect/Layer"
import * as LogLevel from "effect/LogLevel"
import * as References from "effect/References"
import { attributesOf } from "../internal/attributes.ts"
import type { LlmEvent } from "../LlmEvent.ts"
import * as LlmObserver from "../LlmObserver.ts"

/**
 * The level of an event's line.
 *
 * The default minimum level of Effect is `Info`, and at it a healthy system says nothing:
 *
 * | level | what |
 * | --- | --- |
 * | `Debug` | calls that went well at once, or that their caller left; single retries, skips, waits, refusals |
 * | `Info` | calls that needed more than one attempt; failovers; circuits that close or begin to probe |
 * | `Warn` | calls that failed; stale answers; circuits that open; a store that did not answer |
 * | `Error` | bugs in a provider |
 *
 * A failed call is no `Error` here: its caller has the typed failure, and decides.
 *
 * @category models
 * @since 0.1.0
 */
export const levelOf = (event: LlmEvent): LogLevel.Severity => {
  switch (event._tag) {
    case "CallEnded":
      switch (event.outcome) {
        case "failure":
          return "Warn"
        case "defect":
          return "Error"
        case "interrupted":
          return "Debug"
        default:
          return event.attempts > 1 ? "Info" : "Debug"
      }
    case "FailedOver":
    case "Hedged":
      return "Info"
    case "CircuitChanged":
      return event.to === "open" || event.to === "forced-open" || event.to === "would-open" ? "Warn" : "Info"
    case "StoreChanged":
      return event.to === "down" ? "Warn" : "Info"
    case "Cache":
      return event.result === "stale" ? "Warn" : "Debug"
    case "Idempotency":
      return event.result === "unavailable" ? "Warn" : "Debug"
    default:
      return "Debug"
  }
}

/**
 * Installs the log lines for the clients that this layer is provided to. `level` decides otherwise than {@link levelOf}
 * how loud an event is; events for which it returns `undefined` have no line.
 *
 * **Example** (What an outage looks like)
 *
 * ```ts import.meta.vitest
 * import { Effect, Layer, Logger } from "effect"
 * import { LlmClient } from "effect-resilient-llm"
 * import { Logging } from "effect-resilient-llm/observability"
 * import { ScriptedProvider } from "effect-resilient-llm/testing"
 *
 * class Primary extends ScriptedProvider.Service<Primary>()("app/Primary") {}
 * class Secondary extends ScriptedProvider.Service<Secondary>()("app/Secondary") {}
 *
 * const live = LlmClient.layer([Primary, Secondary], { retry: false }).pipe(
 *   Layer.provide(Logging.layer()),
 *   Layer.provide(Primary.layer([ScriptedProvider.overloaded])),
 *   Layer.provide(Secondary.layer([ScriptedProvider.answer("Here I am.")]))
 * )
 * const lines: Array<unknown> = []
 * const logger = Logger.layer([Logger.map(Logger.formatStructured, ({ level, message }) => {
 *   lines.push([level, message])
 * })])
 * const program = Effect.flatMap(LlmClient, (client) => client.complete("Hi"))
 * await Effect.runPromise(program.pipe(Effect.provide(live), Effect.provide(logger)))
 * lines // => [["INFO", "LLM call moves on to the next target"], ["INFO", "LLM call answered"]]
 * ```
 *
 * @category layers
 * @since 0.1.0
 */
export const layer = (options: {
  readonly level?: ((event: LlmEvent) => LogLevel.Severity | undefined) | undefined
} = {}): Layer.Layer<never> => {
  const { level = levelOf } = options
  const observer: LlmObserver.Observer = () =>
    Effect.succeed((event, caller) => {
      const message = messageOf(event)
      if (message === undefined) return
      const severity = level(event)
      if (
        severity === undefined ||
        LogLevel.isGreaterThan(Context.get(caller, References.MinimumLogLevel), severity)
      ) return
      const annotations = { ...Context.get(caller, References.CurrentLogAnnotations), ...attributesOf(event) }
      if (event.call > 0) annotations["llm.call"] = event.call
      Effect.runForkWith(Context.add(caller, References.CurrentLogAnnotations, annotations))(
        Effect.logWithLevel(severity)(message)
      )
    })
  return LlmObserver.layer(observer, { identity: level })
}

/** One of a few sentences, so that lines of one kind can be counted. What has none is told by the line of the call. */
const messageOf = (event: LlmEvent): string | undefined => {
  switch (event._tag) {
    case "CallEnded":
      switch (event.outcome) {
        case "failure":
          return "LLM call failed"
        case "interrupted":
          return "LLM call interrupted"
        case "defect":
          return "LLM call died of a bug"
        default:
          return "LLM call answered"
      }
    case "AttemptFailed":
      return "LLM attempt failed"
    case "AttemptRefused":
      return "LLM attempt refused by its guards"
    case "RetryScheduled":
      return "LLM call is retried"
    case "RetryDenied":
      return "LLM call is not retried"
    case "TargetSkipped":
      return "LLM target skipped"
    case "Hedged":
      return event.result === "started" ? "LLM target is slow, another attempt starts" : "LLM hedge cannot be paid"
    case "Shadowed":
      return `LLM ${event.by} in shadow mode: ${event.decision}`
    case "FailedOver":
      return "LLM call moves on to the next target"
    case "ModelSubstituted":
      return "LLM model substituted"
    case "Waited":
      return "LLM attempt waited"
    case "Cache":
      return event.result === "stale" ? "LLM answer is stale" : undefined
    case "Idempotency":
      return event.result === "unavailable" ? "LLM idempotency store did not answer" : undefined
    case "CircuitChanged":
      return `LLM circuit is ${event.to}`
    case "StoreChanged":
      return `LLM store is ${event.to}`
    default:
      return undefined
  }
}
