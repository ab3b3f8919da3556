import { NodeRuntime } from "@effect/platform-node"
import { Effect, Layer } from "effect"
import { LlmClient } from "effect-resilient-llm"
import { DispatcherHttpClient } from "effect-resilient-llm/node"
import { Anthropic, OpenAi } from "effect-resilient-llm/providers"

// Keys come from OPENAI_API_KEY and ANTHROPIC_API_KEY; a vendor without one is left out. OpenAI is asked first, Anthropic
// when it cannot answer.
const live = LlmClient.layer([OpenAi, Anthropic]).pipe(
  Layer.provide([OpenAi.layerConfigOptional(), Anthropic.layerConfigOptional()]),
  Layer.provide(DispatcherHttpClient.layerAgent())
)

const program = Effect.gen(function*() {
  const client = yield* LlmClient
  const response = yield* client.complete("What is AI?")
  console.log(response.text)
  console.log(`(${response.target}, ${response.ledger.length} facts in the ledger)`)
})

NodeRuntime.runMain(Effect.provide(program, live))
