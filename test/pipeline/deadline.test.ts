// Deadlines of calls that share work: each has its own, whoever comes and goes.
import { assert, describe, it } from "@effect/vitest"
import { Duration, Effect, Exit } from "effect"
import { ScriptedProvider } from "effect-resilient-llm/testing"
import { TestClock } from "effect/testing"
import { Deadline } from "../../src/pipeline/deadline.ts"
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

describe("a share of a deadline", () => {
  const call = new Deadline(1100, 1000)
  const fieldsOf = (error: ReturnType<Deadline["error"]>) => [error._tag, Duration.toMillis(error.after)]

  it("is an equal part of what is left, and ends when that has passed", () => {
    const share = call.share(100, 4)
    assert.deepStrictEqual([share.left(100), share.left(150), share.end], [250, 200, 350])
  })

  it("of what is over is nothing", () => {
    const share = call.share(1200, 2)
    assert.deepStrictEqual([share.left(1200), share.end], [-100, 1100])
  })

  it("ends with the whole, wherever that has moved to", () => {
    const flight = { deadlineAt: 1100, wasLater: false }
    const share = call.of(flight).share(100, 2)
    assert.deepStrictEqual([share.left(100), share.end], [500, 600])
    flight.deadlineAt = 300
    assert.deepStrictEqual([share.left(100), share.end], [200, 300])
  })

  it("the last one is the rest itself, and so is one of time without end", () => {
    assert.strictEqual(call.share(100, 1), call)
    assert.strictEqual(call.share(100, 0), call)
    assert.strictEqual(Deadline.never.share(100, 3), Deadline.never)
  })

  it("that ends is a slow target while the call has time left, and then the call is out of time", () => {
    const share = call.share(100, 4)
    assert.deepStrictEqual(fieldsOf(share.error(1099)), ["AttemptTimeout", 250])
    assert.strictEqual((share.error(1099) as { readonly kind?: string }).kind, "attempt")
    assert.deepStrictEqual(fieldsOf(share.error(1100)), ["DeadlineExceeded", 1000])
    assert.deepStrictEqual(fieldsOf(call.error(500)), ["DeadlineExceeded", 1000])
  })

  it("belongs to the whole", () => {
    assert.strictEqual(call.share(100, 4).whole, call)
    assert.strictEqual(call.whole, call)
  })
})
