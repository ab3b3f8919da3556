// One test per law of the certification kit, for a store.
import { describe, it } from "@effect/vitest"
import { StoreLaws } from "effect-resilient-llm/testing"

export const keepsTheLaws = <E>(name: string, subject: StoreLaws.Subject<E>): void => {
  describe(`${name}: the laws of a store`, () => {
    for (const law of StoreLaws.laws) {
      if (StoreLaws.applies(law, subject)) it.effect(law.name, () => StoreLaws.check(law, subject))
    }
  })
}
