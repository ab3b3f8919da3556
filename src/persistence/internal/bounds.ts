// What the stores of several processes have in common: their options, and the bounds of what they keep.
import * as Effect from "effect/Effect"
import * as Random from "effect/Random"
import * as Schema from "effect/Schema"
import { number, optionsOf, withDefault } from "../../internal/option.ts"

/** Milliseconds that stand for ever: 31 years. */
export const EVER = 1e12

/** Milliseconds for which what has ended is remembered, for the sake of its fence. */
export const GRACE = 60_000

/** Options that every shared store has. */
export interface SharedOptions {
  /**
   * What the names of its keys begin with. One for each set of API keys: a key that was revoked must not put the
   * neighbour's target to rest. Default `llm`.
   */
  readonly prefix?: string | undefined
  /** The most bytes of one value, two per character; larger ones are not kept. Default 8 MiB. */
  readonly maxValueBytes?: number | undefined
}

const PREFIX = "1 to 64 letters, digits or any of _ . : -"

export const SharedOptionsSchema = optionsOf<SharedOptions>()({
  prefix: withDefault(
    Schema.String.annotate({ expected: PREFIX }).check(
      Schema.makeFilter((prefix) => /^[\w.:-]{1,64}$/.test(prefix), { expected: PREFIX })
    ),
    "llm"
  ),
  maxValueBytes: number(8 * 1024 * 1024, 1)
})

export type SharedPolicy = typeof SharedOptionsSchema.Type

export const isTooLarge = (value: string, maxValueBytes: number): boolean => 2 * value.length > maxValueBytes

/** Names a process among those that share a store. */
export const ownName: Effect.Effect<string> = Effect.map(
  Effect.all([Random.nextIntBetween(0, 2 ** 31), Random.nextIntBetween(0, 2 ** 31)]),
  (parts) => parts.map((part) => part.toString(36)).join("")
)
