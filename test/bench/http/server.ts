// A server that speaks just enough OpenAI and Anthropic, in a process of its own, so that its work is not counted as the
// client's. The path says what is answered: `/<milliseconds before it>/<characters>/<events a chunk>/…`. A request with
// `stream: true` gets 100 chunks.
import { createServer, type ServerResponse } from "node:http"

const CHUNKS = 100

interface Dialect {
  readonly answer: (text: string) => object
  readonly opening: ReadonlyArray<string>
  readonly delta: (text: string) => string
  readonly ending: string
}

const data = (value: unknown): string => `data: ${JSON.stringify(value)}\n\n`
const event = (value: { readonly type: string }): string => `event: ${value.type}\n${data(value)}`

const usage = { prompt_tokens: 200, completion_tokens: 180, total_tokens: 380 }
const base = { id: "chatcmpl-1", created: 1_700_000_000, model: "gpt-bench" }
const chunk = (delta: object, finish_reason: string | null = null): string =>
  data({
    ...base,
    object: "chat.completion.chunk",
    choices: [{ index: 0, delta, finish_reason, logprobs: null }]
  })

const openAi: Dialect = {
  answer: (content) => ({
    ...base,
    object: "chat.completion",
    choices: [{
      index: 0,
      message: { role: "assistant", content, refusal: null },
      finish_reason: "stop",
      logprobs: null
    }],
    usage
  }),
  opening: [chunk({ role: "assistant", content: "" })],
  delta: (content) => chunk({ content }),
  ending: chunk({}, "stop") + data({ ...base, object: "chat.completion.chunk", choices: [], usage }) +
    "data: [DONE]\n\n"
}

const message = { id: "msg_1", type: "message", role: "assistant", model: "claude-bench", stop_sequence: null }
const tokens = { input_tokens: 200, output_tokens: 180 }

const anthropic: Dialect = {
  answer: (text) => ({ ...message, content: [{ type: "text", text }], stop_reason: "end_turn", usage: tokens }),
  opening: [
    event({ type: "message_start", message: { ...message, content: [], stop_reason: null, usage: tokens } } as never) +
    event({ type: "content_block_start", index: 0, content_block: { type: "text", text: "" } } as never)
  ],
  delta: (text) => event({ type: "content_block_delta", index: 0, delta: { type: "text_delta", text } } as never),
  ending: event({ type: "content_block_stop", index: 0 } as never) +
    event({ type: "message_delta", delta: { stop_reason: "end_turn" }, usage: { output_tokens: 180 } } as never) +
    event({ type: "message_stop" })
}

/** Answers are the same each time, so they are made once. */
const made = new Map<string, Buffer>()
const answerOf = (dialect: Dialect, size: number): Buffer => {
  const name = `${dialect === openAi ? "o" : "a"}${size}`
  const known = made.get(name)
  if (known !== undefined) return known
  const bytes = Buffer.from(JSON.stringify(dialect.answer("word ".repeat(size / 5))))
  made.set(name, bytes)
  return bytes
}

const pour = (response: ServerResponse, dialect: Dialect, perChunk: number): void => {
  response.writeHead(200, { "content-type": "text/event-stream" })
  for (const part of dialect.opening) response.write(part)
  const part = dialect.delta("word ").repeat(perChunk)
  let i = 0
  const next = (): void => {
    if (i++ === CHUNKS) return void response.end(dialect.ending)
    response.write(part)
    setImmediate(next)
  }
  next()
}

const server = createServer((request, response) => {
  const [, latency = "0", size = "1000", perChunk = "1"] = (request.url ?? "").split("/")
  const dialect = request.url?.endsWith("/messages") === true ? anthropic : openAi
  let text = ""
  request.setEncoding("utf8")
  request.on("data", (data) => text += data)
  request.on("end", () => {
    const answer = (): void => {
      if (text.includes("\"stream\":true")) return pour(response, dialect, Number(perChunk))
      const body = answerOf(dialect, Number(size))
      response.writeHead(200, { "content-type": "application/json", "content-length": body.length })
      response.end(body)
    }
    if (latency === "0") answer()
    else setTimeout(answer, Number(latency))
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
