// What every store must do, as data: operations at times, and what they give. `StoreLaws` runs them against the layer of
// any store.

/**
 * `at` = milliseconds since the store was made. Operations of the same time follow each other in this order. `process`: 2
 * is another process over the same data.
 */
export type Step =
  & { readonly at: number; readonly key: string; readonly process?: 2 }
  & (
    | { readonly op: "get"; readonly expect: Kept | undefined }
    | { readonly op: "set"; readonly value: string; readonly ttl: number; readonly size?: number }
    | { readonly op: "remove" }
    /** `by` names the lease for the steps that come. */
    | {
      readonly op: "acquire"
      readonly by: string
      readonly lease: number
      readonly takeOver?: boolean
      readonly replacing?: string
      readonly expect: "acquired" | Held | Kept
    }
    | { readonly op: "renew"; readonly by: string; readonly lease: number; readonly expect: boolean }
    /** Many ask at the same moment, for a minute: how many get the lease? */
    | { readonly op: "race"; readonly by: number; readonly acquired: number }
    | {
      readonly op: "complete"
      readonly by: string
      readonly value: string
      readonly ttl: number
      readonly size?: number
      readonly expect: boolean
    }
    | { readonly op: "release"; readonly by: string }
  )

export interface Kept {
  readonly value: string
  readonly age: number
}

export interface Held {
  readonly left: number
}

export interface Vector {
  /** Begins with the row of the semantics that it serves, where there is one. */
  readonly name: string
  /** Of stores that have bounds. */
  readonly bounds?: { readonly maxEntries: number; readonly maxBytes?: number }
  readonly steps: ReadonlyArray<Step>
}

const key = "k"
const minute = 60_000
const day = 86_400_000
const lease = 240_000
/** No lease has this name: who completes by it has none. */
const nobody = "nobody"

export const vectors: ReadonlyArray<Vector> = [
  // -- values --
  {
    name: "an unknown key holds nothing",
    steps: [{ at: 0, op: "get", key, expect: undefined }, { at: 0, op: "remove", key }]
  },
  {
    name: "I7 A1 a value is there while its age is below its ttl of a minute",
    steps: [
      { at: 0, op: "set", key, value: "1", ttl: minute },
      { at: 0, op: "get", key, expect: { value: "1", age: 0 } },
      { at: 59_999, op: "get", key, expect: { value: "1", age: 59_999 } },
      { at: 60_000, op: "get", key, expect: undefined }
    ]
  },
  {
    name: "I7 likewise a ttl of a day, for a value that was recorded under a lease",
    steps: [
      { at: 0, op: "acquire", key, by: "1", lease, expect: "acquired" },
      { at: 1000, op: "complete", key, by: "1", value: "1", ttl: day, expect: true },
      { at: day + 999, op: "get", key, expect: { value: "1", age: day - 1 } },
      { at: day + 999, op: "acquire", key, by: "2", lease, expect: { value: "1", age: day - 1 } },
      { at: day + 1000, op: "get", key, expect: undefined },
      { at: day + 1000, op: "acquire", key, by: "2", lease, expect: "acquired" }
    ]
  },
  {
    name: "A6 the end of a cached answer: ttl and stale-if-error together",
    steps: [
      { at: 0, op: "set", key, value: "1", ttl: 3_660_000 },
      { at: 3_659_999, op: "get", key, expect: { value: "1", age: 3_659_999 } },
      { at: 3_660_000, op: "get", key, expect: undefined }
    ]
  },
  {
    name: "A2 setting again replaces value, age and ttl",
    steps: [
      { at: 0, op: "set", key, value: "1", ttl: minute },
      { at: 50_000, op: "set", key, value: "2", ttl: 20_000 },
      { at: 69_999, op: "get", key, expect: { value: "2", age: 19_999 } },
      { at: 70_000, op: "get", key, expect: undefined }
    ]
  },
  {
    name: "a removed value is gone",
    steps: [
      { at: 0, op: "set", key, value: "1", ttl: minute },
      { at: 1, op: "remove", key },
      { at: 1, op: "get", key, expect: undefined }
    ]
  },
  {
    name: "keys are independent, values are kept as they are",
    steps: [
      { at: 0, op: "set", key: "a", value: "{\"text\":\"ä € 𝄞 \\u0000 ' -- ; $1\"}", ttl: minute },
      { at: 0, op: "set", key: "a:b", value: "", ttl: minute },
      { at: 0, op: "acquire", key: "a%", by: "1", lease, expect: "acquired" },
      { at: 0, op: "remove", key: "a%" },
      { at: 0, op: "get", key: "a", expect: { value: "{\"text\":\"ä € 𝄞 \\u0000 ' -- ; $1\"}", age: 0 } },
      { at: 0, op: "get", key: "a:b", expect: { value: "", age: 0 } }
    ]
  },

  // -- leases --
  {
    name: "a hundred ask at once: one gets the lease",
    steps: [
      { at: 0, op: "race", key, by: 100, acquired: 1 },
      { at: 59_999, op: "race", key, by: 100, acquired: 0 },
      { at: 60_000, op: "race", key, by: 100, acquired: 1 }
    ]
  },
  {
    name: "I11 the holder died at 0: held at 239 999, free at 240 000, and its late value is refused",
    steps: [
      { at: 0, op: "acquire", key, by: "1", lease, expect: "acquired" },
      { at: 1, op: "acquire", key, by: "2", lease, expect: { left: 239_999 } },
      { at: 239_999, op: "acquire", key, by: "2", lease, expect: { left: 1 } },
      { at: 240_000, op: "acquire", key, by: "2", lease, expect: "acquired" },
      { at: 240_000, op: "complete", key, by: "1", value: "late", ttl: day, expect: false },
      { at: 240_000, op: "release", key, by: "1" },
      { at: 240_000, op: "acquire", key, by: "3", lease, expect: { left: 240_000 } },
      { at: 241_000, op: "complete", key, by: "2", value: "2", ttl: day, expect: true },
      { at: 241_000, op: "complete", key, by: "1", value: "late", ttl: day, expect: false },
      { at: 242_000, op: "acquire", key, by: "3", lease, expect: { value: "2", age: 1000 } }
    ]
  },
  {
    name: "I11 the late value is refused after a lease that came and ended well, whatever came in between",
    steps: [
      { at: 0, op: "acquire", key, by: "1", lease: 10, expect: "acquired" },
      { at: 10, op: "acquire", key, by: "2", lease: 10, expect: "acquired" },
      { at: 20, op: "acquire", key, by: "3", lease: 10, expect: "acquired" },
      { at: 21, op: "complete", key, by: "2", value: "late", ttl: day, expect: false },
      { at: 22, op: "complete", key, by: "3", value: "3", ttl: day, expect: true },
      { at: 23, op: "complete", key, by: "1", value: "late", ttl: day, expect: false },
      { at: 24, op: "get", key, expect: { value: "3", age: 2 } }
    ]
  },
  {
    name: "a lease that has ended does not hinder its value while nobody took over",
    steps: [
      { at: 0, op: "acquire", key, by: "1", lease: 10, expect: "acquired" },
      { at: 11, op: "complete", key, by: "1", value: "1", ttl: minute, expect: true },
      { at: 12, op: "get", key, expect: { value: "1", age: 1 } }
    ]
  },
  {
    name: "a value is recorded once per lease",
    steps: [
      { at: 0, op: "acquire", key, by: "1", lease, expect: "acquired" },
      { at: 1, op: "complete", key, by: "1", value: "1", ttl: minute, expect: true },
      { at: 2, op: "complete", key, by: "1", value: "twice", ttl: minute, expect: false },
      { at: 3, op: "get", key, expect: { value: "1", age: 2 } }
    ]
  },
  {
    name: "I12 who has no lease, because asking failed, records where nothing is and hinders nobody",
    steps: [
      { at: 0, op: "complete", key, by: nobody, value: "1", ttl: minute, expect: true },
      { at: 1, op: "complete", key, by: nobody, value: "2", ttl: minute, expect: false },
      { at: 1, op: "release", key, by: nobody },
      { at: 1, op: "get", key, expect: { value: "1", age: 1 } },
      { at: 1, op: "acquire", key: "other", by: "1", lease, expect: "acquired" },
      { at: 1, op: "complete", key: "other", by: nobody, value: "2", ttl: minute, expect: false },
      { at: 1, op: "release", key: "other", by: nobody },
      { at: 2, op: "complete", key: "other", by: "1", value: "1", ttl: minute, expect: true }
    ]
  },
  {
    name: "a released key is free at once, and a lease is released once",
    steps: [
      { at: 0, op: "acquire", key, by: "1", lease, expect: "acquired" },
      { at: 1, op: "release", key, by: "1" },
      { at: 1, op: "acquire", key, by: "2", lease, expect: "acquired" },
      { at: 2, op: "release", key, by: "1" },
      { at: 2, op: "acquire", key, by: "3", lease, expect: { left: 239_999 } }
    ]
  },
  {
    name: "a release does not end a value",
    steps: [
      { at: 0, op: "acquire", key, by: "1", lease, expect: "acquired" },
      { at: 0, op: "complete", key, by: "1", value: "1", ttl: minute, expect: true },
      { at: 0, op: "release", key, by: "1" },
      { at: 1, op: "get", key, expect: { value: "1", age: 1 } }
    ]
  },
  {
    name: "to get, a lease is nothing; set replaces it and remove ends it",
    steps: [
      { at: 0, op: "acquire", key, by: "1", lease, expect: "acquired" },
      { at: 0, op: "get", key, expect: undefined },
      { at: 1, op: "set", key, value: "by hand", ttl: minute },
      { at: 1, op: "complete", key, by: "1", value: "1", ttl: minute, expect: false },
      { at: 2, op: "get", key, expect: { value: "by hand", age: 1 } },
      { at: 2, op: "remove", key },
      { at: 2, op: "acquire", key, by: "2", lease, expect: "acquired" },
      { at: 3, op: "remove", key },
      { at: 3, op: "acquire", key, by: "3", lease, expect: "acquired" },
      { at: 3, op: "complete", key, by: "2", value: "2", ttl: minute, expect: false }
    ]
  },

  // -- renewal --
  {
    name: "a lease that is renewed each third of its length lasts, and ends as soon after its holder as any other",
    steps: [
      { at: 0, op: "acquire", key, by: "1", lease: 15_000, expect: "acquired" },
      { at: 5000, op: "renew", key, by: "1", lease: 15_000, expect: true },
      { at: 10_000, op: "renew", key, by: "1", lease: 15_000, expect: true },
      { at: 15_000, op: "renew", key, by: "1", lease: 15_000, expect: true },
      { at: 15_000, op: "acquire", key, by: "2", lease, expect: { left: 15_000 } },
      { at: 29_999, op: "acquire", key, by: "2", lease, expect: { left: 1 } },
      { at: 30_000, op: "acquire", key, by: "2", lease, expect: "acquired" },
      { at: 30_001, op: "renew", key, by: "1", lease: 15_000, expect: false },
      { at: 30_001, op: "complete", key, by: "1", value: "late", ttl: day, expect: false },
      { at: 30_001, op: "acquire", key, by: "3", lease, expect: { left: 239_999 } }
    ]
  },
  {
    name: "a renewed lease has the fence it had: its value is recorded, once",
    steps: [
      { at: 0, op: "acquire", key, by: "1", lease: 10, expect: "acquired" },
      { at: 5, op: "renew", key, by: "1", lease: 10, expect: true },
      { at: 14, op: "complete", key, by: "1", value: "1", ttl: minute, expect: true },
      { at: 14, op: "renew", key, by: "1", lease: 10, expect: false },
      { at: 15, op: "get", key, expect: { value: "1", age: 1 } }
    ]
  },
  {
    name: "a renewal can shorten, and sets what is left from now on",
    steps: [
      { at: 0, op: "acquire", key, by: "1", lease, expect: "acquired" },
      { at: 1, op: "renew", key, by: "1", lease: 10, expect: true },
      { at: 1, op: "acquire", key, by: "2", lease, expect: { left: 10 } },
      { at: 11, op: "acquire", key, by: "2", lease, expect: "acquired" }
    ]
  },
  {
    name: "nothing is renewed that is not there: a lease that has ended, was released or removed, or is another's",
    steps: [
      { at: 0, op: "renew", key, by: nobody, lease, expect: false },
      { at: 0, op: "acquire", key, by: "1", lease: 10, expect: "acquired" },
      { at: 1, op: "renew", key, by: nobody, lease, expect: false },
      { at: 10, op: "renew", key, by: "1", lease, expect: false },
      { at: 10, op: "acquire", key, by: "2", lease, expect: "acquired" },
      { at: 10, op: "release", key, by: "2" },
      { at: 10, op: "renew", key, by: "2", lease, expect: false },
      { at: 11, op: "acquire", key, by: "3", lease, expect: "acquired" },
      { at: 11, op: "remove", key },
      { at: 11, op: "renew", key, by: "3", lease, expect: false },
      { at: 11, op: "get", key, expect: undefined }
    ]
  },

  // -- taking over --
  {
    name: "the leases of this process are not taken over",
    steps: [
      { at: 0, op: "acquire", key, by: "1", lease, expect: "acquired" },
      { at: 1, op: "acquire", key, by: "2", lease, takeOver: true, expect: { left: 239_999 } },
      { at: 2, op: "complete", key, by: "1", value: "1", ttl: minute, expect: true },
      { at: 2, op: "acquire", key, by: "2", lease, takeOver: true, expect: { value: "1", age: 0 } }
    ]
  },
  {
    name: "the lease of another process is taken over by who says so, and the late value is refused",
    steps: [
      { at: 0, op: "acquire", key, by: "1", lease, process: 2, expect: "acquired" },
      { at: 1, op: "acquire", key, by: "2", lease, expect: { left: 239_999 } },
      { at: 1, op: "acquire", key, by: "2", lease, takeOver: true, expect: "acquired" },
      { at: 2, op: "renew", key, by: "1", lease, process: 2, expect: false },
      { at: 2, op: "complete", key, by: "1", value: "late", ttl: minute, process: 2, expect: false },
      { at: 2, op: "release", key, by: "1", process: 2 },
      { at: 3, op: "complete", key, by: "2", value: "2", ttl: minute, expect: true },
      { at: 3, op: "acquire", key, by: "3", lease, process: 2, expect: { value: "2", age: 0 } }
    ]
  },
  {
    name: "two processes see one state",
    steps: [
      { at: 0, op: "race", key, by: 50, acquired: 1 },
      { at: 0, op: "race", key, by: 50, process: 2, acquired: 0 },
      { at: 0, op: "remove", key, process: 2 },
      { at: 0, op: "set", key, value: "1", ttl: minute },
      { at: 1, op: "get", key, process: 2, expect: { value: "1", age: 1 } }
    ]
  },

  // -- records that cannot be read --
  {
    name: "a value that could not be read is replaced by a lease, and the next one comes too late",
    steps: [
      { at: 0, op: "set", key, value: "garbage", ttl: day },
      { at: 1, op: "acquire", key, by: "1", lease, expect: { value: "garbage", age: 1 } },
      { at: 1, op: "acquire", key, by: "1", lease, replacing: "garbage", expect: "acquired" },
      { at: 1, op: "get", key, expect: undefined },
      { at: 2, op: "acquire", key, by: "2", lease, replacing: "garbage", expect: { left: 239_999 } },
      { at: 3, op: "complete", key, by: "1", value: "good", ttl: minute, expect: true },
      { at: 3, op: "acquire", key, by: "2", lease, replacing: "garbage", expect: { value: "good", age: 0 } }
    ]
  },

  // -- bounds --
  {
    name: "A11 the least recently used value leaves first; reading is using",
    bounds: { maxEntries: 2 },
    steps: [
      { at: 0, op: "set", key: "a", value: "a", ttl: minute },
      { at: 0, op: "set", key: "b", value: "b", ttl: minute },
      { at: 1, op: "acquire", key: "a", by: "1", lease, expect: { value: "a", age: 1 } },
      { at: 1, op: "set", key: "c", value: "c", ttl: minute },
      { at: 1, op: "get", key: "b", expect: undefined },
      { at: 1, op: "get", key: "a", expect: { value: "a", age: 1 } }
    ]
  },
  {
    name: "a lease is an entry like any other: dropped, it is free; its holder may record while nobody took over",
    bounds: { maxEntries: 2 },
    steps: [
      { at: 0, op: "acquire", key: "a", by: "1", lease, expect: "acquired" },
      { at: 0, op: "acquire", key: "b", by: "2", lease, expect: "acquired" },
      { at: 0, op: "acquire", key: "c", by: "3", lease, expect: "acquired" },
      { at: 1, op: "acquire", key: "a", by: "4", lease, expect: "acquired" },
      { at: 1, op: "complete", key: "a", by: "1", value: "1", ttl: minute, expect: false },
      { at: 1, op: "complete", key: "b", by: "2", value: "2", ttl: minute, expect: true },
      { at: 1, op: "complete", key: "c", by: "3", value: "3", ttl: minute, expect: true },
      { at: 1, op: "get", key: "a", expect: undefined },
      { at: 1, op: "get", key: "b", expect: { value: "2", age: 0 } },
      { at: 1, op: "get", key: "c", expect: { value: "3", age: 0 } }
    ]
  },
  {
    name: "a value that is too large is not kept, and its lease ends",
    bounds: { maxEntries: 10, maxBytes: 10 },
    steps: [
      { at: 0, op: "acquire", key, by: "1", lease, expect: "acquired" },
      { at: 0, op: "complete", key, by: "1", value: "1", ttl: minute, size: 9, expect: true },
      { at: 0, op: "get", key, expect: undefined },
      { at: 0, op: "acquire", key, by: "2", lease, expect: "acquired" },
      { at: 0, op: "complete", key, by: "2", value: "2", ttl: minute, size: 8, expect: true },
      { at: 0, op: "get", key, expect: { value: "2", age: 0 } }
    ]
  }
]
