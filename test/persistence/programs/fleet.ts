// One of several processes whose circuits are shared: asks a vendor over HTTP, one call after the other, until it is killed.
// Argument: JSON of `Job`. What it knows is written as it changes: `circuit open`.
import { Effect, Layer, Schedule, Stream } from "effect"
import { FetchHttpClient, HttpClient, HttpClientResponse } from "effect/http"
import { LlmClient } from "../../../src/LlmClient.ts"
import { ProviderError } from "../../../src/LlmError.ts"
import * as LlmProvider from "../../../src/LlmProvider.ts"
import * as StateConfig from "../../../src/persistence/Config.ts"

export interface Job {
  readonly state: string
  readonly prefix: string
  /** The vendor, which counts. */
  readonly url: string
  /** Milliseconds between calls. */
  readonly pace: number
  readonly recoveryTimeout: number
  readonly attempt: number
  readonly clockOff: number
}

const job = JSON.parse(process.argv[2]!) as Job
const wall = Date.now
Date.now = () => wall() + job.clockOff

const overloaded = new ProviderError({ provider: "vendor", reason: { _tag: "Overloaded" }, status: 503 })

const vendor = Effect.map(HttpClient.HttpClient, (http) =>
  LlmProvider.make({
    id: "vendor",
    generate: () =>
      http.get(`${job.url}/${process.pid}`).pipe(
        Effect.flatMap(HttpClientResponse.filterStatusOk),
        Effect.flatMap(({ text }) => text),
        Effect.mapError(() => overloaded)
      )
  }))

const client = Layer.unwrap(Effect.map(vendor, (provider) =>
  LlmClient.layerDynamic([provider], {
    retry: false,
    cache: false,
    rateLimit: false,
    timeout: { attempt: job.attempt, idle: job.attempt },
    circuitBreaker: { failureThreshold: 5, recoveryTimeout: job.recoveryTimeout }
  }))).pipe(
    Layer.provide(FetchHttpClient.layer),
    Layer.provide(StateConfig.layer(job.state, { prefix: job.prefix }))
  )

const program = Effect.gen(function*() {
  const client = yield* LlmClient
  const say = (line: string) =>
    Effect.callback<void>((resume) => {
      process.stdout.write(`${line}\n`, () => resume(Effect.void))
    })
  yield* Effect.forkChild(
    Stream.runForEach(
      client.events,
      (event) => event._tag === "CircuitChanged" ? say(`circuit ${event.to}`) : Effect.void
    )
  )
  // Looks for the first time, on a machine that may be busy with other tests.
  yield* Effect.retry(client.complete("Hello"), { times: 3 })
  yield* Effect.sleep(200)
  yield* say("ready")
  yield* Effect.callback<void>((resume) => {
    process.stdin.once("data", () => resume(Effect.void))
  })
  const one = Effect.suspend(() => Effect.ignore(client.complete("A question")))
  yield* Effect.repeat(one, Schedule.spaced(job.pace))
})

await Effect.runPromise(Effect.provide(program, client))
