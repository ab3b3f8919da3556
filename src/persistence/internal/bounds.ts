// What the stores of several processes have in common: their options, and the bounds of what they keep.
import * as Effect from "effect/Effect"
import * as Random from "effect/Random"
import type { OptionsReader } from "../../internal/options.ts"

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

export const sharedOptions = ["prefix", "maxValueBytes"] as const

export const readShared = <O extends SharedOptions>(
  read: OptionsReader<O>
): { readonly prefix: string; readonly maxValueBytes: number } => {
  const prefix: unknown = read.value("prefix") ?? "llm"
  return {
    prefix: typeof prefix === "string" && /^[\w.:-]{1,64}$/.test(prefix)
      ? prefix
      : read.fail("prefix", "1 to 64 letters, digits or any of _ . : -", prefix),
    maxValueBytes: read.number("maxValueBytes", 8 * 1024 * 1024, 1)
  }
}

export const isTooLarge = (value: string, maxValueBytes: number): boolean => 2 * value.length > maxValueBytes

/** Names a process among those that share a store. */
export const ownName: Effect.Effect<string> = Effect.map(
  Effect.all([Random.nextIntBetween(0, 2 ** 31), Random.nextIntBetween(0, 2 ** 31)]),
  (parts) => parts.map((part) => part.toString(36)).join("")
)
