// Checked by the compiler, never run: the failures of a client follow its options, its needs follow its targets.
import { type Context, Effect, type Layer, Schema, type Scope } from "effect"
import {
  type Client,
  LlmClient,
  type LlmConfig,
  type LlmError,
  type LlmObject,
  type LlmProvider,
  type LlmResponse
} from "effect-resilient-llm"
import { ScriptedProvider } from "effect-resilient-llm/testing"
import { expectTypeOf } from "vitest"

class A extends ScriptedProvider.Service<A>()("app/A") {}
class B extends ScriptedProvider.Service<B>()("app/B") {}
declare const NotAProvider: Context.Service<"not", { readonly answer: number }>

type CompleteOf<T> = T extends Effect.Effect<Client<infer CE, infer _SE>, infer _E, infer _R> ? CE : never
type StreamOf<T> = T extends Effect.Effect<Client<infer _CE, infer SE>, infer _E, infer _R> ? SE : never
type Tag<E> = E extends { readonly _tag: infer T } ? T : never

// ---- needs ------------------------------------------------------------------

const layer = LlmClient.layer([A, B])
expectTypeOf(layer).toEqualTypeOf<Layer.Layer<LlmClient, LlmError.LlmConfigError, A | B>>()
expectTypeOf(LlmClient.layer([LlmClient.target(A, { id: "eu" })])).toEqualTypeOf<
  Layer.Layer<LlmClient, LlmError.LlmConfigError, A>
>()

const program = Effect.flatMap(LlmClient, (client) => client.complete("Hi"))
expectTypeOf(program).toEqualTypeOf<
  Effect.Effect<LlmResponse.LlmResponse, LlmError.LlmError, LlmClient>
>()
// @ts-expect-error a provider's layer is missing
Effect.runPromise(Effect.provide(program, layer))
// @ts-expect-error an empty list
LlmClient.layer([])
// @ts-expect-error not a provider
LlmClient.layer([NotAProvider])
// @ts-expect-error an option that does not exist
LlmClient.layer([A], { retries: 3 })
// @ts-expect-error an option of a pattern that does not exist
LlmClient.layer([A], { retry: { times: 3 } })
// @ts-expect-error an option that does not exist
LlmClient.make([A], { circuitbreaker: false })

// The same in values that were made before.
const misspelled = { circuitbreaker: false as const }
const amongOthers = { circuitbreaker: false as const, retry: false as const }
const inPattern = { retry: { maxRetries: 1, times: 3 } }
const correct = { circuitBreaker: false as const, retry: { maxRetries: 1, baseDelay: "1 second" as const } }
// @ts-expect-error an option that does not exist
LlmClient.make([A], misspelled)
// @ts-expect-error an option that does not exist
LlmClient.make([A], amongOthers)
// @ts-expect-error an option of a pattern that does not exist
LlmClient.make([A], inPattern)
LlmClient.make([A], correct)
// @ts-expect-error an option that does not exist
LlmClient.layer([A], amongOthers)
// @ts-expect-error an option that does not exist
LlmClient.layerDynamic([provider], amongOthers)
// @ts-expect-error an option that does not exist
LlmClient.Class<Chat>()("app/Chat", [A], amongOthers)
expectTypeOf<Tag<CompleteOf<ReturnType<typeof LlmClient.make<[typeof A], typeof correct>>>>>()
  .toEqualTypeOf<Tag<CompleteOf<typeof noBreaker>>>()

// ---- failures follow the options -----------------------------------------------

const all = LlmClient.make([A], { bulkhead: {}, loadShedding: {} })
expectTypeOf<CompleteOf<typeof all>>().toEqualTypeOf<Exclude<LlmError.LlmError, LlmError.StreamInterrupted>>()
expectTypeOf<StreamOf<typeof all>>().toEqualTypeOf<LlmError.LlmError>()
expectTypeOf<typeof all>().toExtend<Effect.Effect<unknown, LlmError.LlmConfigError, A | Scope.Scope>>()

const noBreaker = LlmClient.make([A], { circuitBreaker: false })
expectTypeOf<Extract<CompleteOf<typeof noBreaker>, LlmError.CircuitOpen>>().toBeNever()
expectTypeOf<"RateLimited">().toExtend<Tag<CompleteOf<typeof noBreaker>>>()
const noLimit = LlmClient.make([A], { rateLimit: false })
expectTypeOf<Extract<CompleteOf<typeof noLimit>, LlmError.RateLimited>>().toBeNever()
const noBulkhead = LlmClient.make([A], { bulkhead: false })
expectTypeOf<Extract<CompleteOf<typeof noBulkhead>, LlmError.BulkheadFull>>().toBeNever()
const noTimeout = LlmClient.make([A], { timeout: false })
expectTypeOf<Extract<CompleteOf<typeof noTimeout>, LlmError.AttemptTimeout | LlmError.DeadlineExceeded>>().toBeNever()
const noIdempotency = LlmClient.make([A], { idempotency: false })
expectTypeOf<
  Extract<CompleteOf<typeof noIdempotency>, LlmError.IdempotencyConflict | LlmError.IdempotencyInProgress>
>().toBeNever()
const noFailover = LlmClient.make([A, B], { failover: false })
expectTypeOf<
  Extract<CompleteOf<typeof noFailover>, LlmError.AllProvidersFailed | LlmError.AllProvidersUnavailable>
>().toBeNever()
const noRetry = LlmClient.make([A], { retry: false, retryBudget: false, cache: false })
expectTypeOf<CompleteOf<typeof noRetry>>().toEqualTypeOf<
  Exclude<CompleteOf<typeof all>, LlmError.BulkheadFull | LlmError.Shed>
>()

const off = LlmClient.make([A], {
  idempotency: false,
  rateLimit: false,
  circuitBreaker: false,
  timeout: false,
  retry: false,
  failover: false,
  cache: false,
  bulkhead: false
})
expectTypeOf<CompleteOf<typeof off>>().toEqualTypeOf<LlmError.InvalidRequest | LlmError.ProviderError>()
expectTypeOf<StreamOf<typeof off>>().toEqualTypeOf<
  LlmError.InvalidRequest | LlmError.ProviderError | LlmError.StreamInterrupted
>()

// ---- only a literal `false` removes an error --------------------------------------

declare const sometimes: boolean
const maybe = LlmClient.make([A], sometimes ? { circuitBreaker: false } : {})
expectTypeOf<"CircuitOpen">().toExtend<Tag<CompleteOf<typeof maybe>>>()
declare const widened: LlmConfig.Options
const wide = LlmClient.make([A], widened)
expectTypeOf<CompleteOf<typeof wide>>().toEqualTypeOf<CompleteOf<typeof all>>()
declare const optional: { readonly circuitBreaker?: false }
const opt = LlmClient.make([A], optional)
expectTypeOf<"CircuitOpen">().toExtend<Tag<CompleteOf<typeof opt>>>()

// ---- a tag of your own -------------------------------------------------------------

class Chat extends LlmClient.Class<Chat>()("app/Chat", [A, B], { circuitBreaker: false, failover: false }) {}
expectTypeOf(Chat.layer).toEqualTypeOf<Layer.Layer<Chat, LlmError.LlmConfigError, A | B>>()
const chat = Effect.flatMap(Chat, (client) => client.complete("Hi"))
expectTypeOf<Extract<Effect.Error<typeof chat>, LlmError.CircuitOpen | LlmError.AllProvidersFailed>>().toBeNever()
expectTypeOf<"AttemptTimeout">().toExtend<Tag<Effect.Error<typeof chat>>>()
expectTypeOf<Effect.Services<typeof chat>>().toEqualTypeOf<Chat>()
// @ts-expect-error an option that does not exist
LlmClient.Class<Chat>()("app/Chat", [A], { retries: 1 })
// @ts-expect-error the factory is no client
LlmClient.Class.complete("Hi")

// ---- dynamic ---------------------------------------------------------------------

declare const provider: LlmProvider.LlmProvider
expectTypeOf(LlmClient.layerDynamic([provider, { provider, id: "second" }])).toEqualTypeOf<
  Layer.Layer<LlmClient, LlmError.LlmConfigError>
>()
// @ts-expect-error an empty list
LlmClient.layerDynamic([])

// ---- values -----------------------------------------------------------------

const Report = Schema.Struct({ at: Schema.DateFromString, note: Schema.optionalKey(Schema.String) })
const asked = Effect.flatMap(LlmClient, (client) => client.generateObject({ prompt: "Hi", schema: Report }))
expectTypeOf(asked).toEqualTypeOf<
  Effect.Effect<
    LlmObject.ObjectResponse<{ readonly at: Date; readonly note?: string }>,
    LlmError.LlmError | LlmError.InvalidOutput,
    LlmClient
  >
>()
// What `complete` can fail with stays as it is.
expectTypeOf<Extract<CompleteOf<ReturnType<typeof LlmClient.make>>, LlmError.InvalidOutput>>().toEqualTypeOf<never>()
// @ts-expect-error the format is the schema's
Effect.flatMap(LlmClient, (client) => client.generateObject({ prompt: "", schema: Report, responseFormat: undefined }))

// ---- overrides -----------------------------------------------------------------

// No override brings an error that was not there, or takes one away.
const usualErrors = LlmClient.make([A, B], {})
const overruled = LlmClient.make([A, B], {
  failover: { on: { ContentPolicy: true, Server: false }, maxAttempts: 3, requireFeatures: ["seed", "prompt"] },
  retry: {
    when: (error) => {
      expectTypeOf(error).toEqualTypeOf<LlmError.ProviderError | LlmError.AttemptTimeout>()
      return false
    }
  }
})
expectTypeOf<CompleteOf<typeof overruled>>().toEqualTypeOf<CompleteOf<typeof usualErrors>>()
expectTypeOf<StreamOf<typeof overruled>>().toEqualTypeOf<StreamOf<typeof usualErrors>>()
const strict = LlmClient.make([LlmClient.target(A, { models: "strict" }), B])
expectTypeOf<CompleteOf<typeof strict>>().toEqualTypeOf<CompleteOf<typeof usualErrors>>()
// @ts-expect-error no reason of a provider
LlmClient.make([A, B], { failover: { on: { Shed: true } } })
// @ts-expect-error no field of a request
LlmClient.make([A, B], { failover: { requireFeatures: ["colour"] } })
// @ts-expect-error one word only
LlmClient.target(A, { models: "lenient" })
