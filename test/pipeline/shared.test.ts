// What a client shares with other processes: how long one call waits for it, all in all.
import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Exit, Layer, Scope } from "effect"
import { type Client, LlmClient, type LlmError } from "effect-resilient-llm"
import { Health, Store } from "effect-resilient-llm/persistence"
import { CircuitBreaker, Failover, Idempotency, RateLimiter, ResponseCache } from "effect-resilient-llm/resilience"
import { ScriptedProvider } from "effect-resilient-llm/testing"
import { TestClock } from "effect/testing"
import type { Hub } from "../../src/pipeline/hub.ts"
import * as Shared from "../../src/pipeline/shared.ts"
import { ask, failure, fork, kinds, now, success, timed, vectorOptions } from "../support.ts"

const { always, answer, overloaded } = ScriptedProvider

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

it.effect.each(kinds)(
  "%s: a probe that waits for the store of circuits is told as the wait for that guard",
  (kind) =>
    Effect.scoped(Effect.gen(function*() {
      const { layer } = yield* lateStores(20)
      const provider = yield* ScriptedProvider.make([overloaded, answer("Hello.")], { id: "p" })
      const circuitBreaker = { failureThreshold: 1, recoveryTimeout: "1 second" } as const
      const circuits = LlmClient.layerDynamic([provider], { ...vectorOptions, retry: false, circuitBreaker })
      const client = Context.get(yield* Layer.build(Layer.provide(circuits, layer)), LlmClient)
      assert.strictEqual(failure((yield* timed(ask(kind, client), "1 second")).exit)._tag, "ProviderError")
      const { ledger } = success((yield* timed(ask(kind, client), "1 second")).exit)
      assert.deepStrictEqual<unknown>(ledger.filter(({ _tag }) => _tag === "Waited"), [
        { _tag: "Waited", call: 2, at: 20, target: "p", for: "guard", guard: "circuit-breaker", duration: 20 }
      ])
    }))
)

describe("what is watched", () => {
  /** Remembers its listeners. */
  const healthOf = (listeners: Set<(change: Health.HealthChange) => void>): Health.Health => ({
    name: "redis",
    isUp: () => true,
    ask: (_, self) => self,
    watch: (listener) => {
      listeners.add(listener)
      return () => void listeners.delete(listener)
    }
  })

  it.effect("once each, is told since the client was built, and is forgotten with it", () =>
    Effect.gen(function*() {
      const events: Array<unknown> = []
      const hub = { publish: (event: unknown) => void events.push(event) } as unknown as Hub
      const scope = yield* Scope.make()
      const watch = yield* Scope.provide(Shared.watching(hub, 100), scope)
      const [one, two] = [new Set<(change: Health.HealthChange) => void>(), new Set<never>()]
      const health = healthOf(one)
      watch(health)
      watch(health)
      watch(healthOf(two))
      assert.deepStrictEqual([one.size, two.size], [1, 1])
      for (const listener of one) {
        listener({ store: "redis", to: "down", operation: "get", now: 130 })
        listener({ store: "redis", to: "up", now: 150 })
      }
      assert.deepStrictEqual(events, [
        { _tag: "StoreChanged", call: 0, at: 30, store: "redis", to: "down", operation: "get" },
        { _tag: "StoreChanged", call: 0, at: 50, store: "redis", to: "up" }
      ])
      yield* Scope.close(scope, Exit.void)
      assert.deepStrictEqual([one.size, two.size], [0, 0])
    }))

  it.effect("stores that tell how they are, and whatever else is made of them or without them", () =>
    Effect.scoped(Effect.gen(function*() {
      const health = healthOf(new Set())
      const memory = yield* Store.memory<string>({ maxEntries: 10 })
      const buckets = yield* RateLimiter.storeMemory()
      const circuits = yield* CircuitBreaker.storeMemory()
      const watched: Array<Health.Health> = []
      const watch = (one: Health.Health): void => void watched.push(Health.trusted(one))
      const policy = Failover.policy()
      const limits = RateLimiter.policy({ limits: [{ dimension: "requests", limit: 2, per: "1 minute" }] })
      const given = yield* RateLimiter.make()
      const all = Effect.gen(function*() {
        const order = yield* Shared.makeOrder(["p", "s"], policy, watch)
        const makeLimiter = yield* Shared.makesLimiters(watch)
        assert.strictEqual(yield* makeLimiter("given", given), given)
        const limiter = yield* makeLimiter("client", limits)
        const fleet = yield* Shared.makeFleet(watch)
        return {
          order: order.coolingDown(0, 0),
          dimensions: [...limiter.dimensions],
          store: fleet?.store,
          healths: watched.splice(0)
        }
      })
      const alone = { order: undefined, dimensions: ["requests"], store: undefined, healths: [] }
      assert.deepStrictEqual(yield* all, alone)

      const shared = (health: Health.Health | undefined) =>
        Effect.provide(
          all,
          Context.empty().pipe(
            Context.add(Failover.CoolDownStore, { ...memory, health }),
            Context.add(RateLimiter.RateLimiterStore, { ...buckets, health }),
            Context.add(CircuitBreaker.CircuitBreakerStore, { ...circuits, health })
          )
        )
      const told = yield* shared(health)
      assert.deepStrictEqual(told.dimensions, ["requests"])
      assert.deepStrictEqual(told.healths, [1, 1, 1].map(() => Health.trusted(health)))
      const silent = yield* shared(undefined)
      // Of a circuits' store that does not tell, it is found out.
      assert.deepStrictEqual(silent.healths.map(({ name }) => name), ["store"])
      assert.isDefined(silent.store)
    })))
})
