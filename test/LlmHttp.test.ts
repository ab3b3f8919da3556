import { assert, describe, it } from "@effect/vitest"
import { Duration, Effect, Fiber, Layer, Redacted, Stream } from "effect"
import { LlmClient, LlmError, LlmHttp, type LlmResponse } from "effect-resilient-llm"
import { OpenAi } from "effect-resilient-llm/providers"
import { FaultServer, ScriptedProvider } from "effect-resilient-llm/testing"
import { FetchHttpClient, HttpServerResponse } from "effect/http"
import { TestClock } from "effect/testing"

const provider = (reason: LlmError.Reason["_tag"], more: object = {}) =>
  new LlmError.ProviderError({
    provider: "p",
    reason: reason === "Network"
      ? { _tag: reason, sent: false }
      : reason === "MalformedResponse"
      ? { _tag: reason, problem: "x" }
      : { _tag: reason },
    ...more
  })

describe("status", () => {
  const millis = (n: number) => Duration.millis(n)
  const cases: ReadonlyArray<readonly [unknown, number, string?]> = [
    [new LlmError.InvalidRequest({ path: "p", rule: "r", kind: "k" }), 400],
    [new LlmError.IdempotencyConflict({ keyHash: "h" }), 409],
    [new LlmError.IdempotencyInProgress({ retryAfter: millis(1500) }), 409, "2"],
    [new LlmError.RateLimited({ dimension: "d", retryAfter: millis(1) }), 429, "1"],
    [new LlmError.BulkheadFull({}), 503],
    [new LlmError.CircuitOpen({ key: "k", state: "open", retryAfter: millis(30_000) }), 503, "30"],
    [new LlmError.AllProvidersUnavailable({}), 503],
    [new LlmError.Shed({ reason: "throttled" }), 503],
    [new LlmError.InvalidOutput({ path: "p", rule: "r", kind: "k", target: "t", repairs: 1 }), 502],
    [
      new Error("of a promise", { cause: new LlmError.RateLimited({ dimension: "d", retryAfter: millis(1) }) }),
      429,
      "1"
    ],
    [new LlmError.AttemptTimeout({ kind: "attempt", after: millis(1) }), 504],
    [new LlmError.DeadlineExceeded({ after: millis(1) }), 504],
    [new LlmError.StreamInterrupted({ provider: "p", kind: "idle", partialParts: 1 }), 502],
    [provider("RateLimit", { retryAfter: millis(2000) }), 429, "2"],
    [provider("Quota"), 503],
    [provider("Overloaded"), 503],
    [provider("Server"), 502],
    [provider("Network"), 502],
    [provider("MalformedResponse"), 502],
    [provider("Authentication"), 502],
    [provider("NotFound"), 502],
    [provider("Timeout"), 504],
    [provider("ContextLength"), 400],
    [provider("ContentPolicy"), 400],
    [provider("InvalidRequest"), 400],
    [provider("PayloadTooLarge"), 413],
    [provider("ClientClosed"), 499],
    [
      new LlmError.AllProvidersFailed({
        targets: ["a", "b"],
        errors: [
          provider("RateLimit", { retryAfter: millis(9000) }),
          provider("RateLimit", { retryAfter: millis(3000) })
        ]
      }),
      429,
      "3"
    ],
    [
      new LlmError.AllProvidersFailed({ targets: ["a", "b"], errors: [provider("Server"), provider("Overloaded")] }),
      502
    ],
    [new Error("a bug"), 500],
    ["nonsense", 500]
  ]
  for (const [error, status, after] of cases) {
    const name = error instanceof LlmError.ProviderError
      ? error.reason._tag
      : (error as { _tag?: string })._tag ?? error
    it(`${String(name)} is ${status}`, () => {
      assert.deepStrictEqual(LlmHttp.status(error), {
        status,
        headers: after === undefined ? {} : { "retry-after": after }
      })
    })
  }

  it("a failure as a response says tag and message, of strangers neither", async () => {
    const ours = LlmHttp.failure(new LlmError.AllProvidersUnavailable({ retryAfter: Duration.seconds(7) }))
    assert.deepStrictEqual([ours.status, ours.headers.get("retry-after")], [503, "7"])
    assert.deepStrictEqual(await ours.json(), {
      error: { tag: "AllProvidersUnavailable", message: "All providers are unavailable. Try again in 7s." }
    })
    const unread = LlmError.ProviderError.fromHttp({
      provider: "openai",
      status: 400,
      body: `{"error":{"message":"no"}}`
    })
    // Where the vendor's own words are is nothing for who is served.
    assert.deepStrictEqual(await LlmHttp.failure(unread).json(), {
      error: { tag: "ProviderError", message: "openai cannot read the request (HTTP 400)." }
    })
    assert.notInclude(await LlmHttp.failure(new Error("password=hunter2")).text(), "hunter2")
  })
})

const delta = (text: string): LlmResponse.StreamPart => ({ type: "text-delta", id: "0", delta: text })
const text = <E, R>(stream: Stream.Stream<Uint8Array, E, R>) => Stream.mkString(Stream.decodeText(stream))

describe("toSse", () => {
  it.live("tells nobody how much of an account's limits is left", () =>
    Effect.gen(function*() {
      const server = yield* FaultServer.make({ reply: () => "Hi" })
      const client = yield* Effect.provide(
        LlmClient.make([OpenAi]),
        OpenAi.layer({ apiKey: Redacted.make("k"), baseUrl: server.openai })
      )
      const parts = client.stream("Hi")
      const told = yield* Stream.runCollect(parts)
      assert.include(JSON.stringify(told), "rateLimits")
      const sent = yield* text(LlmHttp.toSse(client.stream("Hi again")))
      assert.notInclude(sent, "rateLimits")
      assert.include(sent, "requestId")
      assert.include(sent, "\"delta\":\"Hi\"")
    }).pipe(Effect.provide(FetchHttpClient.layer)))

  it.effect("line breaks in a text stay inside its event", () =>
    Effect.gen(function*() {
      const sent = yield* text(LlmHttp.toSse(Stream.make(delta("a\n\nb\r\ndata: x"), delta("…"))))
      const events = sent.trim().split("\n\n").map((event) => JSON.parse(event.replace(/^data: /, "")))
      assert.deepStrictEqual(events, [delta("a\n\nb\r\ndata: x"), delta("…")])
    }))

  it.effect("a break is an event, and the end", () =>
    Effect.gen(function*() {
      const error = new LlmError.StreamInterrupted({ provider: "openai", kind: "reset", partialParts: 1 })
      const sent = yield* text(LlmHttp.toSse(Stream.concat(Stream.make(delta("a")), Stream.fail(error))))
      const last = sent.trim().split("\n\n").at(-1)!.split("\n")
      assert.strictEqual(last[0], "event: error")
      assert.deepStrictEqual(JSON.parse(last[1]!.slice("data: ".length)), {
        tag: "StreamInterrupted",
        message: error.message,
        status: 502
      })
    }))

  it.effect("silence is filled with comments, and ends with the stream", () =>
    Effect.gen(function*() {
      const slow = Stream.make(delta("a")).pipe(
        Stream.concat(Stream.fromEffect(Effect.delay(Effect.succeed(delta("b")), "35 seconds")))
      )
      const sent = yield* Effect.forkChild(text(LlmHttp.toSse(slow)))
      for (let i = 0; i < 40; i++) yield* TestClock.adjust("1 second")
      const lines = (yield* Fiber.join(sent)).split("\n").filter((line) => line !== "")
      assert.deepStrictEqual(lines.map((line) => line[0]), ["d", ":", ":", "d"])
      const quiet = yield* Effect.forkChild(text(LlmHttp.toSse(slow, { keepAlive: false })))
      yield* TestClock.adjust("1 minute")
      assert.notInclude(yield* Fiber.join(quiet), ":\n")
    }))
})

class Vendor extends ScriptedProvider.Service<Vendor>()("app/Vendor") {}

describe("toResponse", () => {
  const live = (...steps: ReadonlyArray<ScriptedProvider.Step>) =>
    Layer.provideMerge(LlmClient.layer([Vendor], { retry: false, cache: false }), Vendor.layer(steps))
  const active = Effect.flatMap(Vendor, (vendor) => vendor.active)
  const settle = (fact: Effect.Effect<boolean, never, Vendor>) =>
    Effect.gen(function*() {
      for (let i = 0; i < 200 && !(yield* fact); i++) yield* Effect.sleep("5 millis")
      assert.isTrue(yield* fact)
    })

  it.live("holds the stream as long as its body, and not longer", () =>
    Effect.gen(function*() {
      const client = yield* LlmClient
      // The handler has returned; only the body is left.
      const response = yield* LlmHttp.toResponse(client.stream("Hi"))
      assert.strictEqual(response.headers.get("content-type"), "text/event-stream")
      assert.strictEqual(yield* active, 1)
      const body = yield* Effect.promise(() => response.text())
      assert.include(body, "\"delta\":\"One \"")
      assert.include(body, "\"type\":\"finish\"")
      yield* settle(Effect.map(active, (n) => n === 0))
    }).pipe(Effect.provide(live(ScriptedProvider.stream("One ", { wait: "20 millis" }, "two.")))))

  it.live("a client that leaves ends the call", () =>
    Effect.gen(function*() {
      const client = yield* LlmClient
      const response = yield* LlmHttp.toResponse(client.stream("Hi"), { as: "text" })
      const reader = response.body!.getReader()
      const first = yield* Effect.promise(() => reader.read())
      assert.strictEqual(new TextDecoder().decode(first.value), "One ")
      yield* Effect.promise(() => reader.cancel())
      yield* settle(Effect.map(active, (n) => n === 0))
    }).pipe(Effect.provide(live(ScriptedProvider.stream("One ", ScriptedProvider.stall)))))

  it.live("a call that fails before its first part fails here, and a handler that is interrupted holds nothing", () =>
    Effect.gen(function*() {
      const client = yield* LlmClient
      const error = yield* Effect.flip(LlmHttp.toResponse(client.stream("Hi")))
      assert.strictEqual(LlmHttp.status(error).status, 503)
      const waiting = yield* Effect.forkChild(LlmHttp.toResponse(client.stream("Hi")))
      yield* settle(Effect.map(active, (n) => n === 1))
      yield* Fiber.interrupt(waiting)
      yield* settle(Effect.map(active, (n) => n === 0))
    }).pipe(Effect.provide(live(ScriptedProvider.overloaded, ScriptedProvider.hang))))

  it.live("is a response of effect/http too", () =>
    Effect.gen(function*() {
      const client = yield* LlmClient
      const response = yield* LlmHttp.toResponse(client.stream("Hi"), { as: "text", headers: { "x-mine": "1" } })
      const web = HttpServerResponse.toWeb(HttpServerResponse.fromWeb(response))
      assert.deepStrictEqual([web.status, web.headers.get("x-mine")], [200, "1"])
      assert.strictEqual(yield* Effect.promise(() => web.text()), "One two.")
    }).pipe(Effect.provide(live(ScriptedProvider.stream("One ", "two.")))))
})
