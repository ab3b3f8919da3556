// `--import` of the benchmarks: they measure what is published. Node's way to run TypeScript leaves fields in classes that
// tsc does not write, and an object with many of them is made twice.
import { registerHooks } from "node:module"

const { href: source } = new URL("../../src/", import.meta.url)
const { href: built } = new URL("../../dist/", import.meta.url)

registerHooks({
  resolve: (specifier, context, next) => {
    const found = next(specifier, context)
    return found.url.startsWith(source)
      ? { ...found, url: built + found.url.slice(source.length).replace(/\.ts$/, ".js"), format: "module" }
      : found
  }
})
