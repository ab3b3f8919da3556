// A failed quota is met by one process of a fleet, on every home that cool-downs have.
import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Layer } from "effect"
import { type Client, LlmClient, type LlmError } from "effect-resilient-llm"
import type { Store } from "effect-resilient-llm/persistence"
import * as Redis from "effect-resilient-llm/persistence/Redis"
import * as Sql from "effect-resilient-llm/persistence/Sql"
import * as Sqlite from "effect-resilient-llm/persistence/Sqlite"
import { ScriptedProvider } from "effect-resilient-llm/testing"
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll } from "vitest"
import { unique, usualPostgres, usualRedis } from "./servers.ts"

const { always, answer, fail } = ScriptedProvider
const folder = mkdtempSync(join(tmpdir(), "llm-cool-"))
afterAll(() => rmSync(folder, { recursive: true, force: true }))
const redis = await usualRedis()
const postgres = await usualPostgres()

/** Each process builds the layer for itself. */
const homes: ReadonlyArray<readonly [string, Layer.Layer<Store.SharedStore, LlmError.LlmConfigError>]> = [
  ["SQLite", Sqlite.layer({ filename: join(folder, "state.db") })],
  ...(redis === undefined ? [] : [["Redis", Layer.provide(Redis.layer({ prefix: unique() }), redis)] as const]),
  ...(postgres === undefined ? [] : [["PostgreSQL", Layer.provide(Sql.layer({ prefix: unique() }), postgres)] as const])
]

describe("cool-downs over processes", () => {
  it.live.each(homes)(
    "%s: what one of three processes has met, none meets again",
    ([, home]) =>
      Effect.scoped(Effect.gen(function*() {
        const steps = [answer("a"), answer("b"), answer("c")]
        const first = yield* ScriptedProvider.make([...steps, always(fail({ _tag: "Quota" }))], { id: "first" })
        const second = yield* ScriptedProvider.make([always(answer("x"))], { id: "second" })
        const client = LlmClient.layerDynamic([first, second], { cache: false, retry: false })
        const process = Effect.map(
          Layer.build(Layer.fresh(Layer.provide(client, Layer.fresh(home)))),
          (context) => Context.get(context, LlmClient)
        )
        const clients = yield* Effect.all([process, process, process])
        const ask = (client: Client<LlmError.LlmError>) => Effect.map(client.complete("Hi"), ({ target }) => target)
        assert.deepStrictEqual(yield* Effect.forEach(clients, ask), ["first", "first", "first"])
        yield* ask(clients[0])
        const coolDowns = Effect.forEach(clients, ({ status }) =>
          Effect.map(status, ({ targets: [one] }) => one?.coolingDown))
        yield* Effect.repeat(Effect.delay(coolDowns, 20), {
          times: 500,
          until: (all) =>
            all.every((one) => one !== undefined)
        })
        assert.deepStrictEqual(yield* Effect.forEach(clients, ask), ["second", "second", "second"])
        assert.strictEqual((yield* first.requests).length, 4)
      }))
  )
})
