// What stands in front of an attempt: what is off is not there.
import { assert, it } from "@effect/vitest"
import { Effect, Layer } from "effect"
import { LlmClient, LlmConfig, LlmProvider } from "effect-resilient-llm"
import * as Background from "../../src/pipeline/background.ts"
import { makeHub } from "../../src/pipeline/hub.ts"
import { counting } from "../../src/pipeline/patterns.ts"
import { Router } from "../../src/pipeline/routing.ts"
import * as Target from "../../src/pipeline/target.ts"
import * as RateLimiter from "../../src/resilience/RateLimiter.ts"

const provider = LlmProvider.make({ id: "p", generate: () => Effect.never, stream: () => Effect.never as never })

/** The names of what an attempt passes, first to last. */
const passes = (options: LlmConfig.Options, own: Target.TargetOptions = {}) =>
  Effect.scoped(Effect.gen(function*() {
    const config = { ...own, id: "p", provider }
    const settings = LlmConfig.settings([config], { rateLimit: false, ...options })
    const target = yield* Target.make<never>(config, 0, {
      settings,
      guards: [],
      bucket: settings.bucket === undefined ? undefined : yield* RateLimiter.make(),
      limiter: (_, limits) =>
        Effect.succeed(RateLimiter.isRateLimiter(limits) ? limits : RateLimiter.fromPolicy(limits)),
      fleet: undefined,
      counting: counting(undefined),
      router: new Router(settings.routing, [config]),
      hub: yield* makeHub(),
      background: yield* Background.make,
      builtAt: 0
    })
    return target.doors.map(({ name }) => name)
  }))

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
