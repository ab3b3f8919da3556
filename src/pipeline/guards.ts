// The bracket round an attempt: everything it must hold is acquired in order, the provider is asked, and all of it goes
// back on every way out. It is there also when no guard is.
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type * as Fiber from "effect/Fiber"
import { type AttemptTimeout, type DeadlineExceeded, isShed } from "../LlmError.ts"
import { type Guard, type Held, isDone } from "../LlmGuard.ts"
import * as Timeout from "../resilience/Timeout.ts"
import { type Asked, Attempt } from "./attempt.ts"
import type { Background } from "./background.ts"
import type { Call, Refused } from "./call.ts"
import type { Stage, Try } from "./stage.ts"

/** A guard in its place. */
export interface Door<out E> extends Guard<E> {
  readonly by: Refused["by"]
  /** Milliseconds of waiting that are worth an event. */
  readonly tellsAfter: number
}

export type DoorError<D> = D extends Door<infer E> ? E : never

/** TypeScript infers no union from a list of unlike guards; this does, and asserts nothing. */
export const doors = <const D extends ReadonlyArray<Door<unknown> | undefined>>(
  ...list: D
): ReadonlyArray<Door<DoorError<D[number]>>> =>
  list.filter((door): door is Door<DoorError<D[number]>> => door !== undefined)

/** Acquires everything, then asks. */
export const guarded = <GE>(to: Asked, doors: ReadonlyArray<Door<GE>>) =>
<E>(
  self: Try<E>
): Stage<E | GE | AttemptTimeout | DeadlineExceeded> => {
  type Errors = E | GE | AttemptTimeout | DeadlineExceeded
  const peeks = doors.filter(({ peek }) => peek !== undefined)

  const refuse = (call: Call, door: Door<GE>, error: GE): Effect.Effect<never, Errors> => {
    const { books, root } = call
    const now = root.now()
    // The wait took what was left of the call, so that is what it fails with.
    if (call.deadline.whole.left(now) <= 0) return Effect.fail(call.deadline.whole.exceeded())
    const shed = isShed(error) ? error.reason : undefined
    // Turned away from one line, it is not to go and wait in the next one.
    const failover = door.failover === true && (shed === undefined || shed === "throttled")
    books.refused = { error, guard: door.name, by: door.by, failover }
    root.emit({
      _tag: "AttemptRefused",
      call: root.id,
      at: now - root.startedAt,
      target: to.id,
      by: door.by,
      ...(door.by === "guard" ? { guard: door.name } : undefined),
      ...(shed === undefined ? undefined : { shed })
    })
    return Effect.fail(error)
  }

  const waited = (attempt: Attempt, door: Door<GE>, since: number, now: number): void => {
    const duration = now - since
    if (!(duration > door.tellsAfter)) return
    const { root } = attempt.call
    const what: "bulkhead" | "rate-limit" | "guard" = door.by === "bulkhead" || door.by === "rate-limit"
      ? door.by
      : "guard"
    const event = { _tag: "Waited" as const, call: root.id, at: root.since(now), target: to.id, for: what, duration }
    root.emit(what === "guard" ? { ...event, guard: door.name } : event)
  }

  const acquire = (attempt: Attempt, from: number, now: number): ReturnType<Stage<Errors>> => {
    const { call } = attempt
    attempt.now = now
    for (let i = from; i < doors.length; i++) {
      const door = doors[i]!
      const got = door.acquire(attempt)
      if (isDone(got) && Exit.isSuccess(got)) {
        attempt.held.push(got.value)
        continue
      }
      return Effect.matchCauseEffect(got, {
        onSuccess: (held) => {
          attempt.held.push(held)
          const later = call.root.now()
          waited(attempt, door, now, later)
          return acquire(attempt, i + 1, later)
        },
        onFailure: (cause) => {
          const error = Cause.findErrorOption(cause)
          return error._tag === "None" ? Effect.failCause(cause) : refuse(call, door, error.value)
        }
      })
    }
    const { deadline } = call
    if (deadline.left(now) <= 0) return Effect.fail(deadline.error(now))
    attempt.start(now)
    return self(attempt, now)
  }

  /** Whatever is thrown on the way is an exit, so that the hook gives back what is held by then. */
  const begun = (attempt: Attempt, now: number): ReturnType<Stage<Errors>> => {
    try {
      return acquire(attempt, 0, now)
    } catch (defect) {
      return Effect.die(defect)
    }
  }

  return (call, now) => {
    for (const door of peeks) {
      const refusal = door.peek!(call.request, now)
      if (refusal !== undefined) return refuse(call, door, refusal.error())
    }
    return Effect.uninterruptibleMask((restore) => {
      const attempt = new Attempt(call, to, restore, now)
      return Effect.onExitPrimitive(begun(attempt, now), (exit) => attempt.end(exit))
    })
  }
}

// -----------------------------------------------------------------------------
// guards of users and providers
// -----------------------------------------------------------------------------

/** Whatever its `acquire` does: the deadline and an interruption reach the caller, and what comes too late goes back. */
export const foreign = <E>(
  guard: Guard<E>,
  background: Background
): Door<E | AttemptTimeout | DeadlineExceeded> => ({
  ...guard,
  by: "guard",
  tellsAfter: 1,
  acquire: (ask) => {
    const acquire = guard.acquire(ask)
    if (isDone(acquire)) return acquire
    const attempt = ask as Attempt
    const { deadline, root } = attempt.call
    let work: Fiber.Fiber<Held, unknown> | undefined
    const undo = (exit: Exit.Exit<Held, unknown>): void => {
      if (Exit.isFailure(exit)) return
      try {
        background.run(exit.value.settle?.({ _tag: "NeverStarted", now: root.now() }))
        exit.value.release?.()
      } catch (defect) {
        background.report(defect)
      }
    }
    const bounded = Timeout.boundedIn(
      ask.restore,
      Effect.withFiber<Held, E>((fiber) => {
        work = fiber as Fiber.Fiber<Held, unknown>
        return acquire
      }),
      (now) => deadline.left(now),
      (now) => deadline.error(now)
    )
    return Effect.onExitPrimitive(bounded, (exit) => {
      if (Exit.isFailure(exit)) work?.addObserver(undo)
      return undefined
    })
  }
})
