import { assert, it } from "@effect/vitest"
import { readFileSync } from "node:fs"
import { render } from "./llms.ts"

const page = readFileSync(new URL("../../LLMS.md", import.meta.url), "utf8")

it("LLMS.md says what the sources say: `npm run llms` writes it", () => {
  assert.strictEqual(page, render())
})

it("LLMS.md fits into a context", () => {
  assert.isBelow(page.length, 220_000)
})
