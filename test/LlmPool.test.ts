import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Fiber, Layer, Stream } from "effect"
import { LlmClient, type LlmConfig, LlmError, LlmPool, LlmProvider, type LlmResponse } from "effect-resilient-llm"
import { ScriptedProvider } from "effect-resilient-llm/testing"
import { TestClock } from "effect/testing"
import { ask, fork, kinds, vector, vectorOptions } from "./support.ts"

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
    ["an error part about the request", Stream.make(delta, { type: "error", error: badRequest } as const), false],
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

describe.each(kinds)("in a pipeline, %s", (kind) => {
  const { answer, fail, hang, overloaded, stream } = ScriptedProvider
  /** A client whose only target, or first one, is a pool of these hosts. */
  const clientOf = (
    steps: Readonly<Record<string, ScriptedProvider.Step>>,
    options: LlmConfig.Options = {},
    ejection: LlmPool.Options = { consecutiveFailures: 1, maxEjectedPercent: 100 },
    second?: ScriptedProvider.Step
  ) =>
    Effect.gen(function*() {
      const hosts = yield* Effect.all(
        Object.fromEntries(
          Object.entries(steps).map((
            [name, step]
          ) => [name, ScriptedProvider.make([ScriptedProvider.always(step)], { id: "v" })])
        )
      )
      const pool = yield* LlmPool.make(hosts, ejection)
      const other = second === undefined
        ? []
        : [yield* ScriptedProvider.make([ScriptedProvider.always(second)], { id: "s" })]
      const context = yield* Layer.build(
        LlmClient.layerDynamic([pool, ...other], { ...vectorOptions, retry: { baseDelay: 1 }, ...options })
      )
      return { client: Context.get(context, LlmClient), pool, hosts }
    })
  const empty = kind === "complete" ? answer([]) : stream({ type: "finish", reason: "stop", usage })
  const key = fail({ _tag: "Authentication" }, { status: 401 })

  it.effect.each<[string, ScriptedProvider.Step]>([
    ["hangs", hang],
    ["has a bad key", key],
    ["has no quota left", fail({ _tag: "Quota" }, { status: 429 })],
    ["answers nothing", empty],
    ["is overloaded", overloaded]
  ])("a host that %s is ejected, and its call answered by another one", ([, step]) =>
    vector(Effect.gen(function*() {
      const { client, pool } = yield* clientOf({ ill: step, well: answer("Hi.") }, {
        timeout: { attempt: 1000, firstToken: 1000 }
      })
      for (let i = 0; i < 2; i++) {
        const call = yield* fork(ask(kind, client))
        yield* TestClock.adjust("5 seconds")
        assert.strictEqual((yield* Fiber.join(call)).text, "Hi.")
      }
      assert.deepStrictEqual(yield* out(pool), ["ill"])
      assert.isUndefined((yield* client.status).targets[0]?.coolingDown)
    })))

  it.effect("one bad key of five fails no call, and does not rest the pool beside a second target", () =>
    vector(Effect.gen(function*() {
      const well = answer("Hi.")
      const { client, hosts } = yield* clientOf(
        { a: well, b: well, bad: key, c: well, d: well },
        {},
        {},
        answer("other")
      )
      for (let i = 0; i < 100; i++) {
        const call = yield* fork(ask(kind, client))
        yield* TestClock.adjust("1 second")
        assert.strictEqual((yield* Fiber.join(call)).target, "v")
      }
      // Out for 30 s, then 60 s: asked at 2, 35 and 96 or so.
      assert.isAtMost((yield* hosts["bad"]!.requests).length, 4)
    })))

  it.effect("when no other key is left, the target rests as a whole", () =>
    vector(Effect.gen(function*() {
      const { client } = yield* clientOf({ a: key, b: key }, {}, {}, answer("other"))
      const call = yield* fork(ask(kind, client))
      yield* TestClock.adjust("5 seconds")
      assert.strictEqual((yield* Fiber.join(call)).text, "other")
      assert.isDefined((yield* client.status).targets[0]?.coolingDown)
    })))
})

describe("construction", () => {
  it.effect("hosts whose models are written in another order are the same", () =>
    Effect.gen(function*() {
      const plain = LlmProvider.make({ id: "v", generate: () => Effect.succeed("Hi") })
      const pool = LlmPool.make({
        a: { ...plain, models: { x: "1", y: "2" } },
        b: { ...plain, models: { y: "2", x: "1" } }
      })
      assert.deepStrictEqual((yield* pool).models, { x: "1", y: "2" })
    }))

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
    ["other reasoning", LlmPool.make({ a: plain, b: { ...plain, reasoning: false } }), "pool.b.reasoning"],
    ["another vendor", LlmPool.make({ a: plain, b: { ...plain, vendor: "v" } }), "pool.b.vendor"]
  ])("refuses %s", ([, pool, path]) =>
    Effect.gen(function*() {
      assert.strictEqual((yield* Effect.flip(pool)).path, path)
    }))
})

it.effect("a pool says what its hosts say of a request, under their vendor's name", () =>
  Effect.gen(function*() {
    const changes = () => [{ field: "seed", action: "dropped" } as const]
    const host = LlmProvider.make({ id: "h", vendor: "v", changes, generate: () => Effect.succeed("Hi") })
    const pool = yield* LlmPool.make({ a: host, b: host })
    assert.strictEqual(pool.vendor, "v")
    assert.deepStrictEqual(pool.changes?.({ prompt: [] }), [{ field: "seed", action: "dropped" }])
  }))
