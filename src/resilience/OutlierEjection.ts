/**
 * Several hosts that can stand in for each other, without those that keep failing: outlier ejection, as in Envoy.
 *
 * A circuit breaker says whether a service may be asked at all; ejection says which of its hosts is asked. A host that
 * fails several times in a row leaves the rotation for a while, longer each time, but never so many at once that the
 * rest would drown.
 *
 * @since 0.1.0
 * @see https://www.envoyproxy.io/docs/envoy/latest/intro/arch_overview/upstream/outlier
 */
import * as Cause from "effect/Cause"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import { monotonicMillis } from "../internal/clock.ts"
import { kindOf } from "../internal/issue.ts"
import { attempt, integer, millis, millisIfGiven, number, optionsOf, readOptions, rule } from "../internal/option.ts"
import { classify, LlmConfigError, type Verdict } from "../LlmError.ts"

// -----------------------------------------------------------------------------
// options
// -----------------------------------------------------------------------------

/**
 * @category models
 * @since 0.1.0
 */
export interface Options {
  /** Failures in a row that eject a host. Default 5. */
  readonly consecutiveFailures?: number | undefined
  /** How long a host is out the first time; the n-th time n times as long. Default 30 seconds. */
  readonly baseEjection?: Duration.Input | undefined
  /** The longest a host is out, at least `baseEjection`. Default 5 minutes, or `baseEjection` if that is longer. */
  readonly maxEjection?: Duration.Input | undefined
  /** The count of ejections shrinks by one per such interval without another. Default 10 seconds. */
  readonly forgiveAfter?: Duration.Input | undefined
  /** The largest share of hosts that may be out at once, in percent. One host always stays. Default 50. */
  readonly maxEjectedPercent?: number | undefined
}

/**
 * The schema of {@link Options}: defaults and rules.
 *
 * @category schemas
 * @since 0.2.0
 */
export const OptionsSchema = optionsOf<Options>()({
  consecutiveFailures: integer(5, 1),
  baseEjection: millis("30 seconds", 1),
  maxEjection: millisIfGiven(1),
  forgiveAfter: millis("10 seconds", 1),
  maxEjectedPercent: number(50, 0, 100)
}).check(rule(({ baseEjection, maxEjection }) =>
  maxEjection === undefined || maxEjection >= baseEjection
    ? undefined
    : ["baseEjection", `at most maxEjection, ${maxEjection} ms`]
))

/**
 * Checked options; milliseconds.
 *
 * @category models
 * @since 0.1.0
 */
export interface Policy {
  readonly consecutiveFailures: number
  readonly baseEjection: number
  readonly maxEjection: number
  readonly forgiveAfter: number
  readonly maxEjectedPercent: number
}

/**
 * Checks options; throws `LlmConfigError`.
 *
 * @category constructors
 * @since 0.1.0
 */
export const policy = (options?: Options, path = "outlierEjection"): Policy => {
  const { maxEjection, ...others } = readOptions(OptionsSchema, options, path)
  return { ...others, maxEjection: maxEjection ?? Math.max(300_000, others.baseEjection) }
}

// -----------------------------------------------------------------------------
// core
// -----------------------------------------------------------------------------

/**
 * What is remembered of one host. Times are monotonic milliseconds.
 *
 * @category core
 * @since 0.1.0
 */
export interface Host {
  /** Failures in a row. */
  readonly streak: number
  /** Ejections, as of `until`. */
  readonly ejections: number
  /** Out until then; in the past, in rotation since then. */
  readonly until: number
}

/**
 * A host nobody has asked yet.
 *
 * @category core
 * @since 0.1.0
 */
export const fresh: Host = { streak: 0, ejections: 0, until: -Infinity }

/**
 * Is the host out?
 *
 * @category core
 * @since 0.1.0
 */
export const isEjected = (host: Host, now: number): boolean => now < host.until

/**
 * Ejections that still count: one less per interval in which the host stayed in rotation.
 *
 * @category core
 * @since 0.1.0
 */
export const ejections = (policy: Policy, host: Host, now: number): number =>
  host.ejections === 0 || isEjected(host, now)
    ? host.ejections
    : Math.max(host.ejections - Math.floor((now - host.until) / policy.forgiveAfter), 0)

/**
 * May one more of `hosts` go, when `ejected` are out?
 *
 * @category core
 * @since 0.1.0
 */
export const hasRoom = (policy: Policy, hosts: number, ejected: number): boolean =>
  ejected + 1 < hosts && (ejected + 1) * 100 <= hosts * policy.maxEjectedPercent

/**
 * The host after an answer. What comes from a host that is out was asked before, and changes nothing. A host that may
 * not go for lack of room stays on the brink: its next failure asks again.
 *
 * @category core
 * @since 0.1.0
 */
export const record = (policy: Policy, host: Host, isFailure: boolean, room: boolean, now: number): Host => {
  if (isEjected(host, now)) return host
  if (!isFailure) return host.streak === 0 ? host : { ...host, streak: 0 }
  const streak = host.streak + 1
  return streak < policy.consecutiveFailures || !room ? { ...host, streak } : eject(policy, host, now)
}

/**
 * The host once it is out, whatever its failures in a row.
 *
 * @category core
 * @since 0.2.0
 */
export const eject = (policy: Policy, host: Host, now: number): Host => {
  if (isEjected(host, now)) return host
  const count = ejections(policy, host, now) + 1
  return { streak: 0, ejections: count, until: now + Math.min(policy.baseEjection * count, policy.maxEjection) }
}

// -----------------------------------------------------------------------------
// rotation
// -----------------------------------------------------------------------------

/**
 * How a host is doing.
 *
 * @category models
 * @since 0.1.0
 */
export interface HostStatus<out H> {
  readonly host: H
  /** Failures in a row. */
  readonly streak: number
  /** Ejections that still count. */
  readonly ejections: number
  /** Left until it is asked again; `undefined` while it is in rotation. */
  readonly ejectedFor: Duration.Duration | undefined
}

/**
 * Hosts in rotation.
 *
 * @category models
 * @since 0.1.0
 */
export interface Rotation<out H> {
  /**
   * Runs an effect with the next host, and counts how it ended. `judge` says which failures are the host's; by default
   * `LlmError.classify`. Interruptions and defects count for nothing.
   */
  readonly use: <A, E, R>(
    run: (host: H) => Effect.Effect<A, E, R>,
    judge?: (error: E) => Verdict["outcome"]
  ) => Effect.Effect<A, E, R>
  readonly status: Effect.Effect<ReadonlyArray<HostStatus<H>>>
  /**
   * The next host in turn that is not out; the number that `recordUnsafe` takes.
   *
   * @internal
   */
  readonly selectUnsafe: (now: number) => number
  /**
   * Counts an answer of a host.
   *
   * @internal
   */
  readonly recordUnsafe: (index: number, isFailure: boolean, now: number) => void
  /**
   * Takes a host out that is known not to serve, unless it is the last one.
   *
   * @internal
   */
  readonly ejectUnsafe: (index: number, now: number) => void
  /** @internal */
  readonly hasOthersUnsafe: (index: number, now: number) => boolean
}

/**
 * Puts hosts into rotation. Fails when there is none, or when an option is wrong.
 *
 * **Details**
 *
 * Hosts are asked in turn, so an immediate retry meets another one.
 *
 * **Example** (One of three hosts is ill)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { OutlierEjection } from "effect-resilient-llm/resilience"
 *
 * const program = Effect.gen(function*() {
 *   const rotation = yield* OutlierEjection.make(["a", "b", "c"], { consecutiveFailures: 2 })
 *   const ask = rotation.use((host) => host === "b" ? Effect.fail("down") : Effect.succeed(host))
 *   const answers = yield* Effect.forEach([1, 2, 3, 4, 5, 6, 7, 8], () => Effect.exit(ask))
 *   return answers.map((exit) => exit._tag === "Success" ? exit.value : "-").join("")
 * })
 * await Effect.runPromise(program) // => "a-ca-cac"
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = <const H>(
  hosts: ReadonlyArray<H>,
  options?: Options
): Effect.Effect<Rotation<H>, LlmConfigError> => attempt(() => fromPolicy(hosts, policy(options)))

/** @internal */
export const fromPolicy = <H>(hosts: ReadonlyArray<H>, policy: Policy): Rotation<H> => {
  if (!(hosts?.length > 0)) {
    throw new LlmConfigError({ path: "hosts", rule: "at least one host", kind: kindOf(hosts) })
  }
  const states: Array<Host> = hosts.map(() => fresh)
  let turn = 0

  const selectUnsafe: Rotation<H>["selectUnsafe"] = (now) => {
    // One host always stays, so this ends.
    while (isEjected(states[turn % hosts.length]!, now)) turn += 1
    return turn++ % hosts.length
  }

  const recordUnsafe: Rotation<H>["recordUnsafe"] = (index, isFailure, now) => {
    const ejected = states.filter((host) => isEjected(host, now)).length
    states[index] = record(policy, states[index]!, isFailure, hasRoom(policy, hosts.length, ejected), now)
  }

  const hasOthersUnsafe: Rotation<H>["hasOthersUnsafe"] = (index, now) =>
    states.some((host, i) => i !== index && !isEjected(host, now))

  return {
    selectUnsafe,
    recordUnsafe,
    hasOthersUnsafe,
    ejectUnsafe: (index, now) => {
      if (hasOthersUnsafe(index, now)) states[index] = eject(policy, states[index]!, now)
    },
    use: (run, judge = (error) => classify(error).outcome) =>
      Effect.clockWith((clock) => {
        const index = selectUnsafe(monotonicMillis(clock))
        return Effect.onExit(run(hosts[index]!), (exit) => {
          const error = Exit.isFailure(exit) ? Cause.findErrorOption(exit.cause) : undefined
          const isFailure = error?._tag === "Some" && judge(error.value) === "failure"
          if (isFailure || Exit.isSuccess(exit)) recordUnsafe(index, isFailure, monotonicMillis(clock))
          return Effect.void
        })
      }),
    status: Effect.clockWith((clock) => {
      const now = monotonicMillis(clock)
      return Effect.succeed(hosts.map((host, i): HostStatus<H> => {
        const state = states[i]!
        return {
          host,
          streak: state.streak,
          ejections: ejections(policy, state, now),
          ejectedFor: isEjected(state, now) ? Duration.millis(Math.ceil(state.until - now)) : undefined
        }
      }))
    })
  }
}
