// What is said of a client before it is built is what it is built of.
import { assert, describe, it } from "@effect/vitest"
import { Context, Effect } from "effect"
import { LlmClient, LlmConfig, type LlmError, LlmProvider } from "effect-resilient-llm"
import { Store } from "effect-resilient-llm/persistence"
import { Bulkhead, CircuitBreaker, Idempotency, RateLimiter, ResponseCache } from "effect-resilient-llm/resilience"
import * as Background from "../../src/pipeline/background.ts"
import { makeHub } from "../../src/pipeline/hub.ts"
import { counting } from "../../src/pipeline/patterns.ts"
import { Router } from "../../src/pipeline/routing.ts"
import * as Target from "../../src/pipeline/target.ts"

const provider = LlmProvider.make({ id: "p", generate: () => Effect.never })

/** The doors of a target as it is built. What only measures is no pattern. */
const doors = (options: LlmConfig.Options, own: Target.TargetOptions) =>
  Effect.scoped(Effect.gen(function*() {
    const config = { ...own, id: "p", provider }
    const settings = LlmConfig.settings([config], options)
    const target = yield* Target.make<never>(config, 0, {
      settings,
      guards: [],
      bucket: settings.bucket === undefined ? undefined : yield* RateLimiter.make(),
      limiter: (_, limits) =>
        RateLimiter.isRateLimiter(limits) ? Effect.succeed(limits) : Effect.orDie(RateLimiter.make()),
      fleet: undefined,
      counting: counting(undefined),
      router: new Router(settings.routing, [config]),
      hub: yield* makeHub(),
      background: yield* Background.make,
      builtAt: 0
    })
    return target.doors.map(({ name }) => name).filter((name) => name !== "first-content")
  }))

const limits = [{ dimension: "requests", limit: 10, per: "1 minute" }] as const

describe("the order", () => {
  it.effect("each target's guards are its doors, whatever is on", () =>
    Effect.gen(function*() {
      for (let bits = 0; bits < 32; bits++) {
        const is = (bit: number): boolean => (bits & 2 ** bit) !== 0
        const options: LlmConfig.Options = {
          bulkhead: is(0) ? {} : false,
          rateLimit: is(1) ? {} : false,
          circuitBreaker: is(2) ? {} : false,
          loadShedding: is(3) ? {} : false,
          timeout: false,
          hedge: {}
        }
        const own = is(4) ? { limits } : {}
        const { targets: [told] } = yield* LlmConfig.explain([{ provider, ...own }], options)
        assert.deepStrictEqual(told?.guards.map((name) => name.replace(/ \(.*/, "")), yield* doors(options, own))
      }
    }))

  it.effect("what is off is absent", () =>
    Effect.gen(function*() {
      const off = {
        idempotency: false,
        rateLimit: false,
        circuitBreaker: false,
        timeout: false,
        retry: false,
        failover: false,
        cache: false
      } as const
      const { stages, targets } = yield* LlmConfig.explain(["p"], off)
      assert.deepStrictEqual([stages, targets[0]?.guards], [[], []])
      const on = {
        cache: { readThrough: true },
        hedge: {},
        routing: {},
        guards: [{ name: "mine", acquire: () => Effect.succeed({}) }]
      }
      const all = yield* LlmConfig.explain(["p"], on)
      assert.deepStrictEqual(all.stages, [
        "deadline",
        "idempotency",
        "fresh cache",
        "stale fallback",
        "routing",
        "failover",
        "hedge",
        "retry",
        "retry budget"
      ])
      assert.deepStrictEqual(all.targets[0]?.guards, ["mine", "rate-limit (client)", "circuit-breaker", "timeout"])
      const shedding = yield* LlmConfig.explain(["p"], { loadShedding: { throttle: {} } })
      assert.strictEqual(shedding.targets[0]?.guards[0], "load-shedding")
    }))
})

describe("targets", () => {
  class OpenAi extends Context.Service<OpenAi, LlmProvider.LlmProvider>()("some/OpenAi") {}

  it.effect("are taken as a client takes them, and called as it calls them", () =>
    Effect.gen(function*() {
      const { targets } = yield* LlmConfig.explain([
        "first",
        OpenAi,
        LlmClient.target(OpenAi, { bulkhead: {} }),
        LlmClient.target(OpenAi, { id: "mine" }),
        provider,
        { provider, circuitBreaker: false }
      ])
      assert.deepStrictEqual(targets.map(({ id }) => id), ["first", "OpenAi", "OpenAi-2", "mine", "p", "p-2"])
      assert.deepStrictEqual(targets.map(({ guards }) => guards.length), [3, 3, 4, 3, 3, 2])
    }))

  it.effect.each<[ReadonlyArray<LlmConfig.ExplainedInput>, object, string]>([
    [[], {}, "targets"],
    [["a", "a"], {}, "targets[1].id"],
    [["a"], { retry: { maxRetrys: 1 } }, "retry.maxRetrys"],
    [[{ provider, limits: [] }], {}, "targets[0].limits"]
  ])("what is wrong is refused as the client refuses it: %j %j", ([targets, options, path]) =>
    Effect.gen(function*() {
      assert.strictEqual((yield* Effect.flip(LlmConfig.explain(targets, options))).path, path)
    }))
})

describe("values in the place of options", () => {
  it.effect("are told by what they were made with", () =>
    Effect.gen(function*() {
      const { memory, targets } = yield* LlmConfig.explain([{
        provider,
        limits: yield* RateLimiter.make({ maxWait: 7, queue: 3 })
      }], {
        bulkhead: yield* Bulkhead.make({ maxWait: 5, queue: 2 }),
        rateLimit: yield* RateLimiter.make({ maxWait: 11, queue: 0 }),
        circuitBreaker: yield* CircuitBreaker.make({ key: "p" })
      })
      assert.strictEqual(targets[0]?.line, 12)
      assert.deepStrictEqual(memory.filter(({ what }) => what.includes("line")).map(({ count }) => count), [2, 3])
    }))
})

/** An attempt takes 100 ms at most, and the pauses before retries are 10 and 20. */
const brief = {
  timeout: { attempt: 100, deadline: 1000 },
  retry: { maxRetries: 2, baseDelay: 10, factor: 2, maxDelay: 60_000, jitter: "none" },
  retryBudget: false
} as const satisfies LlmConfig.Options

describe("waits", () => {
  const waits = (targets: ReadonlyArray<string>, options: LlmConfig.Options) =>
    Effect.map(LlmConfig.explain(targets, options), (told) => told.waits)

  it.effect("of the defaults", () =>
    Effect.gen(function*() {
      const one = {
        complete: 300_000,
        firstPart: 300_000,
        silence: 60_000,
        stream: 300_000,
        hint: 60_000,
        hintWithOthers: 60_000,
        joined: 300_000
      }
      assert.deepStrictEqual(yield* waits(["p"], {}), one)
      assert.deepStrictEqual(yield* waits(["p", "s"], {}), { ...one, hintWithOthers: 5000 })
      assert.deepStrictEqual(yield* waits(["p", "s"], { failover: false }), one)
      const { joined: _, ...alone } = one
      assert.deepStrictEqual(yield* waits(["p"], { idempotency: false }), alone)
    }))

  it.effect("without limits are those for ever", () =>
    Effect.gen(function*() {
      assert.deepStrictEqual(yield* waits(["p"], { timeout: false, retry: false }), {
        complete: Infinity,
        firstPart: Infinity,
        silence: Infinity,
        stream: Infinity,
        hint: 0,
        hintWithOthers: 0,
        joined: Infinity
      })
    }))

  it.effect.each([[{ idle: 20, deadline: 3000 }, 20, 3000], [{ idle: 4000, deadline: 3000 }, 3000, 3000]] as const)(
    "in a stream: %j",
    ([timeout, silence, stream]) =>
      Effect.gen(function*() {
        const told = yield* waits(["p"], { timeout })
        assert.deepStrictEqual([told.silence, told.stream], [silence, stream])
      })
  )

  it.effect.each<[string, LlmConfig.Options, number]>([
    ["a hint as a retry waits for it", {}, 60_000],
    ["no retries", { retry: { maxRetries: 0 } }, 0],
    ["none that the purse pays for", { retryBudget: { capacity: 0 } }, 0],
    ["hedges are no retries", { retry: { maxRetries: 0 }, hedge: { delay: 10 } }, 0]
  ])("a hint: %s", ([, options, hint]) =>
    Effect.gen(function*() {
      assert.strictEqual((yield* waits(["p"], options)).hint, hint)
    }))

  it.effect("a user's own guards may take as long as they like", () =>
    Effect.gen(function*() {
      const guards = [{ name: "mine", acquire: () => Effect.succeed({}) }]
      const lines = (own: typeof guards) =>
        Effect.map(LlmConfig.explain(["p"], { guards: own, rateLimit: false }), ({ targets }) => targets[0]?.line)
      assert.strictEqual(yield* lines(guards), Infinity)
      assert.strictEqual(yield* lines([]), 0)
    }))

  it.effect("for shared stores are there where one is asked", () =>
    Effect.gen(function*() {
      const limits = [{ dimension: "requests", limit: 1, per: "1 minute" }] as const
      const targets = [[provider], [provider, { provider, limits }]]
      const none = { idempotency: false, cache: false, rateLimit: false } as const
      const only: ReadonlyArray<LlmConfig.Options> = [{ ...none, idempotency: {} }, { ...none, cache: {} }, {
        ...none,
        rateLimit: {}
      }, none]
      const asked = Effect.forEach(targets, (list) =>
        Effect.forEach(only, (options) =>
          Effect.map(LlmConfig.explain(list, options), ({ waits }) => waits.stores)))
      const [away, late] = [undefined, 150]
      assert.deepStrictEqual(yield* asked, [[away, away, away, away], [away, away, away, away]])
      const store = yield* Store.memory<string>({ maxEntries: 1 })
      assert.deepStrictEqual(yield* Effect.provideService(asked, Idempotency.IdempotencyStore, store), [
        [late, away, away, away],
        [late, away, away, away]
      ])
      assert.deepStrictEqual(yield* Effect.provideService(asked, ResponseCache.ResponseCacheStore, store), [
        [away, late, away, away],
        [away, late, away, away]
      ])
      const buckets = {
        take: () =>
          Effect.never,
        settle: () => Effect.never,
        health: undefined
      }
      assert.deepStrictEqual(
        yield* Effect.provideService(asked, RateLimiter.RateLimiterStore, buckets as never),
        [[away, away, late, away], [late, late, late, late]]
      )
    }))
})

describe("failures", () => {
  const told = (targets: ReadonlyArray<string>, options: LlmConfig.Options) =>
    Effect.map(
      LlmConfig.explain(targets, options),
      ({ failures }) => Object.fromEntries(failures.map(({ what, ...facts }) => [what, facts]))
    )

  it.effect("follow the table", () =>
    Effect.gen(function*() {
      const one = yield* told(["p"], { timeout: { deadline: false } })
      assert.deepStrictEqual(one["429"], {
        retries: 3,
        failover: false,
        counts: false,
        stale: true,
        error: "ProviderError"
      })
      assert.deepStrictEqual(one["503"], {
        retries: 3,
        failover: false,
        counts: true,
        stale: true,
        error: "ProviderError"
      })
      assert.strictEqual(one["hang"]?.error, "AttemptTimeout")
      assert.strictEqual(one["all-away"]?.error, "CircuitOpen")
      const two = yield* told(["p", "s"], {})
      assert.deepStrictEqual(two["quota"], {
        retries: 0,
        failover: true,
        coolDown: 600_000,
        counts: false,
        stale: true,
        error: "AllProvidersFailed"
      })
      assert.deepStrictEqual(two["bad-key"], {
        retries: 0,
        failover: true,
        coolDown: 600_000,
        counts: false,
        stale: false,
        error: "AllProvidersFailed"
      })
      assert.strictEqual(two["hang"]?.error, "DeadlineExceeded")
      assert.strictEqual(two["all-away"]?.error, "AllProvidersUnavailable")
      assert.deepStrictEqual(two["cut-stream"], {
        retries: 0,
        failover: false,
        counts: true,
        stale: false,
        error: "StreamInterrupted"
      })
    }))

  it.effect("and what the options say instead", () =>
    Effect.gen(function*() {
      const { 429: limited, 503: down } = yield* told(["p", "s"], {
        retry: { when: (error) => error._tag === "ProviderError" && error.reason._tag !== "RateLimit" },
        failover: { on: { Overloaded: false } },
        circuitBreaker: false,
        cache: false
      })
      assert.deepStrictEqual(limited, {
        retries: 0,
        failover: true,
        counts: false,
        stale: false,
        error: "AllProvidersFailed"
      })
      assert.deepStrictEqual(down, { retries: 3, failover: false, counts: false, stale: false, error: "ProviderError" })
    }))

  it.effect("as many retries as the most patient target has", () =>
    Effect.gen(function*() {
      // A second retry is paid after 200 ms: that is longer than an attempt of the first target, and shorter than the other's.
      const { failures } = yield* LlmConfig.explain([provider, { provider, bulkhead: { maxWait: 100, queue: 1 } }], {
        ...brief,
        retry: { ...brief.retry, maxRetryAfter: 0 },
        circuitBreaker: false,
        rateLimit: false,
        retryBudget: { capacity: 1, perAttempt: 0, perSecond: 5 }
      })
      assert.strictEqual(failures[0]?.retries, 2)
    }))

  it.effect("are of no circuit without one, and of one where a single target has it", () =>
    Effect.gen(function*() {
      const counts = (own: Target.TargetOptions) =>
        Effect.map(
          LlmConfig.explain([{ provider, circuitBreaker: false }, { provider, ...own }], {}),
          ({ failures }) => failures.map(({ counts, what }) => `${what}: ${counts}`).slice(0, 2)
        )
      assert.deepStrictEqual(yield* counts({}), ["429: false", "503: true"])
      assert.deepStrictEqual(yield* counts({ circuitBreaker: false }), ["429: false", "503: false"])
    }))

  it.effect("without failover nobody else is asked", () =>
    Effect.gen(function*() {
      const all = yield* told(["p", "s"], { failover: false })
      assert.deepStrictEqual(all["quota"], {
        retries: 0,
        failover: false,
        counts: false,
        stale: true,
        error: "ProviderError"
      })
      assert.strictEqual(all["all-away"]?.error, "CircuitOpen")
    }))

  it.effect("what nothing ends or nothing turns away is not there", () =>
    Effect.gen(function*() {
      const off = { timeout: false, circuitBreaker: false } as const
      assert.deepStrictEqual(Object.keys(yield* told(["p"], off)).toSorted(), [
        "429",
        "503",
        "all-down",
        "bad-key",
        "cut",
        "cut-stream",
        "quota"
      ])
      const hang = (timeout: LlmConfig.Options["timeout"]) =>
        Effect.map(told(["p"], { timeout }), (all) => all["hang"]?.error)
      assert.strictEqual(yield* hang({ attempt: false, deadline: 1000 }), "DeadlineExceeded")
      assert.strictEqual(yield* hang({ attempt: 100, deadline: false }), "AttemptTimeout")
      assert.isUndefined(yield* hang({ attempt: false, deadline: false }))
    }))

  it.effect("are shown to `retry.when` as they would come, and no others", () =>
    Effect.gen(function*() {
      const shown = new Set<string>()
      const when = (error: LlmError.ProviderError | LlmError.AttemptTimeout): boolean => {
        const { _tag: tag, ...facts } = error._tag === "ProviderError" ? error.reason : { _tag: error._tag }
        shown.add(JSON.stringify([tag, error._tag === "ProviderError" ? error.status : undefined, facts]))
        return error._tag === "AttemptTimeout"
      }
      const all = yield* told(["p"], { retry: { when } })
      assert.deepStrictEqual([...shown], [
        "[\"RateLimit\",429,{}]",
        "[\"Overloaded\",503,{}]",
        "[\"AttemptTimeout\",null,{}]",
        "[\"MalformedResponse\",null,{\"problem\":\"the stream ended before its terminal event\"}]",
        "[\"Quota\",429,{}]",
        "[\"Authentication\",401,{}]",
        "[\"Network\",null,{\"sent\":false,\"kind\":\"connect\"}]"
      ])
      assert.deepStrictEqual(Object.entries(all).flatMap(([what, { retries }]) => retries > 0 ? [what] : []), ["hang"])
      const always = yield* told(["p"], { retry: { when: () => true } })
      assert.strictEqual(always["quota"]?.retries, 3)
      assert.strictEqual(always["cut-stream"]?.retries, 0)
    }))

  // What a call fails with whose attempts all hang: each to its end, with the pauses between them.
  const patient = { maxRetries: 300, baseDelay: 1, factor: 1, jitter: "none" } as const
  it.effect.each<[string, number, LlmConfig.Options, LlmError.LlmError["_tag"]]>([
    ["a deadline that is far", 1, {}, "AttemptTimeout"],
    ["a deadline that more retries would reach", 1, {
      retry: { ...brief.retry, factor: 1 }
    }, "AttemptTimeout"],
    [
      "three attempts, and a deadline at the end of the last one",
      1,
      { timeout: { attempt: 100, deadline: 330 } },
      "DeadlineExceeded"
    ],
    ["a deadline after it", 1, { timeout: { attempt: 100, deadline: 331 } }, "AttemptTimeout"],
    [
      "one attempt that ends at the deadline",
      1,
      { retry: false, timeout: { attempt: 100, deadline: 100 } },
      "DeadlineExceeded"
    ],
    ["one that ends before it", 1, { retry: false, timeout: { attempt: 100, deadline: 101 } }, "AttemptTimeout"],
    [
      "a pause that ends at the deadline is not waited for",
      1,
      { timeout: { attempt: 100, deadline: 110 } },
      "AttemptTimeout"
    ],
    ["a pause that ends before it is", 1, { timeout: { attempt: 100, deadline: 111 } }, "DeadlineExceeded"],
    [
      "two targets, each with half of the time",
      2,
      { retry: false, timeout: { attempt: 100, deadline: 200 } },
      "DeadlineExceeded"
    ],
    [
      "and with more than it needs",
      2,
      { retry: false, timeout: { attempt: 100, deadline: 201 } },
      "AllProvidersFailed"
    ],
    // From 0 to 100, and again at 540, which is more than half; the other one from 100 to 200 and from 640 to 740.
    ["a share that ends before a pause does", 2, {
      retry: { ...brief.retry, baseDelay: 440, factor: 1 }
    }, "AllProvidersFailed"],
    ["without failover one target has all of the time", 2, {
      retry: false,
      failover: false,
      timeout: { attempt: 100, deadline: 150 }
    }, "AttemptTimeout"],
    // 301 attempts of 1 ms and 300 pauses.
    ["more retries than are told apart, until the deadline", 1, {
      retry: patient,
      timeout: { attempt: 1, deadline: 601 }
    }, "DeadlineExceeded"],
    ["and until just before it", 1, { retry: patient, timeout: { attempt: 1, deadline: 602 } }, "AttemptTimeout"]
  ])("hangs: %s", ([, count, options, error]) =>
    Effect.gen(function*() {
      const all = yield* told(["p", "s"].slice(0, count), { ...brief, rateLimit: false, ...options })
      assert.strictEqual(all["hang"]?.error, error)
    }))
})

describe("memory", () => {
  it.effect("of the defaults, and of limits by tenant for all targets", () =>
    Effect.gen(function*() {
      const memory = (options: LlmConfig.Options) =>
        Effect.map(LlmConfig.explain(["p"], options), (told) => told.memory)
      const usual = [
        { what: "answers of the cache", count: 1000, bytes: 64 * 1024 * 1024 },
        { what: "answers by key", count: 10_000, bytes: 64 * 1024 * 1024 },
        { what: "parts kept of each open stream", count: 100_000, bytes: 16 * 1024 * 1024 },
        { what: "events for each reader of `events`", count: 1024 },
        { what: "calls in the line of the client's bucket", count: 256 }
      ]
      assert.deepStrictEqual(yield* memory({}), usual)
      assert.deepStrictEqual(yield* memory({ rateLimit: { limits: [{ ...limits[0], by: "tenant" }] }, bulkhead: {} }), [
        ...usual,
        { what: "tenants of the client's bucket", count: 10_000 },
        { what: "calls in the line of p's bulkhead", count: 100 }
      ])
    }))
  it.effect("is bounded in number, and in bytes where it is; what a store keeps is not in it", () =>
    Effect.gen(function*() {
      const own = { limits: [{ ...limits[0], by: "tenant" as const }] }
      const explain = LlmConfig.explain([{ provider, ...own }], {
        idempotency: { derive: "replay", maxEntries: 7 },
        cache: { maxEntries: 5, maxBytes: 1000 },
        circuitBreaker: { scope: "model" }
      })
      const { memory, waits } = yield* explain
      assert.deepStrictEqual(memory.map(({ bytes, count, what }) => [what, count, bytes]), [
        ["answers of the cache", 5, 1000],
        ["answers by key", 7, 64 * 1024 * 1024],
        ["answers by question", 7, 64 * 1024 * 1024],
        ["parts kept of each open stream", 100_000, 16 * 1024 * 1024],
        ["events for each reader of `events`", 1024, undefined],
        ["calls in the line of the client's bucket", 256, undefined],
        ["calls in the line of p's limits", 256, undefined],
        ["tenants of p's limits", 10_000, undefined],
        ["circuits of p", 100, undefined]
      ])
      assert.isUndefined(waits.stores)
      const store = yield* Store.memory<string>({ maxEntries: 10 })
      const shared = yield* Effect.provideService(explain, Idempotency.IdempotencyStore, store)
      assert.notInclude(shared.memory.map(({ what }) => what), "answers by key")
      assert.strictEqual(shared.waits.stores, 150)
    }))
})

it.effect("as text, every line fits a terminal and no bound is missing", () =>
  Effect.gen(function*() {
    const explanation = yield* LlmConfig.explain(["openai", "anthropic"], {
      bulkhead: {},
      cache: { readThrough: true },
      hedge: {},
      loadShedding: {},
      routing: {},
      timeout: { deadline: false }
    })
    const text = LlmConfig.render(explanation)
    assert.deepStrictEqual(text.split("\n").filter((line) => line.length > 80), [])
    assert.include(text, "for the end of a stream")
    assert.match(text, /for the end of a stream +no limit/)
    assert.notMatch(text, /Infinity|NaN|undefined/)
  }))

it.effect("what only watches is in no bound, and named", () =>
  Effect.gen(function*() {
    const shadow = { mode: "shadow" } as const
    const provider = LlmProvider.make({ id: "openai", generate: () => Effect.never })
    const limits = [{ dimension: "requests", limit: 1, per: "1 minute" }] as const
    const { shadow: watching, ...watched } = yield* LlmConfig.explain(
      [{ provider, limits: { limits, ...shadow }, circuitBreaker: shadow }],
      {
        rateLimit: shadow,
        retryBudget: { capacity: 0, ...shadow },
        hedge: { delay: 10, ...shadow },
        loadShedding: shadow
      }
    )
    const off = yield* LlmConfig.explain([{ provider, circuitBreaker: false }], {
      rateLimit: false,
      retryBudget: false
    })
    assert.deepStrictEqual({ ...watched, shadow: [] }, off)
    assert.deepStrictEqual(watching, [
      "hedge",
      "retry budget",
      "load-shedding",
      "rate-limit (client)",
      "rate-limit (openai)",
      "circuit-breaker (openai)"
    ])
    assert.include(LlmConfig.render({ ...watched, shadow: watching }), "In shadow mode")
  }))
