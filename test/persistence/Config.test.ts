// The store by a text: `LLM_STATE`, or what the program says.
import { assert, describe, it } from "@effect/vitest"
import { Cause, ConfigProvider, Context, Effect, Exit, Layer } from "effect"
import { LlmClient, LlmError } from "effect-resilient-llm"
import * as StateConfig from "effect-resilient-llm/persistence/Config"
import { ScriptedProvider } from "effect-resilient-llm/testing"
import { existsSync, mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll } from "vitest"
import { unique, usualRedis } from "./servers.ts"

const folder = mkdtempSync(join(tmpdir(), "llm-state-"))
afterAll(() => rmSync(folder, { recursive: true, force: true }))
const file = () => `sqlite:${join(folder, `${unique()}.db`)}`

/** Two processes, one after the other, ask the same under one key: how were they answered? */
const twice = <E>(state: () => Layer.Layer<never, E>, variables: Record<string, string> = {}) =>
  Effect.gen(function*() {
    const provider = yield* ScriptedProvider.make([ScriptedProvider.always(ScriptedProvider.answer("Paris."))])
    const process = Effect.scoped(Effect.gen(function*() {
      const layer = Layer.provide(LlmClient.layerDynamic([provider]), state())
      const client = Context.get(yield* Layer.build(Layer.fresh(layer)), LlmClient)
      return (yield* client.complete({ prompt: "Capital?", idempotencyKey: "document-7" })).source
    }))
    return yield* Effect.all([process, process])
  }).pipe(Effect.provide(ConfigProvider.layer(ConfigProvider.fromEnv({ env: variables }))))

const errorOf = <A, E>(exit: Exit.Exit<A, E>): LlmError.LlmConfigError => {
  const error = Exit.isFailure(exit) ? Cause.squash(exit.cause) : undefined
  if (error instanceof LlmError.LlmConfigError) return error
  throw new Error(`expected a configuration error, got ${String(error)}`)
}

describe("LLM_STATE", () => {
  it.live("is not there: each client has a memory of its own", () =>
    Effect.gen(function*() {
      assert.deepStrictEqual(yield* twice(() => StateConfig.layerConfig()), ["provider", "provider"])
    }))

  it.live("sqlite:<file>: what one process has paid for, the next one has", () =>
    Effect.gen(function*() {
      const state = file()
      const answered = yield* twice(() => StateConfig.layerConfig(), { LLM_STATE: state })
      assert.deepStrictEqual(answered, ["provider", "replay"])
      assert.isTrue(existsSync(state.slice("sqlite:".length)))
    }))

  it.live("under another prefix nothing of it is there", () =>
    Effect.gen(function*() {
      const LLM_STATE = file()
      yield* twice(() => StateConfig.layerConfig(undefined, { prefix: "a" }), { LLM_STATE })
      const other = yield* twice(() => StateConfig.layerConfig(undefined, { prefix: "b" }), { LLM_STATE })
      assert.deepStrictEqual(other, ["provider", "replay"])
    }))

  it.live.each(["postgres://user:geheim@host/db", "geheim", "redis:geheim", "redis://geheim@a host:x", "sqlite:"])(
    "%s is refused, and not repeated",
    (text) =>
      Effect.gen(function*() {
        const exit = yield* Effect.exit(twice(() => StateConfig.layerConfig(), { LLM_STATE: text }))
        const error = errorOf(exit)
        assert.strictEqual(error.path, "state")
        assert.include(error.rule, "sqlite:<file>")
        assert.notInclude(JSON.stringify(exit) + String(error) + Cause.pretty(Cause.fail(error)), "geheim")
      })
  )

  it.live("a file that cannot be opened is an error when the layer is built", () =>
    Effect.gen(function*() {
      const exit = yield* Effect.exit(
        twice(() => StateConfig.layer(`sqlite:${join(folder, "no", "such", "folder.db")}`))
      )
      assert.strictEqual(errorOf(exit)._tag, "LlmConfigError")
    }))

  it.live("a Redis that is not up is none: the call is answered", () =>
    Effect.gen(function*() {
      const answered = yield* twice(() => StateConfig.layer("redis://127.0.0.1:1"))
      assert.deepStrictEqual(answered, ["provider", "provider"])
    }))
})

const redis = await usualRedis()

describe.skipIf(redis === undefined)("LLM_STATE=redis://…", () => {
  it.live("what one process has paid for, the next one has", () =>
    Effect.gen(function*() {
      const prefix = unique()
      const answered = yield* twice(() => StateConfig.layerConfig(undefined, { prefix }), {
        LLM_STATE: "redis://127.0.0.1:6379"
      })
      assert.deepStrictEqual(answered, ["provider", "replay"])
    }))
})
