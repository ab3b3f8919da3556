// What stores of texts keep: recorded calls and cached answers as JSON, keys hashed, because they hold what was asked.
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import * as SchemaTransformation from "effect/SchemaTransformation"
import type { ExternalSpan } from "effect/Tracer"
import { effectOf } from "../internal/effect.ts"
import { sha256 } from "../internal/sha256.ts"
import { ProviderError } from "../LlmError.ts"
import { Ledger, type LlmEvent } from "../LlmEvent.ts"
import type { Answer, Source } from "../LlmResponse.ts"
import * as Store from "../persistence/Store.ts"
import type * as Idempotency from "../resilience/Idempotency.ts"

/** What callers with the same key share. */
export interface Shared {
  readonly answer: Answer
  readonly source: Source
  readonly age: number
  /** What the work did, for the ledgers of those who joined. */
  readonly work: Work
}

export interface Work {
  readonly startedAt: number
  readonly events: ReadonlyArray<LlmEvent>
  /** The span of the call that did it. */
  readonly span?: ExternalSpan | undefined
}

// The provider's own text stays here: it can echo prompts and keys.
const { detail: _, ...published } = ProviderError.fields
const Refusal = Schema.Struct(published).pipe(Schema.decodeTo(
  Schema.toType(ProviderError),
  SchemaTransformation.transform({
    decode: (fields) => new ProviderError(fields),
    encode: (error) => {
      const { detail: _, ...fields } = error
      return fields
    }
  })
))

// Plain data already, but a field may be there and `undefined`.
const Parts = Schema.Json.pipe(Schema.decodeTo(
  Schema.Array(Schema.Unknown),
  SchemaTransformation.transform<ReadonlyArray<unknown>, Schema.Json>({
    decode: (parts) => parts as ReadonlyArray<Schema.Json>,
    encode: (parts) => JSON.parse(JSON.stringify(parts)) as Schema.Json
  })
))

const Answered = Schema.Struct({
  parts: Parts,
  target: Schema.String,
  provider: Schema.String,
  model: Schema.optional(Schema.String)
})

/** What is recorded, as other processes read it. */
const Recorded = Schema.Union([
  Schema.TaggedStruct("Success", {
    fingerprint: Schema.String,
    value: Schema.Struct({
      answer: Answered,
      source: Schema.Literal("provider"),
      age: Schema.Number,
      work: Schema.Struct({ startedAt: Schema.Number, events: Ledger })
    })
  }),
  Schema.TaggedStruct("Failure", { fingerprint: Schema.String, error: Refusal })
])

/** A store of texts as the records of flights. */
export const recordsIn = <E>(store: Store.LeaseStore<string>): Store.LeaseStore<Idempotency.Stored<Shared, E>> =>
  // Parts are what a provider gave as JSON, and no other failure than a refusal is recorded.
  Store.withSchema(store, Recorded as unknown as Schema.Codec<Idempotency.Stored<Shared, E>, unknown>)

/** A store of texts as a cache of answers. */
export const answersIn = (store: Store.Store<string>): Store.Store<Answer> => {
  const json = Schema.fromJsonString(Schema.toCodecJson(Answered))
  const decode = Schema.decodeEffect(json)
  const encode = Schema.encodeEffect(json)
  const failed = (operation: Store.StoreError["operation"]) => () => new Store.StoreError({ operation })
  return {
    health: store.health,
    get: (key) =>
      Effect.flatMap(
        effectOf(store.get(sha256(key)), "store"),
        (entry) =>
          entry === undefined ? Effect.undefined : Effect.match(decode(entry.value), {
            // Of another version of the program: as if it were not there, until it is replaced.
            onFailure: () => undefined,
            // Parts are what a provider gave as JSON.
            onSuccess: (value) => ({ value: value as Answer, age: entry.age })
          })
      ),
    set: (key, value, options) =>
      Effect.flatMap(
        Effect.mapError(encode(value), failed("set")),
        (text) => effectOf(store.set(sha256(key), text, { ttl: options.ttl, size: 2 * text.length }), "store")
      ),
    remove: (key) => store.remove(sha256(key))
  }
}
