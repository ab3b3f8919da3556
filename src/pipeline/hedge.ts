// Hedging: a step of the walk along the targets, taken early. One attempt, without retries, with books of its own.
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type { Recent } from "../internal/recent.ts"
import type { Held, Outcome } from "../LlmGuard.ts"
import type { LlmRequest } from "../LlmRequest.ts"
import type { Hedging } from "../resilience/Failover.ts"
import * as Hedge from "../resilience/Hedge.ts"
import type { RetryBudget } from "../resilience/RetryBudget.ts"
import type { Attempt } from "./attempt.ts"
import type { Call } from "./call.ts"
import type { Door } from "./guards.ts"
import type { Served, Stage } from "./stage.ts"

/** A target that can be asked on the side. */
export interface Rival<out E> {
  readonly id: string
  readonly budget: RetryBudget | undefined
  /** How long its streams took to their first content. */
  readonly firstContent: Recent | undefined
  /** One attempt. */
  readonly once: Stage<E>
}

/** What is done in a request may be done twice. A tool that the vendor runs itself must not be. */
const isSafe = ({ tools }: LlmRequest): boolean => tools?.every(({ provider }) => provider === undefined) ?? true

/** One target's turn, with the lines beside it. The target's own line writes the books of the call. */
export class Turn<E> implements Hedging<Served, E, never> {
  readonly maxHedges: number
  private readonly policy: Hedge.Policy
  private readonly rivals: ReadonlyArray<Rival<E>>
  private readonly from: number
  /** As the target has it. */
  private readonly call: Call
  private readonly requestAt: (index: number, now: number) => LlmRequest
  private readonly maxAttempts: number | undefined
  private readonly lines: Array<Call> = []

  constructor(
    policy: Hedge.Policy,
    rivals: ReadonlyArray<Rival<E>>,
    from: number,
    call: Call,
    requestAt: (index: number, now: number) => LlmRequest,
    maxAttempts: number | undefined
  ) {
    this.maxHedges = policy.maxHedges
    this.policy = policy
    this.rivals = rivals
    this.from = from
    this.call = call
    this.requestAt = requestAt
    this.maxAttempts = maxAttempts
  }

  /** How long a whole answer takes says how long it is, not how ill the vendor is: it is hedged after a fixed time only. */
  delay(): number | undefined {
    const { call, from, policy } = this
    if (!isSafe(call.request)) return undefined
    if (policy.delay !== "p95") return policy.delay
    const { firstContent } = this.rivals[from]!
    return call.root.operation === "complete" || firstContent === undefined
      ? undefined
      : Hedge.delayOf(policy, firstContent)
  }

  attempt(index: number, now: number): Effect.Effect<Served, E> | undefined {
    const { books: { current }, root } = this.call
    // The target's own line may be in a waiting line, or in the pause before its next attempt.
    const own = current?.isUnderWay === true ? 0 : 1
    if (this.maxAttempts !== undefined && root.counted() + own >= this.maxAttempts) return undefined
    const { budget, id, once } = this.rivals[index]!
    const paid = budget?.withdrawUnsafe(now)
    if (budget !== undefined && paid === undefined) return undefined
    if (this.policy.mode === "shadow") {
      paid?.refundUnsafe()
      root.emit({
        _tag: "Shadowed",
        call: root.id,
        at: root.since(now),
        target: id,
        by: "hedge",
        decision: "would-hedge"
      })
      return undefined
    }
    if (paid?.isOverdrawn === true) overdrawn(this.call, id, now)
    const line = this.call.line(id, this.requestAt(index, now), now)
    this.lines.push(line)
    root.hedges = [...root.hedges, line]
    return Effect.onExitPrimitive(once(line, now), () => {
      // What was refused by a guard of ours, or left a line, has cost nothing.
      if (line.books.launches === 0) paid?.refundUnsafe()
      return undefined
    })
  }

  /** Every line, the target's own first. */
  get calls(): ReadonlyArray<Call> {
    return [this.call, ...this.lines]
  }

  onHedge(line: number, to: number, now: number): void {
    this.tell("started", line, to, now)
  }

  onSuppressed(to: number, now: number): void {
    if (this.policy.mode !== "shadow") this.tell("suppressed", this.lines.length + 1, to, now)
  }

  onWon(line: number): void {
    this.call.books.adopt(this.calls[line]!.books)
  }

  onLost(line: number): void {
    this.calls[line]!.books.current?.ignored("lost")
  }

  private tell(result: "started" | "suppressed", line: number, to: number, now: number): void {
    const { root } = this.call
    const [from, target] = [this.rivals[this.from]!.id, this.rivals[to]!.id]
    root.emit({ _tag: "Hedged", call: root.id, at: root.since(now), result, line, from, target })
  }
}

/** In shadow mode a purse denies nothing, but says that it would have. */
export const overdrawn = ({ root }: Call, target: string, now: number): void =>
  root.emit({
    _tag: "Shadowed",
    call: root.id,
    at: root.since(now),
    target,
    by: "retry-budget",
    decision: "would-deny"
  })

/** Measures how long the streams of a target take to their first content, for whoever asks: hedges, routing. */
export const measuring = (tell: ReadonlyArray<(millis: number, now: number) => void>): Door<never> => {
  const measured: Exit.Exit<Held> = Exit.succeed({
    settle: (outcome: Outcome) => {
      if (outcome._tag === "Succeeded") { for (const one of tell) one(outcome.duration, outcome.now) }
    }
  })
  const unmeasured: Exit.Exit<Held> = Exit.succeed({})
  return {
    name: "first-content",
    by: "guard",
    tellsAfter: Infinity,
    acquire: (ask) => (ask as Attempt).operation === "stream" ? measured : unmeasured
  }
}
