import { assert, describe, it } from "@effect/vitest"
import { isBare, noOptions, readMessages } from "../../src/internal/messages.ts"

const one = (role: string, content: unknown) => readMessages([{ role, content }])?.[0]?.content

describe("readMessages", () => {
  it("puts usual messages into their canonical form", () => {
    assert.deepStrictEqual(
      readMessages([
        { role: "system", content: "Be brief." },
        { role: "user", content: [{ type: "text", text: "Hi" }], options: {} },
        { role: "assistant", content: [{ type: "reasoning", text: "Hm." }, { type: "text", text: "Hello." }] }
      ]),
      [
        { role: "system", content: "Be brief.", options: {} },
        { role: "user", content: "Hi", options: {} },
        {
          role: "assistant",
          content: [{ type: "reasoning", text: "Hm.", options: {} }, { type: "text", text: "Hello.", options: {} }],
          options: {}
        }
      ] as never
    )
    assert.deepStrictEqual(readMessages([]), [])
  })

  it("copies what tools were called with, and what they gave", () => {
    const params = { city: "Berlin" }
    const call = { type: "tool-call", id: "1", name: "weather", params }
    const read = one("assistant", [call])
    assert.deepStrictEqual(read, [{ ...call, options: {}, providerExecuted: false }] as never)
    params.city = "Paris"
    assert.deepInclude(read?.[0], { params: { city: "Berlin" } })
    const result = { type: "tool-result", id: "1", name: "weather", result: undefined, isFailure: false }
    assert.deepStrictEqual(
      one("tool", [result]),
      [{ ...result, result: null, options: {}, providerExecuted: false }] as never
    )
  })

  it("leaves what is unusual, or wrong, to the schemas", () => {
    const call = { type: "tool-call", id: "1", name: "n", params: {} }
    const result = { type: "tool-result", id: "1", name: "n", result: 1, isFailure: false }
    const unusual: ReadonlyArray<readonly [string, unknown]> = [
      ["robot", "Hi"],
      ["tool", "Hi"],
      ["system", [{ type: "text", text: "Hi" }]],
      ["user", { type: "text", text: "Hi" }],
      ["user", [{ type: "file", data: "" }]],
      ["user", [{ type: "text", text: 1 }]],
      ["user", [{ type: "text", text: "Hi", options: { openai: {} } }]],
      ["user", [{ type: "reasoning", text: "Hm." }]],
      ["tool", [{ type: "text", text: "Hi" }]],
      ["user", [call]],
      ["assistant", [{ ...call, id: 1 }]],
      ["assistant", [{ ...call, providerExecuted: "no" }]],
      ["assistant", [{ type: "tool-call", id: "1", name: "n" }]],
      ["user", [result]],
      ["tool", [{ ...result, isFailure: "no" }]],
      ["tool", [{ ...result, modelOutput: {} }]],
      ["tool", [{ type: "tool-result", id: "1", name: "n", isFailure: false }]]
    ]
    for (const [role, content] of unusual) assert.isUndefined(one(role, content), JSON.stringify([role, content]))
    for (const message of ["Hi", null, { role: "user", content: "Hi", options: { openai: {} } }, new Date(0)]) {
      assert.isUndefined(readMessages([{ role: "user", content: "Hi" }, message]))
    }
  })

  it("does not hide what a getter throws", () => {
    const trap = {
      role: "user",
      get content(): string {
        throw new Error("trap")
      }
    }
    assert.throws(() => readMessages([trap]), "trap")
  })
})

it("isBare: there are no options", () => {
  for (const options of [undefined, noOptions, {}]) assert.isTrue(isBare(options))
  for (const options of [null, { a: 1 }, [], "", new Map()]) assert.isFalse(isBare(options))
})
