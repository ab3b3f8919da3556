/**
 * Sends traces, metrics and logs to an OpenTelemetry collector: the exporters of Effect, with a bound on what they may
 * hold while the collector does not answer.
 *
 * @since 0.1.0
 */
import * as Config from "effect/Config"
import type { ConfigError } from "effect/Config"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as HttpClient from "effect/http/HttpClient"
import * as HttpClientError from "effect/http/HttpClientError"
import type { HttpClientRequest } from "effect/http/HttpClientRequest"
import * as Layer from "effect/Layer"
import * as EffectOtlp from "effect/observability/Otlp"
import type { Flusher } from "effect/observability/OtlpExporter"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import * as Semaphore from "effect/Semaphore"
import { finiteDuration, readOption } from "../internal/option.ts"
import { notFollowing } from "../internal/redirects.ts"

/**
 * @category models
 * @since 0.1.0
 */
export interface Options {
  /** Address of the collector's HTTP receiver. Default: `OTEL_EXPORTER_OTLP_ENDPOINT`, else `http://localhost:4318`. */
  readonly endpoint?: string | undefined
  /** Sent with every export, such as a key. Default: `OTEL_EXPORTER_OTLP_HEADERS`. */
  readonly headers?: Readonly<Record<string, string>> | undefined
  /** Default: `OTEL_SERVICE_NAME`, or the name in `OTEL_RESOURCE_ATTRIBUTES`, else `unknown_service`. */
  readonly serviceName?: string | undefined
  readonly serviceVersion?: string | undefined
  /** Of the resource, in addition to `OTEL_RESOURCE_ATTRIBUTES`. */
  readonly attributes?: Readonly<Record<string, string>> | undefined
  /** Between two exports of one kind. Default: Effect's own, 5 seconds for traces, 10 for metrics and 1 for logs. */
  readonly exportInterval?: Duration.Input | undefined
  /** Longest time of one export; then it counts as failed. Default 5 seconds. */
  readonly timeout?: Duration.Input | undefined
}

/** Exports of one kind (traces, metrics, logs) under way at once. */
const MAX_EXPORTS = 2

/**
 * Installs a tracer, a logger (beside those that are there) and the export of all metrics. Needs an `HttpClient`, such as
 * `FetchHttpClient.layer`. What is still unsent is sent when the layer's scope closes, for at most three seconds.
 *
 * **Details**
 *
 * A collector that accepts connections and does not answer costs at most six sockets, two for each kind, and the memory of
 * a few seconds of telemetry: what finds both taken counts as failed. An export that failed (transport, 408, 429, 5xx) is
 * tried three times more, a second apart; then the exporter drops what it has and rests for a minute. Calls never wait for
 * an export.
 *
 * **Example** (Everything that follows is exported)
 *
 * ```ts import.meta.vitest
 * import { Effect, Layer } from "effect"
 * import { HttpClient, HttpClientResponse } from "effect/http"
 * import { Otlp } from "effect-resilient-llm/observability"
 *
 * const paths: Array<string> = []
 * const collector = HttpClient.make((request, url) => {
 *   paths.push(url.pathname)
 *   return Effect.succeed(HttpClientResponse.fromWeb(request, new Response("{}")))
 * })
 * const telemetry = Otlp.layer({ endpoint: "http://collector:4318", serviceName: "shop" }).pipe(
 *   Layer.provide(Layer.succeed(HttpClient.HttpClient, collector))
 * )
 * await Effect.runPromise(Effect.void.pipe(Effect.withSpan("order"), Effect.provide(telemetry)))
 * paths.includes("/v1/traces") // => true
 * ```
 *
 * @see https://opentelemetry.io/docs/specs/otel/protocol/exporter/
 * @category layers
 * @since 0.1.0
 */
export const layer = (options: Options = {}): Layer.Layer<Flusher, ConfigError, HttpClient.HttpClient> =>
  Layer.unwrap(Effect.gen(function*() {
    const read = yield* environment
    const named = options.attributes?.["service.name"] !== undefined || read.resource?.["service.name"] !== undefined
    const interval = millis("exportInterval", options.exportInterval)
    return EffectOtlp.layerJson({
      baseUrl: options.endpoint ?? read.endpoint,
      headers: options.headers ?? read.headers,
      resource: {
        serviceName: options.serviceName ?? read.serviceName ?? (named ? undefined : "unknown_service"),
        serviceVersion: options.serviceVersion,
        attributes: { ...options.attributes }
      },
      loggerExportInterval: interval,
      metricsExportInterval: interval,
      tracerExportInterval: interval
    }).pipe(Layer.provide(layerBounded(millis("timeout", options.timeout) ?? 5000)))
  }))

/** Throws `LlmConfigError`. */
const millis = (name: string, duration: Duration.Input | undefined): number | undefined =>
  duration === undefined ? undefined : readOption(finiteDuration(), duration, name)

const pairs = (name: string) =>
  Config.Record(Schema.String, Schema.StringFromUriComponent, name).pipe(Config.withDefault(undefined))

const environment = Config.all({
  endpoint: Config.String("OTEL_EXPORTER_OTLP_ENDPOINT").pipe(Config.withDefault("http://localhost:4318")),
  headers: pairs("OTEL_EXPORTER_OTLP_HEADERS"),
  serviceName: Config.String("OTEL_SERVICE_NAME").pipe(Config.withDefault(undefined)),
  resource: pairs("OTEL_RESOURCE_ATTRIBUTES")
})

/** A client whose requests end: with their body, or with a failure after `timeout`, or at once when too many are open. */
const layerBounded = (timeout: number): Layer.Layer<HttpClient.HttpClient, never, HttpClient.HttpClient> =>
  Layer.effect(
    HttpClient.HttpClient,
    Effect.gen(function*() {
      const client = notFollowing(yield* HttpClient.HttpClient)
      const turns = new Map<string, Semaphore.Semaphore>()
      const late = `no answer in ${Duration.format(Duration.millis(timeout))}`
      return HttpClient.make((request, url) => {
        const turn = turns.get(url.pathname) ?? Semaphore.makeUnsafe(MAX_EXPORTS)
        turns.set(url.pathname, turn)
        const whole = Effect.updateContext(client.execute(request), ownContext).pipe(
          // Its bytes stay with the response, for the exporter to read again.
          Effect.tap((response) => Effect.ignore(response.arrayBuffer)),
          Effect.timeoutOrElse({ duration: timeout, orElse: () => Effect.fail(lost(request, late)) })
        )
        return Effect.flatMap(
          turn.withPermitsIfAvailable(1)(whole),
          Option.match({
            onNone: () => Effect.fail(lost(request, "earlier exports have not been answered")),
            onSome: Effect.succeed
          })
        )
      })
    })
  )

const ownContext = (context: Context.Context<never>): Context.Context<never> => Context.makeUnsafe(context.mapUnsafe)

const lost = (request: HttpClientRequest, description: string): HttpClientError.HttpClientError =>
  new HttpClientError.HttpClientError({ reason: new HttpClientError.TransportError({ request, description }) })
