import { Store } from "effect-resilient-llm/persistence"
import { TestClock } from "effect/testing"
import { keepsTheLaws } from "./laws.ts"

keepsTheLaws("memory", () => ({
  layer: (bounds) => Store.layerMemory(bounds ?? { maxEntries: 1000 }),
  advance: TestClock.adjust
}))
