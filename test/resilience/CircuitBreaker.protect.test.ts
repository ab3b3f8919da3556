import { assert, describe, it } from "@effect/vitest"
import { Cause, Config, ConfigProvider, Duration, Effect, Exit, Fiber, Ref, Scheduler } from "effect"
import * as LlmError from "effect-resilient-llm/LlmError"
import * as CircuitBreaker from "effect-resilient-llm/resilience/CircuitBreaker"
import { TestClock } from "effect/testing"

const provider = (
  reason: LlmError.Reason["_tag"],
  more: { readonly status?: number; readonly retryAfter?: Duration.Duration } = {}
) =>
  new LlmError.ProviderError({
    provider: "p",
    reason: reason === "Network"
      ? { _tag: reason, sent: true }
      : reason === "MalformedResponse"
      ? { _tag: reason, problem: "empty" }
      : { _tag: reason },
    ...more
  })

const failures: ReadonlyArray<readonly [string, unknown]> = [
  ["503", provider("Overloaded", { status: 503 })],
  ["500", provider("Server", { status: 500 })],
  ["408", provider("Timeout", { status: 408 })],
  ["a reset connection", provider("Network")],
  ["a truncated answer", provider("MalformedResponse")],
  ["our attempt timeout", new LlmError.AttemptTimeout({ kind: "attempt", after: Duration.seconds(60) })],
  ["a broken stream", new LlmError.StreamInterrupted({ provider: "p", kind: "reset", partialParts: 3 })],
  ["an error that is not ours", new Error("socket hang up")]
]

const ignored: ReadonlyArray<readonly [string, unknown]> = [
  ["429", provider("RateLimit", { status: 429 })],
  ["quota", provider("Quota", { status: 429 })],
  ["409", provider("Conflict", { status: 409 })],
  ["400", provider("InvalidRequest", { status: 400 })],
  ["501", provider("Server", { status: 501 })],
  ["401", provider("Authentication", { status: 401 })],
  ["403", provider("Permission", { status: 403 })],
  ["404", provider("NotFound", { status: 404 })],
  ["context length", provider("ContextLength", { status: 400 })],
  ["content policy", provider("ContentPolicy", { status: 400 })],
  ["claude-code-hub#1134 499", provider("ClientClosed", { status: 499 })],
  ["a limiter's refusal", new LlmError.RateLimited({ dimension: "requests", retryAfter: Duration.seconds(1) })],
  ["a full bulkhead", new LlmError.BulkheadFull({})],
  ["another breaker", new LlmError.CircuitOpen({ key: "q", state: "open" })]
]

const halfOpen = (options?: CircuitBreaker.Options) =>
  Effect.gen(function*() {
    const breaker = yield* CircuitBreaker.make({
      key: "p",
      failureThreshold: 1,
      recoveryTimeout: "5 seconds",
      ...options
    })
    yield* Effect.exit(breaker.protect(Effect.fail(provider("Overloaded"))))
    yield* TestClock.adjust("5 seconds")
    return breaker
  })

describe("CircuitBreaker.protect", () => {
  it.effect.each(failures)("%s is a failure", ([, error]) =>
    Effect.gen(function*() {
      const breaker = yield* CircuitBreaker.make({ key: "p", failureThreshold: 2 })
      assert.strictEqual(yield* Effect.flip(breaker.protect(Effect.fail(error))), error)
      assert.deepInclude(yield* breaker.status, { calls: 1, failures: 1, streak: 1 })
      yield* Effect.exit(breaker.protect(Effect.fail(error)))
      assert.strictEqual((yield* breaker.status).state, "open")
    }))

  it.effect.each(ignored)(
    "%s counts neither as failure nor as success, and frees the probe",
    ([, error]) =>
      Effect.gen(function*() {
        const breaker = yield* CircuitBreaker.make({ key: "p", failureThreshold: 2 })
        yield* Effect.exit(breaker.protect(Effect.fail(provider("Server"))))
        // sglang#25811: twenty of them do not trip
        for (let i = 0; i < 20; i++) {
          assert.strictEqual(yield* Effect.flip(breaker.protect(Effect.fail(error))), error)
        }
        assert.deepInclude(yield* breaker.status, { state: "closed", calls: 1, failures: 1, streak: 1 })
        // smg#2565: one of them does not close; llm4s#460, oc-codex-multi-auth#123: it does not keep the slot either
        const probing = yield* halfOpen()
        yield* Effect.exit(probing.protect(Effect.fail(error)))
        assert.deepInclude(yield* probing.status, { state: "half-open", probes: 0 })
        assert.strictEqual(yield* probing.protect(Effect.succeed("probe")), "probe")
      })
  )

  it.effect("a success counts, and closes what is half-open", () =>
    Effect.gen(function*() {
      const breaker = yield* halfOpen()
      assert.strictEqual(yield* breaker.protect(Effect.succeed(42)), 42)
      assert.deepInclude(yield* breaker.status, { state: "closed", calls: 0 })
      yield* breaker.protect(Effect.succeed(42))
      assert.deepInclude(yield* breaker.status, { state: "closed", calls: 1, failures: 0 })
    }))

  it.effect("a defect and an interruption are ignored", () =>
    Effect.gen(function*() {
      const breaker = yield* halfOpen()
      const died = yield* Effect.exit(breaker.protect(Effect.die("bug")))
      assert.isTrue(Exit.isFailure(died) && Cause.hasDies(died.cause))
      assert.deepInclude(yield* breaker.status, { state: "half-open", probes: 0 })
      const fiber = yield* Effect.forkChild(breaker.protect(Effect.never), { startImmediately: true })
      assert.deepInclude(yield* breaker.status, { state: "half-open", probes: 1 })
      yield* Fiber.interrupt(fiber)
      assert.deepInclude(yield* breaker.status, { state: "half-open", probes: 0 })
    }))

  it.effect.each(
    [
      ["a defect and a failure", [Cause.makeDieReason("bug"), Cause.makeFailReason(provider("Server"))], "open"],
      [
        "an interruption and a failure",
        [Cause.makeInterruptReason(1), Cause.makeFailReason(provider("Server"))],
        "open"
      ],
      ["an ignored and a counted failure", [
        Cause.makeFailReason(provider("RateLimit")),
        Cause.makeFailReason(provider("Server"))
      ], "open"],
      ["two ignored failures", [
        Cause.makeFailReason(provider("RateLimit")),
        Cause.makeFailReason(provider("Conflict"))
      ], "closed"],
      [
        "a defect and an ignored failure",
        [Cause.makeDieReason("bug"), Cause.makeFailReason(provider("Conflict"))],
        "closed"
      ]
    ] as const
  )("of %s at once the worst counts", ([, reasons, state]) =>
    Effect.gen(function*() {
      const breaker = yield* CircuitBreaker.make({ key: "p", failureThreshold: 1 })
      yield* Effect.exit(breaker.protect(Effect.failCause(Cause.fromReasons<unknown>(reasons))))
      assert.strictEqual((yield* breaker.status).state, state)
    }))

  it.effect("the hint of the tripping failure holds, the longest of several; that of an ignored one does not", () =>
    Effect.gen(function*() {
      const breaker = yield* CircuitBreaker.make({ key: "p", failureThreshold: 1, recoveryTimeout: "5 seconds" })
      const hinted = (reason: LlmError.Reason["_tag"], seconds: number) =>
        Cause.makeFailReason(provider(reason, { retryAfter: Duration.seconds(seconds) }))
      yield* Effect.exit(breaker.protect(Effect.failCause(Cause.fromReasons([
        hinted("Server", 42),
        hinted("Server", 7),
        hinted("RateLimit", 99)
      ]))))
      assert.deepStrictEqual((yield* breaker.status).retryAfter, Duration.seconds(42))
    }))

  it.effect("measures the call for slowCall", () =>
    Effect.gen(function*() {
      const breaker = yield* CircuitBreaker.make({
        key: "p",
        minimumCalls: 1,
        slowCall: { duration: "1 second", rate: 1 }
      })
      const taking = (millis: number) =>
        Effect.gen(function*() {
          const fiber = yield* Effect.forkChild(breaker.protect(Effect.sleep(millis)), { startImmediately: true })
          yield* TestClock.adjust(millis)
          yield* Fiber.join(fiber)
        })
      yield* TestClock.adjust("2 minutes")
      yield* taking(1000)
      assert.strictEqual((yield* breaker.status).state, "closed")
      yield* TestClock.adjust("2 minutes")
      yield* taking(1001)
      assert.strictEqual((yield* breaker.status).state, "open")
    }))

  it.effect("learns from what it protects how long is slow", () =>
    Effect.gen(function*() {
      const breaker = yield* CircuitBreaker.make({ key: "p" })
      for (let i = 0; i < 20; i++) {
        const fiber = yield* Effect.forkChild(breaker.protect(Effect.sleep("3 seconds")), { startImmediately: true })
        yield* TestClock.adjust("3 seconds")
        yield* Fiber.join(fiber)
      }
      yield* TestClock.adjust("2 minutes")
      for (let i = 0; i < 10; i++) {
        yield* Effect.forkChild(breaker.protect(Effect.never), { startImmediately: true })
      }
      yield* TestClock.adjust("6 seconds")
      assert.strictEqual((yield* breaker.status).state, "closed")
      yield* TestClock.adjust(1)
      assert.strictEqual((yield* breaker.status).state, "open")
    }))

  it.effect("agent-os#365 a call that is rejected does not run", () =>
    Effect.gen(function*() {
      const breaker = yield* CircuitBreaker.make({ key: "p", failureThreshold: 1 })
      let runs = 0
      const call = Effect.suspend(() => (runs++, Effect.fail(provider("Server")))).pipe(breaker.protect)
      yield* Effect.exit(call)
      for (let i = 0; i < 100; i++) assert.strictEqual((yield* Effect.flip(call))._tag, "CircuitOpen")
      assert.strictEqual(runs, 1)
    }))

  it.effect("r4j#2038 ten thousand re-openings do not overflow the stack", () =>
    Effect.gen(function*() {
      const breaker = yield* CircuitBreaker.make({
        key: "p",
        failureThreshold: 1,
        recoveryTimeout: 0,
        maxRecoveryTimeout: 0
      })
      let runs = 0
      const call = Effect.suspend(() => (runs++, Effect.fail("F"))).pipe(breaker.protect, Effect.ignore)
      yield* Effect.repeat(call, { times: 9999 })
      assert.strictEqual(runs, 10_000)
    }))

  it.effect("a throwing listener breaks nothing, and may use the breaker itself", () =>
    Effect.gen(function*() {
      const seen: Array<string> = []
      const breaker: CircuitBreaker.CircuitBreaker = yield* CircuitBreaker.make({
        key: "p",
        failureThreshold: 1,
        recoveryTimeout: "5 seconds",
        onTransition: ({ now, to }) => {
          seen.push(`${to} ${breaker.isOpenUnsafe(now)}`)
          throw new Error("listener")
        }
      })
      yield* Effect.flip(breaker.protect(Effect.fail("F")))
      yield* TestClock.adjust("5 seconds")
      assert.strictEqual(yield* breaker.protect(Effect.succeed("S")), "S")
      assert.deepStrictEqual(seen, ["open true", "half-open true", "closed false"])
    }))

  it.effect("tells whoever watches, until they stop", () =>
    Effect.gen(function*() {
      const breaker = yield* CircuitBreaker.make({ key: "p" })
      const seen: Array<string> = []
      const stop = breaker.watchUnsafe(({ to }) => seen.push(to))
      yield* breaker.force("open")
      stop()
      yield* breaker.force("auto")
      assert.deepStrictEqual(seen, ["forced-open"])
    }))

  it.effect("force tells the listener, and outdates calls in flight", () =>
    Effect.gen(function*() {
      const seen: Array<string> = []
      const breaker = yield* CircuitBreaker.make({
        key: "p",
        failureThreshold: 1,
        onTransition: ({ from, to }) => seen.push(`${from} > ${to}`)
      })
      const fiber = yield* Effect.forkChild(
        breaker.protect(Effect.andThen(Effect.sleep("1 second"), Effect.fail("F"))),
        { startImmediately: true }
      )
      for (const mode of ["open", "closed", "shadow", "auto"] as const) yield* breaker.force(mode)
      yield* TestClock.adjust("1 second")
      yield* Fiber.await(fiber)
      assert.deepStrictEqual(seen, [
        "closed > forced-open",
        "forced-open > forced-closed",
        "forced-closed > shadow",
        "shadow > closed"
      ])
      assert.deepInclude(yield* breaker.status, { state: "closed", calls: 0 })
    }))

  it.effect("P9 interrupted at every step, it holds no slot afterwards", () =>
    Effect.gen(function*() {
      const seen = { before: 0, during: 0, after: 0 }
      const steps = Effect.forEach([1, 2, 3, 4], () => Effect.andThen(Effect.void, Effect.yieldNow))
      for (let ops = 3; ops <= 64; ops++) {
        for (let step = 0;; step++) {
          const breaker = yield* halfOpen()
          const fiber = yield* Effect.forkChild(
            breaker.protect(steps).pipe(Effect.provideService(Scheduler.MaxOpsBeforeYield, ops))
          )
          for (let i = 0; i < step; i++) yield* Effect.yieldNow
          const ended = fiber.pollUnsafe() !== undefined
          const { probes, state } = yield* breaker.status
          yield* Fiber.interrupt(fiber)
          const after = yield* breaker.status
          const where = `${ops} ops, step ${step}`
          assert.strictEqual(after.probes, 0, where)
          assert.include(["open", "half-open", "closed"], after.state)
          if (probes === 1) assert.strictEqual(after.state, "half-open", where)
          assert.strictEqual(yield* breaker.protect(Effect.succeed("next")), "next", where)
          seen[probes === 1 ? "during" : state === "closed" ? "after" : "before"]++
          if (ended) break
        }
      }
      // The sweep is worth something only if it hits every phase, and the middle often.
      assert.isAbove(seen.before, 60)
      assert.isAbove(seen.during, 200)
      assert.isAbove(seen.after, 60)
    }))

  it.effect("types: the rejection joins the errors", () => {
    const program: Effect.Effect<number, "F" | LlmError.CircuitOpen> = Effect.gen(function*() {
      const breaker = yield* Effect.orDie(CircuitBreaker.make({ key: "p" }))
      const call: Effect.Effect<number, "F"> = Effect.succeed(1)
      // @ts-expect-error CircuitOpen is missing
      const wrong: Effect.Effect<number, "F"> = breaker.protect(call)
      return yield* Effect.andThen(wrong, breaker.protect(call))
    })
    return Effect.asVoid(program)
  })
})

describe("CircuitBreaker options", () => {
  it.effect("defaults", () =>
    Effect.sync(() =>
      assert.deepStrictEqual(CircuitBreaker.policy(), {
        failureThreshold: 5,
        failureRate: 0.5,
        minimumCalls: 10,
        window: 60_000,
        recoveryTimeout: 30_000,
        maxRecoveryTimeout: 300_000,
        maxRetryAfter: 300_000,
        halfOpenProbes: 1,
        successThreshold: 1,
        probeLease: 65_000,
        slowDuration: "measured",
        slowRate: 0.8,
        isShadow: false
      })
    ))

  it.effect("a recovery timeout above the default cap lifts the cap; false is off", () =>
    Effect.sync(() =>
      assert.deepInclude(
        CircuitBreaker.policy({
          recoveryTimeout: "10 minutes",
          failureThreshold: false,
          failureRate: false,
          slowCall: false
        }),
        {
          recoveryTimeout: 600_000,
          maxRecoveryTimeout: 600_000,
          failureThreshold: Infinity,
          failureRate: Infinity,
          slowDuration: Infinity
        }
      )
    ))

  it.effect("the extremes are options too", () =>
    Effect.sync(() => {
      const least = { window: 1, probeLease: 1, recoveryTimeout: 0, maxRecoveryTimeout: 0, maxRetryAfter: 0 }
      assert.deepInclude(CircuitBreaker.policy({ ...least, failureRate: 1, slowCall: { duration: 0, rate: 1 } }), {
        ...least,
        failureRate: 1,
        slowDuration: 0,
        slowRate: 1
      })
      assert.strictEqual(CircuitBreaker.policy({ window: Infinity }).window, Infinity)
    }))

  const wrong: ReadonlyArray<readonly [path: string, options: unknown]> = [
    ["circuitBreaker.key", { key: "" }],
    ["circuitBreaker.key", { key: 42 }],
    ["circuitBreaker.failureThreshold", { failureThreshold: 0 }],
    ["circuitBreaker.failureThreshold", { failureThreshold: 1.5 }],
    ["circuitBreaker.failureRate", { failureRate: 0 }],
    ["circuitBreaker.failureRate", { failureRate: 1.1 }],
    ["circuitBreaker.minimumCalls", { minimumCalls: 0 }],
    ["circuitBreaker.window", { window: 0 }],
    ["circuitBreaker.recoveryTimeout", { recoveryTimeout: -1 }],
    ["circuitBreaker.recoveryTimeout", { recoveryTimeout: "soon" }],
    ["circuitBreaker.maxRecoveryTimeout", { recoveryTimeout: 2, maxRecoveryTimeout: 1 }],
    ["circuitBreaker.maxRetryAfter", { maxRetryAfter: -1 }],
    ["circuitBreaker.halfOpenProbes", { halfOpenProbes: 0 }],
    ["circuitBreaker.successThreshold", { successThreshold: 0 }],
    ["circuitBreaker.probeLease", { probeLease: 0 }],
    ["circuitBreaker.probeLease", { probeLease: Infinity }],
    ["circuitBreaker.slowCall", { slowCall: true }],
    ["circuitBreaker.slowCall", { slowCall: 0 }],
    ["circuitBreaker.slowCall.duration", { slowCall: { duration: -1 } }],
    ["circuitBreaker.slowCall.rate", { slowCall: { duration: 1, rate: 0 } }],
    ["circuitBreaker.slowCall.rate", { slowCall: { duration: 1, rate: 1.1 } }],
    ["circuitBreaker.slowCall.share", { slowCall: { duration: 1, share: 0 } }],
    ["circuitBreaker.openFor", { openFor: 1 }]
  ]
  it.effect.each(wrong)("refuses a wrong %s", ([path, options]) =>
    Effect.gen(function*() {
      const error = yield* Effect.flip(CircuitBreaker.make({ key: "p", ...(options as CircuitBreaker.Options) }))
      assert.strictEqual(error._tag, "LlmConfigError")
      assert.strictEqual(error.path, path)
      assert.match(error.message, /must be \S.*, but is \S/)
    }))

  it.effect("layer shares one circuit, layerConfig reads it from configuration", () =>
    Effect.gen(function*() {
      const trip = Effect.gen(function*() {
        const breaker = yield* CircuitBreaker.CircuitBreaker
        yield* Effect.exit(breaker.protect(Effect.fail("F")))
        return [breaker.key, Ref.getUnsafe(breaker.state)._tag]
      })
      const one = CircuitBreaker.layer({ key: "p", failureThreshold: 2 })
      assert.deepStrictEqual(yield* Effect.all([trip, trip]).pipe(Effect.provide(one)), [["p", "Closed"], [
        "p",
        "Open"
      ]])
      const configured = CircuitBreaker.layerConfig({
        key: Config.String("KEY"),
        failureThreshold: Config.Int("THRESHOLD"),
        recoveryTimeout: Config.Duration("RECOVERY")
      })
      const env = ConfigProvider.layer(
        ConfigProvider.fromEnvRecord({ KEY: "q", THRESHOLD: "1", RECOVERY: "2 seconds" })
      )
      assert.deepStrictEqual(yield* trip.pipe(Effect.provide(configured), Effect.provide(env)), ["q", "Open"])
      const zero = ConfigProvider.layer(
        ConfigProvider.fromEnvRecord({ KEY: "q", THRESHOLD: "0", RECOVERY: "2 seconds" })
      )
      const error = yield* trip.pipe(Effect.provide(configured), Effect.provide(zero), Effect.flip)
      assert.strictEqual(error._tag, "LlmConfigError")
    }))
})
