// Most requests are read without decoding. What is read that way is what the schemas make of it, and what is wrong is told
// in the same words.
import { assert, describe, it } from "@effect/vitest"
import { LlmRequest } from "effect-resilient-llm"
import { InvalidRequest } from "effect-resilient-llm/LlmError"
import * as Prompt from "effect/ai/Prompt"
import * as Schema from "effect/Schema"
import { readerOf } from "../src/internal/reading.ts"
import { read } from "../src/LlmRequest.ts"
import { seeded } from "./providers/support.ts"

/** An object that is not plain is never read without its schema. */
const bySchema = (input: object) => read(Object.assign(Object.create({}), input))

const seen = (outcome: LlmRequest.LlmRequest | InvalidRequest): unknown =>
  outcome instanceof InvalidRequest
    ? { path: outcome.path, rule: outcome.rule, kind: outcome.kind }
    : JSON.parse(JSON.stringify({ ...outcome, identity: LlmRequest.identity(outcome) }))

type Random = () => number
const one = <A>(random: Random, of: ReadonlyArray<A>): A => of[Math.floor(random() * of.length)]!
const some = <A>(random: Random, most: number, make: () => A): Array<A> =>
  Array.from({ length: Math.floor(random() * (most + 1)) }, make)

const text = (random: Random): string =>
  one(random, ["", "Hi", "Grüezi 😀", "[2]", "\"quoted\"", "x".repeat(300), "__proto__"])

const data = (random: Random, depth = 3): unknown => {
  const u = random()
  if (depth === 0 || u < 0.4) {
    return one(random, [null, true, false, 0, -0, 1.5, NaN, 1e300, "", "text", undefined, new Date(0), [], {}])
  }
  if (u < 0.6) return some(random, 3, () => data(random, depth - 1))
  return Object.fromEntries(
    some(random, 3, () => [one(random, ["b", "a", "c", "__proto__", "1"]), data(random, depth - 1)])
  )
}

const options = (random: Random): object =>
  random() < 0.7
    ? {}
    : {
      options: one(random, [undefined, {}, { vendor: { a: 1 } }, { "effect/ai/x": { id: 1 } }, null, { v: undefined }])
    }

const part = (random: Random): unknown => {
  const id = { id: "1", name: text(random), ...options(random) }
  return one(random, [
    () => ({ type: "text", text: text(random), ...options(random) }),
    () => ({ type: "text", text: text(random), ...options(random) }),
    () => ({ type: "reasoning", text: text(random), ...options(random) }),
    () => ({ type: "tool-call", params: data(random), ...id }),
    () => ({ type: "tool-call", params: data(random), providerExecuted: true, ...id }),
    () => ({ type: "tool-result", result: data(random), isFailure: random() < 0.5, ...id }),
    () => ({
      type: "file",
      mediaType: "image/png",
      data: one<unknown>(random, ["AA==", new URL("https://a.example/")])
    }),
    () => ({ type: "nothing" })
  ])()
}

const message = (random: Random): unknown => ({
  role: one(random, ["system", "user", "user", "assistant", "tool"]),
  content: random() < 0.5 ? text(random) : some(random, 3, () => part(random)),
  ...options(random),
  ...random() < 0.1 ? { extra: 1 } : {}
})

const tool = (random: Random): unknown => ({
  name: one(random, ["lookup", "lookup", ""]),
  parameters: random() < 0.9 ? { type: "object", properties: data(random) } : data(random),
  ...random() < 0.3 ? { description: one(random, ["what it does", undefined]) } : {},
  ...random() < 0.3 ? { strict: true } : {},
  ...random() < 0.1 ? { provider: { id: "v.t", args: { a: 1 } } } : {}
})

const field: Readonly<Record<string, (random: Random) => unknown>> = {
  model: (random) => one(random, ["gpt", undefined, ""]),
  maxTokens: (random) => one(random, [1, 500, 0, 1.5, undefined]),
  temperature: (random) => one(random, [0, 0.5, 2, 2.1, NaN]),
  topP: (random) => one(random, [0, 1, -1]),
  stop: (random) => some(random, 2, () => text(random)),
  seed: (random) => one(random, [0, -1, 1.5]),
  tools: (random) => some(random, 2, () => tool(random)),
  toolChoice: (random) => one(random, ["auto", "none", { tool: "lookup" }, { tool: "" }, "never"]),
  responseFormat: (random) =>
    one(random, [{ type: "text" }, { type: "json" }, { type: "json", name: "n", schema: data(random) }, {
      type: "xml"
    }]),
  idempotencyKey: (random) => one(random, ["key", ""]),
  tenant: (random) => one(random, ["t", ""]),
  cache: (random) => one(random, ["auto", "always", "never", "no-stale", "sometimes"]),
  metadata: (random) => one<unknown>(random, [{}, { a: "1" }, { a: 1 }, JSON.parse("{\"__proto__\":\"x\"}")]),
  deadline: (random) => one<unknown>(random, [1000, "2 seconds", "soon", -1, { seconds: 1 }]),
  unknown: () => 1
}

const input = (random: Random): Record<string, unknown> => ({
  prompt: random() < 0.2 ? text(random) : some(random, 4, () => message(random)),
  ...Object.fromEntries(
    some(random, 3, () => one(random, Object.keys(field).filter((name) => name !== "unknown" || random() < 0.3)))
      .map((name) => [name, field[name]!(random)])
  )
})

/** Puts something else in the place of something. */
const spoil = (value: unknown, random: Random): unknown => {
  if (typeof value !== "object" || value === null || random() < 0.15) return data(random)
  const keys = Object.keys(value)
  if (keys.length === 0) return data(random)
  const key = one(random, keys)
  const copy: any = Array.isArray(value) ? [...value] : { ...value }
  if (random() < 0.1) delete copy[key]
  else copy[key] = spoil(copy[key], random)
  return copy
}

describe("requests read as they are", () => {
  for (
    const [what, make] of [["random ones", input], [
      "spoilt ones",
      (random: Random) => spoil(input(random), random)
    ]] as const
  ) {
    it(`${what} are as their schemas make them, or refused in the same words`, () => {
      let accepted = 0
      for (let seed = 1; seed <= 3000; seed++) {
        const value = make(seeded(seed))
        if (typeof value !== "object" || value === null || Array.isArray(value) || value instanceof Date) continue
        const outcome = read(value as LlmRequest.Input)
        if (!(outcome instanceof InvalidRequest)) accepted++
        assert.deepStrictEqual(seen(outcome), seen(bySchema(value)), `seed ${seed}`)
      }
      assert.isAbove(accepted, what === "random ones" ? 200 : 30)
    })
  }

  it("a Prompt of effect/ai is read like its messages", () => {
    for (let seed = 1; seed <= 500; seed++) {
      const random = seeded(seed)
      const messages = some(random, 4, () => message(random))
      const decoded = Schema.decodeUnknownExit(Schema.Array(Prompt.Message))(messages)
      if (decoded._tag === "Failure" || messages.length === 0) continue
      const prompt = Prompt.fromMessages(decoded.value)
      assert.deepStrictEqual(
        seen(read({ prompt })),
        seen(read({ prompt: messages as Array<Prompt.MessageEncoded> })),
        `seed ${seed}`
      )
    }
  })

  it("every option has its reader", () => {
    for (const [name, schema] of Object.entries(LlmRequest.Options.fields)) {
      if (name !== "deadline") assert.isDefined(readerOf(schema.ast), name)
    }
  })

  it("nothing of the caller's that may still change is kept", () => {
    const stop = ["a"]
    const parameters = { type: "object", properties: { q: { type: "string" } } }
    const params = { q: ["x"] }
    const content = [{ type: "tool-call" as const, id: "1", name: "n", params }]
    const request = read({
      prompt: [{ role: "assistant", content }],
      stop,
      tools: [{ name: "n", parameters }],
      metadata: {}
    })
    const before = JSON.stringify(request)
    stop.push("b")
    parameters.properties.q.type = "number"
    params.q.push("y")
    content.pop()
    assert.strictEqual(JSON.stringify(request), before)
  })

  it("what is given again is read as if it were new, also when it has changed in between", () => {
    let same = 0
    for (let seed = 1; seed <= 1000; seed++) {
      const random = seeded(seed)
      const value = input(random)
      if (typeof value !== "object" || value === null || Array.isArray(value) || value instanceof Date) continue
      const given = value as { tools?: unknown; responseFormat?: unknown }
      for (const change of [() => {}, () => {}, () => {}, () => given.tools = spoil(given.tools, random), () => {}]) {
        change()
        assert.deepStrictEqual(seen(read(given as LlmRequest.Input)), seen(bySchema(given)), `seed ${seed}`)
      }
      same++
    }
    assert.isAbove(same, 500)
  })

  it("a tool that is given again is the same copy, which nobody can change, as long as it says the same", () => {
    const properties: Record<string, unknown> = { q: { type: ["string"] } }
    const tool = { name: "n", parameters: { type: "object", properties } }
    const toolOf = () => {
      const request = read({ prompt: "Hi", tools: [tool] })
      return request instanceof InvalidRequest ? assert.fail(request.message) : request.tools![0]!
    }
    const [first, second, third] = [toolOf(), toolOf(), toolOf()]
    assert.strictEqual(third, second)
    for (const one of [first, second]) {
      const { type } = (one.parameters["properties"] as { readonly q: { readonly type: Array<string> } }).q
      assert.throws(() => type.push("null"), TypeError)
      assert.throws(() => Object.assign(one, { name: "m" }), TypeError)
    }
    properties["r"] = {}
    assert.deepStrictEqual(JSON.parse(JSON.stringify(toolOf())), JSON.parse(JSON.stringify(tool)))
    assert.deepStrictEqual(second.parameters["properties"], { q: { type: ["string"] } })
  })

  it("what is too much for an identity stays too much, however often it is given", () => {
    const deep = (levels: number): Record<string, unknown> => levels === 1 ? {} : { a: deep(levels - 1) }
    const wide = (values: number) => ({ enum: Array.from({ length: values }, (_, i) => i) })
    const tools = (...parameters: ReadonlyArray<Record<string, unknown>>) => ({
      tools: parameters.map((one) => ({ name: "n", parameters: one }))
    })
    const schema = (one: Record<string, unknown>) => ({ responseFormat: { type: "json", schema: one } as const })
    const shared = wide(1000)
    const cases: ReadonlyArray<readonly [boolean, Partial<LlmRequest.Input>]> = [
      [true, tools(deep(998))],
      [false, tools(deep(999))],
      [false, tools(deep(1000))],
      [true, schema(deep(999))],
      [false, schema(deep(1000))],
      [true, tools(wide(249_990))],
      [false, tools(wide(249_998))],
      [false, schema(wide(249_998))],
      [true, tools(...Array.from({ length: 20 }, () => shared))],
      [false, tools(...Array.from({ length: 250 }, () => shared))]
    ]
    for (const [i, [isTaken, given]] of cases.entries()) {
      for (let time = 1; time <= 4; time++) {
        const request = read({ prompt: "Hi", ...given })
        if (request instanceof InvalidRequest) return assert.fail(`case ${i}, time ${time}: ${request.message}`)
        let taken = true
        try {
          LlmRequest.identity(request)
        } catch {
          taken = false
        }
        assert.strictEqual(taken, isTaken, `case ${i}, time ${time}`)
      }
    }
  })

  it("what was a schema before is no tool for that", () => {
    const data = { parameters: {}, name: "" }
    const inputs = [1, 2, 3].map(() => read({ prompt: "Hi", responseFormat: { type: "json", schema: data } }))
    for (const one of inputs) assert.notInstanceOf(one, InvalidRequest)
    assert.instanceOf(read({ prompt: "Hi", tools: [data] }), InvalidRequest)
  })
})
