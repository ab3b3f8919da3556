// A stream after its first content part: what is kept of it, and for how long.
import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Layer, Stream } from "effect"
import { LlmClient, type LlmConfig, LlmError, LlmProvider, type LlmResponse } from "effect-resilient-llm"
import { setFlagsFromString } from "node:v8"
import { runInNewContext } from "node:vm"
import { find } from "../conformance/support.ts"
import { failure } from "../support.ts"

const MiB = 1024 * 1024

const clientOf = (
  stream: () => Stream.Stream<LlmResponse.StreamPart, LlmError.ProviderError>,
  options: LlmConfig.Options = {}
) =>
  Effect.map(
    Layer.build(LlmClient.layerDynamic(
      [LlmProvider.make({ id: "p", generate: () => Effect.succeed("unused"), stream })],
      { retry: false, ...options }
    )),
    (context) => Context.get(context, LlmClient)
  )

const finish: LlmResponse.StreamPart = {
  type: "finish",
  reason: "stop",
  usage: { inputTokens: { total: 7 }, outputTokens: { total: 9 } }
}
const delta = (text: string): LlmResponse.StreamPart => ({ type: "text-delta", id: "0", delta: text })

describe("kept parts", () => {
  it.effect("take at most 16 MiB a stream; the end of a longer one is still right, and it is not stored", () =>
    Effect.scoped(Effect.gen(function*() {
      // A megabyte of characters counts two bytes each.
      const parts = Stream.rechunk(
        Stream.concat(Stream.map(Stream.range(1, 12), () => delta("x".repeat(MiB))), Stream.make(finish)),
        1
      )
      const client = yield* clientOf(() => parts, { cache: {} })
      const opened = yield* client.open("Hi")
      const delivered = yield* Stream.runFold(
        opened.parts,
        () => 0,
        (sum, part) => sum + ("delta" in part ? part.delta.length : 0)
      )
      assert.strictEqual(delivered, 12 * MiB)
      const response = yield* opened.response
      assert.isTrue(response.cut)
      assert.isAtMost(response.text.length, 8 * MiB)
      assert.isAtLeast(response.text.length, 7 * MiB)
      assert.strictEqual(response.finishReason, "stop")
      assert.deepStrictEqual(response.usage, { inputTokens: { total: 7 }, outputTokens: { total: 9 } })
      assert.deepStrictEqual(find(response.ledger, "Cache").map(({ result }) => result), ["rejected"])
    })))

  it.effect("many small parts after a large one are not kept either: what is kept is a beginning and the end", () =>
    Effect.scoped(Effect.gen(function*() {
      const texts = ["a", "b".repeat(9 * MiB), "c"]
      const client = yield* clientOf(() => Stream.rechunk(Stream.fromIterable([...texts.map(delta), finish]), 1))
      const { response } = yield* client.open("Hi")
      const { cut, finishReason, text } = yield* response
      assert.deepStrictEqual([cut, finishReason, text.length], [true, "stop", 1])
    })))
})

describe("an error that somebody keeps", () => {
  setFlagsFromString("--expose-gc")
  const collect = runInNewContext("gc") as () => void
  const isCollected = (ref: WeakRef<object>) =>
    Effect.gen(function*() {
      for (let i = 0; i < 10 && ref.deref() !== undefined; i++) {
        yield* Effect.promise(() => new Promise((resolve) => setTimeout(resolve, 1)))
        collect()
      }
      return ref.deref() === undefined
    })

  it.live.each(["cut", "error", "failure"] as const)(
    "does not hold its stream (%s)",
    (how) =>
      Effect.scoped(Effect.gen(function*() {
        let ref: WeakRef<object> | undefined
        const stream = () => {
          const big = { ...delta("x"), metadata: { vendor: { big: "x".repeat(1000) } } }
          ref = new WeakRef(big)
          const end = how === "cut"
            ? Stream.empty
            : how === "error"
            ? Stream.make<ReadonlyArray<LlmResponse.StreamPart>>({ type: "error", error: new Error("broken") } as never)
            : Stream.suspend(() =>
              Stream.fail(new LlmError.ProviderError({ provider: "p", reason: { _tag: "Server" } }))
            )
          return Stream.concat(Stream.make(delta("a"), big), end) as Stream.Stream<
            LlmResponse.StreamPart,
            LlmError.ProviderError
          >
        }
        const client = yield* clientOf(stream, { cache: false })
        const error = failure(yield* Effect.exit(Stream.runDrain(client.stream("Hi"))))
        assert.strictEqual(error._tag, "StreamInterrupted")
        assert.isDefined(ref)
        assert.isTrue(yield* isCollected(ref))
        assert.strictEqual(error._tag, "StreamInterrupted")
      }))
  )
})
