import { assert, describe, it } from "@effect/vitest"
import { Redacted, Result, Schema } from "effect"
import { at, firstIssue, kindOf, renderPath } from "../../src/internal/issue.ts"

describe("kindOf", () => {
  it("says what a value is, and nothing of it", () => {
    const kinds: ReadonlyArray<readonly [value: unknown, kind: string]> = [
      [undefined, "missing"],
      [null, "null"],
      [[], "an empty array"],
      [["SECRET"], "an array"],
      ["", "an empty text"],
      ["SECRET", "a text"],
      [NaN, "not a number"],
      [-Infinity, "a negative number"],
      [-1.5, "a negative number"],
      [-0, "zero"],
      [Infinity, "infinite"],
      [1, "a whole number"],
      [1.5, "a fraction"],
      [false, "a boolean"],
      [() => 1, "a function"],
      [{ SECRET: 1 }, "an object"],
      [Redacted.make("SECRET"), "an object"],
      [Symbol("SECRET"), "an object"],
      [1n, "an object"]
    ]
    for (const [value, kind] of kinds) assert.strictEqual(kindOf(value), kind)
  })
})

describe("renderPath", () => {
  it("names and places", () => {
    assert.strictEqual(renderPath([]), "")
    assert.strictEqual(renderPath(["targets", 0, "limits", 12, "per"]), "targets[0].limits[12].per")
    assert.strictEqual(renderPath([0, "a"]), "[0].a")
    assert.strictEqual(renderPath(["x-api-key", "$a", "_b"]), "x-api-key.$a._b")
  })

  it("what could be anything is not told", () => {
    assert.strictEqual(renderPath(["a", "the user's question", "", "1a", "a.b", Symbol("s")]), "a.?.?.?.?.?")
    assert.strictEqual(renderPath(["a".repeat(31)]), "a".repeat(31))
    assert.strictEqual(renderPath(["a".repeat(32)]), "?")
  })

  it("of a long path the start", () => {
    const path = Array.from({ length: 17 }, () => "a")
    assert.strictEqual(renderPath(path.slice(1)), path.slice(1).join("."))
    assert.strictEqual(renderPath(path), `${path.slice(1).join(".")}.…`)
    assert.isBelow(renderPath(Array.from({ length: 100_000 }, () => "a".repeat(31))).length, 600)
  })
})

describe("at", () => {
  it("the value at a path, or nothing", () => {
    assert.strictEqual(at({ a: [{ b: 1 }] }, ["a", 0, "b"]), 1)
    assert.strictEqual(at(1, []), 1)
    for (const path of [["a", "b"], ["b", "c"], ["c"]]) assert.isUndefined(at({ a: null, b: "text" }, path))
  })
})

describe("firstIssue", () => {
  const Inner = Schema.Struct({
    n: Schema.Number.check(Schema.makeFilter((n) => n > 0, { expected: "a number above zero" }))
  })
  const schema = Schema.Struct({
    name: Schema.String,
    kind: Schema.optional(Schema.Literals(["a", "b"])),
    inner: Schema.optional(Schema.Union([Inner, Schema.Literal(false)])),
    list: Schema.optional(Schema.Array(Inner)),
    key: Schema.optional(
      Schema.declare<Redacted.Redacted>((u): u is Redacted.Redacted => Redacted.isRedacted(u), { expected: "a key" })
        .check(Schema.makeFilter((key) => Redacted.value(key) !== "", { expected: "a key with a text" }))
    ),
    must: Schema.Boolean.pipe(Schema.annotateKey({ expected: "true or false" }))
  }).check(
    Schema.makeFilter(({ kind, name }) =>
      kind === "b" && name === "" ? { path: ["name"], issue: "a text when kind is b" } : undefined
    )
  )
  const decode = Schema.decodeUnknownResult(schema, { onExcessProperty: "error" })
  const complaint = (input: object) => {
    const given = { name: "n", must: true, ...input }
    const decoded = decode(given)
    if (Result.isSuccess(decoded)) return undefined
    const { kind, path, rule } = firstIssue(decoded.failure.issue, given)
    return `${path} must be ${rule}, but is ${kind}`
  }

  it("where, the rule, and the kind", () => {
    assert.isUndefined(complaint({ kind: "a", inner: false, list: [{ n: 1 }], key: Redacted.make("k") }))
    assert.strictEqual(complaint({ name: 1 }), "name must be a text, but is a whole number")
    assert.strictEqual(complaint({ kind: "SECRET" }), "kind must be \"a\" or \"b\", but is a text")
    assert.strictEqual(complaint({ inner: { n: -1 } }), "inner.n must be a number above zero, but is a negative number")
    assert.strictEqual(complaint({ inner: {} }), "inner.n must be given, but is missing")
    assert.strictEqual(complaint({ list: [{ n: 1 }, { n: 0 }] }), "list[1].n must be a number above zero, but is zero")
    assert.strictEqual(complaint({ inner: { n: 1, m: 2 } }), "inner.m must be one of n, but is an unknown option")
    assert.strictEqual(complaint({ name: "", kind: "b" }), "name must be a text when kind is b, but is an empty text")
  })

  it("all that there could be, where the kind of the value fits nothing", () => {
    const number = Schema.toCodecJson(Schema.Struct({ celsius: Schema.Number }))
    const decoded = Schema.decodeUnknownResult(number)({ celsius: "warm" })
    assert.deepStrictEqual(
      Result.isFailure(decoded) && firstIssue(decoded.failure.issue, { celsius: "warm" }),
      { path: "celsius", rule: "a number or \"Infinity\" or \"-Infinity\" or \"NaN\"", kind: "a text" }
    )
  })

  it("of several complaints the deepest, and of these the first", () => {
    const either = Schema.Union([
      Schema.Struct({ a: Schema.Struct({ b: Schema.Number }) }),
      Schema.Struct({ a: Schema.Struct({ b: Schema.Boolean }) }),
      Schema.Struct({ a: Schema.String })
    ])
    const decoded = Schema.decodeUnknownResult(either)({ a: { b: "x" } })
    assert.deepStrictEqual(
      Result.isFailure(decoded) && firstIssue(decoded.failure.issue, { a: { b: "x" } }),
      { path: "a.b", rule: "a number", kind: "a text" }
    )
  })

  it("the rule of a missing field, where its key says one", () => {
    const missing = decode({ name: "n" })
    assert.deepStrictEqual(
      Result.isFailure(missing) && firstIssue(missing.failure.issue, { name: "n" }),
      { path: "must", rule: "true or false", kind: "missing" }
    )
  })

  it("of a secret with a text that breaks a rule, the kind of the text", () => {
    assert.strictEqual(complaint({ key: Redacted.make("") }), "key must be a key with a text, but is an empty text")
    assert.strictEqual(complaint({ key: { SECRET: 1 } }), "key must be a key, but is an object")
  })
})
