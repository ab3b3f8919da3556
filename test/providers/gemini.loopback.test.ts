// Gemini over real sockets on loopback.
import { NodeHttpClient } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import { Gemini } from "effect-resilient-llm/providers"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as FetchHttpClient from "effect/http/FetchHttpClient"
import { createServer } from "node:http"
import type { AddressInfo } from "node:net"
import { apiKey, digest, run } from "./support.ts"

const served = Effect.fnUntraced(function*(handler: Parameters<typeof createServer>[1]) {
  const server = createServer(handler)
  yield* Effect.addFinalizer(() =>
    Effect.sync(() => {
      server.closeAllConnections()
      server.close()
    })
  )
  yield* Effect.callback<void>((resume) => void server.listen(0, "127.0.0.1", () => resume(Effect.void)))
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`
})

/** Waits for a fact, for a second at most. */
const eventually = (fact: () => boolean) =>
  Effect.gen(function*() {
    for (let i = 0; i < 200 && !fact(); i++) yield* Effect.sleep("5 millis")
    assert.isTrue(fact())
  })

const chunk = (text: string, finishReason?: string) =>
  `data: ${JSON.stringify({ candidates: [{ content: { parts: [{ text }] }, finishReason }] })}\r\n\r\n`

for (const [name, client] of [["undici", NodeHttpClient.layerUndici], ["fetch", FetchHttpClient.layer]] as const) {
  describe(`Gemini over ${name}`, () => {
    it.live("closes the socket when interrupted before headers, before a body and inside it", () =>
      Effect.gen(function*() {
        let reached = 0
        let closed = 0
        const url = yield* served((request, response) => {
          request.resume()
          response.on("close", () => closed++)
          if (request.url?.startsWith("/nothing") !== true) {
            response.writeHead(200, { "content-type": "text/event-stream" })
            response.flushHeaders()
            if (request.url?.startsWith("/body") === true) response.write(chunk("H"))
          }
          reached++
        })
        for (const path of ["/nothing", "/headers", "/body"]) {
          for (const streaming of [false, true]) {
            const before = reached
            const provider = yield* Gemini.make({ apiKey, baseUrl: url + path })
            const fiber = yield* Effect.forkChild(run(provider, streaming))
            yield* eventually(() => reached > before)
            yield* Effect.sleep("10 millis")
            assert.strictEqual(closed, before)
            yield* Fiber.interrupt(fiber)
            yield* eventually(() => closed > before)
          }
        }
      }).pipe(Effect.provide(client)))

    it.live("decodes a stream that arrives in pieces", () =>
      Effect.gen(function*() {
        const url = yield* served((request, response) => {
          request.resume()
          response.writeHead(200, { "content-type": "text/event-stream" })
          const bytes = Buffer.from(chunk("Grüezi ") + chunk("😀", "STOP"))
          let at = 0
          const timer = setInterval(() => {
            response.write(bytes.subarray(at, at += 17))
            if (at < bytes.length) return
            clearInterval(timer)
            response.end()
          }, 2)
        })
        const outcome = yield* run(yield* Gemini.make({ apiKey, baseUrl: url }), true)
        assert.strictEqual(outcome.error, undefined)
        assert.strictEqual(digest(outcome).text, "Grüezi 😀")
      }).pipe(Effect.provide(client)))
  })
}
