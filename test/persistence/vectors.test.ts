import { Store } from "effect-resilient-llm/persistence"
import { CircuitBreaker, RateLimiter } from "effect-resilient-llm/resilience"
import { TestClock } from "effect/testing"
import { keepsTheCircuitLaws, keepsTheLaws, keepsTheLimitLaws } from "./laws.ts"

keepsTheLaws("memory", () => ({
  layer: (bounds) => Store.layerMemory(bounds ?? { maxEntries: 1000 }),
  advance: TestClock.adjust
}))

keepsTheLimitLaws("memory", () => ({ store: RateLimiter.storeMemory(), advance: TestClock.adjust }))

keepsTheCircuitLaws("memory", () => ({ store: CircuitBreaker.storeMemory(), advance: TestClock.adjust }))
