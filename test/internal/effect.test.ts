import { assert, it } from "@effect/vitest"
import { Cause, Effect, Exit } from "effect"
import { effectOf } from "../../src/internal/effect.ts"

it("what is no effect is a defect of whoever returned it, and finalizers run", () => {
  for (const wrong of [undefined, null, 1, "text", {}, Promise.resolve(1), () => Effect.void]) {
    let released = 0
    const exit = Effect.runSyncExit(Effect.ensuring(
      Effect.suspend(() => effectOf(wrong as never, "guard")),
      Effect.sync(() => released += 1)
    ))
    assert.strictEqual(released, 1)
    const defect = Exit.isFailure(exit) ? Cause.squash(exit.cause) : undefined
    assert.instanceOf(defect, TypeError)
    assert.strictEqual(defect.message, "The guard returned what is no effect")
  }
  const effect = Effect.succeed(1)
  assert.strictEqual(effectOf(effect, "guard"), effect)
})
