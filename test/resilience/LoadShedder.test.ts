import { assert, describe, it } from "@effect/vitest"
import { Config, ConfigProvider, Context, Duration, Effect, Exit, Layer, Random } from "effect"
import { LlmError } from "effect-resilient-llm"
import * as LoadShedder from "effect-resilient-llm/resilience/LoadShedder"
import { TestClock } from "effect/testing"
import { chance, failure } from "../support.ts"

/** Parameters of the vectors; the window of the product is shorter. */
const options = { window: "2 minutes" } as const
const policy = LoadShedder.throttlePolicy(options)

const counted = (requests: number, accepts: number, now = 0): LoadShedder.Throttled => {
  let state = LoadShedder.unthrottled
  for (let i = 0; i < requests; i++) state = LoadShedder.count(policy, state, i < accepts, now)
  return state
}

const provider = (reason: LlmError.Reason, status?: number) =>
  new LlmError.ProviderError({ provider: "p", reason, ...(status === undefined ? undefined : { status }) })
const overloaded = provider({ _tag: "Overloaded" }, 503)

/** What calls find that reach the other side. */
const ask = (
  shedder: LoadShedder.LoadShedder,
  answer: Effect.Effect<string, LlmError.LlmError>,
  u: number,
  priority?: LoadShedder.Priority
) => Effect.exit(chance(u)(shedder.protect({ priority })(answer)))

const fill = (shedder: LoadShedder.LoadShedder, requests: number, accepts: number) =>
  Effect.gen(function*() {
    // Draws of 1 would be impossible; this one is never below a share.
    for (let i = 0; i < requests; i++) {
      yield* ask(shedder, i < accepts ? Effect.succeed("") : Effect.fail(overloaded), 0.99999)
    }
  })

describe("LoadShedder: throttle", () => {
  it.each([[100, 100, 0], [100, 50, 0], [100, 40, 20 / 101], [100, 0, 0.9]])(
    "S1 %i requests, %i accepted: %f are rejected",
    (requests, accepts, share) => {
      assert.strictEqual(LoadShedder.rejection(policy, counted(requests, accepts), 0), share)
    }
  )

  it.effect("S1 the same, through the service", () =>
    Effect.gen(function*() {
      for (const [accepts, share] of [[100, 0], [50, 0], [40, 20 / 101], [0, 0.9]] as const) {
        const shedder = yield* LoadShedder.make(options)
        yield* fill(shedder, 100, accepts)
        assert.strictEqual(yield* shedder.rejection, share)
      }
    }))

  it.effect("S2 rejected below the share, and then the share is larger; admitted at the share", () =>
    Effect.gen(function*() {
      const shedder = yield* LoadShedder.make(options)
      yield* fill(shedder, 100, 40)
      const error = failure(yield* ask(shedder, Effect.succeed(""), 0.19)) as LlmError.Shed
      assert.deepStrictEqual([error._tag, error.reason], ["Shed", "throttled"])
      assert.strictEqual(LlmError.retryAfterMillis(error), 10_000)
      assert.strictEqual(yield* shedder.rejection, 21 / 102)
      assert.isTrue(Exit.isSuccess(yield* ask(shedder, Effect.succeed(""), 21 / 102)))
      // 102 requests, 41 accepts.
      assert.strictEqual(yield* shedder.rejection, 20 / 103)
      const again = yield* LoadShedder.make(options)
      yield* fill(again, 100, 40)
      assert.isTrue(Exit.isSuccess(yield* ask(again, Effect.succeed(""), 0.2)))
    }))

  it("S3 after the window nothing is known, and the oldest bucket leaves as a whole", () => {
    const state = counted(100, 0)
    assert.strictEqual(LoadShedder.rejection(policy, state, 119_999), 0.9)
    assert.strictEqual(LoadShedder.rejection(policy, state, 120_000), 0)
    // Of the same bucket, at its end.
    assert.strictEqual(LoadShedder.rejection(policy, counted(100, 0, 9999), 120_000), 0)
    assert.strictEqual(LoadShedder.rejection(policy, counted(100, 0, 10_000), 120_000), 0.9)
  })

  it("knows of nobody at first", () => {
    assert.deepStrictEqual(LoadShedder.unthrottled.older, [])
  })

  it("keeps no bucket in which nobody asked", () => {
    assert.deepStrictEqual(LoadShedder.count(policy, LoadShedder.unthrottled, true, 30_000), {
      bucket: 3,
      requests: 1,
      accepts: 1,
      older: [],
      olderRequests: 0,
      olderAccepts: 0
    })
  })

  it.effect("a share that has been zero is looked at again with each bucket", () =>
    Effect.gen(function*() {
      const shedder = yield* LoadShedder.make(options)
      yield* fill(shedder, 100, 100)
      yield* TestClock.adjust(10_000)
      yield* fill(shedder, 100, 0)
      yield* TestClock.adjust(105_000)
      assert.isTrue(Exit.isSuccess(yield* ask(shedder, Effect.succeed(""), 0)))
      // The hundred that were accepted leave the window.
      yield* TestClock.adjust(5000)
      assert.isTrue(Exit.isFailure(yield* ask(shedder, Effect.succeed(""), 0)))
    }))

  it("a share of zero needs no chance", () => {
    const throttle = new LoadShedder.Throttle(policy)
    assert.isFalse(throttle.rejects("default", () => assert.fail("asked"), 0))
  })

  it("S4 the less urgent, the earlier the door closes", () => {
    const doors = LoadShedder.doors()
    for (const [priority, room] of [["sheddable", 50], ["batch", 75], ["default", 90], ["critical", 100]] as const) {
      assert.isTrue(LoadShedder.admits(doors, priority, room - 1, 100), priority)
      assert.isFalse(LoadShedder.admits(doors, priority, room, 100), priority)
    }
  })

  it.effect("S9 whoever answers accepts: only overloads, timeouts and broken connections do not", () =>
    Effect.gen(function*() {
      const accepted = [
        provider({ _tag: "InvalidRequest" }, 400),
        provider({ _tag: "Authentication" }, 401),
        provider({ _tag: "Server" }, 500),
        provider({ _tag: "Quota" }, 429)
      ]
      for (const error of accepted) {
        const shedder = yield* LoadShedder.make(options)
        for (let i = 0; i < 100; i++) yield* ask(shedder, Effect.fail(error), 0)
        assert.strictEqual(yield* shedder.rejection, 0)
      }
      const refused = [
        overloaded,
        provider({ _tag: "RateLimit" }, 429),
        provider({ _tag: "Network", sent: false }),
        new LlmError.AttemptTimeout({ kind: "idle", after: Duration.seconds(1) })
      ]
      for (const error of refused) {
        const shedder = yield* LoadShedder.make(options)
        yield* ask(shedder, Effect.fail(error), 0)
        assert.strictEqual(yield* shedder.rejection, 1 / 2)
      }
    }))

  it.effect("S10 a thousand draws at a share of a fifth: the same rejections for the same seed", () =>
    Effect.gen(function*() {
      const seed = "S10"
      const draws = (shedder: LoadShedder.LoadShedder) =>
        Effect.gen(function*() {
          const rejected: Array<number> = []
          for (let i = 0; i < 1000; i++) {
            // Each draw at 40 of 100 accepted.
            const state = yield* Effect.exit(Random.withSeed(shedder.protect()(Effect.succeed("")), `${seed}${i}`))
            if (Exit.isFailure(state)) rejected.push(i)
          }
          return rejected
        })
      const made = Effect.gen(function*() {
        const shedder = yield* LoadShedder.make(options)
        yield* fill(shedder, 10_000, 4000)
        return yield* draws(shedder)
      })
      const first = yield* made
      assert.deepStrictEqual(yield* made, first)
      assert.isAbove(first.length, 100)
      assert.isBelow(first.length, 300)
    }))

  it.effect("critical is never rejected, but counted", () =>
    Effect.gen(function*() {
      const shedder = yield* LoadShedder.make(options)
      yield* fill(shedder, 100, 0)
      for (let i = 0; i < 100; i++) {
        assert.isTrue(Exit.isSuccess(yield* ask(shedder, Effect.succeed(""), 0, "critical")))
      }
      assert.strictEqual(yield* shedder.rejection, 0)
    }))

  it.effect("what is interrupted, defective or under way says nothing", () =>
    Effect.gen(function*() {
      const shedder = yield* LoadShedder.make(options)
      for (const end of [Effect.interrupt, Effect.die("broken")]) yield* ask(shedder, end, 0)
      const fibers = yield* Effect.forEach(Array.from({ length: 100 }), () =>
        Effect.forkChild(shedder.protect()(Effect.sleep(1000)), { startImmediately: true }))
      assert.strictEqual(yield* shedder.rejection, 0)
      yield* TestClock.adjust(1000)
      assert.strictEqual(
        fibers.filter((fiber) =>
          fiber.pollUnsafe() !== undefined
        ).length,
        100
      )
      yield* fill(shedder, 100, 0)
      assert.strictEqual(yield* shedder.rejection, 0)
    }))

  it.effect("is a service, and reads its options", () =>
    Effect.gen(function*() {
      const context = yield* Effect.scoped(Layer.build(LoadShedder.layer({ ratio: 1 })))
      const shedder = Context.get(context, LoadShedder.LoadShedder)
      yield* fill(shedder, 100, 50)
      assert.strictEqual(yield* shedder.rejection, 50 / 101)
      assert.deepStrictEqual(LoadShedder.throttlePolicy(), { ratio: 2, window: 60_000, maxRejection: 0.9 })
      assert.deepStrictEqual(LoadShedder.policy({ throttle: false, thresholds: false }), {
        throttle: undefined,
        doors: undefined,
        isShadow: false
      })
      // A judge of one's own.
      const own = yield* LoadShedder.make({ isOverload: (error) => error === "busy" })
      for (const error of ["busy", "wrong"]) yield* Effect.exit(chance(0.99)(own.protect()(Effect.fail(error))))
      assert.strictEqual(yield* own.rejection, 0)
      yield* Effect.exit(chance(0.99)(own.protect()(Effect.fail("busy"))))
      assert.strictEqual(yield* own.rejection, 1 / 4)
    }))

  it.effect("reads its options from configuration, and tells what is wrong there", () =>
    Effect.gen(function*() {
      const layer = LoadShedder.layerConfig({ ratio: Config.Finite("RATIO") })
      const built = (RATIO: string) =>
        Effect.provide(Effect.scoped(Layer.build(layer)), ConfigProvider.layer(ConfigProvider.fromEnvRecord({ RATIO })))
      const shedder = Context.get(yield* built("1"), LoadShedder.LoadShedder)
      yield* fill(shedder, 100, 50)
      assert.strictEqual(yield* shedder.rejection, 50 / 101)
      assert.deepInclude(yield* Effect.flip(built("0.5")), { _tag: "LlmConfigError", path: "throttle.ratio" })
    }))

  const share = "a number from 0 to 1"
  const objectOrFalse = "an object of options, or false"
  it.each<readonly [path: string, read: (options: never) => unknown, options: unknown, rule: string]>([
    ["throttle.ratio", LoadShedder.throttlePolicy, { ratio: 0.5 }, "a number of at least 1"],
    ["throttle.window", LoadShedder.throttlePolicy, { window: 11 }, "a duration of at least 12 ms"],
    ["throttle.maxRejection", LoadShedder.throttlePolicy, { maxRejection: 1 }, "a number from 0 to 0.99"],
    ["throttle.ratios", LoadShedder.throttlePolicy, { ratios: 1 }, "one of ratio, window, maxRejection"],
    ["thresholds.critical", LoadShedder.doors, { critical: 2 }, share],
    ["thresholds.default", LoadShedder.doors, { default: -1 }, share],
    ["thresholds.batch", LoadShedder.doors, { batch: 2 }, share],
    ["thresholds.sheddable", LoadShedder.doors, { sheddable: -1 }, share],
    ["loadShedding.throttle", LoadShedder.policy, { throttle: true }, objectOrFalse],
    ["loadShedding.throttle.ratio", LoadShedder.policy, { throttle: { ratio: 0 } }, "a number of at least 1"],
    ["loadShedding.thresholds", LoadShedder.policy, { thresholds: true }, objectOrFalse],
    ["loadShedding.thresholds.batch", LoadShedder.policy, { thresholds: { batch: 2 } }, share],
    ["loadShedding.mode", LoadShedder.policy, { mode: "off" }, "one of enforce, shadow"]
  ])("what is wrong at %s is named, with what must be there", (path, read, options, rule) => {
    try {
      read(options as never)
    } catch (error) {
      return assert.deepInclude(error, { _tag: "LlmConfigError", path, rule })
    }
    assert.fail("accepted")
  })
})
