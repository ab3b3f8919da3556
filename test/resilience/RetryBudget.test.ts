import { assert, describe, it } from "@effect/vitest"
import { Clock, Config, ConfigProvider, Effect, Schema } from "effect"
import * as RetryBudget from "effect-resilient-llm/resilience/RetryBudget"
import { TestClock } from "effect/testing"

const parameters: RetryBudget.Options = { capacity: 10, perAttempt: 0.2, perSecond: 0.1 }

/** A purse with the given number of tokens, drained by whole withdrawals. */
const holding = (tokens: number, options?: RetryBudget.Options) =>
  Effect.gen(function*() {
    const budget = yield* RetryBudget.make({ ...parameters, ...options })
    for (let i = tokens; i < 10; i++) assert.isDefined(budget.withdrawUnsafe(0))
    assert.strictEqual(yield* budget.balance, tokens)
    return budget
  })

const grants = (budget: RetryBudget.RetryBudget, count: number, now: number) =>
  Array.from({ length: count }, () => budget.withdrawUnsafe(now) !== undefined)

const monotonic = Effect.clockWith((clock) => Effect.succeed(Number(clock.monotonicTimeNanosUnsafe()) / 1e6))

describe("RetryBudget", () => {
  describe("vectors", () => {
    it.effect("B1 twelve calls at once fail: ten retries, and at 375 the purse holds 37.5 thousandths", () =>
      Effect.gen(function*() {
        const budget = yield* RetryBudget.make(parameters)
        for (let i = 0; i < 12; i++) budget.depositUnsafe(0)
        assert.strictEqual(grants(budget, 12, 0).filter(Boolean).length, 10)
        yield* TestClock.adjust(375)
        assert.strictEqual(budget.withdrawUnsafe(375), undefined)
        assert.strictEqual(yield* budget.balance, 0.0375)
      }))

    it.effect("B2 an empty purse pays after 10 000, not after 9 999", () =>
      Effect.gen(function*() {
        const budget = yield* holding(0)
        assert.deepStrictEqual(grants(budget, 1, 9999), [false])
        assert.deepStrictEqual(grants(budget, 2, 10_000), [true, false])
      }))

    it.effect("B2 nor does asking often lose the fractions", () =>
      Effect.gen(function*() {
        const budget = yield* holding(0)
        for (let now = 0; now < 10_000; now += 0.25) {
          if (budget.withdrawUnsafe(now) !== undefined) assert.fail(`granted at ${now}`)
        }
        assert.deepStrictEqual(grants(budget, 1, 10_000), [true])
      }))

    it.effect("B3 five first attempts pay for exactly one retry", () =>
      Effect.gen(function*() {
        const budget = yield* holding(0)
        for (let i = 0; i < 4; i++) budget.depositUnsafe(0)
        assert.deepStrictEqual(grants(budget, 1, 0), [false])
        budget.depositUnsafe(0)
        assert.deepStrictEqual(grants(budget, 2, 0), [true, false])
        assert.strictEqual(yield* budget.balance, 0)
      }))

    it.effect("B4 a thousand failing calls of at most three attempts get 209 retries", () =>
      Effect.gen(function*() {
        const budget = yield* RetryBudget.make(parameters)
        let retries = 0
        for (let call = 0; call < 1000; call++) {
          budget.depositUnsafe(0)
          for (let k = 0; k < 2 && budget.withdrawUnsafe(0) !== undefined; k++) retries++
        }
        assert.strictEqual(retries, 209)
      }))

    it.effect("B5 a hundred fibers get ten tokens", () =>
      Effect.gen(function*() {
        const budget = yield* RetryBudget.make(parameters)
        const results = yield* Effect.forEach(
          Array.from({ length: 100 }),
          () => Effect.andThen(Effect.yieldNow, Effect.sync(() => budget.withdrawUnsafe(0))),
          { concurrency: "unbounded" }
        )
        assert.strictEqual(results.filter((paid) => paid !== undefined).length, 10)
      }))

    it.effect("B7 a refund gives back what was paid, once", () =>
      Effect.gen(function*() {
        const budget = yield* holding(1, { perAttempt: 0, perSecond: 0 })
        const paid = budget.withdrawUnsafe(0)
        assert.strictEqual(yield* budget.balance, 0)
        yield* TestClock.adjust(100)
        paid?.refundUnsafe()
        paid?.refundUnsafe()
        assert.strictEqual(yield* budget.balance, 1)
      }))

    it.effect("B7 a refund does not overfill the purse", () =>
      Effect.gen(function*() {
        const budget = yield* RetryBudget.make(parameters)
        const paid = budget.withdrawUnsafe(0)
        for (let i = 0; i < 4; i++) budget.depositUnsafe(0)
        paid?.refundUnsafe()
        assert.strictEqual(yield* budget.balance, 10)
      }))

    it.effect("B8 what is not refunded stays spent", () =>
      Effect.gen(function*() {
        const budget = yield* holding(1, { perAttempt: 0, perSecond: 0 })
        budget.depositUnsafe(0)
        assert.deepStrictEqual(grants(budget, 1, 0), [true])
        yield* TestClock.adjust("1 hour")
        assert.strictEqual(yield* budget.balance, 0)
      }))

    it.effect("B9 a wall clock that is set back stops no trickle", () =>
      Effect.gen(function*() {
        const budget = yield* holding(0)
        yield* TestClock.adjust(1)
        yield* TestClock.setTime(1 - 3_600_000)
        yield* TestClock.adjust(9998)
        assert.strictEqual(yield* Clock.currentTimeMillis, 9999 - 3_600_000)
        assert.deepStrictEqual(grants(budget, 1, yield* monotonic), [false])
        yield* TestClock.adjust(1)
        assert.strictEqual(yield* budget.balance, 1)
        assert.deepStrictEqual(grants(budget, 1, yield* monotonic), [true])
      }))

    it.effect("B10 two payers share one purse", () =>
      Effect.gen(function*() {
        const budget = yield* holding(1)
        assert.isDefined(budget.withdrawUnsafe(0))
        assert.isUndefined(budget.withdrawUnsafe(0))
      }))

    it.effect("B11 two purses do not know each other", () =>
      Effect.gen(function*() {
        const [primary, secondary] = [yield* holding(0), yield* RetryBudget.make(parameters)]
        assert.deepStrictEqual([grants(primary, 1, 0), grants(secondary, 1, 0)], [[false], [true]])
      }))
  })

  it.effect("gRPC's throttle: an idle client whose every call fails is not blocked for ever", () =>
    Effect.gen(function*() {
      const budget = yield* holding(0, { perAttempt: 0 })
      for (let minute = 1; minute <= 60; minute++) {
        assert.deepStrictEqual(grants(budget, 7, minute * 60_000), [true, true, true, true, true, true, false])
      }
    }))

  it.effect("a long idle time fills the purse to its capacity, not above", () =>
    Effect.gen(function*() {
      const budget = yield* holding(0)
      assert.strictEqual(grants(budget, 20, 1e12).filter(Boolean).length, 10)
    }))

  it.effect("a time before the last one is the last one", () =>
    Effect.gen(function*() {
      const budget = yield* holding(0)
      budget.depositUnsafe(5000)
      budget.depositUnsafe(0)
      assert.deepStrictEqual(grants(budget, 1, 5999), [false])
      assert.deepStrictEqual(grants(budget, 2, 6000), [true, false])
    }))

  it.effect("is used by effects as well", () =>
    Effect.gen(function*() {
      const budget = yield* RetryBudget.make({ capacity: 1, perAttempt: 0.5, perSecond: 0 })
      const paid = yield* budget.withdraw
      assert.strictEqual(yield* budget.balance, 0)
      yield* budget.deposit
      assert.strictEqual(yield* budget.balance, 0.5)
      assert.isUndefined(yield* budget.withdraw)
      yield* paid!.refund
      assert.strictEqual(yield* budget.balance, 1)
    }))

  it.effect("a capacity of zero pays for nothing", () =>
    Effect.gen(function*() {
      const budget = yield* RetryBudget.make({ capacity: 0 })
      budget.depositUnsafe(0)
      assert.deepStrictEqual(grants(budget, 1, 1e9), [false])
    }))

  // An independent account: the whole history, in integers, counted again for every question.
  const Op = Schema.Union([
    Schema.TaggedStruct("advance", {
      millis: Schema.Literals([0, 0.25, 0.5, 1, 3, 7, 99, 333, 1000, 4999, 10_000, 1e6])
    }),
    Schema.TaggedStruct("deposit", {}),
    Schema.TaggedStruct("withdraw", {}),
    Schema.TaggedStruct("withdraw", {}),
    Schema.TaggedStruct("refund", { which: Schema.Natural })
  ])
  it.effect.prop(
    "agrees with a model, and P4 bounds the retries",
    {
      options: Schema.Struct({
        capacity: Schema.Literals([0, 0.5, 1, 2.75, 10]),
        perAttempt: Schema.Literals([0, 0.001, 0.2, 0.333, 1]),
        perSecond: Schema.Literals([0, 0.001, 0.1, 0.7, 12])
      }),
      ops: Schema.Array(Op).check(Schema.isMinLength(10), Schema.isMaxLength(80))
    },
    ({ ops, options }) =>
      Effect.gen(function*() {
        const budget = yield* RetryBudget.make(options)
        const micro = (tokens: number) => BigInt(Math.round(tokens * 1e6))
        const capacity = micro(options.capacity)
        const entries: Array<readonly [at: number, amount: bigint]> = []
        const balanceAt = (now: number) => {
          let balance = capacity
          let at = 0n
          const to = (time: number) => {
            const whole = BigInt(Math.floor(time))
            balance += (whole - at) * (micro(options.perSecond) / 1000n)
            if (balance > capacity) balance = capacity
            at = whole
          }
          for (const [time, amount] of entries) {
            to(time)
            balance += amount
            if (balance > capacity) balance = capacity
          }
          to(now)
          return balance
        }
        let now = 0
        let attempts = 0
        let held = 0
        const paid: Array<{ readonly withdrawal: RetryBudget.Withdrawal; refunded: boolean }> = []
        for (const op of ops) {
          switch (op._tag) {
            case "advance":
              now += op.millis
              yield* TestClock.adjust(op.millis)
              break
            case "deposit":
              attempts++
              budget.depositUnsafe(now)
              entries.push([now, micro(options.perAttempt)])
              break
            case "withdraw": {
              const withdrawal = budget.withdrawUnsafe(now)
              assert.strictEqual(withdrawal !== undefined, balanceAt(now) >= 1_000_000n)
              if (withdrawal === undefined) break
              entries.push([now, -1_000_000n])
              paid.push({ withdrawal, refunded: false })
              held++
              break
            }
            case "refund": {
              const payment = paid[op.which % Math.max(1, paid.length)]
              if (payment === undefined) break
              payment.withdrawal.refundUnsafe()
              if (payment.refunded) break
              payment.refunded = true
              entries.push([now, 1_000_000n])
              held--
            }
          }
          assert.strictEqual(yield* budget.balance, Number(balanceAt(now)) / 1e6)
          const bound = options.capacity + options.perAttempt * attempts + options.perSecond * now / 1000
          assert.isAtMost(held, bound + 1e-9)
        }
      }).pipe(Effect.provide(TestClock.layer())),
    { arbitrary: { runs: 300, seed: 1 } }
  )

  it.effect("defaults", () =>
    Effect.sync(() =>
      assert.deepStrictEqual(RetryBudget.policy(), {
        capacity: 10_000_000,
        perAttempt: 200_000,
        perMillisecond: 100,
        isShadow: false
      })
    ))

  const wrong: ReadonlyArray<readonly [path: string, options: unknown]> = [
    ["retryBudget.capacity", { capacity: -1 }],
    ["retryBudget.capacity", { capacity: Infinity }],
    ["retryBudget.capacity", { capacity: NaN }],
    ["retryBudget.perAttempt", { perAttempt: 0.0001 }],
    ["retryBudget.perSecond", { perSecond: "0.1" }],
    ["retryBudget.cost", { cost: 1 }]
  ]
  it.effect.each(wrong)("refuses a wrong %s", ([path, options]) =>
    Effect.gen(function*() {
      const error = yield* Effect.flip(RetryBudget.make(options as RetryBudget.Options))
      assert.strictEqual(error._tag, "LlmConfigError")
      assert.strictEqual(error.path, path)
      assert.match(error.message, /must be \S.*, but is \S/)
    }))

  it.effect("layer shares one purse, layerConfig reads it from configuration", () =>
    Effect.gen(function*() {
      const take = Effect.map(RetryBudget.RetryBudget, (budget) => budget.withdrawUnsafe(0) !== undefined)
      const one = RetryBudget.layer({ capacity: 1 })
      assert.deepStrictEqual(yield* Effect.all([take, take]).pipe(Effect.provide(one)), [true, false])
      const configured = RetryBudget.layerConfig({ capacity: Config.Finite("CAPACITY") })
      const env = (CAPACITY: string) => ConfigProvider.layer(ConfigProvider.fromEnvRecord({ CAPACITY }))
      assert.isFalse(yield* take.pipe(Effect.provide(configured), Effect.provide(env("0"))))
      const error = yield* take.pipe(Effect.provide(configured), Effect.provide(env("-1")), Effect.flip)
      assert.strictEqual(error._tag, "LlmConfigError")
    }))
})
