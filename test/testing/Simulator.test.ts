import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber } from "effect"
import { Simulator } from "effect-resilient-llm/testing"

/** A second apart; each takes 500 ms, 0.1 ms for each of 1,000 tokens, and 10 ms for each of 100: 1.6 s. */
const steady = (seconds: number, more: Partial<Simulator.Steady> = {}): Simulator.Arrivals => ({
  kind: "steady",
  perSecond: 1,
  duration: seconds * 1000,
  input: 1000,
  output: 100,
  ...more
})
const latency = { firstToken: "500 millis", perInputToken: 0.1, perOutputToken: 10 } as const
const vendor = (...phases: ReadonlyArray<Simulator.Phase>): Simulator.Vendor => ({ id: "first", latency, phases })
const second: Simulator.Vendor = {
  id: "second",
  latency: { firstToken: "1 second", perInputToken: 0, perOutputToken: 20 }
}

/** Nothing but what a test turns on. */
const bare = {
  cache: false,
  circuitBreaker: false,
  failover: false,
  idempotency: false,
  rateLimit: false,
  retry: false
} as const

const only = (options: Omit<Simulator.Options, "policies">, policy: Omit<Simulator.Policy, "name">) =>
  Effect.map(
    Simulator.run({ ...options, policies: [{ name: "x", ...policy }] }),
    (report) => ({ report, policy: report.policies[0]! })
  )

describe("every figure by hand", () => {
  const arrivals = steady(10)
  const vendors = [vendor({ kind: "error", from: "2 seconds", to: "4 seconds" }), second]

  it.live("two of ten calls fail over", () =>
    Effect.gen(function*() {
      const { policy, report } = yield* only({ arrivals, vendors }, { options: { ...bare, failover: {} } })
      assert.deepStrictEqual(
        [report.scenario, report.operation, report.calls, report.seed],
        ["scenario", "complete", 10, 1]
      )
      assert.deepStrictEqual(report.phases, [{ vendor: "first", kind: "error", from: 2000, to: 4000 }])
      // Refused after 200 ms, then 1 s and 20 ms for each of 100 tokens.
      const latency = { p50: 1600, p95: 3200, p99: 3200, p999: 3200, longest: 3200 }
      const { series, ...rest } = policy
      assert.deepStrictEqual(rest, {
        name: "x",
        calls: 10,
        answered: 10,
        availability: 1,
        latency,
        firstToken: latency,
        attempts: 12,
        retries: 0,
        failovers: 2,
        hedges: 0,
        stale: 0,
        cached: 0,
        extraTokens: 0,
        errors: {},
        vendors: [
          { id: "first", requests: 10, failures: 2, inputTokens: 8000, outputTokens: 800 },
          { id: "second", requests: 2, failures: 0, inputTokens: 2000, outputTokens: 200 }
        ],
        callers: [{ calls: 10, answered: 10, latency }],
        circuits: []
      })
      // The last call comes after 9 s: 76 ms each.
      assert.strictEqual(report.interval, 76)
      const at = (i: number): number => Math.floor(i * 1000 / 76)
      assert.lengthOf(report.arrivals, at(9) + 1)
      for (let i = 0; i < 10; i++) {
        assert.strictEqual(report.arrivals[at(i)], 1)
        assert.strictEqual(series.answered[at(i)], 1)
        assert.strictEqual(series.p99[at(i)], i === 2 || i === 3 ? 3200 : 1600)
      }
      assert.strictEqual(series.p99[at(1) - 1], null)
      assert.strictEqual(series.requests["first"]!.reduce((sum, n) => sum + n, 0), 10)
      assert.strictEqual(series.requests["second"]![Math.floor(2200 / 76)], 1)
      // At 4.94 s: the calls of 4 s, and of 3 s, which ends after 6.2 s; that of 2 s ends after 5.2 s.
      assert.strictEqual(series.inFlight[64], 3)
    }))

  it.live("of a stream the first token by itself", () =>
    Effect.gen(function*() {
      const { policy } = yield* only(
        { arrivals: steady(10, { operation: "stream" }), vendors },
        { options: { ...bare, failover: {} } }
      )
      assert.deepStrictEqual([policy.firstToken.p50, policy.firstToken.longest], [500 + 100 + 10, 200 + 1000 + 20])
      assert.deepStrictEqual([policy.latency.p50, policy.latency.longest], [1600, 3200])
    }))

  it.live("retries, and who fails nevertheless", () =>
    Effect.gen(function*() {
      const retry = { maxRetries: 1, baseDelay: "1 second", jitter: "none" } as const
      const { policy } = yield* only({ arrivals, vendors }, { options: { ...bare, retry, retryBudget: false } })
      // Refused at 2.2 s and again at 3.4 s; refused at 3.2 s, answered from 4.2 s on.
      assert.deepStrictEqual(
        [policy.answered, policy.attempts, policy.retries, policy.errors],
        [9, 12, 2, { ProviderError: 1 }]
      )
      assert.deepStrictEqual([policy.availability, policy.latency.longest], [0.9, 200 + 1000 + 1600])
    }))

  it.live("a circuit opens at the fifth failure, and closes with the first answer afterwards", () =>
    Effect.gen(function*() {
      const { policy } = yield* only({
        arrivals: steady(30),
        vendors: [vendor({ kind: "overload", from: "2 seconds", to: "10 seconds" })]
      }, { options: { ...bare, circuitBreaker: { recoveryTimeout: "10 seconds", slowCall: false } } })
      assert.deepStrictEqual(policy.circuits, [
        // That of 1 s is answered after 2.6 s, which ends the row that began at 2.2 s.
        { at: 7200, vendor: "first", to: "open" },
        { at: 18_000, vendor: "first", to: "half-open" },
        { at: 19_600, vendor: "first", to: "closed" }
      ])
      // Those of 2 to 7 s are refused, of 8 to 17 s not sent, and that of 19 s comes while the probe is out.
      assert.deepStrictEqual(policy.errors, { CircuitOpen: 11, ProviderError: 6 })
      assert.strictEqual(policy.attempts, 30 - 11)
    }))

  it.live("calls wait in the line of a bulkhead, and are counted there", () =>
    Effect.gen(function*() {
      const { policy, report } = yield* only({ arrivals, vendors: [vendor()] }, {
        options: { ...bare, bulkhead: { maxConcurrent: 1, queue: 10, maxWait: "1 minute" } }
      })
      // Call k comes after k seconds, begins after 1.6 k and ends 1.6 s later.
      assert.strictEqual(policy.latency.longest, 9 * 600 + 1600)
      const at = Math.floor(8500 / report.interval)
      const end = (at + 1) * report.interval / 1000
      const begun = Math.floor(end) + 1
      const over = Math.floor(end / 1.6)
      assert.strictEqual(policy.series.inFlight[at], begun - over)
      assert.strictEqual(policy.series.queued[at], begun - over - 1)
    }))

  it.live("stale answers stand in where a question was answered before", () =>
    Effect.gen(function*() {
      const { policy } = yield* only({
        arrivals: steady(10, { questions: 1 }),
        vendors: [vendor({ kind: "error", from: "5 seconds" })]
      }, { options: { ...bare, cache: {} } })
      assert.deepStrictEqual([policy.answered, policy.stale, policy.errors], [10, 5, {}])
    }))

  it.live("a hedge costs what its loser has generated", () =>
    Effect.gen(function*() {
      const { policy } = yield* only({
        arrivals: steady(1),
        vendors: [vendor({ kind: "slow", firstToken: "20 seconds" }), second]
      }, { options: { ...bare, failover: {}, hedge: { delay: "2 seconds" } } })
      assert.deepStrictEqual([policy.hedges, policy.latency.longest], [1, 5000])
      // Its prompt, for it has not begun to generate.
      assert.deepStrictEqual(policy.vendors.map(({ inputTokens, outputTokens }) => [inputTokens, outputTokens]), [
        [1000, 0],
        [1000, 100]
      ])
      assert.approximately(policy.extraTokens, 1000 / 1100, 1e-9)
    }))
})

describe("what a vendor does", () => {
  const answer = 1600
  const cases: ReadonlyArray<
    readonly [phase: Simulator.Phase, complete: readonly [string, number], stream: readonly [string, number]]
  > = [
    [{ kind: "overload" }, ["ProviderError", 200], ["ProviderError", 200]],
    [{ kind: "error", after: 50 }, ["ProviderError", 50], ["ProviderError", 50]],
    [{ kind: "rate-limit", retryAfter: "7 seconds" }, ["ProviderError", 200], ["ProviderError", 200]],
    [{ kind: "quota" }, ["ProviderError", 200], ["ProviderError", 200]],
    [{ kind: "unreachable" }, ["ProviderError", 200], ["ProviderError", 200]],
    [{ kind: "hang" }, ["AttemptTimeout", 60_000], ["AttemptTimeout", 60_000]],
    [{ kind: "slow", factor: 2, firstToken: "1 second" }, ["", 2 * answer + 1000], ["", 2 * answer + 1000]],
    [{ kind: "cut" }, ["ProviderError", 600 + 500], ["StreamInterrupted", 600 + 500]],
    [{ kind: "cut", at: 0 }, ["ProviderError", 600], ["ProviderError", 600]],
    [{ kind: "capacity", concurrent: 0 }, ["ProviderError", 200], ["ProviderError", 200]],
    [{ kind: "overload", from: 1 }, ["", answer], ["", answer]],
    [{ kind: "overload", share: 0 }, ["", answer], ["", answer]]
  ]
  for (const [phase, ...expected] of cases) {
    it.live(JSON.stringify(phase), () =>
      Effect.gen(function*() {
        for (const [i, operation] of (["complete", "stream"] as const).entries()) {
          const { policy } = yield* only(
            { arrivals: steady(1, { operation }), vendors: [vendor(phase)] },
            { options: bare }
          )
          const [error, took] = expected[i]!
          assert.deepStrictEqual(policy.errors, error === "" ? {} : { [error]: 1 }, operation)
          assert.approximately(policy.latency.longest, took, 0.002, operation)
        }
      }))
  }

  it.live("it comes and goes", () =>
    Effect.gen(function*() {
      const phase = {
        kind: "error",
        from: "2 seconds",
        to: "18 seconds",
        every: "5 seconds",
        lasts: "2 seconds"
      } as const
      const { policy, report } = yield* only({ arrivals: steady(20), vendors: [vendor(phase)] }, { options: bare })
      // At 2, 3, 7, 8, 12, 13 and 17.
      assert.strictEqual(policy.errors["ProviderError"], 7)
      assert.deepStrictEqual(report.phases.map(({ from, to }) => [from, to]), [
        [2000, 4000],
        [7000, 9000],
        [12_000, 14_000],
        [17_000, 18_000]
      ])
    }))

  it.live("a share is a share", () =>
    Effect.gen(function*() {
      const { policy } = yield* only({
        arrivals: steady(2000),
        vendors: [vendor({ kind: "overload", share: 0.3 })],
        seed: 5
      }, { options: bare })
      assert.approximately(policy.availability, 0.7, 0.03)
    }))

  it.live("above its limits it refuses, by requests and by tokens", () =>
    Effect.gen(function*() {
      const limited = (limits: Simulator.Limits) =>
        only({ arrivals: steady(120, { perSecond: 2 }), vendors: [{ ...vendor(), limits }] }, { options: bare })
      // From 60 half a request a call is left; from the 120th on every second one is refused.
      assert.deepStrictEqual((yield* limited({ requestsPerMinute: 60 })).policy.errors, { ProviderError: 61 })
      // The same, 1,100 tokens a call.
      assert.deepStrictEqual((yield* limited({ tokensPerMinute: 66_000 })).policy.errors, { ProviderError: 61 })
      // Three are there at a time, each for 1.6 s: of four calls in 2 s one is too many, and comes when there is room.
      assert.deepStrictEqual((yield* limited({ concurrent: 4 })).policy.errors, {})
      assert.isAbove((yield* limited({ concurrent: 3 })).policy.errors["ProviderError"]!, 40)
    }))

  it.live("a client whose own limit is a little less waits instead", () =>
    Effect.gen(function*() {
      const { policy } = yield* only({
        arrivals: steady(120, { perSecond: 2 }),
        vendors: [{ ...vendor(), limits: { requestsPerMinute: 66 } }]
      }, {
        options: bare,
        targets: {
          first: { limits: { limits: [{ dimension: "requests", limit: 60, per: "1 minute" }], maxWait: "2 minutes" } }
        }
      })
      assert.deepStrictEqual([policy.answered, policy.errors], [240, {}])
      assert.isAbove(Math.max(...policy.series.queued), 30)
    }))
})

describe("arrivals", () => {
  const run = (arrivals: Simulator.Arrivals, seed = 1) =>
    only({ arrivals, vendors: [{ id: "first" }], seed }, { options: bare })

  it.live("Poisson: as many as were asked for, tokens as the trace has them", () =>
    Effect.gen(function*() {
      const { policy, report } = yield* run({ kind: "poisson", perSecond: 5, duration: "20 minutes" })
      assert.approximately(report.calls, 6000, 250)
      const [{ inputTokens, outputTokens }] = policy.vendors as readonly [Simulator.VendorReport]
      // The means of what is log-normal by its median and its nine tenths, and has a largest.
      assert.approximately(inputTokens / report.calls, 1370, 80)
      assert.approximately(outputTokens / report.calls, 188, 12)
    }))

  it.live("bursts: more calls than in calm, and more uneven", () =>
    Effect.gen(function*() {
      const uneven = ({ arrivals }: Simulator.Report): number => {
        const mean = arrivals.reduce((sum, n) => sum + n, 0) / arrivals.length
        return arrivals.reduce((sum, n) => sum + (n - mean) ** 2, 0) / arrivals.length / mean
      }
      const calm = yield* run({ kind: "poisson", perSecond: 5 })
      const bursty = yield* run({ kind: "bursty", calmPerSecond: 2, burstPerSecond: 30 })
      assert.isBelow(uneven(calm.report), 2)
      assert.isAbove(uneven(bursty.report), 10)
    }))

  it.live("callers have their shares, and lines of their own in the report", () =>
    Effect.gen(function*() {
      const { policy } = yield* run(steady(4000, {
        callers: [{ tenant: "a", weight: 3 }, { tenant: "b", priority: "batch" }]
      }))
      const [a, b] = policy.callers as readonly [Simulator.CallerReport, Simulator.CallerReport]
      assert.deepStrictEqual([a.tenant, a.priority, b.tenant, b.priority], ["a", undefined, "b", "batch"])
      assert.approximately(a.calls / 4000, 0.75, 0.03)
      assert.strictEqual(a.calls + b.calls, 4000)
    }))

  it.live("every policy meets the same ones, and another seed others", () =>
    Effect.gen(function*() {
      const arrivals = { kind: "poisson", perSecond: 5, duration: "1 minute" } as const
      const policies = [{ name: "a", options: bare }, { name: "b", options: { ...bare, retry: {} } }]
      const one = yield* Simulator.run({ arrivals, vendors: [{ id: "first" }], policies })
      assert.deepStrictEqual(one.policies[0]!.latency, one.policies[1]!.latency)
      const other = yield* Simulator.run({ arrivals, vendors: [{ id: "first" }], policies, seed: 2 })
      assert.notDeepEqual(other.arrivals, one.arrivals)
    }))
})

describe("readTrace", () => {
  it.live("times as seconds, or as dates with more decimals than one takes", () =>
    Effect.gen(function*() {
      const dated = "TIMESTAMP,ContextTokens,GeneratedTokens\n" +
        "2023-11-16 18:15:50.9951690,396,109\r\n2023-11-16 18:15:46.6805900,374,44\n"
      const { calls } = yield* Simulator.readTrace(dated)
      assert.deepStrictEqual(calls.map(({ input, output }) => [input, output]), [[374, 44], [396, 109]])
      // A date of our time is exact to a quarter of a microsecond.
      assert.approximately(calls[1]!.at, 4314.579, 1e-3)
    }))

  it.live("says which line is wrong", () =>
    Effect.gen(function*() {
      for (const row of ["1,2", "x,1,2", "1,-2,3", "1,2,3.5", "2023-11-16,1,2"]) {
        const { path, rule } = yield* Effect.flip(Simulator.readTrace(`a,b,c\n0,1,1\n${row}\n`))
        assert.deepStrictEqual(
          [path, rule],
          ["line 3", "a time, the tokens of the prompt and those of the answer"],
          row
        )
      }
    }))
})

describe("fromIncidents", () => {
  const incident = (more: object) => ({
    id: "i1",
    name: "Elevated errors",
    status: "resolved",
    impact: "major",
    created_at: "2024-06-04T07:00:00.000Z",
    started_at: "2024-06-04T06:50:00.000Z",
    resolved_at: "2024-06-04T08:00:00.000Z",
    incident_updates: [{ body: "We are investigating." }],
    ...more
  })
  const minute = 60_000

  it.live("impacts become phases, from ten minutes before the first one", () =>
    Effect.gen(function*() {
      const page = {
        page: { id: "p", name: "Vendor" },
        incidents: [
          incident({
            id: "i3",
            impact: "critical",
            started_at: null,
            created_at: "2024-06-04T09:00:00Z",
            resolved_at: null
          }),
          incident({}),
          incident({
            id: "i2",
            impact: "minor",
            started_at: "2024-06-04T08:10:00Z",
            resolved_at: "2024-06-04T08:20:00Z"
          }),
          incident({ id: "i4", impact: "none" }),
          incident({ id: "i5", impact: "maintenance" })
        ]
      }
      assert.deepStrictEqual(yield* Simulator.fromIncidents(page), [
        { kind: "overload", share: 0.5, from: 10 * minute, to: 80 * minute },
        { kind: "slow", factor: 2, from: 90 * minute, to: 100 * minute },
        { kind: "overload", share: 0.05, from: 90 * minute, to: 100 * minute },
        { kind: "overload", share: 0.95, from: 140 * minute }
      ])
      assert.deepStrictEqual(yield* Simulator.fromIncidents(page, { only: "i2", start: "2024-06-04T08:15:00Z" }), [
        { kind: "slow", factor: 2, from: 0, to: 5 * minute },
        { kind: "overload", share: 0.05, from: 0, to: 5 * minute }
      ])
      assert.deepStrictEqual(yield* Simulator.fromIncidents(page, { only: "Elevated", start: "2024-06-05" }), [
        { kind: "overload", share: 0.95, from: 0 }
      ])
    }))

  it.live("what is no such page", () =>
    Effect.gen(function*() {
      const wrong = (document: unknown) =>
        Effect.map(Effect.flip(Simulator.fromIncidents(document)), ({ path }) => path)
      assert.strictEqual(yield* wrong({}), "incidents")
      assert.strictEqual(yield* wrong({ incidents: [incident({ created_at: "soon" })] }), "incidents[0].created_at")
      assert.strictEqual(yield* wrong({ incidents: [7] }), "incidents[0]")
    }))
})

describe("fromJson", () => {
  const scenario = { arrivals: { kind: "steady", perSecond: 1 }, vendors: [{ id: "a" }] }
  const cases: ReadonlyArray<readonly [json: unknown, path: string, rule: string]> = [
    [{ ...scenario, vendor: [] }, "vendor", "one of name, about, arrivals, vendors"],
    [{ ...scenario, vendors: [] }, "vendors", "a list of at least one vendor"],
    [{ ...scenario, vendors: [{ id: "a" }, { id: "a" }] }, "vendors", "vendors of different names"],
    [
      { ...scenario, vendors: [{ id: "a", latency: { spread: 9 } }] },
      "vendors[0].latency.spread",
      "a number from 0 to 3"
    ],
    [{ ...scenario, arrivals: { kind: "steady", perSecond: 0 } }, "arrivals.perSecond", "a number above zero"],
    [
      { ...scenario, arrivals: { kind: "steady", perSecond: 1, input: { p50: 5, p90: 4 } } },
      "arrivals.input.p90",
      "a number of at least p50"
    ]
  ]
  const when = "vendors[0].phases[0]"
  const phases: ReadonlyArray<readonly [phase: unknown, path: string, rule: string]> = [
    [{ kind: "hang", share: 2 }, `${when}.share`, "a number from 0 to 1"],
    [{ kind: "quota", share: 2 }, `${when}.share`, "a number from 0 to 1"],
    [{ kind: "hang", from: -1 }, `${when}.from`, "a duration that is not negative"],
    [{ kind: "slow", factor: -1 }, `${when}.factor`, "a number of at least 0"],
    [{ kind: "slow", share: 1 }, `${when}.share`, "one of kind, factor, firstToken, from, to, every, lasts"],
    [{ kind: "capacity" }, `${when}.concurrent`, "given"],
    [
      { kind: "hangs" },
      when,
      "a phase of kind overload, error, rate-limit, quota, unreachable, hang, slow, cut or capacity"
    ],
    [{ kind: "hang", from: "4s", to: "2s" }, `${when}.to`, "after `from`"],
    [{ kind: "error", lasts: "1s" }, `${when}.every`, "given, where there is `lasts`"],
    [{ kind: "error", every: "1s", lasts: "2s" }, `${when}.lasts`, "at most `every`"]
  ]
  for (const [phase, path, rule] of phases) {
    it.live(JSON.stringify(phase), () =>
      Effect.gen(function*() {
        const error = yield* Effect.flip(Simulator.fromJson({ ...scenario, vendors: [{ id: "a", phases: [phase] }] }))
        assert.deepStrictEqual([error.path, error.rule], [path, rule])
      }))
  }

  for (const [json, path, rule] of cases) {
    it.live(path, () =>
      Effect.gen(function*() {
        const error = yield* Effect.flip(Simulator.fromJson(json))
        assert.deepStrictEqual([error.path, error.rule], [path, rule])
      }))
  }

  it.live("durations are written as in every configuration", () =>
    Effect.gen(function*() {
      const read = yield* Simulator.fromJson({
        arrivals: { kind: "steady", perSecond: 1, duration: "3s" },
        vendors: [{ id: "a", phases: [{ kind: "hang", from: "2 seconds" }] }]
      })
      const { report } = yield* only(read, { options: { ...bare, timeout: { attempt: "5 seconds" } } })
      assert.strictEqual(report.calls, 3)
      assert.strictEqual(report.policies[0]!.errors["AttemptTimeout"], 1)
    }))
})

describe("run", () => {
  const small = {
    arrivals: { kind: "poisson", perSecond: 5, duration: "2 minutes", operation: "stream" },
    vendors: [
      {
        id: "first",
        latency: { spread: 0.4 },
        limits: { requestsPerMinute: 200 },
        phases: [{ kind: "overload", share: 0.7, from: "1 minute" }]
      },
      { id: "second", latency: { spread: 0.4 } }
    ],
    policies: [{ name: "defaults" }, { name: "hedge", options: { hedge: { delay: "1 second" } } }],
    seed: 3
  } as const satisfies Simulator.Options

  it.live("the same seed, the same bytes: of the report, of its table and of its page", () =>
    Effect.gen(function*() {
      const [one, again] = [yield* Simulator.run(small), yield* Simulator.run(small)]
      assert.strictEqual(JSON.stringify(again), JSON.stringify(one))
      assert.strictEqual(Simulator.table(again), Simulator.table(one))
      assert.strictEqual(Simulator.html(again), Simulator.html(one))
      assert.notStrictEqual(JSON.stringify(yield* Simulator.run({ ...small, seed: 4 })), JSON.stringify(one))
    }))

  it.live("wrong options say where, and whose they are", () =>
    Effect.gen(function*() {
      const wrong = (policy: Simulator.Policy) => Effect.flip(Simulator.run({ ...small, policies: [policy] }))
      const option = yield* wrong({ name: "x", options: { retry: { maxRetries: -1 } } })
      assert.deepInclude(option, { path: "policies[0].retry.maxRetries" })
      const target = yield* wrong({ name: "x", targets: { third: {} } })
      assert.deepInclude(target, { path: "policies[0].targets.third", rule: "one of first, second" })
      const many = yield* Effect.flip(
        Simulator.run({ ...small, arrivals: { kind: "steady", perSecond: 1e6, duration: "1 hour" } })
      )
      assert.deepInclude(many, { path: "arrivals", rule: "at most 1000000 calls" })
      const none = yield* Effect.flip(Simulator.run({ ...small, arrivals: { kind: "poisson", perSecond: 1e-9 } }))
      assert.deepInclude(none, { path: "arrivals", rule: "at least one call" })
      const changes = yield* Effect.flip(
        Simulator.run({
          ...small,
          arrivals: {
            kind: "bursty",
            calmPerSecond: 1e-9,
            burstPerSecond: 1e-9,
            calm: "1 milli",
            burst: "1 milli",
            duration: "1000 days"
          }
        })
      )
      assert.deepInclude(changes, { path: "arrivals", rule: "at most 1000000 bursts" })
    }))

  const misused: ReadonlyArray<readonly [wrong: object, path: string, rule: string]> = [
    [{ seed: NaN }, "seed", "a whole number"],
    [{ seed: 1.5 }, "seed", "a whole number"],
    [{ seed: 2 ** 60 }, "seed", "a whole number"],
    [{ seed: "x" }, "seed", "a whole number"],
    [{ policies: [] }, "policies", "a list of at least one policy"],
    [{ policies: "x" }, "policies", "a list of at least one policy"],
    [{ policies: [{}] }, "policies[0].name", "given"],
    [{ policies: [{ name: "" }] }, "policies[0].name", "a name"],
    [{ policies: [{ name: "x", option: {} }] }, "policies[0].option", "one of name, options, targets"],
    [{ policies: [{ name: "x" }, { name: "x" }] }, "policies", "policies of different names"]
  ]
  for (const [wrong, path, rule] of misused) {
    it.live(`${path}: ${Object.values(wrong).map((value) => JSON.stringify(value)).join()}`, () =>
      Effect.gen(function*() {
        const error = yield* Effect.flip(Simulator.run({ ...small, ...wrong }))
        assert.deepInclude(error, { _tag: "LlmConfigError", path, rule })
      }))
  }

  it.live("the title of a table moves no cursor", () =>
    Effect.gen(function*() {
      const report = yield* Simulator.run({ ...small, name: "\u001b[2Jnoon", about: "up\u001b[1A" })
      assert.notInclude(Simulator.table(report), "\u001b")
    }))

  it.live("it can be interrupted, and tells how far it is", () =>
    Effect.gen(function*() {
      let told = 0
      const progress = (_: string, ended: number): void => {
        told = ended
      }
      const policies = Array.from({ length: 50 }, (_, i) => ({ name: `${i}` }))
      const fiber = yield* Effect.forkChild(
        Simulator.run({ ...Simulator.scenarios.overload, policies, progress })
      )
      yield* Effect.repeat(Effect.yieldNow, { until: () => told > 0 })
      yield* Fiber.interrupt(fiber)
      const then = told
      yield* Effect.sleep(20)
      assert.strictEqual(told, then)
    }))

  it.live("a stream of years, which nobody gives up, comes to an end", () =>
    Effect.gen(function*() {
      const { policy } = yield* only({
        arrivals: steady(1, { operation: "stream" }),
        vendors: [{ id: "first", latency: { perOutputToken: 1e10 } }]
      }, { options: { ...bare, timeout: false } })
      assert.strictEqual(policy.answered, 1)
      assert.approximately(policy.latency.longest, 1e12, 1000)
    }))

  it.live("two hours of the circuits of a vendor that comes and goes are bounded", () =>
    Effect.gen(function*() {
      const { policy } = yield* only({
        arrivals: steady(7200),
        vendors: [vendor({ kind: "error", every: "6 seconds" })]
      }, {
        options: {
          ...bare,
          circuitBreaker: { failureThreshold: 1, recoveryTimeout: "1 second", maxRecoveryTimeout: "1 second" }
        }
      })
      assert.lengthOf(policy.circuits, 1000)
    }))
})

describe("scenarios", () => {
  for (const [name, scenario] of Object.entries(Simulator.scenarios)) {
    it.live(name, () =>
      Effect.gen(function*() {
        assert.deepStrictEqual(yield* Simulator.fromJson(JSON.parse(JSON.stringify(scenario))), scenario)
        const arrivals: Simulator.Arrivals = scenario.arrivals.kind === "poisson"
          ? { ...scenario.arrivals, perSecond: 0.5 }
          : { ...scenario.arrivals as Simulator.Bursty, duration: "3 minutes" }
        const report = yield* Simulator.run({
          ...scenario,
          arrivals,
          policies: [{ name: "defaults" }, { name: "alone", options: { failover: false, retry: false } }]
        })
        const [defaults, alone] = report.policies as readonly [Simulator.PolicyReport, Simulator.PolicyReport]
        // The first vendor is in trouble, and that there is another one helps.
        assert.isBelow(alone.availability, 1)
        assert.isAbove(defaults.availability, alone.availability)
        assert.strictEqual(defaults.answered + Object.values(defaults.errors).reduce((a, b) => a + b, 0), report.calls)
      }))
  }
})

describe("table and page", () => {
  const wild = {
    arrivals: steady(5, { callers: [{ tenant: "</td>|<b>" }, { tenant: "b" }] }),
    vendors: [{ ...vendor({ kind: "error" }), id: "<script>alert(1)</script>" }],
    policies: [{ name: "a | \"b\" <i>&", options: bare }],
    name: "<img src=x>"
  }

  it.live("names are text in both", () =>
    Effect.gen(function*() {
      const report = yield* Simulator.run(wild)
      const page = Simulator.html(report)
      assert.notMatch(page, /<(?:script|img|b|i)\b/)
      const table = Simulator.table(report)
      const [head, , row] = table.split("\n").slice(2)
      assert.strictEqual(row!.split("|").length, head!.split("|").length)
      assert.include(table, "0.00 %")
    }))

  it.live("the page asks nobody for anything", () =>
    Effect.gen(function*() {
      const page = Simulator.html(yield* Simulator.run(small()))
      const policy = "default-src 'none'; style-src 'unsafe-inline'"
      assert.include(page, policy)
      assert.notMatch(page.replace(policy, ""), /\b(?:src|href|url|import|script)\b/)
      assert.isAbove(page.split("<svg").length, 6)
    }))

  it.live("phases that overlap are both seen, each whole; names have room", () =>
    Effect.gen(function*() {
      const page = Simulator.html(
        yield* Simulator.run({
          arrivals: steady(60),
          vendors: [
            {
              ...vendor(
                { kind: "slow", factor: 2, from: 10_000, to: 30_000 },
                { kind: "overload", share: 0.1, from: 10_000, to: 20_000 },
                { kind: "hang", share: 0, from: 20_000, to: 40_000 }
              ),
              id: "wwwwwww😀w"
            },
            { ...second, phases: [{ kind: "quota", share: 0, from: 0 }] }
          ],
          policies: [{ name: "x", options: bare }]
        })
      )
      const placeOf = (kind: string) => Number(new RegExp(`class="bar ${kind}"[^>]* y="(\\d+)"`).exec(page)?.[1])
      const [slow, overload, hang, quota] = ["slow", "overload", "hang", "quota"].map(placeOf)
      assert.deepStrictEqual([overload! - slow!, hang! - slow!, quota! - slow!], [22, 22, 44])
      assert.include(page, ">wwwwwww…<")
    }))

  const small = (): Simulator.Options => ({
    ...Simulator.scenarios.overload,
    arrivals: steady(600, { callers: [{ tenant: "a" }, { tenant: "b" }] }),
    policies: [{ name: "one" }, { name: "two", options: { circuitBreaker: { failureThreshold: 2 } } }]
  })
})
