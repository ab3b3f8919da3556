// What all laws look at: the events by call and by target, the options as the patterns read them, and when attempts began.
import * as Bulkhead from "../../../resilience/Bulkhead.ts"
import * as CircuitBreaker from "../../../resilience/CircuitBreaker.ts"
import * as RateLimiter from "../../../resilience/RateLimiter.ts"
import type { Heard, Law, Run, Violation } from "../../Invariants.ts"

export type Event<Tag extends Heard["_tag"]> = Extract<Heard, { readonly _tag: Tag }>

/** A law: what does not hold, in order. */
export type Judge = (facts: Facts) => Iterable<Violation>

export interface Facts extends Run {
  /** Everybody was gone by then. */
  readonly over: number
  readonly tolerance: number
  readonly calls: ReadonlyMap<number, ReadonlyArray<Heard>>
  readonly targetIds: ReadonlyArray<string>
  /** What a target did, in order. */
  readonly at: (target: string) => ReadonlyArray<Heard>
  readonly attempts: ReadonlyArray<Begun>
  readonly violation: (law: Law, what: string, of: Heard | number) => Violation
}

/** An attempt that reached its provider, and what it waited for. */
export interface Begun {
  readonly event: Event<"AttemptStarted">
  readonly target: string
  /** When it came to the bulkhead, was let in, had its tokens and began. */
  readonly arrived: number
  readonly entered: number
  readonly began: number
  /** Its call has lines beside each other, and its events do not tell whose wait was whose. */
  readonly isHedged: boolean
}

export const known = (run: Run): Facts => {
  const calls = groupBy(run.events.filter(({ call }) => call > 0), ({ call }) => call)
  const byTarget = groupBy(run.events.filter((event) => "target" in event), (event) => targetOf(event)!)
  return {
    ...run,
    over: run.endedAt ?? run.events.at(-1)?.when ?? 0,
    // What floats lose.
    tolerance: (run.tolerance ?? 0) + 1e-6,
    calls,
    targetIds: [
      ...new Set([
        ...run.events.flatMap((event) => event._tag === "AttemptStarted" ? [event.target] : []),
        ...run.status?.targets.map(({ id }) => id) ?? []
      ])
    ],
    at: (target) => byTarget.get(target) ?? [],
    attempts: begun(calls),
    violation: (law, what, of) =>
      typeof of === "number" ? { law, what, when: of } : { law, what, when: of.when, event: run.events.indexOf(of) }
  }
}

export const targetOf = (event: Heard): string | undefined => "target" in event ? event.target : undefined

export const isEnd = (event: Heard): event is Event<"AttemptSucceeded" | "AttemptFailed" | "AttemptInterrupted"> =>
  event._tag === "AttemptSucceeded" || event._tag === "AttemptFailed" || event._tag === "AttemptInterrupted"

export const isOf = <Tag extends Heard["_tag"]>(tag: Tag) => (event: Heard): event is Event<Tag> => event._tag === tag

export const groupBy = <A, K>(list: Iterable<A>, keyOf: (a: A) => K): Map<K, Array<A>> => {
  const groups = new Map<K, Array<A>>()
  for (const a of list) {
    const group = groups.get(keyOf(a))
    if (group === undefined) groups.set(keyOf(a), [a])
    else group.push(a)
  }
  return groups
}

const begun = (calls: Facts["calls"]): ReadonlyArray<Begun> => {
  const list: Array<Begun> = []
  for (const events of calls.values()) {
    const isHedged = events.some(isOf("Hedged"))
    const waits = new Map<string, { permit: number; tokens: number }>()
    for (const event of events) {
      if (event._tag === "Waited" && event.for === "bulkhead") {
        waits.set(event.target, { permit: event.duration, tokens: 0 })
      } else if (event._tag === "Waited" && event.for === "rate-limit") {
        const { permit, tokens } = waits.get(event.target) ?? none
        waits.set(event.target, { permit, tokens: tokens + event.duration })
      } else if (event._tag === "AttemptStarted") {
        const { permit, tokens } = waits.get(event.target) ?? none
        const entered = event.when - tokens
        list.push({
          event,
          target: event.target,
          arrived: entered - permit,
          entered,
          began: event.when,
          isHedged
        })
        waits.delete(event.target)
      } else if (isOver(event)) waits.delete(event.target)
    }
  }
  return list.toSorted((a, b) => a.began - b.began)
}

const none = { permit: 0, tokens: 0 }

const isOver = (event: Heard): event is Event<"TargetSkipped" | "RetryDenied" | "AttemptRefused"> =>
  event._tag === "TargetSkipped" || event._tag === "RetryDenied" || event._tag === "AttemptRefused"

// -----------------------------------------------------------------------------
// options
// -----------------------------------------------------------------------------

/** The most permits a target's bulkhead can have; `undefined`: it has none. */
export const permitsOf = ({ options, status, targets }: Facts, target: string): number | undefined => {
  const size = targets?.[target]?.bulkhead ?? options.bulkhead ?? false
  if (size === false) return undefined
  if (Bulkhead.isBulkhead(size)) {
    return status?.targets.find(({ id }) => id === target)?.bulkhead?.maxConcurrent
  }
  const { adaptive, maxConcurrent } = Bulkhead.policy(size)
  return adaptive?.max ?? maxConcurrent
}

/** One limit of requests, and whether anybody may wait for it. */
export interface Requests {
  readonly size: number
  /** Per millisecond. */
  readonly rate: number
  readonly isLine: boolean
}

const requestsOf = (
  given: RateLimiter.Options | RateLimiter.RateLimiter | false | undefined
): Requests | undefined => {
  if (given === false || RateLimiter.isRateLimiter(given)) return undefined
  const { limits, maxWait } = RateLimiter.policy(given)
  const found = limits.find(({ dimension }) => dimension === "requests")
  return found === undefined ? undefined : { size: found.burst, rate: found.rate, isLine: maxWait > 0 }
}

/** The bucket that all targets share. */
export const bucketOf = ({ options }: Facts): Requests | undefined => requestsOf(options.rateLimit)

/** A target's own limit of requests. */
export const limitOf = ({ targets }: Facts, target: string): Requests | undefined => {
  const limits = targets?.[target]?.limits
  if (limits === undefined) return undefined
  return requestsOf("length" in limits ? { limits } : limits)
}

export const hasLimits = ({ targetIds, targets }: Facts): boolean =>
  targetIds.some((id) => targets?.[id]?.limits !== undefined)

/** Whether the events tell when the bucket was waited for: nobody waits for it, or for nothing else. */
export const isBucketTold = (facts: Facts): boolean => bucketOf(facts)?.isLine === false || !hasLimits(facts)

/** The same for the limit of a target. */
export const isLimitTold = ({ options }: Facts): boolean =>
  options.rateLimit === false || (!RateLimiter.isRateLimiter(options.rateLimit) &&
    RateLimiter.policy(options.rateLimit).maxWait === 0)

export interface Circuit {
  readonly policy: CircuitBreaker.Policy
  readonly byModel: boolean
}

/** The circuit of a target; `undefined`: it has none, or one that others may share. */
export const circuitOf = ({ options, targets }: Facts, target: string): Circuit | undefined => {
  const rules = targets?.[target]?.circuitBreaker ?? options.circuitBreaker
  if (rules === false || CircuitBreaker.isCircuitBreaker(rules)) return undefined
  const { scope, ...own } = rules ?? {}
  return { policy: CircuitBreaker.policy(own), byModel: scope === "model" }
}
