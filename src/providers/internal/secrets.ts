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

const decoded = (text: string): string => {
  try {
    return decodeURIComponent(text)
  } catch {
    return text
  }
}

/** A secret as it may be written, in lower case. */
const writingsOf = (secret: string): ReadonlyArray<string> => {
  const bytes = encoder.encode(secret)
  const all = [secret, inJson(secret), inHex(bytes), ...inBase64(bytes)].map((text) => text.toLowerCase())
  return Array.from(new Set(all))
}

// Secrets are the same for all answers, or new with each.
const known = new WeakMap<ReadonlyArray<string>, Map<string, ReadonlyArray<string>>>()

const writings = (secrets: ReadonlyArray<string>, secret: string): ReadonlyArray<string> => {
  let all = known.get(secrets)
  if (all === undefined) known.set(secrets, all = new Map())
  let found = all.get(secret)
  if (found === undefined) all.set(secret, found = writingsOf(secret))
  return found
}

/** Does a text hold none of the secrets, however it is written? */
export const hidesNothing = (text: string, secrets: ReadonlyArray<string> | undefined): boolean => {
  let forms: Array<string> | undefined
  for (const secret of secrets ?? []) {
    if (secret.length < shortestSecret || secret.length > text.length) continue
    if (forms === undefined) {
      const lower = text.toLowerCase()
      forms = [lower]
      if (text.includes("%")) forms.push(decoded(text).toLowerCase())
      if (/[-_]/.test(text)) forms.push(lower.replaceAll("-", "+").replaceAll("_", "/"))
    }
    if (writings(secrets!, secret).some((writing) => forms!.some((form) => form.includes(writing)))) return false
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
