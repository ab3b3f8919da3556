import { assert, describe, it } from "@effect/vitest"
import { classify, ProviderError, TRUNCATED } from "effect-resilient-llm/LlmError"
import { isReplayable, usageReported } from "effect-resilient-llm/LlmResponse"
import * as Effect from "effect/Effect"
import { anthropic, cohere, compatible, openAi, plain, samples } from "./samples.ts"
import { digest, hash, mutants, type Outcome, play, randomChunks, seeded, wellFormed } from "./support.ts"

const bytes = (text: string) => new TextEncoder().encode(text)
const sse = { "content-type": "text/event-stream" }
const problem = (outcome: Outcome): string | undefined =>
  outcome.error?.reason._tag === "MalformedResponse" ? outcome.error.reason.problem : outcome.error?.reason._tag

describe("answers", () => {
  it.effect("messages, streamed: a cut stream has told the tokens of its prompt, those of the cache among them", () =>
    Effect.gen(function*() {
      const { body } = samples.find(({ name }) => name === "messages, streamed")!
      const cut = body.slice(0, body.indexOf("Grüezi"))
      const outcome = yield* play(anthropic, { headers: sse, body: cut }, true)
      assert.strictEqual(problem(outcome), TRUNCATED)
      assert.deepStrictEqual(usageReported({ parts: outcome.parts as never, target: "t", provider: "p" }), {
        inputTokens: 10
      })
    }))

  for (const sample of samples) {
    it.effect(`${sample.name}: decodes`, () =>
      Effect.gen(function*() {
        const random = seeded(hash(sample.name))
        for (let round = 0; round < 10; round++) {
          const outcome = yield* play(sample.make, {
            headers: { "x-request-id": "req_1", ...(sample.streaming ? sse : { "content-type": "application/json" }) },
            body: randomChunks(bytes(sample.body), random)
          }, sample.streaming)
          assert.strictEqual(outcome.error, undefined)
          const got = digest(outcome)
          assert.strictEqual(got.text, sample.text)
          assert.strictEqual(got.reasoning, sample.reasoning ?? "")
          assert.deepStrictEqual(
            got.toolCalls,
            (sample.toolCalls ?? []).map(({ id, name, params }) => ({ type: "tool-call", id, name, params }))
          )
          assert.strictEqual(got.finish?.reason, sample.reason)
          assert.deepStrictEqual(got.finish?.usage, sample.usage)
          assert.strictEqual(got.requestId, "req_1")
          wellFormed(outcome)
        }
      }))

    it.effect(`${sample.name}: cut at any byte gives a typed result`, () =>
      Effect.gen(function*() {
        const all = bytes(sample.body)
        const step = sample.streaming ? 5 : 1
        for (let length = 0; length < all.length; length += step) {
          const outcome = yield* play(
            sample.make,
            { headers: sample.streaming ? sse : {}, body: [Uint8Array.from(all.subarray(0, length))] },
            sample.streaming
          )
          wellFormed(outcome)
          if (outcome.error === undefined) {
            // Only what follows the terminal signal may be missing.
            const got = digest(outcome)
            assert.strictEqual(got.text, sample.text, `cut at ${length}`)
            assert.strictEqual(got.toolCalls.length, sample.toolCalls?.length ?? 0, `cut at ${length}`)
            assert.strictEqual(got.finish?.reason, sample.reason)
          } else {
            assert.strictEqual(outcome.error.reason._tag, "MalformedResponse", `cut at ${length}`)
            assert.isTrue(classify(outcome.error).retry)
            assert.strictEqual(digest(outcome).finish, undefined)
            assert.strictEqual(digest(outcome).toolCalls.length, 0)
            if (sample.streaming && length > 0) assert.strictEqual(problem(outcome), TRUNCATED, `cut at ${length}`)
          }
        }
      }))

    it.effect(`${sample.name}: damaged anywhere gives a typed result`, () =>
      Effect.gen(function*() {
        const random = seeded(hash(sample.name) + 1)
        const junk = [
          "",
          "null",
          "0",
          "[]",
          "{}",
          "\"x\"",
          "\u0000",
          "é",
          "}",
          "]",
          ":",
          ",",
          "-1",
          "1e999",
          "true",
          "\n",
          "\r"
        ]
        for (let round = 0; round < 150; round++) {
          const at = Math.floor(random() * sample.body.length)
          const cut = Math.floor(random() * 12)
          const body = sample.body.slice(0, at) + junk[Math.floor(random() * junk.length)]! +
            sample.body.slice(at + cut)
          const outcome = yield* play(
            sample.make,
            { headers: sample.streaming ? sse : {}, body: randomChunks(bytes(body), random) },
            sample.streaming
          )
          if (outcome.error !== undefined) assert.instanceOf(outcome.error, ProviderError, JSON.stringify(body))
          else wellFormed(outcome)
        }
      }))

    it.effect(`${sample.name}: any JSON value in place of any other gives a typed result`, () =>
      Effect.gen(function*() {
        const values = [null, 0, -1, 1.5, true, "", "x", [], {}, [null], { error: {} }, [[]], { text: 1 }]
        const pieces = sample.streaming ? sample.body.split(/\r?\n\r?\n/) : [sample.body]
        let tried = 0
        for (let p = 0; p < pieces.length; p++) {
          const at = pieces[p]!.indexOf("{")
          if (at === -1) continue
          const head = pieces[p]!.slice(0, at)
          for (const mutant of mutants(JSON.parse(pieces[p]!.slice(at)), values)) {
            tried++
            const body = pieces.map((piece, i) => i === p ? head + JSON.stringify(mutant) : piece).join("\n\n")
            const outcome = yield* play(sample.make, { headers: sample.streaming ? sse : {}, body }, sample.streaming)
            if (outcome.error !== undefined) assert.instanceOf(outcome.error, ProviderError, body)
            else wellFormed(outcome)
          }
        }
        assert.isAbove(tried, 100)
      }))
  }

  it.effect("a stream whose finish reason came still needs its terminal signal", () =>
    Effect.gen(function*() {
      for (const make of [openAi, anthropic]) {
        const body = plain(make, "Hi")
        const cut = body.slice(0, body.indexOf(make === openAi ? "data: [DONE]" : "event: message_stop"))
        const outcome = yield* play(make, { headers: sse, body: cut }, true)
        assert.strictEqual(problem(outcome), TRUNCATED)
        assert.strictEqual(digest(outcome).text, "Hi")
      }
      // Other servers may leave the marker out, but not the finish reason.
      const body = plain(compatible, "Hi")
      const whole = yield* play(compatible, { headers: sse, body: body.slice(0, body.indexOf("data: [DONE]")) }, true)
      assert.strictEqual(whole.error, undefined)
      const cut = yield* play(compatible, { headers: sse, body: body.slice(0, body.indexOf("data: ", 10)) }, true)
      assert.strictEqual(problem(cut), TRUNCATED)
    }))

  it.effect("takes a marker with blanks behind it", () =>
    Effect.gen(function*() {
      const body = plain(openAi, "Hi").replace("[DONE]", "[DONE]  ")
      assert.strictEqual((yield* play(openAi, { headers: sse, body }, true)).error, undefined)
    }))

  it.effect("an error inside a 200 has the class of the error, after what came before it", () =>
    Effect.gen(function*() {
      const overloaded =
        "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"Overloaded\"}  }\n\n"
      const first = yield* play(anthropic, { headers: sse, body: overloaded }, true)
      assert.deepStrictEqual(first.parts, [])
      assert.strictEqual(problem(first), "Overloaded")
      assert.strictEqual(first.error?.status, undefined)

      const body = plain(anthropic, "Hi")
      const later = yield* play(anthropic, {
        headers: sse,
        body: body.slice(0, body.indexOf("event: content_block_stop")) + overloaded
      }, true)
      assert.strictEqual(digest(later).text, "Hi")
      assert.strictEqual(problem(later), "Overloaded")

      const chat = yield* play(openAi, {
        headers: sse,
        body: "data: {\"error\":{\"message\":\"…\",\"type\":\"server_error\",\"code\":null}}\n\ndata: [DONE]\n\n"
      }, true)
      assert.strictEqual(problem(chat), "Server")
      const end = yield* play(cohere, {
        headers: sse,
        body:
          "event: message-end\ndata: {\"type\":\"message-end\",\"delta\":{\"finish_reason\":\"ERROR\",\"error\":\"…\"}}\n\n"
      }, true)
      assert.strictEqual(problem(end), "Server")
      const timeout = yield* play(cohere, { body: "{\"message\":{},\"finish_reason\":\"TIMEOUT\"}" }, false)
      assert.strictEqual(problem(timeout), "Timeout")
      const choice = yield* play(compatible, {
        body:
          "{\"choices\":[{\"message\":{\"content\":\"H\"},\"finish_reason\":\"error\",\"error\":{\"code\":502,\"message\":\"…\"}}]}"
      }, false)
      assert.strictEqual(problem(choice), "Server")
      const whole = yield* play(compatible, { body: "{\"error\":{\"code\":429,\"message\":\"…\"}}" }, false)
      assert.strictEqual(problem(whole), "RateLimit")
    }))

  it.effect("a server that answers a stream request with JSON is understood", () =>
    Effect.gen(function*() {
      const body = JSON.stringify({ id: "c", choices: [{ message: { content: "Hi" }, finish_reason: "stop" }] })
      const outcome = yield* play(
        compatible,
        { headers: { "content-type": "application/json; charset=utf-8" }, body },
        true
      )
      wellFormed(outcome)
      assert.strictEqual(digest(outcome).text, "Hi")
      const error = yield* play(compatible, {
        headers: { "content-type": "application/json" },
        body: "{\"error\":{\"code\":429}}"
      }, true)
      assert.strictEqual(problem(error), "RateLimit")
    }))

  it.effect("refusals are told in the finish part, and are not replayable", () =>
    Effect.gen(function*() {
      const whole = yield* play(openAi, {
        body: JSON.stringify({ choices: [{ message: { content: null, refusal: "I can't" }, finish_reason: "stop" }] })
      }, false)
      assert.deepStrictEqual(digest(whole).finish?.metadata, { refusal: "I can't" })
      assert.isFalse(isReplayable({ parts: whole.parts as never, target: "t", provider: "p" }))
      const streamed = yield* play(openAi, {
        headers: sse,
        body:
          "data: {\"choices\":[{\"delta\":{\"refusal\":\"I \"}}]}\n\ndata: {\"choices\":[{\"delta\":{\"refusal\":\"can't\"},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n"
      }, true)
      assert.deepStrictEqual(digest(streamed).finish?.metadata, { refusal: "I can't" })
      const claude = yield* play(anthropic, {
        body: JSON.stringify({ content: [], stop_reason: "refusal", stop_details: { type: "refusal", category: "x" } })
      }, false)
      assert.strictEqual(digest(claude).finish?.reason, "content-filter")
      assert.deepStrictEqual(digest(claude).finish?.metadata, { refusal: { type: "refusal", category: "x" } })
    }))

  it.effect("arguments that do not parse stay a text, and are no call when the token limit cut them", () =>
    Effect.gen(function*() {
      const answer = (reason: string) =>
        JSON.stringify({
          choices: [{
            message: { tool_calls: [{ id: "c", function: { name: "f", arguments: "{\"a\":" } }] },
            finish_reason: reason
          }]
        })
      const streamed = (reason: string) =>
        `data: {"choices":[{"delta":{"tool_calls":[{"index":0,"id":"c","function":{"name":"f","arguments":"{\\"a\\":"}}]},"finish_reason":"${reason}"}]}\n\ndata: [DONE]\n\n`
      for (const streaming of [false, true]) {
        const body = streaming ? streamed : answer
        const raw = yield* play(openAi, { headers: streaming ? sse : {}, body: body("tool_calls") }, streaming)
        assert.deepStrictEqual(digest(raw).toolCalls, [{ type: "tool-call", id: "c", name: "f", params: "{\"a\":" }])
        assert.isFalse(isReplayable({ parts: raw.parts as never, target: "t", provider: "p" }))
        const cut = yield* play(openAi, { headers: streaming ? sse : {}, body: body("length") }, streaming)
        assert.deepStrictEqual(digest(cut).toolCalls, [])
        assert.strictEqual(digest(cut).finish?.reason, "length")
      }
    }))

  it.effect("reasoning keeps what its vendor needs to take it back", () =>
    Effect.gen(function*() {
      const [whole, streamed] = samples.filter((sample) => sample.make === anthropic)
      const first = yield* play(anthropic, { body: whole!.body }, false)
      assert.deepStrictEqual(first.parts[1], {
        type: "reasoning",
        text: "Hm",
        metadata: { anthropic: { signature: "sig" } }
      })
      const second = yield* play(anthropic, { headers: sse, body: streamed!.body }, true)
      const end = second.parts.find((part) => part.type === "reasoning-end")
      assert.deepStrictEqual(end, { type: "reasoning-end", id: "0", metadata: { anthropic: { signature: "sig" } } })
      const redacted = yield* play(anthropic, {
        body: JSON.stringify({
          content: [{ type: "redacted_thinking", data: "xyz" }, { type: "text", text: "Hi" }],
          stop_reason: "end_turn"
        })
      }, false)
      assert.deepStrictEqual(redacted.parts[1], {
        type: "reasoning",
        text: "",
        metadata: { anthropic: { redactedData: "xyz" } }
      })
      const plan = yield* play(cohere, { body: samples.find((sample) => sample.make === cohere)!.body }, false)
      assert.deepStrictEqual(plan.parts[1], { type: "reasoning", text: "Hm", metadata: { cohere: { toolPlan: true } } })
    }))

  it.effect("unknown numbers are absent, told zeros stay", () =>
    Effect.gen(function*() {
      const answer = (usage: unknown) =>
        JSON.stringify({ choices: [{ message: { content: "Hi" }, finish_reason: "stop" }], usage })
      const usage = (given: unknown) =>
        Effect.map(play(openAi, { body: answer(given) }, false), (o) => digest(o).finish?.usage as unknown)
      assert.deepStrictEqual(yield* usage(null), { inputTokens: {}, outputTokens: {} })
      assert.deepStrictEqual(yield* usage({ prompt_tokens: "7", completion_tokens: -1 }), {
        inputTokens: {},
        outputTokens: {}
      })
      assert.deepStrictEqual(yield* usage({ prompt_tokens: 0, completion_tokens: 0 }), {
        inputTokens: { total: 0 },
        outputTokens: { total: 0 }
      })
    }))
})
