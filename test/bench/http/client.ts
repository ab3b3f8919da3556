// One way of asking, in a process of its own: `client.ts <subject> <url>`. Reads jobs as lines of JSON, answers each with
// a line of JSON.
import { createInterface } from "node:readline"
import { inspect } from "node:util"
import { type Asker, makers } from "./subjects.ts"

export interface Job {
  readonly mode: "complete" | "stream"
  readonly path: "/now" | "/late"
  readonly concurrency: number
  readonly calls: number
  /** Calls before those that are measured. */
  readonly warmup: number
}

/** What one job measured. Times are in microseconds. */
export interface Report {
  readonly cpu: number
  readonly perSecond: number
  readonly p50: number
  readonly p99: number
  readonly peakMegabytes: number
}

const [, , subject = "", url = ""] = process.argv

/** One client for all jobs at an address, as an application has it, and its connections with it. */
const askers = new Map<string, Promise<Asker>>()

const askerOf = (path: string): Promise<Asker> => {
  const known = askers.get(path)
  if (known !== undefined) return known
  const made = makers[subject]!(`${url}${path}`)
  askers.set(path, made)
  return made
}

const run = async ({ calls, concurrency, mode, path, warmup }: Job): Promise<Report> => {
  const ask = (await askerOf(path))[mode]
  const make = async (count: number, note: (latency: number) => void): Promise<void> => {
    let left = count
    await Promise.all(Array.from({ length: Math.min(concurrency, count) }, async () => {
      while (left-- > 0) {
        const at = performance.now()
        await ask()
        note(performance.now() - at)
      }
    }))
  }
  await make(warmup, () => {})
  const latencies: Array<number> = []
  let peak = 0
  const watch = setInterval(() => peak = Math.max(peak, process.memoryUsage().rss), 50)
  const before = process.cpuUsage()
  const start = performance.now()
  await make(calls, (latency) => latencies.push(latency))
  const wall = performance.now() - start
  const { system, user } = process.cpuUsage(before)
  clearInterval(watch)
  const sorted = latencies.toSorted((a, b) => a - b)
  const at = (share: number): number => sorted[Math.min(Math.floor(sorted.length * share), sorted.length - 1)]! * 1000
  return {
    cpu: (user + system) / calls,
    perSecond: calls / wall * 1000,
    p50: at(0.5),
    p99: at(0.99),
    peakMegabytes: Math.max(peak, process.memoryUsage().rss) / 2 ** 20
  }
}

createInterface({ input: process.stdin }).on("line", (line) => {
  run(JSON.parse(line) as Job).then(
    (report) => process.stdout.write(`${JSON.stringify(report)}\n`),
    (error: unknown) => {
      process.stderr.write(`${subject}: ${inspect(error, { depth: 8 })}\n`)
      process.exit(1)
    }
  )
}).on("close", () => process.exit(0))
