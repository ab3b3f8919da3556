import { assert, it } from "@effect/vitest"
import { Clock, Effect } from "effect"
import { TestClock } from "effect/testing"
import { monotonicMillis } from "../../src/internal/clock.ts"

it.effect("milliseconds of the monotonic clock, with fractions", () =>
  Effect.gen(function*() {
    const clock = yield* Clock.Clock
    const begun = monotonicMillis(clock)
    yield* TestClock.adjust("1500 micros")
    assert.strictEqual(monotonicMillis(clock) - begun, 1.5)
  }))

it("a wall clock that is set back moves nothing", () => {
  const clock = (wall: number, monotonic: bigint) =>
    ({ currentTimeMillisUnsafe: () => wall, monotonicTimeNanosUnsafe: () => monotonic }) as Clock.Clock
  assert.strictEqual(monotonicMillis(clock(5000, 1_000_000_000n)), 1000)
  assert.strictEqual(monotonicMillis(clock(1000, 1_000_250_000n)), 1000.25)
})
