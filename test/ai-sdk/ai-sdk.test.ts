// The real AI SDK against a real server.
import { createOpenAI } from "@ai-sdk/openai"
import {
  APICallError,
  type LanguageModelV4,
  type LanguageModelV4CallOptions,
  type LanguageModelV4StreamPart
} from "@ai-sdk/provider"
import { afterAll, assert, beforeAll, beforeEach, describe, it } from "@effect/vitest"
import { generateObject, generateText, isStepCount, streamText, tool, wrapLanguageModel } from "ai"
import { Effect, Exit, Scope } from "effect"
import { resilient, resilientMiddleware, resilientModels } from "effect-resilient-llm/ai-sdk"
import { createResilientLlm, type ResilientLlm, ResilientLlmError } from "effect-resilient-llm/promise"
import { FaultServer } from "effect-resilient-llm/testing"
import { z } from "zod"

const scope = Scope.makeUnsafe()
let first: FaultServer.FaultServer
let second: FaultServer.FaultServer
let llm: ResilientLlm

const options = {
  retry: { maxRetries: 2, baseDelay: 1 },
  cache: false,
  retryBudget: false,
  circuitBreaker: false
} as const

beforeAll(async () => {
  first = await Effect.runPromise(Scope.provide(FaultServer.make(), scope))
  second = await Effect.runPromise(Scope.provide(FaultServer.make(), scope))
  llm = createResilientLlm({
    ...options,
    providers: {
      openai: { apiKey: "k", baseUrl: first.openai },
      anthropic: { apiKey: "k", baseUrl: second.anthropic }
    }
  })
})
beforeEach(() => Effect.runPromise(Effect.andThen(first.reset, second.reset)))
afterAll(async () => {
  await llm.close()
  await Effect.runPromise(Scope.close(scope, Exit.void))
})

const play = (on: FaultServer.FaultServer, ...faults: ReadonlyArray<FaultServer.Fault>) =>
  Effect.runPromise(on.play(...faults))
const received = async (on: FaultServer.FaultServer) => (await Effect.runPromise(on.stats)).received

const rejection = async (promise: PromiseLike<unknown>): Promise<unknown> => {
  try {
    await promise
  } catch (error) {
    return error
  }
  return assert.fail("it did not reject")
}

const eventually = async (fact: () => Promise<boolean>) => {
  for (let i = 0; i < 400; i++) {
    if (await fact()) return
    await new Promise((resolve) => setTimeout(resolve, 5))
  }
  assert.fail("it never came true")
}

const weather = tool({
  description: "The temperature in a city",
  inputSchema: z.object({ city: z.string() }),
  execute: async ({ city }) => ({ city, celsius: 21 })
})

const models = () => [first, second].map((server) => createOpenAI({ apiKey: "k", baseURL: server.openai }).chat("gpt"))

// Both ways into the pipeline hold the same promises.
const ways: ReadonlyArray<readonly [string, () => LanguageModelV4]> = [
  ["resilient", () => resilient(llm)],
  ["resilientModels", () => resilientModels(models(), options)]
]

for (const [name, make] of ways) {
  describe(name, () => {
    it("generateText fails over, and says so", async () => {
      await play(first, ...Array.from({ length: 3 }, () => FaultServer.status(503)))
      await play(second, FaultServer.ok({ text: "Hello.", usage: { inputTokens: 7, outputTokens: 3 } }))
      const result = await generateText({ model: make(), prompt: "Hi", maxOutputTokens: 20 })
      assert.strictEqual(result.text, "Hello.")
      assert.strictEqual(result.finishReason, "stop")
      assert.deepStrictEqual([result.usage.inputTokens, result.usage.outputTokens], [7, 3])
      const facts = result.providerMetadata?.["effect-resilient-llm"]
      assert.deepInclude(facts, { source: "provider", attempts: 4 })
      assert.deepStrictEqual([await received(first), await received(second)], [3, 1])
    })

    it("streamText goes on at another provider before the first content", async () => {
      await play(first, ...Array.from({ length: 3 }, () => FaultServer.truncate({ afterChunks: 0 })))
      await play(second, FaultServer.ok({ chunks: ["One ", "two."] }))
      const result = streamText({ model: make(), prompt: "Hi" })
      const texts: Array<string> = []
      for await (const text of result.textStream) texts.push(text)
      assert.strictEqual(texts.join(""), "One two.")
      assert.strictEqual(await result.finishReason, "stop")
      assert.deepInclude((await result.providerMetadata)?.["effect-resilient-llm"], { source: "provider", attempts: 4 })
    })

    it("streamText tells of a break after the first content", async () => {
      await play(first, FaultServer.truncate({ chunks: ["One ", "two."], afterChunks: 1 }))
      const errors: Array<unknown> = []
      const result = streamText({ model: make(), prompt: "Hi", onError: ({ error }) => void errors.push(error) })
      let text = ""
      for await (const delta of result.textStream) text += delta
      assert.strictEqual(text, "One ")
      assert.isTrue(APICallError.isInstance(errors[0]))
      assert.deepInclude((errors[0] as APICallError).data, { code: "StreamInterrupted" })
    })

    it("generateObject gives a value by schema", async () => {
      await play(first, FaultServer.ok({ text: `{"city":"Berlin","celsius":21}` }))
      const { object } = await generateObject({
        model: make(),
        schema: z.object({ city: z.string(), celsius: z.number() }),
        prompt: "Berlin has 21 degrees."
      })
      assert.deepStrictEqual(object, { city: "Berlin", celsius: 21 })
      const [request] = await Effect.runPromise(first.requests)
      assert.include(JSON.stringify(request?.body), "json_schema")
    })

    it("a loop of tools goes through it, call by call", async () => {
      await play(
        first,
        FaultServer.status(503),
        FaultServer.ok({ toolCalls: [{ name: "weather", params: { city: "Berlin" } }] }),
        ...Array.from({ length: 3 }, () => FaultServer.status(503))
      )
      await play(second, FaultServer.ok({ text: "21 degrees." }))
      const result = await generateText({
        model: make(),
        prompt: "How warm is it in Berlin?",
        tools: { weather },
        stopWhen: isStepCount(3)
      })
      assert.strictEqual(result.text, "21 degrees.")
      assert.deepStrictEqual(result.steps[0]?.toolResults[0]?.output, { city: "Berlin", celsius: 21 })
      const [request] = await Effect.runPromise(second.requests)
      assert.include(JSON.stringify(request?.body), "celsius")
    })

    it("attempts are not multiplied, and errors carry code and ledger", async () => {
      await Effect.runPromise(first.always(FaultServer.status(503)))
      await Effect.runPromise(second.always(FaultServer.status(503)))
      const error = await rejection(generateText({ model: make(), prompt: "Hi", maxRetries: 5 }))
      assert.isTrue(APICallError.isInstance(error))
      const { cause, data, isRetryable } = error as APICallError
      assert.strictEqual(isRetryable, false)
      const facts = data as { readonly code: string; readonly ledger: ReadonlyArray<{ readonly _tag: string }> }
      assert.strictEqual(facts.code, "AllProvidersFailed")
      assert.strictEqual(facts.ledger.filter((event) => event._tag === "AttemptFailed").length, 6)
      assert.instanceOf(cause, ResilientLlmError)
      assert.deepStrictEqual([await received(first), await received(second)], [3, 3])
    })

    it("a message that says where the vendor's own words are is right", async () => {
      for (const server of [first, second]) {
        await Effect.runPromise(server.always(FaultServer.status(400, { reason: "InvalidRequest" })))
      }
      const error = await rejection(generateText({ model: make(), prompt: "Hi" })) as APICallError
      if (error.message.includes("own words")) assert.include(error.message, "`error.cause.details`")
      assert.isAbove((error.cause as ResilientLlmError).details.length, 0)
    })

    it("an abort ends the request, whole or streamed", async () => {
      await play(first, FaultServer.hang(), FaultServer.ok({ chunks: ["a", "b"], chunkDelayMillis: 60_000 }))
      const model = make()
      const controller = new AbortController()
      const pending = rejection(generateText({ model, prompt: "Hi", abortSignal: controller.signal }))
      await eventually(async () => (await Effect.runPromise(first.stats)).active === 1)
      controller.abort()
      assert.strictEqual(((await pending) as Error).name, "AbortError")
      await eventually(async () => (await Effect.runPromise(first.stats)).active === 0)

      const streaming = new AbortController()
      const { stream } = await model.doStream({
        prompt: [{ role: "user", content: [{ type: "text", text: "Hi" }] }],
        abortSignal: streaming.signal
      })
      const reader = stream.getReader()
      let part = await reader.read()
      while (part.value?.type !== "text-delta") part = await reader.read()
      streaming.abort()
      assert.strictEqual(
        ((await rejection((async () => {
          while (!(await reader.read()).done);
        })())) as Error).name,
        "AbortError"
      )
      await eventually(async () => (await Effect.runPromise(first.stats)).active === 0)
    })

    it("a stream that is cancelled closes its connection", async () => {
      await play(first, FaultServer.ok({ chunks: ["a", "b"], chunkDelayMillis: 60_000 }))
      const { stream } = await make().doStream({ prompt: [{ role: "user", content: [{ type: "text", text: "Hi" }] }] })
      const reader = stream.getReader()
      assert.strictEqual((await reader.read()).value?.type, "stream-start")
      await reader.cancel()
      await eventually(async () => (await Effect.runPromise(first.stats)).active === 0)
    })

    it("a stream that is cancelled while a read is under way closes its connection", async () => {
      await play(first, FaultServer.ok({ chunks: ["a", "b"], chunkDelayMillis: 60_000 }))
      const { stream } = await make().doStream({ prompt: [{ role: "user", content: [{ type: "text", text: "Hi" }] }] })
      const reader = stream.getReader()
      let read = await reader.read()
      while (read.value?.type !== "text-delta" || read.value.delta === "") read = await reader.read()
      const last = reader.read()
      await new Promise((resolve) => setTimeout(resolve, 20))
      await reader.cancel()
      assert.isTrue((await last).done)
      await eventually(async () => (await Effect.runPromise(first.stats)).active === 0)
    }, 10_000)
  })
}

describe("resilient", () => {
  it("takes our settings as defaults and per call", async () => {
    await play(first, FaultServer.ok({ text: "Once." }), FaultServer.ok({ text: "Twice." }))
    const model = resilient(llm, { model: "gpt-5", tenant: "acme" })
    assert.strictEqual(model.modelId, "gpt-5")
    const ask = () =>
      generateText({
        model,
        prompt: "Hi",
        providerOptions: { "effect-resilient-llm": { idempotencyKey: "order-17" } }
      })
    assert.deepStrictEqual([(await ask()).text, (await ask()).text], ["Once.", "Once."])
    const requests = await Effect.runPromise(first.requests)
    assert.strictEqual(requests.length, 1)
    assert.deepInclude(requests[0]?.body, { model: "gpt-5" })
  })

  it("tells the vendor the SDK's penalties and reasoning", async () => {
    await play(first, FaultServer.ok({ text: "Hi." }))
    await generateText({
      model: resilient(llm),
      prompt: "Hi",
      presencePenalty: 0.5,
      frequencyPenalty: 0.25,
      reasoning: "max"
    })
    const [request] = await Effect.runPromise(first.requests)
    assert.deepInclude(request?.body, { presence_penalty: 0.5, frequency_penalty: 0.25, reasoning_effort: "xhigh" })
  })

  it("warns of what a request cannot say", async () => {
    const { warnings } = await generateText({ model: resilient(llm), prompt: "Hi", headers: { "x-mine": "1" } })
    assert.isTrue(warnings?.some((warning) => warning.type === "unsupported" && warning.feature === "headers"))
    const flex = await generateText({
      model: resilient(llm),
      prompt: "Hi",
      providerOptions: { openai: { serviceTier: "flex" }, "effect-resilient-llm": { tenant: "a" } }
    })
    assert.deepStrictEqual(flex.warnings, [{ type: "unsupported", feature: "providerOptions.openai" }])
  })
})

describe("resilientModels", () => {
  it("gives each model a call's options as they are", async () => {
    const seen: Array<LanguageModelV4CallOptions> = []
    const spy: LanguageModelV4 = {
      specificationVersion: "v4",
      provider: "spy",
      modelId: "m",
      supportedUrls: {},
      doGenerate: async (call) => {
        seen.push(call)
        return {
          content: [
            { type: "text", text: "Hello.", citations: [], providerMetadata: { spy: { a: 1 } } },
            { type: "custom", kind: "spy.thing" },
            { type: "source", sourceType: "url", id: "s", url: "https://example.com" }
          ],
          finishReason: { unified: "stop", raw: "end_of_thought" },
          usage: {
            inputTokens: { total: 1, noCache: undefined, cacheRead: undefined, cacheWrite: undefined },
            outputTokens: { total: 1, text: undefined, reasoning: undefined },
            raw: { tokens: 2 }
          },
          providerMetadata: { spy: { tier: "flex" } },
          response: { id: "r", headers: { "x-a": "b" } },
          warnings: [{ type: "other", message: "spied" }]
        }
      },
      doStream: async (call) => {
        seen.push(call)
        const parts: ReadonlyArray<LanguageModelV4StreamPart> = [
          { type: "stream-start", warnings: [{ type: "other", message: "spied" }] },
          { type: "text-start", id: "0" },
          { type: "text-delta", id: "0", delta: "Hello." },
          { type: "text-end", id: "0", citations: [] },
          { type: "custom", kind: "spy.thing" },
          {
            type: "finish",
            finishReason: { unified: "stop", raw: "end_of_thought" },
            usage: {
              inputTokens: { total: 1, noCache: undefined, cacheRead: undefined, cacheWrite: undefined },
              outputTokens: { total: 1, text: undefined, reasoning: undefined },
              raw: { tokens: 2 }
            }
          }
        ]
        return { stream: new ReadableStream({ start: (c) => (parts.forEach((part) => c.enqueue(part)), c.close()) }) }
      }
    }
    const call: LanguageModelV4CallOptions = {
      prompt: [{ role: "user", content: [{ type: "text", text: "Hi" }] }],
      topK: 5,
      headers: { "x-mine": "1" },
      providerOptions: { spy: { deep: { er: true } } }
    }
    const model = resilientModels([spy], options)
    const result = await model.doGenerate(call)
    const { abortSignal: _, ...given } = seen[0]!
    assert.deepStrictEqual(given, call)
    // What effect/ai has no word for comes out as it went in.
    assert.deepStrictEqual(result.content, [
      { type: "text", text: "Hello.", citations: [], providerMetadata: { spy: { a: 1 } } },
      { type: "custom", kind: "spy.thing" },
      { type: "source", sourceType: "url", id: "s", url: "https://example.com" }
    ])
    assert.deepStrictEqual(result.finishReason, { unified: "stop", raw: "end_of_thought" })
    assert.deepStrictEqual(result.usage.raw, { tokens: 2 })
    assert.deepInclude(result.providerMetadata, { spy: { tier: "flex" } })
    assert.deepInclude(result.response, { id: "r", headers: { "x-a": "b" } })
    assert.deepInclude(result.warnings, { type: "other", message: "spied" })

    const { stream } = await model.doStream(call)
    const parts: Array<LanguageModelV4StreamPart> = []
    const reader = stream.getReader()
    for (let next = await reader.read(); !next.done; next = await reader.read()) parts.push(next.value)
    assert.deepStrictEqual(parts.map(({ type }) => type), [
      "stream-start",
      "text-start",
      "text-delta",
      "text-end",
      "custom",
      "finish"
    ])
    assert.deepInclude(parts[0], { warnings: [{ type: "other", message: "spied" }] })
    assert.deepInclude(parts[5], { finishReason: { unified: "stop", raw: "end_of_thought" } })
  })

  it("calls that differ in anything that reaches a model are two questions", async () => {
    let asked = 0
    const counting: LanguageModelV4 = {
      specificationVersion: "v4",
      provider: "counting",
      modelId: "m",
      supportedUrls: {},
      doGenerate: async () => ({
        content: [{ type: "text", text: `Answer ${++asked}` }],
        finishReason: { unified: "stop", raw: "stop" },
        usage: {
          inputTokens: { total: 1, noCache: undefined, cacheRead: undefined, cacheWrite: undefined },
          outputTokens: { total: 1, text: undefined, reasoning: undefined }
        },
        warnings: []
      }),
      doStream: () => assert.fail("nobody streams")
    }
    await using model = resilientModels([counting], { cache: { readThrough: true }, settings: { cache: "always" } })
    const hi = { type: "text", text: "Hi" } as const
    const base: LanguageModelV4CallOptions = { prompt: [{ role: "user", content: [hi] }] }
    const kept = (reference: string): LanguageModelV4CallOptions["prompt"] => [{
      role: "user",
      content: [hi, { type: "file", mediaType: "image/png", data: { type: "reference", reference: { v: reference } } }]
    }]
    const calls: ReadonlyArray<LanguageModelV4CallOptions> = [
      base,
      { ...base, temperature: 0.2 },
      { ...base, temperature: 0.3 },
      { ...base, providerOptions: { openai: { serviceTier: "flex" } } },
      { ...base, providerOptions: { openai: { serviceTier: "default" } } },
      { ...base, headers: { "anthropic-beta": "a" } },
      { ...base, reasoning: "max" },
      { ...base, reasoning: "xhigh" },
      { prompt: kept("file-1") },
      { prompt: kept("file-2") }
    ]
    const answers: Array<unknown> = []
    const ask = async (call: LanguageModelV4CallOptions) => {
      const { content, providerMetadata } = await model.doGenerate({
        ...call,
        abortSignal: new AbortController().signal
      })
      return [content[0], providerMetadata?.["effect-resilient-llm"]?.["source"]]
    }
    for (const call of calls) answers.push(await ask(call))
    assert.strictEqual(asked, calls.length)
    // The order of an object's keys says nothing, and neither does a signal.
    for (const [i, call] of calls.entries()) {
      const turned = Object.fromEntries(Object.entries(call).toReversed()) as unknown as LanguageModelV4CallOptions
      assert.deepStrictEqual(await ask(turned), [(answers[i] as ReadonlyArray<unknown>)[0], "cache"])
    }
    assert.strictEqual(asked, calls.length)
  })

  it("tells of no adaptation: a model gets all of it", async () => {
    const events: Array<string> = []
    await using model = resilientModels(models(), { ...options, onEvent: ({ _tag }) => events.push(_tag) })
    await generateText({ model, prompt: "Hi", providerOptions: { openai: { user: "me" } } })
    assert.include(events, "CallEnded")
    assert.notInclude(events, "RequestAdapted")
  })

  it("numbers models of one name, and shows how they are doing", async () => {
    const model = resilientModels(models(), options)
    const { targets } = await model.status()
    assert.deepStrictEqual(targets.map(({ id }) => id), ["openai.chat/gpt", "openai.chat/gpt #2"])
    await model.close()
    const error = await rejection(generateText({ model, prompt: "Hi" }))
    assert.deepInclude((error as APICallError).data, { code: "Closed" })
  })

  it("classifies what a model's package throws", async () => {
    await play(first, FaultServer.status(401))
    const model = resilientModels(models().slice(0, 1), { ...options, failover: false })
    const error = await rejection(generateText({ model, prompt: "Hi" }))
    assert.deepInclude((error as APICallError).data, { code: "ProviderError", reason: "Authentication" })
    assert.strictEqual((error as APICallError).statusCode, 401)
  })
})

describe("resilientMiddleware", () => {
  it("puts the pipeline round one model, with one memory", async () => {
    await play(
      first,
      FaultServer.status(503),
      FaultServer.ok({ text: "Hello." }),
      FaultServer.ok({ text: "Streamed." })
    )
    const model = wrapLanguageModel({ model: models()[0]!, middleware: resilientMiddleware(options) })
    assert.strictEqual((await generateText({ model, prompt: "Hi", maxRetries: 0 })).text, "Hello.")
    const streamed = streamText({ model, prompt: "Hi" })
    assert.strictEqual(await streamed.text, "Streamed.")
    assert.strictEqual(await received(first), 3)
  })
})
