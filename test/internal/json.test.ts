import { assert, describe, it } from "@effect/vitest"
import { Schema } from "effect"
import { again, MAX_DEPTH, MAX_VALUES, NotJson, plain, put, sortedText } from "../../src/internal/json.ts"

const byJson = (value: unknown): unknown => {
  const text = JSON.stringify(value) as string | undefined
  return text === undefined ? undefined : JSON.parse(text)
}

const refused = (value: unknown): NotJson => {
  try {
    plain(value, false)
  } catch (error) {
    if (error instanceof NotJson) return error
    throw error
  }
  return assert.fail("it was taken")
}

const deep = (levels: number): unknown => {
  let value: unknown = 1
  for (let i = 0; i < levels; i++) value = i % 2 === 0 ? [value] : { a: value }
  return value
}

/** More than what the quick way looks at. */
const filler = Array.from({ length: 2000 }, (_, i) => i)

const odd: ReadonlyArray<unknown> = [
  undefined,
  null,
  NaN,
  -Infinity,
  -0,
  Symbol("s"),
  () => 1,
  [undefined, Symbol("s"), () => 1, NaN],
  // eslint-disable-next-line no-sparse-arrays
  [1, , 2],
  { a: undefined, b: () => 1, [Symbol("s")]: 1, c: Object.assign(Object.create(null), { d: 1 }) },
  new Date(0),
  new Date(NaN),
  { toJSON: () => [1] },
  { a: { toJSON: (key: string) => key }, b: [{ toJSON: (key: string) => key }] },
  { toJSON: () => undefined },
  { toJSON: 1 },
  Object.assign(() => 1, { toJSON: () => "f" }),
  Object(1),
  { a: Object("x"), b: Object(true) },
  new Map([[1, 2]]),
  new Uint8Array([1, 2]),
  Object.create({ inherited: 1 }),
  JSON.parse("{\"__proto__\":{\"a\":1},\"b\":2}"),
  new (class Point {
    x = 1
    get y() {
      return 2
    }
  })()
]

describe("plain", () => {
  it("what JSON makes of odd values, alone and behind many others", () => {
    for (const value of odd) {
      assert.deepStrictEqual(plain(value, false), byJson(value))
      assert.deepStrictEqual(plain([filler, value], false), byJson([filler, value]))
      assert.strictEqual(JSON.stringify(plain({ value }, false)), JSON.stringify({ value }))
    }
  })

  it.prop(
    "plain data is copied as it is, sorted or not",
    { value: Schema.Json },
    ({ value }) => {
      assert.deepStrictEqual(plain(value, false), byJson(value))
      assert.deepStrictEqual(plain(value, true), byJson(value))
      // Much or little, the text is the same.
      assert.strictEqual(sortedText([filler, value]), `[${JSON.stringify(filler)},${sortedText(value)}]`)
      assert.deepStrictEqual(JSON.parse(sortedText(value)), byJson(value))
    },
    { arbitrary: { runs: 300, seed: 7 } }
  )

  it("shares nothing with what it was made of, and parts that are shared are copies each", () => {
    const shared = { a: 1 }
    const made = plain({ x: shared, y: [shared] }, false) as { x: { a: number }; y: [{ a: number }] }
    shared.a = 2
    made.x.a = 3
    assert.deepStrictEqual(made, { x: { a: 3 }, y: [{ a: 1 }] })
  })

  it("a key `__proto__` stays a key", () => {
    const made = plain(JSON.parse("{\"a\":{\"__proto__\":{\"b\":1}}}"), true) as { readonly a: object }
    assert.strictEqual(JSON.stringify(made), "{\"a\":{\"__proto__\":{\"b\":1}}}")
    assert.strictEqual(Object.getPrototypeOf(made.a), Object.prototype)
  })

  it("refuses what has no JSON, and says where", () => {
    assert.deepInclude(refused(1n), { path: "", rule: "JSON", kind: "a bigint" })
    assert.deepInclude(refused({ a: [0, { b: 1n }] }), { path: "a[1].b", rule: "JSON", kind: "a bigint" })
    const thrower = {
      get b(): never {
        throw new Error("SECRET")
      }
    }
    assert.deepInclude(refused({ a: [thrower] }), { path: "a[0].b", rule: "JSON", kind: "an object that throws" })
    assert.deepInclude(
      refused({
        a: {
          toJSON: () => {
            throw new Error("SECRET")
          }
        }
      }),
      { path: "a" }
    )
    const { proxy, revoke } = Proxy.revocable({}, {})
    revoke()
    assert.deepInclude(refused([proxy]), { path: "[0]", kind: "an object that throws" })
  })

  it("bounds depth and number, so that what shares or holds itself ends", () => {
    const levels = { rule: "at most 1,000 levels deep", kind: "deeper" }
    assert.deepStrictEqual(plain(deep(MAX_DEPTH), false), byJson(deep(MAX_DEPTH)))
    assert.deepInclude(refused(deep(MAX_DEPTH + 1)), levels)
    assert.deepInclude(refused(deep(100_000)), levels)
    const own: Array<unknown> = []
    own.push(own)
    assert.deepInclude(refused(own), levels)
    let many: unknown = 1
    for (let i = 0; i < 40; i++) many = [many, many]
    assert.deepInclude(refused(many), { rule: "at most 250,000 values", kind: "more" })
    const most = Array.from({ length: MAX_VALUES }, () => 1)
    assert.strictEqual((plain(most, false) as ReadonlyArray<number>).length, MAX_VALUES)
    assert.deepInclude(refused([...most, 1]), { rule: "at most 250,000 values", kind: "more" })
    const sparse: Array<unknown> = []
    sparse.length = 2 ** 32 - 1
    assert.deepInclude(refused(sparse), { rule: "at most 250,000 values", kind: "more" })
  })
})

describe("sortedText", () => {
  it("is the same whatever the order of keys, and another for other data", () => {
    assert.strictEqual(sortedText({ b: 1, a: { d: [2], c: undefined } }), "{\"a\":{\"d\":[2]},\"b\":1}")
    assert.strictEqual(sortedText({ b: 1, a: { d: [2] } }), sortedText({ a: { d: [2] }, b: 1 }))
    const different = [[1, [2]], [[1], 2], ["1", [2]], { 0: 1, 1: [2] }, [1, [2], null], [[1, 2]]].map(sortedText)
    assert.strictEqual(new Set(different).size, different.length)
  })

  it("quick or not, odd or plain, the text is that of the data", () => {
    const texts = ["\"\\\n\u2028\uD800", "\u007f\u0085", "ü".repeat(200), "", "__proto__"]
    const keys = { 10: 1, 9: 2, "-1": 3, b: 4, "": 5, toJSON: 6 }
    for (const value of [...odd, ...texts, keys, { at: new Date(0), ...keys }]) {
      const data = byJson({ value })
      assert.strictEqual(sortedText({ value }), sortedText(data))
      assert.deepStrictEqual(JSON.parse(sortedText(data)), data)
      assert.strictEqual(sortedText([filler, value]), sortedText(byJson([filler, value])))
    }
    const sorted = "{\"\":5,\"-1\":3,\"10\":1,\"9\":2,\"b\":4,\"toJSON\":6}"
    assert.strictEqual(sortedText(keys), sorted)
    assert.strictEqual(sortedText([filler, keys]), `[${JSON.stringify(filler)},${sorted}]`)
  })
})

describe("again", () => {
  const copyOf = again((value) => plain(value))

  it("gives what JSON makes of a value, however often it is asked, and whatever became of it", () => {
    const others = odd.filter((one) => typeof one === "object" && one !== null && !Array.isArray(one))
    for (const value of [...others, { a: 1, b: [1, { c: "x" }] }, [1, [2]], { b: 1, a: undefined }] as Array<object>) {
      for (let i = 0; i < 4; i++) {
        assert.deepStrictEqual(copyOf(value), byJson(value))
        assert.strictEqual(sortedText([copyOf(value)]), sortedText([byJson(value)]))
      }
    }
  })

  it("sees every change", () => {
    const make = (): Record<string, unknown> => ({ a: 1, b: [1, { c: "x" }], d: { e: null } })
    const changes: ReadonlyArray<(value: ReturnType<typeof make>) => unknown> = [
      (value) => value["a"] = 2,
      (value) => value["a"] = "1",
      (value) => value["a"] = undefined,
      (value) => value["a"] = [1],
      (value) => delete value["a"],
      (value) => delete value["d"],
      (value) => value["f"] = 1,
      (value) => value["b"] = { 0: 1, 1: { c: "x" } },
      (value) => value["b"] = [1],
      (value) => value["b"] = [1, { c: "x" }, 2],
      (value) => (value["b"] as Array<unknown>)[1] = { c: "y" },
      (value) => value["d"] = { e: {} },
      (value) => value["d"] = {},
      (value) => value["d"] = null,
      (value) => value["d"] = Object.assign(new Date(0), { e: null }),
      (value) => value["d"] = { e: null, toJSON: () => 1 },
      (value) => {
        const { a } = value
        delete value["a"]
        value["a"] = a
      }
    ]
    for (const change of changes) {
      const value = make()
      const [, second, third] = [copyOf(value), copyOf(value), copyOf(value)]
      assert.strictEqual(third, second)
      change(value)
      assert.strictEqual(JSON.stringify(copyOf(value)), JSON.stringify(value), String(change))
      assert.strictEqual(sortedText(copyOf(value)), sortedText(byJson(value)), String(change))
    }
  })

  it("what throws when it is read is refused as by the maker", () => {
    let broken = false
    const value = {
      get a() {
        if (broken) throw new Error("SECRET")
        return 1
      }
    }
    const [, second, third] = [copyOf(value), copyOf(value), copyOf(value)]
    assert.strictEqual(third, second)
    broken = true
    try {
      copyOf(value)
      assert.fail("it was taken")
    } catch (error) {
      assert.deepInclude(error, { path: "a", kind: "an object that throws" })
    }
  })

  it("what the maker gives instead of a copy is not kept", () => {
    const answers = [false, false, { a: 1 }]
    const takes = again(() => answers.shift())
    const value = { a: 1 }
    assert.deepStrictEqual([takes(value), takes(value), takes(value)], [false, false, { a: 1 }])
  })
})

describe("put", () => {
  it("sets an own property, whatever its name", () => {
    const fields: Record<string, unknown> = {}
    for (const key of ["a", "__proto__", "constructor", "toString"]) put(fields, key, { from: key })
    put(fields, "__proto__", 2)
    assert.deepStrictEqual(Object.keys(fields), ["a", "__proto__", "constructor", "toString"])
    assert.strictEqual(fields["__proto__"], 2)
    assert.strictEqual(Object.getPrototypeOf(fields), Object.prototype)
  })
})
