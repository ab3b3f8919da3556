// A program written against `effect/ai` alone: a chat with a tool, a value by schema, a stream. It becomes resilient by
// the Layer at the end, and by nothing else.
import { Effect, Layer, Schema, Stream } from "effect"
import { LlmClient, LlmLanguageModel } from "effect-resilient-llm"
import { ScriptedProvider } from "effect-resilient-llm/testing"
import { Chat, LanguageModel, Tool, Toolkit } from "effect/ai"

const Weather = Tool.make("Weather", {
  description: "The temperature in a city",
  parameters: Schema.Struct({ city: Schema.String }),
  success: Schema.Struct({ celsius: Schema.Finite })
})
const toolkit = Toolkit.make(Weather)
const Report = Schema.Struct({ city: Schema.String, celsius: Schema.Finite })

const program = Effect.gen(function*() {
  const chat = yield* Chat.empty
  yield* chat.generateText({ prompt: "How warm is it in Berlin?", toolkit }) // calls the tool
  const answer = yield* chat.generateText({ prompt: [], toolkit }) // tells what it found
  console.log(answer.text)

  const { value } = yield* LanguageModel.generateObject({ prompt: "Berlin has 21 degrees.", schema: Report })
  console.log(JSON.stringify(value))

  yield* LanguageModel.streamText({ prompt: "Is that warm?" }).pipe(
    Stream.filter((part) => part.type === "text-delta"),
    Stream.runFold(() => "", (text, part) => text + part.delta),
    Effect.tap((text) => Effect.sync(() => console.log(text)))
  )
})

// --- what changes ----------------------------------------------------------------------------------------------------

class Primary extends ScriptedProvider.Service<Primary>()("primary") {}
class Secondary extends ScriptedProvider.Service<Secondary>()("secondary") {}

const { answer, overloaded } = ScriptedProvider
const toolCall = { type: "tool-call", id: "1", name: "Weather", params: { city: "Berlin" } } as const
const finish = { type: "finish", reason: "tool-calls", usage: { inputTokens: {}, outputTokens: {} } } as const

const live = LlmLanguageModel.layer().pipe(
  Layer.provide(LlmClient.layer([Primary, Secondary], { retry: { maxRetries: 1, baseDelay: "10 millis" } })),
  Layer.provide(Primary.layer([
    overloaded,
    answer([toolCall, finish]),
    overloaded,
    overloaded,
    answer(`{"city":"Berlin","celsius":21}`),
    answer("It is warm.")
  ])),
  Layer.provide(Secondary.layer([answer("21 degrees in Berlin.")]))
)

// Ledgers, sources and targets have no place in `effect/ai`; an observer is told.
const seen: Array<string> = []
await program.pipe(
  LlmLanguageModel.onResponse(({ ledger, target }) =>
    Effect.sync(() => seen.push(`${target} (${ledger.filter((e) => e._tag === "AttemptStarted").length})`))
  ),
  LlmLanguageModel.withConfigOverride({ deadline: "30 seconds", temperature: 0 }),
  Effect.provide(toolkit.toLayer({ Weather: () => Effect.succeed({ celsius: 21 }) })),
  Effect.provide(live),
  Effect.runPromise
)
console.log(`Answered by, after attempts: ${seen.join(", ")}`)
