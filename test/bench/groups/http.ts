// The same request over loopback HTTP by different clients. All of them take turns in one process, so that a slow moment of
// the machine strikes all, and each round's CPU time is compared with raw undici's in the same round; `apart` gives each a
// process of its own.
import type { Job, Report } from "../http/client.ts"
import { FLOOR, makers, withoutStreams } from "../http/subjects.ts"
import { against, inOrder, type Result, result, start } from "../measure.ts"

const GROUP = "http"

interface Case extends Omit<Job, "subject"> {
  readonly name: string
  readonly apart?: boolean
  /** Those that take part; all, unless given. */
  readonly among?: ReadonlyArray<string>
  readonly metrics: ReadonlyArray<keyof Report>
  /** Processes, one after the other: what compilers and collectors make of a program differs by luck. */
  readonly lives: number
  readonly rounds: number
  /** Rounds before those that are counted. */
  readonly warmup: number
}

const units: Record<keyof Report, string> = {
  cpu: "µs",
  perSecond: "calls/s",
  p50: "µs",
  p99: "µs",
  megabytes: "MiB"
}

const speed = ["cpu", "perSecond", "p50", "p99"] as const
const complete = {
  mode: "complete",
  path: "/0/1000/1",
  length: 1000,
  collects: true,
  metrics: speed,
  lives: 1,
  rounds: 7
} as const
const stream = { ...complete, mode: "stream", concurrency: 16, calls: 96, warmup: 6 } as const
const long = { calls: 10_000, lives: 3, rounds: 3, warmup: 1 } as const
const known = ["openai", "AI SDK", "LangChain", "hand-written promises on fetch"]
const own = ["effect-resilient-llm", "effect-resilient-llm, every pattern off", "DispatcherHttpClient alone"] as const
/** As a server runs: it has one client, and what is garbage is collected when V8 thinks so. */
const alone = { ...long, apart: true, collects: false, among: [FLOOR, ...own, ...known] } as const

const cases = (isQuick: boolean): ReadonlyArray<Case> => {
  const many = { ...complete, name: "64 at a time", concurrency: 64, calls: 1200, warmup: 5 }
  if (isQuick) return [{ ...many, calls: 200, lives: 1, rounds: 2, warmup: 1 }]
  return [
    { ...complete, name: "1 at a time", concurrency: 1, calls: 300, warmup: 5 },
    {
      ...complete,
      ...alone,
      name: "1 at a time, apart, in the long run",
      concurrency: 1,
      calls: 5000,
      warmup: 2
    },
    many,
    // What begins with a full collection begins without much of its compiled code: see "Where a target is missed".
    { ...many, ...long, name: "64 at a time, in the long run" },
    { ...many, name: "64 at a time, apart", apart: true },
    {
      ...many,
      ...alone,
      name: "64 at a time, apart, in the long run"
    },
    { ...complete, name: "512 at a time", concurrency: 512, calls: 1536, warmup: 4 },
    { ...many, ...long, name: "512 at a time, in the long run", concurrency: 512, among: [FLOOR, ...own] },
    { ...many, name: "64 at a time, answers of 20 KB", path: "/0/20000/1", length: 20_000 },
    { ...many, name: "512 at a time, answers after 50 ms", path: "/50/1000/1", concurrency: 512, calls: 1024 },
    { ...stream, name: "streams of 100 chunks, 16 at a time", length: 500 },
    {
      ...stream,
      ...long,
      name: "streams of 100 chunks, 16 at a time, in the long run",
      length: 500,
      calls: 2000,
      among: [FLOOR, ...own, ...known]
    },
    {
      ...stream,
      ...alone,
      name: "streams of 100 chunks, 16 at a time, apart, in the long run",
      length: 500,
      calls: 2000
    },
    { ...stream, name: "streams of 100 chunks with 4 events each, 16 at a time", path: "/0/1000/4", length: 2000 },
    {
      ...complete,
      name: "10,000 at a time, answers after 2 s",
      apart: true,
      path: "/2000/1000/1",
      concurrency: 10_000,
      calls: 10_000,
      warmup: 0,
      metrics: ["megabytes", "cpu"],
      lives: 1,
      rounds: 1
    }
  ]
}

type Reports = ReadonlyMap<string, Array<Report>>

/** One life of a process that holds these subjects, with a server of its own. */
const live = async (subjects: ReadonlyArray<string>, one: Case, reports: Reports, number: number): Promise<void> => {
  const { among: _, apart: __, lives: ___, metrics: ____, name: _____, rounds, warmup, ...job } = one
  const server = start("http/server.ts", [])
  const client = start("http/client.ts", [`http://127.0.0.1:${await server.read()}`])
  try {
    for (let round = -warmup; round < rounds; round++) {
      for (const subject of inOrder(subjects, number * (warmup + rounds) + warmup + round)) {
        const report = JSON.parse(await client.ask({ ...job, subject })) as Report
        if (round >= 0) reports.get(subject)!.push(report)
      }
    }
  } finally {
    client.end()
    server.end()
  }
}

export const http = async (isQuick: boolean): Promise<ReadonlyArray<Result>> => {
  const results: Array<Result> = []
  for (const one of cases(isQuick)) {
    console.error(`  ${one.name}`)
    const subjects = Object.keys(makers).filter((name) =>
      (one.among?.includes(name) ?? true) && (one.mode !== "stream" || !withoutStreams.has(name))
    )
    const reports: Reports = new Map(subjects.map((subject) => [subject, []]))
    for (let i = 0; i < one.lives; i++) {
      for (const together of one.apart === true ? subjects.map((subject) => [subject]) : [subjects]) {
        await live(together, one, reports, i)
      }
    }
    for (const [i, metric] of one.metrics.entries()) {
      const of = (subject: string) => ({ group: GROUP, case: one.name, subject, metric, unit: units[metric] })
      const values = new Map(
        subjects.map((subject) => [subject, reports.get(subject)!.map((report) => report[metric])])
      )
      // Those that are apart have no rounds in common.
      if (i === 0 && one.apart !== true) results.push(...against(FLOOR, values, of))
      else for (const [subject, own] of values) results.push(result(of(subject), own))
    }
  }
  return results
}
