import { assert, it } from "@effect/vitest"
import { Bulkhead, CircuitBreaker, Hedge, LoadShedder, RateLimiter, RetryBudget } from "effect-resilient-llm/resilience"

// Two services with one key would be one service.
it("every pattern's service has a key of its own, named after it", () => {
  const services = { ...Bulkhead, ...CircuitBreaker, ...Hedge, ...LoadShedder, ...RateLimiter, ...RetryBudget }
  for (const name of ["Bulkhead", "CircuitBreaker", "Hedge", "LoadShedder", "RateLimiter", "RetryBudget"] as const) {
    assert.strictEqual(services[name].key, `effect-resilient-llm/${name}`)
  }
})
