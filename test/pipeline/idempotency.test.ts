// One key, one call: what callers that share a key share, and what stays each one's own.
import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber } from "effect"
import { ScriptedProvider } from "effect-resilient-llm/testing"
import { TestClock } from "effect/testing"
import { ask, fork, kinds, setUp, vector } from "../support.ts"

const { answer, overloaded } = ScriptedProvider

describe("callers that share a key", () => {
  it.effect("a stream's follower does not inherit its leader's deadline", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([[{ ...answer("good"), delay: 1000 }, answer("another")]], {
        idempotency: {},
        timeout: { attempt: 60_000, firstToken: 60_000 }
      })
      const one = (deadline: number) => ask("stream", r.client, { prompt: "Hi", idempotencyKey: "k", deadline })
      const a = yield* fork(Effect.flip(one(300)))
      const b = yield* fork(one(5000))
      yield* TestClock.adjust(1000)
      assert.strictEqual((yield* Fiber.join(a))._tag, "DeadlineExceeded")
      assert.strictEqual((yield* Fiber.join(b)).text, "good")
    })))

  it.effect("waiting for a permit, they wait as long as the longest of them", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([{ script: [{ ...answer("first"), delay: 1000 }], always: answer("shared") }], {
        idempotency: {},
        timeout: { attempt: 60_000, firstToken: 60_000 },
        bulkhead: { maxConcurrent: 1 }
      })
      yield* fork(ask("complete", r.client, "occupies the permit"))
      const one = (deadline: number) => ask("complete", r.client, { prompt: "Hi", idempotencyKey: "k", deadline })
      const a = yield* fork(Effect.flip(one(300)))
      const b = yield* fork(one(5000))
      yield* TestClock.adjust(300)
      assert.strictEqual((yield* Fiber.join(a))._tag, "DeadlineExceeded")
      yield* TestClock.adjust(700)
      assert.strictEqual((yield* Fiber.join(b)).text, "shared")
    })))

  it.effect("who joined has the attempts in its ledger too", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([[overloaded, { ...answer("x"), delay: 10 }]], { idempotency: {} })
      const one = ask("complete", r.client, { prompt: "Hi", idempotencyKey: "k" })
      const both = yield* fork(Effect.all([one, one], { concurrency: 2 }))
      yield* TestClock.adjust(1000)
      const [, joined] = yield* Fiber.join(both)
      assert.deepStrictEqual(joined.ledger.map(({ _tag }) => _tag), [
        "CallStarted",
        "Idempotency",
        "AttemptStarted",
        "AttemptFailed",
        "RetryScheduled",
        "AttemptStarted",
        "AttemptSucceeded",
        "CallEnded"
      ])
    })))
})

it.effect.each(kinds)(
  "a replay in the same millisecond has no attempts of its own: %s",
  (kind) =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([[answer("x")]], { idempotency: {} })
      const one = ask(kind, r.client, { prompt: "Hi", idempotencyKey: "k" })
      yield* one
      const again = yield* one
      assert.deepStrictEqual(again.ledger.map(({ _tag }) => _tag), ["CallStarted", "Idempotency", "CallEnded"])
    }))
)
