// One attempt: breaker peek › bulkhead › client bucket › target limits › breaker admit › timer › provider › settle.
//
// An attempt opens something: for `complete` the whole answer, for `stream` a stream whose first content part has
// arrived (the commit). `settle` runs exactly once, at the moment the outcome is known; the permits go back when the
// provider's own cleanup is done, which may be later than the caller's release by a timer.
import * as Arr from "effect/Array"
import * as Cause from "effect/Cause"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Pull from "effect/Pull"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import {
  AttemptTimeout,
  type BulkheadFull,
  type CircuitOpen,
  classify,
  DeadlineExceeded,
  type InvalidRequest,
  type LlmError,
  ProviderError,
  type RateLimited,
  retryAfterMillis,
  StreamInterrupted,
  summary,
  TRUNCATED
} from "../LlmError.ts"
import type { LlmEvent } from "../LlmEvent.ts"
import type { LlmProvider } from "../LlmProvider.ts"
import type { LlmRequest } from "../LlmRequest.ts"
import { type Answer, isContent, limitsReported, type Part, type StreamPart, usageOf } from "../LlmResponse.ts"
import type { Bulkhead, Permit } from "../resilience/Bulkhead.ts"
import type { CircuitBreaker, Permit as Slot } from "../resilience/CircuitBreaker.ts"
import type { RateLimiter, Reservation } from "../resilience/RateLimiter.ts"
import * as Timeout from "../resilience/Timeout.ts"
import {
  type Call,
  emit,
  type End,
  followedBy,
  nowOf,
  partSize,
  type Rest,
  type Served,
  since,
  tell,
  whole
} from "./call.ts"

/** Parts of a stream that are held back before its first content part; then it counts as committed. */
const MAX_UNCOMMITTED_PARTS = 64
/** What is kept of one stream for its response and its stored answer. A longer stream is delivered, but not kept. */
const MAX_KEPT_PARTS = 100_000
const MAX_KEPT_BYTES = 16 * 1024 * 1024

/** What guards one target. An absent guard is switched off and costs nothing. */
export interface Guards {
  readonly target: string
  readonly provider: LlmProvider
  readonly breaker: CircuitBreaker | undefined
  readonly bulkhead: Bulkhead | undefined
  /** One bucket for all targets. */
  readonly bucket: RateLimiter | undefined
  /** Limits of this target alone. */
  readonly limits: RateLimiter | undefined
  readonly timeout: Timeout.Policy | undefined
}

export type AttemptError =
  | ProviderError
  | AttemptTimeout
  | DeadlineExceeded
  | CircuitOpen
  | BulkheadFull
  | RateLimited
  | InvalidRequest

type AttemptSucceeded = Extract<LlmEvent, { readonly _tag: "AttemptSucceeded" }>
type Mutable<A> = { -readonly [K in keyof A]: A[K] }
type Restore = <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R>
/** Acquires one thing: at once, and then there is nothing to run, or by an effect that waits or fails. */
type Step = (attempt: Attempt, restore: Restore, now: number) => Effect.Effect<unknown, AttemptError> | undefined

/** Composes the attempt of one target, once, when the client is built. */
export const make = (guards: Guards): (call: Call, request: LlmRequest) => Effect.Effect<Served, AttemptError> => {
  const { breaker } = guards
  const steps: Array<Step> = []
  if (guards.bulkhead !== undefined) steps.push(takePermit(guards.bulkhead))
  if (guards.bucket !== undefined) steps.push(takeTokens(guards.bucket, () => 1, rememberRefusal))
  if (guards.limits !== undefined) steps.push(takeTokens(guards.limits, estimate))
  if (breaker !== undefined) steps.push(admit(breaker))
  const acquire = (attempt: Attempt, restore: Restore, now: number, from = 0): ReturnType<Step> => {
    for (let i = from; i < steps.length; i++) {
      const wait = steps[i]!(attempt, restore, now)
      if (wait !== undefined) {
        return Effect.flatMap(wait, () => acquire(attempt, restore, nowOf(attempt.call), i + 1) ?? Effect.void)
      }
    }
    return undefined
  }

  return (call, request) =>
    Effect.uninterruptibleMask((restore) => {
      const now = nowOf(call)
      if (breaker?.isOpenUnsafe(now) === true) {
        refused(call, guards.target, "circuit-breaker")
        return Effect.fail(breaker.rejectionUnsafe(now)())
      }
      const attempt = new Attempt(call, request, guards)
      let wait: ReturnType<Step>
      try {
        wait = acquire(attempt, restore, now)
      } catch (defect) {
        // What was acquired before it goes back.
        return Effect.andThen(attempt.close(Exit.die(defect)), Effect.die(defect))
      }
      if (wait === undefined) return attempt.start(restore, now)
      return Effect.flatMap(
        Effect.onError(wait, () => attempt.close(Exit.void)),
        () => attempt.start(restore, nowOf(call))
      )
    })
}

// -----------------------------------------------------------------------------
// what is acquired before the provider is asked
// -----------------------------------------------------------------------------

const refused = (call: Call, target: string, by: "circuit-breaker" | "bulkhead" | "rate-limit"): void =>
  emit(call, { _tag: "AttemptRefused", call: call.id, at: since(call), target, by })

const timeLeft = (call: Call): number => Math.max(call.until.deadlineAt - nowOf(call), 0)

const takePermit = (bulkhead: Bulkhead): Step => (attempt, restore) => {
  attempt.permit = bulkhead.tryAcquireUnsafe()
  return attempt.permit !== undefined ? undefined : Effect.catch(
    bulkhead.acquire({
      maxWait: () => timeLeft(attempt.call),
      restore,
      onAcquired: (permit) => {
        attempt.permit = permit
        attempt.waited("bulkhead", permit.waited)
      }
    }),
    (error): Effect.Effect<never, AttemptError> => {
      if (timeLeft(attempt.call) <= 0) return Effect.fail(attempt.deadlineExceeded())
      refused(attempt.call, attempt.guards.target, "bulkhead")
      return Effect.fail(error)
    }
  )
}

const takeTokens = (
  limiter: RateLimiter,
  cost: (request: LlmRequest) => number | Readonly<Record<string, number>>,
  onRefused?: (call: Call, error: RateLimited) => void
): Step =>
(attempt, restore, now) => {
  const needed = cost(attempt.request)
  const free = limiter.tryAcquireUnsafe(needed, attempt.call.clock, now)
  if (free !== undefined) {
    attempt.reserved(limiter, free)
    return undefined
  }
  return Effect.catch(
    limiter.acquire(needed, {
      maxWait: timeLeft(attempt.call),
      restore,
      onAcquired: (reservation) => {
        attempt.reserved(limiter, reservation)
        attempt.waited("rate-limit", reservation.waited)
      }
    }),
    (error) => {
      refused(attempt.call, attempt.guards.target, "rate-limit")
      if (error._tag === "RateLimited") onRefused?.(attempt.call, error)
      return Effect.fail(error)
    }
  )
}

/** Every target would meet the same bucket, so its refusal is remembered for the failover. */
const rememberRefusal = (call: Call, error: RateLimited): void => {
  call.progress.sharedRefusal = error
}

const admit = (breaker: CircuitBreaker): Step => (attempt, _, now) => {
  attempt.slot = breaker.admitUnsafe(now)
  if (attempt.slot !== undefined) return undefined
  refused(attempt.call, attempt.guards.target, "circuit-breaker")
  return Effect.fail(breaker.rejectionUnsafe(now)())
}

/** Input by length (four characters a token), output by `maxTokens`; settled with the real usage afterwards. */
const estimate = (request: LlmRequest): Readonly<Record<string, number>> => {
  const input = Math.ceil(lengthOf(request.prompt) / 4)
  const output = request.maxTokens ?? 1024
  return { requests: 1, tokens: input + output, "input-tokens": input, "output-tokens": output }
}

/** Characters a tokenizer would see: the bytes of a file are not text, and count as a thousand tokens. */
const lengthOf = (prompt: LlmRequest["prompt"]): number => {
  let length = 0
  // No recursion: what tools return can be nested deeper than a stack is.
  const open: Array<unknown> = [prompt]
  while (open.length > 0) {
    const value = open.pop()
    if (typeof value === "string") length += value.length
    else if (typeof value !== "object" || value === null) length += 1
    else if ("type" in value && value.type === "file") length += 4000
    else for (const inner of Object.values(value)) open.push(inner)
  }
  return length
}

// -----------------------------------------------------------------------------
// the attempt
// -----------------------------------------------------------------------------

class Attempt {
  readonly call: Call
  readonly request: LlmRequest
  readonly guards: Guards
  /** What a stream's provider holds. */
  readonly scope: Scope.Closeable | undefined
  readonly reservations: Array<Reservation> = []
  /** The one of them that the target's own limits gave; what a vendor says of its limits is about it alone. */
  private vendors: Reservation | undefined
  permit: Permit | undefined
  slot: Slot | undefined
  private number = 0
  private startedAt = 0
  private committedAt: number | undefined
  private settled = false
  /** The timer of a stream's silence. */
  private alarm: Timeout.Alarm | undefined
  private closed = false

  constructor(call: Call, request: LlmRequest, guards: Guards) {
    this.call = call
    this.request = request
    this.guards = guards
    this.scope = call.scope === undefined ? undefined : Scope.makeUnsafe()
  }

  reserved(by: RateLimiter, reservation: Reservation): void {
    this.reservations.push(reservation)
    if (by === this.guards.limits) this.vendors = reservation
  }

  waited(forWhat: "bulkhead" | "rate-limit", duration: number): void {
    const { call, guards } = this
    if (duration <= 0) return
    emit(call, { _tag: "Waited", call: call.id, at: since(call), target: guards.target, for: forWhat, duration })
  }

  deadlineExceeded(): DeadlineExceeded {
    return new DeadlineExceeded({ after: Duration.millis(this.call.deadline) })
  }

  /** Everything is held: ask the provider. Called, and returns, in an uninterruptible region. */
  start(restore: Restore, now: number): Effect.Effect<Served, AttemptError> {
    const { call, guards } = this
    this.startedAt = now
    if (this.startedAt >= call.until.deadlineAt) {
      return Effect.flatMap(this.close(Exit.void), () => Effect.fail(this.deadlineExceeded()))
    }
    this.number = ++call.progress.attempts
    call.progress.target = guards.target
    const { model } = this.request
    const at = since(call, now)
    const event = { _tag: "AttemptStarted" as const, call: call.id, at, target: guards.target, attempt: this.number }
    emit(call, model === undefined ? event : { ...event, model })
    // What a provider throws before it returns an effect is a defect of the attempt like any other.
    const asked = Effect.suspend(() => this.scope === undefined ? this.generate() : this.openStream(this.scope))
    const open = call.trace === undefined ? asked : call.trace.within(this.number, asked)
    const timers = guards.timeout
    if (timers === undefined) return this.opening(restore(open))
    const kind = call.operation === "stream" && timers.firstToken <= timers.attempt ? "firstToken" : "attempt"
    const due = this.startedAt + timers[kind]
    return Timeout.boundedIn(
      restore,
      this.opening(Effect.interruptible(open)),
      (now) => Math.min(due, call.until.deadlineAt) - now,
      (now) =>
        this.failed(
          due <= now ? new AttemptTimeout({ kind, after: Duration.millis(timers[kind]) }) : this.deadlineExceeded()
        )
    )
  }

  /** Settles what ends here. Run in an uninterruptible region, so nothing comes between. */
  private opening(open: Effect.Effect<Served, AttemptError>): Effect.Effect<Served, AttemptError> {
    return Effect.matchCauseEffect(open, {
      onFailure: (cause) => {
        this.settleCause(cause)
        const exit = Exit.failCause(cause)
        return Effect.andThen(this.close(exit), exit)
      },
      onSuccess: (served) => {
        try {
          if (served.isWhole()) this.succeeded(served.answer)
        } catch (defect) {
          // Reading the answer threw, so it is none.
          this.left("defect")
          return Effect.andThen(this.close(Exit.die(defect)), Effect.die(defect))
        }
        // An answer that nobody waits for any more (its timer fired) is closed like a whole one.
        if (served.rest === undefined || this.settled || this.call.scope === undefined) {
          return followedBy(this.closing(Exit.void), served)
        }
        // From here on the stream belongs to its consumer; one that leaves early closes it with the call's scope.
        return Effect.as(Scope.addFinalizerExit(this.call.scope, (end) => this.close(end)), served)
      }
    })
  }

  // --- outcomes, each counted once -------------------------------------------

  private settle(outcome: "success" | "failure" | "ignored", now: number, retryAfter?: number): boolean {
    if (this.settled) return false
    this.settled = true
    if (this.slot !== undefined) {
      this.guards.breaker?.recordUnsafe(this.slot, outcome, now, {
        duration: (this.committedAt ?? now) - this.startedAt,
        ...(retryAfter === undefined ? undefined : { retryAfter })
      })
    }
    return true
  }

  private facts(now: number) {
    const { call, guards, number, startedAt } = this
    return { call: call.id, at: since(call, now), target: guards.target, attempt: number, duration: now - startedAt }
  }

  succeeded(answer: Answer): void {
    // Read before anything is settled: it is a provider's data and may throw.
    const usage = usageOf(answer)
    const input = usage?.inputTokens.total
    const output = usage?.outputTokens.total
    const now = nowOf(this.call)
    if (!this.settle("success", now)) return
    this.call.progress.answeredAt = now
    this.call.trace?.answered(this.number, answer)
    if (input !== undefined && output !== undefined && this.guards.limits !== undefined) {
      const actual = { requests: 1, tokens: input + output, "input-tokens": input, "output-tokens": output }
      for (const reservation of this.reservations) reservation.settle(actual)
    }
    if (this.vendors !== undefined) this.vendors.observe(limitsReported(answer))
    const event: Mutable<AttemptSucceeded> = {
      _tag: "AttemptSucceeded",
      call: this.call.id,
      at: since(this.call, now),
      target: this.guards.target,
      attempt: this.number,
      duration: now - this.startedAt
    }
    if (input !== undefined) event.inputTokens = input
    if (output !== undefined) event.outputTokens = output
    if (usage?.inputTokens.cacheRead !== undefined) event.cacheReadTokens = usage.inputTokens.cacheRead
    if (usage?.inputTokens.cacheWrite !== undefined) event.cacheWriteTokens = usage.inputTokens.cacheWrite
    if (usage?.outputTokens.reasoning !== undefined) event.reasoningTokens = usage.outputTokens.reasoning
    emit(this.call, event)
  }

  failed<E extends AttemptError | StreamInterrupted>(error: E): E {
    const now = nowOf(this.call)
    const verdict = classify(error)
    const retryAfter = retryAfterMillis(error)
    if (!this.settle(verdict.outcome, now, retryAfter)) return error
    if (error instanceof ProviderError) this.giveBackTokens(error, retryAfter, now)
    emit(this.call, {
      _tag: "AttemptFailed",
      ...this.facts(now),
      error: summary(error),
      outcome: verdict.outcome,
      afterCommit: this.committedAt !== undefined
    })
    return error
  }

  /** Ended without a typed outcome. An attempt that never started leaves no trace and pays nothing. */
  private left(by: "caller" | "defect"): void {
    const now = nowOf(this.call)
    if (!this.settle("ignored", now)) return
    if (this.number > 0) emit(this.call, { _tag: "AttemptInterrupted", ...this.facts(now), by })
    else for (const reservation of this.reservations) reservation.refund("all")
  }

  private settleCause(cause: Cause.Cause<AttemptError>): void {
    const found = Cause.findErrorOption(cause)
    if (found._tag === "Some") this.failed(found.value)
    else this.left(Cause.hasInterruptsOnly(cause) ? "caller" : "defect")
  }

  /** A request that was never sent costs nothing; one that was answered with a failure costs a request, no tokens. */
  private giveBackTokens(error: ProviderError, retryAfter: number | undefined, now: number): void {
    const { _tag } = error.reason
    const unsent = error.reason._tag === "Network" && !error.reason.sent
    for (const reservation of this.reservations) {
      if (unsent || _tag === "Quota") reservation.refund("all")
      else if (_tag !== "MalformedResponse") reservation.refund("tokens")
    }
    // After the refund: what the vendor says is left is left.
    if (error.rateLimits !== undefined) this.vendors?.observe(error.rateLimits)
    if (_tag === "RateLimit" && retryAfter !== undefined) this.guards.limits?.blockUnsafe(retryAfter, now)
  }

  /** Ends the provider's work, then gives back what is still held. The first call does it, whoever calls again. */
  close(exit: Exit.Exit<unknown, unknown>): Effect.Effect<void> {
    return this.closing(exit) ?? Effect.void
  }

  /** What is left to do to {@link close}; nothing where the provider holds nothing. */
  private closing(exit: Exit.Exit<unknown, unknown>): Effect.Effect<void> | undefined {
    const { scope } = this
    if (scope === undefined) {
      this.release()
      return undefined
    }
    return Effect.uninterruptible(Effect.suspend(() => {
      if (this.closed) return Effect.void
      this.closed = true
      return Effect.andThen(Scope.close(scope, exit), Effect.sync(() => this.release()))
    }))
  }

  private release(): void {
    this.alarm?.cancel()
    this.left("caller")
    this.permit?.release()
  }

  // --- opening ----------------------------------------------------------------

  private answer(parts: ReadonlyArray<Part> | ReadonlyArray<StreamPart>): Answer {
    return {
      parts,
      target: this.guards.target,
      provider: this.guards.provider.id,
      model: this.request.model
    }
  }

  private generate(): Effect.Effect<Served, ProviderError> {
    return Effect.flatMap(this.guards.provider.generate(this.request), (parts) => {
      const problem = unusable(parts)
      return problem === undefined
        ? Effect.succeed(whole(this.answer(parts), "provider", 0))
        : Effect.fail(this.providerError(problem))
    })
  }

  private openStream(scope: Scope.Closeable): Effect.Effect<Served, ProviderError> {
    const parts: Array<StreamPart> = []
    const pull = Scope.provide(Stream.toPull(this.guards.provider.stream(this.request)), scope)
    const untilContent = (
      next: Pull.Pull<ReadonlyArray<StreamPart>, ProviderError>
    ): Effect.Effect<Served, ProviderError> =>
      Effect.flatMap(
        Pull.catchDone(next, () => Effect.fail(this.providerError({ _tag: "MalformedResponse", problem: TRUNCATED }))),
        (chunk) => {
          let content = parts.length + chunk.length >= MAX_UNCOMMITTED_PARTS
          let finished = false
          for (const part of chunk) {
            if (part.type === "error") return Effect.fail(this.errorPart(part.error))
            parts.push(part)
            content ||= isContent(part)
            finished ||= part.type === "finish"
          }
          if (finished) {
            const problem = unusable(parts)
            return problem === undefined
              ? Effect.succeed(whole(this.answer(parts), "provider", 0))
              : Effect.fail(this.providerError(problem))
          }
          return content ? Effect.succeed(this.commit(next, parts)) : untilContent(next)
        }
      )
    return Effect.flatMap(pull, untilContent)
  }

  // --- after the commit -------------------------------------------------------

  private commit(pull: Pull.Pull<ReadonlyArray<StreamPart>, ProviderError>, parts: Array<StreamPart>): Served {
    const { call, guards } = this
    this.committedAt = nowOf(call)
    emit(call, { _tag: "AttemptCommitted", ...this.facts(this.committedAt) })
    const answer = { ...this.answer(parts), cut: false }
    let delivered = parts.filter(isContent).length
    let kept = parts.reduce((sum, part) => sum + partSize(part), 0)
    let isWhole = false
    let broken: ProviderError | undefined
    const silence = new Timeout.IdleClock(guards.timeout?.idle ?? Infinity)

    const interruption = (kind: StreamInterrupted["kind"], reason?: ProviderError["reason"]): StreamInterrupted =>
      new StreamInterrupted({
        provider: guards.provider.id,
        kind,
        partialParts: delivered,
        ...(reason === undefined ? undefined : { reason })
      })
    const fromProvider = (error: ProviderError): StreamInterrupted => {
      if (error.reason._tag === "Network") return interruption("reset", error.reason)
      return error.reason._tag === "MalformedResponse" && error.reason.problem === TRUNCATED
        ? interruption("truncated")
        : interruption("error", error.reason)
    }
    const ends: Array<End> = []
    const failWith = <E extends LlmError>(closing: Effect.Effect<unknown>, cause: Cause.Cause<E>) => {
      const told = tell(ends, ({ onFailed }) => onFailed?.(cause)) ?? Effect.void
      return Effect.andThen(Effect.andThen(closing, told), Effect.failCause(cause))
    }
    const end = (error: StreamInterrupted | DeadlineExceeded) => {
      this.failed(error)
      return failWith(this.close(Exit.void), Cause.fail(error))
    }
    // Our own timers release the consumer at once; what the provider still has to clean up goes on by itself.
    const endByTimer = (error: StreamInterrupted | DeadlineExceeded) => {
      this.failed(error)
      return failWith(Effect.forkDetach(this.close(Exit.void), { startImmediately: true }), Cause.fail(error))
    }
    const arrived = (chunk: ReadonlyArray<StreamPart>): Rest => {
      let content = 0
      let good = 0
      while (good < chunk.length && !isWhole) {
        const part = chunk[good]!
        if (part.type === "error") {
          broken = this.errorPart(part.error)
          break
        }
        good += 1
        isWhole = part.type === "finish"
        if (isContent(part)) content += 1
        kept += partSize(part)
        answer.cut ||= !isWhole && (parts.length >= MAX_KEPT_PARTS || kept > MAX_KEPT_BYTES)
        // The end of a very long stream is kept: it tells how the answer finished and what it cost.
        if (!answer.cut || isWhole) parts.push(part)
      }
      const now = nowOf(call)
      silence.stop(now, content > 0)
      if (content > 0 && this.slot !== undefined) guards.breaker?.renewUnsafe(this.slot, now)
      delivered += content
      const arrivals = good === chunk.length ? chunk : chunk.slice(0, good)
      if (!Arr.isReadonlyArrayNonEmpty(arrivals)) return rest
      if (!isWhole) return Effect.succeed(arrivals)
      try {
        this.succeeded(answer)
      } catch (defect) {
        this.left("defect")
        return failWith(this.close(Exit.die(defect)), Cause.die(defect))
      }
      return followedBy(tell(ends, ({ onWhole }) => onWhole()), arrivals)
    }
    const lost = (cause: Cause.Cause<ProviderError | StreamInterrupted | DeadlineExceeded | Cause.Done>): Rest => {
      if (Pull.isDoneCause(cause)) return end(interruption("truncated"))
      const found = Cause.findErrorOption(cause)
      if (found._tag === "None") {
        this.left("defect")
        return failWith(this.close(Exit.void), cause as Cause.Cause<never>)
      }
      const error = found.value
      if (error instanceof ProviderError) return end(fromProvider(error))
      return Cause.isDone(error) ? end(interruption("truncated")) : endByTimer(error)
    }
    const bounded = guards.timeout === undefined ? pull : Timeout.bounded(
      pull,
      (now) => Math.min(silence.left(now), call.until.deadlineAt - now),
      (now) => this.failed(call.until.deadlineAt <= now ? this.deadlineExceeded() : interruption("idle")),
      this.alarm = new Timeout.Alarm()
    )
    const next: Rest = Effect.matchCauseEffect(bounded, { onSuccess: arrived, onFailure: lost })
    const rest: Rest = Effect.suspend(() => {
      if (isWhole) return Effect.andThen(this.close(Exit.void), Cause.done())
      if (broken !== undefined) return end(fromProvider(broken))
      const now = nowOf(call)
      if (call.until.deadlineAt <= now) return endByTimer(this.deadlineExceeded())
      silence.start(now)
      return next
    })
    return { source: "provider", age: 0, answer, rest, ends, isWhole: () => isWhole }
  }

  // --- errors -----------------------------------------------------------------

  private providerError(reason: ProviderError["reason"]): ProviderError {
    return new ProviderError({ provider: this.guards.provider.id, reason })
  }

  private errorPart(error: unknown): ProviderError {
    return error instanceof ProviderError ? error : this.providerError({ _tag: "Server" })
  }
}

/** An answer without content is usable only if the model was cut off before it said anything. */
const unusable = (parts: ReadonlyArray<Part | StreamPart>): ProviderError["reason"] | undefined => {
  let reason: string | undefined
  for (const part of parts) {
    if (isContent(part)) return undefined
    if (part.type === "finish") reason = part.metadata?.["refusal"] === undefined ? part.reason : "content-filter"
  }
  if (reason === "length" || reason === "pause") return undefined
  return reason === "content-filter"
    ? { _tag: "ContentPolicy" }
    : { _tag: "MalformedResponse", problem: "the answer is empty" }
}
