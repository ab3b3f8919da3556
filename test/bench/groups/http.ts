// The same request over loopback HTTP by different clients, each in a process of its own, in turn.
import type { Job, Report } from "../http/client.ts"
import { makers } from "../http/subjects.ts"
import { type Result, result, start } from "../measure.ts"

const GROUP = "http"
interface Case extends Job {
  readonly name: string
  readonly metrics: ReadonlyArray<keyof Report>
  /**
   * How often each client lives, and is measured, by turns with the others. One that has to rest while others work is slow
   * afterwards, and what compilers and collectors make of a program differs by luck from process to process.
   */
  readonly lives: number
  /** Measured in each life, one after the other. */
  readonly rounds: number
}

const units: Record<keyof Report, string> = {
  cpu: "µs",
  perSecond: "calls/s",
  p50: "µs",
  p99: "µs",
  peakMegabytes: "MiB"
}

const speed = ["cpu", "perSecond", "p50", "p99"] as const

const complete = { mode: "complete", path: "/now", metrics: speed, lives: 3, rounds: 3 } as const
const many = { ...complete, name: "64 at a time", concurrency: 64, warmup: 40_000, calls: 8000 }

/** For a quick look one case, and little of it: most of the time goes into starting the clients. */
const cases = (isQuick: boolean): ReadonlyArray<Case> => {
  if (isQuick) return [{ ...many, warmup: 2000, calls: 400, lives: 1, rounds: 1 }]
  return [
    { ...complete, name: "1 at a time", concurrency: 1, warmup: 4000, calls: 1000 },
    many,
    { ...complete, name: "512 at a time", concurrency: 512, warmup: 15_000, calls: 4000 },
    {
      ...complete,
      name: "streams of 100 chunks, 16 at a time",
      mode: "stream",
      concurrency: 16,
      warmup: 600,
      calls: 150
    },
    {
      name: "10,000 at a time, answers after 2 s",
      mode: "complete",
      path: "/late",
      concurrency: 10_000,
      calls: 10_000,
      warmup: 0,
      metrics: ["peakMegabytes", "cpu"],
      lives: 1,
      rounds: 1
    }
  ]
}

/** One life of a client, with a server of its own. */
const live = async (subject: string, { rounds, ...job }: Job & { readonly rounds: number }): Promise<Array<Report>> => {
  const server = start("http/server.ts", [])
  const client = start("http/client.ts", [subject, `http://127.0.0.1:${await server.read()}`])
  try {
    const reports: Array<Report> = []
    for (let round = 0; round < rounds; round++) {
      const warmup = round === 0 ? job.warmup : 0
      reports.push(JSON.parse(await client.ask({ ...job, warmup })) as Report)
    }
    return reports
  } finally {
    client.end()
    server.end()
  }
}

export const http = async (isQuick: boolean): Promise<ReadonlyArray<Result>> => {
  const results: Array<Result> = []
  const subjects = Object.keys(makers)
  for (const { lives, metrics, name, ...job } of cases(isQuick)) {
    console.error(`  ${name}`)
    const reports = subjects.map((): Array<Report> => [])
    for (let i = 0; i < lives; i++) {
      for (const [k, subject] of subjects.entries()) reports[k]!.push(...await live(subject, job))
    }
    for (const [k, subject] of subjects.entries()) {
      for (const metric of metrics) {
        const of = { group: GROUP, case: name, subject, metric, unit: units[metric] }
        results.push(result(of, reports[k]!.map((report) => report[metric])))
      }
    }
  }
  return results
}
