// One target: its settings, what guards it, and how it is doing.
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Ref from "effect/Ref"
import type * as Scope from "effect/Scope"
import { monotonicMillis } from "../internal/clock.ts"
import type { CircuitBreakerOptions } from "../LlmConfig.ts"
import type { Guard } from "../LlmGuard.ts"
import type { LlmProvider } from "../LlmProvider.ts"
import * as Bulkhead from "../resilience/Bulkhead.ts"
import * as CircuitBreaker from "../resilience/CircuitBreaker.ts"
import type { Failover } from "../resilience/Failover.ts"
import * as Hedge from "../resilience/Hedge.ts"
import type { Fleet } from "../resilience/internal/sharedCircuit.ts"
import * as LoadShedder from "../resilience/LoadShedder.ts"
import type * as RateLimiter from "../resilience/RateLimiter.ts"
import * as RetryBudget from "../resilience/RetryBudget.ts"
import type * as Routing from "../resilience/Routing.ts"
import type * as Timeout from "../resilience/Timeout.ts"
import type { Background } from "./background.ts"
import { doors, foreign } from "./guards.ts"
import { measuring } from "./hedge.ts"
import type { Hub } from "./hub.ts"
import { type Counting, countsTokens, inBulkhead, inCircuit, inLimits } from "./patterns.ts"
import type { Router } from "./routing.ts"
import type { CircuitRules, Settings } from "./settings.ts"
import type { MakeLimiter } from "./shared.ts"
import { inThrottle, type Throttle } from "./shedding.ts"

// -----------------------------------------------------------------------------
// settings
// -----------------------------------------------------------------------------

/**
 * What a target can have of its own; absent settings come from the client's options.
 *
 * @category models
 * @since 0.1.0
 */
export interface TargetOptions {
  /**
   * Name in errors, ledgers, metrics and shared state. Default: the provider's id, such as `openai`; where one vendor
   * stands twice, its second target is `openai-2`.
   */
  readonly id?: string | undefined
  /**
   * Logical model name → this target's name; looked up before the provider's own mapping. `"strict"`: the provider's mapping
   * alone, and a request for a name that it does not hold passes this target over (`no-model`).
   */
  readonly models?: Readonly<Record<string, string>> | "strict" | undefined
  /** Asked when a request names no model, or one without a mapping. Default: the provider's. */
  readonly defaultModel?: string | undefined
  /**
   * Tokens of context the target can take: it is passed over where a prompt is surely longer, at four bytes a token,
   * and where one was too long for a larger target. Default: not known.
   */
  readonly contextWindow?: number | undefined
  /** What the target can do; it is passed over by requests that need what is `false`. Default: not known. */
  readonly supports?: Routing.Supports | undefined
  /** Its share of the calls, with `routing: { strategy: "weights" }` and with sticky routing. Default 1. */
  readonly weight?: number | undefined
  /**
   * Limits of this target alone, such as a vendor's requests and tokens per minute. What the vendor says in its headers is
   * left of them, with answers and with failures, lowers them. A list, or with it how long and how many calls may wait:
   * `{ limits: [...], maxWait, queue }`; or a limiter that you have made. Default: none.
   *
   * Tokens are estimated before a call, and settled by what the vendor says of it: those of the prompt at 3.5 bytes a
   * token, or by the `Tokenizer` of `effect/ai` in the surroundings of the client; those of the answer as `maxTokens`, or
   * 1024.
   */
  readonly limits?: ReadonlyArray<RateLimiter.Limit> | RateLimiter.Options | RateLimiter.RateLimiter | undefined
  /** The circuit of this target, or none. Default: as the client's `circuitBreaker` says. */
  readonly circuitBreaker?: CircuitBreakerOptions | CircuitBreaker.CircuitBreaker | false | undefined
  /** The bound of its calls in flight, or none. Default: as the client's `bulkhead` says. */
  readonly bulkhead?: Bulkhead.Options | Bulkhead.Bulkhead | false | undefined
}

/** A provider with its place in the failover order. */
export interface TargetConfig extends TargetOptions {
  readonly id: string
  readonly provider: LlmProvider
}

/**
 * How a target is doing.
 *
 * @category models
 * @since 0.1.0
 */
export interface TargetStatus {
  readonly id: string
  readonly provider: string
  /** With a circuit per model: the one that is furthest from closed. */
  readonly circuit: CircuitBreaker.Status | undefined
  /** Left until the target is asked again after its quota or key failed. */
  readonly coolingDown: Duration.Duration | undefined
  /** Permits in use and calls waiting for one. */
  readonly bulkhead: Bulkhead.Snapshot | undefined
  /** This target's own limits. */
  readonly limits: RateLimiter.Snapshot | undefined
  /** Retries that the budget would pay for now. */
  readonly retryBudget: number | undefined
}

/**
 * How a client is doing. A pattern that is off shows as `undefined`.
 *
 * @category models
 * @since 0.1.0
 */
export interface Status {
  readonly targets: ReadonlyArray<TargetStatus>
  /** The bucket that all targets share. */
  readonly rateLimit: RateLimiter.Snapshot | undefined
}

// -----------------------------------------------------------------------------
// construction
// -----------------------------------------------------------------------------

/** What targets have in common. */
export interface Common<out GE> {
  readonly settings: Settings
  readonly guards: ReadonlyArray<Guard<GE>>
  readonly bucket: RateLimiter.RateLimiter | undefined
  readonly router: Router
  readonly limiter: MakeLimiter
  readonly counting: Counting
  readonly fleet: Fleet | undefined
  readonly hub: Hub
  readonly background: Background
  readonly builtAt: number
}

export type Target<GE> = Effect.Success<ReturnType<typeof make<GE>>>

/** Builds what stands in front of one target. Guards of users come first, before anything is held. */
export const make = <GE>(config: TargetConfig, index: number, common: Common<GE>) =>
  Effect.gen(function*() {
    const { background, bucket, builtAt, guards, settings } = common
    const { hedge, shedding } = settings
    const { id, provider } = config
    const own = settings.targets[index]!
    const bulkhead = own.bulkhead === undefined || Bulkhead.isBulkhead(own.bulkhead)
      ? own.bulkhead
      : Bulkhead.fromPolicy(own.bulkhead)
    const limits = own.limits === undefined ? undefined : yield* common.limiter(`target:${id}`, own.limits)
    const counts = [bucket, limits].some((limiter) => limiter !== undefined && countsTokens(limiter))
    const { guard: counter, tokensOf } = common.counting
    const circuits = own.circuit === undefined ? undefined : yield* circuitsOf(id, own.circuit, common)
    const circuit = circuits === undefined ? undefined : inCircuit(circuits.of)
    const budget = settings.budget === undefined ? undefined : RetryBudget.fromPolicy(settings.budget, builtAt)
    const throttle: Throttle | undefined = shedding?.throttle && new LoadShedder.Throttle(shedding.throttle)
    // Measured only for those who ask.
    const firstContent = hedge?.delay === "p95" ? Hedge.makeSamples() : undefined
    const speed = common.router.measures(index)
    const measured = [
      ...(firstContent === undefined ? [] : [(millis: number) => firstContent.add(millis)]),
      ...(speed === undefined ? [] : [speed])
    ]
    const rules = shedding?.doors && { doors: shedding.doors, isShadow: shedding.isShadow }
    const list = doors(
      ...guards.map((guard) => foreign(guard, background)),
      throttle === undefined ? undefined : inThrottle(throttle, shedding?.isShadow === true),
      counter === undefined || !counts ? undefined : foreign(counter, background),
      measured.length === 0 ? undefined : measuring(measured),
      bulkhead === undefined ? undefined : inBulkhead(bulkhead, rules),
      bucket === undefined ? undefined : inLimits(bucket, "client", rules, tokensOf),
      limits === undefined ? undefined : inLimits(limits, "vendor", rules, tokensOf),
      provider.guard === undefined ? undefined : foreign(provider.guard, background),
      circuit
    )
    return {
      id,
      provider,
      config,
      index,
      budget,
      tokensOf,
      background,
      doors: list,
      circuit,
      circuits,
      bulkhead,
      limits,
      firstContent,
      throttle
    }
  })

/** More models than that are asked by mistake, or by somebody who makes names up. */
export const MAX_CIRCUITS = 100

/** Of those that are closed, else of all, the one whose last use is longest ago. */
const leastNeeded = (
  circuits: ReadonlyMap<string | undefined, CircuitBreaker.CircuitBreaker>
): string | undefined => {
  for (const [model, circuit] of circuits) {
    if (Ref.getUnsafe(circuit.state)._tag === "Closed") return model
  }
  return circuits.keys().next().value
}

interface Circuits {
  readonly of: (model: string | undefined) => CircuitBreaker.CircuitBreaker
  readonly all: () => Iterable<CircuitBreaker.CircuitBreaker>
}

const circuitsOf = <GE>(
  target: string,
  rules: CircuitRules | CircuitBreaker.CircuitBreaker,
  common: Common<GE>
): Effect.Effect<Circuits, never, Scope.Scope> => {
  const changed = ({ from, now, to }: CircuitBreaker.Transition, model?: { readonly model: string }): void =>
    common.hub.publish({ _tag: "CircuitChanged", call: 0, at: now - common.builtAt, target, ...model, from, to })
  if (!CircuitBreaker.isCircuitBreaker(rules)) {
    return Effect.sync(() => ownCircuits(target, rules, common.settings.timers, common.fleet, changed))
  }
  return Effect.as(
    Effect.acquireRelease(
      Effect.sync(() => rules.watchUnsafe((change) => changed(change))),
      (forget) => Effect.sync(forget)
    ),
    { of: () => rules, all: () => [rules] }
  )
}

const ownCircuits = (
  target: string,
  { perModel, policy }: CircuitRules,
  timers: Timeout.Policy | undefined,
  fleet: Fleet | undefined,
  changed: (change: CircuitBreaker.Transition, model?: { readonly model: string }) => void
): Circuits => {
  const make = (model: string | undefined): CircuitBreaker.CircuitBreaker => {
    const name = model === undefined ? undefined : { model }
    return CircuitBreaker.fromPolicy(
      model === undefined ? target : `${target}/${model}`,
      policy,
      (change) => changed(change, name),
      timers?.attempt,
      fleet
    )
  }
  const only = make(undefined)
  // In the order of their last use.
  const circuits = new Map<string | undefined, CircuitBreaker.CircuitBreaker>([[undefined, only]])
  const of = (model: string | undefined): CircuitBreaker.CircuitBreaker => {
    const known = circuits.get(model)
    if (known === undefined && circuits.size >= MAX_CIRCUITS) circuits.delete(leastNeeded(circuits))
    circuits.delete(model)
    const circuit = known ?? make(model)
    circuits.set(model, circuit)
    return circuit
  }
  return { of: perModel ? of : () => only, all: () => circuits.values() }
}

// -----------------------------------------------------------------------------
// status
// -----------------------------------------------------------------------------

const ranks: Readonly<Record<CircuitBreaker.StateName, number>> = {
  closed: 0,
  "forced-closed": 0,
  shadow: 0,
  "half-open": 1,
  open: 2,
  "forced-open": 3
}

const rank = (status: CircuitBreaker.Status | undefined): number => status === undefined ? -1 : ranks[status.state]

export const statusOf = <GE>(target: Target<GE>, failover: Failover): Effect.Effect<TargetStatus> =>
  Effect.gen(function*() {
    const now = monotonicMillis(yield* Clock.Clock)
    const cooling = failover.coolingDown(target.index, now)
    const circuits = target.circuits === undefined ? [] : [...target.circuits.all()]
    return {
      id: target.id,
      provider: target.provider.id,
      circuit: (yield* Effect.forEach(circuits, ({ status }) => status))
        .reduce<CircuitBreaker.Status | undefined>(
          (worst, status) => rank(status) > rank(worst) ? status : worst,
          undefined
        ),
      coolingDown: cooling === undefined ? undefined : Duration.millis(Math.ceil(cooling.until - now)),
      bulkhead: target.bulkhead === undefined ? undefined : yield* target.bulkhead.snapshot,
      limits: target.limits === undefined ? undefined : yield* target.limits.snapshot,
      retryBudget: target.budget === undefined ? undefined : yield* target.budget.balance
    }
  })
