import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import type { LlmConfig } from "../../src/index.ts"
import type { Simulator } from "../../src/testing/index.ts"
import { needed, replay, table, tokensOf } from "./replay.ts"

const off = { cache: false, idempotency: false, rateLimit: false } as const satisfies LlmConfig.Options

/** Two calls a second for twelve minutes. */
const calls: ReadonlyArray<Simulator.TracedCall> = Array.from({ length: 1440 }, (_, i) => ({
  at: i * 500,
  input: 1000,
  output: 100 + i % 7
}))
const world = { calls, seed: 1 } as const

describe("replay", () => {
  it.live("without an outage everything takes its time, at the first vendor, and costs nothing extra", () =>
    Effect.gen(function*() {
      for (const operation of ["complete", "stream"] as const) {
        const report = yield* replay({ ...world, operation, outages: [] }, [{ name: "off", options: off }])
        const { answered, errors, firstToken: { longest, p50 }, vendors } = report.policies[0]!
        assert.deepStrictEqual([answered, errors], [1440, {}])
        // 0.3 s + 0.1 ms a token of context, and then 15 ms a token, or the first one of them.
        assert.deepStrictEqual([p50, longest], operation === "complete" ? [1945, 1990] : [415, 415])
        assert.deepStrictEqual(
          vendors.map((vendor) => [vendor.requests, tokensOf(vendor)]),
          [[1440, needed(calls)], [0, 0]]
        )
      }
    }))

  it.live("an outage of the first vendor: the second one answers, or nobody does; the same seed gives the same hour", () =>
    Effect.gen(function*() {
      const outages: ReadonlyArray<Simulator.Phase> = [
        { kind: "overload", share: 0.9, from: "4 minutes", to: "8 minutes" },
        { kind: "hang", from: "9 minutes", to: "10 minutes" }
      ]
      const play = (options: LlmConfig.Options) =>
        replay({ ...world, operation: "complete", outages }, [{ name: "x", options }])
      const report = yield* play(off)
      const both = report.policies[0]!
      assert.strictEqual(both.answered, 1440)
      assert.isAbove(both.vendors[1]!.requests, 400)
      assert.deepStrictEqual(yield* play(off), report)
      const alone = (yield* play({ ...off, failover: false })).policies[0]!
      assert.isBelow(alone.answered, 1000)
      assert.strictEqual(alone.answered + Object.values(alone.errors).reduce((sum, count) => sum + count, 0), 1440)
      assert.strictEqual(alone.vendors[1]!.requests, 0)
      const [, , row] = table(report, needed(calls)).split("\n")
      assert.match(row!, /^\| x \| 1\.9 s \| .* \| 100\.00 % \| /)
    }))
})
