// The bracket round an attempt: what is held when a guard throws goes back, and refusals are told.
import { assert, describe, it } from "@effect/vitest"
import { Cause, Clock, Context, Deferred, Effect, Exit, type Fiber, Layer, Logger } from "effect"
import { LlmClient, LlmError, type LlmEvent, LlmGuard, type LlmProvider } from "effect-resilient-llm"
import { ScriptedProvider } from "effect-resilient-llm/testing"
import { TestClock } from "effect/testing"
import { ask, failure, fork, kinds, success, timed, vector, vectorOptions } from "../support.ts"

/** A client with these guards in front of one provider. */
const setUp = (...guards: ReadonlyArray<LlmGuard.Guard<never>>) =>
  Effect.gen(function*() {
    const provider = yield* ScriptedProvider.make([ScriptedProvider.always(ScriptedProvider.answer("Hi."))])
    const options = { ...vectorOptions, timeout: {}, retry: false, guards } as const
    const context = yield* Layer.build(LlmClient.layerDynamic([provider], options))
    return { client: Context.get(context, LlmClient), requests: provider.requests }
  })

describe.each(kinds)("a guard that throws when it is asked, %s", (kind) => {
  it.effect.each<[string, LlmGuard.Guard<never>["acquire"]]>([
    ["at once", () => {
      throw "thrown"
    }],
    ["as its effect runs", () => Effect.die("thrown")],
    ["later", () => Effect.delay(Effect.die("thrown"), 10)]
  ])("%s: a bug of the call, and what others gave goes back", ([, acquire]) =>
    vector(Effect.gen(function*() {
      const told: Array<string> = []
      const first: LlmGuard.Guard<never> = {
        name: "first",
        acquire: () =>
          Effect.succeed({
            settle: ({ _tag }) => void told.push(_tag),
            release: () => void told.push("released")
          })
      }
      const { client, requests } = yield* setUp(first, { name: "throws", acquire })
      const { exit } = yield* timed(ask(kind, client))
      assert.deepStrictEqual(Exit.isFailure(exit) && Cause.squash(exit.cause), "thrown")
      assert.deepStrictEqual([told, yield* requests], [["NeverStarted", "released"], []])
    })))
})

describe.each(kinds)("a refusal, %s", (kind) => {
  it.effect("of a user's guard is told with its name, counted from the beginning of its call", () =>
    vector(Effect.gen(function*() {
      const closed = Effect.fail(new LlmError.BulkheadFull({}))
      const door = LlmGuard.make("door", () => Effect.delay(closed, 40))
      const provider = yield* ScriptedProvider.make([])
      const context = yield* Layer.build(LlmClient.layerDynamic([provider], { ...vectorOptions, guards: [door] }))
      const { exit } = yield* timed(ask(kind, Context.get(context, LlmClient)))
      assert.deepStrictEqual<unknown>(failure(exit).ledger.filter(({ _tag }) => _tag === "AttemptRefused"), [
        { _tag: "AttemptRefused", call: 1, at: 40, target: provider.id, by: "guard", guard: "door" }
      ])
    })))

  it.effect("of a pattern of ours has no other name than that", () =>
    vector(Effect.gen(function*() {
      const provider = yield* ScriptedProvider.make([ScriptedProvider.hang])
      const options = { ...vectorOptions, bulkhead: { maxConcurrent: 1, queue: 0 } }
      const context = yield* Layer.build(LlmClient.layerDynamic([provider], options))
      const client = Context.get(context, LlmClient)
      yield* fork(ask(kind, client))
      const { exit } = yield* timed(ask(kind, client), 0)
      assert.deepStrictEqual<unknown>(failure(exit).ledger.filter(({ _tag }) => _tag === "AttemptRefused"), [
        { _tag: "AttemptRefused", call: 2, at: 0, target: provider.id, by: "bulkhead" }
      ])
    })))
})

describe.each(kinds)("a wait, %s", (kind) => {
  const waits = (ledger: LlmEvent.Ledger) => ledger.filter(({ _tag }) => _tag === "Waited")

  it.effect("for a user's guard is told with its name, if it took more than a millisecond", () =>
    vector(Effect.gen(function*() {
      for (const millis of [0, 1, 2]) {
        const { client } = yield* setUp(LlmGuard.make("door", () => Effect.sleep(millis)))
        const { ledger } = success((yield* timed(ask(kind, client))).exit)
        assert.deepStrictEqual<unknown>(
          waits(ledger),
          millis < 2 ? [] : [
            { _tag: "Waited", call: 1, at: 2, target: "scripted", for: "guard", guard: "door", duration: 2 }
          ]
        )
      }
    })))

  it.effect.each(
    [
      ["bulkhead", { bulkhead: { maxConcurrent: 1, maxWait: "1 minute" } }, 500],
      ["rate-limit", { limits: { capacity: 1, refillPerSecond: 1, maxWait: "1 minute" } }, 1000]
    ] as const
  )(
    "for a pattern of ours has no other name than that: %s",
    ([name, settings, duration]) =>
      vector(Effect.gen(function*() {
        const provider = yield* ScriptedProvider.make([
          ScriptedProvider.always(ScriptedProvider.answer("Hi.", { delay: 500 }))
        ])
        const context = yield* Layer.build(LlmClient.layerDynamic([{ provider, ...settings }], vectorOptions))
        const client = Context.get(context, LlmClient)
        yield* fork(ask(kind, client))
        const { ledger } = success((yield* timed(ask(kind, client))).exit)
        assert.deepStrictEqual<unknown>(waits(ledger), [
          { _tag: "Waited", call: 2, at: duration, target: "scripted", for: name, duration }
        ])
      }))
  )
})

describe.each(kinds)("an open circuit, %s", (kind) => {
  it.effect("refuses before any guard is asked", () =>
    vector(Effect.gen(function*() {
      let asked = 0
      const door = LlmGuard.make("door", () => Effect.sync(() => void (asked += 1)))
      const provider = yield* ScriptedProvider.make([ScriptedProvider.always(ScriptedProvider.overloaded)])
      const circuitBreaker = { failureThreshold: 1 }
      const options = { ...vectorOptions, retry: false, circuitBreaker, guards: [door] } as const
      const context = yield* Layer.build(LlmClient.layerDynamic([provider], options))
      const call = timed(ask(kind, Context.get(context, LlmClient)), 0)
      assert.strictEqual(failure((yield* call).exit)._tag, "ProviderError")
      const refused = failure((yield* call).exit)
      assert.deepStrictEqual([refused._tag, asked], ["CircuitOpen", 1])
      assert.deepStrictEqual<unknown>(refused.ledger.filter(({ _tag }) => _tag === "AttemptRefused"), [
        { _tag: "AttemptRefused", call: 2, at: 0, target: provider.id, by: "circuit-breaker" }
      ])
    })))
})

describe.each(kinds)("a guard that waits longer than its target has, %s", (kind) => {
  it.effect("is the target's failure to answer in time, and the next one is asked", () =>
    vector(Effect.gen(function*() {
      const named = (id: string) => ScriptedProvider.make([ScriptedProvider.answer(`I am ${id}.`)], { id })
      const [first, second] = [yield* named("first"), yield* named("second")]
      let interrupted = 0
      const door = LlmGuard.make(
        "door",
        ({ target }) =>
          target === "first"
            ? Effect.onInterrupt(Effect.never, () => Effect.sync(() => void (interrupted += 1)))
            : Effect.void,
        { failover: true }
      )
      const context = yield* Layer.build(
        LlmClient.layerDynamic([first, second], { ...vectorOptions, timeout: {}, retry: false, guards: [door] })
      )
      const { at, exit } = yield* timed(ask(kind, Context.get(context, LlmClient), { prompt: "Hi", deadline: 1000 }))
      assert.deepStrictEqual([at, success(exit).text, interrupted], [500, "I am second.", 1])
    })))
})

describe.each(kinds)("a guard that waits for all that its target has, %s", (kind) => {
  it.effect("and refuses for good: the call fails as a target that did not answer in time", () =>
    vector(Effect.gen(function*() {
      const named = (id: string) => ScriptedProvider.make([ScriptedProvider.answer(`I am ${id}.`)], { id })
      const door = LlmGuard.make("door", () => Effect.never)
      const options = { ...vectorOptions, timeout: {}, retry: false, guards: [door] } as const
      const targets = [yield* named("first"), yield* named("second")] as const
      const { client } = yield* Effect.map(Layer.build(LlmClient.layerDynamic(targets, options)), (context) => ({
        client: Context.get(context, LlmClient)
      }))
      const { at, exit } = yield* timed(ask(kind, client, { prompt: "Hi", deadline: 1000 }))
      assert.deepStrictEqual([failure(exit)._tag, at], ["AttemptTimeout", 500])
    })))

  it.effect("and lets it pass when the time of its call is up: nobody is asked", () =>
    vector(Effect.gen(function*() {
      const gate = yield* Deferred.make<void>()
      const { client, requests } = yield* setUp(LlmGuard.make("gate", () => Deferred.await(gate)))
      // The timer has not had its turn.
      const late = Object.assign(Object.create(yield* Clock.Clock) as Clock.Clock, { sleep: () => Effect.never })
      const call = ask(kind, client, { prompt: "Hi", deadline: 200 })
      const asking = yield* fork(Effect.provideService(call, Clock.Clock, late))
      yield* TestClock.adjust(200)
      yield* Deferred.succeed(gate, undefined)
      const exit = asking.pollUnsafe()
      assert.isDefined(exit)
      assert.deepStrictEqual([failure(exit)._tag, yield* requests], ["DeadlineExceeded", []])
    })))
})

describe.each(kinds)("who is asked, %s", (kind) => {
  it.effect("a guard's provider in the place of the target's; of several guards the first one's", () =>
    vector(Effect.gen(function*() {
      const named = (id: string) => ScriptedProvider.make([ScriptedProvider.answer(`I am ${id}.`)], { id })
      const [first, second] = [yield* named("first"), yield* named("second")]
      const choosing = (provider: LlmProvider.LlmProvider): LlmGuard.Guard<never> => ({
        name: provider.id,
        acquire: () => Effect.succeed({ provider })
      })
      const { client, requests } = yield* setUp(
        LlmGuard.make("door", () => Effect.void),
        choosing(first),
        choosing(second)
      )
      assert.strictEqual(success((yield* timed(ask(kind, client))).exit).text, "I am first.")
      assert.deepStrictEqual([yield* requests, yield* second.requests], [[], []])
    })))
})

describe("a permit that comes in the very step in which its call is left", () => {
  /** The call is left after 10 ms, when the wait for its guard has ended and nobody has heard of that; what is logged. */
  const left = (held: LlmGuard.Held | undefined) =>
    Effect.gen(function*() {
      let call: Fiber.Fiber<unknown, unknown> | undefined
      const guard: LlmGuard.Guard<never> = {
        name: "late",
        acquire: () =>
          Effect.withFiber((fiber) => {
            fiber.addObserver(() => call?.interruptUnsafe())
            return held === undefined ? Effect.never : Effect.as(Effect.sleep(10), held)
          })
      }
      const logged: Array<string> = []
      const logger = Logger.make(({ message }) => void logged.push(String(message)))
      const { client, requests } = yield* Effect.provide(setUp(guard), Logger.layer([logger]))
      call = yield* fork(ask("complete", client))
      yield* TestClock.adjust(10)
      if (held === undefined) call.interruptUnsafe()
      const exit = call.pollUnsafe()
      assert.isTrue(exit !== undefined && Exit.hasInterrupts(exit))
      assert.deepStrictEqual(yield* requests, [])
      return logged
    })

  it.effect("goes back: nobody was asked", () =>
    vector(Effect.gen(function*() {
      const told: Array<string> = []
      const held: LlmGuard.Held = {
        settle: ({ _tag }) => {
          told.push(_tag)
          return Effect.sync(() => void told.push("settled"))
        },
        release: () => void told.push("released")
      }
      assert.deepStrictEqual([yield* left(held), told], [[], ["NeverStarted", "settled", "released"]])
    })))

  it.effect("has nothing to give back where nothing is held, and what throws then is reported", () =>
    vector(Effect.gen(function*() {
      const settle = () => {
        throw new Error("thrown")
      }
      for (const held of [undefined, {}]) assert.deepStrictEqual(yield* left(held), [])
      assert.deepStrictEqual(yield* left({ settle }), ["A guard or a store threw; the call went on"])
    })))
})

describe("a permit that comes when its call has ended", () => {
  /** Half a second that nobody can shorten, and the permit. */
  const late = (told: Array<string>): LlmGuard.Guard<never> => ({
    name: "late",
    acquire: () =>
      Effect.uninterruptible(Effect.as(Effect.sleep(500), {
        settle: ({ _tag }: LlmGuard.Outcome) => void told.push(_tag),
        release: () => void told.push("released")
      }))
  })

  it.effect("out of a wait that cannot be interrupted, is dropped by Effect, as the guard's documentation says", () =>
    vector(Effect.gen(function*() {
      const told: Array<string> = []
      const { client } = yield* setUp(late(told))
      const { at, exit } = yield* timed(client.complete({ prompt: "Hi", deadline: 200 }), 1000)
      assert.strictEqual(failure(exit)._tag, "DeadlineExceeded")
      assert.deepStrictEqual([at, told], [200, []])
    })))
})
