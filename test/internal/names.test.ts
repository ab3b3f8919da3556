import { assert, describe, it } from "@effect/vitest"
import { numbered } from "../../src/internal/names.ts"

const names = (...list: ReadonlyArray<string | readonly [given: string]>) =>
  numbered(list.map((one) => typeof one === "string" ? { name: one } : { given: one[0], name: "?" }))

describe("numbered", () => {
  it("from the second on", () => {
    assert.deepStrictEqual(names(), [])
    assert.deepStrictEqual(names("openai", "cohere", "openai", "openai"), ["openai", "cohere", "openai-2", "openai-3"])
  })

  it("around names that were given, also those that come later", () => {
    assert.deepStrictEqual(names("a", "a", ["a-2"], "a"), ["a", "a-3", "a-2", "a-4"])
    assert.deepStrictEqual(names(["a"], "a"), ["a", "a-2"])
    assert.deepStrictEqual(names("a-2", "a", "a"), ["a-2", "a", "a-3"])
  })

  it("what was given stays, twice as well", () => {
    assert.deepStrictEqual(names(["a"], ["a"], ["__proto__"], "__proto__"), ["a", "a", "__proto__", "__proto__-2"])
  })
})
