// One case, so many calls: `counted.ts <case> <calls>`. What counts.ts counts the instructions of, and against.ts the time.
import { Cause, Effect, Exit, Stream } from "effect"
import { realpathSync } from "node:fs"
import type { LlmConfig, LlmProvider } from "../../src/index.ts"
import { forms, inTurn } from "./prompts.ts"
import { type Answer, chunksOf, client, now, off, on, overloaded, provider } from "./stubs.ts"

/** Prepared chunks, at the least cost that a stream has. */
const streamOf = (count: number, perChunk: number) => {
  const chunks = chunksOf(count, perChunk)
  const source: ReturnType<LlmProvider.LlmProvider["stream"]> = Stream.fromPull(Effect.sync(() => {
    let i = 0
    return Effect.suspend(() => {
      const chunk = chunks[i++]
      return chunk === undefined ? Cause.done() : Exit.succeed(chunk as [typeof chunk[0] & {}])
    })
  }))
  const streaming = client([provider(() => now, () => source)], on)
  const prompt = inTurn(forms["a text"], false)
  return () => Stream.runDrain(streaming.stream(prompt()))
}

const asking = client([provider(() => now)], on)
const bare = client([provider(() => now)], off)

const failing = (): Answer => Exit.fail(overloaded)
let k = 0
const flaky = client([provider(() => k++ % 2 === 0 ? failing() : now)], {
  ...on,
  retry: { baseDelay: 0 },
  circuitBreaker: false,
  retryBudget: false
})
const two = client([provider(failing), provider(() => now)], { ...on, retry: false, circuitBreaker: false })

const calls = (one: typeof asking, name: keyof typeof forms = "a text") => {
  const next = inTurn<ReturnType<(typeof forms)[typeof name]>>(forms[name], name === "with a new key each")
  return () => one.complete(next())
}

const replay = () => {
  const one = client([provider(() => now)], on)
  const next = inTurn((i) => ({ prompt: forms["a text"](i), idempotencyKey: `key ${i}` }), false)
  return () => one.complete(next())
}

const tenants = { limits: [{ dimension: "requests", limit: 1e12, per: "1 second", by: "tenant" }] } as const

/** Everything on, two targets, and one pattern more, with nothing for it to do. */
const idle: Readonly<Record<string, LlmConfig.Options>> = {
  "nothing more": on,
  "without slow calls": { ...on, circuitBreaker: { slowCall: false } },
  "a bulkhead": { ...on, bulkhead: {} },
  "an adaptive bulkhead": { ...on, bulkhead: { adaptive: true } },
  "the throttle": { ...on, loadShedding: { thresholds: false } },
  "the doors of lines": { ...on, loadShedding: { throttle: false } },
  "routing by weight": { ...on, routing: { strategy: "weights" } },
  "routing to the fastest": { ...on, routing: { strategy: "fastest" } },
  "sticky routing": { ...on, routing: { sticky: "tenant" } },
  "a bucket of each tenant instead": { ...on, rateLimit: tenants }
}

/** Made when it is asked: another version, against which the other cases run, may not know the options. */
const beside = (options: LlmConfig.Options) => {
  let call: ReturnType<typeof calls> | undefined
  return () => (call ??= calls(client([provider(() => now), provider(() => now)], options)))()
}

export const counted: Readonly<Record<string, () => Effect.Effect<unknown, unknown>>> = {
  ...Object.fromEntries(Object.keys(forms).map((name) => [name, calls(asking, name as keyof typeof forms)])),
  "one retry": calls(flaky),
  failover: calls(two),
  "replay of a key": replay(),
  "everything off": calls(bare),
  ...Object.fromEntries(Object.entries(idle).map(([name, options]) => [`idle: ${name}`, beside(options)])),
  "a stream of 20 parts": streamOf(20, 2),
  "a stream of 100 parts": streamOf(100, 1)
}

/** A case so many times, in one fibre. */
export const loop = (name: string, count: number): Promise<void> => {
  const call = counted[name]
  let left = call === undefined ? 0 : count
  return Effect.runPromise(Effect.whileLoop({ while: () => left-- > 0, body: call!, step: () => {} }))
}

const [, file, name = "", count = "0"] = process.argv
if (file !== undefined && import.meta.filename === realpathSync(file)) await loop(name, Number(count))
