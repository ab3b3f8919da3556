// Circuits that several processes share: what a store of them must do, as a pure core, and its port.
//
// Counting stays with each process. What is shared is what the count has led to: an open time, its end, a mode that an
// operator has set, and the few probes that decide. Each change has a higher generation than the one before it.
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import { monotonicMillis } from "../../internal/clock.ts"
import type { Health } from "../../persistence/Health.ts"
import type { StoreError } from "../../persistence/Store.ts"
import type { Mode } from "../CircuitBreaker.ts"

// -----------------------------------------------------------------------------
// port
// -----------------------------------------------------------------------------

/**
 * A circuit as the store knows it.
 *
 * @category models
 * @since 0.2.0
 */
export interface SharedCircuit {
  /** Grows with each change, also when the store was emptied in between. */
  readonly generation: number
  readonly mode: Mode
  readonly isOpen: boolean
  /** Milliseconds until the next probe, while open; 0 when it is due. */
  readonly left: number
  /** How many times in a row it was opened, and for how many milliseconds the last time. */
  readonly openings: number
  readonly openFor: number
}

/**
 * What one process tells the others.
 *
 * - `Opened`: for `openFor` milliseconds from now. Of several open times the one with the latest end holds.
 * - `Closed`: a probe has found that all is well. It counts only while its `slot` is held.
 * - `Forced`: an operator decides, or with `auto` does so no more. Ends the openings before it. Nothing else changes a circuit
 *   that is forced.
 *
 * Each change ends all slots. To force what is forced already is none, unless nothing is known of the circuit.
 *
 * @category models
 * @since 0.2.0
 */
export type CircuitChange =
  | { readonly _tag: "Opened"; readonly openFor: number; readonly openings: number }
  | { readonly _tag: "Closed"; readonly slot: number }
  | { readonly _tag: "Forced"; readonly mode: Mode }

/**
 * The answer to who wants to probe. `slot`: the number that its lease is fenced by; absent while the circuit is not due, or
 * others probe.
 *
 * @category models
 * @since 0.2.0
 */
export interface Claim {
  readonly slot: number | undefined
  readonly circuit: SharedCircuit | undefined
}

/**
 * Keeps circuits that several processes share, by key. Each operation is one atomic step, and takes its time from the store's
 * own clock.
 *
 * @category models
 * @since 0.2.0
 */
export interface CircuitStore {
  readonly health?: Health | undefined
  /** Tells a change. Answers with the circuit as it is then, which need not be what was told. */
  readonly trip: (key: string, change: CircuitChange) => Effect.Effect<SharedCircuit | undefined, StoreError>
  /** Asks for one of `slots` probes, for `lease` milliseconds. A circuit that the store does not know is due. */
  readonly probe: (key: string, slots: number, lease: number) => Effect.Effect<Claim, StoreError>
  /** A slot is held for `lease` milliseconds from now. Does nothing when it is lost. */
  readonly renew: (key: string, slot: number, lease: number) => Effect.Effect<void, StoreError>
  readonly release: (key: string, slot: number) => Effect.Effect<void, StoreError>
  readonly look: (key: string) => Effect.Effect<SharedCircuit | undefined, StoreError>
  /**
   * Calls `changed` soon after each change of the circuit, until the function that it returns is called. A store without it is
   * looked at once a second.
   */
  readonly watch?: ((key: string, changed: () => void) => () => void) | undefined
}

// -----------------------------------------------------------------------------
// core
// -----------------------------------------------------------------------------

/** What is kept under one key. `until` is 0 while closed. Slots by number, with the end of their leases. */
export interface State {
  readonly generation: number
  readonly mode: Mode
  readonly until: number
  readonly openings: number
  readonly openFor: number
  readonly slots: ReadonlyMap<number, number>
}

export const empty: State = { generation: 0, mode: "auto", until: 0, openings: 0, openFor: 0, slots: new Map() }

export const seen = (state: State, now: number): SharedCircuit | undefined => {
  const { generation, mode, openFor, openings, until } = state
  if (generation === 0) return undefined
  return { generation, mode, isOpen: until > 0, left: Math.max(0, until - now), openings, openFor }
}

/** `stamp` is higher than every one before it. */
export const change = (state: State, what: CircuitChange, now: number, stamp: number): State => {
  const next = { ...state, generation: Math.max(stamp, state.generation + 1), slots: empty.slots }
  switch (what._tag) {
    case "Forced":
      return what.mode === state.mode && state.generation > 0
        ? state
        : { ...next, mode: what.mode, until: 0, openings: 0, openFor: 0 }
    case "Closed":
      return state.mode === "auto" && isHeld(state, what.slot, now) ? { ...next, until: 0 } : state
    case "Opened": {
      if (state.mode !== "auto") return state
      const until = now + what.openFor
      return state.until >= until
        ? next
        : {
          ...next,
          until,
          openFor: what.openFor,
          openings: Math.max(what.openings, state.until > now ? state.openings : 0)
        }
    }
  }
}

const isHeld = (state: State, slot: number, now: number): boolean => (state.slots.get(slot) ?? 0) > now

export const claim = (
  state: State,
  slots: number,
  lease: number,
  now: number,
  stamp: number
): readonly [Claim, State] => {
  const circuit = seen(state, now)
  const held = new Map([...state.slots].filter(([, until]) => until > now))
  if (state.mode !== "auto" || state.until > now || held.size >= slots) return [{ slot: undefined, circuit }, state]
  const slot = Math.max(stamp, ...[...held.keys()].map((other) => other + 1))
  return [{ slot, circuit }, { ...state, slots: held.set(slot, now + lease) }]
}

export const renew = (state: State, slot: number, lease: number, now: number): State =>
  isHeld(state, slot, now) ? { ...state, slots: new Map(state.slots).set(slot, now + lease) } : state

export const release = (state: State, slot: number): State => {
  const slots = new Map(state.slots)
  return slots.delete(slot) ? { ...state, slots } : state
}

/** A circuit of which nothing was heard for a day says nothing any more. */
export const KEPT = 24 * 60 * 60_000

// -----------------------------------------------------------------------------
// memory
// -----------------------------------------------------------------------------

const MAX_KEYS = 1000

export const memory = (): CircuitStore => {
  /** In the order of use. */
  const states = new Map<string, State>()
  const watching = new Map<string, Set<() => void>>()
  let stamps = 0

  const put = (key: string, state: State): void => {
    states.delete(key)
    states.set(key, state)
    if (states.size > MAX_KEYS) states.delete(states.keys().next().value!)
  }
  const at = (key: string): State => states.get(key) ?? empty
  const atNow = <A>(use: (now: number) => A): Effect.Effect<A> =>
    Clock.clockWith((clock) => Effect.succeed(use(Math.floor(monotonicMillis(clock)))))

  return {
    trip: (key, what) =>
      atNow((now) => {
        const before = at(key)
        const after = change(before, what, now, ++stamps)
        if (after !== before) {
          put(key, after)
          for (const changed of watching.get(key) ?? []) changed()
        }
        return seen(after, now)
      }),
    probe: (key, slots, lease) =>
      atNow((now) => {
        const [answer, after] = claim(at(key), slots, lease, now, ++stamps)
        put(key, after)
        return answer
      }),
    renew: (key, slot, lease) => atNow((now) => put(key, renew(at(key), slot, lease, now))),
    release: (key, slot) => Effect.sync(() => put(key, release(at(key), slot))),
    look: (key) => atNow((now) => seen(at(key), now)),
    watch: (key, changed) => {
      const listeners = watching.get(key) ?? new Set()
      watching.set(key, listeners.add(changed))
      return () => {
        listeners.delete(changed)
        if (listeners.size === 0) watching.delete(key)
      }
    }
  }
}
