// The chat backend of thirty lines, as a program: it answers over a failover, streams, is aborted, and ends by itself.
import { createResilientLlm, ResilientLlmError } from "../../src/promise/index.ts"

const [first, second] = process.argv.slice(2)
const llm = createResilientLlm({
  providers: { openai: { apiKey: "key", baseUrl: first! }, anthropic: { apiKey: "key", baseUrl: second! } },
  retry: { maxRetries: 1, baseDelay: 1 }
})

const answer = await llm.complete("What is AI?")
const texts: Array<string> = []
for await (const text of llm.stream({ prompt: "Tell me more.", maxTokens: 50 })) texts.push(text)

const controller = new AbortController()
setTimeout(() => controller.abort(), 100)
let aborted: unknown
try {
  await llm.complete("And now?", { signal: controller.signal })
} catch (error) {
  aborted = error instanceof Error ? error.name : error
}
let failed: unknown
try {
  await llm.complete({ prompt: "Hi", temperature: 7 })
} catch (error) {
  failed = error instanceof ResilientLlmError ? error.code : error
}
console.log(JSON.stringify({ answer: answer.text, by: answer.provider, texts, aborted, failed }))
// Whether it closes or not, nothing keeps the process alive.
if (process.argv[4] === "close") await llm.close()
