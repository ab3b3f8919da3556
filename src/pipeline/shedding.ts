// Who is turned away: by the throttle in front of a target, and at the doors of its lines.
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Exit from "effect/Exit"
import * as Random from "effect/Random"
import { isOverload, Shed, withoutStack } from "../LlmError.ts"
import type { Ask, Held } from "../LlmGuard.ts"
import type { LlmRequest } from "../LlmRequest.ts"
import * as LoadShedder from "../resilience/LoadShedder.ts"
import type { Attempt } from "./attempt.ts"
import type { Door } from "./guards.ts"

/** What the guards of our own patterns have in common: their refusal moves a call on, and each of their waits is an event. */
export const ours = { failover: true, tellsAfter: 0 } as const

// -----------------------------------------------------------------------------
// doors
// -----------------------------------------------------------------------------

type Line = { readonly queued: number; readonly maxQueued: number; readonly displaces: () => boolean }

/** May a call of this urgency join the line? Who has fewer in it than others may, and without doors whoever finds room. */
export const isOpen = (
  doors: LoadShedder.Doors | undefined,
  { priority = "default" }: LlmRequest,
  line: Line
): boolean =>
  doors === undefined || LoadShedder.admits(doors, priority, line.queued, line.maxQueued) || line.displaces()

export const turnedAway = (reason: Shed["reason"], wait: number | undefined): Shed =>
  withoutStack(() =>
    new Shed(wait === undefined ? { reason } : { reason, retryAfter: Duration.millis(Math.ceil(wait)) })
  )

/** Who may join a line, and does it hold? In shadow mode it is only told. */
export interface DoorRules {
  readonly doors: LoadShedder.Doors
  readonly isShadow: boolean
}

/** What a pattern in shadow mode would have done. */
export const shadowed = (
  ask: Ask,
  by: "rate-limit" | "load-shedding",
  decision: "would-wait" | "would-refuse" | "would-shed",
  duration?: number
): void => {
  const { call: { root }, to } = ask as Attempt
  const event = { _tag: "Shadowed" as const, call: root.id, at: root.since(), target: to.id, by, decision }
  root.emit(duration === undefined ? event : { ...event, duration })
}

// -----------------------------------------------------------------------------
// throttle
// -----------------------------------------------------------------------------

/** What is asked of `LoadShedder.Throttle`: that class is internal, so the package's types cannot name it. */
export interface Throttle {
  readonly policy: LoadShedder.ThrottlePolicy
  readonly rejection: (now: number) => number
  readonly count: (isAccepted: boolean, now: number) => void
  readonly rejects: (
    priority: LoadShedder.Priority,
    random: () => (typeof Random.Random)["Service"],
    now: number
  ) => boolean
}

/** Only as many calls as about half of them are accepted. */
export const inThrottle = (throttle: Throttle, isShadow: boolean): Door<Shed> => {
  // What only watches draws no lots, so that chance goes on as if it were not there.
  let owed = 0
  const wouldReject = (now: number): boolean => {
    owed += throttle.rejection(now)
    if (owed < 1) return false
    owed -= 1
    return true
  }
  const held: Exit.Exit<Held> = Exit.succeed({
    settle: (outcome) => {
      if (outcome._tag === "Succeeded") throttle.count(true, outcome.now)
      else if (outcome._tag === "Failed") throttle.count(!isOverload(outcome.error), outcome.now)
    }
  })
  const uncounted = Exit.succeed<Held>({})
  return {
    ...ours,
    name: "load-shedding",
    by: "throttle",
    acquire: (ask) => {
      const { now, request } = ask
      if (isShadow) {
        if (request.priority === "critical" || !wouldReject(now)) return held
        shadowed(ask, "load-shedding", "would-shed")
        // What is rejected counts as that, however it ends.
        throttle.count(false, now)
        return uncounted
      }
      const { context } = (ask as Attempt).call.root
      return throttle.rejects(request.priority ?? "default", () => Context.get(context, Random.Random), now)
        ? Exit.fail(LoadShedder.shed(throttle.policy, now))
        : held
    }
  }
}
