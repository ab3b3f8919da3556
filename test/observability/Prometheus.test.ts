import { NodeHttpClient } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Metric } from "effect"
import { LlmClient } from "effect-resilient-llm"
import { Metrics, Prometheus } from "effect-resilient-llm/observability"
import * as PrometheusServer from "effect-resilient-llm/observability/PrometheusServer"
import { ScriptedProvider } from "effect-resilient-llm/testing"
import { HttpClient, HttpServer } from "effect/http"
import { run, settings } from "../conformance/Chaos.run.ts"
import { kinds } from "../support.ts"
import { measured } from "./metrics.ts"
import { has, promtool } from "./promtool.ts"

const chaos = (kind: (typeof kinds)[number]) => {
  const targets = [{ id: "p", chaos: true }, { id: "s", chaos: true }] as const
  return run({ kind, seed: "prometheus", calls: 300, targets, options: settings })
}

describe.each(["1.41.0", "latest"] as const)("conventions %s", (semconv) => {
  it.skipIf(!has("promtool"))("promtool takes what a run with faults leaves", () =>
    Effect.runPromise(
      Effect.gen(function*() {
        for (const kind of kinds) yield* chaos(kind)
        const text = yield* Prometheus.text
        assert.isAbove(text.split("\n").length, 300)
        const { code, text: complaints } = promtool(["check", "metrics"], text)
        // Its style guide wants base units in names; the conventions name tokens without.
        assert.strictEqual(complaints, "")
        assert.strictEqual(code, 0)
      }).pipe(measured({ semconv, models: ["m"] }))
    ))
})

it.effect("metrics of others are not served: they could spoil the scrape", () =>
  Effect.gen(function*() {
    yield* Metric.update(Metric.counter("hostile", { attributes: { "a.b": "1", a_b: "2" } }), 1)
    yield* chaos("complete")
    const text = yield* Prometheus.text
    assert.notInclude(text, "hostile")
    assert.match(text, /^llm_calls_total\{operation="complete",target="s",outcome="provider"\} \d+$/m)
    assert.match(text, /^llm_call_duration_seconds_bucket\{.*le="\+Inf"\} \d+$/m)
    assert.match(
      text,
      /^gen_ai_client_operation_duration_seconds_count\{gen_ai_operation_name="chat",gen_ai_provider_name="p"/m
    )
  }).pipe(measured()))

class Vendor extends ScriptedProvider.Service<Vendor>()("vendor") {}

it("a server of its own serves GET /metrics", () =>
  Effect.runPromise(
    Effect.gen(function*() {
      const client = yield* LlmClient
      yield* client.complete("Hi")
      const { address } = yield* HttpServer.HttpServer
      const port = "port" in address ? address.port : 0
      const response = yield* HttpClient.get(`http://127.0.0.1:${port}/metrics`)
      assert.strictEqual(response.headers["content-type"], "text/plain; version=0.0.4; charset=utf-8")
      const text = yield* response.text
      assert.include(text, "llm_calls_total{operation=\"complete\",target=\"vendor\",outcome=\"provider\"} 1")
      assert.strictEqual((yield* HttpClient.get(`http://127.0.0.1:${port}/`)).status, 404)
    }).pipe(
      Effect.provide(PrometheusServer.layer({ port: 0 })),
      Effect.provide(LlmClient.layer([Vendor])),
      Effect.provide([Vendor.layer([ScriptedProvider.answer("Hello.")]), NodeHttpClient.layerUndici]),
      Effect.provide(Metrics.layer()),
      Effect.provideService(Metric.MetricRegistry, new Map()),
      Effect.scoped
    )
  ))
