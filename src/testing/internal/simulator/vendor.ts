// A vendor that is made of numbers: how long its answers take, what it grants, and what it goes through.
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Random from "effect/Random"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import { monotonicMillis } from "../../../internal/clock.ts"
import { ProviderError, type RateLimitFact, type Reason, TRUNCATED } from "../../../LlmError.ts"
import * as LlmProvider from "../../../LlmProvider.ts"
import type { LlmRequest } from "../../../LlmRequest.ts"
import { httpMetadata, type Part, type StreamPart } from "../../../LlmResponse.ts"
import type { ScenarioSchema } from "../../Simulator.ts"
import { type Call, isOn, normal } from "./arrivals.ts"

type Settings = (typeof ScenarioSchema.Type)["vendors"][number]
type Refusal = Extract<Settings["phases"][number], { readonly share: number; readonly after: number }>

/** What a call meets. */
type Fate =
  | { readonly _tag: "Refused"; readonly after: number; readonly error: ProviderError }
  | { readonly _tag: "Hung" }
  | {
    readonly _tag: "Served"
    /** Milliseconds until it generates. */
    readonly before: number
    /** Milliseconds a token. */
    readonly pace: number
    /** The tokens that come. */
    readonly tokens: number
    readonly isCut: boolean
  }
type Served = Extract<Fate, { readonly _tag: "Served" }>

const reasons: { readonly [K in Refusal["kind"]]: readonly [reason: Reason, status: number | undefined] } = {
  overload: [{ _tag: "Overloaded" }, 503],
  error: [{ _tag: "Server" }, 500],
  "rate-limit": [{ _tag: "RateLimit" }, 429],
  quota: [{ _tag: "Quota" }, 429],
  unreachable: [{ _tag: "Network", sent: false, kind: "connect" }, undefined]
}

/** How long a refusal for want of room takes. */
const REFUSAL = 200

const delta = { type: "text-delta" as const, id: "0", delta: "." }
const done = Effect.succeed(undefined)

/** A stream says something at least so often, as one that sends each token by itself does; one of hours says less. */
const SILENCE = 1000
const MOST_PIECES = 10_000

export class SimulatedVendor {
  requests = 0
  failures = 0
  inputTokens = 0
  outputTokens = 0
  readonly provider: LlmProvider.LlmProvider
  private active = 0
  private readonly settings: Settings
  private readonly calls: ReadonlyArray<Call>
  private readonly buckets: ReadonlyArray<Bucket>

  constructor(settings: Settings, calls: ReadonlyArray<Call>) {
    const { id, limits } = settings
    this.settings = settings
    this.calls = calls
    this.buckets = [
      ...(limits?.requestsPerMinute === undefined ? [] : [new Bucket("requests", limits.requestsPerMinute)]),
      ...(limits?.tokensPerMinute === undefined ? [] : [new Bucket("tokens", limits.tokensPerMinute)])
    ]
    this.provider = LlmProvider.make({
      id,
      generate: (request) => Effect.scoped(this.generate(request)),
      stream: (request) => Stream.unwrap(Effect.map(this.begin(request), (served) => this.streamed(served)))
    })
  }

  private generate(request: LlmRequest): Effect.Effect<ReadonlyArray<Part>, ProviderError, Scope.Scope> {
    return Effect.flatMap(this.begin(request), ({ call, isCut, pace, tokens }) =>
      Effect.andThen(
        Effect.sleep(tokens * pace),
        Effect.suspend(() =>
          isCut
            ? Effect.fail(this.cut())
            : Effect.succeed<ReadonlyArray<Part>>([...this.facts(), { type: "text", text: "." }, finish(call)])
        )
      ))
  }

  private streamed({ call, isCut, pace, tokens }: Served & { readonly call: Call }): Stream.Stream<StreamPart> {
    const rest = Math.max(tokens - 1, 0) * pace
    const pieces = Math.min(Math.max(Math.ceil(rest / SILENCE), 1), MOST_PIECES)
    const facts = this.facts()
    // The first token, the others in pieces, and the end.
    const parts = Stream.unfold(tokens < 1 ? pieces : 0, (piece) => {
      if (piece > pieces) return done
      const part = piece < pieces ? delta : isCut ? undefined : finish(call)
      if (part === undefined) this.failures += 1
      const millis = piece === 0 ? pace : rest / pieces
      return Effect.as(Effect.sleep(millis), part && [part, piece + 1] as const)
    })
    return facts.length === 0 ? parts : Stream.concat(Stream.fromIterable(facts), parts)
  }

  /** Until the vendor starts to generate. From the beginning on it is paid for, whoever goes away. */
  private begin(request: LlmRequest): Effect.Effect<Served & { readonly call: Call }, ProviderError, Scope.Scope> {
    return Effect.gen({ self: this }, function*() {
      this.requests += 1
      const call = this.calls[Number(request.prompt[0]?.content)]!
      const clock = yield* Clock.Clock
      const now = monotonicMillis(clock)
      const random = yield* Random.Random
      const fate = this.fateOf(call, now, () => random.nextDoubleUnsafe())
      if (fate._tag === "Refused") {
        this.failures += 1
        yield* Effect.sleep(fate.after)
        return yield* Effect.fail(fate.error)
      }
      this.active += 1
      yield* Effect.addFinalizer(() =>
        Effect.sync(() => {
          this.active -= 1
          if (fate._tag === "Served") this.bill(call, fate, monotonicMillis(clock) - now)
        })
      )
      if (fate._tag === "Hung") return yield* Effect.never
      yield* Effect.sleep(fate.before)
      return { ...fate, call }
    })
  }

  private bill({ input }: Call, { before, pace, tokens }: Served, took: number): void {
    const since = took - before
    this.inputTokens += input
    this.outputTokens += Math.round(pace > 0 ? Math.min(Math.max(since / pace, 0), tokens) : since < 0 ? 0 : tokens)
  }

  private fateOf(call: Call, now: number, random: () => number): Fate {
    const { latency, limits, phases } = this.settings
    const hits = (share: number): boolean => share >= 1 || random() < share
    let factor = latency.spread === 0 ? 1 : Math.exp(latency.spread * normal(random))
    let later = 0
    let part = 1
    for (const phase of phases) {
      if (!isOn(phase, now)) continue
      switch (phase.kind) {
        case "hang":
          if (hits(phase.share)) return { _tag: "Hung" }
          break
        case "slow":
          factor *= phase.factor
          later += phase.firstToken
          break
        case "cut":
          if (hits(phase.share)) part = Math.min(part, phase.at)
          break
        case "capacity":
          if (this.active >= phase.concurrent) return this.refused("overload", REFUSAL)
          break
        default:
          if (hits(phase.share)) return this.refused(phase.kind, phase.after, phase.retryAfter)
      }
    }
    const wait = this.active >= (limits?.concurrent ?? Infinity) ? 1000 : this.wait(call, now)
    // As the header has it: whole seconds.
    if (wait > 0) return this.refused("rate-limit", REFUSAL, Math.ceil(wait / 1000) * 1000)
    const { firstToken, perInputToken, perOutputToken } = latency
    return {
      _tag: "Served",
      before: (firstToken + perInputToken * call.input) * factor + later,
      pace: perOutputToken * factor,
      tokens: part < 1 ? Math.floor(call.output * part) : call.output,
      isCut: part < 1
    }
  }

  /** Takes from the buckets, from all or from none; else how long until they have enough. */
  private wait({ input, output }: Call, now: number): number {
    const amounts = this.buckets.map(({ dimension }) => dimension === "requests" ? 1 : input + output)
    const wait = Math.max(0, ...this.buckets.map((bucket, i) => bucket.wait(amounts[i]!, now)))
    if (wait === 0) this.buckets.forEach((bucket, i) => bucket.take(amounts[i]!))
    return wait
  }

  private refused(kind: Refusal["kind"], after: number, retryAfter?: number): Fate {
    const [reason, status] = reasons[kind]
    const rateLimits = this.buckets.map((bucket) => bucket.fact())
    const error = new ProviderError({
      provider: this.settings.id,
      reason,
      ...(status === undefined ? undefined : { status }),
      ...(retryAfter === undefined ? undefined : { retryAfter: Duration.millis(retryAfter) }),
      ...(rateLimits.length === 0 || status === undefined ? undefined : { rateLimits })
    })
    return { _tag: "Refused", after, error }
  }

  private cut(): ProviderError {
    this.failures += 1
    return new ProviderError({
      provider: this.settings.id,
      reason: { _tag: "MalformedResponse", problem: TRUNCATED }
    })
  }

  /** What its headers would say. */
  private facts(): ReadonlyArray<Part & StreamPart> {
    return this.buckets.length === 0 ? [] : [{
      type: "response-metadata",
      id: this.settings.id,
      modelId: this.settings.id,
      metadata: httpMetadata({ rateLimits: this.buckets.map((bucket) => bucket.fact()) })
    }]
  }
}

const finish = ({ input, output }: Call) => ({
  type: "finish" as const,
  reason: "stop" as const,
  usage: { inputTokens: { total: input }, outputTokens: { total: output } }
})

/** So much a minute, refilled continuously. */
class Bucket {
  readonly dimension: "requests" | "tokens"
  private readonly limit: number
  private level: number
  private at = 0

  constructor(dimension: "requests" | "tokens", limit: number) {
    this.dimension = dimension
    this.limit = limit
    this.level = limit
  }

  /** Milliseconds until there is enough. More than it ever holds is granted when it is full. */
  wait(amount: number, now: number): number {
    this.level = Math.min(this.limit, this.level + (now - this.at) * this.limit / 60_000)
    this.at = now
    const missing = Math.min(amount, this.limit) - this.level
    return missing > 1e-9 ? missing * 60_000 / this.limit : 0
  }

  take(amount: number): void {
    this.level -= amount
  }

  fact(): RateLimitFact {
    const remaining = Math.max(Math.floor(this.level), 0)
    const resetAfter = Math.ceil((this.limit - this.level) * 60_000 / this.limit)
    return { dimension: this.dimension, limit: this.limit, remaining, resetAfter }
  }
}
