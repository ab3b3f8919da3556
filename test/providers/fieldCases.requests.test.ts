// What callers really send, by kind: conversations that moved between vendors, odd texts and schemas, and fields that a
// vendor has no place for.
import { assert, describe, it } from "@effect/vitest"
import type { Change } from "effect-resilient-llm/LlmProvider"
import * as LlmRequest from "effect-resilient-llm/LlmRequest"
import { Anthropic, Cohere, Gemini, OpenAi, OpenAiCompatible } from "effect-resilient-llm/providers"
import { Bedrock } from "effect-resilient-llm/providers/Bedrock"
import { Ollama } from "effect-resilient-llm/providers/Ollama"
import * as Effect from "effect/Effect"
import { apiKey, connect, type Make, sent, serve } from "./support.ts"

const { presets } = OpenAiCompatible
const compatible: Make = OpenAiCompatible.make({ baseUrl: "https://llm.test/v1", defaultModel: "m" })
const openAi: Make = OpenAi.make({ apiKey })
const responses: Make = OpenAi.make({ apiKey, api: "responses" })
const anthropic: Make = Anthropic.make({ apiKey })
const cohere: Make = Cohere.make({ apiKey })
const gemini: Make = Gemini.make({ apiKey })
const vertex: Make = Gemini.make({ vertex: { project: "p", location: "global", accessToken: apiKey } })
const ollama: Make = Ollama.make({ defaultModel: "m" })
const mistral: Make = OpenAiCompatible.make(presets.mistral({ apiKey }))
const vllm: Make = OpenAiCompatible.make(presets.vllm({ defaultModel: "m" }))

const adapters: ReadonlyArray<readonly [name: string, make: Make]> = [
  ["OpenAI chat", openAi],
  ["compatible chat", compatible],
  ["Mistral", mistral],
  ["vLLM", vllm],
  ["responses", responses],
  ["messages", anthropic],
  ["Cohere", cohere],
  ["Gemini", gemini],
  ["Vertex AI", vertex],
  ["Ollama", ollama],
  ["Bedrock", Bedrock.make({ region: "eu-central-1", apiKey, defaultModel: "m" })]
]

const bodyOf = (make: Make, input: LlmRequest.Input) => Effect.map(sent(make, input), ({ json }) => json)

const changesOf = (make: Make, input: LlmRequest.Input) =>
  Effect.gen(function*() {
    const provider = yield* connect(make, serve({}))
    return provider.changes?.(yield* LlmRequest.make(input)) ?? []
  })

/** Everything in a body, with the JSON inside its texts. */
function* values(value: unknown): Generator<readonly [key: string, value: unknown]> {
  if (typeof value !== "object" || value === null) return
  for (const [key, inner] of Object.entries(value)) {
    yield [key, inner]
    if (typeof inner === "string" && inner.startsWith("{")) yield* values(JSON.parse(inner))
    else yield* values(inner)
  }
}

// -----------------------------------------------------------------------------
// B1
// -----------------------------------------------------------------------------

const long = "toolu_".repeat(12)
const foreign = ["functions.ls:0", long, "call_0", "call_0", "abc123XYZ", "é", "functions.ls:0"]

const moved = (ids: ReadonlyArray<string>): LlmRequest.Input => ({
  prompt: [
    { role: "user", content: "Hi" },
    ...ids.flatMap((id, i): ReadonlyArray<any> => [
      {
        role: "assistant",
        content: [
          { type: "tool-call", id, name: "ls", params: { i } },
          { type: "tool-call", id: `second ${id}`, name: "ls", params: { i: -i } }
        ]
      },
      {
        role: "tool",
        content: [
          { type: "tool-result", id: `second ${id}`, name: "ls", isFailure: false, result: `result ${-i}` },
          { type: "tool-result", id, name: "ls", isFailure: false, result: `result ${i}` }
        ]
      }
    ])
  ]
})

/** Ids of calls with their arguments, and of results with what they say, in the words of every protocol. */
const idsIn = (body: any) => {
  const calls: Array<readonly [id: string, i: number]> = []
  const results: Array<readonly [id: string, result: string]> = []
  for (const message of body.messages ?? []) {
    for (const call of message.tool_calls ?? []) {
      const args = call.function.arguments
      calls.push([call.id, (typeof args === "string" ? JSON.parse(args) : args).i])
    }
    if (message.role === "tool") results.push([message.tool_call_id, message.content])
    for (const block of Array.isArray(message.content) ? message.content : []) {
      if (block.toolUse !== undefined) calls.push([block.toolUse.toolUseId, block.toolUse.input.i])
      if (block.toolResult !== undefined) {
        results.push([block.toolResult.toolUseId, block.toolResult.content[0].text])
      }
      if (block.type === "tool_use") calls.push([block.id, block.input.i])
      if (block.type === "tool_result") results.push([block.tool_use_id, block.content])
    }
  }
  for (const item of body.input ?? []) {
    if (item.type === "function_call") calls.push([item.call_id, JSON.parse(item.arguments).i])
    if (item.type === "function_call_output") results.push([item.call_id, item.output])
  }
  for (const { parts } of body.contents ?? []) {
    for (const { functionCall, functionResponse } of parts) {
      if (functionCall !== undefined) calls.push([functionCall.id, functionCall.args.i])
      if (functionResponse !== undefined) results.push([functionResponse.id, functionResponse.response.output])
    }
  }
  return { calls, results }
}

const rules: Readonly<Record<string, RegExp>> = {
  "OpenAI chat": /^[\w-]{1,40}$/,
  "compatible chat": /^[\w-]{1,40}$/,
  Mistral: /^[a-zA-Z\d]{9}$/,
  responses: /^[\w-]{1,64}$/,
  messages: /^[a-zA-Z\d_-]{1,64}$/,
  Bedrock: /^[a-zA-Z\d_-]{1,64}$/
}

describe("B1: ids of calls are those that the vendor takes", () => {
  it.effect.each(adapters.filter(([name]) => name !== "Vertex AI"))("%s", ([name, make]) =>
    Effect.gen(function*() {
      const { calls, results } = idsIn(yield* bodyOf(make, moved(foreign)))
      assert.strictEqual(calls.length, 2 * foreign.length)
      assert.strictEqual(new Set(calls.map(([id]) => id)).size, calls.length, "each call has a name of its own")
      for (const [id] of calls) assert.match(id, rules[name] ?? /./)
      // Results name their own call.
      assert.deepStrictEqual(
        new Map(results.map(([id, result]) => [id, result])),
        new Map(calls.map(([id, i]) => [id, `result ${i}`]))
      )
      // What a name becomes does not change while the conversation grows, and not from one request to the next.
      for (let turns = 1; turns <= foreign.length; turns++) {
        const before = idsIn(yield* bodyOf(make, moved(foreign.slice(0, turns))))
        assert.deepStrictEqual(before.calls, calls.slice(0, 2 * turns))
      }
    }), 20_000)

  it.effect("names that a vendor takes stay", () =>
    Effect.gen(function*() {
      for (const [name, make] of adapters) {
        if (name === "Vertex AI") continue
        const id = name === "Mistral" ? "abc123XYZ" : "call_abc-123"
        const { calls } = idsIn(yield* bodyOf(make, moved([id])))
        assert.strictEqual(calls[0]![0], id, name)
      }
      const { calls } = idsIn(yield* bodyOf(vllm, moved(["functions.ls:0"])))
      assert.strictEqual(calls[0]![0], "functions.ls:0")
    }))

  it.effect("a result without its call keeps to the rule too", () =>
    Effect.gen(function*() {
      const body = yield* bodyOf(mistral, {
        prompt: [{
          role: "tool",
          content: [{ type: "tool-result", id: "call_1", name: "ls", isFailure: false, result: "r" }]
        }]
      })
      assert.match(body.messages[0].tool_call_id, /^[a-zA-Z\d]{9}$/)
    }))
})

// -----------------------------------------------------------------------------
// B2, B3, B16
// -----------------------------------------------------------------------------

describe("B2: text is well-formed", () => {
  it.effect.each(adapters)("%s", ([, make]) =>
    Effect.gen(function*() {
      const half = "a\ud800b\udc00 😀 \\ud800"
      const body = yield* bodyOf(make, {
        system: half,
        prompt: [
          { role: "user", content: [{ type: "text", text: half }] },
          {
            role: "assistant",
            content: [
              { type: "text", text: half },
              { type: "tool-call", id: "c1", name: "f", params: { [half]: half } },
              { type: "tool-call", id: "c2", name: "f", params: `{"a":"\\ud800${half}"}` }
            ]
          },
          {
            role: "tool",
            content: [
              { type: "tool-result", id: "c1", name: "f", isFailure: false, result: { [half]: half } },
              { type: "tool-result", id: "c2", name: "f", isFailure: false, result: half }
            ]
          }
        ],
        tools: [{ name: "f", description: half, parameters: { type: "object", properties: { [half]: {} } } }],
        stop: [half]
      })
      let seen = 0
      for (const [key, value] of values(body)) {
        assert.isTrue((key as any).isWellFormed(), key)
        if (typeof value !== "string") continue
        assert.isTrue((value as any).isWellFormed(), value)
        if (value.includes("a\ufffdb\ufffd 😀 \\ud800")) seen++
      }
      assert.isAtLeast(seen, 4)
    }))
})

describe("B3: what Anthropic refuses in a turn", () => {
  it.effect("blank blocks, white space at the end of a start, results that are not first", () =>
    Effect.gen(function*() {
      const result = { type: "tool-result", id: "c", name: "f", isFailure: false, result: 1 } as const
      const body = yield* bodyOf(anthropic, {
        system: " \n",
        prompt: [
          { role: "user", content: "Hi" },
          {
            role: "assistant",
            content: [{ type: "text", text: " \n" }, { type: "tool-call", id: "c", name: "f", params: {} }]
          },
          { role: "user", content: "By the way" },
          { role: "tool", content: [result] },
          { role: "assistant", content: "\t" },
          { role: "user", content: [{ type: "text", text: "" }, { type: "text", text: "Go on" }] },
          { role: "assistant", content: "The answer is \n " }
        ]
      })
      assert.notProperty(body, "system")
      assert.deepStrictEqual(body.messages, [
        { role: "user", content: [{ type: "text", text: "Hi" }] },
        { role: "assistant", content: [{ type: "tool_use", id: "c", name: "f", input: {} }] },
        {
          role: "user",
          content: [
            { type: "tool_result", tool_use_id: "c", content: "1" },
            { type: "text", text: "By the way" },
            { type: "text", text: "Go on" }
          ]
        },
        { role: "assistant", content: [{ type: "text", text: "The answer is" }] }
      ])
    }))
})

describe("B3: what Bedrock refuses in a turn", () => {
  it.effect("the same", () =>
    Effect.gen(function*() {
      const body = yield* bodyOf(Bedrock.make({ region: "eu-central-1", apiKey, defaultModel: "m" }), {
        system: " ",
        prompt: [
          { role: "user", content: "Hi" },
          {
            role: "assistant",
            content: [{ type: "text", text: " \n" }, { type: "tool-call", id: "c", name: "f", params: {} }]
          },
          { role: "user", content: "By the way" },
          { role: "tool", content: [{ type: "tool-result", id: "c", name: "f", isFailure: false, result: 1 }] },
          { role: "assistant", content: "The answer is \n " }
        ]
      })
      assert.notProperty(body, "system")
      assert.deepStrictEqual(body.messages, [
        { role: "user", content: [{ text: "Hi" }] },
        { role: "assistant", content: [{ toolUse: { toolUseId: "c", name: "f", input: {} } }] },
        {
          role: "user",
          content: [{ toolResult: { toolUseId: "c", content: [{ text: "1" }] } }, { text: "By the way" }]
        },
        { role: "assistant", content: [{ text: "The answer is" }] }
      ])
    }))
})

describe("results stand right behind their calls, in their order", () => {
  const result = (id: string) => ({ type: "tool-result", id, name: "f", isFailure: false, result: id }) as const
  const calls = ["a", "b"].map((id) => ({ type: "tool-call", id, name: "f", params: {} }) as const)
  const input: LlmRequest.Input = {
    prompt: [
      { role: "user", content: "Hi" },
      { role: "assistant", content: calls },
      { role: "user", content: "Still there?" },
      { role: "tool", content: [result("b")] },
      { role: "tool", content: [result("a")] },
      { role: "assistant", content: "Done." },
      { role: "user", content: "Thanks" }
    ]
  }
  const ordered: LlmRequest.Input = {
    prompt: [
      { role: "user", content: "Hi" },
      { role: "assistant", content: calls },
      { role: "tool", content: [result("a"), result("b")] },
      { role: "user", content: "Still there?" },
      { role: "assistant", content: "Done." },
      { role: "user", content: "Thanks" }
    ]
  }
  it.effect.each(adapters)("%s", ([, make]) =>
    Effect.gen(function*() {
      assert.deepStrictEqual(yield* bodyOf(make, input), yield* bodyOf(make, ordered))
    }))
})

describe("arguments that are no JSON go along", () => {
  it.effect("messages, Gemini, Ollama: under a name of their own", () =>
    Effect.gen(function*() {
      const input: LlmRequest.Input = {
        prompt: [{ role: "assistant", content: [{ type: "tool-call", id: "c", name: "f", params: "{\"a\":" }] }]
      }
      for (const make of [anthropic, gemini, ollama]) {
        assert.include(JSON.stringify(yield* bodyOf(make, input)), JSON.stringify({ arguments: "{\"a\":" }))
      }
    }))
})

describe("B13: a turn of another vendor's that called tools", () => {
  it.effect("gets an empty reasoning where the vendor insists on one", () =>
    Effect.gen(function*() {
      const input: LlmRequest.Input = {
        prompt: [{ role: "assistant", content: [{ type: "tool-call", id: "c", name: "f", params: {} }] }]
      }
      for (const preset of [presets.deepseek, presets.moonshot]) {
        const body = yield* bodyOf(OpenAiCompatible.make(preset({ apiKey, defaultModel: "m" })), input)
        assert.strictEqual(body.messages[0].reasoning_content, "")
      }
      assert.notProperty((yield* bodyOf(mistral, input)).messages[0], "reasoning_content")
    }))
})

describe("B16: schemas of tools are objects with properties", () => {
  it.effect.each(adapters)("%s", ([, make]) =>
    Effect.gen(function*() {
      const union = { anyOf: [{ type: "object", properties: {} }] }
      const body = yield* bodyOf(make, {
        prompt: "Hi",
        tools: [
          { name: "a", parameters: { type: "object" } },
          { name: "b", parameters: {} },
          { name: "c", parameters: { properties: { x: {} } } },
          { name: "d", parameters: union }
        ]
      })
      const schemas = [...values(body)].flatMap(([key, value]) =>
        ["parameters", "input_schema", "parametersJsonSchema", "json"].includes(key) ? [value] : []
      )
      const empty = { type: "object", properties: {} }
      assert.deepStrictEqual(schemas, [empty, empty, { type: "object", properties: { x: {} } }, union])
    }))
})

// -----------------------------------------------------------------------------
// B13, B15, B18
// -----------------------------------------------------------------------------

describe("B13: marks go back to their vendor alone", () => {
  const deepseek: Make = OpenAiCompatible.make(presets.deepseek({ apiKey, defaultModel: "m" }))
  const deepseekEu: Make = OpenAiCompatible.make(presets.deepseek({ id: "deepseek-eu", apiKey, defaultModel: "m" }))
  const openrouter: Make = OpenAiCompatible.make(presets.openrouter({ apiKey }))
  const details = [{ type: "reasoning.text", index: 0, text: "Hm", signature: "sig" }]
  const extraContent = { google: { thought_signature: "sig" } }
  const turn = (
    call: boolean,
    options: Record<string, any>,
    callOptions: Record<string, any> = {}
  ): LlmRequest.Input => ({
    prompt: [
      { role: "user", content: "Hi" },
      {
        role: "assistant",
        content: [
          { type: "reasoning", text: "Hm", options },
          { type: "text", text: "Hi" },
          ...call ? [{ type: "tool-call", id: "c", name: "f", params: {}, options: callOptions } as const] : []
        ]
      }
    ]
  })
  const assistant = (make: Make, input: LlmRequest.Input) => Effect.map(bodyOf(make, input), (body) => body.messages[1])
  const marks = { deepseek: { field: "reasoning_content" } }

  it.effect("DeepSeek's reasoning, with a turn that called tools", () =>
    Effect.gen(function*() {
      assert.strictEqual((yield* assistant(deepseek, turn(true, marks))).reasoning_content, "Hm")
      assert.strictEqual((yield* assistant(deepseekEu, turn(true, marks))).reasoning_content, "Hm")
      assert.notProperty(yield* assistant(deepseek, turn(false, marks)), "reasoning_content")
      for (const make of [openAi, compatible, mistral, openrouter, cohere, ollama]) {
        const told = JSON.stringify(yield* assistant(make, turn(true, marks)))
        assert.isFalse(/Hm|reasoning/.test(told), told)
      }
      // Nothing but the fields that are known.
      const odd = turn(true, { deepseek: { field: "role" } })
      assert.strictEqual((yield* assistant(deepseek, odd)).role, "assistant")
    }))

  it.effect("OpenRouter's details", () =>
    Effect.gen(function*() {
      const input = turn(false, { openrouter: { reasoningDetails: details } })
      assert.deepStrictEqual((yield* assistant(openrouter, input)).reasoning_details, details)
      for (const make of [openAi, deepseek, compatible]) {
        assert.notProperty(yield* assistant(make, input), "reasoning_details")
      }
    }))

  it.effect("signatures of calls at Gemini's OpenAI endpoint", () =>
    Effect.gen(function*() {
      const input = turn(true, {}, { "openai-compatible": { extraContent } })
      assert.deepStrictEqual((yield* assistant(compatible, input)).tool_calls[0].extra_content, extraContent)
      for (const make of [openAi, deepseek, cohere]) {
        assert.notProperty((yield* assistant(make, input)).tool_calls[0], "extra_content")
      }
    }))
})

describe("B15: Vertex AI behind a server that knows one version", () => {
  it.effect("the version is an option", () =>
    Effect.gen(function*() {
      const at = { project: "p", location: "global", accessToken: apiKey }
      const { url } = yield* sent(Gemini.make({ vertex: { ...at, apiVersion: "v1" } }), "Hi")
      assert.match(url, /googleapis\.com\/v1\/projects\/p\//)
      const wrong = yield* Effect.flip(connect(Gemini.make({ vertex: { ...at, apiVersion: "../v1" } }), serve({})))
      assert.strictEqual(wrong.path, "gemini.vertex.apiVersion")
    }))
})

describe("B18: Anthropic with thinking, in a turn that began without", () => {
  const model = "claude-haiku-4-5"
  const loop = (options: Record<string, any> | undefined, text = "Hm"): LlmRequest.Input => ({
    model,
    reasoningEffort: "low",
    prompt: [
      { role: "user", content: "Hi" },
      {
        role: "assistant",
        content: [
          ...options === undefined ? [] : [{ type: "reasoning", text, options } as const],
          { type: "tool-call", id: "c", name: "f", params: {} }
        ]
      },
      { role: "tool", content: [{ type: "tool-result", id: "c", name: "f", isFailure: false, result: 1 }] }
    ]
  })
  const own = { anthropic: { signature: "sig" } }
  const thinking = { type: "enabled", budget_tokens: 2048 }

  it.effect("thinking is left out for this turn, and said so", () =>
    Effect.gen(function*() {
      for (
        const [input, expected] of [
          [loop(own), thinking],
          [loop(undefined), undefined],
          [loop({ openai: { encryptedContent: "x" } }), undefined],
          // The next turn thinks again.
          [
            {
              ...loop(undefined),
              prompt: [...loop(undefined).prompt as [], { role: "assistant", content: "Done." }, {
                role: "user",
                content: "And now?"
              }]
            },
            thinking
          ]
        ] as ReadonlyArray<readonly [LlmRequest.Input, unknown]>
      ) {
        assert.deepStrictEqual((yield* bodyOf(anthropic, input)).thinking, expected)
        const changes = yield* changesOf(anthropic, input)
        assert.deepStrictEqual(
          changes,
          expected === undefined ? [{ field: "reasoningEffort", action: "dropped" }] : []
        )
      }
      // What a user says before the results stands behind them, and changes nothing.
      const prompt = loop(undefined).prompt as ReadonlyArray<any>
      const between = { ...loop(undefined), prompt: [...prompt.slice(0, 2), { role: "user", content: "?" }, prompt[2]] }
      assert.notProperty(yield* bodyOf(anthropic, between), "thinking")
      assert.strictEqual((yield* changesOf(anthropic, between)).length, 1)
      const { reasoningEffort: _, ...rest } = loop(undefined)
      const asked = { ...rest, providerOptions: { anthropic: { thinking, service_tier: "auto" } } }
      const body = yield* bodyOf(anthropic, asked)
      assert.deepStrictEqual([body.thinking, body.service_tier], [undefined, "auto"])
      assert.deepStrictEqual(yield* changesOf(anthropic, asked), [
        { field: "providerOptions.anthropic.thinking", action: "dropped" }
      ])
    }))

  it.effect("what the API refuses beside thinking is left out", () =>
    Effect.gen(function*() {
      const input: LlmRequest.Input = {
        prompt: "Hi",
        model,
        reasoningEffort: "high",
        temperature: 0.5,
        topK: 5,
        topP: 0.5,
        tools: [{ name: "f", parameters: {} }],
        toolChoice: "required"
      }
      const body = yield* bodyOf(anthropic, input)
      assert.deepStrictEqual(body.thinking, { type: "enabled", budget_tokens: 6144 }) // of 8192
      assert.deepStrictEqual([body.temperature, body.top_k, body.top_p, body.tool_choice], [
        undefined,
        undefined,
        undefined,
        { type: "auto" }
      ])
      const fields = (yield* changesOf(anthropic, input)).map(({ field }) => field)
      assert.deepStrictEqual(fields.toSorted(), ["temperature", "toolChoice", "topK", "topP"])
      const newer = yield* bodyOf(anthropic, { ...input, model: "claude-opus-4-7", reasoningEffort: "xhigh" })
      assert.deepStrictEqual([newer.thinking, newer.output_config], [{ type: "adaptive" }, { effort: "high" }])
      const none = yield* bodyOf(anthropic, { prompt: "Hi", reasoningEffort: "none", temperature: 0.5 })
      assert.deepStrictEqual([none.thinking, none.temperature], [{ type: "disabled" }, 0.5])
      const small = { prompt: "Hi", reasoningEffort: "high", maxTokens: 1000 } as const
      assert.notProperty(yield* bodyOf(anthropic, small), "thinking")
      assert.deepStrictEqual(yield* changesOf(anthropic, small), [{ field: "reasoningEffort", action: "dropped" }])
    }))
})

// -----------------------------------------------------------------------------
// fields
// -----------------------------------------------------------------------------

const schema = { type: "object", properties: { a: { type: "string" } }, required: ["a"], additionalProperties: false }
const tools = [{ name: "f", parameters: schema }, { name: "g", parameters: schema }]

/** A value of every field that a vendor may have no place for. */
const asked: ReadonlyArray<readonly [field: string, input: Partial<LlmRequest.Input>]> = [
  ["stop", { stop: ["END"] }],
  ["seed", { seed: 7 }],
  ["temperature", { temperature: 1.5 }],
  ["temperature", { temperature: 0.5 }],
  ["topP", { topP: 0.9 }],
  ["topP", { topP: 1 }],
  ["topK", { topK: 40 }],
  ["presencePenalty", { presencePenalty: 0.5 }],
  ["presencePenalty", { presencePenalty: -1 }],
  ["frequencyPenalty", { frequencyPenalty: 0.5 }],
  ["frequencyPenalty", { frequencyPenalty: 1.5 }],
  ["reasoningEffort", { reasoningEffort: "none" }],
  ["reasoningEffort", { reasoningEffort: "minimal" }],
  ["reasoningEffort", { reasoningEffort: "medium" }],
  ["reasoningEffort", { reasoningEffort: "xhigh" }],
  ["responseFormat", { responseFormat: { type: "json" } }],
  ["responseFormat", { responseFormat: { type: "json", schema } }],
  ["toolChoice", { tools, toolChoice: "required" }],
  ["toolChoice", { tools, toolChoice: "none" }],
  ["toolChoice", { tools, toolChoice: { tool: "f" } }]
]

describe("fields: what is not sent as it is asked is told", () => {
  it.effect.each(adapters)(
    "%s: a system message in the middle is in its place, or is told as moved",
    ([name, make]) =>
      Effect.gen(function*() {
        const said = (content: string) => ({ role: "user", content }) as const
        const system = { role: "system", content: "Be brief." } as const
        const prompt = [said("One"), system, said("Two")]
        const { messages = [], input = messages } = yield* bodyOf(make, { prompt })
        const isInPlace = input.some(({ role }: { readonly role: string }) => role === "system")
        const moved: Change = { field: "prompt.system", action: "substituted", detail: "at the start" }
        assert.deepStrictEqual(yield* changesOf(make, { prompt }), isInPlace ? [] : [moved], name)
        for (const prompt of [[system, system, said("One")], [said("One"), { role: "system", content: "" } as const]]) {
          assert.deepStrictEqual(yield* changesOf(make, { prompt }), [], name)
        }
      })
  )

  it.effect.each(adapters)(
    "%s: each field changes the body, or is told as dropped",
    ([name, make]) =>
      Effect.gen(function*() {
        for (const [field, input] of asked) {
          const hint = `${name} ${JSON.stringify(input)}`
          const without = yield* bodyOf(make, { prompt: "Hi", ...input, [field]: undefined })
          const body = yield* bodyOf(make, { prompt: "Hi", ...input })
          const changes = yield* changesOf(make, { prompt: "Hi", ...input })
          const isSent = JSON.stringify(body) !== JSON.stringify(without)
          const dropped = changes.filter(({ action }) => action === "dropped").map(({ field }) => field)
          assert.deepStrictEqual(dropped, isSent ? [] : [field], hint)
          assert.isTrue(changes.every((change) => change.field === field), hint)
          for (const { action, detail } of changes) if (action === "substituted") assert.isString(detail, hint)
        }
        assert.deepStrictEqual(yield* changesOf(make, { prompt: "Hi" }), [])
        assert.deepStrictEqual(
          yield* changesOf(make, {
            prompt: "Hi",
            stop: [],
            tools: [],
            toolChoice: "required",
            responseFormat: { type: "text" }
          }),
          []
        )
      })
  )

  const names: Readonly<Record<string, ReadonlyArray<readonly [input: Partial<LlmRequest.Input>, body: object]>>> = {
    "OpenAI chat": [
      [{ presencePenalty: 0.5, frequencyPenalty: -0.5 }, { presence_penalty: 0.5, frequency_penalty: -0.5 }],
      [{ reasoningEffort: "xhigh" }, { reasoning_effort: "xhigh" }]
    ],
    vLLM: [[{ topK: 40 }, { top_k: 40 }]],
    responses: [[{ reasoningEffort: "low" }, { reasoning: { effort: "low" } }]],
    messages: [[{ topK: 40 }, { top_k: 40 }]],
    Cohere: [
      [{ topK: 40, presencePenalty: 0.5, topP: 1 }, { k: 40, presence_penalty: 0.5, p: 0.99 }],
      [{ reasoningEffort: "low" }, { thinking: { type: "enabled", token_budget: 2048 } }],
      [{ reasoningEffort: "none" }, { thinking: { type: "disabled" } }]
    ],
    Gemini: [
      [{ topK: 40, presencePenalty: 1, frequencyPenalty: -1 }, {
        generationConfig: { topK: 40, presencePenalty: 1, frequencyPenalty: -1 }
      }],
      [{ reasoningEffort: "low" }, { generationConfig: { thinkingConfig: { thinkingBudget: 2048 } } }],
      [{ reasoningEffort: "none" }, { generationConfig: { thinkingConfig: { thinkingBudget: 0 } } }],
      [{ reasoningEffort: "low", model: "gemini-3-pro" }, {
        generationConfig: { thinkingConfig: { thinkingLevel: "low" } }
      }]
    ],
    Ollama: [
      [{ topK: 40, presencePenalty: 1, frequencyPenalty: -1 }, {
        options: { top_k: 40, presence_penalty: 1, frequency_penalty: -1 }
      }],
      [{ reasoningEffort: "low" }, { think: "low" }],
      [{ reasoningEffort: "none" }, { think: false }]
    ]
  }
  it.effect.each(adapters.filter(([name]) => names[name] !== undefined))(
    "%s: by its own names",
    ([name, make]) =>
      Effect.gen(function*() {
        const { messages: _, ...least } = yield* bodyOf(make, { prompt: "Hi" })
        for (const [input, expected] of names[name]!) {
          const body = yield* bodyOf(make, { prompt: "Hi", ...input })
          for (const [key, value] of Object.entries(expected)) {
            assert.deepStrictEqual(body[key], value, JSON.stringify(input))
          }
          assert.deepStrictEqual(
            Object.keys(body).toSorted(),
            [
              ...new Set([
                ...Object.keys(least),
                ...Object.keys(expected),
                ...body.messages === undefined ? [] : ["messages"]
              ])
            ]
              .toSorted()
          )
        }
      })
  )

  it.effect("messages: JSON without a schema is an instruction", () =>
    Effect.gen(function*() {
      const input = { system: "Be brief.", prompt: "Hi", responseFormat: { type: "json" } } as const
      const { system } = yield* bodyOf(anthropic, input)
      assert.strictEqual(system.length, 2)
      assert.match(system[1].text, /JSON/)
      assert.deepStrictEqual(yield* changesOf(anthropic, input), [
        { field: "responseFormat", action: "substituted", detail: "as an instruction" }
      ])
    }))

  it.effect("files that a vendor cannot take, and those in other places", () =>
    Effect.gen(function*() {
      const user = (mediaType: string, data: string): LlmRequest.Input => ({
        prompt: [{ role: "user", content: [{ type: "file", mediaType, data }] }]
      })
      const unsupported: ReadonlyArray<Change> = [{ field: "prompt.file", action: "unsupported" }]
      for (
        const [make, input] of [
          [openAi, user("application/pdf", "https://a.test/a.pdf")],
          [responses, user("audio/wav", "AQID")],
          [anthropic, user("audio/wav", "AQID")],
          [cohere, user("application/pdf", "AQID")],
          [ollama, user("image/png", "https://a.test/a.png")]
        ] as ReadonlyArray<readonly [Make, LlmRequest.Input]>
      ) {
        assert.deepStrictEqual(yield* changesOf(make, input), unsupported)
        assert.deepStrictEqual(yield* changesOf(make, { ...input, reasoningEffort: "low" }), unsupported)
        const { error, json } = yield* sent(make, input)
        assert.deepStrictEqual([error.reason._tag, json], ["InvalidRequest", undefined])
      }
      for (const [, make] of adapters) assert.deepStrictEqual(yield* changesOf(make, user("image/png", "AQID")), [])
      const told: LlmRequest.Input = {
        prompt: [
          {
            role: "assistant",
            content: [
              { type: "file", mediaType: "image/png", data: "AQID" },
              { type: "tool-call", id: "s", name: "web_search", params: {}, providerExecuted: true },
              { type: "tool-call", id: "c", name: "f", params: {} }
            ]
          },
          {
            role: "tool",
            content: [{
              type: "tool-result",
              id: "c",
              name: "f",
              isFailure: false,
              result: 1,
              modelOutput: [{ type: "file", mediaType: "image/png", data: "AQID" }]
            }]
          }
        ]
      }
      const dropped = (...fields: ReadonlyArray<string>) => fields.map((field) => ({ field, action: "dropped" }))
      const all = dropped("prompt.file", "prompt.providerExecuted", "prompt.toolResult.file")
      for (const make of [openAi, cohere, ollama]) assert.deepStrictEqual<unknown>(yield* changesOf(make, told), all)
      for (const make of [responses, anthropic]) {
        assert.deepStrictEqual<unknown>(yield* changesOf(make, told), all.slice(0, 2))
      }
      assert.deepStrictEqual<unknown>(yield* changesOf(gemini, told), dropped("prompt.providerExecuted"))
    }))

  it.effect("tools of a vendor's own", () =>
    Effect.gen(function*() {
      const tool = (id: string, args?: Record<string, unknown>): LlmRequest.Input => ({
        prompt: "Hi",
        tools: [{ name: "own", parameters: {}, provider: { id, ...(args === undefined ? undefined : { args }) } }]
      })
      const search = tool("openai.web_search", { search_context_size: "low" })
      assert.deepStrictEqual((yield* bodyOf(responses, search)).tools, [{
        type: "web_search",
        search_context_size: "low"
      }])
      const dated = tool("anthropic.web_search_20250305", { max_uses: 2 })
      assert.deepStrictEqual((yield* bodyOf(anthropic, dated)).tools, [{
        type: "web_search_20250305",
        name: "web_search",
        max_uses: 2
      }])
      assert.deepStrictEqual((yield* bodyOf(gemini, tool("google.google_search"))).tools, [{ googleSearch: {} }])
      for (
        const [make, input] of [[anthropic, search], [responses, dated], [openAi, search], [cohere, dated]] as const
      ) {
        assert.deepStrictEqual(yield* changesOf(make, input), [{ field: "tools", action: "unsupported" }])
        const { error, json } = yield* sent(make, input)
        assert.deepStrictEqual([error.reason._tag, json], ["InvalidRequest", undefined])
      }
    }))
})

describe("a vendor's own options", () => {
  it.effect("are merged last, objects into objects, for their vendor alone", () =>
    Effect.gen(function*() {
      const providerOptions = {
        openai: { temperature: 0.1, store: true, metadata: { a: "b" } },
        anthropic: { service_tier: "auto" },
        google: { generationConfig: { responseModalities: ["IMAGE"] } },
        cohere: { safety_mode: "OFF" },
        ollama: { options: { num_ctx: 4096 } },
        mistral: { safe_prompt: true },
        "openai-compatible": { guided_json: {} }
      }
      const input = { prompt: "Hi", temperature: 0.7, maxTokens: 9, providerOptions } as const
      const has = (body: any) =>
        ["store", "service_tier", "safety_mode", "safe_prompt", "guided_json"].filter((k) => k in body)
      const chat = yield* bodyOf(openAi, input)
      assert.deepStrictEqual([chat.temperature, chat.metadata, has(chat)], [0.1, { a: "b" }, ["store"]])
      assert.deepStrictEqual(has(yield* bodyOf(responses, input)), ["store"])
      assert.deepStrictEqual(has(yield* bodyOf(anthropic, input)), ["service_tier"])
      assert.deepStrictEqual(has(yield* bodyOf(cohere, input)), ["safety_mode"])
      assert.deepStrictEqual(has(yield* bodyOf(mistral, input)), ["safe_prompt"])
      assert.deepStrictEqual(has(yield* bodyOf(compatible, input)), ["guided_json"])
      assert.deepStrictEqual((yield* bodyOf(gemini, input)).generationConfig, {
        maxOutputTokens: 9,
        temperature: 0.7,
        responseModalities: ["IMAGE"]
      })
      assert.deepStrictEqual((yield* bodyOf(ollama, input)).options, {
        num_predict: 9,
        temperature: 0.7,
        num_ctx: 4096
      })
      const odd = JSON.parse("{\"openai\":{\"__proto__\":{\"a\":1}}}")
      const body = yield* bodyOf(openAi, { prompt: "Hi", providerOptions: odd })
      assert.strictEqual(body.a, undefined)
    }))
})

describe("the request", () => {
  it.effect("`system` is a message before the prompt", () =>
    Effect.gen(function*() {
      const request = yield* LlmRequest.make({ system: "Be brief.", prompt: "Hi" })
      assert.deepStrictEqual(request.prompt.map(({ content, role }) => [role, content]), [["system", "Be brief."], [
        "user",
        "Hi"
      ]])
      assert.notProperty(request, "system")
      const same = yield* LlmRequest.make({
        prompt: [{ role: "system", content: "Be brief." }, { role: "user", content: "Hi" }]
      })
      assert.deepStrictEqual(
        yield* bodyOf(openAi, { system: "Be brief.", prompt: "Hi" }),
        yield* bodyOf(openAi, same as any)
      )
      for (const system of ["", 7, null]) {
        const error = yield* Effect.flip(LlmRequest.make({ system: system as never, prompt: "Hi" }))
        assert.strictEqual(error.path, "system")
      }
    }))

  it.effect("new fields are checked, and belong to the identity", () =>
    Effect.gen(function*() {
      const identities = new Set<string>()
      const inputs: ReadonlyArray<Partial<LlmRequest.Input>> = [
        {},
        { topK: 1 },
        { presencePenalty: 1 },
        { frequencyPenalty: 1 },
        { reasoningEffort: "low" },
        { reasoningEffort: "high" },
        { providerOptions: { openai: { a: 1 } } },
        { providerOptions: { anthropic: { a: 1 } } },
        { system: "S" }
      ]
      for (const input of inputs) {
        identities.add(LlmRequest.identity(yield* LlmRequest.make({ prompt: "Hi", ...input })))
      }
      assert.strictEqual(identities.size, inputs.length)
      const order = (options: Record<string, unknown>) =>
        Effect.map(LlmRequest.make({ prompt: "Hi", providerOptions: { openai: options } }), LlmRequest.identity)
      assert.strictEqual(yield* order({ a: 1, b: 2 }), yield* order({ b: 2, a: 1 }))
      for (
        const [input, path] of [
          [{ topK: 0 }, "topK"],
          [{ presencePenalty: 3 }, "presencePenalty"],
          [{ frequencyPenalty: -3 }, "frequencyPenalty"],
          [{ reasoningEffort: "extreme" }, "reasoningEffort"],
          [{ providerOptions: { openai: 1 } }, "providerOptions.openai"],
          [{ providerOptions: { openai: { a: 1n } } }, "providerOptions.openai.a"]
        ] as const
      ) {
        const error = yield* Effect.flip(LlmRequest.make({ prompt: "Hi", ...input } as never))
        assert.strictEqual(error.path, path)
      }
    }))
})
