// One target's turn in a call, in the worst case: its attempts, the pauses between them, and what they wait for.
import * as Bulkhead from "../resilience/Bulkhead.ts"
import * as RateLimiter from "../resilience/RateLimiter.ts"
import * as Retry from "../resilience/Retry.ts"
import type { Settings, TargetSettings } from "./settings.ts"

/** A pause before a retry, and the attempt before it. */
interface Pause {
  readonly least: number
  readonly most: number
  /** The first moment, after the first attempt began, at which the purse can pay for it. */
  readonly paidAt: number
}

/** One target's turn: attempts with pauses between them. */
export interface Turn {
  /** Waits of an attempt before it begins, and with the attempt itself. */
  readonly line: number
  readonly attempt: number
  /** Waits after which a first attempt may be refused, so that the next target is asked. */
  readonly refusal: number
  /** Is there something that may refuse a retry, after its pause? */
  readonly refuses: boolean
  readonly pauses: ReadonlyArray<Pause>
  /** Retries beyond those. */
  readonly further: number
}

/** The longest wait in a line: of those who find no room in it, nobody waits. */
const patience = ({ maxWait, queue }: { readonly maxWait: number; readonly queue: number }): number =>
  queue > 0 ? maxWait : 0

export const bulkheadAt = ({ bulkhead }: TargetSettings): Bulkhead.Policy | undefined =>
  Bulkhead.isBulkhead(bulkhead) ? bulkhead.policy : bulkhead

export const limiterAt = (limits: TargetSettings["limits"]): RateLimiter.Policy | undefined =>
  RateLimiter.isRateLimiter(limits) ? limits.policy : limits

const waitAt = (policy: Parameters<typeof patience>[0] | undefined): number =>
  policy === undefined ? 0 : patience(policy)

export const lineAt = ({ bucket }: Settings, target: TargetSettings): number =>
  waitAt(bulkheadAt(target)) + waitAt(limiterAt(bucket)) + waitAt(limiterAt(target.limits))

/** What comes after so many retries is like the last of them. */
export const MOST = 200

export const turnOf = (settings: Settings, index: number, line: number, limit: number, hint: number): Turn => {
  const { retry } = settings
  const target = settings.targets[index]!
  const attempt = line + limit
  const refusal = Number.isFinite(line) && target.limits === undefined ? waitAt(bulkheadAt(target)) : line
  const pauses: Array<Pause> = []
  const { bulkhead, circuit, limits } = target
  const refuses = [bulkhead, circuit, limits, settings.bucket].some((one) => one !== undefined) || line === Infinity
  if (retry === undefined) return { line, attempt, refusal, refuses, pauses, further: 0 }
  const purse = new Purse(settings.budget)
  const retries = Math.min(retry.maxRetries, MOST)
  for (let k = 1; k <= retries; k++) {
    const last = pauses.at(-1)
    const paidAt = last === undefined ? purse.pay(0, 0) : purse.pay(last.paidAt + last.least, last.most + attempt)
    if (paidAt === Infinity) break
    pauses.push({ ...pauseAt(retry, k, hint), paidAt })
  }
  return { line, attempt, refusal, refuses, pauses, further: pauses.length === MOST ? retry.maxRetries - MOST : 0 }
}

/** The longest hint that is waited for while there are other targets: one that could be asked now, unless it is away. */
export const longestHint = ({ failover, retry, targets }: Settings, index: number): number => {
  const own = retry?.maxRetryAfter ?? 0
  if (failover === undefined) return own
  const mayBeAway = failover.coolDown > 0 || targets.some(({ circuit }, i) => i !== index && circuit !== undefined)
  return mayBeAway ? own : Math.min(own, failover.maxRetryAfter)
}

const pauseAt = (policy: Retry.Policy, k: number, hint: number): { readonly least: number; readonly most: number } => {
  const most = policy.schedule === undefined ? Retry.backoffMillis(policy, k, 1) : Infinity
  return {
    least: policy.schedule === undefined ? Retry.backoffMillis(policy, k, 0) : 0,
    most: Math.max(most, Retry.hintMillis(hint, 1))
  }
}

export const TOKEN = 1_000_000

/** Pays for the retries of one call, from a full purse: as early as it can, or as late as it must. */
class Purse {
  private readonly policy: Settings["budget"]
  /** What is in it if each retry comes as early, and as late, as it may. */
  private early: number
  private late: number
  private paidAt = 0

  constructor(policy: Settings["budget"]) {
    this.policy = policy
    this.early = this.late = policy?.capacity ?? 0
  }

  /** The first moment from `at` on at which one more is paid; `Infinity`: never. `since`: the most time since the last one. */
  pay(at: number, since: number): number {
    if (this.policy === undefined) return at
    const { capacity, perAttempt, perMillisecond } = this.policy
    if (capacity < TOKEN) return Infinity
    // First attempts of other calls fill it at any time.
    if (perAttempt > 0) return at
    const filled = (balance: number, millis: number): number =>
      perMillisecond === 0 ? balance : Math.min(capacity, balance + millis * perMillisecond)
    this.late = filled(this.late, since) - TOKEN
    if (this.late < 0) return Infinity
    const paidAt = Math.max(at, this.paidAt + Math.ceil((TOKEN - this.early) / perMillisecond || 0))
    this.early = filled(this.early, paidAt - this.paidAt) - TOKEN
    return this.paidAt = paidAt
  }
}
