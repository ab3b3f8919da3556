// Answers in other shapes than their protocol's: one thing where a list is usual, a text where there are pieces, arguments
// parsed or in the wrong place. What can be read is read, whole and streamed alike; what cannot is not left out in silence.
import { assert, describe, it } from "@effect/vitest"
import { Anthropic, Cohere, Gemini, OpenAi, OpenAiCompatible } from "effect-resilient-llm/providers"
import { Bedrock } from "effect-resilient-llm/providers/Bedrock"
import { Ollama } from "effect-resilient-llm/providers/Ollama"
import * as Effect from "effect/Effect"
import { apiKey, digest, type Make, play, wellFormed } from "../providers/support.ts"

const chat: Make = OpenAiCompatible.make({ baseUrl: "https://llm.test/v1", defaultModel: "m" })
const responses: Make = OpenAi.make({ apiKey, api: "responses" })
const messages: Make = Anthropic.make({ apiKey })
const cohere: Make = Cohere.make({ apiKey })
const gemini: Make = Gemini.make({ apiKey })
const bedrock: Make = Bedrock.make({ region: "eu-central-1", apiKey, defaultModel: "m" })
const ollama: Make = Ollama.make({ defaultModel: "m" })

/** A body, or the events of a stream: of data alone, or of a name and data. */
type Answer = object | ReadonlyArray<unknown>
type Row = readonly [name: string, make: Make, answer: Answer]

const eventOf = (event: unknown): string => {
  const [name, data] = Array.isArray(event) ? event : [undefined, event]
  return `${name === undefined ? "" : `event: ${name}\n`}data: ${data === "[DONE]" ? data : JSON.stringify(data)}\n\n`
}

const answered = (make: Make, answer: Answer): ReturnType<typeof play> => {
  if (!Array.isArray(answer)) return play(make, { body: JSON.stringify(answer) }, false)
  const body = make === ollama
    ? answer.map((line) => `${JSON.stringify(line)}\n`).join("")
    : answer.map(eventOf).join("")
  return Effect.tap(
    play(make, { headers: { "content-type": "text/event-stream" }, body }, true),
    (outcome) => Effect.sync(() => wellFormed(outcome))
  )
}

const read = (make: Make, answer: Answer) =>
  Effect.map(answered(make, answer), (outcome) => {
    const { finish, text, toolCalls } = digest(outcome)
    if (outcome.error !== undefined) return outcome.error.reason
    // What streams of a call's arguments is what they are in the end.
    const streamed = new Map<string, string>()
    for (const part of outcome.parts) {
      if (part.type === "tool-params-start") streamed.set(part.id, "")
      if (part.type === "tool-params-delta") streamed.set(part.id, streamed.get(part.id) + part.delta)
    }
    const told = Array.from(streamed.values())
    return { text, calls: toolCalls.map(({ name, params }) => [name, params]), reason: finish?.reason, told }
  })

const malformed = (make: Make, answer: Answer) =>
  Effect.map(answered(make, answer), ({ error }) => {
    assert.deepStrictEqual(error?.reason, {
      _tag: "MalformedResponse",
      problem: "the body does not have the shape of the protocol"
    })
  })

const delta = (delta: unknown, more: object = {}) => ({ choices: [{ delta, ...more }] })
const chatEnd = [delta({}, { finish_reason: "stop" }), "[DONE]"]
const chatWhole = (message: object) => ({ choices: [{ message, finish_reason: "stop" }] })
const candidate = (content: unknown) => ({ candidates: [{ content, finishReason: "STOP" }] })
const cohereEnd = { type: "message-end", delta: { finish_reason: "COMPLETE" } }
const ollamaWhole = (message: object) => ({ message, done: true, done_reason: "stop" })
const item = (item: object) => ({ status: "completed", output: [item] })
const messagesEnd = [{ type: "message_delta", delta: { stop_reason: "tool_use" } }, { type: "message_stop" }]
const bedrockEnd = [["messageStop", { stopReason: "tool_use" }], ["metadata", {}]]

const call = { id: "A", function: { name: "f", arguments: "{\"a\":1}" } }
const parsed = { function: { name: "f", arguments: { a: 1 } } }

describe("an error that says nothing, beside an answer", () => {
  it.effect.each([[], {}, { message: null }, { code: 0, message: "" }, { message: "", type: null, details: [] }])(
    "%j",
    (error) =>
      Effect.gen(function*() {
        const rows: ReadonlyArray<readonly [Make, Answer]> = [
          [chat, { ...chatWhole({ content: "Hi" }), error }],
          [chat, [{ ...delta({ content: "Hi" }), error }, ...chatEnd]],
          [gemini, [{ ...candidate({ parts: [{ text: "Hi" }] }), error }]],
          [ollama, { ...ollamaWhole({ content: "Hi" }), error }]
        ]
        for (const [make, answer] of rows) {
          assert.deepStrictEqual(yield* read(make, answer), { text: "Hi", calls: [], reason: "stop", told: [] })
        }
      })
  )
})

describe("counts", () => {
  const rows: ReadonlyArray<readonly [name: string, make: Make, answer: (count: unknown) => Answer]> = [
    ["chat", chat, (n) => ({ ...chatWhole({ content: "Hi" }), usage: { prompt_tokens: n, completion_tokens: n } })],
    ["chat, streamed", chat, (n) => [
      delta({ content: "Hi" }),
      { choices: [], usage: { prompt_tokens: n, completion_tokens: n } },
      ...chatEnd
    ]],
    ["responses", responses, (n) => ({
      ...item({ type: "message", content: "Hi" }),
      usage: { input_tokens: n, output_tokens: n }
    })],
    ["messages", messages, (n) => ({
      content: [{ type: "text", text: "Hi" }],
      stop_reason: "end_turn",
      usage: { input_tokens: n, cache_read_input_tokens: n, output_tokens: n }
    })],
    ["Cohere", cohere, (n) => ({
      message: { content: "Hi" },
      finish_reason: "COMPLETE",
      usage: { tokens: { input_tokens: n, output_tokens: n } }
    })],
    ["Gemini", gemini, (n) => ({
      ...candidate({ parts: [{ text: "Hi" }] }),
      usageMetadata: { promptTokenCount: n, candidatesTokenCount: n }
    })],
    ["Bedrock", bedrock, (n) => ({
      output: { message: { content: [{ text: "Hi" }] } },
      stopReason: "end_turn",
      usage: { inputTokens: n, cacheReadInputTokens: n, outputTokens: n }
    })],
    ["Ollama", ollama, (n) => ({ ...ollamaWhole({ content: "Hi" }), prompt_eval_count: n, eval_count: n })]
  ]
  // Believed, they would keep a limit of our own spent for years.
  const wrong = [-1, 1.5, 2 ** 32 - 1, Number.MAX_SAFE_INTEGER, 2 ** 60, "5", true, {}, null]
  it.effect.each(rows)("%s: those that no answer can have are unknown", ([, make, answer]) =>
    Effect.gen(function*() {
      for (const count of wrong) {
        const { error, finish } = yield* Effect.map(answered(make, answer(count)), (outcome) => ({
          error: outcome.error,
          ...digest(outcome)
        }))
        assert.isUndefined(error)
        assert.deepStrictEqual(finish?.usage, { inputTokens: {}, outputTokens: {} }, JSON.stringify(count))
      }
      const { finish } = digest(yield* answered(make, answer(0)))
      assert.deepStrictEqual([finish?.usage.inputTokens.total, finish?.usage.outputTokens.total], [0, 0])
    }))
})

describe("content", () => {
  const pieces = { type: "text", text: "Hello" }
  const rows: ReadonlyArray<Row> = [
    ["chat: one piece", chat, chatWhole({ content: pieces })],
    ["chat: one piece, streamed", chat, [delta({ content: pieces }), ...chatEnd]],
    ["chat: texts", chat, chatWhole({ content: ["Hel", "lo"] })],
    ["chat: texts, streamed", chat, [delta({ content: ["Hel", "lo"] }), ...chatEnd]],
    ["chat: a text with a value", chat, chatWhole({ content: [{ type: "text", text: { value: "Hello" } }] })],
    ["chat: a text with a value, streamed", chat, [
      delta({ content: [{ type: "text", text: { value: "Hello" } }] }),
      ...chatEnd
    ]],
    ["responses: a text", responses, item({ type: "message", content: "Hello" })],
    ["responses: one piece", responses, item({ type: "message", content: { type: "output_text", text: "Hello" } })],
    ["responses: a text, at the end of a stream", responses, [
      { type: "response.completed", response: item({ type: "message", content: "Hello" }) }
    ]],
    ["Cohere: texts", cohere, { message: { content: ["Hel", "lo"] }, finish_reason: "COMPLETE" }],
    ["Cohere: one piece", cohere, { message: { content: pieces }, finish_reason: "COMPLETE" }],
    ["Cohere: a text, streamed", cohere, [
      { type: "content-delta", index: 0, delta: { message: { content: "Hello" } } },
      cohereEnd
    ]],
    ["Cohere: a list, streamed", cohere, [
      { type: "content-start", index: 0, delta: { message: { content: [pieces] } } },
      cohereEnd
    ]],
    ["Gemini: one part", gemini, candidate({ parts: { text: "Hello" } })],
    ["Gemini: texts", gemini, candidate({ parts: ["Hel", "lo"] })],
    ["Gemini: texts, streamed", gemini, [candidate({ parts: ["Hel", "lo"] })]],
    ["Gemini: one candidate", gemini, {
      candidates: { content: { parts: [{ text: "Hello" }] }, finishReason: "STOP" }
    }],
    ["Ollama: a list", ollama, ollamaWhole({ content: [pieces] })],
    ["Ollama: a list, streamed", ollama, [
      { message: { content: ["Hel"] } },
      { message: { content: [{ text: "lo" }] } },
      ollamaWhole({ content: "" })
    ]]
  ]
  it.effect.each(rows)("%s", ([, make, answer]) =>
    Effect.map(read(make, answer), (seen) => {
      assert.deepStrictEqual(seen, { text: "Hello", calls: [], reason: "stop", told: [] })
    }))

  const broken: ReadonlyArray<Row> = [
    ["chat: a number", chat, chatWhole({ content: 5 })],
    ["chat: a number, streamed", chat, [delta({ content: "The answer is " }), delta({ content: 5 }), ...chatEnd]],
    ["chat: a delta that is a text", chat, [delta("Hello"), ...chatEnd]],
    ["chat: a number in a message at the end", chat, [
      { choices: [{ message: { content: 5 }, finish_reason: "stop" }] },
      "[DONE]"
    ]],
    ["Ollama: a number", ollama, ollamaWhole({ content: 5 })],
    ["Ollama: a number, streamed", ollama, [{ message: { content: 5 } }, ollamaWhole({ content: "" })]],
    ["Cohere: a number, streamed", cohere, [
      { type: "content-delta", index: 0, delta: { message: { content: 5 } } },
      cohereEnd
    ]]
  ]
  it.effect.each(broken)("%s is malformed", ([, make, answer]) => malformed(make, answer))
})

describe("calls", () => {
  const rows: ReadonlyArray<Row> = [
    ["chat: one alone", chat, chatWhole({ tool_calls: call })],
    ["chat: one alone, streamed", chat, [delta({ tool_calls: call }), ...chatEnd]],
    ["chat: without a frame of its own", chat, chatWhole({ tool_calls: [{ id: "A", ...call.function }] })],
    ["chat: without a frame of its own, streamed", chat, [
      delta({ tool_calls: [{ index: 0, id: "A", name: "f", arguments: "" }] }),
      delta({ tool_calls: [{ index: 0, arguments: "{\"a\":1}" }] }),
      ...chatEnd
    ]],
    ["Cohere: one alone", cohere, { message: { tool_calls: call }, finish_reason: "TOOL_CALL" }],
    ["Cohere: a list, streamed", cohere, [
      { type: "tool-call-start", index: 0, delta: { message: { tool_calls: [{ id: "A", function: { name: "f" } }] } } },
      {
        type: "tool-call-delta",
        index: 0,
        delta: { message: { tool_calls: [{ function: { arguments: "{\"a\":1}" } }] } }
      },
      cohereEnd
    ]],
    ["Gemini: a part alone", gemini, candidate({ parts: { functionCall: { name: "f", args: { a: 1 } } } })],
    ["Ollama: one alone", ollama, ollamaWhole({ tool_calls: parsed })],
    ["Ollama: one alone, streamed", ollama, [ollamaWhole({ tool_calls: parsed })]]
  ]
  it.effect.each(rows)("%s", ([, make, answer]) =>
    Effect.map(read(make, answer), (seen) => {
      assert.deepStrictEqual(seen, {
        text: "",
        calls: [["f", { a: 1 }]],
        reason: "tool-calls",
        told: Array.isArray(answer) ? ["{\"a\":1}"] : []
      })
    }))

  const free = { type: "custom_tool_call", id: "ct", call_id: "A", name: "f", input: "print(1)" }
  const piecewise = (type: string, more: object) => ({ type: `response.${type}`, output_index: 0, ...more })
  const customs: ReadonlyArray<Row> = [
    ["chat", chat, chatWhole({ tool_calls: [{ id: "A", type: "custom", custom: { name: "f", input: "print(1)" } }] })],
    ["chat, streamed", chat, [
      delta({ tool_calls: [{ index: 0, id: "A", type: "custom", custom: { name: "f", input: "print" } }] }),
      delta({ tool_calls: [{ index: 0, custom: { input: "(1)" } }] }),
      ...chatEnd
    ]],
    ["responses", responses, item(free)],
    ["responses, streamed", responses, [
      piecewise("output_item.added", { item: { ...free, input: "" } }),
      piecewise("custom_tool_call_input.delta", { delta: "print" }),
      piecewise("custom_tool_call_input.delta", { delta: "(1)" }),
      piecewise("custom_tool_call_input.done", { input: "print(1)" }),
      piecewise("output_item.done", { item: free }),
      { type: "response.completed", response: item(free) }
    ]],
    ["responses, at the end of a stream", responses, [{ type: "response.completed", response: item(free) }]]
  ]
  it.effect.each(customs)(
    "%s: of a tool that takes a text",
    ([, make, answer]) =>
      Effect.map(read(make, answer), (seen) => {
        assert.deepStrictEqual(seen, {
          text: "",
          calls: [["f", "print(1)"]],
          reason: "tool-calls",
          told: Array.isArray(answer) ? ["print(1)"] : []
        })
      })
  )

  it.effect("chat: places as texts", () =>
    Effect.gen(function*() {
      const piece = (index: string, more: object) => delta({ tool_calls: [{ index, ...more }] })
      const seen = yield* read(chat, [
        { choices: [{ index: "0", delta: {} }] },
        piece("0", { id: "A", function: { name: "f", arguments: "" } }),
        piece("1", { id: "B", function: { name: "g", arguments: "" } }),
        piece("0", { function: { arguments: "{\"a\":1}" } }),
        piece("1", { function: { arguments: "{\"b\":2}" } }),
        ...chatEnd
      ])
      assert.deepStrictEqual("calls" in seen && seen.calls, [["f", { a: 1 }], ["g", { b: 2 }]])
    }))

  const nameless: ReadonlyArray<Row> = [
    ["chat", chat, chatWhole({ content: "Hi", tool_calls: [{ function: { arguments: "{\"a\":1}" } }] })],
    ["Gemini", gemini, candidate({ parts: [{ text: "Hi" }, { functionCall: { args: { a: 1 } } }] })],
    ["Gemini, streamed", gemini, [candidate({ parts: [{ functionCall: { args: { a: 1 } } }] })]],
    ["messages: a text", messages, {
      content: [{ type: "tool_use", id: "A", input: "{\"a\":1}" }],
      stop_reason: "tool_use"
    }],
    ["messages: a list", messages, { content: [{ type: "tool_use", id: "A", input: [1] }], stop_reason: "tool_use" }],
    ["Bedrock: a list", bedrock, {
      output: { message: { content: [{ toolUse: { toolUseId: "A", input: [1] } }] } },
      stopReason: "tool_use"
    }],
    ["Bedrock: at its start, streamed", bedrock, [
      ["contentBlockStart", { contentBlockIndex: 0, start: { toolUse: { toolUseId: "A", input: { a: 1 } } } }],
      ...bedrockEnd
    ]],
    ["Ollama", ollama, ollamaWhole({ tool_calls: [{ function: { arguments: { a: 1 } } }] })]
  ]
  it.effect.each(nameless)("%s: arguments without a name are malformed", ([, make, answer]) => malformed(make, answer))

  it.effect("Gemini, messages, Bedrock: neither name nor arguments are nothing", () =>
    Effect.gen(function*() {
      const rows: ReadonlyArray<readonly [Make, Answer]> = [
        [gemini, candidate({ parts: [{ text: "Hi" }, { functionCall: { args: {} } }] })],
        [gemini, [candidate({ parts: [{ text: "Hi" }, { functionCall: {} }] })]],
        [messages, {
          content: [{ type: "text", text: "Hi" }, { type: "tool_use", input: {} }],
          stop_reason: "end_turn"
        }],
        [bedrock, { output: { message: { content: [{ text: "Hi" }, { toolUse: {} }] } }, stopReason: "end_turn" }]
      ]
      for (const [make, answer] of rows) {
        assert.deepStrictEqual(yield* read(make, answer), { text: "Hi", calls: [], reason: "stop", told: [] })
      }
    }))
})

describe("arguments", () => {
  const inChat = (args: unknown) => [{ index: 0, id: "A", function: { name: "f", arguments: args } }]
  const start = (input: unknown) => ({
    type: "content_block_start",
    index: 0,
    content_block: { type: "tool_use", id: "A", name: "f", input }
  })
  const partial = (partial_json: unknown) => ({
    type: "content_block_delta",
    index: 0,
    delta: { type: "input_json_delta", partial_json }
  })
  const stop = { type: "content_block_stop", index: 0 }
  const added = (args: unknown) => ({
    type: "response.output_item.added",
    output_index: 0,
    item: { type: "function_call", id: "fc", call_id: "A", name: "f", arguments: args }
  })
  const completed = { type: "response.completed", response: { status: "completed" } }
  const block = (input: unknown) => [
    "contentBlockStart",
    { contentBlockIndex: 0, start: { toolUse: { toolUseId: "A", name: "f", input } } }
  ]
  const more = (input: unknown) => ["contentBlockDelta", { contentBlockIndex: 0, delta: { toolUse: { input } } }]
  const cohereCall = (type: string, call: object) => ({ type, index: 0, delta: { message: { tool_calls: call } } })
  const aOne = "{\"a\":1}"

  /** Each adapter's ways to tell one call's arguments. */
  const ways: ReadonlyArray<readonly [name: string, make: Make, tell: (args: unknown) => Answer]> = [
    ["chat", chat, (args) => chatWhole({ tool_calls: inChat(args) })],
    ["chat, streamed", chat, (args) => [delta({ tool_calls: inChat(args) }), ...chatEnd]],
    ["responses", responses, (args) => item({ type: "function_call", call_id: "A", name: "f", arguments: args })],
    ["responses, at its start", responses, (args) => [added(args), completed]],
    ["responses, in a delta", responses, (args) => [
      added(""),
      { type: "response.function_call_arguments.delta", output_index: 0, delta: args },
      completed
    ]],
    ["messages", messages, (input) => ({
      content: [{ type: "tool_use", id: "A", name: "f", input }],
      stop_reason: "tool_use"
    })],
    ["messages, at its start", messages, (input) => [start(input), stop, ...messagesEnd]],
    ["messages, at its start, without its end", messages, (input) => [start(input), ...messagesEnd]],
    ["messages, in a delta", messages, (input) => [start({}), partial(input), stop, ...messagesEnd]],
    ["Cohere", cohere, (args) => ({
      message: { tool_calls: [{ id: "A", function: { name: "f", arguments: args } }] },
      finish_reason: "TOOL_CALL"
    })],
    ["Cohere, in a delta", cohere, (args) => [
      cohereCall("tool-call-start", { id: "A", function: { name: "f" } }),
      cohereCall("tool-call-delta", { function: { arguments: args } }),
      cohereEnd
    ]],
    ["Gemini", gemini, (args) => candidate({ parts: [{ functionCall: { name: "f", args } }] })],
    ["Gemini, streamed", gemini, (args) => [candidate({ parts: [{ functionCall: { name: "f", args } }] })]],
    ["Bedrock", bedrock, (input) => ({
      output: { message: { content: [{ toolUse: { toolUseId: "A", name: "f", input } }] } },
      stopReason: "tool_use"
    })],
    ["Bedrock, at its start", bedrock, (input) => [
      block(input),
      ["contentBlockStop", { contentBlockIndex: 0 }],
      ...bedrockEnd
    ]],
    ["Bedrock, in a delta", bedrock, (input) => [block(undefined), more(input), ...bedrockEnd]],
    ["Ollama", ollama, (args) => ollamaWhole({ tool_calls: [{ function: { name: "f", arguments: args } }] })],
    [
      "Ollama, streamed",
      ollama,
      (args) => [ollamaWhole({ tool_calls: [{ function: { name: "f", arguments: args } }] })]
    ]
  ]

  describe.each(ways)("%s", (_, make, tell) => {
    const forms: ReadonlyArray<readonly [name: string, args: unknown, params: unknown]> = [
      ["a text", aOne, { a: 1 }],
      ["an object", { a: 1 }, { a: 1 }],
      ["a text in a text", JSON.stringify(aOne), { a: 1 }],
      ["a list", [1, 2], [1, 2]],
      ["a list as a text", "[1,2]", [1, 2]],
      ["no JSON", "{\"a\":", "{\"a\":"],
      ["a mere text in a text", "\"Paris\"", "Paris"],
      ["null", null, {}],
      ["null as a text", "null", {}],
      ["nothing", "", {}],
      ["a blank", " \n", {}],
      ["an empty object", {}, {}],
      ["an empty object as a text", "{}", {}]
    ]
    it.effect.each(forms)("%s", ([, args, params]) =>
      Effect.map(read(make, tell(args)), (seen) => {
        assert.deepStrictEqual("calls" in seen ? seen.calls : seen, [["f", params]])
      }))
  })

  const fn = { type: "function_call", id: "fc", call_id: "A", name: "f" }
  const piece = (delta: string, place: object = { output_index: 0 }) => ({
    type: "response.function_call_arguments.delta",
    delta,
    ...place
  })
  const done = { type: "response.function_call_arguments.done", output_index: 0, arguments: aOne }
  const late: ReadonlyArray<Row> = [
    ["before the call's start", responses, [piece("{\"a\""), added(""), piece(":1}"), completed]],
    ["all before it", responses, [done, added(""), completed]],
    ["a piece was lost, and the end of the arguments tells all", responses, [
      added(""),
      piece("{\"a\""),
      piece("}"),
      done,
      completed
    ]],
    ["a piece was lost, and the end of the item tells all", responses, [
      added(""),
      piece("{\"a\""),
      piece("}"),
      { type: "response.output_item.done", output_index: 0, item: { ...fn, arguments: aOne } },
      completed
    ]],
    ["a piece was lost, and the end of the answer tells all", responses, [
      added(""),
      piece("{\"a\""),
      piece("}"),
      { type: "response.completed", response: item({ ...fn, arguments: aOne }) }
    ]],
    ["another value", responses, [added(""), piece("{\"a\":2}"), done, completed]],
    ["an end that says less", responses, [added(""), piece(aOne), { ...done, arguments: "{}" }, completed]],
    ["an end that was cut", responses, [added(""), piece(aOne), { ...done, arguments: "{\"a" }, completed]],
    ["chat: id and name after them", chat, [
      delta({ tool_calls: [{ index: 0, function: { arguments: "{\"a\"" } }] }),
      delta({ tool_calls: [{ index: 0, id: "A", function: { name: "f", arguments: ":1}" } }] }),
      ...chatEnd
    ]]
  ]
  it.effect.each(late)("%s", ([, make, answer]) =>
    Effect.map(answered(make, answer), (outcome) => {
      assert.strictEqual(outcome.error, undefined)
      assert.deepStrictEqual(digest(outcome).toolCalls.map(({ id, name, params }) => [id, name, params]), [
        ["A", "f", { a: 1 }]
      ])
    }))

  const lost: ReadonlyArray<Row> = [
    ["of no call", responses, [piece(aOne), completed]],
    ["of an item that is then in another place", responses, [piece(aOne, { item_id: "fc" }), added(""), completed]]
  ]
  it.effect.each(lost)("responses: arguments %s are malformed", ([, make, answer]) => malformed(make, answer))

  const twice: ReadonlyArray<Row> = [
    ["chat: an empty object before the first piece", chat, [
      delta({ tool_calls: inChat("{}") }),
      delta({ tool_calls: [{ index: 0, function: { arguments: "{\"a\"" } }] }),
      delta({ tool_calls: [{ index: 0, function: { arguments: ":1}" } }] }),
      ...chatEnd
    ]],
    ["chat: the same with the call's name and id", chat, [
      delta({ tool_calls: inChat("{}") }),
      delta({ tool_calls: inChat(aOne) }),
      ...chatEnd
    ]],
    ["responses: an empty object before the first piece", responses, [
      added("{}"),
      { type: "response.function_call_arguments.delta", output_index: 0, delta: aOne },
      { type: "response.function_call_arguments.done", output_index: 0, arguments: aOne },
      completed
    ]],
    ["messages: an empty text before the first piece", messages, [start("{}"), partial(aOne), stop, ...messagesEnd]],
    ["messages: at the start and in pieces", messages, [
      start({ a: 1 }),
      partial("{\"a\""),
      partial(":1}"),
      stop,
      ...messagesEnd
    ]],
    ["Bedrock: at the start and in pieces", bedrock, [block({ a: 1 }), more("{\"a\""), more(":1}"), ...bedrockEnd]],
    ["Cohere: an empty object before the first piece", cohere, [
      cohereCall("tool-call-start", { id: "A", function: { name: "f", arguments: "{}" } }),
      cohereCall("tool-call-delta", { function: { arguments: aOne } }),
      cohereEnd
    ]]
  ]
  it.effect.each(twice)("%s", ([, make, answer]) =>
    Effect.map(read(make, answer), (seen) => {
      assert.deepStrictEqual(seen, { text: "", calls: [["f", { a: 1 }]], reason: "tool-calls", told: [aOne] })
    }))
})
