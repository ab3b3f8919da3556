// A waiting line in front of something scarce: tokens, permits. First come, first served, nobody overtakes.
//
// The order is that of arrival, whatever the order in which fibres run. Whoever changes something serves the line on the
// spot. How a wait ends is decided by the waiter's `outcome`, set once, in the step that grants or refuses; fibres only
// carry it home. What becomes free by mere time needs a timekeeper: one of the waiters, who keeps the one timer and is
// succeeded by the first in line when it leaves. There is no background fibre. (A semaphore would do as the gate to that
// post, but Effect's looks at everybody who waits whenever one leaves.)
import type * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type * as Fiber from "effect/Fiber"
import * as Latch from "effect/Latch"
import { monotonicMillis } from "./clock.ts"

/** Makes an effect as interruptible as the surroundings of an uninterruptible region. */
export type Restore = <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R>

/** Wakes a fibre through its own dispatcher, so that whoever rings is not kept busy with its work. */
class Bell {
  private readonly latch = Latch.makeUnsafe()
  private readonly fiber: Fiber.Fiber<unknown, unknown>

  constructor(fiber: Fiber.Fiber<unknown, unknown>) {
    this.fiber = fiber
  }

  get heard(): Effect.Effect<void> {
    return this.latch.await
  }

  ring(): void {
    this.fiber.currentDispatcher.scheduleTask(() => this.latch.openUnsafe(), 0)
  }
}

export class Waiter<W, A, E> {
  /** What it waits for. */
  readonly wants: W
  readonly clock: Clock.Clock
  readonly arrived: number
  readonly bell: Bell
  /** Calls it to keep the time, once it waits for that. */
  call: Bell | undefined
  outcome: Exit.Exit<A, E> | undefined
  /** The neighbours, while it is in line. */
  before: Waiter<W, A, E> | undefined
  behind: Waiter<W, A, E> | undefined

  constructor(wants: W, clock: Clock.Clock, arrived: number, fiber: Fiber.Fiber<unknown, unknown>) {
    this.wants = wants
    this.clock = clock
    this.arrived = arrived
    this.bell = new Bell(fiber)
  }
}

export interface Rules<W, A, E> {
  /** Looks at the first waiter: either {@link WaitingLine.end}s its wait, or says after how many milliseconds it can. */
  readonly serve: (first: Waiter<W, A, E>, now: number) => number
  /** A waiter is about to leave the line, served or not. */
  readonly leaving?: (waiter: Waiter<W, A, E>) => void
  /** Takes back what was granted to a waiter that was interrupted in the same moment. */
  readonly undo: (granted: A) => void
}

export class WaitingLine<W, A, E> {
  /** Linked, because a set whose first is deleted again and again searches ever longer for the next. */
  first: Waiter<W, A, E> | undefined
  last: Waiter<W, A, E> | undefined
  size = 0
  private readonly rules: Rules<W, A, E>
  /** One of those in line, whenever there is one. */
  private timekeeper: Waiter<W, A, E> | undefined
  /** Wakes the timekeeper. */
  private alarm: Bell | undefined

  constructor(rules: Rules<W, A, E>) {
    this.rules = rules
  }

  /** First to last. */
  *[Symbol.iterator](): Iterator<Waiter<W, A, E>> {
    for (let waiter = this.first; waiter !== undefined; waiter = waiter.behind) yield waiter
  }

  /** Ends a wait, now and for good. */
  end(waiter: Waiter<W, A, E>, outcome: Exit.Exit<A, E>): void {
    waiter.outcome = outcome
    // Before the next one is called to keep the time, so that they come home in order.
    waiter.bell.ring()
    this.remove(waiter)
  }

  /** Something became free or scarce: serves who can be served; the others' time may have changed. */
  changed(): void {
    this.serve()
    this.alarm?.ring()
  }

  /**
   * Waits until the wait is {@link end}ed, or `meanwhile` fails. Enter in an uninterruptible region; only the wait itself
   * is run in `restore`.
   */
  join(waiter: Waiter<W, A, E>, restore: Restore, meanwhile: Effect.Effect<void, E>): Effect.Effect<A, E> {
    this.add(waiter)
    return Effect.flatMap(
      Effect.exit(restore(Effect.raceFirst(meanwhile, waiter.bell.heard))),
      (exit): Effect.Effect<A, E> => {
        const outcome = waiter.outcome
        if (outcome === undefined) this.leave(waiter)
        else if (!Exit.hasInterrupts(exit)) return outcome
        else if (Exit.isSuccess(outcome)) this.rules.undo(outcome.value)
        // Only a wait that was ended can succeed.
        return exit as Exit.Exit<never, E>
      }
    )
  }

  /** What a waiter does meanwhile when time frees: it keeps the timer, if nobody else does. */
  keepTime(waiter: Waiter<W, A, E>): Effect.Effect<void> {
    return Effect.withFiber((fiber) => {
      if (this.timekeeper === waiter) return this.untilEnd(waiter)
      waiter.call = new Bell(fiber)
      return Effect.flatMap(waiter.call.heard, () => this.untilEnd(waiter))
    })
  }

  private leave(waiter: Waiter<W, A, E>): void {
    const isFirst = this.first === waiter
    this.remove(waiter)
    if (isFirst) this.changed()
  }

  private add(waiter: Waiter<W, A, E>): void {
    waiter.before = this.last
    if (this.last === undefined) this.first = waiter
    else this.last.behind = waiter
    this.last = waiter
    this.timekeeper ??= waiter
    this.size += 1
  }

  private remove(waiter: Waiter<W, A, E>): void {
    this.rules.leaving?.(waiter)
    const { before, behind } = waiter
    if (before === undefined) this.first = behind
    else before.behind = behind
    if (behind === undefined) this.last = before
    else behind.before = before
    waiter.before = waiter.behind = undefined
    this.size -= 1
    if (this.timekeeper === waiter) {
      this.timekeeper = this.first
      this.first?.call?.ring()
    }
  }

  private untilEnd(waiter: Waiter<W, A, E>): Effect.Effect<void> {
    return Effect.withFiber((fiber) => {
      const millis = this.serve()
      if (waiter.outcome !== undefined) return Effect.void
      const alarm = this.alarm = new Bell(fiber)
      const sleep = Effect.raceFirst(waiter.clock.sleep(Duration.millis(millis)), alarm.heard)
      return Effect.flatMap(sleep, () => this.untilEnd(waiter))
    })
  }

  /** Serves in order until somebody has to wait longer; says how long. */
  private serve(): number {
    for (let first = this.first; first !== undefined; first = this.first) {
      const millis = this.rules.serve(first, monotonicMillis(first.clock))
      if (first.outcome === undefined) return millis
    }
    return Infinity
  }
}
