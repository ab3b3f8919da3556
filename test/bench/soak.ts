// `npm run soak`: a million calls with faults. Fails when heap, fibres, timers or listeners grow after the warm-up.
import { Effect, Metric, Random, Stream } from "effect"
import { LlmError, type LlmProvider, type LlmResponse } from "../../src/index.ts"
import * as Stub from "./stubs.ts"

const CALLS = Number(process.argv[2] ?? 1_000_000)
const SAMPLES = 20
const WARM_UP = 5
const CONCURRENCY = 64

const reasons: ReadonlyArray<LlmError.ProviderError["reason"]> = [
  { _tag: "Overloaded" },
  { _tag: "Server" },
  { _tag: "Timeout" },
  { _tag: "Conflict" },
  { _tag: "Network", sent: true },
  { _tag: "RateLimit" },
  { _tag: "MalformedResponse", problem: "soak" },
  { _tag: "Authentication" },
  { _tag: "NotFound" },
  { _tag: "ContextLength" },
  { _tag: "ContentPolicy" },
  { _tag: "InvalidRequest" }
]

const failure = (u: number): LlmError.ProviderError =>
  new LlmError.ProviderError({ provider: "soak", reason: reasons[Math.floor(u * reasons.length)]! })

const chunks = Stub.chunksOf(6, 2)

/** Nine of ten requests are well; the others fail in every way there is. */
const provider: LlmProvider.LlmProvider = {
  id: "soak",
  generate: () =>
    Effect.flatMap(Random.next, (u): Stub.Answer => {
      if (u < 0.08) return Effect.fail(failure(u / 0.08))
      if (u < 0.085) return Effect.never
      return u < 0.5 ? Stub.soon : Stub.now
    }),
  stream: () =>
    Stream.unwrap(Effect.map(Random.next, (u): Stream.Stream<LlmResponse.StreamPart, LlmError.ProviderError> => {
      if (u < 0.05) return Stream.fail(failure(u / 0.05))
      if (u < 0.06) return Stream.never
      const whole = Stream.flattenIterable(Stream.fromIterable(chunks))
      return u < 0.1 ? Stream.take(whole, Math.floor((u - 0.06) * 200)) : whole
    }))
}

const client = Stub.client([provider, provider], {
  ...Stub.on,
  retry: { baseDelay: 0, maxDelay: 1 },
  timeout: { attempt: 20, firstToken: 20, idle: 20, deadline: 200 },
  circuitBreaker: { failureThreshold: 8, recoveryTimeout: 5 },
  bulkhead: { maxConcurrent: 40, queue: 20 },
  failover: { coolDown: 5 },
  idempotency: { maxEntries: 500 },
  cache: { maxEntries: 500, readThrough: true, ttl: 50, swr: 50 }
})

let n = 0
const one = Effect.gen(function*() {
  const u = yield* Random.next
  const k = n++
  const prompt = `Question ${Math.floor(u * 3000)}`
  const input = u < 0.2
    ? { prompt, idempotencyKey: `key ${k >> 2}` }
    : u < 0.3
    ? { prompt, cache: "always" as const }
    : prompt
  const call: Effect.Effect<unknown, unknown> = k % 3 === 0
    ? Stream.runDrain(k % 30 === 0 ? Stream.take(client.stream(input), 2) : client.stream(input))
    : client.complete(input)
  // Some callers leave.
  yield* Effect.exit(u > 0.97 ? Effect.timeoutOption(call, 1) : call)
})

interface Sample {
  readonly calls: number
  readonly heap: number
  readonly fibers: number
  readonly timers: number
  readonly listeners: number
}

let fibers = 0
const counted = Effect.provideService(Metric.FiberRuntimeMetrics, {
  recordFiberStart: () => void fibers++,
  recordFiberEnd: () => void fibers--
})

const collect = globalThis.gc ?? (() => {})
const sample = async (): Promise<Sample> => {
  await new Promise((resolve) => setTimeout(resolve, 300)) // what was left behind ends
  collect()
  collect()
  return {
    calls: n,
    heap: process.memoryUsage().heapUsed,
    fibers,
    timers: process.getActiveResourcesInfo().filter((name) => name === "Timeout").length,
    listeners: process.eventNames().reduce((sum, name) => sum + process.listenerCount(name), 0)
  }
}

const batch = Effect.forEach(Array.from({ length: CONCURRENCY }), () =>
  Effect.forEach(
    Array.from({ length: Math.ceil(CALLS / SAMPLES / CONCURRENCY) }),
    () => one,
    { discard: true }
  ), { concurrency: "unbounded", discard: true })

const samples: Array<Sample> = []
const started = performance.now()
for (let i = 0; i < SAMPLES; i++) {
  await Effect.runPromise(Random.withSeed(counted(batch), `soak ${i}`))
  const now = await sample()
  samples.push(now)
  console.log(
    `${now.calls.toLocaleString("en").padStart(10)} calls  heap ${(now.heap / 2 ** 20).toFixed(2)} MiB  ` +
      `${now.fibers} fibres  ${now.timers} timers  ${now.listeners} listeners`
  )
}

const warm = samples.slice(WARM_UP)
const mean = (part: ReadonlyArray<Sample>, of: (one: Sample) => number): number =>
  part.reduce((sum, one) => sum + of(one), 0) / part.length
const half = warm.length >> 1
const [early, late] = [warm.slice(0, half), warm.slice(-half)]
const growth = mean(late, (one) => one.heap) - mean(early, (one) => one.heap)
const grown = [
  growth > 512 * 1024 ? `the heap, by ${(growth / 1024).toFixed(0)} KiB` : "",
  ...(["fibers", "timers", "listeners"] as const).map((what) =>
    Math.max(...late.map((one) => one[what])) > Math.max(...early.map((one) => one[what])) ? what : ""
  )
].filter((what) => what !== "")
console.log(
  grown.length === 0
    ? `Nothing grew: the heap's mean changed by ${(growth / 1024).toFixed(0)} KiB after the warm-up; ` +
      `${((performance.now() - started) / 1000).toFixed(0)} s.`
    : `Grown after the warm-up: ${grown.join(", ")}.`
)
process.exit(grown.length === 0 ? 0 : 1)
