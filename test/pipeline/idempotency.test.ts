// One key, one call: what callers that share a key share, and what stays each one's own.
import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber } from "effect"
import { LlmError } from "effect-resilient-llm"
import { ScriptedProvider } from "effect-resilient-llm/testing"
import { TestClock } from "effect/testing"
import { ask, fork, kinds, setUp, vector } from "../support.ts"

const { answer, overloaded } = ScriptedProvider

describe("callers that share a key", () => {
  it.effect("a stream's follower does not inherit its leader's deadline", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([[{ ...answer("good"), delay: 1000 }, answer("another")]], {
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
      const r = yield* setUp([{ script: [{ ...answer("first"), delay: 1000 }], always: answer("shared") }], {
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
      const r = yield* setUp([[overloaded, { ...answer("x"), delay: 10 }]], { idempotency: {} })
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

it.effect.each(kinds)(
  "a replay in the same millisecond has no attempts of its own: %s",
  (kind) =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([[answer("x")]], { idempotency: {} })
      const one = ask(kind, r.client, { prompt: "Hi", idempotencyKey: "k" })
      yield* one
      const again = yield* one
      assert.deepStrictEqual(again.ledger.map(({ _tag }) => _tag), ["CallStarted", "Idempotency", "CallEnded"])
    }))
)

describe.each(kinds)("%s: what is kept of a failure under a key", (kind) => {
  const classified = (status: number, body: string, headers: Record<string, string> = {}) =>
    ScriptedProvider.stream({ error: LlmError.ProviderError.fromHttp({ provider: "p", status, headers, body }) })
  const page = "<!doctype html><html><title>Request blocked</title></html>"
  const html = { "content-type": "text/html" }
  const refusal = JSON.stringify({ error: { type: "invalid_request_error", message: "No such field." } })

  it.effect.each(
    [
      ["a vendor's refusal of what was asked", classified(400, refusal, { "content-type": "application/json" }), 1],
      ["a page of what stands between, 400", classified(400, page, html), 2],
      ["a page of what stands between, 403", classified(403, page, html), 2],
      ["headers that are too large for a server on the way, 431", classified(431, ""), 2],
      ["a failure that passes, 503", classified(503, ""), 2]
    ] as const
  )("%s", ([, step, calls]) =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([{ always: step }], { idempotency: {}, retry: false })
      const one = Effect.exit(ask(kind, r.client, { prompt: "Hi", idempotencyKey: "k" }))
      yield* one
      yield* one
      assert.strictEqual((yield* r.calls()).length, calls)
    })))

  it.effect("what was refused before it was sent is asked again", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([{ always: answer("x") }], {
        idempotency: {},
        rateLimit: { limits: [{ dimension: "requests", limit: 1, per: "1 minute" }], maxWait: 0 }
      })
      yield* ask(kind, r.client, "takes the token")
      const one = ask(kind, r.client, { prompt: "Hi", idempotencyKey: "k" })
      assert.strictEqual((yield* Effect.flip(one))._tag, "RateLimited")
      yield* TestClock.adjust("1 minute")
      assert.strictEqual((yield* one).text, "x")
    })))
})

describe.each(kinds)("%s: callers of one key in the limiter's line", (kind) => {
  it.effect("the one that may wait longer keeps the place when the first one has to go", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([{ always: answer("x") }], {
        idempotency: {},
        timeout: {},
        rateLimit: { limits: [{ dimension: "requests", limit: 1, per: "1 second" }], maxWait: "1 minute" }
      })
      yield* ask(kind, r.client, "takes the token")
      const keyed = (deadline: number) => ask(kind, r.client, { prompt: "Hi", idempotencyKey: "k", deadline })
      const ended: Array<string> = []
      const named = <A, E, R>(name: string, self: Effect.Effect<A, E, R>) =>
        fork(Effect.onExit(self, () => Effect.sync(() => ended.push(name))))
      yield* named("hurried", keyed(500))
      yield* named("patient", keyed(30_000))
      yield* TestClock.adjust(100)
      yield* named("later", ask(kind, r.client, "somebody else"))
      yield* TestClock.adjust("5 seconds")
      assert.deepStrictEqual(ended, ["hurried", "patient", "later"])
    })))
})
