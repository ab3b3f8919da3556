// A program of its own, because memory is measured: calls whose spans, metrics and log lines go to a collector that
// accepts connections and never answers. Prints what it saw as JSON.
import { Effect, Layer, Logger } from "effect"
import { LlmClient, LlmProvider } from "effect-resilient-llm"
import { Logging, Metrics, Otlp } from "effect-resilient-llm/observability"
import { FetchHttpClient } from "effect/http"
import { createServer, type ServerResponse } from "node:http"
import type { AddressInfo } from "node:net"

const ROUNDS = 12
const CALLS = 4000

let sockets = 0
let most = 0
let requests = 0
const waiting = new Set<ServerResponse>()
const server = createServer((request, response) => {
  requests += 1
  request.resume()
  waiting.add(response)
  response.on("close", () => waiting.delete(response))
})
server.on("connection", (socket) => {
  most = Math.max(most, ++sockets)
  socket.on("close", () => sockets--)
})
await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve))
const endpoint = `http://127.0.0.1:${(server.address() as AddressInfo).port}`

let asked = 0
const provider = LlmProvider.make({
  id: "vendor",
  generate: () =>
    Effect.sync(() => {
      asked += 1
      return "Hello."
    })
})
const telemetry = Otlp.layer({ endpoint, serviceName: "shop", exportInterval: "50 millis", timeout: "250 millis" })
const live = LlmClient.layerDynamic([provider], { rateLimit: false }).pipe(
  Layer.provide([Metrics.layer(), Logging.layer({ level: () => "Info" })]),
  Layer.provideMerge(telemetry.pipe(Layer.provide(FetchHttpClient.layer))),
  Layer.provide(Layer.succeed(Logger.CurrentLoggers, new Set<never>()))
)

const heaps: Array<number> = []
let answered = 0
await Effect.runPromise(Effect.provide(
  Effect.gen(function*() {
    const client = yield* LlmClient
    for (let round = 0; round < ROUNDS; round++) {
      for (let i = 0; i < CALLS; i++) {
        if ((yield* client.complete("Hi")).text === "Hello.") answered += 1
        if (i % 100 === 0) yield* Effect.sleep(1)
      }
      yield* Effect.sleep("300 millis")
      globalThis.gc?.()
      heaps.push(process.memoryUsage().heapUsed)
    }
  }),
  live
))
console.log(JSON.stringify({ answered, asked, most, requests, heaps }))
process.exit(0)
