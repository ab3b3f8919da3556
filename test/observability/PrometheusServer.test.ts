import { assert, it } from "@effect/vitest"
import { Effect, Exit, Layer, Scope } from "effect"
import * as PrometheusServer from "effect-resilient-llm/observability/PrometheusServer"
import { HttpServer } from "effect/http"
import { connect } from "node:net"

it.live("a client in the middle of its headers does not delay the end", () =>
  Effect.gen(function*() {
    const scope = yield* Scope.make()
    const context = yield* Layer.buildWithScope(PrometheusServer.layer({ port: 0 }), scope)
    const { address } = yield* Effect.provideContext(HttpServer.HttpServer, context)
    const port = "port" in address ? address.port : 0
    const socket = connect(port, "127.0.0.1")
    socket.on("error", () => {})
    yield* Effect.callback<void>((resume) => {
      socket.write("GET /metrics HTTP/1.1\r\nHost: x\r\nX-Unfinished: ", () => resume(Effect.void))
    })
    yield* Effect.sleep(50)
    const begun = performance.now()
    yield* Scope.close(scope, Exit.void)
    assert.isBelow(performance.now() - begun, 5000)
    socket.destroy()
  }), 30_000)
