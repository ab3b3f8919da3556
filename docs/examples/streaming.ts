// A stream: retries and failover happen before the first token; afterwards a break is a typed error.
import { Effect, Layer, Stream } from "effect"
import { LlmClient } from "effect-resilient-llm"
import { ScriptedProvider } from "effect-resilient-llm/testing"

class Primary extends ScriptedProvider.Service<Primary>()("app/Primary") {}
class Secondary extends ScriptedProvider.Service<Secondary>()("app/Secondary") {}

const live = LlmClient.layer([Primary, Secondary], { retry: false }).pipe(
  Layer.provide(
    Primary.layer([ScriptedProvider.overloaded, ScriptedProvider.stream("Once ", "upon ", ScriptedProvider.cut)])
  ),
  Layer.provide(Secondary.layer([ScriptedProvider.stream("Hello ", "from ", "the ", "secondary.")]))
)

const program = Effect.gen(function*() {
  const client = yield* LlmClient

  // `open` gives the parts and, when they have been read, the whole response with usage and ledger.
  yield* Effect.scoped(Effect.gen(function*() {
    const { parts, response } = yield* client.open("Say hello")
    yield* Stream.runForEach(
      parts,
      (part) => Effect.sync(() => part.type === "text-delta" && process.stdout.write(part.delta))
    )
    const { ledger, target } = yield* response
    console.log(`\n(${target}: ${ledger.map((event) => event._tag).join(", ")})`)
  }))

  // The second stream breaks after its first token. Nobody glues another model's answer to it.
  yield* client.stream("Tell a story").pipe(
    Stream.runDrain,
    Effect.catchTag("StreamInterrupted", (error) => Effect.sync(() => console.log(error.message)))
  )
})

await Effect.runPromise(Effect.provide(program, live))
