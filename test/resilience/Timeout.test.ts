import { assert, describe, it, vi } from "@effect/vitest"
import { Cause, Clock, Context, Deferred, Duration, Effect, Exit, Fiber, Option, Scheduler, Stream } from "effect"
import { LlmClient, LlmError } from "effect-resilient-llm"
import * as Timeout from "effect-resilient-llm/resilience/Timeout"
import { CountingClock, ScriptedProvider } from "effect-resilient-llm/testing"
import { TestClock } from "effect/testing"
import { failure, fork, now, success, timed } from "../support.ts"

const started = Effect.flatMap(CountingClock.CountingClock, (clock) => clock.started)
const pending = Effect.flatMap(CountingClock.CountingClock, (clock) => clock.pending)

const counted = <A, E>(effect: Effect.Effect<A, E, CountingClock.CountingClock>) =>
  Effect.provide(
    Effect.tap(effect, () => Effect.map(pending, (sleeps) => assert.strictEqual(sleeps, 0, "pending sleeps"))),
    CountingClock.layer
  )

describe("policy", () => {
  it("defaults: 60 s, 60 s, 60 s, 5 min", () => {
    assert.deepStrictEqual(Timeout.policy(), { attempt: 60_000, firstToken: 60_000, idle: 60_000, deadline: 300_000 })
  })

  it("false and infinity are none", () => {
    const options = { attempt: false, firstToken: Duration.infinity, idle: Infinity, deadline: false } as const
    assert.deepStrictEqual(Timeout.policy(options), {
      attempt: Infinity,
      firstToken: Infinity,
      idle: Infinity,
      deadline: Infinity
    })
  })

  const text = "a duration such as \"2 seconds\" or a number of milliseconds or false"
  const wrong = [
    ["attempt", 0, "a duration of at least 1 ms", "zero"],
    ["firstToken", -1, "a duration of at least 1 ms", "a negative number"],
    ["idle", "soon", text, "a text"],
    ["deadline", true, text, "a boolean"],
    ["total", 1, "one of attempt, firstToken, idle, deadline", "an unknown option"]
  ] as const

  it.effect.each(wrong)("%s must not be %s", ([path, value, rule, kind]) =>
    Effect.gen(function*() {
      const options = { [path]: value } as Timeout.Options
      try {
        Timeout.policy(options)
        assert.fail("accepted")
      } catch (error) {
        assert.instanceOf(error, LlmError.LlmConfigError)
        assert.deepInclude(error, { path: `timeout.${path}`, rule, kind })
      }
      const layer = LlmClient.layerDynamic([yield* ScriptedProvider.make()], { timeout: options })
      const error = yield* Effect.flip(Effect.scoped(Effect.provide(LlmClient, layer)))
      assert.deepInclude(error, { _tag: "LlmConfigError", path: `timeout.${path}`, rule, kind })
    }))
})

type Limit = (duration: Duration.Input) => <A, E, R>(
  self: Effect.Effect<A, E, R>
) => Effect.Effect<A, E | LlmError.AttemptTimeout | LlmError.DeadlineExceeded, R>

const limits: ReadonlyArray<readonly [name: string, limit: Limit, tag: string, message: string]> = [
  ["attempt", Timeout.attempt, "AttemptTimeout", "The attempt exceeded its attempt limit of 1s."],
  ["deadline", Timeout.deadline, "DeadlineExceeded", "The call exceeded its deadline of 1s."]
]

const refused = (make: () => unknown): LlmError.LlmConfigError => {
  try {
    make()
  } catch (error) {
    if (error instanceof LlmError.LlmConfigError) return error
  }
  return assert.fail("accepted")
}

describe.each(limits)("%s", (_, limit, tag, message) => {
  it("refuses what is no duration", () => {
    const error = refused(() => limit(-1))
    assert.deepInclude(error, { path: "duration", rule: "a duration that is not negative", kind: "a negative number" })
  })

  it("on the default clock, an answer in time leaves no timer", async () => {
    vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout"] })
    try {
      const answer = Deferred.makeUnsafe<string>()
      const call = Effect.runPromise(Deferred.await(answer).pipe(limit(1000)))
      assert.strictEqual(vi.getTimerCount(), 1)
      Deferred.doneUnsafe(answer, Exit.succeed("in time"))
      assert.strictEqual(await call, "in time")
      assert.strictEqual(vi.getTimerCount(), 0)
    } finally {
      vi.useRealTimers()
    }
  })

  it("on the default clock, a wait needs no fibre that sleeps", async () => {
    const clock: { sleep: Clock.Clock["sleep"] } = Context.get(Context.empty(), Clock.Clock)
    const sleep = vi.spyOn(clock, "sleep")
    try {
      const answer = Deferred.makeUnsafe<string>()
      const answering = Effect.runPromise(Effect.exit(limit("1 second")(Deferred.await(answer))))
      Deferred.doneUnsafe(answer, Exit.succeed("in time"))
      assert.deepStrictEqual(await answering, Exit.succeed("in time"))
      assert.strictEqual(sleep.mock.calls.length, 0)
    } finally {
      sleep.mockRestore()
    }
  })

  it.effect("on a clock whose sleep fails, nothing is late", () =>
    Effect.gen(function*() {
      const clock = Object.assign(Object.create(yield* Clock.Clock) as Clock.Clock, {
        sleep: () => Effect.die("broken")
      })
      const answer = Deferred.makeUnsafe<string>()
      const limited = limit("1 second")(Deferred.await(answer))
      const fiber = yield* Effect.forkChild(Effect.provideService(limited, Clock.Clock, clock))
      yield* TestClock.adjust(2000)
      assert.isUndefined(fiber.pollUnsafe())
      yield* Deferred.succeed(answer, "late, but there")
      assert.strictEqual(yield* Fiber.join(fiber), "late, but there")
    }))

  it.effect("fails with its own error, which says how long it was", () =>
    counted(Effect.gen(function*() {
      const { at, exit } = yield* timed(Effect.never.pipe(limit("1 second")))
      const error = failure(exit)
      assert.strictEqual(at, 1000)
      assert.strictEqual(error._tag, tag)
      assert.strictEqual(Duration.toMillis(error.after), 1000)
      assert.strictEqual(error.message, message)
    })))

  it.effect("passes a success, a failure, a defect and an interruption through, and forgets its timer", () =>
    counted(Effect.gen(function*() {
      const after = <A, E>(effect: Effect.Effect<A, E>) => timed(Effect.delay(effect, 500).pipe(limit(1000)), 500)
      assert.strictEqual(success((yield* after(Effect.succeed("answer"))).exit), "answer")
      assert.strictEqual(failure((yield* after(Effect.fail("no"))).exit), "no")
      assert.isTrue(Exit.hasDies((yield* after(Effect.die("bug"))).exit))
      const { exit } = yield* after(Effect.interrupt)
      assert.isTrue(Exit.isFailure(exit) && Cause.hasInterruptsOnly(exit.cause))
      assert.strictEqual(yield* pending, 0)
    })))

  it.effect("starts no timer for what ends at once", () =>
    counted(Effect.gen(function*() {
      assert.strictEqual(yield* Effect.succeed(1).pipe(limit(1000)), 1)
      assert.strictEqual(yield* Effect.flip(Effect.fail("no").pipe(limit(1000))), "no")
      assert.strictEqual(yield* started, 0)
    })))

  it.effect("starts none for an infinite limit", () =>
    counted(Effect.gen(function*() {
      const fiber = yield* fork(Effect.never.pipe(limit(Duration.infinity)))
      yield* TestClock.adjust("1000 days")
      assert.isUndefined(fiber.pollUnsafe())
      assert.strictEqual(yield* started, 0)
      yield* Fiber.interrupt(fiber)
    })))

  it.effect("counts from the start of each run", () =>
    counted(Effect.gen(function*() {
      const limited = Effect.never.pipe(limit(1000))
      assert.strictEqual((yield* timed(limited, 5000)).at, 1000)
      assert.strictEqual((yield* timed(limited, 5000)).at, 1000)
    })))

  it.effect("releases the caller at once, cleanup goes on", () =>
    counted(Effect.gen(function*() {
      let cleaned: number | undefined
      const work = Effect.onInterrupt(Effect.never, () =>
        Effect.andThen(
          Effect.sleep("1 hour"),
          Effect.map(now, (at) => {
            cleaned = at
          })
        ))
      const { at } = yield* timed(work.pipe(limit(1000)), 5000)
      assert.strictEqual(at, 1000)
      assert.isUndefined(cleaned)
      yield* TestClock.adjust("1 hour")
      assert.strictEqual(cleaned, 3_601_000)
    })))

  it.effect("an interrupted caller waits for the cleanup", () =>
    counted(Effect.gen(function*() {
      const work = Effect.onInterrupt(Effect.never, () => Effect.sleep(300))
      let ended: number | undefined
      const fiber = yield* fork(
        Effect.onExit(work.pipe(limit(1000)), () =>
          Effect.map(now, (at) => {
            ended = at
          }))
      )
      yield* TestClock.adjust(500)
      fiber.interruptUnsafe()
      yield* TestClock.adjust(299)
      assert.isUndefined(ended)
      yield* TestClock.adjust(1)
      assert.strictEqual(ended, 800)
      const exit = fiber.pollUnsafe()!
      assert.isTrue(Exit.isFailure(exit) && Cause.hasInterruptsOnly(exit.cause))
    })))

  it.effect("what cannot be interrupted is left behind, and its late result changes nothing", () =>
    counted(Effect.gen(function*() {
      const done = yield* Deferred.make<string>()
      const work = Effect.uninterruptible(
        Effect.tap(Effect.delay(Effect.succeed("late"), 1500), (late) => Deferred.succeed(done, late))
      )
      const { at, exit } = yield* timed(work.pipe(limit(1000)))
      assert.strictEqual(failure(exit)._tag, tag)
      assert.strictEqual(at, 1000)
      assert.strictEqual(yield* Deferred.await(done), "late")
    })))

  it.effect("the work sees the caller's context", () =>
    counted(Effect.gen(function*() {
      class Name extends Context.Service<Name, string>()("test/Name") {}
      const { exit } = yield* timed(Effect.delay(Name, 1).pipe(limit(1000), Effect.provideService(Name, "mine")))
      assert.strictEqual(success(exit), "mine")
    })))
})

describe("bounded", () => {
  const expired = () => "expired" as const

  it.effect("a timer is extended while it runs, as often as it is asked for", () =>
    counted(Effect.gen(function*() {
      let due = 1000
      const fiber = yield* fork(Effect.flip(Timeout.bounded(Effect.never, (at) => due - at, expired)))
      yield* TestClock.adjust(500)
      due = 2000
      yield* TestClock.adjust(1000)
      due = 3000
      yield* TestClock.adjust(1499)
      assert.isUndefined(fiber.pollUnsafe())
      yield* TestClock.adjust(1)
      assert.deepStrictEqual(fiber.pollUnsafe(), Exit.succeed("expired"))
      assert.strictEqual(yield* started, 3)
    })))

  it.effect("an extension to infinity is no timer any more", () =>
    counted(Effect.gen(function*() {
      let left = 1000
      const fiber = yield* fork(Timeout.bounded(Effect.never, () => left, expired))
      left = Infinity
      yield* TestClock.adjust("1 day")
      assert.isUndefined(fiber.pollUnsafe())
      assert.strictEqual(yield* pending, 0)
      yield* Fiber.interrupt(fiber)
    })))

  it.effect("a wait longer than a timer can be is taken in pieces", () =>
    counted(Effect.gen(function*() {
      const { at, exit } = yield* timed(
        Effect.flip(
          Effect.flatMap(now, (begun) => Timeout.bounded(Effect.never, (at) => begun + 30 * 86_400_000 - at, expired))
        ),
        "31 days"
      )
      assert.strictEqual(success(exit), "expired")
      assert.strictEqual(at, 30 * 86_400_000)
      assert.strictEqual(yield* started, 2)
    })))

  it.effect("a fraction of a millisecond is not cut short", () =>
    counted(Effect.gen(function*() {
      const { at } = yield* timed(Effect.flip(Timeout.bounded(Effect.never, (at) => 0.5 - at, expired)))
      assert.strictEqual(at, 1)
    })))

  it.effect("the error is made before the loser is interrupted, and knows the time", () =>
    counted(Effect.gen(function*() {
      const log: Array<string> = []
      const work = Effect.onInterrupt(Effect.never, () => Effect.sync(() => log.push("interrupted")))
      yield* timed(Effect.flip(Timeout.bounded(work, (at) => 1000 - at, (at) => log.push(`expired ${at}`))))
      assert.deepStrictEqual(log, ["expired 1000", "interrupted"])
    })))

  it.effect("a limit that has passed already expires at once, unless the work is done at once", () =>
    counted(Effect.gen(function*() {
      assert.strictEqual(yield* Timeout.bounded(Effect.succeed("done"), () => -1, expired), "done")
      const { at, exit } = yield* timed(Effect.flip(Timeout.bounded(Effect.never, () => -1, expired)))
      assert.deepStrictEqual([success(exit), at], ["expired", 0])
    })))

  it.effect("in an uninterruptible caller the work starts whatever happens, and can release what it was given", () =>
    counted(Effect.gen(function*() {
      let held = 0
      const call = Effect.uninterruptibleMask((restore) => {
        held += 1
        const work = Effect.onExit(Effect.interruptible(Effect.never), () =>
          Effect.sync(() => {
            held -= 1
          }))
        return Timeout.boundedIn(restore, work, (at) => 1000 - at, expired)
      })
      const fiber = yield* fork(call)
      assert.strictEqual(held, 1)
      yield* Fiber.interrupt(fiber)
      assert.strictEqual(held, 0)
    })))

  it.effect("work that ends while its timer is about to be started leaves none, at every step", () =>
    counted(Effect.gen(function*() {
      // The fibre is made to yield after every so many operations, and starts with more or fewer of them.
      for (let before = 0; before < 8; before++) {
        let call: Effect.Effect<unknown, unknown> = Timeout.bounded(Effect.yieldNow, (at) => 1000 - at, expired)
        for (let i = 0; i < before; i++) call = Effect.andThen(Effect.void, call)
        yield* Effect.provideService(call, Scheduler.MaxOpsBeforeYield, 5)
        assert.strictEqual(yield* pending, 0, `after ${before} operations`)
      }
    })))

  it.effect("an interrupted caller has no limit any more, however long the cleanup takes", () =>
    counted(Effect.gen(function*() {
      let late = 0
      const work = Effect.onInterrupt(Effect.never, () => Effect.sleep(10_000))
      const fiber = yield* fork(Timeout.bounded(work, (at) => 1000 - at, () => late++))
      yield* TestClock.adjust(500)
      fiber.interruptUnsafe()
      yield* TestClock.adjust("1 minute")
      const exit = fiber.pollUnsafe()
      assert.isTrue(exit !== undefined && Exit.hasInterrupts(exit))
      assert.strictEqual(late, 0)
    })))

  it("on the default clock a wait longer than a timer can be is taken in pieces too", async () => {
    vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout"] })
    try {
      const answer = Deferred.makeUnsafe<string>()
      let asked = 0
      const left = (): number => {
        asked += 1
        return 2 ** 40
      }
      const call = Effect.runPromise(Timeout.bounded(Deferred.await(answer), left, expired))
      // Platforms go off at once when they are given more than 2^31 - 1.
      vi.advanceTimersByTime(2 ** 31 - 2)
      assert.strictEqual(asked, 1)
      vi.advanceTimersByTime(1)
      assert.isAbove(asked, 1)
      Deferred.doneUnsafe(answer, Exit.succeed("in time"))
      assert.strictEqual(await call, "in time")
      assert.strictEqual(vi.getTimerCount(), 0)
    } finally {
      vi.useRealTimers()
    }
  })

  it.effect("nested limits: the shorter one wins", () =>
    counted(Effect.gen(function*() {
      const inner = yield* timed(Effect.never.pipe(Timeout.attempt(500), Timeout.deadline(1000)))
      assert.strictEqual(failure(inner.exit)._tag, "AttemptTimeout")
      const outer = yield* timed(Effect.never.pipe(Timeout.attempt(1000), Timeout.deadline(500)))
      assert.strictEqual(failure(outer.exit)._tag, "DeadlineExceeded")
      assert.strictEqual(outer.at, 500)
    })))
})

describe("repeated", () => {
  const make = <A, E>(self: Effect.Effect<A, E>, left: (now: number) => number, log: Array<string> = []) =>
    Effect.map(Clock.Clock, (clock) => {
      const alarm = new Timeout.Alarm()
      const repeated = new Timeout.Repeated(Context.make(Clock.Clock, clock), self, {
        alarm,
        clock,
        left,
        expired: (at) => {
          log.push(`expired ${at}`)
          return "expired" as const
        },
        interrupted: (at) => log.push(`interrupted ${at}`)
      })
      return { alarm, repeated }
    })

  it.effect("runs in a row share one timer, which is nobody's between them", () =>
    counted(Effect.gen(function*() {
      const log: Array<string> = []
      let begun = 0
      let work: Effect.Effect<string> = Effect.as(Effect.sleep(100), "answer")
      const { alarm, repeated } = yield* make(Effect.suspend(() => work), (at) => begun + 1000 - at, log)
      const once = Effect.flatMap(now, (at) => {
        begun = at
        return repeated.next
      })
      for (let i = 0; i < 3; i++) {
        assert.strictEqual((yield* timed(once, 100)).at, 100)
      }
      assert.strictEqual(yield* started, 3 + 1, "one for each work, one for all limits")
      yield* TestClock.adjust("1 minute")
      assert.deepStrictEqual(log, [])
      work = Effect.never
      const { at, exit } = yield* timed(Effect.flip(once))
      assert.deepStrictEqual([at, success(exit)], [1000, "expired"])
      work = Effect.as(Effect.sleep(100), "answer")
      assert.strictEqual(success((yield* timed(once, 100)).exit), "answer")
      alarm.cancel()
      assert.strictEqual(yield* pending, 0)
    })))

  it("on the default clock runs in a row share one timer too", async () => {
    vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout"] })
    try {
      let answer = Deferred.makeUnsafe<number>()
      const { alarm, repeated } = await Effect.runPromise(
        make(Effect.suspend(() => Deferred.await(answer)), () => 1000)
      )
      for (let i = 0; i < 3; i++) {
        answer = Deferred.makeUnsafe<number>()
        const call = Effect.runPromise(repeated.next)
        assert.strictEqual(vi.getTimerCount(), 1)
        Deferred.doneUnsafe(answer, Exit.succeed(i))
        assert.strictEqual(await call, i)
        assert.strictEqual(vi.getTimerCount(), 1)
      }
      alarm.cancel()
      assert.strictEqual(vi.getTimerCount(), 0)
    } finally {
      vi.useRealTimers()
    }
  })

  it.effect("one fibre goes on while another run is asked for at once, and ends otherwise", () =>
    counted(Effect.gen(function*() {
      const { alarm, repeated } = yield* make(Effect.delay(Effect.fiberId, 10), () => 1000)
      const ids = yield* fork(Effect.forEach([1, 2, 3], () => repeated.next))
      yield* TestClock.adjust(30)
      const [a, b, c] = success(ids.pollUnsafe()!)
      assert.deepStrictEqual([b, c], [a, a])
      const other = yield* fork(Effect.delay(repeated.next, 10))
      yield* TestClock.adjust(20)
      assert.notStrictEqual(success(other.pollUnsafe()!), a)
      alarm.cancel()
    })))

  it.effect("nobody is late any more once a run has failed, and to end what nobody waits for ends nothing", () =>
    counted(Effect.gen(function*() {
      const log: Array<string> = []
      const { alarm, repeated } = yield* make(
        Effect.andThen(Effect.sleep(100), Effect.fail("no")),
        (at) => 1000 - at,
        log
      )
      const run = yield* fork(Effect.flip(repeated.next))
      yield* TestClock.adjust(100)
      assert.strictEqual(success(run.pollUnsafe()!), "no")
      yield* TestClock.adjust("1 minute")
      assert.deepStrictEqual(log, [])
      alarm.cancel()
      // In the step in which a value is handed over, its fibre still runs.
      const answers = yield* make(Effect.delay(Effect.succeed("answer"), 10), () => 1000)
      const twice = yield* fork(Effect.flatMap(answers.repeated.next, () => {
        answers.repeated.end()
        return answers.repeated.next
      }))
      yield* TestClock.adjust(20)
      assert.strictEqual(success(twice.pollUnsafe()!), "answer")
      answers.alarm.cancel()
    })))

  it.effect("what is there at once needs no timer, and is not lost between what is not", () =>
    counted(Effect.gen(function*() {
      let i = 0
      const work = Effect.suspend(() => ++i % 3 === 0 ? Effect.delay(Effect.succeed(i), 10) : Effect.succeed(i))
      const { alarm, repeated } = yield* make(work, () => 1000)
      assert.deepStrictEqual([yield* repeated.next, yield* repeated.next], [1, 2])
      assert.strictEqual(yield* pending, 0)
      const rest = yield* fork(Effect.forEach(Array.from({ length: 7 }), () => repeated.next))
      yield* TestClock.adjust(30)
      assert.deepStrictEqual(success(rest.pollUnsafe()!), [3, 4, 5, 6, 7, 8, 9])
      alarm.cancel()
    })))

  it.effect("who is interrupted ends the run, first or later, waits for its cleanup, and another may follow", () =>
    counted(Effect.gen(function*() {
      const log: Array<string> = []
      const work = Effect.onInterrupt(Effect.as(Effect.sleep(100), "answer"), () => Effect.sleep(10))
      const { alarm, repeated } = yield* make(work, () => 1000, log)
      for (const before of [0, 1]) {
        const reader = yield* fork(Effect.andThen(Effect.replicateEffect(repeated.next, before), repeated.next))
        yield* TestClock.adjust(before * 100 + 50)
        const at = yield* now
        reader.interruptUnsafe()
        assert.isUndefined(reader.pollUnsafe())
        yield* TestClock.adjust(10)
        assert.isTrue(Exit.hasInterrupts(reader.pollUnsafe()!))
        assert.strictEqual(log.pop(), `interrupted ${at}`)
        assert.strictEqual((yield* timed(repeated.next, 100)).at, 100)
      }
      assert.deepStrictEqual(log, [])
      alarm.cancel()
    })))

  it.effect("who is interrupted in the step in which it asks again waits for nothing", () =>
    counted(Effect.gen(function*() {
      const log: Array<string> = []
      const { alarm, repeated } = yield* make(Effect.as(Effect.sleep(100), "answer"), () => 1000, log)
      const reader: Fiber.Fiber<string, string> = yield* fork(
        Effect.flatMap(repeated.next, () => {
          reader.interruptUnsafe()
          return repeated.next
        })
      )
      yield* TestClock.adjust(100)
      assert.isTrue(Exit.hasInterrupts(reader.pollUnsafe()!))
      assert.strictEqual(yield* pending, 1, "the limits' own")
      assert.strictEqual((yield* timed(repeated.next, 100)).at, 100)
      alarm.cancel()
    })))

  it.effect("who is late is released at once, and the end of what it left behind is nobody's", () =>
    counted(Effect.gen(function*() {
      const log: Array<string> = []
      let due = 1000
      let cleanup: Effect.Effect<void> = Effect.sleep(500)
      const work = Effect.onInterrupt(Effect.as(Effect.sleep(1200), "answer"), () => cleanup)
      const { alarm, repeated } = yield* make(work, (at) => due - at, log)
      const { at, exit } = yield* timed(Effect.flip(repeated.next), 1000)
      assert.deepStrictEqual([at, success(exit), log], [1000, "expired", ["expired 1000"]])
      due = 5000
      cleanup = Effect.void
      const next = yield* timed(repeated.next, 1200)
      assert.deepStrictEqual([next.at, success(next.exit)], [1200, "answer"])
      alarm.cancel()
    })))

  it.effect("a run that fails, or is ended, ends the wait and was not given up", () =>
    counted(Effect.gen(function*() {
      const log: Array<string> = []
      let work: Effect.Effect<string, string> = Effect.delay(Effect.fail("broken"), 10)
      const { alarm, repeated } = yield* make(Effect.suspend(() => work), () => 1000, log)
      assert.strictEqual(success((yield* timed(Effect.flip(repeated.next), 10)).exit), "broken")
      work = Effect.delay(Effect.interrupt, 10)
      const own = yield* timed(repeated.next, 10)
      assert.isTrue(Exit.hasInterrupts(own.exit))
      work = Effect.never
      repeated.end()
      const ended = yield* fork(repeated.next)
      repeated.end()
      assert.isTrue(Exit.hasInterrupts(ended.pollUnsafe()!))
      assert.deepStrictEqual(log, [])
      alarm.cancel()
    })))
})

describe("stream", () => {
  /** Emits each text after its silence. */
  const source = (...elements: ReadonlyArray<readonly [number, string]>) =>
    Stream.fromIterable(elements).pipe(
      Stream.rechunk(1),
      Stream.mapEffect(([millis, text]) => Effect.as(Effect.sleep(millis), text))
    )

  const read = <E>(stream: Stream.Stream<string, E>) =>
    Effect.gen(function*() {
      const seen: Array<string> = []
      const ended = yield* timed(
        Stream.runForEach(stream, (text) => Effect.map(now, (at) => void seen.push(`${text} ${at}`)))
      )
      return { ...ended, seen }
    })

  it.effect("lets a stream in time through, and leaves no timer", () =>
    counted(Effect.gen(function*() {
      const { exit, seen } = yield* read(
        source([1999, "a"], [999, "b"], [999, "c"]).pipe(Timeout.stream({ firstToken: 2000, idle: 1000 }))
      )
      success(exit)
      assert.deepStrictEqual(seen, ["a 1999", "b 2998", "c 3997"])
    })))

  it.effect("firstToken, then idle; the error says which and how long", () =>
    counted(Effect.gen(function*() {
      const options = { firstToken: 2000, idle: 1000 }
      const first = yield* read(source([2001, "a"]).pipe(Timeout.stream(options)))
      assert.deepInclude(failure(first.exit), {
        _tag: "AttemptTimeout",
        kind: "firstToken",
        after: Duration.millis(2000)
      })
      assert.strictEqual(first.at, 2000)
      const idle = yield* read(source([0, "a"], [1001, "b"]).pipe(Timeout.stream(options)))
      assert.deepInclude(failure(idle.exit), { _tag: "AttemptTimeout", kind: "idle", after: Duration.millis(1000) })
      assert.strictEqual(idle.at, 1000)
      assert.strictEqual(idle.seen.length, 1)
    })))

  it.effect("only what counts as content feeds it", () =>
    counted(Effect.gen(function*() {
      const isContent = (text: string) => text !== "."
      const limits = Timeout.stream({ firstToken: 1000, idle: 1000, isContent })
      const dots = source([400, "."], [400, "."], [400, "."]).pipe(limits)
      assert.deepInclude(failure((yield* read(dots)).exit), { kind: "firstToken" })
      const dribble = source([400, "a"], [400, "."], [400, "."], [400, "."]).pipe(limits)
      const { at, exit } = yield* read(dribble)
      assert.deepInclude(failure(exit), { kind: "idle" })
      assert.strictEqual(at, 1400)
    })))

  it.effect("content among other elements of one chunk is content", () =>
    counted(Effect.gen(function*() {
      const chunks = Stream.concat(
        Stream.make(".", "a", "."),
        Stream.fromEffect(Effect.as(Effect.sleep(1500), "b"))
      )
      const limited = chunks.pipe(Timeout.stream({ firstToken: 1000, idle: 2000, isContent: (text) => text !== "." }))
      success((yield* read(limited)).exit)
    })))

  it("refuses what is no duration, by name", () => {
    for (const name of ["firstToken", "idle"] as const) {
      assert.strictEqual(refused(() => Stream.never.pipe(Timeout.stream({ [name]: -1 }))).path, name)
    }
  })

  it.effect("one limit alone, or none", () =>
    counted(Effect.gen(function*() {
      const slow = source([5000, "a"], [5000, "b"])
      assert.strictEqual((yield* read(slow.pipe(Timeout.stream({})))).at, 10_000)
      assert.deepInclude(failure((yield* read(slow.pipe(Timeout.stream({ idle: 1000 })))).exit), { kind: "idle" })
      assert.deepInclude(failure((yield* read(slow.pipe(Timeout.stream({ firstToken: 1000 })))).exit), {
        kind: "firstToken"
      })
    })))

  it.effect("the time of a slow consumer does not count", () =>
    counted(Effect.gen(function*() {
      const limited = source([900, "a"], [900, "b"], [900, "c"]).pipe(Timeout.stream({ firstToken: 1000, idle: 1000 }))
      const { at, exit } = yield* timed(Stream.runForEach(limited, () => Effect.sleep("1 minute")))
      success(exit)
      assert.strictEqual(at, 3 * 60_900)
    })))

  it.effect("the stream's own failure passes, a consumer that leaves frees the source", () =>
    counted(Effect.gen(function*() {
      const broken = Stream.concat(source([100, "a"]), Stream.fail("broken")).pipe(Timeout.stream({ idle: 1000 }))
      assert.strictEqual(failure((yield* read(broken)).exit), "broken")
      let freed = 0
      const held = Stream.concat(source([100, "a"]), Stream.never).pipe(
        Stream.ensuring(Effect.sync(() => {
          freed++
        })),
        Timeout.stream({ idle: 1000 })
      )
      const { at, exit } = yield* timed(Stream.runHead(held))
      assert.deepStrictEqual(success(exit), Option.some("a"))
      assert.deepStrictEqual([at, freed], [100, 1])
      const fiber = yield* fork(Stream.runDrain(held))
      yield* TestClock.adjust(500)
      yield* Fiber.interrupt(fiber)
      assert.strictEqual(freed, 2)
    })))

  it.effect("the source is freed when a limit passes", () =>
    counted(Effect.gen(function*() {
      let freed: number | undefined
      const held = Stream.never.pipe(
        Stream.ensuring(Effect.map(now, (at) => {
          freed = at
        })),
        Timeout.stream({ firstToken: 1000 })
      )
      const { at } = yield* timed(Effect.flip(Stream.runDrain(held)))
      assert.deepStrictEqual([at, freed], [1000, 1000])
    })))

  it.effect("each run has its own clock", () =>
    counted(Effect.gen(function*() {
      const limited = source([900, "a"], [900, "b"]).pipe(Timeout.stream({ firstToken: 1000, idle: 1000 }))
      for (let i = 0; i < 2; i++) success((yield* read(limited)).exit)
      const { exit } = yield* timed(
        Effect.all([Stream.runDrain(limited), Stream.runDrain(limited)], { concurrency: 2 })
      )
      success(exit)
    })))
})

describe("IdleClock", () => {
  it("adds up the silence of several pulls, until content", () => {
    const clock = new Timeout.IdleClock(1000)
    clock.start(0)
    assert.strictEqual(clock.left(400), 600)
    clock.stop(400, false)
    assert.strictEqual(clock.remaining, 600)
    clock.start(5000)
    assert.strictEqual(clock.left(5000), 600)
    clock.stop(5300, true)
    clock.start(9000)
    assert.strictEqual(clock.left(9999), 1)
  })
})
