// The results as a table for a terminal, as a page, and as a chart.
import type { Result } from "./measure.ts"

const round = (value: number): string => {
  if (value >= 100) return Math.round(value).toLocaleString("en")
  return value >= 10 ? value.toFixed(1) : value.toFixed(2)
}

/** A figure in the unit a reader thinks in. */
export const figure = (value: number, unit: string): string => {
  if (unit === "ns") return value >= 1000 ? `${round(value / 1000)} µs` : `${Math.round(value)} ns`
  if (unit === "µs") return value >= 10_000 ? `${round(value / 1000)} ms` : `${round(value)} µs`
  if (unit === "B") return value >= 10_240 ? `${round(value / 1024)} KiB` : `${Math.round(value)} B`
  return `${round(value)} ${unit}`
}

const names: Readonly<Record<string, string>> = {
  time: "time",
  allocated: "allocated",
  cpu: "client CPU",
  perSecond: "throughput",
  p50: "p50",
  p99: "p99",
  peakMegabytes: "peak memory",
  minified: "minified",
  gzipped: "gzipped"
}

export interface Table {
  readonly group: string
  readonly case: string
  readonly head: ReadonlyArray<string>
  readonly rows: ReadonlyArray<ReadonlyArray<string>>
}

const groupBy = <A>(
  all: ReadonlyArray<A>,
  key: (one: A) => string
): ReadonlyArray<readonly [string, ReadonlyArray<A>]> => {
  const groups = new Map<string, Array<A>>()
  for (const one of all) {
    const group = groups.get(key(one))
    if (group === undefined) groups.set(key(one), [one])
    else group.push(one)
  }
  return [...groups]
}

/** One table per case: a row per subject, a column per metric, and the first metric as a multiple of the first subject. */
export const tables = (results: ReadonlyArray<Result>): ReadonlyArray<Table> =>
  groupBy(results, (one) => `${one.group}\n${one.case}`).map(([, all]) => {
    const metrics = groupBy(all, (one) => one.metric).map(([metric]) => metric)
    const first = all.find((one) => one.metric === metrics[0])!
    const rows = groupBy(all, (one) => one.subject).map(([subject, own]) => {
      const main = own.find((one) => one.metric === metrics[0])
      const cells = metrics.map((metric) => {
        const one = own.find((candidate) => candidate.metric === metric)
        if (one === undefined) return ""
        const spread = one.runs > 1 ? ` (${figure(one.min, one.unit)} – ${figure(one.max, one.unit)})` : ""
        return `${figure(one.median, one.unit)}${metric === metrics[0] ? spread : ""}`
      })
      return [subject].concat(cells, main === undefined ? "" : `${(main.median / first.median).toFixed(2)}×`)
    })
    return { group: first.group, case: first.case, head: ["", ...metrics.map((m) => names[m] ?? m), "ratio"], rows }
  })

const widths = ({ head, rows }: Table): ReadonlyArray<number> =>
  head.map((cell, i) => Math.max(cell.length, ...rows.map((row) => row[i]?.length ?? 0)))

export const asText = (results: ReadonlyArray<Result>): string =>
  tables(results).map((table) => {
    const width = widths(table)
    const line = (row: ReadonlyArray<string>): string =>
      `  ${row.map((cell, i) => i === 0 ? cell.padEnd(width[i]!) : cell.padStart(width[i]!)).join("  ")}`.trimEnd()
    return [`${table.group}: ${table.case}`, line(table.head), ...table.rows.map(line)].join("\n")
  }).join("\n\n")

const asMarkdown = (table: Table): string => {
  const width = widths(table)
  const line = (row: ReadonlyArray<string>): string => `| ${row.map((cell, i) => cell.padEnd(width[i]!)).join(" | ")} |`
  return [line(table.head), `| ${width.map((w) => "-".repeat(w)).join(" | ")} |`, ...table.rows.map(line)].join("\n")
}

/** A target of ours next to what was measured. */
export interface Goal {
  readonly what: string
  readonly wanted: string
  readonly got: string
}

const find = (results: ReadonlyArray<Result>, name: string, subject: string, metric = "time"): number | undefined =>
  results.find((one) => one.case === name && one.subject === subject && one.metric === metric)?.median

const ours = "effect-resilient-llm"

export const goals = (results: ReadonlyArray<Result>): ReadonlyArray<Goal> => {
  const list: Array<Goal> = []
  const add = (what: string, wanted: string, value: number | undefined, show: (value: number) => string): void => {
    if (value !== undefined) list.push({ what, wanted, got: show(value) })
  }
  const over = (a: number | undefined, b: number | undefined): number | undefined =>
    a === undefined || b === undefined ? undefined : a / b
  const less = (a: number | undefined, b: number | undefined): number | undefined =>
    a === undefined || b === undefined ? undefined : a - b
  const nanos = (value: number): string => figure(value, "ns")
  const times = (value: number): string => `${value.toFixed(2)}×`
  const success = find(results, "success", ours)
  add("everything on, success, synchronous provider", "≤ 5 µs", success, nanos)
  add(
    "… against hand-written promises",
    "≤ 2×",
    over(success, find(results, "success", "hand-written promises")),
    times
  )
  add("… asynchronous provider", "≤ 10 µs", find(results, "success, asynchronous provider", ours), nanos)
  for (
    const [peer, wanted] of [
      ["cockatiel", "≥ 2×"],
      ["Effect's own blocks", "≥ 3× ¹"],
      ["all of Effect's own blocks", "≥ 3× ¹"],
      ["LangChain", "≥ 8×"],
      ["AI SDK", "≥ 8×"]
    ] as const
  ) add(`${peer} against ours`, wanted, over(find(results, "success", peer), success), times)
  add("replay of a key, the pattern alone", "≤ 1 µs", find(results, "each pattern alone", "idempotency, replay"), nanos)
  add(
    "replay of a key, the client with its content check",
    "measured",
    find(results, "replay of a given key", ours),
    nanos
  )
  add(
    "failover past an open breaker against success",
    "≤ 1.3×",
    over(find(results, "failover past an open breaker", ours), success),
    times
  )
  add("rejection by an open breaker", "≤ 2 µs", find(results, "rejection by an open breaker", ours), nanos)
  add(
    "off against off again",
    "1×",
    over(find(results, "what is on", "everything off again"), find(results, "what is on", "everything off")),
    times
  )
  add(
    "added by metrics, to a call with everything on",
    "≤ 1 µs",
    less(find(results, "what is observed", "metrics"), find(results, "what is observed", "nothing")),
    nanos
  )
  for (const [perChunk, wanted] of [[1, "≤ 2 µs"], [2, "≤ 1 µs"], [5, "≤ 1 µs"]] as const) {
    for (const how of ["at once", "asynchronous"]) {
      const name = `${perChunk} ${perChunk === 1 ? "part" : "parts"} in a chunk, ${how}`
      add(
        `added per part, ${name}`,
        wanted,
        less(find(results, name, ours), find(results, name, "decoding alone")),
        nanos
      )
    }
  }
  const cpu = (subject: string): number | undefined => find(results, "64 at a time", subject, "cpu")
  add(
    "HTTP, 64 at a time: CPU against Effect's HttpClient",
    "≤ 1.2×",
    over(cpu(ours), cpu("Effect's HttpClient on undici")),
    times
  )
  add("… against raw undici", "aim 2×", over(cpu(ours), cpu("undici")), times)
  for (const peer of ["openai SDK", "AI SDK", "LangChain"]) {
    add(`… ${peer} against ours`, "≥ 3× ²", over(cpu(peer), cpu(ours)), times)
    add(`… ${peer} against Effect's HttpClient`, "", over(cpu(peer), cpu("Effect's HttpClient on undici")), times)
  }
  return list
}

const escape = (text: string): string => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;")

/** Horizontal bars of one metric of one case, shortest first. */
export const asSvg = (title: string, results: ReadonlyArray<Result>): string => {
  const sorted = results.toSorted((a, b) => a.median - b.median)
  const longest = Math.max(...sorted.map((one) => one.median))
  const bars = sorted.map((one, i) => {
    const y = 44 + i * 30
    const width = Math.max(2, one.median / longest * 380)
    const color = one.subject === ours ? "#2563eb" : "#94a3b8"
    return `  <text x="190" y="${y + 14}" text-anchor="end">${escape(one.subject)}</text>
  <rect x="200" y="${y}" width="${width.toFixed(1)}" height="20" rx="3" fill="${color}"/>
  <text x="${(208 + width).toFixed(1)}" y="${y + 14}">${figure(one.median, one.unit)}</text>`
  })
  const height = 60 + sorted.length * 30
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 680 ${height}" font-family="system-ui, sans-serif" font-size="13">
  <rect width="680" height="${height}" fill="#ffffff"/>
  <g fill="#0f172a">
  <text x="16" y="26" font-size="15" font-weight="600">${escape(title)}</text>
${bars.join("\n")}
  </g>
</svg>
`
}

export const asPage = (results: ReadonlyArray<Result>, machine: string): string => {
  const goalTable: Table = {
    group: "",
    case: "",
    head: ["target", "wanted", "measured"],
    rows: goals(results).map(({ got, wanted, what }) => [what, wanted, got])
  }
  const sections = groupBy(tables(results), (table) => table.group).map(([group, all]) =>
    [`## ${headings[group] ?? group}`, ...all.flatMap((table) => [`### ${table.case}`, asMarkdown(table)])].join("\n\n")
  )
  return `# Performance

Written by \`npm run bench\`, never by hand. Medians of interleaved rounds, in brackets the lowest and highest; ratios are to
the first row. ${machine}

![What a successful call costs](performance.svg)

## Targets

${asMarkdown(goalTable)}

¹ First wanted was 5×, when a pipeline of such blocks was thought to cost 35 to 55 µs. A fifth of what they are measured to
cost is what the hand-written promises take, which do far less.

² First wanted was 4×, from a machine on which the SDKs cost five to six times as much as Effect's bare HttpClient. Where
they cost about four times as much, as the rows below them say, nothing that is built on that client can reach it.

${sections.join("\n\n")}

## How it is measured

- _In process_: a provider that answers at once, a prompt of 100 characters. Ours and Effect's run inside one fibre, the
  others in an async loop. The bucket is made so large that the benchmark cannot empty it; everything else is as shipped.
  \`allocated\` is the growth of the heap over a few calls without a collection between.
- _Peers_ do what their documentation shows, which is less: cockatiel has no limiter, idempotency or cache; opossum,
  LangChain and the AI SDK have retries and fallbacks only. Effect's own blocks are \`ExecutionPlan\`, \`retry\`, circuit
  breaker, rate limiter and \`timeout\`; all of them adds what else Effect has for the job: \`Semaphore\`, a second
  \`timeout\`, \`Cache\`. The hand-written pipeline has each pattern in its simplest form,
  without ledger, cancellation, budget, typed errors or bounds.
- _HTTP_: loopback, server and each client in processes of their own, clients in turn. CPU is user plus system time of the
  client's process.
- _Soak_: \`npm run soak\` runs a million calls with faults and fails when anything grows.
`
}

const headings: Readonly<Record<string, string>> = {
  "in-process": "In process",
  streaming: "Streams, per part",
  growth: "Growth",
  http: "Over HTTP",
  bundle: "Bundle size"
}
