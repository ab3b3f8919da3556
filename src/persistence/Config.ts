/**
 * The store that processes share, from configuration: `LLM_STATE=redis://localhost:6379` or `LLM_STATE=sqlite:./llm.db`.
 * Needs Node; for Redis also `@effect/platform-node` and `redis`.
 *
 * @since 0.2.0
 */
import * as Config from "effect/Config"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import { LlmConfigError } from "../LlmError.ts"
import type { SharedOptions } from "./internal/bounds.ts"
import * as Redis from "./Redis.ts"
import * as Sqlite from "./Sqlite.ts"

/**
 * What a text stands for: `redis://…` and `rediss://…` a Redis, `sqlite:<file>` a file.
 *
 * **Details**
 *
 * The layer provides the stores of idempotency, cache and limits to every client that is built with it. A Redis need not be
 * up; a file must be one that can be opened. Fails with `LlmConfigError` for any other text, which is not repeated, because
 * it may hold a password.
 *
 * **Example** (A batch that survives its own death)
 *
 * ```ts import.meta.vitest
 * import { Effect, Layer } from "effect"
 * import { LlmClient } from "effect-resilient-llm"
 * import * as StateConfig from "effect-resilient-llm/persistence/Config"
 * import { ScriptedProvider } from "effect-resilient-llm/testing"
 *
 * class Vendor extends ScriptedProvider.Service<Vendor>()("app/Vendor") {}
 *
 * const client = LlmClient.layer([Vendor]).pipe(
 *   Layer.provide(Vendor.layer([ScriptedProvider.answer("Paris.")])),
 *   Layer.provide(StateConfig.layer("sqlite::memory:"))
 * )
 * const ask = Effect.flatMap(LlmClient, (client) => client.complete({ prompt: "Capital?", idempotencyKey: "document-7" }))
 * const twice = Effect.map(Effect.all([ask, ask]), (answers) => answers.map(({ source }) => source))
 * await Effect.runPromise(Effect.provide(twice, client)) // => ["provider", "replay"]
 * ```
 *
 * @category layers
 * @since 0.2.0
 */
export const layer = (state: string, options?: SharedOptions): Layer.Layer<never, LlmConfigError> => {
  if (/^rediss?:\/\//.test(state) && URL.canParse(state)) return Layer.unwrap(overRedis(state, options))
  const file = /^sqlite:(.+)$/.exec(state)?.[1]
  if (file !== undefined) return withoutServices(Sqlite.layer({ ...options, filename: file }))
  const rule = "redis://…, rediss://… or sqlite:<file>"
  return Layer.effectDiscard(Effect.fail(new LlmConfigError({ path: "state", rule, kind: "another text" })))
}

/**
 * {@link layer} with the text of the variable `LLM_STATE`, or of the given configuration. Where there is none, every client
 * has a memory of its own.
 *
 * @category layers
 * @since 0.2.0
 */
export const layerConfig = (
  state: Config.Config<string> = Config.schema(Schema.String, "LLM_STATE"),
  options?: SharedOptions
): Layer.Layer<never, LlmConfigError | Config.ConfigError> =>
  Layer.unwrap(Effect.map(
    Config.option(state),
    Option.match({ onNone: () => Layer.empty, onSome: (text) => layer(text, options) })
  ))

const withoutServices = <A, E>(layer: Layer.Layer<A, E>): Layer.Layer<never, E> => layer

const overRedis = (
  url: string,
  options: SharedOptions | undefined
): Effect.Effect<Layer.Layer<never, LlmConfigError>, LlmConfigError> =>
  Effect.map(
    Effect.tryPromise({
      // Who keeps state in a file needs neither.
      try: () => import("@effect/platform-node/NodeRedis"),
      catch: () =>
        new LlmConfigError({
          path: "state",
          rule: "sqlite:<file> unless @effect/platform-node and redis are installed",
          kind: "a Redis"
        })
    }),
    (NodeRedis) =>
      withoutServices(
        Redis.layer(options).pipe(Layer.provide(Redis.background(NodeRedis.layer(Redis.nodeOptions(url)))))
      )
  )
