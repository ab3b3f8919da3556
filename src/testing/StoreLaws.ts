/**
 * Certification kits: what every implementation of a port of this library must do, as data, and what runs it.
 *
 * Give it the layer of your store. In your own test runner:
 *
 * ```ts
 * it.each(StoreLaws.laws)("$name", (law) => Effect.runPromise(StoreLaws.check(law, { layer: MyStore.layer })))
 * ```
 *
 * @since 0.2.0
 */
import * as Cause from "effect/Cause"
import { Clock } from "effect/Clock"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import { monotonicMillis } from "../internal/clock.ts"
import type { Acquired, Entry, LeaseStore } from "../persistence/Store.ts"
import { SharedStore } from "../persistence/Store.ts"
import type { LimitStore } from "../resilience/internal/buckets.ts"
import type { CircuitChange, CircuitStore, SharedCircuit } from "../resilience/internal/circuits.ts"
import { type CircuitStep, type CircuitVector, circuitVectors } from "./internal/circuitVectors.ts"
import { type LimitStep, type LimitVector, limitVectors } from "./internal/limitVectors.ts"
import { type Step, type Vector, vectors } from "./internal/storeVectors.ts"

// -----------------------------------------------------------------------------
// models
// -----------------------------------------------------------------------------

/**
 * One law: its name, and the steps that show it.
 *
 * @category models
 * @since 0.2.0
 */
export type Law = Vector

/**
 * A store to examine.
 *
 * @category models
 * @since 0.2.0
 */
export interface Subject<E = never> {
  /** An empty store. A function gives one that has the bounds of the law, or `undefined` when there is none such. */
  readonly layer:
    | Layer.Layer<SharedStore, E>
    | ((bounds: Law["bounds"]) => Layer.Layer<SharedStore, E> | undefined)
  /** Another process over the same data. Without it, the laws that need two are skipped. */
  readonly another?: Layer.Layer<SharedStore, E> | undefined
  /**
   * Moves the store's clock, for one whose time a test can move (the memory: `TestClock.adjust`). Without it real time
   * passes: the laws of minutes and days are skipped, ages are compared with a tolerance of half a second, and a law is
   * tried again, with other keys, when the machine stalled for longer than it bears.
   */
  readonly advance?: ((millis: number) => Effect.Effect<void>) | undefined
}

/**
 * A law that the store does not keep: at which step, what was expected, and what came.
 *
 * @category errors
 * @since 0.2.0
 */
export class LawBroken extends Schema.TaggedError<LawBroken>("effect-resilient-llm/LawBroken")("LawBroken", {
  law: Schema.String,
  step: Schema.String,
  expected: Schema.Unknown,
  actual: Schema.Unknown,
  /**
   * In real time: by how many milliseconds the steps came too late, where that is more than the law bears, in each of several
   * tries. Then the store may be right.
   */
  late: Schema.optionalKey(Schema.Number)
}) {
  override get message(): string {
    const found = `"${this.law}", ${this.step}: expected ${inWords(this.expected)}, got ${inWords(this.actual)}`
    return this.late === undefined ?
      found :
      `${found} (in each of ${TRIES} tries the machine stalled, or the store was too \
slow for this law: its steps came ${Math.round(this.late)} ms late)`
  }
}

/** How often a law is tried in real time on a machine that stalls. */
const TRIES = 5

const inWords = (value: unknown): string => value === undefined ? "nothing" : JSON.stringify(value)

/**
 * The laws of a store of values and leases.
 *
 * @category laws
 * @since 0.2.0
 */
export const laws: ReadonlyArray<Law> = vectors

// -----------------------------------------------------------------------------
// running
// -----------------------------------------------------------------------------

/** In real time, one millisecond of a law is twenty. */
const STRETCH = 20
const LONGEST = 50
const TOLERANCE = 500

const needsTwo = (law: Law): boolean => law.steps.some(({ process }) => process !== undefined)
const length = (law: Law): number => law.steps.at(-1)?.at ?? 0

/** How late the steps of a law may come in real time before it says something else: what lives must not have ended. */
const bears = ({ steps }: Law): number =>
  Math.min(
    TOLERANCE,
    ...steps.flatMap((step, i) => {
      const lasts = "ttl" in step ? step.ttl : "lease" in step ? step.lease : Infinity
      return steps.slice(i + 1)
        .map(({ at, key }) => key === step.key ? (step.at + lasts - at) * STRETCH : Infinity)
        .filter((left) => left > 0)
    })
  )

/** Real time, and how well the machine kept it. */
class RealTime {
  /** The longest that a wait took too long. */
  overslept = 0
  private readonly clock: Clock
  private readonly begun: number
  private waited = 0

  constructor(clock: Clock) {
    this.clock = clock
    this.begun = monotonicMillis(clock)
  }

  /** How late all came: what was not waited, and what waits took too long. */
  get late(): number {
    return monotonicMillis(this.clock) - this.begun - this.waited
  }

  /** Not less, also when a timer rings a moment early. */
  wait(millis: number): Effect.Effect<void> {
    this.waited += millis
    const until = monotonicMillis(this.clock) + millis
    const waits: Effect.Effect<void> = Effect.suspend(() => {
      const left = until - monotonicMillis(this.clock)
      if (left > 0) return Effect.andThen(Effect.sleep(Math.ceil(left)), waits)
      this.overslept = Math.max(this.overslept, -left)
      return Effect.void
    })
    return waits
  }
}

/**
 * Does this law say something about such a store? See {@link Subject} for what is skipped.
 *
 * @category running
 * @since 0.2.0
 */
export const applies = <E>(law: Law, subject: Subject<E>): boolean =>
  (!needsTwo(law) || subject.another !== undefined) &&
  (subject.advance !== undefined || length(law) <= LONGEST) &&
  (law.bounds === undefined || (typeof subject.layer === "function" && subject.layer(law.bounds) !== undefined))

const close = (expected: number, actual: unknown, way: 1 | -1): boolean => {
  if (typeof actual !== "number") return false
  const later = way * (actual - expected)
  return later >= -1 && later <= TOLERANCE
}

class Examination {
  private readonly law: Law
  private readonly stores: readonly [LeaseStore<string>, LeaseStore<string> | undefined]
  private readonly advance: (millis: number) => Effect.Effect<void>
  private readonly stretch: number
  /** What other tries left in the store has other keys. */
  private readonly prefix: string
  private readonly leases = new Map<string, number>()
  /** The highest fence of each key. */
  private readonly highest = new Map<string, number>()

  constructor(
    law: Law,
    stores: readonly [LeaseStore<string>, LeaseStore<string> | undefined],
    advance: (millis: number) => Effect.Effect<void>,
    stretch: number,
    prefix: string
  ) {
    this.law = law
    this.stores = stores
    this.advance = advance
    this.stretch = stretch
    this.prefix = prefix
  }

  get run(): Effect.Effect<void, unknown> {
    let now = 0
    return Effect.forEach(this.law.steps, (step, i) => {
      const wait = step.at > now ? this.advance((step.at - now) * this.stretch) : Effect.void
      now = step.at
      return Effect.andThen(wait, this.step(step, `step ${i}: ${step.op} ${step.key} at ${step.at}`))
    }, { discard: true })
  }

  private step(step: Step, where: string): Effect.Effect<unknown, unknown> {
    const store = this.stores[step.process === 2 ? 1 : 0]!
    const key = this.prefix + step.key
    const fence = "by" in step && typeof step.by === "string" ? this.leases.get(step.by) ?? 0 : 0
    const stretched = (millis: number): number => millis * this.stretch
    switch (step.op) {
      case "get":
        return Effect.flatMap(store.get(key), (found) => this.entry(where, step.expect, found))
      case "set":
        return store.set(key, step.value, { ttl: stretched(step.ttl), size: step.size })
      case "remove":
        return store.remove(key)
      case "acquire": {
        const { expect, lease, replacing, takeOver } = step
        return Effect.flatMap(
          this.acquire(store, key, stretched(lease), where, { replacing, takeOver }),
          (acquired) => {
            if (expect === "acquired") {
              if (acquired._tag !== "Acquired") return this.broken(where, expect, acquired)
              this.leases.set(step.by, acquired.fence)
              return Effect.void
            }
            if ("left" in expect) {
              return acquired._tag === "Held" && this.same(expect.left, acquired.left, -1)
                ? Effect.void
                : this.broken(where, expect, acquired)
            }
            return acquired._tag === "Found"
              ? this.entry(where, expect, acquired)
              : this.broken(where, expect, acquired)
          }
        )
      }
      case "race": {
        const all = Array.from({ length: step.by }, () => this.acquire(store, key, stretched(60_000), where))
        return Effect.flatMap(Effect.all(all, { concurrency: "unbounded" }), (found) => {
          const acquired = found.filter(({ _tag }) => _tag === "Acquired").length
          return found.some(({ _tag }) => _tag === "Found")
            ? this.broken(where, "a lease", "a value")
            : this.equal(where, step.acquired, acquired)
        })
      }
      case "renew":
        return this.equals(where, step.expect, store.renew(key, fence, stretched(step.lease)))
      case "complete":
        return this.equals(
          where,
          step.expect,
          store.complete(key, fence, step.value, { ttl: stretched(step.ttl), size: step.size })
        )
      case "release":
        return store.release(key, fence)
    }
  }

  private acquire(
    store: LeaseStore<string>,
    key: string,
    lease: number,
    where: string,
    options?: Parameters<LeaseStore<string>["acquire"]>[2]
  ): Effect.Effect<Acquired<string>, unknown> {
    return Effect.tap(store.acquire(key, lease, options), (acquired) => {
      if (acquired._tag !== "Acquired") return Effect.void
      const highest = this.highest.get(key) ?? 0
      if (!Number.isSafeInteger(acquired.fence) || acquired.fence <= highest) {
        return this.broken(where, `a whole number above ${highest} as fence`, acquired.fence)
      }
      this.highest.set(key, acquired.fence)
      return Effect.void
    })
  }

  private same(expected: number, actual: unknown, way: 1 | -1): boolean {
    return this.stretch === 1 ? expected === actual : close(expected * this.stretch, actual, way)
  }

  private entry(
    where: string,
    expected: Entry<string> | undefined,
    actual: Entry<string> | undefined
  ): Effect.Effect<void, LawBroken> {
    const isSame = expected === undefined || actual === undefined
      ? expected === actual
      : expected.value === actual.value && this.same(expected.age, actual.age, 1)
    return isSame ? Effect.void : this.broken(where, expected, actual)
  }

  private equals(where: string, expected: boolean, effect: Effect.Effect<boolean, unknown>) {
    return Effect.flatMap(effect, (actual) => this.equal(where, expected, actual))
  }

  private equal<A>(where: string, expected: A, actual: A): Effect.Effect<void, LawBroken> {
    return expected === actual ? Effect.void : this.broken(where, expected, actual)
  }

  private broken(step: string, expected: unknown, actual: unknown): Effect.Effect<never, LawBroken> {
    return Effect.fail(new LawBroken({ law: this.law.name, step, expected, actual }))
  }
}

const build = <E>(layer: Layer.Layer<SharedStore, E>): Effect.Effect<LeaseStore<string>, E, Scope.Scope> =>
  Effect.map(Layer.build(Layer.fresh(layer)), (context) => Context.get(context, SharedStore))

/** One try, and how late its steps came, where that is so late that it says nothing of the store. */
const examine = <E>(law: Law, { advance, another, layer }: Subject<E>, tried: number) =>
  Effect.scoped(Effect.gen(function*() {
    const one = yield* build((typeof layer === "function" ? layer(law.bounds) : layer)!)
    const two = another === undefined ? undefined : yield* build(another)
    // Bounds count keys, too. Stores that have them begin empty.
    const prefix = tried === 0 || law.bounds !== undefined ? "" : `${tried}:`
    if (advance !== undefined) {
      return { exit: yield* Effect.exit(new Examination(law, [one, two], advance, 1, prefix).run) }
    }
    const time = new RealTime(yield* Clock)
    const exit = yield* Effect.exit(
      new Examination(law, [one, two], (millis) => time.wait(millis), STRETCH, prefix).run
    )
    const { late, overslept } = time
    // A store that is slow keeps the laws; but what shall have ended has, after so long a wait, in almost any store.
    const stalled = Exit.isSuccess(exit) ? overslept > TOLERANCE : late > bears(law)
    return { exit, late: stalled ? late : undefined }
  }))

/**
 * Checks one law. Fails with {@link LawBroken}, also when the store fails where it must not. A law that does not apply
 * is kept.
 *
 * @category running
 * @since 0.2.0
 */
export const check = <E>(law: Law, subject: Subject<E>): Effect.Effect<void, LawBroken | E> =>
  Effect.gen(function*() {
    if (!applies(law, subject)) return
    for (let tried = 0;; tried++) {
      const { exit, late } = yield* examine(law, subject, tried)
      if (late !== undefined && tried + 1 < TRIES) continue
      const told = late === undefined ? {} : { late }
      if (Exit.isFailure(exit)) {
        const error = Cause.squash(exit.cause)
        const broken = error instanceof LawBroken
          ? error
          : { law: law.name, step: "a step", expected: "an answer", actual: String(error) }
        return yield* Effect.fail(new LawBroken({ ...broken, ...told }))
      }
      if (late === undefined) return
      return yield* Effect.fail(
        new LawBroken({ law: law.name, step: "a wait", expected: "its end in time", actual: "a late one", late })
      )
    }
  })

/**
 * Checks every law that applies. Fails with the first one that is broken.
 *
 * **Example** (The store in memory keeps the laws)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { TestClock } from "effect/testing"
 * import { Store } from "effect-resilient-llm/persistence"
 * import { StoreLaws } from "effect-resilient-llm/testing"
 *
 * const examined = StoreLaws.run(
 *   (bounds) => Store.layerMemory(bounds ?? { maxEntries: 1000 }),
 *   { advance: TestClock.adjust }
 * )
 * const laws = await Effect.runPromise(Effect.provide(examined, TestClock.layer()))
 * laws > 20 // => true
 * ```
 *
 * @category running
 * @since 0.2.0
 */
export const run = <E>(
  layer: Subject<E>["layer"],
  options?: Omit<Subject<E>, "layer">
): Effect.Effect<number, LawBroken | E> => {
  const subject: Subject<E> = { layer, ...options }
  const applicable = laws.filter((law) => applies(law, subject))
  return Effect.as(Effect.forEach(applicable, (law) => check(law, subject), { discard: true }), applicable.length)
}

// -----------------------------------------------------------------------------
// limits
// -----------------------------------------------------------------------------

/**
 * One law of a store of limits.
 *
 * @category models
 * @since 0.2.0
 */
export type LimitLaw = LimitVector

/**
 * A store of limits to examine: an empty one each time it is run, and what moves its clock. There is no way to examine one
 * in real time, because all its moments are exact.
 *
 * @category models
 * @since 0.2.0
 */
export interface LimitSubject<E = never> {
  readonly store: Effect.Effect<LimitStore, E, Scope.Scope>
  readonly advance: (millis: number) => Effect.Effect<void>
}

/**
 * The laws of a store of limits.
 *
 * @category laws
 * @since 0.2.0
 */
export const limitLaws: ReadonlyArray<LimitLaw> = limitVectors

const sameLevel = (expected: number, actual: number | undefined): boolean =>
  actual !== undefined && Math.abs(expected - actual) <= 1e-6 * Math.max(1, Math.abs(expected))

const sameLevels = (expected: ReadonlyArray<number>, actual: ReadonlyArray<number>): boolean =>
  expected.length === actual.length && expected.every((level, i) => sameLevel(level, actual[i]))

const limitStep = (
  store: LimitStore,
  law: LimitLaw,
  step: LimitStep,
  broken: (expected: unknown, actual: unknown) => Effect.Effect<never, LawBroken>
): Effect.Effect<void, unknown> => {
  const key = "k"
  const limits = step.limits ?? law.limits
  switch (step.op) {
    case "reserve": {
      const { costs, expect, extra, instance, maxWait = Infinity } = step
      return Effect.flatMap(store.reserve({ key, limits, costs, maxWait, extra, instance }), (actual) => {
        const isSame = "wait" in expect
          ? actual._tag === "Granted" && actual.wait === expect.wait && actual.extra === (expect.extra ?? 0) &&
            actual.instances === expect.instances
          : actual._tag === "Refused" && actual.retryAfter === expect.retryAfter && actual.binding === expect.binding
        return isSame ? Effect.void : broken(expect, actual)
      })
    }
    case "race": {
      const one = store.reserve({ key, limits, costs: step.costs, maxWait: 0 })
      return Effect.flatMap(
        Effect.all(Array.from({ length: step.by }, () => one), { concurrency: "unbounded" }),
        (all) => {
          const granted = all.filter(({ _tag }) => _tag === "Granted").length
          return granted === step.granted ? Effect.void : broken(step.granted, granted)
        }
      )
    }
    case "settle": {
      const { atMost, back, block, early } = step
      return store.settle({ key, limits, atMost, back, block, early })
    }
    case "snapshot":
      return Effect.flatMap(store.snapshot(key, limits), (actual) => {
        const { blockedFor = actual.blockedFor, levels } = step
        return sameLevels(levels, actual.levels) && sameLevels(blockedFor, actual.blockedFor)
          ? Effect.void
          : broken({ levels, blockedFor }, actual)
      })
  }
}

/**
 * Checks one law of a store of limits. Fails with {@link LawBroken}.
 *
 * @category running
 * @since 0.2.0
 */
export const checkLimits = <E>(
  law: LimitLaw,
  { advance, store }: LimitSubject<E>
): Effect.Effect<void, LawBroken | E> =>
  Effect.scoped(
    Effect.flatMap(store, (store) => inTurn(law, advance, (step, broken) => limitStep(store, law, step, broken)))
  )

type Broken = (expected: unknown, actual: unknown) => Effect.Effect<never, LawBroken>

/** The steps of a law, each at its moment. */
const inTurn = <Step extends { readonly at: number; readonly op: string }>(
  law: { readonly name: string; readonly steps: ReadonlyArray<Step> },
  advance: (millis: number) => Effect.Effect<void>,
  take: (step: Step, broken: Broken) => Effect.Effect<void, unknown>
): Effect.Effect<void, LawBroken> => {
  let now = 0
  return Effect.forEach(law.steps, (step, i) => {
    const wait = step.at > now ? advance(step.at - now) : Effect.void
    now = step.at
    const where = `step ${i}: ${step.op} at ${step.at}`
    const broken: Broken = (expected, actual) =>
      Effect.fail(new LawBroken({ law: law.name, step: where, expected, actual }))
    return Effect.andThen(
      wait,
      Effect.catchCause(take(step, broken), (cause) => {
        const error = Cause.squash(cause)
        return error instanceof LawBroken ? Effect.fail(error) : broken("an answer", String(error))
      })
    )
  }, { discard: true })
}

// -----------------------------------------------------------------------------
// circuits
// -----------------------------------------------------------------------------

/**
 * One law of a store of circuits.
 *
 * @category models
 * @since 0.2.0
 */
export type CircuitLaw = CircuitVector

/**
 * A store of circuits to examine: an empty one each time it is run, and what moves its clock.
 *
 * @category models
 * @since 0.2.0
 */
export interface CircuitSubject<E = never> {
  readonly store: Effect.Effect<CircuitStore, E, Scope.Scope>
  readonly advance: (millis: number) => Effect.Effect<void>
}

/**
 * The laws of a store of circuits.
 *
 * @category laws
 * @since 0.2.0
 */
export const circuitLaws: ReadonlyArray<CircuitLaw> = circuitVectors

const circuitStep = (
  store: CircuitStore,
  slots: Map<string, number>,
  generations: Map<string, number>,
  step: CircuitStep,
  broken: Broken
): Effect.Effect<void, unknown> => {
  const { key = "k" } = step
  const slotOf = (name: string): number => slots.get(name) ?? 0
  const sees = (
    expected: Omit<SharedCircuit, "generation"> | undefined,
    actual: SharedCircuit | undefined,
    changes = false
  ): Effect.Effect<void, LawBroken> => {
    const before = generations.get(key) ?? 0
    if (expected === undefined || actual === undefined) {
      return expected === actual ? Effect.void : broken(expected, actual)
    }
    const { generation, ...rest } = actual
    generations.set(key, generation)
    const isSame = Object.entries(expected).every(([field, value]) => rest[field as keyof typeof rest] === value)
    if (!isSame) return broken(expected, actual)
    return (changes ? generation > before : generation === before)
      ? Effect.void
      : broken(changes ? `a generation above ${before}` : `the generation ${before}`, generation)
  }
  switch (step.op) {
    case "trip": {
      const change: CircuitChange = step.change._tag === "Closed"
        ? { _tag: "Closed", slot: slotOf(step.change.slot) }
        : step.change
      return Effect.flatMap(store.trip(key, change), (actual) => sees(step.circuit, actual, step.changes))
    }
    case "look":
      return Effect.flatMap(store.look(key), (actual) => sees(step.circuit, actual))
    case "probe":
      return Effect.flatMap(store.probe(key, step.slots ?? 1, step.lease), ({ slot }) => {
        if ((slot === undefined) !== (step.slot === undefined)) return broken(step.slot, slot)
        if (slot === undefined || step.slot === undefined) return Effect.void
        if (!Number.isSafeInteger(slot) || slot <= 0 || [...slots.values()].includes(slot)) {
          return broken("a whole number that no other slot has", slot)
        }
        slots.set(step.slot, slot)
        return Effect.void
      })
    case "race":
      return Effect.flatMap(
        Effect.all(Array.from({ length: step.by }, () => store.probe(key, step.slots, 1000)), {
          concurrency: "unbounded"
        }),
        (all) => {
          const granted = all.filter(({ slot }) => slot !== undefined).length
          return granted === step.granted ? Effect.void : broken(step.granted, granted)
        }
      )
    case "renew":
      return store.renew(key, slotOf(step.slot), step.lease)
    case "release":
      return store.release(key, slotOf(step.slot))
  }
}

/**
 * Checks one law of a store of circuits. Fails with {@link LawBroken}.
 *
 * @category running
 * @since 0.2.0
 */
export const checkCircuits = <E>(
  law: CircuitLaw,
  { advance, store }: CircuitSubject<E>
): Effect.Effect<void, LawBroken | E> =>
  Effect.scoped(Effect.flatMap(store, (store) => {
    const slots = new Map<string, number>()
    const generations = new Map<string, number>()
    return inTurn(law, advance, (step, broken) => circuitStep(store, slots, generations, step, broken))
  }))
