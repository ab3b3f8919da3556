// The same request over loopback HTTP by different clients, each in a process of its own, in turn.
import { type ChildProcess, spawn } from "node:child_process"
import { createInterface } from "node:readline"
import { fileURLToPath } from "node:url"
import type { Report } from "../http/client.ts"
import { makers } from "../http/subjects.ts"
import { type Plan, type Result, result } from "../measure.ts"

const GROUP = "http"
const script = (name: string): string => fileURLToPath(new URL(`../http/${name}.ts`, import.meta.url))

interface Process {
  readonly child: ChildProcess
  readonly next: () => Promise<string>
}

const start = (name: string, ...args: ReadonlyArray<string>): Process => {
  const child = spawn(process.execPath, [script(name), ...args], { stdio: ["pipe", "pipe", "inherit"] })
  const lines: AsyncIterator<string> = (createInterface({ input: child.stdout }))[Symbol.asyncIterator]()
  return {
    child,
    next: async () => {
      const { done, value } = await lines.next()
      if (done === true) throw new Error(`${name} ${args[0] ?? ""} ended`)
      return value
    }
  }
}

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

export const http = async (_: Plan, isQuick: boolean): Promise<ReadonlyArray<Result>> => {
  const server = start("server")
  const results: Array<Result> = []
  try {
    const url = `http://127.0.0.1:${await server.next()}`
    for (const { metrics, name, rounds, ...job } of cases(isQuick)) {
      const clients = Object.keys(makers).map((subject) => ({ subject, process: start("client", subject, url) }))
      const ask = async ({ process }: typeof clients[number], calls: number): Promise<Report> => {
        process.child.stdin!.write(`${JSON.stringify({ ...job, calls })}\n`)
        return JSON.parse(await process.next()) as Report
      }
      const reports = new Map<string, Array<Report>>()
      try {
        if (rounds > 1 || isQuick) { for (const client of clients) await ask(client, Math.ceil(job.calls / 5)) }
        for (let round = 0; round < rounds; round++) {
          for (const client of clients) {
            const report = await ask(client, job.calls)
            reports.set(client.subject, [...reports.get(client.subject) ?? [], report])
          }
        }
      } finally {
        for (const { process } of clients) process.child.stdin!.end()
      }
      for (const [subject, all] of reports) {
        for (const metric of metrics) {
          const of = { group: GROUP, case: name, subject, metric, unit: units[metric] }
          results.push(result(of, all.map((report) => report[metric])))
        }
      }
    }
  } finally {
    server.child.stdin!.end()
  }
  return results
}
