// The tests that hold the patterns, for `npm run mutation`: fast, and without network.
import { globSync } from "node:fs"
import { basename, dirname } from "node:path"
import { fileURLToPath } from "node:url"
import { defineConfig } from "vitest/config"

const src = (path: string): string => fileURLToPath(new URL(`../../src/${path}`, import.meta.url))
const folders = globSync(src("*/index.ts")).map((file) => basename(dirname(file)))

export default defineConfig({
  root: fileURLToPath(new URL("../..", import.meta.url)),
  resolve: {
    alias: [
      { find: /^effect-resilient-llm$/, replacement: src("index.ts") },
      { find: new RegExp(`^effect-resilient-llm/(${folders.join("|")})$`), replacement: src("$1/index.ts") },
      { find: /^effect-resilient-llm\/(.+)$/, replacement: src("$1.ts") }
    ]
  },
  test: {
    include: ["test/**/*.test.ts"],
    // What `vitest.config.ts` calls `system`, but for the models, sweeps and vectors of the patterns.
    exclude: [
      "test/{ai-sdk,bench,cli,docs,e2e,effect-ai,node,package,promise,providers,replay,testing,types,wire}/**",
      "test/conformance/{*.system,Chaos,Sweep,Throws,Toggles}.test.ts",
      "test/observability/{Agreement,Marker,Metrics,Otlp,Prometheus,alerts,dashboard,scrape}*.test.ts",
      "test/persistence/!({Health,Store,vectors}.test.ts)",
      // They read the sources, or pages that are not copied along.
      "test/architecture.test.ts",
      "test/observability/docs.test.ts",
      // It drives real clients thousands of times, for each mutant of the engine; `bounds.test.ts` is quick.
      "test/pipeline/bounds.model.test.ts"
    ],
    setupFiles: ["test/setup.ts"],
    isolate: false
  }
})
