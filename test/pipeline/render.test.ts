// Explanations as text, compared whole.
import { assert, describe, it } from "@effect/vitest"
import { LlmConfig } from "effect-resilient-llm"

const rich: LlmConfig.Explanation = {
  stages: ["deadline", "idempotency", "fresh cache", "stale fallback", "routing", "failover", "hedge", "retry"],
  shadow: ["hedge", "rate-limit (openai)"],
  targets: [
    {
      id: "openai",
      guards: ["load-shedding", "bulkhead", "rate-limit (client)", "rate-limit (target)", "circuit-breaker"],
      attempts: 3,
      wait: 90_000,
      line: 30_000
    },
    { id: "eu", guards: [], attempts: 1, wait: Infinity, line: 0 }
  ],
  attempts: 4,
  waits: {
    complete: 300_000,
    firstPart: 1500,
    silence: 60_000,
    stream: Infinity,
    joined: 90_061,
    hint: 60_000,
    hintWithOthers: 5000,
    stores: 150
  },
  failures: [
    { what: "429", retries: 3, failover: true, coolDown: 0, counts: false, stale: true, error: "AllProvidersFailed" },
    { what: "503", retries: 1, failover: false, counts: true, stale: false, error: "ProviderError" },
    { what: "hang", retries: 0, failover: false, counts: true, stale: true, error: "DeadlineExceeded" },
    { what: "cut", retries: 0, failover: true, counts: false, stale: false, error: "AllProvidersFailed" },
    { what: "cut-stream", retries: 0, failover: false, counts: true, stale: false, error: "StreamInterrupted" },
    {
      what: "quota",
      retries: 0,
      failover: true,
      coolDown: 600_000,
      counts: true,
      stale: true,
      error: "AllProvidersFailed"
    },
    { what: "bad-key", retries: 0, failover: false, counts: false, stale: false, error: "ProviderError" },
    { what: "all-down", retries: 2, failover: true, counts: true, stale: true, error: "AllProvidersFailed" },
    { what: "all-away", retries: 0, failover: false, counts: false, stale: false, error: "AllProvidersUnavailable" }
  ],
  memory: [
    { what: "answers of the cache", count: 5, bytes: 2 ** 20 - 1 },
    { what: "answers by key", count: 10_000, bytes: 2 ** 20 },
    { what: "answers by question", count: 1, bytes: 1.75 * 2 ** 20 },
    { what: "circuits of openai", count: 100 }
  ]
}

const poor: LlmConfig.Explanation = {
  stages: [],
  shadow: [],
  targets: [{ id: "p", guards: ["timeout"], attempts: 1, wait: 60_000, line: 0 }],
  attempts: 1,
  waits: { complete: 60_000, firstPart: 60_000, silence: 60_000, stream: Infinity, hint: 0, hintWithOthers: 0 },
  failures: [{ what: "503", retries: 1, failover: false, counts: true, stale: false, error: "ProviderError" }],
  memory: [{ what: "circuits of p", count: 100 }]
}

describe("an explanation as text", () => {
  it("says all there is", () => {
    assert.strictEqual(
      LlmConfig.render(rich),
      `A call passes
  deadline › idempotency › fresh cache › stale fallback › routing › failover ›
  hedge › retry › target

In shadow mode, enforcing nothing
  hedge
  rate-limit (openai)

Each attempt on a target passes
  openai  load-shedding › bulkhead › rate-limit (client) › rate-limit (target) ›
          circuit-breaker › provider
  eu      provider

One call asks at most
  all targets  4 times
  openai       3 times
  eu           1 time

One call waits at most
  for an answer or a failure           5m
    if only openai is asked            1m 30s
    if only eu is asked                no limit
    in the lines of openai, each time  30s
  for the first part of a stream       1s 500ms
  for the next part                    1m
  for the end of a stream              no limit
  for a call that has its key          1m 30s 61ms
  for a Retry-After                    1m
    while another can be asked         5s
  for shared stores, besides           150ms

If every target fails so
  429 rate limit  3 retries › next target › cache › AllProvidersFailed
  503 overload    1 retry › ProviderError (trips)
  hang            cache › DeadlineExceeded (trips)
  answer cut      next target › AllProvidersFailed
  stream cut      StreamInterrupted (trips)
  quota used up   next target › cache › AllProvidersFailed (trips) (rests 10m)
  bad key         ProviderError
  unreachable     2 retries › next target › cache › AllProvidersFailed (trips)
  away already    AllProvidersUnavailable

Kept in memory at most
  5 or 1048575 bytes  answers of the cache
  10,000 or 1 MiB     answers by key
  1 or 2 MiB          answers by question
  100                 circuits of openai`
    )
  })

  it("says nothing of what there is not", () => {
    assert.strictEqual(
      LlmConfig.render(poor),
      `A call passes
  target

Each attempt on a target passes
  p  timeout › provider

One call asks at most
  all targets  1 time
  p            1 time

One call waits at most
  for an answer or a failure      1m
    if only p is asked            1m
  for the first part of a stream  1m
  for the next part               1m
  for the end of a stream         no limit
  for a Retry-After               0

If every target fails so
  503 overload  1 retry › ProviderError (trips)

Kept in memory at most
  100  circuits of p`
    )
  })

  it("has lines of at most 78 columns, and then the separator", () => {
    const order = (stage: string) => LlmConfig.render({ ...poor, stages: [stage] }).split("\n").slice(1, 4)
    const [fits, longer] = ["a".repeat(67), "a".repeat(68)]
    assert.deepStrictEqual(order(fits), [`  ${fits} › target`, "", "Each attempt on a target passes"])
    assert.deepStrictEqual(order(longer), [`  ${longer} ›`, "  target", ""])
  })
})
