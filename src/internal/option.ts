// The options of a pattern, each written once: a schema with its default and its rule. What is checked, what a JSON
// document may hold and which environment variables there are follows from it.
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import * as SchemaTransformation from "effect/SchemaTransformation"
import { LlmConfigError } from "../LlmError.ts"
import { readDuration } from "./duration.ts"
import { firstIssue } from "./issue.ts"

// -----------------------------------------------------------------------------
// kinds of options
// -----------------------------------------------------------------------------

/** An option that may be left out. */
export const withDefault = <S extends Schema.Constraint>(schema: S, fallback: S["Encoded"]) =>
  Schema.withDecodingDefault<S>(Effect.succeed(fallback))(schema)

const numberThat = (is: (n: number) => boolean, expected: string) =>
  Schema.Number.annotate({ expected }).check(Schema.makeFilter(is, { expected }))

const isPositive = (n: number): boolean => n > 0 && n < Infinity

const whole = (min: number) => numberThat((n) => Number.isInteger(n) && n >= min, `a whole number of at least ${min}`)

const between = (min: number, max: number) =>
  numberThat(
    (n) => n >= min && n <= max,
    max === Infinity ? `a number of at least ${min}` : `a number from ${min} to ${max}`
  )

/** A whole number, without a default. */
export const integerAtLeast = whole

/** A number above zero, without a default. */
export const positive = numberThat(isPositive, "a number above zero")

/** A share between 0 and 1, without a default. */
export const share = numberThat((n) => n > 0 && n < 1, "a number between 0 and 1")

/** A list that is not empty, without a default. */
export const list = <S extends Schema.Constraint>(of: S, expected: string) =>
  Schema.Array(of).annotate({ expected }).check(Schema.makeFilter((all) => all.length > 0, { expected }))

/** A text with a rule, without a default. */
export const textThat = (is: (text: string) => boolean, expected: string) =>
  Schema.String.annotate({ expected }).check(Schema.makeFilter(is, { expected }))

/** A text that is not empty, without a default. */
export const text = (expected: string) => textThat((s) => s !== "", expected)

const units: Readonly<Record<string, number>> = { ms: 1, s: 1000, m: 60_000, min: 60_000, h: 3_600_000 }

/** A duration in milliseconds: as Effect reads it, or as one writes it in a shell, such as `50ms`, `20s`, `2m`. */
export const millisOf = (input: unknown): number | undefined => {
  if (typeof input === "string") {
    const short = /^(\d+(?:\.\d+)?)\s*(ms|s|min|m|h)$/.exec(input.trim())
    if (short !== null) return Number(short[1]) * units[short[2]!]!
  }
  const read = readDuration(typeof input === "string" ? input.trim() : input)
  return read && Duration.toMillis(read)
}

/** The number that a text is, if it is one. */
export const numberOf = (text: string): number | undefined =>
  /^\s*[+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?\s*$/i.test(text) ? Number(text) : undefined

const DURATION = "a duration such as \"2 seconds\" or a number of milliseconds"

/** Marks what a text in a configuration stands for; declared types without the mark are in no configuration. */
export const FROM_TEXT = "effect-resilient-llm/fromText"

const DurationInput = Schema.declare<Duration.Input>(
  (u): u is Duration.Input => millisOf(u) !== undefined,
  { expected: DURATION, [FROM_TEXT]: (text: string): unknown => numberOf(text) ?? millisOf(text) }
)

const millisThat = (is: (millis: number) => boolean, expected: string) =>
  DurationInput.pipe(Schema.decodeTo(
    Schema.Number.check(Schema.makeFilter(is, { expected })),
    SchemaTransformation.transform({ decode: (input) => millisOf(input)!, encode: (millis) => millis })
  ))

const atLeast = (min: number) =>
  millisThat(
    (millis) => millis >= min,
    min === 0 ? "a duration that is not negative" : `a duration of at least ${min} ms`
  )

/** Milliseconds, without a default. */
export const duration = () => atLeast(0)

/** Milliseconds that are finite and above zero, without a default. */
export const finiteDuration = () => millisThat(isPositive, "a finite duration above zero")

/** At least `min` milliseconds, but not for ever. */
export const finite = (fallback: Duration.Input, min: number) => withDefault(ending(min), fallback)

export const finiteIfGiven = (min: number) => Schema.optional(ending(min))

const ending = (min: number) =>
  atLeast(min).check(Schema.makeFilter((millis: number) => millis < Infinity, { expected: "a finite duration" }))

/** `false` stands for `Infinity`. */
const orNone = <E>(schema: Schema.Codec<number, E>) =>
  Schema.Union([
    schema,
    Schema.Literal(false).pipe(Schema.decodeTo(
      Schema.Number,
      SchemaTransformation.transform({ decode: () => Infinity, encode: () => false as const })
    ))
  ])

/** Milliseconds; `Infinity` is a duration, too. */
export const millis = (fallback: Duration.Input, min = 0) => withDefault(atLeast(min), fallback)

/** Milliseconds, or what another option says when it is left out. */
export const millisIfGiven = (min = 0) => Schema.optional(atLeast(min))

/** The same with `false` for none (`Infinity`). */
export const millisOrOffIfGiven = () => Schema.optional(orNone(atLeast(1)))

/** Milliseconds above zero, or `false` for none (`Infinity`). */
export const millisOrOff = (fallback: Duration.Input) => withDefault(orNone(atLeast(1)), fallback)

export const integer = (fallback: number, min = 0) => withDefault(whole(min), fallback)

export const integerIfGiven = (min: number) => Schema.optional(whole(min))

export const integerOrOff = (fallback: number, min: number) => withDefault(orNone(whole(min)), fallback)

export const number = (fallback: number, min: number, max = Infinity) => withDefault(between(min, max), fallback)

export const numberOrOff = (fallback: number, min: number, max: number) =>
  withDefault(orNone(between(min, max)), fallback)

/** A number of tokens to three decimals. */
export const amount = (fallback: number) =>
  withDefault(
    between(0, 1_000_000).check(Schema.makeFilter(
      (n: number) => Math.abs(n * 1000 - Math.round(n * 1000)) < 1e-6,
      { expected: "a multiple of 0.001" }
    )),
    fallback
  )

export const boolean = (fallback: boolean) =>
  withDefault(Schema.Boolean.annotate({ expected: "true or false" }), fallback)

export const oneOf = <const A extends string | boolean>(allowed: ReadonlyArray<A>, fallback: A) =>
  withDefault(Schema.Literals(allowed).annotate({ expected: `one of ${allowed.join(", ")}` }), fallback)

/** Does a pattern enforce what it decides, or only tell? */
export const mode = () => oneOf(["enforce", "shadow"], "enforce")

/** Something that no file can hold, such as a store. */
export const value = <A>(is: (u: unknown) => u is A, expected: string) =>
  Schema.optional(Schema.declare<A>(is, { expected }))

/** Options of a pattern, the pattern as a value, or `false` for off. */
export const orValue = <S extends Schema.Constraint, A>(schema: S, is: (u: unknown) => u is A) => {
  const expected = "an object of options, or false"
  return Schema.optional(
    Schema.Union([Schema.declare<A>(is, { expected }), schema, Schema.Literal(false)]).annotate({ expected })
  )
}

/** Options of a pattern, or `false` for off. */
export const orFalse = <S extends Schema.Constraint>(schema: S) =>
  Schema.optional(
    Schema.Union([schema, Schema.Literal(false)]).annotate({ expected: "an object of options, or false" })
  )

// -----------------------------------------------------------------------------
// options of one pattern
// -----------------------------------------------------------------------------

type Same<A, B> = [A] extends [B] ? [B] extends [A] ? unknown : never : never

/** Fields whose written form is exactly that of the documented interface `O`. */
type FieldsOf<O, F extends Schema.Struct.Fields> =
  & { readonly [K in keyof O]-?: K extends keyof F ? Same<F[K]["Encoded"], O[K]> : never }
  & { readonly [K in Exclude<keyof F, keyof O>]: never }

/**
 * The schema of the options `O`. They are named twice, here and in the interface, because editors show no documentation
 * of types that were computed (TypeScript 7's server drops it); the compiler holds both to each other.
 */
export const optionsOf =
  <O>() => <const F extends Schema.Struct.Fields>(fields: F & FieldsOf<O, F>): Schema.Struct<F> =>
    Schema.Struct<F>(fields).annotate({ expected: "an object of options" })

/** A rule between several options: the name of the one that breaks it, and what it must be. */
export const rule = <A>(
  broken: (options: A) => readonly [name: string | ReadonlyArray<PropertyKey>, rule: string] | undefined
) =>
  Schema.makeFilter<A>((options) => {
    const found = broken(options)
    if (found === undefined) return undefined
    const [name, issue] = found
    return { path: typeof name === "string" ? [name] : name, issue }
  })

/** An option that must be there, with what it must be. */
export const required = <S extends Schema.Top>(schema: S, expected: string) =>
  schema.pipe(Schema.annotateKey({ expected }))

/** Reads options; throws `LlmConfigError`. */
export const readOptions = <A>(schema: Schema.Codec<A, unknown>, options: unknown, path: string): A =>
  readOption(schema, options ?? {}, path)

/** Reads one option; throws `LlmConfigError`. */
export const readOption = <A>(schema: Schema.Codec<A, unknown>, option: unknown, path: string): A => {
  const decoded = decoderOf(schema)(option)
  if (Result.isSuccess(decoded)) return decoded.success as A
  const complaint = firstIssue(decoded.failure.issue, option)
  throw new LlmConfigError({ ...complaint, path: join(path, complaint.path) })
}

const join = (path: string, below: string): string => {
  if (path === "" && below === "") return "options"
  return below === "" || path === "" || below.startsWith("[") ? path + below : `${path}.${below}`
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

type Decoder = (options: unknown) => Result.Result<unknown, Schema.SchemaError>
const decoders = new WeakMap<object, Decoder>()

const decoderOf = (schema: Schema.Codec<unknown, unknown>): Decoder => {
  const known = decoders.get(schema)
  if (known !== undefined) return known
  const decoder: Decoder = Schema.decodeUnknownResult(schema, { onExcessProperty: "error" })
  decoders.set(schema, decoder)
  return decoder
}
