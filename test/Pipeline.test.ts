import { assert, describe, it } from "@effect/vitest"
import { Cause, Clock, Context, Duration, Effect, Exit, Fiber, Layer, Scope, Stream } from "effect"
import { LlmClient, type LlmConfig, LlmError, LlmProvider, type LlmRequest, LlmResponse } from "effect-resilient-llm"
import { CircuitBreaker } from "effect-resilient-llm/resilience"
import { ScriptedProvider } from "effect-resilient-llm/testing"
import { TestClock } from "effect/testing"
import { types } from "node:util"
import { ask, failure, fork, kinds, nothingHeld, setUp, success, timed, vector } from "./support.ts"

const { answer, fail, hang, overloaded, rateLimited, stream } = ScriptedProvider
const always = (step: ScriptedProvider.Step) => ({ always: step })

/** A clock that moves by a microsecond whenever somebody reads it, as a real one does. */
const ticking = <A, E, R>(self: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
  TestClock.testClockWith((clock) => {
    let read = 0n
    const monotonicTimeNanosUnsafe = () => clock.monotonicTimeNanosUnsafe() + 1000n * ++read
    const moving: Clock.Clock = Object.assign(Object.create(clock) as Clock.Clock, {
      monotonicTimeNanosUnsafe,
      monotonicTimeNanos: Effect.sync(monotonicTimeNanosUnsafe)
    })
    return Effect.provideService(self, Clock.Clock, moving)
  })

describe.each(kinds)("%s, on a clock that moves whenever it is read: a ledger never goes back", (kind) => {
  const busy = always(overloaded)
  it.effect.each<readonly [what: string, scripts: Parameters<typeof setUp>[0], options: LlmConfig.Options]>([
    ["retries", [[overloaded, overloaded, answer("Hello.")]], {}],
    ["failover", [busy, always(answer("Hello."))], {}],
    ["targets that are passed over", [busy, busy, always(answer("Hello."))], {
      circuitBreaker: { failureThreshold: 1 },
      bulkhead: { maxConcurrent: 1 }
    }],
    ["a hedge", [always({ ...answer("Hello."), delay: 900 }), always(answer("Hello."))], { hedge: { delay: 100 } }],
    ["a hedge, and its answer is kept", [always({ ...answer("Hello."), delay: 900 }), always(answer("Hello."))], {
      hedge: { delay: 100 },
      cache: {}
    }],
    ["a stale answer", [[answer("Hello."), overloaded, overloaded, overloaded]], { cache: { ttl: 1 }, retry: false }],
    ["an answer of a key", [always(answer("Hello."))], { idempotency: {}, rateLimit: {} }],
    ["a line", [always({ ...answer("Hello."), delay: 50 })], { bulkhead: { maxConcurrent: 1 } }]
  ])("%s", ([, scripts, options]) =>
    vector(ticking(Effect.gen(function*() {
      const r = yield* setUp(scripts, options)
      const key = options.idempotency === undefined ? {} : { idempotencyKey: "k" }
      for (let i = 0; i < 3; i++) {
        const both = [yield* fork(ask(kind, r.client, { prompt: "a", ...key })), yield* fork(ask(kind, r.client))]
        yield* TestClock.adjust(5000)
        for (const fiber of both) {
          const exit = yield* Fiber.await(fiber)
          const ledger = Exit.isSuccess(exit) ? exit.value.ledger : failure(exit).ledger
          const times = ledger.map(({ _tag, at }) => [at, _tag] as const)
          assert.deepStrictEqual(times, times.toSorted(([a], [b]) => a - b))
        }
      }
    }))))
})

describe.each(kinds)("%s", (kind) => {
  it.effect("answers at once, with everything off", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([[answer("Hello.")]], { retry: false, failover: false })
      const { at, exit } = yield* timed(ask(kind, r.client))
      const response = success(exit)
      assert.strictEqual(at, 0)
      assert.strictEqual(response.text, "Hello.")
      assert.deepStrictEqual(yield* r.calls(), [0])
      assert.deepStrictEqual(response.ledger.map((e) => e._tag), [
        "CallStarted",
        "AttemptStarted",
        ...(kind === "stream" ? [] : []),
        "AttemptSucceeded",
        "CallEnded"
      ])
      yield* nothingHeld(r)
    })))

  it.effect("answers at once, with every default", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([[answer("Hello.")]], {
        retry: {},
        retryBudget: {},
        timeout: {},
        circuitBreaker: {},
        rateLimit: {},
        idempotency: {},
        cache: {},
        failover: {}
      })
      const { at, exit } = yield* timed(ask(kind, r.client))
      assert.strictEqual(at, 0)
      assert.strictEqual(success(exit).text, "Hello.")
      yield* nothingHeld(r)
    })))

  it.effect("retries, then answers", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([[overloaded, overloaded, answer("Hello.")]])
      const { at, exit } = yield* timed(ask(kind, r.client))
      assert.strictEqual(at, 1125)
      assert.strictEqual(success(exit).text, "Hello.")
      assert.deepStrictEqual(yield* r.calls(), [0, 375, 1125])
      yield* nothingHeld(r)
    })))

  it.effect("fails with the last failure and the ledger", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([always(overloaded)])
      const { at, exit } = yield* timed(ask(kind, r.client))
      const error = failure(exit)
      assert.strictEqual(at, 1125)
      assert.strictEqual(error._tag, "ProviderError")
      assert.deepStrictEqual(error.ledger.map((e) => e._tag), [
        "CallStarted",
        "AttemptStarted",
        "AttemptFailed",
        "RetryScheduled",
        "AttemptStarted",
        "AttemptFailed",
        "RetryScheduled",
        "AttemptStarted",
        "AttemptFailed",
        "RetryDenied",
        "CallEnded"
      ])
      yield* nothingHeld(r)
    })))

  it.effect("fails over in order", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([always(overloaded), always(answer("Hello."))])
      const { at, exit } = yield* timed(ask(kind, r.client))
      assert.strictEqual(at, 1125)
      assert.strictEqual(success(exit).target, "s")
      assert.deepStrictEqual(yield* r.calls(0), [0, 375, 1125])
      assert.deepStrictEqual(yield* r.calls(1), [1125])
      yield* nothingHeld(r)
    })))

  it.effect("does not fail over what is wrong by itself", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([always(fail({ _tag: "InvalidRequest" }, { status: 400 })), always(answer("Hello."))])
      const { at, exit } = yield* timed(ask(kind, r.client))
      assert.strictEqual(at, 0)
      assert.strictEqual(failure(exit)._tag, "ProviderError")
      assert.deepStrictEqual(yield* r.calls(1), [])
    })))

  it.effect("cuts a hang and fails over", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([always(hang), [answer("Hello.")]], {
        timeout: { attempt: 1000, firstToken: 1000 },
        retry: false
      })
      const { at, exit } = yield* timed(ask(kind, r.client))
      assert.strictEqual(at, 1000)
      assert.strictEqual(success(exit).target, "s")
      yield* nothingHeld(r)
    })))

  it.effect("a hint longer than another target's patience fails over", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([always(rateLimited("30 seconds")), [answer("Hello.")]])
      const { at, exit } = yield* timed(ask(kind, r.client))
      assert.strictEqual(at, 0)
      assert.strictEqual(success(exit).target, "s")
    })))

  it.effect("stale instead of a failure", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([{ script: [answer("Hello.")], always: overloaded }], { cache: {} })
      yield* timed(ask(kind, r.client), 10_000)
      const { exit } = yield* timed(ask(kind, r.client), 10_000)
      const response = success(exit)
      assert.strictEqual(response.source, "stale")
      assert.strictEqual(response.text, "Hello.")
      yield* nothingHeld(r)
    })))

  it.effect("the same key is answered once", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([[answer("Hello.", { delay: 1000 })]], { idempotency: {} })
      const request = { prompt: "Hi", idempotencyKey: "k" }
      const { at, exit } = yield* timed(
        Effect.all(Array.from({ length: 5 }, () => ask(kind, r.client, request)), { concurrency: "unbounded" })
      )
      assert.strictEqual(at, 1000)
      assert.deepStrictEqual(success(exit).map((x) => x.source).toSorted(), [
        "provider",
        "replay",
        "replay",
        "replay",
        "replay"
      ])
      const again = yield* timed(ask(kind, r.client, request))
      assert.strictEqual(success(again.exit).source, "replay")
      assert.deepStrictEqual(yield* r.calls(), [0])
      const conflict = yield* Effect.flip(ask(kind, r.client, { prompt: "Other", idempotencyKey: "k" }))
      assert.strictEqual(conflict._tag, "IdempotencyConflict")
      yield* nothingHeld(r)
    })))
})

const finish = {
  type: "finish",
  reason: "stop",
  usage: {
    inputTokens: { total: 1, uncached: undefined, cacheRead: undefined, cacheWrite: undefined },
    outputTokens: { total: 1, text: undefined, reasoning: undefined }
  }
} as const

/** What a vendor says of its limits; the last number is the time until its limit is whole again. */
const facts = (remaining: number, resetAfter?: number) => [
  { dimension: "requests", limit: 100, remaining, ...(resetAfter === undefined ? undefined : { resetAfter }) }
]
const refusing = (rateLimits: ReadonlyArray<LlmError.RateLimitFact>) =>
  stream({
    error: new LlmError.ProviderError({ provider: "p", reason: { _tag: "RateLimit" }, status: 429, rateLimits })
  })

describe.each(kinds)("limits that a vendor reports, %s", (kind) => {
  it.effect("are those of its target, and nothing to the bucket of all targets", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([always(refusing(facts(0, 60_000))), always(answer("Hello."))], {
        retry: false,
        rateLimit: {}
      })
      for (const _ of [1, 2]) {
        const { at, exit } = yield* timed(ask(kind, r.client))
        assert.deepStrictEqual([at, success(exit).target], [0, "s"])
      }
      const { rateLimit } = yield* r.client.status
      assert.strictEqual(rateLimit?.blockedFor, 0)
      assert.isAbove(rateLimit?.levels["requests"] ?? 0, 3490)
    })))

  it.effect("lower the target's own, whether it failed or answered", () =>
    vector(Effect.gen(function*() {
      const metadata = {
        type: "response-metadata",
        metadata: LlmResponse.httpMetadata({ rateLimits: facts(40) })
      } as const
      const answered = answer([metadata, { type: "text", text: "Hello." }, finish])
      const limits = { limits: [{ dimension: "requests", limit: 100, per: "1 hour" }] } as const
      const r = yield* setUp([[refusing(facts(60)), answered]], { retry: false }, [limits])
      const level = Effect.map(
        r.client.status,
        ({ targets }) => Math.floor(targets[0]?.limits?.levels["requests"] ?? -1)
      )
      yield* Effect.exit(ask(kind, r.client))
      assert.strictEqual(yield* level, 60)
      yield* ask(kind, r.client)
      assert.strictEqual(yield* level, 40)
    })))

  it.effect("count after the refund: what the vendor says is left is left", () =>
    vector(Effect.gen(function*() {
      const left = [{ dimension: "tokens", remaining: 100 }]
      const limits = { limits: [{ dimension: "tokens", limit: 100_000, per: "1 hour" }] } as const
      const r = yield* setUp([always(refusing(left))], { retry: false }, [limits])
      yield* Effect.exit(ask(kind, r.client))
      assert.strictEqual((yield* r.client.status).targets[0]?.limits?.levels["tokens"], 100)
    })))
})

describe.each(kinds)("what must not stay behind, %s", (kind) => {
  it.effect("a provider that throws instead of failing: a defect, and everything is given back", () =>
    vector(Effect.gen(function*() {
      const broken = (): never => {
        throw new TypeError("broken")
      }
      const provider: LlmProvider.LlmProvider = { id: "x", generate: broken, stream: broken }
      const layer = LlmClient.layerDynamic([provider], { bulkhead: { maxConcurrent: 1, queue: 0 } })
      const client = Context.get(yield* Layer.build(layer), LlmClient)
      const tags: Array<string> = []
      yield* fork(Stream.runForEach(client.events, ({ _tag }) => Effect.sync(() => tags.push(_tag))))
      for (const _ of [1, 2]) {
        const { exit } = yield* timed(ask(kind, client))
        assert.isTrue(Exit.isFailure(exit) && Cause.hasDies(exit.cause), String(exit))
        assert.strictEqual((yield* client.status).targets[0]?.bulkhead?.inUse, 0)
      }
      const ends = tags.filter((tag) => tag === "AttemptStarted" || tag === "AttemptInterrupted" || tag === "CallEnded")
      const once = ["AttemptStarted", "AttemptInterrupted", "CallEnded"]
      assert.deepStrictEqual(ends, [...once, ...once])
    })))

  it.effect.each([{ cache: {} }, { idempotency: {} }, {}])(
    "what no JSON can hold is refused, with %j",
    (options) =>
      vector(Effect.gen(function*() {
        const r = yield* setUp([[answer("Hello.")]], options)
        const part = { type: "tool-result", id: "1", name: "rows", isFailure: false, result: { count: 10n } } as const
        const input = { prompt: [{ role: "tool", content: [part] }], idempotencyKey: "k" } as const
        const { exit } = yield* timed(ask(kind, r.client, input))
        const path = "prompt[0].content[0].result.count"
        const error = failure(exit)
        assert.deepInclude(error, { _tag: "InvalidRequest", path, rule: "JSON", kind: "a bigint" })
        assert.deepStrictEqual(error.ledger, [])
        yield* nothingHeld(r)
      }))
  )

  it.effect("the payment for a retry that its deadline ended before it was sent", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([{ script: [overloaded], always: hang }], {
        retryBudget: { capacity: 10, perAttempt: 0, perSecond: 0 },
        bulkhead: { maxConcurrent: 1 },
        timeout: {}
      })
      const first = yield* fork(ask(kind, r.client, { prompt: "Hi", deadline: "2 seconds" }))
      yield* fork(Effect.exit(ask(kind, r.client)))
      yield* TestClock.adjust(1000)
      assert.strictEqual((yield* r.client.status).targets[0]?.retryBudget, 9)
      yield* TestClock.adjust(1000)
      assert.strictEqual(failure(first.pollUnsafe()!)._tag, "DeadlineExceeded")
      assert.strictEqual((yield* r.client.status).targets[0]?.retryBudget, 10)
    })))

  it.effect("readers of events that come after the client has gone", () =>
    vector(Effect.gen(function*() {
      const scope = yield* Scope.make()
      const { client } = yield* Scope.provide(setUp([[answer("Hello.")]]), scope)
      yield* ask(kind, client)
      yield* Scope.close(scope, Exit.void)
      assert.deepStrictEqual(success((yield* timed(Stream.runCollect(client.events))).exit), [])
    })))

  it.effect("answers too large for the cache, tool calls included; they are rejected, not a failure of the cache", () =>
    vector(Effect.gen(function*() {
      const call = { type: "tool-call", id: "1", name: "write", params: { text: "x".repeat(50_000) } } as const
      const r = yield* setUp([[answer([call, finish])]], { cache: { maxBytes: 90_000 } })
      const results: Array<string> = []
      yield* fork(Stream.runForEach(r.client.events, (event) =>
        Effect.sync(() => {
          if (event._tag === "Cache") results.push(event.result)
        })))
      yield* timed(ask(kind, r.client))
      assert.deepStrictEqual(results, ["rejected"])
    })))
})

describe.each(kinds)("what is known of the past, %s", (kind) => {
  const refused = fail({ _tag: "InvalidRequest" }, { status: 400 })
  const request = { prompt: "Hi", idempotencyKey: "k" }

  it.effect("a replayed refusal has no attempts of the call that was refused", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([[refused]], { idempotency: {} })
      yield* timed(ask(kind, r.client, request))
      const { ledger } = failure((yield* timed(ask(kind, r.client, request))).exit)
      assert.deepStrictEqual(ledger.map(({ _tag }) => _tag), ["CallStarted", "Idempotency", "CallEnded"])
    })))

  it.effect("the refusal of a second choice is not kept: the first one may be back", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([[overloaded, answer("Hello.")], [refused]], { idempotency: {}, retry: false })
      assert.strictEqual(failure((yield* timed(ask(kind, r.client, request))).exit)._tag, "ProviderError")
      assert.strictEqual(success((yield* timed(ask(kind, r.client, request))).exit).text, "Hello.")
    })))

  it.effect("a target that was skipped says why as it was then", () =>
    vector(Effect.gen(function*() {
      const late = fail({ _tag: "Overloaded" }, { status: 503, delay: "200 seconds" })
      const circuitBreaker = { failureThreshold: 1, recoveryTimeout: "30 seconds" } as const
      const r = yield* setUp(
        [[overloaded, answer("Hello.")], [answer("Hello."), late]],
        { retry: false },
        [{ circuitBreaker }]
      )
      yield* timed(ask(kind, r.client), 0)
      const call = yield* fork(ask(kind, r.client))
      yield* TestClock.adjust("31 seconds")
      assert.strictEqual(success((yield* timed(ask(kind, r.client), 0)).exit).target, "p")
      yield* TestClock.adjust("3 minutes")
      const error = failure(call.pollUnsafe()!)
      const skipped = error._tag === "AllProvidersFailed" ? error.errors[0] : error
      assert.strictEqual(skipped?._tag, "CircuitOpen")
      assert.deepInclude(skipped, { state: "open", retryAfter: Duration.seconds(30) })
    })))

  it.effect("a probe keeps its slot as long as its attempt may take", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([[overloaded, answer("Hello.", { delay: "100 seconds" })]], {
        retry: false,
        timeout: { attempt: "3 minutes", firstToken: "3 minutes" },
        circuitBreaker: { failureThreshold: 1, recoveryTimeout: "5 seconds" }
      })
      yield* timed(ask(kind, r.client), "5 seconds")
      assert.strictEqual(success((yield* timed(ask(kind, r.client))).exit).text, "Hello.")
      assert.strictEqual((yield* r.client.status).targets[0]?.circuit?.state, "closed")
    })))
})

it.effect("reasoning that a target cannot take is noted in the ledger", () =>
  Effect.gen(function*() {
    const make = (id: string, reasoning: string | false | undefined) =>
      LlmProvider.make({
        id,
        reasoning,
        generate: () =>
          id === "d" ? Effect.succeed("Hello.") : Effect.fail(
            new LlmError.ProviderError({ provider: id, reason: { _tag: "Quota" } })
          )
      })
    const layer = LlmClient.layerDynamic([
      make("a", "mine"),
      make("b", "other"),
      make("c", undefined),
      make("d", false)
    ])
    const response = yield* Effect.provide(
      Effect.flatMap(LlmClient, (client) =>
        client.complete({
          prompt: [
            { role: "user", content: "Hi" },
            {
              role: "assistant",
              content: [
                { type: "reasoning", text: "Hm.", options: { mine: { signature: "s" } } },
                { type: "reasoning", text: "Hm?" },
                { type: "text", text: "Hello." }
              ]
            },
            { role: "user", content: "Hi again" }
          ]
        })),
      layer
    )
    assert.deepStrictEqual(
      response.ledger.flatMap((event) => event._tag === "ReasoningDropped" ? [[event.target, event.parts]] : []),
      [["a", 1], ["b", 2], ["d", 2]]
    )
  }))

describe("a circuit per model", () => {
  it.effect("one model's outage leaves the others alone", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([{ script: [overloaded, overloaded], always: answer("Hello.") }], {
        retry: false,
        circuitBreaker: { scope: "model", failureThreshold: 2 }
      })
      for (let i = 0; i < 2; i++) yield* Effect.exit(ask("complete", r.client, { prompt: "Hi", model: "big" }))
      const open = failure((yield* timed(ask("complete", r.client, { prompt: "Hi", model: "big" }))).exit)
      assert.strictEqual(open.message, "The circuit breaker of \"p/big\" is open. Try again in 30s.")
      assert.strictEqual((yield* ask("complete", r.client, { prompt: "Hi", model: "small" })).text, "Hello.")
      assert.strictEqual((yield* r.client.status).targets[0]?.circuit?.state, "open")
    })))

  it.effect("names without end do not fill the memory", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([{ always: overloaded }], {
        retry: false,
        circuitBreaker: { scope: "model", failureThreshold: 1 }
      })
      for (let i = 0; i < 150; i++) yield* Effect.exit(ask("complete", r.client, { prompt: "Hi", model: `m${i}` }))
      const oldest = yield* Effect.flip(ask("complete", r.client, { prompt: "Hi", model: "m0" }))
      const newest = yield* Effect.flip(ask("complete", r.client, { prompt: "Hi", model: "m149" }))
      assert.deepStrictEqual([oldest._tag, newest._tag], ["ProviderError", "CircuitOpen"])
    })))

  const askFor = (client: LlmClient["Service"], model: string) =>
    Effect.flip(ask("complete", client, { prompt: "Hi", model }))

  it.effect("P19 an open circuit outlives a hundred healthy models", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([{ script: [overloaded], always: answer("Hello.") }], {
        retry: false,
        circuitBreaker: { scope: "model", failureThreshold: 1 }
      })
      assert.strictEqual((yield* askFor(r.client, "ill"))._tag, "ProviderError")
      for (let i = 0; i < 150; i++) yield* ask("complete", r.client, { prompt: "Hi", model: `m${i}` })
      assert.strictEqual((yield* askFor(r.client, "ill"))._tag, "CircuitOpen")
    })))

  it.effect("P19 an open circuit in use outlives a hundred others that are open", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([{ always: overloaded }], {
        retry: false,
        circuitBreaker: { scope: "model", failureThreshold: 1 }
      })
      assert.strictEqual((yield* askFor(r.client, "ill"))._tag, "ProviderError")
      for (let i = 0; i < 150; i++) {
        yield* askFor(r.client, `m${i}`)
        assert.strictEqual((yield* askFor(r.client, "ill"))._tag, "CircuitOpen", `after ${i}`)
      }
    })))
})

describe("after the commit", () => {
  it.effect("R19 chunk, then reset", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([[stream("A", ScriptedProvider.cut)]])
      const seen: Array<string> = []
      const { exit } = yield* timed(
        r.client.stream("Hi").pipe(Stream.runForEach((part) => Effect.sync(() => seen.push(part.type))))
      )
      const error = failure(exit)
      assert.strictEqual(error._tag, "StreamInterrupted")
      if (error._tag === "StreamInterrupted") {
        assert.strictEqual(error.kind, "truncated")
        assert.strictEqual(error.partialParts, 1)
      }
      assert.deepStrictEqual(yield* r.calls(), [0])
      yield* nothingHeld(r)
    })))
})

describe("what a target cannot take", () => {
  const provider = (
    id: string,
    changes: LlmProvider.LlmProvider["changes"],
    seen: Array<unknown>,
    vendor?: string
  ) =>
    LlmProvider.make({
      id,
      vendor,
      changes,
      generate: (request) => {
        seen.push(request.providerOptions)
        return Effect.fail(new LlmError.ProviderError({ provider: id, reason: { _tag: "Overloaded" } }))
      }
    })
  class A extends Context.Service<A, LlmProvider.LlmProvider>()("test/A") {}
  class B extends Context.Service<B, LlmProvider.LlmProvider>()("test/B") {}
  const noImages: LlmProvider.LlmProvider["changes"] = ({ prompt }) =>
    prompt.some(({ content }) => typeof content !== "string" && content.some(({ type }) => type === "file"))
      ? [{ field: "prompt.file", action: "unsupported" }]
      : []
  const image = { role: "user", content: [{ type: "file", mediaType: "image/png", data: "AQID" }] } as const
  const ask = (input: LlmRequest.Input, seen: Array<unknown>, b = noImages) =>
    LlmClient.make([A, B], { retry: false, circuitBreaker: false }).pipe(
      Effect.flatMap((client) => Effect.flip(client.complete(input))),
      Effect.provideService(A, provider("a", noImages, seen, "first")),
      Effect.provideService(B, provider("b", b, seen)),
      Effect.scoped
    )

  it.effect("what is dropped or substituted is in the ledger, and options go to their vendor alone", () =>
    Effect.gen(function*() {
      const seen: Array<unknown> = []
      const error = yield* ask(
        { prompt: "Hi", seed: 1, providerOptions: { first: { x: 1 }, b: { y: 2 } } },
        seen,
        () => [{ field: "seed", action: "dropped" }, { field: "topK", action: "substituted", detail: "as 1" }]
      )
      assert.deepStrictEqual(seen, [{ first: { x: 1 } }, { b: { y: 2 } }])
      assert.deepStrictEqual(
        error.ledger.flatMap((event) =>
          event._tag === "RequestAdapted" ? [[event.target, event.field, event.action, event.detail]] : []
        ),
        [
          ["a", "providerOptions.b", "dropped", undefined],
          ["b", "seed", "dropped", undefined],
          ["b", "topK", "substituted", "as 1"],
          ["b", "providerOptions.first", "dropped", undefined]
        ]
      )
    }))

  it.effect("a target that cannot be asked is skipped, with the reason in the ledger", () =>
    Effect.gen(function*() {
      const seen: Array<unknown> = []
      const error = yield* ask({ prompt: [image] }, seen, () => [])
      assert.strictEqual(seen.length, 1)
      assert.deepStrictEqual(
        error.ledger.flatMap((event) =>
          event._tag === "TargetSkipped" ? [[event.target, event.because, event.field]] : []
        ),
        [["a", "unsupported", "prompt.file"]]
      )
      // Nobody can: then the first one says so, as it would alone.
      seen.length = 0
      const nobody = yield* ask({ prompt: [image] }, seen)
      assert.isFalse(nobody.ledger.some(({ _tag }) => _tag === "TargetSkipped"))
      assert.strictEqual(seen.length, 2)
    }))
})

describe.each(kinds)("%s: an answer is its caller's own (P33)", (kind) => {
  const parts = (): ReadonlyArray<LlmResponse.Part> => [
    { type: "text", text: "Hello." },
    { type: "tool-call", id: "1", name: "t", params: { list: [1], deep: { a: 1 } } },
    { type: "finish", reason: "stop", usage: { inputTokens: { total: 1 }, outputTokens: { total: 2 } } }
  ]
  // What a caller that thinks it owns its answer may do to it.
  const spoil = (value: unknown): void => {
    if (typeof value !== "object" || value === null) return
    for (const key of Object.keys(value)) {
      const record = value as Record<string, unknown>
      spoil(record[key])
      if (typeof record[key] !== "object") record[key] = "spoilt"
    }
  }

  it.effect("who changes it changes nobody else's: fresh, joined, replayed and cached", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([{ always: { ...answer(parts()), delay: 100 } }], {
        idempotency: {},
        cache: { readThrough: true, toolCalls: true }
      })
      const keyed = { prompt: "Hi", idempotencyKey: "k", cache: "always" } as const
      const cached = { prompt: "Hi", cache: "always" } as const
      const response = (input: LlmRequest.Input) =>
        kind === "complete"
          ? r.client.complete(input)
          : Effect.scoped(Effect.flatMap(r.client.open(input), ({ response }) => response))
      const seen: Array<string> = []
      const look = (response: LlmResponse.LlmResponse) => {
        const { content, finishReason, message, text, toolCalls, usage } = response
        seen.push(JSON.stringify({ content, finishReason, message, text, toolCalls, usage }))
        spoil({ content, message, toolCalls, usage, finish: response.finish })
      }
      const both = yield* fork(Effect.forEach([keyed, keyed], response, { concurrency: 2 }))
      yield* TestClock.adjust(100)
      for (const response of yield* Fiber.join(both)) look(response)
      for (const input of [keyed, keyed, cached, cached]) look(yield* response(input))
      assert.deepStrictEqual(yield* r.calls(), [0])
      assert.strictEqual(new Set(seen).size, 1)
      assert.notInclude(seen[0]!, "spoilt")
    })))

  it.effect("the parts of a stream that was kept, too", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([{ always: answer(parts()) }], { idempotency: {}, cache: false })
      const input = { prompt: "Hi", idempotencyKey: "k" }
      yield* Stream.runDrain(r.client.stream(input))
      const seen: Array<string> = []
      for (let i = 0; i < 2; i++) {
        const got = yield* Stream.runCollect(r.client.stream(input))
        seen.push(JSON.stringify(got))
        spoil(got)
      }
      assert.strictEqual((yield* r.calls()).length, 1)
      assert.strictEqual(seen[0], seen[1])
    })))
})

describe.each(kinds)("%s", (kind) => {
  it.effect("a failure is a real error, with the stack of its origin", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([{ always: ScriptedProvider.overloaded }], { retry: false })
      const error = failure((yield* timed(ask(kind, r.client))).exit)
      assert.instanceOf(error, LlmError.ProviderError)
      assert.isTrue(types.isNativeError(error))
      assert.include(error.stack, "HTTP 503")
      assert.include(String(error), "p is overloaded (HTTP 503).")
      assert.isAbove(error.ledger.length, 2)
    })))
})

it.effect("a circuit that an operator has forced shows in the status", () =>
  vector(Effect.gen(function*() {
    const circuitBreaker = yield* CircuitBreaker.make({ key: "p" })
    const r = yield* setUp([[answer("x")]], { circuitBreaker })
    const state = Effect.map(r.client.status, ({ targets: [target] }) => target?.circuit?.state)
    for (const [mode, shown] of [["open", "forced-open"], ["closed", "forced-closed"], ["shadow", "shadow"]] as const) {
      yield* circuitBreaker.force(mode)
      assert.strictEqual(yield* state, shown)
    }
  })))
