// `npm run bench -- [--only <group>]`: measures, prints a table, and writes results.json and docs/performance.md with its
// chart; a group alone in the place of what was measured of it before. `--quick` prints alone. `npm run bench -- --check` counts
// instructions instead, and fails where a call takes more than is stored; `--store` writes down what it takes now.
// `npm run bench -- --against <tarball>` compares with another version.
import { execFileSync } from "node:child_process"
import { existsSync, readFileSync, writeFileSync } from "node:fs"
import { availableParallelism, cpus } from "node:os"
import { parseArgs } from "node:util"
import { against } from "./against.ts"
import { check } from "./counts.ts"
import { bundle } from "./groups/bundle.ts"
import { flame } from "./groups/flame.ts"
import { http } from "./groups/http.ts"
import { groups } from "./groups/index.ts"
import { state } from "./groups/state.ts"
import { type Case, compare, full, type Group, quick, type Result } from "./measure.ts"
import { asPage, asSvg, asText, goals } from "./render.ts"

const timing = (group: string, cases: Group) => async (isQuick: boolean): Promise<ReadonlyArray<Result>> => {
  const results: Array<Result> = []
  for (const [name, one] of Object.entries(cases)) {
    console.error(`  ${name}`)
    results.push(...isQuick ? await compare(quick, group, name, quickly(one)) : await compare(full, group, name, one))
  }
  return results
}

const quickly = ({ slow = [], subjects, ...one }: Case): Case => ({
  ...one,
  subjects: Object.fromEntries(Object.entries(subjects).filter(([subject]) => !slow.includes(subject)))
})

const all: Readonly<Record<string, (isQuick: boolean) => Promise<ReadonlyArray<Result>>>> = {
  ...Object.fromEntries(Object.entries(groups).map(([name, group]) => [name, timing(name, group)])),
  http,
  flame,
  state,
  bundle
}

const { values } = parseArgs({
  options: {
    only: { type: "string" },
    quick: { type: "boolean", default: false },
    check: { type: "boolean", default: false },
    store: { type: "boolean", default: false },
    against: { type: "string" }
  }
})
if (values.check || values.store) process.exit(await check(values.store) ? 0 : 1)
if (values.against !== undefined) {
  await against(values.against, values.only, !values.quick)
  process.exit(0)
}
const names = Object.keys(all)
if (values.only !== undefined && !names.includes(values.only)) {
  console.error(`--only takes one of: ${names.join(", ")}`)
  process.exit(2)
}
const isQuick = values.quick
const chosen = values.only === undefined ? names : [values.only]

// Before anything is written.
const commit = execFileSync("git", ["describe", "--always", "--dirty"], { encoding: "utf8" }).trim()
const about = `Node ${process.versions.node}, ${cpus()[0]?.model.trim() ?? "unknown processor"}, ` +
  `${availableParallelism()} cores, ${new Date().toISOString().slice(0, 10)}, commit ${commit}.`

const results: Array<Result> = []
for (const name of chosen) {
  const started = performance.now()
  console.error(`${name} …`)
  const found = await all[name]!(isQuick)
  results.push(...found)
  console.log(`${asText(found)}\n`)
  console.error(`${name}: ${((performance.now() - started) / 1000).toFixed(0)} s`)
}
// A quick look shows that everything runs: what is measured before it is compiled is no target.
for (const { got, wanted, what } of isQuick ? [] : goals(results)) {
  console.log(`${what}: ${got}${wanted === "" ? "" : ` (${wanted})`}`)
}

if (isQuick) process.exit(0)

/** The results of a group, and when, on what and of which commit they are. */
interface Measured {
  readonly about: string
  readonly results: ReadonlyArray<Result>
}

const at = (path: string): URL => new URL(path, import.meta.url)
const file = at("results.json")
const stored: Record<string, Measured> = values.only !== undefined && existsSync(file)
  ? JSON.parse(readFileSync(file, "utf8"))
  : {}
for (const name of chosen) stored[name] = { about, results: results.filter(({ group }) => group === name) }
writeFileSync(file, `${JSON.stringify(stored, undefined, 1)}\n`)
if (names.every((name) => name in stored)) {
  const measured = names.flatMap((name) => stored[name]!.results)
  const success = measured.filter((one) => one.case === "success" && one.metric === "time")
  writeFileSync(at("../../docs/performance.md"), asPage(measured, (group) => stored[group]!.about))
  writeFileSync(
    at("../../docs/performance.svg"),
    asSvg("A successful call, everything on (shorter is better)", success)
  )
}
process.exit(0)
