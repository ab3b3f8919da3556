// A fleet behind one limit: every process of it runs this, and together they stay below what the vendor allows.
// `LLM_STATE=redis://localhost:6379 node fleet.ts`; without a Redis, a file serves the processes of one machine.
import { Effect, Layer } from "effect"
import { LlmClient } from "effect-resilient-llm"
import * as StateConfig from "effect-resilient-llm/persistence/Config"
import { ScriptedProvider } from "effect-resilient-llm/testing"

class Vendor extends ScriptedProvider.Service<Vendor>()("app/Vendor") {}

const state = StateConfig.layer(process.env.LLM_STATE ?? "sqlite::memory:", {
  // One prefix for each set of API keys.
  prefix: "fleet-example"
})

/** What one process builds; `state` is the only thing that the others know of it. */
const member = LlmClient.make(
  [LlmClient.target(Vendor, { limits: [{ dimension: "requests", limit: 9, per: "1 minute" }] })],
  { rateLimit: false, failover: false, retry: false, cache: false }
)

const program = Effect.gen(function*() {
  const members = yield* Effect.all([member, member, member])
  const calls = Array.from(
    { length: 30 },
    (_, i) => members[i % 3]!.complete({ prompt: `Question ${i}`, deadline: "1 second" })
  )
  const exits = yield* Effect.all(calls.map(Effect.exit), { concurrency: "unbounded" })
  return exits.filter(({ _tag }) => _tag === "Success").length
})

const answered = await Effect.runPromise(
  Effect.scoped(program).pipe(Effect.provide(Layer.merge(Vendor.layer(), state)))
)
console.log(`${answered} of 30 calls by three processes went through: the vendor allows nine a minute`)
