/**
 * How many calls may be in flight, found out while they are: one more after a round of successes, three tenths less when
 * the other side is overloaded (additive increase, multiplicative decrease; TCP's rule, as in Netflix's `AIMDLimit`).
 *
 * Used by a bulkhead whose option is `adaptive`.
 *
 * @since 0.2.0
 */
import { integer, integerIfGiven, number, optionsOf, readOptions, rule } from "../internal/option.ts"

// -----------------------------------------------------------------------------
// policy
// -----------------------------------------------------------------------------

/**
 * @category models
 * @since 0.2.0
 */
export interface Options {
  /** The limit to begin with. Default 10, or what is next to it between `min` and `max`. */
  readonly initial?: number | undefined
  /** The least limit. Default 1. */
  readonly min?: number | undefined
  /** The largest limit. Default 100. */
  readonly max?: number | undefined
  /** What is left of the limit after an overload. Default 0.7. */
  readonly backoffRatio?: number | undefined
}

/**
 * The schema of {@link Options}: defaults and rules.
 *
 * @category schemas
 * @since 0.2.0
 */
export const OptionsSchema = optionsOf<Options>()({
  initial: integerIfGiven(1),
  min: integer(1, 1),
  max: integer(100, 1),
  backoffRatio: number(0.7, 0.01, 0.99)
}).check(rule(({ initial = NaN, max, min }) =>
  max < min
    ? ["max", `a whole number of at least ${min}`]
    : initial < min || initial > max
    ? ["initial", `a whole number from ${min} to ${max}`]
    : undefined
))

/**
 * Checked options.
 *
 * @category models
 * @since 0.2.0
 */
export interface Policy {
  readonly initial: number
  readonly min: number
  readonly max: number
  readonly backoffRatio: number
}

/**
 * Checks options; throws `LlmConfigError`.
 *
 * @category constructors
 * @since 0.2.0
 */
export const policy = (options?: Options, path = "adaptive"): Policy =>
  withInitial(readOptions(OptionsSchema, options, path))

/** @internal */
export const withInitial = (checked: typeof OptionsSchema.Type): Policy => ({
  ...checked,
  initial: checked.initial ?? Math.min(Math.max(10, checked.min), checked.max)
})

// -----------------------------------------------------------------------------
// core
// -----------------------------------------------------------------------------

/**
 * The limit, and what speaks for more.
 *
 * @category models
 * @since 0.2.0
 */
export interface State {
  readonly limit: number
  /** Successes since the limit last moved, of those that used at least half of it. */
  readonly successes: number
  /** How often the limit was lowered. A call is told the number when it is admitted. */
  readonly epoch: number
}

/**
 * What the end of a call says: `overload` is a 429, a 503 or 529, a timeout or a broken connection
 * (`LlmError.isOverload`), `neutral` everything that says nothing about load.
 *
 * @category models
 * @since 0.2.0
 */
export type Outcome = "success" | "overload" | "neutral"

/**
 * The state of a new limit.
 *
 * @category core
 * @since 0.2.0
 */
export const initial = (policy: Policy): State => ({ limit: policy.initial, successes: 0, epoch: 0 })

/**
 * The state after the end of a call that was admitted in `epoch`, with `inFlight` calls under way including itself.
 *
 * **Details**
 *
 * - A success counts when at least half of the limit is in use: a limit that nobody needs says nothing. As many of them
 *   as the limit raise it by one.
 * - One overload is felt by many calls at once and lowers the limit once: only a call that was admitted after the last
 *   decrease may lower it again.
 *
 * @category core
 * @since 0.2.0
 */
export const record = (policy: Policy, state: State, epoch: number, outcome: Outcome, inFlight: number): State => {
  const { limit } = state
  if (outcome === "overload") {
    if (epoch !== state.epoch) return state
    return { limit: Math.max(policy.min, Math.floor(limit * policy.backoffRatio)), successes: 0, epoch: epoch + 1 }
  }
  if (outcome !== "success" || inFlight * 2 < limit || limit >= policy.max) return state
  const successes = state.successes + 1
  return successes < limit
    ? { limit, successes, epoch: state.epoch }
    : { limit: limit + 1, successes: 0, epoch: state.epoch }
}
