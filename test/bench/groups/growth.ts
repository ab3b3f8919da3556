// Does the cost of a call depend on how much is kept, how many wait, how many targets there are?
import { Effect, Fiber } from "effect"
import type { LlmConfig } from "../../../src/index.ts"
import * as RateLimiter from "../../../src/resilience/RateLimiter.ts"
import type { Case, Group, Run } from "../measure.ts"
import { tool } from "../prompts.ts"
import { client, loop, now, on, PROMPT, provider } from "../stubs.ts"

const each = (sizes: ReadonlyArray<number>, make: (size: number) => Promise<Run>): Case => ({
  subjects: Object.fromEntries(sizes.map((size) => [size.toLocaleString("en"), () => make(size)])),
  slow: ["1,000,000"]
})

/** Calls whose keys, or prompts, are new each time, in a client that holds `size` of them already. */
const filled = (what: "keys" | "answers") => async (size: number): Promise<Run> => {
  const options: LlmConfig.Options = what === "keys"
    ? { ...on, cache: false, idempotency: { maxEntries: size } }
    : { ...on, cache: { maxEntries: size, maxBytes: 1e12 } }
  const filling = client([provider(() => now)], options)
  let k = 0
  const next = Effect.suspend(() => {
    k += 1
    return filling.complete(what === "keys" ? { prompt: PROMPT, idempotencyKey: `key-${k}` } : `${PROMPT} ${k}`)
  })
  await loop(next)(size)
  return loop(next)
}

/** One more who waits and leaves, behind `size` others. */
const waiting = async (size: number): Promise<Run> => {
  const limiter = await Effect.runPromise(
    RateLimiter.make({ capacity: 1, refillPerSecond: 0.001, maxWait: "10000 days", queue: size + 10 })
  )
  await Effect.runPromise(limiter.acquire(1))
  for (let i = 0; i < size; i++) Effect.runFork(limiter.acquire(1))
  const comeAndGo = Effect.flatMap(
    Effect.forkChild(limiter.acquire(1), { startImmediately: true }),
    (fiber) => Fiber.interrupt(fiber)
  )
  return loop(comeAndGo)
}

/** Prompts of so many characters, the head another one in every call. */
const sized = async (size: number): Promise<Run> => {
  const one = client([provider(() => now)])
  const rest = PROMPT.repeat(Math.ceil(size / PROMPT.length)).slice(0, size)
  let k = 0
  return loop(Effect.suspend(() => one.complete(`${k++} ${rest}`)))
}

/** So many tools, as an application has them: the same list in every call, another prompt. */
const tooled = async (size: number): Promise<Run> => {
  const one = client([provider(() => now)])
  const tools = Array.from({ length: size }, (_, i) => ({ ...tool, name: `${tool.name}_${i}` }))
  let k = 0
  return loop(Effect.suspend(() => one.complete({ prompt: `${k++} ${PROMPT}`, tools })))
}

const targets = async (size: number): Promise<Run> =>
  loop(client(Array.from({ length: size }, () => provider(() => now))).complete(PROMPT))

export const growth: Group = {
  "idempotency keys kept": each([1, 1e3, 1e5, 1e6], filled("keys")),
  "answers in the cache": each([1, 1e3, 1e5, 1e6], filled("answers")),
  "waiters in the limiter's line": each([10, 1e4], waiting),
  "targets": each([1, 10, 50], targets),
  "tools": each([0, 1, 10, 100], tooled),
  "characters of the prompt": each([100, 1e4, 1e5, 1e6], sized)
}
