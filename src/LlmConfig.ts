/**
 * The options of the whole pipeline: one object, every pattern an own key, `false` for off.
 *
 * @since 0.1.0
 */
import type * as Config from "effect/Config"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { fromDocument, fromProvider } from "./internal/configuration.ts"
import { numbered } from "./internal/names.ts"
import {
  attempt,
  boolean,
  oneOf,
  optionsOf,
  orFalse,
  orValue,
  positive,
  readOption,
  readOptions,
  rule,
  text
} from "./internal/option.ts"
import type { ClientOptions, DynamicTarget, TargetInput } from "./LlmClient.ts"
import type { LlmConfigError } from "./LlmError.ts"
import type { Guard } from "./LlmGuard.ts"
import { type Explanation, explanationOf, type Surroundings } from "./pipeline/explain.ts"
import { type Finding, findings } from "./pipeline/lint.ts"
import { charges } from "./pipeline/patterns.ts"
import { rendered } from "./pipeline/render.ts"
import type { CircuitRules, Settings } from "./pipeline/settings.ts"
import type { TargetOptions } from "./pipeline/target.ts"
import * as Bulkhead from "./resilience/Bulkhead.ts"
import * as CircuitBreaker from "./resilience/CircuitBreaker.ts"
import * as Failover from "./resilience/Failover.ts"
import * as Hedge from "./resilience/Hedge.ts"
import * as Idempotency from "./resilience/Idempotency.ts"
import * as LoadShedder from "./resilience/LoadShedder.ts"
import * as RateLimiter from "./resilience/RateLimiter.ts"
import * as ResponseCache from "./resilience/ResponseCache.ts"
import * as Retry from "./resilience/Retry.ts"
import * as RetryBudget from "./resilience/RetryBudget.ts"
import * as Routing from "./resilience/Routing.ts"
import * as Timeout from "./resilience/Timeout.ts"

export type {
  ExplainedFailure,
  ExplainedMemory,
  ExplainedTarget,
  ExplainedWaits,
  Explanation
} from "./pipeline/explain.ts"
export type { Finding, Rule } from "./pipeline/lint.ts"

/**
 * Options of the idempotency layer.
 *
 * @category models
 * @since 0.1.0
 */
export interface IdempotencyOptions extends Idempotency.Settings {
  /**
   * What happens without a key: `false` nothing is joined (default); `"join"` identical requests share one call while
   * it is in flight; `"replay"` they also get its stored answer.
   */
  readonly derive?: false | "join" | "replay" | undefined
}

/**
 * The schema of {@link IdempotencyOptions}.
 *
 * @category schemas
 * @since 0.2.0
 */
export const IdempotencyOptionsSchema = optionsOf<IdempotencyOptions>()({
  ...Idempotency.SettingsSchema.fields,
  derive: oneOf([false, "join", "replay"], false)
})

/**
 * Options of the circuit breakers.
 *
 * @category models
 * @since 0.1.0
 */
export interface CircuitBreakerOptions extends CircuitBreaker.Rules {
  /**
   * One circuit per `target` (default), or one per target and `model`, for providers whose models fail apart. At most
   * 100 models per target are told apart; then the one that was made first starts anew.
   */
  readonly scope?: "target" | "model" | undefined
}

/**
 * The schema of {@link CircuitBreakerOptions}.
 *
 * @category schemas
 * @since 0.2.0
 */
export const CircuitBreakerOptionsSchema = optionsOf<CircuitBreakerOptions>()({
  ...CircuitBreaker.RulesSchema.fields,
  scope: oneOf(["target", "model"], "target")
}).check(CircuitBreaker.recoveryOrder)

/**
 * Options of the response cache.
 *
 * @category models
 * @since 0.1.0
 */
export interface CacheOptions extends ResponseCache.Settings {
  /**
   * Answer from a fresh entry without a call, for requests with `temperature: 0`, a `seed` or `cache: "always"`. Default
   * false: the cache only stands in for failures.
   */
  readonly readThrough?: boolean | undefined
  /**
   * Also keep answers that call tools for the caller to run. Default false: a program that gets such an answer a second
   * time, from the cache, would run their effects again. Tools that the provider runs itself do not count.
   */
  readonly toolCalls?: boolean | undefined
}

/**
 * The schema of {@link CacheOptions}.
 *
 * @category schemas
 * @since 0.2.0
 */
export const CacheOptionsSchema = optionsOf<CacheOptions>()({
  ...ResponseCache.SettingsSchema.fields,
  readThrough: boolean(false),
  toolCalls: boolean(false)
})

// A limit of what no call is charged in would never count, and `input_tokens` is soon written.
const LimiterSchema = RateLimiter.OptionsSchema.check(rule(({ limits = [] }) => {
  const other = limits.findIndex(({ dimension }) => !charges.includes(dimension))
  return other < 0 ? undefined : [["limits", other, "dimension"], `one of ${charges.join(", ")}`]
}))

const isList = (u: unknown): u is ReadonlyArray<RateLimiter.Limit> => Array.isArray(u)

const LIMITS = "a list of limits, or an object of options"

const supported = Schema.optional(Schema.Boolean.annotate({ expected: "true or false" }))

const TargetSchema = optionsOf<TargetOptions>()({
  id: Schema.optional(text("a name")),
  models: Schema.optional(
    Schema.Union([Schema.Record(Schema.String, text("a model name")), Schema.Literal("strict")]).annotate({
      expected: "a map of model names, or \"strict\""
    })
  ),
  defaultModel: Schema.optional(text("a model name")),
  contextWindow: Schema.optional(positive),
  supports: Schema.optional(
    optionsOf<Routing.Supports>()({ tools: supported, schema: supported, vision: supported })
  ),
  weight: Routing.Weight,
  limits: Schema.optional(
    Schema.Union([
      Schema.declare<RateLimiter.RateLimiter>(RateLimiter.isRateLimiter, { expected: LIMITS }),
      Schema.declare<ReadonlyArray<RateLimiter.Limit>>(isList, { expected: LIMITS }),
      LimiterSchema
    ]).annotate({ expected: LIMITS })
  ),
  circuitBreaker: orValue(CircuitBreakerOptionsSchema, CircuitBreaker.isCircuitBreaker),
  bulkhead: orValue(Bulkhead.OptionsSchema, Bulkhead.isBulkhead)
})

/**
 * Checks what targets have of their own; throws `LlmConfigError`.
 *
 * @internal
 */
export const checkTargets = (targets: ReadonlyArray<TargetOptions & { readonly provider?: unknown }>): void => {
  for (const [i, { provider: _, ...own }] of targets.entries()) {
    const path = `targets[${i}]`
    readOptions(TargetSchema, own, path)
    if (isList(own.limits)) readOptions(LimiterSchema, { limits: own.limits }, path)
  }
}

/**
 * Options of a client. Absent = the default, `false` = off, an object = on with these settings.
 *
 * A limiter, breaker or bulkhead that you have made is taken as it is: for clients that share one, and to look at it or
 * force it. As an option of the client it is one for all targets.
 *
 * | key | default |
 * | --- | --- |
 * | `idempotency` | on for given keys, memory, 24 h |
 * | `rateLimit` | one token bucket for all targets: 3500 tokens, 58.33 per second, waits up to 30 s, queue of 256 |
 * | `circuitBreaker` | per target: 5 consecutive failures, half of at least 10 in 60 s, or 8 of the newest 10 far slower than usual; open for 30 s |
 * | `timeout` | attempt 60 s, first token 60 s, idle 60 s, deadline 5 min |
 * | `retry` | 3 retries, 1 s doubling to 60 s, equal jitter |
 * | `retryBudget` | per target: 10 saved at most; a first attempt adds 0.2, a second 0.1 |
 * | `failover` | in the order given; 10 min cool-down after quota and key failures |
 * | `cache` | stands in for failures: answers of the last 25 h |
 * | `bulkhead` | off |
 * | `hedge` | off |
 * | `loadShedding` | off |
 * | `routing` | off: as the targets are listed |
 *
 * @category models
 * @since 0.1.0
 */
export interface Options {
  /** Calls with the same key are one call. Default: on for given keys, in memory, for 24 hours. */
  readonly idempotency?: IdempotencyOptions | false | undefined
  /** One token bucket for all targets. Default: 3500 requests a minute, waits up to 30 s in a queue of 256. */
  readonly rateLimit?: RateLimiter.Options | RateLimiter.RateLimiter | false | undefined
  /** Leaves a failing target alone. Default: after 5 failures in a row, half of at least 10 in 60 s, or when most hang, for 30 s. */
  readonly circuitBreaker?: CircuitBreakerOptions | CircuitBreaker.CircuitBreaker | false | undefined
  /** Limits of an attempt and of the whole call. Default: attempt, first token and idle 60 s, deadline 5 minutes. */
  readonly timeout?: Timeout.Options | false | undefined
  /** Asks the same target again. Default: 3 times, after 1 s doubling to 60 s, with equal jitter. */
  readonly retry?: Retry.Options | false | undefined
  /** Bounds the retries of all calls together, per target. Default: 10 are saved at most; a first attempt adds 0.2, and a second 0.1. */
  readonly retryBudget?: RetryBudget.Options | false | undefined
  /** Asks the next target. Default: in the order given; a target without quota or key rests for 10 minutes. */
  readonly failover?: Failover.Options | false | undefined
  /** Keeps answers. Default: they stand in for failures, up to 25 hours old. */
  readonly cache?: CacheOptions | false | undefined
  /** Bounds the calls in flight, per target. Default: off. */
  readonly bulkhead?: Bulkhead.Options | Bulkhead.Bulkhead | false | undefined
  /** Asks a second target while the first one is slow. Costs a few calls more. Default: off. */
  readonly hedge?: Hedge.Options | false | undefined
  /** Turns calls away early when a target accepts too little. Default: off. */
  readonly loadShedding?: LoadShedder.Options | false | undefined
  /** Which target is asked first: by weight, the fastest, always the same for a tenant or a conversation. Default: as listed. */
  readonly routing?: Routing.Options | false | undefined
}

/**
 * The schema of {@link Options}: what is written here and in the patterns is what code, JSON and environment may say.
 *
 * @category schemas
 * @since 0.2.0
 */
export const OptionsSchema = optionsOf<Options>()({
  idempotency: orFalse(IdempotencyOptionsSchema),
  rateLimit: orValue(LimiterSchema, RateLimiter.isRateLimiter),
  circuitBreaker: orValue(CircuitBreakerOptionsSchema, CircuitBreaker.isCircuitBreaker),
  timeout: orFalse(Timeout.OptionsSchema),
  retry: orFalse(Retry.OptionsSchema),
  retryBudget: orFalse(RetryBudget.OptionsSchema),
  failover: orFalse(Failover.OptionsSchema),
  cache: orFalse(CacheOptionsSchema),
  bulkhead: orValue(Bulkhead.OptionsSchema, Bulkhead.isBulkhead),
  hedge: orFalse(Hedge.OptionsSchema),
  loadShedding: orFalse(LoadShedder.OptionsSchema),
  routing: orFalse(Routing.OptionsSchema)
})

/**
 * Checks options: every name and every rule, those of the patterns included.
 *
 * @category constructors
 * @since 0.1.0
 */
export const check = (options: Options): Effect.Effect<Options, LlmConfigError> =>
  attempt(() => {
    readOption(OptionsSchema, options, "")
    return options
  })

const isGuard = (u: unknown): u is Guard<unknown> => {
  if (typeof u !== "object" || u === null) return false
  const { acquire, failover, name, peek }: Partial<Record<keyof Guard<unknown>, unknown>> = u
  return typeof name === "string" && name !== "" && typeof acquire === "function" &&
    (peek === undefined || typeof peek === "function") && (failover === undefined || typeof failover === "boolean")
}

const ClientOptionsSchema = optionsOf<ClientOptions<unknown>>()({
  ...OptionsSchema.fields,
  guards: Schema.optional(
    Schema.Array(Schema.declare(isGuard, { expected: "a guard: a name, acquire, and peek and failover if you like" }))
      .annotate({ expected: "a list of guards" })
  )
})

/**
 * Checks what a client is given, guards included.
 *
 * @internal
 */
export const checkAll = <O extends ClientOptions<unknown>>(options: O): Effect.Effect<O, LlmConfigError> =>
  attempt(() => {
    readOption(ClientOptionsSchema, options, "")
    return options
  })

/**
 * Reads options from parsed JSON, such as a configuration file. Durations are texts (`"2 seconds"`, `"20s"`) or numbers
 * of milliseconds. Fails with the path and the rule of the first thing that is wrong, unknown options included.
 *
 * **Example** (A misspelled option)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { LlmConfig } from "effect-resilient-llm"
 *
 * const error = Effect.runSync(Effect.flip(LlmConfig.fromJson({ retryBudget: { size: 3 } })))
 * error.path // => "retryBudget.size"
 * error.rule // => "one of capacity, perAttempt, perSecond, mode"
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const fromJson = (json: unknown): Effect.Effect<Options, LlmConfigError> =>
  attempt(() => fromDocument(OptionsSchema, json, ""))

/**
 * The options from the current `ConfigProvider`, below `LLM`. Nothing set means all defaults.
 *
 * **Details**
 *
 * - Environment: `LLM_RETRY_MAX_RETRIES=5`, `LLM_TIMEOUT_ATTEMPT=20s`, `LLM_CIRCUIT_BREAKER=false`; lists as JSON. A
 *   variable without a text is not set.
 * - JSON file: `ConfigProvider.fromUnknown({ LLM: { retry: { maxRetries: 5 } } })`. `ConfigProvider.orElse` combines
 *   both; where both say something, the environment counts.
 * - `Config.nested("APP")` puts all of it below another name: `APP_LLM_RETRY_MAX_RETRIES`.
 * - A name below that of a pattern which is no option of it (`LLM_RETRY_MAX_RETRYS`) is an error. Other names below
 *   `LLM` (`LLM_MODEL`) are somebody else's, and so are `LLM_TIMEOUT`, unless it is `false`, and `LLM_CACHE_DIR`, which
 *   other programs use.
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
 * **Example** (Environment variables)
 *
 * ```ts import.meta.vitest
 * import { ConfigProvider, Effect } from "effect"
 * import { LlmConfig } from "effect-resilient-llm"
 *
 * const provider = ConfigProvider.fromEnvRecord({ LLM_RATE_LIMIT_CAPACITY: "3", LLM_RETRY_BUDGET: "false" })
 * const options = Effect.runSync(LlmConfig.config.parse(provider))
 * options // => { rateLimit: { capacity: 3 }, retryBudget: false }
 * ```
 *
 * @category config
 * @since 0.1.0
 */
export const config: Config.Config<Options> =
  // So marked, who reads no configuration does not bundle what reads it.
  /* @__PURE__ */ fromProvider(OptionsSchema, "LLM", ["TIMEOUT", "CACHE_DIR", "STATE"])

// -----------------------------------------------------------------------------
// what they come to
// -----------------------------------------------------------------------------

/**
 * What is said of: a target as a client takes it, or the name of one without settings of its own.
 *
 * @category models
 * @since 0.2.0
 */
export type ExplainedInput = string | TargetInput | DynamicTarget

/**
 * What a client with these targets and options will do: the order of its patterns, how often a call asks and how long it takes
 * at most, what becomes of failures, what is kept in memory.
 *
 * **Details**
 *
 * - Nothing is asked, and no provider is needed: the tag of a provider is called by its last word.
 * - It is read from what the client itself is composed of, and a test drives random clients to each of the bounds.
 * - Guards of your own count as if they could wait until the deadline. Stores are looked for where this is run.
 *
 * **Example** (The defaults, with two vendors)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { LlmConfig } from "effect-resilient-llm"
 *
 * const { attempts, waits } = Effect.runSync(LlmConfig.explain(["openai", "anthropic"]))
 * attempts // => 8
 * waits.complete // => 300_000
 * ```
 *
 * @category combinators
 * @since 0.2.0
 */
export const explain = (
  targets: ReadonlyArray<ExplainedInput>,
  options: ClientOptions<unknown> = {}
): Effect.Effect<Explanation, LlmConfigError> =>
  Effect.contextWith((context: Context.Context<never>) => {
    const has = <A>(store: Context.Reference<A>): boolean => Context.get(context, store) !== undefined
    const stores = {
      cache: has(ResponseCache.ResponseCacheStore),
      idempotency: has(Idempotency.IdempotencyStore),
      limits: has(RateLimiter.RateLimiterStore)
    }
    return Effect.map(settled(targets, options), ({ guards, settings }) => explanationOf(settings, { guards, stores }))
  })

/**
 * An explanation as text, for a terminal or a log.
 *
 * @category combinators
 * @since 0.2.0
 */
export const render: (explanation: Explanation) => string = rendered

/**
 * What is surely or probably not meant: options that never matter, or that defeat each other. A client logs the warnings once,
 * when it is built.
 *
 * **Example** (A retry that never comes)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { LlmConfig } from "effect-resilient-llm"
 *
 * const findings = Effect.runSync(LlmConfig.lint(["openai"], { timeout: { attempt: "1 minute", deadline: "30 seconds" } }))
 * findings.map(({ id }) => id) // => ["deadline-not-above-attempt"]
 * ```
 *
 * @category combinators
 * @since 0.2.0
 */
export const lint = (
  targets: ReadonlyArray<ExplainedInput>,
  options: ClientOptions<unknown> = {}
): Effect.Effect<ReadonlyArray<Finding>, LlmConfigError> =>
  Effect.map(settled(targets, options), (linted) => findings(linted))

const settled = (
  inputs: ReadonlyArray<ExplainedInput>,
  all: ClientOptions<unknown>
): Effect.Effect<
  {
    readonly settings: Settings
    readonly options: Options
    readonly targets: ReadonlyArray<Named>
    readonly guards: Surroundings["guards"]
  },
  LlmConfigError
> =>
  Effect.flatMap(checkAll(all), ({ guards = [], ...options }) =>
    attempt(() => {
      const targets = named(inputs)
      checkTargets(targets)
      Failover.checkIds(targets.map(({ id }) => id))
      return { settings: settings(targets, options), options, targets, guards: guards.map(({ name }) => name) }
    }))

/** The tag of a provider knows nothing of it but its own name. */
const lastWord = ({ key }: { readonly key: string }): string => key.slice(key.lastIndexOf("/") + 1)

const named = (targets: ReadonlyArray<ExplainedInput>): ReadonlyArray<Named> => {
  const names = numbered(targets.map((target) => {
    if (typeof target === "string") return { given: target, name: target }
    if (Context.isKey(target)) return { name: lastWord(target) }
    if (!("provider" in target)) return { name: target.id }
    const { id, provider } = target
    return { given: id, name: Context.isKey(provider) ? lastWord(provider) : provider.id }
  }))
  return targets.map((target, i) =>
    Object.assign({}, typeof target !== "string" && "provider" in target ? target : {}, { id: names[i]! })
  )
}

// -----------------------------------------------------------------------------
// settings
// -----------------------------------------------------------------------------

type Named = TargetOptions & { readonly id: string }

/**
 * Throws `LlmConfigError`.
 *
 * @internal
 */
export const settings = (targets: ReadonlyArray<Named>, options: Options): Settings => {
  const { bulkhead, cache, circuitBreaker, failover, hedge, idempotency, loadShedding, rateLimit, retry, retryBudget } =
    options
  const timers = options.timeout === false ? undefined : Timeout.policy(options.timeout)
  return {
    timers,
    retry: retry === false ? undefined : Retry.policy(retry),
    budget: retry === false || retryBudget === false ? undefined : RetryBudget.policy(retryBudget),
    bucket: rateLimit === false ? undefined : limiterOf(rateLimit),
    failover: failover === false ? undefined : Failover.policy(failover),
    hedge: hedge === undefined || hedge === false ? undefined : Hedge.policy(hedge),
    shedding: loadShedding === undefined || loadShedding === false ? undefined : LoadShedder.policy(loadShedding),
    routing: options.routing === undefined || options.routing === false ? undefined : Routing.policy(options.routing),
    cache: cache === false ? undefined : readOptions(CacheOptionsSchema, cache, "cache"),
    idempotency: idempotency === false ? undefined : readOptions(IdempotencyOptionsSchema, idempotency, "idempotency"),
    targets: targets.map((own) => ({
      id: own.id,
      bulkhead: bulkheadOf(own.bulkhead ?? bulkhead),
      limits: own.limits === undefined ? undefined : limiterOf(own.limits),
      circuit: circuitOf(own.circuitBreaker ?? circuitBreaker, timers)
    }))
  }
}

const limiterOf = (limiter: TargetOptions["limits"]): RateLimiter.Policy | RateLimiter.RateLimiter =>
  RateLimiter.isRateLimiter(limiter) ? limiter : RateLimiter.policy(isList(limiter) ? { limits: limiter } : limiter)

const bulkheadOf = (bulkhead: Options["bulkhead"]): Bulkhead.Policy | Bulkhead.Bulkhead | undefined =>
  bulkhead === undefined || bulkhead === false
    ? undefined
    : Bulkhead.isBulkhead(bulkhead)
    ? bulkhead
    : Bulkhead.policy(bulkhead)

const circuitOf = (
  rules: Options["circuitBreaker"],
  timers: Timeout.Policy | undefined
): CircuitRules | CircuitBreaker.CircuitBreaker | undefined => {
  if (rules === false) return undefined
  if (CircuitBreaker.isCircuitBreaker(rules)) return rules
  const { scope, ...own } = rules ?? {}
  const policy = CircuitBreaker.policy({ ...own, probeLease: probeLeaseOf(timers) })
  const perModel = readOptions(CircuitBreakerOptionsSchema, scope === undefined ? {} : { scope }, "circuitBreaker")
  return { policy, perModel: perModel.scope === "model" }
}

/** A probe keeps its slot for as long as its attempt may take, and then as long as nothing may come of its stream. */
const probeLeaseOf = (timers: Timeout.Policy | undefined): number | undefined => {
  const limits = timers === undefined ? [] : [timers.attempt, timers.idle].filter(Number.isFinite)
  return limits.length === 0 ? undefined : Math.max(...limits) + 5000
}
