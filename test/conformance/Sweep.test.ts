// E11: one call interrupted everywhere: at every millisecond of its life, and after every yield of it.
import { assert, describe, it } from "@effect/vitest"
import { Cause, Effect, Exit, Scope, Stream } from "effect"
import type { LlmConfig, LlmEvent } from "effect-resilient-llm"
import { Timeout } from "effect-resilient-llm/resilience"
import { ScriptedProvider } from "effect-resilient-llm/testing"
import { TestClock } from "effect/testing"
import { ask, fork, type Kind, kinds, nothingHeld, type SetUp, setUp, success, vector } from "../support.ts"
import {
  always,
  assertInterrupted,
  breaker,
  find,
  interrupt,
  over,
  overloads,
  recorded,
  setUpWith,
  start,
  succeeds,
  timers,
  word
} from "./support.ts"
import { World } from "./Sweep.world.ts"

/** A purse, buckets and permits that hold exactly what is said, and get nothing by time. */
const exactly = (held: {
  readonly retries: number
  readonly tokens: number
}) =>
  ({
    retryBudget: { capacity: held.retries, perAttempt: 0, perSecond: 0 },
    rateLimit: { capacity: held.tokens, refillPerSecond: 1e-6, maxWait: 0 },
    circuitBreaker: breaker,
    timeout: timers,
    idempotency: {},
    cache: {},
    bulkhead: { maxConcurrent: 1, queue: 10 }
  }) as const satisfies LlmConfig.Options

const perDay = (limit: number) => ({ limits: [{ dimension: "requests", limit, per: "1 day" }] }) as const

const question = { prompt: "What is AI?", idempotencyKey: "k" }
const other = { prompt: "Another question" }

// -----------------------------------------------------------------------------
// every millisecond
// -----------------------------------------------------------------------------

/** E1's first request asks p at 0, 375 and 1125, and is answered by s at 1125. */
const starts = [0, 375, 1125]

/**
 * Interrupts it at `at`, before or after whatever else happens in that millisecond. Everything is scarce: what the
 * interrupted call has launched is gone, and what is left is just enough for one more such call.
 */
const interruptedAt = (kind: Kind, at: number, first: boolean) =>
  vector(Effect.gen(function*() {
    const where = `${first ? "first" : "last"} at ${at}`
    const asked = starts.filter((start) => first ? start < at : start <= at)
    const all = exactly({ retries: asked.length - 1 + 2, tokens: asked.length + 4 })
    const r = yield* setUp([always(overloads), always(succeeds)], all, [perDay(asked.length + 3), perDay(1)])
    const events = yield* recorded(r)
    let call: ReturnType<typeof interrupt> = Effect.void
    // Who sleeps first wakes first.
    if (first) yield* fork(Effect.delay(Effect.suspend(() => call), at))
    const running = yield* start(ask(kind, r.client, question))
    call = Effect.sync(() => running.fiber.interruptUnsafe())
    yield* TestClock.adjust(at)
    if (!first) yield* interrupt(running)
    assertInterrupted(running, at)
    yield* nothingHeld(r)
    const { targets: [p, s] } = yield* r.client.status
    // Attempts that have ended count; nothing else does.
    assert.deepInclude(p?.circuit, { state: "closed", calls: asked.length, failures: asked.length }, where)
    assert.deepInclude(s?.circuit, { calls: 0, streak: 0 }, where)
    assert.deepStrictEqual(yield* r.calls(0), asked, where)
    assert.strictEqual(find(events, "CallEnded").map((event) => event.outcome).join(), "interrupted", where)

    const next = yield* start(ask(kind, r.client, other))
    yield* TestClock.adjust(1125)
    assert.strictEqual(success(over(next)).target, "s", where)
    // With two failures before, its third one opens p: no further sleep was due anyway.
    assert.deepStrictEqual((yield* r.calls(0)).slice(asked.length), starts.map((start) => start + at), where)
    assert.deepStrictEqual(yield* r.calls(1), [at + 1125], where)
    assert.strictEqual(word(yield* Effect.flip(ask(kind, r.client, { prompt: "A third" }))), "RateLimited", where)
    yield* nothingHeld(r)
  })).pipe(Effect.provide(TestClock.layer()))

describe.each(kinds)("%s", (kind) => {
  const everywhere = Array.from({ length: 1125 }, (_, at) => at)
  it.effect(
    "E11 interrupted at every millisecond 0…1124, after what happens then",
    () => Effect.forEach(everywhere, (at) => interruptedAt(kind, at, false), { discard: true })
  )

  it.effect("E11 interrupted before what happens in the same millisecond, up to 1125", () =>
    Effect.forEach([1, 374, 375, 376, 1124, 1125], (at) => interruptedAt(kind, at, true), { discard: true }))
})

// -----------------------------------------------------------------------------
// every yield
// -----------------------------------------------------------------------------

/** Tokens for all targets, and for p alone: more than the callers below can use up. */
const BUCKET = 9
const LIMIT = 7

/** A target that answers `question` and everything else by scripts of their own, so that no caller changes another's. */
const byQuestion = (id: string, forQuestion: ReadonlyArray<ScriptedProvider.Step>, others: ScriptedProvider.Step) =>
  Effect.gen(function*() {
    const one = yield* ScriptedProvider.make([...forQuestion, ScriptedProvider.always(answerOf(question.prompt))], {
      id
    })
    const two = yield* ScriptedProvider.make([ScriptedProvider.always(others)], { id })
    const flaky = yield* ScriptedProvider.make([overloads, ScriptedProvider.always(succeeds)], { id })
    const drain = yield* ScriptedProvider.make([ScriptedProvider.always(succeeds)], { id })
    const all = [one, two, flaky, drain]
    const pick = (request: { readonly prompt: unknown }) => {
      const text = JSON.stringify(request.prompt)
      const i = [question, other, flakyQuestion, drainQuestion].findIndex(({ prompt }) => text.includes(prompt))
      return all[i]!
    }
    return {
      ...one,
      generate: (request) => pick(request).generate(request),
      stream: (request) => pick(request).stream(request),
      active: Effect.map(
        Effect.forEach(all, (provider) => provider.active),
        (counts) => counts.reduce((a, b) => a + b, 0)
      ),
      requests: Effect.map(Effect.forEach(all, (provider) => provider.requests), (requests) => requests.flat())
    } satisfies ScriptedProvider.ScriptedProvider
  })

const answerOf = (text: string): ScriptedProvider.Step => ({
  ...ScriptedProvider.stream(text, { wait: 100 }, "!"),
  delay: 10
})
const flakyQuestion = { prompt: "Once more?", cache: "never" } as const
const drainQuestion = { prompt: "Anything left?", cache: "never" } as const

interface Tally {
  interrupted: number
  late: number
  unsent: number
}

/**
 * The victim fails once, waits, and asks again; its companion asks at the same time, behind the same single permit, for
 * something else or (keyed) for the same under the same key. The victim is interrupted after `steps` yields of both.
 */
const sweepRun = (kind: Kind, keyed: boolean, budget: number, steps: number, tally: Tally): boolean => {
  const where = `budget ${budget}, step ${steps}`
  const world = new World()
  const scope = Scope.makeUnsafe()
  const build: Effect.Effect<SetUp> = Effect.orDie(Scope.provide(
    Effect.gen(function*() {
      const p = yield* byQuestion("p", [{ ...overloads, delay: 10 }], answerOf(other.prompt))
      const s = yield* byQuestion("s", [], answerOf(other.prompt))
      return yield* setUpWith([p, s], exactly({ retries: 1, tokens: BUCKET }), [perDay(LIMIT), {}])
    }),
    scope
  ))
  const r = world.run(build)
  const events: Array<LlmEvent.LlmEvent> = []
  const listener = world.watch(Stream.runForEach(r.client.events, (event) => Effect.sync(() => events.push(event))))
  const startedBy = (target?: string) =>
    find(events, "AttemptStarted").filter((event) => target === undefined || event.target === target)

  const mine = keyed ? question : { prompt: question.prompt }
  const victim = world.fork(ask(kind, r.client, mine), budget)
  const companion = world.fork(ask(kind, r.client, keyed ? question : other), budget)
  for (let i = 0; i < steps && victim.pollUnsafe() === undefined; i++) world.step()
  const before = victim.pollUnsafe()
  victim.interruptUnsafe()
  world.until(victim, companion)
  listener.caughtUp()

  const exit = victim.pollUnsafe()
  if (before === undefined) {
    assert.isTrue(exit !== undefined && Exit.isFailure(exit) && Cause.hasInterruptsOnly(exit.cause), where)
    tally.interrupted += 1
  } else {
    success(before)
    tally.late += 1
  }

  // The companion has its answer: its own, or that of the call they share.
  const answer = success(companion.pollUnsafe()!)
  assert.strictEqual(answer.text, `${(keyed ? question : other).prompt}!`, where)

  // Nothing is held.
  assert.deepStrictEqual(world.held, { sleeps: 0, fibers: 0 }, where)
  const idle = world.run(Effect.gen(function*() {
    const { targets: [p, s] } = yield* r.client.status
    for (const provider of r.providers) assert.strictEqual(yield* provider.active, 0, where)
    for (const target of [p, s]) {
      assert.deepInclude(target?.bulkhead, { inUse: 0, queued: 0 }, where)
      assert.strictEqual(target?.circuit?.probes, 0, where)
    }
    return { p, s }
  }))

  // Only attempts that came to an end of their own count.
  for (const target of ["p", "s"] as const) {
    const ended = events.filter((event) =>
      (event._tag === "AttemptSucceeded" || (event._tag === "AttemptFailed" && event.outcome === "failure")) &&
      event.target === target
    ).length
    assert.deepInclude(idle[target]?.circuit, { state: "closed", calls: ended }, `${target} ${where}`)
  }

  // One call that needs the purse: it is empty only if a retry was launched.
  const retried = startedBy("p").length - new Set(startedBy("p").map((event) => event.call)).size
  assert.isAtMost(retried, 1, where)
  const flaky = success(world.finish(ask(kind, r.client, flakyQuestion)))
  assert.strictEqual(flaky.target, retried === 0 ? "p" : "s", where)

  // Calls until nothing is left: each attempt that began has paid one token, and no other has.
  for (let i = 0;; i++) {
    assert.isBelow(i, BUCKET, where)
    const last = world.finish(ask("complete", r.client, drainQuestion))
    if (Exit.isSuccess(last)) continue
    assert.strictEqual(word(Cause.squash(last.cause) as Parameters<typeof word>[0]), "RateLimited", where)
    break
  }
  listener.caughtUp()
  assert.deepStrictEqual([startedBy("p").length, startedBy().length], [LIMIT, BUCKET], where)
  tally.unsent += BUCKET - world.run(Effect.map(
    Effect.forEach(r.providers, (provider) => provider.requests),
    (requests) => requests.flat().length
  ))

  // Each attempt and each call has one end.
  const ends = events.filter((event) =>
    event._tag === "AttemptSucceeded" || event._tag === "AttemptFailed" || event._tag === "AttemptInterrupted"
  )
  assert.strictEqual(ends.length, BUCKET, where)
  assert.strictEqual(find(events, "CallEnded").length, find(events, "CallStarted").length, where)
  listener.stop()
  world.run(Scope.close(scope, Exit.void))
  return before === undefined
}

describe.each(kinds)("%s, every pattern on", (kind) => {
  it.each([false, true])("E11 interrupted after every yield, budgets 3…64 (key given: %s)", (keyed) => {
    const tally: Tally = { interrupted: 0, late: 0, unsent: 0 }
    for (let budget = 3; budget <= 64; budget++) {
      for (let steps = 0; sweepRun(kind, keyed, budget, steps, tally); steps++);
    }
    assert.strictEqual(tally.late, 62)
    // Not an empty sweep: a call yields about 15 times per budget on average.
    assert.isAbove(tally.interrupted, 14 * 62)
    // Begun, but interrupted before the provider's first step: who knows? Such an attempt keeps what it has paid.
    assert.isBelow(tally.unsent, tally.interrupted / 4)
  })
})

// What these sweeps have found, in its smallest form.
describe("found by sweeping", () => {
  it.effect("a consumer that is interrupted while its finished stream is being closed leaves no permit", () =>
    vector(Effect.gen(function*() {
      const slow = ScriptedProvider.stream("a", { wait: 1 }, "b")
      const r = yield* setUp([always({ ...slow, cleanup: 1000 })], { bulkhead: { maxConcurrent: 1 } })
      const call = yield* start(ask("stream", r.client))
      yield* TestClock.adjust(500)
      call.fiber.interruptUnsafe()
      yield* TestClock.adjust(1000)
      assert.isDefined(call.exit())
      yield* nothingHeld(r)
    })))

  it("neither does one that is interrupted at any yield", () => {
    const stream = ScriptedProvider.stream("a", { wait: 1 }, "b")
    for (let budget = 3; budget < 20; budget++) {
      for (let steps = 0, running = true; running; steps++) {
        const world = new World()
        const client = Scope.provide(setUp([always(stream)], { bulkhead: { maxConcurrent: 1 } }), Scope.makeUnsafe())
        const r = world.run(Effect.orDie(client))
        const call = world.fork(ask("stream", r.client), budget)
        for (let i = 0; i < steps && call.pollUnsafe() === undefined; i++) world.step()
        running = call.pollUnsafe() === undefined
        call.interruptUnsafe()
        world.until(call)
        const { targets: [p] } = world.run(r.client.status)
        const held = [p?.bulkhead?.inUse, world.run(r.providers[0]!.active)]
        assert.deepStrictEqual(held, [0, 0], `budget ${budget}, step ${steps}`)
      }
    }
  })

  it("work that ends while its timer is being set leaves no timer", () => {
    for (let budget = 3; budget <= 64; budget++) {
      const world = new World()
      const bounded = world.fork(Timeout.bounded(Effect.yieldNow, () => 1000, () => "late"), budget)
      world.until(bounded)
      assert.deepStrictEqual(world.held, { sleeps: 0, fibers: 0 }, `budget ${budget}`)
    }
  })
})
