// A chat backend without a word of Effect: POST a conversation to /chat, get the answer as it is written.
//   curl -N -d '[{ "role": "user", "content": "What is AI?" }]' http://127.0.0.1:8080/chat
import { LlmHttp } from "effect-resilient-llm"
import { createResilientLlm, type Message } from "effect-resilient-llm/promise"
import { createServer } from "node:http"
import { json } from "node:stream/consumers"

const llm = createResilientLlm({ timeout: { deadline: "1 minute" } }) // keys from the environment

const server = createServer(async (request, response) => {
  const left = new AbortController()
  response.on("close", () => left.abort()) // the user has gone: so does the call
  try {
    // What is no conversation is refused by the client, like everything else that is wrong with a request.
    const prompt = await json(request).catch(() => []) as Array<Message>
    for await (const text of llm.stream({ system: "You are kind and brief.", prompt }, { signal: left.signal })) {
      response.write(text)
    }
    response.end()
  } catch (error) {
    if (left.signal.aborted) return
    // Something was sent: breaking the connection is the only way left to say that it is not whole.
    if (response.headersSent) return response.destroy()
    const { headers, status } = LlmHttp.status(error)
    response.writeHead(status, headers).end(error instanceof Error && status !== 500 ? error.message : "")
  }
})

const port = Number(process.env["PORT"] ?? 8080)
server.listen(port, "127.0.0.1", () => console.log(`http://127.0.0.1:${port}/chat`))
process.once("SIGTERM", () => {
  server.close()
  void llm.close()
})
