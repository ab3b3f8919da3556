// What a response that failed means, by `ProviderError.fromHttp`: the rows of the field cases that need no transport.
import { assert, describe, it } from "@effect/vitest"
import { classify, type HttpFailure, ProviderError, type Reason } from "effect-resilient-llm/LlmError"
import { ofHttp, tellsFailure } from "effect-resilient-llm/providers/internal/failure"
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Redacted from "effect/Redacted"
import { TestClock } from "effect/testing"
import type { IncomingHttpHeaders } from "node:http"
import { inspect } from "node:util"

const now = Date.parse("2026-01-01T00:00:00Z")

const http = (status: number, body: unknown, headers: HttpFailure["headers"] = {}): ProviderError =>
  ProviderError.fromHttp({
    provider: "vendor",
    status,
    headers,
    body: typeof body === "string" ? body : JSON.stringify(body),
    now
  })

const reason = (status: number, body: unknown, headers?: HttpFailure["headers"]): Reason["_tag"] =>
  http(status, body, headers).reason._tag

const millis = (error: ProviderError): number | undefined =>
  error.retryAfter === undefined ? undefined : Duration.toMillis(error.retryAfter)

const openai = (message: string, code: string | null = null, type = "invalid_request_error") => ({
  error: { message, type, param: null, code }
})
const anthropic = (message: string, type = "invalid_request_error") => ({ type: "error", error: { type, message } })
const page = "<!doctype html><html><title>Just a moment...</title></html>"

type Row = readonly [status: number, body: unknown, reason: Reason["_tag"], headers?: Readonly<Record<string, string>>]

const rows = (name: string, all: ReadonlyArray<Row>): void => {
  for (const [status, body, expected, headers] of all) {
    it(`${name} ${status} ${JSON.stringify(body).slice(0, 120)} is ${expected}`, () => {
      assert.strictEqual(reason(status, body, headers), expected)
    })
  }
}

describe("A9 only the vendor's own refusal says that a request is wrong", () => {
  rows("A9", [
    [407, "", "Unknown"],
    [425, "", "Unknown"],
    [405, { detail: "Method Not Allowed" }, "Unknown"],
    [415, openai("Unsupported media type"), "Unknown"],
    [451, "", "Unknown"],
    [460, {}, "Unknown"],
    [400, { error: { message: "…", type: "InternalServerError", code: 400 } }, "Unknown"],
    [422, { error: { message: "…", type: "api_error" } }, "Unknown"],
    [400, { error: { message: "Internal server error", type: "invalid_request_error" } }, "Unknown"],
    [400, { message: "Insufficient quota available for instant inference", type: "InternalServerError" }, "Quota"],
    [400, openai("Your quota has been exhausted."), "Quota"],
    [400, openai("The model is at capacity."), "Overloaded"],
    [400, openai("Service tier capacity exceeded for this model."), "Overloaded"],
    [400, page, "Unknown"],
    [422, "<html>", "Unknown"],
    [400, "", "Unknown"],
    [400, "Bad Request", "Unknown"],
    [400, "{}", "Unknown"],
    [400, "[]", "Unknown"],
    [400, "null", "Unknown"],
    [400, "{\"error\":", "Unknown"],
    // What stays.
    [400, openai("Unsupported parameter: 'stop'", "unsupported_parameter"), "InvalidRequest"],
    [400, anthropic("messages: roles must alternate"), "InvalidRequest"],
    [400, { message: "invalid request: message must be at least 1 token long" }, "InvalidRequest"],
    [400, { error: "invalid format" }, "InvalidRequest"],
    [
      400,
      { error: { code: 400, message: "Invalid CachedContent name", status: "INVALID_ARGUMENT" } },
      "InvalidRequest"
    ],
    [422, { detail: [{ loc: ["body", "messages"], msg: "Field required" }] }, "InvalidRequest"],
    // Classes of their own, whoever says so.
    [429, page, "RateLimit"],
    [404, page, "NotFound"],
    [413, page, "PayloadTooLarge"],
    [503, page, "Overloaded"]
  ])

  it("A9 Unknown: another target, an old answer, but no second try and no rest", () => {
    assert.deepStrictEqual(classify(http(407, "")), {
      outcome: "ignored",
      retry: false,
      failover: true,
      coolDown: false,
      stale: true
    })
  })
})

describe("B4 a 499 that arrives as an answer", () => {
  rows("B4", [
    [499, "", "ClientClosed"],
    [499, page, "ClientClosed"],
    [499, { error: { code: 499, message: "The operation was cancelled.", status: "CANCELLED" } }, "ClientClosed"],
    [500, { error: { code: 500, message: "…", type: "client_closed_request" } }, "ClientClosed"]
  ])

  it("B4 the same target and others may be asked, and the breaker looks away", () => {
    const { coolDown, failover, outcome, retry } = classify(http(499, ""))
    assert.deepStrictEqual([outcome, retry, failover, coolDown], ["ignored", true, true, false])
  })
})

describe("B5 the way, not the key", () => {
  rows("B5", [
    [403, "<html><title>Forbidden</title></html>", "Unknown"],
    [401, page, "Unknown"],
    [401, "Unauthorized", "Unknown", { "content-type": "Text/HTML; charset=utf-8" }],
    [403, "", "Unknown", { "cf-mitigated": "challenge" }],
    [403, { error: { message: "challenge" } }, "Unknown", { "CF-Mitigated": "challenge" }],
    [503, page, "Unknown", { "cf-mitigated": "challenge" }],
    [403, "error code: 1020", "Unknown"],
    [403, "Your request was blocked.", "Unknown"],
    [403, "<?xml version=\"1.0\"?><Error><Code>AccessDenied</Code></Error>", "Unknown"],
    [407, page, "Unknown"],
    [407, { error: { message: "Proxy authentication required" } }, "Unknown"],
    [403, { error: { message: "…", code: "server_error" } }, "Unknown"],
    [401, { error: { message: "Internal server error" } }, "Unknown"],
    // What stays the key's.
    [401, "", "Authentication"],
    [401, { error: { message: "No cookie auth credentials found", code: 401 } }, "Authentication"],
    [401, openai("Incorrect API key provided", "invalid_api_key"), "Authentication", { "content-type": "text/html" }],
    [403, anthropic("Your API key does not have permission", "permission_error"), "Permission"]
  ])
})

const tooLong = [
  "input length and `max_tokens` exceed context limit: 188240 + 21333 > 200000, decrease input length or `max_tokens`",
  "prompt token count of 172059 exceeds the limit of 128000",
  "Your request exceeded model token limit: 262144 (requested: 269870)",
  "Prompt contains 328500 tokens, too large for model with 131072 maximum context length",
  "Prompt exceeds max length",
  "Input must have less than 8192 tokens",
  "<400> InternalError.Algo.InvalidParameter: Range of input length should be [1, 129024]",
  "The sum of prompt length (9000) and query length should not exceed max_num_tokens (8192)",
  // Siblings.
  "prompt is too long: 213462 tokens > 200000 maximum",
  "Your input exceeds the context window of this model.",
  "The input token count (1196265) exceeds the maximum number of tokens allowed (1048575).",
  "This model's maximum prompt length is 131072 but the request contains 537812 tokens.",
  "Please reduce the length of the messages or completion.",
  "This endpoint's maximum context length is 32768 tokens. However, you requested about 42832 tokens.",
  "the request exceeds the available context size, try increasing it",
  "The number of tokens to keep from the initial prompt is greater than the context length.",
  "invalid params, context window exceeds limit (2013)",
  "prompt too long; exceeded max context length by 12 tokens",
  "Input length (265330) exceeds model's maximum context length (262144).",
  "Input tokens exceed the configured limit of 272000 tokens.",
  "Input is too long for requested model.",
  "The total length of all messages is too long.",
  "too many tokens: size limit exceeded by 25836 tokens.",
  "'max_tokens' is too large: 2000. This model's maximum context length is 4096 tokens and your request has 2104",
  "Requested token count exceeds the model's maximum context length of 131072 tokens.",
  "Context size has been exceeded."
]

const notTooLong: ReadonlyArray<Row> = [
  [400, openai("Too many tokens, please wait before trying again."), "RateLimit"],
  [429, openai("Too many tokens, please wait before trying again."), "RateLimit"],
  [400, { message: "ThrottlingException: Too many tokens, please wait before trying again." }, "RateLimit"],
  [429, openai("This request exceeds the limit of 30000 tokens per minute."), "RateLimit"],
  [403, openai("Your plan does not include the 1M context window."), "Permission"],
  [403, openai("The prompt length allowed by your plan exceeds what this model offers."), "Permission"],
  [400, anthropic("The long context beta is not yet available for this subscription."), "InvalidRequest"],
  [
    400,
    openai(
      "`max_tokens` must be less than or equal to `8192`, the maximum value for `max_tokens` is less than the"
        + " `context_window` for this model"
    ),
    "InvalidRequest"
  ],
  [
    400,
    openai("max_tokens is too large: 100000. This model supports at most 16384 completion tokens."),
    "InvalidRequest"
  ],
  [
    400,
    anthropic("max_tokens: 65537 > 64000, which is the maximum allowed number of output tokens"),
    "InvalidRequest"
  ],
  [400, openai("Range of max_tokens should be [1, 8192]"), "InvalidRequest"],
  [400, openai("`max_new_tokens` must be <= 4096"), "InvalidRequest"],
  [400, openai("tools.0.function.description exceeds the maximum length of 1024"), "InvalidRequest"],
  [400, { error: { code: 400, message: "Token limit reached" } }, "InvalidRequest"]
]

describe("B8 sentences that say: too long", () => {
  for (const [status, wrap] of [[400, openai], [400, anthropic], [413, openai], [500, openai]] as const) {
    rows("B8", tooLong.map((message): Row => [status, wrap(message), "ContextLength"]))
  }
  rows("B8 false friend", notTooLong)
  rows("B8 403 by its numbers", [
    [403, openai("Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4097."), "ContextLength"]
  ])
})

const quote = (inner: unknown): string => JSON.stringify(inner)

describe("B10 one failure inside another", () => {
  const google = { error: { code: 429, message: "Resource exhausted", status: "RESOURCE_EXHAUSTED" } }
  rows("B10", [
    [400, { error: { message: quote(openai("…", "context_length_exceeded")) } }, "ContextLength"],
    [
      400,
      { error: { message: `litellm.BadRequestError: VertexAIException - ${quote(google)}`, code: "400" } },
      "RateLimit"
    ],
    [500, { error: { message: `litellm.APIConnectionError: b'${quote(google)}'`, code: "500" } }, "RateLimit"],
    [500, { error: { code: 429, message: "Provider returned error" } }, "RateLimit"],
    [
      502,
      { error: { message: "Upstream failed", metadata: { raw: quote(anthropic("…", "rate_limit_error")) } } },
      "RateLimit"
    ],
    [500, { error: { message: "Error code: 429 - {'error': {'message': 'slow'}}" } }, "RateLimit"],
    [500, { error: { message: "Error code: 401 - {'error': {'message': 'bad key'}}" } }, "Authentication"],
    [500, { error: { message: "litellm.APIError: Error code: 429 - {'error': {'message': 'slow'}}" } }, "RateLimit"],
    [400, { error: { message: "litellm.ContextWindowExceededError: …", code: "400" } }, "ContextLength"],
    [400, { error: { message: "litellm.ContentPolicyViolationError: …", code: "400" } }, "ContentPolicy"],
    [403, { error: { message: "Key limit exceeded (total limit). Manage it using https://…", code: 403 } }, "Quota"],
    [403, { error: { message: "You have reached your subscription quota limit" } }, "Quota"],
    [
      429,
      { error: { code: 429, message: "Your prepayment credits are depleted.", status: "RESOURCE_EXHAUSTED" } },
      "Quota"
    ],
    [500, openai("Insufficient balance", null, "api_error"), "Quota"],
    [400, { error: { message: "…", code: "model_not_available" } }, "NotFound"],
    [403, { error: { message: "…", type: "model_not_available" } }, "NotFound"],
    [400, anthropic("Output blocked by content filtering policy"), "ContentPolicy"],
    // Where it is not clear, the outer one counts.
    [500, { error: { message: quote(openai("Unsupported parameter: 'stop'", "unsupported_parameter")) } }, "Server"],
    [502, { error: { code: 400, message: "…" } }, "Server"],
    [429, { error: { code: 500, message: "…" } }, "RateLimit"],
    // A status of something else than the answer.
    [400, openai("Unable to download the image: status code 404."), "InvalidRequest"],
    [400, openai("The tool said: Error code: 429"), "InvalidRequest"],
    // JSON that is no error: of a schema, or of what the caller wrote.
    [400, openai("Invalid schema for function 'f': {\"type\":\"string\"} is not an object"), "InvalidRequest"]
  ])

  it("B10 what the inner error says of itself is told", () => {
    const inner = { error: { message: "…", code: "insufficient_quota" }, request_id: "req_inner" }
    const error = http(500, { error: { message: `failed: ${quote(inner)}` } })
    assert.deepStrictEqual([error.reason._tag, error.code, error.requestId], [
      "Quota",
      "insufficient_quota",
      "req_inner"
    ])
    const schema = http(400, openai("Invalid schema: {\"type\":\"string\"}"))
    assert.strictEqual(schema.code, "invalid_request_error")
  })

  it("B10 a failure wrapped again and again is looked at three times", () => {
    const wrap = (body: unknown, times: number): unknown =>
      times === 0 ? body : wrap({ error: { message: quote(body) } }, times - 1)
    const quota = openai("…", "insufficient_quota")
    assert.strictEqual(reason(500, wrap(quota, 3)), "Quota")
    assert.strictEqual(reason(500, wrap(quota, 9)), "Server")
  })
})

describe("B11 when to come again", () => {
  const epoch = now / 1000
  const cases: ReadonlyArray<readonly [headers: Readonly<Record<string, string>>, delay: number | undefined]> = [
    [{ "retry-after": String(epoch + 30) }, 30_000],
    [{ "retry-after": String(now + 45_000) }, 45_000],
    [{ "retry-after": String(epoch - 30) }, 0],
    [{ "retry-after": "1 minute and 30 seconds" }, 90_000],
    [{ "retry-after": "30 seconds" }, 30_000],
    [{ "retry-after": "Thu Jan  1 00:00:05 2026" }, 5000],
    [{ "retry-after": "Thursday, 01-Jan-26 00:00:05 GMT" }, 5000],
    [{ "retry-after": "Thu, 01 Jan 2026 00:00:05 +0000" }, 5000],
    [{ "retry-after": "Thu, 01 Jan 2026 00:00:05 GMT, 45" }, 45_000],
    [{ "retry-after": "3, Thu, 01 Jan 2026 00:00:05 GMT" }, 5000],
    [{ "retry-after": "2, 9" }, 9000],
    [{ "retry-after": "abc, 9" }, 9000],
    [{ "retry-after": "5 s" }, undefined],
    [{ "retry-after": "1.5" }, undefined],
    [{ "x-ratelimit-reset-after": "7" }, 7000],
    [{ "x-ratelimit-reset-after": "0.25" }, 250],
    [{ "x-ms-retry-after-ms": "1500" }, 1500],
    [{ "x-ms-retry-after-ms": "1500", "retry-after": "9" }, 1500],
    [{ "retry-after-ms": "100, 200" }, 200],
    [{ "retry-after-ms": String(now + 1500) }, 1500],
    [{ "retry-after": "9", "x-ratelimit-reset-after": "7" }, 9000],
    [{ ratelimit: "\"default\";r=0;t=30", "ratelimit-policy": "\"default\";q=100;w=60" }, 30_000],
    [{ ratelimit: "limit=100, remaining=0, reset=12" }, 12_000],
    [{ ratelimit: "\"a\";r=5;t=99, \"b\";r=0;t=20" }, 20_000],
    [{ "retry-after": "277403" }, 277_403_000],
    [{ "retry-after": "99999999" }, 31 * 86_400_000],
    [{ "retry-after": "99999999999999999999" }, 31 * 86_400_000],
    [{ "retry-after-ms": "99999999999" }, 31 * 86_400_000]
  ]
  for (const [headers, delay] of cases) {
    it(`B11 ${JSON.stringify(headers)} is ${delay} ms`, () => {
      assert.strictEqual(millis(http(429, "", headers)), delay)
    })
  }

  it("B11 a message that asks for a minute and a half", () => {
    const of = (text: string) => millis(http(429, openai(text)))
    assert.strictEqual(of("Please try again in 1 minute and 30 seconds."), 90_000)
    assert.strictEqual(of("Try again in 1 hour, 2 minutes and 3 seconds"), 3_723_000)
    assert.strictEqual(of("Please try again in 400 days"), 31 * 86_400_000)
    assert.strictEqual(of("Please try again in 5 seconds and another way"), 5000)
  })

  it("B11 limits of the structured fields", () => {
    assert.deepStrictEqual(
      http(429, "", { RateLimit: "\"daily\";r=3;t=60;pk=:a:", "RateLimit-Policy": "\"daily\";q=10;w=86400" })
        .rateLimits,
      [{ dimension: "daily", limit: 10, remaining: 3, resetAfter: 60_000 }]
    )
    assert.deepStrictEqual(http(429, "", { ratelimit: "limit=100, remaining=7, reset=12" }).rateLimits, [
      { dimension: "requests", limit: 100, remaining: 7, resetAfter: 12_000 }
    ])
    const hostile = Array.from({ length: 1000 }, (_, i) => `"d${i}";r=1`).join(",")
    assert.isAtMost(http(429, "", { ratelimit: hostile }).rateLimits!.length, 16)
    assert.strictEqual(http(429, "", { ratelimit: ";;;\"=,".repeat(100) }).rateLimits, undefined)
  })
})

describe("B7 B12 errors in any form", () => {
  rows("B7", [
    [503, { type: "about:blank", title: "Service Unavailable", status: 503, detail: "…" }, "Overloaded", {
      "content-type": "application/problem+json"
    }],
    [
      400,
      { type: "https://example.test/too-long", title: "Bad Request", detail: "prompt is too long" },
      "ContextLength"
    ],
    [400, openai("…", "context_length_exceeded"), "ContextLength", { "content-type": "text/plain" }],
    [429, `data: ${quote(openai("…", "insufficient_quota"))}\n\n`, "Quota", { "content-type": "text/event-stream" }],
    [429, `event: error\r\ndata: ${quote(openai("…", "insufficient_quota"))}\r\n\r\n`, "Quota"],
    [500, `error: ${quote(anthropic("…", "overloaded_error"))}\n\n`, "Overloaded"],
    [429, [openai("…", "insufficient_quota")], "Quota"]
  ])
  rows("B12", [
    [200, { base_resp: { status_code: 1008, status_msg: "insufficient balance" } }, "Quota"],
    [200, { base_resp: { status_code: 1002, status_msg: "rate limit" }, choices: null }, "RateLimit"],
    [200, { base_resp: { status_code: 1004, status_msg: "login fail" } }, "Authentication"],
    [200, { base_resp: { status_code: 1013, status_msg: "…" } }, "Server"],
    [200, { base_resp: { status_code: 2013, status_msg: "context window exceeds limit" } }, "ContextLength"],
    [200, { base_resp: { status_code: 4711, status_msg: "…" } }, "Server"],
    [200, { code: 429, msg: "slow down" }, "RateLimit"],
    [200, { code: "InvalidApiKey", message: "Invalid API-key provided." }, "Authentication"],
    [200, { code: 1113, msg: "Insufficient balance or no resource package." }, "Quota"],
    [200, { detail: "Invalid API Key" }, "Authentication"],
    [200, { detail: "Internal Server Error" }, "Server"],
    [200, { type: "error", message: "Overloaded" }, "Overloaded"],
    [200, { success: false, errors: [{ code: 10000, message: "Authentication error" }] }, "Server"],
    [200, { error: "insufficient_quota" }, "Quota"]
  ])

  it("B12 what tells a failure, and what an answer may say of itself", () => {
    for (
      const body of [
        { base_resp: { status_code: 1008 } },
        { code: 500, msg: "…" },
        { detail: "…" },
        { detail: [{ msg: "…" }] },
        { type: "error", message: "…" },
        { error: "…" },
        { error: { message: "…" } },
        [{ error: { message: "…" } }],
        { object: "error", message: "…" },
        { success: false },
        { message: "…" },
        { status: 503, title: "…", type: "about:blank" }
      ]
    ) {
      assert.isTrue(tellsFailure(body), JSON.stringify(body))
    }
    for (
      const body of [
        null,
        "error",
        7,
        [],
        {},
        { choices: [], error: null },
        { choices: [{ message: { content: "" } }], base_resp: { status_code: 0, status_msg: "" } },
        { object: "response", error: null, status: "completed", output: [] },
        { type: "message", content: [], message: "…" },
        { message: { role: "assistant", content: "Hi" }, done: true },
        { candidates: [], code: 1 },
        { promptFeedback: { blockReason: "SAFETY" } },
        { type: "ping" },
        { type: "response.completed", response: { status: "completed" } },
        { type: "content-delta", delta: {}, index: 0 },
        { choices: [], detail: "…", code: 500, msg: "…" },
        { error: {} },
        { error: "" }
      ]
    ) {
      assert.isFalse(tellsFailure(body), JSON.stringify(body))
    }
  })

  it("B12 the detail is told, and the headers of a success say nothing of a delay", () => {
    const error = http(200, { code: 429, msg: "slow down" }, { "retry-after": "17", "x-request-id": "req_1" })
    assert.strictEqual(Redacted.value(error.detail!), "slow down")
    assert.deepStrictEqual([error.status, error.retryAfter, error.requestId], [undefined, undefined, "req_1"])
  })
})

describe("what is published", () => {
  const secret = "sk-secret-0123456789"
  const of = (body: unknown, headers: Readonly<Record<string, string>> = {}) =>
    ProviderError.fromHttp({ provider: "v", status: 401, headers, body, secrets: [Redacted.make(secret)] })

  it("no code, type or request id that holds a secret of ours", () => {
    for (
      const error of [
        of({ error: { code: `bad_key_${secret}`, type: secret, message: secret } }),
        of({ error: { message: "…" }, request_id: `req-${secret}` }),
        of({}, { "x-request-id": `req-${secret}` })
      ]
    ) {
      assert.strictEqual(error.code, undefined)
      assert.strictEqual(error.requestId, undefined)
      assert.notInclude([error.message, JSON.stringify(error), inspect(error, { depth: 9 })].join("\n"), secret)
    }
    // Another id of the same answer may be told.
    assert.strictEqual(of({ request_id: "req_2" }, { "x-request-id": `req-${secret}` }).requestId, "req_2")
  })

  it("nothing that is longer than an identifier is", () => {
    const error = of({ error: { code: "c".repeat(65), type: "t".repeat(65) }, request_id: "r".repeat(129) }, {
      "x-request-id": "r".repeat(129)
    })
    assert.deepStrictEqual([error.code, error.requestId], [undefined, undefined])
  })

  it("a placeholder in place of a key hides nothing", () => {
    const error = ProviderError.fromHttp({
      provider: "ollama",
      status: 404,
      body: { error: { code: "ollama_model_missing", message: "…" } },
      secrets: [Redacted.make("ollama")]
    })
    assert.strictEqual(error.code, "ollama_model_missing")
  })

  it("a code comes from the first word that is one", () => {
    assert.strictEqual(of({ error: { code: "not a code", type: "a_type" } }).code, "a_type")
  })
})

describe("fromHttp", () => {
  it("takes the headers of node:http, whose values can be lists, and what is no header", () => {
    const headers: IncomingHttpHeaders = { "retry-after": "7", "set-cookie": ["a=b", "c=d"], "x-request-id": undefined }
    assert.strictEqual(millis(ProviderError.fromHttp({ provider: "p", status: 429, headers })), 7000)
    const listed = { "Retry-After": ["7", "9"] }
    assert.strictEqual(millis(ProviderError.fromHttp({ provider: "p", status: 429, headers: listed })), 9000)
    for (const headers of [null, { "retry-after": 9 }, { "retry-after": null, "x-request-id": {} }]) {
      assert.strictEqual(
        ProviderError.fromHttp({ provider: "p", status: 429, headers: headers as never }).reason._tag,
        "RateLimit"
      )
    }
  })

  it("takes headers of any case, as pairs, and as the web's", () => {
    const headers = { "Retry-After": "7", "X-Request-Id": "req_1", "X-Should-Retry": "false" }
    for (const given of [headers, Object.entries(headers), new Headers(headers), new Map(Object.entries(headers))]) {
      const error = ProviderError.fromHttp({ provider: "p", status: 503, headers: given })
      assert.deepStrictEqual([millis(error), error.requestId, error.shouldRetry], [7000, "req_1", false])
    }
  })

  it("takes a body that is parsed already, or none", () => {
    const body = openai("…", "insufficient_quota")
    assert.strictEqual(ProviderError.fromHttp({ provider: "p", status: 429, body }).reason._tag, "Quota")
    assert.strictEqual(ProviderError.fromHttp({ provider: "p", status: 429 }).reason._tag, "RateLimit")
    assert.strictEqual(ProviderError.fromHttp({ provider: "p", status: 302 }).reason._tag, "MalformedResponse")
  })

  it.effect("reads dates by the clock of the running fibre, the server's clock first", () =>
    Effect.gen(function*() {
      yield* TestClock.setTime(now)
      const date = { "retry-after": "Thu, 01 Jan 2026 00:00:05 GMT" }
      assert.strictEqual(millis(ProviderError.fromHttp({ provider: "p", status: 503, headers: date })), 5000)
      const headers = { ...date, date: "Thu, 01 Jan 2026 00:00:02 GMT" }
      assert.strictEqual(millis(ProviderError.fromHttp({ provider: "p", status: 503, headers })), 3000)
      assert.strictEqual(yield* Clock.currentTimeMillis, now)
    }))

  it("reads dates by the system's clock outside of a fibre", () => {
    const headers = { "retry-after": String(Math.ceil(Date.now() / 1000) + 100) }
    assert.closeTo(millis(ProviderError.fromHttp({ provider: "p", status: 503, headers }))!, 100_000, 5000)
  })

  it("bounds what it looks at, and never throws", () => {
    const deep = "{\"error\":".repeat(50_000) + "1" + "}".repeat(50_000)
    const wide = `{"error":{"message":${JSON.stringify("{".repeat(60_000))}}}`
    const start = performance.now()
    for (const body of [deep, wide, "{".repeat(60_000), "a.".repeat(30_000) + "Error", "data: ".repeat(10_000)]) {
      const { reason } = ofHttp({ status: 400, headers: {}, body, now })
      assert.include(["Unknown", "InvalidRequest"], reason._tag)
    }
    for (const message of ["too many tokens ".repeat(300), "quota ".repeat(700), "exceed ".repeat(600)]) {
      http(400, openai(message))
    }
    assert.isBelow(performance.now() - start, 3000)
  })
})
