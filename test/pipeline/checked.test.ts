// Repairs as the provider, the cache and the books see them. What callers see of them: LlmObject.
import { assert, it } from "@effect/vitest"
import { Effect, Schema } from "effect"
import { ScriptedProvider } from "effect-resilient-llm/testing"
import { setUp, vector } from "../support.ts"

const schema = Schema.Struct({ celsius: Schema.Finite })
const good = ScriptedProvider.answer("{\"celsius\":21}")
const bad = ScriptedProvider.answer("{\"celsius\":\"warm\"}")
const ask = { prompt: "Berlin has 21 degrees.", schema, temperature: 0 } as const

it.effect.each(
  [
    ["a given key", {}, "k", ["k", "k-repair"]],
    ["no key", false, undefined, [undefined, undefined]]
  ] as const
)(
  "a repair goes by a key of its own, where there is one: %s",
  ([, idempotency, idempotencyKey, keys]) =>
    vector(Effect.gen(function*() {
      const { client, providers } = yield* setUp([[bad, good]], { idempotency })
      yield* client.generateObject({ ...ask, idempotencyKey })
      const sent = (yield* providers[0]!.requests).map(({ request }) => request.idempotencyKey)
      assert.deepStrictEqual<ReadonlyArray<string | undefined>>(sent, keys)
    }))
)

it.effect("a repair is not kept as the answer to the question", () =>
  vector(Effect.gen(function*() {
    const { calls, client } = yield* setUp([[bad, good, good]], { cache: { readThrough: true } })
    yield* client.generateObject(ask)
    assert.strictEqual((yield* client.generateObject(ask)).response.source, "provider")
    assert.lengthOf(yield* calls(), 3)
    assert.strictEqual((yield* client.generateObject(ask)).response.source, "cache")
  })))

it.effect("a repair that is refused before it is sent fails as that refusal, also where nobody pays for it", () =>
  vector(Effect.gen(function*() {
    const { calls, client } = yield* setUp([[bad, good]], {
      retryBudget: false,
      rateLimit: { limits: [{ dimension: "requests", limit: 1, per: "1 minute" }], maxWait: 0 }
    })
    assert.strictEqual((yield* Effect.flip(client.generateObject(ask)))._tag, "RateLimited")
    assert.lengthOf(yield* calls(), 1)
  })))
