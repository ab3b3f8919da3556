// The Grafana dashboard, built from the table of metrics. `npx vitest run test/observability/dashboard.test.ts -u` writes
// docs/observability/dashboard.json.
import { DashboardBuilder, DatasourceVariableBuilder, RowBuilder } from "@grafana/grafana-foundation-sdk/dashboard"
import { DataqueryBuilder } from "@grafana/grafana-foundation-sdk/prometheus"
import { PanelBuilder } from "@grafana/grafana-foundation-sdk/timeseries"
import { conventions, llm } from "effect-resilient-llm/observability/internal/table"

interface Panel {
  readonly title: string
  readonly unit: string
  readonly queries: ReadonlyArray<readonly [legend: string, expr: string]>
}

const rate = ({ prometheus }: { readonly prometheus: string }, by: string, where = ""): string =>
  `sum by (${by}) (rate(${prometheus}${where}[$__rate_interval]))`

const quantile = (q: number, { prometheus }: { readonly prometheus: string }, by = ""): string =>
  `histogram_quantile(${q}, sum by (le${by === "" ? "" : `, ${by}`}) (rate(${prometheus}_bucket[$__rate_interval])))`

const quantiles = (metric: { readonly prometheus: string }): Panel["queries"] =>
  ([[0.5, "p50"], [0.95, "p95"], [0.99, "p99"]] as const).map(([q, name]) => [name, quantile(q, metric)])

const counted = "{outcome=~\"success|failure\"}"

/** Rows of panels; every expression is a query that Prometheus answers. */
export const rows: ReadonlyArray<readonly [title: string, panels: ReadonlyArray<Panel>]> = [
  ["Overview", [
    { title: "Calls", unit: "reqps", queries: [["{{outcome}}", rate(llm.calls, "outcome")]] },
    {
      title: "Calls that get an answer",
      unit: "percentunit",
      queries: [[
        "answered",
        `sum(rate(${llm.calls.prometheus}{outcome=~"provider|replay|cache|stale"}[$__rate_interval]))` +
        ` / sum(rate(${llm.calls.prometheus}{outcome!="interrupted"}[$__rate_interval]))`
      ]]
    },
    { title: "Call duration", unit: "s", queries: quantiles(llm.callDuration) },
    {
      title: "Calls in flight",
      unit: "short",
      queries: [["{{operation}}", `sum by (operation) (${llm.inFlight.prometheus})`]]
    },
    {
      title: "Cache hit rate",
      unit: "percentunit",
      queries: [[
        "hits",
        `sum(rate(${llm.cache.prometheus}{result="fresh"}[$__rate_interval]))` +
        ` / sum(rate(${llm.cache.prometheus}{result=~"fresh|miss"}[$__rate_interval]))`
      ]]
    },
    { title: "Idempotency", unit: "reqps", queries: [["{{result}}", rate(llm.idempotency, "result")]] }
  ]],
  ["Providers", [
    { title: "Attempts", unit: "reqps", queries: [["{{target}} {{outcome}}", rate(llm.attempts, "target, outcome")]] },
    {
      title: "Error rate",
      unit: "percentunit",
      queries: [[
        "{{target}}",
        `${rate(llm.attempts, "target", "{outcome=\"failure\"}")} / ${rate(llm.attempts, "target", counted)}`
      ]]
    },
    {
      title: "Errors by class",
      unit: "reqps",
      queries: [["{{target}} {{error}}", rate(llm.attempts, "target, error", "{outcome=\"failure\"}")]]
    },
    {
      title: "Attempt duration, p95",
      unit: "s",
      queries: [["{{target}}", quantile(0.95, llm.attemptDuration, "target")]]
    },
    { title: "Time to first part, p95", unit: "s", queries: [["{{target}}", quantile(0.95, llm.firstPart, "target")]] },
    {
      title: "Circuit: 0 closed, 1 half-open, 2 open",
      unit: "short",
      queries: [["{{target}}", `max by (target) (${llm.breaker.prometheus})`]]
    },
    {
      title: "Changes of circuits",
      unit: "reqps",
      queries: [["{{target}} to {{to}}", rate(llm.transitions, "target, to")]]
    },
    {
      title: "GenAI client operations, p95",
      unit: "s",
      queries: [["{{gen_ai_provider_name}}", quantile(0.95, conventions["1.41.0"].duration, "gen_ai_provider_name")]]
    }
  ]],
  ["Retries and failover", [
    {
      title: "Retries by reason",
      unit: "reqps",
      queries: [["{{target}} {{reason}}", rate(llm.retries, "target, reason")]]
    },
    {
      title: "Retries denied",
      unit: "reqps",
      queries: [["{{target}} {{because}}", rate(llm.retriesDenied, "target, because")]]
    },
    { title: "Retry budget", unit: "short", queries: [["{{target}}", `min by (target) (${llm.budget.prometheus})`]] },
    { title: "Failovers", unit: "reqps", queries: [["{{from}} to {{to}}", rate(llm.failovers, "from, to")]] },
    {
      title: "Hedges",
      unit: "reqps",
      queries: [["{{from}} to {{to}}, {{result}}", rate(llm.hedges, "from, to, result")]]
    },
    {
      title: "Shadow mode",
      unit: "reqps",
      queries: [["{{target}} {{by}} {{decision}}", rate(llm.shadowed, "target, by, decision")]]
    },
    { title: "Stores", unit: "reqps", queries: [["{{store}} {{to}}", rate(llm.stores, "store, to")]] },
    {
      title: "Targets skipped",
      unit: "reqps",
      queries: [["{{target}} {{because}}", rate(llm.skips, "target, because")]]
    },
    { title: "Age of stale answers, p95", unit: "s", queries: [["p95", quantile(0.95, llm.staleAge)]] }
  ]],
  ["Guards", [
    {
      title: "Lines",
      unit: "short",
      queries: [
        ["{{target}} {{queue}}", `max by (target, queue) (${llm.queueDepth.prometheus})`],
        ["{{target}} {{queue}}, limit", `max by (target, queue) (${llm.queueLimit.prometheus})`]
      ]
    },
    { title: "Waits, p95", unit: "s", queries: [["{{target}} {{for}}", quantile(0.95, llm.wait, "target, for")]] },
    { title: "Refusals", unit: "reqps", queries: [["{{target}} {{by}}", rate(llm.rejections, "target, by")]] },
    { title: "Routed", unit: "reqps", queries: [["{{target}} {{by}}", rate(llm.routed, "target, by")]] },
    { title: "Shed", unit: "reqps", queries: [["{{target}} {{by}} {{reason}}", rate(llm.shed, "target, by, reason")]] },
    {
      title: "Permits",
      unit: "short",
      queries: [
        ["{{target}}", `max by (target) (${llm.permits.prometheus})`],
        ["{{target}}, limit", `max by (target) (${llm.permitsLimit.prometheus})`]
      ]
    }
  ]],
  ["Tokens", [
    {
      title: "Tokens",
      unit: "short",
      queries: [
        ["{{target}} {{direction}}", rate(llm.tokens, "target, direction")],
        ["{{target}} {{direction}} without an answer, at least", rate(llm.tokensAtLeast, "target, direction")]
      ]
    },
    {
      title: "Tokens of one request, p95",
      unit: "short",
      queries: [["{{gen_ai_token_type}}", quantile(0.95, conventions["1.41.0"].usage[0][1], "gen_ai_token_type")]]
    }
  ]]
]

/** All queries, with Grafana's interval filled in. */
export const queries = (interval = "1m"): ReadonlyArray<string> =>
  rows.flatMap(([, panels]) =>
    panels.flatMap((panel) => panel.queries.map(([, expr]) => expr.replaceAll("$__rate_interval", interval)))
  )

export const dashboard = (): string => {
  let builder = new DashboardBuilder("LLM calls")
    .uid("effect-resilient-llm")
    .tags(["llm", "effect-resilient-llm"])
    .refresh("10s")
    .time({ from: "now-1h", to: "now" })
    .timezone("browser")
    .withVariable(new DatasourceVariableBuilder("source").label("Data source").type("prometheus"))
  for (const [title, panels] of rows) {
    builder = builder.withRow(new RowBuilder(title))
    for (const panel of panels) {
      let one = new PanelBuilder()
        .title(panel.title)
        .unit(panel.unit)
        .min(0)
        .span(8)
        .height(7)
        .datasource({ type: "prometheus", uid: "${source}" })
      for (const [legend, expr] of panel.queries) {
        one = one.withTarget(new DataqueryBuilder().expr(expr).legendFormat(legend))
      }
      builder = builder.withPanel(one)
    }
  }
  return `${JSON.stringify(builder.build(), undefined, 2)}\n`
}
