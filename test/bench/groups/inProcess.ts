// The cost of the pipeline itself: a provider that answers at once.
import { Cause, Effect, Exit, Stream } from "effect"
import type { LlmConfig } from "../../../src/index.ts"
import * as CircuitBreaker from "../../../src/resilience/CircuitBreaker.ts"
import * as Failover from "../../../src/resilience/Failover.ts"
import * as Idempotency from "../../../src/resilience/Idempotency.ts"
import * as RateLimiter from "../../../src/resilience/RateLimiter.ts"
import * as ResponseCache from "../../../src/resilience/ResponseCache.ts"
import * as Retry from "../../../src/resilience/Retry.ts"
import * as Timeout from "../../../src/resilience/Timeout.ts"
import { compare, type Plan, type Result, type Subject } from "../measure.ts"
import * as Peers from "../peers.ts"
import * as Stub from "../stubs.ts"

const GROUP = "in-process"
const ours = "effect-resilient-llm"
const { ANSWER, loop, off, on, PROMPT } = Stub

const promises = (name: string, ask: () => Promise<unknown>): Subject => ({
  name,
  run: async (count) => {
    for (let i = 0; i < count; i++) await ask()
  }
})
const effects = (name: string, effect: Effect.Effect<unknown, unknown>, per = 1): Subject => ({
  name,
  run: loop(effect),
  per
})
const complete = (generate: Stub.Answer, options: LlmConfig.Options = on) =>
  Stub.client([Stub.provider(() => generate)], options).complete(PROMPT)

/** Fails every second time. */
const flaky = (): () => boolean => {
  let k = 0
  return () => k++ % 2 === 0
}
const flakyAnswer = (): Stub.Answer => {
  const isBad = flaky()
  return Effect.suspend(() => isBad() ? Effect.fail(Stub.overloaded) : Stub.now)
}
const flakyAsk = (): Peers.Ask => {
  const isBad = flaky()
  return () => isBad() ? Promise.reject(new Error("busy")) : Promise.resolve(ANSWER)
}
const asking: Peers.Ask = () => Promise.resolve(ANSWER)
const refusing: Peers.Ask = () => Promise.reject(new Error("down"))

/** A client whose first target's circuit is open for an hour, and one whose providers are gone after a good answer. */
const withOpenBreaker = (): Effect.Effect<unknown, unknown> => {
  const circuitBreaker = { failureThreshold: 1, recoveryTimeout: "1 hour" } as const
  const client = Stub.client(
    [Stub.provider(() => Effect.fail(Stub.overloaded)), Stub.provider(() => Stub.now)],
    { ...on, circuitBreaker, retry: false }
  )
  Effect.runSync(client.complete(PROMPT))
  return client.complete(PROMPT)
}
const withStale = (): Effect.Effect<unknown, unknown> => {
  let isDown = false
  const generate: Stub.Answer = Effect.suspend(() => isDown ? Effect.fail(Stub.overloaded) : Stub.now)
  const client = Stub.client([Stub.provider(() => generate)], { ...on, retry: false, circuitBreaker: false })
  Effect.runSync(client.complete(PROMPT))
  isDown = true
  return client.complete(PROMPT)
}
const byHandStale = async (): Promise<() => Promise<unknown>> => {
  let isDown = false
  const ask = Peers.byHand([() => isDown ? Promise.reject(new Error("down")) : Promise.resolve(ANSWER)])
  await ask(PROMPT)
  isDown = true
  // Until its breaker opens it also sleeps between retries.
  await ask(PROMPT)
  await ask(PROMPT)
  return () => ask(PROMPT)
}

/** Each pattern round an effect that succeeds, without the client. */
const alone = Effect.gen(function*() {
  const breaker = yield* CircuitBreaker.make({ key: "bench" })
  const limiter = yield* RateLimiter.make({ capacity: 1e12, refillPerSecond: 1e9 })
  const flights = yield* Idempotency.make<string, never>()
  const failover = yield* Failover.make(["a", "b"])
  const cache = yield* ResponseCache.make<string>()
  const work = Effect.succeed(ANSWER)
  const produced = () => Effect.succeed({ value: ANSWER, store: true })
  const content = `${PROMPT} and more`
  yield* flights.run({ key: "k", fingerprint: "" }, produced)
  yield* flights.run({ key: "checked", fingerprint: JSON.stringify([content]) }, produced)
  return {
    "nothing": work,
    "retry": Retry.retry({})(work),
    "timeout": Timeout.attempt("60 seconds")(work),
    "circuit breaker": breaker.protect(work),
    "rate limiter": limiter.take(1)(work),
    "failover": failover.run({ attempt: () => work, allFailed: () => "failed", allUnavailable: () => "none" }),
    "response cache": ResponseCache.cached(cache, { key: "k", fresh: false })(work),
    "idempotency, replay": flights.run({ key: "k", fingerprint: "" }, produced),
    "idempotency, replay with content check": Effect.suspend(() =>
      flights.run({ key: "checked", fingerprint: JSON.stringify([content]) }, produced)
    )
  }
}).pipe(Effect.scoped)

const openBreaker = Effect.gen(function*() {
  const breaker = yield* CircuitBreaker.make({ key: "bench", failureThreshold: 1, recoveryTimeout: "1 hour" })
  yield* Effect.exit(breaker.protect(Effect.fail(Stub.overloaded)))
  const rejected = Effect.matchCause(breaker.protect(Effect.void), { onFailure: () => 0, onSuccess: () => 1 })
  return rejected
})

const joined = (): Subject => {
  const client = Stub.client([Stub.provider(() => Stub.soon)])
  let k = 0
  const hundred = Effect.suspend(() => {
    const idempotencyKey = `joined-${k++}`
    return Effect.all(
      Array.from({ length: 100 }, () => client.complete({ prompt: PROMPT, idempotencyKey })),
      { concurrency: "unbounded", discard: true }
    )
  })
  return effects(ours, hundred, 100)
}
const joinedByHand = (): Subject => {
  const ask = Peers.byHand([asking])
  let k = 0
  return {
    name: "hand-written promises",
    per: 100,
    run: async (count) => {
      for (let i = 0; i < count; i++) {
        const key = `joined-${k++}`
        await Promise.all(Array.from({ length: 100 }, () => ask(PROMPT, key)))
      }
    }
  }
}

/** Every case with its subjects, made anew. */
export const cases = async (): Promise<ReadonlyArray<readonly [name: string, subjects: ReadonlyArray<Subject>]>> => {
  const blocks = await Effect.runPromise(Effect.scoped(Peers.effectBlocks))
  const patterns = await Effect.runPromise(alone)
  const replayed = Stub.client([Stub.provider(() => Stub.now)])
  const byHand = Peers.byHand([asking])
  const replay = replayed.complete({ prompt: PROMPT, idempotencyKey: "replayed" })
  await Effect.runPromise(replay)
  await byHand(PROMPT, "replayed")
  const stale = await byHandStale()
  const one = Peers.byHand([asking, asking])
  const cockatiel = Peers.cockatiel(asking, asking)
  const opossum = Peers.opossum(asking, asking)
  const openCockatiel = Peers.cockatiel(refusing, asking)
  for (let i = 0; i < 5; i++) await openCockatiel(PROMPT)
  const langChain = Peers.langChain()
  const aiSdk = Peers.aiSdk()
  const retried = { ...on, retry: { baseDelay: 0 }, circuitBreaker: false } as const
  const flakyByHand = Peers.byHand([flakyAsk()])
  const flakyCockatiel = Peers.cockatiel(flakyAsk(), refusing)
  const flakyOpossum = Peers.opossum(flakyAsk(), asking)
  return [
    ["success", [
      effects(ours, complete(Stub.now)),
      promises("hand-written promises", () => one(PROMPT)),
      promises("cockatiel", () => cockatiel(PROMPT)),
      promises("opossum + p-retry", () => opossum(PROMPT)),
      effects("Effect's own blocks", blocks),
      promises("LangChain", () => langChain(PROMPT)),
      promises("AI SDK", () => aiSdk(PROMPT))
    ]],
    ["success, asynchronous provider", [
      effects(ours, complete(Stub.soon)),
      promises("hand-written promises", () => one(PROMPT))
    ]],
    ["what is on", [
      effects("the provider alone", Effect.flatMap(Stub.now, () => Effect.void)),
      effects("everything off", complete(Stub.now, off)),
      effects("everything off again", complete(Stub.now, off)),
      effects("everything on", complete(Stub.now)),
      ...(Object.keys(off) as ReadonlyArray<keyof typeof off>).filter((name) => name !== "bulkhead").map((name) =>
        effects(`all but ${name}`, complete(Stub.now, { ...on, [name]: false }))
      )
    ]],
    ["each pattern alone", Object.entries(patterns).map(([name, effect]) => effects(name, effect))],
    ["one retry", [
      effects(ours, complete(flakyAnswer(), { ...retried, retryBudget: false })),
      promises("hand-written promises", () => flakyByHand(PROMPT)),
      promises("cockatiel", () => flakyCockatiel(PROMPT)),
      promises("opossum + p-retry", () => flakyOpossum(PROMPT))
    ]],
    ["failover past an open breaker", [
      effects(ours, withOpenBreaker()),
      promises("cockatiel", () => openCockatiel(PROMPT))
    ]],
    ["rejection by an open breaker", [effects(ours, Effect.runSync(openBreaker))]],
    ["replay of a given key", [
      effects(ours, replay),
      promises("hand-written promises", () => byHand(PROMPT, "replayed"))
    ]],
    ["stale answer for a failure", [effects(ours, withStale()), promises("hand-written promises", stale)]],
    ["100 joined duplicates, per call", [joined(), joinedByHand()]]
  ]
}

export const inProcess = async (plan: Plan): Promise<ReadonlyArray<Result>> => {
  const results: Array<Result> = []
  for (const [name, subjects] of await cases()) results.push(...await compare(plan, GROUP, name, subjects))
  return results
}

// -----------------------------------------------------------------------------
// streams
// -----------------------------------------------------------------------------

const PARTS = 100

/** Reads prepared chunks; `isAsync`: each after a turn of the microtask queue, as from a socket. */
const source = (perChunk: number, isAsync: boolean) => {
  const chunks = Stub.chunksOf(PARTS, perChunk)
  return Stream.fromPull(Effect.sync(() => {
    let i = 0
    const next = () => {
      const chunk = chunks[i++]
      return chunk === undefined ? Cause.done() : Exit.succeed(chunk as [typeof chunk[0] & {}])
    }
    return isAsync ?
      Effect.callback<ReturnType<typeof next> extends Effect.Effect<infer A, infer _E> ? A : never, Cause.Done>(
        (resume) => queueMicrotask(() => resume(next()))
      ) :
      Effect.suspend(next)
  }))
}

export const streamCases = (): ReadonlyArray<readonly [name: string, subjects: ReadonlyArray<Subject>]> =>
  [false, true].flatMap((isAsync) =>
    [1, 2, 5].map((perChunk) => {
      const decoded = source(perChunk, isAsync)
      const stream = (options: LlmConfig.Options) =>
        Stream.runDrain(Stub.client([Stub.provider(() => Effect.never, () => decoded)], options).stream(PROMPT))
      const name = `${perChunk} ${perChunk === 1 ? "part" : "parts"} in a chunk, ${
        isAsync ? "asynchronous" : "at once"
      }`
      return [name, [
        effects("decoding alone", Stream.runDrain(decoded), PARTS),
        effects(ours, stream(on), PARTS),
        effects(`${ours}, everything off`, stream(off), PARTS)
      ]] as const
    })
  )

export const streaming = async (plan: Plan): Promise<ReadonlyArray<Result>> => {
  const results: Array<Result> = []
  for (const [name, subjects] of streamCases()) results.push(...await compare(plan, "streaming", name, subjects))
  return results
}
