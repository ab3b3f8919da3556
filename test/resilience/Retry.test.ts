import { assert, describe, it } from "@effect/vitest"
import { Cause, Data, Duration, Effect, Exit, Fiber, Random, Schedule } from "effect"
import { LlmClient, LlmError } from "effect-resilient-llm"
import * as Retry from "effect-resilient-llm/resilience/Retry"
import * as RetryBudget from "effect-resilient-llm/resilience/RetryBudget"
import { CountingClock, ScriptedProvider } from "effect-resilient-llm/testing"
import { TestClock } from "effect/testing"
import { chance, failure, fork, now, success, timed } from "../support.ts"

class Busy extends Data.TaggedError("Busy")<{ readonly n: number; readonly retryAfter?: Duration.Duration }> {}

/** Fails with what the script says, then succeeds; remembers when it ran. */
const scripted = (...script: ReadonlyArray<unknown>) => {
  const at: Array<number> = []
  const run = Effect.flatMap(now, (moment): Effect.Effect<string, unknown> => {
    const error = script[at.length]
    at.push(moment)
    return at.length <= script.length ? Effect.fail(error) : Effect.succeed("answer")
  })
  return { run, at }
}

const times = (n: number) => Array.from({ length: n }, (_, i) => new Busy({ n: i + 1 }))
const policy = (options: Retry.Options = {}) =>
  Retry.policy({ maxRetries: 2, baseDelay: 500, maxDelay: 8000, ...options })
const quick = { maxRetries: 2, baseDelay: 500, maxDelay: 8000 } as const

const thrown = (run: () => unknown): LlmError.LlmConfigError => {
  try {
    run()
  } catch (error) {
    if (error instanceof LlmError.LlmConfigError) return error
    throw error
  }
  throw new Error("expected LlmConfigError")
}

describe("options", () => {
  it("defaults: 3 retries, 1 s doubling to 60 s, equal jitter, hints up to 60 s", () => {
    assert.deepStrictEqual(Retry.policy(), {
      maxRetries: 3,
      baseDelay: 1000,
      factor: 2,
      maxDelay: 60_000,
      jitter: "equal",
      maxRetryAfter: 60_000
    })
  })

  const wrong: ReadonlyArray<readonly [path: string, value: unknown, rule: string, kind: string]> = [
    ["maxRetries", -1, "a whole number of at least 0", "a negative number"],
    ["maxRetries", 1.5, "a whole number of at least 0", "a fraction"],
    ["maxRetries", NaN, "a whole number of at least 0", "not a number"],
    ["maxRetries", Infinity, "a whole number of at least 0", "infinite"],
    ["maxRetries", "3", "a whole number of at least 0", "a text"],
    ["baseDelay", "soon", "a duration such as \"2 seconds\" or a number of milliseconds", "a text"],
    ["baseDelay", NaN, "a duration such as \"2 seconds\" or a number of milliseconds", "not a number"],
    ["maxDelay", true, "a duration such as \"2 seconds\" or a number of milliseconds", "a boolean"],
    ["maxRetryAfter", -5, "a duration that is not negative", "a negative number"],
    ["factor", 0.5, "a number of at least 1", "a fraction"],
    ["factor", NaN, "a number of at least 1", "not a number"],
    ["jitter", "half", "one of equal, full, none", "a text"],
    ["schedule", { spaced: 1 }, "a Schedule", "an object"],
    ["when", true, "a function", "a boolean"],
    [
      "retries",
      3,
      "one of maxRetries, baseDelay, factor, maxDelay, jitter, maxRetryAfter, schedule, when",
      "an unknown option"
    ]
  ]

  it.each(wrong)("%s must not be %s", (path, value, rule, kind) => {
    const options = { [path]: value } as Retry.Options
    assert.deepInclude(thrown(() => Retry.policy(options)), { path: `retry.${path}`, rule, kind })
    assert.deepInclude(thrown(() => Retry.policy(options, "targets[0].retry")), { path: `targets[0].retry.${path}` })
    assert.deepInclude(thrown(() => Retry.retry(options)), { path, rule, kind })
    assert.deepInclude(thrown(() => Retry.schedule(options)), { path: `retry.${path}` })
  })

  it.effect.each(wrong)(
    "%s: %s is a typed failure of the layer",
    ([path, value, rule, kind]) =>
      Effect.gen(function*() {
        const provider = yield* ScriptedProvider.make()
        const layer = LlmClient.layerDynamic([provider], { retry: { [path]: value } })
        const error = yield* Effect.flip(Effect.scoped(Effect.provide(LlmClient, layer)))
        assert.deepInclude(error, { _tag: "LlmConfigError", path: `retry.${path}`, rule, kind })
      })
  )

  it("when must be a function", () => {
    assert.deepInclude(thrown(() => Retry.policy({ when: true as never })), { path: "retry.when", rule: "a function" })
  })

  it("undefined is absent, an infinite duration is one", () => {
    assert.deepStrictEqual(Retry.policy({ maxRetries: undefined, maxDelay: undefined }), Retry.policy())
    assert.strictEqual(Retry.policy({ maxRetryAfter: Infinity }).maxRetryAfter, Infinity)
    assert.strictEqual(Retry.policy({ baseDelay: "2 seconds" }).baseDelay, 2000)
  })
})

describe("backoffMillis", () => {
  it("equal: half fixed, half random; full: all random; none", () => {
    const delays = (jitter: Retry.Policy["jitter"], u: number) =>
      [1, 2, 3].map((k) => Retry.backoffMillis(policy({ jitter }), k, u))
    assert.deepStrictEqual(delays("equal", 0), [250, 500, 1000])
    assert.deepStrictEqual(delays("equal", 0.5), [375, 750, 1500])
    assert.deepStrictEqual(delays("full", 0), [0, 0, 0])
    assert.deepStrictEqual(delays("full", 0.5), [250, 500, 1000])
    assert.deepStrictEqual(delays("none", 0.9), [500, 1000, 2000])
  })

  it("factor 1 is constant", () => {
    assert.deepStrictEqual([1, 2, 50].map((k) => Retry.backoffMillis(policy({ factor: 1, jitter: "none" }), k, 0)), [
      500,
      500,
      500
    ])
  })

  it("whole milliseconds, rounded up", () => {
    assert.strictEqual(Retry.backoffMillis(policy({ baseDelay: 1 }), 1, 0.1), 1)
    assert.strictEqual(Retry.backoffMillis(policy({ baseDelay: 3 }), 1, 0), 2)
  })

  it("no base delay is no delay, at any factor and any k", () => {
    for (const k of [1, 2, 61, 1000]) {
      assert.strictEqual(Retry.backoffMillis(policy({ baseDelay: 0, factor: 1e10 }), k, 0.5), 0)
    }
  })

  it("a base above the maximum is the maximum", () => {
    assert.strictEqual(Retry.backoffMillis(policy({ baseDelay: "1 hour", jitter: "none" }), 1, 0), 8000)
  })
})

describe("hintMillis", () => {
  it("jitter only above the hint: a tenth, at most a second", () => {
    assert.strictEqual(Retry.hintMillis(2000, 0), 2000)
    assert.strictEqual(Retry.hintMillis(2000, 0.5), 2100)
    assert.strictEqual(Retry.hintMillis(30_000, 0.5), 30_500)
    assert.strictEqual(Retry.hintMillis(0, 0.5), 0)
    assert.strictEqual(Retry.hintMillis(1, 0.5), 2)
  })
})

describe("retry", () => {
  it.effect("works on any effect: what is not ours counts as transient", () =>
    Effect.gen(function*() {
      const { at, run } = scripted("busy", new Error("busy"), { busy: true })
      assert.strictEqual(success((yield* timed(run.pipe(Retry.retry({ ...quick, maxRetries: 3 })))).exit), "answer")
      assert.deepStrictEqual(at, [0, 375, 1125, 2625])
    }).pipe(chance(0.5)))

  it.effect("the failure is the last one", () =>
    Effect.gen(function*() {
      const { at, run } = scripted(...times(9))
      const { at: ended, exit } = yield* timed(run.pipe(Retry.retry(quick)))
      assert.deepInclude(failure(exit), { n: 3 })
      assert.strictEqual(ended, 1125)
      assert.deepStrictEqual(at, [0, 375, 1125])
    }).pipe(chance(0.5)))

  it.effect("maxRetries 0 is off", () =>
    Effect.gen(function*() {
      const { at, run } = scripted(...times(9))
      assert.deepInclude(failure(yield* Effect.exit(run.pipe(Retry.retry({ maxRetries: 0 })))), { n: 1 })
      assert.deepStrictEqual(at, [0])
    }))

  it.effect.each([
    new LlmError.InvalidRequest({ path: "a", rule: "b", kind: "c" }),
    new LlmError.DeadlineExceeded({ after: Duration.seconds(1) }),
    new LlmError.CircuitOpen({ key: "p", state: "open" }),
    new LlmError.RateLimited({ dimension: "requests", retryAfter: Duration.seconds(1) }),
    new LlmError.BulkheadFull({}),
    new LlmError.StreamInterrupted({ provider: "p", kind: "reset", partialParts: 1 }),
    new LlmError.IdempotencyConflict({ keyHash: "0" }),
    new LlmError.ProviderError({ provider: "p", reason: { _tag: "Authentication" }, status: 401 })
  ])("our own final failures are final: $_tag", (error) =>
    Effect.gen(function*() {
      const { at, run } = scripted(error)
      assert.strictEqual(failure(yield* Effect.exit(run.pipe(Retry.retry(quick)))), error)
      assert.deepStrictEqual(at, [0])
    }))

  it.effect("`when` overrides the table, both ways", () =>
    Effect.gen(function*() {
      const denied = scripted(...times(3))
      const few = Retry.retry({ ...quick, when: (error) => error instanceof Busy && error.n < 2 })
      assert.deepInclude(failure((yield* timed(few(denied.run))).exit), { n: 2 })
      assert.strictEqual(denied.at.length, 2)
      const forced = scripted(new LlmError.InvalidRequest({ path: "a", rule: "b", kind: "c" }))
      assert.strictEqual(
        success((yield* timed(forced.run.pipe(Retry.retry({ ...quick, when: () => true })))).exit),
        "answer"
      )
    }))

  it.effect("`when` sees the error's own type", () =>
    Effect.gen(function*() {
      let calls = 0
      const busy: Effect.Effect<string, Busy> = Effect.suspend(() => Effect.fail(new Busy({ n: ++calls })))
      const retried = busy.pipe(Retry.retry({ ...quick, when: (error: Busy) => error.n < 2 }))
      const { exit } = yield* timed(retried)
      assert.strictEqual(failure(exit).n, 2)
    }))

  it.effect("defects and interruptions are not retried", () =>
    Effect.gen(function*() {
      let runs = 0
      const dying = Effect.suspend(() => (runs++, Effect.die("bug")))
      assert.isTrue(Exit.hasDies(yield* Effect.exit(dying.pipe(Retry.retry(quick)))))
      const leaving = Effect.suspend(() => (runs++, Effect.interrupt))
      assert.isTrue(Exit.hasInterrupts(yield* Effect.exit(leaving.pipe(Retry.retry(quick)))))
      assert.strictEqual(runs, 2)
    }))

  it.effect("an interruption in the delay is one, at once, and leaves no sleep", () =>
    Effect.gen(function*() {
      const { at, run } = scripted(...times(9))
      const fiber = yield* Effect.forkChild(run.pipe(Retry.retry(quick)), { startImmediately: true })
      yield* TestClock.adjust(100)
      yield* Fiber.interrupt(fiber)
      const exit = fiber.pollUnsafe()!
      assert.isTrue(Exit.isFailure(exit) && Cause.hasInterruptsOnly(exit.cause))
      assert.strictEqual(yield* (yield* CountingClock.CountingClock).pending, 0)
      yield* TestClock.adjust("1 hour")
      assert.deepStrictEqual(at, [0])
    }).pipe(Effect.provide(CountingClock.layer)))

  it.effect("each run counts for itself, also of one and the same effect", () =>
    Effect.gen(function*() {
      let runs = 0
      const retried = Effect.suspend(() => Effect.fail(new Busy({ n: ++runs }))).pipe(Retry.retry(quick))
      yield* timed(Effect.exit(retried))
      yield* timed(Effect.exit(retried))
      assert.strictEqual(runs, 6)
    }))

  it.effect("a success draws no number", () =>
    Effect.gen(function*() {
      let draws = 0
      const counting = { nextDoubleUnsafe: () => (draws++, 0.5), nextIntUnsafe: () => 0 }
      const { run } = scripted(new Busy({ n: 1 }))
      yield* timed(Effect.provideService(Effect.succeed(1).pipe(Retry.retry(quick)), Random.Random, counting))
      assert.strictEqual(draws, 0)
      yield* timed(Effect.provideService(run.pipe(Retry.retry(quick)), Random.Random, counting))
      assert.strictEqual(draws, 1)
    }))

  it.effect("a hint on any error is a floor, one above maxRetryAfter is the end", () =>
    Effect.gen(function*() {
      const hint = (seconds: number) => new Busy({ n: 1, retryAfter: Duration.seconds(seconds) })
      const short = scripted(hint(2))
      assert.strictEqual(success((yield* timed(short.run.pipe(Retry.retry(quick)))).exit), "answer")
      assert.deepStrictEqual(short.at, [0, 2100])
      const long = scripted(hint(3))
      const { at, exit } = yield* timed(long.run.pipe(Retry.retry({ ...quick, maxRetryAfter: 2999 })))
      assert.deepInclude(failure(exit), { n: 1 })
      assert.strictEqual(at, 0)
    }).pipe(chance(0.5)))
})

describe("a Schedule of your own", () => {
  it.effect("as the argument: its delays, until it ends", () =>
    Effect.gen(function*() {
      const { at, run } = scripted(...times(9))
      const { exit } = yield* timed(run.pipe(Retry.retry(Schedule.spaced(100).pipe(Schedule.upTo({ times: 4 })))))
      assert.deepInclude(failure(exit), { n: 5 })
      assert.deepStrictEqual(at, [0, 100, 200, 300, 400])
    }))

  it.effect("as an option: bounded by maxRetries", () =>
    Effect.gen(function*() {
      const { at, run } = scripted(...times(9))
      yield* timed(Effect.exit(run.pipe(Retry.retry({ maxRetries: 2, schedule: Schedule.spaced(100) }))))
      assert.deepStrictEqual(at, [0, 100, 200])
    }))

  it.effect("it decides delays only: what is final stays final, a hint stays a floor", () =>
    Effect.gen(function*() {
      const final = scripted(new LlmError.InvalidRequest({ path: "a", rule: "b", kind: "c" }))
      yield* Effect.exit(final.run.pipe(Retry.retry(Schedule.spaced(100))))
      assert.deepStrictEqual(final.at, [0])
      const hinted = scripted(new Busy({ n: 1, retryAfter: Duration.seconds(1) }))
      yield* timed(hinted.run.pipe(Retry.retry(Schedule.spaced(100))))
      assert.deepStrictEqual(hinted.at, [0, 1050])
    }).pipe(chance(0.5)))

  it.effect("it sees the failures, in order", () =>
    Effect.gen(function*() {
      const inputs: Array<unknown> = []
      const seen = Schedule.spaced(10).pipe(
        Schedule.setInputType<unknown>(),
        Schedule.while(({ input }) => Effect.sync(() => (inputs.push(input), inputs.length < 3)))
      )
      const { run } = scripted(...times(9))
      yield* timed(Effect.exit(run.pipe(Retry.retry(seen))))
      assert.deepStrictEqual(inputs.map((input) => (input as Busy).n), [1, 2, 3])
    }))

  it.effect("each run starts it anew", () =>
    Effect.gen(function*() {
      const retry = Retry.retry(Schedule.exponential(100).pipe(Schedule.upTo({ times: 3 })))
      for (const start of [0, 3_600_000]) {
        const { at, run } = scripted(...times(9))
        yield* timed(Effect.exit(retry(run)))
        assert.deepStrictEqual(at.map((moment) => moment - start), [0, 100, 300, 700])
      }
    }))

  it.effect("a defect inside it is a defect", () =>
    Effect.gen(function*() {
      const broken = Schedule.spaced(10).pipe(Schedule.modifyDelay(() => Effect.die("bug")))
      const { exit } = yield* timed(scripted(...times(9)).run.pipe(Retry.retry(broken)))
      assert.isTrue(Exit.hasDies(exit))
    }))
})

describe("schedule", () => {
  const drive = (schedule: Schedule.Schedule<Duration.Duration>, ...errors: ReadonlyArray<unknown>) =>
    Effect.gen(function*() {
      const { at, run } = scripted(...errors)
      const { exit } = yield* timed(Effect.retry(run, schedule))
      return { at, exit }
    })

  it.effect("drives Effect.retry with the default delays", () =>
    Effect.gen(function*() {
      const { at, exit } = yield* drive(Retry.schedule(), ...times(9))
      assert.deepInclude(failure(exit), { n: 4 })
      assert.deepStrictEqual(at, [0, 750, 2250, 5250])
    }).pipe(chance(0.5)))

  it.effect("gives the same delays as the pattern itself", () =>
    Effect.gen(function*() {
      const options = { maxRetries: 6, baseDelay: 500, maxDelay: 8000 }
      const { at } = yield* drive(Retry.schedule(options), ...times(9))
      assert.deepStrictEqual(at.slice(1).map((moment, i) => moment - at[i]!), [250, 500, 1000, 2000, 4000, 4000])
    }).pipe(chance(0)))

  it.effect("a hint is a floor; too long a hint ends it", () =>
    Effect.gen(function*() {
      const hint = (seconds: number) => new Busy({ n: seconds, retryAfter: Duration.seconds(seconds) })
      const { at, exit } = yield* drive(Retry.schedule(quick), hint(2), hint(61), hint(1))
      assert.deepInclude(failure(exit), { n: 61 })
      assert.deepStrictEqual(at, [0, 2100])
    }).pipe(chance(0.5)))

  it.effect("the longest hint is waited for", () =>
    Effect.gen(function*() {
      const { at, exit } = yield* drive(Retry.schedule(quick), new Busy({ n: 1, retryAfter: Duration.seconds(60) }))
      assert.strictEqual(success(exit), "answer")
      assert.deepStrictEqual(at, [0, 60_500])
    }).pipe(chance(0.5)))

  it.effect("its output is its delay, and it can be used twice", () =>
    Effect.gen(function*() {
      const schedule = Retry.schedule(quick)
      for (let i = 0; i < 2; i++) {
        const step = yield* Schedule.toStep(schedule)
        const [output, delay] = yield* step(0, "busy")
        assert.strictEqual(Duration.toMillis(output), 375)
        assert.strictEqual(Duration.toMillis(delay), 375)
      }
    }).pipe(chance(0.5)))
})

describe("run", () => {
  const busy = (retryAfter?: number) =>
    new Busy({ n: 1, ...(retryAfter === undefined ? undefined : { retryAfter: Duration.millis(retryAfter) }) })

  /** One run with the given surroundings: when it ran, what was reported, what it ended with. */
  const observe = (script: ReadonlyArray<unknown>, hooks: Retry.Hooks<unknown>, options: Retry.Options = {}) =>
    Effect.gen(function*() {
      const { at, run } = scripted(...script)
      const log: Array<string> = []
      const { at: ended, exit } = yield* timed(Retry.run(run, policy(options), {
        onScheduled: (_, delay, by) => log.push(`${by} ${delay}`),
        onDenied: (_, because) => log.push(because),
        ...hooks
      }))
      return { at, log, ended, exit }
    }).pipe(chance(0.5))

  it.effect("tells what delays, and why it ends", () =>
    Effect.gen(function*() {
      const { at, log } = yield* observe([busy(2000), busy(), busy()], {})
      assert.deepStrictEqual(log, ["retry-after 2100", "backoff 750", "attempts-exhausted"])
      assert.deepStrictEqual(at, [0, 2100, 2850])
    }))

  it.effect("a failure that is not retryable is no denial, nor is any when retries are off", () =>
    Effect.gen(function*() {
      assert.deepStrictEqual((yield* observe([busy()], { when: () => false })).log, [])
      assert.deepStrictEqual((yield* observe([busy()], {}, { maxRetries: 0 })).log, [])
    }))

  it.effect("a delay of zero without a hint is our own", () =>
    Effect.gen(function*() {
      const { log } = yield* observe([busy(), busy(0)], {}, { baseDelay: 0 })
      assert.deepStrictEqual(log, ["backoff 0", "backoff 0"])
    }))

  it.effect("a schedule that has ended leaves no attempts", () =>
    Effect.gen(function*() {
      const once = Schedule.spaced(100).pipe(Schedule.upTo({ times: 1 }))
      const { log } = yield* observe([busy(), busy()], {}, { schedule: once })
      assert.deepStrictEqual(log, ["backoff 100", "attempts-exhausted"])
    }))

  it.effect("nothing is slept in vain: blocked, too long a hint, the deadline, the budget", () =>
    Effect.gen(function*() {
      const ends = (hooks: Retry.Hooks<unknown>, error = busy()) =>
        Effect.map(observe([error, busy()], hooks), ({ at, ended, log }) => [at.length, ended, ...log])
      assert.deepStrictEqual(yield* ends({ isBlocked: () => true }), [1, 0, "circuit-open"])
      assert.deepStrictEqual(yield* ends({ maxRetryAfter: () => 999 }, busy(1000)), [1, 0, "retry-after"])
      const deadline = Effect.flatMap(now, (begun) => ends({ deadlineAt: () => begun + 375 }))
      assert.deepStrictEqual(yield* deadline, [1, 0, "deadline"])
      assert.deepStrictEqual(yield* ends({ withdraw: () => undefined }), [1, 0, "budget"])
    }))

  it.effect("in that order: the purse is not touched by what is denied anyway", () =>
    Effect.gen(function*() {
      let paid = 0
      const withdraw = () => (paid++, { refundUnsafe: () => {} })
      yield* observe([busy()], { withdraw, isBlocked: () => true })
      yield* observe([busy(1000)], { withdraw, maxRetryAfter: () => 1 })
      yield* observe([busy()], { withdraw, deadlineAt: () => 1 })
      yield* observe([busy()], { withdraw, when: () => false })
      yield* observe([busy()], { withdraw }, { maxRetries: 0 })
      assert.strictEqual(paid, 0)
    }))

  it.effect("a budget's denial marks a provider's failure", () =>
    Effect.gen(function*() {
      const error = new LlmError.ProviderError({ provider: "p", reason: { _tag: "Overloaded" }, status: 503 })
      const { exit } = yield* observe([error], { withdraw: () => undefined })
      assert.deepInclude(failure(exit), { _tag: "ProviderError", budgetExhausted: true, status: 503 })
      assert.isUndefined(error.budgetExhausted, "the original stays as it is")
    }))

  it.effect("a refusal on a retry ends the run with the failure before it, and is refunded", () =>
    Effect.gen(function*() {
      let refunds = 0
      const first = new Busy({ n: 7 })
      const open = new LlmError.CircuitOpen({ key: "p", state: "open" })
      const { at, exit, log } = yield* observe([first, open], {
        withdraw: () => ({
          refundUnsafe: () => {
            refunds++
          }
        }),
        launches: () => 1
      })
      assert.strictEqual(failure(exit), first)
      assert.deepStrictEqual(at, [0, 375])
      assert.deepStrictEqual(log, ["backoff 375", "refused"])
      assert.strictEqual(refunds, 1)
    }))

  it.effect("a refusal at the first attempt is the failure itself", () =>
    Effect.gen(function*() {
      const open = new LlmError.CircuitOpen({ key: "p", state: "open" })
      const { exit, log } = yield* observe([open], {})
      assert.strictEqual(failure(exit), open)
      assert.deepStrictEqual(log, [])
    }))

  it.effect("interrupted in the delay: refunded, once; in the attempt it paid for: not", () =>
    Effect.gen(function*() {
      for (const [at, expected] of [[100, 1], [400, 0]] as const) {
        let refunds = 0
        let runs = 0
        const work = Effect.suspend(() => runs++ === 0 ? Effect.fail(busy()) : Effect.never)
        const fiber = yield* Effect.forkChild(
          Retry.run(work, policy(), {
            withdraw: () => ({
              refundUnsafe: () => {
                refunds++
              }
            })
          }),
          { startImmediately: true }
        )
        yield* TestClock.adjust(at)
        yield* Fiber.interrupt(fiber)
        assert.strictEqual(refunds, expected)
      }
    }).pipe(chance(0.5)))

  it.effect("the deadline is asked anew at each failure", () =>
    Effect.gen(function*() {
      let deadline = 1000
      const { at, run } = scripted(...times(9))
      const fiber = yield* Effect.forkChild(Effect.exit(Retry.run(run, policy(), { deadlineAt: () => deadline })), {
        startImmediately: true
      })
      yield* TestClock.adjust(100)
      deadline = 2000
      yield* TestClock.adjust("1 hour")
      assert.deepStrictEqual(at, [0, 375, 1125])
      yield* Fiber.join(fiber)
    }).pipe(chance(0.5)))
})

it.effect("ten thousand retries do not grow the stack", () =>
  Effect.gen(function*() {
    let calls = 0
    let deepest = 0
    const flaky = Effect.withFiber((fiber) => {
      deepest = Math.max(deepest, (fiber as unknown as { readonly _stack: ReadonlyArray<unknown> })._stack.length)
      return ++calls < 10_000 ? Effect.fail("busy") : Effect.succeed(calls)
    })
    const fiber = yield* fork(flaky.pipe(Retry.retry(Schedule.spaced(1))))
    yield* TestClock.adjust(20_000)
    assert.strictEqual(yield* Fiber.join(fiber), 10_000)
    assert.isBelow(deepest, 40)
  }))

it.effect("a schedule of one's own is taken by the schedule, too, within its bounds", () =>
  Effect.gen(function*() {
    let calls = 0
    const busy = Effect.suspend(() => Effect.fail(`busy ${++calls}`))
    const schedule = Retry.schedule({ schedule: Schedule.spaced("7 seconds"), maxRetries: 3 })
    const { at } = yield* timed(Effect.retry(busy, schedule))
    assert.deepStrictEqual([calls, at], [4, 21_000])
  }))

it.effect("a schedule whose step is no effect is a defect that says whose it is", () =>
  Effect.gen(function*() {
    const broken: Schedule.Schedule<unknown> = Schedule.fromStep(Effect.succeed(() => undefined as never))
    const exit = yield* Effect.exit(Effect.fail("busy").pipe(Retry.retry(broken)))
    assert.isTrue(Exit.isFailure(exit))
    if (Exit.isFailure(exit)) {
      assert.include(String(Cause.squash(exit.cause)), "The schedule returned what is no effect")
    }
  }))

it.effect("each attempt after the first is told how it came about", () =>
  Effect.gen(function*() {
    yield* TestClock.adjust(7000)
    const seen: Array<Schedule.Metadata> = []
    let n = 0
    const run = Effect.flatMap(Schedule.CurrentMetadata, (metadata) => {
      seen.push(metadata)
      return Effect.fail(++n)
    })
    yield* timed(Effect.exit(run.pipe(Retry.retry({ maxRetries: 3, baseDelay: 500, jitter: "none" }))))
    const shown = seen.slice(1).map(({ attempt, duration, elapsed, elapsedSincePrevious, input, now, start }) => ({
      input,
      attempt,
      start,
      now,
      elapsed,
      elapsedSincePrevious,
      duration: Duration.toMillis(duration)
    }))
    const start = 7000
    assert.deepStrictEqual(shown, [
      { input: 1, attempt: 1, start, now: 7000, elapsed: 0, elapsedSincePrevious: 0, duration: 500 },
      { input: 2, attempt: 2, start, now: 7500, elapsed: 500, elapsedSincePrevious: 500, duration: 1000 },
      { input: 3, attempt: 3, start, now: 8500, elapsed: 1500, elapsedSincePrevious: 1000, duration: 2000 }
    ])
  }))

it.effect("what an attempt is told is told to nobody else, neither between attempts nor after them", () =>
  Effect.gen(function*() {
    const attempts: Array<number> = []
    const others: Array<number> = []
    const tell = (to: Array<number>) =>
      Effect.map(Schedule.CurrentMetadata, ({ attempt }) => {
        to.push(attempt)
      })
    const schedule = Schedule.fromStep(
      Effect.succeed(() => Effect.as(tell(others), [0, Duration.zero] as [number, Duration.Duration]))
    )
    const { run } = scripted("busy", "busy")
    yield* Effect.andThen(tell(attempts), run).pipe(Retry.retry({ maxRetries: 3, schedule }))
    yield* tell(others)
    assert.deepStrictEqual([attempts, others], [[0, 1, 2], [0, 0, 0]])
  }))

it.effect("what a refusal is, the run may say itself; a retry that succeeded is paid, whatever it has reached", () =>
  Effect.gen(function*() {
    const refusing = yield* timed(Effect.exit(
      Retry.run(scripted("busy", "mine").run, policy(), { isRefusal: (error) => error === "mine" })
    ))
    assert.strictEqual(failure(success(refusing.exit)), "busy")
    let refunds = 0
    const paid = { launches: () => 0, withdraw: () => ({ refundUnsafe: () => void (refunds += 1) }) }
    assert.strictEqual(success((yield* timed(Retry.run(scripted("busy").run, policy(), paid))).exit), "answer")
    assert.strictEqual(refunds, 0)
  }))

it.effect("a budget is filled by the first attempt, and pays for the others", () =>
  Effect.gen(function*() {
    const budget = yield* RetryBudget.make({ capacity: 10, perAttempt: 0.5, perSecond: 0 })
    budget.withdrawUnsafe(0)
    yield* timed(Effect.exit(Effect.fail("busy").pipe(Retry.retry({ maxRetries: 2, budget }))))
    assert.strictEqual(yield* budget.balance, 10 - 1 + 0.5 - 2)
  }))
