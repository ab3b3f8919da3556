import { assert, describe, it } from "@effect/vitest"
import { all } from "effect-resilient-llm/observability/internal/table"
import { mkdtempSync, readFileSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { has, promtool } from "./promtool.ts"

const at = (path: string): string => fileURLToPath(new URL(path, import.meta.url))
const rules = readFileSync(at("../../docs/observability/alerts.yml"), "utf8")
const tests = readFileSync(at("alerts.test.yml"), "utf8")
const runbook = readFileSync(at("../../docs/runbook.md"), "utf8")
const alerts = [...rules.matchAll(/- alert: (\w+)/g)].map(([, name]) => name!)

/** Runs the unit tests of the rules against changed rules. */
const against = (changed: string) => {
  const folder = mkdtempSync(join(tmpdir(), "alerts-"))
  writeFileSync(join(folder, "rules.yml"), changed)
  writeFileSync(join(folder, "tests.yml"), tests.replace("../../docs/observability/alerts.yml", "rules.yml"))
  return promtool(["test", "rules", join(folder, "tests.yml")])
}

describe.skipIf(!has("promtool"))("promtool", () => {
  it("M5, M10 and every other alert: fires and resolves", () => {
    const { code, text } = promtool(["test", "rules", at("alerts.test.yml")])
    assert.strictEqual(code, 0, text)
    for (const row of ["M5", "M10"]) assert.include(tests, `name: '${row} `)
  })

  it.each([
    ["M5 the threshold", ">= 0.25 and", ">= 0.26 and"],
    ["M5 the least number", "increase1m >= 20", "increase1m >= 19"],
    ["M5 the lower threshold", ">= 0.125", "> 0.125"],
    ["M5 the hysteresis", "ratio1m >= 0.125", "ratio1m >= 0.25"],
    ["M10 the threshold", ">= 0.8", "> 0.8"],
    [
      "M10 the patience",
      "for: 10s\n        labels: { severity: warning }",
      "for: 0s\n        labels: { severity: warning }"
    ],
    ["an open circuit", "== 2\n        labels", "== 1\n        labels"],
    ["what callers interrupt", "outcome=~\"success|failure\"", "outcome=~\"success|failure|interrupted\""]
  ])("the tests notice another rule: %s", (_, from, to) => {
    assert.include(rules, from)
    assert.notStrictEqual(against(rules.replace(from, to)).code, 0)
  })
})

it("every alert has a test that it fires, one that it does not, and a section of the runbook it links to", () => {
  assert.isAtLeast(alerts.length, 8)
  for (const alert of alerts) {
    const cases = tests.split("- eval_time:").filter((one) => new RegExp(`alertname: ${alert}\n`).test(one))
    assert.isTrue(cases.some((one) => one.includes("exp_alerts")), `${alert} fires`)
    assert.isTrue(cases.some((one) => !one.includes("exp_alerts")), `${alert} does not`)
    const section = runbook.split("\n## ").find((one) => one.startsWith(`${alert}\n`))
    for (const part of ["**Means:**", "**Look at:**", "**Do:**"]) assert.include(section, part, alert)
    assert.include(rules, `docs/runbook.md#${alert.toLowerCase()}"`)
  }
})

it("rules and runbook name metrics that exist", () => {
  const known = new Set(
    all.flatMap(({ kind, prometheus }) =>
      kind === "histogram" ? [prometheus, `${prometheus}_bucket`, `${prometheus}_count`] : [prometheus]
    )
  )
  for (const text of [rules.replaceAll(/runbook_url:.*/g, ""), runbook]) {
    for (const [name] of text.matchAll(/(?<![:\w])llm_[a-z0-9_]+/g)) assert.isTrue(known.has(name), name)
  }
})
