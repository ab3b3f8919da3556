// Shadow mode: a pattern decides and tells, and everything goes on as if it were off.
import { assert, describe, it } from "@effect/vitest"
import { Duration, Effect, Exit, Fiber, Random, Stream } from "effect"
import type { LlmConfig, LlmEvent, LlmRequest } from "effect-resilient-llm"
import type { RateLimiter } from "effect-resilient-llm/resilience"
import { ScriptedProvider } from "effect-resilient-llm/testing"
import { TestClock } from "effect/testing"
import { ask, chance, failure, fork, kinds, now, setUp, success, timed, vector } from "../support.ts"

const { answer, fail, overloaded } = ScriptedProvider
const shadow = { mode: "shadow" } as const
const slow = (delay: number) => answer("Hello.", { delay })
const told = (ledger: LlmEvent.Ledger) =>
  ledger.flatMap((event) =>
    event._tag === "Shadowed" ? [`${event.by} ${event.decision} ${event.duration ?? ""}`.trim()] : []
  )

describe.each(kinds)("%s", (kind) => {
  it.effect("W1 an empty limiter lets everything pass at once, and tells what it would have done", () =>
    vector(Effect.gen(function*() {
      const rateLimit = {
        limits: [{ dimension: "requests", limit: 1, per: "10 seconds" }],
        maxWait: "15 seconds",
        ...shadow
      }
      const r = yield* setUp([{ always: answer("x") }], { rateLimit } as LlmConfig.Options)
      const decisions: Array<ReadonlyArray<string>> = []
      for (let i = 0; i < 4; i++) {
        const { at, exit } = yield* timed(ask(kind, r.client, `${i}`), 0)
        assert.strictEqual(at, 0)
        decisions.push(told(success(exit).ledger))
      }
      assert.deepStrictEqual(decisions, [
        [],
        ["rate-limit would-wait 10000"],
        ["rate-limit would-refuse 20000"],
        ["rate-limit would-refuse 20000"]
      ])
      const { rateLimit: bucket } = yield* r.client.status
      assert.deepStrictEqual(bucket?.levels, { requests: -1 })
      assert.strictEqual(bucket?.queued, 1)
    })))

  it.effect("W1 with limits of a target that wait for tokens, and what the vendor says, no level is ever no number", () =>
    vector(Effect.gen(function*() {
      const limits = {
        limits: [
          { dimension: "requests", limit: 2, per: "1 second" },
          { dimension: "tokens", limit: 1000, per: "1 minute" },
          { dimension: "tokens", limit: 500, per: "1 minute", by: "tenant" }
        ],
        ...shadow
      } as const
      const steps = [answer("x"), fail({ _tag: "RateLimit" }, { status: 429, retryAfter: Duration.seconds(3) })]
      const r = yield* setUp([{ script: steps, always: answer("y") }], { retry: false }, [{ limits }])
      for (let i = 0; i < 6; i++) {
        const { at } = yield* timed(ask(kind, r.client, { prompt: "Hi", tenant: `t${i % 2}`, maxTokens: 400 }), 0)
        assert.strictEqual(at, 0)
        const { targets: [target] } = yield* r.client.status
        for (const level of Object.values(target?.limits?.levels ?? {})) {
          assert.isTrue(Number.isFinite(level), `${level}`)
        }
      }
    })))

  it.effect("W2 a circuit admits all, and says once that it would have opened", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([{ always: overloaded }], {
        retry: false,
        circuitBreaker: { failureThreshold: 5, ...shadow }
      })
      const changes: Array<string> = []
      yield* fork(Stream.runForEach(r.client.events, (event) =>
        Effect.sync(() => {
          if (event._tag === "CircuitChanged") changes.push(`${event.from} ${event.to}`)
        })))
      for (let i = 0; i < 5; i++) yield* Effect.exit(ask(kind, r.client))
      assert.strictEqual((yield* r.calls()).length, 5)
      const { targets: [target] } = yield* r.client.status
      assert.strictEqual(target?.circuit?.state, "shadow")
      yield* TestClock.adjust(0)
      assert.deepStrictEqual(changes, ["shadow would-open"])
    })))

  it.effect("W3 when a hedge is due, it is told, and nobody is asked or pays", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([{ always: slow(1000) }, { always: answer("never") }], {
        hedge: { delay: 300, maxHedges: 2, ...shadow },
        retryBudget: { capacity: 5 }
      })
      const { at, exit } = yield* timed(ask(kind, r.client))
      assert.strictEqual(at, 1000)
      assert.deepStrictEqual(told(success(exit).ledger), ["hedge would-hedge"])
      assert.deepStrictEqual(yield* r.calls(1), [])
      const { targets } = yield* r.client.status
      assert.deepStrictEqual(targets.map(({ retryBudget }) => retryBudget), [5, 5])
    })))

  it.effect("W4 an empty purse denies nothing, and nothing is taken from it", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([{ always: overloaded }], {
        retry: { maxRetries: 2, baseDelay: 100 },
        retryBudget: { capacity: 1, perAttempt: 0, perSecond: 0, ...shadow }
      })
      const { exit } = yield* timed(ask(kind, r.client))
      assert.strictEqual((yield* r.calls()).length, 3)
      assert.deepStrictEqual(told(failure(exit).ledger), ["retry-budget would-deny"])
      const { targets: [target] } = yield* r.client.status
      assert.strictEqual(target?.retryBudget, 0)
    })))

  it.effect("W4 a throttle and doors shed nothing, and draw no lots", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([{ always: fail({ _tag: "Overloaded" }, { status: 503, delay: 1000 }) }], {
        retry: false,
        loadShedding: { throttle: {}, thresholds: { sheddable: 0 }, ...shadow },
        bulkhead: { maxConcurrent: 1, queue: 10 }
      })
      const all = yield* Effect.forEach(
        Array.from({ length: 10 }),
        (_, i) => fork(Effect.exit(ask(kind, r.client, { prompt: `${i}`, priority: "sheddable" })))
      )
      yield* TestClock.adjust("1 minute")
      const decisions: Array<string> = []
      for (const fiber of all) {
        decisions.push(...told(failure(yield* Fiber.join(fiber)).ledger))
      }
      assert.strictEqual((yield* r.calls()).length, 10)
      assert.strictEqual(decisions.filter((one) => one.startsWith("load-shedding would-shed")).length >= 9, true)
      yield* Effect.forEach(Array.from({ length: 10 }), () => timed(ask(kind, r.client), "2 seconds"))
      assert.strictEqual((yield* r.calls()).length, 20)
    })))

  it.effect("what would be refused because its deadline is nearer than its turn takes nothing", () =>
    vector(Effect.gen(function*() {
      const r = yield* setUp([{ always: answer("x") }], {
        timeout: {},
        rateLimit: { capacity: 1, refillPerSecond: 1, maxWait: "1 minute", ...shadow }
      })
      const decisions: Array<ReadonlyArray<string>> = []
      for (let i = 0; i < 8; i++) {
        const { exit } = yield* timed(ask(kind, r.client, { prompt: `${i}`, deadline: "1500 millis" }), 500)
        decisions.push(told(success(exit).ledger))
      }
      // As enforced: one of two is served, the other one is refused or waits for less than it has.
      assert.deepStrictEqual(decisions, [
        [],
        ["rate-limit would-wait 500"],
        ["rate-limit would-wait 1000"],
        ["rate-limit would-wait 1500"],
        ["rate-limit would-refuse 2000"],
        ["rate-limit would-wait 1500"],
        ["rate-limit would-refuse 2000"],
        ["rate-limit would-wait 1500"]
      ])
    })))

  it.effect("a throttle tells as many as it would reject: what it would have rejected is no success of the target", () =>
    vector(Effect.gen(function*() {
      const steps = Array.from({ length: 400 }, (_, i) => i % 4 === 0 ? answer("x") : overloaded)
      const shed = (mode: "enforce" | "shadow") =>
        Effect.gen(function*() {
          const r = yield* setUp([{ script: steps, always: overloaded }], {
            retry: false,
            loadShedding: { throttle: {}, thresholds: false, mode }
          })
          let count = 0
          for (let i = 0; i < 400; i++) {
            const exit = yield* Effect.exit(ask(kind, r.client, `${i}`))
            const isShed = Exit.isSuccess(exit)
              ? told(exit.value.ledger).length > 0
              : failure(exit)._tag === "Shed" || told(failure(exit).ledger).length > 0
            if (isShed) count += 1
          }
          return count
        })
      let seed = 7
      const uneven = {
        nextDoubleUnsafe: () => (seed = seed * 16807 % 2147483647) / 2147483647,
        nextIntUnsafe: () => 0
      }
      const enforced = yield* Effect.provideService(shed("enforce"), Random.Random, uneven)
      const watched = yield* shed("shadow")
      assert.isAtMost(Math.abs(watched - enforced), 40, `${watched} told, ${enforced} shed`)
    })))

  it.effect("a hedge that the bound on attempts or the purse forbids is not told", () =>
    vector(Effect.gen(function*() {
      for (
        const forbidden of [
          { failover: { maxAttempts: 1 } },
          { retryBudget: { capacity: 0.5, perAttempt: 0, perSecond: 0 } }
        ] satisfies ReadonlyArray<LlmConfig.Options>
      ) {
        const r = yield* setUp([{ always: slow(1000) }, { always: answer("never") }], {
          ...forbidden,
          hedge: { delay: 300, ...shadow }
        })
        const { exit } = yield* timed(ask(kind, r.client))
        assert.deepStrictEqual(told(success(exit).ledger), [])
      }
    })))

  it.effect("who leaves a line for somebody more urgent, or would be served too late, is told to be shed", () =>
    vector(Effect.gen(function*() {
      const ends = (options: LlmConfig.Options, limits: RateLimiter.Options | undefined) =>
        Effect.gen(function*() {
          const r = yield* setUp([{ always: slow(2000) }], { timeout: {}, retry: false, ...options }, [{ limits }])
          const asked = (prompt: string, request: Partial<LlmRequest.Input>) =>
            fork(Effect.exit(ask(kind, r.client, { prompt, ...request })))
          const first = yield* asked("1", { priority: "critical" })
          const before = yield* asked("2", { tenant: "a" })
          const late = yield* asked("3", { priority: "batch", tenant: "a", deadline: "5 seconds" })
          const urgent = yield* asked("4", { priority: "critical", tenant: "b" })
          yield* TestClock.adjust("1 hour")
          for (const fiber of [first, before, urgent]) yield* Fiber.join(fiber)
          return failure(yield* Fiber.join(late))
        })
      const bulkhead = { maxConcurrent: 1, queue: 2 }
      const limits = { limits: [{ dimension: "requests", limit: 1, per: "10 seconds" }], queue: 10 } as const
      for (
        const [options, targets] of [
          [{ bulkhead }, undefined],
          [{}, limits]
        ] as const
      ) {
        const loadShedding = { throttle: false } as const
        assert.strictEqual((yield* ends({ ...options, loadShedding }, targets))._tag, "Shed")
        const watched = yield* ends({ ...options, loadShedding: { ...loadShedding, ...shadow } }, targets)
        assert.notStrictEqual(watched._tag, "Shed")
        assert.deepStrictEqual(told(watched.ledger).map((one) => one.slice(0, 24)), ["load-shedding would-shed"])
      }
    })))

  const patterns = {
    rateLimit: { limits: [{ dimension: "requests", limit: 2, per: "1 minute" }], maxWait: "1 second", ...shadow },
    circuitBreaker: { failureThreshold: 2, recoveryTimeout: "1 minute", ...shadow },
    hedge: { delay: 50, ...shadow },
    loadShedding: { throttle: { ratio: 1 }, thresholds: { default: 0 }, ...shadow },
    retryBudget: { capacity: 1, perAttempt: 0, perSecond: 0, ...shadow }
  } as const

  it.effect.each(Object.keys(patterns) as ReadonlyArray<keyof typeof patterns>)(
    "W5 %s in shadow: results, calls and their moments are those of off",
    (name) =>
      vector(Effect.gen(function*() {
        const steps = [overloaded, slow(200), overloaded, overloaded, slow(70), overloaded, overloaded, overloaded]
        const play = (options: LlmConfig.Options) =>
          Effect.gen(function*() {
            const r = yield* setUp([{ script: steps, always: slow(30) }, { always: slow(10) }], {
              bulkhead: { maxConcurrent: 1, queue: 5 },
              ...options
            })
            const begun = yield* now
            const fibers = yield* Effect.forEach([0, 1, 2, 3, 4, 5], (i) =>
              fork(Effect.andThen(
                Effect.sleep(i * 40),
                Effect.flatMap(Effect.exit(ask(kind, r.client, `${i}`)), (exit) =>
                  Effect.map(now, (at) => [exit._tag, Exit.isSuccess(exit) ? exit.value.target : "", at - begun]))
              )))
            yield* TestClock.adjust("10 minutes")
            const ends = yield* Effect.forEach(fibers, Fiber.join)
            return {
              ends,
              calls: [yield* r.calls(0), yield* r.calls(1)]
            }
          }).pipe(chance(0.25))
        const off = yield* play({ [name]: false })
        const watched = yield* play({ [name]: patterns[name] })
        assert.deepStrictEqual(watched.ends, off.ends)
        assert.deepStrictEqual(watched.calls, off.calls)
      }))
  )
})
