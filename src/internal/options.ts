// Reads the options of a pattern: applies defaults, checks every rule, and complains with path, rule and kind.
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import { LlmConfigError } from "../LlmError.ts"
import { kindOf } from "./issue.ts"

/**
 * A reader of one options object. Its methods throw `LlmConfigError`; {@link attempt} turns that into a typed failure.
 *
 * Durations come back in milliseconds; `Infinity` is a valid duration.
 */
export class OptionsReader<O extends object> {
  readonly path: string
  private readonly options: O

  constructor(path: string, options: O | undefined, known: ReadonlyArray<keyof O & string>) {
    this.path = path
    this.options = options ?? {} as O
    if (typeof this.options !== "object" || Array.isArray(this.options)) this.fail("", "an object of options", options)
    for (const key of Object.keys(this.options)) {
      if (!(known as ReadonlyArray<string>).includes(key)) {
        throw new LlmConfigError({ path: this.at(key), rule: `one of ${known.join(", ")}`, kind: "an unknown option" })
      }
    }
  }

  at(key: string): string {
    return key === "" ? this.path : this.path === "" ? key : `${this.path}.${key}`
  }

  fail(key: string, rule: string, value: unknown): never {
    throw new LlmConfigError({ path: this.at(key), rule, kind: kindOf(value) })
  }

  value<K extends keyof O & string>(key: K): O[K] | undefined {
    return this.options[key]
  }

  /** A duration of at least `min` milliseconds (default 0). */
  millis<K extends keyof O & string>(key: K, fallback: Duration.Input, min = 0): number {
    const value: unknown = this.options[key] ?? fallback
    const duration = Duration.fromInput(value as Duration.Input)
    if (duration._tag === "None" || Number.isNaN(value)) {
      return this.fail(key, "a duration such as \"2 seconds\" or a number of milliseconds", value)
    }
    const millis = Duration.toMillis(duration.value)
    if (!(millis >= min)) {
      return this.fail(key, min === 0 ? "a duration that is not negative" : `a duration of at least ${min} ms`, millis)
    }
    return millis
  }

  /** A duration above zero, or `false` for none (`Infinity`). */
  millisOrOff<K extends keyof O & string>(key: K, fallback: Duration.Input): number {
    return this.options[key] === false ? Infinity : this.millis(key, fallback, 1)
  }

  integer<K extends keyof O & string>(key: K, fallback: number, min = 0): number {
    const value: unknown = this.options[key] ?? fallback
    if (typeof value !== "number" || !Number.isInteger(value) || value < min) {
      return this.fail(key, `a whole number of at least ${min}`, value)
    }
    return value
  }

  number<K extends keyof O & string>(key: K, fallback: number, min: number, max = Infinity): number {
    const value: unknown = this.options[key] ?? fallback
    if (typeof value !== "number" || !(value >= min && value <= max)) {
      return this.fail(key, max === Infinity ? `a number of at least ${min}` : `a number from ${min} to ${max}`, value)
    }
    return value
  }

  boolean<K extends keyof O & string>(key: K, fallback: boolean): boolean {
    const value: unknown = this.options[key] ?? fallback
    return typeof value === "boolean" ? value : this.fail(key, "true or false", value)
  }

  oneOf<K extends keyof O & string, const A extends string | boolean>(
    key: K,
    allowed: ReadonlyArray<A>,
    fallback: A
  ): A {
    const value: unknown = this.options[key] ?? fallback
    const found = allowed.find((a) => a === value)
    return found === undefined ? this.fail(key, `one of ${allowed.join(", ")}`, value) : found
  }
}

/** Runs a reader; a thrown `LlmConfigError` becomes a typed failure, anything else stays a defect. */
export const attempt = <A>(read: () => A): Effect.Effect<A, LlmConfigError> =>
  Effect.suspend(() => {
    try {
      return Effect.succeed(read())
    } catch (error) {
      return error instanceof LlmConfigError ? Effect.fail(error) : Effect.die(error)
    }
  })
