// What ends when a client's scope is closed.
import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Fiber, Scope, Stream } from "effect"
import { ScriptedProvider } from "effect-resilient-llm/testing"
import { TestClock } from "effect/testing"
import { ask, fork, kinds, nothingHeld, type SetUp, setUp, timed, vector } from "../support.ts"

const { stream } = ScriptedProvider

describe("closing the client", () => {
  it.effect.each(kinds)(
    "E15 what is in flight and what waits is interrupted: %s",
    (kind) =>
      vector(Effect.gen(function*() {
        const scope = yield* Scope.make()
        const r = yield* Scope.provide(
          setUp([{ always: ScriptedProvider.hang }], { bulkhead: { maxConcurrent: 3 } }),
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
      const r = yield* Scope.provide(setUp([{ always: stream("a", ScriptedProvider.stall) }], { bulkhead: {} }), scope)
      const idle = yield* r.client.open("Hi")
      const read = yield* fork(Stream.runDrain(r.client.stream("Hi")))
      yield* TestClock.adjust(1000)
      yield* Scope.close(scope, Exit.void)
      assert.isTrue(Exit.hasInterrupts(yield* Fiber.await(read)))
      assert.isTrue(Exit.hasInterrupts(yield* Fiber.await(yield* fork(idle.response))))
      yield* nothingHeld(r)
    })))
})

describe("a closed client (law 16)", () => {
  /** What a fibre that asks sees, and that it goes on afterwards. */
  const goesOn = <A, E>(call: Effect.Effect<A, E>) =>
    Effect.flatMap(
      Effect.exit(call),
      (exit) => Effect.as(Effect.sleep(1), Exit.hasInterrupts(exit) && !Exit.hasDies(exit))
    )

  const closedWhile = (
    options: Parameters<typeof setUp>[1],
    plan: Parameters<typeof setUp>[0],
    asking: (client: SetUp["client"]) => ReadonlyArray<Effect.Effect<unknown, unknown>>
  ) =>
    vector(Effect.gen(function*() {
      const scope = yield* Scope.make()
      const r = yield* Scope.provide(setUp(plan, options), scope)
      const calls = yield* Effect.forEach(asking(r.client), (call) => fork(goesOn(call)))
      yield* TestClock.adjust(1000)
      for (const call of calls) assert.isUndefined(call.pollUnsafe())
      yield* Scope.close(scope, Exit.void)
      yield* TestClock.adjust(10)
      for (const call of calls) assert.isTrue(yield* Fiber.join(call))
      yield* nothingHeld(r)
    }))

  const twice = <A>(a: A): ReadonlyArray<A> => [a, a]
  const hanging = [{ always: ScriptedProvider.hang }] as const
  const key = { prompt: "Hi", idempotencyKey: "k" }

  describe.each(kinds)("%s", (kind) => {
    it.effect("an attempt under way", () => closedWhile({}, hanging, (client) => [ask(kind, client)]))
    it.effect("without a timer", () => closedWhile({ timeout: false }, hanging, (client) => [ask(kind, client)]))
    it.effect("a wait for a permit", () =>
      closedWhile({ bulkhead: { maxConcurrent: 1 } }, hanging, (client) => twice(ask(kind, client))))
    it.effect("a wait for tokens", () =>
      closedWhile(
        { rateLimit: { capacity: 1, refillPerSecond: 0.001, maxWait: "1 hour" }, timeout: { deadline: false } },
        hanging,
        (client) => twice(ask(kind, client))
      ))
    it.effect("a pause before a retry", () =>
      closedWhile(
        { retry: { baseDelay: "1 minute", maxDelay: "1 minute" } },
        [{ always: ScriptedProvider.overloaded }],
        (client) => [
          ask(kind, client)
        ]
      ))
    it.effect("calls that joined another", () => closedWhile({}, hanging, (client) => twice(ask(kind, client, key))))
    it.effect("a hedge", () =>
      closedWhile({ hedge: { delay: 100 } }, [...hanging, ...hanging], (client) => [ask(kind, client)]))
    it.effect("a call that begins after it ends at once, and asks nobody", () =>
      vector(Effect.gen(function*() {
        const scope = yield* Scope.make()
        const r = yield* Scope.provide(setUp([{ always: ScriptedProvider.answer("Hi") }], {}), scope)
        yield* Scope.close(scope, Exit.void)
        for (const input of [{ prompt: "Hi" }, key]) {
          const { at, exit } = yield* timed(ask(kind, r.client, input))
          assert.isTrue(Exit.hasInterrupts(exit))
          assert.strictEqual(at, 0)
        }
        assert.deepStrictEqual(yield* r.calls(), [])
      })))
  })

  const reading = (client: SetUp["client"], input: { readonly prompt: string; readonly idempotencyKey?: string }) =>
    Stream.runDrain(client.stream(input))

  it.effect("an open stream that is being read", () =>
    closedWhile({ bulkhead: {} }, [{ always: stream("a", ScriptedProvider.stall) }], (client) => [
      reading(client, { prompt: "Hi" })
    ]))
  it.effect("an open stream without a timer", () =>
    closedWhile({ timeout: false }, [{ always: stream("a", ScriptedProvider.stall) }], (client) => [
      reading(client, { prompt: "Hi" })
    ]))
  it.effect("a stream with a key, read by two", () =>
    closedWhile({}, [{ always: stream("a", ScriptedProvider.stall) }], (client) => twice(reading(client, key))))
  it.effect("a stream with a key and no timer, read by two", () =>
    closedWhile(
      { timeout: false },
      [{ always: stream("a", ScriptedProvider.stall) }],
      (client) => twice(reading(client, key))
    ))
})
