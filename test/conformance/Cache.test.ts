import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Scope } from "effect"
import type { LlmConfig, LlmRequest, LlmResponse } from "effect-resilient-llm"
import { type Store, StoreError } from "effect-resilient-llm/persistence/Store"
import * as ResponseCache from "effect-resilient-llm/resilience/ResponseCache"
import { ScriptedProvider } from "effect-resilient-llm/testing"
import { TestClock } from "effect/testing"
import { ask, failure, kinds, nothingHeld, type SetUp, setUp, success, timed, vector } from "../support.ts"
import {
  ageOf,
  always,
  assertInterrupted,
  badRequest,
  cache,
  callAtOnce,
  find,
  interrupt,
  over,
  overloads,
  settle,
  start,
  succeeds,
  tags,
  unauthorized,
  word
} from "./support.ts"

const { answer, fail, stream } = ScriptedProvider

/** A deterministic question: a fresh answer may be used. */
const question: LlmRequest.Input = { prompt: "What is AI?", temperature: 0 }

const old = answer("old")
const young = answer("new")

describe.each(kinds)("%s", (kind) => {
  /** A client with the answer "old" stored at 0. */
  const stored = (then: Parameters<typeof setUp>[0][0], options: LlmConfig.Options = {}) =>
    Effect.gen(function*() {
      const { always: otherwise, script = [] } = "always" in then ? then : { script: then, always: undefined }
      const scripts = otherwise === undefined ? [old, ...script] : { script: [old, ...script], always: otherwise }
      const r = yield* setUp([scripts], { retry: false, cache, ...options })
      assert.strictEqual((yield* ask(kind, r.client, question)).source, "provider")
      assert.deepStrictEqual(yield* r.calls(), [0])
      return r
    })

  const read = (r: SetUp, input: LlmRequest.Input = question) =>
    Effect.map(timed(ask(kind, r.client, input), 0), ({ at, exit }) => {
      assert.strictEqual(at, 0, "the answer came at once")
      return exit
    })

  const is = (exit: Exit.Exit<LlmResponseLike, unknown>, source: LlmResponse.Source, text: string, age: number) => {
    const response = success(exit)
    assert.deepStrictEqual([response.source, response.text, ageOf(response)], [source, text, age])
  }
  interface LlmResponseLike {
    readonly source: string
    readonly text: string
  }

  it.effect("A1 read at 0 and at 59 999: fresh, no call", () =>
    vector(Effect.gen(function*() {
      const r = yield* stored(always(young))
      is(yield* read(r), "cache", "old", 0)
      yield* TestClock.adjust(59_999)
      const exit = yield* read(r)
      is(exit, "cache", "old", 59_999)
      assert.deepStrictEqual(tags(success(exit).ledger), ["CallStarted", "Cache", "CallEnded"])
      assert.deepStrictEqual(yield* r.calls(), [0])
      yield* nothingHeld(r)
    })))

  it.effect.each([60_000, 89_999])(
    "A2 read at %d: the old answer at once, one background call, fresh from then",
    (at) =>
      vector(Effect.gen(function*() {
        const r = yield* stored([{ ...young, delay: 1000 }])
        yield* TestClock.adjust(at)
        is(yield* read(r), "cache", "old", at)
        yield* TestClock.adjust(1000)
        assert.deepStrictEqual(yield* r.calls(), [0, at])
        yield* TestClock.adjust(59_999)
        is(yield* read(r), "cache", "new", 59_999)
        assert.deepStrictEqual(yield* r.calls(), [0, at])
        yield* nothingHeld(r)
      }))
  )

  it.effect("A3 fifty reads at 60 000: one background call", () =>
    vector(Effect.gen(function*() {
      const r = yield* stored([{ ...young, delay: 1000 }])
      yield* TestClock.adjust(60_000)
      const calls = yield* callAtOnce(50, kind, r, question)
      yield* settle
      for (const call of calls) is(over(call), "cache", "old", 60_000)
      yield* TestClock.adjust(1000)
      assert.deepStrictEqual(yield* r.calls(), [0, 60_000])
      yield* nothingHeld(r)
    })))

  it.effect("A4 transport S, read at 90 000: a synchronous call, the live answer", () =>
    vector(Effect.gen(function*() {
      const r = yield* stored([{ ...young, delay: 1000 }])
      yield* TestClock.adjust(90_000)
      const { at, exit } = yield* timed(ask(kind, r.client, question), 1000)
      is(exit, "provider", "new", 0)
      assert.strictEqual(at, 1000)
      is(yield* read(r), "cache", "new", 0)
      assert.deepStrictEqual(yield* r.calls(), [0, 90_000])
      yield* nothingHeld(r)
    })))

  it.effect("A5 transport always F, read at 90 000: stale, its age, the error on the event", () =>
    vector(Effect.gen(function*() {
      const r = yield* stored(always(overloads))
      yield* TestClock.adjust(90_000)
      const exit = yield* read(r)
      is(exit, "stale", "old", 90_000)
      const events = find(success(exit).ledger, "Cache")
      assert.deepStrictEqual(events.map(({ age, error, result }) => [result, age, error?.reason, error?.status]), [
        ["miss", undefined, undefined, undefined],
        ["stale", 90_000, "Overloaded", 503]
      ])
      assert.deepStrictEqual(find(success(exit).ledger, "CallEnded").map((e) => e.outcome), ["stale"])
      assert.deepStrictEqual(yield* r.calls(), [0, 90_000])
      yield* nothingHeld(r)
    })))

  it.effect("A6 always F, read at 3 659 999 and at 3 660 000: stale, the error", () =>
    vector(Effect.gen(function*() {
      const r = yield* stored(always(overloads))
      yield* TestClock.adjust(3_659_999)
      is(yield* read(r), "stale", "old", 3_659_999)
      yield* TestClock.adjust(1)
      assert.strictEqual(word(failure(yield* read(r))), "Overloaded")
      yield* nothingHeld(r)
    })))

  it.effect.each<[string, ScriptedProvider.Step, string]>([
    ["401", unauthorized, "Authentication"],
    ["403", fail({ _tag: "Permission" }, { status: 403 }), "Permission"],
    ["400", badRequest, "InvalidRequest"],
    ["content policy", fail({ _tag: "ContentPolicy" }), "ContentPolicy"]
  ])("A7 always %s, read at 90 000: the error", ([, step, reason]) =>
    vector(Effect.gen(function*() {
      const r = yield* stored(always(step))
      yield* TestClock.adjust(90_000)
      assert.strictEqual(word(failure(yield* read(r))), reason)
      yield* nothingHeld(r)
    })))

  it.effect("A8 a background refresh F at 60 000: still the old answer; a later refresh after 1 s, not per read", () =>
    vector(Effect.gen(function*() {
      const r = yield* stored(always(overloads))
      yield* TestClock.adjust(60_000)
      is(yield* read(r), "cache", "old", 60_000)
      yield* TestClock.adjust(1)
      is(yield* read(r), "cache", "old", 60_001)
      yield* TestClock.adjust(998)
      is(yield* read(r), "cache", "old", 60_999)
      yield* settle
      assert.deepStrictEqual(yield* r.calls(), [0, 60_000])
      yield* TestClock.adjust(1)
      is(yield* read(r), "cache", "old", 61_000)
      yield* settle
      assert.deepStrictEqual(yield* r.calls(), [0, 60_000, 61_000])
      yield* TestClock.adjust(28_999)
      is(yield* read(r), "cache", "old", 89_999)
      yield* nothingHeld(r)
    })))

  it.effect("A9 an empty cache, a hundred concurrent misses: one call", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([always({ ...succeeds, delay: 1000 })], { cache, idempotency: { derive: "join" } })
      const calls = yield* callAtOnce(100, kind, r, question)
      yield* TestClock.adjust("1 minute")
      for (const call of calls) assert.strictEqual(success(over(call)).text, "Hello.")
      assert.deepStrictEqual(yield* r.calls(), [0])
      yield* nothingHeld(r)
    })))

  const usage = { inputTokens: { total: 1 }, outputTokens: { total: 1 } }
  const ends = (reason: "stop" | "length" | "content-filter" | "tool-calls" | "error" | "other" | "unknown") =>
    ({ type: "finish", reason, usage }) as const
  const says = { type: "text", text: "some" } as const

  it.effect.each<[string, ReadonlyArray<LlmResponse.Part>]>([
    ["finish reason length", [says, ends("length")]],
    ["finish reason content-filter", [says, ends("content-filter")]],
    ["finish reason error", [says, ends("error")]],
    ["empty, cut at its length", [ends("length")]],
    ["a tool call with a parse error", [
      { type: "tool-call", id: "1", name: "t", params: "{\"a\":", providerExecuted: false },
      ends("tool-calls")
    ]]
  ])("A10 %s: not stored", ([, parts]) =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([{ script: [answer(parts)], always: overloads }], { retry: false, cache })
      const exit = yield* read(r)
      assert.deepStrictEqual(find(success(exit).ledger, "Cache").map((e) => e.result), ["miss", "rejected"])
      assert.strictEqual(word(failure(yield* read(r))), "Overloaded")
      assert.deepStrictEqual(yield* r.calls(), [0, 0])
    })))

  it.effect("A10 nor is one replayed under a key", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([[answer([says, ends("length")]), succeeds]], { idempotency: {} })
      const request = { prompt: "P", idempotencyKey: "k" }
      assert.strictEqual((yield* ask(kind, r.client, request)).text, "some")
      assert.strictEqual((yield* ask(kind, r.client, request)).text, "Hello.")
    })))

  it.effect("A10 an empty answer is a failure, and not stored", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([[answer([ends("stop")]), succeeds]], { retry: false, cache })
      assert.strictEqual(word(failure(yield* read(r))), "MalformedResponse")
      assert.strictEqual(success(yield* read(r)).source, "provider")
    })))

  it.effect.each<[string, Partial<LlmRequest.Input>]>([
    ["temperature", { temperature: 0.1, seed: 1 }],
    ["tools", { tools: [{ name: "t", parameters: {} }] }],
    ["tenant", { tenant: "a" }],
    ["maxTokens", { maxTokens: 7 }],
    ["model", { model: "m" }],
    ["topP", { topP: 0.5 }],
    ["stop", { stop: ["x"] }],
    ["seed", { seed: 1 }],
    ["toolChoice", { toolChoice: "none" }],
    ["responseFormat", { responseFormat: { type: "json" } }],
    ["system prompt", { prompt: [{ role: "system", content: "Be brief." }, { role: "user", content: "What is AI?" }] }]
  ])("A11 the same question with another %s: a miss", ([, change]) =>
    vector(Effect.gen(function*() {
      const r = yield* stored([young])
      is(yield* read(r, { ...question, ...change }), "provider", "new", 0)
      is(yield* read(r), "cache", "old", 0)
      assert.deepStrictEqual(yield* r.calls(), [0, 0])
    })))

  it.effect("A13 the wall clock goes back an hour after storing: not fresh for longer", () =>
    vector(Effect.gen(function*() {
      const r = yield* stored(always(young))
      yield* TestClock.setTime(-3_600_000)
      yield* TestClock.adjust(59_999)
      is(yield* read(r), "cache", "old", 59_999)
      yield* TestClock.adjust(30_001)
      is(yield* read(r), "provider", "new", 0)
    })))

  it.effect("A14 temperature omitted: a live call at 1000; then always F: the stale answer", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([{ script: [old, young], always: overloads }], { retry: false, cache })
      const input = { prompt: "What is AI?" }
      is(yield* read(r, input), "provider", "old", 0)
      yield* TestClock.adjust(1000)
      is(yield* read(r, input), "provider", "new", 0)
      yield* TestClock.adjust(1000)
      is(yield* read(r, input), "stale", "new", 1000)
      assert.deepStrictEqual(yield* r.calls(), [0, 1000, 2000])
      yield* nothingHeld(r)
    })))

  it.effect("A14 `always` reuses it, `never` neither reads nor stores", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([{ script: [old, young], always: overloads }], { retry: false, cache })
      const input = (cache: "always" | "never") => ({ prompt: "What is AI?", cache })
      is(yield* read(r, input("always")), "provider", "old", 0)
      is(yield* read(r, input("always")), "cache", "old", 0)
      is(yield* read(r, input("never")), "provider", "new", 0)
      is(yield* read(r, input("always")), "cache", "old", 0)
      assert.strictEqual(word(failure(yield* read(r, input("never")))), "Overloaded")
    })))

  it.effect("`no-stale` takes what is fresh, nothing older, and its answer is stored", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([{ script: [old, overloads, young], always: overloads }], { retry: false, cache })
      const input = (cache: "auto" | "no-stale") => ({ prompt: "What is AI?", temperature: 0, cache })
      is(yield* read(r, input("no-stale")), "provider", "old", 0)
      is(yield* read(r, input("no-stale")), "cache", "old", 0)
      yield* TestClock.adjust(60_000)
      assert.strictEqual(word(failure(yield* read(r, input("no-stale")))), "Overloaded")
      is(yield* read(r, input("no-stale")), "provider", "new", 0)
      is(yield* read(r, input("auto")), "cache", "new", 0)
    })))

  it.effect("an answer that calls tools is kept only on request, neither fresh nor stale", () =>
    vector(Effect.gen(function*() {
      const call = answer([
        { type: "tool-call", id: "1", name: "pay", params: { amount: 1 }, providerExecuted: false },
        { type: "finish", reason: "tool-calls", usage }
      ])
      const input = { prompt: "Pay.", cache: "always" } as const
      for (const toolCalls of [false, true]) {
        const r = yield* setUp([{ script: [call], always: overloads }], {
          retry: false,
          cache: { ...cache, toolCalls }
        })
        assert.isTrue(Exit.isSuccess(yield* read(r, input)))
        const again = yield* read(r, input)
        if (toolCalls) assert.strictEqual(Exit.isSuccess(again) ? again.value.source : undefined, "cache")
        else assert.strictEqual(word(failure(again)), "Overloaded")
      }
    })))

  it.effect("A15 the caller goes during the background call: the refresh continues", () =>
    vector(Effect.gen(function*() {
      const r = yield* stored([{ ...young, delay: 5000 }])
      yield* TestClock.adjust(60_000)
      const caller = yield* start(Effect.andThen(ask(kind, r.client, question), Effect.never))
      yield* TestClock.adjust(1000)
      assert.strictEqual(yield* r.providers[0]!.active, 1)
      yield* interrupt(caller)
      assertInterrupted(caller, 61_000)
      yield* TestClock.adjust(4000)
      is(yield* read(r), "cache", "new", 0)
      assert.deepStrictEqual(yield* r.calls(), [0, 60_000])
      yield* nothingHeld(r)
    })))

  it.effect("A15 the layer closes during the background call: it is interrupted, nothing leaks", () =>
    vector(Effect.gen(function*() {
      const scope = yield* Scope.make()
      const r = yield* Scope.provide(stored([{ ...young, delay: 5000 }], { bulkhead: {}, circuitBreaker: {} }), scope)
      yield* TestClock.adjust(60_000)
      is(yield* read(r), "cache", "old", 60_000)
      yield* settle
      assert.strictEqual(yield* r.providers[0]!.active, 1)
      yield* Scope.close(scope, Exit.void)
      yield* nothingHeld(r)
    })))

  describe("bugs other projects shipped", () => {
    it.effect("Effect Cache.refresh, opossum: a failure is never stored and never removes the good answer", () =>
      vector(Effect.gen(function*() {
        const r = yield* stored([overloads, overloads, overloads, young])
        yield* TestClock.adjust(90_000)
        for (let i = 0; i < 3; i++) is(yield* read(r), "stale", "old", 90_000)
        is(yield* read(r), "provider", "new", 0)
        assert.strictEqual((yield* r.calls()).length, 5)
      })))

    it.effect("Devwhisper#293: what stood in during an outage is not stored as live", () =>
      vector(Effect.gen(function*() {
        const r = yield* stored([overloads, young])
        yield* TestClock.adjust(90_000)
        is(yield* read(r), "stale", "old", 90_000)
        yield* TestClock.adjust(1)
        is(yield* read(r), "provider", "new", 0)
      })))

    it.effect("OrcaRouter-Lite#84, lobster PR#130: an omitted temperature is not 0", () =>
      vector(Effect.gen(function*() {
        const r = yield* stored([young])
        is(yield* read(r, { prompt: "What is AI?", cache: "always" }), "provider", "new", 0)
      })))

    it.effect("a stale answer behind a key is not replayed as a good one afterwards", () =>
      vector(Effect.gen(function*() {
        const r = yield* stored([overloads, young], { idempotency: {} })
        yield* TestClock.adjust(90_000)
        is(yield* read(r, { ...question, idempotencyKey: "k" }), "stale", "old", 90_000)
        is(yield* read(r, { ...question, idempotencyKey: "k" }), "provider", "new", 0)
      })))
  })
})

describe("stream", () => {
  it.effect("A10 LightRAG PR#3446, OmniRoute PR#12885: a stream that breaks after its content is not stored", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([{ script: [stream("some", ScriptedProvider.cut)], always: overloads }], {
        retry: false,
        cache
      })
      assert.strictEqual(word(yield* Effect.flip(ask("stream", r.client, question))), "StreamInterrupted truncated")
      assert.strictEqual(word(yield* Effect.flip(ask("stream", r.client, question))), "Overloaded")
    })))

  it.effect("a consumer that leaves early stores nothing", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([{ script: [stream("some", { wait: 1000 }, "more")], always: overloads }], {
        retry: false,
        cache
      })
      const caller = yield* start(ask("stream", r.client, question))
      yield* TestClock.adjust(500)
      yield* interrupt(caller)
      assert.strictEqual(word(yield* Effect.flip(ask("stream", r.client, question))), "Overloaded")
      yield* nothingHeld(r)
    })))

  it.effect("a stored stream comes again as its own parts", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([[stream("a", "b", "c")]], { cache })
      const live = yield* ask("stream", r.client, question)
      const again = yield* ask("stream", r.client, question)
      assert.deepStrictEqual([again.source, again.parts, again.text], ["cache", live.parts, "abc"])
    })))
})

// The pipeline has only its memory so far; a store that can fail is given to the pattern itself.
describe("store", () => {
  const broken = (operation: "get" | "set"): Store<string> => ({
    get: () => operation === "get" ? Effect.fail(new StoreError({ operation })) : Effect.undefined,
    set: () => operation === "set" ? Effect.fail(new StoreError({ operation })) : Effect.void,
    remove: () => Effect.void
  })

  it.effect.each(["get", "set"] as const)(
    "A12 the store fails to %s: the live answer, one event",
    (operation) =>
      Effect.scoped(Effect.gen(function*() {
        const reports: Array<string> = []
        let calls = 0
        const cache = yield* ResponseCache.make<string>({
          store: broken(operation),
          onStoreError: (which) => reports.push(which)
        })
        const read = Effect.sync(() => `live ${++calls}`).pipe(ResponseCache.cached(cache, { key: "k", fresh: true }))
        assert.deepInclude(yield* read, { source: "live", value: "live 1" })
        assert.deepStrictEqual(reports, [operation])
        assert.deepInclude(yield* read, { source: "live", value: "live 2" })
      }))
  )
})
