// `npm run bench -- --check`: instructions per call, counted by valgrind, against those that are stored. They do not depend
// on who else uses the machine. Node interprets (`--jitless`), because what compilers do, and when, differs from run to run:
// the figures say whether a call does more than it did, not how long it takes. `--store` writes them down.
import { execFile } from "node:child_process"
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { promisify } from "node:util"
import { rolldown } from "rolldown"
import { forms } from "./prompts.ts"

const STORED = new URL("counts.json", import.meta.url)
const LIMIT = 0.05
const [FEW, MANY] = [150, 450]
const flags = ["--jitless", "--single-threaded", "--hash-seed=1", "--random-seed=1", "--no-warnings"]
const cases = [...Object.keys(forms), "one retry", "a stream of 20 parts"]

type Counts = Readonly<Record<string, number>>

const run = promisify(execFile)

/** Types are stripped by a program that needs a compiler, which there is none of. */
const bundled = async (folder: string): Promise<string> => {
  const file = join(folder, "counted.mjs")
  const bundle = await rolldown({
    input: fileURLToPath(new URL("counted.ts", import.meta.url)),
    platform: "node",
    logLevel: "silent"
  })
  await bundle.write({ file, format: "esm", codeSplitting: false })
  return file
}

const instructions = async (file: string, name: string, calls: number): Promise<number> => {
  const { stderr } = await run("valgrind", [
    "--tool=callgrind",
    "--callgrind-out-file=/dev/null",
    process.execPath,
    ...flags,
    file,
    name,
    String(calls)
  ])
  const found = /Collected : (\d+)/.exec(stderr)
  if (found === null) throw new Error(`valgrind counted nothing: ${stderr.slice(-500)}`)
  return Number(found[1])
}

/** Of one call: what many take more than few, so that starting is not counted. */
export const count = async (names: ReadonlyArray<string> = cases): Promise<Counts> => {
  const folder = mkdtempSync(join(tmpdir(), "bench-"))
  try {
    const file = await bundled(folder)
    const counts: Record<string, number> = {}
    for (const name of names) {
      const [few, many] = await Promise.all([instructions(file, name, FEW), instructions(file, name, MANY)])
      counts[name] = Math.round((many - few) / (MANY - FEW))
      console.error(`  ${name}: ${counts[name].toLocaleString("en")} instructions`)
    }
    return counts
  } finally {
    rmSync(folder, { recursive: true })
  }
}

/** What takes more than it did, in words. */
export const grown = (before: Counts, after: Counts): ReadonlyArray<string> =>
  Object.entries(after).flatMap(([name, now]) => {
    const then = before[name]
    if (then === undefined) return [`${name} is not stored`]
    return now > then * (1 + LIMIT)
      ? [`${name} takes ${((now / then - 1) * 100).toFixed(1)} % more instructions than stored`]
      : []
  })

export const check = async (store: boolean): Promise<boolean> => {
  const after = await count()
  if (store) {
    writeFileSync(STORED, `${JSON.stringify(after, undefined, 2)}\n`)
    return true
  }
  const problems = grown(JSON.parse(readFileSync(STORED, "utf8")) as Counts, after)
  for (const problem of problems) console.log(problem)
  if (problems.length === 0) console.log(`${cases.length} cases take at most ${LIMIT * 100} % more than stored.`)
  return problems.length === 0
}
