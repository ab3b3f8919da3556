import { assert, describe, it } from "@effect/vitest"
import { Cause, Effect, Exit, Random, Redacted } from "effect"
import { LlmClient } from "effect-resilient-llm"
import { LlmConfigError } from "effect-resilient-llm/LlmError"
import { OpenAi } from "effect-resilient-llm/providers"
import * as FaultServer from "effect-resilient-llm/testing/FaultServer"
import { FetchHttpClient } from "effect/http"
import { execFile } from "node:child_process"
import { existsSync, globSync, readFileSync } from "node:fs"
import { connect } from "node:net"
import { fileURLToPath } from "node:url"
import OpenAI from "openai"

type Name = "openai" | "anthropic" | "cohere"
const names: ReadonlyArray<Name> = ["openai", "anthropic", "cohere"]
const paths = { openai: "/chat/completions", anthropic: "/v1/messages", cohere: "/v2/chat" }
const idHeader = { openai: "x-request-id", anthropic: "request-id", cohere: "x-debug-trace-id" }

const bodyOf = (stream: boolean) => ({
  model: "some-model",
  max_tokens: 100,
  messages: [{ role: "user", content: "private question" }],
  ...(stream ? { stream, stream_options: { include_usage: true } } : undefined)
})

const post = (server: FaultServer.FaultServer, name: Name, stream: boolean, signal?: AbortSignal) =>
  fetch(server[name] + paths[name], {
    method: "POST",
    headers: { "content-type": "application/json", authorization: "Bearer sk-secret", "x-api-key": "sk-secret" },
    body: JSON.stringify(bodyOf(stream)),
    ...(signal === undefined ? undefined : { signal })
  })

interface Seen {
  readonly status: number
  readonly headers: Headers
  readonly text: string
  /** How the body broke. */
  readonly broken: string | undefined
}

const codeOf = (error: unknown): string => {
  const { cause, code, message } = error as { cause?: unknown; code?: string; message?: string }
  return code ?? (cause === undefined ? message ?? "" : codeOf(cause))
}

/** Everything that arrives, and how it ends. */
const ask = (server: FaultServer.FaultServer, name: Name, stream: boolean): Effect.Effect<Seen> =>
  Effect.promise(async () => {
    const response = await post(server, name, stream)
    const decoder = new TextDecoder()
    let text = ""
    let broken: string | undefined
    try {
      for await (const chunk of response.body!) text += decoder.decode(chunk, { stream: true })
    } catch (error) {
      broken = codeOf(error)
    }
    return { status: response.status, headers: response.headers, text, broken }
  })

/** What arrives of an answer that never ends: reads until `enough`, then leaves. */
const peek = (server: FaultServer.FaultServer, name: Name, stream: boolean, enough: (text: string) => boolean) =>
  Effect.promise(async () => {
    const controller = new AbortController()
    const response = await post(server, name, stream, controller.signal)
    const reader = response.body!.getReader()
    const decoder = new TextDecoder()
    let text = ""
    while (!enough(text)) {
      const { done, value } = await reader.read()
      if (done) throw new Error(`The answer ended: ${text}`)
      text += decoder.decode(value, { stream: true })
    }
    // Nothing more comes: a read stays pending.
    const quiet = await Promise.race([
      reader.read().then(() => false, () => false),
      new Promise<boolean>((resolve) => setTimeout(resolve, 15, true))
    ])
    controller.abort()
    return { text, quiet, status: response.status }
  })

const until = (server: FaultServer.FaultServer, done: (stats: FaultServer.Stats) => boolean) =>
  Effect.gen(function*() {
    while (!done(yield* server.stats)) yield* Effect.sleep("2 millis")
  }).pipe(Effect.timeout("10 seconds"))

/** Asks, sees that not even headers come, and leaves. */
const unanswered = (server: FaultServer.FaultServer, name: Name, stream: boolean) =>
  Effect.gen(function*() {
    const controller = new AbortController()
    const outcome = post(server, name, stream, controller.signal).then(() => "answered", (error: Error) => error.name)
    yield* until(server, ({ active }) => active === 1)
    yield* Effect.sleep("15 millis")
    controller.abort()
    assert.strictEqual(yield* Effect.promise(() => outcome), "AbortError")
    yield* until(server, ({ aborted, active }) => aborted === 1 && active === 0)
  })

interface SseEvent {
  readonly event: string | undefined
  readonly data: string
}

/** Strict: `event:` and `data:` lines with one blank between field and value, LF, one blank line after each event. */
const parseSse = (text: string): ReadonlyArray<SseEvent> => {
  assert.isFalse(text.includes("\r"))
  assert.isTrue(text === "" || text.endsWith("\n\n"), JSON.stringify(text.slice(-80)))
  return text.split("\n\n").slice(0, -1).filter((block) => !block.startsWith(":")).map((block) => {
    const match = /^(?:event: (?<event>\S+)\n)?data: (?<data>.+)$/u.exec(block)
    assert.isNotNull(match, `not an event: ${JSON.stringify(block)}`)
    return { event: match?.groups?.["event"], data: match?.groups?.["data"] ?? "" }
  })
}

// oxlint-disable-next-line typescript/no-explicit-any
type Json = any
const jsonOf = (event: SseEvent): Json => JSON.parse(event.data)
const isDone = (event: SseEvent | undefined): boolean => event?.data === "[DONE]"

/** Text, reasoning and tool arguments of a stream, as a client puts them together. */
const assemble = (name: Name, text: string) => {
  const out = { text: "", reasoning: "", tools: [] as Array<{ id: string; name: string; params: string }>, finish: "" }
  for (const event of parseSse(text)) {
    if (isDone(event)) continue
    const data = jsonOf(event)
    if (name === "openai") {
      assert.isUndefined(event.event)
      const choice = data.choices?.[0]
      if (choice === undefined) continue
      out.text += choice.delta.content ?? ""
      out.reasoning += choice.delta.reasoning_content ?? ""
      for (const call of choice.delta.tool_calls ?? []) {
        const tool = out.tools[call.index] ??= { id: call.id, name: call.function.name, params: "" }
        tool.params += call.function.arguments
      }
      out.finish = choice.finish_reason ?? out.finish
    } else {
      assert.strictEqual(event.event, data.type)
      if (name === "anthropic") {
        if (data.type === "content_block_start" && data.content_block.type === "tool_use") {
          out.tools.push({ id: data.content_block.id, name: data.content_block.name, params: "" })
        }
        out.text += data.delta?.text ?? ""
        out.reasoning += data.delta?.thinking ?? ""
        if (data.delta?.partial_json !== undefined) out.tools.at(-1)!.params += data.delta.partial_json
        out.finish = data.delta?.stop_reason ?? out.finish
      } else {
        const message = data.delta?.message
        if (data.type === "content-delta") {
          out.text += message.content.text ?? ""
          out.reasoning += message.content.thinking ?? ""
        }
        if (data.type === "tool-call-start") {
          out.tools.push({ id: message.tool_calls.id, name: message.tool_calls.function.name, params: "" })
        }
        if (data.type === "tool-call-delta") out.tools[data.index]!.params += message.tool_calls.function.arguments
        out.finish = data.delta?.finish_reason ?? out.finish
      }
    }
  }
  return out
}

const terminal = (name: Name, text: string): boolean =>
  name === "anthropic" ? text.includes("event: message_stop") : text.endsWith("data: [DONE]\n\n")

/** Runs a body for each wire format, streaming and not. */
const each = (
  title: string,
  body: (
    name: Name,
    stream: boolean,
    server: FaultServer.FaultServer
  ) => Effect.Effect<void, Cause.TimeoutError | LlmConfigError>
) => {
  for (const name of names) {
    for (const stream of [false, true]) {
      it.live(`${title}: ${name} ${stream ? "stream" : "json"}`, () =>
        Effect.flatMap(FaultServer.make(), (server) => body(name, stream, server)))
    }
  }
}

describe("FaultServer", () => {
  describe("healthy answers", () => {
    it.live("openai json", () =>
      Effect.gen(function*() {
        const server = yield* FaultServer.make()
        yield* server.play(FaultServer.ok({
          text: "Hi there.",
          usage: { inputTokens: 12, outputTokens: 5, cachedInputTokens: 3, reasoningTokens: 2 }
        }))
        const { headers, status, text } = yield* ask(server, "openai", false)
        const body = JSON.parse(text)
        assert.strictEqual(status, 200)
        assert.strictEqual(headers.get("content-type"), "application/json")
        assert.match(body.id, /^chatcmpl-[A-Za-z0-9]{29}$/u)
        assert.strictEqual(body.object, "chat.completion")
        assert.strictEqual(body.model, "some-model")
        assert.deepStrictEqual(body.choices, [{
          index: 0,
          message: { role: "assistant", content: "Hi there.", refusal: null, annotations: [] },
          logprobs: null,
          finish_reason: "stop"
        }])
        assert.deepInclude(body.usage, { prompt_tokens: 12, completion_tokens: 5, total_tokens: 17 })
        assert.strictEqual(body.usage.prompt_tokens_details.cached_tokens, 3)
        assert.strictEqual(body.usage.completion_tokens_details.reasoning_tokens, 2)
        assert.match(headers.get("x-request-id")!, /^req_[0-9a-f]{32}$/u)
        assert.strictEqual(headers.get("x-ratelimit-remaining-requests"), "9999")
        assert.isNull(headers.get("retry-after"))
      }))

    it.live("anthropic json: cached tokens are outside of input_tokens", () =>
      Effect.gen(function*() {
        const server = yield* FaultServer.make()
        yield* server.play(FaultServer.ok({ usage: { inputTokens: 12, outputTokens: 5, cachedInputTokens: 3 } }))
        const { headers, text } = yield* ask(server, "anthropic", false)
        const body = JSON.parse(text)
        assert.match(body.id, /^msg_01[A-Za-z0-9]{22}$/u)
        assert.strictEqual(body.type, "message")
        assert.strictEqual(body.stop_reason, "end_turn")
        assert.deepInclude(body.usage, { input_tokens: 9, cache_read_input_tokens: 3, output_tokens: 5 })
        assert.match(headers.get("request-id")!, /^req_011C/u)
        assert.match(headers.get("anthropic-ratelimit-requests-reset")!, /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$/u)
      }))

    it.live("cohere json", () =>
      Effect.gen(function*() {
        const server = yield* FaultServer.make()
        yield* server.play(FaultServer.ok({ text: "Hi.", usage: { inputTokens: 12, outputTokens: 5 } }))
        const body = JSON.parse((yield* ask(server, "cohere", false)).text)
        assert.match(body.id, /^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-a[0-9a-f]{3}-[0-9a-f]{12}$/u)
        assert.deepStrictEqual(body.message, { role: "assistant", content: [{ type: "text", text: "Hi." }] })
        assert.strictEqual(body.finish_reason, "COMPLETE")
        assert.deepStrictEqual(body.usage.tokens, { input_tokens: 12, output_tokens: 5 })
      }))

    it.live("openai stream: role, deltas, finish, usage, [DONE]", () =>
      Effect.gen(function*() {
        const server = yield* FaultServer.make()
        yield* server.play(FaultServer.ok({ chunks: ["A", "", "ü\n"], usage: { inputTokens: 1, outputTokens: 2 } }))
        const { headers, text } = yield* ask(server, "openai", true)
        assert.strictEqual(headers.get("content-type"), "text/event-stream; charset=utf-8")
        const events = parseSse(text)
        assert.isTrue(events.every((event) => event.event === undefined))
        assert.isTrue(isDone(events.at(-1)))
        const chunks = events.slice(0, -1).map(jsonOf)
        assert.deepStrictEqual(chunks.map((chunk) => chunk.choices[0]?.delta), [
          { role: "assistant", content: "", refusal: null },
          { content: "A" },
          { content: "" },
          { content: "ü\n" },
          {},
          undefined
        ])
        assert.deepStrictEqual(chunks.map((chunk) => chunk.choices[0]?.finish_reason), [
          null,
          null,
          null,
          null,
          "stop",
          undefined
        ])
        assert.deepStrictEqual(chunks.map((chunk) => chunk.usage?.total_tokens), [
          ...Array.from({ length: 5 }, () => undefined),
          3
        ])
        assert.strictEqual(new Set(chunks.map((chunk) => chunk.id)).size, 1)
      }))

    it.live("openai stream: usage only when asked for", () =>
      Effect.gen(function*() {
        const server = yield* FaultServer.make()
        const text = yield* Effect.promise(async () => {
          const body = JSON.stringify({ model: "m", messages: [], stream: true })
          return (await fetch(`${server.openai}/chat/completions`, { method: "POST", body })).text()
        })
        const chunks = parseSse(text).slice(0, -1).map(jsonOf)
        assert.isTrue(chunks.every((chunk) => !("usage" in chunk) && chunk.choices.length === 1))
      }))

    it.live("anthropic stream: the sequence of events", () =>
      Effect.gen(function*() {
        const server = yield* FaultServer.make()
        yield* server.play(FaultServer.ok({
          reasoning: "Let me see.",
          text: "Two words.",
          toolCalls: [{ name: "clock" }, { name: "weather", params: { city: "Köln" } }],
          usage: { inputTokens: 10, outputTokens: 20, cachedInputTokens: 4 }
        }))
        const { text } = yield* ask(server, "anthropic", true)
        const events = parseSse(text)
        assert.deepStrictEqual(events.map((event) => event.event), [
          "message_start",
          "content_block_start",
          "ping",
          "content_block_delta",
          "content_block_delta",
          "content_block_delta",
          "content_block_delta",
          "content_block_stop",
          "content_block_start",
          "content_block_delta",
          "content_block_delta",
          "content_block_stop",
          "content_block_start",
          "content_block_delta",
          "content_block_stop",
          "content_block_start",
          "content_block_delta",
          "content_block_delta",
          "content_block_delta",
          "content_block_stop",
          "message_delta",
          "message_stop"
        ])
        assert.deepStrictEqual(
          events.map(jsonOf).filter((data) => data.type === "content_block_start").map((data) => data.index),
          [0, 1, 2, 3]
        )
        assert.deepInclude(jsonOf(events[0]!).message.usage, { input_tokens: 6, cache_read_input_tokens: 4 })
        assert.strictEqual(jsonOf(events.at(-2)!).usage.output_tokens, 20)
        assert.strictEqual(jsonOf(events.at(-2)!).delta.stop_reason, "tool_use")
      }))

    it.live("cohere stream: the sequence of events", () =>
      Effect.gen(function*() {
        const server = yield* FaultServer.make()
        yield* server.play(FaultServer.ok({ reasoning: "Hm.", text: "Two words.", toolCalls: [{ name: "clock" }] }))
        const { headers, text } = yield* ask(server, "cohere", true)
        assert.match(headers.get("x-debug-trace-id")!, /^[0-9a-f]{32}$/u)
        const events = parseSse(text)
        assert.deepStrictEqual(events.map((event) => event.event), [
          "message-start",
          "content-start",
          "content-delta",
          "content-end",
          "content-start",
          "content-delta",
          "content-delta",
          "content-end",
          "tool-plan-delta",
          "tool-call-start",
          "tool-call-delta",
          "tool-call-end",
          "message-end",
          undefined
        ])
        assert.isTrue(isDone(events.at(-1)))
        assert.strictEqual(jsonOf(events.at(-2)!).delta.finish_reason, "TOOL_CALL")
      }))

    each("says the same either way", (name, stream, server) =>
      Effect.gen(function*() {
        const toolCalls = [{ name: "weather", params: { town: "in Köl🌍n", days: 3 }, id: "call-7" }, {
          name: "broken",
          params: "{\"a"
        }]
        yield* server.play(FaultServer.ok({ reasoning: "Step one.", text: "Grüße, 世界!", toolCalls }))
        const { headers, text } = yield* ask(server, name, stream)
        assert.isNotNull(headers.get(idHeader[name]))
        if (stream) {
          const answer = assemble(name, text)
          assert.strictEqual(answer.text, "Grüße, 世界!")
          assert.strictEqual(answer.reasoning, "Step one.")
          assert.deepStrictEqual(answer.tools.map((tool) => [tool.name, tool.params]), [
            ["weather", "{\"town\":\"in Köl🌍n\",\"days\":3}"],
            ["broken", "{\"a"]
          ])
          assert.strictEqual(answer.tools[0]?.id, "call-7")
          assert.notMatch(text, /\\ud[89ab]/u) // no character is split over two deltas
          assert.isTrue(terminal(name, text))
        } else {
          const body = JSON.parse(text)
          const message = name === "openai" ? body.choices[0].message : name === "cohere" ? body.message : body
          const said = name === "openai"
            ? [message.reasoning_content, message.content]
            : message.content.filter((part: Json) => part.type !== "tool_use").map((part: Json) =>
              part.thinking ?? part.text
            )
          assert.deepStrictEqual(said, ["Step one.", "Grüße, 世界!"])
          const calls = name === "anthropic"
            ? message.content.filter((part: Json) => part.type === "tool_use").map((
              part: Json
            ) => [part.name, part.input])
            : message.tool_calls.map((call: Json) => [call.function.name, call.function.arguments])
          assert.deepStrictEqual(
            calls[0],
            ["weather", name === "anthropic" ? toolCalls[0]!.params : JSON.stringify(toolCalls[0]!.params)]
          )
          assert.deepStrictEqual(calls[1], ["broken", "{\"a"])
        }
        const finish = { openai: "tool_calls", anthropic: "tool_use", cohere: "TOOL_CALL" }[name]
        assert.isTrue(text.includes(`"${finish}"`))
      }))

    each("length, refusal and empty text", (name, stream, server) =>
      Effect.gen(function*() {
        yield* server.play(
          FaultServer.ok({ finish: "length" }),
          FaultServer.ok({ finish: "content-filter" }),
          FaultServer.ok({ text: "" })
        )
        const finish = { openai: "length", anthropic: "max_tokens", cohere: "MAX_TOKENS" }[name]
        assert.isTrue((yield* ask(server, name, stream)).text.includes(`"${finish}"`))
        const refusal = { openai: "content_filter", anthropic: "refusal", cohere: "ERROR" }[name]
        assert.isTrue((yield* ask(server, name, stream)).text.includes(`"${refusal}"`))
        const empty = (yield* ask(server, name, stream)).text
        if (stream) {
          assert.strictEqual(assemble(name, empty).text, "")
          assert.isTrue(terminal(name, empty))
        } else assert.isFalse(empty.includes("simulated"))
      }))

    it.live("echoes nothing of the prompt, unless reply does", () =>
      Effect.gen(function*() {
        const silent = yield* FaultServer.make()
        const parrot = yield* FaultServer.make({
          reply: (request) => `You said: ${(request.body as Json).messages[0].content}`
        })
        const broken = yield* FaultServer.make({
          reply: () => {
            throw new Error("oops")
          }
        })
        for (const name of names) {
          for (const stream of [false, true]) {
            assert.isFalse((yield* ask(silent, name, stream)).text.includes("private"))
            const { text } = yield* ask(parrot, name, stream)
            if (stream) assert.strictEqual(assemble(name, text).text, "You said: private question")
            else assert.isTrue(text.includes("You said: private question"))
          }
        }
        const failed = yield* ask(broken, "openai", false)
        assert.strictEqual(failed.status, 500)
        assert.strictEqual(failed.text, "The reply function failed: Error: oops")
      }))

    it.live("two servers give the same ids", () =>
      Effect.gen(function*() {
        const one = yield* FaultServer.make()
        const two = yield* FaultServer.make()
        const id = (seen: Seen) => [JSON.parse(seen.text).id, seen.headers.get("x-request-id")]
        const first = id(yield* ask(one, "openai", false))
        assert.deepStrictEqual(id(yield* ask(two, "openai", false)), first)
        assert.notDeepEqual(id(yield* ask(one, "openai", false)), first)
      }))
  })

  describe("errors", () => {
    const typeOf = (name: Name, text: string): string | undefined => {
      const body = JSON.parse(text)
      return name === "openai"
        ? body.error.code ?? body.error.type
        : name === "anthropic"
        ? body.error.type
        : body.message
    }
    const rows: ReadonlyArray<readonly [FaultServer.Fault, Record<Name, readonly [number, string]>]> = [
      [FaultServer.status(429), {
        openai: [429, "rate_limit_exceeded"],
        anthropic: [429, "rate_limit_error"],
        cohere: [429, "trial token rate limit exceeded, limit is 100000 tokens per minute"]
      }],
      [FaultServer.status(429, { reason: "Quota" }), {
        openai: [429, "insufficient_quota"],
        anthropic: [429, "rate_limit_error"],
        cohere: [429, "1000 API calls / month"]
      }],
      [FaultServer.status(402), {
        openai: [402, "insufficient_quota"],
        anthropic: [402, "billing_error"],
        cohere: [402, "billing"]
      }],
      [FaultServer.error("Overloaded"), {
        openai: [503, "server_is_overloaded"],
        anthropic: [529, "overloaded_error"],
        cohere: [503, "overloaded"]
      }],
      [FaultServer.status(500), {
        openai: [500, "server_error"],
        anthropic: [500, "api_error"],
        cohere: [500, "internal server error"]
      }],
      [FaultServer.status(401), {
        openai: [401, "invalid_api_key"],
        anthropic: [401, "authentication_error"],
        cohere: [401, "Incorrect API key provided"]
      }],
      [FaultServer.status(404), {
        openai: [404, "model_not_found"],
        anthropic: [404, "not_found_error"],
        cohere: [404, "model 'some-model' not found"]
      }],
      [FaultServer.error("ContextLength"), {
        openai: [400, "context_length_exceeded"],
        anthropic: [400, "invalid_request_error"],
        cohere: [400, "too many tokens"]
      }],
      [FaultServer.status(400), {
        openai: [400, "unsupported_parameter"],
        anthropic: [400, "invalid_request_error"],
        cohere: [400, "invalid request"]
      }],
      [FaultServer.status(413), {
        openai: [413, "invalid_request_error"],
        anthropic: [413, "request_too_large"],
        cohere: [413, "the request is too large"]
      }]
    ]
    each("the vendor's own body", (name, stream, server) =>
      Effect.gen(function*() {
        yield* server.play(...rows.map(([step]) => step))
        for (const [, expected] of rows) {
          const { headers, status, text } = yield* ask(server, name, stream)
          const [code, word] = expected[name]
          assert.strictEqual(status, code)
          assert.strictEqual(headers.get("content-type"), "application/json")
          assert.include(typeOf(name, text), word)
          assert.isNotNull(headers.get(idHeader[name]))
          // Nobody waits for a hint that was not asked for.
          assert.isNull(headers.get("retry-after"))
          assert.notInclude(text, "try again in")
        }
      }))

    it.live("anthropic: details of a spend limit, the edge's 413, x-should-retry", () =>
      Effect.gen(function*() {
        const server = yield* FaultServer.make()
        yield* server.play(
          FaultServer.status(429, { reason: "Quota" }),
          FaultServer.status(413),
          FaultServer.status(529),
          FaultServer.status(401)
        )
        const quota = yield* ask(server, "anthropic", false)
        assert.strictEqual(JSON.parse(quota.text).error.details.error_code, "enforced_spend_limit_reached")
        assert.isNull(quota.headers.get("x-should-retry"))
        assert.deepStrictEqual(Object.keys(JSON.parse((yield* ask(server, "anthropic", false)).text)), ["error"])
        assert.strictEqual((yield* ask(server, "anthropic", false)).headers.get("x-should-retry"), "true")
        assert.strictEqual((yield* ask(server, "anthropic", false)).headers.get("x-should-retry"), "false")
      }))

    each("retryAfter, in seconds, milliseconds and as text", (name, stream, server) =>
      Effect.gen(function*() {
        yield* server.play(
          FaultServer.status(429, { retryAfter: 7 }),
          FaultServer.status(503, { retryAfterMs: 1500 }),
          FaultServer.status(429, { retryAfter: "Wed, 21 Oct 2026 07:28:00 GMT" })
        )
        const before = Date.now()
        const { headers, text } = yield* ask(server, name, stream)
        assert.strictEqual(headers.get("retry-after"), "7")
        if (name === "openai") {
          assert.strictEqual(headers.get("x-ratelimit-remaining-requests"), "0")
          assert.strictEqual(headers.get("x-ratelimit-reset-requests"), "7s")
          assert.include(text, "Please try again in 7s.")
        } else if (name === "anthropic") {
          assert.strictEqual(headers.get("anthropic-ratelimit-requests-remaining"), "0")
          const reset = Date.parse(headers.get("anthropic-ratelimit-requests-reset")!)
          assert.isTrue(reset >= before + 5999 && reset <= Date.now() + 7001, String(reset - before))
          assert.notStrictEqual(headers.get("anthropic-ratelimit-tokens-remaining"), "0")
        } else assert.strictEqual(headers.get("x-trial-endpoint-call-remaining"), "0")
        const millis = (yield* ask(server, name, stream)).headers
        assert.strictEqual(millis.get("retry-after-ms"), "1500")
        assert.isNull(millis.get("retry-after"))
        const date = (yield* ask(server, name, stream)).headers
        assert.strictEqual(date.get("retry-after"), "Wed, 21 Oct 2026 07:28:00 GMT")
        assert.isNull(date.get("x-ratelimit-remaining-requests"))
      }))

    each("gateway pages, own bodies and headers", (name, stream, server) =>
      Effect.gen(function*() {
        yield* server.play(
          FaultServer.status(502),
          FaultServer.status(500, { body: "" }),
          FaultServer.status(418, { body: { teapot: true }, headers: { "x-should-retry": "false" } }),
          FaultServer.status(503, { body: "plain", headers: { "content-type": "text/plain" } })
        )
        const page = yield* ask(server, name, stream)
        assert.strictEqual(page.status, 502)
        assert.strictEqual(page.headers.get("content-type"), "text/html")
        assert.include(page.text, "<h1>502 Bad Gateway</h1>")
        const empty = yield* ask(server, name, stream)
        assert.deepStrictEqual([empty.status, empty.text, empty.broken], [500, "", undefined])
        const own = yield* ask(server, name, stream)
        assert.deepStrictEqual([own.status, own.text], [418, "{\"teapot\":true}"])
        assert.strictEqual(own.headers.get("x-should-retry"), "false")
        const plain = yield* ask(server, name, stream)
        assert.deepStrictEqual([plain.headers.get("content-type"), plain.text], ["text/plain", "plain"])
      }))
  })

  describe("broken answers", () => {
    const chunks = ["one ", "two ", "three ", "four"]

    each("truncate", (name, stream, server) =>
      Effect.gen(function*() {
        yield* server.play(
          FaultServer.truncate({ chunks, afterChunks: 2 }),
          FaultServer.truncate({ chunks, afterChunks: Infinity }),
          FaultServer.truncate({ chunks, afterChunks: 0 }),
          FaultServer.truncate({ chunks, afterChunks: 1, midEvent: true })
        )
        const two = yield* ask(server, name, stream)
        assert.deepStrictEqual([two.status, two.broken], [200, undefined])
        const all = yield* ask(server, name, stream)
        const none = yield* ask(server, name, stream)
        const half = yield* ask(server, name, stream)
        assert.strictEqual(none.text, "")
        if (stream) {
          assert.strictEqual(assemble(name, two.text).text, "one two ")
          assert.deepInclude(assemble(name, all.text), { text: "one two three four", finish: "" })
          assert.isFalse(terminal(name, two.text) || terminal(name, all.text))
          assert.isFalse(half.text.endsWith("\n\n"))
          assert.include(half.text, "\"one ")
          assert.notInclude(half.text, "\"two ")
        } else {
          for (const { text } of [two, all, half]) {
            assert.isTrue(text.length > 50)
            assert.throws(() => JSON.parse(text))
          }
        }
      }))

    each("truncate inside tool arguments", (name, stream, server) =>
      Effect.gen(function*() {
        const toolCalls = [{ name: "f", params: { argument: "long enough" } }]
        yield* server.play(FaultServer.truncate({ toolCalls, afterChunks: 2 }))
        const { text } = yield* ask(server, name, stream)
        if (stream) assert.strictEqual(assemble(name, text).tools[0]?.params, "{\"argument\":\"lon")
        else assert.throws(() => JSON.parse(text))
      }))

    each("resetInBody: what was sent arrives, then ECONNRESET", (name, stream, server) =>
      Effect.gen(function*() {
        yield* server.play(FaultServer.resetInBody({ chunks, afterChunks: 3 }))
        const { broken, status, text } = yield* ask(server, name, stream)
        assert.strictEqual(status, 200)
        assert.include(["ECONNRESET", "UND_ERR_SOCKET"], broken)
        if (stream) assert.strictEqual(assemble(name, text).text, "one two three ")
        else assert.isTrue(text.length > 50)
        yield* until(server, ({ active }) => active === 0)
        assert.strictEqual((yield* server.stats).aborted, 0)
      }))

    each("resetBeforeHeaders", (name, stream, server) =>
      Effect.gen(function*() {
        yield* server.play(FaultServer.delay(5, FaultServer.resetBeforeHeaders()))
        const code = yield* Effect.promise(() => post(server, name, stream).then(() => "answered", codeOf))
        assert.strictEqual(code, "ECONNRESET")
        assert.strictEqual((yield* server.stats).aborted, 0)
        // The server lives on.
        assert.strictEqual((yield* ask(server, name, stream)).status, 200)
      }))

    each("stall, and the client's departure is seen", (name, stream, server) =>
      Effect.gen(function*() {
        yield* server.play(FaultServer.stall({ chunks, afterChunks: 2 }))
        const { quiet, text } = yield* peek(server, name, stream, (text) => stream ? text.includes("two") : text !== "")
        assert.isTrue(quiet)
        if (stream) assert.strictEqual(assemble(name, text).text, "one two ")
        yield* until(server, ({ aborted, active }) => aborted === 1 && active === 0)
        assert.isTrue((yield* server.requests)[0]!.aborted)
      }))

    each("stall with keep-alives pretends to live", (name, stream, server) =>
      Effect.gen(function*() {
        yield* server.play(FaultServer.stall({ afterChunks: 0, keepAliveMillis: 5 }))
        const unit = !stream
          ? "\n"
          : name === "anthropic"
          ? "event: ping\ndata: {\"type\": \"ping\"}\n\n"
          : ": keep-alive\n\n"
        const { text } = yield* peek(server, name, stream, (text) => text.length >= 3 * unit.length)
        assert.isTrue(text.startsWith(unit.repeat(3)))
        yield* until(server, ({ aborted }) => aborted === 1)
      }))

    each(
      "hang: not even headers",
      (name, stream, server) => Effect.andThen(server.play(FaultServer.hang()), unanswered(server, name, stream))
    )

    each("errorEvent", (name, stream, server) =>
      Effect.gen(function*() {
        yield* server.play(
          FaultServer.errorEvent({ chunks, afterChunks: 2 }),
          FaultServer.errorEvent({ reason: "RateLimit" }),
          FaultServer.errorEvent({ type: "odd_error", message: "odd" })
        )
        const middle = yield* ask(server, name, stream)
        const first = yield* ask(server, name, stream)
        const odd = yield* ask(server, name, stream)
        assert.deepStrictEqual([middle.status, middle.broken, first.status], [200, undefined, 200])
        if (stream) {
          const events = parseSse(middle.text)
          if (name === "openai") {
            assert.deepInclude(jsonOf(events.at(-2)!).error, { code: "server_is_overloaded", param: null })
            assert.strictEqual(parseSse(first.text).length, 2)
          } else if (name === "anthropic") {
            assert.isTrue(
              /event: error\ndata: \{"type":"error","error":\{.*\} *\}\n\n$/u.test(middle.text),
              middle.text
            )
            assert.strictEqual(jsonOf(events.at(-1)!).error.type, "overloaded_error")
            assert.deepStrictEqual(parseSse(first.text).map((event) => event.event), ["error"])
            assert.isFalse(terminal(name, middle.text))
          } else {
            const { delta } = jsonOf(events.at(-2)!)
            assert.strictEqual(delta.finish_reason, "ERROR")
            assert.include(delta.error, "overloaded")
            assert.deepStrictEqual(parseSse(first.text).map((event) => event.event), ["message-end", undefined])
          }
          assert.include(middle.text, "two ")
          assert.notInclude(middle.text, "three")
        } else if (name === "cohere") assert.strictEqual(JSON.parse(middle.text).finish_reason, "ERROR")
        else assert.isObject(JSON.parse(middle.text).error)
        if (stream || name !== "cohere") {
          assert.include(odd.text, "odd_error")
          assert.include(odd.text, "\"odd\"")
        }
      }))

    each("malformedJson", (name, stream, server) =>
      Effect.gen(function*() {
        yield* server.play(FaultServer.malformedJson({ chunks, afterChunks: 1 }), FaultServer.malformedJson())
        const { text } = yield* ask(server, name, stream)
        const first = (yield* ask(server, name, stream)).text
        if (stream) {
          const broken = parseSse(text).filter((event) => event.data === "{\"broken\": tru")
          assert.strictEqual(broken.length, 1)
          const rest = text.replace(/(event: \S+\n)?data: \{"broken": tru\n\n/u, "")
          assert.strictEqual(assemble(name, rest).text, "one two three four")
          assert.isTrue(terminal(name, text))
          assert.isTrue(parseSse(first)[0]?.data === "{\"broken\": tru")
        } else assert.throws(() => JSON.parse(text))
      }))

    each("emptyBody and keepAlives", (name, stream, server) =>
      Effect.gen(function*() {
        yield* server.play(FaultServer.emptyBody(), FaultServer.keepAlives({ everyMillis: 10, forMillis: 30 }))
        const empty = yield* ask(server, name, stream)
        assert.deepStrictEqual([empty.status, empty.text, empty.broken], [200, "", undefined])
        const alive = yield* ask(server, name, stream)
        const unit = !stream
          ? "\n"
          : name === "anthropic"
          ? "event: ping\ndata: {\"type\": \"ping\"}\n\n"
          : ": keep-alive\n\n"
        assert.strictEqual(alive.text, unit.repeat(3))
      }))

    it.live("raw: every byte, split anywhere, the same with the same seed", () =>
      Effect.gen(function*() {
        const body = "data: {\"text\":\"Grüße 世界 🌍\"}\r\n\r\n".repeat(40)
        // What is on the wire, chunk by chunk: clients put neighbours together.
        const chunksOf = (port: number) =>
          Effect.callback<{ readonly head: string; readonly chunks: ReadonlyArray<Buffer> }>((resume) => {
            const socket = connect(port, "127.0.0.1")
            const received: Array<Buffer> = []
            socket.write("POST /v2/chat HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}")
            socket.on("data", (data) => received.push(data))
            socket.on("close", () => {
              const all = Buffer.concat(received)
              let at = all.indexOf("\r\n\r\n") + 4
              const head = all.subarray(0, at).toString()
              const chunks: Array<Buffer> = []
              for (;;) {
                const start = all.indexOf("\r\n", at) + 2
                const length = parseInt(all.subarray(at, start).toString(), 16)
                if (!(length > 0)) return resume(Effect.succeed({ head, chunks }))
                chunks.push(all.subarray(start, start + length))
                at = start + length + 2
              }
            })
          })
        const serve = (seed: string, chunkBytes?: number) =>
          Effect.gen(function*() {
            const server = yield* FaultServer.make()
            const headers = {
              "content-type": "text/event-stream",
              "content-length": "5",
              date: "Thu, 01 Jan 2026 00:00:00 GMT"
            }
            yield* server.play(FaultServer.raw({ body, headers, status: 203, chunkBytes }))
            const { chunks, head } = yield* chunksOf(Number(new URL(server.url).port))
            assert.match(head, /^HTTP\/1.1 203 /u)
            assert.include(head, "date: Thu, 01 Jan 2026 00:00:00 GMT\r\n")
            assert.notInclude(head, "content-length")
            assert.strictEqual(Buffer.concat(chunks).toString("utf8"), body)
            return chunks.map((chunk) => chunk.length)
          }).pipe(Random.withSeed(seed))
        const sizes = yield* serve("a")
        assert.isTrue(sizes.length > 5 && new Set(sizes).size > 5, sizes.join())
        assert.deepStrictEqual(yield* serve("a"), sizes)
        assert.notDeepEqual(yield* serve("b"), sizes)
        const sevens = yield* serve("c", 7)
        assert.isTrue(sevens.slice(0, -1).every((size) => size === 7))
      }))
  })

  describe("pace", () => {
    each("slowHeaders waits before the headers", (name, stream, server) =>
      Effect.gen(function*() {
        yield* server.play(FaultServer.slowHeaders(60_000), FaultServer.slowHeaders(30, { text: "late" }))
        yield* unanswered(server, name, stream)
        const start = performance.now()
        const { text } = yield* ask(server, name, stream)
        assert.isTrue(performance.now() - start >= 28)
        assert.include(text, "late")
      }))

    each("slowFirstToken sends headers at once", (name, stream, server) =>
      Effect.gen(function*() {
        yield* server.play(
          FaultServer.slowFirstToken(60_000),
          FaultServer.slowFirstToken(30, { text: "late", keepAliveMillis: 10 })
        )
        const early = name === "anthropic" && stream
        const { quiet, text } = yield* peek(server, name, stream, (text) => !early || text.includes("ping"))
        assert.isTrue(quiet)
        if (early) {
          const events = parseSse(text).map((event) => event.event)
          assert.deepStrictEqual(events, ["message_start", "content_block_start", "ping"])
        } else assert.strictEqual(text, "")
        const start = performance.now()
        const answer = yield* ask(server, name, stream)
        assert.isTrue(performance.now() - start >= 28)
        if (!stream) {
          assert.isTrue(answer.text.startsWith("\n"))
          JSON.parse(answer.text)
        } else {
          assert.include(answer.text, name === "anthropic" ? "event: ping" : ": keep-alive\n\n")
          assert.strictEqual(assemble(name, answer.text).text, "late")
        }
      }))

    it.live("chunkDelayMillis spaces the deltas", () =>
      Effect.gen(function*() {
        const server = yield* FaultServer.make()
        yield* server.play(FaultServer.ok({ chunks: ["a", "b", "c"], chunkDelayMillis: 15 }))
        const start = performance.now()
        const { text } = yield* ask(server, "openai", true)
        assert.isTrue(performance.now() - start >= 41) // before b, before c, before the end
        assert.strictEqual(assemble("openai", text).text, "abc")
      }))

    it.live("latencyMillis and delay add up", () =>
      Effect.gen(function*() {
        const server = yield* FaultServer.make({ latencyMillis: 20 })
        yield* server.play(FaultServer.delay(10, FaultServer.delay(10, FaultServer.status(503))))
        const start = performance.now()
        assert.strictEqual((yield* ask(server, "cohere", false)).status, 503)
        assert.isTrue(performance.now() - start >= 38)
      }))
  })

  describe("script", () => {
    const statusOf = (server: FaultServer.FaultServer) =>
      Effect.map(ask(server, "openai", false), (seen) => seen.status)

    it.live("plays in order, then otherwise; always and reset", () =>
      Effect.gen(function*() {
        const server = yield* FaultServer.make({ otherwise: FaultServer.status(418) })
        yield* server.play(FaultServer.status(500), FaultServer.ok())
        yield* server.play(FaultServer.status(503))
        const first = yield* Effect.all(Array.from({ length: 5 }, () => statusOf(server)))
        assert.deepStrictEqual(first, [500, 200, 503, 418, 418])
        yield* server.play(FaultServer.status(500), FaultServer.status(500))
        yield* server.always(FaultServer.status(529))
        assert.strictEqual(yield* statusOf(server), 529)
        yield* server.play(FaultServer.ok())
        assert.deepStrictEqual(yield* Effect.all([statusOf(server), statusOf(server)]), [200, 529])
        yield* server.play(FaultServer.ok())
        yield* server.reset
        assert.strictEqual(yield* statusOf(server), 418)
        assert.deepStrictEqual(yield* server.stats, { received: 1, active: 0, maxActive: 1, aborted: 0 })
        assert.strictEqual((yield* server.requests).length, 1)
      }))

    it.live("refuses what it cannot play", () =>
      Effect.gen(function*() {
        const server = yield* FaultServer.make()
        const refused = (step: FaultServer.Fault) =>
          Effect.map(Effect.exit(server.play(step)), (exit) => {
            assert.isTrue(Exit.isFailure(exit) && Cause.hasDies(exit.cause))
            const error = Exit.isFailure(exit) ? Cause.squash(exit.cause) : undefined
            assert.instanceOf(error, LlmConfigError)
            return error instanceof LlmConfigError ? error.path : ""
          })
        assert.strictEqual(yield* refused(FaultServer.status(99)), "play[0].status")
        assert.strictEqual(yield* refused(FaultServer.slowHeaders(-1)), "play[0].delayMillis")
        assert.strictEqual(yield* refused(FaultServer.stall({ afterChunks: -1 })), "play[0].afterChunks")
        assert.strictEqual(yield* refused(FaultServer.raw({ body: "", chunkBytes: 0 })), "play[0].chunkBytes")
        assert.strictEqual(
          yield* refused(FaultServer.status(500, { headers: { "x-a": "b\nc" } })),
          "play[0].headers.x-a"
        )
        assert.strictEqual(yield* refused(FaultServer.status(429, { retryAfter: "1\n" })), "play[0].retryAfter")
        assert.strictEqual(yield* refused({ _tag: "Nonsense" } as never), "play[0]._tag")
        const options = yield* Effect.flip(FaultServer.make({ latencyMillis: -1 }))
        assert.strictEqual(options.path, "FaultServer.latencyMillis")
        const otherwise = yield* Effect.flip(FaultServer.make({ otherwise: FaultServer.status(1000) }))
        assert.strictEqual(otherwise.path, "FaultServer.otherwise.status")
        const unknown = yield* Effect.flip(FaultServer.make({ latency: 1 } as never))
        assert.strictEqual(unknown.path, "FaultServer.latency")
      }))

    it.live("records requests without keys, the last ones only", () =>
      Effect.gen(function*() {
        const server = yield* FaultServer.make({ keep: 2 })
        yield* ask(server, "openai", false)
        yield* ask(server, "anthropic", true)
        yield* Effect.promise(async () => {
          const url = `${server.url}/openai/deployments/x/chat/completions?api-version=1&api-key=sk-secret`
          await (await fetch(url, { method: "POST", headers: { "api-key": "sk-secret" }, body: "no json" })).text()
        })
        const [first, second] = yield* server.requests
        assert.strictEqual((yield* server.requests).length, 2)
        assert.deepInclude(first, { method: "POST", path: "/v1/messages", dialect: "anthropic", aborted: false })
        assert.deepStrictEqual(first?.body, bodyOf(true))
        assert.strictEqual(first?.headers["authorization"], "Bearer <redacted>")
        assert.strictEqual(first?.headers["x-api-key"], "<redacted>")
        assert.isTrue(first!.at > 0 && second!.at >= first!.at)
        assert.strictEqual(second?.path, "/openai/deployments/x/chat/completions?api-version=1&api-key=<redacted>")
        assert.isUndefined(second?.body)
        assert.notInclude(JSON.stringify(yield* server.requests), "sk-secret")
      }))

    it.live("unknown paths and bodies that are not JSON", () =>
      Effect.gen(function*() {
        const server = yield* FaultServer.make()
        yield* server.play(FaultServer.status(529))
        const send = (path: string, init: RequestInit) =>
          Effect.promise(async () => {
            const response = await fetch(server.url + path, init)
            await response.text()
            return response.status
          })
        assert.strictEqual(yield* send("/v1/embeddings", { method: "POST", body: "{}" }), 404)
        assert.strictEqual(yield* send("/v1/messages", { method: "GET" }), 404)
        assert.strictEqual(yield* statusOf(server), 529) // those took no step
        assert.strictEqual(yield* send("/v1/messages", { method: "POST", body: "[" }), 400)
        assert.strictEqual(yield* send("/v1/messages", { method: "POST", body: "x".repeat(33 * 1024 * 1024) }), 413)
        assert.deepStrictEqual((yield* server.requests).map((request) => request.dialect), [
          undefined,
          undefined,
          "openai",
          "anthropic",
          "anthropic"
        ])
      }))
  })

  describe("verdict", () => {
    const none = { ignoredRetryAfter: 0, earlyRetries: 0, duplicateSends: 0, unreadTruncations: undefined }
    const pause = Effect.sleep("120 millis")

    each("a client that waits has nothing to answer for", (name, stream, server) =>
      Effect.gen(function*() {
        yield* server.play(
          FaultServer.status(503),
          FaultServer.error("RateLimit", { retryAfterMs: 200 }),
          FaultServer.truncate()
        )
        yield* ask(server, name, stream)
        yield* pause
        yield* ask(server, name, stream)
        yield* Effect.sleep("210 millis")
        yield* ask(server, name, stream)
        yield* pause
        yield* ask(server, name, stream)
        assert.deepStrictEqual(yield* server.verdict({ answered: 1 }), { ...none, unreadTruncations: 0, findings: [] })
      }))

    it.live("ignored Retry-After, in seconds, milliseconds and dates", () =>
      Effect.gen(function*() {
        const server = yield* FaultServer.make()
        const date = new Date(Date.now() + 60_000).toUTCString()
        yield* server.play(
          FaultServer.error("RateLimit", { retryAfter: 30 }),
          FaultServer.error("Overloaded", { retryAfterMs: 40_000 }),
          FaultServer.status(503, { headers: { "Retry-After": date } })
        )
        for (let i = 0; i < 4; i++) {
          yield* ask(server, "openai", false)
          yield* pause
        }
        const { findings, ...counts } = yield* server.verdict()
        assert.deepStrictEqual(counts, { ...none, ignoredRetryAfter: 3 })
        assert.match(
          findings[0]!,
          /^Request 2 came [1-9]\d\d+ ms after the failure of request 1, which asked to wait 30000 ms\.$/
        )
        assert.match(findings[1]!, /^Request 3 came .* which asked to wait 40000 ms\.$/)
        assert.match(findings[2]!, /^Request 4 came .* which asked to wait (5\d|60)\d{3} ms\.$/)
      }))

    // A machine that is busy with other tests may make a pause of what is none.
    it.live("early retries, by the pause that is asked for", () =>
      Effect.gen(function*() {
        const server = yield* FaultServer.make()
        yield* server.play(FaultServer.status(500), FaultServer.resetBeforeHeaders(), FaultServer.emptyBody())
        const asked = Effect.promise(() => post(server, "openai", false).then((response) => response.text(), () => ""))
        yield* Effect.repeat(asked, { times: 3 })
        const { findings, ...counts } = yield* server.verdict()
        assert.deepStrictEqual(counts, { ...none, earlyRetries: 3 })
        assert.match(findings[0]!, /^Request 2 came \d+ ms after the failure of request 1\.$/)
        assert.deepStrictEqual(yield* server.verdict({ pauseMillis: 0 }), { ...none, findings: [] })
      }), { retry: 3 })

    it.live("duplicate sends: beside an answer that is coming, and after one that has come", () =>
      Effect.gen(function*() {
        const server = yield* FaultServer.make({ otherwise: FaultServer.slowHeaders(500) })
        const second = Effect.andThen(until(server, ({ active }) => active === 1), ask(server, "openai", false))
        yield* Effect.all([ask(server, "openai", false), second], { concurrency: 2 })
        yield* pause
        yield* ask(server, "openai", false)
        yield* ask(server, "anthropic", false) // another question
        const { findings, ...counts } = yield* server.verdict()
        assert.deepStrictEqual(counts, { ...none, duplicateSends: 2 })
        assert.deepStrictEqual(findings, [
          "Request 2 is request 1 again, which was still being answered.",
          "Request 3 is request 1 again, which had been answered."
        ])
      }))

    it.live("who gives up and comes again sends no duplicate; a key makes the same text another call", () =>
      Effect.gen(function*() {
        const server = yield* FaultServer.make()
        yield* server.play(FaultServer.hang())
        yield* unanswered(server, "openai", false)
        yield* pause
        yield* ask(server, "openai", false)
        const keyed = (key: string) =>
          Effect.promise(async () => {
            const response = await fetch(server.openai + paths.openai, {
              method: "POST",
              headers: { "idempotency-key": key },
              body: JSON.stringify(bodyOf(false))
            })
            await response.text()
          })
        yield* keyed("a")
        yield* keyed("b")
        assert.deepStrictEqual((yield* server.verdict()).findings, [])
        yield* keyed("b")
        assert.strictEqual((yield* server.verdict()).duplicateSends, 1)
      }))

    each("unread truncation: more answers taken for whole than were", (name, stream, server) =>
      Effect.gen(function*() {
        const broken = [
          FaultServer.truncate({ afterChunks: Infinity }),
          FaultServer.resetInBody(),
          FaultServer.errorEvent(),
          FaultServer.malformedJson(),
          FaultServer.emptyBody(),
          FaultServer.keepAlives({ everyMillis: 1, forMillis: 2 })
        ]
        for (const step of broken) {
          yield* server.reset
          yield* server.play(step)
          yield* ask(server, name, stream)
          assert.strictEqual((yield* server.verdict({ answered: 0 })).unreadTruncations, 0, step._tag)
          assert.strictEqual((yield* server.verdict({ answered: 1 })).unreadTruncations, 1, step._tag)
        }
        assert.deepStrictEqual((yield* server.verdict({ answered: 1 })).findings, [
          "The client took 1 answers for whole; 0 were."
        ])
        yield* pause
        yield* ask(server, name, stream)
        assert.deepStrictEqual(yield* server.verdict({ answered: 1 }), { ...none, unreadTruncations: 0, findings: [] })
        yield* server.reset
        assert.deepStrictEqual(yield* server.verdict({ answered: 0 }), { ...none, unreadTruncations: 0, findings: [] })
      }))

    it.live("recordings are whole answers, paths of nobody are none", () =>
      Effect.gen(function*() {
        const server = yield* FaultServer.make({ otherwise: FaultServer.raw({ body: "data: [DONE]\n\n" }) })
        yield* ask(server, "openai", true)
        const lost = Effect.promise(async () => {
          await (await fetch(`${server.url}/v1/embeddings`, { method: "POST", body: "{}" })).text()
        })
        yield* Effect.repeat(lost, { times: 1 })
        assert.deepStrictEqual(yield* server.verdict({ answered: 1 }), { ...none, unreadTruncations: 0, findings: [] })
      }))

    it.live("two clients: a vendor's SDK takes a cut stream for whole, this library asks again", () =>
      Effect.gen(function*() {
        const server = yield* FaultServer.make()
        yield* server.play(FaultServer.truncate())
        const sdk = new OpenAI({ apiKey: "any", baseURL: server.openai })
        const answered = yield* Effect.promise(async () => {
          const stream = await sdk.chat.completions.create({
            model: "m",
            stream: true,
            messages: [{ role: "user", content: "Hi" }]
          })
          for await (const _ of stream) { /* all of it */ }
          return 1
        })
        assert.strictEqual((yield* server.verdict({ answered })).unreadTruncations, 1)

        yield* server.reset
        yield* server.play(FaultServer.truncate(), FaultServer.error("RateLimit", { retryAfterMs: 200 }))
        const client = yield* Effect.provide(
          LlmClient.make([OpenAi], { retry: { baseDelay: "250 millis" } }),
          OpenAi.layer({ apiKey: Redacted.make("any"), baseUrl: server.openai })
        )
        yield* client.complete("Hi")
        assert.deepStrictEqual((yield* server.verdict({ answered: 1 })).findings, [])
        assert.strictEqual((yield* server.stats).received, 3)
      }).pipe(Effect.provide(FetchHttpClient.layer)))

    it.live("refuses what makes no sense", () =>
      Effect.gen(function*() {
        const server = yield* FaultServer.make()
        const pathOf = (options: FaultServer.VerdictOptions) =>
          Effect.map(Effect.exit(server.verdict(options)), (exit) => {
            const error = Exit.isFailure(exit) ? Cause.squash(exit.cause) : undefined
            assert.instanceOf(error, LlmConfigError)
            return error.path
          })
        assert.strictEqual(yield* pathOf({ answered: -1 }), "verdict.answered")
        assert.strictEqual(yield* pathOf({ answered: 1.5 }), "verdict.answered")
        assert.strictEqual(yield* pathOf({ pauseMillis: NaN }), "verdict.pauseMillis")
        assert.strictEqual(yield* pathOf({ pause: 1 } as never), "verdict.pause")
      }))
  })

  describe("life", () => {
    it.live("closing the scope ends every connection at once", () =>
      Effect.gen(function*() {
        const steps = [
          FaultServer.hang(),
          FaultServer.slowHeaders(60_000),
          FaultServer.slowFirstToken(60_000),
          FaultServer.stall({ afterChunks: 2, keepAliveMillis: 1000 }),
          FaultServer.ok({ chunkDelayMillis: 60_000 })
        ]
        const timers = () => process.getActiveResourcesInfo().filter((kind) => kind === "Timeout").length
        const before = timers()
        const { url, waiting } = yield* Effect.scoped(Effect.gen(function*() {
          const server = yield* FaultServer.make()
          yield* server.play(...steps)
          const waiting = steps.map(() =>
            post(server, "anthropic", true).then((response) => response.text()).then(() => "whole", () => "broken")
          )
          yield* until(server, ({ active }) => active === steps.length)
          assert.isTrue(timers() > before)
          return { url: server.url, waiting }
        }))
        assert.deepStrictEqual(yield* Effect.promise(() => Promise.all(waiting)), steps.map(() => "broken"))
        assert.isTrue(timers() <= before, `${timers()} timers, before ${before}`)
        assert.strictEqual(yield* Effect.promise(() => fetch(url).then(() => "answered", codeOf)), "ECONNREFUSED")
      }))

    it.live("a process ends by itself after the scope has closed", () =>
      Effect.gen(function*() {
        const at = (path: string) => JSON.stringify(new URL(path, import.meta.url).href)
        const program = `
          import * as Effect from "effect/Effect"
          import * as FaultServer from ${at("../../src/testing/FaultServer.ts")}
          await Effect.runPromise(Effect.scoped(Effect.gen(function*() {
            const otherwise = FaultServer.stall({ afterChunks: 1, keepAliveMillis: 60000 })
            const server = yield* FaultServer.make({ otherwise })
            const init = { method: "POST", body: "{\\"stream\\":true}" }
            yield* Effect.promise(() => fetch(server.openai + "/chat/completions", init))
          })))
          console.log("closed")`
        const cwd = fileURLToPath(new URL("../../", import.meta.url))
        const out = yield* Effect.callback<string>((resume) => {
          execFile(
            process.execPath,
            ["--input-type=module", "--no-warnings", "-e", program],
            { cwd, timeout: 10_000 },
            (error, stdout, stderr) => resume(Effect.succeed(error === null ? stdout.trim() : stderr + error.message))
          )
        })
        assert.strictEqual(out, "closed")
      }), 15_000)

    it.live("2000 requests at once, 200 ms each", () =>
      Effect.gen(function*() {
        const server = yield* FaultServer.make({ latencyMillis: 200 })
        const start = performance.now()
        const statuses = yield* Effect.promise(() =>
          Promise.all(Array.from({ length: 2000 }, async (_, i) => {
            const response = await post(server, names[i % 3]!, false)
            await response.arrayBuffer()
            return response.status
          }))
        )
        assert.isTrue(statuses.every((status) => status === 200))
        // One after the other they take 400 seconds.
        assert.isBelow(performance.now() - start, 25_000)
        yield* until(server, ({ active }) => active === 0)
        const stats = yield* server.stats
        assert.deepInclude(stats, { received: 2000, aborted: 0 })
        assert.isTrue(stats.maxActive > 100, String(stats.maxActive)) // the client sets the pace, not the server
      }), 20_000)
  })
})

// The recorded exchanges of the vendors, where they are at hand: our payloads use their field names and no others.
const fixtures = fileURLToPath(new URL("../../../shared/fixtures/", import.meta.url))

describe.skipIf(!existsSync(fixtures))("FaultServer against recordings", () => {
  interface Fixture {
    readonly endpoint: string
    readonly streaming: boolean
    readonly origin: string
    readonly response: { readonly status: number; readonly body: string; readonly headers: Record<string, string> }
  }
  const endpoints = { openai: "chat.completions", anthropic: "messages", cohere: "v2.chat" }
  const read = (pattern: string): ReadonlyArray<Fixture> =>
    globSync(pattern, { cwd: fixtures }).map((file): Fixture => JSON.parse(readFileSync(fixtures + file, "utf8")))
  const loaded = new Map<Name, ReadonlyArray<Fixture>>()
  const recorded = (name: Name, streaming: boolean): ReadonlyArray<Fixture> => {
    const all = loaded.get(name) ?? read(`${name === "openai" ? "{openai,deepseek}" : name}/*/*.json`)
    loaded.set(name, all)
    return all.filter((fixture) =>
      fixture.endpoint === endpoints[name] && fixture.streaming === streaming && fixture.response.status === 200 &&
      ["recorded", "vercel-fixture"].includes(fixture.origin) && fixture.response.body !== ""
    )
  }

  /** `choices[].delta.content`, … of a value; what lies below a schema's free part is left out. */
  const shape = (value: unknown, path = "", out = new Set<string>()): Set<string> => {
    if (Array.isArray(value)) { for (const item of value) shape(item, `${path}[]`, out) }
    else if (typeof value === "object" && value !== null && !path.endsWith("input")) {
      for (const [key, item] of Object.entries(value)) {
        out.add(`${path}.${key}`)
        shape(item, `${path}.${key}`, out)
      }
    }
    return out
  }
  const events = (body: string) =>
    body.split("\n\n").flatMap((block) => {
      const data = /^data: (.*)$/mu.exec(block)?.[1]?.trim()
      return data === undefined || data === "[DONE]" ? [] : [JSON.parse(data)]
    })
  /** One set of paths per kind of event, so that `index` in one event does not excuse it in another. */
  const shapes = (body: string): ReadonlyArray<Set<string>> =>
    events(body).map((data) => new Set([...shape(data)].map((path) => `${data.type ?? ""}${path}`)))
  const union = (sets: Iterable<Set<string>>): Set<string> => {
    const out = new Set<string>()
    for (const set of sets) for (const path of set) out.add(path)
    return out
  }
  const common = (sets: ReadonlyArray<Set<string>>): Set<string> =>
    new Set([...sets[0] ?? []].filter((path) => sets.every((set) => set.has(path))))

  const answer = FaultServer.ok({
    reasoning: "Think first.",
    text: "Then speak.",
    toolCalls: [{ name: "f", params: { a: 1 } }]
  })

  for (const name of names) {
    it.live(`${name} json`, () =>
      Effect.gen(function*() {
        const server = yield* FaultServer.make()
        yield* server.play(FaultServer.ok({ text: "Hi." }), answer)
        const plain = shape(JSON.parse((yield* ask(server, name, false)).text))
        const full = shape(JSON.parse((yield* ask(server, name, false)).text))
        const theirs = recorded(name, false).map((fixture) => shape(JSON.parse(fixture.response.body)))
        assert.isTrue(theirs.length > 3, `${theirs.length} recordings`)
        const known = union(theirs)
        assert.deepStrictEqual([...plain, ...full].filter((path) => !known.has(path)), [])
        assert.deepStrictEqual([...common(theirs)].filter((path) => !plain.has(path) || !full.has(path)), [])
      }))

    it.live(`${name} stream`, () =>
      Effect.gen(function*() {
        const server = yield* FaultServer.make()
        yield* server.play(FaultServer.ok({ text: "Hi." }), answer)
        const plain = (yield* ask(server, name, true)).text
        const full = (yield* ask(server, name, true)).text
        const theirs = recorded(name, true).filter((fixture) => !/finish_reason":"ERROR/u.test(fixture.response.body))
        assert.isTrue(theirs.length > 3, `${theirs.length} recordings`)
        const known = union(theirs.flatMap((fixture) => shapes(fixture.response.body)))
        assert.deepStrictEqual([...union([...shapes(plain), ...shapes(full)])].filter((path) => !known.has(path)), [])
        // What every recorded stream has somewhere, ours have too.
        const always = common(theirs.map((fixture) => union(shapes(fixture.response.body))))
        assert.isTrue(always.size > 5)
        for (const text of [plain, full]) {
          const ours = union(shapes(text))
          assert.deepStrictEqual([...always].filter((path) => !ours.has(path)), [])
        }
      }))

    it.live(`${name} errors`, () =>
      Effect.gen(function*() {
        const server = yield* FaultServer.make()
        const theirs = read(`${name}/*/*error-4*.json`)
          .filter((fixture) => fixture.endpoint === endpoints[name])
          .map((fixture) => shape(JSON.parse(fixture.response.body)))
        assert.isTrue(theirs.length > 3, `${theirs.length} recordings`)
        const known = union(theirs)
        const steps = [401, 404, 429].map((status) => FaultServer.status(status))
        yield* server.play(...steps, FaultServer.error("ContextLength"), FaultServer.status(429, { reason: "Quota" }))
        for (let i = 0; i < steps.length + 2; i++) {
          const ours = shape(JSON.parse((yield* ask(server, name, false)).text))
          assert.deepStrictEqual([...ours].filter((path) => !known.has(path)), [])
          assert.deepStrictEqual([...common(theirs)].filter((path) => !ours.has(path)), [])
        }
      }))
  }

  it.live("header names", () =>
    Effect.gen(function*() {
      const server = yield* FaultServer.make()
      const own = new Set(["connection", "transfer-encoding", "cache-control", "date", "content-type"])
      for (const name of names) {
        const seen = yield* ask(server, name, true)
        const known = new Set(
          [...recorded(name, true), ...recorded(name, false)].flatMap((fixture) =>
            Object.keys(fixture.response.headers)
          )
        )
        assert.deepStrictEqual([...seen.headers.keys()].filter((header) => !known.has(header) && !own.has(header)), [])
      }
    }))
})
