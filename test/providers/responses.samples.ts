// Hand-written requests, events and answers of the responses API.
import { OpenAi, OpenAiCompatible } from "effect-resilient-llm/providers"
import { apiKey, type Make, type Outcome } from "./support.ts"

export const make: Make = OpenAi.make({ apiKey, api: "responses" })
export const reasoner: Make = OpenAi.make({
  apiKey,
  api: "responses",
  encryptedReasoning: true,
  defaultModel: "reasoner"
})
export const compatible: Make = OpenAiCompatible.make({
  baseUrl: "https://llm.test/v1",
  api: "responses",
  defaultModel: "m"
})

export const headers = { "content-type": "text/event-stream", "x-request-id": "req_1" }

export const problem = (outcome: Outcome): string | undefined =>
  outcome.error?.reason._tag === "MalformedResponse" ? outcome.error.reason.problem : outcome.error?.reason._tag

export const sse = (events: ReadonlyArray<object | string>, named = true): string =>
  events.map((event) => {
    if (typeof event === "string") return `data: ${event}\n\n`
    const { type } = event as { readonly type?: string }
    return `${named ? `event: ${type}\n` : ""}data: ${JSON.stringify(event)}\n\n`
  }).join("")

export const citation = { type: "url_citation", start_index: 0, end_index: 6, url: "https://bern.test/", title: "Bern" }
export const reasoning = {
  id: "rs_1",
  type: "reasoning",
  summary: [{ type: "summary_text", text: "First" }, { type: "summary_text", text: "then" }],
  encrypted_content: "sealed"
}
export const message = {
  id: "msg_1",
  type: "message",
  role: "assistant",
  status: "completed",
  phase: "final_answer",
  content: [{
    type: "output_text",
    text: "Grüezi 😀",
    annotations: [
      citation,
      { type: "file_citation", file_id: "f" },
      { type: "url_citation", url: "no address" },
      { type: "url_citation", url: "https://zuerich.test/" }
    ]
  }]
}
export const search = { id: "ws_1", type: "web_search_call", status: "completed" }
export const weather = {
  id: "fc_1",
  type: "function_call",
  call_id: "call_1",
  name: "weather",
  arguments: "{\"city\":\"Zürich 😀\"}"
}
export const clock = { id: "fc_2", type: "function_call", call_id: "call_2", name: "clock", arguments: "{}" }
export const usage = {
  input_tokens: 10,
  input_tokens_details: { cached_tokens: 4, cache_write_tokens: 1 },
  output_tokens: 7,
  output_tokens_details: { reasoning_tokens: 2 },
  total_tokens: 17
}
export const base = { id: "resp_1", object: "response", model: "m-1", error: null, incomplete_details: null }
export const response = {
  ...base,
  status: "completed",
  output: [reasoning, search, message, weather, clock],
  usage
}

export const created = {
  type: "response.created",
  response: { ...base, status: "in_progress", output: [], usage: null }
}
export const text = (delta: string, output_index = 0) => ({
  type: "response.output_text.delta",
  item_id: `msg_${output_index}`,
  output_index,
  content_index: 0,
  delta,
  obfuscation: "xyz"
})
export const summary = (delta: string, summary_index: number, output_index = 0) => ({
  type: "response.reasoning_summary_text.delta",
  item_id: "rs_1",
  output_index,
  summary_index,
  delta
})
export const args = (delta: string, output_index: number) => ({
  type: "response.function_call_arguments.delta",
  item_id: `fc_${output_index}`,
  output_index,
  delta
})
export const added = (item: object, output_index: number) => ({
  type: "response.output_item.added",
  output_index,
  item
})
export const done = (item: object, output_index: number) => ({ type: "response.output_item.done", output_index, item })
export const completed = (more: object = {}) => ({
  type: "response.completed",
  response: { ...base, status: "completed", output: [], usage, ...more }
})

export const events: ReadonlyArray<object> = [
  created,
  { ...created, type: "response.in_progress" },
  added({ ...reasoning, summary: [], encrypted_content: "half" }, 0),
  { type: "response.reasoning_summary_part.added", output_index: 0, summary_index: 0, part: {} },
  summary("Fir", 0),
  summary("st", 0),
  { type: "response.reasoning_summary_text.done", output_index: 0, summary_index: 0, text: "First" },
  summary("then", 1),
  done(reasoning, 0),
  added(search, 1),
  { type: "response.web_search_call.completed", output_index: 1, item_id: "ws_1" },
  done(search, 1),
  added({ ...message, content: [], status: "in_progress" }, 2),
  { type: "response.content_part.added", output_index: 2, content_index: 0, part: { type: "output_text", text: "" } },
  text("Grüezi ", 2),
  text("😀", 2),
  { type: "response.output_text.annotation.added", output_index: 2, annotation_index: 0, annotation: citation },
  { type: "response.output_text.done", output_index: 2, content_index: 0, text: "Grüezi 😀" },
  { type: "response.content_part.done", output_index: 2, content_index: 0, part: message.content[0] },
  done(message, 2),
  added({ ...weather, arguments: "" }, 3),
  args("{\"city\":", 3),
  added({ ...clock, arguments: "" }, 4),
  args("\"Zürich 😀\"}", 3),
  { type: "response.function_call_arguments.done", output_index: 3, arguments: weather.arguments },
  done(weather, 3),
  args("{}", 4),
  done(clock, 4),
  { type: "response.some_future_event", output_index: 9, delta: "x" },
  completed({ output: response.output })
]

export interface Sample {
  readonly name: string
  readonly make: Make
  readonly streaming: boolean
  readonly body: string
}

export const samples: ReadonlyArray<Sample> = [
  { name: "whole", make, streaming: false, body: JSON.stringify(response) },
  { name: "streamed", make, streaming: true, body: sse(events) },
  // OpenRouter: comments, no event names, and a marker.
  {
    name: "streamed without names",
    make: compatible,
    streaming: true,
    body: `: \n\n${sse([...events, "[DONE]"], false)}`
  }
]

/** What the samples say. */
export const content = [
  {
    type: "reasoning",
    text: "First\n\nthen",
    metadata: { openai: { itemId: "rs_1", encryptedContent: "sealed" } }
  },
  { type: "text", text: "Grüezi 😀", metadata: { openai: { phase: "final_answer" } } },
  { type: "tool-call", id: "call_1", name: "weather", params: { city: "Zürich 😀" } },
  { type: "tool-call", id: "call_2", name: "clock", params: {} },
  { type: "source", sourceType: "url", id: "source_0", url: "https://bern.test/", title: "Bern" },
  { type: "source", sourceType: "url", id: "source_1", url: "https://zuerich.test/", title: "https://zuerich.test/" }
]
