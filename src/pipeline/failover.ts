// Failover: the next target, when another provider could do better.
import type { Clock } from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import {
  AllProvidersFailed,
  AllProvidersUnavailable,
  type InvalidRequest,
  isLlmError,
  retryAfterMillis,
  type TargetError,
  type Verdict,
  withoutStack
} from "../LlmError.ts"
import type { Refusal } from "../LlmGuard.ts"
import type * as Failover from "../resilience/Failover.ts"
import type * as Hedge from "../resilience/Hedge.ts"
import type * as Routing from "../resilience/Routing.ts"
import type { Call } from "./call.ts"
import { type Rival, Turn } from "./hedge.ts"
import { hasNoModel, missedBy, modelAt, Needs, type Place, refusedBy, requestFor, unfitAt } from "./request.ts"
import { type Retrying, verdictOf } from "./retry.ts"
import type { Route } from "./routing.ts"
import type { Served, Stage } from "./stage.ts"

/** A target in the order, and the stage that asks it. */
export interface Candidate<out E> extends Place, Rival<E> {
  readonly circuit: {
    readonly peek: (request: Call["request"], now: number) => Refusal<E> | undefined
  } | undefined
  readonly stage: Retrying<E>
}

type Targets<E> = readonly [Candidate<E>, ...ReadonlyArray<Candidate<E>>]
type Exhausted = AllProvidersFailed | AllProvidersUnavailable
const nothing: ReadonlyArray<Failover.Feature> = []

/** `isOn: false`: each call has the first target of its route only. */
export const failedOver =
  (failover: Failover.Failover, isOn: boolean, hedge: Hedge.Policy | undefined, route: Route) =>
  <E>(targets: Targets<E>): Stage<E | Exhausted | InvalidRequest> => {
    const { policy } = failover
    const { requireFeatures: required = nothing } = policy
    const insists = required.length > 0 || targets.some(({ config }) => config.models === "strict")
    const orderOf: Route = isOn ? route : (call, now) => [route(call, now)?.[0] ?? 0]

    const asked = (call: Call, now: number, order: Routing.Order | undefined): Effect.Effect<Served, E | Exhausted> => {
      if (hedge !== undefined) return failover.run(new HedgedWalk(targets, order, call, now, policy, hedge))
      if (isOn) return failover.run(new Walk(targets, order, call, now, policy))
      const target = targets[order?.[0] ?? 0]!
      return target.stage(call.at(requestFor(call, target, now), call.deadline, now), now)
    }
    if (!insists) return (call, now) => asked(call, now, orderOf(call, now))
    return (call, now) => {
      const order = orderOf(call, now)
      const places = order === undefined ? targets : order.map((index) => targets[index]!)
      const refused = refusedBy(places, call.request, required)
      return refused === undefined ? asked(call, now, order) : Effect.fail(refused)
    }
  }

/** One call's way along the targets. */
class Walk<E> implements Failover.Run<Served, E, Exhausted, never> {
  protected readonly targets: Targets<E>
  protected readonly call: Call
  protected readonly policy: Failover.Policy
  readonly order: ReadonlyArray<number> | undefined
  readonly clock: Clock
  readonly startedAt: number
  private readonly needs: Needs

  constructor(
    targets: Targets<E>,
    order: ReadonlyArray<number> | undefined,
    call: Call,
    now: number,
    policy: Failover.Policy
  ) {
    this.targets = targets
    this.policy = policy
    this.order = order
    this.call = call
    this.clock = call.root.clock
    this.startedAt = now
    this.needs = new Needs(call.request)
  }

  attempt(index: number, longestHint: () => number, now: number, open: () => number): Effect.Effect<Served, E> {
    const { call } = this
    const candidate = this.targets[index]!
    const { deadline } = call
    // Without a deadline there is nothing to divide.
    const share = deadline.end === Infinity ? deadline : deadline.share(now, open())
    const asked = call.at(requestFor(call, candidate, now), share, now)
    this.asking(index, asked)
    return candidate.stage(asked, now, longestHint)
  }

  protected asking(_index: number, _asked: Call): void {}

  /** Every line that may have failed with what is to be judged. */
  protected get lines(): ReadonlyArray<Call> {
    return [this.call]
  }

  attempts(): number {
    return this.call.root.counted()
  }

  skip(index: number, now: number): Failover.Skip<E> | undefined {
    const { call: { request }, needs, policy: { requireFeatures: required = nothing } } = this
    const candidate = this.targets[index]!
    if (hasNoModel(candidate, request)) return { because: "no-model" }
    const field = missedBy(candidate, request, required)
    if (field !== undefined) return { because: "unsupported", field }
    const unfit = unfitAt(candidate, request, needs)
    // Where nobody can be asked this, the first one says so.
    if (unfit !== undefined && this.others.some((other) => unfitAt(other, request, needs) === undefined)) {
      return unfit
    }
    if (candidate.circuit === undefined) return undefined
    const model = modelAt(candidate, request)
    const refusal = candidate.circuit.peek(model === undefined ? request : { ...request, model }, now)
    return refusal && { because: "circuit-open", retryAfter: refusal.retryAfter, error: refusal.error }
  }

  /** The targets of this call. */
  private get others(): ReadonlyArray<Candidate<E>> {
    return this.order === undefined ? this.targets : this.order.map((index) => this.targets[index]!)
  }

  isSmaller(index: number, than: number): boolean {
    const largest = this.targets[than]?.config.contextWindow
    return largest !== undefined && (this.targets[index]?.config.contextWindow ?? Infinity) < largest
  }

  classify(error: E): Verdict {
    return verdictOf(this.lines.find(({ books }) => books.failed?.error === error) ?? this.call, error)
  }

  /** A local refusal says nothing about the target: it counts as passed over, if its guard says so. */
  refusal(error: E): Failover.Skip<E> | "final" | undefined {
    const refused = this.lines.find(({ books }) => books.refused?.error === error)?.books.refused
    if (refused === undefined) return undefined
    if (!refused.failover) return "final"
    const retryAfter = retryAfterMillis(error)
    return refused.by === "guard"
      ? { because: "guard", guard: refused.guard, retryAfter }
      : { because: reasons[refused.by], retryAfter, error: () => error }
  }

  onSkip(index: number, { because, field, guard, retryAfter }: Failover.Skip<E>, now: number): void {
    const { root } = this.call
    root.emit({
      _tag: "TargetSkipped",
      call: root.id,
      at: root.since(now),
      target: this.targets[index]!.config.id,
      because,
      ...(guard === undefined ? undefined : { guard }),
      ...(field === undefined ? undefined : { field }),
      ...(retryAfter === undefined ? undefined : { retryAfter })
    })
  }

  onFailover(from: number, to: number, now: number): void {
    const { root } = this.call
    const [before, after] = [this.targets[from]!.config.id, this.targets[to]!.config.id]
    root.emit({ _tag: "FailedOver", call: root.id, at: root.since(now), from: before, to: after })
  }

  allFailed(failures: ReadonlyArray<{ readonly index: number; readonly error: E }>): Exhausted {
    const known = failures.flatMap(({ error, index }) =>
      isTargetError(error) ? [[this.targets[index]!.config.id, error] as const] : []
    )
    const [first, ...others] = known
    return first === undefined ? this.allUnavailable(undefined) : withoutStack(() =>
      new AllProvidersFailed({
        targets: [first[0], ...others.map(([id]) => id)],
        errors: [first[1], ...others.map(([, error]) => error)]
      })
    )
  }

  allUnavailable(retryAfter: number | undefined): Exhausted {
    const hint = retryAfter === undefined ? {} : { retryAfter: Duration.millis(retryAfter) }
    return withoutStack(() => new AllProvidersUnavailable(hint))
  }
}

/** A walk that takes its next step early while a target is slow. */
class HedgedWalk<E> extends Walk<E> {
  private readonly rule: Hedge.Policy
  private turn: Turn<E> | undefined

  constructor(
    targets: Targets<E>,
    order: ReadonlyArray<number> | undefined,
    call: Call,
    now: number,
    policy: Failover.Policy,
    hedge: Hedge.Policy
  ) {
    super(targets, order, call, now, policy)
    this.rule = hedge
  }

  hedge(): Turn<E> | undefined {
    return this.turn
  }

  protected override asking(index: number, asked: Call): void {
    const { call, policy: { maxAttempts }, rule, targets } = this
    this.turn = new Turn(rule, targets, index, asked, (to, now) => requestFor(call, targets[to]!, now), maxAttempts)
  }

  protected override get lines(): ReadonlyArray<Call> {
    return this.turn?.calls ?? [this.call]
  }
}

const reasons = {
  "circuit-breaker": "circuit-open",
  bulkhead: "bulkhead-full",
  "rate-limit": "rate-limited",
  throttle: "throttled"
} as const

const targetErrors: ReadonlyArray<string> = [
  "ProviderError",
  "AttemptTimeout",
  "CircuitOpen",
  "RateLimited",
  "BulkheadFull",
  "Shed"
] satisfies ReadonlyArray<TargetError["_tag"]>

/** The errors that `AllProvidersFailed` lists. */
const isTargetError = (error: unknown): error is TargetError => isLlmError(error) && targetErrors.includes(error._tag)
