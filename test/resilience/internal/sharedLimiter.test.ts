// What a limiter that shares its buckets asks its store, what it tells it and when, and what it does by itself. The store
// here writes down every question, and answers what the test says.
import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Fiber, Scheduler } from "effect"
import { Health, Store } from "effect-resilient-llm/persistence"
import { TestClock } from "effect/testing"
import type { LimitStore, Reserve, Reserved, Settle } from "../../../src/resilience/internal/buckets.ts"
import { SharedLimiter } from "../../../src/resilience/internal/sharedLimiter.ts"
import { fromPolicy, type Policy, type Reservation } from "../../../src/resilience/RateLimiter.ts"
import { journal } from "../RateLimiter.support.ts"
import { calm, now, start } from "../waiting.ts"

/** Ten requests and a thousand tokens; one request a second, and a hundred tokens. */
const small: Policy = {
  limits: [
    { dimension: "requests", limit: 10, burst: 10, rate: 0.001 },
    { dimension: "tokens", limit: 1000, burst: 1000, rate: 0.1 }
  ],
  perTenant: [],
  maxWait: 60_000,
  queue: 100,
  isShadow: false
}

const wide: Policy = { ...small, limits: [{ dimension: "requests", limit: 1000, burst: 1000, rate: 1 }] }

type Granted = Extract<Reserved, { readonly _tag: "Granted" }>

const granted = (more?: Partial<Granted>): Granted => ({
  _tag: "Granted",
  wait: 0,
  extra: 0,
  levels: [10, 1000],
  instances: undefined,
  ...more
})

const refused = (retryAfter: number, binding = 0): Reserved => ({
  _tag: "Refused",
  retryAfter,
  binding,
  levels: [0, 0],
  instances: undefined
})

const setup = (policy: Policy = small, more?: Partial<LimitStore>) =>
  Effect.gen(function*() {
    const asked: Array<Reserve> = []
    const told: Array<readonly [at: number, change: Omit<Settle, "key" | "limits">]> = []
    const locals: Array<Policy> = []
    const set: Array<readonly [string, number]> = []
    const does = {
      /** The next answers; afterwards the last one again. */
      answers: [Effect.succeed(granted())] as Array<Effect.Effect<Reserved, Store.StoreError>>,
      levels: [10, 1000],
      blockedFor: [0, 0],
      isAway: false
    }
    /** Which operations the health of the store was asked for. */
    const watched: Array<string> = []
    const scope = yield* Effect.scope
    const down = Effect.fail(new Store.StoreError({ operation: "reserve", reason: "down" }))
    const here = <A>(answer: () => Effect.Effect<A, Store.StoreError>) =>
      Effect.suspend((): Effect.Effect<A, Store.StoreError> => does.isAway ? down : answer())
    const health = Health.make({ name: "test", ping: here(() => Effect.void), scope })
    const store: LimitStore = {
      health: {
        ...health,
        ask: (operation, self, options) => {
          watched.push(operation)
          return health.ask(operation, self, options)
        }
      },
      reserve: (request) => {
        asked.push(request)
        return here(() => does.answers.length > 1 ? does.answers.shift()! : does.answers[0]!)
      },
      settle: ({ key, limits, ...change }) =>
        Effect.map(now, (at) => {
          assert.strictEqual(key, "k")
          assert.strictEqual(limits.length, policy.limits.length)
          told.push([at, change])
        }),
      snapshot: () => here(() => Effect.succeed({ levels: does.levels, blockedFor: does.blockedFor })),
      ...more
    }
    const limiter = new SharedLimiter({
      key: "k",
      policy,
      store,
      instance: "me",
      scope,
      context: yield* Effect.context(),
      clock: yield* Effect.clockWith(Effect.succeed),
      local: (policy) => {
        locals.push(policy)
        const local = fromPolicy(policy)
        const { setLimit } = local
        return Object.assign(local, {
          setLimit: (dimension: string, limit: number) => {
            set.push([dimension, limit])
            return setLimit(dimension, limit)
          }
        })
      }
    })
    /** Takes at once, without the store. */
    const tryIt = (cost: number | Readonly<Record<string, number>>): Effect.Effect<Reservation | undefined> =>
      Effect.clockWith((clock) => Effect.map(now, (at) => limiter.tryAcquireUnsafe(cost, clock, at)))
    const backs = () => told.map(([at, { back }]) => [at, back])
    return { limiter, watched, asked, told, backs, locals, set, does, tryIt, ...journal(limiter) }
  })

const forget = (list: Array<unknown>): void => {
  list.length = 0
}

it.effect("its health is asked for each operation under the name of that", () =>
  Effect.gen(function*() {
    const { limiter, watched } = yield* setup()
    yield* limiter.hello
    yield* limiter.acquire(1)
    yield* limiter.snapshot
    yield* limiter.block(1000)
    yield* TestClock.adjust(1)
    assert.deepStrictEqual(watched, ["reserve", "reserve", "snapshot", "settle"])
  }))

it.effect("a store without a health is back when it can say how full its buckets are", () =>
  Effect.gen(function*() {
    const { asked, does, limiter } = yield* setup(small, { health: undefined })
    does.isAway = true
    for (let i = 0; i < 4; i++) yield* limiter.acquire(1)
    assert.strictEqual(asked.length, 3, "three failures bring it down")
    yield* TestClock.adjust("5 seconds")
    yield* limiter.acquire(1)
    assert.strictEqual(asked.length, 3)
    does.isAway = false
    yield* TestClock.adjust("1 second")
    yield* limiter.acquire(1)
    assert.strictEqual(asked.length, 4)
  }))

describe("what is granted at once", () => {
  it.effect("what costs nothing goes without the store; anything else needs it, and nonsense is refused", () =>
    Effect.gen(function*() {
      const { asked, limiter, tryIt } = yield* setup()
      assert.isDefined(yield* tryIt(0))
      assert.isDefined(yield* tryIt({ requests: 0 }))
      assert.isUndefined(yield* tryIt(1))
      assert.isUndefined(yield* tryIt({ requests: 0, tokens: 1 }))
      assert.isUndefined(yield* tryIt(-1))
      assert.isUndefined(yield* tryIt({ tokens: NaN }))
      const error = yield* Effect.flip(limiter.acquire({ tokens: -1 }))
      assert.strictEqual(error._tag === "InvalidRequest" && error.path, "cost.tokens")
      assert.deepStrictEqual(asked, [])
    }))

  it.effect("what was taken along is spent without a trip, and no more than that", () =>
    Effect.gen(function*() {
      const { asked, does, limiter, tryIt } = yield* setup()
      does.answers = [Effect.succeed(granted({ extra: 2 }))]
      yield* limiter.acquire(1)
      assert.isDefined(yield* tryIt(1))
      assert.isUndefined(yield* tryIt(2))
      assert.isDefined(yield* tryIt(1))
      assert.isUndefined(yield* tryIt(1))
      assert.strictEqual(asked.length, 1)
    }))

  it.effect("nobody overtakes who stands in line, even with what is there", () =>
    Effect.gen(function*() {
      const { does, enter, limiter, tryIt } = yield* setup()
      does.answers = [Effect.succeed(granted({ extra: 2 })), Effect.never]
      yield* limiter.acquire(1)
      yield* enter("more than there is", 5)
      assert.isUndefined(yield* tryIt(1))
      assert.isDefined(yield* tryIt(0), "what costs nothing has nothing to wait for")
    }))

  it.effect("a rounding error keeps nobody waiting", () =>
    Effect.gen(function*() {
      const { limiter, tryIt } = yield* setup()
      const held = yield* limiter.acquire(1)
      held.settleUnsafe(5e-9)
      assert.isDefined(yield* tryIt(1))
    }))

  it.effect("a limiter is idle when nobody waits and nothing is to be told", () =>
    Effect.gen(function*() {
      const { does, enter, limiter, tryIt } = yield* setup()
      const isIdle = Effect.map(now, limiter.isIdleUnsafe)
      assert.isTrue(yield* isIdle)
      does.answers = [Effect.succeed(granted({ extra: 1 })), Effect.never]
      yield* limiter.acquire(1)
      assert.isFalse(yield* isIdle, "something is here")
      yield* tryIt(1)
      assert.isFalse(yield* isIdle, "it is looked at once more")
      yield* TestClock.adjust(400)
      assert.isTrue(yield* isIdle)
      const waiting = yield* enter("waits")
      assert.isFalse(yield* isIdle, "somebody waits")
      yield* Fiber.interrupt(waiting)
      assert.isTrue(yield* isIdle)
    }))

  it.effect("the line is those who wait for the store and those who were told a time", () =>
    Effect.gen(function*() {
      const { does, enter, limiter } = yield* setup()
      does.answers = [Effect.succeed(granted({ wait: 500 })), Effect.never]
      yield* enter("told a time")
      yield* enter("asks")
      yield* enter("stands in line")
      const line = limiter.lineUnsafe(yield* now)
      assert.strictEqual(line.queued, 3)
      assert.strictEqual(line.maxQueued, 100)
      assert.isFalse(line.displaces())
    }))
})

describe("a block", () => {
  it.effect("is told at once, of one dimension or of all, and five minutes are the most", () =>
    Effect.gen(function*() {
      const { limiter, told } = yield* setup()
      const blocked = (millis: number, dimension?: string) =>
        Effect.gen(function*() {
          yield* limiter.block(millis, dimension)
          yield* TestClock.adjust(0)
          const blocks = told.map(([, { block }]) => block)
          forget(told)
          return blocks
        })
      assert.deepStrictEqual(yield* blocked(1000, "requests"), [[1000, 0]])
      assert.deepStrictEqual(yield* blocked(2000, "tokens"), [[0, 2000]])
      assert.deepStrictEqual(yield* blocked(3000), [[3000, 3000]])
      assert.deepStrictEqual(yield* blocked(3000, "of another limiter"), [[3000, 3000]])
      assert.deepStrictEqual(yield* blocked(3_600_000), [[300_000, 300_000]])
    }))

  it.effect("of no time is none", () =>
    Effect.gen(function*() {
      const { limiter, told } = yield* setup()
      for (const millis of [0, -5, NaN]) {
        limiter.blockUnsafe(millis, yield* now, undefined)
        assert.isTrue(limiter.isIdleUnsafe(yield* now), `${millis}`)
      }
      yield* TestClock.adjust(300)
      assert.deepStrictEqual(told, [])
    }))

  it.effect("keeps what is here from being spent until its end, and a shorter one does not shorten it", () =>
    Effect.gen(function*() {
      const { does, limiter, tryIt } = yield* setup()
      does.answers = [Effect.succeed(granted({ extra: 2 }))]
      yield* limiter.acquire(1)
      yield* limiter.block(100, "tokens")
      assert.isDefined(yield* tryIt(1), "requests are not blocked")
      yield* limiter.block(100)
      yield* limiter.block(10)
      yield* TestClock.adjust(99)
      assert.isUndefined(yield* tryIt(1))
      yield* TestClock.adjust(1)
      assert.isDefined(yield* tryIt(1))
    }))
})

describe("setLimit", () => {
  it.effect("takes a dimension that has a limit, and a number above zero", () =>
    Effect.gen(function*() {
      const { limiter } = yield* setup()
      const wrong = (dimension: string, limit: number) =>
        Effect.map(Effect.flip(limiter.setLimit(dimension, limit)), ({ path, rule }) => [path, rule])
      assert.deepStrictEqual(yield* wrong("images", 5), ["dimension", "a dimension that has a limit"])
      for (const limit of [0, -1, NaN, Infinity]) {
        assert.deepStrictEqual(yield* wrong("requests", limit), ["limit", "a number above zero"])
      }
    }))

  it.effect("asks with a bucket that grows as the limit does; the others stay", () =>
    Effect.gen(function*() {
      const { asked, limiter } = yield* setup()
      yield* limiter.setLimit("tokens", 4000)
      yield* limiter.acquire(1)
      assert.deepStrictEqual(asked[0]!.limits, [
        { dimension: "requests", burst: 10, rate: 0.001 },
        { dimension: "tokens", burst: 4000, rate: 0.4 }
      ])
    }))

  it.effect("goes to the bucket of this process alone as its share", () =>
    Effect.gen(function*() {
      const { does, limiter, locals, set } = yield* setup()
      does.answers = [Effect.succeed(granted({ instances: 2 }))]
      yield* limiter.acquire(1)
      yield* limiter.setLimit("requests", 20)
      assert.deepStrictEqual(set, [], "it has none yet")
      does.isAway = true
      yield* limiter.snapshot
      assert.deepStrictEqual(locals.map(({ limits }) => limits[0]!.burst), [10])
      yield* limiter.setLimit("requests", 40)
      assert.deepStrictEqual(set, [["requests", 20]])
    }))
})

describe("snapshot", () => {
  it.effect("the store's levels and what lies here, the line, and the longest block", () =>
    Effect.gen(function*() {
      const { does, enter, limiter } = yield* setup()
      does.answers = [Effect.succeed(granted({ extra: 2 })), Effect.never]
      yield* limiter.acquire(1)
      yield* enter("waits", 5)
      does.levels = [4, 700]
      does.blockedFor = [20, 300]
      assert.deepStrictEqual(yield* limiter.snapshot, {
        levels: { requests: 6, tokens: 700 },
        queued: 1,
        maxQueued: 100,
        blockedFor: 300
      })
    }))

  it.effect("without the store: of the bucket of this process alone", () =>
    Effect.gen(function*() {
      const { does, limiter } = yield* setup()
      does.isAway = true
      assert.deepStrictEqual((yield* limiter.snapshot).levels, { requests: 10, tokens: 1000 })
    }))
})

describe("what is taken along", () => {
  /** The counts and costs that were asked for besides. */
  const along = ({ extra }: Reserve) => extra

  it.effect("as much as the own traffic needs for 50 ms, at the average cost, and nothing after a silence", () =>
    Effect.gen(function*() {
      const { asked, limiter } = yield* setup(wide)
      for (let i = 0; i < 21; i++) yield* limiter.acquire(4)
      assert.strictEqual(along(asked[8]!), undefined)
      assert.deepStrictEqual(along(asked[11]!), { count: 1, each: [4] })
      assert.deepStrictEqual(along(asked[20]!), { count: 2, each: [4] })
      yield* limiter.acquire(24)
      assert.deepStrictEqual(along(asked[21]!), { count: 2, each: [5] })
      yield* TestClock.adjust(500)
      yield* limiter.acquire(5)
      assert.strictEqual(along(asked[22]!), undefined)
    }))

  it.effect("what was spent without a trip counts, too", () =>
    Effect.gen(function*() {
      const { asked, does, limiter, tryIt } = yield* setup(wide)
      does.answers = [Effect.succeed(granted({ extra: 30 })), Effect.succeed(granted())]
      yield* limiter.acquire(1)
      for (let i = 0; i < 30; i++) assert.isDefined(yield* tryIt(1))
      yield* limiter.acquire(1)
      assert.deepStrictEqual(along(asked[1]!), { count: 3, each: [1] })
    }))

  it.effect("never more than a quarter of this process's part", () =>
    Effect.gen(function*() {
      const { asked, does, limiter } = yield* setup(wide)
      for (let i = 0; i < 52; i++) yield* limiter.acquire(100)
      assert.strictEqual(along(asked[51]!)?.count, 2)
      does.answers = [Effect.succeed(granted({ instances: 2 }))]
      for (let i = 0; i < 2; i++) yield* limiter.acquire(100)
      assert.strictEqual(along(asked[53]!)?.count, 1)
    }))

  it.effect("what those behind in line need, too", () =>
    Effect.gen(function*() {
      const { asked, does, enter, entries } = yield* setup()
      does.answers = [Effect.delay(Effect.succeed(granted()), 10), Effect.succeed(granted({ extra: 1 }))]
      for (const name of ["a", "b", "c"]) yield* enter(name)
      assert.strictEqual(along(asked[0]!), undefined)
      yield* TestClock.adjust(10)
      assert.deepStrictEqual(along(asked[1]!), { count: 1, each: [1, 0] })
      assert.deepStrictEqual(entries, [["a", 10], ["b", 10], ["c", 10]])
      assert.strictEqual(asked.length, 2)
    }))

  it.effect("goes back when nobody has used it for 200 ms", () =>
    Effect.gen(function*() {
      const { backs, does, limiter, tryIt } = yield* setup()
      does.answers = [Effect.succeed(granted({ extra: 2 }))]
      yield* limiter.acquire(1)
      yield* TestClock.adjust(150)
      assert.isDefined(yield* tryIt(1))
      yield* TestClock.adjust(199)
      assert.deepStrictEqual(backs(), [])
      yield* TestClock.adjust(1)
      assert.deepStrictEqual(backs(), [[350, [1, 0]]])
      yield* TestClock.adjust(1000)
      assert.strictEqual(backs().length, 1)
    }))

  it.effect("when it is spent before that nothing is looked at again", () =>
    Effect.gen(function*() {
      const { backs, does, limiter, tryIt } = yield* setup(wide)
      does.answers = [Effect.succeed(granted({ extra: 2 }))]
      yield* limiter.acquire(1)
      yield* TestClock.adjust(100)
      for (let i = 0; i < 2; i++) assert.isDefined(yield* tryIt(1))
      yield* TestClock.adjust(100)
      assert.isTrue(limiter.isIdleUnsafe(yield* now))
      yield* limiter.acquire(1)
      yield* TestClock.adjust(100)
      assert.isDefined(yield* tryIt(1))
      yield* TestClock.adjust(200)
      assert.deepStrictEqual(backs(), [[500, [1]]])
    }))

  it.effect("stays as long when something else was told meanwhile", () =>
    Effect.gen(function*() {
      const { does, limiter, told, tryIt } = yield* setup()
      does.answers = [Effect.succeed(granted({ extra: 2 }))]
      yield* limiter.acquire(1)
      yield* limiter.block(1000, "tokens")
      yield* TestClock.adjust(150)
      assert.isDefined(yield* tryIt(1))
      yield* TestClock.adjust(1000)
      assert.deepStrictEqual(told.map(([at, { back }]) => [at, back]), [[0, [0, 0]], [350, [1, 0]]])
    }))

  it.effect("goes back when the process ends, and then nothing is told twice", () =>
    Effect.gen(function*() {
      const { backs, does, limiter } = yield* setup()
      does.answers = [Effect.succeed(granted({ extra: 2 }))]
      yield* limiter.acquire(1)
      yield* limiter.leave
      yield* limiter.leave
      yield* TestClock.adjust(1000)
      assert.deepStrictEqual(backs(), [[0, [2, 0]]])
    }))
})

describe("what is settled", () => {
  it.effect("a part that can be used here goes back only when nobody needs it", () =>
    Effect.gen(function*() {
      const { backs, limiter } = yield* setup()
      const held = yield* limiter.acquire(2)
      held.settleUnsafe(1)
      yield* TestClock.adjust(199)
      assert.deepStrictEqual(backs(), [])
      yield* TestClock.adjust(1)
      assert.deepStrictEqual(backs(), [[200, [1, 0]]])
    }))

  it.effect("what is owed is paid after 50 ms", () =>
    Effect.gen(function*() {
      const { backs, limiter } = yield* setup()
      const held = yield* limiter.acquire(1)
      held.settleUnsafe(3)
      yield* TestClock.adjust(1000)
      assert.deepStrictEqual(backs(), [[50, [-2, 0]]])
    }))

  it.effect("what was granted for nothing, and cost something, is owed", () =>
    Effect.gen(function*() {
      const { backs, tryIt } = yield* setup()
      const held = yield* tryIt(0)
      held!.settleUnsafe(2)
      yield* TestClock.adjust(1000)
      assert.deepStrictEqual(backs(), [[50, [-2, 0]]])
    }))

  it.effect("neither a further debt nor what is spent here delays what is owed", () =>
    Effect.gen(function*() {
      const { backs, limiter, tryIt } = yield* setup()
      const first = yield* limiter.acquire({ tokens: 100 })
      const second = yield* limiter.acquire({ tokens: 100 })
      const third = yield* limiter.acquire(3)
      third.settleUnsafe(1)
      first.settleUnsafe({ tokens: 150 })
      yield* TestClock.adjust(20)
      second.settleUnsafe({ tokens: 150 })
      assert.isDefined(yield* tryIt(1))
      yield* TestClock.adjust(30)
      assert.deepStrictEqual(backs(), [[50, [0, -100]]])
    }))

  it.effect.each<readonly [what: string, held: number, used: number, back: ReadonlyArray<readonly [number, number]>]>([
    ["what is more goes back after 50 ms, the rest when nobody has used it", 8, 0, [[50, 5.3], [250, 2.7]]],
    ["exactly as much stays until nobody has used it", 3, 0.5, [[200, 2.5]]]
  ])("of what a process may keep: %s", ([, held, used, back]) =>
    Effect.gen(function*() {
      const { limiter, told } = yield* setup()
      yield* limiter.acquire(1)
      const reservation = yield* limiter.acquire(held)
      reservation.settleUnsafe(used)
      yield* TestClock.adjust(1000)
      assert.deepStrictEqual(
        told.map(([at, { back }]) => [at, back!.map((amount) => Math.round(amount * 1e6) / 1e6)]),
        back.map(([at, requests]) => [at, [requests, 0]])
      )
    }))

  it.effect("a debt is told before what only lies here", () =>
    Effect.gen(function*() {
      const { backs, limiter } = yield* setup()
      const tokens = yield* limiter.acquire({ tokens: 100 })
      const more = yield* limiter.acquire({ tokens: 100 })
      tokens.settleUnsafe({ tokens: 60 })
      yield* TestClock.adjust(20)
      more.settleUnsafe({ tokens: 150 })
      yield* TestClock.adjust(1000)
      assert.deepStrictEqual(backs(), [[70, [0, -10]]])
    }))

  it.effect("a refund is of everything, or of all but the request, and counts once", () =>
    Effect.gen(function*() {
      const { backs, limiter } = yield* setup()
      const all = yield* limiter.acquire({ tokens: 100 })
      all.refundUnsafe("all")
      all.refundUnsafe("all")
      yield* TestClock.adjust(300)
      const tokens = yield* limiter.acquire({ tokens: 200 })
      tokens.refundUnsafe("tokens")
      tokens.settleUnsafe({ tokens: 0 })
      yield* TestClock.adjust(300)
      assert.deepStrictEqual(backs(), [[200, [1, 100]], [500, [0, 200]]])
    }))
})

describe("what a vendor says", () => {
  const observed = function*(policy?: Policy) {
    const made = yield* setup(policy)
    const says = (held: Reservation, remaining: number, more?: { dimension?: string; resetAfter?: number }) =>
      Effect.gen(function*() {
        held.observeUnsafe([{ dimension: "requests", remaining, ...more }])
        yield* TestClock.adjust(50)
        const levels = made.told.map(([, { atMost }]) => atMost)
        forget(made.told)
        return levels
      })
    return { ...made, says }
  }

  it.effect("before the store has said anything: it is compared with full buckets", () =>
    Effect.gen(function*() {
      const { says, tryIt } = yield* observed()
      const held = (yield* tryIt(0))!
      assert.deepStrictEqual(yield* says(held, 10), [])
      assert.deepStrictEqual(yield* says(held, 9), [[9, undefined]])
      assert.deepStrictEqual(yield* says(held, 900, { dimension: "tokens" }), [[undefined, 900]])
    }))

  it.effect("only what is less than the level that is known, which rises meanwhile, is told", () =>
    Effect.gen(function*() {
      const { does, limiter, says } = yield* observed()
      does.answers = [Effect.succeed(granted({ levels: [4, 1000] }))]
      yield* TestClock.adjust(5000)
      const held = yield* limiter.acquire(1)
      held.observeUnsafe([{ dimension: "requests", remaining: 4 }])
      assert.isTrue(limiter.isIdleUnsafe(yield* now), "nothing new")
      assert.deepStrictEqual(yield* says(held, 5), [])
      yield* TestClock.adjust(1950)
      assert.deepStrictEqual(yield* says(held, 7), [])
      assert.deepStrictEqual(yield* says(held, 5), [[5, undefined]])
      yield* TestClock.adjust(60_000)
      assert.deepStrictEqual(yield* says(held, 10), [], "a bucket is never more than full")
    }))

  it.effect("the answer of an earlier call says nothing any more, nor what is no number or of no limit", () =>
    Effect.gen(function*() {
      const { limiter, says } = yield* observed()
      const first = yield* limiter.acquire(1)
      const second = yield* limiter.acquire(1)
      assert.deepStrictEqual(yield* says(second, 5), [[5, undefined]])
      assert.deepStrictEqual(yield* says(first, 1), [])
      assert.deepStrictEqual(yield* says(second, NaN), [])
      assert.deepStrictEqual(yield* says(second, -1), [])
      assert.deepStrictEqual(yield* says(second, 1, { dimension: "images" }), [])
      assert.deepStrictEqual(yield* says(second, 3), [[3, undefined]])
    }))

  it.effect("what lies here is no more than what is left", () =>
    Effect.gen(function*() {
      const { does, limiter, tryIt } = yield* observed()
      does.answers = [Effect.succeed(granted({ extra: 2 }))]
      const held = yield* limiter.acquire(1)
      held.observeUnsafe([{ dimension: "requests", remaining: 1 }])
      assert.isDefined(yield* tryIt(1))
      assert.isUndefined(yield* tryIt(1))
    }))

  it.effect("nothing left, and a time: until then it is blocked", () =>
    Effect.gen(function*() {
      const { limiter, told } = yield* observed()
      const held = yield* limiter.acquire(1)
      held.observeUnsafe([{ dimension: "requests", remaining: 1, resetAfter: 500 }])
      held.observeUnsafe([{ dimension: "requests", remaining: 0 }])
      yield* TestClock.adjust(50)
      held.observeUnsafe([{ dimension: "tokens", remaining: 0, resetAfter: 500 }])
      yield* TestClock.adjust(50)
      assert.deepStrictEqual(told.map(([at, { atMost, block }]) => [at, atMost, block]), [
        [50, [0, undefined], [0, 0]],
        [50, [undefined, 0], [0, 500]]
      ])
    }))
})

describe("the line", () => {
  it.effect("who was told a time goes then, and knows how long it has waited", () =>
    Effect.gen(function*() {
      const { does, enter, entries, held, limiter, told } = yield* setup()
      assert.deepStrictEqual(limiter.dimensions, ["requests", "tokens"])
      does.answers = [Effect.succeed(granted({ wait: 300 }))]
      yield* TestClock.adjust(1000)
      yield* enter("a")
      yield* TestClock.adjust(299)
      assert.deepStrictEqual(entries, [])
      yield* TestClock.adjust(1)
      assert.deepStrictEqual(entries, [["a", 1300]])
      assert.strictEqual(held("a").waited, 300)
      assert.strictEqual(limiter.lineUnsafe(yield* now).queued, 0)
      assert.deepStrictEqual(told, [], "it keeps what it was promised")
    }))

  it.effect("the store learns how long each may still wait", () =>
    Effect.gen(function*() {
      const { asked, does, enter } = yield* setup({ ...small, maxWait: 500 })
      does.answers = [Effect.delay(Effect.succeed(granted()), 50), Effect.succeed(granted())]
      yield* enter("a")
      yield* enter("b", 1, { maxWait: 300 })
      yield* enter("c", 1, { maxWait: 20 })
      yield* TestClock.adjust(50)
      assert.deepStrictEqual(asked.map(({ maxWait }) => maxWait), [500, 250, 0])
    }))

  it.effect("when it is full the next one is refused until the latest time that somebody was told", () =>
    Effect.gen(function*() {
      const { asked, does, enter, entries } = yield* setup({ ...small, queue: 2 })
      does.answers = [Effect.succeed(granted({ wait: 3000 })), Effect.succeed(granted({ wait: 2000 }))]
      yield* enter("a")
      yield* enter("b")
      yield* TestClock.adjust(1000)
      yield* enter("c")
      assert.deepStrictEqual(entries, [["c", 1000, "requests", 2000]])
      assert.strictEqual(asked.length, 2)
    }))

  it.effect("when it is full and nobody was told a time yet, the next one may come at once", () =>
    Effect.gen(function*() {
      const { does, enter, entries } = yield* setup({ ...small, queue: 1 })
      does.answers = [Effect.never]
      yield* enter("a")
      yield* enter("b")
      assert.deepStrictEqual(entries, [["b", 0, "requests", 1]])
    }))

  it.effect("a refusal holds for who asks for no less and waits no longer, until its time", () =>
    Effect.gen(function*() {
      const { asked, does, enter, entries } = yield* setup()
      does.answers = [Effect.succeed(refused(500, 1))]
      yield* enter("a", { requests: 2, tokens: 5 }, { maxWait: 100 })
      assert.deepStrictEqual(entries.at(-1), ["a", 0, "tokens", 500])
      yield* TestClock.adjust(100)
      yield* enter("the same", { requests: 2, tokens: 5 }, { maxWait: 100 })
      assert.deepStrictEqual(entries.at(-1), ["the same", 100, "tokens", 400])
      yield* enter("more", { requests: 3, tokens: 6 }, { maxWait: 10 })
      assert.deepStrictEqual(entries.at(-1), ["more", 100, "tokens", 400])
      assert.strictEqual(asked.length, 1)
      does.answers = [Effect.succeed(granted())]
      yield* enter("less of one", { requests: 1, tokens: 6 }, { maxWait: 100 })
      yield* enter("waits longer", { requests: 2, tokens: 5 }, { maxWait: 101 })
      assert.strictEqual(asked.length, 3)
      yield* TestClock.adjust(299)
      yield* enter("too early", { requests: 2, tokens: 5 }, { maxWait: 100 })
      assert.strictEqual(asked.length, 3)
      yield* TestClock.adjust(1)
      yield* enter("in time", { requests: 2, tokens: 5 }, { maxWait: 100 })
      assert.strictEqual(asked.length, 4)
    }))

  it.effect("a refusal of the first one holds for those behind it who wait no longer", () =>
    Effect.gen(function*() {
      const { asked, does, enter, entries } = yield* setup()
      does.answers = [Effect.delay(Effect.succeed(refused(500)), 10), Effect.succeed(granted())]
      yield* enter("a", 1, { maxWait: 0 })
      yield* enter("as patient", 1, { maxWait: 0 })
      yield* enter("more patient", 1, { maxWait: 1000 })
      yield* TestClock.adjust(10)
      assert.deepStrictEqual(entries, [
        ["a", 10, "requests", 500],
        ["as patient", 10, "requests", 500],
        ["more patient", 10]
      ])
      assert.strictEqual(asked.length, 2)
    }))

  it.effect("who leaves the line is not asked for", () =>
    Effect.gen(function*() {
      const { asked, backs, does, enter, entries } = yield* setup()
      does.answers = [Effect.delay(Effect.succeed(granted()), 10), Effect.succeed(granted())]
      yield* enter("a")
      const leaving = yield* enter("b", 3)
      yield* enter("c", 2)
      yield* Fiber.interrupt(leaving)
      yield* TestClock.adjust(10)
      assert.deepStrictEqual(asked.map(({ costs }) => costs[0]), [1, 2])
      assert.deepStrictEqual(entries, [["a", 10], ["c", 10]])
      yield* TestClock.adjust(1000)
      assert.deepStrictEqual(backs(), [])
    }))

  it.effect("who leaves while it is asked for: what comes of it serves the next, or goes back with its time", () =>
    Effect.gen(function*() {
      const { asked, does, enter, entries, told } = yield* setup()
      does.answers = [
        Effect.delay(Effect.succeed(granted()), 10),
        Effect.delay(Effect.succeed(granted({ wait: 400 })), 10)
      ]
      const first = yield* enter("a", 2)
      yield* enter("b", 2)
      yield* Fiber.interrupt(first)
      yield* TestClock.adjust(10)
      assert.deepStrictEqual(entries, [["b", 10]])
      assert.strictEqual(asked.length, 1)
      const second = yield* enter("c", 3)
      yield* Fiber.interrupt(second)
      yield* TestClock.adjust(10)
      assert.deepStrictEqual(told, [[20, { back: [3, 0], early: 400 }]])
    }))

  it.effect("who was told a time and leaves before gives back what it was promised", () =>
    Effect.gen(function*() {
      const { does, enter, told } = yield* setup()
      does.answers = [Effect.succeed(granted({ wait: 400 }))]
      yield* TestClock.adjust(1000)
      const waiting = yield* enter("a", 3)
      yield* TestClock.adjust(100)
      yield* Fiber.interrupt(waiting)
      assert.deepStrictEqual(told, [[1100, { back: [3, 0], early: 300 }]])
    }))

  it.effect.each([{ wait: 0 }, { wait: 400 }])(
    "who leaves in the moment in which it is served gives back what it got; the store says a wait of $wait ms",
    ({ wait }) =>
      Effect.gen(function*() {
        // The fibre yields after every so many operations, and is interrupted so many turns later.
        for (let budget = 3; budget < 6; budget++) {
          for (let turns = 0; turns < 20; turns++) {
            const { asked, does, limiter, told } = yield* setup()
            does.answers = [Effect.succeed(granted({ wait }))]
            let isHeld = false
            const acquire = limiter.acquire(3, { onAcquired: () => isHeld = true })
            const fiber = yield* start(Effect.provideService(acquire, Scheduler.MaxOpsBeforeYield, budget))
            for (let i = 0; i < turns; i++) yield* Effect.yieldNow
            fiber.interruptUnsafe()
            yield* calm
            yield* TestClock.adjust(1000)
            const isBack = asked.length > 0 && !isHeld
            const what = told.map(([, { back, early = 0 }]) => [back, early])
            assert.deepStrictEqual(what, isBack ? [[[3, 0], wait]] : [], `${budget}, ${turns}`)
          }
        }
      })
  )
})

describe("the names of processes", () => {
  it.effect("a process names itself at first, and again after two seconds", () =>
    Effect.gen(function*() {
      const { asked, limiter } = yield* setup()
      const names = () => asked.map(({ instance }) => instance)
      yield* limiter.acquire(1)
      yield* limiter.acquire(1)
      yield* TestClock.adjust(1500)
      yield* limiter.acquire(1)
      yield* TestClock.adjust(499)
      yield* limiter.acquire(1)
      yield* TestClock.adjust(1)
      yield* limiter.acquire(1)
      assert.deepStrictEqual(names(), ["me", undefined, undefined, undefined, "me"])
    }))

  it.effect("hello takes nothing, and learns of the others and of the levels", () =>
    Effect.gen(function*() {
      const { asked, does, limiter, locals, told, tryIt } = yield* setup()
      does.answers = [Effect.succeed(granted({ instances: 5, levels: [2, 1000] })), Effect.succeed(granted())]
      yield* limiter.hello
      assert.deepStrictEqual(asked, [{
        key: "k",
        limits: small.limits.map(({ burst, dimension, rate }) => ({ burst, dimension, rate })),
        costs: [0, 0],
        maxWait: 0,
        instance: "me"
      }])
      const held = yield* tryIt(0)
      held!.observeUnsafe([{ dimension: "requests", remaining: 3 }])
      yield* TestClock.adjust(50)
      assert.deepStrictEqual(told, [], "the level is two")
      yield* limiter.acquire(1)
      assert.strictEqual(asked[1]!.instance, undefined, "it was named just now")
      does.isAway = true
      yield* limiter.snapshot
      assert.deepStrictEqual(locals[0]!.limits.map(({ burst }) => burst), [2, 200])
    }))

  it.effect("a hello that the store does not answer changes nothing", () =>
    Effect.gen(function*() {
      const { does, limiter } = yield* setup()
      does.isAway = true
      assert.isTrue(Exit.isSuccess(yield* Effect.exit(limiter.hello)))
      does.isAway = false
      does.answers = [Effect.succeed(granted({ instances: undefined }))]
      yield* limiter.hello
      does.isAway = true
      assert.deepStrictEqual((yield* limiter.snapshot).levels, { requests: 10, tokens: 1000 })
    }))
})

describe("without the store", () => {
  it.effect("a process has its part of what was left, and at least one request a second", () =>
    Effect.gen(function*() {
      const { does, limiter, locals } = yield* setup()
      does.answers = [Effect.succeed(granted({ instances: 2, levels: [4, 100] }))]
      yield* TestClock.adjust(1000)
      yield* limiter.acquire(1)
      does.isAway = true
      yield* TestClock.adjust(1000)
      assert.deepStrictEqual((yield* limiter.snapshot).levels, { requests: 2.5, tokens: 100 })
      assert.deepStrictEqual(locals.map(({ limits }) => limits.map(({ burst, rate }) => [burst, rate])), [
        [[5, 0.001], [500, 0.05]]
      ])
    }))

  it.effect("its bucket stays while the number of processes does, and is made anew for another", () =>
    Effect.gen(function*() {
      const { does, limiter, locals } = yield* setup()
      const bursts = () => locals.map(({ limits }) => limits[0]!.burst)
      for (const instances of [2, 2, undefined, 4, 0]) {
        does.answers = [Effect.succeed(granted({ instances }))]
        does.isAway = false
        yield* TestClock.adjust(2000)
        yield* limiter.acquire(1)
        does.isAway = true
        yield* limiter.snapshot
      }
      assert.deepStrictEqual(bursts(), [5, 2.5, 10])
    }))

  it.effect("what is blocked is blocked there, too", () =>
    Effect.gen(function*() {
      const { does, limiter } = yield* setup()
      yield* limiter.block(1000, "requests")
      does.isAway = true
      yield* TestClock.adjust(400)
      assert.strictEqual((yield* limiter.snapshot).blockedFor, 600)
      yield* limiter.block(2000)
      assert.strictEqual((yield* limiter.snapshot).blockedFor, 2000)
    }))

  it.effect("who has no patience left for stores does not ask, and what it takes is told", () =>
    Effect.gen(function*() {
      const { asked, backs, limiter } = yield* setup()
      yield* limiter.acquire(2, { patience: { left: 0 } })
      assert.deepStrictEqual(asked, [])
      yield* TestClock.adjust(1000)
      assert.deepStrictEqual(backs(), [[50, [-2, 0]]])
    }))

  it.effect("while the store is down nobody asks it, and what its own bucket gives is not owed", () =>
    Effect.gen(function*() {
      const { asked, does, limiter, told } = yield* setup()
      does.isAway = true
      for (let i = 0; i < 5; i++) yield* limiter.acquire(1)
      assert.strictEqual(asked.length, 3, "three failures bring it down")
      const owed = told.length
      yield* limiter.acquire(1, { patience: { left: 100 } })
      yield* TestClock.adjust(300)
      assert.strictEqual(asked.length, 3)
      assert.strictEqual(told.length, owed)
    }))

  it.effect("who gives up goes on alone; what comes of its question later is used here", () =>
    Effect.gen(function*() {
      const { backs, does, enter, entries, tryIt } = yield* setup()
      does.answers = [Effect.delay(Effect.succeed(granted()), 90)]
      yield* enter("a", 2, { patience: { left: 20 } })
      yield* TestClock.adjust(19)
      assert.deepStrictEqual(entries, [])
      yield* TestClock.adjust(1)
      assert.deepStrictEqual(entries, [["a", 20]])
      yield* TestClock.adjust(50)
      assert.deepStrictEqual(backs(), [[70, [-2, 0]]])
      yield* TestClock.adjust(20)
      assert.isDefined(yield* tryIt(2))
    }))

  it.effect("who is served, or leaves, draws on its patience no longer", () =>
    Effect.gen(function*() {
      const { does, enter, limiter } = yield* setup()
      const served = { left: 150 }
      yield* limiter.acquire(1, { patience: served })
      does.answers = [Effect.never]
      const left = { left: 150 }
      const fiber = yield* enter("leaves", 1, { patience: left })
      yield* Fiber.interrupt(fiber)
      yield* TestClock.adjust(200)
      assert.deepStrictEqual([served.left, left.left], [150, 150])
    }))

  it.effect("an answer that comes when nobody waits any more is given back, with what was taken along", () =>
    Effect.gen(function*() {
      const { does, enter, entries, told } = yield* setup(wide)
      const late = (answer: Reserved) => Effect.delay(Effect.succeed(answer), 150)
      does.answers = [late(granted({ wait: 30, extra: 2 })), late(refused(500))]
      yield* enter("a", 4)
      yield* TestClock.adjust(100)
      assert.deepStrictEqual(entries, [["a", 100]])
      yield* TestClock.adjust(50)
      assert.deepStrictEqual(told, [[150, { back: [12], early: 30 }]])
      yield* TestClock.adjust(2000)
      yield* enter("b", 4)
      yield* TestClock.adjust(1000)
      assert.strictEqual(told.length, 1)
    }))

  it.effect("it waits no longer there than it would have waited for the store", () =>
    Effect.gen(function*() {
      const { does, enter, entries } = yield* setup()
      does.answers = [Effect.never]
      yield* TestClock.adjust(1000)
      yield* enter("all", 10)
      yield* enter("b", 1, { maxWait: 900 })
      yield* enter("c", 1, { maxWait: 1200 })
      yield* TestClock.adjust(3000)
      assert.deepStrictEqual(entries.map(([name, at, refused]) => [name, at, refused]).toSorted(), [
        ["all", 1100, undefined],
        ["b", 1100, "requests"],
        ["c", 2100, undefined]
      ])
    }))
})
