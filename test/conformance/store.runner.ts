// Runs the vectors of `store.vectors.ts` against any store. One that keeps time itself is given `advance`, which moves
// its clock; the memory's is the test's.
import { assert, describe, it } from "@effect/vitest"
import { Effect, type Layer } from "effect"
import { Store } from "effect-resilient-llm/persistence"
import { TestClock } from "effect/testing"
import { type Step, type Vector, vectors } from "./store.vectors.ts"

export interface Subject {
  /** A new, empty store; `undefined` when it has no such bounds. */
  readonly layer: (bounds: Vector["bounds"]) => Layer.Layer<Store.SharedStore, unknown> | undefined
  readonly advance?: (millis: number) => Effect.Effect<void>
}

const run = (steps: ReadonlyArray<Step>, advance: (millis: number) => Effect.Effect<void>) =>
  Effect.gen(function*() {
    const store = yield* Store.SharedStore
    const leases = new Map<string, number>()
    const fenceOf = (by: string): number => leases.get(by) ?? 0
    /** The highest fence of each key. */
    const highest = new Map<string, number>()
    const acquire = (key: string, lease: number) =>
      Effect.tap(store.acquire(key, lease), (acquired) =>
        Effect.sync(() => {
          if (acquired._tag !== "Acquired") return
          assert.isTrue(Number.isSafeInteger(acquired.fence), "a fence is a whole number")
          assert.isAbove(acquired.fence, highest.get(key) ?? 0, "fences grow, and are above zero")
          highest.set(key, acquired.fence)
        }))
    let now = 0
    for (const [i, step] of steps.entries()) {
      if (step.at > now) yield* advance(step.at - now)
      now = step.at
      const where = `step ${i}: ${step.op} ${step.key} at ${step.at}`
      switch (step.op) {
        case "get":
          assert.deepStrictEqual(yield* store.get(step.key), step.expect, where)
          break
        case "set":
          yield* store.set(step.key, step.value, step)
          break
        case "remove":
          yield* store.remove(step.key)
          break
        case "acquire": {
          const acquired = yield* acquire(step.key, step.lease)
          if (acquired._tag === "Acquired") {
            assert.strictEqual<unknown>(step.expect, "acquired", where)
            leases.set(step.by, acquired.fence)
          } else {
            const { _tag, ...found } = acquired
            assert.deepStrictEqual<object | string>(found, step.expect, where)
          }
          break
        }
        case "race": {
          const all = yield* Effect.all(Array.from({ length: step.by }, () => acquire(step.key, 60_000)), {
            concurrency: "unbounded"
          })
          assert.strictEqual(all.filter(({ _tag }) => _tag === "Acquired").length, step.acquired, where)
          assert.isTrue(all.every(({ _tag }) => _tag !== "Found"), where)
          break
        }
        case "complete":
          assert.strictEqual(
            yield* store.complete(step.key, fenceOf(step.by), step.value, step),
            step.expect,
            where
          )
          break
        case "release":
          yield* store.release(step.key, fenceOf(step.by))
      }
    }
  })

export const runVectors = (name: string, { advance = TestClock.adjust, layer }: Subject): void => {
  describe(`${name}: the vectors of a store`, () => {
    for (const vector of vectors) {
      const made = layer(vector.bounds)
      if (made === undefined) continue
      it.effect(vector.name, () => Effect.provide(run(vector.steps, advance), made))
    }
  })
}
