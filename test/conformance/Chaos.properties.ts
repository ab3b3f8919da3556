// The laws of SEMANTICS §3 over the log of a run, as everybody can check them, and what makes them worth checking: that the
// run had something to say about each.
import { assert } from "@effect/vitest"
import { Cause, Exit } from "effect"
import type { LlmConfig, LlmEvent } from "effect-resilient-llm"
import { RateLimiter } from "effect-resilient-llm/resilience"
import { Invariants } from "effect-resilient-llm/testing"
import { bytes, type Heard, type Log, MARKER, settings, type TargetId, targetIds } from "./Chaos.run.ts"

type Event<T extends LlmEvent.LlmEvent["_tag"]> = Extract<Heard, { readonly _tag: T }>

const all = <T extends LlmEvent.LlmEvent["_tag"]>(log: Log, tag: T) =>
  log.events.filter((event): event is Event<T> => event._tag === tag)

const isOf = (target: TargetId) => (event: { readonly target?: string }) => event.target === target

/** A log as the laws take it. */
export const runOf = ({ callers, endedAt, events, held, plan, served, status }: Log): Invariants.Run => ({
  events,
  options: plan.options,
  targets: plan.limits === undefined ? undefined : { p: { limits: plan.limits } },
  status,
  endedAt,
  callers,
  served: served.map((one) => ({ ...one, isWhole: one.fate === "ok" })),
  held,
  secrets: [MARKER]
})

/** Every law holds. */
export const laws = (log: Log): void => {
  assert.deepStrictEqual(Invariants.check(runOf(log)).slice(0, 5), [])
  assert.isAtLeast(all(log, "CallStarted").length, log.plan.calls)
  assert.strictEqual(all(log, "CallStarted")[0]?.call, 1)
}

// -----------------------------------------------------------------------------
// what there was to judge
// -----------------------------------------------------------------------------

/** P1: every bulkhead was full. */
const p1 = (log: Log): void => {
  for (const target of targetIds) {
    const changes = log.served.filter(isOf(target)).flatMap(({ from, to }) =>
      [[from, 1], [to ?? Infinity, -1]] as const
    )
      .toSorted(([a, x], [b, y]) => a - b || x - y)
    let inFlight = 0
    let most = 0
    for (const [, change] of changes) most = Math.max(most, inFlight += change)
    assert.strictEqual(most, settings.bulkhead.maxConcurrent, `${target} was never full`)
  }
}

/** The lowest level of a bucket that lets all this through. */
const lowest = (times: ReadonlyArray<number>, size: number, perMilli: number): number => {
  let level = size
  let at = 0
  let least = size
  for (const time of times.toSorted((a, b) => a - b)) {
    level = Math.min(size, level + (time - at) * perMilli) - 1
    at = time
    least = Math.min(least, level)
  }
  return least
}

const bucketOf = ({ rateLimit = {} }: LlmConfig.Options): RateLimiter.Options => {
  if (rateLimit === false || RateLimiter.isRateLimiter(rateLimit)) throw new Error("the bucket has no options")
  return rateLimit
}

/** P2: the client's bucket was empty, the limits of p mattered, and many waited. */
const p2 = (log: Log): void => {
  const { options, limits } = log.plan
  const { capacity, maxWait, refillPerSecond } = bucketOf(options)
  const waits = all(log, "Waited").filter((event) => event.for === "rate-limit")
  const waited = new Map(waits.map((event) => [`${event.call} ${event.target} ${event.when}`, event.duration]))
  const started = all(log, "AttemptStarted").map((event) => ({
    target: event.target,
    began: event.when,
    entered: event.when - (waited.get(`${event.call} ${event.target} ${event.when}`) ?? 0)
  }))
  // Where the bucket never lets anybody wait, all waiting was for the limits of the target, after the bucket.
  const times = started.map(({ began, entered }) => maxWait === 0 ? entered : began)
  const least = lowest(times, capacity!, refillPerSecond! / 1000)
  assert.isBelow(least, 1, "the bucket was never empty")
  // More than the law asks, which also counts what may have come back.
  assert.isAtLeast(least, -1e-6)
  if (limits !== undefined && !("length" in limits)) throw new Error("the limits of the target are no list")
  for (const { limit, per } of limits ?? []) {
    const own = started.filter(isOf("p")).map(({ began }) => began)
    assert.isBelow(lowest(own, limit, limit / Number(per)), 1, "the limit never mattered")
  }
  assert.isAbove(started.filter(({ began, entered }) => entered < began).length, 50)
}

/** P3: there were lines at every bulkhead. */
const p3 = (log: Log): void => {
  for (const target of targetIds) {
    const waits = all(log, "Waited").filter(isOf(target)).filter((event) => event.for === "bulkhead")
    assert.isAbove(waits.length, 100, target)
  }
}

/** P4: purses were empty. */
const p4 = (log: Log): void => {
  for (const target of targetIds) {
    const denied = all(log, "RetryDenied").filter(isOf(target)).filter((e) => e.because === "budget")
    assert.isAbove(denied.length, 0, target)
  }
}

/** P5: circuits did all they can. */
const p5 = (log: Log): void => {
  const seen = new Set(all(log, "CircuitChanged").map(({ from, to }) => `${from} ${to}`))
  assert.deepStrictEqual([...seen].toSorted(), ["closed open", "half-open closed", "half-open open", "open half-open"])
}

/** P7: some were gone exactly at their deadline. */
const p7 = (log: Log): void => {
  assert.isAbove(log.callers.filter(({ deadlineAt, to }) => to === deadlineAt).length, 20)
}

/** P8: there were hints. */
const p8 = (log: Log): void => {
  assert.isAbove(all(log, "RetryScheduled").filter(({ error }) => (error.retryAfter ?? 0) > 0).length, 50)
}

/** P9: there is a bucket, a bulkhead, a circuit and a purse to look at, and not all of it is as full as at the start. */
const p9 = (log: Log): void => {
  assert.isDefined(log.status.rateLimit)
  assert.lengthOf(log.status.targets, targetIds.length)
  for (const { bulkhead, circuit, retryBudget } of log.status.targets) {
    assert.isDefined(bulkhead)
    assert.isDefined(circuit)
    assert.isDefined(retryBudget)
  }
}

const isAnswered = ({ exit }: Log["callers"][number]): boolean => exit !== undefined && Exit.isSuccess(exit)

/** P10: there were streams that broke in the middle, and nobody was told that nothing is an answer. */
const p10 = (log: Log): void => {
  assert.isFalse(log.callers.some((caller) => caller.read === "" && isAnswered(caller)))
  if (log.plan.kind === "stream") {
    assert.isAbove(log.callers.filter((caller) => caller.read !== "" && !isAnswered(caller)).length, 50)
  }
}

/** P11: answers came from everywhere. */
const p11 = (log: Log): void => {
  const sources = new Set(
    log.callers.flatMap(({ exit }) => exit !== undefined && Exit.isSuccess(exit) ? [exit.value.source] : [])
  )
  assert.deepStrictEqual([...sources].toSorted(), ["cache", "provider", "replay", "stale"])
}

const failures = (log: Log) =>
  log.callers.flatMap(({ exit }) => exit !== undefined && Exit.isFailure(exit) ? [exit.cause] : [])

/** P13: many left, and many shared. */
const p13 = (log: Log): void => {
  assert.isAbove(failures(log).filter(Cause.hasInterrupts).length, 100)
  assert.isAbove(all(log, "Idempotency").filter((event) => event.result === "joined").length, 50)
}

/** P14: there was something to be found, and there were errors to look at. */
const p14 = (log: Log): void => {
  assert.include(bytes(log), MARKER)
  assert.isAbove(failures(log).length, 100)
}

/** P16: more was asked than may be remembered. */
const p16 = (log: Log): void => {
  assert.isAbove(new Set(log.callers.map(({ asked }) => asked)).size, settings.cache.maxEntries)
  assert.isAbove(log.callers.filter(({ call }) => call !== undefined).length, log.plan.calls / 2)
}

export const properties = { laws, p1, p2, p3, p4, p5, p7, p8, p9, p10, p11, p13, p14, p16 }
