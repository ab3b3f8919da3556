// One of several processes under one limit of some library, in Redis: takes tokens for a while and reports when, on the
// machine's monotonic clock. Its clock on the wall may be off. Arguments: the subject, and the job as JSON.
import { setTimeout as sleep } from "node:timers/promises"
import { type Job, type Report, subjects } from "./limiters.ts"

const [, , subject, text] = process.argv
const job = JSON.parse(text!) as Job
const wall = Date.now
Date.now = () => wall() + job.clockOff
const clock = (): number => Number(process.hrtime.bigint()) / 1e6
const ask = await subjects[subject!]!(job)
process.stdout.write("ready\n")
await new Promise((resolve) => process.stdin.once("data", resolve))
const end = clock() + job.millis
const admitted: Array<number> = []
const took: Array<number> = []
const loop = async (): Promise<void> => {
  while (clock() < end) {
    const begun = clock()
    const isAdmitted = await ask()
    const now = clock()
    if (now >= end) return
    took.push(now - begun)
    if (isAdmitted) admitted.push(now)
    await sleep(1)
  }
}
await Promise.race([
  Promise.all(Array.from({ length: job.loops }, loop)),
  sleep(job.millis + 500)
])
process.stdout.write(`${JSON.stringify({ admitted, took } satisfies Report)}\n`, () => process.exit(0))
