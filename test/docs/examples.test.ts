// The programs in docs/examples run, each in a process of its own, print what they promise, and end.
import { afterAll, assert, beforeAll, describe, it } from "@effect/vitest"
import { Effect, Exit, Scope } from "effect"
import { FaultServer } from "effect-resilient-llm/testing"
import { execFile } from "node:child_process"
import { once } from "node:events"
import { readdirSync } from "node:fs"
import { createServer } from "node:net"
import { fileURLToPath } from "node:url"
import { promisify } from "node:util"

const folder = new URL("../../docs/examples/", import.meta.url)

const expected: Readonly<Record<string, ReadonlyArray<string | RegExp>>> = {
  "abort.ts": ["A simulated answer.", "aborted: the socket is closed, every permit is back"],
  "ai-sdk.ts": ["A simulated answer.", "from openai"],
  "batch.ts": [/^\{ asked: 50, replayed: 0, failed: 0, tokens: \d+ \}$/],
  "configuration.ts": [
    "vendor-eu A scripted answer.",
    "Vendor A scripted answer.",
    /Invalid configuration: "LLM\.retry\.retries" must be one of/
  ],
  "effect-ai.ts": [
    "21 degrees in Berlin.",
    "{\"city\":\"Berlin\",\"celsius\":21}",
    "It is warm.",
    "Answered by, after attempts: primary (2), secondary (3), primary (1), primary (1)"
  ],
  "errors.ts": ["Busy; come back in 2m.", "Vendor does not accept the API key (HTTP 401). (5 facts)"],
  "fleet.ts": ["9 of 30 calls by three processes went through: the vendor allows nine a minute"],
  "own-provider.ts": ["An answer from the model in our own basement."],
  "patterns.ts": ["answer of call 3"],
  "promise.ts": [
    "openai: A simulated answer.",
    /^\(\d+ tokens\)$/,
    "InvalidRequest: Invalid request: \"temperature\" must be a number from 0 to 2, but is a whole number."
  ],
  "quickstart.ts": ["A simulated answer.", /^\(openai, \d+ facts in the ledger\)$/],
  "redis-cluster.ts": [/^Name some of its nodes: /],
  "streaming.ts": [
    /^\(Secondary: CallStarted, /,
    "The stream from Primary broke (truncated) after 2 content parts."
  ],
  "testing.ts": [/^ {6}0 CallStarted$/, /AttemptFailed/, /FailedOver/, "Here I am."]
}

const preload = new URL("../preload.ts", import.meta.url).href

const freePort = async (): Promise<number> => {
  const server = createServer().listen(0, "127.0.0.1")
  await once(server, "listening")
  const address = server.address()
  server.close()
  await once(server, "close")
  return typeof address === "object" && address !== null ? address.port : 0
}

describe.concurrent("docs/examples", () => {
  const scope = Scope.makeUnsafe()
  let env: NodeJS.ProcessEnv = {}
  beforeAll(async () => {
    const server = await Effect.runPromise(
      Scope.provide(FaultServer.make({ reply: () => "A simulated answer." }), scope)
    )
    env = {
      ...process.env,
      LLM_STATE: "sqlite::memory:",
      OPENAI_API_KEY: "key",
      OPENAI_BASE_URL: server.openai,
      ANTHROPIC_API_KEY: "key",
      ANTHROPIC_BASE_URL: server.anthropic
    }
  })
  afterAll(() => Effect.runPromise(Scope.close(scope, Exit.void)))

  it("are all expected here", () => {
    const files = readdirSync(folder).filter((file) => file.endsWith(".ts") && file !== "backend.ts")
    assert.deepStrictEqual(files, Object.keys(expected))
  })

  it("backend.ts streams an answer, refuses what it cannot read, and ends", async () => {
    const program = fileURLToPath(new URL("backend.ts", folder))
    const child = execFile(process.execPath, ["--import", preload, program], {
      env: { ...env, PORT: String(await freePort()) }
    })
    const ended = new Promise((resolve) => child.once("exit", (code) => resolve(code)))
    const [line] = await once(child.stdout!, "data") as [string]
    const chat = (body: string) => fetch(line.trim(), { method: "POST", body })
    const answer = await chat(`[{ "role": "user", "content": "What is AI?" }]`)
    assert.strictEqual(await answer.text(), "A simulated answer.")
    for (const wrong of ["[]", "not JSON", `[{ "role": "king", "content": "Hi" }]`]) {
      assert.strictEqual((await chat(wrong)).status, 400, wrong)
    }
    child.kill("SIGTERM")
    assert.strictEqual(await ended, 0)
  }, 30_000)

  it.each(Object.entries(expected))("%s", async (file, lines) => {
    const program = fileURLToPath(new URL(file, folder))
    const { stdout } = await promisify(execFile)(process.execPath, ["--import", preload, program], { env })
    const printed = stdout.split("\n")
    for (const line of lines) {
      assert.isTrue(
        printed.some((text) => typeof line === "string" ? text === line : line.test(text)),
        `${file} did not print ${String(line)}, but:\n${stdout}`
      )
    }
  }, 30_000)

  const quickStart = async (variables: NodeJS.ProcessEnv) => {
    const program = fileURLToPath(new URL("quickstart.ts", folder))
    const { OPENAI_API_KEY: _, ANTHROPIC_API_KEY: __, ...others } = env
    const end = await promisify(execFile)(process.execPath, ["--import", preload, program], {
      env: { ...others, ...variables }
    }).catch((error: { readonly stdout: string; readonly stderr: string }) => error)
    return `${end.stdout}${end.stderr}`.trim().split("\n")
  }

  it("the quick start says in a few lines what is wrong: no network, no keys, one key", async () => {
    const [away, without, one] = await Promise.all([
      quickStart({
        OPENAI_API_KEY: "key",
        OPENAI_BASE_URL: "https://api.openai.invalid/v1",
        ANTHROPIC_API_KEY: "key",
        ANTHROPIC_BASE_URL: "http://127.0.0.1:9"
      }),
      quickStart({}),
      quickStart({ OPENAI_API_KEY: "key" })
    ])
    assert.lengthOf(away, 1)
    assert.match(away[0]!, /openai could not be reached \((ENOTFOUND|EAI_AGAIN) api\.openai\.invalid\)/)
    assert.include(away[0], "anthropic could not be reached (ECONNREFUSED 127.0.0.1:9)")
    assert.lengthOf(without, 1)
    assert.include(without[0], "\"OPENAI_API_KEY or ANTHROPIC_API_KEY\" must be set, but is missing.")
    assert.lengthOf(one, 3)
    assert.include(one[0], "anthropic is left out: ANTHROPIC_API_KEY is not set.")
    assert.strictEqual(one[1], "A simulated answer.")
  })
})
