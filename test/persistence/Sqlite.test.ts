import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Fiber, Layer } from "effect"
import { Store } from "effect-resilient-llm/persistence"
import * as Sqlite from "effect-resilient-llm/persistence/Sqlite"
import { mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { DatabaseSync } from "node:sqlite"
import { afterAll } from "vitest"
import { keepsTheLaws, keepsTheLimitLaws, movable, survivesAClockSetBack } from "./laws.ts"

const folder = mkdtempSync(join(tmpdir(), "llm-sqlite-"))
afterAll(() => rmSync(folder, { recursive: true, force: true }))
let files = 0
const file = (): string => join(folder, `${++files}.db`)

const shared = (options: Sqlite.Options, now?: () => number) =>
  Layer.effectContext(
    Effect.map(Sqlite.make(options, now), ({ idempotency }) => Context.make(Store.SharedStore, idempotency))
  )

keepsTheLaws("SQLite", () => {
  const { advance, now } = movable()
  const filename = file()
  const layer = shared({ filename }, now)
  return { layer: (bounds) => bounds === undefined ? layer : undefined, another: shared({ filename }, now), advance }
})

keepsTheLaws("SQLite in real time", () => {
  const filename = file()
  const layer = Sqlite.layer({ filename })
  return { layer, another: layer }
})

const limitsOfFile = () => {
  const { advance, now } = movable()
  return { store: Effect.map(Sqlite.make({ filename: file() }, now), ({ limits }) => limits), advance }
}
keepsTheLimitLaws("SQLite", limitsOfFile)
survivesAClockSetBack("SQLite", limitsOfFile)

const minute = { ttl: 60_000 }

describe("Sqlite", () => {
  it.live("a record outlives its process, and two versions of a prefix do not meet", () =>
    Effect.gen(function*() {
      const filename = file()
      const use = <A, E>(
        options: Omit<Sqlite.Options, "filename">,
        f: (store: Store.LeaseStore<string>) => Effect.Effect<A, E>
      ) => Effect.provide(Effect.flatMap(Store.SharedStore, f), Sqlite.layer({ filename, ...options }))
      yield* use({}, (store) => store.set("k", "v", minute))
      assert.strictEqual((yield* use({}, (store) => store.get("k")))?.value, "v")
      assert.isUndefined(yield* use({ prefix: "other" }, (store) => store.get("k")))
    }))

  it.live("idempotency and cache do not see each other's keys", () =>
    Effect.scoped(Effect.gen(function*() {
      const { cache, idempotency } = yield* Sqlite.make({ filename: file() })
      yield* cache.set("k", "answer", minute)
      assert.strictEqual((yield* idempotency.acquire("k", 1000))._tag, "Acquired")
      assert.strictEqual((yield* cache.get("k"))?.value, "answer")
    })))

  it.live("another process writes: the write is tried again without blocking, and one that never ends fails", () =>
    Effect.scoped(Effect.gen(function*() {
      const filename = file()
      const { idempotency } = yield* Sqlite.make({ filename })
      const other = new DatabaseSync(filename)
      // One time of several at least: a machine that is busy with other tests may stand still for as long.
      let least = Infinity
      for (let i = 0; i < 5 && least >= 90; i++) {
        other.exec("begin immediate")
        const begun = performance.now()
        const writing = yield* Effect.forkChild(idempotency.set("k", `v${i}`, minute), { startImmediately: true })
        yield* Effect.sleep(1)
        least = Math.min(least, performance.now() - begun)
        yield* Effect.sleep(50)
        other.exec("rollback")
        yield* Fiber.join(writing)
        assert.strictEqual((yield* idempotency.get("k"))?.value, `v${i}`)
      }
      assert.isBelow(least, 90)
      yield* idempotency.set("k", "v", minute)
      other.exec("begin immediate")
      const error = yield* Effect.flip(idempotency.set("k", "w", minute))
      assert.strictEqual(error._tag, "StoreError")
      assert.strictEqual((yield* idempotency.get("k"))?.value, "v")
      other.close()
    })))

  it.live("what has expired is swept, a hundred at a time", () =>
    Effect.scoped(Effect.gen(function*() {
      const { advance, now } = movable()
      const filename = file()
      const { idempotency } = yield* Sqlite.make({ filename }, now)
      for (let i = 0; i < 150; i++) yield* idempotency.set(`old ${i}`, "v", { ttl: 1000 })
      yield* advance(62_000)
      const count = () => new DatabaseSync(filename).prepare("select count(*) as n from llm_records").get()!.n
      for (let i = 0; i < 300; i++) yield* idempotency.set("new", "v", minute)
      yield* Effect.sleep(20)
      assert.strictEqual(count(), 1)
    })))

  it.live("a value that is too large is refused, and says so", () =>
    Effect.scoped(Effect.gen(function*() {
      const { idempotency } = yield* Sqlite.make({ filename: file(), maxValueBytes: 10 })
      yield* idempotency.set("k", "12345", minute)
      const error = yield* Effect.flip(idempotency.set("k", "123456", minute))
      assert.deepStrictEqual([error.operation, error.reason], ["set", "too-large"])
    })))

  it.live.each([
    { options: { filename: "" }, path: "sqlite.filename" },
    { options: { filename: join(folder, "no", "such", "folder.db") }, path: "sqlite.filename" },
    { options: { filename: ":memory:", prefix: "a b" }, path: "sqlite.prefix" },
    { options: { filename: ":memory:", maxValueBytes: 0 }, path: "sqlite.maxValueBytes" },
    { options: { filename: ":memory:", file: "x" } as Sqlite.Options, path: "sqlite.file" }
  ])("refuses $options", ({ options, path }) =>
    Effect.gen(function*() {
      const error = yield* Effect.flip(Effect.scoped(Sqlite.make(options)))
      assert.deepStrictEqual([error._tag, error.path], ["LlmConfigError", path])
    }))

  it.live("refuses a file that is no database, and one of a later version", () =>
    Effect.gen(function*() {
      const text = file()
      writeFileSync(text, "This is no database, but a text that is long enough to look like one. ".repeat(20))
      const later = file()
      yield* Effect.scoped(Sqlite.make({ filename: later }))
      const database = new DatabaseSync(later)
      database.exec("insert into llm_schema (version) values (99)")
      database.close()
      for (const filename of [text, later]) {
        const error = yield* Effect.flip(Effect.scoped(Sqlite.make({ filename })))
        assert.deepStrictEqual([error._tag, error.path], ["LlmConfigError", "sqlite.filename"])
      }
    }))
})
