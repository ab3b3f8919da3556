// What the tests of the whole pipeline share: both kinds of call behind one face, fixed chance, and the books of what
// is held.
import { assert } from "@effect/vitest"
import { Clock, Context, Effect, Exit, type Fiber, Layer, Random, type Scope, Stream } from "effect"
import {
  type Client,
  LlmClient,
  type LlmConfig,
  type LlmError,
  type LlmEvent,
  type LlmRequest
} from "effect-resilient-llm"
import type { Store } from "effect-resilient-llm/persistence"
import { Idempotency } from "effect-resilient-llm/resilience"
import { CountingClock, ScriptedProvider } from "effect-resilient-llm/testing"
import { TestClock } from "effect/testing"

export const kinds = ["complete", "stream"] as const
export type Kind = (typeof kinds)[number]

/** Every draw returns `u`. */
export const chance = (u: number) =>
  Effect.provideService(Random.Random, { nextDoubleUnsafe: () => u, nextIntUnsafe: () => Math.floor(u * 2 ** 31) })

/** Parameters of the vectors; they differ from the product's defaults on purpose. */
export const vectorOptions = {
  retry: { maxRetries: 2, baseDelay: 500, maxDelay: 8000 },
  retryBudget: false,
  timeout: false,
  circuitBreaker: false,
  rateLimit: false,
  idempotency: false,
  cache: false,
  failover: {},
  bulkhead: false
} as const satisfies LlmConfig.Options

export interface Outcome {
  readonly text: string
  readonly source: string
  readonly target: string
  readonly ledger: LlmEvent.Ledger
  readonly parts: number
}

/** One call of either kind, read to its end. */
export const ask = (kind: Kind, client: Client<LlmError.LlmError>, input: string | LlmRequest.Input = "What is AI?") =>
  kind === "complete"
    ? Effect.map(client.complete(input), (r): Outcome => ({ ...r, parts: r.content.length }))
    : Effect.scoped(Effect.gen(function*() {
      const stream = yield* client.open(input)
      const parts = yield* Stream.runCollect(stream.parts)
      const r = yield* stream.response
      const text = parts.map((p) => p.type === "text-delta" ? p.delta : "").join("")
      assert.strictEqual(text, r.text)
      return { ...r, parts: parts.length } satisfies Outcome
    }))

export interface SetUp {
  readonly client: Client<LlmError.LlmError>
  readonly providers: ReadonlyArray<ScriptedProvider.ScriptedProvider>
  /** When the transport of target `i` was invoked. */
  readonly calls: (i?: number) => Effect.Effect<ReadonlyArray<number>>
}

export type Script =
  | ReadonlyArray<ScriptedProvider.Step>
  | { readonly script?: ReadonlyArray<ScriptedProvider.Step>; readonly always: ScriptedProvider.Step }

const names = ["p", "s", "t"]

/** A client over scripted providers `p`, `s`, … */
export const setUp = (
  scripts: readonly [Script, ...ReadonlyArray<Script>],
  options: LlmConfig.Options = {},
  targets: ReadonlyArray<Parameters<typeof LlmClient.target>[1]> = [],
  traits: ReadonlyArray<ScriptedProvider.Options> = []
): Effect.Effect<SetUp, LlmError.LlmConfigError, Scope.Scope> =>
  Effect.gen(function*() {
    const providers = yield* Effect.forEach(scripts, (script, i) => {
      const { always, steps } = "always" in script
        ? { steps: script.script ?? [], always: script.always }
        : { steps: script, always: undefined }
      return ScriptedProvider.make(always === undefined ? steps : [...steps, ScriptedProvider.always(always)], {
        id: names[i]!,
        ...traits[i]
      })
    })
    const [first, ...others] = providers.map((provider, i) => ({ ...targets[i], id: names[i]!, provider }))
    const context = yield* Layer.build(LlmClient.layerDynamic([first!, ...others], { ...vectorOptions, ...options }))
    return {
      client: Context.get(context, LlmClient),
      providers,
      calls: (i = 0) => Effect.map(providers[i]!.requests, (requests) => requests.map(({ at }) => at))
    }
  })

/** Clients that are built in it keep what they record in this store. */
export const recordsIn = (store: Store.LeaseStore<string>) => Effect.provideService(Idempotency.IdempotencyStore, store)

/** Runs an effect to its end under the test clock and tells when it ended. */
export const timed = <A, E, R>(effect: Effect.Effect<A, E, R>, budget: number | string = "1 hour") =>
  Effect.gen(function*() {
    const begun = yield* now
    let ended = 0
    const fiber = yield* Effect.forkChild(
      Effect.onExit(effect, () =>
        Effect.map(now, (at) => {
          ended = at - begun
        })),
      { startImmediately: true }
    )
    yield* TestClock.adjust(budget as number)
    const exit = fiber.pollUnsafe()
    assert.isDefined(exit, "the call is still running")
    return { exit: exit, at: ended }
  })

const BEGINNING = 3_600_000
const Beginning = Context.Reference<number>("test/Beginning", { defaultValue: () => 0 })

/** Milliseconds since the vector began. */
export const now = Effect.gen(function*() {
  return Number(yield* Clock.monotonicTimeNanos) / 1e6 - (yield* Beginning)
})

export const failure = <A, E>(exit: Exit.Exit<A, E>): E => {
  if (Exit.isSuccess(exit)) throw new Error("expected a failure")
  const found = exit.cause.reasons.find((reason) => reason._tag === "Fail")
  if (found === undefined) throw new Error(`expected a typed failure, got ${String(exit.cause)}`)
  return found.error
}

export const success = <A, E>(exit: Exit.Exit<A, E>): A => {
  if (Exit.isFailure(exit)) throw new Error(`expected a success, got ${String(exit.cause)}`)
  return exit.value
}

/** Nothing is sleeping, nobody is served. */
export const nothingHeld = (setUp: SetUp) =>
  Effect.gen(function*() {
    const clock = yield* CountingClock.CountingClock
    assert.strictEqual(yield* clock.pending, 0, "pending sleeps")
    for (const provider of setUp.providers) assert.strictEqual(yield* provider.active, 0, "active requests")
    for (const target of (yield* setUp.client.status).targets) {
      assert.strictEqual(target.bulkhead?.inUse ?? 0, 0, "permits")
      assert.strictEqual(target.bulkhead?.queued ?? 0, 0, "waiters")
      assert.strictEqual(target.circuit?.probes ?? 0, 0, "probes")
    }
  })

/** The frame of a vector: counting clock, fixed chance, own scope. As anywhere else, its clock does not begin at 0. */
export const vector = <A, E>(
  effect: Effect.Effect<A, E, Scope.Scope | CountingClock.CountingClock>,
  u = 0.5
): Effect.Effect<A, E> =>
  Effect.andThen(TestClock.adjust(BEGINNING), Effect.scoped(effect)).pipe(
    Effect.provide(CountingClock.layer),
    Effect.provideService(Beginning, BEGINNING),
    chance(u)
  )

export const fork = <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<Fiber.Fiber<A, E>, never, R> =>
  Effect.forkChild(effect, { startImmediately: true })
