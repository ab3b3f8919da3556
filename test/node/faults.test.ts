// What networks and servers do wrong, on three clients: each ends the same way, and no connection is left behind.
import { assert, describe, it } from "@effect/vitest"
import { OpenAi } from "effect-resilient-llm/providers"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as HttpBody from "effect/http/HttpBody"
import * as HttpClient from "effect/http/HttpClient"
import type { HttpClientError } from "effect/http/HttpClientError"
import * as HttpClientRequest from "effect/http/HttpClientRequest"
import * as Stream from "effect/Stream"
import type { Socket } from "node:net"
import { apiKey, ask } from "../providers/support.ts"
import { clients, codesOf, eventually, serve, serveBytes, tagOf } from "./support.ts"

const text = (url: string, request = HttpClientRequest.post(url)) =>
  Effect.flatMap(HttpClient.execute(request), (response) => response.text)
const pieces = (url: string) =>
  HttpClient.get(url).pipe(
    Effect.flatMap((response) => Stream.mkString(Stream.decodeText(response.stream)))
  )

const ended = (effect: Effect.Effect<unknown, HttpClientError, HttpClient.HttpClient>) =>
  Effect.match(effect, { onSuccess: (value) => String(value), onFailure: tagOf })

const head = "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n"
const chunked = `${head}transfer-encoding: chunked\r\n\r\n`

/** What a server may say, and how a call for it ends; `body` instead, when it is read in pieces. */
const faults: Readonly<Record<string, readonly [(socket: Socket) => void, string]>> = {
  "closes before the head": [(socket) => socket.end(), "TransportError"],
  "resets before the head": [(socket) => socket.resetAndDestroy(), "TransportError"],
  "closes inside the head": [(socket) => socket.end(head), "TransportError"],
  "says what is not HTTP": [(socket) => socket.end("SSH-2.0-OpenSSH_9.6\r\n\r\n"), "TransportError"],
  "sends a head without end": [(socket) => {
    socket.write(head)
    for (let i = 0; i < 300; i++) socket.write(`x-${i}: ${"x".repeat(1000)}\r\n`)
  }, "TransportError"],
  "closes before the announced length": [
    (socket) => socket.end(`${head}content-length: 100\r\n\r\n1234`),
    "DecodeError"
  ],
  "resets inside the body": [(socket) => {
    socket.write(`${head}content-length: 100\r\n\r\n1234`)
    setTimeout(() => socket.resetAndDestroy(), 20)
  }, "DecodeError"],
  "closes inside a chunk": [(socket) => socket.end(`${chunked}8\r\n1234`), "DecodeError"],
  "closes before the last chunk": [(socket) => socket.end(`${chunked}4\r\n1234\r\n`), "DecodeError"],
  "says what is no chunk": [(socket) => socket.end(`${chunked}4\r\n1234\r\nnonsense\r\n`), "DecodeError"],
  "ends a body without length by closing": [(socket) => socket.end(`${head}\r\n1234`), "1234"],
  "sends trailers": [
    (socket) =>
      socket.end(`${chunked.replace("\r\n\r\n", "\r\ntrailer: x-end\r\n\r\n")}4\r\n1234\r\n0\r\nx-end: 1\r\n\r\n`),
    "1234"
  ],
  "says 100 Continue, which nobody asked for": [
    (socket) => socket.end(`HTTP/1.1 100 Continue\r\n\r\n${head}content-length: 4\r\n\r\n1234`),
    "TransportError"
  ],
  "gives hints first": [
    (socket) => socket.end(`HTTP/1.1 103 Early Hints\r\nlink: <a>\r\n\r\n${head}content-length: 4\r\n\r\n1234`),
    "1234"
  ],
  "sends a body byte by byte": [(socket) => {
    const bytes = `${chunked}4\r\n1234\r\n0\r\n\r\n`
    let at = 0
    const next = (): void => {
      if (at === bytes.length) return void socket.end()
      socket.write(bytes[at++]!)
      setImmediate(next)
    }
    next()
  }, "1234"]
}

for (const [name, client] of clients) {
  describe(`${name}, when the server`, () => {
    for (const [what, [answer, wanted]] of Object.entries(faults)) {
      it.live(what, () =>
        Effect.gen(function*() {
          const server = yield* serveBytes(answer)
          assert.strictEqual(yield* ended(text(server.url)), wanted, "whole")
          assert.strictEqual(yield* ended(pieces(server.url)), wanted, "in pieces")
          yield* eventually(() => server.open() === 0, "a connection is open")
        }).pipe(Effect.provide(client)))
    }

    it.live("is not there, or has no name: the cause says it was never sent", () =>
      Effect.gen(function*() {
        const { url } = yield* Effect.scoped(serve(() => {}))
        const refused = yield* Effect.flip(text(url))
        assert.deepStrictEqual([tagOf(refused), codesOf(refused).includes("ECONNREFUSED")], ["TransportError", true])
        const unknown = yield* Effect.flip(text("http://no-such-host.invalid"))
        assert.strictEqual(tagOf(unknown), "TransportError")
        assert.match(codesOf(unknown).join(), /ENOTFOUND|EAI_AGAIN/)
        const provider = yield* OpenAi.make({ apiKey, baseUrl: url })
        const error = yield* Effect.flip(provider.generate(ask))
        assert.deepInclude(error.reason, { _tag: "Network", sent: false })
      }).pipe(Effect.provide(client)))

    it.live("answers while the body is still being sent: the answer counts, and the upload ends", () =>
      Effect.gen(function*() {
        const server = yield* serve((request, response) => {
          request.on("error", () => {})
          request.once("data", () => response.end("enough"))
        })
        const stopped = yield* Deferred.make<void>()
        const endless = Stream.forever(Stream.fromEffect(Effect.as(Effect.sleep("5 millis"), new Uint8Array(1000))))
          .pipe(
            Stream.ensuring(Deferred.succeed(stopped, undefined))
          )
        const request = HttpClientRequest.setBody(HttpClientRequest.post(server.url), HttpBody.stream(endless))
        assert.strictEqual(yield* text(server.url, request), "enough")
        yield* Deferred.await(stopped)
        yield* eventually(() => server.open() === 0, "a connection is open")
      }).pipe(Effect.provide(client)))
  })

  describe(`${name}, when the caller leaves`, () => {
    const answer = (path: string): string =>
      ({ "/head": "", "/body": `${chunked}4\r\n1234\r\n`, "/nothing": chunked })[path] ?? ""

    for (
      const [phase, path] of [["before the head", "/head"], ["before the body", "/nothing"], [
        "in the body",
        "/body"
      ]] as const
    ) {
      for (const [how, read] of [["whole", text], ["in pieces", pieces]] as const) {
        it.live(`${phase}, read ${how}, the connection closes`, () =>
          Effect.gen(function*() {
            let asked = false
            const server = yield* serveBytes((socket, head) => {
              asked = true
              socket.write(answer(head.split(" ")[1]!))
            })
            const fiber = yield* Effect.forkChild(read(server.url + path))
            yield* eventually(() => asked)
            yield* Effect.sleep("20 millis")
            assert.strictEqual(server.open(), 1)
            yield* Fiber.interrupt(fiber)
            yield* eventually(() => server.open() === 0, "the connection is open")
          }).pipe(Effect.provide(client)))
      }
    }

    it.live("by a timeout, or after a few pieces, the connection closes", () =>
      Effect.gen(function*() {
        const server = yield* serveBytes((socket) => {
          socket.write(`${chunked}4\r\n1234\r\n`)
          const timer = setInterval(() => socket.write("4\r\n1234\r\n"), 5)
          socket.on("close", () => clearInterval(timer))
        })
        for (let millis = 30; millis < 5000 && server.connections() === 0; millis *= 2) {
          yield* Effect.ignore(Effect.timeout(text(server.url), millis))
        }
        yield* eventually(() => server.connections() > 0 && server.open() === 0, "after a timeout")
        const some = HttpClient.get(server.url).pipe(
          Effect.flatMap((response) => Stream.runCollect(Stream.take(response.stream, 2)))
        )
        assert.strictEqual((yield* some).length, 2)
        yield* eventually(() => server.open() === 0, "after a few pieces")
      }).pipe(Effect.provide(client)))

    it.live("while it uploads, the upload ends", () =>
      Effect.gen(function*() {
        const server = yield* serveBytes(() => {})
        const [started, stopped] = [yield* Deferred.make<void>(), yield* Deferred.make<void>()]
        const endless = Stream.forever(Stream.fromEffect(
          Effect.andThen(Deferred.succeed(started, undefined), Effect.as(Effect.sleep("5 millis"), new Uint8Array(10)))
        )).pipe(Stream.ensuring(Deferred.succeed(stopped, undefined)))
        const request = HttpClientRequest.setBody(HttpClientRequest.post(server.url), HttpBody.stream(endless))
        const fiber = yield* Effect.forkChild(text(server.url, request))
        yield* Deferred.await(started)
        yield* Effect.sleep("20 millis")
        yield* Fiber.interrupt(fiber)
        yield* Deferred.await(stopped)
        yield* eventually(() => server.open() === 0, "the connection is open")
      }).pipe(Effect.provide(client)))

    it.live("by closing the scope of the request, in every phase", () =>
      Effect.gen(function*() {
        let asked = 0
        const server = yield* serveBytes((socket, head) => {
          asked += 1
          socket.write(answer(head.split(" ")[1]!))
        })
        const scoped = HttpClient.withScope(yield* HttpClient.HttpClient)
        const fiber = yield* Effect.scoped(Effect.tap(
          Effect.forkDetach(scoped.get(`${server.url}/head`)),
          () => eventually(() => asked === 1)
        ))
        assert.isTrue(Exit.isFailure(yield* Fiber.await(fiber)))
        yield* eventually(() => server.open() === 0, "before the head")
        yield* Effect.scoped(Effect.asVoid(scoped.get(`${server.url}/body`)))
        assert.strictEqual(asked, 2)
        yield* eventually(() => server.open() === 0, "unread")
      }).pipe(Effect.provide(client)))
  })
}
