// The last values of something, and one quantile of them, which is asked for far more often than it changes.
//
// A ring in the order of arrival says who leaves next. The quantile is kept with the number of values below and at it, so
// that most values only move a counter; where it changes, its neighbour is looked for among all.

export class Recent {
  /** How many values there are; at most what was asked for. */
  count = 0
  /** The smallest value that at least the share `q` of all does not exceed (nearest rank). */
  quantile: number | undefined
  private readonly arrived: Float64Array
  private readonly q: number
  private next = 0
  /** Values that are smaller than the quantile, and values that are the same. */
  private below = 0
  private equal = 0

  constructor(most: number, q: number) {
    this.arrived = new Float64Array(most)
    this.q = q
  }

  /** Adds a value, in place of the oldest when there are enough. What is not a finite number is left out. */
  add(value: number): void {
    if (!Number.isFinite(value)) return
    const { arrived, count, next } = this
    const oldest = arrived[next]!
    arrived[next] = value
    this.next = next + 1 === arrived.length ? 0 : next + 1
    if (count < arrived.length) this.count += 1
    else if (oldest === value) return
    else this.counted(oldest, -1)
    this.quantile ??= value
    this.counted(value, 1)
    const rank = Math.max(Math.ceil(this.q * this.count), 1)
    while (this.below >= rank) this.moveDown()
    while (this.below + this.equal < rank) this.moveUp()
  }

  private counted(value: number, by: 1 | -1): void {
    if (value < this.quantile!) this.below += by
    else if (value === this.quantile) this.equal += by
  }

  private moveDown(): void {
    const { arrived, count, quantile } = this
    let nearest = -Infinity
    let equal = 0
    for (let i = 0; i < count; i++) {
      const value = arrived[i]!
      if (value >= quantile! || value < nearest) continue
      equal = value === nearest ? equal + 1 : 1
      nearest = value
    }
    this.quantile = nearest
    this.below -= equal
    this.equal = equal
  }

  private moveUp(): void {
    const { arrived, count, quantile } = this
    let nearest = Infinity
    let equal = 0
    for (let i = 0; i < count; i++) {
      const value = arrived[i]!
      if (value <= quantile! || value > nearest) continue
      equal = value === nearest ? equal + 1 : 1
      nearest = value
    }
    this.quantile = nearest
    this.below += this.equal
    this.equal = equal
  }
}
