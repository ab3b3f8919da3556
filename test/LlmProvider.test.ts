import { assert, it } from "@effect/vitest"
import { Cause, Context, Effect, Exit, Layer, Stream } from "effect"
import { LlmClient, LlmPool, LlmProvider } from "effect-resilient-llm"
import { Chaos } from "effect-resilient-llm/testing"

const ask = { prompt: [{ role: "user", content: "Hi" }] } as const

const clientOf = (provider: LlmProvider.LlmProvider) =>
  Effect.map(Layer.build(LlmClient.layerDynamic([provider])), (context) => Context.get(context, LlmClient))

const said = (exit: Exit.Exit<unknown, unknown>): unknown => {
  const defect = Exit.isFailure(exit) ? Cause.squash(exit.cause) : undefined
  return defect instanceof TypeError ? defect.message : exit
}

const wrong: ReadonlyArray<readonly [string, unknown]> = [
  ["a text", "An answer."],
  ["a promise", Promise.resolve("An answer.")],
  ["nothing", undefined]
]

it.effect.each(wrong)(
  "a provider that returns no effect, but %s: a defect that says so",
  ([came, value]) =>
    Effect.scoped(Effect.gen(function*() {
      const provider = LlmProvider.make({ id: "mine", generate: () => value as never })
      const message = `The provider "mine" returned what is no effect, but ${came}`
      const plain: LlmProvider.LlmProvider = { ...provider, generate: () => value as never }
      const client = yield* clientOf(provider)
      const pool = yield* LlmPool.make({ a: plain })
      const chaos = yield* Chaos.provider(plain, { rate: 0 })
      for (
        const call of [
          provider.generate(ask),
          Stream.runDrain(provider.stream(ask)),
          client.complete("Hi"),
          Stream.runDrain(client.stream("Hi")),
          pool.generate(ask),
          chaos.generate(ask)
        ]
      ) {
        let released = false
        const finalized = Effect.ensuring(call, Effect.sync(() => released = true))
        assert.strictEqual(said(yield* Effect.exit(finalized)), message)
        assert.isTrue(released)
      }
    }))
)

it.effect("a provider that returns no stream: a defect that says so", () =>
  Effect.scoped(Effect.gen(function*() {
    const stream = () => Effect.succeed("An answer.") as never
    const client = yield* clientOf(LlmProvider.make({ id: "mine", generate: () => Effect.succeed("Hi"), stream }))
    assert.strictEqual(
      said(yield* Effect.exit(Stream.runDrain(client.stream("Hi")))),
      "The provider \"mine\" returned what is no stream, but an object"
    )
  })))
