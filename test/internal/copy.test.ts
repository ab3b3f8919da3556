import { assert, describe, it } from "@effect/vitest"
import { copy } from "effect-resilient-llm/internal/copy"

describe("copy", () => {
  it("is equal, and shares nothing that can be changed", () => {
    const data = { a: [1, { b: "x", c: null }], d: { e: undefined }, f: Object.assign(Object.create(null), { g: [] }) }
    const copied = copy(data)
    assert.deepStrictEqual(copied.a, data.a)
    assert.deepStrictEqual(Object.keys(copied), Object.keys(data))
    for (
      const [one, other] of [[copied, data], [copied.a, data.a], [copied.a[1], data.a[1]], [copied.d, data.d], [
        copied.f.g,
        data.f.g
      ]]
    ) {
      assert.notStrictEqual(one, other)
    }
  })

  it("leaves a key `__proto__` a key", () => {
    const copied = copy(JSON.parse("{\"__proto__\":{\"a\":[1]}}")) as Record<string, unknown>
    assert.strictEqual(JSON.stringify(copied), "{\"__proto__\":{\"a\":[1]}}")
    assert.strictEqual(Object.getPrototypeOf(copied), Object.prototype)
  })

  it("shares what is no plain data, and what is nested deeper than any answer is", () => {
    const date = new Date(0)
    assert.strictEqual(copy({ date }).date, date)
    let deep: unknown = []
    for (let i = 0; i < 100_000; i++) deep = [deep]
    assert.doesNotThrow(() => copy(deep))
  })
})
