// A fault server in a process of its own, so that client and server do not share file descriptors and heap.
// Prints the URLs of several listeners (one alone would overflow its backlog), then serves until its input ends.
import { Effect } from "effect"
import { FaultServer } from "../../src/testing/index.ts"

await Effect.runPromise(Effect.scoped(Effect.gen(function*() {
  const latencyMillis = Number(process.argv[2])
  const servers = yield* Effect.replicateEffect(FaultServer.make({ latencyMillis, keep: 1 }), 8)
  process.stdout.write(`${servers.map(({ openai }) => openai).join(" ")}\n`)
  yield* Effect.callback<void>((resume) => {
    process.stdin.on("end", () => resume(Effect.void)).resume()
  })
})))
