import { NodeHttpClient } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Metric, Redacted } from "effect"
import { LlmClient, type LlmProvider } from "effect-resilient-llm"
import { OpenAi } from "effect-resilient-llm/providers/OpenAi"
import { execFileSync, spawn } from "node:child_process"
import { setFlagsFromString } from "node:v8"
import { runInNewContext } from "node:vm"

const CALLS = 10_000
const CAPACITY = 5000
const PER_SECOND = 2500
const LATENCY = 5000

/** One socket per call in flight, and some to spare. */
const descriptors = (): number => {
  const text = execFileSync("sh", ["-c", "ulimit -n"], { encoding: "utf8" }).trim()
  return text === "unlimited" ? Infinity : Number(text)
}

const server = Effect.acquireRelease(
  Effect.callback<{ readonly urls: ReadonlyArray<string>; readonly stop: () => void }>((resume) => {
    const child = spawn(process.execPath, [new URL("./loadServer.ts", import.meta.url).pathname, String(LATENCY)], {
      stdio: ["pipe", "pipe", "inherit"]
    })
    child.stdout.once(
      "data",
      (line: Buffer) =>
        resume(Effect.succeed({ urls: line.toString().trim().split(" "), stop: () => child.stdin.end() }))
    )
  }),
  ({ stop }) => Effect.sync(stop)
)

const collect = (): number => {
  setFlagsFromString("--expose-gc")
  const gc = runInNewContext("gc") as () => void
  gc()
  gc()
  return process.memoryUsage().heapUsed
}

describe("10,000 calls at once over HTTP", () => {
  const enough = descriptors() > CALLS + 2000
  it.live.skipIf(!enough)(
    `all finish, starts stay below ${CAPACITY} + ${PER_SECOND}·t, memory and fibres come back`,
    () => {
      let fibres = 0
      const count = {
        recordFiberStart: () => {
          fibres += 1
        },
        recordFiberEnd: () => {
          fibres -= 1
        }
      }
      return Effect.gen(function*() {
        const { urls } = yield* server
        const vendors = yield* Effect.forEach(urls, (baseUrl) => OpenAi.make({ apiKey: Redacted.make("key"), baseUrl }))
        const starts: Array<number> = []
        let origin = 0
        const provider: LlmProvider.LlmProvider = {
          ...vendors[0]!,
          generate: (request) =>
            Effect.suspend(() => {
              starts.push(performance.now() - origin)
              return vendors[starts.length % vendors.length]!.generate(request)
            })
        }
        const program = Effect.gen(function*() {
          const client = yield* LlmClient
          const heapBefore = collect()
          const fibresBefore = fibres
          origin = performance.now()
          const answers = yield* Effect.forEach(
            Array.from({ length: CALLS }, (_, i) => i),
            (i) => Effect.map(client.complete(`question ${i}`), ({ source }) => source),
            { concurrency: "unbounded" }
          )
          assert.strictEqual(answers.length, CALLS)
          assert.isTrue(answers.every((source) => source === "provider"))
          assert.strictEqual(starts.length, CALLS)
          // The k-th start needs k tokens; one millisecond for reading the clock.
          starts.forEach((at, k) => {
            assert.isAtMost(k + 1, CAPACITY + PER_SECOND * (at + 1) / 1000, `start ${k} at ${at} ms`)
          })
          const { targets: [status] } = yield* client.status
          assert.strictEqual(status?.circuit?.state, "closed")
          yield* Effect.sleep(50)
          assert.isAtMost(fibres, fibresBefore, "fibres")
          const grown = collect() - heapBefore
          // What stays is the cache (at most 1000 answers) and the pooled sockets.
          assert.isBelow(grown, 80 * 1024 * 1024, "heap")
        })
        yield* Effect.provide(
          program,
          LlmClient.layerDynamic([provider], {
            rateLimit: { capacity: CAPACITY, refillPerSecond: PER_SECOND, queue: CALLS }
          })
        )
      }).pipe(
        Effect.provide(NodeHttpClient.layerUndici),
        Effect.provideService(Metric.FiberRuntimeMetrics, count),
        Effect.scoped
      )
    }
  )
})
