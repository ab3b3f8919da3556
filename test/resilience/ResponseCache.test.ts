import { assert, describe, it } from "@effect/vitest"
import { CircuitOpen, ProviderError } from "effect-resilient-llm/LlmError"
import * as Store from "effect-resilient-llm/persistence/Store"
import * as Idempotency from "effect-resilient-llm/resilience/Idempotency"
import * as ResponseCache from "effect-resilient-llm/resilience/ResponseCache"
import * as Cause from "effect/Cause"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Scheduler from "effect/Scheduler"
import * as Schema from "effect/Schema"
import * as Scope from "effect/Scope"
import * as TestClock from "effect/testing/TestClock"

const overloads = new ProviderError({ provider: "stub", reason: { _tag: "Overloaded" }, status: 503 })
const refused = new ProviderError({ provider: "stub", reason: { _tag: "Authentication" }, status: 401 })

const policy = { ttl: "60 seconds", swr: "30 seconds", staleIfError: "1 hour" } as const

/** Answers `S1`, `S2`, … or fails with whatever `failWith` is at the time. */
const transport = () => {
  const stub = {
    calls: 0,
    failWith: undefined as ProviderError | CircuitOpen | undefined,
    call: Effect.suspend((): Effect.Effect<string, ProviderError | CircuitOpen> => {
      stub.calls++
      return stub.failWith === undefined ? Effect.succeed(`S${stub.calls}`) : Effect.fail(stub.failWith)
    })
  }
  return stub
}

/** Lets everything that is not waiting for time run. */
const settle = TestClock.adjust(0)

/** Stored at 0: `S1`. */
const stored = Effect.fnUntraced(function*(options: ResponseCache.Options<string> = policy) {
  const cache = yield* ResponseCache.make<string>(options)
  const stub = transport()
  const read = stub.call.pipe(ResponseCache.cached(cache, { key: "k", fresh: true }))
  assert.deepStrictEqual(yield* read, { source: "live", value: "S1", age: 0 })
  assert.strictEqual(stub.calls, 1)
  return { cache, stub, read }
})

describe("SEMANTICS J", () => {
  it.effect("A1 read at 0 and at 59 999: fresh, 0 calls", () =>
    Effect.gen(function*() {
      const { read, stub } = yield* stored()
      assert.deepStrictEqual(yield* read, { source: "fresh", value: "S1", age: 0 })
      yield* TestClock.adjust(59_999)
      assert.deepStrictEqual(yield* read, { source: "fresh", value: "S1", age: 59_999 })
      yield* settle
      assert.strictEqual(stub.calls, 1)
    }))

  it.effect.each([60_000, 89_999])(
    "A2 read at %d: the old value at once and one background call",
    (at) =>
      Effect.gen(function*() {
        const { read, stub } = yield* stored()
        yield* TestClock.adjust(at)
        assert.deepStrictEqual(yield* read, { source: "fresh", value: "S1", age: at })
        yield* settle
        assert.strictEqual(stub.calls, 2)
        yield* TestClock.adjust(59_999) // the new value is fresh from then
        assert.deepStrictEqual(yield* read, { source: "fresh", value: "S2", age: 59_999 })
        yield* settle
        assert.strictEqual(stub.calls, 2)
      })
  )

  it.effect("A3 50 reads at 60 000: one background call in total", () =>
    Effect.gen(function*() {
      const { cache, stub } = yield* stored()
      yield* TestClock.adjust(60_000)
      const slow = Effect.andThen(Effect.sleep(5000), stub.call)
      const read = slow.pipe(ResponseCache.cached(cache, { key: "k", fresh: true }))
      const results = yield* Effect.all(Array.from({ length: 50 }, () => read), { concurrency: 50 })
      for (const result of results) assert.deepStrictEqual(result, { source: "fresh", value: "S1", age: 60_000 })
      yield* TestClock.adjust(5000)
      assert.strictEqual(stub.calls, 2)
      assert.deepStrictEqual(yield* read, { source: "fresh", value: "S2", age: 0 })
    }))

  it.effect("A3 with a refresh that fails at once: still one call for the 50 reads of that moment", () =>
    Effect.gen(function*() {
      const { read, stub } = yield* stored()
      yield* TestClock.adjust(60_000)
      stub.failWith = overloads
      for (let i = 0; i < 50; i++) {
        assert.strictEqual((yield* read).value, "S1")
        yield* settle
      }
      assert.strictEqual(stub.calls, 2)
    }))

  it.effect("A4 read at 90 000: a synchronous call, the live value", () =>
    Effect.gen(function*() {
      const { read, stub } = yield* stored()
      yield* TestClock.adjust(90_000)
      assert.deepStrictEqual(yield* read, { source: "live", value: "S2", age: 0 })
      assert.strictEqual(stub.calls, 2)
    }))

  it.effect("A5 transport F, read at 90 000: stale with its age and the error", () =>
    Effect.gen(function*() {
      const { read, stub } = yield* stored()
      stub.failWith = overloads
      yield* TestClock.adjust(90_000)
      assert.deepStrictEqual(yield* read, { source: "stale", value: "S1", age: 90_000, error: overloads })
      assert.strictEqual(stub.calls, 2)
    }))

  it.effect("A6 transport F, read at 3 659 999 / 3 660 000: stale / the error", () =>
    Effect.gen(function*() {
      const { read, stub } = yield* stored()
      stub.failWith = overloads
      yield* TestClock.adjust(3_659_999)
      assert.deepStrictEqual(yield* read, { source: "stale", value: "S1", age: 3_659_999, error: overloads })
      yield* TestClock.adjust(1)
      assert.strictEqual(yield* Effect.flip(read), overloads)
    }))

  it.effect("A7 transport 401, read at 90 000: the 401", () =>
    Effect.gen(function*() {
      const { read, stub } = yield* stored()
      stub.failWith = refused
      yield* TestClock.adjust(90_000)
      assert.strictEqual(yield* Effect.flip(read), refused)
    }))

  it.effect("A8 background refresh F at 60 000: the old value stays; the next refresh after 1 s, not per read", () =>
    Effect.gen(function*() {
      const { read, stub } = yield* stored()
      stub.failWith = overloads
      yield* TestClock.adjust(60_000)
      const readAt = (age: number) =>
        Effect.gen(function*() {
          assert.deepStrictEqual(yield* read, { source: "fresh", value: "S1", age })
          yield* settle
          return stub.calls
        })
      assert.strictEqual(yield* readAt(60_000), 2)
      yield* TestClock.adjust(1)
      assert.strictEqual(yield* readAt(60_001), 2)
      yield* TestClock.adjust(998)
      assert.strictEqual(yield* readAt(60_999), 2)
      yield* TestClock.adjust(1)
      assert.strictEqual(yield* readAt(61_000), 3)
      yield* TestClock.adjust(28_999)
      assert.strictEqual(yield* readAt(89_999), 4)
    }))

  it.effect("A8 the second is counted from the end of the failed refresh", () =>
    Effect.gen(function*() {
      const { cache, stub } = yield* stored()
      stub.failWith = overloads
      const read = Effect.andThen(Effect.sleep(5000), stub.call).pipe(
        ResponseCache.cached(cache, { key: "k", fresh: true })
      )
      yield* TestClock.adjust(60_000)
      yield* read
      yield* TestClock.adjust(5999) // ended at 65 000
      yield* read
      yield* TestClock.adjust(5000)
      assert.strictEqual(stub.calls, 2)
      yield* read
      yield* TestClock.adjust(5000)
      assert.strictEqual(stub.calls, 3)
    }))

  it.effect("A9 empty cache, 100 concurrent misses through a single flight: one call", () =>
    Effect.gen(function*() {
      const cache = yield* ResponseCache.make<string>(policy)
      const idempotency = yield* Idempotency.make<ResponseCache.Cached<string, ProviderError | CircuitOpen>, unknown>()
      const stub = transport()
      const read = Effect.andThen(Effect.sleep(1000), stub.call).pipe(
        ResponseCache.cached(cache, { key: "k", fresh: true })
      )
      const call = idempotency.run(
        { key: "k", fingerprint: "k" },
        () => Effect.map(read, (value) => ({ value, store: false }))
      )
      const all = yield* Effect.forkChild(Effect.all(Array.from({ length: 100 }, () => call), { concurrency: 100 }))
      yield* TestClock.adjust(1000)
      for (const { value } of yield* Fiber.join(all)) assert.strictEqual(value.value, "S1")
      assert.strictEqual(stub.calls, 1)
      assert.strictEqual((yield* cache.lookup("k"))?.state, "fresh")
    }))

  it.effect.each(["length", "content_filter", "empty", "tool-call parse error"])(
    "A10 an answer that is not cacheable (%s) is not stored",
    (finish) =>
      Effect.gen(function*() {
        const cache = yield* ResponseCache.make<{ readonly finish: string }>(policy)
        const answer = Effect.succeed({ finish })
        const options = { key: "k", fresh: true, cacheable: (a: { readonly finish: string }) => a.finish === "stop" }
        const result = yield* answer.pipe(ResponseCache.cached(cache, options))
        assert.deepStrictEqual(result, { source: "live", value: { finish }, age: 0 })
        assert.isUndefined(yield* cache.lookup("k"))
        yield* Effect.succeed({ finish: "stop" }).pipe(ResponseCache.cached(cache, options))
        assert.isDefined(yield* cache.lookup("k"))
      })
  )

  it.effect("A11 another key is another answer", () =>
    Effect.gen(function*() {
      const { cache, stub } = yield* stored()
      const other = yield* stub.call.pipe(ResponseCache.cached(cache, { key: "k2", fresh: true }))
      assert.strictEqual(other.source, "live")
      stub.failWith = overloads
      const third = stub.call.pipe(ResponseCache.cached(cache, { key: "k3", fresh: true }))
      assert.strictEqual(yield* Effect.flip(third), overloads)
    }))

  it.effect.each(["get", "set"] as const)(
    "A12 store error on %s: the live value, one report",
    (operation) =>
      Effect.gen(function*() {
        const reports: Array<string> = []
        const fail = Effect.fail(new Store.StoreError({ operation }))
        const memory = yield* Store.memory<string>({ maxEntries: 10 })
        const cache = yield* ResponseCache.make<string>({
          ...policy,
          store: operation === "get" ? { ...memory, get: () => fail } : { ...memory, set: () => fail },
          onStoreError: (failed) => {
            reports.push(failed)
            throw new Error("a listener's own trouble")
          }
        })
        const stub = transport()
        const result = yield* stub.call.pipe(ResponseCache.cached(cache, { key: "k", fresh: true }))
        assert.deepStrictEqual(result, { source: "live", value: "S1", age: 0 })
        assert.deepStrictEqual(reports, [operation])
      })
  )

  it.effect("A13 the wall clock jumps back an hour: not fresh longer than 60 s of monotonic time", () =>
    Effect.gen(function*() {
      yield* TestClock.setTime(7_200_000)
      const { read } = yield* stored()
      yield* TestClock.setTime(3_600_000)
      yield* TestClock.adjust(59_999)
      assert.deepStrictEqual(yield* read, { source: "fresh", value: "S1", age: 59_999 })
      yield* TestClock.adjust(30_001)
      assert.strictEqual((yield* read).source, "live")
    }))

  it.effect("A14 without read-through: a live call at 1000, and the fresh answer still stands in for a failure", () =>
    Effect.gen(function*() {
      const { cache, stub } = yield* stored()
      const read = stub.call.pipe(ResponseCache.cached(cache, { key: "k", fresh: false }))
      yield* TestClock.adjust(1000)
      assert.deepStrictEqual(yield* read, { source: "live", value: "S2", age: 0 })
      stub.failWith = overloads
      yield* TestClock.adjust(7)
      assert.deepStrictEqual(yield* read, { source: "stale", value: "S2", age: 7, error: overloads })
    }))

  it.effect("A15 the caller goes during the background call: it continues", () =>
    Effect.gen(function*() {
      const { cache } = yield* stored()
      yield* TestClock.adjust(60_000)
      const slow = Effect.delay(Effect.succeed("new"), 1000)
      const reading = slow.pipe(ResponseCache.cached(cache, { key: "k", fresh: true }))
      const caller = yield* Effect.forkChild(Effect.andThen(reading, Effect.never))
      yield* settle
      yield* Fiber.interrupt(caller)
      yield* TestClock.adjust(1000)
      assert.strictEqual((yield* cache.lookup("k"))?.value, "new")
    }))

  it.effect("A15 the layer closes during the background call: it is interrupted, and none starts any more", () =>
    Effect.gen(function*() {
      const scope = yield* Scope.make()
      const cache = yield* Scope.provide(ResponseCache.make<string>(policy), scope)
      yield* cache.store("k", "old")
      yield* TestClock.adjust(60_000)
      let started = 0
      let cleaned = 0
      const refresh = Effect.onInterrupt(
        Effect.andThen(Effect.sync(() => started++), Effect.never),
        () => Effect.sync(() => cleaned++)
      )
      assert.isTrue(yield* cache.revalidate("k", refresh))
      yield* settle
      yield* Scope.close(scope, Exit.void)
      assert.deepStrictEqual([started, cleaned], [1, 1])
      yield* TestClock.adjust(1000)
      yield* cache.revalidate("k", refresh)
      yield* settle
      assert.deepStrictEqual([started, cleaned], [1, 1])
      assert.strictEqual((yield* cache.lookup("k"))?.value, "old")
    }))
})

describe("bugs of other projects", () => {
  it.effect("opossum coalesce, Effect PersistedCache: a failure is never stored", () =>
    Effect.gen(function*() {
      const cache = yield* ResponseCache.make<string>(policy)
      const stub = transport()
      stub.failWith = overloads
      const read = stub.call.pipe(ResponseCache.cached(cache, { key: "k", fresh: true }))
      yield* Effect.flip(read)
      stub.failWith = undefined
      assert.deepStrictEqual(yield* read, { source: "live", value: "S2", age: 0 })
    }))

  it.effect("Effect Cache.refresh: a failed refresh leaves the good value, its age and its uses", () =>
    Effect.gen(function*() {
      const { cache, read, stub } = yield* stored()
      stub.failWith = overloads
      yield* TestClock.adjust(60_000)
      yield* read
      yield* settle
      yield* TestClock.adjust(30_000)
      assert.deepStrictEqual(yield* read, { source: "stale", value: "S1", age: 90_000, error: overloads })
      assert.deepStrictEqual(yield* cache.lookup("k"), { value: "S1", age: 90_000, state: "stale" })
    }))

  it.effect("Devwhisper#293 an answer refused by the gate is never replayed, also when a refresh brought it", () =>
    Effect.gen(function*() {
      const cache = yield* ResponseCache.make<string>(policy)
      yield* cache.store("k", "good")
      yield* TestClock.adjust(60_000)
      const read = Effect.succeed("Sorry, something went wrong").pipe(
        ResponseCache.cached(cache, { key: "k", fresh: true, cacheable: (text) => !text.startsWith("Sorry") })
      )
      assert.strictEqual((yield* read).value, "good")
      yield* settle
      assert.deepStrictEqual(yield* cache.lookup("k"), { value: "good", age: 60_000, state: "revalidate" })
    }))
})

describe("cached", () => {
  it.effect("a breaker's refusal allows a stale answer; a policy of your own decides instead of the table", () =>
    Effect.gen(function*() {
      const { cache, read, stub } = yield* stored()
      yield* TestClock.adjust(90_000)
      stub.failWith = new CircuitOpen({ key: "stub", state: "open" })
      assert.strictEqual((yield* read).source, "stale")
      const strict = stub.call.pipe(
        ResponseCache.cached(cache, { key: "k", fresh: true, staleWhen: (error) => error !== stub.failWith })
      )
      assert.strictEqual(yield* Effect.flip(strict), stub.failWith)
      const lax = Effect.fail("no error of ours").pipe(
        ResponseCache.cached(cache, { key: "k", fresh: true, staleWhen: () => true })
      )
      assert.deepStrictEqual(yield* lax, { source: "stale", value: "S1", age: 90_000, error: "no error of ours" })
    }))

  it.effect("interruption and defects never serve a stale answer, not even next to a failure", () =>
    Effect.gen(function*() {
      const { cache } = yield* stored()
      yield* TestClock.adjust(90_000)
      const through = (effect: Effect.Effect<string, unknown>) =>
        Effect.exit(effect.pipe(ResponseCache.cached(cache, { key: "k", fresh: true, staleWhen: () => true })))
      const causes = [
        Cause.die("bug"),
        Cause.interrupt(1),
        Cause.combine(Cause.fail(overloads), Cause.die("bug")),
        Cause.combine(Cause.fail(overloads), Cause.interrupt(1))
      ]
      for (const cause of causes) {
        assert.deepStrictEqual(yield* through(Effect.failCause(cause)), Exit.failCause(cause))
      }
      assert.deepStrictEqual((yield* through(Effect.fail(overloads)))._tag, "Success")

      const caller = yield* Effect.forkChild(through(Effect.never))
      yield* settle
      yield* Fiber.interrupt(caller)
      assert.isTrue(Exit.hasInterrupts(yield* Fiber.await(caller)))
    }))

  it.effect("the age of a stale answer is that of the look before the call", () =>
    Effect.gen(function*() {
      const { cache } = yield* stored()
      yield* TestClock.adjust(100_000)
      const read = Effect.delay(Effect.fail(overloads), 4000).pipe(
        ResponseCache.cached(cache, { key: "k", fresh: true })
      )
      const caller = yield* Effect.forkChild(read)
      yield* TestClock.adjust(4000)
      assert.deepStrictEqual(yield* Fiber.join(caller), {
        source: "stale",
        value: "S1",
        age: 100_000,
        error: overloads
      })
    }))

  it.effect("an answer that became too old during the call still stands in, for it was usable when the call began", () =>
    Effect.gen(function*() {
      const { cache } = yield* stored()
      yield* TestClock.adjust(3_659_999)
      const read = Effect.delay(Effect.fail(overloads), 4000).pipe(
        ResponseCache.cached(cache, { key: "k", fresh: true })
      )
      const caller = yield* Effect.forkChild(read)
      yield* TestClock.adjust(4000)
      assert.strictEqual((yield* Fiber.join(caller)).source, "stale")
    }))
})

describe("make", () => {
  it.effect("without swr an answer is fresh, then only a stand-in", () =>
    Effect.gen(function*() {
      const cache = yield* ResponseCache.make<string>({ ttl: "60 seconds" })
      yield* cache.store("k", "v")
      yield* TestClock.adjust(59_999)
      assert.strictEqual((yield* cache.lookup("k"))?.state, "fresh")
      yield* TestClock.adjust(1)
      assert.strictEqual((yield* cache.lookup("k"))?.state, "stale")
    }))

  it.effect("defaults: fresh for 1 hour, a stand-in for 24 hours more", () =>
    Effect.gen(function*() {
      const cache = yield* ResponseCache.make<string>()
      yield* cache.store("k", "v")
      const state = Effect.map(cache.lookup("k"), (hit) => hit?.state)
      yield* TestClock.adjust(3_599_999)
      assert.strictEqual(yield* state, "fresh")
      yield* TestClock.adjust(1)
      assert.strictEqual(yield* state, "stale")
      yield* TestClock.adjust(86_399_999)
      assert.strictEqual(yield* state, "stale")
      yield* TestClock.adjust(1)
      assert.isUndefined(yield* state)
    }))

  it.effect("swr may outlast staleIfError", () =>
    Effect.gen(function*() {
      const cache = yield* ResponseCache.make<string>({ ttl: 10, swr: 100, staleIfError: 20 })
      yield* cache.store("k", "v")
      yield* TestClock.adjust(109)
      assert.strictEqual((yield* cache.lookup("k"))?.state, "revalidate")
      yield* TestClock.adjust(1)
      assert.isUndefined(yield* cache.lookup("k"))
    }))

  it.effect("a store that ignores ttl does not bring dead answers back", () =>
    Effect.gen(function*() {
      const memory = yield* Store.memory<string>({ maxEntries: 10 })
      const forgetful: Store.Store<string> = {
        ...memory,
        set: (key, value) => memory.set(key, value, { ttl: Infinity })
      }
      const cache = yield* ResponseCache.make<string>({ ...policy, store: forgetful })
      yield* cache.store("k", "v")
      yield* TestClock.adjust(3_660_000)
      assert.isUndefined(yield* cache.lookup("k"))
    }))

  it.effect("an answer larger than maxBytes is not kept, and the older one stays", () =>
    Effect.gen(function*() {
      const cache = yield* ResponseCache.make<string>({ maxBytes: 100 })
      assert.isTrue(yield* cache.store("k", "old", 98))
      assert.isFalse(yield* cache.store("k", "huge", 99)) // with its key it takes 101
      assert.strictEqual((yield* cache.lookup("k"))?.value, "old")
      const read = Effect.succeed("huge").pipe(ResponseCache.cached(cache, { key: "k", fresh: false, size: () => 101 }))
      assert.deepStrictEqual(yield* read, { source: "live", value: "huge", age: 0 })
      assert.strictEqual((yield* cache.lookup("k"))?.value, "old")
    }))

  it.effect("keys take their place too, and without an effect it is the same", () =>
    Effect.gen(function*() {
      const { lookup, store, storeAt } = yield* ResponseCache.make<string>({ maxBytes: 100 })
      assert.isTrue(yield* store("k".repeat(50), "v"))
      assert.isFalse(yield* store("k".repeat(51), "v"))
      assert.isTrue(yield* storeAt("k", "old", 98, 0))
      assert.isFalse(yield* storeAt("k", "huge", 99, 0))
      assert.strictEqual((yield* lookup("k"))?.value, "old")
    }))

  it.effect("a store that dies is a store that failed", () =>
    Effect.gen(function*() {
      const reports: Array<string> = []
      const die = (): never => {
        throw new Error("bug")
      }
      const cache = yield* ResponseCache.make<string>({
        store: { get: die, set: () => Effect.die("bug"), remove: die },
        onStoreError: (operation) => reports.push(operation)
      })
      assert.isUndefined(yield* cache.lookup("k"))
      assert.isFalse(yield* cache.store("k", "v"))
      assert.deepStrictEqual(reports, ["get", "set"])
    }))

  it.effect("a store that interrupts itself is a store that failed", () =>
    Effect.gen(function*() {
      const reports: Array<string> = []
      const cache = yield* ResponseCache.make<string>({
        store: { get: () => Effect.interrupt, set: () => Effect.interrupt, remove: () => Effect.interrupt },
        onStoreError: (operation) => reports.push(operation)
      })
      assert.isUndefined(yield* cache.lookup("k"))
      assert.isFalse(yield* cache.store("k", "v"))
      assert.deepStrictEqual(reports, ["get", "set"])
    }))

  it.effect("says when a store has kept an answer, and how old it was at a moment that is over", () =>
    Effect.gen(function*() {
      const store = yield* Store.memory<string>({ maxEntries: 10 })
      const cache = yield* ResponseCache.make<string>({ store })
      assert.isTrue(yield* cache.store("k", "v"))
      yield* TestClock.adjust(1000)
      assert.deepInclude(yield* cache.lookup("k"), { value: "v", age: 1000 })
      assert.deepInclude(yield* cache.lookupAt("k", 700, 300), { value: "v", age: 700 })
    }))

  it.effect("a store that fails is pinged, and asked again once it answers", () =>
    Effect.gen(function*() {
      const memory = yield* Store.memory<string>({ maxEntries: 10 })
      yield* memory.set("k", "v", { ttl: Infinity })
      const asked: Array<string> = []
      let isBroken = true
      const cache = yield* ResponseCache.make<string>({
        store: {
          ...memory,
          get: (key) => {
            asked.push(key)
            return isBroken ? Effect.fail(new Store.StoreError({ operation: "get" })) : memory.get(key)
          }
        }
      })
      for (let i = 0; i < 4; i++) yield* cache.lookup("k")
      yield* settle
      assert.deepStrictEqual(asked, ["k", "k", "k", "ping"])
      isBroken = false
      yield* TestClock.adjust("1 second")
      assert.strictEqual((yield* cache.lookup("k"))?.value, "v")
    }))

  it.effect("a slow store can be left", () =>
    Effect.gen(function*() {
      const memory = yield* Store.memory<string>({ maxEntries: 10 })
      const reports: Array<string> = []
      const cache = yield* ResponseCache.make<string>({
        store: { ...memory, get: () => Effect.never },
        onStoreError: (operation) => reports.push(operation)
      })
      const caller = yield* Effect.forkChild(cache.lookup("k"))
      yield* settle
      yield* Fiber.interrupt(caller)
      assert.isTrue(Exit.hasInterrupts(yield* Fiber.await(caller)))
      assert.deepStrictEqual(reports, [])
    }))

  it.effect.each([
    { options: { ttl: -1 }, path: "cache.ttl" },
    { options: { swr: -1 }, path: "cache.swr" },
    { options: { staleIfError: "soon" as "1 second" }, path: "cache.staleIfError" },
    { options: { swrMinInterval: -1 }, path: "cache.swrMinInterval" },
    { options: { maxEntries: 0 }, path: "cache.maxEntries" },
    { options: { maxBytes: 0 }, path: "cache.maxBytes" },
    { options: { tll: 1 } as ResponseCache.Options<string>, path: "cache.tll" }
  ])("refuses $options", ({ options, path }) =>
    Effect.gen(function*() {
      const error = yield* Effect.flip(ResponseCache.make<string>(options))
      assert.strictEqual(error._tag, "LlmConfigError")
      assert.strictEqual(error.path, path)
    }))
})

describe("revalidate", () => {
  it.effect("runs once per key at a time, whatever time it takes, and other keys beside it", () =>
    Effect.gen(function*() {
      const cache = yield* ResponseCache.make<string>()
      const gate = yield* Deferred.make<void>()
      const hang = Deferred.await(gate)
      assert.isTrue(yield* cache.revalidate("a", hang))
      yield* TestClock.adjust("1 day")
      assert.isFalse(yield* cache.revalidate("a", hang))
      assert.isTrue(yield* cache.revalidate("b", hang))
      yield* Deferred.succeed(gate, undefined)
      yield* settle
      yield* TestClock.adjust(999)
      assert.isFalse(yield* cache.revalidate("a", hang))
      yield* TestClock.adjust(1)
      assert.isTrue(yield* cache.revalidate("a", hang))
    }))

  it.effect("a refresh that dies or interrupts itself frees its key and hurts nobody", () =>
    Effect.gen(function*() {
      const cache = yield* ResponseCache.make<string>({ swrMinInterval: 10 })
      const refreshes = [
        Effect.die("bug"),
        Effect.interrupt,
        Effect.fail("x"),
        Effect.sync(() => {
          throw new Error("bug")
        })
      ]
      for (const refresh of refreshes) {
        assert.isTrue(yield* cache.revalidate("a", refresh))
        yield* settle
        assert.isFalse(yield* cache.revalidate("a", refresh))
        yield* TestClock.adjust(10)
      }
    }))

  it.effect("forgets no rest, however many keys are refreshed within it", () =>
    Effect.gen(function*() {
      const cache = yield* ResponseCache.make<string>({ swrMinInterval: "1 hour", maxEntries: 2 })
      const refresh = (i: number) => cache.revalidate(`key ${i}`, Effect.void)
      for (let i = 0; i < 1000; i++) {
        assert.isTrue(yield* refresh(i))
        yield* settle
      }
      assert.isFalse(yield* refresh(0))
      assert.isFalse(yield* refresh(1000)) // it waits for another's rest to end
      yield* TestClock.adjust("1 hour")
      assert.isTrue(yield* refresh(1000))
      assert.isTrue(yield* refresh(0))
    }))

  it("interrupting the caller at every step never leaves a key blocked", async () => {
    for (let budget = 3; budget <= 64; budget++) {
      for (let step = 0; step < 12; step++) {
        const scope = Scope.makeUnsafe()
        const program = Effect.gen(function*() {
          const cache = yield* ResponseCache.make<string>({ swrMinInterval: 0 })
          let running = 0
          const refresh = Effect.acquireUseRelease(
            Effect.sync(() => running++),
            () => Effect.yieldNow,
            () => Effect.sync(() => running--)
          )
          const caller = yield* cache.revalidate("k", refresh).pipe(
            Effect.provideService(Scheduler.MaxOpsBeforeYield, budget),
            Effect.forkChild({ startImmediately: true })
          )
          for (let i = 0; i < step; i++) yield* Effect.yieldNow
          yield* Fiber.interrupt(caller)
          for (let i = 0; i < 40; i++) yield* Effect.yieldNow
          assert.strictEqual(running, 0)
          assert.isTrue(yield* cache.revalidate("k", refresh))
        })
        await Effect.runPromise(Scope.provide(program, scope))
        await Effect.runPromise(Scope.close(scope, Exit.void))
      }
    }
  })
})

describe("reference model", () => {
  const Key = Schema.Literals(["a", "b", "c"])
  const Op = Schema.Union([
    Schema.TaggedStruct("store", { key: Key, size: Schema.Literals([0, 10, 60, 98, 99]) }),
    Schema.TaggedStruct("lookup", { key: Key }),
    Schema.TaggedStruct("call", { key: Key, ok: Schema.Boolean, fresh: Schema.Boolean }),
    Schema.TaggedStruct("advance", { ms: Schema.Literals([1, 9, 10, 30, 100]) })
  ])
  const ttl = 20
  const swr = 30
  const staleIfError = 100
  const interval = 10

  interface Modelled {
    readonly key: string
    readonly value: number
    readonly at: number
    readonly bytes: number
  }

  it.effect.prop(
    "store, lookup, call and advance refine a list in the order of use",
    { ops: Schema.Array(Op).check(Schema.isMaxLength(60)), maxEntries: Schema.Literals([1, 2, 5]) },
    ({ maxEntries, ops }) =>
      Effect.gen(function*() {
        const cache = yield* ResponseCache.make<number>({
          ttl,
          swr,
          staleIfError,
          swrMinInterval: interval,
          maxEntries,
          maxBytes: 100
        })
        const everStored = new Set<string>()
        let list: Array<Modelled> = []
        let rested = new Map<string, number>()
        let now = 0
        let next = 0
        let calls = 0

        const put = (key: string, value: number, size: number): boolean => {
          const bytes = size + 2 * key.length
          if (bytes > 100) return false
          everStored.add(`${key} ${value}`)
          list = list.filter((entry) => entry.key !== key)
          list.push({ key, value, at: now, bytes })
          const total = () => list.reduce((sum, entry) => sum + entry.bytes, 0)
          while (list.length > maxEntries || total() > 100 || now - list[0]!.at >= ttl + staleIfError) list.shift()
          return true
        }
        const look = (key: string) => {
          const entry = list.find((found) => found.key === key)
          list = list.filter((found) => found !== entry)
          if (entry === undefined || now - entry.at >= ttl + staleIfError) return undefined
          list.push(entry)
          const age = now - entry.at
          const state = age < ttl ? "fresh" : age < ttl + swr ? "revalidate" : "stale"
          return { value: entry.value, age, state } as const
        }

        for (const op of ops) {
          switch (op._tag) {
            case "advance":
              yield* TestClock.adjust(op.ms)
              now += op.ms
              break
            case "store":
              next++
              assert.strictEqual(yield* cache.store(op.key, next, op.size), put(op.key, next, op.size))
              break
            case "lookup":
              assert.deepStrictEqual(yield* cache.lookup(op.key), look(op.key))
              break
            case "call": {
              let real = 0
              const value = ++next
              const effect = Effect.suspend(() => {
                real++
                return op.ok ? Effect.succeed(value) : Effect.fail(overloads)
              })
              const result = yield* Effect.exit(
                effect.pipe(ResponseCache.cached(cache, { key: op.key, fresh: op.fresh, size: () => 10 }))
              )
              yield* settle
              const hit = look(op.key)
              calls = 0
              const live = () => {
                calls++
                if (op.ok) put(op.key, value, 10)
              }
              if (hit !== undefined && op.fresh && hit.state !== "stale") {
                assert.deepStrictEqual(result, Exit.succeed({ source: "fresh", value: hit.value, age: hit.age }))
                if (hit.state === "revalidate" && (rested.get(op.key) ?? -1) <= now) {
                  live()
                  rested.delete(op.key)
                  rested = new Map([...rested].filter(([, until]) => until > now))
                  if (rested.size >= maxEntries) rested.delete([...rested.keys()][0]!)
                  rested.set(op.key, now + interval)
                }
              } else {
                live()
                if (op.ok) assert.deepStrictEqual(result, Exit.succeed({ source: "live", value, age: 0 }))
                else if (hit === undefined) assert.deepStrictEqual(result, Exit.fail(overloads))
                else {
                  const { age, value } = hit
                  assert.deepStrictEqual(result, Exit.succeed({ source: "stale", value, age, error: overloads }))
                }
              }
              assert.strictEqual(real, calls)
              if (Exit.isSuccess(result) && result.value.source !== "live") {
                assert.isTrue(everStored.has(`${op.key} ${result.value.value}`)) // P11
              }
              break
            }
          }
        }
      }).pipe(Effect.scoped, Effect.provide(TestClock.layer())),
    { arbitrary: { runs: 300 } }
  )
})
