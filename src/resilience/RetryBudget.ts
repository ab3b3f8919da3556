/**
 * Retry budget: one purse that every retry of a target is paid from, so that an outage is not answered
 * with a storm.
 *
 * Each first attempt puts a fraction of a token in, time trickles a little more in, and a retry takes a whole one out:
 * `retries ≤ capacity + perAttempt · calls + perSecond · seconds`. The deposit is that of Finagle's `RetryBudget`, and so
 * is the trickle: a purse that only successes fill (gRPC's) would starve an idle client whose every call fails.
 *
 * @since 0.1.0
 */
import * as Config from "effect/Config"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { monotonicMillis } from "../internal/clock.ts"
import { amount, attempt, mode, optionsOf, readOptions } from "../internal/option.ts"
import { type LlmConfigError } from "../LlmError.ts"

// -----------------------------------------------------------------------------
// policy
// -----------------------------------------------------------------------------

/**
 * In tokens, to three decimals, so that every sum is exact and five deposits of 0.2 do pay for a retry.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options {
  /** What a new purse holds, and the most it can hold. Default 10. */
  readonly capacity?: number | undefined
  /** Put in by each first attempt. Default 0.2: one retry for five calls. */
  readonly perAttempt?: number | undefined
  /** Put in by time. Default 0.1. */
  readonly perSecond?: number | undefined
  /** `shadow`: a retry that the purse cannot pay for is made all the same, and told. Default `enforce`. */
  readonly mode?: "enforce" | "shadow" | undefined
}

/**
 * The schema of {@link Options}: defaults and rules.
 *
 * @category schemas
 * @since 0.2.0
 */
export const OptionsSchema = optionsOf<Options>()({
  capacity: amount(10),
  perAttempt: amount(0.2),
  perSecond: amount(0.1),
  mode: mode()
})

/**
 * Checked options in millionths of a token, so that every sum is exact.
 *
 * @category models
 * @since 0.1.0
 */
export interface Policy {
  readonly capacity: number
  readonly perAttempt: number
  readonly perMillisecond: number
  readonly isShadow: boolean
}

const token = 1_000_000

/**
 * Checks options; throws `LlmConfigError`.
 *
 * @category constructors
 * @since 0.1.0
 */
export const policy = (options?: Options, path = "retryBudget"): Policy => {
  const { capacity, mode, perAttempt, perSecond } = readOptions(OptionsSchema, options, path)
  return {
    capacity: Math.round(capacity * token),
    perAttempt: Math.round(perAttempt * token),
    // A thousandth per second is a millionth per millisecond.
    perMillisecond: Math.round(perSecond * 1000),
    isShadow: mode === "shadow"
  }
}

// -----------------------------------------------------------------------------
// core
// -----------------------------------------------------------------------------

/**
 * The purse, in millionths of a token.
 *
 * @category models
 * @since 0.1.0
 */
export interface State {
  readonly balance: number
  /** The whole monotonic millisecond up to which the trickle is in the balance. */
  readonly at: number
}

/**
 * The state of a new budget: full.
 *
 * @category core
 * @since 0.1.0
 */
export const initial = (policy: Policy, now: number): State => ({ balance: policy.capacity, at: Math.floor(now) })

const add = (policy: Policy, state: State, amount: number, now: number): State => {
  const at = Math.max(state.at, Math.floor(now))
  const trickled = Math.min(policy.capacity, state.balance + (at - state.at) * policy.perMillisecond)
  return { balance: Math.min(policy.capacity, trickled + amount), at }
}

/**
 * The purse at a later time.
 *
 * @category core
 * @since 0.1.0
 */
export const advance = (policy: Policy, state: State, now: number): State => add(policy, state, 0, now)

/**
 * The purse after a first attempt.
 *
 * @category core
 * @since 0.1.0
 */
export const deposit = (policy: Policy, state: State, now: number): State => add(policy, state, policy.perAttempt, now)

/**
 * The purse after paying for one retry, or `undefined` when it holds too little.
 *
 * @category core
 * @since 0.1.0
 */
export const withdraw = (policy: Policy, state: State, now: number): State | undefined => {
  const { at, balance } = advance(policy, state, now)
  return balance >= token ? { balance: balance - token, at } : undefined
}

/**
 * The purse after a payment was taken back.
 *
 * @category core
 * @since 0.1.0
 */
export const refund = (policy: Policy, state: State): State => add(policy, state, token, state.at)

// -----------------------------------------------------------------------------
// service
// -----------------------------------------------------------------------------

/**
 * One payment. Refund it when the retry it paid for is never started; a success is no reason.
 *
 * @category models
 * @since 0.1.0
 */
export interface Withdrawal {
  /** In shadow mode: the purse held too little, and nothing was taken. */
  readonly isOverdrawn?: boolean | undefined
  /** Gives the token back, once. */
  readonly refund: Effect.Effect<void>
  /** @internal */
  readonly refundUnsafe: () => void
}

/**
 * One purse.
 *
 * @category models
 * @since 0.1.0
 */
export interface RetryBudget {
  /** Tokens in the purse now. */
  readonly balance: Effect.Effect<number>
  /** To be run for each first attempt on the target. */
  readonly deposit: Effect.Effect<void>
  /** Pays for one retry, before it waits. `undefined`: there is not enough, do not retry. */
  readonly withdraw: Effect.Effect<Withdrawal | undefined>
  /** @internal */
  readonly depositUnsafe: (now: number) => void
  /** @internal */
  readonly withdrawUnsafe: (now: number) => Withdrawal | undefined
}

/**
 * The service tag for a retry budget.
 *
 * @category services
 * @since 0.1.0
 */
export const RetryBudget: Context.Service<RetryBudget, RetryBudget> = Context.Service(
  "effect-resilient-llm/RetryBudget"
)

/**
 * Creates a retry budget. Fails when the options are invalid.
 *
 * **Example** (A purse with one token)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { RetryBudget } from "effect-resilient-llm/resilience"
 *
 * const program = Effect.gen(function*() {
 *   const budget = yield* RetryBudget.make({ capacity: 1, perSecond: 0 })
 *   const first = yield* budget.withdraw
 *   const second = yield* budget.withdraw
 *   if (first !== undefined) yield* first.refund
 *   return [second, yield* budget.balance]
 * })
 * await Effect.runPromise(program) // => [undefined, 1]
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = (options?: Options): Effect.Effect<RetryBudget, LlmConfigError> =>
  Effect.flatMap(
    attempt(() => policy(options)),
    (policy) => Effect.clockWith((clock) => Effect.succeed(fromPolicy(policy, monotonicMillis(clock))))
  )

/**
 * Provides one retry budget.
 *
 * @category layers
 * @since 0.1.0
 */
export const layer = (options?: Options): Layer.Layer<RetryBudget, LlmConfigError> =>
  Layer.effect(RetryBudget, make(options))

/**
 * Provides one retry budget whose options come from configuration.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerConfig = (
  options: Config.Wrap<Options>
): Layer.Layer<RetryBudget, LlmConfigError | Config.ConfigError> =>
  Layer.effect(RetryBudget, Effect.flatMap(Config.unwrap(options), make))

const overdrawn: Withdrawal = { isOverdrawn: true, refund: Effect.void, refundUnsafe: () => {} }

/** @internal */
export const fromPolicy = (policy: Policy, now: number): RetryBudget => {
  let state = initial(policy, now)
  const depositUnsafe = (now: number): void => {
    state = deposit(policy, state, now)
  }
  const withdrawUnsafe = (now: number): Withdrawal | undefined => {
    const after = withdraw(policy, state, now)
    if (after === undefined) return policy.isShadow ? overdrawn : undefined
    state = after
    let refunded = false
    const refundUnsafe = (): void => {
      if (refunded) return
      refunded = true
      state = refund(policy, state)
    }
    return { refundUnsafe, refund: Effect.sync(refundUnsafe) }
  }
  const atNow = <A>(use: (now: number) => A): Effect.Effect<A> =>
    Effect.clockWith((clock) => Effect.succeed(use(monotonicMillis(clock))))
  return {
    balance: Effect.clockWith((clock) =>
      Effect.succeed(advance(policy, state, monotonicMillis(clock)).balance / token)
    ),
    deposit: atNow(depositUnsafe),
    withdraw: atNow(withdrawUnsafe),
    depositUnsafe,
    withdrawUnsafe
  }
}
