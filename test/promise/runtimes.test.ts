// The same program on every runtime that is here: Node always, Bun and Deno after `npm run runtimes`.
import { afterAll, assert, beforeAll, describe, it } from "@effect/vitest"
import { Effect, Exit, Scope } from "effect"
import { FaultServer } from "effect-resilient-llm/testing"
import { execFile } from "node:child_process"
import { existsSync } from "node:fs"
import { fileURLToPath } from "node:url"
import { promisify } from "node:util"

const path = (file: string): string => fileURLToPath(new URL(file, import.meta.url))
const installed = (name: string): string => path(`../../.cache/runtimes/node_modules/.bin/${name}`)

const runtimes: ReadonlyArray<readonly [string, string, ReadonlyArray<string>]> = [
  ["node", process.execPath, ["--no-warnings"]],
  ["bun", installed("bun"), ["run"]],
  ["deno", installed("deno"), ["run", "-A", "--quiet"]]
]

describe("the chat backend", () => {
  const scope = Scope.makeUnsafe()
  let openai: FaultServer.FaultServer
  let anthropic: FaultServer.FaultServer
  beforeAll(async () => {
    openai = await Effect.runPromise(Scope.provide(FaultServer.make(), scope))
    anthropic = await Effect.runPromise(Scope.provide(FaultServer.make(), scope))
  })
  afterAll(() => Effect.runPromise(Scope.close(scope, Exit.void)))

  for (const [name, program, args] of runtimes) {
    for (const end of ["close", "leave"]) {
      it.skipIf(!existsSync(program))(
        `runs on ${name}, and its process ends (${end})`,
        { timeout: 60_000 },
        async () => {
          await Effect.runPromise(Effect.andThen(openai.reset, anthropic.reset))
          await Effect.runPromise(openai.play(
            FaultServer.status(503),
            FaultServer.status(503),
            FaultServer.truncate({ afterChunks: 0 }),
            FaultServer.ok({ chunks: ["More ", "of it."] }),
            FaultServer.hang()
          ))
          await Effect.runPromise(anthropic.play(FaultServer.ok({ text: "Artificial intelligence." })))
          const { stdout } = await promisify(execFile)(
            program,
            [...args, path("backend.ts"), openai.openai, anthropic.anthropic, end],
            { timeout: 30_000, cwd: path("../..") }
          )
          assert.deepStrictEqual(JSON.parse(stdout), {
            answer: "Artificial intelligence.",
            by: "anthropic",
            texts: ["More ", "of it."],
            aborted: "AbortError",
            failed: "InvalidRequest"
          })
          const { aborted, active } = await Effect.runPromise(openai.stats)
          assert.deepStrictEqual([active, aborted], [0, 1])
        }
      )
    }
  }
})
