// What a configuration says and does not mean: options that never matter, or that defeat each other.
import * as Duration from "effect/Duration"
import type { Options } from "../LlmConfig.ts"
import * as Bulkhead from "../resilience/Bulkhead.ts"
import * as CircuitBreaker from "../resilience/CircuitBreaker.ts"
import { REQUESTS } from "../resilience/internal/costs.ts"
import * as RateLimiter from "../resilience/RateLimiter.ts"
import * as Retry from "../resilience/Retry.ts"
import type { CircuitRules, Settings } from "./settings.ts"
import type { TargetOptions } from "./target.ts"
import { bulkheadAt, limiterAt, TOKEN } from "./turn.ts"

/**
 * Something about a configuration that is surely or probably not meant.
 *
 * @category models
 * @since 0.2.0
 */
export interface Finding {
  /** Which rule. */
  readonly id: Rule
  /** `warning`: something that was set does not do what it says; a client logs it when it is built. `info`: good to know. */
  readonly severity: "warning" | "info"
  /** What happens. */
  readonly reason: string
  /** What to do about it. */
  readonly fix: string
}

interface Linted {
  readonly settings: Settings
  readonly options: Options
  readonly targets: ReadonlyArray<TargetOptions>
}

type Found = Omit<Finding, "id">
type Check = (linted: Linted) => Found | undefined

const ms = (millis: number): string => Duration.format(Duration.millis(millis))

const limitsOf = ({ timers }: Settings): { readonly attempt: number; readonly deadline: number } =>
  timers ?? { attempt: Infinity, deadline: Infinity }

const retriesOf = ({ retry }: Settings): number => retry?.maxRetries ?? 0

const several = ({ failover, targets }: Settings): boolean => failover !== undefined && targets.length > 1

/** What was set, where the pattern has options of its own. */
const given = <O extends object>(options: O | false | undefined): Partial<O> => options === false ? {} : options ?? {}

/** What nobody has set is nobody's mistake. */
const severity = (isSet: boolean): Finding["severity"] => isSet ? "warning" : "info"

/** Targets whose bulkhead is as `wrong` says, and whether one of them was told so by an option of that name. */
const bulkheadsThat = (
  { options, settings, targets }: Linted,
  name: "queue" | "maxWait",
  wrong: (bulkhead: Bulkhead.Policy) => boolean
): { readonly ids: ReadonlyArray<string>; readonly isSet: boolean } => {
  const found = settings.targets.flatMap((target, i) => {
    const bulkhead = bulkheadAt(target)
    if (bulkhead === undefined || !wrong(bulkhead)) return []
    const own = targets[i]!.bulkhead ?? options.bulkhead
    return [{ id: target.id, isSet: Bulkhead.isBulkhead(own) || given(own)[name] !== undefined }]
  })
  return { ids: found.map(({ id }) => id), isSet: found.some(({ isSet }) => isSet) }
}

// -----------------------------------------------------------------------------
// rules
// -----------------------------------------------------------------------------

const rules = {
  "deadline-not-above-attempt": ({ options, settings }) => {
    const { attempt, deadline } = limitsOf(settings)
    // Several targets divide the deadline, which is the next rule.
    if (deadline === Infinity || several(settings)) return undefined
    return attempt < deadline || retriesOf(settings) === 0 ? undefined : {
      severity: severity(given(options.timeout).attempt !== undefined),
      reason: `A call has ${
        ms(deadline)
      }, and its first attempt may take all of it: after a hang nothing is tried again.`,
      fix: "Set `timeout.attempt` well below `timeout.deadline`."
    }
  },
  "attempt-above-share": ({ options, settings }) => {
    const { attempt, deadline } = limitsOf(settings)
    const { length } = settings.targets
    if (!several(settings) || attempt <= deadline / length) return undefined
    const share = ms(Math.floor(deadline / length))
    return {
      severity: severity(given(options.timeout).attempt !== undefined),
      reason:
        `${length} targets divide a deadline of ${
          ms(deadline)
        }: a hang is cut after ${share}, before \`timeout.attempt\` is ` +
        "over, and is not tried again there.",
      fix: `Set \`timeout.attempt\` to at most ${share}, or a longer \`timeout.deadline\`.`
    }
  },
  "retry-after-above-deadline": ({ options, settings }) => {
    const { retry } = settings
    const { deadline } = limitsOf(settings)
    if (given(options.retry).maxRetryAfter === undefined || retry === undefined || deadline === Infinity) {
      return undefined
    }
    return retry.maxRetryAfter < deadline ? undefined : {
      severity: "warning",
      reason: `A \`Retry-After\` of up to ${ms(retry.maxRetryAfter)} is to be waited for, in a call of ${
        ms(deadline)
      }.`,
      fix: "Set `retry.maxRetryAfter` below `timeout.deadline`."
    }
  },
  "retry-never-fits": ({ settings }) => {
    const { retry } = settings
    const { deadline } = limitsOf(settings)
    if (retry === undefined || retry.maxRetries === 0 || retry.schedule !== undefined) return undefined
    const pause = Retry.backoffMillis(retry, 1, 0)
    return pause < deadline ? undefined : {
      severity: "warning",
      reason: `The first retry would come after ${ms(pause)}, when the deadline of ${ms(deadline)} is over.`,
      fix: "Set a shorter `retry.baseDelay`, a longer `timeout.deadline`, or `retry: false`."
    }
  },
  "retry-never-paid": ({ settings: { budget, retry } }) =>
    budget === undefined || budget.capacity >= TOKEN || retry?.maxRetries === 0 ? undefined : {
      severity: "warning",
      reason: "A retry costs a whole token, and the retry budget never holds one: nothing is ever tried again.",
      fix: "Set `retryBudget.capacity` to at least 1, or `retry: false`."
    },
  "attempts-below-targets": ({ settings: { failover, targets } }) => {
    const most = failover?.maxAttempts ?? Infinity
    return most >= targets.length ? undefined : {
      severity: "warning",
      reason:
        `A call makes at most ${most} of the attempts that ${targets.length} targets need: the last ones are never asked.`,
      fix: "Set `failover.maxAttempts` to at least the number of targets."
    }
  },
  "hedge-after-attempt": ({ settings }) => {
    const { hedge } = settings
    const { attempt } = limitsOf(settings)
    return hedge === undefined || hedge.delay === "p95" || hedge.delay < attempt ? undefined : {
      severity: "warning",
      reason: hedge.delay === Infinity
        ? "A hedge whose delay is infinite never starts."
        : `A hedge starts after ${ms(hedge.delay)}, when the attempt that it is to help is over after ${ms(attempt)}.`,
      fix: "Set `hedge.delay` below `timeout.attempt`."
    }
  },
  "hedge-with-tools": ({ settings: { cache, failover, hedge } }) =>
    hedge === undefined || !(cache?.toolCalls === true || failover?.requireFeatures?.includes("tools") === true)
      ? undefined
      : {
        severity: "warning",
        reason:
          "Requests here have tools, and a hedge asks twice: those whose tools a vendor runs are not hedged, all others " +
          "are billed twice.",
        fix: "Use `hedge` in a client for requests without tools."
      },
  "stale-with-tools": ({ settings: { cache } }) =>
    cache === undefined || !cache.toolCalls || cache.staleIfError === 0 ? undefined : {
      severity: "warning",
      reason:
        `An answer up to ${
          ms(cache.ttl + cache.staleIfError)
        } old that calls tools may stand in for a failure: whoever ` +
        "runs them does so a second time.",
      fix: "Leave `cache.toolCalls` off, or set `cache.staleIfError: 0`; `cache: \"no-stale\"` does it for one request."
    },
  "queue-below-concurrency": (linted) => {
    const { ids, isSet } = bulkheadsThat(
      linted,
      "queue",
      ({ adaptive, maxConcurrent, queue }) => queue > 0 && queue < (adaptive?.max ?? maxConcurrent)
    )
    return ids.length === 0 ? undefined : {
      severity: severity(isSet),
      reason: `More calls may run at ${ids.join(", ")} than may wait: a burst is refused that one round would clear.`,
      fix: "Set `bulkhead.queue` to at least what may run, or to 0 if nobody is to wait."
    }
  },
  "wait-above-deadline": (linted) => {
    const { options: { rateLimit }, settings: { bucket, timers } } = linted
    const deadline = timers?.deadline ?? Infinity
    const waits = ({ maxWait, queue }: Pick<Bulkhead.Policy, "maxWait" | "queue">): boolean =>
      queue > 0 && maxWait >= deadline
    const { ids, isSet } = bulkheadsThat(linted, "maxWait", waits)
    const limits = limiterAt(bucket)
    // Who would wait too long for tokens is refused at once, so that only what was meant otherwise is a mistake.
    const isMeant = !RateLimiter.isRateLimiter(rateLimit) && given(rateLimit).maxWait !== undefined &&
      limits !== undefined && waits(limits)
    if (deadline === Infinity || (ids.length === 0 && !isMeant)) return undefined
    return {
      severity: severity(isSet || isMeant),
      reason: `Calls may wait in a line for as long as their deadline of ${
        ms(deadline)
      } lasts, and then have no time left.`,
      fix: `Set \`maxWait\` of ${ids.length === 0 ? "`rateLimit`" : "`bulkhead`"} well below \`timeout.deadline\`.`
    }
  },
  "breaker-never-counts": ({ settings }) => {
    const found = settings.targets.filter(({ circuit, limits }) => {
      if (circuit === undefined || CircuitBreaker.isCircuitBreaker(circuit)) return false
      return [settings.bucket, limits].some((limiter) => isStarved(circuit, limiterAt(limiter)?.limits ?? []))
    })
    return found.length === 0 ? undefined : {
      severity: "warning",
      reason:
        `The limits let fewer calls through in a \`circuitBreaker.window\` than \`minimumCalls\`, and \`failureThreshold\` ` +
        "is off: the circuit never opens.",
      fix: "Set a smaller `circuitBreaker.minimumCalls`, a longer `window`, or a `failureThreshold`."
    }
  },
  "first-token-above-attempt": ({ settings: { timers } }) => {
    if (timers === undefined) return undefined
    // Who turns it off means that it does not count.
    return timers.firstToken <= timers.attempt || timers.firstToken === Infinity ? undefined : {
      severity: "warning",
      reason: `A stream's attempt ends after ${
        ms(timers.attempt)
      } without content, so \`timeout.firstToken\` never counts.`,
      fix: "Set `timeout.firstToken` to at most `timeout.attempt`."
    }
  },
  "idle-above-deadline": ({ options, settings: { timers } }) => {
    if (timers === undefined || given(options.timeout).idle === undefined) return undefined
    return timers.idle < timers.deadline || timers.idle === Infinity ? undefined : {
      severity: "warning",
      reason: `The deadline of ${ms(timers.deadline)} is over before a silence of ${
        ms(timers.idle)
      } is: \`timeout.idle\` never counts.`,
      fix: "Set `timeout.idle` below `timeout.deadline`."
    }
  },
  "weight-unused": ({ settings: { routing }, targets }) =>
    targets.every(({ weight }) => weight === undefined) || routing?.strategy === "weights" ||
      (routing !== undefined && routing.sticky !== false)
      ? undefined
      : {
        severity: "warning",
        reason: "Targets have weights, and the order does not depend on them.",
        fix: "Set `routing: { strategy: \"weights\" }`, or leave `weight` out."
      },
  "failover-with-one-target": ({ options, settings: { targets } }) => {
    const { coolDown, maxRetryAfter, on } = given(options.failover)
    return targets.length > 1 || [coolDown, maxRetryAfter, on].every((set) => set === undefined) ? undefined : {
      severity: "info",
      reason: `${targets[0]!.id} is the only target: there is nobody to move on to, and it is never left alone.`,
      fix: "Add a target, or leave `failover` out."
    }
  },
  "fresh-without-tenant": ({ settings: { bucket, cache, routing, targets } }) => {
    const knows = routing?.sticky === "tenant" ||
      [bucket, ...targets.map(({ limits }) => limits)].some((limits) => (limiterAt(limits)?.perTenant.length ?? 0) > 0)
    return cache?.readThrough !== true || knows ? undefined : {
      severity: "info",
      reason: "A fresh answer is given to everybody who asks the same and names no `tenant`.",
      fix: "Set `tenant` in the requests of those who must not share answers, or `cache: \"never\"`."
    }
  },
  "hang-without-limit": ({ settings }) => {
    const { attempt, deadline } = limitsOf(settings)
    return attempt < Infinity || deadline < Infinity ? undefined : {
      severity: "info",
      reason: "Neither an attempt nor a call has a limit: one that hangs waits for ever.",
      fix: "Set `timeout.attempt` or `timeout.deadline`."
    }
  }
} satisfies Readonly<Record<string, Check>>

/** Does no window see enough calls, and does nothing else open the circuit? */
const isStarved = (
  { policy: { failureThreshold, minimumCalls, window } }: CircuitRules,
  limits: ReadonlyArray<{ readonly dimension: string; readonly burst: number; readonly rate: number }>
): boolean =>
  failureThreshold === Infinity &&
  limits.some(({ burst, dimension, rate }) => dimension === REQUESTS && burst + rate * window < minimumCalls)

/**
 * The names of the rules of {@link Finding}.
 *
 * @category models
 * @since 0.2.0
 */
export type Rule = keyof typeof rules

const checks: Readonly<Record<Rule, Check>> = rules
const ids = Object.keys(rules) as ReadonlyArray<Rule>

/** Warnings first. */
export const findings = (linted: Linted): ReadonlyArray<Finding> => {
  const all = ids.flatMap((id): ReadonlyArray<Finding> => {
    const found = checks[id](linted)
    return found === undefined ? [] : [{ id, ...found }]
  })
  return all.toSorted((a, b) => Number(a.severity === "info") - Number(b.severity === "info"))
}
