// What one process shares of a circuit: it tells what its own count has led to, learns what others have met, and asks for a
// place among their probes. A call waits for the store only where it wants to probe.
import * as Clock from "effect/Clock"
import type * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type * as Scope from "effect/Scope"
import * as Semaphore from "effect/Semaphore"
import { monotonicMillis } from "../../internal/clock.ts"
import { effectOf } from "../../internal/effect.ts"
import type { Restore } from "../../internal/line.ts"
import * as Health from "../../persistence/Health.ts"
import type { Operation, StoreError } from "../../persistence/Store.ts"
import type { CircuitChange, CircuitStore, Claim, SharedCircuit } from "./circuits.ts"

/** Milliseconds between two looks at a circuit, and for how long it is looked at after its last use. */
const LOOK = 1000
const IN_USE = 60_000

/** A circuit's way to other processes. */
export interface Sharing {
  /** Somebody uses the circuit, so it is looked at. */
  readonly used: (now: number) => void
  readonly tell: (change: CircuitChange) => void
  /** A place among the probes: its number, 0 without the store, `undefined` while there is none. */
  readonly claim: (
    restore: Restore,
    patience: Health.Patience | undefined
  ) => Effect.Effect<number | undefined>
  readonly renew: (slot: number, now: number) => void
  readonly release: (slot: number) => void
}

export interface ShareOptions {
  readonly key: string
  readonly store: CircuitStore
  readonly health: Health.Health
  readonly probes: number
  readonly lease: number
  readonly scope: Scope.Scope
  readonly context: Context.Context<never>
  readonly clock: Clock.Clock
  /** Learns what has been heard. `isAnswer`: to what was told from here, which others may only have prolonged. */
  readonly follow: (circuit: SharedCircuit, now: number, isAnswer: boolean) => void
}

/** What all circuits of one client have in common. */
export type Fleet = Pick<ShareOptions, "store" | "health" | "scope" | "context" | "clock">

export const fleetOf = (store: CircuitStore): Effect.Effect<Fleet, never, Scope.Scope> =>
  Effect.gen(function*() {
    const scope = yield* Effect.scope
    const ping = Effect.suspend(() => effectOf(store.look("ping"), "store"))
    return {
      store,
      health: Health.of(store, () => ping, scope),
      scope,
      context: yield* Effect.context(),
      clock: yield* Clock.Clock
    }
  })

export const share = (options: ShareOptions): Sharing => {
  const { clock, follow, health, key, lease, probes, scope, store } = options
  const fork = Effect.runForkWith(options.context)
  /** Not in the scope: what is still to be told when the process ends, is told. Each takes as long as a store is waited for. */
  const aside = (effect: Effect.Effect<unknown, unknown>): void => {
    fork(Effect.ignoreCause(effect))
  }
  /** What was told first arrives first. */
  const inOrder = Semaphore.makeUnsafe(1)
  const renewAt = new Map<number, number>()
  let untold = 0
  let asking = 0
  let heardOf = 0
  let usedAt = -Infinity
  let isLooking = false

  /** A store, and a health of somebody's own, may throw. */
  const ask = <A>(
    operation: Operation,
    self: () => Effect.Effect<A, StoreError>,
    options?: {
      readonly late?: ((value: A) => Effect.Effect<unknown, StoreError>) | undefined
      readonly patience?: Health.Patience | undefined
    }
  ): Effect.Effect<A, StoreError> => health.ask<A>(operation, Effect.suspend(() => effectOf(self(), "store")), options)

  const hear = (circuit: SharedCircuit | undefined, isAnswer = false): void => {
    // What was seen before something was told is older than the answer to that.
    if (untold > 0 || circuit === undefined || circuit.generation <= heardOf) return
    heardOf = circuit.generation
    follow(circuit, monotonicMillis(clock), isAnswer)
  }
  const release = (slot: number): void => {
    if (!renewAt.delete(slot)) return
    aside(ask("release", () => store.release(key, slot)))
  }
  const look = Effect.map(ask("look", () => store.look(key)), (circuit) => hear(circuit))
  const looking: Effect.Effect<void> = Effect.suspend(() => {
    if (monotonicMillis(clock) - usedAt >= IN_USE) return Effect.void
    return Effect.andThen(Effect.andThen(Effect.ignoreCause(look), Effect.sleep(LOOK)), looking)
  })
  const watching = Effect.scoped(Effect.andThen(
    Effect.acquireRelease(
      Effect.sync(() => store.watch?.(key, () => aside(look))),
      (forget) => Effect.sync(() => forget?.())
    ),
    looking
  ))
  const stopped = Effect.sync(() => {
    isLooking = false
  })

  return {
    used: (now) => {
      usedAt = now
      if (isLooking) return
      isLooking = true
      fork(Effect.forkIn(Effect.ensuring(watching, stopped), scope, { startImmediately: true }))
    },
    tell: (change) => {
      const held = [...renewAt.keys()]
      const told = ask("trip", () => store.trip(key, change))
      untold += 1
      aside(
        inOrder.withPermits(1)(Effect.map(Effect.exit(told), (exit) => {
          untold -= 1
          const circuit = Exit.isSuccess(exit) ? exit.value : undefined
          // With a transition all places have ended, at the store perhaps not. What an operator repeats is none.
          if (change._tag !== "Forced" || (circuit?.generation ?? 0) > heardOf) held.forEach(release)
          hear(circuit, change._tag === "Opened" && circuit?.isOpen === true)
        }))
      )
    },
    claim: (restore, patience) =>
      Effect.suspend(() => {
        // Of many at once no more ask than there are places: the others are refused without a wait, as by a circuit of one's own.
        if (asking >= probes) return Effect.undefined
        asking += 1
        let claimed: Claim | undefined
        // Noted in the step that brings it, for whoever is interrupted before it comes back.
        const asked = () =>
          Effect.map(effectOf(store.probe(key, probes, lease), "store"), (claim) => {
            if (claim.slot !== undefined) renewAt.set(claim.slot, monotonicMillis(clock) + lease / 3)
            return claimed = claim
          })
        const drop = (claim: Claim | undefined): void => {
          if (claim?.slot !== undefined) release(claim.slot)
        }
        const answer = ask("probe", asked, { patience, late: (claim) => Effect.sync(() => drop(claim)) })
        return Effect.onExit(
          restore(Effect.matchCause(answer, {
            onFailure: () => 0,
            onSuccess: ({ circuit, slot }) => {
              hear(circuit)
              return slot
            }
          })),
          (exit) =>
            Effect.sync(() => {
              asking -= 1
              if (Exit.isFailure(exit)) drop(claimed)
            })
        )
      }),
    renew: (slot, now) => {
      if (now < (renewAt.get(slot) ?? Infinity)) return
      renewAt.set(slot, now + lease / 3)
      aside(ask("renew", () => store.renew(key, slot, lease)))
    },
    release
  }
}
