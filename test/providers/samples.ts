// Hand-written answers, one per protocol and kind, and what they must decode to.
import { Anthropic, Cohere, OpenAi, OpenAiCompatible } from "effect-resilient-llm/providers"
import { apiKey, type Make } from "./support.ts"

export const openAi: Make = OpenAi.make({ apiKey })
export const compatible: Make = OpenAiCompatible.make({ baseUrl: "https://llm.test/v1", defaultModel: "m" })
export const anthropic: Make = Anthropic.make({ apiKey })
export const cohere: Make = Cohere.make({ apiKey })

const sse = (events: ReadonlyArray<unknown>, named: boolean, end = "\n\n"): string =>
  events.map((event) => {
    if (typeof event === "string") return `data: ${event}${end}`
    const { type } = event as { readonly type?: string }
    return `${named ? `event: ${type}${end.slice(0, end.length / 2)}` : ""}data: ${JSON.stringify(event)}${end}`
  }).join("")

export interface Sample {
  readonly name: string
  readonly make: Make
  readonly streaming: boolean
  readonly body: string
  readonly text: string
  readonly reasoning?: string
  readonly toolCalls?: ReadonlyArray<{ readonly id: string; readonly name: string; readonly params: unknown }>
  readonly reason: string
  readonly usage: unknown
}

const weather = { id: "call_1", name: "weather", params: { city: "Zürich 😀" } }
const clock = { id: "call_2", name: "clock", params: {} }

const chunk = (delta: unknown, more: object = {}, top: object = {}) => ({
  id: "c1",
  object: "chat.completion.chunk",
  model: "m-1",
  choices: [{ index: 0, delta, finish_reason: null, ...more }],
  usage: null,
  obfuscation: "xyz",
  ...top
})

const chatUsage = {
  prompt_tokens: 10,
  completion_tokens: 7,
  prompt_tokens_details: { cached_tokens: 4 },
  completion_tokens_details: { reasoning_tokens: 2 }
}
const usage = {
  inputTokens: { total: 10, uncached: 6, cacheRead: 4 },
  outputTokens: { total: 7, text: 5, reasoning: 2 }
}

export const samples: ReadonlyArray<Sample> = [
  {
    name: "chat completions, whole",
    make: openAi,
    streaming: false,
    body: JSON.stringify({
      id: "c1",
      model: "m-1",
      choices: [
        { index: 1, message: { content: "not this one" }, finish_reason: "length" },
        {
          index: 0,
          finish_reason: "tool_calls",
          message: {
            role: "assistant",
            content: "Grüezi 😀",
            refusal: null,
            tool_calls: [
              { id: "call_1", type: "function", function: { name: "weather", arguments: "{\"city\":\"Zürich 😀\"}" } },
              { id: "call_2", type: "function", function: { name: "clock", arguments: "" } }
            ]
          }
        }
      ],
      usage: chatUsage
    }),
    text: "Grüezi 😀",
    toolCalls: [weather, clock],
    reason: "tool-calls",
    usage
  },
  {
    name: "chat completions, streamed",
    make: openAi,
    streaming: true,
    body: sse([
      chunk({ role: "assistant", content: "", refusal: null }),
      chunk({ content: "Grüe" }),
      chunk({ content: "not this one" }, { index: 1 }),
      chunk({ content: "zi 😀" }),
      chunk({
        tool_calls: [{ index: 0, id: "call_1", type: "function", function: { name: "weather", arguments: "" } }]
      }),
      chunk({ tool_calls: [{ index: 0, function: { arguments: "{\"city\":\"Zür" } }] }),
      chunk({ tool_calls: [{ index: 1, id: "call_2", function: { name: "clock" } }] }),
      chunk({ tool_calls: [{ index: 0, function: { arguments: "ich 😀\"}" } }] }),
      chunk({}, { finish_reason: "tool_calls" }),
      { ...chunk({}), choices: [], usage: chatUsage },
      "[DONE]"
    ], false),
    text: "Grüezi 😀",
    toolCalls: [weather, clock],
    reason: "tool-calls",
    usage
  },
  {
    name: "chat completions of a lenient server, whole",
    make: compatible,
    streaming: false,
    body: "\n\n" + JSON.stringify({
      choices: [{
        message: {
          content: [{ type: "thinking", thinking: [{ type: "text", text: "Hm" }] }, { type: "text", text: "Hi" }],
          tool_calls: [
            { function: { name: "weather", arguments: { city: "Zürich 😀" } } },
            { id: "call_2", function: { name: "clock", arguments: "null" } }
          ]
        },
        finish_reason: "eos"
      }]
    }),
    text: "Hi",
    reasoning: "Hm",
    toolCalls: [{ ...weather, id: "invented_0" }, clock],
    reason: "tool-calls",
    usage: { inputTokens: {}, outputTokens: {} }
  },
  {
    name: "chat completions of a lenient server, streamed",
    make: compatible,
    streaming: true,
    body: sse(
      [
        { choices: [], prompt_filter_results: [] },
        { choices: [{ delta: { reasoning_content: "H", content: null } }] },
        { choices: [{ delta: { reasoning: "m" } }] },
        { choices: [{ delta: { content: [{ type: "text", text: "Hi" }] } }] },
        {
          choices: [{
            delta: {
              tool_calls: [{ index: 0, id: "call_1", function: { name: "weather", arguments: { city: "Zürich 😀" } } }]
            }
          }]
        },
        // A new id under the same index is a new call.
        {
          choices: [{
            delta: { tool_calls: [{ index: 0, id: "call_2", function: { name: "clock", arguments: "{}" } }] }
          }]
        },
        {
          choices: [{ delta: {}, finish_reason: "stop" }],
          x_groq: { usage: { prompt_tokens: 3, completion_tokens: 4 } }
        }
      ],
      false,
      "\r\n\r\n"
    ) + ": OPENROUTER PROCESSING\r\n\r\n",
    text: "Hi",
    reasoning: "Hm",
    toolCalls: [weather, clock],
    reason: "tool-calls",
    usage: { inputTokens: { total: 3 }, outputTokens: { total: 4 } }
  },
  {
    name: "messages, whole",
    make: anthropic,
    streaming: false,
    body: JSON.stringify({
      id: "msg_1",
      type: "message",
      model: "claude",
      content: [
        { type: "thinking", thinking: "Hm", signature: "sig" },
        { type: "text", text: "Grüezi 😀" },
        { type: "server_tool_use", id: "s", name: "web_search", input: {} },
        { type: "tool_use", id: "call_1", name: "weather", input: { city: "Zürich 😀" } },
        { type: "tool_use", id: "call_2", name: "clock", input: {} }
      ],
      stop_reason: "tool_use",
      usage: { input_tokens: 5, cache_read_input_tokens: 4, cache_creation_input_tokens: 1, output_tokens: 7 }
    }),
    text: "Grüezi 😀",
    reasoning: "Hm",
    toolCalls: [weather, clock],
    reason: "tool-calls",
    usage: { inputTokens: { total: 10, uncached: 5, cacheRead: 4, cacheWrite: 1 }, outputTokens: { total: 7 } }
  },
  {
    name: "messages, streamed",
    make: anthropic,
    streaming: true,
    body: sse([
      {
        type: "message_start",
        message: {
          id: "msg_1",
          model: "claude",
          content: [],
          usage: { input_tokens: 5, cache_read_input_tokens: 4, cache_creation_input_tokens: 1, output_tokens: 1 }
        }
      },
      { type: "content_block_start", index: 0, content_block: { type: "thinking", thinking: "" } },
      { type: "ping" },
      { type: "content_block_delta", index: 0, delta: { type: "thinking_delta", thinking: "Hm" } },
      { type: "content_block_delta", index: 0, delta: { type: "signature_delta", signature: "sig" } },
      { type: "content_block_stop", index: 0 },
      { type: "content_block_start", index: 1, content_block: { type: "text", text: "" } },
      { type: "content_block_delta", index: 1, delta: { type: "text_delta", text: "Grüezi " } },
      { type: "content_block_delta", index: 1, delta: { type: "text_delta", text: "😀" } },
      { type: "content_block_stop", index: 1 },
      {
        type: "content_block_start",
        index: 2,
        content_block: { type: "server_tool_use", id: "s", name: "web_search", input: {} }
      },
      { type: "content_block_delta", index: 2, delta: { type: "input_json_delta", partial_json: "{\"query\":" } },
      { type: "content_block_stop", index: 2 },
      {
        type: "content_block_start",
        index: 3,
        content_block: { type: "tool_use", id: "call_1", name: "weather", input: {} }
      },
      { type: "content_block_delta", index: 3, delta: { type: "input_json_delta", partial_json: "" } },
      { type: "content_block_delta", index: 3, delta: { type: "input_json_delta", partial_json: "{\"city\":\"Zür" } },
      { type: "content_block_delta", index: 3, delta: { type: "input_json_delta", partial_json: "ich 😀\"}" } },
      { type: "content_block_stop", index: 3 },
      {
        type: "content_block_start",
        index: 4,
        content_block: { type: "tool_use", id: "call_2", name: "clock", input: {} }
      },
      { type: "content_block_delta", index: 4, delta: { type: "input_json_delta", partial_json: "" } },
      { type: "content_block_stop", index: 4 },
      { type: "some_future_event", data: 1 },
      {
        type: "message_delta",
        delta: { stop_reason: "tool_use", stop_sequence: null },
        usage: { input_tokens: null, output_tokens: 7 }
      },
      { type: "message_stop" }
    ], true),
    text: "Grüezi 😀",
    reasoning: "Hm",
    toolCalls: [weather, clock],
    reason: "tool-calls",
    usage: { inputTokens: { total: 10, uncached: 5, cacheRead: 4, cacheWrite: 1 }, outputTokens: { total: 7 } }
  },
  {
    name: "Cohere chat, whole",
    make: cohere,
    streaming: false,
    body: JSON.stringify({
      id: "b1",
      message: {
        role: "assistant",
        tool_plan: "Hm",
        tool_calls: [
          { id: "call_1", type: "function", function: { name: "weather", arguments: "{\"city\":\"Zürich 😀\"}" } },
          { id: "call_2", type: "function", function: { name: "clock", arguments: "null" } }
        ]
      },
      finish_reason: "TOOL_CALL",
      usage: {
        billed_units: { input_tokens: 1, output_tokens: 1 },
        tokens: { input_tokens: 10, output_tokens: 7 },
        cached_tokens: 4
      }
    }),
    text: "",
    reasoning: "Hm",
    toolCalls: [weather, clock],
    reason: "tool-calls",
    usage: { inputTokens: { total: 10, uncached: 6, cacheRead: 4 }, outputTokens: { total: 7 } }
  },
  {
    name: "Cohere chat, streamed",
    make: cohere,
    streaming: true,
    body: sse([
      { type: "message-start", id: "b1", delta: { message: { role: "assistant", content: [], tool_calls: [] } } },
      { type: "content-start", index: 0, delta: { message: { content: { type: "thinking", thinking: "" } } } },
      { type: "content-delta", index: 0, delta: { message: { content: { thinking: "Hm" } } } },
      { type: "content-end", index: 0 },
      { type: "content-start", index: 1, delta: { message: { content: { type: "text", text: "" } } } },
      { type: "content-delta", index: 1, delta: { message: { content: { text: "Grüezi " } } } },
      { type: "content-delta", index: 1, delta: { message: { content: { text: "😀" } } } },
      { type: "citation-start", index: 0, delta: { message: { citations: { text: "x" } } } },
      { type: "content-end", index: 1 },
      {
        type: "tool-call-start",
        index: 0,
        delta: { message: { tool_calls: { id: "call_1", function: { name: "weather", arguments: "" } } } }
      },
      {
        type: "tool-call-delta",
        index: 0,
        delta: { message: { tool_calls: { function: { arguments: "{\"city\":\"Zürich 😀\"}" } } } }
      },
      { type: "tool-call-end", index: 0 },
      {
        type: "tool-call-start",
        index: 1,
        delta: { message: { tool_calls: { id: "call_2", function: { name: "clock" } } } }
      },
      { type: "tool-call-end", index: 1 },
      {
        type: "message-end",
        delta: { finish_reason: "TOOL_CALL", usage: { tokens: { input_tokens: 10, output_tokens: 7 } } }
      },
      "[DONE]"
    ], true),
    text: "Grüezi 😀",
    reasoning: "Hm",
    toolCalls: [weather, clock],
    reason: "tool-calls",
    usage: { inputTokens: { total: 10 }, outputTokens: { total: 7 } }
  }
]

export const plain = (make: Make, text: string): string => {
  if (make === anthropic) {
    return sse([
      { type: "message_start", message: { id: "msg_1", model: "claude" } },
      { type: "content_block_start", index: 0, content_block: { type: "text", text: "" } },
      { type: "content_block_delta", index: 0, delta: { type: "text_delta", text } },
      { type: "content_block_stop", index: 0 },
      { type: "message_delta", delta: { stop_reason: "end_turn" } },
      { type: "message_stop" }
    ], true)
  }
  return sse([chunk({ content: text }), chunk({}, { finish_reason: "stop" }), "[DONE]"], false)
}
