import { assert, describe, it } from "@effect/vitest"
import { classify, type ProviderError, type Reason } from "effect-resilient-llm/LlmError"
import * as Errors from "effect-resilient-llm/providers/internal/errors"
import * as Duration from "effect/Duration"
import * as HttpClientError from "effect/http/HttpClientError"
import * as HttpClientRequest from "effect/http/HttpClientRequest"
import * as Redacted from "effect/Redacted"
import { inspect } from "node:util"

const exchange = (
  status: number,
  headers: Errors.Exchange["headers"] = {},
  statuses?: Errors.Statuses
): Errors.Exchange => ({
  provider: "vendor",
  statuses,
  status,
  headers,
  now: Date.parse("2026-01-01T00:00:00Z")
})

const http = (
  status: number,
  body: unknown,
  headers?: Errors.Exchange["headers"],
  statuses?: Errors.Statuses
): ProviderError =>
  Errors.ofResponse(exchange(status, headers, statuses), typeof body === "string" ? body : JSON.stringify(body))

const millis = (error: ProviderError): number | undefined =>
  error.retryAfter === undefined ? undefined : Duration.toMillis(error.retryAfter)

type Case = readonly [status: number, body: unknown, reason: Reason["_tag"], code?: string | undefined]

const openai = (code: string | null, type: string | null = null, message = "…") => ({
  error: { message, type, param: null, code }
})
const anthropic = (type: string, message: string, details?: unknown) => ({
  type: "error",
  error: { type, message, details }
})

const cases: ReadonlyArray<Case> = [
  // the status alone
  ...([
    [402, "Quota"],
    [404, "NotFound"],
    [408, "Timeout"],
    [409, "Conflict"],
    [413, "PayloadTooLarge"],
    [418, "Unknown"],
    [429, "RateLimit"],
    [498, "Overloaded"],
    [499, "ClientClosed"],
    [500, "Server"],
    [501, "Server"],
    [502, "Server"],
    [503, "Overloaded"],
    [504, "Timeout"],
    [520, "Server"],
    [524, "Timeout"],
    [529, "Overloaded"],
    [301, "MalformedResponse"]
  ] as const).flatMap(([status, reason]): ReadonlyArray<Case> => [
    [status, "", reason],
    [status, "<html><title>Error</title></html>", reason],
    [status, "null", reason],
    [status, "[]", reason],
    [status, "{\"error\":", reason]
  ]),
  // a status that blames the key, alone
  [401, "", "Authentication"],
  [403, "", "Permission"],
  [401, "null", "Authentication"],
  [403, "{\"error\":", "Permission"],
  // OpenAI and those who speak its protocol
  [429, openai("insufficient_quota", "insufficient_quota"), "Quota", "insufficient_quota"],
  [
    429,
    openai("rate_limit_exceeded", "requests", "Limit 3. Please try again in 20s. Add a payment method at …/billing."),
    "RateLimit",
    "rate_limit_exceeded"
  ],
  [
    429,
    openai(
      "rate_limit_exceeded",
      "tokens",
      "Request too large for gpt-4o on tokens per min (TPM): Limit 30000, Requested 31000."
    ),
    "PayloadTooLarge"
  ],
  [
    413,
    openai("rate_limit_exceeded", "tokens", "Request too large for model on tokens per minute (TPM)"),
    "PayloadTooLarge"
  ],
  [413, openai("rate_limit_exceeded", "tokens", "…"), "PayloadTooLarge"],
  [413, openai("rate_limit_exceeded", "tokens", "Limit 6000 tokens per minute, requested 14810."), "PayloadTooLarge"],
  [400, openai("context_length_exceeded", "invalid_request_error"), "ContextLength"],
  [400, openai(null, "invalid_request_error", "This model's maximum context length is 8192 tokens."), "ContextLength"],
  [400, openai("model_not_found", "invalid_request_error"), "NotFound"],
  [
    400,
    openai(null, "invalid_request_error", "The model `x` has been decommissioned and is no longer supported."),
    "NotFound"
  ],
  [400, openai("unsupported_parameter", "invalid_request_error"), "InvalidRequest", "unsupported_parameter"],
  [401, openai("invalid_request_error", "authentication_error"), "Authentication"],
  [400, openai("content_policy_violation"), "ContentPolicy"],
  [
    400,
    { error: { code: "content_filter", message: "…", innererror: { code: "ResponsibleAIPolicyViolation" } } },
    "ContentPolicy"
  ],
  [503, openai("server_is_overloaded", "service_unavailable_error"), "Overloaded"],
  [500, openai(null, "server_error"), "Server", "server_error"],
  [404, { error: { code: "DeploymentNotFound", message: "…" } }, "NotFound"],
  [429, { error: { code: "429", message: "Rate limit is exceeded. Try again in 2 seconds." } }, "RateLimit"],
  [400, { code: "invalid-argument", error: "Incorrect API key provided: k***y." }, "Authentication"],
  [
    403,
    { code: "…", error: "Your team has used all available credits or reached its monthly spending limit." },
    "Quota"
  ],
  [429, {
    object: "error",
    message: "Service tier capacity exceeded for this model.",
    type: "invalid_request_error",
    code: "3505"
  }, "Overloaded"],
  [401, { detail: "Invalid API Key" }, "Authentication"],
  [422, { detail: [{ loc: ["body"], msg: "Field required" }] }, "InvalidRequest"],
  [400, {
    object: "error",
    message: "This model's maximum context length is 4096 tokens.",
    type: "BadRequestError",
    code: 400
  }, "ContextLength"],
  [
    403,
    { error: { message: "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4097." } },
    "ContextLength"
  ],
  [
    403,
    { error: { code: 403, message: "The model requires moderation and your input was flagged.", metadata: {} } },
    "ContentPolicy"
  ],
  [
    429,
    { error: { code: 429, message: "Provider returned error", metadata: { raw: "rate-limited upstream" } } },
    "RateLimit"
  ],
  [429, { error: { message: "…", type: "exceeded_current_quota_error" } }, "Quota"],
  [503, { error: { message: "server busy, maximum pending requests exceeded", type: "api_error" } }, "Overloaded"],
  // Anthropic
  [400, anthropic("invalid_request_error", "Your credit balance is too low to access the API."), "Quota"],
  [400, anthropic("invalid_request_error", "You have reached your specified API usage limits."), "Quota"],
  [400, anthropic("invalid_request_error", "prompt is too long: 3333404 tokens > 200000 maximum"), "ContextLength"],
  [413, anthropic("request_too_large", "Request exceeds the maximum size"), "PayloadTooLarge"],
  [413, anthropic("request_too_large", "Prompt is too long"), "ContextLength"],
  [
    429,
    anthropic("rate_limit_error", "…", { error_code: "enforced_spend_limit_reached" }),
    "Quota",
    "enforced_spend_limit_reached"
  ],
  [402, anthropic("billing_error", "…"), "Quota"],
  [500, anthropic("overloaded_error", "Overloaded"), "Overloaded"],
  [504, anthropic("timeout_error", "…"), "Timeout"],
  // Cohere
  [429, { message: "You are using a Trial key, which is limited to 1000 API calls / month." }, "Quota"],
  [429, { message: "You are using a Trial key, which is limited to 40 API calls / minute." }, "RateLimit"],
  [400, { error_type: "TOO_MANY_TOKENS", message: "too many tokens: …" }, "ContextLength", "TOO_MANY_TOKENS"],
  [404, { message: "model 'x' was removed on September 15, 2025" }, "NotFound"],
  // Google
  [429, {
    error: {
      code: 429,
      status: "RESOURCE_EXHAUSTED",
      message: "You exceeded your current quota, please check your plan and billing details."
    }
  }, "RateLimit"],
  [
    429,
    [{
      error: {
        code: 429,
        status: "RESOURCE_EXHAUSTED",
        details: [{ violations: [{ quotaId: "GenerateRequestsPerDayPerProject" }] }]
      }
    }],
    "Quota"
  ],
  [
    400,
    { error: { code: 400, status: "INVALID_ARGUMENT", details: [{ reason: "API_KEY_INVALID" }] } },
    "Authentication"
  ],
  [400, {
    error: { code: 400, status: "INVALID_ARGUMENT", message: "The input token count (1250074) exceeds the maximum." }
  }, "ContextLength"],
  // hostile or odd
  [400, { error: { code: "<script>alert(1)</script>", type: "x y", message: 5 } }, "InvalidRequest", undefined],
  [500, { error: "text" }, "Server"]
]

describe("errors", () => {
  for (const [status, body, reason, code] of cases) {
    it(`${status} ${JSON.stringify(body).slice(0, 110)} is ${reason}`, () => {
      const error = http(status, body)
      assert.strictEqual(error.reason._tag, reason)
      assert.strictEqual(error.status, status)
      if (code !== undefined) assert.strictEqual(error.code, code)
    })
  }

  it("publishes a code only when it is an identifier", () => {
    assert.strictEqual(http(400, openai("no code at all")).code, undefined)
    assert.strictEqual(http(400, openai("x".repeat(65))).code, undefined)
    assert.strictEqual(http(400, openai("a.b:c-d_1")).code, "a.b:c-d_1")
  })

  it("lets a vendor give a status its own meaning", () => {
    assert.strictEqual(http(498, "", {}, new Map([[498, "ContentPolicy"]])).reason._tag, "ContentPolicy")
  })

  it("obeys x-should-retry for the retry of the same target only", () => {
    const no = http(503, "", { "x-should-retry": "false" })
    assert.strictEqual(no.reason._tag, "Overloaded")
    assert.strictEqual(classify(no).retry, false)
    assert.strictEqual(classify(no).failover, true)
    assert.strictEqual(classify(http(400, "", { "x-should-retry": "true" })).retry, true)
    assert.strictEqual(http(400, "", { "x-should-retry": "perhaps" }).shouldRetry, undefined)
  })

  it("takes the delay from headers, RetryInfo, exhausted limits, then text", () => {
    const limits = { "x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "3s" }
    const text = openai("rate_limit_exceeded", "tokens", "Please try again in 4s.")
    const info = { error: { ...text.error, details: [{ retryDelay: "2s" }] } }
    assert.strictEqual(millis(http(429, info, { ...limits, "retry-after": "1" })), 1000)
    assert.strictEqual(millis(http(429, info, limits)), 2000)
    assert.strictEqual(millis(http(429, text, limits)), 3000)
    assert.strictEqual(millis(http(429, text)), 4000)
    assert.strictEqual(millis(http(429, openai("rate_limit_exceeded"))), undefined)
    // Neither means anything where waiting does not help.
    assert.strictEqual(millis(http(401, openai(null, null, "Please try again in 4s."), limits)), undefined)
  })

  it("carries limits and the request id, from headers before the body", () => {
    const error = http(429, { ...anthropic("rate_limit_error", "…"), request_id: "req_body" }, {
      "request-id": "req_header",
      "anthropic-ratelimit-requests-remaining": "0"
    })
    assert.strictEqual(error.requestId, "req_header")
    assert.deepStrictEqual(error.rateLimits, [{ dimension: "requests", remaining: 0 }])
    assert.strictEqual(
      http(429, { ...anthropic("rate_limit_error", "…"), request_id: "req_body" }).requestId,
      "req_body"
    )
  })

  it("keeps the provider's words only as a clipped secret", () => {
    const secret = "SECRET-PROMPT"
    const error = http(400, openai(null, null, `${secret} `.repeat(1000)))
    assert.strictEqual(Redacted.value(error.detail!).length, 500)
    const shown = [error.message, String(error), JSON.stringify(error), inspect(error, { depth: 9 })].join("\n")
    assert.notInclude(shown, secret)
  })

  it("classifies errors inside a 200 by code, then by the status they name, then as the server's", () => {
    const event = (body: unknown, headers?: Errors.Exchange["headers"]) => Errors.ofEvent(exchange(200, headers), body)
    assert.strictEqual(event(anthropic("overloaded_error", "Overloaded")).reason._tag, "Overloaded")
    assert.strictEqual(event(anthropic("api_error", "…")).reason._tag, "Server")
    assert.strictEqual(event(openai(null, "invalid_request_error")).reason._tag, "InvalidRequest")
    assert.strictEqual(event({ error: { code: 400, message: "Token limit reached" } }).reason._tag, "InvalidRequest")
    assert.strictEqual(event({ error: { code: "429", message: "…" } }).reason._tag, "RateLimit")
    assert.strictEqual(
      event({ error: { message: "…", code: "tool_use_failed", status_code: 400 } }).reason._tag,
      "InvalidRequest"
    )
    assert.strictEqual(event({ error: "what?" }).reason._tag, "Server")
    assert.strictEqual(event(null).reason._tag, "Server")
    // The headers of a success say nothing about the failure.
    const error = event(anthropic("rate_limit_error", "…"), { "retry-after": "17", "request-id": "req_1" })
    assert.strictEqual(error.retryAfter, undefined)
    assert.strictEqual(error.status, undefined)
    assert.strictEqual(error.requestId, "req_1")
  })

  it("says whether a request can have been sent", () => {
    const request = HttpClientRequest.post("https://llm.test")
    const transport = (cause: unknown) =>
      Errors.ofTransport(
        "vendor",
        new HttpClientError.HttpClientError({ reason: new HttpClientError.TransportError({ request, cause }) })
      )
    const coded = (code: string, cause?: unknown) => Object.assign(new Error("…", { cause }), { code })
    const sent = (cause: unknown) => (transport(cause).reason as { readonly sent?: boolean }).sent
    for (
      const code of ["ECONNREFUSED", "ENOTFOUND", "EAI_AGAIN", "EHOSTUNREACH", "ENETUNREACH", "UND_ERR_CONNECT_TIMEOUT"]
    ) {
      assert.strictEqual(sent(coded(code)), false, code)
    }
    assert.strictEqual(sent(new TypeError("fetch failed", { cause: coded("ECONNREFUSED") })), false)
    assert.strictEqual(sent(new AggregateError([coded("ECONNREFUSED"), coded("ENETUNREACH")])), false)
    assert.strictEqual(sent(new AggregateError([coded("ECONNREFUSED"), coded("ECONNRESET")])), true)
    assert.strictEqual(sent(coded("ECONNRESET")), true)
    assert.strictEqual(sent(coded("UND_ERR_SOCKET")), true)
    assert.strictEqual(sent(new Error("?")), true)
    assert.strictEqual(sent(undefined), true)
    assert.strictEqual(transport(coded("ECONNRESET")).code, "ECONNRESET")
  })

  it("names the host that could not be reached, also where it is not the vendor's", () => {
    const host = (facts: object, url = "https://llm.test/v1") => {
      const request = HttpClientRequest.post(url)
      const cause = new TypeError("fetch failed", { cause: Object.assign(new Error("…"), facts) })
      const reason = new HttpClientError.TransportError({ request, cause })
      return Errors.ofTransport("vendor", new HttpClientError.HttpClientError({ reason })).host
    }
    const refused = { code: "ECONNREFUSED", syscall: "connect", address: "192.0.2.1" }
    assert.strictEqual(host({ ...refused, port: 443 }), "llm.test")
    assert.strictEqual(host({ ...refused, port: 3128 }), "192.0.2.1:3128")
    assert.strictEqual(host({ ...refused, address: "::1", port: 3128 }), "[::1]:3128")
    assert.strictEqual(host({ ...refused, port: 80 }, "http://llm.test"), "llm.test")
    assert.strictEqual(host({ ...refused, port: 8080 }, "http://llm.test:8080"), "llm.test:8080")
    assert.strictEqual(
      host({ errors: [{ ...refused, port: 3128 }, { ...refused, address: "::1", port: 3128 }] }),
      "192.0.2.1:3128"
    )
    assert.strictEqual(host({ code: "ENOTFOUND", hostname: "llm.test" }), "llm.test")
    assert.strictEqual(host({ code: "ENOTFOUND", hostname: "proxy.test" }), "proxy.test")
    assert.strictEqual(host({ code: "ENOTFOUND", hostname: 7, address: 7, port: "7" }), "llm.test")
    assert.strictEqual(host({ code: "ECONNREFUSED" }, "not an address"), undefined)
  })
})
