import { assert, describe, it } from "@effect/vitest"
import { Effect, Stream } from "effect"
import { LlmClient, LlmError, LlmProvider } from "effect-resilient-llm"
import { ScriptedProvider } from "effect-resilient-llm/testing"
import { ask, failure, kinds, nothingHeld, rig, success, timed, vector } from "./support.ts"

const { answer, fail, hang, overloaded, rateLimited, stream } = ScriptedProvider
const always = (step: ScriptedProvider.Step) => ({ always: step })

describe.each(kinds)("%s", (kind) => {
  it.effect("answers at once, with everything off", () =>
    vector(Effect.gen(function*() {
      const r = yield* rig([[answer("Hello.")]], { retry: false, failover: false })
      const { at, exit } = yield* timed(ask(kind, r.client))
      const response = success(exit)
      assert.strictEqual(at, 0)
      assert.strictEqual(response.text, "Hello.")
      assert.deepStrictEqual(yield* r.calls(), [0])
      assert.deepStrictEqual(response.ledger.map((e) => e._tag), [
        "CallStarted",
        "AttemptStarted",
        ...(kind === "stream" ? [] : []),
        "AttemptSucceeded",
        "CallEnded"
      ])
      yield* nothingHeld(r)
    })))

  it.effect("answers at once, with every default", () =>
    vector(Effect.gen(function*() {
      const r = yield* rig([[answer("Hello.")]], {
        retry: {},
        retryBudget: {},
        timeout: {},
        circuitBreaker: {},
        rateLimit: {},
        idempotency: {},
        cache: {},
        failover: {}
      })
      const { at, exit } = yield* timed(ask(kind, r.client))
      assert.strictEqual(at, 0)
      assert.strictEqual(success(exit).text, "Hello.")
      yield* nothingHeld(r)
    })))

  it.effect("retries, then answers", () =>
    vector(Effect.gen(function*() {
      const r = yield* rig([[overloaded, overloaded, answer("Hello.")]])
      const { at, exit } = yield* timed(ask(kind, r.client))
      assert.strictEqual(at, 1125)
      assert.strictEqual(success(exit).text, "Hello.")
      assert.deepStrictEqual(yield* r.calls(), [0, 375, 1125])
      yield* nothingHeld(r)
    })))

  it.effect("fails with the last failure and the ledger", () =>
    vector(Effect.gen(function*() {
      const r = yield* rig([always(overloaded)])
      const { at, exit } = yield* timed(ask(kind, r.client))
      const error = failure(exit)
      assert.strictEqual(at, 1125)
      assert.strictEqual(error._tag, "ProviderError")
      assert.deepStrictEqual(error.ledger.map((e) => e._tag), [
        "CallStarted",
        "AttemptStarted",
        "AttemptFailed",
        "RetryScheduled",
        "AttemptStarted",
        "AttemptFailed",
        "RetryScheduled",
        "AttemptStarted",
        "AttemptFailed",
        "RetryDenied",
        "CallEnded"
      ])
      yield* nothingHeld(r)
    })))

  it.effect("fails over in order", () =>
    vector(Effect.gen(function*() {
      const r = yield* rig([always(overloaded), always(answer("Hello."))])
      const { at, exit } = yield* timed(ask(kind, r.client))
      assert.strictEqual(at, 1125)
      assert.strictEqual(success(exit).target, "s")
      assert.deepStrictEqual(yield* r.calls(0), [0, 375, 1125])
      assert.deepStrictEqual(yield* r.calls(1), [1125])
      yield* nothingHeld(r)
    })))

  it.effect("does not fail over what is wrong by itself", () =>
    vector(Effect.gen(function*() {
      const r = yield* rig([always(fail({ _tag: "InvalidRequest" }, { status: 400 })), always(answer("Hello."))])
      const { at, exit } = yield* timed(ask(kind, r.client))
      assert.strictEqual(at, 0)
      assert.strictEqual(failure(exit)._tag, "ProviderError")
      assert.deepStrictEqual(yield* r.calls(1), [])
    })))

  it.effect("cuts a hang and fails over", () =>
    vector(Effect.gen(function*() {
      const r = yield* rig([always(hang), [answer("Hello.")]], {
        timeout: { attempt: 1000, firstToken: 1000 },
        retry: false
      })
      const { at, exit } = yield* timed(ask(kind, r.client))
      assert.strictEqual(at, 1000)
      assert.strictEqual(success(exit).target, "s")
      yield* nothingHeld(r)
    })))

  it.effect("a hint longer than another target's patience fails over", () =>
    vector(Effect.gen(function*() {
      const r = yield* rig([always(rateLimited("30 seconds")), [answer("Hello.")]])
      const { at, exit } = yield* timed(ask(kind, r.client))
      assert.strictEqual(at, 0)
      assert.strictEqual(success(exit).target, "s")
    })))

  it.effect("stale instead of a failure", () =>
    vector(Effect.gen(function*() {
      const r = yield* rig([{ script: [answer("Hello.")], always: overloaded }], { cache: {} })
      yield* timed(ask(kind, r.client), 10_000)
      const { exit } = yield* timed(ask(kind, r.client), 10_000)
      const response = success(exit)
      assert.strictEqual(response.source, "stale")
      assert.strictEqual(response.text, "Hello.")
      yield* nothingHeld(r)
    })))

  it.effect("the same key is answered once", () =>
    vector(Effect.gen(function*() {
      const r = yield* rig([[answer("Hello.", { delay: 1000 })]], { idempotency: {} })
      const request = { prompt: "Hi", idempotencyKey: "k" }
      const { at, exit } = yield* timed(
        Effect.all(Array.from({ length: 5 }, () => ask(kind, r.client, request)), { concurrency: "unbounded" })
      )
      assert.strictEqual(at, 1000)
      assert.deepStrictEqual(success(exit).map((x) => x.source).toSorted(), [
        "provider",
        "replay",
        "replay",
        "replay",
        "replay"
      ])
      const again = yield* timed(ask(kind, r.client, request))
      assert.strictEqual(success(again.exit).source, "replay")
      assert.deepStrictEqual(yield* r.calls(), [0])
      const conflict = yield* Effect.flip(ask(kind, r.client, { prompt: "Other", idempotencyKey: "k" }))
      assert.strictEqual(conflict._tag, "IdempotencyConflict")
      yield* nothingHeld(r)
    })))
})

it.effect("reasoning that a target cannot take is noted in the ledger", () =>
  Effect.gen(function*() {
    const make = (id: string, reasoning: string | false | undefined) =>
      LlmProvider.make({
        id,
        reasoning,
        generate: () =>
          id === "d" ? Effect.succeed("Hello.") : Effect.fail(
            new LlmError.ProviderError({ provider: id, reason: { _tag: "Quota" } })
          )
      })
    const layer = LlmClient.layerDynamic([
      make("a", "mine"),
      make("b", "other"),
      make("c", undefined),
      make("d", false)
    ])
    const response = yield* Effect.provide(
      Effect.flatMap(LlmClient, (client) =>
        client.complete({
          prompt: [
            { role: "user", content: "Hi" },
            {
              role: "assistant",
              content: [
                { type: "reasoning", text: "Hm.", options: { mine: { signature: "s" } } },
                { type: "reasoning", text: "Hm?" },
                { type: "text", text: "Hello." }
              ]
            },
            { role: "user", content: "Hi again" }
          ]
        })),
      layer
    )
    assert.deepStrictEqual(
      response.ledger.flatMap((event) => event._tag === "ReasoningDropped" ? [[event.target, event.parts]] : []),
      [["a", 1], ["b", 2], ["d", 2]]
    )
  }))

describe("a circuit per model", () => {
  it.effect("one model's outage leaves the others alone", () =>
    vector(Effect.gen(function*() {
      const r = yield* rig([{ script: [overloaded, overloaded], always: answer("Hello.") }], {
        retry: false,
        circuitBreaker: { scope: "model", failureThreshold: 2 }
      })
      for (let i = 0; i < 2; i++) yield* Effect.exit(ask("complete", r.client, { prompt: "Hi", model: "big" }))
      const open = failure((yield* timed(ask("complete", r.client, { prompt: "Hi", model: "big" }))).exit)
      assert.strictEqual(open.message, "The circuit breaker of \"p/big\" is open. Try again in 30s.")
      assert.strictEqual((yield* ask("complete", r.client, { prompt: "Hi", model: "small" })).text, "Hello.")
      assert.strictEqual((yield* r.client.status).targets[0]?.circuit?.state, "open")
    })))

  it.effect("names without end do not fill the memory", () =>
    vector(Effect.gen(function*() {
      const r = yield* rig([{ always: overloaded }], {
        retry: false,
        circuitBreaker: { scope: "model", failureThreshold: 1 }
      })
      for (let i = 0; i < 150; i++) yield* Effect.exit(ask("complete", r.client, { prompt: "Hi", model: `m${i}` }))
      const oldest = yield* Effect.flip(ask("complete", r.client, { prompt: "Hi", model: "m0" }))
      const newest = yield* Effect.flip(ask("complete", r.client, { prompt: "Hi", model: "m149" }))
      assert.deepStrictEqual([oldest._tag, newest._tag], ["ProviderError", "CircuitOpen"])
    })))
})

describe("after the commit", () => {
  it.effect("R19 chunk, then reset", () =>
    vector(Effect.gen(function*() {
      const r = yield* rig([[stream("A", ScriptedProvider.cut)]])
      const seen: Array<string> = []
      const { exit } = yield* timed(
        r.client.stream("Hi").pipe(Stream.runForEach((part) => Effect.sync(() => seen.push(part.type))))
      )
      const error = failure(exit)
      assert.strictEqual(error._tag, "StreamInterrupted")
      if (error._tag === "StreamInterrupted") {
        assert.strictEqual(error.kind, "truncated")
        assert.strictEqual(error.partialParts, 1)
      }
      assert.deepStrictEqual(yield* r.calls(), [0])
      yield* nothingHeld(r)
    })))
})
