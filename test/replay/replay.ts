// An hour of arrivals at a real service, played against two vendors of which the first one fails, and the tables of
// docs/defaults.md.
import type { Effect } from "effect"
import { existsSync, readFileSync } from "node:fs"
import { gunzipSync } from "node:zlib"
import type { LlmError } from "../../src/index.ts"
import { Simulator, type VirtualTime } from "../../src/testing/index.ts"

const folder = process.env["LLM_TRACES"] ?? "../shared/traces"

/** Where the traces are; `undefined`: not on this machine. */
export const traceFile = (name: "conv" | "code"): string | undefined => {
  const file = `${folder}/azure_llm_2023_${name}.csv.gz`
  return existsSync(file) ? file : undefined
}

/** One hour of arrivals: Azure LLM inference trace 2023 (CC-BY 4.0; Patel et al., "Splitwise", ISCA 2024). */
export const readTrace = (file: string): Effect.Effect<Simulator.Trace, LlmError.LlmConfigError> =>
  Simulator.readTrace(gunzipSync(readFileSync(file)).toString("utf8"))

/** The first vendor's hour. */
const outages: ReadonlyArray<Simulator.Phase> = [
  { kind: "overload", share: 0.9, from: "10 minutes", to: "25 minutes" },
  { kind: "hang", from: "35 minutes", to: "40 minutes" }
]

export interface World {
  readonly calls: ReadonlyArray<Simulator.TracedCall>
  readonly operation: "complete" | "stream"
  readonly seed: number
  readonly outages?: ReadonlyArray<Simulator.Phase> | undefined
}

/** Plays the hour with one client after the other. */
export const replay = (
  { calls, operation, outages: phases = outages, seed }: World,
  policies: ReadonlyArray<Simulator.Policy>
): Effect.Effect<Simulator.Report, LlmError.LlmConfigError | VirtualTime.VirtualTimeError> =>
  Simulator.run({
    arrivals: { kind: "trace", calls, operation },
    vendors: [{ id: "first", phases }, { id: "second" }],
    policies,
    seed
  })

// -----------------------------------------------------------------------------
// tables
// -----------------------------------------------------------------------------

const seconds = (millis: number): string => `${(millis / 1000).toFixed(1)} s`
const millions = (tokens: number): string => (tokens / 1e6).toFixed(2)

export const tokensOf = ({ inputTokens, outputTokens }: Simulator.VendorReport): number => inputTokens + outputTokens

/** Markdown. `needed`: what one answer to every call takes. */
export const table = ({ policies }: Simulator.Report, needed: number): string => {
  const head = ["", "p50", "p99", "p99.9", "longest", "answered", "calls 1st", "2nd", "M tokens 1st", "2nd", "extra"]
  const rows = policies.map(({ availability, firstToken: { longest, p50, p99, p999 }, name, vendors }) => {
    const extra = vendors.reduce((sum, vendor) => sum + tokensOf(vendor), 0) / needed - availability
    return [
      name,
      seconds(p50),
      seconds(p99),
      seconds(p999),
      seconds(longest),
      `${(Math.floor(availability * 10_000) / 100).toFixed(2)} %`,
      ...vendors.map(({ requests }) => `${requests}`),
      ...vendors.map((vendor) => millions(tokensOf(vendor))),
      `${(extra * 100).toFixed(1)} %`
    ]
  })
  return [head, head.map(() => "---"), ...rows].map((cells) => `| ${cells.join(" | ")} |`).join("\n")
}

export const needed = (calls: ReadonlyArray<Simulator.TracedCall>): number =>
  calls.reduce((sum, { input, output }) => sum + input + output, 0)
