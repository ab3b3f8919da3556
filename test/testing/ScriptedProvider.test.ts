import { assert, it } from "@effect/vitest"
import { Effect, Layer } from "effect"
import { LlmClient } from "effect-resilient-llm"
import { ScriptedProvider } from "effect-resilient-llm/testing"
import { TestClock } from "effect/testing"

const { always, answer, fail, until } = ScriptedProvider
const overloaded = fail({ _tag: "Overloaded" })
const request = (text: string) => ({ prompt: [{ role: "user", content: text }] }) as const

class Primary extends ScriptedProvider.Service<Primary>()("app/Primary") {}

/** What a request met. */
const met = (provider: ScriptedProvider.ScriptedProvider, text = "Hi") =>
  Effect.match(provider.generate(request(text)), {
    onSuccess: (parts) => parts.flatMap((part) => part.type === "text" ? [part.text] : []).join(""),
    onFailure: ({ reason }) => reason._tag
  })

it("what is no time has no until", () => {
  for (const time of [{}, NaN, -1]) assert.throws(() => until(time, overloaded), /until/)
})

it.effect("by time: an outage, a slow recovery, then what every request meets", () =>
  Effect.gen(function*() {
    const provider = yield* ScriptedProvider.make([
      until("10 minutes", overloaded),
      answer("the first one afterwards"),
      until("5 minutes", fail({ _tag: "Server" })), // over when its turn comes
      until("20 minutes", ({ prompt }) => answer(`slow, ${prompt.length}`)),
      always(answer("well"))
    ])
    assert.deepStrictEqual([yield* met(provider), yield* met(provider)], ["Overloaded", "Overloaded"])
    yield* TestClock.adjust(10 * 60_000 - 1)
    assert.strictEqual(yield* met(provider), "Overloaded")
    yield* TestClock.adjust(1)
    assert.deepStrictEqual([yield* met(provider), yield* met(provider)], ["the first one afterwards", "slow, 1"])
    yield* TestClock.adjust("10 minutes")
    assert.deepStrictEqual([yield* met(provider), yield* met(provider)], ["well", "well"])
  }))

it.effect("by request: once, or always", () =>
  Effect.gen(function*() {
    const echo = (input: { readonly prompt: ReadonlyArray<{ readonly content: unknown }> }) =>
      answer(`you said ${String(input.prompt[0]?.content)}`)
    const provider = yield* ScriptedProvider.make([(input) => echo(input), overloaded, always(echo)])
    assert.deepStrictEqual(
      [yield* met(provider, "A"), yield* met(provider, "B"), yield* met(provider, "C"), yield* met(provider, "D")],
      ["you said A", "Overloaded", "you said C", "you said D"]
    )
  }))

it.effect("what is played later comes before what is always met, and always can change", () =>
  Effect.gen(function*() {
    const provider = yield* ScriptedProvider.make([always(answer("well"))])
    assert.strictEqual(yield* met(provider), "well")
    yield* provider.play(overloaded, always(answer("well again")))
    assert.deepStrictEqual([yield* met(provider), yield* met(provider)], ["Overloaded", "well again"])
  }))

it.effect("a test reaches the provider by its tag", () =>
  Effect.gen(function*() {
    const client = yield* LlmClient
    const provider = yield* Primary
    yield* provider.play(answer("played later"))
    assert.strictEqual((yield* client.complete("Hi")).text, "played later")
    const [recorded, ...others] = yield* provider.requests
    assert.deepStrictEqual([recorded?.operation, others], ["complete", []])
    assert.strictEqual(yield* provider.active, 0)
  }).pipe(Effect.provide(Layer.provideMerge(LlmClient.layer([Primary]), Primary.layer()))))
