import { expect, it } from "@effect/vitest"
import { page } from "./metrics.ts"

it("docs/metrics.md is what the table says", async () => {
  await expect(page()).toMatchFileSnapshot("../../docs/metrics.md")
})
