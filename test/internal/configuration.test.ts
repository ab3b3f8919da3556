import { assert, describe, it } from "@effect/vitest"
import { ConfigProvider, type Duration, Effect, Schema } from "effect"
import { LlmConfigError } from "effect-resilient-llm/LlmError"
import { fromDocument, fromProvider, namesIn } from "../../src/internal/configuration.ts"
import * as Option from "../../src/internal/option.ts"

interface Steps {
  readonly wait?: Duration.Input | undefined
  readonly list?: ReadonlyArray<{ readonly per: Duration.Input; readonly name: string }> | undefined
  readonly deep?: { readonly HTTP?: number | undefined; readonly on?: boolean | undefined } | false | undefined
  readonly store?: Date | undefined
}

const isDate = (u: unknown): u is Date => u instanceof Date

const Steps = Option.optionsOf<Steps>()({
  wait: Option.millis(1000),
  list: Schema.optional(
    Option.list(Schema.Struct({ per: Option.duration(), name: Option.text("a name") }), "a list of steps")
  ),
  deep: Option.orFalse(Schema.Struct({ HTTP: Option.integer(1), on: Option.boolean(true) })),
  store: Option.value(isDate, "a store")
})

const All = Schema.Struct({
  steps: Option.orFalse(Steps),
  stepsMore: Option.orValue(Schema.Struct({ most: Option.integer(1) }), isDate),
  mode: Option.mode()
})

describe("namesIn", () => {
  it("every option that a text can be, also where a value could stand; none that only a value can", () => {
    assert.deepStrictEqual([...namesIn(All)], [
      ["steps", "STEPS"],
      ["steps.wait", "STEPS_WAIT"],
      ["steps.list", "STEPS_LIST"],
      ["steps.deep", "STEPS_DEEP"],
      ["steps.deep.HTTP", "STEPS_DEEP_HTTP"],
      ["steps.deep.on", "STEPS_DEEP_ON"],
      ["stepsMore", "STEPS_MORE"],
      ["stepsMore.most", "STEPS_MORE_MOST"],
      ["mode", "MODE"]
    ])
  })
})

describe("fromDocument", () => {
  it("durations at any depth are numbers, whatever else is there stays as it is written", () => {
    const options = { steps: { wait: "20s", list: [{ per: "2m", name: "1s" }], deep: false } }
    assert.deepStrictEqual(fromDocument(All, options, ""), {
      steps: { wait: 20_000, list: [{ per: 120_000, name: "1s" }], deep: false }
    })
  })

  it("is refused with its path", () => {
    const complaint = (json: unknown): string => {
      try {
        fromDocument(All, json, "llm")
      } catch (error) {
        return error instanceof LlmConfigError ? error.path : assert.fail()
      }
      return assert.fail("it was taken")
    }
    assert.strictEqual(
      complaint({ steps: { list: [{ per: "2m", name: "a" }, { per: "soon", name: "b" }] } }),
      "llm.steps.list[1].per"
    )
    assert.strictEqual(complaint({ steps: { deep: { HTTP: "1" } } }), "llm.steps.deep.HTTP")
    assert.strictEqual(complaint({ steps: { store: "2020" } }), "llm.steps.store")
    assert.strictEqual(complaint({ step: {} }), "llm.step")
    for (const none of [[], "x", 1, true]) assert.strictEqual(complaint(none), "llm")
  })
})

describe("fromProvider", () => {
  const config = fromProvider(All, "APP", ["STEPS", "STEPS_DIR"])
  const read = (variables: Record<string, string>) =>
    Effect.runSync(config.parse(ConfigProvider.fromEnvRecord(variables)))
  const complaint = (variables: Record<string, string>) =>
    Effect.runSync(Effect.flip(config.parse(ConfigProvider.fromEnvRecord(variables)))).message

  it("texts are what their options are, lists are JSON", () => {
    assert.deepStrictEqual(
      read({
        APP_STEPS_WAIT: "1.5s",
        APP_STEPS_LIST: "[{\"per\":\"1s\",\"name\":\"a\"}]",
        APP_STEPS_DEEP_HTTP: "2",
        APP_STEPS_DEEP_ON: "false",
        APP_STEPS_MORE_MOST: "3",
        APP_MODE: "shadow"
      }),
      {
        steps: { wait: 1500, list: [{ per: 1000, name: "a" }], deep: { HTTP: 2, on: false } },
        stepsMore: { most: 3 },
        mode: "shadow"
      }
    )
    assert.deepStrictEqual(read({}), {})
  })

  it("what is off stays off, in any order", () => {
    assert.deepStrictEqual(read({ APP_STEPS_DEEP_ON: "true", APP_STEPS_DEEP: "false" }), { steps: { deep: false } })
    assert.deepStrictEqual(read({ APP_STEPS: "false", APP_STEPS_WAIT: "1s" }), { steps: false })
  })

  it("names of others are left alone, those below a pattern are not", () => {
    assert.deepStrictEqual(read({ APP_STEPS: "three", APP_STEPS_DIR: "/tmp", APP_OTHER: "1", STEPS_WAIT: "1s" }), {})
    assert.include(
      complaint({ APP_STEPS_WAITS: "1s" }),
      "\"APP_STEPS_WAITS\" must be one of APP_STEPS_WAIT, APP_STEPS_LIST, APP_STEPS_DEEP,"
    )
    assert.include(
      complaint({ APP_STEPS_MORE_WAIT: "1s" }),
      "\"APP_STEPS_MORE_WAIT\" must be one of APP_STEPS_MORE_MOST,"
    )
    assert.include(
      complaint({ APP_STEPS_DEEP_OFF: "1" }),
      "\"APP_STEPS_DEEP_OFF\" must be one of APP_STEPS_DEEP_HTTP, APP_STEPS_DEEP_ON,"
    )
    assert.notInclude(complaint({ APP_STEPS_DEEP_HTTP: "SECRET" }), "SECRET")
  })

  it("what a variable can be is said as one writes variables", () => {
    assert.include(
      complaint({ APP_STEPS_LIST: "1s" }),
      "\"APP_STEPS_LIST\" must be a list of steps, as JSON, but is a text."
    )
    assert.include(
      complaint({ APP_STEPS_DEEP: "{}" }),
      "\"APP_STEPS_DEEP\" must be false or left out for APP_STEPS_DEEP_HTTP, APP_STEPS_DEEP_ON, but is a text."
    )
  })

  it("a variable without a text is not set: it says nothing, and turns nothing on", () => {
    for (const name of ["STEPS_WAIT", "STEPS_DEEP_HTTP", "STEPS_MORE_MOST", "STEPS_WAITS", "MODE"]) {
      const provider = ConfigProvider.fromEnvRecord({ [`APP_${name}`]: "" })
      for (const one of [provider, ConfigProvider.constantCase(provider)]) {
        assert.deepStrictEqual(Effect.runSync(config.parse(one)), {}, name)
      }
    }
    const document = ConfigProvider.fromUnknown({ APP: { stepsMore: {}, steps: { deep: {} } } })
    assert.deepStrictEqual(Effect.runSync(config.parse(document)), { stepsMore: {}, steps: { deep: {} } })
  })
})
