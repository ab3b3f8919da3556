// What an attempt has cost of which nobody got the answer: at least so much, in its event, and in the limits of its target.
import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Fiber, Layer, Stream } from "effect"
import {
  type Client,
  LlmClient,
  type LlmConfig,
  LlmError,
  type LlmEvent,
  type LlmGuard,
  LlmProvider,
  LlmResponse
} from "effect-resilient-llm"
import { ScriptedProvider } from "effect-resilient-llm/testing"
import { Tokenizer } from "effect/ai"
import { TestClock } from "effect/testing"
import type { Attempt } from "../../src/pipeline/attempt.ts"
import { spentBy, tellUsage } from "../../src/pipeline/spent.ts"
import { find } from "../conformance/support.ts"
import {
  ask,
  failure,
  fork,
  type Kind,
  kinds,
  type Outcome,
  type Script,
  setUp,
  success,
  timed,
  vector
} from "../support.ts"

type Ended = LlmEvent.AttemptFailed | LlmEvent.AttemptInterrupted

/** What the event says. */
const spentOf = (event: Ended | undefined) => {
  assert.isDefined(event)
  const { atLeast, inputTokens, outputTokens } = event
  return { inputTokens, outputTokens, atLeast }
}
type Spent = ReturnType<typeof spentOf>
const nothing: Spent = { inputTokens: undefined, outputTokens: undefined, atLeast: undefined }

/** "user" and "What is AI?", at 3.5 bytes a token. */
const PROMPT = 5
const estimated: Spent = { inputTokens: PROMPT, outputTokens: undefined, atLeast: true }

/** As Anthropic tells them, when a stream begins. */
const told = (usage: LlmResponse.UsageFact): LlmResponse.StreamPart => ({
  type: "response-metadata",
  metadata: LlmResponse.httpMetadata({ usage })
})

const failedBy = (kind: Kind, steps: Script, options: LlmConfig.Options = {}) =>
  Effect.gen(function*() {
    const r = yield* setUp([steps], {
      retry: false,
      timeout: { attempt: 1000, firstToken: 1000, idle: 1000 },
      ...options
    })
    const error = failure((yield* timed(ask(kind, r.client), 20_000)).exit)
    return { error, event: find((error as LlmError.ProviderError).ledger, "AttemptFailed")[0] }
  })

describe.each(kinds)("what an unanswered attempt has cost at least, as guards are told: %s", (kind) => {
  const heard = (steps: Script, options: LlmConfig.Options) =>
    Effect.gen(function*() {
      const outcomes: Array<LlmGuard.Outcome> = []
      const guard: LlmGuard.Guard<never> = {
        name: "listener",
        acquire: () => Effect.succeed({ settle: (outcome) => void outcomes.push(outcome) })
      }
      const guarded = { retry: false, ...options, guards: [guard] } as const
      const r = yield* setUp([steps], guarded)
      const asked = yield* fork(ask(kind, r.client))
      yield* TestClock.adjust(500)
      yield* Fiber.interrupt(asked)
      assert.lengthOf(outcomes, 1)
      return outcomes[0]!
    })
  const hang: Script = [ScriptedProvider.hang]

  it.effect.each<[string, Script, LlmConfig.Options, string, LlmGuard.Spent | undefined]>([
    ["a timer", hang, { timeout: { attempt: 100, firstToken: 100, idle: 100 } }, "Failed", {
      inputTokens: PROMPT,
      atLeast: true
    }],
    ["its deadline", hang, { timeout: { deadline: 100 } }, "Failed", { inputTokens: PROMPT, atLeast: true }],
    ["its caller", hang, { timeout: false }, "Ignored", { inputTokens: PROMPT, atLeast: true }],
    ["a refusal", [ScriptedProvider.fail({ _tag: "Authentication" })], {}, "Failed", undefined]
  ])("ended by %s", ([, steps, options, tag, spent]) =>
    Effect.gen(function*() {
      const outcome = yield* heard(steps, options)
      assert.strictEqual(outcome._tag, tag)
      assert.deepStrictEqual((outcome as Extract<LlmGuard.Outcome, { readonly _tag: "Failed" }>).spent, spent)
    }))
})

describe.each(kinds)("what an unanswered attempt has cost at least: %s", (kind) => {
  const limits = [
    { dimension: "input-tokens", limit: 10_000, per: "1 hour" },
    { dimension: "output-tokens", limit: 10_000, per: "1 hour" }
  ] as const

  /** Levels of the targets' own limits, after a moment in which nothing is worth refilling. */
  const levels = (client: Client<LlmError.LlmError>) =>
    Effect.map(client.status, ({ targets }) => targets.map(({ limits }) => limits?.levels))

  it.effect("a hedge's loser: its prompt, in the ledger of the answer, and its target's limits keep what it took", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp(
        [[ScriptedProvider.answer("p", { delay: 3000 })], [ScriptedProvider.answer("s", { delay: 500 })]],
        { hedge: { delay: 1000 }, retry: false },
        [{ limits }, { limits }]
      )
      const input = { prompt: "What is AI?", maxTokens: 100 }
      const { ledger } = success((yield* timed(ask(kind, r.client, input), 1500)).exit)
      const [lost] = find(ledger, "AttemptInterrupted")
      assert.deepInclude(lost, { target: "p", by: "lost" })
      assert.deepStrictEqual(spentOf(lost), estimated)
      const [p, s] = yield* levels(r.client)
      // What is refilled in 1.5 seconds is less than 5. The winner's are those that its vendor told.
      assert.isAtMost(p!["input-tokens"]!, 10_000 - PROMPT + 4.2)
      assert.isBelow(p!["output-tokens"]!, 9905)
      assert.isAbove(s!["output-tokens"]!, 9990)
    })))

  it.effect("a caller that left", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([[ScriptedProvider.hang]])
      const events = yield* fork(
        Stream.runCollect(Stream.takeUntil(r.client.events, ({ _tag }) => _tag === "CallEnded"))
      )
      const fiber = yield* fork(ask(kind, r.client))
      yield* TestClock.adjust(100)
      yield* Fiber.interrupt(fiber)
      const [left] = find(yield* Fiber.join(events), "AttemptInterrupted")
      assert.deepStrictEqual([left?.by, spentOf(left)], ["caller", estimated])
    })))

  it.effect("a timer that fired; a deadline", () =>
    vector(Effect.gen(function*() {
      const late = yield* failedBy(kind, [ScriptedProvider.hang])
      assert.deepStrictEqual([late.error._tag, spentOf(late.event)], ["AttemptTimeout", estimated])
      const over = yield* failedBy(kind, [ScriptedProvider.hang], { timeout: { attempt: 1000, deadline: 500 } })
      assert.deepStrictEqual([over.error._tag, spentOf(over.event)], ["DeadlineExceeded", estimated])
    })))

  it.effect("an answer that cannot be used: what its vendor told, and then it is exact", () =>
    vector(Effect.gen(function*() {
      const { event } = yield* failedBy(kind, [ScriptedProvider.answer("")])
      assert.strictEqual(event?.error.reason, "MalformedResponse")
      assert.deepStrictEqual(spentOf(event), { inputTokens: 10, outputTokens: 5, atLeast: undefined })
      const cut = yield* failedBy(kind, [ScriptedProvider.fail({ _tag: "MalformedResponse", problem: "x" })])
      assert.deepStrictEqual(spentOf(cut.event), estimated)
    })))

  it.effect.each<readonly [string, LlmError.Reason]>([
    ["refused", { _tag: "InvalidRequest" }],
    ["limited", { _tag: "RateLimit" }],
    ["overloaded", { _tag: "Overloaded" }],
    ["not reached", { _tag: "Network", kind: "connect", sent: false }]
  ])("nothing, when it was %s", ([, reason]) =>
    vector(Effect.gen(function*() {
      const { event } = yield* failedBy(kind, [ScriptedProvider.fail(reason)])
      assert.deepStrictEqual(spentOf(event), nothing)
    })))

  it.effect("nothing that is known, after a bug", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([[ScriptedProvider.die("a bug")]])
      const events = yield* fork(
        Stream.runCollect(Stream.takeUntil(r.client.events, ({ _tag }) => _tag === "CallEnded"))
      )
      yield* Effect.exit(ask(kind, r.client))
      const [broken] = find(yield* Fiber.join(events), "AttemptInterrupted")
      assert.deepStrictEqual([broken?.by, spentOf(broken)], ["defect", nothing])
    })))

  it.effect("a tokenizer that counted the prompt for a limit counts it here", () =>
    vector(Effect.gen(function*() {
      const provider = LlmProvider.make({ id: "p", generate: () => Effect.never, stream: () => Stream.never })
      const tokenizer = Layer.succeed(
        Tokenizer.Tokenizer,
        Tokenizer.make({ tokenize: () => Effect.succeed(Array.from({ length: 42 }, (_, i) => i)) })
      )
      const layer = LlmClient.layerDynamic([{ provider, limits }], { retry: false, timeout: { attempt: 1000 } })
      const client = Context.get(yield* Layer.build(Layer.provide(layer, tokenizer)), LlmClient)
      const error = failure((yield* timed(ask(kind, client), 2000)).exit) as LlmError.AttemptTimeout
      assert.deepStrictEqual(spentOf(find(error.ledger, "AttemptFailed")[0]), { ...estimated, inputTokens: 42 })
    })))
})

describe("what a stream has cost at least", () => {
  const { stream } = ScriptedProvider
  const reset = new LlmError.ProviderError({ provider: "p", reason: { _tag: "Network", kind: "reset", sent: true } })

  it.effect("what its vendor told at its beginning, and the text that came", () =>
    vector(Effect.gen(function*() {
      const text = "x".repeat(35)
      for (
        const [parts, spent] of [
          [[told({ inputTokens: 12 }), text, ScriptedProvider.cut], { inputTokens: 12, outputTokens: 10 }],
          [[told({ inputTokens: 12, outputTokens: 30 }), text, ScriptedProvider.cut], {
            inputTokens: 12,
            outputTokens: 30
          }],
          [[text, { error: reset }], { inputTokens: PROMPT, outputTokens: 10 }],
          [[text, ScriptedProvider.stall], { inputTokens: PROMPT, outputTokens: 10 }]
        ] as const
      ) {
        const { error, event } = yield* failedBy("stream", [stream(...parts)])
        assert.deepStrictEqual([error._tag, spentOf(event)], ["StreamInterrupted", { ...spent, atLeast: true }])
      }
    })))

  it.effect("a hedge's loser that had begun to speak", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([
        [stream(told({ inputTokens: 12 }), { wait: 3000 }, "p")],
        [stream({ wait: 500 }, "s")]
      ], { hedge: { delay: 1000 }, retry: false })
      const { ledger } = success((yield* timed(ask("stream", r.client), 20_000)).exit)
      const [lost] = find(ledger, "AttemptInterrupted")
      assert.deepStrictEqual(spentOf(lost), { inputTokens: 12, outputTokens: undefined, atLeast: true })
    })))

  it.effect("a reader that left in the middle", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([[stream("x".repeat(35), { wait: 60_000 }, "y")]])
      const events = yield* fork(
        Stream.runCollect(Stream.takeUntil(r.client.events, ({ _tag }) => _tag === "CallEnded"))
      )
      yield* Stream.runDrain(Stream.take(r.client.stream("What is AI?"), 1))
      const [left] = find(yield* Fiber.join(events), "AttemptInterrupted")
      assert.deepStrictEqual(spentOf(left), { inputTokens: PROMPT, outputTokens: 10, atLeast: true })
    })))
})

describe("what cannot be counted", () => {
  it.effect("ends the attempt all the same, and gives back what it holds", () =>
    vector(Effect.gen(function*() {
      const bad: LlmResponse.StreamPart = {
        type: "response-metadata",
        get metadata(): never {
          throw new Error("unreadable")
        }
      }
      const provider = LlmProvider.make({
        id: "p",
        generate: () => Effect.never,
        stream: () =>
          Stream.concat(Stream.make(bad, { type: "text-delta", id: "0", delta: "a" } as const), Stream.never)
      })
      const client = Context.get(
        yield* Layer.build(LlmClient.layerDynamic([{ provider }], { retry: false, bulkhead: { maxConcurrent: 1 } })),
        LlmClient
      )
      const fiber = yield* fork(ask("stream", client))
      yield* Fiber.interrupt(fiber)
      assert.strictEqual((yield* client.status).targets[0]!.bulkhead?.inUse, 0)
    })))
})

describe.each([NaN, -1, 1.5, Infinity, "7"])("a vendor that tells %s tokens has told none", (count) => {
  const finish = (input: unknown, output: unknown) => ({
    type: "finish" as const,
    reason: "stop" as const,
    usage: {
      inputTokens: { total: input, uncached: undefined, cacheRead: count, cacheWrite: 0 },
      outputTokens: { total: output, text: 3, reasoning: count }
    } as unknown as LlmResponse.Usage
  })

  it.effect.each(kinds)("of an answer: %s", (kind) =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([[ScriptedProvider.answer([{ type: "text", text: "Hello." }, finish(count, 7)])]])
      const { ledger, usage } = success((yield* timed(ask(kind, r.client), 1)).exit) as Outcome & { usage: unknown }
      const [event] = find(ledger, "AttemptSucceeded")
      assert.deepInclude(event, { outputTokens: 7, cacheWriteTokens: 0 })
      assert.notInclude(Object.values(event!), count)
      assert.doesNotHaveAnyKeys(event, ["inputTokens", "cacheReadTokens", "reasoningTokens"])
      assert.deepStrictEqual(usage, { inputTokens: { cacheWrite: 0 }, outputTokens: { total: 7, text: 3 } })
    })))

  it.effect.each(kinds)("of an answer without content: %s", (kind) =>
    Effect.gen(function*() {
      const { event } = yield* failedBy(kind, [ScriptedProvider.answer([{ type: "text", text: "" }, finish(count, 7)])])
      assert.deepStrictEqual(spentOf(event), { inputTokens: PROMPT, outputTokens: 7, atLeast: true })
    }).pipe(vector))

  it.effect("of a stream that breaks", () =>
    Effect.gen(function*() {
      const usage = { inputTokens: count, outputTokens: count } as unknown as LlmResponse.UsageFact
      const { error, event } = yield* failedBy("stream", [ScriptedProvider.stream(
        told({ inputTokens: 11 }),
        told(usage),
        "Hello",
        ScriptedProvider.cut
      )])
      assert.deepInclude(error, { _tag: "StreamInterrupted", usage: { inputTokens: 11 } })
      assert.deepStrictEqual(spentOf(event), { inputTokens: 11, outputTokens: 2, atLeast: true })
    }).pipe(vector))
})

describe("what is told of usage", () => {
  const usage = (numbers: ReadonlyArray<number | undefined>): LlmResponse.Usage => {
    const [input, output, cacheRead, cacheWrite, reasoning] = numbers
    return { inputTokens: { total: input, cacheRead, cacheWrite }, outputTokens: { total: output, reasoning } }
  }
  const names = ["inputTokens", "outputTokens", "cacheReadTokens", "cacheWriteTokens", "reasoningTokens"]

  it("of an answer: what its vendor says, and no field for what it does not", () => {
    const said = (numbers: ReadonlyArray<number | undefined>) => {
      const event = {}
      tellUsage(event as Parameters<typeof tellUsage>[0], usage(numbers))
      return event
    }
    assert.deepStrictEqual(said([1, 2, 3, 4, 5]), Object.fromEntries(names.map((name, i) => [name, i + 1])))
    assert.deepStrictEqual(said([]), {})
    for (const [i, name] of names.entries()) {
      assert.deepStrictEqual(said(names.map((_, k) => k === i ? 0 : undefined)), { [name]: 0 })
    }
  })

  const finish = (input: number | undefined, output: number | undefined) => ({
    type: "finish",
    reason: "stop",
    usage: usage([input, output])
  })
  const facts = (inputTokens: number, outputTokens: number) => told({ inputTokens, outputTokens })
  const delta = (text: string) => ({ type: "text-delta", id: "0", delta: text })
  const text = { type: "text", text: "1234567" }

  // The prompt is estimated as 9; 3.5 bytes of text are a token.
  it.each<[string, ReadonlyArray<unknown> | undefined, boolean, ReturnType<typeof spentBy>]>([
    ["nothing came, and nobody was at work", undefined, false, undefined],
    ["nothing came", undefined, true, { inputTokens: 9, atLeast: true }],
    ["parts that say nothing, and nobody was at work", [], false, undefined],
    ["parts that say nothing", [], true, { inputTokens: 9, atLeast: true }],
    ["all is told", [finish(3, 4)], false, { inputTokens: 3, outputTokens: 4 }],
    ["nothing is nothing", [finish(0, 0)], true, { inputTokens: 0, outputTokens: 0 }],
    ["the prompt is told", [text, finish(3, undefined)], true, { inputTokens: 3, outputTokens: 2, atLeast: true }],
    ["the answer is told", [finish(undefined, 4)], true, { inputTokens: 9, outputTokens: 4, atLeast: true }],
    ["the answer is told of one who was not at work", [finish(undefined, 4)], false, {
      outputTokens: 4,
      atLeast: true
    }],
    ["text, and nobody was at work", [text], false, { outputTokens: 2, atLeast: true }],
    ["a whole text and parts of one", [text, delta("1234567"), delta("x")], true, {
      inputTokens: 9,
      outputTokens: 5,
      atLeast: true
    }],
    ["told at the beginning, and more came", [facts(6, 1), delta("1234567")], true, {
      inputTokens: 6,
      outputTokens: 2,
      atLeast: true
    }],
    ["told at the beginning, and less came", [facts(6, 8), delta("1234567")], true, {
      inputTokens: 6,
      outputTokens: 8,
      atLeast: true
    }]
  ])("of an attempt without an answer: %s", (_, parts, wasAtWork, spent) => {
    const got = parts === undefined ? undefined : { parts, target: "p", provider: "p", model: undefined }
    const attempt = { got, request: {}, to: { tokensOf: () => 9 } } as unknown as Attempt
    assert.deepStrictEqual(spentBy(attempt, wasAtWork), spent)
  })

  it("what cannot be counted is reported, and nothing is said", () => {
    const reports: Array<unknown> = []
    const to = {
      tokensOf: () => {
        throw "thrown"
      },
      background: { report: (defect: unknown) => void reports.push(defect) }
    }
    assert.isUndefined(spentBy({ got: undefined, request: {}, to } as unknown as Attempt, true))
    assert.deepStrictEqual(reports, ["thrown"])
  })
})
