// `npm run soak -- [<calls>] [--http]`: a million calls with faults, in process or over HTTP. Fails when heap, fibres, timers,
// listeners or sockets grow after the warm-up.
import { Dispatcher } from "@effect/platform-node/NodeHttpClient"
import { Agent } from "@effect/platform-node/Undici"
import { Context, Effect, Layer, Metric, Random, Redacted, Scope, Stream } from "effect"
import { parseArgs } from "node:util"
import { LlmError, type LlmProvider, type LlmResponse } from "../../src/index.ts"
import * as DispatcherHttpClient from "../../src/node/DispatcherHttpClient.ts"
import { OpenAi } from "../../src/providers/OpenAi.ts"
import { start } from "./measure.ts"
import * as Stub from "./stubs.ts"

const { positionals: [calls = "1000000"], values: { http } } = parseArgs({
  allowPositionals: true,
  options: { http: { type: "boolean", default: false } }
})
const CALLS = Number(calls)
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
const inProcess: LlmProvider.LlmProvider = {
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

let sockets = 0

const overHttp = async (): Promise<LlmProvider.LlmProvider> => {
  const baseUrl = await start("http/faulty.ts", []).read()
  // Idle connections end soon, so that none is open when samples are taken.
  const agent = new Agent({ keepAliveTimeout: 100, keepAliveMaxTimeout: 100 })
  agent.on("connect", () => sockets++)
  agent.on("disconnect", () => sockets--)
  const live = OpenAi.layer({ apiKey: Redacted.make("sk-soak"), baseUrl, defaultModel: "soak" }).pipe(
    Layer.provide(DispatcherHttpClient.layer),
    Layer.provide(Layer.succeed(Dispatcher, agent))
  )
  return Context.get(await Effect.runPromise(Layer.buildWithScope(live, Scope.makeUnsafe())), OpenAi)
}

const provider = http ? await overHttp() : inProcess
const patience = http ? 250 : 20

const client = Stub.client([provider, { ...provider, id: `${provider.id}-2` }], {
  ...Stub.on,
  retry: { baseDelay: 0, maxDelay: 1 },
  timeout: { attempt: patience, firstToken: patience, idle: patience, deadline: 10 * patience },
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
  readonly sockets: number
}

let fibers = 0
const counted = Effect.provideService(Metric.FiberRuntimeMetrics, {
  recordFiberStart: () => void fibers++,
  recordFiberEnd: () => void fibers--
})

const collect = globalThis.gc ?? (() => {})
const sample = async (): Promise<Sample> => {
  // What was left behind ends.
  await new Promise((resolve) => setTimeout(resolve, 300))
  const isConnected = (): boolean => sockets > 0
  for (let i = 0; i < 20 && isConnected(); i++) await new Promise((resolve) => setTimeout(resolve, 100))
  collect()
  collect()
  return {
    calls: n,
    heap: process.memoryUsage().heapUsed,
    fibers,
    timers: process.getActiveResourcesInfo().filter((name) => name === "Timeout").length,
    listeners: process.eventNames().reduce((sum, name) => sum + process.listenerCount(name), 0),
    sockets
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
      `${now.fibers} fibres  ${now.timers} timers  ${now.listeners} listeners  ${now.sockets} sockets`
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
  ...(["fibers", "timers", "listeners", "sockets"] as const).map((what) =>
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
