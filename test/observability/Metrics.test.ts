import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Exit, Fiber, Layer, Metric, Scope, Stream } from "effect"
import { LlmClient, LlmObserver } from "effect-resilient-llm"
import { Metrics } from "effect-resilient-llm/observability"
import { Chaos, FaultServer, ScriptedProvider } from "effect-resilient-llm/testing"
import { TestClock } from "effect/testing"
import { run, settings } from "../conformance/Chaos.run.ts"
import { always, overloads, succeeds } from "../conformance/support.ts"
import { ask, fork, kinds, setUp, success, timed, vector, vectorOptions } from "../support.ts"
import { counters, measured, observed, series, tally, total } from "./metrics.ts"

describe.each(kinds)("%s", (kind) => {
  it.effect("M2 100 concurrent failures: exactly one circuit opens", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([always(overloads)], { retry: false, circuitBreaker: { failureThreshold: 5 } })
      yield* Effect.all(Array.from({ length: 100 }, () => Effect.exit(ask(kind, r.client))), { concurrency: 100 })
      assert.strictEqual(yield* total("llm_breaker_transitions_total", { target: "p", from: "closed", to: "open" }), 1)
      assert.strictEqual(yield* total("llm_breaker_transitions_total"), 1)
      assert.strictEqual(yield* total("llm_breaker_state", { target: "p" }), 2)
    })).pipe(measured()))

  it.effect("M3 a listener that throws, and one that never reads on: result and timing unchanged", () =>
    vector(Effect.gen(function*() {
      let told = 0
      const broken = LlmObserver.layer(() =>
        Effect.succeed(() => {
          told += 1
          throw new Error("broken listener")
        })
      )
      const quiet = yield* setUp([[overloads, overloads, succeeds]])
      const plain = yield* timed(ask(kind, quiet.client))
      const loud = yield* Effect.provide(setUp([[overloads, overloads, succeeds]]), broken)
      yield* fork(Stream.runForEach(loud.client.events, () => Effect.never))
      const watched = yield* timed(ask(kind, loud.client))
      assert.strictEqual(watched.at, plain.at)
      assert.deepStrictEqual(success(watched.exit).ledger, success(plain.exit).ledger)
      assert.strictEqual(told, 1) // and the metrics, which come after it, still count
      assert.strictEqual(yield* total("llm_calls_total", { outcome: "provider" }), 2)
    })).pipe(measured()))

  it.effect("M4 the caller interrupts: outcome interrupted, the error rate stays", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([always(ScriptedProvider.hang)], { circuitBreaker: { failureThreshold: 1 } })
      const fiber = yield* fork(ask(kind, r.client))
      yield* TestClock.adjust(200)
      assert.strictEqual(yield* total("llm_calls_in_flight", { operation: kind }), 1)
      yield* Fiber.interrupt(fiber)
      assert.strictEqual(yield* total("llm_calls_in_flight", { operation: kind }), 0)
      assert.strictEqual(yield* total("llm_calls_total", { outcome: "interrupted", error: "" }), 1)
      assert.strictEqual(yield* total("llm_attempts_total", { outcome: "interrupted", error: "" }), 1)
      assert.strictEqual(yield* total("llm_attempts_total", { outcome: "failure" }), 0)
      assert.strictEqual(yield* total("gen_ai.client.operation.duration"), 0)
      assert.strictEqual(yield* total("llm_breaker_state"), 0)
    })).pipe(measured()))

  it.effect("what chaos makes up has an outcome of its own: the error rate stays", () =>
    vector(Effect.gen(function*() {
      const inner = yield* ScriptedProvider.make([], { id: "p" })
      const script = [FaultServer.status(503), FaultServer.slowHeaders(100), FaultServer.ok()]
      const provider = yield* Chaos.provider(inner, { script })
      const context = yield* Layer.build(LlmClient.layerDynamic([{ id: "p", provider }], vectorOptions))
      const client = Context.get(context, LlmClient)
      success((yield* timed(ask(kind, client))).exit)
      success((yield* timed(ask(kind, client))).exit)
      assert.strictEqual(yield* total("llm_attempts_total", { outcome: "injected", error: "Overloaded" }), 1)
      assert.strictEqual(yield* total("llm_attempts_total", { outcome: "injected", error: "" }), 1)
      assert.strictEqual(yield* total("llm_attempts_total", { outcome: "failure" }), 0)
      assert.strictEqual(yield* total("llm_attempts_total", { outcome: "success" }), 1)
      assert.strictEqual(yield* total("gen_ai.client.operation.duration"), 1)
    })).pipe(measured()))

  it.effect("M6 failover: the secondary's label, four attempts, 1.125 s", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([always(overloads), always(succeeds)])
      const { exit } = yield* timed(ask(kind, r.client))
      success(exit)
      assert.strictEqual(yield* total("llm_calls_total", { target: "s", outcome: "provider", operation: kind }), 1)
      assert.strictEqual(
        yield* total("llm_attempts_total", { target: "p", outcome: "failure", error: "Overloaded" }),
        3
      )
      assert.strictEqual(yield* total("llm_attempts_total", { target: "s", outcome: "success", error: "" }), 1)
      assert.strictEqual(yield* total("llm_failovers_total", { from: "p", to: "s" }), 1)
      assert.strictEqual(yield* total("llm_retries_total", { target: "p", reason: "Overloaded" }), 2)
      assert.strictEqual(yield* total("llm_retries_denied_total", { because: "attempts-exhausted" }), 1)
      assert.strictEqual(yield* observed("llm_call_duration_seconds", { outcome: "provider" }), 1.125)
    })).pipe(measured()))

  it.effect("M7 a cache hit: counted, and no attempt", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([[succeeds]], { cache: { readThrough: true } })
      const input = { prompt: "What is AI?", temperature: 0 }
      yield* ask(kind, r.client, input)
      const before = yield* total("llm_attempt_duration_seconds")
      assert.strictEqual((yield* ask(kind, r.client, input)).source, "cache")
      assert.strictEqual(yield* total("llm_attempt_duration_seconds"), before)
      assert.strictEqual(yield* total("llm_cache_total", { result: "fresh" }), 1)
      assert.strictEqual(yield* total("llm_cache_total", { result: "miss" }), 1)
      assert.strictEqual(yield* total("llm_calls_total", { outcome: "cache", target: "none" }), 1)
    })).pipe(measured()))

  it.effect("M9 the circuit's gauge is 2, 1, 0 as it opens, probes and closes, with one change each", () =>
    vector(Effect.gen(function*() {
      const circuitBreaker = { failureThreshold: 1, recoveryTimeout: 5000, halfOpenProbes: 1 }
      const slow = { ...succeeds, delay: 100 }
      const r = yield* setUp([[overloads, slow]], { retry: false, circuitBreaker })
      yield* Effect.exit(ask(kind, r.client))
      assert.strictEqual(yield* total("llm_breaker_state", { target: "p" }), 2)
      yield* TestClock.adjust(5000)
      yield* fork(ask(kind, r.client))
      assert.strictEqual(yield* total("llm_breaker_state", { target: "p" }), 1)
      yield* TestClock.adjust(100)
      assert.strictEqual(yield* total("llm_breaker_state", { target: "p" }), 0)
      for (const [from, to] of [["closed", "open"], ["open", "half-open"], ["half-open", "closed"]] as const) {
        assert.strictEqual(yield* total("llm_breaker_transitions_total", { from, to }), 1)
      }
    })).pipe(measured()))

  it.effect("a stale answer: its age, and what it stood in for", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([{ script: [succeeds], always: overloads }], { retry: false, cache: {} })
      yield* ask(kind, r.client)
      yield* TestClock.adjust(90_000)
      yield* ask(kind, r.client)
      assert.strictEqual(yield* total("llm_cache_total", { result: "stale" }), 1)
      assert.strictEqual(yield* observed("llm_stale_age_seconds"), 90)
      assert.strictEqual(yield* total("llm_calls_total", { outcome: "stale", target: "p" }), 1)
    })).pipe(measured()))

  it.effect("lines, permits, waits and refusals", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([always({ ...succeeds, delay: 1000 })], {
        bulkhead: { maxConcurrent: 1, queue: 1 },
        retry: false
      })
      const asking = yield* Effect.forEach([1, 2, 3], () => fork(Effect.exit(ask(kind, r.client))))
      assert.strictEqual(yield* total("llm_permits_in_use", { target: "p" }), 1)
      assert.strictEqual(yield* total("llm_permits_limit", { target: "p" }), 1)
      assert.strictEqual(yield* total("llm_queue_depth", { target: "p", queue: "bulkhead" }), 1)
      assert.strictEqual(yield* total("llm_queue_limit", { target: "p", queue: "bulkhead" }), 1)
      assert.strictEqual(yield* total("llm_rejections_total", { target: "p", by: "bulkhead" }), 1)
      yield* TestClock.adjust(3000)
      yield* Effect.forEach(asking, Fiber.join)
      assert.strictEqual(yield* total("llm_permits_in_use", { target: "p" }), 0)
      assert.strictEqual(yield* observed("llm_wait_seconds", { target: "p", for: "bulkhead" }), 1)
      assert.strictEqual(yield* total("llm_calls_total", { outcome: "failure", error: "BulkheadFull" }), 1)
    })).pipe(measured()))

  it.effect("a hedge's loser: its tokens apart from those that vendors report, and no failed operation", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([[ScriptedProvider.hang], [ScriptedProvider.answer("s", { delay: 500 })]], {
        hedge: { delay: 1000 }
      })
      yield* timed(ask(kind, r.client, "What is AI?"), 2000)
      const lost = { target: "p", direction: "input", outcome: "lost" }
      assert.strictEqual(yield* total("llm_tokens_at_least_total", lost), 5)
      assert.strictEqual(yield* total("llm_tokens_at_least_total"), 5)
      assert.strictEqual(yield* total("llm_tokens_total", { direction: "input" }), 10)
      const operations = yield* series("gen_ai.client.operation.duration")
      assert.deepStrictEqual(operations.map(({ attributes }) => attributes?.["error.type"]), [undefined])
    })).pipe(measured()))

  it.effect.each([NaN, -1, Infinity])(
    "tokens that are no number of them, %d, leave the counters as they are",
    (count) =>
      vector(Effect.gen(function*() {
        const wrong = (text: string, total: number | undefined) =>
          ScriptedProvider.answer([
            { type: "text", text },
            {
              type: "finish",
              reason: "stop",
              usage: {
                inputTokens: { total: count, uncached: undefined, cacheRead: undefined, cacheWrite: undefined },
                outputTokens: { total, text: undefined, reasoning: undefined }
              }
            }
          ])
        const r = yield* setUp([[wrong("Hello.", count), wrong("", undefined), succeeds]], { retry: false })
        yield* ask(kind, r.client)
        yield* Effect.exit(ask(kind, r.client))
        yield* ask(kind, r.client)
        assert.strictEqual(yield* total("llm_tokens_total", { direction: "input" }), 10)
        assert.strictEqual(yield* total("llm_tokens_total", { direction: "output" }), 5)
        // What was sent, of the answer without content.
        assert.strictEqual(yield* total("llm_tokens_at_least_total"), 5)
        assert.strictEqual(yield* observed("gen_ai.client.token.usage", { "gen_ai.token.type": "input" }), 10)
      })).pipe(measured())
  )

  it.effect("tokens and the first part; the newer conventions by option", () =>
    vector(Effect.gen(function*() {
      const usage = {
        inputTokens: { total: 20, uncached: 15, cacheRead: 5, cacheWrite: undefined },
        outputTokens: { total: 7, text: 4, reasoning: 3 }
      }
      const r = yield* setUp([[ScriptedProvider.answer([
        { type: "text", text: "Hello." },
        { type: "finish", reason: "stop", usage }
      ])]])
      yield* ask(kind, r.client)
      const sums = { input: 20, output: 7, cache_read: 5, reasoning: 3 }
      for (const [direction, sum] of Object.entries(sums)) {
        assert.strictEqual(yield* total("llm_tokens_total", { target: "p", direction }), sum)
      }
      assert.strictEqual(yield* observed("gen_ai.client.inference.operation.input_tokens"), 20)
      assert.strictEqual(yield* total("gen_ai.client.inference.usage.output_tokens"), 7)
      assert.strictEqual(yield* total("gen_ai.client.inference.usage.cache_read.input_tokens"), 5)
      assert.strictEqual(yield* total("gen_ai.client.inference.usage.reasoning.output_tokens"), 3)
      assert.strictEqual(yield* total("gen_ai.client.inference.duration", { "gen_ai.provider.name": "p" }), 1)
      assert.deepStrictEqual(yield* series("gen_ai.client.token.usage"), [])
    })).pipe(measured({ semconv: "latest" })))

  it.effect("series are bounded, whatever models, keys, tenants and prompts callers name", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([always(succeeds)], { idempotency: {}, cache: {} })
      const one = (k: number) =>
        ask(kind, r.client, { prompt: `p${k}`, model: `m${k}`, tenant: `t${k}`, idempotencyKey: `k${k}` })
      for (const model of ["known", "m"]) yield* ask(kind, r.client, { prompt: "p", model })
      yield* one(0)
      const registry = yield* Metric.MetricRegistry
      const size = registry.size
      for (let k = 1; k < 1000; k++) yield* one(k)
      assert.strictEqual(registry.size, size)
      const models = (yield* series("gen_ai.client.operation.duration")).map(({ attributes }) =>
        attributes?.["gen_ai.request.model"]
      )
      assert.deepStrictEqual(models.toSorted(), ["_OTHER", "known"])
    })).pipe(measured({ models: ["known"] })))
})

it.effect("gauges end with their client; equal targets of two clients, and of two layers, add up", () =>
  Effect.gen(function*() {
    const scopes = [yield* Scope.make(), yield* Scope.make()]
    const options = { bulkhead: { maxConcurrent: 3 } }
    const clients = yield* Effect.forEach(
      scopes,
      (scope) =>
        Effect.flatMap(
          Layer.build(Metrics.layer()),
          (metrics) => Effect.provide(setUp([always(ScriptedProvider.hang)], options), metrics)
        ).pipe(Scope.provide(scope))
    )
    const fibers = yield* Effect.forEach(clients, ({ client }) => fork(Effect.exit(client.complete("Hi"))))
    assert.strictEqual(yield* total("llm_calls_in_flight"), 2)
    assert.strictEqual(yield* total("llm_permits_in_use", { target: "p" }), 2)
    assert.strictEqual(yield* total("llm_permits_limit", { target: "p" }), 6)
    yield* Scope.close(scopes[0]!, Exit.void)
    assert.strictEqual(yield* total("llm_permits_limit", { target: "p" }), 3)
    yield* Scope.close(scopes[1]!, Exit.void)
    assert.deepStrictEqual(yield* series("llm_permits_limit"), [])
    assert.strictEqual(yield* total("llm_calls_in_flight"), 0)
    assert.strictEqual(yield* total("llm_calls_total", { outcome: "interrupted" }), 2)
    yield* Effect.forEach(fibers, Fiber.await)
  }).pipe(Effect.provideService(Metric.MetricRegistry, new Map())))

it.effect("P14 a client below two layers, or beside them, is counted once", () =>
  Effect.gen(function*() {
    const both = Layer.merge(Metrics.layer(), Layer.provideMerge(Metrics.layer(), Metrics.layer()))
    const below = yield* Effect.provide(setUp([always(succeeds)]), both)
    yield* below.client.complete("Hi")
    assert.strictEqual(yield* total("llm_calls_total", { outcome: "provider" }), 1)
    assert.strictEqual(yield* total("llm_permits_limit"), 0)
    const beside = yield* setUp([always(succeeds)], { bulkhead: { maxConcurrent: 3 } })
    yield* Effect.provide(Effect.andThen(beside.client.complete("Hi"), beside.client.complete("Ho")), both)
    assert.strictEqual(yield* total("llm_calls_total", { outcome: "provider" }), 3)
    assert.strictEqual(yield* total("llm_permits_limit"), 3)
  }).pipe(Effect.provideService(Metric.MetricRegistry, new Map()), Effect.scoped))

it.effect("what one client has switched off, another one shows", () =>
  Effect.gen(function*() {
    yield* setUp([always(succeeds)], { rateLimit: false, bulkhead: false, circuitBreaker: false })
    assert.deepStrictEqual(yield* series("llm_queue_limit"), [])
    yield* setUp([always(succeeds)], {
      rateLimit: { queue: 7 },
      bulkhead: { maxConcurrent: 3, queue: 5 },
      circuitBreaker: {}
    })
    assert.strictEqual(yield* total("llm_queue_limit"), 12)
    assert.strictEqual(yield* total("llm_permits_limit"), 3)
    assert.lengthOf(yield* series("llm_breaker_state"), 1)
  }).pipe(measured(), Effect.scoped))

it.effect("equal attributes are the same attributes: layers of one registry add up", () =>
  Effect.gen(function*() {
    for (const service of ["shop", "shop"]) {
      yield* Effect.gen(function*() {
        const r = yield* Effect.provide(setUp([always(succeeds)]), yield* Layer.build(Metrics.layer()))
        yield* r.client.complete("Hi")
      }).pipe(Effect.provideService(Metric.CurrentMetricAttributes, { service }))
    }
    assert.strictEqual(yield* total("llm_calls_total", { outcome: "provider" }), 2)
  }).pipe(Effect.provideService(Metric.MetricRegistry, new Map()), Effect.scoped))

it.effect("attributes that all metrics of a program have are theirs too", () =>
  Effect.gen(function*() {
    const r = yield* setUp([always(succeeds)])
    yield* r.client.complete("Hi")
    assert.strictEqual(yield* total("llm_calls_total", { service: "shop", outcome: "provider" }), 1)
    assert.strictEqual(yield* total("llm_calls_in_flight", { service: "shop" }), 0)
  }).pipe(measured(), Effect.provideService(Metric.CurrentMetricAttributes, { service: "shop" }), Effect.scoped))

// -----------------------------------------------------------------------------
// events and counters cannot disagree
// -----------------------------------------------------------------------------

it.effect.each(kinds)(
  "%s: a run with faults leaves in every counter exactly what its events say",
  (kind) =>
    Effect.gen(function*() {
      const targets = [{ id: "p", chaos: true }, { id: "s", chaos: true }] as const
      const { events } = yield* run({ kind, seed: "metrics", calls: 1500, targets, options: settings })
      const actual = yield* counters
      assert.deepStrictEqual([...actual].toSorted(), [...tally(events)].toSorted())
      assert.isAbove(actual.size, 20)
    }).pipe(measured())
)
