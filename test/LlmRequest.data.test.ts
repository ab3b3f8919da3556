import { assert, describe, it } from "@effect/vitest"
import { LlmClient, LlmProvider, LlmRequest } from "effect-resilient-llm"
import type { InvalidRequest } from "effect-resilient-llm/LlmError"
import * as Prompt from "effect/ai/Prompt"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Result from "effect/Result"
import { createHash } from "node:crypto"
import { sha256 } from "../src/internal/sha256.ts"
import { vector } from "./support.ts"

const read = (input: unknown): Result.Result<LlmRequest.LlmRequest, InvalidRequest> =>
  Effect.runSync(Effect.result(LlmRequest.make(input as LlmRequest.Input)))

const accepted = (input: unknown): LlmRequest.LlmRequest => Result.getOrThrow(read(input))

const refused = (input: unknown) => {
  const result = read(input)
  assert.isTrue(Result.isFailure(result))
  const { kind, path, rule } = Result.isFailure(result) ? result.failure : assert.fail()
  return { path, rule, kind }
}

const nested = (levels: number): unknown => {
  let value: unknown = 1
  for (let i = 0; i < levels; i++) value = i % 2 === 0 ? [value] : { a: value }
  return value
}

const toolPart = (field: "params" | "result", value: unknown) => ({
  role: field === "params" ? "assistant" : "tool",
  content: [
    field === "params"
      ? { type: "tool-call", id: "1", name: "n", params: value }
      : { type: "tool-result", id: "1", name: "n", isFailure: false, result: value }
  ]
})

/** Every place of a request that takes data of any shape: how to put it there, where it is found, its path. */
const places: ReadonlyArray<{
  readonly path: string
  readonly put: (value: unknown) => unknown
  readonly get: (request: LlmRequest.LlmRequest) => unknown
  readonly below?: string
}> = [
  ...(["params", "result"] as const).flatMap((field) => {
    const get = (request: LlmRequest.LlmRequest) => (request.prompt[0]!.content[0] as unknown as Fields)[field]
    return [
      { path: `prompt[0].content[0].${field}`, put: (v: unknown) => ({ prompt: [toolPart(field, v)] }), get },
      {
        path: `prompt[0].content[0].${field}`,
        put: (v: unknown) => ({ prompt: Prompt.fromMessages([messageOf(toolPart(field, v))]) }),
        get
      }
    ]
  }),
  {
    path: "tools[0].parameters",
    put: (v) => ({ prompt: "Hi", tools: [{ name: "n", parameters: { v } }] }),
    get: (request) => request.tools?.[0]?.parameters["v"],
    below: ".v"
  },
  {
    path: "tools[0].provider.args",
    put: (v) => ({
      prompt: "Hi",
      tools: [{ name: "n", parameters: {}, provider: { id: "vendor.search", args: { v } } }]
    }),
    get: (request) => request.tools?.[0]?.provider?.args?.["v"],
    below: ".v"
  },
  {
    path: "responseFormat.schema",
    put: (v) => ({ prompt: "Hi", responseFormat: { type: "json", schema: { v } } }),
    get: (request) => (request.responseFormat as { readonly schema: Fields }).schema["v"],
    below: ".v"
  }
]

type Fields = Readonly<Record<string, unknown>>

const messageOf = ({ content: [part], role }: ReturnType<typeof toolPart>): Prompt.Message =>
  role === "tool"
    ? Prompt.toolMessage({ content: [Prompt.toolResultPart({ isFailure: false, ...part } as never)] })
    : Prompt.assistantMessage({ content: [Prompt.toolCallPart({ providerExecuted: false, ...part } as never)] })

class Money {
  readonly amount: number
  constructor(amount: number) {
    this.amount = amount
  }
  toJSON() {
    return { amount: this.amount, at: new Date(1) }
  }
}

const values: Readonly<Record<string, readonly [unknown, unknown]>> = {
  "dates": [new Date(0), new Date(1)],
  "addresses": [new URL("https://a.example/"), new URL("https://b.example/")],
  "things with toJSON": [new Money(1), new Money(2)],
  "boxed numbers": [Object(1), Object(2)],
  "keys called __proto__": [JSON.parse("{\"__proto__\":1}"), JSON.parse("{\"__proto__\":2}")],
  "objects below __proto__": [JSON.parse("{\"__proto__\":{\"a\":1}}"), JSON.parse("{\"__proto__\":{\"a\":2}}")],
  "functions with toJSON": [Object.assign(() => 0, { toJSON: () => 1 }), Object.assign(() => 0, { toJSON: () => 2 })]
}

describe("data of any shape", () => {
  for (const { get, path, put } of places) {
    for (const [name, [one, other]] of Object.entries(values)) {
      it(`${path}: ${name} are sent and compared as JSON has them`, () => {
        for (const value of [one, [one], { a: { b: one } }]) {
          const request = accepted(put(value))
          assert.strictEqual(JSON.stringify(get(request)), JSON.stringify(value))
          assert.strictEqual(LlmRequest.identity(request), LlmRequest.identity(accepted(put(structuredJson(value)))))
        }
        assert.notStrictEqual(
          LlmRequest.identity(accepted(put([one]))),
          LlmRequest.identity(accepted(put([other])))
        )
      })
    }

    it(`${path}: what JSON leaves out or replaces`, () => {
      const value = {
        n: NaN,
        z: -0,
        u: undefined,
        f: () => 1,
        s: Symbol("s"),
        m: new Map([[1, 2]]),
        l: Object.assign(Array(3), { 1: undefined, 2: 1 })
      }
      const request = accepted(put([value]))
      assert.deepStrictEqual(get(request), JSON.parse(JSON.stringify([value])))
    })

    it(`${path}: a key is not an inherited one`, () => {
      const found = get(accepted(put(JSON.parse("{\"__proto__\":{\"polluted\":1}}")))) as Fields
      assert.isTrue(Object.hasOwn(found, "__proto__"))
      assert.isUndefined(found["polluted"])
      assert.isUndefined(({} as Fields)["polluted"])
    })
  }

  it("the order of keys does not make another question; in schemas it is kept for the model", () => {
    for (const { get, path, put } of places) {
      const [one, other] = [accepted(put({ b: 1, a: 2 })), accepted(put({ a: 2, b: 1 }))]
      assert.strictEqual(LlmRequest.identity(one), LlmRequest.identity(other))
      const sent = JSON.stringify(get(one))
      assert.strictEqual(sent, path.startsWith("prompt") ? "{\"a\":2,\"b\":1}" : "{\"b\":1,\"a\":2}")
    }
  })

  it("a tool that gives nothing gives null", () => {
    for (const { get, put } of places.slice(0, 4)) assert.isNull(get(accepted(put(undefined))))
  })
})

describe("data that JSON cannot hold", () => {
  const cycle: Record<string, unknown> = {}
  cycle["a"] = { b: [cycle, cycle] }
  const shared = Array.from({ length: 40 }).reduce<unknown>((inner) => [inner, inner], 1)
  const { proxy, revoke } = Proxy.revocable({}, {})
  revoke()
  const hostile: Readonly<Record<string, readonly [value: unknown, rule: string, kind: string, below?: string]>> = {
    "a cycle": [cycle, "at most 1,000 levels deep", "deeper"],
    "parts that are shared again and again": [shared, "at most 250,000 values", "more"],
    "10,000 levels": [nested(10_000), "at most 1,000 levels deep", "deeper"],
    "1,001 levels": [nested(1001), "at most 1,000 levels deep", "deeper"],
    "a bigint": [{ a: [1n] }, "JSON", "a bigint", ".a[0]"],
    "a getter that throws": [
      {
        get a() {
          throw new Error("secret")
        }
      },
      "JSON",
      "an object that throws",
      ".a"
    ],
    "a toJSON that throws": [{ a: { toJSON: () => assert.fail("secret") } }, "JSON", "an object that throws", ".a"],
    "a Proxy that throws": [
      new Proxy({}, { ownKeys: () => assert.fail("secret") }),
      "JSON",
      "an object that throws",
      ""
    ],
    "a Proxy that was revoked": [proxy, "JSON", "an object that throws", ""]
  }
  for (const { below = "", path, put } of places) {
    for (const [name, [value, rule, kind, at]] of Object.entries(hostile)) {
      it(`${path}: ${name}`, () => {
        const complaint = refused(put(value))
        assert.strictEqual(complaint.path, at === undefined ? path : path + below + at)
        assert.isTrue(complaint.rule.startsWith(rule), complaint.rule)
        assert.strictEqual(complaint.kind, kind)
        assert.notInclude(JSON.stringify(complaint), "secret")
      })
    }
    it(`${path}: 1,000 levels are taken`, () => {
      accepted(put(nested(below === "" ? 1000 : 999)))
    })
  }

  it("provider options of messages and parts", () => {
    const options = (value: unknown) => [
      { prompt: [{ role: "user", content: "Hi", options: { vendor: value } }] },
      { prompt: [{ role: "user", content: [{ type: "text", text: "Hi", options: { vendor: value } }] }] }
    ]
    for (const input of options(nested(999))) accepted(input)
    for (const [name, [value]] of Object.entries(hostile)) {
      if (name === "a toJSON that throws" || name.startsWith("parts")) continue
      for (const input of options(value)) assert.match(refused(input).path, /^prompt\[0\]\./, name)
    }
  })

  it("anything in the place of anything", () => {
    const trap = new Proxy({}, {
      get: () => assert.fail("secret"),
      getPrototypeOf: () => assert.fail("secret"),
      has: () => assert.fail("secret"),
      ownKeys: () => assert.fail("secret")
    })
    const inputs: ReadonlyArray<unknown> = [
      trap,
      proxy,
      { prompt: trap },
      { prompt: [trap] },
      { prompt: [{ role: "user", content: trap }] },
      { prompt: [{ role: "user", content: [trap] }] },
      { prompt: { [Symbol.iterator]: () => assert.fail("secret") } },
      ...["model", "stop", "tools", "toolChoice", "responseFormat", "deadline", "metadata", "temperature"].flatMap(
        (key) => [{ prompt: "Hi", [key]: trap }, {
          prompt: "Hi",
          get [key]() {
            return assert.fail("secret")
          }
        }]
      )
    ]
    for (const input of inputs) assert.notInclude(JSON.stringify(refused(input)), "secret")
  })
})

describe("limits of a request", () => {
  const message = { role: "user", content: "Hi" } as const

  it("a deadline that is not a number is no deadline", () => {
    const rule = "a duration that is not negative"
    const kind = "not a number"
    assert.deepStrictEqual(refused({ prompt: "Hi", deadline: NaN }), { path: "deadline", rule, kind })
    assert.deepStrictEqual(refused({ prompt: [message], deadline: NaN, stop: new Set() }).path, "stop")
    for (const deadline of [{}, { second: 1 }, { seconds: NaN }, [NaN, 0]]) {
      assert.deepInclude(refused({ prompt: "Hi", deadline: deadline as never }), { path: "deadline", rule })
    }
  })

  it("two prompts that differ in half of a surrogate pair are two questions", () => {
    const identityOf = (prompt: string) => sha256(LlmRequest.identity(accepted({ prompt })))
    const all = ["a\ud800b", "a\udc00b", "a\ufffdb", "a\ud801b", "a?b"].map(identityOf)
    assert.strictEqual(new Set(all).size, all.length)
  })

  it("more than 100,000 messages are refused at once, however they come", () => {
    const many = Array.from({ length: 100_001 }, () => message)
    const endless = {
      *[Symbol.iterator]() {
        for (;;) yield message
      }
    }
    for (const prompt of [many, endless, Prompt.fromMessages(many as never)]) {
      const begun = performance.now()
      const complaint = refused({ prompt })
      assert.deepStrictEqual(complaint, { path: "prompt", rule: "at most 100,000 messages", kind: "more" })
      assert.isBelow(performance.now() - begun, 3000)
    }
    accepted({ prompt: many.slice(1) })
  })

  it("a name that is none is not told", () => {
    for (const name of ["the user's secret question", "x".repeat(1000), "sk-" + "a1".repeat(30), ""]) {
      const { path } = refused({ prompt: "Hi", [name]: 1 })
      assert.strictEqual(path, "?")
    }
    assert.strictEqual(refused({ prompt: "Hi", maxToken: 1 }).path, "maxToken")
  })

  it("texts that differ in half a character are different questions, also as digests", () => {
    const texts = ["a\uD800b", "a\uD801b", "a\uDC00b", "a\uFFFDb", "a\u{10000}b"]
    assert.strictEqual(new Set(texts.map((prompt) => LlmRequest.identity(accepted({ prompt })))).size, 5)
    assert.strictEqual(new Set(texts.map((prompt) => sha256(LlmRequest.identity(accepted({ prompt }))))).size, 5)
    for (const text of ["", "abc", "a\u{10000}b", "Grüezi"]) {
      assert.strictEqual(sha256(text), createHash("sha256").update(text).digest("hex"))
    }
  })
})

describe("a client", () => {
  it.effect("asks again when only a date in a tool's result differs, and sends the date", () =>
    vector(Effect.gen(function*() {
      const seen: Array<string> = []
      const provider = LlmProvider.make({
        id: "p",
        generate: (request) => {
          seen.push(JSON.stringify(request.prompt))
          return Effect.succeed("Hello.")
        }
      })
      const context = yield* Layer.build(LlmClient.layerDynamic([provider], { cache: { readThrough: true } }))
      const client = Context.get(context, LlmClient)
      for (const at of [0, 0, 1]) {
        yield* client.complete({ prompt: [toolPart("result", { at: new Date(at) })] as never, cache: "always" })
      }
      assert.strictEqual(seen.length, 2)
      assert.include(seen[0], "1970-01-01T00:00:00.000Z")
    })))
})

function structuredJson(value: unknown): unknown {
  return JSON.parse(JSON.stringify(value))
}
