import { assert, describe, it } from "@effect/vitest"
import { Cause, Duration, Effect, Exit, Schema } from "effect"
import { LlmConfigError } from "effect-resilient-llm/LlmError"
import * as Option from "../../src/internal/option.ts"

/** What is read, or what is said of it. */
const read = (schema: Schema.Codec<unknown, unknown>, value: unknown): unknown => {
  try {
    return Option.readOption(schema, value, "at")
  } catch (error) {
    if (!(error instanceof LlmConfigError)) throw error
    return `${error.path}: ${error.rule}, ${error.kind}`
  }
}

describe("millisOf", () => {
  it("as Effect reads durations, and as one writes them in a shell", () => {
    const cases: ReadonlyArray<readonly [input: unknown, millis: number | undefined]> = [
      ["50ms", 50],
      ["20s", 20_000],
      ["1.5 s", 1500],
      [" 2m ", 120_000],
      ["2min", 120_000],
      ["1h", 3_600_000],
      ["2 seconds", 2000],
      [" 1 minute ", 60_000],
      ["Infinity", Infinity],
      [0, 0],
      [1.5, 1.5],
      [Infinity, Infinity],
      [Duration.seconds(3), 3000],
      [5_000_000n, 5],
      [{ seconds: 2 }, 2000],
      [NaN, undefined],
      ["", undefined],
      ["20", undefined],
      ["20 secs", undefined],
      ["1d", undefined],
      ["soon", undefined],
      [null, undefined],
      [undefined, undefined],
      [true, undefined],
      [{}, undefined],
      [{ second: 1 }, undefined]
    ]
    for (const [input, millis] of cases) assert.strictEqual(Option.millisOf(input), millis, String(input))
  })
})

describe("numberOf", () => {
  it("decimal numbers, and nothing that only looks like one to `Number`", () => {
    const numbers = { "1": 1, " -1.5 ": -1.5, "+2.": 2, ".5": 0.5, "1e3": 1000, "1E-2": 0.01, "007": 7 }
    for (const [text, number] of Object.entries(numbers)) assert.strictEqual(Option.numberOf(text), number, text)
    for (const text of ["", " ", ".", "1.2.3", "0x10", "0b1", "1_000", "1,5", "Infinity", "NaN", "1e", "five"]) {
      assert.isUndefined(Option.numberOf(text), text)
    }
  })
})

describe("kinds of options", () => {
  it("take what is on their bounds, and refuse what is beyond them", () => {
    const whole = "a whole number of at least 2"
    const duration = "a duration such as \"2 seconds\" or a number of milliseconds"
    const cases: ReadonlyArray<readonly [schema: Schema.Codec<unknown, unknown>, value: unknown, read: unknown]> = [
      [Option.integer(7, 2), undefined, 7],
      [Option.integer(7, 2), 2, 2],
      [Option.integer(7, 2), 1, `at: ${whole}, a whole number`],
      [Option.integer(7, 2), 2.5, `at: ${whole}, a fraction`],
      [Option.integer(7, 2), "2", `at: ${whole}, a text`],
      [Option.integer(7, 2), Infinity, `at: ${whole}, infinite`],
      [Option.integer(7, 2), null, `at: ${whole}, null`],
      [Option.integerOrOff(7, 2), false, Infinity],
      [Option.integerOrOff(7, 2), 3, 3],
      [Option.integerIfGiven(2), undefined, undefined],
      [Option.number(0.5, 0, 1), undefined, 0.5],
      [Option.number(0.5, 0, 1), 0, 0],
      [Option.number(0.5, 0, 1), 1, 1],
      [Option.number(0.5, 0, 1), 1.01, "at: a number from 0 to 1, a fraction"],
      [Option.number(0.5, 0, 1), NaN, "at: a number from 0 to 1, not a number"],
      [Option.number(0.5, 1), -1, "at: a number of at least 1, a negative number"],
      [Option.numberOrOff(1, 0.01, 1), false, Infinity],
      [Option.positive, 0, "at: a number above zero, zero"],
      [Option.positive, Infinity, "at: a number above zero, infinite"],
      [Option.share, 1, "at: a number between 0 and 1, a whole number"],
      [Option.amount(1), 0.001, 0.001],
      [Option.amount(1), 0.0015, "at: a multiple of 0.001, a fraction"],
      [Option.amount(1), 1_000_000, 1_000_000],
      [Option.amount(1), 1_000_001, "at: a number from 0 to 1000000, a whole number"],
      [Option.millis("2 seconds"), undefined, 2000],
      [Option.millis("2 seconds"), "5m", 300_000],
      [Option.millis("2 seconds"), Infinity, Infinity],
      [Option.millis("2 seconds"), 0, 0],
      [Option.millis("2 seconds"), -1, "at: a duration that is not negative, a negative number"],
      [Option.millis("2 seconds", 10), 9, "at: a duration of at least 10 ms, a whole number"],
      [Option.millis("2 seconds"), "soon", `at: ${duration}, a text`],
      [Option.millis("2 seconds"), NaN, `at: ${duration}, not a number`],
      [Option.millis("2 seconds"), false, `at: ${duration}, a boolean`],
      [Option.millis("2 seconds"), {}, `at: ${duration}, an object`],
      [Option.millisOrOff("2 seconds"), false, Infinity],
      [Option.millisOrOff("2 seconds"), undefined, 2000],
      [Option.millisOrOffIfGiven(), undefined, undefined],
      [Option.finite(5, 1), Infinity, "at: a finite duration, infinite"],
      [Option.finite(5, 1), 0, "at: a duration of at least 1 ms, zero"],
      [Option.finiteDuration(), 0, "at: a finite duration above zero, zero"],
      [Option.boolean(true), undefined, true],
      [Option.boolean(true), "true", "at: true or false, a text"],
      [Option.oneOf([false, "join"], false), undefined, false],
      [Option.oneOf([false, "join"], false), "join", "join"],
      [Option.oneOf([false, "join"], false), true, "at: one of false, join, a boolean"],
      [Option.mode(), undefined, "enforce"],
      [Option.text("a name"), "", "at: a name, an empty text"],
      [Option.text("a name"), 1, "at: a name, a whole number"],
      [Option.list(Option.text("a name"), "a list of names"), [], "at: a list of names, an empty array"],
      [Option.list(Option.text("a name"), "a list of names"), ["a", ""], "at[1]: a name, an empty text"],
      [Option.orFalse(Schema.Struct({ a: Option.mode() })), true, "at: an object of options, or false, a boolean"]
    ]
    for (const [schema, value, expected] of cases) assert.deepStrictEqual(read(schema, value), expected)
  })
})

interface Options {
  readonly most?: number | undefined
  readonly wait?: Duration.Input | undefined
  readonly inner?: { readonly on?: boolean | undefined } | false | undefined
}

const schema = Option.optionsOf<Options>()({
  most: Option.integer(3, 1),
  wait: Option.millis("1 second"),
  inner: Option.orFalse(Schema.Struct({ on: Option.boolean(true) }))
}).check(Option.rule(({ most, wait }) => wait === 0 && most > 10 ? ["most", "at most 10 without a wait"] : undefined))

const said = (options: unknown, path = "pattern"): string => {
  try {
    Option.readOptions(schema, options, path)
  } catch (error) {
    return error instanceof LlmConfigError ? `${error.path}: ${error.rule}, ${error.kind}` : assert.fail()
  }
  return assert.fail("it was taken")
}

describe("options of one pattern", () => {
  it("an interface and a schema that differ do not compile", () => {
    // @ts-expect-error an option without a schema
    Option.optionsOf<Options>()({ most: Option.integer(3), wait: Option.millis(1) })
    // @ts-expect-error an option that is not documented
    Option.optionsOf<Pick<Options, "most">>()({ most: Option.integer(3), wait: Option.millis(1) })
    // @ts-expect-error a schema that takes less than the interface says
    Option.optionsOf<Pick<Options, "wait">>()({ wait: Option.integer(3) })
    // @ts-expect-error a schema that takes more
    Option.optionsOf<Pick<Options, "most">>()({ most: Option.integerOrOff(3, 1) })
  })

  it("have their defaults", () => {
    const defaults = { most: 3, wait: 1000 }
    for (const none of [undefined, null, {}]) assert.deepStrictEqual(Option.readOptions(schema, none, ""), defaults)
    assert.deepStrictEqual(
      Option.readOptions(schema, { most: undefined, wait: "2m", inner: {} }, ""),
      { most: 3, wait: 120_000, inner: { on: true } }
    )
  })

  it("are called by their path", () => {
    assert.strictEqual(said({ most: 0 }), "pattern.most: a whole number of at least 1, zero")
    assert.strictEqual(said({ most: 0 }, ""), "most: a whole number of at least 1, zero")
    assert.strictEqual(said({ inner: { on: 1 } }), "pattern.inner.on: true or false, a whole number")
    assert.strictEqual(said({ mots: 1 }), "pattern.mots: one of most, wait, inner, an unknown option")
    assert.strictEqual(said({ most: 11, wait: 0 }), "pattern.most: at most 10 without a wait, a whole number")
    assert.strictEqual(said([1]), "pattern: an object of options, an array")
    assert.strictEqual(said("SECRET"), "pattern: an object of options, a text")
  })
})

describe("attempt", () => {
  it("a complaint is a failure, anything else a defect", () => {
    const complaint = new LlmConfigError({ path: "a", rule: "b", kind: "c" })
    const outcome = (error: unknown) =>
      Effect.runSyncExit(Option.attempt(() => {
        throw error
      }))
    assert.deepStrictEqual(outcome(complaint), Exit.fail(complaint))
    const other = outcome(new TypeError("x"))
    assert.isTrue(Exit.isFailure(other) && Cause.hasDies(other.cause))
    assert.strictEqual(Effect.runSync(Option.attempt(() => 1)), 1)
  })
})
