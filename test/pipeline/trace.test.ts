// The spans of one call by themselves, told one event at a time. What a whole client's look like: observability/Tracing.
import { assert, describe, it } from "@effect/vitest"
import { Cause, Context, Effect, Exit, Logger, Option, Tracer } from "effect"
import { Tracing } from "effect-resilient-llm/observability"
import { traceOf } from "../../src/pipeline/trace.ts"
import { Recorder } from "../observability/spans.ts"

const request = { prompt: [] } as never
const usage = { inputTokens: {}, outputTokens: {} }

const begun = (operation: "complete" | "stream" = "complete", asked: object = request) =>
  Effect.withFiber((fiber) =>
    Effect.sync(() => {
      const trace = traceOf(fiber, operation, asked as never, new Map([["p", "openai"]]))
      return trace ?? assert.fail("no trace")
    })
  )

const event = (tag: string, more: object) => ({ _tag: tag, call: 1, at: 0, ...more }) as never
const started = (attempt: number, target = "p") => event("AttemptStarted", { attempt, target })
const succeeded = (attempt: number) => event("AttemptSucceeded", { attempt, target: "p", duration: 1 })
const failed = (attempt: number, outcome: string, error?: object) =>
  event("AttemptFailed", { attempt, target: "p", outcome, error, duration: 1 })

it.effect("without a tracer there is no trace", () =>
  Effect.withFiber((fiber) => Effect.sync(() => assert.isUndefined(traceOf(fiber, "complete", request, new Map())))))

it.effect.each(["complete", "stream"] as const)(
  "an attempt says what is known, and nothing else: %s",
  (operation) =>
    Effect.gen(function*() {
      const seen = new Recorder()
      const trace = yield* seen.on(begun(operation))
      trace.on(started(1))
      trace.on(started(2, "unheard of"))
      const stream = operation === "stream" ? { "gen_ai.request.stream": true } : {}
      const expected = (target: string, attempt: number) => ({
        ...stream,
        "gen_ai.operation.name": "chat",
        "llm.target": target,
        "llm.attempt": attempt
      })
      assert.deepStrictEqual(seen.attempts.map(({ facts }) => facts), [
        { ...expected("p", 1), "gen_ai.provider.name": "openai" },
        expected("unheard of", 2)
      ])
      for (const { parent, sampled } of seen.attempts) {
        assert.isTrue(sampled)
        assert.strictEqual(Option.getOrUndefined(parent), seen.call)
      }
    })
)

it.effect("an answer's own names, where it has them; no content without a redactor", () =>
  Effect.gen(function*() {
    const seen = new Recorder()
    const trace = yield* seen.on(begun())
    const answered = (attempt: number, metadata: object) => {
      trace.on(started(attempt, "unheard of"))
      trace.answered(attempt, {
        provider: "openai",
        target: "p",
        parts: [{ type: "response-metadata", ...metadata }, { type: "finish", reason: "tool-calls", usage }]
      } as never)
      const { facts } = seen.attempts[attempt - 1]!
      const { "gen_ai.operation.name": _, "llm.attempt": __, "llm.target": ___, ...rest } = facts
      return rest
    }
    const always = { "gen_ai.provider.name": "openai", "gen_ai.response.finish_reasons": ["tool_calls"] }
    assert.deepStrictEqual(answered(1, {}), always)
    assert.deepStrictEqual(answered(2, { id: "r1", modelId: "m1" }), {
      ...always,
      "gen_ai.response.id": "r1",
      "gen_ai.response.model": "m1"
    })
  }))

it.effect("a request without stop sequences has none to quote", () =>
  Effect.gen(function*() {
    const seen = new Recorder()
    const quoted = (asked: object) =>
      Effect.gen(function*() {
        const trace = yield* Effect.provide(
          seen.on(begun("complete", asked)),
          Tracing.layerContent((text) => `<${text}>`)
        )
        trace.on(started(1))
        return seen.attempts.at(-1)!.facts
      })
    assert.notProperty(yield* quoted({ prompt: [] }), "gen_ai.request.stop_sequences")
    assert.propertyVal(yield* quoted({ prompt: [], stop: ["END"] }), "gen_ai.request.stop_sequences", "[\"<END>\"]")
  }))

it.effect("a retry is the next attempt at the same target, and no other", () =>
  Effect.gen(function*() {
    const seen = new Recorder()
    const trace = yield* seen.on(begun())
    trace.on(started(1))
    trace.on(event("RetryScheduled", { target: "p", attempt: 1, delay: 5, error: { tag: "ProviderError" } }))
    trace.on(started(2))
    trace.on(started(2, "s"))
    trace.on(started(3))
    assert.deepStrictEqual(seen.attempts.map(({ facts }) => facts["llm.retry.delay"]), [
      undefined,
      5,
      undefined,
      undefined
    ])
  }))

it.effect("what comes for an attempt that has ended, or that never was, changes nothing", () =>
  Effect.gen(function*() {
    const seen = new Recorder()
    const warned: Array<unknown> = []
    const logger = Logger.make(({ message }) => void warned.push(message))
    const trace = yield* seen.on(begun()).pipe(Effect.provideService(Logger.CurrentLoggers, new Set([logger])))
    trace.on(started(1))
    trace.on(succeeded(1))
    trace.on(succeeded(1))
    trace.on(succeeded(9))
    trace.on(event("AttemptCommitted", { attempt: 9, target: "p", duration: 1 }))
    trace.answered(9, { provider: "openai", parts: [] } as never)
    const effect = Effect.void
    assert.strictEqual(trace.within(9, effect), effect)
    trace.on(event("CallEnded", { outcome: "provider", attempts: 1, duration: 1 }))
    assert.deepStrictEqual(seen.spans.map(({ ends, name }) => [name, ends]), [["llm.call", 1], ["llm.attempt", 1]])
    assert.deepStrictEqual(warned, [])
  }))

it.effect("a tracer that has thrown is handed to nobody", () =>
  Effect.gen(function*() {
    const tracer = Tracer.make({
      span: (options) =>
        Object.assign(new Tracer.NativeSpan(options), {
          end: () => {
            throw new Error("bug")
          }
        })
    })
    const logger = Logger.make(() => {})
    const trace = yield* begun().pipe(
      Effect.withTracer(tracer),
      Effect.provideService(Logger.CurrentLoggers, new Set([logger]))
    )
    trace.on(started(1))
    trace.on(started(2))
    const effect = Effect.void
    assert.notStrictEqual(trace.within(2, effect), effect)
    trace.on(succeeded(1))
    assert.strictEqual(trace.within(2, effect), effect)
  }))

it.effect("spans stand where their parent is, never at a root of their own", () =>
  Effect.gen(function*() {
    const roots: Array<boolean> = []
    const tracer = Tracer.make({
      span: (options) => {
        roots.push(options.root)
        return new Tracer.NativeSpan(options)
      }
    })
    const trace = yield* Effect.withTracer(begun(), tracer)
    trace.on(started(1))
    assert.deepStrictEqual(roots, [false, false])
  }))

describe("a parent that wants no children", () => {
  const hidden = Context.make(Tracer.DisablePropagation, true)
  const external = (annotations: Context.Context<never>) =>
    Tracer.externalSpan({ spanId: "outside", traceId: "t", annotations })

  it.effect.each(
    [
      ["is passed over", external(Context.empty()), "outside"],
      ["has no parent that is known", external(hidden), undefined]
    ] as const
  )("%s", ([, outer, parent]) =>
    Effect.gen(function*() {
      const seen = new Recorder()
      const between = new Tracer.NativeSpan({
        name: "between",
        parent: Option.some(outer),
        annotations: hidden,
        links: [],
        startTime: 0n,
        kind: "internal",
        sampled: true
      })
      yield* Effect.withParentSpan(seen.on(begun()), between)
      assert.strictEqual(seen.call.parentName, parent)
    }))
})

it.effect("how an attempt ended", () =>
  Effect.gen(function*() {
    const seen = new Recorder()
    const trace = yield* seen.on(begun())
    const end = (outcome: string, error?: object) => {
      const attempt = seen.attempts.length + 1
      trace.on(started(attempt))
      trace.on(failed(attempt, outcome, error))
      const { status } = seen.attempts.at(-1)!
      if (status._tag !== "Ended" || Exit.isSuccess(status.exit)) return status._tag
      const { cause } = status.exit
      return Cause.hasInterruptsOnly(cause) ? "interrupted" : [Exit.hasDies(status.exit), Cause.squash(cause)]
    }
    const tagged = { tag: "ProviderError", reason: "Overloaded" }
    assert.deepStrictEqual(end("failure", tagged), [false, { name: "Overloaded", message: "Overloaded" }])
    assert.deepStrictEqual(
      end("failure", { ...tagged, status: 503 }),
      [false, { name: "Overloaded", message: "Overloaded (HTTP 503)" }]
    )
    assert.deepStrictEqual(end("defect"), [true, { name: "_OTHER", message: "a bug" }])
    assert.strictEqual(end("interrupted"), "interrupted")
  }))

describe("what a provider's own spans keep", () => {
  const below = <A, E>(effect: Effect.Effect<A, E>) =>
    Effect.gen(function*() {
      const seen = new Recorder()
      const trace = yield* seen.on(begun())
      trace.on(started(1))
      yield* Effect.exit(trace.within(1, Effect.withSpan(effect, "own")))
      return seen.named("own")[0]!
    })

  it.effect("neither addresses nor headers", () =>
    Effect.gen(function*() {
      const keys = {
        "url.scheme": true,
        "url.full": false,
        "http.request.header.authorization": false,
        "http.response.header.set-cookie": false,
        "http.request.method": true,
        "vendor.http.request.header.count": true,
        "http.request.headers": true
      }
      const { facts } = yield* below(
        Effect.annotateCurrentSpan(Object.fromEntries(Object.keys(keys).map((key) => [key, 1])))
      )
      for (const [key, kept] of Object.entries(keys)) assert.strictEqual(facts[key], kept ? 1 : undefined, key)
    }))

  it.effect.each(
    [
      ["an error with a name", Effect.fail({ _tag: "Refused", secret: "x" }), "Refused"],
      ["an error without one", Effect.fail({ secret: "x" }), "_OTHER"],
      ["a text", Effect.fail("secret"), "_OTHER"],
      ["null", Effect.fail(null), "_OTHER"],
      ["nothing", Effect.fail(undefined), "_OTHER"]
    ] as const
  )("no message: %s", ([, effect, name]) =>
    Effect.gen(function*() {
      const { status } = yield* below<never, unknown>(effect)
      assert.deepStrictEqual(status._tag === "Ended" && status.exit, Exit.fail({ name, message: name }))
    }))

  it.effect("an interruption stays one", () =>
    Effect.gen(function*() {
      assert.strictEqual((yield* below(Effect.interrupt)).how, "interrupted")
    }))
})
