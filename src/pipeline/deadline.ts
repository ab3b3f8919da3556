// How long something may take: a call, or one target of it.
import * as Duration from "effect/Duration"
import { AttemptTimeout, DeadlineExceeded, withoutStack } from "../LlmError.ts"

/** Work that several calls wait for has until the last of them leaves. */
export interface Moving {
  readonly deadlineAt: number
  /** Somebody with more time has left: what the work waits for may have been given until then. */
  readonly wasLater: boolean
}

export class Deadline {
  static readonly never = new Deadline(Infinity, Infinity)

  private readonly at: number
  private readonly millis: number
  /** Set for a share of a longer deadline. */
  private readonly outer: Deadline | undefined
  private readonly flight: Moving | undefined

  constructor(at: number, millis: number, outer?: Deadline, flight?: Moving) {
    this.at = at
    this.millis = millis
    this.outer = outer
    this.flight = flight
  }

  /** Milliseconds left; none or less when it is over. */
  left(now: number): number {
    const own = (this.flight?.deadlineAt ?? this.at) - now
    return this.outer === undefined ? own : Math.min(own, this.outer.left(now))
  }

  /** Monotonic milliseconds at which it is over, as of now. */
  get end(): number {
    const own = this.flight?.deadlineAt ?? this.at
    return this.outer === undefined ? own : Math.min(own, this.outer.end)
  }

  /** The failure of what is cut at `now`. The end of a share is a slow target, not a call that is out of time. */
  error(now: number): DeadlineExceeded | AttemptTimeout {
    if (this.outer === undefined) return this.exceeded()
    return this.outer.left(now) > 0
      ? withoutStack(() => new AttemptTimeout({ kind: "attempt", after: Duration.millis(this.millis) }))
      : this.outer.error(now)
  }

  exceeded(): DeadlineExceeded {
    return withoutStack(() => new DeadlineExceeded({ after: Duration.millis(this.millis) }))
  }

  /** The deadline of the whole call. */
  get whole(): Deadline {
    return this.outer ?? this
  }

  /** One of `parts` equal parts of what is left. The last part is the rest itself, so that it moves along. */
  share(now: number, parts: number): Deadline {
    const left = this.left(now)
    if (parts <= 1 || left === Infinity) return this
    const millis = Math.max(left, 0) / parts
    return new Deadline(now + millis, millis, this)
  }

  /** The same for work that belongs to a flight. */
  of(flight: Moving): Deadline {
    return new Deadline(this.at, this.millis, undefined, flight)
  }
}
