// Real sockets on loopback: what only a real transport can show.
import { NodeHttpClient } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import { Anthropic, OpenAi } from "effect-resilient-llm/providers"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as FetchHttpClient from "effect/http/FetchHttpClient"
import type { HttpClient } from "effect/http/HttpClient"
import type * as Layer from "effect/Layer"
import * as Stream from "effect/Stream"
import { createServer, type IncomingMessage, type ServerResponse } from "node:http"
import { type AddressInfo, createServer as createTcpServer } from "node:net"
import { anthropic, openAi, plain } from "./samples.ts"
import { apiKey, ask, digest, run } from "./support.ts"

type Handler = (request: IncomingMessage, response: ServerResponse) => void

const served = (handler: Handler) =>
  Effect.acquireRelease(
    Effect.callback<{ readonly url: string; readonly sockets: () => number; readonly stop: () => void }>((resume) => {
      let sockets = 0
      const server = createServer((request, response) => {
        request.resume()
        request.on("end", () => handler(request, response))
      })
      server.on("connection", () => sockets++)
      server.listen(0, "127.0.0.1", () =>
        resume(Effect.succeed({
          url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
          sockets: () => sockets,
          stop: () => {
            server.closeAllConnections()
            server.close()
          }
        })))
    }),
    ({ stop }) => Effect.sync(stop)
  )

/** Waits for a fact, for a second at most. */
const eventually = (fact: () => boolean) =>
  Effect.gen(function*() {
    for (let i = 0; i < 200 && !fact(); i++) yield* Effect.sleep("5 millis")
    assert.isTrue(fact())
  })

const clients: ReadonlyArray<readonly [string, Layer.Layer<HttpClient>]> = [
  ["undici", NodeHttpClient.layerUndici],
  ["fetch", FetchHttpClient.layer]
]

const sse = { "content-type": "text/event-stream" }

for (const [name, client] of clients) {
  describe(`over ${name}`, () => {
    it.live("closes the socket when interrupted before headers, before a body and inside it", () =>
      Effect.gen(function*() {
        let reached = 0
        let closed = 0
        const server = yield* served((request, response) => {
          response.on("close", () => closed++)
          if (request.url?.startsWith("/body") === true || request.url?.startsWith("/headers") === true) {
            response.writeHead(200, sse)
            response.flushHeaders()
            if (request.url.startsWith("/body")) {
              response.write("data: {\"choices\":[{\"delta\":{\"content\":\"H\"}}]}\n\n")
            }
          }
          reached++
        })
        for (const path of ["/nothing", "/headers", "/body"]) {
          for (const streaming of [false, true]) {
            const before = reached
            const provider = yield* OpenAi.make({ apiKey, baseUrl: server.url + path })
            const fiber = yield* Effect.forkChild(run(provider, streaming))
            yield* eventually(() => reached > before)
            yield* Effect.sleep("10 millis")
            assert.strictEqual(closed, before)
            yield* Fiber.interrupt(fiber)
            yield* eventually(() => closed > before)
          }
        }
      }).pipe(Effect.provide(client)))

    it.live("decodes bodies that arrive in pieces, and uses the connection again", () =>
      Effect.gen(function*() {
        const text = "Grüezi 😀 — 你好"
        const server = yield* served((request, response) => {
          const make = request.url === "/v1/messages" ? anthropic : openAi
          const bytes = Buffer.from(plain(make, text))
          response.writeHead(200, sse)
          let at = 0
          const timer = setInterval(() => {
            if (at < bytes.length) {
              const size = Math.ceil(bytes.length / 7)
              response.write(bytes.subarray(at, at + size))
              at += size
              return
            }
            // The end of the body comes well after the terminal event.
            clearInterval(timer)
            response.end()
          }, 3)
        })
        for (let i = 0; i < 3; i++) {
          for (
            const provider of [
              yield* OpenAi.make({ apiKey, baseUrl: server.url }),
              yield* Anthropic.make({ apiKey, baseUrl: server.url })
            ]
          ) {
            // Consumers may stop at the finish part instead of asking for the end.
            const parts = yield* Stream.runCollect(
              Stream.takeUntil(provider.stream(ask), ({ type }) => type === "finish")
            )
            assert.strictEqual(digest({ parts, error: undefined }).text, text)
          }
        }
        // A pool may open a second one when the next request comes at the very end of a body; six would be no reuse.
        assert.isAtMost(server.sockets(), 2)
      }).pipe(Effect.provide(client)))

    it.live("tells a cut body from a finished one", () =>
      Effect.gen(function*() {
        const server = yield* served((_, response) => {
          response.writeHead(200, sse)
          response.write("data: {\"choices\":[{\"delta\":{\"content\":\"H\"}}]}\n\n", () =>
            setTimeout(() => response.destroy(), 10))
        })
        const outcome = yield* run(yield* OpenAi.make({ apiKey, baseUrl: server.url }), true)
        assert.strictEqual(digest(outcome).text, "H")
        assert.deepStrictEqual(outcome.error?.reason, { _tag: "Network", sent: true, kind: "reset" })
      }).pipe(Effect.provide(client)))

    it.live("knows that a refused request was never sent, and that a reset one was", () =>
      Effect.gen(function*() {
        const tcp = createTcpServer((socket) => socket.once("data", () => socket.resetAndDestroy()))
        yield* Effect.callback<void>((resume) => void tcp.listen(0, "127.0.0.1", () => resume(Effect.void)))
        const baseUrl = `http://127.0.0.1:${(tcp.address() as AddressInfo).port}`
        const provider = yield* OpenAi.make({ apiKey, baseUrl })
        const reset = yield* run(provider, false)
        assert.deepStrictEqual(reset.error?.reason, { _tag: "Network", sent: true, kind: "reset" })
        yield* Effect.callback<void>((resume) => void tcp.close(() => resume(Effect.void)))
        const refused = yield* run(provider, false)
        assert.deepStrictEqual(refused.error?.reason, { _tag: "Network", sent: false, kind: "connect" })
      }).pipe(Effect.provide(client)))

    it.live("a consumer that stops early closes the socket", () =>
      Effect.gen(function*() {
        let closed = 0
        const server = yield* served((_, response) => {
          response.on("close", () => closed++)
          response.writeHead(200, sse)
          response.write("data: {\"choices\":[{\"delta\":{\"content\":\"H\"}}]}\n\n")
        })
        const provider = yield* OpenAi.make({ apiKey, baseUrl: server.url })
        yield* Stream.runDrain(Stream.take(provider.stream(ask), 3))
        yield* eventually(() => closed === 1)
      }).pipe(Effect.provide(client)))
  })
}
