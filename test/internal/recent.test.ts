import { assert, describe, it } from "@effect/vitest"
import { Schema } from "effect"
import { Recent } from "../../src/internal/recent.ts"

const int = (minimum: number, maximum: number) => Schema.Int.check(Schema.isBetween({ minimum, maximum }))

describe("Recent", () => {
  it.prop(
    "quantiles are those of the sorted last values",
    { values: Schema.Array(int(0, 50)).check(Schema.isMaxLength(60)), most: int(1, 20) },
    ({ most, values }) => {
      for (const q of [0, 0.01, 0.5, 0.95, 1]) {
        const recent = new Recent(most, q)
        for (let i = 0; i < values.length; i++) {
          recent.add(values[i]!)
          const last = values.slice(Math.max(i + 1 - most, 0), i + 1).toSorted((a, b) => a - b)
          assert.strictEqual(recent.count, last.length)
          const atMost = last.find((value) => last.filter((other) => other <= value).length >= q * last.length)
          assert.strictEqual(recent.quantile, atMost, `${q} of ${last.join()}`)
        }
      }
    },
    { arbitrary: { runs: 300, seed: 5 } }
  )

  it("nothing of nothing, and what is no number is left out", () => {
    const recent = new Recent(3, 0.5)
    for (const value of [Number.NaN, Infinity]) recent.add(value)
    assert.deepStrictEqual([recent.count, recent.quantile], [0, undefined])
  })
})
