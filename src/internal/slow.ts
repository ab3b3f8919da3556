// Which calls under way have taken too long, found out when somebody looks: there are no timers.
//
// How long is too long is fixed, or learned: twice the 95th percentile of the last successes of the same kind (operation and
// model), because a model that thinks for a minute is not ill.
import { Recent } from "./recent.ts"

const SAMPLES = 100
const ENOUGH = 20
const SHARE = 0.95
const FACTOR = 2
/** Kinds remembered; more models than that are asked by mistake. */
const MAX_KINDS = 100

/** Thresholds by kind of call. */
export class Thresholds {
  private readonly most: number
  private readonly lowest: number
  private readonly highest: number
  private readonly kinds = new Map<string, Recent>()

  /** Milliseconds: the learned threshold is at least the one and at most the other, which speaks alone in the beginning. */
  constructor(least: number, most: number) {
    this.most = most
    this.lowest = Math.min(least, most) / FACTOR
    this.highest = most / FACTOR
  }

  add(kind: string, duration: number): void {
    let recent = this.kinds.get(kind)
    if (recent === undefined) {
      if (this.kinds.size >= MAX_KINDS) {
        const [oldest] = this.kinds.keys()
        this.kinds.delete(oldest!)
      }
      this.kinds.set(kind, recent = new Recent(SAMPLES, SHARE))
    }
    // What is beyond the bounds counts as at them: the threshold is the same, and as long as all calls are quick, nothing is
    // looked for.
    recent.add(Math.min(Math.max(duration, this.lowest), this.highest))
  }

  of(kind: string): number {
    const recent = this.kinds.get(kind)
    if (recent === undefined || recent.count < ENOUGH) return this.most
    return FACTOR * recent.quantile!
  }
}

/** A call under way. */
export interface Watched {
  /** Slow after this moment. */
  due: number
  /** Where it is in the heap; negative when it is not there: it ended, or turned slow. */
  place: number
}

/** Calls under way that are not slow yet, the first to turn slow on top. */
export class InFlight<T extends Watched> {
  size = 0
  /**
   * A heap in its first `size` places; the others are empty. It does not shrink: an array that comes and goes with every call
   * is allocated with every call.
   */
  private readonly heap: Array<T | undefined> = []

  /** What can never be slow is not kept. */
  start(call: T): void {
    if (call.due < Infinity) this.rise(call, this.size++)
  }

  /** It ended, slow or not. */
  end(call: T): void {
    const { heap } = this
    const { place } = call
    if (place < 0) return
    call.place = -1
    this.size -= 1
    const last = heap[this.size]!
    heap[this.size] = undefined
    if (last === call) return
    this.rise(last, place)
    this.sink(last, last.place)
  }

  /** The next call that has turned slow by now, once; first those that did first. */
  turned(now: number): T | undefined {
    const first = this.heap[0]
    if (first === undefined || now <= first.due) return undefined
    this.end(first)
    return first
  }

  private rise(call: T, from: number): void {
    const { heap } = this
    let i = from
    while (i > 0) {
      const parent = heap[(i - 1) >> 1]!
      if (parent.due <= call.due) break
      heap[i] = parent
      parent.place = i
      i = (i - 1) >> 1
    }
    heap[i] = call
    call.place = i
  }

  private sink(call: T, from: number): void {
    const { heap, size } = this
    let i = from
    for (;;) {
      let child = 2 * i + 1
      if (child >= size) break
      if (child + 1 < size && heap[child + 1]!.due < heap[child]!.due) child += 1
      const below = heap[child]!
      if (call.due <= below.due) break
      heap[i] = below
      below.place = i
      i = child
    }
    heap[i] = call
    call.place = i
  }
}
