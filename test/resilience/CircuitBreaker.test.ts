import { assert, describe, it } from "@effect/vitest"
import { Clock, Duration, Effect, Fiber, Ref, Stream } from "effect"
import * as CircuitBreaker from "effect-resilient-llm/resilience/CircuitBreaker"
import { TestClock } from "effect/testing"

// The vectors of SEMANTICS D, one test per row, then the bug threads that are not a row already.

const parameters: CircuitBreaker.Options = {
  failureThreshold: 5,
  failureRate: 0.5,
  minimumCalls: 10,
  window: "60 seconds",
  recoveryTimeout: "5 seconds",
  maxRecoveryTimeout: "60 seconds",
  maxRetryAfter: "300 seconds",
  halfOpenProbes: 2,
  successThreshold: 2,
  probeLease: "125 seconds"
}

const outcomes = { S: "success", F: "failure", I: "ignored" } as const

/** A breaker driven by hand: every step names its time. */
const setUp = (options?: CircuitBreaker.Options) =>
  Effect.gen(function*() {
    const changes: Array<string> = []
    const breaker = yield* CircuitBreaker.make({
      key: "p/m",
      ...parameters,
      ...options,
      onTransition: ({ from, now, to }) => changes.push(`${from} > ${to} @ ${now}`)
    })
    const admit = (now: number): CircuitBreaker.Permit => {
      const permit = breaker.admitUnsafe(now)
      return permit ?? assert.fail(`rejected at ${now}`)
    }
    return {
      breaker,
      changes,
      admit,
      state: () => Ref.getUnsafe(breaker.state),
      tag: () => Ref.getUnsafe(breaker.state)._tag,
      status: (now: number) => Effect.provideService(breaker.status, Clock.Clock, new ManualClock(now)),
      rejects: (now: number) => {
        assert.isTrue(breaker.isOpenUnsafe(now), `peek at ${now}`)
        assert.isUndefined(breaker.admitUnsafe(now), `admit at ${now}`)
      },
      /** Admits and settles one call per letter, all at `now`. */
      run: (script: string, now: number, details?: CircuitBreaker.Details) => {
        for (const letter of script) {
          breaker.recordUnsafe(admit(now), outcomes[letter as keyof typeof outcomes], now, details)
        }
      },
      until: () => {
        const state = Ref.getUnsafe(breaker.state)
        return state._tag === "Open" ? state.until : assert.fail(`${state._tag} is not Open`)
      }
    }
  })

/** Wall and monotonic time, set independently. */
class ManualClock implements Clock.Clock {
  mono: number
  wall: number
  constructor(mono: number, wall = mono) {
    this.mono = mono
    this.wall = wall
  }
  currentTimeMillisUnsafe = () => this.wall
  currentTimeNanosUnsafe = () => BigInt(this.wall) * 1_000_000n
  monotonicTimeNanosUnsafe = () => BigInt(this.mono) * 1_000_000n
  currentTimeMillis = Effect.sync(this.currentTimeMillisUnsafe)
  currentTimeNanos = Effect.sync(this.currentTimeNanosUnsafe)
  monotonicTimeNanos = Effect.sync(this.monotonicTimeNanosUnsafe)
  sleep = () => Effect.die("nothing here sleeps")
}

const opened = Effect.map(setUp(), (r) => {
  r.run("FFFFF", 0)
  assert.strictEqual(r.until(), 5000)
  return r
})

const probing = Effect.map(opened, (r) => ({ ...r, p1: r.admit(5000), p2: r.admit(5000) }))

/** An attempt that streams: admitted when it is opened, settled when it ends. */
const guarded = <A, E, R>(breaker: CircuitBreaker.CircuitBreaker, parts: Stream.Stream<A, E, R>) =>
  Stream.unwrap(Effect.gen(function*() {
    const clock = yield* Clock.clockWith(Effect.succeed)
    const now = () => Number(clock.monotonicTimeNanosUnsafe()) / 1e6
    const permit = breaker.admitUnsafe(now()) ?? assert.fail("rejected")
    return parts.pipe(
      Stream.tap(() => Effect.sync(() => breaker.renewUnsafe(permit, now()))),
      Stream.onExit((exit) =>
        Effect.sync(() =>
          breaker.recordUnsafe(
            permit,
            exit._tag === "Success"
              ? "success"
              : exit.cause.reasons.some((r) => r._tag === "Fail")
              ? "failure"
              : "ignored",
            now()
          )
        )
      )
    )
  }))

describe("CircuitBreaker", () => {
  describe("vectors: one script, one answer", () => {
    // [name, steps of [time, script, details?], state after each step]
    type Step = readonly [at: number, script: string, after: string, details?: CircuitBreaker.Details]
    const rows: ReadonlyArray<readonly [name: string, steps: ReadonlyArray<Step>, options?: CircuitBreaker.Options]> = [
      ["C1 a success ends the row, and 8/9 is too few calls", [[0, "FFFF", "Closed"], [0, "S", "Closed"], [
        0,
        "FFFF",
        "Closed"
      ]]],
      ["C1 the fifth failure in a row opens", [[0, "FFFF", "Closed"], [0, "F", "Open"]]],
      ["C2 half of ten opens", [[0, "SFSFSFSFS", "Closed"], [0, "F", "Open"]]],
      ["C3 a success never opens", [[0, "FSFSFSFSF", "Closed"], [0, "S", "Closed"], [0, "F", "Open"]]],
      ["C4 the window still holds all ten at 59 999", [[0, "SFSFSFSFS", "Closed"], [59_999, "F", "Open"]]],
      ["C4 the first bucket is out at 60 000", [[0, "SFSFSFSFS", "Closed"], [60_000, "F", "Closed"]]],
      ["C4 the first bucket is out at 60 000 as a whole", [[5999, "SFSFSFSFS", "Closed"], [60_000, "F", "Closed"]]],
      ["C4 the second bucket is not", [[6000, "SFSFSFSFS", "Closed"], [60_000, "F", "Open"]]],
      ["C12 ignored outcomes neither end the row nor count", [[0, "FFFF", "Closed"], [0, "IIIIII", "Closed"], [
        0,
        "F",
        "Open"
      ]]],
      ["C19 a row survives a silence of 60 000", [[0, "FFFF", "Closed"], [60_000, "F", "Open"]]],
      ["C19 a row ends after a silence of 60 001", [[0, "FFFF", "Closed"], [60_001, "F", "Closed"]]],
      [
        "C20 slow successes open at 8/10",
        [[0, "SS", "Closed", { duration: 30_000 }], [0, "SSSSSSS", "Closed", { duration: 30_001 }], [
          0,
          "S",
          "Open",
          { duration: 30_001 }
        ]],
        { slowCall: { duration: "30 seconds", rate: 0.8 } }
      ],
      ["C20 slow calls do not matter before there are enough to compare with", [[0, "SSSSSSSSSSSS", "Closed", {
        duration: 1e9
      }]]]
    ]
    it.effect.each(rows)("%s", ([, steps, options]) =>
      Effect.gen(function*() {
        const r = yield* setUp(options)
        for (const [at, script, after, details] of steps) {
          r.run(script, at, details)
          assert.strictEqual(r.tag(), after, `after ${script} at ${at}`)
        }
      }))
  })

  describe("vectors: probing", () => {
    it.effect("C4 one call is in the window after the bucket went", () =>
      Effect.gen(function*() {
        const r = yield* setUp()
        r.run("SFSFSFSFS", 5999)
        r.run("F", 60_000)
        assert.deepInclude(yield* r.status(60_000), { calls: 1, failures: 1, streak: 1 })
        assert.deepInclude(yield* r.status(120_000), { calls: 0, failures: 0 })
      }))

    it.effect("C5 rejects until the open time is over, then admits a probe", () =>
      Effect.gen(function*() {
        const r = yield* opened
        for (const [now, retryAfter] of [[0, 5000], [4999, 1], [4999.5, 1]] as const) {
          r.rejects(now)
          const error = r.breaker.rejectionUnsafe(now)()
          assert.deepStrictEqual([error.key, error.state, error.retryAfter], [
            "p/m",
            "open",
            Duration.millis(retryAfter)
          ])
        }
        assert.isFalse(r.breaker.isOpenUnsafe(5000))
        assert.strictEqual(r.tag(), "Open")
        r.admit(5000)
        assert.strictEqual(r.tag(), "HalfOpen")
        assert.deepStrictEqual(r.changes, ["closed > open @ 0", "open > half-open @ 5000"])
      }))

    it.effect("C6 two of five concurrent calls are probes", () =>
      Effect.gen(function*() {
        const r = yield* setUp()
        let calls = 0
        const call = Effect.suspend(() => (calls++, Effect.never)).pipe(r.breaker.protect)
        r.run("FFFFF", 0)
        yield* TestClock.adjust(5000)
        const fibers = yield* Effect.forEach(
          [1, 2, 3, 4, 5],
          () => Effect.forkChild(Effect.flip(call), { startImmediately: true })
        )
        const errors = yield* Effect.forEach(fibers.slice(2), Fiber.join)
        assert.strictEqual(calls, 2)
        assert.deepStrictEqual(errors.map((e) => [e._tag, e.state, e.retryAfter]), [
          ["CircuitOpen", "half-open", undefined],
          ["CircuitOpen", "half-open", undefined],
          ["CircuitOpen", "half-open", undefined]
        ])
        yield* Fiber.interruptAll(fibers)
        assert.strictEqual((yield* r.breaker.status).probes, 0)
      }))

    it.effect("C7 two successes close, with an empty window", () =>
      Effect.gen(function*() {
        const r = yield* probing
        r.breaker.recordUnsafe(r.p1, "success", 5100)
        assert.strictEqual(r.tag(), "HalfOpen")
        r.rejects(5100)
        r.breaker.recordUnsafe(r.p2, "success", 5200)
        assert.strictEqual(r.tag(), "Closed")
        assert.deepInclude(yield* r.status(5200), { calls: 0, failures: 0, streak: 0, probes: 0 })
        r.run("FFFF", 5200)
        assert.strictEqual(r.tag(), "Closed")
      }))

    it.effect("C8 a failure reopens for longer, and the other probe is stale", () =>
      Effect.gen(function*() {
        const r = yield* probing
        r.breaker.recordUnsafe(r.p1, "failure", 5100)
        assert.strictEqual(r.until(), 15_100)
        r.breaker.recordUnsafe(r.p2, "success", 5200)
        assert.strictEqual(r.until(), 15_100)
      }))

    it.effect("C9 an ignored outcome frees the slot for one new probe", () =>
      Effect.gen(function*() {
        const r = yield* probing
        r.rejects(5100)
        r.breaker.recordUnsafe(r.p1, "ignored", 5100)
        assert.strictEqual(r.tag(), "HalfOpen")
        r.admit(5100)
        r.rejects(5100)
      }))

    it.effect("C10 outcomes of calls from before the trip are stale", () =>
      Effect.gen(function*() {
        const r = yield* setUp()
        const x = r.admit(0)
        const y = r.admit(0)
        r.run("FFFFF", 0)
        const [p1, p2] = [r.admit(5000), r.admit(5000)]
        r.breaker.recordUnsafe(x, "success", 5001)
        assert.strictEqual(r.tag(), "HalfOpen")
        assert.deepInclude(yield* r.status(5001), { probes: 2 })
        r.breaker.recordUnsafe(p1, "success", 5002)
        r.breaker.recordUnsafe(p2, "success", 5003)
        assert.strictEqual(r.tag(), "Closed")
        r.breaker.recordUnsafe(y, "failure", 5004)
        assert.deepInclude(yield* r.status(5004), { state: "closed", calls: 0, streak: 0 })
      }))

    it.effect("C11 a probe that never settles loses its slot with its lease", () =>
      Effect.gen(function*() {
        const r = yield* probing
        r.rejects(129_999)
        const next = r.admit(130_000)
        for (const outcome of ["success", "failure", "ignored"] as const) {
          for (const permit of [{ ...r.p1 }, { ...r.p2 }]) r.breaker.recordUnsafe(permit, outcome, 130_001)
          assert.deepInclude(yield* r.status(130_001), { state: "half-open", probes: 1 })
        }
        r.breaker.recordUnsafe(next, "failure", 130_002)
        assert.strictEqual(r.tag(), "Open")
      }))

    it.effect("C11 an outcome is late at the end of the lease, even if nobody took the slot", () =>
      Effect.gen(function*() {
        const r = yield* probing
        r.breaker.recordUnsafe(r.p1, "failure", 130_000)
        assert.strictEqual(r.tag(), "HalfOpen")
        const s = yield* probing
        s.breaker.recordUnsafe(s.p1, "failure", 129_999)
        assert.strictEqual(s.tag(), "Open")
      }))

    it.effect("C11 a renewed lease counts from the renewal, and a lost slot stays lost", () =>
      Effect.gen(function*() {
        const r = yield* probing
        r.breaker.renewUnsafe(r.p1, 100_000)
        r.breaker.renewUnsafe(r.p2, 130_000)
        assert.deepInclude(yield* r.status(130_000), { probes: 1 })
        assert.deepInclude(yield* r.status(224_999), { probes: 1 })
        r.breaker.recordUnsafe(r.p2, "failure", 130_001)
        assert.strictEqual(r.tag(), "HalfOpen")
        r.breaker.recordUnsafe(r.p1, "failure", 224_999)
        assert.strictEqual(r.tag(), "Open")
        const s = yield* probing
        s.breaker.renewUnsafe(s.p1, 100_000)
        assert.deepInclude(yield* s.status(225_000), { probes: 0 })
      }))

    it.effect("C11 lost slots are not kept", () =>
      Effect.gen(function*() {
        const r = yield* probing
        r.admit(130_000)
        const state = r.state()
        assert.strictEqual(state._tag === "HalfOpen" ? state.slots.length : -1, 1)
      }))

    it.effect("C12 the window holds four calls before the last failure", () =>
      Effect.gen(function*() {
        const r = yield* setUp()
        r.run("FFFFIIIIII", 0)
        assert.deepInclude(yield* r.status(0), { calls: 4, failures: 4, streak: 4 })
      }))

    it.effect("C13 open times double up to the cap", () =>
      Effect.gen(function*() {
        const r = yield* setUp({ halfOpenProbes: 1, successThreshold: 1 })
        r.run("FFFFF", 0)
        const openings: Array<readonly [at: number, openFor: number]> = [[0, r.until()]]
        while (openings.length < 6) {
          const at = r.until()
          r.run("F", at)
          openings.push([at, r.until() - at])
        }
        assert.deepStrictEqual(openings, [[0, 5000], [5000, 10_000], [15_000, 20_000], [35_000, 40_000], [
          75_000,
          60_000
        ], [
          135_000,
          60_000
        ]])
      }))

    it.effect("C14 a hundred simultaneous failures are one transition", () =>
      Effect.gen(function*() {
        const r = yield* setUp()
        r.run("S".repeat(20), 0)
        const permits = Array.from({ length: 100 }, () => r.admit(10))
        const changed = permits.filter((permit) => {
          const before = r.state()
          r.breaker.recordUnsafe(permit, "failure", 20)
          return r.state() !== before
        })
        assert.deepStrictEqual(r.changes, ["closed > open @ 20"])
        assert.deepStrictEqual(changed, permits.slice(0, 5))
        assert.strictEqual(r.until(), 5020)
      }))

    it.effect.each([-3_600_000, 3_600_000])(
      "C15 a jump of the wall clock by %d ms changes nothing",
      (jump) =>
        Effect.gen(function*() {
          const clock = new ManualClock(0)
          const breaker = yield* CircuitBreaker.make({ key: "p/m", ...parameters })
          const call = (result: Effect.Effect<string, string>) =>
            result.pipe(breaker.protect, Effect.result, Effect.provideService(Clock.Clock, clock))
          for (let i = 0; i < 5; i++) yield* call(Effect.fail("F"))
          clock.mono = 1
          clock.wall = 1 + jump
          assert.strictEqual((yield* call(Effect.succeed("S")))._tag, "Failure")
          clock.mono = 4999
          assert.strictEqual((yield* call(Effect.succeed("S")))._tag, "Failure")
          clock.mono = 5000
          assert.strictEqual((yield* call(Effect.succeed("S")))._tag, "Success")
        })
    )

    it.effect("C16 an open time of zero probes each time, without recursion", () =>
      Effect.gen(function*() {
        const r = yield* setUp({ recoveryTimeout: 0, maxRecoveryTimeout: 0 })
        r.run("FFFFF", 0)
        for (let i = 0; i < 1000; i++) {
          const permit = r.admit(0)
          assert.isAbove(permit.slot, 0)
          r.breaker.recordUnsafe(permit, "failure", 0)
        }
        assert.strictEqual(r.changes.length, 1 + 2 * 1000)
        assert.strictEqual(r.until(), 0)
      }))

    it.effect.each([[9999, 19_999], [10_000, 15_000]] as const)(
      "C17 closed at 5000, tripped again at %d: open until %d",
      ([at, until]) =>
        Effect.gen(function*() {
          const r = yield* opened
          r.run("SS", 5000)
          assert.strictEqual(r.tag(), "Closed")
          r.run("FFFFF", at)
          assert.strictEqual(r.until(), until)
        })
    )

    it.effect.each([[42_000, 42_000], [3_600_000, 300_000], [1000, 5000], [NaN, 5000], [-1, 5000]] as const)(
      "C18 a hint of %d ms on the tripping failure: open until %d",
      ([retryAfter, until]) =>
        Effect.gen(function*() {
          const r = yield* setUp()
          r.run("FFFF", 0)
          r.run("F", 0, { retryAfter })
          assert.strictEqual(r.until(), until)
        })
    )

    it.effect("C18 a hint on a failed probe counts too, one on an earlier failure does not", () =>
      Effect.gen(function*() {
        const r = yield* setUp()
        r.run("FFFF", 0, { retryAfter: 99_000 })
        r.run("F", 0)
        assert.strictEqual(r.until(), 5000)
        r.run("F", 5000, { retryAfter: 42_000 })
        assert.strictEqual(r.until(), 47_000)
      }))

    it.effect("C20 a slow failure is slow too", () =>
      Effect.gen(function*() {
        const r = yield* setUp({ failureThreshold: false, failureRate: false, slowCall: { duration: 10, rate: 1 } })
        r.run("F".repeat(10), 0, { duration: 10 })
        assert.strictEqual(r.tag(), "Closed")
        r.run("F".repeat(9), 60_000, { duration: 11 })
        assert.strictEqual(r.tag(), "Closed")
        r.run("F", 60_000, { duration: 11 })
        assert.strictEqual(r.tag(), "Open")
      }))

    it.effect("C20 a slow probe reopens", () =>
      Effect.gen(function*() {
        const r = yield* setUp({ slowCall: { duration: "30 seconds" } })
        r.run("FFFFF", 0)
        r.run("S", 5000, { duration: 30_000 })
        assert.strictEqual(r.tag(), "HalfOpen")
        r.run("S", 5000, { duration: 30_001 })
        assert.strictEqual(r.until(), 15_000)
      }))

    const slow = { slowCall: { duration: "10 seconds", rate: 0.8 } } as const
    const admitAll = (r: Effect.Success<ReturnType<typeof setUp>>, count: number, at: number) =>
      Array.from({ length: count }, () => r.admit(at))

    it.effect("C24 ten calls that hang open when the threshold has passed, not when they end", () =>
      Effect.gen(function*() {
        const r = yield* setUp(slow)
        const calls = admitAll(r, 10, 0)
        assert.isFalse(r.breaker.isOpenUnsafe(10_000))
        r.rejects(10_001)
        assert.deepStrictEqual(r.changes, ["closed > open @ 10001"])
        assert.strictEqual(r.until(), 15_001)
        // Whoever looks later finds the same moment.
        const late = yield* setUp(slow)
        admitAll(late, 10, 0)
        const { retryAfter, ...counts } = yield* late.status(12_000)
        assert.deepStrictEqual(counts, { state: "open", calls: 0, failures: 0, streak: 0, probes: 0 })
        assert.deepStrictEqual(retryAfter, Duration.millis(3001))
        assert.strictEqual(late.until(), 15_001)
        // Whether it asks to be admitted, only wants to know how long it is, or forces the circuit.
        const admitting = yield* setUp(slow)
        admitAll(admitting, 10, 0)
        assert.isUndefined(admitting.breaker.admitUnsafe(12_000))
        const asking = yield* setUp(slow)
        admitAll(asking, 10, 0)
        assert.deepStrictEqual(asking.breaker.rejectionUnsafe(12_000)().retryAfter, Duration.millis(3001))
        const forcing = yield* setUp(slow)
        admitAll(forcing, 10, 0)
        yield* Effect.provideService(forcing.breaker.force("open"), Clock.Clock, new ManualClock(12_000))
        assert.deepStrictEqual(forcing.changes, ["closed > open @ 10001", "open > forced-open @ 12000"])
        // What becomes of them is of an older generation.
        for (const call of calls) r.breaker.recordUnsafe(call, "failure", 11_000)
        assert.deepStrictEqual(r.changes, ["closed > open @ 10001"])
      }))

    it.effect("C24 eight of ten are enough, seven are not; what was fast a minute ago hides nothing", () =>
      Effect.gen(function*() {
        const r = yield* setUp(slow)
        r.run("S".repeat(100), 0)
        admitAll(r, 7, 30_000)
        r.run("SSS", 40_001)
        assert.isFalse(r.breaker.isOpenUnsafe(40_002))
        const again = yield* setUp(slow)
        again.run("S".repeat(100), 0)
        again.run("S", 24_000)
        again.run("S", 30_000)
        admitAll(again, 8, 30_000)
        again.rejects(40_001)
      }))

    it.effect("C25 slow under way, then a success: one call in the window", () =>
      Effect.gen(function*() {
        const r = yield* setUp(slow)
        r.run("FFFF", 0)
        const call = r.admit(0)
        const { calls, streak } = yield* r.status(10_001)
        assert.deepStrictEqual([calls, streak], [5, 4])
        r.breaker.recordUnsafe(call, "success", 12_000, { duration: 12_000 })
        const after = yield* r.status(12_000)
        assert.deepStrictEqual([after.calls, after.failures, after.streak], [5, 4, 0])
        const state = r.state()
        const slowIn = state._tag === "Closed" ? [...state.older, state].map((bucket) => bucket.slow) : []
        assert.deepStrictEqual(slowIn, [0, 1, 0])
      }))

    it.effect("C25 slow under way, then a failure: one call, one failure, and one more in the row", () =>
      Effect.gen(function*() {
        const r = yield* setUp(slow)
        r.run("FFFF", 0)
        const call = r.admit(0)
        r.breaker.recordUnsafe(call, "failure", 12_000, { duration: 12_000 })
        assert.strictEqual(r.tag(), "Open")
        // It has left the window meanwhile: then it counts as what ends now.
        const long = yield* setUp({ ...slow, failureThreshold: false })
        const old = long.admit(0)
        assert.strictEqual((yield* long.status(10_001)).calls, 1)
        assert.strictEqual((yield* long.status(70_000)).calls, 0)
        long.breaker.recordUnsafe(old, "failure", 70_000, { duration: 70_000 })
        const { calls, failures } = yield* long.status(70_000)
        assert.deepStrictEqual([calls, failures], [1, 1])
      }))

    it.effect("C25 a failure of a call that was counted before stays in the window, in a bucket without calls", () =>
      Effect.gen(function*() {
        const r = yield* setUp({ ...slow, failureThreshold: false })
        const call = r.admit(0)
        assert.strictEqual((yield* r.status(10_001)).calls, 1)
        r.breaker.recordUnsafe(call, "failure", 12_000, { duration: 12_000 })
        r.run("S", 18_000)
        const { calls, failures } = yield* r.status(18_000)
        assert.deepStrictEqual([calls, failures], [2, 1])
      }))

    it.effect("C26 an ignored end does not take the mark back; below the threshold there is none", () =>
      Effect.gen(function*() {
        const r = yield* setUp(slow)
        const calls = admitAll(r, 2, 0)
        r.breaker.recordUnsafe(calls[0]!, "ignored", 10_000)
        assert.strictEqual((yield* r.status(10_000)).calls, 0)
        r.breaker.recordUnsafe(calls[1]!, "ignored", 10_001)
        assert.strictEqual((yield* r.status(10_001)).calls, 1)
        // Ten losers that were past it open.
        const losers = admitAll(r, 9, 10_001)
        for (const loser of losers) r.breaker.recordUnsafe(loser, "ignored", 20_002)
        assert.deepStrictEqual(r.changes, ["closed > open @ 20002"])
      }))

    it.effect("C24 a probe that hangs reopens; a stream that has begun to answer does not hang", () =>
      Effect.gen(function*() {
        const r = yield* setUp(slow)
        r.run("FFFFF", 0)
        r.admit(5000)
        r.rejects(15_001)
        assert.deepStrictEqual(r.changes.at(-1), "half-open > open @ 15001")
        assert.strictEqual(r.until(), 25_001, "for twice as long")
        const streams = yield* setUp(slow)
        for (const call of admitAll(streams, 20, 0)) streams.breaker.renewUnsafe(call, 9000)
        assert.isFalse(streams.breaker.isOpenUnsafe(100_000))
        // One that begins too late has been slow.
        const late = yield* setUp(slow)
        late.breaker.renewUnsafe(late.admit(0), 12_000)
        assert.strictEqual((yield* late.status(12_000)).calls, 1)
      }))

    it.effect("C24 measured: twice the 95th percentile of what succeeded, of each kind by itself", () =>
      Effect.gen(function*() {
        const r = yield* setUp({ slowCall: {} })
        const succeed = (kind: string, count: number, duration: number) => {
          for (let i = 0; i < count; i++) {
            r.breaker.recordUnsafe(r.breaker.admitUnsafe(0, kind)!, "success", 0, { duration })
          }
        }
        succeed("slow", 20, 40_000)
        succeed("fast", 20, 3000)
        succeed("few", 19, 1)
        const hang = (kind: string, at: number) => {
          for (let i = 0; i < 10; i++) r.breaker.admitUnsafe(at, kind)
        }
        hang("few", 100_000)
        hang("slow", 100_000)
        hang("fast", 180_000)
        assert.isFalse(r.breaker.isOpenUnsafe(180_000))
        r.rejects(180_001)
        assert.deepStrictEqual(r.changes, ["closed > open @ 180001"])
        // The least is five seconds.
        const quick = yield* setUp({ slowCall: {} })
        quick.run("S".repeat(20), 0, { duration: 10 })
        admitAll(quick, 10, 60_000)
        assert.isFalse(quick.breaker.isOpenUnsafe(65_000))
        quick.rejects(65_001)
      }))

    it.effect("C24 what fails teaches nothing about what is slow", () =>
      Effect.gen(function*() {
        const r = yield* setUp({ slowCall: {}, failureThreshold: false, failureRate: false })
        r.run("F".repeat(20), 0, { duration: 10 })
        admitAll(r, 10, 60_000)
        assert.isFalse(r.breaker.isOpenUnsafe(69_000))
      }))

    it.effect("C21 forced open rejects for ever; leaving the mode starts closed and empty", () =>
      Effect.gen(function*() {
        const r = yield* setUp()
        r.run("FFFF", 0)
        const before = r.admit(0)
        const alsoBefore = r.admit(0)
        yield* r.breaker.force("open")
        for (const now of [0, 5000, 36_000_000, Number.MAX_SAFE_INTEGER]) r.rejects(now)
        const error = r.breaker.rejectionUnsafe(36_000_000)()
        assert.deepStrictEqual([error.state, error.retryAfter], ["forced-open", undefined])
        r.breaker.recordUnsafe(before, "success", 1)
        assert.strictEqual((yield* r.breaker.status).state, "forced-open")
        yield* r.breaker.force("open")
        yield* r.breaker.force("auto")
        yield* r.breaker.force("auto")
        assert.deepInclude(yield* r.breaker.status, { state: "closed", calls: 0, streak: 0 })
        r.run("FFFF", 0)
        r.breaker.recordUnsafe(alsoBefore, "failure", 0)
        assert.strictEqual(r.tag(), "Closed", "a call from before the mode does not count after it")
        r.run("F", 0)
        assert.strictEqual(r.tag(), "Open")
        assert.deepStrictEqual(r.changes, ["closed > forced-open @ 0", "forced-open > closed @ 0", "closed > open @ 0"])
      }))

    it.effect("C21 shadow admits everything and reports once that it would have opened", () =>
      Effect.gen(function*() {
        const r = yield* setUp()
        yield* r.breaker.force("shadow")
        r.run("FFFFF", 0)
        assert.deepStrictEqual(r.changes, ["closed > shadow @ 0", "shadow > would-open @ 0"])
        assert.isFalse(r.breaker.isOpenUnsafe(0))
        r.run("F".repeat(100), 4999)
        assert.strictEqual(r.changes.length, 2, "a circuit that is open does not open again")
        r.run("FFFFF", 5000)
        assert.deepStrictEqual(r.changes.slice(2), ["shadow > would-open @ 5000"])
        r.run("F".repeat(100), 14_999)
        assert.strictEqual(r.changes.length, 3, "open for 10 s the second time")
      }))

    it.effect("C21 forced closed admits everything and counts nothing", () =>
      Effect.gen(function*() {
        const r = yield* opened
        yield* r.breaker.force("closed")
        r.run("F".repeat(100), 0)
        assert.deepInclude(yield* r.breaker.status, { state: "forced-closed", calls: 0 })
        yield* r.breaker.force("auto")
        assert.deepInclude(yield* r.breaker.status, { state: "closed", calls: 0 })
      }))

    it.effect("C22 a stream that breaks after its first parts is a failure when it breaks", () =>
      Effect.gen(function*() {
        const r = yield* setUp()
        const broken = guarded(r.breaker, Stream.concat(Stream.make(1, 2, 3), Stream.fail("reset")))
        for (let i = 1; i <= 5; i++) {
          assert.strictEqual(r.tag(), "Closed")
          assert.strictEqual(yield* Effect.flip(Stream.runDrain(broken)), "reset")
          if (i < 5) assert.deepInclude(yield* r.breaker.status, { calls: i, failures: i })
        }
        assert.strictEqual(r.tag(), "Open")
      }))

    it.effect("C23 a consumer who stops pulling is no failure and leaves no slot", () =>
      Effect.gen(function*() {
        const r = yield* opened
        yield* TestClock.adjust(5000)
        const endless = guarded(r.breaker, Stream.concat(Stream.make(1), Stream.never))
        for (let i = 0; i < 10; i++) {
          yield* endless.pipe(Stream.take(1), Stream.runDrain)
          assert.strictEqual((yield* r.breaker.status).probes, 0)
          assert.notStrictEqual(r.tag(), "Open")
        }
        const fiber = yield* Effect.forkChild(Stream.runDrain(endless), { startImmediately: true })
        yield* Effect.yieldNow
        yield* Fiber.interrupt(fiber)
        assert.strictEqual((yield* r.breaker.status).probes, 0)
        assert.notStrictEqual(r.tag(), "Open")
      }))
  })

  describe("half-open admission, generalised", () => {
    // [probes, successes needed, probes admitted at once]
    it.effect.each([[1, 1, 1], [1, 3, 1], [3, 1, 3], [2, 3, 2], [3, 2, 3]] as const)(
      "%d probes, %d successes: %d at once, and successes close",
      ([halfOpenProbes, successThreshold, atOnce]) =>
        Effect.gen(function*() {
          const r = yield* setUp({ halfOpenProbes, successThreshold })
          r.run("FFFFF", 0)
          const permits = Array.from({ length: atOnce }, () => r.admit(5000))
          r.rejects(5000)
          let successes = 0
          while (r.tag() === "HalfOpen") {
            r.breaker.recordUnsafe(permits.shift() ?? r.admit(5001), "success", 5001)
            successes++
          }
          assert.strictEqual(successes, successThreshold)
          assert.strictEqual(r.tag(), "Closed")
        })
    )
  })

  describe("core", () => {
    const policy = CircuitBreaker.policy(parameters)
    const { initial, permitOf } = CircuitBreaker
    const elsewhere: CircuitBreaker.SharedCircuit = {
      generation: 1,
      mode: "auto",
      isOpen: true,
      left: 5000,
      openings: 2,
      openFor: 9000
    }

    it("admitting while closed, and outcomes that change nothing, return the same object", () => {
      assert.strictEqual(CircuitBreaker.admit(policy, initial, 0), initial)
      assert.strictEqual(CircuitBreaker.record(policy, initial, permitOf(initial), "ignored", 0), initial)
      const forced = CircuitBreaker.force(initial, "closed", 0)
      assert.strictEqual(CircuitBreaker.record(policy, forced, permitOf(forced), "failure", 0), forced)
      assert.strictEqual(CircuitBreaker.record(policy, forced, permitOf(initial), "failure", 0), forced)
      assert.strictEqual(CircuitBreaker.renew(policy, forced, permitOf(forced), 0), forced)
      assert.strictEqual(CircuitBreaker.force(forced, "closed", 1), forced)
    })

    it("a call has a slot only if it is a probe", () => {
      assert.strictEqual(permitOf(initial).slot, 0)
      assert.strictEqual(permitOf(CircuitBreaker.force(initial, "open", 0)).slot, 0)
    })

    it("no outcome changes an open circuit", () => {
      let state = initial
      for (let i = 0; i < 5; i++) state = CircuitBreaker.record(policy, state, permitOf(state), "failure", 0)
      assert.strictEqual(state._tag, "Open")
      assert.strictEqual(CircuitBreaker.record(policy, state, permitOf(state), "failure", 1), state)
      assert.strictEqual(CircuitBreaker.turnSlow(policy, state, permitOf(state), 1), state)
    })

    it("an open circuit admits nobody before its time", () => {
      const open = CircuitBreaker.follow(initial, elsewhere, 0)
      assert.isUndefined(CircuitBreaker.admit(policy, open, 4999))
      assert.strictEqual(CircuitBreaker.admit(policy, open, 5000)?._tag, "HalfOpen")
    })

    it("follows others: what they have opened is open, and outdates what is under way here", () => {
      const open = CircuitBreaker.follow(initial, elsewhere, 1000)
      assert.deepStrictEqual(open, {
        _tag: "Open",
        mode: "auto",
        generation: 1,
        until: 6000,
        openings: 2,
        openFor: 9000
      })
      const probing = CircuitBreaker.admit(policy, open, 6000)!
      assert.deepInclude(CircuitBreaker.follow(probing, elsewhere, 6000), { _tag: "Open", generation: 3 })
      assert.deepInclude(CircuitBreaker.follow(probing, { ...elsewhere, isOpen: false }, 6000), {
        _tag: "Closed",
        generation: 3
      })
    })

    it("follows others: what is open here already can only last longer", () => {
      const open = CircuitBreaker.follow(initial, elsewhere, 1000)
      const other = { ...elsewhere, openings: 7, openFor: 1 }
      assert.strictEqual(CircuitBreaker.follow(open, other, 1000), open, "the same end")
      assert.strictEqual(CircuitBreaker.follow(open, { ...other, left: 4000 }, 1000), open, "an earlier one")
      const longer = CircuitBreaker.follow(open, { ...other, left: 8000 }, 1000)
      assert.deepInclude(longer, { _tag: "Open", generation: 1, until: 9000, openings: 7, openFor: 1 })
    })

    it("an outcome counts although its time was read before the circuit closed", () => {
      const reset = CircuitBreaker.force(CircuitBreaker.force(initial, "open", 0), "auto", 1000)
      assert.deepInclude(CircuitBreaker.record(policy, reset, permitOf(reset), "failure", 999), { calls: 1, streak: 1 })
    })

    it("keeps nine older buckets, however long it runs", () => {
      let state = initial
      for (let now = 0; now < 6_000_000; now += 3000) {
        state = CircuitBreaker.record(policy, state, permitOf(state), "success", now)
        assert.strictEqual(state._tag === "Closed" && state.older.length, Math.min(9, Math.floor(now / 6000)))
      }
    })

    it("counts a time before the last one as the last one", () => {
      let state = initial
      for (const now of [6000, 5999, 6000, 5999]) {
        state = CircuitBreaker.record(policy, state, permitOf(state), "success", now)
      }
      assert.deepInclude(state, { bucket: 1, calls: 4, older: [], lastAt: 6000 })
    })

    it("keeps no bucket that is empty or out of the window", () => {
      const one = CircuitBreaker.record(policy, initial, permitOf(initial), "success", 0)
      const two = CircuitBreaker.record(policy, one, permitOf(one), "success", 60_000)
      assert.deepInclude(two, { older: [], bucket: 10, calls: 1 })
      const late = CircuitBreaker.record(policy, initial, permitOf(initial), "success", 30_000)
      assert.deepInclude(late, { older: [], bucket: 5, calls: 1 })
    })
  })

  describe("bug threads", () => {
    it.effect("r4j#544 deer-flow#3991 any number of ignored probes does not wedge the circuit", () =>
      Effect.gen(function*() {
        const r = yield* opened
        r.run("I".repeat(1000), 5000)
        assert.deepInclude(yield* r.status(5000), { state: "half-open", probes: 0 })
        r.run("SS", 5000)
        assert.strictEqual(r.tag(), "Closed")
      }))

    it.effect("r4j#903 r4j#1389 OmniRoute#13836 probes that vanish block for one lease each, not for ever", () =>
      Effect.gen(function*() {
        const r = yield* opened
        for (let lease = 0; lease < 50; lease++) {
          const now = 5000 + lease * 125_000
          r.admit(now)
          r.admit(now)
          r.rejects(now + 124_999)
        }
        r.run("SS", 5000 + 50 * 125_000)
        assert.strictEqual(r.tag(), "Closed")
      }))

    it.effect("opossum#276 the minimum of calls does not apply to probes", () =>
      Effect.gen(function*() {
        const closing = yield* setUp({ minimumCalls: 1000 })
        closing.run("FFFFF", 0)
        closing.run("SS", 5000)
        assert.strictEqual(closing.tag(), "Closed")
        const reopening = yield* setUp({ minimumCalls: 1000 })
        reopening.run("FFFFF", 0)
        reopening.run("F", 5000)
        assert.strictEqual(reopening.until(), 15_000)
      }))

    it.effect("opossum#385 simultaneous failures do not cancel the way back", () =>
      Effect.gen(function*() {
        const r = yield* setUp()
        const failing = Effect.andThen(Effect.sleep(20), Effect.fail("F")).pipe(r.breaker.protect, Effect.exit)
        const fibers = yield* Effect.forEach(Array.from({ length: 100 }), () => Effect.forkChild(failing))
        yield* TestClock.adjust(20)
        yield* Effect.forEach(fibers, Fiber.join)
        assert.deepStrictEqual(r.changes, ["closed > open @ 20"])
        yield* TestClock.adjust(5000)
        assert.strictEqual(yield* r.breaker.protect(Effect.succeed("probe")), "probe")
      }))

    it.effect("opossum#119 zealphp#255 vellum#8108 safe-global#3442 half-open lets nobody pass while its probes hang", () =>
      Effect.gen(function*() {
        const r = yield* probing
        for (let now = 5000; now < 65_000; now += 10) r.rejects(now)
        assert.deepInclude(yield* r.status(65_000), { state: "half-open", probes: 2 })
      }))

    it.effect("opossum#484 closing sticks although old calls keep failing", () =>
      Effect.gen(function*() {
        const r = yield* setUp()
        const old = Array.from({ length: 200 }, () => r.admit(0))
        r.run("FFFFF", 0)
        const [p1, p2] = [r.admit(5000), r.admit(5000)]
        for (const permit of old.slice(0, 100)) r.breaker.recordUnsafe(permit, "failure", 5000)
        r.breaker.recordUnsafe(p1, "success", 5000)
        r.breaker.recordUnsafe(p2, "success", 5000)
        for (const permit of old.slice(100)) r.breaker.recordUnsafe(permit, "failure", 5001)
        assert.deepInclude(yield* r.status(5001), { state: "closed", calls: 0 })
      }))

    it.effect("opossum#217 opossum#660 the first failure does not open, although it is 100 percent", () =>
      Effect.gen(function*() {
        const r = yield* setUp()
        r.run("F", 0)
        assert.deepInclude(yield* r.status(0), { state: "closed", calls: 1, failures: 1 })
      }))

    it.effect("Polly#311 Polly#717 a cancelled probe is not a success", () =>
      Effect.gen(function*() {
        const r = yield* setUp({ halfOpenProbes: 1, successThreshold: 1 })
        r.run("FFFFF", 0)
        r.run("I", 5000)
        assert.strictEqual(r.tag(), "HalfOpen")
        r.run("F", 5000)
        assert.strictEqual(r.tag(), "Open")
      }))

    it.effect("Polly#216 nv-redfish#211 a late outcome does not free the slot of a newer probe", () =>
      Effect.gen(function*() {
        const r = yield* probing
        r.admit(130_000)
        r.admit(130_000)
        r.breaker.recordUnsafe(r.p1, "ignored", 130_001)
        r.breaker.recordUnsafe(r.p2, "ignored", 130_001)
        r.rejects(130_001)
      }))

    it.effect.each([["p1", "p2"], ["p2", "p1"]] as const)(
      "Polly#217 the probe of one half-open phase does not decide the next one: %s fails, %s is late",
      ([first, late]) =>
        Effect.gen(function*() {
          const r = yield* probing
          r.breaker.recordUnsafe(r[first], "failure", 5000)
          const next = r.admit(15_000)
          r.breaker.recordUnsafe(r[late], "failure", 15_001)
          assert.strictEqual(r.tag(), "HalfOpen")
          r.breaker.recordUnsafe(next, "failure", 15_002)
          assert.strictEqual(r.until(), 35_002)
        })
    )

    it.effect("Polly#217 nor does it keep the next one's slot", () =>
      Effect.gen(function*() {
        const r = yield* probing
        r.breaker.recordUnsafe(r.p2, "failure", 5000)
        r.admit(15_000)
        r.breaker.renewUnsafe(r.p1, 100_000)
        assert.strictEqual((yield* r.status(140_000)).probes, 0)
      }))

    it.effect("one permit counts once", () =>
      Effect.gen(function*() {
        const r = yield* setUp()
        const permit = r.admit(0)
        for (let i = 0; i < 10; i++) r.breaker.recordUnsafe(permit, "failure", 0)
        assert.deepInclude(yield* r.status(0), { calls: 1, failures: 1, streak: 1 })
        r.run("FFFF", 0)
        const probe = r.admit(5000)
        r.breaker.recordUnsafe(probe, "success", 5000)
        r.breaker.recordUnsafe(probe, "success", 5000)
        assert.strictEqual(r.tag(), "HalfOpen")
      }))

    it.effect("cockatiel#64 old failures are forgotten after an idle hour", () =>
      Effect.gen(function*() {
        const r = yield* setUp({ failureThreshold: false })
        r.run("F".repeat(9), 0)
        r.run("F", 3_600_000)
        assert.deepInclude(yield* r.status(3_600_000), { state: "closed", calls: 1, failures: 1 })
      }))

    it.effect("r4j#597 successes of probes are not forgotten with the window", () =>
      Effect.gen(function*() {
        const r = yield* opened
        r.run("S", 5000)
        r.run("S", 3_600_000)
        assert.strictEqual(r.tag(), "Closed")
      }))

    it.effect("OmniRoute#7908 cockatiel#112 clients that go away neither open nor heal", () =>
      Effect.gen(function*() {
        const r = yield* setUp()
        r.run("FFFF", 0)
        r.run("I".repeat(1000), 0)
        assert.deepInclude(yield* r.status(0), { state: "closed", calls: 4, streak: 4 })
      }))

    it.effect("synthorg#2445 alkem-io#5969 the end of the open time closes nothing", () =>
      Effect.gen(function*() {
        const r = yield* opened
        assert.strictEqual((yield* r.status(1e9)).state, "open")
        assert.deepStrictEqual((yield* r.status(1e9)).retryAfter, Duration.zero)
        r.admit(1e9)
        r.admit(1e9)
        r.rejects(1e9)
      }))

    it.effect("hoglet#14 world-intel-mcp#7 a failed probe is open from its own time on", () =>
      Effect.gen(function*() {
        const r = yield* opened
        const probe = r.admit(100_000)
        r.breaker.recordUnsafe(probe, "failure", 160_000)
        assert.strictEqual(r.until(), 170_000)
        r.rejects(169_999)
        r.admit(170_000)
      }))

    it.effect("litellm#40130 a late failure with a shorter hint does not shorten the open time", () =>
      Effect.gen(function*() {
        const r = yield* setUp()
        const late = r.admit(0)
        r.run("FFFF", 0)
        r.run("F", 0, { retryAfter: 42_000 })
        r.breaker.recordUnsafe(late, "failure", 10, { retryAfter: 1000 })
        assert.strictEqual(r.until(), 42_000)
      }))

    it.effect("whoever tells of a rejection late, when the circuit has closed again, still tells of an open one", () =>
      Effect.gen(function*() {
        const r = yield* opened
        r.rejects(0)
        r.run("SS", 5000)
        const error = r.breaker.rejectionUnsafe(5000)()
        assert.deepStrictEqual([error._tag, error.state, error.retryAfter], ["CircuitOpen", "open", undefined])
      }))

    it.effect("litellm#5933 a transition is reported once, however many calls are rejected", () =>
      Effect.gen(function*() {
        const r = yield* opened
        for (let i = 0; i < 1000; i++) r.rejects(100)
        assert.strictEqual(r.changes.length, 1)
      }))

    // litellm#12108 (zero taken for unset) is C16; zio-openfeature#263 and the other wall clock threads are C15.
  })
})
