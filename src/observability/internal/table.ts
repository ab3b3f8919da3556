// Every metric there is: what it is called, what it counts, in which labels. Updates, exporters, documentation and the
// dashboard follow this table.

export type Kind = "counter" | "gauge" | "histogram"

export interface Definition {
  readonly kind: Kind
  /** The name that OpenTelemetry sees. */
  readonly name: string
  /** The name that Prometheus sees. */
  readonly prometheus: string
  /** In UCUM, as OpenTelemetry wants it. */
  readonly unit: string
  readonly description: string
  readonly labels: ReadonlyArray<string>
  /** Upper bounds of a histogram's buckets, inclusive. */
  readonly boundaries?: ReadonlyArray<number>
}

/** Buckets of the GenAI conventions for durations, in seconds, and for tokens. */
export const durations = [0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92]
const tokens = Array.from({ length: 14 }, (_, i) => 4 ** i)
const ages = [1, 10, 60, 300, 900, 3600, 4 * 3600, 24 * 3600]

const own = <const L extends ReadonlyArray<string>>(
  kind: Kind,
  name: string,
  description: string,
  labels: L,
  unit = "1",
  boundaries?: ReadonlyArray<number>
) => ({ kind, name, prometheus: name, unit, description, labels, ...(boundaries === undefined ? {} : { boundaries }) })

const seconds = <const L extends ReadonlyArray<string>>(
  name: string,
  description: string,
  labels: L,
  boundaries = durations
) => own("histogram", name, description, labels, "s", boundaries)

/** What the library measures by names of its own. */
export const llm = {
  calls: own("counter", "llm_calls_total", "Calls that ended, by the source of the answer or by how they failed.", [
    "operation",
    "target",
    "outcome",
    "error"
  ]),
  attempts: own("counter", "llm_attempts_total", "Attempts that reached a provider and ended.", [
    "target",
    "provider",
    "operation",
    "outcome",
    "error"
  ]),
  retries: own("counter", "llm_retries_total", "Retries scheduled, by what failed before them.", ["target", "reason"]),
  retriesDenied: own("counter", "llm_retries_denied_total", "Failures worth a retry that got none, by why not.", [
    "target",
    "because"
  ]),
  hedges: own(
    "counter",
    "llm_hedges_total",
    "Attempts that started because another one was slow, or could not be paid.",
    [
      "from",
      "to",
      "result"
    ]
  ),
  failovers: own("counter", "llm_failovers_total", "Calls that moved on to another target.", ["from", "to"]),
  routed: own("counter", "llm_routed_total", "Calls by their first target, where routing or the request chose it.", [
    "target",
    "by"
  ]),
  skips: own("counter", "llm_targets_skipped_total", "Targets passed over without a call, by why.", [
    "target",
    "because"
  ]),
  rejections: own("counter", "llm_rejections_total", "Attempts refused by our own guards.", ["target", "by"]),
  shadowed: own("counter", "llm_shadow_decisions_total", "What patterns in shadow mode would have done.", [
    "target",
    "by",
    "decision"
  ]),
  shed: own("counter", "llm_shed_total", "Attempts turned away early, by where and why.", ["target", "by", "reason"]),
  transitions: own("counter", "llm_breaker_transitions_total", "Changes of a circuit breaker's state.", [
    "target",
    "from",
    "to"
  ]),
  stores: own("counter", "llm_store_changes_total", "A store that processes share went down, or came up again.", [
    "store",
    "to"
  ]),
  idempotency: own("counter", "llm_idempotency_total", "What became of idempotency keys.", ["result"]),
  cache: own("counter", "llm_cache_total", "What the response cache did.", ["result"]),
  tokens: own("counter", "llm_tokens_total", "Tokens that providers report.", ["target", "direction"], "{token}"),
  tokensAtLeast: own(
    "counter",
    "llm_tokens_at_least_total",
    "Tokens of attempts without an answer, as far as the vendor told them, else estimated: at least so many.",
    ["target", "direction", "outcome"],
    "{token}"
  ),
  callDuration: seconds(
    "llm_call_duration_seconds",
    "From the start of a call to its end, waits and retries included.",
    [
      "operation",
      "outcome"
    ]
  ),
  attemptDuration: seconds("llm_attempt_duration_seconds", "From asking a provider to the end of its answer.", [
    "target",
    "outcome"
  ]),
  firstPart: seconds("llm_time_to_first_part_seconds", "From asking a provider to the first content of a stream.", [
    "target"
  ]),
  wait: seconds("llm_wait_seconds", "Waits of more than nothing for a permit or for tokens.", ["target", "for"]),
  staleAge: seconds("llm_stale_age_seconds", "Age of the stale answers that stood in for failures.", [], ages),
  inFlight: own("gauge", "llm_calls_in_flight", "Calls that have begun and not ended.", ["operation"]),
  breaker: own("gauge", "llm_breaker_state", "Circuit breaker: 0 closed, 1 half-open, 2 open.", ["target"]),
  queueDepth: own("gauge", "llm_queue_depth", "Attempts waiting in a line.", ["target", "queue"]),
  queueLimit: own("gauge", "llm_queue_limit", "Places in a line; an attempt that finds none is refused.", [
    "target",
    "queue"
  ]),
  permits: own("gauge", "llm_permits_in_use", "Permits of a bulkhead that are taken.", ["target"]),
  permitsLimit: own("gauge", "llm_permits_limit", "Permits of a bulkhead.", ["target"]),
  budget: own("gauge", "llm_retry_budget", "Retries that the budget of a target would pay for now.", ["target"])
} as const satisfies Record<string, Definition>

const genAi = (name: string, description: string, labels: ReadonlyArray<string>): Definition => ({
  kind: "histogram",
  name,
  prometheus: `${name.replaceAll(".", "_")}_seconds`,
  unit: "s",
  description,
  labels,
  boundaries: durations
})

const genAiTokens = (
  kind: "counter" | "histogram",
  name: string,
  description: string,
  labels: ReadonlyArray<string>
): Definition => ({
  kind,
  name,
  prometheus: `${name.replaceAll(".", "_")}${kind === "counter" ? "_total" : ""}`,
  unit: "{token}",
  description,
  labels,
  ...(kind === "histogram" ? { boundaries: tokens } : undefined)
})

const common = ["gen_ai.operation.name", "gen_ai.provider.name", "gen_ai.request.model"]

/** The tokens that providers report. */
export type Direction = "input" | "output" | "cache_read" | "cache_write" | "reasoning"

export interface Convention {
  readonly duration: Definition
  readonly firstChunk: Definition
  /** Which tokens are counted where, with the value of `gen_ai.token.type` where there is such a label. */
  readonly usage: ReadonlyArray<readonly [direction: Direction, definition: Definition, type?: string]>
}

const usage = genAiTokens("histogram", "gen_ai.client.token.usage", "Tokens of one request.", [
  ...common,
  "gen_ai.token.type"
])
const inference = "gen_ai.client.inference"
const used = (name: string, description: string) =>
  genAiTokens("counter", `${inference}.usage.${name}`, description, common)
const perRequest = (name: string, description: string) =>
  genAiTokens("histogram", `${inference}.operation.${name}`, description, common)
const withError = [...common, "error.type"]

/** The GenAI client metrics of OpenTelemetry, as tools read them today and as they are going to be called. */
export const conventions = {
  "1.41.0": {
    duration: genAi("gen_ai.client.operation.duration", "Duration of one request to a provider.", withError),
    firstChunk: genAi(
      "gen_ai.client.operation.time_to_first_chunk",
      "Time to the first content of a stream.",
      common
    ),
    usage: [["input", usage, "input"], ["output", usage, "output"]]
  },
  latest: {
    duration: genAi(`${inference}.duration`, "Duration of one request to a provider.", withError),
    firstChunk: genAi(`${inference}.time_to_first_chunk`, "Time to the first content of a stream.", common),
    usage: [
      ["input", perRequest("input_tokens", "Input tokens of one request.")],
      ["output", perRequest("output_tokens", "Output tokens of one request.")],
      ["input", used("input_tokens", "Input tokens.")],
      ["output", used("output_tokens", "Output tokens.")],
      ["cache_read", used("cache_read.input_tokens", "Input tokens read from the provider's cache.")],
      ["cache_write", used("cache_write.input_tokens", "Input tokens written to the provider's cache.")],
      ["reasoning", used("reasoning.output_tokens", "Output tokens spent on reasoning.")]
    ]
  }
} as const satisfies Record<string, Convention>

/** All definitions, with both generations of the conventions. */
export const all: ReadonlyArray<Definition> = [
  ...Object.values(llm),
  ...Object.values<Convention>(conventions).flatMap(({ duration, firstChunk, usage }) =>
    [duration, firstChunk].concat([...new Set(usage.map(([, definition]) => definition))])
  )
]

export const prometheusNames: ReadonlyMap<string, string> = new Map(
  all.map(({ name, prometheus }) => [name, prometheus])
)

/** The values that the label `error` can have. */
export const errors: ReadonlySet<string> = new Set([
  "RateLimit",
  "Quota",
  "Overloaded",
  "Server",
  "Timeout",
  "Conflict",
  "Network",
  "MalformedResponse",
  "Authentication",
  "Permission",
  "NotFound",
  "ContextLength",
  "PayloadTooLarge",
  "ContentPolicy",
  "InvalidRequest",
  "ClientClosed",
  "Unknown",
  "StreamInterrupted",
  "AttemptTimeout",
  "DeadlineExceeded",
  "CircuitOpen",
  "RateLimited",
  "BulkheadFull",
  "Shed",
  "IdempotencyConflict",
  "IdempotencyInProgress",
  "AllProvidersFailed",
  "AllProvidersUnavailable"
])
