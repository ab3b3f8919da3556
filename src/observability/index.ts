/**
 * Views of what clients do.
 *
 * @since 0.1.0
 */

/** One structured log line per call, and one per notable event. */
export * as Logging from "./Logging.ts"

/** Counts what happens. */
export * as Metrics from "./Metrics.ts"

/** Sends traces, metrics and logs to an OpenTelemetry collector. */
export * as Otlp from "./Otlp.ts"

/** Serves metrics to Prometheus. */
export * as Prometheus from "./Prometheus.ts"

/** What traces say about calls, and whether they hold prompts and completions. */
export * as Tracing from "./Tracing.ts"
