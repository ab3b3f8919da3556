/**
 * What an attempt must hold before its provider is asked: the seam at which patterns, and you, stand in front of a call.
 *
 * Bulkhead, rate limits and circuit breaker are guards of this kind. One of your own is given to a client as
 * `guards: [mine]`: a maintenance switch, a quota of a tenant, a filter. It is asked once per attempt, before anything
 * else is held, and told how the attempt ended.
 *
 * @since 0.2.0
 */
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type {
  AttemptTimeout,
  DeadlineExceeded,
  ProviderError,
  RateLimitFact,
  StreamInterrupted,
  Verdict
} from "./LlmError.ts"
import type { AttemptFailed } from "./LlmEvent.ts"
import type { LlmProvider } from "./LlmProvider.ts"
import type { LlmRequest } from "./LlmRequest.ts"
import type { Usage } from "./LlmResponse.ts"

// -----------------------------------------------------------------------------
// models
// -----------------------------------------------------------------------------

/**
 * The attempt that wants to begin.
 *
 * @category models
 * @since 0.2.0
 */
export interface Ask {
  /** As the target's provider will get it. */
  readonly request: LlmRequest
  readonly target: string
  readonly operation: "complete" | "stream"
  /** Monotonic milliseconds at which the guard is asked. */
  readonly now: number
  /** Milliseconds the attempt has at the monotonic moment `now`; `Infinity` without a deadline. */
  readonly left: (now: number) => number
  /**
   * Makes a wait as interruptible as the call itself: what runs in `acquire` is not.
   *
   * @internal
   */
  readonly restore: <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R>
}

/**
 * What an attempt without an answer has cost, in tokens, as its event says: `atLeast` where the vendor has not told all of it.
 * Absent where it has cost nothing, or nobody knows.
 *
 * @category models
 * @since 0.2.0
 */
export type Spent = Pick<AttemptFailed, "inputTokens" | "outputTokens" | "atLeast">

/**
 * How an attempt ended. One value per attempt: breaker, limits, pool, budget and metrics are all told the same.
 *
 * | | |
 * | --- | --- |
 * | `Succeeded` | a whole answer |
 * | `Failed` | a failure and what it means: `verdict.outcome` says whether it is the provider's |
 * | `Ignored` | says nothing about the provider: the `caller` left, its `deadline` came, a `defect`, or it was `lost` to a rival |
 * | `NeverStarted` | the provider was not asked |
 *
 * Times are monotonic milliseconds; `duration` is that of a whole answer, or of a stream up to its first content part.
 *
 * @category models
 * @since 0.2.0
 */
export type Outcome =
  | {
    readonly _tag: "Succeeded"
    readonly now: number
    readonly duration: number
    readonly usage: Usage | undefined
    /** What the vendor said of its limits. */
    readonly limits: ReadonlyArray<RateLimitFact>
  }
  | {
    readonly _tag: "Failed"
    readonly now: number
    readonly duration: number
    readonly error: ProviderError | AttemptTimeout | DeadlineExceeded | StreamInterrupted
    readonly verdict: Verdict
    /** How long the failure asks to wait. */
    readonly retryAfter: number | undefined
    readonly limits: ReadonlyArray<RateLimitFact>
    /** `false`: the request provably never left. */
    readonly sent: boolean
    readonly spent?: Spent | undefined
  }
  | {
    readonly _tag: "Ignored"
    readonly now: number
    readonly duration: number
    readonly by: "caller" | "deadline" | "defect" | "lost"
    readonly spent?: Spent | undefined
  }
  | { readonly _tag: "NeverStarted"; readonly now: number }

/**
 * What a guard gave. Each verb is called in a `try` of its own: one that throws is logged and hinders nobody.
 *
 * @category models
 * @since 0.2.0
 */
export interface Held {
  /**
   * Called once, uninterruptibly, as soon as it is known how the attempt ended. An effect that is returned is started at
   * once; no caller waits for what it leaves to be done, but closing the client does (5 seconds at most).
   */
  readonly settle?: ((outcome: Outcome) => Effect.Effect<void> | void) | undefined
  /** Called once, when the provider's own cleanup is over: later than `settle` when a timer released the caller. */
  readonly release?: (() => void) | undefined
  /** A stream is alive: after its first content part, and then at most once a second as its parts come and are asked for. */
  readonly renew?: ((now: number) => void) | undefined
  /** Who is asked in the place of the target's provider, the first of several: how a pool picks a host. */
  readonly provider?: LlmProvider | undefined
  /** What a failure means, where that is another thing here than for other targets: a pool has more than one key. */
  readonly judge?: ((verdict: Verdict, now: number) => Verdict) | undefined
  /** What this attempt will meet is made up: all its events say `injected: true`, so that nobody is woken by them. */
  readonly injected?: boolean | undefined
}

/**
 * A refusal that is known without a wait.
 *
 * @category models
 * @since 0.2.0
 */
export interface Refusal<out E> {
  /** Made only when it is needed. */
  readonly error: () => E
  /** Milliseconds, when known. */
  readonly retryAfter?: number | undefined
}

/**
 * A guard. `E` is what it refuses with.
 *
 * **Details**
 *
 * - A refusal is not a failure of the provider: no circuit records it, nothing is retried. It ends the call as it is; with
 *   `failover: true` the target is skipped instead, and the refusal ends the call only where no other target is left.
 * - `acquire` can wait. A wait is interrupted with the call and at its deadline, and must then hold nothing; what comes
 *   too late all the same is settled as `NeverStarted` and released. Wait interruptibly, then take in one step: what is
 *   taken by an uninterruptible wait, and comes after an interruption, is dropped by Effect, and nobody can give it back.
 * - `peek` changes nothing. It spares others the wait for what would be refused anyway.
 *
 * @category models
 * @since 0.2.0
 */
export interface Guard<out E> {
  /** For events and ledgers. */
  readonly name: string
  /** May another target be asked when this one is refused? Default: no. */
  readonly failover?: boolean | undefined
  readonly peek?: ((request: LlmRequest, now: number) => Refusal<E> | undefined) | undefined
  readonly acquire: (ask: Ask) => Effect.Effect<Held, E>
}

// -----------------------------------------------------------------------------
// constructors
// -----------------------------------------------------------------------------

const nothing: Held = {}

/**
 * A guard that lets an attempt pass or refuses it, and holds nothing.
 *
 * **Example** (A switch for maintenance)
 *
 * ```ts import.meta.vitest
 * import { Data, Effect, Ref } from "effect"
 * import { LlmClient, LlmGuard } from "effect-resilient-llm"
 * import { ScriptedProvider } from "effect-resilient-llm/testing"
 *
 * class Vendor extends ScriptedProvider.Service<Vendor>()("app/Vendor") {}
 * class Closed extends Data.TaggedError("Closed")<{}> {}
 *
 * const program = Effect.gen(function*() {
 *   const open = yield* Ref.make(true)
 *   const door = LlmGuard.make("maintenance", () =>
 *     Effect.flatMap(Ref.get(open), (isOpen) => isOpen ? Effect.void : new Closed()))
 *   const client = yield* LlmClient.make([Vendor], { guards: [door] })
 *   const before = yield* client.complete("Hi")
 *   yield* Ref.set(open, false)
 *   // `Closed` is in the type of what `complete` fails with.
 *   const after = yield* client.complete("Hi").pipe(Effect.catchTag("Closed", () => Effect.succeed({ text: "closed" })))
 *   return [before.text, after.text]
 * })
 * const live = Vendor.layer([ScriptedProvider.answer("Hello.")])
 * await Effect.runPromise(Effect.scoped(Effect.provide(program, live))) // => ["Hello.", "closed"]
 * ```
 *
 * @category constructors
 * @since 0.2.0
 */
export const make = <E>(
  name: string,
  check: (ask: Ask) => Effect.Effect<unknown, E>,
  options?: { readonly failover?: boolean | undefined }
): Guard<E> => ({
  name,
  failover: options?.failover,
  acquire: (ask) => Effect.as(check(ask), nothing)
})

/**
 * The errors of a guard.
 *
 * @category models
 * @since 0.2.0
 */
export type Error<G> = G extends Guard<infer E> ? E : never

/**
 * What has an answer already needs no step of a fibre. (`Exit.isExit` alone would forget both types.)
 *
 * @internal
 */
export const isDone = <A, E, R>(effect: Effect.Effect<A, E, R>): effect is Exit.Exit<A, E> => Exit.isExit(effect)
