// What this client has of its own: lines, back pressure, memory, and undici's dispatchers under it.
import { NodeHttpClient } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import { DispatcherHttpClient } from "effect-resilient-llm/node"
import { OpenAi } from "effect-resilient-llm/providers"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as HttpBody from "effect/http/HttpBody"
import * as HttpClient from "effect/http/HttpClient"
import * as HttpClientRequest from "effect/http/HttpClientRequest"
import * as Layer from "effect/Layer"
import * as Stream from "effect/Stream"
import { AsyncLocalStorage } from "node:async_hooks"
import { createServer, type ServerResponse } from "node:http"
import { createSecureServer } from "node:http2"
import { createServer as createTlsServer } from "node:https"
import { connect as connectTcp, type Socket } from "node:net"
import { setFlagsFromString } from "node:v8"
import { runInNewContext } from "node:vm"
import { Agent, type buildConnector, EnvHttpProxyAgent, interceptors } from "undici"
import { vi } from "vitest"
import { apiKey, ask } from "../providers/support.ts"
import { cert, key } from "./certificate.ts"
import { codesOf, eventually, listening, serve, serveBytes, tagOf } from "./support.ts"

const { layerAgent } = DispatcherHttpClient
const text = (url: string) => Effect.flatMap(HttpClient.get(url), (response) => response.text)

/** Without spans and without the scope of the test, as the pipeline calls: nothing of Effect's own stands between. */
const alone = <A, E>(
  client: HttpClient.HttpClient,
  effect: Effect.Effect<A, E, HttpClient.HttpClient>
): Effect.Effect<A> =>
  Effect.promise(() =>
    Effect.runPromise(
      effect.pipe(
        Effect.provideService(HttpClient.TracerDisabledWhen, () => true),
        Effect.provideService(HttpClient.HttpClient, client)
      )
    )
  )
const clientOf = (layer: Layer.Layer<HttpClient.HttpClient>) =>
  Effect.map(Layer.build(layer), Context.get(HttpClient.HttpClient))

setFlagsFromString("--expose-gc")
const collect = runInNewContext("gc") as () => void
const collected = Effect.promise(async () => {
  for (let i = 0; i < 10; i++) {
    collect()
    await new Promise((resolve) => setTimeout(resolve, 10))
  }
})

describe("connections", () => {
  it.live("are used again, also after answers that nobody read to the end", () =>
    Effect.gen(function*() {
      const server = yield* serve((_, response) => response.end("x".repeat(1000)))
      for (let i = 0; i < 20; i++) yield* text(server.url)
      for (let i = 0; i < 5; i++) {
        const response = yield* HttpClient.get(server.url)
        assert.strictEqual(response.status, 200)
        yield* Effect.sleep("5 millis")
      }
      assert.isAtMost(server.connections(), 2)
    }).pipe(Effect.provide(layerAgent())))

  it.live("are limited: further requests wait in line, and who leaves it takes no connection along", () =>
    Effect.gen(function*() {
      const held: Array<ServerResponse> = []
      const server = yield* serve((_, response) => held.push(response))
      const requests = yield* Effect.forEach(
        Array.from({ length: 6 }, (_, i) => i),
        (i) => Effect.forkChild(text(`${server.url}/${i}`))
      )
      yield* eventually(() => held.length === 2)
      yield* Effect.sleep("20 millis")
      assert.strictEqual(held.length, 2)
      // Two who wait leave, one of them with a body of its own.
      yield* Fiber.interruptAll([requests[2]!, requests[3]!])
      for (let sent = 0; sent < 4;) {
        yield* eventually(() => held.length > sent)
        held[sent++]!.end("done")
      }
      const answers = yield* Effect.forEach([0, 1, 4, 5], (i) => Fiber.join(requests[i]!))
      assert.deepStrictEqual(answers, ["done", "done", "done", "done"])
      assert.deepStrictEqual(held.map(({ req }) => req.url).toSorted(), ["/0", "/1", "/4", "/5"])
      assert.strictEqual(server.connections(), 2)
    }).pipe(Effect.provide(layerAgent({ connections: 2 }))))

  it.live("that take too long to make are given up, and what waits for them can leave at once", () =>
    Effect.gen(function*() {
      const never: buildConnector.connector = () => {}
      const client = layerAgent({ connect: never })
      const started = performance.now()
      const stream = HttpBody.stream(Stream.fromEffect(Effect.never))
      const request = HttpClientRequest.setBody(HttpClientRequest.post("http://127.0.0.1:1"), stream)
      const left = yield* Effect.timeoutOption(HttpClient.execute(request), "30 millis").pipe(Effect.provide(client))
      assert.strictEqual(left._tag, "None")
      assert.isBelow(performance.now() - started, 2000)
    }))

  it.live("that cannot be made say why, with the code of the system", () =>
    Effect.gen(function*() {
      for (const code of ["EMFILE", "ENOBUFS", "EADDRNOTAVAIL", "EHOSTUNREACH", "CERT_HAS_EXPIRED"]) {
        const failing: buildConnector.connector = (_, callback) =>
          callback(Object.assign(new Error("no"), { code }), null)
        const error = yield* Effect.flip(text("http://127.0.0.1:1")).pipe(
          Effect.provide(layerAgent({ connect: failing }))
        )
        assert.deepStrictEqual([tagOf(error), codesOf(error)], ["TransportError", [code]])
      }
    }))

  it.live("end with the layer, and a request on a closed agent fails", () =>
    Effect.gen(function*() {
      const server = yield* serve((_, response) => response.end("x"))
      const context = yield* Effect.scoped(
        Layer.build(layerAgent()).pipe(
          Effect.tap((context) => Effect.provideContext(text(server.url), context))
        )
      )
      yield* eventually(() => server.open() === 0)
      const error = yield* Effect.flip(Effect.provideContext(text(server.url), context))
      assert.deepStrictEqual([tagOf(error), codesOf(error)], ["TransportError", ["UND_ERR_DESTROYED"]])
    }))
})

describe("bodies", () => {
  it.live("wait at the server until they are read, and come whole", () =>
    Effect.gen(function*() {
      const total = 64 * 2 ** 20
      let written = 0
      const server = yield* serve((_, response) => {
        const piece = Buffer.alloc(65_536, "x")
        const more = (): void => {
          while (written < total) {
            written += piece.length
            if (!response.write(piece)) return void response.once("drain", more)
          }
          response.end()
        }
        more()
      })
      const response = yield* HttpClient.get(server.url)
      // Until it stands still.
      yield* Effect.repeat(
        Effect.suspend(() => {
          const before = written
          return Effect.delay(Effect.sync(() => written === before), "100 millis")
        }),
        { until: (same) => same }
      )
      assert.isAbove(written, 0)
      assert.isBelow(written, 8 * 2 ** 20)
      let read = 0
      let most = 0
      yield* Stream.runForEachArray(response.stream, (chunks) =>
        Effect.suspend(() => {
          const bytes = chunks.reduce((sum, chunk) => sum + chunk.byteLength, 0)
          read += bytes
          most = Math.max(most, bytes)
          return read % 7 === 0 ? Effect.sleep(1) : Effect.void
        }))
      assert.strictEqual(read, total)
      assert.isAtMost(most, 2 ** 18)
    }).pipe(Effect.provide(layerAgent())))

  it.live("come in the pieces that the server sent", () =>
    Effect.gen(function*() {
      const server = yield* serve((_, response) => {
        let i = 0
        const next = (): void => {
          if (i === 5) return void response.end()
          response.write(`piece ${i++}`)
          setTimeout(next, 10)
        }
        next()
      })
      const response = yield* HttpClient.get(server.url)
      const pieces = yield* Stream.runCollect(Stream.map(response.stream, (bytes) => Buffer.from(bytes).toString()))
      assert.deepStrictEqual(pieces, ["piece 0", "piece 1", "piece 2", "piece 3", "piece 4"])
      assert.strictEqual(tagOf(yield* Effect.flip(response.text)), "DecodeError")
      assert.strictEqual(tagOf(yield* Effect.flip(Stream.runDrain(response.stream))), "DecodeError")
    }).pipe(Effect.provide(layerAgent())))

  it.live("what came before a break is given out before it", () =>
    Effect.gen(function*() {
      const server = yield* serveBytes((socket) => socket.end("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n1234"))
      const response = yield* HttpClient.get(server.url)
      yield* Effect.sleep("20 millis")
      const seen: Array<string> = []
      const error = yield* Effect.flip(
        Stream.runForEach(response.stream, (bytes) => Effect.sync(() => seen.push(Buffer.from(bytes).toString())))
      )
      assert.deepStrictEqual([seen, tagOf(error)], [["1234"], "DecodeError"])
    }).pipe(Effect.provide(layerAgent())))

  it.live("a pull that is given up loses nothing", () =>
    Effect.gen(function*() {
      let answer: ServerResponse | undefined
      const server = yield* serve((_, response) => {
        answer = response
        response.write("one")
      })
      const response = yield* HttpClient.withScope(yield* HttpClient.HttpClient).get(server.url)
      const pull = yield* Stream.toPull(response.stream)
      assert.strictEqual(String(yield* pull), "one")
      assert.strictEqual((yield* Effect.timeoutOption(pull, "20 millis"))._tag, "None")
      answer?.end("two")
      assert.strictEqual(String(yield* pull), "two")
    }).pipe(Effect.provide(layerAgent())))
})

describe("calls without spans and scopes", () => {
  it.live("whole and in pieces, redirects, bad addresses, and who leaves closes the connection", () =>
    Effect.gen(function*() {
      const server = yield* serve((request, response) => {
        if (request.url === "/hang") return void response.write("x")
        if (request.url === "/away") response.writeHead(302, { location: "/" })
        response.end("answer")
      })
      const client = yield* clientOf(layerAgent())
      assert.strictEqual(yield* alone(client, text(`${server.url}/?a=1`)), "answer")
      const pieces = Effect.flatMap(
        HttpClient.get(server.url),
        (response) => Stream.mkString(Stream.decodeText(response.stream))
      )
      assert.strictEqual(yield* alone(client, pieces), "answer")
      assert.strictEqual(yield* alone(client, Effect.map(HttpClient.get(`${server.url}/away`), (r) => r.status)), 302)
      assert.strictEqual(tagOf(yield* alone(client, Effect.flip(text("nowhere")))), "InvalidUrlError")
      const left = yield* alone(client, Effect.timeoutOption(text(`${server.url}/hang`), "30 millis"))
      assert.strictEqual(left._tag, "None")
      yield* eventually(() => server.open() === 0)
    }))

  it.live("an answer that is dropped unread does not keep its connection", () =>
    Effect.gen(function*() {
      const server = yield* serve((_, response) => void response.write("x".repeat(100)))
      const client = yield* clientOf(layerAgent())
      for (let i = 0; i < 5; i++) {
        assert.strictEqual(
          yield* alone(client, Effect.map(HttpClient.get(server.url), (response) => response.status)),
          200
        )
      }
      assert.strictEqual(server.open(), 5)
      yield* collected
      yield* eventually(() => server.open() === 0)
    }))
})

it.live("the caller's async context goes with its call", () =>
  Effect.gen(function*() {
    const server = yield* serve((request, response) => {
      response.write("1")
      setTimeout(() => response.end(request.url), 10)
    })
    const context = yield* Layer.build(layerAgent())
    const store = new AsyncLocalStorage<string>()
    const call = (id: string) =>
      store.run(id, () =>
        Effect.runPromise(Effect.provideContext(
          Effect.flatMap(HttpClient.get(`${server.url}/${id}`), (response) => {
            const atHead = store.getStore()
            return Stream.runDrain(response.stream).pipe(Effect.map(() => [atHead, store.getStore()]))
          }),
          context
        )))
    const ids = ["a", "b", "c"]
    const seen = yield* Effect.promise(() => Promise.all([...ids, ...ids].map(call)))
    assert.deepStrictEqual(seen, [...ids, ...ids].map((id) => [id, id]))
  }))

it.live("spans are Effect's own, and so are the headers of a trace", () =>
  Effect.gen(function*() {
    const server = yield* serve((request, response) => response.end(request.headers["traceparent"] ?? "none"))
    assert.match(yield* text(server.url), /^00-[0-9a-f]{32}-[0-9a-f]{16}-0[01]$/)
    const quiet = Effect.provideService(text(server.url), HttpClient.TracerPropagationEnabled, false)
    assert.strictEqual(yield* quiet, "none")
  }).pipe(Effect.provide(layerAgent())))

it.live("nothing is left behind by 500 calls of every kind", () =>
  Effect.gen(function*() {
    const server = yield* serve((request, response) => {
      const kind = Number(request.url?.slice(1)) % 4
      if (kind === 0) return response.end("x")
      if (kind === 1) return void response.write("x")
      if (kind === 2) return request.socket.resetAndDestroy()
    })
    const call = (i: number) =>
      Effect.ignore(Effect.timeout(text(`${server.url}/${i}`), i % 4 === 1 || i % 4 === 3 ? "15 millis" : "5 seconds"))
    yield* Effect.scoped(Effect.provide(
      Effect.forEach(Array.from({ length: 500 }, (_, i) => i), call, { concurrency: 20, discard: true }),
      layerAgent()
    ))
    yield* eventually(() => server.open() === 0, "connections are open")
  }))

describe("dispatchers", () => {
  it.live("options of undici go with the layer or with a call", () =>
    Effect.gen(function*() {
      const server = yield* serve((request, response) => response.end(request.headers["connection"]))
      const closing = Layer.succeed(NodeHttpClient.UndiciOptions, { reset: true })
      assert.strictEqual(yield* Effect.provide(text(server.url), layerAgent()), "keep-alive")
      assert.strictEqual(yield* Effect.provide(text(server.url), Layer.provide(layerAgent(), closing)), "close")
      const one = Effect.provideService(text(server.url), NodeHttpClient.UndiciOptions, { reset: true })
      assert.strictEqual(yield* Effect.provide(one, layerAgent()), "close")
    }))

  it.live("a certificate nobody trusts fails with its code; with the authority it is fine, over HTTP/1.1 and 2", () =>
    Effect.gen(function*() {
      const one = yield* listening(() =>
        createTlsServer({ cert, key }, (request, response) => {
          response.end(request.httpVersion)
        })
      )
      const two = yield* listening(() =>
        createSecureServer({ cert, key }, (request, response) => {
          response.end(request.httpVersion)
        })
      )
      for (const [{ url }, version] of [[one, "1.1"], [two, "2.0"]] as const) {
        const secure = url.replace("http:", "https:")
        const error = yield* Effect.flip(Effect.provide(text(secure), layerAgent({ allowH2: true })))
        assert.deepStrictEqual([tagOf(error), codesOf(error).at(-1)], ["TransportError", "DEPTH_ZERO_SELF_SIGNED_CERT"])
        const trusting = layerAgent({ connect: { ca: cert }, allowH2: true })
        assert.strictEqual(yield* Effect.provide(text(secure), trusting), version)
      }
    }))

  it.live("HTTP/2 is spoken where it is asked for, not with whoever offers it", () =>
    Effect.gen(function*() {
      const server = yield* listening(() =>
        createSecureServer({ cert, key, allowHTTP1: true }, (request, response) => {
          response.end(request.httpVersion)
        })
      )
      const url = server.url.replace("http:", "https:")
      for (const [options, version] of [[{}, "1.1"], [{ allowH2: true }, "2.0"]] as const) {
        const agent = layerAgent({ connect: { ca: cert }, ...options })
        assert.strictEqual(yield* Effect.provide(text(url), agent), version)
      }
    }))

  it.live("the proxies of the environment are gone through where Node's own fetch would, with the trust of the agent", () =>
    Effect.gen(function*() {
      const vendor = yield* listening(() => createTlsServer({ cert, key }, (_, response) => void response.end("fine")))
      const through: Array<string | undefined> = []
      const proxy = yield* listening(() =>
        createServer().on("connect", (request, client: Socket, head) => {
          through.push(request.url)
          const [host = "", port] = (request.url ?? "").split(":")
          const server = connectTcp(Number(port), host, () => {
            client.write("HTTP/1.1 200 OK\r\n\r\n")
            server.write(head)
            client.pipe(server).pipe(client)
          })
          for (const [one, other] of [[client, server], [server, client]] as const) {
            one.on("error", () => {}).on("close", () => other.destroy())
          }
        })
      )
      const ask = Effect.provide(text(vendor.url.replace("http:", "https:")), layerAgent({ connect: { ca: cert } }))
      yield* Effect.acquireUseRelease(
        Effect.sync(() => {
          vi.stubEnv("HTTPS_PROXY", proxy.url).stubEnv("NO_PROXY", "")
          vi.stubEnv("https_proxy", undefined).stubEnv("no_proxy", undefined)
        }),
        () =>
          Effect.gen(function*() {
            assert.strictEqual(yield* ask, "fine")
            assert.lengthOf(through, 0)
            for (
              const [variable, value] of [["NODE_USE_ENV_PROXY", "1"], ["NODE_OPTIONS", "--use-env-proxy"]] as const
            ) {
              vi.stubEnv("NODE_USE_ENV_PROXY", undefined).stubEnv(variable, value)
              assert.strictEqual(yield* ask, "fine")
              assert.strictEqual(through.pop(), new URL(vendor.url).host)
            }
          }),
        () => Effect.sync(() => void vi.unstubAllEnvs())
      )
    }))

  it.live("over HTTP/2, who leaves ends the stream and not the connection", () =>
    Effect.gen(function*() {
      let [asked, closed] = [0, 0]
      const server = yield* listening(() =>
        createSecureServer({ cert, key }, (request, response) => {
          asked++
          response.stream.on("close", () => closed++)
          if (request.url === "/hang") return void response.write("x")
          response.end("fine")
        })
      )
      const url = server.url.replace("http:", "https:")
      yield* Effect.gen(function*() {
        const hanging = yield* Effect.forkChild(text(`${url}/hang`))
        yield* eventually(() => asked === 1)
        yield* Fiber.interrupt(hanging)
        yield* eventually(() => closed === 1)
        assert.strictEqual(yield* text(url), "fine")
        assert.strictEqual(server.connections(), 1)
      }).pipe(Effect.provide(layerAgent({ connect: { ca: cert }, allowH2: true })))
    }))

  it.live("a proxy", () =>
    Effect.gen(function*() {
      const server = yield* serve((_, response) => response.end("through"))
      const tunnels: Array<string> = []
      const proxy = yield* listening(() =>
        createServer().on("connect", (request, socket) => {
          tunnels.push(request.url ?? "")
          const [host, port] = (request.url ?? "").split(":")
          const upstream = connectTcp(Number(port), host, () => {
            socket.write("HTTP/1.1 200 Connection established\r\n\r\n")
            upstream.pipe(socket).pipe(upstream)
          })
          socket.on("error", () => upstream.destroy())
          upstream.on("error", () => socket.destroy())
        })
      )
      const dispatcher = Layer.effect(
        NodeHttpClient.Dispatcher,
        Effect.acquireRelease(
          Effect.sync(() => new EnvHttpProxyAgent({ httpProxy: proxy.url, proxyTunnel: true, noProxy: "" })),
          (agent) => Effect.promise(() => agent.close())
        )
      )
      const client = Layer.provide(DispatcherHttpClient.layer, dispatcher)
      assert.strictEqual(yield* Effect.provide(text(server.url), client), "through")
      assert.deepStrictEqual(tunnels, [server.url.replace("http://", "")])
    }))

  it.live("a proxy that is down is named, not the vendor behind it", () =>
    Effect.gen(function*() {
      const { url } = yield* Effect.scoped(serve(() => {}))
      const dispatcher = Layer.effect(
        NodeHttpClient.Dispatcher,
        Effect.acquireRelease(
          Effect.sync(() => new EnvHttpProxyAgent({ httpProxy: url, httpsProxy: url, noProxy: "" })),
          (agent) => Effect.promise(() => agent.close())
        )
      )
      for (const baseUrl of ["http://vendor.invalid/v1", "https://vendor.invalid/v1"]) {
        const error = yield* OpenAi.make({ apiKey, baseUrl }).pipe(
          Effect.flatMap((provider) => provider.generate(ask)),
          Effect.flip,
          Effect.provide(Layer.provide(DispatcherHttpClient.layer, dispatcher))
        )
        assert.ok(error._tag === "ProviderError")
        assert.strictEqual(error.host, url.replace("http://", ""))
        assert.include(error.message, `ECONNREFUSED ${error.host}`)
      }
    }))

  it.live("interceptors: who left the line is not tried again", () =>
    Effect.gen(function*() {
      const paths: Array<string | undefined> = []
      const held: Array<ServerResponse> = []
      const server = yield* serve((request, response) => {
        paths.push(request.url)
        if (request.url === "/twice" && paths.length < 3) return request.socket.destroy()
        if (request.url === "/held") return void held.push(response)
        response.end("fine")
      })
      const retrying = Layer.effect(
        NodeHttpClient.Dispatcher,
        Effect.acquireRelease(
          Effect.sync(() =>
            new Agent({ connections: 1 }).compose(interceptors.retry({ minTimeout: 1, maxRetries: 3 }))
          ),
          (agent) => Effect.promise(() => agent.destroy())
        )
      )
      yield* Effect.gen(function*() {
        assert.strictEqual(yield* text(`${server.url}/twice`), "fine")
        const holder = yield* Effect.forkChild(text(`${server.url}/held`))
        yield* eventually(() => held.length === 1)
        const waiter = yield* Effect.forkChild(text(`${server.url}/left`), { startImmediately: true })
        yield* Effect.sleep("10 millis")
        yield* Fiber.interrupt(waiter)
        held[0]!.end("held")
        assert.strictEqual(yield* Fiber.join(holder), "held")
        yield* Effect.sleep("50 millis")
        assert.notInclude(paths, "/left")
      }).pipe(Effect.provide(Layer.provide(DispatcherHttpClient.layer, retrying)))
    }))
})
