// What Effect reads as a duration, without what it takes for nothing at all, such as `{}` and NaN.
import * as Duration from "effect/Duration"

const UNITS: ReadonlySet<string> = new Set<keyof Duration.DurationObject>([
  "weeks",
  "days",
  "hours",
  "minutes",
  "seconds",
  "milliseconds",
  "microseconds",
  "nanoseconds"
])

const isNumber = (u: unknown): boolean => typeof u === "number" && !Number.isNaN(u)

/** The duration that an input says, or `undefined` when it says none. */
export const readDuration = (input: unknown): Duration.Duration | undefined => {
  if (typeof input === "object" && input !== null && !Duration.isDuration(input)) {
    const told = Object.entries(input).filter(([, value]) => value !== undefined)
    if (
      told.length === 0 || !told.every(([unit, value]) => (Array.isArray(input) || UNITS.has(unit)) && isNumber(value))
    ) {
      return undefined
    }
  } else if (typeof input === "number" && Number.isNaN(input)) {
    return undefined
  }
  const read = Duration.fromInput(input as Duration.Input)
  return read._tag === "None" ? undefined : read.value
}
