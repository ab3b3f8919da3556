import { Store } from "effect-resilient-llm/persistence"
import { RateLimiter } from "effect-resilient-llm/resilience"
import { TestClock } from "effect/testing"
import { keepsTheLaws, keepsTheLimitLaws } from "./laws.ts"

keepsTheLaws("memory", () => ({
  layer: (bounds) => Store.layerMemory(bounds ?? { maxEntries: 1000 }),
  advance: TestClock.adjust
}))

keepsTheLimitLaws("memory", () => ({ store: RateLimiter.storeMemory(), advance: TestClock.adjust }))
