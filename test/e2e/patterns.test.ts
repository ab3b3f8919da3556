// Every pattern over real HTTP, for both kinds of call: OpenAI's wire as primary, Anthropic's as secondary.
import { NodeHttpClient } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber, Layer, Redacted, type Scope } from "effect"
import { LlmClient, type LlmConfig, type LlmError } from "effect-resilient-llm"
import { Anthropic } from "effect-resilient-llm/providers/Anthropic"
import { Cohere } from "effect-resilient-llm/providers/Cohere"
import { OpenAi } from "effect-resilient-llm/providers/OpenAi"
import { FaultServer } from "effect-resilient-llm/testing"
import { ask, kinds } from "../support.ts"

const apiKey = Redacted.make("sk-secret")

/** Everything off but what a test is about. */
const off = {
  retry: false,
  timeout: false,
  circuitBreaker: false,
  rateLimit: false,
  idempotency: false,
  cache: false,
  failover: false
} as const satisfies LlmConfig.Options

const setup = (options: LlmConfig.Options, targets: 1 | 2 = 1) =>
  Effect.gen(function*() {
    const primary = yield* FaultServer.make()
    const secondary = yield* FaultServer.make()
    const openai = yield* OpenAi.make({ apiKey, baseUrl: primary.openai })
    const anthropic = yield* Anthropic.make({ apiKey, baseUrl: secondary.anthropic })
    const context = yield* Layer.build(
      targets === 1
        ? LlmClient.layerDynamic([openai], { ...off, ...options })
        : LlmClient.layerDynamic([openai, anthropic], { ...off, ...options })
    )
    return { primary, secondary, client: yield* Effect.provide(LlmClient, context) }
  })

const received = (server: FaultServer.FaultServer) => Effect.map(server.stats, (stats) => stats.received)

/** Waits until the server has seen its clients go. */
const idle = (server: FaultServer.FaultServer): Effect.Effect<void> =>
  Effect.gen(function*() {
    for (let i = 0; i < 100 && (yield* server.stats).active > 0; i++) yield* Effect.sleep(10)
    assert.strictEqual((yield* server.stats).active, 0, "requests left open")
  })

const live = <A, E>(effect: Effect.Effect<A, E, Scope.Scope | Layer.Success<typeof NodeHttpClient.layerUndici>>) =>
  Effect.scoped(effect).pipe(Effect.provide(NodeHttpClient.layerUndici))

// They mostly wait, with servers of their own. What is cut, or opens again, is so after times that a machine which is busy with
// other tests does not stand still for.
describe.concurrent.each(kinds)("%s over HTTP", (kind) => {
  it.live("healthy", () =>
    live(Effect.gen(function*() {
      const { client, primary } = yield* setup({})
      yield* primary.play(FaultServer.ok({ text: "Artificial intelligence, in short." }))
      const response = yield* ask(kind, client)
      assert.strictEqual(response.text, "Artificial intelligence, in short.")
      assert.strictEqual(yield* received(primary), 1)
      yield* idle(primary)
    })))

  it.live("retry: 503, 503, answer; the budget pays", () =>
    live(Effect.gen(function*() {
      const { client, primary } = yield* setup({ retry: { baseDelay: 10 }, retryBudget: { capacity: 2 } })
      const unavailable = FaultServer.error("Overloaded")
      yield* primary.play(unavailable, unavailable, FaultServer.ok({ text: "At last." }))
      assert.strictEqual((yield* ask(kind, client)).text, "At last.")
      yield* primary.always(unavailable)
      const error = yield* Effect.flip(ask(kind, client))
      assert.strictEqual(error._tag, "ProviderError")
      assert.isTrue((error as LlmError.ProviderError).budgetExhausted)
      assert.strictEqual(yield* received(primary), 4)
    })))

  it.live("retry: Retry-After is respected", () =>
    live(Effect.gen(function*() {
      const { client, primary } = yield* setup({ retry: { baseDelay: 10 } })
      yield* primary.play(FaultServer.error("RateLimit", { retryAfterMs: 300 }), FaultServer.ok())
      const response = yield* ask(kind, client)
      const scheduled = response.ledger.find((event) => event._tag === "RetryScheduled")
      assert.isAtLeast(scheduled!.delay, 300)
      assert.strictEqual(scheduled!.delayedBy, "retry-after")
    })))

  it.live("failover: a dead primary, before the first token", () =>
    live(Effect.gen(function*() {
      const { client, primary, secondary } = yield* setup({ failover: {} }, 2)
      yield* primary.play(
        FaultServer.error("Overloaded"),
        FaultServer.resetBeforeHeaders(),
        FaultServer.truncate(),
        FaultServer.malformedJson(),
        FaultServer.emptyBody(),
        FaultServer.errorEvent({ afterChunks: 0 })
      )
      yield* secondary.always(FaultServer.ok({ text: "From the secondary." }))
      for (let i = 1; i <= 6; i++) {
        const response = yield* ask(kind, client)
        assert.strictEqual(response.text, "From the secondary.")
        assert.strictEqual(yield* received(primary), i)
      }
      yield* idle(primary)
    })))

  it.live("timeout: a hang is cut, the socket closed", () =>
    live(Effect.gen(function*() {
      const { client, primary } = yield* setup({ timeout: { attempt: 1000, firstToken: 1000 } })
      yield* primary.play(FaultServer.hang())
      const error = yield* Effect.flip(ask(kind, client))
      assert.strictEqual(error._tag, "AttemptTimeout")
      yield* idle(primary)
      assert.strictEqual((yield* primary.stats).aborted, 1)
    })))

  it.live("circuit breaker: opens, skips, probes, closes", () =>
    live(Effect.gen(function*() {
      const { client, primary } = yield* setup({ circuitBreaker: { failureThreshold: 2, recoveryTimeout: 1500 } })
      yield* primary.play(FaultServer.error("Server"), FaultServer.error("Server"))
      yield* Effect.flip(ask(kind, client))
      yield* Effect.flip(ask(kind, client))
      const open = yield* Effect.flip(ask(kind, client))
      assert.strictEqual(open._tag, "CircuitOpen")
      assert.strictEqual(yield* received(primary), 2)
      yield* Effect.sleep(1550)
      yield* ask(kind, client)
      const { targets: [status] } = yield* client.status
      assert.strictEqual(status?.circuit?.state, "closed")
    })))

  it.live("rate limit: the third call waits for its token", () =>
    live(Effect.gen(function*() {
      const { client } = yield* setup({ rateLimit: { capacity: 2, refillPerSecond: 5 } })
      const begun = performance.now()
      const responses = yield* Effect.all([1, 2, 3].map(() => ask(kind, client)), { concurrency: "unbounded" })
      const waits = responses.flatMap(({ ledger }) => ledger.filter((event) => event._tag === "Waited"))
      assert.strictEqual(waits.length, 1)
      // The token comes 200 ms after the first was taken, whenever the third call came to ask.
      assert.isAtLeast(performance.now() - begun, 195)
    })))

  it.live("bulkhead: never more than two in flight", () =>
    live(Effect.gen(function*() {
      const { client, primary } = yield* setup({ bulkhead: { maxConcurrent: 2 } })
      yield* primary.always(FaultServer.ok({ delayMillis: 30 }))
      yield* Effect.all(Array.from({ length: 8 }, () => ask(kind, client)), { concurrency: "unbounded" })
      assert.strictEqual((yield* primary.stats).maxActive, 2)
    })))

  it.live("idempotency: duplicates join, then replay", () =>
    live(Effect.gen(function*() {
      const { client, primary } = yield* setup({ idempotency: {} })
      yield* primary.always(FaultServer.ok({ delayMillis: 50, text: "Once." }))
      const request = { prompt: "Hi", idempotencyKey: "order-1" }
      const responses = yield* Effect.all(Array.from({ length: 10 }, () => ask(kind, client, request)), {
        concurrency: "unbounded"
      })
      assert.isTrue(responses.every(({ text }) => text === "Once."))
      assert.strictEqual((yield* ask(kind, client, request)).source, "replay")
      assert.strictEqual(yield* received(primary), 1)
    })))

  it.live("cache: stale instead of a failure", () =>
    live(Effect.gen(function*() {
      const { client, primary } = yield* setup({ cache: {} })
      yield* primary.play(FaultServer.ok({ text: "Yesterday's answer." }))
      yield* ask(kind, client)
      yield* primary.always(FaultServer.error("Server"))
      const response = yield* ask(kind, client)
      assert.strictEqual(response.source, "stale")
      assert.strictEqual(response.text, "Yesterday's answer.")
    })))

  it.live("interruption closes the socket and is not the provider's failure", () =>
    live(Effect.gen(function*() {
      const { client, primary } = yield* setup({ circuitBreaker: { failureThreshold: 1 }, timeout: {} })
      yield* primary.play(FaultServer.hang())
      const fiber = yield* Effect.forkChild(ask(kind, client), { startImmediately: true })
      while ((yield* primary.stats).active === 0) yield* Effect.sleep(5)
      yield* Fiber.interrupt(fiber)
      yield* idle(primary)
      const { targets: [status] } = yield* client.status
      assert.strictEqual(status?.circuit?.state, "closed")
    })))
})

describe.concurrent("a stream after its first token, over HTTP", () => {
  const rows: ReadonlyArray<readonly [string, FaultServer.Fault, string]> = [
    ["cut without its end", FaultServer.truncate({ afterChunks: 3 }), "truncated"],
    ["reset", FaultServer.resetInBody({ afterChunks: 3 }), "reset"],
    ["an error event", FaultServer.errorEvent({ afterChunks: 3 }), "error"],
    ["silence", FaultServer.stall({ afterChunks: 3 }), "idle"]
  ]
  it.live.each(rows)("%s", ([, fault, kind]) =>
    live(Effect.gen(function*() {
      const { client, primary } = yield* setup({ retry: {}, failover: {}, timeout: { idle: 1000 } }, 2)
      yield* primary.play(fault)
      const error = yield* Effect.flip(ask("stream", client))
      assert.strictEqual(error._tag, "StreamInterrupted")
      const interrupted = error as LlmError.StreamInterrupted
      assert.strictEqual(interrupted.kind, kind)
      assert.isAbove(interrupted.partialParts, 0)
      assert.strictEqual(yield* received(primary), 1)
      yield* idle(primary)
    })))
})

describe("three wires", () => {
  it.live("the same answer through OpenAI, Anthropic and Cohere, whole and streamed", () =>
    live(Effect.gen(function*() {
      const server = yield* FaultServer.make({ reply: () => "The same." })
      const providers = [
        yield* OpenAi.make({ apiKey, baseUrl: server.openai }),
        yield* Anthropic.make({ apiKey, baseUrl: server.anthropic }),
        yield* Cohere.make({ apiKey, baseUrl: server.cohere })
      ]
      for (const provider of providers) {
        const context = yield* Layer.build(LlmClient.layerDynamic([provider]))
        const client = yield* Effect.provide(LlmClient, context)
        for (const kind of kinds) assert.strictEqual((yield* ask(kind, client)).text, "The same.")
      }
    })))
})
