// Effect's own tests for `effect/ai`, made ready to run here: their imports follow today's names of the modules, and
// their one helper is `own` (as it is) or `bridge` (withLanguageModel.ts). Nothing of them is kept in this repository.
import { execFileSync } from "node:child_process"
import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { fileURLToPath } from "node:url"

const root = fileURLToPath(new URL("../..", import.meta.url))
const here = fileURLToPath(new URL(".", import.meta.url))

/** The tests that drive a model, and those of what it is made of. */
const files = [
  "LanguageModel.test.ts",
  "Chat.test.ts",
  "Tool.test.ts",
  "LanguageModelTrackerLifecycle.test.ts",
  "LanguageModelRepresentation.test.ts",
  "ToolRepresentation.test.ts",
  "ResponseIdTracker.test.ts",
  "Prompt.test.ts",
  "Model.test.ts"
]

/** `EFFECT_TESTS`: a checkout of Effect, or its folder `packages/effect/test/unstable/ai`. */
export const folder = (path: string): string => {
  const inside = join(path, "packages/effect/test/unstable/ai")
  return existsSync(inside) ? inside : path
}

export interface Outcome {
  readonly passed: ReadonlyArray<string>
  readonly failed: ReadonlyArray<{ readonly name: string; readonly message: string }>
}

export const run = (from: string, helper: "own" | "bridge"): Outcome => {
  const to = join(root, ".cache/effect-tests", helper)
  rmSync(to, { recursive: true, force: true })
  mkdirSync(to, { recursive: true })
  const there = new Set(readdirSync(from))
  for (const file of [...files, "utils.ts"].filter((name) => there.has(name))) {
    const text = readFileSync(join(from, file), "utf8").replaceAll("effect/unstable/", "effect/")
    writeFileSync(join(to, file), text)
  }
  if (helper === "bridge") cpSync(join(here, "withLanguageModel.ts"), join(to, "utils.ts"))
  const report = join(to, "report.json")
  try {
    execFileSync(
      process.execPath,
      [
        join(root, "node_modules/vitest/vitest.mjs"),
        "run",
        "--config",
        join(here, "vitest.official.ts"),
        "--dir",
        to,
        "--reporter=json",
        `--outputFile=${report}`,
        "--maxWorkers=1"
      ],
      { cwd: root, stdio: "ignore", timeout: 300_000 }
    )
  } catch {
    // Some fail; the report says which.
  }
  const { testResults } = JSON.parse(readFileSync(report, "utf8")) as {
    readonly testResults: ReadonlyArray<{
      readonly name: string
      readonly message?: string
      readonly assertionResults: ReadonlyArray<
        { readonly fullName: string; readonly status: string; readonly failureMessages: ReadonlyArray<string> }
      >
    }>
  }
  const passed: Array<string> = []
  const failed: Array<{ readonly name: string; readonly message: string }> = []
  for (const { assertionResults, message, name } of testResults) {
    const file = name.slice(to.length + 1)
    if (assertionResults.length === 0) failed.push({ name: file, message: message ?? "" })
    for (const { failureMessages, fullName, status } of assertionResults) {
      if (status === "passed") passed.push(`${file} ${fullName}`)
      else failed.push({ name: `${file} ${fullName}`, message: failureMessages[0] ?? status })
    }
  }
  return { passed, failed }
}
