// Values by keys that may be long texts. A map reads all of a key to find it, at more than a nanosecond for each character,
// and of keys of more than 16,383 characters it sees nothing but the length. So long keys are filed by a sample of them, and
// only those whose samples are the same, by more.

/** Up to here a key itself costs less than a sample of it. */
const WHOLE = 2048

/** Above so many characters V8 hashes texts by nothing but their length: a map would compare each with all as long. */
const MOST_HASHED = 16_383

const WINDOW = 64
const PIECE = 4000

/**
 * What a key is filed by: itself, or its length and four places. What a question begins with, tools and the like, is often
 * that of all others, too.
 */
export const nameOf = (key: string): string => {
  if (key.length <= WHOLE) return key
  const quarter = key.length >> 2
  const at = (from: number): string => key.slice(from, from + WINDOW)
  return `${key.length}:${at(quarter)}${at(2 * quarter)}${at(3 * quarter)}${key.slice(-WINDOW)}`
}

/** What keys of one name are told apart by: all of it, or the ends and a larger sample of what is between. */
const longNameOf = (key: string): string => {
  if (key.length <= MOST_HASHED) return key
  let sample = ""
  for (let i = PIECE, step = Math.ceil(key.length / PIECE); i < key.length - PIECE; i += step) sample += key[i]
  return `${key.length}:${key.slice(0, PIECE)}${sample}${key.slice(-PIECE)}`
}

/** The most characters that a shelf keeps of a key besides the key. */
export const lengthOfNames = (key: string): number =>
  (key.length <= WHOLE ? 0 : 4 * WINDOW + 8) + (key.length <= MOST_HASHED ? 0 : 3 * PIECE)

interface Named {
  readonly key: string
  /** As {@link nameOf} gives it. */
  readonly name: string
}

export class Shelf<A extends Named> {
  size = 0
  private readonly places = new Map<string, A | Map<string, A>>()

  get(key: string): A | undefined {
    const there = this.at(nameOf(key), key)
    return there?.key === key ? there : undefined
  }

  /** What stands where this key has its place. If it is of another key, it has to go before this one can come. */
  at(name: string, key: string): A | undefined {
    const there = this.places.get(name)
    if (there === undefined) return undefined
    if (there instanceof Map) return there.get(longNameOf(key))
    return there.key === key || longNameOf(there.key) === longNameOf(key) ? there : undefined
  }

  /** Puts a value in its place, or in that of the value with the same key. */
  set(value: A): void {
    const { key, name } = value
    const there = this.places.get(name)
    if (this.at(name, key) === undefined) this.size += 1
    if (there instanceof Map) there.set(longNameOf(key), value)
    else if (there === undefined || there.key === key) this.places.set(name, value)
    else this.places.set(name, new Map([[longNameOf(there.key), there], [longNameOf(key), value]]))
  }

  delete({ key, name }: A): void {
    const there = this.places.get(name)
    if (there instanceof Map) {
      there.delete(longNameOf(key))
      if (there.size === 0) this.places.delete(name)
    } else this.places.delete(name)
    this.size -= 1
  }
}
