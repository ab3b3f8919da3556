// Who listens to a client, and what becomes of those that are slow.
import { assert, it } from "@effect/vitest"
import { Cause, Context, Effect, Exit, Fiber, Logger, Scope, Stream } from "effect"
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

const begun = (call: number) => ({ _tag: "CallStarted", call, at: 0, operation: "complete" }) as const

it.effect("a listener that throws is told nothing more, the others are, and the log says what was thrown", () =>
  Effect.scoped(Effect.gen(function*() {
    const logged: Array<unknown> = []
    const logger = Logger.make(({ cause, message }) => void logged.push([message, Cause.squash(cause)].flat()))
    const hub = yield* Effect.provide(makeHub(), Logger.layer([logger]))
    const told: Array<readonly [string, number]> = []
    hub.listen(({ call }) => void told.push(["first", call]))
    hub.listen(({ call }) => {
      told.push(["thrower", call])
      throw "thrown"
    })
    hub.listen(({ call }) => void told.push(["last", call]))
    hub.publish(begun(1))
    hub.publish(begun(2))
    assert.deepStrictEqual(told, [["first", 1], ["thrower", 1], ["last", 1], ["first", 2], ["last", 2]])
    assert.deepStrictEqual(logged, [["A listener threw and is told nothing more", "thrown"]])
  })))

it.effect("a listener gets the caller's context, and the client's where nobody calls", () =>
  Effect.scoped(Effect.gen(function*() {
    const Who = Context.Reference<string>("test/Who", { defaultValue: () => "nobody" })
    const hub = yield* Effect.provideService(makeHub(), Who, "client")
    const told: Array<string> = []
    hub.listen((_, caller) => void told.push(Context.get(caller, Who)))
    hub.publish(begun(0))
    hub.publish(begun(1), Context.make(Who, "caller"))
    assert.deepStrictEqual(told, ["client", "caller"])
  })))

it.effect("keeps 1024 events for a reader who is slow; one who comes later has what comes then", () =>
  Effect.scoped(Effect.gen(function*() {
    const hub = yield* makeHub()
    const early = yield* Stream.toPull(hub.events)
    const first = yield* fork(early)
    yield* Effect.yieldNow
    hub.publish(begun(0))
    yield* Fiber.join(first)
    for (let call = 1; call <= 1030; call++) hub.publish(begun(call))
    const late = yield* Stream.toPull(hub.events)
    const second = yield* fork(late)
    yield* Effect.yieldNow
    hub.publish(begun(1031))
    assert.deepStrictEqual((yield* Fiber.join(second)).map(({ call }) => call), [1031])
    const kept = yield* early
    assert.deepStrictEqual([kept.length, kept[0].call, kept.at(-1)?.call], [1024, 8, 1031])
  })))

it.effect("who reads after the client has gone is at the end, and who leaves is forgotten", () =>
  Effect.gen(function*() {
    const scope = yield* Scope.make()
    const hub = yield* Scope.provide(makeHub(), scope)
    const reader = yield* fork(Stream.runDrain(hub.events))
    yield* Effect.yieldNow
    yield* Fiber.interrupt(reader)
    hub.publish(begun(1))
    yield* Scope.close(scope, Exit.void)
    assert.deepStrictEqual(yield* Stream.runCollect(hub.events), [])
  }))
