import { assert, describe, it } from "@effect/vitest"
import * as Headers from "effect-resilient-llm/providers/internal/headers"

const at = Date.parse("2026-01-01T00:00:00Z")

describe("headers", () => {
  it("parses durations", () => {
    const cases: Record<string, number | undefined> = {
      "0s": 0,
      "6ms": 6,
      "6m0s": 360_000,
      "17.4s": 17_400,
      "17.399999999s": 17_400,
      "1h8m25.745s": 4_105_745,
      "83h10m39.057s": 299_439_057,
      "9m38.016s": 578_016,
      "250µs": 1,
      "20 seconds": 20_000,
      "1 minute 5 seconds": 65_000,
      "2d": 172_800_000,
      "500": undefined,
      "": undefined,
      "soon": undefined,
      "5 sheep": undefined,
      "5s later": undefined,
      "-5s": undefined
    }
    for (const [text, millis] of Object.entries(cases)) assert.strictEqual(Headers.parseDuration(text), millis, text)
  })

  it("L11 header values: durations, timestamps and epochs are milliseconds from now; the rest is ignored", () => {
    const cases: Record<string, number | undefined> = {
      "6m0s": 360_000,
      "1s": 1000,
      "20ms": 20,
      "1h2m3.5s": 3_723_500,
      "7.66s": 7660,
      [new Date(at + 30_000).toISOString()]: 30_000,
      [String(at / 1000 + 30)]: 30_000,
      bogus: undefined,
      "-1": undefined
    }
    for (const [reset, resetAfter] of Object.entries(cases)) {
      const headers = { "x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": reset }
      assert.deepStrictEqual(
        Headers.rateLimitsOf(headers, at),
        [{ dimension: "requests", remaining: 0, ...(resetAfter === undefined ? undefined : { resetAfter }) }],
        reset
      )
    }
  })

  it("finds the delay a message asks for", () => {
    const cases: Record<string, number | undefined> = {
      "Rate limit reached for gpt-4o: Limit 3, Used 3. Please try again in 20s. Visit https://example.test": 20_000,
      "Please try again in 125ms. You can increase your rate limit by adding a payment method.": 125,
      "Please try again in 9m38.016s. Need more tokens?": 578_016,
      "Please try again in 114h18m0s.": 411_480_000,
      "Please retry after 86400 seconds. Please go here": 86_400_000,
      "Please retry in 48.939935699s.": 48_940,
      "Rate limit is exceeded. Try again in 2 seconds.": 2_000,
      "Please try again later.": undefined,
      "Limit 10000 per 20s": undefined
    }
    for (const [text, millis] of Object.entries(cases)) assert.strictEqual(Headers.delayOfText(text), millis, text)
  })

  it("reads the delay of a failure in order", () => {
    const cases: ReadonlyArray<[Headers.Headers, number | undefined]> = [
      [{ "retry-after-ms": "1500", "retry-after": "9" }, 1500],
      [{ "retry-after-ms": "0", "retry-after": "1" }, 1000],
      [{ "retry-after-ms": "-5", "retry-after": "1" }, 1000],
      [{ "retry-after": "1.5" }, undefined],
      [{ "retry-after": "0" }, 0],
      [{ "retry-after": "Thu, 01 Jan 2026 00:00:05 GMT" }, 5000],
      [{ "retry-after": "Thu, 01 Jan 2026 00:00:00 GMT" }, 0],
      [{ "retry-after": "Wed, 31 Dec 2025 00:00:00 GMT" }, 0],
      // The server's own clock cancels the difference to ours.
      [{ "retry-after": "Thu, 01 Jan 2026 02:00:05 GMT", "date": "Thu, 01 Jan 2026 02:00:00 GMT" }, 5000],
      [{ "retry-after": "-1" }, undefined],
      [{ "retry-after": "Infinity" }, undefined],
      [{ "retry-after": "soon 5" }, undefined],
      [{ "retry-after": "" }, undefined],
      [{}, undefined]
    ]
    for (const [headers, millis] of cases) {
      assert.strictEqual(Headers.retryAfterOf(headers, at), millis, JSON.stringify(headers))
    }
  })

  it("reads the limits of each vendor", () => {
    const cases: ReadonlyArray<[Headers.Headers, unknown]> = [
      [
        {
          "x-ratelimit-limit-requests": "10000",
          "x-ratelimit-remaining-requests": "9999",
          "x-ratelimit-reset-requests": "6ms",
          "x-ratelimit-reset-tokens": "1m0s"
        },
        [
          { dimension: "requests", limit: 10000, remaining: 9999, resetAfter: 6 },
          { dimension: "tokens", resetAfter: 60_000 }
        ]
      ],
      [
        {
          "anthropic-ratelimit-input-tokens-limit": "50000",
          "anthropic-ratelimit-input-tokens-remaining": "0",
          "anthropic-ratelimit-input-tokens-reset": "2026-01-01T00:00:02Z"
        },
        [{ dimension: "input-tokens", limit: 50000, remaining: 0, resetAfter: 2000 }]
      ],
      // Together: seconds. OpenRouter: epoch milliseconds. Cohere: epoch seconds.
      [{ "x-ratelimit-reset": "7" }, [{ dimension: "requests", resetAfter: 7000 }]],
      [{ "x-ratelimit-reset": String(at + 4000) }, [{ dimension: "requests", resetAfter: 4000 }]],
      [{ "x-ratelimit-reset": String(at / 1000 + 3) }, [{ dimension: "requests", resetAfter: 3000 }]],
      // Azure: a number of unknown unit.
      [{ "x-ratelimit-reset-requests": "500", "x-ratelimit-limit-requests": "-1" }, [{ dimension: "requests" }]],
      // Mistral.
      [{ "x-ratelimit-remaining-req-minute": "59", "ratelimitbysize-reset": "46" }, [{
        dimension: "req-minute",
        remaining: 59
      }]],
      [{ "x-ratelimit-abusepenalty-active": "False", "content-type": "x" }, []]
    ]
    for (const [headers, facts] of cases) {
      assert.deepStrictEqual(Headers.rateLimitsOf(headers, at), facts as never, JSON.stringify(headers))
    }
  })

  it("bounds the number of limits", () => {
    const headers = Object.fromEntries(Array.from({ length: 100 }, (_, i) => [`x-ratelimit-limit-${i}`, "1"]))
    assert.strictEqual(Headers.rateLimitsOf(headers, at).length, 16)
  })

  it("waits for the longest of the exhausted limits", () => {
    assert.strictEqual(
      Headers.resetOfExhausted([
        { dimension: "a", remaining: 1, resetAfter: 9000 },
        { dimension: "b", remaining: 0, resetAfter: 1000 },
        { dimension: "c", resetAfter: 2000 },
        { dimension: "d", remaining: 0 }
      ]),
      2000
    )
    assert.strictEqual(Headers.resetOfExhausted([{ dimension: "a", remaining: 1, resetAfter: 1 }]), undefined)
  })

  it("publishes request ids only when they look like one", () => {
    assert.strictEqual(Headers.requestIdOf({ "apim-request-id": "b", "x-request-id": "a" }), "a")
    assert.strictEqual(Headers.requestIdOf({ "x-request-id": "two words", "request-id": "req_1" }), "req_1")
    assert.strictEqual(Headers.requestIdOf({ "x-request-id": "x".repeat(200) }), undefined)
  })
})
