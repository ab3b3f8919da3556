// P1–P15 of SEMANTICS §3 as functions over the log of a run. Each throws when the property does not hold, and when the
// run had nothing to say about it.
import { assert } from "@effect/vitest"
import { Cause, Exit } from "effect"
import type { LlmConfig, LlmEvent } from "effect-resilient-llm"
import { RateLimiter } from "effect-resilient-llm/resilience"
import { bytes, type Heard, type Log, MARKER, settings, type TargetId, targetIds } from "./Chaos.run.ts"

type Event<T extends LlmEvent.LlmEvent["_tag"]> = Extract<Heard, { readonly _tag: T }>

const all = <T extends LlmEvent.LlmEvent["_tag"]>(log: Log, tag: T) =>
  log.events.filter((event): event is Event<T> => event._tag === tag)

const groupBy = <A, K>(list: ReadonlyArray<A>, keyOf: (a: A) => K): Map<K, Array<A>> => {
  const groups = new Map<K, Array<A>>()
  for (const a of list) {
    const group = groups.get(keyOf(a))
    if (group === undefined) groups.set(keyOf(a), [a])
    else group.push(a)
  }
  return groups
}

const byCall = (log: Log): ReadonlyMap<number, ReadonlyArray<Heard>> => {
  const calls = groupBy(log.events, (event) => event.call)
  calls.delete(0) // what belongs to a target
  return calls
}

const isEnd = (event: Heard): event is Event<"AttemptSucceeded" | "AttemptFailed" | "AttemptInterrupted"> =>
  event._tag === "AttemptSucceeded" || event._tag === "AttemptFailed" || event._tag === "AttemptInterrupted"

const isOf = (target: TargetId) => (event: { readonly target?: string }) => event.target === target

/** For what is asked a hundred thousand times: an assertion of the library costs more than what it asserts. */
const holds = (condition: boolean, what: string): void => {
  if (!condition) assert.fail(what)
}

/** The events were heard when they happened, and none was missed: everything below relies on it. */
export const heardAll = (log: Log): void => {
  for (const [call, events] of byCall(log)) {
    const [first] = events
    assert.strictEqual(first?._tag, "CallStarted", `call ${call}`)
    for (const { at, when } of events) holds(Math.abs(first!.when + at - when) < 1e-6, `call ${call}, ${at}`)
  }
  const calls = all(log, "CallStarted").map((event) => event.call)
  assert.deepStrictEqual(calls, calls.map((_, i) => i + 1))
  assert.isAtLeast(calls.length, log.plan.calls)
}

// -----------------------------------------------------------------------------
// attempts and what they waited for
// -----------------------------------------------------------------------------

interface Begun {
  readonly target: string
  /** When it came to the bulkhead, was let in, had the client's token, and began. */
  readonly arrived: number
  readonly entered: number
  readonly began: number
  readonly waitedForTokens: number
}

const begun = (log: Log): ReadonlyArray<Begun> => {
  const list: Array<Begun> = []
  for (const events of byCall(log).values()) {
    let permit = 0
    let tokens = 0
    for (const event of events) {
      if (event._tag === "Waited" && event.for === "bulkhead") {
        permit = event.duration
        tokens = 0
      } else if (event._tag === "Waited") tokens += event.duration
      else if (event._tag === "AttemptStarted") {
        const entered = event.when - tokens
        list.push({
          target: event.target,
          arrived: entered - permit,
          entered,
          began: event.when,
          waitedForTokens: tokens
        })
        permit = tokens = 0
      } else if (event._tag === "TargetSkipped" || event._tag === "RetryDenied") permit = tokens = 0
    }
  }
  return list.toSorted((a, b) => a.began - b.began)
}

/** P1: never more in flight at a target than it has permits. */
export const p1 = (log: Log): void => {
  for (const target of targetIds) {
    const own = log.served.filter(isOf(target))
    // In one millisecond, whoever leaves makes room before the next one enters.
    const changes = own.flatMap(({ from, to }) => [[from, 1], [to ?? Infinity, -1]] as const)
      .toSorted(([a, x], [b, y]) => a - b || x - y)
    let inFlight = 0
    let most = 0
    for (const [, change] of changes) most = Math.max(most, inFlight += change)
    assert.isAtMost(most, settings.bulkhead.maxConcurrent, target)
    assert.strictEqual(most, settings.bulkhead.maxConcurrent, `${target} was never full`)
  }
}

/** As many as a bucket of this size lets through: in any interval, at most its size and what flows in meanwhile. */
const flows = (times: ReadonlyArray<number>, size: number, perMilli: number): number => {
  let level = size
  let at = 0
  let least = size
  for (const time of times.toSorted((a, b) => a - b)) {
    level = Math.min(size, level + (time - at) * perMilli) - 1
    at = time
    least = Math.min(least, level)
    holds(level >= -1e-6, `at ${time}: ${level}`)
  }
  return least
}

const bucketOf = ({ rateLimit = {} }: LlmConfig.Options): RateLimiter.Options => {
  if (rateLimit === false || RateLimiter.isRateLimiter(rateLimit)) throw new Error("the bucket has no options")
  return rateLimit
}

/** P2: the client's bucket, and the limits of p. */
export const p2 = (log: Log): void => {
  const attempts = begun(log)
  const { options, limits } = log.plan
  const { capacity, maxWait, refillPerSecond } = bucketOf(options)
  // Where the bucket never lets anybody wait, all waiting was for the limits of the target, after the bucket.
  const times = attempts.map((attempt) => maxWait === 0 ? attempt.entered : attempt.began)
  assert.isBelow(flows(times, capacity!, refillPerSecond! / 1000), 1, "the bucket was never empty")
  if (limits !== undefined && !("length" in limits)) throw new Error("the limits of the target are no list")
  for (const { limit, per } of limits ?? []) {
    const own = attempts.filter(isOf("p")).map((attempt) => attempt.began)
    assert.isBelow(flows(own, limit, limit / Number(per)), 1, "the limit never mattered")
  }
  assert.isAbove(attempts.filter((attempt) => attempt.waitedForTokens > 0).length, 50)
}

/** P3: first come, first served, at every bulkhead and in every bucket; nobody overtakes. */
export const p3 = (log: Log): void => {
  const attempts = begun(log)
  for (const target of targetIds) {
    const own = attempts.filter(isOf(target))
    const waits = all(log, "Waited").filter(isOf(target)).filter((event) => event.for === "bulkhead")
    assert.isAbove(waits.length, 100, target)
    for (const [i, { duration, when }] of waits.entries()) {
      const before = waits[i - 1]
      holds(before === undefined || when - duration >= before.when - before.duration, `${target} at ${when}`)
    }
    for (const { arrived, entered } of own) {
      if (arrived < entered) continue
      const overtaken = waits.find(({ duration, when }) => when - duration < entered && entered < when)
      assert.isUndefined(overtaken, `${target} at ${entered}`)
    }
  }
  // The one line for tokens that anybody waits in: the client's bucket, or p's own.
  const { options } = log.plan
  const shared = options.rateLimit !== false && bucketOf(options).maxWait !== 0
  const line = attempts.filter((attempt) => shared || attempt.target === "p")
  for (const [i, { began, entered }] of line.entries()) {
    const before = line[i - 1]
    holds(before === undefined || began === before.began || entered >= before.entered, `at ${began}`)
  }
}

/** P4: attempts = first attempts and paid retries; retries are bounded by the purse. */
export const p4 = (log: Log): void => {
  const { capacity, perAttempt, perSecond } = settings.retryBudget
  for (const target of targetIds) {
    const started = all(log, "AttemptStarted").filter(isOf(target))
    const retries = started.length - new Set(started.map((event) => event.call)).size
    const came = new Set(log.events.filter((event) => "target" in event && event.target === target).map((e) => e.call))
    const bound = capacity + perAttempt * came.size + perSecond * log.endedAt / 1000
    assert.isAtMost(retries, bound, target)
    assert.isAtMost(retries, all(log, "RetryScheduled").filter(isOf(target)).length, target)
    assert.isAtMost(log.served.filter(isOf(target)).length, started.length, target)
    assert.isAbove(all(log, "RetryDenied").filter(isOf(target)).filter((e) => e.because === "budget").length, 0, target)
  }
}

// -----------------------------------------------------------------------------
// breaker
// -----------------------------------------------------------------------------

/** The measured threshold is never shorter; 0.8 of at least 10 attempts of a minute are slow where it opens a circuit. */
const LEAST_SLOW = 5000
const LEAST_SLOW_CALLS = 8
const SLOW_WINDOW = 60_000

/** P5: transitions, probes, and nothing admitted while open. */
export const p5 = (log: Log): void => {
  const { halfOpenProbes, maxRecoveryTimeout, recoveryTimeout } = settings.circuitBreaker
  const allowed = new Set(["closed open", "open half-open", "half-open open", "half-open closed"])
  const seen = new Set<string>()
  for (const target of targetIds) {
    const own = log.events.filter((event) => "target" in event && event.target === target)
    let state = "closed"
    let openedAt = 0
    let openFor = 0
    const probes = new Set<string>()
    const waiting = new Map<string, number>()
    const slow: Array<number> = []
    for (const [i, event] of own.entries()) {
      const where = `${target} at ${event.when}`
      if (event._tag === "AttemptStarted") waiting.set(`${event.call} ${event.attempt}`, event.when)
      else if (event._tag === "AttemptCommitted" || isEnd(event)) {
        const key = `${event.call} ${event.attempt}`
        const since = waiting.get(key)
        if (since !== undefined && event.when - since >= LEAST_SLOW) slow.push(event.when)
        waiting.delete(key)
      }
      if (event._tag === "CircuitChanged") {
        const change = `${event.from} ${event.to}`
        seen.add(change)
        assert.isTrue(allowed.has(change), `${change} ${where}`)
        assert.strictEqual(event.from, state, where)
        probes.clear()
        if (event.to === "open") {
          // What opens is a failure, told right before it has counted; or attempts that are slow while they last (C24–C26).
          const cause = own[i - 1]
          const hanging = [...waiting.values()].filter((since) => event.when - since >= LEAST_SLOW)
          const ended = slow.filter((when) => event.when - when <= SLOW_WINDOW)
          assert.isTrue(
            cause?._tag === "AttemptFailed" && cause.outcome === "failure" ||
              // A probe that is slow opens it again.
              (event.from === "closed" ? hanging.length + ended.length >= LEAST_SLOW_CALLS : hanging.length > 0),
            where
          )
          openFor = event.from === "half-open" ? Math.min(maxRecoveryTimeout, 2 * openFor) : recoveryTimeout
          // Told when somebody noticed, it has been open since a call turned slow.
          openedAt = event.at
        }
        if (event.to === "half-open") assert.isAtLeast(event.at - openedAt, openFor, where)
        state = event.to
      } else if (event._tag === "AttemptStarted") {
        holds(state !== "open", where)
        if (state === "half-open") probes.add(`${event.call} ${event.attempt}`)
        holds(probes.size <= halfOpenProbes, where)
      } else if (isEnd(event)) probes.delete(`${event.call} ${event.attempt}`)
    }
  }
  assert.deepStrictEqual([...seen].toSorted(), [...allowed].toSorted())
}

// -----------------------------------------------------------------------------
// calls
// -----------------------------------------------------------------------------

/** P6: each attempt begins once and ends once, and so does each call. */
export const p6 = (log: Log): void => {
  for (const [call, events] of byCall(log)) {
    const open = new Set<number>()
    let last = 0
    for (const event of events) {
      if (event._tag === "AttemptStarted") {
        holds(event.attempt === ++last, `call ${call} attempt ${event.attempt}`)
        open.add(event.attempt)
      } else if (isEnd(event)) holds(open.delete(event.attempt), `call ${call} attempt ${event.attempt}`)
    }
    holds(open.size === 0, `call ${call}: an attempt without an end`)
    holds(events.filter((event) => event._tag === "CallEnded").length === 1, `call ${call}`)
  }
}

/** P7: every caller is gone at its deadline; some exactly then. */
export const p7 = (log: Log): void => {
  let exactly = 0
  for (const { deadlineAt, exit, from, to } of log.callers) {
    holds(exit !== undefined && to !== undefined && to <= deadlineAt, `the caller of ${from}`)
    if (to === deadlineAt) exactly += 1
  }
  assert.isAbove(exactly, 20)
}

/** P8: a provider's hint is a floor; nothing waits longer than the cap, or the hint and a second. */
export const p8 = (log: Log): void => {
  let hints = 0
  for (const [call, events] of byCall(log)) {
    for (const [i, event] of events.entries()) {
      if (event._tag !== "RetryScheduled") continue
      const hint = event.error.retryAfter ?? 0
      if (hint > 0) hints += 1
      holds(event.delay >= hint && event.delay <= Math.max(settings.retry.maxDelay, hint + 1000), `call ${call}`)
      const next = events.slice(i).find((later) => later._tag === "AttemptStarted" && later.target === event.target)
      holds(next === undefined || next.when >= event.when + event.delay - 1e-6, `call ${call}`)
    }
  }
  assert.isAbove(hints, 50)
}

/** P9: nothing is held when everybody is gone. */
export const p9 = (log: Log): void => {
  assert.deepStrictEqual(log.held, { sleeps: 0, fibers: 0 })
  assert.deepStrictEqual(log.served.filter(({ to }) => to === undefined), [])
  for (const { bulkhead, circuit } of log.status) {
    assert.deepInclude(bulkhead, { inUse: 0, queued: 0 })
    assert.strictEqual(circuit?.probes, 0)
  }
}

/** P10: what a caller has read comes from one request to one target; all of it, when the call succeeded. */
export const p10 = (log: Log): void => {
  const known = new Map(log.served.map((served) => [headOf(served.text), served.text]))
  let partial = 0
  for (const { exit, from, read } of log.callers) {
    if (read === "") {
      assert.isFalse(exit !== undefined && Exit.isSuccess(exit), `the caller of ${from}`)
      continue
    }
    const text = known.get(headOf(read))
    holds(text?.startsWith(read) === true, `the caller of ${from} read a mixture`)
    if (exit !== undefined && Exit.isSuccess(exit)) {
      holds(read === text && exit.value.text === text, `the caller of ${from} has not read all`)
    } else partial += 1
  }
  if (log.plan.kind === "stream") assert.isAbove(partial, 50)
}

/** The marker and the number of the request. */
const headOf = (text: string): string => text.split(" ").slice(0, 2).join(" ")

/** P11: a stored answer is, byte by byte, a whole live answer to the same question. */
export const p11 = (log: Log): void => {
  const live = groupBy(log.served.filter(({ fate }) => fate === "ok"), ({ asked }) => asked)
  const sources = new Set<string>()
  for (const { asked, exit, from } of log.callers) {
    if (exit === undefined || Exit.isFailure(exit)) continue
    const { age, source, text } = exit.value
    sources.add(source)
    holds(live.get(asked)?.some((served) => served.text === text) === true, `the caller of ${from}, ${source}`)
    const { staleIfError, ttl } = settings.cache
    if (source === "cache") assert.isBelow(age, ttl + settings.cache.swr)
    if (source === "stale") assert.isBelow(age, ttl + staleIfError + settings.timeout.deadline)
  }
  assert.deepStrictEqual([...sources].toSorted(), ["cache", "provider", "replay", "stale"])
}

/** P13: who leaves is interrupted, then and there; nobody else ever is, whatever they share. */
export const p13 = (log: Log): void => {
  let left = 0
  for (const { exit, from, leaves, to } of log.callers) {
    if (exit === undefined || Exit.isSuccess(exit) || !Cause.hasInterrupts(exit.cause)) continue
    left += 1
    assert.isTrue(Cause.hasInterruptsOnly(exit.cause), `the caller of ${from}`)
    assert.strictEqual(to, leaves, `the caller of ${from}`)
  }
  assert.isAbove(left, 100)
  assert.isAbove(all(log, "Idempotency").filter((event) => event.result === "joined").length, 50)
}

/** P14: what is asked, answered and used as a key is in no event and in no error. */
export const p14 = (log: Log): void => {
  assert.notInclude(JSON.stringify(log.events), MARKER)
  let errors = 0
  for (const { exit } of log.callers) {
    if (exit === undefined || Exit.isSuccess(exit)) continue
    errors += 1
    const { cause } = exit
    const printed = [String(Cause.squash(cause)), JSON.stringify(cause), errors < 100 ? Cause.pretty(cause) : ""]
    assert.notInclude(printed.join("\n"), MARKER)
  }
  assert.isAbove(errors, 100)
  assert.include(bytes(log), MARKER) // it was there to be found
}

export const properties = { heardAll, p1, p2, p3, p4, p5, p6, p7, p8, p9, p10, p11, p13, p14 }
