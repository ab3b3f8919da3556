import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber, Logger, type LogLevel, References } from "effect"
import { Logging } from "effect-resilient-llm/observability"
import { ScriptedProvider } from "effect-resilient-llm/testing"
import { TestClock } from "effect/testing"
import { ask, fork, kinds, setUp, timed, vector } from "../support.ts"
import { Recorder } from "./spans.ts"

const overloads = ScriptedProvider.overloaded
const succeeds = ScriptedProvider.answer("Hello.")

interface Line {
  readonly level: string
  readonly message: unknown
  readonly facts: Readonly<Record<string, unknown>>
  readonly spans: ReadonlyArray<string>
  readonly trace: string | undefined
}

const lines = () => {
  const all: Array<Line> = []
  const logger = Logger.make(({ fiber, logLevel, message }) => {
    all.push({
      level: logLevel,
      message: Array.isArray(message) ? message[0] : message,
      facts: fiber.getRef(References.CurrentLogAnnotations),
      spans: fiber.getRef(References.CurrentLogSpans).map(([label]) => label),
      trace: fiber.cache.span?.spanId
    })
  })
  const on = (minimum: LogLevel.LogLevel, layer = Logging.layer()) => <A, E, R>(effect: Effect.Effect<A, E, R>) =>
    effect.pipe(
      Effect.provide(layer),
      Effect.provideService(Logger.CurrentLoggers, new Set([logger])),
      Effect.provideService(References.MinimumLogLevel, minimum)
    )
  return { all, on, short: () => all.splice(0).map(({ level, message }) => `${level}: ${String(message)}`) }
}

describe.each(kinds)("%s", (kind) => {
  it.effect("a healthy system is quiet, an unhealthy one says what it is", () =>
    vector(Effect.gen(function*() {
      const { on, short } = lines()
      const info = on("Info")
      const r = yield* info(setUp(
        [{ script: [succeeds, overloads, succeeds, overloads, overloads, overloads], always: ScriptedProvider.hang }, {
          script: [succeeds],
          always: overloads
        }],
        {
          circuitBreaker: { failureThreshold: 3, recoveryTimeout: 5000 },
          cache: { staleIfError: "1 day" },
          timeout: { attempt: 1000, firstToken: 1000 }
        }
      ))
      const call = (prompt: string) => timed(info(ask(kind, r.client, prompt)), "1 minute")
      yield* call("a")
      assert.deepStrictEqual(short(), [])
      yield* call("b")
      assert.deepStrictEqual(short(), ["Info: LLM call answered"])
      yield* call("c")
      assert.deepStrictEqual(short(), [
        "Warn: LLM circuit is open",
        "Info: LLM call moves on to the next target",
        "Info: LLM call answered"
      ])
      yield* call("d")
      assert.deepStrictEqual(short(), [
        "Info: LLM circuit is half-open",
        "Warn: LLM circuit is open",
        "Info: LLM call moves on to the next target",
        "Warn: LLM circuit is open",
        "Warn: LLM call failed"
      ])
      yield* call("a")
      const said = short()
      assert.deepStrictEqual(said.slice(-2), ["Warn: LLM answer is stale", "Info: LLM call answered"])
    })))

  it.effect("a closing circuit", () =>
    vector(Effect.gen(function*() {
      const { on, short } = lines()
      const info = on("Info")
      const circuitBreaker = { failureThreshold: 1, recoveryTimeout: 5000, successThreshold: 1 }
      const r = yield* info(setUp([[overloads, succeeds]], { retry: false, failover: false, circuitBreaker }))
      yield* timed(info(ask(kind, r.client)), 6000)
      yield* timed(info(ask(kind, r.client)), 6000)
      assert.deepStrictEqual(short(), [
        "Warn: LLM circuit is open",
        "Warn: LLM call failed",
        "Info: LLM circuit is half-open",
        "Info: LLM circuit is closed"
      ])
    })))

  it.effect("every step, for who wants it", () =>
    vector(Effect.gen(function*() {
      const { all, on } = lines()
      const debug = on("Debug")
      const r = yield* debug(setUp([[overloads, succeeds]]))
      yield* timed(debug(ask(kind, r.client)))
      assert.deepStrictEqual(all.map(({ facts, level, message }) => [level, message, facts]), [
        ["Debug", "LLM attempt failed", {
          "llm.call": 1,
          "llm.target": "p",
          "llm.attempt": 1,
          "llm.duration": 0,
          "llm.outcome": "failure",
          "llm.after_commit": false,
          "error.type": "Overloaded",
          "llm.error.status": 503
        }],
        ["Debug", "LLM call is retried", {
          "llm.call": 1,
          "llm.target": "p",
          "llm.attempt": 1,
          "llm.delay": 375,
          "llm.delayed_by": "backoff",
          "error.type": "Overloaded",
          "llm.error.status": 503
        }],
        ["Info", "LLM call answered", {
          "llm.call": 1,
          "llm.operation": kind,
          "llm.outcome": "provider",
          "llm.duration": 375,
          "llm.attempts": 2,
          "llm.target": "p"
        }]
      ])
    })))

  it.effect("a caller that leaves is no error; a bug of a provider is one, and says nothing of what was thrown", () =>
    vector(Effect.gen(function*() {
      const { all, on } = lines()
      const debug = on("Debug")
      const r = yield* debug(setUp([[ScriptedProvider.hang, ScriptedProvider.die(new Error("secret"))]]))
      const fiber = yield* fork(debug(ask(kind, r.client)))
      yield* TestClock.adjust(100)
      yield* Fiber.interrupt(fiber)
      assert.deepStrictEqual(all.splice(0).map(({ level, message }) => [level, message]), [
        ["Debug", "LLM call interrupted"]
      ])
      yield* timed(debug(ask(kind, r.client)))
      assert.deepStrictEqual(all.map(({ level, message }) => [level, message]), [
        ["Error", "LLM call died of a bug"]
      ])
      assert.notInclude(JSON.stringify(all), "secret")
    })))

  it.effect("annotations, log spans and trace are the caller's", () =>
    vector(Effect.gen(function*() {
      const { all, on } = lines()
      const debug = on("Debug")
      const seen = new Recorder()
      const r = yield* debug(setUp([[succeeds]]))
      yield* ask(kind, r.client).pipe(
        Effect.annotateLogs("request", "r-1"),
        Effect.withLogSpan("checkout"),
        Effect.withSpan("request"),
        seen.on,
        debug
      )
      assert.strictEqual(all.length, 1)
      assert.strictEqual(all[0]!.facts["request"], "r-1")
      assert.strictEqual(all[0]!.facts["llm.outcome"], "provider")
      assert.deepStrictEqual(all[0]!.spans, ["checkout"])
      assert.strictEqual(all[0]!.trace, seen.named("request")[0]!.spanId)
    })))

  it.effect("a level of your own, or none", () =>
    vector(Effect.gen(function*() {
      const { on, short } = lines()
      const own = on(
        "Info",
        Logging.layer({
          level: (event) =>
            event._tag === "CallEnded" ? "Fatal" : event._tag === "FailedOver" ? undefined : Logging.levelOf(event)
        })
      )
      const r = yield* own(setUp([[overloads], [succeeds]], { retry: false }))
      yield* own(ask(kind, r.client))
      assert.deepStrictEqual(short(), ["Fatal: LLM call answered"])
    })))
})
