import { assert, expect, it } from "@effect/vitest"
import { all, conventions } from "effect-resilient-llm/observability/internal/table"
import { mkdtempSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { dashboard, queries } from "./dashboard.ts"
import { has, promtool } from "./promtool.ts"

it("docs/observability/dashboard.json is what the code builds", async () => {
  await expect(dashboard()).toMatchFileSnapshot("../../docs/observability/dashboard.json")
})

it("every metric of ours is on the dashboard", () => {
  const shown = queries().join("\n")
  const missing = all.filter(({ name, prometheus }) => name.startsWith("llm_") && !shown.includes(prometheus))
  assert.deepStrictEqual(missing.map(({ name }) => name), [])
  assert.include(shown, conventions["1.41.0"].duration.prometheus)
})

it.skipIf(!has("promtool"))("Prometheus takes every query", () => {
  const file = join(mkdtempSync(join(tmpdir(), "dashboard-")), "rules.yml")
  const rules = queries().map((expr, i) => ({ record: `dashboard:query:${i}`, expr }))
  writeFileSync(file, JSON.stringify({ groups: [{ name: "dashboard", rules }] })) // JSON is YAML
  const { code, text } = promtool(["check", "rules", file])
  assert.strictEqual(code, 0, text)
  assert.include(text, `${rules.length} rules found`)
})
