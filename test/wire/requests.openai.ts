// The same questions in the types of the SDK of OpenAI.
import { assert } from "@effect/vitest"
import * as Adapters from "effect-resilient-llm/providers"
import OpenAI, { NotFoundError } from "openai"
import { apiKey, type Make } from "../providers/support.ts"
import {
  type Case,
  conversation,
  document,
  json,
  least,
  model,
  oneTool,
  pdf,
  png,
  schema,
  type Server,
  sse,
  structured
} from "./requests.ts"

type ChatRequest = OpenAI.ChatCompletionCreateParams

const openai = (server: Server) => new OpenAI({ apiKey: "sk-test", baseURL: server.openai, maxRetries: 0 })
const chat = (params: ChatRequest) => (server: Server) => openai(server).chat.completions.create(params)
const openAi = (server: Server): Make => Adapters.OpenAi.make({ apiKey, baseUrl: server.openai })

const chatMessages = [
  { role: "system", content: "Be brief." },
  {
    role: "user",
    content: [
      { type: "text", text: "Grüezi 😀, what is this?" },
      { type: "image_url", image_url: { url: `data:image/png;base64,${png}` } },
      { type: "image_url", image_url: { url: "https://img.test/a.jpg" } }
    ]
  },
  {
    role: "assistant",
    content: "Let me see.",
    tool_calls: [
      { id: "call_1", type: "function", function: { name: "weather", arguments: "{\"city\":\"Bern\",\"maxDays\":2}" } },
      { id: "call_2", type: "function", function: { name: "clock", arguments: "{}" } }
    ]
  },
  { role: "tool", tool_call_id: "call_1", content: "{\"degrees\":21}" },
  { role: "tool", tool_call_id: "call_2", content: "no clock" },
  { role: "user", content: "And now?" }
] satisfies ChatRequest["messages"]

const chatTools = [
  { type: "function", function: { name: "weather", description: "The weather", parameters: schema, strict: true } },
  {
    type: "function",
    function: { name: "clock", description: "The time", parameters: { type: "object", properties: {} } }
  }
] satisfies ChatRequest["tools"]

const chatSettings = { model, temperature: 0.7, top_p: 0.9, stop: ["END", "STOP"] } satisfies Partial<ChatRequest>

export const openAiCases: ReadonlyArray<Case> = [
  {
    name: "a conversation, streamed",
    input: { ...conversation, seed: 7 },
    streaming: true,
    ours: openAi,
    theirs: chat({
      ...chatSettings,
      messages: chatMessages,
      max_completion_tokens: 100,
      seed: 7,
      tools: chatTools,
      tool_choice: "required",
      stream: true,
      stream_options: { include_usage: true }
    }),
    headers: sse
  },
  {
    name: "a response format",
    input: structured,
    streaming: false,
    ours: openAi,
    theirs: chat({
      ...chatSettings,
      messages: [{ role: "user", content: "Where?" }],
      max_completion_tokens: 100,
      response_format: { type: "json_schema", json_schema: { name: "answer", schema, strict: true } }
    }),
    headers: json
  },
  {
    name: "any JSON object",
    input: { ...least, responseFormat: { type: "json" } },
    streaming: false,
    ours: openAi,
    theirs: chat({ model, messages: [{ role: "user", content: "Hi" }], response_format: { type: "json_object" } }),
    headers: json
  },
  {
    name: "a document",
    input: document,
    streaming: false,
    ours: openAi,
    theirs: chat({
      model,
      messages: [{
        role: "user",
        content: [
          { type: "file", file: { filename: "a.pdf", file_data: `data:application/pdf;base64,${pdf}` } },
          { type: "text", text: "Sum it up." }
        ]
      }]
    }),
    headers: json
  },
  {
    name: "one tool, organisation and project",
    input: oneTool,
    streaming: false,
    ours: (server) =>
      Adapters.OpenAi.make({ apiKey, baseUrl: server.openai, organization: "org-1", project: "proj-1" }),
    theirs: (server) =>
      new OpenAI({
        apiKey: "sk-test",
        baseURL: server.openai,
        organization: "org-1",
        project: "proj-1",
        maxRetries: 0
      }).chat.completions.create({
        model,
        messages: [{ role: "user", content: "Hi" }],
        tools: [{ type: "function", function: { name: "weather", description: "The weather", parameters: schema } }],
        tool_choice: { type: "function", function: { name: "weather" } }
      }),
    headers: json
  },
  {
    name: "a compatible server takes max_tokens",
    input: conversation,
    streaming: true,
    ours: (server) => Adapters.OpenAiCompatible.make({ apiKey, baseUrl: server.openai }),
    theirs: chat({
      ...chatSettings,
      messages: chatMessages,
      max_tokens: 100,
      tools: chatTools,
      tool_choice: "required",
      stream: true,
      stream_options: { include_usage: true }
    }),
    headers: sse
  },
  {
    name: "a compatible server that refuses stream_options",
    input: least,
    streaming: true,
    ours: (server) => Adapters.OpenAiCompatible.make({ apiKey, baseUrl: server.openai, streamOptions: false }),
    theirs: chat({ model, messages: [{ role: "user", content: "Hi" }], stream: true }),
    headers: sse
  }
]

// -----------------------------------------------------------------------------
// responses
// -----------------------------------------------------------------------------

type ResponsesRequest = OpenAI.Responses.ResponseCreateParams

// The server does not speak this API, but it remembers what it was asked.
const responses = (params: ResponsesRequest) => (server: Server) =>
  openai(server).responses.create(params).then(
    () => assert.fail("the server has learnt"),
    (error: unknown) => assert.instanceOf(error, NotFoundError)
  )
const openAiResponses = (server: Server): Make =>
  Adapters.OpenAi.make({ apiKey, api: "responses", baseUrl: server.openai })

const responsesSettings = {
  model,
  max_output_tokens: 100,
  temperature: 0.7,
  top_p: 0.9,
  store: false
} satisfies ResponsesRequest

export const responsesCases: ReadonlyArray<Case> = [
  {
    name: "a conversation, streamed",
    input: conversation,
    streaming: true,
    ours: openAiResponses,
    theirs: responses({
      ...responsesSettings,
      instructions: "Be brief.",
      input: [
        {
          role: "user",
          content: [
            { type: "input_text", text: "Grüezi 😀, what is this?" },
            { type: "input_image", detail: "auto", image_url: `data:image/png;base64,${png}` },
            { type: "input_image", detail: "auto", image_url: "https://img.test/a.jpg" }
          ]
        },
        { role: "assistant", content: "Let me see." },
        {
          type: "function_call",
          call_id: "call_1",
          name: "weather",
          arguments: "{\"city\":\"Bern\",\"maxDays\":2}"
        },
        { type: "function_call", call_id: "call_2", name: "clock", arguments: "{}" },
        { type: "function_call_output", call_id: "call_1", output: "{\"degrees\":21}" },
        { type: "function_call_output", call_id: "call_2", output: "no clock" },
        { role: "user", content: "And now?" }
      ],
      tools: [
        { type: "function", name: "weather", description: "The weather", parameters: schema, strict: true },
        {
          type: "function",
          name: "clock",
          description: "The time",
          parameters: { type: "object", properties: {} },
          strict: false
        }
      ],
      tool_choice: "required",
      stream: true
    }),
    headers: sse
  },
  {
    name: "a response format",
    input: structured,
    streaming: false,
    ours: openAiResponses,
    theirs: responses({
      ...responsesSettings,
      input: [{ role: "user", content: "Where?" }],
      text: { format: { type: "json_schema", name: "answer", schema, strict: true } }
    }),
    headers: json
  },
  {
    name: "a document, and reasoning that goes along",
    input: {
      model,
      prompt: [
        {
          role: "user",
          content: [
            { type: "file", mediaType: "application/pdf", fileName: "a.pdf", data: pdf },
            { type: "text", text: "Sum it up." }
          ]
        },
        {
          role: "assistant",
          content: [
            { type: "reasoning", text: "Hm", options: { openai: { encryptedContent: "sealed", itemId: "rs_1" } } },
            { type: "text", text: "It is long." }
          ]
        },
        { role: "user", content: "Shorter!" }
      ]
    },
    streaming: false,
    ours: (server) =>
      Adapters.OpenAi.make({ apiKey, api: "responses", encryptedReasoning: true, baseUrl: server.openai }),
    theirs: responses({
      model,
      input: [
        {
          role: "user",
          content: [
            { type: "input_file", filename: "a.pdf", file_data: `data:application/pdf;base64,${pdf}` },
            { type: "input_text", text: "Sum it up." }
          ]
        },
        {
          type: "reasoning",
          id: "rs_1",
          summary: [{ type: "summary_text", text: "Hm" }],
          encrypted_content: "sealed"
        },
        { role: "assistant", content: "It is long." },
        { role: "user", content: "Shorter!" }
      ],
      include: ["reasoning.encrypted_content"],
      store: false
    }),
    headers: json
  },
  {
    name: "one tool",
    input: oneTool,
    streaming: false,
    ours: openAiResponses,
    theirs: responses({
      model,
      input: [{ role: "user", content: "Hi" }],
      tools: [{ type: "function", name: "weather", description: "The weather", parameters: schema, strict: false }],
      tool_choice: { type: "function", name: "weather" },
      store: false
    }),
    headers: json
  }
]
