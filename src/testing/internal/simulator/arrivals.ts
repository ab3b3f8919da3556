// Who calls when: the arrivals of a scenario, drawn before anything is played, so that every policy meets the same ones.
import { LlmConfigError } from "../../../LlmError.ts"
import type { ScenarioSchema } from "../../Simulator.ts"
import { chance } from "../../VirtualTime.ts"

type Arrivals = (typeof ScenarioSchema.Type)["arrivals"]
type Vendors = (typeof ScenarioSchema.Type)["vendors"]
type Tokens = Exclude<Arrivals, { readonly kind: "trace" }>["input"]

export interface Call {
  /** Milliseconds since the start. */
  readonly at: number
  readonly input: number
  readonly output: number
  /** What it asks: the place of the first call that asked this. */
  readonly question: number
  /** A place in the list of callers. */
  readonly caller: number
}

const MOST = 1_000_000
const INTERVALS = 120

export const callsOf = (arrivals: Arrivals, seed: number) => {
  // Not the chance of the run itself, and past the first numbers, in which a small seed still shows.
  const own = chance(Math.imul(seed, 0x9e3779b1) ^ 0x5bd1e995)
  const random = (): number => own.nextDoubleUnsafe()
  for (let i = 0; i < 16; i++) random()
  const list = arrivals.kind === "trace"
    ? traced(arrivals)
    : moments(arrivals, random).map((at) => ({
      at,
      input: draw(arrivals.input, random),
      output: draw(arrivals.output, random)
    }))
  if (list.length === 0) throw new LlmConfigError({ path: "arrivals", rule: "at least one call", kind: "none" })
  const callers = pickCaller(arrivals.callers, random)
  const { questions } = arrivals
  const calls = list.map(({ at, input, output }, i): Call => ({
    at,
    input,
    output,
    question: questions === 0 || i < questions ? i : Math.min(Math.floor(random() * questions), questions - 1),
    caller: callers()
  }))
  const horizon = calls.at(-1)!.at
  const interval = Math.floor(horizon / INTERVALS) + 1
  const intervalOf = (at: number): number => Math.floor(at / interval)
  const counts = Array.from({ length: intervalOf(horizon) + 1 }, () => 0)
  for (const { at } of calls) counts[intervalOf(at)]! += 1
  return {
    list: calls,
    horizon,
    intervalOf,
    series: { interval, arrivals: counts },
    phasesOf: (vendors: Vendors) => phasesOf(vendors, horizon)
  }
}

export type Calls = ReturnType<typeof callsOf>

const traced = ({ calls }: Extract<Arrivals, { readonly kind: "trace" }>) => {
  bounded(calls.length, "calls")
  return calls.toSorted((a, b) => a.at - b.at)
}

const bounded = (count: number, of: "calls" | "bursts"): void => {
  if (count > MOST) {
    throw new LlmConfigError({ path: "arrivals", rule: `at most ${MOST} ${of}`, kind: "more than that" })
  }
}

type Generated = Exclude<Arrivals, { readonly kind: "trace" }>

const moments = (arrivals: Generated, random: () => number): ReadonlyArray<number> => {
  const { duration } = arrivals
  const out: Array<number> = []
  const push = (at: number): void => {
    out.push(at)
    bounded(out.length, "calls")
  }
  switch (arrivals.kind) {
    case "steady": {
      const distance = 1000 / arrivals.perSecond
      bounded(Math.ceil(duration / distance), "calls")
      for (let i = 0; i * distance < duration; i++) push(i * distance)
      break
    }
    case "poisson":
      poisson(0, duration, arrivals.perSecond, random, push)
      break
    case "bursty": {
      let at = 0
      let isBurst = false
      let bursts = 0
      // A phase of no length would never come to an end.
      while (at < duration) {
        const length = Math.max(exponential(isBurst ? arrivals.burst : arrivals.calm, random), 1)
        const end = Math.min(at + length, duration)
        poisson(at, end, isBurst ? arrivals.burstPerSecond : arrivals.calmPerSecond, random, push)
        at = end
        if (isBurst) bounded(++bursts, "bursts")
        isBurst = !isBurst
      }
    }
  }
  return out
}

const poisson = (from: number, to: number, perSecond: number, random: () => number, push: (at: number) => void) => {
  for (let at = from + exponential(1000 / perSecond, random); at < to; at += exponential(1000 / perSecond, random)) {
    push(at)
  }
}

const exponential = (mean: number, random: () => number): number => -mean * Math.log(1 - random())

/** A standard normal number, by Box and Muller. */
export const normal = (random: () => number): number =>
  Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random())

/** Nine of ten are below it. */
const Z90 = 1.2815515655446004

const draw = (tokens: Tokens, random: () => number): number => {
  if (typeof tokens === "number") return tokens
  const { max, p50, p90 } = tokens
  const drawn = p50 * Math.exp(Math.log(p90 / p50) / Z90 * normal(random))
  return Math.min(Math.max(Math.round(drawn), 1), max)
}

const pickCaller = (callers: Arrivals["callers"], random: () => number): () => number => {
  if (callers.length === 1) return () => 0
  const total = callers.reduce((sum, { weight }) => sum + weight, 0)
  return () => {
    let left = random() * total
    const found = callers.findIndex(({ weight }) => (left -= weight) < 0)
    return found < 0 ? callers.length - 1 : found
  }
}

// -----------------------------------------------------------------------------
// phases
// -----------------------------------------------------------------------------

type Phase = Vendors[number]["phases"][number]

export const isOn = ({ every, from, lasts, to }: Phase, at: number): boolean =>
  at >= from && at < to && (every === undefined || (at - from) % every < (lasts ?? every / 2))

const MAX_WINDOWS = 500

/** When they were on, for the pictures: until the last call arrives, and of one that comes and goes the first times. */
const phasesOf = (vendors: Vendors, horizon: number) =>
  vendors.flatMap(({ id, phases }) =>
    phases.flatMap((phase) => {
      const { every, from, kind, lasts } = phase
      const end = Math.min(phase.to, horizon)
      const length = every === undefined ? Infinity : lasts ?? every / 2
      const times = every === undefined ? 1 : Math.min(Math.ceil((end - from) / every), MAX_WINDOWS)
      return from >= end ? [] : Array.from({ length: times }, (_, i) => {
        const begin = from + i * (every ?? 0)
        return { vendor: id, kind, from: begin, to: Math.min(begin + length, end) }
      })
    })
  )
