// X1–X10, and what a policy, a wrapped provider and the wire must have in common.
import { NodeHttpClient } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import { Cause, Clock, ConfigProvider, Context, Effect, Exit, Layer, Metric, Random, Redacted, Stream } from "effect"
import { LlmClient, type LlmConfig, LlmError, type LlmEvent, LlmPool, type LlmProvider } from "effect-resilient-llm"
import { OpenAi } from "effect-resilient-llm/providers"
import { Chaos, CountingClock, FaultServer, ScriptedProvider } from "effect-resilient-llm/testing"
import { TestClock } from "effect/testing"
import { word } from "../conformance/support.ts"
import {
  ask,
  chance,
  failure,
  type Kind,
  kinds,
  nothingHeld,
  now,
  success,
  timed,
  vector,
  vectorOptions
} from "../support.ts"

const { ok, status } = FaultServer
const question = { prompt: [{ role: "user", content: "Hi" }] } as const

/** Five chunks, 500 ms after they were asked for. */
const FIVE = { ...ScriptedProvider.stream("1", "2", "3", "4", "5"), delay: 500 }

const clientOver = (
  providers: readonly [LlmProvider.LlmProvider, ...ReadonlyArray<LlmProvider.LlmProvider>],
  options: LlmConfig.Options = {}
) =>
  Effect.gen(function*() {
    const [first, ...others] = providers
    const layer = LlmClient.layerDynamic([first, ...others], { ...vectorOptions, ...options })
    return Context.get(yield* Layer.build(layer), LlmClient)
  })

/** A client whose only target `p` meets chaos. */
const disturbed = (
  policy: Chaos.Policy,
  options: LlmConfig.Options = {},
  step: ScriptedProvider.Step = ScriptedProvider.answer("Hello.")
) =>
  Effect.gen(function*() {
    const inner = yield* ScriptedProvider.make([ScriptedProvider.always(step)], { id: "p" })
    const provider = yield* Chaos.provider(inner, policy)
    const client = yield* clientOver([provider], options)
    return { client, providers: [inner], calls: () => Effect.map(inner.requests, (all) => all.map(({ at }) => at)) }
  })

/** What an attempt that asks for a whole answer meets. */
const met = (policy: Chaos.Policy, u: number) =>
  Effect.gen(function*() {
    const inner = yield* ScriptedProvider.make([], { id: "p" })
    const provider = yield* Chaos.provider(inner, policy)
    const exit = yield* Effect.exit(provider.generate(question))
    return Exit.isSuccess(exit) ? "ok" : failure(exit).reason._tag
  }).pipe(chance(u))

const overload: Chaos.Weighted = { fault: status(503) }
const events = (ledger: LlmEvent.Ledger) =>
  ledger.flatMap((event) => "attempt" in event ? [[event._tag, event.injected === true]] : [])

describe("draws", () => {
  it.effect("X1 a draw below the rate is a fault, the rate itself is none", () =>
    Effect.gen(function*() {
      assert.strictEqual(yield* met({ rate: 0.2, faults: [overload] }, 0.19999), "Overloaded")
      assert.strictEqual(yield* met({ rate: 0.2, faults: [overload] }, 0.2), "ok")
    }))

  it.effect("X2 never at rate 0, always at rate 1, whatever is drawn", () =>
    Effect.gen(function*() {
      for (const u of [0, 0.5, 1 - Number.EPSILON]) {
        assert.strictEqual(yield* met({ rate: 0, faults: [overload] }, u), "ok")
        assert.strictEqual(yield* met({ rate: 1, faults: [overload] }, u), "Overloaded")
      }
    }))

  it.effect("X3 weights 100, 50 and 50 are the first, the second and the third part of 200", () =>
    Effect.gen(function*() {
      const faults = [
        { fault: status(503), weight: 100 },
        { fault: status(500), weight: 50 },
        { fault: FaultServer.error("Quota"), weight: 50 }
      ]
      const found: Array<string> = []
      for (const r of [0, 99, 100, 149, 150, 199]) found.push(yield* met({ rate: 1, faults }, r / 200))
      assert.deepStrictEqual(found, ["Overloaded", "Overloaded", "Server", "Server", "Quota", "Quota"])
    }))

  it.effect("a target that no fault is meant for meets none, and draws nothing", () =>
    Effect.gen(function*() {
      let draws = 0
      const counting = {
        nextDoubleUnsafe: () => {
          draws += 1
          return 0
        },
        nextIntUnsafe: () => 0
      }
      const [p, s] = yield* Effect.forEach(["p", "s"], (id) =>
        Effect.flatMap(ScriptedProvider.make([], { id }), (inner) =>
          Chaos.provider(inner, { rate: 0.5, faults: [{ fault: status(503), targets: ["p"] }] }))).pipe(
          Effect.provideService(Random.Random, counting)
        )
      assert.strictEqual((yield* Effect.flip(p!.generate(question))).reason._tag, "Overloaded")
      assert.strictEqual(draws, 1)
      yield* s!.generate(question)
      assert.strictEqual(draws, 1)
    }))

  it.effect("one seed draws the same for a provider in every run, and something else for another", () =>
    Effect.gen(function*() {
      const policy: Chaos.Policy = { rate: 0.5, faults: [overload], seed: "seven" }
      const drawn = (id: string) =>
        Effect.flatMap(
          ScriptedProvider.make([], { id }),
          (inner) =>
            Effect.flatMap(Chaos.provider(inner, policy), (provider) =>
              Effect.replicateEffect(
                Effect.map(Effect.exit(provider.generate(question)), ({ _tag }) => _tag),
                64
              ))
        )
      const [one, again, other] = yield* Effect.all([drawn("p"), drawn("p"), drawn("s")])
      assert.deepStrictEqual(one, again)
      assert.notDeepEqual(one, other)
    }))
})

describe.each(kinds)("%s", (kind) => {
  it.effect("X4 latency comes before the transport's own, and inside the attempt's timer", () =>
    vector(Effect.gen(function*() {
      const policy: Chaos.Policy = { rate: 1, faults: [{ fault: FaultServer.slowHeaders(2000) }] }
      const patient = yield* disturbed(policy, {}, FIVE)
      const slow = yield* timed(ask(kind, patient.client))
      assert.strictEqual(success(slow.exit).text, "12345")
      assert.strictEqual(slow.at, 2500)
      const hasty = yield* disturbed(policy, { timeout: { attempt: 1000, firstToken: 1000 }, retry: false }, FIVE)
      const { at, exit } = yield* timed(ask(kind, hasty.client))
      assert.strictEqual(failure(exit)._tag, "AttemptTimeout")
      assert.strictEqual(at, 1000)
      yield* nothingHeld(hasty)
    })))

  it.effect("X5 a script of two failures and an answer: asked at 0, 375 and 1125", () =>
    vector(Effect.gen(function*() {
      const r = yield* disturbed({ script: [status(503), status(503), ok()] })
      const { at, exit } = yield* timed(ask(kind, r.client))
      const { ledger } = success(exit)
      assert.strictEqual(at, 1125)
      assert.deepStrictEqual(
        ledger.flatMap((e) => e._tag === "AttemptStarted" ? [[e.at, e.injected]] : []),
        [[0, true], [375, true], [1125, undefined]]
      )
      assert.deepStrictEqual(yield* r.calls(), [1125])
    })))

  it.effect("X7 a hang ends at the deadline, and leaves no fibre and no timer", () =>
    vector(Effect.gen(function*() {
      let fibers = 0
      const counted = Effect.provideService(Metric.FiberRuntimeMetrics, {
        recordFiberStart: () => void fibers++,
        recordFiberEnd: () => void fibers--
      })
      const r = yield* disturbed({ rate: 1, faults: [{ fault: FaultServer.hang() }] }, { timeout: { deadline: 5000 } })
      const { at, exit } = yield* timed(counted(ask(kind, r.client)))
      assert.strictEqual(failure(exit)._tag, "DeadlineExceeded")
      assert.strictEqual(at, 5000)
      assert.strictEqual(fibers, 0)
      yield* nothingHeld(r)
    })))

  it.effect(
    "X8 one seed, 1000 calls, twice: the same events, byte by byte; another seed, others",
    () =>
      vector(Effect.gen(function*() {
        const log = (seed: string) =>
          Effect.scoped(Effect.gen(function*() {
            const faults: ReadonlyArray<Chaos.Weighted> = [
              { fault: status(503), weight: 30 },
              { fault: FaultServer.hang(), weight: 10 },
              { fault: FaultServer.truncate({ afterChunks: 2 }), weight: 5 },
              { fault: status(429, { retryAfter: 1 }), weight: 5 }
            ]
            const { client } = yield* disturbed(
              { rate: 0.5, faults, seed },
              { timeout: { attempt: 1000, firstToken: 1000 }, circuitBreaker: { recoveryTimeout: 3000 } },
              FIVE
            )
            const exits = yield* Effect.forEach(Array.from({ length: 1000 }), () =>
              Effect.forkChild(Effect.exit(ask(kind, client)), { startImmediately: true }).pipe(
                Effect.tap(() => TestClock.adjust(100))
              ))
            yield* TestClock.adjust("1 hour")
            const ledgers = exits.map((fiber) => {
              const exit = success(fiber.pollUnsafe()!)
              return Exit.isSuccess(exit) ? exit.value.ledger : failure(exit).ledger
            })
            return JSON.stringify(ledgers)
          }))
        const [one, again, other] = yield* Effect.all([log("eight"), log("eight"), log("nine")])
        assert.isTrue(one === again, "the same seed gave another run")
        assert.isFalse(one === other)
        for (const tag of ["Overloaded", "AttemptTimeout", "RateLimit", "CircuitOpen"]) {
          assert.include(one, tag)
        }
      }))
  )

  it.effect("X9 chaos at rate 0, or none: the same events and answers, the same readings of the clock", () =>
    vector(Effect.gen(function*() {
      const run = (isWrapped: boolean) =>
        Effect.gen(function*() {
          const inner = yield* ScriptedProvider.make([
            ScriptedProvider.overloaded,
            { ...ScriptedProvider.answer("Hello."), delay: 30 },
            ScriptedProvider.overloaded,
            ScriptedProvider.overloaded
          ], { id: "p" })
          const provider = isWrapped ? yield* Chaos.provider(inner, { rate: 0, faults: [overload] }) : inner
          let readings = 0
          let draws = 0
          const clock = yield* Clock.Clock
          const counted: Clock.Clock = Object.assign(Object.create(clock) as Clock.Clock, {
            currentTimeMillisUnsafe: () => (readings += 1, clock.currentTimeMillisUnsafe()),
            monotonicTimeNanosUnsafe: () => (readings += 1, clock.monotonicTimeNanosUnsafe())
          })
          const random = { nextDoubleUnsafe: () => (draws += 1, 0.25), nextIntUnsafe: () => 0 }
          return yield* Effect.gen(function*() {
            const client = yield* clientOver([provider], { circuitBreaker: {}, timeout: {}, bulkhead: {} })
            const results: Array<unknown> = []
            for (let i = 0; i < 3; i++) {
              const { exit } = yield* timed(ask(kind, client))
              results.push(Exit.isSuccess(exit) ? exit.value : failure(exit).ledger)
            }
            return { results: JSON.stringify(results), readings, draws }
          }).pipe(Effect.provideService(Clock.Clock, counted), Effect.provideService(Random.Random, random))
        })
      const without = yield* run(false)
      assert.deepStrictEqual(yield* run(true), without)
      assert.isAbove(without.readings, 20)
      assert.isAbove(without.draws, 1)
    })))

  it.effect("X10 what is made up opens a circuit like what is not, and its events say so", () =>
    vector(Effect.gen(function*() {
      const r = yield* disturbed(
        { rate: 1, faults: [overload] },
        { retry: { maxRetries: 1, baseDelay: 10 }, circuitBreaker: { failureThreshold: 2 } }
      )
      const first = failure((yield* timed(ask(kind, r.client), 1000)).exit)
      assert.strictEqual(word(first), "Overloaded")
      assert.deepStrictEqual(events(first.ledger), [
        ["AttemptStarted", true],
        ["AttemptFailed", true],
        ["RetryScheduled", true],
        ["AttemptStarted", true],
        ["AttemptFailed", true],
        ["RetryDenied", true]
      ])
      assert.strictEqual((yield* r.client.status).targets[0]?.circuit?.state, "open")
      assert.strictEqual(failure((yield* timed(ask(kind, r.client), 1)).exit)._tag, "CircuitOpen")
      assert.deepStrictEqual(yield* r.calls(), [])
    })))

  it.effect("X10 all events of an attempt that is only slow, or cut off by its timer, are marked too; no others are", () =>
    vector(Effect.gen(function*() {
      const slow = FaultServer.slowHeaders(10)
      const r = yield* disturbed({ script: [slow, ok(), FaultServer.hang()] }, {
        timeout: { attempt: 1000, firstToken: 1000 },
        retry: false
      }, FIVE)
      const tags = ["AttemptStarted", ...(kind === "stream" ? ["AttemptCommitted"] : []), "AttemptSucceeded"]
      const all = (mark: boolean) => tags.map((tag) => [tag, mark])
      assert.deepStrictEqual(events(success((yield* timed(ask(kind, r.client))).exit).ledger), all(true))
      assert.deepStrictEqual(events(success((yield* timed(ask(kind, r.client))).exit).ledger), all(false))
      assert.deepStrictEqual(events(failure((yield* timed(ask(kind, r.client))).exit).ledger), [
        ["AttemptStarted", true],
        ["AttemptFailed", true]
      ])
    })))

  it.effect("a step of a script waits for an attempt that really starts", () =>
    vector(Effect.gen(function*() {
      const r = yield* disturbed(
        { script: [status(503), status(400), ok()] },
        { retry: false, circuitBreaker: { failureThreshold: 1, recoveryTimeout: 1000 } }
      )
      const said = Effect.map(timed(ask(kind, r.client), 500), ({ exit }) =>
        Exit.isSuccess(exit) ? "ok" : word(failure(exit)))
      // The second call meets the open circuit; the third one is its probe.
      assert.strictEqual(yield* said, "Overloaded")
      assert.strictEqual(yield* said, "CircuitOpen")
      assert.strictEqual(yield* said, "InvalidRequest")
      assert.strictEqual(yield* said, "ok")
    })))
})

describe("streams", () => {
  const read = (fault: Chaos.Fault, step: ScriptedProvider.Step = FIVE) =>
    Effect.gen(function*() {
      const { client } = yield* disturbed({ script: [fault] }, { retry: false }, step)
      const parts: Array<readonly [delta: string, at: number]> = []
      const { exit } = yield* timed(Effect.scoped(Effect.gen(function*() {
        const { parts: live } = yield* client.open("Hi")
        yield* Stream.runForEach(live, (part) =>
          part.type === "text-delta" ? Effect.map(now, (at) => void parts.push([part.delta, at])) : Effect.void)
      })))
      return { parts, exit }
    })
  const deltas = (parts: ReadonlyArray<readonly [string, number]>) => parts.map(([delta]) => delta)

  it.effect("X6 a cut after two of five chunks: two chunks, then the typed failure of a stream that broke", () =>
    vector(Effect.gen(function*() {
      const { exit, parts } = yield* read(FaultServer.truncate({ afterChunks: 2 }))
      assert.deepStrictEqual(parts, [["1", 500], ["2", 500]])
      assert.deepInclude(failure(exit), { _tag: "StreamInterrupted", kind: "truncated", partialParts: 2 })
    })))

  it.effect("a break after more chunks than there are comes between the content and the end", () =>
    vector(Effect.gen(function*() {
      const { exit, parts } = yield* read(FaultServer.resetInBody({ afterChunks: Infinity }))
      assert.deepStrictEqual(deltas(parts), ["1", "2", "3", "4", "5"])
      assert.deepInclude(failure(exit), { _tag: "StreamInterrupted", kind: "reset", partialParts: 5 })
    })))

  it.effect("a slow drip: a silence before the first chunk, and one between two", () =>
    vector(Effect.gen(function*() {
      const { exit, parts } = yield* read(ok({ firstTokenMillis: 300, chunkDelayMillis: 100 }))
      assert.isTrue(Exit.isSuccess(exit))
      assert.deepStrictEqual(parts.map(([, at]) => at), [800, 900, 1000, 1100, 1200])
    })))

  it.effect("a chunk comes twice", () =>
    vector(Effect.gen(function*() {
      const { exit, parts } = yield* read(FaultServer.duplicate({ afterChunks: 1 }))
      assert.isTrue(Exit.isSuccess(exit))
      assert.deepStrictEqual(deltas(parts), ["1", "2", "2", "3", "4", "5"])
    })))

  it.effect("an answer that comes in one piece breaks as well", () =>
    vector(Effect.gen(function*() {
      const whole = ScriptedProvider.answer("Hello.")
      const { exit, parts } = yield* read(FaultServer.truncate({ afterChunks: 1 }), whole)
      assert.deepStrictEqual(deltas(parts), ["Hello."])
      assert.deepInclude(failure(exit), { _tag: "StreamInterrupted", kind: "truncated", partialParts: 1 })
    })))
})

describe("headers that lie", () => {
  it.effect.each(kinds)(
    "%s: nothing left, with an answer: the target's own limits believe it",
    (kind) =>
      vector(Effect.gen(function*() {
        const headers = {
          "X-RateLimit-Remaining-Requests": "0",
          "x-ratelimit-reset-requests": "50s",
          "x-ratelimit-limit-requests": "100"
        }
        const inner = yield* ScriptedProvider.make([], { id: "p" })
        const provider = yield* Chaos.provider(inner, { script: [ok({ headers })] })
        const limits = {
          limits: [{ dimension: "requests", limit: 100, per: "1 minute" }],
          maxWait: "0 millis"
        } as const
        const layer = LlmClient.layerDynamic([{ id: "p", provider, limits }], { ...vectorOptions, retry: false })
        const client = Context.get(yield* Layer.build(layer), LlmClient)
        assert.strictEqual(success((yield* timed(ask(kind, client), 1)).exit).text, "A scripted answer.")
        assert.strictEqual(failure((yield* timed(ask(kind, client), 1)).exit)._tag, "RateLimited")
      }))
  )

  it.effect.each(kinds)(
    "%s: a Retry-After of a year is a hint that nobody waits for",
    (kind) =>
      vector(Effect.gen(function*() {
        const r = yield* disturbed({ script: [status(429, { headers: { "Retry-After": "31536000" } })] })
        const { at, exit } = yield* timed(ask(kind, r.client))
        assert.strictEqual(at, 0)
        assert.strictEqual(word(failure(exit)), "RateLimit")
        assert.isAbove(LlmError.retryAfterMillis(failure(exit))!, 86_400_000)
      }))
  )
})

describe("on the wire and in process", () => {
  const faults: Record<string, Chaos.Fault> = {
    ok: ok(),
    "503": status(503),
    "429 with a hint": status(429, { retryAfter: 7 }),
    "429 and 1.5 s": status(429, { retryAfterMs: 1500 }),
    "502 of an edge": status(502),
    "a body of one's own": status(400, { body: { error: { code: "context_length_exceeded", message: "" } } }),
    "a reset before the headers": FaultServer.resetBeforeHeaders(),
    "an empty body": FaultServer.emptyBody(),
    "keep-alives and nothing": FaultServer.keepAlives({ everyMillis: 5, forMillis: 12 }),
    ...Object.fromEntries([0, 1, 2, Infinity].flatMap((afterChunks) => [
      [`a reset after ${afterChunks}`, FaultServer.resetInBody({ afterChunks })],
      [`cut after ${afterChunks}`, FaultServer.truncate({ afterChunks })],
      [`an error after ${afterChunks}`, FaultServer.errorEvent({ afterChunks })],
      [`malformed after ${afterChunks}`, FaultServer.malformedJson({ afterChunks })],
      [`twice after ${afterChunks}`, FaultServer.duplicate({ afterChunks })]
    ])),
    ...Object.fromEntries(
      ([
        "RateLimit",
        "Quota",
        "Overloaded",
        "Server",
        "Timeout",
        "Conflict",
        "Authentication",
        "Permission",
        "NotFound",
        "ContextLength",
        "PayloadTooLarge",
        "ContentPolicy",
        "InvalidRequest",
        "ClientClosed",
        "Unknown"
      ] as const)
        .map((reason) => [reason, FaultServer.error(reason)])
    )
  }
  /** All of an outcome but ids, addresses and words. */
  const facts = (exit: Exit.Exit<ReadonlyArray<string>, LlmError.ProviderError>, read: ReadonlyArray<string>) => {
    if (Exit.isSuccess(exit)) return { read }
    const { code, reason, retryAfter, shouldRetry, status } = failure(exit)
    return { read, reason, status, retryAfter, shouldRetry, ...(reason._tag === "Network" ? {} : { code }) }
  }
  const asked = (kind: Kind, provider: LlmProvider.LlmProvider) =>
    Effect.gen(function*() {
      const read: Array<string> = []
      const exit = yield* Effect.exit(
        kind === "complete"
          ? Effect.map(provider.generate(question), (parts) => {
            for (const part of parts) if (part.type === "text") read.push(part.text)
            return read
          })
          : Effect.as(
            Stream.runForEach(provider.stream(question), (part) =>
              Effect.sync(() => {
                if (part.type === "text-delta") read.push(part.delta)
              })),
            read
          )
      )
      return facts(exit, read)
    })

  it.live.each(kinds)("%s: one fault is one failure, whoever plays it", (kind) =>
    Effect.gen(function*() {
      const server = yield* FaultServer.make({ otherwise: ok({ chunks: ["one", " two", " three"] }) })
      const live = OpenAi.layer({ apiKey: Redacted.make("key"), baseUrl: server.openai, defaultModel: "gpt" })
      const openai = Context.get(yield* Layer.build(live), OpenAi)
      for (const [name, fault] of Object.entries(faults)) {
        const isAnswer = "afterChunks" in fault || fault._tag === "Ok"
        yield* server.play({ ...fault, ...(isAnswer ? { chunks: ["one", " two", " three"] } : undefined) })
        const wire = yield* asked(kind, openai)
        const chaos = yield* asked(kind, yield* Chaos.provider(openai, { script: [fault] }))
        assert.deepStrictEqual(chaos, wire, name)
      }
    }).pipe(Effect.scoped, Effect.provide(NodeHttpClient.layerNodeHttp)))
})

describe("a wrapped provider", () => {
  it.effect("stays what it was: a script can be played to it, a pool looked at", () =>
    Effect.gen(function*() {
      const scripted = yield* Chaos.provider(yield* ScriptedProvider.make([], { id: "p" }), {})
      yield* scripted.play(ScriptedProvider.overloaded)
      assert.strictEqual((yield* Effect.flip(scripted.generate(question))).reason._tag, "Overloaded")
      assert.lengthOf(yield* scripted.requests, 1)
      const pool = yield* Chaos.provider(yield* LlmPool.make({ a: scripted, b: scripted }), {})
      assert.lengthOf(yield* pool.hosts, 2)
    }))

  it.effect("a pool hears of it as of a failure of its host", () =>
    vector(Effect.gen(function*() {
      const [a, b] = yield* Effect.all([ScriptedProvider.make([], { id: "v" }), ScriptedProvider.make([], { id: "v" })])
      const pool = yield* LlmPool.make({ a, b }, { consecutiveFailures: 1 })
      const provider = yield* Chaos.provider(pool, { script: [status(503)] })
      const client = yield* clientOver([provider])
      const { ledger } = success((yield* timed(ask("complete", client), 1000)).exit)
      assert.deepStrictEqual(ledger.flatMap((e) => e._tag === "AttemptStarted" ? [e.injected === true] : []), [
        true,
        false
      ])
      assert.deepStrictEqual((yield* pool.hosts).map(({ ejectedFor }) => ejectedFor !== undefined), [true, false])
      assert.deepStrictEqual([(yield* a.requests).length, (yield* b.requests).length], [0, 1])
    })))

  it.effect("one host of a pool: its attempts alone are disturbed, and marked", () =>
    vector(Effect.gen(function*() {
      const [a, b] = yield* Effect.all([ScriptedProvider.make([], { id: "v" }), ScriptedProvider.make([], { id: "v" })])
      const ill = yield* Chaos.provider(a, { rate: 1, faults: [overload] })
      const pool = yield* LlmPool.make({ ill, b }, { consecutiveFailures: 3 })
      const client = yield* clientOver([pool], { retry: { maxRetries: 1, baseDelay: 10 } })
      const outcomes: Array<readonly [string, boolean]> = []
      for (let i = 0; i < 6; i++) {
        const { ledger } = success((yield* timed(ask("complete", client), 1000)).exit)
        for (const event of ledger) {
          if (event._tag === "AttemptFailed" || event._tag === "AttemptSucceeded") {
            outcomes.push([event._tag, event.injected === true])
          }
        }
      }
      const failures = outcomes.filter(([tag]) => tag === "AttemptFailed")
      assert.deepStrictEqual(failures, Array.from({ length: 3 }, () => ["AttemptFailed", true] as const))
      assert.lengthOf(outcomes.filter(([tag, isInjected]) => tag === "AttemptSucceeded" && !isInjected), 6)
      assert.deepStrictEqual((yield* pool.hosts).map(({ ejectedFor }) => ejectedFor !== undefined), [true, false])
    })))

  it.effect("an interruption ends what it waits for", () =>
    vector(Effect.gen(function*() {
      const r = yield* disturbed({ rate: 1, faults: [{ fault: FaultServer.slowHeaders(5000) }] })
      const fiber = yield* Effect.forkChild(ask("complete", r.client), { startImmediately: true })
      yield* TestClock.adjust(100)
      fiber.interruptUnsafe()
      yield* TestClock.adjust(0)
      const exit = fiber.pollUnsafe()!
      assert.isTrue(Exit.isFailure(exit) && Cause.hasInterruptsOnly(exit.cause))
      yield* nothingHeld(r)
      assert.strictEqual(yield* (yield* CountingClock.CountingClock).pending, 0)
    })))
})

describe("what is refused", () => {
  const inner = ScriptedProvider.make([], { id: "p" })
  const complaint = (policy: unknown, options?: Chaos.Options) =>
    Effect.flatMap(inner, (provider) => Effect.flip(Chaos.provider(provider, policy as Chaos.Policy, options)))
  const given = (env: Record<string, string>) =>
    Effect.provideService(ConfigProvider.ConfigProvider, ConfigProvider.fromEnvRecord(env))

  it.effect.each(
    [
      [{ rate: 1.5 }, "chaos.rate", "a number from 0 to 1"],
      [{ rate: 0.5 }, "chaos.faults", "a list with at least one fault, where there is a rate"],
      [{ rat: 1 }, "chaos.rat", "one of rate, faults, script, seed"],
      [{ faults: [{ fault: status(503), weight: 0 }] }, "chaos.faults[0].weight", "a number above zero"],
      [{ script: [status(99)] }, "chaos.script[0].status", "a whole number from 200 to 599"],
      [
        { script: [FaultServer.slowHeaders(-1)] },
        "chaos.script[0].delayMillis",
        "a number of milliseconds that is not negative"
      ],
      [{ script: [ok({ text: "Made up." })] }, "chaos.script[0].text", undefined],
      [{ script: [FaultServer.raw({ body: "" })] }, "chaos.script[0]", "a fault of FaultServer that needs no wire"]
    ] as const
  )("%o", ([policy, path, rule]) =>
    Effect.gen(function*() {
      const error = yield* complaint(policy)
      assert.strictEqual(error.path, path)
      if (rule !== undefined) assert.strictEqual(error.rule, rule)
    }))

  it.effect("it starts in tests, and elsewhere when it is told so by name", () =>
    Effect.gen(function*() {
      for (const env of [{}, { NODE_ENV: "production" }, { NODE_ENV: "development" }]) {
        const error = yield* complaint({}).pipe(given(env))
        assert.deepInclude(error, { _tag: "LlmConfigError", path: "chaos", kind: "started outside of them" })
        const built = yield* Effect.exit(
          Layer.build(Chaos.layer(Vendor, {})).pipe(Effect.scoped, Effect.provide(Vendor.layer()), given(env))
        )
        assert.strictEqual(failure(built)._tag, "LlmConfigError")
        yield* Effect.flatMap(inner, (p) => Chaos.provider(p, {}, { allowOutsideTests: true })).pipe(given(env))
      }
      for (const env of [{ NODE_ENV: "test" }, { VITEST: "true" }, { NODE_TEST_CONTEXT: "child-v8" }]) {
        yield* Effect.flatMap(inner, (p) => Chaos.provider(p, {})).pipe(given(env))
      }
    }))
})

class Vendor extends ScriptedProvider.Service<Vendor>()("app/Vendor") {}
