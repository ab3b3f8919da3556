// A provider of your own: an id and a way to answer. It gets retries, timeouts, failover and everything else.
import { Context, Effect, Layer } from "effect"
import { LlmClient, LlmError, LlmProvider } from "effect-resilient-llm"

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

const program = Effect.flatMap(LlmClient, (client) => client.complete("What is AI?"))
const live = Layer.provide(LlmClient.layer([InHouse]), InHouse.layer)
console.log((await Effect.runPromise(Effect.provide(program, live))).text)
