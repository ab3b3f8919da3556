import { assert, describe, it } from "@effect/vitest"
import { Schema } from "effect"
import { InFlight, Thresholds, type Watched } from "../../src/internal/slow.ts"

describe("Thresholds", () => {
  const of = (count: number, millis: (i: number) => number, most = 60_000) => {
    const thresholds = new Thresholds(5000, most)
    for (let i = 0; i < count; i++) thresholds.add("a", millis(i + 1))
    return thresholds
  }

  it("twice the 95th percentile, of at least twenty, between the least and the most", () => {
    assert.strictEqual(of(0, Number).of("a"), 60_000)
    assert.strictEqual(of(19, (i) => i * 200).of("a"), 60_000)
    assert.strictEqual(of(20, (i) => i * 200).of("a"), 7600)
    assert.strictEqual(of(100, (i) => i * 100).of("a"), 19_000)
    assert.strictEqual(of(20, () => 100).of("a"), 5000)
    assert.strictEqual(of(20, () => 59_000).of("a"), 60_000)
    assert.strictEqual(of(20, () => 59_000, Infinity).of("a"), 118_000)
    assert.strictEqual(of(5, () => 1, Infinity).of("a"), Infinity)
  })

  it("each kind has its own, and a hundred of them are remembered", () => {
    const thresholds = of(20, () => 4000)
    assert.deepStrictEqual([thresholds.of("a"), thresholds.of("b")], [8000, 60_000])
    for (let kind = 0; kind < 99; kind++) thresholds.add(`${kind}`, 1)
    assert.strictEqual(thresholds.of("a"), 8000)
    thresholds.add("one more", 1)
    assert.strictEqual(thresholds.of("a"), 60_000)
  })
})

interface Call extends Watched {
  readonly name: number
}

const int = (minimum: number, maximum: number) => Schema.Int.check(Schema.isBetween({ minimum, maximum }))
const Op = Schema.Union([
  Schema.TaggedStruct("start", { due: int(0, 45) }),
  Schema.TaggedStruct("start", { due: int(0, 40) }),
  Schema.TaggedStruct("end", { which: int(0, 30) }),
  Schema.TaggedStruct("advance", { millis: int(1, 10) })
])

describe("InFlight against its model", () => {
  it.prop(
    "who has turned slow, in what order, and how many are left",
    { ops: Schema.Array(Op).check(Schema.isMinLength(10), Schema.isMaxLength(120)) },
    ({ ops }) => {
      const calls = new InFlight<Call>()
      const open = new Map<number, Call>()
      let model: Array<{ readonly name: number; readonly due: number }> = []
      let now = 0
      for (const [name, op] of ops.entries()) {
        if (op._tag === "start") {
          const due = op.due > 40 ? Infinity : now + op.due
          const call = { name, due, place: -1 }
          calls.start(call)
          open.set(name, call)
          model.push({ name, due })
        } else if (op._tag === "end") {
          const [one, call] = [...open][op.which % Math.max(open.size, 1)] ?? []
          if (one === undefined || call === undefined) continue
          calls.end(call)
          calls.end(call)
          open.delete(one)
          model = model.filter(({ name }) => name !== one)
        } else {
          now += op.millis
          const slow: Array<number> = []
          const dues: Array<number> = []
          for (let call = calls.turned(now); call !== undefined; call = calls.turned(now)) {
            slow.push(call.name)
            dues.push(call.due)
          }
          assert.deepStrictEqual(dues, dues.toSorted((a, b) => a - b))
          const expected = model.filter(({ due }) => due < now)
          assert.deepStrictEqual(new Set(slow), new Set(expected.map(({ name }) => name)))
          assert.strictEqual(slow.length, expected.length)
          model = model.filter(({ due }) => due >= now)
        }
        assert.strictEqual(calls.size, model.filter(({ due }) => due < Infinity).length)
      }
    },
    { arbitrary: { runs: 300, seed: 19 } }
  )

  it("a call is slow after its moment, not at it", () => {
    const calls = new InFlight<Call>()
    calls.start({ name: 1, due: 10_000, place: -1 })
    assert.isUndefined(calls.turned(10_000))
    assert.strictEqual(calls.turned(10_001)?.name, 1)
    assert.isUndefined(calls.turned(10_001))
  })
})
