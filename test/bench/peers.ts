// What people use instead, each set up as its documentation says, doing as much of the same work as it can.
import { AIMessage } from "@langchain/core/messages"
import { FakeListChatModel } from "@langchain/core/utils/testing"
import { generateText } from "ai"
import { MockLanguageModelV4 } from "ai/test"
import * as Cockatiel from "cockatiel"
import { Context, Effect, ExecutionPlan, Layer, Schedule } from "effect"
import * as EffectBreaker from "effect/persistence/CircuitBreaker"
import * as EffectLimiter from "effect/persistence/RateLimiter"
import Opossum from "opossum"
import pRetry from "p-retry"
import { ANSWER, PROMPT } from "./stubs.ts"

export type Ask = (prompt: string) => Promise<string>

// -----------------------------------------------------------------------------
// by hand, with promises
// -----------------------------------------------------------------------------

/** The pipeline that an article would show: about a hundred lines, and each pattern in its simplest form. */
export const byHand = (providers: ReadonlyArray<Ask>): (prompt: string, key?: string) => Promise<string> => {
  const inFlight = new Map<string, Promise<string>>()
  const replays = new Map<string, string>()
  const stale = new Map<string, { readonly text: string; readonly at: number }>()
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

  const attempt = async (i: number, prompt: string): Promise<string> => {
    const breaker = breakers[i]!
    if (breaker.openUntil > performance.now()) throw new Error("circuit open")
    takeToken()
    try {
      const text = await withTimeout(providers[i]!(prompt), 60_000)
      breaker.failures = 0
      return text
    } catch (error) {
      breaker.failures += 1
      if (breaker.failures >= 5) breaker.openUntil = performance.now() + 30_000
      throw error
    }
  }

  const withRetry = async (i: number, prompt: string): Promise<string> => {
    for (let k = 0;; k++) {
      try {
        return await attempt(i, prompt)
      } catch (error) {
        if (k === 3 || breakers[i]!.openUntil > performance.now()) throw error
        await new Promise((resolve) => setTimeout(resolve, 0))
      }
    }
  }

  const overProviders = async (prompt: string): Promise<string> => {
    let last: unknown
    for (let i = 0; i < providers.length; i++) {
      try {
        const text = await withRetry(i, prompt)
        stale.set(prompt, { text, at: performance.now() })
        return text
      } catch (error) {
        last = error
      }
    }
    const old = stale.get(prompt)
    if (old !== undefined && performance.now() - old.at < 86_400_000) return old.text
    throw last
  }

  return (prompt, key) => {
    if (key === undefined) return overProviders(prompt)
    const known = replays.get(key)
    if (known !== undefined) return Promise.resolve(known)
    const running = inFlight.get(key)
    if (running !== undefined) return running
    const work = overProviders(prompt)
      .then((text) => {
        replays.set(key, text)
        return text
      })
      .finally(() => inFlight.delete(key))
    inFlight.set(key, work)
    return work
  }
}

// -----------------------------------------------------------------------------
// libraries
// -----------------------------------------------------------------------------

/** Retry, breaker, timeout, bulkhead and fallback; it has no limiter, idempotency or cache. */
export const cockatiel = (first: Ask, second: Ask): Ask => {
  const all = Cockatiel.handleAll
  const retry = Cockatiel.retry(all, { maxAttempts: 3, backoff: new Cockatiel.ConstantBackoff(0) })
  const breaker = Cockatiel.circuitBreaker(all, {
    halfOpenAfter: 30_000,
    breaker: new Cockatiel.ConsecutiveBreaker(5)
  })
  const timeout = Cockatiel.timeout(60_000, Cockatiel.TimeoutStrategy.Aggressive)
  const bulkhead = Cockatiel.bulkhead(20, 100)
  const guarded = Cockatiel.wrap(retry, breaker, bulkhead, timeout)
  return (prompt) => {
    const fallback = Cockatiel.fallback(all, () => second(prompt))
    return Cockatiel.wrap(fallback, guarded).execute(() => first(prompt))
  }
}

/** Breaker with timeout and fallback, and retries round it; nothing else. */
export const opossum = (first: Ask, second: Ask): Ask => {
  const breaker = new Opossum(first, { timeout: 60_000, volumeThreshold: 10, resetTimeout: 30_000 })
  breaker.fallback(second)
  return (prompt) => pRetry(() => breaker.fire(prompt), { retries: 3, minTimeout: 0 })
}

/** Retries and fallbacks over its own fake model; nothing else. */
export const langChain = (): Ask => {
  const model = () => new FakeListChatModel({ responses: [ANSWER] })
  const chain = model().withRetry({ stopAfterAttempt: 4 }).withFallbacks([model()])
  return async (prompt) => {
    const message = await chain.invoke(prompt)
    return AIMessage.isInstance(message) ? message.text : ""
  }
}

/** Retries over its own mock model; nothing else. */
export const aiSdk = (): Ask => {
  const model = new MockLanguageModelV4({
    doGenerate: async () => ({
      content: [{ type: "text", text: ANSWER }],
      finishReason: { unified: "stop", raw: "stop" },
      usage: {
        inputTokens: { total: 20, noCache: undefined, cacheRead: undefined, cacheWrite: undefined },
        outputTokens: { total: 18, text: undefined, reasoning: undefined }
      },
      warnings: []
    })
  })
  return async (prompt) => {
    const { text } = await generateText({ model, prompt, maxRetries: 3 })
    model.doGenerateCalls.length = 0 // the mock keeps every call
    return text
  }
}

/** Effect's own blocks: plan, retry, circuit breaker, limiter, timeout. */
export const effectBlocks = Effect.gen(function*() {
  const Model = Context.Service<"bench/Model", { readonly ask: (prompt: string) => Effect.Effect<string, Error> }>(
    "bench/Model"
  )
  const live = Context.make(Model, { ask: () => Effect.succeed(ANSWER) })
  const plan = ExecutionPlan.make({ provide: live }, { provide: live })
  const breaker = yield* EffectBreaker.make({
    tripPolicy: EffectBreaker.consecutive(5),
    openDuration: "30 seconds"
  })
  const withLimiter = yield* EffectLimiter.makeWithRateLimiter
  return Model.use((model) => model.ask(PROMPT)).pipe(
    Effect.timeout("60 seconds"),
    breaker.execute({ key: "primary" }),
    withLimiter({ key: "all", limit: 1e9, window: "1 second", algorithm: "token-bucket", onExceeded: "delay" }),
    Effect.retry({ schedule: Schedule.exponential("1 second"), times: 3 }),
    Effect.withExecutionPlan(plan)
  )
}).pipe(
  Effect.provide([
    EffectBreaker.layerStoreMemory(),
    EffectLimiter.layer.pipe(Layer.provide(EffectLimiter.layerStoreMemory))
  ])
)

export { PROMPT }
