// Plain TypeScript: a promise, an AbortSignal, a text. Effect stays inside.
import { Effect, Layer, ManagedRuntime } from "effect"
import { LlmClient } from "effect-resilient-llm"
import { OpenAi } from "effect-resilient-llm/providers"
import { FetchHttpClient } from "effect/http"

// One runtime for the life of the application: breakers, buckets and caches live in it.
const runtime = ManagedRuntime.make(
  LlmClient.layer([OpenAi]).pipe(Layer.provide(OpenAi.layerConfig()), Layer.provide(FetchHttpClient.layer))
)

/** Rejects with one of the typed errors, or at once when the signal is aborted. */
const ask = (prompt: string, signal?: AbortSignal): Promise<string> =>
  runtime.runPromise(
    Effect.flatMap(LlmClient, (client) => Effect.map(client.complete(prompt), (response) => response.text)),
    signal === undefined ? undefined : { signal }
  )

console.log(await ask("What is AI?"))

const controller = new AbortController()
const pending = ask("What is AI?", controller.signal)
controller.abort()
console.log(await pending.catch(() => "aborted: the socket is closed, every permit is back"))

await runtime.dispose()
