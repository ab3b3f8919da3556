// `node test/replay/cost.ts`: what an hour costs to simulate, a policy at a time.
import { Effect } from "effect"
import type { Simulator } from "../../src/testing/index.ts"
import { readTrace, replay, traceFile } from "./replay.ts"

const off = { cache: false, idempotency: false, rateLimit: false } as const

const policies: ReadonlyArray<Simulator.Policy> = [
  { name: "all defaults" },
  { name: "without stores and bucket", options: off },
  { name: "hedge 10 s", options: { ...off, hedge: { delay: "10 seconds" } } },
  {
    name: "all together",
    options: {
      hedge: { delay: "10 seconds" },
      loadShedding: {},
      routing: { strategy: "fastest" },
      bulkhead: { adaptive: { initial: 50, min: 20, max: 200 }, queue: 1000 }
    }
  }
]

const file = traceFile("conv")
if (file === undefined) process.stdout.write("no trace: set LLM_TRACES to the folder that holds it\n")
else {
  const { calls } = await Effect.runPromise(readTrace(file))
  const rows = ["| | processor | wall |", "| --- | --- | --- |"]
  for (const operation of ["complete", "stream"] as const) {
    for (const policy of policies) {
      const [begun, cpu] = [performance.now(), process.cpuUsage()]
      await Effect.runPromise(replay({ calls, operation, seed: 17 }, [policy]))
      const { system, user } = process.cpuUsage(cpu)
      const wall = performance.now() - begun
      rows.push(
        `| ${operation}, ${policy.name} | ${((user + system) / 1e6).toFixed(2)} s | ${(wall / 1000).toFixed(2)} s |`
      )
    }
  }
  const mebibytes = process.resourceUsage().maxRSS / 1024
  process.stdout.write(`${calls.length} calls\n\n${rows.join("\n")}\n\nmost memory: ${Math.round(mebibytes)} MiB\n`)
}
