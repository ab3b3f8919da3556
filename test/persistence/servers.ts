// The servers that tests need: those that run on their usual ports, and ones of a test's own from Debian's packages, which
// it may stop and kill. Where there is none, its tests are skipped with a notice.
import { NodeRedis } from "@effect/platform-node"
import { PgClient } from "@effect/sql-pg"
import { Context, Effect, Layer, Redacted, Scope } from "effect"
import * as Client from "effect/persistence/Redis"
import { SqlClient } from "effect/sql/SqlClient"
import { type ChildProcess, spawn, spawnSync } from "node:child_process"
import { existsSync, globSync, mkdtempSync, rmSync } from "node:fs"
import { createServer } from "node:net"
import { tmpdir } from "node:os"
import { join } from "node:path"
// Programs that run outside of the test runner use this file too, so no alias.
import * as Redis from "../../src/persistence/Redis.ts"

/** Keys and tables of this run, and of nobody else. */
export const unique = (): string => `t${process.pid}-${Math.random().toString(36).slice(2, 10)}`

export const missing = (what: string): void => {
  process.stderr.write(`\n${what} is not there: its tests are skipped\n`)
}

const within = <A>(millis: number, promise: Promise<A>): Promise<A | undefined> =>
  Promise.race([
    promise,
    new Promise<undefined>((resolve) => {
      setTimeout(() => resolve(undefined), millis)
    })
  ]).catch(() => undefined)

const keep = <S, I, E>(tag: Context.Key<I, S>, layer: Layer.Layer<I, E>): Effect.Effect<S, E> =>
  Effect.map(
    Effect.flatMap(Scope.make(), (scope) => Layer.buildWithScope(layer, scope)),
    (context) => Context.get(context, tag)
  )

/** A connection to the Redis on its usual port, for this whole file. */
export const usualRedis = async (
  url = "redis://127.0.0.1:6379"
): Promise<Layer.Layer<Client.Redis> | undefined> => {
  const layer = NodeRedis.layer({ url, socket: { connectTimeout: 1000, reconnectStrategy: false } })
  const service = await within(
    3000,
    Effect.runPromise(Effect.tap(keep(Client.Redis, layer), (redis) => redis.send("PING")))
  )
  if (service === undefined) missing(`Redis on ${url}`)
  return service && Layer.succeed(Client.Redis, service)
}

/** Likewise PostgreSQL. */
export const usualPostgres = async (): Promise<Layer.Layer<SqlClient> | undefined> => {
  const candidates = [
    process.env.PGUSER === undefined ? undefined : {},
    { host: "/var/run/postgresql", username: "postgres", database: "postgres" },
    { host: "127.0.0.1", username: "postgres", password: Redacted.make("postgres"), database: "postgres" }
  ]
  for (const config of candidates) {
    if (config === undefined) continue
    const service = await within(
      5000,
      Effect.runPromise(
        Effect.tap(keep(SqlClient, PgClient.layer({ ...config, maxConnections: 20 })), (sql) => sql.unsafe("select 1"))
      )
    )
    if (service !== undefined) return Layer.succeed(SqlClient, service)
  }
  missing("PostgreSQL on its usual port")
  return undefined
}

export const freePort = (): Promise<number> =>
  new Promise((resolve, reject) => {
    const server = createServer()
    server.on("error", reject)
    server.listen(0, "127.0.0.1", () => {
      const address = server.address()
      server.close(() => resolve(typeof address === "object" && address !== null ? address.port : 0))
    })
  })

const has = (program: string): boolean => spawnSync(program, ["--version"], { stdio: "ignore" }).status === 0

export const hasRedisServer = has("redis-server")

/** A client as the documents recommend it. */
export const clientOf = (url: string): Layer.Layer<Client.Redis> =>
  Redis.background(NodeRedis.layer(Redis.nodeOptions(url)))

/** A Redis of the test's own. */
export class RedisServer {
  readonly port: number
  readonly folder: string
  readonly args: ReadonlyArray<string>
  private child: ChildProcess | undefined

  private constructor(port: number, args: ReadonlyArray<string>) {
    this.port = port
    this.args = args
    this.folder = mkdtempSync(join(tmpdir(), "llm-redis-"))
  }

  static async start(port?: number, args: ReadonlyArray<string> = []): Promise<RedisServer> {
    const server = new RedisServer(port ?? await freePort(), args)
    await server.up()
    return server
  }

  get url(): string {
    return `redis://127.0.0.1:${this.port}`
  }

  async up(): Promise<void> {
    const child = this.child = spawn(
      "redis-server",
      ["--port", `${this.port}`, "--bind", "127.0.0.1", "--save", "", "--dir", this.folder, ...this.args],
      { stdio: ["ignore", "pipe", "inherit"] }
    )
    await new Promise<void>((resolve, reject) => {
      child.stdout.on("data", (chunk) => {
        if (String(chunk).includes("Ready to accept connections")) resolve()
      })
      child.on("exit", (code) => reject(new Error(`redis-server ended with ${code}`)))
    })
  }

  signal(signal: NodeJS.Signals): void {
    this.child?.kill(signal)
  }

  /** Gone without a word, and its data with it. */
  async kill(): Promise<void> {
    const { child } = this
    if (child === undefined || child.exitCode !== null || child.signalCode !== null) return
    const gone = new Promise((resolve) => child.once("exit", resolve))
    child.kill("SIGKILL")
    await gone
  }

  async stop(): Promise<void> {
    await this.kill()
    rmSync(this.folder, { recursive: true, force: true })
  }

  get client(): Layer.Layer<Client.Redis> {
    return clientOf(this.url)
  }
}

const bin = globSync("/usr/lib/postgresql/*/bin").find((path) => existsSync(join(path, "initdb")))
/** The server refuses to run as root. */
export const hasPostgresServer = bin !== undefined && process.getuid?.() !== 0
