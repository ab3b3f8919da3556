// A Redis Cluster of three nodes on loopback, with the client that docs/examples/redis-cluster.ts shows.
import { afterAll, assert, describe, it } from "@effect/vitest"
import { Context, Effect, Exit, Layer, Queue, Scope } from "effect"
import { Store } from "effect-resilient-llm/persistence"
import * as State from "effect-resilient-llm/persistence/Redis"
import * as Redis from "effect/persistence/Redis"
import { execFileSync } from "node:child_process"
import { layer as clusterLayer } from "../../docs/examples/redis-cluster.ts"
import { keepsTheCircuitLaws, keepsTheLaws, keepsTheLimitLaws, movable } from "./laws.ts"
import { freePort, hasRedisServer, missing, RedisServer, unique } from "./servers.ts"

if (!hasRedisServer) missing("redis-server")

const node = async () =>
  RedisServer.start(await freePort(), ["--cluster-enabled", "yes", "--cluster-port", `${await freePort()}`])

const cluster = async () => {
  const nodes = [await node(), await node(), await node()]
  const addresses = nodes.map(({ port }) => `127.0.0.1:${port}`)
  execFileSync("redis-cli", ["--cluster", "create", ...addresses, "--cluster-yes"])
  const info = (): boolean =>
    nodes.every(({ port }) =>
      execFileSync("redis-cli", ["-p", `${port}`, "cluster", "info"], { encoding: "utf8" }).includes("cluster_state:ok")
    )
  while (!info()) await new Promise((resolve) => setTimeout(resolve, 50))
  return nodes
}

describe.skipIf(!hasRedisServer)("Redis Cluster", async () => {
  const nodes = hasRedisServer ? await cluster() : []
  const scope = Scope.makeUnsafe()
  const client = await Effect.runPromise(
    Layer.buildWithScope(clusterLayer(...nodes.map(({ url }) => url)), scope)
  )
  const redis = Layer.succeedContext(client)
  afterAll(async () => {
    await Effect.runPromise(Scope.close(scope, Exit.void))
    for (const node of nodes) await node.stop()
  })

  keepsTheLaws("Redis Cluster", () => {
    const { advance, now } = movable()
    const store = Effect.map(
      State.make({ prefix: unique() }, now),
      ({ idempotency }) => Context.make(Store.SharedStore, idempotency)
    )
    const layer = Layer.provide(Layer.effectContext(store), redis)
    return { layer: (bounds) => bounds === undefined ? layer : undefined, another: layer, advance }
  })

  keepsTheLimitLaws("Redis Cluster", () => {
    const { advance, now } = movable()
    const store = Effect.map(State.make({ prefix: unique() }, now), ({ limits }) => limits)
    return { store: Effect.provide(store, redis), advance }
  })

  keepsTheCircuitLaws("Redis Cluster", () => {
    const { advance, now } = movable()
    const store = Effect.map(State.make({ prefix: unique() }, now), ({ circuits }) => circuits)
    return { store: Effect.provide(store, redis), advance }
  })

  it.live("spreads keys over all nodes", () =>
    Effect.gen(function*() {
      const { idempotency } = yield* State.make({ prefix: unique() })
      for (let i = 0; i < 60; i++) yield* idempotency.set(`key-${i}`, "value", { ttl: 60_000 })
      for (const { port } of nodes) {
        const size = execFileSync("redis-cli", ["-p", `${port}`, "dbsize"], { encoding: "utf8" })
        assert.isAbove(Number(size), 5)
      }
    }).pipe(Effect.provide(redis)))

  it.live("a published message reaches whoever subscribes at another node", () =>
    Effect.gen(function*() {
      const redis = yield* Redis.Redis
      const heard = yield* redis.subscribe("channel")
      yield* Effect.sleep(100)
      for (const { port } of nodes) {
        execFileSync("redis-cli", ["-p", `${port}`, "publish", "channel", `from ${port}`])
      }
      const messages = yield* Effect.forEach(nodes, () => Queue.take(heard))
      assert.deepStrictEqual(messages.map(({ message }) => message), nodes.map(({ port }) => `from ${port}`))
    }).pipe(Effect.scoped, Effect.provide(redis)))
})
