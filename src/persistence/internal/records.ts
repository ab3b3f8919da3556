// Values and leases as rows of one SQL table, in the words that SQLite and PostgreSQL share.
//
// A row without a value is a lease. Rows are ended and not deleted, so that the fence of a key grows; a sweep takes what
// has ended for a minute. Every statement reads the store's own clock once, as `n`; a test can set it instead.
import * as Effect from "effect/Effect"
import { type Acquired, type LeaseStore, StoreError } from "../Store.ts"
import { EVER, GRACE, isTooLarge } from "./bounds.ts"

export interface Dialect {
  /** Milliseconds since the epoch, as the store knows them. */
  readonly clock: string
  readonly greatest: string
  /** A parameter, by number from 1. */
  readonly param: (i: number) => string
  /** The type of a parameter that may be null. */
  readonly nullable: (param: string, type: "text" | "double precision") => string
  /** Does a write that changes nothing cost more than a look before it? */
  readonly looksFirst: boolean
}

export const sqlite: Dialect = {
  clock: "cast(round(unixepoch('subsec') * 1000) as integer)",
  greatest: "max",
  param: (i) => `?${i}`,
  nullable: (param) => param,
  looksFirst: true
}

export const postgres: Dialect = {
  clock: "floor(extract(epoch from clock_timestamp()) * 1000)::double precision",
  greatest: "greatest",
  param: (i) => `$${i}`,
  nullable: (param, type) => `${param}::${type}`,
  looksFirst: false
}

/** Each version's statements, in order. A database remembers how many it has seen. */
export const migrations: ReadonlyArray<ReadonlyArray<string>> = [
  [
    `create table if not exists llm_records (
      key text not null primary key,
      value text,
      set_at double precision not null,
      expires_at double precision not null,
      fence double precision not null,
      owner text not null
    )`,
    "create index if not exists llm_records_expires_at on llm_records (expires_at)"
  ]
]

type Param = string | number | null
type Row = Readonly<Record<string, unknown>>

export interface Connection {
  readonly dialect: Dialect
  readonly query: (text: string, params: ReadonlyArray<Param>) => Effect.Effect<ReadonlyArray<Row>, unknown>
  /** Runs something that nobody waits for. */
  readonly behind: (effect: Effect.Effect<unknown, unknown>) => Effect.Effect<void>
  /** Names this process in its leases. */
  readonly owner: string
  readonly prefix: string
  readonly maxValueBytes: number
  /** The time, for tests. */
  readonly now?: (() => number) | undefined
}

const SWEEP_EVERY = 100
const SWEEP_AT_MOST = 100

export const make = (connection: Connection, kind: string): LeaseStore<string> => {
  const { dialect, owner, prefix } = connection
  const { clock, greatest, nullable, param } = dialect
  const at = (i: number): string => `(select coalesce(${nullable(param(i), "double precision")}, ${clock}) as n) as t`
  const insert = "insert into llm_records as r (key, value, set_at, expires_at, fence, owner)"

  const statements = {
    get: `select value, t.n - set_at as age from llm_records, ${at(2)}
      where key = ${param(1)} and value is not null and expires_at > t.n`,
    look: `select value, t.n - set_at as age, expires_at - t.n as lasts from llm_records, ${at(2)} where key = ${
      param(1)
    }`,
    set: `${insert} select ${param(1)}, ${param(3)}, t.n, t.n + ${param(4)}, 0, '' from ${at(2)} where true
      on conflict (key) do update set value = excluded.value, set_at = excluded.set_at,
        expires_at = excluded.expires_at, owner = excluded.owner`,
    remove: `update llm_records set value = null, owner = '', expires_at = t.n from ${at(2)} where key = ${param(1)}`,
    acquire: `${insert} select ${param(1)}, null, t.n, t.n + ${param(3)}, t.n * 1000, ${param(4)} from ${
      at(2)
    } where true
      on conflict (key) do update set value = null, set_at = excluded.set_at, expires_at = excluded.expires_at,
        fence = ${greatest}(r.fence + 1, excluded.fence), owner = excluded.owner
      where r.expires_at <= excluded.set_at
        or (r.value is not null and r.value = ${nullable(param(6), "text")})
        or (r.value is null and ${param(5)} = 'yes' and r.owner <> excluded.owner)
      returning fence`,
    renew: `update llm_records set expires_at = t.n + ${param(4)} from ${at(2)}
      where key = ${param(1)} and value is null and fence = ${param(3)} and expires_at > t.n returning fence`,
    complete: `${insert} select ${param(1)}, ${param(4)}, t.n, t.n + ${param(5)}, ${param(3)}, '' from ${
      at(2)
    } where true
      on conflict (key) do update set value = excluded.value, set_at = excluded.set_at,
        expires_at = excluded.expires_at, owner = excluded.owner
      where r.expires_at <= excluded.set_at or (r.value is null and r.fence = excluded.fence and r.fence > 0)
      returning fence`,
    release: `update llm_records set expires_at = t.n from ${at(2)}
      where key = ${param(1)} and value is null and fence = ${param(3)} and expires_at > t.n`,
    sweep: `delete from llm_records where key in (
      select key from llm_records, ${at(1)} where expires_at <= t.n - ${GRACE} limit ${SWEEP_AT_MOST})`
  }

  type Verb = Exclude<keyof typeof statements, "sweep" | "look">
  const now = (): number | null => connection.now?.() ?? null
  const ask = (
    operation: Verb,
    key: string,
    params: ReadonlyArray<Param> = [],
    statement: keyof typeof statements = operation
  ): Effect.Effect<ReadonlyArray<Row>, StoreError> =>
    Effect.mapError(
      Effect.suspend(() => connection.query(statements[statement], [`${prefix}:${kind}:${key}`, now(), ...params])),
      () => new StoreError({ operation })
    )

  let writes = 0
  const wrote = <A>(effect: Effect.Effect<A, StoreError>): Effect.Effect<A, StoreError> =>
    Effect.tap(effect, () => {
      writes += 1
      return writes % SWEEP_EVERY === 0
        ? connection.behind(Effect.suspend(() => connection.query(statements.sweep, [now()])))
        : Effect.void
    })

  const refused = (operation: "set" | "complete", value: string): StoreError | undefined =>
    isTooLarge(value, connection.maxValueBytes) ? new StoreError({ operation, reason: "too-large" }) : undefined

  const found = (row: Row | undefined): Acquired<string> | undefined => {
    const lasts = Number(row?.lasts ?? 0)
    if (row === undefined || lasts <= 0) return undefined
    return typeof row.value === "string"
      ? { _tag: "Found", value: row.value, age: Math.max(0, Number(row.age)) }
      : { _tag: "Held", left: lasts }
  }

  const isFree = (acquired: Acquired<string> | undefined, takeOver: boolean, replacing: string | undefined): boolean =>
    acquired === undefined || (acquired._tag === "Found" ? acquired.value === replacing : takeOver)

  const acquire: LeaseStore<string>["acquire"] = (key, lease, { replacing, takeOver = false } = {}) => {
    const look = Effect.map(ask("acquire", key, [], "look"), ([row]) => found(row))
    const take = Effect.map(
      ask("acquire", key, [Math.min(lease, EVER), owner, takeOver ? "yes" : "no", replacing ?? null]),
      ([row]): Acquired<string> | undefined =>
        row === undefined ? undefined : { _tag: "Acquired", fence: Number(row.fence) }
    )
    // Between a look and a write others come: then the next round finds them.
    const round = (rounds: number): Effect.Effect<Acquired<string>, StoreError> =>
      Effect.flatMap(rounds === 0 && !dialect.looksFirst ? Effect.undefined : look, (seen) => {
        if (seen !== undefined && !isFree(seen, takeOver, replacing)) return Effect.succeed(seen)
        return Effect.flatMap(take, (taken) => {
          if (taken !== undefined) return Effect.succeed(taken)
          return rounds < 5
            ? Effect.flatMap(look, (seen) => seen === undefined ? round(rounds + 1) : Effect.succeed(seen))
            : Effect.fail(new StoreError({ operation: "acquire" }))
        })
      })
    return round(0)
  }

  return {
    get: (key) =>
      Effect.map(
        ask("get", key),
        ([row]) => row === undefined ? undefined : { value: String(row.value), age: Math.max(0, Number(row.age)) }
      ),
    set: (key, value, { ttl }) =>
      Effect.asVoid(refused("set", value) ?? wrote(ask("set", key, [value, Math.min(ttl, EVER)]))),
    remove: (key) => Effect.asVoid(ask("remove", key)),
    acquire,
    renew: (key, fence, lease) =>
      Effect.map(ask("renew", key, [fence, Math.min(lease, EVER)]), (rows) => rows.length > 0),
    complete: (key, fence, value, { ttl }) =>
      refused("complete", value) ??
        wrote(Effect.map(ask("complete", key, [fence, value, Math.min(ttl, EVER)]), (rows) => rows.length > 0)),
    release: (key, fence) => Effect.asVoid(ask("release", key, [fence]))
  }
}
