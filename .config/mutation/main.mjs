// `npm run mutation [-- --only <part of a path>,…] [--processes <n>] [--resume]`: whether the tests notice when the patterns
// are changed, one change at a time. Stryker makes the changes; its own runner begins anew for each and took hours, so
// ours (`runner.mjs`) switches them on one after the other in one process. `npx stryker run .config/stryker.json --mutate
// <file>` is for checking it. Writes .cache/mutation/report.json, of which `page.mjs` makes test/conformance/mutation.md.
import { execFileSync, spawn } from "node:child_process"
import { appendFileSync, existsSync, mkdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs"
import { availableParallelism } from "node:os"
import { join, relative } from "node:path"
import { setTimeout as sleep } from "node:timers/promises"
import { parseArgs } from "node:util"
import { instrumented } from "./sources.mjs"

const { values } = parseArgs({
  options: {
    only: { type: "string", default: "" },
    processes: { type: "string", default: String(availableParallelism()) },
    resume: { type: "boolean", default: false }
  }
})
const processes = Number(values.processes)
const shards = [...Array(processes).keys()]
const folder = join(process.cwd(), ".cache/mutation")
if (!values.resume) rmSync(folder, { recursive: true, force: true })
mkdirSync(folder, { recursive: true })
const path = (name) => join(folder, name)
const lines = (name) =>
  existsSync(path(name))
    ? readFileSync(path(name), "utf8").split("\n").filter(Boolean).map((line) => JSON.parse(line))
    : []
const log = (text) => console.log(`${new Date().toISOString().slice(11, 19)} ${text}`)

const { code, mutants, sources } = await instrumented()
writeFileSync(path("mutants.json"), JSON.stringify({ mutants }))
writeFileSync(path("code.json"), JSON.stringify([...code]))
const vitest = (...args) => [join(process.cwd(), "node_modules/vitest/vitest.mjs"), ...args]
const tests = ["--config", ".config/mutation/tests.ts"]
const listed = execFileSync(process.execPath, vitest("list", "--filesOnly", "--json", ...tests), { encoding: "utf8" })
const files = JSON.parse(listed.slice(listed.indexOf("["))).map(({ file }) => relative(process.cwd(), file))
const start = (env, ...args) =>
  spawn(process.execPath, vitest("run", "--config", ".config/mutation/vitest.config.mjs", ...args), {
    detached: true,
    env: { ...process.env, MUTATION: folder, ...env },
    stdio: "ignore"
  })
const kill = (child) => {
  try {
    process.kill(-child.pid, "SIGKILL")
  } catch {
    // It has ended.
  }
}

/** All mutants of one process, which begins anew where a mutant has stopped or spoilt it. */
const shard = async (i, isSlow) => {
  const [reached, finished, alive] = ["reached", "finished", "alive"].map((name) => `${name}${i}`)
  rmSync(path(finished), { force: true })
  const env = { FILES: files.length, ONLY: values.only, SHARD: i, SHARDS: processes, SLOW: isSlow ? "1" : "0" }
  while (!existsSync(path(finished))) {
    const isFirst = !existsSync(path(reached))
    writeFileSync(path(alive), "")
    const child = start(env)
    let isRunning = true
    child.on("exit", () => isRunning = false)
    while (isRunning && !existsSync(path(finished))) {
      await sleep(500)
      const silence = Date.now() - statSync(path(alive)).mtimeMs
      if (silence > (existsSync(path(reached)) ? 90_000 : 600_000)) kill(child)
    }
    kill(child)
    if (isFirst && !existsSync(path(reached))) throw new Error("the tests did not run to their end")
  }
}
const pass = async (isSlow) => {
  const clock = setInterval(
    () => log(`${shards.flatMap((i) => lines(`done${i}`)).length} of ${mutants.length}`),
    60_000
  )
  await Promise.all(shards.map((i) => shard(i, isSlow)))
  clearInterval(clock)
}
await pass(false)
for (const i of shards) {
  const kept = lines(`done${i}`).filter(({ isSlow, status }) => status !== "Survived" || isSlow)
  writeFileSync(path(`done${i}`), kept.map((line) => `${JSON.stringify(line)}\n`).join(""))
}
log("slow tests, for what has survived the quick ones")
await pass(true)

// What runs when a module is loaded: each in a process of its own, on the tests that load the module.
const { coverage } = JSON.parse(readFileSync(path("reached0"), "utf8"))
const fileOf = new Map(mutants.map(({ fileName, id }) => [id, fileName]))
const users = new Map()
for (const [test, hits] of Object.entries(coverage.perTest)) {
  const file = test.slice(0, test.indexOf("#"))
  for (const source of new Set(Object.keys(hits).map((id) => fileOf.get(id)))) {
    if (!users.has(source)) users.set(source, new Map())
    users.get(source).set(file, (users.get(source).get(file) ?? 0) + 1)
  }
}
const results = new Map(shards.flatMap((i) => lines(`done${i}`)).map((one) => [one.id, one]))
const alone = (id, files) =>
  new Promise((resolve) => {
    const child = start({ MUTANT: id }, ...files)
    const timer = setTimeout(() => kill(child), 300_000)
    child.on("exit", (code) => {
      clearTimeout(timer)
      resolve(code === 0 ? "Survived" : code === null ? "Timeout" : "Killed")
    })
  })
const known = new Map(lines("statics").map((one) => [one.id, one]))
const statics = mutants.filter(({ id }) => results.get(id)?.isStatic && !known.has(id))
log(`${statics.length} of what runs when a module is loaded`)
await Promise.all(shards.map(async () => {
  for (let mutant = statics.shift(); mutant !== undefined; mutant = statics.shift()) {
    const { fileName, id } = mutant
    const mirror = `test/${fileName.slice("src/".length, -".ts".length)}.`
    const order = [...users.get(fileName) ?? []]
      .toSorted(([a, few], [b, many]) => b.startsWith(mirror) - a.startsWith(mirror) || many - few)
      .map(([file]) => file)
    let status = "Survived"
    // The last ones reach nothing of it when they run, but may look at what was there when it was loaded.
    for (const some of [order.slice(0, 3), order.slice(3), files.filter((file) => !order.includes(file))]) {
      if (status === "Survived" && some.length > 0) status = await alone(id, some)
    }
    appendFileSync(path("statics"), `${JSON.stringify({ id, status })}\n`)
    known.set(id, { id, status })
  }
}))

const report = { schemaVersion: "2", thresholds: { high: 95, low: 90 }, files: {} }
const at = ({ column, line }) => ({ column: column + 1, line: line + 1 })
for (const { fileName, id, location, mutatorName, replacement, status: given } of mutants) {
  const status = given === "Ignored" ? given : (known.get(id) ?? results.get(id))?.status
  if (status === undefined) continue
  const file = report.files[fileName] ??= { language: "typescript", mutants: [], source: sources[fileName] }
  file.mutants.push({
    id,
    location: { end: at(location.end), start: at(location.start) },
    mutatorName,
    replacement,
    status
  })
}
writeFileSync(path("report.json"), JSON.stringify(report))
await import("./page.mjs")
