// Guards of users and of providers: when they are asked, what they are told, and what a refusal means.
import { assert, describe, it } from "@effect/vitest"
import { Context, Data, Effect, Exit, Fiber, Layer, Scope } from "effect"
import { LlmClient, type LlmConfig, LlmError, type LlmEvent, LlmGuard, type LlmProvider } from "effect-resilient-llm"
import { ScriptedProvider } from "effect-resilient-llm/testing"
import { TestClock } from "effect/testing"
import { inspect } from "node:util"
import { ask, failure, fork, kinds, success, timed, vector, vectorOptions } from "./support.ts"

const { answer, hang, overloaded } = ScriptedProvider
class Closed extends Data.TaggedError("Closed")<{}> {}

const tagsOf = (ledger: LlmEvent.Ledger) => ledger.map(({ _tag }) => _tag)

/** Says what it was told, in order. */
const witness = (told: Array<string>, name = "witness"): LlmGuard.Guard<never> => ({
  name,
  acquire: (ask) => {
    told.push(`${name} asked by ${ask.target}`)
    return Effect.succeed({
      settle: (outcome) => void told.push(`${name} ${outcome._tag}`),
      release: () => void told.push(`${name} released`)
    })
  }
})

const clientOf = <E extends LlmError.LlmError>(
  steps: ReadonlyArray<ScriptedProvider.Step>,
  guards: ReadonlyArray<LlmGuard.Guard<E>>,
  options: LlmConfig.Options = {}
) =>
  Effect.gen(function*() {
    const providers = yield* Effect.forEach(steps, (step, i) =>
      ScriptedProvider.make([ScriptedProvider.always(step)], { id: ["p", "s"][i]! }))
    const [first, ...others] = providers
    const context = yield* Layer.build(
      LlmClient.layerDynamic([first!, ...others], { ...vectorOptions, retry: false, ...options, guards })
    )
    return { client: Context.get(context, LlmClient), providers }
  })

const refusing = (failover: boolean): LlmGuard.Guard<LlmError.BulkheadFull> =>
  LlmGuard.make("door", (ask) => ask.target === "p" ? Effect.fail(new LlmError.BulkheadFull({})) : Effect.void, {
    failover
  })

describe.each(kinds)("%s", (kind) => {
  it.effect("each hears one outcome, the last one that was asked first, and gives back after it", () =>
    vector(Effect.gen(function*() {
      const told: Array<string> = []
      const { client } = yield* clientOf([answer("Hi.")], [witness(told, "a"), witness(told, "b")])
      yield* ask(kind, client)
      assert.deepStrictEqual(told, [
        "a asked by p",
        "b asked by p",
        "b Succeeded",
        "a Succeeded",
        "b released",
        "a released"
      ])
    })))

  it.effect("a refusal ends the call as it is: not retried, not failed over, not recorded", () =>
    vector(Effect.gen(function*() {
      const told: Array<string> = []
      const { client, providers } = yield* clientOf(
        [answer("Hi."), answer("other")],
        [witness(told), refusing(false)],
        {
          retry: {},
          circuitBreaker: { failureThreshold: 1 },
          cache: {}
        }
      )
      const error = failure(yield* Effect.exit(ask(kind, client)))
      assert.strictEqual(error._tag, "BulkheadFull")
      assert.deepStrictEqual(tagsOf(error.ledger), ["CallStarted", "AttemptRefused", "CallEnded"])
      assert.deepInclude(error.ledger[1], { by: "guard", guard: "door" })
      assert.deepStrictEqual(told, ["witness asked by p", "witness NeverStarted", "witness released"])
      for (const provider of providers) assert.deepStrictEqual(yield* provider.requests, [])
      assert.strictEqual((yield* client.status).targets[0]?.circuit?.calls, 0)
    })))

  it.effect("with failover the target is skipped", () =>
    vector(Effect.gen(function*() {
      const { client } = yield* clientOf([answer("Hi."), answer("other")], [refusing(true)])
      const { ledger, target } = yield* ask(kind, client)
      assert.strictEqual(target, "s")
      assert.deepInclude(ledger.find(({ _tag }) => _tag === "TargetSkipped"), { because: "guard", guard: "door" })
    })))

  it.effect("it is never inside AllProvidersFailed", () =>
    vector(Effect.gen(function*() {
      const { client } = yield* clientOf([answer("Hi."), overloaded], [refusing(true)])
      const error = failure(yield* Effect.exit(ask(kind, client)))
      assert.strictEqual(error._tag, "AllProvidersFailed")
      assert.deepStrictEqual((error as LlmError.AllProvidersFailed).targets, ["s"])
    })))

  it.effect("one that waits is interrupted at the deadline; what others gave before it goes back", () =>
    vector(Effect.gen(function*() {
      const told: Array<string> = []
      const slow = LlmGuard.make(
        "slow",
        () => Effect.onInterrupt(Effect.sleep(500), () => Effect.sync(() => told.push("gone")))
      )
      const { client } = yield* clientOf([answer("Hi.")], [witness(told), slow], { timeout: {} })
      const { at, exit } = yield* timed(ask(kind, client, { prompt: "Hi", deadline: 200 }), 200)
      assert.strictEqual(failure(exit)._tag, "DeadlineExceeded")
      assert.strictEqual(at, 200)
      assert.deepStrictEqual(told, ["witness asked by p", "gone", "witness NeverStarted", "witness released"])
    })))

  it.effect("its wait is in the ledger", () =>
    vector(Effect.gen(function*() {
      const { client } = yield* clientOf([answer("Hi.")], [LlmGuard.make("slow", () => Effect.sleep(40))])
      const { exit } = yield* timed(ask(kind, client), 100)
      const waited = success(exit).ledger.find(({ _tag }) => _tag === "Waited")
      assert.deepInclude(waited, { for: "guard", guard: "slow", duration: 40 })
    })))

  it.effect("no caller waits for what settle leaves to be done, but closing the client does", () =>
    vector(Effect.gen(function*() {
      const scope = yield* Scope.make()
      let written = 0
      const writing: LlmGuard.Guard<never> = {
        name: "writing",
        acquire: () =>
          Effect.succeed({ settle: () => Effect.delay(Effect.sync(() => written++), 300).pipe(Effect.asVoid) })
      }
      const { client } = yield* Scope.provide(clientOf([answer("Hi.")], [writing]), scope)
      const { at } = yield* timed(ask(kind, client), 0)
      assert.strictEqual(at, 0)
      const closing = yield* fork(Scope.close(scope, Exit.void))
      assert.deepStrictEqual([written, closing.pollUnsafe()], [0, undefined])
      yield* TestClock.adjust(300)
      assert.strictEqual(written, 1)
      yield* Fiber.join(closing)
    })))

  it.effect("a timer that releases the caller settles at once, and releases when the provider has cleaned up", () =>
    vector(Effect.gen(function*() {
      const told: Array<string> = []
      const { client } = yield* clientOf([{ ...hang, cleanup: 1000 }], [witness(told)], {
        timeout: { attempt: 100, firstToken: 100 }
      })
      const { at } = yield* timed(Effect.exit(ask(kind, client)), 100)
      assert.strictEqual(at, 100)
      assert.deepStrictEqual(told.slice(1), ["witness Failed"])
      yield* TestClock.adjust(1000)
      assert.deepStrictEqual(told.slice(1), ["witness Failed", "witness released"])
    })))

  it.effect("a provider's guard chooses who is asked, and says what a failure means", () =>
    vector(Effect.gen(function*() {
      const told: Array<string> = []
      const chosen = yield* ScriptedProvider.make([overloaded, ScriptedProvider.always(answer("from the chosen"))], {
        id: "chosen"
      })
      const other = yield* ScriptedProvider.make([], { id: "p" })
      const provider: LlmProvider.LlmProvider = {
        ...other,
        guard: {
          name: "router",
          acquire: () =>
            Effect.succeed({
              provider: chosen,
              judge: (verdict) => ({ ...verdict, retry: false }),
              settle: (outcome) => void told.push(outcome._tag)
            })
        }
      }
      const context = yield* Layer.build(LlmClient.layerDynamic([provider], { ...vectorOptions, retry: {} }))
      const client = Context.get(context, LlmClient)
      assert.strictEqual(failure(yield* Effect.exit(ask(kind, client)))._tag, "ProviderError")
      assert.strictEqual((yield* ask(kind, client)).text, "from the chosen")
      assert.deepStrictEqual(told, ["Failed", "Succeeded"])
      assert.deepStrictEqual(yield* other.requests, [])
    })))
})

it.effect("an error of a user's own goes out as it came", () =>
  Effect.scoped(Effect.gen(function*() {
    class Vendor extends ScriptedProvider.Service<Vendor>()("app/Vendor") {}
    const closed = new Closed()
    const client = yield* LlmClient.make([Vendor], {
      guards: [LlmGuard.make("door", () => Effect.fail(closed))],
      cache: { readThrough: false }
    }).pipe(Effect.provide(Vendor.layer([])))
    assert.strictEqual(yield* Effect.flip(client.complete("Hi")), closed)
  })))

it.effect.each(kinds)(
  "what guards are told can be logged: the answer is not in it (%s)",
  (kind) =>
    Effect.gen(function*() {
      const told: Array<LlmGuard.Outcome> = []
      const guard: LlmGuard.Guard<never> = {
        name: "log",
        acquire: () => Effect.succeed({ settle: (outcome) => void told.push(outcome) })
      }
      const { client } = yield* clientOf([answer("the secret plan")], [guard])
      yield* ask(kind, client)
      assert.lengthOf(told, 1)
      assert.notInclude(JSON.stringify(told) + inspect(told, { depth: 9, showHidden: true }), "secret")
    })
)
