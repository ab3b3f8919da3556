import { assert, describe, it } from "@effect/vitest"
import { outOfScope, rows, testsByRow } from "./rows.ts"

describe("rows of the semantics", () => {
  const found = testsByRow()
  const untested = rows.filter((row) => found.get(row)!.length === 0)

  it("every row in scope has a test that starts with its id", () => {
    assert.deepStrictEqual(untested.filter((row) => outOfScope[row] === undefined), [])
  })

  it("a row that is said to have none has none, and exists", () => {
    assert.deepStrictEqual(Object.keys(outOfScope).filter((row) => !untested.includes(row)), [])
  })

  it("ids are found where names of tests begin: alone, and in a table", () => {
    const names = (row: string) => found.get(row)!.map(({ file, name }) => `${file}: ${name}`).join("\n")
    assert.include(names("R5"), "conformance/Retry.test.ts: R5 %s: one call")
    assert.include(names("C2"), "resilience/CircuitBreaker.test.ts: C2 half of ten opens")
    assert.include(names("L24"), "resilience/RateLimiter.sweep.test.ts: L24 (cross-media-measurement#4444)")
  })
})
