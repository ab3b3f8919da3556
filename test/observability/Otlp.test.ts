// Loopback: a collector of our own, over real HTTP and real time where sockets matter, else under the test clock.
import { assert, describe, it } from "@effect/vitest"
import { Cause, ConfigProvider, Effect, Exit, Layer, Logger, Metric, Schedule, type Scope } from "effect"
import { LlmError } from "effect-resilient-llm"
import { Logging, Metrics, Otlp } from "effect-resilient-llm/observability"
import { FetchHttpClient, HttpClient, HttpClientResponse } from "effect/http"
import { OtlpExporter } from "effect/observability"
import { TestClock } from "effect/testing"
import { execFile } from "node:child_process"
import { createServer, type ServerResponse } from "node:http"
import { type AddressInfo, type Socket } from "node:net"
import { fileURLToPath } from "node:url"
import { promisify } from "node:util"
import { run, settings, targetIds } from "../conformance/Chaos.run.ts"
import { keyOf, tally } from "./metrics.ts"

interface Attribute {
  readonly key: string
  readonly value: Readonly<Record<string, unknown>>
}

interface Span {
  readonly name: string
  readonly spanId: string
  readonly traceId: string
  readonly parentSpanId?: string
  readonly startTimeUnixNano: string
  readonly endTimeUnixNano: string
  readonly attributes: ReadonlyArray<Attribute>
  readonly status: { readonly code: number; readonly message?: string }
}

interface Line {
  readonly body: { readonly stringValue: string }
  readonly severityText: string
  readonly attributes: ReadonlyArray<Attribute>
}

interface Point {
  readonly attributes: ReadonlyArray<Attribute>
  readonly count?: number | string
  readonly asInt?: number | string
  readonly asDouble?: number | string
}

interface Measured {
  readonly name: string
  readonly sum?: { readonly dataPoints: ReadonlyArray<Point> }
  readonly histogram?: { readonly dataPoints: ReadonlyArray<Point> }
}

interface Batch {
  readonly path: string
  readonly headers: Readonly<Record<string, unknown>>
  readonly body: string
}

class Collected {
  readonly batches: Array<Batch> = []

  private read<A>(path: string): ReadonlyArray<A> {
    return this.batches.filter((batch) => batch.path.endsWith(path)).map(({ body }) => JSON.parse(body) as A)
  }

  get spans(): ReadonlyArray<Span> {
    type Body = { resourceSpans: ReadonlyArray<{ scopeSpans: ReadonlyArray<{ spans: ReadonlyArray<Span> }> }> }
    return this.read<Body>("/v1/traces").flatMap(({ resourceSpans }) =>
      resourceSpans.flatMap(({ scopeSpans }) => scopeSpans.flatMap(({ spans }) => spans))
    )
  }

  get lines(): ReadonlyArray<Line> {
    type Body = { resourceLogs: ReadonlyArray<{ scopeLogs: ReadonlyArray<{ logRecords: ReadonlyArray<Line> }> }> }
    return this.read<Body>("/v1/logs").flatMap(({ resourceLogs }) =>
      resourceLogs.flatMap(({ scopeLogs }) => scopeLogs.flatMap(({ logRecords }) => logRecords))
    )
  }

  /** Counters and counts of histograms, as the last export has them. */
  get counts(): ReadonlyMap<string, number> {
    type Body = {
      resourceMetrics: ReadonlyArray<{ scopeMetrics: ReadonlyArray<{ metrics: ReadonlyArray<Measured> }> }>
    }
    const last = this.read<Body>("/v1/metrics").at(-1)
    const counts = new Map<string, number>()
    for (const { histogram, name, sum } of last?.resourceMetrics[0]?.scopeMetrics[0]?.metrics ?? []) {
      if (!name.startsWith("llm_")) continue
      for (const { asDouble, asInt, attributes, count } of (sum ?? histogram)?.dataPoints ?? []) {
        const value = Number(count ?? asInt ?? asDouble)
        if (value > 0) counts.set(keyOf(name, facts(attributes)), value)
      }
    }
    return counts
  }

  get resource(): Readonly<Record<string, unknown>> {
    type Body = { resourceSpans: ReadonlyArray<{ resource: { attributes: ReadonlyArray<Attribute> } }> }
    const [first] = this.read<Body>("/v1/traces")
    return facts(first?.resourceSpans[0]?.resource.attributes ?? [])
  }
}

const facts = (attributes: ReadonlyArray<Attribute>): Readonly<Record<string, string>> =>
  Object.fromEntries(attributes.map(({ key, value }) => [key, String(Object.values(value)[0])]))

/** Answers, or keeps its callers waiting. */
class Collector extends Collected {
  hangs = false
  readonly sockets = new Set<Socket>()
  most = 0
  readonly waiting: Array<ServerResponse> = []
  endpoint = ""

  static readonly make = Effect.acquireRelease(
    Effect.callback<Collector>((resume) => {
      const self = new Collector()
      const server = createServer((request, response) => {
        let body = ""
        request.on("data", (chunk) => {
          body += String(chunk)
        })
        request.on("end", () => {
          if (self.hangs) return void self.waiting.push(response)
          self.batches.push({ path: request.url ?? "", headers: request.headers, body })
          response.setHeader("content-type", "application/json").end("{}")
        })
      })
      server.on("connection", (socket) => {
        self.sockets.add(socket)
        self.most = Math.max(self.most, self.sockets.size)
        socket.on("close", () => self.sockets.delete(socket))
      })
      self.close = () => {
        server.close()
        server.closeAllConnections()
      }
      server.listen(0, "127.0.0.1", () => {
        self.endpoint = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
        resume(Effect.succeed(self))
      })
    }),
    (self) => Effect.sync(() => self.close())
  )

  private close = (): void => undefined
}

const fetching = Layer.provide(FetchHttpClient.layer)
const traced = (name: string) => Effect.withSpan(Effect.void, name)
const until = (condition: () => boolean) =>
  Effect.suspend(() => condition() ? Effect.void : Effect.fail("not yet")).pipe(
    Effect.retry(Schedule.spaced("20 millis")),
    Effect.timeout("10 seconds")
  )

it.effect.each([["timeout", {}], ["timeout", 0], ["exportInterval", {}], ["exportInterval", -1]] as const)(
  "%s must be a duration: %j",
  ([option, value]) =>
    Effect.gen(function*() {
      const exit = yield* Effect.exit(Effect.scoped(Layer.build(Otlp.layer({ [option]: value }).pipe(fetching))))
      const error = Exit.isFailure(exit) ? Cause.squash(exit.cause) : undefined
      assert.instanceOf(error, LlmError.LlmConfigError)
      assert.strictEqual(error.path, option)
    })
)

describe("loopback", () => {
  it("spans, metrics and log lines of a chaos run arrive complete", async () => {
    const plan = {
      kind: "complete",
      seed: "collected",
      calls: 600,
      targets: targetIds.map((id) => ({ id, chaos: true })),
      options: settings
    } as const
    const { collector, log } = await Effect.runPromise(Effect.scoped(Effect.gen(function*() {
      const collector = yield* Collector.make
      const telemetry = Otlp.layer({
        endpoint: collector.endpoint,
        serviceName: "shop",
        serviceVersion: "1.2",
        attributes: { "deployment.environment.name": "test" },
        headers: { "x-key": "k" }
      }).pipe(fetching)
      const log = yield* run(plan).pipe(
        Effect.provide([Logging.layer(), Metrics.layer()]),
        Effect.provide(telemetry),
        Effect.provideService(Metric.MetricRegistry, new Map()),
        Effect.provideService(Logger.CurrentLoggers, new Set())
      )
      return { collector, log }
    })))
    const of = (tag: string) => log.events.filter(({ _tag }) => _tag === tag)
    const calls = collector.spans.filter(({ name }) => name === "llm.call")
    const attempts = collector.spans.filter(({ name }) => name === "llm.attempt")
    assert.strictEqual(calls.length, of("CallStarted").length)
    assert.strictEqual(attempts.length, of("AttemptStarted").length)
    const byId = new Map(calls.map((span) => [span.spanId, span]))
    for (const attempt of attempts) {
      const call = byId.get(attempt.parentSpanId ?? "")
      assert.isDefined(call)
      assert.strictEqual(attempt.traceId, call.traceId)
      assert.isAtLeast(Number(attempt.startTimeUnixNano), Number(call.startTimeUnixNano))
    }
    const failed = (spans: ReadonlyArray<Span>) => spans.filter(({ status }) => status.code === 2)
    assert.strictEqual(failed(attempts).length, of("AttemptFailed").length)
    for (const { attributes } of failed([...calls, ...attempts])) assert.isString(facts(attributes)["error.type"])
    assert.strictEqual(
      collector.lines.filter(({ body }) => body.stringValue === "LLM call failed").length,
      log.events.filter((event) => event._tag === "CallEnded" && event.outcome === "failure").length
    )
    assert.deepStrictEqual([...collector.counts].toSorted(), [...tally(log.events)].toSorted())
    assert.deepInclude(collector.resource, {
      "service.name": "shop",
      "service.version": "1.2",
      "deployment.environment.name": "test"
    })
    assert.strictEqual(collector.batches[0]?.headers["x-key"], "k")
    assert.isUndefined(collector.batches[0]?.headers["traceparent"])
  })

  it("a collector that accepts and hangs: few sockets, no waiting; what comes after it recovers arrives", async () => {
    await Effect.runPromise(Effect.scoped(Effect.gen(function*() {
      const collector = yield* Collector.make
      collector.hangs = true
      const telemetry = Otlp.layer({
        endpoint: collector.endpoint,
        serviceName: "shop",
        exportInterval: "50 millis",
        timeout: "400 millis"
      }).pipe(fetching)
      yield* Effect.gen(function*() {
        for (let i = 0; i < 20; i++) {
          yield* Effect.forEach(Array.from({ length: 100 }), () => traced("lost"))
          yield* Effect.sleep("50 millis")
        }
        assert.isAtLeast(collector.waiting.length, 2)
        // Two of each of three kinds at a time; the server learns later that those before them are gone.
        assert.isAtMost(collector.most, 2 * 6)
        collector.hangs = false
        yield* traced("kept")
        yield* until(() => collector.spans.some(({ name }) => name === "kept"))
        assert.isAtMost(collector.most, 2 * 6)
      }).pipe(Effect.provide(telemetry))
    })))
  }, 30_000)

  it("a collector that hangs for long: calls go on, sockets and memory come to rest", async () => {
    const script = (path: string) => fileURLToPath(new URL(path, import.meta.url))
    const preload = new URL("../preload.ts", import.meta.url).href
    const { stdout } = await promisify(execFile)(process.execPath, [
      "--expose-gc",
      "--import",
      preload,
      script("hanging.ts")
    ])
    const { answered, asked, heaps, most } = JSON.parse(stdout)
    assert.deepStrictEqual([answered, asked], [48_000, 48_000])
    assert.isAtMost(most, 2 * 6, "two for each kind, and those whose end the server has not seen yet")
    const [first, last] = [heaps[0], heaps.at(-1)]
    assert.isAtMost(last, first + 8e6, `${last} bytes after all, ${first} at first: ${heaps}`)
  })
})

// -----------------------------------------------------------------------------
// under the test clock
// -----------------------------------------------------------------------------

/** A collector without a network. */
const scripted = (answer: () => Effect.Effect<Response>) => {
  const seen = Object.assign(new Collected(), { open: 0, most: 0 })
  const client = HttpClient.make((request, url) =>
    Effect.acquireUseRelease(
      Effect.sync(() => {
        seen.open += 1
        seen.most = Math.max(seen.most, seen.open)
      }),
      () =>
        Effect.map(answer(), (response) => {
          const { body, headers } = request
          const text = body._tag === "Uint8Array" ? new TextDecoder().decode(body.body) : ""
          seen.batches.push({ path: url.pathname, headers: { ...headers, host: url.host }, body: text })
          return HttpClientResponse.fromWeb(request, response)
        }),
      () =>
        Effect.sync(() => {
          seen.open -= 1
        })
    )
  )
  return { seen, layer: Layer.provide(Layer.succeed(HttpClient.HttpClient, client)) }
}

const ok = Effect.sync(() => new Response("{}"))
const named = (collected: Collected, name: string) => collected.spans.filter((span) => span.name === name).length

const underClock = <A, E>(effect: Effect.Effect<A, E, Scope.Scope>) =>
  Effect.scoped(effect).pipe(Effect.provide(TestClock.layer()))

it("after a long silence the exporter rests for a minute, then goes on", () =>
  Effect.runPromise(underClock(Effect.gen(function*() {
    let hangs = true
    const { layer, seen } = scripted(() => hangs ? Effect.never : ok)
    yield* Effect.gen(function*() {
      for (let second = 0; second < 30; second++) {
        yield* Effect.forEach(Array.from({ length: 500 }), () => traced("lost"))
        yield* TestClock.adjust("1 second")
      }
      assert.isAtMost(seen.most, 6)
      yield* TestClock.adjust("30 seconds")
      assert.strictEqual(seen.open, 0, "a request that nobody answered is still open")
      hangs = false
      yield* TestClock.adjust("1 minute")
      yield* traced("kept")
      yield* TestClock.adjust("10 seconds")
      assert.strictEqual(named(seen, "kept"), 1)
      assert.isAbove(seen.batches.filter(({ path }) => path === "/v1/metrics").length, 0)
    }).pipe(Effect.provide(layer(Otlp.layer({ endpoint: "http://collector", serviceName: "shop" }))))
  }))))

it("a collector that sends its headers and then hangs is bounded too", () =>
  Effect.runPromise(underClock(Effect.gen(function*() {
    let cancelled = 0
    const endless = () => new Response(new ReadableStream({ cancel: () => void cancelled++ }))
    const { layer } = scripted(() => Effect.sync(endless))
    let later = false
    const flushed = Effect.gen(function*() {
      yield* traced("a")
      const { flush } = yield* OtlpExporter.Flusher
      yield* Effect.forkChild(Effect.andThen(
        flush,
        Effect.sync(() => {
          later = true
        })
      ))
      yield* TestClock.adjust("30 seconds")
      assert.isTrue(later, "the export still waits for a body")
    })
    yield* Effect.provide(flushed, layer(Otlp.layer({ endpoint: "http://collector", serviceName: "shop" })))
  }))))

it("endpoint, headers and names come from the environment", () =>
  Effect.runPromise(underClock(Effect.gen(function*() {
    const { layer, seen } = scripted(() => ok)
    const exported = (env: Record<string, string>, options?: Otlp.Options) =>
      Effect.gen(function*() {
        seen.batches.length = 0
        yield* traced("a").pipe(
          Effect.provide(layer(Otlp.layer(options))),
          Effect.provide(ConfigProvider.layer(ConfigProvider.fromEnvRecord(env)))
        )
        return [seen.batches[0]?.headers["host"], seen.batches[0]?.path, seen.resource["service.name"]]
      })
    assert.deepStrictEqual(yield* exported({}), ["localhost:4318", "/v1/traces", "unknown_service"])
    const env = {
      OTEL_EXPORTER_OTLP_ENDPOINT: "http://somewhere:9/otlp",
      OTEL_EXPORTER_OTLP_HEADERS: "x-key=a%20b",
      OTEL_SERVICE_NAME: "named"
    }
    assert.deepStrictEqual(yield* exported(env), ["somewhere:9", "/otlp/v1/traces", "named"])
    assert.strictEqual(seen.batches[0]?.headers["x-key"], "a b")
    assert.deepStrictEqual(
      yield* exported({ OTEL_RESOURCE_ATTRIBUTES: "service.name=by-attribute,team=blue" }),
      ["localhost:4318", "/v1/traces", "by-attribute"]
    )
    assert.strictEqual(seen.resource["team"], "blue")
    assert.deepStrictEqual(
      yield* exported(env, { endpoint: "http://here", serviceName: "mine", headers: {} }),
      ["here", "/v1/traces", "mine"]
    )
    assert.isUndefined(seen.batches[0]?.headers["x-key"])
  }))))
