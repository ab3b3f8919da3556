// What ends when a client's scope is closed.
import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Fiber, Scope, Stream } from "effect"
import { ScriptedProvider } from "effect-resilient-llm/testing"
import { TestClock } from "effect/testing"
import { ask, fork, kinds, nothingHeld, rig, vector } from "../support.ts"

const { stream } = ScriptedProvider

describe("closing the client", () => {
  it.effect.each(kinds)(
    "E15 what is in flight and what waits is interrupted: %s",
    (kind) =>
      vector(Effect.gen(function*() {
        const scope = yield* Scope.make()
        const r = yield* Scope.provide(
          rig([{ always: ScriptedProvider.hang }], { bulkhead: { maxConcurrent: 3 } }),
          scope
        )
        const calls = yield* Effect.forEach(Array.from({ length: 5 }), () => fork(ask(kind, r.client)))
        yield* TestClock.adjust(1000)
        assert.strictEqual(yield* r.providers[0]!.active, 3)
        yield* Scope.close(scope, Exit.void)
        for (const call of calls) assert.isTrue(Exit.hasInterrupts(yield* Fiber.await(call)))
        yield* nothingHeld(r)
      }))
  )

  it.effect("E15 open streams end, also one that is being read", () =>
    vector(Effect.gen(function*() {
      const scope = yield* Scope.make()
      const r = yield* Scope.provide(rig([{ always: stream("a", ScriptedProvider.stall) }], { bulkhead: {} }), scope)
      const idle = yield* r.client.open("Hi")
      const read = yield* fork(Stream.runDrain(r.client.stream("Hi")))
      yield* TestClock.adjust(1000)
      yield* Scope.close(scope, Exit.void)
      assert.isTrue(Exit.hasInterrupts(yield* Fiber.await(read)))
      assert.isTrue(Exit.hasInterrupts(yield* Fiber.await(yield* fork(idle.response))))
      yield* nothingHeld(r)
    })))
})
