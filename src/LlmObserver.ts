/**
 * Views of everything that clients do: metrics, logs, alerts, dashboards.
 *
 * An observer is installed once, for all clients that are built below it, with {@link layer}; there can be several. It is told of each event
 * synchronously, so nothing is lost however fast events come. For work that takes time use `client.events`, a stream
 * with a bounded buffer, instead.
 *
 * @since 0.1.0
 */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import type * as Scope from "effect/Scope"
import type { Listener } from "./LlmEvent.ts"
import type { Status } from "./pipeline/target.ts"

/**
 * What an observer learns about a client.
 *
 * @category models
 * @since 0.1.0
 */
export interface Observed {
  /** In failover order; `provider` is the provider's own name, such as `openai`. */
  readonly targets: ReadonlyArray<{ readonly id: string; readonly provider: string }>
  readonly status: Effect.Effect<Status>
}

/**
 * Prepares to watch one client; called once per client, when it is built. The scope is the client's.
 *
 * @category models
 * @since 0.1.0
 */
export type Observer = (client: Observed) => Effect.Effect<Listener, never, Scope.Scope>

/**
 * Installs one more observer for the clients that this layer is provided to.
 *
 * **Example** (Counting attempts)
 *
 * ```ts import.meta.vitest
 * import { Effect, Layer } from "effect"
 * import { LlmClient, LlmObserver } from "effect-resilient-llm"
 * import { ScriptedProvider } from "effect-resilient-llm/testing"
 *
 * class Vendor extends ScriptedProvider.Service<Vendor>()("app/Vendor") {}
 *
 * const attempts: Array<string> = []
 * const counting = LlmObserver.layer(() =>
 *   Effect.succeed((event) => {
 *     if (event._tag === "AttemptStarted") attempts.push(event.target)
 *   })
 * )
 * const live = LlmClient.layer([Vendor]).pipe(
 *   Layer.provide([counting, Vendor.layer([ScriptedProvider.answer("Hello.")])])
 * )
 * const program = Effect.flatMap(LlmClient, (client) => client.complete("Hi"))
 * await Effect.runPromise(Effect.provide(program, live))
 * attempts // => ["Vendor"]
 * ```
 *
 * @category layers
 * @since 0.1.0
 */
export const layer = (observer: Observer): Layer.Layer<never> => {
  // Each under a key of its own: layers that are merged, in whatever order, all stay.
  const key = Context.Service<Observer>(`${PREFIX}${++installed}`)
  return Layer.succeed(key, observer)
}

const PREFIX = "effect-resilient-llm/LlmObserver/"
let installed = 0

/**
 * The observers installed so far. A client asks when it is built.
 *
 * @internal
 */
export const observers: Effect.Effect<ReadonlyArray<Observer>> = Effect.contextWith((context: Context.Context<never>) =>
  Effect.sync(() => [...context.mapUnsafe].flatMap(([key, value]) => key.startsWith(PREFIX) ? [value as Observer] : []))
)
