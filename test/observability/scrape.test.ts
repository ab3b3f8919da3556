// A real Prometheus scrapes a client in trouble, and answers what the dashboard and the alerts ask.
import { assert, it } from "@effect/vitest"
import { Effect, Layer, Metric, Schedule, Stream } from "effect"
import { LlmClient, LlmError, LlmProvider } from "effect-resilient-llm"
import { Metrics } from "effect-resilient-llm/observability"
import * as PrometheusServer from "effect-resilient-llm/observability/PrometheusServer"
import { Store } from "effect-resilient-llm/persistence"
import { Idempotency } from "effect-resilient-llm/resilience"
import { HttpServer } from "effect/http"
import { spawn } from "node:child_process"
import { mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { createServer } from "node:net"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { queries } from "./dashboard.ts"
import { has } from "./promtool.ts"

const freePort = Effect.callback<number>((resume) => {
  const server = createServer().listen(0, "127.0.0.1", () => {
    const address = server.address()
    server.close(() => resume(Effect.succeed(typeof address === "object" && address !== null ? address.port : 0)))
  })
})

const usage = {
  inputTokens: { total: 5, uncached: undefined, cacheRead: undefined, cacheWrite: undefined },
  outputTokens: { total: 2, text: undefined, reasoning: undefined }
}

const provider = (id: string, isBad: () => boolean): LlmProvider.LlmProvider => {
  const begin = Effect.delay(
    Effect.suspend(() =>
      isBad()
        ? Effect.fail(new LlmError.ProviderError({ provider: id, reason: { _tag: "Overloaded" } }))
        : Effect.void
    ),
    20
  )
  const finish = { type: "finish", reason: "stop", usage } as const
  return LlmProvider.make({
    id,
    generate: () => Effect.as(begin, [{ type: "text", text: "Hello." }, finish] as const),
    stream: () =>
      Stream.concat(
        Stream.fromEffect(Effect.as(begin, { type: "text-delta", id: "0", delta: "Hello." } as const)),
        Stream.fromEffect(Effect.delay(Effect.succeed(finish), 5))
      )
  })
}

/** A store that is away half of the time. */
const flaky = Effect.map(Store.memory<string>({ maxEntries: 1000 }), (store) => {
  let operations = 0
  const orFails = <A>(operation: Store.Operation, self: Effect.Effect<A, Store.StoreError>) =>
    Effect.suspend(() => operations++ % 40 < 20 ? Effect.fail(new Store.StoreError({ operation })) : self)
  return {
    ...store,
    acquire: (...args: Parameters<typeof store.acquire>) => orFails("acquire", store.acquire(...args)),
    get: (...args: Parameters<typeof store.get>) => orFails("get", store.get(...args))
  }
})

/** Every pattern has something to do: failures, waits, refusals, hedges, failover, hits, stale answers. */
let asked = 0
const live = LlmClient.layerDynamic([
  { provider: provider("p", () => asked++ % 3 > 0), id: "p", bulkhead: { maxConcurrent: 2, queue: 2 } },
  {
    provider: provider("s", () => asked % 20 > 8),
    id: "s",
    limits: [{ dimension: "requests", limit: 50, per: "1 second" }]
  }
], {
  cache: { readThrough: true },
  retry: { maxRetries: 1, baseDelay: 20 },
  circuitBreaker: { failureThreshold: 4, recoveryTimeout: 300 },
  hedge: { delay: 15 },
  rateLimit: { capacity: 5, refillPerSecond: 20, mode: "shadow" },
  routing: { sticky: "tenant" },
  loadShedding: { throttle: {} }
})

it.skipIf(!has("prometheus"))(
  "a real Prometheus scrapes it, and the dashboard's queries have answers",
  () =>
    Effect.runPromise(
      Effect.gen(function*() {
        const client = yield* LlmClient
        const { address } = yield* HttpServer.HttpServer
        const target = `127.0.0.1:${"port" in address ? address.port : 0}`
        const port = yield* freePort
        const folder = mkdtempSync(join(tmpdir(), "prometheus-"))
        const rules = fileURLToPath(new URL("../../docs/observability/alerts.yml", import.meta.url))
        writeFileSync(
          join(folder, "prometheus.yml"),
          JSON.stringify({
            global: { scrape_interval: "1s", evaluation_interval: "1s" },
            rule_files: [rules],
            scrape_configs: [{ job_name: "llm", static_configs: [{ targets: [target] }] }]
          })
        )
        yield* Effect.acquireRelease(
          Effect.sync(() =>
            spawn("prometheus", [
              `--config.file=${folder}/prometheus.yml`,
              `--storage.tsdb.path=${folder}/data`,
              `--web.listen-address=127.0.0.1:${port}`
            ], { stdio: "ignore" })
          ),
          (child) =>
            Effect.callback<void>((resume) => {
              child.once("exit", () => {
                rmSync(folder, { recursive: true, force: true })
                resume(Effect.void)
              })
              child.kill("SIGKILL")
            })
        )
        const ask = (query: string) =>
          Effect.tryPromise(async () => {
            const response = await fetch(`http://127.0.0.1:${port}/api/v1/query?query=${encodeURIComponent(query)}`)
            const { data } = await response.json() as { readonly data: { readonly result: ReadonlyArray<unknown> } }
            return data.result
          })
        const one = (n: number): Effect.Effect<unknown> =>
          n % 2 === 0
            ? Effect.exit(
              client.complete({ prompt: `${n % 7}`, cache: "always", idempotencyKey: `${n % 50}`, tenant: "a" })
            )
            : Effect.exit(Stream.runDrain(client.stream(`${n % 5}`)))
        let n = 0
        yield* Effect.forkScoped(
          Effect.forever(
            Effect.andThen(
              Effect.forkScoped(Effect.suspend(() => one(n++)), { startImmediately: true }),
              Effect.sleep(5)
            )
          )
        )
        const scraped = Effect.flatMap(ask("count_over_time(up{job=\"llm\"}[1m])"), (result) =>
          JSON.stringify(result).includes("\"4\"") ? Effect.void : Effect.fail("not yet"))
        yield* Effect.retry(scraped, { schedule: Schedule.spaced(250), times: 100 })
        const silent: Array<string> = []
        for (const query of queries("5s")) {
          if ((yield* ask(query)).length === 0) {
            silent.push(query)
          }
        }
        assert.deepStrictEqual(silent, [])
        assert.deepStrictEqual(yield* ask("up{job=\"llm\"} == 0"), [])
      }).pipe(
        Effect.provide(PrometheusServer.layer({ port: 0 })),
        Effect.provide(live.pipe(Layer.provide(Layer.effect(Idempotency.IdempotencyStore, flaky)))),
        Effect.provide(Metrics.layer()),
        Effect.provideService(Metric.MetricRegistry, new Map()),
        Effect.scoped
      )
    ),
  30_000
)
