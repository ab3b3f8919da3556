// A process with a client over a shared store, which makes the calls it is told to. A call is "paid" when its provider is
// asked: that is written to a file, which outlives every process. Argument: JSON of `Job`.
import { Effect, Layer, Stream } from "effect"
import { appendFileSync } from "node:fs"
import { LlmClient } from "../../../src/LlmClient.ts"
import * as StateConfig from "../../../src/persistence/Config.ts"
import * as ScriptedProvider from "../../../src/testing/ScriptedProvider.ts"

export interface Job {
  readonly state: string
  readonly prefix: string
  /** Where what was paid is written, a line each. */
  readonly paid: string
  /** Milliseconds that the provider takes. */
  readonly takes: number
  /** Of a key, in milliseconds. */
  readonly lease: number
  readonly documents: number
  readonly concurrency: number
  readonly takeOver: boolean
  /** Milliseconds between calls; 0 for none. */
  readonly pace: number
}

const job = JSON.parse(process.argv[2]!) as Job

class Vendor extends ScriptedProvider.Service<Vendor>()("app/Vendor") {}

const vendor = Layer.effect(
  Vendor,
  Effect.map(
    ScriptedProvider.make([ScriptedProvider.always(ScriptedProvider.answer("An answer.", { delay: job.takes }))], {
      id: "Vendor"
    }),
    (scripted) => ({
      ...scripted,
      generate: (request: Parameters<typeof scripted.generate>[0]) =>
        Effect.suspend(() => {
          appendFileSync(job.paid, `${request.idempotencyKey} ${process.pid}\n`)
          return scripted.generate(request)
        })
    })
  )
)

const client = LlmClient.layer([Vendor], {
  idempotency: { takeOver: job.takeOver, lease: job.lease },
  cache: false,
  rateLimit: false
})
  .pipe(
    Layer.provide(vendor),
    Layer.provide(StateConfig.layer(job.state, { prefix: job.prefix }))
  )

const clock = () => performance.now()

const program = Effect.gen(function*() {
  const client = yield* LlmClient
  process.stdout.write("ready\n")
  yield* Effect.callback<void>((resume) => {
    process.stdin.once("data", () => resume(Effect.void))
  })
  const one = (i: number) =>
    Effect.gen(function*() {
      const begun = clock()
      const { ledger, source } = yield* client.complete({ prompt: `Document ${i}`, idempotencyKey: `document-${i}` })
      const waited = clock() - begun
      const unavailable = ledger.some((event) => event._tag === "Idempotency" && event.result === "unavailable")
      process.stdout.write(`done ${i} ${source} ${waited.toFixed(1)}${unavailable ? " unavailable" : ""}\n`)
      if (job.pace > 0) yield* Effect.sleep(job.pace)
    })
  const all = Stream.mapEffect(Stream.range(0, job.documents - 1), one, { concurrency: job.concurrency })
  yield* Stream.runDrain(all)
  yield* Effect.callback<void>((resume) => {
    process.stdout.write("over\n", () => resume(Effect.void))
  })
})

await Effect.runPromise(Effect.provide(program, client))
process.exit(0)
