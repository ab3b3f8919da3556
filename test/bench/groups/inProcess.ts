// The cost of the pipeline itself: a provider that answers at once.
import { Effect, Layer, Scope, Tracer } from "effect"
import type { LlmConfig } from "../../../src/index.ts"
import type { Case, Group, Run } from "../measure.ts"
import type { Provider, Request } from "../peers/byHand.ts"
import { ANSWER, type Answer, client, loop, now, off, on, overloaded, PROMPT, provider, soon } from "../stubs.ts"

const ours = "effect-resilient-llm"
const hand = "hand-written promises"

const asyncLoop = (ask: () => Promise<unknown>): Run => async (count) => {
  for (let i = 0; i < count; i++) await ask()
}
const complete = (generate: Answer, options: LlmConfig.Options = on): Run =>
  loop(client([provider(() => generate)], options).complete(PROMPT))

const answering = (): Promise<string> => Promise.resolve(ANSWER)
const refusing = (): Promise<string> => Promise.reject(new Error("down"))
/** Fails every second time. */
const flaky = (): () => Promise<string> => {
  let k = 0
  return () => k++ % 2 === 0 ? refusing() : answering()
}
const flakyEffect = (): Answer => {
  let k = 0
  return Effect.suspend(() => k++ % 2 === 0 ? Effect.fail(overloaded) : now)
}

const byHand = async (...providers: ReadonlyArray<Provider>) => (await import("../peers/byHand.ts")).byHand(providers)
const byHandLoop = async (request: Request, ...providers: ReadonlyArray<Provider>): Promise<Run> => {
  const ask = await byHand(...providers)
  return asyncLoop(() => ask(request))
}
const cockatiel = async (first: () => Promise<string>, second: () => Promise<string>) =>
  (await import("../peers/cockatiel.ts")).cockatiel(first, second)
const opossum = async (first: () => Promise<string>, second: () => Promise<string>) =>
  (await import("../peers/opossum.ts")).opossum(first, second)
const effectBlocks = async (everything: boolean): Promise<Run> => {
  const { effectBlocks: make } = await import("../peers/effectBlocks.ts")
  return loop(await Effect.runPromise(Effect.scoped(make(ANSWER, PROMPT, everything))))
}

const success: Case = {
  subjects: {
    [ours]: () => complete(now),
    [hand]: () => byHandLoop({ prompt: PROMPT }, answering, answering),
    "cockatiel": async () => asyncLoop(await cockatiel(answering, answering)),
    "opossum + p-retry": async () => asyncLoop(await opossum(answering, answering)),
    "Effect's own blocks": () => effectBlocks(false),
    "all of Effect's own blocks": () => effectBlocks(true),
    "LangChain": async () => {
      const ask = (await import("../peers/langChain.ts")).langChain(ANSWER)
      return asyncLoop(() => ask(PROMPT))
    },
    "AI SDK": async () => {
      const ask = (await import("../peers/aiSdk.ts")).aiSdk(ANSWER)
      return asyncLoop(() => ask(PROMPT))
    }
  }
}

const whatIsOn: Case = {
  subjects: {
    "the provider alone": () => loop(Effect.flatMap(now, () => Effect.void)),
    "everything off": () => complete(now, off),
    "everything off again": () => complete(now, off),
    "everything on": () => complete(now),
    ...Object.fromEntries(
      Object.keys(off).filter((name) => name !== "bulkhead").map((name) => [
        `all but ${name}`,
        () => complete(now, { ...on, [name]: false })
      ])
    )
  }
}

/** Observers installed, and what calls then cost, with nobody reading. */
const observed = (layers: ReadonlyArray<"Metrics" | "Logging">) => async (): Promise<Run> => {
  const watching = await Promise.all(layers.map(async (name) => {
    const { layer } = name === "Metrics"
      ? await import("../../../src/observability/Metrics.ts")
      : await import("../../../src/observability/Logging.ts")
    return layer()
  }))
  const [first = Layer.empty, ...others] = watching
  const context = await Effect.runPromise(Layer.buildWithScope(Layer.mergeAll(first, ...others), Scope.makeUnsafe()))
  return loop(client([provider(() => now)], on, context).complete(PROMPT))
}

const whatIsObserved: Case = {
  subjects: {
    "nothing": observed([]),
    "metrics": observed(["Metrics"]),
    "log lines, none loud enough": observed(["Logging"]),
    "metrics and spans": async () => {
      const { layer } = await import("../../../src/observability/Metrics.ts")
      const context = await Effect.runPromise(Layer.buildWithScope(layer(), Scope.makeUnsafe()))
      const call = client([provider(() => now)], on, context).complete(PROMPT)
      return loop(Effect.withTracer(call, Tracer.make({ span: (options) => new Tracer.NativeSpan(options) })))
    }
  }
}

/** A pattern round an effect that succeeds, without the client. */
const alone = <E>(make: Effect.Effect<Effect.Effect<unknown>, E>) => async (): Promise<Run> =>
  loop(await Effect.runPromise(make))
const work = Effect.succeed(ANSWER)

const eachAlone: Case = {
  subjects: {
    "nothing": () => loop(work),
    "retry": async () => loop((await import("../../../src/resilience/Retry.ts")).retry({})(work)),
    "timeout": async () =>
      loop(Effect.orDie((await import("../../../src/resilience/Timeout.ts")).attempt("60 seconds")(work))),
    "circuit breaker": async () => {
      const CircuitBreaker = await import("../../../src/resilience/CircuitBreaker.ts")
      return alone(
        Effect.map(CircuitBreaker.make({ key: "bench" }), (breaker) => Effect.orDie(breaker.protect(work)))
      )()
    },
    "rate limiter": async () => {
      const RateLimiter = await import("../../../src/resilience/RateLimiter.ts")
      const limits = { capacity: 1e12, refillPerSecond: 1e9 }
      return alone(Effect.map(RateLimiter.make(limits), (limiter) => Effect.orDie(limiter.take(1)(work))))()
    },
    "failover": async () => {
      const Failover = await import("../../../src/resilience/Failover.ts")
      return alone(
        Effect.map(Failover.make(["a", "b"]), (failover) =>
          Effect.orDie(
            failover.run({ attempt: () => work, allFailed: () => "failed", allUnavailable: () => "none" })
          ))
      )()
    },
    "response cache": async () => {
      const ResponseCache = await import("../../../src/resilience/ResponseCache.ts")
      return alone(
        Effect.map(
          Effect.scoped(ResponseCache.make<string>()),
          (cache) => ResponseCache.cached(cache, { key: "k", fresh: false })(work)
        )
      )()
    },
    "idempotency, replay": () => replayAlone(() => ""),
    "idempotency, replay with content check": () => replayAlone(() => JSON.stringify([PROMPT]))
  }
}

const replayAlone = async (fingerprint: () => string): Promise<Run> => {
  const Idempotency = await import("../../../src/resilience/Idempotency.ts")
  const produced = () => Effect.succeed({ value: ANSWER, store: true })
  return alone(Effect.gen(function*() {
    const flights = yield* Idempotency.make<string, never>()
    const replay = Effect.suspend(() => flights.run({ key: "k", fingerprint: fingerprint() }, produced))
    yield* replay
    return Effect.orDie(replay)
  }))()
}

/** A client whose first target's circuit is open for an hour, and one whose provider is gone after a good answer. */
const withOpenBreaker = (): Run => {
  const circuitBreaker = { failureThreshold: 1, recoveryTimeout: "1 hour" } as const
  const both = client(
    [provider(() => Effect.fail(overloaded)), provider(() => now)],
    { ...on, circuitBreaker, retry: false }
  )
  Effect.runSync(both.complete(PROMPT))
  return loop(both.complete(PROMPT))
}
const withStale = (): Run => {
  let isDown = false
  const generate: Answer = Effect.suspend(() => isDown ? Effect.fail(overloaded) : now)
  const one = client([provider(() => generate)], { ...on, retry: false, circuitBreaker: false })
  Effect.runSync(one.complete(PROMPT))
  isDown = true
  return loop(one.complete(PROMPT))
}
const withStaleByHand = async (): Promise<Run> => {
  let isDown = false
  const ask = await byHand(() => isDown ? refusing() : answering())
  const call = () => ask({ prompt: PROMPT })
  await call()
  isDown = true
  // Until its breaker opens it also sleeps between retries.
  await call()
  await call()
  return asyncLoop(call)
}

const JOINED = 100
const joined = (): Run => {
  const one = client([provider(() => soon)])
  let k = 0
  return loop(Effect.suspend(() => {
    const idempotencyKey = `joined-${k++}`
    return Effect.all(
      Array.from({ length: JOINED }, () => one.complete({ prompt: PROMPT, idempotencyKey })),
      { concurrency: "unbounded", discard: true }
    )
  }))
}
const joinedByHand = async (): Promise<Run> => {
  const ask = await byHand(answering)
  let k = 0
  return asyncLoop(() => {
    const idempotencyKey = `joined-${k++}`
    return Promise.all(Array.from({ length: JOINED }, () => ask({ prompt: PROMPT, idempotencyKey })))
  })
}

export const inProcess: Group = {
  success,
  "success, asynchronous provider": {
    subjects: {
      [ours]: () => complete(soon),
      [hand]: () => byHandLoop({ prompt: PROMPT }, answering, answering)
    }
  },
  "what is on": whatIsOn,
  "what is observed": whatIsObserved,
  "each pattern alone": eachAlone,
  "one retry": {
    subjects: {
      [ours]: () =>
        complete(flakyEffect(), { ...on, retry: { baseDelay: 0 }, circuitBreaker: false, retryBudget: false }),
      [hand]: () => byHandLoop({ prompt: PROMPT }, flaky()),
      "cockatiel": async () => asyncLoop(await cockatiel(flaky(), refusing)),
      "opossum + p-retry": async () => asyncLoop(await opossum(flaky(), answering))
    }
  },
  "failover past an open breaker": {
    subjects: {
      [ours]: withOpenBreaker,
      "cockatiel": async () => {
        const open = await cockatiel(refusing, answering)
        for (let i = 0; i < 5; i++) await open()
        return asyncLoop(open)
      }
    }
  },
  "rejection by an open breaker": {
    subjects: {
      [ours]: async () => {
        const CircuitBreaker = await import("../../../src/resilience/CircuitBreaker.ts")
        return alone(Effect.gen(function*() {
          const breaker = yield* CircuitBreaker.make({ key: "bench", failureThreshold: 1, recoveryTimeout: "1 hour" })
          yield* Effect.exit(breaker.protect(Effect.fail(overloaded)))
          return Effect.matchCause(breaker.protect(Effect.void), { onFailure: () => 0, onSuccess: () => 1 })
        }))()
      }
    }
  },
  "replay of a given key": {
    subjects: {
      [ours]: async () => {
        const replay = client([provider(() => now)]).complete({ prompt: PROMPT, idempotencyKey: "replayed" })
        await Effect.runPromise(replay)
        return loop(replay)
      },
      [hand]: () => byHandLoop({ prompt: PROMPT, idempotencyKey: "replayed" }, answering)
    }
  },
  "stale answer for a failure": { subjects: { [ours]: withStale, [hand]: withStaleByHand } },
  "100 joined duplicates, per call": { per: JOINED, subjects: { [ours]: joined, [hand]: joinedByHand } }
}
