import { assert, describe, it } from "@effect/vitest"
import { Schema } from "effect"
import type { LlmError } from "effect-resilient-llm"
import * as AdaptiveConcurrency from "effect-resilient-llm/resilience/AdaptiveConcurrency"

/** A limit, and the calls under way: each knows the epoch it was admitted in. */
class Calls {
  readonly policy: AdaptiveConcurrency.Policy
  state: AdaptiveConcurrency.State
  readonly open: Array<number> = []

  constructor(options: AdaptiveConcurrency.Options) {
    this.policy = AdaptiveConcurrency.policy(options)
    this.state = AdaptiveConcurrency.initial(this.policy)
  }

  admit(count = 1): this {
    for (let i = 0; i < count; i++) this.open.push(this.state.epoch)
    return this
  }

  /** Ends calls, the oldest first. */
  end(outcome: AdaptiveConcurrency.Outcome, count = 1): number {
    for (let i = 0; i < count; i++) {
      const inFlight = this.open.length
      this.state = AdaptiveConcurrency.record(this.policy, this.state, this.open.shift()!, outcome, inFlight)
    }
    return this.state.limit
  }
}

describe("AdaptiveConcurrency", () => {
  it("K10 one overload lowers the limit once, however many calls feel it", () => {
    const calls = new Calls({ initial: 20 }).admit(20)
    assert.strictEqual(calls.end("overload", 3), 14)
    assert.strictEqual(calls.end("overload", 17), 14)
    calls.admit(14)
    assert.strictEqual(calls.end("overload"), 9)
    // Admitted with the one before, it felt the same overload.
    assert.strictEqual(calls.end("overload", 13), 9)
    calls.admit()
    assert.strictEqual(calls.end("overload"), 6)
    assert.strictEqual(calls.state.epoch, 3)
  })

  it("K11 as many successes as the limit, with half of it in use, raise it by one", () => {
    const calls = new Calls({}).admit(5)
    for (let i = 1; i <= 9; i++) assert.strictEqual(calls.admit().end("success") && calls.state.successes, i)
    assert.strictEqual(calls.state.limit, 10)
    assert.strictEqual(calls.admit().end("success"), 11)
    assert.strictEqual(calls.state.successes, 0)
  })

  it("K12 a limit that nobody needs stays", () => {
    const calls = new Calls({})
    for (let i = 0; i < 1000; i++) assert.strictEqual(calls.admit().end("success"), 10)
    // Four of ten, and at the end of each five minus the one.
    calls.admit(3)
    for (let i = 0; i < 1000; i++) assert.strictEqual(calls.admit().end("success"), 10)
  })

  it("K13 the least limit comes back", () => {
    const calls = new Calls({ initial: 1 })
    assert.strictEqual(calls.admit().end("overload"), 1)
    assert.strictEqual(calls.admit().end("success"), 2)
  })

  it("K14 what says nothing about load changes nothing", () => {
    const calls = new Calls({})
    for (let i = 0; i < 200; i++) assert.strictEqual(calls.admit().end("neutral"), 10)
    assert.deepStrictEqual(calls.state, AdaptiveConcurrency.initial(calls.policy))
  })

  it("K15 the largest limit stays", () => {
    const calls = new Calls({ initial: 100 }).admit(99)
    for (let i = 0; i < 100; i++) assert.strictEqual(calls.admit().end("success"), 100)
  })

  it("a decrease starts the count of successes anew, and stops at the least limit", () => {
    const calls = new Calls({ min: 8 }).admit(10)
    calls.end("success", 4)
    assert.strictEqual(calls.state.successes, 4)
    assert.strictEqual(calls.end("overload"), 8)
    assert.strictEqual(calls.state.successes, 0)
  })

  it("reads its options", () => {
    assert.deepStrictEqual(AdaptiveConcurrency.policy(), { initial: 10, min: 1, max: 100, backoffRatio: 0.7 })
    assert.deepStrictEqual(AdaptiveConcurrency.policy({ min: 20 }), {
      initial: 20,
      min: 20,
      max: 100,
      backoffRatio: 0.7
    })
    assert.deepStrictEqual(AdaptiveConcurrency.policy({ max: 4 }), { initial: 4, min: 1, max: 4, backoffRatio: 0.7 })
    // One that never moves.
    assert.strictEqual(AdaptiveConcurrency.policy({ min: 5, max: 5 }).initial, 5)
    const wrong = [
      [{ initial: 0 }, "adaptive.initial"],
      [{ initial: 101 }, "adaptive.initial", "a whole number from 1 to 100"],
      [{ initial: 4, min: 5 }, "adaptive.initial", "a whole number from 5 to 100"],
      [{ min: 0 }, "adaptive.min"],
      [{ min: 5, max: 4 }, "adaptive.max", "a whole number of at least 5"],
      [{ backoffRatio: 1 }, "adaptive.backoffRatio"],
      [{ limit: 3 }, "adaptive.limit"]
    ] as const
    for (const [options, path, rule] of wrong) {
      try {
        AdaptiveConcurrency.policy(options as AdaptiveConcurrency.Options)
        assert.fail(path)
      } catch (error) {
        assert.strictEqual((error as LlmError.LlmConfigError).path, path)
        if (rule !== undefined) assert.strictEqual((error as LlmError.LlmConfigError).rule, rule)
      }
    }
  })
})

// -----------------------------------------------------------------------------
// reference model
// -----------------------------------------------------------------------------

const int = (minimum: number, maximum: number) => Schema.Int.check(Schema.isBetween({ minimum, maximum }))
const Op = Schema.Union([
  Schema.TaggedStruct("admit", { count: int(1, 6) }),
  Schema.TaggedStruct("end", {
    which: int(0, 30),
    outcome: Schema.Literals(["success", "success", "success", "overload", "neutral"])
  })
])

interface Entry {
  readonly admitted: number
  readonly at: number
  readonly outcome: AdaptiveConcurrency.Outcome
  readonly inFlight: number
}

/** Counts from scratch, over the whole log. */
const limitOf = (log: ReadonlyArray<Entry>): number => {
  let limit = 6
  let loweredAt = -1
  let movedAt = -1
  for (const { admitted, at, outcome } of log) {
    if (outcome === "overload" && admitted > loweredAt) {
      limit = Math.max(2, Math.floor(limit / 2))
      loweredAt = movedAt = at
    }
    const since = log.filter((one) =>
      one.at > movedAt && one.at <= at && one.outcome === "success" && one.inFlight >= limit / 2
    )
    if (since.length >= limit && limit < 9) {
      limit += 1
      movedAt = at
    }
  }
  return limit
}

describe("AdaptiveConcurrency against its model", () => {
  it.prop(
    "the limit is that of the model",
    { ops: Schema.Array(Op).check(Schema.isMinLength(20), Schema.isMaxLength(80)) },
    ({ ops }) => {
      const policy = AdaptiveConcurrency.policy({ initial: 6, min: 2, max: 9, backoffRatio: 0.5 })
      let state = AdaptiveConcurrency.initial(policy)
      const open: Array<{ readonly epoch: number; readonly admitted: number }> = []
      const log: Array<Entry> = []
      for (const [at, op] of ops.entries()) {
        if (op._tag === "admit") {
          for (let i = 0; i < op.count; i++) open.push({ epoch: state.epoch, admitted: at })
          continue
        }
        const inFlight = open.length
        if (inFlight === 0) continue
        const [call] = open.splice(op.which % inFlight, 1)
        log.push({ admitted: call!.admitted, at, outcome: op.outcome, inFlight })
        state = AdaptiveConcurrency.record(policy, state, call!.epoch, op.outcome, inFlight)
        assert.strictEqual(state.limit, limitOf(log))
      }
    },
    { arbitrary: { runs: 400, seed: 13 } }
  )
})
