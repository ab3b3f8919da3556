// What stands in front of an attempt: what is off is not there.
import { assert, it } from "@effect/vitest"
import { Effect, Layer, Stream } from "effect"
import { LlmClient, LlmConfig, LlmGuard, LlmProvider } from "effect-resilient-llm"
import { CircuitBreaker } from "effect-resilient-llm/resilience"
import { ScriptedProvider } from "effect-resilient-llm/testing"
import type * as Tokenizer from "effect/ai/Tokenizer"
import { TestClock } from "effect/testing"
import * as Background from "../../src/pipeline/background.ts"
import { makeHub } from "../../src/pipeline/hub.ts"
import { counting } from "../../src/pipeline/patterns.ts"
import { Router } from "../../src/pipeline/routing.ts"
import * as Target from "../../src/pipeline/target.ts"
import * as RateLimiter from "../../src/resilience/RateLimiter.ts"
import { ask, failure, fork, setUp, timed, vector } from "../support.ts"

const provider = LlmProvider.make({ id: "p", generate: () => Effect.never, stream: () => Effect.never as never })

interface Around {
  readonly guards?: ReadonlyArray<LlmGuard.Guard<never>>
  readonly traits?: Partial<LlmProvider.LlmProvider>
  readonly tokenizer?: Tokenizer.Service
}

/** A target, and the names under which limiters were made for it. */
const built = (options: LlmConfig.Options, own: Target.TargetOptions = {}, around: Around = {}) =>
  Effect.gen(function*() {
    const config = { ...own, id: "p", provider: { ...provider, ...around.traits } }
    const settings = LlmConfig.settings([config], { rateLimit: false, ...options })
    const limiters: Array<string> = []
    const { bucket } = settings
    const target = yield* Target.make<never>(config, 0, {
      settings,
      guards: around.guards ?? [],
      bucket: bucket === undefined || RateLimiter.isRateLimiter(bucket) ? bucket : RateLimiter.fromPolicy(bucket),
      limiter: (name, limits) =>
        Effect.sync(() => {
          limiters.push(name)
          return RateLimiter.isRateLimiter(limits) ? limits : RateLimiter.fromPolicy(limits)
        }),
      fleet: undefined,
      counting: counting(around.tokenizer),
      router: new Router(settings.routing, [config]),
      hub: yield* makeHub(),
      background: yield* Background.make,
      builtAt: 0
    })
    return { target, limiters }
  })

/** The names of what an attempt passes, first to last. */
const passes = (...setting: Parameters<typeof built>) =>
  Effect.scoped(Effect.map(built(...setting), ({ target }) => target.doors.map(({ name }) => name)))

const off = { circuitBreaker: false, retry: false } as const

it.effect("a pattern that is off is not in the composition, and one that is on stands once", () =>
  Effect.gen(function*() {
    const limits = [{ dimension: "requests", limit: 1, per: 1 }]
    assert.deepStrictEqual(yield* passes(off), [])
    assert.deepStrictEqual(yield* passes({ ...off, hedge: { delay: 1000 } }), [])
    assert.deepStrictEqual(yield* passes({ ...off, hedge: {} }), ["first-content"])
    assert.deepStrictEqual(yield* passes({ ...off, routing: { strategy: "weights", sticky: "tenant" } }), [])
    assert.deepStrictEqual(yield* passes({ ...off, routing: { strategy: "fastest" } }), ["first-content"])
    assert.deepStrictEqual(yield* passes({ ...off, loadShedding: { throttle: false } }), [])
    assert.deepStrictEqual(yield* passes({ ...off, loadShedding: {} }), ["load-shedding"])
    assert.deepStrictEqual(
      yield* passes(
        { retry: false, hedge: {}, rateLimit: {}, bulkhead: {}, loadShedding: {}, routing: { strategy: "fastest" } },
        { limits }
      ),
      ["load-shedding", "first-content", "bulkhead", "rate-limit", "rate-limit", "circuit-breaker"]
    )
  }))

it.effect("guards of users come first, and that of the provider directly before its circuit", () =>
  Effect.gen(function*() {
    const [mine, its] = [LlmGuard.make("mine", () => Effect.void), LlmGuard.make("its", () => Effect.void)]
    const around = { guards: [mine], traits: { guard: its } }
    assert.deepStrictEqual(yield* passes({ retry: false, bulkhead: {}, loadShedding: {} }, {}, around), [
      "mine",
      "load-shedding",
      "bulkhead",
      "its",
      "circuit-breaker"
    ])
    assert.deepStrictEqual(yield* passes(off, {}, around), ["mine", "its"])
  }))

it.effect("tokens are counted where a limit counts them, be it of the client or of the target", () =>
  Effect.gen(function*() {
    const around = { tokenizer: { tokenize: () => Effect.never, truncate: () => Effect.never } }
    const per = (dimension: "requests" | "tokens") => ({ limits: [{ dimension, limit: 1, per: 1 }] })
    const limited = (of: "requests" | "tokens") => ({ ...off, rateLimit: per(of) })
    const clients: ReadonlyArray<LlmConfig.Options> = [off, limited("requests"), limited("tokens")]
    const counted: Array<ReadonlyArray<boolean>> = []
    for (const client of clients) {
      const names = yield* Effect.forEach([{}, per("requests"), per("tokens")], (own) => passes(client, own, around))
      counted.push(names.map((list) => list.includes("tokenizer")))
    }
    assert.deepStrictEqual(counted, [[false, false, true], [false, false, true], [true, true, true]])
    assert.notInclude(yield* passes(off, per("tokens")), "tokenizer")
  }))

it.effect("a limiter of a target is known by the target's name", () =>
  Effect.scoped(Effect.gen(function*() {
    const { limiters } = yield* built(off, { limits: [{ dimension: "requests", limit: 1, per: 1 }] })
    assert.deepStrictEqual(limiters, ["target:p"])
  })))

it.effect("circuits per model are named after their target and their model, and that of no model after the target", () =>
  Effect.scoped(Effect.gen(function*() {
    const { target } = yield* built({ retry: false, circuitBreaker: { scope: "model" } })
    const keys = ["fast", undefined].map((model) => target.circuits!.of(model).key)
    assert.deepStrictEqual(keys, ["p/fast", "p"])
  })))

it.effect.each<[string, LlmConfig.Options["circuitBreaker"] | "made", object]>([
  ["one that was made outside", "made", {}],
  ["that of a target", { failureThreshold: 1 }, {}],
  ["that of a model", { failureThreshold: 1, scope: "model" }, { model: "m" }]
])("the circuit of a target tells of its changes: %s", ([, circuitBreaker, named]) =>
  vector(Effect.gen(function*() {
    const made = yield* CircuitBreaker.make({ key: "made", failureThreshold: 1 })
    const target = circuitBreaker === "made" ? { circuitBreaker: made } : {}
    const options = circuitBreaker === "made" ? {} : { circuitBreaker }
    const r = yield* setUp([[ScriptedProvider.overloaded]], { retry: false, ...options }, [target])
    const changes: Array<unknown> = []
    yield* fork(Stream.runForEach(r.client.events, (event) =>
      Effect.sync(() => {
        if (event._tag === "CircuitChanged") changes.push(event)
      })))
    yield* TestClock.adjust(50)
    for (const tag of ["ProviderError", "CircuitOpen"]) {
      const { exit } = yield* timed(ask("complete", r.client, { prompt: "Hi", model: "m" }), 0)
      assert.strictEqual(failure(exit)._tag, tag)
    }
    assert.deepStrictEqual(changes, [
      { _tag: "CircuitChanged", call: 0, at: 50, target: "p", ...named, from: "closed", to: "open" }
    ])
  })))

it.effect("circuits per model: a hundred are kept, and whoever comes back is still known", () =>
  Effect.scoped(Effect.gen(function*() {
    const { target } = yield* built({ retry: false, circuitBreaker: { scope: "model" } })
    const circuits = target.circuits!
    const of = (i: number) => circuits.of(`m${i}`)
    // With the one for requests that name no model.
    const first = Array.from({ length: Target.MAX_CIRCUITS - 1 }, (_, i) => of(i))
    assert.strictEqual([...circuits.all()].length, Target.MAX_CIRCUITS)
    for (const [i, circuit] of first.entries()) assert.strictEqual(of(i), circuit)
    assert.strictEqual(of(0), first[0])
    assert.strictEqual([...circuits.all()].length, Target.MAX_CIRCUITS)
    of(1000)
    of(1001)
    assert.strictEqual([...circuits.all()].length, Target.MAX_CIRCUITS)
    // The two that were used longest ago are gone: that without a model, and the second.
    assert.strictEqual(of(0), first[0])
    assert.strictEqual(of(2), first[2])
    assert.notStrictEqual(of(1), first[1])
  })))

const unfit: ReadonlyArray<readonly [settings: object, message: string]> = [
  [{ limits: { capacity: 5, maxWait: "x" } }, "\"targets[1].limits.maxWait\" must be"],
  [{ limits: { nonsense: 1 } }, "targets[1].limits.nonsense"],
  [
    { limits: [{ dimension: "requests", limit: -1, per: "1 minute" }] },
    "\"targets[1].limits[0].limit\" must be a number above zero"
  ],
  [
    { limits: [{ dimension: "images", limit: 1, per: "1 minute" }] },
    "\"targets[1].limits[0].dimension\" must be one of requests, tokens, input-tokens, output-tokens"
  ],
  [
    { limits: { limits: [{ dimension: "images", limit: 1, per: "1 minute" }] } },
    "\"targets[1].limits.limits[0].dimension\" must be one of requests, tokens, input-tokens, output-tokens"
  ],
  [{ limits: [] }, "\"targets[1].limits\" must be a list of at least one limit"],
  [{ limits: 5 }, "\"targets[1].limits\" must be a list of limits, or an object of options, but is a whole number"],
  [{ limits: "5" }, "\"targets[1].limits\""],
  [{ limit: [] }, "\"targets[1].limit\" must be one of id, models, defaultModel,"],
  [{ id: "" }, "\"targets[1].id\" must be a name, but is an empty text"],
  [{ models: "lenient" }, "\"targets[1].models\" must be a map of model names, or \"strict\", but is a text"],
  [{ models: { fast: 1 } }, "\"targets[1].models.fast\" must be a model name, but is a whole number"],
  [{ defaultModel: 1 }, "\"targets[1].defaultModel\" must be a model name"],
  [{ contextWindow: "128k" }, "\"targets[1].contextWindow\" must be a number above zero, but is a text"],
  [{ supports: { tool: false } }, "\"targets[1].supports.tool\" must be one of tools, schema, vision"],
  [{ supports: { tools: "no" } }, "\"targets[1].supports.tools\" must be true or false"],
  [{ weight: NaN }, "\"targets[1].weight\" must be"],
  [{ circuitBreaker: { failureThreshold: -1 } }, "\"targets[1].circuitBreaker.failureThreshold\" must be"],
  [{ circuitBreaker: true }, "\"targets[1].circuitBreaker\" must be an object of options, or false"],
  [{ bulkhead: { queue: 1.5 } }, "\"targets[1].bulkhead.queue\" must be"]
]
it.effect.each(unfit)("what a target has of its own is checked: %j", ([settings, message]) =>
  Effect.gen(function*() {
    const targets = [provider, { provider, id: "other", ...settings }] as const
    const error = yield* Effect.flip(Effect.scoped(Layer.build(LlmClient.layerDynamic(targets as never))))
    assert.strictEqual(error._tag, "LlmConfigError")
    assert.include(error.message, message)
    const explained = yield* Effect.flip(LlmConfig.explain(["first", targets[1]] as never))
    assert.strictEqual(explained.message, error.message)
  }))
