// What is handed out is the caller's own: it may be changed without changing what others are given.

/** Deeper data is of no provider that keeps the limit of levels; it is shared, not a stack overflow. */
const MOST_LEVELS = 1000

/** A deep copy of plain data: arrays and plain objects are copied, everything else is itself. */
export const copy = <A>(value: A): A => copyAt(value, 0) as A

const copyAt = (value: unknown, level: number): unknown => {
  if (typeof value !== "object" || value === null || level > MOST_LEVELS) return value
  if (Array.isArray(value)) return value.map((item) => copyAt(item, level + 1))
  const prototype: unknown = Object.getPrototypeOf(value)
  if (prototype !== Object.prototype && prototype !== null) return value
  const own: Record<string, unknown> = { ...value }
  for (const key in own) {
    const inner = own[key]
    // Texts and numbers are most of it.
    if (typeof inner !== "object" || inner === null) continue
    const copied = copyAt(inner, level + 1)
    if (key === "__proto__") {
      Object.defineProperty(own, key, { value: copied, enumerable: true, configurable: true, writable: true })
    } else own[key] = copied
  }
  return own
}
