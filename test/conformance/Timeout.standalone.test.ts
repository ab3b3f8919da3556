// The rows of Timeout.test.ts on the combinators themselves, and on both kinds of timer.
import { assert, describe, it } from "@effect/vitest"
import { Cause, Clock, Context, Duration, Effect, Exit, Stream } from "effect"
import type { LlmError } from "effect-resilient-llm"
import { Retry, Timeout } from "effect-resilient-llm/resilience"
import { CountingClock } from "effect-resilient-llm/testing"
import { vi } from "vitest"
import { chance, failure, now, success, timed, vector } from "../support.ts"
import { millis, word } from "./support.ts"

const after = (error: LlmError.LlmError): number | undefined => "after" in error ? millis(error.after) : undefined

/** A transport of its own, without any pipeline. */
const transport = (work: Effect.Effect<string, LlmError.ProviderError>) => {
  const calls: Array<number> = []
  return { calls, call: Effect.andThen(Effect.map(now, (at) => void calls.push(at)), work) }
}

const backoff = Retry.retry({ maxRetries: 1, baseDelay: 500, maxDelay: 8000 })

describe("standalone", () => {
  const frame = <A, E>(effect: Effect.Effect<A, E, CountingClock.CountingClock>) => vector(effect)
  const noSleeps = Effect.gen(function*() {
    assert.strictEqual(yield* (yield* CountingClock.CountingClock).pending, 0)
  })

  it.effect("T1 retry around attempt", () =>
    frame(Effect.gen(function*() {
      const { call, calls } = transport(Effect.never)
      const { at, exit } = yield* timed(call.pipe(Timeout.attempt(1000), backoff))
      assert.strictEqual(word(failure(exit)), "AttemptTimeout attempt")
      assert.strictEqual(at, 2375)
      assert.deepStrictEqual(calls, [0, 1375])
      yield* noSleeps
    })))

  it.effect("T2 deadline around retry around attempt", () =>
    frame(Effect.gen(function*() {
      const { call, calls } = transport(Effect.never)
      const { at, exit } = yield* timed(call.pipe(Timeout.attempt(1000), backoff, Timeout.deadline(1500)))
      const error = failure(exit)
      assert.strictEqual(word(error), "DeadlineExceeded")
      assert.strictEqual(after(error), 1500)
      assert.strictEqual(at, 1500)
      assert.deepStrictEqual(calls, [0, 1375])
      yield* noSleeps
    })))

  it.effect("T3 cleanup of ten seconds: released at 1000, the cleanup ends at 11 000", () =>
    frame(Effect.gen(function*() {
      let cleaned: number | undefined
      const cleanup = Effect.andThen(
        Effect.sleep("10 seconds"),
        Effect.map(now, (at) => {
          cleaned = at
        })
      )
      const { at, exit } = yield* timed(Effect.never.pipe(Effect.onInterrupt(() => cleanup), Timeout.attempt(1000)))
      assert.strictEqual(word(failure(exit)), "AttemptTimeout attempt")
      assert.strictEqual(at, 1000)
      assert.strictEqual(cleaned, 11_000)
      yield* noSleeps
    })))

  it.effect("T4 an outer Effect.timeout interrupts", () =>
    frame(Effect.gen(function*() {
      let interrupted = false
      const work = Effect.onInterrupt(Effect.never, () =>
        Effect.sync(() => {
          interrupted = true
        }))
      const { at, exit } = yield* timed(work.pipe(Timeout.attempt(1000), Effect.timeout(500)))
      assert.isTrue(Cause.isTimeoutError(failure(exit)))
      assert.strictEqual(at, 500)
      assert.isTrue(interrupted)
      yield* noSleeps
    })))

  type Part = "ping" | "content"
  const script = (...elements: ReadonlyArray<readonly [number, Part]>) =>
    Stream.concat(
      Stream.mapEffect(Stream.fromIterable(elements), ([millis, part]) => Effect.as(Effect.sleep(millis), part)).pipe(
        Stream.rechunk(1)
      ),
      Stream.never
    )
  const limits = { firstToken: 2000, idle: 1000, isContent: (part: Part) => part === "content" }

  it.effect.each<[string, ReadonlyArray<readonly [number, Part]>, string, number, ReadonlyArray<number>]>([
    ["T5", [[1500, "content"], [900, "content"], [900, "content"]], "AttemptTimeout idle", 4300, [1500, 2400, 3300]],
    ["T6", Array.from({ length: 50 }, () => [500, "ping"] as const), "AttemptTimeout firstToken", 2000, []],
    [
      "T7 (idle at 2500, ARCHITECTURE §5)",
      [[1500, "content"], [500, "ping"], [500, "ping"], [500, "ping"]],
      "AttemptTimeout idle",
      2500,
      [1500]
    ]
  ])("%s", ([, elements, expected, at, contents]) =>
    frame(Effect.gen(function*() {
      const seen: Array<number> = []
      const limited = script(...elements).pipe(Timeout.stream(limits))
      const ended = yield* timed(Stream.runForEach(limited, (part) =>
        part === "ping" ? Effect.void : Effect.map(now, (moment) =>
          void seen.push(moment))))
      assert.strictEqual(word(failure(ended.exit)), expected)
      assert.strictEqual(ended.at, at)
      assert.deepStrictEqual(seen, contents)
      yield* noSleeps
    })))

  it.effect("T8 a slow consumer", () =>
    frame(Effect.gen(function*() {
      const seen: Array<number> = []
      const limited = script([0, "content"], [100, "content"]).pipe(Stream.take(2), Timeout.stream({ idle: 1000 }))
      const { exit } = yield* timed(
        Stream.runForEach(
          limited,
          () => Effect.andThen(Effect.map(now, (at) => void seen.push(at)), Effect.sleep(5000))
        )
      )
      success(exit)
      assert.deepStrictEqual(seen, [0, 5100]) // this source only moves when it is pulled
      yield* noSleeps
    })))

  it.effect.each([[999, 999], [1001, 1000]] as const)(
    "T9 an answer at %d",
    ([delay, at]) =>
      frame(Effect.gen(function*() {
        const ended = yield* timed(Effect.delay(Effect.succeed("Hello."), delay).pipe(Timeout.attempt(1000)))
        assert.strictEqual(ended.at, at)
        assert.strictEqual(Exit.isSuccess(ended.exit), delay === 999)
        yield* noSleeps
      }))
  )

  it.effect("T10 work that cannot be interrupted", () =>
    frame(Effect.gen(function*() {
      let finished: number | undefined
      const work = Effect.uninterruptible(Effect.andThen(
        Effect.sleep(1500),
        Effect.map(now, (at) => {
          finished = at
        })
      ))
      const { at, exit } = yield* timed(Timeout.attempt(1000)(work))
      assert.strictEqual(word(failure(exit)), "AttemptTimeout attempt")
      assert.deepStrictEqual([at, finished], [1000, 1500])
      yield* noSleeps
    })))

  it.effect("T13 an infinite limit", () =>
    frame(Effect.gen(function*() {
      const { at, exit } = yield* timed(
        Effect.sleep("1 hour").pipe(Timeout.attempt(Duration.infinity), Timeout.deadline(Duration.infinity))
      )
      success(exit)
      assert.strictEqual(at, 3_600_000)
      yield* noSleeps
    })))

  it.effect("T14 a limit of zero: nothing that waits gets through", () =>
    frame(Effect.gen(function*() {
      const { at, exit } = yield* timed(Effect.sleep(1).pipe(Timeout.deadline(0)))
      assert.strictEqual(word(failure(exit)), "DeadlineExceeded")
      assert.strictEqual(at, 0)
      yield* noSleeps
    })))
})

describe("which timer ran", () => {
  const defaultClock = Context.get(Context.empty(), Clock.Clock)

  /** Notes bare timers of this length, and sleeps of the default clock. */
  const spying = async (length: number, test: () => Promise<void>) => {
    const timer = vi.spyOn(globalThis, "setTimeout")
    const sleep = vi.spyOn(defaultClock, "sleep")
    try {
      await test()
      return {
        timers: timer.mock.calls.map(([, wait]) => wait).filter((wait) => wait === length),
        sleeps: sleep.mock.calls.map(([duration]) => Duration.toMillis(duration))
      }
    } finally {
      timer.mockRestore()
      sleep.mockRestore()
    }
  }

  /** The default clock of Effect, driven by hand: its timers and its monotonic time. */
  const turning = async (test: (advance: (millis: number) => Promise<void>) => Promise<void>) => {
    vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout"] })
    const begun = process.hrtime.bigint()
    let turned = 0n
    const hrtime = vi.spyOn(process.hrtime, "bigint").mockImplementation(() => begun + turned)
    const advance = async (millis: number) => {
      for (let i = 0; i < millis; i++) {
        turned += 1_000_000n
        await vi.advanceTimersByTimeAsync(1)
      }
    }
    try {
      await test(advance)
      assert.strictEqual(vi.getTimerCount(), 0, "timers left behind")
    } finally {
      hrtime.mockRestore()
      vi.useRealTimers()
    }
  }

  const settled = <A>(promise: Promise<A>) => {
    let result: { readonly value: A } | undefined
    void promise.then((value) => {
      result = { value }
    })
    return () => result?.value
  }

  it("T1 on the default clock: a bare setTimeout, and no sleep but that of the backoff", () =>
    turning(async (advance) => {
      let calls = 0
      const call = Effect.andThen(Effect.sync(() => void calls++), Effect.never)
      const used = await spying(1000, async () => {
        const result = settled(
          Effect.runPromise(Effect.flip(call.pipe(Timeout.attempt(1000), backoff)).pipe(chance(0.5)))
        )
        await advance(1374)
        assert.strictEqual(calls, 1)
        await advance(1)
        assert.strictEqual(calls, 2)
        await advance(999)
        assert.isUndefined(result())
        await advance(1)
        assert.strictEqual(result()?._tag, "AttemptTimeout")
      })
      assert.deepStrictEqual(used, { timers: [1000, 1000], sleeps: [375] })
    }))

  it("T9 on the default clock: an answer at 999 and one at 1001", () =>
    turning(async (advance) => {
      const used = await spying(1000, async () => {
        const at = (delay: number) =>
          settled(
            Effect.runPromise(Effect.exit(Effect.delay(Effect.succeed("Hello."), delay).pipe(Timeout.attempt(1000))))
          )
        const early = at(999)
        const late = at(1001)
        await advance(998)
        assert.isUndefined(early())
        await advance(1)
        assert.deepStrictEqual(early(), Exit.succeed("Hello."))
        assert.isUndefined(late())
        await advance(1)
        assert.strictEqual(word(failure(late()!)), "AttemptTimeout attempt")
      })
      assert.deepStrictEqual(used, { timers: [1000, 1000], sleeps: [999, 1001] })
    }))

  it.effect("T1 T9 under TestClock: a sleeping fibre, and no bare timer", () =>
    vector(Effect.gen(function*() {
      const clock = yield* CountingClock.CountingClock
      const timer = vi.spyOn(globalThis, "setTimeout")
      try {
        const { exit } = yield* timed(Effect.never.pipe(Timeout.attempt(12_345)))
        assert.strictEqual(word(failure(exit)), "AttemptTimeout attempt")
        assert.strictEqual(yield* clock.started, 1)
        assert.deepStrictEqual(timer.mock.calls.filter(([, wait]) => wait === 12_345), [])
      } finally {
        timer.mockRestore()
      }
    })))

  it.effect("work that ends at once starts no timer at all", () =>
    vector(Effect.gen(function*() {
      const clock = yield* CountingClock.CountingClock
      assert.strictEqual(yield* Effect.succeed(1).pipe(Timeout.attempt(1000), Timeout.deadline(1000)), 1)
      assert.strictEqual(yield* clock.started, 0)
    })))
})
