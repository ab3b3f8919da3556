// Does the cost of a call depend on how much is kept, how many wait, how many targets there are?
import { Effect, Fiber } from "effect"
import type * as LlmConfig from "../../../src/LlmConfig.ts"
import * as RateLimiter from "../../../src/resilience/RateLimiter.ts"
import { compare, type Plan, type Result, type Subject } from "../measure.ts"
import * as Stub from "../stubs.ts"

const GROUP = "growth"
const { loop, on, PROMPT } = Stub

/** Calls whose keys, or prompts, are new each time, in a client that holds `size` of them already. */
const filled = async (size: number, what: "keys" | "answers"): Promise<Subject> => {
  const options: LlmConfig.Options = what === "keys"
    ? { ...on, cache: false, idempotency: { maxEntries: size } }
    : { ...on, cache: { maxEntries: size, maxBytes: 1e12 } }
  const client = Stub.client([Stub.provider(() => Stub.now)], options)
  let k = 0
  const next = Effect.suspend(() => {
    k += 1
    return client.complete(what === "keys" ? { prompt: PROMPT, idempotencyKey: `key-${k}` } : `${PROMPT} ${k}`)
  })
  await loop(next)(size)
  return { name: size.toLocaleString("en"), run: loop(next) }
}

/** One more who waits and leaves, behind `size` others. */
const waiting = async (size: number): Promise<Subject> => {
  const limiter = await Effect.runPromise(
    RateLimiter.make({ capacity: 1, refillPerSecond: 0.001, maxWait: "10000 days", queue: size + 10 })
  )
  await Effect.runPromise(limiter.acquire(1))
  for (let i = 0; i < size; i++) Effect.runFork(limiter.acquire(1))
  const comeAndGo = Effect.flatMap(
    Effect.forkChild(limiter.acquire(1), { startImmediately: true }),
    (fiber) => Fiber.interrupt(fiber)
  )
  return { name: size.toLocaleString("en"), run: loop(comeAndGo) }
}

const targets = async (size: number): Promise<Subject> => {
  const client = Stub.client(Array.from({ length: size }, () => Stub.provider(() => Stub.now)))
  return { name: String(size), run: loop(client.complete(PROMPT)) }
}

export const growth = async (plan: Plan, isQuick: boolean): Promise<ReadonlyArray<Result>> => {
  const sizes = isQuick ? [1, 1e3, 1e5] : [1, 1e3, 1e5, 1e6]
  const results: Array<Result> = []
  const add = async (name: string, subjects: Iterable<Promise<Subject>>): Promise<void> => {
    results.push(...await compare(plan, GROUP, name, await Promise.all(subjects)))
  }
  await add("idempotency keys kept", sizes.map((size) => filled(size, "keys")))
  await add("answers in the cache", sizes.map((size) => filled(size, "answers")))
  await add("waiters in the limiter's line", [10, 1e4].map(waiting))
  await add("targets", [1, 10, 50].map(targets))
  return results.filter(({ metric }) => metric === "time")
}
