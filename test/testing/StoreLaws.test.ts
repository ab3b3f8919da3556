import { assert, describe, it } from "@effect/vitest"
import { Store } from "effect-resilient-llm/persistence"
import { StoreLaws } from "effect-resilient-llm/testing"
import { Clock } from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"

/** "Real time" that a test makes: sleeping takes as long as it says, and what the machine adds. */
class Machine {
  time = 1_000_000
  sleeps = 0
  readonly oversleeps: (sleep: number) => number

  constructor(oversleeps: (sleep: number) => number = () => 0) {
    this.oversleeps = oversleeps
  }

  get clock(): Clock {
    const millis = () => this.time
    const nanos = () => BigInt(Math.round(this.time * 1e6))
    return {
      currentTimeMillisUnsafe: millis,
      currentTimeMillis: Effect.sync(millis),
      currentTimeNanosUnsafe: nanos,
      currentTimeNanos: Effect.sync(nanos),
      monotonicTimeNanosUnsafe: nanos,
      monotonicTimeNanos: Effect.sync(nanos),
      sleep: (duration) =>
        Effect.sync(() => {
          this.time += Duration.toMillis(duration) + this.oversleeps(++this.sleeps)
        })
    }
  }
}

type Change = (store: Store.LeaseStore<string>, machine: Machine) => Store.LeaseStore<string>

/** One store in memory for all tries, as a database is. */
const check = (law: StoreLaws.Law, machine: Machine, change: Change = (store) => store) =>
  Effect.gen(function*() {
    const store = yield* Store.memory<string>({ maxEntries: 1000 })
    const layer = Layer.succeed(Store.SharedStore, change(store, machine))
    return yield* Effect.result(StoreLaws.check(law, { layer }))
  }).pipe(Effect.provideService(Clock, machine.clock))

/** The machine stalls as often as `stalls` says, each time an operation begins, and each time one ends. */
const stalling = (stalls: (n: number) => number): Change => (store, machine) => {
  let n = 0
  const stall = Effect.sync(() => {
    machine.time += stalls(n++)
  })
  const slow = <A, E>(effect: Effect.Effect<A, E>): Effect.Effect<A, E> =>
    Effect.andThen(stall, Effect.tap(effect, () => stall))
  return {
    ...store,
    get: (...all) => slow(store.get(...all)),
    set: (...all) => slow(store.set(...all)),
    remove: (...all) => slow(store.remove(...all)),
    acquire: (...all) => slow(store.acquire(...all)),
    renew: (...all) => slow(store.renew(...all)),
    complete: (...all) => slow(store.complete(...all)),
    release: (...all) => slow(store.release(...all))
  }
}

const both = (...changes: ReadonlyArray<Change>): Change => (store, machine) =>
  changes.reduce((changed, change) => change(changed, machine), store)

/** Wrong: what is renewed never gets shorter. */
const neverShorter: Change = (store) => ({
  ...store,
  renew: (key, fence, lease) => store.renew(key, fence, Math.max(lease, 240_000))
})

/** Wrong: leases end only with the second that they end in. */
const wholeSeconds: Change = (store) => ({
  ...store,
  acquire: (key, lease, options) => store.acquire(key, Math.ceil(lease / 1000) * 1000, options)
})

const inRealTime = StoreLaws.laws.filter((law) => StoreLaws.applies(law, { layer: Layer.empty as never }))
const lawOf = (name: string): StoreLaws.Law => inRealTime.find((law) => law.name.startsWith(name))!
const shorter = lawOf("a renewal can shorten")
const late = lawOf("I11 the late value is refused after")

describe("StoreLaws in real time", () => {
  it.each(inRealTime)(
    "kept, however long the machine stalls once, and wherever: $name",
    (law) =>
      Effect.runPromise(Effect.gen(function*() {
        const operations = law.steps.length
        for (const millis of [0, 150, 300, 700, 3000]) {
          for (let at = 0; at < 2 * operations; at++) {
            const result = yield* check(law, new Machine(), stalling((n) => n === at ? millis : 0))
            assert.strictEqual(result._tag, "Success", `${millis} ms at ${at}: ${JSON.stringify(result)}`)
          }
          for (let at = 1; at <= operations; at++) {
            const result = yield* check(law, new Machine((sleep) => sleep === at ? millis : 0))
            assert.strictEqual(result._tag, "Success", `${millis} ms in sleep ${at}: ${JSON.stringify(result)}`)
          }
        }
      }))
  )

  it.effect("timers that ring a moment early end no wait", () =>
    Effect.gen(function*() {
      for (const law of inRealTime) {
        const result = yield* check(law, new Machine((sleep) => sleep % 2 === 1 ? -0.9 : 0))
        assert.strictEqual(result._tag, "Success", law.name)
      }
    }))

  it.effect("a store that is slow, but right, is no machine that stalls", () =>
    Effect.gen(function*() {
      const machine = new Machine()
      const law = lawOf("a value is recorded once per lease")
      assert.strictEqual((yield* check(law, machine, stalling(() => 100)))._tag, "Success")
      assert.strictEqual(machine.sleeps, 3)
    }))

  it.effect("a wrong store is found, also when the machine stalls once, at any moment", () =>
    Effect.gen(function*() {
      for (const millis of [0, 300, 700, 3000]) {
        for (let at = 0; at < 2 * shorter.steps.length; at++) {
          const result = yield* check(
            shorter,
            new Machine(),
            both(neverShorter, stalling((n) => n === at ? millis : 0))
          )
          assert(result._tag === "Failure")
          assert.isUndefined(result.failure.late)
          assert.include(result.failure.message, "step 2: acquire k at 1: expected {\"left\":10}")
        }
      }
    }))

  it.effect("what ends too late is found, although it had ended when a wait took much too long", () =>
    Effect.gen(function*() {
      for (const millis of [0, 900, 3000]) {
        const result = yield* check(late, new Machine((sleep) => sleep <= 2 ? millis : 0), wholeSeconds)
        assert(result._tag === "Failure")
        assert.include(result.failure.message, "step 1: acquire k at 10: expected \"acquired\"")
      }
    }))

  it.effect("a wrong store on a machine that always stalls is not kept, and both are told", () =>
    Effect.gen(function*() {
      const result = yield* check(shorter, new Machine(), both(neverShorter, stalling(() => 300)))
      assert(result._tag === "Failure")
      assert.strictEqual(
        result.failure.message,
        "\"a renewal can shorten, and sets what is left from now on\", step 2: acquire k at 1: expected {\"left\":10}, got " +
          "{\"_tag\":\"Held\",\"left\":239400} (in each of 5 tries the machine stalled, or the store was too slow for this law: " +
          "its steps came 1800 ms late)"
      )
      const overslept = yield* check(late, new Machine(() => 3000), wholeSeconds)
      assert(overslept._tag === "Failure")
      assert.include(overslept.failure.message, "in each of 5 tries the machine stalled")
    }))

  it.effect("a right store on a machine that always stalls is not kept, and nobody takes it for wrong", () =>
    Effect.gen(function*() {
      const machine = new Machine()
      const result = yield* check(shorter, machine, stalling(() => 300))
      assert(result._tag === "Failure")
      assert.strictEqual(result.failure.late, 1800)
      assert.strictEqual(machine.sleeps, 5)
    }))
})
