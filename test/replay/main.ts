// `npm run replay -- [complete|stream] [part of a name]`: the tables of docs/defaults.md.
import { Effect } from "effect"
import type { LlmConfig } from "../../src/index.ts"
import type { Simulator } from "../../src/testing/index.ts"
import { needed, readTrace, replay, table, traceFile } from "./replay.ts"

const off = { cache: false, idempotency: false, rateLimit: false } as const satisfies LlmConfig.Options

/** As it was before calls under way counted as slow. */
const blind = { circuitBreaker: { slowCall: false } } as const satisfies LlmConfig.Options
const purse = { retryBudget: { capacity: 100 } } as const satisfies LlmConfig.Options

const wide = { adaptive: { initial: 50, min: 20, max: 200 } } as const satisfies LlmConfig.Options["bulkhead"]
const all = {
  ...off,
  ...purse,
  hedge: { delay: "10 seconds" },
  loadShedding: {},
  routing: { strategy: "fastest" }
} as const satisfies LlmConfig.Options

const policies: ReadonlyArray<Simulator.Policy> = [
  { name: "defaults of 0.1", options: { ...off, ...blind } },
  { name: "defaults", options: off },
  { name: "without failover", options: { ...off, failover: false } },
  { name: "hedge alone, 10 s", options: { ...off, ...blind, hedge: { delay: "10 seconds" } } },
  { name: "hedge alone, 10 s, purse of 100", options: { ...off, ...blind, ...purse, hedge: { delay: "10 seconds" } } },
  { name: "throttle alone, no breaker", options: { ...off, circuitBreaker: false, loadShedding: {} } },
  { name: "adaptive bulkhead alone", options: { ...off, ...blind, bulkhead: { adaptive: true, queue: 1000 } } },
  { name: "hedge 10 s", options: { ...off, hedge: { delay: "10 seconds" } } },
  { name: "hedge 8 s, purse of 100", options: { ...off, ...purse, hedge: { delay: "8 seconds" } } },
  { name: "hedge 10 s, purse of 100", options: { ...off, ...purse, hedge: { delay: "10 seconds" } } },
  { name: "hedge p95, purse of 100", options: { ...off, ...purse, hedge: {} } },
  { name: "fastest", options: { ...off, routing: { strategy: "fastest" } } },
  { name: "adaptive bulkhead from 50, at least 20", options: { ...off, bulkhead: { ...wide, queue: 1000 } } },
  {
    name: "all together, bulkhead from 10",
    options: { ...all, bulkhead: { adaptive: true, queue: 1000 } }
  },
  { name: "all together", options: { ...all, bulkhead: { ...wide, queue: 1000 } } }
]

const file = traceFile("conv")
if (file === undefined) process.stdout.write("no trace: set LLM_TRACES to the folder that holds it\n")
else {
  const { calls } = await Effect.runPromise(readTrace(file))
  const only = process.argv[3]
  for (const operation of ["complete", "stream"] as const) {
    if (process.argv[2] !== undefined && process.argv[2] !== operation) continue
    const chosen = policies.filter(({ name }) => only === undefined || name.includes(only))
    const begun = performance.now()
    const report = await Effect.runPromise(replay({ calls, operation, seed: 17 }, chosen))
    process.stderr.write(`${chosen.length} policies: ${Math.round(performance.now() - begun)} ms\n`)
    process.stdout.write(`\n${operation}, ${calls.length} calls\n\n${table(report, needed(calls))}\n`)
  }
}
