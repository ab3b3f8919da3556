// Every recorded exchange over real HTTP: a server on loopback sends its bytes in random pieces, Node's undici client
// receives them. The recordings live outside the project; without them this file skips.
import { NodeHttpClient } from "@effect/platform-node"
import { assert, describe, layer } from "@effect/vitest"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as HttpClient from "effect/http/HttpClient"
import * as Layer from "effect/Layer"
import * as Stream from "effect/Stream"
import { createServer, type ServerResponse } from "node:http"
import type { AddressInfo } from "node:net"
import { hash, run, seeded } from "../providers/support.ts"
import { adapter, compare, present, read, rows } from "./expected.ts"

interface Exchange {
  readonly status: number
  readonly headers: Readonly<Record<string, string>>
  readonly pieces: ReadonlyArray<Uint8Array>
}

/** What the paths below `/<name>/` answer, whatever is asked. */
class Replay extends Context.Service<Replay, {
  readonly url: string
  readonly exchanges: Map<string, Exchange>
}>()("test/Replay") {
  static readonly layer = Layer.effect(
    Replay,
    Effect.acquireRelease(
      Effect.callback<Replay["Service"] & { readonly stop: () => void }>((resume) => {
        const exchanges = new Map<string, Exchange>()
        const server = createServer((request, response) => {
          const exchange = exchanges.get(request.url?.split("/")[1] ?? "")
          request.resume().on("end", () => exchange === undefined ? response.destroy() : void send(exchange, response))
        })
        const stop = () => {
          server.closeAllConnections()
          server.close()
        }
        server.listen(0, "127.0.0.1", () => {
          const { port } = server.address() as AddressInfo
          resume(Effect.succeed({ url: `http://127.0.0.1:${port}`, exchanges, stop }))
        })
      }),
      ({ stop }) => Effect.sync(stop)
    )
  )
}

const send = async ({ headers, pieces, status }: Exchange, response: ServerResponse): Promise<void> => {
  response.sendDate = false // delays count from the recorded date
  response.writeHead(status, headers)
  response.flushHeaders()
  for (const piece of pieces) {
    if (response.destroyed) return
    // Each piece leaves in a turn of its own; written in one, the kernel would glue them together.
    await new Promise((resolve) => response.write(piece, () => setImmediate(resolve)))
  }
  response.end()
}

/** Cuts at random places, half of them inside a character or between CR and LF where there are such. */
const cut = (bytes: Uint8Array, random: () => number): ReadonlyArray<Uint8Array> => {
  const hard: Array<number> = []
  for (const [at, byte] of bytes.entries()) {
    if ((byte & 0xc0) === 0x80 || (byte === 0x0a && bytes[at - 1] === 0x0d)) hard.push(at)
  }
  const points = new Set([bytes.length])
  for (let i = 0; i < 30; i++) {
    points.add(Math.floor(random() * bytes.length))
    points.add(hard[Math.floor(random() * hard.length)] ?? bytes.length)
  }
  let from = 0
  return [...points].toSorted((a, b) => a - b).map((to) => bytes.subarray(from, from = to)).filter((p) => p.length > 0)
}

const covered = rows.filter(([, row]) => adapter(row, "http://llm.test") !== undefined)
const missing = rows.filter(([, row]) => adapter(row, "http://llm.test") === undefined)
const endpoints = [...new Set(missing.map(([, row]): string => row.endpoint))]
  .map((endpoint) => `${missing.filter(([, row]) => row.endpoint === endpoint).length} ${endpoint}`)

const title = present
  ? `recorded exchanges over HTTP (not covered: ${missing.length === 0 ? "none" : endpoints.join(", ")})`
  : "recorded exchanges over HTTP (skipped: no fixtures here, see LLM_FIXTURES)"

const rounds = 3

describe.skipIf(!present)(title, () => {
  layer(Layer.merge(Replay.layer, NodeHttpClient.layerUndici), { excludeTestServices: true })((it) => {
    it.effect("pieces arrive as they were cut", () =>
      Effect.gen(function*() {
        const { exchanges, url } = yield* Replay
        const bytes = new TextEncoder().encode("data: Grüezi 😀\r\n\r\n")
        exchanges.set("bytewise", {
          status: 200,
          headers: {},
          pieces: Array.from(bytes, (byte) => Uint8Array.of(byte))
        })
        const response = yield* HttpClient.get(`${url}/bytewise`)
        const sizes = yield* Stream.runCollect(Stream.map(response.stream, (piece) => piece.byteLength))
        assert.strictEqual(sizes.reduce((sum, size) => sum + size, 0), bytes.length)
        assert.isAbove(sizes.length, bytes.length / 2) // two may still meet in a buffer of the client
      }))

    it.effect("covers the endpoints of our adapters", () => Effect.sync(() => assert.isAbove(covered.length, 200)))

    for (const [file, row] of covered) {
      it.effect(file, () =>
        Effect.gen(function*() {
          const { exchanges, url } = yield* Replay
          const { response } = read(file)
          const random = seeded(hash(file))
          const bytes = new TextEncoder().encode(response.body)
          const name = encodeURIComponent(file)
          for (let round = 1; round <= rounds; round++) {
            const pieces = cut(bytes, random)
            exchanges.set(name, { status: response.status, headers: response.headers, pieces })
            const provider = yield* adapter(row, `${url}/${name}`)!
            for (const [field, expected, got] of compare(row, yield* run(provider, row.streaming))) {
              const told = `expected ${JSON.stringify(expected)}\n  got      ${JSON.stringify(got)}`
              assert.deepStrictEqual(got, expected, `${file}\n  ${field}, round ${round}\n  ${told}`)
            }
          }
          exchanges.delete(name)
        }))
    }
  })
})
