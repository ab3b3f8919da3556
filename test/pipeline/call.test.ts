// The books of a call: how they count attempts, and what they say at its end.
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { type LlmConfig, LlmGuard } from "effect-resilient-llm"
import { ScriptedProvider } from "effect-resilient-llm/testing"
import { TestClock } from "effect/testing"
import { ask, failure, kinds, nothingHeld, setUp, success, timed, vector } from "../support.ts"

const { answer, fail } = ScriptedProvider

describe.each(kinds)("%s", (kind) => {
  describe("attempts are counted with those that are on their way", () => {
    const options = {
      hedge: { delay: 1000 },
      failover: { maxAttempts: 2 },
      retry: { maxRetries: 1, baseDelay: 1 }
    } as const satisfies LlmConfig.Options
    const slow = [fail({ _tag: "Overloaded" }, { delay: 3000 }), answer("p")] as const
    const waits = LlmGuard.make("waits", (ask) => ask.target === "s" ? Effect.sleep(4000) : Effect.void)
    const refuses = LlmGuard.make("refuses", (ask) => ask.target === "s" ? Effect.fail("no") : Effect.void)

    it.effect.each<[string, LlmGuard.Guard<unknown>, string, number, number]>([
      ["a hedge that waits for its guard counts", waits, "s", 1, 1],
      ["a hedge that was refused does not", refuses, "p", 2, 0]
    ])("%s", ([, guard, target, p, s]) =>
      vector(Effect.gen(function*() {
        const guarded: LlmConfig.Options & { readonly guards: unknown } = { ...options, guards: [guard] }
        const r = yield* setUp([slow, { always: answer("s") }], guarded)
        const { exit } = yield* timed(ask(kind, r.client))
        assert.deepStrictEqual([success(exit).target, (yield* r.calls(0)).length, (yield* r.calls(1)).length], [
          target,
          p,
          s
        ])
        yield* nothingHeld(r)
      })))

    it.effect("what its target's own line still waits for is not left to a hedge", () =>
      vector(Effect.gen(function*() {
        const waiting = LlmGuard.make("waiting", (ask) => ask.target === "p" ? Effect.sleep(4000) : Effect.void)
        const guarded: LlmConfig.Options & { readonly guards: unknown } = {
          ...options,
          failover: { maxAttempts: 1 },
          guards: [waiting]
        }
        const r = yield* setUp([[answer("p")], { always: answer("s") }], guarded)
        const { at, exit } = yield* timed(ask(kind, r.client))
        assert.deepStrictEqual([success(exit).target, at, yield* r.calls(0), yield* r.calls(1)], [
          "p",
          4000,
          [4000],
          []
        ])
        yield* nothingHeld(r)
      })))
  })

  it.effect("the end says how long it took, whose the answer is, and after how many attempts", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([[fail({ _tag: "Overloaded" }, { delay: 100 })], [answer("Hi.", { delay: 200 })]], {
        retry: false
      }, [{}, { defaultModel: "n" }])
      yield* TestClock.adjust(777)
      const { ledger } = success((yield* timed(ask(kind, r.client, { prompt: "Hi", model: "m" }))).exit)
      assert.deepStrictEqual<unknown>(ledger[0], { _tag: "CallStarted", call: 1, at: 0, operation: kind, model: "m" })
      assert.deepStrictEqual<unknown>(ledger.at(-1), {
        _tag: "CallEnded",
        call: 1,
        at: 300,
        operation: kind,
        outcome: "provider",
        duration: 300,
        attempts: 2,
        target: "s"
      })
      yield* r.providers[0]!.play(ScriptedProvider.always(ScriptedProvider.overloaded))
      yield* r.providers[1]!.play(ScriptedProvider.always(ScriptedProvider.overloaded))
      const refused = failure((yield* timed(ask(kind, r.client))).exit)
      assert.strictEqual(refused.ledger.filter(({ _tag }) => _tag === "CallEnded").length, 1)
      assert.deepInclude(refused.ledger.at(-1), { _tag: "CallEnded", call: 2, outcome: "failure" })
      assert.property(refused.ledger.at(-1), "error")
      assert.deepStrictEqual<unknown>(refused.ledger[0], { _tag: "CallStarted", call: 2, at: 0, operation: kind })
    })))

  it.effect("the key that goes upstream is the caller's own, of a whole answer and without a tenant; no other is like it", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([{ always: answer("Hi.") }], { idempotency: {} })
      const idempotencyKey = "k"
      for (const tenant of [undefined, "a", "b"]) {
        const input = { prompt: "Hi", idempotencyKey }
        yield* ask(kind, r.client, tenant === undefined ? input : { ...input, tenant })
      }
      const keys = (yield* r.providers[0]!.requests).map(({ request }) => request.idempotencyKey)
      assert.strictEqual(keys.length, 3)
      assert.strictEqual(new Set(keys).size, 3)
      assert.strictEqual(keys[0] === idempotencyKey, kind === "complete")
      for (const key of kind === "complete" ? keys.slice(1) : keys) assert.match(key ?? "", /^[0-9a-f]{64}$/)
    })))

  it.effect("what a request does not have does not go upstream, and no key where none was given or made", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([[answer("Hi.")]])
      yield* ask(kind, r.client)
      assert.hasAllKeys((yield* r.providers[0]!.requests)[0]?.request, ["prompt"])
    })))

  it.effect.each([{ cache: {} }, { idempotency: { derive: "replay" } }] as const)(
    "what is too much to be compared, though none of its parts is, is refused before anybody is asked, with %j",
    (options) =>
      vector(Effect.gen(function*() {
        let result: unknown = "deep"
        for (let i = 0; i < 999; i++) result = [result]
        const part = { type: "tool-result", id: "1", name: "rows", isFailure: false, result } as const
        const r = yield* setUp([[answer("Hi.")]], options)
        const error = failure((yield* timed(ask(kind, r.client, { prompt: [{ role: "tool", content: [part] }] }))).exit)
        assert.deepInclude(error, {
          _tag: "InvalidRequest",
          path: "request",
          rule: "at most 1,000 levels deep",
          kind: "deeper"
        })
        assert.deepStrictEqual(yield* r.calls(), [])
      }))
  )

  it.effect.each([{ cache: {} }, { idempotency: { derive: "replay" } }] as const)(
    "what is longer than a text may be is refused as well, with %j",
    (options) =>
      vector(Effect.gen(function*() {
        // A text of 600 million characters, of which there are 3 million.
        const message = { role: "user", content: "a".repeat(3_000_000) } as const
        const r = yield* setUp([[answer("Hi.")]], options)
        const prompt = Array.from({ length: 200 }, () => message)
        const error = failure((yield* timed(ask(kind, r.client, { prompt }))).exit)
        assert.deepInclude(error, { _tag: "InvalidRequest", path: "request", kind: "longer" })
        assert.deepStrictEqual(yield* r.calls(), [])
      }))
  )
})
