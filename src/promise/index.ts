/**
 * The client for programs without Effect: promises, `AbortSignal`s, async iterators. It runs wherever there is `fetch`.
 *
 * **Example** (A chat backend)
 *
 * ```ts
 * import { createResilientLlm } from "effect-resilient-llm/promise"
 *
 * // Keys come from OPENAI_API_KEY and ANTHROPIC_API_KEY. OpenAI is asked first, Anthropic when it cannot answer.
 * const llm = createResilientLlm({ providers: { openai: {}, anthropic: {} } })
 *
 * const { text } = await llm.complete("What is AI?", { signal: AbortSignal.timeout(30_000) })
 *
 * for await (const text of llm.stream({ prompt: "Tell me more.", maxTokens: 500 })) process.stdout.write(text)
 *
 * await llm.close()
 * ```
 *
 * @since 0.2.0
 */
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as HttpClient from "effect/http/HttpClient"
import * as Predicate from "effect/Predicate"
import * as Redacted from "effect/Redacted"
import * as Schema from "effect/Schema"
import * as Scope from "effect/Scope"
import type { Status } from "../LlmClient.ts"
import type { Options as PipelineOptions } from "../LlmConfig.ts"
import type { LlmEvent } from "../LlmEvent.ts"
import * as LlmObject from "../LlmObject.ts"
import type { LlmProvider } from "../LlmProvider.ts"
import type { Input, Message } from "../LlmRequest.ts"
import type { LlmResponse, StreamPart } from "../LlmResponse.ts"
import * as Core from "./internal/core.ts"
import { Reader } from "./internal/stream.ts"
import * as Transport from "./internal/transport.ts"
import { keyOf, type Vendors, vendors } from "./internal/vendors.ts"

export { ResilientLlmError } from "./ResilientLlmError.ts"
export type { Code } from "./ResilientLlmError.ts"
export type { Input, LlmEvent, LlmResponse, Message, Status, StreamPart, Vendors }

/**
 * Everything about a client. The patterns have their defaults; `false` switches one off. Durations are milliseconds or
 * texts such as `"20 seconds"`.
 *
 * @category models
 * @since 0.2.0
 */
export interface Options extends PipelineOptions {
  /**
   * Who is asked, in this order. Keys that are not given come from the environment, and a vendor whose key is nowhere is
   * left out. Default: OpenAI, Anthropic, Gemini and Cohere, as far as there are keys.
   */
  readonly providers?: Vendors | undefined
  /** Told of everything that happens, while it happens. It must be quick. */
  readonly onEvent?: ((event: LlmEvent) => void) | undefined
}

/**
 * @category models
 * @since 0.2.0
 */
export interface CallOptions {
  /** Ends the call: its connection is closed, and its promise rejects with the signal's reason. */
  readonly signal?: AbortSignal | undefined
}

/**
 * A request for a value.
 *
 * @category models
 * @since 0.2.0
 */
export interface ObjectInput<A> extends LlmObject.ObjectQuestion {
  /** What the answer is to be: a schema of zod or another library with a Standard Schema, or of Effect. */
  readonly schema: LlmObject.ObjectInput<A>["schema"] | LlmObject.StandardSchema<A>
  /** The JSON Schema, where the schema cannot say it itself: `z.toJSONSchema(schema)`. */
  readonly jsonSchema?: object | undefined
}

/**
 * A stream of texts. Nothing is asked before somebody reads it, or asks for its response. Leaving the loop early ends it
 * and closes the connection.
 *
 * @category models
 * @since 0.2.0
 */
export interface ResilientStream extends AsyncIterable<string> {
  /** The same stream as parts: texts, reasoning, tool calls, and a finish part. What was read as text is not in it. */
  readonly parts: AsyncIterable<StreamPart>
  /** The whole response with usage and ledger. Reads what nobody has read. */
  readonly response: Promise<LlmResponse>
}

/**
 * A client. One for the life of an application: what it has learnt about the providers lives in it.
 *
 * @category models
 * @since 0.2.0
 */
export interface ResilientLlm extends AsyncDisposable {
  /** Those that are asked, in order. */
  readonly targets: ReadonlyArray<string>
  /** Asks and waits for the whole answer. Rejects with a {@link ResilientLlmError}, or with the reason of the abort. */
  readonly complete: (input: string | Input, options?: CallOptions) => Promise<LlmResponse>
  /**
   * Asks for a value by a schema: of zod or another library with a Standard Schema, or of Effect. An answer that does not
   * fit is asked for again once (`repairs`); then it rejects with the code `InvalidOutput`.
   */
  readonly generateObject: <A>(input: ObjectInput<A>, options?: CallOptions) => Promise<LlmObject.ObjectResponse<A>>
  /** Asks and streams the answer. */
  readonly stream: (input: string | Input, options?: CallOptions) => ResilientStream
  /** How the providers are doing. */
  readonly status: () => Promise<Status>
  /** Ends all calls, and closes all connections. */
  readonly close: () => Promise<void>
}

/**
 * Makes a client. Wrong options, or no key at all, throw a {@link ResilientLlmError} here.
 *
 * **Example** (Failures are plain errors)
 *
 * ```ts import.meta.vitest
 * import { createResilientLlm, ResilientLlmError } from "effect-resilient-llm/promise"
 *
 * await using llm = createResilientLlm({
 *   providers: { openai: { apiKey: "key", baseUrl: "http://127.0.0.1:9" } },
 *   retry: false,
 *   cache: false
 * })
 * let code: unknown
 * try {
 *   await llm.complete("What is AI?")
 * } catch (error) {
 *   if (error instanceof ResilientLlmError) code = [error.code, error.retryable]
 * }
 * code // => ["ProviderError", true]
 * ```
 *
 * @category constructors
 * @since 0.2.0
 */
export const createResilientLlm = (options: Options = {}): ResilientLlm => {
  const { onEvent, providers = { openai: {}, anthropic: {}, gemini: {}, cohere: {} }, ...pipeline } = options
  const connections = Scope.makeUnsafe()
  const chosen = made(providers, Transport.make(connections))
  return over(Core.make(chosen, pipeline, onEvent, Scope.close(connections, Exit.void)))
}

const made = (chosen: Vendors, http: HttpClient.HttpClient): ReadonlyArray<LlmProvider> => {
  const found: Array<LlmProvider> = []
  const missing: Array<string> = []
  for (const [name, given] of Object.entries(chosen)) {
    if (given === undefined) continue
    const vendor = vendors.get(name)
    if (vendor === undefined) {
      return Core.refuse(`There is no provider "${name}". Those there are: ${[...vendors.keys()].join(", ")}.`)
    }
    const { apiKey, ...options } = given as { readonly apiKey?: unknown }
    // Vertex AI has tokens of its own, which its options bring.
    const keyless = vendor.variables === undefined || "vertex" in options
    const key = keyOf(vendor, apiKey)
    if (key === undefined && !keyless) {
      missing.push(vendor.variables.join(" or "))
      continue
    }
    if (key !== undefined && typeof key !== "string") return Core.refuse(`The apiKey of ${name} must be a text.`)
    const secret = key === undefined ? undefined : Redacted.make(key)
    found.push(Core.now(Effect.provideService(vendor.make(options, secret), HttpClient.HttpClient, http)))
  }
  if (found.length > 0) return found
  return Core.refuse(
    missing.length === 0
      ? "No provider is named."
      : `No provider has a key: set ${missing.join(", or ")} in the environment, or give an apiKey.`
  )
}

const over = ({ client, close, run, targets }: Core.Core): ResilientLlm => {
  return {
    targets,
    complete: (input, { signal } = {}) => run(client.complete(input), signal),
    generateObject: ({ jsonSchema, schema, ...input }, { signal } = {}) =>
      run(
        Effect.suspend(() => client.generateObject({ ...input, schema: schemaOf(schema, jsonSchema) })),
        signal
      ),
    stream: (input, { signal } = {}) => {
      const reader = new Reader(client.open(input), run, signal)
      return {
        [Symbol.asyncIterator]: () => reader.texts[Symbol.asyncIterator](),
        parts: reader.parts,
        get response() {
          return reader.response()
        }
      }
    },
    status: () => run(client.status, undefined),
    close,
    [Symbol.asyncDispose]: close
  }
}

const isStandard = <A>(schema: ObjectInput<A>["schema"]): schema is LlmObject.StandardSchema<A> =>
  Predicate.isObjectKeyword(schema) && "~standard" in schema && !Schema.isSchema(schema)

const schemaOf = <A>(
  schema: ObjectInput<A>["schema"],
  jsonSchema: object | undefined
): LlmObject.ObjectInput<A>["schema"] => isStandard(schema) ? LlmObject.fromStandard(schema, jsonSchema) : schema
