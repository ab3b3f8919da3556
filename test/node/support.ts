// Servers of a test's own making, and the three clients that have to behave alike over them.
import { NodeHttpClient } from "@effect/platform-node"
import { assert } from "@effect/vitest"
import { DispatcherHttpClient } from "effect-resilient-llm/node"
import * as Effect from "effect/Effect"
import * as FetchHttpClient from "effect/http/FetchHttpClient"
import type { HttpClient } from "effect/http/HttpClient"
import type { HttpClientError } from "effect/http/HttpClientError"
import * as Layer from "effect/Layer"
import type * as Scope from "effect/Scope"
import { createServer, type RequestListener } from "node:http"
import { type AddressInfo, createServer as createTcpServer, type Server as TcpServer, type Socket } from "node:net"

const noRedirects = Layer.succeed(FetchHttpClient.RequestInit, { redirect: "manual" })

export const clients: ReadonlyArray<readonly [name: string, Layer.Layer<HttpClient>]> = [
  ["the dispatcher", DispatcherHttpClient.layerAgent()],
  ["Effect's undici", NodeHttpClient.layerUndici],
  ["fetch", Layer.provide(FetchHttpClient.layer, noRedirects)]
]

export interface Served {
  readonly url: string
  /** Connections that were made, and that are open now. */
  readonly connections: () => number
  readonly open: () => number
}

export const listening = (make: () => TcpServer): Effect.Effect<Served, never, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.callback<{ readonly served: Served; readonly stop: () => void }>((resume) => {
      const server = make()
      const sockets = new Set<Socket>()
      let made = 0
      server.on("connection", (socket: Socket) => {
        made += 1
        sockets.add(socket)
        socket.on("close", () => sockets.delete(socket)).on("error", () => {})
      })
      server.listen(0, "127.0.0.1", () =>
        resume(Effect.succeed({
          served: {
            url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
            connections: () => made,
            open: () => sockets.size
          },
          stop: () => {
            for (const socket of sockets) socket.destroy()
            server.close()
          }
        })))
    }),
    ({ stop }) => Effect.sync(stop)
  ).pipe(Effect.map(({ served }) => served))

/** An HTTP server. */
export const serve = (listener: RequestListener): Effect.Effect<Served, never, Scope.Scope> =>
  listening(() => createServer(listener))

/** A server that says what it likes once it has read the head of a request. */
export const serveBytes = (answer: (socket: Socket, head: string) => void): Effect.Effect<Served, never, Scope.Scope> =>
  listening(() =>
    createTcpServer((socket) => {
      let head = ""
      socket.on("data", (data) => {
        if (head.includes("\r\n\r\n")) return
        head += data.toString("latin1")
        if (head.includes("\r\n\r\n")) answer(socket, head)
      })
    })
  )

/** Waits for a fact, for five seconds at most. */
export const eventually = (fact: () => boolean, what = "it never came true") =>
  Effect.gen(function*() {
    for (let i = 0; i < 1000 && !fact(); i++) yield* Effect.sleep("5 millis")
    assert.isTrue(fact(), what)
  })

/** The codes on the way down through the causes. */
export const codesOf = (error: unknown): ReadonlyArray<string> => {
  if (typeof error !== "object" || error === null) return []
  const { cause, code } = error as { readonly cause?: unknown; readonly code?: unknown }
  return [...typeof code === "string" ? [code] : [], ...codesOf(cause)]
}

export const tagOf = (error: HttpClientError): string => error.reason._tag
