// Answers of every adapter, healthy and failing, to be cut and bent.
import { Gemini, OpenAi } from "effect-resilient-llm/providers"
import { Bedrock } from "effect-resilient-llm/providers/Bedrock"
import { Ollama } from "effect-resilient-llm/providers/Ollama"
import { anthropic, cohere, compatible, openAi, plain, samples } from "../providers/samples.ts"
import { apiKey, type Make } from "../providers/support.ts"

export interface Specimen {
  readonly name: string
  readonly make: Make
  readonly streaming: boolean
  readonly status?: number
  readonly body: string
}

const responses: Make = OpenAi.make({ apiKey, api: "responses" })
const gemini: Make = Gemini.make({ apiKey })
const bedrock: Make = Bedrock.make({ region: "eu-central-1", apiKey, defaultModel: "m" })
const ollama: Make = Ollama.make({ defaultModel: "m" })

const TEXT = "Grüezi 😀"
export const SECRET = "Zürich" // in the prompts, answers and error texts of all specimens
const sse = (...events: ReadonlyArray<string>): string => events.map((event) => `${event}\r\n\r\n`).join("")
const data = (value: unknown): string => `data: ${JSON.stringify(value)}`

const args = `{"city":"${SECRET}"}`
const responseHead = { id: "resp_1", object: "response", model: "m", status: "in_progress", output: [] }
const responseItems = [
  { type: "reasoning", id: "rs_1", summary: [{ type: "summary_text", text: "Hm" }] },
  { type: "message", id: "msg_1", role: "assistant", content: [{ type: "output_text", text: TEXT, annotations: [] }] },
  { type: "function_call", id: "fc_1", call_id: "call_1", name: "weather", arguments: args }
]
const responseWhole = {
  ...responseHead,
  status: "completed",
  output: responseItems,
  usage: {
    input_tokens: 10,
    input_tokens_details: { cached_tokens: 4 },
    output_tokens: 7,
    output_tokens_details: { reasoning_tokens: 2 }
  }
}

const candidate = (parts: ReadonlyArray<unknown>, finishReason?: string) => ({
  candidates: [{ index: 0, content: { role: "model", parts }, finishReason }],
  usageMetadata: { promptTokenCount: 10, candidatesTokenCount: 5, thoughtsTokenCount: 2, cachedContentTokenCount: 4 },
  modelVersion: "m",
  responseId: "r1"
})
const geminiParts = [
  { text: "Hm", thought: true },
  { text: TEXT, thoughtSignature: "sig" },
  { functionCall: { name: "weather", args: { city: SECRET } } }
]

const ollamaCall = { function: { name: "weather", arguments: { city: SECRET } } }
const ollamaEnd = { model: "m", done: true, done_reason: "stop", prompt_eval_count: 10, eval_count: 7 }

const younger: ReadonlyArray<Specimen> = [
  {
    name: "Ollama, whole",
    make: ollama,
    streaming: false,
    body: JSON.stringify({ ...ollamaEnd, message: { thinking: "Hm", content: TEXT, tool_calls: [ollamaCall] } })
  },
  {
    name: "Ollama, streamed",
    make: ollama,
    streaming: true,
    body: [
      { model: "m", message: { content: "", thinking: "Hm" }, done: false },
      { model: "m", message: { content: TEXT }, done: false },
      { model: "m", message: { content: "", tool_calls: [ollamaCall] }, done: false },
      { ...ollamaEnd, message: { content: "" } }
    ].map((line) => JSON.stringify(line) + "\n").join("")
  },
  { name: "responses, whole", make: responses, streaming: false, body: JSON.stringify(responseWhole) },
  {
    name: "responses, streamed",
    make: responses,
    streaming: true,
    body: sse(
      data({ type: "response.created", response: responseHead }),
      data({
        type: "response.output_item.added",
        output_index: 0,
        item: { type: "message", id: "msg_1", content: [] }
      }),
      data({
        type: "response.output_text.delta",
        item_id: "msg_1",
        output_index: 0,
        content_index: 0,
        delta: "Grüezi"
      }),
      data({ type: "response.output_text.delta", item_id: "msg_1", output_index: 0, content_index: 0, delta: " 😀" }),
      data({ type: "response.output_item.done", output_index: 0, item: responseItems[1] }),
      data({ type: "response.output_item.added", output_index: 1, item: { ...responseItems[2], arguments: "" } }),
      data({ type: "response.function_call_arguments.delta", item_id: "fc_1", output_index: 1, delta: args }),
      data({ type: "response.output_item.done", output_index: 1, item: responseItems[2] }),
      data({ type: "response.completed", response: { ...responseWhole, output: responseItems.slice(1) } })
    )
  },
  {
    name: "Bedrock, whole",
    make: bedrock,
    streaming: false,
    body: JSON.stringify({
      output: {
        message: {
          role: "assistant",
          content: [
            { reasoningContent: { reasoningText: { text: "Hm", signature: "sig" } } },
            { text: TEXT },
            {
              citationsContent: {
                content: [{ text: "…" }],
                citations: [{ location: { web: { url: "https://a.test" } } }]
              }
            },
            { toolUse: { toolUseId: "t1", name: "weather", input: { city: SECRET } } }
          ]
        }
      },
      stopReason: "tool_use",
      usage: { inputTokens: 10, outputTokens: 7, totalTokens: 17, cacheReadInputTokens: 4 }
    })
  },
  {
    name: "Bedrock, streamed",
    make: bedrock,
    streaming: true,
    body: [
      ["messageStart", { role: "assistant" }],
      ["contentBlockDelta", { contentBlockIndex: 0, delta: { reasoningContent: { text: "Hm" } } }],
      ["contentBlockDelta", { contentBlockIndex: 0, delta: { reasoningContent: { signature: "sig" } } }],
      ["contentBlockStop", { contentBlockIndex: 0 }],
      ["contentBlockDelta", { contentBlockIndex: 1, delta: { text: TEXT } }],
      ["contentBlockStop", { contentBlockIndex: 1 }],
      ["contentBlockStart", { contentBlockIndex: 2, start: { toolUse: { toolUseId: "t1", name: "weather" } } }],
      ["contentBlockDelta", { contentBlockIndex: 2, delta: { toolUse: { input: args } } }],
      ["contentBlockStop", { contentBlockIndex: 2 }],
      ["messageStop", { stopReason: "tool_use" }],
      ["metadata", { usage: { inputTokens: 10, outputTokens: 7, cacheReadInputTokens: 4 } }]
    ].map(([event, value]) => `event: ${event as string}\n${data(value)}\n\n`).join("")
  },
  { name: "Gemini, whole", make: gemini, streaming: false, body: JSON.stringify(candidate(geminiParts, "STOP")) },
  {
    name: "Gemini, streamed",
    make: gemini,
    streaming: true,
    body: sse(
      ...geminiParts.map((part) => data(candidate([part]))),
      data(candidate([{ text: "" }], "STOP"))
    )
  }
]

const errorBodies: ReadonlyArray<readonly [name: string, make: Make, status: number, body: unknown]> = [
  ["OpenAI", openAi, 429, {
    error: {
      message: `Rate limit reached for ${SECRET}. Please try again in 1m30s.`,
      type: "requests",
      param: null,
      code: "rate_limit_exceeded"
    }
  }],
  ["a FastAPI server", compatible, 422, { detail: [{ loc: ["body", 0], msg: SECRET, type: "value_error" }] }],
  ["Anthropic", anthropic, 529, {
    type: "error",
    error: { type: "overloaded_error", message: SECRET },
    request_id: "req_1"
  }],
  ["Gemini", gemini, 429, {
    error: {
      code: 429,
      message: SECRET,
      status: "RESOURCE_EXHAUSTED",
      details: [{ "@type": "type.googleapis.com/google.rpc.RetryInfo", retryDelay: "17s" }]
    }
  }],
  ["Cohere", cohere, 429, { id: "id-1", message: `You are limited to 1000 API calls / month, ${SECRET}` }]
]

const brokenStreams: ReadonlyArray<readonly [name: string, make: Make, body: string]> = [
  [
    "OpenAI's responses",
    responses,
    sse(
      data({ type: "response.created", response: responseHead }),
      data({ type: "error", code: "rate_limit_exceeded", message: SECRET }),
      data({
        type: "response.failed",
        response: { ...responseHead, status: "failed", error: { code: "server_error" } }
      })
    )
  ],
  ["OpenAI", openAi, sse(data({ choices: [{ delta: { content: TEXT } }] }), data({ error: { message: SECRET } }))],
  ["a compatible server", compatible, sse(`event: error\r\n${data({ error: SECRET, status_code: 503 })}`)],
  [
    "Anthropic",
    anthropic,
    sse(
      data({ type: "message_start", message: { id: "m" } }),
      data({ type: "error", error: { type: "overloaded_error", message: SECRET } })
    )
  ],
  [
    "Cohere",
    cohere,
    sse(data({ type: "message-start", id: "m" }), data({ type: "message-end", delta: { finish_reason: "ERROR" } }))
  ]
]

export const specimens: ReadonlyArray<Specimen> = [
  ...samples,
  ...younger,
  ...[openAi, compatible, anthropic].map((make, i) => ({
    name: `plain stream ${i + 1}`,
    make,
    streaming: true,
    body: plain(make, TEXT)
  })),
  {
    name: "plain stream of Cohere",
    make: cohere,
    streaming: true,
    body: sse(
      data({ type: "message-start", id: "m" }),
      data({ type: "content-delta", index: 0, delta: { message: { content: { text: TEXT } } } }),
      data({ type: "message-end", delta: { finish_reason: "COMPLETE" } })
    )
  },
  ...errorBodies.map(([name, make, status, body], i) => ({
    name: `error body of ${name}`,
    make,
    streaming: i % 2 === 0,
    status,
    body: JSON.stringify(body)
  })),
  ...brokenStreams.map(([name, make, body]) => ({ name: `error in a stream of ${name}`, make, streaming: true, body }))
]

/** The makes of each protocol. */
export const protocols: ReadonlyMap<string, ReadonlyArray<Make>> = new Map([
  ["chat", [openAi, compatible]],
  ["responses", [responses]],
  ["messages", [anthropic]],
  ["Cohere", [cohere]],
  ["Gemini", [gemini]],
  ["Bedrock", [bedrock]],
  ["Ollama", [ollama]]
])
