// E1–E4 and E10 once more, with what the product does when nothing is configured. The expected values are computed from
// the defaults of ARCHITECTURE §7, and the defaults of the library are compared with these first.
import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Exit, Layer } from "effect"
import { LlmClient, type LlmConfig } from "effect-resilient-llm"
import { Bulkhead, CircuitBreaker, RateLimiter, Retry, RetryBudget, Timeout } from "effect-resilient-llm/resilience"
import { CountingClock, ScriptedProvider } from "effect-resilient-llm/testing"
import { TestClock } from "effect/testing"
import { ask, type Kind, kinds, nothingHeld, now, type SetUp, success, timed, vector } from "../support.ts"
import { ageOf, callAtOnce, find, millis, over, overloads, recorded, start, succeeds, word } from "./support.ts"

const SECOND = 1000
const MINUTE = 60 * SECOND
const HOUR = 60 * MINUTE

/** ARCHITECTURE §7, in milliseconds. */
const defaults = {
  retry: { maxRetries: 3, baseDelay: SECOND, factor: 2, maxDelay: MINUTE },
  retryBudget: { capacity: 10, perAttempt: 0.2, perSecond: 0.1 },
  timeout: { attempt: MINUTE, firstToken: MINUTE, idle: MINUTE, deadline: 5 * MINUTE },
  circuitBreaker: { failureThreshold: 5, recoveryTimeout: 30 * SECOND, maxRecoveryTimeout: 5 * MINUTE },
  rateLimit: { capacity: 3500, refillPerSecond: 58.33, maxWait: 30 * SECOND, queue: 256 },
  cache: { ttl: HOUR, staleIfError: 24 * HOUR },
  /** Off, and these when it is switched on. */
  bulkhead: { maxWait: 30 * SECOND }
} as const

// -----------------------------------------------------------------------------
// reference
// -----------------------------------------------------------------------------

/** The delay before retry `k`, with draws of .5: three quarters of the ceiling. */
const backoff = (k: number): number => {
  const { baseDelay, factor, maxDelay } = defaults.retry
  return Math.ceil(0.75 * Math.min(maxDelay, baseDelay * factor ** (k - 1)))
}

/** When a target that always fails at once is asked by a call that comes to it at `from`. */
const attempts = (from: number): ReadonlyArray<number> => {
  const times = [from]
  for (let k = 1; k <= defaults.retry.maxRetries; k++) times.push(times.at(-1)! + backoff(k))
  return times
}

const end = (from: number): number => attempts(from).at(-1)!

/** How long the n-th opening in a row lasts. */
const openFor = (n: number): number => {
  const { maxRecoveryTimeout, recoveryTimeout } = defaults.circuitBreaker
  return Math.min(maxRecoveryTimeout, recoveryTimeout * 2 ** (n - 1))
}

interface Story {
  /** When p and s were asked, and when each call was over. */
  readonly p: ReadonlyArray<number>
  readonly s: ReadonlyArray<number>
  readonly ended: ReadonlyArray<number>
  /** When p may be asked again. */
  readonly openUntil: number
}

/** `count` calls, one after the other; p always fails at once, s never does. */
const oneAfterTheOther = (count: number): Story => {
  const p: Array<number> = []
  const s: Array<number> = []
  let now = 0
  let openUntil = 0
  for (let i = 0; i < count; i++) {
    for (const at of openUntil > now ? [] : attempts(now)) {
      p.push(at)
      now = at
      if (p.length === defaults.circuitBreaker.failureThreshold) {
        openUntil = at + openFor(1)
        break
      }
    }
    s.push(now)
  }
  return { p, s, ended: s, openUntil }
}

// -----------------------------------------------------------------------------
// a client with every default
// -----------------------------------------------------------------------------

/** A client that nobody configured. */
const unconfigured = (
  scripts: ReadonlyArray<ScriptedProvider.Step | ReadonlyArray<ScriptedProvider.Step>>,
  options: LlmConfig.Options = {},
  targets: ReadonlyArray<Parameters<typeof LlmClient.target>[1]> = []
) =>
  Effect.gen(function*() {
    const providers = yield* Effect.forEach(scripts, (script, i) =>
      "_tag" in script
        ? ScriptedProvider.make([ScriptedProvider.always(script)], { id: "ps"[i]! })
        : ScriptedProvider.make([...script.slice(0, -1), ScriptedProvider.always(script.at(-1)!)], { id: "ps"[i]! }))
    const [first, ...others] = providers.map((provider, i) => ({ ...targets[i], id: provider.id, provider }))
    const context = yield* Layer.build(LlmClient.layerDynamic([first!, ...others], options))
    return {
      client: Context.get(context, LlmClient),
      providers,
      calls: (i = 0) => Effect.map(providers[i]!.requests, (requests) => requests.map(({ at }) => at))
    } satisfies SetUp
  })

it("the defaults are those of ARCHITECTURE §7", () => {
  assert.deepInclude(Retry.policy(), defaults.retry)
  assert.deepStrictEqual(RetryBudget.policy(), RetryBudget.policy(defaults.retryBudget))
  assert.deepStrictEqual(Timeout.policy(), defaults.timeout)
  assert.deepInclude(CircuitBreaker.policy(), {
    ...defaults.circuitBreaker,
    failureRate: 0.5,
    minimumCalls: 10,
    window: MINUTE,
    halfOpenProbes: 1,
    successThreshold: 1
  })
  assert.deepStrictEqual(RateLimiter.policy(), RateLimiter.policy(defaults.rateLimit))
  assert.deepInclude(Bulkhead.policy(), defaults.bulkhead)
})

describe.each(kinds)("%s, product defaults", (kind: Kind) => {
  const story = oneAfterTheOther(3)

  /** Three calls, one after the other. */
  const three = Effect.gen(function*() {
    const r = yield* unconfigured([overloads, succeeds])
    const ended: Array<number> = []
    const all = yield* start(Effect.forEach([1, 2, 3], () =>
      Effect.andThen(
        Effect.map(ask(kind, r.client), (response) => assert.strictEqual(response.target, "s")),
        Effect.map(now, (at) => void ended.push(at))
      )))
    yield* TestClock.adjust(story.ended.at(-1)!)
    success(over(all))
    return { r, ended }
  })

  it.effect("E1 p always F, s always S, three calls: the fifth failure opens p", () =>
    vector(Effect.gen(function*() {
      const { ended, r } = yield* three
      assert.deepStrictEqual([ended, yield* r.calls(0), yield* r.calls(1)], [story.ended, story.p, story.s])
      assert.strictEqual(story.p.length, defaults.circuitBreaker.failureThreshold)
      const { targets: [p, s] } = yield* r.client.status
      assert.deepStrictEqual([p?.circuit?.state, s?.circuit?.state], ["open", "closed"])
      assert.strictEqual(millis(p?.circuit?.retryAfter), story.openUntil - ended.at(-1)!)
      yield* nothingHeld(r)
    })))

  it.effect.each<[string, number, number]>([
    ["a millisecond before p may be asked again: it is not", -1, 0],
    ["when p may be asked again: one probe, open for twice as long", 0, 1]
  ])("E2 %s", ([, offset, probes]) =>
    vector(Effect.gen(function*() {
      const { ended, r } = yield* three
      const at = story.openUntil + offset
      yield* TestClock.adjust(at - ended.at(-1)!)
      const call = yield* timed(ask(kind, r.client), 0)
      assert.deepStrictEqual([success(call.exit).target, call.at], ["s", 0])
      assert.deepStrictEqual((yield* r.calls(0)).slice(story.p.length), Array.from({ length: probes }, () => at))
      const left = probes === 0 ? story.openUntil - at : openFor(2)
      assert.strictEqual(millis((yield* r.client.status).targets[0]?.circuit?.retryAfter), left)
      yield* nothingHeld(r)
    })))

  it.effect.each<[string, number]>([
    ["a fresh one", 100 * SECOND],
    ["an old one", 3 * defaults.cache.ttl],
    ["the oldest one", defaults.cache.ttl + defaults.cache.staleIfError - 1]
  ])("E3 both always F, an answer stored at 0, %s stands in", ([, at]) =>
    vector(Effect.gen(function*() {
      const r = yield* unconfigured([[succeeds, overloads], overloads])
      yield* ask(kind, r.client)
      yield* TestClock.adjust(at)
      const call = yield* timed(ask(kind, r.client), 5 * MINUTE)
      const response = success(call.exit)
      assert.deepStrictEqual([response.source, response.text, ageOf(response)], ["stale", "Hello.", at])
      const onP = attempts(at)
      const onS = attempts(end(at))
      assert.deepStrictEqual([(yield* r.calls(0)).slice(1), yield* r.calls(1)], [onP, onS])
      assert.strictEqual(call.at, end(end(at)) - at)
      assert.strictEqual(find(response.ledger, "AttemptFailed").length, onP.length + onS.length)
      assert.deepStrictEqual(find(response.ledger, "FailedOver").map((e) => e.at), [end(at) - at])
      const story = find(response.ledger, "Cache").map(({ age, error, result }) => [result, age, error?.tag])
      assert.deepStrictEqual(story, [["stale", at, "AllProvidersFailed"]])
      assert.deepStrictEqual(find(response.ledger, "CallEnded").map((e) => e.outcome), ["stale"])
      yield* nothingHeld(r)
    })))

  it.effect("E3 a millisecond later it is too old: the failures of both", () =>
    vector(Effect.gen(function*() {
      const r = yield* unconfigured([[succeeds, overloads], overloads])
      yield* ask(kind, r.client)
      yield* TestClock.adjust(defaults.cache.ttl + defaults.cache.staleIfError)
      const { exit } = yield* timed(Effect.flip(ask(kind, r.client)), 5 * MINUTE)
      assert.strictEqual(word(success(exit)), "AllProvidersFailed Overloaded Overloaded")
      yield* nothingHeld(r)
    })))

  it.effect("E4 nothing fails: one request at 0, the result at 0, no sleep, one token, no permit", () =>
    vector(Effect.gen(function*() {
      const r = yield* unconfigured([succeeds])
      const call = yield* start(ask(kind, r.client))
      assert.strictEqual(success(over(call)).source, "provider")
      assert.strictEqual(call.at(), 0)
      assert.deepStrictEqual(yield* r.calls(), [0])
      assert.strictEqual(yield* (yield* CountingClock.CountingClock).started, 0)
      yield* nothingHeld(r)
      const { capacity, refillPerSecond } = defaults.rateLimit
      // The rest of the bucket, and then the time that one token takes.
      for (let i = 1; i < capacity; i++) yield* ask(kind, r.client)
      const next = yield* timed(ask(kind, r.client), SECOND)
      assert.isTrue(Exit.isSuccess(next.exit))
      assert.strictEqual(next.at, Math.ceil(SECOND / refillPerSecond))
      assert.strictEqual((yield* r.calls()).length, capacity + 1)
      yield* nothingHeld(r)
    })))

  it.effect("E10 p hangs behind 20 permits, a thousand calls: p opens once, all succeed via s", () =>
    vector(Effect.gen(function*() {
      const count = 1000
      const permits = 20
      const r = yield* unconfigured([ScriptedProvider.hang, succeeds], {}, [
        { bulkhead: { maxConcurrent: permits, queue: count } },
        { bulkhead: { maxConcurrent: count, queue: count } }
      ])
      const events = yield* recorded(r)
      const calls = yield* callAtOnce(count, kind, r)
      yield* TestClock.adjust(10 * MINUTE)
      const ends = calls.map((call) => {
        assert.strictEqual(success(over(call)).target, "s")
        return call.at()!
      })
      // Who gets no permit in time goes on to s; of those who time out, the first ones have scheduled a retry before the
      // last one opens p.
      const { failureThreshold } = defaults.circuitBreaker
      const timeout = kind === "stream" ? defaults.timeout.firstToken : defaults.timeout.attempt
      const expected = [
        ...Array.from({ length: count - permits }, () => defaults.bulkhead.maxWait),
        ...Array.from({ length: permits - failureThreshold + 1 }, () => timeout),
        ...Array.from({ length: failureThreshold - 1 }, () => timeout + backoff(1))
      ]
      assert.deepStrictEqual(ends.toSorted((a, b) => a - b), expected)
      const changes = find(events, "CircuitChanged").map(({ at, target, to }) => [at, target, to])
      assert.deepStrictEqual(changes, [[timeout, "p", "open"]])
      assert.deepStrictEqual(yield* r.calls(0), Array.from({ length: permits }, () => 0))
      assert.strictEqual((yield* r.calls(1)).length, count)
      yield* nothingHeld(r)
    })))
})
