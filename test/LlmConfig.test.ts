import { assert, describe, it } from "@effect/vitest"
import { Config, ConfigProvider, Effect, Layer } from "effect"
import { LlmClient, LlmConfig } from "effect-resilient-llm"
import { ScriptedProvider } from "effect-resilient-llm/testing"
import { namesIn } from "../src/internal/configuration.ts"

const { constantCase, fromEnvRecord, fromUnknown, orElse } = ConfigProvider

const read = (provider: ConfigProvider.ConfigProvider) => LlmConfig.config.parse(provider)

/** As the environment is given, and as `constantCase` gives it. */
const environments = (record: Record<string, string>) => [
  fromEnvRecord(record),
  constantCase(fromEnvRecord(record))
]

const complaint = (provider: ConfigProvider.ConfigProvider) =>
  Effect.map(Effect.flip(read(provider)), (error) => error.message)

describe("the environment", () => {
  const rows: ReadonlyArray<readonly [Record<string, string>, LlmConfig.Options]> = [
    [{ PATH: "/bin" }, {}],
    [{ LLM_RATE_LIMIT_CAPACITY: "3" }, { rateLimit: { capacity: 3 } }],
    [{ LLM_CIRCUIT_BREAKER_FAILURE_THRESHOLD: "1" }, { circuitBreaker: { failureThreshold: 1 } }],
    [{ LLM_RETRY_MAX_RETRIES: "0" }, { retry: { maxRetries: 0 } }],
    [{ LLM_RETRY_BUDGET: "false" }, { retryBudget: false }],
    [{ LLM_RETRY: "false", LLM_RETRY_BUDGET: "false" }, { retry: false, retryBudget: false }],
    [{ LLM_RETRY_BUDGET_CAPACITY: "2.5", LLM_RETRY_FACTOR: "3" }, {
      retry: { factor: 3 },
      retryBudget: { capacity: 2.5 }
    }],
    [{ LLM_CIRCUIT_BREAKER_FAILURE_RATE: "false" }, { circuitBreaker: { failureRate: false } }],
    [{ LLM_CACHE_READ_THROUGH: "true", LLM_IDEMPOTENCY_DERIVE: "join" }, {
      cache: { readThrough: true },
      idempotency: { derive: "join" }
    }],
    [{ LLM_RATE_LIMIT_LIMITS: "[{\"dimension\":\"requests\",\"limit\":5,\"per\":\"1m\"}]" }, {
      rateLimit: { limits: [{ dimension: "requests", limit: 5, per: 60_000 }] }
    }],
    // What is off stays off, whatever is tuned.
    [{ LLM_CACHE: "false", LLM_CACHE_TTL: "1h" }, { cache: false }]
  ]
  it.effect.each(rows)("%j", ([record, expected]) =>
    Effect.gen(function*() {
      for (const provider of environments(record)) assert.deepStrictEqual(yield* read(provider), expected)
    }))

  it.effect("names of others are none of ours", () =>
    Effect.gen(function*() {
      const foreign = {
        LLM: "gpt",
        LLM_MODEL: "m",
        LLM_TIMEOUT: "30",
        LLM_CACHE_DIR: "/tmp",
        LLM_STATE: "redis://localhost",
        LLM_RETRYABLE: "x",
        LLM_0: "zero"
      }
      for (const provider of environments(foreign)) assert.deepStrictEqual(yield* read(provider), {})
      for (const provider of environments({ ...foreign, LLM_CACHE: "false", LLM_CACHE_TTL: "1s" })) {
        assert.deepStrictEqual(yield* read(provider), { cache: false })
      }
      for (const provider of environments({ LLM_TIMEOUT: "false" })) {
        assert.deepStrictEqual(yield* read(provider), { timeout: false })
      }
    }))

  const wrong: ReadonlyArray<readonly [Record<string, string>, string]> = [
    [{ LLM_CACHE: "maybe" }, "\"LLM_CACHE\" must be false or left out for LLM_CACHE_"],
    [
      { LLM_BULKHEAD_ADAPTIVE: "maybe" },
      "\"LLM_BULKHEAD_ADAPTIVE\" must be true or false or left out for LLM_BULKHEAD_"
    ],
    [{ LLM_FAILOVER_ON: "false" }, "\"LLM_FAILOVER_ON\" must be left out for LLM_FAILOVER_ON_RATE_LIMIT, LLM_"],
    [
      { LLM_RATE_LIMIT_LIMITS: `[{ "dimension": "requests", "limit": -1, "per": "1s" }]` },
      "\"LLM_RATE_LIMIT_LIMITS[0].limit\" must be a number above zero, but is a negative number."
    ],
    [{ LLM_FAILOVER_REQUIRE_FEATURES: `["wings"]` }, "\"LLM_FAILOVER_REQUIRE_FEATURES[0]\" must be "],
    [
      { LLM_RETRY_MAX_RETRYS: "5" },
      "\"LLM_RETRY_MAX_RETRYS\" must be one of LLM_RETRY_MAX_RETRIES, LLM_RETRY_BASE_DELAY, LLM_RETRY_FACTOR,"
      + " LLM_RETRY_MAX_DELAY, LLM_RETRY_JITTER, LLM_RETRY_MAX_RETRY_AFTER, but is an unknown option."
    ],
    [
      { LLM_RETRY_BUDGET_SIZE: "5" },
      "\"LLM_RETRY_BUDGET_SIZE\" must be one of LLM_RETRY_BUDGET_CAPACITY, LLM_RETRY_BUDGET_PER_ATTEMPT,"
      + " LLM_RETRY_BUDGET_PER_SECOND, LLM_RETRY_BUDGET_MODE, but is an unknown option."
    ],
    [
      { LLM_CIRCUIT_BREAKER_SLOW_CALL_DURATION: "1s", LLM_CIRCUIT_BREAKER_SLOW_CALL_SHARE: "1" },
      "\"LLM_CIRCUIT_BREAKER_SLOW_CALL_SHARE\" must be one of"
      + " LLM_CIRCUIT_BREAKER_SLOW_CALL_DURATION, LLM_CIRCUIT_BREAKER_SLOW_CALL_RATE, but is an unknown option."
    ],
    [{ LLM_RATE_LIMIT_CAPACITY: "five" }, "\"LLM_RATE_LIMIT_CAPACITY\" must be a number above zero, but is a text."],
    [
      { LLM_RETRY_MAX_RETRIES: "-1" },
      "\"LLM_RETRY_MAX_RETRIES\" must be a whole number of at least 0, but is a negative number."
    ],
    [
      { LLM_TIMEOUT_IDLE: "2 fortnights" },
      "\"LLM_TIMEOUT_IDLE\" must be a duration such as \"2 seconds\" or a number of milliseconds or false, but is a text."
    ],
    [{ LLM_RETRY_JITTER: "some" }, "\"LLM_RETRY_JITTER\" must be one of equal, full, none, but is a text."],
    [
      { LLM_RATE_LIMIT_LIMITS: "[1" },
      "\"LLM_RATE_LIMIT_LIMITS\" must be a list of at least one limit, as JSON, but is a text."
    ],
    [
      { LLM_CIRCUIT_BREAKER_RECOVERY_TIMEOUT: "1m", LLM_CIRCUIT_BREAKER_MAX_RECOVERY_TIMEOUT: "1s" },
      "\"LLM_CIRCUIT_BREAKER_MAX_RECOVERY_TIMEOUT\" must be a duration of at least 60000 ms, but is a whole number."
    ]
  ]
  it.effect.each(wrong)("%j is an error", ([record, message]) =>
    Effect.gen(function*() {
      for (const provider of environments(record)) assert.include(yield* complaint(provider), message)
    }))

  it.effect("in small letters is an error, not nothing", () =>
    Effect.gen(function*() {
      const message = yield* complaint(fromEnvRecord({ LLM_retry_max_retries: "4" }))
      assert.include(message, "must be written retry.maxRetries, or as the variable LLM_RETRY_MAX_RETRIES")
    }))

  it.effect("each word that a complaint names is taken", () =>
    Effect.gen(function*() {
      let words = 0
      for (const variable of namesIn(LlmConfig.OptionsSchema).values()) {
        const error = yield* Effect.result(read(fromEnvRecord({ [`LLM_${variable}`]: "no such word" })))
        if (error._tag === "Success") continue // A text, such as the name of a model.
        for (const [word] of error.failure.message.matchAll(/\b(true|false)\b/g)) {
          words += 1
          assert.isDefined(yield* read(fromEnvRecord({ [`LLM_${variable}`]: word })), `${variable}=${word}`)
        }
      }
      assert.isAbove(words, 30)
    }))

  it.effect("stands below another name", () =>
    Effect.gen(function*() {
      const ours = { APP_LLM_RETRY_MAX_RETRIES: "5", LLM_RETRY_MAX_RETRIES: "1" }
      for (const provider of environments(ours)) {
        assert.deepStrictEqual(yield* Config.nested(LlmConfig.config, "APP").parse(provider), {
          retry: { maxRetries: 5 }
        })
      }
      for (const provider of environments({ APP_LLM_RETRY_TIMES: "5" })) {
        const error = yield* Effect.flip(Config.nested(LlmConfig.config, "APP").parse(provider))
        assert.include(error.message, "LLM_RETRY_TIMES")
      }
    }))

  it.effect("counts where a file says something else", () =>
    Effect.gen(function*() {
      const file = fromUnknown({ LLM: { retry: { maxRetries: 2, baseDelay: "200 millis" }, cache: false } })
      for (const environment of environments({ LLM_RETRY_MAX_RETRIES: "5", LLM_BULKHEAD_MAX_CONCURRENT: "4" })) {
        assert.deepStrictEqual(yield* read(orElse(environment, file)), {
          retry: { maxRetries: 5, baseDelay: 200 },
          cache: false,
          bulkhead: { maxConcurrent: 4 }
        })
      }
    }))

  it.effect("reaches the client", () =>
    Effect.gen(function*() {
      class Vendor extends ScriptedProvider.Service<Vendor>()("app/Vendor") {}
      const live = LlmClient.layerConfig([Vendor], LlmConfig.config).pipe(
        Layer.provide(Vendor.layer([ScriptedProvider.overloaded])),
        Layer.provide(ConfigProvider.layer(fromEnvRecord({ LLM_RETRY_MAX_RETRIES: "0", LLM_RATE_LIMIT_CAPACITY: "3" })))
      )
      const program = Effect.gen(function*() {
        const client = yield* LlmClient
        const error = yield* Effect.flip(client.complete("Hi"))
        return [error._tag, (yield* client.status).rateLimit?.levels["requests"]]
      })
      assert.deepStrictEqual(yield* Effect.provide(program, live), ["ProviderError", 2])
    }))
})

describe("a document", () => {
  const wrong: ReadonlyArray<readonly [unknown, string]> = [
    [{ LLM: [] }, "\"LLM\" must be an object of options, but is an empty array."],
    [{ LLM: { retry: [] } }, "\"LLM.retry\" must be an object of options, or false, but is an empty array."],
    [{ LLM: { retry: 3 } }, "\"LLM.retry\" must be an object of options, or false, but is a text."],
    [{ LLM: { retry: { maxRetries: [] } } }, "\"LLM.retry.maxRetries\" must be a whole number of at least 0"],
    [{ LLM: { retry: { retries: 3 } } }, "\"LLM.retry.retries\" must be one of maxRetries, baseDelay"],
    [{ LLM: { retry: { maxRetries: { most: 3 } } } }, "\"LLM.retry.maxRetries.most\" must be one of maxRetries"],
    [
      { LLM: { circuitBreaker: { slowCall: { rate: 2 } } } },
      "\"LLM.circuitBreaker.slowCall.rate\" must be a number from 0.01 to 1"
    ],
    [
      { LLM: { rateLimit: { limits: [{ dimension: "tokens", limit: "many", per: "1m" }] } } },
      "\"LLM.rateLimit.limits[0].limit\" must be a number above zero, but is a text."
    ]
  ]
  it.effect.each(wrong)("%j is an error", ([json, message]) =>
    Effect.gen(function*() {
      assert.include(yield* complaint(fromUnknown(json)), message)
    }))

  it.effect.each(wrong.slice(1))("and so it is when it is read as JSON: %j", ([json]) =>
    Effect.gen(function*() {
      const { _tag } = yield* Effect.flip(LlmConfig.fromJson((json as { readonly LLM: unknown }).LLM))
      assert.strictEqual(_tag, "LlmConfigError")
    }))

  it.effect("of a program's own has no foreign names", () =>
    Effect.gen(function*() {
      const error = yield* Effect.flip(LlmConfig.fromJson({ caching: true }))
      assert.deepInclude(error, { path: "caching", kind: "an unknown option" })
    }))

  it.effect("says nothing with null, and everything with an empty object", () =>
    Effect.gen(function*() {
      assert.deepStrictEqual(yield* read(fromUnknown({ LLM: null })), {})
      assert.deepStrictEqual(yield* read(fromUnknown({ LLM: { retry: null } })), {})
      // A bulkhead is off unless it is asked for.
      assert.deepStrictEqual(yield* read(fromUnknown({ LLM: { bulkhead: {} } })), { bulkhead: {} })
    }))

  const spellings: ReadonlyArray<readonly [unknown, string]> = [
    [{ rate_limit: "false" }, "\"LLM.rate_limit\" must be written rateLimit, or as the variable LLM_RATE_LIMIT"],
    [{ retry: { max_retries: "9" } }, "\"LLM.retry.max_retries\" must be written retry.maxRetries, or as"],
    [{ Retry: { maxRetries: "9" } }, "\"LLM.Retry.maxRetries\" must be written retry.maxRetries, or as"],
    [{ RETRY: { MAX_RETRIES: "5" } }, "\"LLM.RETRY.MAX_RETRIES\" must be written retry.maxRetries, or as"]
  ]
  it.effect.each(spellings)(
    "in another spelling is an error, not nothing: %j",
    ([document, message]) =>
      Effect.gen(function*() {
        assert.include(yield* complaint(fromUnknown({ LLM: document })), message)
      })
  )

  it.effect("turns off what `false` turns off in code, also where a duration could stand", () =>
    Effect.gen(function*() {
      for (const name of ["attempt", "firstToken", "idle", "deadline"]) {
        const off = { timeout: { [name]: false } }
        assert.deepStrictEqual<unknown>(yield* LlmConfig.fromJson(off), off)
        assert.deepStrictEqual<unknown>(yield* read(fromUnknown({ LLM: off })), off)
        const variable = `LLM_TIMEOUT_${name === "firstToken" ? "FIRST_TOKEN" : name.toUpperCase()}`
        for (const provider of environments({ [variable]: "false" })) {
          assert.deepStrictEqual<unknown>(yield* read(provider), off, variable)
        }
      }
    }))

  it.effect("has no schedules", () =>
    Effect.gen(function*() {
      assert.include(yield* complaint(fromUnknown({ LLM: { retry: { schedule: "x" } } })), "LLM.retry.schedule")
    }))
})

it.effect("what is no object of options is refused wherever options are taken", () =>
  Effect.gen(function*() {
    for (const none of [null, [], "fast"]) {
      const given = none as LlmConfig.Options
      for (const taken of [LlmConfig.check(given), LlmConfig.fromJson(none)]) {
        assert.strictEqual((yield* Effect.flip(taken)).path, "options")
      }
      assert.strictEqual((yield* Effect.flip(LlmConfig.explain(["a"], given))).path, "options")
      assert.strictEqual((yield* Effect.flip(LlmConfig.lint(["a"], given))).path, "options")
    }
  }))

describe("durations", () => {
  const texts: ReadonlyArray<readonly [string, number]> = [
    ["50ms", 50],
    ["20s", 20_000],
    ["2m", 120_000],
    ["1.5min", 90_000],
    ["1h", 3_600_000],
    ["2 seconds", 2000],
    ["250 millis", 250],
    ["1500", 1500]
  ]
  it.effect.each(texts)("%s is %d ms, wherever it stands", ([text, millis]) =>
    Effect.gen(function*() {
      const expected = { timeout: { attempt: millis } }
      for (const provider of environments({ LLM_TIMEOUT_ATTEMPT: text })) {
        assert.deepStrictEqual(yield* read(provider), expected)
      }
      assert.deepStrictEqual(yield* read(fromUnknown({ LLM: { timeout: { attempt: text } } })), expected)
      assert.deepStrictEqual(yield* LlmConfig.fromJson({ timeout: { attempt: text } }), expected)
      assert.deepStrictEqual(yield* LlmConfig.fromJson({ timeout: { attempt: millis } }), expected)
    }))

  it.effect("in code, too", () =>
    Effect.gen(function*() {
      yield* LlmConfig.check({ timeout: { attempt: "20s" as "20 seconds" } })
    }))
})
