// Patterns as values: made by whoever needs them, and given to one client or to several.
import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Fiber, Layer, Stream } from "effect"
import { LlmClient, LlmConfig } from "effect-resilient-llm"
import { Bulkhead, CircuitBreaker, RateLimiter } from "effect-resilient-llm/resilience"
import { ScriptedProvider } from "effect-resilient-llm/testing"
import { fork, rig, vector } from "../support.ts"

const { answer, overloaded } = ScriptedProvider
const failing = { always: overloaded } as const
const fine = { always: answer("x") } as const
const slow = { always: { ...answer("x"), delay: 1000 } } as const
const tagOf = <A, E extends { readonly _tag: string }>(call: Effect.Effect<A, E>) =>
  Effect.map(Effect.exit(call), (exit) => {
    const [reason] = exit._tag === "Failure" ? exit.cause.reasons : []
    return reason?._tag === "Fail" ? reason.error._tag : exit._tag
  })

describe("a pattern as a value", () => {
  it.effect("an outage that one client has met is known to the other, and each tells of it", () =>
    vector(Effect.gen(function*() {
      const circuitBreaker = yield* CircuitBreaker.make({ key: "vendor", failureThreshold: 2 })
      const here = yield* rig([failing], { circuitBreaker, retry: false })
      const there = yield* rig([fine], { circuitBreaker, retry: false })
      const told = yield* fork(Stream.runCollect(Stream.take(there.client.events, 1)))
      yield* Effect.exit(here.client.complete("a"))
      yield* Effect.exit(here.client.complete("b"))
      const [event] = yield* Fiber.join(told)
      assert.deepInclude(event, { _tag: "CircuitChanged", target: "p", from: "closed", to: "open" })
      assert.strictEqual(yield* tagOf(there.client.complete("c")), "CircuitOpen")
      assert.strictEqual((yield* there.client.status).targets[0]?.circuit?.state, "open")
      yield* circuitBreaker.force("closed")
      assert.strictEqual(yield* tagOf(there.client.complete("d")), "Success")
    })))

  it.effect("a closed client is not told any more", () =>
    vector(Effect.gen(function*() {
      const breaker = yield* CircuitBreaker.make({ key: "vendor" })
      let listeners = 0
      const circuitBreaker: CircuitBreaker.CircuitBreaker = {
        ...breaker,
        watchUnsafe: (listener) => {
          listeners += 1
          const forget = breaker.watchUnsafe(listener)
          return () => {
            listeners -= 1
            forget()
          }
        }
      }
      yield* Effect.scoped(Effect.gen(function*() {
        yield* rig([fine, fine], { circuitBreaker })
        assert.strictEqual(listeners, 2)
      }))
      assert.strictEqual(listeners, 0)
    })))

  it.effect("two clients stay below one limit, as the client's bucket or a target's", () =>
    vector(Effect.gen(function*() {
      const limiter = yield* RateLimiter.make({ capacity: 3, refillPerSecond: 0.001, maxWait: 0 })
      const here = yield* rig([fine], { rateLimit: limiter, retry: false })
      const there = yield* rig([fine], { retry: false }, [{ limits: limiter }])
      const asked = [here, there, here, there, here].map(({ client }, i) => tagOf(client.complete(String(i))))
      assert.deepStrictEqual(yield* Effect.all(asked), ["Success", "Success", "Success", "RateLimited", "RateLimited"])
    })))

  it.effect("two clients share a bulkhead", () =>
    vector(Effect.gen(function*() {
      const bulkhead = yield* Bulkhead.make({ maxConcurrent: 1, queue: 0 })
      const here = yield* rig([slow], { bulkhead, retry: false })
      const there = yield* rig([fine], { retry: false }, [{ bulkhead }])
      yield* fork(here.client.complete("a"))
      assert.strictEqual((yield* bulkhead.snapshot).inUse, 1)
      assert.strictEqual(yield* tagOf(there.client.complete("b")), "BulkheadFull")
    })))

  it.effect("the layer of a pattern gives it to all clients that are built with it", () =>
    vector(Effect.gen(function*() {
      class Vendor extends ScriptedProvider.Service<Vendor>()("app/Vendor") {}
      const client = Layer.unwrap(
        Effect.map(CircuitBreaker.CircuitBreaker, (circuitBreaker) => LlmClient.layer([Vendor], { circuitBreaker }))
      )
      const breaker = CircuitBreaker.layer({ key: "vendor" })
      const live = client.pipe(Layer.provideMerge(breaker), Layer.provide(Vendor.layer([answer("x")])))
      const context = yield* Layer.build(live)
      yield* Context.get(context, CircuitBreaker.CircuitBreaker).force("open")
      assert.strictEqual(yield* tagOf(Context.get(context, LlmClient).complete("Hi")), "CircuitOpen")
    })))

  it.effect("no file can hold one, and their options stay in files", () =>
    Effect.gen(function*() {
      const error = yield* Effect.flip(LlmConfig.fromJson({ circuitBreaker: { key: "vendor" } }))
      assert.deepInclude(error, { path: "circuitBreaker.key", kind: "an unknown option" })
      const number = yield* Effect.flip(LlmConfig.fromJson({ bulkhead: 3 }))
      assert.deepInclude(number, { path: "bulkhead", rule: "an object of options, or false" })
      assert.deepStrictEqual(yield* LlmConfig.fromJson({ rateLimit: { capacity: 3 } }), { rateLimit: { capacity: 3 } })
    }))
})
