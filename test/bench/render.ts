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
  megabytes: "memory grown by",
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

const times = (value: number): string => `${value.toFixed(2)}×`

/**
 * One table per case: a row per subject, a column per metric, and the first metric as a multiple of the floor's in the same
 * round, or of the first subject's median where they had no rounds together.
 */
export const tables = (results: ReadonlyArray<Result>): ReadonlyArray<Table> =>
  groupBy(results, (one) => `${one.group}\n${one.case}`).map(([, all]) => {
    const metrics = groupBy(all, (one) => one.metric).map(([metric]) => metric).filter((metric) => metric !== "ratio")
    const first = all.find((one) => one.metric === metrics[0])!
    const rows = groupBy(all, (one) => one.subject).map(([subject, own]) => {
      const main = own.find((one) => one.metric === metrics[0])
      const cells = metrics.map((metric) => {
        const one = own.find((candidate) => candidate.metric === metric)
        if (one === undefined) return ""
        const spread = one.runs > 1 ? ` (${figure(one.min, one.unit)} – ${figure(one.max, one.unit)})` : ""
        return `${figure(one.median, one.unit)}${metric === metrics[0] ? spread : ""}`
      })
      const ratio = own.find((one) => one.metric === "ratio")
      const multiple = ratio === undefined
        ? (main === undefined ? "" : times(main.median / first.median))
        : `${times(ratio.median)} (${ratio.min.toFixed(2)} – ${ratio.max.toFixed(2)})`
      return [subject].concat(cells, multiple)
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

const over = (a: number | undefined, b: number | undefined): number | undefined =>
  a === undefined || b === undefined ? undefined : a / b

/** Against raw undici. Those that are apart have no rounds in common with it, and the medians are compared. */
const ratioOf = (results: ReadonlyArray<Result>, name: string, subject: string): number | undefined => {
  const metric = results.find((one) => one.case === name)?.metric
  return find(results, name, subject, "ratio") ??
    over(find(results, name, subject, metric), find(results, name, "undici", metric))
}

export const goals = (results: ReadonlyArray<Result>): ReadonlyArray<Goal> => {
  const list: Array<Goal> = []
  const add = (what: string, wanted: string, value: number | undefined, show: (value: number) => string): void => {
    if (value !== undefined) list.push({ what, wanted, got: show(value) })
  }
  const less = (a: number | undefined, b: number | undefined): number | undefined =>
    a === undefined || b === undefined ? undefined : a - b
  const nanos = (value: number): string => figure(value, "ns")
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
  const floored = (name: string, what: string, wanted: string): void =>
    add(what, wanted, ratioOf(results, name, ours), times)
  const text = "… against hand-written promises, in the same rounds:"
  floored("a text", `${text} a text`, "≤ 1.75×")
  floored("a text, asynchronous provider", `${text} a text, asynchronous provider`, "≤ 2.4×")
  floored("with temperature and maxTokens", `${text} with temperature and maxTokens`, "≤ 2.2×")
  floored("with a new key each", `${text} with a new key each`, "≤ 3.5×")
  floored("four messages and a tool", `${text} four messages and a tool`, "≤ 3.5×")
  const cpuOf = (name: string, subject = ours) => find(results, name, subject, "cpu")
  const twenty = "twenty messages and a tool"
  const named = cpuOf(twenty, "JSON.stringify and SHA-256")
  add(
    "twenty messages and a tool, beyond a text, against JSON.stringify and SHA-256 of the same",
    "≤ 1.5×",
    over(less(cpuOf(twenty), cpuOf("a text")), named),
    times
  )
  add(
    "as promises against as a fibre, a text",
    "≤ 1.1×",
    over(cpuOf("a text", `${ours}, as promises`), cpuOf("a text")),
    times
  )
  add("cockatiel against ours, a text", "≥ 2×", over(cpuOf("a text", "cockatiel"), cpuOf("a text")), times)
  const inTheLongRun = (name: string): string => `${name}, in the long run`
  const longRun = inTheLongRun("64 at a time")
  const [one, many, apart] = ["1 at a time", "512 at a time", "64 at a time, apart"] as const
  const streams = "streams of 100 chunks, 16 at a time"
  const streamsApart = inTheLongRun(`${streams}, apart`)
  const floors = [
    ["≤ 1.6×, aim 1.4×", ["64 at a time", longRun, apart, inTheLongRun(apart)]],
    ["within 10 % of that", [one, inTheLongRun(`${one}, apart`), many, inTheLongRun(many)]],
    ["≤ 1.25×", [streams, inTheLongRun(streams), streamsApart]]
  ] as const
  for (const [wanted, names] of floors) {
    for (const name of names) floored(name, `HTTP, ${name}: against raw undici`, wanted)
  }
  const peers = [
    ["64 at a time", "openai", "≥ 3.3×"],
    ["64 at a time", "AI SDK", "≥ 4×"],
    ["64 at a time", "LangChain", "≥ 4×"],
    ["64 at a time", "hand-written promises on fetch", "≥ 2×"],
    ["64 at a time", "resilient-llm", ""],
    [longRun, "openai", "≥ 3.3×"],
    [longRun, "AI SDK", "≥ 4×"],
    [longRun, "LangChain", "≥ 4×"],
    [longRun, "hand-written promises on fetch", "≥ 2×"],
    [inTheLongRun(apart), "openai", "≥ 3.3×"],
    [inTheLongRun(apart), "AI SDK", "≥ 4×"],
    [inTheLongRun(apart), "LangChain", "≥ 4×"],
    [inTheLongRun(apart), "hand-written promises on fetch", "≥ 2×"],
    [streams, "openai", "≥ 1.6×"],
    [streams, "AI SDK", "≥ 5×"],
    [inTheLongRun(streams), "openai", "≥ 1.6×"],
    [inTheLongRun(streams), "AI SDK", "≥ 5×"],
    [streamsApart, "openai", "≥ 1.6×"],
    [streamsApart, "AI SDK", "≥ 5×"]
  ] as const
  for (const [name, peer, wanted] of peers) {
    add(`HTTP, ${name}: ${peer} against ours`, wanted, over(cpuOf(name, peer), cpuOf(name)), times)
  }
  const late = "10,000 at a time, answers after 2 s"
  floored(late, `HTTP, ${late}: memory against raw undici's`, "≤ 1.4×")
  return list
}

/** Whose CPU a call over HTTP is: the medians of one case, each row what it adds to the rows above it. */
const layersOf = (results: ReadonlyArray<Result>, name: string): ReadonlyArray<ReadonlyArray<string>> => {
  const cpu = (subject: string): number | undefined => find(results, name, subject, "cpu")
  const [floor, transport, whole] = [cpu("undici"), cpu("DispatcherHttpClient alone"), cpu(ours)]
  const bare = cpu(`${ours}, every pattern off`)
  if (floor === undefined || transport === undefined || whole === undefined) return []
  const row = (what: string, value: number): ReadonlyArray<string> => [
    name,
    what,
    figure(value, "µs"),
    `${Math.round(value / whole * 100)} %`
  ]
  return [
    row("floor: raw undici, and `JSON.parse`", floor),
    row("Effect's: an `HttpClient` and a fibre over it", transport - floor),
    ...(bare === undefined
      ? [row("ours: adapter and pipeline", whole - transport)]
      : [
        row("ours: the adapter, and a client with every pattern off", bare - transport),
        row("ours: every pattern", whole - bare)
      ])
  ]
}

/** What ours could take of the floor at most, if other libraries took as many times as much as was wanted. */
const roomFor = (
  results: ReadonlyArray<Result>,
  name: string,
  peers: ReadonlyArray<readonly [peer: string, wanted: number]>
): string => {
  const of = (subject: string) => ratioOf(results, name, subject)
  const bare = of(`${ours}, every pattern off`)
  const rooms = peers.flatMap(([peer, wanted]) => {
    const taken = of(peer)
    return taken === undefined
      ? []
      : [`${peer} takes ${times(taken)} of the floor, ${wanted} times less is ${times(taken / wanted)}`]
  })
  return bare === undefined
    ? ""
    : `- _Other libraries over HTTP_, ${name}: ${rooms.join("; ")}. Ours with every pattern off takes ${times(bare)}.\n`
}

const rooms = (results: ReadonlyArray<Result>): string =>
  roomFor(results, "64 at a time, in the long run", [
    ["openai", 3.3],
    ["AI SDK", 4],
    ["LangChain", 4],
    ["hand-written promises on fetch", 2]
  ]) + roomFor(results, "streams of 100 chunks, 16 at a time, in the long run", [["openai", 1.6], ["AI SDK", 5]])

/** What a chunk could take beyond the floor, and what it takes. */
const roomForStreams = (results: ReadonlyArray<Result>): string => {
  const name = "streams of 100 chunks, 16 at a time, in the long run"
  const [floor, transport, whole] = ["undici", "DispatcherHttpClient alone", ours]
    .map((subject) => find(results, name, subject, "cpu"))
  if (floor === undefined || transport === undefined || whole === undefined) return ""
  const aChunk = (cpu: number): string => figure(Math.max(0, cpu) / 100, "µs")
  return `In the long run 1.25 times the floor would leave ${aChunk(floor / 4)} a chunk; the transport takes ` +
    `${aChunk(transport - floor)}, and all of it ${aChunk(whole - floor)}.`
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

/** A stack, outermost frame first, and its time. */
interface Stack {
  readonly stack: ReadonlyArray<string>
  readonly time: number
}

interface Frame {
  readonly name: string
  time: number
  readonly inner: Map<string, Frame>
}

const WIDTH = 1200
const ROW = 16
/** A frame that is narrower is left out, with all in it. */
const NARROWEST = 5

const colors: Readonly<Record<string, string>> = { undici: "#cbd5e1", Effect: "#fcd34d", ours: "#93c5fd" }

/** Stacks as a flame chart: the widths are shares of the time, callers stand above what they call. */
export const asFlame = (stacks: ReadonlyArray<Stack>, ownerOf: (frame: string) => string): string => {
  const root: Frame = { name: "", time: 0, inner: new Map() }
  for (const { stack, time } of stacks) {
    let at = root
    root.time += time
    for (const name of stack) {
      let next = at.inner.get(name)
      if (next === undefined) at.inner.set(name, next = { name, time: 0, inner: new Map() })
      next.time += time
      at = next
    }
  }
  const scale = WIDTH / root.time
  const boxes: Array<string> = []
  let deepest = 0
  const draw = (frame: Frame, x: number, depth: number): void => {
    let left = x
    for (const inner of [...frame.inner.values()].toSorted((a, b) => b.time - a.time)) {
      const width = inner.time * scale
      if (width < NARROWEST) continue
      deepest = Math.max(deepest, depth)
      const owner = ownerOf(inner.name)
      const color = colors[owner.split(/[: ]/)[0]!] ?? "#e2e8f0"
      const label = inner.name.slice(inner.name.indexOf(": ") + 2).slice(0, Math.max(0, Math.floor(width / 6) - 1))
      const y = depth * ROW
      boxes.push(
        `<rect x="${left.toFixed(1)}" y="${y}" width="${(width - 0.5).toFixed(1)}" height="${
          ROW - 1
        }" fill="${color}">` +
          `<title>${escape(inner.name)}, ${inner.time.toFixed(1)} µs</title></rect>` +
          (label.length < 3 ? "" : `<text x="${(left + 2).toFixed(1)}" y="${y + 11}">${escape(label)}</text>`)
      )
      draw(inner, left, depth + 1)
      left += width
    }
  }
  draw(root, 0, 0)
  const height = (deepest + 1) * ROW
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${height}" font-family="monospace" font-size="10">
${boxes.join("\n")}
</svg>
`
}

/** `aboutOf`: when, on what and of which commit a group was measured. */
export const asPage = (results: ReadonlyArray<Result>, aboutOf: (group: string) => string): string => {
  const goalTable: Table = {
    group: "",
    case: "",
    head: ["target", "wanted", "measured"],
    rows: goals(results).map(({ got, wanted, what }) => [what, wanted, got])
  }
  const layers = ["64 at a time", "streams of 100 chunks, 16 at a time"]
    .flatMap((name) => [name, `${name}, in the long run`].flatMap((one) => layersOf(results, one)))
  const sections = groupBy(tables(results), (table) => table.group).map(([group, all]) =>
    [
      `## ${headings[group] ?? group}`,
      aboutOf(group),
      ...all.flatMap((table) => [`### ${table.case}`, asMarkdown(table)])
    ].join("\n\n")
  )
  return `# Performance

Written by \`npm run bench\`, never by hand. Medians of interleaved rounds, in brackets the lowest and highest; ratios are to
the first row. Each section is of one run, and says of which.

![What a successful call costs](performance.svg)

## Targets

${asMarkdown(goalTable)}

¹ First wanted was 5×, when a pipeline of such blocks was thought to cost 35 to 55 µs. A fifth of what they are measured to
cost is what the hand-written promises take, which do far less.

## Where a target is missed

- _Over HTTP_ the rest is above all fibres and suspensions: the caller's, the call's own, so that a client that closes takes its
  calls along, and the attempt's, so that a timer can leave it behind. With every pattern off a good part of the distance to
  the floor is left, as the table below shows. A third of the adapter's time is JSON, which the floor has, too; and undici, Node and
  the kernel take about a quarter more for the same call beside ours than alone, as sampled by \`perf\`.
${
    rooms(results)
  }- _Compiled code_ goes with a full collection, and each round begins with one, while nothing is under way: V8 then collects
  objects that optimized functions refer to, and those functions with them (835 in 20 rounds of 1,000 calls; none at the three
  full collections that 120,000 calls brought about by themselves). The first thousands of calls after it take up to twice as
  long, raw undici's, too. So there are rounds of 10,000 calls, or of 2,000 streams, as well, called "in the long run"; the
  others have 300 to 1,536 calls, or 96 streams. \`apart, in the long run\` nothing is collected by force, as it is not on a server.
- _Company_: in a process that others share, compiled code has to serve all of them, and all objects are collected together.
- _Collections_ differ by luck from one process to the next, raw undici's, too: V8 makes those kinds of literals old at once of
  which all survived its first, small collections, as they do with 64 calls in flight. In a third to a half of the processes
  16 % of what our calls make survives a quick collection, instead of 4 %, most of which is the cache's. A figure that compares
  two processes of ours differs by that: in six runs, on hosts of different speed, _failover past an open breaker_ was 1.00 to
  1.53 times a success, Effect's own blocks took 2.7 to 4.1 times as much as ours, and LangChain 7.5 to 11.4 times.
- _Streams_ wake their reader for each chunk of the socket, and pass each part through what keeps, counts and times it. Over a
  dispatcher of a test, without undici and kernel, a chunk of one event takes about 6.5 µs; to decode and parse it alone, 1.7.
  ${roomForStreams(results)}
- _In process, against other libraries_: cockatiel reads nothing of the prompts of 500 to 2,000 characters, and keeps no answer;
  with a prompt of 100 characters, where each has a process of its own, it takes more than twice as long as ours.

## What is floor, what is Effect's, what is ours

${asMarkdown({ group: "", case: "", head: ["case", "whose", "client CPU", "share"], rows: layers })}

![The stacks of one call: undici and Node grey, Effect yellow, ours blue](flame.svg)

${sections.join("\n\n")}

## How it is measured

- What is measured is what is published: \`dist\`, built before. Under Node's way to run TypeScript, classes have fields
  that tsc does not write, and a call takes longer.
- _In process_: a provider that answers at once, a prompt of 100 characters. Ours and Effect's run inside one fibre, the
  others in an async loop. The bucket is made so large that the benchmark cannot empty it; everything else is as shipped.
  \`allocated\` is the growth of the heap over a few calls without a collection between.
- _Peers_ do what their documentation shows, which is less: cockatiel has no limiter, idempotency or cache; opossum,
  LangChain and the AI SDK have retries and fallbacks only. Effect's own blocks are \`ExecutionPlan\`, \`retry\`, circuit
  breaker, rate limiter and \`timeout\`; all of them adds what else Effect has for the job: \`Semaphore\`, a second
  \`timeout\`, \`Cache\`. The hand-written pipeline has each pattern in its simplest form,
  without ledger, cancellation, budget, typed errors or bounds.
- _Requests_ and _HTTP_: another prompt in every call, 512 of them in turn, of 500 to 2,000 characters. All subjects of a
  case take turns in one process, in an order that is drawn for each round, because what one leaves behind is collected while
  the next one is measured; and each round's CPU time (user plus system) is divided by the floor's in the same round:
  the hand-written promises, or raw undici. \`apart\` gives each a process of its own, and divides medians. The server has its
  own process too. What is called "in the long run" has three processes one after the other.
- _What is floor_: raw undici sends the request, parses the head and collects the body, and the answer is parsed as JSON.
  \`DispatcherHttpClient alone\` adds what an HTTP client of Effect needs; \`effect-resilient-llm\` adds the provider's
  adapter and the pipeline. Undici's \`request\` reads bodies through a Node stream, \`DispatcherHttpClient\` does not, which
  is why Effect's share can be below zero. What Effect's own client takes for the same is in the row \`Effect's undici client alone\`.
- _The chart_, and the times by whose code it is, are of V8's sampling profiler: \`npm run bench -- --only flame\`.
- _Soak_: \`npm run soak\` runs a million calls with faults, \`npm run soak -- --http\` over HTTP, and fails when heap, fibres,
  timers, listeners or sockets grow. 64 calls at a time survive in a heap of 64 MB
  (\`NODE_OPTIONS=--max-old-space-size=64 npm run soak -- 50000 --http\`); 10,000 at a time do not, as they do not with undici.
`
}

const headings: Readonly<Record<string, string>> = {
  requests: "Requests, in process",
  "in-process": "The pipeline, in process",
  streaming: "Streams, per part",
  growth: "Growth",
  http: "Over HTTP",
  flame: "One call over HTTP, by whose code it is",
  state: "Shared state",
  bundle: "Bundle size"
}
