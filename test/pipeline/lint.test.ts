// Each rule with what breaks it, and with the nearest configuration that does not.
import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Layer, Logger, References } from "effect"
import { LlmClient, LlmConfig, LlmProvider } from "effect-resilient-llm"
import { CircuitBreaker } from "effect-resilient-llm/resilience"
import { readFileSync } from "node:fs"

const names = ["p", "s", "t", "u", "v", "w"]
const provider = LlmProvider.make({ id: "p", generate: () => Effect.succeed("yes") })

type Options = LlmConfig.Options
type Targets = number | ReadonlyArray<LlmConfig.ExplainedInput>

interface Row {
  readonly wrong: readonly [Targets, Options]
  readonly right: ReadonlyArray<readonly [Targets, Options]>
  /** What the sentences must say. */
  readonly says: RegExp
}

const perMinute = (limit: number) => ({ limits: [{ dimension: "requests", limit, per: "1 minute" }] }) as const

/** The compiler sees to it that none is missing. */
const rows: Readonly<Record<LlmConfig.Rule, Row>> = {
  "deadline-not-above-attempt": {
    wrong: [1, { timeout: { attempt: "1 minute", deadline: "1 minute" } }],
    right: [
      [1, { timeout: { deadline: "61 seconds" } }],
      [1, { timeout: { deadline: false } }],
      // Nobody would be asked again anyway.
      [1, { timeout: { deadline: "1 minute" }, retry: false }]
    ],
    says: /A call has 1m, .*`timeout.attempt`/
  },
  "attempt-above-share": {
    wrong: [6, { timeout: { attempt: "51 seconds" } }],
    right: [[5, {}], [6, { failover: false, retry: false }], [6, { timeout: { attempt: "50 seconds" } }], [6, {
      timeout: { deadline: false }
    }]],
    says: /6 targets divide a deadline of 5m: a hang is cut after 50s/
  },
  "retry-after-above-deadline": {
    wrong: [1, { retry: { maxRetryAfter: "5 minutes" } }],
    right: [[1, { retry: { maxRetryAfter: "4 minutes" } }], [1, {
      retry: { maxRetryAfter: "1 day" },
      timeout: { deadline: false }
    }], [1, { retry: { maxRetryAfter: Infinity }, timeout: { deadline: false } }]],
    says: /`Retry-After` of up to 5m .* call of 5m/
  },
  "retry-never-fits": {
    wrong: [1, { retry: { baseDelay: "10 minutes", maxDelay: "10 minutes" } }],
    right: [[1, { retry: { baseDelay: "9 minutes", maxDelay: "10 minutes" } }]],
    says: /first retry would come after 5m/
  },
  "retry-never-paid": {
    wrong: [1, { retryBudget: { capacity: 0.9 } }],
    right: [[1, { retryBudget: { capacity: 1 } }], [1, { retryBudget: { capacity: 0 }, retry: false }]],
    says: /whole token/
  },
  "attempts-below-targets": {
    wrong: [3, { failover: { maxAttempts: 2 } }],
    right: [[3, { failover: { maxAttempts: 3 } }]],
    says: /at most 2 .* 3 targets/
  },
  "hedge-after-attempt": {
    wrong: [2, { hedge: { delay: "1 minute" } }],
    right: [[2, { hedge: { delay: "59 seconds" } }], [2, { hedge: {} }]],
    says: /after 1m, .* over after 1m/
  },
  "hedge-with-tools": {
    wrong: [2, { hedge: {}, failover: { requireFeatures: ["tools"] } }],
    right: [[2, { hedge: {}, failover: { requireFeatures: ["seed"] } }], [2, {
      failover: { requireFeatures: ["tools"] }
    }]],
    says: /billed twice/
  },
  "stale-with-tools": {
    wrong: [1, { cache: { toolCalls: true } }],
    right: [[1, { cache: { toolCalls: true, staleIfError: 0 } }], [1, { cache: {} }]],
    says: /up to 1d 1h old/
  },
  "queue-below-concurrency": {
    wrong: [2, { bulkhead: { maxConcurrent: 20, queue: 19 } }],
    right: [[2, { bulkhead: { queue: 20 } }], [2, { bulkhead: { queue: 0 } }], [2, { bulkhead: { adaptive: true } }]],
    says: /at p, s than/
  },
  "wait-above-deadline": {
    wrong: [1, { bulkhead: { maxWait: "5 minutes" } }],
    right: [
      [1, { bulkhead: { maxWait: "4 minutes" } }],
      [1, { bulkhead: { maxWait: "5 minutes", queue: 0 } }],
      // What is too long to wait for tokens is refused at once, so the default does not matter.
      [1, { timeout: { attempt: "1 second", deadline: "20 seconds" } }]
    ],
    says: /deadline of 5m/
  },
  "breaker-never-counts": {
    wrong: [1, { rateLimit: perMinute(4), circuitBreaker: { failureThreshold: false } }],
    right: [
      [1, { rateLimit: perMinute(5), circuitBreaker: { failureThreshold: false } }],
      [1, { rateLimit: perMinute(4) }],
      [1, { rateLimit: perMinute(4), circuitBreaker: { failureThreshold: false, minimumCalls: 8 } }],
      [1, {
        rateLimit: perMinute(4),
        circuitBreaker: Effect.runSync(CircuitBreaker.make({ key: "p", failureThreshold: false }))
      }]
    ],
    says: /never opens/
  },
  "first-token-above-attempt": {
    wrong: [1, { timeout: { firstToken: "61 seconds" } }],
    right: [[1, { timeout: { firstToken: "60 seconds" } }], [1, { timeout: { firstToken: false } }], [1, {
      timeout: { firstToken: Infinity }
    }]],
    says: /after 1m without content/
  },
  "idle-above-deadline": {
    wrong: [1, { timeout: { idle: "5 minutes" } }],
    right: [
      [1, { timeout: { idle: "4 minutes" } }],
      [1, { timeout: { idle: false } }],
      [1, { timeout: { idle: Infinity } }],
      [1, { timeout: { idle: Infinity, deadline: Infinity } }]
    ],
    says: /before a silence of 5m/
  },
  "weight-unused": {
    wrong: [[{ provider, weight: 2 }, "s"], {}],
    right: [
      [[{ provider, weight: 2 }, "s"], { routing: { strategy: "weights" } }],
      [[{ provider, weight: 2 }, "s"], { routing: { sticky: "tenant" } }]
    ],
    says: /`routing: \{ strategy: "weights" \}`/
  },
  "failover-with-one-target": {
    wrong: [1, { failover: { coolDown: "1 minute" } }],
    right: [[2, { failover: { coolDown: "1 minute" } }], [1, { failover: { maxAttempts: 3 } }], [1, { failover: {} }]],
    says: /p is the only target/
  },
  "fresh-without-tenant": {
    wrong: [1, { cache: { readThrough: true } }],
    right: [
      [1, { cache: { readThrough: true }, routing: { sticky: "tenant" } }],
      [1, { cache: { readThrough: true }, rateLimit: { limits: [{ ...perMinute(100).limits[0], by: "tenant" }] } }]
    ],
    says: /`tenant`/
  },
  "hang-without-limit": {
    wrong: [1, { timeout: false }],
    right: [[1, { timeout: { attempt: false }, retry: false }], [1, { timeout: { deadline: false } }]],
    says: /waits for ever/
  }
}

const lint = ([targets, options]: readonly [Targets, Options]) =>
  LlmConfig.lint(typeof targets === "number" ? names.slice(0, targets) : targets, options)

describe("rules", () => {
  it.effect.each(Object.entries(rows))("%s", ([rule, { right, says, wrong }]) =>
    Effect.gen(function*() {
      const all = yield* lint(wrong)
      assert.deepStrictEqual<ReadonlyArray<string>>(all.map(({ id }) => id), [rule])
      const found = all[0]!
      assert.match(`${found.reason} ${found.fix}`, says)
      for (const config of right) assert.deepStrictEqual(yield* lint(config), [], JSON.stringify(config))
    }))

  it.effect("a share is said in whole milliseconds", () =>
    Effect.gen(function*() {
      const [found] = yield* lint([3, { timeout: { deadline: 5000 } }])
      assert.match(found!.fix, /at most 1s 666ms, or/)
    }))

  it("are on the page, each with a row of its table", () => {
    const page = readFileSync(new URL("../../docs/explain.md", import.meta.url), "utf8")
    const listed = [...page.matchAll(/^\| `([a-z-]+)`/gm)].map(([, rule]) => rule)
    assert.deepStrictEqual(listed.toSorted(), Object.keys(rows).toSorted())
  })

  it.effect("what nobody has set is no warning: one knob can be turned without the others", () =>
    Effect.gen(function*() {
      const severities = (targets: number, options: Options) =>
        Effect.map(lint([targets, options]), (all) => all.map(({ id, severity }) => `${severity} ${id}`))
      const short = { timeout: { deadline: "20 seconds" } } as const
      assert.deepStrictEqual(yield* severities(1, short), ["info deadline-not-above-attempt"])
      assert.deepStrictEqual(yield* severities(2, short), ["info attempt-above-share"])
      assert.deepStrictEqual(yield* severities(6, {}), ["info attempt-above-share"])
      assert.deepStrictEqual(yield* severities(1, { ...short, retry: false, bulkhead: {} }), [
        "info wait-above-deadline"
      ])
      assert.deepStrictEqual(yield* severities(1, { bulkhead: { maxConcurrent: 150 } }), [
        "info queue-below-concurrency"
      ])
      const both = { retryBudget: { capacity: 0 }, cache: { readThrough: true }, timeout: false } as const
      assert.deepStrictEqual(yield* severities(1, both), [
        "warning retry-never-paid",
        "info fresh-without-tenant",
        "info hang-without-limit"
      ])
    }))

  it.effect("find nothing in the defaults, and nothing in what the documentation shows", () =>
    Effect.gen(function*() {
      const usual: ReadonlyArray<Options> = [
        {},
        { bulkhead: {} },
        { bulkhead: { adaptive: true }, loadShedding: {} },
        { hedge: {} },
        { hedge: { delay: "10 seconds" } },
        { routing: { strategy: "fastest" } },
        { timeout: { attempt: "20 seconds", deadline: "1 minute" }, retry: { maxRetries: 5, baseDelay: "200 millis" } },
        { circuitBreaker: false, retry: false, cache: false }
      ]
      for (const options of usual) {
        for (const targets of [1, 2, 3]) {
          assert.deepStrictEqual(yield* lint([targets, options]), [], `${targets} ${JSON.stringify(options)}`)
        }
      }
    }))
})

describe("a client", () => {
  const logged = <A, E>(effect: Effect.Effect<A, E>) => {
    const lines: Array<string> = []
    const logger = Logger.make<unknown, void>(({ logLevel, message }) => {
      lines.push(`${logLevel} ${String(message)}`)
    })
    return Effect.as(Effect.provide(effect, Logger.layer([logger])), lines)
  }
  const built = (options: LlmConfig.Options) =>
    Effect.scoped(Effect.gen(function*() {
      const context = yield* Layer.build(LlmClient.layerDynamic([provider], options))
      const client = Context.get(context, LlmClient)
      yield* client.complete("Hi")
      yield* client.complete("Hi")
    }))

  it.effect("logs its warnings once, one line each", () =>
    Effect.gen(function*() {
      const lines = yield* logged(
        built({ timeout: { attempt: "1 minute", deadline: "1 minute" }, retryBudget: { capacity: 0 } })
      )
      assert.deepStrictEqual(lines.map((line) => line.slice(0, line.indexOf(":"))), [
        "Warn deadline-not-above-attempt",
        "Warn retry-never-paid"
      ])
      assert.isFalse(lines.some((line) => line.includes("\n")))
    }))

  it.effect("says nothing of what is only good to know, and nothing where warnings are not wanted", () =>
    Effect.gen(function*() {
      assert.deepStrictEqual(yield* logged(built({ cache: { readThrough: true } })), [])
      const quiet = Effect.provideService(built({ retryBudget: { capacity: 0 } }), References.MinimumLogLevel, "Error")
      assert.deepStrictEqual(yield* logged(quiet), [])
    }))
})
