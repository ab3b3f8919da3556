// Your tests use the tools this library is tested with: scripted providers, and a clock that does not wait.
import { Effect, Fiber, Layer, Random } from "effect"
import { LlmClient } from "effect-resilient-llm"
import { ScriptedProvider } from "effect-resilient-llm/testing"
import { TestClock } from "effect/testing"

class Primary extends ScriptedProvider.Service<Primary>()("app/Primary") {}
class Secondary extends ScriptedProvider.Service<Secondary>()("app/Secondary") {}

// The primary hangs for ever; the secondary answers. With the defaults that takes a minute per attempt.
const live = LlmClient.layer([Primary, Secondary], { retry: { maxRetries: 1 } }).pipe(
  Layer.provide(Primary.layer([ScriptedProvider.always(ScriptedProvider.hang)])),
  Layer.provide(Secondary.layer([ScriptedProvider.answer("Here I am.")]))
)

const test = Effect.gen(function*() {
  const client = yield* LlmClient
  const call = yield* Effect.forkChild(client.complete("Hi"), { startImmediately: true })
  yield* TestClock.adjust("10 minutes")
  const response = yield* Fiber.join(call)
  for (const event of response.ledger) console.log(String(event.at).padStart(7), event._tag)
  console.log(response.text)
})

await Effect.runPromise(test.pipe(Effect.provide(live), Random.withSeed("a seed"), Effect.provide(TestClock.layer())))
