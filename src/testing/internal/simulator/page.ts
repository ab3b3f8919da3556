// A report as one page: tables and charts, without a script and without anything from elsewhere.
import type { PolicyReport, Report } from "../../Simulator.ts"
import { areas, type Bar, lines, rows, text, type Time } from "./charts.ts"
import { percent, seconds, tokens } from "./table.ts"

const COLOURS = 8

export const page = (report: Report): string => {
  const { about, arrivals, calls, interval, operation, policies, scenario, seed } = report
  const time: Time = { interval, intervals: arrivals.length }
  const streams = operation === "stream"
  const line = (of: (policy: PolicyReport) => ReadonlyArray<number | null>) =>
    policies.map((policy, i) => ({ name: policy.name, colour: i % COLOURS, values: of(policy) }))
  const whole = (value: number): string => String(Math.round(value * 100) / 100)
  const most = Math.max(...policies.map(({ series }) => busiest(series.requests)))
  return [
    HEAD.replace("TITLE", text(scenario)),
    `<h1>${text(scenario)}</h1>`,
    about === undefined ? "" : `<p>${text(about)}</p>`,
    `<p class="quiet">${calls} calls, ${streams ? "streams" : "whole answers"}, seed ${seed}, ` +
    `production pipeline in virtual time. A point is ${whole(interval / 1000)} s; a call counts where it arrived.</p>`,
    legend(policies.map(({ name }) => name)),
    summary(report),
    section(
      "Calls that arrived",
      areas({ label: "arrivals", time, lines: [{ name: "calls", colour: 7, values: arrivals }], show: whole })
    ),
    phases(report, time),
    section(
      "Answered",
      lines({
        label: "answered share",
        time,
        lines: line(({ series }) =>
          series.answered.map((count, i) => {
            const all = count + series.failed[i]!
            return all === 0 ? null : 100 * count / all
          })
        ),
        max: 100,
        show: (value) => `${whole(value)} %`
      })
    ),
    section(
      "The slowest hundredth",
      lines({ label: "p99", time, lines: line(({ series }) => series.p99), show: shortly, isLogarithmic: true })
    ),
    section(
      "Calls in flight",
      lines({ label: "in flight", time, lines: line(({ series }) => series.inFlight), show: whole })
    ),
    policies.some(({ series }) => series.queued.some((count) => count > 0))
      ? section(
        "Calls that wait in a line",
        lines({ label: "queued", time, lines: line(({ series }) => series.queued), show: whole })
      )
      : "",
    ...policies.map((policy) => one(policy, time, most, whole)),
    "</main></body></html>\n"
  ].join("\n")
}

const shortly = (millis: number): string => millis < 1000 ? `${millis} ms` : `${millis / 1000} s`

const section = (title: string, inside: string): string => `<section><h2>${text(title)}</h2>${inside}</section>`

const legend = (names: ReadonlyArray<string>): string =>
  `<p class="legend">${names.map((name, i) => `<span class="key c${i % COLOURS}"></span>${text(name)}`).join(" ")}</p>`

const cells = (tag: "td" | "th", row: ReadonlyArray<string>): string =>
  `<tr>${row.map((cell) => `<${tag}>${text(cell)}</${tag}>`).join("")}</tr>`

const grid = (head: ReadonlyArray<string>, body: ReadonlyArray<ReadonlyArray<string>>): string =>
  `<table><thead>${cells("th", head)}</thead><tbody>${body.map((row) => cells("td", row)).join("")}</tbody></table>`

const summary = ({ operation, policies }: Report): string => {
  const streams = operation === "stream"
  return grid(
    [
      "policy",
      "answered",
      "p50",
      "p95",
      "p99",
      "p99.9",
      ...(streams ? ["first token p50", "p99"] : []),
      "attempts",
      "retries",
      "failovers",
      "hedges",
      "stale",
      "extra tokens"
    ],
    policies.map((
      { attempts, availability, extraTokens, failovers, firstToken, hedges, latency, name, retries, stale }
    ) => [
      name,
      percent(availability),
      ...[latency.p50, latency.p95, latency.p99, latency.p999].map(seconds),
      ...(streams ? [firstToken.p50, firstToken.p99].map(seconds) : []),
      ...[attempts, retries, failovers, hedges, stale].map(String),
      `${(extraTokens * 100).toFixed(1)} %`
    ])
  )
}

const phases = ({ phases, policies }: Report, time: Time): string => {
  const vendors = policies[0]?.vendors ?? []
  const bars = vendors.map(({ id }) => [id, phases.filter(({ vendor }) => vendor === id)] as const)
  return phases.length === 0 ? "" : section("What the vendors go through", rows({ label: "phases", time, bars }))
}

const busiest = (requests: PolicyReport["series"]["requests"]): number => {
  const all = Object.values(requests)
  return (all[0] ?? []).reduce((most, _, i) => Math.max(most, all.reduce((sum, one) => sum + one[i]!, 0)), 1)
}

/** What one policy asked of whom, and what its circuits did. */
const one = (policy: PolicyReport, time: Time, most: number, show: (value: number) => string): string => {
  const { callers, circuits, errors, name, series, vendors } = policy
  const asked = vendors.map(({ id }, i) => ({ name: id, colour: i % COLOURS, values: series.requests[id]! }))
  const failed = Object.entries(errors).map(([tag, count]) => `${tag} ${count}`)
  return [
    `<section><h2>${text(name)}</h2>`,
    `<h3>Requests to each vendor</h3>${legend(vendors.map(({ id }) => id))}`,
    areas({ label: `requests of ${name}`, time, lines: asked, show, max: most }),
    circuits.length === 0
      ? ""
      : `<h3>Circuits that are not closed</h3>${
        rows({
          label: `circuits of ${name}`,
          time,
          bars: vendors.map(({ id }) => [id, openings(policy, id, time)] as const)
        })
      }`,
    grid(
      ["vendor", "requests", "failed", "tokens in", "tokens out"],
      vendors.map(({ failures, id, inputTokens, outputTokens, requests }) => [
        id,
        `${requests}`,
        `${failures}`,
        tokens(inputTokens),
        tokens(outputTokens)
      ])
    ),
    callers.length === 1 ? "" : fared(callers),
    failed.length === 0 ? "" : `<p>Failed: ${text(failed.join(", "))}</p>`,
    "</section>"
  ].join("\n")
}

const fared = (callers: PolicyReport["callers"]): string =>
  grid(
    ["tenant", "priority", "calls", "answered", "p50", "p99"],
    callers.map(({ answered, calls, latency, priority, tenant }) => [
      tenant ?? "–",
      priority ?? "–",
      `${calls}`,
      percent(answered / calls),
      seconds(latency.p50),
      seconds(latency.p99)
    ])
  )

const openings = ({ circuits }: PolicyReport, id: string, { interval, intervals }: Time): ReadonlyArray<Bar> => {
  const own = circuits.filter(({ vendor }) => vendor === id)
  return own.flatMap(({ at, to }, i) =>
    to === "closed" ? [] : [{ kind: to, from: at, to: own[i + 1]?.at ?? interval * intervals }]
  )
}

const HEAD = `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>TITLE</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<style>
:root { color-scheme: light dark; --back: #fff; --ink: #1c2024; --quiet: #626b75; --rule: #e3e6ea;
  --c0: #0072b2; --c1: #d55e00; --c2: #009e73; --c3: #aa4499; --c4: #b8860b; --c5: #56b4e9; --c6: #882255; --c7: #8a949e;
  --bad: #c8372d; --warn: #d99a00; --ill: #7a5195; }
@media (prefers-color-scheme: dark) { :root { --back: #14171a; --ink: #e6e9ec; --quiet: #98a2ac; --rule: #2c3238;
  --c0: #56b4e9; --c1: #f08a4b; --c2: #34c79c; --c3: #d68cc8; --c4: #e0b84c; --c5: #9ad4f5; --c6: #d1698f; --c7: #7d8791; } }
body { margin: 0; background: var(--back); color: var(--ink); font: 15px/1.45 system-ui, sans-serif; }
main { max-width: 960px; margin: 0 auto; padding: 24px 20px 48px; }
h1 { font-size: 26px; margin: 0 0 4px; } h2 { font-size: 18px; margin: 28px 0 6px; } h3 { font-size: 14px; margin: 12px 0 2px; }
p { margin: 4px 0 10px; } .quiet { color: var(--quiet); font-size: 13px; }
svg { width: 100%; height: auto; display: block; } svg text { font-size: 11px; fill: var(--quiet); } svg text.on { fill: #fff; }
.grid { stroke: var(--rule); stroke-width: 1; } .line { fill: none; stroke-width: 1.8; stroke-linejoin: round; } .area { opacity: 0.85; }
.line.c0 { stroke: var(--c0); } .line.c1 { stroke: var(--c1); } .line.c2 { stroke: var(--c2); } .line.c3 { stroke: var(--c3); }
.line.c4 { stroke: var(--c4); } .line.c5 { stroke: var(--c5); } .line.c6 { stroke: var(--c6); } .line.c7 { stroke: var(--c7); }
.area.c0 { fill: var(--c0); } .area.c1 { fill: var(--c1); } .area.c2 { fill: var(--c2); } .area.c3 { fill: var(--c3); }
.area.c4 { fill: var(--c4); } .area.c5 { fill: var(--c5); } .area.c6 { fill: var(--c6); } .area.c7 { fill: var(--c7); }
.key { display: inline-block; width: 12px; height: 12px; border-radius: 3px; margin: 0 5px 0 12px; vertical-align: -1px; }
.key:first-child { margin-left: 0; }
.key.c0 { background: var(--c0); } .key.c1 { background: var(--c1); } .key.c2 { background: var(--c2); } .key.c3 { background: var(--c3); }
.key.c4 { background: var(--c4); } .key.c5 { background: var(--c5); } .key.c6 { background: var(--c6); } .key.c7 { background: var(--c7); }
.bar { fill: var(--ill); } .bar.open, .bar.hang, .bar.unreachable { fill: var(--bad); } .bar.half-open, .bar.slow { fill: var(--warn); }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; margin: 8px 0; display: block; overflow-x: auto; }
th, td { text-align: right; padding: 4px 10px; border-bottom: 1px solid var(--rule); white-space: nowrap; }
th { color: var(--quiet); font-weight: 500; } th:first-child, td:first-child { text-align: left; padding-left: 0; }
</style></head><body><main>`
