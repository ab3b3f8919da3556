/**
 * A pool: several hosts of one vendor as one provider.
 *
 * Two regions, five keys, three servers of your own: they answer alike, so they share the load, and one that keeps
 * failing leaves the rotation for a while. For the pipeline a pool is one target with one circuit, one set of limits and
 * one place in the failover order.
 *
 * @since 0.1.0
 */
import * as Cause from "effect/Cause"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Pull from "effect/Pull"
import * as Stream from "effect/Stream"
import { monotonicMillis } from "./internal/clock.ts"
import { effectOf } from "./internal/effect.ts"
import { kindOf } from "./internal/issue.ts"
import { numbered } from "./internal/names.ts"
import { attempt } from "./internal/option.ts"
import { classify, LlmConfigError, TRUNCATED, type Verdict } from "./LlmError.ts"
import { type Held, isDone, type Outcome } from "./LlmGuard.ts"
import type { LlmProvider } from "./LlmProvider.ts"
import * as OutlierEjection from "./resilience/OutlierEjection.ts"

/**
 * A pool is a provider whose hosts can be looked at.
 *
 * @category models
 * @since 0.1.0
 */
export interface LlmPool extends LlmProvider {
  readonly hosts: Effect.Effect<ReadonlyArray<OutlierEjection.HostStatus<string>>>
}

/**
 * @category models
 * @since 0.1.0
 */
export interface Options extends OutlierEjection.Options {
  /** Identifier for errors, ledgers and metrics. Default: the first host's. */
  readonly id?: string | undefined
}

const nothing: Held = {}

type Named = readonly [name: string, provider: LlmProvider]

/**
 * Makes a pool from providers by name. Fails when it is empty, when an option is wrong, or when the hosts differ in
 * what the pipeline asks of a provider: models, default model, reasoning, vendor. Compatible servers with an `id` of their
 * own each need one `vendor` for all.
 *
 * **Details**
 *
 * - Attempts go to the hosts in turn, so a retry meets another host than the attempt before it, unless other calls
 *   came between.
 * - The pipeline tells the pool how each attempt ended, so a host that hangs, answers nothing or breaks a stream is judged
 *   like one that fails. `LlmError.classify` decides which failures are the host's fault; what its reader leaves counts for
 *   nothing.
 * - A host that has a guard of its own, such as a pool, is asked through it.
 * - A host whose key or quota failed is out at once, and the call asks another one; only when no other is left, the target
 *   as a whole rests.
 *
 * **Example** (The key of one host is overloaded)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { LlmClient, LlmError, LlmPool, LlmProvider } from "effect-resilient-llm"
 *
 * const reason: LlmError.ProviderError["reason"] = { _tag: "Overloaded" }
 * const ill = LlmProvider.make({
 *   id: "vendor",
 *   generate: () => Effect.fail(new LlmError.ProviderError({ provider: "vendor", reason }))
 * })
 * const well = LlmProvider.make({ id: "vendor", generate: () => Effect.succeed("Hello.") })
 *
 * const program = Effect.gen(function*() {
 *   const pool = yield* LlmPool.make({ one: ill, two: well, three: well }, { consecutiveFailures: 1 })
 *   const ask = Effect.exit(pool.generate({ prompt: [] }))
 *   for (let i = 0; i < 6; i++) yield* ask
 *   return (yield* pool.hosts).filter((host) => host.ejectedFor !== undefined).map(({ host }) => host)
 * })
 * await Effect.runPromise(program) // => ["one"]
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = (
  hosts: Readonly<Record<string, LlmProvider>>,
  options?: Options
): Effect.Effect<LlmPool, LlmConfigError> => attempt(() => fromHosts(entriesOf(hosts), options))

const entriesOf = (hosts: Readonly<Record<string, LlmProvider>>): ReadonlyArray<Named> => {
  if (typeof hosts === "object" && hosts !== null) return Object.entries(hosts)
  throw new LlmConfigError({ path: "hosts", rule: "an object of providers", kind: kindOf(hosts) })
}

const fromHosts = (given: ReadonlyArray<Named>, options: Options = {}): LlmPool => {
  const { id, ...ejection } = options
  const hosts = given.filter(([, provider]) => provider.missing === undefined)
  // Where each lacks something, so does the pool.
  if (hosts.length === 0 && given.length > 0) return { ...given[0]![1], hosts: Effect.succeed([]) }
  const rotation = OutlierEjection.fromPolicy(hosts, OutlierEjection.policy(ejection, "pool"))
  const [first, ...others] = hosts.map(([, provider]) => provider)
  const { changes, defaultModel, models, readsMetadata, reasoning, vendor } = first!
  for (const [i, other] of others.entries()) {
    for (const field of ["models", "defaultModel", "reasoning", "readsMetadata", "vendor"] as const) {
      if (!isSame(other[field], first![field])) {
        const path = `pool.${hosts[i + 1]![0]}.${field}`
        throw new LlmConfigError({ path, rule: "the same for all hosts of a pool", kind: "another" })
      }
    }
  }

  /** Counts a failure of a host. One whose key or quota failed is out at once: it will not serve the next call either. */
  const failed = (index: number, { coolDown, outcome }: Verdict, now: number): void => {
    if (coolDown) rotation.ejectUnsafe(index, now)
    else if (outcome === "failure") rotation.recordUnsafe(index, true, now)
  }

  /** The host of one attempt. */
  class Chosen implements Held {
    readonly provider: LlmProvider
    private readonly index: number
    /** Of the host's own guard. */
    private readonly own: Held
    private verdict: Verdict | undefined

    constructor(index: number, own: Held) {
      this.index = index
      this.own = own
      this.provider = own.provider ?? hosts[index]![1]
    }

    get injected(): boolean | undefined {
      return this.own.injected
    }

    /** Another host has another key: what would rest a whole target is a reason to ask once more. */
    judge(judged: Verdict, now: number): Verdict {
      const verdict = this.verdict = this.own.judge?.(judged, now) ?? judged
      return verdict.coolDown && rotation.hasOthersUnsafe(this.index, now)
        ? { ...verdict, coolDown: false, retry: true }
        : verdict
    }

    settle(outcome: Outcome): Effect.Effect<void> | void {
      if (outcome._tag === "Succeeded") rotation.recordUnsafe(this.index, false, outcome.now)
      else if (outcome._tag === "Failed") failed(this.index, this.verdict ?? outcome.verdict, outcome.now)
      return this.own.settle?.(outcome)
    }

    release(): void {
      this.own.release?.()
    }

    renew(now: number): void {
      this.own.renew?.(now)
    }
  }

  return {
    id: id ?? first!.id,
    defaultModel,
    models,
    reasoning,
    vendor,
    changes,
    readsMetadata,
    guard: {
      name: "pool",
      acquire: (ask) => {
        const index = rotation.selectUnsafe(ask.now)
        const own = hosts[index]![1].guard?.acquire(ask)
        if (own === undefined) return Exit.succeed(new Chosen(index, nothing))
        const chosen = (held: Held) => new Chosen(index, held)
        return isDone(own) ? Exit.map(own, chosen) : Effect.map(own, chosen)
      }
    },
    // Outside of a pipeline, the same by itself.
    generate: (request) =>
      Effect.clockWith((clock) => {
        const index = rotation.selectUnsafe(monotonicMillis(clock))
        return Effect.onExit(effectOf(hosts[index]![1].generate(request), "provider", hosts[index]![1].id), (exit) => {
          const now = monotonicMillis(clock)
          if (Exit.isSuccess(exit)) return Effect.sync(() => rotation.recordUnsafe(index, false, now))
          const error = Cause.findErrorOption(exit.cause)
          if (error._tag === "Some") failed(index, classify(error.value), now)
          return Effect.void
        })
      }),
    stream: (request) =>
      Stream.unwrap(Effect.clockWith((clock) => {
        const index = rotation.selectUnsafe(monotonicMillis(clock))
        return Effect.succeed(counted(hosts[index]![1].stream(request), (error) => {
          const now = monotonicMillis(clock)
          if (error === undefined) rotation.recordUnsafe(index, false, now)
          else failed(index, classify(error.of), now)
        }))
      })),
    hosts: Effect.map(rotation.status, (all) => all.map((status) => ({ ...status, host: status.host[0] })))
  }
}

/** Do two hosts say the same of their models? In whatever order. */
const isSame = (a: unknown, b: unknown): boolean => {
  const sorted = (value: unknown): unknown =>
    typeof value === "object" && value !== null
      ? Object.entries(value).toSorted(([a], [b]) => a < b ? -1 : 1)
      : value
  return JSON.stringify(sorted(a)) === JSON.stringify(sorted(b))
}

type Parts = ReturnType<LlmProvider["stream"]>

/** Says once how a stream ended, unless its reader left before; `of` what failed, if something did. */
const counted = (parts: Parts, record: (error: { readonly of: unknown } | undefined) => void): Parts =>
  Stream.transformPull(parts, (pull) => {
    let isOver = false
    const over = (error: { readonly of: unknown } | undefined): void => {
      if (!isOver) record(error)
      isOver = true
    }
    return Effect.succeed(Effect.matchCauseEffect(pull, {
      onSuccess: (chunk) => {
        for (const part of chunk) {
          if (part.type === "finish") over(undefined)
          else if (part.type === "error") over({ of: part.error })
        }
        return Effect.succeed(chunk)
      },
      onFailure: (cause) => {
        const error = Cause.findErrorOption(cause)
        // A stream that ends without a finish part is truncated.
        if (Pull.isDoneCause(cause)) over({ of: TRUNCATED })
        else if (error._tag === "Some") over({ of: error.value })
        return Effect.failCause(cause)
      }
    }))
  })

type Members = readonly [Context.Key<unknown, LlmProvider>, ...ReadonlyArray<Context.Key<unknown, LlmProvider>>]
type Needs<T extends Members> = T[number] extends infer One ? One extends Context.Key<infer I, LlmProvider> ? I : never
  : never

/**
 * What {@link Service} makes: a tag with a layer.
 *
 * @category models
 * @since 0.1.0
 */
export interface ServiceClass<Self, Id extends string, T extends Members>
  extends Context.ServiceClass<Self, Id, LlmPool>
{
  readonly layer: Layer.Layer<Self, LlmConfigError, Needs<T>>
}

/**
 * A pool as a tag of your own, which `LlmClient` takes as a target. Its layer needs the providers you name. Hosts are
 * called by their providers' ids, numbered from the second of an id on: `openai`, `openai-2`.
 *
 * **Example** (Two regions as one target)
 *
 * ```ts import.meta.vitest
 * import { Effect, Layer } from "effect"
 * import { LlmClient, LlmPool } from "effect-resilient-llm"
 * import { ScriptedProvider } from "effect-resilient-llm/testing"
 *
 * class Eu extends ScriptedProvider.Service<Eu>()("app/Eu") {}
 * class Us extends ScriptedProvider.Service<Us>()("app/Us") {}
 * class Vendor extends LlmPool.Service<Vendor>()("app/Vendor", [Eu, Us]) {}
 *
 * const live = LlmClient.layer([Vendor], { retry: { baseDelay: "1 milli" } }).pipe(
 *   Layer.provide(Vendor.layer),
 *   Layer.provide([
 *     Eu.layer([ScriptedProvider.fail({ _tag: "Overloaded" })]),
 *     Us.layer([ScriptedProvider.answer("Hello from the other region.")])
 *   ])
 * )
 * const program = Effect.gen(function*() {
 *   const client = yield* LlmClient
 *   return (yield* client.complete("Hi")).text
 * })
 * await Effect.runPromise(Effect.provide(program, live)) // => "Hello from the other region."
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const Service = <Self>() =>
<const Id extends string, const T extends Members>(
  id: Id,
  members: T,
  options?: Options
): ServiceClass<Self, Id, T> => {
  const tag = Context.Service<Self, LlmPool>()(id)
  const pool = Effect.flatMap(Effect.forEach(members, (member) => member), (providers) => {
    const names = numbered(providers.map(({ id }) => ({ name: id })))
    return attempt(() => fromHosts(providers.map((provider, i): Named => [names[i]!, provider]), options))
  })
  return Object.assign(tag, { layer: Layer.effect(tag, pool) }) as ServiceClass<Self, Id, T>
}
