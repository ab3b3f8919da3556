// The patterns that stand in front of an attempt, as the pipeline uses them.
import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Fiber, Layer, Stream } from "effect"
import { LlmClient, LlmError, LlmProvider, type LlmRequest, type LlmResponse } from "effect-resilient-llm"
import { AiError, type Prompt, Tokenizer } from "effect/ai"
import { TestClock } from "effect/testing"
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

describe("tokens before the vendor says them", () => {
  const limits = [{ dimension: "input-tokens", limit: 100_000, per: "1 hour" }] as const
  const silent = LlmProvider.make({ id: "p", generate: () => Effect.succeed([{ type: "text", text: "Hi" }]) })

  /** What a prompt costs at a vendor that never says what it cost. */
  const costOf = (
    prompt: LlmRequest.Input["prompt"],
    tokenizer: Layer.Layer<Tokenizer.Tokenizer> | Layer.Layer<never> = Layer.empty
  ) =>
    Effect.gen(function*() {
      const layer = LlmClient.layerDynamic([{ provider: silent, limits }], { retry: false })
      const client = Context.get(yield* Layer.build(Layer.provide(layer, tokenizer)), LlmClient)
      const { ledger } = yield* client.complete({ prompt, deadline: "1 second" })
      const { targets } = yield* client.status
      return { cost: 100_000 - targets[0]!.limits!.levels["input-tokens"]!, ledger }
    })
  const byBytes = (...texts: ReadonlyArray<string>) =>
    Math.ceil(new TextEncoder().encode(`user${texts.join("")}`).length / 3.5)

  it.effect.each([
    "Hello, world. ".repeat(50),
    "ü".repeat(70),
    "今日は良い天気です。".repeat(20),
    "🙂👩‍👩‍👧".repeat(30),
    "a€😀é"
  ])(
    "3.5 bytes of UTF-8 are one: %s",
    (text) =>
      vector(Effect.gen(function*() {
        assert.strictEqual((yield* costOf(text)).cost, byBytes(text))
      }))
  )

  it.effect("a file is a thousand", () =>
    vector(Effect.gen(function*() {
      const file = { type: "file", mediaType: "image/png", data: "A".repeat(90_000) } as const
      const { cost } = yield* costOf([{ role: "user", content: [{ type: "text", text: "What is it?" }, file] }])
      assert.strictEqual(cost, byBytes("text", "What is it?") + 1000)
    })))

  const tokenizer = (tokenize: (prompt: Prompt.Prompt) => Effect.Effect<Array<number>, AiError.AiError>) => {
    const asked: Array<number> = []
    const layer = Layer.succeed(
      Tokenizer.Tokenizer,
      Tokenizer.make({
        tokenize: (prompt) =>
          Effect.suspend(() => {
            asked.push(prompt.content.length)
            return tokenize(prompt)
          })
      })
    )
    return { asked, layer }
  }

  it.effect("a tokenizer of effect/ai counts them, once for all buckets, retries and targets", () =>
    vector(Effect.gen(function*() {
      const { asked, layer } = tokenizer(() => Effect.succeed(Array.from({ length: 42 }, (_, i) => i)))
      assert.strictEqual((yield* costOf("Hi", layer)).cost, 42)
      assert.deepStrictEqual(asked, [1])
      const failing = LlmProvider.make({
        id: "q",
        generate: () => Effect.fail(new LlmError.ProviderError({ provider: "q", reason: { _tag: "Overloaded" } }))
      })
      const both = LlmClient.layerDynamic([{ provider: failing, limits }, { provider: silent, limits }], {
        rateLimit: { limits },
        retry: { maxRetries: 2, baseDelay: 1 }
      })
      const client = Context.get(yield* Layer.build(Layer.provide(both, layer)), LlmClient)
      const call = yield* Effect.forkChild(client.complete("Hi"))
      yield* TestClock.adjust("1 minute")
      assert.strictEqual((yield* Fiber.join(call)).target, "p")
      assert.deepStrictEqual(asked, [1, 1])
      // Where no limit counts tokens, nobody asks for them.
      const plain = Context.get(yield* Layer.build(Layer.provide(LlmClient.layerDynamic([silent]), layer)), LlmClient)
      yield* plain.complete("Hi")
      assert.strictEqual(asked.length, 2)
    })))

  it.effect("one that fails, throws or hangs: by bytes, and within the deadline", () =>
    vector(Effect.gen(function*() {
      const error = new AiError.AiError({
        module: "T",
        method: "m",
        reason: new AiError.UnknownError({ description: "x" })
      })
      assert.strictEqual((yield* costOf("Hi", tokenizer(() => Effect.fail(error)).layer)).cost, byBytes("Hi"))
      const throwing = tokenizer(() => {
        throw new Error("broken")
      })
      assert.strictEqual((yield* costOf("Hi", throwing.layer)).cost, byBytes("Hi"))
      const call = yield* Effect.forkChild(Effect.flip(costOf("Hi", tokenizer(() => Effect.never).layer)))
      yield* TestClock.adjust("1 second")
      assert.strictEqual((yield* Fiber.join(call))._tag, "DeadlineExceeded")
    })))
})
