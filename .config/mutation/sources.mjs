// The sources with all their mutants in them, by Stryker's instrumenter: each is switched on by its number.
import { globSync, readFileSync } from "node:fs"
import { createRequire } from "node:module"
import { join, relative } from "node:path"
import { pathToFileURL } from "node:url"

const root = process.cwd()
const ofStryker = createRequire(createRequire(join(root, "package.json")).resolve("@stryker-mutator/core/package.json"))
const load = (name) => import(pathToFileURL(ofStryker.resolve(name)).href)

const quiet = () => {}
const log = {
  debug: quiet,
  error: console.error,
  info: quiet,
  isDebugEnabled: () => false,
  isTraceEnabled: () => false,
  trace: quiet,
  warn: quiet
}

/** The same numbers whenever the sources are the same. */
export const instrumented = async () => {
  const { mutate } = JSON.parse(readFileSync(".config/stryker.json", "utf8"))
  const isOut = (pattern) => pattern.startsWith("!")
  const names = globSync(mutate.filter((pattern) => !isOut(pattern)), {
    exclude: mutate.filter(isOut).map((pattern) => pattern.slice(1))
  }).toSorted()
  const sources = Object.fromEntries(names.map((name) => [name, readFileSync(name, "utf8")]))
  const { createInstrumenter } = await load("@stryker-mutator/instrumenter")
  const { createInjector } = await load("typed-inject")
  const instrumenter = createInjector().provideValue("logger", log).injectFunction(createInstrumenter)
  const { files, mutants } = await instrumenter.instrument(
    names.map((name) => ({ name: join(root, name), content: sources[name], mutate: true })),
    { excludedMutations: [], ignorers: [], plugins: null }
  )
  return {
    code: new Map(files.map(({ content, name }) => [name, content])),
    mutants: mutants.map((mutant) => ({ ...mutant, fileName: relative(root, mutant.fileName) })),
    sources
  }
}
