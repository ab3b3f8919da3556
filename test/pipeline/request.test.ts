// What of a request reaches a target, and what two requests are compared by.
import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Layer } from "effect"
import { LlmClient, type LlmConfig, LlmError, LlmProvider, type LlmRequest } from "effect-resilient-llm"
import { ask, kinds, vector } from "../support.ts"

/** A client, and what its providers were handed. */
const clientOf = (
  providers: ReadonlyArray<Partial<LlmProvider.Options> & { readonly fails?: boolean }>,
  options: LlmConfig.Options = {}
) =>
  Effect.gen(function*() {
    const handed: Array<readonly [string, LlmRequest.LlmRequest]> = []
    const [first, ...others] = providers.map(({ fails = false, ...settings }, i) => {
      const id = `p${i}`
      return {
        id,
        provider: LlmProvider.make({
          id,
          ...settings,
          generate: (request) =>
            Effect.suspend(() => {
              handed.push([id, request])
              return fails
                ? Effect.fail(new LlmError.ProviderError({ provider: id, reason: { _tag: "Overloaded" } }))
                : Effect.succeed("Hello.")
            })
        })
      }
    })
    const context = yield* Layer.build(LlmClient.layerDynamic([first!, ...others], { retry: false, ...options }))
    return { client: Context.get(context, LlmClient), handed }
  })

describe.each(kinds)("%s: metadata (HOUSE law 11, P15)", (kind) => {
  const replay = { idempotency: { derive: "replay" } } as const
  const questions = [{ prompt: "Hi", metadata: { user: "a" } }, { prompt: "Hi", metadata: { user: "b" } }]

  it.effect("is part of the question where a provider may read it", () =>
    vector(Effect.gen(function*() {
      for (const providers of [[{}], [{ readsMetadata: true }], [{ readsMetadata: false }, {}]]) {
        const { client, handed } = yield* clientOf(providers, replay)
        for (const question of questions) yield* ask(kind, client, question)
        assert.strictEqual(handed.length, 2)
      }
    })))

  it.effect("is no part of the question where none of the providers reads it", () =>
    vector(Effect.gen(function*() {
      const { client, handed } = yield* clientOf([{ readsMetadata: false }, { readsMetadata: false }], replay)
      for (const question of questions) yield* ask(kind, client, question)
      assert.strictEqual(handed.length, 1)
    })))

  it.effect("is handed to those only that may read it", () =>
    vector(Effect.gen(function*() {
      const { client, handed } = yield* clientOf([{ readsMetadata: false, fails: true }, {}])
      yield* ask(kind, client, questions[0])
      assert.deepStrictEqual(handed.map(([id, { metadata }]) => [id, metadata]), [["p0", undefined], ["p1", {
        user: "a"
      }]])
    })))
})

describe("the key that is sent upstream (P16)", () => {
  const upstream = (options: LlmConfig.Options) =>
    Effect.gen(function*() {
      const { client, handed } = yield* clientOf([{}], options)
      yield* ask("complete", client, { prompt: "Hi", idempotencyKey: "k" })
      yield* ask("stream", client, { prompt: "Hi", idempotencyKey: "k" })
      for (const tenant of ["a", "b"]) {
        for (const kind of kinds) yield* ask(kind, client, { prompt: "Hi", idempotencyKey: "k", tenant })
      }
      return handed.map(([, { idempotencyKey }]) => idempotencyKey)
    })

  it.effect("is the caller's own for a whole answer, and another for each tenant and for streams", () =>
    vector(Effect.gen(function*() {
      for (const options of [{}, { idempotency: false }] as const) {
        const [own, ...others] = yield* upstream(options)
        assert.strictEqual(own, "k")
        for (const other of others) assert.match(other!, /^[0-9a-f]{64}$/)
        assert.strictEqual(new Set(others).size, 5)
      }
    })))

  it.effect("is the same for every client and process", () =>
    vector(Effect.gen(function*() {
      assert.deepStrictEqual(yield* upstream({}), yield* upstream({ idempotency: false }))
    })))

  it.effect("goes out as it was generated where the caller gave none", () =>
    vector(Effect.gen(function*() {
      const { client, handed } = yield* clientOf([{}])
      for (const kind of kinds) yield* ask(kind, client, { prompt: "Hi", tenant: "t" })
      for (const [, { idempotencyKey }] of handed) assert.match(idempotencyKey!, /^llm-/)
    })))
})
