import { assert, describe, it } from "@effect/vitest"
import { ProviderError } from "effect-resilient-llm/LlmError"
import type * as Health from "effect-resilient-llm/persistence/Health"
import * as Store from "effect-resilient-llm/persistence/Store"
import * as Idempotency from "effect-resilient-llm/resilience/Idempotency"
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Logger from "effect/Logger"
import * as TestClock from "effect/testing/TestClock"
import { chance } from "../support.ts"
import { countingSleeps } from "./waiting.ts"

const overloads = new ProviderError({ provider: "stub", reason: { _tag: "Overloaded" }, status: 503 })
const invalid = new ProviderError({ provider: "stub", reason: { _tag: "InvalidRequest" }, status: 400 })
const finalWhenInvalid = { storeFailure: (error: ProviderError) => error.reason._tag === "InvalidRequest" }

const make = (options?: Idempotency.Options<string, ProviderError>) => Idempotency.make<string, ProviderError>(options)

const request: Idempotency.Request = { key: "k", fingerprint: "P" }

/** Answers `S1`, `S2`, … after `duration`, or fails with `failWith`; records when it was called and interrupted. */
const transport = (duration: number) => {
  const stub = {
    calls: [] as Array<number>,
    interrupted: [] as Array<number>,
    active: 0,
    failWith: undefined as ProviderError | undefined,
    work: (): Effect.Effect<Idempotency.Produced<string>, ProviderError> =>
      Clock.clockWith((clock) => {
        stub.calls.push(clock.currentTimeMillisUnsafe())
        stub.active++
        const value = `S${stub.calls.length}`
        return Effect.sleep(duration).pipe(
          Effect.andThen(Effect.suspend(() =>
            stub.failWith === undefined ? Effect.succeed({ value, store: true }) : Effect.fail(stub.failWith)
          )),
          Effect.onInterrupt(() =>
            Effect.sync(() => stub.interrupted.push(clock.currentTimeMillisUnsafe()))
          ),
          Effect.ensuring(Effect.sync(() => stub.active--))
        )
      })
  }
  return stub
}

/** Lets everything that is not waiting for time run. */
const settle = TestClock.adjust(0)

/** Forks a caller; its fibre yields its exit and the time of it. */
const caller = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.exit(effect).pipe(
    Effect.flatMap((exit) => Effect.map(Clock.currentTimeMillis, (at) => ({ exit, at }))),
    Effect.forkChild({ startImmediately: true })
  )

const valueOf = (result: { readonly exit: Exit.Exit<Idempotency.Answer<string>, unknown> }) =>
  Exit.isSuccess(result.exit) ? result.exit.value.value : result.exit

const interruptedAt = <A>(fiber: Fiber.Fiber<A>) =>
  Effect.gen(function*() {
    yield* Fiber.interrupt(fiber)
    assert.isTrue(Exit.hasInterrupts(yield* Fiber.await(fiber)))
    return yield* Clock.currentTimeMillis
  })

const nothingLeft = Effect.fnUntraced(function*(
  idempotency: Idempotency.Idempotency<string, ProviderError>,
  stub?: { readonly active: number }
) {
  assert.strictEqual(yield* idempotency.inFlight, 0)
  assert.strictEqual(stub?.active ?? 0, 0)
})

describe("SEMANTICS I", () => {
  it.effect("I1 100 concurrent equal requests: 1 call, 100 equal results at 1000", () =>
    Effect.gen(function*() {
      const idempotency = yield* make()
      const stub = transport(1000)
      const callers = yield* Effect.replicateEffect(caller(idempotency.run(request, stub.work)), 100)
      yield* TestClock.adjust(1000)
      const results = yield* Effect.forEach(callers, Fiber.join)
      assert.deepStrictEqual(stub.calls, [0])
      results.forEach(({ at, exit }, i) => {
        const how = i === 0 ? "led" : "joined"
        assert.deepStrictEqual(exit, Exit.succeed({ value: "S1", how, age: 0, storeFailed: false }))
        assert.strictEqual(at, 1000)
      })
      yield* nothingLeft(idempotency, stub)
    }))

  it.effect("I2 undici#5711: the first caller is interrupted at 500, the others succeed at 1000 with 1 call", () =>
    Effect.gen(function*() {
      const idempotency = yield* make()
      const stub = transport(1000)
      const callers = yield* Effect.replicateEffect(caller(idempotency.run(request, stub.work)), 100)
      yield* TestClock.adjust(500)
      assert.strictEqual(yield* interruptedAt(callers[0]!), 500)
      yield* TestClock.adjust(500)
      for (const fiber of callers.slice(1)) {
        const result = yield* Fiber.join(fiber)
        assert.strictEqual(valueOf(result), "S1")
        assert.strictEqual(result.at, 1000)
      }
      assert.deepStrictEqual([stub.calls, stub.interrupted], [[0], []])
      yield* nothingLeft(idempotency, stub)
    }))

  it.effect("I3 all of 3 callers are interrupted at 500: so is the transport; nothing is stored", () =>
    Effect.gen(function*() {
      const idempotency = yield* make()
      const stub = transport(1000)
      const callers = yield* Effect.replicateEffect(caller(idempotency.run(request, stub.work)), 3)
      yield* TestClock.adjust(500)
      for (const [i, fiber] of callers.entries()) {
        assert.deepStrictEqual(stub.interrupted, [])
        assert.strictEqual(stub.active, 1, `after ${i} left`)
        yield* interruptedAt(fiber)
      }
      assert.deepStrictEqual(stub.interrupted, [500])
      yield* nothingLeft(idempotency, stub)
      const next = yield* caller(idempotency.run(request, stub.work))
      yield* TestClock.adjust(1000)
      assert.strictEqual(valueOf(yield* Fiber.join(next)), "S2")
      assert.deepStrictEqual(stub.calls, [0, 500])
    }))

  it.effect("I4 elizaOS PR#17604: the last waiter leaves and a new one comes: it gets a result, never the abort", () =>
    Effect.gen(function*() {
      const idempotency = yield* make()
      const stub = transport(1000)
      const last = yield* caller(idempotency.run(request, stub.work))
      yield* TestClock.adjust(500)
      const leaving = yield* caller(Fiber.interrupt(last))
      const next = yield* caller(idempotency.run(request, stub.work))
      yield* Fiber.join(leaving)
      yield* TestClock.adjust(1000)
      assert.strictEqual(valueOf(yield* Fiber.join(next)), "S2")
      yield* nothingLeft(idempotency, stub)
    }))

  it.effect("I4 while the interrupted work takes 200 ms to clean up: the new one does not wait, the last one does", () =>
    Effect.gen(function*() {
      const idempotency = yield* make()
      const stub = transport(1000)
      const slowToClean = () => Effect.ensuring(stub.work(), Effect.sleep(200))
      const last = yield* caller(idempotency.run(request, slowToClean))
      yield* TestClock.adjust(500)
      const leaving = yield* caller(Fiber.interrupt(last))
      yield* TestClock.adjust(100)
      assert.isUndefined(leaving.pollUnsafe())
      const next = yield* caller(idempotency.run(request, stub.work))
      assert.strictEqual(yield* idempotency.inFlight, 1)
      yield* TestClock.adjust(100)
      assert.strictEqual((yield* Fiber.join(leaving)).at, 700)
      assert.strictEqual(yield* idempotency.inFlight, 1) // the late one frees nothing of the new one
      yield* TestClock.adjust(900)
      const result = yield* Fiber.join(next)
      assert.strictEqual(valueOf(result), "S2")
      assert.strictEqual(result.at, 1600)
      assert.deepStrictEqual(stub.calls, [0, 600])
      yield* nothingLeft(idempotency, stub)
    }))

  it.effect("I4 work that resists interruption and succeeds late neither answers nor overwrites the new one", () =>
    Effect.gen(function*() {
      const idempotency = yield* make()
      const stub = transport(1000)
      const last = yield* caller(idempotency.run(request, () => Effect.uninterruptible(stub.work())))
      yield* TestClock.adjust(500)
      const leaving = yield* caller(Fiber.interrupt(last))
      const quick = { value: "new", store: true }
      const next = yield* caller(idempotency.run(request, () => Effect.delay(Effect.succeed(quick), 200)))
      yield* TestClock.adjust(200)
      assert.strictEqual(valueOf(yield* Fiber.join(next)), "new")
      const slow = yield* caller(idempotency.run({ ...request, key: "k2" }, stub.work))
      yield* TestClock.adjust(300) // the old work ends
      assert.strictEqual((yield* Fiber.join(leaving)).at, 1000)
      assert.deepStrictEqual((yield* idempotency.run(request, stub.work)).value, "new")
      yield* TestClock.adjust(700)
      assert.strictEqual(valueOf(yield* Fiber.join(slow)), "S2")
      yield* nothingLeft(idempotency, stub)
    }))

  it.effect("I5 caller B with deadline 300 joins A: B fails at 300, A succeeds at 1000", () =>
    Effect.gen(function*() {
      const idempotency = yield* make()
      const stub = transport(1000)
      const run = idempotency.run(request, stub.work)
      const a = yield* caller(run)
      const b = yield* caller(
        run.pipe(Effect.timeoutOrElse({ duration: 300, orElse: () => Effect.fail("deadline" as const) }))
      )
      yield* TestClock.adjust(300)
      assert.deepStrictEqual(yield* Fiber.join(b), { exit: Exit.fail("deadline" as const), at: 300 })
      yield* TestClock.adjust(700)
      const result = yield* Fiber.join(a)
      assert.strictEqual(valueOf(result), "S1")
      assert.strictEqual(result.at, 1000)
      assert.deepStrictEqual([stub.calls, stub.interrupted], [[0], []])
      yield* nothingLeft(idempotency, stub)
    }))

  it.effect("I6 undici#4817: the key is stored for P, then used with P′: conflict, 0 calls", () =>
    Effect.gen(function*() {
      const idempotency = yield* make()
      const stub = transport(0)
      yield* idempotency.run(request, stub.work)
      const error = yield* Effect.flip(idempotency.run({ ...request, fingerprint: "P′" }, stub.work))
      assert.strictEqual(error._tag, "IdempotencyConflict")
      assert.strictEqual((error as { readonly keyHash?: string }).keyHash, "8254c329a92850f6") // SHA-256 of "k"
      assert.strictEqual(stub.calls.length, 1)
      assert.strictEqual((yield* idempotency.run(request, stub.work)).how, "replayed") // P is not harmed
      yield* nothingLeft(idempotency, stub)
    }))

  it.effect("I6 the key is in flight for P, then used with P′: conflict at once, 0 calls", () =>
    Effect.gen(function*() {
      const idempotency = yield* make()
      const stub = transport(1000)
      const first = yield* caller(idempotency.run(request, stub.work))
      const error = yield* Effect.flip(idempotency.run({ ...request, fingerprint: "P′" }, stub.work))
      yield* TestClock.adjust(1000)
      assert.strictEqual(valueOf(yield* Fiber.join(first)), "S1")
      // It names the key as the conflict with a stored one does.
      assert.deepStrictEqual(error, yield* Effect.flip(idempotency.run({ ...request, fingerprint: "P′" }, stub.work)))
      assert.strictEqual(error._tag, "IdempotencyConflict")
      assert.deepStrictEqual(stub.calls, [0])
      yield* nothingLeft(idempotency, stub)
    }))

  it.effect("I7 stored at 0: replayed at 86 399 999, executed at 86 400 000", () =>
    Effect.gen(function*() {
      const idempotency = yield* make()
      const stub = transport(0)
      yield* idempotency.run(request, stub.work)
      yield* TestClock.adjust(86_399_999)
      assert.deepStrictEqual(yield* idempotency.run(request, stub.work), {
        value: "S1",
        how: "replayed",
        age: 86_399_999,
        storeFailed: false
      })
      assert.strictEqual(stub.calls.length, 1)
      yield* TestClock.adjust(1)
      assert.strictEqual((yield* idempotency.run(request, stub.work)).how, "led")
      assert.strictEqual(stub.calls.length, 2)
    }))

  it.effect("I8 first run 503: the repetition executes again", () =>
    Effect.gen(function*() {
      const idempotency = yield* make(finalWhenInvalid)
      const stub = transport(0)
      stub.failWith = overloads
      assert.strictEqual(yield* Effect.flip(idempotency.run(request, stub.work)), overloads)
      stub.failWith = undefined
      assert.strictEqual((yield* idempotency.run(request, stub.work)).value, "S2")
      yield* nothingLeft(idempotency, stub)
    }))

  it.effect("I9 first run 400 of class invalid-request: the same error again, 0 calls", () =>
    Effect.gen(function*() {
      const idempotency = yield* make(finalWhenInvalid)
      const stub = transport(0)
      stub.failWith = invalid
      assert.strictEqual(yield* Effect.flip(idempotency.run(request, stub.work)), invalid)
      stub.failWith = undefined
      assert.strictEqual(yield* Effect.flip(idempotency.run(request, stub.work)), invalid)
      assert.strictEqual(stub.calls.length, 1)
      const other = yield* Effect.flip(idempotency.run({ ...request, fingerprint: "P′" }, stub.work))
      assert.strictEqual(other._tag, "IdempotencyConflict")
    }))

  it.effect("I12 the store cannot be read: the call proceeds, one report", () =>
    Effect.gen(function*() {
      const reports: Array<string> = []
      const memory = yield* Store.memory<Idempotency.Stored<string, ProviderError>>({ maxEntries: 10 })
      const idempotency = yield* make({
        store: { ...memory, acquire: () => Effect.fail(new Store.StoreError({ operation: "acquire" })) },
        onStoreError: (operation) => reports.push(operation)
      })
      const stub = transport(1000)
      const callers = yield* Effect.replicateEffect(caller(idempotency.run(request, stub.work)), 3)
      yield* TestClock.adjust(1000)
      for (const fiber of callers) {
        const { exit } = yield* Fiber.join(fiber)
        assert.isTrue(Exit.isSuccess(exit) && exit.value.value === "S1" && exit.value.storeFailed)
      }
      assert.deepStrictEqual(reports, ["acquire"])
      yield* nothingLeft(idempotency, stub)
    }))

  it.effect("I12 the store cannot be written: the result is returned, one report", () =>
    Effect.gen(function*() {
      const reports: Array<string> = []
      const memory = yield* Store.memory<Idempotency.Stored<string, ProviderError>>({ maxEntries: 10 })
      const idempotency = yield* make({
        store: { ...memory, complete: () => Effect.fail(new Store.StoreError({ operation: "complete" })) },
        onStoreError: (operation) => {
          reports.push(operation)
          throw new Error("a listener's own trouble")
        }
      })
      const stub = transport(0)
      const first = yield* idempotency.run(request, stub.work)
      assert.deepStrictEqual(first, { value: "S1", how: "led", age: 0, storeFailed: true })
      assert.deepStrictEqual(reports, ["complete"])
      assert.strictEqual((yield* idempotency.run(request, stub.work)).value, "S2") // the lease was given back
      yield* nothingLeft(idempotency, stub)
    }))

  it.effect("I13 axios-cache-interceptor#1149: 100 followers of a leader that fails after 3 attempts share its 503", () =>
    Effect.gen(function*() {
      const idempotency = yield* make()
      const stub = transport(100)
      stub.failWith = overloads
      const run = idempotency.run(request, () => Effect.retry(stub.work(), { times: 2 }))
      const callers = yield* Effect.replicateEffect(caller(run), 101)
      yield* TestClock.adjust(300)
      for (const fiber of callers) {
        assert.deepStrictEqual(yield* Fiber.join(fiber), { exit: Exit.fail(overloads), at: 300 })
      }
      assert.deepStrictEqual(stub.calls, [0, 100, 200])
      yield* nothingLeft(idempotency, stub)
    }))

  it.effect("I14 undici PR#5673: follower B is interrupted at 200 and settles at 200, A is unaffected", () =>
    Effect.gen(function*() {
      const idempotency = yield* make()
      const stub = transport(1000)
      const slowToClean = () => Effect.ensuring(stub.work(), Effect.sleep(50))
      const a = yield* caller(idempotency.run(request, slowToClean))
      const b = yield* caller(idempotency.run(request, slowToClean))
      yield* TestClock.adjust(200)
      assert.strictEqual(yield* interruptedAt(b), 200)
      yield* TestClock.adjust(850)
      assert.strictEqual(valueOf(yield* Fiber.join(a)), "S1")
      assert.deepStrictEqual([stub.calls, stub.interrupted], [[0], []])
      yield* nothingLeft(idempotency, stub)
    }))

  it.effect("I14 a leader with a follower settles at once as well", () =>
    Effect.gen(function*() {
      const idempotency = yield* make()
      const stub = transport(1000)
      const slowToClean = () => Effect.ensuring(stub.work(), Effect.sleep(50))
      const a = yield* caller(idempotency.run(request, slowToClean))
      const b = yield* caller(idempotency.run(request, slowToClean))
      yield* TestClock.adjust(200)
      assert.strictEqual(yield* interruptedAt(a), 200)
      yield* TestClock.adjust(850)
      assert.strictEqual(valueOf(yield* Fiber.join(b)), "S1")
      yield* nothingLeft(idempotency, stub)
    }))
})

describe("bugs of other projects", () => {
  it.effect("claude-code#87101 identical requests 13 ms apart are one call", () =>
    Effect.gen(function*() {
      const idempotency = yield* make()
      const stub = transport(1000)
      const a = yield* caller(idempotency.run(request, stub.work))
      yield* TestClock.adjust(13)
      const b = yield* caller(idempotency.run(request, stub.work))
      yield* TestClock.adjust(987)
      assert.strictEqual(valueOf(yield* Fiber.join(a)), "S1")
      assert.strictEqual((yield* Fiber.join(b)).at, 1000)
      assert.deepStrictEqual(stub.calls, [0])
    }))

  it.effect("elizaOS#17602 followers do not inherit the leader's deadline: the work sees the latest of its members", () =>
    Effect.gen(function*() {
      const idempotency = yield* make()
      const stub = transport(1000)
      let flight: Idempotency.Flight | undefined
      const join = (deadlineAt: number | undefined) =>
        caller(idempotency.run({ ...request, deadlineAt }, (seen) => {
          flight = seen
          return stub.work()
        }))
      const deadlineAt = () => flight!.deadlineAt
      yield* join(300)
      assert.strictEqual(deadlineAt(), 300)
      const b = yield* join(900)
      assert.strictEqual(deadlineAt(), 900)
      const c = yield* join(900)
      const d = yield* join(500)
      const e = yield* join(undefined) // a caller without a deadline counts as well
      assert.strictEqual(deadlineAt(), Infinity)
      yield* Fiber.interrupt(e)
      assert.strictEqual(deadlineAt(), 900)
      yield* Fiber.interrupt(b)
      assert.strictEqual(deadlineAt(), 900)
      yield* Fiber.interrupt(c)
      assert.strictEqual(deadlineAt(), 500)
      yield* Fiber.interrupt(d)
      assert.strictEqual(deadlineAt(), 300)
      yield* TestClock.adjust(1000)
      assert.deepStrictEqual([stub.calls, stub.interrupted], [[0], []])
    }))

  it.effect("a member that leaves another of the same deadline behind takes no time with it", () =>
    Effect.gen(function*() {
      const idempotency = yield* make()
      const stub = transport(1000)
      let flight: Idempotency.Flight | undefined
      const run = idempotency.run({ ...request, deadlineAt: 5000 }, (its) => {
        flight = its
        return stub.work()
      })
      yield* caller(run)
      const member = yield* caller(run)
      yield* Fiber.interrupt(member)
      assert.deepInclude({ ...flight }, { deadlineAt: 5000, wasLater: false })
    }))

  it.effect("SwiftMail PR#181 followers share a failure, but a failure of theirs they are free to retry", () =>
    Effect.gen(function*() {
      const idempotency = yield* make()
      const stub = transport(100)
      stub.failWith = overloads
      const run = Effect.retry(idempotency.run(request, stub.work), { times: 1 })
      const callers = yield* Effect.replicateEffect(caller(run), 10)
      yield* TestClock.adjust(100)
      stub.failWith = undefined
      yield* TestClock.adjust(100)
      for (const fiber of callers) assert.strictEqual(valueOf(yield* Fiber.join(fiber)), "S2")
      assert.deepStrictEqual(stub.calls, [0, 100]) // no stampede on the second round either
      yield* nothingLeft(idempotency, stub)
    }))
})

describe("run", () => {
  it.effect("an answer that may not be stored is shared, not replayed", () =>
    Effect.gen(function*() {
      const idempotency = yield* make()
      const stub = transport(10)
      const work = () => Effect.map(stub.work(), (produced) => ({ ...produced, store: false }))
      const callers = yield* Effect.replicateEffect(caller(idempotency.run(request, work)), 2)
      yield* TestClock.adjust(10)
      for (const fiber of callers) assert.strictEqual(valueOf(yield* Fiber.join(fiber)), "S1")
      const next = yield* caller(idempotency.run(request, work))
      yield* TestClock.adjust(10)
      assert.strictEqual(valueOf(yield* Fiber.join(next)), "S2")
    }))

  it.effect("tells how a call is answered as soon as that is decided", () =>
    Effect.gen(function*() {
      const idempotency = yield* make(finalWhenInvalid)
      const stub = transport(10)
      stub.failWith = invalid
      const told: Array<string> = []
      const run = idempotency.run({
        ...request,
        onDecided: (how, age) => {
          told.push(`${how} ${age}`)
          throw new Error("a listener's own trouble")
        }
      }, stub.work)
      yield* caller(run)
      yield* caller(run)
      assert.deepStrictEqual(told, ["led 0", "joined 0"])
      yield* TestClock.adjust(15)
      assert.strictEqual(yield* Effect.flip(run), invalid)
      assert.deepStrictEqual(told, ["led 0", "joined 0", "replayed 5"])
    }))

  it.effect("the work runs with the services of the caller that brought it", () =>
    Effect.gen(function*() {
      class Name extends Context.Service<Name, string>()("test/Name") {}
      const idempotency = yield* make()
      const run = idempotency.run(request, () =>
        Effect.gen(function*() {
          return { value: yield* Name, store: true }
        }))
      assert.strictEqual((yield* Effect.provideService(run, Name, "A")).value, "A")
    }))

  it.effect("work that is no effect is a defect, and nobody waits for ever", () =>
    Effect.gen(function*() {
      const idempotency = yield* make()
      const call = yield* caller(idempotency.run(request, (): Effect.Effect<never> => undefined as never))
      const { exit } = yield* Fiber.join(call)
      assert.isTrue(Exit.hasDies(exit))
      yield* nothingLeft(idempotency)
    }))

  it.effect("a defect goes to every member and is not stored", () =>
    Effect.gen(function*() {
      const idempotency = yield* make({ storeFailure: () => true })
      const die = () => Effect.andThen(Effect.sleep(10), Effect.die("bug"))
      const callers = yield* Effect.replicateEffect(caller(idempotency.run(request, die)), 3)
      yield* TestClock.adjust(10)
      for (const fiber of callers) assert.deepStrictEqual((yield* Fiber.join(fiber)).exit, Exit.die("bug"))
      const boom = (): Effect.Effect<never> => {
        throw new Error("boom")
      }
      assert.isTrue(Cause.hasDies(yield* Effect.flip(Effect.sandbox(idempotency.run(request, boom)))))
      yield* nothingLeft(idempotency)
      const stub = transport(0)
      assert.strictEqual((yield* idempotency.run(request, stub.work)).how, "led")
    }))

  it.effect("a failure next to a defect or an interruption is not recorded", () =>
    Effect.gen(function*() {
      const idempotency = yield* make({ storeFailure: () => true })
      const stub = transport(0)
      for (const other of [Cause.die("bug"), Cause.interrupt(1)]) {
        const cause = Cause.combine(Cause.fail(overloads), other)
        assert.isTrue(Exit.isFailure(yield* Effect.exit(idempotency.run(request, () => Effect.failCause(cause)))))
        assert.strictEqual(yield* idempotency.inFlight, 0)
      }
      assert.strictEqual((yield* idempotency.run(request, stub.work)).how, "led")
    }))

  it.effect("work that interrupts itself interrupts only who brought it; the next one does its own", () =>
    Effect.gen(function*() {
      const idempotency = yield* make()
      const stub = transport(10)
      const a = yield* caller(idempotency.run(request, () => Effect.andThen(Effect.sleep(5), Effect.interrupt)))
      const followers = yield* Effect.replicateEffect(caller(idempotency.run(request, stub.work)), 3)
      yield* TestClock.adjust(15)
      assert.isTrue(Exit.hasInterrupts((yield* Fiber.join(a)).exit))
      for (const fiber of followers) assert.strictEqual(valueOf(yield* Fiber.join(fiber)), "S1")
      assert.deepStrictEqual(stub.calls, [5])
      yield* nothingLeft(idempotency, stub)
    }))

  it.effect("`storeFailure` that throws is a defect of the call, and nobody waits for ever", () =>
    Effect.gen(function*() {
      const idempotency = yield* make({
        storeFailure: () => {
          throw new Error("bug")
        }
      })
      const stub = transport(0)
      stub.failWith = overloads
      assert.isTrue(Cause.hasDies(yield* Effect.flip(Effect.sandbox(idempotency.run(request, stub.work)))))
      yield* nothingLeft(idempotency, stub)
    }))

  it.effect("`storeFailure` that throws leaves no lease", () =>
    Effect.gen(function*() {
      const store = yield* Store.memory<Idempotency.Stored<string, ProviderError>>({ maxEntries: 10 })
      const idempotency = yield* make({
        store,
        storeFailure: () => {
          throw new Error("bug")
        }
      })
      const stub = transport(0)
      stub.failWith = overloads
      yield* Effect.flip(Effect.sandbox(idempotency.run(request, stub.work)))
      stub.failWith = undefined
      assert.strictEqual((yield* idempotency.run(request, stub.work)).value, "S2")
    }))

  it.effect("work whose first step interrupts its caller: the caller leaves, the work cleans up", () =>
    Effect.gen(function*() {
      const idempotency = yield* make()
      const stub = transport(1000)
      const self = yield* Deferred.make<Fiber.Fiber<unknown, unknown>>()
      const work = () =>
        Effect.andThen(
          Effect.flatMap(Deferred.await(self), (fiber) => Effect.sync(() => fiber.interruptUnsafe())),
          stub.work()
        )
      const fiber = yield* Effect.forkChild(idempotency.run(request, work))
      yield* Deferred.succeed(self, fiber)
      yield* settle
      assert.isTrue(Exit.hasInterrupts(fiber.pollUnsafe()!))
      yield* nothingLeft(idempotency, stub)
    }))

  it.effect("keys are independent", () =>
    Effect.gen(function*() {
      const idempotency = yield* make()
      const stub = transport(10)
      yield* caller(idempotency.run(request, stub.work))
      yield* caller(idempotency.run({ key: "k2", fingerprint: "P" }, stub.work))
      assert.strictEqual(yield* idempotency.inFlight, 2)
      yield* TestClock.adjust(10)
      assert.deepStrictEqual(stub.calls, [0, 0])
      yield* nothingLeft(idempotency, stub)
    }))
})

describe("a slow store", () => {
  const slow = Effect.fnUntraced(function*(millis: number) {
    const memory = yield* Store.memory<Idempotency.Stored<string, ProviderError>>({ maxEntries: 10 })
    const log: Array<string> = []
    const slowly = <A>(operation: string, effect: Effect.Effect<A, Store.StoreError>) =>
      Effect.suspend(() => {
        log.push(operation)
        return Effect.delay(effect, millis)
      })
    const store: Store.LeaseStore<Idempotency.Stored<string, ProviderError>> = {
      ...memory,
      acquire: (key, lease) => slowly("acquire", memory.acquire(key, lease)),
      complete: (key, fence, value, options) => slowly("complete", memory.complete(key, fence, value, options)),
      release: (key, fence) => slowly("release", memory.release(key, fence))
    }
    return { idempotency: yield* make({ store, onStoreError: (operation) => log.push(`${operation} failed`) }), log }
  })

  it.effect("is read once for callers that come while it is being read, whether it knows the key or not", () =>
    Effect.gen(function*() {
      const { idempotency, log } = yield* slow(60)
      const stub = transport(1000)
      const first = yield* Effect.replicateEffect(caller(idempotency.run(request, stub.work)), 10)
      yield* TestClock.adjust(1120)
      for (const fiber of first) assert.strictEqual((yield* Fiber.join(fiber)).at, 1120)
      assert.deepStrictEqual([stub.calls, log], [[60], ["acquire", "complete"]])
      const second = yield* Effect.replicateEffect(caller(idempotency.run(request, stub.work)), 10)
      const other = yield* caller(idempotency.run({ ...request, fingerprint: "P′" }, stub.work))
      yield* TestClock.adjust(60)
      for (const fiber of second) {
        const { exit } = yield* Fiber.join(fiber)
        const expected = { value: "S1", how: "replayed", age: 60, storeFailed: false }
        assert.deepStrictEqual(exit, Exit.succeed(expected as Idempotency.Answer<string>))
      }
      assert.isTrue(Exit.isFailure((yield* Fiber.join(other)).exit))
      assert.deepStrictEqual([stub.calls, log], [[60], ["acquire", "complete", "acquire"]])
      yield* nothingLeft(idempotency, stub)
    }))

  it.effect("another fingerprint that comes while an unknown key is being read gets the conflict, not the work", () =>
    Effect.gen(function*() {
      const { idempotency } = yield* slow(60)
      const stub = transport(1000)
      const first = yield* caller(idempotency.run(request, stub.work))
      const other = yield* caller(idempotency.run({ ...request, fingerprint: "P′" }, stub.work))
      yield* TestClock.adjust(60)
      const { exit } = yield* Fiber.join(other)
      assert.isTrue(Exit.isFailure(exit) && Cause.pretty(exit.cause).includes("IdempotencyConflict"))
      yield* TestClock.adjust(1060)
      assert.strictEqual(valueOf(yield* Fiber.join(first)), "S1")
      const stored = yield* caller(idempotency.run({ ...request, fingerprint: "P′" }, stub.work))
      yield* TestClock.adjust(60)
      assert.deepStrictEqual((yield* Fiber.join(stored)).exit, exit)
    }))

  it.effect("a caller without the time for another look leaves no trace: the next one looks itself", () =>
    Effect.gen(function*() {
      const memory = yield* Store.memory<Idempotency.Stored<string, ProviderError>>({ maxEntries: 10 })
      let isHeld = true
      const idempotency = yield* make({
        store: {
          ...memory,
          acquire: (key, lease) => isHeld ? Effect.succeed({ _tag: "Held", left: 10_000 }) : memory.acquire(key, lease)
        }
      })
      const stub = transport(1000)
      const error = yield* Effect.flip(idempotency.run({ ...request, deadlineAt: 0 }, stub.work))
      assert.strictEqual(error._tag, "IdempotencyInProgress")
      isHeld = false
      const next = yield* caller(idempotency.run(request, stub.work))
      yield* TestClock.adjust(1000)
      assert.strictEqual(valueOf(yield* Fiber.join(next)), "S1")
      yield* nothingLeft(idempotency, stub)
    }))

  // Asking is taking: what it took must be given back, so the answer is waited for.
  it.effect("the reader leaves when the store has answered, and gives the lease back; the others ask anew", () =>
    Effect.gen(function*() {
      const { idempotency, log } = yield* slow(60)
      const stub = transport(1000)
      const reader = yield* caller(idempotency.run(request, stub.work))
      const others = yield* Effect.replicateEffect(caller(idempotency.run(request, stub.work)), 3)
      yield* TestClock.adjust(30)
      const leaving = yield* caller(Fiber.interrupt(reader))
      yield* TestClock.adjust(1210)
      assert.strictEqual((yield* Fiber.join(leaving)).at, 120)
      for (const fiber of others) assert.strictEqual((yield* Fiber.join(fiber)).at, 1240)
      assert.deepStrictEqual([stub.calls, log], [[180], ["acquire", "release", "acquire", "complete"]])
      yield* nothingLeft(idempotency, stub)
    }))

  it.effect("one that waits for the reader leaves at once", () =>
    Effect.gen(function*() {
      const { idempotency } = yield* slow(60)
      const stub = transport(0)
      yield* caller(idempotency.run(request, stub.work))
      const other = yield* caller(idempotency.run(request, stub.work))
      yield* TestClock.adjust(30)
      assert.strictEqual(yield* interruptedAt(other), 30)
      yield* TestClock.adjust(150)
      yield* nothingLeft(idempotency, stub)
    }))

  it.effect("a repetition never overtakes the record: callers that come while it is written join", () =>
    Effect.gen(function*() {
      const { idempotency } = yield* slow(60)
      const stub = transport(1000)
      const first = yield* caller(idempotency.run(request, stub.work))
      yield* TestClock.adjust(1090)
      const second = yield* caller(idempotency.run(request, stub.work))
      yield* TestClock.adjust(30)
      assert.strictEqual((yield* Fiber.join(first)).at, 1120)
      assert.strictEqual((yield* Fiber.join(second)).at, 1120)
      assert.deepStrictEqual(stub.calls, [60])
    }))

  it.effect("an answer that is being recorded is recorded, although everybody leaves; the last one waits for it", () =>
    Effect.gen(function*() {
      const { idempotency } = yield* slow(60)
      const stub = transport(1000)
      const first = yield* caller(idempotency.run(request, stub.work))
      yield* TestClock.adjust(1090)
      const leaving = yield* caller(Fiber.interrupt(first))
      yield* TestClock.adjust(30)
      assert.strictEqual((yield* Fiber.join(leaving)).at, 1120)
      yield* nothingLeft(idempotency, stub)
      const next = yield* caller(idempotency.run(request, stub.work))
      yield* TestClock.adjust(60)
      assert.strictEqual(valueOf(yield* Fiber.join(next)), "S1")
      assert.deepStrictEqual(stub.calls, [60])
    }))

  it.effect("everybody left while the answer is recorded: who comes then joins it", () =>
    Effect.gen(function*() {
      const { idempotency, log } = yield* slow(60)
      const stub = transport(1000)
      const first = yield* caller(idempotency.run(request, stub.work))
      yield* TestClock.adjust(1090)
      const leaving = yield* caller(Fiber.interrupt(first))
      const next = yield* caller(idempotency.run(request, stub.work))
      yield* TestClock.adjust(30)
      assert.strictEqual((yield* Fiber.join(leaving)).at, 1120)
      assert.deepStrictEqual(yield* Fiber.join(next), {
        exit: Exit.succeed({ value: "S1", how: "joined", age: 0, storeFailed: false } as const),
        at: 1120
      })
      assert.deepStrictEqual([stub.calls, log], [[60], ["acquire", "complete"]])
      yield* nothingLeft(idempotency, stub)
    }))

  it.effect("that hands a lease over when nobody waits any more gets it back; what it says else is nobody's", () =>
    Effect.gen(function*() {
      const memory = yield* Store.memory<Idempotency.Stored<string, ProviderError>>({ maxEntries: 10 })
      const released: Array<number> = []
      const late = (acquired: Store.Acquired<Idempotency.Stored<string, ProviderError>>) =>
        make({
          store: {
            ...memory,
            acquire: () => Effect.delay(Effect.succeed(acquired), 150),
            release: (_, fence) => Effect.sync(() => void released.push(fence))
          }
        })
      const stub = transport(1000)
      for (const acquired of [{ _tag: "Held", left: 1000 }, { _tag: "Acquired", fence: 7 }] as const) {
        const call = yield* caller((yield* late(acquired)).run(request, stub.work))
        yield* TestClock.adjust("2 seconds")
        assert.isTrue(Exit.isSuccess((yield* Fiber.join(call)).exit))
      }
      assert.deepStrictEqual(released, [7])
    }))

  it.effect("is asked through its own health, by the names of its operations, and on the call's patience", () =>
    Effect.gen(function*() {
      const asked: Array<string> = []
      const health: Health.Health = {
        name: "own",
        isUp: () => true,
        watch: () => () => {},
        ask: (operation, self, options) => {
          asked.push(options?.patience === undefined ? operation : `${operation}, patiently`)
          return self
        }
      }
      const memory = yield* Store.memory<Idempotency.Stored<string, ProviderError>>({ maxEntries: 10 })
      const idempotency = yield* make({ store: { ...memory, health } })
      const stub = transport(6000)
      const call = yield* caller(idempotency.run(request, stub.work))
      yield* TestClock.adjust(6000)
      yield* Fiber.join(call)
      assert.deepStrictEqual(asked, ["acquire, patiently", "renew", "complete, patiently"])
      asked.length = 0
      yield* Effect.exit(idempotency.run({ ...request, key: "other" }, () => Effect.fail(overloads)))
      assert.deepStrictEqual(asked, ["acquire, patiently", "release, patiently"])
    }))

  it.effect("that fails is pinged, and asked again once it answers", () =>
    Effect.gen(function*() {
      const memory = yield* Store.memory<Idempotency.Stored<string, ProviderError>>({ maxEntries: 10 })
      let isBroken = true
      const fails = Effect.fail(new Store.StoreError({ operation: "acquire" }))
      const pinged: Array<string> = []
      const idempotency = yield* make({
        store: {
          ...memory,
          get: (key) => {
            pinged.push(key)
            return memory.get(key)
          },
          acquire: (...args) => isBroken ? fails : memory.acquire(...args)
        }
      })
      const stub = transport(0)
      const run = idempotency.run(request, () => Effect.fail(overloads))
      for (let i = 0; i < 4; i++) yield* Effect.exit(run)
      isBroken = false
      for (let i = 0; i < 3; i++) {
        yield* TestClock.adjust("1 second")
        yield* Effect.exit(run)
      }
      assert.deepStrictEqual(pinged, ["ping"])
      assert.isFalse((yield* idempotency.run(request, stub.work)).storeFailed)
    }))

  describe("says that another process works on the key", () => {
    /** Says `Held` with these ends, and then that the key is free; tells when it was asked. */
    const held = Effect.fnUntraced(function*(...lefts: ReadonlyArray<number>) {
      const memory = yield* Store.memory<Idempotency.Stored<string, ProviderError>>({ maxEntries: 10 })
      const asked: Array<number> = []
      const idempotency = yield* make({
        store: {
          ...memory,
          acquire: (...args) =>
            Effect.flatMap(Clock.currentTimeMillis, (at) => {
              const left = lefts[asked.length]
              asked.push(at)
              return left === undefined ? memory.acquire(...args) : Effect.succeed({ _tag: "Held", left })
            })
        }
      })
      return { idempotency, asked }
    })

    it.effect.each<[number, ReadonlyArray<number>, ReadonlyArray<number>]>([
      // The end of the lease, as soon as it is there; before it a pause of 25 or 50, and then 50 or 100.
      [0, [10], [0, 10]],
      [0, [1000, 1000], [0, 25, 75]],
      [0, [60, 35], [0, 25, 60]],
      [1, [10, 60], [0, 10, 70]],
      [1, [10, 50], [0, 10, 60]],
      // It ended, and is said to end soon again: that is not believed.
      [0, [10, 1], [0, 10, 60]]
    ])(
      "with a draw of %f and leases that end after %j it is asked at %j",
      ([draw, lefts, at]) =>
        Effect.gen(function*() {
          const { asked, idempotency } = yield* held(...lefts)
          const stub = transport(0)
          const call = yield* caller(chance(draw)(idempotency.run(request, stub.work)))
          yield* TestClock.adjust("1 second")
          assert.strictEqual(valueOf(yield* Fiber.join(call)), "S1")
          assert.deepStrictEqual(asked, at)
        })
    )

    it.effect.each([0, -1, NaN, Infinity])(
      "for %f ms, which is no end: the next look is the end",
      (left) =>
        Effect.gen(function*() {
          const { idempotency } = yield* held(left)
          const error = yield* Effect.flip(
            chance(0)(idempotency.run({ ...request, deadlineAt: 0 }, transport(0).work))
          )
          assert.strictEqual(error._tag === "IdempotencyInProgress" && Duration.toMillis(error.retryAfter), 25)
        })
    )

    /** Each look takes so long, and the first ones find the key held. */
    const slow = (millis: number, held: number) =>
      Effect.gen(function*() {
        const memory = yield* Store.memory<Idempotency.Stored<string, ProviderError>>({ maxEntries: 10 })
        let looks = 0
        const idempotency = yield* make({
          store: {
            ...memory,
            acquire: (...args) =>
              Effect.delay(
                Effect.suspend(() =>
                  ++looks <= held ? Effect.succeed({ _tag: "Held", left: 5000 }) : memory.acquire(...args)
                ),
                millis
              )
          }
        })
        return { idempotency, looks: () => looks }
      })

    it.effect("who has no time for another look leaves it to who has", () =>
      Effect.gen(function*() {
        const { idempotency } = yield* slow(60, 1)
        const stub = transport(0)
        const reader = yield* caller(idempotency.run({ ...request, deadlineAt: 61 }, stub.work))
        const other = yield* caller(idempotency.run(request, stub.work))
        yield* TestClock.adjust(120)
        assert.isTrue(Exit.isFailure((yield* Fiber.join(reader)).exit))
        assert.strictEqual(valueOf(yield* Fiber.join(other)), "S1")
      }))

    it.effect("to wait for it is not to wait for the store: each look has its own time", () =>
      Effect.gen(function*() {
        const { idempotency, looks } = yield* slow(90, 3)
        const call = yield* caller(idempotency.run(request, transport(0).work))
        yield* TestClock.adjust("5 seconds")
        assert.strictEqual(looks(), 4)
        const { exit } = yield* Fiber.join(call)
        assert.isFalse(Exit.isSuccess(exit) ? exit.value.storeFailed : exit)
      }))

    it.effect("who is interrupted in the pause leaves at once, and leaves nothing behind", () =>
      Effect.gen(function*() {
        const { asked, idempotency } = yield* held(1000)
        const stub = transport(0)
        const waiting = yield* caller(chance(0)(idempotency.run(request, stub.work)))
        yield* TestClock.adjust(5)
        assert.strictEqual(yield* interruptedAt(waiting), 5)
        assert.deepStrictEqual(asked, [0])
        yield* nothingLeft(idempotency, stub)
        assert.strictEqual((yield* idempotency.run(request, stub.work)).how, "led")
      }))
  })

  it.effect("that records later than somebody waits keeps its lease until then: nobody pays again meanwhile", () =>
    Effect.gen(function*() {
      const memory = yield* Store.memory<Idempotency.Stored<string, ProviderError>>({ maxEntries: 10 })
      const late: Store.LeaseStore<Idempotency.Stored<string, ProviderError>> = {
        ...memory,
        acquire: (...args) => Effect.delay(memory.acquire(...args), 90),
        complete: (...args) => Effect.delay(memory.complete(...args), 80)
      }
      const [here, there] = [yield* make({ store: late }), yield* make({ store: memory })]
      const stub = transport(1000)
      const first = yield* caller(here.run(request, stub.work))
      yield* TestClock.adjust(1160)
      assert.isDefined(first.pollUnsafe())
      const second = yield* caller(there.run(request, stub.work))
      yield* TestClock.adjust("3 seconds")
      const { exit } = yield* Fiber.join(second)
      assert.strictEqual(Exit.isSuccess(exit) ? exit.value.how : exit, "replayed")
      assert.deepStrictEqual(stub.calls, [90])
    }))

  it.effect("a ticket that is used twice at the same time records once", () =>
    Effect.gen(function*() {
      const { idempotency, log } = yield* slow(60)
      const leader = yield* caller(Effect.gen(function*() {
        const entered = yield* idempotency.enter(request)
        if (entered._tag !== "Lead") return yield* Effect.die(entered)
        const complete = (value: string) => entered.ticket.complete(Exit.succeed({ value, store: true }))
        return yield* Effect.all([complete("first"), complete("second"), entered.ticket.abandon], { concurrency: 3 })
      }))
      yield* TestClock.adjust(120)
      assert.isTrue(Exit.isSuccess((yield* Fiber.join(leader)).exit))
      assert.deepStrictEqual(log, ["acquire", "complete"])
      const next = yield* caller(idempotency.enter(request))
      yield* TestClock.adjust(60)
      const { exit } = yield* Fiber.join(next)
      assert.deepStrictEqual(exit, Exit.succeed({ _tag: "Replay", exit: Exit.succeed("first"), age: 60 } as const))
    }))

  it.effect("`takeOver` is asked of the store, with one warning", () =>
    Effect.gen(function*() {
      const memory = yield* Store.memory<Idempotency.Stored<string, ProviderError>>({ maxEntries: 10 })
      const asked: Array<unknown> = []
      const warnings: Array<string> = []
      const logger = Logger.make(({ logLevel, message }) => warnings.push(`${logLevel} ${String(message)}`))
      const idempotency = yield* Effect.provide(
        make({
          takeOver: true,
          store: {
            ...memory,
            acquire: (key, lease, options) => {
              asked.push([lease, options?.takeOver])
              return memory.acquire(key, lease, options)
            }
          }
        }),
        Logger.layer([logger])
      )
      const stub = transport(0)
      for (const key of ["a", "b"]) yield* idempotency.run({ key, fingerprint: "P" }, stub.work)
      assert.deepStrictEqual(asked, [[15_000, true], [15_000, true]])
      assert.deepStrictEqual(warnings.map((text) => text.slice(0, 26)), ["Warn idempotency.takeOver:"])
      // There is nothing to take over without a store.
      for (const options of [{ takeOver: true }, { store: memory }]) {
        yield* Effect.provide(make(options), Logger.layer([logger]))
      }
      assert.lengthOf(warnings, 1)
    }))

  it.effect("a lease that was renewed lasts from the renewal: until then a failure is tried again, and then told", () =>
    Effect.gen(function*() {
      const memory = yield* Store.memory<Idempotency.Stored<string, ProviderError>>({ maxEntries: 10 })
      const told: Array<string> = []
      const asked: Array<number> = []
      const idempotency = yield* make({
        store: {
          ...memory,
          renew: () =>
            Effect.flatMap(Clock.currentTimeMillis, (at) => {
              asked.push(at)
              const refused = new Store.StoreError({ operation: "renew", reason: "too-large" })
              return at === 5000 ? Effect.succeed(true) : Effect.fail(refused)
            })
        },
        onStoreError: (operation) => told.push(operation)
      })
      const call = yield* caller(idempotency.run(request, transport(60_000).work))
      yield* TestClock.adjust(60_000)
      yield* Fiber.join(call)
      assert.deepStrictEqual(asked, [5000, ...Array.from({ length: 11 }, (_, i) => 10_000 + 1000 * i)])
      assert.deepStrictEqual(told, ["renew"])
    }))

  it.effect("a lease that cannot be renewed any more is told once, and the work goes on", () =>
    Effect.gen(function*() {
      const memory = yield* Store.memory<Idempotency.Stored<string, ProviderError>>({ maxEntries: 10 })
      const told: Array<string> = []
      const idempotency = yield* make({
        store: { ...memory, renew: () => Effect.succeed(false) },
        onStoreError: (operation) => told.push(operation)
      })
      const stub = transport(60_000)
      const call = yield* caller(idempotency.run(request, stub.work))
      yield* TestClock.adjust(60_000)
      assert.strictEqual(valueOf(yield* Fiber.join(call)), "S1")
      assert.deepStrictEqual(told, ["renew"])
    }))

  const everything = (does: () => Effect.Effect<never>) => ({
    get: does,
    set: does,
    remove: does,
    acquire: does,
    complete: does,
    renew: does,
    release: does
  })

  it.effect("a store that interrupts itself is a store that failed", () =>
    Effect.gen(function*() {
      const interrupt = () => Effect.interrupt
      const reports: Array<string> = []
      const idempotency = yield* make({
        store: everything(interrupt),
        onStoreError: (operation) => reports.push(operation)
      })
      const stub = transport(0)
      assert.isTrue((yield* idempotency.run(request, stub.work)).storeFailed)
      assert.deepStrictEqual(reports, ["acquire", "complete"])
      yield* nothingLeft(idempotency, stub)
    }))

  it.effect("a store that dies is a store that failed", () =>
    Effect.gen(function*() {
      const die = (): never => {
        throw new Error("bug")
      }
      const reports: Array<string> = []
      const idempotency = yield* make({
        store: everything(die),
        onStoreError: (operation) => reports.push(operation)
      })
      const stub = transport(0)
      assert.isTrue((yield* idempotency.run(request, stub.work)).storeFailed)
      assert.deepStrictEqual(reports, ["acquire", "complete"])
      yield* nothingLeft(idempotency, stub)
    }))
})

describe("enter", () => {
  const produced = Exit.succeed({ value: "S", store: true })
  const lead = (entered: Idempotency.Entered<string, ProviderError>) => {
    assert.strictEqual(entered._tag, "Lead")
    return (entered as Extract<typeof entered, { readonly _tag: "Lead" }>).ticket
  }
  const join = (entered: Idempotency.Entered<string, ProviderError>) => {
    assert.strictEqual(entered._tag, "Join")
    return (entered as Extract<typeof entered, { readonly _tag: "Join" }>).await
  }

  it.effect("lead, join, complete, replay", () =>
    Effect.gen(function*() {
      const idempotency = yield* make()
      const ticket = lead(yield* idempotency.enter(request))
      const follower = yield* caller(Effect.flatMap(idempotency.enter(request), join))
      const running = yield* caller(idempotency.run(request, () => Effect.die("not asked")))
      yield* TestClock.adjust(100)
      assert.isFalse(yield* ticket.complete(produced))
      const outcome = { exit: Exit.succeed("S"), storeFailed: false }
      assert.deepStrictEqual((yield* Fiber.join(follower)).exit, Exit.succeed(outcome))
      assert.strictEqual(valueOf(yield* Fiber.join(running)), "S")
      yield* nothingLeft(idempotency)
      yield* TestClock.adjust(7)
      assert.deepStrictEqual(yield* idempotency.enter(request), { _tag: "Replay", exit: Exit.succeed("S"), age: 7 })
      const error = yield* Effect.flip(idempotency.enter({ ...request, fingerprint: "P′" }))
      assert.strictEqual(error._tag, "IdempotencyConflict")
    }))

  it.effect("a failure is shared; one that is final is replayed", () =>
    Effect.gen(function*() {
      const idempotency = yield* make(finalWhenInvalid)
      const ticket = lead(yield* idempotency.enter(request))
      const follower = yield* caller(Effect.flatMap(idempotency.enter(request), join))
      yield* ticket.complete(Exit.fail(overloads))
      const outcome = { exit: Exit.fail(overloads), storeFailed: false }
      assert.deepStrictEqual((yield* Fiber.join(follower)).exit, Exit.succeed(outcome))
      yield* lead(yield* idempotency.enter(request)).complete(Exit.fail(invalid))
      assert.deepStrictEqual(yield* idempotency.enter(request), { _tag: "Replay", exit: Exit.fail(invalid), age: 0 })
    }))

  it.effect("the leader gives up: the first waiter makes its own call, the others join it", () =>
    Effect.gen(function*() {
      const idempotency = yield* make()
      const ticket = lead(yield* idempotency.enter(request))
      const led: Array<number> = []
      const streamer = (id: number): Effect.Effect<string, unknown> =>
        Effect.scoped(Effect.gen(function*() {
          while (true) {
            const entered = yield* idempotency.enter(request)
            if (entered._tag === "Replay") return yield* entered.exit
            if (entered._tag === "Lead") {
              led.push(id)
              yield* Effect.sleep(1000)
              yield* entered.ticket.complete(Exit.succeed({ value: `by ${id}`, store: true }))
              return `by ${id}`
            }
            const outcome = yield* entered.await
            if (outcome !== "abandoned") return yield* outcome.exit
          }
        }))
      const waiters = yield* Effect.forEach([1, 2, 3, 4], (id) => caller(streamer(id)))
      yield* TestClock.adjust(500)
      yield* ticket.abandon
      yield* settle
      assert.deepStrictEqual(led, [1])
      yield* interruptedAt(waiters[0]!) // and so does the next one
      yield* settle
      assert.deepStrictEqual(led, [1, 2])
      yield* TestClock.adjust(1000)
      for (const fiber of waiters.slice(1)) {
        assert.deepStrictEqual(yield* Fiber.join(fiber), { exit: Exit.succeed("by 2"), at: 1500 })
      }
      yield* nothingLeft(idempotency)
    }))

  it.effect("closing the scope gives up a ticket that was not used", () =>
    Effect.gen(function*() {
      const idempotency = yield* make()
      const leader = yield* caller(Effect.scoped(Effect.andThen(idempotency.enter(request), Effect.never)))
      const stub = transport(10)
      const follower = yield* caller(idempotency.run(request, stub.work))
      yield* interruptedAt(leader)
      yield* TestClock.adjust(10)
      assert.strictEqual(valueOf(yield* Fiber.join(follower)), "S1")
      yield* nothingLeft(idempotency, stub)
    }))

  it.effect("a ticket counts once; a late one is fenced off", () =>
    Effect.gen(function*() {
      const idempotency = yield* make()
      const first = lead(yield* idempotency.enter(request))
      yield* first.abandon
      yield* first.abandon
      const second = lead(yield* idempotency.enter(request))
      yield* first.complete(Exit.succeed({ value: "late", store: true }))
      yield* first.abandon
      assert.strictEqual(yield* idempotency.inFlight, 1)
      yield* second.complete(produced)
      yield* first.complete(Exit.succeed({ value: "later", store: true }))
      yield* second.complete(Exit.succeed({ value: "twice", store: true }))
      yield* second.abandon
      assert.deepStrictEqual(yield* idempotency.enter(request), { _tag: "Replay", exit: Exit.succeed("S"), age: 0 })
      yield* nothingLeft(idempotency)
    }))

  it.effect("a caller that joined but does not wait holds nothing, and learns the end when it asks late", () =>
    Effect.gen(function*() {
      const idempotency = yield* make()
      const stub = transport(1000)
      const leader = yield* caller(idempotency.run(request, stub.work))
      const waiting = join(yield* idempotency.enter(request))
      yield* interruptedAt(leader) // it was the only member
      assert.deepStrictEqual(stub.interrupted, [0])
      assert.strictEqual(yield* waiting, "abandoned")
      const next = yield* caller(idempotency.run(request, stub.work))
      const late = join(yield* idempotency.enter(request))
      yield* TestClock.adjust(1000)
      assert.strictEqual(valueOf(yield* Fiber.join(next)), "S2")
      assert.deepStrictEqual(yield* late, { exit: Exit.succeed("S2"), storeFailed: false })
    }))

  it.effect("a member that entered keeps shared work alive", () =>
    Effect.gen(function*() {
      const idempotency = yield* make()
      const stub = transport(1000)
      const leader = yield* caller(idempotency.run(request, stub.work))
      const member = yield* caller(Effect.flatMap(idempotency.enter(request), join))
      yield* interruptedAt(leader)
      yield* TestClock.adjust(1000)
      assert.deepStrictEqual(
        (yield* Fiber.join(member)).exit,
        Exit.succeed({ exit: Exit.succeed("S1"), storeFailed: false })
      )
      yield* nothingLeft(idempotency, stub)
    }))

  it.effect("a member that leaves takes nothing from a leader in place", () =>
    Effect.scoped(Effect.gen(function*() {
      const idempotency = yield* make()
      const entered = yield* idempotency.enter(request)
      if (entered._tag !== "Lead") return yield* Effect.die(entered)
      const member = yield* caller(idempotency.run(request, transport(0).work))
      assert.strictEqual(yield* interruptedAt(member), 0)
      assert.strictEqual(yield* idempotency.inFlight, 1)
      yield* entered.ticket.complete(Exit.succeed({ value: "in place", store: true }))
      assert.deepInclude(yield* idempotency.run(request, transport(0).work), { value: "in place", how: "replayed" })
    })))

  it.effect("the work sees the deadline of a member that entered", () =>
    Effect.gen(function*() {
      const idempotency = yield* make()
      const stub = transport(1000)
      let flight: Idempotency.Flight | undefined
      const leader = yield* caller(idempotency.run({ ...request, deadlineAt: 300 }, (seen) => {
        flight = seen
        return stub.work()
      }))
      const enter = (deadlineAt: number | undefined) =>
        caller(Effect.flatMap(idempotency.enter({ ...request, deadlineAt }), join))
      yield* enter(900)
      assert.strictEqual(flight?.deadlineAt, 900)
      yield* enter(undefined)
      assert.strictEqual(flight?.deadlineAt, Infinity)
      yield* TestClock.adjust(1000)
      assert.strictEqual(valueOf(yield* Fiber.join(leader)), "S1")
    }))

  it.effect("an interruption handed in as the result is nobody else's", () =>
    Effect.gen(function*() {
      const idempotency = yield* make()
      const ticket = lead(yield* idempotency.enter(request))
      const early = yield* caller(Effect.flatMap(idempotency.enter(request), join))
      const late = join(yield* idempotency.enter(request))
      yield* ticket.complete(Exit.interrupt(1))
      assert.deepStrictEqual((yield* Fiber.join(early)).exit, Exit.succeed("abandoned"))
      assert.strictEqual(yield* late, "abandoned")
    }))

  it.effect("says when the answer could not be recorded", () =>
    Effect.gen(function*() {
      const memory = yield* Store.memory<Idempotency.Stored<string, ProviderError>>({ maxEntries: 10 })
      const idempotency = yield* make({ store: { ...memory, complete: () => Effect.die("disk full") } })
      const ticket = lead(yield* idempotency.enter(request))
      assert.isTrue(yield* ticket.complete(produced))
      assert.isFalse(yield* ticket.complete(produced), "the second time nothing was to be recorded")
      yield* nothingLeft(idempotency)
    }))
})

describe("make", () => {
  it.effect("keeps at most maxEntries answers and maxBytes bytes, fingerprints included", () =>
    Effect.gen(function*() {
      const stub = transport(0)
      const how = (idempotency: Idempotency.Idempotency<string, ProviderError>, key: string, size = 0) =>
        Effect.map(
          idempotency.run(
            { key, fingerprint: "1234567890" },
            () => Effect.map(stub.work(), (produced) => ({ ...produced, size }))
          ),
          (answer) => answer.how
        )
      const few = yield* make({ maxEntries: 2 })
      for (const key of ["a", "b", "c"]) yield* how(few, key)
      assert.strictEqual(yield* how(few, "c"), "replayed")
      assert.strictEqual(yield* how(few, "a"), "led")
      const small = yield* make({ maxBytes: 100 })
      yield* how(small, "a", 78) // 78 + 2 + 20
      assert.strictEqual(yield* how(small, "a"), "replayed")
      yield* how(small, "b", 79)
      assert.strictEqual(yield* how(small, "b"), "led")
    }))

  it.effect("without a store there is no lease to renew, so nothing sleeps", () =>
    countingSleeps((sleeps) =>
      Effect.gen(function*() {
        const idempotency = yield* make()
        yield* idempotency.run(request, () => Effect.succeed({ value: "S1", store: true }))
        assert.strictEqual(sleeps.started, 0)
      })
    ))

  it.effect("a ttl of zero only joins", () =>
    Effect.gen(function*() {
      const idempotency = yield* make({ ttl: 0 })
      const stub = transport(0)
      yield* idempotency.run(request, stub.work)
      assert.strictEqual((yield* idempotency.run(request, stub.work)).value, "S2")
    }))

  it.effect.each([
    { options: { ttl: -1 }, path: "idempotency.ttl" },
    { options: { maxEntries: 0 }, path: "idempotency.maxEntries" },
    { options: { maxBytes: -1 }, path: "idempotency.maxBytes" },
    { options: { lease: 0 }, path: "idempotency.lease" },
    { options: { lease: Infinity }, path: "idempotency.lease", rule: "a finite duration" },
    { options: { tll: 1 } as Idempotency.Options<string, ProviderError>, path: "idempotency.tll" }
  ])("refuses $options", ({ options, ...says }) =>
    Effect.gen(function*() {
      assert.deepInclude(yield* Effect.flip(make(options)), { _tag: "LlmConfigError", ...says })
    }))
})
