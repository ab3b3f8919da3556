/**
 * Every pattern by itself, usable on any Effect.
 *
 * @since 0.1.0
 */

/** How many calls may be in flight, found out while they are. */
export * as AdaptiveConcurrency from "./AdaptiveConcurrency.ts"

/** Bounds how many calls are in flight. */
export * as Bulkhead from "./Bulkhead.ts"

/** Stops asking what keeps failing, and probes until it works again. */
export * as CircuitBreaker from "./CircuitBreaker.ts"

/** Tries targets in order. */
export * as Failover from "./Failover.ts"

/** Asks a second time when an answer takes long, and takes the first one. */
export * as Hedge from "./Hedge.ts"

/** One key, one call: joins what is in flight, replays what is stored. */
export * as Idempotency from "./Idempotency.ts"

/** Turns calls away early, so that those that are let in are served. */
export * as LoadShedder from "./LoadShedder.ts"

/** Which of several hosts is asked: not those that keep failing. */
export * as OutlierEjection from "./OutlierEjection.ts"

/** Bounds how fast calls start. */
export * as RateLimiter from "./RateLimiter.ts"

/** Fresh answers instead of calls, stale ones instead of failures. */
export * as ResponseCache from "./ResponseCache.ts"

/** Backoff and retries. */
export * as Retry from "./Retry.ts"

/** Keeps retries from multiplying an outage. */
export * as RetryBudget from "./RetryBudget.ts"

/** Which target is asked first. */
export * as Routing from "./Routing.ts"

/** Time limits with typed errors. */
export * as Timeout from "./Timeout.ts"
