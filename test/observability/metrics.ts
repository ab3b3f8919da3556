// Reading metrics in tests, and the page that documents them.
import { type Context, Effect, Metric } from "effect"
import type { LlmEvent } from "effect-resilient-llm"
import { Metrics } from "effect-resilient-llm/observability"
import { all, errors } from "effect-resilient-llm/observability/internal/table"

export type Sample = Readonly<Record<string, string>>

/** Runs a program whose clients are measured, with a registry of its own. */
export const measured =
  (options?: Metrics.Options) => <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
    effect.pipe(Effect.provide(Metrics.layer(options)), Effect.provideService(Metric.MetricRegistry, new Map()))

const matches = (attributes: Sample | undefined, labels: Sample): boolean =>
  Object.entries(labels).every(([name, value]) => (attributes?.[name] ?? "") === value)

/** The series of a metric that have these labels. */
export const series = (name: string, labels: Sample = {}) =>
  Effect.contextWith((context: Context.Context<never>) =>
    Effect.sync(() =>
      Metric.snapshotUnsafe(context).filter(({ attributes, id }) => id === name && matches(attributes, labels))
    )
  )

/** The sum of a counter, of a gauge, or of the number of observations, over all series with these labels. */
export const total = (name: string, labels?: Sample) =>
  Effect.map(series(name, labels), (all) =>
    all.reduce((sum, { state }) => {
      if (typeof state !== "object" || state === null) return sum
      return sum + Number("count" in state ? state.count : "value" in state ? state.value : 0)
    }, 0))

/** Sum of what a histogram observed. */
export const observed = (name: string, labels?: Sample) =>
  Effect.map(
    series(name, labels),
    (all) =>
      all.reduce(
        (sum, { state }) => sum + (typeof state === "object" && state !== null && "sum" in state ? state.sum : 0),
        0
      )
  )

/** The name under which a series is counted here. */
export const keyOf = (name: string, labels: Sample): string =>
  JSON.stringify([name, Object.entries(labels).filter(([, value]) => value !== "").toSorted()])

/** Everything that has been counted or observed, by name and labels. */
export const counters = Effect.contextWith((context: Context.Context<never>) =>
  Effect.sync((): ReadonlyMap<string, number> => {
    const found = new Map<string, number>()
    for (const { attributes, id, state } of Metric.snapshotUnsafe(context)) {
      if (!id.startsWith("llm_") || typeof state !== "object" || state === null || !("count" in state)) continue
      if (Number(state.count) > 0) found.set(keyOf(id, attributes ?? {}), Number(state.count)) // 0: alerts wait for it
    }
    return found
  })
)

const classOf = ({ reason, tag }: LlmEvent.ErrorSummary): string => tag === "ProviderError" ? reason! : tag

/** Counts what the events of a run say, by the simplest means; named as in {@link counters}. */
export const tally = (events: ReadonlyArray<LlmEvent.LlmEvent>): ReadonlyMap<string, number> => {
  const counts = new Map<string, number>()
  const add = (name: string, labels: Record<string, string>, by = 1): void => {
    const key = keyOf(name, labels)
    counts.set(key, (counts.get(key) ?? 0) + by)
  }
  const operations = new Map<number, string>()
  const ended = (
    event: { readonly call: number; readonly target: string },
    outcome: string,
    error: string
  ): void => {
    const { call, target } = event
    const operation = operations.get(call)!
    add("llm_attempts_total", { target, provider: target, operation, outcome, error })
    add("llm_attempt_duration_seconds", { target, outcome, unit: "s" })
  }
  const spent = (
    event: {
      readonly target: string
      readonly inputTokens?: number
      readonly outputTokens?: number
      readonly atLeast?: true
    },
    outcome?: string
  ): void => {
    const { atLeast, target } = event
    for (const [direction, count] of [["input", event.inputTokens], ["output", event.outputTokens]] as const) {
      if (count === undefined) continue
      const labels = { target, direction, unit: "{token}" }
      if (atLeast === true) add("llm_tokens_at_least_total", { ...labels, outcome: outcome! }, count)
      else add("llm_tokens_total", labels, count)
    }
  }
  for (const event of events) {
    switch (event._tag) {
      case "CallStarted":
        operations.set(event.call, event.operation)
        break
      case "AttemptSucceeded":
        ended(event, "success", "")
        spent(event)
        break
      case "AttemptFailed":
        ended(event, event.outcome, classOf(event.error))
        spent(event, event.outcome)
        break
      case "AttemptInterrupted":
        ended(event, event.by === "caller" ? "interrupted" : event.by, "")
        spent(event, event.by === "caller" ? "interrupted" : event.by)
        break
      case "AttemptCommitted":
        add("llm_time_to_first_part_seconds", { target: event.target, unit: "s" })
        break
      case "Waited":
        add("llm_wait_seconds", { target: event.target, for: event.for, unit: "s" })
        break
      case "AttemptRefused":
        add("llm_rejections_total", { target: event.target, by: event.by })
        if (event.shed !== undefined) add("llm_shed_total", { target: event.target, by: event.by, reason: event.shed })
        break
      case "RetryScheduled":
        add("llm_retries_total", { target: event.target, reason: classOf(event.error) })
        break
      case "RetryDenied":
        add("llm_retries_denied_total", { target: event.target, because: event.because })
        break
      case "TargetSkipped":
        add("llm_targets_skipped_total", { target: event.target, because: event.because })
        break
      case "Routed":
        add("llm_routed_total", { target: event.target, by: event.by })
        break
      case "FailedOver":
        add("llm_failovers_total", { from: event.from, to: event.to })
        break
      case "Idempotency":
        add("llm_idempotency_total", { result: event.result })
        break
      case "Cache":
        add("llm_cache_total", { result: event.result })
        if (event.result === "stale") add("llm_stale_age_seconds", { unit: "s" })
        break
      case "CircuitChanged":
        add("llm_breaker_transitions_total", { target: event.target, from: event.from, to: event.to })
        break
      case "StoreChanged":
        add("llm_store_changes_total", { store: event.store, to: event.to })
        break
      case "CallEnded": {
        const { error, operation, outcome, target = "none" } = event
        add("llm_calls_total", { operation, target, outcome, error: error === undefined ? "" : classOf(error) })
        add("llm_call_duration_seconds", { operation, outcome, unit: "s" })
        break
      }
    }
  }
  return counts
}

/** `docs/metrics.md`. Written by `npx vitest run test/observability/docs.test.ts -u`. */
export const page = (): string => {
  const rows = all.map(({ boundaries, description, kind, labels, name, prometheus, unit }) => [
    `\`${prometheus}\`${name === prometheus ? "" : `<br>\`${name}\``}`,
    kind,
    unit,
    labels.map((label) => `\`${label}\``).join(", "),
    description + (boundaries === undefined ? "" : ` Buckets: ${boundaries.join(", ")}.`)
  ])
  const line = (cells: ReadonlyArray<string>): string => `| ${cells.join(" | ")} |`
  return `# Metrics

Written from the table in \`src/observability/internal/table.ts\`; a test fails when this page is stale. The first name is the one
in Prometheus; the second, where there is one, is OpenTelemetry's. How to install them: [observability.md](observability.md).

Labels have values from closed sets. \`target\` is a target's id as configured (\`none\`: no target was asked; \`all\`: the bucket
that all targets share). \`error\` is one of ${
    [...errors].map((error) => `\`${error}\``).join(", ")
  }, or \`_OTHER\`; it is left out
where nothing failed. \`gen_ai.request.model\` is there only for \`Metrics.layer({ models })\`, and \`_OTHER\` for models that are not
in that list. Both generations of the GenAI conventions are listed; one of them is active. Of these,
\`time_per_output_chunk\` is not measured, because the library publishes no event per chunk.

${line(["name", "kind", "unit", "labels", "what"])}
${line(["---", "---", "---", "---", "---"])}
${rows.map(line).join("\n")}

Hit rate of the cache, where reading through it is on: \`llm_cache_total{result="fresh"}\` against \`fresh\` and \`miss\` together.
`
}
