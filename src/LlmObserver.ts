/**
 * Views of everything that clients do: metrics, logs, alerts, dashboards.
 *
 * An observer is installed with {@link layer}, for all clients that are built below it or used beside it; there can be
 * several. It is told of each event synchronously, so nothing is lost however fast events come. For work that takes time
 * use `client.events`, a stream with a bounded buffer, instead.
 *
 * @since 0.1.0
 */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Scope from "effect/Scope"
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
 * Installs one more observer.
 *
 * **Details**
 *
 * - Provided to a client, it watches that client from its construction on.
 * - Merged with a client, `Layer.mergeAll(client, observer)`, it watches the client from the first call on that is made
 *   where both are; then it hears all calls of that client.
 * - A client is watched once by each `identity`, by default the observer itself, however often that is installed.
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
export const layer = (
  observer: Observer,
  options?: { readonly identity?: unknown }
): Layer.Layer<never> => {
  // Each under a key of its own: layers that are merged, in whatever order, all stay.
  const key = Context.Service<Installed>(`${PREFIX}${++installed}`)
  const own: Installed = { observer, identity: options?.identity ?? observer }
  return Layer.succeedContext(Context.make(key, own).pipe(Context.add(Some, true)))
}

interface Installed {
  readonly observer: Observer
  readonly identity: unknown
}

const PREFIX = "effect-resilient-llm/LlmObserver/"
let installed = 0

/** There where an observer is, so that calls can ask cheaply. */
const Some = Context.Service<true>("effect-resilient-llm/LlmObserver")

/**
 * Lets the observers that are in a context watch a client, each once. `undefined`: there are no others than those that do.
 * The scope is the client's.
 *
 * @internal
 */
export const watching = (
  observed: Observed,
  listen: (listener: Listener) => void
): Effect.Effect<(context: Context.Context<never>) => Effect.Effect<void> | undefined, never, Scope.Scope> =>
  Effect.map(Effect.scope, (scope) => {
    const known = new Set<unknown>()
    /** Calls of one program mostly have one context. */
    let seen: Context.Context<never> | undefined
    return (context) => {
      if (context === seen || Context.getOrUndefined(context, Some) === undefined) return undefined
      seen = context
      const others: Array<Observer> = []
      for (const [key, value] of context.mapUnsafe) {
        if (!key.startsWith(PREFIX)) continue
        const { identity, observer } = value as Installed
        if (!known.has(identity)) others.push(observer)
        known.add(identity)
      }
      return others.length === 0
        ? undefined
        : Effect.forEach(others, (observe) => Effect.map(Scope.provide(observe(observed), scope), listen), {
          discard: true
        })
    }
  })
