// One of several processes under one limit: takes tokens for a while and reports when, on the machine's monotonic clock.
// Argument: JSON of `Job`.
import { Effect, Exit } from "effect"
import * as Client from "effect/persistence/Redis"
import * as Redis from "../../../src/persistence/Redis.ts"
import * as Sqlite from "../../../src/persistence/Sqlite.ts"
import { type LimitStore, makeShared } from "../../../src/resilience/RateLimiter.ts"
import { clientOf } from "../servers.ts"

export interface Job {
  /** `redis://…`, or the name of a file. */
  readonly state: string
  readonly prefix: string
  readonly limit: number
  readonly millis: number
  /** Loops that ask as fast as they can, or, with `perSecond`, calls at that pace. */
  readonly loops: number
  readonly perSecond?: number
  readonly maxWait: number
  /** How far the clock on the wall is off, in milliseconds. */
  readonly clockOff: number
}

export interface Report {
  readonly admitted: ReadonlyArray<number>
  readonly refused: number
  readonly trips: number
  /** How often the store went away. */
  readonly downs: number
  /** Calls that came while as many waited as the line holds: what had become due while the process stood still. */
  readonly beyond: number
}

/** The least that a line of the default length holds. */
const LINE = 256

const job = JSON.parse(process.argv[2]!) as Job
const wall = Date.now
Date.now = () => wall() + job.clockOff

const clock = () => Number(process.hrtime.bigint()) / 1e6

const work = (store: LimitStore) =>
  Effect.gen(function*() {
    let trips = 0
    let refused = 0
    let downs = 0
    let beyond = 0
    let under = 0
    store.health?.watch(({ to }) => {
      if (to === "down") downs += 1
    })
    const admitted: Array<number> = []
    const counted: LimitStore = {
      ...store,
      reserve: (request) => {
        trips += 1
        return store.reserve(request)
      },
      settle: (change) => {
        trips += 1
        return store.settle(change)
      }
    }
    const limiter = yield* makeShared("vendor", counted, {
      limits: [{ dimension: "requests", limit: job.limit, per: "1 second" }],
      maxWait: job.maxWait
    })
    const one = Effect.map(Effect.exit(limiter.acquire(1)), (exit) => {
      under -= 1
      if (Exit.isSuccess(exit)) admitted.push(clock())
      else refused += 1
    })
    process.stdout.write("ready\n")
    yield* Effect.callback<void>((resume) => {
      process.stdin.once("data", () => resume(Effect.void))
    })
    const end = clock() + job.millis
    if (job.perSecond === undefined) {
      const loop: Effect.Effect<void> = Effect.suspend(() =>
        clock() >= end ? Effect.void : Effect.andThen(Effect.andThen(one, Effect.sleep(1)), loop)
      )
      yield* Effect.all(Array.from({ length: job.loops }, () => loop), { concurrency: "unbounded", discard: true })
    } else {
      const begun = clock()
      for (let sent = 0; clock() < end;) {
        const due = Math.floor((clock() - begun) * job.perSecond / 1000)
        for (; sent < due; sent++) {
          if (++under > LINE) beyond += 1
          yield* Effect.forkChild(one, { startImmediately: true })
        }
        yield* Effect.sleep(2)
      }
      yield* Effect.sleep(200)
    }
    const report: Report = { admitted, refused, trips, downs, beyond }
    yield* Effect.callback<void>((resume) => {
      process.stdout.write(`${JSON.stringify(report)}\n`, () => resume(Effect.void))
    })
  })

const program = Effect.scoped(
  job.state.startsWith("redis:")
    ? Effect.gen(function*() {
      const { limits } = yield* Redis.make({ prefix: job.prefix })
      const redis = yield* Client.Redis
      // A store that cannot be reached yet would be another test.
      yield* Effect.retry(Effect.delay(redis.send("PING"), 20), { times: 100 })
      yield* work(limits)
    }).pipe(Effect.provide(clientOf(job.state)))
    : Effect.flatMap(Sqlite.make({ filename: job.state, prefix: job.prefix }), ({ limits }) => work(limits))
)

await Effect.runPromise(program)
process.exit(0)
