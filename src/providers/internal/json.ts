// Narrow checks for data that comes from outside. They cost nothing on the streaming path and never throw.

export type Fields = Readonly<Record<string, unknown>>

export const isFields = (u: unknown): u is Fields => typeof u === "object" && u !== null && !Array.isArray(u)

const none: Fields = {}

/** The fields of an object; none when it is something else. */
export const fieldsOf = (u: unknown): Fields => isFields(u) ? u : none

export const listOf = (u: unknown): ReadonlyArray<unknown> => Array.isArray(u) ? u : []

/** The things of a list; one alone, where a list is usual, is a list of it. */
export const listed = (u: unknown): ReadonlyArray<unknown> =>
  Array.isArray(u) ? u : u === undefined || u === null ? [] : [u]

/** A text that is not empty. */
export const textOf = (u: unknown): string | undefined => typeof u === "string" && u.length > 0 ? u : undefined

/** More tokens than any answer has: what is beyond is another number, such as the -1 of a counter without a sign. */
const mostTokens = 1e9

/** A number of tokens; anything else is unknown. */
export const countOf = (u: unknown): number | undefined =>
  typeof u === "number" && Number.isInteger(u) && u >= 0 && u <= mostTokens ? Math.abs(u) : undefined

/** A place among others; some servers tell the number as a text. */
export const placeOf = (u: unknown): number | undefined =>
  countOf(typeof u === "string" && /^\d{1,9}$/.test(u) ? Number(u) : u)

const isPiece = (u: unknown): boolean => typeof u === "string" || u === null || isFields(u)

/** Content as servers tell it: a text, a piece, a list of these, or nothing. */
export const isContent = (u: unknown): boolean => u === undefined || (Array.isArray(u) ? u.every(isPiece) : isPiece(u))

/** The text of a piece of content, which may be that text itself. */
export const textOfPiece = (piece: unknown): string | undefined => {
  const text = isFields(piece) ? piece["text"] : piece
  return textOf(text) ?? textOf(fieldsOf(text)["value"])
}

/** The texts in a content, as one. */
export const textOfContent = (content: unknown, separator = ""): string =>
  typeof content === "string" ? content : listed(content).flatMap((piece) => textOfPiece(piece) ?? []).join(separator)

/** Levels that JSON may nest: beyond, what walks through it would meet the end of the stack. */
export const MAX_DEPTH = 1000

/** What {@link parse} makes of JSON that nests deeper than {@link MAX_DEPTH}: no value of any protocol. */
export const TOO_DEEP = Symbol("nested too deep")

/** Follows the nesting of a JSON text, which may come in pieces, without parsing it. */
export class Nesting {
  private depth = 0
  private inText = false
  private escaped = false
  /** Is it nested deeper than {@link MAX_DEPTH}? */
  isTooDeep = false
  /** Did an object or list begin and end? */
  isWhole = false

  feed(text: string): void {
    const next = (char: string, from: number): number => {
      const found = text.indexOf(char, from)
      return found === -1 ? Infinity : found
    }
    // Long strings are not looked at character by character.
    let quote = -1
    let escape = -1
    let i = this.escaped ? 1 : 0
    this.escaped = false
    while (i < text.length) {
      if (this.inText) {
        if (quote < i) quote = next("\"", i)
        if (escape < i) escape = next("\\", i)
        if (escape < quote) i = escape + 2
        else {
          i = quote + 1
          this.inText = quote === Infinity
        }
        this.escaped = i === text.length + 1
        continue
      }
      const char = text.charCodeAt(i++)
      if (char === 0x22) this.inText = true // quote
      else if (char === 0x5b || char === 0x7b) { // [ {
        this.isWhole = false
        if (++this.depth > MAX_DEPTH) {
          this.isTooDeep = true
          return
        }
      } else if (char === 0x5d || char === 0x7d) this.isWhole = --this.depth === 0 // ] }
    }
  }
}

/** Parses JSON; `undefined`, which no JSON text means, when it is none, and {@link TOO_DEEP} when it nests too deep. */
export const parse = (text: string): unknown => {
  // A level costs two characters.
  if (text.length > 2 * MAX_DEPTH) {
    const nesting = new Nesting()
    nesting.feed(text)
    if (nesting.isTooDeep) return TOO_DEEP
  }
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}

// Every escape is taken as one, so that what follows an escaped backslash is none.
const escapes = /\\(?:ud[89ab][\da-f]{2}\\ud[c-f][\da-f]{2}|(ud[89a-f][\da-f]{2})|[^])/gi
const anyHalf = /\\ud/i

/**
 * A JSON text whose strings are well-formed: half of a surrogate pair, which vendors refuse, becomes U+FFFD. In what
 * `JSON.stringify` writes, such a half is the only one that is an escape.
 */
export const wellFormed = (json: string): string =>
  // Prompts hold few backslashes, and to search for one character is cheap.
  json.includes("\\") && anyHalf.test(json)
    ? json.replace(escapes, (all, half: string | undefined) => half === undefined ? all : "\\ufffd")
    : json

/** An object without the fields that are `undefined`. */
export const compact = (fields: Fields): Fields => {
  const out: Record<string, unknown> = {}
  for (const key of Object.keys(fields)) if (fields[key] !== undefined) out[key] = fields[key]
  return out
}
