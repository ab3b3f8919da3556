import { assert, describe, it } from "@effect/vitest"
import { Effect, Layer } from "effect"
import { LlmClient, type LlmEvent, LlmObserver } from "effect-resilient-llm"
import { ScriptedProvider } from "effect-resilient-llm/testing"

class Vendor extends ScriptedProvider.Service<Vendor>()("vendor") {}

const collecting = () => {
  const told: Array<LlmEvent.LlmEvent["_tag"]> = []
  const layer = LlmObserver.layer(() =>
    Effect.succeed((event) => {
      told.push(event._tag)
    })
  )
  return { told, layer }
}

const client = LlmClient.layer([Vendor]).pipe(Layer.provide(Vendor.layer([ScriptedProvider.answer("Hello.")])))
const ask = Effect.flatMap(LlmClient, (client) => client.complete("Hi"))
const once = ["CallStarted", "Idempotency", "AttemptStarted", "AttemptSucceeded", "Cache", "CallEnded"]

describe("observers", () => {
  it.effect("installed side by side are all told", () =>
    Effect.gen(function*() {
      const [a, b] = [collecting(), collecting()]
      yield* Effect.provide(ask, Layer.provide(client, [a.layer, b.layer]))
      assert.deepStrictEqual([a.told, b.told], [once, once])
    }))

  it.effect("installed one below the other are all told", () =>
    Effect.gen(function*() {
      const [a, b] = [collecting(), collecting()]
      yield* Effect.provide(ask, client.pipe(Layer.provide(a.layer), Layer.provide(b.layer)))
      assert.deepStrictEqual([a.told, b.told], [once, once])
    }))

  it.effect("installed twice are told once", () =>
    Effect.gen(function*() {
      const a = collecting()
      yield* Effect.provide(ask, client.pipe(Layer.provide([a.layer, a.layer]), Layer.provide(a.layer)))
      assert.deepStrictEqual(a.told, once)
    }))

  it.effect("that are not installed are not told", () =>
    Effect.gen(function*() {
      const a = collecting()
      yield* Effect.provide(ask, Layer.merge(client, a.layer))
      assert.deepStrictEqual(a.told, [])
    }))
})
