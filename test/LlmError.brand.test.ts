// An error is ours by its mark: a second copy of the package makes errors that are known, anybody's tag is not enough.
import { assert, describe, it } from "@effect/vitest"
import { Context, Data, Duration, Effect, Layer, Stream } from "effect"
import { LlmClient, LlmError, LlmProvider } from "effect-resilient-llm"
import { Retry } from "effect-resilient-llm/resilience"
import { kinds, success, timed, vector } from "./support.ts"

/** What another version in `node_modules` would be: the same code, evaluated once more. */
const again = "../src/LlmError.ts?copy"
const copy: typeof LlmError = await import(/* @vite-ignore */ again)

const fields = { provider: "p", reason: { _tag: "Overloaded" }, status: 503 } as const

describe("an error of a second copy", () => {
  const mine = new LlmError.ProviderError(fields)
  const theirs = new copy.ProviderError(fields)

  it("is of another class, and means the same", () => {
    assert.isFalse(theirs instanceof LlmError.ProviderError)
    assert.isTrue(LlmError.isLlmError(theirs) && LlmError.isProviderError(theirs))
    assert.deepStrictEqual(LlmError.classify(theirs), LlmError.classify(mine))
    assert.deepStrictEqual(LlmError.summary(theirs), LlmError.summary(mine))
    const quota = new copy.ProviderError({ ...fields, reason: { _tag: "Quota" } })
    assert.isFalse(LlmError.classify(quota).retry)
    assert.isTrue(LlmError.withBudgetExhausted(theirs).budgetExhausted)
    assert.isTrue(LlmError.isLocalRefusal(new copy.RateLimited({ dimension: "d", retryAfter: Duration.zero })))
    assert.isTrue(LlmError.isLlmError(new copy.DeadlineExceeded({ after: Duration.zero })))
    const all = new copy.AllProvidersFailed({ targets: ["p"], errors: [theirs] })
    assert.isTrue(LlmError.classify(all).stale)
  })

  it.effect.each(kinds)(
    "is retried and failed over like one of this copy, %s",
    (kind) =>
      vector(Effect.gen(function*() {
        let asked = 0
        const failing = Effect.suspend(() => {
          asked++
          return Effect.fail(theirs)
        })
        const first: LlmProvider.LlmProvider = {
          id: "p",
          generate: () => failing,
          stream: () => Stream.unwrap(failing)
        }
        const second = LlmProvider.make({ id: "s", generate: () => Effect.succeed("Hello.") })
        const layer = LlmClient.layerDynamic([first, second], { retry: { maxRetries: 1 } })
        const client = Context.get(yield* Layer.build(layer), LlmClient)
        const call = kind === "complete" ? client.complete("Hi") : Effect.flatMap(client.open("Hi"), (s) => s.response)
        const response = success((yield* timed(Effect.scoped(call))).exit)
        assert.deepStrictEqual([response.text, asked], ["Hello.", 2])
        const failed = response.ledger.filter((event) => event._tag === "AttemptFailed")
        assert.deepStrictEqual(failed.map(({ error }) => error), [LlmError.summary(mine), LlmError.summary(mine)])
      }))
  )
})

describe("an error of a user's own", () => {
  class RateLimited extends Data.TaggedError("RateLimited")<{ readonly retryAfter: Duration.Duration }> {}
  class InvalidRequest extends Data.TaggedError("InvalidRequest")<{}> {}
  class ProviderError extends Data.TaggedError("ProviderError")<{}> {}
  class AllProvidersFailed extends Data.TaggedError("AllProvidersFailed")<{}> {}
  const own: ReadonlyArray<object> = [
    new RateLimited({ retryAfter: Duration.zero }),
    new InvalidRequest(),
    new ProviderError(),
    new AllProvidersFailed(),
    { _tag: "CircuitOpen" },
    { _tag: "constructor" }
  ]

  it.each(own)("%o counts as a transient failure, whatever its tag", (error) => {
    assert.isFalse(LlmError.isLlmError(error))
    assert.isFalse(LlmError.isLocalRefusal(error))
    assert.deepStrictEqual(LlmError.classify(error), LlmError.classify(new Error("x")))
    assert.strictEqual(LlmError.withBudgetExhausted(error), error)
    assert.deepStrictEqual(Object.keys(LlmError.summary(error)).filter((key) => key !== "retryAfter"), ["tag"])
  })

  it.effect.each(own)("%o is retried", (error) =>
    vector(Effect.gen(function*() {
      let asked = 0
      const failing = Effect.suspend(() => {
        asked++
        return Effect.fail(error)
      })
      yield* timed(failing.pipe(Retry.retry({ maxRetries: 2, baseDelay: 1 })))
      assert.strictEqual(asked, 3)
    })))
})
