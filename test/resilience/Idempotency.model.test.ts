// Interruptions at every step, and sequences of calls against a map of keys.
import { assert, describe, it } from "@effect/vitest"
import { ProviderError } from "effect-resilient-llm/LlmError"
import * as Store from "effect-resilient-llm/persistence/Store"
import * as Idempotency from "effect-resilient-llm/resilience/Idempotency"
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Scheduler from "effect/Scheduler"
import * as Schema from "effect/Schema"
import * as TestClock from "effect/testing/TestClock"

const overloads = new ProviderError({ provider: "stub", reason: { _tag: "Overloaded" }, status: 503 })
const invalid = new ProviderError({ provider: "stub", reason: { _tag: "InvalidRequest" }, status: 400 })
const finalWhenInvalid = { storeFailure: (error: ProviderError) => error.reason._tag === "InvalidRequest" }

const make = (options?: Idempotency.Options<string, ProviderError>) => Idempotency.make<string, ProviderError>(options)

/** Lets everything that is not waiting for time run. */
const settle = TestClock.adjust(0)

const request: Idempotency.Request = { key: "k", fingerprint: "P" }

// -----------------------------------------------------------------------------
// sweeps: an interruption at every step, for every length of a step
// -----------------------------------------------------------------------------

/** Runs one task at a time, so that a test can act between any two of them. */
class Stepper implements Scheduler.Scheduler {
  readonly executionMode = "async"
  readonly tasks: Array<() => void> = []
  shouldYield(fiber: Fiber.Fiber<unknown, unknown>) {
    return fiber.currentOpCount >= fiber.cache.maxOpsBeforeYield
  }
  makeDispatcher() {
    return {
      scheduleTask: (task: () => void) => {
        this.tasks.push(task)
      },
      flush: () => this.drain()
    }
  }
  step(): boolean {
    const task = this.tasks.shift()
    task?.()
    return task !== undefined
  }
  drain() {
    let steps = 0
    while (this.step()) assert.isBelow(++steps, 10_000, "it never comes to rest")
  }
}

describe("interruption sweeps", () => {
  const names = ["A", "B", "C"] as const
  type Name = typeof names[number]

  /** No time passes, or a busy machine would make a store late. */
  const standing: Clock.Clock = {
    currentTimeMillisUnsafe: () => 0,
    currentTimeMillis: Effect.succeed(0),
    currentTimeNanosUnsafe: () => 0n,
    currentTimeNanos: Effect.succeed(0n),
    monotonicTimeNanosUnsafe: () => 0n,
    monotonicTimeNanos: Effect.succeed(0n),
    sleep: () => Effect.never
  }

  /** One world per run: three callers of one key, work and a store that yield and count what they hold. */
  const world = (budget: number, verbs: Record<Name, "run" | "enter">) => {
    const stepper = new Stepper()
    const context = Context.make(Scheduler.MaxOpsBeforeYield, budget).pipe(Context.add(Clock.Clock, standing))
    const fork = <A, E>(effect: Effect.Effect<A, E>) => Effect.runForkWith(context)(effect, { scheduler: stepper })
    const held = { work: 0, store: 0 }
    let calls = 0
    const hold = <A>(what: "work" | "store", use: Effect.Effect<A>) =>
      Effect.acquireUseRelease(
        Effect.sync(() => held[what]++),
        () => Effect.andThen(Effect.yieldNow, use),
        () => Effect.sync(() => held[what]--)
      )
    const work = hold("work", Effect.sync(() => ({ value: `S${++calls}`, store: true })))
    const memory = Effect.runSync(Store.memory<Idempotency.Stored<string, ProviderError>>({ maxEntries: 10 }))
    const idempotency = Effect.runSync(make({
      store: {
        ...memory,
        acquire: (key, lease) => hold("store", Effect.orDie(memory.acquire(key, lease))),
        complete: (key, fence, value, options) =>
          hold("store", Effect.orDie(memory.complete(key, fence, value, options))),
        release: (key, fence) => hold("store", Effect.orDie(memory.release(key, fence)))
      }
    }))
    const run = Effect.map(idempotency.run(request, () => work), (answer) => answer.value)
    const enter = Effect.scoped(Effect.gen(function*() {
      while (true) {
        const entered = yield* idempotency.enter(request)
        if (entered._tag === "Replay") return yield* entered.exit
        if (entered._tag === "Lead") {
          const produced = yield* work
          yield* entered.ticket.complete(Exit.succeed(produced))
          return produced.value
        }
        const outcome = yield* entered.await
        if (outcome !== "abandoned") return yield* outcome.exit
      }
    }))
    const start = () =>
      new Map(names.map((name) => [name, fork<string, unknown>(verbs[name] === "run" ? run : enter)] as const))
    return { stepper, fork, held, idempotency, run, start }
  }

  const sweep = (verbs: Record<Name, "run" | "enter">, victims: ReadonlyArray<Name>) => {
    let interruptions = 0
    let cut = 0
    for (let budget = 3; budget <= 64; budget++) {
      for (let at = 0, running = true; running; at++) {
        const { fork, held, idempotency, run, start, stepper } = world(budget, verbs)
        const callers = start()
        for (let i = 0; i < at && running; i++) running = stepper.step()
        for (const name of victims) {
          callers.get(name)!.interruptUnsafe()
          interruptions++
        }
        stepper.drain()
        const where = `budget ${budget}, step ${at}`
        const values = new Set<string>()
        for (const [name, fiber] of callers) {
          const exit = fiber.pollUnsafe()
          if (exit === undefined) throw new Error(`${name} is stuck: ${where}`)
          if (Exit.isSuccess(exit)) values.add(exit.value)
          else {
            assert.isTrue(victims.includes(name) && Cause.hasInterruptsOnly(exit.cause), `${name} failed: ${where}`)
            cut++
          }
        }
        assert.isAtMost(values.size, 1, where)
        assert.deepStrictEqual(held, { work: 0, store: 0 }, where)
        assert.strictEqual(Effect.runSync(idempotency.inFlight), 0, where)
        // The key is usable, and whoever got an answer got the recorded one.
        const after = fork(run)
        stepper.drain()
        const exit = after.pollUnsafe()
        assert.isTrue(exit !== undefined && Exit.isSuccess(exit), where)
        for (const value of values) assert.deepStrictEqual(exit, Exit.succeed(value), where)
      }
    }
    // The sweep did what it says: many interruptions, some in time and some too late.
    assert.isAbove(cut, 300)
    assert.isAbove(interruptions, cut)
  }

  const run = { A: "run", B: "run", C: "run" } as const
  const enter = { A: "enter", B: "enter", C: "enter" } as const
  it("run: the leader", () => sweep(run, ["A"]))
  it("run: a follower", () => sweep(run, ["B"]))
  it("run: leader and follower", () => sweep(run, ["A", "B"]))
  it("run: everybody, the leader first", () => sweep(run, ["A", "B", "C"]))
  it("run: everybody, the leader last", () => sweep(run, ["C", "B", "A"]))
  it("enter: the leader", () => sweep(enter, ["A"]))
  it("enter: a follower", () => sweep(enter, ["B"]))
  it("enter: everybody", () => sweep(enter, ["A", "B", "C"]))
  it("a leader in place with followers that run", () => sweep({ ...run, A: "enter" }, ["A", "C"]))
  it("a leader that runs with a member in place", () => sweep({ ...run, B: "enter" }, ["A", "C"]))
})

// -----------------------------------------------------------------------------
// reference model
// -----------------------------------------------------------------------------

describe("reference model", () => {
  const key = Schema.Literals(["x", "y"])
  const Op = Schema.Union([
    Schema.TaggedStruct("call", {
      key,
      fingerprint: Schema.Literals(["P", "P", "Q"]),
      deadlineAt: Schema.Literals([1, 2, 3])
    }),
    Schema.TaggedStruct("call", {
      key,
      fingerprint: Schema.Literals(["P", "P", "Q"]),
      deadlineAt: Schema.Literals([1, 2, 3])
    }),
    Schema.TaggedStruct("leave", { nth: Schema.Literals([0, 1, 2, 3, 4]) }),
    Schema.TaggedStruct("complete", { key, store: Schema.Boolean }),
    Schema.TaggedStruct("fail", {
      key,
      error: Schema.Literals([overloads, invalid].map((error) => error.reason._tag))
    }),
    Schema.TaggedStruct("advance", { ms: Schema.Literals([1, 20, 50]) })
  ])
  const ttl = 50

  interface Call {
    readonly id: number
    readonly key: string
    readonly deadlineAt: number
    readonly fiber: Fiber.Fiber<Exit.Exit<Idempotency.Answer<string>, unknown>>
    expected: Exit.Exit<Idempotency.Answer<string>, unknown> | "waiting" | "interrupted" | "conflict"
  }

  it.effect.prop(
    "join, leave, complete, fail and advance refine a map of keys",
    { ops: Schema.Array(Op).check(Schema.isMaxLength(60)) },
    ({ ops }) =>
      Effect.gen(function*() {
        const idempotency = yield* make({ ttl, ...finalWhenInvalid })
        const calls: Array<Call> = []
        const stored = new Map<string, { fingerprint: string; exit: Exit.Exit<string, unknown>; at: number }>()
        const flights = new Map<string, { fingerprint: string; leader: number; members: Array<Call> }>()
        // The real side of the work: what is running, by key.
        const works = new Map<
          string,
          { end: Deferred.Deferred<Idempotency.Produced<string>, ProviderError>; flight: Idempotency.Flight }
        >()
        let started = 0
        let expectedStarts = 0
        let now = 0

        const end = (key: string, exit: Exit.Exit<string, unknown>) => {
          const flight = flights.get(key)
          flights.delete(key)
          for (const call of flight?.members ?? []) {
            const how = call.id === flight!.leader ? "led" : "joined"
            call.expected = Exit.map(exit, (value) => ({ value, how, age: 0, storeFailed: false } as const))
          }
        }

        for (const op of ops) {
          switch (op._tag) {
            case "advance":
              yield* TestClock.adjust(op.ms)
              now += op.ms
              break
            case "call": {
              const id = calls.length
              const { deadlineAt, fingerprint, key } = op
              const fiber = yield* Effect.forkChild(
                Effect.exit(idempotency.run({ key, fingerprint, deadlineAt }, (flight) =>
                  Effect.suspend(() => {
                    started++
                    const end = Deferred.makeUnsafe<Idempotency.Produced<string>, ProviderError>()
                    assert.isFalse(works.has(key))
                    works.set(key, { end, flight })
                    return Effect.ensuring(Deferred.await(end), Effect.sync(() => works.delete(key)))
                  }))),
                { startImmediately: true }
              )
              const call: Call = { id, key, deadlineAt, fiber, expected: "waiting" }
              calls.push(call)
              const record = stored.get(key)
              const flight = flights.get(key)
              if (flight !== undefined) {
                if (flight.fingerprint === fingerprint) flight.members.push(call)
                else call.expected = "conflict"
              } else if (record !== undefined && now - record.at < ttl) {
                call.expected = record.fingerprint !== fingerprint
                  ? "conflict"
                  : Exit.map(
                    record.exit,
                    (value) => ({ value, how: "replayed", age: now - record.at, storeFailed: false } as const)
                  )
              } else {
                flights.set(key, { fingerprint, leader: id, members: [call] })
                expectedStarts++
              }
              break
            }
            case "leave": {
              const waiting = calls.filter((call) => call.expected === "waiting")
              const call = waiting[op.nth % Math.max(1, waiting.length)]
              if (call === undefined) break
              yield* Fiber.interrupt(call.fiber)
              call.expected = "interrupted"
              const flight = flights.get(call.key)!
              flight.members.splice(flight.members.indexOf(call), 1)
              if (flight.members.length === 0) flights.delete(call.key)
              break
            }
            case "complete": {
              const work = works.get(op.key)
              if (work === undefined) break
              const value = `${op.key}${started}`
              yield* Deferred.succeed(work.end, { value, store: op.store })
              const fingerprint = flights.get(op.key)!.fingerprint
              if (op.store) stored.set(op.key, { fingerprint, exit: Exit.succeed(value), at: now })
              end(op.key, Exit.succeed(value))
              break
            }
            case "fail": {
              const work = works.get(op.key)
              if (work === undefined) break
              const error = op.error === "InvalidRequest" ? invalid : overloads
              yield* Deferred.fail(work.end, error)
              const fingerprint = flights.get(op.key)!.fingerprint
              if (error === invalid) stored.set(op.key, { fingerprint, exit: Exit.fail(error), at: now })
              end(op.key, Exit.fail(error))
              break
            }
          }
          yield* settle
          for (const call of calls) {
            if (call.expected === "waiting") assert.isUndefined(call.fiber.pollUnsafe(), `call ${call.id}`)
            else if (call.expected === "conflict") {
              const exit = yield* Fiber.join(call.fiber)
              assert.isTrue(Exit.isFailure(exit) && Cause.pretty(exit.cause).includes("IdempotencyConflict"))
            } else if (call.expected === "interrupted") {
              assert.isTrue(Exit.hasInterrupts(call.fiber.pollUnsafe()!))
            } else assert.deepStrictEqual(call.fiber.pollUnsafe(), Exit.succeed(call.expected))
          }
          assert.strictEqual(started, expectedStarts)
          assert.strictEqual(yield* idempotency.inFlight, flights.size)
          assert.deepStrictEqual([...works.keys()].toSorted(), [...flights.keys()].toSorted())
          for (const [key, { members }] of flights) {
            assert.strictEqual(works.get(key)!.flight.deadlineAt, Math.max(...members.map((m) => m.deadlineAt)))
          }
        }
        for (const call of calls) yield* Fiber.interrupt(call.fiber)
        assert.strictEqual(yield* idempotency.inFlight, 0)
        assert.strictEqual(works.size, 0)
      }).pipe(Effect.provide(TestClock.layer())),
    { arbitrary: { runs: 300 } }
  )
})
