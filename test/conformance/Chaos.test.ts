// E12 and P1–P16: many calls against targets of which half of all requests fail. Draws come from a seed, time from the
// clock of the test.
import { assert, describe, it } from "@effect/vitest"
import { Cause, Effect, Exit } from "effect"
import type { LlmConfig } from "effect-resilient-llm"
import { Invariants } from "effect-resilient-llm/testing"
import { TestClock } from "effect/testing"
import { ask, type Kind, kinds, setUp, vector } from "../support.ts"
import { properties, runOf } from "./Chaos.properties.ts"
import { bytes, type Log, type Plan, run, settings, targetIds } from "./Chaos.run.ts"
import { always, overloads, succeeds } from "./support.ts"

const both = targetIds.map((id) => ({ id, chaos: true }))

/** One line for tokens per kind, so that the log tells who waited where: the client's bucket, or the limits of p. */
const plans: Record<Kind, Omit<Plan, "seed" | "calls">> = {
  complete: { kind: "complete", targets: both, options: settings },
  stream: {
    kind: "stream",
    targets: both,
    options: { ...settings, rateLimit: { ...settings.rateLimit, maxWait: 0 } },
    limits: [{ dimension: "requests", limit: 100, per: 10_000 }]
  }
}

describe.each(kinds)("%s", (kind) => {
  const plan = plans[kind]

  it("E12 10 000 calls through 30 % 503, 10 % silence, 5 % cuts and 5 % 429: P1–P11, P13, P14, P16 hold", async () => {
    const log = await Effect.runPromise(run({ ...plan, seed: "twelve", calls: 10_000 }))
    for (const property of Object.values(properties)) property(log)
    if (kind === "stream") return
    // E12 and P15: everything again, byte by byte.
    const again = await Effect.runPromise(run({ ...plan, seed: "twelve", calls: 10_000 }))
    assert.isTrue(bytes(log) === bytes(again), "the same seed gave another run")
  })

  it("P12, P15: one seed, one log, however the wall clock jumps; another seed, another log", async () => {
    const [log, again, jumping, different] = await Effect.runPromise(Effect.all([
      run({ ...plan, seed: "a", calls: 1000 }),
      run({ ...plan, seed: "a", calls: 1000 }),
      run({ ...plan, seed: "a", calls: 1000, wall: (reading) => (reading % 3 - 1) * 3_600_000 }),
      run({ ...plan, seed: "b", calls: 1000 })
    ]))
    assert.isTrue(bytes(log) === bytes(again), "the same seed gave another run")
    assert.isTrue(bytes(log) === bytes(jumping), "a jump of the wall clock changed the run")
    assert.isFalse(bytes(log) === bytes(different))
    assert.deepStrictEqual(Invariants.compare(runOf(log), runOf(again)), [])
    assert.deepStrictEqual(Invariants.compare(runOf(log), runOf(jumping), "wall-clock"), [])
    assert.deepStrictEqual(Invariants.compare(runOf(log), runOf(different)).map(({ law }) => law), ["P15", "P15"])
  })

  it("E12 a healthy secondary behind a failing primary serves no fewer calls than it would alone", async () => {
    const common = {
      kind,
      seed: "reference",
      calls: 1500,
      patient: true,
      options: { ...settings, rateLimit: {}, timeout: { ...settings.timeout, deadline: 120_000 } }
    } satisfies Partial<Plan>
    const [chaos, reference] = await Effect.runPromise(Effect.all([
      run({ ...common, targets: [{ id: "p", chaos: true }, { id: "s", chaos: false }] }),
      run({ ...common, targets: [{ id: "s", chaos: false }] })
    ]))
    const good = ({ callers }: Log) =>
      callers.filter(({ exit, leaves }) => leaves === undefined && exit !== undefined && Exit.isSuccess(exit)).length
    // A stream that breaks after its first content is nobody's to repair (law 5).
    const broken = chaos.callers.filter(({ exit, read }) =>
      exit !== undefined && Exit.isFailure(exit) && !Cause.hasInterrupts(exit.cause) && read !== ""
    ).length
    const failed = chaos.served.filter(({ fate, target }) =>
      target === "p" && fate !== "ok"
    ).length
    assert.isAbove(failed, 100)
    if (kind === "complete") assert.strictEqual(broken, 0)
    assert.isAtLeast(good(chaos) + broken, good(reference))
  })

  it.effect("P12 the wall clock goes back while nothing sleeps: an open breaker opens no later and no earlier", () =>
    vector(Effect.gen(function*() {
      yield* TestClock.adjust(10_000)
      const circuitBreaker = { failureThreshold: 1, recoveryTimeout: 5000 }
      const r = yield* setUp([always(overloads)], { retry: false, circuitBreaker })
      const tag = Effect.map(Effect.flip(ask(kind, r.client)), ({ _tag }) => _tag)
      assert.strictEqual(yield* tag, "ProviderError")
      yield* TestClock.setTime(0) // backwards it moves the wall clock alone
      yield* TestClock.adjust(4999)
      assert.strictEqual(yield* tag, "CircuitOpen")
      yield* TestClock.adjust(1)
      assert.strictEqual(yield* tag, "ProviderError")
    })))

  it.effect("P16 no more keys are remembered than may be", () =>
    vector(Effect.gen(function*() {
      const maxEntries = 5
      const options: LlmConfig.Options = { cache: { maxEntries }, idempotency: { maxEntries } }
      const healthy = Array.from({ length: 200 }, () => succeeds)
      const r = yield* setUp([{ script: healthy, always: overloads }], { ...options, retry: false })
      const keyed = (i: number) => ({ prompt: `question ${i}`, idempotencyKey: `key ${i}` })
      for (let i = 0; i < 200; i++) yield* ask(kind, r.client, keyed(i))
      const sources: Array<string> = []
      for (let i = 0; i < 200; i++) {
        sources.push(
          yield* Effect.match(ask(kind, r.client, keyed(i)), {
            onSuccess: ({ source }) => source,
            onFailure: ({ _tag }) => _tag
          })
        )
      }
      assert.deepStrictEqual(sources.slice(0, 195).filter((source) => source !== "ProviderError"), [])
      assert.deepStrictEqual(sources.slice(195), Array.from({ length: maxEntries }, () => "replay"))
      const without = (i: number) => ({ prompt: `question ${i}` })
      for (let i = 190; i < 200; i++) {
        const source = yield* Effect.match(ask(kind, r.client, without(i)), {
          onSuccess: (outcome) => outcome.source,
          onFailure: ({ _tag }) => _tag
        })
        assert.strictEqual(source, i < 195 ? "ProviderError" : "stale", `question ${i}`)
      }
    })))
})
