// P12, P13 and P15: two runs of the same calls.
import * as Cause from "effect/Cause"
import * as Exit from "effect/Exit"
import type { Caller, Law, Run, Violation } from "../../Invariants.ts"

/** The first event that is not the same. */
export const difference = (law: Law, a: Run, b: Run): ReadonlyArray<Violation> => {
  const length = Math.max(a.events.length, b.events.length)
  for (let i = 0; i < length; i++) {
    const one = a.events[i]
    const other = b.events[i]
    if (one !== undefined && other !== undefined && JSON.stringify(one) === JSON.stringify(other)) continue
    const what = one === undefined || other === undefined
      ? `one run has ${a.events.length} events, the other ${b.events.length}`
      : `${one._tag} of call ${one.call} is ${other._tag} of call ${other.call}, or differs from it`
    return [{ law, what, when: (one ?? other)!.when, event: i }]
  }
  return []
}

/** The first caller that got something else. Who left in either run is not compared where only the leaving differs. */
export const results = (law: Law, a: Run, b: Run): ReadonlyArray<Violation> => {
  const { callers: ones = [] } = a
  const { callers: others = [] } = b
  if (ones.length !== others.length) {
    return [{ law, what: `one run has ${ones.length} callers, the other ${others.length}`, when: 0 }]
  }
  for (const [i, one] of ones.entries()) {
    const other = others[i]!
    if (law === "P13" && (hasLeft(one) || hasLeft(other))) continue
    const isSame = law === "P13" ? resultOf(one) === resultOf(other) : whole(one) === whole(other)
    if (!isSame) return [{ law, what: `caller ${i} did not get the same`, when: one.to ?? one.from }]
  }
  return []
}

const hasLeft = ({ exit, leaves }: Caller): boolean =>
  leaves !== undefined && exit !== undefined && Exit.isFailure(exit) && Cause.hasInterrupts(exit.cause)

/** What it got, whenever that was. */
const resultOf = ({ exit, read }: Caller): string => {
  if (exit === undefined) return "waits"
  if (Exit.isSuccess(exit)) return JSON.stringify([exit.value.text, read])
  const error = Cause.squash(exit.cause)
  return JSON.stringify([typeof error === "object" && error !== null && "_tag" in error ? error._tag : "defect", read])
}

const whole = (caller: Caller): string => {
  const { asked, from, read, to } = caller
  return JSON.stringify([asked, from, to, read, resultOf(caller)])
}
