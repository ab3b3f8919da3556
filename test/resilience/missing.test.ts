// Callers without types: what is missing is named, and nothing dies of it.
import { assert, it } from "@effect/vitest"
import { Effect, Layer, type Scope } from "effect"
import { LlmPool } from "effect-resilient-llm"
import type { LlmConfigError } from "effect-resilient-llm/LlmError"
import {
  Bulkhead,
  CircuitBreaker,
  Failover,
  Hedge,
  Idempotency,
  LoadShedder,
  OutlierEjection,
  RateLimiter,
  ResponseCache,
  RetryBudget
} from "effect-resilient-llm/resilience"

type Made = Effect.Effect<unknown, LlmConfigError, Scope.Scope>

/** The same value in place of an argument of any type. */
const missing = [undefined, null] as ReadonlyArray<unknown> as ReadonlyArray<never>

const needing: ReadonlyArray<readonly [string, (none: never) => Made, path: string]> = [
  ["CircuitBreaker.make", CircuitBreaker.make, "circuitBreaker.key"],
  ["CircuitBreaker.layer", (none) => Layer.build(CircuitBreaker.layer(none)), "circuitBreaker.key"],
  [
    "CircuitBreaker.makeShared",
    (none) => Effect.flatMap(CircuitBreaker.storeMemory(), (store) => CircuitBreaker.makeShared(store, none)),
    "circuitBreaker.key"
  ],
  ["Failover.make", Failover.make, "targets"],
  ["OutlierEjection.make", OutlierEjection.make, "hosts"],
  ["LlmPool.make", LlmPool.make, "hosts"]
]

it.effect.each(needing)("%s says what it needs", ([, make, path]) =>
  Effect.scoped(Effect.gen(function*() {
    for (const none of missing) {
      const error = yield* Effect.flip(make(none))
      assert.deepStrictEqual([error._tag, error.path], ["LlmConfigError", path])
    }
  })))

const needingNothing: ReadonlyArray<readonly [string, (none: never) => Made]> = [
  ["Bulkhead.make", Bulkhead.make],
  ["Bulkhead.layer", (none) => Layer.build(Bulkhead.layer(none))],
  ["Failover.make", (none) => Failover.make(["a"], none)],
  ["Hedge.make", Hedge.make],
  ["Hedge.layer", (none) => Layer.build(Hedge.layer(none))],
  ["Idempotency.make", Idempotency.make],
  ["LoadShedder.make", LoadShedder.make],
  ["LoadShedder.layer", (none) => Layer.build(LoadShedder.layer(none))],
  ["OutlierEjection.make", (none) => OutlierEjection.make(["a"], none)],
  ["RateLimiter.make", RateLimiter.make],
  ["RateLimiter.layer", (none) => Layer.build(RateLimiter.layer(none))],
  ["ResponseCache.make", ResponseCache.make],
  ["RetryBudget.make", RetryBudget.make],
  ["RetryBudget.layer", (none) => Layer.build(RetryBudget.layer(none))]
]

it.effect.each(needingNothing)("%s needs nothing", ([, make]) =>
  Effect.scoped(Effect.gen(function*() {
    for (const none of missing) assert.isObject(yield* make(none))
  })))
