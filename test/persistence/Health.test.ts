import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Exit, Fiber, Layer, Scheduler, Scope } from "effect"
import { LlmClient, LlmProvider } from "effect-resilient-llm"
import { Health, Store } from "effect-resilient-llm/persistence"
import { Failover, Idempotency, RateLimiter, ResponseCache } from "effect-resilient-llm/resilience"
import { TestClock } from "effect/testing"
import { calm, start } from "../resilience/waiting.ts"
import { now } from "../support.ts"

const failed = Effect.fail(new Store.StoreError({ operation: "get" }))

/** A store that does as it is told. */
const subject = (scope?: Scope.Scope) => {
  const does = { now: Effect.succeed("ok") as Effect.Effect<string, Store.StoreError>, pings: 0, asked: 0 }
  const changes: Array<string> = []
  const health = Health.make({
    name: "test",
    ping: Effect.suspend(() => {
      does.pings += 1
      return does.now
    }),
    scope
  })
  health.watch(({ operation, store, to }) =>
    changes.push(`${store} ${to}${operation === undefined ? "" : ` ${operation}`}`)
  )
  const ask = health.ask(
    "get",
    Effect.suspend(() => {
      does.asked += 1
      return does.now
    })
  )
  return { ask, changes, does, health }
}

const waited = <A, E>(effect: Effect.Effect<A, E>) =>
  Effect.gen(function*() {
    const begun = yield* now
    const exit = yield* Effect.exit(effect)
    return { exit, millis: (yield* now) - begun }
  })

const reasonOf = (exit: Exit.Exit<unknown, Store.StoreError>): unknown =>
  Exit.isFailure(exit)
    ? exit.cause.reasons.map((reason) => reason._tag === "Fail" ? reason.error.reason : reason._tag)
    : "ok"

describe("Health", () => {
  it.effect("what hangs is waited for once: everybody who asks then does not wait", () =>
    Effect.gen(function*() {
      const { ask, changes, does } = subject()
      does.now = Effect.never
      const first = yield* Effect.forEach(Array.from({ length: 64 }), () =>
        Effect.forkChild(waited(ask), { startImmediately: true }))
      yield* TestClock.adjust(100)
      for (const fiber of first) {
        const { exit, millis } = yield* Fiber.join(fiber)
        assert.deepStrictEqual([reasonOf(exit), millis], [["timeout"], 100])
      }
      const next = yield* waited(ask)
      assert.deepStrictEqual([reasonOf(next.exit), next.millis], [["down"], 0])
      assert.deepStrictEqual([does.asked, changes], [64, ["test down get"]])
    }))

  it.effect("without a scope it is pinged when somebody asks, once a second at most; the first answer brings it back", () =>
    Effect.gen(function*() {
      const { ask, changes, does, health } = subject()
      does.now = Effect.never
      yield* Effect.forkChild(ask, { startImmediately: true })
      yield* TestClock.adjust(100)
      for (let i = 0; i < 50; i++) {
        yield* Effect.exit(ask)
        yield* TestClock.adjust(100)
      }
      assert.isAtLeast(does.pings, 4)
      assert.isAtMost(does.pings, 5)
      assert.isFalse(health.isUp())
      does.now = Effect.succeed("ok")
      yield* TestClock.adjust(1000)
      assert.deepStrictEqual(reasonOf(yield* Effect.exit(ask)), ["down"])
      assert.strictEqual(yield* ask, "ok")
      assert.isTrue(health.isUp())
      assert.deepStrictEqual(changes, ["test down get", "test up"])
    }))

  it.effect("with a scope it is pinged once a second until it answers, and not after the scope is closed", () =>
    Effect.gen(function*() {
      const scope = yield* Scope.make()
      const { ask, changes, does } = subject(scope)
      does.now = Effect.never
      yield* Effect.forkChild(ask, { startImmediately: true })
      yield* TestClock.adjust(100)
      yield* TestClock.adjust("10 seconds")
      assert.isAtLeast(does.pings, 9)
      assert.isAtMost(does.pings, 11)
      does.now = Effect.succeed("ok")
      yield* TestClock.adjust("3 seconds")
      assert.strictEqual(yield* ask, "ok")
      does.now = Effect.never
      yield* Effect.forkChild(ask, { startImmediately: true })
      yield* TestClock.adjust(100)
      const { pings } = does
      yield* Scope.close(scope, Exit.void)
      yield* TestClock.adjust("1 minute")
      assert.strictEqual(does.pings, pings)
      assert.deepStrictEqual(changes, ["test down get", "test up", "test down get"])
    }))

  it.effect("three failures in a row bring it down, one does not; a value that is too large is no failure", () =>
    Effect.gen(function*() {
      const { ask, changes, does, health } = subject()
      const say = (effect: typeof does.now) =>
        Effect.suspend(() => {
          does.now = effect
          return Effect.exit(ask)
        })
      for (const effect of [failed, failed, Effect.succeed("ok"), failed, failed]) yield* say(effect)
      for (let i = 0; i < 5; i++) {
        yield* say(Effect.fail(new Store.StoreError({ operation: "set", reason: "too-large" })))
      }
      assert.isTrue(health.isUp())
      yield* say(failed)
      assert.isFalse(health.isUp())
      assert.deepStrictEqual(changes, ["test down get"])
    }))

  it.effect("a store that answers pings and fails at everything else is one change, not one a second", () =>
    Effect.gen(function*() {
      const changes: Array<string> = []
      const health = Health.make({ name: "test", ping: Effect.void })
      health.watch(({ to }) => changes.push(to))
      for (let i = 0; i < 600; i++) {
        yield* Effect.exit(health.ask("get", Effect.die("out of memory")))
        yield* TestClock.adjust(100)
      }
      assert.deepStrictEqual(changes, ["down"])
    }))

  it.effect("what comes too late is put right, also when nobody waits because of an interruption", () =>
    Effect.gen(function*() {
      const late: Array<string> = []
      const health = Health.make({ name: "test", ping: Effect.void })
      const slow = health.ask("acquire", Effect.delay(Effect.succeed("fence 7"), 130), {
        late: (value) => Effect.sync(() => late.push(value))
      })
      const one = yield* Effect.forkChild(slow, { startImmediately: true })
      const two = yield* Effect.forkChild(slow, { startImmediately: true })
      yield* TestClock.adjust(50)
      yield* Fiber.interrupt(two)
      yield* TestClock.adjust(50)
      assert.deepStrictEqual(reasonOf(yield* Fiber.await(one)), ["timeout"])
      assert.deepStrictEqual(late, [])
      yield* TestClock.adjust(30)
      assert.deepStrictEqual(late, ["fence 7", "fence 7"])
    }))

  it.effect("who is interrupted while an operation begins has what it brought, or is told of it later", () =>
    Effect.gen(function*() {
      // The fibre yields after every so many operations, and is interrupted so many turns later.
      for (let budget = 3; budget < 8; budget++) {
        for (let turns = 0; turns < 20; turns++) {
          const { health } = subject()
          const is = { begun: false, brought: false, late: false }
          const operation = Effect.andThen(
            Effect.andThen(Effect.sync(() => is.begun = true), Effect.yieldNow),
            Effect.sync(() => is.brought = true)
          )
          let had = false
          const ask = health.ask("acquire", operation, { late: () => Effect.sync(() => is.late = true) })
          const asking = Effect.onExit(ask, () =>
            Effect.sync(() => {
              had = is.brought
            }))
          const fiber = yield* start(Effect.provideService(asking, Scheduler.MaxOpsBeforeYield, budget))
          for (let i = 0; i < turns; i++) yield* Effect.yieldNow
          fiber.interruptUnsafe()
          yield* calm
          assert.isTrue(!is.begun || had || is.late, `${budget}, ${turns}`)
        }
      }
    }))

  it.effect("a listener that throws breaks nothing, and one that has left hears nothing", () =>
    Effect.gen(function*() {
      const { ask, changes, does, health } = subject()
      health.watch(() => {
        throw new Error("listener")
      })
      const heard: Array<unknown> = []
      health.watch((change) => heard.push(change))()
      does.now = failed
      for (let i = 0; i < 3; i++) yield* Effect.exit(ask)
      assert.deepStrictEqual([changes, heard], [["test down get"], []])
    }))
})

describe("a health of somebody's own", () => {
  const boom = (): never => {
    throw new Error("broken")
  }
  const wrong = (how: string): Health.Health => ({
    name: "own",
    isUp: boom,
    watch: boom,
    ask: how === "throws" ? boom : () => 42 as never
  })

  it.effect.each(["throws", "returns no effect"])(
    "that %s: its operations are defects, and the store is not up",
    (how) =>
      Effect.gen(function*() {
        const health = Health.of({ health: wrong(how) }, () => Effect.void, undefined)
        assert.strictEqual(health.name, "own")
        assert.isFalse(health.isUp())
        health.watch(() => {})()
        const exit = yield* Effect.exit(health.ask("get", Effect.void))
        assert.isTrue(Exit.hasDies(exit))
      })
  )

  it.effect.each(["throws", "returns no effect"])("that %s hinders no call", (how) =>
    Effect.gen(function*() {
      const memory = yield* Store.memory<string>({ maxEntries: 100 })
      const health = wrong(how)
      const limits = { ...(yield* RateLimiter.storeMemory()), health }
      const client = yield* Effect.map(
        Layer.build(
          LlmClient.layerDynamic([LlmProvider.make({ id: "v", generate: () => Effect.succeed("Hello.") })], {
            rateLimit: { capacity: 10, refillPerSecond: 10 },
            cache: { readThrough: true }
          }).pipe(
            Layer.provide([
              Layer.succeed(Idempotency.IdempotencyStore, { ...memory, health }),
              Layer.succeed(ResponseCache.ResponseCacheStore, { ...memory, health }),
              Layer.succeed(Failover.CoolDownStore, { ...memory, health }),
              Layer.succeed(RateLimiter.RateLimiterStore, limits)
            ])
          )
        ),
        (context) => Context.get(context, LlmClient)
      )
      const { text } = yield* client.complete({ prompt: "Hi", idempotencyKey: "k" })
      assert.strictEqual(text, "Hello.")
    }).pipe(Effect.scoped, Effect.timeout("1 second"), TestClock.withLive))

  it("is one, however often it is asked for", () => {
    const own = wrong("throws")
    assert.strictEqual(Health.trusted(own), Health.trusted(own))
    assert.strictEqual(Health.trusted(Health.trusted(own)), Health.trusted(own))
    const made = Health.make({ name: "test", ping: Effect.void })
    assert.strictEqual(Health.trusted(made), made)
  })
})
