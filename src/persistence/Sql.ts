/**
 * State in a database that you have already, over the `SqlClient` of `effect/sql`: PostgreSQL (with `@effect/sql-pg`), or
 * SQLite through any of its drivers. For a file of its own use `Sqlite`, which needs no driver.
 *
 * @since 0.2.0
 */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import type * as Scope from "effect/Scope"
import { SqlClient } from "effect/sql/SqlClient"
import { attempt, readOptions } from "../internal/option.ts"
import { LlmConfigError } from "../LlmError.ts"
import { CoolDownStore } from "../resilience/Failover.ts"
import { IdempotencyStore } from "../resilience/Idempotency.ts"
import { ResponseCacheStore } from "../resilience/ResponseCache.ts"
import * as Health from "./Health.ts"
import { ownName, type SharedOptions, SharedOptionsSchema } from "./internal/bounds.ts"
import * as Records from "./internal/records.ts"
import { type LeaseStore, SharedStore } from "./Store.ts"

/**
 * @category models
 * @since 0.2.0
 */
export interface Options extends SharedOptions {}

/**
 * Keeps records, leases, cached answers and cool-downs in two tables, `llm_records` and `llm_schema`, which it makes when it is first
 * asked.
 *
 * **Details**
 *
 * - The database can be down when the layer is built, and at any time after: no call fails for it (see `Health`).
 * - Time is the database's. What has expired is deleted in small steps, one in a hundred writes.
 * - A statement that nobody waits for any more is not interrupted: let the database end it (`statement_timeout`).
 *
 * Fails with `LlmConfigError` for a database that is neither PostgreSQL nor SQLite.
 *
 * @category layers
 * @since 0.2.0
 */
export const layer = (options?: Options): Layer.Layer<SharedStore, LlmConfigError, SqlClient> =>
  Layer.effectContext(
    Effect.map(make(options), ({ cache, coolDowns, idempotency }) =>
      Context.make(SharedStore, idempotency).pipe(
        Context.add(IdempotencyStore, idempotency),
        Context.add(ResponseCacheStore, cache),
        Context.add(CoolDownStore, coolDowns)
      ))
  )

/**
 * What one database gives.
 *
 * @internal
 */
export interface Stores {
  readonly idempotency: LeaseStore<string>
  readonly cache: LeaseStore<string>
  readonly coolDowns: LeaseStore<string>
  readonly health: Health.Health
}

/** @internal */
export const make = (
  options?: Options,
  now?: () => number
): Effect.Effect<Stores, LlmConfigError, SqlClient | Scope.Scope> =>
  Effect.gen(function*() {
    const policy = yield* attempt(() => readOptions(SharedOptionsSchema, options, "sql"))
    const sql = (yield* SqlClient).withoutTransforms()
    const scope = yield* Effect.scope
    const dialect = sql.onDialectOrElse({
      pg: () => Records.postgres,
      sqlite: () => Records.sqlite,
      orElse: () => undefined
    })
    if (dialect === undefined) {
      return yield* Effect.fail(
        new LlmConfigError({ path: "sql", rule: "PostgreSQL or SQLite", kind: "another database" })
      )
    }

    let isReady = false
    const migrate = Effect.suspend(() => {
      if (isReady) return Effect.void
      return Effect.map(
        sql.withTransaction(Effect.gen(function*() {
          // Two processes that start together must not make the same table.
          if (dialect === Records.postgres) yield* sql.unsafe("select pg_advisory_xact_lock(hashtext('llm_schema'))")
          yield* sql.unsafe("create table if not exists llm_schema (version integer not null)")
          const [row] = yield* sql.unsafe<{ version: number | string | null }>(
            "select max(version) as version from llm_schema"
          )
          const version = Number(row?.version ?? 0)
          for (const [i, statements] of Records.migrations.entries()) {
            if (i < version) continue
            for (const text of statements) yield* sql.unsafe(text)
            yield* sql.unsafe(`insert into llm_schema (version) values (${i + 1})`)
          }
        })),
        () => {
          isReady = true
        }
      )
    })

    const connection: Records.Connection = {
      dialect,
      query: (text, params) =>
        Effect.andThen(migrate, Effect.suspend(() => sql.unsafe<Record<string, unknown>>(text, params))),
      behind: (effect) => Effect.asVoid(Effect.forkIn(Effect.ignoreCause(effect), scope)),
      owner: yield* ownName,
      ...policy,
      now
    }
    const health = Health.make({ name: "sql", ping: Effect.suspend(() => sql.unsafe("select 1")), scope })
    return {
      idempotency: { ...Records.make(connection, "i"), health },
      cache: { ...Records.make(connection, "c"), health },
      coolDowns: { ...Records.make(connection, "d"), health },
      health
    }
  })
