// Each rule with what breaks it, and with the nearest configuration that does not.
import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Layer, Logger, References, Schedule } from "effect"
import { LlmClient, LlmConfig, LlmProvider } from "effect-resilient-llm"
import { Bulkhead, CircuitBreaker } from "effect-resilient-llm/resilience"
import { readFileSync } from "node:fs"

const names = ["p", "s", "t", "u", "v", "w"]
const provider = LlmProvider.make({ id: "p", generate: () => Effect.succeed("yes") })

type Options = LlmConfig.Options
type Targets = number | ReadonlyArray<LlmConfig.ExplainedInput>

interface Row {
  readonly wrong: readonly [Targets, Options]
  readonly right: ReadonlyArray<readonly [Targets, Options]>
  readonly severity: LlmConfig.Finding["severity"]
  readonly reason: string
  readonly fix: string
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
    severity: "warning",
    reason: "A call has 1m, and its first attempt may take all of it: after a hang nothing is tried again.",
    fix: "Set `timeout.attempt` well below `timeout.deadline`."
  },
  "attempt-above-share": {
    wrong: [6, { timeout: { attempt: "51 seconds" } }],
    right: [[5, {}], [6, { failover: false, retry: false }], [6, { timeout: { attempt: "50 seconds" } }], [6, {
      timeout: { deadline: false }
    }]],
    severity: "warning",
    reason:
      "6 targets divide a deadline of 5m: a hang is cut after 50s, before `timeout.attempt` is over, and is not tried again there.",
    fix: "Set `timeout.attempt` to at most 50s, or a longer `timeout.deadline`."
  },
  "retry-after-above-deadline": {
    wrong: [1, { retry: { maxRetryAfter: "5 minutes" } }],
    right: [[1, { retry: { maxRetryAfter: "4 minutes" } }], [1, {
      retry: { maxRetryAfter: "1 day" },
      timeout: { deadline: false }
    }], [1, { retry: { maxRetryAfter: Infinity }, timeout: { deadline: false } }]],
    severity: "warning",
    reason: "A `Retry-After` of up to 5m is to be waited for, in a call of 5m.",
    fix: "Set `retry.maxRetryAfter` below `timeout.deadline`."
  },
  "retry-never-fits": {
    wrong: [1, { retry: { baseDelay: "10 minutes", maxDelay: "10 minutes" } }],
    right: [[1, { retry: { baseDelay: "9 minutes", maxDelay: "10 minutes" } }]],
    severity: "warning",
    reason: "The first retry would come after 5m, when the deadline of 5m is over.",
    fix: "Set a shorter `retry.baseDelay`, a longer `timeout.deadline`, or `retry: false`."
  },
  "retry-never-paid": {
    wrong: [1, { retryBudget: { capacity: 0.9 } }],
    right: [[1, { retryBudget: { capacity: 1 } }], [1, { retryBudget: { capacity: 0 }, retry: false }]],
    severity: "warning",
    reason: "A retry costs a whole token, and the retry budget never holds one: nothing is ever tried again.",
    fix: "Set `retryBudget.capacity` to at least 1, or `retry: false`."
  },
  "attempts-below-targets": {
    wrong: [3, { failover: { maxAttempts: 2 } }],
    right: [[3, { failover: { maxAttempts: 3 } }]],
    severity: "warning",
    reason: "A call makes at most 2 of the attempts that 3 targets need: the last ones are never asked.",
    fix: "Set `failover.maxAttempts` to at least the number of targets."
  },
  "hedge-after-attempt": {
    wrong: [2, { hedge: { delay: "1 minute" } }],
    right: [[2, { hedge: { delay: "59 seconds" } }], [2, { hedge: {} }]],
    severity: "warning",
    reason: "A hedge starts after 1m, when the attempt that it is to help is over after 1m.",
    fix: "Set `hedge.delay` below `timeout.attempt`."
  },
  "hedge-with-tools": {
    wrong: [2, { hedge: {}, failover: { requireFeatures: ["tools"] } }],
    right: [[2, { hedge: {}, failover: { requireFeatures: ["seed"] } }], [2, {
      failover: { requireFeatures: ["tools"] }
    }]],
    severity: "warning",
    reason:
      "Requests here have tools, and a hedge asks twice: those whose tools a vendor runs are not hedged, all others are billed twice.",
    fix: "Use `hedge` in a client for requests without tools."
  },
  "stale-with-tools": {
    wrong: [1, { cache: { toolCalls: true } }],
    right: [[1, { cache: { toolCalls: true, staleIfError: 0 } }], [1, { cache: {} }]],
    severity: "warning",
    reason:
      "An answer up to 1d 1h old that calls tools may stand in for a failure: whoever runs them does so a second time.",
    fix: "Leave `cache.toolCalls` off, or set `cache.staleIfError: 0`; `cache: \"no-stale\"` does it for one request."
  },
  "queue-below-concurrency": {
    wrong: [2, { bulkhead: { maxConcurrent: 20, queue: 19 } }],
    right: [[2, { bulkhead: { queue: 20 } }], [2, { bulkhead: { queue: 0 } }], [2, { bulkhead: { adaptive: true } }]],
    severity: "warning",
    reason: "More calls may run at p, s than may wait: a burst is refused that one round would clear.",
    fix: "Set `bulkhead.queue` to at least what may run, or to 0 if nobody is to wait."
  },
  "wait-above-deadline": {
    wrong: [1, { bulkhead: { maxWait: "5 minutes" } }],
    right: [
      [1, { bulkhead: { maxWait: "4 minutes" } }],
      [1, { bulkhead: { maxWait: "5 minutes", queue: 0 } }],
      // What is too long to wait for tokens is refused at once, so the default does not matter.
      [1, { timeout: { attempt: "1 second", deadline: "20 seconds" } }]
    ],
    severity: "warning",
    reason: "Calls may wait in a line for as long as their deadline of 5m lasts, and then have no time left.",
    fix: "Set `maxWait` of `bulkhead` well below `timeout.deadline`."
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
    severity: "warning",
    reason:
      "The limits let fewer calls through in a `circuitBreaker.window` than `minimumCalls`, and `failureThreshold` is off: the circuit never opens.",
    fix: "Set a smaller `circuitBreaker.minimumCalls`, a longer `window`, or a `failureThreshold`."
  },
  "first-token-above-attempt": {
    wrong: [1, { timeout: { firstToken: "61 seconds" } }],
    right: [[1, { timeout: { firstToken: "60 seconds" } }], [1, { timeout: { firstToken: false } }], [1, {
      timeout: { firstToken: Infinity }
    }]],
    severity: "warning",
    reason: "A stream's attempt ends after 1m without content, so `timeout.firstToken` never counts.",
    fix: "Set `timeout.firstToken` to at most `timeout.attempt`."
  },
  "idle-above-deadline": {
    wrong: [1, { timeout: { idle: "5 minutes" } }],
    right: [
      [1, { timeout: { idle: "4 minutes" } }],
      [1, { timeout: { idle: false } }],
      [1, { timeout: { idle: Infinity } }],
      [1, { timeout: { idle: Infinity, deadline: Infinity } }]
    ],
    severity: "warning",
    reason: "The deadline of 5m is over before a silence of 5m is: `timeout.idle` never counts.",
    fix: "Set `timeout.idle` below `timeout.deadline`."
  },
  "weight-unused": {
    wrong: [[{ provider, weight: 2 }, "s"], {}],
    right: [
      [[{ provider, weight: 2 }, "s"], { routing: { strategy: "weights" } }],
      [[{ provider, weight: 2 }, "s"], { routing: { sticky: "tenant" } }]
    ],
    severity: "warning",
    reason: "Targets have weights, and the order does not depend on them.",
    fix: "Set `routing: { strategy: \"weights\" }`, or leave `weight` out."
  },
  "failover-with-one-target": {
    wrong: [1, { failover: { coolDown: "1 minute" } }],
    right: [[2, { failover: { coolDown: "1 minute" } }], [1, { failover: { maxAttempts: 3 } }], [1, { failover: {} }]],
    severity: "info",
    reason: "p is the only target: there is nobody to move on to, and it is never left alone.",
    fix: "Add a target, or leave `failover` out."
  },
  "fresh-without-tenant": {
    wrong: [1, { cache: { readThrough: true } }],
    right: [
      [1, { cache: { readThrough: true }, routing: { sticky: "tenant" } }],
      [1, { cache: { readThrough: true }, rateLimit: { limits: [{ ...perMinute(100).limits[0], by: "tenant" }] } }]
    ],
    severity: "info",
    reason: "A fresh answer is given to everybody who asks the same and names no `tenant`.",
    fix: "Set `tenant` in the requests of those who must not share answers, or `cache: \"never\"`."
  },
  "hang-without-limit": {
    wrong: [1, { timeout: false }],
    right: [[1, { timeout: { attempt: false }, retry: false }], [1, { timeout: { deadline: false } }]],
    severity: "info",
    reason: "Neither an attempt nor a call has a limit: one that hangs waits for ever.",
    fix: "Set `timeout.attempt` or `timeout.deadline`."
  }
}

const lint = ([targets, options]: readonly [Targets, Options]) =>
  LlmConfig.lint(typeof targets === "number" ? names.slice(0, targets) : targets, options)

describe("rules", () => {
  it.effect.each(Object.entries(rows))("%s", ([id, { fix, reason, right, severity, wrong }]) =>
    Effect.gen(function*() {
      assert.deepStrictEqual(yield* lint(wrong), [{ id: id as LlmConfig.Rule, severity, reason, fix }])
      for (const config of right) assert.deepStrictEqual(yield* lint(config), [], JSON.stringify(config))
    }))

  it.effect.each<[string, Targets, Options, ReadonlyArray<string>]>([
    ["a queue of a target's own", [{ provider, bulkhead: { maxConcurrent: 20, queue: 19 } }], {}, [
      "warning queue-below-concurrency"
    ]],
    ["a bulkhead in the place of options", 1, {
      bulkhead: Effect.runSync(Bulkhead.make({ maxConcurrent: 20, queue: 19 }))
    }, ["warning queue-below-concurrency"]],
    [
      "one queue that was set beside one that was not",
      [{ provider, id: "a", bulkhead: { maxConcurrent: 150 } }, { provider, bulkhead: { maxConcurrent: 9, queue: 8 } }],
      {},
      ["warning queue-below-concurrency"]
    ],
    ["tools in the cache, and no failover", 1, {
      hedge: {},
      cache: { toolCalls: true, staleIfError: 0 },
      failover: false
    }, [
      "warning hedge-with-tools"
    ]],
    ["hedges without a cache, and without failover", 1, { hedge: {}, cache: false, failover: false }, []],
    ["no retries, and a purse for them", 1, { retryBudget: { capacity: 0 }, retry: { maxRetries: 0 } }, []],
    ["no retries, and a pause before them", 1, {
      retry: { maxRetries: 0, baseDelay: "10 minutes", maxDelay: "10 minutes" }
    }, []],
    ["a schedule in the place of a pause", 1, {
      retry: { schedule: Schedule.spaced("1 second"), baseDelay: "10 minutes", maxDelay: "10 minutes" }
    }, []],
    ["a short attempt, and the usual first token", 1, { timeout: { attempt: "30 seconds" } }, []],
    ["a line without end, and a call without one", 1, {
      bulkhead: { maxWait: Infinity },
      timeout: { deadline: false }
    }, []],
    ["few tokens are no few calls", 1, {
      rateLimit: { limits: [{ dimension: "input-tokens", limit: 4, per: "1 minute" }] },
      circuitBreaker: { failureThreshold: false }
    }, []],
    ["few calls to a target", [{ provider, ...perMinute(4) }], { circuitBreaker: { failureThreshold: false } }, [
      "warning breaker-never-counts"
    ]],
    ["weights, and an order by speed", [{ provider, weight: 2 }, "s"], { routing: { strategy: "fastest" } }, [
      "warning weight-unused"
    ]],
    [
      "limits of a target by tenant",
      [{ provider, limits: [{ ...perMinute(100).limits[0], by: "tenant" }] }],
      { cache: { readThrough: true } },
      []
    ],
    ["warnings first, each in the order of the rules", 1, {
      timeout: { deadline: "20 seconds" },
      retryBudget: { capacity: 0 },
      hedge: { delay: "1 minute" },
      cache: { readThrough: true }
    }, [
      "warning retry-never-paid",
      "warning hedge-after-attempt",
      "info deadline-not-above-attempt",
      "info fresh-without-tenant"
    ]]
  ])("%s", ([, targets, options, expected]) =>
    Effect.gen(function*() {
      assert.deepStrictEqual((yield* lint([targets, options])).map(({ id, severity }) => `${severity} ${id}`), expected)
    }))

  it.effect("a hedge that never starts, and a line for tokens, have sentences of their own", () =>
    Effect.gen(function*() {
      const [hedge] = yield* lint([2, { hedge: { delay: Infinity } }])
      assert.strictEqual(hedge?.reason, "A hedge whose delay is infinite never starts.")
      assert.deepStrictEqual(yield* lint([1, { rateLimit: { maxWait: "5 minutes" } }]), [{
        id: "wait-above-deadline",
        severity: "warning",
        reason: "Calls may wait in a line for as long as their deadline of 5m lasts, and then have no time left.",
        fix: "Set `maxWait` of `rateLimit` well below `timeout.deadline`."
      }])
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
