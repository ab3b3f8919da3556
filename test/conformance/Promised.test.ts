// The narrowing of a client's errors to its options is an overload, which the compiler does not check. This holds it to its
// word: under every set of options, whatever goes wrong, a call fails with nothing that the type did not promise.
import { assert, describe, it } from "@effect/vitest"
import { Cause, Context, Effect, Exit, Layer, Scope } from "effect"
import { LlmClient, type LlmConfig } from "effect-resilient-llm"
import { ScriptedProvider } from "effect-resilient-llm/testing"
import { ask, type Kind, kinds } from "../support.ts"
import { World } from "./Sweep.world.ts"

const promised = {
  timeout: ["AttemptTimeout", "DeadlineExceeded"],
  circuitBreaker: ["CircuitOpen"],
  rateLimit: ["RateLimited"],
  bulkhead: ["BulkheadFull"],
  idempotency: ["IdempotencyConflict", "IdempotencyInProgress"],
  failover: ["AllProvidersFailed", "AllProvidersUnavailable"]
} as const
type Key = keyof typeof promised
const keys = Object.keys(promised) as ReadonlyArray<Key>

const on = {
  timeout: { attempt: 80, firstToken: 80 },
  circuitBreaker: { failureThreshold: 1 },
  rateLimit: { capacity: 1, refillPerSecond: 0.001, maxWait: 0 },
  bulkhead: { maxConcurrent: 1, queue: 0 },
  idempotency: {},
  failover: {}
} as const satisfies LlmConfig.Options

const { answer, hang, overloaded } = ScriptedProvider
const faults = [{ ...answer("Hi."), delay: 10 }, overloaded, hang]

/** Every way to fail that this set of options leaves, and those that are left out. */
const failures = (
  kind: Kind,
  off: ReadonlySet<Key>,
  many: boolean,
  fault: ScriptedProvider.Step
): ReadonlyArray<string> => {
  const world = new World()
  const scope = Scope.makeUnsafe()
  const plain = Object.fromEntries(keys.map((key) => [key, off.has(key) ? false : on[key]]))
  const build = (more: LlmConfig.Options = {}) =>
    world.run(Effect.orDie(Scope.provide(
      Effect.gen(function*() {
        const a = yield* ScriptedProvider.make([ScriptedProvider.always(fault)], { id: "a" })
        const b = yield* ScriptedProvider.make([ScriptedProvider.always(fault)], { id: "b" })
        const layer = LlmClient.layerDynamic(many ? [a, b] : [a], { retry: false, cache: false, ...plain, ...more })
        return Context.get(yield* Layer.build(layer), LlmClient)
      }),
      scope
    )))
  const scarce = build()
  const free = build(off.has("rateLimit") ? {} : { rateLimit: {} })
  const calls = Effect.all([
    Effect.exit(ask(kind, scarce)),
    Effect.exit(ask(kind, scarce)),
    Effect.all([1, 2, 3].map(() => Effect.exit(ask(kind, free))), { concurrency: 3 }),
    Effect.exit(ask(kind, free, { prompt: "Hi", idempotencyKey: "k" })),
    Effect.exit(ask(kind, free, { prompt: "other", idempotencyKey: "k" })),
    off.has("timeout") ? Effect.succeed(Exit.void) : Effect.exit(ask(kind, free, { prompt: "Hi", deadline: 30 }))
  ])
  const exits = world.finish(calls)
  if (Exit.isFailure(exits)) throw new Error(String(exits.cause))
  return exits.value.flat().flatMap((exit: Exit.Exit<unknown, unknown>) =>
    Exit.isFailure(exit) ? [(Cause.squash(exit.cause) as { readonly _tag: string })._tag] : []
  )
}

describe.each(kinds)("%s", (kind) => {
  it("fails with nothing that its options do not promise, under all 64 sets of them", () => {
    const seen = new Set<string>()
    for (let mask = 0; mask < 64; mask++) {
      const off = new Set(keys.filter((_, i) => (mask & (1 << i)) !== 0))
      const allowed: ReadonlySet<string> = new Set([
        "ProviderError",
        ...keys.flatMap((key) => off.has(key) ? [] : promised[key])
      ])
      for (const fault of faults) {
        // Without a timer nothing ends a hang.
        if (fault === hang && off.has("timeout")) continue
        for (const many of [false, true]) {
          for (const tag of failures(kind, off, many, fault)) {
            seen.add(tag)
            assert.isTrue(allowed.has(tag), `${tag} without ${[...off].join(" ")}`)
          }
        }
      }
    }
    // Not an empty promise: nearly all of them have been seen.
    const others = ["ProviderError", ...Object.values(promised).flat()].filter((tag) => !seen.has(tag))
    assert.deepStrictEqual(others, ["IdempotencyInProgress"])
  })
})
