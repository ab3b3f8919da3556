// The same request over loopback HTTP by different clients, each in a process of its own, in turn.
import type { Report } from "../http/client.ts"
import { makers } from "../http/subjects.ts"
import { type Result, result, start } from "../measure.ts"

const GROUP = "http"
interface Case {
  readonly name: string
  readonly mode: "complete" | "stream"
  readonly path: "/now" | "/late"
  readonly concurrency: number
  readonly calls: number
  readonly metrics: ReadonlyArray<keyof Report>
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

const cases = (isQuick: boolean): ReadonlyArray<Case> => {
  const share = isQuick ? 0.1 : 1
  const rounds = isQuick ? 1 : 5
  const complete = { mode: "complete", path: "/now", metrics: speed, rounds } as const
  return [
    { ...complete, name: "1 at a time", concurrency: 1, calls: 2000 * share },
    { ...complete, name: "64 at a time", concurrency: 64, calls: 5000 * share },
    { ...complete, name: "512 at a time", concurrency: 512, calls: 5000 * share },
    { ...complete, name: "streams of 100 chunks, 16 at a time", mode: "stream", concurrency: 16, calls: 300 * share },
    {
      ...complete,
      name: "10,000 at a time, answers after 2 s",
      path: "/late",
      concurrency: 10_000 * share,
      calls: 10_000 * share,
      metrics: ["peakMegabytes", "cpu"],
      rounds: 1
    }
  ]
}

export const http = async (isQuick: boolean): Promise<ReadonlyArray<Result>> => {
  const server = start("http/server.ts", [])
  const results: Array<Result> = []
  try {
    const url = `http://127.0.0.1:${await server.read()}`
    for (const { metrics, name, rounds, ...job } of cases(isQuick)) {
      const reports = new Map<string, Array<Report>>()
      const open = (subject: string) => ({ subject, process: start("http/client.ts", [subject, url]) })
      const close = ({ process }: ReturnType<typeof open>): void => process.end()
      const ask = async ({ process, subject }: ReturnType<typeof open>, calls: number): Promise<void> => {
        const report = JSON.parse(await process.ask({ ...job, calls })) as Report
        reports.set(subject, [...reports.get(subject) ?? [], report])
      }
      const subjects = Object.keys(makers)
      if (job.path === "/late") {
        // The connections of two such clients at once are more than a server may have.
        for (const client of subjects.map(open)) await ask(client, job.calls).finally(() => close(client))
      } else {
        const clients = subjects.map(open)
        try {
          for (const client of clients) await ask(client, Math.ceil(job.calls / 2))
          reports.clear()
          for (let round = 0; round < rounds; round++) {
            for (const client of clients) await ask(client, job.calls)
          }
        } finally {
          clients.forEach(close)
        }
      }
      for (const [subject, all] of reports) {
        for (const metric of metrics) {
          const of = { group: GROUP, case: name, subject, metric, unit: units[metric] }
          results.push(result(of, all.map((report) => report[metric])))
        }
      }
    }
  } finally {
    server.end()
  }
  return results
}
