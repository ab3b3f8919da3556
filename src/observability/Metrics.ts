/**
 * Metrics of everything that clients do: by `llm_…` names of our own, and by the GenAI conventions of OpenTelemetry.
 *
 * They are Effect `Metric`s, so every exporter of Effect sees them. All labels have values from closed sets (targets as
 * configured, outcomes, error classes), so the number of series is bounded whatever callers ask: no key, no tenant, no
 * prompt, and no model name that you did not list. The table is in `docs/metrics.md`.
 *
 * @since 0.1.0
 * @see https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-metrics/
 */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Metric from "effect/Metric"
import type * as Scope from "effect/Scope"
import { providerName } from "../internal/attributes.ts"
import type { AttemptFailed, AttemptInterrupted, ErrorSummary, LlmEvent } from "../LlmEvent.ts"
import * as LlmObserver from "../LlmObserver.ts"
import type { Status, TargetStatus } from "../pipeline/target.ts"
import { Family, gauge } from "./internal/series.ts"
import { type Convention, conventions, type Definition, type Direction, errors, llm } from "./internal/table.ts"

/**
 * @category models
 * @since 0.1.0
 */
export interface Options {
  /** Which generation of the GenAI conventions. Default: `1.41.0`, which tools read today. */
  readonly semconv?: keyof typeof conventions | undefined
  /**
   * Models that get their own series in the GenAI metrics, by the names the providers are asked for; all others count
   * as `_OTHER`. Default: none, and no such label.
   */
  readonly models?: ReadonlyArray<string> | undefined
}

/**
 * Installs the metrics for the clients that this layer is provided to or merged with. Counters live as long as the registry that they are
 * in, as all of Effect's do, so that a last export finds them; gauges as long as their client. Clients, and layers, that
 * share a registry share its numbers: where several have a target of the same name, counts, lines and permits add up, and
 * of the circuits the worst shows. A client is counted once, however many of these layers it finds; of their options those of
 * one count.
 *
 * **Example** (Counting attempts)
 *
 * ```ts import.meta.vitest
 * import { Effect, Layer, Metric } from "effect"
 * import { LlmClient } from "effect-resilient-llm"
 * import { Metrics } from "effect-resilient-llm/observability"
 * import { ScriptedProvider } from "effect-resilient-llm/testing"
 *
 * class Vendor extends ScriptedProvider.Service<Vendor>()("app/Vendor") {}
 *
 * const live = LlmClient.layer([Vendor]).pipe(
 *   Layer.provide([Metrics.layer(), Vendor.layer([ScriptedProvider.answer("Hello.")])])
 * )
 * const program = Effect.gen(function*() {
 *   const client = yield* LlmClient
 *   yield* client.complete("Hi")
 *   const calls = (yield* Metric.snapshot).find(({ id }) => id === "llm_calls_total")
 *   return calls?.attributes
 * })
 * const alone = Effect.provideService(Metric.MetricRegistry, new Map()) // as in tests: numbers of its own
 * const attributes = await Effect.runPromise(alone(Effect.provide(program, live)))
 * attributes // => { operation: "complete", target: "Vendor", outcome: "provider" }
 * ```
 *
 * @category layers
 * @since 0.1.0
 */
export const layer = (options: Options = {}): Layer.Layer<never> =>
  Layer.unwrap(Effect.gen(function*() {
    const numbers = numbersIn(yield* Metric.MetricRegistry, yield* Metric.CurrentMetricAttributes)
    return LlmObserver.layer(make(options, numbers), { identity: numbers })
  }))

const OTHER = "_OTHER"
const SHARED = "all"
const CHAT = "chat"

/** The provider of a target, by its own name and by that of the conventions. */
interface Vendor {
  readonly provider: string
  readonly name: string
}

const stranger: Vendor = { provider: OTHER, name: OTHER }

/** Where the tokens of one direction are counted, with the value of `gen_ai.token.type` where there is such a label. */
interface Usage {
  readonly family: Family
  readonly isCounter: boolean
  readonly type: string | undefined
}

const usageOf = (numbers: Numbers, { usage }: Convention): Readonly<Record<Direction, ReadonlyArray<Usage>>> => {
  const found: Record<Direction, Array<Usage>> = {
    input: [],
    output: [],
    cache_read: [],
    cache_write: [],
    reasoning: []
  }
  for (const [direction, definition, type] of usage) {
    found[direction].push({ family: numbers.of(definition), isCounter: definition.kind === "counter", type })
  }
  return found
}

const errorOf = ({ reason, tag }: ErrorSummary): string => {
  const name = tag === "ProviderError" ? reason : tag
  return name !== undefined && errors.has(name) ? name : OTHER
}

interface Watched {
  readonly status: () => Status
  readonly targets: ReadonlyArray<string>
}

/** What a target has gauges of, when it has it at all. */
const OF_TARGET = ["circuit", "bulkhead", "limits", "retryBudget"] as const
type OfTarget = (typeof OF_TARGET)[number]

/** The numbers in one registry. */
class Numbers {
  readonly running = { complete: 0, stream: 0 }
  private readonly context: Context.Context<never>
  private readonly families = new Map<Definition, Family>()
  private readonly watched = new Set<Watched>()
  /** By target, then by what a client must have to show them. */
  private readonly gauges = new Map<string, Map<string, ReadonlyArray<Metric.Registration>>>()

  constructor(context: Context.Context<never>) {
    this.context = context
    for (const operation of ["complete", "stream"] as const) {
      gauge(llm.inFlight, context, [operation], () => this.running[operation])
    }
  }

  of(definition: Definition): Family {
    const known = this.families.get(definition)
    if (known !== undefined) return known
    const family = new Family(definition, this.context)
    this.families.set(definition, family)
    return family
  }

  // --- gauges: what the clients' own status says, when somebody looks ----------

  watch(client: LlmObserver.Observed): Effect.Effect<void, never, Scope.Scope> {
    return Effect.gen({ self: this }, function*() {
      const status = Effect.runSyncWith(yield* Effect.context())
      const one: Watched = { status: () => status(client.status), targets: client.targets.map(({ id }) => id) }
      yield* Effect.acquireRelease(
        Effect.sync(() => this.show(one)),
        () => Effect.sync(() => this.hide(one))
      )
    })
  }

  private show(one: Watched): void {
    this.watched.add(one)
    const status = one.status()
    for (const own of status.targets) {
      for (const what of OF_TARGET) {
        if (own[what] !== undefined) this.showOnce(`target ${own.id}`, what, () => this.ofTarget(own.id)[what]())
      }
    }
    if (status.rateLimit !== undefined) this.showOnce(SHARED, "rateLimit", () => this.ofAll())
  }

  private showOnce(name: string, what: string, show: () => ReadonlyArray<Metric.Registration>): void {
    const shown = this.gauges.get(name) ?? new Map<string, ReadonlyArray<Metric.Registration>>()
    this.gauges.set(name, shown)
    if (!shown.has(what)) shown.set(what, show())
  }

  private hide(one: Watched): void {
    this.watched.delete(one)
    const left = new Set([...this.watched].flatMap(({ targets }) => targets).map((target) => `target ${target}`))
    if (this.watched.size > 0) left.add(SHARED)
    for (const [name, registered] of this.gauges) {
      if (left.has(name)) continue
      for (const { remove } of [...registered.values()].flat()) remove()
      this.gauges.delete(name)
    }
  }

  private statuses(target: string): ReadonlyArray<TargetStatus> {
    return [...this.watched].flatMap(({ status, targets }) =>
      targets.includes(target) ? status().targets.filter(({ id }) => id === target) : []
    )
  }

  private ofTarget(target: string): Readonly<Record<OfTarget, () => ReadonlyArray<Metric.Registration>>> {
    const add = (definition: Definition, labels: ReadonlyArray<string>, read: () => number) =>
      gauge(definition, this.context, [target, ...labels], read)
    const sum = (read: (status: TargetStatus) => number | undefined) => (): number =>
      this.statuses(target).reduce((total, status) => total + (read(status) ?? 0), 0)
    return {
      circuit: () => [
        add(llm.breaker, [], () => Math.max(0, ...this.statuses(target).map(({ circuit }) => levelOf(circuit?.state))))
      ],
      bulkhead: () => [
        add(llm.permits, [], sum(({ bulkhead }) => bulkhead?.inUse)),
        add(llm.permitsLimit, [], sum(({ bulkhead }) => bulkhead?.maxConcurrent)),
        add(llm.queueDepth, ["bulkhead"], sum(({ bulkhead }) => bulkhead?.queued)),
        add(llm.queueLimit, ["bulkhead"], sum(({ bulkhead }) => bulkhead?.maxQueued))
      ],
      limits: () => [
        add(llm.queueDepth, ["limits"], sum(({ limits }) => limits?.queued)),
        add(llm.queueLimit, ["limits"], sum(({ limits }) => limits?.maxQueued))
      ],
      retryBudget: () => [add(llm.budget, [], sum(({ retryBudget }) => retryBudget))]
    }
  }

  private ofAll(): ReadonlyArray<Metric.Registration> {
    const add = (definition: Definition, read: (status: Status) => number | undefined) =>
      gauge(
        definition,
        this.context,
        [SHARED, "rate-limit"],
        () => [...this.watched].reduce((total, { status }) => total + (read(status()) ?? 0), 0)
      )
    return [
      add(llm.queueDepth, (status) => status.rateLimit?.queued),
      add(llm.queueLimit, (status) => status.rateLimit?.maxQueued)
    ]
  }
}

type Registry = (typeof Metric.MetricRegistry)["Service"]
type Attributes = (typeof Metric.CurrentMetricAttributes)["Service"]

// By registry, and by the attributes that all metrics of a program may have: those are equal when they say the same.
const numbers = new WeakMap<Registry, Map<string, Numbers>>()

const numbersIn = (registry: Registry, attributes: Attributes): Numbers => {
  const ofRegistry = numbers.get(registry) ?? new Map<string, Numbers>()
  numbers.set(registry, ofRegistry)
  const key = JSON.stringify(Object.entries(attributes).toSorted(([a], [b]) => a < b ? -1 : 1))
  const known = ofRegistry.get(key)
  if (known !== undefined) return known
  const context = Context.add(
    Context.make(Metric.MetricRegistry, registry),
    Metric.CurrentMetricAttributes,
    attributes
  )
  const made = new Numbers(context)
  ofRegistry.set(key, made)
  return made
}

/** The observer that counts. */
const make = (options: Options, counted: Numbers): LlmObserver.Observer => {
  const own = {
    calls: counted.of(llm.calls),
    attempts: counted.of(llm.attempts),
    retries: counted.of(llm.retries),
    retriesDenied: counted.of(llm.retriesDenied),
    hedges: counted.of(llm.hedges),
    shadowed: counted.of(llm.shadowed),
    failovers: counted.of(llm.failovers),
    routed: counted.of(llm.routed),
    skips: counted.of(llm.skips),
    rejections: counted.of(llm.rejections),
    shed: counted.of(llm.shed),
    transitions: counted.of(llm.transitions),
    stores: counted.of(llm.stores),
    idempotency: counted.of(llm.idempotency),
    cache: counted.of(llm.cache),
    tokens: counted.of(llm.tokens),
    tokensAtLeast: counted.of(llm.tokensAtLeast),
    callDuration: counted.of(llm.callDuration),
    attemptDuration: counted.of(llm.attemptDuration),
    firstPart: counted.of(llm.firstPart),
    wait: counted.of(llm.wait),
    staleAge: counted.of(llm.staleAge)
  }
  const convention: Convention = conventions[options.semconv ?? "1.41.0"]
  const genAi = {
    duration: counted.of(convention.duration),
    firstChunk: counted.of(convention.firstChunk),
    usage: usageOf(counted, convention)
  }
  const known = options.models === undefined ? undefined : new Set(options.models)
  const { running } = counted

  /** Prometheus sees a counter grow only from its second reading on, so what alerts wait for begins at zero. */
  const expect = (target: string): void => {
    own.retriesDenied.of(target, "budget")
    own.transitions.of(target, "closed", "open")
    for (const operation of ["complete", "stream"]) {
      own.calls.of(operation, target, "provider", "")
      own.calls.of(operation, target, "stale", "")
      own.calls.of(operation, target, "failure", "DeadlineExceeded")
      own.calls.of(operation, target, "failure", "AllProvidersFailed")
    }
  }

  return (client) =>
    Effect.gen(function*() {
      yield* counted.watch(client)
      for (const { id } of client.targets) expect(id)
      const vendors = new Map(
        client.targets.map(({ id, provider }) => [id, { provider, name: providerName(provider) }])
      )
      const vendorOf = (target: string): Vendor => vendors.get(target) ?? stranger
      const operations = new Map<number, "complete" | "stream">()
      // A stream that others read goes on when the call that began it has left; the last thousand are remembered.
      const left = new Set<number>()
      const leave = (call: number): void => {
        left.add(call)
        const [oldest] = left
        if (left.size > 1000 && oldest !== undefined) left.delete(oldest)
      }
      const models = new Map<number, string>()
      const modelOf = (call: number): string => known === undefined ? "" : models.get(call) ?? ""

      const ended = (
        { call, duration, injected, target }: {
          readonly call: number
          readonly target: string
          readonly duration: number
          readonly injected?: true
        },
        of: "success" | "failure" | "ignored" | "interrupted" | "lost" | "defect",
        error: string
      ): string => {
        // What was made up says nothing of a vendor, and nobody is to be woken by it.
        const outcome = injected === true ? "injected" : of
        const operation = operations.get(call) ?? (left.has(call) ? "stream" : "complete")
        const { name, provider } = vendorOf(target)
        const seconds = duration / 1000
        own.attempts.of(target, provider, operation, outcome, error).count += 1
        own.attemptDuration.of(target, outcome).observe(seconds)
        if (of === "interrupted" || of === "lost" || injected === true) return outcome
        const type = outcome === "success" ? "" : error === "" ? OTHER : error
        genAi.duration.of(CHAT, name, modelOf(call), type).observe(seconds)
        return outcome
      }
      const used = (
        { call, target }: { readonly call: number; readonly target: string },
        direction: Direction,
        count: number | undefined
      ): void => {
        if (count === undefined) return
        own.tokens.of(target, direction).count += count
        for (const { family, isCounter, type } of genAi.usage[direction]) {
          const series = family.of(CHAT, vendorOf(target).name, modelOf(call), type)
          if (isCounter) series.count += count
          else series.observe(count)
        }
      }

      /** What nobody got an answer for, apart from what vendors report: a sum of both would claim to be exact. */
      const unanswered = (event: AttemptFailed | AttemptInterrupted, outcome: string): void => {
        for (const [direction, count] of [["input", event.inputTokens], ["output", event.outputTokens]] as const) {
          if (event.atLeast !== true) used(event, direction, count)
          else if (count !== undefined) own.tokensAtLeast.of(event.target, direction, outcome).count += count
        }
      }

      return (event: LlmEvent): void => {
        switch (event._tag) {
          case "CallStarted":
            running[event.operation] += 1
            operations.set(event.call, event.operation)
            break
          case "AttemptStarted":
            // Work that others still wait for goes on after the end of the call that began it.
            if (known !== undefined && event.model !== undefined && operations.has(event.call)) {
              models.set(event.call, known.has(event.model) ? event.model : OTHER)
            }
            break
          case "AttemptCommitted":
            own.firstPart.of(event.target).observe(event.duration / 1000)
            genAi.firstChunk.of(CHAT, vendorOf(event.target).name, modelOf(event.call)).observe(event.duration / 1000)
            break
          case "AttemptSucceeded": {
            ended(event, "success", "")
            used(event, "input", event.inputTokens)
            used(event, "output", event.outputTokens)
            used(event, "cache_read", event.cacheReadTokens)
            used(event, "cache_write", event.cacheWriteTokens)
            used(event, "reasoning", event.reasoningTokens)
            break
          }
          case "AttemptFailed":
            unanswered(event, ended(event, event.outcome, errorOf(event.error)))
            break
          case "AttemptInterrupted":
            unanswered(event, ended(event, event.by === "caller" ? "interrupted" : event.by, ""))
            break
          case "Waited":
            own.wait.of(event.target, event.for).observe(event.duration / 1000)
            break
          case "AttemptRefused":
            own.rejections.of(event.target, event.by).count += 1
            if (event.shed !== undefined) own.shed.of(event.target, event.by, event.shed).count += 1
            break
          case "RetryScheduled":
            own.retries.of(event.target, errorOf(event.error)).count += 1
            break
          case "RetryDenied":
            own.retriesDenied.of(event.target, event.because).count += 1
            break
          case "TargetSkipped":
            own.skips.of(event.target, event.because).count += 1
            break
          case "Hedged":
            own.hedges.of(event.from, event.target, event.result).count += 1
            break
          case "Shadowed":
            own.shadowed.of(event.target, event.by, event.decision).count += 1
            break
          case "Routed":
            own.routed.of(event.target, event.by).count += 1
            break
          case "FailedOver":
            own.failovers.of(event.from, event.to).count += 1
            break
          case "Idempotency":
            own.idempotency.of(event.result).count += 1
            break
          case "Cache":
            own.cache.of(event.result).count += 1
            if (event.result === "stale" && event.age !== undefined) own.staleAge.of("").observe(event.age / 1000)
            break
          case "CircuitChanged":
            own.transitions.of(event.target, event.from, event.to).count += 1
            break
          case "StoreChanged":
            own.stores.of(event.store, event.to).count += 1
            break
          case "CallEnded": {
            const error = event.error === undefined ? "" : errorOf(event.error)
            running[event.operation] -= 1
            operations.delete(event.call)
            if (event.operation === "stream") leave(event.call)
            if (known !== undefined) models.delete(event.call)
            own.calls.of(event.operation, event.target ?? "none", event.outcome, error).count += 1
            own.callDuration.of(event.operation, event.outcome).observe(event.duration / 1000)
            break
          }
        }
      }
    })
}

const levelOf = (state: string | undefined): number =>
  state === "open" || state === "forced-open" ? 2 : state === "half-open" ? 1 : 0
