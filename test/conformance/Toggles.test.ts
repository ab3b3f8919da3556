// E5: every subset of the patterns, against a reference of plain arithmetic (reference.ts).
import { assert, describe, it } from "@effect/vitest"
import { Cause, Effect, Exit } from "effect"
import { LlmError, type LlmEvent } from "effect-resilient-llm"
import { ScriptedProvider } from "effect-resilient-llm/testing"
import { TestClock } from "effect/testing"
import { ask, failure, type Kind, kinds, nothingHeld, setUp, vector } from "../support.ts"
import { type Answer, type Enabled, expect, optionsOf, type Toggle, toggles } from "./reference.ts"
import {
  badRequest,
  failing,
  find,
  interrupt,
  over,
  overloads,
  rateLimited,
  type Running,
  start,
  succeeds,
  word
} from "./support.ts"

const TEN_MINUTES = 600_000

const stepOf = (answer: Answer, kind: Kind): ScriptedProvider.Step => {
  switch (answer) {
    case "S":
      return succeeds
    case "F":
      return overloads
    case "400":
      return badRequest
    case "429":
      return rateLimited("2 seconds")
    case "hang":
      return ScriptedProvider.hang
    case "cut":
      return kind === "stream" ? ScriptedProvider.stream("Hel", ScriptedProvider.cut) : failing(
        new LlmError.ProviderError({
          provider: "p",
          reason: { _tag: "MalformedResponse", problem: LlmError.TRUNCATED }
        })
      )
  }
}

const subsets = (of: ReadonlyArray<Toggle>): ReadonlyArray<Enabled> =>
  Array.from({ length: 2 ** of.length }, (_, bits) => new Set(of.filter((_, i) => (bits >> i) & 1)))

const resultOf = (exit: Exit.Exit<{ readonly source: string; readonly target: string }, LlmError.LlmError>): string =>
  Exit.isSuccess(exit)
    ? `${exit.value.source} ${exit.value.target}`
    : Cause.hasInterruptsOnly(exit.cause)
    ? "interrupted"
    : word(failure(exit))

/** Every attempt has one end, and so has the call. */
const assertPaired = (ledger: LlmEvent.Ledger) => {
  const open = new Set<number>()
  for (const event of ledger) {
    if (event._tag === "AttemptStarted") open.add(event.attempt)
    else if (
      event._tag === "AttemptSucceeded" || event._tag === "AttemptFailed" || event._tag === "AttemptInterrupted"
    ) {
      assert.isTrue(open.delete(event.attempt), `attempt ${event.attempt} ended twice`)
    }
  }
  assert.strictEqual(open.size, 0, "an attempt without an end")
  assert.strictEqual(find(ledger, "CallEnded").length, 1)
}

/**
 * One configuration: a good answer at 0 (for the cache), the call under test ten minutes later, and a repetition under
 * its key after ten minutes more, with healthy targets. Both pauses refill and recover everything, so the repetition
 * also proves that the permit, the slot and the lease of the call under test are back.
 */
const check = (enabled: Enabled, kind: Kind, scripts: readonly [ReadonlyArray<Answer>, ReadonlyArray<Answer>]) => {
  const name = `${[...enabled].join(" ") || "nothing"} · ${scripts.map((s) => s.join(" ")).join(" / ")}`
  const script = (answers: ReadonlyArray<Answer>, before: ReadonlyArray<ScriptedProvider.Step>) => ({
    script: [...before, ...answers.slice(0, -1).map((a) => stepOf(a, kind))],
    always: stepOf(answers.at(-1)!, kind)
  })
  const settled = (input: Parameters<typeof ask>[2]) => (client: Parameters<typeof ask>[1]) =>
    Effect.gen(function*() {
      const begun = TEN_MINUTES * (input === question ? 0 : 1)
      const call: Running<
        { readonly source: string; readonly target: string; readonly ledger: LlmEvent.Ledger },
        LlmError.LlmError
      > = yield* start(ask(kind, client, input))
      yield* TestClock.adjust(TEN_MINUTES)
      if (call.exit() === undefined) yield* interrupt(call)
      const exit = over(call)
      if (Exit.isSuccess(exit)) assertPaired(exit.value.ledger)
      else if (!Cause.hasInterrupts(exit.cause)) assertPaired(failure(exit).ledger)
      return { result: resultOf(exit), at: call.at()! - begun }
    })
  const question = { prompt: "What is AI?" }
  const keyed = { ...question, idempotencyKey: "k" }

  return vector(Effect.gen(function*() {
    const r = yield* setUp([script(scripts[0], [succeeds]), script(scripts[1], [])], optionsOf(enabled))
    const asked = Effect.map(
      Effect.all([r.calls(0), r.calls(1)]),
      (calls) => calls.map((times) => times.filter((at) => at >= TEN_MINUTES).map((at) => at - TEN_MINUTES))
    )
    assert.strictEqual((yield* settled(question)(r.client)).result, "provider p")

    const { at, calls, repeated, result } = expect(enabled, kind, scripts, TEN_MINUTES)
    const actual = yield* settled(keyed)(r.client)
    assert.deepStrictEqual({ name, calls: yield* asked, ...actual }, { name, calls, result, at })
    yield* nothingHeld(r)

    yield* r.providers[0]!.play(succeeds)
    const again = yield* settled(keyed)(r.client)
    assert.strictEqual(again.result, repeated, name)
    const more = repeated === "provider p" ? [TEN_MINUTES] : []
    assert.deepStrictEqual(yield* asked, [[...calls[0], ...more], [...calls[1]]], name)
    yield* nothingHeld(r)
  })).pipe(Effect.provide(TestClock.layer()))
}

const all = (
  configurations: ReadonlyArray<Enabled>,
  kind: Kind,
  primary: ReadonlyArray<Answer>,
  secondary: ReadonlyArray<Answer>
) => Effect.forEach(configurations, (enabled) => check(enabled, kind, [primary, secondary]), { discard: true })

describe.each(kinds)("%s", (kind) => {
  const outcomes: ReadonlyArray<Answer> = ["S", "F", "400", "429", "hang", "cut"]

  it.effect.each(outcomes)(
    "E5 all 256 subsets, primary %s, secondary S",
    (outcome) => all(subsets(toggles), kind, [outcome], ["S"]),
    30_000
  )

  // A success and a 400 never reach the secondary.
  it.effect.each(["F", "429", "hang", "cut"] as const)(
    "E5 the 128 subsets with failover, both %s",
    (outcome) => all(subsets(toggles).filter((enabled) => enabled.has("failover")), kind, [outcome], [outcome]),
    30_000
  )

  it.effect.each<[string, ReadonlyArray<Answer>]>([
    ["success", ["S"]],
    ["503-then-success", ["F", "S"]],
    ["400", ["400"]]
  ])(
    "all 128 subsets of the seven patterns of the mission, %s",
    ([, script]) => all(subsets(toggles.filter((toggle) => toggle !== "bulkhead")), kind, script, script),
    30_000
  )
})
