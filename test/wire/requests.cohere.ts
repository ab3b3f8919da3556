// The same questions in the types of the SDK of Cohere.
import { type Cohere, CohereClientV2 } from "cohere-ai"
import * as Adapters from "effect-resilient-llm/providers"
import { apiKey, type Make } from "../providers/support.ts"
import { type Case, conversation, least, model, png, schema, type Server, structured } from "./requests.ts"

type CohereRequest = Cohere.V2ChatRequest

const cohereClient = (server: Server) => new CohereClientV2({ token: "test", baseUrl: server.cohere, maxRetries: 0 })
const cohereChat = (params: CohereRequest) => (server: Server) => cohereClient(server).chat(params)
const cohere = (server: Server): Make => Adapters.Cohere.make({ apiKey, baseUrl: server.cohere })

const cohereCalls = [
  { id: "call_1", type: "function", function: { name: "weather", arguments: "{\"city\":\"Bern\",\"maxDays\":2}" } },
  { id: "call_2", type: "function", function: { name: "clock", arguments: "{}" } }
] satisfies Array<Cohere.ToolCallV2>

const cohereSettings = {
  model,
  maxTokens: 100,
  temperature: 0.7,
  p: 0.9,
  stopSequences: ["END", "STOP"]
} satisfies Partial<CohereRequest>

const weatherTool = {
  type: "function",
  function: { name: "weather", description: "The weather", parameters: schema }
} satisfies Cohere.ToolV2

// Where it does not stream, its SDK takes any type of content; ours says what it can read.
const cohereJson = { accept: ["application/json", "*/*"] } as const

export const cohereCases: ReadonlyArray<Case> = [
  {
    name: "a conversation, streamed",
    input: { ...conversation, seed: 7 },
    streaming: true,
    ours: cohere,
    theirs: (server) =>
      cohereClient(server).chatStream({
        ...cohereSettings,
        messages: [
          { role: "system", content: "Be brief." },
          {
            role: "user",
            content: [
              { type: "text", text: "Grüezi 😀, what is this?" },
              { type: "image_url", imageUrl: { url: `data:image/png;base64,${png}` } },
              { type: "image_url", imageUrl: { url: "https://img.test/a.jpg" } }
            ]
          },
          { role: "assistant", content: "Let me see.", toolCalls: cohereCalls },
          { role: "tool", toolCallId: "call_1", content: "{\"degrees\":21}" },
          { role: "tool", toolCallId: "call_2", content: "no clock" },
          { role: "user", content: "And now?" }
        ],
        seed: 7,
        tools: [weatherTool, {
          type: "function",
          function: { name: "clock", description: "The time", parameters: { type: "object", properties: {} } }
        }],
        toolChoice: "REQUIRED"
      }),
    headers: {}
  },
  {
    name: "a response format",
    input: structured,
    streaming: false,
    ours: cohere,
    theirs: cohereChat({
      ...cohereSettings,
      messages: [{ role: "user", content: "Where?" }],
      responseFormat: { type: "json_object", jsonSchema: schema }
    }),
    headers: cohereJson
  },
  {
    name: "the least, with a client name",
    input: least,
    streaming: false,
    ours: (server) => Adapters.Cohere.make({ apiKey, baseUrl: server.cohere, clientName: "app" }),
    theirs: (server) =>
      new CohereClientV2({ token: "test", baseUrl: server.cohere, clientName: "app", maxRetries: 0 })
        .chat({ model, messages: [{ role: "user", content: "Hi" }] }),
    headers: cohereJson
  },
  {
    name: "one strict tool, after a plan",
    input: {
      model,
      prompt: [
        { role: "user", content: "Hi" },
        {
          role: "assistant",
          content: [
            { type: "reasoning", text: "I will look.", options: { cohere: { toolPlan: true } } },
            { type: "tool-call", id: "call_2", name: "clock", params: {} }
          ]
        },
        {
          role: "tool",
          content: [{ type: "tool-result", id: "call_2", name: "clock", isFailure: false, result: "12:00" }]
        }
      ],
      tools: [{ name: "weather", description: "The weather", parameters: schema, strict: true }],
      toolChoice: { tool: "weather" }
    },
    streaming: false,
    ours: cohere,
    theirs: cohereChat({
      model,
      messages: [
        { role: "user", content: "Hi" },
        { role: "assistant", toolPlan: "I will look.", toolCalls: cohereCalls.slice(1) },
        { role: "tool", toolCallId: "call_2", content: "12:00" }
      ],
      tools: [weatherTool],
      toolChoice: "REQUIRED",
      strictTools: true
    }),
    headers: cohereJson
  }
]
