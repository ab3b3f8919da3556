// Streams that are made to cost more than they are long. What counts is the processor's time, because while it is spent no
// timer of any call fires.
import { assert, describe, it } from "@effect/vitest"
import { Anthropic, Cohere, Gemini, OpenAi, OpenAiCompatible } from "effect-resilient-llm/providers"
import { Bedrock } from "effect-resilient-llm/providers/Bedrock"
import { Ollama } from "effect-resilient-llm/providers/Ollama"
import * as Effect from "effect/Effect"
import { apiKey, type Make, play } from "../providers/support.ts"

const chat: Make = OpenAiCompatible.make({ baseUrl: "https://llm.test/v1", defaultModel: "m" })
const responses: Make = OpenAi.make({ apiKey, api: "responses" })
const messages: Make = Anthropic.make({ apiKey })
const cohere: Make = Cohere.make({ apiKey })
const gemini: Make = Gemini.make({ apiKey })
const bedrock: Make = Bedrock.make({ region: "eu-central-1", apiKey, defaultModel: "m" })
const ollama: Make = Ollama.make({ defaultModel: "m" })

const event = (data: unknown): string => `data: ${JSON.stringify(data)}\n\n`
const named = ([name, data]: readonly [string, unknown]): string => `event: ${name}\n${event(data)}`
const delta = (delta: object, more: object = {}) => event({ choices: [{ delta, ...more }] })
const chatEnd = delta({ content: "Hi" }) + delta({}, { finish_reason: "stop" }) + "data: [DONE]\n\n"
const messagesEnd = event({ type: "content_block_start", index: 0, content_block: { type: "text", text: "Hi" } })
  + event({ type: "message_delta", delta: { stop_reason: "end_turn" } }) + event({ type: "message_stop" })
const bedrockEnd = named(["contentBlockDelta", { contentBlockIndex: 0, delta: { text: "Hi" } }])
  + named(["messageStop", { stopReason: "end_turn" }]) + named(["metadata", {}])
const geminiEnd = event({ candidates: [{ content: { parts: [{ text: "Hi" }] }, finishReason: "STOP" }] })

const streamed = (make: Make, body: ReadonlyArray<string>) =>
  play(make, { headers: { "content-type": "text/event-stream" }, body }, true)

/** Bodies come in pieces of this many events. */
const together = 1000
const many = (count: number, of: (i: number) => string): ReadonlyArray<string> =>
  Array.from(
    { length: Math.ceil(count / together) },
    (_, at) => Array.from({ length: together }, (_, i) => of(at * together + i)).join("")
  )

const wide = Object.fromEntries(Array.from({ length: 50_000 }, (_, i) => [`k${i}`, 1]))

describe("takes a time that is in proportion", () => {
  const counts = 30_000
  const rows: ReadonlyArray<readonly [name: string, make: Make, body: ReadonlyArray<string>]> = [
    ["chat: ever other counts", chat, [...many(counts, (i) => event({ usage: { [`k${i}`]: 1 } })), chatEnd]],
    ["chat: counts of counts", chat, [...many(counts, (i) => event({ usage: { k: { [`k${i}`]: 1 } } })), chatEnd]],
    ["chat: many counts, then few", chat, [event({ usage: wide }), ...many(2000, () => event({ usage: {} })), chatEnd]],
    ["messages: many counts, then few", messages, [
      event({ type: "message_start", message: { usage: wide } }),
      ...many(2000, () => event({ type: "message_delta", delta: {}, usage: {} })),
      messagesEnd
    ]],
    ["Bedrock: many counts, then few", bedrock, [
      named(["metadata", { usage: wide }]),
      ...many(2000, () => named(["metadata", { usage: {} }])),
      bedrockEnd
    ]],
    ["Gemini: ever other counts", gemini, [
      ...many(counts, (i) => event({ usageMetadata: { [`k${i}`]: 1 } })),
      geminiEnd
    ]],
    ["chat: a message of ever other fields", chat, [
      ...many(counts, (i) => event({ choices: [{ delta: {}, message: { [`k${i}`]: 1 } }] })),
      chatEnd
    ]],
    ["chat: speech of ever other fields", chat, [...many(counts, (i) => delta({ audio: { [`k${i}`]: 1 } })), chatEnd]],
    [
      "chat: details of reasoning in ever other places",
      OpenAiCompatible.make(
        OpenAiCompatible.presets.openrouter({ apiKey })
      ),
      [...many(60_000, (i) => delta({ reasoning_details: [{ index: i, type: "t" }] })), chatEnd]
    ],
    ["chat: calls in ever other places", chat, [
      ...many(60_000, (i) => delta({ tool_calls: [{ index: i, id: `c${i}`, function: { name: "f" } }] })),
      chatEnd
    ]],
    ["lines outside of events", chat, [`{${" ".repeat(4_000_000)}\n`, "{\n".repeat(200_000)]],
    ["a body that begins with blanks", Ollama.make({ defaultModel: "m" }), many(100_000, () => " \n".repeat(40))],
    ["a body without a type that begins with blanks", chat, many(100_000, () => " \n".repeat(40))]
  ]
  it.live.each(rows)("%s", ([, make, body]) =>
    Effect.gen(function*() {
      const start = process.cpuUsage()
      yield* streamed(make, body)
      const { system, user } = process.cpuUsage(start)
      assert.isBelow((system + user) / 1e6, 8, "seconds")
    }))
})

describe("names that are kept count", () => {
  const long = "n".repeat(1_000_000)
  const pieces = (of: (name: string) => string): ReadonlyArray<string> =>
    Array.from({ length: 40 }, (_, i) => of(`${i}${long}`))
  const rows: ReadonlyArray<readonly [name: string, make: Make, body: ReadonlyArray<string>]> = [
    ["chat: of functions", chat, [
      ...pieces((name) => delta({ tool_calls: [{ function: { name, arguments: "{}" } }] })),
      chatEnd
    ]],
    ["chat: of calls", chat, [
      ...pieces((id) => delta({ tool_calls: [{ id, function: { name: "f", arguments: "{}" } }] })),
      chatEnd
    ]],
    ["responses: of items", responses, [
      ...pieces((item_id) => event({ type: "response.output_text.delta", item_id, delta: "Hi" })),
      event({ type: "response.completed", response: { status: "completed" } })
    ]],
    ["messages: of functions", messages, [
      ...pieces((name) =>
        event({ type: "content_block_start", index: 0, content_block: { type: "tool_use", name, input: {} } })
      ),
      messagesEnd
    ]],
    ["Cohere: of functions", cohere, [
      ...pieces((name) =>
        event({ type: "tool-call-start", index: 0, delta: { message: { tool_calls: { function: { name } } } } })
      ),
      event({ type: "message-end", delta: { finish_reason: "COMPLETE" } })
    ]],
    ["Gemini: of functions", gemini, [
      ...pieces((name) => event({ candidates: [{ content: { parts: [{ functionCall: { name } }] } }] })),
      geminiEnd
    ]],
    ["Bedrock: of functions", bedrock, [
      ...pieces((name) => named(["contentBlockStart", { contentBlockIndex: 0, start: { toolUse: { name } } }])),
      bedrockEnd
    ]],
    ["Ollama: of functions", ollama, [
      ...pieces((name) => `${JSON.stringify({ message: { tool_calls: [{ function: { name } }] } })}\n`),
      `${JSON.stringify({ message: {}, done: true })}\n`
    ]]
  ]
  it.live.each(rows)("%s", ([, make, body]) =>
    Effect.map(streamed(make, body), ({ error }) => {
      assert.deepStrictEqual(error?.reason, {
        _tag: "MalformedResponse",
        problem: "the body, or one event of it, is larger than allowed"
      })
    }))

  it.live("messages, Cohere, Bedrock: a place that is no number is none", () =>
    Effect.gen(function*() {
      const rows: ReadonlyArray<readonly [Make, ReadonlyArray<string>]> = [
        [messages, [
          ...pieces((index) =>
            event({ type: "content_block_start", index, content_block: { type: "server_tool_use" } })
          ),
          messagesEnd
        ]],
        [bedrock, [
          ...pieces((contentBlockIndex) => named(["contentBlockStop", { contentBlockIndex }])),
          bedrockEnd
        ]],
        [cohere, [
          ...pieces((index) => event({ type: "content-end", index })),
          event({ type: "content-delta", delta: { message: { content: { text: "Hi" } } } }),
          event({ type: "message-end", delta: { finish_reason: "COMPLETE" } })
        ]]
      ]
      for (const [make, body] of rows) assert.isUndefined((yield* streamed(make, body)).error)
    }))
})
