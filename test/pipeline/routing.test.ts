// Which target is asked first, and which not at all, in the whole pipeline.
import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Layer, Random, Redacted, Stream } from "effect"
import { LlmClient, type LlmConfig, type LlmError, type LlmEvent, type LlmRequest } from "effect-resilient-llm"
import { Anthropic, OpenAi } from "effect-resilient-llm/providers"
import { Routing } from "effect-resilient-llm/resilience"
import { FaultServer, ScriptedProvider } from "effect-resilient-llm/testing"
import { FetchHttpClient } from "effect/http"
import { TestClock } from "effect/testing"
import type { Call } from "../../src/pipeline/call.ts"
import { Router } from "../../src/pipeline/routing.ts"
import { ask, failure, kinds, nothingHeld, type Script, setUp, success, timed, vector } from "../support.ts"

const says = (text: string, delay = 0): Script => ({ always: ScriptedProvider.answer(text, { delay }) })
const down: Script = { always: ScriptedProvider.fail({ _tag: "Overloaded" }) }
const three = [says("p"), says("s"), says("t")] as const

const only = <T extends LlmEvent.LlmEvent["_tag"]>(ledger: LlmEvent.Ledger | undefined, tag: T) =>
  (ledger ?? []).filter((event): event is Extract<LlmEvent.LlmEvent, { readonly _tag: T }> => event._tag === tag)

const skips = (ledger: LlmEvent.Ledger | undefined) =>
  only(ledger, "TargetSkipped").map(({ because, field, target }) => [target, because, field])

const seeded = <A, E, R>(effect: Effect.Effect<A, E, R>) => Random.withSeed(effect, "routing")

describe.each(kinds)("routing: %s", (kind) => {
  it.effect("off: as the targets are listed, and nobody speaks of it", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp(three)
      const { ledger, target } = yield* ask(kind, r.client)
      assert.deepStrictEqual([target, only(ledger, "Routed")], ["p", []])
    })))

  it.effect("weights: by chance, in proportion; weight zero is for bad times only", () =>
    vector(seeded(Effect.gen(function*() {
      const weights = [{ weight: 3 }, { weight: 1 }, { weight: 0 }]
      const r = yield* setUp(three, { routing: { strategy: "weights" } }, weights)
      const counts: Record<string, number> = {}
      for (let i = 0; i < 400; i++) {
        const { ledger, target } = yield* ask(kind, r.client)
        counts[target] = (counts[target] ?? 0) + 1
        assert.deepInclude(only(ledger, "Routed")[0], { by: "weights", target })
      }
      assert.approximately(counts["p"]!, 300, 30)
      assert.strictEqual(counts["t"], undefined)
      const sick = yield* setUp([down, down, says("t")], { retry: false, routing: { strategy: "weights" } }, weights)
      assert.strictEqual((yield* ask(kind, sick.client)).target, "t")
    }))))

  it.effect("sticky: a conversation stays where it is, and moves only while its target is ill", () =>
    vector(seeded(Effect.gen(function*() {
      const sick: Script = { script: [], always: ScriptedProvider.answer("p") }
      const r = yield* setUp([sick, says("s"), says("t")], { routing: { strategy: "weights", sticky: "conversation" } })
      const first = new Map<string, string>()
      for (let round = 0; round < 3; round++) {
        for (let i = 0; i < 30; i++) {
          const conversation = `c${i}`
          const { ledger, target } = yield* ask(kind, r.client, { prompt: `${round} ${i}`, conversation })
          assert.strictEqual(target, first.get(conversation) ?? target)
          first.set(conversation, target)
          assert.deepInclude(only(ledger, "Routed")[0], { by: "sticky", target })
        }
      }
      assert.deepStrictEqual(new Set(first.values()), new Set(["p", "s", "t"]))
      // Another tenant's conversation of the same name is another one; a call without one follows the strategy.
      const others = yield* Effect.forEach(
        Array.from({ length: 30 }),
        (_, i) => ask(kind, r.client, { prompt: "Hi", tenant: "other", conversation: `c${i}` })
      )
      assert.isTrue(others.some(({ target }, i) => target !== first.get(`c${i}`)))
      assert.deepInclude(only((yield* ask(kind, r.client)).ledger, "Routed")[0], { by: "weights" })
    }))))

  it.effect("a request's own targets: these only, in this order; of other names there is a complaint", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([says("p"), down, says("t")], { retry: false })
      const { ledger, target } = yield* ask(kind, r.client, { prompt: "Hi", targets: ["s", "t"] })
      assert.strictEqual(target, "t")
      assert.deepInclude(only(ledger, "Routed")[0], { by: "request", target: "s" })
      assert.deepInclude(only(ledger, "FailedOver")[0], { from: "s", to: "t" })
      // The only one is never skipped: its own failure is the answer.
      const alone = failure((yield* timed(ask(kind, r.client, { prompt: "Hi", targets: ["s"] }))).exit)
      assert.strictEqual(alone._tag, "ProviderError")
      const unknown = failure((yield* timed(ask(kind, r.client, { prompt: "Hi", targets: ["p", "x"] }))).exit)
      assert.deepInclude(unknown, { _tag: "InvalidRequest", path: "targets[1]", rule: "one of p, s, t", kind: "given" })
      assert.deepStrictEqual(yield* r.calls(0), [])
    })))

  it.effect("a request's own retries", () =>
    vector(Effect.gen(function*() {
      const of = (retry: LlmRequest.LlmRequest["retry"], options: LlmConfig.Options = {}) =>
        Effect.gen(function*() {
          const r = yield* setUp([down], options)
          const { exit } = yield* timed(ask(kind, r.client, { prompt: "Hi", ...(retry !== undefined && { retry }) }))
          return [failure(exit)._tag, (yield* r.calls(0)).length]
        })
      assert.deepStrictEqual(yield* of(undefined), ["ProviderError", 3])
      assert.deepStrictEqual(yield* of(false), ["ProviderError", 1])
      assert.deepStrictEqual(yield* of({ maxRetries: 0 }), ["ProviderError", 1])
      assert.deepStrictEqual(yield* of({ maxRetries: 4 }), ["ProviderError", 5])
      assert.deepStrictEqual(yield* of(false, { retry: false }), ["ProviderError", 1])
      // Nobody would keep it.
      assert.deepStrictEqual(yield* of({ maxRetries: 1 }, { retry: false }), ["InvalidRequest", 0])
    })))

  it.effect("without failover the first of the route is the only one", () =>
    vector(Effect.gen(function*() {
      for (const hedge of [false, { delay: 1000 }] as const) {
        const r = yield* setUp([says("p"), down], { retry: false, failover: false, hedge })
        const { exit } = yield* timed(ask(kind, r.client, { prompt: "Hi", targets: ["s", "p"] }))
        assert.strictEqual(failure(exit)._tag, "ProviderError")
        assert.deepStrictEqual(yield* r.calls(0), [])
        yield* nothingHeld(r)
      }
    })))

  it.effect("a hedge takes the next target of the route", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([says("p"), says("s", 9000), says("t", 9000)], { hedge: { delay: 1000 } })
      const { at, exit } = yield* timed(ask(kind, r.client, { prompt: "Hi", targets: ["t", "p", "s"] }))
      assert.deepStrictEqual([at, success(exit).target], [1000, "p"])
    })))
})

describe("fastest", () => {
  it.effect("by the time to first content of streams; who was never measured comes behind; a share explores", () =>
    vector(seeded(Effect.gen(function*() {
      const r = yield* setUp([says("p", 800), says("s", 200), says("t", 400)], { routing: { strategy: "fastest" } })
      const targets: Array<string> = []
      for (let i = 0; i < 400; i++) {
        const { exit } = yield* timed(ask("stream", r.client), 1000)
        targets.push(success(exit).target)
      }
      assert.strictEqual(targets[0], "p")
      const late = targets.slice(-200)
      const share = (target: string) => late.filter((one) => one === target).length / late.length
      assert.isAbove(share("s"), 0.9)
      assert.isAbove(share("p") + share("t"), 0.01)
      // Whole answers go where streams begin early, and explore nothing.
      for (let i = 0; i < 100; i++) {
        assert.strictEqual(success((yield* timed(ask("complete", r.client), 1000)).exit).target, "s")
      }
    }))))

  it.effect("it only reorders: an open circuit is skipped, and the next one is asked", () =>
    vector(Effect.gen(function*() {
      const fast: Script = {
        script: [ScriptedProvider.answer("s")],
        always: ScriptedProvider.fail({ _tag: "Overloaded" })
      }
      const r = yield* setUp([says("p", 500), fast], {
        retry: false,
        circuitBreaker: { failureThreshold: 1 },
        routing: { strategy: "fastest", explore: 0 }
      })
      yield* Stream.runDrain(r.client.stream({ prompt: "Hi", targets: ["s"] }))
      const failed = success((yield* timed(ask("stream", r.client), 1000)).exit)
      assert.deepStrictEqual([failed.target, only(failed.ledger, "Routed")[0]?.target], ["p", "s"])
      const open = success((yield* timed(ask("stream", r.client), 1000)).exit)
      assert.deepStrictEqual([open.target, skips(open.ledger)], ["p", [["s", "circuit-open", undefined]]])
    })))
})

describe.each(kinds)("what a target cannot do is not asked of it: %s", (kind) => {
  const tool = { name: "pay", parameters: { type: "object", properties: {} } }
  const schema = { type: "json", schema: { type: "object", properties: {} } } as const
  const image = [{
    role: "user",
    content: [{ type: "file", mediaType: "image/png", data: "iVBORw0KGgo=" }]
  }] as const satisfies LlmRequest.Input["prompt"]
  const long = "word ".repeat(400)
  type Target = NonNullable<Parameters<typeof LlmClient.target>[1]>
  const rows: ReadonlyArray<
    readonly [string, Target, LlmRequest.Input, Target | undefined, ReadonlyArray<unknown>]
  > = [
    ["tools", { supports: { tools: false } }, { prompt: "Hi", tools: [tool] }, undefined, ["unsupported", "tools"]],
    [
      "schema",
      { supports: { schema: false } },
      { prompt: "Hi", responseFormat: schema },
      undefined,
      ["unsupported", "responseFormat"]
    ],
    ["vision", { supports: { vision: false } }, { prompt: image }, undefined, ["unsupported", "prompt"]],
    ["context", { contextWindow: 490 }, { prompt: long }, { contextWindow: 510 }, ["context-too-small", undefined]],
    [
      "context with the answer",
      { contextWindow: 1490 },
      { prompt: long, maxTokens: 1000 },
      { contextWindow: 1510 },
      ["context-too-small", undefined]
    ]
  ]
  it.effect.each(rows)("%s", ([, cannot, input, can = {}, reason]) =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([says("p"), says("s")], {}, [cannot, can])
      const { ledger, target } = yield* ask(kind, r.client, input)
      assert.deepStrictEqual([target, skips(ledger)], ["s", [["p", ...reason]]])
      assert.deepStrictEqual(yield* r.calls(0), [])
      // What asks for nothing of the kind is asked as ever.
      assert.strictEqual((yield* ask(kind, r.client, "Hi")).target, "p")
      // Where nobody can, the first one says so itself.
      const nobody = yield* setUp([says("p"), says("s")], {}, [cannot, cannot])
      assert.strictEqual((yield* ask(kind, nobody.client, input)).target, "p")
    })))
})

it.effect("a conversation is no part of the question, targets are", () =>
  vector(Effect.gen(function*() {
    const r = yield* setUp([says("p"), says("s")], { cache: { readThrough: true } })
    const input = { prompt: "Hi", temperature: 0 }
    yield* ask("complete", r.client, { ...input, conversation: "a" })
    assert.strictEqual((yield* ask("complete", r.client, { ...input, conversation: "b" })).source, "cache")
    const other = yield* ask("complete", r.client, { ...input, targets: ["s"] })
    assert.deepStrictEqual([other.source, other.target], ["provider", "s"])
  })))

it.effect("weights that say nothing, and a list of targets that is none", () =>
  Effect.gen(function*() {
    const one = yield* ScriptedProvider.make([], { id: "one" })
    const build = (weight: number) =>
      Effect.scoped(Effect.flip(Layer.build(LlmClient.layerDynamic([{ provider: one, weight }]))))
    assert.deepInclude(yield* build(0), { _tag: "LlmConfigError", path: "targets" })
    assert.deepInclude(yield* build(-1), { _tag: "LlmConfigError", path: "targets[0].weight" })
    yield* TestClock.adjust(0)
    yield* Effect.scoped(Effect.gen(function*() {
      const r = yield* setUp([says("p")])
      for (const targets of [[], ["p", "p"]]) {
        const error: LlmError.LlmError = yield* Effect.flip(r.client.complete({ prompt: "Hi", targets }))
        assert.deepInclude(error, { _tag: "InvalidRequest", path: "targets" })
      }
    }))
  }))

describe("a vendor's own tool", () => {
  const tool = (id: string) => ({ name: "web_search", parameters: {}, provider: { id, args: {} } })

  it.live("goes to that vendor alone; the ledger says why the others were passed over", () =>
    Effect.gen(function*() {
      const server = yield* FaultServer.make({ reply: () => "Found." })
      const apiKey = Redacted.make("k")
      const live = Layer.mergeAll(
        OpenAi.layer({ apiKey, baseUrl: server.openai }),
        Anthropic.layer({ apiKey, baseUrl: server.anthropic })
      )
      const client = yield* Effect.provide(LlmClient.make([OpenAi, Anthropic], { cache: false }), live)
      const found = yield* client.complete({ prompt: "Hi", tools: [tool("anthropic.web_search_20250305")] })
      assert.strictEqual(found.target, "anthropic")
      assert.deepInclude(found.ledger.find((event) => event._tag === "TargetSkipped"), {
        target: "openai",
        because: "unsupported",
        field: "tools"
      })
      const [request] = yield* server.requests
      assert.include(JSON.stringify(request?.body), "\"type\":\"web_search_20250305\"")
      const nobody = yield* Effect.flip(client.complete({ prompt: "Hi", tools: [tool("nobody.tool")] }))
      // Where nobody can, the first one says so, and sends nothing.
      assert.deepInclude(nobody.ledger.find((event) => event._tag === "AttemptFailed")?.error, {
        reason: "InvalidRequest",
        code: "unsupported_tool"
      })
      assert.strictEqual((yield* server.stats).received, 1)
    }).pipe(Effect.provide(FetchHttpClient.layer)))
})

describe("the order of one call", () => {
  const configs = ["p", "s", "t"].map((id) => ({ id, provider: ScriptedProvider }) as never)

  /** What is told of a route, and how often the dice were thrown. */
  const routed = (
    router: Router,
    request: Partial<LlmRequest.LlmRequest>,
    operation: "complete" | "stream" = "complete",
    draws: ReadonlyArray<number> = [0.5, 0.5, 0.5]
  ) => {
    const events: Array<unknown> = []
    let thrown = 0
    const random = { nextDoubleUnsafe: () => draws[thrown++] ?? 0.5 }
    const call = {
      request,
      root: {
        id: 7,
        operation,
        context: Context.make(Random.Random, random as never),
        since: (now: number) => now - 100,
        emit: (event: unknown) => void events.push(event)
      }
    } as unknown as Call
    return { order: router.route(call, 105), events, thrown }
  }
  const told = (by: string, target: string) => [{ _tag: "Routed", call: 7, at: 5, by, target }]
  const made = (options: Routing.Options) => new Router(Routing.policy(options), configs)
  const [ids, weights] = [["p", "s", "t"], [1, 1, 1]]

  it("without routing, or in the order of the list, is that of the list, and not told", () => {
    for (const router of [new Router(undefined, configs), made({}), made({ sticky: "conversation" })]) {
      assert.deepStrictEqual(routed(router, {}), { order: undefined, events: [], thrown: 0 })
    }
  })

  it("is the request's own before all others", () => {
    assert.deepStrictEqual(
      routed(made({ strategy: "weights", sticky: "tenant" }), { tenant: "a", targets: ["t", "p"] }),
      {
        order: [2, 0],
        events: told("request", "t"),
        thrown: 0
      }
    )
  })

  it.each<[string, Routing.Options, Partial<LlmRequest.LlmRequest>, string | undefined]>([
    ["a tenant", { sticky: "tenant" }, { tenant: "a", conversation: "c" }, "a"],
    ["no tenant", { sticky: "tenant" }, { conversation: "c" }, undefined],
    ["a conversation", { sticky: "conversation" }, { conversation: "c" }, "c"],
    ["a tenant's conversation", { sticky: "conversation" }, { tenant: "a", conversation: "c" }, "[\"a\",\"c\"]"],
    ["no conversation", { sticky: "conversation" }, { tenant: "a" }, undefined],
    ["not sticky", {}, { tenant: "a", conversation: "c" }, undefined]
  ])("stays for the same key: %s", (_, options, request, key) => {
    const order = key === undefined ? undefined : Routing.byKey(key, ids, weights)
    assert.deepStrictEqual(routed(made(options), request), {
      order,
      events: order === undefined ? [] : told("sticky", ids[order[0]!]!),
      thrown: 0
    })
  })

  it("is drawn where weights are asked for, once for each target", () => {
    assert.deepStrictEqual(routed(made({ strategy: "weights" }), {}, "complete", [0.9, 0.5, 0.1]), {
      order: [2, 1, 0],
      events: told("weights", "t"),
      thrown: 3
    })
  })

  it("is that of measurements for whole answers once there is one; streams explore before", () => {
    const router = made({ strategy: "fastest", explore: 0.5 })
    assert.deepStrictEqual(routed(router, {}), { order: undefined, events: [], thrown: 0 })
    // Half of the share, so that the second one of the others comes first.
    assert.deepStrictEqual(routed(router, {}, "stream", [0.25]), {
      order: [2, 0, 1],
      events: told("fastest", "t"),
      thrown: 1
    })
    router.measures(1)?.(40, 100)
    assert.deepStrictEqual(routed(router, {}), { order: [1, 0, 2], events: told("fastest", "s"), thrown: 0 })
  })

  it("measures only where the fastest is asked for", () => {
    assert.isUndefined(new Router(undefined, configs).measures(0))
    assert.isUndefined(made({ strategy: "weights" }).measures(0))
    assert.isDefined(made({ strategy: "fastest" }).measures(0))
  })
})
