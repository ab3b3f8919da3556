import { defineConfig } from "vitest/config"
import base from "../../vitest.config.ts"

// The project's own aliases and setup, without its projects: these tests stand in a folder of their own.
export default defineConfig({
  ...(base.resolve && { resolve: base.resolve }),
  test: { include: ["**/*.test.ts"], setupFiles: ["test/setup.ts"], isolate: false }
})
