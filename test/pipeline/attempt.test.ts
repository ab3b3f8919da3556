// One attempt: what it holds goes back, whatever throws.
import { assert, describe, it } from "@effect/vitest"
import { Cause, Clock, Context, Duration, Effect, Exit, Fiber, Layer, Logger, Stream } from "effect"
import {
  LlmClient,
  type LlmConfig,
  type LlmEvent,
  LlmGuard,
  LlmObserver,
  LlmProvider,
  type LlmRequest,
  type LlmResponse
} from "effect-resilient-llm"
import { Bulkhead, RateLimiter } from "effect-resilient-llm/resilience"
import { ScriptedProvider } from "effect-resilient-llm/testing"
import { TestClock } from "effect/testing"
import { ask, failure, fork, kinds, type Script, setUp, success, timed, vector, vectorOptions } from "../support.ts"

/** A client of one provider, with one permit and every token in sight. */
const clientOf = (
  last: LlmResponse.Part & LlmResponse.StreamPart,
  options: LlmConfig.Options = {}
) =>
  Effect.map(
    Layer.build(LlmClient.layerDynamic(
      [{
        provider: LlmProvider.make({
          id: "p",
          generate: () => Effect.succeed([{ type: "text", text: "Hello." }, last]),
          stream: () => Stream.make({ type: "text-delta", id: "0", delta: "Hello." }, last)
        }),
        limits: [{ dimension: "tokens", limit: 1e6, per: "1 minute" }]
      }],
      { bulkhead: { maxConcurrent: 1, queue: 0 }, retry: false, ...options }
    )),
    (context) => Context.get(context, LlmClient)
  )

const finishWith = (usage: unknown) =>
  ({ type: "finish", reason: "stop", usage }) as LlmResponse.Part & LlmResponse.StreamPart
describe.each(kinds)("%s", (kind) => {
  it.effect("a prompt nested too deeply for a recursion neither kills the call nor keeps its permit", () =>
    vector(Effect.gen(function*() {
      const client = yield* clientOf(finishWith({ inputTokens: {}, outputTokens: {} }))
      const result: unknown = JSON.parse("[".repeat(14_000) + "]".repeat(14_000))
      const input: LlmRequest.Input = {
        prompt: [{ role: "tool", content: [{ type: "tool-result", id: "1", name: "t", isFailure: false, result }] }],
        cache: "never"
      }
      yield* Effect.exit(ask(kind, client, input))
      assert.strictEqual((yield* client.status).targets[0]!.bulkhead?.inUse, 0)
    })))

  it.effect.each([undefined, null, {}, { outputTokens: {} }, { inputTokens: null, outputTokens: 3 }])(
    "a finish part with the usage %j is an answer whose usage is not known",
    (usage) =>
      vector(Effect.gen(function*() {
        const client = yield* clientOf(finishWith(usage))
        for (let i = 0; i < 2; i++) {
          const { ledger } = yield* ask(kind, client)
          assert.strictEqual(ledger.filter(({ _tag }) => _tag === "AttemptSucceeded").length, 1)
          assert.strictEqual((yield* client.status).targets[0]!.bulkhead?.inUse, 0)
        }
        const response = yield* client.complete("Hi")
        assert.deepStrictEqual(response.usage, { inputTokens: {}, outputTokens: {} })
      }))
  )

  it.effect("an answer that throws when it is read is a defect, not a success, and gives its permit back", () =>
    vector(Effect.gen(function*() {
      const trap = Object.defineProperty(finishWith({ inputTokens: {}, outputTokens: {} }), "usage", {
        enumerable: true,
        get: () => {
          throw new Error("trapped")
        }
      })
      const client = yield* clientOf(trap, { circuitBreaker: { failureThreshold: 1 } })
      const exit = yield* Effect.exit(ask(kind, client))
      assert.isTrue(Exit.isFailure(exit) && Cause.hasDies(exit.cause))
      const target = (yield* client.status).targets[0]!
      assert.strictEqual(target.bulkhead?.inUse, 0)
      assert.strictEqual(target.circuit?.calls, 0)
    })))
})

describe("onAcquired that throws", () => {
  const onAcquired = (): never => {
    throw new Error("thrown")
  }
  const isDefect = (exit: Exit.Exit<unknown, unknown>) => Exit.isFailure(exit) && Cause.hasDies(exit.cause)

  it.effect("leaves the bulkhead's permit where it was", () =>
    Effect.gen(function*() {
      const bulkhead = yield* Bulkhead.make({ maxConcurrent: 1 })
      assert.isTrue(isDefect(yield* Effect.exit(bulkhead.acquire({ onAcquired }))))
      assert.strictEqual((yield* bulkhead.snapshot).inUse, 0)
    }))

  it.effect("leaves the permit of one that waited, too", () =>
    Effect.gen(function*() {
      const bulkhead = yield* Bulkhead.make({ maxConcurrent: 1 })
      const first = yield* bulkhead.acquire()
      const second = yield* Effect.forkChild(Effect.exit(bulkhead.acquire({ onAcquired })), { startImmediately: true })
      first.releaseUnsafe()
      assert.isTrue(isDefect(yield* Fiber.join(second)))
      assert.strictEqual((yield* bulkhead.snapshot).inUse, 0)
    }))

  it.effect("leaves the tokens where they were", () =>
    Effect.gen(function*() {
      const limiter = yield* RateLimiter.make({ capacity: 2, refillPerSecond: 1 })
      assert.isTrue(isDefect(yield* Effect.exit(limiter.acquire(1, { onAcquired }))))
      assert.deepStrictEqual((yield* limiter.snapshot).levels, { requests: 2 })
    }))
})

describe("A5: an answer that says nothing", () => {
  const usage = { inputTokens: { total: 1 }, outputTokens: { total: 1 } } as never
  const says = (text: string, reasoning: string, reason: "stop" | "length" = "stop") =>
    ScriptedProvider.answer([
      ...(reasoning === "" ? [] : [{ type: "reasoning" as const, text: reasoning }]),
      ...(text === "" ? [] : [{ type: "text" as const, text }]),
      { type: "finish", reason, usage }
    ])
  const input = { prompt: "Hi", idempotencyKey: "k", cache: "always" } as const
  const keeping = { retry: false, idempotency: {}, cache: { readThrough: true } } as const

  it.effect.each([["", "Hm"], [" \n", ""], ["\t", "Hm"]] as const)(
    "text %j and reasoning %j: whole, the next target answers",
    ([text, reasoning]) =>
      vector(Effect.gen(function*() {
        const alone = yield* setUp([[says(text, reasoning), ScriptedProvider.answer("Hello.")]], keeping)
        const { exit } = yield* timed(ask("complete", alone.client, input))
        const error = failure(exit)
        assert.strictEqual(error._tag === "ProviderError" ? error.reason._tag : error._tag, "MalformedResponse")
        // It is not kept, neither under its key nor for its question.
        const again = yield* timed(ask("complete", alone.client, input))
        assert.strictEqual(success(again.exit).text, "Hello.")
        const two = yield* setUp([[says(text, reasoning)], [ScriptedProvider.answer("Hello.")]], keeping)
        assert.strictEqual(success((yield* timed(ask("complete", two.client, input))).exit).target, "s")
      }))
  )

  it.effect("a stream that reasoning has begun ends as it came, and is not kept", () =>
    vector(Effect.gen(function*() {
      const thinking = ScriptedProvider.stream(
        { type: "reasoning-start", id: "0" },
        { type: "reasoning-delta", id: "0", delta: "Hm" },
        { wait: 100 },
        { type: "reasoning-end", id: "0" },
        { type: "finish", reason: "stop", usage }
      )
      const r = yield* setUp([[thinking, ScriptedProvider.answer("Hello.")], [ScriptedProvider.answer("s")]], keeping)
      const first = success((yield* timed(ask("stream", r.client, input))).exit)
      assert.deepStrictEqual([first.target, first.text, first.source], ["p", "", "provider"])
      const second = success((yield* timed(ask("stream", r.client, input))).exit)
      assert.deepStrictEqual([second.text, second.source], ["Hello.", "provider"])
    })))

  it.effect.each(kinds)("%s: one that had no room is an answer", (kind) =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([[says("", "Hm", "length")], [ScriptedProvider.answer("s")]], keeping)
      assert.strictEqual(success((yield* timed(ask(kind, r.client, input))).exit).target, "p")
    })))
})

describe.each(kinds)("%s", (kind) => {
  it.effect("callers whose time went into waiting do not open the breaker of a healthy provider", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([{ always: { ...ScriptedProvider.answer("x"), delay: 500 } }], {
        circuitBreaker: {},
        timeout: {},
        bulkhead: { maxConcurrent: 1 }
      })
      for (let i = 0; i < 6; i++) {
        // Most of its time it waits for the permit of another call; the provider has 40 ms of 100.
        const other = yield* fork(ask(kind, r.client, { prompt: "Hi" }))
        yield* TestClock.adjust(440)
        const { at, exit } = yield* timed(ask(kind, r.client, { prompt: "Hi", deadline: 100 }), 1000)
        assert.strictEqual(failure(exit)._tag, "DeadlineExceeded")
        assert.strictEqual(at, 100)
        yield* Fiber.join(other)
      }
      const { targets: [status] } = yield* r.client.status
      assert.strictEqual(status?.circuit?.state, "closed")
    })))
})

/** One target, and one guard on its attempts that notes what it is told; times are milliseconds since the test began. */
const watched = (
  script: Script,
  options: LlmConfig.Options = {},
  more: {
    readonly held?: LlmGuard.Held
    readonly wait?: number
    readonly provider?: (own: LlmProvider.LlmProvider) => LlmProvider.LlmProvider
  } = {}
) =>
  Effect.gen(function*() {
    const began = Number(yield* Clock.monotonicTimeNanos) / 1e6
    const outcomes: Array<Record<string, unknown>> = []
    const asks: Array<LlmGuard.Ask> = []
    const logged: Array<unknown> = []
    const heard: Array<LlmEvent.LlmEvent> = []
    const watching: LlmGuard.Guard<never> = {
      name: "watching",
      acquire: (ask) => {
        asks.push(ask)
        const held: LlmGuard.Held = {
          ...more.held,
          settle: (outcome) => {
            const { _tag, now } = outcome
            const { by, duration, limits, retryAfter, sent, usage } = outcome as never
            outcomes.push({ _tag, at: now - began, duration, by, limits, retryAfter, sent, usage })
            return more.held?.settle?.(outcome)
          }
        }
        return Effect.as(ask.restore(Effect.sleep(more.wait ?? 0)), held)
      }
    }
    const { always, steps } = "always" in script ? { ...script, steps: script.script ?? [] } : { steps: script }
    const own = yield* ScriptedProvider.make(
      always === undefined ? steps : [...steps, ScriptedProvider.always(always)],
      { id: "p" }
    )
    const provider = more.provider?.(own) ?? own
    const context = yield* Layer.build(Layer.provide(
      LlmClient.layerDynamic([{ id: "p", provider }], {
        ...vectorOptions,
        ...options,
        // The second one holds nothing.
        guards: [watching, LlmGuard.make("passing", () => Effect.void)]
      }),
      [
        LlmObserver.layer(() => Effect.succeed((event) => void heard.push(event))),
        Logger.layer([
          Logger.make(({ cause, message }) => void logged.push([message, Cause.squash(cause)].flat()))
        ])
      ]
    ))
    const attempts = () => heard.filter((event) => event._tag.startsWith("Attempt"))
    return { client: Context.get(context, LlmClient), own, outcomes, asks, logged, heard, attempts }
  })

const told = { inputTokens: { total: 9, cacheRead: 2, cacheWrite: 3 }, outputTokens: { total: 5, reasoning: 4 } }
const spent = { inputTokens: 9, cacheReadTokens: 2, cacheWriteTokens: 3, outputTokens: 5, reasoningTokens: 4 }
const network = (sent: boolean) => ScriptedProvider.fail({ _tag: "Network", sent }, { delay: 100 })
const none = { by: undefined, usage: undefined, retryAfter: undefined, sent: undefined, limits: undefined }

describe.each(kinds)("what is told of attempts, %s", (kind) => {
  it.effect("each says when, how long and what it cost, counted from its call and from itself", () =>
    vector(Effect.gen(function*() {
      const last = { type: "finish", reason: "stop", usage: told } as never
      const r = yield* watched([
        ScriptedProvider.fail({ _tag: "Overloaded" }, { delay: 100, retryAfter: 375 }),
        ScriptedProvider.answer([{ type: "text", text: "Hello." }, last], { delay: 300 })
      ], { retry: { maxRetries: 2, baseDelay: 500 } })
      yield* TestClock.adjust(1234)
      const { at, exit } = yield* timed(ask(kind, r.client))
      const paused = at - 400
      success(exit)
      const of = (attempt: number) => ({ call: 1, target: "p", attempt })
      assert.deepStrictEqual<unknown>(r.attempts(), [
        { _tag: "AttemptStarted", ...of(1), at: 0 },
        {
          _tag: "AttemptFailed",
          ...of(1),
          at: 100,
          duration: 100,
          error: { tag: "ProviderError", reason: "Overloaded", retryAfter: 375 },
          outcome: "failure",
          afterCommit: false
        },
        { _tag: "AttemptStarted", ...of(2), at: 100 + paused },
        { _tag: "AttemptSucceeded", ...of(2), at, duration: 300, ...spent }
      ])
      assert.deepStrictEqual(r.outcomes, [
        { ...none, _tag: "Failed", at: 1334, duration: 100, retryAfter: 375, sent: true, limits: [] },
        { ...none, _tag: "Succeeded", at: 1234 + at, duration: 300, usage: told, limits: [] }
      ])
    })))

  it.effect("the attempt's number, and the model, only where there is one", () =>
    vector(Effect.gen(function*() {
      const r = yield* watched({ always: ScriptedProvider.answer("Hi.") })
      yield* ask(kind, r.client, { prompt: "Hi", model: "m" })
      assert.deepInclude(r.attempts()[0], { attempt: 1, model: "m" })
    })))

  it.effect("a guard is told what is asked, of whom, and how much time there is", () =>
    vector(Effect.gen(function*() {
      const r = yield* watched({ always: ScriptedProvider.answer("Hi.") }, { timeout: {} })
      yield* ask(kind, r.client, { prompt: "Hi", deadline: 200, model: "m" })
      const [asked] = r.asks
      assert.deepStrictEqual(
        [asked?.target, asked?.operation, asked?.request.model, asked?.left(asked.now), asked?.left(asked.now + 50)],
        ["p", kind, "m", 200, 150]
      )
    })))

  it.effect.each([true, false])("a request that left, or did not (%s)", (sent) =>
    vector(Effect.gen(function*() {
      const r = yield* watched([network(sent)], { retry: false })
      yield* timed(Effect.exit(ask(kind, r.client)))
      assert.deepStrictEqual(r.outcomes.map(({ sent }) => sent), [sent])
    })))

  it.effect.each<[string, number, LlmEvent.AttemptFailed["outcome"], Record<string, unknown>]>([
    ["half of what its target had is its failure", 100, "failure", { _tag: "Failed", duration: 100 }],
    ["less than half says nothing of it", 101, "ignored", { _tag: "Ignored", by: "deadline", duration: 99 }]
  ])("cut by the deadline: %s", ([, wait, outcome, expected]) =>
    vector(Effect.gen(function*() {
      const r = yield* watched({ always: ScriptedProvider.hang }, { timeout: {}, retry: false }, { wait })
      const { at, exit } = yield* timed(ask(kind, r.client, { prompt: "Hi", deadline: 200 }), 1000)
      assert.deepStrictEqual([failure(exit)._tag, at], ["DeadlineExceeded", 200])
      assert.deepInclude(r.attempts().at(-1), { _tag: "AttemptFailed", at: 200, duration: 200 - wait, outcome })
      assert.strictEqual(r.outcomes.length, 1)
      assert.deepInclude(r.outcomes[0], { at: 200, ...expected })
    })))

  it.effect("a failure that says nothing of its provider is a failure all the same: no deadline came", () =>
    vector(Effect.gen(function*() {
      const r = yield* watched([ScriptedProvider.fail({ _tag: "InvalidRequest" }, { delay: 100 })], { timeout: {} })
      yield* timed(Effect.exit(ask(kind, r.client)))
      assert.deepInclude(r.attempts()[1], { _tag: "AttemptFailed", duration: 100, outcome: "ignored" })
      assert.deepInclude(r.outcomes[0], { _tag: "Failed", duration: 100, by: undefined, sent: true })
    })))

  it.effect("who leaves is named: the caller, or a bug", () =>
    vector(Effect.gen(function*() {
      const left = yield* watched({ always: ScriptedProvider.hang })
      const fiber = yield* fork(ask(kind, left.client))
      yield* TestClock.adjust(70)
      yield* Fiber.interrupt(fiber)
      const bug = yield* watched([ScriptedProvider.die("bug")])
      yield* Effect.exit(ask(kind, bug.client))
      for (const [r, by, at] of [[left, "caller", 70], [bug, "defect", 0]] as const) {
        assert.strictEqual(r.attempts().length, 2)
        assert.deepInclude(r.attempts()[1], { _tag: "AttemptInterrupted", by, at, duration: at, attempt: 1 })
        assert.deepInclude(r.outcomes[0], { _tag: "Ignored", by, duration: at })
        // What a caller leaves behind was at work; after a bug nobody knows.
        assert.strictEqual("inputTokens" in r.attempts()[1]!, by === "caller")
      }
    })))

  it.effect("an answer that throws when it is read is a bug of its attempt, and what is no answer at all too", () =>
    vector(Effect.gen(function*() {
      const trap = Object.defineProperty(finishWith(told), "usage", {
        enumerable: true,
        get: () => {
          throw new Error("trapped")
        }
      })
      const trapped = LlmProvider.make({
        id: "p",
        generate: () => Effect.succeed([{ type: "text", text: "Hello." }, trap]),
        stream: () => Stream.make({ type: "text-delta", id: "0", delta: "Hello." }, trap)
      })
      const type = kind === "complete" ? "effect" : "stream"
      const broken = [
        [() => trapped, "trapped"],
        [
          (own: LlmProvider.LlmProvider) => ({
            ...own,
            generate: () => undefined as never,
            stream: () => undefined as never
          }),
          `The provider "p" returned what is no ${type}, but nothing`
        ]
      ] as const
      for (const [provider, message] of broken) {
        const r = yield* watched([], {}, { provider })
        const exit = yield* Effect.exit(ask(kind, r.client))
        const thrown = Exit.isFailure(exit) ? Cause.squash(exit.cause) : undefined
        assert.strictEqual((thrown as Error).message, message)
        assert.deepInclude(r.attempts()[1], { _tag: "AttemptInterrupted", by: "defect" })
        assert.deepStrictEqual(r.outcomes.map(({ _tag, by }) => [_tag, by]), [["Ignored", "defect"]])
      }
    })))

  it.effect("what a guard makes up is marked in all events of its attempt and of the retry after it, and only there", () =>
    vector(Effect.gen(function*() {
      for (const injected of [true, false, undefined]) {
        const r = yield* watched([ScriptedProvider.overloaded, ScriptedProvider.stream("a", { wait: 10 }, "b")], {
          retry: { maxRetries: 1 }
        }, { held: { injected } })
        yield* timed(ask(kind, r.client))
        assert.strictEqual(r.attempts().length, kind === "stream" ? 5 : 4)
        const retries = r.heard.filter(({ _tag }) => _tag === "RetryScheduled")
        assert.strictEqual(retries.length, 1)
        for (const event of [...r.attempts(), ...retries]) {
          if (injected === true) assert.propertyVal(event, "injected", true)
          else assert.notProperty(event, "injected")
        }
      }
    })))

  it.effect("a guard that holds nothing is asked for nothing: no word in the log", () =>
    vector(Effect.gen(function*() {
      const script = [
        ScriptedProvider.overloaded,
        ScriptedProvider.stream("a", { wait: 2000 }, "b"),
        { ...ScriptedProvider.hang, cleanup: 10 }
      ]
      const r = yield* watched(script, { retry: { maxRetries: 1 }, timeout: { attempt: 5000, firstToken: 100 } })
      success((yield* timed(ask(kind, r.client))).exit)
      yield* timed(Effect.exit(ask(kind, r.client)))
      assert.deepStrictEqual(r.logged, [])
    })))

  it.effect("a guard that throws is reported by each of its verbs, and hinders nothing", () =>
    vector(Effect.gen(function*() {
      const throws = (verb: string) => () => {
        throw new Error(verb)
      }
      const held = {
        judge: throws("judge"),
        renew: throws("renew"),
        settle: throws("settle"),
        release: throws("release")
      }
      const script = [ScriptedProvider.overloaded, ScriptedProvider.stream("a", { wait: 2000 }, "b")]
      const r = yield* watched(script, { retry: { maxRetries: 1 } }, { held })
      assert.strictEqual(success((yield* timed(ask(kind, r.client))).exit).text, "ab")
      const said = r.logged.map((line) => {
        const [message, thrown] = line as [string, Error]
        assert.strictEqual(message, "A guard or a store threw; the call went on")
        return thrown.message
      })
      const first = ["judge", "settle", "release"]
      assert.deepStrictEqual(said.filter((verb) => verb !== "renew"), [...first, "settle", "release"])
      assert.strictEqual(said.includes("renew"), kind === "stream")
    })))

  it.effect("a bug that a guard gives as an effect when all is settled is reported, too, also one that is there at once", () =>
    vector(Effect.gen(function*() {
      for (const bug of [Effect.die("at once"), Effect.delay(Effect.die("later"), 1)]) {
        const r = yield* watched([ScriptedProvider.answer("ok")], {}, { held: { settle: () => bug } })
        assert.strictEqual(success((yield* timed(ask(kind, r.client))).exit).text, "ok")
        assert.deepStrictEqual(r.logged.map((line) => (line as ReadonlyArray<unknown>)[0]), [
          "A guard or a store threw; the call went on"
        ])
      }
    })))

  it.effect("a provider's guard that chooses nobody leaves its target's own provider to be asked", () =>
    vector(Effect.gen(function*() {
      const provider = (own: LlmProvider.LlmProvider) => ({
        ...own,
        guard: { name: "router", acquire: () => Effect.succeed({}) }
      })
      const r = yield* watched([ScriptedProvider.answer("own")], {}, { provider })
      assert.strictEqual((yield* ask(kind, r.client)).text, "own")
    })))

  it.effect("whom a provider's guard chooses is asked, also where other guards hold something", () =>
    vector(Effect.gen(function*() {
      const chosen = yield* ScriptedProvider.make([ScriptedProvider.answer("chosen")], { id: "chosen" })
      const provider = (own: LlmProvider.LlmProvider) => ({
        ...own,
        guard: { name: "router", acquire: () => Effect.succeed({ provider: chosen }) }
      })
      const r = yield* watched([ScriptedProvider.answer("own")], {}, { provider })
      assert.strictEqual((yield* ask(kind, r.client)).text, "chosen")
      assert.deepStrictEqual(yield* r.own.requests, [])
    })))
})

describe.each(kinds)("the limit of an attempt, %s", (kind) => {
  it.effect.each<[attempt: number, firstToken: number]>([[300, 100], [100, 100], [100, 300]])(
    "whole answers in %i ms, first contents in %i",
    ([attempt, firstToken]) =>
      vector(Effect.gen(function*() {
        const r = yield* watched({ always: ScriptedProvider.hang }, { timeout: { attempt, firstToken }, retry: false })
        const { at, exit } = yield* timed(ask(kind, r.client))
        const error = failure(exit)
        if (error._tag !== "AttemptTimeout") throw new Error(error._tag)
        const isFirst = kind === "stream" && firstToken <= attempt
        assert.deepStrictEqual([error.kind, at], isFirst ? ["firstToken", firstToken] : ["attempt", attempt])
        assert.strictEqual(Duration.toMillis(error.after), at)
      }))
  )
})

describe("what is told of a stream's attempt", () => {
  const parts = [{ wait: 100 }, "a", { wait: 200 }, "b"] as const

  it.effect("its outcome lasts up to the first content, its event to the end", () =>
    vector(Effect.gen(function*() {
      const r = yield* watched([ScriptedProvider.stream(...parts)])
      success((yield* timed(ask("stream", r.client))).exit)
      assert.deepInclude(r.outcomes[0], { _tag: "Succeeded", at: 300, duration: 100 })
      assert.deepInclude(r.attempts()[1], { _tag: "AttemptCommitted", at: 100, duration: 100 })
      assert.deepInclude(r.attempts()[2], { _tag: "AttemptSucceeded", at: 300, duration: 300 })
    })))

  it.effect("broken: as above, and said to be after the commit", () =>
    vector(Effect.gen(function*() {
      const r = yield* watched([ScriptedProvider.stream(...parts, ScriptedProvider.cut)])
      failure((yield* timed(ask("stream", r.client))).exit)
      assert.deepInclude(r.outcomes[0], { _tag: "Failed", at: 300, duration: 100, sent: true })
      assert.deepInclude(r.attempts()[2], { _tag: "AttemptFailed", at: 300, duration: 300, afterCommit: true })
    })))

  it.effect("dying later, or an end that throws when it is read: a bug", () =>
    vector(Effect.gen(function*() {
      const trap = Object.defineProperty(finishWith(told), "usage", {
        enumerable: true,
        get: () => {
          throw new Error("bug")
        }
      })
      const beginning = Stream.make<[LlmResponse.StreamPart]>({ type: "text-delta", id: "0", delta: "Hello." })
      for (const end of [Stream.make(trap), Stream.die(new Error("bug"))]) {
        const stream = (): Stream.Stream<LlmResponse.StreamPart> => Stream.concat(beginning, end)
        const r = yield* watched([], { bulkhead: {} }, { provider: (own) => ({ ...own, stream }) })
        const exit = yield* Effect.exit(ask("stream", r.client))
        assert.strictEqual(Exit.isFailure(exit) && (Cause.squash(exit.cause) as Error).message, "bug")
        assert.deepInclude(r.attempts().at(-1), { _tag: "AttemptInterrupted", by: "defect" })
        assert.deepStrictEqual(r.outcomes.map(({ _tag, by }) => [_tag, by]), [["Ignored", "defect"]])
        assert.strictEqual((yield* r.client.status).targets[0]?.bulkhead?.inUse, 0)
      }
    })))

  it.effect("left by its reader: the caller's doing", () =>
    vector(Effect.gen(function*() {
      const r = yield* watched([ScriptedProvider.stream(...parts)])
      yield* timed(Stream.runDrain(Stream.take(r.client.stream("Hi"), 1)))
      assert.deepInclude(r.attempts().at(-1), { _tag: "AttemptInterrupted", by: "caller" })
      assert.deepInclude(r.outcomes[0], { _tag: "Ignored", by: "caller" })
    })))
})
