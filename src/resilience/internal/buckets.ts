// Buckets that several processes share: what a store of limits must do, as a pure core, and its port.
//
// An arrival is debited at once and told the moment at which it may go, so the order is that of arrival at the store and
// nothing has to wait there. A level is below zero by what has been promised for later. Waits are whole milliseconds.
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import { monotonicMillis } from "../../internal/clock.ts"
import type { Health } from "../../persistence/Health.ts"
import type { StoreError } from "../../persistence/Store.ts"

// -----------------------------------------------------------------------------
// port
// -----------------------------------------------------------------------------

/**
 * A limit as each request brings it, so that two versions of a program can share a bucket: tokens, and tokens per
 * millisecond.
 *
 * @category models
 * @since 0.2.0
 */
export interface StoreLimit {
  readonly dimension: string
  readonly burst: number
  readonly rate: number
}

/**
 * What one acquisition asks of the store. Costs are per limit, in their order.
 *
 * @category models
 * @since 0.2.0
 */
export interface Reserve {
  readonly key: string
  readonly limits: ReadonlyArray<StoreLimit>
  readonly costs: ReadonlyArray<number>
  /** Milliseconds. A longer wait is refused, and nothing is taken. */
  readonly maxWait: number
  /**
   * Further acquisitions of the cost `each` that are taken along if they need no wait, and leave a fifth of every bucket.
   */
  readonly extra?: { readonly count: number; readonly each: ReadonlyArray<number> } | undefined
  /** Names the process among those that are counted; absent when it was counted just now. */
  readonly instance?: string | undefined
}

/**
 * `levels`: of each bucket afterwards. `instances`: processes that have named themselves in the last seconds, if this one
 * did.
 *
 * @category models
 * @since 0.2.0
 */
export type Reserved =
  & { readonly levels: ReadonlyArray<number>; readonly instances: number | undefined }
  & (
    /** `wait`: milliseconds from now on. `extra`: how many further acquisitions were taken along. */
    | { readonly _tag: "Granted"; readonly wait: number; readonly extra: number }
    /** `retryAfter`: milliseconds until it could go. `binding`: the index of the limit that says so. */
    | { readonly _tag: "Refused"; readonly retryAfter: number; readonly binding: number }
  )

/**
 * What has been learned since. Everything is per limit, in their order.
 *
 * @category models
 * @since 0.2.0
 */
export interface Settle {
  readonly key: string
  readonly limits: ReadonlyArray<StoreLimit>
  /** Tokens that go back, or are taken in addition. Never above a full bucket. */
  readonly back?: ReadonlyArray<number> | undefined
  /** Does what goes back belong to an acquisition that has left before its time? How many milliseconds it still had. */
  readonly early?: number | undefined
  /** Levels that are not exceeded from now on. */
  readonly atMost?: ReadonlyArray<number | undefined> | undefined
  /** Milliseconds for which nothing is granted. Never shortens an earlier block. */
  readonly block?: ReadonlyArray<number> | undefined
}

/**
 * What is in each bucket, and for how many milliseconds it is blocked.
 *
 * @category models
 * @since 0.2.0
 */
export interface Buckets {
  readonly levels: ReadonlyArray<number>
  readonly blockedFor: ReadonlyArray<number>
}

/**
 * Keeps the buckets of limits that several processes share. Each operation is one atomic step, and takes its time from the
 * store's own clock. All limits of a request are granted together or not at all.
 *
 * @category models
 * @since 0.2.0
 */
export interface LimitStore {
  readonly health?: Health | undefined
  readonly reserve: (request: Reserve) => Effect.Effect<Reserved, StoreError>
  readonly settle: (change: Settle) => Effect.Effect<void, StoreError>
  readonly snapshot: (key: string, limits: ReadonlyArray<StoreLimit>) => Effect.Effect<Buckets, StoreError>
}

// -----------------------------------------------------------------------------
// core
// -----------------------------------------------------------------------------

type Numbers = ReadonlyMap<string, number>

/** The state of one key, by dimension. A bucket that is full and not blocked need not be there. */
export interface State {
  readonly at: number
  readonly levels: Numbers
  readonly blocked: Numbers
  /** The latest moment that was promised. */
  readonly told: number
  /** When each process was seen. */
  readonly seen: Numbers
}

const nothing: Numbers = new Map()
export const empty: State = { at: 0, levels: nothing, blocked: nothing, told: 0, seen: nothing }

/** Float drift that is forgiven, as a share of the bucket's size. */
export const DRIFT = 1e-9
/** What is left in a bucket by those that take along more than they need now. */
export const RESERVE = 0.2
export const MAX_BLOCK = 5 * 60_000
/** Milliseconds for which a process counts that has named itself. */
export const SEEN_FOR = 6000

/** A store's clock may be set back: then time goes on from there, and what was to come later comes earlier by as much. */
const onClock = (state: State, now: number): State => {
  const back = state.at - now
  return back <= 0
    ? state
    : {
      ...state,
      at: now,
      told: state.told - back,
      blocked: new Map([...state.blocked].map(([dimension, until]) => [dimension, until - back]))
    }
}

const levelsAt = (state: State, limits: ReadonlyArray<StoreLimit>, now: number): Array<number> =>
  limits.map(({ burst, dimension, rate }) => {
    const level = state.levels.get(dimension)
    return level === undefined ? burst : Math.min(burst, level + (now - state.at) * rate)
  })

const blockedFor = (state: State, limits: ReadonlyArray<StoreLimit>, now: number): Array<number> =>
  limits.map(({ dimension }) => Math.max(0, (state.blocked.get(dimension) ?? 0) - now))

const put = (
  state: State,
  limits: ReadonlyArray<StoreLimit>,
  levels: ReadonlyArray<number>,
  now: number,
  rest?: Partial<State>
): State => ({
  ...state,
  ...rest,
  at: now,
  levels: new Map(limits.map(({ dimension }, i) => [dimension, levels[i]!]))
})

const count = (state: State, instance: string | undefined, now: number): Numbers =>
  instance === undefined
    ? state.seen
    : new Map([...state.seen].filter(([, at]) => at > now - SEEN_FOR && at <= now)).set(
      instance,
      now
    )

export const reserve = (before: State, request: Reserve, now: number): readonly [Reserved, State] => {
  const state = onClock(before, now)
  const { costs, extra, instance, limits, maxWait } = request
  const levels = levelsAt(state, limits, now)
  const blocked = blockedFor(state, limits, now)
  const seen = count(state, instance, now)
  const instances = instance === undefined ? undefined : seen.size
  let wait = 0
  let binding = 0
  for (const [i, { burst, rate }] of limits.entries()) {
    const cost = costs[i]!
    if (cost === 0) continue
    const own = Math.ceil(Math.max((Math.min(cost, burst) - levels[i]! - DRIFT * burst) / rate, blocked[i]!))
    if (own > wait) {
      wait = own
      binding = i
    }
  }
  if (wait > maxWait) {
    return [
      { _tag: "Refused", retryAfter: wait, binding, levels, instances },
      put(state, limits, levels, now, { seen })
    ]
  }
  let along = wait === 0 ? extra?.count ?? 0 : 0
  for (const [i, { burst, rate }] of limits.entries()) {
    const cost = costs[i]!
    // At its moment the bucket is full at most, so what it would have gained by then beyond that is not there.
    if (cost > 0) levels[i] = Math.min(levels[i]!, burst - rate * wait) - cost
    const each = extra?.each[i] ?? 0
    if (each > 0) along = Math.min(along, Math.max(0, Math.floor((levels[i]! - RESERVE * burst) / each)))
    if (blocked[i]! > 0) along = 0
  }
  for (let i = 0; i < limits.length; i++) levels[i] = levels[i]! - along * (extra?.each[i] ?? 0)
  return [
    { _tag: "Granted", wait, extra: along, levels, instances },
    put(state, limits, levels, now, { told: Math.max(state.told, now + wait), seen })
  ]
}

export const settle = (before: State, { atMost, back, block, early = 0, limits }: Settle, now: number): State => {
  const state = onClock(before, now)
  const levels = levelsAt(state, limits, now)
  // The one that was promised the latest moment leaves: then the bucket is as it was before it came.
  const isLast = now + early >= state.told
  const promised = isLast ? 0 : Math.max(0, state.told - now)
  const blocked = new Map([...state.blocked].filter(([, until]) => until > now))
  for (const [i, { burst, dimension, rate }] of limits.entries()) {
    const amount = back?.[i] ?? 0
    if (amount < 0) levels[i] = levels[i]! + amount
    // What is promised for later must fit into the bucket then.
    if (amount > 0) levels[i] = Math.max(levels[i]!, Math.min(burst - rate * promised, levels[i]! + amount))
    const most = atMost?.[i]
    if (most !== undefined) levels[i] = Math.min(levels[i]!, most)
    const millis = Math.min(block?.[i] ?? 0, MAX_BLOCK)
    if (millis > 0) blocked.set(dimension, Math.max(blocked.get(dimension) ?? 0, now + millis))
  }
  return put(state, limits, levels, now, { blocked, told: isLast ? now : state.told })
}

export const look = (before: State, limits: ReadonlyArray<StoreLimit>, now: number): Buckets => {
  const state = onClock(before, now)
  return { levels: levelsAt(state, limits, now), blockedFor: blockedFor(state, limits, now) }
}

/** Milliseconds until all buckets are full and nothing is blocked: then the state says nothing. */
export const lasts = (state: State, limits: ReadonlyArray<StoreLimit>, now: number): number => {
  const levels = levelsAt(state, limits, now)
  return Math.ceil(Math.max(
    SEEN_FOR,
    ...limits.map(({ burst, rate }, i) => (burst - levels[i]!) / rate),
    ...[...state.blocked.values()].map((until) => until - now)
  ))
}

// -----------------------------------------------------------------------------
// memory
// -----------------------------------------------------------------------------

const MAX_KEYS = 10_000

export const memory = (): LimitStore => {
  /** In the order of use. `until`: then its buckets are full, and it says nothing. */
  const states = new Map<string, { readonly state: State; readonly until: number }>()

  const keep = (key: string, state: State, limits: ReadonlyArray<StoreLimit>, now: number): void => {
    states.delete(key)
    states.set(key, { state, until: now + lasts(state, limits, now) })
    if (states.size <= MAX_KEYS) return
    for (const [old, { until }] of states) {
      if (until > now) continue
      states.delete(old)
      if (states.size <= MAX_KEYS) return
    }
  }

  const at = (key: string, now: number): State => {
    const found = states.get(key)
    return found === undefined || found.until <= now ? empty : found.state
  }

  const atNow = <A>(use: (now: number) => A): Effect.Effect<A> =>
    Clock.clockWith((clock) => Effect.succeed(use(Math.floor(monotonicMillis(clock)))))

  return {
    reserve: (request) =>
      atNow((now) => {
        const [reserved, state] = reserve(at(request.key, now), request, now)
        keep(request.key, state, request.limits, now)
        return reserved
      }),
    settle: (change) => atNow((now) => keep(change.key, settle(at(change.key, now), change, now), change.limits, now)),
    snapshot: (key, limits) => atNow((now) => look(at(key, now), limits, now))
  }
}
