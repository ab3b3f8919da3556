/**
 * What would have happened? A client's options, the production pipeline, hours of arrivals and vendors that fail, hang, slow
 * down and limit, played in virtual time: an hour with twenty thousand calls takes a second.
 *
 * Everything that a file can hold has a schema, so a scenario is code or JSON alike. The same seed gives the same report, byte
 * for byte; every policy meets the same arrivals.
 *
 * @since 0.2.0
 */
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import {
  attempt,
  duration,
  finiteDuration,
  integer,
  list,
  millis,
  number,
  oneOf,
  optionsOf,
  positive,
  readOption,
  readOptions,
  rule,
  text,
  withDefault
} from "../internal/option.ts"
import type { TargetOptions } from "../LlmClient.ts"
import type { Options as ClientOptions } from "../LlmConfig.ts"
import { LlmConfigError } from "../LlmError.ts"
import { callsOf } from "./internal/simulator/arrivals.ts"
import { page } from "./internal/simulator/page.ts"
import { play } from "./internal/simulator/play.ts"
import * as builtIn from "./internal/simulator/scenarios.ts"
import { incidentsToPhases } from "./internal/simulator/statuspage.ts"
import * as tables from "./internal/simulator/table.ts"
import { readCsv } from "./internal/simulator/trace.ts"
import type { VirtualTimeError } from "./VirtualTime.ts"

// -----------------------------------------------------------------------------
// arrivals
// -----------------------------------------------------------------------------

/**
 * How many tokens: always the same number, or half of the calls below `p50` and nine of ten below `p90`, as a log-normal
 * distribution has it.
 *
 * @category models
 * @since 0.2.0
 */
export type Tokens = number | {
  readonly p50: number
  readonly p90: number
  /** None has more. Default 100,000. */
  readonly max?: number | undefined
}

const amount = Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 1_000_000 }))

const tokens = Schema.Union([
  amount,
  Schema.Struct({ p50: positive, p90: positive, max: withDefault(amount, 100_000) }).check(
    rule(({ p50, p90 }) => p90 >= p50 ? undefined : ["p90", "a number of at least p50"])
  )
]).annotate({ expected: "a whole number of tokens up to a million, or { p50, p90, max }" })

/**
 * A kind of caller.
 *
 * @category models
 * @since 0.2.0
 */
export interface Caller {
  readonly tenant?: string | undefined
  readonly priority?: "critical" | "default" | "batch" | "sheddable" | undefined
  /** Its share of the calls, compared with that of the others. Default 1. */
  readonly weight?: number | undefined
}

const CallerSchema = optionsOf<Caller>()({
  tenant: Schema.optional(text("a name")),
  priority: Schema.optional(
    Schema.Literals(["critical", "default", "batch", "sheddable"])
      .annotate({ expected: "one of critical, default, batch, sheddable" })
  ),
  weight: withDefault(positive, 1)
})

/**
 * What all arrivals have in common.
 *
 * @category models
 * @since 0.2.0
 */
export interface Calls {
  /** Whole answers, or streams. Default `complete`. */
  readonly operation?: "complete" | "stream" | undefined
  /** Who calls. Default: one caller without a name. */
  readonly callers?: ReadonlyArray<Caller> | undefined
  /** How many different questions there are, for stale answers and caches. Default 0: each call asks another one. */
  readonly questions?: number | undefined
}

const callsFields = {
  operation: oneOf(["complete", "stream"], "complete"),
  callers: withDefault(list(CallerSchema, "a list of callers"), [{}]),
  questions: integer(0)
}

interface Generated extends Calls {
  /** How long calls arrive. Default 30 minutes. */
  readonly duration?: Duration.Input | undefined
  /** Tokens of a prompt. Default: half of them below 1,020, nine of ten below 2,735, none above 14,050. */
  readonly input?: Tokens | undefined
  /** Tokens of an answer. Default: half of them below 129, nine of ten below 424, none above 1,000. */
  readonly output?: Tokens | undefined
}

const generatedFields = {
  ...callsFields,
  duration: withDefault(finiteDuration(), "30 minutes"),
  // The conversations of the Azure LLM inference trace 2023.
  input: withDefault(tokens, { p50: 1020, p90: 2735, max: 14_050 }),
  output: withDefault(tokens, { p50: 129, p90: 424, max: 1000 })
}

/**
 * One call after the other, at the same distance.
 *
 * @category models
 * @since 0.2.0
 */
export interface Steady extends Generated {
  readonly kind: "steady"
  readonly perSecond: number
}

/**
 * Calls that know nothing of each other.
 *
 * @category models
 * @since 0.2.0
 */
export interface Poisson extends Generated {
  readonly kind: "poisson"
  /** On average. */
  readonly perSecond: number
}

/**
 * Two Poisson processes that take turns: calm, and bursts.
 *
 * @category models
 * @since 0.2.0
 */
export interface Bursty extends Generated {
  readonly kind: "bursty"
  readonly calmPerSecond: number
  readonly burstPerSecond: number
  /** How long it is calm on average. Default 1 minute. */
  readonly calm?: Duration.Input | undefined
  /** How long a burst lasts on average. Default 10 seconds. */
  readonly burst?: Duration.Input | undefined
}

/**
 * A call of a trace.
 *
 * @category models
 * @since 0.2.0
 */
export interface TracedCall {
  /** Milliseconds since the start. */
  readonly at: number
  readonly input: number
  readonly output: number
}

/**
 * Calls as they came once; see {@link readTrace}.
 *
 * @category models
 * @since 0.2.0
 */
export interface Trace extends Calls {
  readonly kind: "trace"
  readonly calls: ReadonlyArray<TracedCall>
}

/**
 * Who calls, when, and with how many tokens.
 *
 * @category models
 * @since 0.2.0
 */
export type Arrivals = Steady | Poisson | Bursty | Trace

const count = Schema.Finite.check(Schema.isGreaterThanOrEqualTo(0, { expected: "a number that is not negative" }))

const ArrivalsSchema = Schema.Union([
  optionsOf<Steady>()({ kind: Schema.Literal("steady"), perSecond: positive, ...generatedFields }),
  optionsOf<Poisson>()({ kind: Schema.Literal("poisson"), perSecond: positive, ...generatedFields }),
  optionsOf<Bursty>()({
    kind: Schema.Literal("bursty"),
    calmPerSecond: positive,
    burstPerSecond: positive,
    calm: withDefault(finiteDuration(), "1 minute"),
    burst: withDefault(finiteDuration(), "10 seconds"),
    ...generatedFields
  }),
  optionsOf<Trace>()({
    kind: Schema.Literal("trace"),
    calls: list(Schema.Struct({ at: count, input: count, output: count }), "a list of calls"),
    ...callsFields
  })
]).annotate({ expected: "arrivals of kind steady, poisson, bursty or trace" })

// -----------------------------------------------------------------------------
// vendors
// -----------------------------------------------------------------------------

/**
 * How long an answer takes: `firstToken`, and for each token of the prompt and of the answer so many milliseconds.
 *
 * @category models
 * @since 0.2.0
 */
export interface Latency {
  /** Default 300 ms. */
  readonly firstToken?: Duration.Input | undefined
  /** Milliseconds. Default 0.1. */
  readonly perInputToken?: number | undefined
  /** Milliseconds. Default 15. */
  readonly perOutputToken?: number | undefined
  /**
   * How much calls differ: each takes `e` to the power of `spread` times a normal number as long. Default 0: not at all; with
   * 0.5 one call of ten takes twice as long.
   */
  readonly spread?: number | undefined
}

const LatencySchema = optionsOf<Latency>()({
  firstToken: millis("300 millis"),
  perInputToken: number(0.1, 0),
  perOutputToken: number(15, 0),
  spread: number(0, 0, 3)
})

/**
 * What a vendor grants. Above it, it answers with 429 and a `retry-after` in whole seconds; what is left it says with every
 * answer, as its headers would.
 *
 * @category models
 * @since 0.2.0
 */
export interface Limits {
  /** Refilled continuously. Default: any number. */
  readonly requestsPerMinute?: number | undefined
  /** Tokens of prompts and answers, refilled continuously. Default: any number. */
  readonly tokensPerMinute?: number | undefined
  /** Calls at a time. Default: any number. */
  readonly concurrent?: number | undefined
}

const LimitsSchema = optionsOf<Limits>()({
  requestsPerMinute: Schema.optional(positive),
  tokensPerMinute: Schema.optional(positive),
  concurrent: Schema.optional(positive)
})

/**
 * When a phase is on.
 *
 * @category models
 * @since 0.2.0
 */
export interface When {
  /** Since the start. Default 0. */
  readonly from?: Duration.Input | undefined
  /** Since the start. Default: to the end. */
  readonly to?: Duration.Input | undefined
  /** It comes and goes: it begins anew this often. Default: it stays. */
  readonly every?: Duration.Input | undefined
  /** How long it stays each time, with `every`. Default: half of `every`. */
  readonly lasts?: Duration.Input | undefined
}

const whenFields = {
  from: millis(0),
  to: millis(Infinity),
  every: Schema.optional(finiteDuration()),
  lasts: Schema.optional(duration())
}

/** What would never be on, or is on otherwise than it says. */
const whenRule = rule<{
  readonly from: number
  readonly to: number
  readonly every?: number | undefined
  readonly lasts?: number | undefined
}>(({ every, from, lasts, to }) => {
  if (to <= from) return ["to", "after `from`"]
  if (lasts === undefined) return undefined
  if (every === undefined) return ["every", "given, where there is `lasts`"]
  return lasts > every ? ["lasts", "at most `every`"] : undefined
})

const share = number(1, 0, 1)

/**
 * The vendor refuses a share of the calls: `overload` 503, `error` 500, `rate-limit` 429, `quota` 429 for an account without
 * credit, `unreachable` no connection.
 *
 * @category models
 * @since 0.2.0
 */
export interface Refusing extends When {
  readonly kind: "overload" | "error" | "rate-limit" | "quota" | "unreachable"
  /** Of the calls, from 0 to 1. Default 1. */
  readonly share?: number | undefined
  /** How long the refusal takes. Default 200 ms. */
  readonly after?: Duration.Input | undefined
  /** The hint that comes with it. Default: none. */
  readonly retryAfter?: Duration.Input | undefined
}

/**
 * The vendor takes a share of the calls and says nothing more.
 *
 * @category models
 * @since 0.2.0
 */
export interface Hanging extends When {
  readonly kind: "hang"
  /** Default 1. */
  readonly share?: number | undefined
}

/**
 * Answers take longer: `factor` times as long, and their first token comes `firstToken` later.
 *
 * @category models
 * @since 0.2.0
 */
export interface Slow extends When {
  readonly kind: "slow"
  /** Default 1. */
  readonly factor?: number | undefined
  /** Default 0. */
  readonly firstToken?: Duration.Input | undefined
}

/**
 * A share of the answers breaks off in the middle.
 *
 * @category models
 * @since 0.2.0
 */
export interface Cutting extends When {
  readonly kind: "cut"
  /** Default 1. */
  readonly share?: number | undefined
  /** The part of the answer that still comes, from 0 to 1. Default 0.5. */
  readonly at?: number | undefined
}

/**
 * The vendor has little room: above so many calls at a time it answers 503.
 *
 * @category models
 * @since 0.2.0
 */
export interface Narrow extends When {
  readonly kind: "capacity"
  readonly concurrent: number
}

/**
 * What a vendor goes through. Phases may overlap: the first one that refuses or hangs decides, slowness adds up. A call is
 * told when it begins; what is under way when a phase comes stays as it was.
 *
 * @category models
 * @since 0.2.0
 */
export type Phase = Refusing | Hanging | Slow | Cutting | Narrow

const refusing = optionsOf<Refusing>()({
  kind: Schema.Literals(["overload", "error", "rate-limit", "quota", "unreachable"]),
  share,
  after: millis("200 millis"),
  retryAfter: Schema.optional(duration()),
  ...whenFields
}).fields

const PhaseSchema = Schema.Union([
  // One for each kind: by a single literal a union knows which of its members is meant, and whose complaint counts.
  ...refusing.kind.literals.map((kind) => Schema.Struct({ ...refusing, kind: Schema.Literal(kind) })),
  optionsOf<Hanging>()({ kind: Schema.Literal("hang"), share, ...whenFields }),
  optionsOf<Slow>()({ kind: Schema.Literal("slow"), factor: number(1, 0), firstToken: millis(0), ...whenFields }),
  optionsOf<Cutting>()({ kind: Schema.Literal("cut"), share, at: number(0.5, 0, 1), ...whenFields }),
  optionsOf<Narrow>()({ kind: Schema.Literal("capacity"), concurrent: count, ...whenFields })
]).annotate({
  expected: "a phase of kind overload, error, rate-limit, quota, unreachable, hang, slow, cut or capacity"
}).check(whenRule)

/**
 * A vendor, in the order in which a client's targets stand.
 *
 * @category models
 * @since 0.2.0
 */
export interface Vendor {
  readonly id: string
  readonly latency?: Latency | undefined
  /** Default: none. */
  readonly limits?: Limits | undefined
  /** Default: it is well. */
  readonly phases?: ReadonlyArray<Phase> | undefined
}

const VendorSchema = optionsOf<Vendor>()({
  id: text("a name"),
  latency: withDefault(LatencySchema, {}),
  limits: Schema.optional(LimitsSchema),
  phases: withDefault(Schema.Array(PhaseSchema).annotate({ expected: "a list of phases" }), [])
})

// -----------------------------------------------------------------------------
// scenarios
// -----------------------------------------------------------------------------

/**
 * Arrivals and vendors: what a file holds.
 *
 * @category models
 * @since 0.2.0
 */
export interface Scenario {
  /** Default `scenario`. */
  readonly name?: string | undefined
  /** What happens, in a sentence. */
  readonly about?: string | undefined
  readonly arrivals: Arrivals
  readonly vendors: ReadonlyArray<Vendor>
}

/**
 * The schema of {@link Scenario}: what code and JSON may say, and what is there when they say nothing.
 *
 * @category schemas
 * @since 0.2.0
 */
export const ScenarioSchema = optionsOf<Scenario>()({
  name: withDefault(text("a name"), "scenario"),
  about: Schema.optional(Schema.String),
  arrivals: ArrivalsSchema,
  vendors: list(VendorSchema, "a list of at least one vendor")
}).check(
  rule(({ vendors }) =>
    new Set(vendors.map(({ id }) => id)).size === vendors.length ? undefined : ["vendors", "vendors of different names"]
  )
)

/**
 * Options of a client, and the name under which the report has them.
 *
 * @category models
 * @since 0.2.0
 */
export interface Policy {
  readonly name: string
  /** As for a client. Default: all defaults. */
  readonly options?: ClientOptions | undefined
  /** What targets have of their own, by the vendor's name. */
  readonly targets?: Readonly<Record<string, Omit<TargetOptions, "id">>> | undefined
}

const PoliciesSchema = list(
  Schema.Struct({
    name: text("a name"),
    // A client checks them, and says what is wrong with them.
    options: Schema.optional(Schema.Unknown),
    targets: Schema.optional(Schema.Unknown)
  }),
  "a list of at least one policy"
).check(
  rule((all) =>
    new Set(all.map(({ name }) => name)).size === all.length ? undefined : [[], "policies of different names"]
  )
)

const SeedSchema = Schema.Number.annotate({ expected: "a whole number" })
  .check(Schema.makeFilter((n: number) => Number.isSafeInteger(n), { expected: "a whole number" }))

/**
 * What {@link run} needs.
 *
 * @category models
 * @since 0.2.0
 */
export interface Options extends Scenario {
  /** Played one after the other; at least one, and no two of one name. */
  readonly policies: ReadonlyArray<Policy>
  /** Where chance begins: a whole number. Default 1. */
  readonly seed?: number | undefined
  /** Is told, now and then, how many calls of a policy have ended. */
  readonly progress?: ((policy: string, ended: number, calls: number) => void) | undefined
}

/**
 * Reads a scenario from parsed JSON. Fails with the path and the rule of what is wrong, unknown options included.
 *
 * **Example** (A wrong scenario)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { Simulator } from "effect-resilient-llm/testing"
 *
 * const error = Effect.runSync(Effect.flip(Simulator.fromJson({
 *   arrivals: { kind: "poisson", perSecond: 5 },
 *   vendors: [{ id: "first", phases: [{ kind: "hang", share: 2 }] }]
 * })))
 * error.path // => "vendors[0].phases[0].share"
 * error.rule // => "a number from 0 to 1"
 * ```
 *
 * @category constructors
 * @since 0.2.0
 */
export const fromJson = (json: unknown): Effect.Effect<Scenario, LlmConfigError> =>
  attempt(() => {
    readOptions(ScenarioSchema, json, "")
    return json as Scenario
  })

/**
 * Reads the calls of a trace: a CSV with a header, and in each line a time, the tokens of the prompt and those of the answer.
 * A time is a number of seconds, or a date as `2023-11-16 18:15:46.6805900`. Fails with the line that is wrong.
 *
 * **Example** (Two calls)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { Simulator } from "effect-resilient-llm/testing"
 *
 * const csv = "time,input,output\n0.5,374,44\n2.25,396,109\n"
 * const { calls } = await Effect.runPromise(Simulator.readTrace(csv))
 * calls[1] // => { at: 1750, input: 396, output: 109 }
 * ```
 *
 * @category constructors
 * @since 0.2.0
 */
export const readTrace = (csv: string): Effect.Effect<Trace, LlmConfigError> =>
  attempt(() => ({ kind: "trace", calls: readCsv(csv) }))

/**
 * How {@link fromIncidents} reads a status page.
 *
 * @category models
 * @since 0.2.0
 */
export interface IncidentOptions {
  /** The moment at which the simulation starts, as a date. Default: ten minutes before the first incident. */
  readonly start?: string | undefined
  /** Only incidents whose id or name contains this. Default: all. */
  readonly only?: string | undefined
}

/**
 * The phases of a vendor, from the file that a status page of Atlassian's Statuspage gives at `/api/v2/incidents.json`.
 *
 * **Details**
 *
 * A page says how much an incident mattered, not what a request met. It is taken so:
 *
 * | impact | phase |
 * | --- | --- |
 * | `none`, `maintenance` | none |
 * | `minor` | answers take twice as long, and 5 % of the calls get 503 |
 * | `major` | half of the calls get 503 |
 * | `critical` | 95 % of the calls get 503 |
 *
 * It lasts from `started_at` (or `created_at`) to `resolved_at`, without one to the end.
 *
 * @category constructors
 * @since 0.2.0
 */
export const fromIncidents = (
  document: unknown,
  options: IncidentOptions = {}
): Effect.Effect<ReadonlyArray<Phase>, LlmConfigError> => attempt(() => incidentsToPhases(document, options))

/**
 * Scenarios to begin with, by name, each of half an hour with five calls a second: `overload`, `hang`, `brown-out`,
 * `quota-at-noon`, `region-loss`, `flapping`, `slow-first-token`, `bad-deploy`; `rate-limit-storm`, whose calls come in
 * bursts; and `outage`, which is an hour.
 *
 * @category constructors
 * @since 0.2.0
 */
export const scenarios: Readonly<Record<builtIn.Name, Scenario>> = builtIn.scenarios

// -----------------------------------------------------------------------------
// reports
// -----------------------------------------------------------------------------

/**
 * Milliseconds of all calls, those that failed included: nearest rank.
 *
 * @category models
 * @since 0.2.0
 */
export interface Quantiles {
  readonly p50: number
  readonly p95: number
  readonly p99: number
  readonly p999: number
  readonly longest: number
}

/**
 * What a vendor saw.
 *
 * @category models
 * @since 0.2.0
 */
export interface VendorReport {
  readonly id: string
  /** Requests that reached it. */
  readonly requests: number
  /** Of them, those that it refused or broke off; not those that somebody gave up. */
  readonly failures: number
  /** Billed: the prompts of all that were not refused, and what was generated until they ended. */
  readonly inputTokens: number
  readonly outputTokens: number
}

/**
 * How a kind of caller fared.
 *
 * @category models
 * @since 0.2.0
 */
export interface CallerReport {
  readonly tenant?: string | undefined
  readonly priority?: string | undefined
  readonly calls: number
  readonly answered: number
  readonly latency: Quantiles
}

/**
 * A circuit breaker that changed.
 *
 * @category models
 * @since 0.2.0
 */
export interface CircuitChange {
  /** Milliseconds since the start. */
  readonly at: number
  readonly vendor: string
  readonly to: string
}

/**
 * What happened from one interval to the next. A call counts where it arrived.
 *
 * @category models
 * @since 0.2.0
 */
export interface Series {
  readonly answered: ReadonlyArray<number>
  readonly failed: ReadonlyArray<number>
  /** The slowest hundredth, in milliseconds; `null`: no call. */
  readonly p99: ReadonlyArray<number | null>
  /** Calls that have begun and not ended, at the end of the interval. */
  readonly inFlight: ReadonlyArray<number>
  /** Of them, those that wait in a line: of the client's bucket, of a target's limits or bulkhead. */
  readonly queued: ReadonlyArray<number>
  /** Requests that reached each vendor. */
  readonly requests: Readonly<Record<string, ReadonlyArray<number>>>
}

/**
 * How a policy fared.
 *
 * @category models
 * @since 0.2.0
 */
export interface PolicyReport {
  readonly name: string
  readonly calls: number
  /** Stale answers included. */
  readonly answered: number
  /** The answered share, from 0 to 1. */
  readonly availability: number
  /** Until the whole answer, or the failure. */
  readonly latency: Quantiles
  /** Until the first content, or the failure. Of a whole answer the same as `latency`. */
  readonly firstToken: Quantiles
  /** Requests that were sent, retries and hedges included. */
  readonly attempts: number
  readonly retries: number
  readonly failovers: number
  readonly hedges: number
  /** Old answers that stood in for failures. */
  readonly stale: number
  /** Answers from the cache, and of other calls with the same question. */
  readonly cached: number
  /** What was billed above one answer to each call that a vendor answered, as a share of that. */
  readonly extraTokens: number
  /** Failed calls, by the tag of their error. */
  readonly errors: Readonly<Record<string, number>>
  readonly vendors: ReadonlyArray<VendorReport>
  readonly callers: ReadonlyArray<CallerReport>
  /** At most 1,000 changes. */
  readonly circuits: ReadonlyArray<CircuitChange>
  readonly series: Series
}

/**
 * What {@link run} gives: plain data.
 *
 * @category models
 * @since 0.2.0
 */
export interface Report {
  readonly scenario: string
  readonly about?: string | undefined
  readonly operation: "complete" | "stream"
  readonly seed: number
  readonly calls: number
  /** Milliseconds of one interval of the series; there are at most 120 of them, until the last call arrives. */
  readonly interval: number
  readonly arrivals: ReadonlyArray<number>
  /** What the vendors went through, in milliseconds since the start. */
  readonly phases: ReadonlyArray<
    { readonly vendor: string; readonly kind: string; readonly from: number; readonly to: number }
  >
  readonly policies: ReadonlyArray<PolicyReport>
}

/**
 * Plays a scenario with each policy: the production client in front of the vendors, in virtual time. At most a million calls.
 *
 * **Example** (With and without a second vendor to turn to)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { Simulator } from "effect-resilient-llm/testing"
 *
 * const program = Simulator.run({
 *   arrivals: { kind: "poisson", perSecond: 2, duration: "5 minutes" },
 *   vendors: [{ id: "first", phases: [{ kind: "overload", from: "1 minute", to: "3 minutes" }] }, { id: "second" }],
 *   policies: [{ name: "defaults" }, { name: "alone", options: { failover: false } }],
 *   seed: 17
 * })
 * const { policies } = await Effect.runPromise(program)
 * policies[0]?.availability // => 1
 * policies[1]!.availability < 0.7 // => true
 * ```
 *
 * @category running
 * @since 0.2.0
 */
export const run = (
  { policies, progress, seed = 1, ...scenario }: Options
): Effect.Effect<Report, LlmConfigError | VirtualTimeError> =>
  Effect.gen(function*() {
    const world = yield* attempt(() => {
      const { about, arrivals, name, vendors } = readOptions(ScenarioSchema, scenario, "")
      readOption(SeedSchema, seed, "seed")
      readOption(PoliciesSchema, policies, "policies")
      const calls = callsOf(arrivals, seed)
      return { about, name, vendors, calls, operation: arrivals.operation, callers: arrivals.callers, seed }
    })
    const reports = yield* Effect.forEach(policies, (policy, i) =>
      play(world, policy, (ended) =>
        progress?.(policy.name, ended, world.calls.list.length)).pipe(
          Effect.catchTag("LlmConfigError", ({ kind, path, rule }) =>
            Effect.fail(new LlmConfigError({ path: `policies[${i}].${path}`, rule, kind })))
        ))
    return {
      scenario: world.name,
      ...(world.about === undefined ? undefined : { about: world.about }),
      operation: world.operation,
      seed,
      calls: world.calls.list.length,
      ...world.calls.series,
      phases: world.calls.phasesOf(world.vendors),
      policies: reports
    }
  })

/**
 * The report as a table of text, which is Markdown.
 *
 * @category rendering
 * @since 0.2.0
 */
export const table = (report: Report): string => tables.table(report)

/**
 * The report as one HTML page with charts. It needs no network, and runs no script.
 *
 * @category rendering
 * @since 0.2.0
 */
export const html = (report: Report): string => page(report)
