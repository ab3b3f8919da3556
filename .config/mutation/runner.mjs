// Runs in the tests' process. First each test as usual, noting which mutants it reaches. After the last file mutant after
// mutant: those tests once more that reach it, those of the file of the same name first, then the quickest. Nothing is
// loaded anew for that, so a mutant takes milliseconds. A test that fails under a mutant must pass without it; else what
// it left behind would count against others, and the process begins anew.
import { appendFileSync, existsSync, readFileSync, renameSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { TestRunner } from "vitest"

const { FILES, MUTATION, ONLY, SHARD, SHARDS, SLOW } = process.env
const root = process.cwd()
const { clearTimeout, setTimeout } = globalThis
const stryker = globalThis.__stryker__ ??= {}
const path = (name) => join(MUTATION, `${name}${SHARD}`)
const read = (name) => existsSync(path(name)) ? JSON.parse(readFileSync(path(name), "utf8")) : undefined
const reached = read("reached")
/** What earlier files have left here: a runner is made anew for each. */
const all = globalThis.__mutation__ ??= { files: 0, tests: new Map(), took: {} }

/** Tests that take longer are run in the second pass only, for what survives, but for those of the file of the same name. */
const QUICK = 150

process.on("unhandledRejection", () => {})
process.on("uncaughtException", () => {})

const nameOf = (test) => {
  const names = []
  for (let task = test; task !== undefined; task = task.suite) names.unshift(task.name)
  return `${test.file.filepath.slice(root.length + 1)}#${names.join(" > ")} (${test.id})`
}

export default class extends TestRunner {
  async runTask(test) {
    const name = nameOf(test)
    all.tests.set(name, test)
    if (reached !== undefined) return
    stryker.currentTestId = name
    const start = performance.now()
    try {
      await TestRunner.getTestFn(test)()
    } finally {
      all.took[name] = performance.now() - start
      stryker.currentTestId = undefined
    }
  }

  async onAfterRunFiles(files) {
    super.onAfterRunFiles(files)
    all.files += 1
    if (all.files === Number(FILES)) await mutateAll()
  }
}

const mutateAll = async () => {
  if (reached === undefined) {
    writeFileSync(path("part"), JSON.stringify({ coverage: stryker.mutantCoverage, took: all.took }))
    renameSync(path("part"), path("reached"))
  }
  const { coverage, took } = read("reached")
  const reaching = new Map()
  for (const [test, hits] of Object.entries(coverage.perTest)) {
    for (const [id, count] of Object.entries(hits)) {
      if (!reaching.has(id)) reaching.set(id, [])
      reaching.get(id).push([test, count])
    }
  }
  const record = (result) => appendFileSync(path("done"), `${JSON.stringify(result)}\n`)
  const done = new Set(
    existsSync(path("done"))
      ? readFileSync(path("done"), "utf8").trim().split("\n").map((line) => JSON.parse(line).id)
      : []
  )
  const last = read("current")
  if (last !== undefined && !last.isSpoiling && !done.has(last.id)) {
    // It has stopped the process.
    record({ id: last.id, status: "Timeout" })
    done.add(last.id)
  }
  const { mutants } = JSON.parse(readFileSync(join(MUTATION, "mutants.json"), "utf8"))
  const chosen = mutants.filter(({ fileName, status }) =>
    status !== "Ignored" && ONLY.split(",").some((part) => fileName.includes(part))
  )
  for (const [i, { fileName, id }] of chosen.entries()) {
    if (i % Number(SHARDS) !== Number(SHARD) || done.has(id)) continue
    const isStatic = coverage.static[id] !== undefined
    const tests = reaching.get(id)
    if (tests === undefined) {
      record({ id, status: isStatic ? "Static" : "NoCoverage", isStatic })
      continue
    }
    const mirror = `test/${fileName.slice("src/".length, -".ts".length)}.`
    const order = tests
      .filter(([name]) => SLOW === "1" || took[name] < QUICK || name.startsWith(mirror))
      .toSorted(([a], [b]) => b.startsWith(mirror) - a.startsWith(mirror) || took[a] - took[b])
    writeFileSync(path("current"), JSON.stringify({ id }))
    let result = { id, status: "Survived", isStatic, isSlow: SLOW === "1" }
    for (const [name, hits] of order) {
      writeFileSync(path("alive"), "")
      const test = all.tests.get(name)
      const limits = { hits: hits * 100 + 10_000, time: 1500 + 4 * took[name] }
      const ended = await once(test, id, limits)
      if (ended === "passed") continue
      result = { id, status: ended === "late" ? "Timeout" : "Killed", by: name }
      if (ended === "failed" && await once(test, undefined, limits) !== "passed") {
        // What it does in a process of its own counts.
        if (last?.isSpoiling && last.id === id) record(result)
        else writeFileSync(path("current"), JSON.stringify({ id, isSpoiling: true }))
        process.kill(process.pid, "SIGKILL")
      }
      break
    }
    record(result)
  }
  writeFileSync(path("finished"), "")
}

const once = async (test, mutant, { hits, time }) => {
  stryker.hitCount = 0
  stryker.hitLimit = mutant === undefined ? Infinity : hits
  stryker.activeMutant = mutant
  let timer
  const late = new Promise((resolve) => timer = setTimeout(() => resolve("late"), time))
  const run = async () => {
    try {
      await TestRunner.getTestFn(test)()
      for (const finished of test.onFinished ?? []) await finished(test.context)
      return "passed"
    } catch {
      return "failed"
    }
  }
  const ended = await Promise.race([run(), late])
  clearTimeout(timer)
  test.onFinished = test.onFailed = stryker.activeMutant = undefined
  return ended
}
