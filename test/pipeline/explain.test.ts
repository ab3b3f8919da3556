// What is said of a client before it is built is what it is built of.
import { assert, describe, it } from "@effect/vitest"
import { Context, Effect } from "effect"
import { LlmClient, LlmConfig, LlmProvider } from "effect-resilient-llm"
import { Store } from "effect-resilient-llm/persistence"
import { Bulkhead, CircuitBreaker, Idempotency, RateLimiter } from "effect-resilient-llm/resilience"
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
})

describe("memory", () => {
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
