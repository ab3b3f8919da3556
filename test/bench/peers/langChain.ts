// Retries and fallbacks over its own fake model; nothing else.
import { AIMessage } from "@langchain/core/messages"
import { FakeListChatModel } from "@langchain/core/utils/testing"

export const langChain = (answer: string): (prompt: string) => Promise<string> => {
  const model = () => new FakeListChatModel({ responses: [answer] })
  const chain = model().withRetry({ stopAfterAttempt: 4 }).withFallbacks([model()])
  return async (prompt) => {
    const message = await chain.invoke(prompt)
    return AIMessage.isInstance(message) ? message.text : ""
  }
}
