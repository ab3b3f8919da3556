// State in a Redis Cluster: a `Redis` service for it, over node-redis. Every script of ours touches one key, and goes to the
// node that has the key; scripts are loaded on every master.
import { Effect, Layer } from "effect"
import { LlmClient } from "effect-resilient-llm"
import * as State from "effect-resilient-llm/persistence/Redis"
import { ScriptedProvider } from "effect-resilient-llm/testing"
import * as Redis from "effect/persistence/Redis"
import { createCluster } from "redis"

const tried = <A>(f: () => Promise<A>) =>
  Effect.tryPromise({ try: f, catch: (cause) => new Redis.RedisError({ cause }) })

type Send = <A = unknown>(command: string, ...args: ReadonlyArray<string>) => Effect.Effect<A, Redis.RedisError>

export const layer = (...urls: ReadonlyArray<string>): Layer.Layer<Redis.Redis, Redis.RedisError> =>
  Layer.effect(
    Redis.Redis,
    Effect.gen(function*() {
      const { disableOfflineQueue, pingInterval, socket } = State.nodeOptions("")
      const defaults = { disableOfflineQueue, pingInterval, socket }
      const options = { rootNodes: urls.map((url) => ({ url })), defaults }
      const open = () => {
        const cluster = createCluster(options)
        // Errors of a connection are told by the commands that fail.
        cluster.on("error", () => {})
        return tried(() => cluster.connect())
      }
      const cluster = yield* Effect.acquireRelease(open(), (cluster) => Effect.sync(() => cluster.destroy()))
      const send: Send = <A>(command: string, ...args: ReadonlyArray<string>) =>
        tried(async () => {
          if (command === "SCRIPT") {
            const replies = await Promise.all(
              cluster.masters.map(async (master) => (await cluster.nodeClient(master)).sendCommand([command, ...args]))
            )
            return replies[0] as A
          }
          const key = command === "EVALSHA" ? args[2] : undefined
          return cluster.sendCommand<A>(key, false, [command, ...args])
        })
      return yield* Redis.make({
        send,
        // Published messages reach every node.
        subscribe: (channel, onMessage) =>
          Effect.as(
            Effect.acquireRelease(
              Effect.tap(open(), (subscriber) =>
                tried(() =>
                  subscriber.subscribe(channel, (message, channel) => {
                    onMessage({ channel, message })
                  })
                )),
              (subscriber) => Effect.sync(() => subscriber.destroy())
            ),
            Effect.never
          ),
        // Reserved connections are for blocking commands, of which we use none.
        connect: Effect.fail(new Redis.RedisError({ cause: "not here" }))
      })
    })
  )

class Vendor extends ScriptedProvider.Service<Vendor>()("app/Vendor") {}

const program = Effect.gen(function*() {
  const client = yield* LlmClient
  const order = { prompt: "Hi", idempotencyKey: "order-7" }
  for (let i = 0; i < 2; i++) console.log((yield* client.complete(order)).source)
})

if (import.meta.main) {
  const nodes = process.env["REDIS_CLUSTER"]?.split(",")
  if (nodes === undefined) {
    console.log("Name some of its nodes: REDIS_CLUSTER=redis://10.0.0.1:6379,redis://10.0.0.2:6379")
  } else {
    const client = LlmClient.layer([Vendor]).pipe(
      Layer.provide(Vendor.layer()),
      Layer.provide(State.layer().pipe(Layer.provide(State.background(layer(...nodes)))))
    )
    await Effect.runPromise(Effect.provide(program, client))
  }
}
