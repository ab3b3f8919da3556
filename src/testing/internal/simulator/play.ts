// One policy, one client, all calls: what is told of it is added up while it happens.
import * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Stream from "effect/Stream"
import { type DynamicTarget, LlmClient, type Status } from "../../../LlmClient.ts"
import { LlmConfigError, type LlmError } from "../../../LlmError.ts"
import type { LlmEvent } from "../../../LlmEvent.ts"
import * as LlmObserver from "../../../LlmObserver.ts"
import type { CircuitChange, Policy, PolicyReport, Quantiles, ScenarioSchema } from "../../Simulator.ts"
import * as VirtualTime from "../../VirtualTime.ts"
import type { Calls } from "./arrivals.ts"
import { SimulatedVendor } from "./vendor.ts"

type Scenario = typeof ScenarioSchema.Type

export interface World {
  readonly vendors: Scenario["vendors"]
  readonly calls: Calls
  readonly callers: Scenario["arrivals"]["callers"]
  readonly operation: "complete" | "stream"
  readonly seed: number
}

/** Between two words about how far it is. */
const NEWS = 256

export const play = (
  world: World,
  policy: Policy,
  progress: (ended: number) => void
): Effect.Effect<PolicyReport, LlmConfigError | VirtualTime.VirtualTimeError> =>
  Effect.suspend(() => {
    const { callers, calls: { list }, operation } = world
    const vendors = world.vendors.map((vendor) => new SimulatedVendor(vendor, list))
    const time = VirtualTime.make({ seed: world.seed })
    const tally = new Tally(world)
    const inputs = callers.map(({ priority, tenant }) => ({ priority, tenant }))

    const program = Effect.gen(function*() {
      const client = yield* clientOf(policy, vendors, (event) => tally.hear(event, time.now()))
      const context = yield* Effect.context()
      const start = Effect.runForkWith(context)
      const over = yield* Deferred.make<void>()
      const ended = (index: number, isAnswered: boolean, content: number | undefined): void => {
        const now = time.now()
        tally.end(index, isAnswered, now, content ?? now)
        if (tally.ended % NEWS === 0) progress(tally.ended)
        if (tally.ended === list.length) Deferred.doneUnsafe(over, Effect.void)
      }
      // One after the other: what waits for its moment from the start on is old, and keeps the young of its call alive.
      const arrive = (index: number): void => {
        const next = list[index]
        if (next === undefined) return
        const { at, caller, question } = next
        time.at(at, () => {
          arrive(index + 1)
          let content: number | undefined
          tally.begin()
          const input = { ...inputs[caller], prompt: `${question}` }
          const call: Effect.Effect<unknown, LlmError> = operation === "complete"
            ? client.complete(input)
            : Stream.runForEach(client.stream(input), (part) =>
              Effect.sync(() => {
                if (part.type === "text-delta") content ??= time.now()
              }))
          start(call).addObserver((exit) => {
            if (Exit.isFailure(exit)) tally.fail(exit)
            ended(index, Exit.isSuccess(exit), content)
          })
        })
      }
      arrive(0)
      const { arrivals, interval } = world.calls.series
      for (let i = 1; i <= arrivals.length; i++) {
        time.at(i * interval, () => {
          start(client.status).addObserver((exit) => {
            if (Exit.isSuccess(exit)) tally.look(i - 1, exit.value)
          })
        })
      }
      yield* Deferred.await(over)
    })
    return Effect.map(time.run(Effect.scoped(program)), () => tally.report(policy.name, vendors))
  })

const clientOf = (policy: Policy, vendors: ReadonlyArray<SimulatedVendor>, hear: (event: LlmEvent) => void) =>
  Effect.gen(function*() {
    const own = policy.targets ?? {}
    const names = vendors.map(({ provider }) => provider.id)
    const stranger = Object.keys(own).find((name) => !names.includes(name))
    if (stranger !== undefined) {
      return yield* new LlmConfigError({
        path: `targets.${stranger}`,
        rule: `one of ${names.join(", ")}`,
        kind: "an unknown vendor"
      })
    }
    const [first, ...others] = vendors.map(({ provider }): DynamicTarget => ({
      ...(Object.hasOwn(own, provider.id) ? own[provider.id] : undefined),
      id: provider.id,
      provider
    }))
    const layer = Layer.provide(
      LlmClient.layerDynamic([first!, ...others], policy.options ?? {}),
      LlmObserver.layer(() => Effect.succeed(hear))
    )
    return Context.get(yield* Layer.build(layer), LlmClient)
  })

// -----------------------------------------------------------------------------
// counts
// -----------------------------------------------------------------------------

const MAX_CIRCUITS = 1000

class Tally {
  ended = 0
  private readonly world: World
  private readonly took: Float64Array
  private readonly content: Float64Array
  private readonly isAnswered: Uint8Array
  private begun = 0
  private readonly counts = { attempts: 0, retries: 0, failovers: 0, hedges: 0, stale: 0, cached: 0 }
  private readonly errors: Record<string, number> = {}
  private readonly circuits: Array<CircuitChange> = []
  private owed = 0
  private readonly inFlight: Array<number>
  private readonly queued: Array<number>
  private readonly requests = new Map<string, Array<number>>()

  constructor(world: World) {
    this.world = world
    const { list, series } = world.calls
    this.took = new Float64Array(list.length)
    this.content = new Float64Array(list.length)
    this.isAnswered = new Uint8Array(list.length)
    const zeros = () => series.arrivals.map(() => 0)
    this.inFlight = zeros()
    this.queued = zeros()
    for (const { id } of world.vendors) this.requests.set(id, zeros())
  }

  begin(): void {
    this.begun += 1
  }

  fail(exit: Exit.Failure<unknown, LlmError>): void {
    const reason = exit.cause.reasons[0]
    const tag = reason?._tag === "Fail" ? reason.error._tag : String(reason?._tag)
    this.errors[tag] = (this.errors[tag] ?? 0) + 1
  }

  end(index: number, isAnswered: boolean, now: number, content: number): void {
    const { at } = this.world.calls.list[index]!
    this.took[index] = now - at
    this.content[index] = content - at
    this.isAnswered[index] = isAnswered ? 1 : 0
    this.ended += 1
  }

  hear(event: LlmEvent, now: number): void {
    const { counts } = this
    switch (event._tag) {
      case "AttemptStarted": {
        counts.attempts += 1
        const requests = this.requests.get(event.target)!
        const interval = this.world.calls.intervalOf(now)
        if (interval < requests.length) requests[interval]! += 1
        break
      }
      case "AttemptSucceeded":
        this.owed += (event.inputTokens ?? 0) + (event.outputTokens ?? 0)
        break
      case "RetryScheduled":
        counts.retries += 1
        break
      case "FailedOver":
        counts.failovers += 1
        break
      case "Hedged":
        if (event.result === "started") counts.hedges += 1
        break
      case "CircuitChanged":
        if (this.circuits.length < MAX_CIRCUITS) {
          this.circuits.push({ at: Math.round(now), vendor: event.target, to: event.to })
        }
        break
      case "CallEnded":
        if (event.outcome === "stale") counts.stale += 1
        if (event.outcome === "cache" || event.outcome === "replay") counts.cached += 1
    }
  }

  look(interval: number, { rateLimit, targets }: Status): void {
    this.inFlight[interval] = this.begun - this.ended
    this.queued[interval] = targets.reduce(
      (sum, { bulkhead, limits }) => sum + (bulkhead?.queued ?? 0) + (limits?.queued ?? 0),
      rateLimit?.queued ?? 0
    )
  }

  report(name: string, vendors: ReadonlyArray<SimulatedVendor>): PolicyReport {
    const { list } = this.world.calls
    const all = list.map((_, index) => index)
    const answered = this.answeredOf(all)
    const billed = vendors.reduce((sum, { inputTokens, outputTokens }) => sum + inputTokens + outputTokens, 0)
    return {
      name,
      calls: list.length,
      answered,
      availability: answered / list.length,
      latency: quantilesOf(this.took, all),
      firstToken: quantilesOf(this.content, all),
      ...this.counts,
      extraTokens: this.owed === 0 ? 0 : billed / this.owed - 1,
      errors: Object.fromEntries(Object.entries(this.errors).toSorted(([a], [b]) => a < b ? -1 : 1)),
      vendors: vendors.map(({ failures, inputTokens, outputTokens, provider: { id }, requests }) => ({
        id,
        requests,
        failures,
        inputTokens,
        outputTokens
      })),
      callers: this.callers(),
      circuits: this.circuits,
      series: this.series()
    }
  }

  private answeredOf(indices: ReadonlyArray<number>): number {
    return indices.reduce((sum, index) => sum + this.isAnswered[index]!, 0)
  }

  private callers(): PolicyReport["callers"] {
    const { callers, calls } = this.world
    const groups = callers.map((): Array<number> => [])
    calls.list.forEach(({ caller }, index) => groups[caller]!.push(index))
    return callers.flatMap(({ priority, tenant }, i) => {
      const group = groups[i]!
      return group.length === 0 ? [] : [{
        ...(tenant === undefined ? undefined : { tenant }),
        ...(priority === undefined ? undefined : { priority }),
        calls: group.length,
        answered: this.answeredOf(group),
        latency: quantilesOf(this.took, group)
      }]
    })
  }

  private series(): PolicyReport["series"] {
    const { intervalOf, list, series: { arrivals } } = this.world.calls
    const groups = arrivals.map((): Array<number> => [])
    list.forEach(({ at }, index) => groups[intervalOf(at)]!.push(index))
    const answered = groups.map((group) => this.answeredOf(group))
    return {
      answered,
      failed: groups.map((group, i) => group.length - answered[i]!),
      p99: groups.map((group) => group.length === 0 ? null : quantilesOf(this.took, group).p99),
      inFlight: this.inFlight,
      queued: this.queued,
      requests: Object.fromEntries(this.requests)
    }
  }
}

/** Nearest rank. */
const quantilesOf = (values: Float64Array, indices: ReadonlyArray<number>): Quantiles => {
  const sorted = Float64Array.from(indices, (index) => values[index]!).toSorted()
  // Below a microsecond there is only the rounding of sums.
  const at = (q: number): number => Math.round(sorted[Math.max(Math.ceil(q * sorted.length), 1) - 1]! * 1000) / 1000
  return { p50: at(0.5), p95: at(0.95), p99: at(0.99), p999: at(0.999), longest: at(1) }
}
