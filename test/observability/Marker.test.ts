// M8, P14: a marker stands in everything that is private, goes through every way to fail, and is found nowhere.
import { assert, describe, it } from "@effect/vitest"
import { Cause, Context, Effect, Exit, Layer, Logger, Metric, Redacted, References, Stream } from "effect"
import {
  LlmClient,
  type LlmConfig,
  LlmError,
  type LlmEvent,
  LlmObserver,
  LlmProvider,
  type LlmRequest,
  type LlmResponse
} from "effect-resilient-llm"
import { Logging, Metrics, Otlp, Prometheus } from "effect-resilient-llm/observability"
import { Anthropic, Cohere, Gemini, OpenAi, OpenAiCompatible } from "effect-resilient-llm/providers"
import { HttpClient, HttpClientError, HttpClientResponse } from "effect/http"
import { TestClock } from "effect/testing"
import { inspect } from "node:util"
import { MARKER, type Plan, run, settings, targetIds } from "../conformance/Chaos.run.ts"
import { ask, fork, type Kind, kinds, type Outcome, vector } from "../support.ts"
import { Recorder } from "./spans.ts"

// -----------------------------------------------------------------------------
// who looks
// -----------------------------------------------------------------------------

type Print = (exit: Exit.Exit<Outcome, LlmError.LlmError>) => void

/** Hears everything that can be heard about a run; `all` is what it heard, as text. */
const eavesdrop = () => {
  const events: Array<LlmEvent.LlmEvent> = []
  const lines: Array<string> = []
  const errors: Array<string> = []
  const exports: Array<string> = []
  const printed = new Set<string>()
  const seen = new Recorder()
  const registry = new Map()
  const logger = Logger.make((options) => {
    lines.push(
      JSON.stringify(options.message),
      Cause.pretty(options.cause),
      JSON.stringify(options.fiber.getRef(References.CurrentLogAnnotations)),
      Logger.formatJson.log(options),
      Logger.formatLogFmt.log(options)
    )
  })
  const collector = HttpClient.make((request) => {
    if (request.body._tag === "Uint8Array") exports.push(new TextDecoder().decode(request.body.body))
    return Effect.succeed(HttpClientResponse.fromWeb(request, new Response("{}")))
  })
  const on = <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
    effect.pipe(
      Effect.provide(Logging.layer({ level: () => "Info" })),
      Effect.provide(Metrics.layer()),
      Effect.provide(LlmObserver.layer(() => Effect.succeed((event) => void events.push(event)))),
      Effect.provideService(Logger.CurrentLoggers, new Set([logger])),
      Effect.provideService(References.MinimumLogLevel, "All"),
      Effect.provideService(Metric.MetricRegistry, registry)
    )
  const otlp = Otlp.layer({ endpoint: "http://collector", serviceName: "shop" }).pipe(
    Layer.provide(Layer.succeed(HttpClient.HttpClient, collector)),
    Layer.orDie
  )
  /** What a call came to; errors in every way they can be printed. */
  const print: Print = (exit) => {
    // Prompts and answers are the caller's: of an answer, only its ledger may be published.
    if (Exit.isSuccess(exit)) return void errors.push(JSON.stringify(exit.value.ledger))
    const found = Cause.findErrorOption(exit.cause)
    // What a provider died of is its own bug, and handed on as it is.
    if (found._tag === "None") return
    const error = found.value
    // Printing is slow, and most failures are alike.
    const alike = JSON.stringify([error._tag, error.message, error.ledger.map(({ _tag }) => _tag)])
    if (printed.has(alike)) return
    printed.add(alike)
    errors.push(
      String(error),
      JSON.stringify(error),
      inspect(error, { depth: 20, showHidden: true }),
      error.message,
      error.stack ?? "",
      Cause.pretty(exit.cause),
      String(exit),
      JSON.stringify(exit),
      inspect(exit, { depth: 20 }),
      JSON.stringify(error.ledger)
    )
  }
  const check = Effect.gen(function*() {
    const metrics = yield* Effect.provideService(
      Effect.all([Metric.snapshot, Prometheus.text, Metric.dump]),
      Metric.MetricRegistry,
      registry
    )
    const heard = {
      events: JSON.stringify(events),
      spans: seen.spans.map((span) => span.everything).join("\n"),
      lines: lines.join("\n"),
      errors: errors.join("\n"),
      exports: exports.join("\n"),
      metrics: JSON.stringify(metrics)
    }
    for (const [where, text] of Object.entries(heard)) {
      const at = text.indexOf(MARKER)
      assert.strictEqual(at, -1, `found in ${where}: …${text.slice(Math.max(at - 300, 0), at + 60)}`)
    }
    return heard
  })
  return { seen, events, lines, printed, exports, on, otlp, print, check }
}

const secret = (what: string) => `${MARKER} ${what}`

/** Private in every field that can be. */
const input = (n: number): LlmRequest.Input => ({
  prompt: [
    { role: "system", content: secret("system") },
    { role: "user", content: [{ type: "text", text: secret(`question ${n}`) }] },
    {
      role: "assistant",
      content: [
        { type: "reasoning", text: secret("reasoning") },
        { type: "tool-call", id: MARKER, name: "tool", params: { [MARKER]: MARKER }, providerExecuted: false }
      ]
    },
    { role: "tool", content: [{ type: "tool-result", id: MARKER, name: "tool", isFailure: false, result: MARKER }] }
  ],
  stop: [MARKER],
  tools: [{ name: "tool", description: MARKER, parameters: { type: "object", title: MARKER } }],
  responseFormat: { type: "json", schema: { title: MARKER } },
  metadata: { [MARKER]: MARKER },
  tenant: MARKER,
  temperature: 0
})

/** Joined, in conflict, in a hurry, refused, plain. */
const crowd: ReadonlyArray<LlmRequest.Input> = [
  { ...input(1), idempotencyKey: secret("key") },
  { ...input(1), idempotencyKey: secret("key") },
  { ...input(2), idempotencyKey: secret("key") },
  { ...input(3), deadline: 5 },
  input(4),
  input(5),
  input(6),
  { ...input(7), temperature: MARKER as never },
  { ...input(8), unknown: MARKER } as never,
  { prompt: [{ role: MARKER, content: MARKER }] as never },
  { prompt: secret("last"), cache: "always" }
]

const options = {
  retry: { maxRetries: 1, baseDelay: 10 },
  retryBudget: { capacity: 3 },
  timeout: { attempt: 1000, firstToken: 1000, idle: 500, deadline: 4000 },
  circuitBreaker: { failureThreshold: 4, recoveryTimeout: 500 },
  rateLimit: { capacity: 12, refillPerSecond: 1, maxWait: 100 },
  bulkhead: { maxConcurrent: 2, queue: 3, maxWait: 500 },
  idempotency: { derive: "join" },
  cache: { readThrough: true, ttl: 50, swr: 0, staleIfError: "1 hour" },
  failover: {}
} as const satisfies LlmConfig.Options

/** Every pattern alone, all of them, none. */
const off = Object.fromEntries(Object.keys(options).map((name) => [name, false])) as unknown as LlmConfig.Options
const only = ([name, value]: readonly [string, unknown]): LlmConfig.Options => Object.assign({}, off, { [name]: value })
const configurations: ReadonlyArray<LlmConfig.Options> = [
  off,
  options,
  ...Object.entries(options).map(only)
]

/** The whole crowd twice, at once and one after the other. */
const drive = (kind: Kind, client: LlmClient["Service"], print: Print) =>
  Effect.gen(function*() {
    const one = (request: LlmRequest.Input) => Effect.map(Effect.exit(ask(kind, client, request)), print)
    const driver = yield* fork(
      Effect.andThen(
        Effect.forEach(crowd, one, { concurrency: "unbounded", discard: true }),
        Effect.forEach(crowd, (request) => Effect.andThen(Effect.sleep(200), one(request)), { discard: true })
      )
    )
    // One that leaves.
    const leaver = yield* fork(one(input(9)))
    yield* TestClock.adjust(3)
    leaver.interruptUnsafe()
    yield* TestClock.adjust("10 minutes")
    assert.isDefined(driver.pollUnsafe(), "it hangs")
  })

// -----------------------------------------------------------------------------
// every reason, by a provider that tells everything it knows
// -----------------------------------------------------------------------------

const reasons: ReadonlyArray<LlmError.Reason> = [
  { _tag: "RateLimit" },
  { _tag: "Quota" },
  { _tag: "Overloaded" },
  { _tag: "Server" },
  { _tag: "Timeout" },
  { _tag: "Conflict" },
  { _tag: "Network", sent: true },
  { _tag: "Network", sent: false },
  { _tag: "MalformedResponse", problem: LlmError.TRUNCATED },
  { _tag: "Authentication" },
  { _tag: "Permission" },
  { _tag: "NotFound" },
  { _tag: "ContextLength" },
  { _tag: "PayloadTooLarge" },
  { _tag: "ContentPolicy" },
  { _tag: "InvalidRequest" },
  { _tag: "ClientClosed" }
]

type Fate = LlmError.Reason | "ok" | "hang" | "die" | "cut" | "empty"

const provider = (id: string, fate: (n: number) => Fate): LlmProvider.LlmProvider => {
  let asked = 0
  const meet = Effect.suspend((): Effect.Effect<string, LlmError.ProviderError> => {
    const next = fate(asked++)
    if (next === "hang") return Effect.never
    if (next === "die") return Effect.die(new Error(MARKER))
    if (next === "empty") return Effect.succeed("")
    return typeof next === "string" ? Effect.succeed(MARKER) : Effect.fail(
      new LlmError.ProviderError({ provider: id, reason: next, status: 400, detail: Redacted.make(secret("detail")) })
    )
  })
  const work = Effect.delay(meet, 5).pipe(Effect.withSpan("vendor", { attributes: { "url.full": MARKER } }))
  return LlmProvider.make({
    id,
    generate: () => work,
    stream: () =>
      Stream.unwrap(Effect.map(work, (text) => {
        const delta: LlmResponse.StreamPart = { type: "text-delta", id: "0", delta: text }
        const finish: LlmResponse.StreamPart = {
          type: "finish",
          reason: "stop",
          usage: { inputTokens: {}, outputTokens: {} }
        }
        return Stream.fromIterable(fate(asked - 1) === "cut" ? [delta] : [delta, finish])
      }))
  })
}

const fates: ReadonlyArray<Fate> = [...reasons, "hang", "die", "cut", "empty"]

describe.each(kinds)("%s", (kind) => {
  it("M8 every reason, every pattern: no event, span, line, metric or printed error holds it", async () => {
    const { check, events, lines, on, print, printed, seen } = eavesdrop()
    for (const fate of fates) {
      for (const configuration of configurations) {
        // Nobody would leave.
        if (fate === "hang" && configuration.timeout === false) continue
        await Effect.runPromise(
          vector(Effect.gen(function*() {
            const context = yield* Layer.build(LlmClient.layerDynamic([
              provider("p", (n) => n === 0 ? "ok" : fate),
              provider("s", (n) => n % 3 === 1 ? fate : "ok")
            ], configuration))
            yield* drive(kind, Context.get(context, LlmClient), print)
          })).pipe(on, seen.on, Effect.provide(TestClock.layer()))
        )
      }
    }
    await Effect.runPromise(check)
    const found = (tag: string) => events.some(({ _tag }) => _tag === tag)
    for (const tag of ["RetryScheduled", "RetryDenied", "TargetSkipped", "AttemptRefused", "CircuitChanged"]) {
      assert.isTrue(found(tag), tag)
    }
    const tags = new Set(events.map((event) => event._tag === "CallEnded" ? event.error?.tag : undefined))
    for (
      const tag of [
        "ProviderError",
        "IdempotencyConflict",
        "DeadlineExceeded",
        "CircuitOpen",
        "RateLimited",
        "BulkheadFull",
        "AllProvidersFailed"
      ]
    ) assert.isTrue(tags.has(tag), tag)
    assert.isAbove(printed.size, 100)
    assert.isAbove(lines.length, 1000)
    for (const span of seen.spans) assert.strictEqual(span.ends, 1, span.name)
  })

  it("M8 every vendor, every status: not in requests below the attempt either, nor in what is exported", async () => {
    const { check, exports, on, otlp, print, seen } = eavesdrop()
    const common = {
      apiKey: Redacted.make(`${MARKER}-key`),
      baseUrl: `https://vendor.test/${MARKER}/v1?token=${MARKER}`,
      defaultModel: "m",
      headers: { "x-gateway": MARKER }
    }
    const vendors = [
      OpenAi.layer(common),
      Anthropic.layer(common),
      Cohere.layer(common),
      Gemini.layer(common),
      OpenAiCompatible.layer(common)
    ]
    const [openai, anthropic, cohere, gemini, compatible] = vendors
    for (const reply of replies) {
      const http = HttpClient.make((request) => reply(request))
      const live = LlmClient.layer([OpenAi, Anthropic, Cohere, Gemini, OpenAiCompatible], {
        ...options,
        circuitBreaker: false,
        rateLimit: false
      }).pipe(
        Layer.provide([openai!, anthropic!, cohere!, gemini!, compatible!]),
        Layer.provide(Layer.succeed(HttpClient.HttpClient, http))
      )
      const program = vector(
        Effect.flatMap(Layer.build(live), (context) => drive(kind, Context.get(context, LlmClient), print))
      )
      await Effect.runPromise(program.pipe(on, seen.on, Effect.provide(TestClock.layer())))
      await Effect.runPromise(program.pipe(on, Effect.provide(TestClock.layer()), Effect.provide(otlp)))
    }
    await Effect.runPromise(check)
    assert.isAbove(seen.named("POST").length, 100)
    for (const span of seen.named("POST")) assert.strictEqual(span.parentName, "llm.attempt")
    assert.include(exports.join(""), "llm.attempt")
    assert.include(exports.join(""), "server.address")
  })

  it("P14 chaos: not in spans, lines, metrics and exports", async () => {
    const { check, exports, on, otlp, seen } = eavesdrop()
    const plan: Plan = {
      kind,
      seed: "marked",
      calls: 800,
      targets: targetIds.map((id) => ({ id, chaos: true })),
      options: settings
    }
    await Effect.runPromise(on(seen.on(run(plan))))
    await Effect.runPromise(on(Effect.provide(run(plan), otlp)))
    await Effect.runPromise(check)
    assert.isAbove(exports.length, 2)
  })
})

// -----------------------------------------------------------------------------
// what vendors send back
// -----------------------------------------------------------------------------

type Request = Parameters<Parameters<typeof HttpClient.make>[0]>[0]
type Reply = (
  request: Request
) => Effect.Effect<HttpClientResponse.HttpClientResponse, HttpClientError.HttpClientError>

const sent = (status: number, body: string, headers: Readonly<Record<string, string>> = {}): Reply => (request) =>
  Effect.sync(() =>
    HttpClientResponse.fromWeb(
      request,
      new Response(body, { status, headers: { "x-echo": MARKER, "set-cookie": MARKER, server: MARKER, ...headers } })
    )
  )

const events = { "content-type": "text/event-stream" }
const json = { "content-type": "application/json" }
const message = JSON.stringify({
  type: "error",
  message: secret("message"),
  error: { message: secret("message"), param: MARKER, type: secret("type"), code: secret("code") }
})

const replies: ReadonlyArray<Reply> = [
  ...[400, 401, 402, 403, 404, 408, 409, 413, 422, 429, 499, 500, 501, 503, 504, 529, 302].map((status) =>
    sent(status, message, json)
  ),
  sent(500, secret("not json"), { "retry-after": MARKER, "x-request-id": secret("id") }),
  sent(200, ""),
  sent(200, secret("not json")),
  sent(200, message, json),
  sent(200, `data: ${message}\n\n`, events),
  sent(200, `event: error\ndata: ${message}\n\n`, events),
  sent(200, `data: ${secret("not json")}\n\n`, events),
  sent(200, chat("chat.completion.chunk", { delta: { content: MARKER } }, "data: ", "\n\n"), events),
  sent(200, chat("chat.completion", { message: { content: MARKER }, finish_reason: "stop" }), json),
  (request) =>
    Effect.fail(
      new HttpClientError.HttpClientError({
        reason: new HttpClientError.TransportError({
          request,
          description: secret("transport"),
          cause: Object.assign(new Error(secret("cause")), { code: "ECONNRESET" })
        })
      })
    ),
  () => Effect.die(new Error(MARKER)),
  () => Effect.never
]

function chat(object: string, choice: object, before = "", after = ""): string {
  return before + JSON.stringify({ id: "c-1", object, model: "m", choices: [{ index: 0, ...choice }] }) + after
}
