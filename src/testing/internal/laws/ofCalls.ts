// The log itself, P6–P8, P10, P11, P13, P14 and P16: what becomes of a call and of who made it.
import * as Cause from "effect/Cause"
import * as Exit from "effect/Exit"
import { readOptions } from "../../../internal/option.ts"
import type { CacheOptions } from "../../../LlmConfig.ts"
import * as Idempotency from "../../../resilience/Idempotency.ts"
import * as ResponseCache from "../../../resilience/ResponseCache.ts"
import * as Retry from "../../../resilience/Retry.ts"
import * as Timeout from "../../../resilience/Timeout.ts"
import type { Caller, Heard } from "../../Invariants.ts"
import { type Event, type Facts, isEnd, isOf, type Judge } from "./run.ts"

/** Everything else relies on it. */
const log: Judge = function*(facts) {
  let last = 0
  for (const [call, events] of facts.calls) {
    const [first] = events
    if (first?._tag !== "CallStarted") yield facts.violation("log", `call ${call} begins without its start`, first!)
    else if (call !== ++last) yield facts.violation("log", `call ${call} comes after call ${last - 1}`, first)
    for (const event of events) {
      if (Math.abs(first!.when - first!.at + event.at - event.when) <= facts.tolerance) continue
      yield facts.violation("log", `an event of call ${call} was heard when it did not happen`, event)
    }
  }
}

const p6: Judge = function*(facts) {
  for (const [call, events] of facts.calls) {
    const open = new Map<number, Heard>()
    let last = 0
    for (const event of events) {
      if (event._tag === "AttemptStarted") {
        if (event.attempt !== ++last) {
          yield facts.violation("P6", `attempt ${event.attempt} of call ${call} is number ${last}`, event)
        }
        open.set(event.attempt, event)
      } else if (isEnd(event) && !open.delete(event.attempt)) {
        yield facts.violation("P6", `attempt ${event.attempt} of call ${call} ends without a beginning`, event)
      }
    }
    for (const [attempt, event] of open) {
      yield facts.violation("P6", `attempt ${attempt} of call ${call} has no end`, event)
    }
    const ends = events.filter(isOf("CallEnded")).length
    if (ends !== 1) yield facts.violation("P6", `call ${call} has ${ends} ends`, events.at(-1)!)
  }
}

const p7: Judge = function*(facts) {
  const { callers = [], options, over, tolerance } = facts
  for (const { deadlineAt = Infinity, exit, from, to } of callers) {
    if (exit === undefined || to === undefined) {
      yield facts.violation("P7", `the caller of ${from} still waits`, over)
    } else if (to > deadlineAt + tolerance) {
      yield facts.violation("P7", `the caller of ${from} had to be gone by ${deadlineAt}`, to)
    }
  }
  // A request may bring a deadline of its own, which only its caller knows.
  if (facts.callers !== undefined || options.timeout === false) return
  const deadline = deadlineOf(facts)
  for (const event of facts.events) {
    if (event._tag === "CallEnded" && event.at > deadline + tolerance) {
      yield facts.violation("P7", `call ${event.call} took ${event.at} ms of ${deadline}`, event)
    }
  }
}

// -----------------------------------------------------------------------------
// pauses
// -----------------------------------------------------------------------------

const p8: Judge = function*(facts) {
  const { options, tolerance } = facts
  const policy = options.retry === false ? undefined : Retry.policy(options.retry)
  for (const [call, events] of facts.calls) {
    // The attempts of a hedged call stand beside each other.
    const isHedged = events.some(isOf("Hedged"))
    for (const [i, event] of events.entries()) {
      if (event._tag === "RetryScheduled") {
        const hint = event.error.retryAfter ?? 0
        if (event.delay < hint) {
          yield facts.violation("P8", `call ${call} is to wait less than the hint of ${hint}`, event)
        }
        // How long a schedule of the user's own waits is its business.
        const longest = policy === undefined || policy.schedule !== undefined ? Infinity : policy.maxDelay
        if (event.delay > Math.max(longest, hint + 1000)) {
          yield facts.violation("P8", `call ${call} is to wait ${event.delay} ms`, event)
        }
        const next = isHedged ? undefined : nextAt(events, i, event.target)
        if (next !== undefined && next.when < event.when + event.delay - tolerance) {
          yield facts.violation("P8", `call ${call} waits ${next.when - event.when} of ${event.delay} ms`, next)
        }
      } else if (event._tag === "AttemptFailed" && event.error.retryAfter !== undefined) {
        const next = isHedged ? undefined : nextAt(events, i, event.target)
        if (next !== undefined && next.when < event.when + event.error.retryAfter - tolerance) {
          const what = `call ${call} asks ${event.target} again ${
            event.error.retryAfter - next.when + event.when
          } ms early`
          yield facts.violation("P8", what, next)
        }
      }
    }
  }
}

const nextAt = (events: ReadonlyArray<Heard>, i: number, target: string): Event<"AttemptStarted"> | undefined => {
  for (let j = i + 1; j < events.length; j++) {
    const event = events[j]!
    if (event._tag === "AttemptStarted" && event.target === target) return event
  }
  return undefined
}

// -----------------------------------------------------------------------------
// answers
// -----------------------------------------------------------------------------

const p10: Judge = function*(facts) {
  for (const [call, events] of facts.calls) {
    const lost = new Set(events.flatMap((event) => event._tag === "AttemptInterrupted" ? [event.attempt] : []))
    const committed = events.findIndex((event) => event._tag === "AttemptCommitted" && !lost.has(event.attempt))
    if (committed < 0) continue
    const { target } = events[committed] as Event<"AttemptCommitted">
    for (const event of events.slice(committed + 1)) {
      if (event._tag === "AttemptStarted") {
        yield facts.violation("P10", `call ${call} asks ${event.target} after content of ${target}`, event)
      } else if (event._tag === "CallEnded" && event.outcome === "provider" && event.target !== target) {
        yield facts.violation("P10", `call ${call} began with ${target} and ends with ${event.target}`, event)
      }
    }
  }
  const { callers = [], served } = facts
  if (served === undefined) return
  const texts = served.map(({ text }) => text).toSorted()
  for (const { exit, from, read, to = facts.over } of callers) {
    if (read === undefined) continue
    const isAnswered = exit !== undefined && Exit.isSuccess(exit)
    if (isAnswered && exit.value.text !== read) {
      yield facts.violation("P10", `the caller of ${from} has not read what it was told`, to)
    }
    if (read === "" && !isAnswered) continue
    const found = texts[indexOf(texts, read)]
    if (found === undefined || !(isAnswered ? found === read : found.startsWith(read))) {
      const what = isAnswered ? "has not read one whole answer" : "read what nobody answered"
      yield facts.violation("P10", `the caller of ${from} ${what}`, to)
    }
  }
}

/** Where a text stands, or would, in a sorted list: what begins with it is there. */
const indexOf = (sorted: ReadonlyArray<string>, text: string): number => {
  let low = 0
  let high = sorted.length
  while (low < high) {
    const middle = (low + high) >>> 1
    if (sorted[middle]! < text) low = middle + 1
    else high = middle
  }
  return low
}

const p11: Judge = function*(facts) {
  const { callers = [], options, served, tolerance } = facts
  const live = served === undefined ? undefined : new Set(
    served.filter(({ isWhole }) => isWhole).map(({ asked, text }) => JSON.stringify([asked, text]))
  )
  const ages = agesOf(facts)
  for (const { asked, exit, from, to = facts.over } of callers) {
    if (exit === undefined || Exit.isFailure(exit)) continue
    const { age, source, text } = exit.value
    if (live?.has(JSON.stringify([asked, text])) === false) {
      yield facts.violation("P11", `the caller of ${from} got (${source}) what no provider said to its question`, to)
    }
    if (age >= (ages[source] ?? Infinity) + tolerance) {
      yield facts.violation("P11", `the caller of ${from} got (${source}) an answer ${age} ms old`, to)
    }
  }
  if (options.cache === false) return
  for (const event of facts.events) {
    if (event._tag !== "Cache" || event.age === undefined) continue
    const oldest = event.result === "fresh" ? ages["cache"] : event.result === "stale" ? ages["stale"] : undefined
    if (oldest !== undefined && event.age >= oldest + tolerance) {
      yield facts.violation("P11", `call ${event.call} got an answer ${event.age} ms old`, event)
    }
  }
}

/** How old an answer of a source may become until its caller has it. */
const agesOf = (facts: Facts): Readonly<Record<string, number>> => {
  const { options } = facts
  if (options.cache === false) return {}
  const { staleIfError, swr, ttl } = cacheOf(options.cache)
  return { cache: ttl + swr, stale: ttl + staleIfError + deadlineOf(facts) }
}

const cacheOf = (options: CacheOptions = {}): typeof ResponseCache.SettingsSchema.Type => {
  const { readThrough: _, toolCalls: _own, ...settings } = options
  return readOptions(ResponseCache.SettingsSchema, settings, "cache")
}

const deadlineOf = ({ options }: Facts): number =>
  options.timeout === false ? Infinity : Timeout.policy(options.timeout).deadline

// -----------------------------------------------------------------------------
// callers
// -----------------------------------------------------------------------------

const p13: Judge = function*(facts) {
  for (const { exit, from, leaves, to } of facts.callers ?? []) {
    if (exit === undefined || Exit.isSuccess(exit) || !Cause.hasInterrupts(exit.cause)) continue
    if (!Cause.hasInterruptsOnly(exit.cause)) {
      yield facts.violation("P13", `the caller of ${from} failed while it was interrupted`, to ?? facts.over)
    }
    if (leaves === undefined || to === undefined || Math.abs(to - leaves) > facts.tolerance) {
      const when = leaves === undefined ? "and did not leave" : `and was to leave at ${leaves}`
      yield facts.violation("P13", `the caller of ${from} was interrupted at ${to}, ${when}`, to ?? facts.over)
    }
  }
}

/** Printing a cause costs a millisecond, and after so many one has seen them all. */
const MOST_PRINTED = 100

const p14: Judge = function*(facts) {
  const { callers = [], secrets = [] } = facts
  const reveals = (text: string): string | undefined =>
    secrets.some((secret) => text.includes(secret)) ? "a secret" : text.includes("://") ? "an address" : undefined
  for (const event of facts.events) {
    const found = reveals(JSON.stringify(event))
    if (found !== undefined) yield facts.violation("P14", `${event._tag} holds ${found}`, event)
  }
  let printed = 0
  for (const { exit, from, to = facts.over } of callers) {
    if (exit === undefined || Exit.isSuccess(exit)) continue
    const { cause } = exit
    const pretty = ++printed <= MOST_PRINTED ? Cause.pretty(cause) : ""
    const found = [String(Cause.squash(cause)), JSON.stringify(cause)].map(reveals).find((one) => one !== undefined)
      // A stack tells of files.
      ?? (secrets.some((secret) => pretty.includes(secret)) ? "a secret" : undefined)
    if (found !== undefined) yield facts.violation("P14", `the error of the caller of ${from} holds ${found}`, to)
  }
}

// -----------------------------------------------------------------------------
// memory
// -----------------------------------------------------------------------------

/** More tenants than that are never told apart. */
const MOST_TENANTS = 10_000

const p16: Judge = function*(facts) {
  const { options, over, status } = facts
  for (const limits of [status?.rateLimit, ...status?.targets.map(({ limits }) => limits) ?? []]) {
    if ((limits?.tenants ?? 0) > MOST_TENANTS) {
      yield facts.violation("P16", `${limits!.tenants} tenants are remembered`, over)
    }
  }
  if (options.cache !== false) {
    const { maxEntries, swr } = cacheOf(options.cache)
    const stored = callsThat(facts, (event) => event._tag === "Cache" && event.result === "stored")
    // What is refreshed while it is given out is stored by a call that nobody waits for.
    const grace = swr === 0 ? 0 : deadlineOf(facts)
    const keyOf = ({ asked }: Caller) => asked
    yield* remembered(facts, { name: "the cache", sources: ["cache", "stale"], most: maxEntries, grace, stored, keyOf })
  }
  if (options.idempotency !== false) {
    const { derive: _, ...settings } = options.idempotency ?? {}
    const { maxEntries } = readOptions(Idempotency.SettingsSchema, settings, "idempotency")
    const stored = callsThat(facts, (event) => event._tag === "Idempotency" && event.result === "led")
    const keyOf = ({ key }: Caller) => key
    yield* remembered(facts, { name: "idempotency", sources: ["replay"], most: maxEntries, grace: 0, stored, keyOf })
  }
}

const callsThat = ({ events }: Facts, did: (event: Heard) => boolean): ReadonlySet<number> =>
  new Set(events.flatMap((event) => did(event) ? [event.call] : []))

interface Memory {
  readonly name: string
  /** Of answers that come from it. */
  readonly sources: ReadonlyArray<string>
  readonly most: number
  /** Milliseconds after its use in which a key may be stored again, untold. */
  readonly grace: number
  /** Calls that stored their answer. */
  readonly stored: ReadonlySet<number>
  readonly keyOf: (caller: Caller) => string | undefined
}

/** Nothing is answered from memory when `most` other things were stored after somebody last asked for it. */
function* remembered(facts: Facts, { grace, keyOf, most, name, sources, stored }: Memory) {
  const asked = new Map<string, number>()
  const storedAt = new Map<string, number>()
  /** How many other things were stored, when each caller asked. */
  const others = new Map<Caller, number>()
  const moments: Array<{ readonly at: number; readonly caller: Caller; readonly isEnd: boolean }> = []
  for (const caller of facts.callers ?? []) {
    moments.push({ at: caller.from, caller, isEnd: false })
    if (caller.to !== undefined) moments.push({ at: caller.to, caller, isEnd: true })
  }
  for (const { at, caller, isEnd } of moments.toSorted((a, b) => a.at - b.at || Number(a.isEnd) - Number(b.isEnd))) {
    const key = keyOf(caller)
    if (key === undefined) continue
    const last = asked.get(key) ?? Infinity
    // It is looked for at the beginning, and again where a failure needs something in its place.
    asked.set(key, at)
    if (!isEnd) {
      let count = 0
      for (const moment of storedAt.values()) if (moment > last + grace) count += 1
      others.set(caller, count)
      continue
    }
    if (caller.exit === undefined || Exit.isFailure(caller.exit)) continue
    const { source } = caller.exit.value
    const isOld = (storedAt.get(key) ?? -Infinity) < caller.from
    if (sources.includes(source) && isOld && others.get(caller)! >= most) {
      const what = `${name} knows what the caller of ${caller.from} asks after ${others.get(caller)} others of ${most}`
      yield facts.violation("P16", what, at)
    }
    if (caller.call !== undefined && stored.has(caller.call) && source === "provider") storedAt.set(key, at)
  }
}

export const ofCalls: ReadonlyArray<Judge> = [log, p6, p7, p8, p10, p11, p13, p14, p16]
