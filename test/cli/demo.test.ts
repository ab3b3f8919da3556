import { assert, describe, it } from "@effect/vitest"
import { Cause, ConfigProvider, Effect, Exit, Layer } from "effect"
import type { Case } from "effect-resilient-llm/cli/cases"
import { demo } from "effect-resilient-llm/cli/demo"
import { env, stdio, withoutColours } from "./support.ts"

const play = (cases: ReadonlyArray<Case>, terminal = false) =>
  Effect.suspend(() => {
    const { layer, written } = stdio({ terminal })
    return demo(cases, { metrics: false }).pipe(
      Effect.provide(Layer.mergeAll(layer, ConfigProvider.layer(env()))),
      Effect.exit,
      Effect.map((exit) => ({ exit, out: written.out, err: written.err }))
    )
  })

const good: Case = {
  title: "A good case",
  about: "It asks once.",
  client: "main",
  run: (stage) => Effect.as(stage.main.complete("Hi"), [{ what: "one request", holds: true }])
}

const bad: Case = {
  ...good,
  title: "A bad case",
  run: (stage) =>
    Effect.as(stage.main.complete("Hi"), [
      { what: "this held", holds: true },
      { what: "two requests", holds: false },
      { what: "a miracle", holds: false }
    ])
}

describe("demo", () => {
  it.live("a case that behaved", () =>
    Effect.gen(function*() {
      const { err, exit, out } = yield* play([good])
      assert.isTrue(Exit.isSuccess(exit))
      assert.strictEqual(err, "")
      assert.include(out, " 1  A good case\n    It asks once.\n\n")
      assert.match(out, /openai {2}attempt 1 {2}✓ answered, \d+ \+ \d+ tokens/)
      assert.include(out, "    ✓ one request\n")
      assert.match(out, /✓ 1 of 1 cases behaved as they must, in \d+ m?s with 1 HTTP requests\.\n/)
    }))

  it.live("a case that did not is marked, and the demo fails", () =>
    Effect.gen(function*() {
      const { exit, out } = yield* play([bad, good])
      assert.isTrue(Exit.isFailure(exit))
      assert.propertyVal(Exit.isFailure(exit) ? Cause.squash(exit.cause) : undefined, "_tag", "Failed")
      assert.include(out, "    ✗ expected two requests\n    ✗ expected a miracle\n")
      assert.notInclude(out, "this held")
      assert.include(out, "    ✓ one request\n")
      assert.include(out, "✗ 1 of 2 cases behaved as they must")
      assert.notInclude(out, "Your turn")
    }))

  it.live("a failure or a defect in a case does not stop the others", () =>
    Effect.gen(function*() {
      const failing: Case = { ...good, run: (stage) => Effect.as(stage.main.complete(""), []) }
      const broken: Case = { ...good, run: () => Effect.die(new Error("boom")) }
      const { exit, out } = yield* play([failing, broken, good])
      assert.isTrue(Exit.isFailure(exit))
      assert.include(out, "    ✗ expected no failure, but: Invalid request: \"prompt\" must be a text")
      assert.include(out, "    ✗ expected no failure, but: boom\n")
      assert.include(out, "✗ 1 of 3 cases behaved as they must")
    }))

  it.live("cases start with healthy servers", () =>
    Effect.gen(function*() {
      const spoil: Case = {
        ...good,
        run: (stage) => Effect.as(stage.primary.always({ _tag: "Hang" }), [])
      }
      const { exit, out } = yield* play([spoil, good])
      assert.isTrue(Exit.isSuccess(exit))
      assert.include(out, "with 1 HTTP requests")
    }))

  it.live("on a terminal: colours, and a line of progress that goes away", () =>
    Effect.gen(function*() {
      const waiting: Case = {
        ...good,
        run: (stage, say) =>
          Effect.andThen(
            Effect.andThen(Effect.sync(() => say("waiting for it")), Effect.sleep("150 millis")),
            good.run(stage, say)
          )
      }
      const { err, out } = yield* play([waiting], true)
      assert.include(out, "\u001b[32m✓\u001b[0m one request")
      assert.include(withoutColours(out), "    ✓ one request\n")
      assert.match(withoutColours(err), /^⌫⠋ 0\.0 s {2}A good case⌫⠙ 0\.\d s {2}waiting for it⌫(.*⌫)?$/)
    }))
})
