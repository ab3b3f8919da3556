import { assert, describe, it } from "@effect/vitest"
import { Cause, Config, ConfigProvider, Deferred, Effect, Exit, Fiber, Layer, Scheduler, Stream } from "effect"
import * as Bulkhead from "effect-resilient-llm/resilience/Bulkhead"
import { TestClock } from "effect/testing"
import { calm, countingSleeps, now, start } from "./waiting.ts"

type Entry = readonly [name: string, at: number] | readonly [name: string, at: number, refused: string]

const make = (options: Bulkhead.Options) => Effect.orDie(Bulkhead.make(options))

/** Logs when a permit is granted, or refused. */
const journal = (bulkhead: Bulkhead.Bulkhead) => {
  const entries: Array<Entry> = []
  const permits = new Map<string, Bulkhead.Permit>()
  const enter = (name: string, options?: Bulkhead.AcquireOptions) =>
    start(Effect.matchEffect(bulkhead.acquire(options), {
      onSuccess: (permit) =>
        Effect.map(now, (at) => {
          permits.set(name, permit)
          entries.push([name, at])
        }),
      onFailure: (error) => Effect.map(now, (at) => entries.push([name, at, error._tag]))
    }))
  const release = (name: string) => Effect.andThen(Effect.sync(() => permits.get(name)!.releaseUnsafe()), calm)
  return { entries, enter, release, held: (name: string) => permits.get(name)! }
}

const isIdle = (bulkhead: Bulkhead.Bulkhead) =>
  Effect.map(bulkhead.snapshot, ({ inUse, queued }) => assert.deepStrictEqual([inUse, queued], [0, 0]))

describe("Bulkhead", () => {
  describe("vectors", () => {
    it.effect("K1 max 2, five callers of 1000 ms: 0, 0, 1000, 1000, 2000 (P1)", () =>
      countingSleeps((sleeps) =>
        Effect.gen(function*() {
          const bulkhead = yield* make({ maxConcurrent: 2 })
          const starts: Array<number> = []
          let inFlight = 0
          let most = 0
          const call = Effect.gen(function*() {
            starts.push(yield* now)
            most = Math.max(most, ++inFlight)
            yield* Effect.sleep(1000)
            inFlight -= 1
          }).pipe(bulkhead.protect)
          for (let i = 0; i < 5; i++) yield* start(call)
          yield* TestClock.adjust("1 minute")
          assert.deepStrictEqual(starts, [0, 0, 1000, 1000, 2000])
          assert.strictEqual(most, 2)
          yield* isIdle(bulkhead)
          assert.strictEqual(sleeps.pending, 0)
        })
      ))

    it.effect("K2 (Semaphore starvation) a small late weight does not overtake a big one", () =>
      Effect.gen(function*() {
        const bulkhead = yield* make({ maxConcurrent: 4 })
        const { enter, entries, release } = journal(bulkhead)
        yield* enter("A", { weight: 3 })
        yield* enter("Big", { weight: 4 })
        yield* enter("Small", { weight: 1 })
        yield* calm
        assert.deepStrictEqual(entries, [["A", 0]])
        yield* release("A")
        assert.deepStrictEqual(entries, [["A", 0], ["Big", 0]])
        yield* release("Big")
        assert.deepStrictEqual(entries, [["A", 0], ["Big", 0], ["Small", 0]])
        yield* release("Small")
        yield* isIdle(bulkhead)
      }))

    it.effect("K3 the big one is interrupted: the small one goes immediately", () =>
      Effect.gen(function*() {
        const bulkhead = yield* make({ maxConcurrent: 4 })
        const { enter, entries } = journal(bulkhead)
        yield* enter("A", { weight: 3 })
        const big = yield* enter("Big", { weight: 4 })
        yield* enter("Small", { weight: 1 })
        yield* TestClock.adjust(500)
        yield* Fiber.interrupt(big)
        yield* calm
        assert.deepStrictEqual(entries, [["A", 0], ["Small", 500]])
        assert.deepStrictEqual(yield* bulkhead.snapshot, { inUse: 4, maxConcurrent: 4, queued: 0, maxQueued: 100 })
      }))

    it.effect("K4 a weight above the bound is refused at once, also when nothing is in flight", () =>
      Effect.gen(function*() {
        const bulkhead = yield* make({ maxConcurrent: 4 })
        const { enter, entries } = journal(bulkhead)
        yield* enter("huge", { weight: 5 })
        assert.deepStrictEqual(entries, [["huge", 0, "BulkheadFull"]])
        yield* isIdle(bulkhead)
      }))

    it.effect("K5 resized from 10 to 5 with 8 held: the waiter goes after the 4th release", () =>
      Effect.gen(function*() {
        const bulkhead = yield* make({ maxConcurrent: 10 })
        const { enter, entries, release } = journal(bulkhead)
        for (let i = 1; i <= 8; i++) yield* enter(`${i}`)
        yield* bulkhead.resize(5)
        yield* enter("w")
        for (let i = 1; i <= 3; i++) {
          yield* release(`${i}`)
          assert.strictEqual(entries.length, 8)
        }
        yield* release("4")
        assert.deepStrictEqual(entries.at(-1), ["w", 0])
        assert.deepStrictEqual(yield* bulkhead.snapshot, { inUse: 5, maxConcurrent: 5, queued: 0, maxQueued: 100 })
      }))

    it.effect("K6 max 1, queue 2: one runs, two wait, the fourth is refused at once", () =>
      Effect.gen(function*() {
        const bulkhead = yield* make({ maxConcurrent: 1, queue: 2 })
        const { enter, entries } = journal(bulkhead)
        for (const name of ["a", "b", "c", "d"]) yield* enter(name)
        assert.deepStrictEqual(entries, [["a", 0], ["d", 0, "BulkheadFull"]])
        assert.strictEqual((yield* bulkhead.snapshot).queued, 2)
      }))

    it.effect("K7 a waiter is refused after maxWait, and leaves nothing behind", () =>
      countingSleeps((sleeps) =>
        Effect.gen(function*() {
          const bulkhead = yield* make({ maxConcurrent: 1 })
          const { enter, entries, release } = journal(bulkhead)
          yield* enter("holder")
          yield* enter("waiter")
          yield* TestClock.adjust(29_999)
          assert.strictEqual(entries.length, 1)
          yield* TestClock.adjust(1)
          assert.deepStrictEqual(entries, [["holder", 0], ["waiter", 30_000, "BulkheadFull"]])
          assert.deepStrictEqual(yield* bulkhead.snapshot, { inUse: 1, maxConcurrent: 1, queued: 0, maxQueued: 100 })
          yield* release("holder")
          yield* isIdle(bulkhead)
          assert.strictEqual(sleeps.pending, 0)
        })
      ))

    it.effect("K9 a stream holds its permit until it ends, not until its headers", () =>
      Effect.gen(function*() {
        const bulkhead = yield* make({ maxConcurrent: 1 })
        const starts: Array<number> = []
        const permit = Effect.acquireRelease(bulkhead.acquire(), (held) => Effect.sync(() => held.releaseUnsafe()))
        const body = Stream.fromEffect(Effect.as(Effect.sleep(9900), "last"))
        const response = Effect.gen(function*() {
          yield* permit
          starts.push(yield* now)
          yield* Effect.sleep(100)
          return Stream.concat(Stream.make("first"), body)
        })
        const call = Stream.runDrain(Stream.unwrap(response))
        yield* start(call)
        yield* start(call)
        yield* TestClock.adjust("1 minute")
        assert.deepStrictEqual(starts, [0, 10_000])
        yield* isIdle(bulkhead)
      }))
  })

  describe("bug threads", () => {
    it.effect("Effect#7584 two cleanups of one holder free one place", () =>
      Effect.gen(function*() {
        const bulkhead = yield* make({ maxConcurrent: 1 })
        const { enter, entries, held, release } = journal(bulkhead)
        yield* enter("a")
        yield* enter("b")
        yield* enter("c")
        yield* release("a")
        held("a").releaseUnsafe()
        yield* release("a")
        assert.deepStrictEqual(entries.map(([name]) => name), ["a", "b"])
        assert.strictEqual((yield* bulkhead.snapshot).inUse, 1)
      }))

    it.effect("cockatiel#114 who arrives between a release and its hand-over stands behind", () =>
      Effect.gen(function*() {
        const bulkhead = yield* make({ maxConcurrent: 1 })
        const { enter, entries, held } = journal(bulkhead)
        yield* enter("holder")
        yield* enter("waiter")
        yield* calm
        held("holder").releaseUnsafe()
        yield* enter("barger")
        yield* calm
        assert.deepStrictEqual(entries.map(([name]) => name), ["holder", "waiter"])
      }))

    it.effect("renku-graph#1422 whatever the work does, its permit comes back", () =>
      Effect.gen(function*() {
        const bulkhead = yield* make({ maxConcurrent: 1, queue: 0 })
        for (
          const work of [
            Effect.fail("failure"),
            Effect.die("defect"),
            Effect.interrupt,
            Effect.sync(() => {
              throw new Error("thrown")
            }),
            Effect.onExit(Effect.void, () => Effect.die("finalizer"))
          ]
        ) {
          yield* Effect.exit(bulkhead.protect(work as Effect.Effect<unknown, unknown>))
          yield* isIdle(bulkhead)
        }
        assert.strictEqual(yield* bulkhead.protect(Effect.succeed("ok")), "ok")
      }))

    it.effect("Effect#6081 a holder's interruption frees its place only after its finalizers", () =>
      Effect.gen(function*() {
        const bulkhead = yield* make({ maxConcurrent: 1 })
        const { enter, entries } = journal(bulkhead)
        const holder = yield* start(
          Effect.never.pipe(Effect.onInterrupt(() => Effect.sleep(1000)), bulkhead.protect)
        )
        yield* enter("next")
        holder.interruptUnsafe()
        yield* TestClock.adjust("1 minute")
        assert.deepStrictEqual(entries, [["next", 1000]])
      }))
  })

  describe("acquire", () => {
    it.effect("maxWait of one acquisition limits further, and never extends", () =>
      Effect.gen(function*() {
        const bulkhead = yield* make({ maxConcurrent: 1, maxWait: 1000 })
        const { enter, entries } = journal(bulkhead)
        yield* enter("holder")
        yield* enter("short", { maxWait: 300 })
        yield* enter("long", { maxWait: 5000 })
        yield* enter("none", { maxWait: 0 })
        yield* enter("nonsense", { maxWait: NaN })
        yield* TestClock.adjust("1 minute")
        assert.deepStrictEqual(entries, [
          ["holder", 0],
          ["none", 0, "BulkheadFull"],
          ["nonsense", 0, "BulkheadFull"],
          ["short", 300, "BulkheadFull"],
          ["long", 1000, "BulkheadFull"]
        ])
      }))

    it.effect("maxWait 0 does not wait at all", () =>
      Effect.gen(function*() {
        const bulkhead = yield* make({ maxConcurrent: 1, maxWait: 0 })
        yield* bulkhead.acquire()
        const exit = Effect.runSyncExit(bulkhead.acquire())
        assert.isTrue(Exit.isFailure(exit) && Cause.hasFails(exit.cause))
      }))

    it.effect("a permit says how long it was waited for", () =>
      Effect.gen(function*() {
        const bulkhead = yield* make({ maxConcurrent: 1 })
        const { enter, held } = journal(bulkhead)
        yield* enter("holder")
        yield* TestClock.adjust(500)
        yield* enter("waiter")
        yield* TestClock.adjust(1234)
        held("holder").releaseUnsafe()
        yield* calm
        assert.strictEqual(held("holder").waited, 0)
        assert.strictEqual(held("waiter").waited, 1234)
      }))

    it.effect("a weight that is not a whole number of at least 1 is a defect", () =>
      Effect.gen(function*() {
        const bulkhead = yield* make({})
        for (const weight of [0, -1, 0.5, NaN, Infinity]) {
          const defect = yield* Effect.catchDefect(bulkhead.acquire({ weight }), Effect.succeed)
          assert.instanceOf(defect, RangeError)
          assert.include(defect.message, "whole number")
        }
        yield* isIdle(bulkhead)
      }))

    it.effect("whoever is about to stand in line when a place becomes free gets it", () =>
      Effect.gen(function*() {
        // The fibre is made to yield after every so many operations, and starts with more or fewer of them.
        for (let before = 0; before < 5; before++) {
          const bulkhead = yield* make({ maxConcurrent: 1 })
          const holder = yield* bulkhead.acquire()
          let enter: Effect.Effect<unknown, unknown> = bulkhead.acquire()
          for (let i = 0; i < before; i++) enter = Effect.andThen(Effect.void, enter)
          const fiber = yield* start(Effect.provideService(enter, Scheduler.MaxOpsBeforeYield, 5))
          holder.releaseUnsafe()
          yield* calm
          assert.isDefined(fiber.pollUnsafe(), `after ${before} operations`)
        }
      }))

    it.effect("a refusal without a wait costs no stack", () =>
      Effect.gen(function*() {
        const bulkhead = yield* make({ maxConcurrent: 1, queue: 1 })
        yield* bulkhead.acquire()
        const bare = (options: Bulkhead.AcquireOptions) =>
          Effect.map(Effect.flip(bulkhead.acquire(options)), (error) => assert.notInclude(error.stack, "\n    at "))
        yield* bare({ weight: 2 })
        yield* bare({ maxWait: 0 })
        yield* bare({ maxWait: NaN })
        yield* start(bulkhead.acquire())
        yield* bare({})
      }))

    it.effect("the first waiter that gives up lets the others through", () =>
      Effect.gen(function*() {
        const bulkhead = yield* make({ maxConcurrent: 2 })
        const { enter, entries } = journal(bulkhead)
        yield* enter("holder")
        yield* enter("big", { weight: 2, maxWait: 500 })
        yield* enter("small")
        yield* TestClock.adjust("1 second")
        assert.deepStrictEqual(entries, [["holder", 0], ["big", 500, "BulkheadFull"], ["small", 500]])
      }))
  })

  describe("tryAcquireUnsafe", () => {
    it.effect("takes a free place without an Effect, and never the place of who waits", () =>
      Effect.gen(function*() {
        const bulkhead = yield* make({ maxConcurrent: 2 })
        const one = bulkhead.tryAcquireUnsafe()!
        assert.strictEqual(one.waited, 0)
        const { enter, entries } = journal(bulkhead)
        yield* enter("big", { weight: 2 })
        assert.isUndefined(bulkhead.tryAcquireUnsafe())
        one.releaseUnsafe()
        yield* calm
        assert.deepStrictEqual(entries, [["big", 0]])
        assert.isUndefined(bulkhead.tryAcquireUnsafe())
        assert.deepStrictEqual(yield* bulkhead.snapshot, { inUse: 2, maxConcurrent: 2, queued: 0, maxQueued: 100 })
      }))
  })

  describe("protect", () => {
    it.effect("leaves an uninterruptible caller uninterruptible while it waits", () =>
      Effect.gen(function*() {
        const bulkhead = yield* make({ maxConcurrent: 1 })
        const { enter, held } = journal(bulkhead)
        yield* enter("holder")
        const done = yield* Deferred.make<string>()
        const fiber = yield* start(
          Effect.uninterruptible(Deferred.succeed(done, "ran").pipe(bulkhead.protect))
        )
        fiber.interruptUnsafe()
        yield* calm
        assert.strictEqual((yield* bulkhead.snapshot).queued, 1)
        held("holder").releaseUnsafe()
        assert.strictEqual(yield* Deferred.await(done), "ran")
        yield* Fiber.await(fiber)
        yield* isIdle(bulkhead)
      }))

    it.effect("an interrupted waiter exits with its interruption, and never runs", () =>
      Effect.gen(function*() {
        const bulkhead = yield* make({ maxConcurrent: 1 })
        const { enter } = journal(bulkhead)
        yield* enter("holder")
        let ran = false
        const fiber = yield* start(bulkhead.protect(Effect.sync(() => {
          ran = true
        })))
        yield* Fiber.interrupt(fiber)
        const exit = yield* Fiber.await(fiber)
        assert.isTrue(Exit.isFailure(exit) && Cause.hasInterruptsOnly(exit.cause))
        assert.isFalse(ran)
        assert.deepStrictEqual(yield* bulkhead.snapshot, { inUse: 1, maxConcurrent: 1, queued: 0, maxQueued: 100 })
      }))
  })

  describe("resize", () => {
    it.effect("more lets waiters in at once", () =>
      Effect.gen(function*() {
        const bulkhead = yield* make({ maxConcurrent: 1 })
        const { enter, entries } = journal(bulkhead)
        for (const name of ["a", "b", "c", "d"]) yield* enter(name)
        yield* bulkhead.resize(3)
        yield* calm
        assert.deepStrictEqual(entries.map(([name]) => name), ["a", "b", "c"])
      }))

    it.effect("less refuses waiters that have become too heavy, so that they block nobody", () =>
      Effect.gen(function*() {
        const bulkhead = yield* make({ maxConcurrent: 4 })
        const { enter, entries, release } = journal(bulkhead)
        yield* enter("holder", { weight: 2 })
        yield* enter("heavy", { weight: 4 })
        yield* enter("just fits", { weight: 2 })
        yield* bulkhead.resize(2)
        yield* calm
        assert.deepStrictEqual(entries, [["holder", 0], ["heavy", 0, "BulkheadFull"]])
        yield* release("holder")
        assert.deepStrictEqual(entries.at(-1), ["just fits", 0])
      }))

    it.effect("less than one is a typed error", () =>
      Effect.gen(function*() {
        const bulkhead = yield* make({ maxConcurrent: 4 })
        for (const nonsense of [0, -1, 1.5, NaN, Infinity]) {
          const error = yield* Effect.flip(bulkhead.resize(nonsense))
          assert.strictEqual(error._tag, "LlmConfigError")
          assert.deepInclude(error, { path: "maxConcurrent", rule: "a whole number of at least 1" })
        }
        assert.strictEqual((yield* bulkhead.snapshot).maxConcurrent, 4)
      }))
  })

  describe("lineUnsafe", () => {
    it.effect("the wait: how long the last grants took from one to the next, the newest an eighth, for each ahead", () =>
      Effect.gen(function*() {
        const bulkhead = yield* make({ maxConcurrent: 1 })
        const { enter, release } = journal(bulkhead)
        const wait = Effect.map(now, (at) => bulkhead.lineUnsafe({}, at).wait)
        for (const name of ["a", "b", "c", "d", "e"]) yield* enter(name)
        yield* TestClock.adjust(100)
        yield* release("a")
        assert.isUndefined(yield* wait, "one grant has no gap")
        yield* TestClock.adjust(800)
        yield* release("b")
        assert.strictEqual(yield* wait, 800 * 3)
        yield* TestClock.adjust(1600)
        yield* release("c")
        assert.strictEqual(yield* wait, 900 * 2)
        yield* release("d")
        // The line is over, and says nothing about the next one.
        for (const name of ["f", "g"]) yield* enter(name)
        yield* TestClock.adjust(5000)
        yield* release("e")
        assert.isUndefined(yield* wait)
      }))
  })

  describe("options and layers", () => {
    const cases: ReadonlyArray<readonly [name: string, options: unknown, path: string, rule: string]> = [
      ["no place", { maxConcurrent: 0 }, "maxConcurrent", "a whole number of at least 1"],
      ["half a place", { maxConcurrent: 1.5 }, "maxConcurrent", "a whole number of at least 1"],
      ["a text as a bound that moves", { adaptive: "yes" }, "adaptive", "an object of options, true or false"],
      ["negative line", { queue: -1 }, "queue", "a whole number of at least 0"],
      ["negative wait", { maxWait: -1 }, "maxWait", "a duration that is not negative"],
      ["unknown option", { max: 1 }, "max", "one of maxConcurrent, adaptive, queue, maxWait"]
    ]
    it.effect.each(cases)(
      "%s is a typed error, which says what must be",
      ([, options, path, rule]) =>
        Effect.gen(function*() {
          const error = yield* Effect.flip(Bulkhead.make(options as Bulkhead.Options))
          assert.deepInclude(error, { _tag: "LlmConfigError", path: `bulkhead.${path}`, rule })
        })
    )

    it("defaults: 20, 100, 30 s", () => {
      assert.deepStrictEqual(Bulkhead.policy(), { maxConcurrent: 20, adaptive: undefined, queue: 100, maxWait: 30_000 })
    })

    it.effect("layer", () =>
      Effect.gen(function*() {
        const bulkhead = yield* Bulkhead.Bulkhead
        assert.strictEqual((yield* bulkhead.snapshot).maxConcurrent, 7)
      }).pipe(Effect.provide(Bulkhead.layer({ maxConcurrent: 7 }))))

    it.effect("layerConfig", () =>
      Effect.gen(function*() {
        const bulkhead = yield* Bulkhead.Bulkhead
        assert.strictEqual((yield* bulkhead.snapshot).maxConcurrent, 9)
        const error = yield* Effect.flip(Effect.scoped(Layer.build(
          Bulkhead.layerConfig({ maxConcurrent: Config.succeed(0) })
        )))
        assert.strictEqual(error._tag, "LlmConfigError")
      }).pipe(
        Effect.provide(Bulkhead.layerConfig({ maxConcurrent: Config.Int("MAX") })),
        Effect.provide(ConfigProvider.layer(ConfigProvider.fromEnvRecord({ MAX: "9" })))
      ))
  })
})
