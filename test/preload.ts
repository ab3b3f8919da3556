// Preloaded into programs that tests run: the package's own name leads to its sources, as in the tests.
import { existsSync } from "node:fs"
import { registerHooks } from "node:module"

const src = new URL("../src/", import.meta.url)

registerHooks({
  resolve: (specifier, context, next) => {
    const own = /^effect-resilient-llm(?:\/(.+))?$/.exec(specifier)
    if (own === null) return next(specifier, context)
    const path = own[1] ?? "index"
    const file = new URL(`${path}.ts`, src)
    return next((existsSync(file) ? file : new URL(`${path}/index.ts`, src)).href, context)
  }
})
