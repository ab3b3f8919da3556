import { assert, describe, it } from "@effect/vitest"
import { Effect, Schema } from "effect"
import * as Tool from "effect/ai/Tool"
import * as Toolkit from "effect/ai/Toolkit"
import { codecTransformer, definitionOf, isStrict, isTool, isToolkit, paramsOf } from "../../src/internal/tools.ts"

interface Tree {
  readonly branches: ReadonlyArray<Tree>
}
const Tree: Schema.Codec<Tree> = Schema.Struct({ branches: Schema.Array(Schema.suspend(() => Tree)) })

const parameters = Schema.Struct({ city: Schema.String, days: Schema.optionalKey(Schema.FiniteFromString) })
const Weather = Tool.make("weather", { description: "Tells the weather.", parameters })
const Strict = Weather.annotate(Tool.Strict, true)

describe("tools of effect/ai", () => {
  it("are told from what looks like them", () => {
    assert.isTrue(isTool(Weather))
    assert.isTrue(isToolkit(Toolkit.make(Weather)))
    for (const other of [null, undefined, {}, { name: "weather" }, { tools: null }, { tools: { a: {} } }, "weather"]) {
      assert.isFalse(isTool(other))
      assert.isFalse(isToolkit(other))
    }
  })

  it("are the plain data of a request, made once", () => {
    const definition = definitionOf(Weather)
    assert.strictEqual(definitionOf(Weather), definition)
    assert.deepInclude(definition, { name: "weather", description: "Tells the weather." })
    assert.notProperty(definition, "strict")
    assert.deepInclude(definition.parameters, { required: ["city"] })
    const strict = definitionOf(Strict)
    assert.isTrue(strict.strict)
    assert.deepInclude(strict.parameters, { additionalProperties: false })
  })

  it("a schema that not every vendor takes is followed to the letter by none", () => {
    assert.isTrue(isStrict(codecTransformer(parameters).jsonSchema))
    assert.isFalse(isStrict(codecTransformer(Tree).jsonSchema))
    assert.isFalse(isStrict({}))
  })

  it.effect("what a strict schema has in its own form comes back in the tool's, what does not fit as it came", () =>
    Effect.gen(function*() {
      assert.deepStrictEqual(yield* paramsOf(Strict, { city: "Bern", days: null }), { city: "Bern" })
      assert.deepStrictEqual(yield* paramsOf(Strict, { city: "Bern", days: "2" }), { city: "Bern", days: "2" })
      for (const wrong of [{ city: 1 }, null, "text", { days: "x" }]) {
        assert.strictEqual(yield* paramsOf(Strict, wrong), wrong)
      }
      const asTold = { city: "Bern", days: null }
      assert.strictEqual(yield* paramsOf(Weather, asTold), asTold)
    }))
})
