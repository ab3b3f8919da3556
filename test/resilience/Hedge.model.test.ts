// Interruptions at every step, and races against their model.
import { assert, describe, it } from "@effect/vitest"
import { Cause, Effect, Exit, Fiber, Scheduler, Schema } from "effect"
import { LlmError } from "effect-resilient-llm"
import * as Bulkhead from "effect-resilient-llm/resilience/Bulkhead"
import * as Hedge from "effect-resilient-llm/resilience/Hedge"
import { TestClock } from "effect/testing"
import { now } from "../support.ts"
import { calm, countingSleeps, start } from "./waiting.ts"

const overloaded = new LlmError.ProviderError({ provider: "p", reason: { _tag: "Overloaded" } })

type Line = Effect.Effect<string, LlmError.ProviderError>
const answers = (millis: number, text: string): Line => Effect.as(Effect.sleep(millis), text)
const fails = (millis: number, error: LlmError.ProviderError): Line =>
  Effect.andThen(Effect.sleep(millis), Effect.fail(error))

const isCalm = <A, E, R>(test: Effect.Effect<A, E, R>) =>
  countingSleeps((sleeps) =>
    Effect.andThen(test, Effect.sync(() => assert.strictEqual(sleeps.pending, 0, "pending sleeps")))
  )

// -----------------------------------------------------------------------------
// interruption at every step
// -----------------------------------------------------------------------------

describe("Hedge under interruption", () => {
  it.effect(
    "H11 the caller is interrupted at every step: both lines end, nothing is held",
    () =>
      isCalm(Effect.gen(function*() {
        let early = 0
        let late = 0
        for (let budget = 3; budget <= 64; budget++) {
          for (const ends of ["primary", "hedge", "both fail"] as const) {
            for (let steps = 0, more = 3; more > 0; steps++) {
              const bulkhead = yield* Bulkhead.make({ maxConcurrent: 2 })
              const hedge = yield* Hedge.make({ delay: 10 })
              const line = (n: number): Effect.Effect<string, LlmError.LlmError> =>
                bulkhead.protect(
                  ends === "both fail"
                    ? fails(n === 0 ? 20 : 10, overloaded)
                    : answers((n === 0) === (ends === "primary") ? 20 - 10 * n : 100, "")
                )
              const fiber = yield* start(Effect.provideService(hedge.run(line), Scheduler.MaxOpsBeforeYield, budget))
              yield* calm
              yield* TestClock.adjust(10)
              yield* Effect.forkChild(TestClock.adjust(10))
              for (let i = 0; i < steps; i++) yield* Effect.yieldNow
              const isOver = fiber.pollUnsafe() !== undefined
              fiber.interruptUnsafe()
              yield* calm
              const exit = yield* Fiber.await(fiber)
              if (isOver) {
                more -= 1
                late += 1
                assert.isFalse(Exit.hasInterrupts(exit))
              } else early += 1
              yield* TestClock.adjust(200)
              assert.strictEqual((yield* bulkhead.snapshot).inUse, 0, `budget ${budget}, step ${steps}, ${ends}`)
            }
          }
        }
        assert.isAbove(early, 400)
        assert.strictEqual(late, 62 * 3 * 3)
      }))
  )
})

// -----------------------------------------------------------------------------
// reference model
// -----------------------------------------------------------------------------

const int = (minimum: number, maximum: number) => Schema.Int.check(Schema.isBetween({ minimum, maximum }))
const Script = Schema.Struct({
  lines: Schema.Array(
    Schema.Struct({
      millis: int(0, 40),
      end: Schema.Literals(["ok", "ok", "transient", "transient", "final", "defect"])
    })
  )
    .check(Schema.isMinLength(5), Schema.isMaxLength(5)),
  delay: int(1, 20),
  maxHedges: int(1, 4),
  purse: int(0, 4),
  leaves: int(1, 300)
})

interface Told {
  readonly result: string
  readonly at: number
  readonly starts: ReadonlyArray<number>
  readonly lost: ReadonlyArray<number>
}

/** Walks through time, one millisecond after the other. Odd moments are those of ends, even ones those of delays. */
const model = ({ delay, leaves, lines, maxHedges, purse }: typeof Script.Type): Told => {
  const starts: Array<number> = []
  const open = new Map<number, number>()
  const failed: Array<number> = []
  let hedges = maxHedges
  let money = purse
  let due = Infinity
  const over = (result: string, at: number): Told => ({ result, at, starts, lost: [...open.keys()].toSorted() })
  const begin = (now: number) => {
    open.set(starts.length, now + lines[starts.length]!.millis * 100 + 1 + 2 * starts.length)
    starts.push(now)
    due = hedges > 0 ? now + delay * 100 : Infinity
  }
  const hedge = (now: number): boolean => {
    if (money === 0) {
      hedges = 0
      due = Infinity
      return false
    }
    money -= 1
    hedges -= 1
    begin(now)
    return true
  }
  begin(0)
  for (let now = 0;; now++) {
    if (now === leaves * 20 + 11) return over("interrupted", now)
    if (now >= due) hedge(now)
    for (const [n, at] of open) {
      if (at !== now) continue
      open.delete(n)
      const { end } = lines[n]!
      if (end === "ok") return over(`ok ${n}`, now)
      if (end === "defect") return over(`defect ${n}`, now)
      failed.push(n)
      if (open.size > 0) continue
      if (end === "transient" && hedges > 0 && hedge(now)) continue
      return over(`failed ${failed.toSorted().join()}`, now)
    }
  }
}

const play = (script: typeof Script.Type) =>
  isCalm(Effect.gen(function*() {
    const { delay, leaves, lines, maxHedges, purse } = script
    const hedge = yield* Hedge.make({ delay: delay * 100, maxHedges })
    let money = purse
    const starts: Array<number> = []
    const lost: Array<number> = []
    const run = hedge.run((n): Effect.Effect<string, string> => {
      const { end, millis } = lines[n]!
      const ends = end === "ok"
        ? Effect.succeed(`ok ${n}`)
        : end === "defect"
        ? Effect.die(`defect ${n}`)
        : Effect.fail(`${end} ${n}`)
      return Effect.andThen(
        Effect.map(now, (at) => starts.push(at)),
        Effect.onInterrupt(Effect.delay(ends, millis * 100 + 1 + 2 * n), () => Effect.sync(() => lost.push(n)))
      )
    }, { when: (error) => error.startsWith("transient"), pay: () => money > 0 && money-- > 0 })
    let at = 0
    const fiber = yield* start(Effect.onExit(run, () => Effect.map(now, (ended) => at = ended)))
    yield* TestClock.adjust(leaves * 20 + 11)
    const exit = fiber.pollUnsafe()
    yield* Fiber.interrupt(fiber)
    let result = ""
    if (exit === undefined) result = "interrupted"
    else if (Exit.isSuccess(exit)) result = exit.value
    else if (Cause.hasDies(exit.cause)) result = String(Cause.squash(exit.cause))
    else {
      const numbers = exit.cause.reasons.map((reason) =>
        reason._tag === "Fail" ? Number(reason.error.split(" ")[1]) : -1
      )
      result = `failed ${numbers.join()}`
    }
    assert.deepStrictEqual({ result, at, starts, lost: lost.toSorted() }, model(script))
  }))

describe("Hedge against its model", () => {
  it.effect.prop(
    "result, moment, starts and losers are those of the model (P13)",
    { script: Script },
    ({ script }) => Effect.provide(play(script), TestClock.layer()),
    { arbitrary: { runs: 60, seed: 7 } }
  )
})
