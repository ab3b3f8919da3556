// The cache in the pipeline: what is kept and given, over its own memory and over a store, and what events say of it.
import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Stream } from "effect"
import { type LlmEvent, LlmObserver, type LlmResponse } from "effect-resilient-llm"
import { Health, Store } from "effect-resilient-llm/persistence"
import { ResponseCache } from "effect-resilient-llm/resilience"
import { ScriptedProvider } from "effect-resilient-llm/testing"
import { TestClock } from "effect/testing"
import { makeCache, questionOf } from "../../src/pipeline/cache.ts"
import { ask, failure, fork, kinds, nothingHeld, type SetUp, setUp, timed, vector } from "../support.ts"

const { answer, hang, overloaded } = ScriptedProvider
const readThrough = { readThrough: true } as const
const question = { prompt: "Hi", temperature: 0 } as const

const results = (ledger: LlmEvent.Ledger) => ledger.flatMap((event) => event._tag === "Cache" ? [event.result] : [])

const inStore = (store: Store.Store<string>) => Effect.provideService(ResponseCache.ResponseCacheStore, store)
const memory = Store.memory<string>({ maxEntries: 10 })

/** The calls that have ended, as events say. */
const endsOf = (r: SetUp) =>
  Effect.gen(function*() {
    const ends: Array<readonly [call: number, outcome: string, error: string | undefined]> = []
    yield* fork(Stream.runForEach(r.client.events, (event) =>
      Effect.sync(() => {
        if (event._tag === "CallEnded") ends.push([event.call, event.outcome, event.error?.reason])
      })))
    yield* Effect.yieldNow
    return ends
  })

describe.each(kinds)("%s", (kind) => {
  it.effect("what is kept is said to be stored, and what is too large for the memory to be rejected", () =>
    vector(Effect.gen(function*() {
      for (const [maxBytes, result] of [[100_000, "stored"], [10, "rejected"]] as const) {
        const r = yield* setUp([[answer("x")]], { cache: { maxBytes } })
        assert.deepStrictEqual(results((yield* ask(kind, r.client)).ledger), [result])
      }
    })))

  it.effect("a fresh answer is said to be fresh, with its age", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([[answer("x")]], { cache: readThrough })
      assert.deepStrictEqual(results((yield* ask(kind, r.client, question)).ledger), ["miss", "stored"])
      yield* TestClock.adjust(70)
      const { ledger } = yield* ask(kind, r.client, question)
      assert.deepInclude(ledger.find(({ _tag }) => _tag === "Cache"), { result: "fresh", age: 70 })
    })))

  it.effect("a seed makes a question one that can be answered from the cache", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([[answer("x")]], { cache: readThrough })
      const seeded = { prompt: "Hi", seed: 1 }
      yield* ask(kind, r.client, seeded)
      assert.strictEqual((yield* ask(kind, r.client, seeded)).source, "cache")
    })))

  it.effect("a call of a tool that the provider has run itself is kept like any answer", () =>
    vector(Effect.gen(function*() {
      const usage = { inputTokens: {}, outputTokens: {} }
      const parts: ReadonlyArray<LlmResponse.Part> = [
        { type: "tool-call", id: "1", name: "search", params: {}, providerExecuted: true },
        { type: "text", text: "found" },
        { type: "finish", reason: "stop", usage }
      ]
      const r = yield* setUp([[answer(parts)]], { cache: readThrough })
      yield* ask(kind, r.client, question)
      assert.strictEqual((yield* ask(kind, r.client, question)).source, "cache")
    })))

  it.effect("who waits in vain for another's work gets a stale answer, unless the call wants none", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([[answer("old"), hang]], { cache: {}, idempotency: {}, timeout: {} })
      yield* ask(kind, r.client, { prompt: "Hi" })
      const keyed = { prompt: "Hi", idempotencyKey: "k" }
      yield* fork(Effect.exit(ask(kind, r.client, { ...keyed, deadline: 5000, cache: "never" })))
      const joined = (cache: "auto" | "never" | "no-stale") =>
        Effect.map(
          timed(ask(kind, r.client, { ...keyed, deadline: 100, cache }), 100),
          ({ exit }) => Exit.isSuccess(exit) ? exit.value.source : failure(exit)._tag
        )
      assert.deepStrictEqual([yield* joined("auto"), yield* joined("no-stale"), yield* joined("never")], [
        "stale",
        "DeadlineExceeded",
        "DeadlineExceeded"
      ])
    })))

  describe("a refresh in the background", () => {
    const cache = { ...readThrough, ttl: 1000, swr: 1000 }

    it.effect("is a call of its own, that ends with its answer or its failure", () =>
      vector(Effect.gen(function*() {
        const r = yield* setUp([[answer("old"), answer("new", { delay: 10 }), overloaded]], { cache, retry: false })
        const ends = yield* endsOf(r)
        yield* ask(kind, r.client, question)
        for (let i = 0; i < 2; i++) {
          yield* TestClock.adjust(1500)
          yield* ask(kind, r.client, question)
          yield* TestClock.adjust(10)
        }
        assert.deepStrictEqual(ends, [
          [1, "provider", undefined],
          [2, "cache", undefined],
          [3, "provider", undefined],
          [4, "cache", undefined],
          [5, "failure", "Overloaded"]
        ])
        // It asks in the way in which it was asked.
        const operations = (yield* r.providers[0]!.requests).map(({ operation }) => operation)
        assert.deepStrictEqual(operations, [kind, kind, kind])
        yield* nothingHeld(r)
      })))

    it.effect("is interrupted at the end of its client, and says so", () =>
      vector(Effect.gen(function*() {
        const ends: Array<readonly [number, string]> = []
        const observer = LlmObserver.layer(() =>
          Effect.succeed((event) => {
            if (event._tag === "CallEnded") ends.push([event.call, event.outcome])
          })
        )
        yield* Effect.scoped(Effect.gen(function*() {
          const r = yield* Effect.provide(setUp([[answer("old"), hang]], { cache }), observer)
          yield* ask(kind, r.client, question)
          yield* TestClock.adjust(1500)
          yield* ask(kind, r.client, question)
          yield* TestClock.adjust(10)
        }))
        assert.deepStrictEqual(ends, [[1, "provider"], [2, "cache"], [3, "interrupted"]])
      })))
  })

  describe("over a store", () => {
    it.effect("another client finds what was stored, and is said so", () =>
      vector(Effect.gen(function*() {
        const store = yield* memory
        const one = yield* inStore(store)(setUp([[answer("x")]], { cache: readThrough }))
        assert.deepStrictEqual(results((yield* ask(kind, one.client, question)).ledger), ["miss", "stored"])
        const other = yield* inStore(store)(setUp([[]], { cache: readThrough }))
        const { ledger, source, text } = yield* ask(kind, other.client, question)
        assert.deepStrictEqual([source, text, results(ledger)], ["cache", "x", ["fresh"]])
      })))

    it.effect("what another client keeps is no answer for one that keeps no calls of tools", () =>
      vector(Effect.gen(function*() {
        const store = yield* memory
        const usage = { inputTokens: {}, outputTokens: {} }
        const calls: ReadonlyArray<LlmResponse.Part> = [
          { type: "tool-call", id: "1", name: "pay", params: {}, providerExecuted: false },
          { type: "finish", reason: "tool-calls", usage }
        ]
        const one = yield* inStore(store)(setUp([[answer(calls)]], { cache: { ...readThrough, toolCalls: true } }))
        yield* ask(kind, one.client, question)
        const other = yield* inStore(store)(setUp([[answer("x")]], { cache: readThrough }))
        const { ledger, text } = yield* ask(kind, other.client, question)
        assert.deepStrictEqual([text, results(ledger)], ["x", ["miss", "stored"]])
      })))

    it.effect("nobody waits until it is written", () =>
      vector(Effect.gen(function*() {
        const store = yield* memory
        const written: Array<string> = []
        const slow = {
          ...store,
          set: (...[key, value, options]: Parameters<typeof store.set>) =>
            Effect.andThen(
              Effect.sleep(50),
              Effect.andThen(store.set(key, value, options), Effect.sync(() => void written.push(value)))
            )
        }
        const r = yield* inStore(slow)(setUp([[answer("x")]], { cache: readThrough }))
        assert.strictEqual((yield* timed(ask(kind, r.client, question), 0)).at, 0)
        assert.lengthOf(written, 0)
        yield* TestClock.adjust(50)
        assert.lengthOf(written, 1)
      })))

    it.effect.each(["get", "set"] as const)(
      "one that fails to %s is said to be unavailable, and the answer is live",
      (operation) =>
        vector(Effect.gen(function*() {
          const failed = Effect.fail(new Store.StoreError({ operation }))
          const store: Store.Store<string> = { ...(yield* memory), [operation]: () => failed }
          const r = yield* inStore(store)(setUp([[answer("x")]], { cache: readThrough }))
          const seen: Array<string> = []
          yield* fork(Stream.runForEach(r.client.events, (event) =>
            Effect.sync(() => {
              if (event._tag === "Cache") seen.push(event.result)
            })))
          yield* Effect.yieldNow
          assert.strictEqual((yield* ask(kind, r.client, question)).source, "provider")
          yield* TestClock.adjust(0)
          assert.deepStrictEqual(
            seen,
            operation === "get" ? ["unavailable", "miss", "stored"] : ["miss", "stored", "unavailable"]
          )
        }))
    )
  })
})

it("a question is its identity, and another one for a stream", () => {
  const of = (operation: "complete" | "stream") => questionOf({ root: { operation, identity: "id" } } as never)
  assert.deepStrictEqual([of("complete"), of("stream")], ["id", "[stream]id"])
})

it.effect("the health of a store is watched", () =>
  Effect.scoped(Effect.gen(function*() {
    const health = Health.make({ name: "test", ping: Effect.void })
    const watched: Array<unknown> = []
    const made = (store: Store.Store<string> | undefined) =>
      Effect.provideService(
        makeCache(
          { readThrough: false, toolCalls: false } as never,
          undefined as never,
          undefined as never,
          (one) => watched.push(one)
        ),
        ResponseCache.ResponseCacheStore,
        store
      )
    yield* made(undefined)
    yield* made(yield* memory)
    assert.lengthOf(watched, 0)
    yield* made({ ...(yield* memory), health })
    assert.strictEqual(watched[0], health)
  })))
