import { afterAll, assert, beforeAll, beforeEach, describe, it } from "@effect/vitest"
import { Effect, Exit, Schema, Scope } from "effect"
import { LlmError } from "effect-resilient-llm"
import { createResilientLlm, type LlmResponse, ResilientLlmError } from "effect-resilient-llm/promise"
import { FaultServer } from "effect-resilient-llm/testing"
import { inspect } from "node:util"
import { z } from "zod"

const scope = Scope.makeUnsafe()
let server: FaultServer.FaultServer
let other: FaultServer.FaultServer
beforeAll(async () => {
  server = await Effect.runPromise(Scope.provide(FaultServer.make(), scope))
  other = await Effect.runPromise(Scope.provide(FaultServer.make(), scope))
})
beforeEach(async () => {
  await Effect.runPromise(server.reset)
  await Effect.runPromise(other.reset)
})
afterAll(() => Effect.runPromise(Scope.close(scope, Exit.void)))

const play = (on: FaultServer.FaultServer, ...faults: ReadonlyArray<FaultServer.Fault>) =>
  Effect.runPromise(on.play(...faults))

const make = (options: Parameters<typeof createResilientLlm>[0] = {}) =>
  createResilientLlm({
    retry: { maxRetries: 1, baseDelay: 1 },
    cache: false,
    ...options,
    providers: {
      openai: { apiKey: "key", baseUrl: server.openai },
      anthropic: { apiKey: "key", baseUrl: other.anthropic }
    }
  })

const rejection = async (promise: PromiseLike<unknown>): Promise<unknown> => {
  try {
    await promise
  } catch (error) {
    return error
  }
  return assert.fail("it did not reject")
}

const thrownBy = (f: () => unknown): unknown => {
  try {
    f()
  } catch (error) {
    return error
  }
  return assert.fail("it did not throw")
}

const eventually = async (fact: () => Promise<boolean>) => {
  for (let i = 0; i < 400; i++) {
    if (await fact()) return
    await new Promise((resolve) => setTimeout(resolve, 5))
  }
  assert.fail("it never came true")
}

const noneActive = () => eventually(async () => (await Effect.runPromise(server.stats)).active === 0)

describe("complete", () => {
  it("resolves with the response, over retries and to the next provider", async () => {
    await using llm = make()
    await play(server, FaultServer.status(503), FaultServer.status(503))
    await play(other, FaultServer.ok({ text: "Hello." }))
    const { ledger, target, text } = await llm.complete({ prompt: "Hi", maxTokens: 9 })
    assert.deepStrictEqual([text, target, llm.targets], ["Hello.", "anthropic", ["openai", "anthropic"]])
    assert.isTrue(ledger.some((event) => event._tag === "FailedOver"))
  })

  it("rejects with an Error that says what a program needs", async () => {
    await using llm = make({ failover: false })
    await play(server, FaultServer.status(429, { retryAfter: 7200 }))
    const error = await rejection(llm.complete("Hi"))
    assert.instanceOf(error, ResilientLlmError)
    assert.instanceOf(error, Error)
    const { cause, code, ledger, message, name, reason, retryAfterMs, retryable, status } = error
    assert.deepStrictEqual(
      { name, code, reason, retryAfterMs, retryable, status },
      {
        name: "ResilientLlmError",
        code: "ProviderError",
        reason: "RateLimit",
        retryAfterMs: 7_200_000,
        retryable: true,
        status: 429
      }
    )
    assert.instanceOf(cause, LlmError.ProviderError)
    assert.include(message, "openai limits the rate")
    assert.isAtLeast(ledger.length, 3)
    // What a rejection that nobody handles prints.
    const lines = inspect(error).split("\n")
    assert.match(lines[0]!, /^ResilientLlmError: openai limits the rate/)
    assert.match(lines.at(-1)!, / \(code: ProviderError, reason: RateLimit, status: 429, .*\d+ facts in its ledger\)$/)
    assert.isTrue(lines.slice(1).every((line) => line.startsWith("    at ")))
  })

  it("an error of another copy of the package is one, too", () => {
    const error = new ResilientLlmError("No.", { code: "Closed" })
    const foreign = Object.create({ [Symbol.for("effect-resilient-llm/ResilientLlmError")]: true }) as unknown
    assert.deepStrictEqual(
      [error, foreign, new Error("x"), { name: "ResilientLlmError" }, null, "x"].map(ResilientLlmError.isInstance),
      [true, true, false, false, false, false]
    )
  })

  it("a failure of all tells the soonest of their hints", async () => {
    await using llm = make({ retry: false })
    await play(server, FaultServer.status(429, { retryAfter: 900 }))
    await play(other, FaultServer.status(429, { retryAfter: 90 }))
    const error = await rejection(llm.complete("Hi")) as ResilientLlmError
    assert.deepStrictEqual([error.code, error.retryAfterMs, error.retryable], ["AllProvidersFailed", 90_000, true])
  })

  it("a vendor that cannot read the request: its own words are there for who asks", async () => {
    await using llm = make({ retry: false, failover: false })
    await play(server, FaultServer.status(400))
    const error = await rejection(llm.complete("Hi")) as ResilientLlmError
    assert.match(error.message, /^openai cannot read the request \(HTTP 400\)\. Its own words: `error\.details`\.$/)
    const [said, ...others] = error.details
    assert.deepStrictEqual([said?.provider, others], ["openai", []])
    assert.notStrictEqual(said!.text, "")
    assert.notInclude(inspect(error), said!.text)
  })

  it("a wrong request is refused with the field's name, and is not retryable", async () => {
    await using llm = make()
    const error = await rejection(llm.complete({ prompt: "Hi", temperature: 7 })) as ResilientLlmError
    assert.deepStrictEqual([error.code, error.retryable], ["InvalidRequest", false])
    assert.include(error.message, "temperature")
  })
})

describe("abort", () => {
  it("rejects with the signal's reason and closes the connection", async () => {
    await using llm = make()
    await play(server, FaultServer.hang(), FaultServer.hang())
    const controller = new AbortController()
    const pending = rejection(llm.complete("Hi", { signal: controller.signal }))
    await eventually(async () => (await Effect.runPromise(server.stats)).active === 1)
    controller.abort()
    const error = await pending
    assert.isTrue(error instanceof DOMException && error.name === "AbortError")
    await noneActive()
    const reason = new Error("mine")
    const mine = new AbortController()
    const other = rejection(llm.complete("Hi", { signal: mine.signal }))
    await eventually(async () => (await Effect.runPromise(server.stats)).active === 1)
    mine.abort(reason)
    assert.strictEqual(await other, reason)
  })

  it("of a signal that is aborted already asks nobody", async () => {
    await using llm = make()
    const error = await rejection(llm.complete("Hi", { signal: AbortSignal.abort() }))
    assert.strictEqual((error as Error).name, "AbortError")
    const streamed = await rejection(llm.stream("Hi", { signal: AbortSignal.abort() }).response)
    assert.strictEqual((streamed as Error).name, "AbortError")
    assert.strictEqual((await Effect.runPromise(server.stats)).received, 0)
  })

  it("leaves no listener behind on a signal that outlives the calls", async () => {
    await using llm = make()
    const controller = new AbortController()
    let listeners = 0
    const { signal } = controller
    const add = signal.addEventListener.bind(signal)
    const remove = signal.removeEventListener.bind(signal)
    signal.addEventListener = (...args: Parameters<typeof add>) => {
      listeners++
      add(...args)
    }
    signal.removeEventListener = (...args: Parameters<typeof remove>) => {
      listeners--
      remove(...args)
    }
    await llm.complete("Hi", { signal })
    for await (const _ of llm.stream("Hi", { signal }));
    await llm.stream("Hi", { signal }).response
    for await (const _ of llm.stream("Hi", { signal })) break
    assert.strictEqual(listeners, 0)
  })
})

describe("stream", () => {
  const chunks = ["One ", "two ", "three."]

  it("is an iterator of texts, with the response behind it", async () => {
    await using llm = make()
    await play(server, FaultServer.truncate({ afterChunks: 0 }), FaultServer.ok({ chunks }))
    const stream = llm.stream("Hi")
    assert.strictEqual((await Effect.runPromise(server.stats)).received, 0)
    const texts: Array<string> = []
    for await (const text of stream) texts.push(text)
    assert.deepStrictEqual(texts, chunks)
    const response: LlmResponse = await stream.response
    assert.strictEqual(response.text, "One two three.")
    assert.isTrue(response.ledger.some((event) => event._tag === "AttemptFailed"))
    assert.strictEqual(await stream.response, response)
  })

  it("has parts, and its response alone reads it too", async () => {
    await using llm = make()
    await play(server, FaultServer.ok({ chunks }), FaultServer.ok({ chunks }))
    const types = new Set<string>()
    for await (const part of llm.stream("Hi").parts) types.add(part.type)
    assert.isTrue(types.has("text-delta") && types.has("finish"))
    assert.strictEqual((await llm.stream("Hi").response).text, "One two three.")
  })

  it("its response asked in the middle takes nothing from the reader", async () => {
    await using llm = make()
    await play(server, FaultServer.ok({ chunks, chunkDelayMillis: 5 }))
    const stream = llm.stream("Hi")
    const texts: Array<string> = []
    let response: Promise<LlmResponse> | undefined
    for await (const text of stream) {
      texts.push(text)
      response ??= stream.response
    }
    assert.deepStrictEqual([texts, (await response)?.text], [chunks, "One two three."])
  })

  it("that is left early closes its connection; its response says so", async () => {
    await using llm = make()
    await play(server, FaultServer.ok({ chunks, chunkDelayMillis: 60_000 }))
    const stream = llm.stream("Hi")
    for await (const text of stream) {
      assert.strictEqual(text, "One ")
      break
    }
    await noneActive()
    assert.strictEqual(((await rejection(stream.response)) as Error).name, "AbortError")
  })

  it("that is left while a read is under way ends at once, as a web stream or by its iterator", async () => {
    await using llm = make()
    await play(
      server,
      FaultServer.ok({ chunks, chunkDelayMillis: 60_000 }),
      FaultServer.ok({ chunks, chunkDelayMillis: 60_000 })
    )
    const reader = ReadableStream.from(llm.stream("Hi")).getReader()
    assert.strictEqual((await reader.read()).value, "One ")
    const closed = reader.read()
    await new Promise((resolve) => setTimeout(resolve, 20))
    await reader.cancel()
    assert.isTrue((await closed).done)
    await noneActive()

    const iterator = llm.stream("Hi").parts[Symbol.asyncIterator]()
    // All that there is, so that the next read has to wait.
    for (let text = ""; text !== "One ";) {
      const { value } = await iterator.next()
      if (value?.type === "text-delta") text += value.delta
    }
    const reading = rejection(iterator.next())
    await eventually(async () => (await Effect.runPromise(server.stats)).active === 1)
    assert.deepStrictEqual(await iterator.return?.(), { done: true, value: undefined })
    assert.strictEqual(((await reading) as Error).name, "AbortError")
    await noneActive()
    assert.isTrue((await iterator.next()).done)
  }, 10_000)

  it("that is aborted while nobody reads closes its connection at once", async () => {
    await using llm = make()
    await play(server, FaultServer.ok({ chunks, chunkDelayMillis: 60_000 }))
    const controller = new AbortController()
    const iterator = llm.stream("Hi", { signal: controller.signal })[Symbol.asyncIterator]()
    assert.deepStrictEqual(await iterator.next(), { done: false, value: "One " })
    controller.abort()
    await noneActive()
    assert.strictEqual(((await rejection(iterator.next())) as Error).name, "AbortError")
  })

  it("that breaks rejects with the number of parts", async () => {
    await using llm = make()
    await play(server, FaultServer.truncate({ chunks, afterChunks: 2 }))
    const texts: Array<string> = []
    const error = await rejection((async () => {
      for await (const text of llm.stream("Hi")) texts.push(text)
    })())
    assert.deepStrictEqual(texts, ["One ", "two "])
    const { cause, code } = error as ResilientLlmError
    assert.strictEqual(code, "StreamInterrupted")
    assert.strictEqual((cause as LlmError.StreamInterrupted).partialParts, 2)
  })
})

describe("generateObject", () => {
  const Report = z.object({ city: z.string(), celsius: z.number() })
  const jsonSchema = z.toJSONSchema(Report)
  const bad = FaultServer.ok({ text: `{"city":"Berlin","celsius":"warm"}` })

  it("gives a value by a schema of zod, or of Effect, over a repair", async () => {
    await using llm = make()
    const good = FaultServer.ok({ text: `{"city":"Berlin","celsius":21}` })
    await play(server, bad, good, good)
    const { response, value } = await llm.generateObject({ prompt: "Hi", schema: Report, jsonSchema })
    assert.deepStrictEqual(value, { city: "Berlin", celsius: 21 })
    assert.isTrue(response.ledger.some((event) => event._tag === "AnswerRejected"))
    const schema = Schema.Struct({ city: Schema.String, celsius: Schema.Number })
    const effect = await llm.generateObject({ prompt: "Hi", schema })
    assert.strictEqual(effect.value.celsius satisfies number, 21)
    const [first] = await Effect.runPromise(server.requests)
    assert.include(JSON.stringify(first?.body), "\"celsius\":{\"type\":\"number\"}")
  })

  it("what is no schema is a wrong request", async () => {
    await using llm = make()
    const none: ReadonlyArray<unknown> = [undefined, null, "object", 1, {}]
    for (const schema of none) {
      const error = await rejection(llm.generateObject({ prompt: "Hi", schema: schema as typeof Report }))
      assert.strictEqual((error as ResilientLlmError).code, "InvalidRequest")
      assert.include((error as Error).message, "\"schema\" must be a schema")
    }
  })

  it("rejects with InvalidOutput when nothing fits", async () => {
    await using llm = make()
    await play(server, bad, bad)
    const error = await rejection(llm.generateObject({ prompt: "Hi", schema: Report, jsonSchema }))
    assert.strictEqual((error as ResilientLlmError).code, "InvalidOutput")
    assert.include((error as Error).message, "celsius")
  })
})

describe("close", () => {
  it("ends calls and streams, and refuses later ones", async () => {
    const llm = make()
    await play(server, FaultServer.hang(), FaultServer.ok({ chunks: ["a", "b"], chunkDelayMillis: 60_000 }))
    const hanging = rejection(llm.complete("Hi"))
    await eventually(async () => (await Effect.runPromise(server.stats)).active === 1)
    const iterator = llm.stream("Hi")[Symbol.asyncIterator]()
    await iterator.next()
    const pending = rejection(iterator.next())
    await llm.close()
    for (const error of [await hanging, await pending, await rejection(llm.complete("Hi"))]) {
      assert.strictEqual((error as ResilientLlmError).code, "Closed")
    }
    await noneActive()
    await llm.close()
  })
})

describe("construction", () => {
  const env = ["OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GEMINI_API_KEY", "GOOGLE_API_KEY", "COHERE_API_KEY"]
  const without = (f: () => void) => {
    const before = env.map((name) => process.env[name])
    for (const name of env) delete process.env[name]
    try {
      f()
    } finally {
      for (const [i, name] of env.entries()) if (before[i] !== undefined) process.env[name] = before[i]
    }
  }

  it("takes the vendors whose key is there, in the order given", () =>
    without(() => {
      process.env["COHERE_API_KEY"] = "key"
      process.env["OPENAI_API_KEY"] = "key"
      try {
        assert.deepStrictEqual(createResilientLlm({ providers: { cohere: {}, anthropic: {}, openai: {} } }).targets, [
          "cohere",
          "openai"
        ])
        assert.deepStrictEqual(createResilientLlm().targets, ["openai", "cohere"])
        assert.deepStrictEqual(
          createResilientLlm({ providers: { groq: { apiKey: "k", defaultModel: "m" }, ollama: {} } }).targets,
          ["groq", "ollama"]
        )
      } finally {
        delete process.env["COHERE_API_KEY"]
        delete process.env["OPENAI_API_KEY"]
      }
    }))

  it("without any key says which would do, in one sentence", () =>
    without(() => {
      const error = thrownBy(() => createResilientLlm({ providers: { openai: {}, gemini: {} } }))
      assert.instanceOf(error, ResilientLlmError)
      assert.strictEqual(
        (error as Error).message,
        "No provider has a key: set OPENAI_API_KEY, or GEMINI_API_KEY or GOOGLE_API_KEY in the environment, " +
          "or give an apiKey."
      )
    }))

  it("refuses what it does not know", () => {
    const message = (options: object) => (thrownBy(() => createResilientLlm(options)) as Error).message
    assert.include(message({ providers: { opanai: {} } }), `There is no provider "opanai"`)
    assert.include(message({ providers: { openai: { apiKey: 5 } } }), "must be a text")
    assert.include(message({ providers: { openai: { apiKey: "k", url: "x" } } }), "openAi.url")
    assert.include(message({ providers: { openai: { apiKey: "k" } }, retry: { retries: 5 } }), "retry")
    assert.include(message({ providers: {} }), "No provider is named")
  })

  it("tells a listener of everything", async () => {
    const tags: Array<string> = []
    await using llm = make({ onEvent: (event) => tags.push(event._tag) })
    await play(server, FaultServer.ok())
    await llm.complete("Hi")
    assert.strictEqual(tags[0], "CallStarted")
    assert.strictEqual(tags.at(-1), "CallEnded")
    const status = await llm.status()
    assert.deepStrictEqual(status.targets.map(({ id }) => id), ["openai", "anthropic"])
  })
})
