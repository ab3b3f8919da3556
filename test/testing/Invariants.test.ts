// The laws see what is wrong: twenty pipelines with one planted fault each. Each really misbehaves, by a part that was put
// in the place of a right one; where no part can be put there, its log says what such a fault would have left behind.
import { assert, describe, it } from "@effect/vitest"
import { Clock, Context, Duration, Effect, Fiber, Layer, Ref, Stream } from "effect"
import {
  type Client,
  LlmClient,
  type LlmConfig,
  LlmError,
  type LlmProvider,
  type LlmRequest
} from "effect-resilient-llm"
import { Bulkhead, CircuitBreaker, RateLimiter } from "effect-resilient-llm/resilience"
import { Chaos, FaultServer, Invariants, ScriptedProvider } from "effect-resilient-llm/testing"
import { TestClock } from "effect/testing"
import { runOf } from "../conformance/Chaos.properties.ts"
import { type Heard, MARKER, type Mutation, type Plan, run, settings } from "../conformance/Chaos.run.ts"
import { chance, fork, type Kind, now } from "../support.ts"

// -----------------------------------------------------------------------------
// parts that misbehave
// -----------------------------------------------------------------------------

/** The same value, but for a few of its verbs. */
const but = <A extends object>(value: A, changes: Partial<A>): A => Object.assign(Object.create(value) as A, changes)

type LlmClientOf = Client<LlmError.LlmError>
type Response = Effect.Success<ReturnType<LlmClientOf["complete"]>>

/** Every answer, and every failure, of a client whose calls are changed on the way. */
const through = (
  change: (ask: ReturnType<LlmClientOf["complete"]>, input: string | LlmRequest.Input) => typeof ask
) =>
(client: LlmClientOf): LlmClientOf => but(client, { complete: (input) => change(client.complete(input), input) })

const asking =
  (change: (ask: ReturnType<LlmProvider.LlmProvider["generate"]>) => typeof ask) =>
  (provider: LlmProvider.LlmProvider): LlmProvider.LlmProvider =>
    but(provider, { generate: (request) => change(provider.generate(request)) })

const withBulkhead = (change: (bulkhead: Bulkhead.Bulkhead) => Partial<Bulkhead.Bulkhead>): Mutation => ({
  options: Effect.map(Bulkhead.make(settings.bulkhead), (bulkhead) => ({
    ...settings,
    bulkhead: but(bulkhead, change(bulkhead))
  }))
})

const withPermits = (change: (permit: Bulkhead.Permit) => Bulkhead.Permit): Mutation =>
  withBulkhead(({ acquire, tryAcquireUnsafe }) => ({
    acquire: (options) => Effect.map(acquire(options), change),
    tryAcquireUnsafe: () => {
      const permit = tryAcquireUnsafe()
      return permit && change(permit)
    }
  }))

const withBreaker = (
  change: (breaker: CircuitBreaker.CircuitBreaker) => Partial<CircuitBreaker.CircuitBreaker>,
  rules: CircuitBreaker.Options = touchy.circuitBreaker
): Mutation => ({
  options: Effect.map(CircuitBreaker.make({ key: "p", ...rules }), (breaker) => ({
    ...settings,
    circuitBreaker: but(breaker, change(breaker))
  }))
})

/** Sharing as one writes it first: the work is a child of whoever came first, and ends with it. */
const naiveSharing = (client: LlmClientOf): LlmClientOf => {
  const flights = new Map<string, Fiber.Fiber<Response, LlmError.LlmError>>()
  return through((ask, input) =>
    Effect.gen(function*() {
      const question = JSON.stringify(input)
      const flying = flights.get(question)
      if (flying !== undefined) return yield* Fiber.join(flying)
      const fiber = yield* Effect.forkChild(ask, { startImmediately: true })
      flights.set(question, fiber)
      return yield* Effect.ensuring(Fiber.join(fiber), Effect.sync(() => flights.delete(question)))
    })
  )(client)
}

/** The rest of a broken stream is another answer. */
const glue = (provider: LlmProvider.LlmProvider): LlmProvider.LlmProvider =>
  but(provider, {
    stream: (request) =>
      Stream.suspend(() => {
        let isWhole = false
        const first = Stream.tap(provider.stream(request), (part) =>
          Effect.sync(() => {
            if (part.type === "finish") isWhole = true
          }))
        return Stream.concat(first, Stream.suspend(() => isWhole ? Stream.empty : provider.stream(request)))
      })
  })

/** Refuses in every second hour of the day. */
const byTheClock = asking((ask) =>
  Effect.flatMap(Clock.currentTimeMillis, (millis) =>
    Math.floor(millis / 3_600_000) % 2 === 0 ? ask : Effect.fail(
      new LlmError.ProviderError({ provider: "p", reason: { _tag: "Overloaded" }, status: 503 })
    ))
)

// -----------------------------------------------------------------------------
// logs that say what a fault would have left behind
// -----------------------------------------------------------------------------

const without = (events: ReadonlyArray<Heard>, found: (event: Heard) => boolean): ReadonlyArray<Heard> => {
  const index = events.findIndex(found)
  assert.isAtLeast(index, 0)
  return events.toSpliced(index, 1)
}

/** Retries that were paid for, and refused before they began. */
const refusedRetries = (events: ReadonlyArray<Heard>): number => {
  const owing = new Set<number>()
  let refused = 0
  for (const { _tag, call } of events) {
    if (_tag === "RetryScheduled") owing.add(call)
    else if (_tag === "AttemptStarted") owing.delete(call)
    else if (_tag === "AttemptRefused" && owing.delete(call)) refused += 1
  }
  return refused
}

// -----------------------------------------------------------------------------
// the table
// -----------------------------------------------------------------------------

interface Planted {
  readonly fault: string
  readonly law: Invariants.Law
  readonly mutation?: () => Mutation
  readonly kind?: Kind
  /** What the run is said to obey, where it is not the usual. */
  readonly options?: LlmConfig.Options
  readonly limits?: Plan["limits"]
  /** What the fault would have left behind. */
  readonly left?: (run: Invariants.Run) => Invariants.Run
}

/** A bucket and a purse that do not fill up again. */
const scarce: LlmConfig.Options = {
  ...settings,
  rateLimit: { capacity: 3000, refillPerSecond: 0.001, maxWait: 0 },
  retryBudget: { capacity: 2000, perAttempt: 0, perSecond: 0 }
}

/** A bucket that is often empty. */
const slow = { ...settings, rateLimit: { ...settings.rateLimit, capacity: 10, refillPerSecond: 10 } }

/** A circuit that opens at a trifle. */
const touchy = { ...settings, circuitBreaker: { ...settings.circuitBreaker, failureThreshold: 3 } }

/** A cache that forgets soon. */
const brief = { ...settings, cache: { ...settings.cache, ttl: 2000, swr: 1000 } }

const planted: ReadonlyArray<Planted> = [
  {
    fault: "a permit is settled twice, and the second time it is somebody else's",
    law: "P1",
    mutation: () => {
      const given: Array<Bulkhead.Permit> = []
      return withPermits((permit) => {
        given.push(permit)
        return but(permit, {
          releaseUnsafe: () => {
            permit.releaseUnsafe()
            given.pop()?.releaseUnsafe()
          }
        })
      })
    }
  },
  {
    fault: "a bucket twice as large as it should be",
    law: "P2",
    options: slow,
    mutation: () => ({
      options: Effect.succeed({ ...slow, rateLimit: { ...slow.rateLimit, capacity: 20, refillPerSecond: 20 } })
    })
  },
  {
    fault: "a line in which every second one steps aside for a while",
    law: "P3",
    mutation: () => {
      let arrivals = 0
      return withBulkhead(({ acquire }) => ({
        acquire: (options) =>
          ++arrivals % 2 === 0
            ? acquire(options)
            : Effect.andThen(options!.restore!(Effect.sleep(700)), acquire(options))
      }))
    }
  },
  {
    fault: "a provider that tries again by itself",
    law: "P4",
    mutation: () => ({ provider: asking((ask) => Effect.retry(ask, { times: 1 })) })
  },
  {
    fault: "an open circuit that lets everybody in",
    law: "P5",
    options: touchy,
    mutation: () =>
      withBreaker(({ admitUnsafe, recordUnsafe }) => {
        const strangers = new WeakSet<CircuitBreaker.Permit>()
        return {
          isOpenUnsafe: () => false,
          admitUnsafe: (now, kind) => {
            const permit = admitUnsafe(now, kind)
            if (permit !== undefined) return permit
            const own: CircuitBreaker.Permit = { generation: -1, slot: -1, settled: false, slowAfter: Infinity }
            strangers.add(own)
            return own
          },
          recordUnsafe: (permit, ...facts) => {
            if (!strangers.has(permit)) recordUnsafe(permit, ...facts)
          }
        }
      })
  },
  {
    fault: "a success that counts as a failure",
    law: "P5",
    options: touchy,
    mutation: () =>
      withBreaker(({ recordUnsafe }) => ({
        recordUnsafe: (permit, outcome, now, details) =>
          recordUnsafe(permit, outcome === "success" ? "failure" : outcome, now, details)
      }))
  },
  {
    fault: "a circuit that tries again too early",
    law: "P5",
    options: touchy,
    mutation: () => withBreaker(() => ({}), { ...touchy.circuitBreaker, recoveryTimeout: 500 })
  },
  {
    fault: "an attempt without an end",
    law: "P6",
    left: (run) => ({ ...run, events: without(run.events, ({ _tag }) => _tag === "AttemptFailed") })
  },
  {
    fault: "a call that ends twice",
    law: "P6",
    left: (run) => ({ ...run, events: [...run.events, run.events.find(({ _tag }) => _tag === "CallEnded")!] })
  },
  {
    fault: "a caller that joined another one's work and is never resumed",
    law: "P7",
    mutation: () => ({
      client: through((ask) =>
        Effect.flatMap(
          ask,
          (answer) =>
            answer.ledger.some((event) => event._tag === "Idempotency" && event.result === "joined")
              ? Effect.never
              : Effect.succeed(answer)
        )
      )
    })
  },
  {
    fault: "a failure that is told a second late",
    law: "P7",
    mutation: () => ({ client: through((ask) => Effect.tapError(ask, () => Effect.sleep(1000))) })
  },
  {
    fault: "a clock that wakes whoever waits for a hint too early",
    law: "P8",
    mutation: () => ({
      clock: (clock) =>
        but(clock, {
          sleep: (duration) => {
            const millis = Duration.toMillis(duration)
            return clock.sleep(millis >= 1000 && millis <= 1200 ? Duration.millis(millis / 2) : duration)
          }
        })
    })
  },
  {
    fault: "a limiter that gives nothing back",
    law: "P9",
    options: scarce,
    // Who has the client's token, and is refused by them, gives it back.
    limits: { limits: [{ dimension: "requests", limit: 20, per: 10_000 }], maxWait: 0 },
    mutation: () => ({
      options: Effect.map(RateLimiter.make(scarce.rateLimit as RateLimiter.Options), (limiter) => {
        const keep = (taken: RateLimiter.Reservation) => but(taken, { refundUnsafe: () => {} })
        return {
          ...scarce,
          rateLimit: but(limiter, {
            acquire: (cost, options) => Effect.map(limiter.acquire(cost, options), keep),
            tryAcquireUnsafe: (...facts) => {
              const taken = limiter.tryAcquireUnsafe(...facts)
              return taken && keep(taken)
            }
          })
        }
      })
    })
  },
  {
    fault: "a probe that is never given back",
    law: "P9",
    options: touchy,
    mutation: () =>
      withBreaker(({ recordUnsafe, state }) => ({
        recordUnsafe: (permit, outcome, now, details) => {
          const isProbe = Effect.runSync(Ref.get(state))._tag === "HalfOpen"
          if (!isProbe) recordUnsafe(permit, outcome, now, details)
        }
        // The lease of a probe, which is there for processes that die, would hide it.
      }), { ...touchy.circuitBreaker, probeLease: "10 minutes" })
  },
  {
    fault: "a refused retry that has to be paid",
    law: "P9",
    options: scarce,
    left: (run) => {
      const refused = refusedRetries(run.events)
      assert.isAbove(refused, 0)
      const targets = run.status!.targets.map((target) => but(target, { retryBudget: target.retryBudget! - refused }))
      return { ...run, status: { ...run.status!, targets } }
    }
  },
  {
    fault: "a timer that is left behind with every answer",
    law: "P9",
    mutation: () => ({ provider: asking((ask) => Effect.tap(ask, () => Effect.forkDetach(Effect.sleep("1 day")))) })
  },
  {
    fault: "a permit that is lost now and then",
    law: "P9",
    mutation: () => {
      let permits = 0
      return withPermits((permit) => ++permits % 100 === 0 ? but(permit, { releaseUnsafe: () => {} }) : permit)
    }
  },
  {
    fault: "a broken stream that is glued to the answer to another request",
    law: "P10",
    kind: "stream",
    mutation: () => ({ provider: glue })
  },
  {
    fault: "a cache that alters what it keeps",
    law: "P11",
    mutation: () => ({
      client: through((ask) =>
        Effect.map(ask, (answer) => answer.source === "cache" ? but(answer, { text: `${answer.text}!` }) : answer)
      )
    })
  },
  {
    fault: "a cache that keeps answers ten times as long",
    law: "P11",
    options: brief,
    mutation: () => ({ options: Effect.succeed({ ...brief, cache: { ...brief.cache, ttl: 20_000 } }) })
  },
  {
    fault: "who leaves takes those with it who joined",
    law: "P13",
    mutation: () => ({ client: naiveSharing })
  },
  {
    fault: "an error that repeats the prompt",
    law: "P14",
    mutation: () => ({
      provider: asking((ask) =>
        Effect.mapError(ask, ({ provider, reason }) => new LlmError.ProviderError({ provider, reason, code: MARKER }))
      )
    })
  },
  {
    fault: "a cache without a bound",
    law: "P16",
    options: { ...settings, cache: { ...settings.cache, maxEntries: 5 } },
    mutation: () => ({ options: Effect.succeed({ ...settings, cache: { ...settings.cache, maxEntries: 10_000 } }) })
  },
  {
    fault: "a listener that came too late",
    law: "log",
    left: (run) => ({ ...run, events: run.events.slice(20) })
  }
]

// -----------------------------------------------------------------------------
// runs
// -----------------------------------------------------------------------------

const planOf = ({ kind = "complete", limits, options = settings }: Planted): Plan => ({
  kind,
  seed: "planted",
  calls: 800,
  targets: [{ id: "p", chaos: true }],
  options,
  ...(limits === undefined ? undefined : { limits })
})

const lawsOf = (found: ReadonlyArray<Invariants.Violation>): ReadonlyArray<Invariants.Law> => [
  ...new Set(found.map(({ law }) => law))
]

describe("planted faults", () => {
  it("are twenty, and more", () => {
    assert.isAtLeast(new Set(planted.map(({ fault }) => fault)).size, 20)
  })

  it.each([...new Map(planted.map((row) => [JSON.stringify(planOf(row)), row])).values()])(
    "without it every law holds: $fault",
    async (row) => {
      assert.deepStrictEqual(Invariants.check(runOf(await Effect.runPromise(run(planOf(row))))), [])
    }
  )

  it.each(planted)("$law: $fault", async (row) => {
    const { law, left, mutation } = row
    const plan = planOf(row)
    const log = await Effect.runPromise(run(mutation === undefined ? plan : { ...plan, mutation: mutation() }))
    const found = Invariants.check(left?.(runOf(log)) ?? runOf(log))
    assert.include(lawsOf(found), law)
  })
})

// -----------------------------------------------------------------------------
// two runs
// -----------------------------------------------------------------------------

describe("planted faults, seen by comparing", () => {
  const plan: Plan = { ...planOf(planted[0]!), calls: 300 }
  const jumping = (reading: number): number => (reading % 3 - 1) * 3_600_000
  const observed = (mutation: Mutation, more: Partial<Plan> = {}) =>
    Effect.map(run({ ...plan, ...more, mutation }), runOf)

  it.effect("P12: a provider that asks the wall clock whether it is to answer", () =>
    Effect.gen(function*() {
      const compared = (mutation: Mutation) =>
        Effect.map(
          Effect.all([observed(mutation), observed(mutation, { wall: jumping })]),
          ([a, b]) => lawsOf(Invariants.compare(a, b, "wall-clock"))
        )
      assert.deepStrictEqual(yield* compared({}), [])
      assert.deepStrictEqual(yield* compared({ provider: byTheClock }), ["P12"])
    }))

  it.effect("P15: a provider that draws where no seed reaches", () =>
    Effect.gen(function*() {
      const unseeded = asking((ask) => Effect.suspend(() => Effect.delay(ask, Math.ceil(Math.random() * 100))))
      const compared = (mutation: Mutation) =>
        Effect.map(Effect.all([observed(mutation), observed(mutation)]), ([a, b]) => lawsOf(Invariants.compare(a, b)))
      assert.deepStrictEqual(yield* compared({}), [])
      assert.deepStrictEqual(yield* compared({ provider: unseeded }), ["P15"])
    }))

  it.effect("P13: who leaves takes the answer of those with it who stay", () =>
    Effect.gen(function*() {
      const echo = yield* ScriptedProvider.make([
        ScriptedProvider.always(({ prompt }) => ({ ...ScriptedProvider.answer(JSON.stringify(prompt)), delay: 100 }))
      ], { id: "p" })
      const options: LlmConfig.Options = { idempotency: { derive: "join" } }
      /** Three ask the same; the first one may leave. */
      const callers = (change: (client: LlmClientOf) => LlmClientOf, leaves?: number) =>
        Effect.gen(function*() {
          const layer = LlmClient.layerDynamic([{ id: "p", provider: echo }], options)
          const client = change(Context.get(yield* Layer.build(layer), LlmClient))
          const fibers = yield* Effect.forEach([leaves, undefined, undefined], () => fork(client.complete("Hi")))
          yield* TestClock.adjust(50)
          if (leaves !== undefined) fibers[0]!.interruptUnsafe()
          yield* TestClock.adjust("1 minute")
          const found = fibers.map((fiber, i): Invariants.Caller => ({
            asked: "Hi",
            from: 0,
            to: 0,
            exit: fiber.pollUnsafe(),
            leaves: i === 0 ? leaves : undefined
          }))
          return { events: [], options, callers: found }
        })
      const compared = (change: (client: LlmClientOf) => LlmClientOf) =>
        Effect.map(Effect.all([callers(change), callers(change, 50)]), ([a, b]) =>
          Invariants.compare(a, b, "interruptions"))
      assert.deepStrictEqual(
        yield* compared((client) =>
          client
        ),
        []
      )
      assert.deepInclude((yield* compared(naiveSharing))[0], { law: "P13", what: "caller 1 did not get the same" })
    }).pipe(Effect.scoped))
})

// -----------------------------------------------------------------------------
// chaos of one's own
// -----------------------------------------------------------------------------

describe("a client of one's own, through chaos", () => {
  /** Half of what is asked fails, for a client with patterns that other runs leave out. */
  const observed = (seed: string) =>
    Effect.gen(function*() {
      const options = {
        hedge: { delay: "200 millis" },
        bulkhead: { maxConcurrent: 5 },
        retry: { baseDelay: 50 },
        timeout: { attempt: 1000, deadline: 5000 }
      } as const satisfies LlmConfig.Options
      const policy: Chaos.Policy = {
        rate: 0.5,
        seed,
        faults: [
          { fault: FaultServer.status(503), weight: 3 },
          { fault: FaultServer.status(429, { retryAfter: 1 }) },
          { fault: FaultServer.hang() },
          { fault: FaultServer.slowHeaders(300) },
          { fault: FaultServer.truncate() }
        ]
      }
      const { events, layer } = yield* Invariants.recorder
      const providers = yield* Effect.forEach(["p", "s"], (id) =>
        Effect.flatMap(
          ScriptedProvider.make([ScriptedProvider.always({ ...ScriptedProvider.answer("Hello."), delay: 20 })], { id }),
          (provider) => Effect.map(Chaos.provider(provider, policy), (provider) => ({ id, provider }))
        ))
      const [first, ...others] = providers
      const live = LlmClient.layerDynamic([first!, ...others], options)
      const client = Context.get(yield* Layer.build(Layer.provide(live, layer)), LlmClient)
      for (let i = 0; i < 400; i++) {
        yield* fork(Effect.exit(client.complete(`question ${i}`)))
        if (i % 3 === 0) yield* TestClock.adjust(100)
      }
      yield* TestClock.adjust("1 minute")
      const endedAt = yield* now
      return { events, options, status: yield* client.status, endedAt } satisfies Invariants.Run
    }).pipe(Effect.scoped, chance(0.5))

  it.effect("hedges, lines and shares: every law holds, and the run is the same by its seed", () =>
    Effect.gen(function*() {
      const one = yield* Effect.provide(observed("one"), TestClock.layer())
      const again = yield* Effect.provide(observed("one"), TestClock.layer())
      const other = yield* Effect.provide(observed("two"), TestClock.layer())
      assert.deepStrictEqual(Invariants.check(one), [])
      assert.deepStrictEqual(Invariants.compare(one, again), [])
      assert.deepStrictEqual(Invariants.compare(one, other).map(({ law }) => law), ["P15"])
      const seen = new Set(one.events.map(({ _tag }) => _tag))
      for (const tag of ["Hedged", "RetryScheduled", "FailedOver", "Waited"] as const) assert.isTrue(seen.has(tag), tag)
      assert.isAbove(one.events.filter((event) => "injected" in event).length, 100)
    }))
})

describe("a violation", () => {
  it("names the law, the moment and the event that shows it", () => {
    const call = { call: 1, target: "p" }
    const events: ReadonlyArray<Heard> = [
      { _tag: "CallStarted", call: 1, at: 0, operation: "complete", when: 10 },
      { _tag: "AttemptStarted", ...call, attempt: 1, at: 0, when: 10 },
      {
        _tag: "AttemptFailed",
        ...call,
        attempt: 1,
        at: 5,
        when: 15,
        duration: 5,
        error: { tag: "ProviderError", reason: "RateLimit", retryAfter: 1000 },
        outcome: "ignored",
        afterCommit: false
      },
      {
        _tag: "RetryScheduled",
        ...call,
        attempt: 1,
        at: 5,
        when: 15,
        delay: 500,
        delayedBy: "backoff",
        error: { tag: "ProviderError", reason: "RateLimit", retryAfter: 1000 }
      },
      { _tag: "AttemptStarted", ...call, attempt: 2, at: 505, when: 515 },
      { _tag: "AttemptSucceeded", ...call, attempt: 2, at: 510, when: 520, duration: 5 },
      {
        _tag: "CallEnded",
        ...call,
        at: 510,
        when: 520,
        operation: "complete",
        outcome: "provider",
        duration: 510,
        attempts: 2
      }
    ]
    assert.deepStrictEqual(Invariants.check({ events, options: {} }), [
      { law: "P8", what: "call 1 asks p again 500 ms early", when: 515, event: 4 },
      { law: "P8", what: "call 1 is to wait less than the hint of 1000", when: 15, event: 3 }
    ])
    assert.deepStrictEqual(Invariants.check({ events: [], options: {} }), [])
  })

  it("a run of nothing but violations gives a hundred of each", () => {
    const events = Array.from(
      { length: 500 },
      (_, i): Heard => ({ _tag: "CallStarted", call: i + 1, at: 0, operation: "complete", when: i })
    )
    assert.lengthOf(Invariants.check({ events, options: {} }), 100)
  })

  it("who may wait longer by a class of its own may be overtaken", () => {
    const started = (call: number, at: number, when: number): Heard => ({
      _tag: "AttemptStarted",
      call,
      target: "p",
      attempt: 1,
      at,
      when
    })
    const begun = (call: number): Heard => ({ _tag: "CallStarted", call, at: 0, operation: "complete", when: 0 })
    const ended = (call: number, when: number): ReadonlyArray<Heard> => [
      { _tag: "AttemptSucceeded", call, target: "p", attempt: 1, at: when, when, duration: 1 },
      {
        _tag: "CallEnded",
        call,
        at: when,
        when,
        operation: "complete",
        outcome: "provider",
        duration: when,
        attempts: 1
      }
    ]
    const events: ReadonlyArray<Heard> = [
      begun(1),
      begun(2),
      started(2, 5, 5),
      ...ended(2, 6),
      { _tag: "Waited", call: 1, target: "p", for: "bulkhead", at: 9, when: 9, duration: 9 },
      started(1, 9, 9),
      ...ended(1, 10)
    ]
    const options: LlmConfig.Options = { bulkhead: { maxConcurrent: 1 } }
    assert.deepStrictEqual(lawsOf(Invariants.check({ events, options })), ["P3"])
    assert.deepStrictEqual(
      Invariants.check({ events, options, classOf: (call) => call === 1 ? "batch" : "default" }),
      []
    )
  })
})
