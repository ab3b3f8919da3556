// Circuits that several processes share: a trip of one opens all, and all together probe no more than one would.
import { assert, describe, it } from "@effect/vitest"
import { Clock, Duration, Effect, Exit, Fiber, Scope } from "effect"
import { LlmError } from "effect-resilient-llm"
import { Store } from "effect-resilient-llm/persistence"
import { CircuitBreaker } from "effect-resilient-llm/resilience"
import { TestClock } from "effect/testing"

type Breaker = CircuitBreaker.CircuitBreaker

const options = { key: "vendor", failureThreshold: 2, recoveryTimeout: "10 seconds", slowCall: false } as const
const broken = new LlmError.ProviderError({
  provider: "vendor",
  reason: { _tag: "Overloaded" },
  status: 503
})
const failing = (breaker: Breaker) => Effect.exit(breaker.protect(Effect.fail(broken)))
const passing = (breaker: Breaker) => Effect.exit(breaker.protect(Effect.void))
const trip = (breaker: Breaker) => Effect.andThen(failing(breaker), failing(breaker))
const stateOf = (breaker: Breaker) => Effect.map(breaker.status, ({ state }) => state)
const states = (breakers: ReadonlyArray<Breaker>) => Effect.forEach(breakers, stateOf)
/** Three processes, each of which has used its circuit. */
const fleet = (store: CircuitBreaker.CircuitStore, own: Partial<CircuitBreaker.MakeOptions> = {}) =>
  Effect.gen(function*() {
    const make = CircuitBreaker.makeShared(store, { ...options, ...own })
    const breakers = yield* Effect.all([make, make, make])
    yield* Effect.forEach(breakers, passing)
    yield* TestClock.adjust(0)
    return breakers
  })
/** A store, and what it is told. */
const noted = Effect.map(CircuitBreaker.storeMemory(), (memory) => {
  const changes: Array<string> = []
  const released: Array<number> = []
  const store: CircuitBreaker.CircuitStore = {
    ...memory,
    trip: (key, change) => {
      changes.push(change._tag)
      return memory.trip(key, change)
    },
    release: (key, slot) => {
      released.push(slot)
      return memory.release(key, slot)
    }
  }
  return { store, changes, released }
})
const rejection = (exit: Exit.Exit<unknown, unknown>) => {
  const error = Exit.isFailure(exit) ? exit.cause.reasons.find(({ _tag }) => _tag === "Fail") : undefined
  return error?._tag === "Fail" && error.error instanceof LlmError.CircuitOpen ? error.error : undefined
}

describe("a circuit over processes", () => {
  it.effect("what one has met opens all, until it is over for all", () =>
    Effect.gen(function*() {
      const [a, b, c] = yield* fleet(yield* CircuitBreaker.storeMemory())
      yield* trip(a)
      yield* TestClock.adjust(0)
      assert.deepStrictEqual(yield* states([a, b, c]), ["open", "open", "open"])
      yield* TestClock.adjust(9_999)
      assert.strictEqual(rejection(yield* passing(b))?.state, "open")
      yield* TestClock.adjust(1)
      assert.isTrue(Exit.isSuccess(yield* passing(b)))
      yield* TestClock.adjust(0)
      assert.deepStrictEqual(yield* states([a, b, c]), ["closed", "closed", "closed"])
    }))

  it.effect("without a word from the store it is learned within a second", () =>
    Effect.gen(function*() {
      const { watch: _, ...silent } = yield* CircuitBreaker.storeMemory()
      const [a, b] = yield* fleet(silent)
      yield* trip(a)
      yield* TestClock.adjust(999)
      assert.strictEqual(yield* stateOf(b), "closed")
      yield* TestClock.adjust(1)
      assert.strictEqual(yield* stateOf(b), "open")
    }))

  it.effect("one of all probes, the others are told that somebody does", () =>
    Effect.gen(function*() {
      const breakers = yield* fleet(yield* CircuitBreaker.storeMemory())
      yield* trip(breakers[0])
      yield* TestClock.adjust("10 seconds")
      let probes = 0
      const probing = yield* Effect.forEach(
        [...breakers, ...breakers],
        (breaker) =>
          Effect.forkChild(Effect.exit(breaker.protect(
            Effect.andThen(Effect.sync(() => probes++), Effect.sleep("1 second"))
          )))
      )
      yield* TestClock.adjust(500)
      assert.strictEqual(probes, 1)
      yield* TestClock.adjust(500)
      const exits = yield* Effect.forEach(probing, Fiber.join)
      const rejected = exits.map(rejection).filter((error) => error !== undefined)
      assert.deepStrictEqual(rejected.map(({ state }) => state), Array.from({ length: 5 }, () => "half-open"))
      assert.isTrue(rejected.every(({ retryAfter }) => retryAfter === undefined))
      assert.deepStrictEqual(yield* states(breakers), ["closed", "closed", "closed"])
    }))

  it.effect("a failed probe opens all for twice as long", () =>
    Effect.gen(function*() {
      const breakers = yield* fleet(yield* CircuitBreaker.storeMemory())
      yield* trip(breakers[0])
      yield* TestClock.adjust("10 seconds")
      yield* failing(breakers[2])
      yield* TestClock.adjust(19_999)
      for (const breaker of breakers) assert.isDefined(rejection(yield* passing(breaker)))
      yield* TestClock.adjust(1)
      assert.isTrue(Exit.isSuccess(yield* passing(breakers[1])))
    }))

  it.effect("a probe that says nothing gives its place back, and so does one that was interrupted", () =>
    Effect.gen(function*() {
      const [a, b] = yield* fleet(yield* CircuitBreaker.storeMemory())
      yield* trip(a)
      yield* TestClock.adjust("10 seconds")
      const refused = new LlmError.ProviderError({
        provider: "vendor",
        reason: { _tag: "InvalidRequest" },
        status: 400
      })
      yield* Effect.exit(a.protect(Effect.fail(refused)))
      const probing = yield* Effect.forkChild(b.protect(Effect.never))
      yield* TestClock.adjust(1)
      assert.isDefined(rejection(yield* passing(a)))
      yield* Fiber.interrupt(probing)
      yield* TestClock.adjust(0)
      assert.isTrue(Exit.isSuccess(yield* passing(a)))
    }))

  it.effect("a probe that nobody hears of again loses its place with its lease, and what it finds then counts no more", () =>
    Effect.gen(function*() {
      const [a, b] = yield* fleet(yield* CircuitBreaker.storeMemory(), { probeLease: "5 seconds" })
      yield* trip(a)
      yield* TestClock.adjust("10 seconds")
      const probing = yield* Effect.forkChild(Effect.exit(a.protect(Effect.sleep("6 seconds"))))
      yield* TestClock.adjust(4_999)
      assert.isDefined(rejection(yield* passing(b)))
      yield* TestClock.adjust(1)
      yield* failing(b)
      yield* TestClock.adjust("1 second")
      yield* Fiber.join(probing)
      assert.deepStrictEqual(yield* states([a, b]), ["open", "open"])
    }))

  it.effect("a probe that lives keeps its place, also at the store", () =>
    Effect.gen(function*() {
      const [a, b] = yield* fleet(yield* CircuitBreaker.storeMemory(), { probeLease: "6 seconds" })
      yield* trip(a)
      yield* TestClock.adjust("10 seconds")
      const now = Effect.map(Clock.monotonicTimeNanos, (nanos) => Number(nanos) / 1e6)
      const slot = yield* a.claimUnsafe(yield* now, (effect) => effect)!
      const permit = a.admitUnsafe(yield* now, "", slot)!
      for (let i = 0; i < 10; i++) {
        yield* TestClock.adjust("3 seconds")
        a.renewUnsafe(permit, yield* now)
        yield* TestClock.adjust(0)
        assert.isDefined(rejection(yield* passing(b)), `after ${i}`)
      }
      a.recordUnsafe(permit, "success", yield* now)
      yield* TestClock.adjust(0)
      assert.deepStrictEqual(yield* states([a, b]), ["closed", "closed"])
    }))

  it.effect("what an operator sets holds for all, and ends for all", () =>
    Effect.gen(function*() {
      const breakers = yield* fleet(yield* CircuitBreaker.storeMemory())
      yield* breakers[1].force("open")
      yield* TestClock.adjust(0)
      assert.deepStrictEqual(yield* states(breakers), ["forced-open", "forced-open", "forced-open"])
      yield* TestClock.adjust("3 hours")
      assert.isDefined(rejection(yield* passing(breakers[0])))
      yield* breakers[2].force("auto")
      yield* TestClock.adjust(0)
      // The others have not been used for a minute: they look when they are.
      yield* Effect.forEach(breakers, passing)
      yield* TestClock.adjust(0)
      assert.deepStrictEqual(yield* states(breakers), ["closed", "closed", "closed"])
    }))

  it.effect("an operator's word reaches those who are under the old one, also when the store has lost it", () =>
    Effect.gen(function*() {
      const [before, after] = yield* Effect.all([CircuitBreaker.storeMemory(), CircuitBreaker.storeMemory()])
      let now = before
      const store: CircuitBreaker.CircuitStore = {
        trip: (...args) => now.trip(...args),
        probe: (...args) => now.probe(...args),
        renew: (...args) => now.renew(...args),
        release: (...args) => now.release(...args),
        look: (...args) => now.look(...args)
      }
      const [a, b] = yield* fleet(store)
      yield* a.force("open")
      yield* TestClock.adjust("1 second")
      for (let i = 0; i < 10; i++) yield* after.probe("another", 1, 1)
      now = after
      // It has never heard of the old one.
      const late = yield* CircuitBreaker.makeShared(store, options)
      yield* late.force("auto")
      yield* TestClock.adjust("1 second")
      assert.deepStrictEqual(yield* states([a, b, late]), ["closed", "closed", "closed"])
    }))

  it.effect("a word that changes nothing takes no place away from who probes", () =>
    Effect.gen(function*() {
      const store = yield* CircuitBreaker.storeMemory()
      const [a, b] = yield* fleet(store)
      yield* trip(a)
      yield* TestClock.adjust("10 seconds")
      const probing = yield* Effect.forkChild(a.protect(Effect.never))
      yield* TestClock.adjust(1)
      yield* a.force("auto")
      yield* TestClock.adjust(1)
      assert.strictEqual(rejection(yield* passing(b))?.state, "half-open")
      yield* Fiber.interrupt(probing)
      yield* TestClock.adjust(1)
      assert.isTrue(Exit.isSuccess(yield* passing(b)))
    }))

  it.effect("what was seen before a trip does not undo it", () =>
    Effect.gen(function*() {
      const { watch: _, ...memory } = yield* CircuitBreaker.storeMemory()
      const onItsWay = <A, E>(effect: Effect.Effect<A, E>) => Effect.tap(effect, () => Effect.sleep(10))
      const slow: CircuitBreaker.CircuitStore = {
        ...memory,
        look: (key) => onItsWay(memory.look(key)),
        trip: (key, change) => onItsWay(memory.trip(key, change))
      }
      const { slot } = yield* memory.probe("vendor", 1, 1000)
      yield* memory.trip("vendor", { _tag: "Closed", slot: slot! })
      const breaker = yield* CircuitBreaker.makeShared(slow, options)
      yield* passing(breaker)
      yield* TestClock.adjust(5)
      yield* trip(breaker)
      yield* TestClock.adjust(6)
      assert.strictEqual(yield* stateOf(breaker), "open")
      yield* TestClock.adjust(500)
      assert.strictEqual(yield* stateOf(breaker), "open")
    }))

  describe("who asks for a place", () => {
    const due = Effect.gen(function*() {
      const { watch: _, ...memory } = yield* CircuitBreaker.storeMemory()
      const store = { ...memory, look: () => Effect.undefined }
      const breaker = yield* CircuitBreaker.makeShared(store, options)
      yield* passing(breaker)
      yield* trip(breaker)
      yield* TestClock.adjust("10 seconds")
      return { store, breaker }
    })

    it.effect("and hears that an operator has closed the circuit, passes", () =>
      Effect.gen(function*() {
        const { breaker, store } = yield* due
        yield* store.trip("vendor", { _tag: "Forced", mode: "closed" })
        assert.isTrue(Exit.isSuccess(yield* passing(breaker)))
      }))

    it.effect("and hears that it is open anew, is told for how long", () =>
      Effect.gen(function*() {
        const { breaker, store } = yield* due
        yield* store.trip("vendor", { _tag: "Opened", openFor: 60_000, openings: 2 })
        const error = rejection(yield* passing(breaker))
        assert.strictEqual(error?.state, "open")
        assert.deepStrictEqual(error?.retryAfter, Duration.minutes(1))
      }))
  })

  it.effect("who probes while its process ends gives its place back", () =>
    Effect.gen(function*() {
      const store = yield* CircuitBreaker.storeMemory()
      const [a, b] = yield* fleet(store)
      yield* trip(a)
      yield* TestClock.adjust("10 seconds")
      const ending = yield* Scope.make()
      const third = yield* Scope.provide(CircuitBreaker.makeShared(store, options), ending)
      yield* passing(third)
      yield* TestClock.adjust(0)
      yield* trip(b)
      yield* TestClock.adjust("20 seconds")
      const probing = yield* Effect.forkChild(third.protect(Effect.never))
      yield* TestClock.adjust(1)
      assert.strictEqual(yield* stateOf(third), "half-open")
      yield* Scope.close(ending, Exit.void)
      yield* Fiber.interrupt(probing)
      yield* TestClock.adjust(1)
      assert.isTrue(Exit.isSuccess(yield* passing(a)))
    }))

  it.effect("each tells of what it has learned, and nobody tells it on", () =>
    Effect.gen(function*() {
      const memory = yield* CircuitBreaker.storeMemory()
      let told = 0
      const store: CircuitBreaker.CircuitStore = {
        ...memory,
        trip: (key, change) => {
          told += 1
          return memory.trip(key, change)
        }
      }
      const changes: Array<string> = []
      const breakers = yield* fleet(store, { onTransition: ({ from, to }) => changes.push(`${from} ${to}`) })
      const late = breakers[0].admitUnsafe(0)!
      yield* trip(breakers[0])
      breakers[0].recordUnsafe(late, "failure", 0)
      yield* TestClock.adjust("10 seconds")
      yield* passing(breakers[1])
      yield* TestClock.adjust("3 seconds")
      assert.deepStrictEqual(changes, [
        ...Array.from({ length: 3 }, () => "closed open"),
        "open half-open",
        "half-open closed",
        "open closed",
        "open closed"
      ])
      assert.strictEqual(told, 2)
    }))

  it.effect("what a circuit in shadow mode would have done stays here", () =>
    Effect.gen(function*() {
      const { changes, store } = yield* noted
      const [a] = yield* fleet(store)
      yield* a.force("shadow")
      yield* trip(a)
      yield* TestClock.adjust(0)
      assert.deepStrictEqual(changes, ["Forced"])
    }))

  it.effect("a probe that decides keeps its place until the others are told", () =>
    Effect.gen(function*() {
      const memory = yield* CircuitBreaker.storeMemory()
      const seen: Array<string> = []
      const store: CircuitBreaker.CircuitStore = {
        ...memory,
        trip: (key, change) =>
          Effect.tap(Effect.delay(memory.trip(key, change), 50), () => Effect.sync(() => seen.push(change._tag))),
        release: (key, slot) => {
          seen.push("released")
          return memory.release(key, slot)
        }
      }
      const [a] = yield* fleet(store)
      yield* trip(a)
      yield* TestClock.adjust("11 seconds")
      yield* passing(a)
      yield* TestClock.adjust(0)
      yield* TestClock.adjust(50)
      assert.deepStrictEqual(seen, ["Opened", "Closed", "released"])
    }))

  it.effect("a place is given back at once when there is nothing to probe any more", () =>
    Effect.gen(function*() {
      const { released, store } = yield* noted
      const [a, b] = yield* fleet(store, { halfOpenProbes: 2 })
      yield* trip(a)
      yield* TestClock.adjust("10 seconds")
      const slot = yield* a.claimUnsafe(10_000, (effect) => effect)!
      yield* passing(b)
      yield* TestClock.adjust(0)
      assert.strictEqual(yield* stateOf(a), "closed")
      assert.notInclude(released, slot)
      assert.isDefined(a.admitUnsafe(10_000, "", slot))
      yield* TestClock.adjust(0)
      assert.include(released, slot)
    }))

  it.effect("who finds it open long since, because calls hang, asks for a place", () =>
    Effect.gen(function*() {
      const memory = yield* CircuitBreaker.storeMemory()
      let asked = 0
      const store: CircuitBreaker.CircuitStore = {
        ...memory,
        trip: (key, change) => Effect.delay(memory.trip(key, change), 50),
        probe: (key, slots, lease) => {
          asked += 1
          return memory.probe(key, slots, lease)
        }
      }
      const slow = { slowCall: { duration: "5 seconds" }, minimumCalls: 2, failureThreshold: false } as const
      const breaker = yield* CircuitBreaker.makeShared(store, { ...options, ...slow })
      for (let i = 0; i < 2; i++) yield* Effect.forkChild(breaker.protect(Effect.never), { startImmediately: true })
      yield* TestClock.adjust("20 seconds")
      yield* passing(breaker)
      assert.strictEqual(asked, 1)
    }))

  it.effect("a closed circuit asks the store for nothing but a look a second, and that only while it is used", () =>
    Effect.gen(function*() {
      const memory = yield* CircuitBreaker.storeMemory()
      const asked: Array<string> = []
      const counted = <A extends ReadonlyArray<unknown>, B>(name: string, f: (...args: A) => B) => (...args: A): B => {
        asked.push(name)
        return f(...args)
      }
      const store = {
        ...memory,
        trip: counted("trip", memory.trip),
        probe: counted("probe", memory.probe),
        look: counted("look", memory.look)
      }
      const breaker = yield* CircuitBreaker.makeShared(store, options)
      for (let i = 0; i < 1000; i++) yield* passing(breaker)
      yield* TestClock.adjust(2500)
      assert.deepStrictEqual(asked, ["look", "look", "look"])
      yield* TestClock.adjust("1 hour")
      assert.isAtMost(asked.length, 62)
      yield* passing(breaker)
      yield* TestClock.adjust(0)
      assert.strictEqual(asked.at(-1), "look")
    }))

  describe.each(["fails", "hangs", "throws", "returns nothing"] as const)("a store that %s", (how) => {
    const no = (operation: Store.Operation) => (): Effect.Effect<never, Store.StoreError> => {
      if (how === "throws") throw new Error("broken")
      if (how === "returns nothing") return undefined as unknown as Effect.Effect<never>
      return how === "hangs" ? Effect.never : Effect.fail(new Store.StoreError({ operation }))
    }
    const store: CircuitBreaker.CircuitStore = {
      trip: no("trip"),
      probe: no("probe"),
      renew: no("renew"),
      release: no("release"),
      look: no("look")
    }

    it.effect("each opens, probes and closes by itself", () =>
      Effect.gen(function*() {
        const breaker = yield* CircuitBreaker.makeShared(store, options)
        yield* trip(breaker)
        assert.strictEqual(yield* stateOf(breaker), "open")
        yield* TestClock.adjust("10 seconds")
        const begun = yield* Clock.currentTimeMillis
        const probing = yield* Effect.forkChild(passing(breaker))
        yield* TestClock.adjust(100)
        assert.isTrue(Exit.isSuccess(yield* Fiber.join(probing)))
        assert.isAtMost((yield* Clock.currentTimeMillis) - begun, 100)
        assert.strictEqual(yield* stateOf(breaker), "closed")
      }))
  })

  it.effect("of many at once only as many ask for a place as there are, the others wait for nothing", () =>
    Effect.gen(function*() {
      const memory = yield* CircuitBreaker.storeMemory()
      let asked = 0
      const slow: CircuitBreaker.CircuitStore = {
        ...memory,
        probe: (key, slots, lease) => {
          asked += 1
          return Effect.delay(memory.probe(key, slots, lease), 50)
        }
      }
      const breaker = yield* CircuitBreaker.makeShared(slow, { ...options, halfOpenProbes: 2, successThreshold: 2 })
      yield* passing(breaker)
      yield* trip(breaker)
      yield* TestClock.adjust("10 seconds")
      const calls = yield* Effect.forEach(Array.from({ length: 20 }), () => Effect.forkChild(passing(breaker)))
      yield* TestClock.adjust(0)
      const over = calls.filter((call) => call.pollUnsafe() !== undefined)
      const refused = yield* Effect.forEach(over, (call) => Effect.map(Fiber.join(call), rejection))
      assert.strictEqual(refused.filter((error) => error?.state === "half-open").length, 18)
      yield* TestClock.adjust(50)
      assert.strictEqual(asked, 2)
      assert.strictEqual(yield* stateOf(breaker), "closed")
    }))

  it.effect("who leaves while the store thinks about a place does not keep it", () =>
    Effect.gen(function*() {
      const memory = yield* CircuitBreaker.storeMemory()
      const slow: CircuitBreaker.CircuitStore = {
        ...memory,
        probe: (key, slots, lease) => Effect.delay(memory.probe(key, slots, lease), 50)
      }
      const [a, b] = yield* fleet(slow)
      yield* trip(a)
      yield* TestClock.adjust("10 seconds")
      for (const leaveAfter of [0, 49, 50]) {
        const probing = yield* Effect.forkChild(a.protect(Effect.never))
        yield* TestClock.adjust(leaveAfter)
        yield* Fiber.interrupt(probing)
        yield* TestClock.adjust(60)
        const next = yield* Effect.forkChild(b.protect(Effect.never))
        yield* TestClock.adjust(50)
        assert.strictEqual((yield* b.status).probes, 1, `left after ${leaveAfter}`)
        yield* Fiber.interrupt(next)
        yield* TestClock.adjust(1)
      }
    }))

  it.effect("a place is renewed once in a third of its lease, however often the probe shows that it lives", () =>
    Effect.gen(function*() {
      const memory = yield* CircuitBreaker.storeMemory()
      const renewed: Array<number> = []
      const now = Effect.map(Clock.monotonicTimeNanos, (nanos) => Number(nanos) / 1e6)
      const store: CircuitBreaker.CircuitStore = {
        ...memory,
        renew: (key, slot, lease) =>
          Effect.andThen(Effect.map(now, (at) => renewed.push(at)), memory.renew(key, slot, lease))
      }
      const [a] = yield* fleet(store, { probeLease: "9 seconds" })
      yield* trip(a)
      yield* TestClock.adjust("10 seconds")
      const slot = yield* a.claimUnsafe(yield* now, (effect) => effect)!
      const permit = a.admitUnsafe(yield* now, "", slot)!
      for (let i = 0; i < 100; i++) {
        yield* TestClock.adjust(100)
        a.renewUnsafe(permit, yield* now)
      }
      assert.deepStrictEqual(renewed, [13_000, 16_000, 19_000])
    }))

  it.effect("the answer to a trip comes while the circuit is probed already: the probe still counts", () =>
    Effect.gen(function*() {
      const memory = yield* CircuitBreaker.storeMemory()
      const { watch: _, ...silent } = memory
      const store: CircuitBreaker.CircuitStore = {
        ...silent,
        trip: (key, change) =>
          Effect.flatMap(memory.trip(key, change), (told) => Effect.delay(Effect.succeed(told), 50))
      }
      const [a] = yield* fleet(store, { recoveryTimeout: 10, maxRecoveryTimeout: 10 })
      yield* trip(a)
      yield* TestClock.adjust(10)
      const probing = yield* Effect.forkChild(Effect.exit(a.protect(Effect.sleep(500))))
      yield* TestClock.adjust(300)
      assert.strictEqual(yield* stateOf(a), "half-open")
      yield* TestClock.adjust(200)
      assert.isTrue(Exit.isSuccess(yield* Fiber.join(probing)))
      assert.strictEqual(yield* stateOf(a), "closed")
    }))

  it.effect("a memory of circuits is bounded, and tells nobody who does not listen any more", () =>
    Effect.gen(function*() {
      const store = yield* CircuitBreaker.storeMemory()
      let told = 0
      const opened = { _tag: "Opened", openFor: 60_000, openings: 1 } as const
      const forget = [1, 2].map(() => store.watch!("k", () => void (told += 1)))
      yield* store.trip("k", opened)
      assert.strictEqual(told, 2)
      forget[0]!()
      yield* store.trip("k", { ...opened, openFor: 120_000 })
      assert.strictEqual(told, 3)
      forget[1]!()
      yield* store.trip("k", { ...opened, openFor: 180_000 })
      assert.strictEqual(told, 3)
      for (let i = 0; i < 1500; i++) yield* store.trip(`k${i}`, opened)
      assert.isUndefined(yield* store.look("k"), "the one that was told of longest ago is gone")
      assert.isDefined(yield* store.look("k1499"))
      assert.isDefined(yield* store.look("k500"))
      assert.isUndefined(yield* store.look("k499"))
    }))

  it.effect("a health of somebody's own that throws keeps nobody from probing, again and again", () =>
    Effect.gen(function*() {
      const memory = yield* CircuitBreaker.storeMemory()
      const ask = (): never => {
        throw new Error("broken")
      }
      const health = { name: "own", isUp: () => true, watch: () => () => {}, ask }
      const breaker = yield* CircuitBreaker.makeShared({ ...memory, health }, options)
      yield* trip(breaker)
      for (let i = 0; i < 3; i++) {
        yield* TestClock.adjust("5 minutes")
        yield* failing(breaker)
        assert.strictEqual(yield* stateOf(breaker), "open", `probe ${i}`)
      }
      yield* TestClock.adjust("5 minutes")
      assert.isTrue(Exit.isSuccess(yield* passing(breaker)))
    }))
})
