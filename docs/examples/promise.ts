// No word of Effect: promises, an AbortSignal, an async iterator. Keys come from OPENAI_API_KEY and ANTHROPIC_API_KEY.
import { createResilientLlm, ResilientLlmError } from "effect-resilient-llm/promise"

// One for the life of the application: what it has learnt about the providers lives in it.
const llm = createResilientLlm({ providers: { openai: {}, anthropic: {} } })

const { provider, text } = await llm.complete("What is AI?", { signal: AbortSignal.timeout(30_000) })
console.log(`${provider}: ${text}`)

const stream = llm.stream({ prompt: "Tell me more.", maxTokens: 500 })
for await (const text of stream) process.stdout.write(text)
console.log(`\n(${(await stream.response).usage.outputTokens.total} tokens)`)

try {
  await llm.complete({ prompt: "Hi", temperature: 7 })
} catch (error) {
  if (error instanceof ResilientLlmError) console.log(`${error.code}: ${error.message}`)
}

await llm.close()
