/**
 * The composition of all patterns. Reading this file from top to bottom is reading the diagram:
 *
 * ```
 * deadline › idempotency › fresh cache › stale fallback › failover › retry (budget) ›
 *   [ breaker peek › bulkhead › client bucket › target limits › breaker admit › timer › provider › settle ]
 * ```
 *
 * The deadline is not a wrapper but a moment that every wait below respects. The bracket is one attempt
 * (`internal/attempt.ts`). A layer that is switched off is not in the composition. `complete` and `stream` run through
 * the same layers: an attempt opens something, and only what it opens differs.
 *
 * @since 0.1.0
 */
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type * as Fiber from "effect/Fiber"
import * as Random from "effect/Random"
import * as Scope from "effect/Scope"
import * as Attempt from "./internal/attempt.ts"
import {
  type Call,
  type CallError,
  drain,
  emit,
  identityOf,
  type Layer,
  nowOf,
  type Operation,
  type Served,
  since,
  sizeOf,
  whenEnded,
  whole
} from "./internal/call.ts"
import { monotonicMillis } from "./internal/clock.ts"
import { attempt as checked, OptionsReader } from "./internal/options.ts"
import { type Fallback, type Flights, forProcesses, isFromSecondChoice, share, type Shared } from "./internal/share.ts"
import { traceOf } from "./internal/trace.ts"
import type { CacheOptions, CircuitBreakerOptions, IdempotencyOptions, Options } from "./LlmConfig.ts"
import {
  AllProvidersFailed,
  AllProvidersUnavailable,
  classify,
  InvalidRequest,
  type LlmConfigError,
  type LlmError,
  ProviderError,
  summary,
  type TargetError,
  type Verdict,
  withLedger
} from "./LlmError.ts"
import type { Hub, LlmEvent } from "./LlmEvent.ts"
import type { LlmProvider } from "./LlmProvider.ts"
import type { LlmRequest } from "./LlmRequest.ts"
import { type Answer, isReplayable, type Source } from "./LlmResponse.ts"
import * as Bulkhead from "./resilience/Bulkhead.ts"
import * as CircuitBreaker from "./resilience/CircuitBreaker.ts"
import * as Failover from "./resilience/Failover.ts"
import * as Idempotency from "./resilience/Idempotency.ts"
import * as RateLimiter from "./resilience/RateLimiter.ts"
import * as ResponseCache from "./resilience/ResponseCache.ts"
import * as Retry from "./resilience/Retry.ts"
import * as RetryBudget from "./resilience/RetryBudget.ts"
import * as Timeout from "./resilience/Timeout.ts"

// -----------------------------------------------------------------------------
// targets
// -----------------------------------------------------------------------------

/**
 * What a target can have of its own; absent settings come from the client's options.
 *
 * @category models
 * @since 0.1.0
 */
export interface TargetOptions {
  /** Name in errors, ledgers and metrics. Default: the key of the provider's service. */
  readonly id?: string | undefined
  /** Logical model name → this target's name; looked up before the provider's own mapping. */
  readonly models?: Readonly<Record<string, string>> | undefined
  /** Asked when a request names no model, or one without a mapping. Default: the provider's. */
  readonly defaultModel?: string | undefined
  /** Tokens of context the target can take; decides where a prompt goes that was too long elsewhere. */
  readonly contextWindow?: number | undefined
  /**
   * Limits of this target alone, such as a vendor's requests and tokens per minute. What the vendor says in its headers is
   * left of them, with answers and with failures, lowers them. Default: none.
   */
  readonly limits?: RateLimiter.Options["limits"] | undefined
  readonly circuitBreaker?: CircuitBreakerOptions | false | undefined
  readonly bulkhead?: Bulkhead.Options | false | undefined
}

/**
 * A provider with its place in the failover order.
 *
 * @category models
 * @since 0.1.0
 */
export interface TargetConfig extends TargetOptions {
  readonly id: string
  readonly provider: LlmProvider
}

/**
 * How a target is doing.
 *
 * @category models
 * @since 0.1.0
 */
export interface TargetStatus {
  readonly id: string
  readonly provider: string
  /** With a circuit per model: the one that is furthest from closed. */
  readonly circuit: CircuitBreaker.Status | undefined
  /** Left until the target is asked again after its quota or key failed. */
  readonly coolingDown: Duration.Duration | undefined
  /** Permits in use and calls waiting for one. */
  readonly bulkhead: Bulkhead.Snapshot | undefined
  /** This target's own limits. */
  readonly limits: RateLimiter.Snapshot | undefined
  /** Retries that the budget would pay for now. */
  readonly retryBudget: number | undefined
}

/**
 * How a client is doing. A pattern that is off shows as `undefined`.
 *
 * @category models
 * @since 0.1.0
 */
export interface Status {
  readonly targets: ReadonlyArray<TargetStatus>
  /** The bucket that all targets share. */
  readonly rateLimit: RateLimiter.Snapshot | undefined
}

interface Target {
  readonly config: TargetConfig
  readonly index: number
  readonly bulkhead: Bulkhead.Bulkhead | undefined
  readonly limits: RateLimiter.RateLimiter | undefined
  readonly budget: RetryBudget.RetryBudget | undefined
  readonly lanes: Lanes
}

/** A breaker, if there is one, and the attempts that go through it. */
interface Lane {
  readonly breaker: CircuitBreaker.CircuitBreaker | undefined
  readonly attempt: (call: Call, request: LlmRequest) => Effect.Effect<Served, Attempt.AttemptError>
}

/** One lane for the whole target, or one per model. */
interface Lanes {
  readonly of: (model: string | undefined) => Lane
  readonly all: () => Iterable<Lane>
}

/**
 * The composed pipeline.
 *
 * @category models
 * @since 0.1.0
 */
export interface Pipeline {
  /** Starts the books of one call: its deadline runs from here, everything it opens hangs below `scope`. */
  readonly begin: (
    fiber: Fiber.Fiber<unknown, unknown>,
    operation: Operation,
    request: LlmRequest,
    scope: Scope.Closeable | undefined
  ) => Call
  readonly run: (call: Call) => Effect.Effect<Served, CallError>
  readonly status: Effect.Effect<Status>
}

// -----------------------------------------------------------------------------
// composition
// -----------------------------------------------------------------------------

/**
 * Builds every pattern and composes them, once. Fails when an option is wrong.
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = (
  configs: ReadonlyArray<TargetConfig>,
  options: Options,
  hub: Hub
): Effect.Effect<Pipeline, LlmConfigError, Scope.Scope> =>
  Effect.gen(function*() {
    const { bulkhead, cache, circuitBreaker, failover, idempotency, rateLimit, retry, retryBudget, timeout } = options
    const timers = timeout === false ? undefined : yield* checked(() => Timeout.policy(timeout))
    const backoff = retry === false ? undefined : yield* checked(() => Retry.policy(retry))
    const bucket = rateLimit === false ? undefined : yield* RateLimiter.make(rateLimit)
    const order = yield* Failover.make(configs.map((config) => config.id), failover === false ? undefined : failover)
    const builtAt = monotonicMillis(yield* Clock.Clock)

    // A probe keeps its slot as long as its attempt may take.
    const probeLease = timers === undefined || timers.attempt === Infinity ? undefined : timers.attempt + 5000
    const targets = yield* Effect.forEach(configs, (config, index) =>
      Effect.gen(function*() {
        const size = config.bulkhead ?? bulkhead ?? false
        const guards = {
          target: config.id,
          provider: config.provider,
          timeout: timers,
          bucket,
          bulkhead: size === false ? undefined : yield* Bulkhead.make(size),
          limits: config.limits === undefined ? undefined : yield* RateLimiter.make({ limits: config.limits })
        }
        const lanes = yield* checked(() =>
          makeLanes(config.circuitBreaker ?? circuitBreaker, probeLease, guards, hub, builtAt)
        )
        const budget = backoff === undefined || retryBudget === false ? undefined : yield* RetryBudget.make(retryBudget)
        const { bulkhead: room, limits } = guards
        return { config, index, budget, lanes, bulkhead: room, limits } satisfies Target
      }))

    // Innermost first.
    const perTarget = backoff === undefined ? withoutRetry : withRetry(backoff)
    const overTargets = failover === false ? onlyFirst(targets, perTarget) : withFailover(targets, order, perTarget)
    const providers = new Map(configs.map(({ id, provider }) => [id, provider.id]))
    let calls = 0
    const begin: Pipeline["begin"] = (fiber, operation, request, scope) => {
      const clock = fiber.getRef(Clock.Clock)
      const startedAt = monotonicMillis(clock)
      const deadline = request.deadline === undefined
        ? timers?.deadline ?? Infinity
        : Duration.toMillis(request.deadline)
      const call: Call = {
        id: ++calls,
        operation,
        request,
        context: fiber.context,
        trace: fiber.cache.tracer === undefined ? undefined : traceOf(fiber, operation, request, providers),
        clock,
        startedAt,
        deadline,
        until: { deadlineAt: startedAt + deadline },
        scope,
        hub,
        events: [],
        progress: {
          attempts: 0,
          target: undefined,
          answeredAt: startedAt,
          identity: undefined,
          idempotencyKey: request.idempotencyKey,
          sharedRefusal: undefined,
          ended: false
        }
      }
      const { model } = request
      const event = { _tag: "CallStarted" as const, call: call.id, at: 0, operation }
      emit(call, model === undefined ? event : { ...event, model })
      return call
    }

    const cached = cache === false ? undefined : yield* withCache(cache ?? {}, begin, overTargets)
    const answers = cached?.layer ?? overTargets
    const run = idempotency === false
      ? answers
      : yield* withIdempotency(
        idempotency ?? {},
        timers,
        cached?.orStale ?? ((_, error) => Effect.fail(error)),
        answers
      )

    return {
      begin,
      run: (call) =>
        Effect.suspend(() => {
          if (timers === undefined && call.request.deadline !== undefined) {
            const rule = "absent while `timeout` is off"
            return Effect.fail(new InvalidRequest({ path: "deadline", rule, kind: "given" }))
          }
          try {
            return run(call, call.startedAt)
          } catch (error) {
            // The first layer that compares questions asks what this one is.
            if (error instanceof InvalidRequest) return Effect.fail(error)
            throw error
          }
        }),
      status: Effect.gen(function*() {
        const rateLimit = bucket === undefined ? undefined : yield* bucket.snapshot
        return { targets: yield* Effect.forEach(targets, (target) => statusOf(target, order)), rateLimit }
      })
    }
  })

/** More models than that are asked by mistake, or by somebody who makes names up. */
const MAX_LANES = 100

const makeLanes = (
  options: CircuitBreakerOptions | false | undefined,
  probeLease: number | undefined,
  guards: Omit<Attempt.Guards, "breaker">,
  hub: Hub,
  builtAt: number
): Lanes => {
  if (options === false) {
    const lane: Lane = { breaker: undefined, attempt: Attempt.make({ ...guards, breaker: undefined }) }
    return { of: () => lane, all: () => [lane] }
  }
  const { scope: _, ...rules } = options ?? {}
  const policy = CircuitBreaker.policy({ ...rules, probeLease: rules.probeLease ?? probeLease })
  const read = new OptionsReader<CircuitBreakerOptions>("circuitBreaker", { scope: options?.scope }, ["scope"])
  const perModel = read.oneOf("scope", ["target", "model"], "target") === "model"
  const target = guards.target
  const make = (model: string | undefined): Lane => {
    const name = model === undefined ? undefined : { model }
    const breaker = CircuitBreaker.fromPolicy(
      model === undefined ? target : `${target}/${model}`,
      policy,
      ({ from, now, to }) =>
        hub.publish({ _tag: "CircuitChanged", call: 0, at: now - builtAt, target, ...name, from, to })
    )
    return { breaker, attempt: Attempt.make({ ...guards, breaker }) }
  }
  const lanes = new Map<string | undefined, Lane>([[undefined, make(undefined)]])
  const of = (model: string | undefined): Lane => {
    const key = perModel ? model : undefined
    const known = lanes.get(key)
    if (known !== undefined) return known
    const [oldest] = lanes.keys()
    if (lanes.size >= MAX_LANES) lanes.delete(oldest)
    const lane = make(key)
    lanes.set(key, lane)
    return lane
  }
  return { of, all: () => lanes.values() }
}

// -----------------------------------------------------------------------------
// idempotency: one key, one call
// -----------------------------------------------------------------------------

const withIdempotency = (
  options: IdempotencyOptions,
  timers: Timeout.Policy | undefined,
  orStale: Fallback,
  next: Layer
): Effect.Effect<Layer, LlmConfigError> =>
  Effect.gen(function*() {
    const { derive: _, store, ...memory } = options
    const derive = yield* checked(() =>
      new OptionsReader("idempotency", options, ["ttl", "maxEntries", "derive", "store", "lease"]).oneOf(
        "derive",
        [false, "join", "replay"],
        false
      )
    )
    const most = Math.min(2 * (timers?.attempt ?? Infinity), timers?.deadline ?? Infinity)
    const shared = store === undefined
      ? undefined
      : { store: forProcesses(store), lease: options.lease ?? (most === Infinity ? undefined : most) }
    const derived: Flights = {
      // What is only joined is not recorded, so other processes would wait for nothing.
      of: yield* Idempotency.make<Shared, CallError>(derive === "replay" ? { ...memory, ...shared } : memory),
      keep: derive === "replay",
      shared: derive === "replay" && shared !== undefined
    }
    const given: Flights = {
      of: yield* Idempotency.make<Shared, CallError>({
        ...memory,
        ...shared,
        // A request the provider cannot read stays unreadable; every other failure may be tried again.
        storeFailure: (error) =>
          error instanceof ProviderError && error.reason._tag === "InvalidRequest" && !isFromSecondChoice(error)
      }),
      keep: true,
      shared: shared !== undefined
    }

    let prefix: string | undefined
    return (call, now) => {
      const { idempotencyKey: key, tenant } = call.request
      if (key !== undefined) {
        const scoped = JSON.stringify([call.operation, tenant ?? null, key])
        return share(given, { key: scoped, name: key }, call, orStale, next)
      }
      prefix ??= randomPrefix(Context.get(call.context, Random.Random))
      const generated = call.progress.idempotencyKey = `${prefix}-${call.id}`
      if (derive === false) {
        const at = since(call, now)
        emit(call, { _tag: "Idempotency", call: call.id, at, result: "generated", key: generated })
        return next(call, now)
      }
      return share(derived, { key: questionOf(call) }, call, orStale, next)
    }
  })

/** 60 random bits, once per client: together with the number of the call they make a key that nobody else has. */
const randomPrefix = (random: { readonly nextDoubleUnsafe: () => number }): string => {
  const digits = () => ((random.nextDoubleUnsafe() * 2 ** 30) | 0).toString(36)
  return `llm-${digits()}-${digits()}`
}

// -----------------------------------------------------------------------------
// cache: a fresh answer instead of a call, a stale one instead of a failure
// -----------------------------------------------------------------------------

const withCache = (
  options: CacheOptions,
  begin: Pipeline["begin"],
  next: Layer
): Effect.Effect<{ readonly layer: Layer; readonly orStale: Fallback }, LlmConfigError, Scope.Scope> =>
  Effect.gen(function*() {
    const { readThrough: _, ...store } = options
    const readThrough = yield* checked(() =>
      new OptionsReader("cache", options, ["ttl", "swr", "staleIfError", "maxEntries", "maxBytes", "readThrough"])
        .boolean("readThrough", false)
    )
    const cache = yield* ResponseCache.make<Answer>(store)
    // It was given no store, so it is one in memory.
    const memory = cache.memory!
    const keep = (call: Call, key: string, answer: Answer): undefined => {
      const now = call.progress.answeredAt
      const result = isReplayable(answer) && memory.storeUnsafe(key, answer, sizeOf(answer), now)
        ? "stored"
        : "rejected"
      emit(call, { _tag: "Cache", call: call.id, at: since(call, now), result })
    }

    const kept = (call: Call, key: string) => (served: Served): Effect.Effect<Served> =>
      whenEnded(served, () => keep(call, key, served.answer))

    /** The same question asked again in the background, by a call of its own. */
    const refresh = ({ operation, progress, request }: Call): Effect.Effect<void, CallError> =>
      Effect.withFiber((fiber) => {
        const scope = Scope.makeUnsafe()
        const call = begin(fiber, operation, request, operation === "stream" ? scope : undefined)
        call.progress.identity = progress.identity
        return Effect.onExit(
          Effect.flatMap(
            Effect.flatMap(next(call, call.startedAt), kept(call, questionOf(call))),
            (served) => Effect.map(drain(served), () => ended(call, served.source))
          ),
          (exit) => {
            const error = Exit.isFailure(exit) ? Cause.findErrorOption(exit.cause) : undefined
            if (error?._tag === "Some") ended(call, "failure", error.value)
            return Effect.andThen(Scope.close(scope, exit), Effect.sync(() => ended(call, "interrupted")))
          }
        )
      })

    const stale = (call: Call, hit: ResponseCache.Hit<Answer>, error: CallError): Effect.Effect<Served, CallError> => {
      if (!classify(error).stale) return Effect.fail(error)
      const { age, value } = hit
      emit(call, { _tag: "Cache", call: call.id, at: since(call), result: "stale", age, error: summary(error) })
      return Effect.succeed(whole(value, "stale", age))
    }

    const layer: Layer = (call, now) => {
      const { cache: wish, seed, temperature } = call.request
      if (wish === "never") return next(call, now)
      const mayReuse = readThrough && (wish === "always" || temperature === 0 || seed !== undefined)
      const key = questionOf(call)
      const hit = memory.lookupUnsafe(key, now)
      const at = since(call, now)
      if (mayReuse && (hit === undefined || hit.state === "stale")) {
        emit(call, { _tag: "Cache", call: call.id, at, result: "miss" })
      }
      if (hit === undefined) return Effect.flatMap(next(call, now), kept(call, key))
      if (mayReuse && hit.state !== "stale") {
        emit(call, { _tag: "Cache", call: call.id, at, result: "fresh", age: hit.age })
        const served = whole(hit.value, "cache", hit.age)
        return hit.state === "fresh"
          ? Effect.succeed(served)
          : Effect.as(cache.revalidate(key, refresh(call)), served)
      }
      return Effect.matchEffect(next(call, now), {
        onSuccess: kept(call, key),
        onFailure: (error) => stale(call, hit, error)
      })
    }

    const orStale: Fallback = (call, error) => {
      if (call.request.cache === "never") return Effect.fail(error)
      const hit = memory.lookupUnsafe(questionOf(call), nowOf(call))
      return hit === undefined ? Effect.fail(error) : stale(call, hit, error)
    }

    return { layer, orStale }
  })

// -----------------------------------------------------------------------------
// failover: the next target, when another provider could do better
// -----------------------------------------------------------------------------

type PerTarget = (
  call: Call,
  target: Target,
  now: number,
  longestHint: () => number
) => Effect.Effect<Served, Attempt.AttemptError>

type Failures = ReadonlyArray<{ readonly index: number; readonly error: Attempt.AttemptError }>

const withFailover = (targets: ReadonlyArray<Target>, failover: Failover.Failover, perTarget: PerTarget): Layer => {
  const at = (index: number): Target => targets[index]!
  const windowOf = (index: number): number => at(index).config.contextWindow ?? Infinity

  /** One call's way along the targets. */
  class Walk
    implements Failover.Run<Served, Attempt.AttemptError, AllProvidersFailed | AllProvidersUnavailable, never>
  {
    readonly call: Call
    readonly clock: Clock.Clock
    readonly startedAt: number

    constructor(call: Call, now: number) {
      this.call = call
      this.clock = call.clock
      this.startedAt = now
    }

    attempt(index: number, longestHint: () => number, now: number): Effect.Effect<Served, Attempt.AttemptError> {
      return perTarget(this.call, at(index), now, longestHint)
    }

    skip(index: number, now: number): Failover.Skip<Attempt.AttemptError> | undefined {
      const target = at(index)
      const { request } = this.call
      if (request.model !== undefined && modelFor(target, request.model) === undefined) return { because: "no-model" }
      const { breaker } = target.lanes.of(modelOf(this.call, target))
      return breaker?.isOpenUnsafe(now) === true
        ? { because: "circuit-open", retryAfter: openFor(breaker, now), error: breaker.rejectionUnsafe(now) }
        : undefined
    }

    isSmaller(index: number, than: number): boolean {
      const largest = at(than).config.contextWindow
      return largest !== undefined && windowOf(index) < largest
    }

    classify(error: Attempt.AttemptError): Verdict {
      // The client's own bucket is the same for every target.
      return error === this.call.progress.sharedRefusal ? { ...classify(error), failover: false } : classify(error)
    }

    onSkip(index: number, { because, retryAfter }: Failover.Skip<Attempt.AttemptError>): void {
      const { call } = this
      const target = at(index).config.id
      const event = { _tag: "TargetSkipped" as const, call: call.id, at: since(call), target, because }
      emit(call, retryAfter === undefined ? event : { ...event, retryAfter })
    }

    onFailover(from: number, to: number): void {
      const { call } = this
      emit(call, {
        _tag: "FailedOver",
        call: call.id,
        at: since(call),
        from: at(from).config.id,
        to: at(to).config.id
      })
    }

    allFailed(failures: Failures): AllProvidersFailed | AllProvidersUnavailable {
      const [first, ...others] = failures.map(({ error, index }) =>
        [at(index).config.id, error as TargetError] as const
      )
      return new AllProvidersFailed({
        targets: [first![0], ...others.map(([id]) => id)],
        errors: [first![1], ...others.map(([, error]) => error)]
      })
    }

    allUnavailable(retryAfter: number | undefined): AllProvidersFailed | AllProvidersUnavailable {
      return new AllProvidersUnavailable(retryAfter === undefined ? {} : { retryAfter: Duration.millis(retryAfter) })
    }
  }

  return (call, now) => failover.run(new Walk(call, now))
}

const onlyFirst = (targets: ReadonlyArray<Target>, perTarget: PerTarget): Layer => (call, now) =>
  perTarget(call, targets[0]!, now, () => Infinity)

const openFor = (breaker: CircuitBreaker.CircuitBreaker, now: number): number | undefined => {
  const state = breaker.state.ref.current
  return state._tag === "Open" && Number.isFinite(state.until) ? Math.ceil(state.until - now) : undefined
}

// -----------------------------------------------------------------------------
// retry: the one owner of all retries, per target, paid from the target's budget
// -----------------------------------------------------------------------------

const withRetry = (policy: Retry.Policy): PerTarget => (call, target, now, longestHint) => {
  const request = requestFor(call, target, now)
  const { attempt, breaker } = target.lanes.of(request.model)
  target.budget?.depositUnsafe(now)
  return Retry.run(attempt(call, request), policy, new Retries(call, target, breaker, longestHint))
}

/** The retries of one call at one target. */
class Retries implements Retry.Hooks<Attempt.AttemptError> {
  readonly call: Call
  readonly target: Target
  readonly maxRetryAfter: () => number
  readonly isBlocked: ((now: number) => boolean) | undefined
  readonly withdraw: RetryBudget.RetryBudget["withdrawUnsafe"] | undefined

  constructor(
    call: Call,
    target: Target,
    breaker: CircuitBreaker.CircuitBreaker | undefined,
    longestHint: () => number
  ) {
    this.call = call
    this.target = target
    this.maxRetryAfter = longestHint
    this.isBlocked = breaker?.isOpenUnsafe
    this.withdraw = target.budget?.withdrawUnsafe
  }

  deadlineAt(): number {
    return this.call.until.deadlineAt
  }

  launches(): number {
    return this.call.progress.attempts
  }

  onScheduled(error: Attempt.AttemptError, delay: number, delayedBy: "backoff" | "retry-after"): void {
    emit(this.call, { _tag: "RetryScheduled", ...this.facts(), delay, delayedBy, error: summary(error) })
  }

  onDenied(error: Attempt.AttemptError, because: Retry.Denial): void {
    emit(this.call, { _tag: "RetryDenied", ...this.facts(), because, error: summary(error) })
  }

  private facts() {
    const { call, target } = this
    return { call: call.id, at: since(call), target: target.config.id, attempt: call.progress.attempts }
  }
}

const withoutRetry: PerTarget = (call, target, now) => {
  const request = requestFor(call, target, now)
  return target.lanes.of(request.model).attempt(call, request)
}

// -----------------------------------------------------------------------------
// models
// -----------------------------------------------------------------------------

/** A logical model in the target's words. Unmapped, the first target gets it verbatim, a later one its default. */
const modelFor = ({ config, index }: Target, logical: string): string | undefined => {
  const { defaultModel, models, provider } = config
  if (models !== undefined && Object.hasOwn(models, logical)) return models[logical]
  if (provider.models !== undefined && Object.hasOwn(provider.models, logical)) return provider.models[logical]
  return index === 0 ? logical : defaultModel ?? provider.defaultModel
}

const modelOf = ({ request }: Call, target: Target): string | undefined =>
  request.model === undefined
    ? target.config.defaultModel ?? target.config.provider.defaultModel
    : modelFor(target, request.model)

/** Parts of reasoning in the prompt that this provider cannot take, because they carry no mark of its own. */
const foreignReasoning = ({ prompt }: LlmRequest, own: string | false | undefined): number => {
  if (own === undefined) return 0
  let count = 0
  for (const { content, role } of prompt) {
    if (role !== "assistant" || typeof content === "string") continue
    for (const part of content) {
      if (part.type === "reasoning" && (own === false || part.options?.[own] === undefined)) count += 1
    }
  }
  return count
}

/** The request as this target's provider gets it. */
const requestFor = (call: Call, target: Target, now: number): LlmRequest => {
  const { config, index } = target
  const { idempotencyKey } = call.progress
  const logical = call.request.model
  const model = modelOf(call, target)
  if (logical !== undefined && model !== undefined && index > 0) {
    const mapped = Object.hasOwn(config.models ?? {}, logical) || Object.hasOwn(config.provider.models ?? {}, logical)
    if (!mapped) {
      const at = since(call, now)
      emit(call, { _tag: "ModelSubstituted", call: call.id, at, target: config.id, requested: logical, model })
    }
  }
  const foreign = foreignReasoning(call.request, config.provider.reasoning)
  if (foreign > 0) {
    const at = since(call, now)
    emit(call, { _tag: "ReasoningDropped", call: call.id, at, target: config.id, parts: foreign })
  }
  const request: { -readonly [K in keyof LlmRequest]: LlmRequest[K] } = { ...call.request }
  if (model !== undefined) request.model = model
  if (idempotencyKey !== undefined) request.idempotencyKey = idempotencyKey
  return request
}

// -----------------------------------------------------------------------------
// helpers
// -----------------------------------------------------------------------------

const rank = (status: CircuitBreaker.Status | undefined): number =>
  status === undefined ? -1 : ["closed", "half-open", "open"].indexOf(status.state)

const statusOf = (target: Target, failover: Failover.Failover): Effect.Effect<TargetStatus> =>
  Effect.gen(function*() {
    const now = monotonicMillis(yield* Clock.Clock)
    const cooling = failover.coolingDown(target.index, now)
    return {
      id: target.config.id,
      provider: target.config.provider.id,
      circuit: (yield* Effect.forEach(target.lanes.all(), ({ breaker }) => breaker?.status ?? Effect.undefined))
        .reduce((worst, status) => rank(status) > rank(worst) ? status : worst),
      coolingDown: cooling === undefined ? undefined : Duration.millis(Math.ceil(cooling.until - now)),
      bulkhead: target.bulkhead === undefined ? undefined : yield* target.bulkhead.snapshot,
      limits: target.limits === undefined ? undefined : yield* target.limits.snapshot,
      retryBudget: target.budget === undefined ? undefined : yield* target.budget.balance
    }
  })

/** What is asked, and in which way: a stream and a whole answer are different things to keep. No identity begins so. */
const questionOf = (call: Call): string =>
  call.operation === "complete" ? identityOf(call) : `[${call.operation}]${identityOf(call)}`

/**
 * Ends the books of a call that failed: its last event, and the ledger on its error.
 *
 * @internal
 */
export const failed = <E extends LlmError>(call: Call, error: E): E => {
  ended(call, "failure", error)
  return withLedger(error, [...call.events])
}

type CallEnded = Extract<LlmEvent, { readonly _tag: "CallEnded" }>

/**
 * Publishes the end of a call, once.
 *
 * @internal
 */
export const ended = (call: Call, outcome: Source | "failure" | "interrupted" | "defect", error?: LlmError): void => {
  if (call.progress.ended) return
  call.progress.ended = true
  const { attempts, target } = call.progress
  const at = since(call)
  const event: { -readonly [K in keyof CallEnded]: CallEnded[K] } = {
    _tag: "CallEnded",
    call: call.id,
    at,
    operation: call.operation,
    outcome,
    duration: at,
    attempts
  }
  if (target !== undefined) event.target = target
  if (error !== undefined) event.error = summary(error)
  emit(call, event)
}
