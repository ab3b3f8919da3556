// An hour of arrivals at a real service, played against scripted vendors, with a client in front of them.
import { Clock, Context, Effect, Exit, Layer, Random, Scope, Stream } from "effect"
import { existsSync, readFileSync } from "node:fs"
import { gunzipSync } from "node:zlib"
import { type Client, LlmClient, type LlmConfig, LlmError, LlmProvider, type LlmRequest } from "../../src/index.ts"
import { VirtualTime } from "./time.ts"

export interface Arrival {
  /** Milliseconds. */
  readonly at: number
  readonly context: number
  readonly generated: number
}

const folder = process.env["LLM_TRACES"] ?? "../shared/traces"

/** Where the traces are; `undefined`: not on this machine. */
export const traceFile = (name: "conv" | "code"): string | undefined => {
  const file = `${folder}/azure_llm_2023_${name}.csv.gz`
  return existsSync(file) ? file : undefined
}

/** One hour of arrivals: Azure LLM inference trace 2023 (CC-BY 4.0; Patel et al., "Splitwise", ISCA 2024). */
export const readTrace = (file: string): ReadonlyArray<Arrival> => {
  const rows = gunzipSync(readFileSync(file)).toString("utf8").trim().split("\n").slice(1)
  const arrivals = rows.map((row) => {
    const [time, context, generated] = row.split(",")
    // Seven decimals: more than a date takes.
    const [second, fraction] = time!.split(".")
    const at = Date.parse(`${second!.replace(" ", "T")}Z`) + Number(`0.${fraction ?? 0}`) * 1000
    return { at, context: Number(context), generated: Number(generated) }
  }).toSorted((a, b) => a.at - b.at)
  const start = arrivals[0]!.at
  return arrivals.map(({ at, context, generated }) => ({ at: at - start, context, generated }))
}

const minutes = (n: number): number => n * 60_000

/** What is wrong with a vendor, from minute to minute. */
export interface Outage {
  readonly from: number
  readonly to: number
  readonly kind: "overloaded" | "hangs"
}

/** The first vendor's hour. */
export const outages: ReadonlyArray<Outage> = [
  { from: 10, to: 25, kind: "overloaded" },
  { from: 35, to: 40, kind: "hangs" }
]

export interface VendorReport {
  readonly calls: number
  /** Of every call that was not refused: the whole context, and what was generated until it ended. */
  readonly tokens: number
}

const FIRST = 300
const PER_CONTEXT = 0.1
const PER_TOKEN = 15

const indexOf = (request: LlmRequest.LlmRequest): number => Number(request.prompt[0]?.content)

class Vendor {
  calls = 0
  tokens = 0
  readonly provider: LlmProvider.LlmProvider
  private readonly arrivals: ReadonlyArray<Arrival>
  private readonly outages: ReadonlyArray<Outage>

  constructor(id: string, arrivals: ReadonlyArray<Arrival>, outages: ReadonlyArray<Outage>) {
    this.arrivals = arrivals
    this.outages = outages
    this.provider = LlmProvider.make({
      id,
      generate: (request) =>
        Effect.scoped(
          Effect.flatMap(this.begin(request), ({ generated }) =>
            Effect.as(Effect.sleep(generated * PER_TOKEN), [
              { type: "text" as const, text: "." },
              finish(generated)
            ]))
        ),
      stream: (request) =>
        Stream.unwrap(Effect.map(this.begin(request), ({ generated }) =>
          Stream.concat(
            Stream.fromEffect(Effect.as(Effect.sleep(PER_TOKEN), { type: "text-delta" as const, id: "0", delta: "." })),
            Stream.fromEffect(Effect.as(Effect.sleep(Math.max(generated - 1, 0) * PER_TOKEN), finish(generated)))
          )))
    })
  }

  /** Until the vendor starts to generate. From here on it is paid for, whoever goes away. */
  private begin(request: LlmRequest.LlmRequest): Effect.Effect<Arrival, LlmError.ProviderError, Scope.Scope> {
    return Effect.gen({ self: this }, function*() {
      this.calls += 1
      const arrival = this.arrivals[indexOf(request)]!
      const outage = yield* this.outage
      if (outage === "hangs") return yield* Effect.never
      if (outage === "overloaded") {
        const { nextDoubleUnsafe } = yield* Random.Random
        if (nextDoubleUnsafe() < 0.9) {
          yield* Effect.sleep(200)
          return yield* Effect.fail(
            new LlmError.ProviderError({ provider: this.provider.id, reason: { _tag: "Overloaded" }, status: 503 })
          )
        }
      }
      const begun = (yield* clockMillis) + FIRST + PER_CONTEXT * arrival.context
      yield* Effect.addFinalizer(() =>
        Effect.map(clockMillis, (now) => {
          const generated = Math.min(Math.max((now - begun) / PER_TOKEN, 0), arrival.generated)
          this.tokens += arrival.context + Math.round(generated)
        })
      )
      yield* Effect.sleep(FIRST + PER_CONTEXT * arrival.context)
      return arrival
    })
  }

  private readonly outage = Effect.map(
    clockMillis,
    (now) => this.outages.find(({ from, to }) => now >= minutes(from) && now < minutes(to))?.kind
  )
}

const clockMillis = Effect.map(Clock.monotonicTimeNanos, (nanos) => Number(nanos) / 1e6)

const finish = (generated: number) => ({
  type: "finish" as const,
  reason: "stop" as const,
  usage: { inputTokens: { total: 1 }, outputTokens: { total: generated } }
})

export interface Report {
  readonly name: string
  readonly calls: number
  readonly answered: number
  /** Milliseconds; of all calls, also of those that failed. For a stream until the first content part. */
  readonly p50: number
  readonly p99: number
  readonly p999: number
  readonly longest: number
  readonly vendors: ReadonlyArray<VendorReport>
  readonly errors: Readonly<Record<string, number>>
}

export interface Scenario {
  readonly name: string
  readonly options: LlmConfig.Options
  readonly targets?: ReadonlyArray<Parameters<typeof LlmClient.target>[1]> | undefined
  /** What a call asks besides its prompt. */
  readonly input?: ((index: number) => Omit<LlmRequest.Input, "prompt">) | undefined
}

export interface World {
  readonly arrivals: ReadonlyArray<Arrival>
  readonly operation: "complete" | "stream"
  readonly seed: number
  readonly outages?: ReadonlyArray<Outage> | undefined
}

/** Plays the hour with one client. */
export const replay = ({ arrivals, operation, outages: ill = outages, seed }: World, scenario: Scenario): Report => {
  const time = new VirtualTime(seed)
  const vendors = [new Vendor("first", arrivals, ill), new Vendor("second", arrivals, [])]
  const scope = time.runToEnd(Scope.make())
  const [first, ...others] = vendors.map(({ provider }, i) => ({ ...scenario.targets?.[i], id: provider.id, provider }))
  const layer = LlmClient.layerDynamic([first!, ...others], scenario.options)
  const client: Client<LlmError.LlmError> = Context.get(
    time.runToEnd(Effect.provideService(Layer.build(layer), Scope.Scope, scope)),
    LlmClient
  )
  const took: Array<number> = []
  const errors: Record<string, number> = {}
  let answered = 0
  for (const [index, arrival] of arrivals.entries()) {
    time.at(arrival.at, () => {
      let until: number | undefined
      const input = { ...scenario.input?.(index), prompt: `${index}` }
      const call: Effect.Effect<unknown, LlmError.LlmError> = operation === "complete"
        ? client.complete(input)
        : Stream.runForEach(client.stream(input), (part) =>
          Effect.sync(() => {
            if (part.type === "text-delta") until ??= time.now
          }))
      time.start(call, (exit) => {
        took.push((until ?? time.now) - arrival.at)
        if (Exit.isSuccess(exit)) answered += 1
        else {
          const reason = exit.cause.reasons[0]
          const tag = reason?._tag === "Fail" ? reason.error._tag : String(reason?._tag)
          errors[tag] = (errors[tag] ?? 0) + 1
        }
      })
    })
  }
  time.run()
  time.runToEnd(Scope.close(scope, Exit.void))
  const sorted = took.toSorted((a, b) => a - b)
  const quantile = (q: number): number => sorted[Math.max(Math.ceil(q * sorted.length), 1) - 1]!
  return {
    name: scenario.name,
    calls: arrivals.length,
    answered,
    p50: quantile(0.5),
    p99: quantile(0.99),
    p999: quantile(0.999),
    longest: quantile(1),
    vendors: vendors.map(({ calls, tokens }) => ({ calls, tokens })),
    errors
  }
}

// -----------------------------------------------------------------------------
// tables
// -----------------------------------------------------------------------------

const seconds = (millis: number): string => `${(millis / 1000).toFixed(1)} s`
const millions = (tokens: number): string => (tokens / 1e6).toFixed(2)

/** Markdown. `needed`: what one answer to every call takes. */
export const table = (reports: ReadonlyArray<Report>, needed: number): string => {
  const head = ["", "p50", "p99", "p99.9", "longest", "answered", "calls 1st", "2nd", "M tokens 1st", "2nd", "extra"]
  const rows = reports.map(({ answered, calls, longest, name, p50, p99, p999, vendors }) => {
    const [first, second] = vendors as readonly [VendorReport, VendorReport]
    const extra = (first.tokens + second.tokens) / needed - answered / calls
    return [
      name,
      seconds(p50),
      seconds(p99),
      seconds(p999),
      seconds(longest),
      `${(Math.floor(answered / calls * 10_000) / 100).toFixed(2)} %`,
      `${first.calls}`,
      `${second.calls}`,
      millions(first.tokens),
      millions(second.tokens),
      `${(extra * 100).toFixed(1)} %`
    ]
  })
  return [head, head.map(() => "---"), ...rows].map((cells) => `| ${cells.join(" | ")} |`).join("\n")
}

export const needed = (arrivals: ReadonlyArray<Arrival>): number =>
  arrivals.reduce((sum, { context, generated }) => sum + context + generated, 0)
