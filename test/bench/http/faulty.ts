// A provider that fails one request in ten, in every way that HTTP has, in a process of its own: which requests fail is drawn
// from a seed. Prints its address, then serves until its input ends.
import { Effect, Random, Schedule } from "effect"
import { FaultServer } from "../../../src/testing/index.ts"

const { ok } = FaultServer

const faults: ReadonlyArray<FaultServer.Fault> = [
  FaultServer.status(500),
  FaultServer.status(503),
  FaultServer.error("Overloaded"),
  FaultServer.error("RateLimit", { retryAfterMs: 5 }),
  FaultServer.error("ContextLength"),
  FaultServer.error("ContentPolicy"),
  FaultServer.resetBeforeHeaders(),
  FaultServer.resetInBody({ afterChunks: 1 }),
  FaultServer.truncate({ afterChunks: 1 }),
  FaultServer.malformedJson(),
  FaultServer.errorEvent({ afterChunks: 2 }),
  FaultServer.emptyBody(),
  FaultServer.stall({ afterChunks: 1 }),
  FaultServer.hang()
]

/** Steps that wait to be played: more than the client can ask for between two looks. */
const AHEAD = 5000

await Effect.runPromise(
  Effect.scoped(Effect.gen(function*() {
    const server = yield* FaultServer.make({ keep: 1 })
    let played = 0
    const refill = Effect.gen(function*() {
      const { received } = yield* server.stats
      const steps: Array<FaultServer.Fault> = []
      while (played + steps.length < received + AHEAD) {
        const u = yield* Random.next
        steps.push(u < 0.1 ? faults[Math.floor(u * 10 * faults.length)]! : u < 0.5 ? ok({ delayMillis: 2 }) : ok())
      }
      played += steps.length
      yield* server.play(...steps)
    })
    yield* refill
    yield* Effect.forkScoped(Effect.repeat(refill, Schedule.spaced("50 millis")))
    process.stdout.write(`${server.openai}\n`)
    yield* Effect.callback<void>((resume) => {
      process.stdin.on("end", () => resume(Effect.void)).resume()
    })
  })).pipe(Random.withSeed("soak"))
)
