// One attempt: what it holds goes back, whatever throws.
import { assert, describe, it } from "@effect/vitest"
import { Cause, Context, Effect, Exit, Fiber, Layer, Stream } from "effect"
import { LlmClient, type LlmConfig, LlmProvider, type LlmRequest, type LlmResponse } from "effect-resilient-llm"
import { Bulkhead, RateLimiter } from "effect-resilient-llm/resilience"
import { ScriptedProvider } from "effect-resilient-llm/testing"
import { TestClock } from "effect/testing"
import { ask, failure, fork, kinds, setUp, success, timed, vector } from "../support.ts"

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
