// The patterns that stand in front of an attempt, as the pipeline uses them.
import { assert, describe, it } from "@effect/vitest"
import { Context, Duration, Effect, Exit, Fiber, Layer, Stream } from "effect"
import {
  LlmClient,
  LlmError,
  type LlmGuard,
  LlmProvider,
  type LlmRequest,
  type LlmResponse
} from "effect-resilient-llm"
import { LoadShedder } from "effect-resilient-llm/resilience"
import { AiError, type Prompt, Tokenizer } from "effect/ai"
import { TestClock } from "effect/testing"
import { counting, inBulkhead, inCircuit, inLimits } from "../../src/pipeline/patterns.ts"
import type { DoorRules } from "../../src/pipeline/shedding.ts"
import { ask, kinds, vector } from "../support.ts"

describe.each(kinds)("%s: buckets (P6)", (kind) => {
  const finish = (usage: LlmResponse.Usage): LlmResponse.Part => ({ type: "finish", reason: "stop", usage })
  const fails = (reason: LlmError.Reason, sent = true): Effect.Effect<never, LlmError.ProviderError> =>
    Effect.fail(
      new LlmError.ProviderError({ provider: "p", reason: sent ? reason : { _tag: "Network", kind: "connect", sent } })
    )
  const text: LlmResponse.Part = { type: "text", text: "Hi" }
  const ends: Readonly<Record<string, Effect.Effect<ReadonlyArray<LlmResponse.Part>, LlmError.ProviderError>>> = {
    "an answer that tells its tokens": Effect.succeed([
      text,
      finish({ inputTokens: { total: 7 }, outputTokens: { total: 9 } })
    ]),
    "an answer that tells none": Effect.succeed([text, finish({ inputTokens: {}, outputTokens: {} })]),
    "a refusal": fails({ _tag: "InvalidRequest" }),
    "an overload": fails({ _tag: "Overloaded" }),
    "an empty quota": fails({ _tag: "Quota" }),
    "a malformed answer": fails({ _tag: "MalformedResponse", problem: "x" }),
    "a request that was never sent": fails({ _tag: "Overloaded" }, false)
  }

  const limits = (["requests", "tokens", "input-tokens", "output-tokens"] as const).map((dimension) =>
    ({ dimension, limit: 10_000, per: "1 hour" }) as const
  )

  const statusAfter = (end: (typeof ends)[string]) =>
    Effect.gen(function*() {
      const provider = LlmProvider.make({
        id: "p",
        generate: () => end,
        stream: () => Stream.unwrap(Effect.map(end, (parts) => Stream.fromIterable(toStream(parts))))
      })
      const context = yield* Layer.build(
        LlmClient.layerDynamic([{ provider, limits }], { rateLimit: { limits }, retry: false, cache: false })
      )
      const client = Context.get(context, LlmClient)
      yield* Effect.exit(ask(kind, client, { prompt: "What costs it?", maxTokens: 100 }))
      return yield* client.status
    })

  it.effect.each(Object.entries(ends))(
    "%s costs the client's bucket and the target's the same",
    ([, end]) =>
      vector(Effect.gen(function*() {
        const { rateLimit, targets } = yield* statusAfter(end)
        assert.isDefined(rateLimit)
        assert.deepStrictEqual(rateLimit.levels, targets[0]?.limits?.levels)
      }))
  )

  const toStream = (parts: ReadonlyArray<LlmResponse.Part>): ReadonlyArray<LlmResponse.StreamPart> =>
    parts.map((part) =>
      part.type === "text" ? { type: "text-delta", id: "0", delta: part.text } : part as LlmResponse.StreamPart
    )

  it.effect("an answer costs a request and the tokens it tells", () =>
    vector(Effect.gen(function*() {
      const { levels } = (yield* statusAfter(ends["an answer that tells its tokens"]!)).rateLimit!
      assert.deepStrictEqual(levels, { "requests": 9999, "tokens": 9984, "input-tokens": 9993, "output-tokens": 9991 })
    })))
})

describe("tokens before the vendor says them", () => {
  const limits = [{ dimension: "input-tokens", limit: 100_000, per: "1 hour" }] as const
  const silent = LlmProvider.make({ id: "p", generate: () => Effect.succeed([{ type: "text", text: "Hi" }]) })

  /** What a prompt costs at a vendor that never says what it cost. */
  const costOf = (
    prompt: LlmRequest.Input["prompt"],
    tokenizer: Layer.Layer<Tokenizer.Tokenizer> | Layer.Layer<never> = Layer.empty
  ) =>
    Effect.gen(function*() {
      const layer = LlmClient.layerDynamic([{ provider: silent, limits }], { retry: false })
      const client = Context.get(yield* Layer.build(Layer.provide(layer, tokenizer)), LlmClient)
      const { ledger } = yield* client.complete({ prompt, deadline: "1 second" })
      const { targets } = yield* client.status
      return { cost: 100_000 - targets[0]!.limits!.levels["input-tokens"]!, ledger }
    })
  const byBytes = (...texts: ReadonlyArray<string>) =>
    Math.ceil(new TextEncoder().encode(`user${texts.join("")}`).length / 3.5)

  it.effect.each([
    "Hello, world. ".repeat(50),
    "ü".repeat(70),
    "今日は良い天気です。".repeat(20),
    "🙂👩‍👩‍👧".repeat(30),
    "a€😀é"
  ])(
    "3.5 bytes of UTF-8 are one: %s",
    (text) =>
      vector(Effect.gen(function*() {
        assert.strictEqual((yield* costOf(text)).cost, byBytes(text))
      }))
  )

  it.effect("a file is a thousand", () =>
    vector(Effect.gen(function*() {
      const file = { type: "file", mediaType: "image/png", data: "A".repeat(90_000) } as const
      const { cost } = yield* costOf([{ role: "user", content: [{ type: "text", text: "What is it?" }, file] }])
      assert.strictEqual(cost, byBytes("text", "What is it?") + 1000)
    })))

  const tokenizer = (tokenize: (prompt: Prompt.Prompt) => Effect.Effect<Array<number>, AiError.AiError>) => {
    const asked: Array<number> = []
    const layer = Layer.succeed(
      Tokenizer.Tokenizer,
      Tokenizer.make({
        tokenize: (prompt) =>
          Effect.suspend(() => {
            asked.push(prompt.content.length)
            return tokenize(prompt)
          })
      })
    )
    return { asked, layer }
  }

  it.effect("a tokenizer of effect/ai counts them, once for all buckets, retries and targets", () =>
    vector(Effect.gen(function*() {
      const { asked, layer } = tokenizer(() => Effect.succeed(Array.from({ length: 42 }, (_, i) => i)))
      assert.strictEqual((yield* costOf("Hi", layer)).cost, 42)
      assert.deepStrictEqual(asked, [1])
      const failing = LlmProvider.make({
        id: "q",
        generate: () => Effect.fail(new LlmError.ProviderError({ provider: "q", reason: { _tag: "Overloaded" } }))
      })
      const both = LlmClient.layerDynamic([{ provider: failing, limits }, { provider: silent, limits }], {
        rateLimit: { limits },
        retry: { maxRetries: 2, baseDelay: 1 }
      })
      const client = Context.get(yield* Layer.build(Layer.provide(both, layer)), LlmClient)
      const call = yield* Effect.forkChild(client.complete("Hi"))
      yield* TestClock.adjust("1 minute")
      assert.strictEqual((yield* Fiber.join(call)).target, "p")
      assert.deepStrictEqual(asked, [1, 1])
      // Where no limit counts tokens, nobody asks for them.
      const plain = Context.get(yield* Layer.build(Layer.provide(LlmClient.layerDynamic([silent]), layer)), LlmClient)
      yield* plain.complete("Hi")
      assert.strictEqual(asked.length, 2)
    })))

  it.effect("one that fails, throws or hangs: by bytes, and within the deadline", () =>
    vector(Effect.gen(function*() {
      const error = new AiError.AiError({
        module: "T",
        method: "m",
        reason: new AiError.UnknownError({ description: "x" })
      })
      assert.strictEqual((yield* costOf("Hi", tokenizer(() => Effect.fail(error)).layer)).cost, byBytes("Hi"))
      const throwing = tokenizer(() => {
        throw new Error("broken")
      })
      assert.strictEqual((yield* costOf("Hi", throwing.layer)).cost, byBytes("Hi"))
      const call = yield* Effect.forkChild(Effect.flip(costOf("Hi", tokenizer(() => Effect.never).layer)))
      yield* TestClock.adjust("1 second")
      assert.strictEqual((yield* Fiber.join(call))._tag, "DeadlineExceeded")
    })))
})

/** What a door is asked by: 100 ms are left, and two have passed since the call began. */
const asking = (request: object, operation: "complete" | "stream" = "complete") => {
  const events: Array<unknown> = []
  const root = {
    id: 3,
    clock: "clock",
    patience: "patience",
    since: () => 2,
    now: () => 50,
    emit: (event: unknown) => void events.push(event)
  }
  const call = { root, deadline: { left: (now: number) => 110 - now } }
  return { events, ask: { now: 10, request, operation, restore: "restore", call, to: { id: "p" } } as never }
}

const exitOf = <E>(got: Effect.Effect<LlmGuard.Held, E>): Exit.Exit<LlmGuard.Held, E> => Effect.runSyncExit(got)
const heldOf = (got: Effect.Effect<LlmGuard.Held, unknown>): LlmGuard.Held => Effect.runSync(Effect.orDie(got))
const errorOf = <E>(got: Effect.Effect<LlmGuard.Held, E>): E => Effect.runSync(Effect.flip(got))
const outcomeOf = (outcome: object) => outcome as LlmGuard.Outcome
const failedBy = (reason: LlmError.Reason, more: object = {}) =>
  outcomeOf({
    _tag: "Failed",
    now: 9,
    sent: true,
    limits: "limits",
    verdict: { outcome: "failure" },
    error: LlmError.providerError("p", { reason }),
    ...more
  })
const succeeded = outcomeOf({ _tag: "Succeeded", now: 8, limits: "limits" })
const ignored = outcomeOf({ _tag: "Ignored", by: "caller", now: 7 })
const never = outcomeOf({ _tag: "NeverStarted", now: 6 })
const wouldShed = { _tag: "Shadowed", call: 3, at: 2, target: "p", by: "load-shedding", decision: "would-shed" }
const doorsOf = (isShadow: boolean): DoorRules => ({ doors: LoadShedder.policy().doors!, isShadow })

describe("a bulkhead", () => {
  type Options = { readonly onDisplaced: () => void; readonly maxWait: () => number }
  const made = (
    free: boolean,
    { isAdaptive = false, line = {}, displaced = false, full = false }: {
      readonly isAdaptive?: boolean
      readonly line?: object
      readonly displaced?: boolean
      readonly full?: boolean
    } = {}
  ) => {
    const told: Array<unknown> = []
    const permit = {
      releaseUnsafe: () => void told.push("released"),
      recordUnsafe: (what: string) => void told.push(what)
    }
    const bulkhead = {
      isAdaptive,
      tryAcquireUnsafe: () => free ? permit : undefined,
      lineUnsafe: () => ({ queued: 0, maxQueued: 10, wait: undefined, displaces: () => false, ...line }),
      acquire: ({ maxWait, onDisplaced, ...options }: Options) => {
        told.push({ ...options, maxWait: maxWait() })
        if (displaced) onDisplaced()
        return displaced || full ? Effect.fail(new LlmError.BulkheadFull({})) : Effect.succeed(permit)
      }
    }
    return { bulkhead: bulkhead as never, told }
  }
  const waited = { restore: "restore", priority: "critical", tenant: "a", maxWait: 60 }
  const request = { priority: "critical", tenant: "a" }

  it("with room gives a place that goes back, and learns nothing", () => {
    const { bulkhead, told } = made(true)
    const door = inBulkhead(bulkhead, undefined)
    assert.deepInclude(door, { name: "bulkhead", by: "bulkhead", failover: true })
    const held = heldOf(door.acquire(asking({}).ask))
    assert.isUndefined(held.settle)
    held.release?.()
    assert.deepStrictEqual(told, ["released"])
  })

  it("that is adaptive learns how its calls end", () => {
    const { bulkhead, told } = made(true, { isAdaptive: true })
    const held = heldOf(inBulkhead(bulkhead, undefined).acquire(asking({}).ask))
    for (const one of [succeeded, failedBy({ _tag: "Overloaded" }), failedBy({ _tag: "InvalidRequest" }), ignored]) {
      void held.settle?.(one)
    }
    held.release?.()
    assert.deepStrictEqual(told, ["success", "overload", "neutral", "neutral", "released"])
  })

  it("without room: who waits does so as long as the deadline lasts, by urgency and tenant", () => {
    for (const rules of [undefined, doorsOf(false), doorsOf(true)]) {
      const { bulkhead, told } = made(false)
      const { ask, events } = asking(request)
      assert.isTrue(Exit.isSuccess(exitOf(inBulkhead(bulkhead, rules).acquire(ask))))
      assert.deepStrictEqual([told, events], [[waited], []])
    }
  })

  it("without room and full: as it says itself", () => {
    for (const rules of [undefined, doorsOf(false), doorsOf(true)]) {
      const { bulkhead } = made(false, { full: true })
      const { ask, events } = asking(request)
      assert.strictEqual(errorOf(inBulkhead(bulkhead, rules).acquire(ask))._tag, "BulkheadFull")
      assert.deepStrictEqual(events, [])
    }
  })

  it.each<[string, object, string | undefined, number | undefined]>([
    ["the door is closed", { queued: 10 }, "queue-full", undefined],
    ["the door is closed, and the wait known", { queued: 10, wait: 200 }, "queue-full", 200],
    ["the turn comes after the deadline", { wait: 101 }, "deadline", 101],
    ["the turn comes at the deadline", { wait: 100 }, undefined, undefined]
  ])("who would not be served is shed, and in shadow mode told: %s", (_, line, reason, wait) => {
    const strict = made(false, { line })
    const exit = exitOf(inBulkhead(strict.bulkhead, doorsOf(false)).acquire(asking(request).ask))
    assert.strictEqual(Exit.isFailure(exit), reason !== undefined)
    assert.strictEqual(strict.told.length, reason === undefined ? 1 : 0)
    if (reason !== undefined) {
      const error = errorOf(exit) as LlmError.Shed
      assert.deepStrictEqual([error.reason, error.retryAfter && Duration.toMillis(error.retryAfter)], [reason, wait])
    }
    const watching = made(false, { line })
    const { ask, events } = asking(request)
    assert.isTrue(Exit.isSuccess(exitOf(inBulkhead(watching.bulkhead, doorsOf(true)).acquire(ask))))
    const duration = wait === undefined ? {} : { duration: wait }
    assert.deepStrictEqual(events, reason === undefined ? [] : [{ ...wouldShed, ...duration }])
  })

  it("who is displaced is shed, and in shadow mode told, but once", () => {
    const displaced = (rules: DoorRules | undefined, line: object = {}) => {
      const { ask, events } = asking(request)
      const error = errorOf(inBulkhead(made(false, { displaced: true, line }).bulkhead, rules).acquire(ask))
      return [error._tag === "Shed" ? error.reason : error._tag, events]
    }
    assert.deepStrictEqual(displaced(undefined), ["BulkheadFull", []])
    assert.deepStrictEqual(displaced(doorsOf(false)), ["queue-full", []])
    assert.deepStrictEqual(displaced(doorsOf(true)), ["BulkheadFull", [wouldShed]])
    assert.deepStrictEqual(displaced(doorsOf(true), { queued: 10 }), ["BulkheadFull", [wouldShed]])
  })
})

describe("limits", () => {
  const made = (
    { dimensions = ["requests"], free = true, queued = 0, displaced = false, refused, would }: {
      readonly dimensions?: ReadonlyArray<string>
      readonly free?: boolean
      readonly queued?: number
      readonly displaced?: boolean
      readonly refused?: number | undefined
      readonly would?: object | undefined
    } = {}
  ) => {
    const told: Array<unknown> = []
    const note = (name: string) => (...args: ReadonlyArray<unknown>) => void told.push([name, ...args])
    const reservation = {
      would,
      refundUnsafe: note("refund"),
      settleUnsafe: note("settle"),
      observeUnsafe: note("observe")
    }
    const limiter = {
      dimensions,
      tryAcquireUnsafe: (...args: ReadonlyArray<unknown>) => {
        told.push(["try", ...args])
        return free ? reservation : undefined
      },
      lineUnsafe: () => ({ queued, maxQueued: 10, displaces: () => false }),
      acquire: (needed: unknown, { onDisplaced, ...options }: { readonly onDisplaced: () => void }) => {
        told.push(["acquire", needed, options])
        if (displaced) onDisplaced()
        return refused === undefined ? Effect.succeed(reservation) : Effect.fail(
          new LlmError.RateLimited({ dimension: "requests", retryAfter: Duration.millis(refused) })
        )
      },
      blockUnsafe: note("block")
    }
    return { limiter: limiter as never, told }
  }
  const cost = { requests: 1, tokens: 1033, "input-tokens": 9, "output-tokens": 1024 }
  const request = { priority: "critical", tenant: "a" }
  const door = (limiter: never, whose: "client" | "vendor" = "vendor", rules?: DoorRules) =>
    inLimits(limiter, whose, rules, () => 9)

  it("are asked for one request, or for its tokens, with what is left of the deadline", () => {
    const requests = made()
    assert.deepInclude(door(requests.limiter), { name: "rate-limit", by: "rate-limit", failover: true })
    assert.deepInclude(door(requests.limiter, "client"), { failover: false })
    heldOf(door(requests.limiter).acquire(asking(request).ask))
    assert.deepStrictEqual(requests.told, [["try", 1, "clock", 10, "a", 100]])
    const tokens = made({ dimensions: ["requests", "tokens"] })
    heldOf(door(tokens.limiter).acquire(asking(request).ask))
    heldOf(door(tokens.limiter).acquire(asking({ maxTokens: 1 }).ask))
    assert.deepStrictEqual(tokens.told, [["try", cost, "clock", 10, "a", 100], [
      "try",
      { requests: 1, tokens: 10, "input-tokens": 9, "output-tokens": 1 },
      "clock",
      10,
      undefined,
      100
    ]])
  })

  it("that only watch tell what they would have done", () => {
    const { limiter } = made({ would: { decision: "would-wait", millis: 30 } })
    const { ask, events } = asking(request)
    heldOf(door(limiter).acquire(ask))
    assert.deepStrictEqual(events, [
      { _tag: "Shadowed", call: 3, at: 2, target: "p", by: "rate-limit", decision: "would-wait", duration: 30 }
    ])
  })

  const usage = (input: number | undefined, output: number | undefined) => ({
    inputTokens: { total: input },
    outputTokens: { total: output }
  })
  const actual = ["settle", { requests: 1, tokens: 7, "input-tokens": 3, "output-tokens": 4 }]
  const [all, tokens, seen] = [["refund", "all"], ["refund", "tokens"], ["observe", "limits"]]
  it.each<[string, LlmGuard.Outcome, ReadonlyArray<unknown>, ReadonlyArray<unknown>]>([
    // By what was told to tokens of a client's bucket, and to a vendor's limits of requests alone.
    ["never started", never, [all], [all]],
    ["an answer", outcomeOf({ ...succeeded, usage: usage(3, 4) }), [actual], [seen]],
    ["an answer without usage", succeeded, [], [seen]],
    ["an answer of half a usage", outcomeOf({ ...succeeded, usage: usage(3, undefined) }), [], [seen]],
    ["an answer of the other half", outcomeOf({ ...succeeded, usage: usage(undefined, 4) }), [], [seen]],
    ["left by its caller", ignored, [], []],
    [
      "a failure of our own",
      outcomeOf({
        _tag: "Failed",
        sent: true,
        error: new LlmError.AttemptTimeout({
          kind: "attempt",
          after: Duration.millis(1)
        })
      }),
      [],
      []
    ],
    ["not sent", failedBy({ _tag: "Network", kind: "connect", sent: false }, { sent: false }), [all], [all, seen]],
    ["a quota that is used up", failedBy({ _tag: "Quota" }), [all], [all, seen]],
    ["a refusal", failedBy({ _tag: "Overloaded" }, { retryAfter: 70 }), [tokens], [seen]],
    ["an answer that cannot be used", failedBy({ _tag: "MalformedResponse", problem: "x" }), [], [seen]],
    ["a limit of the vendor's", failedBy({ _tag: "RateLimit" }, { retryAfter: 70 }), [tokens], [seen, [
      "block",
      70,
      9
    ]]],
    ["a limit without a time", failedBy({ _tag: "RateLimit" }), [tokens], [seen]]
  ])("are settled: %s", (_, outcome, ofTokens, ofVendor) => {
    const client = made({ dimensions: ["requests", "tokens"] })
    void heldOf(door(client.limiter, "client").acquire(asking(request).ask)).settle?.(outcome)
    assert.deepStrictEqual(client.told.slice(1), ofTokens)
    const vendor = made()
    void heldOf(door(vendor.limiter).acquire(asking(request).ask)).settle?.(outcome)
    assert.deepStrictEqual(vendor.told.slice(1), ofVendor)
  })

  const waited = { maxWait: 100, restore: "restore", priority: "critical", tenant: "a", patience: "patience" }
  it.each<[string, DoorRules | undefined, Parameters<typeof made>[0], number, string, ReadonlyArray<unknown>]>([
    ["without doors", undefined, {}, 100, "held", []],
    ["with doors", doorsOf(false), {}, 100, "held", []],
    ["in shadow mode", doorsOf(true), {}, 100, "held", []],
    ["without doors, in a full line", undefined, { queued: 10, refused: 200 }, 100, "RateLimited", []],
    ["a closed door: no wait", doorsOf(false), { queued: 10, refused: 30 }, 0, "Shed queue-full 30", []],
    ["a closed door, and room after all", doorsOf(false), { queued: 10 }, 0, "held", []],
    ["a closed door in shadow mode is told once", doorsOf(true), { queued: 10, refused: 200 }, 100, "RateLimited", [
      wouldShed
    ]],
    ["displaced", doorsOf(false), { displaced: true, refused: 30 }, 100, "Shed queue-full 30", []],
    ["displaced in shadow mode", doorsOf(true), { displaced: true, refused: 30 }, 100, "RateLimited", [
      { ...wouldShed, duration: 30 }
    ]],
    ["too late", doorsOf(false), { refused: 101 }, 100, "Shed deadline 101", []],
    ["too late in shadow mode", doorsOf(true), { refused: 101 }, 100, "RateLimited", [{ ...wouldShed, duration: 101 }]],
    ["refused although there is time", doorsOf(false), { refused: 100 }, 100, "RateLimited", []],
    ["refused in shadow mode although there is time", doorsOf(true), { refused: 100 }, 100, "RateLimited", []]
  ])("without tokens: %s", (_, rules, options, maxWait, end, expected) => {
    const { limiter, told } = made({ ...options, free: false })
    const { ask, events } = asking(request)
    const exit = exitOf(door(limiter, "vendor", rules).acquire(ask))
    assert.deepStrictEqual(told[1], ["acquire", 1, { ...waited, maxWait }])
    assert.deepStrictEqual(events, expected)
    if (Exit.isSuccess(exit)) {
      assert.strictEqual(end, "held")
      void exit.value.settle?.(never)
      assert.deepStrictEqual(told[2], all)
    } else {
      const error = errorOf(exit)
      const shed = error._tag === "Shed" && [error._tag, error.reason, Duration.toMillis(error.retryAfter!)].join(" ")
      assert.strictEqual(shed || error._tag, end)
    }
  })
})

it("a request that a limiter cannot take at all is no overload", () => {
  const wrong = new LlmError.InvalidRequest({ path: "maxTokens", rule: "at most 10", kind: "number" })
  const limiter = {
    dimensions: ["requests"],
    tryAcquireUnsafe: () => undefined,
    lineUnsafe: () => ({ queued: 0, maxQueued: 10, displaces: () => false }),
    acquire: () => Effect.fail(wrong)
  }
  const door = inLimits(limiter as never, "vendor", doorsOf(false), () => 9)
  assert.strictEqual(errorOf(door.acquire(asking({}).ask)), wrong)
})

describe("a circuit", () => {
  const made = (
    { claim, isOpen = false, permit = "permit" }: {
      readonly claim?: Effect.Effect<number | undefined>
      readonly isOpen?: boolean
      readonly permit?: string | undefined
    } = {}
  ) => {
    const told: Array<unknown> = []
    const note = (name: string) => (...args: ReadonlyArray<unknown>) => void told.push([name, ...args])
    const breaker = {
      isOpenUnsafe: () => isOpen,
      openForUnsafe: (now: number) => 1000 - now,
      rejectionUnsafe: (now: number, isClaimed = false) => () =>
        new LlmError.CircuitOpen({ key: `${now} ${isClaimed}`, state: "open" }),
      admitUnsafe: (...args: ReadonlyArray<unknown>) => {
        told.push(["admit", ...args])
        return permit === "none" ? undefined : permit
      },
      claimUnsafe: () => claim,
      recordUnsafe: note("record"),
      renewUnsafe: note("renew")
    }
    const models: Array<unknown> = []
    const door = inCircuit((model) => {
      models.push(model)
      return breaker as never
    })
    return { door, models, told }
  }

  it("that is open refuses before anything is asked, and says for how long", () => {
    assert.isUndefined(made().door.peek({ model: "m" } as never, 10))
    const { door, models } = made({ isOpen: true })
    const refusal = door.peek({ model: "m" } as never, 10)
    assert.deepStrictEqual([models, refusal?.retryAfter, refusal?.error().key], [["m"], 990, "10 false"])
    assert.deepInclude(door, { name: "circuit-breaker", by: "circuit-breaker", failover: true })
  })

  it("counts how an attempt ends, and is told while a stream lives", () => {
    const { door, told } = made()
    const held = heldOf(door.acquire(asking({ model: "m" }).ask))
    const failure = failedBy({ _tag: "Overloaded" })
    for (const one of [succeeded, failure, ignored, never]) void held.settle?.(one)
    held.renew?.(20)
    assert.deepStrictEqual(told, [
      ["admit", 10, "m", undefined],
      ["record", "permit", "success", 8, succeeded],
      ["record", "permit", "failure", 9, failure],
      ["record", "permit", "ignored", 7],
      ["record", "permit", "ignored", 6],
      ["renew", "permit", 20]
    ])
  })

  it("compares an attempt with others of its kind", () => {
    const { door, told } = made()
    for (const operation of ["complete", "stream"] as const) {
      for (const request of [{ model: "m" }, {}]) heldOf(door.acquire(asking(request, operation).ask))
    }
    assert.deepStrictEqual(told.map((one) => (one as ReadonlyArray<unknown>)[2]), ["m", "", "stream m", "stream "])
  })

  it("that admits nobody says so", () => {
    assert.strictEqual(
      errorOf(made({ permit: "none" }).door.acquire(asking({}).ask)).key,
      "10 false"
    )
  })

  it("that others share asks for a place first, and counts from then", () => {
    const { door, told } = made({ claim: Effect.succeed(2) })
    heldOf(door.acquire(asking({ model: "m" }).ask))
    assert.deepStrictEqual(told, [["admit", 50, "m", 2]])
    const none = made({ claim: Effect.undefined })
    assert.strictEqual(errorOf(none.door.acquire(asking({}).ask)).key, "50 true")
    assert.deepStrictEqual(none.told, [])
  })
})

it("tokens are counted by a guard only where there is a tokenizer", () => {
  assert.isUndefined(counting(undefined).guard)
  assert.strictEqual(counting({ tokenize: () => Effect.succeed([]) } as never).guard?.name, "tokenizer")
})
