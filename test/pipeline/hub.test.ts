// Who listens to a client, and what becomes of those that are slow.
import { assert, it } from "@effect/vitest"
import { Effect, Exit, Fiber, Scope, Stream } from "effect"
import { makeHub } from "../../src/pipeline/hub.ts"
import { fork } from "../support.ts"

it.effect("a listener that is too slow loses the oldest events", () =>
  Effect.scoped(Effect.gen(function*() {
    const hub = yield* makeHub(4)
    const events = yield* Stream.toPull(hub.events)
    const first = yield* fork(events)
    yield* Effect.yieldNow
    const event = (call: number) => ({ _tag: "CallStarted", call, at: 0, operation: "complete" }) as const
    hub.publish(event(0))
    yield* Fiber.join(first)
    for (let call = 1; call <= 10; call++) hub.publish(event(call))
    assert.deepStrictEqual((yield* events).map(({ call }) => call), [7, 8, 9, 10])
  })))

it.effect("a listener's stream ends with the client, after the last event", () =>
  Effect.gen(function*() {
    const scope = yield* Scope.make()
    const hub = yield* Scope.provide(makeHub(), scope)
    const listener = yield* fork(Stream.runCollect(hub.events))
    yield* Effect.yieldNow
    hub.publish({ _tag: "CallStarted", call: 1, at: 0, operation: "complete" })
    yield* Scope.close(scope, Exit.void)
    assert.strictEqual((yield* Fiber.join(listener)).length, 1)
  }))
