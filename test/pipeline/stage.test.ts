import { assert, describe, it } from "@effect/vitest"
import { Cause, Effect, Exit } from "effect"
import { StreamInterrupted } from "effect-resilient-llm/LlmError"
import type { Answer } from "effect-resilient-llm/LlmResponse"
import {
  chain,
  type Chunk,
  drain,
  type End,
  followedBy,
  partSize,
  type Served,
  sizeOf,
  tell,
  whenEnded,
  whole
} from "../../src/pipeline/stage.ts"

const answer = (...parts: ReadonlyArray<object>): Answer => ({ parts, target: "p", provider: "p" }) as unknown as Answer

describe("the end of an answer", () => {
  it.effect("of a whole one is told at once, of a stream when it ends, once, and in order", () =>
    Effect.gen(function*() {
      const told: Array<string> = []
      const end = (name: string): End => ({
        onWhole: () => Effect.sync(() => told.push(name)),
        onFailed: () => Effect.sync(() => told.push(`${name} failed`))
      })
      const served = whole(answer(), "provider", 0)
      assert.strictEqual(yield* whenEnded(served, end("now").onWhole), served)
      assert.deepStrictEqual(told.splice(0), ["now"])

      const streamed: Served = { ...served, rest: Cause.done(), ends: [] }
      for (const name of ["inner", "outer"]) {
        yield* whenEnded(streamed, end(name).onWhole, end(name).onFailed)
      }
      yield* whenEnded(streamed, () => undefined)
      assert.deepStrictEqual(told, [])
      yield* tell(streamed.ends, (one) => one.onWhole())!
      assert.deepStrictEqual(told, ["inner", "outer"])
      assert.isUndefined(tell(streamed.ends, (one) => one.onWhole()), "nobody is left")
      // What is told to those of one whole answer is told to nobody else.
      assert.deepStrictEqual(whole(answer(), "provider", 0).ends, [])
    }))

  it.effect("is asked of all before anything of it is done", () =>
    Effect.gen(function*() {
      const ends: Array<End> = []
      let asked = 0
      for (let i = 0; i < 2; i++) {
        ends.push({
          onWhole: () => {
            asked += 1
            return Effect.sync(() => assert.strictEqual(asked, 2))
          }
        })
      }
      yield* tell(ends, (one) => one.onWhole())!
    }))
})

describe("chain", () => {
  it("goes on at once with what is done, and fails with what has failed", () => {
    const next = (n: number) => Exit.succeed(n + 1)
    const same = Exit.succeed(2)
    assert.strictEqual(chain(Exit.succeed(1), () => same), same)
    assert.deepStrictEqual(Effect.runSyncExit(chain(Exit.fail("no"), () => assert.fail("it went on"))), Exit.fail("no"))
    assert.deepStrictEqual(Effect.runSyncExit(chain(Effect.suspend(() => Effect.succeed(1)), next)), Exit.succeed(2))
  })

  it("a value after something that may have nothing to do", () => {
    let done = 0
    assert.strictEqual(Effect.runSync(followedBy(undefined, 1)), 1)
    assert.strictEqual(Effect.runSync(followedBy(Effect.sync(() => void done++), 2)), 2)
    assert.strictEqual(done, 1)
  })
})

describe("drain", () => {
  it.effect("reads to the end, or to where it breaks", () =>
    Effect.gen(function*() {
      let left = 3
      const chunk = [{ type: "text-delta", id: "1", delta: "x" }] as unknown as Chunk
      const served = {
        ...whole(answer(), "provider", 0),
        rest: Effect.suspend(() => left-- > 0 ? Effect.succeed(chunk) : Cause.done())
      }
      yield* drain(served)
      assert.strictEqual(left, -1)
      yield* drain(whole(answer(), "provider", 0))
      const broken = new StreamInterrupted({ provider: "p", kind: "reset", partialParts: 1 })
      assert.strictEqual(yield* Effect.flip(drain({ ...served, rest: Effect.fail(broken) })), broken)
    }))
})

describe("sizes", () => {
  it("grow with what a part holds, two bytes a character, and some for the part itself", () => {
    const size = (part: object): number => partSize(part as never)
    const empty = 128
    assert.strictEqual(size({ type: "text-delta", delta: "x".repeat(10) }), empty + 20)
    assert.strictEqual(size({ type: "text", text: "x".repeat(10) }), empty + 20)
    assert.strictEqual(size({ type: "file", data: new Uint8Array(1000) }), empty + 2000)
    assert.strictEqual(size({ type: "tool-call", params: { a: "x" } }), empty + 2 * "{\"a\":\"x\"}".length)
    assert.strictEqual(size({ type: "tool-result", result: [1] }), empty + 6)
    assert.strictEqual(size({ type: "finish" }), empty)
  })

  it("of what has no text is a guess", () => {
    const own: { self?: unknown } = {}
    own.self = own
    for (const params of [own, 1n]) assert.strictEqual(partSize({ type: "tool-call", params } as never), 128 + 512)
    assert.strictEqual(partSize({ type: "tool-call", params: undefined } as never), 128)
    assert.strictEqual(sizeOf(answer({ type: "text", text: "x" }, { type: "finish" })), 258)
  })
})
