// Floods and dead vendors: 100,000 calls through the whole pipeline, in virtual time.
import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Exit, Layer, Scope, Stream } from "effect"
import { type Client, LlmClient, type LlmConfig, LlmError, LlmProvider } from "effect-resilient-llm"
import { VirtualTime } from "effect-resilient-llm/testing"

const SEED = 1_700_321

const options = {
  cache: false,
  idempotency: false,
  rateLimit: false,
  circuitBreaker: false,
  retry: false,
  bulkhead: { maxConcurrent: 20, queue: 100 },
  loadShedding: { throttle: false }
} as const satisfies LlmConfig.Options

/** Numbers from a seed: the same calls, whoever else is there. */
const numbers = (seed: number) => {
  let state = seed
  return (): number => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0
    return state / 2 ** 32
  }
}
const exponential = (next: () => number, mean: number): number => -Math.log(1 - next()) * mean

const start = <A, E>(
  time: VirtualTime.VirtualTime,
  effect: Effect.Effect<A, E>,
  ended: (exit: Exit.Exit<A, E>) => void = () => {}
): void => {
  Effect.runForkWith(time.context)(effect).addObserver(ended)
}

/** Until nobody waits for anything. */
const drain = (time: VirtualTime.VirtualTime): void => {
  while (time.step());
}

const runToEnd = <A, E>(time: VirtualTime.VirtualTime, effect: Effect.Effect<A, E>): A => {
  let exit: Exit.Exit<A, E> | undefined
  start(time, effect, (ended) => {
    exit = ended
  })
  drain(time)
  if (exit === undefined) throw new Error("it waits for something that never comes")
  if (Exit.isFailure(exit)) throw new Error(`failed: ${String(exit.cause)}`)
  return exit.value
}

const clientOf = (
  time: VirtualTime.VirtualTime,
  generate: LlmProvider.LlmProvider["generate"],
  options: LlmConfig.Options
) => {
  const scope = runToEnd(time, Scope.make())
  const stream = () => Stream.die("not asked for")
  const provider = LlmProvider.make({ id: "vendor", generate, stream })
  const layer = LlmClient.layerDynamic([provider], options)
  const client: Client<LlmError.LlmError> = Context.get(
    runToEnd(time, Effect.provideService(Layer.build(layer), Scope.Scope, scope)),
    LlmClient
  )
  return { client, close: () => runToEnd(time, Scope.close(scope, Exit.void)) }
}

interface Flow {
  readonly tenant: string
  readonly perSecond: number
  readonly priority?: "critical" | "default" | "batch"
}

interface Seen {
  took: Array<number>
  answered: number
  readonly errors: Record<string, number>
}

/** Calls of all flows for a while; they come, and take, as chance will have it: a second at the mean. */
const play = (flows: ReadonlyArray<Flow>, seconds: number, more: LlmConfig.Options = {}) => {
  const time = VirtualTime.make({ seed: SEED })
  const { client, close } = clientOf(
    time,
    ({ prompt }) => Effect.as(Effect.sleep(Number(prompt[0]?.content)), [{ type: "text" as const, text: "." }]),
    { ...options, ...more }
  )
  const seen = new Map<string, Seen>()
  for (const [i, { perSecond, priority = "default", tenant }] of flows.entries()) {
    const own: Seen = { took: [], answered: 0, errors: {} }
    seen.set(tenant, own)
    const next = numbers(SEED + i)
    for (let at = exponential(next, 1000 / perSecond); at < seconds * 1000; at += exponential(next, 1000 / perSecond)) {
      const service = exponential(next, 1000)
      time.at(at, () => {
        const begun = time.now()
        start(time, client.complete({ prompt: `${service}`, tenant, priority }), (exit) => {
          own.took.push(time.now() - begun)
          if (Exit.isSuccess(exit)) own.answered += 1
          else {
            const reason = exit.cause.reasons[0]
            const tag = reason?._tag === "Fail" ? reason.error._tag : "other"
            own.errors[tag] = (own.errors[tag] ?? 0) + 1
          }
        })
      })
    }
  }
  drain(time)
  close()
  return seen
}

const p99 = (took: ReadonlyArray<number>): number => took.toSorted((a, b) => a - b)[Math.ceil(0.99 * took.length) - 1]!

const quiet: ReadonlyArray<Flow> = ["a", "b", "c"].map((tenant) => ({ tenant, perSecond: 2 }))
const flood: Flow = { tenant: "flood", perSecond: 200 }

describe(`four tenants, seed ${SEED}`, () => {
  it(
    "one floods with a hundred times the load: the p99 of the others grows by 20 % at most, and all are answered",
    () => {
      const without = play(quiet, 490)
      const withFlood = play([...quiet, flood], 490)
      let calls = 0
      for (const { tenant } of quiet) {
        const [before, after] = [without.get(tenant)!, withFlood.get(tenant)!]
        assert.strictEqual(after.answered, after.took.length, tenant)
        assert.strictEqual(after.took.length, before.took.length)
        assert.isAtMost(p99(after.took) / p99(before.took), 1.2, tenant)
      }
      for (const { took } of withFlood.values()) calls += took.length
      assert.isAtLeast(calls, 100_000)
      // The flood gets what the others leave, and is told at once of the rest.
      const { answered, errors, took } = withFlood.get("flood")!
      assert.approximately(answered / 490, 20 - 6, 1)
      assert.deepStrictEqual(errors, { Shed: took.length - answered })
    }
  )

  it("all of them want more than there is: each gets a quarter", () => {
    const seen = play([40, 20, 10, 400].map((perSecond, i) => ({ tenant: `t${i}`, perSecond })), 200)
    for (const [tenant, { answered }] of seen) assert.approximately(answered / 200, 5, 0.25, tenant)
  })

  it("nobody starves: batch calls in a line that only grows are served when they have waited long enough", () => {
    const flows: ReadonlyArray<Flow> = [
      { tenant: "flood", perSecond: 25 },
      { tenant: "nightly", perSecond: 0.5, priority: "batch" }
    ]
    const bulkhead = { maxConcurrent: 20, queue: 2000, maxWait: "5 minutes" } as const
    const seen = play(flows, 150, { bulkhead, timeout: false })
    const { answered, errors, took } = seen.get("nightly")!
    assert.deepStrictEqual([answered, errors], [took.length, {}])
    // Twice thirty seconds, for those of the flood rise as well; then its turn, and its own time.
    assert.isAtMost(Math.max(...took), 75_000)
  })
})

it(`a dead vendor without a circuit breaker gets a tenth, and all again when it is well; seed ${SEED}`, () => {
  const time = VirtualTime.make({ seed: SEED })
  let isDead = true
  let asked = 0
  const overloaded = Effect.fail(new LlmError.ProviderError({ provider: "vendor", reason: { _tag: "Overloaded" } }))
  const { client, close } = clientOf(
    time,
    ({ priority }) => {
      if (priority !== "critical") asked += 1
      return isDead ? overloaded : Effect.succeed([{ type: "text", text: "." }])
    },
    { ...options, bulkhead: false, loadShedding: {} }
  )
  const seconds = (from: number, count: number): number => {
    asked = 0
    let critical = 0
    for (let i = 0; i < count * 100; i++) {
      time.at(from * 1000 + i * 10, () => start(time, client.complete("Hi")))
      // They are let through whatever happens.
      if (i % 10 === 0) {
        time.at(
          from * 1000 + i * 10,
          () =>
            start(time, client.complete({ prompt: "Hi", priority: "critical" }), (exit) => {
              const failed = Exit.isFailure(exit) ? exit.cause.reasons[0] : undefined
              if (failed?._tag !== "Fail" || failed.error._tag === "ProviderError") critical += 1
            })
        )
      }
    }
    drain(time)
    assert.strictEqual(critical, count * 10)
    return asked
  }
  seconds(0, 10)
  assert.approximately(seconds(10, 100), 1000, 100)
  isDead = false
  seconds(110, 120)
  assert.strictEqual(seconds(230, 10), 1000)
  close()
})

describe(`all patterns of this kind at once, seed ${SEED}`, () => {
  const everything: LlmConfig.Options = {
    retry: { baseDelay: 100 },
    timeout: { attempt: 3000, deadline: "1 minute" },
    cache: false,
    rateLimit: {
      limits: [{ dimension: "requests", limit: 60, per: "1 second" }, {
        dimension: "requests",
        limit: 25,
        per: "1 second",
        by: "tenant"
      }],
      queue: 60
    },
    bulkhead: { adaptive: true, queue: 60 },
    hedge: { delay: 800 },
    loadShedding: {},
    routing: { strategy: "fastest", sticky: "conversation" }
  }

  /** Five thousand calls in a minute and a half; a third of what is asked fails or hangs, and every tenth caller leaves. */
  const run = () => {
    const time = VirtualTime.make({ seed: SEED })
    const chance = numbers(SEED)
    const scope = runToEnd(time, Scope.make())
    let active = 0
    const attempt = Effect.suspend(() => {
      active += 1
      const luck = chance()
      const slow = exponential(chance, 300)
      const end = luck < 0.05
        ? Effect.never
        : luck < 0.3
        ? Effect.andThen(
          Effect.sleep(slow / 3),
          Effect.fail(new LlmError.ProviderError({ provider: "vendor", reason: { _tag: "Overloaded" } }))
        )
        : Effect.as(Effect.sleep(slow), [
          { type: "text-start" as const, id: "0" },
          { type: "text-delta" as const, id: "0", delta: "." },
          { type: "text-end" as const, id: "0" },
          {
            type: "finish" as const,
            reason: "stop" as const,
            usage: { inputTokens: { total: 1 }, outputTokens: { total: 1 } }
          }
        ])
      return Effect.onExit(end, () => Effect.sync(() => active -= 1))
    })
    const vendors = ["p", "s", "t"].map((id) =>
      LlmProvider.make({
        id,
        generate: () => Effect.as(attempt, [{ type: "text" as const, text: "." }]),
        stream: () => Stream.unwrap(Effect.map(attempt, Stream.fromIterable))
      })
    )
    const [first, ...others] = vendors
    const client: Client<LlmError.LlmError> = Context.get(
      runToEnd(
        time,
        Effect.provideService(Layer.build(LlmClient.layerDynamic([first!, ...others], everything)), Scope.Scope, scope)
      ),
      LlmClient
    )
    const log: Array<string> = []
    for (let i = 0; i < 5000; i++) {
      const [u, v, w, x] = [chance(), chance(), chance(), chance()]
      const input = {
        prompt: `${i}`,
        tenant: u < 0.6 ? "flood" : `tenant ${Math.floor(u * 20)}`,
        priority: (["critical", "default", "batch", "sheddable"] as const)[Math.floor(v * 4)]!,
        ...(w < 0.3 && { conversation: `c${Math.floor(w * 100)}` }),
        ...(w > 0.9 && { targets: ["t", "p"] }),
        ...(x < 0.1 && { deadline: 500 + x * 10_000 }),
        ...(x > 0.95 && { retry: false as const })
      }
      const call: Effect.Effect<unknown, LlmError.LlmError> = v < 0.5
        ? client.complete(input)
        : Stream.runDrain(client.stream(input))
      time.at(
        u * 90_000,
        () =>
          start(time, x > 0.5 && x < 0.6 ? Effect.timeoutOption(call, x * 1000) : call, (exit) => {
            const reason = Exit.isFailure(exit) ? exit.cause.reasons[0] : undefined
            log.push(
              `${i} ${time.now()} ${
                reason === undefined ? "ok" : reason._tag === "Fail" ? reason.error._tag : "defect"
              }`
            )
          })
      )
    }
    drain(time)
    const status = runToEnd(time, client.status)
    runToEnd(time, Scope.close(scope, Exit.void))
    return { log, status, active }
  }

  it("every call ends once, nothing is held, and the same seed gives the same minute", () => {
    const { active, log, status } = run()
    assert.strictEqual(log.length, 5000)
    assert.strictEqual(active, 0)
    assert.deepStrictEqual(log.filter((line) => line.endsWith("defect")), [])
    for (const { bulkhead, id } of status.targets) assert.deepInclude(bulkhead, { inUse: 0, queued: 0 }, id)
    assert.strictEqual(status.rateLimit?.queued, 0)
    const tags = new Set(log.map((line) => line.split(" ")[2]))
    for (const tag of ["ok", "Shed", "DeadlineExceeded", "AllProvidersFailed", "AllProvidersUnavailable"]) {
      assert.isTrue(tags.has(tag), tag)
    }
    assert.deepStrictEqual(run().log, log)
  })
})
