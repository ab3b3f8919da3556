import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Layer } from "effect"
import { Store } from "effect-resilient-llm/persistence"
import * as Sql from "effect-resilient-llm/persistence/Sql"
import { SqlClient } from "effect/sql/SqlClient"
import { keepsTheLaws, movable } from "./laws.ts"
import { unique, usualPostgres } from "./servers.ts"

const postgres = await usualPostgres()

const shared = (options: Sql.Options, now?: () => number) =>
  Layer.effectContext(
    Effect.map(Sql.make(options, now), ({ idempotency }) => Context.make(Store.SharedStore, idempotency))
  )

if (postgres !== undefined) {
  keepsTheLaws("PostgreSQL", () => {
    const { advance, now } = movable()
    const layer = Layer.provide(shared({ prefix: unique() }, now), postgres)
    return { layer: (bounds) => bounds === undefined ? layer : undefined, another: layer, advance }
  })

  keepsTheLaws("PostgreSQL in real time", () => {
    const layer = Layer.provide(Sql.layer({ prefix: unique() }), postgres)
    return { layer, another: layer }
  })

  describe("Sql", () => {
    it.live("tables are made once, by however many that start together", () =>
      Effect.gen(function*() {
        const sql = yield* SqlClient
        yield* sql.unsafe("create table if not exists llm_schema (version integer not null)")
        const stores = yield* Effect.all(Array.from({ length: 8 }, () => Sql.make({ prefix: unique() })))
        yield* Effect.all(stores.map(({ cache }) => cache.get("k")), { concurrency: "unbounded" })
        const rows = yield* sql.unsafe<{ version: number }>("select version from llm_schema")
        assert.deepStrictEqual(rows.map(({ version }) => version), [1])
      }).pipe(Effect.scoped, Effect.provide(postgres)))
  })
}
