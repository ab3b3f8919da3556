// Hedging in the whole pipeline: a step of the walk along the targets, taken early.
import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber, Scheduler } from "effect"
import { type LlmConfig, LlmError, type LlmEvent, type LlmRequest } from "effect-resilient-llm"
import { ScriptedProvider } from "effect-resilient-llm/testing"
import { TestClock } from "effect/testing"
import { ask, failure, fork, kinds, nothingHeld, type Script, setUp, success, timed, vector } from "../support.ts"

const hedge = { hedge: { delay: 1000 } } as const satisfies LlmConfig.Options
const after = (millis: number, text = "ok"): ScriptedProvider.Step => ScriptedProvider.answer(text, { delay: millis })
const fails = (millis: number, reason: LlmError.Reason = { _tag: "Overloaded" }) =>
  ScriptedProvider.fail(reason, { delay: millis })

const only = <T extends LlmEvent.LlmEvent["_tag"]>(ledger: LlmEvent.Ledger, tag: T) =>
  ledger.filter((event): event is Extract<LlmEvent.LlmEvent, { readonly _tag: T }> => event._tag === tag)

/** One call of two targets, and what it left behind. */
const played = (
  kind: (typeof kinds)[number],
  scripts: readonly [Script, ...ReadonlyArray<Script>],
  options: LlmConfig.Options = {},
  input: Partial<LlmRequest.Input> = {}
) =>
  Effect.gen(function*() {
    const r = yield* setUp(scripts, { ...hedge, retry: false, ...options })
    const { at, exit } = yield* timed(ask(kind, r.client, { prompt: "What is AI?", ...input }), 20_000)
    yield* nothingHeld(r)
    return { r, at, exit, p: yield* r.calls(0), s: scripts.length > 1 ? yield* r.calls(1) : [] }
  })

describe.each(kinds)("hedge: %s", (kind) => {
  it.effect("H1 an answer before the delay is one call", () =>
    vector(Effect.gen(function*() {
      const { at, exit, p, s } = yield* played(kind, [[after(800)], []])
      const { ledger, target } = success(exit)
      assert.deepStrictEqual([at, target, p, s, only(ledger, "Hedged")], [800, "p", [0], [], []])
    })))

  it.effect("H2 the hedge answers first, on the next target; the loser is told, and the winner's books are the call's", () =>
    vector(Effect.gen(function*() {
      const { at, exit, p, r, s } = yield* played(kind, [[after(3000, "p")], [after(500, "s")]], {
        circuitBreaker: {},
        bulkhead: { maxConcurrent: 1 }
      })
      const { ledger, target, text } = success(exit)
      assert.deepStrictEqual([at, target, text, p, s], [1500, "s", "s", [0], [1000]])
      const [hedged] = only(ledger, "Hedged")
      assert.deepInclude(hedged, { at: 1000, result: "started", line: 1, from: "p", target: "s" })
      assert.deepInclude(only(ledger, "AttemptInterrupted")[0], { target: "p", attempt: 1, by: "lost", duration: 1500 })
      assert.deepInclude(only(ledger, "AttemptSucceeded")[0], { target: "s", attempt: 2, duration: 500 })
      assert.deepInclude(only(ledger, "CallEnded")[0], { outcome: "provider", target: "s", attempts: 2 })
      // H12: one success and one ignored.
      const [first, second] = (yield* r.client.status).targets
      assert.deepStrictEqual([first?.circuit?.calls, second?.circuit?.calls, second?.circuit?.failures], [0, 1, 0])
      assert.strictEqual(only(ledger, "FailedOver").length, 0)
    })))

  it.effect("H3 the primary answers first, and the hedge is interrupted", () =>
    vector(Effect.gen(function*() {
      const { at, exit, p, s } = yield* played(kind, [[after(1200)], [after(500)]])
      const { ledger, target } = success(exit)
      assert.deepStrictEqual([at, target, p, s], [1200, "p", [0], [1000]])
      assert.deepInclude(only(ledger, "AttemptInterrupted")[0], { target: "s", by: "lost", duration: 200 })
    })))

  it.effect("H4 a failed hedge leaves the primary alone, and its target counts as tried", () =>
    vector(Effect.gen(function*() {
      const late = yield* played(kind, [[after(3000)], [fails(100)]])
      assert.deepStrictEqual([late.at, success(late.exit).target, late.s], [3000, "p", [1000]])
      const both = yield* played(kind, [[fails(3000)], [fails(100, { _tag: "Server" })]])
      assert.deepStrictEqual([both.at, both.p.length, both.s.length], [3000, 1, 1])
      const error = failure(both.exit)
      assert.strictEqual(error._tag, "AllProvidersFailed")
      if (error._tag !== "AllProvidersFailed") return
      assert.deepStrictEqual(error.targets, ["p", "s"])
      assert.deepStrictEqual(error.errors.map((e) => LlmError.summary(e).reason), ["Overloaded", "Server"])
    })))

  it.effect("H5 a failure before the delay belongs to retry and failover", () =>
    vector(Effect.gen(function*() {
      const { at, exit, p, s } = yield* played(kind, [[fails(400), after(100, "again")], [after(500)]], {
        retry: { maxRetries: 2, baseDelay: 500 }
      })
      // A pause of 375 ms, then the second attempt.
      assert.deepStrictEqual([at, success(exit).text, p, s], [875, "again", [0, 775], []])
      const over = yield* played(kind, [[fails(400)], [after(500)]])
      assert.deepStrictEqual([over.at, over.s, only(success(over.exit).ledger, "Hedged")], [900, [400], []])
    })))

  it.effect("H5 the delay runs on through pauses: a hedge beats the third attempt", () =>
    vector(Effect.gen(function*() {
      const { at, exit, p, s } = yield* played(kind, [{ always: fails(400) }, [after(100, "s")]], {
        retry: { maxRetries: 2, baseDelay: 500 }
      })
      assert.deepStrictEqual([at, success(exit).text, p, s], [1100, "s", [0, 775], [1000]])
    })))

  it.effect("H6 a final failure ends the call, without a hedge", () =>
    vector(Effect.gen(function*() {
      const { at, exit, s } = yield* played(kind, [[fails(400, { _tag: "InvalidRequest" })], []])
      assert.deepStrictEqual([at, failure(exit)._tag, s], [400, "ProviderError", []])
    })))

  it.effect("H8 an empty purse of the target that would get it suppresses the hedge; B11 and does not hinder failover", () =>
    vector(Effect.gen(function*() {
      const purse = { retry: {}, retryBudget: { capacity: 0, perAttempt: 0, perSecond: 0 } } as const
      const { at, exit, s } = yield* played(kind, [[after(3000)], []], purse)
      const { ledger, target } = success(exit)
      assert.deepStrictEqual([at, target, s], [3000, "p", []])
      assert.deepInclude(only(ledger, "Hedged")[0], { at: 1000, result: "suppressed", target: "s" })
      const over = yield* played(kind, [[fails(3000)], [after(500)]], purse)
      assert.deepStrictEqual([over.at, success(over.exit).target, over.s], [3500, "s", [3000]])
    })))

  it.effect("B10 one purse: what a hedge has taken is not there for a retry", () =>
    vector(Effect.gen(function*() {
      const { exit, p, s } = yield* played(kind, [[fails(3000)], [fails(100)]], {
        retry: { maxRetries: 1, baseDelay: 500 },
        retryBudget: { capacity: 1, perAttempt: 0, perSecond: 0 },
        failover: false
      })
      // The hedge of a single target goes to the same one.
      assert.deepStrictEqual([p, s], [[0, 1000], []])
      assert.strictEqual(success(exit).target, "p")
      const denied = yield* played(kind, [{ always: fails(1500) }, []], {
        retry: { maxRetries: 1, baseDelay: 500 },
        retryBudget: { capacity: 1, perAttempt: 0, perSecond: 0 },
        failover: false
      })
      assert.deepStrictEqual(denied.p, [0, 1000])
      const error = failure(denied.exit)
      assert.isTrue(error instanceof LlmError.ProviderError && error.budgetExhausted)
    })))

  it.effect("H10 the caller is free at once; the loser's permit when it has cleaned up", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp(
        [[ScriptedProvider.answer("p", { delay: 3000, cleanup: 10_000 })], [after(500)]],
        { ...hedge, retry: false, bulkhead: { maxConcurrent: 1 } }
      )
      const { at } = yield* timed(ask(kind, r.client), 1500)
      assert.strictEqual(at, 1500)
      const inUse = Effect.map(r.client.status, ({ targets }) => targets.map(({ bulkhead }) => bulkhead?.inUse))
      assert.deepStrictEqual(yield* inUse, [1, 0])
      yield* TestClock.adjust(10_000)
      yield* nothingHeld(r)
    })))

  it.effect("H11 an interrupted caller interrupts both lines, at every step", () =>
    vector(Effect.gen(function*() {
      for (let budget = 3; budget <= 64; budget += 12) {
        for (const leaves of [0, 500, 1000, 1200, 1500]) {
          for (const steps of [0, 1, 2, 3, 5, 8]) {
            const r = yield* setUp([[after(3000)], [after(500)]], {
              ...hedge,
              retry: {},
              circuitBreaker: {},
              bulkhead: { maxConcurrent: 1 }
            })
            const fiber = yield* fork(Effect.provideService(ask(kind, r.client), Scheduler.MaxOpsBeforeYield, budget))
            yield* Effect.forkChild(TestClock.adjust(leaves))
            for (let i = 0; i < steps; i++) yield* Effect.yieldNow
            yield* Fiber.interrupt(fiber)
            yield* TestClock.adjust(10_000)
            // The test clock does not wait for fibres that yield after every third step: they end in turns of the loop.
            for (let turn = 0; turn < 20; turn++) yield* Effect.promise(() => new Promise(setImmediate))
            yield* nothingHeld(r)
            assert.isAtMost((yield* r.calls(0)).length + (yield* r.calls(1)).length, 2)
          }
        }
      }
    })))

  it.effect("a hedge goes past targets that cannot be asked, to the next one that can", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([{ always: after(3000) }, { always: fails(0, { _tag: "Authentication" }) }, {
        always: after(500, "t")
      }], {
        ...hedge,
        retry: false
      })
      // The first hedge finds the key of `s` refused: it rests, and the next hedge passes it over.
      const first = yield* timed(ask(kind, r.client), 20_000)
      assert.deepStrictEqual([first.at, success(first.exit).target], [3000, "p"])
      const second = yield* timed(ask(kind, r.client), 20_000)
      assert.deepStrictEqual([second.at, success(second.exit).target], [1500, "t"])
    })))

  it.effect("a guard of ours that refuses the hedge gives the price back, and its target may still be asked", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([{ always: fails(2000) }, { always: after(1500, "s") }], {
        ...hedge,
        retry: {},
        retryBudget: { capacity: 1, perAttempt: 0, perSecond: 0 },
        bulkhead: { maxConcurrent: 1, queue: 0 }
      })
      const other = yield* fork(ask(kind, r.client))
      yield* TestClock.adjust(100)
      // One place in each: the second call is refused by `p` and waits in `s`; the hedge of the first finds no place.
      const second = yield* fork(ask(kind, r.client))
      yield* TestClock.adjust(901)
      assert.deepStrictEqual((yield* r.client.status).targets.map(({ retryBudget }) => retryBudget), [1, 1])
      yield* TestClock.adjust(10_000)
      assert.strictEqual((yield* Fiber.join(second)).target, "s")
      assert.strictEqual((yield* Fiber.join(other)).target, "s")
      yield* nothingHeld(r)
    })))

  it.effect("a hedge that is lost, or interrupted, before its target was asked gives the price back", () =>
    vector(Effect.gen(function*() {
      const busy = { bulkhead: { maxConcurrent: 1, queue: 1, maxWait: "1 minute" } } as const
      for (const leaves of [false, true]) {
        const r = yield* setUp([[], { always: after(9000, "s") }], {
          ...hedge,
          retryBudget: { capacity: 5, perAttempt: 0, perSecond: 0 }
        }, [{}, busy])
        // It is alone with its target, so its own hedge waits behind it.
        const other = yield* fork(ask(kind, r.client, { prompt: "Other", targets: ["s"] }))
        yield* TestClock.adjust(2000)
        const balances = Effect.map(r.client.status, ({ targets }) => targets.map(({ retryBudget }) => retryBudget))
        assert.deepStrictEqual(yield* balances, [5, 4])
        if (leaves) yield* Fiber.interrupt(other)
        yield* TestClock.adjust(8000)
        assert.deepStrictEqual(yield* balances, [5, 5])
        yield* nothingHeld(r)
      }
    })))

  it.effect("several hedges: each on the next target, after its own delay", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([[after(9000)], [after(9000)], [after(300, "t")]], {
        hedge: { delay: 1000, maxHedges: 2 },
        retry: false
      })
      const { at, exit } = yield* timed(ask(kind, r.client))
      assert.deepStrictEqual([at, success(exit).target], [2300, "t"])
      assert.deepStrictEqual([yield* r.calls(1), yield* r.calls(2)], [[1000], [2000]])
      assert.strictEqual(only(success(exit).ledger, "AttemptInterrupted").length, 2)
      yield* nothingHeld(r)
    })))

  it.effect("off: a client without the option never asks twice", () =>
    vector(Effect.gen(function*() {
      const { at, s } = yield* played(kind, [[after(3000)], []], { hedge: false })
      assert.deepStrictEqual([at, s], [3000, []])
    })))

  const own = { name: "own", parameters: { type: "object" } } as const
  const vendors = { ...own, name: "search", provider: { id: "openai.web_search" } } as const
  it.effect.each<[string, LlmRequest.Input["tools"], hedged: boolean]>([
    ["none", [], true],
    ["tools of the caller", [own], true],
    ["a tool that the provider runs itself", [vendors], false],
    ["one of each", [own, vendors], false]
  ])("a request that may act elsewhere is not sent twice: %s", ([, tools, hedged]) =>
    vector(Effect.gen(function*() {
      const { at, s } = yield* played(kind, [[after(3000)], [after(500)]], {}, { tools })
      assert.deepStrictEqual([at, s], hedged ? [1500, [1000]] : [3000, []])
    })))

  it.effect("mode \"shadow\": a hedge is told, costs nothing and is not sent", () =>
    vector(Effect.gen(function*() {
      for (
        const retryBudget of [false, { capacity: 5, perAttempt: 0, perSecond: 0 }, {
          capacity: 0,
          perAttempt: 0,
          perSecond: 0,
          mode: "shadow"
        }] as const
      ) {
        const options = { hedge: { delay: 1000, mode: "shadow" }, retry: {}, retryBudget } as const
        const { at, exit, r, s } = yield* played(kind, [[after(3000)], []], options)
        const { ledger } = success(exit)
        assert.deepStrictEqual([at, s, only(ledger, "Hedged")], [3000, [], []])
        assert.deepStrictEqual(only(ledger, "Shadowed"), [
          { _tag: "Shadowed", call: 1, at: 1000, target: "s", by: "hedge", decision: "would-hedge" }
        ])
        const left = retryBudget === false ? undefined : retryBudget.capacity
        assert.deepStrictEqual((yield* r.client.status).targets.map((target) => target.retryBudget), [left, left])
      }
    })))

  it.effect("a purse in shadow mode tells of the hedge that it would have denied, and of no other", () =>
    vector(Effect.gen(function*() {
      for (const capacity of [1, 0]) {
        const retryBudget = { capacity, perAttempt: 0, perSecond: 0, mode: "shadow" } as const
        const { exit, s } = yield* played(kind, [[after(3000)], [after(500)]], { retry: {}, retryBudget })
        assert.deepStrictEqual(s, [1000])
        assert.deepStrictEqual(
          only(success(exit).ledger, "Shadowed"),
          capacity > 0 ? [] : [
            { _tag: "Shadowed", call: 1, at: 1000, target: "s", by: "retry-budget", decision: "would-deny" }
          ]
        )
      }
    })))

  it.effect("what a hedge has cost stays spent, whether it is won, lost or failed", () =>
    vector(Effect.gen(function*() {
      const retryBudget = { capacity: 5, perAttempt: 0, perSecond: 0 } as const
      for (const rival of [after(500), after(5000), fails(100)]) {
        const { r, s } = yield* played(kind, [[after(3000)], [rival]], { retry: {}, retryBudget })
        assert.deepStrictEqual(s, [1000])
        assert.deepStrictEqual((yield* r.client.status).targets.map((target) => target.retryBudget), [5, 4])
      }
    })))

  it.effect("a suppressed hedge is told as the line that it would have been", () =>
    vector(Effect.gen(function*() {
      const empty = { retry: {}, retryBudget: { capacity: 0, perAttempt: 0, perSecond: 0 } } as const
      const { exit } = yield* played(kind, [[after(3000)], []], empty)
      assert.deepStrictEqual(only(success(exit).ledger, "Hedged"), [
        { _tag: "Hedged", call: 1, at: 1000, result: "suppressed", line: 1, from: "p", target: "s" }
      ])
    })))

  it.effect("maxAttempts: one is kept for the target's own line while that is not under way", () =>
    vector(Effect.gen(function*() {
      const one = { failover: { maxAttempts: 1 } }
      const two = { failover: { maxAttempts: 2 } }
      // Under way, the own line has its attempt already.
      const underWay = yield* played(kind, [[after(3000)], [after(500, "s")]], two)
      assert.deepStrictEqual([success(underWay.exit).text, underWay.s], ["s", [1000]])
      // In the pause before a retry, and in a line before the first attempt, it has none yet.
      const pausing = yield* played(kind, [[fails(400), after(100, "again")], []], {
        ...two,
        retry: { maxRetries: 1, baseDelay: 5000 }
      })
      assert.deepStrictEqual([success(pausing.exit).text, pausing.p.length, pausing.s], ["again", 2, []])
      const r = yield* setUp([{ always: after(3000) }, { always: after(500) }], {
        ...hedge,
        ...one,
        retry: false,
        bulkhead: { maxConcurrent: 1, queue: 1, maxWait: "1 minute" }
      })
      const first = yield* fork(ask(kind, r.client))
      const { at, exit } = yield* timed(ask(kind, r.client), 20_000)
      assert.deepStrictEqual([at, success(exit).target], [6000, "p"])
      assert.strictEqual((yield* Fiber.join(first)).target, "p")
      assert.deepStrictEqual([yield* r.calls(0), yield* r.calls(1)], [[0, 3000], []])
      yield* nothingHeld(r)
    })))
})

describe("hedge p95", () => {
  it.effect("neither whole answers nor streams that fail are measured", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([[], { always: after(100, "s") }], { hedge: {}, retry: false, failover: false })
      const [p] = r.providers
      for (let i = 0; i < 20; i++) {
        yield* p!.play(after(100), fails(100))
        yield* timed(ask("complete", r.client), 200)
        yield* timed(ask("stream", r.client), 200)
      }
      yield* p!.play(after(60_000))
      assert.strictEqual((yield* timed(ask("stream", r.client), 60_000)).at, 60_000)
    })))

  it.effect("H9 measured per target, of streams up to their first content; whole answers are not hedged", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp(
        [{ always: ScriptedProvider.stream({ wait: 700 }, "a", { wait: 5000 }, "b") }, { always: after(100, "s") }],
        {
          hedge: {},
          retry: false
        }
      )
      for (let i = 0; i < 19; i++) yield* timed(ask("stream", r.client), 6000)
      yield* r.providers[0]!.play(after(60_000), after(60_000), after(60_000))
      // Nineteen are too few.
      assert.strictEqual((yield* timed(ask("stream", r.client), 60_000)).at, 60_000)
      // The twentieth took a minute, and counts.
      const slow = yield* timed(ask("stream", r.client), 60_000)
      assert.deepStrictEqual([slow.at, success(slow.exit).target], [800, "s"])
      const whole = yield* timed(ask("complete", r.client), 60_000)
      assert.deepStrictEqual([whole.at, success(whole.exit).target], [60_000, "p"])
    })))

  it.effect("a stored stream is as old as its end, also where a hedge brought it", () =>
    vector(Effect.gen(function*() {
      const scripts: readonly [Script, ...ReadonlyArray<Script>] = [
        [ScriptedProvider.hang],
        [ScriptedProvider.stream("s", { wait: 5000 }, "!")]
      ]
      const r = yield* setUp(scripts, { ...hedge, retry: false, cache: { readThrough: true } })
      const input = { prompt: "What is AI?", cache: "always" } as const
      const { at, exit } = yield* timed(ask("stream", r.client, input), 20_000)
      assert.strictEqual(at, 6000)
      assert.deepInclude(only(success(exit).ledger, "Cache")[1], { result: "stored", at: 6000 })
      const again = success((yield* timed(ask("stream", r.client, input))).exit)
      assert.deepInclude(only(again.ledger, "Cache")[0], { result: "fresh", age: 14_000 })
    })))

  it.effect("H2 streams: whoever has content first wins, although it ends later", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([
        [ScriptedProvider.stream({ wait: 1600 }, "p")],
        [ScriptedProvider.stream({ wait: 500 }, "s", { wait: 5000 }, "!")]
      ], { ...hedge, retry: false })
      const { at, exit } = yield* timed(ask("stream", r.client))
      assert.deepStrictEqual([at, success(exit).text], [6500, "s!"])
      yield* nothingHeld(r)
    })))
})
