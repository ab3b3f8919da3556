// Ledgers, events, spans, log lines and counters of one run say the same.
import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Layer, Logger, Metric, Option, References, Scope } from "effect"
import { type LlmEvent, LlmObserver, type LlmRequest } from "effect-resilient-llm"
import { Logging, Metrics } from "effect-resilient-llm/observability"
import { ScriptedProvider } from "effect-resilient-llm/testing"
import { type Plan, run, settings, targetIds } from "../conformance/Chaos.run.ts"
import { ask, failure, kinds, type SetUp, setUp, timed, vector } from "../support.ts"
import { counters, tally } from "./metrics.ts"
import { type Recorded, Recorder } from "./spans.ts"

const overloads = ScriptedProvider.overloaded
const succeeds = ScriptedProvider.answer("Hello.")

// -----------------------------------------------------------------------------
// one fact, one row, whoever tells it
// -----------------------------------------------------------------------------

type Row = ReadonlyArray<unknown>

const classOf = (error: LlmEvent.ErrorSummary | undefined) =>
  error === undefined ? undefined : error.tag === "ProviderError" ? error.reason : error.tag

const spentOf = (event: LlmEvent.AttemptFailed | LlmEvent.AttemptInterrupted): Row => [
  event.inputTokens,
  event.outputTokens,
  event.atLeast
]
const usageNames = ["gen_ai.usage.input_tokens", "gen_ai.usage.output_tokens", "llm.at_least"]

const rowOfEvent = (event: LlmEvent.LlmEvent): Row | undefined => {
  switch (event._tag) {
    case "CallEnded": {
      const { attempts, duration, error, operation, outcome, target } = event
      return [event._tag, operation, outcome, target, attempts, duration, classOf(error)]
    }
    case "AttemptSucceeded":
      return [event._tag, event.target, event.attempt, event.duration, event.inputTokens, event.outputTokens]
    case "AttemptFailed":
      return [
        event._tag,
        event.target,
        event.attempt,
        event.duration,
        event.outcome,
        classOf(event.error),
        ...spentOf(event)
      ]
    case "AttemptInterrupted":
      return [event._tag, event.target, event.attempt, event.duration, event.by, ...spentOf(event)]
    case "AttemptCommitted":
      return [event._tag, event.target, event.attempt, event.duration]
    case "RetryScheduled":
      return [event._tag, event.target, event.attempt, event.delay, event.delayedBy, classOf(event.error)]
    case "RetryDenied":
      return [event._tag, event.target, event.attempt, event.because, classOf(event.error)]
    case "TargetSkipped":
      return [event._tag, event.target, event.because]
    case "AttemptRefused":
      return [event._tag, event.target, event.by]
    case "FailedOver":
      return [event._tag, event.from, event.to]
    case "Waited":
      return [event._tag, event.target, event.for, event.duration]
    case "Cache":
      return [event._tag, event.result, event.age]
    case "Idempotency":
      return [event._tag, event.result, event.key]
    default:
      return undefined
  }
}

const names: Readonly<Record<string, LlmEvent.LlmEvent["_tag"]>> = {
  "llm.retry_scheduled": "RetryScheduled",
  "llm.retry_denied": "RetryDenied",
  "llm.target_skipped": "TargetSkipped",
  "llm.attempt_refused": "AttemptRefused",
  "llm.failed_over": "FailedOver",
  "llm.waited": "Waited",
  "llm.cache": "Cache",
  "llm.idempotency": "Idempotency",
  "llm.attempt_committed": "AttemptCommitted"
}

type Attributes = Readonly<Record<string, unknown>>

/** The row of something that a span or a line says about an event with this tag. */
const rowOf = (tag: LlmEvent.LlmEvent["_tag"], facts: Attributes, duration: unknown): Row => {
  const of = (...keys: ReadonlyArray<string>): Row => [tag, ...keys.map((key) => facts[key])]
  switch (tag) {
    case "CallEnded":
      return [
        ...of("llm.operation", "llm.outcome", "llm.target", "llm.attempts"),
        duration,
        facts["error.type"] === "_OTHER" ? undefined : facts["error.type"]
      ]
    case "AttemptSucceeded":
      return [
        ...of("llm.target", "llm.attempt"),
        duration,
        facts["gen_ai.usage.input_tokens"],
        facts["gen_ai.usage.output_tokens"]
      ]
    case "AttemptFailed":
      return [
        ...of("llm.target", "llm.attempt"),
        duration,
        facts["llm.outcome"],
        facts["error.type"],
        ...usageNames.map((name) => facts[name])
      ]
    case "AttemptInterrupted":
      return [...of("llm.target", "llm.attempt"), duration, facts["llm.by"], ...usageNames.map((name) => facts[name])]
    case "AttemptCommitted":
      return of("llm.target", "llm.attempt", "llm.duration")
    case "RetryScheduled":
      return of("llm.target", "llm.attempt", "llm.delay", "llm.delayed_by", "error.type")
    case "RetryDenied":
      return of("llm.target", "llm.attempt", "llm.because", "error.type")
    case "TargetSkipped":
      return of("llm.target", "llm.because")
    case "AttemptRefused":
      return of("llm.target", "llm.by")
    case "FailedOver":
      return of("llm.from", "llm.to")
    case "Waited":
      return of("llm.target", "llm.for", "llm.duration")
    case "Cache":
      return of("llm.result", "llm.age")
    case "Idempotency":
      return of("llm.result", "llm.key")
    default:
      throw new Error(`no row for ${tag}`)
  }
}

const attemptTag = (outcome: unknown) =>
  outcome === "success"
    ? "AttemptSucceeded"
    : outcome === "interrupted" || outcome === "lost" || outcome === "defect"
    ? "AttemptInterrupted"
    : "AttemptFailed"

const rowsOfSpan = (span: Recorded): ReadonlyArray<Row> => {
  const duration = span.to! - span.from
  const tag = span.name === "llm.call" ? "CallEnded" : attemptTag(span.facts["llm.outcome"])
  return [
    ...span.told.map(([, name, facts]) => rowOf(names[name]!, facts, undefined)),
    rowOf(tag, span.facts, duration)
  ]
}

const callOf = (span: Recorded): unknown => {
  const parent = Option.getOrUndefined(span.parent)
  return span.name === "llm.call" || parent?._tag !== "Span"
    ? span.facts["llm.call"]
    : parent.attributes.get("llm.call")
}

interface Line {
  readonly message: unknown
  readonly level: string
  readonly facts: Attributes
}

const lineTags: Readonly<Record<string, LlmEvent.LlmEvent["_tag"]>> = {
  "LLM call answered": "CallEnded",
  "LLM call failed": "CallEnded",
  "LLM call interrupted": "CallEnded",
  "LLM call died of a bug": "CallEnded",
  "LLM attempt failed": "AttemptFailed",
  "LLM attempt refused by its guards": "AttemptRefused",
  "LLM call is retried": "RetryScheduled",
  "LLM call is not retried": "RetryDenied",
  "LLM target skipped": "TargetSkipped",
  "LLM call moves on to the next target": "FailedOver",
  "LLM attempt waited": "Waited",
  "LLM answer is stale": "Cache",
  "LLM cache did not answer": "Cache",
  "LLM idempotency store did not answer": "Idempotency"
}

/** What has a line of its own. */
const isLogged = (event: LlmEvent.LlmEvent): boolean =>
  event._tag === "Cache"
    ? event.result === "stale"
    : event._tag !== "Idempotency" && Object.values(lineTags).includes(event._tag)

const sorted = (rows: Iterable<readonly [call: unknown, row: Row]>) =>
  [...rows].map((row) => JSON.stringify(row)).toSorted()

/** Told by the attempt's own span. */
const onAttempt = new Set<string>(["AttemptCommitted", "AttemptSucceeded", "AttemptFailed", "AttemptInterrupted"])

/** Who watches a run. */
const watch = () => {
  const seen = new Recorder()
  const events: Array<LlmEvent.LlmEvent> = []
  const lines: Array<Line> = []
  const logger = Logger.make(({ fiber, logLevel, message }) => {
    const [text] = message as ReadonlyArray<unknown>
    lines.push({ message: text, level: logLevel, facts: fiber.getRef(References.CurrentLogAnnotations) })
  })
  const registry: (typeof Metric.MetricRegistry)["Service"] = new Map()
  const metrics = Layer.buildWithScope(Metrics.layer(), Scope.makeUnsafe()).pipe(
    Effect.provideService(Metric.MetricRegistry, registry),
    Effect.runSync
  )
  const logging = Logging.layer({ level: () => "Info" })
  const watching = LlmObserver.layer(() => Effect.succeed((event) => void events.push(event)))
  const on = <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
    effect.pipe(
      Effect.provide(metrics),
      Effect.provide(logging),
      Effect.provide(watching),
      Effect.provideService(Logger.CurrentLoggers, new Set([logger])),
      seen.on
    )
  const agree = () => {
    const ends = new Map(events.flatMap((event, i) => event._tag === "CallEnded" ? [[event.call, i]] : []))
    const late = new Set(events.filter((event, i) => i > (ends.get(event.call) ?? Infinity)))
    const told = (of: (event: LlmEvent.LlmEvent) => boolean) =>
      sorted(
        events.filter(of).flatMap((event) => {
          const row = rowOfEvent(event)
          return row === undefined ? [] : [[event.call, row] as const]
        })
      )
    assert.deepStrictEqual(
      sorted(seen.spans.flatMap((span) => rowsOfSpan(span).map((row) => [callOf(span), row] as const))),
      // Shared work goes on when its first caller has left; of that, a span that has ended hears no more.
      told((event) => event.call > 0 && (onAttempt.has(event._tag) || !late.has(event))),
      "spans and events"
    )
    assert.deepStrictEqual(
      sorted(lines.flatMap(({ facts, message }) => {
        const tag = lineTags[String(message)]
        return tag === undefined ? [] : [[facts["llm.call"], rowOf(tag, facts, facts["llm.duration"])] as const]
      })),
      told(isLogged),
      "lines and events"
    )
    assert.deepStrictEqual(
      lines.filter(({ facts }) => facts["llm.call"] === undefined).map(({ message }) => message),
      events.flatMap((event) => event._tag === "CircuitChanged" ? [`LLM circuit is ${event.to}`] : []),
      "lines and circuits"
    )
    assert.deepStrictEqual(
      [...Effect.runSync(Effect.provideService(counters, Metric.MetricRegistry, registry))].toSorted(),
      [...tally(events)].toSorted(),
      "counters and events"
    )
    for (const span of seen.spans) assert.strictEqual(span.ends, 1, `${span.name} ended ${span.ends} times`)
  }
  return { seen, events, lines, on, agree }
}

// -----------------------------------------------------------------------------
// runs
// -----------------------------------------------------------------------------

const chaos = {
  complete: { kind: "complete", options: settings },
  stream: {
    kind: "stream",
    options: { ...settings, rateLimit: { ...settings.rateLimit, maxWait: 0 } },
    limits: [{ dimension: "requests", limit: 100, per: 10_000 }]
  }
} as const

describe.each(kinds)("%s", (kind) => {
  it.effect("M1 three attempts that fail: each with its start, its failure and the retry after it, then one end", () =>
    vector(Effect.gen(function*() {
      const { agree, events, on } = watch()
      const r = yield* on(setUp([[overloads, overloads, overloads]], { failover: false }))
      const { exit } = yield* timed(on(ask(kind, r.client)))
      assert.deepStrictEqual(
        events.map((
          event
        ) => [event._tag, "attempt" in event ? event.attempt : undefined, "delay" in event ? event.delay : 0]),
        [
          ["CallStarted", undefined, 0],
          ["AttemptStarted", 1, 0],
          ["AttemptFailed", 1, 0],
          ["RetryScheduled", 1, 375],
          ["AttemptStarted", 2, 0],
          ["AttemptFailed", 2, 0],
          ["RetryScheduled", 2, 750],
          ["AttemptStarted", 3, 0],
          ["AttemptFailed", 3, 0],
          ["RetryDenied", 3, 0],
          ["CallEnded", undefined, 0]
        ]
      )
      assert.deepInclude(events.at(-1), { _tag: "CallEnded", outcome: "failure", attempts: 3 })
      assert.deepStrictEqual(failure(exit).ledger, events)
      agree()
    })))

  it.effect(
    "a scripted run of everything: ledgers, events, spans, lines and counters agree",
    () =>
      vector(Effect.gen(function*() {
        const { agree, events, on, seen } = watch()
        const r: SetUp = yield* on(setUp(
          [
            { script: [overloads, succeeds, ScriptedProvider.hang, ScriptedProvider.die("bug")], always: overloads },
            { script: [succeeds], always: ScriptedProvider.fail({ _tag: "Quota" }, { status: 429 }) }
          ],
          {
            timeout: { attempt: 2000, firstToken: 2000, deadline: "1 minute" },
            circuitBreaker: { failureThreshold: 3, recoveryTimeout: "10 minutes", maxRecoveryTimeout: "1 hour" },
            idempotency: { derive: false },
            cache: { readThrough: true, ttl: "5 minutes", swr: 0, staleIfError: "1 day" }
          }
        ))
        const ledgers: Array<LlmEvent.Ledger> = []
        const one = (input: string | LlmRequest.Input) =>
          Effect.exit(on(ask(kind, r.client, input))).pipe(
            Effect.tap((exit) =>
              Effect.sync(() => {
                if (Exit.isSuccess(exit)) ledgers.push(exit.value.ledger)
                else if (exit.cause.reasons[0]?._tag === "Fail") ledgers.push(exit.cause.reasons[0].error.ledger)
              })
            )
          )
        const calls: ReadonlyArray<string | LlmRequest.Input> = [
          { prompt: "retried", temperature: 0 },
          { prompt: "retried", temperature: 0 },
          "hangs, then dies",
          { prompt: "fails over", idempotencyKey: "k" },
          { prompt: "fails over", idempotencyKey: "k" },
          "fails",
          "is refused",
          { prompt: "retried", temperature: 0 }
        ]
        for (const input of calls) yield* timed(one(input), "2 minutes")
        agree()
        assert.strictEqual(events.filter(({ _tag }) => _tag === "CallEnded").length, seen.named("llm.call").length)
        for (const ledger of ledgers) {
          const { call } = ledger[0]!
          assert.deepStrictEqual(ledger, events.filter((event) => event.call === call), `call ${call}`)
        }
        const tags = new Set(events.map((event) => event._tag === "Cache" ? `Cache ${event.result}` : event._tag))
        for (
          const tag of ["Cache fresh", "Cache stale", "RetryScheduled", "FailedOver", "CircuitChanged", "TargetSkipped"]
        ) {
          assert.include([...tags], tag, "the script misses something")
        }
      })),
    20_000
  )

  it("chaos: every span ends once, and says what the events say", async () => {
    const plan: Plan = {
      ...chaos[kind],
      seed: "agreement",
      calls: 1500,
      targets: targetIds.map((id) => ({ id, chaos: true }))
    }
    const { agree, on, seen } = watch()
    const log = await Effect.runPromise(on(run(plan)))
    agree()
    assert.strictEqual(seen.named("llm.call").length, log.events.filter(({ _tag }) => _tag === "CallStarted").length)
    assert.strictEqual(seen.attempts.length, log.events.filter(({ _tag }) => _tag === "AttemptStarted").length)
    assert.isAbove(seen.attempts.filter(({ how }) => how === "interrupted").length, 0)
  })
})
