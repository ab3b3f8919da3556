// Real processes under one limit, whose clocks disagree.
import { assert, describe, it } from "@effect/vitest"
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll } from "vitest"
import type { Job, Report } from "./programs/limiter.ts"
import { Program } from "./programs/run.ts"
import { unique, usualRedis } from "./servers.ts"
import { worstExcess } from "./worst.ts"

const folder = mkdtempSync(join(tmpdir(), "llm-limits-"))
afterAll(() => rmSync(folder, { recursive: true, force: true }))

const fleet = async (job: Omit<Job, "prefix" | "clockOff">): Promise<ReadonlyArray<Report>> => {
  const prefix = unique()
  const programs = [-5000, 0, 2500, 5000].map((clockOff) => new Program("limiter", { ...job, prefix, clockOff }))
  await Promise.all(programs.map((program) => program.line("ready")))
  for (const program of programs) program.say("go")
  const reports = await Promise.all(programs.map((program) => program.report<Report>()))
  await Promise.all(programs.map((program) => program.exited))
  return reports
}

const homes: Array<readonly [string, string]> = [["SQLite", join(folder, "limits.db")]]
if (await usualRedis() !== undefined) homes.unshift(["Redis", "redis://127.0.0.1:6379"])

describe.each(homes)("%s: four processes, clocks up to ±5 s off", (home, state) => {
  it("50 a second, overloaded: everything that is there is used, and no interval sees two more", async () => {
    const millis = 4000
    const reports = await fleet({ state, limit: 50, millis, loops: 8, maxWait: 0 })
    const times = reports.flatMap(({ admitted }) => admitted)
    const excess = worstExcess(times, 50, 50)
    console.log(
      `${home}, overloaded: ${times.length} admitted of ${50 + 50 * millis / 1000}, worst excess ${excess.toFixed(2)}`
    )
    // A process that has lost its store for a moment goes on with its share: at most its part of the rate more.
    const downs = reports.reduce((sum, { downs }) => sum + downs, 0)
    if (downs > 0) console.log(`${home}: the store was too slow ${downs} times`)
    assert.isBelow(excess, 2 + 15 * downs)
    assert.isAbove(times.length, 0.95 * (50 + 50 * millis / 1000))
    for (const { admitted } of reports) assert.isAbove(admitted.length, 0.02 * times.length)
  })

  it("1,500 calls a second under a limit of 2,000: a tenth of a trip each at most, nobody refused", async () => {
    const reports = await fleet({ state, limit: 2000, millis: 3000, loops: 0, perSecond: 375, maxWait: 1000 })
    const times = reports.flatMap(({ admitted }) => admitted)
    const trips = reports.reduce((sum, report) => sum + report.trips, 0) / times.length
    const excess = worstExcess(times, 2000, 2000)
    console.log(
      `${home}, under the limit: ${times.length} admitted, ${trips.toFixed(3)} trips a call, worst excess ${
        excess.toFixed(2)
      }`
    )
    assert.isBelow(trips, 0.1)
    assert.isBelow(excess, 2)
    // A process that stood still for long finds more calls due than its line holds; no other one is refused.
    for (const { beyond, downs, refused } of reports) {
      if (beyond > 0) {
        console.log(`${home}: stood still until ${beyond} calls more were due than wait, ${refused} refused`)
      }
      if (downs === 0) assert.isAtMost(refused, beyond)
    }
  })
})
