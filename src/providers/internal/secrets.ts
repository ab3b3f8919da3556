// Servers echo what they were sent, as it is or written in another way, and what they say must give no key away.
import * as Base64 from "effect/encoding/Base64"

// A key of fewer characters is a placeholder, such as "ollama", and would hide what says nothing about it.
const shortestSecret = 8

const encoder = new TextEncoder()

const inJson = (text: string): string => JSON.stringify(text).slice(1, -1)

const inHex = (bytes: Uint8Array): string => Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("")

/** What of it is the same in base64 whatever stands around it: three texts, by where it begins in a group of three bytes. */
const inBase64 = (bytes: Uint8Array): ReadonlyArray<string> =>
  [0, 1, 2].map((before) => {
    const shifted = new Uint8Array(before + bytes.length)
    shifted.set(bytes, before)
    return Base64.encode(shifted).slice(Math.ceil(before * 4 / 3), Math.floor(shifted.length * 4 / 3))
  })

// Each run by itself: a percent sign elsewhere, as in "100 %", makes the whole no text that can be decoded.
const decoded = (text: string): string =>
  text.replace(/(?:%[\da-f]{2})+/gi, (run) => {
    try {
      return decodeURIComponent(run)
    } catch {
      return run
    }
  })

/** A secret as it may be written, in lower case. */
interface Writings {
  readonly length: number
  readonly all: ReadonlyArray<string>
  /** Those that the other alphabet of base64 writes in another way. */
  readonly inTwoAlphabets: ReadonlyArray<string>
}

const writingsOf = (secret: string): Writings => {
  const bytes = encoder.encode(secret)
  const texts = [secret, inJson(secret), inHex(bytes), ...inBase64(bytes)].map((text) => text.toLowerCase())
  const all = Array.from(new Set(texts))
  return { length: secret.length, all, inTwoAlphabets: all.filter((text) => /[+/]/.test(text)) }
}

// Secrets are the same for all answers, or new with each.
const known = new WeakMap<ReadonlyArray<string>, ReadonlyArray<Writings>>()

const writings = (secrets: ReadonlyArray<string>): ReadonlyArray<Writings> => {
  let found = known.get(secrets)
  if (found === undefined) {
    found = secrets.filter(({ length }) => length >= shortestSecret).map(writingsOf)
    known.set(secrets, found)
  }
  return found
}

const holds = (text: string, some: ReadonlyArray<string>): boolean => {
  for (const one of some) if (text.includes(one)) return true
  return false
}

/** Does a text hold none of the secrets, however it is written? */
export const hidesNothing = (text: string, secrets: ReadonlyArray<string> | undefined): boolean => {
  if (secrets === undefined) return true
  let plain: string | undefined
  for (const { all, inTwoAlphabets, length } of writings(secrets)) {
    if (length > text.length) continue
    const lower = text.toLowerCase()
    if (holds(lower, all)) return false
    if (text.includes("%")) {
      plain ??= decoded(text).toLowerCase()
      if (holds(plain, all)) return false
    }
    if (inTwoAlphabets.length > 0 && holds(lower.replaceAll("-", "+").replaceAll("_", "/"), inTwoAlphabets)) {
      return false
    }
  }
  return true
}

const MASK = "[key]"

/** The text without the secrets in it; `undefined` where one is left that is written in another way. */
export const masked = (text: string, secrets: ReadonlyArray<string> | undefined): string | undefined => {
  if (hidesNothing(text, secrets)) return text
  let rest = text
  for (const secret of secrets!) {
    if (secret.length < shortestSecret) continue
    for (const writing of [secret, encodeURIComponent(secret), inJson(secret)]) rest = rest.replaceAll(writing, MASK)
  }
  return hidesNothing(rest, secrets) ? rest : undefined
}
