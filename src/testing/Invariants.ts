/**
 * The laws of a pipeline, as functions over what a run left behind: its events, what its callers got, what its providers
 * were asked. A law that does not hold is a value, not an exception, so that any test runner, or none, can show it.
 *
 * The library checks itself by them, over ten thousand calls through chaos; so can you, with guards and providers of your
 * own.
 *
 * @since 0.2.0
 */
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import type * as Exit from "effect/Exit"
import type * as Layer from "effect/Layer"
import { monotonicMillis } from "../internal/clock.ts"
import type { Options } from "../LlmConfig.ts"
import type { LlmEvent } from "../LlmEvent.ts"
import * as LlmObserver from "../LlmObserver.ts"
import type { Status, TargetOptions } from "../pipeline/target.ts"
import { difference, results } from "./internal/laws/compare.ts"
import { ofCalls } from "./internal/laws/ofCalls.ts"
import { ofTargets } from "./internal/laws/ofTargets.ts"
import { known } from "./internal/laws/run.ts"

// -----------------------------------------------------------------------------
// models
// -----------------------------------------------------------------------------

/**
 * | law | |
 * | --- | --- |
 * | `log` | the events are all there: each call from its start, told when they happened |
 * | `P1` | never more attempts in flight at a target than its bulkhead has permits |
 * | `P2` | no bucket lets through more than its size and what flows in meanwhile |
 * | `P3` | who waits in one line is served in the order of arrival |
 * | `P4` | attempts are first attempts, and retries, hedges and repairs that somebody decided on and the purse can pay |
 * | `P5` | a circuit changes only as it may, opens by a failure or by what is slow, lets nobody in while open, and few on trial |
 * | `P6` | each attempt begins once and ends once, and so does each call |
 * | `P7` | every caller is gone at its deadline |
 * | `P8` | a provider's hint is a floor of every pause, and no pause is longer than it may be |
 * | `P9` | what was taken is back: permits, waiters, probes, tokens, payments, sleeps, fibres, connections |
 * | `P10` | after the first content, one target answers; an answer is never glued of two |
 * | `P11` | a stored answer is, byte by byte, a live one to the same question, and not too old |
 * | `P12` | the wall clock decides nothing |
 * | `P13` | who leaves is interrupted then and there, and changes nobody else's result |
 * | `P14` | no event and no error holds a prompt, an answer, a key or an address |
 * | `P15` | one seed is one run |
 * | `P16` | no more is remembered than may be |
 *
 * @category models
 * @since 0.2.0
 */
export type Law =
  | "log"
  | "P1"
  | "P2"
  | "P3"
  | "P4"
  | "P5"
  | "P6"
  | "P7"
  | "P8"
  | "P9"
  | "P10"
  | "P11"
  | "P12"
  | "P13"
  | "P14"
  | "P15"
  | "P16"

/**
 * A law that did not hold.
 *
 * @category models
 * @since 0.2.0
 */
export interface Violation {
  readonly law: Law
  /** In a sentence without texts of prompts or answers. */
  readonly what: string
  /** Monotonic milliseconds. */
  readonly when: number
  /** The index of the event that shows it; absent where no event does. */
  readonly event?: number | undefined
}

/**
 * An event, and the monotonic millisecond at which it was heard.
 *
 * @category models
 * @since 0.2.0
 */
export type Heard = LlmEvent & { readonly when: number }

/**
 * What somebody who asked has got.
 *
 * @category models
 * @since 0.2.0
 */
export interface Caller {
  /** The number of its call in the events, such as `response.ledger[0].call`. */
  readonly call?: number | undefined
  /** Equal for what is one question to the cache, such as the prompt. */
  readonly asked: string
  /** Equal for callers that share an idempotency key, where they have one. */
  readonly key?: string | undefined
  /** Monotonic milliseconds: when it asked, and when it was gone. */
  readonly from: number
  readonly to: number | undefined
  /** Default: none. */
  readonly deadlineAt?: number | undefined
  /** When it was interrupted, if it was to be. */
  readonly leaves?: number | undefined
  /** `undefined`: it still waits. */
  readonly exit:
    | Exit.Exit<
      { readonly text: string; readonly source: string; readonly target: string; readonly age: number },
      unknown
    >
    | undefined
  /** The text it had read when it was gone, whatever the end was. Absent: not known. */
  readonly read?: string | undefined
}

/**
 * A request as the provider saw it.
 *
 * @category models
 * @since 0.2.0
 */
export interface Served {
  readonly target: string
  /** As {@link Caller}'s. */
  readonly asked: string
  /** Monotonic milliseconds; `undefined` while it is at work. */
  readonly from: number
  readonly to: number | undefined
  /** The text it gave, or would have given: no two the same. */
  readonly text: string
  /** Did it give all of it? */
  readonly isWhole: boolean
}

/**
 * What a run left behind. Each law judges by what there is: without `callers` and `served`, by the events alone.
 *
 * @category models
 * @since 0.2.0
 */
export interface Run {
  /** All events since the client was built, in order: see {@link recorder}. */
  readonly events: ReadonlyArray<Heard>
  /** Those of the client. A pattern that was given as a value is judged only by what it shows. */
  readonly options: Options
  /** What targets have of their own, by their names. */
  readonly targets?: Readonly<Record<string, TargetOptions>> | undefined
  /** The client's, when everybody was gone. */
  readonly status?: Status | undefined
  /** The monotonic millisecond of `status`. Default: that of the last event. */
  readonly endedAt?: number | undefined
  readonly callers?: ReadonlyArray<Caller> | undefined
  readonly served?: ReadonlyArray<Served> | undefined
  /** What was still there when everybody was gone: `CountingClock` and Effect's fibre metrics count them. */
  readonly held?: { readonly sleeps: number; readonly fibers: number } | undefined
  /** Texts that must be in no event and no error: parts of prompts, answers and keys. */
  readonly secrets?: ReadonlyArray<string> | undefined
  /**
   * The place in line of a call, such as its priority and tenant; those that differ may overtake each other. Default: all
   * have the same.
   */
  readonly classOf?: ((call: number) => string) | undefined
  /** Milliseconds that a real clock may be late. Default 0, as on a `TestClock`. */
  readonly tolerance?: number | undefined
}

// -----------------------------------------------------------------------------
// laws
// -----------------------------------------------------------------------------

/** Of one law: a broken pipeline breaks it at every step. */
const MOST = 100

/**
 * Checks P1–P11, P13, P14 and P16 over a run that is over. Returns what does not hold, at most a hundred of a law.
 *
 * **Gotchas**
 *
 * - A law that has nothing to judge holds: let the run have waits, retries, hints and breaks.
 * - Where several lines could be waited in, the client's bucket and a target's own limits, P2 and P3 judge neither.
 *
 * **Example** (A run that keeps them, and one whose log was cut)
 *
 * ```ts import.meta.vitest
 * import { Effect, Layer } from "effect"
 * import { LlmClient } from "effect-resilient-llm"
 * import { Invariants, ScriptedProvider } from "effect-resilient-llm/testing"
 *
 * class Vendor extends ScriptedProvider.Service<Vendor>()("app/Vendor") {}
 *
 * const options = { retry: { baseDelay: "5 millis" } } as const
 * const tolerance = 2 // on a real clock, timers may fire a little early
 * const program = Effect.gen(function*() {
 *   const { events, layer } = yield* Invariants.recorder
 *   const vendor = Vendor.layer([ScriptedProvider.overloaded, ScriptedProvider.answer("Hello.")])
 *   const live = LlmClient.layer([Vendor], options).pipe(Layer.provide([layer, vendor]))
 *   yield* Effect.provide(Effect.flatMap(LlmClient, (client) => client.complete("Hi")), live)
 *   const whole = Invariants.check({ events, options, tolerance })
 *   const cut = Invariants.check({ events: events.slice(0, -1), options, tolerance })
 *   return [whole, cut.map(({ law, what }) => `${law}: ${what}`)]
 * })
 * await Effect.runPromise(program) // => [[], ["P6: call 1 has 0 ends"]]
 * ```
 *
 * @category checks
 * @since 0.2.0
 */
export const check = (run: Run): ReadonlyArray<Violation> => {
  const facts = known(run)
  return [...ofTargets, ...ofCalls].flatMap((law) => {
    const found: Array<Violation> = []
    for (const violation of law(facts)) if (found.push(violation) === MOST) break
    return found
  })
}

/**
 * Compares two runs of the same calls in the same order, by what was not the same:
 *
 * - `nothing` (default): P15, the same events and results;
 * - `wall-clock`: P12, the same events and results although the wall clock jumped in one of them;
 * - `interruptions`: P13, whoever stayed in both got the same result. It needs `callers`, and providers whose answer
 *   depends on nothing but the question.
 *
 * Returns the first difference of each kind.
 *
 * @category checks
 * @since 0.2.0
 */
export const compare = (
  a: Run,
  b: Run,
  differing: "nothing" | "wall-clock" | "interruptions" = "nothing"
): ReadonlyArray<Violation> => {
  if (differing === "interruptions") return results("P13", a, b)
  const law = differing === "nothing" ? "P15" : "P12"
  return [...difference(law, a, b), ...results(law, a, b)]
}

// -----------------------------------------------------------------------------
// recorder
// -----------------------------------------------------------------------------

/**
 * @category models
 * @since 0.2.0
 */
export interface Recorder {
  /** To be provided to one client, as it is built. */
  readonly layer: Layer.Layer<never>
  /** What was heard so far; it grows. */
  readonly events: ReadonlyArray<Heard>
}

/**
 * Writes down all events of one client, with the moment of each: that of its call's start, and what the event says since.
 *
 * @category constructors
 * @since 0.2.0
 */
export const recorder: Effect.Effect<Recorder> = Effect.sync(() => {
  const events: Array<Heard> = []
  const startedAt = new Map<number, number>()
  const layer = LlmObserver.layer(() =>
    Effect.succeed((event, caller) => {
      const now = () => monotonicMillis(Context.get(caller, Clock.Clock))
      if (event._tag === "CallStarted") startedAt.set(event.call, now())
      const start = startedAt.get(event.call)
      if (event._tag === "CallEnded") startedAt.delete(event.call)
      events.push({ ...event, when: start === undefined ? now() : start + event.at })
    })
  )
  return { events, layer }
})
