// What every store of circuits must do, as data: what one process has told is what the others are told, with times of the store.
import type { CircuitChange, SharedCircuit } from "../../resilience/internal/circuits.ts"

type Seen = Omit<SharedCircuit, "generation">

/**
 * `at` = milliseconds since the store was made. `circuit`: what the answer says of it, without its generation. A slot has the
 * name that it was claimed with.
 */
export type CircuitStep =
  & { readonly at: number; readonly key?: string }
  & (
    | {
      readonly op: "trip"
      readonly change: Exclude<CircuitChange, { readonly _tag: "Closed" }> | {
        readonly _tag: "Closed"
        readonly slot: string
      }
      readonly circuit: Seen | undefined
      /** Does it change anything? Then the generation is higher, and whoever watches is told. */
      readonly changes: boolean
    }
    | {
      readonly op: "probe"
      readonly slots?: number
      readonly lease: number
      /** The name of the slot; `undefined` when there is none. */
      readonly slot: string | undefined
    }
    /** Many ask for a probe at once: how many get one? */
    | { readonly op: "race"; readonly by: number; readonly slots: number; readonly granted: number }
    | { readonly op: "renew"; readonly slot: string; readonly lease: number }
    | { readonly op: "release"; readonly slot: string }
    | { readonly op: "look"; readonly circuit: Seen | undefined }
  )

export interface CircuitVector {
  readonly name: string
  readonly steps: ReadonlyArray<CircuitStep>
}

const open = (left: number, openFor: number, openings = 1): Seen => ({
  mode: "auto",
  isOpen: true,
  left,
  openFor,
  openings
})
const closed = (openFor = 0, openings = 0): Seen => ({ mode: "auto", isOpen: false, left: 0, openFor, openings })
const forced = (mode: Seen["mode"]): Seen => ({ ...closed(), mode })
const opens = (at: number, openFor: number, circuit: Seen, openings = 1): CircuitStep => ({
  at,
  op: "trip",
  change: { _tag: "Opened", openFor, openings },
  circuit,
  changes: true
})
const closes = (at: number, slot: string, circuit: Seen | undefined, changes = true): CircuitStep => ({
  at,
  op: "trip",
  change: { _tag: "Closed", slot },
  circuit,
  changes
})
const forces = (at: number, mode: Seen["mode"], circuit: Seen, changes = true): CircuitStep => ({
  at,
  op: "trip",
  change: { _tag: "Forced", mode },
  circuit,
  changes
})
const probe = (at: number, slot: string | undefined, lease = 1000, slots = 1): CircuitStep => ({
  at,
  op: "probe",
  slots,
  lease,
  slot
})
const look = (at: number, circuit: Seen | undefined): CircuitStep => ({ at, op: "look", circuit })

export const circuitVectors: ReadonlyArray<CircuitVector> = [
  {
    name: "nothing is known of a circuit that nobody told of, and it may be probed",
    steps: [look(0, undefined), probe(0, "a"), probe(0, undefined), look(0, undefined)]
  },
  {
    name: "an open circuit is open for all until its time is over, and due from then on",
    steps: [
      opens(0, 5000, open(5000, 5000)),
      look(1, open(4999, 5000)),
      probe(4999, undefined),
      look(5000, open(0, 5000)),
      probe(5000, "a")
    ]
  },
  {
    name: "of several open times the one that ends last holds",
    steps: [
      opens(0, 5000, open(5000, 5000)),
      opens(100, 1000, open(4900, 5000)),
      opens(200, 9000, open(9000, 9000, 2), 2),
      opens(300, 10_000, open(10_000, 10_000, 2)),
      look(10_299, open(1, 10_000, 2))
    ]
  },
  {
    name: "an open time after the last one was over counts anew",
    steps: [opens(0, 1000, open(1000, 1000, 4), 4), opens(1000, 500, open(500, 500))]
  },
  {
    name: "of many that ask at once, one probes",
    steps: [
      opens(0, 10, open(10, 10)),
      { at: 10, op: "race", by: 8, slots: 1, granted: 1 }
    ]
  },
  {
    name: "two probes at a time",
    steps: [
      opens(0, 10, open(10, 10)),
      probe(10, "a", 1000, 2),
      probe(10, "b", 1000, 2),
      probe(10, undefined, 1000, 2),
      { at: 20, op: "release", slot: "a" },
      probe(20, "c", 1000, 2),
      probe(20, undefined, 1000, 2)
    ]
  },
  {
    name: "a slot ends with its lease, unless it is renewed in time",
    steps: [
      opens(0, 10, open(10, 10)),
      probe(10, "a"),
      probe(1009, undefined),
      { at: 1009, op: "renew", slot: "a", lease: 1000 },
      probe(2008, undefined),
      probe(2009, "b"),
      { at: 2010, op: "renew", slot: "a", lease: 9000 },
      probe(3009, "c")
    ]
  },
  {
    name: "who found that all is well closes it for all",
    steps: [
      opens(0, 10, open(10, 10, 3), 3),
      probe(10, "a"),
      closes(20, "a", closed(10, 3)),
      look(21, closed(10, 3)),
      opens(30, 40, open(40, 40, 4), 4)
    ]
  },
  {
    name: "a probe that has lost its slot closes nothing",
    steps: [
      opens(0, 10, open(10, 10)),
      probe(10, "a"),
      probe(1010, "b"),
      closes(1011, "a", open(0, 10), false),
      opens(1012, 20, open(20, 20, 2), 2),
      closes(1013, "b", open(19, 20, 2), false)
    ]
  },
  {
    name: "a transition ends the slots of those that probed before it",
    steps: [opens(0, 10, open(10, 10)), probe(10, "a"), opens(20, 5, open(5, 5, 2), 2), probe(25, "b")]
  },
  {
    name: "what an operator has set holds for all, and nobody probes",
    steps: [
      forces(0, "open", forced("open")),
      forces(1, "open", forced("open"), false),
      probe(1, undefined),
      {
        at: 2,
        op: "trip",
        change: { _tag: "Opened", openFor: 5000, openings: 1 },
        circuit: forced("open"),
        changes: false
      },
      look(3_600_000, forced("open")),
      forces(3_600_001, "auto", closed()),
      opens(3_600_002, 10, open(10, 10))
    ]
  },
  {
    name: "an operator's word counts also where nothing was known",
    steps: [forces(0, "auto", closed()), look(1, closed()), forces(2, "auto", closed(), false)]
  },
  {
    name: "circuits with other keys are others",
    steps: [
      opens(0, 5000, open(5000, 5000)),
      { at: 0, key: "other", op: "look", circuit: undefined },
      { at: 0, key: "other", op: "probe", lease: 10, slot: "a" },
      probe(0, undefined)
    ]
  }
]
