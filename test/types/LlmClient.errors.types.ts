// Checked by the compiler, never run: the failures of a client are exactly those of its options, targets and guards.
import { Data, Effect } from "effect"
import { type Client, type ClientOptions, LlmClient, LlmError, LlmGuard } from "effect-resilient-llm"
import type { Bulkhead, CircuitBreaker, RateLimiter } from "effect-resilient-llm/resilience"
import { ScriptedProvider } from "effect-resilient-llm/testing"
import { expectTypeOf } from "vitest"
import type { CompleteError } from "../../src/LlmClient.ts"
import type { PipelineError } from "../../src/Pipeline.ts"

class A extends ScriptedProvider.Service<A>()("app/A") {}
class B extends ScriptedProvider.Service<B>()("app/B") {}

type Equal<X, Y> = (<T>() => T extends X ? 1 : 2) extends (<T>() => T extends Y ? 1 : 2) ? true : false
const yes = <T extends true>(): T | undefined => undefined
/** What `complete` of such a client fails with. */
type Of<M> = M extends Effect.Effect<Client<infer E, infer _S>, infer _E, infer _R> ? E : never

// ---- what the compiler finds in the stages is the public union ---------------------

class Closed extends Data.TaggedError("Closed")<{}> {}
class Poor extends Data.TaggedError("Poor")<{}> {}
type Everything = Exclude<LlmError.LlmError, LlmError.StreamInterrupted>
yes<Equal<PipelineError<never> | LlmError.InvalidRequest, Everything>>()
yes<Equal<CompleteError<{ readonly bulkhead: {}; readonly loadShedding: {} }>, Everything>>()
yes<Equal<PipelineError<Closed> | LlmError.InvalidRequest, Everything | Closed>>()

// ---- all 128 subsets of the options that carry errors, without and with settings of a target's own ----------

type Base = LlmError.InvalidRequest | LlmError.ProviderError
interface Carried {
  readonly timeout: LlmError.AttemptTimeout | LlmError.DeadlineExceeded
  readonly circuitBreaker: LlmError.CircuitOpen
  readonly rateLimit: LlmError.RateLimited
  readonly bulkhead: LlmError.BulkheadFull
  readonly idempotency: LlmError.IdempotencyConflict | LlmError.IdempotencyInProgress
  readonly failover: LlmError.AllProvidersFailed | LlmError.AllProvidersUnavailable
  readonly loadShedding: LlmError.Shed
}
type Key = keyof Carried
/** Every subset of the keys, as a union each, in brackets. */
type Subsets<L extends ReadonlyArray<Key>, S extends Key = never> = L extends
  readonly [infer H extends Key, ...infer R extends ReadonlyArray<Key>] ? [...Subsets<R, S>, ...Subsets<R, S | H>] :
  [[S]]
type All = Subsets<["timeout", "circuitBreaker", "rateLimit", "bulkhead", "idempotency", "failover", "loadShedding"]>
yes<Equal<All["length"], 128>>()

/** Those of `S` are off; what is off by default is on. */
type OptionsWithout<S extends Key> = { readonly [K in Key]: K extends S ? false : {} }
type Left<S extends Key> = Base | Carried[Exclude<Key, S>]

type Plain = readonly [typeof A]
type Own = readonly [typeof A, {
  readonly provider: typeof B
  readonly circuitBreaker: {}
  readonly bulkhead: {}
  readonly limits: readonly []
}]
type OwnErrors = LlmError.CircuitOpen | LlmError.BulkheadFull | LlmError.RateLimited

type Check<L> = {
  [I in keyof L]: L[I] extends readonly [infer S extends Key] ? [
      Equal<CompleteError<OptionsWithout<S>, Plain>, Left<S>>,
      Equal<CompleteError<OptionsWithout<S>, Own>, Left<S> | OwnErrors>
    ]
    : L[I] extends readonly [never] ? [Equal<CompleteError<OptionsWithout<never>, Plain>, Left<never>>, true]
    : never
}
yes<Equal<Check<All>[number], [true, true]>>()
// The check can fail.
yes<Equal<Check<[["timeout"]]>[0], [true, true]>>()
// @ts-expect-error a union that is too small
yes<Equal<CompleteError<OptionsWithout<"timeout">, Own>, Left<"timeout" | "bulkhead">>>()

// ---- through the front door ----------------------------------------------------------

const off = {
  idempotency: false,
  rateLimit: false,
  circuitBreaker: false,
  timeout: false,
  retry: false,
  failover: false,
  cache: false
} as const
const limits = [{ dimension: "requests", limit: 1, per: "1 second" }] as const

const nothing = LlmClient.make([A], off)
yes<Equal<Of<typeof nothing>, Base>>()
const own = LlmClient.make([LlmClient.target(A, { circuitBreaker: {}, limits })], off)
yes<Equal<Of<typeof own>, Base | LlmError.CircuitOpen | LlmError.RateLimited>>()
const ownBulkhead = LlmClient.make([A, LlmClient.target(B, { bulkhead: { maxConcurrent: 1 } })], off)
yes<Equal<Of<typeof ownBulkhead>, Base | LlmError.BulkheadFull>>()
const allOff = LlmClient.make([LlmClient.target(A, { circuitBreaker: false })], { ...off, circuitBreaker: {} })
yes<Equal<Of<typeof allOff>, Base>>()
const oneOn = LlmClient.make([LlmClient.target(A, { circuitBreaker: false }), B], { ...off, circuitBreaker: {} })
yes<Equal<Of<typeof oneOn>, Base | LlmError.CircuitOpen>>()
const unset = LlmClient.make([LlmClient.target(A, { circuitBreaker: undefined })], off)
yes<Equal<Of<typeof unset>, Base>>()
declare const someTarget: Parameters<typeof LlmClient.make>[0][number]
const widened = LlmClient.make([someTarget], off)
yes<Equal<Of<typeof widened>, Base | OwnErrors>>()

// ---- off by default: the error comes with the option --------------------------------------

const defaults = LlmClient.make([A])
yes<Equal<Of<typeof defaults>, Exclude<Everything, LlmError.BulkheadFull | LlmError.Shed>>>()
const withBulkhead = LlmClient.make([A], { bulkhead: { maxConcurrent: 3 } })
yes<Equal<Of<typeof withBulkhead>, Exclude<Everything, LlmError.Shed>>>()

const shedding = LlmClient.make([A], { loadShedding: {} })
yes<Equal<Of<typeof shedding>, Exclude<Everything, LlmError.BulkheadFull>>>()
const throttled = LlmClient.make([A], { ...off, loadShedding: { thresholds: false } })
yes<Equal<Of<typeof throttled>, Base | LlmError.Shed>>()
// What only watches refuses nothing.
const shadow = { mode: "shadow" } as const
const watched = LlmClient.make([LlmClient.target(A, { circuitBreaker: shadow, limits: { limits, ...shadow } }), B], {
  ...off,
  rateLimit: shadow,
  circuitBreaker: shadow,
  loadShedding: shadow
})
yes<Equal<Of<typeof watched>, Base>>()
const enforced = LlmClient.make([A], { ...off, rateLimit: { mode: "enforce" }, circuitBreaker: { mode: "enforce" } })
yes<Equal<Of<typeof enforced>, Base | LlmError.CircuitOpen | LlmError.RateLimited>>()
const noLines = LlmClient.make([A], { ...off, loadShedding: { throttle: false } })
yes<Equal<Of<typeof noLines>, Base>>()
const oneLine = LlmClient.make([A, LlmClient.target(B, { limits })], { ...off, loadShedding: { throttle: false } })
yes<Equal<Of<typeof oneLine>, Base | LlmError.RateLimited | LlmError.Shed>>()
const bulkheadLine = LlmClient.make([A], { ...off, bulkhead: {}, loadShedding: { throttle: false } })
yes<Equal<Of<typeof bulkheadLine>, Base | LlmError.BulkheadFull | LlmError.Shed>>()
const bucketLine = LlmClient.make([A], { ...off, rateLimit: {}, loadShedding: { throttle: false } })
yes<Equal<Of<typeof bucketLine>, Base | LlmError.RateLimited | LlmError.Shed>>()
const noShedding = LlmClient.make([A], { loadShedding: { throttle: false, thresholds: false } })
yes<Equal<Of<typeof noShedding>, Exclude<Everything, LlmError.BulkheadFull | LlmError.Shed>>>()

// ---- patterns as values --------------------------------------------------------------------

declare const breaker: CircuitBreaker.CircuitBreaker
declare const limiter: RateLimiter.RateLimiter
declare const bulkhead: Bulkhead.Bulkhead
const values = LlmClient.make([A], { ...off, circuitBreaker: breaker, rateLimit: limiter, bulkhead })
yes<Equal<Of<typeof values>, Base | LlmError.CircuitOpen | LlmError.RateLimited | LlmError.BulkheadFull>>()
const ownValues = LlmClient.make([LlmClient.target(A, { circuitBreaker: breaker, limits: limiter, bulkhead })], off)
yes<Equal<Of<typeof ownValues>, Base | OwnErrors>>()
// @ts-expect-error a bulkhead is no breaker
LlmClient.make([A], { circuitBreaker: bulkhead })
// @ts-expect-error what a breaker has is no option of it
LlmClient.make([A], { circuitBreaker: { failureThreshold: 3, key: "vendor" } })

// ---- guards of users ---------------------------------------------------------------------

const closed = LlmGuard.make("door", () => Effect.fail(new Closed()))
const poor = LlmGuard.make("money", () => Effect.fail(new Poor()))
const guarded = LlmClient.make([A], { ...off, guards: [closed] })
yes<Equal<Of<typeof guarded>, Base | Closed>>()
const both = LlmClient.make([A], { ...off, guards: [closed, poor] })
yes<Equal<Of<typeof both>, Base | Closed | Poor>>()
const passing = LlmClient.make([A], { ...off, guards: [LlmGuard.make("log", () => Effect.void)] })
yes<Equal<Of<typeof passing>, Base>>()
declare const some: ClientOptions<Closed>
const wide = LlmClient.make([A], some)
yes<Equal<Of<typeof wide>, Everything | Closed>>()
class Chat extends LlmClient.Class<Chat>()("app/Chat", [A], { ...off, guards: [closed] }) {}
const chat = Effect.flatMap(Chat, (client) => client.complete("Hi"))
expectTypeOf<Effect.Error<typeof chat>>().toEqualTypeOf<Base | Closed>()

// One tag has one type of error, so its guards must fail with ours.
LlmClient.layer([A], { guards: [LlmGuard.make("limit", () => Effect.fail(new LlmError.BulkheadFull({})))] })
// @ts-expect-error an error that `LlmClient` does not have
LlmClient.layer([A], { guards: [closed] })
