import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber, Stream } from "effect"
import { LlmError, LlmPool, LlmProvider, type LlmResponse } from "effect-resilient-llm"
import { fork } from "./support.ts"

const overloaded = new LlmError.ProviderError({ provider: "v", reason: { _tag: "Overloaded" } })
const badRequest = new LlmError.ProviderError({ provider: "v", reason: { _tag: "InvalidRequest" } })
const request = { prompt: [] }
const usage = {
  inputTokens: { total: 1, uncached: undefined, cacheRead: undefined, cacheWrite: undefined },
  outputTokens: { total: 1, text: undefined, reasoning: undefined }
}
const delta: LlmResponse.StreamPart = { type: "text-delta", id: "0", delta: "Hi" }
const finish: LlmResponse.StreamPart = { type: "finish", reason: "stop", usage }

const host = (
  stream: Stream.Stream<LlmResponse.StreamPart, LlmError.ProviderError>,
  asked: Array<string>,
  name: string
) =>
  LlmProvider.make({
    id: name,
    generate: () => Effect.never,
    stream: () => {
      asked.push(name)
      return stream
    }
  })

const out = (pool: LlmPool.LlmPool) =>
  Effect.map(pool.hosts, (all) => all.filter(({ ejectedFor }) => ejectedFor !== undefined).map(({ host }) => host))

describe("streams", () => {
  const good = Stream.make(delta, finish)
  it.effect.each<[string, Stream.Stream<LlmResponse.StreamPart, LlmError.ProviderError>, boolean]>([
    ["whole", good, false],
    ["an error instead of an answer", Stream.fail(overloaded), true],
    ["an error in the middle", Stream.concat(Stream.make(delta), Stream.fail(overloaded)), true],
    ["an error part", Stream.make(delta, { type: "error", error: overloaded } as const), true],
    ["cut: no finish part", Stream.make(delta), true],
    ["the caller's own mistake", Stream.fail(badRequest), false],
    ["an error after the finish part", Stream.concat(good, Stream.fail(overloaded)), false]
  ])("%s", ([, stream, isOut]) =>
    Effect.gen(function*() {
      const asked: Array<string> = []
      const pool = yield* LlmPool.make(
        { a: host(stream, asked, "a"), b: host(good, asked, "b") },
        { consecutiveFailures: 1 }
      )
      yield* Effect.exit(Stream.runDrain(pool.stream(request)))
      assert.deepStrictEqual(yield* out(pool), isOut ? ["a"] : [])
      yield* Stream.runDrain(pool.stream(request))
      yield* Effect.exit(Stream.runDrain(pool.stream(request)))
      assert.deepStrictEqual(asked, isOut ? ["a", "b", "b"] : ["a", "b", "a"])
    }))

  it.effect("a reader that leaves counts for nothing, and takes the host's stream along", () =>
    Effect.gen(function*() {
      let closed = 0
      const hanging = Stream.concat(Stream.make(delta), Stream.never).pipe(Stream.ensuring(Effect.sync(() => closed++)))
      const pool = yield* LlmPool.make(
        { a: host(hanging, [], "a"), b: host(hanging, [], "b") },
        { consecutiveFailures: 1 }
      )
      const fiber = yield* fork(Stream.runDrain(pool.stream(request)))
      yield* Effect.yieldNow
      yield* Fiber.interrupt(fiber)
      yield* Stream.runDrain(Stream.take(pool.stream(request), 1))
      assert.strictEqual(closed, 2)
      assert.deepStrictEqual(yield* out(pool), [])
    }))
})

describe("construction", () => {
  const plain = LlmProvider.make({ id: "v", generate: () => Effect.succeed("Hi") })

  it.effect("stands for its hosts", () =>
    Effect.gen(function*() {
      const pool = yield* LlmPool.make({ a: { ...plain, defaultModel: "m" }, b: { ...plain, defaultModel: "m" } })
      assert.deepStrictEqual([pool.id, pool.defaultModel, pool.models], ["v", "m", undefined])
      assert.strictEqual((yield* LlmPool.make({ a: plain }, { id: "mine" })).id, "mine")
    }))

  it.effect.each<[string, Effect.Effect<unknown, LlmError.LlmConfigError>, string]>([
    ["no host", LlmPool.make({}), "hosts"],
    ["a wrong option", LlmPool.make({ a: plain }, { baseEjection: -1 }), "pool.baseEjection"],
    ["other models", LlmPool.make({ a: plain, b: { ...plain, models: { x: "y" } } }), "pool.b.models"],
    ["another default", LlmPool.make({ a: plain, b: { ...plain, defaultModel: "x" } }), "pool.b.defaultModel"],
    ["other reasoning", LlmPool.make({ a: plain, b: { ...plain, reasoning: false } }), "pool.b.reasoning"]
  ])("refuses %s", ([, pool, path]) =>
    Effect.gen(function*() {
      assert.strictEqual((yield* Effect.flip(pool)).path, path)
    }))
})
