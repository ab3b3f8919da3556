// A limiter whose buckets several processes share: what it takes along and gives back, what it does without its store.
import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Fiber, Scope } from "effect"
import { Store } from "effect-resilient-llm/persistence"
import { RateLimiter } from "effect-resilient-llm/resilience"
import { TestClock } from "effect/testing"
import { sha256 } from "../../src/internal/sha256.ts"
import { counted, journal, tenPerTenSeconds } from "./RateLimiter.support.ts"
import { calm, now } from "./waiting.ts"

const limits = (tokens: number, per: number, burst = tokens) => [{ dimension: "requests", burst, rate: tokens / per }]
const level = (store: RateLimiter.LimitStore, of = limits(10, 10_000)) =>
  Effect.map(store.snapshot("k", of), ({ levels }) => levels[0]!)

const perSecond = (limit: number, more?: Partial<RateLimiter.Options>): RateLimiter.Options => ({
  limits: [{ dimension: "requests", limit, per: "1 second" }],
  ...more
})

describe("RateLimiter.makeShared", () => {
  it.effect("L1, L2 ten at once, then one a second, in the order of arrival", () =>
    Effect.gen(function*() {
      const { does, store } = yield* counted
      const limiter = yield* RateLimiter.makeShared("k", store, tenPerTenSeconds)
      const { enter, entries } = journal(limiter)
      for (let i = 1; i <= 13; i++) yield* enter(`${i}`)
      yield* TestClock.adjust("1 minute")
      assert.deepStrictEqual(
        entries,
        Array.from({ length: 13 }, (_, i) => [`${i + 1}`, Math.max(0, i - 9) * 1000] as const)
      )
      assert.isAtMost(does.reserved, 14)
    }))

  it.effect("L3 a wait that is too long is refused, takes nothing, and is not asked for again before its time", () =>
    Effect.gen(function*() {
      const { does, store } = yield* counted
      const limiter = yield* RateLimiter.makeShared("k", store, { ...tenPerTenSeconds, maxWait: 0 })
      yield* limiter.acquire(10)
      const { enter, entries } = journal(limiter)
      yield* TestClock.adjust(500)
      yield* enter("a")
      assert.deepStrictEqual(entries, [["a", 500, "requests", 500]])
      assert.strictEqual(yield* level(store), 0.5)
      const { reserved } = does
      for (let i = 0; i < 100; i++) yield* enter("again")
      assert.strictEqual(does.reserved, reserved)
      assert.deepStrictEqual(entries.at(-1), ["again", 500, "requests", 500])
      yield* TestClock.adjust(500)
      yield* enter("b")
      assert.deepStrictEqual(entries.at(-1), ["b", 1000])
    }))

  it.effect("asks for the key of all only where there are limits for all, and for each tenant by a name of its own", () =>
    Effect.gen(function*() {
      const { memory } = yield* counted
      const keys = new Set<string>()
      const store: RateLimiter.LimitStore = {
        ...memory,
        reserve: (request) => {
          keys.add(request.key)
          return memory.reserve(request)
        }
      }
      const own = { dimension: "requests", limit: 10, per: "10 seconds", by: "tenant" } as const
      const each = yield* RateLimiter.makeShared("k", store, { limits: [own] })
      yield* each.acquire(1)
      yield* each.acquire(1, { tenant: "acme" })
      yield* calm
      assert.deepStrictEqual([...keys].map((key) => key.slice(0, 15)), [
        "k:tenant:",
        `k:tenant:${sha256("acme").slice(0, 6)}`
      ])
      const all = yield* RateLimiter.makeShared("k", store, tenPerTenSeconds)
      assert.notProperty(yield* all.snapshot, "tenants")
      assert.property(yield* each.snapshot, "tenants")
    }))

  it.effect("in shadow mode asks no store", () =>
    Effect.gen(function*() {
      const { does, store } = yield* counted
      const limiter = yield* RateLimiter.makeShared("k", store, { ...tenPerTenSeconds, mode: "shadow" })
      for (const cost of [10, 10]) yield* limiter.acquire(cost)
      assert.strictEqual(does.reserved, 0)
    }))

  it.effect("L4 a small late cost does not overtake", () =>
    Effect.gen(function*() {
      const { store } = yield* counted
      const limiter = yield* RateLimiter.makeShared("k", store, tenPerTenSeconds)
      yield* limiter.acquire(10)
      const { enter, entries } = journal(limiter)
      yield* enter("A", 5)
      yield* enter("B", 1)
      yield* TestClock.adjust("1 minute")
      assert.deepStrictEqual(entries, [["A", 5000], ["B", 6000]])
    }))

  it.effect("L5 who leaves gives back what it was promised, at every point of its way", () =>
    Effect.gen(function*() {
      const { does, memory, store } = yield* counted
      const limiter = yield* RateLimiter.makeShared("k", store, tenPerTenSeconds)
      yield* limiter.acquire(10)
      does.delay = 20
      for (const at of [0, 10, 20, 30, 500]) {
        const begun = yield* now
        const before = yield* level(memory)
        const fiber = yield* journal(limiter).enter("x", 5)
        yield* TestClock.adjust(at)
        yield* Fiber.interrupt(fiber)
        yield* TestClock.adjust(1000 - at)
        assert.closeTo(yield* level(memory), before + ((yield* now) - begun) / 1000, 1e-6, `interrupted at ${at}`)
      }
    }))

  it.effect("L18 a block is told to the others at once", () =>
    Effect.gen(function*() {
      const { store } = yield* counted
      const here = yield* RateLimiter.makeShared("k", store, tenPerTenSeconds)
      const there = yield* RateLimiter.makeShared("k", store, tenPerTenSeconds)
      yield* here.block("2 seconds")
      yield* TestClock.adjust(0)
      const { enter, entries } = journal(there)
      yield* enter("a")
      yield* TestClock.adjust("1 minute")
      assert.deepStrictEqual(entries, [["a", 2000]])
    }))

  it.effect("what a vendor says is left lowers everybody's level, and costs no trip for each answer", () =>
    Effect.gen(function*() {
      const { does, store } = yield* counted
      const here = yield* RateLimiter.makeShared("k", store, tenPerTenSeconds)
      const there = yield* RateLimiter.makeShared("k", store, { ...tenPerTenSeconds, maxWait: 0 })
      const { settled } = does
      for (let i = 0; i < 5; i++) {
        const reservation = yield* here.acquire(1)
        reservation.observeUnsafe([{ dimension: "requests", remaining: 2 }])
      }
      yield* TestClock.adjust(60)
      assert.isAtMost(does.settled - settled, 2)
      assert.closeTo(yield* level(store), 2, 0.2)
      const { enter, entries } = journal(there)
      for (const name of ["a", "b", "c"]) yield* enter(name)
      assert.deepStrictEqual(entries.map(([, , refused]) => refused), [undefined, undefined, "requests"])
    }))

  it.effect("L21 what is settled is spent here first, is owed when it is too little, and counts once", () =>
    Effect.gen(function*() {
      const { store } = yield* counted
      const of = [{ dimension: "tokens", limit: 1000, per: "1 day" as const }]
      const bucket = [{ dimension: "tokens", burst: 1000, rate: 1000 / 86_400_000 }]
      const limiter = yield* RateLimiter.makeShared("k", store, { limits: of })
      const first = yield* limiter.acquire({ tokens: 500 })
      first.settleUnsafe({ tokens: 100 })
      first.settleUnsafe({ tokens: 0 })
      first.refundUnsafe("all")
      yield* TestClock.adjust(300)
      assert.closeTo(yield* level(store, bucket), 900, 0.1)
      const second = yield* limiter.acquire({ tokens: 100 })
      second.settleUnsafe({ tokens: 400 })
      yield* TestClock.adjust(300)
      assert.closeTo(yield* level(store, bucket), 500, 0.1)
    }))

  it.effect(
    "under the limit most acquisitions cost no trip, what is not used goes back, and nothing is spent twice",
    () =>
      Effect.gen(function*() {
        const { does, store } = yield* counted
        const processes = yield* Effect.all(
          Array.from({ length: 4 }, () => RateLimiter.makeShared("k", store, perSecond(2000)))
        )
        does.delay = 0.3
        // 1,500 a second over ten seconds, in ticks of 2 ms.
        let granted = 0
        for (let tick = 0; tick < 5000; tick++) {
          for (let i = 0; i < 3; i++) {
            const { acquire } = processes[(tick * 3 + i) % 4]!
            yield* Effect.forkChild(Effect.tap(acquire(1), () => Effect.sync(() => granted += 1)), {
              startImmediately: true
            })
          }
          yield* TestClock.adjust(2)
        }
        yield* TestClock.adjust(50)
        assert.strictEqual(granted, 15_000)
        assert.isBelow(does.reserved + does.settled, 1500, "trips")
        does.delay = 0
        yield* TestClock.adjust(1000)
        assert.strictEqual(yield* level(store, limits(2000, 1000)), 2000)
      })
  )

  it.effect("L13 three processes at once: exactly what the bucket holds", () =>
    Effect.gen(function*() {
      const { does, store } = yield* counted
      const processes = yield* Effect.all(
        Array.from({ length: 3 }, () => RateLimiter.makeShared("k", store, perSecond(100, { maxWait: 0, queue: 1000 })))
      )
      does.delay = 1
      const all = yield* Effect.forEach(
        Array.from({ length: 900 }),
        (_, i) => Effect.forkChild(Effect.exit(processes[i % 3]!.acquire(1)), { startImmediately: true })
      )
      for (let i = 0; i < 60; i++) yield* TestClock.adjust(1)
      const exits = yield* Effect.forEach(all, Fiber.join)
      // 60 ms of refill are six more at most.
      assert.closeTo(exits.filter(Exit.isSuccess).length, 103, 3)
    }))

  it.effect("the store hangs: nobody waits longer than 100 ms, and then each goes on with its share", () =>
    Effect.gen(function*() {
      const { does, health, store } = yield* counted
      const processes = yield* Effect.all(
        Array.from({ length: 2 }, () => RateLimiter.makeShared("k", store, perSecond(100, { maxWait: 0 })))
      )
      const [here] = processes
      for (const { acquire } of processes) yield* acquire(1)
      // Both have named themselves, so each knows of two.
      yield* TestClock.adjust(2500)
      for (const { acquire } of processes) yield* acquire(1)
      yield* TestClock.adjust(1000)
      does.how = Effect.never
      const first = yield* Effect.forkChild(Effect.exit(here!.acquire(1, { maxWait: 1000 })), {
        startImmediately: true
      })
      yield* TestClock.adjust(99)
      assert.isUndefined(first.pollUnsafe())
      yield* TestClock.adjust(1)
      assert.isTrue(Exit.isSuccess(yield* Fiber.join(first)))
      assert.isFalse(health.isUp())
      // Half of a hundred.
      let granted = 1
      while (Exit.isSuccess(yield* Effect.exit(here!.acquire(1)))) granted += 1
      assert.closeTo(granted, 50, 1)
      yield* TestClock.adjust(1000)
      while (Exit.isSuccess(yield* Effect.exit(here!.acquire(1)))) granted += 1
      assert.closeTo(granted, 100, 2)
      // It is back: the store decides again.
      does.how = Effect.void
      yield* TestClock.adjust(2500)
      yield* here!.acquire(1)
      assert.isTrue(health.isUp())
    }))

  it.effect("without the store a limit of three a minute still lets one through a second", () =>
    Effect.gen(function*() {
      const { does, store } = yield* counted
      does.how = Effect.fail(new Store.StoreError({ operation: "reserve" }))
      const limiter = yield* RateLimiter.makeShared("k", store, {
        limits: [{ dimension: "requests", limit: 3, per: "1 minute" }]
      })
      const { enter, entries } = journal(limiter)
      for (let i = 0; i < 6; i++) yield* enter(`${i}`)
      yield* TestClock.adjust("1 minute")
      assert.deepStrictEqual(entries.map(([, at]) => at), [0, 0, 0, 1000, 2000, 3000])
    }))

  it.effect("who is served and settles at once takes nobody else out of the line", () =>
    Effect.gen(function*() {
      const { does, memory, store } = yield* counted
      does.delay = 50
      const limiter = yield* RateLimiter.makeShared("k", store, tenPerTenSeconds)
      yield* TestClock.adjust("1 second")
      const { reserved } = does
      const served: Array<readonly [number, number]> = []
      for (let i = 0; i < 5; i++) {
        yield* Effect.forkChild(
          Effect.flatMap(limiter.acquire(1), (reservation) =>
            Effect.map(now, (at) => {
              served.push([i, at])
              reservation.refundUnsafe("all")
            })),
          { startImmediately: true }
        )
      }
      yield* TestClock.adjust("1 second")
      assert.deepStrictEqual(served, Array.from({ length: 5 }, (_, i) => [i, 1050] as const))
      assert.strictEqual(does.reserved - reserved, 1)
      assert.strictEqual(yield* level(memory), 10)
    }))

  it.effect("a store that is slow, at the limit: what is spent without waiting for it is owed to it", () =>
    Effect.gen(function*() {
      const { does, health, store } = yield* counted
      const processes = yield* Effect.all(
        [0, 1, 2].map(() => RateLimiter.makeShared("k", store, perSecond(20, { maxWait: "1 second" })))
      )
      for (const { acquire } of processes) yield* acquire(1)
      yield* TestClock.adjust("5 seconds")
      for (const { acquire } of processes) yield* acquire(1)
      yield* TestClock.adjust("5 seconds")
      does.delay = 60
      let admitted = 0
      const asking = (limiter: RateLimiter.RateLimiter): Effect.Effect<void> =>
        Effect.matchEffect(limiter.acquire(1), {
          onSuccess: () => Effect.sync(() => admitted++),
          onFailure: () => Effect.sleep(20)
        }).pipe(Effect.andThen(Effect.suspend(() => asking(limiter))))
      const fibers = yield* Effect.forEach(
        Array.from({ length: 30 }, (_, i) => processes[i % 3]!),
        (one) => Effect.forkChild(asking(one))
      )
      yield* TestClock.adjust("10 seconds")
      does.delay = 0
      yield* Fiber.interruptAll(fibers)
      yield* TestClock.adjust("1 second")
      assert.isTrue(health.isUp())
      assert.isAtLeast(admitted, 200)
      assert.isAtMost(admitted, 20 + 200 + 20)
    }))

  it.effect("an answer that comes too late is given back", () =>
    Effect.gen(function*() {
      const { does, memory, store } = yield* counted
      const limiter = yield* RateLimiter.makeShared("k", store, tenPerTenSeconds)
      does.delay = 150
      const call = yield* Effect.forkChild(limiter.acquire(5), { startImmediately: true })
      yield* TestClock.adjust(100)
      yield* Fiber.join(call)
      yield* TestClock.adjust(500)
      assert.strictEqual(yield* level(memory), 10)
    }))

  it.effect("a process that ends gives back what it took along", () =>
    Effect.gen(function*() {
      const { memory, store } = yield* counted
      const scope = yield* Scope.make()
      const limiter = yield* Scope.provide(
        RateLimiter.makeShared(
          "k",
          store,
          perSecond(1000, { limits: [{ dimension: "requests", limit: 1000, per: "1 day" }] })
        ),
        scope
      )
      const of = [{ dimension: "requests", burst: 1000, rate: 1000 / 86_400_000 }]
      for (let i = 0; i < 200; i++) {
        yield* limiter.acquire(1)
        yield* TestClock.adjust(1)
      }
      assert.isBelow(yield* level(memory, of), 799)
      yield* Scope.close(scope, Exit.void)
      assert.closeTo(yield* level(memory, of), 800, 0.01)
    }))

  it.effect("an idle limiter keeps no timer", () =>
    Effect.gen(function*() {
      const { store } = yield* counted
      const limiter = yield* RateLimiter.makeShared("k", store, perSecond(100))
      for (let i = 0; i < 20; i++) yield* limiter.acquire(1)
      yield* TestClock.adjust(1000)
      const { levels, queued } = yield* limiter.snapshot
      assert.deepStrictEqual([levels.requests, queued], [100, 0])
    }))
})

it.effect("a health of somebody's own that throws: the limiter goes on alone, and nobody is left in the line", () =>
  Effect.gen(function*() {
    const ask = (): never => {
      throw new Error("broken")
    }
    const health = { name: "own", isUp: () => true, watch: () => () => {}, ask }
    const store = { ...(yield* RateLimiter.storeMemory()), health }
    const limiter = yield* RateLimiter.makeShared("k", store, { capacity: 2, refillPerSecond: 1, maxWait: 0 })
    const exits = yield* Effect.forEach([1, 1, 1], (cost) => Effect.exit(limiter.acquire(cost)))
    assert.deepStrictEqual(exits.map(({ _tag }) => _tag), ["Success", "Success", "Failure"])
    assert.strictEqual((yield* limiter.snapshot).queued, 0)
  }))
