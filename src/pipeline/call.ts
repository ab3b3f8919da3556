// The books of a call, their whole life: begun, written, ended once.
import * as Clock from "effect/Clock"
import type * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import type * as Fiber from "effect/Fiber"
import type * as Scope from "effect/Scope"
import { monotonicMillis } from "../internal/clock.ts"
import { NotJson } from "../internal/json.ts"
import { sha256 } from "../internal/sha256.ts"
import { InvalidRequest, isLlmError, summary, type Verdict, withLedger } from "../LlmError.ts"
import type { LlmEvent } from "../LlmEvent.ts"
import { identity, type LlmRequest } from "../LlmRequest.ts"
import type { Source } from "../LlmResponse.ts"
import { makePatience, type Patience } from "../persistence/Health.ts"
import type { Attempt } from "./attempt.ts"
import type { Check } from "./checked.ts"
import { Deadline, type Moving } from "./deadline.ts"
import type { Hub } from "./hub.ts"
import type { TargetConfig } from "./target.ts"
import { type Trace, traceOf } from "./trace.ts"

export type Operation = "complete" | "stream"

const none: ReadonlyArray<never> = []

/** One per call of a user: who calls, its clock, and the one ledger. Lines of attempts only append to it. */
export class Root {
  /** Attempts of all lines. */
  attempts = 0
  /** When the last attempt succeeded, of whatever line: its answer is as old as that. */
  answeredAt: number
  /** Lines on the side. */
  hedges: ReadonlyArray<Call> = none
  ended = false
  /** What the answer has to be, when more is asked for than a text. */
  check: Check | undefined
  private question: string | undefined
  private key: string | undefined
  private waits: Patience | undefined
  /** The ledger so far. */
  readonly events: Array<LlmEvent> = []
  readonly id: number
  readonly operation: Operation
  readonly request: LlmRequest
  /** Of the fibre that made the call. */
  readonly context: Context.Context<never>
  readonly clock: Clock.Clock
  readonly startedAt: number
  readonly hub: Hub
  readonly trace: Trace | undefined
  private readonly readsMetadata: boolean

  constructor(
    id: number,
    operation: Operation,
    request: LlmRequest,
    context: Context.Context<never>,
    clock: Clock.Clock,
    startedAt: number,
    hub: Hub,
    trace: Trace | undefined,
    readsMetadata: boolean
  ) {
    this.id = id
    this.operation = operation
    this.request = request
    this.context = context
    this.clock = clock
    this.startedAt = startedAt
    this.answeredAt = startedAt
    this.hub = hub
    this.trace = trace
    this.readsMetadata = readsMetadata
  }

  now(): number {
    return monotonicMillis(this.clock)
  }

  /** Attempts of all lines, with those that are on their way to a provider: a bound on them may not be passed later. */
  counted(): number {
    return this.hedges.reduce((sum, { books }) => sum + (books.isWaiting ? 1 : 0), this.attempts)
  }

  /** The `at` of an event: milliseconds since the call began. */
  since(now = this.now()): number {
    return now - this.startedAt
  }

  /**
   * Adds an event to the ledger and publishes it. Whoever has read the clock in this step already says what it said; and
   * events are written down whole, because it costs more to add fields to an object than to make it with them.
   */
  emit(event: LlmEvent): void {
    this.events.push(event)
    this.trace?.on(event)
    this.hub.publish(event, this.context)
  }

  /**
   * Sent upstream with every attempt: the caller's own key, or a generated one. Vendors know neither tenants nor streams of
   * ours, so where there is one it stands for all three.
   */
  get upstreamKey(): string | undefined {
    const { operation, request: { idempotencyKey, tenant } } = this
    if (idempotencyKey === undefined) return this.key
    return this.key ??= operation === "complete" && tenant === undefined
      ? idempotencyKey
      : sha256(JSON.stringify([operation, tenant ?? null, idempotencyKey]))
  }

  set upstreamKey(key: string) {
    this.key = key
  }

  /** What the call still waits for stores, all together. */
  get patience(): Patience {
    return this.waits ??= makePatience()
  }

  /**
   * What the request asks, apart from who asks. Throws `InvalidRequest` when it is too much to be compared: each of its parts
   * may be as deep and as large as it is, all together may not.
   */
  get identity(): string {
    try {
      return this.question ??= identity(this.readsMetadata ? this.request : withoutMetadata(this.request))
    } catch (error) {
      // All else that is thrown is the engine's word that no text is as long.
      const { kind, rule } = error instanceof NotJson ? error : TOO_LONG
      throw new InvalidRequest({ path: "request", rule, kind })
    }
  }
}

const TOO_LONG = { rule: "a text of at most 500,000,000 characters", kind: "longer" }

const withoutMetadata = (request: LlmRequest): LlmRequest => {
  if (request.metadata === undefined) return request
  const { metadata: _, ...asked } = request
  return asked
}

/** A local refusal, and whose it was. */
export interface Refused {
  readonly error: unknown
  readonly guard: string
  /** Its word in events; guards of users are told apart by their names. */
  readonly by: "circuit-breaker" | "bulkhead" | "rate-limit" | "throttle" | "guard"
  readonly failover: boolean
}

/** What a line of attempts knows. A hedge gives each of its lines books of its own, and the winner's are adopted. */
export class Books {
  /** The target asked last. */
  target: string | undefined
  /** Number of the last attempt within the call. */
  attempt = 0
  /** Attempts that reached a provider. */
  launches = 0
  refused: Refused | undefined
  /** The last failure of an attempt, and what it means here. */
  failed: { readonly error: unknown; readonly verdict: Verdict } | undefined
  /** The attempt under way, or the last one. */
  current: Attempt | undefined

  /** Has its attempt not reached a provider yet? */
  get isWaiting(): boolean {
    return this.launches === 0 && this.refused === undefined
  }

  /** This line has won. */
  adopt({ attempt, target }: Books): void {
    this.target = target
    this.attempt = attempt
  }
}

/** What a stage gets: the request as it stands there, the time it has, and the books it writes. */
export class Call {
  readonly root: Root
  readonly request: LlmRequest
  readonly deadline: Deadline
  readonly books: Books
  /** What a stream opens hangs below this scope; a `complete` opens nothing that outlives its attempts. */
  readonly scope: Scope.Closeable | undefined
  /** Milliseconds this target was given, or the call. */
  readonly given: number

  constructor(
    root: Root,
    request: LlmRequest,
    deadline: Deadline,
    books: Books,
    scope: Scope.Closeable | undefined,
    given: number
  ) {
    this.root = root
    this.request = request
    this.deadline = deadline
    this.books = books
    this.scope = scope
    this.given = given
  }

  /** The same call as one target gets it: its own request, and its share of the time. */
  at(request: LlmRequest, deadline: Deadline, now: number): Call {
    return new Call(this.root, request, deadline, this.books, this.scope, deadline.left(now))
  }

  /** A line beside this one: it has what is left of the whole call, and books of its own. */
  line(target: string, request: LlmRequest, now: number): Call {
    const books = new Books()
    // What is asked on the side is nobody's first attempt: it does not fill the purse that it is paid from.
    books.target = target
    const deadline = this.deadline.whole
    return new Call(this.root, request, deadline, books, this.scope, deadline.left(now))
  }

  /** The same call as work of a flight, which several wait for. */
  of(flight: Moving, scope = this.scope): Call {
    return new Call(this.root, this.request, this.deadline.of(flight), this.books, scope, this.given)
  }
}

/** Opens the books of one call: its deadline runs from here. */
export type Begin = (
  fiber: Fiber.Fiber<unknown, unknown>,
  operation: Operation,
  request: LlmRequest,
  scope: Scope.Closeable | undefined
) => Call

/** `limit`: the deadline of calls that have none of their own. */
export const opening = (hub: Hub, limit: number, targets: ReadonlyArray<TargetConfig>): Begin => {
  const providers = new Map(targets.map(({ id, provider }) => [id, provider.id]))
  const readsMetadata = targets.some(({ provider }) => provider.readsMetadata !== false)
  let calls = 0
  return (fiber, operation, request, scope) => {
    const clock = fiber.getRef(Clock.Clock)
    const startedAt = monotonicMillis(clock)
    const millis = request.deadline === undefined ? limit : Duration.toMillis(request.deadline)
    const trace = traceOf(fiber, operation, request, providers)
    const root = new Root(++calls, operation, request, fiber.context, clock, startedAt, hub, trace, readsMetadata)
    const deadline = millis === Infinity ? Deadline.never : new Deadline(startedAt + millis, millis)
    const { model } = request
    const event = { _tag: "CallStarted" as const, call: root.id, at: 0, operation }
    root.emit(model === undefined ? event : { ...event, model })
    return new Call(root, request, deadline, new Books(), scope, millis)
  }
}

type CallEnded = Extract<LlmEvent, { readonly _tag: "CallEnded" }>

/** Publishes the end of a call, once. */
export const ended = (
  { books, root }: Call,
  outcome: Source | "failure" | "interrupted" | "defect",
  error?: unknown
): void => {
  if (root.ended) return
  root.ended = true
  const at = root.since()
  const event: { -readonly [K in keyof CallEnded]: CallEnded[K] } = {
    _tag: "CallEnded",
    call: root.id,
    at,
    operation: root.operation,
    outcome,
    duration: at,
    attempts: root.attempts
  }
  if (books.target !== undefined) event.target = books.target
  if (error !== undefined) event.error = summary(error)
  root.emit(event)
}

/** Ends the books of a call that failed, and puts its ledger on the error; one of a user's guard goes out as it came. */
export const failed = <E>(call: Call, error: E): E => {
  ended(call, "failure", error)
  return isLlmError(error) ? withLedger(error, [...call.root.events]) : error
}
