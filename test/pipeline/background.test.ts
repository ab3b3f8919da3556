import { assert, describe, it } from "@effect/vitest"
import { Deferred, Effect, Exit, Fiber, Logger, Scope } from "effect"
import { TestClock } from "effect/testing"
import * as Background from "../../src/pipeline/background.ts"
import { isCollected } from "../garbage.ts"

const made = Effect.gen(function*() {
  const lines: Array<string> = []
  const logger = Logger.make(({ cause, message }) => {
    lines.push(
      `${String(message)}: ${cause.reasons.map((reason) => "defect" in reason ? String(reason.defect) : "").join()}`
    )
  })
  const scope = yield* Scope.make()
  const background = yield* Background.make.pipe(Scope.provide(scope), Effect.provide(Logger.layer([logger])))
  return { background, lines, scope }
})

const said = "A guard or a store threw; the call went on"

describe("what is done behind calls", () => {
  it.effect("goes as far as it can at once, and the rest aside", () =>
    Effect.gen(function*() {
      const { background, scope } = yield* made
      const gate = yield* Deferred.make<void>()
      const done: Array<number> = []
      background.run(
        Effect.andThen(Effect.sync(() => done.push(1)), Deferred.await(gate)).pipe(
          Effect.andThen(Effect.sync(() => done.push(2)))
        )
      )
      assert.deepStrictEqual(done, [1])
      const closing = yield* Effect.forkChild(Scope.close(scope, Exit.void))
      yield* TestClock.adjust("4 seconds")
      assert.isUndefined(closing.pollUnsafe(), "closing waits for it")
      yield* Deferred.succeed(gate, undefined)
      yield* Fiber.join(closing)
      assert.deepStrictEqual(done, [1, 2])
    }))

  it.effect("is waited for five seconds, then interrupted, finalizers included", () =>
    Effect.gen(function*() {
      const { background, lines, scope } = yield* made
      let released = 0
      for (let i = 0; i < 3; i++) background.run(Effect.ensuring(Effect.never, Effect.sync(() => released++)))
      const closing = yield* Effect.forkChild(Scope.close(scope, Exit.void))
      yield* TestClock.adjust("4999 millis")
      assert.isUndefined(closing.pollUnsafe())
      yield* TestClock.adjust("1 millis")
      yield* Fiber.join(closing)
      assert.strictEqual(released, 3)
      assert.deepStrictEqual(lines, [], "an interruption is no failure")
    }))

  it.effect("what ended is waited for by nobody", () =>
    Effect.gen(function*() {
      const { background, scope } = yield* made
      background.run(Effect.void)
      background.run(Effect.yieldNow)
      yield* Effect.yieldNow
      yield* Effect.yieldNow
      yield* Scope.close(scope, Exit.void)
    }))

  it.live("what ended is not kept", () =>
    Effect.gen(function*() {
      const { background } = yield* made
      const reference = Deferred.makeUnsafe<WeakRef<object>>()
      background.run(Effect.map(Effect.yieldNow, () => {
        const value = {}
        Deferred.doneUnsafe(reference, Effect.succeed(new WeakRef(value)))
        return value
      }))
      assert.isTrue(yield* isCollected(yield* Deferred.await(reference)))
    }))

  it.effect("a failure and a defect are logged, at once or later, and hinder nobody", () =>
    Effect.gen(function*() {
      const { background, lines, scope } = yield* made
      background.run(Effect.fail("now") as Effect.Effect<never>)
      background.run(Effect.die("thrown"))
      background.run(Effect.andThen(Effect.yieldNow, Effect.die("later")))
      background.report("told")
      yield* Scope.close(scope, Exit.void)
      assert.deepStrictEqual(lines.toSorted(), ["later", "now", "thrown", "told"].map((what) => `${said}: ${what}`))
    }))
})
