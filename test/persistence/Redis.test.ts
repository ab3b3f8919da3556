import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Layer, Random, Schema } from "effect"
import { Store } from "effect-resilient-llm/persistence"
import * as Redis from "effect-resilient-llm/persistence/Redis"
import * as Buckets from "effect-resilient-llm/resilience/internal/buckets"
import * as Client from "effect/persistence/Redis"
import { keepsTheCircuitLaws, keepsTheLaws, keepsTheLimitLaws, movable, survivesAClockSetBack } from "./laws.ts"
import { unique, usualRedis } from "./servers.ts"

const redis = await usualRedis()

const shared = (options: Redis.Options, now?: () => number) =>
  Layer.effectContext(
    Effect.map(Redis.make(options, now), ({ idempotency }) => Context.make(Store.SharedStore, idempotency))
  )

const minute = { ttl: 60_000 }

if (redis !== undefined) {
  keepsTheLaws("Redis", () => {
    const { advance, now } = movable()
    const layer = Layer.provide(shared({ prefix: unique() }, now), redis)
    return { layer: (bounds) => bounds === undefined ? layer : undefined, another: layer, advance }
  })

  keepsTheLaws("Redis in real time", () => {
    const layer = Layer.provide(Redis.layer({ prefix: unique() }), redis)
    return { layer, another: layer }
  })

  const limitsOfRedis = () => {
    const { advance, now } = movable()
    const store = Effect.map(Redis.make({ prefix: unique() }, now), ({ limits }) => limits)
    return { store: Effect.provide(store, redis), advance }
  }
  keepsTheLimitLaws("Redis", limitsOfRedis)
  survivesAClockSetBack("Redis", limitsOfRedis)

  keepsTheCircuitLaws("Redis", () => {
    const { advance, now } = movable()
    const store = Effect.map(Redis.make({ prefix: unique() }, now), ({ circuits }) => circuits)
    return { store: Effect.provide(store, redis), advance }
  })

  describe("Redis limits", () => {
    it.live.prop(
      "the script does what the core says, step by step",
      { seed: Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 1e9 })) },
      ({ seed }) =>
        Effect.gen(function*() {
          let time = 1_700_000_000_000
          const { limits: store } = yield* Redis.make({ prefix: unique() }, () => time)
          const draw = (n: number) => Effect.map(Random.next, (u) => Math.floor(u * n))
          const versions = [
            [{ dimension: "a", burst: 10, rate: 3 / 10_000 }, { dimension: "b", burst: 1000, rate: 0.123456789 }],
            [{ dimension: "a", burst: 7, rate: 0.001 }, { dimension: "b", burst: 500, rate: 1 / 3 }]
          ] as const
          let state = Buckets.empty
          for (let i = 0; i < 40; i++) {
            time += [0, 1, 137, 5000, -700][yield* draw(5)]!
            const limits = versions[(yield* draw(4)) === 0 ? 1 : 0]
            const costs = [yield* draw(4), (yield* draw(400)) / 3]
            if ((yield* draw(3)) > 0) {
              const request = {
                key: "k",
                limits,
                costs,
                maxWait: [0, 2000, Infinity][yield* draw(3)]!,
                extra: { count: yield* draw(5), each: [1, (yield* draw(90)) / 7] },
                instance: ["a", "b", undefined][yield* draw(3)]
              }
              const [expected, next] = Buckets.reserve(state, request, time)
              state = next
              assert.deepStrictEqual(yield* store.reserve(request), expected, `step ${i}`)
            } else {
              const change = {
                key: "k",
                limits,
                back: [(yield* draw(9)) - 4, (yield* draw(300)) - 150],
                early: [0, 0, 500, 20_000][yield* draw(4)]!,
                atMost: [undefined, (yield* draw(5)) === 0 ? 20 : undefined],
                block: [(yield* draw(5)) === 0 ? 1500 : 0, 0]
              }
              state = Buckets.settle(state, change, time)
              yield* store.settle(change)
            }
            assert.deepStrictEqual(yield* store.snapshot("k", limits), Buckets.look(state, limits, time), `step ${i}`)
          }
        }).pipe(Effect.scoped, Effect.provide(redis), Random.withSeed(seed)),
      { arbitrary: { runs: 60 } }
    )
  })

  describe("Redis", () => {
    it.live("everything expires by itself", () =>
      Effect.gen(function*() {
        const prefix = unique()
        const { cache, idempotency } = yield* Redis.make({ prefix })
        const { send } = yield* Client.Redis
        yield* cache.set("c", "v", { ttl: Infinity })
        yield* idempotency.set("v", "v", minute)
        const lease = yield* idempotency.acquire("l", 15_000)
        if (lease._tag !== "Acquired") throw new Error(lease._tag)
        yield* idempotency.renew("l", lease.fence, 10_000)
        const released = yield* idempotency.acquire("r", 15_000)
        if (released._tag === "Acquired") yield* idempotency.release("r", released.fence)
        const ttl = (key: string) => Effect.map(send<number>("PTTL", `${prefix}:${key}`), Number)
        assert.closeTo(yield* ttl("i:v"), 60_000, 1000)
        assert.closeTo(yield* ttl("i:l"), 70_000, 1000)
        assert.closeTo(yield* ttl("i:r"), 60_000, 1000)
        assert.isAbove(yield* ttl("c:c"), 1e11)
      }).pipe(Effect.scoped, Effect.provide(redis)))

    it.live.each(["another type", "what are no numbers"])(
      "a key that holds %s counts as absent, and is replaced",
      (what) =>
        Effect.gen(function*() {
          const prefix = unique()
          const { circuits, idempotency, limits } = yield* Redis.make({ prefix })
          const { send } = yield* Client.Redis
          const spoiled = <A, E>(name: string, fields: ReadonlyArray<string>, use: Effect.Effect<A, E>) => {
            const key = `${prefix}:${name}`
            const spoil = what === "another type"
              ? send("SET", key, "text")
              : send("HSET", key, ...fields.flatMap((field) => [field, "x"]))
            return Effect.andThen(Effect.andThen(send("DEL", key), spoil), use)
          }
          const record = <A, E>(use: Effect.Effect<A, E>) => spoiled("i:k", ["v", "s", "e", "f"], use)
          assert.isUndefined(yield* record(idempotency.get("k")))
          assert.strictEqual((yield* record(idempotency.acquire("k", 15_000)))._tag, "Acquired")
          assert.isFalse(yield* record(idempotency.renew("k", 7, 15_000)))
          assert.isTrue(yield* record(idempotency.complete("k", 7, "v", minute)))
          yield* record(idempotency.release("k", 7))
          yield* record(idempotency.remove("k"))
          yield* record(idempotency.set("k", "v", minute))
          assert.strictEqual((yield* idempotency.get("k"))?.value, "v")

          const of = [{ dimension: "requests", burst: 10, rate: 1e-6 }]
          const limit = <A, E>(use: Effect.Effect<A, E>) =>
            spoiled("l:k", ["at", "told", "l:requests", "b:requests", "i:other"], use)
          const level = (buckets: { readonly levels: ReadonlyArray<number> }) => Math.round(buckets.levels[0]!)
          const request = { key: "k", limits: of, costs: [1], maxWait: 0, instance: "me" }
          assert.strictEqual(level(yield* limit(limits.snapshot("k", of))), 10)
          yield* limit(limits.settle({ key: "k", limits: of, back: [-3] }))
          assert.strictEqual(level(yield* limits.snapshot("k", of)), 7)
          const reserved = yield* limit(limits.reserve(request))
          assert.deepInclude(reserved, { _tag: "Granted", instances: 1 })
          assert.strictEqual(level(reserved), 9)

          const circuit = <A, E>(use: Effect.Effect<A, E>) => spoiled("b:k", ["g", "u", "n", "o", "p:1"], use)
          assert.isUndefined(yield* circuit(circuits.look("k")))
          assert.isDefined((yield* circuit(circuits.probe("k", 1, 1000))).slot)
          yield* circuit(circuits.renew("k", 1, 1000))
          yield* circuit(circuits.release("k", 1))
          const tripped = yield* circuit(circuits.trip("k", { _tag: "Opened", openFor: 1000, openings: 1 }))
          assert.isTrue(tripped?.isOpen)
        }).pipe(Effect.scoped, Effect.provide(redis))
    )

    it.live("a clock that is set back keeps no circuit open longer than it was opened for", () =>
      Effect.gen(function*() {
        const { advance, now } = movable()
        const { circuits } = yield* Redis.make({ prefix: unique() }, now)
        const opened = yield* circuits.trip("k", { _tag: "Opened", openFor: 30_000, openings: 1 })
        yield* advance(10_000 - 3_600_000)
        assert.strictEqual((yield* circuits.look("k"))?.left, 30_000)
        assert.isUndefined((yield* circuits.probe("k", 1, 1000)).slot)
        yield* advance(30_000)
        const { circuit, slot } = yield* circuits.probe("k", 1, 1000)
        assert.isDefined(slot)
        assert.deepStrictEqual(circuit, { ...opened, left: 0 })
      }).pipe(Effect.scoped, Effect.provide(redis)))

    it.live("fences grow also after the server was emptied", () =>
      Effect.gen(function*() {
        const prefix = unique()
        const { idempotency } = yield* Redis.make({ prefix })
        const { send } = yield* Client.Redis
        let last = 0
        for (let i = 0; i < 20; i++) {
          const lease = yield* idempotency.acquire("k", 15_000)
          if (lease._tag !== "Acquired") throw new Error(lease._tag)
          assert.isAbove(lease.fence, last)
          last = lease.fence
          yield* send("DEL", `${prefix}:i:k`)
          assert.isFalse(yield* idempotency.renew("k", lease.fence, 1000))
        }
      }).pipe(Effect.scoped, Effect.provide(redis)))
  })
}

describe("Redis.layer", () => {
  it.effect("refuses options that are wrong", () =>
    Effect.gen(function*() {
      const never = Layer.succeed(Client.Redis, {} as Client.Redis["Service"])
      const error = yield* Effect.flip(Effect.scoped(Layer.build(Layer.provide(Redis.layer({ prefix: "" }), never))))
      assert.deepStrictEqual([error._tag, error.path], ["LlmConfigError", "redis.prefix"])
    }))
})
