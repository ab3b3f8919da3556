// Retries in the pipeline: what they cost, and what they give back.
import { assert, describe, it } from "@effect/vitest"
import { Clock, Effect, Fiber, Schedule } from "effect"
import type { LlmError } from "effect-resilient-llm"
import { ScriptedProvider } from "effect-resilient-llm/testing"
import { TestClock } from "effect/testing"
import { ask, failure, fork, kinds, setUp, success, timed, vector } from "../support.ts"

const { answer, hang, overloaded } = ScriptedProvider

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

  it.effect("`when` is asked about failures of attempts, and not about a call that is out of time", () =>
    vector(Effect.gen(function*() {
      const asked: Array<string> = []
      const when = (error: LlmError.LlmError) => asked.push(error._tag) > 0
      const r = yield* setUp([[overloaded, hang, hang]], {
        retry: { maxRetries: 5, baseDelay: 100, when },
        timeout: { attempt: 600 }
      })
      const { at, exit } = yield* timed(ask(kind, r.client, { prompt: "Hi", deadline: 1000 }))
      assert.deepStrictEqual([failure(exit)._tag, at], ["DeadlineExceeded", 1000])
      assert.deepStrictEqual(asked, ["ProviderError", "AttemptTimeout"])
    })))

  it.effect("a purse in shadow mode tells of the retry that it would have denied, and of no other", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([[overloaded, overloaded, answer("x")]], {
        retry: { maxRetries: 2, baseDelay: 100, jitter: "none", factor: 1 },
        retryBudget: { capacity: 1, perAttempt: 0, perSecond: 0, mode: "shadow" }
      })
      const { ledger } = success((yield* timed(ask(kind, r.client))).exit)
      const told = ledger.flatMap((event) => event._tag === "Shadowed" ? [[event.at, event.by, event.decision]] : [])
      assert.deepStrictEqual(told, [[100, "retry-budget", "would-deny"]])
    })))

  it.effect("what was refused here pays nothing into the purse", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([{ always: overloaded }], {
        retry: { maxRetries: 1, baseDelay: 100 },
        retryBudget: { capacity: 5, perAttempt: 0.1, perSecond: 0 },
        circuitBreaker: { failureThreshold: 3, recoveryTimeout: "1 hour" }
      })
      const purse = Effect.map(r.client.status, ({ targets: [target] }) => target?.retryBudget)
      yield* timed(ask(kind, r.client), "1 second")
      yield* timed(ask(kind, r.client), "1 second")
      const before = yield* purse
      assert.strictEqual(before, 4.1)
      for (let i = 0; i < 5; i++) {
        assert.strictEqual((yield* Effect.flip(ask(kind, r.client)))._tag, "CircuitOpen")
      }
      assert.strictEqual(yield* purse, before)
      assert.strictEqual((yield* r.calls()).length, 3)
    })))

  it.effect("a schedule by the hour goes by the clock on the wall", () =>
    vector(Effect.gen(function*() {
      // Twenty to one: the next full hour is twenty minutes away, whatever the clock that only counts says.
      yield* TestClock.setTime(40 * 60_000)
      const r = yield* setUp([[overloaded, answer("x")]], {
        retry: {
          maxRetries: 1,
          schedule: Schedule.cron("0 * * * *", "UTC"),
          maxRetryAfter: "2 hours"
        }
      })
      const begun = yield* Clock.currentTimeMillis
      const { at, exit } = yield* timed(ask(kind, r.client), "2 hours")
      assert.strictEqual(success(exit).text, "x")
      assert.strictEqual(begun + at, 60 * 60_000)
    })))
})
