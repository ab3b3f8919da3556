import { assert, describe, it } from "@effect/vitest"
import { Effect, PubSub, Stream } from "effect"
import type { LlmEvent } from "effect-resilient-llm"
import * as Progress from "effect-resilient-llm/cli/progress"
import { plain } from "effect-resilient-llm/cli/render"
import type { Device } from "effect-resilient-llm/cli/terminal"
import { TestClock } from "effect/testing"
import { withoutColours } from "./support.ts"

const device = (canAnimate: boolean, columns = 80) => {
  const written: Array<string> = []
  const device: Device = {
    write: (text) => Effect.sync(() => void written.push(withoutColours(text))),
    isTerminal: canAnimate,
    canAnimate,
    paint: plain,
    columns
  }
  return { device, written }
}

const started = (target: string, attempt: number, model?: string): LlmEvent.LlmEvent => ({
  _tag: "AttemptStarted",
  call: 1,
  at: 0,
  target,
  attempt,
  ...(model === undefined ? undefined : { model })
})

describe("progress", () => {
  it.effect("redraws one line that follows the events, and takes it away at the end", () =>
    Effect.gen(function*() {
      const { device: terminal, written } = device(true)
      const hub = yield* PubSub.unbounded<LlmEvent.LlmEvent>()
      yield* Effect.scoped(Effect.gen(function*() {
        yield* Progress.start(terminal, "asking", Stream.fromPubSub(hub))
        yield* PubSub.publish(hub, started("openai", 1, "gpt"))
        yield* TestClock.adjust("1200 millis")
        yield* PubSub.publish(hub, {
          _tag: "RetryScheduled",
          call: 1,
          at: 0,
          target: "openai",
          attempt: 1,
          delay: 1500,
          delayedBy: "backoff",
          error: { tag: "ProviderError", reason: "Server", status: 500 }
        })
        yield* TestClock.adjust("100 millis")
        yield* PubSub.publish(hub, { _tag: "FailedOver", call: 1, at: 0, from: "openai", to: "anthropic" })
        yield* TestClock.adjust("100 millis")
      }))
      assert.strictEqual(written[0], "⌫⠋ 0.0 s  asking")
      assert.strictEqual(written[1], "⌫⠙ 0.1 s  openai (gpt), attempt 1")
      assert.strictEqual(written[13], "⌫⠸ 1.3 s  openai: HTTP 500, internal error; again in 1.5 s")
      assert.strictEqual(written[14], "⌫⠼ 1.4 s  openai failed; asking anthropic")
      assert.deepStrictEqual(written.slice(15), ["⌫"])
    }))

  it.effect("stops for good when told, and clears once", () =>
    Effect.gen(function*() {
      const { device: terminal, written } = device(true)
      yield* Effect.scoped(Effect.gen(function*() {
        const { stop } = yield* Progress.start(terminal, "asking", Stream.never)
        yield* stop
        yield* stop
        yield* TestClock.adjust("1 second")
      }))
      assert.deepStrictEqual(written, ["⌫⠋ 0.0 s  asking", "⌫"])
    }))

  it.effect("stays on its line, and cannot be steered by a name", () =>
    Effect.gen(function*() {
      const { device: terminal, written } = device(true, 30)
      yield* Effect.scoped(Effect.gen(function*() {
        const { say } = yield* Progress.start(terminal, "", Stream.never)
        say(`\u001b[2J${"x".repeat(100)}`)
        yield* TestClock.adjust("100 millis")
      }))
      assert.strictEqual(written[1], "⌫⠙ 0.1 s  [2Jxxxxxxxxxxxxxxxxx")
      assert.strictEqual(written[1]!.length - 1, 29)
    }))

  it.effect("is silent where nobody watches", () =>
    Effect.gen(function*() {
      const { device: pipe, written } = device(false)
      yield* Effect.scoped(Effect.gen(function*() {
        const { say, stop } = yield* Progress.start(pipe, "asking", Stream.never)
        say("still asking")
        yield* TestClock.adjust("1 second")
        yield* stop
      }))
      assert.deepStrictEqual(written, [])
    }))
})
