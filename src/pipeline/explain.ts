// What a client will do, said before it does it: from the settings that it is composed of and from the table of failures.
import * as Duration from "effect/Duration"
import {
  AllProvidersFailed,
  AllProvidersUnavailable,
  AttemptTimeout,
  CircuitOpen,
  classify,
  DeadlineExceeded,
  type LlmError,
  type ProviderError,
  providerError,
  type Reason,
  StreamInterrupted,
  TRUNCATED
} from "../LlmError.ts"
import * as Health from "../persistence/Health.ts"
import * as CircuitBreaker from "../resilience/CircuitBreaker.ts"
import * as Failover from "../resilience/Failover.ts"
import { MAX_TENANTS } from "../resilience/internal/tenantLimiter.ts"
import * as Retry from "../resilience/Retry.ts"
import { type Bounds, boundsOf } from "./bounds.ts"
import { CAPACITY } from "./hub.ts"
import type { Settings, TargetSettings } from "./settings.ts"
import { enforced, watching } from "./shadow.ts"
import { MAX_KEPT_BYTES, MAX_KEPT_PARTS } from "./stream.ts"
import { MAX_CIRCUITS } from "./target.ts"
import { bulkheadAt, limiterAt, MOST } from "./turn.ts"

// -----------------------------------------------------------------------------
// models
// -----------------------------------------------------------------------------

/**
 * What a client with these targets and options does, and what it can cost at most.
 *
 * **Details**
 *
 * The bounds are those of any one call that sets no `deadline` and no `retry` of its own, whatever vendors answer, whoever
 * else calls, and whichever targets are away. Without hedges each is reached in the worst case. Milliseconds; `Infinity`
 * where an option says so, which JSON writes as `null`.
 *
 * @category models
 * @since 0.2.0
 */
export interface Explanation {
  /** What a call passes once, outermost first. What is off is absent. */
  readonly stages: ReadonlyArray<string>
  /** What is in shadow mode: it is in none of the bounds. */
  readonly shadow: ReadonlyArray<string>
  readonly targets: ReadonlyArray<ExplainedTarget>
  /**
   * Attempts of one call over all targets, with retries and hedges. A repair of `generateObject` makes as many again; work that
   * others join goes on in their time, as if there were no deadline.
   */
  readonly attempts: number
  readonly waits: ExplainedWaits
  readonly failures: ReadonlyArray<ExplainedFailure>
  readonly memory: ReadonlyArray<ExplainedMemory>
}

/**
 * One target, in failover order.
 *
 * @category models
 * @since 0.2.0
 */
export interface ExplainedTarget {
  readonly id: string
  /** What each attempt passes, first to last. */
  readonly guards: ReadonlyArray<string>
  /** Attempts of one call. */
  readonly attempts: number
  /** Milliseconds until its answer or failure, if it is the only one that is asked. */
  readonly wait: number
  /** Milliseconds of one attempt in lines, before it begins. */
  readonly line: number
}

/**
 * Milliseconds that a caller waits at most.
 *
 * @category models
 * @since 0.2.0
 */
export interface ExplainedWaits {
  /** `complete`: until an answer or a failure. */
  readonly complete: number
  /** `stream`: until the first content part or a failure. */
  readonly firstPart: number
  /** `stream`: for more content, while its consumer asks for it. */
  readonly silence: number
  /** `stream`: until its end. */
  readonly stream: number
  /** A call that joins the work of another one with its key; absent when nothing is joined. */
  readonly joined?: number | undefined
  /** The longest `Retry-After` that a retry waits for, and the longest while another target could be asked. */
  readonly hint: number
  readonly hintWithOthers: number
  /** What shared stores may add; absent without them. */
  readonly stores?: number | undefined
}

/**
 * What becomes of a call whose targets all fail in one way.
 *
 * @category models
 * @since 0.2.0
 */
export interface ExplainedFailure {
  /** `cut`: before the first content part, or of a whole answer; `all-away`: every circuit is open, or every target rests. */
  readonly what: "429" | "503" | "hang" | "cut" | "cut-stream" | "quota" | "bad-key" | "all-down" | "all-away"
  /** Of the same target, at most. */
  readonly retries: number
  /** Is the next target asked? */
  readonly failover: boolean
  /** Milliseconds for which the target is not asked again. */
  readonly coolDown?: number | undefined
  /** Does the circuit breaker count it? */
  readonly counts: boolean
  /** May a stored answer stand in? */
  readonly stale: boolean
  /** What the call fails with if nothing else helps. */
  readonly error: LlmError["_tag"]
}

/**
 * What is kept in the memory of this process, at most.
 *
 * @category models
 * @since 0.2.0
 */
export interface ExplainedMemory {
  readonly what: string
  readonly count: number
  readonly bytes?: number | undefined
}

/** What else there is than settings. */
export interface Surroundings {
  /** Names of the user's own guards. */
  readonly guards: ReadonlyArray<string>
  /** Which state is shared. */
  readonly stores: { readonly cache: boolean; readonly idempotency: boolean; readonly limits: boolean }
}

export const explanationOf = (all: Settings, around: Surroundings): Explanation => {
  const settings = enforced(all)
  const bounds = boundsOf(settings, around.guards.length > 0)
  return {
    stages: stagesOf(settings),
    shadow: watching(all),
    targets: settings.targets.map((target, i) => ({
      id: target.id,
      guards: guardsOf(settings, target, around.guards),
      attempts: bounds.attemptsOf[i]!,
      wait: bounds.completeOf[i]!,
      line: bounds.lineOf[i]!
    })),
    attempts: bounds.attempts,
    waits: waitsOf(settings, bounds, around),
    failures: failuresOf(settings, bounds),
    memory: memoryOf(settings, around)
  }
}

// -----------------------------------------------------------------------------
// order
// -----------------------------------------------------------------------------

const names = (list: ReadonlyArray<string | false | undefined>): ReadonlyArray<string> =>
  list.filter((name): name is string => typeof name === "string")

const stagesOf = ({ budget, cache, failover, hedge, idempotency, retry, routing, timers }: Settings) =>
  names([
    timers !== undefined && Number.isFinite(timers.deadline) && "deadline",
    idempotency && "idempotency",
    cache?.readThrough === true && "fresh cache",
    cache && "stale fallback",
    routing && "routing",
    failover && "failover",
    hedge && "hedge",
    retry && "retry",
    budget && "retry budget"
  ])

const guardsOf = (
  { bucket, shedding, timers }: Settings,
  { bulkhead, circuit, limits }: TargetSettings,
  own: ReadonlyArray<string>
) =>
  names([
    ...own,
    shedding?.throttle && "load-shedding",
    bulkhead && "bulkhead",
    bucket && "rate-limit (client)",
    limits && "rate-limit (target)",
    circuit && "circuit-breaker",
    timers && "timeout"
  ])

// -----------------------------------------------------------------------------
// waits
// -----------------------------------------------------------------------------

/** Of one target. Hedges are attempts, too, and no retries. */
const retriesOf = ({ retry }: Settings, { attemptsOf }: Bounds): number =>
  Math.min(Math.max(...attemptsOf) - 1, retry?.maxRetries ?? 0)

const waitsOf = (settings: Settings, bounds: Bounds, { stores }: Surroundings): ExplainedWaits => {
  const { bucket, cache, failover, idempotency, retry, targets, timers } = settings
  const hint = retriesOf(settings, bounds) === 0 ? 0 : retry!.maxRetryAfter
  const asks = (stores.idempotency && idempotency !== undefined) || (stores.cache && cache !== undefined) ||
    (stores.limits && (bucket !== undefined || targets.some(({ limits }) => limits !== undefined)))
  return {
    complete: bounds.complete,
    firstPart: bounds.firstPart,
    silence: Math.min(timers?.idle ?? Infinity, timers?.deadline ?? Infinity),
    stream: timers?.deadline ?? Infinity,
    hint,
    hintWithOthers: failover === undefined || targets.length === 1 ? hint : Math.min(hint, failover.maxRetryAfter),
    ...(idempotency === undefined ? undefined : { joined: bounds.joined }),
    ...(asks ? { stores: Health.CALL_LIMIT } : undefined)
  }
}

// -----------------------------------------------------------------------------
// failures
// -----------------------------------------------------------------------------

const failuresOf = (settings: Settings, bounds: Bounds): ReadonlyArray<ExplainedFailure> => {
  const { cache, failover, targets, timers } = settings
  const [first, ...others] = targets.map(({ id }) => id)
  const several = failover !== undefined && others.length > 0
  const retries = retriesOf(settings, bounds)
  const hasCircuit = targets.some(({ circuit }) => circuit !== undefined)
  const failed = (reason: Reason, status?: number): ProviderError => providerError(first!, { reason, status })
  const inTurn = (error: ProviderError | AttemptTimeout): LlmError =>
    several && verdictOf(settings, error).failover !== false
      ? new AllProvidersFailed({ targets: [first!, ...others], errors: [error, ...others.map(() => error)] })
      : error

  const told = (what: ExplainedFailure["what"], error: LlmError, ends = error): ExplainedFailure => {
    const verdict = verdictOf(settings, error)
    return {
      what,
      retries: verdict.retry ? retries : 0,
      failover: several && verdict.failover !== false,
      ...(verdict.coolDown && several ? { coolDown: failover.coolDown } : undefined),
      counts: hasCircuit && verdict.outcome === "failure",
      stale: cache !== undefined && classify(ends).stale,
      error: ends._tag
    }
  }
  const each = (what: ExplainedFailure["what"], error: ProviderError) => told(what, error, inTurn(error))
  const after = Duration.millis(Math.min(timers?.attempt ?? Infinity, timers?.deadline ?? Infinity))
  const hung = new AttemptTimeout({ kind: "attempt", after })
  const ends = takesDeadline(settings) ? new DeadlineExceeded({ after }) : inTurn(hung)
  return [
    each("429", failed({ _tag: "RateLimit" }, 429)),
    each("503", failed({ _tag: "Overloaded" }, 503)),
    ...(Duration.isFinite(after) ? [told("hang", hung, ends)] : []),
    each("cut", failed({ _tag: "MalformedResponse", problem: TRUNCATED })),
    told("cut-stream", new StreamInterrupted({ provider: first!, kind: "truncated", partialParts: 1 })),
    each("quota", failed({ _tag: "Quota" }, 429)),
    each("bad-key", failed({ _tag: "Authentication" }, 401)),
    each("all-down", failed({ _tag: "Network", sent: false, kind: "connect" })),
    ...(several
      ? [told("all-away", new AllProvidersUnavailable({}))]
      : hasCircuit
      ? [told("all-away", new CircuitOpen({ key: first!, state: "open" }))]
      : [])
  ]
}

/** Is the deadline over before all attempts of a call have hung, each to its end? */
const takesDeadline = ({ failover, retry, targets, timers }: Settings): boolean => {
  if (timers === undefined) return false
  const { attempt, deadline } = timers
  const retries = retry?.maxRetries ?? 0
  let now = 0
  for (let left = failover === undefined ? 1 : targets.length; left > 0; left--) {
    const end = now + (deadline - now) / left
    for (let k = 1; now < end; k++) {
      now = Math.min(now + attempt, end)
      const pause = retry === undefined || k > retries ? Infinity : Retry.backoffMillis(retry, k, 1)
      if (now + pause >= end) break
      now += pause
      if (k < MOST) continue
      // What comes after so many is like the last of them.
      now = Math.min(end, now + (retries - k) * (attempt + pause) + attempt)
      break
    }
  }
  return now >= deadline
}

/** What the table says, and what the options say instead. */
const verdictOf = ({ failover, retry }: Settings, error: LlmError) => {
  const verdict = failover === undefined
    ? classify(error)
    : Failover.overruled(failover, error, classify(error))
  const isAttempt = error._tag === "ProviderError" || error._tag === "AttemptTimeout"
  return retry?.when === undefined || !isAttempt ? verdict : { ...verdict, retry: Retry.isYes(retry.when(error)) }
}

// -----------------------------------------------------------------------------
// memory
// -----------------------------------------------------------------------------

const memoryOf = (settings: Settings, { stores }: Surroundings): ReadonlyArray<ExplainedMemory> => {
  const { bucket, cache, idempotency, targets } = settings
  const list: Array<ExplainedMemory> = []
  const line = (what: string, queue = 0): void => {
    if (queue > 0) list.push({ what, count: queue })
  }
  const tenants = (what: string, limits: TargetSettings["limits"]): void => {
    if ((limiterAt(limits)?.perTenant.length ?? 0) > 0) list.push({ what, count: MAX_TENANTS })
  }
  if (cache !== undefined && !stores.cache) {
    list.push({ what: "answers of the cache", count: cache.maxEntries, bytes: cache.maxBytes })
  }
  if (idempotency !== undefined && !stores.idempotency) {
    const { derive, maxBytes: bytes, maxEntries: count } = idempotency
    list.push({ what: "answers by key", count, bytes })
    if (derive === "replay") list.push({ what: "answers by question", count, bytes })
  }
  list.push({ what: "parts kept of each open stream", count: MAX_KEPT_PARTS, bytes: MAX_KEPT_BYTES })
  list.push({ what: "events for each reader of `events`", count: CAPACITY })
  line("calls in the line of the client's bucket", limiterAt(bucket)?.queue)
  tenants("tenants of the client's bucket", bucket)
  for (const target of targets) {
    const { circuit, id, limits } = target
    line(`calls in the line of ${id}'s bulkhead`, bulkheadAt(target)?.queue)
    line(`calls in the line of ${id}'s limits`, limiterAt(limits)?.queue)
    tenants(`tenants of ${id}'s limits`, limits)
    if (circuit !== undefined && !CircuitBreaker.isCircuitBreaker(circuit) && circuit.perModel) {
      list.push({ what: `circuits of ${id}`, count: MAX_CIRCUITS })
    }
  }
  return list
}
