// The core of buckets that several processes share, step by step, and its home in memory.
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { TestClock } from "effect/testing"
import {
  empty,
  lasts,
  look,
  memory,
  type Reserve,
  reserve,
  SEEN_FOR,
  settle,
  type State
} from "../../../src/resilience/internal/buckets.ts"

const requests = { dimension: "requests", burst: 10, rate: 0.001 }
const tokens = { dimension: "tokens", burst: 1000, rate: 0.1 }
const limits = [requests, tokens]
const ask = (costs: ReadonlyArray<number>, more?: Partial<Reserve>): Reserve => ({
  key: "k",
  limits,
  costs,
  maxWait: Infinity,
  ...more
})
const left = (state: State, levels: ReadonlyArray<number>, now = 0): State =>
  settle(state, { key: "k", limits, atMost: levels }, now)

describe("a clock that was set back", () => {
  it("a block lasts as long as it would have lasted, and levels stay", () => {
    const state = settle(left(empty, [5, 500], 10_000), { key: "k", limits, block: [5000, 0] }, 10_000)
    assert.deepStrictEqual(look(state, limits, 4000), { levels: [5, 500], blockedFor: [5000, 0] })
    assert.deepStrictEqual(look(state, limits, 5000).levels, [5, 500])
  })

  it("what was promised stays as far away", () => {
    const blocked = settle(empty, { key: "k", limits, block: [5000, 0] }, 10_000)
    const [, promised] = reserve(blocked, ask([1, 0]), 10_000)
    const back = settle(promised, { key: "k", limits, back: [8, 0] }, 4000)
    assert.strictEqual(look(back, limits, 4000).levels[0], 5, "of the rest something is needed at its moment")
    const left = settle(promised, { key: "k", limits, back: [8, 0], early: 5000 }, 4000)
    assert.strictEqual(look(left, limits, 4000).levels[0], 10)
  })

  it("who was seen later than now is not counted", () => {
    const [, state] = reserve(empty, ask([0, 0], { instance: "a" }), 10_000)
    const [{ instances }] = reserve(state, ask([0, 0], { instance: "b" }), 4000)
    assert.strictEqual(instances, 1)
  })
})

describe("reserve", () => {
  it("counts who has named itself in the last six seconds, once, also when it was refused", () => {
    const named = (state: State, instance: string | undefined, now: number, maxWait = 0) => {
      const [reserved, next] = reserve(state, ask([1, 0], { instance, maxWait }), now)
      return [reserved.instances, next] as const
    }
    const [none, a] = named(left(empty, [0, 0]), undefined, 0)
    const [first, b] = named(a, "a", 0)
    const [second, c] = named(b, "b", 1)
    const [again, d] = named(c, "a", 2)
    const [later] = named(d, "c", SEEN_FOR)
    const [latest] = named(d, "c", SEEN_FOR + 1)
    assert.deepStrictEqual([none, first, second, again, later, latest], [undefined, 1, 2, 2, 3, 2])
  })

  it("forgives a rounding error", () => {
    const [reserved] = reserve(left(empty, [1 - 5e-9, 1000]), ask([1, 0]), 0)
    assert.strictEqual(reserved._tag === "Granted" && reserved.wait, 0)
  })

  it("of two limits that ask for the same wait the first one says so", () => {
    const [reserved] = reserve(left(empty, [0, 0]), ask([1, 100], { maxWait: 999 }), 0)
    assert.deepStrictEqual(reserved, {
      _tag: "Refused",
      retryAfter: 1000,
      binding: 0,
      levels: [0, 0],
      instances: undefined
    })
  })

  it("a wait for one bucket takes nothing of a bucket that costs nothing", () => {
    const [reserved] = reserve(left(empty, [0, 1000]), ask([1, 0]), 0)
    assert.deepStrictEqual(reserved, {
      _tag: "Granted",
      wait: 1000,
      extra: 0,
      levels: [-1, 1000],
      instances: undefined
    })
  })

  it("what is taken along leaves a fifth of each bucket", () => {
    const [reserved] = reserve(empty, ask([1, 100], { extra: { count: 20, each: [1, 100] } }), 0)
    assert.deepStrictEqual(reserved, { _tag: "Granted", wait: 0, extra: 7, levels: [2, 200], instances: undefined })
    const [few] = reserve(empty, ask([1, 0], { extra: { count: 2, each: [1, 0] } }), 0)
    assert.deepStrictEqual(few, { _tag: "Granted", wait: 0, extra: 2, levels: [7, 1000], instances: undefined })
  })

  it("nothing is taken along by who has to wait, or while anything is blocked", () => {
    const extra = { count: 3, each: [0, 1] }
    const [waits] = reserve(left(empty, [0, 1000]), ask([1, 0], { extra }), 0)
    assert.deepInclude(waits, { wait: 1000, extra: 0 })
    const blocked = settle(empty, { key: "k", limits, block: [0, 1000] }, 0)
    const [goes] = reserve(blocked, ask([1, 0], { extra: { count: 3, each: [1, 0] } }), 0)
    assert.deepInclude(goes, { wait: 0, extra: 0 })
  })
})

describe("settle", () => {
  const promised = (): State => {
    const blocked = settle(empty, { key: "k", limits, block: [5000, 0] }, 0)
    return reserve(blocked, ask([1, 0]), 0)[1]
  }
  const requestsOf = (state: State) => look(state, limits, 0).levels[0]

  it("who was promised the latest moment and leaves takes the promise with it", () => {
    const state = settle(promised(), { key: "k", limits, back: [1, 0], early: 5000 }, 0)
    assert.strictEqual(requestsOf(state), 5)
    assert.strictEqual(requestsOf(settle(state, { key: "k", limits, back: [8, 0] }, 0)), 10)
  })

  it("while something is promised for later, as much has room as the bucket then still has", () => {
    for (const early of [undefined, 0, 4999]) {
      assert.strictEqual(requestsOf(settle(promised(), { key: "k", limits, back: [8, 0], early }, 0)), 5, `${early}`)
    }
  })

  it("takes more than there is, and gives back no more than a bucket holds", () => {
    const state = settle(empty, { key: "k", limits, back: [-12, 5] }, 0)
    assert.deepStrictEqual(look(state, limits, 0).levels, [-2, 1000])
  })

  it("a block is kept until its end, and none that is of no time", () => {
    const block = (state: State, millis: number, now: number) =>
      settle(state, { key: "k", limits, block: [millis, 0] }, now)
    const state = block(empty, 1000, 0)
    assert.deepStrictEqual([...state.blocked], [["requests", 1000]])
    assert.deepStrictEqual([...block(state, 0, 999).blocked], [["requests", 1000]])
    assert.deepStrictEqual([...block(state, 0, 1000).blocked], [])
    assert.deepStrictEqual([...block(state, 100, 500).blocked], [["requests", 1000]])
    assert.deepStrictEqual([...block(state, 600, 500).blocked], [["requests", 1100]])
  })
})

it("a state lasts until all buckets are full, nothing is blocked, and nobody is counted", () => {
  assert.strictEqual(lasts(empty, limits, 0), SEEN_FOR)
  const used = left(empty, [0, 1000], 2000)
  assert.strictEqual(lasts(used, limits, 2000), 10_000)
  assert.strictEqual(lasts(used, limits, 3000), 9000)
  assert.strictEqual(lasts(settle(used, { key: "k", limits, block: [20_000, 0] }, 2000), limits, 3000), 19_000)
})

describe("in memory", () => {
  it.effect("what is full again is forgotten, also for a limit that is larger now", () =>
    Effect.gen(function*() {
      const store = memory()
      const larger = [{ ...requests, burst: 100 }, tokens]
      yield* store.reserve(ask([10, 0]))
      yield* TestClock.adjust(9999)
      assert.closeTo((yield* store.snapshot("k", larger)).levels[0]!, 9.999, 1e-9)
      yield* TestClock.adjust(1)
      assert.strictEqual((yield* store.snapshot("k", larger)).levels[0], 100)
    }))

  it.effect("of more than 10,000 keys none leaves that says something", () =>
    Effect.gen(function*() {
      const store = memory()
      const level = Effect.map(store.snapshot("first", limits), ({ levels }) => levels[0]!)
      yield* store.reserve(ask([10, 0], { key: "first" }))
      for (let i = 0; i < 10_000; i++) yield* store.reserve(ask([1, 0], { key: `${i}` }))
      assert.strictEqual(yield* level, 0)
      yield* TestClock.adjust(7000)
      for (let i = 0; i < 3; i++) yield* store.reserve(ask([1, 0], { key: `later ${i}` }))
      assert.strictEqual(yield* level, 7)
    }))
})
