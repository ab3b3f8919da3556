/**
 * Circuit breaker: stops calling what keeps failing, and probes carefully whether it has recovered.
 *
 * Closed counts outcomes and opens after too many failures; open rejects at once; half-open lets a few probes through
 * and closes or reopens by what they find. The states are those of Nygard's "Release It!", the window of buckets is
 * Hystrix's, fencing by generation and leased probe slots are answers to bugs that other breakers shipped.
 *
 * **Details**
 *
 * - There are no timers: what a state means is derived from the clock when somebody asks. A circuit stays `Open` in
 *   its `Ref` after its time is over, until the first probe is admitted.
 * - Every transition starts a new *generation*. An outcome from an older generation, or of a probe whose lease has
 *   run out, changes nothing.
 * - Place: innermost, per attempt, inside retry. A retry around the breaker sees `CircuitOpen` and must not retry it.
 *
 * @since 0.1.0
 */
import * as Config from "effect/Config"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as MutableRef from "effect/MutableRef"
import * as Ref from "effect/Ref"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import { monotonicMillis } from "../internal/clock.ts"
import type { Restore } from "../internal/line.ts"
import {
  attempt,
  finite,
  integer,
  integerOrOff,
  millis,
  millisIfGiven,
  mode,
  number,
  numberOrOff,
  optionsOf,
  orFalse,
  readOption,
  readOptions,
  rule,
  text
} from "../internal/option.ts"
import { InFlight, Thresholds, type Watched } from "../internal/slow.ts"
import { CircuitOpen, classify, type LlmConfigError, retryAfterMillis, withoutStack } from "../LlmError.ts"
import type { Patience } from "../persistence/Health.ts"
import * as Circuits from "./internal/circuits.ts"
import { type Fleet, fleetOf, share, type Sharing } from "./internal/sharedCircuit.ts"

// -----------------------------------------------------------------------------
// policy
// -----------------------------------------------------------------------------

/**
 * When the circuit opens, for how long, and what closes it again.
 *
 * @category models
 * @since 0.1.0
 */
export interface Rules {
  /** Consecutive failures that open; a success, or a silence longer than `window`, ends the row. Default 5. */
  readonly failureThreshold?: number | false | undefined
  /** Share of failures in the window that opens, from 0.01 to 1. Default 0.5. */
  readonly failureRate?: number | false | undefined
  /** Calls the window must hold before a rate counts. Default 10. */
  readonly minimumCalls?: number | undefined
  /** Length of the window: ten buckets, the oldest of which leaves as a whole. Default 60 seconds. */
  readonly window?: Duration.Input | undefined
  /** First open time; doubles with each reopening. Default 30 seconds. */
  readonly recoveryTimeout?: Duration.Input | undefined
  /** Longest open time of our own. Default 5 minutes, or `recoveryTimeout` if that is longer. */
  readonly maxRecoveryTimeout?: Duration.Input | undefined
  /** Longest open time a server's hint on the tripping failure can ask for. Default 5 minutes. */
  readonly maxRetryAfter?: Duration.Input | undefined
  /** Probes in flight at once while half-open. Default 1. */
  readonly halfOpenProbes?: number | undefined
  /**
   * Successful probes that close. Default 1. `halfOpenProbes` is how many are in flight at once: a provider that answers
   * one call and fails the next takes several successes, which may come one after the other.
   */
  readonly successThreshold?: number | undefined
  /**
   * Counts calls that take longer than `duration`, as soon as they do and whatever becomes of them; a share of `rate`
   * (0.8) of the newest ones opens, of at least `minimumCalls`. A slow probe reopens. Without a `duration` it is
   * measured: twice the 95th percentile of the last 100 successes of the same kind, once there are 20 of them, and at
   * least 5 seconds. Default on, measured; `false` counts none.
   */
  readonly slowCall?:
    | {
      readonly duration?: Duration.Input | undefined
      readonly rate?: number | undefined
    }
    | false
    | undefined
  /** `shadow`: counts and tells that it would have opened (`would-open`), and rejects nothing. Default `enforce`. */
  readonly mode?: "enforce" | "shadow" | undefined
}

/**
 * Options of a breaker by itself.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options extends Rules {
  /**
   * How long a probe holds its slot without a renewal: as long as one call may take, and some. Default 65 seconds. A
   * client knows how long its calls may take, so it has no such option.
   */
  readonly probeLease?: Duration.Input | undefined
}

/** @internal */
export const recoveryOrder = rule<
  { readonly maxRecoveryTimeout?: number | undefined; readonly recoveryTimeout: number }
>(
  ({ maxRecoveryTimeout, recoveryTimeout }) =>
    maxRecoveryTimeout === undefined || maxRecoveryTimeout >= recoveryTimeout
      ? undefined
      : ["maxRecoveryTimeout", `a duration of at least ${recoveryTimeout} ms`]
)

/**
 * The schema of {@link Rules}: defaults and rules.
 *
 * @category schemas
 * @since 0.2.0
 */
export const RulesSchema = optionsOf<Rules>()({
  failureThreshold: integerOrOff(5, 1),
  failureRate: numberOrOff(0.5, 0.01, 1),
  minimumCalls: integer(10, 1),
  window: millis("60 seconds", 1),
  recoveryTimeout: millis("30 seconds"),
  maxRecoveryTimeout: millisIfGiven(),
  maxRetryAfter: millis("5 minutes"),
  halfOpenProbes: integer(1, 1),
  successThreshold: integer(1, 1),
  slowCall: orFalse(Schema.Struct({ duration: millisIfGiven(), rate: number(0.8, 0.01, 1) })),
  mode: mode()
}).check(recoveryOrder)

/**
 * The schema of {@link Options}.
 *
 * @category schemas
 * @since 0.2.0
 */
export const OptionsSchema = optionsOf<Options>()({
  ...RulesSchema.fields,
  probeLease: finite("65 seconds", 1)
}).check(recoveryOrder)

/**
 * Checked options: milliseconds, `Infinity` for what is off.
 *
 * @category models
 * @since 0.1.0
 */
export interface Policy {
  readonly failureThreshold: number
  readonly failureRate: number
  readonly minimumCalls: number
  readonly window: number
  readonly recoveryTimeout: number
  readonly maxRecoveryTimeout: number
  readonly maxRetryAfter: number
  readonly halfOpenProbes: number
  readonly successThreshold: number
  readonly probeLease: number
  /** `measured`: learned from what succeeds. */
  readonly slowDuration: number | "measured"
  readonly slowRate: number
  readonly isShadow: boolean
}

/**
 * Checks options; throws `LlmConfigError`.
 *
 * @category constructors
 * @since 0.1.0
 */
export const policy = (options?: Options, path = "circuitBreaker"): Policy => {
  const { maxRecoveryTimeout, mode, slowCall, ...rules } = readOptions(OptionsSchema, options, path)
  return {
    ...rules,
    maxRecoveryTimeout: maxRecoveryTimeout ?? Math.max(300_000, rules.recoveryTimeout),
    slowDuration: slowCall === false ? Infinity : slowCall?.duration ?? "measured",
    slowRate: slowCall ? slowCall.rate : 0.8,
    isShadow: mode === "shadow"
  }
}

// -----------------------------------------------------------------------------
// core
// -----------------------------------------------------------------------------

/**
 * Who decides: the circuit, or an operator. `shadow` counts and reports, but rejects nothing.
 *
 * @category models
 * @since 0.1.0
 */
export type Mode = "auto" | "open" | "closed" | "shadow"

/**
 * Outcomes counted in one tenth of the window.
 *
 * @category models
 * @since 0.1.0
 */
export interface Bucket {
  /** `floor(now / (window / 10))` */
  readonly bucket: number
  readonly calls: number
  readonly failures: number
  readonly slow: number
}

/**
 * Calls pass and are counted. The youngest bucket is part of the state itself.
 *
 * @category models
 * @since 0.1.0
 */
export interface Closed extends Bucket {
  readonly _tag: "Closed"
  readonly mode: "auto" | "closed" | "shadow"
  readonly generation: number
  /** Failures in a row, and when the last outcome was recorded. */
  readonly streak: number
  readonly lastAt: number
  /** At most nine older buckets that may still count, oldest first. */
  readonly older: ReadonlyArray<Bucket>
  /** Since when the circuit is closed, the number of openings before that, and how long the last one was. */
  readonly since: number
  readonly openings: number
  readonly openFor: number
}

/**
 * Calls are rejected until `until`; then the next one is a probe.
 *
 * @category models
 * @since 0.1.0
 */
export interface Open {
  readonly _tag: "Open"
  readonly mode: "auto" | "open"
  readonly generation: number
  readonly until: number
  readonly openings: number
  readonly openFor: number
}

/**
 * A few probes decide.
 *
 * @category models
 * @since 0.1.0
 */
export interface HalfOpen {
  readonly _tag: "HalfOpen"
  readonly mode: "auto"
  readonly generation: number
  readonly successes: number
  /** Probes in flight. One that is not renewed before `expiresAt` has lost its slot. */
  readonly slots: ReadonlyArray<{ readonly id: number; readonly expiresAt: number }>
  readonly lastSlot: number
  readonly openings: number
  readonly openFor: number
}

/**
 * What a breaker knows, as plain immutable data. All times are monotonic milliseconds.
 *
 * @category models
 * @since 0.1.0
 */
export type State = Closed | Open | HalfOpen

/**
 * The right to make one call, and the identity its outcome is fenced by. `slot` is 0 unless the call is a probe.
 *
 * @category models
 * @since 0.1.0
 */
export interface Permit {
  readonly generation: number
  readonly slot: number
  /** Set once its outcome is recorded. */
  readonly settled: boolean
  /** A call that takes longer than so many milliseconds is slow. */
  readonly slowAfter: number
  /** The bucket in which it was counted as slow while it was under way, if it was. */
  readonly slowIn?: number | undefined
  /** Of a probe, its slot among all processes. */
  readonly shared?: number | undefined
}

/**
 * How a call counts. `ignored` says nothing about health and only frees what was held.
 *
 * @category models
 * @since 0.1.0
 */
export type Outcome = "success" | "failure" | "ignored"

/**
 * What else is known of a call, in milliseconds.
 *
 * @category models
 * @since 0.1.0
 */
export interface Details {
  /** How long the failure asks to wait. */
  readonly retryAfter?: number | undefined
  /** How long the call took, for `slowCall`. */
  readonly duration?: number | undefined
}

const closed = (
  mode: Closed["mode"],
  generation: number,
  since: number,
  openings: number,
  openFor: number
): Closed => ({
  _tag: "Closed",
  mode,
  generation,
  streak: 0,
  lastAt: since,
  bucket: 0,
  calls: 0,
  failures: 0,
  slow: 0,
  older: [],
  since,
  openings,
  openFor
})

/**
 * The state of a new breaker.
 *
 * @category core
 * @since 0.1.0
 */
export const initial: State = closed("auto", 0, 0, 0, 0)

const inFlight = (state: HalfOpen, now: number): number => {
  let count = 0
  for (const slot of state.slots) if (now < slot.expiresAt) count++
  return count
}

/**
 * Would a call be admitted now? Changes nothing.
 *
 * **Details**
 *
 * Half-open admits while probes in flight are fewer than `halfOpenProbes`, and together with the successes so far
 * fewer than the larger of `halfOpenProbes` and `successThreshold`.
 *
 * @category core
 * @since 0.1.0
 */
export const peek = (policy: Policy, state: State, now: number): boolean => {
  if (state._tag === "Closed") return true
  if (state._tag === "Open") return now >= state.until
  const probes = inFlight(state, now)
  return probes < policy.halfOpenProbes &&
    probes + state.successes < Math.max(policy.halfOpenProbes, policy.successThreshold)
}

/**
 * Admits one call: the state after it, or `undefined` when it is rejected. A closed circuit stays the same object.
 *
 * @category core
 * @since 0.1.0
 */
export const admit = (policy: Policy, state: State, now: number): State | undefined => {
  if (state._tag === "Closed") return state
  if (!peek(policy, state, now)) return undefined
  const fresh = state._tag === "Open"
  const id = fresh ? 1 : state.lastSlot + 1
  const slot = { id, expiresAt: now + policy.probeLease }
  return {
    _tag: "HalfOpen",
    mode: "auto",
    generation: fresh ? state.generation + 1 : state.generation,
    successes: fresh ? 0 : state.successes,
    slots: fresh ? [slot] : [...state.slots.filter((held) => now < held.expiresAt), slot],
    lastSlot: id,
    openings: state.openings,
    openFor: state.openFor
  }
}

/**
 * The permit of the call that {@link admit} has just admitted. `slowAfter`: milliseconds after which it is slow.
 *
 * @category core
 * @since 0.1.0
 */
export const permitOf = (state: State, slowAfter = Infinity, shared = 0): Permit => ({
  generation: state.generation,
  slot: slotOf(state),
  settled: false,
  slowAfter,
  shared
})

const slotOf = (state: State): number => state._tag === "HalfOpen" ? state.lastSlot : 0

/**
 * Counts a call that is still under way as slow: one call of the window, whatever becomes of it. Once per call, which
 * then keeps the bucket in its permit (`slowIn`).
 *
 * @category core
 * @since 0.2.0
 */
export const turnSlow = (policy: Policy, state: State, permit: Permit, now: number): State => {
  if (permit.generation !== state.generation || state._tag === "Open") return state
  if (state._tag === "HalfOpen") {
    return isHeld(state, permit, now) ? opened(policy, state.generation + 1, now, state.openings + 1) : state
  }
  if (isDeaf(state, now)) return state
  return tripped(
    policy,
    state,
    add(policy, state, now, { calls: 1, failures: 0, slow: 1 }, state.streak, state.lastAt),
    now
  )
}

/**
 * The bucket of a moment.
 *
 * @category core
 * @since 0.2.0
 */
export const bucketAt = (policy: Policy, now: number): number => Math.floor(now / (policy.window / bucketCount))

/**
 * Counts the outcome of an admitted call. A late one, from an older generation or a lost slot, returns `state` itself.
 *
 * **Gotchas**
 *
 * A closed circuit does not remember its permits: record each of them once.
 *
 * @category core
 * @since 0.1.0
 */
export const record = (
  policy: Policy,
  state: State,
  permit: Permit,
  outcome: Outcome,
  now: number,
  details?: Details
): State => {
  if (permit.generation !== state.generation || state._tag === "Open") return state
  const slow = details?.duration !== undefined && details.duration > permit.slowAfter
  const good = outcome === "success" && !slow
  if (state._tag === "HalfOpen") {
    if (!isHeld(state, permit, now)) return state
    const generation = state.generation + 1
    if (outcome !== "ignored" && !good) return opened(policy, generation, now, state.openings + 1, details)
    const successes = good ? state.successes + 1 : state.successes
    return successes >= policy.successThreshold
      ? closed("auto", generation, now, state.openings, state.openFor)
      : { ...state, successes, slots: state.slots.filter(({ id }) => id !== permit.slot) }
  }
  if (outcome === "ignored" || isDeaf(state, now)) return state
  const failed = outcome === "failure"
  // It may be in the window already.
  const calls = permit.slowIn === undefined || permit.slowIn <= bucketAt(policy, now) - bucketCount ? 1 : 0
  const next = add(
    policy,
    state,
    now,
    { calls, failures: failed ? 1 : 0, slow: slow ? calls : 0 },
    !failed ? 0 : now - state.lastAt > policy.window ? 1 : state.streak + 1,
    Math.max(state.lastAt, now)
  )
  return good ? next : tripped(policy, state, next, now, details)
}

const isHeld = (state: HalfOpen, permit: Permit, now: number): boolean =>
  state.slots.some(({ expiresAt, id }) => id === permit.slot && now < expiresAt)

/** Counts nothing: an operator decides, or what a real circuit would have rejected is only reported. */
const isDeaf = (state: Closed, now: number): boolean =>
  state.mode === "closed" || (state.mode === "shadow" && now < state.since)

/** What has just been counted opens the circuit, or not. */
const tripped = (policy: Policy, before: Closed, next: Closed, now: number, details?: Details): State => {
  if (!trips(policy, next, now)) return next
  const flapping = now - before.since < before.openFor
  const generation = before.generation + 1
  const open = opened(policy, generation, now, flapping ? before.openings + 1 : 1, details)
  return before.mode === "auto" ? open : closed("shadow", generation, open.until, open.openings, open.openFor)
}

/**
 * Extends the lease of a probe that is alive. A lost slot stays lost.
 *
 * @category core
 * @since 0.1.0
 */
export const renew = (policy: Policy, state: State, permit: Permit, now: number): State =>
  state._tag === "HalfOpen" && permit.generation === state.generation
    ? {
      ...state,
      slots: state.slots.map((slot) =>
        slot.id === permit.slot && now < slot.expiresAt ? { id: slot.id, expiresAt: now + policy.probeLease } : slot
      )
    }
    : state

/**
 * Takes the decision away from the circuit, or gives it back. Leaving a mode always starts closed with an empty window.
 *
 * @category core
 * @since 0.1.0
 */
export const force = (state: State, mode: Mode, now: number): State =>
  mode === state.mode
    ? state
    : mode === "open"
    ? { _tag: "Open", mode, generation: state.generation + 1, until: Infinity, openings: 0, openFor: Infinity }
    : closed(mode, state.generation + 1, now, 0, 0)

/**
 * Learns what other processes have found. `isAnswer`: it answers what was told from here, and can only prolong it.
 *
 * @category core
 * @since 0.2.0
 */
export const follow = (state: State, circuit: Circuits.SharedCircuit, now: number, isAnswer = false): State => {
  const { isOpen, left, mode, openFor, openings } = circuit
  if (mode !== "auto") return force(state, mode, now)
  const own = force(state, "auto", now)
  if (!isOpen) {
    return own._tag === "Closed" ? own : closed("auto", own.generation + 1, now, own.openings, own.openFor)
  }
  const until = now + left
  if (own._tag === "Open") return until > own.until ? { ...own, until, openings, openFor } : own
  return isAnswer ? own : { _tag: "Open", mode: "auto", generation: own.generation + 1, until, openings, openFor }
}

const bucketCount = 10

const add = (
  policy: Policy,
  state: Closed,
  now: number,
  more: Omit<Bucket, "bucket">,
  streak: number,
  lastAt: number
): Closed => {
  const bucket = Math.max(state.bucket, bucketAt(policy, now))
  const same = bucket === state.bucket
  return {
    _tag: "Closed",
    mode: state.mode,
    generation: state.generation,
    streak,
    lastAt,
    bucket,
    calls: (same ? state.calls : 0) + more.calls,
    failures: (same ? state.failures : 0) + more.failures,
    slow: (same ? state.slow : 0) + more.slow,
    older: same ? state.older : rotate(state, bucket),
    since: state.since,
    openings: state.openings,
    openFor: state.openFor
  }
}

const rotate = (state: Closed, bucket: number): ReadonlyArray<Bucket> => {
  const head = { bucket: state.bucket, calls: state.calls, failures: state.failures, slow: state.slow }
  return [...state.older, head].filter((old) =>
    (old.calls > 0 || old.failures > 0) && old.bucket > bucket - bucketCount
  )
}

const totals = (policy: Policy, state: Closed, now: number): Pick<Bucket, "calls" | "failures"> => {
  const oldest = bucketAt(policy, now) - bucketCount
  const sum = { calls: 0, failures: 0 }
  for (const counted of [...state.older, state]) {
    if (counted.bucket <= oldest) continue
    sum.calls += counted.calls
    sum.failures += counted.failures
  }
  return sum
}

const trips = (policy: Policy, state: Closed, now: number): boolean => {
  if (state.streak >= policy.failureThreshold) return true
  const { calls, failures } = totals(policy, state, now)
  return calls >= policy.minimumCalls &&
    (failures / calls >= policy.failureRate || slowShare(policy, state) >= policy.slowRate)
}

/**
 * Of the newest buckets that hold enough calls: what was fast a minute ago must not hide that everything hangs now. Asked only
 * when all buckets together hold enough.
 */
const slowShare = (policy: Policy, state: Closed): number => {
  let { calls, slow } = state
  for (let i = state.older.length - 1; calls < policy.minimumCalls; i--) {
    calls += state.older[i]!.calls
    slow += state.older[i]!.slow
  }
  return slow / calls
}

const opened = (policy: Policy, generation: number, now: number, openings: number, details?: Details): Open => {
  // 2^1023 is the largest finite power (0 · Infinity is NaN), and a NaN in `until` would wedge the circuit.
  const own = Math.min(policy.maxRecoveryTimeout, policy.recoveryTimeout * 2 ** Math.min(openings - 1, 1023))
  const openFor = Math.max(own, Math.min(details?.retryAfter || 0, policy.maxRetryAfter))
  return { _tag: "Open", mode: "auto", generation, until: now + openFor, openings, openFor }
}

// -----------------------------------------------------------------------------
// service
// -----------------------------------------------------------------------------

/**
 * The name of a state, forced ones included.
 *
 * @category models
 * @since 0.1.0
 */
export type StateName = "closed" | "open" | "half-open" | "forced-open" | "forced-closed" | "shadow"

/**
 * A change of state. `would-open`: the circuit is in mode `shadow` and would have opened.
 *
 * @category models
 * @since 0.1.0
 */
export interface Transition {
  readonly from: StateName
  readonly to: StateName | "would-open"
  /** Monotonic milliseconds. */
  readonly now: number
}

/**
 * A breaker at a glance.
 *
 * @category models
 * @since 0.1.0
 */
export interface Status {
  readonly state: StateName
  /** Until the next probe; absent unless open. */
  readonly retryAfter?: Duration.Duration
  /** Outcomes in the window, while closed. */
  readonly calls: number
  readonly failures: number
  /** Failures in a row, while closed. */
  readonly streak: number
  /** Probes in flight, while half-open. */
  readonly probes: number
}

const TypeId = "~effect-resilient-llm/CircuitBreaker"

/**
 * One circuit.
 *
 * @category models
 * @since 0.1.0
 */
export interface CircuitBreaker {
  readonly [TypeId]: typeof TypeId
  readonly key: string
  /** For reading. A write from outside is a transition nobody is told of. */
  readonly state: Ref.Ref<State>
  readonly status: Effect.Effect<Status>
  /**
   * Would a call be rejected now? Also true while half-open with every slot taken.
   *
   * @internal
   */
  readonly isOpenUnsafe: (now: number) => boolean
  /**
   * The error for a call that is rejected now; made only when it is asked for. `isProbed`: because other processes probe.
   *
   * @internal
   */
  readonly rejectionUnsafe: (now: number, isProbed?: boolean) => () => CircuitOpen
  /**
   * Milliseconds until the next probe, while open.
   *
   * @internal
   */
  readonly openForUnsafe: (now: number) => number | undefined
  /**
   * Admits a call, or rejects it with `undefined`. Every permit must be recorded, in the end. `kind`: calls of which it
   * is one; each kind has its own idea of slow.
   *
   * @internal
   */
  readonly admitUnsafe: (now: number, kind?: string, slot?: number) => Permit | undefined
  /**
   * What must be waited for before admission: a slot among the probes of all processes, which is then given to
   * `admitUnsafe` (0: none is needed, or there is no store); `undefined` while others have them. Nothing, for a circuit of
   * this process alone and for a closed one.
   * `whose`: the call that waits.
   *
   * @internal
   */
  readonly claimUnsafe: (
    now: number,
    restore: Restore,
    whose?: { readonly patience: Patience }
  ) => Effect.Effect<number | undefined> | undefined
  /**
   * Records an outcome. Only the first one of a permit counts; late ones change nothing.
   *
   * @internal
   */
  readonly recordUnsafe: (permit: Permit, outcome: Outcome, now: number, details?: Details) => void
  /**
   * Keeps a probe's slot: a stream renews while it lives. What has begun to answer is not slow any more.
   *
   * @internal
   */
  readonly renewUnsafe: (permit: Permit, now: number) => void
  /**
   * Tells of each transition, after it, until the function that it returns is called.
   *
   * @internal
   */
  readonly watchUnsafe: (listener: (change: Transition) => void) => () => void
  /**
   * Runs an effect through the circuit. `LlmError.classify` says how a failure counts; interruption and defects are
   * ignored. Of several failures at once the worst counts.
   */
  readonly protect: <A, E, R>(self: Effect.Effect<A, E, R>) => Effect.Effect<A, E | CircuitOpen, R>
  /**
   * Switches the mode, of a shared circuit for all processes. `auto` gives the decision back to the circuit, closed and with
   * an empty window.
   */
  readonly force: (mode: Mode) => Effect.Effect<void>
}

/**
 * Is it a circuit breaker?
 *
 * @category guards
 * @since 0.2.0
 */
export const isCircuitBreaker = (u: unknown): u is CircuitBreaker =>
  typeof u === "object" && u !== null && (u as { readonly [TypeId]?: unknown })[TypeId] === TypeId

/**
 * The service tag for a circuit breaker.
 *
 * @category services
 * @since 0.1.0
 */
export const CircuitBreaker: Context.Service<CircuitBreaker, CircuitBreaker> = Context.Service(
  "effect-resilient-llm/CircuitBreaker"
)

/**
 * Options of one breaker.
 *
 * @category models
 * @since 0.1.0
 */
export interface MakeOptions extends Options {
  /** Names the circuit in errors: a target, or a target and a model. */
  readonly key: string
  /** Called once per transition, after it. What it throws is dropped. */
  readonly onTransition?: ((change: Transition) => void) | undefined
}

/**
 * Creates a circuit breaker. Fails when the options are invalid.
 *
 * **Example** (Rejecting at once what keeps failing)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { CircuitBreaker } from "effect-resilient-llm/resilience"
 *
 * const program = Effect.gen(function*() {
 *   const breaker = yield* CircuitBreaker.make({ key: "openai", failureThreshold: 2 })
 *   const call = Effect.fail("no answer").pipe(breaker.protect)
 *   yield* Effect.ignore(call)
 *   yield* Effect.ignore(call)
 *   return yield* call.pipe(Effect.catchTag("CircuitOpen", (error) => Effect.succeed(error.message)))
 * })
 * await Effect.runPromise(program) // => `The circuit breaker of "openai" is open. Try again in 30s.`
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = (options: MakeOptions): Effect.Effect<CircuitBreaker, LlmConfigError> => fromOptions(options)

/** Who leaves the options out is told what is missing. */
const fromOptions = (options: MakeOptions | undefined, fleet?: Fleet) =>
  attempt(() => {
    const { key, onTransition, ...rules }: Partial<MakeOptions> = options ?? {}
    return fromPolicy(checkKey(key), policy(rules), onTransition, Infinity, fleet)
  })

/**
 * Where circuits are kept that several processes share, by their keys. `undefined` (the default): each breaker knows its own.
 *
 * **Details**
 *
 * - Counting stays local and costs no round trip. A circuit that opens, closes or is forced is told to the others, which do
 *   the same: at once where the store can tell (Redis), else at their next look, once a second while a circuit is in use.
 * - `halfOpenProbes` holds for all processes together: who finds the circuit due asks the store for a place among the probes,
 *   and waits at most 100 ms for it. `successThreshold` counts the probes of one process.
 * - Without the store each process opens and probes by itself, and what it finds then is not told later.
 *
 * @category services
 * @since 0.2.0
 */
export const CircuitBreakerStore: Context.Reference<Circuits.CircuitStore | undefined> = Context.Reference<
  Circuits.CircuitStore | undefined
>("effect-resilient-llm/CircuitBreakerStore", { defaultValue: () => undefined })

export type { CircuitChange, CircuitStore, Claim, SharedCircuit } from "./internal/circuits.ts"

/**
 * Like {@link make}, with a circuit that other processes share under the same key.
 *
 * **Example** (What one process has met, the other knows)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { CircuitBreaker } from "effect-resilient-llm/resilience"
 *
 * const program = Effect.gen(function*() {
 *   const store = yield* CircuitBreaker.storeMemory()
 *   const options = { key: "openai", failureThreshold: 2 }
 *   const here = yield* CircuitBreaker.makeShared(store, options)
 *   const there = yield* CircuitBreaker.makeShared(store, options)
 *   yield* here.protect(Effect.void)
 *   yield* there.protect(Effect.void)
 *   yield* Effect.ignore(here.protect(Effect.fail("no answer")))
 *   yield* Effect.ignore(here.protect(Effect.fail("no answer")))
 *   yield* Effect.yieldNow
 *   return (yield* there.status).state
 * })
 * await Effect.runPromise(Effect.scoped(program)) // => "open"
 * ```
 *
 * @category constructors
 * @since 0.2.0
 */
export const makeShared = (
  store: Circuits.CircuitStore,
  options: MakeOptions
): Effect.Effect<CircuitBreaker, LlmConfigError, Scope.Scope> =>
  Effect.flatMap(fleetOf(store), (fleet) => fromOptions(options, fleet))

/**
 * A store of circuits in the memory of this process: for clients that share them, and for tests. It keeps 1,000 circuits.
 *
 * @category constructors
 * @since 0.2.0
 */
export const storeMemory = (): Effect.Effect<Circuits.CircuitStore> => Effect.sync(() => Circuits.memory())

/**
 * Provides one circuit breaker.
 *
 * @category layers
 * @since 0.1.0
 */
export const layer = (options: MakeOptions): Layer.Layer<CircuitBreaker, LlmConfigError> =>
  Layer.effect(CircuitBreaker, make(options))

/**
 * Provides one circuit breaker whose options come from configuration.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerConfig = (
  options: Config.Wrap<MakeOptions>
): Layer.Layer<CircuitBreaker, LlmConfigError | Config.ConfigError> =>
  Layer.effect(CircuitBreaker, Effect.flatMap(Config.unwrap(options), make))

const checkKey = (key: unknown): string => readOption(text("a text that is not empty"), key, "circuitBreaker.key")

const names = {
  Closed: { auto: "closed", closed: "forced-closed", "shadow": "shadow" },
  Open: { auto: "open", open: "forced-open" }
} as const

const nameOf = (state: State): StateName =>
  state._tag === "Closed"
    ? names.Closed[state.mode]
    : state._tag === "Open"
    ? names.Open[state.mode]
    : "half-open"

/** What others are to know of a transition that nobody has forced. */
const newsOf = (before: State, next: State, slot: number): Circuits.CircuitChange | undefined =>
  next._tag === "Open"
    ? { _tag: "Opened", openFor: next.openFor, openings: next.openings }
    : before._tag === "HalfOpen"
    ? { _tag: "Closed", slot }
    : undefined

const retryAfterOf = (state: State, now: number): { readonly retryAfter?: Duration.Duration } =>
  state._tag === "Open" && Number.isFinite(state.until)
    ? { retryAfter: Duration.millis(Math.max(0, Math.ceil(state.until - now))) }
    : {}

const statusOf = (policy: Policy, state: State, now: number): Status => {
  const { calls, failures } = state._tag === "Closed" ? totals(policy, state, now) : { calls: 0, failures: 0 }
  return {
    state: nameOf(state),
    ...retryAfterOf(state, now),
    calls,
    failures,
    streak: state._tag === "Closed" ? state.streak : 0,
    probes: state._tag === "HalfOpen" ? inFlight(state, now) : 0
  }
}

/** The least measured threshold of a slow call. */
const LEAST_SLOW = 5000

/** A permit, and its call while that is under way. */
class Admitted implements Permit, Watched {
  readonly generation: number
  readonly slot: number
  readonly slowAfter: number
  readonly kind: string
  readonly due: number
  readonly shared: number
  settled = false
  slowIn: number | undefined
  place = -1

  constructor(state: State, slowAfter: number, kind: string, now: number, shared: number) {
    this.shared = shared
    this.generation = state.generation
    this.slot = slotOf(state)
    this.slowAfter = slowAfter
    this.kind = kind
    this.due = now + slowAfter
  }
}

/**
 * `longest`: how long an attempt may take at all; what is measured as slow is never more. `fleet`: the processes that share
 * the circuit.
 *
 * @internal
 */
export const fromPolicy = (
  key: string,
  policy: Policy,
  onTransition?: (change: Transition) => void,
  longest = Infinity,
  fleet?: Fleet
): CircuitBreaker => {
  const state = Ref.makeUnsafe<State>(policy.isShadow ? force(initial, "shadow", 0) : initial)
  const cell = state.ref
  const fixed = policy.slowDuration === "measured" ? Infinity : policy.slowDuration
  const thresholds = policy.slowDuration === "measured" ? new Thresholds(LEAST_SLOW, longest) : undefined
  const timesCalls = policy.slowDuration !== Infinity
  const underWay = new InFlight<Admitted>()
  const listeners = new Set(onTransition === undefined ? [] : [onTransition])
  // What only watches has nothing to tell to others.
  const sharing: Sharing | undefined = fleet === undefined || policy.isShadow ? undefined : share({
    ...fleet,
    key,
    probes: policy.halfOpenProbes,
    lease: policy.probeLease,
    follow: (circuit, now, isAnswer) => void step((before) => follow(before, circuit, now, isAnswer), now)
  })

  /** Every change of the state goes through here. Generations change exactly with transitions. */
  const step = (change: (before: State) => State, now: number): State => {
    const before = cell.current
    const next = MutableRef.updateAndGet(cell, change)
    if (next.generation === before.generation || listeners.size === 0) return next
    const from = nameOf(before)
    const to = nameOf(next)
    for (const listener of listeners) {
      try {
        listener({ from, to: from === to ? "would-open" : to, now })
      } catch {
        // A listener must not break the circuit.
      }
    }
    return next
  }

  /** A change that this process has met. `slot`: of the probe that has met it. */
  const move = (change: (before: State) => State, now: number, slot = 0): State => {
    const before = cell.current
    const next = step(change, now)
    if (sharing !== undefined && next.generation !== before.generation) {
      const news = newsOf(before, next, slot)
      if (news !== undefined) sharing.tell(news)
    }
    return next
  }

  /** What has turned slow since somebody looked last counts at the moment when it did. */
  const look = (now: number): void => {
    for (let call = underWay.turned(now); call !== undefined; call = underWay.turned(now)) {
      const slow = call
      const at = Math.min(now, slow.due + 1)
      const before = cell.current
      if (move((state) => turnSlow(policy, state, slow, at), at) !== before) slow.slowIn = bucketAt(policy, at)
    }
  }

  const isDue = (now: number): boolean => cell.current._tag !== "Closed" && peek(policy, cell.current, now)

  const claimUnsafe: CircuitBreaker["claimUnsafe"] = (now, restore, whose) => {
    if (sharing === undefined) return undefined
    sharing.used(now)
    look(now)
    if (!isDue(now)) return undefined
    return Effect.map(
      sharing.claim(restore, whose?.patience),
      // With the answer it may have heard that there is nothing to probe.
      (slot) => slot ?? (isDue(monotonicMillis(fleet!.clock)) ? undefined : 0)
    )
  }

  const admitUnsafe: CircuitBreaker["admitUnsafe"] = (now, kind = "", slot = 0) => {
    look(now)
    let state = cell.current
    const mayPass = peek(policy, state, now)
    // Meanwhile others have closed it, or opened it anew.
    if (slot !== 0 && (!mayPass || state._tag === "Closed")) sharing?.release(slot)
    if (!mayPass) return undefined
    if (state._tag !== "Closed") state = move((before) => admit(policy, before, now) ?? before, now)
    if (!timesCalls) return permitOf(state, Infinity, slot)
    const permit = new Admitted(state, thresholds?.of(kind) ?? fixed, kind, now, slot)
    underWay.start(permit)
    return permit
  }

  const recordUnsafe: CircuitBreaker["recordUnsafe"] = (permit, outcome, now, details) => {
    if (permit.settled) return
    look(now)
    ;(permit as { settled: boolean }).settled = true
    if (permit instanceof Admitted) {
      underWay.end(permit)
      if (outcome === "success" && details?.duration !== undefined) thresholds?.add(permit.kind, details.duration)
    }
    const { shared = 0 } = permit
    const before = cell.current.generation
    const after = move((before) => record(policy, before, permit, outcome, now, details), now, shared)
    // A transition has ended all slots.
    if (shared !== 0 && after.generation === before) sharing?.release(shared)
  }

  const rejectionUnsafe: CircuitBreaker["rejectionUnsafe"] = (now, isProbed = false) => {
    look(now)
    const current = cell.current
    return (): CircuitOpen => {
      const name = isProbed ? "half-open" : nameOf(current)
      return withoutStack(() =>
        new CircuitOpen({
          key,
          state: name === "half-open" || name === "forced-open" ? name : "open",
          ...(isProbed ? {} : retryAfterOf(current, now))
        })
      )
    }
  }

  const settle = (permit: Permit, start: number, exit: Exit.Exit<unknown, unknown>, now: number): void => {
    const duration = timesCalls ? now - start : undefined
    if (Exit.isSuccess(exit)) return recordUnsafe(permit, "success", now, timesCalls ? { duration } : undefined)
    let outcome: Outcome = "ignored"
    let retryAfter: number | undefined
    for (const reason of exit.cause.reasons) {
      if (reason._tag !== "Fail" || classify(reason.error).outcome !== "failure") continue
      outcome = "failure"
      retryAfter = Math.max(retryAfter ?? 0, retryAfterMillis(reason.error) ?? 0)
    }
    recordUnsafe(permit, outcome, now, { duration, retryAfter })
  }

  return {
    [TypeId]: TypeId,
    key,
    state,
    watchUnsafe: (listener) => {
      listeners.add(listener)
      return () => void listeners.delete(listener)
    },
    status: Effect.clockWith((clock) => {
      const now = monotonicMillis(clock)
      look(now)
      return Effect.succeed(statusOf(policy, cell.current, now))
    }),
    isOpenUnsafe: (now) => {
      sharing?.used(now)
      look(now)
      return !peek(policy, cell.current, now)
    },
    rejectionUnsafe,
    claimUnsafe,
    admitUnsafe,
    recordUnsafe,
    openForUnsafe: (now) => {
      const { retryAfter } = retryAfterOf(cell.current, now)
      return retryAfter && Duration.toMillis(retryAfter)
    },
    renewUnsafe: (permit, now) => {
      look(now)
      if (permit instanceof Admitted) underWay.end(permit)
      if (cell.current._tag !== "HalfOpen") return
      move((before) => renew(policy, before, permit, now), now)
      if (permit.shared) sharing?.renew(permit.shared, now)
    },
    protect: <A, E, R>(self: Effect.Effect<A, E, R>) =>
      Effect.uninterruptibleMask((restore) =>
        Effect.clockWith<A, E | CircuitOpen, R>((clock) => {
          const admitted = (start: number, slot?: number): Effect.Effect<A, E | CircuitOpen, R> => {
            const permit = admitUnsafe(start, "", slot)
            if (permit === undefined) return Effect.fail(rejectionUnsafe(start)())
            return Effect.onExit(restore(self), (exit) => {
              settle(permit, start, exit, monotonicMillis(clock))
              return Effect.void
            })
          }
          const now = monotonicMillis(clock)
          const claim = claimUnsafe(now, restore)
          if (claim === undefined) return admitted(now)
          return Effect.flatMap(claim, (slot) => {
            const later = monotonicMillis(clock)
            return slot === undefined ? Effect.fail(rejectionUnsafe(later, true)()) : admitted(later, slot)
          })
        })
      ),
    force: (mode) =>
      Effect.clockWith((clock) => {
        const now = monotonicMillis(clock)
        look(now)
        step((before) => force(before, mode, now), now)
        // Also what is nothing new here: others may not know it.
        sharing?.tell({ _tag: "Forced", mode })
        return Effect.void
      })
  }
}
