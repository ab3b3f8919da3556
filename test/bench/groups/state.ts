// What a store adds to a call, and whose limit holds over processes. Both use a Redis of their own on a free port.
import { Effect, Layer, ManagedRuntime } from "effect"
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { LlmClient } from "../../../src/index.ts"
import * as Redis from "../../../src/persistence/Redis.ts"
import * as Sqlite from "../../../src/persistence/Sqlite.ts"
import { RedisServer, unique } from "../../persistence/servers.ts"
import { worstExcess } from "../../persistence/worst.ts"
import { median, type Result, result, start } from "../measure.ts"
import { type Job, type Report, subjects } from "../state/limiters.ts"
import { now, on, PROMPT, provider } from "../stubs.ts"

const GROUP = "state"

/** Microseconds that each of so many calls took, one at a time. */
const latencies = async (call: () => Promise<unknown>, calls: number): Promise<ReadonlyArray<number>> => {
  const all: Array<number> = []
  for (let i = 0; i < calls; i++) {
    const begun = process.hrtime.bigint()
    await call()
    all.push(Number(process.hrtime.bigint() - begun) / 1000)
  }
  return all
}

const quantile = (values: ReadonlyArray<number>, q: number): number =>
  values.toSorted((a, b) => a - b)[Math.min(values.length - 1, Math.floor(values.length * q))]!

/** Calls with a new key each, on each home in turn, so that a slow moment of the machine strikes all. */
const keyed = async (server: RedisServer, isQuick: boolean): Promise<ReadonlyArray<Result>> => {
  const folder = mkdtempSync(join(tmpdir(), "llm-bench-"))
  const homes = {
    memory: Layer.empty,
    "persistence/Sqlite": Sqlite.layer({ filename: join(folder, "llm.db") }),
    "persistence/Redis": Redis.layer({ prefix: unique() }).pipe(Layer.provide(server.client))
  }
  const opened = await Promise.all(
    Object.entries(homes).map(async ([name, home]) => {
      const runtime = ManagedRuntime.make(
        Layer.provide(LlmClient.layerDynamic([{ provider: provider(() => now) }], on), home)
      )
      const client = await runtime.runPromise(LlmClient)
      let key = 0
      const call = () => Effect.runPromise(client.complete({ prompt: PROMPT, idempotencyKey: `key-${key++}` }))
      await latencies(call, isQuick ? 50 : 1000)
      return { name, runtime, call, rounds: [] as Array<ReadonlyArray<number>> }
    })
  )
  try {
    for (let round = 0; round < (isQuick ? 2 : 20); round++) {
      for (const home of opened) home.rounds.push(await latencies(home.call, isQuick ? 50 : 300))
    }
    const floor = opened[0]!.rounds.map((round) => median(round))
    return opened.flatMap(({ name: subject, rounds }) => {
      const of = { group: GROUP, case: "a call with a new key, one at a time", subject, unit: "µs" }
      return [
        result({ ...of, metric: "p50" }, rounds.map((round) => median(round))),
        result({ ...of, metric: "p50 added" }, rounds.map((round, i) => median(round) - floor[i]!)),
        result({ ...of, metric: "p99" }, rounds.map((round) => quantile(round, 0.99)))
      ]
    })
  } finally {
    for (const { runtime } of opened) await runtime.dispose()
    rmSync(folder, { recursive: true, force: true })
  }
}

const LIMIT = 50
const CLOCKS = { "clocks alike": [0, 0, 0, 0], "one clock 5 s ahead": [0, 0, 0, 5000] }

/** Four processes with eight loops each ask as fast as they can. */
const limits = async (server: RedisServer, isQuick: boolean): Promise<ReadonlyArray<Result>> => {
  const millis = isQuick ? 1000 : 5000
  const results: Array<Result> = []
  for (const [clocks, offsets] of Object.entries(CLOCKS)) {
    for (const subject of Object.keys(subjects)) {
      const name = unique()
      const programs = offsets.map((clockOff) => {
        const job: Job = { url: server.url, name, limit: LIMIT, millis, loops: 8, clockOff }
        return start("state/limiter.ts", [subject, JSON.stringify(job)])
      })
      for (const { read } of programs) await read()
      const reports = await Promise.all(programs.map(async ({ ask }) => JSON.parse(await ask("go")) as Report))
      const admitted = reports.flatMap((report) => report.admitted)
      const took = reports.flatMap((report) => report.took)
      const of = { group: GROUP, case: `4 processes under ${LIMIT}/s, overloaded, ${clocks}`, subject }
      const allowed = LIMIT + LIMIT * millis / 1000
      results.push(
        result({ ...of, metric: "admitted", unit: `of ${allowed}` }, [admitted.length]),
        result({ ...of, metric: "worst excess", unit: "" }, [worstExcess(admitted, LIMIT, LIMIT)]),
        result({ ...of, metric: "decisions", unit: "a second" }, [took.length / millis * 1000]),
        result({ ...of, metric: "p50", unit: "ms" }, [median(took)])
      )
    }
  }
  return results
}

export const state = async (isQuick: boolean): Promise<ReadonlyArray<Result>> => {
  const server = await RedisServer.start()
  try {
    return [...await keyed(server, isQuick), ...await limits(server, isQuick)]
  } finally {
    await server.stop()
  }
}
