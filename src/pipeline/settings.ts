// What the options come to.
import type { CacheOptionsSchema, IdempotencyOptionsSchema } from "../LlmConfig.ts"
import type * as Bulkhead from "../resilience/Bulkhead.ts"
import type * as CircuitBreaker from "../resilience/CircuitBreaker.ts"
import type * as Failover from "../resilience/Failover.ts"
import type * as Hedge from "../resilience/Hedge.ts"
import type * as LoadShedder from "../resilience/LoadShedder.ts"
import type * as RateLimiter from "../resilience/RateLimiter.ts"
import type * as Retry from "../resilience/Retry.ts"
import type * as RetryBudget from "../resilience/RetryBudget.ts"
import type * as Routing from "../resilience/Routing.ts"
import type * as Timeout from "../resilience/Timeout.ts"

/**
 * What a client is built from: every option read once, defaults in place, times in milliseconds, `undefined` for what is
 * off. The pipeline is composed of it, and what is said about a configuration is read from it.
 */
export interface Settings {
  readonly timers: Timeout.Policy | undefined
  readonly retry: Retry.Policy | undefined
  /** Of the purse that each target has. */
  readonly budget: RetryBudget.Policy | undefined
  /** The one bucket of all targets. */
  readonly bucket: RateLimiter.Policy | RateLimiter.RateLimiter | undefined
  readonly failover: Failover.Policy | undefined
  readonly hedge: Hedge.Policy | undefined
  readonly shedding: LoadShedder.Policy | undefined
  readonly routing: Routing.Policy | undefined
  readonly cache: typeof CacheOptionsSchema.Type | undefined
  readonly idempotency: typeof IdempotencyOptionsSchema.Type | undefined
  /** In the order of the targets. */
  readonly targets: ReadonlyArray<TargetSettings>
}

export interface TargetSettings {
  readonly id: string
  readonly bulkhead: Bulkhead.Policy | Bulkhead.Bulkhead | undefined
  readonly limits: RateLimiter.Policy | RateLimiter.RateLimiter | undefined
  readonly circuit: CircuitRules | CircuitBreaker.CircuitBreaker | undefined
}

export interface CircuitRules {
  readonly policy: CircuitBreaker.Policy
  readonly perModel: boolean
}
