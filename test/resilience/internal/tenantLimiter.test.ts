// Limits of tenants before those of all: which limiter is asked for what, what goes back, and who is kept.
import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit } from "effect"
import { TestClock } from "effect/testing"
import { MAX_TENANTS, TenantLimiter } from "../../../src/resilience/internal/tenantLimiter.ts"
import { fromPolicy, type Policy, type RateLimiter, type Would } from "../../../src/resilience/RateLimiter.ts"
import { journal, level } from "../RateLimiter.support.ts"
import { calm, now } from "../waiting.ts"

const requests = (limit: number, per = limit * 1000) => ({
  dimension: "requests",
  limit,
  burst: limit,
  rate: limit / per
})
const tokens = { dimension: "tokens", limit: 1000, burst: 1000, rate: 0.1 }

const policy = (limits: Policy["limits"], more?: Partial<Policy>): Policy => ({
  limits,
  perTenant: [],
  maxWait: 60_000,
  queue: 100,
  isShadow: false,
  ...more
})

interface Options {
  readonly own: Policy
  readonly shared?: Policy | RateLimiter
  /** What a tenant's limiter does otherwise. */
  readonly does?: (tenant: string | undefined) => Partial<RateLimiter>
}

const setup = ({ does, own, shared }: Options) => {
  const made: Array<readonly [string | undefined, "tenant" | "overflow"]> = []
  const left: Array<string> = []
  const owns = new Map<string | undefined, RateLimiter>()
  const all = shared === undefined || "acquire" in shared ? shared : fromPolicy(shared)
  const limiter = new TenantLimiter({
    shared: all,
    make: (tenant, kind) => {
      made.push([tenant, kind])
      const limiter = Object.assign(fromPolicy(own), does?.(tenant))
      owns.set(kind === "overflow" ? kind : tenant, limiter)
      return { limiter, leave: Effect.sync(() => left.push(tenant ?? kind)) }
    },
    run: Effect.runSync,
    policy: own
  })
  const tryIt = (cost: number | Readonly<Record<string, number>>, tenant?: string) =>
    Effect.clockWith((clock) => Effect.map(now, (at) => limiter.tryAcquireUnsafe(cost, clock, at, tenant)))
  return { limiter, all: all!, made, left, own: (tenant: string) => owns.get(tenant)!, tryIt, ...journal(limiter) }
}

const blockedFor = (limiter: RateLimiter) => Effect.map(limiter.snapshot, ({ blockedFor }) => blockedFor)

describe("without limits of all", () => {
  const own = policy([requests(2), tokens])

  it.effect("a tenant has limits of its own, which are a reservation's whole", () =>
    Effect.gen(function*() {
      const { limiter, made, own: of } = setup({ own })
      assert.deepStrictEqual(limiter.dimensions, ["requests", "tokens"])
      const held = yield* limiter.acquire({ tokens: 100 }, { tenant: "x" })
      assert.deepStrictEqual(made, [[undefined, "overflow"], ["x", "tenant"]])
      assert.strictEqual(held.waited, 0)
      held.observeUnsafe([{ dimension: "requests", remaining: 0 }])
      assert.strictEqual(yield* level(of("x")), 1)
      held.settleUnsafe({ tokens: 40 })
      assert.strictEqual(yield* level(of("x"), "tokens"), 960)
      const other = yield* limiter.acquire(1, { tenant: "x" })
      other.refundUnsafe("all")
      assert.strictEqual(yield* level(of("x")), 1)
    }))

  it.effect("what is taken at once, or is not there", () =>
    Effect.gen(function*() {
      const { tryIt } = setup({ own })
      assert.isDefined(yield* tryIt(2, "x"))
      assert.isUndefined(yield* tryIt(1, "x"))
      assert.isDefined(yield* tryIt(2, "y"))
    }))

  it.effect("in shadow mode nobody needs a name", () =>
    Effect.gen(function*() {
      const { limiter } = setup({ own: { ...own, isShadow: true } })
      for (let i = 0; i < 3; i++) yield* limiter.acquire(1)
      assert.deepStrictEqual((yield* limiter.acquire(1)).would, { decision: "would-wait", millis: 2000 })
    }))

  it.effect("a block is of all tenants, of those without room, and of those who come", () =>
    Effect.gen(function*() {
      const { limiter, own: of, tryIt } = setup({ own })
      assert.strictEqual(yield* blockedFor(limiter), 0)
      yield* tryIt(1, "x")
      limiter.blockUnsafe(NaN, yield* now, undefined)
      assert.strictEqual(yield* blockedFor(limiter), 0)
      yield* limiter.block(5000, "requests")
      yield* limiter.block(1000, "tokens")
      yield* limiter.block(100, "requests")
      yield* tryIt(0, "y")
      for (const name of ["x", "y", "overflow"]) assert.strictEqual(yield* blockedFor(of(name)), 5000, name)
      assert.strictEqual(yield* blockedFor(limiter), 5000)
      assert.isUndefined(yield* tryIt({ requests: 0, tokens: 1 }, "y"))
      yield* TestClock.adjust(1000)
      assert.isDefined(yield* tryIt({ requests: 0, tokens: 1 }, "y"))
      assert.isUndefined(yield* tryIt(1, "y"))
      yield* TestClock.adjust(3000)
      yield* tryIt(0, "z")
      assert.strictEqual(yield* blockedFor(of("z")), 1000)
    }))

  it.effect("there is no limit to set", () =>
    Effect.gen(function*() {
      const { kind, path, rule } = yield* Effect.flip(setup({ own }).limiter.setLimit("requests", 5))
      assert.deepStrictEqual([path, rule, kind], ["dimension", "a dimension that all share", "a text"])
    }))

  it.effect("who waits can be interrupted", () =>
    Effect.gen(function*() {
      const { enter, limiter, tryIt } = setup({ own })
      yield* tryIt(2)
      const fiber = yield* enter("waits")
      assert.strictEqual(limiter.lineUnsafe(yield* now).queued, 1)
      fiber.interruptUnsafe()
      yield* calm
      assert.strictEqual(limiter.lineUnsafe(yield* now).queued, 0)
    }))
})

describe("before limits of all", () => {
  it.effect("a plain number is the cost of requests, and of nothing else", () =>
    Effect.gen(function*() {
      const { all, limiter, tryIt } = setup({ own: policy([requests(2)]), shared: policy([tokens]) })
      assert.deepStrictEqual(limiter.dimensions, ["tokens", "requests"])
      assert.isDefined(yield* tryIt(1, "x"))
      yield* limiter.acquire(1)
      assert.strictEqual(yield* level(all, "tokens"), 1000)
    }))

  it.effect("what is not there for all costs a tenant nothing", () =>
    Effect.gen(function*() {
      const { own, tryIt } = setup({ own: policy([requests(2)]), shared: policy([requests(1)]) })
      assert.isDefined(yield* tryIt(1, "x"))
      assert.isUndefined(yield* tryIt(1, "x"))
      assert.isUndefined(yield* tryIt(1, "y"))
      assert.deepStrictEqual([yield* level(own("x")), yield* level(own("y"))], [1, 2])
    }))

  it.effect("what a tenant has waited for its own limits it waits no more for those of all", () =>
    Effect.gen(function*() {
      const { enter, entries, own } = setup({ own: policy([requests(1)]), shared: policy([requests(1, 2000)]) })
      yield* TestClock.adjust(5000)
      yield* enter("a", 1, { tenant: "x" })
      yield* enter("b", 1, { tenant: "x", maxWait: 1500 })
      yield* TestClock.adjust(1000)
      assert.deepStrictEqual(entries, [["a", 5000], ["b", 6000, "requests", 1000]])
      assert.strictEqual(yield* level(own("x")), 1)
    }))

  it.effect("a block is of all, and not of a tenant", () =>
    Effect.gen(function*() {
      const { all, limiter, own, tryIt } = setup({ own: policy([requests(2)]), shared: policy([requests(5)]) })
      yield* tryIt(1, "x")
      yield* limiter.block(1000)
      assert.deepStrictEqual([yield* blockedFor(all), yield* blockedFor(own("x"))], [1000, 0])
      assert.strictEqual(yield* blockedFor(limiter), 1000)
    }))

  it.effect("a limit that is set is one of all", () =>
    Effect.gen(function*() {
      const { all, limiter, own, tryIt } = setup({ own: policy([requests(2)]), shared: policy([requests(5)]) })
      yield* tryIt(0, "x")
      yield* limiter.setLimit("requests", 3)
      assert.deepStrictEqual([yield* level(all), yield* level(own("x"))], [3, 2])
    }))

  it.effect("the line is that of the tenant, or of all where that is longer; without a name both together", () =>
    Effect.gen(function*() {
      const { enter, limiter } = setup({
        own: policy([requests(2)]),
        shared: policy([requests(4)], { queue: 50 })
      })
      const line = (tenant?: string) =>
        Effect.map(now, (at) => {
          const { maxQueued, queued } = limiter.lineUnsafe(at, tenant === undefined ? undefined : { tenant })
          return [queued, maxQueued]
        })
      assert.deepStrictEqual(yield* line("x"), [0, 100])
      assert.deepStrictEqual(yield* line(), [0, 50])
      for (let i = 0; i < 4; i++) yield* enter(`x${i}`, 1, { tenant: "x" })
      assert.deepStrictEqual(yield* line("x"), [2, 100])
      assert.deepStrictEqual(yield* line("y"), [0, 100])
      for (let i = 0; i < 3; i++) yield* enter(`y${i}`, 1, { tenant: "y" })
      yield* enter("z0", 1, { tenant: "z" })
      yield* enter("z1", 1, { tenant: "z" })
      assert.deepStrictEqual(yield* line("x"), [2, 100])
      assert.deepStrictEqual(yield* line("y"), [2, 50])
      assert.deepStrictEqual(yield* line("z"), [2, 50])
      assert.deepStrictEqual(yield* line(), [5, 50])
      assert.isFalse(limiter.lineUnsafe(yield* now).displaces())
      assert.isFalse(limiter.isIdleUnsafe())
    }))
})

describe("in shadow mode", () => {
  const says = (would: Would | undefined, asked?: Array<unknown>): Partial<RateLimiter> => ({
    tryAcquireUnsafe: (cost, clock, at) => {
      asked?.push(cost)
      const held = fromPolicy(policy([requests(5)])).tryAcquireUnsafe(cost, clock, at)!
      return Object.assign(held, { would })
    }
  })
  const shadow = policy([requests(5)], { isShadow: true })
  const wait = (millis: number): Would => ({ decision: "would-wait", millis })
  const refuse = (millis: number): Would => ({ decision: "would-refuse", millis })

  it.effect("the worse of what both say counts, a refusal first", () =>
    Effect.gen(function*() {
      for (
        const [mine, theirs, worse] of [
          [undefined, undefined, undefined],
          [wait(200), undefined, wait(200)],
          [undefined, wait(100), wait(100)],
          [wait(200), wait(100), wait(200)],
          [wait(50), wait(100), wait(100)],
          [wait(200), refuse(10), refuse(10)],
          [refuse(20), undefined, refuse(20)]
        ] as const
      ) {
        const shared = Object.assign(fromPolicy(shadow), says(theirs))
        const { limiter } = setup({ own: shadow, shared, does: () => says(mine) })
        assert.deepStrictEqual((yield* limiter.acquire(1)).would, worse)
      }
    }))

  it.effect("what the tenant's limits would refuse takes nothing of those of all", () =>
    Effect.gen(function*() {
      const asked: Array<unknown> = []
      const shared = Object.assign(fromPolicy(shadow), says(undefined, asked))
      const { tryIt } = setup({ own: shadow, shared, does: (tenant) => says(tenant === "x" ? refuse(1) : wait(1)) })
      yield* tryIt(1, "x")
      yield* tryIt(1, "y")
      assert.deepStrictEqual(asked, [{ requests: 0 }, { requests: 1 }])
    }))

  it.effect("what the limits of all would refuse takes nothing of the tenant's", () =>
    Effect.gen(function*() {
      const shared = Object.assign(fromPolicy(shadow), says(refuse(1)))
      const { own, tryIt } = setup({ own: shadow, shared })
      yield* tryIt(1, "x")
      assert.strictEqual(yield* level(own("x")), 5)
    }))
})

describe("who is kept", () => {
  const own = policy([requests(2)])
  const kept = (limiter: RateLimiter) => Effect.map(limiter.snapshot, ({ tenants }) => tenants)

  it.effect("whoever was here within a minute", () =>
    Effect.gen(function*() {
      const { left, limiter, tryIt } = setup({ own })
      yield* tryIt(1, "x")
      yield* TestClock.adjust("30 seconds")
      yield* tryIt(1, "y")
      yield* TestClock.adjust("29 seconds")
      yield* tryIt(1, "x")
      yield* TestClock.adjust(30_999)
      assert.strictEqual(yield* kept(limiter), 2)
      yield* TestClock.adjust(1)
      assert.strictEqual(yield* kept(limiter), 1)
      assert.deepStrictEqual(left, ["y"])
    }))

  it.effect("a newcomer lets go those who were not", () =>
    Effect.gen(function*() {
      const { left, tryIt } = setup({ own })
      yield* tryIt(1, "x")
      yield* TestClock.adjust("1 minute")
      yield* tryIt(1, "y")
      assert.deepStrictEqual(left, ["x"])
    }))

  it.effect("whoever is owed something stays, and of those 64 are looked at", () =>
    Effect.gen(function*() {
      for (const [owed, lets] of [[63, ["idle"]], [64, []]] as const) {
        const { left, limiter, tryIt } = setup({ own, does: (tenant) => ({ isIdleUnsafe: () => tenant === "idle" }) })
        for (let i = 0; i < owed; i++) yield* tryIt(1, `${i}`)
        yield* tryIt(1, "idle")
        yield* TestClock.adjust("1 minute")
        assert.strictEqual(yield* kept(limiter), owed + 1 - lets.length)
        assert.deepStrictEqual(left, [...lets])
      }
    }))

  it.effect("for a newcomer 64 are looked at, and not the same ones the next time", () =>
    Effect.gen(function*() {
      const tiny = fromPolicy(own)
      const made: Array<string | undefined> = []
      const limiter = new TenantLimiter({
        shared: undefined,
        make: (tenant) => {
          made.push(tenant)
          return { limiter: Object.assign(Object.create(tiny), { isIdleUnsafe: () => tenant === "64" }) }
        },
        run: Effect.runSync,
        policy: own
      })
      const come = (tenant: string) =>
        Effect.clockWith((clock) => Effect.map(now, (at) => limiter.tryAcquireUnsafe(0, clock, at, tenant)))
      for (let i = 0; i < MAX_TENANTS; i++) yield* come(`${i}`)
      yield* come("first")
      assert.notInclude(made, "first")
      yield* come("second")
      assert.include(made, "second")
      assert.strictEqual(yield* kept(limiter), MAX_TENANTS)
    }))

  it.effect("at the end all leave, those without room as well, and who has nothing to do leaves too", () =>
    Effect.gen(function*() {
      const { left, limiter, tryIt } = setup({ own })
      yield* tryIt(1, "x")
      yield* limiter.leave
      assert.deepStrictEqual(left, ["overflow", "x"])
      const plain = fromPolicy({ ...own, limits: [], perTenant: own.limits }) as TenantLimiter
      assert.isTrue(Exit.isSuccess(yield* Effect.exit(plain.leave)))
    }))
})
