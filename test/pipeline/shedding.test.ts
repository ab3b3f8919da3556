// The lines of bulkhead, client bucket and target limits in the whole pipeline: their order, and who may join them.
import { assert, describe, it } from "@effect/vitest"
import { Context, Duration, Effect, Exit, type Fiber, Random } from "effect"
import {
  type LlmClient,
  type LlmConfig,
  LlmError,
  type LlmEvent,
  type LlmGuard,
  type LlmRequest
} from "effect-resilient-llm"
import { LoadShedder } from "effect-resilient-llm/resilience"
import { ScriptedProvider } from "effect-resilient-llm/testing"
import { TestClock } from "effect/testing"
import { inThrottle, isOpen, type Throttle, turnedAway } from "../../src/pipeline/shedding.ts"
import {
  ask,
  failure,
  fork,
  kinds,
  nothingHeld,
  type Outcome,
  type Script,
  type SetUp,
  setUp,
  success,
  vector
} from "../support.ts"

const slow = (millis = 1000): Script => ({ always: ScriptedProvider.answer("ok", { delay: millis }) })
const shedding = { loadShedding: { throttle: false }, retry: false } as const satisfies LlmConfig.Options

type Priority = LlmRequest.LlmRequest["priority"]

const shedOf = (exit: Exit.Exit<Outcome, LlmError.LlmError>) => {
  const error = failure(exit) as LlmError.Shed
  assert.strictEqual(error._tag, "Shed")
  return error
}

const refusals = (ledger: LlmEvent.Ledger | undefined) => ledger?.filter((event) => event._tag === "AttemptRefused")

const now = (fiber: Fiber.Fiber<Outcome, LlmError.LlmError>) =>
  Effect.map(TestClock.adjust(0), () => {
    const exit = fiber.pollUnsafe()
    assert.isDefined(exit)
    return exit
  })

/** Which calls the provider got, by what they asked, in order. */
const asked = (r: SetUp) =>
  Effect.map(
    r.providers[0]!.requests,
    (requests) => requests.map(({ request }) => /x\d|y\d|first|urgent/.exec(JSON.stringify(request.prompt))?.[0])
  )

const lines: ReadonlyArray<readonly [string, LlmConfig.Options, Parameters<typeof LlmClient.target>[1]]> = [
  ["bulkhead", { bulkhead: { maxConcurrent: 1 } }, {}],
  ["client bucket", { rateLimit: { capacity: 1, refillPerSecond: 1, queue: 100, maxWait: "5 minutes" } }, {}],
  ["target limits", {}, {
    limits: { limits: [{ dimension: "requests", limit: 1, per: "1 second" }], queue: 100, maxWait: "5 minutes" }
  }]
]

describe.each(lines)("the line of a %s", (name, options, target) => {
  const make = (scripts: readonly [Script, ...ReadonlyArray<Script>] = [slow()], more: LlmConfig.Options = {}) =>
    setUp(scripts, { ...shedding, ...options, ...more }, [target])

  it.effect.each(kinds)("S5, S7 its order: classes, and tenants in turn (%s)", (kind) =>
    vector(Effect.gen(function*() {
      const r = yield* make()
      const call = (prompt: string, priority?: Priority, tenant?: string) =>
        fork(ask(kind, r.client, { prompt, ...(priority && { priority }), ...(tenant && { tenant }) }))
      yield* call("first")
      for (const prompt of ["x1", "x2", "x3"]) yield* call(prompt, "batch", "x")
      yield* call("y1", "batch", "y")
      yield* call("urgent", "critical", "x")
      yield* TestClock.adjust("1 minute")
      assert.deepStrictEqual(yield* asked(r), ["first", "urgent", "x1", "y1", "x2", "x3"])
      yield* nothingHeld(r)
    })))

  const rows: ReadonlyArray<readonly [NonNullable<Priority>, number]> = [
    ["sheddable", 50],
    ["batch", 75],
    ["default", 90],
    ["critical", 100]
  ]
  it.effect.each(rows)(
    "S4, S8 %s: the door closes at a length of %i, and nothing is spent",
    ([priority, length]) =>
      vector(Effect.gen(function*() {
        const r = yield* make([slow(), slow(0)], { circuitBreaker: {} })
        const call = (p: Priority) => fork(ask("complete", r.client, { prompt: "Hi", priority: p ?? "default" }))
        for (let i = 0; i < length; i++) yield* call("critical")
        // One is served, the others wait: this one still finds the door open.
        const last = yield* call(priority)
        yield* TestClock.adjust(0)
        assert.isUndefined(last.pollUnsafe())
        const before = yield* r.client.status
        const error = shedOf(yield* now(yield* call(priority)))
        assert.strictEqual(error.reason, "queue-full")
        if (name !== "bulkhead") assert.isAtLeast(Duration.toMillis(error.retryAfter!), 1)
        const by = name === "bulkhead" ? "bulkhead" : "rate-limit"
        assert.deepInclude(refusals(error.ledger)?.[0], { target: "p", by, shed: "queue-full" })
        // Nothing is spent, no circuit has heard of it, and nobody else is asked.
        assert.deepStrictEqual(yield* r.client.status, before)
        assert.deepStrictEqual(yield* r.calls(1), [])
      }))
  )

  it.effect("without loadShedding there are no doors: what finds no room goes to the next target", () =>
    vector(Effect.gen(function*() {
      const full = name === "bulkhead"
        ? setUp([slow(), slow(0)], { bulkhead: { maxConcurrent: 1, queue: 1 }, retry: false })
        : undefined
      if (full === undefined) return
      const r = yield* full
      for (let i = 0; i < 2; i++) yield* fork(ask("complete", r.client))
      const third = yield* fork(ask("complete", r.client, { prompt: "Hi", priority: "sheddable" }))
      assert.strictEqual(success(yield* now(third)).target, "s")
    })))
})

describe("a wait that cannot meet its deadline", () => {
  it.effect("of a bucket: refused on arrival, with the time at which it could have gone", () =>
    vector(Effect.gen(function*() {
      const options = { ...shedding, timeout: {}, rateLimit: { capacity: 1, refillPerSecond: 0.5 } }
      const r = yield* setUp([slow(0), slow(0)], options)
      yield* ask("complete", r.client)
      const late = yield* fork(ask("complete", r.client, { prompt: "Hi", deadline: 1999 }))
      const error = shedOf(yield* now(late))
      assert.strictEqual(error.reason, "deadline")
      assert.strictEqual(Duration.toMillis(error.retryAfter!), 2000)
      assert.deepStrictEqual(yield* r.calls(1), [])
      // One that waits longer than the line allows is not shed: another target may serve it.
      const short = yield* setUp([slow(0)], { ...options, rateLimit: { ...options.rateLimit, maxWait: 1000 } })
      yield* ask("complete", short.client)
      assert.strictEqual(failure(yield* now(yield* fork(ask("complete", short.client))))._tag, "RateLimited")
    })))

  it.effect("of a bulkhead: by the pace of its line, once it has one", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([slow(1000)], { ...shedding, timeout: {}, bulkhead: { maxConcurrent: 1 } })
      const call = (deadline: number) => fork(ask("complete", r.client, { prompt: "Hi", deadline }))
      for (let i = 0; i < 6; i++) yield* call(60_000)
      // Nobody knows yet how fast it moves.
      const early = yield* call(1)
      yield* TestClock.adjust(0)
      assert.isUndefined(early.pollUnsafe())
      yield* TestClock.adjust(2000)
      // Three are ahead, one after the other.
      const error = shedOf(yield* now(yield* call(3999)))
      assert.deepStrictEqual([error.reason, Duration.toMillis(error.retryAfter!)], ["deadline", 4000])
      const inTime = yield* call(5500)
      yield* TestClock.adjust(5500)
      assert.isTrue(Exit.isSuccess(inTime.pollUnsafe()!))
      yield* nothingHeld(r)
    })))
})

it.effect("what a store can answer is not shed: a stale answer stands in for a call that is", () =>
  vector(Effect.gen(function*() {
    const r = yield* setUp([slow()], {
      ...shedding,
      cache: {},
      bulkhead: { maxConcurrent: 1, queue: 2 }
    })
    const known = { prompt: "known", priority: "sheddable" } as const
    const first = yield* fork(ask("complete", r.client, known))
    yield* TestClock.adjust(1000)
    assert.isTrue(Exit.isSuccess(first.pollUnsafe()!))
    for (const prompt of ["a", "b"]) yield* fork(ask("complete", r.client, prompt))
    assert.strictEqual(success(yield* now(yield* fork(ask("complete", r.client, known)))).source, "stale")
  })))

it.effect.each(kinds)(
  "whom a throttle turns away from one target, the next one answers (%s)",
  (kind) =>
    vector(Effect.gen(function*() {
      const scripts: readonly [Script, Script] = [{ always: ScriptedProvider.overloaded }, slow(0)]
      const r = yield* setUp(scripts, { loadShedding: {}, retry: false })
      let last: LlmEvent.Ledger = []
      for (let i = 0; i < 100; i++) last = (yield* ask(kind, r.client)).ledger
      assert.deepInclude(refusals(last)?.[0], { target: "p", by: "throttle", shed: "throttled" })
      const skipped = last.find(({ _tag }) => _tag === "TargetSkipped")
      assert.deepInclude(skipped, { target: "p", because: "throttled" })
    }))
)

describe("a throttle in front of a target", () => {
  const random = { nextDoubleUnsafe: () => 0.5 }

  /** A throttle that rejects so many of the calls, and what it is told. */
  const made = (isShadow: boolean, rejection: number, rejects = false) => {
    const counted: Array<readonly [boolean, number]> = []
    const asked: Array<unknown> = []
    const events: Array<unknown> = []
    const throttle: Throttle = {
      policy: { window: 60_000 } as Throttle["policy"],
      rejection: () => rejection,
      count: (isAccepted, now) => void counted.push([isAccepted, now]),
      rejects: (priority, dice, now) => {
        asked.push([priority, dice(), now])
        return rejects
      }
    }
    const door = inThrottle(throttle, isShadow)
    const root = {
      id: 3,
      context: Context.make(Random.Random, random as never),
      since: () => 5,
      emit: (event: unknown) => void events.push(event)
    }
    const acquire = (priority?: Priority, now = 7) => {
      const got = door.acquire({ now, request: { priority }, call: { root }, to: { id: "p" } } as never)
      return got as Exit.Exit<LlmGuard.Held, LlmError.Shed>
    }
    return { acquire, asked, counted, door, events }
  }
  const held = (exit: Exit.Exit<LlmGuard.Held, LlmError.Shed>): LlmGuard.Held => {
    assert.isTrue(Exit.isSuccess(exit))
    return Exit.isSuccess(exit) ? exit.value : {}
  }
  const outcome = (outcome: object) => outcome as LlmGuard.Outcome
  const failed = (reason: LlmError.Reason) =>
    outcome({ _tag: "Failed", now: 12, error: LlmError.providerError("p", { reason }) })

  it("counts what was accepted and what was not, and nothing of what says neither", () => {
    const { acquire, counted, door } = made(false, 0)
    assert.deepInclude(door, { name: "load-shedding", by: "throttle", failover: true, tellsAfter: 0 })
    const { settle } = held(acquire())
    settle?.(outcome({ _tag: "Succeeded", now: 11 }))
    settle?.(failed({ _tag: "Overloaded" }))
    settle?.(failed({ _tag: "InvalidRequest" }))
    settle?.(outcome({ _tag: "Ignored", by: "caller", now: 13 }))
    settle?.(outcome({ _tag: "NeverStarted", now: 14 }))
    assert.deepStrictEqual(counted, [[true, 11], [false, 12], [true, 12]])
  })

  it("asks with the call's own chance and urgency, and sheds whom it rejects", () => {
    const { acquire, asked, events } = made(false, 1, true)
    const exits = [acquire(), acquire("sheddable", 8)]
    assert.deepStrictEqual(asked, [["default", random, 7], ["sheddable", random, 8]])
    for (const exit of exits) {
      assert.isTrue(Exit.isFailure(exit))
      assert.deepInclude(Exit.isFailure(exit) && exit.cause.reasons[0], { _tag: "Fail" })
    }
    assert.deepStrictEqual(events, [])
  })

  it("that only watches admits all, tells whom it would reject, and counts these as rejected", () => {
    const { acquire, asked, counted, events } = made(true, 0.5)
    const helds = [1, 2, 3, 4].map((now) => held(acquire("default", now)))
    assert.deepStrictEqual(counted, [[false, 2], [false, 4]])
    const event = { _tag: "Shadowed", call: 3, at: 5, target: "p", by: "load-shedding", decision: "would-shed" }
    assert.deepStrictEqual(events, [event, event])
    assert.deepStrictEqual(helds.map(({ settle }) => settle !== undefined), [true, false, true, false])
    assert.deepStrictEqual(asked, [])
  })

  it("that only watches rejects nothing critical", () => {
    const { acquire, counted, events } = made(true, 1)
    held(acquire("critical"))
    assert.deepStrictEqual([counted, events], [[], []])
    held(acquire("default"))
    assert.deepStrictEqual([counted.length, events.length], [1, 1])
  })
})

describe("a door", () => {
  it("is open where there are none, and where somebody can be displaced", () => {
    const doors = LoadShedder.policy().doors
    assert.isDefined(doors)
    const line = (queued: number, displaces: boolean) => ({ queued, maxQueued: 10, displaces: () => displaces })
    const request = { prompt: "Hi" } as unknown as LlmRequest.LlmRequest
    assert.isTrue(isOpen(undefined, request, line(10, false)))
    assert.isTrue(isOpen(doors, request, line(0, false)))
    assert.isFalse(isOpen(doors, request, line(10, false)))
    assert.isTrue(isOpen(doors, request, line(10, true)))
  })

  it("says when to come again where that is known, in whole milliseconds", () => {
    assert.deepInclude(turnedAway("deadline", 1.2), { reason: "deadline", retryAfter: Duration.millis(2) })
    const unknown = turnedAway("queue-full", undefined)
    assert.deepStrictEqual([unknown.reason, unknown.retryAfter], ["queue-full", undefined])
    assert.isFalse(Object.hasOwn(unknown, "retryAfter"))
  })
})
