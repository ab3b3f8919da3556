// Every pattern is an own key: absent = the default, false = off, an object = these settings.
import { ConfigProvider, Effect, Layer } from "effect"
import { LlmClient, LlmConfig } from "effect-resilient-llm"
import { ScriptedProvider } from "effect-resilient-llm/testing"

class Vendor extends ScriptedProvider.Service<Vendor>()("app/Vendor") {}

// In code …
const inCode = LlmClient.layer(
  [LlmClient.target(Vendor, {
    id: "vendor-eu",
    models: { fast: "vendor-small-2" },
    limits: [
      { dimension: "requests", limit: 500, per: "1 minute" },
      { dimension: "tokens", limit: 200_000, per: "1 minute" }
    ]
  })],
  { timeout: { attempt: "20 seconds", deadline: "1 minute" }, bulkhead: { maxConcurrent: 20 }, cache: false }
)

// … from a JSON file and the environment, where the environment wins: LLM_RETRY_MAX_RETRIES=5, LLM_CACHE=false
const file = ConfigProvider.fromUnknown({ LLM: { retry: { maxRetries: 2, baseDelay: "200 millis" }, cache: false } })
const environment = ConfigProvider.constantCase(ConfigProvider.fromEnvRecord({ LLM_RETRY_MAX_RETRIES: "5" }))
const fromConfig = LlmClient.layerConfig([Vendor], LlmConfig.config).pipe(
  Layer.provide(ConfigProvider.layer(ConfigProvider.orElse(environment, file)))
)

const ask = Effect.flatMap(LlmClient, (client) => client.complete({ prompt: "What is AI?", model: "fast" }))
for (const layer of [inCode, fromConfig]) {
  const response = await Effect.runPromise(Effect.provide(ask, Layer.provide(layer, Vendor.layer())))
  console.log(response.target, response.text)
}

// A misspelled option is an error that names it, not a silent default.
const typo = ConfigProvider.fromUnknown({ LLM: { retry: { retries: 2 } } })
console.log(
  await Effect.runPromise(
    Effect.flip(Effect.provide(LlmConfig.config, ConfigProvider.layer(typo))).pipe(Effect.map((error) => error.message))
  )
)
