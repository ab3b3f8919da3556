// A report as text: Markdown whose columns stand below each other.
import type { PolicyReport, Report } from "../../Simulator.ts"

export const seconds = (millis: number): string =>
  millis < 999.5 ? `${Math.round(millis)} ms` : `${(millis / 1000).toFixed(1)} s`

/** Never more than it is: 99.999 % is not all. */
export const percent = (share: number): string => `${(Math.floor(share * 10_000 + 1e-9) / 100).toFixed(2)} %`

export const tokens = (count: number): string => `${(count / 1e6).toFixed(2)} M`

export const table = (report: Report): string => {
  const { about, calls, operation, policies, scenario, seed } = report
  const title = `${scenario}: ${calls} calls, ${operation === "stream" ? "streams" : "whole answers"}, seed ${seed}`
  const sections = [
    about === undefined ? clean(title) : `${clean(title)}\n${clean(about)}`,
    grid([
      [
        "policy",
        "answered",
        "p50",
        "p95",
        "p99",
        "p99.9",
        "longest",
        ...(operation === "stream" ? ["first p50", "first p99"] : [])
      ],
      ...policies.map(({ availability, firstToken, latency: { longest, p50, p95, p99, p999 }, name }) => [
        name,
        percent(availability),
        ...[p50, p95, p99, p999, longest].map(seconds),
        ...(operation === "stream" ? [firstToken.p50, firstToken.p99].map(seconds) : [])
      ])
    ]),
    grid([
      ["policy", "attempts", "retries", "failovers", "hedges", "stale", "cached", "extra tokens"],
      ...policies.map(({ attempts, cached, extraTokens, failovers, hedges, name, retries, stale }) => [
        name,
        ...[attempts, retries, failovers, hedges, stale, cached].map(String),
        `${(extraTokens * 100).toFixed(1)} %`
      ])
    ]),
    grid([
      ["policy", "vendor", "requests", "failed", "tokens in", "tokens out"],
      ...policies.flatMap(({ name, vendors }) =>
        vendors.map(({ failures, id, inputTokens, outputTokens, requests }) => [
          name,
          id,
          `${requests}`,
          `${failures}`,
          tokens(inputTokens),
          tokens(outputTokens)
        ])
      )
    ]),
    ...callers(policies),
    ...failures(policies)
  ]
  return `${sections.join("\n\n")}\n`
}

const callers = (policies: ReadonlyArray<PolicyReport>): ReadonlyArray<string> => {
  const rows = policies.flatMap(({ callers, name }) =>
    callers.map(({ answered, calls, latency, priority, tenant }) => [
      name,
      tenant ?? "–",
      priority ?? "–",
      `${calls}`,
      percent(answered / calls),
      seconds(latency.p50),
      seconds(latency.p99)
    ])
  )
  return rows.length === policies.length
    ? []
    : [grid([["policy", "tenant", "priority", "calls", "answered", "p50", "p99"], ...rows])]
}

const failures = (policies: ReadonlyArray<PolicyReport>): ReadonlyArray<string> => {
  const rows = policies.flatMap(({ errors, name }) =>
    Object.entries(errors).map(([error, count]) => [name, error, `${count}`])
  )
  return rows.length === 0 ? [] : [grid([["policy", "error", "calls"], ...rows])]
}

/** What a cell could end is not in it. */
const clean = (cell: string): string => cell.replace(/[|\p{Cc}]/gu, " ")

const grid = (rows: ReadonlyArray<ReadonlyArray<string>>): string => {
  const cells = rows.map((row) => row.map(clean))
  const widths = cells[0]!.map((_, i) => Math.max(3, ...cells.map((row) => row[i]!.length)))
  const line = (row: ReadonlyArray<string>): string =>
    `| ${row.map((cell, i) => cell.padEnd(widths[i]!)).join(" | ")} |`
  const [head, ...others] = cells
  return [line(head!), line(widths.map((width) => "-".repeat(width))), ...others.map(line)].join("\n")
}
