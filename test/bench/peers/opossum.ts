// Breaker with timeout and fallback, and retries round it; nothing else.
import Opossum from "opossum"
import pRetry from "p-retry"

export const opossum = (
  first: () => Promise<string>,
  second: () => Promise<string>
): () => Promise<string> => {
  const breaker = new Opossum(first, { timeout: 60_000, volumeThreshold: 10, resetTimeout: 30_000 })
  breaker.fallback(second)
  return () => pRetry(() => breaker.fire(), { retries: 3, minTimeout: 0 })
}
