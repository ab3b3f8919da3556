// One attempt: what it holds, its books, and its two ends. It is settled exactly once, at the moment its outcome is known;
// what it holds goes back when the provider's own cleanup is done, which may be later than the caller's release by a
// timer.
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type * as Fiber from "effect/Fiber"
import * as Scope from "effect/Scope"
import {
  type AttemptTimeout,
  classify,
  type DeadlineExceeded,
  isProviderError,
  type ProviderError,
  providerError,
  retryAfterMillis,
  type StreamInterrupted,
  summary,
  type Verdict
} from "../LlmError.ts"
import type { AttemptSucceeded, LlmEvent } from "../LlmEvent.ts"
import type { Ask, Held, Outcome } from "../LlmGuard.ts"
import type { LlmProvider } from "../LlmProvider.ts"
import type { LlmRequest } from "../LlmRequest.ts"
import { type Answer, limitsReported, type Part, type StreamPart, type Usage, usageOf } from "../LlmResponse.ts"
import type { Background } from "./background.ts"
import type { Call } from "./call.ts"
import { isOpen, type Mutable, spentBy, tellUsage } from "./spent.ts"
import type { Served } from "./stage.ts"

export type Restore = <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R>

/** Who is asked. */
export interface Asked {
  readonly id: string
  readonly provider: LlmProvider
  /** The purse of its retries, which first attempts fill. */
  readonly budget: { readonly depositUnsafe: (now: number) => void } | undefined
  /** Tokens of a prompt, as its limits estimate them. */
  readonly tokensOf: (request: LlmRequest) => number
  /** Where guards' unfinished business goes on. */
  readonly background: Background
}

type Failure = ProviderError | AttemptTimeout | DeadlineExceeded | StreamInterrupted
/** What tells of an attempt. */
type OfAttempt = Extract<LlmEvent, { readonly attempt: number }>

class Succeeded {
  readonly _tag = "Succeeded"
  readonly now: number
  readonly duration: number
  readonly usage: Usage | undefined
  // Not to be seen: guards of users log what they are told.
  readonly #answer: Answer

  constructor(now: number, duration: number, usage: Usage | undefined, answer: Answer) {
    this.now = now
    this.duration = duration
    this.usage = usage
    this.#answer = answer
  }

  get limits(): ReturnType<typeof limitsReported> {
    return limitsReported(this.#answer)
  }
}

export class Attempt implements Ask {
  readonly call: Call
  readonly to: Asked
  readonly restore: Restore
  readonly held: Array<Held> = []
  /** What a stream's provider holds. */
  readonly scope: Scope.Closeable | undefined
  now: number
  number = 0
  startedAt = 0
  committedAt: number | undefined
  /** Who is asked: the target's provider, or whom the first of its guards has chosen. */
  provider: LlmProvider
  /** What the provider has said so far, or all of it. */
  got: Answer | undefined
  private isInjected = false
  private isSettled = false
  private isClosing = false
  /** A timer released the caller, and the provider is still at work. */
  private isLeft = false

  constructor(call: Call, to: Asked, restore: Restore, now: number) {
    this.call = call
    this.to = to
    this.provider = to.provider
    this.restore = restore
    this.now = now
    this.scope = call.scope === undefined ? undefined : Scope.makeUnsafe()
    call.books.current = this
  }

  // --- what guards ask ---------------------------------------------------------

  get request(): LlmRequest {
    return this.call.request
  }

  get target(): string {
    return this.to.id
  }

  get operation(): "complete" | "stream" {
    return this.call.root.operation
  }

  left(now: number): number {
    return this.call.deadline.left(now)
  }

  /** Has a provider been asked, and not answered yet? */
  get isUnderWay(): boolean {
    return this.number > 0 && !this.isSettled
  }

  // --- its life ------------------------------------------------------------------

  /** Everything is held. */
  start(now: number): void {
    const { books, request, root } = this.call
    const { id } = this.to
    if (books.target !== id) this.to.budget?.depositUnsafe(now)
    for (const { injected, provider } of this.held) {
      if (injected === true) this.isInjected = true
      if (provider !== undefined && this.provider === this.to.provider) this.provider = provider
    }
    this.startedAt = now
    this.number = books.attempt = ++root.attempts
    books.launches += 1
    books.target = id
    const { model } = request
    const event = {
      _tag: "AttemptStarted" as const,
      call: root.id,
      at: now - root.startedAt,
      target: id,
      attempt: this.number
    }
    this.emit(model === undefined ? event : { ...event, model })
  }

  emit(event: OfAttempt): void {
    this.call.root.emit(this.isInjected ? { ...event, injected: true } : event)
  }

  /** Runs on every way out, uninterruptibly. No function in a field: V8 makes those old at once, and all they reach. */
  end(exit: Exit.Exit<Served, unknown>): Effect.Effect<void> | undefined {
    if (this.isLeft) return undefined
    if (Exit.isSuccess(exit)) {
      try {
        if (exit.value.isWhole()) this.succeeded(exit.value.answer)
      } catch (defect) {
        // Reading the answer threw, so it is none.
        this.ignored("defect")
        return Effect.andThen(this.close(Exit.die(defect)) ?? Effect.void, Effect.die(defect))
      }
      if (exit.value.rest === undefined) return this.close(exit)
      // From here on the stream belongs to its consumer; one that leaves early closes it with the call's scope.
      return Scope.addFinalizerExit(this.call.scope!, (end) => this.close(end) ?? Effect.void)
    }
    const found = Cause.findErrorOption(exit.cause)
    if (this.number > 0 && found._tag === "Some") this.failed(found.value as Failure)
    else this.ignored(Cause.hasInterruptsOnly(exit.cause) ? "caller" : "defect")
    return this.close(exit)
  }

  /** The provider's work is over, or nobody wants it any more: ends it, then gives back what is held. Once. */
  close(exit: Exit.Exit<unknown, unknown>): Effect.Effect<void> | undefined {
    const { scope } = this
    if (scope === undefined) {
      this.release()
      return undefined
    }
    return Effect.uninterruptible(Effect.suspend(() => {
      if (this.isClosing) return Effect.void
      this.isClosing = true
      return Effect.onExitPrimitive(Scope.close(scope, exit), () => {
        this.release()
        return undefined
      })
    }))
  }

  /** Our own timer ended the wait: the caller is free now, and what is held comes back when `work` has cleaned up. */
  leave(work: Fiber.Fiber<unknown, unknown>): void {
    this.isLeft = true
    work.addObserver((exit) => this.to.background.run(this.close(exit)))
  }

  private release(): void {
    this.ignored("caller")
    for (let i = this.held.length - 1; i >= 0; i--) {
      try {
        this.held[i]!.release?.()
      } catch (defect) {
        this.to.background.report(defect)
      }
    }
  }

  /** A stream is alive. */
  renew(now: number): void {
    for (const held of this.held) {
      try {
        held.renew?.(now)
      } catch (defect) {
        this.to.background.report(defect)
      }
    }
  }

  // --- outcomes, one of them counts ------------------------------------------------

  succeeded(answer: Answer): void {
    if (this.isSettled) return
    // Read before anything is settled: it is a provider's data and may throw.
    const usage = usageOf(answer)
    const { call, number, startedAt, to } = this
    const now = call.root.now()
    call.root.answeredAt = now
    call.root.trace?.answered(number, answer)
    const event: Mutable<AttemptSucceeded> = {
      _tag: "AttemptSucceeded",
      call: call.root.id,
      at: now - call.root.startedAt,
      target: to.id,
      attempt: number,
      duration: now - startedAt
    }
    if (usage !== undefined) tellUsage(event, usage)
    this.settle(event, new Succeeded(now, (this.committedAt ?? now) - startedAt, usage, answer))
  }

  /**
   * `worked`: for an attempt that the deadline, or its target's share of it, has cut: the milliseconds it had. It is the
   * provider's failure if that was at least half of what the target was given; otherwise it says nothing.
   */
  failed<E extends Failure>(error: E, worked?: number): E {
    if (this.isSettled) return error
    const { call, committedAt, number, startedAt, to } = this
    const { root } = call
    const now = root.now()
    const verdict = this.judge(error, worked, now)
    call.books.failed = { error, verdict }
    const spent = spentBy(this, isOpen(error))
    const facts = {
      _tag: "AttemptFailed" as const,
      call: root.id,
      at: now - root.startedAt,
      target: to.id,
      attempt: number,
      duration: now - startedAt,
      error: summary(error),
      outcome: verdict.outcome,
      afterCommit: committedAt !== undefined
    }
    const event = spent === undefined ? facts : { ...facts, ...spent }
    const duration = (committedAt ?? now) - startedAt
    if (worked !== undefined && verdict.outcome === "ignored") {
      this.settle(event, { _tag: "Ignored", now, duration, by: "deadline", spent })
      return error
    }
    this.settle(event, {
      _tag: "Failed",
      now,
      duration,
      error,
      verdict,
      retryAfter: retryAfterMillis(error),
      limits: isProviderError(error) ? error.rateLimits ?? none : none,
      spent,
      sent: !(isProviderError(error) && error.reason._tag === "Network" && !error.reason.sent)
    })
    return error
  }

  /** Ended without a typed outcome. An attempt that never started leaves no trace. */
  ignored(by: "caller" | "defect" | "lost"): void {
    if (this.isSettled) return
    const { call: { root }, number, startedAt, to } = this
    const now = root.now()
    if (number === 0) return this.settle(undefined, { _tag: "NeverStarted", now })
    const duration = now - startedAt
    const spent = spentBy(this, by !== "defect")
    const event = {
      _tag: "AttemptInterrupted" as const,
      call: root.id,
      at: now - root.startedAt,
      target: to.id,
      attempt: number,
      duration,
      by,
      ...spent
    }
    this.settle(event, { _tag: "Ignored", now, duration, by, spent })
  }

  private judge(error: Failure, worked: number | undefined, now: number): Verdict {
    let verdict = classify(error)
    if (worked !== undefined) {
      const outcome = worked >= this.call.given / 2 ? "failure" : "ignored"
      if (outcome !== verdict.outcome) verdict = { ...verdict, outcome }
    }
    for (const held of this.held) {
      try {
        if (held.judge !== undefined) verdict = held.judge(verdict, now)
      } catch (defect) {
        this.to.background.report(defect)
      }
    }
    return verdict
  }

  /** The event first, then whoever holds something, the last one first. */
  private settle(event: OfAttempt | undefined, outcome: Outcome): void {
    this.isSettled = true
    if (event !== undefined) this.emit(event)
    for (let i = this.held.length - 1; i >= 0; i--) {
      try {
        this.to.background.run(this.held[i]!.settle?.(outcome))
      } catch (defect) {
        this.to.background.report(defect)
      }
    }
  }

  // --- what the provider gave ----------------------------------------------------------

  answer(parts: ReadonlyArray<Part> | ReadonlyArray<StreamPart>): Answer {
    return this.got = { parts, target: this.to.id, provider: this.to.provider.id, model: this.call.request.model }
  }

  error(reason: ProviderError["reason"]): ProviderError {
    return providerError(this.to.provider.id, { reason })
  }
}

const none = [] as const
