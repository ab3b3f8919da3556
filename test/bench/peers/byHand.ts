// The pipeline that an article would show: about a hundred lines of promises, and each pattern in its simplest form. It has
// no ledger, no cancellation, no retry budget, no typed errors, no streams.
import { randomUUID } from "node:crypto"

export interface Request {
  readonly prompt: string | ReadonlyArray<unknown>
  readonly tools?: ReadonlyArray<unknown>
  readonly model?: string
  readonly temperature?: number
  readonly maxTokens?: number
  readonly idempotencyKey?: string
}

export type Provider = (request: Request, idempotencyKey: string) => Promise<string>

const MAX_ENTRIES = 1000
const DAY = 86_400_000

/** Keeps the entries that were stored last. */
class Memory<A> {
  private readonly entries = new Map<string, { readonly value: A; readonly at: number }>()

  get(key: string): A | undefined {
    const entry = this.entries.get(key)
    return entry !== undefined && performance.now() - entry.at < DAY ? entry.value : undefined
  }

  set(key: string, value: A): void {
    this.entries.delete(key)
    this.entries.set(key, { value, at: performance.now() })
    if (this.entries.size > MAX_ENTRIES) this.entries.delete(this.entries.keys().next().value!)
  }
}

/** What decides the answer; a cache that left one of these out would give wrong ones. */
const keyOf = ({ maxTokens, model, prompt, temperature, tools }: Request): string =>
  JSON.stringify([model, prompt, temperature, maxTokens, tools])

export const byHand = (
  providers: ReadonlyArray<Provider>,
  retryDelay = 0
): (request: Request) => Promise<string> => {
  const inFlight = new Map<string, Promise<string>>()
  const replays = new Memory<{ readonly content: string; readonly text: string }>()
  const stale = new Memory<string>()
  const bucket = { tokens: 1e12, at: performance.now() }
  const breakers = providers.map(() => ({ failures: 0, openUntil: 0 }))

  const takeToken = (): void => {
    const now = performance.now()
    bucket.tokens = Math.min(1e12, bucket.tokens + (now - bucket.at) * 1e6)
    bucket.at = now
    if (bucket.tokens < 1) throw new Error("rate limited")
    bucket.tokens -= 1
  }

  const withTimeout = (work: Promise<string>, millis: number): Promise<string> => {
    let timer: NodeJS.Timeout | undefined
    const timeout = new Promise<never>((_, reject) => {
      timer = setTimeout(() => reject(new Error("timeout")), millis)
    })
    return Promise.race([work, timeout]).finally(() => clearTimeout(timer))
  }

  const attempt = async (i: number, request: Request, key: string): Promise<string> => {
    const breaker = breakers[i]!
    if (breaker.openUntil > performance.now()) throw new Error("circuit open")
    takeToken()
    try {
      const text = await withTimeout(providers[i]!(request, key), 60_000)
      breaker.failures = 0
      return text
    } catch (error) {
      breaker.failures += 1
      if (breaker.failures >= 5) breaker.openUntil = performance.now() + 30_000
      throw error
    }
  }

  const withRetry = async (i: number, request: Request, key: string): Promise<string> => {
    for (let k = 0;; k++) {
      try {
        return await attempt(i, request, key)
      } catch (error) {
        if (k === 3 || breakers[i]!.openUntil > performance.now()) throw error
        const delay = retryDelay * 2 ** k
        await new Promise((resolve) => setTimeout(resolve, delay / 2 + Math.random() * delay / 2))
      }
    }
  }

  const overProviders = async (request: Request, key: string): Promise<string> => {
    const content = keyOf(request)
    let last: unknown
    for (let i = 0; i < providers.length; i++) {
      try {
        const text = await withRetry(i, request, key)
        stale.set(content, text)
        return text
      } catch (error) {
        last = error
      }
    }
    const old = stale.get(content)
    if (old !== undefined) return old
    throw last
  }

  return (request) => {
    const key = request.idempotencyKey
    if (key === undefined) return overProviders(request, randomUUID())
    const known = replays.get(key)
    if (known !== undefined) {
      return known.content === keyOf(request) ? Promise.resolve(known.text) : Promise.reject(new Error("conflict"))
    }
    const running = inFlight.get(key)
    if (running !== undefined) return running
    const work = overProviders(request, key)
      .then((text) => {
        replays.set(key, { content: keyOf(request), text })
        return text
      })
      .finally(() => inFlight.delete(key))
    inFlight.set(key, work)
    return work
  }
}
