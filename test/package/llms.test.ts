import { assert, it } from "@effect/vitest"
import { readFileSync } from "node:fs"
import { namesIn } from "../../src/internal/configuration.ts"
import { OptionsSchema } from "../../src/LlmConfig.ts"
import { optionsPage, render } from "./llms.ts"

const page = readFileSync(new URL("../../LLMS.md", import.meta.url), "utf8")

it("LLMS.md says what the sources say: `npm run llms` writes it", () => {
  assert.strictEqual(page, render())
})

it("LLMS.md fits into a context", () => {
  assert.isBelow(page.length, 220_000)
})

it("docs/options.md has every option, as the sources have it: `npm run llms` writes it", () => {
  const options = readFileSync(new URL("../../docs/options.md", import.meta.url), "utf8")
  assert.strictEqual(options, optionsPage())
  for (const variable of namesIn(OptionsSchema).values()) assert.include(options, `\`LLM_${variable}\``)
})
