// The last values of something, kept in order of size, so that a quantile is read without sorting.
//
// Two arrays of numbers: a ring in the order of arrival, which says who leaves next, and the same values by size. A new
// value takes the place of the one that leaves and moves from there to its own.

export class Recent {
  /** How many values there are; at most what was asked for. */
  count = 0
  private readonly arrived: Float64Array
  private readonly sorted: Float64Array
  private next = 0

  constructor(most: number) {
    this.arrived = new Float64Array(most)
    this.sorted = new Float64Array(most)
  }

  /** Adds a value, in place of the oldest when there are enough. What is not a finite number is left out. */
  add(value: number): void {
    if (!Number.isFinite(value)) return
    const { arrived, sorted } = this
    let hole = this.count < arrived.length ? this.count++ : this.placeOf(arrived[this.next]!)
    arrived[this.next] = value
    this.next = (this.next + 1) % arrived.length
    for (; hole > 0 && sorted[hole - 1]! > value; hole--) sorted[hole] = sorted[hole - 1]!
    for (; hole + 1 < this.count && sorted[hole + 1]! < value; hole++) sorted[hole] = sorted[hole + 1]!
    sorted[hole] = value
  }

  /** The smallest value that at least the share `q` of all does not exceed (nearest rank). */
  quantile(q: number): number | undefined {
    return this.count === 0 ? undefined : this.sorted[Math.max(Math.ceil(q * this.count), 1) - 1]
  }

  private placeOf(value: number): number {
    let low = 0
    let high = this.count - 1
    while (low < high) {
      const middle = (low + high) >> 1
      if (this.sorted[middle]! < value) low = middle + 1
      else high = middle
    }
    return low
  }
}
