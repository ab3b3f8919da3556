// A stream from its provider to its consumer: one machine from the first chunk to the end. It knows what arrived, what is
// kept of it, whether it is whole, and how it ended.
import * as Arr from "effect/Array"
import * as Cause from "effect/Cause"
import * as Channel from "effect/Channel"
import type * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Pull from "effect/Pull"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import { dieOf } from "../internal/effect.ts"
import {
  type DeadlineExceeded,
  isProviderError,
  type ProviderError,
  StreamInterrupted,
  TRUNCATED,
  withoutStack
} from "../LlmError.ts"
import { type Answer, isContent, type StreamPart, unusable, usageReported } from "../LlmResponse.ts"
import * as Timeout from "../resilience/Timeout.ts"
import type { Attempt } from "./attempt.ts"
import type { Deadline } from "./deadline.ts"
import { type End, followedBy, partSize, type Rest, type Served, tell, whole } from "./stage.ts"

/** Parts of a stream that are held back before its first content part; then it counts as committed. */
const MAX_UNCOMMITTED_PARTS = 64
/** What is kept of one stream for its response and its stored answer. A longer stream is delivered, but not kept. */
export const MAX_KEPT_PARTS = 100_000
export const MAX_KEPT_BYTES = 16 * 1024 * 1024

type Mutable<A> = { -readonly [K in keyof A]: A[K] }
type Source = Pull.Pull<ReadonlyArray<StreamPart>, ProviderError>

/** Opens a provider's stream and reads it up to its first content part: the commit. */
export const openStream = (
  attempt: Attempt,
  scope: Scope.Closeable,
  timers: Timeout.Policy | undefined
): Effect.Effect<Served, ProviderError> => {
  const stream = attempt.provider.stream(attempt.request)
  if (!Stream.isStream(stream)) return dieOf(stream, "stream", "provider", attempt.provider.id)
  // Not `Stream.toPull`: it takes a permit for each pull, and there is one reader at a time.
  const pull = Channel.toPullScoped(Stream.toChannel(stream), scope)
  const opened = Effect.contextWith((context: Context.Context<never>) =>
    Effect.flatMap(pull, (pull) => new Live(attempt, context, pull, timers).opened())
  )
  // What it opens is its own also where no types have asked whose it is, and never the caller's.
  return Scope.provide(opened, scope)
}

// -----------------------------------------------------------------------------
// what the provider sends
// -----------------------------------------------------------------------------

type Broken = StreamInterrupted | DeadlineExceeded

/** Milliseconds: far below the shortest lease that a guard gives. */
const RENEWAL = 1000

/** The stream of one attempt. */
class Live implements Timeout.Waiting {
  private readonly attempt: Attempt
  private readonly deadline: Deadline
  private readonly pull: Source
  private readonly parts: Array<StreamPart> = []
  private readonly answer: Mutable<Answer>
  private readonly ends: Array<End> = []
  private readonly silence: Timeout.IdleClock
  private readonly alarm = new Timeout.Alarm()
  private readonly pulls: Timeout.Repeated<ReadonlyArray<StreamPart>, ProviderError | Cause.Done, Broken>
  private readonly next: Rest
  /** Bytes of what is kept. */
  private kept = 0
  /** Content parts so far. */
  private delivered = 0
  private isWhole = false
  private broken: ProviderError | undefined
  /** How it ended while nobody was reading. */
  private over: Broken | undefined
  /** Milliseconds the provider had: a consumer that takes its time is not its fault. */
  private worked = 0
  private pulledAt = 0
  private renewedAt = 0
  /** Nobody has read for a long time. */
  private isResting = false

  /** `context`: in which the provider is asked for more, whoever reads. */
  constructor(attempt: Attempt, context: Context.Context<never>, pull: Source, timers: Timeout.Policy | undefined) {
    this.attempt = attempt
    this.deadline = attempt.call.deadline.whole
    this.pull = pull
    this.answer = attempt.answer(this.parts)
    this.silence = new Timeout.IdleClock(timers?.idle ?? Infinity)
    this.pulls = new Timeout.Repeated(context, pull, {
      alarm: this.alarm,
      clock: attempt.call.root.clock,
      left: (now) => Math.min(this.silence.left(now), this.deadline.left(now)),
      expired: (now) => this.expired(now),
      interrupted: (now) => this.paused(now, false)
    })
    this.next = Effect.matchCauseEffect(this.pulls.next, {
      onSuccess: (chunk) => this.arrived(chunk),
      onFailure: (cause) => this.lost(cause)
    })
  }

  // --- up to the commit ----------------------------------------------------------

  opened(): Effect.Effect<Served, ProviderError> {
    const { attempt, parts } = this
    const truncated = () => Effect.fail(attempt.error({ _tag: "MalformedResponse", problem: TRUNCATED }))
    return Effect.flatMap(Pull.catchDone(this.pull, truncated), (chunk) => {
      this.take(chunk)
      if (this.broken !== undefined) return Effect.fail(this.broken)
      if (this.isWhole) {
        const problem = unusable(parts)
        return problem === undefined
          ? Effect.succeed(whole(this.answer, "provider", 0))
          : Effect.fail(attempt.error(problem))
      }
      const isCommitted = this.delivered > 0 || parts.length >= MAX_UNCOMMITTED_PARTS
      return isCommitted ? Effect.succeed(this.commit()) : this.opened()
    })
  }

  private commit(): Served {
    const { attempt } = this
    const { root } = attempt.call
    const now = attempt.committedAt = root.now()
    this.renewedAt = now
    attempt.renew(now)
    const duration = this.worked = now - attempt.startedAt
    const facts = { call: root.id, at: now - root.startedAt, target: attempt.target, attempt: attempt.number }
    attempt.emit({ _tag: "AttemptCommitted", ...facts, duration })
    attempt.held.push({
      // Given up while somebody waits for more: what is waited for ends, and with it the wait.
      settle: () => this.pulls.end(),
      release: () => this.alarm.cancel()
    })
    this.watch()
    const { answer, ends } = this
    return {
      source: "provider",
      age: 0,
      answer,
      rest: Effect.suspend(() => this.read()),
      ends,
      isWhole: () => this.isWhole
    }
  }

  // --- what arrives ------------------------------------------------------------------

  /** Takes a chunk up to its end, the answer's, or the first part that is broken. Says how many parts, and how much content. */
  private take(chunk: ReadonlyArray<StreamPart>): { readonly good: number; readonly content: number } {
    const { answer, parts } = this
    let good = 0
    let content = 0
    while (good < chunk.length && !this.isWhole) {
      const part = chunk[good]!
      if (part.type === "error") {
        this.broken = isProviderError(part.error) ? part.error : this.attempt.error({ _tag: "Server" })
        break
      }
      good += 1
      this.isWhole = part.type === "finish"
      if (isContent(part)) content += 1
      this.kept += partSize(part)
      if (!this.isWhole && (parts.length >= MAX_KEPT_PARTS || this.kept > MAX_KEPT_BYTES)) answer.cut = true
      // The end of a very long stream is kept: it tells how the answer finished and what it cost.
      if (answer.cut !== true || this.isWhole) parts.push(part)
    }
    this.delivered += content
    return { good, content }
  }

  private read(): Rest {
    const { attempt } = this
    if (this.over !== undefined) return Effect.fail(this.over)
    if (this.isWhole) {
      // Nobody waits until the provider has cleaned up.
      attempt.to.background.run(attempt.close(Exit.void))
      return Cause.done()
    }
    if (this.broken !== undefined) return this.end(this.interruption(this.broken))
    const now = attempt.call.root.now()
    if (this.deadline.left(now) <= 0) {
      this.expire()
      return Effect.fail(this.over!)
    }
    if (this.isResting) {
      this.isResting = false
      this.alarm.cancel()
    }
    this.silence.start(now)
    this.pulledAt = now
    this.renew(now)
    return this.next
  }

  /** Each part and each pull says that the stream lives: guards hear of it once a second. */
  private renew(now: number): void {
    if (now - this.renewedAt < RENEWAL) return
    this.renewedAt = now
    this.attempt.renew(now)
  }

  private arrived(chunk: ReadonlyArray<StreamPart>): Rest {
    const { content, good } = this.take(chunk)
    const now = this.attempt.call.root.now()
    this.paused(now, content > 0)
    this.renew(now)
    const arrivals = good === chunk.length ? chunk : chunk.slice(0, good)
    if (!Arr.isReadonlyArrayNonEmpty(arrivals)) return Effect.suspend(() => this.read())
    if (!this.isWhole) return Effect.succeed(arrivals)
    try {
      this.attempt.succeeded(this.answer)
    } catch (defect) {
      this.attempt.ignored("defect")
      return this.failWith(this.attempt.close(Exit.die(defect)), Cause.die(defect))
    }
    return followedBy(tell(this.ends, ({ onWhole }) => onWhole()), arrivals)
  }

  /** A pull is over, or its reader gave it up: no silence passes any more, but the deadline still does. */
  private paused(now: number, sawContent: boolean): void {
    this.silence.stop(now, sawContent)
    this.worked += now - this.pulledAt
    if (!this.isWhole) this.watch()
  }

  private lost(cause: Cause.Cause<ProviderError | Broken | Cause.Done>): Rest {
    const found = Cause.findErrorOption(cause)
    if (found._tag === "None") {
      this.attempt.ignored("defect")
      return this.failWith(this.attempt.close(Exit.void), cause as Cause.Cause<never>)
    }
    const error = found.value
    if (Cause.isDone(error)) return this.end(this.interruption())
    if (isProviderError(error)) return this.end(this.interruption(error))
    // Our own timers release the consumer at once; what the provider still has to clean up goes on by itself.
    this.attempt.to.background.run(this.attempt.close(Exit.void))
    return this.failWith(undefined, Cause.fail(error))
  }

  // --- ends ----------------------------------------------------------------------------

  private end(error: StreamInterrupted): Rest {
    this.attempt.failed(error)
    return this.failWith(this.attempt.close(Exit.void), Cause.fail(error))
  }

  private failWith<E extends Broken>(closing: Effect.Effect<void> | undefined, cause: Cause.Cause<E>): Rest {
    const told = tell(this.ends, ({ onFailed }) => onFailed?.(cause))
    const failed = Effect.failCause(cause)
    const after = told === undefined ? failed : Effect.andThen(told, failed)
    return closing === undefined ? after : Effect.andThen(closing, after)
  }

  private expired(now: number): Broken {
    if (this.deadline.left(now) > 0) return this.attempt.failed(this.interruptedBy("idle"))
    return this.attempt.failed(this.deadline.exceeded(), this.worked + (now - this.pulledAt))
  }

  private interruption(error?: ProviderError): StreamInterrupted {
    const reason = error?.reason
    if (reason?._tag === "Network") return this.interruptedBy("reset", reason)
    const isTruncated = reason === undefined || (reason._tag === "MalformedResponse" && reason.problem === TRUNCATED)
    return isTruncated ? this.interruptedBy("truncated") : this.interruptedBy("error", reason)
  }

  private interruptedBy(kind: StreamInterrupted["kind"], reason?: ProviderError["reason"]): StreamInterrupted {
    const usage = usageReported(this.answer)
    return withoutStack(() =>
      new StreamInterrupted({
        provider: this.attempt.to.provider.id,
        kind,
        partialParts: this.delivered,
        ...(usage === undefined ? undefined : { usage }),
        ...(reason === undefined ? undefined : { reason })
      })
    )
  }

  // --- the deadline, while nobody reads ------------------------------------------------

  private watch(): void {
    const { root } = this.attempt.call
    if (this.deadline.end !== Infinity) this.alarm.set(root, root.clock, this)
  }

  // The timer that runs must not be later than the next pull needs it: that of a silence, until it turns out that nobody
  // reads for that long.
  left(): number {
    const left = this.deadline.left(this.attempt.call.root.now())
    return this.isResting ? left : Math.min(left, this.silence.remaining)
  }

  ring(): void {
    if (this.deadline.left(this.attempt.call.root.now()) <= 0) return this.expire()
    this.isResting = true
    this.watch()
  }

  private expire(): void {
    const { attempt } = this
    const error = this.over = attempt.failed(this.deadline.exceeded(), this.worked)
    const told = tell(this.ends, ({ onFailed }) => onFailed?.(Cause.fail(error)))
    attempt.to.background.run(told)
    attempt.to.background.run(attempt.close(Exit.void))
  }
}
