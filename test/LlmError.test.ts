import { assert, describe, it } from "@effect/vitest"
import { Cause, Duration, Effect, Exit, Formatter, Logger, Redacted, Schema, Tracer } from "effect"
import { LlmError, type LlmEvent } from "effect-resilient-llm"
import { TestClock } from "effect/testing"
import { execFileSync } from "node:child_process"
import { fileURLToPath } from "node:url"
import { inspect } from "node:util"

const after = Duration.seconds(2)
const retryAfter = Duration.millis(1500)
const overloaded = new LlmError.ProviderError({ provider: "openai", reason: { _tag: "Overloaded" }, status: 503 })
const unauthorised = new LlmError.ProviderError({ provider: "openai", reason: { _tag: "Authentication" } })
const ended: LlmEvent.LlmEvent = { _tag: "FailedOver", call: 1, at: 2, from: "a", to: "b" }

/** Every error, with every field, and what it says. */
const errors: ReadonlyArray<
  readonly [error: LlmError.LlmError | LlmError.LlmConfigError, says: string]
> = [
  [
    new LlmError.ProviderError({
      provider: "openai",
      reason: { _tag: "MalformedResponse", problem: "no choices" },
      status: 200,
      code: "broken",
      requestId: "req-1",
      retryAfter,
      shouldRetry: false,
      rateLimits: [{ dimension: "tokens", limit: 10, remaining: 0, resetAfter: 500 }],
      detail: Redacted.make("what the user asked"),
      budgetExhausted: true,
      ledger: [ended]
    }),
    "openai sent an answer that cannot be used (HTTP 200): no choices. Try again in 1s 500ms."
  ],
  [overloaded, "openai is overloaded (HTTP 503)."],
  [
    new LlmError.ProviderError({
      provider: "openai",
      reason: { _tag: "Network", sent: false, kind: "dns" },
      code: "ENOTFOUND",
      host: "api.openai.com"
    }),
    "openai could not be reached (ENOTFOUND api.openai.com)."
  ],
  [
    new LlmError.ProviderError({ provider: "openai", reason: { _tag: "InvalidRequest" }, status: 400 }),
    "openai cannot read the request (HTTP 400). Its own words: `LlmError.details(error)`."
  ],
  [unauthorised, "openai does not accept the API key."],
  [
    new LlmError.InvalidRequest({ path: "messages[0]", rule: "a text", kind: "a number" }),
    "Invalid request: \"messages[0]\" must be a text, but is a number."
  ],
  [
    new LlmError.StreamInterrupted({
      provider: "openai",
      kind: "error",
      partialParts: 3,
      usage: { inputTokens: 1, outputTokens: 2 },
      reason: { _tag: "Server" }
    }),
    "The stream from openai broke (error) after 3 content parts."
  ],
  ...(["truncated", "reset", "idle"] as const).map((kind) =>
    [
      new LlmError.StreamInterrupted({ provider: "openai", kind, partialParts: 1 }),
      `The stream from openai broke (${kind}) after 1 content parts.`
    ] as const
  ),
  ...(["attempt", "firstToken", "idle"] as const).map((kind) =>
    [new LlmError.AttemptTimeout({ kind, after }), `The attempt exceeded its ${kind} limit of 2s.`] as const
  ),
  [new LlmError.DeadlineExceeded({ after }), "The call exceeded its deadline of 2s."],
  [
    new LlmError.CircuitOpen({ key: "openai", state: "open", retryAfter }),
    "The circuit breaker of \"openai\" is open. Try again in 1s 500ms."
  ],
  ...(["half-open", "forced-open"] as const).map((state) =>
    [new LlmError.CircuitOpen({ key: "openai", state }), `The circuit breaker of "openai" is ${state}.`] as const
  ),
  [
    new LlmError.RateLimited({ dimension: "tokens", retryAfter }),
    "The local rate limit of \"tokens\" is reached. Try again in 1s 500ms."
  ],
  [new LlmError.BulkheadFull({}), "Too many calls are in flight."],
  [new LlmError.BulkheadFull({ retryAfter }), "Too many calls are in flight. Try again in 1s 500ms."],
  [new LlmError.Shed({ reason: "queue-full" }), "The call was shed (queue-full)."],
  [new LlmError.Shed({ reason: "deadline", retryAfter }), "The call was shed (deadline). Try again in 1s 500ms."],
  [
    new LlmError.IdempotencyConflict({ keyHash: "0123456789abcdef" }),
    "The idempotency key (hash 0123456789abcdef) was already used with another request."
  ],
  [
    new LlmError.IdempotencyInProgress({ retryAfter }),
    "Another process is working on the same idempotency key. Try again in 1s 500ms."
  ],
  [
    new LlmError.AllProvidersFailed({
      targets: ["a", "b"],
      errors: [overloaded, new LlmError.AttemptTimeout({ kind: "attempt", after })]
    }),
    "All providers failed. a: openai is overloaded (HTTP 503). b: The attempt exceeded its attempt limit of 2s."
  ],
  [new LlmError.AllProvidersUnavailable({}), "All providers are unavailable."],
  [
    new LlmError.AllProvidersUnavailable({ retryAfter }),
    "All providers are unavailable. Try again in 1s 500ms."
  ],
  [
    new LlmError.LlmConfigError({ path: "retry.maxRetries", rule: "a whole number", kind: "a text" }),
    "Invalid configuration: \"retry.maxRetries\" must be a whole number, but is a text."
  ]
]

/** The same, named by what does not depend on the code. */
const named = errors.map(([error, says]) => [says, error] as const)

/** The table of what each failure means: outcome, retry, failover, cool down, stale. */
type Row = readonly [LlmError.Verdict["outcome"], boolean, LlmError.Verdict["failover"], boolean, boolean]
const transient: Row = ["failure", true, true, false, true]
const transientButHealthy: Row = ["ignored", true, true, false, true]
const refusedHere: Row = ["ignored", false, true, false, true]
const final: Row = ["ignored", false, false, false, false]

const reasons: { readonly [K in LlmError.Reason["_tag"]]: Row } = {
  RateLimit: transientButHealthy,
  Quota: ["ignored", false, true, true, true],
  Overloaded: transient,
  Server: transient,
  Timeout: transient,
  Conflict: transientButHealthy,
  Network: transient,
  MalformedResponse: transient,
  Authentication: ["ignored", false, true, true, false],
  Permission: ["ignored", false, true, true, false],
  NotFound: ["ignored", false, true, false, false],
  ContextLength: ["ignored", false, "larger", false, false],
  PayloadTooLarge: ["ignored", false, "larger", false, false],
  ContentPolicy: final,
  InvalidRequest: final,
  ClientClosed: transientButHealthy,
  Unknown: ["ignored", false, true, false, true]
}

/** The same for the kinds of a `Network` failure. */
const kinds: { readonly [K in NonNullable<Extract<LlmError.Reason, { readonly _tag: "Network" }>["kind"]>]: Row } = {
  dns: transient,
  connect: transient,
  reset: transient,
  tls: ["failure", false, true, false, true],
  local: ["ignored", true, false, false, true]
}

const tags: {
  readonly [K in Exclude<LlmError.LlmError["_tag"], "ProviderError" | "AllProvidersFailed">]: Row
} = {
  InvalidRequest: final,
  StreamInterrupted: ["failure", false, false, false, false],
  AttemptTimeout: transient,
  DeadlineExceeded: ["ignored", false, false, false, true],
  CircuitOpen: refusedHere,
  RateLimited: refusedHere,
  BulkheadFull: refusedHere,
  Shed: ["ignored", false, false, false, true],
  IdempotencyConflict: final,
  IdempotencyInProgress: final,
  AllProvidersUnavailable: ["ignored", false, false, false, true]
}

const row = (error: unknown): Row => {
  const { coolDown, failover, outcome, retry, stale } = LlmError.classify(error)
  return [outcome, retry, failover, coolDown, stale]
}

const reason = (tag: LlmError.Reason["_tag"]): LlmError.Reason =>
  tag === "Network"
    ? { _tag: tag, sent: true }
    : tag === "MalformedResponse"
    ? { _tag: tag, problem: "x" }
    : { _tag: tag }

const reasonTags = Object.keys(reasons) as Array<LlmError.Reason["_tag"]>

const fields = (error: object, other?: object): object => Object.assign({}, error, other)

describe("every error", () => {
  it.each(named)("says what happened: %s", (says, error) => {
    assert.strictEqual(error.message, says)
  })

  it.each(named)("survives JSON: %s", (_, error) => {
    const codec = Schema.toCodecJson(error.constructor as unknown as Schema.Codec<LlmError.LlmError>)
    const text = JSON.stringify(Schema.encodeUnknownSync(codec)(error))
    const back = Schema.decodeUnknownSync(codec)(JSON.parse(text))
    assert.strictEqual(back.constructor, error.constructor)
    const { detail: kept, ...told } = fields(error) as { readonly detail?: unknown }
    assert.deepStrictEqual(fields(back), told, `without ${String(kept)}`)
    assert.strictEqual(back.message, error.message)
  })

  it.each(named)("is shown as its sentence, not with all its facts: %s", (says, error) => {
    const shown = inspect("ledger" in error ? LlmError.withLedger(error, [ended, ended]) : error)
    assert.include(shown, says)
    assert.strictEqual(shown.includes("(2 facts in its ledger)"), "ledger" in error)
    assert.notInclude(shown, "FailedOver")
  })

  it("has a name of its own", () => {
    const names = new Set(errors.map(([error]) => error.name))
    assert.strictEqual(names.size, new Set(errors.map(([error]) => error._tag)).size)
    for (const [error] of errors) assert.strictEqual(error.name, `effect-resilient-llm/${error._tag}`)
  })

  describe("shows the provider's own text to nobody who did not ask for it", () => {
    const [error] = errors[0]! as readonly [LlmError.ProviderError, string]
    const all = new LlmError.AllProvidersFailed({ targets: ["a"], errors: [error] })
    const encoded: ReadonlyArray<readonly [string, LlmError.LlmError, Schema.Codec<LlmError.LlmError, unknown>]> = [
      ["ProviderError", error, LlmError.ProviderError],
      ["AllProvidersFailed", all, LlmError.AllProvidersFailed]
    ]
    for (const [name, value, schema] of encoded) {
      const codecs = {
        itself: schema,
        json: Schema.toCodecJson(schema),
        stringTree: Schema.toCodecStringTree(schema),
        jsonString: Schema.fromJsonString(Schema.toCodecJson(schema)),
        inCause: Schema.toCodecJson(Schema.Exit(Schema.Void, schema, Schema.Unknown))
      }
      for (const [kind, codec] of Object.entries(codecs)) {
        it(`${name} encoded by its schema (${kind})`, () => {
          const given = kind === "inCause" ? Exit.fail(value) : value
          const out = Schema.encodeUnknownSync(codec)(given)
          assert.notInclude(inspect(out, { depth: Infinity, showHidden: true }), "what the user asked")
          assert.notInclude(JSON.stringify(out), "detail")
          if (typeof out === "object" && out !== null && "detail" in out) assert.fail("detail")
        })
      }
      it(`${name} printed`, () => {
        const texts = [
          String(value),
          value.message,
          value.stack,
          JSON.stringify(value),
          inspect(value, { depth: Infinity, showHidden: true }),
          Formatter.format(value),
          Formatter.formatJson(value),
          Schema.toFormatter(schema)(value),
          Cause.pretty(Cause.fail(value)),
          inspect(Cause.fail(value), { depth: Infinity }),
          JSON.stringify(LlmError.summary(value))
        ]
        assert.notInclude(texts.join("\n"), "what the user asked")
      })

      it.effect(`${name} logged and traced`, () =>
        Effect.gen(function*() {
          const out: Array<unknown> = []
          const told = (...args: ReadonlyArray<unknown>) => out.push(inspect(args, { depth: Infinity }))
          const loggers = [Logger.formatJson, Logger.formatLogFmt, Logger.formatStructured, Logger.formatSimple].map(
            (format) => Logger.make((options) => told(format.log(options)))
          )
          const spans = Tracer.make({
            span: (options) => {
              const span = new Tracer.NativeSpan(options)
              return Object.assign(span, { end: (at: bigint, exit: unknown) => told(at, exit, span.attributes) })
            }
          })
          yield* Effect.logError("failed", value, Cause.fail(value)).pipe(
            Effect.andThen(Effect.fail(value)),
            Effect.withSpan("work"),
            Effect.exit,
            Effect.provideService(Tracer.Tracer, spans),
            Effect.provide(Logger.layer(loggers))
          )
          assert.isAbove(out.length, 4)
          assert.notInclude(out.join("\n"), "what the user asked")
        }))
    }

    it("and what is decoded has none", () => {
      const codec = Schema.toCodecJson(LlmError.ProviderError)
      const told = { _tag: "ProviderError", provider: "p", reason: { _tag: "Server" }, ledger: [], detail: "secret" }
      const decoded = Schema.decodeUnknownSync(codec)(told)
      assert.isFalse("detail" in decoded)
      assert.strictEqual(Redacted.value(error.detail!), "what the user asked")
    })
  })

  it("refuses what is not an error when it is decoded", () => {
    const decode = Schema.decodeUnknownExit(Schema.toCodecJson(LlmError.ProviderError))
    const good = { _tag: "ProviderError", provider: "p", reason: { _tag: "Server" }, ledger: [] }
    assert.strictEqual(decode(good)._tag, "Success")
    for (const bad of [{ rateLimits: [{ limit: 1 }] }, { reason: { _tag: "Mood" } }, { status: "503" }]) {
      assert.strictEqual(decode({ ...good, ...bad })._tag, "Failure", JSON.stringify(bad))
    }
  })

  it("refuses tokens that are no numbers", () => {
    const decode = Schema.decodeUnknownExit(Schema.toCodecJson(LlmError.StreamInterrupted))
    const broken = { _tag: "StreamInterrupted", provider: "p", kind: "reset", partialParts: 1, ledger: [] }
    const usages = [{}, { inputTokens: 1, outputTokens: 2 }, { inputTokens: "1" }, { outputTokens: null }]
    assert.deepStrictEqual(
      usages.map((usage) => decode({ ...broken, usage })._tag),
      ["Success", "Success", "Failure", "Failure"]
    )
  })

  it("has a ledger, empty until a call ends with it", () => {
    assert.deepStrictEqual(new LlmError.BulkheadFull({}).ledger, [])
  })
})

describe("every reason", () => {
  it.each(reasonTags)("%s has a sentence of its own", (tag) => {
    const sentence = (tag: LlmError.Reason["_tag"]) =>
      new LlmError.ProviderError({ provider: "openai", reason: reason(tag) }).message
    assert.match(sentence(tag), /^openai \w.+\.$/)
    assert.lengthOf(reasonTags.filter((other) => sentence(other) === sentence(tag)), 1)
  })

  it("a truncated stream says so", () => {
    const error = new LlmError.ProviderError({
      provider: "openai",
      reason: { _tag: "MalformedResponse", problem: LlmError.TRUNCATED }
    })
    assert.include(error.message, "the stream ended")
  })

  it.each(reasonTags)("%s survives JSON", (tag) => {
    const codec = Schema.toCodecJson(LlmError.Reason)
    assert.deepStrictEqual(Schema.decodeUnknownSync(codec)(Schema.encodeSync(codec)(reason(tag))), reason(tag))
  })
})

it("details: what the providers themselves said", () => {
  const of = (provider: string, text: string) =>
    new LlmError.ProviderError({
      provider,
      reason: { _tag: "InvalidRequest" },
      status: 400,
      detail: Redacted.make(text)
    })
  const all = new LlmError.AllProvidersFailed({
    targets: ["a", "b", "c"],
    errors: [of("a", "no seed"), overloaded, of("c", "no tools")]
  })
  assert.deepStrictEqual(LlmError.details(all), [
    { provider: "a", text: "no seed" },
    { provider: "c", text: "no tools" }
  ])
  assert.notInclude(`${all.message}${inspect(all)}${JSON.stringify(all)}`, "no seed")
  assert.lengthOf(all.message.split("Its own words"), 2)
  assert.deepStrictEqual(LlmError.details(new Error("mine")), [])
})

it("points to a provider's own words where they tell more, and only where it has said something", () => {
  const of = (tag: LlmError.Reason["_tag"], status?: number) =>
    new LlmError.ProviderError({ provider: "p", reason: reason(tag), ...(status === undefined ? {} : { status }) })
      .message
  for (const tag of reasonTags) {
    const tells = ["InvalidRequest", "NotFound", "Permission", "Unknown"].includes(tag)
    assert.strictEqual(of(tag, 400).endsWith("Its own words: `LlmError.details(error)`."), tells, tag)
    assert.notInclude(of(tag), "Its own words")
  }
})

it("names what is known of a connection that failed", () => {
  const of = (facts: { readonly code?: string; readonly host?: string }) =>
    new LlmError.ProviderError({ provider: "p", reason: { _tag: "Network", sent: false }, ...facts }).message
  assert.strictEqual(of({ code: "ENOTFOUND", host: "api.p" }), "p could not be reached (ENOTFOUND api.p).")
  assert.strictEqual(of({ code: "ENOTFOUND" }), "p could not be reached (ENOTFOUND).")
  assert.strictEqual(of({ host: "api.p" }), "p could not be reached (api.p).")
  assert.strictEqual(of({}), "p could not be reached.")
  const reset = { _tag: "Network", sent: true, kind: "reset" } as const
  const { message } = new LlmError.ProviderError({ provider: "p", reason: reset, code: "ECONNRESET" })
  assert.strictEqual(message, "p broke off the connection (ECONNRESET).")
})

describe("fromHttp", () => {
  type Headers = LlmError.HttpFailure["headers"]
  const of = (headers: Headers, now?: number) =>
    LlmError.ProviderError.fromHttp({ provider: "p", status: 429, headers, now })
  const seconds = ({ retryAfter }: LlmError.ProviderError) =>
    retryAfter === undefined ? undefined : Duration.toSeconds(retryAfter)

  it("reads headers of the web, of `node:http` and of a plain record, whatever the case of their names", () => {
    const wanted = { "Retry-After": "7", "X-Request-Id": "req_1" }
    for (const headers of [wanted, new globalThis.Headers(wanted), Object.entries(wanted) as never]) {
      const error = of(headers)
      assert.deepStrictEqual([seconds(error), error.requestId], [7, "req_1"])
    }
    // Several values of one name, and what somebody without types has put there.
    assert.strictEqual(seconds(of({ "retry-after": ["Thu", "01 Jan 2026 00:00:07 GMT"] }, Date.UTC(2026, 0))), 7)
    assert.strictEqual(seconds(of({ "retry-after": 7 } as never)), 7)
    for (const nothing of [undefined, null, true, {}]) {
      const error = of({ "x-request-id": nothing, "retry-after": nothing } as never)
      assert.deepStrictEqual([error.requestId, error.retryAfter], [undefined, undefined])
    }
    for (const none of [undefined, null as never, {}]) assert.isUndefined(of(none).requestId)
  })

  it("compares a moment with the one that it is given, else with the clock", () => {
    const at = (millis: number) => ({ "retry-after": new Date(millis).toUTCString() })
    assert.strictEqual(seconds(of(at(Date.UTC(2026, 0) + 7000), Date.UTC(2026, 0))), 7)
    assert.isAtLeast(seconds(of(at(Date.now() + 60_000)))!, 30)
  })

  it.effect("of the fibre that runs, if one does", () =>
    Effect.gen(function*() {
      yield* TestClock.adjust("1 hour")
      const headers = { "retry-after": "Thu, 01 Jan 1970 01:00:07 GMT" }
      assert.strictEqual(seconds(yield* Effect.sync(() => of(headers))), 7)
    }))

  it("keeps 500 characters of what the provider said, and leaves out what it did not", () => {
    const facts = { reason: { _tag: "Network", sent: true } } as const
    const limit = { dimension: "requests", limit: 3 }
    const full = LlmError.providerError("p", {
      ...facts,
      host: "api.p",
      rateLimits: [limit],
      detail: "x".repeat(600)
    })
    assert.deepStrictEqual([full.host, full.rateLimits], ["api.p", [limit]])
    assert.strictEqual(LlmError.details(full)[0]?.text, "x".repeat(500))
    const bare = LlmError.providerError("p", { ...facts, rateLimits: [], detail: "" })
    for (const field of ["host", "rateLimits", "detail"]) assert.notProperty(bare, field)
  })
})

it("an output that was asked for again says how often, and keeps 500 characters of the last one", () => {
  const facts = { path: "", rule: "a number", kind: "a text", target: "p", ledger: [] }
  const of = (repairs: number) => LlmError.InvalidOutput.of("x".repeat(600), { ...facts, repairs })
  const says = (after: string) =>
    `The answer from p is not what was asked for${after}: it must be a number, but is a text.`
  assert.deepStrictEqual([0, 1, 2].map((repairs) => of(repairs).message), [
    says(""),
    says(" after a repair"),
    says(" after 2 repairs")
  ])
  assert.strictEqual(Redacted.value(of(0).detail!), "x".repeat(500))
  assert.deepStrictEqual([of(0)._tag, of(0).name], ["InvalidOutput", "effect-resilient-llm/InvalidOutput"])
})

it("all failed: names each target once, and asks to wait for the first that says how long", () => {
  const all = new LlmError.AllProvidersFailed({
    targets: ["openai", "b", "c"],
    errors: [
      overloaded,
      new LlmError.AttemptTimeout({ kind: "attempt", after }),
      new LlmError.RateLimited({ dimension: "requests", retryAfter })
    ]
  })
  assert.strictEqual(LlmError.retryAfterMillis(all), 1500)
  assert.include(all.message, "All providers failed. openai is overloaded (HTTP 503). b: The attempt exceeded")
})

it("is known by a mark that other copies of this package look for", () => {
  const mark = "~effect-resilient-llm/LlmError"
  assert.strictEqual(Reflect.get(new LlmError.BulkheadFull({}), mark), mark)
})

it("is shown with its stack, and without a word of a ledger that is empty", () => {
  const shown = inspect(new LlmError.BulkheadFull({}))
  assert.include(shown, "\n    at ")
  assert.notInclude(shown, "ledger")
})

it("is recognised by its kind alone", () => {
  const shed = new LlmError.Shed({ reason: "deadline" })
  const late = new LlmError.DeadlineExceeded({ after })
  const broken = new LlmError.StreamInterrupted({ provider: "p", kind: "reset", partialParts: 1 })
  const guards = [LlmError.isShed, LlmError.isDeadlineExceeded, LlmError.isStreamInterrupted]
  for (const [i, error] of [shed, late, broken].entries()) {
    assert.deepStrictEqual(guards.map((guard) => guard(error)), guards.map((_, at) => at === i))
  }
})

describe("classify", () => {
  it.each(reasonTags)("a provider's %s", (tag) => {
    assert.deepStrictEqual(row(new LlmError.ProviderError({ provider: "p", reason: reason(tag) })), reasons[tag])
  })

  it.each(Object.entries(kinds))("B14 a network failure of kind %s", (kind, expected) => {
    const reason = { _tag: "Network", sent: false, kind: kind as keyof typeof kinds } as const
    assert.deepStrictEqual(row(new LlmError.ProviderError({ provider: "p", reason })), expected)
  })

  const ours = named.filter(([, error]) => Object.hasOwn(tags, error._tag))
  it.each(ours)("%s", (_, error) => {
    assert.deepStrictEqual(row(error), tags[error._tag as keyof typeof tags])
  })

  it("covers every error", () => {
    assert.deepStrictEqual(new Set(ours.map(([, error]) => error._tag)), new Set(Object.keys(tags)))
  })

  it("HTTP 501 is final, whatever the reason", () => {
    const of = (fields: { readonly shouldRetry?: boolean }) =>
      row(new LlmError.ProviderError({ provider: "p", reason: { _tag: "Server" }, status: 501, ...fields }))
    assert.deepStrictEqual(of({}), final)
    assert.deepStrictEqual(of({ shouldRetry: true }), ["ignored", true, false, false, false])
  })

  it.each(reasonTags)("x-should-retry overrides the retry of %s, and nothing else", (tag) => {
    for (const shouldRetry of [true, false]) {
      const [outcome, , ...others] = reasons[tag]
      const error = new LlmError.ProviderError({ provider: "p", reason: reason(tag), shouldRetry })
      assert.deepStrictEqual(row(error), [outcome, shouldRetry, ...others])
    }
  })

  it("all failed: a stale answer may stand in when one of the failures allows it", () => {
    const all = (errors: LlmError.AllProvidersFailed["errors"]) =>
      row(new LlmError.AllProvidersFailed({ targets: ["a", "b"], errors }))
    assert.deepStrictEqual(all([unauthorised, overloaded]), ["ignored", false, false, false, true])
    assert.deepStrictEqual(all([unauthorised, unauthorised]), ["ignored", false, false, false, false])
  })

  const foreign: ReadonlyArray<unknown> = [
    new Error("broken"),
    "broken",
    null,
    undefined,
    () => "a function",
    Object.assign(() => "broken", { _tag: "InvalidRequest" }),
    { _tag: 42 },
    { _tag: "NotOurs" },
    { _tag: "toString" },
    { _tag: "ProviderError" }
  ]
  it.each(foreign.map((error) => [error]))("what is not ours is a transient failure: %s", (error) => {
    assert.deepStrictEqual(row(error), transient)
  })
})

it("isLocalRefusal: no provider was asked", () => {
  const local = new Set(["CircuitOpen", "RateLimited", "BulkheadFull", "Shed"])
  for (const [error] of errors) assert.strictEqual(LlmError.isLocalRefusal(error), local.has(error._tag), error._tag)
  assert.isFalse(LlmError.isLocalRefusal({ _tag: "CircuitOpen" }))
})

it("isOverload: the other side, or the way to it, has too much to do", () => {
  const tags = new Set(["RateLimit", "Overloaded", "Network"])
  for (const tag of reasonTags) {
    const error = new LlmError.ProviderError({ provider: "p", reason: reason(tag) })
    assert.strictEqual(LlmError.isOverload(error), tags.has(tag), tag)
  }
  for (const [error] of errors) {
    if (error._tag !== "ProviderError" && error._tag !== "LlmConfigError") {
      assert.strictEqual(LlmError.isOverload(error), error._tag === "AttemptTimeout")
    }
  }
  const network = (kind: "dns" | "connect" | "tls" | "reset" | "local") =>
    new LlmError.ProviderError({ provider: "p", reason: { _tag: "Network", sent: false, kind } })
  for (const kind of ["dns", "connect", "tls", "reset"] as const) {
    assert.isTrue(LlmError.isOverload(network(kind)), kind)
  }
  // What this process is short of says nothing about the other side.
  assert.isFalse(LlmError.isOverload(network("local")))
  // What is not ours has failed.
  for (const error of ["broken", new Error("broken"), null]) assert.isTrue(LlmError.isOverload(error))
})

it("a throttled call fails over, one that was turned away from a waiting line does not", () => {
  assert.deepStrictEqual(row(new LlmError.Shed({ reason: "throttled" })), refusedHere)
  for (const reason of ["queue-full", "deadline"] as const) {
    assert.isFalse(LlmError.classify(new LlmError.Shed({ reason })).failover)
  }
})

it("retryAfterMillis: only of what carries a duration", () => {
  assert.strictEqual(LlmError.retryAfterMillis(new LlmError.BulkheadFull({ retryAfter })), 1500)
  for (const none of [new LlmError.BulkheadFull({}), { retryAfter: 1500 }, "broken", null, undefined]) {
    assert.isUndefined(LlmError.retryAfterMillis(none))
  }
})

describe("summary", () => {
  const summaries: ReadonlyArray<readonly [name: string, error: unknown, summary: LlmEvent.ErrorSummary]> = [
    ["of a provider's failure, with everything", errors[0]![0], {
      tag: "ProviderError",
      reason: "MalformedResponse",
      status: 200,
      code: "broken",
      requestId: "req-1",
      retryAfter: 1500
    }],
    [
      "of a provider's failure whose code and id are none",
      new LlmError.ProviderError({
        provider: "p",
        reason: { _tag: "Server" },
        code: "what the user asked",
        requestId: "r".repeat(129)
      }),
      { tag: "ProviderError", reason: "Server" }
    ],
    ["of a provider's failure", unauthorised, { tag: "ProviderError", reason: "Authentication" }],
    ["of a timer", new LlmError.AttemptTimeout({ kind: "idle", after }), { tag: "AttemptTimeout", reason: "idle" }],
    [
      "of a broken stream",
      new LlmError.StreamInterrupted({ provider: "p", kind: "reset", partialParts: 1 }),
      { tag: "StreamInterrupted", reason: "reset" }
    ],
    ["of a deadline", new LlmError.DeadlineExceeded({ after }), { tag: "DeadlineExceeded" }],
    [
      "of a refusal",
      new LlmError.RateLimited({ dimension: "tokens", retryAfter }),
      { tag: "RateLimited", retryAfter: 1500 }
    ],
    ["of another's error", new TypeError("what the user asked"), { tag: "UnknownError" }],
    ["of another's tagged error", { _tag: "Mine", kind: "what the user asked" }, { tag: "Mine" }],
    ["of a text", "what the user asked", { tag: "UnknownError" }],
    ["of null", null, { tag: "UnknownError" }],
    ["of nothing", undefined, { tag: "UnknownError" }]
  ]
  it.each(summaries)("%s", (_, error, expected) => {
    assert.deepStrictEqual(LlmError.summary(error), expected)
  })
})

it("withoutStack builds an error without frames, and leaves the limit as it was", () => {
  const limit = Error.stackTraceLimit
  try {
    Error.stackTraceLimit = 7
    const bare = LlmError.withoutStack(() => new LlmError.BulkheadFull({}))
    assert.notInclude(bare.stack, "\n    at ")
    assert.throws(() =>
      LlmError.withoutStack(() => {
        throw new RangeError("broken")
      }), RangeError)
    assert.strictEqual(Error.stackTraceLimit, 7)
    assert.include(new LlmError.BulkheadFull({}).stack, "\n    at ")
  } finally {
    Error.stackTraceLimit = limit
  }
})

it("withoutStack makes errors also where the limit of stacks cannot be set", () => {
  const told = execFileSync(process.execPath, [
    "--frozen-intrinsics",
    "--input-type=module",
    "-e",
    `Object.freeze(Error)
const { CircuitOpen, withoutStack } = await import("./src/LlmError.ts")
console.log(withoutStack(() => new CircuitOpen({ key: "k", state: "open" })).message)`
  ], { cwd: fileURLToPath(new URL("..", import.meta.url)), encoding: "utf8", stdio: ["ignore", "pipe", "ignore"] })
  assert.include(told, "is open")
})

describe("a copy", () => {
  const [error] = errors[0]! as readonly [LlmError.ProviderError, string]

  it("withLedger: the same error with another ledger and the original's stack", () => {
    const copy = LlmError.withLedger(overloaded, [ended])
    assert.instanceOf(copy, LlmError.ProviderError)
    assert.notStrictEqual(copy, overloaded)
    assert.deepStrictEqual(fields(copy), fields(overloaded, { ledger: [ended] }))
    assert.deepStrictEqual(overloaded.ledger, [])
    assert.strictEqual(copy.stack, overloaded.stack)
    assert.include(copy.stack, "LlmError.test")
  })

  it("of a copy keeps the original's stack", () => {
    const copy = LlmError.withLedger(LlmError.withLedger(overloaded, [ended]), [])
    assert.strictEqual(copy.stack, overloaded.stack)
  })

  it("its stack can be set by who wants another", () => {
    const copy = LlmError.withLedger(overloaded, [])
    copy.stack = "another"
    assert.strictEqual(copy.stack, "another")
    Object.defineProperty(copy, "stack", { get: () => "made when it is asked for" })
    assert.strictEqual(copy.stack, "made when it is asked for")
  })

  it("withBudgetExhausted marks a provider's failure, and no other", () => {
    assert.isUndefined(overloaded.budgetExhausted)
    const marked = LlmError.withBudgetExhausted(overloaded)
    assert.deepStrictEqual(fields(marked), fields(overloaded, { budgetExhausted: true }))
    const timeout = new LlmError.AttemptTimeout({ kind: "attempt", after })
    assert.strictEqual(LlmError.withBudgetExhausted(timeout), timeout)
    assert.strictEqual(LlmError.withBudgetExhausted("broken"), "broken")
  })

  it("withParts: the same break for somebody who received another number of parts", () => {
    const broken = new LlmError.StreamInterrupted({ provider: "p", kind: "reset", partialParts: 3 })
    assert.deepStrictEqual(fields(LlmError.withParts(broken, 0)), fields(broken, { partialParts: 0 }))
  })

  it("keeps every field", () => {
    assert.deepStrictEqual(fields(LlmError.withLedger(error, [ended])), fields(error))
  })
})
