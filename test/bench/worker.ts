// One subject in a process of its own: `worker.ts <group> <case> <subject>`. Reads questions as lines of JSON, answers each
// with a number.
import { createInterface } from "node:readline"
import { groups } from "./groups/index.ts"

const [, , group = "", name = "", subject = ""] = process.argv
const made = Promise.resolve(groups[group]![name]!.subjects[subject]!())
const collect = globalThis.gc ?? (() => {})

const answer = async (question: { readonly time?: number; readonly bytes?: number }): Promise<number> => {
  const run = await made
  if (question.time !== undefined) {
    const start = performance.now()
    await run(question.time)
    return performance.now() - start
  }
  collect()
  const before = process.memoryUsage().heapUsed
  await run(question.bytes ?? 1)
  return Math.max(0, process.memoryUsage().heapUsed - before)
}

createInterface({ input: process.stdin }).on("line", (line) => {
  answer(JSON.parse(line)).then(
    (number) => process.stdout.write(`${number}\n`),
    (error: unknown) => {
      process.stderr.write(`${group}, ${name}, ${subject}: ${String(error)}\n`)
      process.exit(1)
    }
  )
}).on("close", () => process.exit(0))
