// What the vectors share beyond test/support.ts: the parameters of SEMANTICS.md, one name per scripted failure, and
// the two ways a vector ends that are not its own: interruption, and many calls at once.
import { assert } from "@effect/vitest"
import { Cause, Context, Duration, Effect, Exit, type Fiber, Latch, Layer, type Scope, Stream } from "effect"
import {
  LlmClient,
  type LlmConfig,
  type LlmError,
  type LlmEvent,
  type LlmRequest,
  type LlmResponse
} from "effect-resilient-llm"
import { ofResponse } from "effect-resilient-llm/providers/internal/errors"
import { ScriptedProvider } from "effect-resilient-llm/testing"
import { TestClock } from "effect/testing"
import { ask, fork, type Kind, now, type SetUp, vectorOptions } from "../support.ts"

// -----------------------------------------------------------------------------
// parameters of the vectors
// -----------------------------------------------------------------------------

export const budget = { capacity: 10, perAttempt: 0.2, perSecond: 0.1 } as const
export const timers = {
  attempt: "120 seconds",
  firstToken: "120 seconds",
  idle: "60 seconds",
  deadline: "300 seconds"
} as const
export const breaker = {
  failureThreshold: 5,
  failureRate: 0.5,
  minimumCalls: 10,
  window: "60 seconds",
  recoveryTimeout: "5 seconds",
  maxRecoveryTimeout: "60 seconds",
  maxRetryAfter: "300 seconds",
  halfOpenProbes: 2,
  successThreshold: 2
} as const
export const cache = { ttl: "60 seconds", swr: "30 seconds", staleIfError: "1 hour", readThrough: true } as const

/** `limit` requests per ten seconds. */
export const perTenSeconds = (limit: number) =>
  ({ limits: [{ dimension: "requests", limit, per: "10 seconds" }], maxWait: "30 seconds", queue: 256 }) as const

// -----------------------------------------------------------------------------
// what a transport does
// -----------------------------------------------------------------------------

export const succeeds = ScriptedProvider.answer("Hello.")
export const overloads = ScriptedProvider.overloaded
export const always = (step: ScriptedProvider.Step) => ({ always: step })
export const rateLimited = ScriptedProvider.rateLimited
export const badRequest = ScriptedProvider.fail({ _tag: "InvalidRequest" }, { status: 400 })
export const unauthorized = ScriptedProvider.fail({ _tag: "Authentication" }, { status: 401 })
export const notFound = ScriptedProvider.fail({ _tag: "NotFound" }, { status: 404 })
export const quota = ScriptedProvider.fail({ _tag: "Quota" }, { status: 429 })
export const network = ScriptedProvider.fail({ _tag: "Network", sent: true })

/** An attempt that fails with exactly this error. */
export const failing = (error: LlmError.ProviderError): ScriptedProvider.Step => ScriptedProvider.stream({ error })

/** The failure that a provider's HTTP answer is decoded to. `wall` = our wall clock. */
export const answered = (
  status: number,
  headers: Readonly<Record<string, string>> = {},
  body: string = "",
  wall = 0
): LlmError.ProviderError => ofResponse({ provider: "p", statuses: undefined, status, headers, now: wall }, body)

export const code = (word: string): string => JSON.stringify({ error: { code: word, message: "" } })

/** Keep-alives: parts without content. */
export const ping = { type: "text-start", id: "0" } as const
export const wait = (millis: number) => ({ wait: millis })

// -----------------------------------------------------------------------------
// clients in their surroundings
// -----------------------------------------------------------------------------

const names = ["p", "s", "t"]

/** `setUp` of the shared support, for providers that are more than a script. */
export const setUpWith = (
  providers: ReadonlyArray<ScriptedProvider.ScriptedProvider>,
  options: LlmConfig.Options = {},
  targets: ReadonlyArray<Parameters<typeof LlmClient.target>[1]> = []
): Effect.Effect<SetUp, LlmError.LlmConfigError, Scope.Scope> =>
  Effect.gen(function*() {
    const [first, ...others] = providers.map((provider, i) => ({ ...targets[i], id: names[i]!, provider }))
    const layer = LlmClient.layerDynamic([first!, ...others], { ...vectorOptions, ...options })
    const context = yield* Layer.build(layer)
    return {
      client: Context.get(context, LlmClient),
      providers,
      calls: (i = 0) => Effect.map(providers[i]!.requests, (requests) => requests.map(({ at }) => at))
    }
  })

/** A provider whose requests all wait until `open`: whoever is there by then is concurrent. */
export const gated = (always: ScriptedProvider.Step, id = "p") =>
  Effect.gen(function*() {
    const latch = yield* Latch.make()
    const scripted = yield* ScriptedProvider.make([ScriptedProvider.always(always)], { id })
    const provider: ScriptedProvider.ScriptedProvider = {
      ...scripted,
      generate: (request) => Effect.andThen(latch.await, scripted.generate(request)),
      stream: (request) => Stream.unwrap(Effect.as(latch.await, scripted.stream(request)))
    }
    return { provider, open: latch.open }
  })

// -----------------------------------------------------------------------------
// ends
// -----------------------------------------------------------------------------

/** Lets everything that does not wait for time run. */
export const settle = TestClock.adjust(0)

export interface Running<A, E> {
  readonly fiber: Fiber.Fiber<A, E>
  readonly exit: () => Exit.Exit<A, E> | undefined
  /** When it ended, on the clock of the test. */
  readonly at: () => number | undefined
}

/** Starts an effect at once and remembers when it ended. */
export const start = <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<Running<A, E>, never, R> =>
  Effect.suspend(() => {
    let at: number | undefined
    const watched = Effect.onExit(effect, () =>
      Effect.map(now, (moment) => {
        at = moment
      }))
    return Effect.map(fork(watched), (fiber) => ({ fiber, exit: () => fiber.pollUnsafe(), at: () => at }))
  })

/** Interrupts it now, as its caller would, and lets what follows at once happen. */
export const interrupt = <A, E>(running: Running<A, E>): Effect.Effect<void> =>
  Effect.andThen(Effect.sync(() => running.fiber.interruptUnsafe()), settle)

export const assertInterrupted = <A, E>(running: Running<A, E>, at: number): void => {
  const exit = running.exit()
  assert.isDefined(exit, "the interrupted call is still running")
  assert.isTrue(
    Exit.isFailure(exit) && Cause.hasInterruptsOnly(exit.cause),
    `expected an interruption, got ${String(exit)}`
  )
  assert.strictEqual(running.at(), at)
}

/** The exit of a call that must be over by now. */
export const over = <A, E>(running: Running<A, E>): Exit.Exit<A, E> => {
  const exit = running.exit()
  assert.isDefined(exit, "the call is still running")
  return exit
}

/** `count` equal calls that start in the same moment. */
export const callAtOnce = (count: number, kind: Kind, setUp: SetUp, input?: string | LlmRequest.Input) =>
  Effect.forEach(Array.from({ length: count }), () => start(ask(kind, setUp.client, input)))

// -----------------------------------------------------------------------------
// views
// -----------------------------------------------------------------------------

export const millis = (duration: Duration.Duration | undefined): number | undefined =>
  duration === undefined ? undefined : Duration.toMillis(duration)

/** An error in one word, or two: `Overloaded`, `AttemptTimeout attempt`, `AllProvidersFailed Overloaded Overloaded`. */
export const word = (error: LlmError.LlmError): string => {
  switch (error._tag) {
    case "ProviderError":
      return error.reason._tag
    case "AttemptTimeout":
    case "StreamInterrupted":
      return `${error._tag} ${error.kind}`
    case "AllProvidersFailed":
      return [error._tag, ...error.errors.map(word)].join(" ")
    default:
      return error._tag
  }
}

/** Milliseconds since a stored answer was fetched. */
export const ageOf = (response: object): number => (response as LlmResponse.LlmResponse).age

export const tags = (ledger: LlmEvent.Ledger): ReadonlyArray<LlmEvent.LlmEvent["_tag"]> => ledger.map((e) => e._tag)

/** Everything the client publishes from now on. */
export const recorded = (setUp: SetUp): Effect.Effect<ReadonlyArray<LlmEvent.LlmEvent>, never, Scope.Scope> =>
  Effect.suspend(() => {
    const events: Array<LlmEvent.LlmEvent> = []
    const listen = Stream.runForEach(setUp.client.events, (event) => Effect.sync(() => events.push(event)))
    return Effect.as(Effect.forkScoped(listen, { startImmediately: true }), events)
  })

export const find = <T extends LlmEvent.LlmEvent["_tag"]>(ledger: LlmEvent.Ledger, tag: T) =>
  ledger.filter((e): e is Extract<LlmEvent.LlmEvent, { readonly _tag: T }> => e._tag === tag)
