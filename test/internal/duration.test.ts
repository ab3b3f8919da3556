import { assert, it } from "@effect/vitest"
import { readDuration } from "effect-resilient-llm/internal/duration"
import * as Duration from "effect/Duration"

const millisOf = (input: unknown): number | undefined => {
  const duration = readDuration(input)
  return duration && Duration.toMillis(duration)
}

it("durations as Effect reads them", () => {
  const cases: ReadonlyArray<readonly [Duration.Input, number]> = [
    [0, 0],
    [1.5, 1.5],
    [-1, -1],
    [Infinity, Infinity],
    [5_000_000n, 5],
    ["2 seconds", 2000],
    ["Infinity", Infinity],
    [[1, 500_000_000], 1500],
    [{ seconds: 2 }, 2000],
    [{ seconds: 0 }, 0],
    [{ minutes: 1, seconds: undefined, milliseconds: 5 }, 60_005],
    [
      {
        weeks: 1,
        days: 1,
        hours: 1,
        minutes: 1,
        seconds: 1,
        milliseconds: 1,
        microseconds: 1000,
        nanoseconds: 1_000_000
      },
      694_861_003
    ],
    [Duration.seconds(3), 3000]
  ]
  assert.deepStrictEqual(cases.map(([input]) => millisOf(input)), cases.map(([, millis]) => millis))
})

it("what says no duration is none, and not nothing at all", () => {
  const none = [{}, { seconds: undefined }, { second: 1 }, { seconds: 1, extra: 2 }, { seconds: NaN }, { seconds: "2" }]
  for (
    const input of [...none, [], [1], [NaN, 0], [1, NaN], ["1", 0], NaN, "soon", "", true, null, undefined, () => 1]
  ) {
    assert.isUndefined(millisOf(input), JSON.stringify(input))
  }
})
