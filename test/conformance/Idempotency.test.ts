import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Fiber } from "effect"
import type { LlmRequest } from "effect-resilient-llm"
import { type Store, StoreError } from "effect-resilient-llm/persistence/Store"
import * as Idempotency from "effect-resilient-llm/resilience/Idempotency"
import { ScriptedProvider } from "effect-resilient-llm/testing"
import { TestClock } from "effect/testing"
import { ask, failure, kinds, nothingHeld, rig, success, timed, vector } from "../support.ts"
import {
  ageOf,
  always,
  assertInterrupted,
  badRequest,
  crowd,
  F,
  find,
  interrupt,
  over,
  S,
  settle,
  start,
  timers,
  unauthorized,
  word
} from "./support.ts"

const { answer, die, stream } = ScriptedProvider

const slow = { ...S, delay: 1000 }
const join = { idempotency: { derive: "join" } } as const
const replay = { idempotency: { derive: "replay" } } as const
const keyed = { idempotency: { ttl: "24 hours" } } as const

describe.each(kinds)("%s", (kind) => {
  it.effect("I1 a hundred equal requests: one call, a hundred equal results at 1000", () =>
    vector(Effect.gen(function*() {
      const r = yield* rig([always(slow)], join)
      const calls = yield* crowd(100, kind, r)
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

  // A stream is read by its first caller. When that one leaves, the first waiter makes its own call and the others
  // join it (ARCHITECTURE §5): one call more, and results a second later.
  const expected = kind === "complete" ? { calls: [0], at: 1000 } : { calls: [0, 500], at: 1500 }

  it.effect(`I2 the first caller is interrupted at 500: the others succeed at ${expected.at}`, () =>
    vector(Effect.gen(function*() {
      const r = yield* rig([always(slow)], join)
      const [first, ...others] = yield* crowd(100, kind, r)
      yield* TestClock.adjust(500)
      yield* interrupt(first!)
      assertInterrupted(first!, 500)
      yield* TestClock.adjust("1 minute")
      for (const call of others) {
        assert.strictEqual(success(over(call)).text, "Hello.")
        assert.strictEqual(call.at(), expected.at)
      }
      assert.deepStrictEqual(yield* r.calls(), expected.calls)
      yield* nothingHeld(r)
    })))

  it.effect("I3 all three callers are interrupted at 500: so is the transport, and nothing is stored", () =>
    vector(Effect.gen(function*() {
      const r = yield* rig([always(slow)], replay)
      const calls = yield* crowd(3, kind, r)
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
      const r = yield* rig([always(slow)], replay)
      const calls = yield* crowd(3, kind, r)
      yield* TestClock.adjust(500)
      yield* Fiber.interruptAll(calls.map(({ fiber }) => fiber))
      for (const call of calls) assertInterrupted(call, 500)
      assert.deepStrictEqual(yield* r.calls(), [0])
      yield* nothingHeld(r)
    })))

  it.effect("I4 the last waiter leaves at 500 and another comes at 500: it gets an answer, not the abort", () =>
    vector(Effect.gen(function*() {
      const r = yield* rig([always(slow)], join)
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
      const r = yield* rig([[{ ...slow, cleanup: 300 }, slow]], join)
      const first = yield* start(ask(kind, r.client))
      yield* TestClock.adjust(500)
      yield* interrupt(first)
      yield* TestClock.adjust(100)
      const second = yield* start(ask(kind, r.client))
      yield* TestClock.adjust("1 minute")
      assertInterrupted(first, 800)
      // A whole answer belongs to nobody, and is given up at once; a stream's leader leaves when its cleanup is over.
      assert.strictEqual(second.at(), kind === "complete" ? 1600 : 1800)
      assert.strictEqual(success(over(second)).text, "Hello.")
      yield* nothingHeld(r)
    })))

  it.effect("I5 a joined caller keeps its own deadline of 300, the leader is unaffected", () =>
    vector(Effect.gen(function*() {
      const r = yield* rig([always(slow)], { ...join, timeout: timers })
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
      const r = yield* rig([always(slow)], { ...join, timeout: timers })
      const a = yield* start(ask(kind, r.client, { prompt: "Hi", deadline: 300 }))
      const b = yield* start(ask(kind, r.client, { prompt: "Hi" }))
      yield* TestClock.adjust("1 minute")
      assert.strictEqual(word(failure(over(a))), "DeadlineExceeded")
      assert.strictEqual(a.at(), 300)
      assert.strictEqual(success(over(b)).text, "Hello.")
      // A whole answer goes on for who is left; a stream is asked for again.
      assert.strictEqual(b.at(), kind === "complete" ? 1000 : 1300)
      yield* nothingHeld(r)
    })))

  it.effect("I6 a key stored for one prompt, asked with another: IdempotencyConflict, no call", () =>
    vector(Effect.gen(function*() {
      const r = yield* rig([always(S)], keyed)
      yield* ask(kind, r.client, { prompt: "P", idempotencyKey: "k" })
      const error = yield* Effect.flip(ask(kind, r.client, { prompt: "P′", idempotencyKey: "k" }))
      assert.strictEqual(error._tag, "IdempotencyConflict")
      assert.notInclude(JSON.stringify(error), "\"k\"")
      assert.deepStrictEqual(yield* r.calls(), [0])
      yield* nothingHeld(r)
    })))

  it.effect("I6 also while the first is in flight, which goes on", () =>
    vector(Effect.gen(function*() {
      const r = yield* rig([always(slow)], keyed)
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
        const r = yield* rig([always(S)], keyed)
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
        const r = yield* rig([always(S)], options)
        const first = yield* ask(kind, r.client)
        const second = yield* ask(kind, r.client)
        assert.strictEqual(`${first.source} ${second.source}`, sources)
      }
    })))

  it.effect("I8 a 503 is not kept: the repetition is executed", () =>
    vector(Effect.gen(function*() {
      const r = yield* rig([[F, S]], { ...keyed, retry: false })
      const request = { prompt: "P", idempotencyKey: "k" }
      assert.strictEqual(word(yield* Effect.flip(ask(kind, r.client, request))), "Overloaded")
      assert.strictEqual((yield* ask(kind, r.client, request)).source, "provider")
      assert.deepStrictEqual(yield* r.calls(), [0, 0])
      yield* nothingHeld(r)
    })))

  it.effect("I9 a 400 under a given key: the same typed error again, no call", () =>
    vector(Effect.gen(function*() {
      const r = yield* rig([[badRequest, S]], keyed)
      const request = { prompt: "P", idempotencyKey: "k" }
      for (let i = 0; i < 3; i++) {
        assert.strictEqual(word(yield* Effect.flip(ask(kind, r.client, request))), "InvalidRequest")
      }
      assert.deepStrictEqual(yield* r.calls(), [0])
      yield* nothingHeld(r)
    })))

  it.effect("I9 without a key it is asked again, and so is any other failure under a key", () =>
    vector(Effect.gen(function*() {
      const derived = yield* rig([[badRequest, S]], replay)
      assert.strictEqual(word(yield* Effect.flip(ask(kind, derived.client))), "InvalidRequest")
      assert.strictEqual((yield* ask(kind, derived.client)).source, "provider")
      const r = yield* rig([[unauthorized, S]], keyed)
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
    ["another deadline, metadata: the same", { ...first, deadline: "1 minute", metadata: { trace: "2" } }, 1]
  ])("I10 %s", ([, second, calls]) =>
    vector(Effect.gen(function*() {
      const r = yield* rig([always(S)], { ...replay, timeout: timers })
      yield* ask(kind, r.client, first)
      yield* ask(kind, r.client, second)
      assert.strictEqual((yield* r.calls()).length, calls)
    })))

  it.effect("I10 a key is its tenant's own", () =>
    vector(Effect.gen(function*() {
      const r = yield* rig([always(S)], keyed)
      yield* ask(kind, r.client, { prompt: "P", idempotencyKey: "k", tenant: "a" })
      const other = yield* ask(kind, r.client, { prompt: "P′", idempotencyKey: "k", tenant: "b" })
      assert.strictEqual(other.source, "provider")
      assert.strictEqual((yield* r.calls()).length, 2)
    })))

  it.effect("I10 complete and stream do not share keys", () =>
    vector(Effect.gen(function*() {
      const r = yield* rig([always(S)], keyed)
      const request = { prompt: "P", idempotencyKey: "k" }
      yield* ask("complete", r.client, request)
      yield* ask("stream", r.client, request)
      assert.strictEqual((yield* r.calls()).length, 2)
    })))

  it.effect("I13 a hundred followers of a leader that fails finally: the same 503, three calls in total", () =>
    vector(Effect.gen(function*() {
      const r = yield* rig([always(F)], join)
      const calls = yield* crowd(101, kind, r)
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
      const r = yield* rig([always(slow)], join)
      const [a, b] = yield* crowd(2, kind, r)
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
        const r = yield* rig([{ script: [F], always: S }], join)
        const [a, b] = yield* crowd(2, kind, r)
        yield* TestClock.adjust(100)
        yield* interrupt(a!)
        assertInterrupted(a!, 100)
        yield* TestClock.adjust("1 minute")
        assert.strictEqual(success(over(b!)).text, "Hello.")
        yield* nothingHeld(r)
      })))

    it.effect("claude-code#87101: identical requests 13 ms apart are one call, where joining is on", () =>
      vector(Effect.gen(function*() {
        const r = yield* rig([always(slow)], join)
        const a = yield* start(ask(kind, r.client))
        yield* TestClock.adjust(13)
        const b = yield* start(ask(kind, r.client))
        yield* TestClock.adjust("1 minute")
        assert.deepStrictEqual([a.at(), b.at()], [1000, 1000])
        assert.deepStrictEqual(yield* r.calls(), [0])
      })))

    it.effect("and two calls, with two keys, where it is off: who samples twice wants two answers", () =>
      vector(Effect.gen(function*() {
        const r = yield* rig([[answer("A"), answer("B")]], { idempotency: {} })
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
        const r = yield* rig([always(slow)], join)
        for (const variant of variants) yield* start(ask(kind, r.client, { prompt: "P", ...variant }))
        assert.strictEqual((yield* r.calls()).length, variants.length)
        yield* TestClock.adjust("1 minute")
        yield* nothingHeld(r)
      })))

    it.effect("axios-cache-interceptor#1149: after the leader's failure the followers do not ask one by one", () =>
      vector(Effect.gen(function*() {
        const r = yield* rig([always({ ...F, delay: 10 })], { ...join, retry: false })
        const calls = yield* crowd(20, kind, r)
        yield* TestClock.adjust("1 minute")
        assert.isTrue(calls.every((call) => call.at() === 10 && Exit.isFailure(over(call))))
        assert.deepStrictEqual(yield* r.calls(), [0])
      })))

    it.effect("axios-cache-interceptor#1149: nor after a defect of it, which is everybody's", () =>
      vector(Effect.gen(function*() {
        const r = yield* rig([{ script: [{ ...die(new Error("a bug")), delay: 10 }], always: S }], join)
        const calls = yield* crowd(20, kind, r)
        yield* TestClock.adjust("1 minute")
        assert.isTrue(calls.every((call) => call.at() === 10 && Exit.hasDies(over(call))))
        assert.deepStrictEqual(yield* r.calls(), [0])
        yield* nothingHeld(r)
      })))

    it.effect("SwiftMail PR#181: the failure the followers get is the leader's, with a ledger of their own", () =>
      vector(Effect.gen(function*() {
        const r = yield* rig([always({ ...F, delay: 10 })], { ...join, retry: false })
        const calls = yield* crowd(2, kind, r)
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
      const r = yield* rig([[stream("a", { wait: 100 }, ScriptedProvider.cut), S]], keyed)
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

// The pipeline has only its memory so far; a store that can fail is given to the pattern itself.
describe("store", () => {
  const broken = (operation: "get" | "set"): Store<Idempotency.Stored<string, string>> => ({
    get: () => operation === "get" ? Effect.fail(new StoreError({ operation })) : Effect.undefined,
    set: () => operation === "set" ? Effect.fail(new StoreError({ operation })) : Effect.void,
    remove: () => Effect.void
  })

  it.effect.each(["get", "set"] as const)(
    "I12 the store fails to %s: the call proceeds, one event",
    (operation) =>
      Effect.gen(function*() {
        const reports: Array<string> = []
        let runs = 0
        const idempotency = yield* Idempotency.make<string, string>({
          store: broken(operation),
          onStoreError: (which) => reports.push(which)
        })
        const call = idempotency.run(
          { key: "k", fingerprint: "f" },
          () => Effect.sync(() => ({ value: `run ${++runs}`, store: true }))
        )
        const result = yield* call
        assert.deepInclude(result, { value: "run 1", how: "led", storeFailed: true })
        assert.deepStrictEqual(reports, [operation])
        assert.strictEqual((yield* call).value, "run 2")
      })
  )
})
