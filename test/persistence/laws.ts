// One test per law of the certification kit, for a store.
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { StoreLaws } from "effect-resilient-llm/testing"

/** `make` gives an empty store each time. */
export const keepsTheLaws = <E>(name: string, make: () => StoreLaws.Subject<E>): void => {
  describe(`${name}: the laws of a store`, () => {
    const test = make().advance === undefined ? it.live : it.effect
    for (const law of StoreLaws.laws) {
      if (StoreLaws.applies(law, make())) {
        test(law.name, () => Effect.suspend(() => StoreLaws.check(law, make())))
      }
    }
  })
}

/** A clock that a test moves, for stores that take the time as a parameter. */
export const movable = () => {
  let time = 1_700_000_000_000
  return {
    now: () => time,
    advance: (millis: number) =>
      Effect.sync(() => {
        time += millis
      })
  }
}

export const keepsTheLimitLaws = <E>(name: string, make: () => StoreLaws.LimitSubject<E>): void => {
  describe(`${name}: the laws of a store of limits`, () => {
    for (const law of StoreLaws.limitLaws) {
      it.effect(law.name, () => Effect.suspend(() => StoreLaws.checkLimits(law, make())))
    }
  })
}

export const keepsTheCircuitLaws = <E>(name: string, make: () => StoreLaws.CircuitSubject<E>): void => {
  describe(`${name}: the laws of a store of circuits`, () => {
    for (const law of StoreLaws.circuitLaws) {
      it.effect(law.name, () => Effect.suspend(() => StoreLaws.checkCircuits(law, make())))
    }
  })
}

/** The wall clock of a server or machine is set back: for stores that go by one. */
export const survivesAClockSetBack = <E>(name: string, make: () => StoreLaws.LimitSubject<E>): void => {
  it.effect(`${name}: a clock that is set back an hour holds nobody up for an hour`, () =>
    Effect.gen(function*() {
      const { advance, store } = make()
      const limits = [{ dimension: "requests", burst: 2, rate: 1 / 1000 }]
      const { reserve, settle, snapshot } = yield* store
      const ask = (maxWait: number) =>
        reserve({ key: "k", limits, costs: [1], maxWait, instance: "me", extra: { count: 0, each: [1] } })
      yield* reserve({ key: "k", limits, costs: [1], maxWait: 0, instance: "gone" })
      yield* ask(0)
      yield* ask(5000)
      yield* settle({ key: "k", limits, block: [3000] })
      yield* advance(-3_600_000)
      assert.deepStrictEqual(yield* snapshot("k", limits), { levels: [-1], blockedFor: [3000] })
      assert.deepInclude(yield* ask(0), { _tag: "Refused", retryAfter: 3000, instances: 1 })
      yield* advance(1000)
      assert.deepStrictEqual(yield* snapshot("k", limits), { levels: [0], blockedFor: [2000] })
      // Who was told a time and leaves gives it back.
      yield* settle({ key: "k", limits, back: [1], early: 1 })
      assert.deepStrictEqual((yield* snapshot("k", limits)).levels, [1])
      yield* advance(2000)
      assert.strictEqual((yield* ask(0))._tag, "Granted")
    }).pipe(Effect.scoped))
}
