// Cool-downs that several processes know: what one has met, the others do not have to meet.
import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit } from "effect"
import { LlmError } from "effect-resilient-llm"
import { Store } from "effect-resilient-llm/persistence"
import { Failover } from "effect-resilient-llm/resilience"
import { ScriptedProvider } from "effect-resilient-llm/testing"
import { TestClock } from "effect/testing"
import { ask, kinds, nothingHeld, setUp, vector } from "../support.ts"

const { answer, fail } = ScriptedProvider
const noQuota = { always: fail({ _tag: "Quota" }) } as const
const fine = { always: answer("x") } as const
const knownIn = (store: Store.Store<string>) => Effect.provideService(Failover.CoolDownStore, store)
const memory = Store.memory<string>({ maxEntries: 100 })

describe.each(kinds)("%s, cool-downs over processes", (kind) => {
  it.effect("a quota that one process has met is met by no other, until it is over", () =>
    vector(Effect.gen(function*() {
      const store = yield* memory
      const here = yield* setUp([noQuota, fine], { failover: { coolDown: "1 minute" } }).pipe(knownIn(store))
      const there = yield* setUp([noQuota, fine], { failover: { coolDown: "1 minute" } }).pipe(knownIn(store))
      yield* ask(kind, here.client, "a")
      yield* TestClock.adjust("10 seconds")
      const { ledger, target } = yield* ask(kind, there.client, "b")
      assert.strictEqual(target, "s")
      assert.deepInclude(ledger.find(({ _tag }) => _tag === "TargetSkipped"), {
        target: "p",
        because: "cooling-down",
        retryAfter: 50_000
      })
      assert.deepStrictEqual(yield* there.calls(0), [])
      yield* TestClock.adjust(49_999)
      yield* ask(kind, there.client, "c")
      assert.deepStrictEqual(yield* there.calls(0), [])
      yield* TestClock.adjust(1)
      yield* ask(kind, there.client, "d")
      assert.deepStrictEqual(yield* there.calls(0), [60_000])
      yield* TestClock.adjust("2 minutes")
      yield* nothingHeld(there)
    })))

  it.effect("the store is looked at once a second and target, and never for a single target", () =>
    vector(Effect.gen(function*() {
      const store = yield* memory
      const looks: Array<string> = []
      const watched: Store.Store<string> = {
        ...store,
        get: (key) => {
          looks.push(key)
          return store.get(key)
        }
      }
      const r = yield* setUp([fine, fine], {}).pipe(knownIn(watched))
      for (let i = 0; i < 20; i++) {
        yield* ask(kind, r.client, String(i))
        yield* TestClock.adjust(100)
      }
      assert.deepStrictEqual(looks, ["p", "p", "p"])
      const alone = yield* setUp([fine], {}).pipe(knownIn(watched))
      yield* ask(kind, alone.client, "x")
      assert.strictEqual(looks.length, 3)
      // A minute after the last use nobody looks any more.
      yield* TestClock.adjust("1 hour")
      assert.isBelow(looks.length, 65)
    })))

  it.effect.each(["hangs", "fails", "throws", "returns nothing"] as const)(
    "a store that %s: nobody waits, each process learns by itself",
    (how) =>
      vector(Effect.gen(function*() {
        const broken = (operation: "get" | "set") => (): Effect.Effect<never, Store.StoreError> => {
          if (how === "throws") throw new Error("broken")
          if (how === "returns nothing") return undefined as unknown as Effect.Effect<never>
          return how === "hangs" ? Effect.never : Effect.fail(new Store.StoreError({ operation }))
        }
        const store: Store.Store<string> = { get: broken("get"), set: broken("set"), remove: () => Effect.void }
        const r = yield* setUp([noQuota, fine], {}).pipe(knownIn(store))
        const { ledger, target } = yield* ask(kind, r.client, "a")
        assert.deepStrictEqual([target, ledger.at(-1)?.at], ["s", 0])
        assert.strictEqual((yield* ask(kind, r.client, "b")).ledger.some(({ _tag }) => _tag === "TargetSkipped"), true)
        assert.deepStrictEqual(yield* r.calls(0), [0])
      }))
  )
})

/** Two targets, and the store they share; `met` runs into the first one's quota. */
const shared = (store: Store.Store<string>, options?: Failover.Options) =>
  Effect.gen(function*() {
    const failover = yield* Failover.makeShared(["a", "b"], store, options)
    const quota = new LlmError.ProviderError({ provider: "a", reason: { _tag: "Quota" } })
    const run = (ends: ReadonlyArray<Effect.Effect<string, unknown>>) =>
      Effect.exit(failover.run({
        attempt: (i) => ends[i]!,
        allFailed: (failures) => failures.map(({ error, index }) => `${index} ${LlmError.summary(error).tag}`).join(),
        allUnavailable: () => "none"
      }))
    return {
      failover,
      met: run([Effect.fail(quota), Effect.succeed("b")]),
      used: run([Effect.succeed("a"), Effect.succeed("b")]),
      failed: run([Effect.die("is not asked"), Effect.fail("no")])
    }
  })
const times = <A>(count: number, effect: Effect.Effect<A>) => Effect.repeat(effect, { times: count - 1 })

describe("the store of cool-downs", () => {
  it.effect("is looked at for a minute after the last use, and again with the next one", () =>
    Effect.gen(function*() {
      const store = yield* memory
      let looks = 0
      const counted: Store.Store<string> = {
        ...store,
        get: (key) => {
          looks += 1
          return store.get(key)
        }
      }
      const { used } = yield* shared(counted)
      yield* used
      yield* TestClock.adjust("1 hour")
      assert.strictEqual(looks, 60)
      yield* used
      yield* TestClock.adjust(0)
      assert.strictEqual(looks, 61)
    }))

  it.effect("that fails is pinged, and asked again once it answers", () =>
    Effect.gen(function*() {
      const store = yield* memory
      const asked: Array<string> = []
      let isBroken = true
      const { used } = yield* shared({
        ...store,
        get: (key) => {
          asked.push(key)
          return isBroken ? Effect.fail(new Store.StoreError({ operation: "get" })) : store.get(key)
        }
      })
      yield* used
      yield* times(5, TestClock.adjust("1 second"))
      assert.notInclude(asked.slice(-2), "a")
      assert.include(asked, "ping")
      isBroken = false
      yield* times(3, TestClock.adjust("1 second"))
      assert.strictEqual(asked.at(-1), "a")
    }))

  it.effect("can only make a rest longer: a failure met here stands for its target as long as it counts", () =>
    Effect.gen(function*() {
      const store = yield* memory
      const { failed, failover, met } = yield* shared(store, { coolDown: "10 minutes" })
      yield* met
      // It finds its own word there.
      yield* TestClock.adjust("2 seconds")
      assert.deepStrictEqual(yield* failed, Exit.fail("0 ProviderError,1 UnknownError"))
      // Somebody rests for a shorter time.
      yield* store.set("a", "60000", { ttl: 60_000 })
      yield* TestClock.adjust("2 seconds")
      assert.deepStrictEqual(yield* failed, Exit.fail("0 ProviderError,1 UnknownError"))
      assert.strictEqual(failover.coolingDown(0, 4000)?.until, 600_000)
      // And somebody for a longer one.
      yield* store.set("a", "1200000", { ttl: 1_200_000 })
      yield* TestClock.adjust("2 seconds")
      assert.strictEqual(failover.coolingDown(0, 6000)?.until, 1_204_000)
    }))
})

describe("a cool-down that another process has met", () => {
  it.effect("is no failure that could stand for the target", () =>
    vector(Effect.gen(function*() {
      const store = yield* memory
      yield* store.set("a", "60000", { ttl: 60_000 })
      const failover = yield* Failover.makeShared(["a", "b"], store)
      const error = yield* Effect.flip(failover.run({
        attempt: (i) => Effect.fail(`${i} failed`),
        allFailed: (failures) => failures.map((failure) => failure.error).join(),
        allUnavailable: () => "none"
      }))
      assert.strictEqual(error, "1 failed")
    })))
})
