/**
 * Which target is asked first, and which need not be asked at all.
 *
 * Routing only reorders: the walk along the targets, with its breakers and cool-downs, stays as it is. A plan leaves out
 * what is known to be unable to serve a request before anybody is asked.
 *
 * @since 0.2.0
 */
import type * as Duration from "effect/Duration"
import { millis, number, oneOf, optionsOf, readOption, readOptions } from "../internal/option.ts"
import { LlmConfigError } from "../LlmError.ts"

// -----------------------------------------------------------------------------
// policy
// -----------------------------------------------------------------------------

/**
 * @category models
 * @since 0.2.0
 */
export interface Options {
  /**
   * `order`: as the targets are listed. `weights`: by chance, in proportion to the targets' weights. `fastest`: by the
   * measured time to the first content. Default `order`.
   */
  readonly strategy?: "order" | "weights" | "fastest" | undefined
  /**
   * Keeps calls of the same tenant, or of the same `conversation`, at the same target, as prompt caches need it; calls
   * without one follow the strategy. Default `false`.
   */
  readonly sticky?: "tenant" | "conversation" | false | undefined
  /** For `fastest`: after this time a measurement counts half. Default 1 minute. */
  readonly halfLife?: Duration.Input | undefined
  /** For `fastest`: the share of streams that another target is asked first, to measure it. Default 0.05. */
  readonly explore?: number | undefined
}

/**
 * The schema of {@link Options}: defaults and rules.
 *
 * @category schemas
 * @since 0.2.0
 */
export const OptionsSchema = optionsOf<Options>()({
  strategy: oneOf(["order", "weights", "fastest"], "order"),
  sticky: oneOf(["tenant", "conversation", false], false),
  halfLife: millis("1 minute", 1),
  explore: number(0.05, 0, 1)
})

/** @internal */
export const Weight = number(1, 0, 1e6)

/**
 * Checked options; milliseconds.
 *
 * @category models
 * @since 0.2.0
 */
export type Policy = typeof OptionsSchema.Type

/**
 * Checks options; throws `LlmConfigError`.
 *
 * @category constructors
 * @since 0.2.0
 */
export const policy = (options?: Options, path = "routing"): Policy => readOptions(OptionsSchema, options, path)

/**
 * Checks the weights of targets: none below zero, at least one above; throws `LlmConfigError`.
 *
 * @category constructors
 * @since 0.2.0
 */
export const weights = (of: ReadonlyArray<number | undefined>): ReadonlyArray<number> => {
  const checked = of.map((weight, i) => readOption(Weight, weight, `targets[${i}].weight`))
  if (checked.length > 0 && !checked.some((weight) => weight > 0)) {
    throw new LlmConfigError({ path: "targets", rule: "at least one with a weight above zero", kind: "all zero" })
  }
  return checked
}

// -----------------------------------------------------------------------------
// orders
// -----------------------------------------------------------------------------

/**
 * The numbers of the targets, first to last.
 *
 * @category models
 * @since 0.2.0
 */
export type Order = ReadonlyArray<number>

/** Highest score first, ties as listed. There are few targets, so each is put in its place. */
const byScore = (scores: ReadonlyArray<number>): Order => {
  const order: Array<number> = []
  for (let i = 0; i < scores.length; i++) {
    let at = i
    for (; at > 0 && scores[order[at - 1]!]! < scores[i]!; at--) order[at] = order[at - 1]!
    order[at] = i
  }
  return order
}

/**
 * By chance: each place goes to one of those left, in proportion to its weight (Efraimidis and Spirakis). Targets of
 * weight zero come last, as listed. `draw` is asked once per target, and returns numbers from 0 to below 1.
 *
 * @category orders
 * @since 0.2.0
 */
export const byWeight = (weights: ReadonlyArray<number>, draw: () => number): Order =>
  byScore(weights.map((weight) => score(draw(), weight)))

/**
 * The same order for the same key, whoever asks: rendezvous hashing (Thaler and Ravishankar), in proportion to the
 * weights. Without one target, only what was first there moves.
 *
 * @category orders
 * @since 0.2.0
 */
export const byKey = (key: string, ids: ReadonlyArray<string>, weights: ReadonlyArray<number>): Order =>
  byScore(ids.map((id, i) => score(hash(`${id} ${key}`), weights[i]!)))

/** Of two, each is larger in proportion to its weight. */
const score = (u: number, weight: number): number =>
  // 1 − u is never zero.
  weight > 0 ? Math.log(1 - u) / weight : -Infinity

/** FNV-1a, mixed as in MurmurHash3: from 0 to below 1. */
const hash = (text: string): number => {
  let h = 0x811c9dc5
  for (let i = 0; i < text.length; i++) h = Math.imul(h ^ text.charCodeAt(i), 0x01000193)
  h = Math.imul(h ^ (h >>> 16), 0x85ebca6b)
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35)
  return ((h ^ (h >>> 16)) >>> 0) / 2 ** 32
}

/**
 * How fast a target is: a mean in which a measurement of one half-life ago counts half.
 *
 * @category models
 * @since 0.2.0
 */
export interface Speed {
  /** Milliseconds to the first content. */
  readonly mean: number
  /** How many measurements it stands for, as of `at`. */
  readonly weight: number
  readonly at: number
}

/**
 * A target that was never measured.
 *
 * @category orders
 * @since 0.2.0
 */
export const unmeasured: Speed = { mean: 0, weight: 0, at: 0 }

/** Less than that is forgotten: a single measurement after three half-lives and a bit. */
const FORGOTTEN = 0.1

const weightAt = (policy: Policy, speed: Speed, now: number): number =>
  speed.weight * 2 ** (Math.min(speed.at - now, 0) / policy.halfLife)

/**
 * The speed after one more measurement.
 *
 * @category orders
 * @since 0.2.0
 */
export const measured = (policy: Policy, speed: Speed, millis: number, now: number): Speed => {
  const before = weightAt(policy, speed, now)
  const weight = before + 1
  return { mean: (speed.mean * before + millis) / weight, weight, at: Math.max(now, speed.at) }
}

/**
 * The fastest first; who was not measured for long comes behind, as listed. A share of `explore` of the calls asks
 * one of the others first, by chance.
 *
 * @category orders
 * @since 0.2.0
 */
export const bySpeed = (policy: Policy, speeds: ReadonlyArray<Speed>, now: number, draw: () => number): Order => {
  const order = byScore(
    speeds.map((speed) => weightAt(policy, speed, now) < FORGOTTEN ? -Infinity : -speed.mean)
  )
  if (policy.explore === 0 || order.length < 2) return order
  const u = draw()
  if (u >= policy.explore) return order
  // What is left of the draw is as good as another one.
  const other = 1 + Math.floor((u / policy.explore) * (order.length - 1))
  return [order[other]!, ...order.filter((_, i) => i !== other)]
}

// -----------------------------------------------------------------------------
// plan
// -----------------------------------------------------------------------------

/**
 * What a target can do. What is left out is not known, and is not held against it.
 *
 * @category models
 * @since 0.2.0
 */
export interface Supports {
  /** Tools that the model may call. */
  readonly tools?: boolean | undefined
  /** Answers that follow a JSON Schema. */
  readonly schema?: boolean | undefined
  /** Images and other files in a prompt. */
  readonly vision?: boolean | undefined
}

/**
 * What a request needs.
 *
 * @category models
 * @since 0.2.0
 */
export interface Needs {
  /** Tokens of the prompt and of the longest answer, as estimated. */
  readonly tokens: number
  readonly tools: boolean
  readonly schema: boolean
  readonly vision: boolean
}

/**
 * Why a target cannot serve a request; `field`: the part of the request that it cannot take.
 *
 * @category models
 * @since 0.2.0
 */
export type Unfit =
  | { readonly because: "context-too-small" }
  | { readonly because: "unsupported"; readonly field: string }

/**
 * Why a target cannot serve a request; `undefined` when nothing speaks against it.
 *
 * @category plan
 * @since 0.2.0
 */
export const unfit = (
  needs: Needs,
  { contextWindow, supports }: {
    readonly contextWindow?: number | undefined
    readonly supports?: Supports | undefined
  }
): Unfit | undefined => {
  if (contextWindow !== undefined && needs.tokens > contextWindow) return { because: "context-too-small" }
  if (supports === undefined) return undefined
  if (supports.tools === false && needs.tools) return { because: "unsupported", field: "tools" }
  if (supports.schema === false && needs.schema) return { because: "unsupported", field: "responseFormat" }
  return supports.vision === false && needs.vision ? { because: "unsupported", field: "prompt" } : undefined
}
