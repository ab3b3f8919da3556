// What a server can tell of its client by the requests alone. Pure: no sockets, no timers.
import type { Recorded, Verdict } from "../FaultServer.ts"

export interface Entry {
  readonly seen: { -readonly [K in keyof Recorded]: Recorded[K] }
  /** Milliseconds since the server was made; absent while it is being answered. */
  endedAt: number | undefined
  /** All of a healthy answer has been sent. */
  whole: boolean
  /** What the refusal asked to wait, in milliseconds. */
  wait: number | undefined
}

// A client's clock, and a timer that fires a moment early.
const TOLERANCE_MILLIS = 5
// A client leaves a moment before its socket is seen to close.
const NOTICED_MILLIS = 50

type Fault = "ignoredRetryAfter" | "earlyRetries" | "duplicateSends"

export const grade = (
  entries: ReadonlyArray<Entry>,
  { answered, pauseMillis }: { readonly answered: number | undefined; readonly pauseMillis: number }
): Verdict => {
  const counts = { ignoredRetryAfter: 0, earlyRetries: 0, duplicateSends: 0 }
  const findings: Array<string> = []
  const bySame = new Map<string, Array<Numbered>>()
  let whole = 0

  for (const [i, entry] of entries.entries()) {
    const { at, dialect } = entry.seen
    if (dialect === undefined) continue
    if (entry.whole) whole++
    const identity = identityOf(entry.seen)
    const earlier = bySame.get(identity) ?? []
    const found = duplicate(earlier, at) ?? hasty(earlier.at(-1), at, pauseMillis)
    if (found !== undefined) {
      counts[found[0]]++
      findings.push(`Request ${i + 1} ${found[1]}.`)
    }
    earlier.push([entry, i + 1])
    bySame.set(identity, earlier)
  }

  const unreadTruncations = answered === undefined ? undefined : Math.max(0, answered - whole)
  if (unreadTruncations !== undefined && unreadTruncations > 0) {
    findings.push(`The client took ${answered} answers for whole; ${whole} were.`)
  }
  return { ...counts, unreadTruncations, findings }
}

type Numbered = readonly [entry: Entry, number: number]
type Found = readonly [fault: Fault, words: string] | undefined

const duplicate = (earlier: ReadonlyArray<Numbered>, at: number): Found => {
  for (const [{ endedAt = Infinity, seen: { aborted }, whole }, number] of earlier) {
    if (endedAt > at + (aborted ? NOTICED_MILLIS : 0)) {
      return ["duplicateSends", `is request ${number} again, which was still being answered`]
    }
    if (whole) return ["duplicateSends", `is request ${number} again, which had been answered`]
  }
  return undefined
}

const hasty = (previous: Numbered | undefined, at: number, pauseMillis: number): Found => {
  if (previous === undefined) return undefined
  const [{ endedAt = at, wait }, number] = previous
  const pause = at - endedAt
  if (pause + TOLERANCE_MILLIS >= (wait ?? pauseMillis)) return undefined
  const after = `came ${Math.max(0, Math.round(pause))} ms after the failure of request ${number}`
  return wait === undefined
    ? ["earlyRetries", after]
    : ["ignoredRetryAfter", `${after}, which asked to wait ${wait} ms`]
}

/** The same text under another key is another call; under none, the same. */
const identityOf = ({ body, headers, path }: Recorded): string =>
  JSON.stringify([path, headers["idempotency-key"], body])
