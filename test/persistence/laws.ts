// One test per law of the certification kit, for a store.
import { describe, it } from "@effect/vitest"
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
