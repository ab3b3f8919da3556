import { assert, describe, it } from "@effect/vitest"
import { Clock, Deferred, Effect, Exit, Fiber, Random } from "effect"
import { VirtualTime } from "effect-resilient-llm/testing"

const after = <A>(millis: number, value: A): Effect.Effect<A> => Effect.as(Effect.sleep(millis), value)

describe("run", () => {
  it.live("sleepers wake in the order of their moments, then of their beginnings, at once", () =>
    Effect.gen(function*() {
      const woken: Array<readonly [number, string]> = []
      const sleeper = (millis: number, name: string) =>
        Effect.flatMap(after(millis, name), () =>
          Effect.map(Clock.monotonicTimeNanos, (nanos) => {
            woken.push([Number(nanos) / 1e6, name])
          }))
      const sleepers = Effect.all(
        [sleeper(3_600_000, "an hour"), sleeper(0.5, "half"), sleeper(20, "first of 20"), sleeper(20, "second of 20")],
        { concurrency: "unbounded", discard: true }
      )
      const begun = performance.now()
      yield* VirtualTime.run(sleepers)
      assert.isBelow(performance.now() - begun, 5000)
      assert.deepStrictEqual(woken, [
        [0.5, "half"],
        [20, "first of 20"],
        [20, "second of 20"],
        [3_600_000, "an hour"]
      ])
    }))

  it.live("the same seed is the same chance, another seed another one", () =>
    Effect.gen(function*() {
      const draws = Effect.all(Array.from({ length: 5 }, () => Random.next))
      const [one, again, other] = [
        yield* VirtualTime.run(draws, { seed: 7 }),
        yield* VirtualTime.run(draws, { seed: 7 }),
        yield* VirtualTime.run(draws, { seed: 8 })
      ]
      assert.deepStrictEqual(again, one)
      assert.notDeepEqual(other, one)
      for (const draw of one) assert.isTrue(draw >= 0 && draw < 1)
    }))

  it.live("failures and defects are the effect's own", () =>
    Effect.gen(function*() {
      const failed = yield* Effect.flip(VirtualTime.run(Effect.andThen(Effect.sleep(5), Effect.fail("no" as const))))
      assert.strictEqual(failed, "no")
      const died = yield* Effect.exit(VirtualTime.run(Effect.die("bug")))
      assert.deepStrictEqual(died, Exit.die("bug"))
    }))

  it.live("what waits for nothing is stuck, and what never ends is endless", () =>
    Effect.gen(function*() {
      const stuck = yield* Effect.flip(
        VirtualTime.run(Effect.andThen(Effect.sleep(20), Deferred.await(Deferred.makeUnsafe<void>())))
      )
      assert.deepStrictEqual([stuck._tag, stuck.reason, stuck.at], ["VirtualTimeError", "stuck", 20])
      for (const forever of [Effect.sleep(1), Effect.yieldNow]) {
        const endless = yield* Effect.flip(VirtualTime.run(Effect.forever(forever), { maxSteps: 10_000 }))
        assert.strictEqual(endless.reason, "endless")
        assert.include(endless.message, "does not come to an end")
      }
    }))

  it.live("it can be interrupted, and then gives back what it holds in its own time", () =>
    Effect.gen(function*() {
      let given: number | undefined
      const holding = Effect.acquireUseRelease(
        Effect.void,
        () => Effect.forever(Effect.sleep(1)),
        () => Effect.map(after(500, undefined), () => Effect.sync(() => given = 1)).pipe(Effect.flatten)
      )
      const fiber = yield* Effect.forkChild(VirtualTime.run(holding))
      yield* Effect.yieldNow
      yield* Effect.yieldNow
      yield* Fiber.interrupt(fiber)
      assert.strictEqual(given, 1)
    }))
})

describe("make", () => {
  it("a timer that is cancelled is gone at once, wherever it stands", () => {
    const time = VirtualTime.make()
    const fired: Array<number> = []
    const moments = Array.from({ length: 500 }, (_, i) => i * 7919 % 500)
    const cancels = moments.map((moment) => time.at(moment, () => fired.push(moment)))
    assert.strictEqual(time.pending(), 500)
    moments.forEach((moment, i) => {
      if (moment % 3 !== 0) cancels[i]!()
    })
    cancels[0]!()
    cancels[0]!()
    assert.strictEqual(time.pending(), 166)
    while (time.step());
    assert.deepStrictEqual(fired, moments.filter((moment) => moment % 3 === 0 && moment > 0).toSorted((a, b) => a - b))
    assert.strictEqual(time.now(), 498)
    assert.strictEqual(time.step(), false)
  })

  it("ten thousand calls with a timer of a minute each leave no timer behind", () => {
    const time = VirtualTime.make()
    let ended = 0
    let most = 0
    for (let i = 0; i < 10_000; i++) {
      time.at(i * 10, () => {
        Effect.runForkWith(time.context)(Effect.timeout(Effect.sleep(100), "1 minute")).addObserver(() => ended++)
        most = Math.max(most, time.pending() - (9999 - i))
      })
    }
    while (time.step());
    assert.strictEqual(ended, 10_000)
    // Of the eleven that run at a time: their sleep and their timer.
    assert.isAtMost(most, 22)
    assert.strictEqual(time.pending(), 0)
  })

  it("never is not kept, and the past is now", () => {
    const time = VirtualTime.make()
    time.at(Infinity, () => assert.fail("never"))
    assert.strictEqual(time.pending(), 0)
    let at: number | undefined
    time.at(50, () => time.at(10, () => at = time.now()))
    while (time.step());
    assert.strictEqual(at, 50)
  })
})
