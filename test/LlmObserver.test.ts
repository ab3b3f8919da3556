import { assert, describe, it } from "@effect/vitest"
import { Effect, Layer, Stream } from "effect"
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

  it.effect("merged with a client are told of its calls, once each", () =>
    Effect.gen(function*() {
      const [a, b] = [collecting(), collecting()]
      const twice = Effect.andThen(ask, ask)
      yield* Effect.provide(twice, Layer.mergeAll(a.layer, Layer.provide(client, a.layer), b.layer))
      assert.deepStrictEqual([a.told, b.told], [[...once, ...once], [...once, ...once]])
    }))

  it.effect("found beside a call hear the client's other calls from then on", () =>
    Effect.gen(function*() {
      const a = collecting()
      const program = Effect.gen(function*() {
        yield* ask
        assert.deepStrictEqual(a.told, [])
        const stream = Effect.flatMap(LlmClient, (client) => Stream.runDrain(client.stream("Hi")))
        yield* Effect.provide(stream, a.layer)
        assert.strictEqual(a.told[0], "CallStarted")
        a.told.length = 0
        yield* ask
      })
      yield* Effect.provide(program, client)
      assert.deepStrictEqual(a.told, once)
    }))

  it.effect("beside one client hear nothing of another", () =>
    Effect.gen(function*() {
      const a = collecting()
      class Other extends LlmClient.Class<Other>()("app/Other", [Vendor]) {}
      const other = Layer.provide(Other.layer, Vendor.layer())
      const program = Effect.andThen(Effect.flatMap(Other, (client) => client.complete("Hi")), ask)
      yield* Effect.provide(program, Layer.merge(other, Layer.provide(client, a.layer)))
      assert.deepStrictEqual(a.told, once)
    }))

  it.effect("of one identity are told once, whoever installed them", () =>
    Effect.gen(function*() {
      const told: Array<string> = []
      const layer = () =>
        LlmObserver.layer(() => Effect.succeed((event) => void told.push(event._tag)), { identity: "mine" })
      yield* Effect.provide(ask, Layer.merge(client.pipe(Layer.provide([layer(), layer()])), layer()))
      assert.deepStrictEqual(told, once)
    }))
})
