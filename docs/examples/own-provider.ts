// A provider of your own: an id and a way to answer. It gets retries, timeouts, failover and everything else.
import { Context, Effect, Layer, type Redacted } from "effect"
import { LlmClient, LlmError, LlmProvider } from "effect-resilient-llm"
import { HttpClient, HttpClientRequest } from "effect/http"

class InHouse extends Context.Service<InHouse, LlmProvider.LlmProvider>()("app/InHouse") {
  static readonly layer = Layer.succeed(
    InHouse,
    LlmProvider.make({
      id: "in-house",
      generate: (request) =>
        request.prompt.length > 10
          ? Effect.fail(new LlmError.ProviderError({ provider: "in-house", reason: { _tag: "ContextLength" } }))
          : Effect.succeed("An answer from the model in our own basement.")
    })
  )
}

// One behind HTTP. `fromHttp` tells a rate limit from an empty purse, and reads Retry-After and the limits.
export const overHttp = (url: string, apiKey: Redacted.Redacted) =>
  Effect.map(HttpClient.HttpClient, (client) =>
    LlmProvider.make({
      id: "in-house",
      generate: Effect.fn(function*(request) {
        const unreached = () =>
          new LlmError.ProviderError({ provider: "in-house", reason: { _tag: "Network", sent: true } })
        const question = HttpClientRequest.post(url).pipe(
          HttpClientRequest.bearerToken(apiKey),
          HttpClientRequest.bodyJsonUnsafe({ messages: request.prompt })
        )
        const response = yield* Effect.mapError(client.execute(question), unreached)
        const body = yield* Effect.mapError(response.text, unreached)
        if (response.status === 200) return body
        const { headers, status } = response
        return yield* LlmError.ProviderError.fromHttp({
          provider: "in-house",
          status,
          headers,
          body,
          secrets: [apiKey]
        })
      })
    }))

const program = Effect.flatMap(LlmClient, (client) => client.complete("What is AI?"))
const live = Layer.provide(LlmClient.layer([InHouse]), InHouse.layer)
console.log((await Effect.runPromise(Effect.provide(program, live))).text)
