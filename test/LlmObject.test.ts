import { NodeHttpClient } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber, Layer, Redacted, Schema } from "effect"
import { LlmClient, type LlmConfig, LlmError, type LlmEvent } from "effect-resilient-llm"
import { Anthropic, Cohere, OpenAi } from "effect-resilient-llm/providers"
import { FaultServer, ScriptedProvider } from "effect-resilient-llm/testing"
import { TestClock } from "effect/testing"

const Report = Schema.Struct({ city: Schema.String, celsius: Schema.Finite })
const good = `{"city":"Berlin","celsius":21}`
const bad = `{"city":"Berlin","celsius":"warm"}`
const prompt = "Berlin has 21 degrees."

const { answer } = ScriptedProvider

const setUp = (steps: ReadonlyArray<ScriptedProvider.Step>, options: LlmConfig.Options = {}) =>
  Effect.gen(function*() {
    const provider = yield* ScriptedProvider.make(steps, { id: "vendor" })
    const context = yield* Layer.build(LlmClient.layerDynamic([provider], options))
    const client = yield* Effect.provideContext(LlmClient, context)
    return { client, requests: provider.requests }
  })

const fields = (error: object) => Object.assign({}, error)
const tags = (ledger: LlmEvent.Ledger) => ledger.map((event) => event._tag)

describe("an answer that does not fit", () => {
  it.effect("is asked for again with the complaint, in one call", () =>
    Effect.gen(function*() {
      const { client, requests } = yield* setUp([answer(bad), answer(good)])
      const { response, value } = yield* client.generateObject({ prompt, schema: Report })
      assert.deepStrictEqual(value, { city: "Berlin", celsius: 21 })
      const rejected = response.ledger.find((event) => event._tag === "AnswerRejected")
      assert.deepInclude(rejected, {
        target: "vendor",
        path: "celsius",
        rule: "a number",
        kind: "a text",
        repair: 1
      })
      assert.strictEqual(tags(response.ledger).filter((tag) => tag === "CallStarted").length, 1)
      assert.deepInclude(response.ledger.at(-1), { _tag: "CallEnded", attempts: 2, outcome: "provider" })
      const [first, second] = yield* requests
      assert.deepInclude(first?.request.responseFormat, { type: "json", name: "object", strict: true })
      assert.deepStrictEqual(second?.request.prompt.map((message) => message.role), ["user", "assistant", "user"])
      assert.include(JSON.stringify(second?.request.prompt[1]), "warm")
      assert.include(JSON.stringify(second?.request.prompt[2]), "celsius")
      assert.deepStrictEqual(second?.request.responseFormat, first?.request.responseFormat)
    }))

  it.effect("for good is an InvalidOutput that names path, rule and kind, and never the answer", () =>
    Effect.gen(function*() {
      const { client, requests } = yield* setUp([answer(bad), answer("I cannot."), answer("")], { retry: false })
      const error = yield* Effect.flip(client.generateObject({ prompt, schema: Report }))
      assert.instanceOf(error, LlmError.InvalidOutput)
      assert.deepInclude(fields(error), { path: "", rule: "JSON", kind: "a text that is not JSON", repairs: 1 })
      assert.strictEqual(
        error.message,
        "The answer from vendor is not what was asked for after a repair: it must be JSON, but is a text that is not JSON."
      )
      assert.strictEqual((yield* requests).length, 2)
      assert.strictEqual(error.ledger.length > 0, true)
      assert.notInclude(JSON.stringify(error), "cannot")
      assert.strictEqual(Redacted.value(error.detail!), "I cannot.")
      const encoded = yield* Schema.encodeEffect(LlmError.InvalidOutput)(error)
      assert.notInclude(JSON.stringify(encoded), "cannot")
    }))

  it.effect("does not touch the breaker", () =>
    Effect.gen(function*() {
      const { client } = yield* setUp([], { circuitBreaker: { failureThreshold: 1 }, retry: false })
      for (let i = 0; i < 5; i++) yield* Effect.flip(client.generateObject({ prompt: `${i}`, schema: Report }))
      const { targets } = yield* client.status
      assert.strictEqual(targets[0]?.circuit?.state, "closed")
    }))

  it.effect("is not asked for again when that is off, or when it was cut off", () =>
    Effect.gen(function*() {
      const cut = { type: "finish", reason: "length", usage: { inputTokens: {}, outputTokens: {} } } as const
      const { client, requests } = yield* setUp([answer(bad), answer([{ type: "text", text: "{\"city\":" }, cut])])
      const off = yield* Effect.flip(client.generateObject({ prompt, schema: Report, repairs: 0 }))
      assert.deepInclude(fields(off), { path: "celsius", repairs: 0 })
      const short = yield* Effect.flip(client.generateObject({ prompt: "other", schema: Report, repairs: 3 }))
      assert.deepInclude(fields(short), { kind: "cut off by its token limit", repairs: 0 })
      assert.strictEqual((yield* requests).length, 2)
    }))

  it.effect("is repaired at another target, and inside the deadline", () =>
    Effect.gen(function*() {
      const first = yield* ScriptedProvider.make([answer(bad), ScriptedProvider.always(ScriptedProvider.overloaded)], {
        id: "a"
      })
      const second = yield* ScriptedProvider.make([answer(good), ScriptedProvider.always(ScriptedProvider.hang)], {
        id: "b"
      })
      const layer = LlmClient.layerDynamic([first, second], { retry: false, cache: false })
      const client = yield* Effect.provideContext(LlmClient, yield* Layer.build(layer))
      const { response } = yield* client.generateObject({ prompt, schema: Report })
      assert.strictEqual(response.target, "b")
      const late = yield* Effect.forkChild(
        Effect.flip(client.generateObject({ prompt, schema: Report, deadline: "3 seconds" }))
      )
      yield* TestClock.adjust("5 seconds")
      assert.strictEqual((yield* Fiber.join(late))._tag, "DeadlineExceeded")
    }))
})

describe("what is kept", () => {
  const reuse = { cache: { readThrough: true }, retry: false } as const
  const ask = { prompt, schema: Report, temperature: 0 }

  it.effect("a bad answer is not cached; the repaired one is the answer to its own question", () =>
    Effect.gen(function*() {
      const { client, requests } = yield* setUp([answer(bad), answer(bad), answer(good)], reuse)
      yield* Effect.flip(client.generateObject(ask))
      const { response } = yield* client.generateObject(ask)
      assert.deepStrictEqual([response.source, (yield* requests).length], ["provider", 3])
      const again = yield* client.generateObject(ask)
      assert.deepStrictEqual([again.response.source, (yield* requests).length], ["cache", 3])
    }))

  it.effect("a stored bad answer is not given, fresh or stale", () =>
    Effect.gen(function*() {
      const other = yield* setUp([answer(good)])
      yield* other.client.generateObject(ask)
      const { responseFormat } = (yield* other.requests)[0]!.request
      // The same question as a plain request: its answer is good enough for that.
      const { client, requests } = yield* setUp([answer(bad), ScriptedProvider.overloaded, answer(good)], reuse)
      const plain = { prompt, temperature: 0, responseFormat }
      yield* client.complete(plain)
      assert.strictEqual((yield* client.complete(plain)).source, "cache")
      const failed = yield* Effect.flip(client.generateObject(ask))
      assert.strictEqual(failed._tag, "ProviderError")
      const { value } = yield* client.generateObject(ask)
      assert.deepStrictEqual([value.celsius, (yield* requests).length], [21, 3])
    }))

  it.effect("under a key it is one unit: callers at once share the value, later ones get the first that fits", () =>
    Effect.gen(function*() {
      const slow = { delay: "1 second" } as const
      const { client, requests } = yield* setUp([answer(bad, slow), answer(good, slow), answer("later")])
      const once = client.generateObject({ prompt, schema: Report, idempotencyKey: "k" })
      const both = yield* Effect.forkChild(Effect.all([once, once], { concurrency: 2 }))
      yield* TestClock.adjust("5 seconds")
      const values = (yield* Fiber.join(both)).map(({ value }) => value.celsius)
      const later = yield* once
      assert.deepStrictEqual([values, later.value.celsius, later.response.source], [[21, 21], 21, "replay"])
      assert.strictEqual((yield* requests).length, 2)
    }))

  it.effect("under a key a value that never came is asked for anew", () =>
    Effect.gen(function*() {
      const { client, requests } = yield* setUp([answer(bad), answer(bad), answer(good)])
      const once = client.generateObject({ prompt, schema: Report, idempotencyKey: "k" })
      yield* Effect.flip(once)
      assert.strictEqual((yield* once).value.celsius, 21)
      assert.strictEqual((yield* requests).length, 3)
    }))
})

describe("reading", () => {
  const cases: ReadonlyArray<readonly [string, string]> = [
    ["plain", good],
    ["with blanks", `\n  ${good}\n`],
    ["in a fence", `\`\`\`json\n${good}\n\`\`\``],
    ["in a fence without a name", `\`\`\`\n${good}\n\`\`\``]
  ]
  for (const [name, text] of cases) {
    it.effect(name, () =>
      Effect.gen(function*() {
        const { client } = yield* setUp([answer(text)])
        assert.deepStrictEqual((yield* client.generateObject({ prompt, schema: Report })).value, {
          city: "Berlin",
          celsius: 21
        })
      }))
  }

  it.effect("transformations are the schema's own", () =>
    Effect.gen(function*() {
      const { client } = yield* setUp([answer(`{"at":"2026-01-02T03:04:05.000Z","note":null}`)])
      const schema = Schema.Struct({ at: Schema.DateFromString, note: Schema.optionalKey(Schema.String) })
      const { value } = yield* client.generateObject({ prompt, schema })
      assert.deepStrictEqual(value, { at: new Date("2026-01-02T03:04:05.000Z") })
    }))

  it.effect("wrong settings are refused before anybody is asked", () =>
    Effect.gen(function*() {
      const { client, requests } = yield* setUp([])
      const wrong = yield* Effect.flip(client.generateObject({ prompt, schema: Report, repairs: -1 }))
      assert.deepInclude(fields(wrong), { _tag: "InvalidRequest", path: "repairs" })
      const none = yield* Effect.flip(client.generateObject({ prompt, schema: {} as typeof Report }))
      assert.deepInclude(fields(none), { _tag: "InvalidRequest", path: "schema" })
      assert.strictEqual((yield* requests).length, 0)
    }))
})

describe("vendors are asked in their own way", () => {
  const vendors = [
    ["openai", (s: FaultServer.FaultServer) => OpenAi.make({ apiKey: Redacted.make("k"), baseUrl: s.openai })],
    ["anthropic", (s: FaultServer.FaultServer) => Anthropic.make({ apiKey: Redacted.make("k"), baseUrl: s.anthropic })],
    ["cohere", (s: FaultServer.FaultServer) => Cohere.make({ apiKey: Redacted.make("k"), baseUrl: s.cohere })]
  ] as const
  for (const [name, make] of vendors) {
    it.live(name, () =>
      Effect.gen(function*() {
        const server = yield* FaultServer.make()
        yield* server.play(FaultServer.ok({ text: bad }), FaultServer.ok({ text: good }))
        const provider = yield* make(server)
        const client = yield* Effect.provideContext(
          LlmClient,
          yield* Layer.build(LlmClient.layerDynamic([provider]))
        )
        const { value } = yield* client.generateObject({ prompt, schema: Report })
        assert.strictEqual(value.celsius, 21)
        const requests = yield* server.requests
        assert.strictEqual(requests.length, 2)
        for (const { body } of requests) assert.include(JSON.stringify(body), "\"celsius\":{\"type\":\"number\"")
      }).pipe(Effect.provide(NodeHttpClient.layerUndici)))
  }
})
