// How often a call may ask, and how long it may take, in the worst case: from what a client is built from.
//
// The worst case is over everything that is not in the settings: what vendors answer and when, who stands in the lines,
// which targets are away at which moment, the dice, and which targets a request asks for. So a target may have all of the
// deadline, because no other one can be asked while it is chosen, and the next one may be back when it has failed.
import type * as Hedge from "../resilience/Hedge.ts"
import type { Settings } from "./settings.ts"
import { lineAt, longestHint, MOST, TOKEN, type Turn, turnOf } from "./turn.ts"

/** In the order of the targets; milliseconds. */
export interface Bounds {
  readonly attempts: number
  readonly attemptsOf: ReadonlyArray<number>
  /** Of a `complete`, until an answer or a failure; and the same if each target were the only one. */
  readonly complete: number
  readonly completeOf: ReadonlyArray<number>
  /** Of a stream, until its first content or a failure. */
  readonly firstPart: number
  /** Of a call that joins another one: that one's work may begin before it, and go on in its time. */
  readonly joined: number
  /** Waits of one attempt for what it must hold. */
  readonly lineOf: ReadonlyArray<number>
}

/** `guarded`: guards of a user's own stand there, which may let a call wait as long as they like. */
export const boundsOf = (settings: Settings, guarded: boolean): Bounds => {
  const { failover, retry, timers } = settings
  const deadline = timers?.deadline ?? Infinity
  const attempt = timers?.attempt ?? Infinity
  const firstPart = Math.min(attempt, timers?.firstToken ?? Infinity)
  const lineOf = settings.targets.map((target) => guarded ? Infinity : lineAt(settings, target))
  const walk = (limit: number, isStream: boolean): Walk => ({
    settings,
    hedge: settings.hedge?.delay === "p95" && !isStream ? undefined : settings.hedge,
    deadline: Infinity,
    turns: lineOf.map((line, i) => turnOf(settings, i, line, limit, retry?.maxRetryAfter ?? 0)),
    earlier: lineOf.map((line, i) => turnOf(settings, i, line, limit, longestHint(settings, i)))
  })
  const whole = walk(attempt, false)
  const stream = walk(firstPart, true)
  const attemptsOf = whole.turns.map((_, i) =>
    Math.max(...[whole, stream].map((one) => most({ ...one, deadline }, [i])))
  )
  const all = whole.turns.map((_, i) => i)
  return {
    attempts: failover === undefined
      ? Math.max(...attemptsOf)
      : Math.max(...[whole, stream].map((one) => most({ ...one, deadline }, all))),
    attemptsOf,
    complete: longest({ ...whole, deadline }, all),
    completeOf: all.map((i) => longest({ ...whole, deadline }, [i])),
    firstPart: longest({ ...stream, deadline }, all),
    joined: Math.min(deadline, longest(whole, all)),
    lineOf
  }
}

// -----------------------------------------------------------------------------
// attempts
// -----------------------------------------------------------------------------

interface Walk {
  readonly settings: Settings
  readonly hedge: Hedge.Policy | undefined
  readonly deadline: number
  /** Of a target after which no other can be asked, and of one that stands before such. */
  readonly turns: ReadonlyArray<Turn>
  readonly earlier: ReadonlyArray<Turn>
}

/** The time that each retry takes at least. */
const costs = ({ pauses }: Turn): ReadonlyArray<number> => {
  let failedAt = 0
  return pauses.map(({ least, paidAt }) => {
    const before = failedAt
    failedAt = Math.max(failedAt, paidAt) + least
    return failedAt - before
  })
}

/** Attempts of a call that these targets fail at once: as many retries as fit, the cheapest first. */
const most = (walk: Walk, of: ReadonlyArray<number>): number => {
  const { deadline, settings: { failover }, turns } = walk
  let retries = 0
  let spent = 0
  for (const cost of of.flatMap((i) => costs(turns[i]!)).toSorted((a, b) => a - b)) {
    spent += cost
    if (spent >= deadline) break
    retries += 1
  }
  if (spent < deadline) { for (const i of of) retries += turns[i]!.further }
  return Math.min(of.length + retries + hedges(walk, of, retries), failover?.maxAttempts ?? Infinity)
}

/** Hedges of a call: each begins at least the delay after the line before it. */
const hedges = (walk: Walk, of: ReadonlyArray<number>, retries: number): number => {
  const { deadline, hedge, settings: { budget, failover, targets } } = walk
  if (hedge === undefined || hedge.delay === Infinity) return 0
  const delay = hedge.delay === "p95" ? hedge.minDelay : hedge.delay
  const rival = Math.max(...of.map((i) => walk.turns[i]!.attempt))
  const inTurn = Math.max(...of.map((i) => {
    const { attempt, pauses } = walk.turns[i]!
    const end = pauses.reduce((sum, { most }) => sum + most + attempt, attempt)
    return linesIn({ delay, end, rival, deadline, maxHedges: hedge.maxHedges })
  }))
  // One that goes to a later target takes that one's turn; only where none can be asked, the target itself is asked twice.
  const mayBeAway = failover !== undefined &&
    (failover.coolDown > 0 || targets.some(({ circuit }) => circuit !== undefined))
  const due = Math.min(inTurn * (mayBeAway ? of.length : 1), dueBefore(deadline, delay))
  if (budget === undefined) return due
  const { capacity, perAttempt, perMillisecond } = budget
  if (capacity < TOKEN) return 0
  if (perAttempt > 0) return due
  const trickle = perMillisecond === 0 ? 0 : deadline * perMillisecond
  return Math.max(0, Math.min(due, of.length * Math.floor((capacity + trickle) / TOKEN) - retries))
}

/** How many moments, each a delay after the one before, come before the end. */
const dueBefore = (end: number, delay: number): number => Math.max(Math.ceil(end / delay) - 1, 0)

/** The hedges of one turn: those that are due before it ends, and then those that are due before the last hedge does. */
const linesIn = (
  { deadline, delay, end, maxHedges, rival }: {
    readonly delay: number
    readonly end: number
    readonly rival: number
    readonly deadline: number
    readonly maxHedges: number
  }
): number => {
  const own = dueBefore(Math.min(end, deadline), delay)
  return Math.min(own > 0 && delay < rival ? dueBefore(deadline, delay) : own, maxHedges)
}

// -----------------------------------------------------------------------------
// time
// -----------------------------------------------------------------------------

interface Span {
  readonly from: number
  readonly to: number
}

/** The latest moment at which a call of these targets ends, in whatever order they are asked. */
const longest = (walk: Walk, of: ReadonlyArray<number>): number => {
  const { earlier, hedge, settings: { failover }, turns } = walk
  if (failover === undefined && of.length > 1) return Math.max(...of.map((i) => longest(walk, [i])))
  const end = Math.max(
    ...of.map((last) => endOf(walk, [...of.filter((i) => i !== last).map((i) => earlier[i]!), turns[last]!]))
  )
  const { maxAttempts } = failover ?? {}
  return maxAttempts === undefined || hedge !== undefined
    ? end
    : Math.min(end, withAttempts(of.map((i) => turns[i]!), maxAttempts))
}

const endOf = (walk: Walk, turns: ReadonlyArray<Turn>): number => {
  let begins: ReadonlyArray<Span> = [{ from: 0, to: 0 }]
  for (const [at, turn] of turns.entries()) {
    // A hedge goes to the target itself or to a later one, in whose lines it may wait.
    const rival = at === turns.length - 1 ? turn.attempt : Math.max(...turns.map(({ attempt }) => attempt))
    const ends = begins.flatMap((begin) => endsOf(walk, turn, begin, rival))
    begins = merged([...begins, ...ends])
  }
  return begins.at(-1)!.to
}

/**
 * When a turn can end that begins within a span. What would begin after the deadline is not begun: a call that would have to
 * wait for it ends before.
 */
const endsOf = (
  { deadline, hedge }: Walk,
  { attempt, further, pauses }: Turn,
  begin: Span,
  rival: number
): ReadonlyArray<Span> => {
  const ends: Array<Span> = []
  let start = begin
  for (let k = 0;; k++) {
    const end = { from: start.from, to: Math.min(start.to + attempt, deadline) }
    ends.push(end)
    const pause = pauses[k]
    if (pause === undefined) {
      const more = further === 0 ? 0 : further * (attempt + pauses.at(-1)!.most)
      ends.push({ from: end.from, to: Math.min(end.to + more, deadline) })
      break
    }
    const from = Math.max(end.from, begin.from + pause.paidAt) + pause.least
    if (from >= deadline) break
    start = { from, to: Math.min(end.to + pause.most, deadline) }
  }
  if (hedge === undefined) return ends
  const { from, to } = ends.at(-1)!
  if (to === deadline) return ends
  const last = lastHedge(hedge, { attempt, begin: begin.to, deadline, rival, to })
  return [...ends, { from, to: Math.max(to, Math.min(last + rival, deadline)) }]
}

/** When the last hedge of a turn begins, if it ends at `to` without one. */
const lastHedge = (
  { delay, maxHedges, minDelay }: Hedge.Policy,
  { attempt, begin, deadline, rival, to }: {
    readonly attempt: number
    readonly begin: number
    readonly deadline: number
    readonly rival: number
    readonly to: number
  }
): number => {
  if (delay !== "p95") {
    const lines = linesIn({ delay, end: to - begin, rival, deadline: deadline - begin, maxHedges })
    return lines === 0 ? -Infinity : begin + lines * delay
  }
  const usual = Math.max(minDelay, attempt)
  let [at, end] = [begin, to]
  const told = Math.min(maxHedges, MOST)
  for (let line = 1; line <= told; line++) {
    at = Math.min(end, at + usual)
    end = Math.max(end, Math.min(at + rival, deadline))
  }
  return at + (maxHedges - told) * usual
}

const merged = (spans: ReadonlyArray<Span>): ReadonlyArray<Span> => {
  const out: Array<Span> = []
  for (const { from, to } of spans.toSorted((a, b) => a.from - b.from)) {
    const last = out.at(-1)
    if (last === undefined || from > last.to) out.push({ from, to })
    else out[out.length - 1] = { from: last.from, to: Math.max(last.to, to) }
  }
  return coarse(out)
}

/** So many spans are told apart; where there are more, those next to each other are taken for one. */
const SPANS = 200

const coarse = (spans: ReadonlyArray<Span>): ReadonlyArray<Span> => {
  const each = Math.ceil(spans.length / SPANS)
  return Array.from({ length: Math.ceil(spans.length / each) }, (_, i) => {
    const some = spans.slice(i * each, (i + 1) * each)
    return { from: some[0]!.from, to: some.at(-1)!.to }
  })
}

/**
 * The longest time in which a call makes that many attempts, over all targets. One that is refused while it waits to begin
 * takes its time and is none.
 */
const withAttempts = (turns: ReadonlyArray<Turn>, maxAttempts: number): number => {
  const all = turns.reduce((sum, { further, pauses }) => sum + pauses.length + 1 + further, 0)
  if (all <= maxAttempts || all > MOST || turns.some(({ attempt }) => attempt === Infinity)) return Infinity
  return Math.max(...turns.map((last) => {
    // By attempts made, so that at least one is left: the longest time.
    let times: ReadonlyArray<number> = [0, ...Array.from({ length: maxAttempts - 1 }, () => -Infinity)]
    for (const turn of turns) if (turn !== last) times = after(turn, times)
    return Math.max(...times.map((time, made) => time === -Infinity ? 0 : time + ofTurn(last, maxAttempts - made)))
  }))
}

/** The longest turn of at most so many attempts. */
const ofTurn = ({ attempt, pauses }: Turn, attempts: number): number => {
  let end = attempt
  for (let k = 1; k < attempts && k <= pauses.length; k++) end += pauses[k - 1]!.most + attempt
  return end
}

const after = (
  { attempt, line, pauses, refusal, refuses }: Turn,
  times: ReadonlyArray<number>
): ReadonlyArray<number> => {
  const next = times.map((time) => time + refusal)
  for (const [before, time] of times.entries()) {
    if (time === -Infinity) continue
    let end = time
    for (let k = 1; k <= pauses.length + 1 && before + k < times.length; k++) {
      end += attempt
      const pause = pauses[k - 1]
      next[before + k] = Math.max(next[before + k]!, pause === undefined || !refuses ? end : end + pause.most + line)
      end += pause?.most ?? 0
    }
  }
  return next
}
