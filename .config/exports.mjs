// Holds the `exports` map of package.json against the built package: every public module of src/ can be imported by
// its name and has types; nothing internal can.
import { existsSync, globSync } from "node:fs"
import { fileURLToPath } from "node:url"

const root = fileURLToPath(new URL("..", import.meta.url))
const name = "effect-resilient-llm"
const problems = []
let open = 0
let closed = 0

const resolve = (specifier) => {
  try {
    return fileURLToPath(import.meta.resolve(specifier))
  } catch (error) {
    if (error.code !== "ERR_PACKAGE_PATH_NOT_EXPORTED") throw error
  }
}

for (const file of globSync("src/**/*.ts", { cwd: root })) {
  const path = file.replaceAll("\\", "/").slice("src/".length, -".ts".length)
  const specifier = `${name}/${path}`.replace(/\/index$/, "")
  const target = resolve(specifier)
  if (/(^|\/)internal\//.test(path) || /^(cli|pipeline)\//.test(path) || path === "Pipeline") {
    if (target !== undefined) problems.push(`${specifier} is internal, but "exports" lets it through`)
    closed++
  } else if (target === undefined) problems.push(`${specifier} is public, but "exports" does not name it`)
  else if (!existsSync(target)) problems.push(`${specifier} leads to ${target}, which does not exist`)
  else if (!existsSync(target.replace(/\.js$/, ".d.ts"))) problems.push(`${specifier} has no types`)
  else {
    await import(specifier)
    open++
  }
}

for (const problem of problems) console.error(problem)
console.log(`exports: ${open} public modules load, ${closed} internal ones are closed, ${problems.length} problems`)
process.exitCode = problems.length === 0 ? 0 : 1
