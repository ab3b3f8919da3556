// One seeded run of many calls against targets that fail at random: what was planned, what happened at the providers,
// what each caller got, and every event, all on one monotonic clock.
import { Clock, Context, Effect, Exit, Layer, Metric, Random, Stream } from "effect"
import {
  type Client,
  LlmClient,
  type LlmConfig,
  LlmError,
  type LlmEvent,
  type LlmProvider,
  LlmRequest,
  type Status,
  type TargetOptions
} from "effect-resilient-llm"
import { CountingClock, ScriptedProvider } from "effect-resilient-llm/testing"
import { TestClock } from "effect/testing"
import { fork, type Kind, now } from "../support.ts"
import { failing, overloads, rateLimited } from "./support.ts"

/** Stands in every prompt, every answer and every key, and must not be found anywhere else. */
export const MARKER = "s3cr3t-m4rk3r"

export const targetIds = ["p", "s"] as const
export type TargetId = (typeof targetIds)[number]

// -----------------------------------------------------------------------------
// the plan
// -----------------------------------------------------------------------------

/** What makes a run misbehave, so that it can be seen whether its laws find it. */
export interface Mutation {
  /** What is really used, where the plan says something else. */
  readonly options?: Effect.Effect<LlmConfig.Options, LlmError.LlmConfigError>
  readonly provider?: (provider: LlmProvider.LlmProvider) => LlmProvider.LlmProvider
  readonly client?: (client: Client<LlmError.LlmError>) => Client<LlmError.LlmError>
  readonly clock?: (clock: Clock.Clock) => Clock.Clock
}

export interface Plan {
  readonly kind: Kind
  readonly seed: string
  readonly calls: number
  /** The targets in their order, and which of them fail. */
  readonly targets: ReadonlyArray<{ readonly id: TargetId; readonly chaos: boolean }>
  readonly options: LlmConfig.Options
  /** Nobody has less time than the options give. */
  readonly patient?: boolean
  /** Limits of p alone. */
  readonly limits?: TargetOptions["limits"]
  /** What is added to the wall clock when it is read for the n-th time. */
  readonly wall?: (reading: number) => number
  readonly mutation?: Mutation
}

/** Small enough that each pattern has something to do. */
export const settings = {
  retry: { maxRetries: 3, baseDelay: 200, maxDelay: 5000 },
  retryBudget: { capacity: 10, perAttempt: 0.2, perSecond: 0.1 },
  timeout: { attempt: 8000, firstToken: 4000, idle: 3000, deadline: 20_000 },
  // Half of what is asked fails: a breaker of the product would be open most of the time.
  circuitBreaker: {
    failureThreshold: 10,
    failureRate: 0.65,
    minimumCalls: 20,
    recoveryTimeout: 2000,
    maxRecoveryTimeout: 16_000,
    halfOpenProbes: 2,
    successThreshold: 2
  },
  rateLimit: { capacity: 60, refillPerSecond: 25, maxWait: 10_000, queue: 256 },
  idempotency: { ttl: "10 minutes" },
  cache: { ttl: 20_000, swr: 10_000, staleIfError: 60_000, maxEntries: 50, readThrough: true },
  failover: { maxRetryAfter: 5000 },
  bulkhead: { maxConcurrent: 20, queue: 30, maxWait: 5000 }
} as const satisfies LlmConfig.Options

interface Arrival {
  /** Milliseconds after the one before. */
  readonly gap: number
  readonly input: LlmRequest.Input
  /** Less time than the options give. */
  readonly deadline: number | undefined
  /** When the caller leaves, if it does not stay. */
  readonly leaves: number | undefined
}

/** Bursts and pauses, popular and rare questions, keys, short deadlines, callers who leave. */
const arrivals = (plan: Plan): Effect.Effect<ReadonlyArray<Arrival>> =>
  Effect.gen(function*() {
    const list: Array<Arrival> = []
    let burst = 0
    while (list.length < plan.calls) {
      const [u, q, how, short, left] = yield* Effect.all([
        Random.next,
        Random.next,
        Random.next,
        Random.next,
        Random.next
      ])
      const gap = burst > 0 ? 0 : Math.ceil(u * 600)
      burst = burst > 0 ? burst - 1 : Math.floor(q * 12)
      const question = Math.floor(q * q * 150)
      const deadline = short < 0.1 && plan.patient !== true ? 2500 : undefined
      list.push({
        gap,
        deadline,
        leaves: left < 0.03 ? Math.floor(left * 60_000) : undefined,
        input: {
          prompt: `${MARKER} question ${question}`,
          ...(deadline === undefined ? undefined : { deadline }),
          ...(how < 0.2
            ? { idempotencyKey: `${MARKER} key ${question} ${Math.floor(list.length / 100)}` }
            : how < 0.35
            ? { cache: "always" }
            : how < 0.4
            ? { cache: "never" }
            : how < 0.5
            ? { temperature: 0 }
            : undefined)
        }
      })
    }
    return list
  }).pipe(Random.withSeed(`${plan.seed}, arrivals`))

// -----------------------------------------------------------------------------
// the providers
// -----------------------------------------------------------------------------

/** What two requests must have in common to be one question. */
const questionOf = ({ prompt, temperature }: LlmRequest.LlmRequest): string => JSON.stringify([prompt, temperature])

/** One request as the provider saw it. */
export interface Served {
  readonly target: TargetId
  readonly asked: string
  readonly from: number
  to: number | undefined
  readonly fate: "ok" | "503" | "429" | "hang" | "cut"
  /** The whole answer it gave, or would have given. */
  readonly text: string
}

const fateOf = (u: number): Served["fate"] =>
  u < 0.3 ? "503" : u < 0.4 ? "hang" : u < 0.45 ? "cut" : u < 0.5 ? "429" : "ok"

const stepOf = (kind: Kind, fate: Served["fate"], words: ReadonlyArray<string>, delay: number) => {
  switch (fate) {
    case "503":
      return { ...overloads, delay }
    case "429":
      return { ...rateLimited("1 second"), delay }
    case "hang":
      return ScriptedProvider.hang
    case "cut":
      return kind === "stream"
        ? { ...ScriptedProvider.stream(words[0]!, { wait: 30 }, words[1]!, ScriptedProvider.cut), delay }
        : { ...failing(truncated), delay }
    case "ok":
      return kind === "stream"
        ? { ...ScriptedProvider.stream(words[0]!, { wait: 30 }, words[1]!, { wait: 30 }, words[2]!), delay }
        : { ...ScriptedProvider.answer(words.join("")), delay }
  }
}

const truncated = new LlmError.ProviderError({
  provider: "p",
  reason: { _tag: "MalformedResponse", problem: LlmError.TRUNCATED }
})

const provider = (kind: Kind, id: TargetId, chaos: boolean, served: Array<Served>) => {
  const begin = Effect.fnUntraced(function*(request: LlmRequest.LlmRequest) {
    const u = yield* Random.next
    const delay = 20 + Math.floor((yield* Random.next) * 400)
    const fate = chaos ? fateOf(u) : "ok"
    const words = [`${MARKER} ${id}${served.length}`, " one", " two"]
    const record: Served = {
      target: id,
      asked: questionOf(request),
      from: yield* now,
      to: undefined,
      fate,
      text: words.join("")
    }
    served.push(record)
    const scripted = yield* ScriptedProvider.make([stepOf(kind, fate, words, delay)], { id })
    return { record, scripted }
  })
  const end = ({ record }: { readonly record: Served }) =>
    Effect.map(now, (at) => {
      record.to = at
    })
  return {
    id,
    generate: (request: LlmRequest.LlmRequest) =>
      Effect.acquireUseRelease(begin(request), ({ scripted }) => scripted.generate(request), end),
    stream: (request: LlmRequest.LlmRequest) =>
      Stream.unwrap(Effect.map(Effect.acquireRelease(begin(request), end), ({ scripted }) => scripted.stream(request)))
  }
}

// -----------------------------------------------------------------------------
// the run
// -----------------------------------------------------------------------------

export interface Answer {
  readonly call: number | undefined
  readonly text: string
  readonly source: string
  readonly target: string
  readonly age: number
}

export interface Caller {
  /** The number of its call, where an answer or an error has told it. */
  call: number | undefined
  readonly asked: string
  readonly key: string | undefined
  readonly from: number
  readonly deadlineAt: number
  readonly leaves: number | undefined
  to: number | undefined
  exit: Exit.Exit<Answer, LlmError.LlmError> | undefined
  /** What it had read when it ended, whatever the end was. */
  read: string
}

/** An event, and when it was heard. */
export type Heard = LlmEvent.LlmEvent & { readonly when: number }

export interface Log {
  readonly plan: Plan
  readonly events: ReadonlyArray<Heard>
  readonly callers: ReadonlyArray<Caller>
  readonly served: ReadonlyArray<Served>
  readonly status: Status
  /** When everybody was gone. */
  readonly endedAt: number
  readonly held: { readonly sleeps: number; readonly fibers: number }
}

/** Everything of a run that the same seed must bring about again. */
export const bytes = ({ callers, events, served }: Log): string =>
  JSON.stringify({ callers: callers.map(({ exit, ...caller }) => [caller, exit?._tag]), events, served })

const ask = (plan: Plan, client: Client<LlmError.LlmError>, input: LlmRequest.Input, caller: Caller) =>
  plan.kind === "complete"
    ? Effect.map(client.complete(input), ({ age, ledger, source, target, text }): Answer => {
      caller.read = text
      return { age, call: ledger[0]?.call, source, target, text }
    })
    : Effect.scoped(Effect.gen(function*() {
      const { parts, response } = yield* client.open(input)
      yield* Stream.runForEach(parts, (part) =>
        Effect.sync(() => {
          if (part.type === "text-delta") caller.read += part.delta
        }))
      const { age, ledger, source, target, text } = yield* response
      return { age, call: ledger[0]?.call, source, target, text } satisfies Answer
    }))

/** Nobody's child: it goes on when the last call was made. */
const detach = <A, E>(effect: Effect.Effect<A, E>) => Effect.forkDetach(effect, { startImmediately: true })

/** The clock of the test, with another wall clock on top of it. */
const withWall = (clock: Clock.Clock, wall: (reading: number) => number): Clock.Clock => {
  let readings = 0
  const millis = () => clock.currentTimeMillisUnsafe() + wall(readings++)
  const nanos = () => BigInt(millis()) * 1_000_000n
  return Object.assign(Object.create(clock) as Clock.Clock, {
    currentTimeMillisUnsafe: millis,
    currentTimeMillis: Effect.sync(millis),
    currentTimeNanosUnsafe: nanos,
    currentTimeNanos: Effect.sync(nanos)
  })
}

const unchanged = { provider: <A>(a: A): A => a, client: <A>(a: A): A => a }

export const run = (plan: Plan): Effect.Effect<Log> =>
  Effect.gen(function*() {
    const served: Array<Served> = []
    const callers: Array<Caller> = []
    const events: Array<Heard> = []
    let fibers = 0
    const longest = plan.options.timeout === false ? Infinity : Number(plan.options.timeout?.deadline)
    const mutated = { ...unchanged, ...plan.mutation }
    const counted = Effect.provideService(Metric.FiberRuntimeMetrics, {
      recordFiberStart: () => void fibers++,
      recordFiberEnd: () => void fibers--
    })
    const [first, ...others] = plan.targets.map(({ chaos, id }) => ({
      provider: mutated.provider(provider(plan.kind, id, chaos, served)),
      limits: id === "p" ? plan.limits : undefined
    }))
    const options = yield* mutated.options ?? Effect.succeed(plan.options)
    const context = yield* Layer.build(LlmClient.layerDynamic([first!, ...others], options))
    const client = mutated.client(Context.get(context, LlmClient))
    yield* fork(
      Stream.runForEach(client.events, (event) => Effect.map(now, (when) => void events.push({ ...event, when })))
    )

    const call = ({ deadline, input, leaves }: Arrival) =>
      Effect.gen(function*() {
        const from = yield* now
        const caller: Caller = {
          call: undefined,
          asked: questionOf(yield* Effect.orDie(LlmRequest.make(input))),
          key: typeof input === "object" && "idempotencyKey" in input ? input.idempotencyKey : undefined,
          from,
          deadlineAt: from + (deadline ?? longest),
          leaves: leaves === undefined ? undefined : from + leaves,
          to: undefined,
          exit: undefined,
          read: ""
        }
        callers.push(caller)
        const fiber = yield* detach(counted(Effect.onExit(ask(plan, client, input, caller), (exit) =>
          Effect.map(now, (at) => {
            caller.exit = exit
            if (Exit.isSuccess(exit)) caller.call = exit.value.call
            caller.to = at
          }))))
        if (leaves !== undefined) yield* detach(Effect.delay(Effect.sync(() => fiber.interruptUnsafe()), leaves))
      })
    const planned = yield* arrivals(plan)
    const driver = yield* fork(
      Effect.forEach(planned, (arrival) =>
        Effect.andThen(Effect.sleep(arrival.gap), call(arrival)), { discard: true })
    )
    // Longer than any caller stays, or any refresh in the background.
    yield* TestClock.adjust(planned.reduce((sum, { gap }) => sum + gap, 0) + 2 * longest)
    if (driver.pollUnsafe()?._tag !== "Success") throw new Error("not every call was made")
    const { pending } = yield* CountingClock.CountingClock
    return {
      plan,
      events,
      callers,
      served,
      status: yield* client.status,
      endedAt: yield* now,
      held: { sleeps: yield* pending, fibers }
    }
  }).pipe(
    Effect.scoped,
    Effect.orDie,
    Random.withSeed(plan.seed),
    (self) =>
      Effect.clockWith((clock) => {
        const own = plan.wall === undefined ? clock : withWall(clock, plan.wall)
        return Effect.provideService(self, Clock.Clock, plan.mutation?.clock?.(own) ?? own)
      }),
    Effect.provide(CountingClock.layer),
    Effect.provide(TestClock.layer())
  )
