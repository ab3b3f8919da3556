import { assert, describe, it } from "@effect/vitest"
import { lengthOfNames, nameOf, Shelf } from "../../src/internal/shelf.ts"

interface Book {
  readonly key: string
  readonly name: string
  readonly value: number
}

const book = (key: string, value: number): Book => ({ key, name: nameOf(key), value })

/** As a memory does: what stands in the place of another key goes first. */
const put = (shelf: Shelf<Book>, one: Book): void => {
  const before = shelf.at(one.name, one.key)
  if (before !== undefined && before.key !== one.key) shelf.delete(before)
  shelf.set(one)
}

/** Keys that differ where no sample looks. */
const alike = (length: number, count: number): ReadonlyArray<string> =>
  Array.from({ length: count }, (_, i) => {
    const text = "x".repeat(length)
    return `${String(i).padStart(6, "0")}${text.slice(6)}`
  })

describe("Shelf", () => {
  it("keys are found by all of them, be they short, long, or alike", () => {
    const keys = ["", "a", "b", ...[1000, 1024, 1025, 3000, 16_000, 16_383].flatMap((length) => alike(length, 20))]
    const shelf = new Shelf<Book>()
    for (const [i, key] of keys.entries()) put(shelf, book(key, -i))
    for (const [i, key] of keys.entries()) put(shelf, book(key, i))
    assert.strictEqual(shelf.size, keys.length)
    for (const [i, key] of keys.entries()) assert.strictEqual(shelf.get(key)?.value, i)
    for (const [i, key] of keys.entries()) {
      if (i % 2 === 0) shelf.delete(shelf.get(key)!)
    }
    assert.strictEqual(shelf.size, keys.length >> 1)
    for (const [i, key] of keys.entries()) assert.strictEqual(shelf.get(key)?.value, i % 2 === 0 ? undefined : i)
    for (const key of keys) if (shelf.get(key) !== undefined) shelf.delete(shelf.get(key)!)
    assert.strictEqual(shelf.size, 0)
    assert.isTrue(keys.every((key) => shelf.get(key) === undefined))
    put(shelf, book(keys[10]!, 1))
    assert.strictEqual(shelf.get(keys[10]!)?.value, 1)
    assert.strictEqual(shelf.size, 1)
  })

  it("of very long keys that no name tells apart one is kept, and never taken for another", () => {
    const key = (i: number): string => `${"a".repeat(30_001 + i)}b${"a".repeat(30_009 - i)}`
    const shelf = new Shelf<Book>()
    for (let i = 0; i < 8; i++) put(shelf, book(key(i), i))
    const found = Array.from({ length: 8 }, (_, i) => shelf.get(key(i))?.value)
    assert.isTrue(found.every((value, i) => value === undefined || value === i))
    assert.strictEqual(found.filter((value) => value !== undefined).length, shelf.size)
    assert.isBelow(shelf.size, 8)
    assert.strictEqual(found[7], 7)
  })

  it("names are short, and no longer than is said", () => {
    for (const length of [0, 1024, 5000, 1_000_000]) {
      const name = nameOf("k".repeat(length))
      assert.isAtMost(name.length, 1024 * 2)
      if (name.length !== length) assert.isAtMost(name.length, lengthOfNames("k".repeat(length)))
    }
  })
})
