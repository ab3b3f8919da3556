/**
 * Metrics as Prometheus reads them.
 *
 * Names end in `_seconds` and `_total` as its users expect. Only this library's metrics are served, so labels of other
 * metrics in the application can never spoil the scrape; for all of them in one place use Effect's own
 * `PrometheusMetrics`, which keeps OpenTelemetry's names.
 *
 * @since 0.1.0
 * @see https://prometheus.io/docs/instrumenting/exposition_formats/
 */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as HttpRouter from "effect/http/HttpRouter"
import * as HttpServerResponse from "effect/http/HttpServerResponse"
import type * as Layer from "effect/Layer"
import * as Metric from "effect/Metric"
import * as PrometheusMetrics from "effect/observability/PrometheusMetrics"
import { prometheusNames } from "./internal/table.ts"

/**
 * The metrics of this moment, in the text format 0.0.4.
 *
 * **Example** (What a scrape sees)
 *
 * ```ts import.meta.vitest
 * import { Effect, Layer, Metric } from "effect"
 * import { LlmClient } from "effect-resilient-llm"
 * import { Metrics, Prometheus } from "effect-resilient-llm/observability"
 * import { ScriptedProvider } from "effect-resilient-llm/testing"
 *
 * class Vendor extends ScriptedProvider.Service<Vendor>()("vendor") {}
 *
 * const live = LlmClient.layer([Vendor]).pipe(
 *   Layer.provide([Metrics.layer(), Vendor.layer([ScriptedProvider.answer("Hello.")])])
 * )
 * const program = Effect.gen(function*() {
 *   const client = yield* LlmClient
 *   yield* client.complete("Hi")
 *   return (yield* Prometheus.text).split("\n").filter((line) => line.startsWith("llm_attempts_total"))
 * })
 * const alone = Effect.provideService(Metric.MetricRegistry, new Map()) // as in tests: numbers of its own
 * const lines = await Effect.runPromise(alone(Effect.provide(program, live)))
 * lines // => ['llm_attempts_total{target="vendor",provider="vendor",operation="complete",outcome="success"} 1']
 * ```
 *
 * @category accessors
 * @since 0.1.0
 */
export const text: Effect.Effect<string> = Effect.contextWith((context: Context.Context<never>) => {
  const own = new Map([...Context.get(context, Metric.MetricRegistry)].filter(([, { id }]) => prometheusNames.has(id)))
  return Effect.sync(() =>
    PrometheusMetrics.formatUnsafe(Context.add(context, Metric.MetricRegistry, own), {
      metricNameMapper: (name) => prometheusNames.get(name) ?? name
    })
  )
})

const contentType = "text/plain; version=0.0.4; charset=utf-8"

/**
 * Adds `GET /metrics` to an HTTP router.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerHttp = (options?: {
  /** Default `/metrics`. */
  readonly path?: HttpRouter.PathInput | undefined
}): Layer.Layer<never, never, HttpRouter.HttpRouter> =>
  HttpRouter.add(
    "GET",
    options?.path ?? "/metrics",
    Effect.map(text, (body) => HttpServerResponse.text(body, { contentType }))
  )
