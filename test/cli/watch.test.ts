import { assert, describe, it } from "@effect/vitest"
import { Duration, Effect, Exit } from "effect"
import type { LlmEvent, Status, TargetStatus } from "effect-resilient-llm"
import { colours, plain } from "effect-resilient-llm/cli/render"
import { frame, Window } from "effect-resilient-llm/cli/watch"
import { run, withoutColours } from "./support.ts"

const target = (id: string, state: "closed" | "open" | "half-open"): TargetStatus => ({
  id,
  provider: id,
  circuit: {
    state,
    calls: 4,
    failures: 1,
    slow: 0,
    streak: 0,
    probes: 0,
    opens: 0,
    retryAfter: state === "open" ? Duration.millis(1500) : undefined
  } as unknown as TargetStatus["circuit"],
  coolingDown: undefined,
  bulkhead: { inUse: 3, maxConcurrent: 8, queued: 2, maxQueued: 20 },
  limits: undefined,
  retryBudget: 9
})

const status: Status = {
  targets: [target("openai", "open"), target("anthropic", "closed")],
  rateLimit: undefined
}

const events: ReadonlyArray<LlmEvent.LlmEvent> = [
  { _tag: "CallStarted", call: 1, at: 0, operation: "complete" },
  {
    _tag: "AttemptFailed",
    call: 1,
    at: 20,
    target: "openai",
    attempt: 1,
    duration: 20,
    error: { tag: "ProviderError" },
    outcome: "failure",
    afterCommit: false
  },
  {
    _tag: "RetryScheduled",
    call: 1,
    at: 20,
    target: "openai",
    attempt: 1,
    delay: 100,
    delayedBy: "backoff",
    error: { tag: "ProviderError" }
  },
  { _tag: "AttemptSucceeded", call: 1, at: 160, target: "openai", attempt: 2, duration: 40 },
  { _tag: "CallEnded", call: 1, at: 160, operation: "complete", outcome: "provider", duration: 160, attempts: 2 },
  { _tag: "Cache", call: 2, at: 0, result: "fresh" },
  { _tag: "CallEnded", call: 2, at: 1, operation: "complete", outcome: "cache", duration: 1, attempts: 0 },
  { _tag: "Cache", call: 3, at: 0, result: "miss" },
  { _tag: "CallEnded", call: 3, at: 1, operation: "stream", outcome: "failure", duration: 2000, attempts: 1 },
  { _tag: "CallEnded", call: 4, at: 1, operation: "stream", outcome: "interrupted", duration: 9999, attempts: 1 }
]

const wide = { columns: 200, paint: plain }

describe("frame", () => {
  it("shows rates, latencies, circuits, lines and hits; interruptions are not calls", () => {
    const picture = frame({ at: 5000, span: 5000, events, inFlight: 2 }, status, "openai hangs", wide)
    assert.deepStrictEqual(picture.split("\n"), [
      "effect-resilient-llm  5 s  openai hangs",
      "",
      "0.6 calls/s   67 % answered   p50 160 ms   p95 2 s   2 in flight",
      "cache hits 50 %   stale 0   retries 1   failovers 0   refused 0",
      "",
      "            circuit         asked/s  errors      p50      p95   busy   line",
      "openai      open 1.5 s          0.4    50 %    40 ms    40 ms    3/8   2/20",
      "anthropic   closed              0.0       –        –        –    3/8   2/20"
    ])
    assert.isAtMost(Math.max(...picture.split("\n").map((line) => line.length)), 80)
  })

  it("40 columns: lines break between facts, and what is least missed is left out", () => {
    const view = { at: 5000, span: 5000, events, inFlight: 2 }
    const picture = frame(view, status, "openai is well again", { columns: 40, paint: plain })
    assert.deepStrictEqual(picture.split("\n"), [
      "effect-resilient-llm  5 s",
      "openai is well again",
      "",
      "0.6 calls/s   67 % answered   p50 160 ms",
      "p95 2 s   2 in flight",
      "cache hits 50 %   stale 0   retries 1",
      "failovers 0   refused 0",
      "",
      "            circuit         asked/s",
      "openai      open 1.5 s          0.4",
      "anthropic   closed              0.0"
    ])
    const coloured = frame(view, status, "openai is well again", { columns: 40, paint: colours })
    assert.strictEqual(withoutColours(coloured), picture)
    assert.include(coloured, "\u001b[31mopen 1.5 s")
    for (const columns of [1, 20, 39, 60, 79]) {
      const lines = frame(view, status, "openai is well again", { columns, paint: plain }).split("\n")
      assert.isAtMost(Math.max(...lines.map((line) => line.length)), columns)
    }
  })

  it("nothing has happened yet", () => {
    const picture = frame({ at: 0, span: 0, events: [], inFlight: 0 }, status, "", wide)
    assert.include(picture, "– calls/s   – answered   p50 –   p95 –")
  })
})

it("the window forgets what is older than ten seconds, but not who is in flight", () => {
  let now = 0
  const window = new Window(() => now)
  window.add(events[0]!)
  now = 9999
  assert.strictEqual(window.view().events.length, 1)
  now = 10_000
  assert.deepStrictEqual(window.view(), { at: 10_000, span: 10_000, events: [], inFlight: 1 })
  window.add(events[4]!)
  assert.strictEqual(window.view().inFlight, 0)
})

describe("watch", () => {
  it.live("in a pipe: one picture per second, no control characters", () =>
    Effect.gen(function*() {
      const { exit, out } = yield* run(["watch", "--for", "2500ms"])
      assert.isTrue(Exit.isSuccess(exit))
      assert.strictEqual(out.split("effect-resilient-llm").length - 1, 2)
      assert.notInclude(out, "\u001b")
      assert.match(out, /openai {6}closed {10}\s*\d+\.\d/)
    }))

  it.live("on a terminal: drawn in place", () =>
    Effect.gen(function*() {
      const { exit, out } = yield* run(["watch", "--for", "1300ms"], { terminal: true, env: { TERM: "xterm" } })
      assert.isTrue(Exit.isSuccess(exit))
      assert.strictEqual(out.split("\u001b[8A\u001b[J").length - 1, 1)
    }))

  it.live("on a terminal of 40 columns: no line is wider, and as many are drawn over", () =>
    Effect.gen(function*() {
      const { exit, out } = yield* run(["watch", "--for", "1300ms"], {
        terminal: true,
        columns: 40,
        env: { TERM: "xterm" }
      })
      assert.isTrue(Exit.isSuccess(exit))
      // oxlint-disable-next-line no-control-regex
      const [first = "", second = ""] = out.split(/\u001b\[\d+A\u001b\[J/)
      for (const line of withoutColours(first + second).split("\n")) assert.isAtMost(line.length, 40)
      assert.include(out, `\u001b[${first.split("\n").length - 1}A\u001b[J`)
    }))
})
