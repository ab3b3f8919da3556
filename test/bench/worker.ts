// One subject of a case, or all of them, in a process: `worker.ts <group> <case> [<subject>]`. Reads questions as lines of
// JSON, answers each with a number.
import { createInterface } from "node:readline"
import { groups } from "./groups/index.ts"
import type { Run } from "./measure.ts"

const [, , group = "", name = "", only] = process.argv
const collect = globalThis.gc ?? (() => {})

const made = new Map<string, Promise<Run>>()
const runOf = (subject: string): Promise<Run> => {
  const known = made.get(subject)
  if (known !== undefined) return known
  const run = Promise.resolve(groups[group]![name]!.subjects[subject]!())
  made.set(subject, run)
  return run
}

interface Question {
  readonly subject?: string
  /** How many runs, and what of them: milliseconds, milliseconds of CPU, or bytes. */
  readonly time?: number
  readonly cpu?: number
  readonly bytes?: number
}

const answer = async ({ bytes = 1, cpu, subject = only ?? "", time }: Question): Promise<number> => {
  const run = await runOf(subject)
  if (time !== undefined) {
    const start = performance.now()
    await run(time)
    return performance.now() - start
  }
  if (cpu !== undefined) {
    const start = process.cpuUsage()
    await run(cpu)
    const { system, user } = process.cpuUsage(start)
    return (system + user) / 1000
  }
  collect()
  const before = process.memoryUsage().heapUsed
  await run(bytes)
  return Math.max(0, process.memoryUsage().heapUsed - before)
}

createInterface({ input: process.stdin }).on("line", (line) => {
  answer(JSON.parse(line) as Question).then(
    (number) => process.stdout.write(`${number}\n`),
    (error: unknown) => {
      process.stderr.write(`${group}, ${name}, ${only ?? line}: ${String(error)}\n`)
      process.exit(1)
    }
  )
}).on("close", () => process.exit(0))
