// The health of a store, as the patterns that keep something in one use it.
import { assert, it } from "@effect/vitest"
import { Effect, type Scope } from "effect"
import { LlmError } from "effect-resilient-llm"
import { type Health, Store } from "effect-resilient-llm/persistence"
import { Failover, ResponseCache } from "effect-resilient-llm/resilience"
import { TestClock } from "effect/testing"

const quota = new LlmError.ProviderError({ provider: "a", reason: { _tag: "Quota" } })

const uses: ReadonlyArray<
  readonly [
    string,
    (store: Store.Store<string>) => Effect.Effect<unknown, unknown, Scope.Scope>,
    ReadonlyArray<Store.Operation>
  ]
> = [
  ["cool-downs", (store) =>
    Effect.gen(function*() {
      const failover = yield* Failover.makeShared(["a", "b"], store)
      yield* failover.run({
        attempt: (i): Effect.Effect<string, LlmError.ProviderError> =>
          i === 0 ? Effect.fail(quota) : Effect.succeed("b"),
        allFailed: () => "all failed",
        allUnavailable: () => "none is there"
      })
      yield* TestClock.adjust(0)
    }), ["get", "set", "get"]],
  ["a cache", (store) =>
    Effect.gen(function*() {
      const cache = yield* ResponseCache.make<string>({ store })
      yield* cache.store("k", "v")
      yield* cache.lookup("k")
      yield* cache.lookupAt("k", 0, 0)
    }), ["set", "get", "get"]]
]

it.effect.each(uses)(
  "the store of %s is asked through its own health, by the names of its operations",
  ([, use, all]) =>
    Effect.gen(function*() {
      const asked: Array<Store.Operation> = []
      const health: Health.Health = {
        name: "own",
        isUp: () => true,
        watch: () => () => {},
        ask: (operation, self) => {
          asked.push(operation)
          return self
        }
      }
      yield* use({ ...yield* Store.memory<string>({ maxEntries: 10 }), health })
      assert.deepStrictEqual(asked, all)
    })
)
