/**
 * State in Redis, for fleets: over the `Redis` service of `effect/persistence`, so with any client that provides it.
 *
 * Every operation is one script on one key, so Redis Cluster works as well. Time is the server's.
 *
 * @since 0.2.0
 */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Latch from "effect/Latch"
import * as Layer from "effect/Layer"
import * as Client from "effect/persistence/Redis"
import * as Queue from "effect/Queue"
import * as Schedule from "effect/Schedule"
import * as Scope from "effect/Scope"
import { attempt, readOptions } from "../internal/option.ts"
import type { LlmConfigError } from "../LlmError.ts"
import { CircuitBreakerStore, type CircuitStore } from "../resilience/CircuitBreaker.ts"
import { CoolDownStore } from "../resilience/Failover.ts"
import { IdempotencyStore } from "../resilience/Idempotency.ts"
import { type LimitStore, RateLimiterStore, type Reserved } from "../resilience/RateLimiter.ts"
import { ResponseCacheStore } from "../resilience/ResponseCache.ts"
import * as Health from "./Health.ts"
import { isTooLarge, ownName, type SharedOptions, SharedOptionsSchema, type SharedPolicy } from "./internal/bounds.ts"
import * as Circuits from "./internal/redisCircuits.ts"
import * as Limits from "./internal/redisLimits.ts"
import * as Scripts from "./internal/redisScripts.ts"
import { type Acquired, type LeaseStore, type Operation, SharedStore, StoreError } from "./Store.ts"

// -----------------------------------------------------------------------------
// options
// -----------------------------------------------------------------------------

/**
 * @category models
 * @since 0.2.0
 */
export interface Options extends SharedOptions {}

// -----------------------------------------------------------------------------
// layers
// -----------------------------------------------------------------------------

/**
 * Keeps records, leases, cached answers, limits, circuits and cool-downs in Redis 7 or later, or what speaks like it.
 *
 * **Details**
 *
 * - Keys are `<prefix>:<kind>:<hash>`. What is in them expires by itself.
 * - Redis can be down when the layer is built, and at any time after: no call fails for it (see `Health`).
 * - A client must not wait for ever by itself: see {@link nodeOptions} and {@link background}.
 *
 * **Example** (With node-redis)
 *
 * ```ts
 * import { NodeRedis } from "@effect/platform-node"
 * import { Layer } from "effect"
 * import * as Redis from "effect-resilient-llm/persistence/Redis"
 *
 * const client = Redis.background(NodeRedis.layer(Redis.nodeOptions("redis://localhost:6379")))
 * const state = Redis.layer({ prefix: "my-app" }).pipe(Layer.provide(client))
 * ```
 *
 * @category layers
 * @since 0.2.0
 */
export const layer = (options?: Options): Layer.Layer<SharedStore, LlmConfigError, Client.Redis> =>
  Layer.effectContext(Effect.map(make(options), provided))

/**
 * Builds a client in the background, again and again until it is connected: a layer whose building does not need Redis to
 * be up. Commands wait for the first attempt to connect; after one that failed they fail at once until the next succeeds.
 * Closing waits a second at most for a client that hangs.
 *
 * @category layers
 * @since 0.2.0
 */
export const background = <A, E>(client: Layer.Layer<Client.Redis | A, E>): Layer.Layer<Client.Redis> =>
  Layer.effect(
    Client.Redis,
    Effect.gen(function*() {
      const scope = yield* Effect.scope
      let connected: Client.Redis["Service"] | undefined
      const tried = yield* Latch.make()
      const connect = Effect.flatMap(Scope.make(), (own) =>
        Effect.onExit(
          Effect.flatMap(Layer.buildWithScope(client, own), (context) => {
            connected = Context.get(context, Client.Redis)
            return Effect.andThen(tried.open, Effect.never)
          }),
          (exit) => {
            connected = undefined
            tried.openUnsafe()
            // A client waits for its commands before it closes, and a server that hangs does not answer them.
            const closing = Effect.runForkWith(context)(Scope.close(own, exit))
            return Effect.race(
              Effect.callback<void>((resume) => {
                closing.addObserver(() => resume(Effect.void))
              }),
              Effect.sleep("1 second")
            )
          }
        ))
      const context = yield* Effect.context()
      yield* Effect.forkIn(
        Effect.retry(connect, Schedule.min([Schedule.exponential(100), Schedule.spaced(2000)])),
        scope
      )
      const use = <B, R = never>(
        f: (redis: Client.Redis["Service"]) => Effect.Effect<B, Client.RedisError, R>
      ): Effect.Effect<B, Client.RedisError, R> =>
        Effect.andThen(
          tried.await,
          Effect.suspend(() =>
            connected === undefined ? Effect.fail(new Client.RedisError({ cause: "not connected yet" })) : f(connected)
          )
        )
      const service: Client.Redis["Service"] = {
        send: (command, ...args) => use((redis) => redis.send(command, ...args)),
        eval: (script) => (...params) => use((redis) => redis.eval(script)(...params)),
        reserve: use((redis) => redis.reserve),
        subscribe: (channel) =>
          Effect.catch(use((redis) => redis.subscribe(channel)), (error) =>
            Effect.tap(
              Queue.unbounded<Client.RedisMessage, Client.RedisError>(),
              (queue) => Queue.fail(queue, error)
            ))
      }
      return service
    })
  )

/**
 * Options of node-redis that do not wait for ever: what is written while Redis is away fails at once, a server that hangs
 * is noticed after 5 seconds and connected anew until it answers, and an idle connection stays open.
 *
 * **Gotchas**
 *
 * By default node-redis keeps commands until Redis comes back, waits without end for one that hangs, gives up for good
 * after a `socketTimeout`, and counts silence of its own as one.
 *
 * @category constructors
 * @since 0.2.0
 */
export const nodeOptions = (url: string): NodeOptions => ({
  url,
  disableOfflineQueue: true,
  pingInterval: 2000,
  socket: {
    connectTimeout: 2000,
    socketTimeout: 5000,
    reconnectStrategy: (retries) => Math.min(50 * 2 ** Math.min(retries, 6), 2000)
  }
})

/**
 * @category models
 * @since 0.2.0
 */
export interface NodeOptions {
  readonly url: string
  readonly disableOfflineQueue: true
  readonly pingInterval: number
  readonly socket: {
    readonly connectTimeout: number
    readonly socketTimeout: number
    readonly reconnectStrategy: (retries: number) => number
  }
}

// -----------------------------------------------------------------------------
// stores
// -----------------------------------------------------------------------------

/**
 * What one Redis gives.
 *
 * @internal
 */
export interface Stores {
  readonly idempotency: LeaseStore<string>
  readonly cache: LeaseStore<string>
  readonly limits: LimitStore
  readonly coolDowns: LeaseStore<string>
  readonly circuits: CircuitStore
  readonly health: Health.Health
}

const provided = ({ cache, circuits, coolDowns, idempotency, limits }: Stores): Context.Context<SharedStore> =>
  Context.make(SharedStore, idempotency).pipe(
    Context.add(IdempotencyStore, idempotency),
    Context.add(ResponseCacheStore, cache),
    Context.add(RateLimiterStore, limits),
    Context.add(CoolDownStore, coolDowns),
    Context.add(CircuitBreakerStore, circuits)
  )

/** @internal */
export const make = (
  options?: Options,
  now?: () => number
): Effect.Effect<Stores, LlmConfigError, Client.Redis | Scope.Scope> =>
  Effect.gen(function*() {
    const policy = yield* attempt(() => readOptions(SharedOptionsSchema, options, "redis"))
    const redis = yield* Client.Redis
    const health = Health.make({ name: "redis", ping: redis.send("PING"), scope: yield* Effect.scope })
    const owner = yield* ownName
    const time = (): string => now === undefined ? "" : String(now())
    const records = (kind: string): LeaseStore<string> => ({
      ...makeRecords(redis, policy, kind, owner, time),
      health
    })
    const limits = { ...makeLimits(redis, policy.prefix, time), health }
    const circuits = yield* makeCircuits(redis, policy.prefix, time, health)
    return { idempotency: records("i"), cache: records("c"), limits, coolDowns: records("d"), circuits, health }
  })

const asked = <A, B>(
  operation: Operation,
  effect: () => Effect.Effect<A, unknown>,
  use: (reply: A) => B
): Effect.Effect<B, StoreError> =>
  Effect.mapBoth(Effect.suspend(effect), { onSuccess: use, onFailure: () => new StoreError({ operation }) })

const nothing = (): void => {}

const makeLimits = (redis: Client.Redis["Service"], prefix: string, now: () => string): LimitStore => {
  const name = (key: string): string => `${prefix}:l:${key}`
  const run = {
    reserve: redis.eval(Limits.reserve),
    settle: redis.eval(Limits.settle),
    snapshot: redis.eval(Limits.snapshot)
  }
  return {
    reserve: (request) =>
      asked(
        "reserve",
        () => run.reserve(name(request.key), now(), request),
        ([granted, wait, extra, binding, instances, ...levels]): Reserved => {
          const known = {
            levels: levels.map(Number),
            instances: Number(instances) < 0 ? undefined : Number(instances)
          }
          return Number(granted) === 1
            ? { _tag: "Granted", wait: Number(wait), extra: Number(extra), ...known }
            : { _tag: "Refused", retryAfter: Number(wait), binding: Number(binding), ...known }
        }
      ),
    settle: (change) => asked("settle", () => run.settle(name(change.key), now(), change), nothing),
    snapshot: (key, limits) =>
      asked("snapshot", () => run.snapshot(name(key), now(), limits), (reply) => ({
        levels: limits.map((_, i) => Number(reply[2 * i])),
        blockedFor: limits.map((_, i) => Number(reply[2 * i + 1]))
      }))
  }
}

const makeCircuits = (
  redis: Client.Redis["Service"],
  prefix: string,
  now: () => string,
  health: Health.Health
): Effect.Effect<CircuitStore, never, Scope.Scope> => {
  const channel = `${prefix}:b`
  return Effect.map(listening(redis, channel, health), (watch) => {
    const name = (key: string): string => `${channel}:${key}`
    const run = {
      trip: redis.eval(Circuits.trip),
      probe: redis.eval(Circuits.probe),
      renew: redis.eval(Circuits.renew),
      release: redis.eval(Circuits.release),
      look: redis.eval(Circuits.look)
    }
    return {
      trip: (key, change) => asked("trip", () => run.trip(name(key), now(), change, channel, key), Circuits.circuitOf),
      probe: (key, slots, lease) =>
        asked(
          "probe",
          () => run.probe(name(key), now(), String(slots), Scripts.millis(lease)),
          ([slot, circuit]) => ({
            slot: slot === "" ? undefined : Number(slot),
            circuit: Circuits.circuitOf(circuit)
          })
        ),
      renew: (key, slot, lease) =>
        asked("renew", () => run.renew(name(key), now(), String(slot), Scripts.millis(lease)), nothing),
      release: (key, slot) => asked("release", () => run.release(name(key), now(), String(slot)), nothing),
      look: (key) => asked("look", () => run.look(name(key), now()), Circuits.circuitOf),
      watch,
      health
    }
  })
}

/** Listens to a channel from the first listener on, while the server is up, and again a second after it was cut. */
const listening = (
  redis: Client.Redis["Service"],
  channel: string,
  health: Health.Health
): Effect.Effect<NonNullable<CircuitStore["watch"]>, never, Scope.Scope> =>
  Effect.gen(function*() {
    const scope = yield* Effect.scope
    const fork = Effect.runForkWith(yield* Effect.context())
    const listeners = new Map<string, Set<() => void>>()
    const tell = ({ message }: Client.RedisMessage): void => {
      for (const changed of listeners.get(message) ?? []) changed()
    }
    const until = (state: "up" | "down"): Effect.Effect<void> =>
      Effect.callback((resume) => {
        const forget = health.watch(({ to }) => {
          if (to === state) resume(Effect.void)
        })
        return Effect.sync(forget)
      })
    const once = Effect.scoped(
      Effect.flatMap(redis.subscribe(channel), (messages) => Effect.forever(Effect.map(Queue.take(messages), tell)))
    )
    // A client that reconnects by itself would log each attempt.
    const whileUp = Effect.ignoreCause(Effect.raceFirst(once, until("down")))
    const pause = Effect.suspend(() => health.isUp() ? Effect.sleep("1 second") : until("up"))
    const listen = Effect.forever(Effect.andThen(whileUp, pause))
    let isListening = false
    return (key, changed) => {
      if (!isListening) {
        isListening = true
        fork(Effect.forkIn(listen, scope))
      }
      const known = listeners.get(key) ?? new Set()
      listeners.set(key, known.add(changed))
      return () => {
        known.delete(changed)
        if (known.size === 0) listeners.delete(key)
      }
    }
  })

const makeRecords = (
  redis: Client.Redis["Service"],
  { maxValueBytes, prefix }: SharedPolicy,
  kind: string,
  owner: string,
  now: () => string
): LeaseStore<string> => {
  const name = (key: string): string => `${prefix}:${kind}:${key}`
  const run = {
    get: redis.eval(Scripts.get),
    set: redis.eval(Scripts.set),
    remove: redis.eval(Scripts.remove),
    acquire: redis.eval(Scripts.acquire),
    renew: redis.eval(Scripts.renew),
    complete: redis.eval(Scripts.complete),
    release: redis.eval(Scripts.release)
  }
  const refused = (operation: "set" | "complete", value: string): StoreError | undefined =>
    isTooLarge(value, maxValueBytes) ? new StoreError({ operation, reason: "too-large" }) : undefined
  return {
    get: (key) =>
      asked(
        "get",
        () => run.get(name(key), now()),
        (reply) => reply === null ? undefined : { value: reply[0], age: Number(reply[1]) }
      ),
    set: (key, value, { ttl }) =>
      refused("set", value) ??
        asked("set", () => run.set(name(key), now(), value, Scripts.millis(ttl)), nothing),
    remove: (key) => asked("remove", () => run.remove(name(key), now()), nothing),
    acquire: (key, lease, { replacing, takeOver } = {}) =>
      asked(
        "acquire",
        () =>
          run.acquire(
            name(key),
            now(),
            Scripts.millis(lease),
            owner,
            takeOver === true ? "1" : "0",
            replacing === undefined ? "0" : "1",
            replacing ?? ""
          ),
        (reply): Acquired<string> => {
          switch (reply[0]) {
            case "F":
              return { _tag: "Found", value: reply[1], age: Number(reply[2]) }
            case "H":
              return { _tag: "Held", left: Number(reply[1]) }
            case "A":
              return { _tag: "Acquired", fence: Number(reply[1]) }
          }
        }
      ),
    renew: (key, fence, lease) =>
      asked(
        "renew",
        () => run.renew(name(key), now(), String(fence), Scripts.millis(lease)),
        (done) => Number(done) === 1
      ),
    complete: (key, fence, value, { ttl }) =>
      refused("complete", value) ??
        asked(
          "complete",
          () => run.complete(name(key), now(), String(fence), value, Scripts.millis(ttl)),
          (done) => Number(done) === 1
        ),
    release: (key, fence) => asked("release", () => run.release(name(key), now(), String(fence)), nothing)
  }
}
