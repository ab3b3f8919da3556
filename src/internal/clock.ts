// Monotonic milliseconds. Durations and windows never read the wall clock (law 2).
import type { Clock } from "effect/Clock"

export const monotonicMillis = (clock: Clock): number => Number(clock.monotonicTimeNanosUnsafe()) / 1e6
