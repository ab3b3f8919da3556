// Real processes that share a circuit in a Redis of the test's own: how often a dead vendor is asked, and who finds out that
// it is well again.
import { assert, describe, it } from "@effect/vitest"
import { createServer, type Server } from "node:http"
import type { AddressInfo } from "node:net"
import { setTimeout as sleep } from "node:timers/promises"
import type { Job } from "./programs/fleet.ts"
import { Program } from "./programs/run.ts"
import { hasRedisServer, missing, RedisServer, unique } from "./servers.ts"

if (!hasRedisServer) missing("redis-server")

type Way = "answers" | "fails" | "hangs"

/** A vendor that keeps book: when it was asked, and by which process. */
class Vendor {
  private readonly server: Server
  way: Way = "answers"
  asked: Array<{ readonly at: number; readonly by: string }> = []
  inFlight = 0
  most = 0

  private constructor() {
    this.server = createServer((request, response) => {
      this.asked.push({ at: performance.now(), by: request.url!.slice(1) })
      this.most = Math.max(this.most, ++this.inFlight)
      response.on("close", () => {
        this.inFlight -= 1
      })
      if (this.way === "hangs") return
      setTimeout(() => {
        response.statusCode = this.way === "fails" ? 503 : 200
        response.end("An answer.")
      }, 3)
    })
  }

  static async start(): Promise<Vendor> {
    const vendor = new Vendor()
    await new Promise<void>((resolve) => vendor.server.listen(0, "127.0.0.1", resolve))
    return vendor
  }

  get url(): string {
    return `http://127.0.0.1:${(this.server.address() as AddressInfo).port}`
  }

  turn(way: Way): void {
    this.way = way
    this.asked = []
    this.most = 0
  }

  stop(): void {
    this.server.closeAllConnections()
    this.server.close()
  }
}

interface Fleet {
  readonly vendor: Vendor
  readonly redis: RedisServer
  readonly programs: ReadonlyArray<Program>
}

const withFleet = async (job: Partial<Job>, use: (fleet: Fleet) => Promise<void>): Promise<void> => {
  const redis = await RedisServer.start()
  const vendor = await Vendor.start()
  const prefix = unique()
  const programs = [-5000, 0, 5000].map((clockOff) =>
    new Program(
      "fleet",
      {
        state: redis.url,
        prefix,
        url: vendor.url,
        pace: 20,
        recoveryTimeout: 1500,
        attempt: 2000,
        clockOff,
        ...job
      } satisfies Job
    )
  )
  try {
    await Promise.all(programs.map((program) => program.line("ready")))
    await use({ vendor, redis, programs })
  } finally {
    await Promise.all(programs.map((program) => program.kill()))
    vendor.stop()
    await redis.stop()
  }
}

const go = (programs: ReadonlyArray<Program>): void => {
  for (const program of programs) program.say("go")
}
const changes = (programs: ReadonlyArray<Program>): ReadonlyArray<ReadonlyArray<string>> =>
  programs.map(({ lines }) => lines.filter((line) => line.startsWith("circuit")).map((line) => line.slice(8)))
const until = async (what: () => boolean, millis = 15_000): Promise<void> => {
  for (const end = performance.now() + millis; !what();) {
    if (performance.now() > end) throw new Error(`waited in vain for ${String(what)}`)
    await sleep(2)
  }
}

/** Open for all, and what was in flight is over. */
const opened = async (programs: ReadonlyArray<Program>): Promise<void> => {
  await until(() => changes(programs).every((list) => list.at(-1) === "open"))
  await sleep(100)
}

describe.skipIf(!hasRedisServer)("three processes, one circuit, clocks up to ±5 s off", () => {
  it(
    "a dead vendor is asked 13 times and what was in flight, then by one probe of all, and all learn that it is well",
    async () => {
      await withFleet({ recoveryTimeout: 1000 }, async ({ programs, vendor }) => {
        vendor.turn("fails")
        go(programs)
        await until(() => changes(programs).every((list) => list.includes("open")))
        await sleep(300)
        const before = vendor.asked.length
        // At most one call in flight each: a call takes 3 ms, and one begins every 20 ms.
        assert.isAtMost(before, 13 + 3)
        // Two probes in vain, each of one process: 1 s and 2 s after.
        await until(() => vendor.asked.length >= before + 2)
        await sleep(200)
        assert.strictEqual(vendor.asked.length, before + 2)
        vendor.way = "answers"
        await until(() => changes(programs).every((list) => list.at(-1) === "closed"))
        const probes = vendor.asked.slice(before, before + 3)
        const gaps = probes.map(({ at }, i) => i === 0 ? 0 : at - probes[i - 1]!.at)
        console.log(
          `three processes: ${before} calls until the circuit was open for all; probes after ${
            gaps.slice(1).map((gap) => `${(gap / 1000).toFixed(1)} s`).join(", ")
          } more, ${new Set(vendor.asked.slice(before + 3).map(({ by }) => by)).size} processes back`
        )
        assert.isAtLeast(gaps[1]!, 1900)
        assert.isAtLeast(gaps[2]!, 3900)
        await until(() => new Set(vendor.asked.slice(before + 3).map(({ by }) => by)).size === 3)
      })
    }
  )

  it("what one has met, the others do not have to meet", async () => {
    await withFleet({ recoveryTimeout: 60_000 }, async ({ programs, vendor }) => {
      vendor.turn("fails")
      go(programs.slice(0, 1))
      await opened(programs)
      go(programs.slice(1))
      await sleep(500)
      assert.strictEqual(vendor.asked.length, 5)
    })
  })

  it("the process that probes is killed: another one probes when its place is over", async () => {
    await withFleet({}, async ({ programs, vendor }) => {
      vendor.turn("fails")
      go(programs)
      await opened(programs)
      vendor.turn("hangs")
      await until(() => vendor.asked.length === 1)
      const first = vendor.asked[0]!
      const prober = programs.find(({ child }) => `${child.pid}` === first.by)!
      prober.signal("SIGKILL")
      vendor.way = "answers"
      await until(() => vendor.asked.length > 1)
      const second = vendor.asked[1]!
      console.log(`the prober was killed: another one probed ${(second.at - first.at).toFixed(0)} ms later`)
      // The attempt's limit and 5 seconds after it got the place, which on a busy machine is before it asks.
      assert.isAtLeast(second.at - first.at, 4000)
      assert.isBelow(second.at - first.at, 10_000)
      const others = programs.filter((program) => program !== prober)
      await until(() => changes(others).every((list) => list.at(-1) === "closed"))
    })
  })

  it("the store is killed: each opens, probes and closes by itself", async () => {
    await withFleet({}, async ({ programs, redis, vendor }) => {
      await redis.kill()
      vendor.turn("fails")
      go(programs)
      await opened(programs)
      assert.strictEqual(vendor.asked.length, 3 * 5)
      vendor.turn("answers")
      await until(() => changes(programs).every((list) => list.at(-1) === "closed"))
      // Back, and empty: what is met from now on is shared again.
      await redis.up()
      await sleep(2500)
      vendor.turn("fails")
      await opened(programs)
      console.log(`with the store back: ${vendor.asked.length} calls until open for all`)
      assert.isAtMost(vendor.asked.length, 13 + 2)
    })
  })
})
