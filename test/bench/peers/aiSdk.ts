// Retries over its own mock model; nothing else.
import { generateText } from "ai"
import { MockLanguageModelV4 } from "ai/test"

export const aiSdk = (answer: string): (prompt: string) => Promise<string> => {
  const model = new MockLanguageModelV4({
    doGenerate: async () => ({
      content: [{ type: "text", text: answer }],
      finishReason: { unified: "stop", raw: "stop" },
      usage: {
        inputTokens: { total: 20, noCache: undefined, cacheRead: undefined, cacheWrite: undefined },
        outputTokens: { total: 18, text: undefined, reasoning: undefined }
      },
      warnings: []
    })
  })
  return async (prompt) => {
    const { text } = await generateText({ model, prompt, maxRetries: 3 })
    model.doGenerateCalls.length = 0 // the mock keeps every call
    return text
  }
}
