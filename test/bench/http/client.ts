// Ways of asking, in one process: `client.ts <url>`. Reads jobs as lines of JSON, answers each with a line of JSON.
import { createInterface } from "node:readline"
import { inspect } from "node:util"
import { type Ask, makers } from "./subjects.ts"

export interface Job {
  readonly subject: string
  readonly mode: "complete" | "stream"
  /** See server.ts. */
  readonly path: string
  /** Characters of the text that has to come. */
  readonly length: number
  readonly concurrency: number
  readonly calls: number
  /** Begin with a full collection, so that nobody pays for what others left behind. */
  readonly collects: boolean
}

/** What one job measured. Times are in microseconds. */
export interface Report {
  readonly cpu: number
  readonly perSecond: number
  readonly p50: number
  readonly p99: number
  /** What the resident memory grew by while all calls were under way. */
  readonly megabytes: number
}

const [, , url = ""] = process.argv

/** One client for all jobs at an address, as an application has it, and its connections with it. */
const asks = new Map<string, Promise<Ask>>()

const askOf = ({ mode, path, subject }: Job): Promise<Ask> => {
  const name = `${subject} ${mode} ${path}`
  const known = asks.get(name)
  if (known !== undefined) return known
  const made = makers[subject]!(url + path).then((asker) => asker[mode])
  asks.set(name, made)
  return made
}

const run = async (job: Job): Promise<Report> => {
  const { calls, collects, concurrency, length } = job
  const ask = await askOf(job)
  if (collects) globalThis.gc?.()
  const resident = process.memoryUsage().rss
  const latencies: Array<number> = []
  let peak = 0
  const watch = setInterval(() => peak = Math.max(peak, process.memoryUsage().rss), 50)
  const before = process.cpuUsage()
  const start = performance.now()
  let left = calls
  await Promise.all(Array.from({ length: Math.min(concurrency, calls) }, async () => {
    while (left-- > 0) {
      const at = performance.now()
      const text = await ask()
      if (text.length !== length) throw new Error(`${text.length} characters instead of ${length}`)
      latencies.push(performance.now() - at)
    }
  }))
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
    megabytes: (Math.max(peak, process.memoryUsage().rss) - resident) / 2 ** 20
  }
}

createInterface({ input: process.stdin }).on("line", (line) => {
  run(JSON.parse(line) as Job).then(
    (report) => process.stdout.write(`${JSON.stringify(report)}\n`),
    (error: unknown) => {
      process.stderr.write(`${line}: ${inspect(error, { depth: 8 })}\n`)
      process.exit(1)
    }
  )
}).on("close", () => process.exit(0))
