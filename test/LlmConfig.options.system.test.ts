// Every option of every pattern, set through a variable and through a document, and seen in what a client does.
import { assert, describe, it } from "@effect/vitest"
import { Config, ConfigProvider, Effect, Stream } from "effect"
import { LlmConfig, LlmError, type LlmEvent, type LlmRequest } from "effect-resilient-llm"
import { Store } from "effect-resilient-llm/persistence"
import { RateLimiter } from "effect-resilient-llm/resilience"
import { ScriptedProvider } from "effect-resilient-llm/testing"
import * as SchemaAST from "effect/SchemaAST"
import * as Str from "effect/String"
import { TestClock } from "effect/testing"
import { namesIn } from "../src/internal/configuration.ts"
import { fork, type Kind, recordsIn, type Script, setUp, vector } from "./support.ts"

const { answer, fail, hang, overloaded, rateLimited, stream } = ScriptedProvider
const always = (step: ScriptedProvider.Step): Script => ({ always: step })
const calling = answer([
  { type: "tool-call", id: "1", name: "pay", params: {}, providerExecuted: false },
  {
    type: "finish",
    reason: "tool-calls",
    usage: {
      inputTokens: { total: 1, uncached: 1, cacheRead: undefined, cacheWrite: undefined },
      outputTokens: { total: 1, text: 1, reasoning: undefined }
    }
  }
])

const after = (delay: number) => ({ ...answer("late"), delay })

/** A call: when it begins, and what it asks. */
type Ask = readonly [at: number, input?: Partial<LlmRequest.Input>, kind?: Kind]

interface Story {
  readonly scripts: readonly [Script, ...ReadonlyArray<Script>]
  readonly asks: ReadonlyArray<Ask>
  /** What else is set, in code. */
  readonly beside?: LlmConfig.Options
  /** What the providers are like. */
  readonly traits?: ReadonlyArray<ScriptedProvider.Options>
  /** Where records are kept. */
  readonly store?: Store.LeaseStore<string>
}

const times = (count: number, every: number): ReadonlyArray<Ask> => Array.from({ length: count }, (_, i) => [i * every])
const together = (count: number): ReadonlyArray<Ask> => times(count, 0)

/** What happens, with times: the events of all calls, as they happen. */
const tell = ({ asks, beside, scripts, store, traits }: Story, options: LlmConfig.Options) =>
  vector(Effect.gen(function*() {
    notes.length = 0
    const merged: Record<string, unknown> = { ...beside }
    for (const [name, own] of Object.entries(options)) {
      const base = merged[name]
      merged[name] = typeof own === "object" && typeof base === "object" ? { ...base, ...own } : own
    }
    const r = yield* store === undefined ? setUp(scripts, merged, [], traits) : recordsIn(store)(setUp(scripts, merged))
    const told: Array<string> = []
    yield* fork(Stream.runForEach(r.client.events, (event) => Effect.sync(() => told.push(line(event)))))
    for (const [at, input, kind = "complete"] of asks) {
      const request = { prompt: "Hi", ...input } as LlmRequest.Input
      const call = kind === "complete" ? r.client.complete(request) : Stream.runDrain(r.client.stream(request))
      yield* fork(Effect.delay(Effect.exit(call), at))
    }
    yield* TestClock.adjust("2 days")
    return [...told, ...notes].toSorted()
  }))

const line = (event: LlmEvent.LlmEvent): string => JSON.stringify(event)

const failing: Story = { scripts: [always(overloaded)], asks: [[0]] }
const retries = { retry: { maxRetries: 2, baseDelay: 500 } }
const shedding = { loadShedding: {}, retry: false } as const
const queueing = (priority: LlmRequest.LlmRequest["priority"]): Story => ({
  scripts: [always(after(1000))],
  asks: Array.from({ length: 6 }, () => [0, { priority: priority ?? "default" }]),
  beside: { bulkhead: { maxConcurrent: 1, queue: 4 }, loadShedding: {} }
})
const measured = (routing: LlmConfig.Options["routing"]): Story => ({
  scripts: [always(after(50)), always(after(10))],
  asks: Array.from({ length: 6 }, (_, i): Ask => [i * 1000, {}, "stream"]),
  beside: { routing }
})
const adaptive: Story = {
  scripts: [always({ ...overloaded, delay: 1000 })],
  asks: [...together(12), [5000], [5000], [5000], [5000], [5000], [5000], [5000]],
  beside: { bulkhead: {}, retry: false }
}
const calls = (
  count: number,
  every: number,
  script: Script,
  beside: LlmConfig.Options = { circuitBreaker: {} }
): Story => ({
  scripts: [script],
  asks: times(count, every),
  beside: { ...beside, retry: false }
})
const alternating: Script = Array.from({ length: 40 }, (_, i) => i % 2 === 0 ? answer("x") : overloaded)
const tripped = (...then: ReadonlyArray<ScriptedProvider.Step>): Script => ({
  script: [overloaded, overloaded, overloaded, overloaded, overloaded, ...then],
  always: answer("x")
})
const opened = (asks: ReadonlyArray<Ask>, ...then: ReadonlyArray<ScriptedProvider.Step>): Story => ({
  scripts: [tripped(...then)],
  asks: [...together(5), ...asks],
  beside: { circuitBreaker: {}, retry: false }
})
const asked = (at: number, prompt = "Hi"): Ask => [at, { prompt, cache: "always" }]
const cached = (script: Script, asks: ReadonlyArray<Ask>, cache: LlmConfig.CacheOptions = {}): Story => ({
  scripts: [script],
  asks,
  beside: { cache: { readThrough: true, ...cache }, retry: false }
})
const keyed = (...asks: ReadonlyArray<readonly [number, string]>): Story => ({
  scripts: [always(answer("x"))],
  asks: asks.map(([at, idempotencyKey]) => [at, { idempotencyKey }]),
  beside: { idempotency: {} }
})

/** What stores were asked for. */
const notes: Array<string> = []

const noting = (note: (lease: number, options: unknown) => unknown): Store.LeaseStore<string> => ({
  ...Effect.runSync(Store.memory<string>({ maxEntries: 10 })),
  acquire: (_key, lease, options) => {
    notes.push(JSON.stringify(note(lease, options)))
    return Effect.fail(new Store.StoreError({ operation: "acquire" }))
  }
})

interface Row {
  /** As in the environment. */
  readonly text: string
  /** As in a document. */
  readonly json: unknown
  readonly story: Story
  /** What it cannot be without, in both forms. */
  readonly needs?: readonly [variables: Readonly<Record<string, string>>, inDocument: object]
}

const row = (text: string, json: unknown, story: Story, needs?: Row["needs"]): Row => ({
  text,
  json,
  story,
  ...(needs === undefined ? undefined : { needs })
})

const tags = [
  ...["RateLimit", "Quota", "Overloaded", "Server", "Timeout", "Conflict", "Authentication", "Permission"] as const,
  ...["NotFound", "ContextLength", "PayloadTooLarge", "ContentPolicy", "InvalidRequest", "ClientClosed"] as const,
  "Unknown" as const
]
const reasons: ReadonlyArray<LlmError.Reason> = [
  ...tags.map((_tag) => ({ _tag })),
  { _tag: "Network", sent: true },
  { _tag: "MalformedResponse", problem: "no JSON" }
]

const rows: Readonly<Record<string, Row>> = {
  "idempotency.ttl": row("1s", "1s", keyed([0, "k"], [5000, "k"])),
  "idempotency.maxEntries": row("1", 1, keyed([0, "a"], [1, "b"], [2, "a"])),
  "idempotency.maxBytes": row("1", 1, keyed([0, "k"], [5000, "k"])),
  "idempotency.derive": row("join", "join", {
    scripts: [always(after(1000))],
    asks: together(2),
    beside: { idempotency: {} }
  }),
  "idempotency.lease": row("7s", "7 seconds", {
    ...keyed([0, "k"]),
    store: noting((lease) => lease)
  }),
  "idempotency.takeOver": row("true", true, {
    ...keyed([0, "k"]),
    store: noting((_, options) => options ?? null)
  }),

  "rateLimit.capacity": row("2", 2, {
    scripts: [always(answer("x"))],
    asks: together(5),
    beside: { rateLimit: { refillPerSecond: 1 } }
  }),
  "rateLimit.refillPerSecond": row("0.5", 0.5, {
    scripts: [always(answer("x"))],
    asks: together(3),
    beside: { rateLimit: { capacity: 1 } }
  }),
  "rateLimit.limits": row(
    "[{\"dimension\":\"requests\",\"limit\":2,\"per\":\"1m\",\"burst\":1}]",
    [{ dimension: "requests", limit: 2, per: "1m", burst: 1 }],
    { scripts: [always(answer("x"))], asks: together(3), beside: { rateLimit: {} } }
  ),
  "rateLimit.maxWait": row("100ms", 100, {
    scripts: [always(answer("x"))],
    asks: together(3),
    beside: { rateLimit: { capacity: 1, refillPerSecond: 1 } }
  }),
  "rateLimit.queue": row("1", 1, {
    scripts: [always(answer("x"))],
    asks: together(3),
    beside: { rateLimit: { capacity: 1, refillPerSecond: 1 } }
  }),

  "rateLimit.mode": row("shadow", "shadow", {
    scripts: [always(answer("x"))],
    asks: together(3),
    beside: { rateLimit: { capacity: 1, refillPerSecond: 1 } }
  }),

  "circuitBreaker.mode": row("shadow", "shadow", calls(7, 1000, always(overloaded))),
  "circuitBreaker.failureThreshold": row("2", 2, calls(3, 1000, always(overloaded))),
  "circuitBreaker.failureRate": row("0.9", 0.9, calls(12, 1000, alternating)),
  "circuitBreaker.minimumCalls": row("4", 4, calls(12, 1000, alternating)),
  "circuitBreaker.window": row("10m", "10 minutes", calls(12, 12_000, alternating)),
  "circuitBreaker.recoveryTimeout": row("5s", 5000, opened([[6000], [31_000]])),
  "circuitBreaker.maxRecoveryTimeout": row(
    "30s",
    "30s",
    opened([[31_000], [62_000], [95_000]], overloaded, overloaded)
  ),
  "circuitBreaker.maxRetryAfter": row("1s", 1000, {
    scripts: [always(fail({ _tag: "Overloaded" }, { status: 503, retryAfter: "2 minutes" }))],
    asks: [...together(5), [31_000]],
    beside: { circuitBreaker: {}, retry: false }
  }),
  "circuitBreaker.halfOpenProbes": row(
    "3",
    3,
    opened([[31_000], [31_001], [31_002]], after(100), after(100), after(100))
  ),
  "circuitBreaker.successThreshold": row("2", 2, opened([[31_000], [32_000]])),
  "circuitBreaker.slowCall.duration": row("1s", "1s", calls(12, 4000, always(after(3000)))),
  "circuitBreaker.slowCall.rate": row(
    "1",
    1,
    calls(12, 4000, Array.from({ length: 12 }, (_, i) => i === 0 ? answer("x") : after(3000)), {
      circuitBreaker: { slowCall: { duration: 1000 } }
    }),
    [{ LLM_CIRCUIT_BREAKER_SLOW_CALL_DURATION: "1s" }, { duration: "1s" }]
  ),
  "circuitBreaker.scope": row("model", "model", {
    scripts: [tripped()],
    asks: [...together(5).map(([at]): Ask => [at, { model: "a" }]), [1000, { model: "b" }]],
    beside: { circuitBreaker: {}, retry: false }
  }),

  "timeout.attempt": row("2s", 2000, { scripts: [always(hang)], asks: [[0]], beside: { timeout: {}, retry: false } }),
  "timeout.firstToken": row("2s", 2000, {
    scripts: [always(hang)],
    asks: [[0, {}, "stream"]],
    beside: { timeout: {}, retry: false }
  }),
  "timeout.idle": row("2s", 2000, {
    scripts: [[stream("a", { wait: 30_000 }, "b")]],
    asks: [[0, {}, "stream"]],
    beside: { timeout: {}, retry: false }
  }),
  "timeout.deadline": row("2s", 2000, { scripts: [always(hang)], asks: [[0]], beside: { timeout: {}, retry: false } }),

  "retry.maxRetries": row("1", 1, failing),
  "retry.baseDelay": row("50ms", 50, failing),
  "retry.factor": row("3", 3, failing),
  "retry.maxDelay": row("600ms", 600, failing),
  "retry.jitter": row("none", "none", failing),
  "retry.maxRetryAfter": row("10s", "10s", { scripts: [always(rateLimited("30 seconds"))], asks: [[0]] }),

  "retryBudget.capacity": row("1", 1, { ...failing, beside: { ...retries, retryBudget: {} } }),
  "retryBudget.perAttempt": row("1", 1, {
    scripts: [always(overloaded)],
    asks: together(12),
    beside: { ...retries, retryBudget: { perSecond: 0 } }
  }),
  "retryBudget.perSecond": row("5", 5, {
    scripts: [always(overloaded)],
    asks: times(12, 1000),
    beside: { ...retries, retryBudget: { perAttempt: 0 } }
  }),

  "retryBudget.mode": row("shadow", "shadow", { ...failing, beside: { ...retries, retryBudget: { capacity: 1 } } }),

  "failover.maxRetryAfter": row("30s", "30s", {
    scripts: [[rateLimited("10 seconds"), answer("p")], always(answer("s"))],
    asks: [[0]]
  }),
  "failover.coolDown": row("30s", "30s", {
    scripts: [[fail({ _tag: "Quota" }, { status: 402 }), answer("p")], always(answer("s"))],
    asks: [[0], [60_000]]
  }),

  "failover.maxAttempts": row("2", 2, { scripts: [always(overloaded), always(answer("s"))], asks: [[0]] }),
  "failover.requireFeatures": row("[\"seed\"]", ["seed"], {
    scripts: [always(answer("p")), always(answer("s"))],
    asks: [[0, { seed: 1 }]],
    traits: [{ changes: () => [{ field: "seed", action: "dropped" }] }]
  }),
  ...Object.fromEntries(reasons.map((reason) => {
    const moves = LlmError.classify(new LlmError.ProviderError({ provider: "p", reason })).failover !== false
    const story: Story = { scripts: [always(fail(reason)), always(answer("s"))], asks: [[0]], beside: { retry: false } }
    return [`failover.on.${reason._tag}`, row(String(!moves), !moves, story)]
  })),

  "cache.ttl": row("1s", "1s", cached(always(answer("x")), [asked(0), asked(5000)])),
  "cache.swr": row("1m", "1 minute", cached(always(answer("x")), [asked(0), asked(5000)], { ttl: 1000 })),
  "cache.staleIfError": row(
    "2s",
    "2s",
    cached({ script: [answer("x")], always: overloaded }, [asked(0), asked(5000)], { ttl: 1000 })
  ),
  "cache.swrMinInterval": row(
    "1m",
    "1m",
    cached({ script: [answer("x")], always: overloaded }, [asked(0), asked(5000), asked(10_000)], {
      ttl: 1000,
      swr: "1 hour"
    })
  ),
  "cache.maxEntries": row("1", 1, cached(always(answer("x")), [asked(0, "a"), asked(1, "b"), asked(2, "a")])),
  "cache.maxBytes": row("1", 1, cached(always(answer("x")), [asked(0), asked(1)])),
  "cache.toolCalls": row(
    "true",
    true,
    cached(always(calling), [asked(0), asked(1)])
  ),
  "cache.readThrough": row("true", true, {
    scripts: [always(answer("x"))],
    asks: [asked(0), asked(1)],
    beside: { cache: {} }
  }),

  "hedge.delay": row("1s", "1s", {
    scripts: [[after(3000)], always(after(100))],
    asks: [[0]],
    beside: { hedge: {} }
  }),
  "hedge.mode": row("shadow", "shadow", {
    scripts: [[after(3000)], always(after(100))],
    asks: [[0]],
    beside: { hedge: { delay: 1000 } }
  }),
  "hedge.maxHedges": row("2", 2, {
    scripts: [always(after(9000)), always(after(9000)), always(after(9000))],
    asks: [[0]],
    beside: { hedge: { delay: 1000 } }
  }),
  "hedge.minDelay": row("2s", 2000, {
    scripts: [[...Array.from({ length: 20 }, () => answer("x")), after(9000)], always(answer("y"))],
    asks: Array.from({ length: 21 }, (_, i): Ask => [i * 1000, {}, "stream"]),
    beside: { hedge: {} }
  }),

  "loadShedding.mode": row("shadow", "shadow", queueing("sheddable")),
  "loadShedding.throttle.ratio": row(
    "1",
    1,
    calls(
      16,
      1000,
      [...Array.from({ length: 5 }, () => answer("x")), ...Array.from({ length: 11 }, () => overloaded)],
      shedding
    )
  ),
  "loadShedding.throttle.window": row("12ms", 12, calls(6, 1000, always(overloaded), shedding)),
  "loadShedding.throttle.maxRejection": row("0.1", 0.1, calls(6, 1000, always(overloaded), shedding)),

  "loadShedding.thresholds.critical": row("0.5", 0.5, queueing("critical")),
  "loadShedding.thresholds.default": row("0.5", 0.5, queueing("default")),
  "loadShedding.thresholds.batch": row("0.25", 0.25, queueing("batch")),
  "loadShedding.thresholds.sheddable": row("0.25", 0.25, queueing("sheddable")),

  "routing.strategy": row("weights", "weights", { scripts: [always(answer("x")), always(answer("y"))], asks: [[0]] }),
  "routing.sticky": row("tenant", "tenant", {
    scripts: [always(answer("x")), always(answer("y"))],
    asks: Array.from({ length: 5 }, (_, i): Ask => [i, { tenant: `${i}` }])
  }),
  "routing.halfLife": row("1ms", "1ms", measured({ strategy: "fastest", explore: 1 })),
  "routing.explore": row("1", 1, measured({ strategy: "fastest" })),

  "bulkhead.adaptive.initial": row("1", 1, adaptive),
  "bulkhead.adaptive.min": row("11", 11, adaptive),
  "bulkhead.adaptive.max": row("4", 4, adaptive),
  "bulkhead.adaptive.backoffRatio": row("0.5", 0.5, adaptive),
  "bulkhead.maxConcurrent": row("1", 1, {
    scripts: [always(after(1000))],
    asks: together(2),
    beside: { bulkhead: {} }
  }),
  "bulkhead.queue": row("1", 1, {
    scripts: [always(after(1000))],
    asks: together(3),
    beside: { bulkhead: { maxConcurrent: 1 } }
  }),
  "bulkhead.maxWait": row("100ms", "100ms", {
    scripts: [always(after(1000))],
    asks: together(2),
    beside: { bulkhead: { maxConcurrent: 1 } }
  })
}

/** By its variable, and in a document. */
const providersOf = (variables: Readonly<Record<string, string>>, document: unknown) => ({
  variable: ConfigProvider.fromEnvRecord(variables),
  constantCase: ConfigProvider.constantCase(ConfigProvider.fromEnvRecord(variables)),
  document: ConfigProvider.fromUnknown({ LLM: document }),
  below: ConfigProvider.fromUnknown({ APP: { LLM: document } })
})

/** That a client does another thing with an option, and the same wherever it comes from. */
const seen = (story: Story, variables: Readonly<Record<string, string>>, document: unknown) =>
  Effect.gen(function*() {
    const inCode = yield* tell(story, yield* LlmConfig.fromJson(document))
    assert.notDeepEqual(inCode, yield* tell(story, {}), "it changes what the client does")
    for (const [kind, provider] of Object.entries(providersOf(variables, document))) {
      const config = kind === "below" ? Config.nested(LlmConfig.config, "APP") : LlmConfig.config
      assert.deepStrictEqual(yield* tell(story, yield* config.parse(provider)), inCode, kind)
    }
  })

/** `a.b.c` with a value at it. */
const documentAt = (name: string, value: unknown): unknown =>
  name.split(".").toReversed().reduce<unknown>((inner, key) => ({ [key]: inner }), value)

describe("every option of every pattern", () => {
  const names = namesIn(LlmConfig.OptionsSchema)
  const all = [...names.keys()]

  it("is in the table, or among what is switched as a whole", () => {
    const leaves = all.filter((name) => !all.some((other) => other.startsWith(`${name}.`)))
    assert.deepStrictEqual(Object.keys(rows).toSorted(), leaves.toSorted())
  })

  for (const [name, { json, needs: [others, inDocument] = [{}, {}], story, text }] of Object.entries(rows)) {
    it.effect(`${name}: by its variable and in a document, as in code`, () => {
      const last = name.slice(name.lastIndexOf(".") + 1)
      const above = name.slice(0, -last.length - 1)
      const document = documentAt(above, { ...inDocument, [last]: json })
      return seen(story, { [`LLM_${names.get(name)}`]: text, ...others }, document)
    })
  }
})

// -----------------------------------------------------------------------------
// what is switched as a whole
// -----------------------------------------------------------------------------

const members = (ast: SchemaAST.AST): ReadonlyArray<SchemaAST.AST> =>
  ast._tag === "Union" ? ast.types.flatMap(members) : [ast]

/** The paths of whatever has options, with the words that it can be instead. */
const switchesIn = (ast: SchemaAST.AST, above: string): ReadonlyArray<string> =>
  members(ast).filter((member) => member._tag === "Objects").flatMap(({ propertySignatures }) =>
    propertySignatures.flatMap(({ name, type }) => {
      const path = `${above}${String(name)}`
      const all = members(type)
      if (!all.some((member) => member._tag === "Objects")) return []
      const words = all.flatMap((one) =>
        one._tag === "Literal" ? [one.literal] : one._tag === "Boolean" ? [true, false] : []
      )
      return [...words.map((word) => `${path} = ${String(word)}`), ...switchesIn(type, `${path}.`)]
    })
  )

const switches: Readonly<Record<string, Story>> = {
  "idempotency = false": keyed([0, "k"], [5000, "k"]),
  "rateLimit = false": {
    scripts: [always(answer("x"))],
    asks: together(3),
    beside: { rateLimit: { capacity: 1, refillPerSecond: 1 } }
  },
  "circuitBreaker = false": calls(7, 1000, always(overloaded)),
  "circuitBreaker.slowCall = false": calls(12, 4000, always(after(3000)), {
    circuitBreaker: { slowCall: { duration: 1000 } }
  }),
  "timeout = false": { scripts: [always(hang)], asks: [[0]], beside: { timeout: {}, retry: false } },
  "retry = false": failing,
  "retryBudget = false": { ...failing, beside: { ...retries, retryBudget: { capacity: 1 } } },
  "failover = false": { scripts: [always(overloaded), always(answer("s"))], asks: [[0]] },
  "cache = false": cached(always(answer("x")), [asked(0), asked(1)]),
  "bulkhead = false": {
    scripts: [always(after(1000))],
    asks: together(2),
    beside: { bulkhead: { maxConcurrent: 1 } }
  },
  "bulkhead.adaptive = true": adaptive,
  "bulkhead.adaptive = false": { ...adaptive, beside: { bulkhead: { adaptive: true }, retry: false } },
  "hedge = false": { scripts: [[after(3000)], always(after(100))], asks: [[0]], beside: { hedge: { delay: 1000 } } },
  "loadShedding = false": queueing("sheddable"),
  "loadShedding.thresholds = false": queueing("sheddable"),
  "loadShedding.throttle = false": calls(20, 1000, always(overloaded), shedding),
  "routing = false": measured({ strategy: "fastest", explore: 1 })
}

describe("whatever has options", () => {
  it("is in the table with each word that it can be instead", () => {
    const all = switchesIn(SchemaAST.toEncoded(LlmConfig.OptionsSchema.ast), "")
    assert.deepStrictEqual(Object.keys(switches).toSorted(), [...new Set(all)].toSorted())
  })

  for (const [name, story] of Object.entries(switches)) {
    const [path = "", word = ""] = name.split(" = ")
    const variable = path.split(".").map(Str.constantCase).join("_")
    it.effect(`${name}, as in code`, () =>
      seen(story, { [`LLM_${variable}`]: word }, documentAt(path, word === "true")))
  }
})

// -----------------------------------------------------------------------------
// what a list holds
// -----------------------------------------------------------------------------

describe("every field of a limit", () => {
  const limit: RateLimiter.Limit = { dimension: "requests", limit: 2, per: "2 seconds" }
  const others: Readonly<Record<string, unknown>> = {
    dimension: "tokens",
    limit: 3,
    per: "4s",
    burst: 1,
    strict: 0.5,
    by: "tenant"
  }
  const story: Story = {
    scripts: [always(answer("x"))],
    asks: Array.from({ length: 5 }, (_, i): Ask => [0, { tenant: `${i % 2}` }])
  }

  it("is in the table", () => {
    const [element] = members(SchemaAST.toEncoded(RateLimiter.OptionsSchema.fields.limits.ast)).flatMap((member) =>
      member._tag === "Arrays" ? member.rest : []
    )
    const names = element?._tag === "Objects" ? element.propertySignatures.map(({ name }) => String(name)) : []
    assert.deepStrictEqual(Object.keys(others).toSorted(), names.toSorted())
  })

  for (const [name, value] of Object.entries(others)) {
    it.effect(`${name}, as in code`, () => {
      const document = { rateLimit: { limits: [{ ...limit, [name]: value }] } }
      const variables = { LLM_RATE_LIMIT_LIMITS: JSON.stringify(document.rateLimit.limits) }
      return seen({ ...story, beside: { rateLimit: { limits: [limit] } } }, variables, document)
    })
  }
})
