/**
 * What is asked: plain data in the vocabulary of `effect/ai`.
 *
 * @since 0.1.0
 */
import * as Prompt from "effect/ai/Prompt"
import type * as Response from "effect/ai/Response"
import type * as Tool from "effect/ai/Tool"
import type * as Toolkit from "effect/ai/Toolkit"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import { readDuration } from "./internal/duration.ts"
import { firstIssue, kindOf } from "./internal/issue.ts"
import { again, freeze, NotJson, plain, sortedText } from "./internal/json.ts"
import { isBare, noOptions, readMessages as readUsual } from "./internal/messages.ts"
import { isPlain, NO, readerOf } from "./internal/reading.ts"
import { definitionOf, isTool, isToolkit } from "./internal/tools.ts"
import { InvalidRequest, withoutStack } from "./LlmError.ts"

/**
 * A tool the model may call: a name and a JSON Schema of its parameters. With `provider` it is one of a vendor's own
 * tools, which the vendor runs itself, such as `{ id: "openai.web_search", args: {} }`; targets of other vendors do not
 * take such a request.
 *
 * @category models
 * @since 0.1.0
 */
export const ToolDefinition = Schema.Struct({
  /** Letters, digits, `_` and `-`; what the vendor does not take is written in its way, and back. */
  name: Schema.NonEmptyString,
  /** What it does and when to call it, for the model. */
  description: Schema.optional(Schema.String),
  /** JSON Schema of the parameters, as plain data. */
  parameters: Schema.Record(Schema.String, Schema.Unknown),
  /** Ask the provider to follow the schema exactly, where it can. */
  strict: Schema.optional(Schema.Boolean),
  /** A vendor's own tool: `<vendor>.<tool>`, and its settings in the vendor's words. */
  provider: Schema.optional(Schema.Struct({
    id: Schema.NonEmptyString,
    args: Schema.optional(Schema.Record(Schema.String, Schema.Unknown))
  }))
})
/** @category models @since 0.1.0 */
export type ToolDefinition = typeof ToolDefinition.Type

/**
 * May, must or must not the model call tools? `{ tool }` names the one it must call.
 *
 * @category models
 * @since 0.1.0
 */
export const ToolChoice = Schema.Union([
  Schema.Literals(["auto", "none", "required"]),
  Schema.Struct({ tool: Schema.NonEmptyString })
])
/** @category models @since 0.1.0 */
export type ToolChoice = typeof ToolChoice.Type

/**
 * Text (default), any JSON object, or JSON that follows a schema.
 *
 * @category models
 * @since 0.1.0
 */
export const ResponseFormat = Schema.Union([
  Schema.Struct({ type: Schema.Literal("text") }),
  Schema.Struct({
    type: Schema.Literal("json"),
    /** Name of the schema, for providers that want one. */
    name: Schema.optional(Schema.NonEmptyString),
    /** JSON Schema, as plain data. */
    schema: Schema.optional(Schema.Record(Schema.String, Schema.Unknown)),
    strict: Schema.optional(Schema.Boolean)
  })
])
/** @category models @since 0.1.0 */
export type ResponseFormat = typeof ResponseFormat.Type

const DurationInput = Schema.declare(
  (u): u is Duration.Input => {
    const duration = readDuration(u)
    return duration !== undefined && Duration.toMillis(duration) >= 0
  },
  { expected: "a duration that is not negative" }
)

const positive = Schema.Int.check(Schema.isGreaterThan(0, { expected: "a whole number above zero" }))

const penalty = Schema.Finite.check(
  Schema.isBetween({ minimum: -2, maximum: 2 }, { expected: "a number from -2 to 2" })
)

/**
 * How much a model thinks before it answers. Vendors that have fewer steps take the nearest.
 *
 * @category models
 * @since 0.2.0
 */
export const ReasoningEffort = Schema.Literals(["none", "minimal", "low", "medium", "high", "xhigh"])
/** @category models @since 0.2.0 */
export type ReasoningEffort = typeof ReasoningEffort.Type

const fields = {
  model: Schema.optional(Schema.NonEmptyString),
  maxTokens: Schema.optional(positive),
  temperature: Schema.optional(
    Schema.Finite.check(Schema.isBetween({ minimum: 0, maximum: 2 }, { expected: "a number from 0 to 2" }))
  ),
  topP: Schema.optional(
    Schema.Finite.check(Schema.isBetween({ minimum: 0, maximum: 1 }, { expected: "a number from 0 to 1" }))
  ),
  topK: Schema.optional(positive),
  presencePenalty: Schema.optional(penalty),
  frequencyPenalty: Schema.optional(penalty),
  reasoningEffort: Schema.optional(ReasoningEffort),
  stop: Schema.optional(Schema.Array(Schema.NonEmptyString)),
  seed: Schema.optional(Schema.Int),
  tools: Schema.optional(Schema.Array(ToolDefinition)),
  toolChoice: Schema.optional(ToolChoice),
  responseFormat: Schema.optional(ResponseFormat),
  idempotencyKey: Schema.optional(Schema.NonEmptyString),
  tenant: Schema.optional(Schema.NonEmptyString),
  conversation: Schema.optional(Schema.NonEmptyString),
  targets: Schema.optional(
    Schema.Array(Schema.NonEmptyString).check(
      Schema.isMinLength(1, { expected: "a list of at least one target" }),
      Schema.isUnique({ expected: "a list of different targets" })
    )
  ),
  retry: Schema.optional(Schema.Union([
    Schema.Literal(false),
    Schema.Struct({
      maxRetries: Schema.Int.check(Schema.isGreaterThanOrEqualTo(0, { expected: "a whole number from 0" }))
    })
  ])),
  priority: Schema.optional(Schema.Literals(["critical", "default", "batch", "sheddable"])),
  cache: Schema.optional(Schema.Literals(["auto", "always", "never", "no-stale"])),
  providerOptions: Schema.optional(Schema.Record(Schema.String, Schema.Record(Schema.String, Schema.Unknown))),
  metadata: Schema.optional(Schema.Record(Schema.String, Schema.String))
}

/**
 * Everything but the prompt, as a schema.
 *
 * @category schemas
 * @since 0.1.0
 */
export const Options = Schema.Struct({ ...fields, deadline: Schema.optional(DurationInput) })

type OptionFields = { readonly [K in keyof typeof fields]?: (typeof fields)[K]["Type"] }

/**
 * One message of a prompt, for conversations that are kept in a list: `{ role: "user", content: "…" }`. An answer is one,
 * too: `response.message`.
 *
 * @category models
 * @since 0.2.0
 */
export type Message = Prompt.MessageEncoded

/**
 * What a request may say besides its prompt, its tools and the form of its answer.
 *
 * @category models
 * @since 0.2.0
 */
export interface Settings {
  /** What the model is told before the prompt: short for a system message at its start. */
  readonly system?: string | undefined
  /** Logical model name; each target maps it to its own. */
  readonly model?: string | undefined
  /** Most tokens the answer may have. */
  readonly maxTokens?: number | undefined
  /** How freely tokens are drawn, from 0 (the likeliest) to 2; some vendors go to 1 only. Default: the vendor's. */
  readonly temperature?: number | undefined
  /** Draw from the likeliest tokens that together have this share of the probability, from 0 to 1. */
  readonly topP?: number | undefined
  /** Choose among this many most likely tokens only. */
  readonly topK?: number | undefined
  /** From -2 to 2: makes tokens that occurred less likely (below 0: more), all of them by the same. */
  readonly presencePenalty?: number | undefined
  /** From -2 to 2: makes tokens less likely (below 0: more) the more often they occurred. */
  readonly frequencyPenalty?: number | undefined
  /** How much the model thinks before it answers; models that do not reason refuse it. Absent: as the vendor likes. */
  readonly reasoningEffort?: ReasoningEffort | undefined
  /** Texts at which the model stops. */
  readonly stop?: ReadonlyArray<string> | undefined
  /** The same seed asks for the same answer, as far as the vendor can; such a request may be answered by the cache. */
  readonly seed?: number | undefined
  /** Calls with the same key are one call: the second joins the first or gets its stored answer. */
  readonly idempotencyKey?: string | undefined
  /**
   * A customer of yours: separates idempotency and cache entries, takes turns with others where calls wait, and has limits of
   * its own (`by: "tenant"`).
   */
  readonly tenant?: string | undefined
  /** The conversation this is part of, which sticky routing keeps at one target; not part of the question. */
  readonly conversation?: string | undefined
  /** The ids of the targets that may be asked, in this order, instead of the client's. */
  readonly targets?: ReadonlyArray<string> | undefined
  /** Retries of this call, at each target: none, or at most as many. Default: as the client's options say. */
  readonly retry?: false | { readonly maxRetries: number } | undefined
  /** How urgent the call is, where calls wait or are turned away. Default `default`. */
  readonly priority?: "critical" | "default" | "batch" | "sheddable" | undefined
  /**
   * `auto`: a fresh cached answer may be used when the request is deterministic (`temperature: 0` or a `seed`);
   * `always`: even when it is not; `never`: neither read nor stored; `no-stale`: as `auto`, but no answer that has
   * outlived its time, neither instead of a failure nor while a new one is fetched.
   */
  readonly cache?: "auto" | "always" | "never" | "no-stale" | undefined
  /**
   * Fields of a vendor's own, by its name: `{ openai: { service_tier: "flex" } }`. They are put into the body that is
   * sent, last of all, objects into objects; other vendors do not get them, and the ledger says so.
   */
  readonly providerOptions?: Readonly<Record<string, Readonly<Record<string, unknown>>>> | undefined
  /**
   * Free data for your own use: your guards see it, and providers of your own that read it, for which it is part of the
   * question. The built-in ones neither get nor send it.
   */
  readonly metadata?: Readonly<Record<string, string>> | undefined
  /** Longest time the whole call may take; the client's `timeout.deadline` when absent. */
  readonly deadline?: Duration.Input | undefined
}

/**
 * What is asked, and of which tools the model may make use.
 *
 * @category models
 * @since 0.2.0
 */
export interface Question extends Settings {
  /** Text, messages, or a `Prompt` of `effect/ai`. */
  readonly prompt: Prompt.RawInput
  /**
   * Plain definitions, `Tool`s of `effect/ai`, or a `Toolkit`. Their handlers are not run: see `LlmLanguageModel`. A `Tool` is
   * a value: it is read once, and to change it is to make another (`setParameters`, `annotate`, …).
   */
  readonly tools?: ReadonlyArray<ToolDefinition | Tool.Any> | Toolkit.Any | undefined
  /** May it (`auto`, the default), must it (`required`, or `{ tool }` by name), or must it not (`none`) call tools? */
  readonly toolChoice?: ToolChoice | undefined
}

/**
 * What users write. A plain string is short for `{ prompt: "…" }`.
 *
 * @category models
 * @since 0.1.0
 */
export interface Input extends Question {
  /** Text (default), JSON, or JSON by a schema; `client.generateObject` also reads the value. */
  readonly responseFormat?: ResponseFormat | undefined
}

/**
 * A checked request, as patterns and providers see it: plain JSON, the prompt as encoded messages, no undefined fields.
 *
 * Parameters, results and schemas of tools are what JSON makes of them: a `Date` is its text, a `Map` is `{}`, and what
 * has a `toJSON` is what that gives. What JSON cannot hold, more than 1,000 levels or 250,000 values in one piece of
 * data, and more than 100,000 messages are an {@link InvalidRequest}.
 *
 * @category models
 * @since 0.1.0
 */
export type LlmRequest =
  & { readonly [K in keyof OptionFields]?: Exclude<OptionFields[K], undefined> }
  & {
    readonly prompt: ReadonlyArray<Prompt.MessageEncoded>
    readonly deadline?: Duration.Duration
  }

const decodeOptions = Schema.decodeUnknownResult(Options, { onExcessProperty: "error" })
const readers = new Map(Object.entries(fields).map(([name, schema]) => [name, readerOf(schema.ast)]))
readers.set("tools", (value) => toolsAsTheyAre(value))
const Messages = Schema.Array(Prompt.Message)
const decodeMessages = Schema.decodeUnknownResult(Messages)
const encodeMessages = Schema.encodeResult(Messages)

const invalid = (path: string, rule: string, value: unknown): InvalidRequest =>
  withoutStack(() => new InvalidRequest({ path, rule, kind: kindOf(value) }))

/**
 * Checks an input. Fails with {@link InvalidRequest} that names the field, the rule and the kind of the value, and
 * never the value itself.
 *
 * **Example** (A prompt without messages)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { LlmRequest } from "effect-resilient-llm"
 *
 * const error = Effect.runSync(Effect.flip(LlmRequest.make({ prompt: [] })))
 * error.message // => 'Invalid request: "prompt" must be at least one message, but is an empty array.'
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = (input: string | Input): Effect.Effect<LlmRequest, InvalidRequest> =>
  Effect.suspend(() => {
    const request = read(input)
    return "_tag" in request ? Effect.fail(request) : Effect.succeed(request)
  })

/** @internal */
export const read = (input: string | Input): LlmRequest | InvalidRequest => {
  if (typeof input === "string") {
    return input.length > 0
      ? { prompt: userText(input) }
      : invalid("prompt", "a text or at least one message", input)
  }
  if (typeof input !== "object" || input === null) {
    return invalid("request", "a text or an object with a prompt", input)
  }
  try {
    return readObject(input)
  } catch (error) {
    // What the caller gave can do anything when it is read.
    return error instanceof NotJson
      ? new InvalidRequest(error)
      : new InvalidRequest({ path: "request", rule: "plain data", kind: "an object that throws" })
  }
}

const readObject = (input: Input): LlmRequest | InvalidRequest => {
  const request = readAsItIs(input) ?? readBySchema(input)
  if (request instanceof InvalidRequest) return request
  // Models answer in the order of a schema's fields, so that is kept.
  const { responseFormat } = request
  if (responseFormat?.type === "json" && responseFormat.schema !== undefined) {
    request.responseFormat = {
      ...responseFormat,
      schema: jsonAt("responseFormat.schema", responseFormat.schema, schemaOf)
    }
  }
  const { providerOptions } = request
  if (providerOptions !== undefined) {
    request.providerOptions = jsonAt("providerOptions", providerOptions, plain) as typeof providerOptions
  }
  return request
}

/** A schema is often one of few, and long. */
const schemaOf = again((schema) => plain(schema) as ToolDefinition["parameters"])

type Mutable<A> = { -readonly [K in keyof A]: A[K] }

/** What needs no decoding, or `undefined`: then the schemas say what it is, or what is wrong with it. */
const readAsItIs = (input: Input): Mutable<LlmRequest> | undefined => {
  if (!isPlain(input)) return undefined
  const { deadline, prompt, system } = input
  const list = Prompt.isPrompt(prompt) ? prompt.content : prompt
  const messages = typeof list === "string"
    ? (list.length > 0 ? userText(list) : undefined)
    : Array.isArray(list) && (list.length > 0 || list !== prompt) && list.length <= MAX_MESSAGES
    ? readUsual(list)
    : undefined
  if (messages === undefined || (system !== undefined && !isSystem(system))) return undefined
  const request: Record<string, unknown> = { prompt: withSystem(system, messages) }
  for (const key of Reflect.ownKeys(input)) {
    if (key === "prompt" || key === "deadline" || key === "system") continue
    const value = input[key as keyof Input]
    const read = readers.get(key as string)
    const known = value === undefined ? undefined : read?.(value)
    if (read === undefined || known === NO) return undefined
    if (known !== undefined) request[key as string] = known
  }
  if (deadline !== undefined) {
    const duration = readDuration(deadline)
    if (duration === undefined || Duration.toMillis(duration) < 0) return undefined
    request["deadline"] = duration
  }
  return request as LlmRequest
}

const readBySchema = (input: Input): Mutable<LlmRequest> | InvalidRequest => {
  const { prompt, system, ...rest } = input
  const read = readPrompt(prompt)
  if (read instanceof InvalidRequest) return read
  if (system !== undefined && !isSystem(system)) return invalid("system", "a text that is not empty", system)
  const messages = withSystem(system, read)
  const tools = readTools(rest.tools)
  if (tools instanceof InvalidRequest) return tools
  const given = tools === rest.tools ? rest : { ...rest, tools }
  const options = decodeOptions(given)
  if (Result.isFailure(options)) return new InvalidRequest(firstIssue(options.failure.issue, given))
  const request: Record<string, unknown> = { prompt: messages }
  for (const [key, value] of Object.entries(options.success)) {
    if (value !== undefined) {
      request[key] = key === "deadline"
        ? Duration.fromInputUnsafe(value as Duration.Input)
        : key === "tools"
        ? (value as ReadonlyArray<ToolDefinition>).map(frozenTool)
        : value
    }
  }
  return request as LlmRequest
}

const jsonTool = (tool: ToolDefinition, i: number): ToolDefinition => {
  const { parameters, provider } = tool
  const json = { ...tool, parameters: jsonAt(`tools[${i}].parameters`, parameters, plain) as typeof parameters }
  if (provider?.args === undefined) return json
  const args = jsonAt(`tools[${i}].provider.args`, provider.args, plain)
  return { ...json, provider: { ...provider, args } } as ToolDefinition
}

const frozenTool = (tool: ToolDefinition, i: number): ToolDefinition => {
  const json = jsonTool(tool, i)
  freeze(json)
  return json
}

const readTool = readerOf(ToolDefinition.ast)!

/** A tool as its schema leaves it, or `NO`. Most tools are the same in every call. */
const toolAsItIs = again((given) => {
  const tool = readTool(given)
  if (tool === NO) return NO
  try {
    return jsonTool(tool as ToolDefinition, 0)
  } catch (error) {
    // The other way says where it is, if nothing else is wrong.
    if (error instanceof NotJson) return NO
    throw error
  }
})

const toolsAsTheyAre = (tools: unknown): ReadonlyArray<ToolDefinition> | typeof NO => {
  const list = readTools(tools)
  if (!Array.isArray(list)) return NO
  const read: Array<ToolDefinition> = []
  for (const given of list) {
    const tool = typeof given === "object" && given !== null ? toolAsItIs(given) : NO
    if (tool === NO) return NO
    read.push(tool)
  }
  return read
}

// What is no tool of effect/ai stays as it is; the schema of the options says what is wrong with it.
const readTools = (tools: unknown): unknown => {
  const list: unknown = isToolkit(tools) ? Object.values(tools.tools) : tools
  if (!Array.isArray(list)) return list
  const read: Array<unknown> = []
  for (const [i, tool] of list.entries()) {
    try {
      read.push(isTool(tool) ? definitionOf(tool) : tool)
    } catch {
      return invalid(`tools[${i}].parameters`, "a schema that JSON Schema can say", tool)
    }
  }
  return read
}

/**
 * What a tool call came to, as a message for the next turn.
 *
 * **Example** (A tool called by hand)
 *
 * ```ts import.meta.vitest
 * import { Effect, Schema } from "effect"
 * import { Tool } from "effect/ai"
 * import { LlmClient, LlmRequest } from "effect-resilient-llm"
 * import { ScriptedProvider } from "effect-resilient-llm/testing"
 *
 * class Vendor extends ScriptedProvider.Service<Vendor>()("app/Vendor") {}
 * const Weather = Tool.make("Weather", { parameters: Schema.Struct({ city: Schema.String }) })
 * const call = { type: "tool-call", id: "1", name: "Weather", params: { city: "Berlin" } } as const
 *
 * const program = Effect.gen(function*() {
 *   const client = yield* LlmClient.make([Vendor])
 *   const question = { role: "user", content: "How warm is it in Berlin?" } as const
 *   const asked = yield* client.complete({ prompt: [question], tools: [Weather] })
 *   const results = asked.toolCalls.map((call) => LlmRequest.toolResult(call, { celsius: 21 }))
 *   const answer = yield* client.complete({ prompt: [question, asked.message, ...results], tools: [Weather] })
 *   return answer.text
 * })
 * const live = Vendor.layer([ScriptedProvider.answer([call]), ScriptedProvider.answer("21 degrees.")])
 * await Effect.runPromise(Effect.scoped(program).pipe(Effect.provide(live))) // => "21 degrees."
 * ```
 *
 * @category constructors
 * @since 0.2.0
 */
export const toolResult = (
  call: Pick<Response.ToolCallPartEncoded, "id" | "name">,
  result: unknown,
  options: { readonly isFailure?: boolean | undefined } = {}
): Prompt.ToolMessageEncoded => ({
  role: "tool",
  content: [{ type: "tool-result", id: call.id, name: call.name, result, isFailure: options.isFailure ?? false }]
})

const plainSorted = (value: unknown): unknown => plain(value, true)

/** What JSON makes of a part of the request. */
const jsonAt = <A, B>(path: string, value: A, of: (value: A) => B): B => {
  try {
    return of(value)
  } catch (error) {
    if (!(error instanceof NotJson)) throw error
    const below = error.path === "" || error.path.startsWith("[") ? error.path : `.${error.path}`
    throw new NotJson(path + below, error.rule, error.kind)
  }
}

// As `canonicalMessages` would write it.
const userText = (text: string): ReadonlyArray<Prompt.MessageEncoded> => [
  { content: text, options: noOptions, role: "user" }
]

const isSystem = (system: unknown): boolean => typeof system === "string" && system !== ""

const withSystem = (system: string | undefined, prompt: LlmRequest["prompt"]): LlmRequest["prompt"] =>
  system === undefined ? prompt : [{ content: system, options: noOptions, role: "system" }, ...prompt]

const ROLES: ReadonlyArray<Prompt.MessageEncoded["role"]> = ["system", "user", "assistant", "tool"]

/** More take seconds to check, and no model takes as many. */
const MAX_MESSAGES = 100_000

const tooMany = (): InvalidRequest =>
  new InvalidRequest({ path: "prompt", rule: "at most 100,000 messages", kind: "more" })

const readPrompt = (prompt: unknown): ReadonlyArray<Prompt.MessageEncoded> | InvalidRequest => {
  if (typeof prompt === "string") {
    return prompt.length > 0 ? userText(prompt) : invalid("prompt", "a text or at least one message", prompt)
  }
  if (Prompt.isPrompt(prompt)) {
    // An empty one is legal in `effect/ai`; whether a model has something to say to it, its provider decides.
    return prompt.content.length > MAX_MESSAGES ? tooMany() : readMessages(prompt.content, canonicalMessages)
  }
  if (typeof prompt !== "object" || prompt === null || !(Symbol.iterator in prompt)) {
    return invalid("prompt", "a text, messages or a Prompt", prompt)
  }
  const list: Array<unknown> = []
  for (const message of prompt as Iterable<unknown>) {
    if (list.push(message) > MAX_MESSAGES) return tooMany()
  }
  if (list.length === 0) return invalid("prompt", "at least one message", list)
  for (const [i, message] of list.entries()) {
    const role = typeof message === "object" && message !== null && "role" in message ? message.role : undefined
    if (!ROLES.includes(role as Prompt.MessageEncoded["role"])) {
      return invalid(`prompt[${i}].role`, `one of ${ROLES.join(", ")}`, role)
    }
  }
  return readMessages(list, (messages) => Result.flatMap(decodeMessages(messages), canonicalMessages))
}

const readMessages = <A>(
  messages: ReadonlyArray<A>,
  decode: (messages: ReadonlyArray<A>) => Result.Result<ReadonlyArray<Prompt.MessageEncoded>, Schema.SchemaError>
): ReadonlyArray<Prompt.MessageEncoded> | InvalidRequest => {
  try {
    const read = decode(messages)
    if (Result.isSuccess(read)) return read.success
    const issue = firstIssue(read.failure.issue, messages)
    return new InvalidRequest({ ...issue, path: `prompt${issue.path}` })
  } catch (error) {
    if (error instanceof NotJson) throw error
    // Provider options too deep for the schema, or something that throws when it is read: find out where.
    jsonAt("prompt", messages, plain)
    throw error
  }
}

// Objects with sorted keys, so that the order in which a caller wrote fields does not matter, and plain JSON in what
// may be anything: parameters and results of tools.
const canonicalMessages = (
  messages: ReadonlyArray<Prompt.Message>
): Result.Result<ReadonlyArray<Prompt.MessageEncoded>, Schema.SchemaError> =>
  Result.map(encodeMessages(messages), (encoded) => encoded.map(canonicalMessage))

const canonicalMessage = (message: Prompt.MessageEncoded, i: number): Prompt.MessageEncoded =>
  sortedFields(message, `prompt[${i}]`, (key, value, path) =>
    key === "content" && Array.isArray(value)
      ? value.map((part, j) => sortedFields(part, `${path}[${j}]`, jsonField))
      : jsonField(key, value, path)) as unknown as Prompt.MessageEncoded

const jsonField = (key: string, value: unknown, path: string): unknown => {
  if (key === "options") return jsonAt(path, withoutBookkeeping(value as Prompt.ProviderOptions), plainSorted)
  // A tool that gives nothing gives `null`.
  return jsonAt(path, value, plainSorted) ?? (key === "params" || key === "result" ? null : undefined)
}

// What `effect/ai` notes in a prompt for itself (a persisted chat gives every message a random id) is no part of the
// question: it would make every turn another one.
const withoutBookkeeping = (options: Prompt.ProviderOptions): Prompt.ProviderOptions =>
  Object.keys(options).some(isBookkeeping)
    ? Object.fromEntries(Object.entries(options).filter(([key]) => !isBookkeeping(key)))
    : options

const isBookkeeping = (namespace: string): boolean => namespace.startsWith("effect/ai/")

const sortedFields = (
  fields: object,
  path: string,
  each: (key: string, value: unknown, path: string) => unknown
): Record<string, unknown> => {
  const sorted: Record<string, unknown> = {}
  for (const key of Object.keys(fields).toSorted()) {
    const value = (fields as Record<string, unknown>)[key]
    const json = typeof value === "string" ? value : each(key, value, `${path}.${key}`)
    if (json !== undefined) sorted[key] = json
  }
  return sorted
}

/**
 * The identity of a request: what affects the answer, plus the tenant. Two requests with the same identity ask the same
 * question.
 *
 * It is a JSON array of the settings in a fixed order, in which omitted ones are `null`, at the end left out, and the
 * leading number is the version of this format; then come the messages, each its role, the length of its text and the
 * text, or as JSON. What is nothing but a text stands for itself, unless it could be taken for such an array.
 *
 * @category accessors
 * @since 0.1.0
 */
export const identity = (request: LlmRequest): string => {
  const { maxTokens, model, prompt, responseFormat, seed, stop, temperature, tenant, toolChoice, tools, topP } = request
  const { frequencyPenalty, metadata, presencePenalty, providerOptions, reasoningEffort, targets, topK } = request
  let fields = ""
  let omitted = 0
  const add = (value: unknown): void => {
    if (value === undefined) omitted += 1
    else {
      fields += `${",null".repeat(omitted)},${sortedText(value)}`
      omitted = 0
    }
  }
  add(model)
  add(tenant)
  add(temperature)
  add(maxTokens)
  add(seed)
  add(topP)
  add(stop)
  add(toolChoice)
  add(tools)
  add(responseFormat)
  add(topK)
  add(presencePenalty)
  add(frequencyPenalty)
  add(reasoningEffort)
  add(providerOptions)
  add(metadata)
  // Who asks somebody in particular does not want another's answer.
  add(targets)
  const text = fields === "" ? onlyText(prompt) : undefined
  return text === undefined || text.startsWith("[") ? `[2${fields}]${prompt.map(messageText).join("")}` : text
}

// A text with its length before it needs no escaping, which costs more than all else here.
const messageText = (message: Prompt.MessageEncoded): string =>
  typeof message.content === "string" && isBare(message.options)
    ? `${message.role}${message.content.length}:${message.content}`
    : sortedText(message)

const onlyText = (prompt: LlmRequest["prompt"]): string | undefined => {
  const message = prompt[0]
  return prompt.length === 1 && message?.role === "user" && typeof message.content === "string" &&
      isBare(message.options)
    ? message.content
    : undefined
}
