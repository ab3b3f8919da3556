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
import * as Layer from "effect/Layer"
import * as Pull from "effect/Pull"
import * as Stream from "effect/Stream"
import { monotonicMillis } from "./internal/clock.ts"
import { attempt } from "./internal/options.ts"
import { classify, LlmConfigError } from "./LlmError.ts"
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

type Named = readonly [name: string, provider: LlmProvider]

/**
 * Makes a pool from providers by name. Fails when it is empty, when an option is wrong, or when the hosts differ in
 * what the pipeline asks of a provider: models, default model, reasoning.
 *
 * **Details**
 *
 * - Attempts go to the hosts in turn, so a retry meets another host than the attempt before it, unless other calls
 *   came between.
 * - `LlmError.classify` decides which failures are the host's fault. A stream counts when it has finished or broken;
 *   one that its reader leaves counts for nothing.
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
): Effect.Effect<LlmPool, LlmConfigError> => attempt(() => fromHosts(Object.entries(hosts), options))

const fromHosts = (hosts: ReadonlyArray<Named>, options: Options = {}): LlmPool => {
  const { id, ...ejection } = options
  const rotation = OutlierEjection.fromPolicy(hosts, OutlierEjection.policy(ejection, "pool"))
  const [first, ...others] = hosts.map(([, provider]) => provider)
  const { defaultModel, models, reasoning } = first!
  for (const [i, other] of others.entries()) {
    for (const field of ["models", "defaultModel", "reasoning"] as const) {
      if (JSON.stringify(other[field]) !== JSON.stringify(first![field])) {
        const path = `pool.${hosts[i + 1]![0]}.${field}`
        throw new LlmConfigError({ path, rule: "the same for all hosts of a pool", kind: "another" })
      }
    }
  }
  return {
    id: id ?? first!.id,
    defaultModel,
    models,
    reasoning,
    generate: (request) => rotation.use(([, provider]) => provider.generate(request)),
    stream: (request) =>
      Stream.unwrap(Effect.clockWith((clock) => {
        const index = rotation.selectUnsafe(monotonicMillis(clock))
        const [, provider] = hosts[index]!
        return Effect.succeed(counted(provider.stream(request), (isFailure) =>
          rotation.recordUnsafe(index, isFailure, monotonicMillis(clock))))
      })),
    hosts: Effect.map(rotation.status, (all) => all.map((status) => ({ ...status, host: status.host[0] })))
  }
}

type Parts = ReturnType<LlmProvider["stream"]>

/** Says once how a stream ended, unless its reader left before. */
const counted = (parts: Parts, record: (isFailure: boolean) => void): Parts =>
  Stream.transformPull(parts, (pull) => {
    let isOver = false
    const over = (isFailure: boolean): void => {
      if (!isOver) record(isFailure)
      isOver = true
    }
    return Effect.succeed(Effect.matchCauseEffect(pull, {
      onSuccess: (chunk) => {
        for (const part of chunk) if (part.type === "finish" || part.type === "error") over(part.type === "error")
        return Effect.succeed(chunk)
      },
      onFailure: (cause) => {
        const error = Cause.findErrorOption(cause)
        // A stream that ends without a finish part is truncated.
        if (Pull.isDoneCause(cause)) over(true)
        else if (error._tag === "Some" && classify(error.value).outcome === "failure") over(true)
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
 * A pool as a tag of your own, which `LlmClient` takes as a target. Its layer needs the providers you name.
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
  const pool = Effect.flatMap(
    Effect.forEach(members, (member) => Effect.map(member, (provider): Named => [member.key, provider])),
    (hosts) => attempt(() => fromHosts(hosts, options))
  )
  return Object.assign(tag, { layer: Layer.effect(tag, pool) }) as ServiceClass<Self, Id, T>
}
