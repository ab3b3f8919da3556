// The real program, as users start it.
import { spawn } from "node:child_process"
import { readFileSync } from "node:fs"
import { fileURLToPath } from "node:url"
import { assert, describe, it } from "vitest"
import { has, promtool } from "../observability/promtool.ts"

const root = fileURLToPath(new URL("../..", import.meta.url))

interface Ran {
  readonly code: number | null
  readonly out: string
  readonly err: string
  readonly seconds: number
}

const start = (args: ReadonlyArray<string>, env: Readonly<Record<string, string>> = {}, stdin: string | false = "") => {
  const child = spawn(process.execPath, args, {
    cwd: root,
    env: { NODE_COMPILE_CACHE: process.env["NODE_COMPILE_CACHE"], ...env }
  })
  child.stdin.on("error", () => {}) // most commands do not read it
  if (stdin !== false) child.stdin.end(stdin)
  const started = performance.now()
  let out = ""
  let err = ""
  child.stdout.on("data", (chunk) => out += chunk)
  child.stderr.on("data", (chunk) => err += chunk)
  const ended = new Promise<Ran>((resolve, reject) => {
    child.on("error", reject)
    child.on("close", (code) => resolve({ code, out, err, seconds: (performance.now() - started) / 1000 }))
  })
  return { child, ended }
}

const program = (...args: ReadonlyArray<string>): Promise<Ran> => start(["src/cli/bin.ts", ...args]).ended

const PATIENCE = 60_000

// The demo mostly waits: both play it at the same time. Its vendors' silences last half a second, which a machine that is busy
// with other tests may stand still for.
describe.concurrent("the program", { retry: 2 }, () => {
  it("plays the demo: every case behaves, plain in a pipe, under 15 seconds", async () => {
    const { code, err, out, seconds } = await start([".config/start.mjs"]).ended
    assert.include(out, "✓ 11 of 11 cases behaved as they must")
    assert.strictEqual(err, "")
    assert.strictEqual(code, 0)
    assert.isBelow(seconds, 15)
    assert.notInclude(out, "\u001b")
    assert.deepStrictEqual(out.split("\n").filter((line) => line.length > 80), [])
    assert.include(out, "npm start -- ask \"What is AI?\"")
  }, PATIENCE)

  it("with --metrics only what Prometheus reads is on standard output", async () => {
    const { code, err, out } = await program("demo", "--metrics")
    assert.strictEqual(code, 0)
    assert.include(err, "✓ 11 of 11 cases behaved as they must")
    assert.match(out, /^llm_breaker_transitions_total\{target="openai",from="closed",to="open"\} [1-9]/m)
    if (has("promtool")) assert.deepStrictEqual(promtool(["check", "metrics"], out), { code: 0, text: "" })
  }, PATIENCE)
})

describe("the program", () => {
  it("answers without keys", async () => {
    const { code, err, out } = await start([".config/start.mjs", "ask", "What is AI?"]).ended
    assert.include(out, "simulated answer")
    assert.include(err, "OPENAI_API_KEY")
    assert.strictEqual(code, 0)
  }, PATIENCE)

  it("a pipe: what is piped in is behind the question", async () => {
    const { code, out } = await start(["src/cli/bin.ts", "ask", "Summarise"], {}, "a long document\n").ended
    assert.include(out, "“Summarise\n\na long document”")
    assert.strictEqual(code, 0)
  }, PATIENCE)

  it("started with a standard input that stays open, it asks and ends", async () => {
    const { code, err, out } = await start(["src/cli/bin.ts", "ask", "Hi"], {}, false).ended
    assert.include(out, "“Hi”")
    assert.include(err, "asking without it")
    assert.strictEqual(code, 0)
  }, PATIENCE)

  it("prints JSON and nothing else", async () => {
    const { code, out } = await program("ask", "What is AI?", "--json", "--stream")
    assert.strictEqual(JSON.parse(out).source, "provider")
    assert.strictEqual(code, 0)
  }, PATIENCE)

  it("a failure: 1, and no trace of a stack", async () => {
    const env = { OPENAI_API_KEY: "key", OPENAI_BASE_URL: "http://127.0.0.1:9/v1" }
    const { code, err, out } = await start(["src/cli/bin.ts", "ask", "Hi", "--deadline", "500ms"], env).ended
    assert.deepStrictEqual([code, out], [1, ""])
    assert.include(err, "✗ openai could not be reached (ECONNREFUSED 127.0.0.1:9).")
    assert.notMatch(err, /^\s+at /m)
  }, PATIENCE)

  it.each([["v20.20.2", true], ["v22.18.0", true], ["v22.19.0", false], ["v26.0.0", false]] as const)(
    "a Node that is too old is told so in one sentence: %s",
    async (version, isOld) => {
      const older = `Object.defineProperty(process, "version", { value: "${version}" })`
      const args = ["--import", `data:text/javascript,${encodeURIComponent(older)}`, "src/cli/bin.ts", "--help"]
      const { code, err } = await start(args).ended
      const { engines } = JSON.parse(readFileSync(`${root}package.json`, "utf8")) as { engines: { node: string } }
      const least = engines.node.slice(">=".length)
      assert.deepStrictEqual(
        [code, err],
        isOld ? [1, `resilient-llm needs Node ${least} or newer; this is ${version}.\n`] : [0, ""]
      )
    },
    PATIENCE
  )

  it("a wrong flag: help and what is wrong on standard error, 1", async () => {
    const { code, err, out } = await program("ask", "Hi", "--json", "--colour")
    assert.deepStrictEqual([code, out], [1, ""])
    assert.include(err, "USAGE")
    assert.include(err, "--colour")
  }, PATIENCE)

  it("a wrong duration is explained", async () => {
    const { code, err } = await program("ask", "Hi", "--deadline", "soon")
    assert.strictEqual(code, 1)
    assert.include(err, "a duration, such as 30s, 500ms or \"2 minutes\"")
  }, PATIENCE)

  it("help fits 80 columns, version is the package's", async () => {
    const help = await program("ask", "--help")
    assert.strictEqual(help.code, 0)
    assert.deepStrictEqual(help.out.split("\n").filter((line) => line.length > 80), [])
    for (const name of ["OPENAI_API_KEY", "ANTHROPIC_API_KEY", "COHERE_API_KEY"]) assert.include(help.out, name)
    assert.match((await program("--version")).out, /^resilient-llm v\d+\.\d+\.\d+/)
  }, PATIENCE)

  it("Ctrl-C ends it at once, with 130 and nothing on standard error", async () => {
    const { child, ended } = start(["src/cli/bin.ts", "demo"])
    await new Promise((resolve) => child.stdout.once("data", resolve))
    const interrupted = performance.now()
    child.kill("SIGINT")
    const { code, err } = await ended
    assert.deepStrictEqual([code, err], [130, ""])
    assert.isBelow(performance.now() - interrupted, 1000)
  }, PATIENCE)

  it("a reader who leaves ends it quietly", async () => {
    const { child, ended } = start(["src/cli/bin.ts", "demo"])
    await new Promise((resolve) => child.stdout.once("data", resolve))
    child.stdout.destroy()
    const { code, err } = await ended
    assert.deepStrictEqual([code, err], [141, ""])
  }, PATIENCE)

  it("names the package that is missing, in one line", async () => {
    const hook = `import { registerHooks } from "node:module"
      registerHooks({ resolve: (name, context, next) => {
        if (!name.startsWith("@effect/platform-node")) return next(name, context)
        throw Object.assign(new Error("Cannot find package '@effect/platform-node' imported from here"), {
          code: "ERR_MODULE_NOT_FOUND"
        })
      } })`
    const { code, err } = await start([
      "--import",
      `data:text/javascript,${encodeURIComponent(hook)}`,
      "src/cli/bin.ts",
      "demo"
    ]).ended
    assert.strictEqual(
      err,
      "resilient-llm needs the package @effect/platform-node. Install it: npm install @effect/platform-node\n"
    )
    assert.strictEqual(code, 1)
  }, PATIENCE)
})
