// A real client in virtual time whose vendors, lines and dice do what a script says; and configurations at random.
import { Context, Duration, Effect, Exit, Layer, Random, Scope, Stream } from "effect"
import {
  type Client,
  LlmClient,
  type LlmConfig,
  LlmError,
  type LlmEvent,
  LlmProvider,
  type LlmRequest
} from "effect-resilient-llm"
import { Bulkhead, CircuitBreaker, type LoadShedder, RateLimiter } from "effect-resilient-llm/resilience"
import { VirtualTime } from "effect-resilient-llm/testing"

// -----------------------------------------------------------------------------
// configurations
// -----------------------------------------------------------------------------

export interface Line {
  readonly queue: number
  readonly maxWait: number
}

/** Milliseconds; `Infinity` for none. */
export interface Plan {
  readonly seed: number
  readonly targets: ReadonlyArray<{
    readonly bulkhead: Line & { readonly maxConcurrent: number } | undefined
    readonly limits: Line | undefined
  }>
  readonly bucket: Line | undefined
  readonly timeout:
    | { readonly attempt: number; readonly firstToken: number | undefined; readonly deadline: number }
    | false
  readonly retry: {
    readonly maxRetries: number
    readonly baseDelay: number
    readonly factor: number
    readonly maxDelay: number
    readonly jitter: "equal" | "full" | "none"
    readonly maxRetryAfter: number
  } | false
  readonly budget: { readonly capacity: number; readonly perAttempt: number; readonly perSecond: number } | false
  readonly failover: {
    readonly maxRetryAfter: number
    readonly coolDown: number
    readonly maxAttempts: number | undefined
  } | false
  readonly circuits: boolean
  readonly hedge: { readonly delay: number; readonly maxHedges: number } | false
  readonly shedding: LoadShedder.Options | false
}

export const dice = (seed: number) => {
  const chance = VirtualTime.chance(seed * 2654435761)
  const next = (): number => chance.nextDoubleUnsafe()
  for (let i = 0; i < 8; i++) next()
  return {
    next,
    /** A whole number from `a` to `b`. */
    from: (a: number, b: number): number => a + Math.floor(next() * (b - a + 1)),
    of: <const A>(list: ReadonlyArray<A>): A => list[Math.floor(next() * list.length)]!,
    is: (share: number): boolean => next() < share
  }
}

export const planOf = (seed: number): Plan => {
  const { from, is, of } = dice(seed)
  const line = (): Line => ({ queue: of([0, 1, 5, 50]), maxWait: of([0, 1, 40, 300, 2000]) })
  const circuits = is(0.6)
  const attempt = of([20, 100, 1000, 1000, 5000])
  return {
    seed,
    targets: Array.from({ length: from(1, 3) }, () => ({
      bulkhead: is(0.4) ? { ...line(), maxConcurrent: from(1, 3) } : undefined,
      limits: is(0.3) ? line() : undefined
    })),
    bucket: is(0.4) ? line() : undefined,
    timeout: is(0.08)
      ? false
      : {
        attempt: is(0.08) ? Infinity : attempt,
        firstToken: is(0.3) ? of([10, 200, 3000]) : undefined,
        deadline: is(0.3) ? Infinity : of([30, 150, 1000, 4000, 30_000])
      },
    retry: is(0.15) ? false : {
      maxRetries: of([0, 1, 2, 3, 5]),
      baseDelay: of([0, 1, 50, 500, 3000]),
      factor: of([1, 2, 3]),
      maxDelay: of([100, 2000, 60_000]),
      jitter: of(["equal", "full", "none"]),
      maxRetryAfter: of([0, 30, 1000, 20_000])
    },
    budget: is(0.4) ? false : is(0.5) ? { capacity: 10, perAttempt: 0.2, perSecond: 0.1 } : {
      capacity: of([0.5, 1, 2, 3]),
      perAttempt: 0,
      perSecond: is(0.6) ? 0 : of([1, 50]) * 1000 / Math.min(attempt, 1000)
    },
    failover: is(0.15) ? false : {
      maxRetryAfter: of([0, 100, 5000]),
      coolDown: circuits ? of([0, 60_000]) : 0,
      maxAttempts: is(0.25) ? from(1, 6) : undefined
    },
    circuits,
    hedge: is(0.25) ? { delay: of([0, 5, 90, 800]), maxHedges: from(1, 3) } : false,
    shedding: is(0.15) ? {} : false
  }
}

export const ids = ["p", "s", "t"] as const

const off = (millis: number | undefined): number | false | undefined => millis === Infinity ? false : millis

export const optionsOf = (plan: Plan): LlmConfig.Options => ({
  timeout: plan.timeout === false ? false : {
    attempt: off(plan.timeout.attempt),
    firstToken: plan.timeout.firstToken,
    idle: false,
    deadline: off(plan.timeout.deadline)
  },
  retry: plan.retry,
  retryBudget: plan.budget === false ? false : plan.budget,
  failover: plan.failover === false ? false : plan.failover,
  circuitBreaker: false,
  rateLimit: false,
  cache: false,
  hedge: plan.hedge,
  loadShedding: plan.shedding
})

// -----------------------------------------------------------------------------
// the world
// -----------------------------------------------------------------------------

/** What a vendor does with a request: after so many milliseconds it fails, answers, or never does anything. */
export interface Fate {
  readonly after: number
  readonly error?: LlmError.ProviderError | undefined
}
export const hang: Fate = { after: Infinity }

export type Door = "bulkhead" | "bucket" | "limits"

export interface Script {
  readonly asked: (target: number, now: number) => Fate
  /** An attempt has come to a line: how long is it to wait there? */
  readonly arrived?: ((door: Door, target: number, now: number) => number) | undefined
  /** The next draw. */
  readonly draw: () => number
}

export interface World {
  readonly time: Time
  readonly client: Client<LlmError.LlmError>
  readonly circuits: ReadonlyArray<CircuitBreaker.CircuitBreaker>
  /** What was built, as `explain` takes it. */
  readonly targets: ReadonlyArray<LlmConfig.ExplainedInput>
  readonly options: LlmConfig.Options
}

const failed = (fields: Omit<ConstructorParameters<typeof LlmError.ProviderError>[0], "provider">) =>
  new LlmError.ProviderError({ provider: "p", ...fields })

export const limited = (retryAfter?: number) =>
  failed({
    reason: { _tag: "RateLimit" },
    ...(retryAfter === undefined ? undefined : { retryAfter: Duration.millis(retryAfter) })
  })
/** Nobody counts it: no circuit, no bucket. It is tried again, and no other target is asked. */
export const unsent = failed({ reason: { _tag: "Network", sent: false, kind: "local" } })
export const quota = failed({ reason: { _tag: "Quota" } })
export const overloaded = failed({ reason: { _tag: "Overloaded" } })

export interface Time extends Pick<VirtualTime.VirtualTime, "at" | "now"> {
  readonly start: <A, E>(effect: Effect.Effect<A, E>, ended?: (exit: Exit.Exit<A, E>) => void) => void
  /** Until nobody waits for anything. */
  readonly run: () => void
  /** The value of an effect that fails in no way. */
  readonly value: <A, E>(effect: Effect.Effect<A, E>) => A
}

const timeOf = (seed: number, draw: () => number): Time => {
  const { at, context, now, step } = VirtualTime.make({ seed })
  const fork = Effect.runForkWith(
    Context.add(context, Random.Random, { nextDoubleUnsafe: draw, nextIntUnsafe: () => Math.floor(draw() * 2 ** 31) })
  )
  const run = (): void => {
    while (step()) { /* goes on */ }
  }
  return {
    at,
    now,
    run,
    start: (effect, ended) => {
      const fiber = fork(effect)
      if (ended !== undefined) fiber.addObserver(ended)
    },
    value: (effect) => {
      const fiber = fork(effect)
      run()
      const exit = fiber.pollUnsafe()
      if (exit?._tag !== "Success") throw new Error(`no value: ${String(exit)}`)
      return exit.value
    }
  }
}

/** A bulkhead that an attempt finds full for as long as the script says. */
const bulkheadWith = (real: Bulkhead.Bulkhead, time: Time, wait: (now: number) => number): Bulkhead.Bulkhead =>
  Object.assign(Object.create(real) as Bulkhead.Bulkhead, {
    tryAcquireUnsafe: () => {
      const millis = wait(time.now())
      if (millis > 0) {
        for (let permit = real.tryAcquireUnsafe(); permit !== undefined; permit = real.tryAcquireUnsafe()) {
          const { releaseUnsafe } = permit
          time.at(time.now() + millis, () => releaseUnsafe.call(permit))
        }
      }
      return real.tryAcquireUnsafe()
    }
  })

/** A limiter that grants nothing for as long as the script says. */
const limiterWith = (
  real: RateLimiter.RateLimiter,
  wait: (now: number) => number
): RateLimiter.RateLimiter =>
  Object.assign(Object.create(real) as RateLimiter.RateLimiter, {
    tryAcquireUnsafe: (
      ...[cost, clock, now, tenant, maxWait]: Parameters<RateLimiter.RateLimiter["tryAcquireUnsafe"]>
    ) => {
      const millis = wait(now)
      if (millis > 0) real.blockUnsafe(millis, now)
      return real.tryAcquireUnsafe(cost, clock, now, tenant, maxWait)
    }
  })

export const worldOf = (plan: Plan, script: Script): World => {
  const time = timeOf(plan.seed, script.draw)
  const arrived = (door: Door, target: number) => (now: number): number => script.arrived?.(door, target, now) ?? 0
  const limiter = ({ maxWait, queue }: Line, door: Door, target: number): RateLimiter.RateLimiter =>
    limiterWith(
      time.value(RateLimiter.make({ capacity: 1000, refillPerSecond: 1e6, maxWait, queue })),
      arrived(door, target)
    )
  const circuits = plan.targets.map((_, i) => time.value(CircuitBreaker.make({ key: ids[i]!, recoveryTimeout: 1000 })))
  const [first, ...others] = plan.targets.map(({ bulkhead, limits }, i) => ({
    provider: LlmProvider.make({
      id: ids[i]!,
      generate: () =>
        Effect.suspend(() => {
          const { after, error } = script.asked(i, time.now())
          const end = error === undefined ? Effect.succeed("yes") : Effect.fail(error)
          return after === Infinity ? Effect.never : after > 0 ? Effect.delay(end, after) : end
        })
    }),
    bulkhead: bulkhead === undefined ? undefined : bulkheadWith(
      time.value(Bulkhead.make(bulkhead)),
      time,
      arrived("bulkhead", i)
    ),
    limits: limits === undefined ? undefined : limiter(limits, "limits", i),
    circuitBreaker: plan.circuits ? circuits[i] : undefined
  }))
  const options = {
    ...optionsOf(plan),
    rateLimit: plan.bucket === undefined ? false as const : limiter(plan.bucket, "bucket", 0)
  }
  const targets = [first!, ...others] as const
  const scope = Scope.makeUnsafe()
  const context = time.value(Layer.buildWithScope(LlmClient.layerDynamic(targets, options), scope))
  return { time, client: Context.get(context, LlmClient), circuits, targets, options }
}

// -----------------------------------------------------------------------------
// calls
// -----------------------------------------------------------------------------

export interface Told {
  readonly took: number
  readonly attempts: number
  readonly attemptsOf: ReadonlyArray<number>
  readonly error: LlmError.LlmError | undefined
  readonly ledger: LlmEvent.Ledger
}

export type Kind = "complete" | "stream"

/** Makes a call at a moment, and tells when it is over. */
export const call = (
  { client, time }: World,
  kind: Kind,
  at: number,
  input: Partial<LlmRequest.Input>,
  over: (told: Told) => void
): void => {
  time.at(at, () => {
    const begun = time.now()
    const request = { prompt: "Hi", ...input } as LlmRequest.Input
    const first = kind === "complete"
      ? Effect.map(client.complete(request), ({ ledger }) => ledger)
      : Effect.scoped(
        Effect.flatMap(client.open(request), ({ parts, response }) =>
          Effect.andThen(
            Stream.runDrain(Stream.take(parts, 1)),
            Effect.map(response, ({ ledger }) => ledger)
          ))
      )
    time.start(first, (exit) => {
      const error = Exit.isFailure(exit)
        ? exit.cause.reasons.find((reason) => reason._tag === "Fail")?.error
        : undefined
      if (Exit.isFailure(exit) && error === undefined) throw new Error(`no failure but ${String(exit.cause)}`)
      const ledger = Exit.isSuccess(exit) ? exit.value : error!.ledger
      const started = ledger.flatMap((event) => event._tag === "AttemptStarted" ? [event.target] : [])
      over({
        took: time.now() - begun,
        attempts: started.length,
        attemptsOf: ids.map((id) => started.filter((target) => target === id).length),
        error,
        ledger
      })
    })
  })
}
