// What servers really send, by kind. Each kind is asked of every adapter in which it can occur; a row's smallest input
// is the first one under its name.
import { assert, describe, it } from "@effect/vitest"
import { isReplayable } from "effect-resilient-llm/LlmResponse"
import { Anthropic, Cohere, Gemini, OpenAi, OpenAiCompatible } from "effect-resilient-llm/providers"
import { Bedrock } from "effect-resilient-llm/providers/Bedrock"
import { Ollama } from "effect-resilient-llm/providers/Ollama"
import * as Effect from "effect/Effect"
import { apiKey, digest, type Make, type Outcome, play, wellFormed, withInvented } from "./support.ts"

const chat: Make = OpenAiCompatible.make({ baseUrl: "https://llm.test/v1", defaultModel: "m" })
const openAi: Make = OpenAi.make({ apiKey })
const responses: Make = OpenAi.make({ apiKey, api: "responses" })
const anthropic: Make = Anthropic.make({ apiKey })
const cohere: Make = Cohere.make({ apiKey })
const gemini: Make = Gemini.make({ apiKey })
const bedrock: Make = Bedrock.make({ region: "eu-central-1", apiKey, defaultModel: "m" })
const ollama: Make = Ollama.make({ defaultModel: "m" })

type Json = Readonly<Record<string, unknown>>

const events = (...events: ReadonlyArray<unknown>): string =>
  events.map((event) => `data: ${typeof event === "string" ? event : JSON.stringify(event)}\n\n`).join("")
/** The same with names beside the data, as text: frames have a test of their own, `test/wire/bedrock.test.ts`. */
const named = (...events: ReadonlyArray<readonly [name: string, data: unknown]>): string =>
  events.map(([name, data]) => `event: ${name}\ndata: ${JSON.stringify(data)}\n\n`).join("")
const lines = (...lines: ReadonlyArray<unknown>): string => lines.map((line) => `${JSON.stringify(line)}\n`).join("")

const stream = (make: Make, body: string, type = "text/event-stream") =>
  Effect.tap(
    play(make, { headers: type === "" ? {} : { "content-type": type }, body }, true),
    (outcome) => Effect.sync(() => wellFormed(outcome))
  )
const whole = (make: Make, body: unknown) => play(make, { body: JSON.stringify(body) }, false)

const callsOf = (outcome: Outcome) => {
  assert.strictEqual(outcome.error, undefined)
  return digest(outcome).toolCalls.map(({ name, params }) => [name, params])
}
const reasonOf = (outcome: Outcome): string | undefined => outcome.error?.reason._tag ?? digest(outcome).finish?.reason
const answerOf = (outcome: Outcome) => ({ parts: outcome.parts as never, target: "t", provider: "p" })

const delta = (delta: Json, more: Json = {}) => ({ choices: [{ delta, ...more }] })
const toolDelta = (...calls: ReadonlyArray<Json>) => delta({ tool_calls: calls })
const fn = (name: string | undefined, args?: unknown) => ({
  function: {
    ...(name === undefined ? undefined : { name }),
    ...(args === undefined ? undefined : { arguments: args })
  }
})
const chatEnd = (reason = "tool_calls") => delta({}, { finish_reason: reason })

// -----------------------------------------------------------------------------
// A: silently wrong
// -----------------------------------------------------------------------------

describe("A1: an id without a name starts no call", () => {
  const read = [["read", { path: "a" }]]
  const argumentsA = "{\"path\":\"a\"}"
  const chats: ReadonlyArray<readonly [name: string, pieces: ReadonlyArray<unknown>]> = [
    ["the row", [
      toolDelta({ index: 0, id: "A", ...fn("read", "") }),
      toolDelta({ index: 0, id: "B", ...fn(undefined, argumentsA) })
    ]],
    ["an id per piece", [
      toolDelta({ index: 0, id: "A", ...fn("read", "") }),
      toolDelta({ index: 0, id: "B", ...fn(undefined, "{\"path\"") }),
      toolDelta({ index: 0, id: "C", ...fn(undefined, ":\"a\"}") })
    ]],
    ["without an index", [
      toolDelta({ id: "A", ...fn("read", "") }),
      toolDelta({ id: "B", ...fn(undefined, argumentsA) })
    ]],
    ["the name again", [
      toolDelta({ index: 0, id: "A", ...fn("read", "") }),
      toolDelta({ index: 0, id: "A", ...fn("read", argumentsA) })
    ]],
    ["the name again with each piece and a new id", [
      toolDelta({ index: 0, id: "A", ...fn("read", "") }),
      toolDelta({ index: 0, id: "B", ...fn("read", "{\"path\"") }),
      toolDelta({ index: 0, id: "C", ...fn("read", ":\"a\"}") })
    ]],
    ["the id at another index", [
      toolDelta({ index: 0, id: "A", ...fn("read", "") }),
      toolDelta({ index: 1, id: "A", ...fn(undefined, argumentsA) })
    ]],
    ["the name after the id", [
      toolDelta({ index: 0, id: "A" }),
      toolDelta({ index: 0, ...fn("read") }),
      toolDelta({ index: 0, ...fn(undefined, argumentsA) })
    ]],
    ["the whole call once more", [
      toolDelta({ index: 0, id: "A", ...fn("read", argumentsA) }),
      toolDelta({ index: 0, id: "A", ...fn("read", argumentsA) })
    ]],
    ["the name once more at the end", [
      toolDelta({ index: 0, id: "A", ...fn("read", argumentsA) }),
      toolDelta({ index: 0, id: "A", ...fn("read", "") })
    ]],
    ["as a function call of old", [
      delta({ function_call: { name: "read", arguments: "" } }),
      delta({ function_call: { arguments: argumentsA } })
    ]]
  ]
  it.effect.each(chats)("chat: %s", ([, pieces]) =>
    Effect.gen(function*() {
      const outcome = yield* stream(chat, events(...pieces, chatEnd(), "[DONE]"))
      assert.deepStrictEqual(callsOf(outcome), read)
      assert.strictEqual(reasonOf(outcome), "tool-calls")
    }))

  it.effect("chat: arguments whose call is never named are no call, and not left out in silence", () =>
    Effect.gen(function*() {
      const pieces = [toolDelta({ index: 0, id: "A", ...fn(undefined, argumentsA) }), chatEnd(), "[DONE]"]
      assert.strictEqual(reasonOf(yield* stream(chat, events(...pieces))), "MalformedResponse")
      const body = { choices: [{ message: { tool_calls: [{ id: "A", ...fn(undefined, argumentsA) }] } }] }
      assert.strictEqual(reasonOf(yield* whole(chat, body)), "MalformedResponse")
    }))

  it.effect("responses: arguments that name no item, or the call", () =>
    Effect.gen(function*() {
      const item = { type: "function_call", id: "fc", call_id: "A", name: "read", arguments: "" }
      for (const named of [{}, { item_id: "fc" }, { output_index: 0 }]) {
        const outcome = yield* stream(
          responses,
          events(
            { type: "response.output_item.added", output_index: 0, item },
            { type: "response.function_call_arguments.delta", delta: "{\"path\"", ...named },
            { type: "response.function_call_arguments.delta", delta: ":\"a\"}", ...named },
            { type: "response.completed", response: { status: "completed" } }
          )
        )
        assert.deepStrictEqual(callsOf(outcome), read)
      }
    }))

  it.effect("responses: a call that is named after its end", () =>
    Effect.gen(function*() {
      const item = { type: "function_call", id: "fc", call_id: "A", arguments: argumentsA }
      const outcome = yield* stream(
        responses,
        events(
          { type: "response.output_item.added", output_index: 0, item: { ...item, name: 7, arguments: "" } },
          { type: "response.output_item.done", output_index: 0, item: { ...item, name: 7 } },
          {
            type: "response.output_item.added",
            output_index: 1,
            item: { ...item, id: "fc_2", name: "read", arguments: "" }
          },
          { type: "response.completed", response: { status: "completed" } }
        )
      )
      assert.deepStrictEqual(callsOf(outcome), read)
    }))

  it.effect("messages: pieces without an index", () =>
    Effect.gen(function*() {
      const outcome = yield* stream(
        anthropic,
        events(
          { type: "message_start", message: {} },
          { type: "content_block_start", content_block: { type: "tool_use", id: "A", name: "read", input: {} } },
          { type: "content_block_delta", delta: { type: "input_json_delta", partial_json: argumentsA } },
          { type: "content_block_stop" },
          { type: "message_delta", delta: { stop_reason: "tool_use" } },
          { type: "message_stop" }
        )
      )
      assert.deepStrictEqual(callsOf(outcome), read)
    }))

  it.effect("Bedrock: pieces without an index", () =>
    Effect.gen(function*() {
      const outcome = yield* stream(
        bedrock,
        named(
          ["contentBlockStart", { start: { toolUse: { toolUseId: "A", name: "read" } } }],
          ["contentBlockDelta", { delta: { toolUse: { input: argumentsA.slice(0, 5) } } }],
          ["contentBlockDelta", { delta: { toolUse: { input: argumentsA.slice(5) } } }],
          ["contentBlockStop", {}],
          ["messageStop", { stopReason: "tool_use" }]
        )
      )
      assert.deepStrictEqual(callsOf(outcome), read)
    }))

  it.effect("Cohere: pieces with another id, and without an index", () =>
    Effect.gen(function*() {
      for (const index of [{ index: 0 }, {}]) {
        const outcome = yield* stream(
          cohere,
          events(
            { type: "tool-call-start", ...index, delta: { message: { tool_calls: { id: "A", ...fn("read", "") } } } },
            {
              type: "tool-call-delta",
              ...index,
              delta: { message: { tool_calls: { id: "B", ...fn(undefined, argumentsA) } } }
            },
            { type: "message-end", delta: { finish_reason: "TOOL_CALL" } }
          )
        )
        assert.deepStrictEqual(callsOf(outcome), read)
      }
    }))
})

describe("A2: another name, or a new start after whole JSON, starts a call", () => {
  const two = [["a", { x: 1 }], ["b", { y: 2 }]]
  const a = fn("a", "{\"x\":1}")
  const b = fn("b", "{\"y\":2}")
  const chats: ReadonlyArray<readonly [name: string, pieces: ReadonlyArray<unknown>, calls: ReadonlyArray<unknown>]> = [
    ["the row, in one list", [toolDelta(a, b)], two],
    ["in two lists", [toolDelta(a), toolDelta(b)], two],
    ["all with index 0", [toolDelta({ index: 0, ...a }, { index: 0, ...b })], two],
    ["all with index 0, in pieces", [
      toolDelta({ index: 0, ...fn("a", "{\"x\"") }),
      toolDelta({ index: 0, ...fn("a", ":1}") }),
      toolDelta({ index: 0, ...fn("b", "{\"y\"") }),
      toolDelta({ index: 0, ...fn(undefined, ":2}") })
    ], two],
    ["with one id for all", [toolDelta({ index: 0, id: "c", ...a }), toolDelta({ index: 0, id: "c", ...b })], two],
    ["a new id under the same index", [toolDelta({ index: 0, id: "1", ...a }, { index: 0, id: "2", ...b })], two],
    ["the same name", [toolDelta(a), toolDelta(fn("a", "{\"x\":2}"))], [["a", { x: 1 }], ["a", { x: 2 }]]],
    ["the same name and index", [toolDelta({ index: 0, ...a }), toolDelta({ index: 0, ...fn("a", "{\"x\":2}") })], [
      ["a", { x: 1 }],
      ["a", { x: 2 }]
    ]],
    ["the same call twice, in one list", [toolDelta(fn("a", ""), fn("a", ""))], [["a", {}], ["a", {}]]],
    ["a text that looks like an end", [
      toolDelta({ index: 0, ...fn("a", "{\"x\":\"}\\\"") }),
      toolDelta({ index: 0, ...fn("a", "}\"}") })
    ], [["a", { x: "}\"}" }]]],
    ["parsed", [toolDelta(fn("a", { x: 1 }), fn("b", { y: 2 }))], two]
  ]
  it.effect.each(chats)("chat: %s", ([, pieces, calls]) =>
    Effect.gen(function*() {
      const outcome = yield* stream(chat, events(...pieces, chatEnd(), "[DONE]"))
      assert.deepStrictEqual(callsOf(outcome), calls)
      const ids = digest(outcome).toolCalls.map(({ id }) => id)
      assert.strictEqual(new Set(ids).size, ids.length)
    }))

  it.effect("chat: whole", () =>
    Effect.gen(function*() {
      for (const calls of [[a, b], [{ id: "c", ...a }, { id: "c", ...b }]]) {
        const outcome = yield* whole(chat, {
          choices: [{ message: { tool_calls: calls }, finish_reason: "tool_calls" }]
        })
        assert.deepStrictEqual(callsOf(outcome), two)
        const ids = digest(outcome).toolCalls.map(({ id }) => id)
        assert.strictEqual(new Set(ids).size, 2)
      }
    }))

  it.effect("messages, Cohere: one index for all", () =>
    Effect.gen(function*() {
      const block = (name: string, json: string) => [
        { type: "content_block_start", index: 0, content_block: { type: "tool_use", name, input: {} } },
        { type: "content_block_delta", index: 0, delta: { type: "input_json_delta", partial_json: json } }
      ]
      assert.deepStrictEqual(
        callsOf(
          yield* stream(
            anthropic,
            events(...block("a", "{\"x\":1}"), ...block("b", "{\"y\":2}"), { type: "message_stop" })
          )
        ),
        two
      )
      const start = (call: Json) => ({ type: "tool-call-start", index: 0, delta: { message: { tool_calls: call } } })
      const end = { type: "message-end", delta: { finish_reason: "TOOL_CALL" } }
      assert.deepStrictEqual(callsOf(yield* stream(cohere, events(start(a), start(b), end))), two)
    }))

  it.effect("Gemini, Ollama: neither ids nor places", () =>
    Effect.gen(function*() {
      const parts = [{ functionCall: { name: "a", args: { x: 1 } } }, { functionCall: { name: "b", args: { y: 2 } } }]
      const candidate = (parts: unknown, finishReason?: string) => ({
        candidates: [{ content: { parts }, finishReason }]
      })
      assert.deepStrictEqual(callsOf(yield* stream(gemini, events(candidate(parts, "STOP")))), two)
      const same = candidate([parts[0], parts[0]], "STOP")
      assert.deepStrictEqual(callsOf(yield* stream(gemini, events(same))), [["a", { x: 1 }], ["a", { x: 1 }]])
      const calls = [fn("a", { x: 1 }), fn("b", { y: 2 })]
      assert.deepStrictEqual(
        callsOf(yield* stream(ollama, lines({ message: { tool_calls: calls } }, { done: true, done_reason: "stop" }))),
        two
      )
    }))
})

describe("A2: calls without ids, or with one for all, are calls of their own", () => {
  const calls = [["a", { x: 1 }], ["b", { y: 2 }], ["b", { y: 3 }]] as const
  const text = (value: unknown) => JSON.stringify(value)
  const of = (id: Json) => {
    const functions = calls.map(([name, params]) => ({ ...id, ...fn(name, text(params)) }))
    const items = calls.map(([name, params]) => ({
      type: "function_call",
      ...(id["id"] === undefined ? undefined : { id: id["id"], call_id: id["id"] }),
      name,
      arguments: text(params)
    }))
    const bodies: ReadonlyArray<readonly [name: string, make: Make, whole: Json, streamed: string]> = [
      [
        "responses",
        responses,
        { status: "completed", output: items },
        events(
          ...items.map((item) => ({ type: "response.output_item.added", item })),
          { type: "response.completed", response: { status: "completed", output: items } }
        )
      ],
      [
        "messages",
        anthropic,
        { content: calls.map(([name, input]) => ({ type: "tool_use", ...id, name, input })), stop_reason: "tool_use" },
        events(
          ...calls.flatMap(([name, params]) => [
            { type: "content_block_start", index: 0, content_block: { type: "tool_use", ...id, name, input: {} } },
            { type: "content_block_delta", index: 0, delta: { type: "input_json_delta", partial_json: text(params) } },
            { type: "content_block_stop", index: 0 }
          ]),
          { type: "message_delta", delta: { stop_reason: "tool_use" } },
          { type: "message_stop" }
        )
      ],
      [
        "Cohere",
        cohere,
        { message: { tool_calls: functions }, finish_reason: "TOOL_CALL" },
        events(
          ...functions.flatMap((call) => [
            { type: "tool-call-start", index: 0, delta: { message: { tool_calls: call } } },
            { type: "tool-call-end", index: 0 }
          ]),
          { type: "message-end", delta: { finish_reason: "TOOL_CALL" } }
        )
      ],
      ...[
        {
          candidates: [{
            content: { parts: calls.map(([name, args]) => ({ functionCall: { ...id, name, args } })) },
            finishReason: "STOP"
          }]
        }
      ].map((body): readonly [string, Make, Json, string] => ["Gemini", gemini, body, events(body)]),
      [
        "Bedrock",
        bedrock,
        {
          output: {
            message: {
              content: calls.map(([name, input]) => ({ toolUse: { toolUseId: id["id"], name, input } }))
            }
          },
          stopReason: "tool_use"
        },
        named(
          ...calls.flatMap(([name, params]): ReadonlyArray<readonly [string, Json]> => [
            ["contentBlockStart", { contentBlockIndex: 0, start: { toolUse: { toolUseId: id["id"], name } } }],
            ["contentBlockDelta", { contentBlockIndex: 0, delta: { toolUse: { input: text(params) } } }],
            ["contentBlockStop", { contentBlockIndex: 0 }]
          ]),
          ["messageStop", { stopReason: "tool_use" }]
        )
      ],
      ...[
        { message: { tool_calls: calls.map(([name, params]) => ({ ...id, ...fn(name, params) })) }, done: true }
      ].map((body): readonly [string, Make, Json, string] => ["Ollama", ollama, body, lines(body)])
    ]
    return bodies
  }
  for (const id of [{}, { id: "same" }]) {
    it.effect.each(of(id))(
      `%s: ${Object.keys(id).length === 0 ? "without ids" : "one id for all"}`,
      ([, make, body, streamed]) =>
        Effect.gen(function*() {
          for (const outcome of [yield* whole(make, body), yield* stream(make, streamed)]) {
            assert.deepStrictEqual(callsOf(outcome), calls as never)
            assert.strictEqual(new Set(digest(outcome).toolCalls.map(({ id }) => id)).size, 3)
          }
        })
    )
  }
})

it.effect("A2: messages: a call that is told again as it was is one", () =>
  Effect.gen(function*() {
    const block = (json: string) => [
      { type: "content_block_start", index: 0, content_block: { type: "tool_use", id: "A", name: "read", input: {} } },
      { type: "content_block_delta", index: 0, delta: { type: "input_json_delta", partial_json: json } },
      { type: "content_block_stop", index: 0 }
    ]
    const told = [...block("{\"x\":1}"), ...block("{\"x\":1}"), ...block("{\"x\":2}"), { type: "message_stop" }]
    const outcome = yield* play(
      anthropic,
      { headers: { "content-type": "text/event-stream" }, body: events(...told) },
      true
    )
    assert.deepStrictEqual(callsOf(outcome), [["read", { x: 1 }], ["read", { x: 2 }]])
  }))

describe("A3: ends bring what deltas did not", () => {
  const item = { type: "function_call", id: "fc", call_id: "A", name: "read", arguments: "" }
  const completed = (output?: unknown) => ({ type: "response.completed", response: { status: "completed", output } })
  const message = { type: "message", id: "msg", content: [{ type: "output_text", text: "Hello" }] }
  const calls: ReadonlyArray<readonly [name: string, events: ReadonlyArray<Json>]> = [
    ["the row: arguments only in their end", [
      { type: "response.output_item.added", output_index: 0, item },
      { type: "response.function_call_arguments.done", output_index: 0, item_id: "fc", arguments: "{\"path\":\"a\"}" },
      completed()
    ]],
    ["arguments of which the deltas brought a half", [
      { type: "response.output_item.added", output_index: 0, item },
      { type: "response.function_call_arguments.delta", output_index: 0, delta: "{\"path\"" },
      { type: "response.function_call_arguments.done", output_index: 0, arguments: "{\"path\":\"a\"}" },
      completed()
    ]],
    ["arguments only in the item's end", [
      { type: "response.output_item.added", output_index: 0, item },
      { type: "response.output_item.done", output_index: 0, item: { ...item, arguments: "{\"path\":\"a\"}" } },
      completed([{ ...item, arguments: "{\"path\":\"a\"}" }])
    ]],
    ["arguments only in the output", [
      { type: "response.output_item.added", output_index: 0, item },
      completed([{ ...item, arguments: "{\"path\":\"a\"}" }])
    ]],
    ["a call only in the output", [completed([{ ...item, arguments: "{\"path\":\"a\"}" }])]]
  ]
  it.effect.each(calls)("responses: %s", ([, told]) =>
    Effect.gen(function*() {
      const outcome = yield* stream(responses, events(...told))
      assert.deepStrictEqual(callsOf(outcome), [["read", { path: "a" }]])
      assert.strictEqual(reasonOf(outcome), "tool-calls")
    }))

  const textDelta = (delta: string, more: Json = { output_index: 0 }) => ({
    type: "response.output_text.delta",
    delta,
    ...more
  })
  const texts: ReadonlyArray<readonly [name: string, events: ReadonlyArray<Json>]> = [
    ["only in its end", [{ type: "response.output_text.done", output_index: 0, text: "Hello" }, completed()]],
    ["only in the output", [completed([message])]],
    ["by half in deltas", [
      textDelta("Hel"),
      { type: "response.output_text.done", output_index: 0, text: "Hello" },
      completed([message])
    ]],
    ["in all of them", [
      textDelta("Hel"),
      textDelta("lo"),
      { type: "response.output_text.done", output_index: 0, text: "Hello" },
      { type: "response.content_part.done", output_index: 0, part: { type: "output_text", text: "Hello" } },
      { type: "response.output_item.done", output_index: 0, item: message },
      completed([message])
    ]],
    ["in all of them, by the item's id alone", [
      textDelta("Hel", { item_id: "msg" }),
      textDelta("lo", { item_id: "msg" }),
      { type: "response.output_text.done", item_id: "msg", text: "Hello" },
      completed([message])
    ]],
    ["in all of them, under no name", [textDelta("Hel", {}), textDelta("lo", {}), completed([message])]],
    ["in all of them, under names that differ", [
      textDelta("Hel", { item_id: "item_7" }),
      textDelta("lo", { item_id: "item_7" }),
      completed([message])
    ]]
  ]
  it.effect.each(texts)("responses: a text %s", ([, told]) =>
    Effect.gen(function*() {
      const outcome = yield* stream(responses, events(...told))
      assert.strictEqual(outcome.error, undefined)
      assert.strictEqual(digest(outcome).text, "Hello")
      assert.strictEqual(reasonOf(outcome), "stop")
    }))
})

describe("A4: a whole message counts only where nothing was streamed", () => {
  const call = { id: "A", ...fn("read", "{\"path\":\"a\"}") }
  const end = (message: Json, finish_reason = "stop") => ({ choices: [{ message, finish_reason }] })

  it.effect("chat", () =>
    Effect.gen(function*() {
      const told: ReadonlyArray<readonly [ReadonlyArray<unknown>, string, number]> = [
        [[delta({ content: "Hel" }), delta({ content: "lo" }), end({ content: "Hello" })], "Hello", 0],
        [[delta({ content: "Hel" }), delta({ content: "lo" }), end({ content: "Hello!" })], "Hello", 0],
        [[end({ content: "Hello" })], "Hello", 0],
        // Told as far as it is, again and again, with and without deltas.
        [[end({ content: "Hel" }), end({ content: "Hello" })], "Hello", 0],
        [
          [
            { choices: [{ message: { content: "Hel" } }] },
            { choices: [{ message: { content: "lo" } }] },
            chatEnd("stop")
          ],
          "Hello",
          0
        ],
        [
          [
            { choices: [{ delta: { content: "Hel" }, message: { content: "Hel" } }] },
            { choices: [{ delta: { content: "lo" }, message: { content: "Hello" }, finish_reason: "stop" }] }
          ],
          "Hello",
          0
        ],
        [[{ choices: [{ delta: {}, message: { content: "Hello" }, finish_reason: "stop" }] }], "Hello", 0],
        [[toolDelta({ index: 0, ...call }), end({ content: "", tool_calls: [call] }, "tool_calls")], "", 1],
        [
          [
            toolDelta({ index: 0, ...fn("read", "{\"path\":") }),
            toolDelta({ index: 0, ...fn(undefined, "\"a\"}") }),
            end({ tool_calls: [call] }, "tool_calls")
          ],
          "",
          1
        ],
        [[delta({ content: "Hello" }), end({ content: "Hello", tool_calls: [call] }, "tool_calls")], "Hello", 1]
      ]
      for (const [pieces, text, calls] of told) {
        const outcome = yield* stream(chat, events(...pieces, "[DONE]"))
        assert.strictEqual(digest(outcome).text, text, JSON.stringify(pieces))
        assert.deepStrictEqual(callsOf(outcome), calls === 0 ? [] : [["read", { path: "a" }]], JSON.stringify(pieces))
      }
      const thought = yield* stream(
        chat,
        events(delta({ reasoning_content: "Hm" }), end({ reasoning_content: "Hm", content: "Hello" }), "[DONE]")
      )
      assert.deepStrictEqual([digest(thought).reasoning, digest(thought).text], ["Hm", "Hello"])
    }))

  it.effect("Ollama", () =>
    Effect.gen(function*() {
      const say = (message: Json) => ({ message, done: false })
      const calls = [fn("read", { path: "a" })]
      const outcome = yield* stream(
        ollama,
        lines(
          say({ thinking: "Hm" }),
          say({ content: "Hel" }),
          say({ content: "lo" }),
          say({ content: "", tool_calls: calls }),
          { message: { thinking: "Hm", content: "Hello", tool_calls: calls }, done: true, done_reason: "stop" }
        )
      )
      assert.deepStrictEqual([digest(outcome).reasoning, digest(outcome).text], ["Hm", "Hello"])
      assert.deepStrictEqual(callsOf(outcome), [["read", { path: "a" }]])
      const only = yield* stream(ollama, lines({ message: { content: "Hello" }, done: true, done_reason: "stop" }))
      assert.strictEqual(digest(only).text, "Hello")
    }))
})

/** An answer of every adapter that says `text` and ends for `reason`, whole and streamed. */
const answers: ReadonlyArray<
  readonly [
    name: string,
    make: Make,
    whole: (text: string, reason: unknown) => Json,
    streamed: (text: string, reason: unknown) => string
  ]
> = [
  [
    "chat",
    chat,
    (content, finish_reason) => ({ choices: [{ message: { content }, finish_reason }] }),
    (content, finish_reason) => events(delta({ content }), delta({}, { finish_reason }), "[DONE]")
  ],
  [
    "OpenAI chat",
    openAi,
    (content, finish_reason) => ({ choices: [{ message: { content }, finish_reason }] }),
    (content, finish_reason) => events(delta({ content }), delta({}, { finish_reason }), "[DONE]")
  ],
  [
    "responses",
    responses,
    (text, reason) => ({
      output: [{ type: "message", content: [{ type: "output_text", text }] }],
      status: "incomplete",
      incomplete_details: { reason }
    }),
    (text, reason) =>
      events({ type: "response.output_text.delta", delta: text }, {
        type: "response.incomplete",
        response: { status: "incomplete", incomplete_details: { reason } }
      })
  ],
  [
    "messages",
    anthropic,
    (text, stop_reason) => ({ content: [{ type: "text", text }], stop_reason }),
    (text, stop_reason) =>
      events(
        { type: "message_start", message: {} },
        { type: "content_block_start", index: 0, content_block: { type: "text", text } },
        { type: "content_block_stop", index: 0 },
        { type: "message_delta", delta: { stop_reason } },
        { type: "message_stop" }
      )
  ],
  [
    "Cohere",
    cohere,
    (text, finish_reason) => ({ message: { content: [{ type: "text", text }] }, finish_reason }),
    (text, finish_reason) =>
      events(
        { type: "content-delta", index: 0, delta: { message: { content: { text } } } },
        { type: "message-end", delta: { finish_reason } }
      )
  ],
  [
    "Gemini",
    gemini,
    (text, finishReason) => ({ candidates: [{ content: { parts: [{ text }] }, finishReason }] }),
    (text, finishReason) => events({ candidates: [{ content: { parts: [{ text }] }, finishReason }] })
  ],
  [
    "Ollama",
    ollama,
    (content, done_reason) => ({ message: { content }, done: true, done_reason }),
    (content, done_reason) => lines({ message: { content }, done: false }, { message: {}, done: true, done_reason })
  ],
  [
    "Bedrock",
    bedrock,
    (text, stopReason) => ({ output: { message: { content: [{ text }] } }, stopReason }),
    (text, stopReason) =>
      named(
        ["messageStart", { role: "assistant" }],
        ["contentBlockDelta", { contentBlockIndex: 0, delta: { text } }],
        ["contentBlockStop", { contentBlockIndex: 0 }],
        ["messageStop", { stopReason }],
        ["metadata", { usage: {} }]
      )
  ]
]

describe.each(answers)("A8: reasons to finish, %s", (name, make, wholeOf, streamOf) => {
  const outcomes = (reason: unknown) =>
    Effect.all([whole(make, wholeOf("Half", reason)), stream(make, streamOf("Half", reason))])

  it.effect("failures fail with their class, after what came", () =>
    Effect.gen(function*() {
      const failures = {
        abort: "Server",
        error: "Server",
        ERROR: "Server",
        network_error: "Server",
        cancelled: "Server",
        insufficient_system_resource: "Overloaded",
        engine_overloaded: "Overloaded",
        timeout: "Timeout",
        rate_limit_exceeded: "RateLimit"
      }
      for (const [word, tag] of Object.entries(failures)) {
        const [all, streamed] = yield* outcomes(word)
        assert.deepStrictEqual([reasonOf(all), reasonOf(streamed)], [tag, tag], word)
        assert.strictEqual(digest(streamed).text, "Half", word)
        assert.strictEqual(digest(streamed).finish, undefined, word)
      }
    }))

  it.effect("words of all protocols are known, and no others", () =>
    Effect.gen(function*() {
      const known = {
        stop: "stop",
        end_turn: "stop",
        STOP_SEQUENCE: "stop",
        COMPLETE: "stop",
        length: "length",
        MAX_TOKENS: "length",
        model_context_window_exceeded: "length",
        tool_use: "tool-calls",
        content_filter: "content-filter",
        refusal: "content-filter",
        PROHIBITED_CONTENT: "content-filter",
        something_new: "other",
        // Names of what every object has.
        constructor: "other",
        toString: "other"
      }
      for (const [word, reason] of [...Object.entries(known), ["__proto__", "other"]]) {
        const [all, streamed] = yield* outcomes(word)
        assert.deepStrictEqual([reasonOf(all), reasonOf(streamed)], [reason, reason], word)
      }
    }))

  it.effect("a missing one is unknown", () =>
    Effect.gen(function*() {
      if (name === "responses") return // its status is never missing where there is a reason
      for (const missing of [undefined, null, "", 7]) {
        const all = yield* whole(make, wholeOf("Half", missing))
        assert.strictEqual(reasonOf(all), "unknown")
        const streamed = yield* stream(make, streamOf("Half", missing))
        // Where the reason is the terminal signal itself, a stream without one is cut.
        const signal = name === "Gemini"
        assert.strictEqual(reasonOf(streamed), signal ? "MalformedResponse" : "unknown")
      }
    }))
})

describe("A8: a reason that is told twice", () => {
  const said = delta({ content: "Hel" })
  const stop = { type: "message_stop" }
  const started = [
    { type: "message_start", message: {} },
    { type: "content_block_start", index: 0, content_block: { type: "text", text: "Hel" } },
    { type: "content_block_stop", index: 0 }
  ]
  const messageDelta = (stop_reason: string) => ({ type: "message_delta", delta: { stop_reason } })
  const candidate = (finishReason: string, ...parts: ReadonlyArray<Json>) => ({
    candidates: [{ content: { parts }, finishReason }]
  })
  const rows: ReadonlyArray<readonly [name: string, make: Make, body: string, reason: string]> = [
    ["chat: what was cut stays cut", chat, events(said, chatEnd("length"), chatEnd("stop"), "[DONE]"), "length"],
    ["chat: by a filter", chat, events(said, chatEnd("content_filter"), chatEnd("stop"), "[DONE]"), "content-filter"],
    ["chat: the last one that says more", chat, events(said, chatEnd("stop"), chatEnd("length"), "[DONE]"), "length"],
    ["chat: not if the answer went on", chat, events(chatEnd("length"), said, chatEnd("stop"), "[DONE]"), "stop"],
    [
      "messages",
      anthropic,
      events(...started, messageDelta("max_tokens"), messageDelta("end_turn"), stop),
      "length"
    ],
    ["Gemini", gemini, events(candidate("MAX_TOKENS", { text: "Hel" }), candidate("STOP")), "length"],
    [
      "Gemini: not if the answer went on",
      gemini,
      events(candidate("MAX_TOKENS"), candidate("STOP", { text: "Hi" })),
      "stop"
    ],
    [
      "Bedrock",
      bedrock,
      named(
        ["contentBlockDelta", { contentBlockIndex: 0, delta: { text: "Hel" } }],
        ["messageStop", { stopReason: "max_tokens" }],
        ["messageStop", { stopReason: "end_turn" }],
        ["metadata", {}]
      ),
      "length"
    ]
  ]
  it.effect.each(rows)("%s", ([, make, body, reason]) =>
    Effect.map(stream(make, body), (outcome) => {
      assert.strictEqual(reasonOf(outcome), reason)
    }))

  it.effect("chat: a reason in each chunk is no end where the answer goes on without one", () =>
    Effect.gen(function*() {
      const piece = (content: string) => delta({ content }, { finish_reason: "stop" })
      assert.strictEqual(reasonOf(yield* stream(chat, events(piece("Hel"), piece("lo")))), "stop")
      const cut = yield* stream(chat, events(piece("Hel"), piece("lo"), delta({ content: ", wor" })))
      assert.deepStrictEqual(cut.error?.reason, {
        _tag: "MalformedResponse",
        problem: "the stream ended before its terminal event"
      })
    }))
})

describe("A10: answers that are files", () => {
  const png = "iVBORw0KGgo="
  const url = `data:image/webp;base64,${png}`
  const file = { type: "file", mediaType: "image/webp", data: png }
  const filesOf = ({ error, parts }: Outcome): ReadonlyArray<unknown> => {
    assert.strictEqual(error, undefined)
    return parts.filter(({ type }) => type === "file" || type === "source")
  }

  it.effect("chat: images beside the content, in it, and by address", () =>
    Effect.gen(function*() {
      const image = { type: "image_url", image_url: { url } }
      const bare = { type: "file", mediaType: "image/png", data: png }
      const source = {
        type: "source",
        sourceType: "url",
        id: "source_0",
        url: "https://img.test/a.png",
        title: "image"
      }
      for (
        const [message, part] of [
          [{ content: "", images: [image] }, file],
          [{ content: "", images: [{ b64_json: png }] }, bare],
          [{ content: "", images: [png] }, bare],
          [{ content: [image] }, file],
          [{ images: [{ type: "image_url", image_url: { url: "https://img.test/a.png" } }] }, source]
        ] as const
      ) {
        const told = JSON.stringify(message)
        assert.deepStrictEqual(
          filesOf(yield* whole(chat, { choices: [{ message, finish_reason: "stop" }] })),
          [part],
          told
        )
        const streamed = yield* stream(chat, events(delta(message), chatEnd("stop"), "[DONE]"))
        assert.deepStrictEqual(filesOf(streamed), [part], told)
        assert.isTrue(isReplayable(answerOf(streamed)), told)
        const once = events(delta(message), { choices: [{ message, finish_reason: "stop" }] }, "[DONE]")
        assert.deepStrictEqual(filesOf(yield* stream(chat, once)), [part], told)
      }
    }))

  it.effect("chat: speech", () =>
    Effect.gen(function*() {
      const metadata = { openai: { audioId: "audio_1", transcript: "Hi" } }
      const audio = { id: "audio_1", data: "UklGRg==", transcript: "Hi", expires_at: 1 }
      const all = yield* whole(chat, { choices: [{ message: { content: null, audio }, finish_reason: "stop" }] })
      const own = filesOf(all)[0] as { readonly metadata?: Json }
      assert.deepStrictEqual({ ...own, metadata: undefined }, {
        type: "file",
        mediaType: "audio/wav",
        data: "UklGRg==",
        metadata: undefined
      })
      assert.deepStrictEqual(Object.values(own.metadata ?? {}), [metadata.openai])
      const streamed = yield* stream(
        openAi,
        events(
          delta({ audio: { id: "audio_1", transcript: "H" } }),
          delta({ audio: { transcript: "i" } }),
          delta({ audio: { data: "AQI=" } }),
          delta({ audio: { data: "AwQ=" } }),
          delta({ audio: { expires_at: 1 } }),
          chatEnd("stop"),
          "[DONE]"
        )
      )
      assert.deepStrictEqual(filesOf(streamed), [{ type: "file", mediaType: "audio/pcm", data: "AQIDBA==", metadata }])
    }))

  it.effect("responses: images that the model made", () =>
    Effect.gen(function*() {
      const item = { type: "image_generation_call", id: "ig", result: png, output_format: "jpeg" }
      const part = { type: "file", mediaType: "image/jpeg", data: png }
      const response = { status: "completed", output: [item] }
      assert.deepStrictEqual(filesOf(yield* whole(responses, response)), [part])
      const done = { type: "response.output_item.done", output_index: 0, item }
      const end = { type: "response.completed", response }
      assert.deepStrictEqual(filesOf(yield* stream(responses, events(done, end))), [part])
      assert.deepStrictEqual(filesOf(yield* stream(responses, events(end))), [part])
    }))

  it.effect("Gemini and Ollama", () =>
    Effect.gen(function*() {
      const candidate = {
        candidates: [{
          content: { parts: [{ inlineData: { mimeType: "image/webp", data: png } }] },
          finishReason: "STOP"
        }]
      }
      assert.deepStrictEqual(filesOf(yield* whole(gemini, candidate)), [file])
      assert.deepStrictEqual(filesOf(yield* stream(gemini, events(candidate))), [file])
      const answer = { message: { content: "", images: [png] }, done: true, done_reason: "stop" }
      const part = { type: "file", mediaType: "image/png", data: png }
      assert.deepStrictEqual(filesOf(yield* whole(ollama, answer)), [part])
      assert.deepStrictEqual(filesOf(yield* stream(ollama, lines(answer))), [part])
    }))
})

describe("A11: counts never fall", () => {
  const usageOf = (outcome: Outcome) => {
    const usage = digest(outcome).finish?.usage
    return [usage?.inputTokens.total, usage?.outputTokens.total]
  }

  it.effect("messages: zeros at the end", () =>
    Effect.gen(function*() {
      const outcome = yield* stream(
        anthropic,
        events(
          {
            type: "message_start",
            message: { usage: { input_tokens: 25, output_tokens: 1, cache_read_input_tokens: 5 } }
          },
          { type: "content_block_start", index: 0, content_block: { type: "text", text: "Hi" } },
          { type: "message_delta", delta: { stop_reason: "end_turn" }, usage: { input_tokens: 0, output_tokens: 15 } },
          { type: "message_stop" }
        )
      )
      assert.deepStrictEqual(usageOf(outcome), [30, 15])
    }))

  it.effect("chat: in a choice, at the top, or in both", () =>
    Effect.gen(function*() {
      const usage = { prompt_tokens: 7, completion_tokens: 3 }
      const zeros = { prompt_tokens: 0, completion_tokens: 0 }
      for (
        const pieces of [
          [delta({ content: "Hi" }), delta({}, { finish_reason: "stop", usage })],
          [delta({ content: "Hi" }, { usage }), { ...chatEnd("stop"), usage: zeros }],
          [delta({ content: "Hi" }), { ...chatEnd("stop"), usage }, { choices: [], usage: zeros }],
          [delta({ content: "Hi" }), { ...chatEnd("stop"), x_groq: { usage } }, { choices: [], usage: null }]
        ]
      ) {
        assert.deepStrictEqual(usageOf(yield* stream(chat, events(...pieces, "[DONE]"))), [7, 3])
      }
      const body = { choices: [{ message: { content: "Hi" }, finish_reason: "stop", usage }] }
      assert.deepStrictEqual(usageOf(yield* whole(chat, body)), [7, 3])
    }))

  it.effect("Gemini: grows", () =>
    Effect.gen(function*() {
      const chunk = (
        text: string,
        promptTokenCount: number,
        candidatesTokenCount: number | undefined,
        end?: string
      ) => ({
        candidates: [{ content: { parts: [{ text }] }, finishReason: end }],
        usageMetadata: { promptTokenCount, candidatesTokenCount }
      })
      const outcome = yield* stream(
        gemini,
        events(chunk("H", 8, 1), chunk("i", 1089, 5), chunk("", 0, undefined, "STOP"))
      )
      assert.deepStrictEqual(usageOf(outcome), [1089, 5])
    }))
})

// -----------------------------------------------------------------------------
// B: calls lost that could have worked
// -----------------------------------------------------------------------------

describe.each(answers)("B6: keep-alives as data, %s", (name, make, _, streamOf) => {
  const whole = streamOf("Hello", name === "Gemini" || name === "Cohere" ? "STOP" : "stop")
  const isLines = name === "Ollama"
  const alive = isLines
    ? ["ping\n", "null\n", ": keepalive\n"]
    : [
      "data: : keepalive\n\n",
      "data: ping\n\n",
      "data: \n\n",
      "data:\n\n",
      "data: null\n\n",
      "event: ping\ndata: now\n\n",
      "event: ping\ndata: {\"type\":\"ping\"}\n\n"
    ]
  const first = whole.indexOf(isLines ? "\n" : "\n\n") + (isLines ? 1 : 2)

  it.effect("skipped before, between and after", () =>
    Effect.gen(function*() {
      for (const ping of alive) {
        const pings = ping.repeat(3)
        const outcome = yield* stream(make, pings + whole.slice(0, first) + pings + whole.slice(first) + pings)
        assert.strictEqual(outcome.error, undefined, ping)
        assert.strictEqual(digest(outcome).text, "Hello", ping)
      }
    }))

  it.effect("not for ever", () =>
    Effect.gen(function*() {
      const outcome = yield* play(make, { body: alive[0]!.repeat(20_000), after: "hang" }, true)
      assert.strictEqual(reasonOf(outcome), "MalformedResponse")
    }))

  it.effect("a bare text that says an error is one, and any other breaks the protocol", () =>
    Effect.gen(function*() {
      const frame = (text: string) => isLines ? `${text}\n` : `data: ${text}\n\n`
      for (const text of ["Error: upstream failed", "Internal Server Error", "\"internal error\"", "[ERROR] gone"]) {
        assert.strictEqual(reasonOf(yield* stream(make, frame(text) + whole)), "Server", text)
      }
      assert.strictEqual(reasonOf(yield* stream(make, frame("model is overloaded"))), "Overloaded")
      assert.strictEqual(reasonOf(yield* stream(make, frame("something else") + whole)), "MalformedResponse")
    }))
})

describe.each(answers)("B7: JSON outside of its frame, %s", (name, make, wholeOf) => {
  const error = name === "messages"
    ? { type: "error", error: { type: "overloaded_error", message: "…" } }
    : { error: { message: "…", code: "engine_overloaded", type: "overloaded_error" } }
  const body = wholeOf("Hello", name === "Gemini" || name === "Cohere" ? "STOP" : "stop")
  const types = [
    "text/event-stream",
    "text/plain",
    "",
    "application/json",
    "Application/JSON; Charset=UTF-8",
    "application/problem+json"
  ]

  it.effect("an error object, as it is or laid out", () =>
    Effect.gen(function*() {
      for (const type of types) {
        for (const text of [JSON.stringify(error), `${JSON.stringify(error)}\n`, JSON.stringify(error, null, 2)]) {
          if (name === "Ollama" && text.includes("\n ") && !/json/i.test(type)) continue // a line is an event there
          assert.strictEqual(reasonOf(yield* stream(make, text, type)), "Overloaded", `${type} ${text}`)
        }
      }
    }))

  it.effect("an error object of a body that does not end", () =>
    Effect.gen(function*() {
      const outcome = yield* play(make, { body: `${JSON.stringify(error)}\n`, after: "hang" }, true)
      assert.strictEqual(reasonOf(outcome), "Overloaded")
    }))

  it.effect("a whole answer", () =>
    Effect.gen(function*() {
      for (const type of types) {
        const outcome = yield* stream(make, JSON.stringify(body), type)
        assert.strictEqual(outcome.error, undefined, type)
        assert.strictEqual(digest(outcome).text, "Hello", type)
        assert.strictEqual(reasonOf(yield* stream(make, JSON.stringify(body).slice(0, -2), type)), "MalformedResponse")
      }
    }))

  it.effect("an error among events: without a field, or in one of its own", () =>
    Effect.gen(function*() {
      if (name === "Ollama") return // has no fields
      const text = JSON.stringify(error)
      for (const line of [text, `error: ${text}`, "error: model is overloaded", JSON.stringify(error, null, 1)]) {
        for (const end of ["\n\n", "\n\ndata: [DONE]\n\n", "\ndata: [DONE]\n\n", ""]) {
          const outcome = yield* stream(make, `: hello\n\n${line}${end}`)
          assert.strictEqual(reasonOf(outcome), "Overloaded", line + end)
        }
      }
    }))

  it.effect("events under a type of JSON", () =>
    Effect.gen(function*() {
      const [, , , streamOf] = answers.find(([other]) => other === name)!
      const outcome = yield* stream(make, streamOf("Hello", name === "Gemini" ? "STOP" : "stop"), "application/json")
      assert.strictEqual(outcome.error, undefined)
      assert.strictEqual(digest(outcome).text, "Hello")
    }))
})

describe("B9: tool calls end in tool-calls, whatever the server calls it", () => {
  const call = { id: "A", ...fn("read", "{}") }

  it.effect("chat", () =>
    Effect.gen(function*() {
      for (const words of [["stop"], ["tool_calls", "stop"], ["tool_use"], ["end_turn"], ["stop_sequence"]]) {
        const ends = words.map((word) => chatEnd(word))
        assert.strictEqual(
          reasonOf(yield* stream(chat, events(toolDelta({ index: 0, ...call }), ...ends, "[DONE]"))),
          "tool-calls",
          String(words)
        )
        const body = { choices: [{ message: { tool_calls: [call] }, finish_reason: words[0] }] }
        assert.strictEqual(reasonOf(yield* whole(chat, body)), "tool-calls", String(words))
      }
      const cut = yield* stream(chat, events(toolDelta({ index: 0, ...call }), chatEnd("length"), "[DONE]"))
      assert.strictEqual(reasonOf(cut), "length")
    }))

  it.effect("messages, Cohere, Gemini, Bedrock, Ollama, responses", () =>
    Effect.gen(function*() {
      const block = { type: "tool_use", id: "A", name: "read", input: {} }
      const bodies: ReadonlyArray<readonly [Make, Json]> = [
        [anthropic, { content: [block], stop_reason: "end_turn" }],
        [anthropic, { content: [block], stop_reason: "stop" }],
        [cohere, { message: { tool_calls: [call] }, finish_reason: "COMPLETE" }],
        [gemini, {
          candidates: [{ content: { parts: [{ functionCall: { name: "read" } }] }, finishReason: "STOP" }]
        }],
        [responses, { status: "completed", output: [{ type: "function_call", name: "read", arguments: "{}" }] }],
        [bedrock, {
          output: { message: { content: [{ toolUse: { name: "read", input: {} } }] } },
          stopReason: "end_turn"
        }],
        [ollama, { message: { tool_calls: [fn("read", {})] }, done: true, done_reason: "stop" }]
      ]
      for (const [make, body] of bodies) assert.strictEqual(reasonOf(yield* whole(make, body)), "tool-calls")
    }))
})

describe("B13: marks that must go back are kept", () => {
  const deepseek: Make = OpenAiCompatible.make(OpenAiCompatible.presets.deepseek({ apiKey, defaultModel: "m" }))
  const openrouter: Make = OpenAiCompatible.make(OpenAiCompatible.presets.openrouter({ apiKey }))

  it.effect("DeepSeek: where its reasoning was", () =>
    Effect.gen(function*() {
      const metadata = { deepseek: { field: "reasoning_content" } }
      const body = { choices: [{ message: { reasoning_content: "Hm", content: "Hi" }, finish_reason: "stop" }] }
      const all = yield* whole(deepseek, body)
      assert.deepStrictEqual(all.parts[1], { type: "reasoning", text: "Hm", metadata })
      const streamed = yield* stream(deepseek, events(delta({ reasoning_content: "Hm" }), chatEnd("stop"), "[DONE]"))
      assert.deepStrictEqual(streamed.parts[1], { type: "reasoning-start", id: "0", metadata })
    }))

  it.effect("Bedrock: signatures, and what is sealed", () =>
    Effect.gen(function*() {
      const signed = { text: "Hm", signature: "sig" }
      const all = yield* whole(bedrock, {
        output: {
          message: {
            content: [
              { reasoningContent: { reasoningText: signed } },
              { reasoningContent: { redactedContent: "c2VhbGVk" } },
              { text: "Hi" }
            ]
          }
        },
        stopReason: "end_turn"
      })
      const marks = [{ bedrock: { signature: "sig" } }, { bedrock: { redactedContent: "c2VhbGVk" } }]
      assert.deepStrictEqual(
        all.parts.flatMap((part) => part.type === "reasoning" ? [part.metadata] : []),
        marks
      )
      const block = (contentBlockIndex: number, ...contents: ReadonlyArray<Json>) => [
        ...contents.map((reasoningContent) =>
          ["contentBlockDelta", { contentBlockIndex, delta: { reasoningContent } }] as const
        ),
        ["contentBlockStop", { contentBlockIndex }] as const
      ]
      const streamed = yield* stream(
        bedrock,
        named(
          ...block(0, { text: "H" }, { text: "m" }, { signature: "s" }, { signature: "ig" }),
          ...block(1, { redactedContent: "c2VhbGVk" }),
          ["contentBlockDelta", { contentBlockIndex: 2, delta: { text: "Hi" } }],
          ["messageStop", { stopReason: "end_turn" }]
        )
      )
      assert.deepStrictEqual([digest(streamed).reasoning, digest(streamed).text], ["Hm", "Hi"])
      assert.deepStrictEqual(
        streamed.parts.flatMap((part) => part.type === "reasoning-end" ? [part.metadata] : []),
        marks
      )
    }))

  it.effect("Gemini at its OpenAI endpoint: signatures of calls", () =>
    Effect.gen(function*() {
      const extra_content = { google: { thought_signature: "sig" } }
      const call = { id: "A", ...fn("read", "{}"), extra_content }
      const metadata = { "openai-compatible": { extraContent: extra_content } }
      const expected = [{ type: "tool-call", id: "A", name: "read", params: {}, metadata }]
      const all = yield* whole(chat, { choices: [{ message: { tool_calls: [call] }, finish_reason: "stop" }] })
      assert.deepStrictEqual<unknown>(digest(all).toolCalls, expected)
      const streamed = yield* stream(chat, events(toolDelta({ index: 0, ...call }), chatEnd(), "[DONE]"))
      assert.deepStrictEqual<unknown>(digest(streamed).toolCalls, expected)
    }))

  it.effect("OpenRouter: details of reasoning, also of one that says nothing", () =>
    Effect.gen(function*() {
      const text = (text: string, signature?: string) => ({ type: "reasoning.text", index: 0, text, signature })
      const sealed = { type: "reasoning.encrypted", index: 1, data: "xyz" }
      const reasoningDetails = [{ type: "reasoning.text", index: 0, text: "Hmm", signature: "sig" }, sealed]
      const all = yield* whole(openrouter, {
        choices: [{
          message: { reasoning: "Hmm", reasoning_details: reasoningDetails, content: "Hi" },
          finish_reason: "stop"
        }]
      })
      const metadata = { openrouter: { reasoningDetails } }
      assert.deepStrictEqual(all.parts.filter(({ type }) => type === "reasoning"), [
        { type: "reasoning", text: "Hmm", metadata: { openrouter: { field: "reasoning" } } },
        { type: "reasoning", text: "", metadata }
      ] as never)
      const streamed = yield* stream(
        openrouter,
        events(
          delta({ reasoning: "H", reasoning_details: [text("H")] }),
          delta({ reasoning: "mm", reasoning_details: [text("mm")] }),
          delta({ reasoning_details: [text("", "sig")] }),
          delta({ content: "Hi", reasoning_details: [sealed] }),
          chatEnd("stop"),
          "[DONE]"
        )
      )
      assert.deepStrictEqual([digest(streamed).reasoning, digest(streamed).text], ["Hmm", "Hi"])
      const marks = streamed.parts.flatMap((part) => part.type === "reasoning-start" ? [part.metadata] : [])
      assert.deepStrictEqual(marks, [{ openrouter: { field: "reasoning" } }, metadata] as never)
    }))
})

describe("B15: Ollama ends with a reason and without `done`", () => {
  it.effect("streamed", () =>
    Effect.gen(function*() {
      const outcome = yield* stream(ollama, lines({ message: { content: "Hi" } }, { message: {}, done_reason: "stop" }))
      assert.deepStrictEqual([digest(outcome).text, reasonOf(outcome)], ["Hi", "stop"])
    }))
})

// -----------------------------------------------------------------------------
// hostile and broken servers
// -----------------------------------------------------------------------------

describe("JSON nested deeper than 1,000 levels is malformed", () => {
  const levels = (depth: number) => "[".repeat(depth) + "]".repeat(depth)
  const args = (depth: number) => `{"a":${levels(depth - 1)}}`
  const quoted = (depth: number) => JSON.stringify(args(depth))
  const call = (args: string) => `{"function":{"name":"f","arguments":${args}}}`
  const bodies: ReadonlyArray<readonly [name: string, make: Make, streaming: boolean, of: (depth: number) => string]> =
    [
      [
        "chat, streamed",
        chat,
        true,
        (d) =>
          `data: {"choices":[{"delta":{"tool_calls":[${call(quoted(d))}]},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n`
      ],
      ["chat, whole", chat, false, (d) => `{"choices":[{"message":{"tool_calls":[${call(quoted(d))}]}}]}`],
      [
        "responses, streamed",
        responses,
        true,
        (d) =>
          `data: {"type":"response.completed","response":{"status":"completed","output":[{"type":"function_call","name":"f","arguments":${
            quoted(d)
          }}]}}\n\n`
      ],
      [
        "responses, whole",
        responses,
        false,
        (d) => `{"status":"completed","output":[{"type":"function_call","name":"f","arguments":${quoted(d)}}]}`
      ],
      ["messages, streamed", anthropic, true, (d) =>
        events(
          { type: "content_block_start", index: 0, content_block: { type: "tool_use", name: "f", input: {} } },
          { type: "content_block_delta", index: 0, delta: { type: "input_json_delta", partial_json: args(d) } },
          { type: "message_stop" }
        )],
      [
        "Cohere, streamed",
        cohere,
        true,
        (d) =>
          `data: {"type":"tool-call-start","index":0,"delta":{"message":{"tool_calls":${call(quoted(d))}}}}\n\n`
          + "data: {\"type\":\"message-end\",\"delta\":{\"finish_reason\":\"TOOL_CALL\"}}\n\n"
      ],
      [
        "Cohere, whole",
        cohere,
        false,
        (d) => `{"message":{"tool_calls":[${call(quoted(d))}]},"finish_reason":"TOOL_CALL"}`
      ],
      [
        "Gemini, parsed",
        gemini,
        true,
        (d) =>
          `data: {"candidates":[{"content":{"parts":[{"functionCall":{"name":"f","args":${
            args(d - 7)
          }}}]},"finishReason":"STOP"}]}\n\n`
      ],
      [
        "messages, parsed",
        anthropic,
        false,
        (d) => `{"content":[{"type":"tool_use","name":"f","input":${args(d - 3)}}]}`
      ],
      [
        "Ollama, parsed",
        ollama,
        true,
        (d) => `{"message":{"tool_calls":[${call(args(d - 5))}]},"done":true,"done_reason":"stop"}\n`
      ],
      [
        "Bedrock, streamed",
        bedrock,
        true,
        (d) =>
          named(
            ["contentBlockStart", { contentBlockIndex: 0, start: { toolUse: { toolUseId: "c", name: "f" } } }],
            ["contentBlockDelta", { contentBlockIndex: 0, delta: { toolUse: { input: args(d) } } }],
            ["messageStop", { stopReason: "tool_use" }]
          )
      ],
      [
        "Bedrock, parsed",
        bedrock,
        false,
        (d) =>
          `{"output":{"message":{"content":[{"toolUse":{"toolUseId":"c","name":"f","input":${
            args(d - 6)
          }}}]}},"stopReason":"tool_use"}`
      ],
      ["Ollama, whole", ollama, false, (d) => `{"message":{"tool_calls":[${call(args(d - 5))}]},"done":true}`]
    ]
  it.effect.each(bodies)("%s", ([, make, streaming, of]) =>
    Effect.gen(function*() {
      for (const depth of [1001, 5000, 50_000]) {
        const outcome = yield* play(make, { body: of(depth) }, streaming)
        assert.strictEqual(reasonOf(outcome), "MalformedResponse", String(depth))
        assert.isUndefined(digest(outcome).toolCalls[0])
      }
      const outcome = yield* play(make, { body: of(990) }, streaming)
      assert.strictEqual(outcome.error, undefined)
      assert.strictEqual(digest(outcome).toolCalls.length, 1)
    }))
})

describe("sources are bounded in every adapter", () => {
  const maxBodyBytes = 64 * 1024 * 1024
  const many = Array.from({ length: 300_000 }, (_, i) => `https://${i}.test/`)
  const said = { type: "output_text", text: "Hi", annotations: many.map((url) => ({ type: "url_citation", url })) }
  const chunks = many.map((uri) => ({ web: { uri } }))
  const bodies: ReadonlyArray<readonly [name: string, make: Make, body: Json]> = [
    ["Gemini", gemini, {
      candidates: [{
        content: { parts: [{ text: "Hi" }] },
        groundingMetadata: { groundingChunks: chunks },
        finishReason: "STOP"
      }]
    }],
    ["responses", responses, { status: "completed", output: [{ type: "message", content: [said] }] }],
    ["chat", chat, { choices: [{ message: { content: "Hi" }, finish_reason: "stop" }], citations: many }],
    ["messages", Anthropic.make({ apiKey, maxBodyBytes }), {
      content: [{
        type: "text",
        text: "Hi",
        citations: many.map((url) => ({ type: "web_search_result_location", url, title: "t" }))
      }],
      stop_reason: "end_turn"
    }],
    ["Bedrock", Bedrock.make({ region: "eu-central-1", apiKey, defaultModel: "m", maxBodyBytes }), {
      output: {
        message: {
          content: [{
            citationsContent: {
              content: [{ text: "Hi" }],
              citations: many.map((url) => ({ location: { web: { url } } }))
            }
          }]
        }
      },
      stopReason: "end_turn"
    }],
    ["Cohere", Cohere.make({ apiKey, maxBodyBytes }), {
      finish_reason: "COMPLETE",
      message: {
        content: [{ type: "text", text: "Hi" }],
        citations: many.map((url) => ({ sources: [{ type: "tool", tool_output: { url } }] }))
      }
    }]
  ]
  it.live.each(bodies)("%s: 300,000 cost a bounded answer", ([, make, body]) =>
    Effect.gen(function*() {
      for (const streaming of [false, true]) {
        const outcome = yield* play(make, { body: JSON.stringify(body) }, streaming)
        assert.strictEqual(outcome.error, undefined)
        assert.strictEqual(outcome.parts.filter(({ type }) => type === "source").length, 256)
      }
    }), 30_000)
})

describe("ids of answers and models longer than an identifier are not told", () => {
  it.effect.each(answers)("%s", ([, make, wholeOf]) =>
    Effect.gen(function*() {
      const long = "x".repeat(10_000)
      for (const bad of [long, "a\u0000b", "a\u202eb"]) {
        const body = { ...wholeOf("Hi", "stop"), id: bad, model: bad, responseId: bad, modelVersion: bad }
        const { metadata } = digest(yield* whole(make, body))
        assert.deepStrictEqual([metadata?.id, metadata?.modelId], [undefined, undefined])
      }
    }))
})

describe("ids that we invent", () => {
  it.effect("never repeat in a conversation", () =>
    Effect.gen(function*() {
      const bodies: ReadonlyArray<readonly [Make, Json]> = [
        [chat, { id: "same", choices: [{ message: { tool_calls: [fn("read", "{}")] }, finish_reason: "tool_calls" }] }],
        [anthropic, { id: "same", content: [{ type: "tool_use", name: "read", input: {} }], stop_reason: "tool_use" }],
        [cohere, { id: "same", message: { tool_calls: [fn("read", "{}")] }, finish_reason: "TOOL_CALL" }],
        [responses, {
          id: "same",
          output: [{ type: "function_call", name: "read", arguments: "{}" }],
          status: "completed"
        }],
        [gemini, { responseId: "same", candidates: [{ content: { parts: [{ functionCall: { name: "read" } }] } }] }],
        [bedrock, { output: { message: { content: [{ toolUse: { name: "read", input: {} } }] } } }],
        [ollama, { message: { tool_calls: [fn("read", {})] }, done: true, done_reason: "stop" }]
      ]
      for (const [make, body] of bodies) {
        const ids = new Set<string>()
        for (let turn = 0; turn < 3; turn++) {
          const { parts } = yield* whole(make, body)
          const call = parts.find((part) => part.type === "tool-call")
          assert.strictEqual(withInvented([call!])[0]!.type, "tool-call")
          assert.match((call as { readonly id: string }).id, /^call_[a-z\d]{16}_0$/)
          ids.add((call as { readonly id: string }).id)
        }
        assert.strictEqual(ids.size, 3)
      }
    }))
})
