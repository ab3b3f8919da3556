import { globSync } from "node:fs"
import { availableParallelism } from "node:os"
import { basename, dirname } from "node:path"
import { fileURLToPath } from "node:url"
import { defineConfig } from "vitest/config"
import { generate } from "./test/doctest/generate.ts"

const src = (path: string): string => fileURLToPath(new URL(`./src/${path}`, import.meta.url))
const folders = globSync(src("*/index.ts")).map((file) => basename(dirname(file)))

// The examples in JSDoc, README and docs/ are tests of the same run.
generate()

// Everything that starts processes, servers or engines, that reads megabytes of recordings, or that runs thousands of
// calls. The rest is `unit`: what one runs between two edits.
const system = [
  ".cache/doctest/**/*.test.ts",
  "test/{ai-sdk,bench,cli,docs,e2e,effect-ai,node,package,persistence,promise,providers,replay,types,wire}/**/*.test.ts",
  "test/conformance/{Chaos,Promised,Sweep,Throws,Toggles}.test.ts",
  "test/observability/{Agreement,Marker,Metrics,Otlp,Prometheus,alerts,dashboard,scrape}*.test.ts",
  "test/testing/*.test.ts",
  "test/**/*.{model,sweep,vectors,system}.test.ts"
]

export default defineConfig({
  resolve: {
    alias: [
      { find: /^effect-resilient-llm$/, replacement: src("index.ts") },
      { find: new RegExp(`^effect-resilient-llm/(${folders.join("|")})$`), replacement: src("$1/index.ts") },
      { find: /^effect-resilient-llm\/(.+)$/, replacement: src("$1.ts") }
    ]
  },
  test: {
    projects: [
      { extends: true, test: { name: "unit", include: ["test/**/*.test.ts"], exclude: system } },
      { extends: true, test: { name: "system", include: system } }
    ],
    setupFiles: ["test/setup.ts"],
    // Files share a worker (25 times faster): leave no global state behind.
    isolate: false,
    // Vitest leaves one core free, which on two cores doubles the time; our longest files mostly wait.
    maxWorkers: Math.ceil(availableParallelism() * 1.5),
    // Tests start about a hundred programs, whose compiling takes half of their start.
    env: { NODE_COMPILE_CACHE: fileURLToPath(new URL("./.cache/compiled", import.meta.url)) },
    // Against tests that hang; what a busy machine needs is no failure.
    testTimeout: 180_000,
    hookTimeout: 180_000,
    coverage: { provider: "v8", include: ["src/**/*.ts"], reportsDirectory: "coverage" }
  }
})
