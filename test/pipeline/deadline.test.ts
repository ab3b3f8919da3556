// Deadlines of calls that share work: each has its own, whoever comes and goes.
import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit } from "effect"
import { ScriptedProvider } from "effect-resilient-llm/testing"
import { TestClock } from "effect/testing"
import { ask, failure, fork, kinds, nothingHeld, now, setUp, vector } from "../support.ts"

describe.each(kinds)("%s", (kind) => {
  /** Two callers with one key; the one with more time leaves after a second. When is the other one gone? */
  const rest = (deadlines: readonly [first: number, second: number], leaves: number) =>
    Effect.gen(function*() {
      const options = {
        retry: { maxRetries: 1, baseDelay: 10 },
        idempotency: {},
        timeout: { attempt: "1 minute", deadline: "1 minute" }
      } as const
      // The second attempt begins while both are there.
      const script = [{ ...ScriptedProvider.overloaded, delay: 500 }]
      const r = yield* setUp([{ script, always: ScriptedProvider.hang }], options)
      const gone: Array<readonly [string, number]> = []
      const fibers = yield* Effect.forEach(deadlines, (deadline) =>
        fork(Effect.onExit(ask(kind, r.client, { prompt: "Hi", idempotencyKey: "k", deadline }), (exit) =>
          Effect.map(now, (at) => {
            const interrupted = Exit.isFailure(exit) && Exit.hasInterrupts(exit)
            gone.push([interrupted ? "left" : failure(exit)._tag, at])
          }))))
      yield* TestClock.adjust(1000)
      fibers[leaves]!.interruptUnsafe()
      yield* TestClock.adjust("2 minutes")
      yield* nothingHeld(r)
      assert.lengthOf(yield* r.calls(), 2)
      return gone
    })

  it.effect("who joined is gone at its own deadline, also when the one that had begun with more time has left", () =>
    vector(Effect.gen(function*() {
      assert.deepStrictEqual(yield* rest([15_000, 2500], 0), [["left", 1000], ["DeadlineExceeded", 2500]])
    })))

  it.effect("who began is gone at its own deadline, also when one that had joined with more time has left", () =>
    vector(Effect.gen(function*() {
      assert.deepStrictEqual(yield* rest([2500, 15_000], 1), [["left", 1000], ["DeadlineExceeded", 2500]])
    })))
})
