// What one process tells, asks and hears of a circuit that others share. The store here writes down every question, and
// answers what the test says.
import { assert, describe, it } from "@effect/vitest"
import { Cause, Clock, Effect, Exit, Fiber, Scheduler, Scope } from "effect"
import { Health, type Store } from "effect-resilient-llm/persistence"
import { TestClock } from "effect/testing"
import type { CircuitChange, CircuitStore, Claim, SharedCircuit } from "../../../src/resilience/internal/circuits.ts"
import { fleetOf, share } from "../../../src/resilience/internal/sharedCircuit.ts"
import { calm, now, start } from "../waiting.ts"

const seen = (generation: number, more?: Partial<SharedCircuit>): SharedCircuit => ({
  generation,
  mode: "auto",
  isOpen: true,
  left: 1000,
  openings: 1,
  openFor: 1000,
  ...more
})

const opened: CircuitChange = { _tag: "Opened", openFor: 1000, openings: 1 }
const closed: CircuitChange = { _tag: "Closed", slot: 7 }
const forced: CircuitChange = { _tag: "Forced", mode: "open" }

const LEASE = 9000

const setup = (options?: { readonly probes?: number; readonly watch?: CircuitStore["watch"] }) =>
  Effect.gen(function*() {
    const asked: Array<ReadonlyArray<unknown>> = []
    const heard: Array<readonly [generation: number, at: number, isAnswer: boolean]> = []
    /** Which operation the health was asked for, and how it ended. */
    const judged: Array<readonly [Store.Operation, Exit.Exit<unknown, unknown>]> = []
    const does = {
      trip: Effect.undefined as Effect.Effect<SharedCircuit | undefined, Store.StoreError>,
      probe: Effect.succeed({ slot: 7, circuit: undefined }) as Effect.Effect<Claim, Store.StoreError>,
      look: Effect.undefined as Effect.Effect<SharedCircuit | undefined, Store.StoreError>
    }
    const note = (...question: ReadonlyArray<unknown>) => void asked.push(question)
    const store: CircuitStore = {
      trip: (...question) => (note("trip", ...question), does.trip),
      probe: (...question) => (note("probe", ...question), does.probe),
      renew: (...question) => (note("renew", ...question), Effect.void),
      release: (...question) => (note("release", ...question), Effect.void),
      look: (...question) => (note("look", ...question), does.look),
      watch: options?.watch
    }
    const scope = yield* Scope.make()
    const watched = Health.make({ name: "test", ping: Effect.void })
    const clock = yield* Effect.clockWith(Effect.succeed)
    const sharing = share({
      key: "k",
      store,
      health: {
        ...watched,
        name: "test",
        ask: (operation, self, options) =>
          watched.ask(
            operation,
            Effect.onExit(self, (exit) => Effect.sync(() => void judged.push([operation, exit]))),
            options
          )
      },
      probes: options?.probes ?? 1,
      lease: LEASE,
      scope,
      context: yield* Effect.context(),
      clock,
      follow: ({ generation }, at, isAnswer) => void heard.push([generation, at, isAnswer])
    })
    return {
      asked,
      heard,
      judged,
      does,
      scope,
      sharing,
      count: (name: string) => asked.filter(([asked]) => asked === name).length,
      released: () => asked.filter(([asked]) => asked === "release").map(([, , slot]) => slot),
      use: Effect.map(now, sharing.used),
      claim: (patience?: Health.Patience) => sharing.claim((effect) => effect, patience)
    }
  })

const slow = <A>(answer: A, millis = 50) => Effect.delay(Effect.succeed(answer), millis)

it.effect("each question goes to the store under the key of the circuit, and to its health under its own name", () =>
  Effect.gen(function*() {
    const { asked, claim, judged, sharing, use } = yield* setup({ probes: 3 })
    yield* use
    yield* claim()
    sharing.renew(7, LEASE)
    sharing.release(7)
    sharing.tell(opened)
    yield* calm
    assert.deepStrictEqual(asked, [
      ["look", "k"],
      ["probe", "k", 3, LEASE],
      ["renew", "k", 7, LEASE],
      ["release", "k", 7],
      ["trip", "k", opened]
    ])
    assert.deepStrictEqual(judged.map(([operation]) => operation), ["look", "probe", "renew", "release", "trip"])
  }))

it.effect("a store that returns no effect is named to the health", () =>
  Effect.gen(function*() {
    const { claim, does, judged, use } = yield* setup()
    does.look = undefined as never
    does.probe = undefined as never
    yield* use
    assert.strictEqual(yield* claim(), 0)
    const words = judged.map(([operation, exit]) => [operation, Exit.isFailure(exit) && String(exit.cause)])
    for (const [operation, cause] of words) {
      assert.include(cause, "The store returned what is no effect, but nothing", String(operation))
    }
    assert.deepStrictEqual(words.map(([operation]) => operation), ["look", "probe"])
  }))

describe("what is heard", () => {
  it.effect("is followed once, at the moment in which it comes, and not when something newer was heard before", () =>
    Effect.gen(function*() {
      const { does, heard, use } = yield* setup()
      yield* use
      for (const generation of [3, 3, 2, 4]) {
        does.look = Effect.succeed(seen(generation))
        yield* TestClock.adjust("1 second")
      }
      assert.deepStrictEqual(heard, [[3, 1000, false], [4, 4000, false]])
    }))

  it.effect.each([
    { what: "an open circuit, of who has told that it opened", change: opened, isOpen: true, isAnswer: true },
    { what: "a closed circuit, of who has told that it opened", change: opened, isOpen: false, isAnswer: false },
    { what: "an open circuit, of who has told that it closed", change: closed, isOpen: true, isAnswer: false },
    { what: "an open circuit, of who has forced it", change: forced, isOpen: true, isAnswer: false }
  ])("is $what: is it the answer to that? $isAnswer", ({ change, isAnswer, isOpen }) =>
    Effect.gen(function*() {
      const { does, heard, sharing } = yield* setup()
      does.trip = Effect.succeed(seen(1, { isOpen }))
      sharing.tell(change)
      yield* calm
      assert.deepStrictEqual(heard, [[1, 0, isAnswer]])
    }))

  it.effect("with a place among the probes counts as well", () =>
    Effect.gen(function*() {
      const { claim, does, heard } = yield* setup()
      does.probe = Effect.succeed({ slot: undefined, circuit: seen(5) })
      assert.isUndefined(yield* claim())
      assert.deepStrictEqual(heard, [[5, 0, false]])
    }))

  it.effect("while something is still to be told is older than that", () =>
    Effect.gen(function*() {
      const { does, heard, sharing, use } = yield* setup()
      yield* use
      does.trip = Effect.suspend(() => slow(seen(heard.length + 2)))
      does.look = Effect.succeed(seen(9))
      sharing.tell(opened)
      sharing.tell(closed)
      yield* TestClock.adjust(99)
      assert.deepStrictEqual(heard, [], "neither the answer to the first, nor a look")
      yield* TestClock.adjust(1)
      assert.deepStrictEqual(heard, [[2, 100, false]])
      yield* TestClock.adjust(900)
      assert.deepStrictEqual(heard, [[2, 100, false], [9, 1000, false]])
    }))

  it.effect("counts again after something that could not be told", () =>
    Effect.gen(function*() {
      const { does, heard, sharing, use } = yield* setup()
      yield* use
      does.trip = Effect.die("broken")
      sharing.tell(opened)
      does.look = Effect.succeed(seen(1))
      yield* TestClock.adjust("1 second")
      assert.deepStrictEqual(heard, [[1, 1000, false]])
    }))
})

describe("what is told", () => {
  it.effect("goes out one after the other, also when the process is about to end", () =>
    Effect.gen(function*() {
      const { asked, does, scope, sharing } = yield* setup()
      does.trip = slow(undefined)
      sharing.tell(opened)
      sharing.tell(closed)
      yield* Scope.close(scope, Exit.void)
      yield* TestClock.adjust(49)
      assert.deepStrictEqual(asked, [["trip", "k", opened]])
      yield* TestClock.adjust(1)
      assert.deepStrictEqual(asked, [["trip", "k", opened], ["trip", "k", closed]])
    }))

  it.effect.each([
    { what: "an opening", change: opened, answer: Effect.undefined, gone: [7] },
    { what: "an opening that the store did not hear of", change: opened, answer: Effect.die("broken"), gone: [7] },
    { what: "an end", change: closed, answer: Effect.succeed(seen(1)), gone: [7] },
    { what: "an operator's word that is news", change: forced, answer: Effect.succeed(seen(4)), gone: [7] },
    { what: "an operator's word that is known", change: forced, answer: Effect.succeed(seen(3)), gone: [] },
    { what: "an operator's word that was lost", change: forced, answer: Effect.die("broken"), gone: [] }
  ])("ends the places that were held: $what, $gone", ({ answer, change, gone }) =>
    Effect.gen(function*() {
      const { claim, does, released, sharing } = yield* setup()
      does.probe = Effect.succeed({ slot: 7, circuit: seen(3) })
      yield* claim()
      does.trip = answer
      sharing.tell(change)
      yield* calm
      assert.deepStrictEqual(released(), gone)
    }))

  it.effect("an operator's word that nobody answers leaves the places alone where nothing was ever heard", () =>
    Effect.gen(function*() {
      const { claim, released, sharing } = yield* setup()
      yield* claim()
      sharing.tell(forced)
      yield* calm
      assert.deepStrictEqual(released(), [])
    }))

  it.effect("does not end a place that was given since", () =>
    Effect.gen(function*() {
      const { claim, does, released, sharing } = yield* setup()
      does.trip = slow(undefined)
      sharing.tell(opened)
      yield* claim()
      yield* TestClock.adjust(50)
      assert.deepStrictEqual(released(), [])
    }))
})

describe("a circuit in use", () => {
  it.effect("is looked at at once and each second, until a minute after its last use", () =>
    Effect.gen(function*() {
      const { count, use } = yield* setup()
      yield* use
      yield* use
      assert.strictEqual(count("look"), 1)
      yield* TestClock.adjust("30 seconds")
      assert.strictEqual(count("look"), 31)
      yield* use
      yield* TestClock.adjust("59 seconds")
      assert.strictEqual(count("look"), 90)
      yield* TestClock.adjust("1 hour")
      assert.strictEqual(count("look"), 90)
      yield* use
      yield* TestClock.adjust("1 second")
      assert.strictEqual(count("look"), 92)
    }))

  it.effect("is looked at further when a look has failed", () =>
    Effect.gen(function*() {
      const { count, does, heard, use } = yield* setup()
      does.look = Effect.die("broken")
      yield* use
      does.look = Effect.succeed(seen(1))
      yield* TestClock.adjust("1 second")
      assert.strictEqual(count("look"), 2)
      assert.deepStrictEqual(heard, [[1, 1000, false]])
    }))

  const watching = Effect.gen(function*() {
    const listening = new Map<string, () => void>()
    const all = yield* setup({
      watch: (key, changed) => {
        listening.set(key, changed)
        return () => void listening.delete(key)
      }
    })
    return { ...all, listening }
  })

  it.effect("is looked at when the store says that it has changed, as long as it is in use", () =>
    Effect.gen(function*() {
      const { does, heard, listening, use } = yield* watching
      assert.strictEqual(listening.size, 0)
      yield* use
      does.look = Effect.succeed(seen(1))
      yield* TestClock.adjust(300)
      listening.get("k")!()
      assert.deepStrictEqual(heard, [[1, 300, false]])
      yield* TestClock.adjust("1 minute")
      assert.strictEqual(listening.size, 0)
      yield* use
      assert.strictEqual(listening.size, 1)
    }))

  it.effect("is neither looked at nor listened for when the process ends", () =>
    Effect.gen(function*() {
      const { count, listening, scope, use } = yield* watching
      yield* use
      yield* Scope.close(scope, Exit.void)
      assert.strictEqual(listening.size, 0)
      const before = count("look")
      yield* TestClock.adjust("10 seconds")
      assert.strictEqual(count("look"), before)
    }))
})

describe("who wants to probe", () => {
  it.effect("asks unless as many ask already as there are places, and may ask when they have their answer", () =>
    Effect.gen(function*() {
      const { claim, count, does } = yield* setup({ probes: 2 })
      does.probe = slow({ slot: 7, circuit: undefined })
      const asking = [yield* start(claim()), yield* start(claim())]
      assert.isUndefined(yield* claim())
      assert.strictEqual(count("probe"), 2)
      yield* TestClock.adjust(50)
      for (const one of asking) assert.strictEqual(yield* Fiber.join(one), 7)
      const left = yield* start(claim())
      yield* Fiber.interrupt(left)
      yield* start(claim())
      yield* start(claim())
      assert.isUndefined(yield* claim())
      assert.strictEqual(count("probe"), 5)
    }))

  it.effect("waits no longer than its call has patience, and probes without the store", () =>
    Effect.gen(function*() {
      const { claim, does, released } = yield* setup()
      does.probe = slow({ slot: 7, circuit: undefined })
      const claiming = yield* start(claim({ left: 10 }))
      yield* TestClock.adjust(10)
      assert.strictEqual(yield* Fiber.join(claiming), 0)
      assert.deepStrictEqual(released(), [])
      yield* TestClock.adjust(40)
      assert.deepStrictEqual(released(), [7], "the place that came too late")
    }))

  it.effect("and does not get a place has none to give back", () =>
    Effect.gen(function*() {
      const { asked, claim, does, sharing } = yield* setup()
      does.probe = slow({ slot: undefined, circuit: undefined })
      const left = yield* start(claim())
      yield* Fiber.interrupt(left)
      const late = yield* start(claim({ left: 10 }))
      yield* TestClock.adjust(60)
      assert.strictEqual(yield* Fiber.join(late), 0)
      sharing.release(7)
      sharing.tell(opened)
      yield* calm
      assert.deepStrictEqual(asked.map(([name]) => name), ["probe", "probe", "trip"])
      const exit = yield* Fiber.await(left)
      assert.isTrue(Exit.isFailure(exit) && Cause.hasInterruptsOnly(exit.cause), "nothing else went wrong")
    }))

  it.effect("and leaves in the moment in which it gets one gives it back", () =>
    Effect.gen(function*() {
      // The fibre yields after every so many operations, and is interrupted so many turns later.
      for (let budget = 3; budget < 14; budget++) {
        for (let turns = 0; turns < 10; turns++) {
          const { count, released, sharing } = yield* setup()
          let got: number | undefined
          const claim = Effect.uninterruptibleMask((restore) =>
            Effect.map(sharing.claim(restore, undefined), (slot) => {
              got = slot
            })
          )
          const fiber = yield* start(Effect.provideService(claim, Scheduler.MaxOpsBeforeYield, budget))
          for (let i = 0; i < turns; i++) yield* Effect.yieldNow
          fiber.interruptUnsafe()
          yield* calm
          assert.isDefined(fiber.pollUnsafe())
          const isBack = count("probe") === 1 && got === undefined
          assert.deepStrictEqual(released(), isBack ? [7] : [], `${budget}, ${turns}`)
        }
      }
    }))

  it.effect("keeps its place until it gives it back, which it does once", () =>
    Effect.gen(function*() {
      const { claim, released, sharing } = yield* setup()
      assert.strictEqual(yield* claim(), 7)
      yield* calm
      assert.deepStrictEqual(released(), [])
      sharing.release(7)
      sharing.release(7)
      yield* calm
      assert.deepStrictEqual(released(), [7])
    }))

  it.effect("renews its place after a third of its lease, and only a place that it has", () =>
    Effect.gen(function*() {
      const { claim, count, sharing } = yield* setup()
      yield* TestClock.adjust(500)
      yield* claim()
      const renewed = (at: number, slot = 7) => {
        const before = count("renew")
        sharing.renew(slot, at)
        return count("renew") > before
      }
      assert.deepStrictEqual(
        [3499, 3500, 3501, 6499, 6500].map((at) => renewed(at)),
        [false, true, false, false, true]
      )
      assert.isFalse(renewed(20_000, 8))
      sharing.release(7)
      assert.isFalse(renewed(20_000))
    }))
})

it.effect("of a store that was away it is asked whether it is back, and not of any circuit", () =>
  Effect.gen(function*() {
    const asked: Array<string> = []
    let isAway = true
    const store = {
      look: (key: string) => {
        asked.push(key)
        return isAway ? Effect.die("broken") : Effect.undefined
      },
      trip: () => Effect.undefined,
      probe: () => Effect.die("not asked"),
      renew: () => Effect.void,
      release: () => Effect.void
    }
    const fleet = yield* fleetOf(store)
    assert.strictEqual(fleet.store, store)
    assert.strictEqual(fleet.clock, yield* Clock.Clock)
    const look = Effect.exit(fleet.health.ask("look", Effect.suspend(() => store.look("k"))))
    for (let i = 0; i < 3; i++) yield* look
    assert.isFalse(fleet.health.isUp())
    isAway = false
    yield* TestClock.adjust("1 second")
    assert.isTrue(fleet.health.isUp())
    assert.deepStrictEqual(asked.slice(0, 3), ["k", "k", "k"])
    assert.deepStrictEqual([...new Set(asked.slice(3))], ["ping"])
    assert.isTrue(Exit.isSuccess(yield* look))
  }))
