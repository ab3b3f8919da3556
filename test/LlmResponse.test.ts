import { assert, it } from "@effect/vitest"
import { Effect } from "effect"
import { LlmResponse } from "effect-resilient-llm"
import { ScriptedProvider } from "effect-resilient-llm/testing"
import { ask, failure, kinds, setUp, timed, vector } from "./support.ts"

const usage = { inputTokens: { total: 1 }, outputTokens: { total: 2 } }
const answer = (parts: LlmResponse.Answer["parts"]): LlmResponse.Answer => ({ parts, target: "t", provider: "p" })
const respond = (parts: LlmResponse.Answer["parts"]) => LlmResponse.fromAnswer(answer(parts), "provider", 0, [])

it("stream parts add up to the parts of a whole answer, signatures included", () => {
  const response = respond([
    { type: "response-metadata", modelId: "m-1", metadata: LlmResponse.httpMetadata({ requestId: "req-1" }) },
    { type: "reasoning-start", id: "0" },
    { type: "reasoning-delta", id: "0", delta: "Hm" },
    { type: "reasoning-delta", id: "0", delta: "m." },
    { type: "reasoning-end", id: "0", metadata: { anthropic: { signature: "s" } } },
    { type: "text-start", id: "1" },
    { type: "text-delta", id: "1", delta: "Hel" },
    { type: "text-delta", id: "1", delta: "lo." },
    { type: "text-end", id: "1" },
    { type: "tool-call", id: "c", name: "t", params: {} },
    { type: "finish", reason: "tool-calls", usage }
  ])
  assert.deepStrictEqual(response.content, [
    { type: "reasoning", text: "Hmm.", metadata: { anthropic: { signature: "s" } } },
    { type: "text", text: "Hello." },
    { type: "tool-call", id: "c", name: "t", params: {} }
  ])
  assert.strictEqual(response.text, "Hello.")
  assert.deepStrictEqual(
    [response.model, response.requestId, response.finishReason, response.usage, response.toolCalls.length],
    ["m-1", "req-1", "tool-calls", usage, 1]
  )
})

it("a whole answer as a stream, and back", () => {
  const parts: ReadonlyArray<LlmResponse.Part> = [
    { type: "reasoning", text: "Hmm.", metadata: { anthropic: { signature: "s" } } },
    { type: "text", text: "Hello." },
    { type: "finish", reason: "stop", usage }
  ]
  assert.deepStrictEqual(respond(LlmResponse.toStreamParts(parts)), respond(parts))
})

it("only a whole answer may be replayed", () => {
  const finish = (reason: "stop" | "length" | "content-filter" | "error" | "tool-calls") =>
    ({ type: "finish", reason, usage }) as const
  const text = { type: "text", text: "Hello." } as const
  const good = [[text, finish("stop")], [
    { type: "tool-call", id: "c", name: "t", params: {} },
    finish("tool-calls")
  ]] as const
  for (const parts of good) assert.isTrue(LlmResponse.isReplayable(answer(parts)))
  const bad: ReadonlyArray<LlmResponse.Answer["parts"]> = [
    [],
    [finish("stop")],
    [text],
    [{ type: "text", text: "" }, finish("stop")],
    // A5: reasoning or white space alone is never kept.
    [{ type: "text", text: " \n" }, finish("stop")],
    [{ type: "reasoning", text: "Hm" }, finish("stop")],
    [{ type: "reasoning-start", id: "0" }, { type: "reasoning-delta", id: "0", delta: "Hm" }, finish("stop")],
    [text, finish("length")],
    [text, finish("content-filter")],
    [text, finish("error")],
    [text, { ...finish("stop"), metadata: { refusal: "No." } }],
    [{ type: "tool-call", id: "c", name: "t", params: "{\"broken" }, finish("tool-calls")]
  ]
  for (const parts of bad) assert.isFalse(LlmResponse.isReplayable(answer(parts)), JSON.stringify(parts))
  assert.isFalse(LlmResponse.isReplayable({ ...answer(good[0]), cut: true }))
})

it("A5: an answer of reasoning or white space alone cannot be used", () => {
  const finish = (reason: "stop" | "length" | "content-filter" | "tool-calls" | "unknown", metadata?: object) =>
    ({ type: "finish", reason, usage, ...metadata }) as LlmResponse.Part & LlmResponse.StreamPart
  const thought = { type: "reasoning", text: "Hm" } as const
  const blank = { type: "text", text: " \n\u00a0" } as const
  const nothing = { _tag: "MalformedResponse", problem: "the answer says nothing" }
  const empty = { _tag: "MalformedResponse", problem: "the answer is empty" }
  const policy = { _tag: "ContentPolicy" }
  const call = { type: "tool-call", id: "c", name: "t", params: {} } as const
  const file = { type: "file", mediaType: "image/png", data: "AQID" } as const
  const source = { type: "source", sourceType: "url", id: "s", url: "https://a.test/", title: "a" } as const
  const rows: ReadonlyArray<readonly [LlmResponse.Answer["parts"], unknown]> = [
    [[thought, finish("stop")], nothing],
    [[blank, finish("stop")], nothing],
    [[thought, blank, finish("stop")], nothing],
    [[thought, finish("tool-calls")], nothing],
    [[thought, finish("unknown")], nothing],
    [
      [{ type: "reasoning-delta", id: "0", delta: "Hm" }, { type: "text-delta", id: "1", delta: "\n" }, finish("stop")],
      nothing
    ],
    [[finish("stop")], empty],
    [[], empty],
    [[thought, finish("length")], undefined],
    [[blank, finish("length")], undefined],
    [[thought, call, finish("stop")], undefined],
    [[thought, file, finish("stop")], undefined],
    [[thought, source, finish("stop")], undefined],
    [[thought, { type: "text", text: " a" }, finish("stop")], undefined],
    [[finish("content-filter")], policy],
    [[finish("stop", { metadata: { refusal: "No." } })], policy],
    [[thought, finish("content-filter")], undefined]
  ]
  for (const [parts, reason] of rows) {
    assert.deepStrictEqual<unknown>(LlmResponse.unusable(parts), reason, JSON.stringify(parts))
  }
})

it.effect.each(kinds)("an answer without content: %s", (kind) =>
  vector(Effect.gen(function*() {
    const finish = (reason: "stop" | "length" | "content-filter", metadata?: { readonly refusal: string }) =>
      ({ type: "finish", reason, usage, ...(metadata === undefined ? undefined : { metadata }) }) as const
    const r = yield* setUp([[
      ScriptedProvider.answer([finish("stop")]),
      ScriptedProvider.answer([finish("content-filter")]),
      ScriptedProvider.answer([finish("stop", { refusal: "No." })]),
      ScriptedProvider.answer([{ type: "reasoning", text: "Hm" }, finish("stop")]),
      ScriptedProvider.answer([{ type: "text", text: " \n" }, finish("stop")]),
      ScriptedProvider.answer([finish("length")])
    ]], { retry: false, circuitBreaker: false })
    const reasons: Array<string> = []
    for (let i = 0; i < 5; i++) {
      const error = failure((yield* timed(ask(kind, r.client))).exit)
      assert.strictEqual(error._tag, "ProviderError")
      if (error._tag === "ProviderError") reasons.push(error.reason._tag)
    }
    const malformed = "MalformedResponse"
    assert.deepStrictEqual(reasons, [malformed, "ContentPolicy", "ContentPolicy", malformed, malformed])
    assert.strictEqual((yield* ask(kind, r.client)).text, "")
  })))
