// What is to happen, by time and then by order: a binary heap whose entries know their place, so that one which is
// cancelled is gone at once.

export interface Entry {
  readonly at: number
  readonly fire: () => void
  readonly order: number
  /** In the heap; -1 when it is no longer there. */
  place: number
}

export class Agenda {
  private readonly entries: Array<Entry> = []
  private order = 0

  get size(): number {
    return this.entries.length
  }

  add(at: number, fire: () => void): Entry {
    const entry = { at, fire, order: this.order++, place: this.entries.length }
    this.entries.push(entry)
    this.rise(entry)
    return entry
  }

  next(): Entry | undefined {
    const first = this.entries[0]
    if (first !== undefined) this.remove(first)
    return first
  }

  remove(entry: Entry): void {
    const { place } = entry
    if (place < 0) return
    entry.place = -1
    const last = this.entries.pop()!
    if (last === entry) return
    this.put(last, place)
    this.rise(last)
    this.sink(last)
  }

  private put(entry: Entry, place: number): void {
    entry.place = place
    this.entries[place] = entry
  }

  private rise(entry: Entry): void {
    while (entry.place > 0) {
      const { place } = entry
      const parent = this.entries[(place - 1) >> 1]!
      if (!isBefore(entry, parent)) return
      this.put(entry, parent.place)
      this.put(parent, place)
    }
  }

  private sink(entry: Entry): void {
    for (;;) {
      const { place } = entry
      const left = this.entries[2 * place + 1]
      const right = this.entries[2 * place + 2]
      const child = right !== undefined && isBefore(right, left!) ? right : left
      if (child === undefined || !isBefore(child, entry)) return
      this.put(entry, child.place)
      this.put(child, place)
    }
  }
}

const isBefore = (a: Entry, b: Entry): boolean => a.at < b.at || (a.at === b.at && a.order < b.order)
