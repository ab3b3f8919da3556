// A batch of documents that survives kill -9: answers are recorded in a file, so a second run pays only for what is missing.
// Run it, kill it, run it again: `node batch.ts`.
import { Effect, Layer, Ref, Stream } from "effect"
import { LlmClient } from "effect-resilient-llm"
import * as StateConfig from "effect-resilient-llm/persistence/Config"
import { ScriptedProvider } from "effect-resilient-llm/testing"

// In your program: OpenAi, Anthropic, …
class Vendor extends ScriptedProvider.Service<Vendor>()("app/Vendor") {}
const vendor = Vendor.layer([ScriptedProvider.always(ScriptedProvider.answer("A summary.", { delay: 5 }))])

const client = LlmClient.layer(
  [LlmClient.target(Vendor, { limits: [{ dimension: "requests", limit: 6000, per: "1 minute" }] })],
  // We are alone, so what a killed run was working on is free at once and not only after 15 seconds.
  { idempotency: { ttl: "30 days", takeOver: true }, cache: false }
).pipe(
  Layer.provide(vendor),
  Layer.provide(StateConfig.layer(process.env.LLM_STATE ?? "sqlite:./batch.db"))
)

const documents = Array.from(
  { length: Number(process.env.DOCUMENTS ?? 50) },
  (_, i) => ({ id: i, text: `Document ${i}` })
)

const program = Effect.gen(function*() {
  const client = yield* LlmClient
  const totals = yield* Ref.make({ asked: 0, replayed: 0, failed: 0, tokens: 0 })
  const one = (document: (typeof documents)[number]) =>
    client.complete({
      prompt: `Summarize: ${document.text}`,
      // Of the document and the task, never of the run: it is how a second run knows what was paid for.
      idempotencyKey: `summary-v1-${document.id}`
    }).pipe(
      Effect.flatMap(({ source, usage }) =>
        Ref.update(totals, (sum) => ({
          ...sum,
          asked: sum.asked + (source === "provider" ? 1 : 0),
          replayed: sum.replayed + (source === "replay" ? 1 : 0),
          tokens: sum.tokens + (source === "provider" ? usage.outputTokens.total ?? 0 : 0)
        }))
      ),
      // One document that fails does not end the others; the next run asks for it again.
      Effect.catch((error) =>
        Effect.andThen(
          Effect.logWarning(`document ${document.id}: ${error.message}`),
          Ref.update(totals, (sum) => ({ ...sum, failed: sum.failed + 1 }))
        )
      ),
      Effect.andThen(Ref.get(totals)),
      Effect.tap(({ asked, failed, replayed }) => {
        const done = asked + failed + replayed
        return done % 10 === 0 ? Effect.log(`${done} of ${documents.length}`) : Effect.void
      })
    )
  yield* Stream.runDrain(Stream.mapEffect(Stream.fromIterable(documents), one, { concurrency: 8 }))
  return yield* Ref.get(totals)
})

console.log(await Effect.runPromise(Effect.provide(program, client)))
