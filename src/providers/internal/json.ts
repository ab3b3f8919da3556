// Narrow checks for data that comes from outside. They cost nothing on the streaming path and never throw.

export type Fields = Readonly<Record<string, unknown>>

export const isFields = (u: unknown): u is Fields => typeof u === "object" && u !== null && !Array.isArray(u)

const none: Fields = {}

/** The fields of an object; none when it is something else. */
export const fieldsOf = (u: unknown): Fields => isFields(u) ? u : none

export const listOf = (u: unknown): ReadonlyArray<unknown> => Array.isArray(u) ? u : []

/** A text that is not empty. */
export const textOf = (u: unknown): string | undefined => typeof u === "string" && u.length > 0 ? u : undefined

/** A number of tokens; anything else is unknown. */
export const countOf = (u: unknown): number | undefined =>
  typeof u === "number" && Number.isSafeInteger(u) && u >= 0 ? u : undefined

/** Parses JSON; `undefined`, which no JSON text means, when it is none. */
export const parse = (text: string): unknown => {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}

/** An object without the fields that are `undefined`. */
export const compact = (fields: Fields): Fields => {
  const out: Record<string, unknown> = {}
  for (const key of Object.keys(fields)) if (fields[key] !== undefined) out[key] = fields[key]
  return out
}
