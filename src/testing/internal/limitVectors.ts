// What every store of limits must do, as data. The rows are those of the rate limiter, read for several processes: each
// arrival is debited at once and told its moment, and who was told one keeps it.
import type { StoreLimit } from "../../resilience/internal/buckets.ts"

type Numbers = ReadonlyArray<number>

/** `at` = milliseconds since the store was made. `limits`: those of the vector, unless the step brings its own. */
export type LimitStep =
  & { readonly at: number; readonly limits?: ReadonlyArray<StoreLimit> }
  & (
    | {
      readonly op: "reserve"
      readonly costs: Numbers
      readonly maxWait?: number
      readonly extra?: { readonly count: number; readonly each: Numbers }
      readonly instance?: string
      readonly expect:
        | { readonly wait: number; readonly extra?: number; readonly instances?: number }
        | { readonly retryAfter: number; readonly binding: number }
    }
    /** Many ask at the same moment, and do not wait: how many are granted? */
    | { readonly op: "race"; readonly by: number; readonly costs: Numbers; readonly granted: number }
    | {
      readonly op: "settle"
      readonly back?: Numbers
      readonly early?: number
      readonly atMost?: ReadonlyArray<number | undefined>
      readonly block?: Numbers
    }
    | { readonly op: "snapshot"; readonly levels: Numbers; readonly blockedFor?: Numbers }
  )

export interface LimitVector {
  readonly name: string
  readonly limits: ReadonlyArray<StoreLimit>
  readonly steps: ReadonlyArray<LimitStep>
}

const limit = (dimension: string, tokens: number, per: number, burst = tokens): StoreLimit => ({
  dimension,
  burst,
  rate: tokens / per
})
const ten = [limit("requests", 10, 10_000)]
const both = [limit("requests", 60, 60_000), limit("tokens", 1000, 10_000)]
const take = (at: number, costs: Numbers, wait: number): LimitStep => ({ at, op: "reserve", costs, expect: { wait } })
const refuse = (at: number, costs: Numbers, maxWait: number, retryAfter: number, binding = 0): LimitStep => ({
  at,
  op: "reserve",
  costs,
  maxWait,
  expect: { retryAfter, binding }
})
const levels = (at: number, ...levels: Numbers): LimitStep => ({ at, op: "snapshot", levels })

export const limitVectors: ReadonlyArray<LimitVector> = [
  {
    name: "L1, L2 a full bucket of ten: ten at once, then one a second, each told its moment at once",
    limits: ten,
    steps: [
      levels(0, 10),
      { at: 0, op: "race", by: 10, costs: [1], granted: 10 },
      take(0, [1], 1000),
      take(0, [1], 2000),
      take(500, [1], 2500),
      levels(1000, -2)
    ]
  },
  {
    name: "L3 a wait that would be too long is refused, and nothing is taken",
    limits: ten,
    steps: [
      take(0, [10], 0),
      refuse(500, [1], 0, 500),
      levels(500, 0.5),
      refuse(500, [1], 499, 500),
      take(500, [1], 500)
    ]
  },
  {
    name: "L4 a small late cost does not overtake",
    limits: ten,
    steps: [take(0, [10], 0), take(0, [5], 5000), take(0, [1], 6000)]
  },
  {
    name: "L5 who leaves gives back: later arrivals profit, who was told a moment keeps it",
    limits: ten,
    steps: [
      take(0, [10], 0),
      take(0, [5], 5000),
      take(0, [1], 6000),
      { at: 500, op: "settle", back: [5], early: 4500 },
      levels(500, -0.5),
      take(500, [1], 1500)
    ]
  },
  {
    name: "L5 when the last one leaves, the bucket is as it was before it came",
    limits: ten,
    steps: [
      take(0, [10], 0),
      take(0, [5], 5000),
      { at: 500, op: "settle", back: [5], early: 4500 },
      levels(500, 0.5),
      take(500, [1], 500)
    ]
  },
  {
    name: "L6 a cost above the bucket's size takes a full bucket, and is paid off",
    limits: ten,
    steps: [take(0, [25], 0), levels(0, -15), take(0, [1], 16_000)]
  },
  {
    name: "L7 and waits until it is full, not for ever",
    limits: ten,
    steps: [take(0, [5], 0), take(0, [25], 5000)]
  },
  {
    name: "L8 two limits are granted together",
    limits: both,
    steps: [take(0, [1, 800], 0), take(0, [1, 300], 1000), levels(0, 58, -100)]
  },
  {
    name: "L9 nothing is refused by one limit and taken from another",
    limits: [limit("requests", 2, 60_000), limit("tokens", 1000, 10_000)],
    steps: [
      take(0, [1, 100], 0),
      take(0, [1, 100], 0),
      refuse(0, [1, 100], 29_999, 30_000),
      levels(0, 0, 800),
      take(0, [1, 100], 30_000),
      // What it takes then is not there for others then.
      levels(30_000, 0, 900)
    ]
  },
  {
    name: "L10 what was estimated too high goes back: later arrivals profit",
    limits: both,
    steps: [
      take(0, [1, 800], 0),
      take(0, [1, 300], 1000),
      { at: 100, op: "settle", back: [0, 600] },
      levels(100, 58.1, 510),
      take(100, [1, 500], 0)
    ]
  },
  {
    name: "L10, L21 what was estimated too low is taken in addition, below zero",
    limits: [limit("tokens", 1000, 10_000)],
    steps: [
      take(0, [600], 0),
      take(0, [100], 0),
      { at: 0, op: "settle", back: [-800] },
      levels(0, -500),
      take(0, [1], 5010)
    ]
  },
  {
    name: "L13 a hundred tokens, a thousand at once: exactly a hundred",
    limits: [limit("requests", 100, 10_000)],
    steps: [{ at: 0, op: "race", by: 1000, costs: [1], granted: 100 }, levels(0, 0)]
  },
  {
    name: "L15 a rate that is no whole number does not drift",
    limits: [limit("requests", 3, 10_000)],
    steps: [
      take(0, [3], 0),
      ...Array.from({ length: 100 }, (_, k) => take(0, [1], Math.ceil((k + 1) * 10_000 / 3 - 1e-4)))
    ]
  },
  {
    name:
      "L16 two versions with different limits share a bucket: the level is the smaller one's, and grows by refill only",
    limits: [limit("requests", 100, 10_000)],
    steps: [
      levels(0, 100),
      { at: 0, op: "reserve", costs: [1], limits: ten, expect: { wait: 0 } },
      { at: 0, op: "snapshot", limits: [limit("requests", 20, 10_000)], levels: [9] },
      levels(0, 9),
      levels(100, 10),
      { at: 100, op: "snapshot", limits: ten, levels: [9.1] }
    ]
  },
  {
    name: "L18 a block holds everybody up, and a shorter one does not shorten it",
    limits: ten,
    steps: [
      { at: 0, op: "settle", block: [2000] },
      take(0, [1], 2000),
      { at: 500, op: "settle", block: [1000] },
      { at: 500, op: "snapshot", levels: [7.5], blockedFor: [1500] },
      refuse(500, [1], 1000, 1500),
      { at: 2000, op: "snapshot", levels: [9], blockedFor: [0] }
    ]
  },
  {
    name: "L18 a block ends after five minutes at most, and holds up only its own limit",
    limits: both,
    steps: [
      { at: 0, op: "settle", block: [0, 3_600_000] },
      take(0, [1, 0], 0),
      refuse(0, [1, 1], 1000, 300_000, 1),
      { at: 299_999, op: "snapshot", levels: [60, 1000], blockedFor: [0, 1] },
      take(300_000, [1, 1], 0)
    ]
  },
  {
    name: "L19 a bucket of one",
    limits: [limit("requests", 60, 60_000, 1)],
    steps: [take(0, [1], 0), take(0, [1], 1000), take(0, [1], 2000)]
  },
  {
    name: "L20 the last one that still fits, and the first one that does not",
    limits: ten,
    steps: [
      take(0, [10], 0),
      { at: 0, op: "reserve", costs: [10], maxWait: 30_000, expect: { wait: 10_000 } },
      { at: 0, op: "reserve", costs: [10], maxWait: 30_000, expect: { wait: 20_000 } },
      { at: 0, op: "reserve", costs: [10], maxWait: 30_000, expect: { wait: 30_000 } },
      refuse(0, [1], 30_000, 31_000)
    ]
  },
  {
    name: "L25 untouched for ten hours it is full, and not more",
    limits: ten,
    steps: [take(0, [10], 0), take(36_000_000, [10], 0), take(36_000_000, [1], 1000)]
  },
  {
    name: "what goes back never fills above the top, nor above what is promised for later",
    limits: ten,
    steps: [
      take(0, [2], 0),
      { at: 0, op: "settle", back: [100] },
      levels(0, 10),
      take(0, [10], 0),
      take(0, [2], 2000),
      { at: 0, op: "settle", back: [100] },
      levels(0, 8),
      levels(2000, 10)
    ]
  },
  {
    name: "a level that is told is never exceeded, and never raised",
    limits: both,
    steps: [
      { at: 0, op: "settle", atMost: [undefined, 400] },
      levels(0, 60, 400),
      { at: 0, op: "settle", atMost: [0, 900] },
      levels(0, 0, 400),
      take(0, [1, 1], 1000)
    ]
  },
  {
    name: "more can be taken along, but a fifth of each bucket stays",
    limits: both,
    steps: [
      { at: 0, op: "reserve", costs: [1, 100], extra: { count: 5, each: [1, 100] }, expect: { wait: 0, extra: 5 } },
      levels(0, 54, 400),
      { at: 0, op: "reserve", costs: [1, 100], extra: { count: 5, each: [1, 100] }, expect: { wait: 0, extra: 1 } },
      levels(0, 52, 200),
      { at: 0, op: "reserve", costs: [1, 100], extra: { count: 5, each: [1, 100] }, expect: { wait: 0, extra: 0 } },
      levels(0, 51, 100),
      { at: 0, op: "reserve", costs: [1, 200], extra: { count: 5, each: [1, 1] }, expect: { wait: 1000, extra: 0 } }
    ]
  },
  {
    name: "processes that have named themselves within six seconds are counted",
    limits: ten,
    steps: [
      { at: 0, op: "reserve", costs: [0], instance: "a", expect: { wait: 0, instances: 1 } },
      { at: 0, op: "reserve", costs: [0], instance: "b", expect: { wait: 0, instances: 2 } },
      { at: 3000, op: "reserve", costs: [0], instance: "b", expect: { wait: 0, instances: 2 } },
      { at: 5999, op: "reserve", costs: [0], instance: "c", expect: { wait: 0, instances: 3 } },
      { at: 6000, op: "reserve", costs: [0], instance: "c", expect: { wait: 0, instances: 2 } }
    ]
  },
  {
    name: "names of limits are only names",
    limits: [limit("__proto__", 10, 10_000), limit("l: b%' $1", 10, 10_000)],
    steps: [take(0, [10, 1], 0), take(0, [1, 1], 1000), levels(0, -1, 8)]
  }
]
