import { assert, it } from "@effect/vitest"
import { Context, Effect } from "effect"
import {
  Bulkhead,
  CircuitBreaker,
  Failover,
  Hedge,
  Idempotency,
  LoadShedder,
  RateLimiter,
  ResponseCache,
  RetryBudget
} from "effect-resilient-llm/resilience"

// Two services with one key would be one service.
it("every pattern's service has a key of its own, named after it", () => {
  const services = { ...Bulkhead, ...CircuitBreaker, ...Hedge, ...LoadShedder, ...RateLimiter, ...RetryBudget }
  for (const name of ["Bulkhead", "CircuitBreaker", "Hedge", "LoadShedder", "RateLimiter", "RetryBudget"] as const) {
    assert.strictEqual(services[name].key, `effect-resilient-llm/${name}`)
  }
})

it.each(
  [
    ["CircuitBreakerStore", CircuitBreaker.CircuitBreakerStore],
    ["CoolDownStore", Failover.CoolDownStore],
    ["IdempotencyStore", Idempotency.IdempotencyStore],
    ["RateLimiterStore", RateLimiter.RateLimiterStore],
    ["ResponseCacheStore", ResponseCache.ResponseCacheStore]
  ] as const
)("%s has a key of its own, and nobody's store unless it is given one", (name, store) => {
  assert.strictEqual(store.key, `effect-resilient-llm/${name}`)
  assert.isUndefined(Context.get(Context.empty(), store as Context.Reference<unknown>))
})

it.effect("a guard knows its own kind, and nothing else", () =>
  Effect.gen(function*() {
    const values = [
      yield* Bulkhead.make(),
      yield* CircuitBreaker.make({ key: "k" }),
      yield* RateLimiter.make(),
      null,
      undefined,
      {},
      "text",
      () => {}
    ]
    const guards: ReadonlyArray<(u: unknown) => boolean> = [
      Bulkhead.isBulkhead,
      CircuitBreaker.isCircuitBreaker,
      RateLimiter.isRateLimiter
    ]
    for (const [i, guard] of guards.entries()) {
      assert.deepStrictEqual(values.map(guard), values.map((_, at) => at === i))
    }
  }))

// By it another copy of the package knows them.
it.effect("what a guard knows is the brand of its kind", () =>
  Effect.gen(function*() {
    const brandOf = (value: object) => Object.keys(value).find((key) => key.startsWith("~effect-resilient-llm/"))
    assert.strictEqual(brandOf(yield* Bulkhead.make()), "~effect-resilient-llm/Bulkhead")
    assert.strictEqual(brandOf(yield* CircuitBreaker.make({ key: "k" })), "~effect-resilient-llm/CircuitBreaker")
    assert.strictEqual(brandOf(yield* RateLimiter.make()), "~effect-resilient-llm/RateLimiter")
  }))
