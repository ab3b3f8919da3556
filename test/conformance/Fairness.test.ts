// Four tenants, one of which floods: 100,000 calls through the whole pipeline, in virtual time.
import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Exit, Layer, Scope } from "effect"
import { type Client, LlmClient, type LlmConfig, type LlmError, LlmProvider } from "effect-resilient-llm"
import { VirtualTime } from "../replay/time.ts"

const SEED = 1_700_321

const options = {
  cache: false,
  idempotency: false,
  rateLimit: false,
  circuitBreaker: false,
  retry: false,
  bulkhead: { maxConcurrent: 20, queue: 100 },
  loadShedding: { throttle: false }
} as const satisfies LlmConfig.Options

/** Numbers from a seed: the same calls, whoever else is there. */
const numbers = (seed: number) => {
  let state = seed
  return (): number => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0
    return state / 2 ** 32
  }
}
const exponential = (next: () => number, mean: number): number => -Math.log(1 - next()) * mean

interface Flow {
  readonly tenant: string
  readonly perSecond: number
  readonly priority?: "critical" | "default" | "batch"
}

interface Seen {
  took: Array<number>
  answered: number
  readonly errors: Record<string, number>
}

/** Calls of all flows for a while; they come, and take, as chance will have it: a second at the mean. */
const play = (flows: ReadonlyArray<Flow>, seconds: number, more: LlmConfig.Options = {}) => {
  const time = new VirtualTime(SEED)
  const scope = time.runToEnd(Scope.make())
  const provider = LlmProvider.make({
    id: "vendor",
    generate: ({ prompt }) =>
      Effect.as(Effect.sleep(Number(prompt[0]?.content)), [{ type: "text" as const, text: "." }]),
    stream: () => {
      throw new Error("not asked for")
    }
  })
  const client: Client<LlmError.LlmError> = Context.get(
    time.runToEnd(Effect.provideService(
      Layer.build(LlmClient.layerDynamic([provider], { ...options, ...more })),
      Scope.Scope,
      scope
    )),
    LlmClient
  )
  const seen = new Map<string, Seen>()
  for (const [i, { perSecond, priority = "default", tenant }] of flows.entries()) {
    const own: Seen = { took: [], answered: 0, errors: {} }
    seen.set(tenant, own)
    const next = numbers(SEED + i)
    for (let at = exponential(next, 1000 / perSecond); at < seconds * 1000; at += exponential(next, 1000 / perSecond)) {
      const service = exponential(next, 1000)
      time.at(at, () => {
        const begun = time.now
        time.start(client.complete({ prompt: `${service}`, tenant, priority }), (exit) => {
          own.took.push(time.now - begun)
          if (Exit.isSuccess(exit)) own.answered += 1
          else {
            const reason = exit.cause.reasons[0]
            const tag = reason?._tag === "Fail" ? reason.error._tag : "other"
            own.errors[tag] = (own.errors[tag] ?? 0) + 1
          }
        })
      })
    }
  }
  time.run()
  time.runToEnd(Scope.close(scope, Exit.void))
  return seen
}

const p99 = (took: ReadonlyArray<number>): number => took.toSorted((a, b) => a - b)[Math.ceil(0.99 * took.length) - 1]!

const quiet: ReadonlyArray<Flow> = ["a", "b", "c"].map((tenant) => ({ tenant, perSecond: 2 }))
const flood: Flow = { tenant: "flood", perSecond: 200 }

describe(`four tenants, seed ${SEED}`, () => {
  it(
    "one floods with a hundred times the load: the p99 of the others grows by 20 % at most, and all are answered",
    () => {
      const without = play(quiet, 490)
      const withFlood = play([...quiet, flood], 490)
      let calls = 0
      for (const { tenant } of quiet) {
        const [before, after] = [without.get(tenant)!, withFlood.get(tenant)!]
        assert.strictEqual(after.answered, after.took.length, tenant)
        assert.strictEqual(after.took.length, before.took.length)
        assert.isAtMost(p99(after.took) / p99(before.took), 1.2, tenant)
      }
      for (const { took } of withFlood.values()) calls += took.length
      assert.isAtLeast(calls, 100_000)
      // The flood gets what the others leave, and is told at once of the rest.
      const { answered, errors, took } = withFlood.get("flood")!
      assert.approximately(answered / 490, 20 - 6, 1)
      assert.deepStrictEqual(errors, { Shed: took.length - answered })
    },
    120_000
  )

  it("all of them want more than there is: each gets a quarter", () => {
    const seen = play([40, 20, 10, 400].map((perSecond, i) => ({ tenant: `t${i}`, perSecond })), 200)
    for (const [tenant, { answered }] of seen) assert.approximately(answered / 200, 5, 0.25, tenant)
  }, 120_000)

  it("nobody starves: batch calls in a line that only grows are served when they have waited long enough", () => {
    const flows: ReadonlyArray<Flow> = [
      { tenant: "flood", perSecond: 25 },
      { tenant: "nightly", perSecond: 0.5, priority: "batch" }
    ]
    const bulkhead = { maxConcurrent: 20, queue: 2000, maxWait: "5 minutes" } as const
    const seen = play(flows, 150, { bulkhead, timeout: false })
    const { answered, errors, took } = seen.get("nightly")!
    assert.deepStrictEqual([answered, errors], [took.length, {}])
    // Twice thirty seconds, for those of the flood rise as well; then its turn, and its own time.
    assert.isAtMost(Math.max(...took), 75_000)
  }, 120_000)
})
