import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit } from "effect"
import type { LlmConfig, LlmError } from "effect-resilient-llm"
import { CountingClock } from "effect-resilient-llm/testing"
import { TestClock } from "effect/testing"
import { ask, failure, kinds, nothingHeld, now, type SetUp, setUp, success, timed, vector } from "../support.ts"
import {
  always,
  assertInterrupted,
  budget,
  callAtOnce,
  find,
  gated,
  interrupt,
  over,
  overloads,
  settle,
  setUpWith,
  start,
  succeeds,
  word
} from "./support.ts"

/** At most this many attempts; the delays are those of the vectors, or none while time is frozen. */
const attempts = (count: number) => ({ maxRetries: count - 1, baseDelay: 500, maxDelay: 8000 })
const frozen = (count: number) => ({ maxRetries: count - 1, baseDelay: 0, maxDelay: 0 })

const isDenied = (error: LlmError.LlmError): boolean =>
  error._tag === "ProviderError" && error.budgetExhausted === true &&
  find(error.ledger, "RetryDenied").map((e) => e.because).join() === "budget"

describe.each(kinds)("%s", (kind) => {
  /** One call while time stands still: how often the transport was asked. */
  const cost = (r: SetUp, i = 0) =>
    Effect.gen(function*() {
      const before = (yield* r.calls(i)).length
      const call = yield* start(ask(kind, r.client))
      yield* settle
      over(call)
      return (yield* r.calls(i)).length - before
    })

  /** A client whose purse of ten was emptied by ten calls at 0; first attempts put nothing in. */
  const emptied = (options: LlmConfig.Options["retryBudget"] = { ...budget, perAttempt: 0 }) =>
    Effect.gen(function*() {
      const r = yield* setUp([always(overloads)], { retry: frozen(2), retryBudget: options })
      for (let i = 0; i < 10; i++) assert.strictEqual(yield* cost(r), 2)
      return r
    })

  it.effect("B1 twelve concurrent calls, always F: 22 transport calls, 2 fail at 0, 10 at 375", () =>
    vector(Effect.gen(function*() {
      const { open, provider } = yield* gated(overloads)
      const r = yield* setUpWith([provider], { retry: attempts(3), retryBudget: budget })
      const calls = yield* callAtOnce(12, kind, r)
      yield* open
      yield* TestClock.adjust("1 minute")
      assert.deepStrictEqual(calls.map((call) => call.at()).toSorted(), [...Array(2).fill(0), ...Array(10).fill(375)])
      assert.deepStrictEqual(yield* r.calls(), [...Array(12).fill(0), ...Array(10).fill(375)])
      for (const call of calls) {
        const error = failure(over(call))
        assert.strictEqual(word(error), "Overloaded")
        assert.isTrue(isDenied(error))
      }
      yield* nothingHeld(r)
    })))

  it.effect.each([[9999, 1], [10_000, 2]] as const)(
    "B2 an empty purse, a failure at %d: %d calls",
    ([at, calls]) =>
      vector(Effect.gen(function*() {
        const r = yield* emptied()
        yield* TestClock.adjust(at)
        assert.strictEqual(yield* cost(r), calls)
        yield* nothingHeld(r)
      }))
  )

  it.effect.each([[5, 2], [4, 1]] as const)(
    "B3 an empty purse and %d first attempts pay for one retry at most",
    ([n, calls]) =>
      vector(Effect.gen(function*() {
        const { open, provider } = yield* gated(overloads)
        // Twelve failures at once empty the purse exactly: the deposits come before the withdrawals, at the cap.
        const r = yield* setUpWith([provider], { retry: frozen(2), retryBudget: { ...budget, perSecond: 0 } })
        yield* callAtOnce(12, kind, r)
        yield* open
        yield* settle
        assert.strictEqual((yield* r.calls()).length, 22)
        yield* r.providers[0]!.play(...Array(n - 1).fill(succeeds))
        for (let i = 1; i < n; i++) assert.strictEqual(yield* cost(r), 1)
        assert.strictEqual(yield* cost(r), calls)
        assert.strictEqual(yield* cost(r), 3 - calls) // the fifth deposit pays, neither the fourth nor the sixth
      }))
  )

  it.effect("B4 a thousand calls one after the other, time frozen: 209 retries", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([always(overloads)], { retry: frozen(3), retryBudget: budget })
      for (let i = 0; i < 1000; i++) yield* Effect.exit(ask(kind, r.client))
      assert.strictEqual((yield* r.calls()).length, 1209)
      assert.strictEqual(yield* now, 0)
      yield* nothingHeld(r)
    })))

  it.effect("B5 a hundred parallel failures: exactly ten retries", () =>
    vector(Effect.gen(function*() {
      const { open, provider } = yield* gated(overloads)
      const r = yield* setUpWith([provider], { retry: attempts(2), retryBudget: budget })
      const calls = yield* callAtOnce(100, kind, r)
      yield* open
      yield* TestClock.adjust("1 minute")
      assert.strictEqual((yield* r.calls()).length, 110)
      assert.strictEqual(calls.filter((call) => call.at() === 0 && isDenied(failure(over(call)))).length, 90)
      yield* nothingHeld(r)
    })))

  it.effect("B6 one token, two failures: one retries at 375, the other fails at 0 with its 503", () =>
    vector(Effect.gen(function*() {
      const { open, provider } = yield* gated(overloads)
      const r = yield* setUpWith([provider], { retry: attempts(2), retryBudget: { ...budget, capacity: 1 } })
      const calls = yield* callAtOnce(2, kind, r)
      yield* open
      yield* TestClock.adjust("1 minute")
      assert.deepStrictEqual(yield* r.calls(), [0, 0, 375])
      const denied = failure(over(calls.find((call) => call.at() === 0)!))
      assert.strictEqual(word(denied), "Overloaded")
      assert.isTrue(isDenied(denied))
      assert.strictEqual((denied as LlmError.ProviderError).status, 503)
      const retried = failure(over(calls.find((call) => call.at() === 375)!)) as LlmError.ProviderError
      assert.isUndefined(retried.budgetExhausted)
      yield* nothingHeld(r)
    })))

  const single = { capacity: 1, perAttempt: 0, perSecond: 0 }

  it.effect("B7 interrupted in backoff: the token is back", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([always(overloads)], { retry: attempts(2), retryBudget: single })
      const call = yield* start(ask(kind, r.client))
      yield* TestClock.adjust(100)
      yield* interrupt(call)
      assertInterrupted(call, 100)
      yield* timed(ask(kind, r.client))
      assert.deepStrictEqual(yield* r.calls(), [0, 100, 475])
      yield* timed(ask(kind, r.client)) // and it is there once, not twice
      assert.strictEqual((yield* r.calls()).length, 4)
      yield* nothingHeld(r)
    })))

  it.effect("B7 interrupted in the attempt it paid for: the token is spent", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([{ script: [overloads, { ...succeeds, delay: 1000 }], always: overloads }], {
        retry: attempts(2),
        retryBudget: single
      })
      const call = yield* start(ask(kind, r.client))
      yield* TestClock.adjust(400)
      yield* interrupt(call)
      assertInterrupted(call, 400)
      const { exit } = yield* timed(ask(kind, r.client))
      assert.isTrue(isDenied(failure(exit)))
      assert.deepStrictEqual(yield* r.calls(), [0, 375, 400])
      yield* nothingHeld(r)
    })))

  it.effect("B8 a success refunds nothing", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([{ script: [overloads, succeeds], always: overloads }], {
        retry: attempts(2),
        retryBudget: single
      })
      success((yield* timed(ask(kind, r.client))).exit)
      assert.strictEqual(yield* cost(r), 1)
      yield* nothingHeld(r)
    })))

  it.effect("B9 the wall clock goes back an hour: the trickle does not notice", () =>
    vector(Effect.gen(function*() {
      const r = yield* emptied()
      yield* TestClock.adjust(1)
      yield* TestClock.setTime(-3_600_000)
      yield* TestClock.adjust(9998)
      assert.strictEqual(yield* cost(r), 1)
      yield* TestClock.adjust(1)
      assert.strictEqual(yield* cost(r), 2)
    })))

  it.effect("B11 the primary's purse is empty: no retry there, the secondary still", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([always(overloads), { script: [overloads], always: succeeds }], {
        retry: attempts(2),
        retryBudget: single
      })
      const first = yield* timed(ask(kind, r.client)) // empties both
      assert.strictEqual(success(first.exit).target, "s")
      assert.deepStrictEqual([yield* r.calls(0), yield* r.calls(1)], [[0, 375], [375, 750]])
      const second = yield* timed(ask(kind, r.client))
      assert.strictEqual(second.at, 0)
      assert.strictEqual(success(second.exit).target, "s")
      assert.strictEqual((yield* r.calls(0)).length, 3)
      yield* nothingHeld(r)
    })))

  describe("bugs other projects shipped", () => {
    it.effect("failsafe-go#139: first attempts are not paid for, however many", () =>
      vector(Effect.gen(function*() {
        const r = yield* setUp([always(succeeds)], { retry: attempts(3), retryBudget: { ...single, capacity: 0 } })
        for (let i = 0; i < 100; i++) assert.isTrue(Exit.isSuccess(yield* Effect.exit(ask(kind, r.client))))
        assert.strictEqual((yield* r.calls()).length, 100)
      })))

    it.effect("failsafe-go#141: an empty purse touches nobody but the retry it denies", () =>
      vector(Effect.gen(function*() {
        const slow = { ...succeeds, delay: 1000 }
        const r = yield* setUp([{ script: [slow, overloads, slow], always: overloads }], {
          retry: attempts(2),
          retryBudget: { ...single, capacity: 0 }
        })
        const calls = yield* callAtOnce(3, kind, r)
        yield* TestClock.adjust("1 minute")
        assert.deepStrictEqual(calls.map((call) => call.at()), [1000, 0, 1000])
        assert.deepStrictEqual(calls.map((call) => Exit.isSuccess(over(call))), [true, false, true])
      })))

    it.effect("checks after sleeping, ErrExceeded: the denial comes before the sleep and keeps its cause", () =>
      vector(Effect.gen(function*() {
        const r = yield* setUp([always(overloads)], { retry: attempts(3), retryBudget: { ...single, capacity: 0 } })
        const { at, exit } = yield* timed(ask(kind, r.client))
        assert.strictEqual(at, 0)
        assert.strictEqual(word(failure(exit)), "Overloaded")
        assert.strictEqual(yield* (yield* CountingClock.CountingClock).started, 0)
      })))

    it.effect("gRPC's throttle: an idle client whose every call fails is not blocked for ever", () =>
      vector(Effect.gen(function*() {
        const r = yield* emptied()
        for (let i = 0; i < 5; i++) {
          assert.strictEqual(yield* cost(r), 1)
          yield* TestClock.adjust(10_000)
          assert.strictEqual(yield* cost(r), 2)
        }
      })))
  })
})
