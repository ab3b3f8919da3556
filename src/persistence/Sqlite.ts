/**
 * State in a file, through `node:sqlite`: for the processes of one machine, such as a batch program that must survive its
 * own death, or workers beside each other. No dependency, no server. Needs Node.
 *
 * @since 0.2.0
 */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Schedule from "effect/Schedule"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import type { DatabaseSync, StatementSync } from "node:sqlite"
import { attempt, boolean, optionsOf, readOptions, text } from "../internal/option.ts"
import { LlmConfigError } from "../LlmError.ts"
import { CoolDownStore } from "../resilience/Failover.ts"
import { IdempotencyStore } from "../resilience/Idempotency.ts"
import * as Buckets from "../resilience/internal/buckets.ts"
import { type LimitStore, RateLimiterStore, type StoreLimit } from "../resilience/RateLimiter.ts"
import { ResponseCacheStore } from "../resilience/ResponseCache.ts"
import * as Health from "./Health.ts"
import { ownName, type SharedOptions, SharedOptionsSchema } from "./internal/bounds.ts"
import * as Records from "./internal/records.ts"
import { type LeaseStore, SharedStore, StoreError } from "./Store.ts"

// -----------------------------------------------------------------------------
// options
// -----------------------------------------------------------------------------

/**
 * @category models
 * @since 0.2.0
 */
export interface Options extends SharedOptions {
  /** The file. It is made where there is none; its folder must exist. Not on a network drive. */
  readonly filename: string
  /**
   * Must a record outlive the machine, not only the process? Then every write waits for the disk: half as many writes a
   * second. Default `false`.
   */
  readonly durable?: boolean | undefined
}

const OptionsSchema = optionsOf<Options>()({
  ...SharedOptionsSchema.fields,
  filename: text("the name of a file"),
  durable: boolean(false)
})

// -----------------------------------------------------------------------------
// layer
// -----------------------------------------------------------------------------

/**
 * Keeps records, leases, cached answers, limits and cool-downs in a file that several processes of one machine may share.
 *
 * **Details**
 *
 * - The file is in WAL mode; beside it are a `-wal` and a `-shm` file. Tables begin with `llm_`, so that the file can be
 *   one that you have already.
 * - Another process may be writing: then the write is tried again, without blocking the event loop.
 * - What has expired is deleted in small steps, one in a hundred writes.
 *
 * Fails with `LlmConfigError` when the file cannot be opened, or was written by a later version of this library.
 *
 * **Example** (A repeated program does not pay twice)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { Store } from "effect-resilient-llm/persistence"
 * import * as Sqlite from "effect-resilient-llm/persistence/Sqlite"
 *
 * const program = Effect.gen(function*() {
 *   const store = yield* Store.SharedStore
 *   const acquired = yield* store.acquire("order-7", 15_000)
 *   if (acquired._tag === "Acquired") {
 *     yield* store.complete("order-7", acquired.fence, "paid", { ttl: 86_400_000 })
 *   }
 *   return (yield* store.acquire("order-7", 15_000))._tag
 * })
 *
 * await Effect.runPromise(Effect.provide(program, Sqlite.layer({ filename: ":memory:" }))) // => "Found"
 * ```
 *
 * @category layers
 * @since 0.2.0
 */
export const layer = (options: Options): Layer.Layer<SharedStore, LlmConfigError> =>
  Layer.effectContext(Effect.map(make(options), provided))

/**
 * What one file gives.
 *
 * @internal
 */
export interface Stores {
  readonly idempotency: LeaseStore<string>
  readonly cache: LeaseStore<string>
  readonly limits: LimitStore
  readonly coolDowns: LeaseStore<string>
  readonly health: Health.Health
}

const provided = ({ cache, coolDowns, idempotency, limits }: Stores): Context.Context<SharedStore> =>
  Context.make(SharedStore, idempotency).pipe(
    Context.add(IdempotencyStore, idempotency),
    Context.add(ResponseCacheStore, cache),
    Context.add(RateLimiterStore, limits),
    Context.add(CoolDownStore, coolDowns)
  )

/** @internal */
export const make = (
  options: Options,
  now?: () => number
): Effect.Effect<Stores, LlmConfigError, Scope.Scope> =>
  Effect.gen(function*() {
    const { filename, ...policy } = yield* attempt(() => readOptions(OptionsSchema, options, "sqlite"))
    const scope = yield* Effect.scope
    const sqlite = yield* Effect.promise(() => import("node:sqlite"))
    const unusable = (rule: string) => new LlmConfigError({ path: "sqlite.filename", rule, kind: "a file that is not" })
    const database = yield* Effect.acquireRelease(
      Effect.try({
        // No time-out of its own: it would block the event loop while it waits.
        try: () => new sqlite.DatabaseSync(filename, { timeout: 0 }),
        catch: () => unusable("a file that SQLite can open, in a folder that exists")
      }),
      (database) => Effect.sync(() => database.close())
    )
    const version = yield* Effect.mapError(
      patiently(() => migrate(database, policy.durable), OPENING),
      () => unusable("a file that SQLite can write")
    )
    if (version > migrations.length) {
      yield* Effect.fail(unusable("a file of this version of the library, or of one before it"))
    }

    const prepared = new Map<string, StatementSync>()
    const statement = (text: string): StatementSync => {
      let found = prepared.get(text)
      if (found === undefined) prepared.set(text, found = database.prepare(text))
      return found
    }
    const connection: Records.Connection = {
      dialect: Records.sqlite,
      query: (text, params) => patiently(() => statement(text).all(...params), BUSY),
      behind: (effect) => Effect.asVoid(Effect.forkIn(Effect.ignoreCause(effect), scope)),
      owner: yield* ownName,
      ...policy,
      now
    }
    const health = Health.make({
      name: "sqlite",
      ping: Effect.suspend(() => connection.query("select 1", [])),
      scope
    })
    return {
      idempotency: { ...Records.make(connection, "i"), health },
      cache: { ...Records.make(connection, "c"), health },
      coolDowns: { ...Records.make(connection, "d"), health },
      limits: { ...makeLimits(database, statement, policy.prefix, now), health },
      health
    }
  })

/** Milliseconds for which a file that is being written by others is tried again: by an operation, and at the start. */
const BUSY = 1000
const OPENING = 10_000

const isBusy = (error: unknown): boolean => {
  const code = (error as { readonly errcode?: number } | null)?.errcode
  // The lower byte: 5 is BUSY, 6 is LOCKED.
  return code !== undefined && [5, 6].includes(code & 0xff)
}

const patiently = <A>(use: () => A, millis: number): Effect.Effect<A, unknown> =>
  Effect.retry(Effect.try({ try: use, catch: (error) => error }), {
    while: isBusy,
    schedule: Schedule.min([Schedule.exponential(1, 1.5), Schedule.spaced(20)]).pipe(
      Schedule.jittered,
      Schedule.upTo({ duration: millis })
    )
  })

const migrations = [...Records.migrations, [
  `create table if not exists llm_limits (
    key text not null primary key,
    state text not null,
    expires_at double precision not null
  )`
]]

const migrate = (database: DatabaseSync, durable: boolean): number => {
  database.exec(`pragma journal_mode = wal; pragma synchronous = ${durable ? "full" : "normal"}`)
  database.exec("begin immediate")
  try {
    database.exec("create table if not exists llm_schema (version integer not null)")
    const row = database.prepare("select max(version) as version from llm_schema").get()
    const version = Number(row?.version ?? 0)
    for (const [i, statements] of migrations.entries()) {
      if (i < version) continue
      for (const text of statements) database.exec(text)
      database.prepare("insert into llm_schema (version) values (?)").run(i + 1)
    }
    database.exec("commit")
    return version
  } catch (error) {
    database.exec("rollback")
    throw error
  }
}

// -----------------------------------------------------------------------------
// limits
// -----------------------------------------------------------------------------

const NumberList = Schema.Array(Schema.Tuple([Schema.String, Schema.Number]))
const StoredState = Schema.fromJsonString(Schema.Struct({
  at: Schema.Number,
  told: Schema.Number,
  levels: NumberList,
  blocked: NumberList,
  seen: NumberList
}))
const decodeState = Schema.decodeUnknownOption(StoredState)

const SWEEP_EVERY = 100

const makeLimits = (
  database: DatabaseSync,
  statement: (text: string) => StatementSync,
  prefix: string,
  now: (() => number) | undefined
): LimitStore => {
  const read =
    `select (select state from llm_limits where key = ?1) as state, coalesce(?2, ${Records.sqlite.clock}) as n`
  const write = `insert into llm_limits (key, state, expires_at) values (?1, ?2, ?3)
    on conflict (key) do update set state = excluded.state, expires_at = excluded.expires_at`
  const sweep = "delete from llm_limits where key in (select key from llm_limits where expires_at < ?1 limit 100)"
  let writes = 0

  const stateOf = (row: Record<string, unknown> | undefined): Buckets.State => {
    const decoded = decodeState(row?.state ?? "")
    if (decoded._tag === "None") return Buckets.empty
    const { at, blocked, levels, seen, told } = decoded.value
    return { at, told, blocked: new Map(blocked), levels: new Map(levels), seen: new Map(seen) }
  }

  /** One step, which other processes see as a whole or not at all. */
  const step = <A>(
    operation: "reserve" | "settle",
    key: string,
    limits: ReadonlyArray<StoreLimit>,
    use: (state: Buckets.State, now: number) => readonly [A, Buckets.State]
  ): Effect.Effect<A, StoreError> =>
    Effect.mapError(
      patiently(() => {
        statement("begin immediate").run()
        try {
          const name = `${prefix}:l:${key}`
          const row = statement(read).get(name, now?.() ?? null)
          const at = Number(row?.n)
          const [result, { blocked, levels, seen, ...rest }] = use(stateOf(row), at)
          const state = JSON.stringify({ ...rest, blocked: [...blocked], levels: [...levels], seen: [...seen] })
          const lasts = Buckets.lasts({ ...rest, blocked, levels, seen }, limits, at)
          statement(write).run(name, state, at + lasts)
          writes += 1
          if (writes % SWEEP_EVERY === 0) statement(sweep).run(at)
          statement("commit").run()
          return result
        } catch (error) {
          if (database.isTransaction) statement("rollback").run()
          throw error
        }
      }, BUSY),
      () => new StoreError({ operation })
    )

  return {
    reserve: (request) =>
      step("reserve", request.key, request.limits, (state, now) => Buckets.reserve(state, request, now)),
    settle: (change) =>
      step("settle", change.key, change.limits, (state, now) => [undefined, Buckets.settle(state, change, now)]),
    snapshot: (key, limits) =>
      Effect.mapError(
        patiently(() => {
          const row = statement(read).get(`${prefix}:l:${key}`, now?.() ?? null)
          return Buckets.look(stateOf(row), limits, Number(row?.n))
        }, BUSY),
        () => new StoreError({ operation: "snapshot" })
      )
  }
}
