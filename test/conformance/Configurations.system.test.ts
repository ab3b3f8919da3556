// The laws in pipelines that nobody has thought of: options drawn at random, patterns on and off, and the same chaos.
// `CONFIGURATIONS=1000-1999 npx vitest run …` goes through others.
import { assert, describe, it } from "@effect/vitest"
import { Effect, Random } from "effect"
import type { LlmConfig } from "effect-resilient-llm"
import { Invariants } from "effect-resilient-llm/testing"
import { runOf } from "./Chaos.properties.ts"
import { type Plan, run, targetIds } from "./Chaos.run.ts"

const planOf = (seed: number): Effect.Effect<Plan> =>
  Effect.map(Random.Random, (random): Plan => {
    const whole = (from: number, to: number): number => from + Math.floor(random.nextDoubleUnsafe() * (to - from + 1))
    const one = <const A>(...of: ReadonlyArray<A>): A => of[whole(0, of.length - 1)]!
    const options: LlmConfig.Options = {
      retry: one<LlmConfig.Options["retry"]>(false, {}, {
        maxRetries: whole(0, 5),
        baseDelay: whole(1, 1000),
        factor: one(1, 1.5, 2, 3),
        maxDelay: whole(100, 8000),
        jitter: one("equal", "full", "none"),
        maxRetryAfter: one(0, 500, 1500, 60_000)
      }),
      retryBudget: one<LlmConfig.Options["retryBudget"]>(false, {}, {
        capacity: whole(0, 30),
        perAttempt: one(0, 0.1, 0.5, 1),
        perSecond: one(0, 0.1, 2)
      }),
      timeout: {
        attempt: whole(500, 9000),
        firstToken: one(undefined, whole(300, 5000)),
        idle: whole(300, 4000),
        deadline: whole(2000, 30_000)
      },
      circuitBreaker: one<LlmConfig.Options["circuitBreaker"]>(false, {}, { scope: "model" }, {
        failureThreshold: whole(1, 10),
        failureRate: one(0.3, 0.6, 0.9),
        minimumCalls: whole(2, 20),
        window: whole(1000, 60_000),
        recoveryTimeout: whole(100, 3000),
        maxRecoveryTimeout: whole(3000, 20_000),
        halfOpenProbes: whole(1, 3),
        successThreshold: whole(1, 3),
        slowCall: one<LlmConfig.CircuitBreakerOptions["slowCall"]>(undefined, false, { duration: whole(500, 6000) })
      }),
      rateLimit: one<LlmConfig.Options["rateLimit"]>(false, {}, {
        capacity: whole(5, 60),
        refillPerSecond: whole(1, 40),
        maxWait: one(0, 1000, 10_000),
        queue: whole(0, 200)
      }),
      idempotency: one<LlmConfig.Options["idempotency"]>(false, {}, { derive: "join" }, {
        derive: "replay",
        ttl: whole(1000, 60_000),
        maxEntries: whole(1, 50)
      }),
      cache: one<LlmConfig.Options["cache"]>(false, {}, {
        ttl: whole(100, 30_000),
        swr: one(0, 5000),
        staleIfError: whole(0, 60_000),
        maxEntries: whole(1, 60),
        readThrough: one(true, false)
      }),
      failover: one<LlmConfig.Options["failover"]>(false, {}, { maxRetryAfter: whole(0, 8000) }, {
        maxAttempts: whole(1, 4)
      }),
      bulkhead: one<LlmConfig.Options["bulkhead"]>(
        false,
        { maxConcurrent: whole(1, 25), queue: whole(0, 50), maxWait: whole(0, 8000) },
        { adaptive: true, queue: whole(0, 50) }
      ),
      hedge: one<LlmConfig.Options["hedge"]>(false, { delay: whole(50, 2000), maxHedges: whole(1, 2) }, {
        delay: "p95"
      }),
      loadShedding: one<LlmConfig.Options["loadShedding"]>(false, {}),
      routing: one<LlmConfig.Options["routing"]>(false, { strategy: "weights" }, { strategy: "fastest" })
    }
    const limits = one<Plan["limits"]>(undefined, [{ dimension: "requests", limit: whole(5, 60), per: 10_000 }], {
      limits: [{ dimension: "requests", limit: whole(5, 60), per: 10_000 }],
      maxWait: one(0, 2000)
    })
    return {
      kind: one("complete", "stream"),
      seed: `configuration ${seed}`,
      calls: 300,
      targets: targetIds.slice(0, whole(1, 2)).map((id) => ({ id, chaos: id === "p" || one(true, false) })),
      options,
      ...(limits === undefined ? undefined : { limits })
    }
  }).pipe(Random.withSeed(`options ${seed}`))

const [from = 1, to = 30] = process.env["CONFIGURATIONS"]?.split("-").map(Number) ?? []

describe("configurations drawn at random", () => {
  it(`${from} to ${to} keep every law`, async () => {
    for (let seed = from; seed <= to; seed++) {
      const plan = await Effect.runPromise(planOf(seed))
      const log = await Effect.runPromise(run(plan))
      const found = Invariants.check(runOf(log))
      assert.isTrue(found.length === 0, `${seed}: ${JSON.stringify(found.slice(0, 3))}\n${JSON.stringify(plan)}`)
      assert.isAbove(log.events.length, 300)
    }
  }, 600_000)
})
