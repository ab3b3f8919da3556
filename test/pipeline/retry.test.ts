// Retries in the pipeline: what they cost, and what they give back.
import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber } from "effect"
import { ScriptedProvider } from "effect-resilient-llm/testing"
import { TestClock } from "effect/testing"
import { ask, fork, kinds, setUp, success, timed, vector } from "../support.ts"

const { answer, overloaded } = ScriptedProvider

describe.each(kinds)("%s", (kind) => {
  it.effect("a retry that never reaches the provider gives its token back", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([{
        script: [overloaded, { ...answer("slow"), delay: 10_000 }, overloaded],
        always: answer("x")
      }], {
        retry: { maxRetries: 1, baseDelay: 100 },
        retryBudget: { capacity: 1, perAttempt: 0, perSecond: 0 },
        bulkhead: { maxConcurrent: 1 }
      })
      const first = yield* fork(ask(kind, r.client))
      const second = yield* fork(ask(kind, r.client))
      yield* TestClock.adjust(1000) // the first call's retry waits for the permit that the second one holds
      yield* Fiber.interrupt(first)
      yield* TestClock.adjust(10_000)
      yield* Fiber.join(second)
      const third = yield* timed(ask(kind, r.client))
      assert.strictEqual(success(third.exit).text, "x")
    })))
})
