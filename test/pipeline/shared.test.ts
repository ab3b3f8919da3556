// What a client shares with other processes: how long one call waits for it, all in all.
import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Layer } from "effect"
import { type Client, LlmClient, type LlmError } from "effect-resilient-llm"
import { Store } from "effect-resilient-llm/persistence"
import { CircuitBreaker, Idempotency, RateLimiter, ResponseCache } from "effect-resilient-llm/resilience"
import { ScriptedProvider } from "effect-resilient-llm/testing"
import { TestClock } from "effect/testing"
import { ask, fork, kinds, now, timed } from "../support.ts"

const { always, answer } = ScriptedProvider

/** Every operation of every store takes so many milliseconds. */
const lateStores = (millis: number) =>
  Effect.gen(function*() {
    const asked: Array<string> = []
    const late =
      <A extends ReadonlyArray<unknown>, B>(name: string, self: (...args: A) => Effect.Effect<B, Store.StoreError>) =>
      (...args: A): Effect.Effect<B, Store.StoreError> => {
        asked.push(name)
        return Effect.delay(self(...args), millis)
      }
    const memory = yield* Store.memory<string>({ maxEntries: 100 })
    const store: Store.LeaseStore<string> = {
      ...memory,
      get: late("get", memory.get),
      set: late("set", memory.set),
      acquire: late("acquire", memory.acquire),
      complete: late("complete", memory.complete),
      release: late("release", memory.release)
    }
    const buckets = yield* RateLimiter.storeMemory()
    const limits: RateLimiter.LimitStore = {
      ...buckets,
      reserve: late("reserve", buckets.reserve),
      settle: late("settle", buckets.settle)
    }
    const circuits = yield* CircuitBreaker.storeMemory()
    const layer = Layer.mergeAll(
      Layer.succeed(Idempotency.IdempotencyStore, store),
      Layer.succeed(ResponseCache.ResponseCacheStore, store),
      Layer.succeed(RateLimiter.RateLimiterStore, limits),
      Layer.succeed(CircuitBreaker.CircuitBreakerStore, { ...circuits, probe: late("probe", circuits.probe) })
    )
    return { asked, layer }
  })

const clientOver = (stores: Layer.Layer<never>) =>
  Effect.gen(function*() {
    const provider = yield* ScriptedProvider.make([always(answer("Hello."))], { id: "p" })
    const limits = [{ dimension: "requests", limit: 1000, per: "1 second" }] as const
    const layer = LlmClient.layerDynamic([{ provider, limits }], { cache: { readThrough: true }, rateLimit: {} })
    const client: Client<LlmError.LlmError> = Context.get(yield* Layer.build(Layer.provide(layer, stores)), LlmClient)
    // Hello to the limits, first looks.
    yield* TestClock.adjust("1 second")
    return { client, provider }
  })

const question = { prompt: "Hi", idempotencyKey: "k", cache: "always" } as const

describe.each(kinds)("%s over stores that answer late", (kind) => {
  it.effect.each([20, 40, 60, 99] as const)(
    "each operation after %s ms: 150 ms in all, and no store counts as down",
    (millis) =>
      Effect.scoped(Effect.gen(function*() {
        const { asked, layer } = yield* lateStores(millis)
        const { client, provider } = yield* clientOver(layer)
        asked.length = 0
        const call = yield* timed(ask(kind, client, question))
        assert.strictEqual(call.exit._tag, "Success")
        assert.isAtMost(call.at, 150)
        // With 20 ms there is time for all of it.
        if (millis === 20) assert.strictEqual(call.at, 100)
        assert.includeMembers(asked, ["acquire", "get"])
        assert.include(asked, "complete", "what was paid for is recorded, also when nobody waits for that")
        yield* TestClock.adjust("1 second")
        const again = yield* timed(ask(kind, client, question))
        assert.strictEqual((yield* provider.requests).length, 1)
        assert.strictEqual(again.at, millis)
      }))
  )

  it.effect("sixty-four at once: each waits 150 ms at most", () =>
    Effect.scoped(Effect.gen(function*() {
      const { layer } = yield* lateStores(45)
      const { client } = yield* clientOver(layer)
      const begun = yield* now
      const ends: Array<number> = []
      for (let i = 0; i < 64; i++) {
        const one = ask(kind, client, { ...question, idempotencyKey: `k${i}`, prompt: `Hi ${i}` })
        yield* fork(Effect.flatMap(one, () => Effect.map(now, (at) => ends.push(at - begun))))
      }
      yield* TestClock.adjust("10 seconds")
      assert.strictEqual(ends.length, 64)
      assert.isAtMost(Math.max(...ends), 150)
    })))
})
