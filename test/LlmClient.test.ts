import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Layer, Redacted } from "effect"
import {
  LlmClient,
  type LlmConfig,
  LlmError,
  type LlmEvent,
  LlmGuard,
  LlmProvider,
  LlmRequest
} from "effect-resilient-llm"
import { ScriptedProvider } from "effect-resilient-llm/testing"
import { ask, chance, kinds, setUp, timed, vector } from "./support.ts"

class A extends ScriptedProvider.Service<A>()("app/A") {}
class B extends ScriptedProvider.Service<B>()("app/B") {}
const live = Layer.mergeAll(A.layer(), B.layer())

/** What building the client complains about. */
const refusal = (layer: Layer.Layer<LlmClient, LlmError.LlmConfigError>) =>
  Effect.map(Effect.flip(Effect.scoped(Layer.build(layer))), ({ kind, path, rule }) => ({ path, rule, kind }))

// Options as JavaScript callers could pass them.
const untyped = (options: unknown) => LlmClient.layerDynamic([provider], options as LlmConfig.Options)
const provider = LlmProvider.make({ id: "x", generate: () => Effect.succeed("Hello.") })

describe("building a client refuses", () => {
  const rows: ReadonlyArray<readonly [string, unknown, { path: string; rule: string; kind: string }]> = [
    ["a negative duration", { retry: { baseDelay: -1 } }, {
      path: "retry.baseDelay",
      rule: "a duration that is not negative",
      kind: "a negative number"
    }],
    ["a duration that is none", { timeout: { attempt: "soon" } }, {
      path: "timeout.attempt",
      rule: "a duration such as \"2 seconds\" or a number of milliseconds or false",
      kind: "a text"
    }],
    ["an unknown pattern", { retries: 3 }, {
      path: "retries",
      rule:
        "one of idempotency, rateLimit, circuitBreaker, timeout, retry, retryBudget, failover, cache, bulkhead, hedge, loadShedding, routing, guards",
      kind: "an unknown option"
    }],
    ["nothing", null, { path: "options", rule: "an object of options", kind: "null" }],
    ["a list", [], { path: "options", rule: "an object of options", kind: "an empty array" }],
    ["a text", "fast", { path: "options", rule: "an object of options", kind: "a text" }],
    ["one guard", { guards: LlmGuard.make("door", () => Effect.void) }, {
      path: "guards",
      rule: "a list of guards",
      kind: "an object"
    }],
    ["what is no guard", { guards: [LlmGuard.make("door", () => Effect.void), () => Effect.void] }, {
      path: "guards[1]",
      rule: "a guard: a name, acquire, and peek and failover if you like",
      kind: "a function"
    }],
    ["a guard that cannot be asked", { guards: [{ name: "door", acquire: () => Effect.void, peek: 5 }] }, {
      path: "guards[0]",
      rule: "a guard: a name, acquire, and peek and failover if you like",
      kind: "an object"
    }],
    ["a guard without a name", { guards: [{ name: "", acquire: () => Effect.void }] }, {
      path: "guards[0]",
      rule: "a guard: a name, acquire, and peek and failover if you like",
      kind: "an object"
    }],
    ["an unknown option of a pattern", { timeout: { total: 3 } }, {
      path: "timeout.total",
      rule: "one of attempt, firstToken, idle, deadline",
      kind: "an unknown option"
    }],
    ["true instead of options", { cache: true }, {
      path: "cache",
      rule: "an object of options, or false",
      kind: "a boolean"
    }],
    ["a fraction of a retry", { retry: { maxRetries: 1.5 } }, {
      path: "retry.maxRetries",
      rule: "a whole number of at least 0",
      kind: "a fraction"
    }],
    ["a limit of what no call is charged in", {
      rateLimit: {
        limits: [{ dimension: "tokens", limit: 1, per: 1 }, { dimension: "input_tokens", limit: 1, per: 1 }]
      }
    }, {
      path: "rateLimit.limits[1].dimension",
      rule: "one of requests, tokens, input-tokens, output-tokens",
      kind: "a text"
    }],
    ["a wrong derive", { idempotency: { derive: "always" } }, {
      path: "idempotency.derive",
      rule: "one of false, join, replay",
      kind: "a text"
    }]
  ]
  it.effect.each(rows)("%s", ([, options, expected]) =>
    Effect.gen(function*() {
      assert.deepStrictEqual(yield* refusal(untyped(options)), expected)
    }))

  it.effect("an empty target list", () =>
    Effect.gen(function*() {
      const layer = LlmClient.layerDynamic([] as unknown as readonly [LlmProvider.LlmProvider])
      assert.deepStrictEqual(yield* refusal(layer), {
        path: "targets",
        rule: "at least one target",
        kind: "an empty array"
      })
    }))

  // The first row of each is what JavaScript callers mix up: a provider where a service belongs, and the reverse.
  const usable = { path: "targets[1]", rule: "a provider: an id, generate and stream" }
  const wrong: ReadonlyArray<readonly [unknown, string]> = [
    [A, "a function"],
    [undefined, "missing"],
    [null, "null"],
    ["openai", "a text"],
    [{}, "an object"],
    [{ provider: {} }, "an object"],
    [{ ...provider, id: "" }, "an object"],
    [{ ...provider, stream: undefined }, "an object"]
  ]
  it.effect.each(wrong)("a provider that is none: %o", ([target, kind]) =>
    Effect.gen(function*() {
      const layer = Layer.suspend(() => LlmClient.layerDynamic([provider, target as LlmProvider.LlmProvider]))
      assert.deepStrictEqual(yield* refusal(layer), { ...usable, kind })
    }))

  const service = { path: "targets[1]", rule: "the service of a provider, or target(service)" }
  const unnamed: ReadonlyArray<readonly [unknown, string]> = [
    [provider, "an object"],
    [undefined, "missing"],
    [null, "null"],
    ["openai", "a text"],
    [{}, "an object"],
    [{ provider }, "an object"]
  ]
  it.effect.each(unnamed)("a service that is none: %o", ([target, kind]) =>
    Effect.gen(function*() {
      const layer = Layer.suspend(() => LlmClient.layer([A, target as typeof A])).pipe(Layer.provide(live))
      assert.deepStrictEqual(yield* refusal(layer), { ...service, kind })
    }))

  it.effect("a service that holds no provider", () =>
    Effect.gen(function*() {
      const layer = LlmClient.layer([A, B]).pipe(
        Layer.provide(Layer.mergeAll(A.layer(), Layer.succeed(B, {} as never)))
      )
      assert.deepStrictEqual(yield* refusal(layer), { ...usable, kind: "an object" })
    }))

  it.effect("one target that is not in a list", () =>
    Effect.gen(function*() {
      const expected = { path: "targets", rule: "a list of targets" }
      const one = Layer.suspend(() => LlmClient.layer(A as unknown as readonly [typeof A])).pipe(Layer.provide(live))
      assert.deepStrictEqual(yield* refusal(one), { ...expected, kind: "a function" })
      const none = Layer.suspend(() =>
        LlmClient.layerDynamic(undefined as unknown as readonly [LlmProvider.LlmProvider])
      )
      assert.deepStrictEqual(yield* refusal(none), { ...expected, kind: "missing" })
    }))

  it.effect("a duplicate target", () =>
    Effect.gen(function*() {
      assert.deepStrictEqual(yield* refusal(LlmClient.layerDynamic([provider, provider])), {
        path: "targets[1].id",
        rule: "unique",
        kind: "a duplicate"
      })
      const twice = LlmClient.layer([A, LlmClient.target(A)]).pipe(Layer.provide(live))
      assert.strictEqual((yield* refusal(twice)).path, "targets[1].id")
    }))

  it.effect("targets are called as their vendors, numbered from the second on; service keys show nowhere", () =>
    Effect.gen(function*() {
      const ids = (layer: Layer.Layer<LlmClient, unknown>) =>
        Effect.map(
          Effect.provide(Effect.flatMap(LlmClient, (client) => client.status), layer),
          (status) => status.targets.map(({ id }) => id)
        )
      class Eu extends Context.Service<Eu, LlmProvider.LlmProvider>()("app/Eu") {}
      const vendor = LlmProvider.make({ id: "openai", generate: () => Effect.succeed("Hello.") })
      const both = Layer.mergeAll(live, Layer.succeed(Eu, vendor))
      const smaller = LlmClient.target(Eu, { defaultModel: "small" })
      const other = LlmClient.target(A, { id: "openai-2" })
      assert.deepStrictEqual(yield* ids(Layer.provide(LlmClient.layer([Eu, A, smaller]), both)), [
        "openai",
        "A",
        "openai-2"
      ])
      assert.deepStrictEqual(yield* ids(Layer.provide(LlmClient.layer([other, Eu, smaller]), both)), [
        "openai-2",
        "openai",
        "openai-3"
      ])
      assert.deepStrictEqual(yield* ids(LlmClient.layerDynamic([vendor, { ...vendor }])), ["openai", "openai-2"])
    }))

  it.effect("the same vendor twice is fine under two names", () =>
    Effect.gen(function*() {
      const layer = LlmClient.layer([A, LlmClient.target(A, { id: "second" })]).pipe(Layer.provide(live))
      const status = yield* Effect.flatMap(LlmClient, (client) => client.status).pipe(Effect.provide(layer))
      assert.deepStrictEqual(status.targets.map(({ id }) => id), ["A", "second"])
    }))
})

describe("requests are checked before anything is called", () => {
  const rows: ReadonlyArray<readonly [string, unknown, { path: string; rule: string; kind: string }]> = [
    ["an empty text", "", { path: "prompt", rule: "a text or at least one message", kind: "an empty text" }],
    ["no messages", { prompt: [] }, { path: "prompt", rule: "at least one message", kind: "an empty array" }],
    ["no prompt", {}, { path: "prompt", rule: "a text, messages or a Prompt", kind: "missing" }],
    ["a negative deadline", { prompt: "Hi", deadline: -5 }, {
      path: "deadline",
      rule: "a duration that is not negative",
      kind: "a negative number"
    }],
    ["temperature out of range", { prompt: "Hi", temperature: 3 }, {
      path: "temperature",
      rule: "a number from 0 to 2",
      kind: "a whole number"
    }],
    ["an unknown field", { prompt: "Hi", max_tokens: 3 }, {
      path: "max_tokens",
      rule:
        "one of model, maxTokens, temperature, topP, topK, presencePenalty, frequencyPenalty, reasoningEffort, stop, "
        + "seed, tools, toolChoice, responseFormat, idempotencyKey, tenant, conversation, targets, retry, priority, cache, providerOptions, metadata, deadline",
      kind: "an unknown option"
    }],
    ["a message with a wrong role", { prompt: [{ role: "robot", content: "Hi" }] }, {
      path: "prompt[0].role",
      rule: "one of system, user, assistant, tool",
      kind: "a text"
    }]
  ]
  it.effect.each(rows)("%s", ([, input, expected]) =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([[]])
      const error = yield* Effect.flip(r.client.complete(input as LlmRequest.Input))
      assert.strictEqual(error._tag, "InvalidRequest")
      const { kind, path, rule } = error as LlmError.InvalidRequest
      assert.deepStrictEqual({ path, rule, kind }, expected)
      assert.deepStrictEqual(yield* r.calls(), [])
    })))

  it.effect("a deadline while timeouts are off", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([[]])
      const error = yield* Effect.flip(r.client.complete({ prompt: "Hi", deadline: "1 second" }))
      assert.strictEqual(
        error.message,
        "Invalid request: \"deadline\" must be absent while `timeout` is off, but is given."
      )
    })))
})

describe.each(kinds)("no prompt, key or completion leaks: %s", (kind) => {
  const MARK = "MARKER-7731"
  it.effect("errors, events and ledgers", () =>
    vector(Effect.gen(function*() {
      const leaky = new LlmError.ProviderError({
        provider: "p",
        reason: { _tag: "Server" },
        detail: Redacted.make(`You said ${MARK}`)
      })
      const steps = [
        ScriptedProvider.answer(MARK),
        ScriptedProvider.overloaded,
        ScriptedProvider.stream(MARK, ScriptedProvider.cut),
        ScriptedProvider.stream({ error: leaky }),
        ScriptedProvider.fail({ _tag: "InvalidRequest" }),
        ScriptedProvider.hang
      ]
      const r = yield* setUp([{ script: steps, always: ScriptedProvider.overloaded }], {
        retry: { maxRetries: 1, baseDelay: 10 },
        retryBudget: {},
        timeout: { attempt: 100, firstToken: 100, deadline: 1000 },
        circuitBreaker: { failureThreshold: 3 },
        rateLimit: { capacity: 8, refillPerSecond: 0.001, maxWait: 0 },
        idempotency: {},
        cache: {}
      })
      const printed: Array<string> = []
      const print = (value: unknown) => {
        printed.push(
          JSON.stringify(value),
          String(value),
          value instanceof Error ? `${value.message}\n${value.stack}` : ""
        )
      }
      for (let i = 0; i < 8; i++) {
        const input = { prompt: `${MARK} ${i}`, idempotencyKey: `${MARK}-key`, tenant: MARK, metadata: { note: MARK } }
        const one = i === 0 ? input : { ...input, idempotencyKey: `${MARK}-${Math.min(i, 4)}` }
        const result = yield* timed(Effect.exit(ask(kind, r.client, one)), 2000)
        if (result.exit._tag === "Success" && result.exit.value._tag === "Failure") {
          for (const reason of result.exit.value.cause.reasons) {
            if (reason._tag === "Fail") print(reason.error)
          }
        } else if (result.exit._tag === "Success" && result.exit.value._tag === "Success") {
          print(result.exit.value.value.ledger)
        }
      }
      assert.isAbove(printed.length, 10)
      assert.isFalse(printed.some((text) => text.includes(MARK)), printed.find((text) => text.includes(MARK)))
      const conflict = yield* Effect.flip(
        ask(kind, r.client, { prompt: "other", idempotencyKey: `${MARK}-key`, tenant: MARK })
      )
      print(conflict)
      assert.isFalse(printed.some((text) => text.includes(MARK)))
    })))
})

describe("events", () => {
  it.effect("a listener sees every call end once; nobody listening costs nothing", () =>
    Effect.scoped(
      Effect.gen(function*() {
        const { Stream, Fiber } = yield* Effect.promise(() => import("effect"))
        const r = yield* setUp([{ script: [ScriptedProvider.answer("1")], always: ScriptedProvider.overloaded }], {
          retry: false,
          circuitBreaker: { failureThreshold: 2 }
        })
        const seen: Array<LlmEvent.LlmEvent> = []
        const listener = yield* Effect.forkChild(
          Stream.runForEach(r.client.events, (event) => Effect.sync(() => seen.push(event))),
          { startImmediately: true }
        )
        yield* Effect.yieldNow
        for (let i = 0; i < 4; i++) yield* Effect.exit(r.client.complete("Hi"))
        yield* Effect.yieldNow
        yield* Fiber.interrupt(listener)
        const ends = seen.filter((event) => event._tag === "CallEnded")
        assert.deepStrictEqual(ends.map(({ call, outcome }) => [call, outcome]), [
          [1, "provider"],
          [2, "failure"],
          [3, "failure"],
          [4, "failure"]
        ])
        assert.deepStrictEqual(
          seen.filter((event) => event._tag === "CircuitChanged").map(({ from, to }) => [from, to]),
          [["closed", "open"]]
        )
      }).pipe(chance(0.5))
    ))
})

it("requests are plain JSON", () => {
  const request = Effect.runSync(LlmRequest.make({
    prompt: [
      { role: "system", content: "Be brief." },
      { role: "user", content: [{ type: "file", mediaType: "image/png", data: new Uint8Array([1, 2]) }] }
    ],
    model: "fast",
    temperature: undefined
  }))
  assert.deepStrictEqual(JSON.parse(JSON.stringify(request)), request)
  assert.isFalse("temperature" in request)
})

it("identity: a text and the messages it is short for ask the same question", () => {
  const id = (input: string | LlmRequest.Input) => LlmRequest.identity(Effect.runSync(LlmRequest.make(input)))
  for (const text of ["Hi", "a \"quoted\" \u2028 \ud83d\ude00 text\n", "[1,[", "[stream]Hi"]) {
    assert.strictEqual(id(text), text.startsWith("[") ? `[2]user${text.length}:${text}` : text)
    const content = [{ type: "text" as const, text }]
    for (const prompt of [text, [{ role: "user" as const, content: text }], [{ role: "user" as const, content }]]) {
      assert.strictEqual(id({ prompt }), id(text))
      assert.strictEqual(id({ prompt, seed: 1 }), id({ prompt: text, seed: 1 }))
    }
  }
})

it("identity: no text is taken for the JSON of another request", () => {
  const id = (input: string | LlmRequest.Input) => LlmRequest.identity(Effect.runSync(LlmRequest.make(input)))
  const other = id({ prompt: "Hi", seed: 1 })
  assert.strictEqual(other, "[2,null,null,null,null,1]user2:Hi")
  assert.notStrictEqual(id(other), other)
  assert.notStrictEqual(id({ prompt: [{ role: "user", content: "Hi", options: { a: { b: 1 } } }] }), id("Hi"))
  assert.notStrictEqual(id({ prompt: [{ role: "system", content: "Hi" }] }), id("Hi"))
})

it("identity: where one message ends and the next begins makes a difference", () => {
  const id = (...prompt: LlmRequest.LlmRequest["prompt"]) => LlmRequest.identity({ prompt })
  const user = (content: string) => ({ role: "user" as const, content })
  const assistant = (content: string) => ({ role: "assistant" as const, content })
  const ids = [
    id(user("a"), user("b")),
    id(user("auser1:b")),
    id(user("a"), assistant("b")),
    id(user("ab")),
    id(user("a"), user("b"), user("")),
    id(user(""), user("a"), user("b")),
    id(user("a"), { role: "user", content: [{ type: "text", text: "b" }] }),
    id({ role: "system", content: "a" }, user("b"))
  ]
  assert.strictEqual(new Set(ids).size, ids.length)
})

it("identity: field order does not matter, everything that affects the answer does", () => {
  const id = (input: LlmRequest.Input) => LlmRequest.identity(Effect.runSync(LlmRequest.make(input)))
  const base: LlmRequest.Input = { prompt: "Hi", temperature: 0.7 }
  const schema = { type: "object", properties: { a: {}, b: {} } }
  const swapped = { properties: { b: {}, a: {} }, type: "object" }
  const tool = (parameters: Record<string, unknown>): LlmRequest.Input => ({
    ...base,
    tools: [{ name: "t", parameters }]
  })
  assert.strictEqual(id(tool(schema)), id(tool(swapped)))
  assert.strictEqual(id({ temperature: 0.70, prompt: "Hi" }), id(base))
  const others: ReadonlyArray<Partial<LlmRequest.Input>> = [
    { prompt: "Ho" },
    { temperature: 0 },
    { temperature: undefined },
    { tenant: "t" },
    { model: "m" },
    { maxTokens: 5 },
    { topP: 0.5 },
    { stop: ["x"] },
    { seed: 1 },
    { toolChoice: "none" },
    { responseFormat: { type: "json" } },
    { metadata: { a: "1" } }
  ]
  const ids = others.map((other) => id({ ...base, ...other }))
  assert.strictEqual(new Set([id(base), ...ids]).size, others.length + 1)
  assert.strictEqual(id({ ...base, deadline: 5, idempotencyKey: "k" }), id(base))
})
