/**
 * A server on Node that serves the metrics to Prometheus and does nothing else. Needs `@effect/platform-node`.
 *
 * @since 0.1.0
 */
import * as NodeHttpServer from "@effect/platform-node/NodeHttpServer"
import * as HttpRouter from "effect/http/HttpRouter"
import type * as HttpServer from "effect/http/HttpServer"
import type * as HttpServerError from "effect/http/HttpServerError"
import * as Layer from "effect/Layer"
import { createServer, type Server } from "node:http"
import * as Prometheus from "./Prometheus.ts"

/**
 * Serves `GET /metrics` while the layer lives. Provide it beside your program, below the same `Metrics.layer`.
 *
 * @category layers
 * @since 0.1.0
 */
export const layer = (options?: {
  /** Default 9464, which OpenTelemetry's Prometheus exporters use. `0`: any free one. */
  readonly port?: number | undefined
  /** Default `127.0.0.1`: this machine only. */
  readonly host?: string | undefined
}): Layer.Layer<HttpServer.HttpServer, HttpServerError.ServeError> => {
  const server = NodeHttpServer.layer(createBrief, {
    port: options?.port ?? 9464,
    host: options?.host ?? "127.0.0.1"
  })
  const routes = HttpRouter.serve(Prometheus.layerHttp(), { disableListenLog: true, disableLogger: true })
  return Layer.provideMerge(routes, server)
}

/** What a scrape may still take when the server closes. */
const LAST_SCRAPE = 500

// A client in the middle of its headers would keep a closing server for 20 seconds.
const createBrief = (): Server => {
  const server = createServer()
  const close = server.close.bind(server)
  server.close = (closed) => {
    // oxlint-disable-next-line eslint/no-restricted-globals
    setTimeout(() => server.closeAllConnections(), LAST_SCRAPE).unref()
    return close(closed)
  }
  return server
}
