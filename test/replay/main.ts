// `npm run replay -- [complete|stream] [part of a name]`: the tables of docs/defaults.md.
import type { LlmConfig } from "../../src/index.ts"
import { needed, readTrace, replay, type Scenario, table, traceFile } from "./replay.ts"

const off = { cache: false, idempotency: false, rateLimit: false } as const satisfies LlmConfig.Options

export const scenarios: ReadonlyArray<Scenario> = [
  { name: "defaults", options: off },
  { name: "without failover", options: { ...off, failover: false } },
  { name: "without breaker", options: { ...off, circuitBreaker: false } },
  { name: "nothing", options: { ...off, failover: false, retry: false, circuitBreaker: false } },
  { name: "slow calls (10 s)", options: { ...off, circuitBreaker: { slowCall: { duration: "10 seconds" } } } },
  { name: "attempt limit 20 s", options: { ...off, timeout: { attempt: "20 seconds" } } }
]

const file = traceFile("conv")
if (file === undefined) process.stdout.write("no trace: set LLM_TRACES to the folder that holds it\n")
else {
  const arrivals = readTrace(file)
  const only = process.argv[3]
  for (const operation of ["complete", "stream"] as const) {
    if (process.argv[2] !== undefined && process.argv[2] !== operation) continue
    const reports = scenarios
      .filter(({ name }) => only === undefined || name.includes(only))
      .map((scenario) => {
        const begun = performance.now()
        const report = replay({ arrivals, operation, seed: 17 }, scenario)
        process.stderr.write(
          `${scenario.name}: ${Math.round(performance.now() - begun)} ms ${JSON.stringify(report.errors)}\n`
        )
        return report
      })
    process.stdout.write(`\n${operation}, ${arrivals.length} calls\n\n${table(reports, needed(arrivals))}\n`)
  }
}
