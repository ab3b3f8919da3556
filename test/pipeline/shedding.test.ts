// The lines of bulkhead, client bucket and target limits in the whole pipeline: their order, and who may join them.
import { assert, describe, it } from "@effect/vitest"
import { Duration, Effect, Exit, type Fiber } from "effect"
import type { LlmClient, LlmConfig, LlmError, LlmEvent, LlmRequest } from "effect-resilient-llm"
import { ScriptedProvider } from "effect-resilient-llm/testing"
import { TestClock } from "effect/testing"
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
