// What an editor shows while somebody writes options: asked of TypeScript's own language server.
import { assert, describe, it } from "@effect/vitest"
import { spawn } from "node:child_process"
import { fileURLToPath, pathToFileURL } from "node:url"

const root = fileURLToPath(new URL("../..", import.meta.url))
const file = pathToFileURL(`${root}test/types/written-in-an-editor.ts`).href

interface Item {
  readonly label: string
  readonly documentation?: { readonly value: string } | string
}

/** A language server with one open file. `ask` sends a request and waits for its answer. */
const open = async (text: string) => {
  const server = spawn(process.execPath, [`${root}node_modules/typescript/bin/tsc`, "--lsp", "--stdio"], {
    cwd: root,
    stdio: ["pipe", "pipe", "ignore"]
  })
  const waiting = new Map<number, (result: unknown) => void>()
  let received = Buffer.alloc(0)
  const write = (message: object): void => {
    const body = JSON.stringify({ jsonrpc: "2.0", ...message })
    server.stdin.write(`Content-Length: ${Buffer.byteLength(body)}\r\n\r\n${body}`)
  }
  server.stdout.on("data", (chunk: Buffer) => {
    received = Buffer.concat([received, chunk])
    for (;;) {
      const end = received.indexOf("\r\n\r\n")
      const length = Number(/content-length: (\d+)/i.exec(received.subarray(0, Math.max(0, end)).toString())?.[1])
      if (end < 0 || received.length < end + 4 + length) return
      const message = JSON.parse(received.subarray(end + 4, end + 4 + length).toString())
      received = received.subarray(end + 4 + length)
      if (message.method !== undefined && message.id !== undefined) write({ id: message.id, result: null })
      else waiting.get(message.id)?.(message.result)
    }
  })
  let id = 0
  const ask = <A>(method: string, params: object): Promise<A> =>
    new Promise((resolve) => {
      id += 1
      waiting.set(id, (result) => resolve(result as A))
      write({ id, method, params })
    })
  const capabilities = {
    textDocument: { completion: { completionItem: { documentationFormat: ["markdown"], snippetSupport: false } } }
  }
  await ask("initialize", { processId: process.pid, rootUri: pathToFileURL(root).href, capabilities })
  write({ method: "initialized", params: {} })
  write({
    method: "textDocument/didOpen",
    params: { textDocument: { uri: file, languageId: "typescript", version: 1, text } }
  })
  return { ask, close: () => server.kill() }
}

const before = `import { LlmClient } from "../../src/index.ts"
import { ScriptedProvider } from "../../src/testing/index.ts"
class A extends ScriptedProvider.Service<A>()("app/A") {}
`

/** Completions at the `|` of each text. */
const complete = async (texts: ReadonlyArray<string>) => {
  const marked = before + texts.join("\n")
  const server = await open(marked.replaceAll("|", ""))
  try {
    const found: Array<ReadonlyArray<Item>> = []
    for (const [i, text] of texts.entries()) {
      const position = { line: before.split("\n").length - 1 + i, character: text.indexOf("|") }
      const list = await server.ask<{ readonly items: ReadonlyArray<Item> } | null>("textDocument/completion", {
        textDocument: { uri: file },
        position
      })
      // `valueOf` is what `false` has.
      const items = list?.items.filter(({ label }) => label !== "valueOf") ?? []
      found.push(await Promise.all(items.slice(0, 30).map((item) => server.ask<Item>("completionItem/resolve", item))))
    }
    return found
  } finally {
    server.close()
  }
}

const patterns = [
  "bulkhead",
  "cache",
  "circuitBreaker",
  "failover",
  "guards",
  "hedge",
  "idempotency",
  "loadShedding",
  "rateLimit",
  "retry",
  "retryBudget",
  "routing",
  "timeout"
]
const retry = ["baseDelay", "factor", "jitter", "maxDelay", "maxRetries", "maxRetryAfter", "schedule", "when"]

describe("an editor", () => {
  it("completes the names of patterns and of their options, with their documentation", async () => {
    const found = await complete([
      "LlmClient.layer([A], { | })",
      "LlmClient.make([A], { | })",
      "LlmClient.layerDynamic([null!], { | })",
      "class B extends LlmClient.Class<B>()(\"app/B\", [A], { | }) {}",
      "LlmClient.make([A], { retry: { | } })",
      "LlmClient.make([A], { retry: false, timeout: { attempt: 3, | } })"
    ])
    const labels = found.map((items) => items.map(({ label }) => label.replace("?", "")).toSorted())
    for (const names of labels.slice(0, 4)) assert.deepStrictEqual(names, patterns)
    assert.deepStrictEqual(labels[4], retry)
    assert.deepStrictEqual(labels[5], ["deadline", "firstToken", "idle"])
    for (const item of found.flat()) {
      const { documentation = "" } = item
      const text = typeof documentation === "string" ? documentation : documentation.value
      assert.isAbove(text.length, 20, `${item.label} is documented`)
    }
  }, 60_000)
})
