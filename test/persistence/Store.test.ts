import { assert, describe, it } from "@effect/vitest"
import { sha256 } from "effect-resilient-llm/internal/sha256"
import * as Store from "effect-resilient-llm/persistence/Store"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import * as TestClock from "effect/testing/TestClock"
import { createHash } from "node:crypto"

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

  describe("keys of more than 16,383 characters", () => {
    const long = (middle: string, end: string) => `${"a".repeat(20_000)}${middle}${"b".repeat(20_000)}${end}`

    it.effect("are told apart wherever they differ", () =>
      Effect.gen(function*() {
        for (const [one, other] of [["x", "y"], ["xxxxxxxxxxxx", "xxxxxxyxxxxx"]] as const) {
          const store = yield* Store.memory<string>({ maxEntries: 10 })
          yield* store.set(long(one, ""), "one", minute)
          assert.isUndefined(yield* store.get(long(other, "")))
          assert.strictEqual((yield* store.acquire(long(other, ""), 1000))._tag, "Acquired")
          yield* store.set(long(other, ""), "other", minute)
          assert.strictEqual((yield* store.get(long(other, "")))?.value, "other")
          assert.notStrictEqual((yield* store.get(long(one, "")))?.value, "other")
          yield* store.remove(long(one, ""))
          assert.strictEqual((yield* store.get(long(other, "")))?.value, "other")
        }
      }))

    it.effect("count with the name under which they are filed", () =>
      Effect.gen(function*() {
        const key = long("", "")
        const kept = Effect.fnUntraced(function*(maxBytes: number) {
          const store = yield* Store.memory<string>({ maxEntries: 10, maxBytes })
          yield* store.set(key, "A", minute)
          return (yield* store.get(key)) !== undefined
        })
        assert.isFalse(yield* kept(2 * key.length + 10_000))
        assert.isTrue(yield* kept(2 * key.length + 30_000))
      }))

    it.effect("are all kept, and found without a look at all that are as long", () =>
      Effect.gen(function*() {
        const store = yield* Store.memory<number>({ maxEntries: 3000 })
        const keys = Array.from({ length: 2000 }, (_, i) => long("", String(10_000 + i)))
        const begun = performance.now()
        for (const [i, key] of keys.entries()) yield* store.set(key, i, minute)
        for (const [i, key] of keys.entries()) assert.strictEqual((yield* store.get(key))?.value, i)
        assert.isBelow(performance.now() - begun, 10_000, "milliseconds")
      }))
  })

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

  it.effect("who shares the memory and takes up most of it makes room: 16 large records push out no other tenant's", () =>
    Effect.gen(function*() {
      const mebi = 1024 * 1024
      const store = yield* Store.memory<string>({ maxEntries: 1000, maxBytes: 64 * mebi })
      for (let i = 0; i < 100; i++) yield* store.set(`small ${i}`, "S", { ...minute, size: 10_000, share: "small" })
      yield* store.set("nobody's", "N", { ...minute, size: 10_000 })
      for (let i = 0; i < 40; i++) yield* store.set(`large ${i}`, "L", { ...minute, size: 4 * mebi, share: "large" })
      for (let i = 0; i < 100; i++) assert.isDefined(yield* store.get(`small ${i}`))
      assert.isDefined(yield* store.get("nobody's"))
      const large = yield* Effect.forEach(Array.from({ length: 40 }), (_, i) => store.get(`large ${i}`))
      // The newest of its own: 15 of 4 MiB beside the others.
      assert.deepStrictEqual(large.map((entry) => entry !== undefined), [
        ...Array(25).fill(false),
        ...Array(15).fill(true)
      ])
    }))

  it.effect("likewise in number: a thousand small records push out no other tenant's", () =>
    Effect.gen(function*() {
      const store = yield* Store.memory<string>({ maxEntries: 100 })
      for (let i = 0; i < 10; i++) yield* store.set(`few ${i}`, "F", { ...minute, share: "few" })
      for (let i = 0; i < 1000; i++) yield* store.set(`many ${i}`, "M", { ...minute, share: "many" })
      for (let i = 0; i < 10; i++) assert.isDefined(yield* store.get(`few ${i}`))
      assert.isUndefined(yield* store.get("many 909"))
      assert.isDefined(yield* store.get("many 910"))
      // Alone, it has everything.
      for (let i = 0; i < 10; i++) yield* store.remove(`few ${i}`)
      for (let i = 0; i < 100; i++) yield* store.set(`again ${i}`, "A", { ...minute, share: "many" })
      for (let i = 0; i < 100; i++) assert.isDefined(yield* store.get(`again ${i}`))
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
    Schema.TaggedStruct("acquire", {
      key: Schema.Literals(["a", "bb", "ccc", "d"]),
      lease: Schema.Literals([0, 5, 10, 1000])
    }),
    // By which of the leases so far, counted from the last one? Or by none.
    Schema.TaggedStruct("complete", {
      key: Schema.Literals(["a", "bb", "ccc", "d"]),
      by: Schema.Literals([0, 0, 0, 1, 2, 99]),
      ttl: Schema.Literals([5, 1000]),
      size: Schema.Literals([0, 12, 40])
    }),
    Schema.TaggedStruct("release", {
      key: Schema.Literals(["a", "bb", "ccc", "d"]),
      by: Schema.Literals([0, 0, 1, 2, 99])
    }),
    Schema.TaggedStruct("wait", { ms: Schema.Literals([1, 4, 5, 10]) })
  ])

  interface Modelled {
    readonly key: string
    /** Of a value; absent from a lease. */
    readonly value?: number
    readonly fence?: number
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
        const fences: Array<number> = []
        const living = (key: string) => {
          const entry = list.find((entry) => entry.key === key && now - entry.at < entry.ttl)
          if (entry === undefined) list = list.filter((other) => other.key !== key)
          return entry
        }
        const use = (entry: Modelled) => {
          list = [...list.filter((other) => other !== entry), entry]
        }
        const put = (entry: Modelled) => {
          list = list.filter((other) => other.key !== entry.key)
          if (entry.bytes > maxBytes) return
          list.push(entry)
          const tooMuch = () =>
            list.length > maxEntries || list.reduce((sum, { bytes }) => sum + bytes, 0) > maxBytes ||
            (list[0] !== undefined && now - list[0].at >= list[0].ttl)
          while (tooMuch()) list.shift()
        }
        for (const op of ops) {
          switch (op._tag) {
            case "acquire": {
              const found = yield* store.acquire(op.key, op.lease)
              const entry = living(op.key)
              if (entry === undefined) {
                if (found._tag !== "Acquired") throw new Error(found._tag)
                assert.isAbove(found.fence, fences.at(-1) ?? 0)
                fences.push(found.fence)
                put({ key: op.key, fence: found.fence, at: now, ttl: op.lease, bytes: 2 * op.key.length })
              } else if (entry.fence !== undefined) {
                assert.deepStrictEqual(found, { _tag: "Held", left: entry.at + entry.ttl - now })
              } else {
                assert.deepStrictEqual(found, { _tag: "Found", value: entry.value!, age: now - entry.at })
                use(entry)
              }
              break
            }
            case "complete": {
              value++
              const fence = fences.at(-1 - op.by) ?? 0
              const done = yield* store.complete(op.key, fence, value, { ttl: op.ttl, size: op.size })
              const entry = living(op.key)
              assert.strictEqual(done, entry === undefined || entry.fence === fence)
              if (done) put({ key: op.key, value, at: now, ttl: op.ttl, bytes: op.size + 2 * op.key.length })
              break
            }
            case "release": {
              const fence = fences.at(-1 - op.by) ?? 0
              yield* store.release(op.key, fence)
              list = list.filter((entry) => entry.key !== op.key || entry.fence !== fence)
              break
            }
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
              put({ key: op.key, value, at: now, ttl: op.ttl, bytes: op.size + 2 * op.key.length })
              break
            }
            case "get": {
              const found = yield* store.get(op.key)
              const expected = living(op.key)
              if (expected?.value !== undefined) {
                assert.deepStrictEqual(found, { value: expected.value, age: now - expected.at })
                use(expected)
              } else assert.isUndefined(found)
              break
            }
          }
        }
        for (const entry of list) {
          const isThere = entry.value !== undefined && now - entry.at < entry.ttl
          const expected = isThere ? { value: entry.value, age: now - entry.at } : undefined
          assert.deepStrictEqual(yield* store.get(entry.key), expected)
        }
      }).pipe(Effect.provide(TestClock.layer())),
    { arbitrary: { runs: 300 } }
  )
})

describe("Store.withSchema", () => {
  class Money extends Schema.Class<Money>("Money")({ cents: Schema.Int, paidAfter: Schema.Duration }) {}
  const one = new Money({ cents: 1, paidAfter: Duration.seconds(2) })

  const make = Effect.map(Store.memory<string>({ maxEntries: 10 }), (texts) => ({
    texts,
    store: Store.withSchema(texts, Money)
  }))

  it.effect("keeps JSON texts, and gives back what was put in", () =>
    Effect.gen(function*() {
      const { store, texts } = yield* make
      assert.isUndefined(yield* store.get("a"))
      yield* store.set("a", one, minute)
      const text = (yield* texts.get("a"))!.value
      assert.strictEqual((JSON.parse(text) as Money).cents, 1)
      yield* TestClock.adjust(5)
      assert.deepStrictEqual(yield* store.get("a"), { value: one, age: 5 })
      assert.deepStrictEqual(yield* store.acquire("a", 10), { _tag: "Found", value: one, age: 5 })
      yield* store.remove("a")
      const lease = yield* store.acquire("a", 10)
      if (lease._tag !== "Acquired") throw new Error(lease._tag)
      assert.deepStrictEqual(yield* store.acquire("a", 10), { _tag: "Held", left: 10 })
      assert.isFalse(yield* store.complete("a", 0, one, minute))
      assert.isTrue(yield* store.complete("a", lease.fence, one, minute))
      assert.deepStrictEqual((yield* store.get("a"))?.value, one)
    }))

  it.effect("a lease is released through it", () =>
    Effect.gen(function*() {
      const { store } = yield* make
      const lease = yield* store.acquire("a", 10)
      if (lease._tag !== "Acquired") throw new Error(lease._tag)
      yield* store.release("a", lease.fence)
      assert.strictEqual((yield* store.acquire("a", 10))._tag, "Acquired")
    }))

  it.effect("the size is that of the text, whatever else is said", () =>
    Effect.gen(function*() {
      const sizes: Array<unknown> = []
      const { texts } = yield* make
      const store = Store.withSchema({
        ...texts,
        set: (_, value, { size }) => {
          sizes.push([size, 2 * value.length])
          return Effect.void
        }
      }, Money)
      yield* store.set("a", one, { ...minute, size: 1 })
      assert.strictEqual(sizes.length, 1)
      for (const [told, actual] of sizes as Array<[number, number]>) assert.strictEqual(told, actual)
    }))

  it.effect("what cannot be written is a failure of the store; what cannot be read is absent, and replaced", () =>
    Effect.gen(function*() {
      const { texts } = yield* make
      let told = 0
      const store = Store.withSchema(texts, Money, () => {
        told += 1
      })
      const broken = Object.assign(new Money(one), { cents: 0.5 })
      const failures = [
        yield* Effect.flip(store.set("a", broken, minute)),
        yield* Effect.flip(store.complete("a", 0, broken, minute))
      ]
      assert.deepStrictEqual(
        failures.map(({ _tag, operation }) => `${_tag} ${operation}`),
        ["StoreError set", "StoreError complete"]
      )
      for (const [i, garbage] of ["{}", "no JSON"].entries()) {
        yield* texts.set("a", garbage, minute)
        assert.isUndefined(yield* store.get("a"))
        const acquired = yield* store.acquire("a", 10)
        if (acquired._tag !== "Acquired") throw new Error(acquired._tag)
        assert.deepStrictEqual(yield* store.acquire("a", 10), { _tag: "Held", left: 10 })
        assert.isTrue(yield* store.complete("a", acquired.fence, one, minute))
        assert.deepStrictEqual((yield* store.get("a"))?.value, one)
        assert.strictEqual(told, 2 * (i + 1))
      }
    }))
})

describe("sha256", () => {
  it("is the standard's", () => {
    // FIPS 180-4, and lengths around the ends of blocks.
    assert.strictEqual(sha256("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")
    const characters = Array.from("ä€𝄞x".repeat(50))
    for (let n = 0; n < 200; n++) {
      const text = characters.slice(0, n).join("")
      assert.strictEqual(sha256(text), createHash("sha256").update(text).digest("hex"), `${n}`)
    }
  })
})

describe("StoreError", () => {
  it("names the operation and nothing else", () => {
    const error = new Store.StoreError({ operation: "get" })
    assert.strictEqual(error.message, "The store failed (get).")
    assert.deepStrictEqual(Object.keys(JSON.parse(JSON.stringify(error))).toSorted(), ["_tag", "operation"])
  })
})
