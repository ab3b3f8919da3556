// Limiters in Redis, ours and others, as one question: may it go?
import { Ratelimit } from "@upstash/ratelimit"
import Bottleneck from "bottleneck"
import { Context, Effect, Exit, ManagedRuntime, Scope } from "effect"
import * as Client from "effect/persistence/Redis"
import { Redis as IORedis } from "ioredis"
import { RateLimiterRedis } from "rate-limiter-flexible"
import * as Redis from "../../../src/persistence/Redis.ts"
import { makeShared } from "../../../src/resilience/RateLimiter.ts"
import { clientOf } from "../../persistence/servers.ts"

export interface Job {
  readonly url: string
  readonly name: string
  /** Tokens a second, and as many at once. */
  readonly limit: number
  readonly millis: number
  readonly loops: number
  /** How far the clock on the wall is off, in milliseconds. */
  readonly clockOff: number
}

export interface Report {
  /** Milliseconds on the machine's monotonic clock. */
  readonly admitted: ReadonlyArray<number>
  /** Milliseconds that each decision took. */
  readonly took: ReadonlyArray<number>
}

/** One decision: may it go? */
type Ask = () => Promise<boolean>

const ours = async ({ limit, name, url }: Job): Promise<Ask> => {
  const runtime = ManagedRuntime.make(clientOf(url))
  const context = await runtime.context()
  const redis = Context.get(context, Client.Redis)
  const limiter = await runtime.runPromise(
    Effect.gen(function*() {
      yield* Effect.retry(Effect.delay(redis.send("PING"), 20), { times: 100 })
      const { limits } = yield* Redis.make({ prefix: name })
      const options = { limits: [{ dimension: "requests", limit, per: "1 second" }], maxWait: 0 } as const
      return yield* makeShared("vendor", limits, options)
    }).pipe(Effect.provideService(Client.Redis, redis), Effect.provideService(Scope.Scope, Scope.makeUnsafe()))
  )
  const one = Effect.map(Effect.exit(limiter.acquire(1)), Exit.isSuccess)
  return () => Effect.runPromise(one)
}

const upstash =
  (limiterOf: (limit: number) => ConstructorParameters<typeof Ratelimit>[0]["limiter"]) =>
  async ({ limit, name, url }: Job): Promise<Ask> => {
    const redis = new IORedis(url)
    // Its scripts say `allow-key-locking`, which only Upstash knows: without it they have another hash.
    const loaded = new Map<string, string>()
    let last = ""
    const limiter = new Ratelimit({
      // Its own client speaks HTTP to Upstash; it needs these two commands of it.
      redis: {
        evalsha: async (sha: string, keys: ReadonlyArray<string>, args: ReadonlyArray<unknown>) => {
          last = sha
          const known = loaded.get(sha)
          if (known === undefined) throw new Error("NOSCRIPT")
          return redis.evalsha(known, keys.length, ...keys, ...args.map(String))
        },
        eval: async (script: string, keys: ReadonlyArray<string>, args: ReadonlyArray<unknown>) => {
          const sha = last
          const text = script.replace(/^#!lua.*/, "")
          loaded.set(sha, String(await redis.script("LOAD", text)))
          return redis.eval(text, keys.length, ...keys, ...args.map(String))
        }
      } as never,
      prefix: name,
      limiter: limiterOf(limit),
      ephemeralCache: false,
      timeout: 0
    })
    return async () => (await limiter.limit("vendor")).success
  }

const flexible = async ({ limit, name, url }: Job): Promise<Ask> => {
  const storeClient = new IORedis(url)
  const limiter = new RateLimiterRedis({ storeClient, keyPrefix: name, points: limit, duration: 1 })
  return () => limiter.consume("vendor", 1).then(() => true, () => false)
}

const bottleneck = async ({ limit, name, url }: Job): Promise<Ask> => {
  const limiter = new Bottleneck({
    id: name,
    datastore: "ioredis",
    clientOptions: { port: Number(new URL(url).port), host: "127.0.0.1" },
    Redis: IORedis,
    reservoir: limit,
    reservoirIncreaseInterval: 250,
    reservoirIncreaseAmount: Math.floor(limit / 4),
    reservoirIncreaseMaximum: limit
  })
  await limiter.ready()
  // It has no way to be refused at once: jobs stand in its line.
  return () => limiter.schedule(async () => true)
}

export const subjects: Readonly<Record<string, (job: Job) => Promise<Ask>>> = {
  "effect-resilient-llm": ours,
  "@upstash/ratelimit, token bucket": upstash((limit) => Ratelimit.tokenBucket(limit, "1 s", limit)),
  "@upstash/ratelimit, sliding window": upstash((limit) => Ratelimit.slidingWindow(limit, "1 s")),
  "rate-limiter-flexible": flexible,
  bottleneck
}
