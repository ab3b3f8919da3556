// Limits by tenant.
import { assert, describe, it } from "@effect/vitest"
import { type Duration, Effect, Exit, Fiber } from "effect"
import type { LlmRequest } from "effect-resilient-llm"
import * as RateLimiter from "effect-resilient-llm/resilience/RateLimiter"
import { ScriptedProvider } from "effect-resilient-llm/testing"
import { TestClock } from "effect/testing"
import { ask, failure, fork, kinds, setUp, success, vector } from "../support.ts"
import { calm, countingSleeps, start } from "./waiting.ts"

const requests = (limit: number, per: Duration.Input, by?: "tenant"): RateLimiter.Limit => ({
  dimension: "requests",
  limit,
  per,
  ...(by && { by })
})
const perTenant = [requests(2, "2 seconds", "tenant")]
const both = [requests(3, "3 seconds"), ...perTenant]

type Make = (options: RateLimiter.Options) => Effect.Effect<RateLimiter.RateLimiter, unknown>

const taken = (limiter: RateLimiter.RateLimiter, tenant: string | undefined, count: number) =>
  Effect.map(
    Effect.forEach(Array.from({ length: count }), () => Effect.exit(limiter.acquire(1, { tenant, maxWait: 0 }))),
    (exits) => exits.filter(Exit.isSuccess).length
  )

const homes: ReadonlyArray<readonly [string, Make]> = [
  ["in memory", (options) => RateLimiter.make(options)],
  [
    "over a store",
    (options) =>
      Effect.gen(function*() {
        const store = yield* RateLimiter.storeMemory()
        // For the length of a test, which has no scope of its own.
        return yield* Effect.scoped(RateLimiter.makeShared("vendor", store, options))
      })
  ]
]

describe.each(homes)("limits by tenant, %s", (_, make) => {
  it.effect("each has its own, who has no name is one, and all share the rest", () =>
    Effect.gen(function*() {
      const alone = yield* make({ limits: perTenant })
      for (const tenant of ["x", "y", undefined]) assert.strictEqual(yield* taken(alone, tenant, 5), 2)
      const limiter = yield* make({ limits: both })
      assert.deepStrictEqual([yield* taken(limiter, "x", 5), yield* taken(limiter, "y", 5)], [2, 1])
      yield* TestClock.adjust(1000)
      assert.deepStrictEqual([yield* taken(limiter, "x", 5), yield* taken(limiter, "y", 5)], [1, 0])
    }))

  it.effect("an `onAcquired` that throws takes nothing, neither of the tenant's nor of what all share", () =>
    Effect.gen(function*() {
      const limiter = yield* make({ limits: both })
      const onAcquired = (): never => {
        throw new Error("thrown")
      }
      const exit = yield* Effect.exit(limiter.acquire(1, { tenant: "x", onAcquired }))
      assert.isTrue(Exit.hasDies(exit))
      assert.deepStrictEqual([yield* taken(limiter, "x", 5), yield* taken(limiter, "y", 5)], [2, 1])
    }))

  it.effect("who has used up its own waits in nobody's way", () =>
    Effect.gen(function*() {
      const limiter = yield* make({ limits: [requests(100, "1 second"), ...perTenant] })
      assert.strictEqual(yield* taken(limiter, "x", 2), 2)
      const waits = yield* start(limiter.acquire(1, { tenant: "x" }))
      yield* calm
      assert.isUndefined(waits.pollUnsafe())
      assert.strictEqual(yield* taken(limiter, "y", 2), 2)
      yield* TestClock.adjust(1000)
      assert.isDefined(waits.pollUnsafe())
    }))

  it.effect("what the limits of all refuse has cost the tenant nothing", () =>
    Effect.gen(function*() {
      const limiter = yield* make({ limits: [requests(1, "1 hour"), ...perTenant] })
      assert.strictEqual(yield* taken(limiter, "x", 1), 1)
      assert.strictEqual(yield* taken(limiter, "y", 10), 0)
      // The same for one that is interrupted while it waits for them.
      const waits = yield* start(limiter.acquire(1, { tenant: "y", maxWait: Infinity }))
      yield* Fiber.interrupt(waits)
      const left = yield* start(Effect.exit(limiter.acquire({ requests: 0 }, { tenant: "y" })))
      assert.isDefined(left.pollUnsafe())
    }))
})

describe("limits by tenant", () => {
  it.effect("a reservation is of both: what it gives back goes to both, what a vendor says is about all", () =>
    Effect.gen(function*() {
      const limiter = yield* RateLimiter.make({
        limits: [
          { dimension: "tokens", limit: 1000, per: "1 hour" },
          { dimension: "tokens", limit: 100, per: "1 hour", by: "tenant" }
        ]
      })
      const held = yield* limiter.acquire({ tokens: 100 }, { tenant: "x" })
      const isFree = (tenant: string, tokens: number) =>
        Effect.map(Effect.exit(limiter.acquire({ tokens }, { tenant, maxWait: 0 })), Exit.isSuccess)
      assert.isFalse(yield* isFree("x", 1))
      yield* held.settle({ tokens: 40 })
      assert.strictEqual((yield* limiter.snapshot).levels["tokens"], 960)
      assert.isTrue(yield* isFree("x", 60))
      assert.isFalse(yield* isFree("x", 1))
      yield* held.observe([{ dimension: "tokens", remaining: 10 }])
      assert.isFalse(yield* isFree("y", 11))
      assert.isTrue(yield* isFree("y", 10))
    }))

  it.effect("L17, P16 of 10,000 tenants that came once nobody is remembered a minute after its bucket is full", () =>
    Effect.gen(function*() {
      const limiter = yield* RateLimiter.make({ limits: perTenant })
      for (let i = 0; i < 10_000; i++) yield* limiter.acquire(1, { tenant: `${i}` })
      assert.strictEqual((yield* limiter.snapshot).tenants, 10_000)
      yield* TestClock.adjust("62 seconds")
      assert.strictEqual((yield* limiter.snapshot).tenants, 0)
    }))

  it.effect("whoever owes something is not dropped, and for whom there is no room shares a bucket", () =>
    Effect.gen(function*() {
      const limiter = yield* RateLimiter.make({ limits: [requests(2, "1 hour", "tenant")] })
      for (let i = 0; i < 10_000; i++) yield* limiter.acquire(2, { tenant: `${i}` })
      assert.deepStrictEqual([yield* taken(limiter, "new", 2), yield* taken(limiter, "newer", 2)], [2, 0])
      assert.strictEqual((yield* limiter.snapshot).tenants, 10_000)
      for (const i of [0, 63, 64, 9999]) assert.strictEqual(yield* taken(limiter, `${i}`, 1), 0)
      yield* TestClock.adjust("1 hour")
      assert.deepStrictEqual([yield* taken(limiter, "new", 3), yield* taken(limiter, "newer", 3)], [2, 2])
    }))

  it.effect("a full bucket makes room at once for a new tenant", () =>
    Effect.gen(function*() {
      const limiter = yield* RateLimiter.make({ limits: perTenant })
      for (let i = 0; i < 10_000; i++) yield* limiter.acquire(1, { tenant: `${i}` })
      yield* TestClock.adjust("2 seconds")
      assert.strictEqual(yield* taken(limiter, "new", 3), 2)
      assert.strictEqual(yield* taken(limiter, "newer", 3), 2)
      assert.strictEqual((yield* limiter.snapshot).tenants, 10_000)
    }))

  it.effect("a block holds for those who come later, too", () =>
    Effect.gen(function*() {
      const limiter = yield* RateLimiter.make({ limits: perTenant })
      assert.strictEqual(yield* taken(limiter, "x", 1), 1)
      yield* limiter.block("3 seconds")
      yield* limiter.block("1 second")
      assert.strictEqual((yield* limiter.snapshot).blockedFor, 3000)
      assert.deepStrictEqual([yield* taken(limiter, "x", 1), yield* taken(limiter, "y", 1)], [0, 0])
      yield* TestClock.adjust(3000)
      assert.deepStrictEqual([yield* taken(limiter, "x", 1), yield* taken(limiter, "y", 1)], [1, 1])
      // Five minutes at most, also for whoever comes during them.
      yield* limiter.block("1 hour")
      yield* limiter.block(0)
      yield* TestClock.adjust("4 minutes")
      assert.strictEqual(yield* taken(limiter, "z", 1), 0)
      assert.strictEqual((yield* limiter.snapshot).blockedFor, 60_000)
      yield* TestClock.adjust("1 minute")
      assert.strictEqual(yield* taken(limiter, "z", 1), 1)
    }))

  it.effect("waits in both lines are one wait: bounded once, and told", () =>
    countingSleeps((sleeps) =>
      Effect.gen(function*() {
        const limiter = yield* RateLimiter.make({
          limits: [requests(1, "4 seconds"), requests(1, "2 seconds", "tenant")],
          maxWait: 5000
        })
        yield* limiter.acquire(1, { tenant: "x" })
        const second = yield* start(limiter.acquire(1, { tenant: "x" }))
        yield* TestClock.adjust(4000)
        assert.strictEqual(success(second.pollUnsafe()!).waited, 4000)
        // Two seconds for its own, and then more than three for those of all.
        const other = yield* start(Effect.exit(limiter.acquire(1, { tenant: "y" })))
        const late = yield* start(Effect.exit(limiter.acquire(1, { tenant: "x" })))
        yield* TestClock.adjust(4000)
        assert.isTrue(Exit.isSuccess(success(other.pollUnsafe()!)))
        assert.isTrue(Exit.isFailure(success(late.pollUnsafe()!)))
        assert.strictEqual(sleeps.pending, 0)
      })
    ))

  it.effect("two processes: a tenant's bucket is shared, under a key that does not name it", () =>
    Effect.scoped(Effect.gen(function*() {
      const inner = yield* RateLimiter.storeMemory()
      const keys = new Set<string>()
      const store: RateLimiter.LimitStore = {
        ...inner,
        reserve: (request) => {
          keys.add(request.key)
          return inner.reserve(request)
        }
      }
      const options = { limits: [requests(4, "4 seconds", "tenant")] }
      const here = yield* RateLimiter.makeShared("vendor", store, options)
      const there = yield* RateLimiter.makeShared("vendor", store, options)
      let count = 0
      for (let i = 0; i < 8; i++) count += yield* taken(i % 2 === 0 ? here : there, "alice@example.com", 1)
      assert.strictEqual(count, 4)
      assert.strictEqual(yield* taken(there, "bob", 1), 1)
      assert.isAtLeast(keys.size, 2)
      assert.isFalse([...keys].some((key) => key.includes("alice") || key.includes("bob")))
    })))

  it.effect("no dimension twice, but once for all and once for each", () =>
    Effect.gen(function*() {
      const error = yield* Effect.flip(RateLimiter.make({ limits: [...perTenant, ...perTenant] }))
      assert.strictEqual(error.path, "rateLimit.limits[1].dimension")
      const by = yield* Effect.flip(RateLimiter.make({ limits: [{ ...requests(1, 1), by: "user" as "tenant" }] }))
      assert.deepInclude(by, { path: "rateLimit.limits[0].by", rule: "\"tenant\"" })
      const none = yield* RateLimiter.make({ limits: perTenant })
      assert.strictEqual((yield* Effect.flip(none.setLimit("requests", 5))).rule, "a dimension that all share")
    }))
})

describe.each(kinds)("limits by tenant in a client: %s", (kind) => {
  it.effect("of the client bucket and of a target", () =>
    vector(Effect.gen(function*() {
      for (const where of ["client", "target"] as const) {
        const limits = { limits: perTenant, maxWait: 0 }
        const r = yield* setUp(
          [{ always: ScriptedProvider.answer("ok") }],
          where === "client" ? { rateLimit: limits } : {},
          where === "target" ? [{ limits }] : []
        )
        const call = (tenant: string) => {
          const input: LlmRequest.Input = { prompt: "Hi", tenant }
          return Effect.map(fork(ask(kind, r.client, input)), (fiber) => fiber)
        }
        const tags: Array<string> = []
        for (const tenant of ["x", "x", "x", "y"]) {
          const fiber = yield* call(tenant)
          yield* TestClock.adjust(0)
          const exit = fiber.pollUnsafe()!
          tags.push(Exit.isSuccess(exit) ? "ok" : failure(exit)._tag)
        }
        assert.deepStrictEqual(tags, ["ok", "ok", "RateLimited", "ok"], where)
      }
    })))
})
