/**
 * Whether a store answers, and the limits of waiting for it.
 *
 * A store that is down, slow or hung must never fail a call or hold it up. So nobody waits for one operation longer than
 * 100 ms; after a first wait in vain (or three failures in a row) the store counts as down and is not asked at all, until
 * a question of our own in the background is answered.
 *
 * @since 0.2.0
 */
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type * as Fiber from "effect/Fiber"
import type * as Scope from "effect/Scope"
import { monotonicMillis } from "../internal/clock.ts"
import { effectOf } from "../internal/effect.ts"
import { type Operation, StoreError } from "./Store.ts"

/**
 * A store went down or came back. `operation`: what was waited for in vain.
 *
 * @category models
 * @since 0.2.0
 */
export interface HealthChange {
  readonly store: string
  readonly to: "up" | "down"
  readonly operation?: Operation | undefined
  /** Monotonic milliseconds. */
  readonly now: number
}

/**
 * What is known of one store, shared by all that use it.
 *
 * @category models
 * @since 0.2.0
 */
export interface Health {
  /** Names the store in events and metrics: `redis`, `sqlite`, `sql`, `store`. */
  readonly name: string
  readonly isUp: () => boolean
  /** Listens until the function it returns is called. What a listener throws is dropped. */
  readonly watch: (listener: (change: HealthChange) => void) => () => void
  /**
   * Asks the store, and waits for at most `limit` milliseconds (default 100), and no longer than `patience` lasts. The
   * operation itself is not interrupted, for it may have reached the store: what it brings when nobody waits any more is
   * given to `late`. Only who has waited for the whole 100 ms in vain says that the store is down.
   */
  readonly ask: <A>(
    operation: Operation,
    self: Effect.Effect<A, StoreError>,
    options?: {
      readonly late?: ((value: A) => Effect.Effect<unknown, StoreError>) | undefined
      readonly limit?: number | undefined
      readonly patience?: Patience | undefined
    }
  ) => Effect.Effect<A, StoreError>
}

/**
 * What one call still waits for stores: what is asked on its behalf draws on it. When it is used up, nothing is waited for any
 * more: what must reach the store is still sent.
 *
 * @category models
 * @since 0.2.0
 */
export interface Patience {
  /** Milliseconds. */
  left: number
}

/**
 * @category models
 * @since 0.2.0
 */
export interface HealthOptions {
  readonly name: string
  /** The cheapest question there is. */
  readonly ping: Effect.Effect<unknown, unknown>
  /**
   * With a scope, a store that is down is pinged at once, and then once a second until it answers. Without one it is pinged at most once a
   * second, when somebody would have asked it.
   */
  readonly scope?: Scope.Scope | undefined
}

/** Milliseconds that one operation is waited for, and that all operations of one call are. */
export const OPERATION_LIMIT = 100
/** @internal */
export const CALL_LIMIT = 150

/** @internal */
export const makePatience = (): Patience => ({ left: CALL_LIMIT })
const PROBE_INTERVAL = 1000
/** Failures in a row that bring a store down. In vain is enough once. */
const FAILURES = 3

/**
 * @category constructors
 * @since 0.2.0
 */
export const make = (options: HealthOptions): Health => new Watched(options)

class Watched implements Health {
  readonly name: string
  private readonly ping: Effect.Effect<unknown, unknown>
  private readonly scope: Scope.Scope | undefined
  private readonly listeners = new Set<(change: HealthChange) => void>()
  /** `trying`: a ping was answered, so operations are let through again; the first one that succeeds ends it. */
  private state: "up" | "down" | "trying" = "up"
  private failures = 0
  private probing = false
  private nextProbe = 0

  constructor({ name, ping, scope }: HealthOptions) {
    this.name = name
    this.ping = ping
    this.scope = scope
  }

  readonly isUp = (): boolean => this.state !== "down"

  readonly watch: Health["watch"] = (listener) => {
    this.listeners.add(listener)
    return () => {
      this.listeners.delete(listener)
    }
  }

  readonly ask: Health["ask"] = (operation, self, options) =>
    Effect.withFiber((fiber) => {
      const clock = fiber.getRef(Clock.Clock)
      if (this.state === "down") {
        this.probe(fiber, clock)
        return Effect.fail(new StoreError({ operation, reason: "down" }))
      }
      const { late, limit: most = OPERATION_LIMIT, patience } = options ?? {}
      const limit = Math.min(most, Math.max(0, patience?.left ?? Infinity))
      const wait = { fiber, clock, limit, late, patience }
      return waitFor(self, wait, (exit) => {
        if (exit !== undefined) {
          this.heard(operation, exit, fiber, clock)
          return exit
        }
        if (limit >= OPERATION_LIMIT) this.fell(operation, fiber, clock)
        return Exit.fail(new StoreError({ operation, reason: "timeout" }))
      })
    })

  private heard(
    operation: Operation,
    exit: Exit.Exit<unknown, StoreError>,
    fiber: Fiber.Fiber<unknown, unknown>,
    clock: Clock.Clock
  ): void {
    if (Exit.isSuccess(exit)) {
      this.failures = 0
      if (this.state !== "trying") return
      this.state = "up"
      this.tell({ store: this.name, to: "up", now: monotonicMillis(clock) })
    } else if (!isRefusal(exit)) {
      this.failures += 1
      if (this.failures >= FAILURES || this.state === "trying") this.fell(operation, fiber, clock)
    }
  }

  private fell(operation: Operation, fiber: Fiber.Fiber<unknown, unknown>, clock: Clock.Clock): void {
    const before = this.state
    if (before === "down") return
    this.state = "down"
    this.failures = 0
    const now = monotonicMillis(clock)
    this.nextProbe = now + PROBE_INTERVAL
    if (before === "up") this.tell({ store: this.name, to: "down", operation, now })
    if (this.scope !== undefined) this.probe(fiber, clock, before === "up")
  }

  /** Starts to find out whether it answers again. */
  private probe(fiber: Fiber.Fiber<unknown, unknown>, clock: Clock.Clock, atOnce = false): void {
    if (this.probing || (this.scope === undefined && monotonicMillis(clock) < this.nextProbe)) return
    this.probing = true
    const once = Effect.map(
      Effect.exit(
        Effect.withFiber((fiber) =>
          waitFor(this.ping, { fiber, clock, limit: OPERATION_LIMIT }, (exit) => exit ?? Exit.fail(""))
        )
      ),
      (exit) => {
        if (Exit.isSuccess(exit)) this.state = "trying"
        this.nextProbe = monotonicMillis(clock) + PROBE_INTERVAL
      }
    )
    const untilUp: Effect.Effect<void> = Effect.flatMap(
      Effect.andThen(Effect.sleep(PROBE_INTERVAL), once),
      () => this.state === "down" ? untilUp : Effect.void
    )
    // It may only have been out of breath.
    const first = atOnce ? Effect.flatMap(once, () => this.state === "down" ? untilUp : Effect.void) : untilUp
    const probing = Effect.onExit(this.scope === undefined ? once : first, () =>
      Effect.sync(() => {
        this.probing = false
      }))
    Effect.runForkWith(fiber.context)(
      this.scope === undefined ? probing : Effect.asVoid(Effect.forkIn(probing, this.scope))
    )
  }

  private tell(change: HealthChange): void {
    for (const listener of this.listeners) {
      try {
        listener(change)
      } catch {
        // A listener must not break the store.
      }
    }
  }
}

/**
 * The health of a store for who asks it: the store's own, or one of the asker's.
 *
 * @internal
 */
export const of = (
  store: { readonly health?: Health | undefined },
  ping: () => Effect.Effect<unknown, unknown>,
  scope: Scope.Scope | undefined
): Health =>
  store.health === undefined
    ? make({ name: "store", ping: Effect.suspend(ping), scope })
    : trusted(store.health)

/**
 * A health is anybody's code, too: what it throws, or returns in the place of an effect, is a defect of the operation, and
 * who cannot say that the store is up says that it is not.
 *
 * @internal
 */
export const trusted = (health: Health): Health => {
  if (health instanceof Watched || health instanceof Foreign) return health
  const known = foreign.get(health)
  if (known !== undefined) return known
  const made = new Foreign(health)
  foreign.set(health, made)
  return made
}

const foreign = new WeakMap<Health, Health>()

class Foreign implements Health {
  private readonly health: Health

  constructor(health: Health) {
    this.health = health
  }

  get name(): string {
    return this.health.name
  }

  readonly isUp = (): boolean => {
    try {
      return this.health.isUp()
    } catch {
      return false
    }
  }

  readonly watch: Health["watch"] = (listener) => {
    try {
      return this.health.watch(listener)
    } catch {
      return () => {}
    }
  }

  readonly ask: Health["ask"] = (operation, self, options) =>
    Effect.suspend(() => effectOf(this.health.ask(operation, self, options), "health"))
}

/** Is it about the value, and not about the store? */
const isRefusal = (exit: Exit.Failure<unknown, StoreError>): boolean =>
  exit.cause.reasons.every((reason) => reason._tag === "Fail" && reason.error.reason === "too-large")

interface Wait<A> {
  readonly fiber: Fiber.Fiber<unknown, unknown>
  readonly clock: Clock.Clock
  readonly limit: number
  readonly late?: ((value: A) => Effect.Effect<unknown, unknown>) | undefined
  readonly patience?: Patience | undefined
}

/**
 * Runs an operation in a fibre of its own and waits for it for so long. `decide` makes the result of how it ended, or of
 * `undefined` when nobody waits any more.
 */
const waitFor = <A, E, B, E2>(
  self: Effect.Effect<A, E>,
  { clock, fiber, late, limit, patience }: Wait<A>,
  decide: (exit: Exit.Exit<A, E> | undefined) => Exit.Exit<B, E2>
): Effect.Effect<B, E2> =>
  Effect.callback<B, E2>((resume) => {
    const run = Effect.runForkWith(fiber.context)
    const child = run(Effect.suspend(() => self), { uninterruptible: true })
    const done = child.pollUnsafe()
    if (done !== undefined) return resume(decide(done))
    const timer = run(awake(clock, limit, patience))
    const forget = child.addObserver((exit) => {
      timer.interruptUnsafe()
      resume(decide(exit))
    })
    const leave = (): void => {
      forget()
      if (late !== undefined) {
        child.addObserver((exit) => {
          if (Exit.isSuccess(exit)) run(Effect.ignoreCause(Effect.suspend(() => late(exit.value))))
        })
      }
    }
    timer.addObserver((exit) => {
      if (Exit.isFailure(exit)) return
      leave()
      resume(decide(undefined))
    })
    return Effect.sync(() => {
      timer.interruptUnsafe()
      leave()
    })
  })

/**
 * So many milliseconds, as a process knows them that is awake: time in which it was busy or not running counts as one slice
 * at most, and after each slice what has arrived is read first. Else a process that is short of time would find every store
 * slow. What has passed is taken from the patience, also when the wait ends before.
 *
 * @internal
 */
export const awake = (clock: Clock.Clock, millis: number, patience?: Patience): Effect.Effect<void> => {
  const slice = millis / SLICES
  const wait = (left: number): Effect.Effect<void> => {
    const begun = monotonicMillis(clock)
    const passed = Effect.onExit(clock.sleep(Duration.millis(slice)), () => {
      if (patience !== undefined) patience.left -= Math.min(slice, monotonicMillis(clock) - begun)
      return Effect.void
    })
    return Effect.flatMap(passed, () => left > 1 ? wait(left - 1) : Effect.yieldNow)
  }
  return millis > 0 ? Effect.suspend(() => wait(SLICES)) : Effect.yieldNow
}

const SLICES = 4
