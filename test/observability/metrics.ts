// Reading metrics in tests, and the page that documents them.
import { type Context, Effect, Metric } from "effect"
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
