import { assert, describe, it } from "@effect/vitest"
import { Cause, Effect, Exit, Stream } from "effect"
import { type DynamicTarget, LlmClient, LlmError, type LlmEvent } from "effect-resilient-llm"
import { ScriptedProvider } from "effect-resilient-llm/testing"
import { TestClock } from "effect/testing"
import {
  ask,
  failure,
  kinds,
  nothingHeld,
  type SetUp,
  setUp,
  success,
  timed,
  vector,
  vectorOptions
} from "../support.ts"
import {
  always,
  answered,
  assertInterrupted,
  badRequest,
  breaker,
  code,
  failing,
  find,
  interrupt,
  millis,
  network,
  notFound,
  overloads,
  quota,
  rateLimited,
  start,
  succeeds,
  timers,
  unauthorized,
  word
} from "./support.ts"

const { answer, die, fail, hang, stream } = ScriptedProvider

describe.each(kinds)("%s", (kind) => {
  /** One call over two or more targets: when each was asked, when and how the call ended. */
  const row = (
    scripts: Parameters<typeof setUp>[0],
    expected: { readonly calls: ReadonlyArray<ReadonlyArray<number>>; readonly at: number; readonly word: string },
    options: Parameters<typeof setUp>[1] = {},
    targets: Parameters<typeof setUp>[2] = []
  ) =>
    Effect.gen(function*() {
      const r = yield* setUp(scripts, options, targets)
      const { at, exit } = yield* timed(ask(kind, r.client))
      assert.deepStrictEqual(yield* Effect.forEach(scripts, (_, i) => r.calls(i)), expected.calls)
      assert.strictEqual(at, expected.at)
      assert.strictEqual(Exit.isSuccess(exit) ? exit.value.target : word(failure(exit)), expected.word)
      yield* nothingHeld(r)
      return exit
    })

  it.effect("F1 primary always F, secondary S: the secondary at 1125, four attempts", () =>
    vector(Effect.gen(function*() {
      const exit = yield* row([always(overloads), always(succeeds)], {
        calls: [[0, 375, 1125], [1125]],
        at: 1125,
        word: "s"
      })
      const { ledger } = success(exit)
      assert.deepStrictEqual(find(ledger, "FailedOver").map(({ at, from, to }) => [at, from, to]), [[1125, "p", "s"]])
      assert.deepStrictEqual(find(ledger, "CallEnded").map(({ attempts, target }) => [attempts, target]), [[4, "s"]])
    })))

  it.effect("F2 both breakers open: no call, AllProvidersUnavailable with the shorter wait", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([always(overloads), always(overloads)], { retry: false }, [
        { circuitBreaker: { ...breaker, failureThreshold: 1, recoveryTimeout: 2500 } },
        { circuitBreaker: { ...breaker, failureThreshold: 1, recoveryTimeout: 7000 } }
      ])
      yield* Effect.exit(ask(kind, r.client))
      const { at, exit } = yield* timed(ask(kind, r.client), 0)
      const error = failure(exit)
      assert.strictEqual(at, 0)
      assert.strictEqual(error._tag, "AllProvidersUnavailable")
      assert.strictEqual(millis((error as LlmError.AllProvidersUnavailable).retryAfter), 2500)
      assert.deepStrictEqual([yield* r.calls(0), yield* r.calls(1)], [[0], [0]])
      assert.deepStrictEqual(
        find(error.ledger, "TargetSkipped").map(({ because, retryAfter, target }) => [target, because, retryAfter]),
        [["p", "circuit-open", 2500], ["s", "circuit-open", 7000]]
      )
      yield* nothingHeld(r)
    })))

  it.effect.each<[string, ScriptedProvider.Step, string]>([
    ["400", badRequest, "InvalidRequest"],
    ["422", failing(answered(422, {}, code("invalid_value"))), "InvalidRequest"],
    ["501", failing(answered(501)), "Server"],
    ["content policy", fail({ _tag: "ContentPolicy" }, { status: 400 }), "ContentPolicy"]
  ])(
    "F3 %s: one call, no failover, the error itself",
    ([, step, reason]) => vector(row([always(step), always(succeeds)], { calls: [[0], []], at: 0, word: reason }))
  )

  it.effect.each<[string, ScriptedProvider.Step, boolean]>([
    ["401", unauthorized, true],
    ["403", fail({ _tag: "Permission" }, { status: 403 }), true],
    ["quota", quota, true],
    ["404 model", notFound, false]
  ])(
    "F4 %s: one primary call, the secondary at 0; cooling down for 600 000: %s",
    ([, step, cools]) =>
      vector(Effect.gen(function*() {
        const r = yield* setUp([always(step), always(succeeds)], { failover: { coolDown: "10 minutes" } })
        const asked = Effect.gen(function*() {
          const before = (yield* r.calls(0)).length
          const { at, exit } = yield* timed(ask(kind, r.client), 0)
          assert.strictEqual(at, 0)
          assert.strictEqual(success(exit).target, "s")
          return (yield* r.calls(0)).length - before
        })
        assert.strictEqual(yield* asked, 1)
        assert.strictEqual(yield* asked, cools ? 0 : 1)
        yield* TestClock.adjust(599_999)
        assert.strictEqual(yield* asked, cools ? 0 : 1)
        yield* TestClock.adjust(1)
        assert.strictEqual(yield* asked, 1)
        yield* nothingHeld(r)
      }))
  )

  it.effect("F5 429 with 30 s and a healthy secondary: the secondary at 0", () =>
    vector(row([always(rateLimited("30 seconds")), always(succeeds)], { calls: [[0], [0]], at: 0, word: "s" })))

  it.effect("F5 429 with 2 s: the primary again at 2100", () =>
    vector(
      row([[rateLimited("2 seconds"), succeeds], always(succeeds)], { calls: [[0, 2100], []], at: 2100, word: "p" })
    ))

  it.effect("F5 the boundary: 5000 is waited for, 5001 is not", () =>
    vector(Effect.gen(function*() {
      yield* row([[rateLimited(5000), succeeds], always(succeeds)], { calls: [[0, 5250], []], at: 5250, word: "p" })
      yield* row([[rateLimited(5001), succeeds], always(succeeds)], { calls: [[0], [0]], at: 0, word: "s" })
    })))

  it.effect("F5 429 with 30 s is waited for while the secondary is cooling down", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([[notFound, rateLimited("30 seconds"), succeeds], [unauthorized]])
      assert.strictEqual(
        word(failure((yield* timed(ask(kind, r.client), 0)).exit)),
        "AllProvidersFailed NotFound Authentication"
      )
      const { at, exit } = yield* timed(ask(kind, r.client))
      assert.strictEqual(success(exit).target, "p")
      assert.strictEqual(at, 30_500)
      assert.deepStrictEqual([yield* r.calls(0), yield* r.calls(1)], [[0, 0, 30_500], [0]])
      yield* nothingHeld(r)
    })))

  it.effect("F6 both always F: AllProvidersFailed at 2250, two errors in order", () =>
    vector(Effect.gen(function*() {
      const exit = yield* row([always(overloads), always(network)], {
        calls: [[0, 375, 1125], [1125, 1500, 2250]],
        at: 2250,
        word: "AllProvidersFailed Overloaded Network"
      })
      assert.deepStrictEqual((failure(exit) as LlmError.AllProvidersFailed).targets, ["p", "s"])
    })))

  it.effect("F7 with a deadline of 1200: each target has 600, the end at 750", () =>
    vector(row([always(overloads), always(overloads)], {
      calls: [[0, 375], [375, 750]],
      at: 750,
      word: "AllProvidersFailed Overloaded Overloaded"
    }, { timeout: { ...timers, deadline: 1200 } })))

  const failures = (r: SetUp) =>
    Effect.map(r.client.status, ({ targets }) => targets.map(({ circuit }) => circuit?.streak))

  it.effect("F15 deadline 10 s, the primary hangs: the secondary answers at 5000, and the primary has failed", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([always(hang), always(succeeds)], {
        circuitBreaker: breaker,
        timeout: { ...timers, deadline: 10_000 }
      })
      const { at, exit } = yield* timed(ask(kind, r.client))
      assert.strictEqual(success(exit).target, "s")
      assert.strictEqual(at, 5000)
      assert.deepStrictEqual([yield* r.calls(0), yield* r.calls(1)], [[0], [5000]])
      assert.deepStrictEqual(yield* failures(r), [1, 0])
      yield* nothingHeld(r)
    })))

  it.effect("F16 three targets, deadline 9 s, all hang: asked at 0, 3000, 6000, each of them has failed", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([always(hang), always(hang), always(hang)], {
        circuitBreaker: breaker,
        timeout: { ...timers, deadline: 9000 }
      })
      const { at, exit } = yield* timed(ask(kind, r.client))
      assert.strictEqual(word(failure(exit)), "DeadlineExceeded")
      assert.strictEqual(at, 9000)
      assert.deepStrictEqual([yield* r.calls(0), yield* r.calls(1), yield* r.calls(2)], [[0], [3000], [6000]])
      assert.deepStrictEqual(yield* failures(r), [1, 1, 1])
      yield* nothingHeld(r)
    })))

  it.effect("F17 the secondary's circuit is open: the primary has all of the deadline", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([{ script: [overloads], always: hang }, always(overloads)], {
        retry: false,
        circuitBreaker: { ...breaker, failureThreshold: 2, recoveryTimeout: "1 hour", maxRecoveryTimeout: "1 hour" },
        timeout: { ...timers, deadline: 10_000 }
      }, [{ circuitBreaker: breaker }, {
        circuitBreaker: { ...breaker, failureThreshold: 1, recoveryTimeout: "1 hour", maxRecoveryTimeout: "1 hour" }
      }])
      yield* timed(ask(kind, r.client), 0)
      const { at, exit } = yield* timed(ask(kind, r.client))
      assert.strictEqual(word(failure(exit)), "DeadlineExceeded")
      assert.strictEqual(at, 10_000)
      assert.deepStrictEqual([yield* r.calls(0), yield* r.calls(1)], [[0, 0], [0]])
      yield* nothingHeld(r)
    })))

  it.effect("F10 a defect on the primary surfaces, the secondary is not asked", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([always(die(new Error("a bug"))), always(succeeds)], {
        bulkhead: { maxConcurrent: 1 },
        circuitBreaker: breaker
      })
      const { at, exit } = yield* timed(ask(kind, r.client))
      assert.isTrue(Exit.isFailure(exit) && Cause.hasDies(exit.cause))
      assert.strictEqual(at, 0)
      assert.deepStrictEqual([yield* r.calls(0), yield* r.calls(1)], [[0], []])
      assert.strictEqual((yield* r.client.status).targets[0]?.circuit?.calls, 0)
      yield* nothingHeld(r)
    })))

  it.effect("F14 interrupted while on the secondary: an interruption, no further target", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([always(overloads), always({ ...succeeds, delay: 1000 }), always(succeeds)], {
        retry: false
      })
      const call = yield* start(ask(kind, r.client))
      yield* TestClock.adjust(500)
      yield* interrupt(call)
      assertInterrupted(call, 500)
      assert.deepStrictEqual([yield* r.calls(0), yield* r.calls(1), yield* r.calls(2)], [[0], [0], []])
      yield* nothingHeld(r)
    })))

  describe("bugs other projects shipped", () => {
    it.effect("litellm#6957 #1226: the fallback exists for streams as it does for whole answers", () =>
      vector(row([always(overloads), always(succeeds)], { calls: [[0], [0]], at: 0, word: "s" }, { retry: false })))

    it.effect("Envoy#2671: a single target is never taken away", () =>
      vector(Effect.gen(function*() {
        const r = yield* setUp([[unauthorized, quota, succeeds]], { retry: false })
        const words: Array<string> = []
        for (let i = 0; i < 3; i++) {
          const exit = yield* Effect.exit(ask(kind, r.client))
          words.push(Exit.isSuccess(exit) ? exit.value.text : word(failure(exit)))
        }
        assert.deepStrictEqual(words, ["Authentication", "Quota", "Hello."])
      })))

    it.effect("litellm#40130: a later, shorter cool-down does not end an earlier one", () =>
      vector(Effect.gen(function*() {
        const r = yield* setUp([always(unauthorized), always(succeeds)], { failover: { coolDown: "10 minutes" } })
        yield* timed(ask(kind, r.client), 300_000)
        yield* timed(ask(kind, r.client), 299_999)
        assert.deepStrictEqual(yield* r.calls(0), [0])
        yield* timed(ask(kind, r.client), 1)
        yield* timed(ask(kind, r.client), 1)
        assert.deepStrictEqual(yield* r.calls(0), [0, 600_000])
      })))

    it.effect("litellm PR#5673 #12108: a cool-down of 0 is no cool-down", () =>
      vector(Effect.gen(function*() {
        const r = yield* setUp([always(unauthorized), always(succeeds)], { failover: { coolDown: 0 } })
        yield* timed(ask(kind, r.client), 0)
        yield* timed(ask(kind, r.client), 0)
        assert.deepStrictEqual(yield* r.calls(0), [0, 0])
      })))

    it.effect("litellm#27823: everything cooling down says when to come again", () =>
      vector(Effect.gen(function*() {
        const r = yield* setUp([always(unauthorized), always(quota)], { failover: { coolDown: "10 minutes" } })
        const first = yield* timed(ask(kind, r.client), 1000)
        assert.strictEqual(word(failure(first.exit)), "AllProvidersFailed Authentication Quota")
        const { exit } = yield* timed(ask(kind, r.client), 0)
        const error = failure(exit)
        assert.strictEqual(error._tag, "AllProvidersUnavailable")
        assert.strictEqual(millis((error as LlmError.AllProvidersUnavailable).retryAfter), 599_000)
      })))

    it.effect("mnfst PR#2893, opencrabs#260: the first error is not lost, and the ledger has every attempt", () =>
      vector(Effect.gen(function*() {
        const exit = yield* row([always(overloads), always(unauthorized), always(network)], {
          calls: [[0, 375, 1125], [1125], [1125, 1500, 2250]],
          at: 2250,
          word: "AllProvidersFailed Overloaded Authentication Network"
        })
        const { ledger } = failure(exit)
        assert.deepStrictEqual(
          find(ledger, "AttemptFailed").map((
            e: Extract<LlmEvent.LlmEvent, { _tag: "AttemptFailed" }>
          ) => [e.target, e.at]),
          [["p", 0], ["p", 375], ["p", 1125], ["s", 1125], ["t", 1125], ["t", 1500], ["t", 2250]]
        )
      })))
  })
})

const types = (parts: ReadonlyArray<{ readonly type: string; readonly delta?: unknown }>) =>
  parts.map((part) => part.type === "text-delta" ? String(part.delta) : part.type)

describe("stream", () => {
  const start = { type: "text-start", id: "0" } as const
  const lost = new LlmError.ProviderError({ provider: "p", reason: { _tag: "Network", sent: true } })

  it.effect("F8 a role frame and a reset, then \"Hi\" from the secondary: one start frame and \"Hi\"", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([[stream(start, { error: lost })], [stream(start, "Hi")]], { retry: false })
      const { exit } = yield* timed(Stream.runCollect(r.client.stream("Hello?")))
      assert.deepStrictEqual(types(success(exit)), ["response-metadata", "text-start", "Hi", "finish"])
      yield* nothingHeld(r)
    })))

  it.effect("F9 \"He\" and a reset: \"He\", then a typed error, no secondary call", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([[stream("He", { error: lost })], always(succeeds)])
      const seen: Array<string> = []
      const { exit } = yield* timed(
        Stream.runForEach(r.client.stream("Hello?"), (part) => Effect.sync(() => seen.push(...types([part]))))
      )
      assert.strictEqual(word(failure(exit)), "StreamInterrupted reset")
      assert.deepStrictEqual(seen, ["response-metadata", "He"])
      assert.deepStrictEqual([yield* r.calls(0), yield* r.calls(1)], [[0], []])
      yield* nothingHeld(r)
    })))

  describe("bugs other projects shipped", () => {
    it.effect("litellm PR#38153: exactly one message start, whatever number of targets failed", () =>
      vector(Effect.gen(function*() {
        const broken = stream(start, { type: "error", error: "overloaded" })
        const r = yield* setUp([always(broken), always(broken), always(stream(start, "Hi"))])
        const { exit } = yield* timed(Stream.runCollect(r.client.stream("Hello?")))
        assert.deepStrictEqual(types(success(exit)), ["response-metadata", "text-start", "Hi", "finish"])
        assert.deepStrictEqual([yield* r.calls(0), yield* r.calls(1), yield* r.calls(2)], [[0, 375, 1125], [
          1125,
          1500,
          2250
        ], [2250]])
      })))

    it.effect("litellm#38610: 200 and an error event before content, on every target, is no empty stream", () =>
      vector(Effect.gen(function*() {
        const broken = stream(start, { error: answered(529) })
        const r = yield* setUp([always(broken), always(broken)], { retry: false })
        const { exit } = yield* timed(Stream.runCollect(r.client.stream("Hello?")))
        assert.strictEqual(word(failure(exit)), "AllProvidersFailed Overloaded Overloaded")
      })))

    it.effect("litellm PR#26067: opening tells of the failure; nothing is deferred to the first read", () =>
      vector(Effect.gen(function*() {
        const r = yield* setUp([always(overloads), always(overloads)], { retry: false })
        const { exit } = yield* timed(Effect.scoped(r.client.open("Hello?")))
        assert.strictEqual(word(failure(exit)), "AllProvidersFailed Overloaded Overloaded")
      })))

    it.effect("nuguard#455, litellm#18229: the secondary's answer is its own, nothing is repeated or injected", () =>
      vector(Effect.gen(function*() {
        const r = yield* setUp([[stream(start, "", { error: lost })], [answer("Hello.")]], { retry: false })
        const { exit } = yield* timed(ask("stream", r.client))
        assert.strictEqual(success(exit).text, "Hello.")
        const [p] = yield* r.providers[0]!.requests
        const [s] = yield* r.providers[1]!.requests
        assert.deepStrictEqual(s?.request.prompt, p?.request.prompt)
      })))
  })
})

describe("build", () => {
  const refused = (ids: ReadonlyArray<string>) =>
    Effect.gen(function*() {
      const providers = yield* Effect.forEach(ids, (id) => ScriptedProvider.make([], { id }))
      const list = providers.map((provider) => ({ provider, id: provider.id })) as unknown as readonly [DynamicTarget]
      return yield* Effect.flip(Effect.scoped(Effect.provide(LlmClient, LlmClient.layerDynamic(list, vectorOptions))))
    })

  it.effect("F13 an empty list", () =>
    Effect.gen(function*() {
      const error = yield* refused([])
      assert.strictEqual(error._tag, "LlmConfigError")
      assert.deepInclude(error, { path: "targets", rule: "at least one target" })
    }))

  it.effect("F13 a duplicate", () =>
    Effect.gen(function*() {
      const error = yield* refused(["p", "s", "p"])
      assert.strictEqual(error._tag, "LlmConfigError")
      assert.deepInclude(error, { path: "targets[2].id", rule: "unique" })
    }))

  it.effect("F13 also while failover is off", () =>
    Effect.gen(function*() {
      const provider = yield* ScriptedProvider.make([], { id: "p" })
      const error = yield* Effect.flip(
        Effect.scoped(Effect.provide(LlmClient, LlmClient.layerDynamic([provider, provider], { failover: false })))
      )
      assert.strictEqual(error._tag, "LlmConfigError")
    }))
})
