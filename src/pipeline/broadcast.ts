// One stream with several readers: a call under the same key gets what came so far, and then the live parts. The stream
// belongs to none of them. Each reader has its own place and its own deadline; the fastest one pulls, and the last one that
// leaves ends it.
import * as Cause from "effect/Cause"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Scope from "effect/Scope"
import { type DeadlineExceeded, isStreamInterrupted, StreamInterrupted, withParts } from "../LlmError.ts"
import { isContent, type StreamPart } from "../LlmResponse.ts"
import * as Timeout from "../resilience/Timeout.ts"
import type { Restore } from "./attempt.ts"
import type { Call } from "./call.ts"
import type { Moving } from "./deadline.ts"
import { type Chunk, type Rest, type Served, type Stage, whenEnded, whole } from "./stage.ts"

/**
 * Work that ends by its own deadline is given a moment for that, so that it can say whose fault it was. Not where its
 * deadline came nearer: it would not end by then.
 */
const GRACE = 50

/** Bounds a wait for work of others, `flight`, by this call's own deadline. */
export const untilDeadline = <A, E>(
  call: Call,
  self: Effect.Effect<A, E>,
  flight?: () => Moving | undefined
): Effect.Effect<A, E | DeadlineExceeded> => {
  const { deadline } = call
  if (deadline.end === Infinity) return self
  const left = (now: number): number => {
    const own = deadline.left(now)
    const work = own > 0 ? undefined : flight?.()
    return work !== undefined && !work.wasLater && work.deadlineAt <= deadline.end ? own + GRACE : own
  }
  return Timeout.bounded(self, left, () => deadline.exceeded())
}

/** What the end of the stream means for its key. */
export interface Ending<in E> {
  readonly whole: (served: Served) => Effect.Effect<void>
  readonly failed: (cause: Cause.Cause<E>) => Effect.Effect<void>
  /** It broke after parts were given out, or nobody reads it any more. */
  readonly broken: Effect.Effect<void>
  readonly over: () => void
}

interface Listener {
  readonly call: Call
  /** What the call adds to its ledger before it ends; absent from the one that began the work. */
  readonly adopt: (() => void) | undefined
  /** Parts it has got, and how many of them were content. */
  at: number
  content: number
  adopted: boolean
}

export class Broadcast<E> implements Moving {
  /** The call that began it, in whose ledger the work is written. */
  readonly call: Call
  deadlineAt: number
  wasLater = false
  private readonly scope: Scope.Closeable
  private readonly ending: Ending<E>
  private readonly listeners = new Set<Listener>()
  private readonly opened = Deferred.makeUnsafe<Served, E>()
  private work: Fiber.Fiber<unknown, unknown> | undefined
  /** Parts that have arrived. */
  private count = 0
  private pulling: Fiber.Fiber<unknown, unknown> | undefined
  private readonly waiting = new Map<Listener, (effect: Rest) => void>()
  /** How it ended, once it has. */
  private over: Cause.Cause<StreamInterrupted | DeadlineExceeded | Cause.Done> | undefined

  /** `scope`: what the stream opens, and the claim on its key. */
  constructor(call: Call, scope: Scope.Closeable, ending: Ending<E>) {
    this.call = call
    this.scope = scope
    this.ending = ending
    this.deadlineAt = call.deadline.end
  }

  /** Asks, in a fibre that is nobody's. */
  start(self: Stage<E>): void {
    const { call, ending, scope } = this
    const asked = Effect.suspend(() => self(call.of(this, scope), call.root.now()))
    const answered = Effect.flatMap(
      asked,
      (served) => whenEnded(served, () => this.ended(ending.whole(served)), () => this.ended(ending.broken))
    )
    this.work = Effect.runForkWith(call.root.context)(
      Effect.flatMap(
        Effect.exit(Effect.interruptible(answered)),
        (exit) => {
          if (Exit.isSuccess(exit)) this.count = exit.value.answer.parts.length
          const told = Exit.isSuccess(exit) ? Effect.void : this.ended(ending.failed(exit.cause))
          return Effect.ensuring(told, Deferred.done(this.opened, exit))
        }
      ),
      { uninterruptible: true }
    )
    // A fibre that met what is no effect has ended on the spot; nobody waits for it for ever.
    this.work.addObserver((exit) => {
      if (Exit.isFailure(exit)) Deferred.doneUnsafe(this.opened, Exit.failCause(exit.cause as Cause.Cause<never>))
    })
  }

  private ended(told: Effect.Effect<void>): Effect.Effect<void> {
    return Effect.ensuring(told, Effect.sync(this.ending.over))
  }

  /**
   * Reads along: from this step on, so run what it returns at once, in an uninterruptible region; the wait is in `restore`.
   * The reader leaves when its call's scope closes.
   */
  join(
    call: Call,
    adopt: (() => void) | undefined,
    restore: Restore
  ): Effect.Effect<Served, E | DeadlineExceeded> {
    const listener: Listener = { call, adopt, at: 0, content: 0, adopted: false }
    this.listeners.add(listener)
    this.deadlineAt = Math.max(this.deadlineAt, call.deadline.end)
    return Effect.andThen(
      Scope.addFinalizer(call.scope!, Effect.suspend(() => this.leave(listener))),
      Effect.mapBoth(restore(untilDeadline(call, Deferred.await(this.opened), () => this)), {
        onSuccess: (served) => this.servedTo(listener, served),
        onFailure: (error) => {
          this.adopted(listener)
          return error
        }
      })
    )
  }

  private servedTo(listener: Listener, served: Served): Served {
    const source = listener.adopt === undefined ? served.source : served.source === "stale" ? "stale" : "replay"
    const isWhole = (): boolean => served.isWhole() && listener.at >= this.count
    const { answer } = served
    // What came so far is not all kept: there is nothing to begin with until the end.
    const opening = answer.cut === true ? [] : [...answer.parts] as ReadonlyArray<StreamPart>
    this.given(listener, opening)
    if (served.rest === undefined) {
      this.adopted(listener)
      return whole(answer, source, served.age)
    }
    if (isWhole()) this.adopted(listener)
    const rest = this.read(listener, served)
    return { source, age: served.age, answer, opening, rest, ends: [], isWhole }
  }

  private given(listener: Listener, parts: ReadonlyArray<StreamPart>): void {
    listener.at += parts.length
    for (const part of parts) if (isContent(part)) listener.content += 1
  }

  private adopted(listener: Listener): void {
    if (listener.adopted) return
    listener.adopted = true
    listener.adopt?.()
  }

  // --- reading -------------------------------------------------------------------

  private read(listener: Listener, served: Served): Rest {
    const { call } = listener
    return Effect.suspend(() => {
      const { answer } = served
      if (listener.at < this.count) {
        if (answer.cut === true) return this.late(listener, served)
        const chunk = answer.parts.slice(listener.at) as ReadonlyArray<StreamPart> as Chunk
        this.given(listener, chunk)
        if (served.isWhole()) this.adopted(listener)
        return Effect.succeed(chunk)
      }
      if (this.over !== undefined) return this.end(listener, this.over)
      return untilDeadline(call, this.next(listener, served), () => this)
    })
  }

  /**
   * Past the bound of what is kept, who has fallen behind waits for the end: the parts in between are gone, and only how the
   * answer ended can still be told.
   */
  private late(listener: Listener, served: Served): Rest {
    if (served.isWhole()) {
      listener.at = this.count
      const { provider } = served.answer
      return this.end(listener, Cause.fail(new StreamInterrupted({ provider, kind: "truncated", partialParts: 0 })))
    }
    if (this.over !== undefined) return this.end(listener, this.over)
    return untilDeadline(listener.call, this.next(listener, served), () => this)
  }

  /** Waits for the next chunk, which somebody pulls; if nobody does, it is pulled now. */
  private next(listener: Listener, served: Served): Rest {
    return Effect.callback((resume) => {
      this.waiting.set(listener, resume)
      if (this.pulling === undefined) this.pull(served)
      return Effect.sync(() => void this.waiting.delete(listener))
    })
  }

  private pull(served: Served): void {
    const fiber = Effect.runForkWith(this.call.root.context)(served.rest ?? Cause.done())
    this.pulling = fiber
    fiber.addObserver((exit) => {
      this.pulling = undefined
      const before = this.count
      if (Exit.isSuccess(exit)) this.count += exit.value.length
      else this.over = exit.cause
      const waiting = [...this.waiting]
      this.waiting.clear()
      for (const [listener, resume] of waiting) {
        // Who is there gets the chunk itself, whether it is kept or not.
        if (Exit.isSuccess(exit) && listener.at === before) {
          this.given(listener, exit.value)
          if (served.isWhole()) this.adopted(listener)
          resume(exit)
        } else resume(this.read(listener, served))
      }
    })
  }

  private end(listener: Listener, cause: NonNullable<typeof this.over>): Rest {
    this.adopted(listener)
    return Effect.failCause(
      Cause.map(cause, (error) => isStreamInterrupted(error) ? withParts(error, listener.content) : error)
    )
  }

  // --- leaving -------------------------------------------------------------------

  private leave(listener: Listener): Effect.Effect<void> {
    if (!this.listeners.delete(listener)) return Effect.void
    this.waiting.get(listener)?.(Effect.interrupt)
    this.waiting.delete(listener)
    const deadlineAt = Math.max(-Infinity, ...[...this.listeners].map(({ call }) => call.deadline.end))
    this.wasLater ||= deadlineAt < this.deadlineAt
    this.deadlineAt = deadlineAt
    if (this.listeners.size > 0) return Effect.void
    // At once: nobody can join what is being given up.
    this.ending.over()
    // A record that is being written stays: it is paid for, and others may still read it.
    const pulled = this.pulling === undefined ? Effect.void : Fiber.interrupt(this.pulling)
    const gone = Effect.andThen(this.work === undefined ? Effect.void : Fiber.interrupt(this.work), pulled)
    // The key is free at once; who comes while the provider cleans up makes a call of its own.
    return Effect.andThen(Effect.andThen(this.ended(this.ending.broken), gone), Scope.close(this.scope, Exit.void))
  }
}
