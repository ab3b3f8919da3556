import { assert, describe, it } from "@effect/vitest"
import type { LlmConfig } from "../../src/index.ts"
import { type Arrival, needed, replay, table } from "./replay.ts"

const off = { cache: false, idempotency: false, rateLimit: false } as const satisfies LlmConfig.Options

/** Two calls a second for twelve minutes. */
const arrivals: ReadonlyArray<Arrival> = Array.from({ length: 1440 }, (_, i) => ({
  at: i * 500,
  context: 1000,
  generated: 100 + i % 7
}))
const world = { arrivals, seed: 1 } as const

describe("replay", () => {
  it("without an outage everything takes its time, at the first vendor, and costs nothing extra", () => {
    for (const operation of ["complete", "stream"] as const) {
      const { answered, errors, longest, p50, vendors } = replay({ ...world, operation, outages: [] }, {
        name: "",
        options: off
      })
      assert.deepStrictEqual([answered, errors], [1440, {}])
      // 0.3 s + 0.1 ms a token of context, and then 15 ms a token, or the first one of them.
      assert.deepStrictEqual([p50, longest], operation === "complete" ? [1945, 1990] : [415, 415])
      assert.deepStrictEqual(vendors, [{ calls: 1440, tokens: needed(arrivals) }, { calls: 0, tokens: 0 }])
    }
  })

  it("an outage of the first vendor: the second one answers, or nobody does; the same seed gives the same hour", () => {
    const outages = [{ from: 4, to: 8, kind: "overloaded" as const }, { from: 9, to: 10, kind: "hangs" as const }]
    const play = (options: LlmConfig.Options) =>
      replay({ ...world, operation: "complete", outages }, { name: "x", options })
    const both = play(off)
    assert.strictEqual(both.answered, 1440)
    assert.isAbove(both.vendors[1]!.calls, 400)
    assert.deepStrictEqual(play(off), both)
    const alone = play({ ...off, failover: false })
    assert.isBelow(alone.answered, 1000)
    assert.strictEqual(alone.answered + Object.values(alone.errors).reduce((sum, count) => sum + count, 0), 1440)
    assert.strictEqual(alone.vendors[1]!.calls, 0)
    const [, , row] = table([both], needed(arrivals)).split("\n")
    assert.match(row!, /^\| x \| 1\.9 s \| .* \| 100\.00 % \| /)
  })
})
