// What of a request reaches a target, and what two requests are compared by.
import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Layer } from "effect"
import { LlmClient, type LlmConfig, LlmError, type LlmEvent, LlmProvider, LlmRequest } from "effect-resilient-llm"
import * as Request from "../../src/pipeline/request.ts"
import type { TargetOptions } from "../../src/pipeline/target.ts"
import type { Feature } from "../../src/resilience/Failover.ts"
import { ask, kinds, vector } from "../support.ts"

/** A client, and what its providers were handed. */
const clientOf = (
  providers: ReadonlyArray<Partial<LlmProvider.Options> & { readonly fails?: boolean }>,
  options: LlmConfig.Options = {}
) =>
  Effect.gen(function*() {
    const handed: Array<readonly [string, LlmRequest.LlmRequest]> = []
    const [first, ...others] = providers.map(({ fails = false, ...settings }, i) => {
      const id = `p${i}`
      return {
        id,
        provider: LlmProvider.make({
          id,
          ...settings,
          generate: (request) =>
            Effect.suspend(() => {
              handed.push([id, request])
              return fails
                ? Effect.fail(new LlmError.ProviderError({ provider: id, reason: { _tag: "Overloaded" } }))
                : Effect.succeed("Hello.")
            })
        })
      }
    })
    const context = yield* Layer.build(LlmClient.layerDynamic([first!, ...others], { retry: false, ...options }))
    return { client: Context.get(context, LlmClient), handed }
  })

describe.each(kinds)("%s: metadata (HOUSE law 11, P15)", (kind) => {
  const replay = { idempotency: { derive: "replay" } } as const
  const questions = [{ prompt: "Hi", metadata: { user: "a" } }, { prompt: "Hi", metadata: { user: "b" } }]

  it.effect("is part of the question where a provider may read it", () =>
    vector(Effect.gen(function*() {
      for (const providers of [[{}], [{ readsMetadata: true }], [{ readsMetadata: false }, {}]]) {
        const { client, handed } = yield* clientOf(providers, replay)
        for (const question of questions) yield* ask(kind, client, question)
        assert.strictEqual(handed.length, 2)
      }
    })))

  it.effect("is no part of the question where none of the providers reads it", () =>
    vector(Effect.gen(function*() {
      const { client, handed } = yield* clientOf([{ readsMetadata: false }, { readsMetadata: false }], replay)
      for (const question of questions) yield* ask(kind, client, question)
      assert.strictEqual(handed.length, 1)
    })))

  it.effect("is handed to those only that may read it", () =>
    vector(Effect.gen(function*() {
      const { client, handed } = yield* clientOf([{ readsMetadata: false, fails: true }, {}])
      yield* ask(kind, client, questions[0])
      assert.deepStrictEqual(handed.map(([id, { metadata }]) => [id, metadata]), [["p0", undefined], ["p1", {
        user: "a"
      }]])
    })))
})

describe("the key that is sent upstream (P16)", () => {
  const upstream = (options: LlmConfig.Options) =>
    Effect.gen(function*() {
      const { client, handed } = yield* clientOf([{}], options)
      yield* ask("complete", client, { prompt: "Hi", idempotencyKey: "k" })
      yield* ask("stream", client, { prompt: "Hi", idempotencyKey: "k" })
      for (const tenant of ["a", "b"]) {
        for (const kind of kinds) yield* ask(kind, client, { prompt: "Hi", idempotencyKey: "k", tenant })
      }
      return handed.map(([, { idempotencyKey }]) => idempotencyKey)
    })

  it.effect("is the caller's own for a whole answer, and another for each tenant and for streams", () =>
    vector(Effect.gen(function*() {
      for (const options of [{}, { idempotency: false }] as const) {
        const [own, ...others] = yield* upstream(options)
        assert.strictEqual(own, "k")
        for (const other of others) assert.match(other!, /^[0-9a-f]{64}$/)
        assert.strictEqual(new Set(others).size, 5)
      }
    })))

  it.effect("is the same for every client and process", () =>
    vector(Effect.gen(function*() {
      assert.deepStrictEqual(yield* upstream({}), yield* upstream({ idempotency: false }))
    })))

  it.effect("goes out as it was generated where the caller gave none", () =>
    vector(Effect.gen(function*() {
      const { client, handed } = yield* clientOf([{}])
      for (const kind of kinds) yield* ask(kind, client, { prompt: "Hi", tenant: "t" })
      for (const [, { idempotencyKey }] of handed) assert.match(idempotencyKey!, /^llm-/)
    })))
})

/** What of a ledger says how the request was sent. */
const tags = new Set(["ModelSubstituted", "ReasoningDropped"])
const told = (ledger: LlmEvent.Ledger) => ledger.filter(({ _tag }) => tags.has(_tag))

describe.each(kinds)("%s: the model that is sent", (kind) => {
  const sent = (
    first: Partial<LlmProvider.Options>,
    second: Partial<LlmProvider.Options>,
    model: string | undefined
  ) =>
    vector(Effect.gen(function*() {
      const { client, handed } = yield* clientOf([{ ...first, fails: true }, second])
      const { ledger } = yield* ask(kind, client, model === undefined ? "Hi" : { prompt: "Hi", model })
      return { models: handed.map(([, request]) => "model" in request ? request.model : "none"), told: told(ledger) }
    }))

  it.effect("another one than was asked is told, and nothing else is", () =>
    Effect.gen(function*() {
      const own = { defaultModel: "own" }
      assert.deepStrictEqual(yield* sent(own, { defaultModel: "two" }, "fast"), {
        models: ["fast", "two"],
        told: [{ _tag: "ModelSubstituted", call: 1, at: 0, target: "p1", requested: "fast", model: "two" }]
      })
      const mapped = { models: { fast: "two-fast" }, defaultModel: "two" }
      assert.deepStrictEqual(yield* sent(own, mapped, "fast"), { models: ["fast", "two-fast"], told: [] })
      assert.deepStrictEqual(yield* sent(own, mapped, undefined), { models: ["own", "two"], told: [] })
      assert.deepStrictEqual(yield* sent({}, {}, undefined), { models: ["none", "none"], told: [] })
    }))

  it.effect("an only target without a model of its own gets what was asked, which is no other", () =>
    vector(Effect.gen(function*() {
      const { client, handed } = yield* clientOf([{}, {}])
      const { ledger } = yield* ask(kind, client, { prompt: "Hi", model: "fast", targets: ["p1"] })
      assert.deepStrictEqual([handed.map(([id, { model }]) => [id, model]), told(ledger)], [[["p1", "fast"]], []])
    })))
})

describe.each(kinds)("%s: reasoning in the prompt", (kind) => {
  const reasoning = (text: string, options?: { readonly [vendor: string]: { readonly signature: string } }) =>
    ({ type: "reasoning", text, ...(options === undefined ? undefined : { options }) }) as const
  const prompt: LlmRequest.Input["prompt"] = [
    { role: "system", content: "reasoning" },
    { role: "user", content: [{ type: "text", text: "Hi" }] },
    { role: "assistant", content: "reasoning" },
    {
      role: "assistant",
      content: [
        reasoning("unmarked"),
        reasoning("mine", { mine: { signature: "s" } }),
        reasoning("another's", { other: { signature: "s" } }),
        { type: "text", text: "Hello." }
      ]
    },
    { role: "user", content: "Go on" }
  ]

  it.effect.each(
    [["mine", 2], ["other", 2], ["nobody", 3], [false, 3], [undefined, 0]] as const
  )("a provider that takes that of %j is told to lose %j", ([own, parts]) =>
    vector(Effect.gen(function*() {
      const { client } = yield* clientOf([own === undefined ? {} : { reasoning: own }])
      const { ledger } = yield* ask(kind, client, { prompt })
      const lost = parts === 0 ? [] : [{ _tag: "ReasoningDropped", call: 1, at: 0, target: "p0", parts }]
      assert.deepStrictEqual<unknown>(told(ledger), lost)
    })))
})

/** A place in the order of failover. */
const placeOf = (
  index: number,
  own: TargetOptions = {},
  traits: Omit<LlmProvider.Options, "id" | "generate"> = {}
): Request.Place => {
  const provider = LlmProvider.make({ id: "p", ...traits, generate: () => Effect.succeed("") })
  return { index, config: { ...own, id: "p", provider } }
}

const requestOf = (input: string | LlmRequest.Input): LlmRequest.LlmRequest => {
  const request = LlmRequest.read(input)
  if ("_tag" in request) throw request
  return request
}

const asks = (input: Partial<LlmRequest.Input> = {}) => requestOf({ prompt: "Hi", ...input })

describe("the model at a place", () => {
  const own = { models: { fast: "own-fast" }, defaultModel: "own" }
  const vendors = { models: { fast: "vendor-fast", slow: "vendor-slow" }, defaultModel: "vendor" }
  const table: ReadonlyArray<
    readonly [string, Request.Place, asked: string | undefined, gets: string | undefined, hasNone: boolean]
  > = [
    ["nothing is asked, nothing known", placeOf(0), undefined, undefined, false],
    ["the vendor's default", placeOf(1, {}, vendors), undefined, "vendor", false],
    ["the target's default, before the vendor's", placeOf(0, own, vendors), undefined, "own", false],
    ["the target's default alone", placeOf(0, own), undefined, "own", false],
    ["the target's map, before the vendor's", placeOf(1, own, vendors), "fast", "own-fast", false],
    ["the vendor's map, for what the target's lacks", placeOf(1, own, vendors), "slow", "vendor-slow", false],
    ["the target's map, where the vendor has none", placeOf(0, own), "fast", "own-fast", false],
    ["unmapped, at the first", placeOf(0, own, vendors), "other", "other", false],
    ["unmapped, behind the first", placeOf(1, own, vendors), "other", "own", false],
    ["unmapped, behind the first, without a default", placeOf(1), "other", undefined, true],
    ["a name that every object has", placeOf(1, own, vendors), "constructor", "own", false],
    ["strict, and mapped", placeOf(1, { models: "strict" }, vendors), "fast", "vendor-fast", false],
    ["strict, at the first, and unmapped", placeOf(0, { models: "strict" }, vendors), "other", undefined, true],
    ["strict, and a key of what a text has", placeOf(0, { models: "strict" }, vendors), "length", undefined, true],
    ["strict, and nothing asked", placeOf(0, { models: "strict" }, vendors), undefined, "vendor", false]
  ]

  it.each(table)("%s", (_, place, model, gets, hasNone) => {
    const request = asks({ model })
    assert.strictEqual(Request.modelAt(place, request), gets)
    assert.strictEqual(Request.hasNoModel(place, request), hasNone)
  })
})

describe("what a request needs", () => {
  const file = { type: "file", mediaType: "image/png", data: "iVBORw0KGgo=" } as const
  const text = { type: "text", text: "Hi" } as const
  const none = { tools: false, schema: false, vision: false }
  const schema = { type: "object" } as const
  const table: ReadonlyArray<readonly [string, Partial<LlmRequest.Input>, Partial<typeof none>]> = [
    ["a question", {}, {}],
    ["no tools", { tools: [] }, {}],
    ["tools", { tools: [{ name: "t", parameters: schema }] }, { tools: true }],
    ["text", { responseFormat: { type: "text" } }, {}],
    ["JSON of any kind", { responseFormat: { type: "json" } }, {}],
    ["JSON of a kind", { responseFormat: { type: "json", schema } }, { schema: true }],
    ["a system message", { prompt: [{ role: "system", content: "file" }, { role: "user", content: [text] }] }, {}],
    [
      "parts that are no files",
      {
        prompt: [{ role: "assistant", content: [{ type: "reasoning", text: "Hm" }, text] }, {
          role: "user",
          content: "Hi"
        }]
      },
      {}
    ],
    ["a file among others", { prompt: [{ role: "user", content: [text, file] }] }, { vision: true }],
    [
      "a file in one message of two",
      { prompt: [{ role: "user", content: [file] }, { role: "user", content: [text] }] },
      { vision: true }
    ]
  ]

  it.each(table)("%s", (_, input, needed) => {
    const { schema, tools, vision } = new Request.Needs(asks(input))
    assert.deepStrictEqual({ schema, tools, vision }, { ...none, ...needed })
  })

  it("room for the prompt at four bytes a token, and for the longest answer", () => {
    const tokens = (input: Partial<LlmRequest.Input>) => new Request.Needs(asks(input)).tokens
    const words = "word".repeat(100)
    const [short, long] = [tokens({ prompt: "Hi" }), tokens({ prompt: `Hi${words}` })]
    assert.strictEqual(long - short, 100)
    assert.strictEqual(tokens({ prompt: `Hi${words}`, maxTokens: 50 }) - long, 50)
    const needs = new Request.Needs(asks({ prompt: `Hi${words}` }))
    assert.deepStrictEqual([needs.tokens, needs.tokens], [long, long])
  })
})

describe("what a place cannot be asked", () => {
  const seedless = (action: "dropped" | "unsupported") => ({
    changes: ({ seed }: LlmRequest.LlmRequest) => seed === undefined ? [] : [{ field: "seed", action }]
  })
  const unfit = (place: Request.Place, input: Partial<LlmRequest.Input>) =>
    Request.unfitAt(place, asks(input), new Request.Needs(asks(input)))

  it("by what it is said to support, and then by its provider", () => {
    const both = placeOf(0, { contextWindow: 1 }, seedless("unsupported"))
    assert.deepStrictEqual(unfit(both, { seed: 1 }), { because: "context-too-small" })
    const unsupported = placeOf(0, { contextWindow: 1e6 }, seedless("unsupported"))
    assert.deepStrictEqual(unfit(unsupported, { seed: 1 }), { because: "unsupported", field: "seed" })
    assert.isUndefined(unfit(unsupported, {}))
    assert.isUndefined(unfit(placeOf(0, {}, seedless("dropped")), { seed: 1 }))
    assert.isUndefined(unfit(placeOf(0), { seed: 1 }))
  })

  it("a provider is asked with the model in its own words, and without one where none is known", () => {
    const seen: Array<LlmRequest.LlmRequest> = []
    const changes = (request: LlmRequest.LlmRequest) => {
      seen.push(request)
      return []
    }
    unfit(placeOf(0, { models: { fast: "p-fast" } }, { changes }), { model: "fast", seed: 1 })
    unfit(placeOf(0, {}, { changes }), { seed: 2 })
    assert.deepStrictEqual(seen.map(({ model, seed }) => [model, seed]), [["p-fast", 1], [undefined, 2]])
    assert.isFalse("model" in seen[1]!)
  })
})

describe("what a caller insists on", () => {
  const without = (...fields: ReadonlyArray<string>) =>
    placeOf(0, {}, { changes: () => fields.map((field) => ({ field, action: "dropped" as const })) })
  const table: ReadonlyArray<readonly [required: ReadonlyArray<Feature>, Request.Place, string | undefined]> = [
    [[], without("seed"), undefined],
    [["seed"], placeOf(0), undefined],
    [["seed"], without(), undefined],
    [["seed"], without("stop", "seed"), "seed"],
    [["stop", "seed"], without("seed"), "seed"],
    [["prompt"], without("prompt.file"), "prompt.file"],
    [["seed"], without("seeds"), undefined],
    [["prompt"], without("system.prompt."), undefined]
  ]

  it.each(table)("%j", (required, place, missed) => {
    assert.strictEqual(Request.missedBy(place, asks(), required), missed)
  })

  it("without it, no provider is asked what it would change", () => {
    let count = 0
    const place = placeOf(0, {}, { changes: () => [{ field: `${++count}`, action: "dropped" }] })
    Request.missedBy(place, asks(), [])
    assert.strictEqual(count, 0)
  })

  it("what no place takes is refused, with the rule that it breaks", () => {
    const strict = placeOf(0, { models: "strict" })
    const refused = (places: ReadonlyArray<Request.Place>) =>
      Request.refusedBy(places, asks({ model: "fast" }), ["seed"])
    for (const places of [[], [placeOf(0)], [placeOf(0), strict], [strict, placeOf(0)]]) {
      assert.isUndefined(refused(places))
    }
    assert.deepInclude(refused([strict, without("seed")]), {
      _tag: "InvalidRequest",
      path: "model",
      rule: "a name that a target maps",
      kind: "given"
    })
    assert.deepInclude(refused([without("seed"), strict]), {
      path: "seed",
      rule: "what a target takes as it is asked",
      kind: "given"
    })
  })
})

describe("the length of a prompt", () => {
  const edges = ["", "a", "\x7f", "\x80", "\u07ff", "\u0800", "\ud7ff", "\ue000", "\uffff", "\u{10000}", "\u{10ffff}"]

  it.each(edges)("is that of its UTF-8: %j", (text) => {
    for (const written of [text, `${text}-${text}`]) {
      assert.strictEqual(Request.bytesOf(written), new TextEncoder().encode(written).length)
    }
  })

  it("is counted by bytes a token, whatever it is nested in, and a file is a thousand tokens whatever it holds", () => {
    const tokens = (prompt: unknown, bytesPerToken: number) =>
      Request.promptTokens({ prompt } as LlmRequest.LlmRequest, bytesPerToken)
    assert.strictEqual(tokens(["abcd", { deep: [{ deeper: "efgh" }] }], 2), 4)
    assert.strictEqual(tokens(["abcd", "e"], 2), 3)
    assert.strictEqual(tokens([null, true, 12345], 1), 3)
    assert.strictEqual(tokens([{ type: "text", text: "abcd" }], 1), 8)
    assert.strictEqual(tokens(["abcd", { type: "file", data: "abcdefgh" }, { type: "file" }], 2), 2002)
  })
})
