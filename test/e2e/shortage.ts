// A program that makes a thousand calls at once, for a process with fewer file descriptors than that. Prints, as JSON,
// how often each outcome came and what the circuits say.
import { NodeHttpClient } from "@effect/platform-node"
import { Effect, Exit, Layer, Redacted } from "effect"
import { LlmClient, type LlmError } from "effect-resilient-llm"
import { Anthropic, OpenAi } from "effect-resilient-llm/providers"
import { FetchHttpClient } from "effect/http"

const [, , baseUrl = "", transport] = process.argv
const apiKey = Redacted.make("key")

const outcome = (exit: Exit.Exit<{ readonly provider?: string | undefined }, LlmError.LlmError>): string => {
  if (Exit.isSuccess(exit)) return `answered by ${exit.value.provider}`
  const reason = exit.cause.reasons[0]
  if (reason?._tag !== "Fail" || reason.error._tag !== "ProviderError") return "something else"
  const { error } = reason
  return error.reason._tag === "Network"
    ? `Network ${error.reason.kind}, sent: ${error.reason.sent}`
    : error.reason._tag
}

const program = Effect.gen(function*() {
  const client = yield* LlmClient
  const outcomes: Record<string, number> = {}
  yield* Effect.forEach(
    Array.from({ length: 1000 }, (_, i) => `Hi ${i}`),
    (prompt) =>
      Effect.map(Effect.exit(client.complete(prompt)), (exit) => {
        const name = outcome(exit)
        outcomes[name] = (outcomes[name] ?? 0) + 1
      }),
    { concurrency: "unbounded" }
  )
  const { targets } = yield* client.status
  return { outcomes, circuits: targets.map(({ circuit }) => circuit?.state) }
})

const options = { cache: false, bulkhead: false, rateLimit: false, retry: { maxRetries: 1, baseDelay: 50 } } as const
const live = LlmClient.layer([OpenAi, Anthropic], options).pipe(
  Layer.provide([OpenAi.layer({ apiKey, baseUrl }), Anthropic.layer({ apiKey, baseUrl: new URL("/", baseUrl).href })]),
  Layer.provide(transport === "fetch" ? FetchHttpClient.layer : NodeHttpClient.layerUndici)
)
process.stdout.write(JSON.stringify(await Effect.runPromise(Effect.provide(program, live))))
process.exit()
