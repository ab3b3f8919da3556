import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit } from "effect"
import { mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll } from "vitest"
import { run, withoutColours } from "./support.ts"

const folder = mkdtempSync(join(tmpdir(), "explain-"))
afterAll(() => rmSync(folder, { recursive: true, force: true }))

const file = (name: string, content: string): string => {
  const path = join(folder, name)
  writeFileSync(path, content)
  return path
}

const mistaken = file("llm.json", JSON.stringify({ retryBudget: { capacity: 0 }, cache: { readThrough: true } }))

describe("explain", () => {
  it.live("says what a file's options come to, and what is wrong with them, within 80 columns", () =>
    Effect.gen(function*() {
      const { err, exit, out } = yield* run(["explain", "openai", "anthropic", "--config", mistaken], {
        terminal: true
      })
      assert.isTrue(Exit.isSuccess(exit), err)
      const text = withoutColours(out)
      const lines = text.split("\n")
      assert.deepStrictEqual(lines.filter((line) => line.length > 80), [])
      assert.include(lines, "  all targets  2 times")
      assert.include(lines, "  for an answer or a failure              3m")
      const findings = lines.filter((line) => /^[!i] /.test(line))
      assert.deepStrictEqual(findings, ["! retry-never-paid", "i fresh-without-tenant"])
    }))

  it.live("prints JSON and nothing else; no bound is null", () =>
    Effect.gen(function*() {
      const { err, out } = yield* run(["explain", "--config", mistaken, "--json"])
      const { attempts, findings, waits } = JSON.parse(out)
      assert.deepStrictEqual([err, attempts, waits.complete, waits.joined], ["", 1, 90_000, 90_000])
      assert.deepStrictEqual(findings.map(({ id }: { readonly id: string }) => id), [
        "retry-never-paid",
        "fresh-without-tenant"
      ])
      const open = file("open.json", JSON.stringify({ timeout: { deadline: false } }))
      assert.isNull(JSON.parse((yield* run(["explain", "--config", open, "--json"])).out).waits.stream)
    }))

  it.live("without a file it reads the environment, as a client does", () =>
    Effect.gen(function*() {
      const env = { LLM_RETRY_MAX_RETRIES: "6", LLM_CACHE: "false" }
      const { out } = yield* run(["explain", "--json"], { env })
      const { attempts, stages } = JSON.parse(out)
      assert.strictEqual(attempts, 7)
      assert.notInclude(stages, "stale fallback")
    }))

  it.live.each<[ReadonlyArray<string>, Record<string, string>, string]>([
    [
      ["--config", file("wrong.json", "{\"retry\":{\"maxRetries\":-1}}")],
      {},
      "wrong.json: retry.maxRetries must be a whole number"
    ],
    [["--config", file("no.json", "{")], {}, "no.json is not JSON."],
    [["--config", join(folder, "away.json")], {}, "away.json cannot be read (NotFound)."],
    [["p", "p"], {}, "\"targets[1].id\" must be unique"],
    [[], { LLM_RETRY_MAX_RETRIES: "x" }, "✗ Invalid configuration: \"LLM_RETRY_MAX_RETRIES\" must be"]
  ])("what is wrong ends it, with nothing on standard output: %j", ([args, env, complaint]) =>
    Effect.gen(function*() {
      const { err, exit, out } = yield* run(["explain", ...args], { env })
      assert.isTrue(Exit.isFailure(exit))
      assert.strictEqual(out, "")
      assert.include(err, complaint)
      assert.strictEqual(err.trim().split("\n").length, 1)
    }))
})
