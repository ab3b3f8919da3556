// The AI SDK over the pipeline: a client as a model, and the pipeline round models that are already there.
import { createOpenAI } from "@ai-sdk/openai"
import { generateText, streamText } from "ai"
import { resilient, resilientModels } from "effect-resilient-llm/ai-sdk"
import { createResilientLlm } from "effect-resilient-llm/promise"

const llm = createResilientLlm({ providers: { openai: {}, anthropic: {} } })
const { providerMetadata, text } = await generateText({ model: resilient(llm), prompt: "What is AI?" })
console.log(text)
console.log("from", providerMetadata?.["effect-resilient-llm"]?.["target"])
await llm.close()

// Each model gets the options of a call as they are; the SDK's own retries do not multiply these.
const { OPENAI_API_KEY: apiKey, OPENAI_BASE_URL: baseURL } = process.env
const openai = createOpenAI({ ...(apiKey && { apiKey }), ...(baseURL && { baseURL }) })
const model = resilientModels([openai.chat("gpt-4.1-mini"), openai.chat("gpt-4.1")], {
  timeout: { attempt: "20 seconds" }
})
for await (const delta of streamText({ model, prompt: "Tell me more." }).textStream) process.stdout.write(delta)
console.log()
