import { Store } from "effect-resilient-llm/persistence"
import { runVectors } from "../conformance/store.runner.ts"

runVectors("memory", { layer: (bounds) => Store.layerMemory(bounds ?? { maxEntries: 1000 }) })
