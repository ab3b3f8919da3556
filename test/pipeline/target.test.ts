// What stands in front of an attempt: what is off is not there.
import { assert, it } from "@effect/vitest"
import { Effect } from "effect"
import { LlmProvider } from "effect-resilient-llm"
import type { LlmConfig } from "effect-resilient-llm"
import * as Background from "../../src/pipeline/background.ts"
import { makeHub } from "../../src/pipeline/hub.ts"
import { Router } from "../../src/pipeline/routing.ts"
import * as Target from "../../src/pipeline/target.ts"
import * as Hedge from "../../src/resilience/Hedge.ts"
import * as LoadShedder from "../../src/resilience/LoadShedder.ts"
import * as RateLimiter from "../../src/resilience/RateLimiter.ts"

const provider = LlmProvider.make({ id: "p", generate: () => Effect.never, stream: () => Effect.never as never })

/** The names of what an attempt passes, first to last. */
const passes = ({ hedge, loadShedding, rateLimit, ...options }: LlmConfig.Options, own: Target.TargetOptions = {}) =>
  Effect.scoped(Effect.gen(function*() {
    const config = { ...own, id: "p", provider }
    const target = yield* Target.make<never>(config, 0, {
      options,
      guards: [],
      timers: undefined,
      bucket: rateLimit ? yield* RateLimiter.make() : undefined,
      limiter: (_, rules) => RateLimiter.isRateLimiter(rules) ? Effect.succeed(rules) : RateLimiter.make(rules),
      hedge: hedge ? Hedge.policy(hedge) : undefined,
      shedding: loadShedding ? LoadShedder.policy(loadShedding) : undefined,
      router: new Router(options.routing, [config]),
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
