import { assert, describe, it } from "@effect/vitest"
import { Effect, Schedule } from "effect"
import { LlmConfig } from "effect-resilient-llm"
import { settings } from "../../src/LlmConfig.ts"
import { lineAt, longestHint, MOST, type Turn, turnOf } from "../../src/pipeline/turn.ts"

type Targets = Parameters<typeof settings>[0]

const read = (options: LlmConfig.Options, targets: Targets = [{ id: "p" }]) => {
  Effect.runSync(LlmConfig.check(options))
  return settings(targets, { rateLimit: false, circuitBreaker: false, ...options })
}

const turn = (options: LlmConfig.Options, { hint = 0, limit = 1000, line = 0 } = {}): Turn =>
  turnOf(read(options), 0, line, limit, hint)

const pauses = (options: LlmConfig.Options, given: Parameters<typeof turn>[1] = {}) =>
  turn(options, given).pauses.map(({ least, most, paidAt }) => [least, most, paidAt])

describe("turnOf", () => {
  const retry = { maxRetries: 3, baseDelay: 100, factor: 2, jitter: "full" } as const

  it("pauses as short and as long as chance makes them", () => {
    assert.deepStrictEqual(pauses({ retry, retryBudget: false }), [[0, 100, 0], [0, 200, 0], [0, 400, 0]])
    assert.deepStrictEqual(
      pauses({ retry: { ...retry, jitter: "none", maxDelay: 150 }, retryBudget: false }),
      [[100, 100, 0], [150, 150, 100], [150, 150, 250]]
    )
    assert.deepStrictEqual(pauses({ retry: false }), [])
    assert.deepStrictEqual(pauses({ retry: { ...retry, maxRetries: 0 } }), [])
  })

  it("a schedule of the caller's own may pause for any time", () => {
    const retry = { maxRetries: 2, schedule: Schedule.spaced(100) }
    assert.deepStrictEqual(pauses({ retry, retryBudget: false }), [[0, Infinity, 0], [0, Infinity, 0]])
  })

  it("a hint makes them longer, with its own jitter", () => {
    const [first] = pauses({ retry, retryBudget: false }, { hint: 5000 })
    assert.deepStrictEqual(first, [0, 5500, 0])
    assert.deepStrictEqual(pauses({ retry, retryBudget: false }, { hint: 1 })[2], [0, 400, 0])
  })

  it("what comes after two hundred retries is told by their number", () => {
    const many = turn({ retry: { ...retry, maxRetries: 1000 }, retryBudget: false })
    assert.deepStrictEqual([many.pauses.length, many.further], [MOST, 800])
    assert.strictEqual(turn({ retry: { ...retry, maxRetries: MOST }, retryBudget: false }).further, 0)
    assert.strictEqual(turn({ retry, retryBudget: false }).further, 0)
  })

  it("only what the purse of this call can pay for", () => {
    const budget = { capacity: 2, perAttempt: 0, perSecond: 0 }
    assert.strictEqual(pauses({ retry, retryBudget: budget }).length, 2)
    assert.strictEqual(pauses({ retry, retryBudget: { ...budget, capacity: 0.5 } }).length, 0)
    assert.strictEqual(pauses({ retry, retryBudget: { ...budget, capacity: 1 } }).length, 1)
    assert.strictEqual(pauses({ retry, retryBudget: { ...budget, capacity: 0.5, perAttempt: 0.1 } }).length, 0)
    assert.strictEqual(pauses({ retry, retryBudget: budget }, { limit: Infinity }).length, 2, "time adds nothing")
    // First attempts of other calls may fill it at any moment.
    assert.strictEqual(pauses({ retry, retryBudget: { ...budget, perAttempt: 0.1 } }).length, 3)
    // The third is paid by time: 1 token in 10 seconds of attempts and pauses.
    const slow = { retry: { ...retry, jitter: "none" }, retryBudget: { ...budget, perSecond: 0.1 } } as const
    assert.strictEqual(pauses(slow, { limit: 1000 }).length, 2)
    assert.deepStrictEqual(pauses(slow, { limit: 20_000 }).map(([, , paidAt]) => paidAt), [0, 100, 10_000])
    const four = { ...slow, retry: { ...slow.retry, maxRetries: 4 } }
    assert.deepStrictEqual(pauses(four, { limit: 20_000 }).map(([, , paidAt]) => paidAt), [0, 100, 10_000, 20_000])
  })

  it("what a line adds to an attempt, and what may refuse", () => {
    const plain = turn({ retry })
    assert.deepStrictEqual([plain.attempt, plain.refuses], [1000, false])
    assert.strictEqual(turn({ retry }, { line: 500 }).attempt, 1500)
    for (const options of [{ circuitBreaker: {} }, { bulkhead: { maxConcurrent: 1 } }, { rateLimit: {} }]) {
      assert.isTrue(turn({ retry, ...options }).refuses)
    }
    assert.isTrue(turn({ retry }, { line: Infinity }).refuses, "a guard of somebody else's")
  })
})

describe("a first attempt", () => {
  it("is refused by its permit alone after that wait, by own limits after the whole line", () => {
    const limits = [{ dimension: "requests", limit: 1, per: 1000 }]
    const refusal = (own: object, line: number) =>
      turnOf(read({ bulkhead: { maxConcurrent: 1, maxWait: 70 } }, [{ id: "p", ...own }]), 0, line, 1000, 0).refusal
    assert.strictEqual(refusal({}, 270), 70)
    assert.strictEqual(refusal({ limits }, 270), 270)
    assert.strictEqual(refusal({}, Infinity), Infinity)
  })
})

describe("lineAt", () => {
  it("the waits of permit, bucket and limits, where there is a line", () => {
    const limits = { limits: [{ dimension: "requests", limit: 1, per: 1000 }], maxWait: 5 }
    const at = (options: LlmConfig.Options, own: object = {}) => {
      const all = read(options, [{ id: "p", ...own }])
      return lineAt(all, all.targets[0]!)
    }
    assert.strictEqual(at({}), 0)
    assert.strictEqual(at({ bulkhead: { maxConcurrent: 1, maxWait: 70 } }), 70)
    assert.strictEqual(at({ bulkhead: { maxConcurrent: 1, maxWait: 70, queue: 0 } }), 0)
    assert.strictEqual(
      at({ bulkhead: { maxConcurrent: 1, maxWait: 70 }, rateLimit: { maxWait: 200 } }, { limits }),
      275
    )
    assert.strictEqual(at({ rateLimit: { maxWait: Infinity } }), Infinity)
  })
})

describe("longestHint", () => {
  const two: Targets = [{ id: "p" }, { id: "s" }]
  const retry = { maxRetryAfter: 60_000 }

  it("that of retries, shortened by failover only where the others are surely there", () => {
    const hint = (options: LlmConfig.Options, targets = two) => longestHint(read({ retry, ...options }, targets), 0)
    const failover = { maxRetryAfter: 5000, coolDown: 0 }
    assert.strictEqual(hint({ failover: false }), 60_000)
    assert.strictEqual(hint({ failover }), 5000)
    assert.strictEqual(hint({ failover: { ...failover, maxRetryAfter: 90_000 } }), 60_000)
    assert.strictEqual(hint({ failover: { ...failover, coolDown: 1000 } }), 60_000, "it may rest")
    assert.strictEqual(hint({ failover, circuitBreaker: {} }), 60_000, "its circuit may be open")
    assert.strictEqual(
      hint({ failover }, [{ id: "p", circuitBreaker: {} }, { id: "s" }]),
      5000,
      "its own does not count"
    )
    assert.strictEqual(hint({ retry: false, failover }), 0)
  })
})
