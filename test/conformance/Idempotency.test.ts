import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Fiber, Redacted } from "effect"
import { LlmConfig, LlmError, type LlmRequest, type LlmResponse } from "effect-resilient-llm"
import { Store } from "effect-resilient-llm/persistence"
import { ScriptedProvider } from "effect-resilient-llm/testing"
import { TestClock } from "effect/testing"
import {
  ask,
  failure,
  fork,
  kinds,
  nothingHeld,
  now,
  recordsIn,
  type SetUp,
  setUp,
  success,
  timed,
  vector
} from "../support.ts"
import {
  ageOf,
  always,
  assertInterrupted,
  badRequest,
  callAtOnce,
  failing,
  find,
  interrupt,
  millis,
  over,
  overloads,
  settle,
  start,
  succeeds,
  timers,
  unauthorized,
  word
} from "./support.ts"

const { answer, die, stream } = ScriptedProvider

const slow = { ...succeeds, delay: 1000 }
const join = { idempotency: { derive: "join" } } as const
const replay = { idempotency: { derive: "replay" } } as const
const keyed = { idempotency: { ttl: "24 hours" } } as const

describe.each(kinds)("%s", (kind) => {
  it.effect("I1 a hundred equal requests: one call, a hundred equal results at 1000", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([always(slow)], join)
      const calls = yield* callAtOnce(100, kind, r)
      yield* TestClock.adjust("1 minute")
      for (const call of calls) {
        assert.strictEqual(call.at(), 1000)
        assert.strictEqual(success(over(call)).text, "Hello.")
      }
      assert.deepStrictEqual(yield* r.calls(), [0])
      const how = calls.flatMap((call) => find(success(over(call)).ledger, "Idempotency").map(({ result }) => result))
      assert.deepStrictEqual(how.toSorted(), [...Array(99).fill("joined"), "led"])
      yield* nothingHeld(r)
    })))

  it.effect("I2 the first caller is interrupted at 500: the others succeed at 1000", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([always(slow)], join)
      const [first, ...others] = yield* callAtOnce(100, kind, r)
      yield* TestClock.adjust(500)
      yield* interrupt(first!)
      assertInterrupted(first!, 500)
      yield* TestClock.adjust("1 minute")
      for (const call of others) {
        assert.strictEqual(success(over(call)).text, "Hello.")
        assert.strictEqual(call.at(), 1000)
      }
      assert.deepStrictEqual(yield* r.calls(), [0])
      yield* nothingHeld(r)
    })))

  it.effect("I3 all three callers are interrupted at 500: so is the transport, and nothing is stored", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([always(slow)], replay)
      const calls = yield* callAtOnce(3, kind, r)
      yield* TestClock.adjust(500)
      // In the reverse order, so that no waiter becomes a leader in between.
      for (const call of calls.toReversed()) yield* interrupt(call)
      for (const call of calls) assertInterrupted(call, 500)
      assert.strictEqual(yield* r.providers[0]!.active, 0)
      yield* nothingHeld(r)
      const { at, exit } = yield* timed(ask(kind, r.client))
      assert.strictEqual(success(exit).source, "provider")
      assert.strictEqual(at, 1000)
      assert.deepStrictEqual(yield* r.calls(), [0, 500])
    })))

  it.effect("I3 all at once, in the same step", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([always(slow)], replay)
      const calls = yield* callAtOnce(3, kind, r)
      yield* TestClock.adjust(500)
      yield* Fiber.interruptAll(calls.map(({ fiber }) => fiber))
      for (const call of calls) assertInterrupted(call, 500)
      assert.deepStrictEqual(yield* r.calls(), [0])
      yield* nothingHeld(r)
    })))

  it.effect("I4 the last waiter leaves at 500 and another comes at 500: it gets an answer, not the abort", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([always(slow)], join)
      const first = yield* start(ask(kind, r.client))
      yield* TestClock.adjust(500)
      first.fiber.interruptUnsafe()
      const second = yield* start(ask(kind, r.client))
      yield* TestClock.adjust("1 minute")
      assertInterrupted(first, 500)
      assert.strictEqual(success(over(second)).text, "Hello.")
      assert.deepStrictEqual(yield* r.calls(), [0, 500])
      yield* nothingHeld(r)
    })))

  it.effect("I4 also while the abandoned transport is still cleaning up", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([[{ ...slow, cleanup: 300 }, slow]], join)
      const first = yield* start(ask(kind, r.client))
      yield* TestClock.adjust(500)
      yield* interrupt(first)
      yield* TestClock.adjust(100)
      const second = yield* start(ask(kind, r.client))
      yield* TestClock.adjust("1 minute")
      assertInterrupted(first, 800)
      // The work belongs to nobody, and is given up at once.
      assert.strictEqual(second.at(), 1600)
      assert.strictEqual(success(over(second)).text, "Hello.")
      yield* nothingHeld(r)
    })))

  it.effect("P23 the ledger of a caller that joined late is in order, and nothing in it is older than its call", () =>
    vector(Effect.gen(function*() {
      const late = { ...overloads, delay: 1000 }
      const r = yield* setUp([[late, slow]], { ...join, retry: { baseDelay: 0 } })
      const leader = yield* start(ask(kind, r.client))
      yield* TestClock.adjust(1500)
      const joined = yield* start(ask(kind, r.client))
      yield* TestClock.adjust("1 minute")
      const { ledger } = success(over(joined))
      const times = ledger.map(({ at }) => at)
      assert.deepStrictEqual(times, times.toSorted((a, b) => a - b))
      assert.strictEqual(times[0], 0)
      assert.deepStrictEqual(ledger.slice(0, 2).map(({ _tag }) => _tag), ["CallStarted", "Idempotency"])
      const failed = find(ledger, "AttemptFailed")
      assert.deepStrictEqual(failed.map(({ at }) => at), [0])
      assert.deepStrictEqual(
        find(ledger, "AttemptFailed").map(({ target }) => target),
        find(success(over(leader)).ledger, "AttemptFailed").map(({ target }) => target)
      )
    })))

  it.effect("I5 a joined caller keeps its own deadline of 300, the leader is unaffected", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([always(slow)], { ...join, timeout: timers })
      const a = yield* start(ask(kind, r.client, { prompt: "Hi" }))
      const b = yield* start(ask(kind, r.client, { prompt: "Hi", deadline: 300 }))
      yield* TestClock.adjust("1 minute")
      assert.strictEqual(word(failure(over(b))), "DeadlineExceeded")
      assert.strictEqual(b.at(), 300)
      assert.strictEqual(success(over(a)).text, "Hello.")
      assert.strictEqual(a.at(), 1000)
      assert.deepStrictEqual(yield* r.calls(), [0])
      yield* nothingHeld(r)
    })))

  it.effect("I5 the other way round: the leader's deadline of 300 does not end the joined caller", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([always(slow)], { ...join, timeout: timers })
      const a = yield* start(ask(kind, r.client, { prompt: "Hi", deadline: 300 }))
      const b = yield* start(ask(kind, r.client, { prompt: "Hi" }))
      yield* TestClock.adjust("1 minute")
      assert.strictEqual(word(failure(over(a))), "DeadlineExceeded")
      assert.strictEqual(a.at(), 300)
      assert.strictEqual(success(over(b)).text, "Hello.")
      assert.strictEqual(b.at(), 1000)
      assert.deepStrictEqual(yield* r.calls(), [0])
      yield* nothingHeld(r)
    })))

  it.effect("I6 a key stored for one prompt, asked with another: IdempotencyConflict, no call", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([always(succeeds)], keyed)
      yield* ask(kind, r.client, { prompt: "P", idempotencyKey: "k" })
      const error = yield* Effect.flip(ask(kind, r.client, { prompt: "P′", idempotencyKey: "k" }))
      assert.strictEqual(error._tag, "IdempotencyConflict")
      assert.notInclude(JSON.stringify(error), "\"k\"")
      assert.deepStrictEqual(yield* r.calls(), [0])
      yield* nothingHeld(r)
    })))

  it.effect("I6 also while the first is in flight, which goes on", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([always(slow)], keyed)
      const first = yield* start(ask(kind, r.client, { prompt: "P", idempotencyKey: "k" }))
      const error = yield* Effect.flip(ask(kind, r.client, { prompt: "P′", idempotencyKey: "k" }))
      assert.strictEqual(error._tag, "IdempotencyConflict")
      yield* TestClock.adjust("1 minute")
      assert.strictEqual(success(over(first)).text, "Hello.")
      assert.deepStrictEqual(yield* r.calls(), [0])
    })))

  it.effect.each([[86_399_999, "replay", 1], [86_400_000, "provider", 2]] as const)(
    "I7 stored at 0, asked again at %d: %s",
    ([at, source, calls]) =>
      vector(Effect.gen(function*() {
        const r = yield* setUp([always(succeeds)], keyed)
        const request = { prompt: "P", idempotencyKey: "k" }
        yield* ask(kind, r.client, request)
        yield* TestClock.adjust(at)
        const response = yield* ask(kind, r.client, request)
        assert.strictEqual(response.source, source)
        assert.strictEqual(ageOf(response), source === "replay" ? at : 0)
        assert.strictEqual((yield* r.calls()).length, calls)
        yield* nothingHeld(r)
      }))
  )

  it.effect("I7 `join` joins and keeps nothing, `replay` keeps", () =>
    vector(Effect.gen(function*() {
      for (const [options, sources] of [[join, "provider provider"], [replay, "provider replay"]] as const) {
        const r = yield* setUp([always(succeeds)], options)
        const first = yield* ask(kind, r.client)
        const second = yield* ask(kind, r.client)
        assert.strictEqual(`${first.source} ${second.source}`, sources)
      }
    })))

  it.effect("I8 a 503 is not kept: the repetition is executed", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([[overloads, succeeds]], { ...keyed, retry: false })
      const request = { prompt: "P", idempotencyKey: "k" }
      assert.strictEqual(word(yield* Effect.flip(ask(kind, r.client, request))), "Overloaded")
      assert.strictEqual((yield* ask(kind, r.client, request)).source, "provider")
      assert.deepStrictEqual(yield* r.calls(), [0, 0])
      yield* nothingHeld(r)
    })))

  it.effect("I9 a 400 under a given key: the same typed error again, no call", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([[badRequest, succeeds]], keyed)
      const request = { prompt: "P", idempotencyKey: "k" }
      for (let i = 0; i < 3; i++) {
        assert.strictEqual(word(yield* Effect.flip(ask(kind, r.client, request))), "InvalidRequest")
      }
      assert.deepStrictEqual(yield* r.calls(), [0])
      yield* nothingHeld(r)
    })))

  it.effect("I9 without a key it is asked again, and so is any other failure under a key", () =>
    vector(Effect.gen(function*() {
      const derived = yield* setUp([[badRequest, succeeds]], replay)
      assert.strictEqual(word(yield* Effect.flip(ask(kind, derived.client))), "InvalidRequest")
      assert.strictEqual((yield* ask(kind, derived.client)).source, "provider")
      const r = yield* setUp([[unauthorized, succeeds]], keyed)
      const request = { prompt: "P", idempotencyKey: "k" }
      assert.strictEqual(word(yield* Effect.flip(ask(kind, r.client, request))), "Authentication")
      assert.strictEqual((yield* ask(kind, r.client, request)).source, "provider")
    })))

  const first: LlmRequest.Input = {
    prompt: [{ role: "user", content: [{ type: "text", text: "P" }] }],
    temperature: 0.7,
    tools: [{ name: "t", parameters: { type: "object", properties: { a: {}, b: {} } } }]
  }
  it.effect.each<[string, LlmRequest.Input, number]>([
    ["fields reordered: the same", {
      tools: [{ parameters: { properties: { b: {}, a: {} }, type: "object" }, name: "t" }],
      temperature: 0.7,
      prompt: [{ content: [{ text: "P", type: "text" }], role: "user" }]
    }, 1],
    [".70 for .7: the same", { ...first, temperature: JSON.parse(".70".replace(".", "0.")) as number }, 1],
    ["another tenant: different", { ...first, tenant: "b" }, 2],
    ["another deadline: the same", { ...first, deadline: "1 minute" }, 1],
    ["other metadata, where the provider may read it: different", { ...first, metadata: { trace: "2" } }, 2]
  ])("I10 %s", ([, second, calls]) =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([always(succeeds)], { ...replay, timeout: timers })
      yield* ask(kind, r.client, first)
      yield* ask(kind, r.client, second)
      assert.strictEqual((yield* r.calls()).length, calls)
    })))

  it.effect("I10 a key is its tenant's own", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([always(succeeds)], keyed)
      yield* ask(kind, r.client, { prompt: "P", idempotencyKey: "k", tenant: "a" })
      const other = yield* ask(kind, r.client, { prompt: "P′", idempotencyKey: "k", tenant: "b" })
      assert.strictEqual(other.source, "provider")
      assert.strictEqual((yield* r.calls()).length, 2)
    })))

  it.effect("I10 complete and stream do not share keys", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([always(succeeds)], keyed)
      const request = { prompt: "P", idempotencyKey: "k" }
      yield* ask("complete", r.client, request)
      yield* ask("stream", r.client, request)
      assert.strictEqual((yield* r.calls()).length, 2)
    })))

  it.effect("I13 a hundred followers of a leader that fails finally: the same 503, three calls in total", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([always(overloads)], join)
      const calls = yield* callAtOnce(101, kind, r)
      yield* TestClock.adjust("1 minute")
      for (const call of calls) {
        assert.strictEqual(word(failure(over(call))), "Overloaded")
        assert.strictEqual(call.at(), 1125)
      }
      assert.deepStrictEqual(yield* r.calls(), [0, 375, 1125])
      yield* nothingHeld(r)
    })))

  it.effect("I14 a follower interrupted at 200 settles at 200, the leader is unaffected", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([always(slow)], join)
      const [a, b] = yield* callAtOnce(2, kind, r)
      yield* TestClock.adjust(200)
      yield* interrupt(b!)
      assertInterrupted(b!, 200)
      yield* TestClock.adjust("1 minute")
      assert.strictEqual(success(over(a!)).text, "Hello.")
      assert.strictEqual(a!.at(), 1000)
      assert.deepStrictEqual(yield* r.calls(), [0])
      yield* nothingHeld(r)
    })))

  describe("bugs other projects shipped", () => {
    it.effect("elizaOS#17602, undici#5711: the leader's abort is its own, also when the leader is in backoff", () =>
      vector(Effect.gen(function*() {
        const r = yield* setUp([{ script: [overloads], always: succeeds }], join)
        const [a, b] = yield* callAtOnce(2, kind, r)
        yield* TestClock.adjust(100)
        yield* interrupt(a!)
        assertInterrupted(a!, 100)
        yield* TestClock.adjust("1 minute")
        assert.strictEqual(success(over(b!)).text, "Hello.")
        yield* nothingHeld(r)
      })))

    it.effect("claude-code#87101: identical requests 13 ms apart are one call, where joining is on", () =>
      vector(Effect.gen(function*() {
        const r = yield* setUp([always(slow)], join)
        const a = yield* start(ask(kind, r.client))
        yield* TestClock.adjust(13)
        const b = yield* start(ask(kind, r.client))
        yield* TestClock.adjust("1 minute")
        assert.deepStrictEqual([a.at(), b.at()], [1000, 1000])
        assert.deepStrictEqual(yield* r.calls(), [0])
      })))

    it.effect("and two calls, with two keys, where it is off: who samples twice wants two answers", () =>
      vector(Effect.gen(function*() {
        const r = yield* setUp([[answer("A"), answer("B")]], { idempotency: {} })
        const texts = [(yield* ask(kind, r.client)).text, (yield* ask(kind, r.client)).text]
        assert.deepStrictEqual(texts, ["A", "B"])
        for (const { request } of yield* r.providers[0]!.requests) assert.isString(request.idempotencyKey)
      })))

    it.effect("undici#4817: a difference in any field that affects the answer is another answer", () =>
      vector(Effect.gen(function*() {
        const variants: ReadonlyArray<Partial<LlmRequest.Input>> = [
          {},
          { model: "m" },
          { maxTokens: 1 },
          { temperature: 0 },
          { topP: 0.5 },
          { stop: ["x"] },
          { seed: 1 },
          { tools: [{ name: "t", parameters: {} }] },
          { toolChoice: "none" },
          { responseFormat: { type: "json" } },
          { tenant: "a" }
        ]
        const r = yield* setUp([always(slow)], join)
        for (const variant of variants) yield* start(ask(kind, r.client, { prompt: "P", ...variant }))
        assert.strictEqual((yield* r.calls()).length, variants.length)
        yield* TestClock.adjust("1 minute")
        yield* nothingHeld(r)
      })))

    it.effect("axios-cache-interceptor#1149: after the leader's failure the followers do not ask one by one", () =>
      vector(Effect.gen(function*() {
        const r = yield* setUp([always({ ...overloads, delay: 10 })], { ...join, retry: false })
        const calls = yield* callAtOnce(20, kind, r)
        yield* TestClock.adjust("1 minute")
        assert.isTrue(calls.every((call) => call.at() === 10 && Exit.isFailure(over(call))))
        assert.deepStrictEqual(yield* r.calls(), [0])
      })))

    it.effect("axios-cache-interceptor#1149: nor after a defect of it, which is everybody's", () =>
      vector(Effect.gen(function*() {
        const r = yield* setUp([{ script: [{ ...die(new Error("a bug")), delay: 10 }], always: succeeds }], join)
        const calls = yield* callAtOnce(20, kind, r)
        yield* TestClock.adjust("1 minute")
        assert.isTrue(calls.every((call) => call.at() === 10 && Exit.hasDies(over(call))))
        assert.deepStrictEqual(yield* r.calls(), [0])
        yield* nothingHeld(r)
      })))

    it.effect("SwiftMail PR#181: the failure the followers get is the leader's, with a ledger of their own", () =>
      vector(Effect.gen(function*() {
        const r = yield* setUp([always({ ...overloads, delay: 10 })], { ...join, retry: false })
        const calls = yield* callAtOnce(2, kind, r)
        yield* TestClock.adjust("1 minute")
        const [a, b] = calls.map((call) => failure(over(call)))
        assert.deepStrictEqual(find(a!.ledger, "CallEnded").map((e) => e.call), [1])
        assert.deepStrictEqual(find(b!.ledger, "CallEnded").map((e) => e.call), [2])
        assert.deepStrictEqual(find(b!.ledger, "Idempotency").map((e) => e.result), ["joined"])
      })))
  })
})

describe("stream", () => {
  it.effect("a broken stream is not replayed: who waited gets its failure, who comes later asks again", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([[stream("a", { wait: 100 }, ScriptedProvider.cut), succeeds]], keyed)
      const request = { prompt: "P", idempotencyKey: "k" }
      const a = yield* start(ask("stream", r.client, request))
      const b = yield* start(ask("stream", r.client, request))
      yield* TestClock.adjust(100)
      yield* settle
      for (const call of [a, b]) assert.strictEqual(word(failure(over(call))), "StreamInterrupted truncated")
      assert.strictEqual((yield* ask("stream", r.client, request)).source, "provider")
      assert.strictEqual((yield* r.calls()).length, 2)
      yield* nothingHeld(r)
    })))
})

// -----------------------------------------------------------------------------
// several processes: clients that share nothing but a store
// -----------------------------------------------------------------------------

const shared = (options: LlmConfig.IdempotencyOptions = {}) =>
  Effect.map(Store.memory<string>({ maxEntries: 100 }), (store) => ({
    store,
    options: { timeout: timers, idempotency: { lease: "240 seconds", ...options } } satisfies LlmConfig.Options
  }))

/** What is left of a process that is gone: it has taken a lease, and nothing comes after. */
const gone = (store: Store.LeaseStore<string>): Store.LeaseStore<string> => ({
  ...store,
  renew: () => Effect.succeed(true),
  complete: () => Effect.succeed(false),
  release: () => Effect.void
})
const hangs = { ...succeeds, delay: 1e9 }

const order = { prompt: "P", idempotencyKey: "k" }

describe.each(kinds)("%s, several processes", (kind) => {
  const askAt = (r: SetUp, at: number) => start(Effect.delay(ask(kind, r.client, { ...order, deadline: "1 hour" }), at))

  it.effect("I11 process 1 dies holding the lease at 0: process 2 waits at 239 999 and executes at 240 000", () =>
    vector(Effect.gen(function*() {
      const { options, store } = yield* shared()
      const one = yield* setUp([always(hangs)], options).pipe(recordsIn(gone(store)))
      const two = yield* setUp([always(succeeds)], options).pipe(recordsIn(store))
      yield* askAt(one, 0)
      const b = yield* askAt(two, 1)
      yield* TestClock.adjust(239_999)
      assert.isUndefined(b.exit())
      assert.deepStrictEqual(yield* two.calls(), [])
      yield* TestClock.adjust(1)
      assert.strictEqual(success(over(b)).source, "provider")
      assert.deepStrictEqual([b.at(), yield* two.calls()], [240_000, [240_000]])
    })))

  it.effect("I11 without the time to see the end of the lease: IdempotencyInProgress, which says how long it lasts", () =>
    vector(Effect.gen(function*() {
      const { options, store } = yield* shared()
      const one = yield* setUp([always(hangs)], options).pipe(recordsIn(gone(store)))
      const two = yield* setUp([always(succeeds)], options).pipe(recordsIn(store))
      const a = yield* askAt(one, 0)
      const calls = yield* Effect.forEach(
        ["10 seconds", "3 seconds"] as const,
        (deadline) => start(ask(kind, two.client, { ...order, deadline }))
      )
      yield* TestClock.adjust("1 minute")
      for (const [i, call] of calls.entries()) {
        const error = failure(over(call))
        if (error._tag !== "IdempotencyInProgress") throw error
        assert.strictEqual(call.at()! + millis(error.retryAfter)!, 240_000)
        // No look that would come too late is waited for.
        const deadline = [10_000, 3000][i]!
        assert.isAbove(call.at()!, deadline - 1000)
        assert.isAtMost(call.at()!, deadline)
      }
      assert.deepStrictEqual(yield* two.calls(), [])
      yield* interrupt(a)
      yield* nothingHeld(two)
    })))

  // With the draw of the vectors the second look is at 38, the third one at 113.
  it.effect.each([[38, 0], [39, 38], [113, 38], [114, 113]])(
    "I11 a deadline of %d: no look that is due then is waited for, so it ends at %d",
    ([deadline, at]) =>
      vector(Effect.gen(function*() {
        const { options, store } = yield* shared()
        const one = yield* setUp([always(hangs)], options).pipe(recordsIn(gone(store)))
        const two = yield* setUp([always(succeeds)], options).pipe(recordsIn(store))
        yield* askAt(one, 0)
        const call = yield* start(ask(kind, two.client, { ...order, deadline }))
        yield* TestClock.adjust("1 minute")
        assert.strictEqual(word(failure(over(call))), "IdempotencyInProgress")
        assert.strictEqual(call.at(), at)
      }))
  )

  it.effect("I11 the late record of process 1 is fenced off, and its own caller has its own answer", () =>
    vector(Effect.gen(function*() {
      const { options, store } = yield* shared()
      const late = { ...answer("late"), delay: 241_000 }
      const one = yield* setUp([always(late)], {
        ...options,
        timeout: { ...timers, attempt: "299 seconds", firstToken: "299 seconds" }
        // Its renewals do not arrive.
      }).pipe(recordsIn({ ...store, renew: () => Effect.succeed(true) }))
      const two = yield* setUp([always(answer("second"))], options).pipe(recordsIn(store))
      const a = yield* askAt(one, 0)
      const b = yield* askAt(two, 1)
      yield* TestClock.adjust(241_000)
      assert.deepStrictEqual([success(over(a)).text, a.at()], ["late", 241_000])
      assert.deepStrictEqual([success(over(b)).text, b.at()], ["second", 240_000])
      for (const r of [one, two]) {
        const again = yield* ask(kind, r.client, order)
        assert.deepStrictEqual([again.source, again.text, ageOf(again)], ["replay", "second", 1000])
        yield* nothingHeld(r)
      }
    })))

  it.effect("two processes ask at once: one call, and the same answer for both, as it was recorded", () =>
    vector(Effect.gen(function*() {
      const { options, store } = yield* shared()
      const one = yield* setUp([always(slow)], options).pipe(recordsIn(store))
      const two = yield* setUp([always(slow)], options).pipe(recordsIn(store))
      const calls = [...yield* callAtOnce(10, kind, one, order), ...yield* callAtOnce(10, kind, two, order)]
      yield* TestClock.adjust("1 minute")
      assert.deepStrictEqual([yield* one.calls(), yield* two.calls()], [[0], []])
      const [first] = calls.map((call) => success(over(call)))
      for (const call of calls) {
        const { ledger: _, ...response } = success(over(call))
        const { ledger: __, ...expected } = first!
        const here = calls.indexOf(call) < 10
        const { source } = response
        assert.strictEqual(source, call === calls[0] ? "provider" : "replay")
        assert.deepStrictEqual({ ...response, source, age: 0 }, { ...expected, source, age: 0 })
        // Looks are at 38, 113, 263, 563, 1163: half a second, a second, … with the draw of the vectors.
        assert.strictEqual(call.at(), here ? 1000 : 1163)
      }
      yield* nothingHeld(one)
      yield* nothingHeld(two)
    })))

  it.effect("I9 a refusal crosses over with its class, and without the provider's own text", () =>
    vector(Effect.gen(function*() {
      const { options, store } = yield* shared()
      const detail = Redacted.make("the prompt, echoed")
      const refusal = new LlmError.ProviderError({
        provider: "p",
        reason: { _tag: "InvalidRequest" },
        status: 400,
        code: "bad",
        requestId: "r-1",
        detail
      })
      const one = yield* setUp([always(failing(refusal))], options).pipe(recordsIn(store))
      const two = yield* setUp([always(succeeds)], options).pipe(recordsIn(store))
      yield* Effect.flip(ask(kind, one.client, order))
      const error = yield* Effect.flip(ask(kind, two.client, order))
      const { ledger: _, ...fields } = error as LlmError.ProviderError
      const { ledger: __, detail: ___, ...expected } = refusal
      assert.instanceOf(error, LlmError.ProviderError)
      assert.deepStrictEqual(fields, expected)
      assert.deepStrictEqual(yield* two.calls(), [])
    })))

  it.effect("an answer with fields that are there but undefined crosses over", () =>
    vector(Effect.gen(function*() {
      const { options, store } = yield* shared()
      const parts = [
        { type: "text", text: "Hello.", metadata: undefined },
        { type: "finish", reason: "stop", usage: { inputTokens: { total: undefined }, outputTokens: { total: 3 } } }
      ] as unknown as ReadonlyArray<LlmResponse.Part>
      const one = yield* setUp([always(answer(parts))], options).pipe(recordsIn(store))
      const two = yield* setUp([always(succeeds)], options).pipe(recordsIn(store))
      const [a, b] = [yield* ask(kind, one.client, order), yield* ask(kind, two.client, order)]
      for (const { ledger } of [a, b]) {
        assert.notInclude(find(ledger, "Idempotency").map(({ result }) => result), "unavailable")
      }
      assert.deepStrictEqual([b.source, b.text, b.parts], ["replay", "Hello.", a.parts])
    })))

  it.effect("I8 a failure is not recorded: the other process makes its own call at its next look", () =>
    vector(Effect.gen(function*() {
      const { options, store } = yield* shared()
      const one = yield* setUp([always({ ...overloads, delay: 100 })], { ...options, retry: false }).pipe(
        recordsIn(store)
      )
      const two = yield* setUp([always(succeeds)], options).pipe(recordsIn(store))
      const a = yield* askAt(one, 0)
      const b = yield* askAt(two, 1)
      yield* TestClock.adjust("1 minute")
      assert.strictEqual(word(failure(over(a))), "Overloaded")
      assert.strictEqual(success(over(b)).source, "provider")
      assert.deepStrictEqual(yield* two.calls(), [1 + 38 + 75])
      yield* nothingHeld(two)
    })))

  it.effect("a process that is interrupted gives its lease back", () =>
    vector(Effect.gen(function*() {
      const { options, store } = yield* shared()
      const one = yield* setUp([always(slow)], options).pipe(recordsIn(store))
      const two = yield* setUp([always(slow)], options).pipe(recordsIn(store))
      const a = yield* askAt(one, 0)
      const b = yield* askAt(two, 1)
      yield* TestClock.adjust(50)
      yield* interrupt(a)
      assertInterrupted(a, 50)
      yield* TestClock.adjust("1 minute")
      assert.deepStrictEqual([success(over(b)).source, b.at()], ["provider", 1114])
      yield* nothingHeld(one)
      yield* nothingHeld(two)
    })))

  it.effect("I6 a key of another process, with another prompt: IdempotencyConflict, no call", () =>
    vector(Effect.gen(function*() {
      const { options, store } = yield* shared()
      const one = yield* setUp([always(slow)], options).pipe(recordsIn(store))
      const two = yield* setUp([always(succeeds)], options).pipe(recordsIn(store))
      const a = yield* askAt(one, 0)
      const b = yield* start(ask(kind, two.client, { ...order, prompt: "P′" }))
      yield* TestClock.adjust("1 minute")
      assert.strictEqual(success(over(a)).text, "Hello.")
      const error = failure(over(b))
      assert.strictEqual(error._tag, "IdempotencyConflict")
      assert.strictEqual((error as LlmError.IdempotencyConflict).keyHash, "8254c329a92850f6") // SHA-256 of "k"
      assert.deepStrictEqual(yield* two.calls(), [])
    })))

  it.effect("nothing readable but the answer reaches the store: keys, tenants and questions are hashed", () =>
    vector(Effect.gen(function*() {
      const seen: Array<string> = []
      const { store } = yield* shared()
      const watched: Store.LeaseStore<string> = {
        ...store,
        acquire: (key, lease) => {
          seen.push(key)
          return store.acquire(key, lease)
        },
        complete: (key, fence, value, options) => {
          seen.push(key, value)
          return store.complete(key, fence, value, options)
        }
      }
      for (const derive of [false, "replay"] as const) {
        const r = yield* setUp([always(succeeds)], { idempotency: { derive } }).pipe(recordsIn(watched))
        yield* ask(kind, r.client, {
          prompt: "a secret question",
          tenant: "secret tenant",
          ...(derive === false ? { idempotencyKey: "secret key" } : undefined)
        })
      }
      assert.strictEqual(seen.length, 6)
      assert.include(seen[2], "Hello.")
      for (const text of seen) assert.notInclude(text, "secret")
      for (const key of [seen[0]!, seen[3]!]) assert.match(key, /^[0-9a-f]{64}$/)
    })))

  it.effect("what is only joined is no business of other processes", () =>
    vector(Effect.gen(function*() {
      const { store } = yield* shared()
      const silent: Store.LeaseStore<string> = { ...store, acquire: () => Effect.die("asked") }
      const r = yield* setUp([always(succeeds)], { idempotency: { derive: "join" } }).pipe(recordsIn(silent))
      const { ledger } = yield* ask(kind, r.client)
      assert.deepStrictEqual(find(ledger, "Idempotency").map(({ result }) => result), ["led"])
    })))

  it.effect.each(["acquire", "complete"] as const)(
    "I12 the store fails to %s: the call goes on, one event",
    (operation) =>
      vector(Effect.gen(function*() {
        const { options, store } = yield* shared()
        const broken = { ...store, [operation]: () => Effect.fail(new Store.StoreError({ operation })) }
        const r = yield* setUp([always(succeeds)], { ...options, idempotency: {} }).pipe(recordsIn(broken))
        for (let i = 1; i <= 2; i++) {
          const { ledger, source } = yield* ask(kind, r.client, { ...order, idempotencyKey: `k${i}` })
          assert.strictEqual(source, "provider")
          const events = find(ledger, "Idempotency").map(({ result }) => result)
          assert.deepStrictEqual(events.toSorted(), ["led", "unavailable"])
        }
        yield* nothingHeld(r)
      }))
  )

  it.effect("I12 a record that cannot be read is a store that failed", () =>
    vector(Effect.gen(function*() {
      const { options, store } = yield* shared()
      const foreign: Store.LeaseStore<string> = {
        ...store,
        acquire: () =>
          Effect.succeed({ _tag: "Found", value: "{\"_tag\":\"Success\",\"of\":\"another version\"}", age: 0 })
      }
      const r = yield* setUp([always(succeeds)], { ...options, idempotency: {} }).pipe(recordsIn(foreign))
      const { ledger, source } = yield* ask(kind, r.client, order)
      assert.strictEqual(source, "provider")
      assert.include(find(ledger, "Idempotency").map(({ result }) => result), "unavailable")
    })))

  it.effect.each(["acquire", "complete", "both"] as const)(
    "P7 a store that hangs in %s: the call is answered after 100 ms, and the next one does not wait",
    (operation) =>
      vector(Effect.gen(function*() {
        const { options, store } = yield* shared()
        const hanging: Store.LeaseStore<string> = {
          ...store,
          ...(operation === "complete" ? undefined : { acquire: () => Effect.never }),
          ...(operation === "acquire" ? undefined : { complete: () => Effect.never }),
          get: () => Effect.never
        }
        const r = yield* setUp([always(succeeds)], { ...options, idempotency: {} }).pipe(recordsIn(hanging))
        for (const [i, expected] of [100, 0].entries()) {
          const begun = yield* now
          const call = yield* start(ask(kind, r.client, { ...order, idempotencyKey: `k${i}`, deadline: 500 }))
          yield* TestClock.adjust(200)
          const { ledger, source } = success(over(call))
          assert.deepStrictEqual([source, call.at()! - begun], ["provider", expected])
          const events = find(ledger, "Idempotency").map(({ result }) => result)
          assert.deepStrictEqual(events.toSorted(), ["led", "unavailable"])
        }
        assert.strictEqual(yield* r.providers[0]!.active, 0)
      }))
  )

  it.effect("P7 a caller whose answer cannot be recorded can be interrupted", () =>
    vector(Effect.gen(function*() {
      const { options, store } = yield* shared()
      const hanging: Store.LeaseStore<string> = { ...store, complete: () => Effect.never }
      const r = yield* setUp([always(succeeds)], { ...options, idempotency: {} }).pipe(recordsIn(hanging))
      const call = yield* start(ask(kind, r.client, order))
      yield* TestClock.adjust(50)
      yield* fork(Fiber.interrupt(call.fiber))
      yield* TestClock.adjust(50)
      assert.strictEqual(call.at(), 100)
    })))

  it.effect.each([0, -1, NaN, undefined as unknown as number, Infinity])(
    "a store that says Held for %s ms is asked like one that gives no end",
    (left) =>
      vector(Effect.gen(function*() {
        const { options, store } = yield* shared()
        let asked = 0
        const stuck: Store.LeaseStore<string> = {
          ...store,
          acquire: () =>
            Effect.sync(() => {
              asked += 1
              return { _tag: "Held", left }
            })
        }
        const r = yield* setUp([always(succeeds)], { ...options, idempotency: {} }).pipe(recordsIn(stuck))
        const call = yield* start(ask(kind, r.client, { ...order, deadline: "60 seconds" }))
        yield* TestClock.adjust("61 seconds")
        assert.strictEqual(word(failure(over(call))), "IdempotencyInProgress")
        assert.isBelow(asked, 100)
      }))
  )

  it.effect("a store that says the lease ends soon, again and again, is asked a hundred times a minute at most", () =>
    vector(Effect.gen(function*() {
      const { options, store } = yield* shared()
      let asked = 0
      const stuck: Store.LeaseStore<string> = {
        ...store,
        acquire: () =>
          Effect.sync(() => {
            asked += 1
            return { _tag: "Held", left: 0.01 }
          })
      }
      const r = yield* setUp([always(succeeds)], { ...options, idempotency: {} }).pipe(recordsIn(stuck))
      yield* start(ask(kind, r.client, { ...order, deadline: "60 seconds" }))
      yield* TestClock.adjust("61 seconds")
      assert.isBelow(asked, 150)
    })))

  it.effect("a lease is renewed while its call goes on, and ends soon after its process", () =>
    vector(Effect.gen(function*() {
      const { options, store } = yield* shared({ lease: "15 seconds" })
      const renewed: Array<number> = []
      let lives = true
      const watched: Store.LeaseStore<string> = {
        ...store,
        renew: (key, fence, lease) =>
          Effect.tap(
            lives ? store.renew(key, fence, lease) : Effect.succeed(true),
            () => Effect.map(now, (at) => renewed.push(at))
          )
      }
      const one = yield* setUp([always({ ...succeeds, delay: 62_000 })], options).pipe(recordsIn(watched))
      const two = yield* setUp([always(succeeds)], options).pipe(recordsIn(store))
      yield* askAt(one, 0)
      const b = yield* askAt(two, 1)
      yield* TestClock.adjust(61_000)
      assert.deepStrictEqual(renewed, Array.from({ length: 12 }, (_, i) => 5000 * (i + 1)))
      assert.isUndefined(b.exit())
      lives = false
      yield* TestClock.adjust(999)
      assert.isUndefined(b.exit())
      yield* TestClock.adjust(5000)
      const { source } = success(over(b))
      assert.deepStrictEqual([source, yield* two.calls()], ["replay", []])
      assert.isAtMost(renewed.at(-1)!, 62_000)
    })))

  it.effect("a renewal that fails is tried again until the lease ends, and the answer is still recorded", () =>
    vector(Effect.gen(function*() {
      const { options, store } = yield* shared({ lease: "15 seconds" })
      const asked: Array<number> = []
      const broken: Store.LeaseStore<string> = {
        ...store,
        renew: () =>
          Effect.andThen(
            Effect.map(now, (at) => asked.push(at)),
            Effect.fail(new Store.StoreError({ operation: "renew", reason: "too-large" }))
          )
      }
      const one = yield* setUp([always({ ...succeeds, delay: 20_000 })], options).pipe(recordsIn(broken))
      const a = yield* askAt(one, 0)
      yield* TestClock.adjust(21_000)
      assert.strictEqual(success(over(a)).source, "provider")
      assert.deepStrictEqual(asked, Array.from({ length: 11 }, (_, i) => 5000 + 1000 * i))
      const two = yield* setUp([always(succeeds)], options).pipe(recordsIn(store))
      assert.strictEqual((yield* ask(kind, two.client, order)).source, "replay")
    })))

  it.effect("a record that cannot be read is replaced: paid once more, not for a day", () =>
    vector(Effect.gen(function*() {
      const { options, store } = yield* shared()
      let key = ""
      const watched: Store.LeaseStore<string> = {
        ...store,
        acquire: (asked, lease, how) => {
          key = asked
          return store.acquire(asked, lease, how)
        }
      }
      const r = yield* setUp([always(succeeds)], { ...options, idempotency: {} }).pipe(recordsIn(watched))
      yield* ask(kind, r.client, order)
      for (const garbage of ["no JSON", "{\"_tag\":\"Success\",\"of\":\"another version\"}"]) {
        yield* store.set(key, garbage, { ttl: 86_400_000 })
        const calls = yield* callAtOnce(5, kind, r, order)
        yield* settle
        assert.strictEqual(calls.filter((call) => success(over(call)).source === "provider").length, 1)
        assert.strictEqual((yield* ask(kind, r.client, order)).source, "replay")
      }
      assert.strictEqual((yield* r.calls()).length, 3)
    })))

  it.effect("E14 two clients share what they record if and only if they share the store", () =>
    vector(Effect.gen(function*() {
      const sources = (a: SetUp, b: SetUp) =>
        Effect.map(Effect.forEach([a, b], (r) => ask(kind, r.client, order)), (all) => all.map(({ source }) => source))
      const one = yield* shared()
      const other = yield* shared()
      const alone = { idempotency: {} }
      const make = ({ options, store }: Effect.Success<ReturnType<typeof shared>>) =>
        setUp([always(succeeds)], options).pipe(recordsIn(store))
      assert.deepStrictEqual(
        yield* sources(yield* setUp([always(succeeds)], alone), yield* setUp([always(succeeds)], alone)),
        [
          "provider",
          "provider"
        ]
      )
      const [a, b, c] = [yield* make(one), yield* make(one), yield* make(other)]
      assert.deepStrictEqual(yield* sources(a, b), ["provider", "replay"])
      assert.deepStrictEqual(yield* sources(c, b), ["provider", "replay"])
    })))
})

describe("the lease", () => {
  it.effect.each<[string, LlmConfig.Options, number]>([
    [
      "fifteen seconds, whatever a call may take",
      { timeout: { attempt: "20 seconds", deadline: "5 minutes" } },
      15_000
    ],
    ["what is said", { timeout: {}, idempotency: { lease: "9 seconds" } }, 9000]
  ])("%s", ([, options, expected]) =>
    vector(Effect.gen(function*() {
      const leases: Array<number> = []
      const memory = yield* Store.memory<string>({ maxEntries: 10 })
      const store: Store.LeaseStore<string> = {
        ...memory,
        acquire: (key, lease) => {
          leases.push(lease)
          return memory.acquire(key, lease)
        }
      }
      const r = yield* setUp([always(succeeds)], { idempotency: {}, ...options }).pipe(recordsIn(store))
      yield* ask("complete", r.client, order)
      assert.deepStrictEqual(leases, [expected])
    })))

  it.effect.each([[{ lease: 0 }], [{ lease: Infinity }], [{ lease: "soon" }]])(
    "refuses %o",
    ([idempotency]) =>
      Effect.gen(function*() {
        const error = yield* Effect.flip(Effect.scoped(setUp([always(succeeds)], { idempotency } as LlmConfig.Options)))
        // A lease is checked also where no store uses it.
        assert.strictEqual(error.path, "idempotency.lease")
      })
  )

  it.effect("a store comes through the Context: no option names one", () =>
    Effect.gen(function*() {
      const error = yield* Effect.flip(LlmConfig.fromJson({ idempotency: { store: "redis://localhost" } }))
      assert.strictEqual(error.path, "idempotency.store")
      assert.deepStrictEqual(yield* LlmConfig.fromJson({ idempotency: { lease: 1000 } }), {
        idempotency: { lease: 1000 }
      })
    }))
})
