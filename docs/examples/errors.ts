// Failures are in the type. What a configuration cannot produce is not there; what is there can be handled by tag.
import { Duration, Effect, Layer } from "effect"
import { LlmClient } from "effect-resilient-llm"
import { ScriptedProvider } from "effect-resilient-llm/testing"

class Vendor extends ScriptedProvider.Service<Vendor>()("app/Vendor") {}

// A tag of your own carries exactly the failures its options leave: no CircuitOpen here, no AllProvidersFailed.
class Chat extends LlmClient.Class<Chat>()("app/Chat", [Vendor], {
  circuitBreaker: false,
  failover: false,
  retry: { maxRetries: 1, baseDelay: "10 millis" }
}) {}

const live = Chat.layer.pipe(
  Layer.provide(Vendor.layer([
    ScriptedProvider.rateLimited("2 minutes"),
    ScriptedProvider.fail({ _tag: "Authentication" }, { status: 401 })
  ]))
)

const ask = Effect.flatMap(Chat, (chat) => chat.complete("What is AI?")).pipe(
  Effect.map((response) => response.text),
  Effect.catchReason(
    "ProviderError",
    "RateLimit",
    (_, error) => Effect.succeed(`Busy; come back in ${Duration.format(error.retryAfter ?? Duration.zero)}.`)
  ),
  Effect.catchTag("ProviderError", (error) => Effect.succeed(`${error.message} (${error.ledger.length} facts)`))
)

const program = Effect.gen(function*() {
  console.log(yield* ask)
  console.log(yield* ask)
})

await Effect.runPromise(Effect.provide(program, live))
