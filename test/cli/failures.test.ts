import { assert, describe, it } from "@effect/vitest"
import { Duration, Redacted } from "effect"
import { LlmError, type LlmEvent } from "effect-resilient-llm"
import { details, explain, render } from "effect-resilient-llm/cli/failures"
import { plain } from "effect-resilient-llm/cli/render"

const ledger = (
  ...attempts: ReadonlyArray<readonly [target: string, error: LlmError.LlmError]>
): LlmEvent.Ledger =>
  attempts.flatMap(([target, error], i): LlmEvent.Ledger => {
    const fact = { call: 1, at: i, target, attempt: i + 1 }
    return [
      { ...fact, _tag: "AttemptStarted" },
      {
        ...fact,
        _tag: "AttemptFailed",
        duration: 1,
        error: LlmError.summary(error),
        outcome: "failure",
        afterCommit: false
      }
    ]
  })

const failed = (provider: string, reason: LlmError.Reason["_tag"], more: object = {}) =>
  new LlmError.ProviderError({
    provider,
    reason: { _tag: reason, sent: false, problem: "empty" },
    ...more
  })

const told = (error: LlmError.LlmError, entries: LlmEvent.Ledger): string =>
  render(explain(LlmError.withLedger(error, entries)), plain)

describe("explain", () => {
  it("one target asked once: what happened, and what to do", () => {
    const error = failed("openai", "Authentication", { status: 401 })
    assert.strictEqual(
      told(error, ledger(["openai", error])),
      [
        "✗ openai does not accept the API key (HTTP 401).",
        "→ Check OPENAI_API_KEY: openai does not accept this key."
      ].join("\n")
    )
  })

  it("several targets: each with its last failure, its attempts, and its own advice", () => {
    const [one, two] = [failed("openai", "Overloaded", { status: 503 }), failed("anthropic", "Quota", { status: 402 })]
    const error = new LlmError.AllProvidersFailed({ targets: ["openai", "anthropic"], errors: [one, two] })
    assert.strictEqual(
      told(error, ledger(["openai", one], ["openai", one], ["anthropic", two])),
      [
        "✗ No provider gave an answer.",
        "  openai     HTTP 503, overloaded; asked twice",
        "  anthropic  HTTP 402, quota used up; asked once",
        "→ This passes. Ask openai again in a moment.",
        "→ Check plan and billing of your account at anthropic."
      ].join("\n")
    )
  })

  it("says when to come back, if the provider did", () => {
    const error = failed("cohere", "RateLimit", { status: 429, retryAfter: Duration.seconds(90) })
    assert.include(told(error, ledger(["cohere", error])), "→ This passes. Ask cohere again in 1 min 30 s.")
  })

  it("gives the same advice once", () => {
    const [one, two] = [failed("openai", "ContextLength"), failed("anthropic", "ContextLength")]
    const error = new LlmError.AllProvidersFailed({ targets: ["openai", "anthropic"], errors: [one, two] })
    assert.lengthOf(explain(LlmError.withLedger(error, ledger(["openai", one], ["anthropic", two]))).advice, 1)
  })

  it("a deadline: its own advice, whatever the attempts met", () => {
    const error = new LlmError.DeadlineExceeded({ after: Duration.seconds(2) })
    const text = told(error, ledger(["openai", failed("openai", "Network")], ["openai", failed("openai", "Network")]))
    assert.deepStrictEqual(text.split("\n"), [
      "✗ The call exceeded its deadline of 2s.",
      "  openai  not reached; asked twice",
      "→ Give it more time with --deadline, or ask another --provider."
    ])
  })

  it("a target that was passed over", () => {
    const [one, two] = [failed("openai", "Server"), new LlmError.CircuitOpen({ key: "anthropic", state: "open" })]
    const error = new LlmError.AllProvidersFailed({ targets: ["openai", "anthropic"], errors: [one, two] })
    const skipped = { _tag: "TargetSkipped", call: 1, at: 9, target: "anthropic", because: "circuit-open" } as const
    assert.include(told(error, [...ledger(["openai", one]), skipped]), "  anthropic  skipped")
  })

  it.each(
    [
      "RateLimit",
      "Quota",
      "Overloaded",
      "Server",
      "Timeout",
      "Conflict",
      "ClientClosed",
      "Unknown",
      "Network",
      "MalformedResponse",
      "Authentication",
      "Permission",
      "NotFound",
      "ContextLength",
      "PayloadTooLarge",
      "ContentPolicy",
      "InvalidRequest"
    ] as const
  )("has advice for %s", (reason) => {
    const error = failed("openai", reason)
    assert.lengthOf(explain(LlmError.withLedger(error, ledger(["openai", error]))).advice, 1)
  })

  it.each(["attempt", "firstToken"] as const)("has advice for the timeout %s", (kind) => {
    const error = new LlmError.AttemptTimeout({ kind, after: Duration.seconds(1) })
    assert.deepStrictEqual(explain(LlmError.withLedger(error, ledger(["openai", error]))).advice, [
      "openai is slow or stuck. Ask again, or ask another --provider."
    ])
  })

  it("keeps what the providers said apart", () => {
    const detail = Redacted.make("The model `gpt-0` does not exist")
    const one = failed("openai", "NotFound", { detail })
    const error = new LlmError.AllProvidersFailed({
      targets: ["openai", "cohere"],
      errors: [one, failed("cohere", "Server")]
    })
    assert.notInclude(told(error, ledger(["openai", one])), "gpt-0")
    assert.deepStrictEqual(details(error), ["openai says: The model `gpt-0` does not exist"])
  })
})
