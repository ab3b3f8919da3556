import { assert, describe, it } from "@effect/vitest"
import { Exit, Schema } from "effect"
import { isPlain, NO, readerOf } from "../../src/internal/reading.ts"

const Item = Schema.Struct({ kind: Schema.Literals(["a", "b"]), n: Schema.optional(Schema.Int) })
const Known = Schema.Struct({
  name: Schema.NonEmptyString,
  flag: Schema.optionalKey(Schema.Boolean),
  items: Schema.Array(Item),
  either: Schema.Union([Schema.String, Schema.Undefined, Item]),
  map: Schema.Record(Schema.String, Schema.Number),
  any: Schema.optional(Schema.Unknown)
})
const read = readerOf(Known.ast)!
const bySchema = Schema.decodeUnknownExit(Known, { onExcessProperty: "error" })

const valid = { name: "n", items: [{ kind: "a", n: 1 }], either: "x", map: { a: 1 } }
const twisted: ReadonlyArray<unknown> = [
  "",
  "x",
  1,
  1.5,
  NaN,
  true,
  null,
  undefined,
  [],
  ["x"],
  {},
  { kind: "b" },
  { kind: "c" },
  { kind: "a", n: undefined },
  { kind: "a", m: 1 },
  [{ kind: "a" }, { kind: "b", n: 1.5 }],
  { a: "1" },
  new Date(0),
  JSON.parse("{\"__proto__\":1}")
]

describe("readerOf", () => {
  it("takes nothing that the schema refuses, and makes of the rest what the schema makes", () => {
    let taken = 0
    for (const name of [...Object.keys(Known.fields), "other"]) {
      for (const value of [...twisted, valid[name as keyof typeof valid]]) {
        const input = { ...valid, [name]: value }
        const made = read(input)
        if (made === NO) continue
        taken += 1
        const exit = bySchema(input)
        assert.deepStrictEqual(Exit.isSuccess(exit) ? exit.value : exit, made)
      }
    }
    assert.isAbove(taken, 20)
    for (const name of Object.keys(valid)) {
      const { [name as keyof typeof valid]: _, ...input } = valid
      assert.strictEqual(read(input), NO, name)
    }
  })

  it("copies, so that the caller may change its own", () => {
    const input = structuredClone(valid)
    const made = read(input) as typeof valid
    input.items[0]!.n = 2
    input.map.a = 2
    assert.deepStrictEqual(made, valid)
  })

  it("refuses fields that it does not know, symbols and what is inherited among them", () => {
    const read = readerOf(Schema.Struct({ a: Schema.Int, b: Schema.optional(Schema.String) }).ast)!
    assert.deepStrictEqual([{ a: 1 }, { a: 1, b: undefined }].map(read), [{ a: 1 }, { a: 1, b: undefined }])
    const others = [{}, { a: 1.5 }, { a: 1, c: 1 }, [1], Object.create({ a: 1 }), { a: 1, [Symbol("s")]: 1 }, null, 1]
    for (const other of others) assert.strictEqual(read(other), NO)
  })

  it("an own key `__proto__` is a key of a map", () => {
    const map = readerOf(Schema.Record(Schema.String, Schema.Number).ast)!
    const made = map(JSON.parse("{\"__proto__\":1}")) as object
    assert.deepStrictEqual(Object.keys(made), ["__proto__"])
    assert.strictEqual(Object.getPrototypeOf(made), Object.prototype)
  })

  it("knows nothing of parts that change a value, of classes, tuples and `oneOf`", () => {
    const item = Schema.Struct({ at: Schema.Date })
    for (
      const { ast } of [
        Schema.FiniteFromString,
        Schema.Date,
        item,
        Schema.Array(item),
        Schema.Union([Schema.String, item]),
        Schema.Record(Schema.String, item),
        Schema.Tuple([Schema.String]),
        Schema.Union([Schema.String, Schema.Number], { mode: "oneOf" })
      ]
    ) assert.isUndefined(readerOf(ast))
  })
})

describe("isPlain", () => {
  it("objects without a class", () => {
    for (const plain of [{}, Object.create(null), JSON.parse("{\"constructor\":1}")]) assert.isTrue(isPlain(plain))
    for (const other of [null, undefined, 1, "x", [], new Date(), Object.create({}), () => 1, new Map()]) {
      assert.isFalse(isPlain(other))
    }
  })
})
