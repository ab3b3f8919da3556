import { assert, describe, it } from "@effect/vitest"
import { Clock, Effect, Exit, Fiber } from "effect"
import { TestClock } from "effect/testing"
import { monotonicMillis } from "../../src/internal/clock.ts"
import { type Rank, Waiter, WaitingLine } from "../../src/internal/line.ts"

/** Until everybody waits. */
const idle = Effect.repeat(Effect.yieldNow, { times: 20 })

interface Wants {
  readonly name: string
  readonly units: number
}

/** Something of which there are units, and of which one more comes every second if it `refills`. */
const make = (free: number, refills = false) =>
  Effect.gen(function*() {
    const clock = yield* Clock.Clock
    const state = { free, taken: [] as Array<string>, undone: [] as Array<string>, asked: 0 }
    let since = monotonicMillis(clock)
    const line: WaitingLine<Wants, string, string> = new WaitingLine({
      serve: (first, now) => {
        state.asked += 1
        const more = refills ? Math.floor((now - since) / 1000) : 0
        since += 1000 * more
        state.free += more
        const { name, units } = first.wants
        if (state.free < units) return refills ? since + 1000 - now : Infinity
        state.free -= units
        state.taken.push(name)
        line.end(first, Exit.succeed(name))
        return 0
      },
      undo: (granted) => {
        state.undone.push(granted)
        state.free += 1
        line.changed()
      }
    })
    const join = (name: string, rank?: Rank, units = 1) =>
      Effect.uninterruptibleMask((restore) =>
        Effect.withFiber((fiber) => {
          const waiter = new Waiter<Wants, string, string>({ name, units }, rank, clock, monotonicMillis(clock), fiber)
          return line.join(waiter, restore, line.keepTime(waiter))
        })
      )
    const release = (units: number) =>
      Effect.sync(() => {
        state.free += units
        line.changed()
      })
    return { join, line, release, state }
  })

describe("WaitingLine", () => {
  it.effect("everybody is served in order, by one timer among all", () =>
    Effect.gen(function*() {
      const { join, line, state } = yield* make(0, true)
      const fibers = yield* Effect.forEach(["a", "b", "c", "d"], (name) => Effect.forkChild(join(name)))
      yield* idle
      assert.strictEqual(line.size, 4)
      const before = state.asked
      yield* TestClock.adjust("2500 millis")
      assert.deepStrictEqual(state.taken, ["a", "b"])
      assert.isAtMost(state.asked - before, 6)
      // Whoever kept the time may leave: the next one keeps it.
      yield* Fiber.interrupt(fibers[2]!)
      yield* TestClock.adjust("1 second")
      assert.deepStrictEqual(state.taken, ["a", "b", "d"])
      assert.strictEqual(line.size, 0)
      assert.strictEqual(yield* Fiber.join(fibers[3]!), "d")
    }))

  it.effect("what was granted to one that was interrupted in that moment goes to the next", () =>
    Effect.gen(function*() {
      const { join, line, release, state } = yield* make(0)
      const [a, b] = yield* Effect.forEach(["a", "b"], (name) => Effect.forkChild(join(name)))
      yield* idle
      yield* Effect.sync(() => {
        Effect.runSync(release(1))
        a!.interruptUnsafe()
      })
      assert.isTrue(Exit.hasInterrupts(yield* Fiber.await(a!)))
      assert.strictEqual(yield* Fiber.join(b!), "b")
      assert.deepStrictEqual([state.taken, state.undone, state.free, line.size], [["a", "b"], ["a"], 0, 0])
    }))

  it.effect("who leaves before anything is granted takes nothing, and lets the next one pass", () =>
    Effect.gen(function*() {
      const { join, line, release, state } = yield* make(0)
      const [a, b] = yield* Effect.forEach(["a", "b"], (name) => Effect.forkChild(join(name)))
      yield* idle
      yield* Fiber.interrupt(a!)
      yield* release(1)
      assert.strictEqual(yield* Fiber.join(b!), "b")
      assert.deepStrictEqual([state.taken, state.undone, line.size], [["b"], [], 0])
    }))

  it.effect("nobody overtakes because it wants less, until who wants more has left", () =>
    Effect.gen(function*() {
      // Who keeps the time stands behind, and before, who leaves.
      for (const priority of ["critical", "default"] as const) {
        const { join, release, state } = yield* make(0)
        const fork = (first: boolean) =>
          first === (priority === "critical")
            ? Effect.forkChild(join("small"))
            : Effect.forkChild(join("big", { priority }, 2))
        const [one, other] = [yield* fork(true), yield* fork(false)]
        const [small, big] = priority === "critical" ? [one, other] : [other, one]
        yield* idle
        yield* release(1)
        yield* idle
        assert.deepStrictEqual(state.taken, [])
        yield* Fiber.interrupt(big)
        assert.strictEqual(yield* Fiber.join(small), "small")
      }
    }))

  it.effect("who comes to be first of all is served at once, if it can be", () =>
    Effect.gen(function*() {
      const { join, release, state } = yield* make(0)
      yield* Effect.forkChild(join("big", {}, 2))
      yield* idle
      yield* release(1)
      yield* idle
      assert.strictEqual(yield* join("urgent", { priority: "critical" }), "urgent")
      assert.deepStrictEqual(state.taken, ["urgent"])
    }))

  it.effect("the more urgent is ahead, and a full line has room for who has less in it", () =>
    Effect.gen(function*() {
      const { join, line, release, state } = yield* make(0)
      let displaced = 0
      const onDisplaced = () => void displaced++
      const flood = yield* Effect.forEach(["1", "2", "3"], (name) =>
        Effect.forkChild(Effect.exit(join(name, { tenant: "flood", onDisplaced }))))
      yield* idle
      assert.isFalse(line.canDisplace({ tenant: "flood" }))
      assert.isFalse(line.displace({ tenant: "flood" }, () =>
        assert.fail("nobody leaves")))
      assert.isTrue(line.canDisplace({ tenant: "other" }))
      assert.isFalse(line.canDisplace({ tenant: "other", priority: "batch" }), "not for somebody less urgent")
      assert.isTrue(line.displace({ tenant: "other" }, () => "displaced"))
      assert.deepStrictEqual(yield* Fiber.join(flood[2]!), Exit.fail("displaced"))
      assert.deepStrictEqual([displaced, line.size], [1, 2])
      const ahead: Array<string> = []
      line.ahead({ tenant: "other" }, 0, ({ wants }) => {
        ahead.push(wants.name)
        return true
      })
      assert.deepStrictEqual(ahead, ["1"])
      assert.strictEqual(line.size, 2, "looking leaves nobody behind")
      const others = yield* Effect.forEach(["batch", "critical"] as const, (priority) =>
        Effect.forkChild(join(priority, { tenant: "other", priority })))
      yield* idle
      yield* release(4)
      yield* Effect.forEach([...flood, ...others], (fiber) =>
        Fiber.await<unknown, unknown>(fiber))
      assert.deepStrictEqual(state.taken, ["critical", "1", "2", "batch"])
    }))

  it.effect("a failure beside the wait ends it, and leaves nobody in line", () =>
    Effect.gen(function*() {
      const { line } = yield* make(0)
      const clock = yield* Clock.Clock
      const exit = yield* Effect.exit(Effect.uninterruptibleMask((restore) =>
        Effect.withFiber((fiber) =>
          line.join(new Waiter({ name: "a", units: 1 }, undefined, clock, 0, fiber), restore, Effect.fail("too late"))
        )
      ))
      assert.deepStrictEqual(exit, Exit.fail("too late"))
      assert.strictEqual(line.size, 0)
    }))
})
