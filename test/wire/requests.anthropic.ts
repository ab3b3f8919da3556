// The same questions in the types of the SDK of Anthropic.
import Anthropic from "@anthropic-ai/sdk"
import * as Adapters from "effect-resilient-llm/providers"
import { apiKey, type Make } from "../providers/support.ts"
import {
  type Case,
  conversation,
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

type MessagesRequest = Anthropic.MessageCreateParams

const messages = (params: MessagesRequest) => (server: Server) =>
  new Anthropic({ apiKey: "sk-test", baseURL: server.anthropic, maxRetries: 0 }).messages.create(params)
const anthropic = (server: Server): Make => Adapters.Anthropic.make({ apiKey, baseUrl: server.anthropic })

const messagesSettings = {
  model,
  max_tokens: 100,
  stop_sequences: ["END", "STOP"]
} satisfies Partial<MessagesRequest>

// Since its version 1 the SDK speaks version 2026-10-21 of the API, which takes the key as a bearer token and refuses
// sampling parameters, so its types have none. Our default is 2023-06-01, which serves both kinds of model.
const sampling = { temperature: 0.7, top_p: 0.9 }
const versions = {
  "anthropic-version": ["2023-06-01", "2026-10-21"],
  "x-api-key": ["<redacted>", undefined],
  authorization: [undefined, "Bearer <redacted>"]
} as const

export const anthropicCases: ReadonlyArray<Case> = [
  {
    name: "a conversation, streamed",
    input: conversation,
    streaming: true,
    ours: anthropic,
    theirs: messages({
      ...messagesSettings,
      system: [{ type: "text", text: "Be brief." }],
      messages: [
        {
          role: "user",
          content: [
            { type: "text", text: "Grüezi 😀, what is this?" },
            { type: "image", source: { type: "base64", media_type: "image/png", data: png } },
            { type: "image", source: { type: "url", url: "https://img.test/a.jpg" } }
          ]
        },
        {
          role: "assistant",
          content: [
            { type: "text", text: "Let me see." },
            { type: "tool_use", id: "call_1", name: "weather", input: { city: "Bern", maxDays: 2 } },
            { type: "tool_use", id: "call_2", name: "clock", input: {} }
          ]
        },
        {
          role: "user",
          content: [
            { type: "tool_result", tool_use_id: "call_1", content: "{\"degrees\":21}" },
            { type: "tool_result", tool_use_id: "call_2", content: "no clock", is_error: true },
            { type: "text", text: "And now?" }
          ]
        }
      ],
      tools: [
        { name: "weather", description: "The weather", input_schema: schema, strict: true },
        { name: "clock", description: "The time", input_schema: { type: "object", properties: {} } }
      ],
      tool_choice: { type: "any" },
      stream: true
    }),
    headers: { ...versions, ...sse },
    onlyOurs: sampling
  },
  {
    name: "a response format",
    input: structured,
    streaming: false,
    ours: anthropic,
    theirs: messages({
      ...messagesSettings,
      messages: [{ role: "user", content: [{ type: "text", text: "Where?" }] }],
      output_config: { format: { type: "json_schema", schema } }
    }),
    headers: { ...versions, ...json },
    onlyOurs: sampling
  },
  {
    name: "the least: max_tokens must be there",
    input: least,
    streaming: false,
    ours: anthropic,
    theirs: messages({
      model,
      max_tokens: 8192,
      messages: [{ role: "user", content: [{ type: "text", text: "Hi" }] }]
    }),
    headers: { ...versions, ...json }
  },
  {
    name: "one tool",
    input: oneTool,
    streaming: false,
    ours: anthropic,
    theirs: messages({
      model,
      max_tokens: 8192,
      messages: [{ role: "user", content: [{ type: "text", text: "Hi" }] }],
      tools: [{ name: "weather", description: "The weather", input_schema: schema }],
      tool_choice: { type: "tool", name: "weather" }
    }),
    headers: { ...versions, ...json }
  },
  {
    name: "a document, with a cached prefix and signed reasoning",
    input: {
      model,
      prompt: [
        {
          role: "system",
          content: "Long.",
          options: { anthropic: { cacheControl: { type: "ephemeral" } } }
        },
        {
          role: "user",
          content: [{ type: "file", mediaType: "application/pdf", fileName: "a.pdf", data: pdf }, {
            type: "text",
            text: "Sum it up."
          }]
        },
        {
          role: "assistant",
          content: [
            { type: "reasoning", text: "Hm", options: { anthropic: { signature: "sig" } } },
            { type: "reasoning", text: "", options: { anthropic: { redactedData: "xyz" } } },
            { type: "text", text: "It is long." }
          ]
        },
        { role: "user", content: "Shorter!" }
      ]
    },
    streaming: false,
    ours: anthropic,
    theirs: messages({
      model,
      max_tokens: 8192,
      system: [{ type: "text", text: "Long.", cache_control: { type: "ephemeral" } }],
      messages: [
        {
          role: "user",
          content: [
            {
              type: "document",
              source: { type: "base64", media_type: "application/pdf", data: pdf },
              title: "a.pdf"
            },
            { type: "text", text: "Sum it up." }
          ]
        },
        {
          role: "assistant",
          content: [
            { type: "thinking", thinking: "Hm", signature: "sig" },
            { type: "redacted_thinking", data: "xyz" },
            { type: "text", text: "It is long." }
          ]
        },
        { role: "user", content: [{ type: "text", text: "Shorter!" }] }
      ]
    }),
    headers: { ...versions, ...json }
  }
]
