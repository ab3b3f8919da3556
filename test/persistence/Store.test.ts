import { assert, describe, it } from "@effect/vitest"
import * as Store from "effect-resilient-llm/persistence/Store"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import * as TestClock from "effect/testing/TestClock"

const minute = { ttl: 60_000 }

describe("Store.memory", () => {
  it.effect("gives back the value and its age on the monotonic clock", () =>
    Effect.gen(function*() {
      const store = yield* Store.memory<string>({ maxEntries: 2 })
      assert.isUndefined(yield* store.get("a"))
      yield* store.set("a", "A", minute)
      assert.deepStrictEqual(yield* store.get("a"), { value: "A", age: 0 })
      yield* TestClock.adjust("1500 millis")
      assert.deepStrictEqual(yield* store.get("a"), { value: "A", age: 1500 })
    }))

  it.effect("keeps a value while age < ttl", () =>
    Effect.gen(function*() {
      const store = yield* Store.memory<string>({ maxEntries: 2 })
      yield* store.set("a", "A", minute)
      yield* TestClock.adjust(59_999)
      assert.strictEqual((yield* store.get("a"))?.age, 59_999)
      yield* TestClock.adjust(1)
      assert.isUndefined(yield* store.get("a"))
    }))

  it.effect("a jump of the wall clock changes no age", () =>
    Effect.gen(function*() {
      const store = yield* Store.memory<string>({ maxEntries: 2 })
      yield* TestClock.setTime(7_200_000)
      yield* store.set("a", "A", minute)
      yield* TestClock.setTime(3_600_000)
      assert.deepStrictEqual(yield* store.get("a"), { value: "A", age: 0 })
      yield* TestClock.adjust(60_000)
      assert.isUndefined(yield* store.get("a"))
    }))

  it.effect("set replaces value, age and ttl", () =>
    Effect.gen(function*() {
      const store = yield* Store.memory<string>({ maxEntries: 2 })
      yield* store.set("a", "old", minute)
      yield* TestClock.adjust(50_000)
      yield* store.set("a", "new", { ttl: 20_000 })
      yield* TestClock.adjust(19_999)
      assert.deepStrictEqual(yield* store.get("a"), { value: "new", age: 19_999 })
      yield* TestClock.adjust(1)
      assert.isUndefined(yield* store.get("a"))
    }))

  it.effect("remove", () =>
    Effect.gen(function*() {
      const store = yield* Store.memory<string>({ maxEntries: 2 })
      yield* store.set("a", "A", minute)
      yield* store.remove("a")
      yield* store.remove("never there")
      assert.isUndefined(yield* store.get("a"))
    }))

  it.effect("the least recently used entry leaves first; reading is using", () =>
    Effect.gen(function*() {
      const store = yield* Store.memory<string>({ maxEntries: 3 })
      for (const key of ["a", "b", "c"]) yield* store.set(key, key, minute)
      yield* store.get("a")
      yield* store.set("d", "d", minute)
      assert.isUndefined(yield* store.get("b"))
      yield* store.set("c", "c2", minute) // writing is using as well
      yield* store.set("e", "e", minute)
      assert.isUndefined(yield* store.get("a"))
      assert.deepStrictEqual(
        [(yield* store.get("c"))?.value, (yield* store.get("d"))?.value, (yield* store.get("e"))?.value],
        ["c2", "d", "e"]
      )
    }))

  it.effect("counts sizes and keys against maxBytes", () =>
    Effect.gen(function*() {
      const store = yield* Store.memory<string>({ maxEntries: 100, maxBytes: 30 })
      yield* store.set("a", "A", { ...minute, size: 8 }) // 8 + 2
      yield* store.set("b", "B", { ...minute, size: 18 }) // 20: together exactly 30
      assert.isDefined(yield* store.get("a"))
      assert.isDefined(yield* store.get("b"))
      yield* store.set("c", "C", { ...minute, size: 1 }) // 3 more: `a` was used least recently
      assert.isUndefined(yield* store.get("a"))
      assert.isDefined(yield* store.get("b"))
      yield* store.set("b", "B", { ...minute, size: 1 }) // 3 instead of 20
      yield* store.set("d", "D", { ...minute, size: 22 }) // 3 + 3 + 24 = 30
      for (const key of ["b", "c", "d"]) assert.isDefined(yield* store.get(key))
      yield* store.remove("d")
      yield* store.set("e", "E", { ...minute, size: 22 })
      for (const key of ["b", "c", "e"]) assert.isDefined(yield* store.get(key))
    }))

  it.effect("a value that is too large is not kept, and drives nobody out but its own predecessor", () =>
    Effect.gen(function*() {
      const store = yield* Store.memory<string>({ maxEntries: 100, maxBytes: 30 })
      yield* store.set("a", "A", { ...minute, size: 8 })
      yield* store.set("b", "B", { ...minute, size: 8 })
      yield* store.set("b", "B2", { ...minute, size: 29 })
      assert.isDefined(yield* store.get("a"))
      assert.isUndefined(yield* store.get("b"))
    }))

  it.effect("expired entries leave when they are next in line, without being read", () =>
    Effect.gen(function*() {
      const store = yield* Store.memory<string>({ maxEntries: 100, maxBytes: 24 })
      yield* store.set("a", "A", { ttl: 10, size: 10 })
      yield* store.set("b", "B", { ttl: 100, size: 1 })
      yield* TestClock.adjust(10)
      yield* store.set("c", "C", { ttl: 100, size: 1 })
      yield* store.set("d", "D", { ttl: 100, size: 16 }) // 3 + 3 + 18 = 24: fits only without `a`
      for (const key of ["b", "c", "d"]) assert.isDefined(yield* store.get(key))
    }))

  it.effect("a ttl of zero keeps nothing", () =>
    Effect.gen(function*() {
      const store = yield* Store.memory<string>({ maxEntries: 2 })
      yield* store.set("a", "A", { ttl: 0 })
      assert.isUndefined(yield* store.get("a"))
      yield* store.set("b", "B", { ttl: Infinity })
      yield* TestClock.adjust("1000 days")
      assert.isDefined(yield* store.get("b"))
    }))

  it.effect.each([
    { options: { maxEntries: 0 }, path: "store.maxEntries" },
    { options: { maxEntries: 1.5 }, path: "store.maxEntries" },
    { options: { maxEntries: 1, maxBytes: 0 }, path: "store.maxBytes" },
    { options: { maxEntries: 1, maxByte: 3 }, path: "store.maxByte" },
    { options: {} as Store.MemoryOptions, path: "store.maxEntries" }
  ])("refuses $options", ({ options, path }) =>
    Effect.gen(function*() {
      const error = yield* Effect.flip(Store.memory(options))
      assert.strictEqual(error._tag, "LlmConfigError")
      assert.strictEqual(error.path, path)
    }))

  // -- reference model --

  const Op = Schema.Union([
    Schema.TaggedStruct("get", { key: Schema.Literals(["a", "bb", "ccc", "d"]) }),
    Schema.TaggedStruct("remove", { key: Schema.Literals(["a", "bb", "ccc", "d"]) }),
    Schema.TaggedStruct("set", {
      key: Schema.Literals(["a", "bb", "ccc", "d"]),
      ttl: Schema.Literals([0, 5, 10, 1000]),
      size: Schema.Literals([0, 4, 12, 40])
    }),
    Schema.TaggedStruct("wait", { ms: Schema.Literals([1, 4, 5, 10]) })
  ])

  interface Modelled {
    readonly key: string
    readonly value: number
    readonly at: number
    readonly ttl: number
    readonly bytes: number
  }

  it.effect.prop(
    "refines a list in the order of use",
    {
      ops: Schema.Array(Op).check(Schema.isMaxLength(60)),
      maxEntries: Schema.Literals([1, 2, 3, 10]),
      maxBytes: Schema.Literals([16, 40, 1000])
    },
    ({ maxBytes, maxEntries, ops }) =>
      Effect.gen(function*() {
        const store = yield* Store.memory<number>({ maxEntries, maxBytes })
        let list: Array<Modelled> = []
        let now = 0
        let value = 0
        for (const op of ops) {
          switch (op._tag) {
            case "wait":
              yield* TestClock.adjust(op.ms)
              now += op.ms
              break
            case "remove":
              yield* store.remove(op.key)
              list = list.filter((entry) => entry.key !== op.key)
              break
            case "set": {
              value++
              yield* store.set(op.key, value, { ttl: op.ttl, size: op.size })
              list = list.filter((entry) => entry.key !== op.key)
              const bytes = op.size + 2 * op.key.length
              if (bytes > maxBytes) break
              list.push({ key: op.key, value, at: now, ttl: op.ttl, bytes })
              const tooMuch = () =>
                list.length > maxEntries || list.reduce((sum, entry) => sum + entry.bytes, 0) > maxBytes ||
                (list[0] !== undefined && now - list[0].at >= list[0].ttl)
              while (tooMuch()) list.shift()
              break
            }
            case "get": {
              const found = yield* store.get(op.key)
              const expected = list.find((entry) => entry.key === op.key)
              list = list.filter((entry) => entry.key !== op.key)
              if (expected !== undefined && now - expected.at < expected.ttl) {
                assert.deepStrictEqual(found, { value: expected.value, age: now - expected.at })
                list.push(expected)
              } else assert.isUndefined(found)
              break
            }
          }
        }
        for (const entry of list) {
          const expected = now - entry.at < entry.ttl ? { value: entry.value, age: now - entry.at } : undefined
          assert.deepStrictEqual(yield* store.get(entry.key), expected)
        }
      }).pipe(Effect.provide(TestClock.layer())),
    { arbitrary: { runs: 300 } }
  )
})

describe("StoreError", () => {
  it("names the operation and nothing else", () => {
    const error = new Store.StoreError({ operation: "get" })
    assert.strictEqual(error.message, "The store failed (get).")
    assert.deepStrictEqual(Object.keys(JSON.parse(JSON.stringify(error))).toSorted(), ["_tag", "operation"])
  })
})
