import { assert, describe, it } from "@effect/vitest"
import type * as Tracer from "effect/Tracer"
import { inputMessages, outputMessages, quote } from "../../src/pipeline/content.ts"

const MOST = 8192
const plainly = (text: string): string => text
const text = (text: string) => ({ type: "text" as const, text })
const messages = (...all: ReadonlyArray<string>) => all.map((content) => ({ role: "user" as const, content })) as never
const sizeOf = (value: unknown): number => JSON.stringify(value).length

describe("prompts of spans", () => {
  it("in the words of the conventions, each part as its kind", () => {
    const prompt = [
      { role: "system", content: "Be brief." },
      {
        role: "assistant",
        content: [
          { type: "reasoning", text: "why" },
          { type: "tool-call", id: "1", name: "find", params: { q: 1 } },
          { type: "file", mediaType: "image/png", data: "SECRET" },
          { type: "something-new", data: "SECRET" }
        ]
      },
      { role: "tool", content: [{ type: "tool-result", id: "1", name: "find", isFailure: false, result: "found" }] }
    ] as never
    assert.deepStrictEqual(inputMessages(prompt, plainly), [
      { role: "system", parts: [{ type: "text", content: "Be brief." }] },
      {
        role: "assistant",
        parts: [
          { type: "reasoning", content: "why" },
          { type: "tool_call", id: "1", name: "find", arguments: "{\"q\":1}" },
          { type: "file", mime_type: "image/png" }
        ]
      },
      { role: "tool", parts: [{ type: "tool_call_response", id: "1", response: "found" }] }
    ])
  })

  it("a tool's result that JSON leaves out is an empty one", () => {
    const prompt = [{ role: "tool", content: [{ type: "tool-result", id: "1", name: "find", result: undefined }] }]
    assert.deepStrictEqual(inputMessages(prompt as never, plainly), [
      { role: "tool", parts: [{ type: "tool_call_response", id: "1", response: "" }] }
    ])
  })

  it("of a long conversation the end", () => {
    const long = "x".repeat(5000)
    const kept = inputMessages(messages("first", `${long}1`, `${long}2`), plainly)
    assert.deepStrictEqual(kept, [
      { role: "user", parts: [{ type: "text", content: `…${`${long}1`.slice(-(MOST - 5001))}` }] },
      { role: "user", parts: [{ type: "text", content: `${long}2` }] }
    ])
    const exact = inputMessages(messages("first", "x".repeat(MOST)), plainly)
    assert.deepStrictEqual(exact, [{ role: "user", parts: [{ type: "text", content: "x".repeat(MOST) }] }])
    assert.isBelow(sizeOf(inputMessages(messages(...Array.from({ length: 1000 }, () => long)), plainly)), 2 * MOST)
    assert.isBelow(sizeOf(inputMessages(messages("x".repeat(1_000_000)), plainly)), MOST + 100)
  })

  it("are redacted before they are cut: half a key is not recognised", () => {
    const secret = "sk-secret"
    const redact = (whole: string): string => whole.replaceAll(secret, "*")
    // The cut would go through the key.
    for (let i = 0; i <= secret.length; i++) {
      const kept = JSON.stringify(inputMessages(messages(`${secret}${"x".repeat(MOST - i)}`), redact))
      assert.notInclude(kept, "secret")
      assert.notInclude(kept, "cret")
    }
    const call = [{ role: "assistant", content: [{ type: "tool-call", id: "1", name: "n", params: { key: secret } }] }]
    assert.notInclude(JSON.stringify(inputMessages(call as never, redact)), secret)
  })
})

describe("answers of spans", () => {
  it("text and calls, with their finish", () => {
    const usage = { inputTokens: {}, outputTokens: {} }
    const parts = [text("Hello."), { type: "finish", reason: "tool-calls", usage }]
    const [message, ...others] = outputMessages({ parts } as never, plainly) as ReadonlyArray<object>
    assert.deepInclude(message, {
      role: "assistant",
      parts: [{ type: "text", content: "Hello." }],
      finish_reason: "tool_calls"
    })
    assert.deepStrictEqual(others, [])
  })
})

describe("quote", () => {
  const span = (): [Tracer.Span, Array<readonly [string, unknown]>] => {
    const told: Array<readonly [string, unknown]> = []
    return [{ attribute: (key: string, value: unknown) => told.push([key, value]) } as unknown as Tracer.Span, told]
  }

  it("JSON, or nothing where somebody's redactor or data throws", () => {
    const [seen, told] = span()
    quote(seen, "a", () => [1])
    quote(seen, "b", () => {
      throw new Error("SECRET")
    })
    quote(seen, "c", () => 1n)
    assert.deepStrictEqual(told, [["a", "[1]"]])
  })
})
