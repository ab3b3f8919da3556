import { assert, describe, it } from "@effect/vitest"
import { attributesOf, errorType, providerName, snake } from "../../src/internal/attributes.ts"
import type { LlmEvent } from "../../src/LlmEvent.ts"

describe("attributes of events", () => {
  it("names as the conventions write them", () => {
    assert.deepStrictEqual(["Attempt", "inputTokens", "a", "", "aB1C"].map(snake), [
      "attempt",
      "input_tokens",
      "a",
      "",
      "a_b1_c"
    ])
  })

  it("of errors there are few classes", () => {
    const error = { tag: "ProviderError", message: "SECRET" }
    assert.strictEqual(errorType({ ...error, reason: "RateLimit" }), "RateLimit")
    assert.strictEqual(errorType(error), "_OTHER")
    assert.strictEqual(errorType({ ...error, tag: "CircuitOpen" }), "CircuitOpen")
    assert.strictEqual(errorType({ ...error, tag: "UnknownError" }), "_OTHER")
  })

  it("an event says all but its name, its call and its moment; of an error its facts and never its words", () => {
    const event = {
      _tag: "AttemptFailed",
      call: 1,
      at: 2,
      target: "openai",
      attempt: 1,
      durationMillis: 5,
      inputTokens: 7,
      error: {
        tag: "ProviderError",
        message: "SECRET",
        reason: "RateLimit",
        status: 429,
        code: "c",
        requestId: "r",
        retryAfter: 0
      }
    } as unknown as LlmEvent
    assert.deepStrictEqual(attributesOf(event), {
      "llm.target": "openai",
      "llm.attempt": 1,
      "llm.duration_millis": 5,
      "gen_ai.usage.input_tokens": 7,
      "error.type": "RateLimit",
      "llm.error.status": 429,
      "llm.error.code": "c",
      "llm.error.request_id": "r",
      "llm.error.retry_after": 0
    })
  })

  it("a provider that is called like a member of every object keeps its name", () => {
    assert.deepStrictEqual(["gemini", "openai", "constructor", "__proto__", "toString"].map(providerName), [
      "gcp.gemini",
      "openai",
      "constructor",
      "__proto__",
      "toString"
    ])
  })
})
