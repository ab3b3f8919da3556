// What JSON makes of a value, as plain data: that is what is sent, and what is compared.
import { renderPath } from "./issue.ts"

/** The most levels of arrays and objects inside each other. */
export const MAX_DEPTH = 1000

/** The most values in one piece of data: objects that share parts can be small in memory and endless as text. */
export const MAX_VALUES = 250_000

/** A value that JSON cannot hold. `path` leads to it from the value that was given; `""` is that value. */
export class NotJson {
  readonly path: string
  readonly rule: string
  readonly kind: string

  constructor(path: string, rule: string, kind: string) {
    this.path = path
    this.rule = rule
    this.kind = kind
  }
}

/**
 * A copy as `JSON.parse(JSON.stringify(value))` gives it, with the keys of objects in a fixed order if `sorted`.
 * `undefined` for what JSON leaves out. Throws {@link NotJson} and nothing else.
 */
export const plain = (value: unknown, sorted = false): unknown => {
  const copied = quickly(() => copy(value, sorted))
  if (copied !== UNUSUAL) return copied
  const walk = new Walk(sorted)
  try {
    return walk.value("", value, 0)
  } catch (error) {
    if (error instanceof NotJson) throw error
    throw new NotJson(renderPath(walk.path), "JSON", "an object that throws")
  }
}

/** How many values the quick ways look at. They call themselves, and parts that are shared again and again have no end. */
const QUICK = 1000
/** So many characters that are known are one of them: a value takes two or more, so they are not more than may be. */
const TEXT = 2 * (MAX_VALUES / QUICK - 10)
const UNUSUAL: unique symbol = Symbol("UNUSUAL")
let left = 0

/** Does what suffices for plain data, as almost all is; what it does not know, or what throws, is for the walk. */
const quickly = <A>(way: () => A): A | typeof UNUSUAL => {
  left = QUICK
  try {
    return way()
  } catch {
    return UNUSUAL
  }
}

const copy = (value: unknown, sorted: boolean): unknown => {
  if (typeof value === "string" || typeof value === "boolean" || value === null) return value
  if (typeof value === "number") return Number.isFinite(value) ? value + 0 : null // no -0
  if (typeof value !== "object" || left-- === 0 || "toJSON" in value) return UNUSUAL
  if (Array.isArray(value)) {
    if (value.length > left) return UNUSUAL
    const out: Array<unknown> = []
    for (const item of value) {
      const copied = copy(item, sorted)
      if (copied === UNUSUAL) return UNUSUAL
      out.push(copied)
    }
    return out
  }
  if (Object.getPrototypeOf(value) !== Object.prototype) return UNUSUAL
  const out: Record<string, unknown> = {}
  for (const key of sorted ? sortedKeys(value) : Object.keys(value)) {
    const copied = copy((value as Record<string, unknown>)[key], sorted)
    if (copied === UNUSUAL || key === "__proto__") return UNUSUAL
    out[key] = copied
  }
  return out
}

/** Of copies that nobody can change, their text. */
const texts = new WeakMap<object, string>()

/**
 * Frozen copies of what may be given again and again, as tools are: the same copy as long as what is given is still like it,
 * and its text is known.
 */
export const again = <A>(make: (value: object) => A): (value: object) => A => {
  /** `undefined`: it was given once. Whoever writes it anew for each call shall not pay for more than that. */
  const copies = new WeakMap<object, A & object | undefined>()
  return (value) => {
    const known = copies.get(value)
    if (known !== undefined && isSame(value, known)) return known
    const copied = make(value)
    if (typeof copied !== "object" || copied === null) return copied
    freeze(copied)
    if (!copies.has(value)) copies.set(value, undefined)
    else if (isSame(value, copied) && keepText(copied)) copies.set(value, copied)
    return copied
  }
}

/** Not of what is too much where it will stand, in a list or an object: that is refused each time. */
const keepText = (copied: object): boolean => {
  try {
    texts.set(copied, sortedText([copied]).slice(1, -1))
    return true
  } catch {
    return false
  }
}

/** Is a value, as far as JSON goes, like this copy? */
const isSame = (value: object, copied: object): boolean => {
  try {
    return isLike(value, copied)
  } catch {
    // What is given can do anything when it is read.
    return false
  }
}

const isLike = (value: unknown, copied: unknown): boolean => {
  if (typeof value !== "object" || value === null) return value === copied
  if (typeof copied !== "object" || copied === null || "toJSON" in value) return false
  if (Array.isArray(value)) {
    if (!Array.isArray(copied) || value.length !== copied.length) return false
    for (let i = 0; i < value.length; i++) if (!isLike(value[i], copied[i])) return false
    return true
  }
  if (Object.getPrototypeOf(value) !== Object.prototype || Array.isArray(copied)) return false
  const keys = Object.keys(copied)
  let i = 0
  for (const key in value) {
    if (key !== keys[i++]) return false
    if (!isLike((value as Record<string, unknown>)[key], (copied as Record<string, unknown>)[key])) return false
  }
  return i === keys.length
}

/** Freezes plain data, all of it. */
export const freeze = (value: object): void => {
  if (Object.isFrozen(value)) return
  for (const inner of Object.values(value)) if (typeof inner === "object" && inner !== null) freeze(inner)
  Object.freeze(value)
}

/** The JSON of a value, with the keys of objects in a fixed order: equal data is equal text. */
export const sortedText = (value: unknown): string => {
  const written = quickly(() => write(value))
  if (typeof written === "string") return written
  const copied = plain(value)
  left = Infinity
  // Not by `JSON.stringify`, which puts keys that are numbers first, in another order.
  return write(copied)!
}

// Short texts that need no escaping, as almost all names are, cost less without JSON.
const quoted = (text: string): string => {
  if (text.length > 50) return JSON.stringify(text)
  for (let i = 0; i < text.length; i++) {
    const code = text.charCodeAt(i)
    // From a space to `~`, without `"` and `\\`.
    if (code < 32 || code > 126 || code === 34 || code === 92) return JSON.stringify(text)
  }
  return `"${text}"`
}

/** The keys of an object, in a fixed order. */
const sortedKeys = (value: object): ReadonlyArray<string> => Object.keys(value).toSorted()

const write = (value: unknown): string | undefined => {
  if (typeof value === "string") return quoted(value)
  if (typeof value === "number") return Number.isFinite(value) ? String(value) : "null"
  if (typeof value === "boolean" || value === null) return String(value)
  if (typeof value !== "object" || left-- === 0) return undefined
  const known = texts.get(value)
  if (known !== undefined) {
    left -= Math.floor(known.length / TEXT)
    return left < 0 ? undefined : known
  }
  if (typeof (value as { readonly toJSON?: unknown }).toJSON === "function") return undefined
  let text = ""
  if (Array.isArray(value)) {
    if (value.length > left) return undefined
    for (const item of value) {
      const written = write(item)
      if (written === undefined) return undefined
      text += text === "" ? written : `,${written}`
    }
    return `[${text}]`
  }
  if (Object.getPrototypeOf(value) !== Object.prototype) return undefined
  for (const key of sortedKeys(value)) {
    const inner = (value as Record<string, unknown>)[key]
    if (inner === undefined) continue
    const written = write(inner)
    if (written === undefined) return undefined
    text += `${text === "" ? "" : ","}${quoted(key)}:${written}`
  }
  return `{${text}}`
}

// `Object(1)` is 1 in JSON.
const boxed = /^\[object (?:Number|String|Boolean|BigInt)\]$/
const unboxed = (value: object): unknown => {
  const prototype: unknown = Object.getPrototypeOf(value)
  return prototype !== Object.prototype && prototype !== Array.prototype &&
      boxed.test(Object.prototype.toString.call(value))
    ? value.valueOf()
    : value
}

class Walk {
  readonly path: Array<string | number> = []
  private readonly sorted: boolean
  private left = MAX_VALUES

  constructor(sorted: boolean) {
    this.sorted = sorted
  }

  value(key: string, given: unknown, depth: number): unknown {
    let value = given
    if (typeof value === "string") return value
    if (typeof value === "object" && value !== null || typeof value === "function" || typeof value === "bigint") {
      const { toJSON } = value as { readonly toJSON?: unknown }
      if (typeof toJSON === "function") value = toJSON.call(value, key)
    }
    if (typeof value === "object" && value !== null) value = unboxed(value)
    if (typeof value === "object" && value !== null) {
      if (depth === MAX_DEPTH) throw new NotJson("", `at most ${MAX_DEPTH.toLocaleString("en")} levels deep`, "deeper")
      return Array.isArray(value) ? this.list(value, depth + 1) : this.fields(value, depth + 1)
    }
    if (typeof value === "number") return Number.isFinite(value) ? value + 0 : null // no -0
    if (typeof value === "bigint") throw new NotJson(renderPath(this.path), "JSON", "a bigint")
    return typeof value === "function" || typeof value === "symbol" ? undefined : value
  }

  private list(values: ReadonlyArray<unknown>, depth: number): ReadonlyArray<unknown> {
    const { length } = values
    this.count(length)
    const out: Array<unknown> = []
    for (let i = 0; i < length; i++) {
      this.path.push(i)
      out.push(this.value(String(i), values[i], depth) ?? null)
      this.path.pop()
    }
    return out
  }

  private fields(value: object, depth: number): object {
    const keys = Object.keys(value)
    this.count(keys.length)
    if (this.sorted) keys.sort()
    const out: Record<string, unknown> = {}
    for (const key of keys) {
      this.path.push(key)
      const inner = this.value(key, (value as Record<string, unknown>)[key], depth)
      this.path.pop()
      if (inner !== undefined) put(out, key, inner)
    }
    return out
  }

  private count(values: number): void {
    this.left -= values
    if (this.left < 0) throw new NotJson("", `at most ${MAX_VALUES.toLocaleString("en")} values`, "more")
  }
}

/** Sets an own property, whatever its name. */
export const put = (fields: Record<string, unknown>, key: string, value: unknown): void => {
  if (key === "__proto__") {
    Object.defineProperty(fields, key, { configurable: true, enumerable: true, value, writable: true })
  } else fields[key] = value
}
