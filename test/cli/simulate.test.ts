import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit } from "effect"
import { spawnSync } from "node:child_process"
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { pathToFileURL } from "node:url"
import { gzipSync } from "node:zlib"
import { afterAll } from "vitest"
import { run, withoutColours } from "./support.ts"

const folder = mkdtempSync(join(tmpdir(), "simulate-"))
afterAll(() => rmSync(folder, { recursive: true, force: true }))

const file = (name: string, content: unknown): string => {
  const path = join(folder, name)
  writeFileSync(path, typeof content === "string" || Buffer.isBuffer(content) ? content : JSON.stringify(content))
  return path
}

const scenario = file("two minutes.json", {
  name: "two minutes",
  about: "The first vendor fails for a minute.",
  arrivals: { kind: "steady", perSecond: 1, duration: "2 minutes", input: 1000, output: 100, questions: 60 },
  vendors: [
    { id: "first", phases: [{ kind: "error", from: "30s", to: "90s" }] },
    { id: "second", latency: { firstToken: "1 second" } }
  ]
})
const both = file("both.json", { cache: false })
const alone = file("alone.json", { failover: false, retry: false, circuitBreaker: false, cache: false })

describe("simulate", () => {
  it.live("compares configurations by the names of their files", () =>
    Effect.gen(function*() {
      const { err, exit, out } = yield* run(["simulate", "--scenario", scenario, "--config", both, "--config", alone])
      assert.isTrue(Exit.isSuccess(exit), err)
      assert.strictEqual(err, "")
      const lines = out.split("\n")
      assert.deepStrictEqual(lines.slice(0, 2), [
        "two minutes: 120 calls, whole answers, seed 1",
        "The first vendor fails for a minute."
      ])
      assert.include(out, "| both   | 100.00 % |")
      assert.include(out, "| alone  | 50.00 %  |")
      assert.include(out, "| alone  | ProviderError | 60    |")
    }))

  it.live("prints JSON and nothing else, the same for the same seed", () =>
    Effect.gen(function*() {
      const args = ["simulate", "--scenario", scenario, "--json", "--seed", "7", "--stream"]
      const [one, again] = [yield* run(args), yield* run(args)]
      assert.strictEqual(again.out, one.out)
      const report = JSON.parse(one.out)
      assert.deepInclude(report, { scenario: "two minutes", seed: 7, calls: 120, operation: "stream" })
      assert.strictEqual(report.policies[0].name, "defaults")
    }))

  it.live("a trace replaces the arrivals, packed or not; who calls and what is asked stays", () =>
    Effect.gen(function*() {
      const csv = `time,input,output\n${Array.from({ length: 30 }, (_, i) => `${i},1000,100`).join("\n")}\n`
      const of = (trace: string) => run(["simulate", "--scenario", scenario, "--config", alone, "--trace", trace])
      const packed = yield* of(file("trace.csv.gz", gzipSync(csv)))
      assert.include(packed.out, "two minutes: 30 calls")
      assert.include(packed.out, "| alone  | 100.00 % | 1.9 s |")
      assert.strictEqual((yield* of(file("trace.csv", csv))).out, packed.out)
    }))

  it.live("a status page's incidents replace a vendor's phases", () =>
    Effect.gen(function*() {
      const incidents = file("incidents.json", {
        incidents: [{
          id: "i",
          name: "Outage",
          impact: "critical",
          created_at: "2024-06-04T06:00:30Z",
          resolved_at: "2024-06-04T06:01:00Z"
        }]
      })
      const { out } = yield* run([
        "simulate",
        "--json",
        `--scenario=${scenario}`,
        `--config=${alone}`,
        `--incidents=first=${incidents}`,
        "--start=2024-06-04T06:00:00Z"
      ])
      assert.deepStrictEqual(JSON.parse(out).phases, [
        { vendor: "first", kind: "overload", from: 30_000, to: 60_000 }
      ])
    }))

  it.live("on a terminal it says how far it is, and takes that away", () =>
    Effect.gen(function*() {
      const busy = file("busy.json", {
        arrivals: { kind: "steady", perSecond: 20, duration: "10 minutes" },
        vendors: [{ id: "first" }]
      })
      const { err } = yield* run(["simulate", "--scenario", busy], { terminal: true })
      const shown = withoutColours(err)
      assert.match(shown, /defaults: \d+ % of 12000 calls/)
      assert.isTrue(shown.endsWith("⌫"), shown.slice(-80))
    }))

  const page = file("page.json", { incidents: [] })
  const wrong: ReadonlyArray<readonly [why: string, args: ReadonlyArray<string>, says: string]> = [
    ["no such scenario", ["--scenario", "nope"], "--scenario nope is none of overload, hang,"],
    ["no such file", ["--scenario", join(folder, "no.json")], "cannot be read (NotFound)."],
    ["not JSON", ["--scenario", file("text.json", "{")], "text.json is not JSON."],
    [
      "a wrong scenario",
      ["--scenario", file("wrong.json", { arrivals: { kind: "steady", perSecond: 1 }, vendors: [{ id: 1 }] })],
      "wrong.json: vendors[0].id must be a name, but is a whole number."
    ],
    [
      "a wrong option",
      ["--config", both, "--config", file("b.json", { retry: { maxRetrys: 1 } })],
      "b.json: retry.maxRetrys must be one of maxRetries,"
    ],
    [
      "a wrong trace",
      ["--trace", file("bad.csv", "a,b,c\n1,2\n")],
      "bad.csv: line 2 must be a time, the tokens of the prompt and those of the answer"
    ],
    [
      "a trace without its header",
      ["--trace", file("bare.csv", "0,1,2\n1,1,2\n")],
      "bare.csv: line 1 must be a header,"
    ],
    ["a trace without calls", ["--trace", file("none.csv", "a,b,c\n")], "none.csv: line 2 must be a time,"],
    ["a trace that is not packed", ["--trace", file("bad.csv.gz", "a,b,c\n")], "bad.csv.gz is no gzip file"],
    [
      "a vendor that is not there",
      ["--incidents", `third=${both}`],
      "must be a vendor and a path, as first=incidents.json; vendors are first, second."
    ],
    ["no incidents", ["--incidents", `first=${both}`], "both.json: incidents must be given"],
    [
      "incidents of one vendor, twice",
      ["--incidents", `first=${page}`, "--incidents", `first=${page}`],
      "is given twice for one vendor"
    ],
    [
      "incidents of two vendors, with no moment for both",
      ["--incidents", `first=${page}`, "--incidents", `second=${page}`],
      "--start must be given, where several vendors have incidents"
    ],
    ["a start of nothing", ["--start", "2024-06-04"], "--start is for --incidents"],
    ["a page that cannot be written", ["--html", join(folder, "no", "page.html")], "cannot be written (NotFound)."]
  ]
  for (const [why, args, says] of wrong) {
    it.live(why, () =>
      Effect.gen(function*() {
        const { err, exit, out } = yield* run([
          "simulate",
          ...args[0] === "--scenario" ? [] : ["--scenario", scenario],
          ...args
        ])
        assert.isTrue(Exit.isFailure(exit))
        assert.strictEqual(out, "")
        assert.include(err, says)
        assert.strictEqual(err.split("\n").length, 2)
      }))
  }
})

describe("the page in a browser", () => {
  const chromium = ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"].find(existsSync)
  if (chromium === undefined) process.stderr.write("no Chromium on this machine: the page is not opened\n")

  /** The page after it was rendered, and what its console said. */
  const opened = (path: string): { readonly dom: string; readonly said: string } => {
    const args = [
      "--headless",
      "--no-sandbox",
      "--disable-gpu",
      "--disable-background-networking",
      "--enable-logging=stderr",
      `--user-data-dir=${join(folder, "profile")}`,
      "--dump-dom",
      pathToFileURL(path).href
    ]
    const { stderr, stdout } = spawnSync(chromium!, args, { encoding: "utf8", timeout: 60_000 })
    return { dom: stdout, said: stderr }
  }

  it.live.skipIf(chromium === undefined)(
    "opens without a word in the console, with all its charts",
    () =>
      Effect.gen(function*() {
        const page = join(folder, "page.html")
        const { err } = yield* run([
          "simulate",
          "--scenario",
          scenario,
          "--config",
          both,
          "--config",
          alone,
          "--html",
          page
        ])
        assert.strictEqual(err, `The charts are in ${page}.\n`)
        const text = readFileSync(page, "utf8")
        const { dom, said } = opened(page)
        assert.strictEqual(dom.split("<svg").length, text.split("<svg").length)
        assert.notInclude(said, "CONSOLE")
        // It would be heard.
        const bad = file("bad.html", text.replace("<h1>", "<script>1</script><h1>"))
        assert.include(opened(bad).said, "CONSOLE")
      })
  )
})
