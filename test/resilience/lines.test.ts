// The order of the lines of bulkhead and limiter: classes, tenants in turn, ageing.
import { assert, describe, it } from "@effect/vitest"
import { Duration, Effect, Fiber } from "effect"
import * as Bulkhead from "effect-resilient-llm/resilience/Bulkhead"
import type { Priority } from "effect-resilient-llm/resilience/LoadShedder"
import * as RateLimiter from "effect-resilient-llm/resilience/RateLimiter"
import { TestClock } from "effect/testing"
import { calm, now, start } from "./waiting.ts"

interface Rank {
  readonly priority?: Priority
  readonly tenant?: string
}

interface Line {
  /** Waits in line, and is noted when it gets through. */
  readonly enter: (name: string, rank?: Rank) => Effect.Effect<Fiber.Fiber<unknown, unknown>>
  /** Lets one more through. */
  readonly next: Effect.Effect<void>
  readonly served: ReadonlyArray<string>
}

/** A bulkhead of one place, and a bucket of one token a second: whoever gets through keeps it. */
const lines: ReadonlyArray<readonly [name: string, make: Effect.Effect<Line>]> = [
  [
    "bulkhead",
    Effect.gen(function*() {
      const bulkhead = yield* Bulkhead.make({ maxConcurrent: 1, maxWait: Infinity })
      const served: Array<string> = []
      let permit = yield* bulkhead.acquire()
      const enter = (name: string, rank?: Rank) =>
        start(Effect.map(bulkhead.acquire(rank), (got) => {
          permit = got
          served.push(name)
        }))
      return { enter, next: Effect.suspend(() => Effect.andThen(permit.release, calm)), served }
    }).pipe(Effect.orDie)
  ],
  [
    "rate limiter",
    Effect.gen(function*() {
      const limiter = yield* RateLimiter.make({ capacity: 1, refillPerSecond: 0.0001, maxWait: Infinity })
      const served: Array<string> = []
      let taken = yield* limiter.acquire(1)
      const enter = (name: string, rank?: Rank) =>
        start(Effect.map(limiter.acquire(1, rank), (got) => {
          taken = got
          served.push(name)
        }))
      return { enter, next: Effect.suspend(() => Effect.andThen(taken.refund("all"), calm)), served }
    }).pipe(Effect.orDie)
  ]
]

const drain = ({ next }: Line, count: number) => Effect.forEach(Array.from({ length: count }), () => next)

describe.each(lines)("the line of a %s", (_, make) => {
  it.effect("without ranks: first come, first served", () =>
    Effect.gen(function*() {
      const line = yield* make
      for (const name of ["a", "b", "c"]) yield* line.enter(name)
      yield* drain(line, 3)
      assert.deepStrictEqual(line.served, ["a", "b", "c"])
    }))

  it.effect("S5 one tenant after the other, of a tenant the first", () =>
    Effect.gen(function*() {
      const line = yield* make
      for (const name of ["x1", "x2", "x3"]) yield* line.enter(name, { tenant: "x" })
      yield* line.enter("y1", { tenant: "y" })
      yield* drain(line, 4)
      assert.deepStrictEqual(line.served, ["x1", "y1", "x2", "x3"])
    }))

  it.effect("S6 who has waited 30 seconds rises a class, and is ahead of who came to it later", () =>
    Effect.gen(function*() {
      const line = yield* make
      yield* line.enter("batch", { priority: "batch" })
      yield* TestClock.adjust(30_001)
      yield* line.enter("default")
      yield* drain(line, 2)
      assert.deepStrictEqual(line.served, ["batch", "default"])
    }))

  it.effect("S7 critical is next, behind whomever it came", () =>
    Effect.gen(function*() {
      const line = yield* make
      for (let i = 0; i < 10; i++) yield* line.enter(`batch ${i}`, { priority: "batch", tenant: `tenant ${i}` })
      yield* line.enter("critical", { priority: "critical" })
      yield* drain(line, 2)
      assert.deepStrictEqual(line.served, ["critical", "batch 0"])
    }))

  it.effect("who is interrupted leaves, and costs its tenant no turn", () =>
    Effect.gen(function*() {
      const line = yield* make
      const x1 = yield* line.enter("x1", { tenant: "x" })
      for (const [name, tenant] of [["y1", "y"], ["x2", "x"], ["y2", "y"]] as const) yield* line.enter(name, { tenant })
      x1.interruptUnsafe()
      yield* calm
      yield* drain(line, 3)
      assert.deepStrictEqual(line.served, ["x2", "y1", "y2"])
    }))
})

describe("a full line", () => {
  it.effect("makes room for a tenant that has fewer in it, and for nobody who is more urgent or of the same tenant", () =>
    Effect.gen(function*() {
      const bulkhead = yield* Bulkhead.make({ maxConcurrent: 1, queue: 3 })
      const permit = yield* bulkhead.acquire()
      const limiter = yield* RateLimiter.make({ capacity: 1, refillPerSecond: 0.1, queue: 3, maxWait: Infinity })
      const taken = yield* limiter.acquire(1)
      type Refusal = { readonly _tag: string }
      type Displaces = (rank: Rank) => boolean
      const ways: ReadonlyArray<readonly [string, (rank: Rank) => Effect.Effect<unknown, Refusal>, Displaces]> = [
        ["BulkheadFull", bulkhead.acquire, (rank) => bulkhead.lineUnsafe(rank, 0).displaces()],
        ["RateLimited", (rank) => limiter.acquire(1, rank), (rank) => limiter.lineUnsafe(0, rank).displaces()]
      ]
      for (const [full, acquire, displaces] of ways) {
        const told: Array<string> = []
        const enter = (name: string, tenant: string, priority: Priority = "default") =>
          start(Effect.matchEffect(acquire({ tenant, priority }), {
            onSuccess: () => Effect.sync(() => told.push(`${name} served`)),
            onFailure: ({ _tag }) => Effect.sync(() => told.push(`${name} ${_tag}`))
          }))
        for (const name of ["x1", "x2", "x3"]) yield* enter(name, "x")
        assert.deepStrictEqual([displaces({ tenant: "x" }), displaces({ tenant: "y" })], [false, true])
        yield* enter("x4", "x")
        yield* calm
        assert.deepStrictEqual(told, [`x4 ${full}`])
        // Not for one that is less urgent.
        yield* enter("z1", "z", "batch")
        yield* enter("y1", "y")
        yield* calm
        assert.deepStrictEqual(told.slice(1), [`z1 ${full}`, `x3 ${full}`])
        // x has two, y would have two.
        yield* enter("y2", "y")
        yield* calm
        assert.deepStrictEqual(told.slice(3), [`y2 ${full}`])
      }
      yield* permit.release
      yield* taken.refund("all")
    }))
})

describe("a line of the limiter with priorities", () => {
  it.effect("an urgent arrival is told when it can go, and makes too late who is behind it", () =>
    Effect.gen(function*() {
      const limiter = yield* RateLimiter.make({ capacity: 1, refillPerSecond: 1, maxWait: 3000 })
      yield* limiter.acquire(1)
      const told: Array<unknown> = []
      const enter = (name: string, priority: Priority, maxWait = 3000) =>
        start(Effect.matchEffect(limiter.acquire(1, { priority, maxWait }), {
          onSuccess: () => Effect.map(now, (at) => told.push([name, at])),
          onFailure: (error) =>
            Effect.map(
              now,
              (at) =>
                told.push([name, at, error._tag === "RateLimited" ? Duration.toMillis(error.retryAfter) : error._tag])
            )
        }))
      for (const name of ["a", "b", "c"]) yield* enter(name, "batch")
      // The fourth second is too late.
      yield* enter("d", "batch")
      // Not behind the three of them, and the last of those will be too late now.
      yield* enter("urgent", "critical", 1000)
      yield* calm
      assert.deepStrictEqual(told, [["d", 0, 4000], ["c", 0, 4000]])
      yield* TestClock.adjust(5000)
      assert.deepStrictEqual(told.slice(2), [["urgent", 1000], ["a", 2000], ["b", 3000]])
    }))

  describe("tells at once who will be too late", () => {
    /** An empty bucket of a request a second, and a full one; what becomes of those who enter, and when. */
    const empty = Effect.fnUntraced(function*(queue = 3) {
      const limiter = yield* RateLimiter.make({
        limits: [{ dimension: "requests", limit: 5, per: "5 seconds" }, {
          dimension: "tokens",
          limit: 9,
          per: "1 second"
        }],
        maxWait: Infinity,
        queue
      })
      const taken = yield* limiter.acquire(5)
      const told: Array<readonly [name: string, at: number, refused?: number]> = []
      const enter = (
        name: string,
        options: RateLimiter.AcquireOptions = {},
        cost: RateLimiter.Cost = 1
      ) =>
        Effect.tap(
          start(Effect.matchEffect(limiter.acquire(cost, options), {
            onSuccess: () => Effect.map(now, (at) => void told.push([name, at])),
            onFailure: (error) =>
              Effect.map(
                now,
                (at) =>
                  void told.push([name, at, error._tag === "RateLimited" ? Duration.toMillis(error.retryAfter) : -1])
              )
          })),
          () => calm
        )
      return { taken, enter, told }
    })
    const urgent = { priority: "critical" } as const

    it.effect("behind an urgent one that is not first itself", () =>
      Effect.gen(function*() {
        const { enter, told } = yield* empty()
        yield* enter("first", urgent)
        yield* enter("late", { maxWait: 2000 })
        yield* enter("second", urgent)
        assert.deepStrictEqual(told, [["late", 0, 3000]])
      }))

    it.effect("by a millisecond", () =>
      Effect.gen(function*() {
        const { enter, told } = yield* empty()
        yield* enter("late", { maxWait: 1999 })
        yield* enter("urgent", urgent)
        assert.deepStrictEqual(told, [["late", 0, 2000]])
      }))

    it.effect("when somebody leaves, whose tenant has its turn earlier then", () =>
      Effect.gen(function*() {
        const { enter, told } = yield* empty()
        const leaves = yield* enter("x1", { tenant: "x" })
        yield* enter("y1", { tenant: "y", maxWait: 2500 })
        yield* enter("x2", { tenant: "x" }, 4)
        assert.deepStrictEqual(told, [])
        yield* Fiber.interrupt(leaves)
        yield* calm
        assert.deepStrictEqual(told, [["y1", 0, 5000]])
      }))

    it.effect("when somebody rises, who came before", () =>
      Effect.gen(function*() {
        const limiter = yield* RateLimiter.make({ capacity: 4, refillPerSecond: 0.1, maxWait: Infinity })
        yield* limiter.acquire(4)
        yield* start(limiter.acquire(4, { priority: "batch" }))
        yield* TestClock.adjust("10 seconds")
        const late = yield* start(Effect.exit(limiter.acquire(4, { maxWait: 31_000 })))
        yield* TestClock.adjust(19_999)
        assert.isUndefined(late.pollUnsafe())
        yield* TestClock.adjust(1)
        yield* calm
        assert.isDefined(late.pollUnsafe())
      }))

    it.effect("when one leaves for another tenant, which has its turn before", () =>
      Effect.gen(function*() {
        const { enter, told } = yield* empty()
        yield* enter("x1", { tenant: "x" })
        yield* enter("x2", { tenant: "x", maxWait: 2000 })
        yield* enter("x3", { tenant: "x" })
        yield* enter("y1", { tenant: "y" })
        assert.deepStrictEqual(told.map(([name]) => name), ["x3", "x2"])
        assert.deepStrictEqual(told[1], ["x2", 0, 3000])
      }))

    it.effect("an arrival behind all who are more urgent, also after one of them has left", () =>
      Effect.gen(function*() {
        const { enter, told } = yield* empty()
        const leaves = yield* enter("leaves", urgent)
        yield* enter("a", urgent)
        yield* enter("b", urgent)
        yield* Fiber.interrupt(leaves)
        yield* calm
        // Also who needs nothing of what the others wait for.
        const tokens = { requests: 0, tokens: 1 }
        yield* enter("one", { priority: "sheddable", maxWait: 1999 }, tokens)
        yield* enter("two", { priority: "sheddable", maxWait: 2500 })
        yield* enter("c", urgent)
        yield* enter("three", { priority: "sheddable", maxWait: 2000 }, tokens)
        assert.deepStrictEqual(told, [["one", 0, 2000], ["two", 0, 3000], ["three", 0, 3000]])
      }))

    it.effect("a full line is planned as it stands, without those who have left", () =>
      Effect.gen(function*() {
        const { enter, told } = yield* empty()
        const leaves = yield* enter("a")
        for (const name of ["b", "c"]) yield* enter(name)
        yield* Fiber.interrupt(leaves)
        yield* calm
        yield* enter("d")
        yield* enter("one too many")
        assert.deepStrictEqual(told, [["one too many", 0, 4000]])
      }))

    it.effect("a full line is planned with what has come back", () =>
      Effect.gen(function*() {
        const { enter, taken, told } = yield* empty()
        for (const name of ["a", "b", "c"]) yield* enter(name)
        yield* taken.settle(4.5)
        yield* enter("one too many")
        assert.deepStrictEqual(told, [["one too many", 0, 3500]])
      }))

    it.effect("who is behind one that is refused, whose tenant has its turn earlier then", () =>
      Effect.gen(function*() {
        const { enter, told } = yield* empty(4)
        yield* enter("x1", { tenant: "x", maxWait: 2000 })
        yield* enter("y1", { tenant: "y", maxWait: 4100 })
        yield* enter("x2", { tenant: "x" }, 4)
        // x1 would come after three seconds now; without it x2 comes before y1.
        yield* enter("urgent", urgent, 2)
        assert.deepStrictEqual(told, [["x1", 0, 3000], ["y1", 0, 7000]])
      }))
  })

  it.effect("a block makes too late whoever cannot wait, beside one who would wait for ever", () =>
    Effect.gen(function*() {
      const limiter = yield* RateLimiter.make({ capacity: 1, refillPerSecond: 1, maxWait: Infinity })
      yield* limiter.acquire(1)
      yield* start(limiter.acquire(1))
      yield* limiter.block(500)
      const short = yield* start(Effect.exit(limiter.acquire(1, { maxWait: 3000 })))
      yield* calm
      assert.isUndefined(short.pollUnsafe())
      yield* limiter.block(5000)
      yield* calm
      assert.isDefined(short.pollUnsafe())
      assert.strictEqual((yield* limiter.snapshot).queued, 1)
    }))

  it.effect("an urgent call that needs little goes at once, although the first one waits for much", () =>
    Effect.gen(function*() {
      const limiter = yield* RateLimiter.make({ capacity: 10, refillPerSecond: 1 })
      yield* limiter.acquire(8)
      const large = yield* start(limiter.acquire(10))
      const urgent = yield* start(limiter.acquire(1, { priority: "critical" }))
      yield* calm
      assert.isDefined(urgent.pollUnsafe())
      assert.isUndefined(large.pollUnsafe())
      yield* TestClock.adjust(9000)
      assert.isDefined(large.pollUnsafe())
    }))

  it.effect("nobody is refused for those who have left the line, nor told to wait for them", () =>
    Effect.gen(function*() {
      const limiter = yield* RateLimiter.make({ capacity: 1, refillPerSecond: 1, queue: 3, maxWait: "3 seconds" })
      const first = yield* limiter.acquire(1)
      const wait = start(limiter.acquire(1))
      const refused = Effect.map(
        Effect.flip(limiter.acquire(1)),
        (error) => error._tag === "RateLimited" && Duration.toMillis(error.retryAfter)
      )
      const [one, two, three] = yield* Effect.all([wait, wait, wait])
      assert.strictEqual(yield* refused, 4000)
      yield* Fiber.interrupt(two)
      const four = yield* wait
      assert.isUndefined(four.pollUnsafe())
      assert.strictEqual(yield* refused, 4000)
      yield* Fiber.interrupt(four)
      // A token comes back: the first has it, and all others have their turn a second earlier.
      first.refundUnsafe("all")
      yield* calm
      assert.isDefined(one.pollUnsafe())
      const others = yield* Effect.all([wait, wait])
      assert.deepStrictEqual([three, ...others].map((fiber) => fiber.pollUnsafe()), [undefined, undefined, undefined])
      assert.strictEqual(yield* refused, 4000)
      for (const fiber of [three, ...others]) yield* Fiber.interrupt(fiber)
    }))
})
