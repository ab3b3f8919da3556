import { assert, describe, it } from "@effect/vitest"
import { Schema } from "effect"
import { type Link, link, makeRing, unlink } from "../../src/internal/ring.ts"

const members = (ring: Link): ReadonlyArray<Link> => {
  const found: Array<Link> = []
  for (let one = ring.newer; one !== ring; one = one.newer) found.push(one)
  const back: Array<Link> = []
  for (let one = ring.older; one !== ring; one = one.older) back.unshift(one)
  assert.deepStrictEqual(back.length, found.length)
  for (const [i, one] of back.entries()) assert.strictEqual(one, found[i])
  return found
}

describe("a ring", () => {
  it("without links is its own neighbour", () => {
    const ring = makeRing()
    assert.strictEqual(ring.older, ring)
    assert.strictEqual(ring.newer, ring)
  })

  it("who left holds on to nobody, may leave again, and may come back as the newest", () => {
    const ring = makeRing()
    const [a, b, c] = [makeRing(), makeRing(), makeRing()]
    for (const one of [a, b, c]) link(ring, one)
    for (let i = 0; i < 2; i++) {
      unlink(b)
      assert.strictEqual(b.older, b)
      assert.strictEqual(b.newer, b)
      assert.deepStrictEqual(members(ring).map((one) => [a, b, c].indexOf(one)), [0, 2])
    }
    link(ring, b)
    assert.deepStrictEqual(members(ring).map((one) => [a, b, c].indexOf(one)), [0, 2, 1])
  })

  it.prop(
    "is the list of those who joined and did not leave, from both ends",
    { ops: Schema.Array(Schema.Int.check(Schema.isBetween({ minimum: -20, maximum: 20 }))) },
    ({ ops }) => {
      const ring = makeRing()
      const model: Array<Link> = []
      for (const op of ops) {
        if (op < 0 && model.length > 0) {
          const [left] = model.splice(-op % model.length, 1)
          unlink(left!)
        } else {
          const one = makeRing()
          link(ring, one)
          model.push(one)
        }
        const found = members(ring)
        assert.strictEqual(found.length, model.length)
        for (const [i, one] of model.entries()) assert.strictEqual(found[i], one)
      }
    },
    { arbitrary: { runs: 200, seed: 3 } }
  )
})
