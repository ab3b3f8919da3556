import { assert, describe, it } from "@effect/vitest"
import { Cause, Deferred, Effect, Exit, Fiber, Scope } from "effect"
import { closing } from "../../src/pipeline/closing.ts"
import { isCollected } from "../garbage.ts"

const made = Effect.gen(function*() {
  const scope = yield* Scope.make()
  const run = yield* Scope.provide(closing, scope)
  /** Runs a call as a client does, and gives how it ended as a value. */
  const call = <A, E>(self: Effect.Effect<A, E>): Effect.Effect<Exit.Exit<A, E>> =>
    Effect.uninterruptibleMask((restore) => Effect.withFiber((fiber) => run(fiber, restore, self, Effect.succeed)))
  return { call, close: Scope.close(scope, Exit.void), run }
})

describe("the end of a client", () => {
  it.effect("calls that need no wait end where they are", () =>
    Effect.gen(function*() {
      const { run } = yield* made
      yield* Effect.withFiber((fiber) => {
        const exit = Effect.runSyncExit(run(fiber, (effect) => effect, Effect.succeed(1), Effect.succeed))
        assert.deepStrictEqual(exit, Exit.succeed(Exit.succeed(1)))
        return Effect.void
      })
    }))

  it.effect("ends its calls with an interruption, while their callers go on", () =>
    Effect.gen(function*() {
      const { call, close } = yield* made
      const released: Array<number> = []
      const callers = yield* Effect.forEach([0, 1, 2], (i) =>
        Effect.forkChild(Effect.map(
          call(Effect.ensuring(Effect.never, Effect.sync(() => released.push(i)))),
          (exit) => [i, Exit.hasInterrupts(exit)]
        )))
      yield* Effect.yieldNow
      yield* close
      assert.deepStrictEqual(yield* Effect.forEach(callers, Fiber.join), [[0, true], [1, true], [2, true]])
      assert.deepStrictEqual(released.toSorted(), [0, 1, 2])
    }))

  it.effect("one that takes its time to clean up holds up neither the end nor the others", () =>
    Effect.gen(function*() {
      const { call, close } = yield* made
      const gate = yield* Deferred.make<void>()
      const running = (cleanup: Effect.Effect<void>) => Effect.forkChild(call(Effect.ensuring(Effect.never, cleanup)))
      const [slow, other] = [yield* running(Deferred.await(gate)), yield* running(Effect.void)]
      yield* Effect.yieldNow
      yield* close
      assert.isTrue(Exit.hasInterrupts(yield* Fiber.join(other)))
      assert.isUndefined(slow.pollUnsafe())
      yield* Deferred.succeed(gate, undefined)
      assert.isTrue(Exit.hasInterrupts(yield* Fiber.join(slow)))
    }))

  it.effect("a call that begins later does not begin", () =>
    Effect.gen(function*() {
      const { call, close } = yield* made
      yield* close
      const exit = yield* call(Effect.sync(() => assert.fail("it ran")))
      assert.isTrue(Exit.isFailure(exit) && Cause.hasInterruptsOnly(exit.cause))
    }))

  it.effect("what ended before is not touched, values and failures are what they were", () =>
    Effect.gen(function*() {
      const { call, close } = yield* made
      const gate = yield* Deferred.make<void>()
      const later = <A, E>(self: Effect.Effect<A, E>) =>
        Effect.forkChild(call(Effect.andThen(Deferred.await(gate), self)))
      const [one, other] = [yield* later(Effect.succeed(1)), yield* later(Effect.fail("no"))]
      yield* Effect.yieldNow
      yield* Deferred.succeed(gate, undefined)
      assert.deepStrictEqual(yield* Fiber.join(one), Exit.succeed(1))
      assert.deepStrictEqual(yield* Fiber.join(other), Exit.fail("no"))
      yield* close
    }))

  it.live("nothing is kept of a call that has ended", () =>
    Effect.gen(function*() {
      const { call } = yield* made
      let ref: WeakRef<object> | undefined
      const answer = Effect.map(Effect.yieldNow, () => {
        const value = {}
        ref = new WeakRef(value)
        return value
      })
      yield* Fiber.join(yield* Effect.forkChild(Effect.asVoid(call(answer))))
      assert.isDefined(ref)
      assert.isTrue(yield* isCollected(ref))
    }))

  it.effect("a caller that is interrupted waits until its call has cleaned up", () =>
    Effect.gen(function*() {
      const { call } = yield* made
      const gate = yield* Deferred.make<void>()
      const caller = yield* Effect.forkChild(call(Effect.ensuring(Effect.never, Deferred.await(gate))))
      yield* Effect.yieldNow
      const interrupting = yield* Effect.forkChild(Fiber.interrupt(caller))
      yield* Effect.yieldNow
      yield* Effect.yieldNow
      assert.isUndefined(interrupting.pollUnsafe())
      yield* Deferred.succeed(gate, undefined)
      yield* Fiber.join(interrupting)
      assert.isDefined(caller.pollUnsafe())
    }))
})
