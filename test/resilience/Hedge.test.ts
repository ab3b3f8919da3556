import { assert, describe, it } from "@effect/vitest"
import { Cause, Config, ConfigProvider, Context, Duration, Effect, Exit, Fiber, Layer } from "effect"
import { LlmError } from "effect-resilient-llm"
import * as Bulkhead from "effect-resilient-llm/resilience/Bulkhead"
import * as CircuitBreaker from "effect-resilient-llm/resilience/CircuitBreaker"
import * as Hedge from "effect-resilient-llm/resilience/Hedge"
import * as RetryBudget from "effect-resilient-llm/resilience/RetryBudget"
import { TestClock } from "effect/testing"
import { failure, now, success, timed } from "../support.ts"
import { countingSleeps, start } from "./waiting.ts"

const provider = (reason: LlmError.Reason) => new LlmError.ProviderError({ provider: "p", reason })
const overloaded = provider({ _tag: "Overloaded" })
const unauthorised = provider({ _tag: "Authentication" })

type Line = Effect.Effect<string, LlmError.ProviderError>
const answers = (millis: number, text: string): Line => Effect.as(Effect.sleep(millis), text)
const fails = (millis: number, error: LlmError.ProviderError): Line =>
  Effect.andThen(Effect.sleep(millis), Effect.fail(error))

/** Runs lines and tells what became of each: when it started, and when it was interrupted. */
const race = (
  lines: ReadonlyArray<Line>,
  options: Hedge.Options = { delay: 1000 },
  hooks: Hedge.Hooks<LlmError.ProviderError> = {}
) =>
  Effect.gen(function*() {
    const hedge = yield* Hedge.make(options)
    const started: Array<number> = []
    const interrupted: Array<readonly [line: number, at: number]> = []
    const run = hedge.run((n) =>
      Effect.andThen(
        Effect.map(now, (at) => started.push(at)),
        Effect.onInterrupt(lines[n]!, () => Effect.map(now, (at) => interrupted.push([n, at])))
      ), hooks)
    return { hedge, started, interrupted, run }
  })

const isCalm = <A, E, R>(test: Effect.Effect<A, E, R>) =>
  countingSleeps((sleeps) =>
    Effect.andThen(test, Effect.sync(() => assert.strictEqual(sleeps.pending, 0, "pending sleeps")))
  )

describe("Hedge", () => {
  it.effect("H1 an answer before the delay is one call", () =>
    isCalm(Effect.gen(function*() {
      const { interrupted, run, started } = yield* race([answers(800, "primary"), answers(500, "hedge")])
      const { at, exit } = yield* timed(run)
      assert.deepStrictEqual([success(exit), at, started, interrupted], ["primary", 800, [0], []])
    })))

  it.effect("H2 the hedge answers first, and the primary is interrupted", () =>
    isCalm(Effect.gen(function*() {
      const { interrupted, run, started } = yield* race([answers(3000, "primary"), answers(500, "hedge")])
      const { at, exit } = yield* timed(run)
      assert.deepStrictEqual([success(exit), at, started, interrupted], ["hedge", 1500, [0, 1000], [[0, 1500]]])
    })))

  it.effect("H3 the primary answers first, and the hedge is interrupted", () =>
    isCalm(Effect.gen(function*() {
      const { interrupted, run, started } = yield* race([answers(1200, "primary"), answers(500, "hedge")])
      const { at, exit } = yield* timed(run)
      assert.deepStrictEqual([success(exit), at, started, interrupted], ["primary", 1200, [0, 1000], [[1, 1200]]])
    })))

  it.effect("H4 (resilience4j: a fast failure wins) a failed hedge leaves the primary alone", () =>
    isCalm(Effect.gen(function*() {
      for (const error of [overloaded, unauthorised]) {
        const { interrupted, run, started } = yield* race([answers(3000, "primary"), fails(100, error)])
        const begun = yield* now
        const { at, exit } = yield* timed(run, 3000)
        assert.deepStrictEqual([success(exit), at, interrupted], ["primary", 3000, []])
        assert.deepStrictEqual(started.map((at) => at - begun), [0, 1000])
      }
    })))

  it.effect("H5 a transient failure before the delay starts the hedge at once", () =>
    isCalm(Effect.gen(function*() {
      const { run, started } = yield* race([fails(400, overloaded), answers(500, "hedge")])
      const { at, exit } = yield* timed(run)
      assert.deepStrictEqual([success(exit), at, started], ["hedge", 900, [0, 400]])
    })))

  it.effect("H6 a final failure starts none", () =>
    isCalm(Effect.gen(function*() {
      const { run, started } = yield* race([fails(400, unauthorised), answers(500, "hedge")])
      const { at, exit } = yield* timed(run)
      assert.deepStrictEqual([failure(exit), at, started], [unauthorised, 400, [0]])
    })))

  it.effect("H7 both fail: the primary's error, the hedge's attached", () =>
    isCalm(Effect.gen(function*() {
      const late = provider({ _tag: "Server" })
      const { run, started } = yield* race([fails(1800, late), fails(500, overloaded)])
      const { at, exit } = yield* timed(run)
      assert.deepStrictEqual([at, started], [1800, [0, 1000]])
      assert.deepStrictEqual(
        Exit.isFailure(exit) ? exit.cause : exit,
        Cause.combine(Cause.fail(late), Cause.fail(overloaded))
      )
      // Whoever catches sees the primary's.
      const again = yield* race([fails(1800, late), fails(500, overloaded)])
      assert.strictEqual(success((yield* timed(Effect.flip(again.run))).exit), late)
    })))

  it.effect("H8 (failsafe-go#141) an empty budget suppresses the hedge, and leaves the primary alone", () =>
    isCalm(Effect.gen(function*() {
      const budget = yield* RetryBudget.make({ capacity: 1, perAttempt: 0, perSecond: 0 })
      budget.withdrawUnsafe(0)
      const suppressed: Array<number> = []
      const hooks = {
        pay: (now: number) => budget.withdrawUnsafe(now) !== undefined,
        onSuppressed: (now: number) => suppressed.push(now)
      }
      const { run, started } = yield* race([answers(3000, "primary"), answers(500, "hedge")], {
        delay: 1000,
        maxHedges: 3
      }, hooks)
      const { at, exit } = yield* timed(run)
      assert.deepStrictEqual([success(exit), at, started, suppressed], ["primary", 3000, [0], [1000]])
      // Nor does a failure get one.
      const failing = yield* race([fails(400, overloaded), answers(500, "hedge")], { delay: 1000 }, hooks)
      const failed = yield* timed(failing.run)
      assert.deepStrictEqual([failure(failed.exit), failed.at, failing.started.length], [overloaded, 400, 1])
    })))

  it.effect("B10 one purse: the hedge has taken what a retry would need", () =>
    isCalm(Effect.gen(function*() {
      const budget = yield* RetryBudget.make({ capacity: 1, perAttempt: 0, perSecond: 0 })
      const { run } = yield* race([answers(3000, "primary"), answers(500, "hedge")], { delay: 1000 }, {
        pay: (now) => budget.withdrawUnsafe(now) !== undefined
      })
      assert.strictEqual(success((yield* timed(run)).exit), "hedge")
      assert.isUndefined(budget.withdrawUnsafe(yield* now))
      assert.strictEqual(yield* budget.balance, 0)
    })))

  const measured = (durations: ReadonlyArray<number>, options: Hedge.Options = {}) =>
    Effect.gen(function*() {
      const hedge = yield* Hedge.make(options)
      for (const millis of durations) yield* timed(hedge.protect(Effect.sleep(millis)), millis)
      const delay = yield* hedge.delay
      return delay === undefined ? undefined : Duration.toMillis(delay)
    })
  const upTo = (count: number, step: number) => Array.from({ length: count }, (_, i) => (i + 1) * step)

  it.effect("H9 the delay is the 95th percentile by nearest rank of at most 100 successes, of at least 20", () =>
    Effect.gen(function*() {
      assert.strictEqual(yield* measured(upTo(100, 10)), 950)
      assert.strictEqual(yield* measured(upTo(20, 100)), 1900)
      assert.isUndefined(yield* measured(upTo(19, 100)))
      // Only the last hundred count, and less than `minDelay` is not waited.
      assert.strictEqual(yield* measured([...upTo(30, 5000), ...upTo(100, 10)]), 950)
      assert.strictEqual(yield* measured(upTo(20, 10)), 500)
      assert.strictEqual(yield* measured(upTo(20, 10), { minDelay: "20 millis" }), 190)
      // A fixed delay needs no samples, and no floor.
      assert.strictEqual(yield* measured([], { delay: "30 millis" }), 30)
    }))

  it.effect("H9 too few samples give no hedge, however long it takes; failures are no samples", () =>
    Effect.gen(function*() {
      const hedge = yield* Hedge.make()
      let calls = 0
      const ask = (line: Line) =>
        hedge.run(() => Effect.andThen(Effect.sync(() => calls++), line), { when: () => false })
      for (let i = 0; i < 19; i++) yield* timed(ask(answers(1000, "")), 1000)
      for (let i = 0; i < 19; i++) yield* timed(ask(fails(1000, overloaded)), 1000)
      assert.isUndefined(yield* hedge.delay)
      yield* timed(ask(answers(60_000, "")), 60_000)
      assert.strictEqual(calls, 39)
      assert.deepStrictEqual(yield* hedge.delay, Duration.millis(1000))
      yield* timed(ask(answers(60_000, "")), 60_000)
      assert.strictEqual(calls, 41)
    }))

  it.effect("H10 (Polly DisposeAsync) the caller is free at once, the loser's permit when it has cleaned up", () =>
    isCalm(Effect.gen(function*() {
      const bulkhead = yield* Bulkhead.make({ maxConcurrent: 2 })
      const slow = Effect.onInterrupt(answers(3000, "primary"), () => Effect.sleep(10_000))
      const { run } = yield* race(
        [bulkhead.protect(slow), bulkhead.protect(answers(500, "hedge"))] as ReadonlyArray<Line>
      )
      const { at, exit } = yield* timed(run, 1500)
      assert.deepStrictEqual([success(exit), at], ["hedge", 1500])
      yield* TestClock.adjust(9999)
      assert.strictEqual((yield* bulkhead.snapshot).inUse, 1)
      yield* TestClock.adjust(1)
      assert.strictEqual((yield* bulkhead.snapshot).inUse, 0)
    })))

  it.effect("H11 an interrupted caller interrupts both, and waits for their cleanup", () =>
    isCalm(Effect.gen(function*() {
      const bulkhead = yield* Bulkhead.make({ maxConcurrent: 2 })
      const lines = [answers(3000, "primary"), answers(500, "hedge")].map((line) => bulkhead.protect(line))
      const { interrupted, run, started } = yield* race(lines as ReadonlyArray<Line>)
      const fiber = yield* start(run)
      yield* TestClock.adjust(1200)
      assert.strictEqual((yield* bulkhead.snapshot).inUse, 2)
      yield* Fiber.interrupt(fiber)
      assert.deepStrictEqual([started, interrupted], [[0, 1000], [[0, 1200], [1, 1200]]])
      assert.strictEqual((yield* bulkhead.snapshot).inUse, 0)
      yield* TestClock.adjust(10_000)
    })))

  it.effect("H12 one success and one ignored for a breaker; the winner's own time is measured", () =>
    isCalm(Effect.gen(function*() {
      const breaker = yield* CircuitBreaker.make({ key: "p" })
      const hedge = yield* Hedge.make({ delay: 1000 })
      let line = 0
      const ask = breaker.protect(Effect.suspend(() => line++ === 0 ? answers(3000, "primary") : answers(500, "hedge")))
      yield* timed(hedge.protect(ask), 1500)
      const { calls, failures, streak } = yield* breaker.status
      assert.deepStrictEqual([calls, failures, streak], [1, 0, 0])
      // Nineteen more of 500 ms: the first one counts as 500 as well, not as 1500.
      const measured = yield* Hedge.make({ minDelay: 0 })
      let asked = 0
      const twice = measured.run((n) => n === 0 && asked++ === 19 ? answers(9000, "") : answers(500, ""))
      for (let i = 0; i < 19; i++) yield* timed(twice, 500)
      assert.isUndefined(yield* measured.delay)
      yield* timed(measured.run((n) => answers(n === 0 ? 400 : 1, "")), 400)
      yield* timed(twice, 2000)
      assert.deepStrictEqual(yield* measured.delay, Duration.millis(500))
    })))

  it.effect("several hedges: each after its own delay, the first success ends all", () =>
    isCalm(Effect.gen(function*() {
      const lost: Array<readonly [number, number]> = []
      const hedges: Array<readonly [number, number]> = []
      const { interrupted, run, started } = yield* race(
        [answers(9000, "0"), answers(9000, "1"), answers(300, "2"), answers(1, "3")],
        { delay: 1000, maxHedges: 3 },
        { onHedge: (line, now) => hedges.push([line, now]), onLost: (line, now) => lost.push([line, now]) }
      )
      const { at, exit } = yield* timed(run)
      assert.deepStrictEqual([success(exit), at, started], ["2", 2300, [0, 1000, 2000]])
      assert.deepStrictEqual([interrupted, lost], [[[0, 2300], [1, 2300]], [[0, 2300], [1, 2300]]])
      assert.deepStrictEqual(hedges, [[1, 1000], [2, 2000]])
    })))

  it.effect("a hedge that fails at once leaves the next one its time", () =>
    isCalm(Effect.gen(function*() {
      const { run, started } = yield* race(
        [answers(3000, "primary"), Effect.fail(overloaded), answers(100, "second hedge")],
        { delay: 1000, maxHedges: 2 }
      )
      const { at, exit } = yield* timed(run)
      assert.deepStrictEqual([success(exit), at, started], ["second hedge", 2100, [0, 1000, 2000]])
    })))

  it.effect("a line that answers at once needs no fibre, no timer and no hedge", () =>
    countingSleeps((sleeps) =>
      Effect.gen(function*() {
        const hedge = yield* Hedge.make({ delay: 0 })
        let calls = 0
        assert.strictEqual(yield* hedge.protect(Effect.sync(() => ++calls)), 1)
        assert.strictEqual(sleeps.started, 0)
      })
    ))

  it.effect("in shadow mode no hedge starts; that one was due is told", () =>
    isCalm(Effect.gen(function*() {
      const suppressed: Array<number> = []
      const hooks = { onSuppressed: (now: number) => suppressed.push(now) }
      const options = { delay: 1000, mode: "shadow" } as const
      const slow = yield* race([answers(3000, "primary"), answers(500, "hedge")], options, hooks)
      const { at, exit } = yield* timed(slow.run, 3000)
      assert.deepStrictEqual([success(exit), at, slow.started, suppressed], ["primary", 3000, [0], [1000]])
      // Nor at once after a failure, and then none was due.
      const failing = yield* race([fails(400, overloaded), answers(500, "hedge")], options, hooks)
      const ended = yield* timed(failing.run, 3000)
      assert.deepStrictEqual([failure(ended.exit), failing.started, suppressed], [overloaded, [3000], [1000]])
    })))

  it.effect("what is more than a failure, or nothing at all, ends the run at once; nobody waits for the other line", () =>
    Effect.gen(function*() {
      const fail = Cause.fail(overloaded)
      const causes = [
        Cause.combine(fail, Cause.die("broken")),
        Cause.combine(Cause.die("broken"), fail),
        Cause.combine(fail, Cause.interrupt()),
        Cause.empty
      ]
      for (const cause of causes) {
        const slowToLeave = Effect.onInterrupt(answers(9000, "primary"), () => Effect.sleep(5000))
        const { run } = yield* race([slowToLeave, Effect.andThen(Effect.sleep(500), Effect.failCause(cause))])
        const { at, exit } = yield* timed(run, 9000)
        assert.strictEqual(at, 1500)
        assert.deepStrictEqual(exit, Exit.failCause(cause))
      }
    }))

  it.effect("a defect or an interruption from inside ends the run, and the other line with it", () =>
    isCalm(Effect.gen(function*() {
      for (const end of [Effect.die("broken"), Effect.interrupt]) {
        const { interrupted, run } = yield* race([answers(3000, "primary"), Effect.andThen(Effect.sleep(500), end)])
        const begun = yield* now
        const { at, exit } = yield* timed(run, 3000)
        assert.strictEqual(at, 1500)
        assert.isTrue(
          Exit.isFailure(exit) && (end === Effect.interrupt ? Cause.hasInterrupts : Cause.hasDies)(exit.cause)
        )
        assert.deepStrictEqual(
          interrupted.map(([line, at]) => [line, at - begun]),
          [...(end === Effect.interrupt ? [[1, 1500]] : []), [0, 1500]]
        )
      }
    })))

  for (const hook of ["when", "pay", "onHedge", "onSuppressed", "onLost"] as const) {
    it.effect(`a hook that throws (${hook}) is a defect, and nothing stays behind`, () =>
      isCalm(Effect.gen(function*() {
        const thrown = (): never => {
          throw new Error(hook)
        }
        const bulkhead = yield* Bulkhead.make({ maxConcurrent: 2 })
        const lines = [hook === "when" ? fails(1200, overloaded) : answers(3000, "primary"), answers(500, "hedge")]
        const { run } = yield* race(
          (hook === "when" ? [lines[0]!, fails(100, overloaded), lines[1]!] : lines).map((line) =>
            bulkhead.protect(line)
          ) as ReadonlyArray<Line>,
          { delay: 1000, maxHedges: 2 },
          { ...hook === "onSuppressed" ? { pay: () => false } : {}, [hook]: thrown }
        )
        const { exit } = yield* timed(run)
        assert.isTrue(Exit.isFailure(exit) && Cause.hasDies(exit.cause) && !Cause.hasFails(exit.cause))
        assert.strictEqual((yield* bulkhead.snapshot).inUse, 0)
      })))
  }

  it.effect("attempt throws: a defect of the run", () =>
    Effect.gen(function*() {
      const hedge = yield* Hedge.make({ delay: 10 })
      const thrown = yield* Effect.exit(hedge.run((): Line => {
        throw new Error("no line")
      }))
      assert.isTrue(Exit.isFailure(thrown) && Cause.hasDies(thrown.cause))
    }))

  it.effect("is a service, and reads its options", () =>
    Effect.gen(function*() {
      const context = yield* Effect.scoped(Layer.build(Hedge.layer({ delay: "2 seconds" })))
      assert.deepStrictEqual(yield* Context.get(context, Hedge.Hedge).delay, Duration.seconds(2))
      const wrong = [
        [
          { delay: "p99" },
          "hedge.delay",
          "\"p95\" or a duration such as \"2 seconds\" or a number of milliseconds"
        ],
        [{ delay: -1 }, "hedge.delay", "a duration that is not negative"],
        [{ maxHedges: 0 }, "hedge.maxHedges", "a whole number of at least 1"],
        [{ minDelay: Number.NaN }, "hedge.minDelay", "a duration such as \"2 seconds\" or a number of milliseconds"],
        [{ delays: 1 }, "hedge.delays", "one of delay, minDelay, maxHedges, mode"]
      ] as const
      for (const [options, path, rule] of wrong) {
        const error = yield* Effect.flip(Hedge.make(options as Hedge.Options))
        assert.deepStrictEqual([error.path, error.rule], [path, rule])
      }
    }))

  it.effect("reads its options from configuration, and tells what is wrong there", () =>
    Effect.gen(function*() {
      const layer = Hedge.layerConfig({ delay: Config.String("DELAY") as Config.Config<Duration.Input> })
      const built = (DELAY: string) =>
        Effect.provide(Effect.scoped(Layer.build(layer)), ConfigProvider.layer(ConfigProvider.fromEnvRecord({ DELAY })))
      assert.deepStrictEqual(yield* Context.get(yield* built("2 seconds"), Hedge.Hedge).delay, Duration.seconds(2))
      assert.deepInclude(yield* Effect.flip(built("soon")), { _tag: "LlmConfigError", path: "hedge.delay" })
    }))
})
