// The tests that hold the patterns, for `npm run mutation`: fast, and without network.
import { globSync } from "node:fs"
import { basename, dirname } from "node:path"
import { fileURLToPath } from "node:url"
import { defineConfig } from "vitest/config"

const src = (path: string): string => fileURLToPath(new URL(`../src/${path}`, import.meta.url))
const folders = globSync(src("*/index.ts")).map((file) => basename(dirname(file)))

export default defineConfig({
  root: fileURLToPath(new URL("..", import.meta.url)),
  resolve: {
    alias: [
      { find: /^effect-resilient-llm$/, replacement: src("index.ts") },
      { find: new RegExp(`^effect-resilient-llm/(${folders.join("|")})$`), replacement: src("$1/index.ts") },
      { find: /^effect-resilient-llm\/(.+)$/, replacement: src("$1.ts") }
    ]
  },
  test: {
    include: [
      "test/resilience/**/*.test.ts",
      "test/conformance/{Retry,RetryBudget,Timeout,Timeout.standalone,Failover,Idempotency,Cache,System}.test.ts",
      "test/{LlmError,Pipeline}.test.ts",
      "test/pipeline/**/*.test.ts",
      "test/persistence/{Health,Store,vectors}.test.ts"
    ],
    // Pages are not copied along, and thousands of random clients tell of the bounds, not of the engine.
    exclude: ["test/pipeline/{lint,bounds.model}.test.ts"],
    setupFiles: ["test/setup.ts"],
    isolate: false
  }
})
