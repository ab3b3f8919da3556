// Bugs of our own, each with the test that failed first.
import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Exit, Fiber, Layer, Schedule, Scope, Stream } from "effect"
import { LlmClient, LlmError, LlmProvider } from "effect-resilient-llm"
import { Retry } from "effect-resilient-llm/resilience"
import { ScriptedProvider } from "effect-resilient-llm/testing"
import { TestClock } from "effect/testing"
import { types } from "node:util"
import { makeHub } from "../src/pipeline/hub.ts"
import { ask, failure, fork, kinds, nothingHeld, now, rig, success, timed, vector } from "./support.ts"

const { answer, cut, fail, overloaded, stream } = ScriptedProvider
const wait = (millis: number) => ({ wait: millis })

describe("an open stream", () => {
  it.effect("its response reads what an early consumer left", () =>
    vector(Effect.gen(function*() {
      const r = yield* rig([[stream("a", "b", "c", "d")]])
      const { parts, response } = yield* r.client.open("Hi")
      const seen = yield* Stream.runCollect(Stream.take(parts, 2))
      assert.strictEqual(seen.length, 2)
      assert.strictEqual((yield* response).text, "abcd")
      yield* nothingHeld(r)
    })))

  it.effect("a response asked for while another fibre reads the parts waits for it", () =>
    vector(Effect.gen(function*() {
      const r = yield* rig([[stream("a", wait(100), "b", wait(100), "c")]])
      const { parts, response } = yield* r.client.open("Hi")
      const both = yield* fork(Effect.all([Stream.runCollect(parts), response], { concurrency: 2 }))
      yield* TestClock.adjust(1000)
      const [seen, whole] = yield* Fiber.join(both)
      assert.strictEqual(whole.text, "abc")
      assert.strictEqual(seen.filter((part) => part.type === "text-delta").length, 3)
    })))

  it.effect("a defect of the provider ends it, and nothing is held", () =>
    vector(Effect.gen(function*() {
      const broken = { ...stream("a", { error: undefined as never }) }
      const r = yield* rig([[broken]], { bulkhead: {} })
      const exit = yield* Effect.exit(ask("stream", r.client))
      assert.strictEqual(exit._tag, "Failure")
      yield* nothingHeld(r)
    })))

  it.effect("interrupted while opening, inside a scope that lives on, it frees its key at once", () =>
    vector(Effect.gen(function*() {
      const r = yield* rig([[{ ...answer("late"), delay: 10_000 }, answer("now")]], { idempotency: {}, timeout: {} })
      const request = { prompt: "Hi", idempotencyKey: "k" }
      const first = yield* fork(r.client.open(request))
      yield* TestClock.adjust(100)
      yield* Fiber.interrupt(first)
      const begun = yield* now
      const { response } = yield* r.client.open(request)
      assert.strictEqual((yield* response).text, "now")
      assert.strictEqual(yield* now, begun)
    })))

  it.effect("a finished one leaves nothing in the scope it was opened in", () =>
    vector(Effect.gen(function*() {
      const r = yield* rig([{ always: answer("x") }])
      const scope = yield* Effect.scope
      const size = () => scope.state._tag === "Open" ? scope.state.finalizers?.size ?? 1 : 0
      const before = size()
      for (let i = 0; i < 20; i++) yield* (yield* r.client.open("Hi")).response
      assert.strictEqual(size(), before)
    })))

  it.effect("partialParts counts the content that came with the error", () =>
    vector(Effect.gen(function*() {
      const error = new LlmError.ProviderError({ provider: "p", reason: { _tag: "Overloaded" } })
      const r = yield* rig([[stream("a", "b", { type: "error", error })]])
      const interrupted = failure((yield* timed(ask("stream", r.client))).exit)
      assert.strictEqual((interrupted as LlmError.StreamInterrupted).partialParts, 2)
    })))

  it.effect("the deadline also ends it under a slow consumer", () =>
    vector(Effect.gen(function*() {
      const r = yield* rig([[stream(...Array.from({ length: 12 }, () => "x"))]], { timeout: { deadline: 1000 } })
      const slow = r.client.stream("Hi").pipe(Stream.tap(() => Effect.sleep(400)), Stream.runDrain)
      const { at, exit } = yield* timed(slow)
      assert.strictEqual(failure(exit)._tag, "DeadlineExceeded")
      assert.isAtMost(at, 1600)
    })))
})

describe("callers that share a key", () => {
  it.effect("a stream's follower does not inherit its leader's deadline", () =>
    vector(Effect.gen(function*() {
      const r = yield* rig([[{ ...answer("good"), delay: 1000 }, answer("another")]], {
        idempotency: {},
        timeout: { attempt: 60_000, firstToken: 60_000 }
      })
      const one = (deadline: number) => ask("stream", r.client, { prompt: "Hi", idempotencyKey: "k", deadline })
      const a = yield* fork(Effect.flip(one(300)))
      const b = yield* fork(one(5000))
      yield* TestClock.adjust(1000)
      assert.strictEqual((yield* Fiber.join(a))._tag, "DeadlineExceeded")
      assert.strictEqual((yield* Fiber.join(b)).text, "good")
    })))

  it.effect("waiting for a permit, they wait as long as the longest of them", () =>
    vector(Effect.gen(function*() {
      const r = yield* rig([{ script: [{ ...answer("first"), delay: 1000 }], always: answer("shared") }], {
        idempotency: {},
        timeout: { attempt: 60_000, firstToken: 60_000 },
        bulkhead: { maxConcurrent: 1 }
      })
      yield* fork(ask("complete", r.client, "occupies the permit"))
      const one = (deadline: number) => ask("complete", r.client, { prompt: "Hi", idempotencyKey: "k", deadline })
      const a = yield* fork(Effect.flip(one(300)))
      const b = yield* fork(one(5000))
      yield* TestClock.adjust(300)
      assert.strictEqual((yield* Fiber.join(a))._tag, "DeadlineExceeded")
      yield* TestClock.adjust(700)
      assert.strictEqual((yield* Fiber.join(b)).text, "shared")
    })))

  it.effect("who joined has the attempts in its ledger too", () =>
    vector(Effect.gen(function*() {
      const r = yield* rig([[overloaded, { ...answer("x"), delay: 10 }]], { idempotency: {} })
      const one = ask("complete", r.client, { prompt: "Hi", idempotencyKey: "k" })
      const both = yield* fork(Effect.all([one, one], { concurrency: 2 }))
      yield* TestClock.adjust(1000)
      const [, joined] = yield* Fiber.join(both)
      assert.deepStrictEqual(joined.ledger.map(({ _tag }) => _tag), [
        "CallStarted",
        "Idempotency",
        "AttemptStarted",
        "AttemptFailed",
        "RetryScheduled",
        "AttemptStarted",
        "AttemptSucceeded",
        "CallEnded"
      ])
    })))
})

describe.each(kinds)("%s", (kind) => {
  it.effect("too long for a target of unknown size goes to a large one", () =>
    vector(Effect.gen(function*() {
      const tooLong = fail({ _tag: "ContextLength" })
      const r = yield* rig([[tooLong], [answer("fits")]], {}, [{}, { contextWindow: 1_000_000 }])
      assert.strictEqual((yield* ask(kind, r.client)).target, "s")
      const smaller = yield* rig([[tooLong], [answer("never")], [answer("fits")]], {}, [
        { contextWindow: 100_000 },
        { contextWindow: 8000 },
        { contextWindow: 200_000 }
      ])
      assert.strictEqual((yield* ask(kind, smaller.client)).target, "t")
    })))

  it.effect("callers whose time went into waiting do not open the breaker of a healthy provider", () =>
    vector(Effect.gen(function*() {
      const r = yield* rig([{ always: { ...answer("x"), delay: 500 } }], {
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

  it.effect("a failure is a real error, with the stack of its origin", () =>
    vector(Effect.gen(function*() {
      const r = yield* rig([{ always: overloaded }], { retry: false })
      const error = failure((yield* timed(ask(kind, r.client))).exit)
      assert.instanceOf(error, LlmError.ProviderError)
      assert.isTrue(types.isNativeError(error))
      assert.include(error.stack, "HTTP 503")
      assert.include(String(error), "p is overloaded (HTTP 503).")
      assert.isAbove(error.ledger.length, 2)
    })))

  it.effect("a retry that never reaches the provider gives its token back", () =>
    vector(Effect.gen(function*() {
      const r = yield* rig([{
        script: [overloaded, { ...answer("slow"), delay: 10_000 }, overloaded],
        always: answer("x")
      }], {
        retry: { maxRetries: 1, baseDelay: 100 },
        retryBudget: { capacity: 1, perAttempt: 0, perSecond: 0 },
        bulkhead: { maxConcurrent: 1 }
      })
      const first = yield* fork(ask(kind, r.client))
      const second = yield* fork(ask(kind, r.client))
      yield* TestClock.adjust(1000) // the first call's retry waits for the permit that the second one holds
      yield* Fiber.interrupt(first)
      yield* TestClock.adjust(10_000)
      yield* Fiber.join(second)
      const third = yield* timed(ask(kind, r.client))
      assert.strictEqual(success(third.exit).text, "x")
    })))
})

it.effect("a stream of 100 000 parts and more is delivered whole; its response says that it was cut", () =>
  vector(Effect.gen(function*() {
    const deltas = Array.from({ length: 100_500 }, () => ({ type: "text-delta", id: "0", delta: "x" }) as const)
    const usage = { inputTokens: { total: 1 }, outputTokens: { total: 100_500 } }
    const provider = LlmProvider.make({
      id: "long",
      generate: () => Effect.succeed("unused"),
      stream: () =>
        Stream.concat(
          Stream.rechunk(Stream.fromIterable(deltas), 1000),
          Stream.make({ type: "finish", reason: "stop", usage } as const)
        )
    })
    const client = Context.get(yield* Layer.build(LlmClient.layerDynamic([provider])), LlmClient)
    const { parts, response } = yield* client.open("Hi")
    const count = yield* Stream.runFold(parts, () => 0, (n, part) => part.type === "text-delta" ? n + 1 : n)
    assert.strictEqual(count, 100_500)
    const whole = yield* response
    assert.strictEqual(whole.cut, true)
    assert.strictEqual(whole.usage.outputTokens.total, 100_500)
    assert.isFalse(whole.ledger.some((event) => event._tag === "Cache" && event.result === "stored"))
  })))

it.effect("a cut that nobody saw stays a failure: truncated before the commit is retried", () =>
  vector(Effect.gen(function*() {
    const r = yield* rig([[stream({ type: "text-start", id: "0" }, cut), answer("whole")]])
    assert.strictEqual(success((yield* timed(ask("stream", r.client))).exit).text, "whole")
  })))

it.effect("a listener that is too slow loses the oldest events", () =>
  Effect.scoped(Effect.gen(function*() {
    const hub = yield* makeHub(4)
    const events = yield* Stream.toPull(hub.events)
    const first = yield* fork(events)
    yield* Effect.yieldNow
    const event = (call: number) => ({ _tag: "CallStarted", call, at: 0, operation: "complete" }) as const
    hub.publish(event(0))
    yield* Fiber.join(first)
    for (let call = 1; call <= 10; call++) hub.publish(event(call))
    assert.deepStrictEqual((yield* events).map(({ call }) => call), [7, 8, 9, 10])
  })))

it.effect("a listener's stream ends with the client, after the last event", () =>
  Effect.gen(function*() {
    const scope = yield* Scope.make()
    const hub = yield* Scope.provide(makeHub(), scope)
    const listener = yield* fork(Stream.runCollect(hub.events))
    yield* Effect.yieldNow
    hub.publish({ _tag: "CallStarted", call: 1, at: 0, operation: "complete" })
    yield* Scope.close(scope, Exit.void)
    assert.strictEqual((yield* Fiber.join(listener)).length, 1)
  }))

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

it.effect("a second reader that waits for the first one can leave", () =>
  vector(Effect.gen(function*() {
    const r = yield* rig([[stream("a", ScriptedProvider.stall)]])
    const { parts } = yield* r.client.open("Hi")
    const first = yield* fork(Stream.runDrain(parts))
    const second = yield* fork(Stream.runDrain(parts))
    yield* TestClock.adjust(10)
    const left = yield* fork(Fiber.interrupt(second))
    yield* TestClock.adjust(10)
    assert.isDefined(left.pollUnsafe(), "the second reader is gone")
    yield* Fiber.interrupt(first)
  })))

it.effect.each(kinds)(
  "a replay in the same millisecond has no attempts of its own: %s",
  (kind) =>
    vector(Effect.gen(function*() {
      const r = yield* rig([[answer("x")]], { idempotency: {} })
      const one = ask(kind, r.client, { prompt: "Hi", idempotencyKey: "k" })
      yield* one
      const again = yield* one
      assert.deepStrictEqual(again.ledger.map(({ _tag }) => _tag), ["CallStarted", "Idempotency", "CallEnded"])
    }))
)
