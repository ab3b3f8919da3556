// The patterns that stand in front of an attempt, as the pipeline uses them.
import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Layer, Stream } from "effect"
import { LlmClient, LlmError, LlmProvider, type LlmResponse } from "effect-resilient-llm"
import { ask, kinds, vector } from "../support.ts"

describe.each(kinds)("%s: buckets (P6)", (kind) => {
  const finish = (usage: LlmResponse.Usage): LlmResponse.Part => ({ type: "finish", reason: "stop", usage })
  const fails = (reason: LlmError.Reason, sent = true): Effect.Effect<never, LlmError.ProviderError> =>
    Effect.fail(
      new LlmError.ProviderError({ provider: "p", reason: sent ? reason : { _tag: "Network", kind: "connect", sent } })
    )
  const text: LlmResponse.Part = { type: "text", text: "Hi" }
  const ends: Readonly<Record<string, Effect.Effect<ReadonlyArray<LlmResponse.Part>, LlmError.ProviderError>>> = {
    "an answer that tells its tokens": Effect.succeed([
      text,
      finish({ inputTokens: { total: 7 }, outputTokens: { total: 9 } })
    ]),
    "an answer that tells none": Effect.succeed([text, finish({ inputTokens: {}, outputTokens: {} })]),
    "a refusal": fails({ _tag: "InvalidRequest" }),
    "an overload": fails({ _tag: "Overloaded" }),
    "an empty quota": fails({ _tag: "Quota" }),
    "a malformed answer": fails({ _tag: "MalformedResponse", problem: "x" }),
    "a request that was never sent": fails({ _tag: "Overloaded" }, false)
  }

  const limits = (["requests", "tokens", "input-tokens", "output-tokens"] as const).map((dimension) =>
    ({ dimension, limit: 10_000, per: "1 hour" }) as const
  )

  const statusAfter = (end: (typeof ends)[string]) =>
    Effect.gen(function*() {
      const provider = LlmProvider.make({
        id: "p",
        generate: () => end,
        stream: () => Stream.unwrap(Effect.map(end, (parts) => Stream.fromIterable(toStream(parts))))
      })
      const context = yield* Layer.build(
        LlmClient.layerDynamic([{ provider, limits }], { rateLimit: { limits }, retry: false, cache: false })
      )
      const client = Context.get(context, LlmClient)
      yield* Effect.exit(ask(kind, client, { prompt: "What costs it?", maxTokens: 100 }))
      return yield* client.status
    })

  it.effect.each(Object.entries(ends))(
    "%s costs the client's bucket and the target's the same",
    ([, end]) =>
      vector(Effect.gen(function*() {
        const { rateLimit, targets } = yield* statusAfter(end)
        assert.isDefined(rateLimit)
        assert.deepStrictEqual(rateLimit.levels, targets[0]?.limits?.levels)
      }))
  )

  const toStream = (parts: ReadonlyArray<LlmResponse.Part>): ReadonlyArray<LlmResponse.StreamPart> =>
    parts.map((part) =>
      part.type === "text" ? { type: "text-delta", id: "0", delta: part.text } : part as LlmResponse.StreamPart
    )

  it.effect("an answer costs a request and the tokens it tells", () =>
    vector(Effect.gen(function*() {
      const { levels } = (yield* statusAfter(ends["an answer that tells its tokens"]!)).rateLimit!
      assert.deepStrictEqual(levels, { "requests": 9999, "tokens": 9984, "input-tokens": 9993, "output-tokens": 9991 })
    })))
})
