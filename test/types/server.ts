// TypeScript's own language server, with one open file that is not on the disk.
import { spawn } from "node:child_process"
import { fileURLToPath, pathToFileURL } from "node:url"

const root = fileURLToPath(new URL("../..", import.meta.url))
const file = pathToFileURL(`${root}test/types/written-in-an-editor.ts`).href

/** A language server with one open file. `ask` sends a request and waits for its answer. */
export const open = async (text: string) => {
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
  return { ask, file, close: () => server.kill() }
}
