import { assert, describe, it } from "@effect/vitest"
import { Schema } from "effect"
import type { LlmError } from "effect-resilient-llm"
import * as Routing from "effect-resilient-llm/resilience/Routing"

const seeded = (seed: number) => {
  let state = seed
  return () => {
    state = (Math.imul(state, 1_103_515_245) + 12_345) >>> 0
    // The low bits of such a generator are poor.
    return Math.floor(state / 2 ** 8) / 2 ** 24
  }
}

const shares = (orders: ReadonlyArray<Routing.Order>, place = 0): ReadonlyArray<number> => {
  const counts = orders[0]!.map(() => 0)
  for (const order of orders) counts[order[place]!]! += 1
  return counts.map((count) => count / orders.length)
}

const near = (actual: ReadonlyArray<number>, expected: ReadonlyArray<number>, tolerance = 0.02) => {
  for (const [i, share] of expected.entries()) assert.approximately(actual[i]!, share, tolerance, `target ${i}`)
}

const many = (make: (i: number) => Routing.Order) => Array.from({ length: 10_000 }, (_, i) => make(i))

describe("Routing: weights", () => {
  it("the first place in proportion to the weights, the second among those left", () => {
    const draw = seeded(1)
    const orders = many(() => Routing.byWeight([6, 3, 1], draw))
    near(shares(orders), [0.6, 0.3, 0.1])
    // Of the orders that begin with target 0, the second is 1 in three of four.
    near(shares(orders.filter(([first]) => first === 0), 1), [0, 0.75, 0.25])
    for (const order of orders) assert.deepStrictEqual(order.toSorted(), [0, 1, 2])
  })

  it("weight zero is never first, and the last resort", () => {
    const draw = seeded(2)
    for (const order of many(() => Routing.byWeight([0, 1, 0, 1], draw))) {
      assert.deepStrictEqual(order.slice(2), [0, 2])
    }
  })

  it("draws at both ends of their range are fine", () => {
    assert.deepStrictEqual(Routing.byWeight([1, 1], () => 0), [0, 1])
    assert.deepStrictEqual(Routing.byWeight([1, 1], () => 1 - 2 ** -53), [0, 1])
    assert.deepStrictEqual(Routing.byWeight([0, 1], () => 0), [1, 0])
    assert.deepStrictEqual(Routing.byWeight([], () => 0), [])
  })

  it("checks weights", () => {
    assert.deepStrictEqual(Routing.weights([undefined, 2, 0]), [1, 2, 0])
    const complain = (of: ReadonlyArray<number>) => {
      try {
        return Routing.weights(of)
      } catch (error) {
        return (error as LlmError.LlmConfigError).path
      }
    }
    assert.throws(
      () => Routing.weights([0, 0]),
      "\"targets\" must be at least one with a weight above zero, but is all zero"
    )
    assert.deepStrictEqual([complain([1, -1]), complain([0, 0]), complain([Number.NaN])], [
      "targets[1].weight",
      "targets",
      "targets[0].weight"
    ])
  })
})

describe("Routing: sticky", () => {
  const ids = ["a", "b", "c", "d"]
  const equal = [1, 1, 1, 1]

  it("the same key has the same order; keys are spread by weight", () => {
    const orders = many((i) => Routing.byKey(`tenant-${i}`, ids, [4, 2, 1, 1]))
    assert.deepStrictEqual(many((i) => Routing.byKey(`tenant-${i}`, ids, [4, 2, 1, 1])), orders)
    near(shares(orders), [0.5, 0.25, 0.125, 0.125])
    near(shares(many((i) => Routing.byKey(`${i}`, ids, equal)), 3), [0.25, 0.25, 0.25, 0.25])
  })

  it("the order of a key is the same in every version and process: prompt caches live on", () => {
    const orders = ["a", "tenant-1", "Zoë"].map((key) => Routing.byKey(key, ids, equal))
    assert.deepStrictEqual(orders, [[0, 3, 2, 1], [3, 0, 1, 2], [2, 3, 1, 0]])
  })

  it("without a target only its keys move, each to its second", () => {
    for (let i = 0; i < 2000; i++) {
      const before = Routing.byKey(`${i}`, ids, equal).map((n) => ids[n])
      const left = ids.filter((id) => id !== "b")
      const after = Routing.byKey(`${i}`, left, [1, 1, 1]).map((n) => left[n])
      assert.deepStrictEqual(after, before.filter((id) => id !== "b"))
    }
  })
})

describe("Routing: fastest", () => {
  const policy = Routing.policy({ strategy: "fastest" })
  const certain = Routing.policy({ strategy: "fastest", explore: 0 })
  const never = () => assert.fail("no draw is needed")

  it("the fastest first, who was not measured behind, as listed", () => {
    const of = (millis: number) => Routing.measured(certain, Routing.unmeasured, millis, 0)
    const speeds = [Routing.unmeasured, of(900), of(300), Routing.unmeasured, of(500)]
    assert.deepStrictEqual(Routing.bySpeed(certain, speeds, 0, never), [2, 4, 1, 0, 3])
    assert.deepStrictEqual(Routing.bySpeed(certain, [of(300), of(300)], 0, never), [0, 1])
    // A tenth of a measurement is still one.
    const faint = { mean: 100, weight: 0.1, at: 0 }
    assert.deepStrictEqual(Routing.bySpeed(certain, [of(300), faint], 0, never), [1, 0])
  })

  it("a measurement counts half after a half-life, and is forgotten after some", () => {
    let speed = Routing.measured(certain, Routing.unmeasured, 1000, 0)
    speed = Routing.measured(certain, speed, 400, 60_000)
    assert.approximately(speed.mean, (1000 * 0.5 + 400) / 1.5, 1e-9)
    const other = Routing.measured(certain, Routing.unmeasured, 100, 0)
    assert.deepStrictEqual(Routing.bySpeed(certain, [speed, other], 60_000, never), [1, 0])
    assert.deepStrictEqual(Routing.bySpeed(certain, [speed, other], 260_000, never), [0, 1])
    // A clock that went back makes nothing heavier.
    assert.isAtMost(Routing.measured(certain, speed, 1, 0).weight, 2.5)
  })

  it("a share of the calls asks one of the others first", () => {
    const speeds = [300, 500, 900].map((millis) => Routing.measured(policy, Routing.unmeasured, millis, 0))
    const draw = seeded(3)
    const orders = many(() => Routing.bySpeed(policy, speeds, 0, draw))
    near(shares(orders), [0.95, 0.025, 0.025], 0.005)
    for (const order of orders) assert.deepStrictEqual(order.toSorted(), [0, 1, 2])
    assert.deepStrictEqual(Routing.bySpeed(policy, speeds, 0, () => 0.05), [0, 1, 2])
    assert.deepStrictEqual(Routing.bySpeed(policy, speeds, 0, () => 0), [1, 0, 2])
    assert.deepStrictEqual(Routing.bySpeed(policy, [speeds[0]!], 0, never), [0])
  })

  it("follows a target that becomes slow, and comes back when it is fast again", () => {
    const draw = seeded(4)
    let speeds: ReadonlyArray<Routing.Speed> = [Routing.unmeasured, Routing.unmeasured]
    const first = [0, 0, 0]
    for (let second = 0; second < 1800; second++) {
      const phase = Math.floor(second / 600)
      const now = second * 1000
      const [asked] = Routing.bySpeed(policy, speeds, now, draw)
      const millis = asked === 0 && phase === 1 ? 2000 : asked === 0 ? 300 : 600
      speeds = speeds.map((speed, i) => i === asked ? Routing.measured(policy, speed, millis, now) : speed)
      if (second % 600 >= 300) first[phase]! += asked === 0 ? 1 : 0
    }
    assert.isAbove(first[0]!, 270)
    assert.isBelow(first[1]!, 30)
    assert.isAbove(first[2]!, 250)
  })
})

describe("Routing: plan", () => {
  const nothing = { tokens: 10, tools: false, schema: false, vision: false }

  it("what is not known is not held against a target", () => {
    const all = { tokens: 1e9, tools: true, schema: true, vision: true }
    assert.isUndefined(Routing.unfit(all, {}))
    assert.isUndefined(Routing.unfit(all, { supports: {} }))
    assert.isUndefined(Routing.unfit(all, { supports: { tools: true, schema: true, vision: true } }))
  })

  it("too much for its window, or something it cannot do", () => {
    assert.isUndefined(Routing.unfit({ ...nothing, tokens: 1000 }, { contextWindow: 1000 }))
    assert.deepStrictEqual(Routing.unfit({ ...nothing, tokens: 1001 }, { contextWindow: 1000 }), {
      because: "context-too-small"
    })
    for (const [what, field] of [["tools", "tools"], ["schema", "responseFormat"], ["vision", "prompt"]] as const) {
      const unfit = Routing.unfit({ ...nothing, [what]: true }, { supports: { [what]: false } })
      assert.deepStrictEqual(unfit, { because: "unsupported", field })
      assert.isUndefined(Routing.unfit(nothing, { supports: { [what]: false } }))
    }
  })

  it("reads its options", () => {
    assert.deepStrictEqual(Routing.policy(), { strategy: "order", sticky: false, halfLife: 60_000, explore: 0.05 })
    const wrong = [
      [{ strategy: "best" }, "routing.strategy"],
      [{ sticky: true }, "routing.sticky"],
      [{ halfLife: 0 }, "routing.halfLife"],
      [{ explore: 2 }, "routing.explore"],
      [{ weights: {} }, "routing.weights"]
    ] as const
    for (const [options, path] of wrong) {
      try {
        Routing.policy(options as unknown as Routing.Options)
        assert.fail(path)
      } catch (error) {
        assert.strictEqual((error as LlmError.LlmConfigError).path, path)
      }
    }
  })
})

const positive = Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 5 }))
describe("Routing: every order", () => {
  it.prop(
    "is a permutation, whatever the weights",
    { weights: Schema.Array(positive).check(Schema.isMinLength(1), Schema.isMaxLength(6)), seed: positive },
    ({ seed, weights }) => {
      const all = weights.map((_, i) => i)
      const ids = all.map(String)
      const draw = seeded(seed)
      const speeds = weights.map((weight) => ({ mean: weight, weight, at: 0 }))
      const orders = [
        Routing.byWeight(weights, draw),
        Routing.byKey(`${seed}`, ids, weights),
        Routing.bySpeed(Routing.policy({ explore: 0.5 }), speeds, 0, draw)
      ]
      for (const order of orders) assert.deepStrictEqual(order.toSorted((a, b) => a - b), all)
    },
    { arbitrary: { runs: 200, seed: 23 } }
  )
})
