/**
 * Chaos: a provider of yours, and what goes wrong between it and you.
 *
 * A wrapped provider is asked as before, below the same guards and timers; some of its attempts meet a fault instead,
 * drawn by a seeded policy or played from a script. The faults are those of `FaultServer`, which plays the same data on
 * the wire; here they are the typed errors and streams that the built-in providers make of it.
 *
 * @since 0.2.0
 */
import * as Config from "effect/Config"
import type * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Random from "effect/Random"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"
import { effectOf } from "../internal/effect.ts"
import { attempt, list, number, optionsOf, positive, readOptions, rule, text } from "../internal/option.ts"
import { LlmConfigError } from "../LlmError.ts"
import { type Held, isDone } from "../LlmGuard.ts"
import type { LlmProvider } from "../LlmProvider.ts"
import type * as FaultServer from "./FaultServer.ts"
import { checkFault } from "./internal/check.ts"
import { disturbed, type Step } from "./internal/disturbed.ts"

// -----------------------------------------------------------------------------
// policy
// -----------------------------------------------------------------------------

const millis = Schema.optional(Schema.Number)
const delayed = { delayMillis: millis }
const headers = Schema.optional(Schema.Record(Schema.String, Schema.String))
const answering = { ...delayed, headers, firstTokenMillis: millis, chunkDelayMillis: millis }
const breaking = { ...answering, afterChunks: Schema.optional(Schema.Number) }
const reasons = [
  "RateLimit",
  "Quota",
  "Overloaded",
  "Server",
  "Timeout",
  "Conflict",
  "Authentication",
  "Permission",
  "NotFound",
  "ContextLength",
  "PayloadTooLarge",
  "ContentPolicy",
  "InvalidRequest",
  "ClientClosed",
  "Unknown"
] as const satisfies ReadonlyArray<FaultServer.ErrorReason>
const reason = Schema.optional(Schema.Literals(reasons))

/**
 * The faults of `FaultServer` that need no wire, with what a provider's own answer leaves to them: its time, its headers,
 * its breaks. What it says is the provider's.
 *
 * @category schemas
 * @since 0.2.0
 */
export const Fault = Schema.Union([
  Schema.TaggedStruct("Ok", answering),
  Schema.TaggedStruct("Status", {
    ...delayed,
    status: Schema.optional(Schema.Number),
    reason,
    headers,
    body: Schema.optional(Schema.Unknown),
    retryAfter: Schema.optional(Schema.Union([Schema.Number, Schema.String])),
    retryAfterMs: millis
  }),
  Schema.TaggedStruct("Hang", {}),
  Schema.TaggedStruct("ResetBeforeHeaders", delayed),
  Schema.TaggedStruct("ResetInBody", breaking),
  Schema.TaggedStruct("Stall", breaking),
  Schema.TaggedStruct("Truncate", breaking),
  Schema.TaggedStruct("ErrorEvent", {
    ...breaking,
    reason,
    type: Schema.optional(Schema.String),
    message: Schema.optional(Schema.String)
  }),
  Schema.TaggedStruct("MalformedJson", breaking),
  Schema.TaggedStruct("Duplicate", breaking),
  Schema.TaggedStruct("EmptyBody", delayed),
  Schema.TaggedStruct("KeepAlives", { ...delayed, everyMillis: Schema.Number, forMillis: millis })
]).annotate({ expected: "a fault of FaultServer that needs no wire" })

/**
 * One of {@link Fault}; the constructors of `FaultServer` build them: `FaultServer.status(503)`, `FaultServer.hang()`,
 * `FaultServer.slowHeaders(2000)`, `FaultServer.truncate({ afterChunks: 2 })`.
 *
 * @category models
 * @since 0.2.0
 */
export type Fault = typeof Fault.Type

/**
 * A fault among others.
 *
 * @category models
 * @since 0.2.0
 */
export interface Weighted {
  readonly fault: Fault
  /** Its share among those that a target can meet. Default 1. */
  readonly weight?: number | undefined
  /** The targets that can meet it, by their names in the pipeline. Default: all. */
  readonly targets?: ReadonlyArray<string> | undefined
}

/**
 * What a provider's attempts meet.
 *
 * @category models
 * @since 0.2.0
 */
export interface Policy {
  /** The share of attempts that meet one of `faults`, from 0 to 1. Default 0. */
  readonly rate?: number | undefined
  readonly faults?: ReadonlyArray<Weighted> | undefined
  /**
   * What the first attempts meet, in the order in which they begin, before `rate` counts. `FaultServer.ok()` is the
   * provider's own answer. An attempt that a circuit breaker refuses takes nothing from it.
   */
  readonly script?: ReadonlyArray<Fault> | undefined
  /**
   * Draws of its own, the same in every run, and others for each provider id. Without a seed the draws are those of
   * Effect's `Random` where the provider is wrapped.
   */
  readonly seed?: string | undefined
}

/**
 * The schema of {@link Policy}.
 *
 * @category schemas
 * @since 0.2.0
 */
export const PolicySchema = optionsOf<Policy>()({
  rate: number(0, 0, 1),
  faults: Schema.optional(
    Schema.Array(
      optionsOf<Weighted>()({
        fault: Fault,
        weight: Schema.optional(positive),
        targets: Schema.optional(list(Schema.String, "names of targets"))
      })
    )
  ),
  script: Schema.optional(Schema.Array(Fault)),
  seed: Schema.optional(text("a text that is not empty"))
}).check(
  rule(({ faults = [], rate }) =>
    rate > 0 && faults.length === 0 ? ["faults", "a list with at least one fault, where there is a rate"] : undefined
  )
)

/**
 * @category models
 * @since 0.2.0
 */
export interface Options {
  /**
   * Chaos starts where a test runner says that it runs: `NODE_ENV` is `test` (Vitest, Jest, Bun), or there is a `VITEST`
   * or `NODE_TEST_CONTEXT` (`node --test`), as the current `ConfigProvider` has it. `true`: also elsewhere, such as in a
   * rehearsal. Default false. It is an option of the code and not of the policy, so that no file can turn it on.
   */
  readonly allowOutsideTests?: boolean | undefined
}

// -----------------------------------------------------------------------------
// constructors
// -----------------------------------------------------------------------------

/**
 * The same provider with chaos in front of it. Fails when the policy is wrong, and outside of tests.
 *
 * **Details**
 *
 * - A fault is drawn per attempt, when the limits have let it pass and before the breaker is asked; it acts inside the
 *   attempt's timer. To the pipeline it is the provider's: breakers, budgets and pools hear of it as of any other failure.
 * - All events of a disturbed attempt have `injected: true`, also where it is only slow and succeeds.
 * - What needs no answer (a status, a hang, a reset, an empty body) does not ask the provider. A break asks it when it
 *   comes after the first part of a stream; one in a whole answer does not.
 * - A `Status` is read by the classifier of the built-in providers, in OpenAI's words where it has no `body`.
 * - At rate 0 nothing is drawn, and nothing differs from the provider alone.
 * - A pool can be wrapped, or one of its hosts. Outside of a client it is all the same, without the marks.
 *
 * **Example** (Two failures, then the provider's own answer)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { LlmClient, LlmProvider } from "effect-resilient-llm"
 * import { Chaos, FaultServer } from "effect-resilient-llm/testing"
 *
 * const vendor = LlmProvider.make({ id: "vendor", generate: () => Effect.succeed("Hello.") })
 * const program = Effect.gen(function*() {
 *   const provider = yield* Chaos.provider(vendor, {
 *     script: [FaultServer.status(503), FaultServer.truncate(), FaultServer.ok()]
 *   })
 *   const live = LlmClient.layerDynamic([{ id: "vendor", provider }], { retry: { baseDelay: "1 milli" } })
 *   const ask = Effect.flatMap(LlmClient, (client) => client.complete("Hi"))
 *   const { ledger, text } = yield* Effect.provide(ask, live)
 *   const failed = ledger.flatMap((e) => e._tag === "AttemptFailed" ? [[e.error.reason, e.injected]] : [])
 *   return [text, failed]
 * })
 * await Effect.runPromise(program) // => ["Hello.", [["Overloaded", true], ["MalformedResponse", true]]]
 * ```
 *
 * @category constructors
 * @since 0.2.0
 */
export const provider = <P extends LlmProvider>(
  provider: P,
  policy: Policy,
  options?: Options
): Effect.Effect<P, LlmConfigError> =>
  Effect.gen(function*() {
    const known = yield* attempt(() => checked(policy))
    yield* onlyInTests(options)
    const random = known.seed === undefined
      ? yield* Random.Random
      : yield* Random.withSeed(Random.Random, `${known.seed}, ${provider.id}`)
    return wrapped(provider, new Draws(known, () => random.nextDoubleUnsafe()))
  })

/**
 * Puts chaos in front of the provider of a tag: what needs the provider gets it disturbed, and no other line changes.
 *
 * **Example** (A slow vendor)
 *
 * ```ts import.meta.vitest
 * import { Effect, Layer } from "effect"
 * import { LlmClient } from "effect-resilient-llm"
 * import { Chaos, FaultServer, ScriptedProvider } from "effect-resilient-llm/testing"
 *
 * class Primary extends ScriptedProvider.Service<Primary>()("app/Primary") {}
 * class Secondary extends ScriptedProvider.Service<Secondary>()("app/Secondary") {}
 *
 * const live = LlmClient.layer([Primary, Secondary], { retry: false }).pipe(
 *   Layer.provide(Chaos.layer(Primary, { rate: 1, faults: [{ fault: FaultServer.error("Overloaded") }] })),
 *   Layer.provide([Primary.layer(), Secondary.layer()])
 * )
 * const program = Effect.flatMap(LlmClient, (client) => client.complete("Hi"))
 * const { target } = await Effect.runPromise(Effect.provide(program, live))
 * target // => "Secondary"
 * ```
 *
 * @category layers
 * @since 0.2.0
 */
export const layer = <Self, P extends LlmProvider>(
  tag: Context.Key<Self, P>,
  policy: Policy,
  options?: Options
): Layer.Layer<Self, LlmConfigError, Self> =>
  Layer.effect(tag, Effect.flatMap(tag, (inner) => provider(inner, policy, options)))

const checked = (policy: Policy): typeof PolicySchema.Type => {
  const known = readOptions(PolicySchema, policy, "chaos")
  known.faults?.forEach(({ fault }, i) => checkFault(`chaos.faults[${i}].fault`, fault))
  known.script?.forEach((fault, i) => checkFault(`chaos.script[${i}]`, fault))
  return known
}

const variable = (name: string) => Effect.map(Effect.option(Config.String(name)), Option.getOrUndefined)

const onlyInTests = ({ allowOutsideTests }: Options = {}): Effect.Effect<void, LlmConfigError> =>
  Effect.gen(function*() {
    if (allowOutsideTests === true) return
    const environment = yield* variable("NODE_ENV")
    if (environment === "test") return
    for (const name of ["VITEST", "NODE_TEST_CONTEXT"]) if ((yield* variable(name)) !== undefined) return
    return yield* new LlmConfigError({
      path: "chaos",
      rule: "started in tests (NODE_ENV=test), or with `allowOutsideTests: true`",
      kind: "started outside of them"
    })
  })

// -----------------------------------------------------------------------------
// draws
// -----------------------------------------------------------------------------

/** What an attempt meets, and how it is put back when the attempt never started. */
interface Draw {
  readonly fault: Fault
  readonly putBack: (() => void) | undefined
}

class Draws {
  private readonly rate: number
  private readonly faults: ReadonlyArray<Weighted>
  private readonly script: Array<Fault>
  private readonly next: () => number

  constructor({ faults = [], rate, script = [] }: typeof PolicySchema.Type, next: () => number) {
    this.rate = rate
    this.faults = faults
    this.script = [...script]
    this.next = next
  }

  /** `undefined`: the attempt is not disturbed. */
  draw(target: string): Draw | undefined {
    const step = this.script.shift()
    if (step !== undefined) return { fault: step, putBack: () => void this.script.unshift(step) }
    if (this.rate === 0) return undefined
    const faults = this.faults.filter(({ targets }) => targets?.includes(target) !== false)
    if (faults.length === 0 || (this.rate < 1 && this.next() >= this.rate)) return undefined
    return { fault: this.choose(faults), putBack: undefined }
  }

  private choose(faults: ReadonlyArray<Weighted>): Fault {
    const total = faults.reduce((sum, { weight = 1 }) => sum + weight, 0)
    let left = faults.length === 1 ? 0 : this.next() * total
    for (const { fault, weight = 1 } of faults) {
      if (left < weight) return fault
      left -= weight
    }
    return faults.at(-1)!.fault
  }
}

// -----------------------------------------------------------------------------
// provider
// -----------------------------------------------------------------------------

const nothing: Held = {}

const wrapped = <P extends LlmProvider>(inner: P, draws: Draws): P => {
  let disturbances = 0
  const disturb = (asked: LlmProvider, fault: Fault): Step => disturbed(asked, fault, ++disturbances)

  /** What the attempt holds of the provider's own guard, and who is asked in the place of the provider. */
  const hold = (held: Held, target: string): Held => {
    const asked = held.provider ?? inner
    const drawn = draws.draw(target)
    const isDisturbed = drawn !== undefined && !isPlain(drawn.fault)
    return {
      settle: (outcome) => {
        if (outcome._tag === "NeverStarted") drawn?.putBack?.()
        return held.settle?.(outcome)
      },
      release: () => held.release?.(),
      renew: (now) => held.renew?.(now),
      judge: (verdict, now) => held.judge?.(verdict, now) ?? verdict,
      provider: isDisturbed ? Object.assign(Object.create(asked), disturb(asked, drawn.fault)) : asked,
      injected: isDisturbed || held.injected
    }
  }
  const guard: NonNullable<LlmProvider["guard"]> = {
    name: "chaos",
    ...inner.guard,
    acquire: (ask) => {
      if (inner.guard === undefined) return Exit.succeed(hold(nothing, ask.target))
      const acquired = inner.guard.acquire(ask)
      return isDone(acquired)
        ? Exit.map(acquired, (held) => hold(held, ask.target))
        : Effect.map(acquired, (held) => hold(held, ask.target))
    }
  }
  /** Outside of a pipeline, the same by itself. */
  const alone = (): Step => {
    const drawn = draws.draw(inner.id)
    return drawn === undefined || isPlain(drawn.fault) ? inner : disturb(inner, drawn.fault)
  }
  const own: Pick<LlmProvider, "guard" | "generate" | "stream"> = {
    guard,
    generate: (request) => Effect.suspend(() => effectOf(alone().generate(request), "provider", inner.id)),
    stream: (request) => Stream.suspend(() => alone().stream(request))
  }
  return Object.assign(Object.create(Object.getPrototypeOf(inner)), inner, own) as P
}

/** The provider's own answer, as it comes. */
const isPlain = (fault: Fault): boolean =>
  fault._tag === "Ok" && Object.values(fault).every((value) => value === "Ok" || value === undefined)
