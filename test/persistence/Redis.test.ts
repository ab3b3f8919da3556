import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Layer } from "effect"
import { Store } from "effect-resilient-llm/persistence"
import * as Redis from "effect-resilient-llm/persistence/Redis"
import * as Client from "effect/persistence/Redis"
import { keepsTheLaws, movable } from "./laws.ts"
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
