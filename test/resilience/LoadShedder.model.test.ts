// A service that is dead for two minutes, and the share against a log of all calls.
import { assert, describe, it } from "@effect/vitest"
import { Effect, Random, Schema } from "effect"
import { LlmError } from "effect-resilient-llm"
import * as LoadShedder from "effect-resilient-llm/resilience/LoadShedder"
import { TestClock } from "effect/testing"

/** Parameters of the vectors; the window of the product is shorter. */
const options = { window: "2 minutes" } as const
const policy = LoadShedder.throttlePolicy(options)

const overloaded = new LlmError.ProviderError({ provider: "p", reason: { _tag: "Overloaded" }, status: 503 })

describe("LoadShedder over minutes", () => {
  it.effect(
    "a dead service gets a tenth of the calls after ten seconds, and all of them two minutes after its recovery",
    () =>
      Effect.gen(function*() {
        const seed = "dead"
        const shedder = yield* LoadShedder.make()
        let arrived = 0
        let critical = 0
        let isDead = true
        const one = (priority: LoadShedder.Priority) =>
          Effect.exit(
            shedder.protect({ priority })(Effect.suspend(() => {
              if (priority === "critical") critical += 1
              else arrived += 1
              return isDead ? Effect.fail(overloaded) : Effect.succeed("")
            }))
          )
        const run = (calls: number, perSecond: number) =>
          Effect.gen(function*() {
            arrived = critical = 0
            for (let i = 0; i < calls; i++) {
              yield* one("default")
              if (i % 10 === 0) yield* one("critical")
              yield* TestClock.adjust(1000 / perSecond)
            }
          })
        yield* Random.withSeed(
          Effect.gen(function*() {
            yield* run(1000, 100)
            yield* run(10_000, 100)
            assert.isAtLeast(arrived, 900, `seed ${seed}`)
            assert.isAtMost(arrived, 1100, `seed ${seed}`)
            assert.strictEqual(critical, 1000)
            isDead = false
            yield* run(11_999, 100)
            yield* run(1000, 100)
            assert.strictEqual(arrived, 1000)
            assert.strictEqual(yield* shedder.rejection, 0)
          }),
          seed
        )
      })
  )
})

const int = (minimum: number, maximum: number) => Schema.Int.check(Schema.isBetween({ minimum, maximum }))
const Op = Schema.Union([
  Schema.TaggedStruct("count", { isAccepted: Schema.Boolean, times: int(1, 9) }),
  Schema.TaggedStruct("advance", { millis: int(1, 40_000) })
])

describe("LoadShedder against its model", () => {
  it.prop(
    "the share is that of the log",
    { ops: Schema.Array(Op).check(Schema.isMinLength(10), Schema.isMaxLength(80)) },
    ({ ops }) => {
      const log: Array<{ readonly at: number; readonly isAccepted: boolean }> = []
      let state = LoadShedder.unthrottled
      let now = 0
      for (const op of ops) {
        if (op._tag === "advance") now += op.millis
        else {
          for (let i = 0; i < op.times; i++) {
            log.push({ at: now, isAccepted: op.isAccepted })
            state = LoadShedder.count(policy, state, op.isAccepted, now)
          }
        }
        const inWindow = log.filter(({ at }) => Math.floor(at / 10_000) > Math.floor(now / 10_000) - 12)
        const accepts = inWindow.filter(({ isAccepted }) => isAccepted).length
        const share = (inWindow.length - 2 * accepts) / (inWindow.length + 1)
        assert.strictEqual(LoadShedder.rejection(policy, state, now), share < 0 ? 0 : share > 0.9 ? 0.9 : share)
        assert.isAtMost(state.older.length, 11)
        assert.strictEqual(Math.ceil((now + LoadShedder.retryAfter(policy, now)) % 10_000), 0)
      }
    },
    { arbitrary: { runs: 200, seed: 17 } }
  )
})
