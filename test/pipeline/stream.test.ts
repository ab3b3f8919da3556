// A stream after its first content part: what is kept of it, and for how long.
import { assert, describe, it } from "@effect/vitest"
import { Clock, Context, Effect, Exit, Fiber, Layer, Scope, Stream } from "effect"
import {
  LlmClient,
  type LlmConfig,
  LlmError,
  type LlmEvent,
  type LlmGuard,
  LlmProvider,
  LlmResponse
} from "effect-resilient-llm"
import { CountingClock, ScriptedProvider } from "effect-resilient-llm/testing"
import { TestClock } from "effect/testing"
import { find } from "../conformance/support.ts"
import { isCollected } from "../garbage.ts"
import { ask, failure, fork, nothingHeld, now, setUp, success, timed, vector } from "../support.ts"

const MiB = 1024 * 1024

const clientOf = (
  stream: () => Stream.Stream<LlmResponse.StreamPart, LlmError.ProviderError>,
  options: LlmConfig.Options = {}
) =>
  Effect.map(
    Layer.build(LlmClient.layerDynamic(
      [LlmProvider.make({ id: "p", generate: () => Effect.succeed("unused"), stream })],
      { retry: false, ...options }
    )),
    (context) => Context.get(context, LlmClient)
  )

const finish: LlmResponse.StreamPart = {
  type: "finish",
  reason: "stop",
  usage: { inputTokens: { total: 7 }, outputTokens: { total: 9 } }
}
const delta = (text: string): LlmResponse.StreamPart => ({ type: "text-delta", id: "0", delta: text })

/** As a provider without types would send it. */
const errorPart = (error: unknown) => ({ type: "error", error }) as LlmResponse.StreamPart
const providerError = (reason: LlmError.Reason) => new LlmError.ProviderError({ provider: "p", reason })
const truncated: LlmError.Reason = {
  _tag: "MalformedResponse",
  problem: "the stream ended before its terminal event"
}

describe("up to its first content", () => {
  const start: LlmResponse.StreamPart = { type: "text-start", id: "0" }
  const empty: Stream.Stream<LlmResponse.StreamPart> = Stream.empty

  it.effect.each<[string, LlmError.Reason, Stream.Stream<LlmResponse.StreamPart>]>([
    [
      "an error among the first parts",
      { _tag: "Overloaded" },
      Stream.make(errorPart(providerError({ _tag: "Overloaded" })))
    ],
    ["what is no error of a provider", { _tag: "Server" }, Stream.make(errorPart(new Error("broken")))],
    ["an end without its last part", truncated, empty]
  ])("%s is the failure of its attempt", ([, reason, end]) =>
    vector(Effect.gen(function*() {
      const client = yield* clientOf(() => Stream.concat(Stream.make(start), end))
      const error = yield* Effect.flip(client.open("Hi"))
      assert.deepInclude(error, { _tag: "ProviderError", reason })
    })))

  it.effect("64 parts without any content are a beginning, too", () =>
    vector(Effect.gen(function*() {
      const opened = (parts: number) =>
        Effect.gen(function*() {
          const beginning = Stream.rechunk(Stream.map(Stream.range(1, parts), () => start), 1)
          const client = yield* clientOf(() => Stream.concat(beginning, Stream.never), { timeout: false })
          const opening = yield* fork(client.open("Hi"))
          yield* TestClock.adjust(1000)
          const isOpen = opening.pollUnsafe() !== undefined
          yield* Fiber.interrupt(opening)
          return isOpen
        })
      assert.deepStrictEqual([yield* opened(63), yield* opened(64)], [false, true])
    })))
})

describe("kept parts", () => {
  it.effect("take at most 16 MiB a stream; the end of a longer one is still right, and it is not stored", () =>
    Effect.scoped(Effect.gen(function*() {
      // A megabyte of characters counts two bytes each.
      const parts = Stream.rechunk(
        Stream.concat(Stream.map(Stream.range(1, 12), () => delta("x".repeat(MiB))), Stream.make(finish)),
        1
      )
      const client = yield* clientOf(() => parts, { cache: {} })
      const opened = yield* client.open("Hi")
      const delivered = yield* Stream.runFold(
        opened.parts,
        () => 0,
        (sum, part) => sum + ("delta" in part ? part.delta.length : 0)
      )
      assert.strictEqual(delivered, 12 * MiB)
      const response = yield* opened.response
      assert.isTrue(response.cut)
      assert.isAtMost(response.text.length, 8 * MiB)
      assert.isAtLeast(response.text.length, 7 * MiB)
      assert.strictEqual(response.finishReason, "stop")
      assert.deepStrictEqual(response.usage, { inputTokens: { total: 7 }, outputTokens: { total: 9 } })
      assert.deepStrictEqual(find(response.ledger, "Cache").map(({ result }) => result), ["rejected"])
    })))

  it.effect("16 MiB to the byte are kept whole", () =>
    Effect.scoped(Effect.gen(function*() {
      // Of a character two bytes are counted, and of a part 64 characters beside its text.
      const isCut = (length: number) =>
        Effect.gen(function*() {
          const client = yield* clientOf(() => Stream.make(delta("a"), delta("x".repeat(length - 1 - 2 * 64)), finish))
          return (yield* (yield* client.open("Hi")).response).cut === true
        })
      assert.deepStrictEqual([yield* isCut(8 * MiB), yield* isCut(8 * MiB + 1)], [false, true])
    })))

  it.effect("many small parts after a large one are not kept either: what is kept is a beginning and the end", () =>
    Effect.scoped(Effect.gen(function*() {
      const texts = ["a", "b".repeat(9 * MiB), "c"]
      const client = yield* clientOf(() => Stream.rechunk(Stream.fromIterable([...texts.map(delta), finish]), 1))
      const { response } = yield* client.open("Hi")
      const { cut, finishReason, text } = yield* response
      assert.deepStrictEqual([cut, finishReason, text.length], [true, "stop", 1])
    })))
})

describe("an error that somebody keeps", () => {
  it.live.each(["cut", "error", "failure"] as const)(
    "does not hold its stream (%s)",
    (how) =>
      Effect.scoped(Effect.gen(function*() {
        let ref: WeakRef<object> | undefined
        const stream = () => {
          const big = { ...delta("x"), metadata: { vendor: { big: "x".repeat(1000) } } }
          ref = new WeakRef(big)
          const end = how === "cut"
            ? Stream.empty
            : how === "error"
            ? Stream.make<ReadonlyArray<LlmResponse.StreamPart>>({ type: "error", error: new Error("broken") } as never)
            : Stream.suspend(() =>
              Stream.fail(new LlmError.ProviderError({ provider: "p", reason: { _tag: "Server" } }))
            )
          return Stream.concat(Stream.make(delta("a"), big), end) as Stream.Stream<
            LlmResponse.StreamPart,
            LlmError.ProviderError
          >
        }
        const client = yield* clientOf(stream, { cache: false })
        const error = failure(yield* Effect.exit(Stream.runDrain(client.stream("Hi"))))
        assert.strictEqual(error._tag, "StreamInterrupted")
        assert.isDefined(ref)
        assert.isTrue(yield* isCollected(ref))
        assert.strictEqual(error._tag, "StreamInterrupted")
      }))
  )
})

describe("who reads", () => {
  const { answer, cut, stall, stream } = ScriptedProvider
  const wait = (millis: number) => ({ wait: millis })

  it.effect("asked for while the finish part is being handled, the response is there", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([[stream("a", "b")]], { bulkhead: {} })
      const opened = yield* r.client.open("Hi")
      let text = ""
      const handle = (part: LlmResponse.StreamPart) =>
        part.type === "finish" ? Effect.map(opened.response, (response) => void (text = response.text)) : Effect.void
      const { exit } = yield* timed(Stream.runForEach(opened.parts, handle), 1000)
      success(exit)
      assert.strictEqual(text, "ab")
      yield* nothingHeld(r)
    })))

  it.effect("a complete response waits for nobody who still looks at the parts, nor for the provider's cleanup", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([[{ ...ScriptedProvider.stream("a", wait(1), "b"), cleanup: 5000 }]])
      const { parts, response } = yield* r.client.open("Hi")
      const slow = yield* fork(Stream.runForEach(parts, (part) => part.type === "finish" ? Effect.never : Effect.void))
      yield* TestClock.adjust(10)
      assert.strictEqual((yield* timed(response, 0)).at, 0)
      yield* Fiber.interrupt(slow)
    })))

  it.effect.each([["with a key", "k"], ["without one", undefined]] as const)(
    "%s: a stream ends with its last part, however long the provider cleans up",
    ([, idempotencyKey]) =>
      vector(Effect.gen(function*() {
        const slow = { ...ScriptedProvider.stream("a", wait(10), "b"), cleanup: 5000 }
        const r = yield* setUp([[slow]], { timeout: { deadline: 200 } })
        const asked = yield* fork(timed(ask("stream", r.client, { prompt: "Hi", idempotencyKey })))
        yield* TestClock.adjust(1000)
        const { at, exit } = yield* Fiber.join(asked)
        assert.deepStrictEqual([at, success(exit).text], [10, "ab"])
        yield* TestClock.adjust(5000)
        yield* nothingHeld(r)
      }))
  )

  it.effect("a second consumer goes on in the middle of a chunk", () =>
    vector(Effect.gen(function*() {
      const chunk = ["a", "b", "c", "d"].map(delta)
      const client = yield* clientOf(() => Stream.concat(Stream.fromIterable(chunk), Stream.make(finish)))
      const { parts, response } = yield* client.open("Hi")
      const texts = (read: ReadonlyArray<LlmResponse.StreamPart>) =>
        read.map((part) => "delta" in part ? part.delta : "").join("")
      assert.strictEqual(texts(yield* Stream.runCollect(Stream.take(parts, 1))), "a")
      assert.strictEqual(texts(yield* Stream.runCollect(Stream.take(parts, 2))), "bc")
      assert.strictEqual(texts(yield* Stream.runCollect(parts)), "d")
      assert.strictEqual((yield* response).text, "abcd")
    })))

  it.effect("polling with short timeouts does not hide a silent stream", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([[stream("a", stall)]], { timeout: { idle: 1000 } })
      const { response } = yield* r.client.open("Hi")
      const begun = yield* now
      // Each poll gives up its pull after 300 ms.
      const poll = Effect.exit(Effect.timeout(response, 300))
      const polling = yield* fork(Effect.forEach([1, 2, 3, 4, 5], () => poll))
      yield* TestClock.adjust(5000)
      const exits = yield* Fiber.join(polling)
      assert.deepStrictEqual(exits.slice(0, 3).map((exit) => failure(exit)._tag), [
        "TimeoutError",
        "TimeoutError",
        "TimeoutError"
      ])
      assert.strictEqual(failure(exits[3]!)._tag, "StreamInterrupted")
      const [failed] = failure(exits[3]!) instanceof LlmError.StreamInterrupted
        ? find((failure(exits[3]!) as LlmError.StreamInterrupted).ledger, "AttemptFailed")
        : []
      assert.strictEqual(failed?.at, 1000)
      assert.strictEqual(begun, 0)
    })))

  it.effect("the deadline of an open stream holds while nobody reads, and is not the provider's failure", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([[stream("a", wait(10), "b")]], {
        timeout: {},
        bulkhead: { maxConcurrent: 1 },
        circuitBreaker: { failureThreshold: 1 }
      })
      const { parts } = yield* r.client.open({ prompt: "Hi", deadline: 200_000 })
      yield* TestClock.adjust(199_999)
      assert.strictEqual(yield* r.providers[0]!.active, 1)
      yield* TestClock.adjust(1)
      yield* nothingHeld(r)
      assert.strictEqual((yield* r.client.status).targets[0]?.circuit?.state, "closed")
      const error = yield* Effect.flip(Stream.runDrain(parts))
      assert.strictEqual(error._tag, "DeadlineExceeded")
    })))

  it.effect("who has not read for long, and then does, has its silence measured as ever", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([[stream("a", stall)]], { timeout: { idle: 1000 } })
      const { response } = yield* r.client.open("Hi")
      yield* TestClock.adjust(60_000)
      const { at, exit } = yield* timed(response, 2000)
      assert.strictEqual(failure(exit)._tag, "StreamInterrupted")
      assert.strictEqual(at, 1000)
    })))

  it.effect("who rests for long is woken once, and one timer serves all the parts that come while somebody reads", () =>
    vector(Effect.gen(function*() {
      const parts = Array.from({ length: 50 }, () => [wait(1), "x"]).flat()
      const r = yield* setUp([[stream("a", ...parts)]], { timeout: { idle: 1000 } })
      const clock = yield* CountingClock.CountingClock
      const { response } = yield* r.client.open({ prompt: "Hi", deadline: 1_000_000 })
      const begun = yield* clock.started
      // A silence that passes by itself is nobody's; after it only the deadline is waited for.
      yield* TestClock.adjust(60_000)
      assert.strictEqual((yield* clock.started) - begun, 1)
      success((yield* timed(response, 1000)).exit)
      assert.strictEqual((yield* clock.started) - begun, 2 + 50)
      yield* nothingHeld(r)
    })))

  it.effect("an open stream without a deadline, that nobody reads, waits for nothing", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([[stream("a", stall)]], { timeout: { idle: 1000, deadline: false } })
      yield* r.client.open("Hi")
      assert.strictEqual(yield* (yield* CountingClock.CountingClock).pending, 0)
    })))

  it.effect("its guards hear of it once a second, as parts come and are asked for", () =>
    vector(Effect.gen(function*() {
      const renewed: Array<number> = []
      const renewing: LlmGuard.Guard<never> = {
        name: "renewing",
        acquire: () => Effect.map(now, (at) => ({ renew: (now: number) => void renewed.push(now - begun - at) }))
      }
      const begun = Number(yield* Clock.monotonicTimeNanos) / 1e6
      const guarded: LlmConfig.Options & { readonly guards: unknown } = { guards: [renewing] }
      const waits = [400, 400, 200, 1500].flatMap((millis) => [wait(millis), "x"])
      const r = yield* setUp([[stream("a", ...waits)]], guarded)
      success((yield* timed(ask("stream", r.client))).exit)
      assert.deepStrictEqual(renewed, [0, 1000, 2500])
    })))

  it.effect("a broken stream tells the tokens that it was told", () =>
    vector(Effect.gen(function*() {
      const told: LlmResponse.StreamPart = {
        type: "response-metadata",
        metadata: LlmResponse.httpMetadata({ usage: { inputTokens: 12 } })
      }
      const r = yield* setUp([[stream(told, "a", cut)]])
      const error = yield* Effect.flip(Stream.runDrain(r.client.stream("Hi")))
      assert.deepStrictEqual((error as LlmError.StreamInterrupted).usage, { inputTokens: 12 })
      yield* r.providers[0]!.play(answer("next"))
    })))
})

describe("the deadline of an open stream", () => {
  const { cut, stall, stream } = ScriptedProvider
  const wait = (millis: number) => ({ wait: millis })
  const request = { prompt: "Hi", deadline: 200 } as const
  const isLast = (part: LlmResponse.StreamPart) => "delta" in part && part.delta === "last"

  it.effect.each<[had: number, LlmEvent.AttemptFailed["outcome"]]>([[100, "failure"], [99, "ignored"]])(
    "while nobody reads: %i ms of 200 were the provider's, which counts as %s",
    ([had, outcome]) =>
      vector(Effect.gen(function*() {
        const r = yield* setUp([[stream("a", wait(had), "last", "b")]], { timeout: {} })
        const { parts, response } = yield* r.client.open(request)
        const reading = yield* fork(Stream.runForEach(parts, (part) => isLast(part) ? Effect.never : Effect.void))
        yield* TestClock.adjust(300)
        yield* Fiber.interrupt(reading)
        const { ledger } = yield* Effect.flip(response)
        assert.deepInclude(find(ledger, "AttemptFailed")[0], { at: 200, outcome })
      }))
  )

  it.effect.each<[rest: number, LlmEvent.AttemptFailed["outcome"]]>([[100, "failure"], [101, "ignored"]])(
    "while somebody reads: all but %i ms of 200 were the provider's, which counts as %s",
    ([rest, outcome]) =>
      vector(Effect.gen(function*() {
        const r = yield* setUp([[stream("a", wait(50), "last", stall)]], { timeout: {} })
        const { parts } = yield* r.client.open(request)
        const reading = Stream.runForEach(parts, (part) => isLast(part) ? Effect.sleep(rest) : Effect.void)
        const { at, exit } = yield* timed(reading, 1000)
        const { ledger } = failure(exit)
        assert.deepInclude(find(ledger, "AttemptFailed")[0], { at: 200, outcome })
        assert.strictEqual(at, 200)
      }))
  )

  it.effect("holds also where no timer had its turn", () =>
    vector(Effect.gen(function*() {
      const clock = yield* Clock.Clock
      const late: Clock.Clock = Object.assign(Object.create(clock), { sleep: () => Effect.never })
      const r = yield* setUp([[stream("a", "b")]], { timeout: {} })
      const { parts } = yield* Effect.provideService(r.client.open(request), Clock.Clock, late)
      yield* TestClock.adjust(200)
      const texts: Array<string> = []
      const reading = Stream.runForEach(parts, (part) => Effect.sync(() => "delta" in part && texts.push(part.delta)))
      const error = yield* Effect.flip(Effect.provideService(reading, Clock.Clock, late))
      assert.deepStrictEqual([error._tag, texts], ["DeadlineExceeded", ["a"]])
    })))

  it.effect("is what it ends with, also where its provider has broken it before", () =>
    vector(Effect.gen(function*() {
      const chunk = [delta("last"), errorPart(new Error("broken"))]
      const client = yield* clientOf(() => Stream.concat(Stream.make(delta("a")), Stream.fromIterable(chunk)))
      const { parts } = yield* client.open(request)
      const reading = Stream.runForEach(parts, (part) => isLast(part) ? Effect.sleep(300) : Effect.void)
      assert.strictEqual(failure((yield* timed(reading, 1000)).exit)._tag, "DeadlineExceeded")
    })))

  it.effect("does not touch an answer that is whole, however long its last part is looked at", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([[stream("a", wait(10), "b")]], { timeout: {} })
      const { parts } = yield* r.client.open(request)
      const reading = Stream.runForEach(parts, (part) => part.type === "finish" ? Effect.sleep(300) : Effect.void)
      const { at, exit } = yield* timed(reading, 1000)
      success(exit)
      assert.strictEqual(at, 310)
    })))

  it.effect("while nobody reads: its key is free at once, and nothing is held", () =>
    vector(Effect.gen(function*() {
      const script = [stream("a", stall), ScriptedProvider.answer("again")]
      const r = yield* setUp([script], { timeout: {}, idempotency: {}, cache: {}, bulkhead: { maxConcurrent: 1 } })
      const keyed = { ...request, idempotencyKey: "k" }
      yield* r.client.open(keyed)
      yield* TestClock.adjust(200)
      yield* nothingHeld(r)
      assert.strictEqual((yield* ask("stream", r.client, keyed)).text, "again")
    })))

  it.effect.each([["its end", stream("a", "b")], ["a break", stream("a", cut)]] as const)(
    "after %s nothing is held, though another reader still has it open",
    ([, script]) =>
      vector(Effect.gen(function*() {
        const r = yield* setUp([[script]], { idempotency: {}, bulkhead: { maxConcurrent: 1 } })
        const keyed = { prompt: "Hi", idempotencyKey: "k" }
        const [one] = [yield* r.client.open(keyed), yield* r.client.open(keyed)]
        yield* Effect.exit(Stream.runDrain(one.parts))
        yield* nothingHeld(r)
      }))
  )
})

describe("a part that breaks an open stream", () => {
  it.effect.each<[string, unknown, LlmError.StreamInterrupted["kind"], LlmError.Reason | undefined]>([
    ["a reset", providerError({ _tag: "Network", sent: true }), "reset", { _tag: "Network", sent: true }],
    ["an end that came early", providerError(truncated), "truncated", undefined],
    ["what cannot be read", providerError({ ...truncated, problem: "?" }), "error", { ...truncated, problem: "?" }],
    ["a refusal", providerError({ _tag: "Overloaded" }), "error", { _tag: "Overloaded" }],
    ["no error of a provider", new Error("broken"), "error", { _tag: "Server" }]
  ])(
    "%s: what came before it is delivered, and nothing after it",
    ([, broken, kind, reason]) =>
      vector(Effect.gen(function*() {
        // Among others, and alone.
        const after = [errorPart(broken), delta("c")]
        for (const chunks of [[[delta("b"), ...after], [finish]], [[delta("b")], after]]) {
          const client = yield* clientOf(() => Stream.fromArrays([delta("a")], ...chunks))
          const read: Array<ReadonlyArray<string>> = []
          const reading = Stream.runForEachArray(
            client.stream("Hi"),
            (parts) => Effect.sync(() => read.push(parts.map((part) => "delta" in part ? part.delta : part.type)))
          )
          const error = yield* Effect.flip(reading)
          assert.deepStrictEqual(read, [["a"], ["b"]])
          assert.deepInclude(error, { _tag: "StreamInterrupted", kind, partialParts: 2 })
          assert.deepStrictEqual((error as LlmError.StreamInterrupted).reason, reason)
        }
      }))
  )
})

describe("a probe that streams", () => {
  // Fails at first; after its recovery it sends a part every `gap`, the first one at once.
  const recovering = (gap: number, parts: number) => {
    let asked = 0
    return () =>
      asked++ === 0
        ? Stream.fail(new LlmError.ProviderError({ provider: "p", reason: { _tag: "Overloaded" } }))
        : Stream.concat(
          Stream.make(delta("0")),
          Stream.concat(
            Stream.mapEffect(Stream.range(1, parts), (i) => Effect.delay(Effect.succeed(delta(`${i}`)), gap)),
            Stream.make(finish)
          )
        )
  }

  it.effect("P10 keeps its slot for as long as a silence may take, so a healthy slow stream closes the circuit", () =>
    Effect.scoped(Effect.gen(function*() {
      const client = yield* clientOf(recovering(170_000, 3), {
        circuitBreaker: { failureThreshold: 1, recoveryTimeout: "1 second" },
        timeout: { idle: "3 minutes", deadline: false }
      })
      yield* Effect.flip(Stream.runDrain(client.stream("Hi")))
      yield* TestClock.adjust("1 second")
      const probe = yield* fork(Stream.runDrain(client.stream("Hi")))
      for (let i = 0; i < 3; i++) {
        yield* TestClock.adjust("160 seconds")
        assert.deepInclude((yield* client.status).targets[0]?.circuit, { state: "half-open", probes: 1 })
        yield* TestClock.adjust("10 seconds")
      }
      yield* Fiber.join(probe)
      assert.strictEqual((yield* client.status).targets[0]?.circuit?.state, "closed")
    })))

  it.effect("P10 keeps its slot while what comes is no content, and when its reader takes its time", () =>
    Effect.scoped(Effect.gen(function*() {
      let asked = 0
      const start = (i: number): LlmResponse.StreamPart => ({ type: "text-start", id: `${i}` })
      const client = yield* clientOf(
        () =>
          asked++ === 0
            ? Stream.fail(new LlmError.ProviderError({ provider: "p", reason: { _tag: "Overloaded" } }))
            : Stream.concat(
              Stream.make(delta("0")),
              Stream.concat(
                Stream.mapEffect(Stream.range(1, 9), (i) => Effect.delay(Effect.succeed(start(i)), 20_000)),
                Stream.make(delta("1"), finish)
              )
            ),
        {
          circuitBreaker: { failureThreshold: 1, recoveryTimeout: "1 second" },
          timeout: { idle: false, deadline: false }
        }
      )
      yield* Effect.flip(Stream.runDrain(client.stream("Hi")))
      yield* TestClock.adjust("1 second")
      const probe = yield* fork(
        Stream.runForEach(
          client.stream("Hi"),
          (part) => part.type === "text-start" && part.id === "5" ? Effect.sleep("60 seconds") : Effect.void
        )
      )
      for (let at = 0; at < 240; at += 10) {
        assert.deepInclude((yield* client.status).targets[0]?.circuit, { state: "half-open", probes: 1 }, `${at} s`)
        yield* TestClock.adjust("10 seconds")
      }
      yield* TestClock.adjust("10 seconds")
      yield* Fiber.join(probe)
      assert.strictEqual((yield* client.status).targets[0]?.circuit?.state, "closed")
    })))
})

describe("an open stream", () => {
  it.effect("that broke stays as it is: whoever asks for more, or for the response, is told the same", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([[ScriptedProvider.stream("a", ScriptedProvider.cut)]])
      const { parts, response } = yield* r.client.open("Hi")
      const error = yield* Effect.flip(Stream.runDrain(parts))
      assert.strictEqual(error._tag, "StreamInterrupted")
      assert.strictEqual(yield* Effect.flip(Stream.runDrain(parts)), error)
      assert.strictEqual(yield* Effect.flip(response), error)
    })))

  it.effect("whose scope has closed gives neither more parts nor a response, and waits for nothing", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([[ScriptedProvider.stream("a", { wait: 10 }, "b")]])
      const { parts, response } = yield* Effect.scoped(r.client.open("Hi"))
      const texts: Array<string> = []
      const reading = Stream.runForEach(parts, (part) => Effect.sync(() => "delta" in part && texts.push(part.delta)))
      for (const asked of [reading, response]) {
        const { exit } = yield* timed(Effect.exit(asked), 0)
        assert.isTrue(Exit.hasInterrupts(success(exit)))
      }
      assert.deepStrictEqual(texts, ["a"])
      assert.deepStrictEqual(yield* r.providers[0]!.active, 0)
    })))

  it.effect("whose scope has closed has no response, also while a consumer stands in the middle", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([[ScriptedProvider.stream("a", { wait: 10 }, "b")]])
      const scope = yield* Scope.make()
      const { parts, response } = yield* Scope.provide(r.client.open("Hi"), scope)
      yield* yield* Stream.toPull(parts)
      yield* Scope.close(scope, Exit.void)
      const { exit } = yield* timed(Effect.exit(response), 0)
      assert.isTrue(Exit.hasInterrupts(success(exit)))
    })))

  it.effect("its response reads what an early consumer left", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([[ScriptedProvider.stream("a", "b", "c", "d")]])
      const { parts, response } = yield* r.client.open("Hi")
      const seen = yield* Stream.runCollect(Stream.take(parts, 2))
      assert.strictEqual(seen.length, 2)
      assert.strictEqual((yield* response).text, "abcd")
      yield* nothingHeld(r)
    })))

  it.effect("a response asked for while another fibre reads the parts waits for it", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([[ScriptedProvider.stream("a", { wait: 100 }, "b", { wait: 100 }, "c")]])
      const { parts, response } = yield* r.client.open("Hi")
      const both = yield* fork(Effect.all([Stream.runCollect(parts), response], { concurrency: 2 }))
      yield* TestClock.adjust(1000)
      const [seen, whole] = yield* Fiber.join(both)
      assert.strictEqual(whole.text, "abc")
      assert.strictEqual(seen.filter((part) => part.type === "text-delta").length, 3)
    })))

  it.effect("a defect of the provider ends it, and nothing is held", () =>
    vector(Effect.gen(function*() {
      const broken = { ...ScriptedProvider.stream("a", { error: undefined as never }) }
      const r = yield* setUp([[broken]], { bulkhead: {} })
      const exit = yield* Effect.exit(ask("stream", r.client))
      assert.strictEqual(exit._tag, "Failure")
      yield* nothingHeld(r)
    })))

  it.effect("interrupted while opening, inside a scope that lives on, it frees its key at once", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp(
        [[{ ...ScriptedProvider.answer("late"), delay: 10_000 }, ScriptedProvider.answer("now")]],
        {
          idempotency: {},
          timeout: {}
        }
      )
      const request = { prompt: "Hi", idempotencyKey: "k" }
      const first = yield* fork(r.client.open(request))
      yield* TestClock.adjust(100)
      yield* Fiber.interrupt(first)
      const begun = yield* now
      const { response } = yield* r.client.open(request)
      assert.strictEqual((yield* response).text, "now")
      assert.strictEqual(yield* now, begun)
    })))

  it.effect("what a provider opens is closed with its stream, whoever reads, also where no types have asked whose it is", () =>
    vector(Effect.gen(function*() {
      const log: Array<string> = []
      const resource = (name: string) =>
        Effect.acquireRelease(
          Effect.sync(() => log.push(`${name} opened`)),
          () => Effect.sync(() => log.push(`${name} closed`))
        )
      const parts = Stream.unwrap(Effect.as(
        resource("stream"),
        Stream.mapEffect(
          Stream.rechunk(Stream.make(delta("a"), delta("b"), finish), 1),
          (part) => Effect.as(resource("part"), part)
        )
      ))
      const client = yield* clientOf(() => parts as Stream.Stream<LlmResponse.StreamPart>, { idempotency: {} })
      yield* Effect.scoped(Effect.gen(function*() {
        const first = yield* client.open({ prompt: "Hi", idempotencyKey: "k" })
        yield* Stream.runDrain(Stream.take(first.parts, 1))
        yield* first.response
        const opened = ["stream opened", "part opened", "part opened", "part opened"]
        assert.deepStrictEqual(log, opened.concat("part closed", "part closed", "part closed", "stream closed"))
      }))
      assert.strictEqual(log.length, 8)
    })))

  it.effect.each([["with a key", "k"], ["without one", undefined]] as const)(
    "left while it is asked for more, it is asked no more before what it opened is closed (%s)",
    ([, idempotencyKey]) =>
      vector(Effect.gen(function*() {
        const log: Array<string> = []
        const note = (what: string) => Effect.sync(() => log.push(what))
        const never = Effect.onInterrupt(Effect.never, () => note("asked no more"))
        const parts = Stream.unwrap(Effect.as(
          Effect.acquireRelease(note("opened"), () => note("closed")),
          Stream.concat(Stream.make(delta("a")), Stream.fromEffect(never))
        ))
        const client = yield* clientOf(() => parts, { idempotency: {} })
        const reading = yield* fork(Stream.runDrain(client.stream({ prompt: "Hi", idempotencyKey })))
        yield* TestClock.adjust(10)
        yield* Fiber.interrupt(reading)
        assert.deepStrictEqual(log, ["opened", "asked no more", "closed"])
      }))
  )

  it.effect("a finished one leaves nothing in the scope it was opened in", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([{ always: ScriptedProvider.answer("x") }])
      const scope = yield* Effect.scope
      const size = () => scope.state._tag === "Open" ? scope.state.finalizers?.size ?? 1 : 0
      const before = size()
      for (let i = 0; i < 20; i++) yield* (yield* r.client.open("Hi")).response
      assert.strictEqual(size(), before)
    })))

  it.effect("partialParts counts the content that came with the error", () =>
    vector(Effect.gen(function*() {
      const error = new LlmError.ProviderError({ provider: "p", reason: { _tag: "Overloaded" } })
      const r = yield* setUp([[ScriptedProvider.stream("a", "b", { type: "error", error })]])
      const interrupted = failure((yield* timed(ask("stream", r.client))).exit)
      assert.strictEqual((interrupted as LlmError.StreamInterrupted).partialParts, 2)
    })))

  it.effect("the deadline also ends it under a slow consumer", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([[ScriptedProvider.stream(...Array.from({ length: 12 }, () => "x"))]], {
        timeout: { deadline: 1000 }
      })
      const slow = r.client.stream("Hi").pipe(Stream.tap(() => Effect.sleep(400)), Stream.runDrain)
      const { at, exit } = yield* timed(slow)
      assert.strictEqual(failure(exit)._tag, "DeadlineExceeded")
      assert.isAtMost(at, 1600)
    })))
})

it.effect("a stream of 100 000 parts and more is delivered whole; its response says that it was cut", () =>
  vector(Effect.gen(function*() {
    const deltas = Array.from({ length: 100_500 }, () => ({ type: "text-delta", id: "0", delta: "x" }) as const)
    const usage = { inputTokens: { total: 1 }, outputTokens: { total: 100_500 } }
    const provider = LlmProvider.make({
      id: "long",
      generate: () => Effect.succeed("unused"),
      stream: () =>
        Stream.concat(
          Stream.rechunk(Stream.fromIterable(deltas), 1000),
          Stream.make({ type: "finish", reason: "stop", usage } as const)
        )
    })
    const client = Context.get(yield* Layer.build(LlmClient.layerDynamic([provider])), LlmClient)
    const { parts, response } = yield* client.open("Hi")
    const count = yield* Stream.runFold(parts, () => 0, (n, part) => part.type === "text-delta" ? n + 1 : n)
    assert.strictEqual(count, 100_500)
    const whole = yield* response
    assert.strictEqual(whole.cut, true)
    assert.strictEqual(whole.text.length, 100_000)
    assert.strictEqual(whole.usage.outputTokens.total, 100_500)
    assert.isFalse(whole.ledger.some((event) => event._tag === "Cache" && event.result === "stored"))
  })))

it.effect("a ScriptedProvider.cut that nobody saw stays a failure: truncated before the commit is retried", () =>
  vector(Effect.gen(function*() {
    const r = yield* setUp([[
      ScriptedProvider.stream({ type: "text-start", id: "0" }, ScriptedProvider.cut),
      ScriptedProvider.answer("whole")
    ]])
    assert.strictEqual(success((yield* timed(ask("stream", r.client))).exit).text, "whole")
  })))

it.effect("a second reader that waits for the first one can leave", () =>
  vector(Effect.gen(function*() {
    const r = yield* setUp([[ScriptedProvider.stream("a", ScriptedProvider.stall)]])
    const { parts } = yield* r.client.open("Hi")
    const first = yield* fork(Stream.runDrain(parts))
    const second = yield* fork(Stream.runDrain(parts))
    yield* TestClock.adjust(10)
    const left = yield* fork(Fiber.interrupt(second))
    yield* TestClock.adjust(10)
    assert.isDefined(left.pollUnsafe(), "the second reader is gone")
    yield* Fiber.interrupt(first)
  })))

it.effect("the response can be asked for while the finish part is handled", () =>
  vector(Effect.gen(function*() {
    const r = yield* setUp([[ScriptedProvider.stream("a", "b")]])
    const { parts, response } = yield* r.client.open("Hi")
    const texts: Array<string> = []
    const reading = Stream.runForEach(parts, (part) =>
      part.type === "finish" ? Effect.map(response, ({ text }) => void texts.push(text)) : Effect.void)
    assert.strictEqual((yield* timed(reading)).exit._tag, "Success")
    assert.deepStrictEqual(texts, ["ab"])
  })))
