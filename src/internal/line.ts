// A waiting line in front of something scarce: tokens, permits. Its order is that of `order.ts`: classes, tenants in turn,
// and of one tenant and class the order of arrival. Nobody overtakes because it wants less.
//
// The order does not depend on that in which fibres run. Whoever changes something serves the line on the
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
import { levelOf, Order, type Place, type priorities } from "./order.ts"

/** Milliseconds in a class after which a waiter rises to the next one. */
const AGEING = 30_000

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

/** What the place of a waiter depends on. */
export interface Rank {
  readonly priority?: (typeof priorities)[number] | undefined
  readonly tenant?: string | undefined
  /** It has to leave the line for one of a tenant that has fewer in it. */
  readonly onDisplaced?: (() => void) | undefined
}

export class Waiter<W, A, E> {
  /** What it waits for. */
  readonly wants: W
  readonly rank: Rank
  readonly clock: Clock.Clock
  readonly arrived: number
  readonly bell: Bell
  /** Calls it to keep the time, once it waits for that. */
  call: Bell | undefined
  outcome: Exit.Exit<A, E> | undefined
  /** While it is in line. */
  place: Place<Waiter<W, A, E>> | undefined

  constructor(
    wants: W,
    rank: Rank | undefined,
    clock: Clock.Clock,
    arrived: number,
    fiber: Fiber.Fiber<unknown, unknown>
  ) {
    this.wants = wants
    this.rank = rank ?? {}
    this.clock = clock
    this.arrived = arrived
    this.bell = new Bell(fiber)
  }
}

export interface Rules<W, A, E> {
  /** Looks at the first waiter: either {@link WaitingLine.end}s its wait, or says after how many milliseconds it can. */
  readonly serve: (first: Waiter<W, A, E>, now: number) => number
  /** A waiter has left the line, served or not. */
  readonly left?: (waiter: Waiter<W, A, E>) => void
  /** A waiter has risen, so that others come later. */
  readonly rose?: (waiter: Waiter<W, A, E>) => void
  /** Takes back what was granted to a waiter that was interrupted in the same moment. */
  readonly undo: (granted: A) => void
}

export class WaitingLine<W, A, E> {
  private readonly order: Order<Waiter<W, A, E>>
  private readonly rules: Rules<W, A, E>
  /** One of those in line, whenever there is one. */
  private timekeeper: Waiter<W, A, E> | undefined
  /** Wakes the timekeeper. */
  private alarm: Bell | undefined

  constructor(rules: Rules<W, A, E>) {
    this.rules = rules
    this.order = new Order(AGEING, rules.rose)
  }

  get size(): number {
    return this.order.size
  }

  /** Everybody, whatever the order. Copy it before a wait is ended. */
  *[Symbol.iterator](): Iterator<Waiter<W, A, E>> {
    for (const { value } of this.order) yield value
  }

  /** Is its order that of arrival? */
  get isSimple(): boolean {
    return this.order.isSimple
  }

  /** Would it still be so with somebody of this rank? */
  isSimpleWith({ priority, tenant }: Rank = {}): boolean {
    return this.order.isSimpleWith(levelOf(priority), tenant)
  }

  /** Goes through all, first to last, as things stand. They must not change meanwhile. */
  walk(now: number, visit: (waiter: Waiter<W, A, E>) => void): void {
    this.order.walk(now, ({ value }) => visit(value))
  }

  /**
   * Goes through those who would be served before somebody of this rank who comes now, until `visit` returns `false`. They
   * must not change meanwhile.
   */
  ahead({ priority, tenant }: Rank = {}, now: number, visit: (waiter: Waiter<W, A, E>) => boolean): void {
    const waiter = this.timekeeper
    if (waiter === undefined) return
    // Any value will do: it is gone before anybody sees it.
    const place = this.order.add(waiter, levelOf(priority), tenant, now)
    try {
      this.order.walk(now, (other) => other !== place && visit(other.value))
    } finally {
      this.order.remove(place)
    }
  }

  /** Would somebody leave a full line for one of this rank? */
  canDisplace({ priority, tenant }: Rank = {}): boolean {
    return this.order.last(levelOf(priority), tenant) !== undefined
  }

  /** Makes room for one of this rank at the cost of the tenant that has most in line; says whether there is room now. */
  displace({ priority, tenant }: Rank = {}, error: () => E): boolean {
    const place = this.order.last(levelOf(priority), tenant)
    if (place === undefined) return false
    place.value.rank.onDisplaced?.()
    this.end(place.value, Exit.fail(error()))
    return true
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
    if (waiter.outcome !== undefined) return waiter.outcome
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
    const isFirst = this.first(monotonicMillis(waiter.clock)) === waiter
    this.remove(waiter)
    if (isFirst) this.changed()
  }

  private first(now: number): Waiter<W, A, E> | undefined {
    return this.order.first(now)?.value
  }

  private add(waiter: Waiter<W, A, E>): void {
    const { priority, tenant } = waiter.rank
    waiter.place = this.order.add(waiter, levelOf(priority), tenant, waiter.arrived)
    this.timekeeper ??= waiter
    // Whoever comes first of all may be one who can be served.
    if (this.order.size > 1 && this.first(waiter.arrived) === waiter) this.changed()
  }

  private remove(waiter: Waiter<W, A, E>): void {
    const place = waiter.place!
    waiter.place = undefined
    if (waiter.outcome !== undefined && Exit.isSuccess(waiter.outcome)) this.order.serve(place)
    else this.order.remove(place)
    this.rules.left?.(waiter)
    if (this.timekeeper === waiter) {
      this.timekeeper = this.first(monotonicMillis(waiter.clock))
      this.timekeeper?.call?.ring()
    }
  }

  private untilEnd(waiter: Waiter<W, A, E>): Effect.Effect<void> {
    return Effect.withFiber((fiber) => {
      const millis = this.serve()
      if (waiter.outcome !== undefined) return Effect.void
      const alarm = this.alarm = new Bell(fiber)
      const change = this.isSimple ? Infinity : this.order.nextChange() - monotonicMillis(waiter.clock)
      const sleep = waiter.clock.sleep(Duration.millis(Math.max(Math.ceil(Math.min(millis, change)), 1)))
      return Effect.flatMap(Effect.raceFirst(sleep, alarm.heard), () => this.untilEnd(waiter))
    })
  }

  /** Serves in order until somebody has to wait longer; says how long. */
  private serve(): number {
    // Whoever keeps the time has the time.
    while (this.timekeeper !== undefined) {
      const now = monotonicMillis(this.timekeeper.clock)
      const first = this.first(now)!
      const millis = this.rules.serve(first, now)
      if (first.outcome === undefined) return millis
    }
    return Infinity
  }
}
