import { assert, it } from "@effect/vitest"
import { Cause, Effect, Exit } from "effect"
import { effectOf } from "../../src/internal/effect.ts"

it("what is no effect is a defect of whoever returned it, and finalizers run", () => {
  const wrongs: ReadonlyArray<readonly [unknown, string]> = [
    [undefined, "nothing"],
    [null, "null"],
    [1, "a whole number"],
    ["text", "a text"],
    [{}, "an object"],
    [Promise.resolve(1), "a promise"],
    [() => Effect.void, "a function"]
  ]
  for (const [wrong, came] of wrongs) {
    let released = 0
    const exit = Effect.runSyncExit(Effect.ensuring(
      Effect.suspend(() => effectOf(wrong as never, "guard")),
      Effect.sync(() => released += 1)
    ))
    assert.strictEqual(released, 1)
    const defect = Exit.isFailure(exit) ? Cause.squash(exit.cause) : undefined
    assert.instanceOf(defect, TypeError)
    assert.strictEqual(defect.message, `The guard returned what is no effect, but ${came}`)
  }
  const effect = Effect.succeed(1)
  assert.strictEqual(effectOf(effect, "guard"), effect)
})
