import { assert, describe, it } from "@effect/vitest"
import type { LlmEvent } from "effect-resilient-llm"
import { colours, duration, failure, flow, json, ledger, plain, rows } from "effect-resilient-llm/cli/render"
import { withoutColours } from "./support.ts"

type Event = LlmEvent.LlmEvent

/** Events of one call, with what every event has left out. */
const events = (
  ...facts: ReadonlyArray<{ readonly _tag: Event["_tag"]; readonly at: number; readonly [key: string]: unknown }>
): ReadonlyArray<Event> => facts.map((fact) => Object.assign({ call: 1 }, fact) as unknown as Event)

const overloaded = { tag: "ProviderError", reason: "Overloaded", status: 503 }

const outage = events(
  { _tag: "CallStarted", at: 0, operation: "complete" },
  { _tag: "Idempotency", at: 0, result: "generated", key: "llm-00000000000000000000" },
  { _tag: "AttemptStarted", at: 1, target: "openai", attempt: 1, model: "gpt" },
  { _tag: "AttemptFailed", at: 5, target: "openai", attempt: 1, duration: 4, error: overloaded, outcome: "failure" },
  { _tag: "RetryScheduled", at: 5, target: "openai", attempt: 1, delay: 1170, delayedBy: "backoff", error: overloaded },
  { _tag: "AttemptStarted", at: 1175, target: "openai", attempt: 2 },
  { _tag: "CircuitChanged", at: 99_999, call: 0, target: "openai", from: "closed", to: "open" },
  { _tag: "AttemptFailed", at: 1180, target: "openai", attempt: 2, duration: 5, error: overloaded, outcome: "failure" },
  { _tag: "RetryDenied", at: 1180, target: "openai", attempt: 2, because: "attempts-exhausted", error: overloaded },
  { _tag: "FailedOver", at: 1180, from: "openai", to: "anthropic" },
  { _tag: "AttemptStarted", at: 1181, target: "anthropic", attempt: 3 },
  {
    _tag: "AttemptSucceeded",
    at: 2000,
    target: "anthropic",
    attempt: 3,
    duration: 819,
    inputTokens: 20,
    outputTokens: 7
  },
  { _tag: "CallEnded", at: 2001, outcome: "provider", duration: 2001, attempts: 3, target: "anthropic" }
)

describe("ledger", () => {
  it("tells one call in aligned columns, attempts as one line each", () => {
    assert.deepStrictEqual(ledger(outage, plain).split("\n"), [
      "       0 ms             key        llm-00000000000000000000",
      "       1 ms  openai     attempt 1  ✗ HTTP 503, overloaded                   4 ms",
      "       5 ms  openai     wait       backoff                                1.17 s",
      "     1.18 s  openai     attempt 2  ✗ HTTP 503, overloaded                   5 ms",
      "     1.18 s  openai     breaker    closed → open",
      "     1.18 s  openai     no retry   the retries are used up",
      "     1.18 s  anthropic  failover   from openai",
      "     1.18 s  anthropic  attempt 3  ✓ answered, 20 + 7 tokens              819 ms",
      "     2.00 s  anthropic  done       answered                               2.00 s"
    ])
  })

  it("differs in colours only", () => {
    const coloured = ledger(outage, colours)
    assert.notStrictEqual(coloured, ledger(outage, plain))
    assert.include(coloured, "\u001b[31m✗ HTTP 503, overloaded\u001b[0m")
    assert.strictEqual(withoutColours(coloured), ledger(outage, plain))
  })

  it("has a line of at most 80 columns for every kind of event", () => {
    const fact = { at: 119_000, target: "anthropic", attempt: 9, duration: 119_000, error: overloaded }
    const lines = (list: ReadonlyArray<Event>) => ledger(list, plain).split("\n")
    const longest = { tag: "ProviderError", reason: "NotFound", status: 404, retryAfter: 59_500 }
    const started = { _tag: "AttemptStarted", ...fact } as const
    const each: ReadonlyArray<readonly [string, ReadonlyArray<Event>]> = [
      [
        "llm-0123456789abcdefghij",
        events({ _tag: "Idempotency", at: 0, result: "generated", key: "llm-0123456789abcdefghij" })
      ],
      ["first call with this key", events({ _tag: "Idempotency", at: 0, result: "led" })],
      ["joined the call in flight", events({ _tag: "Idempotency", at: 0, result: "joined" })],
      ["answered before with this key", events({ _tag: "Idempotency", at: 0, result: "replayed" })],
      ["key store unavailable", events({ _tag: "Idempotency", at: 0, result: "unavailable" })],
      ["…", events(started)],
      ["first token", events({ ...fact, _tag: "AttemptCommitted" })],
      ["✓ answered", events(started, { ...fact, _tag: "AttemptSucceeded" })],
      [
        "✓ answered, 20000 + 2000 tokens",
        events(started, {
          ...fact,
          _tag: "AttemptSucceeded",
          inputTokens: 20_000,
          outputTokens: 2000
        })
      ],
      [
        "✗ HTTP 429, rate limited for 59.5 s",
        events(started, {
          ...fact,
          _tag: "AttemptFailed",
          error: { tag: "ProviderError", reason: "RateLimit", status: 429, retryAfter: 59_500 }
        })
      ],
      [
        "✗ HTTP 404, unknown model",
        events(started, {
          ...fact,
          _tag: "AttemptFailed",
          error: { ...longest, retryAfter: undefined }
        })
      ],
      ["– interrupted", events(started, { ...fact, _tag: "AttemptInterrupted", by: "caller" })],
      ["– broken by a defect", events(started, { ...fact, _tag: "AttemptInterrupted", by: "defect" })],
      ["– lost the race", events(started, { ...fact, _tag: "AttemptInterrupted", by: "lost" })],
      [
        "– lost the race to openai",
        events(started, { ...fact, _tag: "AttemptInterrupted", by: "lost" }, {
          ...fact,
          _tag: "AttemptSucceeded",
          attempt: 10,
          target: "openai"
        })
      ],
      ["for the rate limit", events({ ...fact, _tag: "Waited", for: "rate-limit" })],
      ["for a free place", events({ ...fact, _tag: "Waited", for: "bulkhead" })],
      ["backoff", events({ ...fact, _tag: "RetryScheduled", delay: 1, delayedBy: "backoff" })],
      ["Retry-After", events({ ...fact, _tag: "RetryScheduled", delay: 1, delayedBy: "retry-after" })],
      ...([
        ["attempts-exhausted", "the retries are used up"],
        ["budget", "the retry budget is empty"],
        ["deadline", "the deadline comes first"],
        ["retry-after", "the wait asked for is too long"],
        ["circuit-open", "the breaker is open"],
        ["refused", "refused locally"]
      ] as const).map(([because, text]) => [text, events({ ...fact, _tag: "RetryDenied", because })] as const),
      ...([
        ["circuit-open", "breaker open, 1.5 s left"],
        ["cooling-down", "cooling down, 1.5 s left"],
        ["rate-limited", "local rate limit, 1.5 s left"],
        ["bulkhead-full", "too many calls in flight, 1.5 s left"]
      ] as const).map(([because, text]) =>
        [text, events({ ...fact, _tag: "TargetSkipped", because, retryAfter: 1500 })] as const
      ),
      ["has no model for this", events({ ...fact, _tag: "TargetSkipped", because: "no-model" })],
      ["its context is too small", events({ ...fact, _tag: "TargetSkipped", because: "context-too-small" })],
      ["from anthropic", events({ at: 0, _tag: "FailedOver", from: "anthropic", to: "openai" })],
      [
        "claude-haiku-4-5 for gpt-4.1-mini",
        events({
          ...fact,
          _tag: "ModelSubstituted",
          requested: "gpt-4.1-mini",
          model: "claude-haiku-4-5"
        })
      ],
      ["2 parts of others not sent", events({ ...fact, _tag: "ReasoningDropped", parts: 2 })],
      ["fresh answer, 2 min old", events({ _tag: "Cache", at: 0, result: "fresh", age: 120_000 })],
      ["stale answer instead, 2 h 5 min old", events({ _tag: "Cache", at: 0, result: "stale", age: 7_500_000 })],
      ["answer kept for bad times", events({ _tag: "Cache", at: 0, result: "stored" })],
      ["answer not kept: not whole, or too large", events({ _tag: "Cache", at: 0, result: "rejected" })],
      ...([
        ["provider", "answered"],
        ["replay", "answered without a request"],
        ["cache", "answered from the cache"],
        ["stale", "answered with an old answer"],
        ["interrupted", "interrupted"],
        ["defect", "broken by a defect"]
      ] as const).map(([outcome, text]) => [text, events({ ...fact, _tag: "CallEnded", outcome })] as const),
      [
        "all providers failed",
        events({
          ...fact,
          _tag: "CallEnded",
          outcome: "failure",
          error: { tag: "AllProvidersFailed" }
        })
      ]
    ]
    for (const [text, list] of each) {
      const out = lines(list)
      assert.lengthOf(out, 1, text)
      assert.include(out[0], text)
      assert.isAtMost(out[0]!.length, 80, out[0])
    }
  })

  it("shows a wait from when it began", () => {
    const [row] = rows(events({ _tag: "Waited", at: 300, target: "openai", for: "rate-limit", duration: 250 }))
    assert.strictEqual(row?.at, 50)
    assert.strictEqual(row?.took, 250)
  })

  it("groups calls that did the same in about the same time", () => {
    const call = (number: number, duration: number, outcome: string) =>
      events({ _tag: "CallEnded", at: duration, call: number, outcome, duration, attempts: 1 })
    const told = ledger([
      ...call(7, 10, "provider"),
      ...call(8, 20, "replay"),
      ...call(9, 30, "replay"),
      ...call(10, 40, "replay"),
      ...call(11, 400, "replay")
    ], plain)
    assert.deepStrictEqual(told.split("\n").map((line) => line.trim().split(/ {2,}/)), [
      ["call 1"],
      ["10 ms", "done", "answered", "10 ms"],
      ["calls 2, 3 and 4, each"],
      ["20 ms", "done", "answered without a request", "20 ms"],
      ["call 5"],
      ["400 ms", "done", "answered without a request", "400 ms"]
    ])
  })

  it("tells a breaker's change with the call that caused it", () => {
    const told = ledger([
      ...events({ _tag: "AttemptStarted", at: 0, call: 1, target: "openai", attempt: 1 }),
      ...events({ _tag: "AttemptStarted", at: 0, call: 2, target: "openai", attempt: 1 }),
      ...events({ _tag: "CircuitChanged", at: 5000, call: 0, target: "openai", from: "closed", to: "open" }),
      ...events({ _tag: "CallEnded", at: 9, call: 2, outcome: "defect", duration: 9, attempts: 1 }),
      ...events({ _tag: "CallEnded", at: 9, call: 1, outcome: "provider", duration: 9, attempts: 1 })
    ], plain).split("\n")
    const heading = (text: string) => told.findIndex((line) => line.includes(text))
    assert.isAbove(heading("closed → open"), heading("call 2"))
    assert.include(told[heading("closed → open")], "9 ms")
  })

  it("is empty for no events", () => assert.strictEqual(ledger([], plain), ""))
})

describe("words", () => {
  it("durations", () => {
    const told = [
      0,
      0.4,
      7,
      999,
      999.6,
      1000,
      1250,
      9994,
      9996,
      12_340,
      59_940,
      59_960,
      60_000,
      185_000,
      3_599_600,
      7_500_000
    ]
    assert.deepStrictEqual(told.map(duration), [
      "0 ms",
      "0 ms",
      "7 ms",
      "999 ms",
      "1 s",
      "1 s",
      "1.25 s",
      "9.99 s",
      "10 s",
      "12.3 s",
      "59.9 s",
      "1 min",
      "1 min",
      "3 min 5 s",
      "1 h",
      "2 h 5 min"
    ])
  })

  it("failures, also ones it has no words for", () => {
    assert.strictEqual(failure(overloaded), "HTTP 503, overloaded")
    assert.strictEqual(failure({ tag: "AttemptTimeout", reason: "firstToken" }), "no first token in time")
    assert.strictEqual(failure({ tag: "DeadlineExceeded" }), "deadline exceeded")
    assert.strictEqual(failure({ tag: "Novelty" }), "Novelty")
    // Names come from outside, and an object has some of its own.
    assert.strictEqual(failure({ tag: "constructor", reason: "toString" }), "constructor")
  })

  it("flow breaks only between pieces", () => {
    const pieces = ["a".repeat(30), "b c ".repeat(10).trim(), "d".repeat(90), "e"]
    assert.deepStrictEqual(flow(pieces, " · ").split("\n"), [
      `    ${pieces[0]} · ${pieces[1]}`,
      `    ${pieces[2]}`,
      "    e"
    ])
  })

  it("colours an empty text with nothing", () => {
    assert.strictEqual(colours("bad", ""), "")
    assert.strictEqual(colours("normal", "text"), "text")
  })
})

describe("json", () => {
  const hidden = [
    ...Array.from({ length: 0x21 }, (_, i) => 0x7f + i), // DEL and C1
    0xad,
    0x61c,
    0x180e,
    ...Array.from({ length: 5 }, (_, i) => 0x200b + i),
    ...Array.from({ length: 7 }, (_, i) => 0x2028 + i),
    ...Array.from({ length: 16 }, (_, i) => 0x2060 + i),
    0xfeff,
    0xfff9,
    0xe0041
  ].map((code) => String.fromCodePoint(code))

  it("lets nothing through that steers a terminal or cannot be seen, and means the same", () => {
    const value = { [`key${hidden.join("")}`]: `a${hidden.join("b")}c`, control: "\u001b[2J\u0000" }
    const text = json(value)
    for (const character of [...hidden, "\u001b", "\u0000"]) {
      assert.notInclude(text, character, character.codePointAt(0)!.toString(16))
    }
    assert.deepStrictEqual(JSON.parse(text), value)
  })

  it("leaves what people read as it is", () => {
    const text = "Grüezi, 你好, שלום, 😀 — “quoted”"
    assert.strictEqual(json(text), JSON.stringify(text))
  })
})
