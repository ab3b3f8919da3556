// The patterns that stand in front of an attempt, each as a guard.
import type * as Tokenizer from "effect/ai/Tokenizer"
import * as Cause from "effect/Cause"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import {
  type BulkheadFull,
  type CircuitOpen,
  type InvalidRequest,
  isOverload,
  type RateLimited,
  type Shed
} from "../LlmError.ts"
import type { Ask, Guard, Held, Outcome, Refusal } from "../LlmGuard.ts"
import type { LlmRequest } from "../LlmRequest.ts"
import type { Bulkhead, Permit } from "../resilience/Bulkhead.ts"
import type * as CircuitBreaker from "../resilience/CircuitBreaker.ts"
import type { RateLimiter, Reservation } from "../resilience/RateLimiter.ts"
import type { Attempt } from "./attempt.ts"
import type { Door } from "./guards.ts"
import { BYTES_PER_TOKEN, promptTokens } from "./request.ts"
import { type DoorRules, isOpen, ours, shadowed, turnedAway } from "./shedding.ts"

class Place implements Held {
  protected readonly permit: Permit
  constructor(permit: Permit) {
    this.permit = permit
  }
  release(): void {
    this.permit.releaseUnsafe()
  }
}

/** A place in a bulkhead that learns from how its calls end. */
class Lesson extends Place {
  settle(outcome: Outcome): void {
    this.permit.recordUnsafe(
      outcome._tag === "Succeeded"
        ? "success"
        : outcome._tag === "Failed" && isOverload(outcome.error)
        ? "overload"
        : "neutral"
    )
  }
}

/** Room in flight. With `doors` a call that may not join the line, or would be too late in it, is shed. */
export const inBulkhead = (bulkhead: Bulkhead, rules: DoorRules | undefined): Door<BulkheadFull | Shed> => {
  const placeOf = bulkhead.isAdaptive ? (permit: Permit) => new Lesson(permit) : (permit: Permit) => new Place(permit)
  return {
    ...ours,
    name: "bulkhead",
    by: "bulkhead",
    acquire: (ask) => {
      const permit = bulkhead.tryAcquireUnsafe()
      if (permit !== undefined) return Exit.succeed(placeOf(permit))
      const { deadline, root } = (ask as Attempt).call
      const { priority, tenant } = ask.request
      let isTold = false
      if (rules !== undefined) {
        const line = bulkhead.lineUnsafe(ask.request, ask.now)
        const isTooLate = line.wait !== undefined && line.wait > deadline.left(ask.now)
        const reason = !isOpen(rules.doors, ask.request, line) ? "queue-full" : isTooLate ? "deadline" : undefined
        if (reason !== undefined && !rules.isShadow) return Exit.fail(turnedAway(reason, line.wait))
        isTold = reason !== undefined
        if (isTold) shadowed(ask, "load-shedding", "would-shed", line.wait)
      }
      const maxWait = (): number => Math.max(deadline.left(root.now()), 0)
      let isTurnedAway = false
      const onDisplaced = (): void => {
        isTurnedAway = true
      }
      const permits = bulkhead.acquire({ restore: ask.restore, maxWait, priority, tenant, onDisplaced })
      return rules === undefined ? Effect.map(permits, placeOf) : Effect.mapBoth(permits, {
        onSuccess: placeOf,
        onFailure: (error) => {
          if (!isTurnedAway) return error
          if (!rules.isShadow) return turnedAway("queue-full", undefined)
          if (!isTold) shadowed(ask, "load-shedding", "would-shed")
          return error
        }
      })
    }
  }
}

class Tokens implements Held {
  private readonly taken: Reservation
  /** Does the limiter count more than requests? Only then an answer changes what was taken. */
  private readonly counted: boolean
  /** The limiter, when its limits are the vendor's, so that what the vendor says is about it. */
  private readonly vendors: RateLimiter | undefined
  constructor(taken: Reservation, counted: boolean, vendors: RateLimiter | undefined) {
    this.taken = taken
    this.counted = counted
    this.vendors = vendors
  }
  /** A request that was never sent costs nothing; one that was answered with a failure costs a request, no tokens. */
  settle(outcome: Outcome): void {
    const { counted, taken, vendors } = this
    switch (outcome._tag) {
      case "NeverStarted":
        return taken.refundUnsafe("all")
      case "Succeeded": {
        const input = counted ? outcome.usage?.inputTokens.total : undefined
        const output = outcome.usage?.outputTokens.total
        if (input !== undefined && output !== undefined) taken.settleUnsafe(costOf(input, output))
        if (vendors !== undefined) taken.observeUnsafe(outcome.limits)
        return
      }
      case "Failed": {
        const { error, limits, now, retryAfter, sent } = outcome
        if (error._tag !== "ProviderError") return
        const reason = error.reason._tag
        if (!sent || reason === "Quota") taken.refundUnsafe("all")
        else if (counted && reason !== "MalformedResponse") taken.refundUnsafe("tokens")
        if (vendors === undefined) return
        // After the refund: what the vendor says is left is left.
        taken.observeUnsafe(limits)
        if (reason === "RateLimit" && retryAfter !== undefined) vendors.blockUnsafe(retryAfter, now)
      }
    }
  }
}

/**
 * Tokens of a bucket. `"client"`: the one bucket of all targets, whose refusal every target would meet. `"vendor"`: the
 * limits of this target alone.
 */
export const inLimits = (
  limiter: RateLimiter,
  whose: "client" | "vendor",
  rules: DoorRules | undefined,
  tokensOf: TokensOf
): Door<RateLimited | InvalidRequest | Shed> => {
  const vendors = whose === "vendor" ? limiter : undefined
  const counted = countsTokens(limiter)
  const cost = counted
    ? (request: LlmRequest) => costOf(tokensOf(request), request.maxTokens ?? 1024) // settled with the real usage
    : () => 1
  return {
    ...ours,
    failover: whose === "vendor",
    name: "rate-limit",
    by: "rate-limit",
    acquire: (ask) => {
      const needed = cost(ask.request)
      const { deadline, root } = (ask as Attempt).call
      const left = Math.max(deadline.left(ask.now), 0)
      const free = limiter.tryAcquireUnsafe(needed, root.clock, ask.now, ask.request.tenant, left)
      if (free !== undefined) {
        const { would } = free
        if (would !== undefined) shadowed(ask, "rate-limit", would.decision, would.millis)
        return Exit.succeed(new Tokens(free, counted, vendors))
      }
      const { priority, tenant } = ask.request
      const isAllowed = isOpen(rules?.doors, ask.request, limiter.lineUnsafe(ask.now, ask.request))
      const isTold = rules?.isShadow === true && !isAllowed
      if (isTold) shadowed(ask, "load-shedding", "would-shed")
      const mayJoin = isAllowed || isTold
      let isTurnedAway = !mayJoin
      const onDisplaced = (): void => {
        isTurnedAway = true
      }
      const maxWait = mayJoin ? left : 0
      const { patience } = root
      const taken = limiter.acquire(needed, { maxWait, restore: ask.restore, priority, tenant, onDisplaced, patience })
      const hold = (reservation: Reservation) => new Tokens(reservation, counted, vendors)
      return rules === undefined ? Effect.map(taken, hold) : Effect.mapBoth(taken, {
        onSuccess: hold,
        onFailure: (error) => {
          if (error._tag !== "RateLimited") return error
          const wait = Duration.toMillis(error.retryAfter)
          const reason = isTurnedAway ? "queue-full" : wait > left ? "deadline" : undefined
          if (reason === undefined) return error
          if (!rules.isShadow) return turnedAway(reason, wait)
          if (!isTold) shadowed(ask, "load-shedding", "would-shed", wait)
          return error
        }
      })
    }
  }
}

const costOf = (input: number, output: number) => ({
  requests: 1,
  tokens: input + output,
  "input-tokens": input,
  "output-tokens": output
})

/** The dimensions in which a call is charged. */
export const charges: ReadonlyArray<string> = Object.keys(costOf(0, 0))

// -----------------------------------------------------------------------------
// tokens
// -----------------------------------------------------------------------------

/** Tokens of a prompt, as well as can be known before the vendor says. */
export type TokensOf = (request: LlmRequest) => number

const byBytes: TokensOf = (request) => promptTokens(request, BYTES_PER_TOKEN)

export const countsTokens = ({ dimensions }: RateLimiter): boolean =>
  dimensions.some((dimension) => dimension !== "requests")

export interface Counting {
  readonly tokensOf: TokensOf
  /** Counts before anything is held. */
  readonly guard: Guard<never> | undefined
}

/** By the tokenizer of the surroundings, and by bytes where there is none or it cannot. */
export const counting = (tokenizer: Tokenizer.Service | undefined): Counting => {
  if (tokenizer === undefined) return { tokensOf: byBytes, guard: undefined }
  const known = new WeakMap<LlmRequest["prompt"], number>()
  const nothing = Exit.succeed<Held>({})
  return {
    tokensOf: (request) => known.get(request.prompt) ?? byBytes(request),
    guard: {
      name: "tokenizer",
      acquire: ({ request: { prompt } }) =>
        known.has(prompt) ? nothing : Effect.suspend(() => tokenizer.tokenize(prompt)).pipe(
          Effect.map((tokens) => {
            known.set(prompt, tokens.length)
          }),
          Effect.catchCause((cause) => Cause.hasInterrupts(cause) ? Effect.interrupt : Effect.void),
          Effect.andThen(nothing)
        )
    }
  }
}

class Slot implements Held {
  private readonly breaker: CircuitBreaker.CircuitBreaker
  private readonly permit: CircuitBreaker.Permit
  constructor(breaker: CircuitBreaker.CircuitBreaker, permit: CircuitBreaker.Permit) {
    this.breaker = breaker
    this.permit = permit
  }
  settle(outcome: Outcome): void {
    const { breaker, permit } = this
    switch (outcome._tag) {
      case "Succeeded":
        return breaker.recordUnsafe(permit, "success", outcome.now, outcome)
      case "Failed":
        return breaker.recordUnsafe(permit, outcome.verdict.outcome, outcome.now, outcome)
      default:
        return breaker.recordUnsafe(permit, "ignored", outcome.now)
    }
  }
  renew(now: number): void {
    this.breaker.renewUnsafe(this.permit, now)
  }
}

/** What is asked for in the same way takes about as long. */
const kindOf = ({ operation, request: { model = "" } }: Ask): string =>
  operation === "complete" ? model : `stream ${model}`

/** What is known of a circuit without asking for admission also serves retry and failover. */
export interface CircuitDoor extends Door<CircuitOpen> {
  readonly peek: (request: LlmRequest, now: number) => Refusal<CircuitOpen> | undefined
}

/** Admission by the circuit of the request's model, or of the target. */
export const inCircuit = (
  of: (model: string | undefined) => CircuitBreaker.CircuitBreaker
): CircuitDoor => ({
  ...ours,
  name: "circuit-breaker",
  by: "circuit-breaker",
  peek: (request, now): Refusal<CircuitOpen> | undefined => {
    const breaker = of(request.model)
    if (!breaker.isOpenUnsafe(now)) return undefined
    const error = breaker.rejectionUnsafe(now)
    return { error, retryAfter: breaker.openForUnsafe(now) }
  },
  acquire: (ask: Ask) => {
    const breaker = of(ask.request.model)
    const admit = (now: number, slot?: number): Exit.Exit<Held, CircuitOpen> => {
      const permit = breaker.admitUnsafe(now, kindOf(ask), slot)
      return permit === undefined
        ? Exit.fail(breaker.rejectionUnsafe(now)())
        : Exit.succeed(new Slot(breaker, permit))
    }
    const { root } = (ask as Attempt).call
    const claim = breaker.claimUnsafe(ask.now, ask.restore, root)
    if (claim === undefined) return admit(ask.now)
    return Effect.flatMap(claim, (slot) => {
      const now = root.now()
      return slot === undefined ? Exit.fail(breaker.rejectionUnsafe(now, true)()) : admit(now, slot)
    })
  }
})
