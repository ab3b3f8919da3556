// Retry, breaker, timeout, bulkhead and fallback; it has no limiter, idempotency or cache.
import * as Cockatiel from "cockatiel"

export const cockatiel = (
  first: () => Promise<string>,
  second: () => Promise<string>
): () => Promise<string> => {
  const all = Cockatiel.handleAll
  const retry = Cockatiel.retry(all, { maxAttempts: 3, backoff: new Cockatiel.ConstantBackoff(0) })
  const breaker = Cockatiel.circuitBreaker(all, {
    halfOpenAfter: 30_000,
    breaker: new Cockatiel.ConsecutiveBreaker(5)
  })
  const timeout = Cockatiel.timeout(60_000, Cockatiel.TimeoutStrategy.Aggressive)
  const bulkhead = Cockatiel.bulkhead(20, 100)
  const guarded = Cockatiel.wrap(retry, breaker, bulkhead, timeout)
  const policy = Cockatiel.wrap(Cockatiel.fallback(all, second), guarded)
  return () => policy.execute(first)
}
