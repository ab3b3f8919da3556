// Several processes over one store, in all the ways they can get into each other's way: clients that share nothing else.
import { assert, describe, it } from "@effect/vitest"
import { Cause, Effect, Exit, Schema, Scope } from "effect"
import { Store } from "effect-resilient-llm/persistence"
import { ScriptedProvider } from "effect-resilient-llm/testing"
import { TestClock } from "effect/testing"
import { over, type Running, start, succeeds } from "../conformance/support.ts"
import { World } from "../conformance/Sweep.world.ts"
import {
  ask,
  fork,
  type Kind,
  kinds,
  now,
  type Outcome,
  recordsIn,
  type SetUp,
  setUp,
  success,
  vector
} from "../support.ts"

const order = { prompt: "P", idempotencyKey: "k" }
const LEASE = 1000

// -----------------------------------------------------------------------------
// random lives
// -----------------------------------------------------------------------------

const Time = Schema.Literals([0, 1, 40, 300, 999, 1000, 1001, 1700, 2500])

const NEVER = 1e9

const Process = Schema.Struct({
  /** What its provider does, one after the other. */
  script: Schema.Array(Schema.Struct({ delay: Time, ok: Schema.Boolean })).check(Schema.isMaxLength(4)),
  /** When it is asked, and for how long somebody waits. */
  calls: Schema.Array(Schema.Struct({ at: Time, patience: Schema.Literals([10, 500, 1500, NEVER, NEVER, NEVER]) }))
    .check(Schema.isMaxLength(4)),
  /** Its records are so long on their way. */
  slow: Schema.Literals([0, 0, 30, 90]),
  /** Stopped or cut off, so that its renewals do not arrive. */
  renews: Schema.Boolean,
  /** From then on the store hears nothing of it. */
  diesAt: Schema.Literals([0, 500, 1200, NEVER, NEVER, NEVER])
})

const stepOf = (text: string, { delay, ok }: { readonly delay: number; readonly ok: boolean }) => ({
  ...(ok ? ScriptedProvider.answer(text) : ScriptedProvider.overloaded),
  delay
})

describe.each(kinds)("%s", (kind) => {
  const seen = { late: 0, replayed: 0, takenOver: 0 }

  it.effect.prop(
    "processes that are slow, late, interrupted or dead leave one answer at most, and replays are that one",
    { processes: Schema.Tuple([Process, Process]) },
    ({ processes }) =>
      vector(Effect.gen(function*() {
        const memory = yield* Store.memory<string>({ maxEntries: 10 })
        const accepted: Array<string> = []
        const begun: Array<Running<Outcome, unknown>> = []
        const fleets: Array<{ readonly r: SetUp; readonly leased: ReadonlyArray<number> }> = []
        for (const [by, { calls, diesAt, renews, script, slow }] of processes.entries()) {
          const leased: Array<number> = []
          const whileItLives = <A>(use: (now: number) => Effect.Effect<A, Store.StoreError>, instead: A) =>
            Effect.flatMap(now, (at) => at < diesAt ? use(at) : Effect.succeed(instead))
          const store: Store.LeaseStore<string> = {
            ...memory,
            acquire: (key, lease) =>
              Effect.tap(memory.acquire(key, lease), ({ _tag }) =>
                Effect.map(now, (at) => {
                  if (_tag === "Acquired") leased.push(at)
                })),
            complete: (key, fence, value, options) => {
              const complete = whileItLives(() => memory.complete(key, fence, value, options), false)
              return Effect.tap(Effect.delay(complete, slow), (done) =>
                Effect.sync(() => {
                  if (done) accepted.push(value)
                  else seen.late += 1
                }))
            },
            renew: (key, fence, lease) =>
              whileItLives(() => renews ? memory.renew(key, fence, lease) : Effect.succeed(true), true),
            release: (key, fence) => whileItLives(() => memory.release(key, fence), undefined)
          }
          const steps = script.map((does, i) => stepOf(`${by}.${i}`, does))
          const provider = { script: steps, always: ScriptedProvider.answer(`${by}.x`) }
          const r = yield* setUp([provider], { retry: false, idempotency: { lease: LEASE } }).pipe(recordsIn(store))
          fleets.push({ r, leased })
          for (const { at, patience } of calls) {
            const call = yield* start(Effect.delay(ask(kind, r.client, order), at))
            begun.push(call)
            yield* fork(Effect.delay(Effect.sync(() => call.fiber.interruptUnsafe()), at + patience))
          }
        }
        yield* TestClock.adjust("1 minute")

        assert.isAtMost(accepted.length, 1)
        const [record] = accepted
        // Nobody works without the lease.
        for (const { leased, r } of fleets) assert.includeMembers([...leased], [...yield* r.calls()])
        if (fleets.every(({ leased }) => leased.length > 0)) seen.takenOver += 1
        for (const call of begun) {
          const exit = over(call)
          if (Exit.isFailure(exit)) continue
          const how = exit.value.ledger.flatMap((event) => event._tag === "Idempotency" ? event.result : [])
          // Who joined a leader of its own process has that one's answer, which may be late.
          if (how.at(-1) !== "replayed") continue
          assert.include(record, `"${exit.value.text}"`)
          seen.replayed += 1
        }
        // Whoever comes now, from wherever: the record, or else nothing, not even a lease.
        const last = yield* setUp([[ScriptedProvider.answer("new")]], { idempotency: {} }).pipe(recordsIn(memory))
        const { source, text } = yield* ask(kind, last.client, order)
        assert.strictEqual(source, record === undefined ? "provider" : "replay")
        assert.include(record ?? "\"new\"", `"${text}"`)
      })).pipe(Effect.provide(TestClock.layer())),
    { arbitrary: { runs: 400 } }
  )

  it("the runs above were not all harmless", () => {
    assert.isAbove(Math.min(seen.late, seen.replayed, seen.takenOver), 20, JSON.stringify(seen))
  })
})

// -----------------------------------------------------------------------------
// an interruption after every yield
// -----------------------------------------------------------------------------

/** Two processes ask the same; the first one is interrupted after `steps` yields of both. Was it in time? */
const sweepRun = (kind: Kind, budget: number, steps: number): boolean => {
  const where = `budget ${budget}, step ${steps}`
  const world = new World()
  const scope = Scope.makeUnsafe()
  let key = ""
  const memory = world.run(Effect.orDie(Store.memory<string>({ maxEntries: 10 })))
  // A store that can be interrupted, if it is let.
  const store: Store.LeaseStore<string> = {
    ...memory,
    acquire: (asked, lease) => {
      key = asked
      return Effect.tap(memory.acquire(asked, lease), Effect.yieldNow)
    },
    complete: (asked, fence, value, options) =>
      Effect.andThen(Effect.yieldNow, memory.complete(asked, fence, value, options)),
    release: (asked, fence) => Effect.andThen(Effect.yieldNow, memory.release(asked, fence))
  }
  const step = { ...ScriptedProvider.stream("a", { wait: 10 }, "b"), delay: 10 }
  const build = Effect.orDie(setUp([{ always: step }], { idempotency: { lease: LEASE } }).pipe(recordsIn(store)))
  const [one, two] = [world.run(Scope.provide(build, scope)), world.run(Scope.provide(build, scope))]
  const victim = world.fork(ask(kind, one.client, order), budget)
  const companion = world.fork(ask(kind, two.client, order), budget)
  for (let i = 0; i < steps && victim.pollUnsafe() === undefined; i++) world.step()
  const before = victim.pollUnsafe()
  victim.interruptUnsafe()
  world.until(victim, companion)
  const exit = victim.pollUnsafe()!
  if (before === undefined) assert.isTrue(Exit.isFailure(exit) && Cause.hasInterruptsOnly(exit.cause), where)
  assert.strictEqual(success(companion.pollUnsafe()!).text, "ab", where)
  // Nobody waited for a lease to end.
  assert.isBelow(world.run(now), LEASE, where)
  assert.deepStrictEqual(world.held, { sleeps: 0, fibers: 0 }, where)
  assert.strictEqual(world.run(Effect.orDie(memory.acquire(key, 1)))._tag, "Found", where)
  world.run(Scope.close(scope, Exit.void))
  return before === undefined
}

/** One process alone: whatever it held is free afterwards. */
const aloneRun = (kind: Kind, budget: number, steps: number): boolean => {
  const where = `budget ${budget}, step ${steps}`
  const world = new World()
  const scope = Scope.makeUnsafe()
  const leases = new Map<string, number>()
  const memory = world.run(Effect.orDie(Store.memory<string>({ maxEntries: 10 })))
  const store: Store.LeaseStore<string> = {
    ...memory,
    acquire: (key, lease) =>
      Effect.tap(memory.acquire(key, lease), (acquired) => {
        leases.set(key, lease)
        return Effect.as(Effect.yieldNow, acquired)
      })
  }
  const build = Effect.orDie(
    setUp([{ always: { ...succeeds, delay: 10 } }], { idempotency: { lease: LEASE } }).pipe(recordsIn(store))
  )
  const r = world.run(Scope.provide(build, scope))
  const call = world.fork(ask(kind, r.client, order), budget)
  for (let i = 0; i < steps && call.pollUnsafe() === undefined; i++) world.step()
  const before = call.pollUnsafe()
  call.interruptUnsafe()
  world.until(call)
  for (const key of leases.keys()) {
    assert.notStrictEqual(world.run(Effect.orDie(memory.acquire(key, 1)))._tag, "Held", where)
  }
  world.run(Scope.close(scope, Exit.void))
  return before === undefined
}

describe.each(kinds)("%s, interrupted after every yield", (kind) => {
  it.each([["two processes", sweepRun], ["one alone", aloneRun]] as const)("%s: no lease is left", (_, run) => {
    let inTime = 0
    for (let budget = 3; budget <= 64; budget++) {
      for (let steps = 0; run(kind, budget, steps); steps++) inTime += 1
    }
    assert.isAbove(inTime, 300)
  })
})
