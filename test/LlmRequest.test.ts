import { assert, describe, it } from "@effect/vitest"
import { Effect, Schema } from "effect"
import { LlmProvider, LlmRequest, LlmResponse } from "effect-resilient-llm"
import { Prompt, Tool, Toolkit } from "effect/ai"

const usage = { inputTokens: {}, outputTokens: {} }

describe("tools of effect/ai", () => {
  const Weather = Tool.make("Weather", {
    description: "The temperature in a city",
    parameters: Schema.Struct({ city: Schema.String })
  })
  const plain = { name: "plain", parameters: { type: "object" } }

  it.effect("stand beside plain definitions, and a toolkit for all of its own", () =>
    Effect.gen(function*() {
      const mixed = yield* LlmRequest.make({ prompt: "Hi", tools: [Weather, plain] })
      assert.deepStrictEqual(mixed.tools?.map((tool) => [tool.name, tool.description]), [
        ["Weather", "The temperature in a city"],
        ["plain", undefined]
      ])
      assert.deepStrictEqual(mixed.tools?.[0]?.parameters["properties"], { city: { type: "string" } })
      const kit = yield* LlmRequest.make({ prompt: "Hi", tools: Toolkit.make(Weather) })
      assert.deepStrictEqual(kit.tools, [mixed.tools![0]!])
      assert.deepStrictEqual(JSON.parse(JSON.stringify(kit)), kit)
    }))

  it.effect("make the same question however they were written", () =>
    Effect.gen(function*() {
      const a = yield* LlmRequest.make({ prompt: "Hi", tools: [Weather] })
      const b = yield* LlmRequest.make({ prompt: "Hi", tools: Toolkit.make(Weather) })
      assert.strictEqual(LlmRequest.identity(a), LlmRequest.identity(b))
    }))

  it.effect("what is no tool is named", () =>
    Effect.gen(function*() {
      const error = yield* Effect.flip(LlmRequest.make({ prompt: "Hi", tools: [Weather, { name: "" }] as never }))
      assert.strictEqual(error.path, "tools[1].name")
    }))
})

describe("a prompt", () => {
  it.effect("of effect/ai may be empty; a list of no messages is a mistake", () =>
    Effect.gen(function*() {
      assert.deepStrictEqual((yield* LlmRequest.make({ prompt: Prompt.empty })).prompt, [])
      assert.strictEqual((yield* Effect.flip(LlmRequest.make({ prompt: [] }))).path, "prompt")
    }))

  it.effect("loses what effect/ai notes in it for itself, in messages and parts, and nothing else", () =>
    Effect.gen(function*() {
      const options = { "effect/ai/Chat/Persisted": { messageId: "random" }, anthropic: { signature: "s" } }
      const { prompt } = yield* LlmRequest.make({
        prompt: [
          { role: "system", content: "Be brief.", options },
          { role: "user", content: [{ type: "text", text: "Hi", options }], options },
          { role: "tool", content: [{ type: "tool-result", id: "1", name: "t", result: options, isFailure: false }] }
        ]
      })
      assert.deepStrictEqual(
        prompt.slice(0, 2).map((message) => message.options),
        [{ anthropic: { signature: "s" } }, { anthropic: { signature: "s" } }]
      )
      const [, user, tool] = prompt
      assert.deepInclude(user?.content[0], { options: { anthropic: { signature: "s" } } })
      // A result is the program's own data.
      assert.deepInclude(tool?.content[0], { result: options })
    }))
})

describe("the next turn", () => {
  const parts: ReadonlyArray<LlmResponse.Part> = [
    { type: "response-metadata", id: "r" },
    { type: "reasoning", text: "Hm.", metadata: { anthropic: { signature: "s" } } },
    { type: "text", text: "Let me see." },
    { type: "tool-call", id: "1", name: "t", params: { a: 1 }, metadata: { gemini: { thoughtSignature: "g" } } },
    { type: "tool-call", id: "2", name: "search", params: {}, providerExecuted: true },
    { type: "tool-result", id: "2", name: "search", result: { n: 1 }, isFailure: false, providerExecuted: true },
    { type: "source", sourceType: "url", id: "s", url: "https://example.com", title: "x" },
    { type: "file", mediaType: "image/png", data: "AAAA" },
    { type: "finish", reason: "tool-calls", usage }
  ]
  const response = LlmResponse.fromAnswer({ parts, target: "t", provider: "p" }, "provider", 0, [])

  it("has the answer as a message with every mark a provider needs back", () => {
    assert.deepStrictEqual(response.message, {
      role: "assistant",
      content: [
        { type: "reasoning", text: "Hm.", options: { anthropic: { signature: "s" } } },
        { type: "text", text: "Let me see." },
        { type: "tool-call", id: "1", name: "t", params: { a: 1 }, options: { gemini: { thoughtSignature: "g" } } },
        { type: "tool-call", id: "2", name: "search", params: {}, providerExecuted: true },
        { type: "tool-result", id: "2", name: "search", result: { n: 1 }, isFailure: false, providerExecuted: true },
        { type: "file", mediaType: "image/png", data: "AAAA" }
      ]
    })
  })

  it("is the same whether it was streamed", () => {
    const streamed = LlmResponse.toStreamParts(parts)
    const again = LlmResponse.fromAnswer({ parts: streamed, target: "t", provider: "p" }, "provider", 0, [])
    assert.deepStrictEqual(again.message, response.message)
  })

  it.effect("takes message and tool results as they are, and effect/ai's own prompts take them too", () =>
    Effect.gen(function*() {
      const result = LlmRequest.toolResult(response.toolCalls[0]!, { celsius: 21 })
      const messages = [{ role: "user", content: "Hi" } as const, response.message, result]
      const request = yield* LlmRequest.make({ prompt: messages })
      assert.strictEqual(request.prompt.length, 3)
      const concat = yield* LlmRequest.make({ prompt: Prompt.concat(Prompt.make("Hi"), [response.message, result]) })
      assert.deepStrictEqual(concat.prompt.slice(1), request.prompt.slice(1))
      assert.deepInclude(request.prompt[2]?.content[0], { id: "1", name: "t", isFailure: false })
    }))

  it.effect("reaches the provider whole", () =>
    Effect.gen(function*() {
      const seen: Array<LlmRequest.LlmRequest> = []
      const provider = LlmProvider.make({ id: "p", generate: (request) => Effect.sync(() => `${seen.push(request)}`) })
      yield* provider.generate(yield* LlmRequest.make({ prompt: ["x"].map(() => response.message) }))
      assert.include(JSON.stringify(seen[0]?.prompt), "thoughtSignature")
    }))
})
