import { assert, describe, it } from "@effect/vitest"
import { Cause, Duration, Effect, Exit, Fiber } from "effect"
import { LlmError } from "effect-resilient-llm"
import * as Failover from "effect-resilient-llm/resilience/Failover"
import { TestClock } from "effect/testing"
import { failure, fork } from "../support.ts"

/** A failure of somebody else's world; `verdict` says what it means. */
class Down {
  readonly _tag = "Down"
  readonly name: string
  constructor(name: string) {
    this.name = name
  }
}

const failOver: LlmError.Verdict = { outcome: "failure", retry: true, failover: true, coolDown: false, stale: true }

type Step = Effect.Effect<string, unknown>

/** Runs over the given targets; tells which were asked, what was reported, and how it ended. */
const over = (
  failover: Failover.Failover,
  steps: ReadonlyArray<Step>,
  options: Partial<Failover.Run<string, unknown, string, never>> = {}
) =>
  Effect.gen(function*() {
    const log: Array<string> = []
    const exit = yield* Effect.exit(failover.run<string, unknown, string, never>({
      attempt: (index) =>
        Effect.suspend(() => {
          log.push(`ask ${index}`)
          return steps[index]!
        }),
      onSkip: (index, { because, retryAfter }) =>
        log.push(["skip", index, because, retryAfter].filter((x) => x !== undefined).join(" ")),
      onFailover: (from, to) => log.push(`${from} to ${to}`),
      allFailed: (failures) =>
        `all failed: ${failures.map(({ error, index }) => `${index} ${nameOf(error)}`).join(", ")}`,
      allUnavailable: (retryAfter) => `all unavailable: ${retryAfter}`,
      ...options
    }))
    return { log, result: Exit.isSuccess(exit) ? exit.value : failure(exit) }
  })

const nameOf = (error: unknown): string =>
  error instanceof Down ? error.name : (error as { readonly _tag: string })._tag

describe("an order of the run's own", () => {
  const names = ["a", "b", "c"]

  it.effect("is the one in which they are asked, and in which failures are told; others are not asked", () =>
    Effect.gen(function*() {
      const failover = yield* Failover.make(names)
      const { log, result } = yield* over(failover, names.map(down), { order: [2, 0] })
      assert.deepStrictEqual([log, result], [["ask 2", "2 to 0", "ask 0"], "all failed: 2 c, 0 a"])
      // What a hint is worth depends on those behind, not on those listed behind.
      const open: Array<number> = []
      yield* over(failover, names.map(down), {
        order: [2, 0],
        attempt: (index, _, __, count) => {
          open.push(count())
          return down(names[index]!)
        }
      })
      assert.deepStrictEqual(open, [2, 1])
    }))

  it.effect("the only one is never skipped, and rests for others when its key failed", () =>
    Effect.gen(function*() {
      const failover = yield* Failover.make(names)
      const steps = [up, provider({ _tag: "Authentication" }), up]
      for (let i = 0; i < 2; i++) {
        assert.deepStrictEqual((yield* over(failover, steps, { order: [1] })).log, ["ask 1"])
      }
      assert.deepStrictEqual((yield* over(failover, steps, { order: [1, 2] })).log, [
        "skip 1 cooling-down 600000",
        "ask 2"
      ])
    }))
})

const down = (name: string): Step => Effect.fail(new Down(name))
const up: Step = Effect.succeed("answer")
const provider = (reason: LlmError.Reason): Step => Effect.fail(new LlmError.ProviderError({ provider: "p", reason }))

describe("make", () => {
  const refused = (ids: ReadonlyArray<string>, options?: Failover.Options) => Effect.flip(Failover.make(ids, options))

  it.effect("an empty list", () =>
    Effect.gen(function*() {
      const error = yield* refused([])
      assert.strictEqual(error._tag, "LlmConfigError")
      assert.deepInclude(error, { path: "targets", rule: "at least one target", kind: "an empty array" })
    }))

  it.effect("a duplicate, which is named by its place", () =>
    Effect.gen(function*() {
      assert.deepInclude(yield* refused(["a", "b", "a", "b"]), {
        path: "targets[2].id",
        rule: "unique",
        kind: "a duplicate"
      })
      assert.notInclude((yield* refused(["secret", "secret"])).message, "secret")
    }))

  it.effect.each(["", undefined as unknown as string])("an id that is %j", (id) =>
    Effect.gen(function*() {
      const rule = "a text that is not empty"
      assert.deepInclude(yield* refused(["a", id]), { path: "targets[1].id", rule, kind: "missing" })
    }))

  it.effect.each(
    [
      ["maxRetryAfter", -1, "a negative number"],
      ["coolDown", "soon", "a text"],
      ["order", [], "an unknown option"]
    ] as const
  )("%s must not be %j", ([path, value, kind]) =>
    Effect.gen(function*() {
      const error = yield* refused(["a"], { [path]: value })
      assert.deepInclude(error, { _tag: "LlmConfigError", path: `failover.${path}`, kind })
    }))

  it("defaults: hints up to 5 s, 10 min of rest", () => {
    assert.deepStrictEqual(Failover.policy(), { maxRetryAfter: 5000, coolDown: 600_000 })
  })
})

describe("run", () => {
  it.effect("the first answer, in the order given", () =>
    Effect.gen(function*() {
      const failover = yield* Failover.make(["a", "b", "c"])
      assert.deepStrictEqual(yield* over(failover, [up, up, up]), { log: ["ask 0"], result: "answer" })
      assert.deepStrictEqual(yield* over(failover, [down("x"), down("y"), up]), {
        log: ["ask 0", "0 to 1", "ask 1", "1 to 2", "ask 2"],
        result: "answer"
      })
    }))

  it.effect("all failed: the failures in order", () =>
    Effect.gen(function*() {
      const failover = yield* Failover.make(["a", "b"])
      const { result } = yield* over(failover, [down("x"), down("y")])
      assert.strictEqual(result, "all failed: 0 x, 1 y")
    }))

  it.effect("one target: its own failure", () =>
    Effect.gen(function*() {
      const { log, result } = yield* over(yield* Failover.make(["a"]), [down("x")])
      assert.deepInclude(result, { name: "x" })
      assert.deepStrictEqual(log, ["ask 0"])
    }))

  it.effect("what must not fail over is returned as itself, at once", () =>
    Effect.gen(function*() {
      const failover = yield* Failover.make(["a", "b", "c"])
      const { log, result } = yield* over(failover, [down("x"), provider({ _tag: "InvalidRequest" }), up])
      assert.deepInclude(result, { _tag: "ProviderError", reason: { _tag: "InvalidRequest" } })
      assert.deepStrictEqual(log, ["ask 0", "0 to 1", "ask 1"])
    }))

  it.effect("a table of your own decides instead", () =>
    Effect.gen(function*() {
      const failover = yield* Failover.make(["a", "b"])
      const classify = (error: unknown) => ({ ...failOver, failover: (error as Down).name === "temporary" })
      assert.strictEqual((yield* over(failover, [down("temporary"), up], { classify })).result, "answer")
      assert.deepInclude((yield* over(failover, [down("final"), up], { classify })).result, { name: "final" })
    }))

  it.effect("interruption and defects end it", () =>
    Effect.gen(function*() {
      const failover = yield* Failover.make(["a", "b"])
      const asked: Array<number> = []
      const run = (step: Step) =>
        failover.run<string, unknown, string, never>({
          attempt: (index) => Effect.suspend(() => (asked.push(index), step)),
          allFailed: () => "failed",
          allUnavailable: () => "unavailable"
        })
      assert.isTrue(Exit.hasDies(yield* Effect.exit(run(Effect.die("bug")))))
      const fiber = yield* fork(run(Effect.never))
      yield* Fiber.interrupt(fiber)
      const exit = fiber.pollUnsafe()!
      assert.isTrue(Exit.isFailure(exit) && Cause.hasInterruptsOnly(exit.cause))
      assert.deepStrictEqual(asked, [0, 0])
    }))

  it.effect("runs do not know each other", () =>
    Effect.gen(function*() {
      const failover = yield* Failover.make(["a", "b"])
      const slow = Effect.delay(down("x"), 100)
      const fiber = yield* fork(
        Effect.all([over(failover, [slow, down("y")]), over(failover, [slow, up])], { concurrency: 2 })
      )
      yield* TestClock.adjust(100)
      const [first, second] = yield* Fiber.join(fiber)
      assert.strictEqual(first.result, "all failed: 0 x, 1 y")
      assert.strictEqual(second.result, "answer")
    }))
})

describe("skip", () => {
  const skipping = (...skipped: ReadonlyArray<number>) => (index: number): Failover.Skip<unknown> | undefined =>
    skipped.includes(index)
      ? { because: "circuit-open", retryAfter: 1000 * (index + 1), error: () => new Down(`open ${index}`) }
      : undefined

  it.effect("a target that cannot serve is passed over without a call", () =>
    Effect.gen(function*() {
      const failover = yield* Failover.make(["a", "b", "c"])
      assert.deepStrictEqual(yield* over(failover, [up, up, up], { skip: skipping(0, 1) }), {
        log: ["skip 0 circuit-open 1000", "skip 1 circuit-open 2000", "ask 2"],
        result: "answer"
      })
    }))

  it.effect("all skipped: unavailable, with the shortest wait that is known", () =>
    Effect.gen(function*() {
      const failover = yield* Failover.make(["a", "b"])
      assert.strictEqual((yield* over(failover, [up, up], { skip: skipping(0, 1) })).result, "all unavailable: 1000")
      const unknown = () => ({ because: "no-model" }) as const
      assert.strictEqual((yield* over(failover, [up, up], { skip: unknown })).result, "all unavailable: undefined")
    }))

  it.effect("some skipped, the others failed: the error that stands for a skipped one is in its place", () =>
    Effect.gen(function*() {
      const failover = yield* Failover.make(["a", "b", "c"])
      const { result } = yield* over(failover, [up, down("y"), up], { skip: skipping(0, 2) })
      assert.strictEqual(result, "all failed: 0 open 0, 1 y, 2 open 2")
    }))

  it.effect("a single target is never skipped", () =>
    Effect.gen(function*() {
      const failover = yield* Failover.make(["a"])
      assert.deepStrictEqual(yield* over(failover, [up], { skip: skipping(0) }), { log: ["ask 0"], result: "answer" })
    }))

  it.effect("a target that refuses locally counts as skipped", () =>
    Effect.gen(function*() {
      const failover = yield* Failover.make(["a", "b", "c"])
      const steps = [
        Effect.fail(new LlmError.CircuitOpen({ key: "a", state: "open", retryAfter: Duration.seconds(3) })),
        Effect.fail(new LlmError.RateLimited({ dimension: "requests", retryAfter: Duration.seconds(2) })),
        Effect.fail(new LlmError.BulkheadFull({}))
      ]
      const { log, result } = yield* over(failover, steps)
      assert.deepStrictEqual(log, [
        "ask 0",
        "skip 0 circuit-open 3000",
        "0 to 1",
        "ask 1",
        "skip 1 rate-limited 2000",
        "1 to 2",
        "ask 2",
        "skip 2 bulkhead-full"
      ])
      assert.strictEqual(result, "all unavailable: 2000")
    }))

  it.effect("a refusal stands for its target beside the failures of others", () =>
    Effect.gen(function*() {
      const failover = yield* Failover.make(["a", "b"])
      const full = Effect.fail(new LlmError.BulkheadFull({}))
      assert.strictEqual((yield* over(failover, [full, down("y")])).result, "all failed: 0 BulkheadFull, 1 y")
      assert.strictEqual((yield* over(failover, [down("x"), full])).result, "all failed: 0 x, 1 BulkheadFull")
    }))

  it.effect("nobody has to listen", () =>
    Effect.gen(function*() {
      const failover = yield* Failover.make(["a", "b", "c", "d"])
      const steps = [up, Effect.fail(new LlmError.BulkheadFull({})), provider({ _tag: "ContextLength" }), up]
      const answer = failover.run<string, unknown, string, never>({
        attempt: (index) => steps[index]!,
        skip: skipping(0),
        isSmaller: (index) => index === 3,
        allFailed: () => "all failed",
        allUnavailable: () => "all unavailable"
      })
      assert.strictEqual(yield* Effect.flip(answer), "all failed")
    }))

  it.effect("a single target's refusal is its failure", () =>
    Effect.gen(function*() {
      const full = new LlmError.BulkheadFull({})
      assert.strictEqual((yield* over(yield* Failover.make(["a"]), [Effect.fail(full)])).result, full)
    }))

  it.effect("the moment is that of the look, not that of the start", () =>
    Effect.gen(function*() {
      const failover = yield* Failover.make(["a", "b"])
      const skip = (index: number, now: number): Failover.Skip<unknown> | undefined =>
        index === 1 && now < 1000 ? { because: "circuit-open" } : undefined
      const fiber = yield* fork(over(failover, [Effect.delay(down("x"), 1000), up], { skip }))
      yield* TestClock.adjust(1000)
      assert.strictEqual((yield* Fiber.join(fiber)).result, "answer")
    }))
})

describe("coolDown", () => {
  const key = provider({ _tag: "Authentication" })

  it.effect("a target whose quota or key failed rests, and its failure stands for it", () =>
    Effect.gen(function*() {
      const failover = yield* Failover.make(["a", "b"], { coolDown: "10 minutes" })
      assert.deepStrictEqual((yield* over(failover, [key, up])).log, ["ask 0", "0 to 1", "ask 1"])
      yield* TestClock.adjust(1000)
      const rested = yield* over(failover, [up, down("y")])
      assert.deepStrictEqual(rested.log, ["skip 0 cooling-down 599000", "ask 1"])
      assert.strictEqual(rested.result, "all failed: 0 ProviderError, 1 y")
      assert.isUndefined(failover.coolingDown(1, 1000))
      assert.deepInclude(failover.coolingDown(0, 1000), { until: 600_000 })
      yield* TestClock.adjust(599_000)
      assert.isUndefined(failover.coolingDown(0, 600_000))
      assert.deepStrictEqual((yield* over(failover, [up, up])).log, ["ask 0"])
    }))

  it.effect("it needs a verdict that says so", () =>
    Effect.gen(function*() {
      const failover = yield* Failover.make(["a", "b"])
      yield* over(failover, [provider({ _tag: "NotFound" }), up])
      yield* over(failover, [provider({ _tag: "Overloaded" }), up])
      assert.deepStrictEqual((yield* over(failover, [up, up])).log, ["ask 0"])
      yield* over(failover, [down("x"), up], { classify: () => ({ ...failOver, coolDown: true }) })
      assert.deepStrictEqual((yield* over(failover, [up, up])).log, ["skip 0 cooling-down 600000", "ask 1"])
    }))

  it.effect("of a single target it changes nothing", () =>
    Effect.gen(function*() {
      const failover = yield* Failover.make(["a"])
      yield* over(failover, [key])
      assert.isUndefined(failover.coolingDown(0, 0))
      assert.strictEqual((yield* over(failover, [up])).result, "answer")
    }))

  it.effect("all cooling down: unavailable until the first is back", () =>
    Effect.gen(function*() {
      const failover = yield* Failover.make(["a", "b"], { coolDown: 1000 })
      yield* over(failover, [key, Effect.delay(key, 0)])
      yield* TestClock.adjust(400)
      assert.strictEqual((yield* over(failover, [up, up])).result, "all unavailable: 600")
    }))
})

describe("longestHint", () => {
  const hints = (failover: Failover.Failover, skip?: Failover.Run<string, unknown, string, never>["skip"]) =>
    Effect.gen(function*() {
      const seen: Array<number> = []
      yield* over(failover, [], {
        attempt: (_, longestHint) => Effect.suspend(() => (seen.push(longestHint()), down("x"))),
        ...(skip === undefined ? undefined : { skip })
      })
      return seen
    })

  it.effect("is short while a later target could serve, and has no bound otherwise", () =>
    Effect.gen(function*() {
      assert.deepStrictEqual(yield* hints(yield* Failover.make(["a", "b", "c"])), [5000, 5000, Infinity])
      assert.deepStrictEqual(yield* hints(yield* Failover.make(["a"])), [Infinity])
    }))

  it.effect("a target that is skipped cannot serve", () =>
    Effect.gen(function*() {
      const failover = yield* Failover.make(["a", "b"], { maxRetryAfter: "1 second" })
      assert.deepStrictEqual(yield* hints(failover, (index) => index === 1 ? { because: "circuit-open" } : undefined), [
        Infinity
      ])
      assert.deepStrictEqual(yield* hints(failover), [1000, Infinity])
    }))
})

describe("too large a request", () => {
  const large = provider({ _tag: "ContextLength" })

  it.effect("goes on to targets that are not known to be smaller", () =>
    Effect.gen(function*() {
      const failover = yield* Failover.make(["a", "b", "c"])
      const windows = [200, 100, 300]
      const isSmaller = (index: number, than: number) => windows[index]! < windows[than]!
      assert.deepStrictEqual(yield* over(failover, [large, up, up], { isSmaller }), {
        log: ["ask 0", "skip 1 context-too-small", "0 to 2", "ask 2"],
        result: "answer"
      })
    }))

  it.effect("to any, when nothing is known", () =>
    Effect.gen(function*() {
      const failover = yield* Failover.make(["a", "b"])
      assert.deepStrictEqual((yield* over(failover, [large, up])).log, ["ask 0", "0 to 1", "ask 1"])
    }))

  it.effect("and is its own failure when none is left", () =>
    Effect.gen(function*() {
      const failover = yield* Failover.make(["a", "b"])
      const { result } = yield* over(failover, [large, up], { isSmaller: () => true })
      assert.deepInclude(result, { _tag: "ProviderError", reason: { _tag: "ContextLength" } })
    }))

  it.effect("a target that failed for another reason does not narrow the choice", () =>
    Effect.gen(function*() {
      const failover = yield* Failover.make(["a", "b"])
      const { log } = yield* over(failover, [down("x"), up], { isSmaller: () => true })
      assert.deepStrictEqual(log, ["ask 0", "0 to 1", "ask 1"])
    }))
})

describe("a hedge that fails", () => {
  /** The first target takes three seconds to fail; after one the second is asked as well, and ends as it is told. */
  const after = (hedged: Step, options: Partial<Failover.Run<string, unknown, string, never>> = {}) =>
    Effect.gen(function*() {
      const failover = yield* Failover.make(["a", "b", "c"])
      const log: Array<string> = []
      const silent = () => {}
      const fiber = yield* fork(over(failover, [Effect.andThen(Effect.sleep(3000), down("a")), up, up], {
        hedge: (index) =>
          index !== 0 ? undefined : {
            maxHedges: 1,
            delay: () => 1000,
            attempt: (to) => Effect.andThen(Effect.sync(() => log.push(`hedge on ${to}`)), hedged),
            onHedge: silent,
            onSuppressed: silent,
            onWon: silent,
            onLost: silent
          },
        ...options
      }))
      yield* TestClock.adjust(1000)
      assert.deepStrictEqual(log, ["hedge on 1"])
      yield* TestClock.adjust(2000)
      return (yield* Fiber.join(fiber)).log
    })

  it.effect("has tried its target", () =>
    Effect.gen(function*() {
      const log = yield* after(down("b"), { isSmaller: () => true })
      assert.deepStrictEqual(log, ["ask 0", "0 to 2", "ask 2"])
    }))

  it.effect("was refused here: that says nothing about its target, which is asked in its turn", () =>
    Effect.gen(function*() {
      const refused = ["ask 0", "0 to 1", "ask 1"]
      assert.deepStrictEqual(yield* after(Effect.fail(new LlmError.BulkheadFull({}))), refused)
      // What a refusal is, the run may say itself.
      const mine = (error: unknown) => error instanceof Down && error.name === "mine" ? "final" as const : undefined
      assert.deepStrictEqual(yield* after(down("mine"), { refusal: mine }), refused)
      const tried = ["ask 0", "0 to 2", "ask 2"]
      assert.deepStrictEqual(yield* after(Effect.fail(new LlmError.BulkheadFull({})), { refusal: mine }), tried)
    }))

  it.effect("found the request too large: nor do those take it that are smaller", () =>
    Effect.gen(function*() {
      const isSmaller = (index: number, than: number) => index === 2 && than === 1
      const log = yield* after(provider({ _tag: "ContextLength" }), { isSmaller })
      assert.deepStrictEqual(log, ["ask 0", "skip 2 context-too-small"])
    }))
})

describe("options that overrule", () => {
  it.effect("on: by reason, for a provider's failures alone", () =>
    Effect.gen(function*() {
      const failover = yield* Failover.make(["a", "b"], { on: { ContentPolicy: true, Server: false } })
      const ask = (first: Step) => Effect.map(over(failover, [first, up]), ({ log }) => log)
      assert.deepStrictEqual(yield* ask(provider({ _tag: "ContentPolicy" })), ["ask 0", "0 to 1", "ask 1"])
      assert.deepStrictEqual(yield* ask(provider({ _tag: "Server" })), ["ask 0"])
      assert.deepStrictEqual(yield* ask(provider({ _tag: "Overloaded" })), ["ask 0", "0 to 1", "ask 1"])
      assert.deepStrictEqual(yield* ask(provider({ _tag: "InvalidRequest" })), ["ask 0"])
      // What is not ours has no reason.
      assert.deepStrictEqual(yield* ask(Effect.fail({ _tag: "Server" })), ["ask 0", "0 to 1", "ask 1"])
      // `undefined` is as if it were not there.
      const unsaid = yield* Failover.make(["a", "b"], { on: { ContentPolicy: undefined } })
      assert.deepStrictEqual((yield* over(unsaid, [provider({ _tag: "ContentPolicy" }), up])).log, ["ask 0"])
      // A key that failed rests its target all the same.
      const quota = yield* Failover.make(["a", "b"], { on: { Quota: false } })
      assert.deepStrictEqual((yield* over(quota, [provider({ _tag: "Quota" }), up])).log, ["ask 0"])
      assert.deepStrictEqual((yield* over(quota, [up, up])).log, ["skip 0 cooling-down 600000", "ask 1"])
    }))

  it.effect("maxAttempts: by itself it counts targets; who has retries tells how many there were", () =>
    Effect.gen(function*() {
      const failover = yield* Failover.make(["a", "b", "c"], { maxAttempts: 2 })
      const steps = ["a", "b", "c"].map(down)
      const two = yield* over(failover, steps)
      assert.deepStrictEqual(two.log, ["ask 0", "0 to 1", "ask 1", "skip 2 attempts-exhausted"])
      assert.strictEqual(two.result, "all failed: 0 a, 1 b")
      const one = yield* over(failover, steps, { attempts: () => 5 })
      assert.deepStrictEqual(one.log, ["ask 0", "skip 1 attempts-exhausted", "skip 2 attempts-exhausted"])
      assert.instanceOf(one.result, Down)
    }))

  it.effect.each(
    [
      [{ maxAttempts: 0 }, "failover.maxAttempts", "a whole number of at least 1"],
      [{ on: { Network: "yes" } }, "failover.on.Network", "true or false"],
      [{ on: { constructor: true } }, "failover.on.constructor", "one of RateLimit, Quota, Overloaded, "],
      [{ requireFeatures: [] }, "failover.requireFeatures", "a list of fields that is not empty"],
      [{ requireFeatures: ["colour"] }, "failover.requireFeatures[0]", "one of frequencyPenalty, "]
    ] as const
  )("%j is refused with its path and its rule", ([options, path, rule]) =>
    Effect.gen(function*() {
      const error = yield* Effect.flip(Failover.make(["a"], options as Failover.Options))
      assert.strictEqual(error.path, path)
      assert.isTrue(error.rule.startsWith(rule), error.rule)
    }))
})
