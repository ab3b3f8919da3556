// The state that processes share of a circuit: one step after the other.
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import * as Circuits from "../../../src/resilience/internal/circuits.ts"

const opened = (openFor: number, openings = 1) => ({ _tag: "Opened" as const, openFor, openings })

it("nothing is known of a circuit of which nothing was heard for a day", () => {
  assert.strictEqual(Circuits.KEPT, 86_400_000)
})

describe("a change", () => {
  it("has a generation above the last one, also where the stamp has none", () => {
    assert.strictEqual(Circuits.change({ ...Circuits.empty, generation: 10 }, opened(1), 0, 5).generation, 11)
    assert.strictEqual(Circuits.change({ ...Circuits.empty, generation: 10 }, opened(1), 0, 50).generation, 50)
  })

  it("by who closes says nothing while an operator decides", () => {
    const forced: Circuits.State = { ...Circuits.empty, generation: 1, mode: "open", slots: new Map([[1, 100]]) }
    assert.strictEqual(Circuits.change(forced, { _tag: "Closed", slot: 1 }, 0, 2), forced)
  })

  it("that opens until the same moment is told of, and changes nothing else", () => {
    const first = Circuits.change(Circuits.empty, opened(100, 3), 0, 1)
    const second = Circuits.change(first, opened(50, 7), 50, 2)
    assert.deepStrictEqual(second, { ...first, generation: 2 })
  })
})

describe("a place to probe", () => {
  const held: Circuits.State = { ...Circuits.empty, generation: 1, slots: new Map([[7, 100]]) }

  it("has a number above those that are held, also where the stamp has none", () => {
    assert.strictEqual(Circuits.claim(held, 2, 50, 0, 3)[0].slot, 8)
    assert.strictEqual(Circuits.claim(held, 2, 50, 0, 30)[0].slot, 30)
  })

  it("is lost at the end of its lease", () => {
    assert.strictEqual(Circuits.renew(held, 7, 50, 99).slots.get(7), 149)
    assert.strictEqual(Circuits.renew(held, 7, 50, 100), held)
  })
})

describe("in memory", () => {
  it.effect("of a thousand circuits the one that was used longest ago is forgotten", () =>
    Effect.gen(function*() {
      const store = Circuits.memory()
      for (let i = 0; i < 1000; i++) yield* store.trip(`${i}`, opened(1000))
      yield* store.trip("0", opened(2000))
      yield* store.trip("1000", opened(1000))
      assert.isDefined(yield* store.look("0"))
      assert.isUndefined(yield* store.look("1"))
    }))

  it.effect("who watches is told of what changes, and of nothing else", () =>
    Effect.gen(function*() {
      const store = Circuits.memory()
      let told = 0
      store.watch!("k", () => told += 1)
      yield* store.trip("k", { _tag: "Closed", slot: 1 })
      assert.strictEqual(told, 0, "a place that nobody holds")
      yield* store.trip("k", opened(1000))
      assert.strictEqual(told, 1)
    }))
})
