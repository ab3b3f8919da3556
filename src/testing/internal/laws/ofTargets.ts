// P1–P5 and P9: what stands in front of a target.
import * as RetryBudget from "../../../resilience/RetryBudget.ts"
import type { Heard } from "../../Invariants.ts"
import {
  type Begun,
  bucketOf,
  type Circuit,
  circuitOf,
  type Event,
  type Facts,
  groupBy,
  hasLimits,
  isBucketTold,
  isEnd,
  isLimitTold,
  isOf,
  type Judge,
  limitOf,
  permitsOf,
  type Requests
} from "./run.ts"

const p1: Judge = function*(facts) {
  for (const target of facts.targetIds) {
    const most = permitsOf(facts, target)
    if (most === undefined) continue
    const what = (count: number) => `${count} attempts are in flight at ${target}, which has ${most} permits`
    const open = new Set<string>()
    for (const event of facts.at(target)) {
      if (event._tag === "AttemptStarted") open.add(`${event.call} ${event.attempt}`)
      else if (isEnd(event)) open.delete(`${event.call} ${event.attempt}`)
      if (event._tag === "AttemptStarted" && open.size > most) yield facts.violation("P1", what(open.size), event)
    }
    // In one millisecond, whoever leaves makes room before the next one enters.
    const changes = (facts.served ?? []).filter((served) => served.target === target)
      .flatMap(({ from, to }) => [[from, 1], [to ?? Infinity, -1]] as const)
      .toSorted(([a, x], [b, y]) => a - b || x - y)
    let inFlight = 0
    for (const [when, change] of changes) {
      inFlight += change
      if (change > 0 && inFlight > most) yield facts.violation("P1", what(inFlight), when)
    }
  }
}

// -----------------------------------------------------------------------------
// buckets and lines
// -----------------------------------------------------------------------------

/** A request that may never have left costs nothing. */
const paid = (facts: Facts): ReadonlyArray<Begun> => {
  const free = new Set(
    facts.events.flatMap((event) =>
      event._tag === "AttemptFailed" && (event.error.reason === "Network" || event.error.reason === "Quota")
        ? [`${event.call} ${event.attempt}`]
        : []
    )
  )
  return facts.attempts.filter(({ event }) => !free.has(`${event.call} ${event.attempt}`))
}

/**
 * In any interval, at most the bucket's size and what flows in meanwhile, or comes back. `backAt`: when a token may have
 * come back, in order.
 */
function* flows(
  facts: Facts,
  attempts: ReadonlyArray<Begun>,
  bucket: Requests,
  name: string,
  backAt: ReadonlyArray<number>
) {
  const when = ({ began, entered }: Begun): number => bucket.isLine ? began : entered
  let level = bucket.size
  let at = 0
  let back = 0
  // In one millisecond one comes back and another one is taken, so nothing has flown over yet.
  const advance = (to: number): void => {
    if (to > at) level = Math.min(bucket.size, level + (to - at) * bucket.rate)
    at = to
  }
  const timed = bucket.isLine ? attempts : attempts.filter(({ isHedged }) => !isHedged)
  for (const attempt of timed.toSorted((a, b) => when(a) - when(b))) {
    for (; back < backAt.length && backAt[back]! <= when(attempt); back++) {
      advance(backAt[back]!)
      level += 1
    }
    advance(when(attempt))
    level -= 1
    if (level < -Math.max(0, 1 - bucket.size) - facts.tolerance * bucket.rate - 1e-6) {
      yield facts.violation("P2", `${name} lets through more than it holds and gets`, attempt.event)
    }
  }
}

/** Who had a token and waited for the limits of a target gives it back when refused there, or gone. */
const givenBack = (facts: Facts): ReadonlyArray<number> =>
  facts.events.flatMap((event) =>
    event._tag === "AttemptRefused" || (event._tag === "CallEnded" && event.outcome !== "provider") ? [event.when] : []
  )

const p2: Judge = function*(facts) {
  const attempts = paid(facts)
  const bucket = bucketOf(facts)
  if (bucket !== undefined && isBucketTold(facts)) {
    const backAt = hasLimits(facts) ? givenBack(facts) : []
    yield* flows(facts, attempts, bucket, "the client's bucket", backAt)
  }
  for (const target of facts.targetIds) {
    const limit = limitOf(facts, target)
    if (limit === undefined || !isLimitTold(facts)) continue
    // Who had to wait in vain for the bucket waited for nothing else, so what is left is the wait for this limit.
    const own = attempts.filter((attempt) => attempt.target === target)
    yield* flows(facts, own, { ...limit, isLine: true }, `the limit of ${target}`, [])
  }
}

const p3: Judge = function*(facts) {
  const { classOf = () => "", tolerance } = facts
  for (const target of facts.targetIds) {
    const waits = facts.at(target).filter(isOf("Waited")).filter((event) => event.for === "bulkhead")
    const byClass = groupBy(waits, ({ call }) => classOf(call))
    for (const line of byClass.values()) {
      for (const [i, event] of line.entries()) {
        const before = line[i - 1]
        if (before === undefined || event.when - event.duration >= before.when - before.duration - tolerance) continue
        yield facts.violation("P3", `the bulkhead of ${target} served a later arrival first`, event)
      }
    }
    for (const { arrived, entered, event, isHedged, target: own } of facts.attempts) {
      if (own !== target || isHedged || arrived < entered) continue
      const overtaken = byClass.get(classOf(event.call))?.some(({ duration, when }) =>
        when - duration < entered - tolerance && entered + tolerance < when
      )
      if (overtaken === true) yield facts.violation("P3", `somebody waits for the bulkhead of ${target}`, event)
    }
  }
  for (const line of tokenLines(facts)) {
    for (const [i, { began, entered, event }] of line.entries()) {
      const before = line[i - 1]
      if (before === undefined || began === before.began || entered >= before.entered - tolerance) continue
      yield facts.violation("P3", "a later arrival got its tokens first", event)
    }
  }
}

/** Those who wait for tokens in one line, as they began. */
const tokenLines = (facts: Facts): ReadonlyArray<ReadonlyArray<Begun>> => {
  const { classOf = () => "", targetIds } = facts
  const attempts = facts.attempts.filter(({ isHedged }) => !isHedged)
  const lines = bucketOf(facts)?.isLine === true
    ? isBucketTold(facts) ? [attempts] : []
    : isLimitTold(facts)
    ? targetIds.filter((id) => limitOf(facts, id) !== undefined).map((id) => attempts.filter((a) => a.target === id))
    : []
  return lines.flatMap((line) => Array.from(groupBy(line, ({ event }) => classOf(event.call)).values()))
}

// -----------------------------------------------------------------------------
// attempts and their purse
// -----------------------------------------------------------------------------

const callsOf = (events: ReadonlyArray<Heard>): number => new Set(events.map(({ call }) => call)).size

const p4: Judge = function*(facts) {
  const { options, over } = facts
  for (const target of facts.targetIds) {
    const own = facts.at(target)
    const started = own.filter(isOf("AttemptStarted"))
    const last = started.at(-1)
    if (last === undefined) continue
    const more = started.length - callsOf(started)
    const decided = own.filter((event) =>
      event._tag === "RetryScheduled" || (event._tag === "Hedged" && event.result === "started")
    ).length
    const repairs = own.filter((event) => event._tag === "AnswerRejected" && event.repair !== undefined).length
    if (more > decided + repairs) {
      const what = `${target} has ${more} attempts beside first ones, of which ${decided + repairs} were decided on`
      yield facts.violation("P4", what, last)
    }
    const asked = facts.served?.filter((served) => served.target === target).length ?? 0
    if (asked > started.length) {
      yield facts.violation("P4", `${target} was asked ${asked} times, in ${started.length} attempts`, over)
    }
    if (options.retry === false || options.retryBudget === false) continue
    const { capacity, perAttempt, perMillisecond } = RetryBudget.policy(options.retryBudget)
    const most = (capacity + perAttempt * callsOf(own) + perMillisecond * (over - facts.events[0]!.when)) / TOKEN
    // What a repair asks for is not paid from the purse.
    if (more - repairs > most + 1e-6) {
      yield facts.violation("P4", `${more} retries at ${target}, of which the purse can pay ${Math.floor(most)}`, last)
    }
  }
}

/** Of a purse. */
const TOKEN = 1_000_000

// -----------------------------------------------------------------------------
// circuits
// -----------------------------------------------------------------------------

/** The measured threshold is never shorter. */
const LEAST_SLOW = 5000

const automatic = new Set(["closed open", "open half-open", "half-open open", "half-open closed"])
const byItself: ReadonlySet<string> = new Set(["closed", "open", "half-open"])

const p5: Judge = function*(facts) {
  for (const target of facts.targetIds) {
    const circuit = circuitOf(facts, target)
    if (circuit === undefined) continue
    const modelOf = new Map(
      facts.at(target).filter(isOf("AttemptStarted")).map(({ attempt, call, model }) => [`${call} ${attempt}`, model])
    )
    const model = (event: Heard): string | undefined =>
      event._tag === "CircuitChanged"
        ? event.model
        : "attempt" in event
        ? modelOf.get(`${event.call} ${event.attempt}`)
        : undefined
    const circuits = circuit.byModel ? groupBy(facts.at(target), model).values() : [facts.at(target)]
    for (const own of circuits) yield* opens(facts, target, circuit, own)
  }
}

function* opens(facts: Facts, target: string, { policy }: Circuit, own: ReadonlyArray<Heard>) {
  const leastSlow = policy.slowDuration === "measured" ? LEAST_SLOW : policy.slowDuration
  const leastSlowCalls = Math.ceil(policy.slowRate * policy.minimumCalls)
  const violation = (what: string, event: Heard) => facts.violation("P5", `the circuit of ${target} ${what}`, event)
  let state = "closed"
  let openedAt = 0
  let openFor = 0
  const probes = new Set<string>()
  const waiting = new Map<string, number>()
  const slow: Array<number> = []
  let failures: Array<number> = []

  /**
   * What opens is a failure, told right before it has counted; or an attempt that turns slow while it lasts, as one of
   * many, or after many failures.
   */
  const isCause = (cause: Heard | undefined, { from, when }: Event<"CircuitChanged">): boolean => {
    if (cause?._tag === "AttemptFailed" && cause.outcome === "failure") return true
    const hanging = [...waiting.values()].filter((since) => when - since >= leastSlow - facts.tolerance).length
    // A probe that is slow opens it again.
    if (from !== "closed") return hanging > 0
    const inWindow = (at: number): boolean => when - at <= policy.window
    return hanging + slow.filter(inWindow).length >= leastSlowCalls ||
      (hanging > 0 && failures.filter(inWindow).length >= policy.failureRate * policy.minimumCalls)
  }

  for (const [i, event] of own.entries()) {
    const key = "attempt" in event ? `${event.call} ${event.attempt}` : ""
    if (event._tag === "AttemptStarted") {
      waiting.set(key, event.when)
      if (state === "open") yield violation("is open, and lets an attempt in", event)
      if (state === "half-open") probes.add(key)
      if (probes.size > policy.halfOpenProbes) yield violation(`has ${probes.size} probes in flight`, event)
    } else if (event._tag === "AttemptCommitted" || isEnd(event)) {
      const since = waiting.get(key)
      if (since !== undefined && event.when - since >= leastSlow - facts.tolerance) slow.push(event.when)
      waiting.delete(key)
      if (isEnd(event)) probes.delete(key)
      if (event._tag === "AttemptFailed" && event.outcome === "failure") failures.push(event.when)
    } else if (event._tag === "CircuitChanged" && event.to !== "would-open") {
      const { from, to } = event
      // What was forced by hand may go anywhere.
      if (byItself.has(from) && byItself.has(to)) {
        if (!automatic.has(`${from} ${to}`)) yield violation(`goes from ${from} to ${to}`, event)
        if (from !== state) yield violation(`was ${state} and changes from ${from}`, event)
        if (to === "open" && !isCause(own[i - 1], event)) yield violation("opens without a failure", event)
        if (to === "half-open" && event.at - openedAt < openFor - facts.tolerance) {
          yield violation(`tries again after ${event.at - openedAt} of ${openFor} ms`, event)
        }
      }
      if (to === "open") {
        openFor = from === "half-open"
          ? Math.min(policy.maxRecoveryTimeout, 2 * openFor)
          : policy.recoveryTimeout
        // Told when somebody noticed, it has been open since a call turned slow.
        openedAt = event.at
      }
      probes.clear()
      failures = []
      state = to
    }
  }
}

// -----------------------------------------------------------------------------
// what is held
// -----------------------------------------------------------------------------

const p9: Judge = function*(facts) {
  const { held, over, served = [], status } = facts
  const left = (what: string) => facts.violation("P9", what, over)
  for (const [what, count] of Object.entries(held ?? {})) {
    if (count !== 0) yield left(`${count} ${what} are left`)
  }
  for (const { from, target, to } of served) if (to === undefined) yield left(`${target} serves a request of ${from}`)
  for (const { bulkhead, circuit, id, limits, retryBudget } of status?.targets ?? []) {
    if (bulkhead !== undefined && bulkhead.inUse !== 0) yield left(`${bulkhead.inUse} permits of ${id} are taken`)
    if (bulkhead !== undefined && bulkhead.queued !== 0) yield left(`${bulkhead.queued} wait for a permit of ${id}`)
    if (circuit !== undefined && circuit.probes !== 0) yield left(`${circuit.probes} probes of ${id} are taken`)
    if (limits !== undefined && limits.queued !== 0) yield left(`${limits.queued} wait for the limits of ${id}`)
    const least = retryBudget === undefined ? undefined : purse(facts, id)
    if (least !== undefined && retryBudget! < least - facts.tolerance) {
      yield left(`the purse of ${id} holds ${retryBudget}, and should hold ${least}: a payment was not given back`)
    }
  }
  const bucket = status?.rateLimit
  if (bucket === undefined) return
  if (bucket.queued !== 0) yield left(`${bucket.queued} wait for the client's bucket`)
  const least = tokens(facts)
  const level = bucket.levels["requests"]
  if (least !== undefined && level !== undefined && level < least - facts.tolerance) {
    yield left(`the client's bucket holds ${level}, and should hold ${least}: tokens were not given back`)
  }
}

/** What the client's bucket holds when every attempt took one token, and all others gave theirs back. */
const tokens = (facts: Facts): number | undefined => {
  const bucket = bucketOf(facts)
  if (bucket === undefined || !isBucketTold(facts)) return undefined
  let level = bucket.size
  let at = 0
  for (const { began } of facts.attempts) {
    level = Math.min(bucket.size, level + (began - at) * bucket.rate) - 1
    at = began
  }
  return Math.min(bucket.size, level + (facts.over - at) * bucket.rate)
}

/** What a purse holds at least when what was paid for attempts that were refused is back. */
const purse = (facts: Facts, target: string): number | undefined => {
  const { options } = facts
  if (options.retry === false || options.retryBudget === false) return undefined
  const policy = RetryBudget.policy(options.retryBudget)
  let state = RetryBudget.initial(policy, facts.events[0]?.when ?? facts.over)
  const pay = (now: number): void => {
    state = RetryBudget.withdraw(policy, state, now) ?? { ...RetryBudget.advance(policy, state, now), balance: 0 }
  }
  /** Calls whose retry here is paid and has not begun; it may begin when its caller is gone, for those who joined. */
  const owing = new Set<number>()
  const last = new Map<number, string>()
  const hedged = new Set(facts.events.filter(isOf("Hedged")).map(({ call }) => call))
  for (const event of facts.events) {
    const { call, when } = event
    if ("target" in event && event.target === target && (event._tag === "RetryScheduled" || event._tag === "Hedged")) {
      pay(when)
      if (event._tag === "RetryScheduled") owing.add(call)
    } else if (event._tag === "AttemptStarted") {
      // Which line of a hedged call an attempt is of, its events do not tell: none of them counts as a first one.
      const isFirst = event.target === target && last.get(call) !== target && !hedged.has(call)
      if (isFirst) state = RetryBudget.deposit(policy, state, when)
      last.set(call, event.target)
      if (event.target === target) owing.delete(call)
    } else if (event._tag === "AttemptRefused" && event.target === target && owing.delete(call)) {
      state = RetryBudget.refund(policy, RetryBudget.advance(policy, state, when))
    }
  }
  return RetryBudget.advance(policy, state, facts.over).balance / TOKEN
}

export const ofTargets: ReadonlyArray<Judge> = [p1, p2, p3, p4, p5, p9]
