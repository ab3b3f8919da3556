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

it.effect.each<[unknown, string]>([
  [{ capacity: 5, maxWait: "x" }, "\"limits.maxWait\" must be"],
  [{ nonsense: 1 }, "limits.nonsense"],
  [[{ dimension: "requests", limit: -1, per: "1 minute" }], "\"limits[0].limit\" must be a number above zero"],
  [
    { limits: [{ dimension: "images", limit: 1, per: "1 minute" }] },
    "\"limits[0].dimension\" must be one of requests, tokens, input-tokens, output-tokens"
  ],
  [5, "\"limits\""],
  ["5", "\"limits\""]
])("a target's own limits that are wrong are told as its limits: %j", ([limits, message]) =>
  Effect.gen(function*() {
    const error = yield* Effect.flip(
      Effect.scoped(Layer.build(LlmClient.layerDynamic([{ provider, limits: limits as never }])))
    )
    assert.strictEqual(error._tag, "LlmConfigError")
    assert.include(error.message, message)
  }))
