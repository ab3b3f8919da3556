import { assert, describe, it } from "@effect/vitest"
import {
  Context,
  Effect,
  Exit,
  Fiber,
  Latch,
  Layer,
  Logger,
  Option,
  Redacted,
  References,
  Stream,
  Tracer
} from "effect"
import { LlmClient, LlmError, LlmProvider } from "effect-resilient-llm"
import { Tracing } from "effect-resilient-llm/observability"
import { OpenAi } from "effect-resilient-llm/providers"
import { ScriptedProvider } from "effect-resilient-llm/testing"
import { HttpClient, HttpClientResponse } from "effect/http"
import { TestClock } from "effect/testing"
import { ask, failure, fork, kinds, type Script, setUp, success, timed, vector } from "../support.ts"
import { Recorder } from "./spans.ts"

const overloads = ScriptedProvider.overloaded
const succeeds = ScriptedProvider.answer("Hello.")
const failed = { "llm.target": "p", "error.type": "Overloaded", "llm.error.status": 503 }
const retried = { ...failed, "llm.delayed_by": "backoff" }
const always = (step: ScriptedProvider.Step): Script => ({ always: step })

describe.each(kinds)("%s", (kind) => {
  it.effect("M6 failover: four attempts below one call, 1125 ms, each with what it met", () =>
    vector(Effect.gen(function*() {
      const seen = new Recorder()
      const r = yield* setUp([always(overloads), [succeeds]], {}, [{}, { defaultModel: "n" }])
      yield* timed(seen.on(ask(kind, r.client, { prompt: "Hi", model: "m", temperature: 0.5, maxTokens: 9 })))
      const { attempts, call } = seen
      assert.deepStrictEqual([call.parentName, call.kind, call.how, call.to! - call.from], [
        undefined,
        "internal",
        "ok",
        1125
      ])
      assert.deepStrictEqual(call.facts, {
        "llm.call": 1,
        "llm.operation": kind,
        "llm.model": "m",
        "llm.outcome": "provider",
        "llm.target": "s",
        "llm.attempts": 4,
        "llm.duration": 1125
      })
      assert.deepStrictEqual(
        attempts.map((span) => [span.parentName, span.kind, span.how, span.from - call.from, span.to! - span.from]),
        [
          ["llm.call", "client", "error", 0, 0],
          ["llm.call", "client", "error", 375, 0],
          ["llm.call", "client", "error", 1125, 0],
          ["llm.call", "client", "ok", 1125, 0]
        ]
      )
      const stream = kind === "stream" ? { "gen_ai.request.stream": true } : {}
      assert.deepInclude(attempts[1]!.facts, {
        ...stream,
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": "m",
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.max_tokens": 9,
        "llm.target": "p",
        "llm.attempt": 2,
        "llm.outcome": "failure",
        "llm.retry.delay": 375,
        "llm.retry.reason": "Overloaded",
        "error.type": "Overloaded",
        "llm.error.status": 503
      })
      assert.notProperty(attempts[0]!.facts, "llm.retry.delay")
      assert.notProperty(attempts[3]!.facts, "llm.retry.delay", "the first attempt at another target is no retry")
      assert.deepInclude(attempts[3]!.facts, {
        "gen_ai.provider.name": "s",
        "gen_ai.request.model": "n",
        "gen_ai.response.finish_reasons": ["stop"],
        "gen_ai.usage.input_tokens": 10,
        "gen_ai.usage.output_tokens": 5,
        "llm.target": "s",
        "llm.outcome": "success"
      })
      assert.deepStrictEqual(call.told, [
        [0, "llm.retry_scheduled", { ...retried, "llm.attempt": 1, "llm.delay": 375 }],
        [375, "llm.retry_scheduled", { ...retried, "llm.attempt": 2, "llm.delay": 750 }],
        [1125, "llm.retry_denied", { ...failed, "llm.attempt": 3, "llm.because": "attempts-exhausted" }],
        [1125, "llm.failed_over", { "llm.from": "p", "llm.to": "s" }],
        [1125, "llm.model_substituted", { "llm.target": "s", "llm.requested": "m", "llm.model": "n" }]
      ])
    })))

  it.effect("who joins another call, or a failing one, links to its span; a replay does not", () =>
    vector(Effect.gen(function*() {
      const seen = new Recorder()
      const late = { delay: 1000 }
      const r = yield* setUp(
        [[ScriptedProvider.answer("Hello.", late), ScriptedProvider.fail({ _tag: "Quota" }, late)]],
        { idempotency: {}, retry: false }
      )
      const one = (idempotencyKey: string) =>
        seen.on(Effect.exit(ask(kind, r.client, { prompt: "Hi", idempotencyKey })))
      for (const key of ["good", "bad"]) {
        const fibers = yield* Effect.forEach([1, 2, 3], () => fork(one(key)))
        yield* TestClock.adjust(1000)
        yield* Effect.forEach(fibers, Fiber.join)
      }
      yield* one("good")
      const calls = seen.named("llm.call")
      const linked = calls.map(({ links }) =>
        links.map(({ attributes, span }) => [
          calls.findIndex(({ spanId, traceId }) => spanId === span.spanId && traceId === span.traceId),
          attributes["llm.link"]
        ])
      )
      const [first, second] = [[[0, "joined"]], [[3, "joined"]]]
      assert.deepStrictEqual(linked, [[], first, first, [], second, second, []])
      assert.lengthOf(seen.attempts, 2)
    })))

  it.effect("providers by the conventions' names, also where the attempt failed", () =>
    vector(Effect.gen(function*() {
      const seen = new Recorder()
      const failing = LlmProvider.make({
        id: "gemini",
        generate: () => Effect.fail(new LlmError.ProviderError({ provider: "gemini", reason: { _tag: "Quota" } }))
      })
      const context = yield* Layer.build(LlmClient.layerDynamic([{ id: "google", provider: failing }]))
      yield* seen.on(Effect.exit(ask(kind, Context.get(context, LlmClient))))
      assert.deepInclude(seen.attempts[0]!.facts, { "gen_ai.provider.name": "gcp.gemini", "llm.target": "google" })
    })))

  it.effect("M7 a cache hit: no attempt span", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([[succeeds]], { cache: { readThrough: true } })
      yield* ask(kind, r.client, { prompt: "Hi", temperature: 0 })
      const seen = new Recorder()
      yield* seen.on(ask(kind, r.client, { prompt: "Hi", temperature: 0 }))
      assert.lengthOf(seen.spans, 1)
      assert.strictEqual(seen.call.facts["llm.outcome"], "cache")
      assert.deepStrictEqual(seen.call.told, [[0, "llm.cache", { "llm.result": "fresh", "llm.age": 0 }]])
    })))

  it.effect("a hedge's loser ends as interrupted, which is no bug, with what it cost at least", () =>
    vector(Effect.gen(function*() {
      const seen = new Recorder()
      const r = yield* setUp([[ScriptedProvider.hang], [ScriptedProvider.answer("s", { delay: 500 })]], {
        hedge: { delay: 1000 }
      })
      yield* timed(seen.on(ask(kind, r.client, "What is AI?")), 2000)
      const [lost, won] = seen.attempts
      assert.deepStrictEqual([lost?.how, won?.how], ["interrupted", "ok"])
      assert.deepInclude(lost?.facts, {
        "llm.outcome": "lost",
        "llm.by": "lost",
        "gen_ai.usage.input_tokens": 5,
        "llm.at_least": true
      })
      assert.notProperty(lost?.facts, "error.type")
    })))

  it.effect("M4 an interrupted call ends as interrupted, at that moment, and so does its attempt", () =>
    vector(Effect.gen(function*() {
      const seen = new Recorder()
      const r = yield* setUp([always(ScriptedProvider.hang)])
      const fiber = yield* fork(seen.on(ask(kind, r.client)))
      yield* TestClock.adjust(700)
      yield* Fiber.interrupt(fiber)
      assert.deepStrictEqual(seen.spans.map((span) => [span.name, span.how, span.to! - span.from, span.ends]), [
        ["llm.call", "interrupted", 700, 1],
        ["llm.attempt", "interrupted", 700, 1]
      ])
      for (const span of seen.spans) {
        assert.strictEqual(span.facts["llm.outcome"], "interrupted")
        assert.notProperty(span.facts, "error.type")
      }
    })))

  it.effect("a failed call: the error's class, not its text", () =>
    vector(Effect.gen(function*() {
      const seen = new Recorder()
      const step = ScriptedProvider.fail({ _tag: "RateLimit" }, { status: 429, retryAfter: 3000 })
      const r = yield* setUp([[step]], { retry: false, failover: false })
      yield* timed(seen.on(ask(kind, r.client)))
      for (const span of seen.spans) {
        assert.strictEqual(span.how, "error")
        assert.deepInclude(span.facts, {
          "error.type": "RateLimit",
          "llm.error.status": 429,
          "llm.error.retry_after": 3000
        })
        assert.include(span.everything, "RateLimit (HTTP 429)")
      }
      assert.lengthOf(seen.spans, 2)
    })))

  it.effect("a timer's failure is named by its error", () =>
    vector(Effect.gen(function*() {
      const seen = new Recorder()
      const r = yield* setUp([[ScriptedProvider.hang]], { retry: false, failover: false, timeout: { attempt: 1000 } })
      yield* timed(seen.on(ask(kind, r.client)))
      assert.deepStrictEqual(seen.spans.map((span) => [span.facts["error.type"], span.to! - span.from]), [
        ["AttemptTimeout", 1000],
        ["AttemptTimeout", 1000]
      ])
    })))

  it.effect("a bug of a provider: an error of no class, and nothing of what was thrown", () =>
    vector(Effect.gen(function*() {
      const seen = new Recorder()
      const r = yield* setUp([[ScriptedProvider.die(new Error("the secret prompt"))]])
      const { exit } = yield* timed(seen.on(ask(kind, r.client)))
      assert.isTrue(Exit.isFailure(exit))
      assert.lengthOf(seen.spans, 2)
      for (const span of seen.spans) {
        assert.strictEqual(span.how, "error")
        assert.deepInclude(span.facts, { "llm.outcome": "defect", "error.type": "_OTHER" })
        assert.notInclude(span.everything, "secret")
      }
    })))

  it.effect("skipped targets and refusals are events of the call", () =>
    vector(Effect.gen(function*() {
      const seen = new Recorder()
      const r = yield* setUp([always(overloads), [succeeds, succeeds]], {
        retry: false,
        circuitBreaker: { failureThreshold: 1, recoveryTimeout: 5000 }
      })
      yield* ask(kind, r.client)
      yield* seen.on(ask(kind, r.client))
      assert.deepStrictEqual(seen.call.told, [
        [0, "llm.target_skipped", { "llm.target": "p", "llm.because": "circuit-open", "llm.retry_after": 5000 }]
      ])
      assert.lengthOf(seen.attempts, 1)
    })))

  it.effect("hangs below the caller's span, with the caller's annotations and links", () =>
    vector(Effect.gen(function*() {
      const seen = new Recorder()
      const r = yield* setUp([[succeeds]])
      const linked = Tracer.externalSpan({ spanId: "b".repeat(16), traceId: "c".repeat(32) })
      yield* ask(kind, r.client).pipe(
        Effect.annotateSpans("tenant", "blue"),
        Effect.linkSpans(linked),
        Effect.withSpan("request"),
        seen.on
      )
      assert.deepStrictEqual(seen.spans.map((span) => [span.name, span.parentName]), [
        ["request", undefined],
        ["llm.call", "request"],
        ["llm.attempt", "llm.call"]
      ])
      assert.strictEqual(seen.call.facts["tenant"], "blue")
      assert.strictEqual(seen.call.links[0]?.span.spanId, linked.spanId)
      assert.strictEqual(seen.attempts[0]?.traceId, seen.spans[0]?.traceId)
    })))

  it.effect("a parent that is not sampled, or a level below the minimum: not sampled; switched off: no span", () =>
    vector(Effect.gen(function*() {
      const seen = new Recorder()
      const r = yield* setUp([always(succeeds)])
      const call = ask(kind, r.client)
      yield* seen.on(Effect.withSpan(call, "request", { sampled: false }))
      yield* seen.on(Effect.provideService(call, References.MinimumTraceLevel, "Warn"))
      assert.deepStrictEqual(seen.spans.map(({ sampled }) => sampled), [false, false, false, false, false])
      yield* seen.on(Effect.withTracerEnabled(call, false))
      assert.lengthOf(seen.spans, 5)
      yield* seen.on(Effect.provideService(call, References.TracerTimingEnabled, false))
      assert.deepStrictEqual(seen.spans.slice(5).map(({ from, to }) => [from, to]), [[0, 0], [0, 0]])
      const silent = Context.make(Tracer.DisablePropagation, true)
      const parent = new Tracer.NativeSpan({
        name: "silent",
        parent: Option.none(),
        annotations: silent,
        links: [],
        startTime: 0n,
        kind: "internal",
        sampled: true
      })
      yield* seen.on(Effect.provideService(call, Tracer.ParentSpan, parent))
      assert.strictEqual(seen.spans[7]?.parentName, undefined)
    })))

  it.effect("what a provider does hangs below its attempt", () =>
    Effect.gen(function*() {
      const seen = new Recorder()
      const parts = Effect.as(Effect.withSpan(Effect.void, "own work"), "Hello.")
      const provider = LlmProvider.make({ id: "own", generate: () => parts })
      const context = yield* Layer.build(LlmClient.layerDynamic([provider]))
      yield* seen.on(ask(kind, Context.get(context, LlmClient)))
      assert.strictEqual(seen.named("own work")[0]?.parentName, "llm.attempt")
    }).pipe(Effect.scoped))

  it.effect("requests hang below their attempt, without addresses and headers, and carry no trace headers", () =>
    Effect.gen(function*() {
      const seen = new Recorder()
      const sent: Array<string> = []
      const http = HttpClient.make((request) => {
        sent.push(...Object.keys(request.headers))
        return Effect.succeed(HttpClientResponse.fromWeb(
          request,
          new Response("{\"error\":{\"message\":\"key sk-1 is wrong\"}}", {
            status: 401,
            headers: { "x-org": "org-1" }
          })
        ))
      })
      const apiKey = Redacted.make("sk-1")
      const baseUrl = "https://vendor.test/private-path/v1?token=private-token"
      const live = LlmClient.layer([OpenAi]).pipe(
        Layer.provide(OpenAi.layer({ apiKey, baseUrl, defaultModel: "m" })),
        Layer.provide(Layer.succeed(HttpClient.HttpClient, http))
      )
      const client = Context.get(yield* Layer.build(live), LlmClient)
      yield* Effect.exit(seen.on(ask(kind, client, { prompt: "Hi", idempotencyKey: "private-key" })))
      const requests = seen.named("POST")
      assert.lengthOf(requests, 1)
      assert.strictEqual(requests[0]?.parentName, "llm.attempt")
      assert.strictEqual(requests[0]?.ends, 1)
      assert.strictEqual(requests[0]?.how, "error")
      assert.deepStrictEqual(requests[0]?.facts, {
        "http.request.method": "POST",
        "url.scheme": "https",
        "server.address": "vendor.test",
        "server.port": 443,
        "http.response.status_code": 401,
        "error.type": "401"
      })
      for (const span of seen.spans) {
        for (const secret of ["private", "sk-1", "org-1"]) assert.notInclude(span.everything, secret)
      }
      assert.notIncludeMembers(sent, ["traceparent", "b3"])
      assert.include(sent, "authorization")
    }).pipe(Effect.scoped))

  it.effect("prompts and completions only with a redactor, and what it leaves of them", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([always(ScriptedProvider.answer("my secret answer"))])
      const call = ask(kind, r.client, {
        prompt: [{ role: "system", content: "Be brief." }, {
          role: "user",
          content: [{ type: "text", text: "my secret question" }]
        }],
        stop: ["secret end"]
      })
      const without = new Recorder()
      yield* without.on(call)
      for (const span of without.spans) {
        for (const text of ["secret", "brief", "answer"]) assert.notInclude(span.everything, text)
      }
      const seen = new Recorder()
      yield* seen.on(Effect.provide(call, Tracing.layerContent((text) => text.replaceAll("secret", "*"))))
      const { facts } = seen.attempts[0]!
      assert.deepStrictEqual(JSON.parse(String(facts["gen_ai.input.messages"])), [
        { role: "system", parts: [{ type: "text", content: "Be brief." }] },
        { role: "user", parts: [{ type: "text", content: "my * question" }] }
      ])
      assert.deepStrictEqual(JSON.parse(String(facts["gen_ai.output.messages"])), [
        { role: "assistant", parts: [{ type: "text", content: "my * answer" }], finish_reason: "stop" }
      ])
      assert.strictEqual(facts["gen_ai.request.stop_sequences"], "[\"* end\"]")
      assert.notInclude(seen.call.everything, "question")
    })))

  it.effect("content is cut from the front, and one redactor that throws records nothing", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([always(succeeds)])
      const prompt = [
        { role: "user" as const, content: "a".repeat(5000) },
        { role: "assistant" as const, content: "b".repeat(5000) },
        { role: "user" as const, content: "c".repeat(5000) }
      ]
      const seen = new Recorder()
      const call = ask(kind, r.client, { prompt })
      yield* seen.on(Effect.provide(call, Tracing.layerContent((text) => text)))
      const text = String(seen.attempts[0]!.facts["gen_ai.input.messages"])
      assert.strictEqual(text.match(/[abc]{10,}/g)?.join("").length, 8192)
      assert.notMatch(text, /aaa/)
      assert.match(text, /…b{3192}"/)
      const bad = new Recorder()
      yield* bad.on(Effect.provide(
        call,
        Tracing.layerContent(() => {
          throw new Error("bug")
        })
      ))
      assert.deepStrictEqual(bad.spans.map(({ how }) => how), ["ok", "ok"])
      assert.notProperty(bad.attempts[0]!.facts, "gen_ai.input.messages")
      assert.strictEqual(bad.attempts[0]!.facts["gen_ai.usage.input_tokens"], 10)
    })))

  it.effect("a tracer that throws costs a warning, not the call", () =>
    vector(Effect.gen(function*() {
      const lines: Array<unknown> = []
      const logger = Logger.make(({ logLevel, message }) => void lines.push([logLevel, message]))
      const tracer = Tracer.make({
        span: (options) =>
          Object.assign(new Tracer.NativeSpan(options), {
            end: () => {
              throw new Error("bug")
            }
          })
      })
      const r = yield* setUp([[overloads, succeeds]], { bulkhead: { maxConcurrent: 1 } })
      const { exit } = yield* timed(
        ask(kind, r.client).pipe(
          Effect.withTracer(tracer),
          Effect.provideService(Logger.CurrentLoggers, new Set([logger]))
        )
      )
      assert.strictEqual(success(exit).text, "Hello.")
      assert.deepStrictEqual(lines, [["Warn", ["The tracer threw and is told nothing more"]]])
      assert.strictEqual((yield* r.client.status).targets[0]?.bulkhead?.inUse, 0)
    })))
})

it.effect("a stream's first content part", () =>
  vector(Effect.gen(function*() {
    const seen = new Recorder()
    const r = yield* setUp([[ScriptedProvider.stream({ wait: 250 }, "a", { wait: 50 }, "b")]])
    yield* timed(seen.on(ask("stream", r.client)))
    const [attempt] = seen.attempts
    assert.strictEqual(attempt!.facts["gen_ai.response.time_to_first_chunk"], 0.25)
    assert.strictEqual(attempt!.facts["gen_ai.response.model"], "p")
    assert.deepStrictEqual(attempt!.told.map(([at, name]) => [at, name]), [[250, "llm.attempt_committed"]])
    assert.strictEqual(attempt!.to! - attempt!.from, 300)
  })))

it.effect("a broken stream: after the commit, with its class", () =>
  vector(Effect.gen(function*() {
    const seen = new Recorder()
    const r = yield* setUp([[ScriptedProvider.stream("a", ScriptedProvider.cut)]])
    const { exit } = yield* timed(seen.on(ask("stream", r.client)))
    assert.instanceOf(failure(exit), LlmError.StreamInterrupted)
    assert.deepInclude(seen.attempts[0]!.facts, { "error.type": "StreamInterrupted", "llm.after_commit": true })
  })))

it.effect("work that goes on after its first caller left: the call's span ends with the caller, the attempt's later", () =>
  vector(Effect.gen(function*() {
    const seen = new Recorder()
    const r = yield* setUp([[ScriptedProvider.answer("Hello.", { delay: 1000 })]], { idempotency: {} })
    const input = { prompt: "Hi", idempotencyKey: "k" }
    const leader = yield* fork(seen.on(ask("complete", r.client, input)))
    const other = yield* fork(seen.on(ask("complete", r.client, input)))
    yield* TestClock.adjust(300)
    yield* Fiber.interrupt(leader)
    yield* TestClock.adjust(1000)
    assert.strictEqual((yield* Fiber.join(other)).text, "Hello.")
    assert.deepStrictEqual(seen.spans.map((span) => [span.name, span.how, span.to! - seen.spans[0]!.from, span.ends]), [
      ["llm.call", "interrupted", 300, 1],
      ["llm.attempt", "ok", 1000, 1],
      ["llm.call", "ok", 1000, 1]
    ])
  })))

it.effect("without a tracer there is none", () =>
  Effect.gen(function*() {
    let tracers = 0
    const provider = LlmProvider.make({
      id: "own",
      generate: () =>
        Effect.withFiber((fiber) => {
          if (fiber.cache.tracer !== undefined || fiber.cache.span !== undefined) tracers++
          return Effect.succeed("Hello.")
        })
    })
    const context = yield* Layer.build(LlmClient.layerDynamic([provider]))
    yield* Context.get(context, LlmClient).complete("Hi")
    assert.strictEqual(tracers, 0)
  }).pipe(Effect.scoped))

it.effect("a stream that nobody reads to its end", () =>
  vector(Effect.gen(function*() {
    const seen = new Recorder()
    const r = yield* setUp([[ScriptedProvider.stream("a", { wait: 50 }, "b", ScriptedProvider.stall)]])
    const opened = yield* Latch.make()
    const fiber = yield* fork(seen.on(Stream.runForEach(r.client.stream("Hi"), () => opened.open)))
    yield* opened.await
    yield* TestClock.adjust(200)
    yield* Fiber.interrupt(fiber)
    assert.deepStrictEqual(seen.spans.map((span) => [span.name, span.how, span.to! - seen.spans[0]!.from, span.ends]), [
      ["llm.call", "interrupted", 200, 1],
      ["llm.attempt", "interrupted", 200, 1]
    ])
  })))
