// The presets of OpenAiCompatible: what each sends, and that each reads what its server is known to answer.
import { assert, describe, it } from "@effect/vitest"
import { type Reason, TRUNCATED } from "effect-resilient-llm/LlmError"
import type * as LlmRequest from "effect-resilient-llm/LlmRequest"
import { OpenAiCompatible } from "effect-resilient-llm/providers"
import type { Options } from "effect-resilient-llm/providers/OpenAiCompatible"
import * as Config from "effect/Config"
import * as ConfigProvider from "effect/ConfigProvider"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as HttpClient from "effect/http/HttpClient"
import * as Layer from "effect/Layer"
import * as Stream from "effect/Stream"
import { apiKey, connect, digest, play, serve } from "./support.ts"

const { azure, cerebras, deepseek, groq, huggingface, lmstudio, mistral, moonshot, ollama, openrouter } =
  OpenAiCompatible.presets
const { perplexity, together, vercel, vllm, xai, zai } = OpenAiCompatible.presets
const endpoint = "https://res.openai.azure.com"

const request: LlmRequest.LlmRequest = {
  prompt: [{ role: "user", content: [{ type: "text", text: "Hi" }] }],
  model: "model-1",
  maxTokens: 5,
  seed: 7
}

const sent = (options: Options, ask: LlmRequest.LlmRequest = request) =>
  Effect.gen(function*() {
    const transport = serve({ status: 400 })
    const provider = yield* connect(OpenAiCompatible.make(options), transport)
    const error = yield* Effect.flip(Stream.runDrain(provider.stream(ask)))
    const { json, request: { headers }, url } = transport.sent[0]!
    const auth = { authorization: headers["authorization"], "api-key": headers["api-key"] }
    return { provider, error, json, url, auth, headers }
  })

const bearer = { authorization: "Bearer test-key", "api-key": undefined }
const body = { model: "model-1", messages: [{ role: "user", content: "Hi" }], stream: true }
const usual = { ...body, max_tokens: 5, seed: 7, stream_options: { include_usage: true } }
const silent = { ...body, max_tokens: 5, seed: 7 }

describe("presets: requests", () => {
  it.effect("each sends what its server takes, to where it is", () =>
    Effect.gen(function*() {
      const cases: ReadonlyArray<[string, Options, string, object, object, string | undefined]> = [
        ["groq", groq({ apiKey }), "https://api.groq.com/openai/v1/", usual, bearer, undefined],
        [
          "mistral",
          mistral({ apiKey }),
          "https://api.mistral.ai/v1/",
          { ...body, max_tokens: 5, random_seed: 7 },
          bearer,
          "mistral-small-latest"
        ],
        ["deepseek", deepseek({ apiKey }), "https://api.deepseek.com/", usual, bearer, undefined],
        ["openrouter", openrouter({ apiKey }), "https://openrouter.ai/api/v1/", usual, bearer, "openrouter/auto"],
        ["together", together({ apiKey }), "https://api.together.xyz/v1/", silent, bearer, undefined],
        ["xai", xai({ apiKey }), "https://api.x.ai/v1/", usual, bearer, undefined],
        ["perplexity", perplexity({ apiKey }), "https://api.perplexity.ai/", silent, bearer, "sonar"],
        [
          "ollama",
          ollama(),
          "http://localhost:11434/v1/",
          usual,
          { authorization: undefined, "api-key": undefined },
          undefined
        ],
        ["vllm", vllm({ apiKey }), "http://localhost:8000/v1/", usual, bearer, undefined],
        ["lmstudio", lmstudio({ apiKey }), "http://localhost:1234/v1/", usual, bearer, undefined],
        ["huggingface", huggingface({ apiKey }), "https://router.huggingface.co/v1/", usual, bearer, undefined],
        ["moonshot", moonshot({ apiKey }), "https://api.moonshot.ai/v1/", usual, bearer, undefined],
        ["zai", zai({ apiKey }), "https://api.z.ai/api/paas/v4/", usual, bearer, undefined],
        [
          "cerebras",
          cerebras({ apiKey }),
          "https://api.cerebras.ai/v1/",
          { ...body, max_completion_tokens: 5, seed: 7, stream_options: { include_usage: true } },
          bearer,
          undefined
        ],
        ["vercel", vercel({ apiKey }), "https://ai-gateway.vercel.sh/v1/", usual, bearer, undefined]
      ]
      assert.strictEqual(cases.length, Object.keys(OpenAiCompatible.presets).length - 1)
      for (const [id, options, base, json, auth, model] of cases) {
        const got = yield* sent(options)
        assert.strictEqual(got.provider.id, id)
        assert.strictEqual(got.error.provider, id)
        assert.strictEqual(got.provider.defaultModel, model)
        assert.strictEqual(got.url, `${base}chat/completions`)
        assert.deepStrictEqual(got.json, json)
        assert.deepStrictEqual(got.auth, auth)
        const other = yield* sent({ ...options, api: "responses" })
        assert.strictEqual(other.url, `${base}responses`)
      }
    }))

  it.effect("Azure: its current address, the address of a deployment, and both kinds of key", () =>
    Effect.gen(function*() {
      const key = { authorization: undefined, "api-key": "test-key" }
      const current = yield* sent(azure({ apiKey, endpoint: `${endpoint}/` }))
      assert.strictEqual(current.provider.id, "azure")
      assert.strictEqual(current.url, `${endpoint}/openai/v1/chat/completions`)
      assert.deepStrictEqual(current.auth, key)
      const { max_tokens, ...rest } = usual
      assert.deepStrictEqual(current.json, { ...rest, max_completion_tokens: max_tokens })

      const named = yield* sent(azure({ apiKey, endpoint, deployment: "small", api: "responses" }), {
        prompt: request.prompt
      })
      assert.strictEqual(named.url, `${endpoint}/openai/v1/responses`)
      assert.strictEqual(named.json.model, "small")
      assert.strictEqual(named.provider.defaultModel, "small")

      const older = yield* sent(azure({ apiKey, endpoint, deployment: "my/small", apiVersion: "2024-10-21" }))
      assert.strictEqual(
        older.url,
        `${endpoint}/openai/deployments/my%2Fsmall/chat/completions?api-version=2024-10-21`
      )
      assert.strictEqual(older.provider.defaultModel, "my/small")
      assert.deepStrictEqual(older.json, usual)
      assert.deepStrictEqual(older.auth, key)

      const token = yield* sent(azure({ apiKey, endpoint, authHeader: "authorization" }))
      assert.deepStrictEqual(token.auth, bearer)
    }))

  it.effect("options win over the preset; those that are undefined do not", () =>
    Effect.gen(function*() {
      const got = yield* sent(openrouter({
        apiKey,
        id: "router",
        baseUrl: "https://gateway.test/v1",
        defaultModel: undefined,
        streamOptions: false,
        headers: { "X-Title": "app" },
        models: { fast: "m" }
      }))
      assert.strictEqual(got.url, "https://gateway.test/v1/chat/completions")
      assert.strictEqual(got.provider.id, "router")
      assert.strictEqual(got.provider.defaultModel, "openrouter/auto")
      assert.deepStrictEqual(got.provider.models, { fast: "m" })
      assert.deepStrictEqual(got.json, silent)
      assert.strictEqual(got.headers["x-title"], "app")
    }))

  it.effect("what is wrong is named as for any other server", () =>
    Effect.gen(function*() {
      const cases: ReadonlyArray<[Options, string]> = [
        [azure({ apiKey, endpoint: "SECRET" }), "openAiCompatible.baseUrl"],
        [azure({ apiKey } as never), "openAiCompatible.baseUrl"],
        [groq({ apiKey: "SECRET" } as never), "openAiCompatible.apiKey"],
        [groq({ apiKey, unknown: 1 } as never), "openAiCompatible.unknown"]
      ]
      for (const [options, path] of cases) {
        const error = yield* Effect.flip(connect(OpenAiCompatible.make(options), serve({})))
        assert.strictEqual(error.path, path)
        assert.notInclude(error.message, "SECRET")
      }
    }))

  it("types ask for what a server needs", () => {
    // @ts-expect-error the key is required
    groq({})
    // @ts-expect-error the address of the resource is required
    azure({ apiKey })
    // @ts-expect-error a version belongs to a deployment
    azure({ apiKey, endpoint, apiVersion: "2024-10-21" })
    // @ts-expect-error unknown options are refused
    groq({ apiKey, unknown: 1 })
    assert.strictEqual(vllm().baseUrl, "http://localhost:8000/v1")
  })

  it.effect("a class of one's own takes a preset, also from the environment", () =>
    Effect.gen(function*() {
      class Groq extends OpenAiCompatible.Service<Groq>()("app/Groq") {}
      const transport = serve({ status: 400 })
      const layer = Groq.layerConfig(Config.map(Config.Redacted("GROQ_API_KEY"), (apiKey) => groq({ apiKey })))
      const provider = yield* Groq.pipe(Effect.provide(layer.pipe(
        Layer.provide(Layer.succeed(HttpClient.HttpClient, transport.client)),
        Layer.provide(ConfigProvider.layer(ConfigProvider.fromEnvRecord({ GROQ_API_KEY: "key-1" })))
      )))
      yield* Effect.flip(provider.generate(request))
      assert.strictEqual(provider.id, "groq")
      assert.strictEqual(transport.sent[0]!.request.headers["authorization"], "Bearer key-1")
    }))
})

// -----------------------------------------------------------------------------
// answers
// -----------------------------------------------------------------------------

const sse = (events: ReadonlyArray<object | string>, end = "\n\n"): string =>
  events.map((event) => `data: ${typeof event === "string" ? event : JSON.stringify(event)}${end}`).join("")
const delta = (delta: object, more: object = {}) => ({ id: "c", model: "m", choices: [{ index: 0, delta, ...more }] })
const end = (finish_reason = "stop", top: object = {}) => ({ ...delta({}, { finish_reason }), ...top })
const tokens = { prompt_tokens: 9, completion_tokens: 3 }
const headers = { "content-type": "text/event-stream" }

interface Answer {
  readonly options: Options
  readonly body: string
  readonly text: string
  readonly reasoning?: string
  readonly tool?: unknown
  readonly finish?: string
  /** Tokens in and out; absent when the server does not tell. */
  readonly tokens?: readonly [number, number]
}

const streams: Readonly<Record<string, Answer>> = {
  "Azure: a first chunk about its filter, and filters beside each choice": {
    options: azure({ apiKey, endpoint, deployment: "m" }),
    body: sse([
      { id: "", model: "", choices: [], prompt_filter_results: [{ prompt_index: 0, content_filter_results: {} }] },
      delta({ role: "assistant", content: "" }, { content_filter_results: {} }),
      delta({ content: "Hi" }, { content_filter_results: { hate: { filtered: false } } }),
      end("content_filter"),
      { ...delta({}), choices: [], usage: tokens },
      "[DONE]"
    ]),
    text: "Hi",
    finish: "content-filter",
    tokens: [9, 3]
  },
  "Groq: usage beside the last chunk": {
    options: groq({ apiKey, defaultModel: "m" }),
    body: sse([delta({ content: "Hi" }), end("stop", { x_groq: { id: "req", usage: tokens } }), "[DONE]"]),
    text: "Hi",
    tokens: [9, 3]
  },
  "Mistral: thinking in a list, a whole call in one delta, padding": {
    options: mistral({ apiKey }),
    body: sse([
      delta({ content: [{ type: "thinking", thinking: [{ type: "text", text: "Hm" }] }] }, { p: "abc" }),
      delta({ content: "Hi" }),
      {
        ...delta(
          { tool_calls: [{ id: "c1", function: { name: "f", arguments: "{\"a\": 1}" }, index: 0 }] },
          { finish_reason: "tool_calls" }
        ),
        usage: tokens
      },
      "[DONE]"
    ]),
    text: "Hi",
    reasoning: "Hm",
    tool: { a: 1 },
    finish: "tool-calls",
    tokens: [9, 3]
  },
  "DeepSeek: comments that keep the connection, reasoning of its own": {
    options: deepseek({ apiKey, defaultModel: "m" }),
    body: `: keep-alive\n\n${
      sse([
        delta({ content: null, reasoning_content: "Hm" }),
        delta({ content: "Hi", reasoning_content: null }),
        end("stop", { usage: { ...tokens, prompt_cache_hit_tokens: 4, prompt_cache_miss_tokens: 5 } }),
        "[DONE]"
      ])
    }`,
    text: "Hi",
    reasoning: "Hm",
    tokens: [9, 3]
  },
  "OpenRouter: comments, reasoning, and what the upstream said": {
    options: openrouter({ apiKey }),
    body: `: OPENROUTER PROCESSING\n\n${
      sse([
        delta({ content: "", reasoning: "Hm", reasoning_details: [{ type: "reasoning.text", text: "Hm" }] }),
        delta({ content: "Hi" }, { native_finish_reason: null }),
        end("stop"),
        end("stop", { usage: { ...tokens, cost: 0.1 } }),
        "[DONE]"
      ])
    }`,
    text: "Hi",
    reasoning: "Hm",
    tokens: [9, 3]
  },
  "Together: a finish reason of its own": {
    options: together({ apiKey, defaultModel: "m" }),
    body: sse([delta({ content: "Hi" }), end("eos", { usage: tokens }), "[DONE]"]),
    text: "Hi",
    tokens: [9, 3]
  },
  "xAI: tokens as told, without those of reasoning": {
    options: xai({ apiKey, defaultModel: "m" }),
    body: sse([
      delta({ reasoning_content: "Hm" }),
      delta({ content: "Hi" }),
      end("stop", { usage: { ...tokens, total_tokens: 112, completion_tokens_details: { reasoning_tokens: 100 } } }),
      "[DONE]"
    ]),
    text: "Hi",
    reasoning: "Hm",
    tokens: [9, 3]
  },
  "Perplexity: no marker, and the whole message in each chunk": {
    options: perplexity({ apiKey }),
    body: sse([
      { ...delta({ content: "H" }, { message: { content: "H" } }), usage: { prompt_tokens: 9, completion_tokens: 1 } },
      {
        ...delta({ content: "i" }, { message: { content: "Hi" }, finish_reason: "stop" }),
        usage: tokens,
        citations: []
      }
    ], "\r\n\r\n"),
    text: "Hi",
    tokens: [9, 3]
  },
  "Ollama: reasoning, and usage at the end": {
    options: ollama({ defaultModel: "m" }),
    body: sse([
      delta({ role: "assistant", content: "", reasoning: "Hm" }),
      delta({ role: "assistant", content: "Hi" }),
      end(),
      { ...delta({}), choices: [], usage: tokens },
      "[DONE]"
    ]),
    text: "Hi",
    reasoning: "Hm",
    tokens: [9, 3]
  },
  "vLLM: fields of its own, no usage": {
    options: vllm({ defaultModel: "m" }),
    body: sse([
      { ...delta({ role: "assistant" }), prompt_token_ids: null },
      delta({ content: "Hi" }, { logprobs: null, stop_reason: null }),
      delta({ content: "" }, { finish_reason: "length", stop_reason: null }),
      "[DONE]"
    ]),
    text: "Hi",
    finish: "length"
  }
}

describe("presets: answers", () => {
  for (const [name, sample] of Object.entries(streams)) {
    it.effect(name, () =>
      Effect.gen(function*() {
        const make = OpenAiCompatible.make(sample.options)
        const outcome = yield* play(make, { headers, body: sample.body }, true)
        assert.strictEqual(outcome.error, undefined)
        const got = digest(outcome)
        assert.strictEqual(got.text, sample.text)
        assert.strictEqual(got.reasoning, sample.reasoning ?? "")
        assert.deepStrictEqual(
          got.toolCalls.map(({ params }) => params),
          sample.tool === undefined ? [] : [sample.tool]
        )
        assert.strictEqual(got.finish?.reason, sample.finish ?? "stop")
        const { inputTokens, outputTokens } = got.finish!.usage
        assert.deepStrictEqual([inputTokens.total, outputTokens.total], [...sample.tokens ?? [undefined, undefined]])

        for (let length = 1; length < sample.body.length; length += 5) {
          const cut = yield* play(make, { headers, body: sample.body.slice(0, length) }, true)
          if (cut.error === undefined) {
            // Only usage and the marker may be missing.
            assert.strictEqual(digest(cut).text, sample.text)
            assert.strictEqual(digest(cut).finish?.reason, sample.finish ?? "stop")
          } else {
            const { reason } = cut.error
            assert.strictEqual(reason._tag === "MalformedResponse" ? reason.problem : reason._tag, TRUNCATED)
          }
        }
      }))
  }

  it.effect("blank lines before an answer do no harm", () =>
    Effect.gen(function*() {
      const make = OpenAiCompatible.make(deepseek({ apiKey, defaultModel: "m" }))
      const answer = { choices: [{ message: { content: "Hi" }, finish_reason: "stop" }] }
      const outcome = yield* play(make, { body: `\n\n\n${JSON.stringify(answer)}` }, false)
      assert.strictEqual(digest(outcome).text, "Hi")
    }))

  it.effect("errors, in the words of each", () =>
    Effect.gen(function*() {
      const cases: ReadonlyArray<[Options, number, unknown, Reason["_tag"], string?]> = [
        [
          azure({ apiKey, endpoint, deployment: "m" }),
          400,
          { error: { code: "content_filter", innererror: { code: "ResponsibleAIPolicyViolation" }, status: 400 } },
          "ContentPolicy"
        ],
        [azure({ apiKey, endpoint, deployment: "m" }), 404, { error: { code: "DeploymentNotFound" } }, "NotFound"],
        [
          azure({ apiKey, endpoint, deployment: "m" }),
          429,
          { error: { code: "429", message: "Please retry after 3 seconds." } },
          "RateLimit",
          "3 seconds"
        ],
        [
          groq({ apiKey, defaultModel: "m" }),
          413,
          { error: { code: "rate_limit_exceeded", type: "tokens", message: "Request too large for model" } },
          "PayloadTooLarge"
        ],
        [groq({ apiKey, defaultModel: "m" }), 498, {}, "Overloaded"],
        [groq({ apiKey, defaultModel: "m" }), 400, { error: { code: "tool_use_failed" } }, "InvalidRequest"],
        [mistral({ apiKey }), 401, { detail: "Invalid API Key" }, "Authentication"],
        [
          mistral({ apiKey }),
          429,
          { object: "error", message: "Rate limit exceeded", type: "rate_limited", code: "1300", raw_status_code: 429 },
          "RateLimit"
        ],
        [mistral({ apiKey }), 422, { detail: [{ msg: "Extra inputs are not permitted" }] }, "InvalidRequest"],
        [deepseek({ apiKey, defaultModel: "m" }), 402, { error: { message: "Insufficient Balance" } }, "Quota"],
        [openrouter({ apiKey }), 402, { error: { code: 402, message: "Insufficient credits" } }, "Quota"],
        [openrouter({ apiKey }), 200, { error: { code: 502, message: "Upstream" } }, "Server"],
        [together({ apiKey, defaultModel: "m" }), 503, { error: { message: "…" } }, "Overloaded"],
        [
          xai({ apiKey, defaultModel: "m" }),
          400,
          { code: "invalid-argument", error: "Incorrect API key provided: te***ey." },
          "Authentication"
        ],
        [perplexity({ apiKey }), 401, "<html><title>401</title></html>", "Unknown"],
        [
          ollama({ defaultModel: "m" }),
          503,
          { error: { message: "server busy, maximum pending requests exceeded", type: "api_error" } },
          "Overloaded"
        ],
        [ollama({ defaultModel: "m" }), 404, { error: { type: "not_found_error", code: null } }, "NotFound"],
        [
          vllm({ defaultModel: "m" }),
          400,
          { object: "error", message: "This model's maximum context length is 8", type: "BadRequestError", code: 400 },
          "ContextLength"
        ]
      ]
      for (const [options, status, error, tag, delay] of cases) {
        const body = typeof error === "string" ? error : JSON.stringify(error)
        const { error: got } = yield* play(OpenAiCompatible.make(options), { status, body }, false)
        assert.strictEqual(got?.reason._tag, tag, body)
        assert.strictEqual(got?.status, status === 200 ? undefined : status)
        if (delay !== undefined) {
          assert.strictEqual(Duration.toMillis(got!.retryAfter!), Duration.toMillis(delay as Duration.Input))
        }
      }
    }))

  it.effect("errors inside a stream", () =>
    Effect.gen(function*() {
      const failed = {
        error: { message: "…", type: "invalid_request_error", code: "tool_use_failed", status_code: 400 }
      }
      const cases: ReadonlyArray<[Options, string, Reason["_tag"]]> = [
        [groq({ apiKey, defaultModel: "m" }), `event: error\n${sse([failed])}`, "InvalidRequest"],
        [openrouter({ apiKey }), sse([end("error", { error: { code: 429, message: "Provider" } })]), "RateLimit"],
        [
          openrouter({ apiKey }),
          sse([delta({}, { finish_reason: "error", error: { code: 502, message: "…" } })]),
          "Server"
        ]
      ]
      for (const [options, error, tag] of cases) {
        const body = sse([delta({ content: "Hi" })]) + error
        const outcome = yield* play(OpenAiCompatible.make(options), { headers, body }, true)
        assert.strictEqual(outcome.error?.reason._tag, tag)
        assert.strictEqual(digest(outcome).text, "Hi")
        assert.isUndefined(digest(outcome).finish)
      }
    }))
})
