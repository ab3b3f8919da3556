import { assert, describe, it } from "@effect/vitest"
import { Duration, Effect, Exit, Fiber, Schema } from "effect"
import * as OutlierEjection from "effect-resilient-llm/resilience/OutlierEjection"
import { TestClock } from "effect/testing"
import { fork } from "../support.ts"

const names = (count: number) => Array.from({ length: count }, (_, i) => `h${i}`)
const make = (count: number, options?: OutlierEjection.Options) => OutlierEjection.make(names(count), options)
const out = <H>(rotation: OutlierEjection.Rotation<H>) =>
  Effect.map(rotation.status, (all) => all.filter(({ ejectedFor }) => ejectedFor !== undefined).map(({ host }) => host))
const fail = <H>(rotation: OutlierEjection.Rotation<H>, index: number, times: number, now = 0) => {
  for (let i = 0; i < times; i++) rotation.recordUnsafe(index, true, now)
}

describe("ejection", () => {
  it.effect.each<[number, number, number]>([[5, 50, 2], [3, 50, 1], [2, 50, 1], [1, 50, 0], [3, 67, 2]])(
    "F11 %i hosts, at most %i percent: all fail 5 times",
    ([hosts, maxEjectedPercent, expected]) =>
      Effect.gen(function*() {
        const rotation = yield* make(hosts, { maxEjectedPercent })
        for (let i = 0; i < hosts; i++) fail(rotation, i, 5)
        assert.strictEqual((yield* out(rotation)).length, expected)
      })
  )

  it.effect("F12 repeated ejections 1, 2, 3, 9, 10, 11: 30, 60, 90, 270, 300, 300 s", () =>
    Effect.gen(function*() {
      const rotation = yield* make(2)
      const lengths: Array<number> = []
      let now = 0
      for (let n = 1; n <= 11; n++) {
        fail(rotation, 0, 5, now)
        const [status] = yield* rotation.status
        const length = Duration.toMillis(status!.ejectedFor!)
        lengths.push(length)
        yield* TestClock.adjust(length)
        now += length
      }
      assert.deepStrictEqual([1, 2, 3, 9, 10, 11].map((n) => lengths[n - 1]! / 1000), [30, 60, 90, 270, 300, 300])
    }))

  it.effect("out until exactly the end of the ejection", () =>
    Effect.gen(function*() {
      const rotation = yield* make(2, { consecutiveFailures: 1, baseEjection: 1000 })
      fail(rotation, 0, 1)
      assert.deepStrictEqual([rotation.selectUnsafe(999), rotation.selectUnsafe(999)], [1, 1])
      assert.strictEqual(rotation.selectUnsafe(1000), 0)
    }))

  it.effect("one ejection is forgiven per interval in rotation, exactly at its end", () =>
    Effect.gen(function*() {
      const policy = OutlierEjection.policy({ consecutiveFailures: 1, baseEjection: 1000, forgiveAfter: 100 })
      const host = { streak: 0, ejections: 3, until: 5000 }
      const at = (now: number) => OutlierEjection.ejections(policy, host, now)
      assert.deepStrictEqual([4999, 5000, 5099, 5100, 5199, 5200, 5300, 9000].map(at), [3, 3, 3, 2, 2, 1, 0, 0])
      assert.strictEqual(OutlierEjection.record(policy, host, true, true, 5100).until, 5100 + 3000)
      yield* Effect.void
    }))

  it("an endless interval forgives nothing, and holds nothing against a fresh host", () => {
    const policy = OutlierEjection.policy({ consecutiveFailures: 1, forgiveAfter: Infinity })
    assert.strictEqual(OutlierEjection.ejections(policy, OutlierEjection.fresh, 0), 0)
    const once = OutlierEjection.record(policy, OutlierEjection.fresh, true, true, 0)
    assert.strictEqual(OutlierEjection.ejections(policy, once, 1e12), 1)
  })

  it.effect("a success ends the streak", () =>
    Effect.gen(function*() {
      const rotation = yield* make(2)
      fail(rotation, 0, 4)
      rotation.recordUnsafe(0, false, 0)
      fail(rotation, 0, 4)
      assert.deepStrictEqual(yield* out(rotation), [])
      fail(rotation, 0, 1)
      assert.deepStrictEqual(yield* out(rotation), ["h0"])
    }))

  it.effect("who may not go for lack of room goes with its next failure once there is room", () =>
    Effect.gen(function*() {
      const rotation = yield* make(3, { baseEjection: 1000 })
      fail(rotation, 0, 5)
      fail(rotation, 1, 5)
      assert.deepStrictEqual(yield* out(rotation), ["h0"])
      yield* TestClock.adjust(1000)
      assert.deepStrictEqual(yield* out(rotation), [])
      fail(rotation, 1, 1, 1000)
      assert.deepStrictEqual(yield* out(rotation), ["h1"])
    }))
})

describe("bugs other projects shipped", () => {
  it.effect("envoy#3263 #26877 PR#27909 three hosts at 50 %: one goes, not two", () =>
    Effect.gen(function*() {
      const rotation = yield* make(3)
      for (const i of [0, 1, 2]) fail(rotation, i, 5)
      assert.deepStrictEqual(yield* out(rotation), ["h0"])
    }))

  it.effect("envoy#27066 three hosts at 67 %: two go, not all", () =>
    Effect.gen(function*() {
      const rotation = yield* make(3, { maxEjectedPercent: 67 })
      for (const i of [0, 1, 2]) fail(rotation, i, 50)
      assert.deepStrictEqual(yield* out(rotation), ["h0", "h1"])
    }))

  it.effect("envoy#2671 PR#34796 a single host stays, also at 100 %, and also when a share below one is allowed", () =>
    Effect.gen(function*() {
      const single = yield* make(1, { maxEjectedPercent: 100 })
      fail(single, 0, 50)
      assert.deepStrictEqual(yield* out(single), [])
      assert.strictEqual(single.selectUnsafe(0), 0)
      // 10 % of three hosts is none: the share is a bound and not a hint.
      const three = yield* make(3, { maxEjectedPercent: 10 })
      for (const i of [0, 1, 2]) fail(three, i, 50)
      assert.deepStrictEqual(yield* out(three), [])
    }))

  it.effect("of all hosts one stays, also when it is known not to serve; to be taken out twice is to be taken out once", () =>
    Effect.gen(function*() {
      const rotation = yield* make(2)
      rotation.ejectUnsafe(0, 0)
      rotation.ejectUnsafe(0, 10_000)
      rotation.ejectUnsafe(1, 10_000)
      const [first, last] = yield* rotation.status
      assert.deepStrictEqual(first?.ejectedFor, Duration.seconds(30))
      assert.isUndefined(last?.ejectedFor)
    }))

  it.effect("envoy#26758 the time grows when a host fails again at once", () =>
    Effect.gen(function*() {
      const rotation = yield* make(2)
      fail(rotation, 0, 5)
      yield* TestClock.adjust("30 seconds")
      fail(rotation, 0, 5, 30_000)
      const [status] = yield* rotation.status
      assert.deepStrictEqual(status!.ejectedFor, Duration.seconds(60))
    }))

  it.effect("envoy#40697 back in rotation it begins with a clean streak, whatever late answers say", () =>
    Effect.gen(function*() {
      const rotation = yield* make(2)
      fail(rotation, 0, 5)
      fail(rotation, 0, 20, 29_999) // asked before it was ejected
      yield* TestClock.adjust("30 seconds")
      fail(rotation, 0, 4, 30_000)
      assert.deepStrictEqual(yield* out(rotation), [])
      const [status] = yield* rotation.status
      assert.deepStrictEqual({ ...status }, { host: "h0", streak: 4, ejections: 1, ejectedFor: undefined })
    }))
})

describe("use", () => {
  it.effect("asks in turn; only the failures of the host count", () =>
    Effect.gen(function*() {
      const rotation = yield* make(3)
      const asked: Array<string> = []
      yield* Effect.forEach([1, 2, 3, 4], () => rotation.use((host) => Effect.sync(() => asked.push(host))))
      assert.deepStrictEqual(asked, ["h0", "h1", "h2", "h0"])
      const one = yield* make(2, { consecutiveFailures: 1 })
      yield* Effect.exit(one.use(() => Effect.fail("mine"), () => "ignored"))
      yield* Effect.exit(one.use(() => Effect.die("bug")))
      const fiber = yield* fork(one.use(() => Effect.never))
      yield* Fiber.interrupt(fiber)
      assert.deepStrictEqual(yield* out(one), [])
      const exit = yield* Effect.exit(one.use(() => Effect.fail("its own")))
      assert.deepStrictEqual(exit, Exit.fail("its own"))
      assert.deepStrictEqual(yield* out(one), ["h1"])
    }))

  it.effect("what counts for nothing ends no streak either", () =>
    Effect.gen(function*() {
      const rotation = yield* make(2, { consecutiveFailures: 2 })
      const both = (run: Effect.Effect<unknown, string>) =>
        Effect.andThen(Effect.exit(rotation.use(() => run)), Effect.exit(rotation.use(() => run)))
      yield* both(Effect.fail("down"))
      yield* both(Effect.die("bug"))
      yield* both(Effect.interrupt)
      const mine = rotation.use(() => Effect.fail("mine"), () => "ignored")
      yield* Effect.exit(mine)
      yield* Effect.exit(mine)
      assert.deepStrictEqual((yield* rotation.status).map(({ streak }) => streak), [1, 1])
    }))

  it.effect.each<[OutlierEjection.Options, string]>([
    [{ consecutiveFailures: 0 }, "outlierEjection.consecutiveFailures"],
    [{ baseEjection: 0 }, "outlierEjection.baseEjection"],
    [{ maxEjection: 0 }, "outlierEjection.maxEjection"],
    [{ maxEjection: "29 seconds" }, "outlierEjection.baseEjection"],
    [{ forgiveAfter: 0 }, "outlierEjection.forgiveAfter"],
    [{ maxEjectedPercent: 101 }, "outlierEjection.maxEjectedPercent"],
    [{ maxEjectedPercent: -1 }, "outlierEjection.maxEjectedPercent"],
    [{ hosts: 1 } as OutlierEjection.Options, "outlierEjection.hosts"]
  ])("refuses %o", ([options, path]) =>
    Effect.gen(function*() {
      assert.strictEqual((yield* Effect.flip(make(2, options))).path, path)
    }))

  it("a base above a given maximum is refused; above the default one it raises it", () => {
    const { maxEjection } = OutlierEjection.policy({ baseEjection: "10 minutes" })
    assert.strictEqual(maxEjection, 600_000)
    assert.strictEqual(
      OutlierEjection.policy({ baseEjection: "1 minute", maxEjection: "1 minute" }).maxEjection,
      60_000
    )
    assert.throws(
      () => OutlierEjection.policy({ baseEjection: "2 minutes", maxEjection: "1 minute" }),
      "\"outlierEjection.baseEjection\" must be at most maxEjection, 60000 ms"
    )
  })

  it.effect("refuses an empty list", () =>
    Effect.gen(function*() {
      const { kind, path, rule } = yield* Effect.flip(OutlierEjection.make([]))
      assert.deepStrictEqual([path, rule, kind], ["hosts", "at least one host", "an empty array"])
    }))
})

// What Envoy's documentation says, by the simplest means: counts over the whole history of a host.
class Model {
  readonly hosts: Array<{ streak: number; n: number; until: number }>
  readonly share: number
  constructor(count: number, share: number) {
    this.hosts = Array.from({ length: count }, () => ({ streak: 0, n: 0, until: -1 }))
    this.share = share
  }
  isOut = (i: number, now: number): boolean => this.hosts[i]!.until > now
  record(i: number, isFailure: boolean, now: number): void {
    const host = this.hosts[i]!
    if (this.isOut(i, now)) return
    host.streak = isFailure ? host.streak + 1 : 0
    if (host.streak < 3) return
    const ejected = this.hosts.filter((_, k) => this.isOut(k, now)).length + 1
    if (ejected === this.hosts.length || ejected / this.hosts.length > this.share / 100) return
    for (let at = host.until + 100; host.n > 0 && at <= now; at += 100) host.n -= 1
    host.n += 1
    host.until = now + Math.min(200 * host.n, 1000)
    host.streak = 0
  }
}

const int = (minimum: number, maximum: number) => Schema.Int.check(Schema.isBetween({ minimum, maximum }))

const Step = Schema.Union([
  Schema.TaggedStruct("advance", { millis: int(0, 400) }),
  Schema.TaggedStruct("answers", { host: int(0, 30), isFailure: Schema.Boolean, times: int(1, 4) })
])

const History = Schema.Struct({
  hosts: int(1, 6),
  maxEjectedPercent: Schema.Literals([0, 34, 50, 67, 100]),
  steps: Schema.Array(Step).check(Schema.isMinLength(20), Schema.isMaxLength(60))
})

it.effect.prop(
  "agrees with the model over random histories; a share of the hosts always stays",
  { history: History },
  ({ history: { hosts: count, maxEjectedPercent, steps } }) =>
    Effect.sync(() => {
      const options = { consecutiveFailures: 3, baseEjection: 200, maxEjection: 1000, forgiveAfter: 100 }
      const policy = OutlierEjection.policy({ ...options, maxEjectedPercent })
      const rotation = OutlierEjection.fromPolicy(names(count), policy)
      const model = new Model(count, maxEjectedPercent)
      let now = 0
      for (const step of steps) {
        if (step._tag === "advance") now += step.millis
        else {
          const i = step.host % count
          for (let k = 0; k < step.times; k++) {
            rotation.recordUnsafe(i, step.isFailure, now)
            model.record(i, step.isFailure, now)
          }
        }
        const inside = new Set(Array.from({ length: count }, () => rotation.selectUnsafe(now)))
        const expected = names(count).flatMap((_, i) => model.isOut(i, now) ? [] : [i])
        assert.deepStrictEqual([...inside].toSorted((a, b) => a - b), expected)
        assert.isAtLeast(expected.length, Math.max(1, count * (1 - maxEjectedPercent / 100) - 1e-9))
      }
    }),
  { arbitrary: { runs: 300, seed: 1 } }
)
