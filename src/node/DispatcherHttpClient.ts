/**
 * An `HttpClient` of `effect/http` straight on undici's dispatcher, without Node's streams and without what a general
 * client does for each call. Needs `@effect/platform-node`.
 *
 * @since 0.2.0
 */
import * as NodeHttpClient from "@effect/platform-node/NodeHttpClient"
import * as NodeStream from "@effect/platform-node/NodeStream"
import type * as Undici from "@effect/platform-node/Undici"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import type * as Fiber from "effect/Fiber"
import * as Headers from "effect/http/Headers"
import * as HttpClient from "effect/http/HttpClient"
import { HttpClientError, InvalidUrlError, TransportError } from "effect/http/HttpClientError"
import type { HttpClientRequest } from "effect/http/HttpClientRequest"
import type { HttpClientResponse } from "effect/http/HttpClientResponse"
import * as Url from "effect/http/Url"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Result from "effect/Result"
import * as Scope from "effect/Scope"
import * as Tracer from "effect/Tracer"
import { runtime, variable } from "../internal/runtime.ts"
import { Exchange, type Head } from "./internal/exchange.ts"
import { Response } from "./internal/response.ts"

// -----------------------------------------------------------------------------
// layers
// -----------------------------------------------------------------------------

/**
 * The client over a dispatcher of undici's, which brings connections, pools, proxies, TLS and HTTP/2.
 *
 * **When to use**
 *
 * Use on Node wherever Effect's `NodeHttpClient.layerUndici` would do: it sends the same requests through the same
 * `NodeHttpClient.Dispatcher` and fails with the same errors, for about half the price.
 *
 * **Details**
 *
 * - It has no time limits (undici's `headersTimeout` and `bodyTimeout` are off, whatever options say), follows no redirects
 *   and retries nothing: those are the program's.
 * - A body that nobody reads waits in the socket, with about 16 KiB of it in memory.
 * - An interruption closes the connection, or of HTTP/2 the request's own stream. While the request still waits for a
 *   connection, it only leaves the line.
 * - `UndiciOptions` of `NodeHttpClient` are the defaults of each request, when the layer is built or around a call.
 *
 * **Gotchas**
 *
 * It sends no `Upgrade` requests, and compressed bodies are handed on as they came.
 *
 * **Example** (Through the proxy that `HTTPS_PROXY` names)
 *
 * ```ts import.meta.vitest
 * import { NodeHttpClient } from "@effect/platform-node"
 * import { EnvHttpProxyAgent } from "@effect/platform-node/Undici"
 * import { Effect, Layer } from "effect"
 * import { DispatcherHttpClient } from "effect-resilient-llm/node"
 *
 * const proxied = Layer.effect(
 *   NodeHttpClient.Dispatcher,
 *   Effect.acquireRelease(
 *     Effect.sync(() => new EnvHttpProxyAgent()),
 *     (agent) => Effect.promise(() => agent.close())
 *   )
 * )
 * export const http = Layer.provide(DispatcherHttpClient.layer, proxied)
 * ```
 *
 * @see {@link layerAgent} for a client with an agent of its own
 * @category layers
 * @since 0.2.0
 */
export const layer: Layer.Layer<HttpClient.HttpClient, never, NodeHttpClient.Dispatcher> = Layer.effect(
  HttpClient.HttpClient,
  Effect.contextWith((context: Context.Context<NodeHttpClient.Dispatcher>) => Effect.succeed(over(context)))
)

/**
 * Options of undici's `Agent`, but for its limits of time: see {@link layer}.
 *
 * @category models
 * @since 0.2.0
 */
export type AgentOptions = Omit<Undici.Agent.Options, "headersTimeout" | "bodyTimeout">

/**
 * The client with an undici `Agent` of its own, which is destroyed with the layer.
 *
 * **Details**
 *
 * - It speaks HTTP/1.1 unless `allowH2` is true. Undici itself would speak HTTP/2 to whoever offers it: then one connection that
 *   is lost fails all calls at once, and with them opens the circuit.
 * - It goes through the proxies that the environment names where Node's own `fetch` would: `NODE_USE_ENV_PROXY=1` or
 *   `--use-env-proxy`.
 *
 * **Example** (A certificate authority of your own, and few connections)
 *
 * ```ts import.meta.vitest
 * import { DispatcherHttpClient } from "effect-resilient-llm/node"
 * import { rootCertificates } from "node:tls"
 *
 * const http = DispatcherHttpClient.layerAgent({
 *   connect: { ca: [...rootCertificates, process.env["COMPANY_CA"] ?? ""] },
 *   connections: 100 // for each origin; further requests wait in line
 * })
 * ```
 *
 * @see {@link layer} for every other dispatcher
 * @category layers
 * @since 0.2.0
 */
export const layerAgent = (options?: AgentOptions): Layer.Layer<HttpClient.HttpClient> =>
  Layer.provide(
    layer,
    Layer.effect(
      NodeHttpClient.Dispatcher,
      Effect.flatMap(undici, (undici) =>
        Effect.acquireRelease(
          Effect.sync(() => agentOf(undici, { allowH2: false, ...options })),
          (agent) => Effect.promise(() => agent.destroy())
        ))
    )
  )

// -----------------------------------------------------------------------------
// internals
// -----------------------------------------------------------------------------

// Loaded with the first client: what only names its types needs no undici.
const undici = Effect.promise(() => import("@effect/platform-node/Undici"))

const agentOf = (undici: typeof Undici, options: AgentOptions): Undici.Dispatcher => {
  if (!goesThroughProxies()) return new undici.Agent(options)
  const { connect } = options
  // To a proxy undici connects by itself; what the program wants of TLS is meant for the vendor behind it.
  return new undici.EnvHttpProxyAgent(
    typeof connect === "object" ? { ...options, requestTls: connect } : options
  )
}

/** As Node decides it for its own `fetch`. */
const goesThroughProxies = (): boolean =>
  variable("NODE_USE_ENV_PROXY") === "1" ||
  [...runtime.process?.execArgv ?? [], ...(variable("NODE_OPTIONS") ?? "").split(" ")].includes("--use-env-proxy")

type Options = Undici.Dispatcher.DispatchOptions
type Sent = Effect.Effect<HttpClientResponse, HttpClientError>

const over = (context: Context.Context<NodeHttpClient.Dispatcher>): HttpClient.HttpClient => {
  const dispatcher = Context.get(context, NodeHttpClient.Dispatcher)
  const defaults = Context.get(context, NodeHttpClient.UndiciOptions)
  const addressOf = makeAddresses()

  const send = (
    request: HttpClientRequest,
    { origin, path, url }: Address,
    fiber: Fiber.Fiber<unknown, unknown>,
    signal?: AbortSignal
  ): Sent => {
    const { body, headers, method } = request
    const dispatch = (body: unknown, headers: Headers.Headers): Sent => {
      const exchange = new Exchange(signal)
      const options: Options = {
        ...defaults,
        ...fiber.getRef(NodeHttpClient.UndiciOptions),
        method,
        headers,
        origin,
        path,
        body: body as NonNullable<Options["body"]> | null,
        headersTimeout: 0,
        bodyTimeout: 0
      }
      const answered = (head: Head): Response => {
        const response = new Response(request, url, exchange, head)
        if (signal === undefined && !exchange.over) unread.register(response, exchange)
        return response
      }
      return exchange.send(dispatcher, options, answered, (cause) => transportError(request, { cause }))
    }
    if (headers["upgrade"] !== undefined) {
      return Effect.fail(transportError(request, { description: "this client cannot hand over a connection" }))
    }
    switch (body._tag) {
      case "Empty":
        return dispatch(null, headers)
      case "Uint8Array":
      case "Raw":
        return dispatch(body.body, headers)
      case "FormData":
        return Effect.flatMap(undiciFormData(body.formData), (form) =>
          // It writes its own, with the boundary.
          dispatch(form, Headers.remove(headers, "content-type")))
      case "Stream":
        return Effect.flatMap(NodeStream.toReadable(body.stream), (readable) => dispatch(readable, headers))
    }
  }

  // Spans, scopes that end requests, responses that are never read: Effect's own `make` looks after them all.
  const full = HttpClient.transformResponse(
    HttpClient.make((request, url, signal, fiber) => send(request, asAddress(url), fiber, signal)),
    Effect.updateContext((input: Context.Context<never>) => Context.merge(context, input))
  )
  return HttpClient.makeWith<HttpClientError, never, HttpClientError, never>(
    (prepared) =>
      Effect.flatMap(prepared, (request) =>
        Effect.withFiber((fiber): Sent => {
          if (!isPlain(request, fiber)) return full.postprocess(Effect.succeed(request))
          const address = addressOf(request)
          return Result.isSuccess(address)
            ? send(request, address.success, fiber)
            : Effect.fail(new HttpClientError({ reason: new InvalidUrlError({ request, cause: address.failure }) }))
        })),
    Effect.succeed
  )
}

/** Where a request goes, as undici wants it told. */
interface Address {
  readonly url: URL
  readonly origin: string
  readonly path: string
}

const asAddress = (url: URL): Address => ({ url, origin: url.origin, path: url.pathname + url.search })

/** Programs ask the same address again and again, and to read one is dear. */
const makeAddresses = () => {
  let last: Pick<HttpClientRequest, "url" | "urlParams" | "hash"> | undefined
  let known: Address | undefined
  return (request: HttpClientRequest): Result.Result<Address, Url.UrlError> => {
    const { hash, url, urlParams } = request
    if (known !== undefined && last?.url === url && last.urlParams === urlParams && last.hash === hash) {
      return Result.succeed(known)
    }
    const made = Result.map(Url.make(url, urlParams, Option.getOrUndefined(hash)), asAddress)
    if (Result.isSuccess(made)) {
      last = { url, urlParams, hash }
      known = made.success
    }
    return made
  }
}

/** There is no span to make and no scope that could end the request, so what would serve them is left out. */
const isPlain = (request: HttpClientRequest, fiber: Fiber.Fiber<unknown, unknown>): boolean =>
  (fiber.getRef(Tracer.DisablePropagation) || fiber.getRef(HttpClient.TracerDisabledWhen)(request)) &&
  Context.getOrUndefined(fiber.context, Scope.Scope) === undefined

/** Closes the connections of answers that were dropped before anybody read them. */
const unread = new FinalizationRegistry((exchange: Exchange) => {
  if (exchange.reading === undefined) exchange.abort(undefined)
})

const transportError = (
  request: HttpClientRequest,
  what: { readonly cause: unknown } | { readonly description: string }
): HttpClientError => new HttpClientError({ reason: new TransportError({ request, ...what }) })

/** Undici reads no other `FormData` than its own. */
const undiciFormData = (form: FormData): Effect.Effect<Undici.FormData> =>
  Effect.map(undici, (undici) => {
    const copy = new undici.FormData()
    for (const [name, value] of form) copy.append(name, value)
    return copy
  })
