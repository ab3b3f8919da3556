// A server that speaks just enough OpenAI, in a process of its own, so that its work is not counted as the client's.
// POST /now/…: at once. POST /late/…: after two seconds. A request with `stream: true` gets 100 chunks.
import { createServer } from "node:http"
import { ANSWER } from "../stubs.ts"

const usage = { prompt_tokens: 20, completion_tokens: 18, total_tokens: 38 }
const base = { id: "chatcmpl-1", created: 1700000000, model: "gpt-bench" }
const body = JSON.stringify({
  ...base,
  object: "chat.completion",
  choices: [{
    index: 0,
    message: { role: "assistant", content: ANSWER, refusal: null },
    finish_reason: "stop",
    logprobs: null
  }],
  usage
})
const chunk = (delta: object, finish_reason: string | null = null): string =>
  `data: ${
    JSON.stringify({
      ...base,
      object: "chat.completion.chunk",
      choices: [{ index: 0, delta, finish_reason, logprobs: null }]
    })
  }\n\n`
const words = Array.from({ length: 100 }, () => chunk({ content: "word " }))
const ending = `${chunk({}, "stop")}data: ${
  JSON.stringify({ ...base, object: "chat.completion.chunk", choices: [], usage })
}\n\ndata: [DONE]\n\n`

const server = createServer((request, response) => {
  let text = ""
  request.setEncoding("utf8")
  request.on("data", (data) => text += data)
  request.on("end", () => {
    if (text.includes("\"stream\":true")) {
      response.writeHead(200, { "content-type": "text/event-stream" })
      response.write(chunk({ role: "assistant", content: "" }))
      let i = 0
      const next = (): void => {
        if (i === words.length) return void response.end(ending)
        response.write(words[i++])
        setImmediate(next)
      }
      return next()
    }
    const answer = (): void => {
      response.writeHead(200, { "content-type": "application/json", "content-length": Buffer.byteLength(body) })
      response.end(body)
    }
    if (request.url?.startsWith("/late")) setTimeout(answer, 2000)
    else answer()
  })
})
server.keepAliveTimeout = 60_000
server.maxConnections = 20_000
server.listen({ port: 0, host: "127.0.0.1", backlog: 8192 }, () => {
  const address = server.address()
  process.stdout.write(`${typeof address === "object" && address !== null ? address.port : ""}\n`)
})
process.stdin.resume()
process.stdin.on("end", () => process.exit(0))
