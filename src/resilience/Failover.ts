/**
 * Failover: targets in order, each with its own retries, until one answers.
 *
 * A failure moves the call on only if another provider could do better: never for a request that is wrong, refused
 * content, an interruption or a defect. A target whose quota or key failed is left alone for a while.
 *
 * @since 0.1.0
 */
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import { monotonicMillis } from "../internal/clock.ts"
import { kindOf } from "../internal/issue.ts"
import { attempt, integerIfGiven, list, millis, optionsOf, readOptions } from "../internal/option.ts"
import {
  classify,
  isLocalRefusal,
  isProviderError,
  LlmConfigError,
  type Reason,
  retryAfterMillis,
  type Verdict
} from "../LlmError.ts"
import * as Health from "../persistence/Health.ts"
import type { Store } from "../persistence/Store.ts"
import { race } from "./Hedge.ts"

/**
 * Reasons of a provider's failure for which the call moves on, or does not.
 *
 * @category models
 * @since 0.2.0
 */
export type Reasons = { readonly [K in Reason["_tag"]]?: boolean | undefined }

const features = [
  "frequencyPenalty",
  "presencePenalty",
  "prompt",
  "reasoningEffort",
  "responseFormat",
  "seed",
  "stop",
  "temperature",
  "tools",
  "toolChoice",
  "topK",
  "topP"
] as const

/**
 * A field of a request that not every vendor has a place for. `prompt` is what its messages hold, such as files.
 *
 * @category models
 * @since 0.2.0
 */
export type Feature = typeof features[number]

/**
 * @category models
 * @since 0.1.0
 */
export interface Options {
  /** A hint longer than this moves the call on when another target is healthy. Default 5 seconds. */
  readonly maxRetryAfter?: Duration.Input | undefined
  /** How long a target is skipped after its quota or key failed. Default 10 minutes. */
  readonly coolDown?: Duration.Input | undefined
  /**
   * Which failures of a provider move the call on, by reason, instead of what `LlmError.classify` says:
   * `{ ContentPolicy: true, Server: false }`. Default: the table alone.
   */
  readonly on?: Reasons | undefined
  /** Most attempts of one call over all targets, with retries and hedges. Default: as many as each target's retries allow. */
  readonly maxAttempts?: number | undefined
  /**
   * Fields that are taken as they are asked or not at all: a target that would leave one out, or send it in another way, is
   * passed over (`unsupported`), and where no target takes it the call fails with `InvalidRequest`. Default: none; then
   * what is left out is in the ledger as `RequestAdapted`.
   */
  readonly requireFeatures?: ReadonlyArray<Feature> | undefined
}

const moves = Schema.optional(Schema.Boolean.annotate({ expected: "true or false" }))

const ReasonsSchema = optionsOf<Reasons>()({
  RateLimit: moves,
  Quota: moves,
  Overloaded: moves,
  Server: moves,
  Timeout: moves,
  Conflict: moves,
  Network: moves,
  MalformedResponse: moves,
  Authentication: moves,
  Permission: moves,
  NotFound: moves,
  ContextLength: moves,
  PayloadTooLarge: moves,
  ContentPolicy: moves,
  InvalidRequest: moves,
  ClientClosed: moves,
  Unknown: moves
})

/**
 * The schema of {@link Options}: defaults and rules.
 *
 * @category schemas
 * @since 0.2.0
 */
export const OptionsSchema = optionsOf<Options>()({
  maxRetryAfter: millis("5 seconds"),
  coolDown: millis("10 minutes"),
  on: Schema.optional(ReasonsSchema),
  maxAttempts: integerIfGiven(1),
  requireFeatures: Schema.optional(
    list(
      Schema.Literals(features).annotate({ expected: `one of ${features.join(", ")}` }),
      "a list of fields that is not empty"
    )
  )
})

/**
 * Checked options; durations in milliseconds.
 *
 * @category models
 * @since 0.1.0
 */
export type Policy = typeof OptionsSchema.Type

/**
 * Checks options; throws `LlmConfigError`.
 *
 * @category constructors
 * @since 0.1.0
 */
export const policy = (options?: Options, path = "failover"): Policy => readOptions(OptionsSchema, options, path)

/**
 * Why a target is passed over, until when, and the failure that stands for it.
 *
 * @category models
 * @since 0.1.0
 */
export interface Skip<E> {
  readonly because:
    | "circuit-open"
    | "cooling-down"
    | "rate-limited"
    | "bulkhead-full"
    | "throttled"
    | "no-model"
    | "context-too-small"
    | "guard"
    | "unsupported"
    | "attempts-exhausted"
  /** The name of the guard that refused. */
  readonly guard?: string | undefined
  readonly retryAfter?: number | undefined
  /** For `unsupported`: what of the request the target cannot take. */
  readonly field?: string | undefined
  /** Made only when it is needed. */
  readonly error?: (() => E) | undefined
}

/**
 * What one run needs.
 *
 * @category models
 * @since 0.1.0
 */
export interface Run<A, E, E2, R> {
  /**
   * Tries target number `index`, with its retries. `longestHint()` bounds the `Retry-After` it may wait for; `now` is
   * the moment at which the target was chosen; `open()` counts the targets that could be asked now, this one included:
   * those that share what is left of a deadline.
   */
  readonly attempt: (
    index: number,
    longestHint: () => number,
    now: number,
    open: () => number
  ) => Effect.Effect<A, E, R>
  /**
   * For who knows: the fibre's clock, and what it says at the start. Then the run begins when it is made, not when it is
   * run, so it is to be run once.
   *
   * @internal
   */
  readonly clock?: Clock.Clock | undefined
  /** @internal */
  readonly startedAt?: number | undefined
  /** The targets of this run, first to last. Default: all, as they are listed. */
  readonly order?: ReadonlyArray<number> | undefined
  /** Is it known without a call that the target cannot serve? */
  readonly skip?: ((index: number, now: number) => Skip<E> | undefined) | undefined
  /** Is this target known to take less than another one, which found the request too large? Default: no. */
  readonly isSmaller?: ((index: number, than: number) => boolean) | undefined
  /** Attempts that the call has made or is about to make, for `maxAttempts`. Default: the targets asked. */
  readonly attempts?: (() => number) | undefined
  readonly classify?: ((error: E) => Verdict) | undefined
  /**
   * Was the target not asked at all, because something of ours refused it? `"final"`: then no other would be asked either.
   * Default: a circuit, a bulkhead or a limiter that refused counts as a skip.
   */
  readonly refusal?: ((error: E) => Skip<E> | "final" | undefined) | undefined
  /** Asks a second target while target `index` is slow. Asked after {@link Run.attempt}. Default: no. */
  readonly hedge?: ((index: number) => Hedging<A, E, R> | undefined) | undefined
  readonly onSkip?: ((index: number, skip: Skip<E>, now: number) => void) | undefined
  /** `now`: when `to` is asked. */
  readonly onFailover?: ((from: number, to: number, now: number) => void) | undefined
  /** Every target failed or was skipped, and at least one was asked. */
  readonly allFailed: (failures: ReadonlyArray<{ readonly index: number; readonly error: E }>) => E2
  /** No target was asked. `retryAfter` is the shortest known wait. */
  readonly allUnavailable: (retryAfter: number | undefined) => E2
}

/**
 * A hedge is a step of the walk taken early: one attempt on the next target that could be asked now, or on the same one
 * when there is no other. A target whose hedge failed counts as tried.
 *
 * @category models
 * @since 0.2.0
 */
export interface Hedging<A, E, R> {
  /** Most hedges of this target's turn. */
  readonly maxHedges: number
  /** Milliseconds after which the next one starts; `undefined`: none does. */
  readonly delay: () => number | undefined
  /** One attempt without retries; `undefined` when it cannot be paid. */
  readonly attempt: (index: number, now: number) => Effect.Effect<A, E, R> | undefined
  /** Number `line` (1, 2, …) starts on target `to`. */
  readonly onHedge: (line: number, to: number, now: number) => void
  /** A hedge was due and could not be paid. */
  readonly onSuppressed: (to: number, now: number) => void
  /** Line `line` (0: the target's own) answered first. */
  readonly onWon: (line: number) => void
  /** Line `line` is given up. */
  readonly onLost: (line: number) => void
}

/**
 * @category models
 * @since 0.1.0
 */
export interface Failover {
  readonly policy: Policy
  /** Why the target is skipped now, if it is cooling down. */
  readonly coolingDown: (index: number, now: number) => { readonly until: number; readonly error: unknown } | undefined
  readonly run: <A, E, E2, R>(options: Run<A, E, E2, R>) => Effect.Effect<A, E | E2, R>
}

/**
 * Creates a failover over targets with the given identifiers. Fails when the list is empty or has duplicates.
 *
 * **Details**
 *
 * - The only target of a run is never skipped: its own failure is the answer.
 * - One target asked and none skipped gives its own failure. No target asked gives `allUnavailable`, otherwise
 *   `allFailed` with the failures in order; a skipped target contributes the failure that stands for it.
 * - A target that refuses locally (open breaker, no permit, no token) counts as skipped.
 *
 * **Example** (A primary and a secondary)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { Failover } from "effect-resilient-llm/resilience"
 *
 * const backends = [Effect.fail("primary is down"), Effect.succeed("from the secondary")]
 * const program = Effect.gen(function*() {
 *   const failover = yield* Failover.make(["primary", "secondary"])
 *   return yield* failover.run({
 *     attempt: (i): Effect.Effect<string, string> => backends[i] ?? Effect.die("no such target"),
 *     allFailed: (failures) => `all ${failures.length} failed`,
 *     allUnavailable: () => "none available"
 *   })
 * })
 * await Effect.runPromise(program) // => "from the secondary"
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = (ids: ReadonlyArray<string>, options?: Options): Effect.Effect<Failover, LlmConfigError> =>
  attempt(() => fromPolicy(ids, policy(options)))

/**
 * Where the cool-downs of targets are kept that several processes share, by the identifiers of the targets. `undefined` (the
 * default): each failover knows its own.
 *
 * **Details**
 *
 * Nobody waits for it: what is met is told, and each process looks once a second at the targets that it has asked in the last
 * minute. Without the store each process learns by itself.
 *
 * @category references
 * @since 0.2.0
 */
export const CoolDownStore: Context.Reference<Store<string> | undefined> = Context.Reference<Store<string> | undefined>(
  "effect-resilient-llm/CoolDownStore",
  { defaultValue: () => undefined }
)

/**
 * Like {@link make}, with cool-downs that other processes know as well.
 *
 * @category constructors
 * @since 0.2.0
 */
export const makeShared = (
  ids: ReadonlyArray<string>,
  store: Store<string>,
  options?: Options
): Effect.Effect<Failover, LlmConfigError, Scope.Scope> =>
  Effect.gen(function*() {
    const checked = yield* attempt(() => policy(options))
    const scope = yield* Effect.scope
    const context = yield* Effect.context()
    const fork = Effect.runForkWith(context)
    const health = Health.of(store, () => store.get("ping"), scope)
    const aside = (effect: Effect.Effect<unknown, unknown>): void => {
      fork(Effect.forkIn(Effect.ignoreCause(effect), scope, { startImmediately: true }))
    }
    const clock = yield* Clock.Clock
    const usedAt = new Map<string, number>()
    const looking = new Set<string>()
    const now = (): number => monotonicMillis(clock)
    const ask = (id: string, learn: (until: number) => void) =>
      Effect.map(health.ask("get", Effect.suspend(() => store.get(id))), (entry) => {
        if (entry !== undefined) learn(now() + Number(entry.value) - entry.age)
      })
    const follow = (id: string, learn: (until: number) => void): Effect.Effect<void> =>
      Effect.andThen(
        Effect.andThen(Effect.ignoreCause(ask(id, learn)), Effect.sleep(LOOK)),
        Effect.suspend(() => {
          if (now() - usedAt.get(id)! < IN_USE) return follow(id, learn)
          looking.delete(id)
          return Effect.void
        })
      )
    return yield* attempt(() =>
      fromPolicy(ids, checked, {
        tell: (id) => {
          const { coolDown } = checked
          aside(health.ask("set", Effect.suspend(() => store.set(id, String(coolDown), { ttl: coolDown }))))
        },
        look: (id, now, learn) => {
          usedAt.set(id, now)
          if (looking.has(id)) return
          looking.add(id)
          aside(follow(id, learn))
        }
      })
    )
  })

/** Milliseconds between two looks at one target, and for how long it is looked at after its last use. */
const LOOK = 1000
const IN_USE = 60_000

/** How cool-downs are told to others, and learned from them. */
interface Sharing {
  readonly tell: (id: string) => void
  readonly look: (id: string, now: number, learn: (until: number) => void) => void
}

/** @internal */
export const fromPolicy = (ids: ReadonlyArray<string>, policy: Policy, sharing?: Sharing): Failover => {
  checkIds(ids)
  const cooling = new Map<number, Cooling>()

  const coolingDown: Failover["coolingDown"] = (index, now) => {
    const entry = cooling.get(index)
    return ids.length > 1 && entry !== undefined && entry.until > now ? entry : undefined
  }
  const coolDown = (index: number, now: number, error: unknown): void => {
    cooling.set(index, { until: now + policy.coolDown, error })
    sharing?.tell(ids[index]!)
  }
  const look: Targets["look"] = sharing === undefined || ids.length === 1 ?
    undefined :
    (index, now) =>
      sharing.look(ids[index]!, now, (until) => {
        if (until > (cooling.get(index)?.until ?? -Infinity)) cooling.set(index, { until, error: undefined })
      })
  const targets: Targets = { order: ids.map((_, index) => index), policy, coolingDown, coolDown, look }

  return {
    policy,
    coolingDown,
    run: (options) => {
      const { clock, startedAt } = options
      return clock === undefined || startedAt === undefined
        ? Effect.clockWith((clock) => new Walk(targets, options, clock).from(0, monotonicMillis(clock)))
        : new Walk(targets, options, clock).from(0, startedAt)
    }
  }
}

interface Cooling {
  readonly until: number
  /** Absent where another process met it. */
  readonly error: unknown
}

/** What all runs share. */
interface Targets {
  readonly order: ReadonlyArray<number>
  readonly policy: Policy
  readonly coolingDown: Failover["coolingDown"]
  readonly coolDown: (index: number, now: number, error: unknown) => void
  /** What do others know of a target that may be asked? */
  readonly look: ((index: number, now: number) => void) | undefined
}

/** One run along the targets, and what has gone wrong in it so far. */
class Walk<A, E, E2, R> {
  private readonly targets: Targets
  private readonly options: Run<A, E, E2, R>
  private readonly clock: Clock.Clock
  private readonly order: ReadonlyArray<number>
  /** Where in the order it stands. */
  private at = 0
  private failures: ReadonlyArray<{ readonly index: number; readonly error: E }> = none
  private skips: ReadonlyArray<{ readonly index: number; readonly skip: Skip<E> }> = none
  private tooLargeFor: ReadonlyArray<number> = none
  /** Targets whose hedge has failed. */
  private tried: ReadonlyArray<number> = none
  /** The target asked last. */
  private last: number | undefined
  private asked = 0

  constructor(targets: Targets, options: Run<A, E, E2, R>, clock: Clock.Clock) {
    this.targets = targets
    this.options = options
    this.clock = clock
    this.order = options.order ?? targets.order
  }

  /** Asks the first target that can be asked, from place `at` of the order on. */
  from(at: number, now: number): Effect.Effect<A, E | E2, R> {
    const { options, order, targets } = this
    for (this.at = at; this.at < order.length; this.at++) {
      const target = order[this.at]!
      if (this.tried.includes(target)) continue
      targets.look?.(target, now)
      const skip = this.skip(target, now)
      if (skip === undefined) break
      options.onSkip?.(target, skip, now)
      if (skip !== tooSmall && skip !== spent) this.skips = [...this.skips, { index: target, skip }]
    }
    const target = order[this.at]
    if (target === undefined) return Effect.fail(this.conclude())
    if (this.last !== undefined) options.onFailover?.(this.last, target, now)
    this.last = target
    this.asked += 1
    return Effect.catch(this.ask(target, now), (error) => this.failed(target, error))
  }

  private ask(target: number, now: number): Effect.Effect<A, E, R> {
    const { options } = this
    const attempt = options.attempt(target, () => this.longestHint(), now, () => this.open(now))
    const hedge = options.hedge?.(target)
    if (hedge?.delay() === undefined) return attempt
    // Where the next line goes, and what it is.
    let next: { readonly to: number; readonly attempt: Effect.Effect<A, E, R> } | undefined
    const asked = [target]
    return race<A, E, R>({
      maxHedges: hedge.maxHedges,
      delay: () => hedge.delay(),
      attempt: () => {
        if (next === undefined) return attempt
        const { to } = next
        return Effect.catch(next.attempt, (error) => {
          this.hedgeFailed(to, target, error)
          return Effect.fail(error)
        })
      },
      onWon: (line) => hedge.onWon(line),
      hooks: {
        // What fails before the delay belongs to retry, and to the rest of the walk.
        when: never,
        pay: (now) => {
          const to = this.rival(asked, now)
          const attempt = this.isSpent() ? undefined : hedge.attempt(to, now)
          if (attempt === undefined) {
            hedge.onSuppressed(to, now)
            return false
          }
          next = { to, attempt }
          asked.push(to)
          return true
        },
        onHedge: (line, now) => hedge.onHedge(line, next!.to, now),
        onLost: (line) => hedge.onLost(line)
      }
    })
  }

  /** The next target that could be asked now, or else the one that is asked already. */
  private rival(asked: ReadonlyArray<number>, now: number): number {
    for (const later of this.later()) {
      if (!asked.includes(later) && !this.tried.includes(later) && this.skip(later, now) === undefined) return later
    }
    return asked[0]!
  }

  /** As for any other attempt on the target; but a refusal of ours says nothing about it, so it may still be asked. */
  private hedgeFailed(to: number, from: number, error: E): void {
    const { options, targets } = this
    if ((options.refusal === undefined ? localRefusal(error) : options.refusal(error)) !== undefined) return
    const verdict = this.verdict(error)
    if (verdict.coolDown) targets.coolDown(to, monotonicMillis(this.clock), error)
    if (verdict.failover === "larger") this.tooLargeFor = [...this.tooLargeFor, to]
    if (to === from) return
    this.tried = [...this.tried, to]
    this.failures = [...this.failures, { index: to, error }]
  }

  private failed(target: number, error: E): Effect.Effect<A, E | E2, R> {
    const { options, targets } = this
    const refusal = options.refusal === undefined ? localRefusal(error) : options.refusal(error)
    const now = monotonicMillis(this.clock)
    if (refusal !== undefined) {
      if (refusal === "final" || this.order.length === 1) return Effect.fail(error)
      options.onSkip?.(target, refusal, now)
      this.skips = [...this.skips, { index: target, skip: refusal }]
      return this.from(this.at + 1, now)
    }
    const verdict = this.verdict(error)
    if (verdict.coolDown) targets.coolDown(target, now, error)
    if (verdict.failover === false) return Effect.fail(error)
    this.failures = [...this.failures, { index: target, error }]
    if (verdict.failover === "larger") this.tooLargeFor = [...this.tooLargeFor, target]
    return this.from(this.at + 1, now)
  }

  /** The targets behind the one that is asked. */
  private later(): ReadonlyArray<number> {
    return this.order.slice(this.at + 1)
  }

  /** The table, unless the options say otherwise of this reason. */
  private verdict(error: E): Verdict {
    const { options, targets: { policy } } = this
    return overruled(policy, error, options.classify?.(error) ?? classify(error))
  }

  private isSpent(): boolean {
    const { options, targets: { policy: { maxAttempts } } } = this
    return maxAttempts !== undefined && (options.attempts?.() ?? this.asked) >= maxAttempts
  }

  private skip(target: number, now: number): Skip<E> | undefined {
    const { options } = this
    if (this.last !== undefined && this.isSpent()) return spent
    if (this.tooLargeFor.some((other) => options.isSmaller?.(target, other) === true)) return tooSmall
    return this.unavailable(target, now)
  }

  private unavailable(target: number, now: number): Skip<E> | undefined {
    const { options, targets } = this
    if (this.order.length === 1) return undefined
    const entry = targets.coolingDown(target, now)
    return entry === undefined ? options.skip?.(target, now) : {
      because: "cooling-down",
      retryAfter: Math.ceil(entry.until - now),
      // It was cooled down by this very kind of failure.
      error: entry.error === undefined ? undefined : () => entry.error as E
    }
  }

  /** A hint is worth waiting for unless a later target could serve right now. */
  private longestHint(): number {
    const now = monotonicMillis(this.clock)
    for (const later of this.later()) {
      if (!this.tried.includes(later) && this.unavailable(later, now) === undefined) {
        return this.targets.policy.maxRetryAfter
      }
    }
    return Infinity
  }

  /** Targets from the one that is asked on that could be asked now. */
  private open(now: number): number {
    let count = 1
    for (const later of this.later()) {
      if (!this.tried.includes(later) && this.skip(later, now) === undefined) count += 1
    }
    return count
  }

  private conclude(): E | E2 {
    const { failures, options, skips } = this
    const only = failures[0]
    if (only === undefined) {
      const waits = skips.flatMap(({ skip }) => skip.retryAfter === undefined ? [] : [skip.retryAfter])
      return options.allUnavailable(waits.length === 0 ? undefined : Math.min(...waits))
    }
    if (failures.length === 1 && skips.length === 0) return only.error
    const stand = skips.flatMap(({ index, skip }) => skip.error === undefined ? [] : [{ index, error: skip.error() }])
    const { order } = this
    const all = [...failures, ...stand].toSorted((a, b) => order.indexOf(a.index) - order.indexOf(b.index))
    return options.allFailed(all)
  }
}

/**
 * What a failure means where the options say so of its reason.
 *
 * @internal
 */
export const overruled = ({ on }: Policy, error: unknown, verdict: Verdict): Verdict => {
  if (on === undefined || !isProviderError(error) || !Object.hasOwn(on, error.reason._tag)) return verdict
  const failover = on[error.reason._tag]
  return failover === undefined ? verdict : { ...verdict, failover }
}

const none: ReadonlyArray<never> = []
const never = (): boolean => false
const tooSmall = { because: "context-too-small" } as const
const spent = { because: "attempts-exhausted" } as const

const reasons = {
  CircuitOpen: "circuit-open",
  RateLimited: "rate-limited",
  BulkheadFull: "bulkhead-full",
  // What else is shed does not come here: it does not fail over.
  Shed: "throttled"
} as const

const localRefusal = <E>(error: E): Skip<E> | undefined =>
  isLocalRefusal(error)
    ? { because: reasons[error._tag], retryAfter: retryAfterMillis(error), error: () => error }
    : undefined

/** @internal */
export const checkIds = (ids: ReadonlyArray<string>): void => {
  if (!(ids?.length > 0)) {
    throw new LlmConfigError({ path: "targets", rule: "at least one target", kind: kindOf(ids) })
  }
  ids.forEach((id, i) => {
    if (typeof id !== "string" || id === "") {
      throw new LlmConfigError({ path: `targets[${i}].id`, rule: "a text that is not empty", kind: "missing" })
    }
    if (ids.indexOf(id) !== i) {
      throw new LlmConfigError({ path: `targets[${i}].id`, rule: "unique", kind: "a duplicate" })
    }
  })
}
