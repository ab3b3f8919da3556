/**
 * The options of the whole pipeline: one object, every pattern an own key, `false` for off.
 *
 * @since 0.1.0
 */
import * as Config from "effect/Config"
import * as ConfigProvider from "effect/ConfigProvider"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import type * as SchemaAST from "effect/SchemaAST"
import * as Str from "effect/String"
import { firstIssue } from "./internal/issue.ts"
import { attempt, OptionsReader } from "./internal/options.ts"
import { LlmConfigError } from "./LlmError.ts"
import type { LeaseStore } from "./persistence/Store.ts"
import type * as Bulkhead from "./resilience/Bulkhead.ts"
import type * as CircuitBreaker from "./resilience/CircuitBreaker.ts"
import type * as Failover from "./resilience/Failover.ts"
import type * as RateLimiter from "./resilience/RateLimiter.ts"
import type * as Retry from "./resilience/Retry.ts"
import type * as RetryBudget from "./resilience/RetryBudget.ts"
import type * as Timeout from "./resilience/Timeout.ts"

/**
 * Options of the idempotency layer.
 *
 * @category models
 * @since 0.1.0
 */
export interface IdempotencyOptions {
  /** How long an answer is replayed. Default 24 hours. */
  readonly ttl?: Duration.Input | undefined
  /** The most answers that are remembered. Default 10 000. */
  readonly maxEntries?: number | undefined
  /**
   * What happens without a key: `false` nothing is joined (default); `"join"` identical requests share one call while
   * it is in flight; `"replay"` they also get its stored answer.
   */
  readonly derive?: false | "join" | "replay" | undefined
  /**
   * Where clients in several processes record their answers for each other, and see who is working on which key.
   * Default: the memory of this client. A value, so it is not part of a configuration file.
   *
   * **Details**
   *
   * What is recorded: whole answers with their ledger, and refused requests (without the provider's own text) under a
   * given key. Keys and questions are hashed; answers are plain JSON, so protect the store like the answers themselves.
   * Clients that share a store share answers, whatever their targets: separate applications by the store's key prefix.
   */
  readonly store?: LeaseStore<string> | undefined
  /**
   * With a `store`: how long a client may work on a key before another one may. A call that takes longer may be made
   * twice; a process that dies blocks its keys for so long. Default: twice the attempt's limit, at most the deadline.
   */
  readonly lease?: Duration.Input | undefined
}

/**
 * Options of the circuit breakers.
 *
 * @category models
 * @since 0.1.0
 */
export interface CircuitBreakerOptions extends CircuitBreaker.Options {
  /**
   * One circuit per `target` (default), or one per target and `model`, for providers whose models fail apart. At most
   * 100 models per target are told apart; then the one that was made first starts anew.
   */
  readonly scope?: "target" | "model" | undefined
}

/**
 * Options of the response cache.
 *
 * @category models
 * @since 0.1.0
 */
export interface CacheOptions {
  /** How long an answer counts as fresh. Default 1 hour. */
  readonly ttl?: Duration.Input | undefined
  /** With `readThrough`: how long after `ttl` the old answer is given at once while a new one is fetched. Default 0. */
  readonly swr?: Duration.Input | undefined
  /** How long after `ttl` an answer may stand in for a failure. Default 24 hours. */
  readonly staleIfError?: Duration.Input | undefined
  /** The most answers that are kept. Default 1000. */
  readonly maxEntries?: number | undefined
  /** The most bytes that are kept, roughly. Default 64 MiB. */
  readonly maxBytes?: number | undefined
  /** Answer from a fresh entry without a call. Default false: the cache only stands in for failures. */
  readonly readThrough?: boolean | undefined
}

/**
 * Options of a client. Absent = the default, `false` = off, an object = on with these settings.
 *
 * | key | default |
 * | --- | --- |
 * | `idempotency` | on for given keys, memory, 24 h |
 * | `rateLimit` | one token bucket for all targets: 3500 tokens, 58.33 per second, waits up to 30 s, queue of 256 |
 * | `circuitBreaker` | per target: 5 consecutive failures, or half of at least 10 in 60 s; open for 30 s |
 * | `timeout` | attempt 60 s, first token 60 s, idle 60 s, deadline 5 min |
 * | `retry` | 3 retries, 1 s doubling to 60 s, equal jitter |
 * | `retryBudget` | per target: 10 + 20 % of first attempts + 0.1 per second |
 * | `failover` | in the order given; 10 min cool-down after quota and key failures |
 * | `cache` | stands in for failures: answers of the last 25 h |
 * | `bulkhead` | off |
 *
 * @category models
 * @since 0.1.0
 */
export interface Options {
  /** Calls with the same key are one call. Default: on for given keys, in memory, for 24 hours. */
  readonly idempotency?: IdempotencyOptions | false | undefined
  /** One token bucket for all targets. Default: 3500 requests a minute, waits up to 30 s in a queue of 256. */
  readonly rateLimit?: RateLimiter.Options | false | undefined
  /** Leaves a failing target alone. Default: after 5 failures in a row, or half of at least 10 in 60 s, for 30 s. */
  readonly circuitBreaker?: CircuitBreakerOptions | false | undefined
  /** Limits of an attempt and of the whole call. Default: attempt, first token and idle 60 s, deadline 5 minutes. */
  readonly timeout?: Timeout.Options | false | undefined
  /** Asks the same target again. Default: 3 times, after 1 s doubling to 60 s, with equal jitter. */
  readonly retry?: Retry.Options | false | undefined
  /** Bounds the retries of all calls together, per target. Default: 10, and 20 % of first attempts, and 0.1 a second. */
  readonly retryBudget?: RetryBudget.Options | false | undefined
  /** Asks the next target. Default: in the order given; a target without quota or key rests for 10 minutes. */
  readonly failover?: Failover.Options | false | undefined
  /** Keeps answers. Default: they stand in for failures, up to 25 hours old. */
  readonly cache?: CacheOptions | false | undefined
  /** Bounds the calls in flight, per target. Default: off. */
  readonly bulkhead?: Bulkhead.Options | false | undefined
}

const KEYS = [
  "idempotency",
  "rateLimit",
  "circuitBreaker",
  "timeout",
  "retry",
  "retryBudget",
  "failover",
  "cache",
  "bulkhead"
] as const satisfies ReadonlyArray<keyof Options>

/**
 * Checks that an options object names only patterns that exist. The patterns check their own options when they are
 * built.
 *
 * @category constructors
 * @since 0.1.0
 */
export const check = (options: Options): Effect.Effect<Options, LlmConfigError> =>
  attempt(() => {
    const read = new OptionsReader("", options, KEYS)
    for (const key of KEYS) {
      const value: unknown = read.value(key)
      if (value !== undefined && value !== false && (typeof value !== "object" || value === null)) {
        read.fail(key, "an object of options, or false", value)
      }
    }
    return options
  })

// -----------------------------------------------------------------------------
// schema
// -----------------------------------------------------------------------------

/** `"2 seconds"`, or a number of milliseconds. */
const DurationValue = Schema.Union([Schema.DurationFromMillis, Schema.DurationFromString])

const off = <S extends Schema.Constraint>(schema: S) =>
  Schema.optionalKey(Schema.Union([Schema.Literal(false), schema]))

const millis = Schema.optionalKey(DurationValue)
const number = Schema.optionalKey(Schema.Number)

/**
 * The options as JSON: durations are texts (`"2 seconds"`) or numbers of milliseconds. Unknown keys are errors.
 *
 * @category schemas
 * @since 0.1.0
 */
export const OptionsSchema = Schema.Struct({
  idempotency: off(Schema.Struct({
    ttl: millis,
    maxEntries: number,
    lease: millis,
    derive: Schema.optionalKey(Schema.Union([Schema.Literal(false), Schema.Literals(["join", "replay"])]))
  })),
  rateLimit: off(Schema.Struct({
    capacity: number,
    refillPerSecond: number,
    limits: Schema.optionalKey(Schema.Array(Schema.Struct({
      dimension: Schema.String,
      limit: Schema.Number,
      per: DurationValue,
      burst: number,
      strict: number
    }))),
    maxWait: millis,
    queue: number
  })),
  circuitBreaker: off(Schema.Struct({
    scope: Schema.optionalKey(Schema.Literals(["target", "model"])),
    failureThreshold: off(Schema.Number),
    failureRate: off(Schema.Number),
    minimumCalls: number,
    window: millis,
    recoveryTimeout: millis,
    maxRecoveryTimeout: millis,
    maxRetryAfter: millis,
    halfOpenProbes: number,
    successThreshold: number,
    probeLease: millis,
    slowCall: off(Schema.Struct({ duration: DurationValue, rate: number }))
  })),
  timeout: off(Schema.Struct({
    attempt: off(DurationValue),
    firstToken: off(DurationValue),
    idle: off(DurationValue),
    deadline: off(DurationValue)
  })),
  retry: off(Schema.Struct({
    maxRetries: number,
    baseDelay: millis,
    factor: number,
    maxDelay: millis,
    jitter: Schema.optionalKey(Schema.Literals(["equal", "full", "none"])),
    maxRetryAfter: millis
  })),
  retryBudget: off(Schema.Struct({ capacity: number, perAttempt: number, perSecond: number })),
  failover: off(Schema.Struct({ maxRetryAfter: millis, coolDown: millis })),
  cache: off(Schema.Struct({
    ttl: millis,
    swr: millis,
    staleIfError: millis,
    maxEntries: number,
    maxBytes: number,
    readThrough: Schema.optionalKey(Schema.Boolean)
  })),
  bulkhead: off(Schema.Struct({ maxConcurrent: number, queue: number, maxWait: millis }))
})

const decode = Schema.decodeUnknownResult(OptionsSchema, { onExcessProperty: "error" })

/**
 * Reads options from parsed JSON, such as a configuration file. Fails with the path and the rule of the first thing
 * that is wrong, unknown options included.
 *
 * **Example** (A misspelled option)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { LlmConfig } from "effect-resilient-llm"
 *
 * const error = Effect.runSync(Effect.flip(LlmConfig.fromJson({ retry: { retries: 3 } })))
 * error.message // => 'Invalid configuration: "retry.retries" must be a known option, but is a whole number.'
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const fromJson = (json: unknown): Effect.Effect<Options, LlmConfigError> =>
  Effect.suspend(() => {
    const decoded = decode(json)
    return Result.isSuccess(decoded)
      ? Effect.succeed(decoded.success)
      : Effect.fail(new LlmConfigError(firstIssue(decoded.failure.issue, json)))
  })

/**
 * The options from the current `ConfigProvider`, below `LLM`. Nothing set means all defaults; an unknown option is an
 * error.
 *
 * **Details**
 *
 * - Environment: give `ConfigProvider.constantCase(ConfigProvider.fromEnv())`, then `LLM_RETRY_MAX_RETRIES=5`,
 *   `LLM_TIMEOUT_ATTEMPT="20 seconds"`, `LLM_CIRCUIT_BREAKER=false`.
 * - JSON file: `ConfigProvider.fromUnknown({ LLM: { retry: { maxRetries: 5 } } })`. `ConfigProvider.orElse` combines
 *   both.
 *
 * **Example** (A JSON document)
 *
 * ```ts import.meta.vitest
 * import { ConfigProvider, Effect } from "effect"
 * import { LlmConfig } from "effect-resilient-llm"
 *
 * const provider = ConfigProvider.fromUnknown({ LLM: { retry: { maxRetries: 5 }, cache: false } })
 * const options = Effect.runSync(Effect.provide(LlmConfig.config, ConfigProvider.layer(provider)))
 * options.retry // => { maxRetries: 5 }
 * ```
 *
 * @category config
 * @since 0.1.0
 */
export const config: Effect.Effect<Options, Config.ConfigError | LlmConfigError> = Effect.gen(function*() {
  const options = yield* Config.withDefault(Config.schema(OptionsSchema, "LLM"), {})
  const provider = yield* ConfigProvider.ConfigProvider
  yield* refuseUnknown(provider, ["LLM"], OptionsSchema.ast)
  return options
})

// A Config asks for the names it knows, so it cannot notice a misspelled one; the provider's own list of keys can.
const refuseUnknown = (
  provider: ConfigProvider.ConfigProvider,
  path: ReadonlyArray<string>,
  ast: SchemaAST.AST
): Effect.Effect<void, Config.ConfigError | LlmConfigError> =>
  Effect.gen(function*() {
    const members = ast._tag === "Union" ? ast.types : [ast]
    const struct = members.find((member) => member._tag === "Objects")
    if (struct?._tag !== "Objects") return
    const node = yield* Effect.mapError(provider.load(path), (error) => new Config.ConfigError(error))
    if (node?._tag !== "Record") return
    const known = struct.propertySignatures.map((signature) => String(signature.name))
    for (const key of node.keys) {
      // Environment keys arrive cut at underscores: MAX of MAX_RETRIES.
      if (!known.some((name) => name === key || `${Str.configCase(name)}_`.startsWith(`${key}_`))) {
        return yield* new LlmConfigError({
          path: [...path, key].join("."),
          rule: `one of ${known.join(", ")}`,
          kind: "an unknown option"
        })
      }
    }
    for (const signature of struct.propertySignatures) {
      yield* refuseUnknown(provider, [...path, String(signature.name)], signature.type)
    }
  })
