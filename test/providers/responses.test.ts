import { assert, describe, it } from "@effect/vitest"
import { classify, ProviderError, TRUNCATED } from "effect-resilient-llm/LlmError"
import { fromAnswer, isReplayable } from "effect-resilient-llm/LlmResponse"
import * as Prompt from "effect/ai/Prompt"
import * as Response from "effect/ai/Response"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import {
  added,
  args,
  base,
  clock,
  compatible,
  completed,
  content,
  created,
  done,
  events,
  headers,
  make,
  message,
  problem,
  reasoner,
  reasoning,
  response,
  samples,
  search,
  sse,
  text,
  usage,
  weather
} from "./responses.samples.ts"
import { digest, hash, mutants, type Outcome, play, randomChunks, seeded, sent, wellFormed } from "./support.ts"

const bytes = (text: string) => new TextEncoder().encode(text)

/** The answer as the pipeline shows it, whole or streamed. */
const answer = (outcome: Outcome) =>
  fromAnswer({ parts: outcome.parts as never, target: "t", provider: "p" }, "provider", 0, { events: [] } as never)

describe("responses: answers", () => {
  for (const sample of samples) {
    const { body, streaming } = sample

    it.effect(`${sample.name}: decodes`, () =>
      Effect.gen(function*() {
        const random = seeded(hash(sample.name))
        for (let round = 0; round < 10; round++) {
          const outcome = yield* play(sample.make, {
            headers: streaming ? headers : { "x-request-id": "req_1" },
            body: randomChunks(bytes(body), random)
          }, streaming)
          assert.strictEqual(outcome.error, undefined)
          wellFormed(outcome)
          const got = answer(outcome)
          assert.deepStrictEqual(got.content, content as never)
          assert.strictEqual(got.finishReason, "tool-calls")
          assert.strictEqual(got.model, "m-1")
          assert.strictEqual(got.requestId, "req_1")
          assert.deepStrictEqual(got.usage, {
            inputTokens: { total: 10, uncached: 5, cacheRead: 4, cacheWrite: 1 },
            outputTokens: { total: 7, text: 5, reasoning: 2 }
          })
          assert.strictEqual(digest(outcome).metadata?.id, "resp_1")
          assert.isTrue(isReplayable({ parts: outcome.parts as never, target: "t", provider: "p" }))
        }
      }))

    it.effect(`${sample.name}: cut at any byte gives a typed result`, () =>
      Effect.gen(function*() {
        const all = bytes(body)
        for (let length = 0; length < all.length; length += 5) {
          const outcome = yield* play(
            sample.make,
            { headers: streaming ? headers : {}, body: [Uint8Array.from(all.subarray(0, length))] },
            streaming
          )
          wellFormed(outcome)
          if (outcome.error === undefined) {
            // Only what follows the terminal event may be missing.
            assert.deepStrictEqual(answer(outcome).content, content as never, `cut at ${length}`)
            assert.strictEqual(digest(outcome).finish?.reason, "tool-calls")
          } else {
            assert.strictEqual(outcome.error.reason._tag, "MalformedResponse", `cut at ${length}`)
            assert.isTrue(classify(outcome.error).retry)
            assert.strictEqual(digest(outcome).finish, undefined)
            assert.strictEqual(digest(outcome).toolCalls.length, 0)
            if (streaming && length > 0) assert.strictEqual(problem(outcome), TRUNCATED, `cut at ${length}`)
          }
        }
      }))

    it.effect(
      `${sample.name}: any JSON value in place of any other gives a typed result`,
      () =>
        Effect.gen(function*() {
          const values = [null, 0, -1, true, "", "x", [], {}, [null], { error: {} }, [[]], { text: 1 }]
          const pieces = streaming ? body.split("\n\n") : [body]
          let tried = 0
          for (let p = 0; p < pieces.length; p++) {
            const at = pieces[p]!.indexOf("{")
            if (at === -1) continue
            const head = pieces[p]!.slice(0, at)
            for (const mutant of mutants(JSON.parse(pieces[p]!.slice(at)), values)) {
              tried++
              const changed = pieces.map((piece, i) => i === p ? head + JSON.stringify(mutant) : piece).join("\n\n")
              const outcome = yield* play(
                sample.make,
                { headers: streaming ? headers : {}, body: changed },
                streaming
              )
              if (outcome.error !== undefined) assert.instanceOf(outcome.error, ProviderError, changed)
              else wellFormed(outcome)
            }
          }
          assert.isAbove(tried, 100)
        }),
      20_000
    )
  }

  it.effect("the reasoning of an answer goes along with the next request", () =>
    Effect.gen(function*() {
      for (const streaming of [false, true]) {
        const outcome = yield* play(make, {
          headers: streaming ? headers : {},
          body: streaming ? samples[1]!.body : samples[0]!.body
        }, streaming)
        const parts = outcome.parts.filter((part) => part.type !== "response-metadata" && part.type !== "finish")
        const schema = Schema.Array(
          streaming ? Response.StreamPart(undefined as never) : Response.Part(undefined as never)
        )
        const decoded = yield* Schema.decodeUnknownEffect(schema)(parts) as Effect.Effect<any>
        const { json } = yield* sent(reasoner, {
          prompt: Prompt.concat(Prompt.make("Hi"), Prompt.fromResponseParts(decoded))
        })
        assert.deepStrictEqual(json.input, [
          { role: "user", content: "Hi" },
          {
            type: "reasoning",
            id: "rs_1",
            summary: [{ type: "summary_text", text: "First\n\nthen" }],
            encrypted_content: "sealed"
          },
          { role: "assistant", content: "Grüezi 😀", phase: "final_answer" },
          { type: "function_call", call_id: "call_1", name: "weather", arguments: weather.arguments },
          { type: "function_call", call_id: "call_2", name: "clock", arguments: "{}" }
        ])
      }
    }))

  it.effect("finish reasons", () =>
    Effect.gen(function*() {
      const cases: ReadonlyArray<[object, string]> = [
        [{ status: "completed" }, "stop"],
        [{ status: "incomplete", incomplete_details: { reason: "max_output_tokens" } }, "length"],
        [{ status: "incomplete", incomplete_details: { reason: "content_filter" } }, "content-filter"],
        [{ status: "incomplete", incomplete_details: { reason: "max_tool_calls" } }, "other"],
        [{ status: "incomplete", incomplete_details: null }, "other"],
        [{}, "unknown"]
      ]
      for (const [more, reason] of cases) {
        const whole = yield* play(make, { body: JSON.stringify({ ...base, output: [message], usage, ...more }) }, false)
        assert.strictEqual(digest(whole).finish?.reason, reason)
        assert.strictEqual(digest(whole).text, "Grüezi 😀")
        const end = { type: "response.incomplete", response: { ...base, usage, ...more } }
        const streamed = yield* play(make, { headers, body: sse([created, text("Hi"), end]) }, true)
        assert.strictEqual(digest(streamed).finish?.reason, reason)
        assert.strictEqual(digest(streamed).text, "Hi")
      }
    }))

  it.effect("a call whose arguments were cut is no call", () =>
    Effect.gen(function*() {
      for (const given of ["", "{\"city\":"]) {
        for (const reason of ["max_output_tokens", "content_filter"]) {
          const end = { ...base, status: "incomplete", incomplete_details: { reason }, usage }
          const cut = { ...weather, status: "incomplete", arguments: given }
          const whole = yield* play(make, { body: JSON.stringify({ ...end, output: [clock, cut] }) }, false)
          const streamed = yield* play(make, {
            headers,
            body: sse([
              created,
              added({ ...clock, arguments: "" }, 0),
              args("{}", 0),
              done(clock, 0),
              added({ ...weather, arguments: "" }, 1),
              args(given, 1),
              { type: "response.incomplete", response: end }
            ])
          }, true)
          for (const outcome of [whole, streamed]) {
            assert.strictEqual(outcome.error, undefined)
            assert.deepStrictEqual(digest(outcome).toolCalls.map(({ name }) => name), ["clock"])
            assert.notStrictEqual(digest(outcome).finish?.reason, "tool-calls")
          }
        }
      }
    }))

  it.effect("refusals are told in the finish part, and are not replayable", () =>
    Effect.gen(function*() {
      const refused = { ...message, content: [{ type: "refusal", refusal: "I can't" }] }
      const whole = yield* play(make, { body: JSON.stringify({ ...response, output: [refused] }) }, false)
      const refusal = (delta: string) => ({ type: "response.refusal.delta", output_index: 0, content_index: 0, delta })
      const streamed = yield* play(make, {
        headers,
        body: sse([created, refusal("I "), refusal("can't"), done(refused, 0), completed()])
      }, true)
      const late = yield* play(make, { headers, body: sse([created, done(refused, 0), completed()]) }, true)
      for (const outcome of [whole, streamed, late]) {
        assert.strictEqual(outcome.error, undefined)
        assert.strictEqual(digest(outcome).text, "")
        assert.deepStrictEqual(digest(outcome).finish?.metadata, { refusal: "I can't" })
        assert.isFalse(isReplayable({ parts: outcome.parts as never, target: "t", provider: "p" }))
      }
    }))

  it.effect("reasoning in the open is reasoning without anything to send back", () =>
    Effect.gen(function*() {
      const open = { id: "rs", type: "reasoning", summary: [], content: [{ type: "reasoning_text", text: "Hm" }] }
      const whole = yield* play(compatible, { body: JSON.stringify({ ...response, output: [open, message] }) }, false)
      assert.deepStrictEqual(whole.parts[1], { type: "reasoning", text: "Hm" })
      const delta = (type: string, delta: string) => ({ type, output_index: 0, item_id: "rs", content_index: 0, delta })
      const streamed = yield* play(compatible, {
        headers,
        body: sse([
          created,
          delta("response.reasoning_text.delta", "H"),
          delta("response.reasoning_summary_text.delta", "short"), // of the same item, told twice
          delta("response.reasoning_text.delta", "m"),
          done(open, 0),
          text("Hi", 1),
          completed()
        ])
      }, true)
      assert.strictEqual(digest(streamed).reasoning, "Hm")
      assert.strictEqual(digest(streamed).text, "Hi")
      assert.isFalse(JSON.stringify([whole.parts[1], ...streamed.parts.slice(1)]).includes("openai"))
      // Nothing at all, as models that keep their reasoning to themselves tell it.
      const none = yield* play(make, {
        headers,
        body: sse([created, done({ id: "rs", type: "reasoning", summary: [] }, 0), text("Hi", 1), completed()])
      }, true)
      assert.isFalse(none.parts.some(({ type }) => type.startsWith("reasoning")))
    }))

  it.effect("items that come without deltas, or without an index, are not lost", () =>
    Effect.gen(function*() {
      const bare = events.filter(({ type }: any) => type === "response.created" || type === "response.output_item.done")
      const whole = yield* play(make, { headers, body: sse([...bare, completed()]) }, true)
      wellFormed(whole)
      assert.deepStrictEqual(answer(whole).content, content as never)

      const late = yield* play(make, {
        headers,
        body: sse([created, added({ ...weather, arguments: "" }, 0), done(weather, 0), completed()])
      }, true)
      wellFormed(late)
      assert.deepStrictEqual(digest(late).toolCalls.map(({ params }) => params), [{ city: "Zürich 😀" }])

      const ids = [reasoning, search, message, weather, clock].map(({ id }) => id)
      const unindexed = events.map((event) => {
        const { output_index, ...rest } = event as { readonly output_index?: number }
        return Object.assign(rest, { item_id: ids[output_index ?? -1] })
      })
      const outcome = yield* play(make, { headers, body: sse(unindexed) }, true)
      wellFormed(outcome)
      assert.deepStrictEqual(answer(outcome).content, content as never)
    }))

  it.effect("neighbouring messages are blocks of their own, also when they come mixed", () =>
    Effect.gen(function*() {
      const first = { ...message, phase: "commentary", content: [{ type: "output_text", text: "One." }] }
      const second = { ...message, content: [{ type: "output_text", text: "Two." }] }
      const outcome = yield* play(make, {
        headers,
        body: sse([created, text("One.", 0), done(first, 0), text("Two.", 1), done(second, 1), completed()])
      }, true)
      wellFormed(outcome)
      assert.deepStrictEqual(answer(outcome).content, [
        { type: "text", text: "One.", metadata: { openai: { phase: "commentary" } } },
        { type: "text", text: "Two.", metadata: { openai: { phase: "final_answer" } } }
      ])
      const mixed = yield* play(make, {
        headers,
        body: sse([created, text("One.", 0), text("Two.", 1), done(first, 0), done(second, 1), completed()])
      }, true)
      wellFormed(mixed)
      assert.strictEqual(digest(mixed).text, "One.Two.")
    }))

  it.effect("a stream without its terminal event is cut, whatever marker follows", () =>
    Effect.gen(function*() {
      const body = [created, text("Hi"), done(message, 0)]
      for (const rest of [[], ["[DONE]"], [{ type: "response.output_text.done", text: "Hi" }]]) {
        const outcome = yield* play(make, { headers, body: sse([...body, ...rest]) }, true)
        assert.strictEqual(problem(outcome), TRUNCATED)
        assert.strictEqual(digest(outcome).text, "Hi")
        assert.isTrue(classify(outcome.error!).retry)
      }
    }))
})
