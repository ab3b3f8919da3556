// `npm run bench -- --check`: instructions per call, counted by valgrind, against those that are stored. They do not depend
// on who else uses the machine. Node interprets (`--jitless`), because what compilers do, and when, differs from change to
// change: the figures say whether a call does more than it did, not how long it takes. `--store` writes them down.
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
// Room for all that is made: whether a collection falls between few and many calls is chance, and a full one is as much as a
// third of what is counted.
const flags = ["--min-semi-space-size=64", "--single-threaded", "--hash-seed=1", "--random-seed=1", "--no-warnings"]
const cases = [...Object.keys(forms), "one retry", "a stream of 20 parts"]

/** How calls are counted: what many take more than few. */
interface How {
  readonly flags: ReadonlyArray<string>
  readonly few: number
  readonly many: number
}

const interpreted: How = { flags: ["--jitless"], few: 150, many: 450 }

/** As users run it: when few have run, all is compiled. Until then the figures differ by a fifth from one count to the next. */
export const compiled = (name: string): How =>
  name.startsWith("a stream")
    ? { flags: ["--predictable"], few: 3000, many: 5000 }
    : { flags: ["--predictable"], few: 60_000, many: 100_000 }

type Counts = Readonly<Record<string, number>>

const run = promisify(execFile)

/**
 * The cases in one file, over this library or over another version of it, by the path of its entry. (Types are stripped by
 * a program that needs a compiler, which there is none of without one.)
 */
export const bundled = async (file: string, library?: string): Promise<string> => {
  const isLibrary = (id: string): boolean => id.endsWith("/src/index.ts")
  const bundle = await rolldown({
    input: fileURLToPath(new URL("counted.ts", import.meta.url)),
    platform: "node",
    logLevel: "silent",
    plugins: library === undefined ? [] : [{ name: "library", resolveId: (id) => isLibrary(id) ? library : null }],
    resolve: { modules: [fileURLToPath(new URL("../../node_modules", import.meta.url))] }
  })
  await bundle.write({ file, format: "esm", codeSplitting: false })
  return file
}

const instructions = async (file: string, name: string, calls: number, more: How["flags"]): Promise<number> => {
  const { stderr } = await run("valgrind", [
    "--tool=callgrind",
    "--callgrind-out-file=/dev/null",
    process.execPath,
    ...flags,
    ...more,
    file,
    name,
    String(calls)
  ])
  const found = /Collected : (\d+)/.exec(stderr)
  if (found === null) throw new Error(`valgrind counted nothing: ${stderr.slice(-500)}`)
  return Number(found[1])
}

/** Of one call: what many take more than few, so that starting is not counted. */
export const countIn = async (file: string, name: string, how = interpreted): Promise<number> => {
  const [few, many] = await Promise.all([how.few, how.many].map((calls) => instructions(file, name, calls, how.flags)))
  return Math.round((many! - few!) / (how.many - how.few))
}

export const inFolder = async <A>(use: (folder: string) => Promise<A>): Promise<A> => {
  const folder = mkdtempSync(join(tmpdir(), "bench-"))
  try {
    return await use(folder)
  } finally {
    rmSync(folder, { recursive: true })
  }
}

const count = (): Promise<Counts> =>
  inFolder(async (folder) => {
    const file = await bundled(join(folder, "counted.mjs"))
    const counts: Record<string, number> = {}
    for (const name of cases) {
      counts[name] = await countIn(file, name)
      console.error(`  ${name}: ${counts[name].toLocaleString("en")} instructions`)
    }
    return counts
  })

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
