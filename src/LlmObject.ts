/**
 * Values instead of texts: what `client.generateObject` takes and gives, and tool calls as their tools declare them.
 *
 * @since 0.2.0
 */
import type * as Tool from "effect/ai/Tool"
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import { at, type Complaint, firstIssue, kindOf, renderPath } from "./internal/issue.ts"
import { codecTransformer, definitionOf, isStrict, paramsOf } from "./internal/tools.ts"
import { InvalidOutput, InvalidRequest } from "./LlmError.ts"
import type { Input, Question } from "./LlmRequest.ts"
import { type Answer, fromAnswer, type LlmResponse } from "./LlmResponse.ts"
import type { Check, Objection } from "./pipeline/checked.ts"

/**
 * A question whose answer is a value. An answer that calls tools instead is none, and is not asked for again.
 *
 * @category models
 * @since 0.2.0
 */
export interface ObjectQuestion extends Question {
  /** What the value is called, for vendors that want a name: letters, digits, `_` and `-`. Default `object`. */
  readonly objectName?: string | undefined
  /** How often an answer that does not fit is asked for again, with the complaint. Default 1. */
  readonly repairs?: number | undefined
}

/**
 * A request for a value.
 *
 * @category models
 * @since 0.2.0
 */
export interface ObjectInput<A> extends ObjectQuestion {
  /**
   * What the answer is to be. Vendors get its JSON Schema; the answer is decoded by the schema itself. Some take objects
   * alone, so a list, a union or a plain value is asked for as `{ "value": … }`, which the `text` of the response shows. For
   * schemas of other libraries see {@link fromStandard}.
   */
  readonly schema: Schema.Codec<A, unknown> | Format<A>
}

/**
 * A value, and the response it was read from.
 *
 * @category models
 * @since 0.2.0
 */
export interface ObjectResponse<A> {
  readonly value: A
  readonly response: LlmResponse
}

const TypeId = "~effect-resilient-llm/LlmObject/Format"

/**
 * What an answer is to be, where it is not said by a schema of Effect: see {@link fromStandard}.
 *
 * @category models
 * @since 0.2.0
 */
export interface Format<out A> {
  readonly [TypeId]: typeof TypeId
  /** As plain data, for the vendors. */
  readonly jsonSchema: Readonly<Record<string, unknown>>
  /** May a vendor be asked to follow it to the letter? */
  readonly strict: boolean
  /** Reads the parsed JSON. */
  readonly decode: (value: unknown) => Result.Result<A, Objection>
}

const isFormat = (u: object): u is Format<never> => TypeId in u

/**
 * A schema of zod, valibot, arktype and others that follow the Standard Schema.
 *
 * @category models
 * @since 0.2.0
 */
export interface StandardSchema<out A> {
  readonly "~standard": {
    readonly version: 1
    readonly validate: (value: unknown) => StandardResult<A> | Promise<StandardResult<A>>
    readonly types?: { readonly output: A } | undefined
    readonly jsonSchema?: { readonly input: (options: { readonly target: string }) => Record<string, unknown> }
  }
}

/**
 * @category models
 * @since 0.2.0
 */
export type StandardResult<A> =
  | { readonly value: A; readonly issues?: undefined }
  | {
    readonly issues: ReadonlyArray<{
      readonly message: string
      readonly path?: ReadonlyArray<PropertyKey | { readonly key: PropertyKey }> | undefined
    }>
  }

/**
 * A schema of another library as the `schema` of {@link ObjectInput}. Those that cannot say their JSON Schema themselves
 * need it as second argument. Checks that wait for something cannot be used.
 *
 * **Example** (Zod)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { LlmClient, LlmObject } from "effect-resilient-llm"
 * import { ScriptedProvider } from "effect-resilient-llm/testing"
 * import { z } from "zod"
 *
 * class Vendor extends ScriptedProvider.Service<Vendor>()("app/Vendor") {}
 *
 * const Report = z.object({ city: z.string(), celsius: z.number() })
 * const program = Effect.gen(function*() {
 *   const client = yield* LlmClient.make([Vendor])
 *   const schema = LlmObject.fromStandard(Report, z.toJSONSchema(Report))
 *   return (yield* client.generateObject({ prompt: "Berlin has 21 degrees.", schema })).value.celsius
 * })
 * const live = Vendor.layer([ScriptedProvider.answer(`{ "city": "Berlin", "celsius": 21 }`)])
 * await Effect.runPromise(Effect.scoped(program).pipe(Effect.provide(live))) // => 21
 * ```
 *
 * @category constructors
 * @since 0.2.0
 */
export const fromStandard = <A>(
  schema: StandardSchema<A>,
  jsonSchema: object | undefined = schema["~standard"].jsonSchema?.input({ target: "draft-2020-12" })
): Format<A> => {
  if (jsonSchema === undefined) {
    throw new TypeError("This schema does not say its JSON Schema: give it as second argument.")
  }
  const { validate } = schema["~standard"]
  return inObject({
    [TypeId]: TypeId,
    jsonSchema: { ...jsonSchema },
    strict: false,
    decode: (value) => {
      const result = validate(value)
      if (result instanceof Promise) {
        throw new TypeError("A schema whose checks wait for something cannot be used here.")
      }
      if (result.issues === undefined) return Result.succeed(result.value)
      const issues = result.issues.map(({ message, path = [] }) => ({
        message,
        path: path.map((step) => typeof step === "object" ? step.key : step)
      }))
      const { message = "valid", path = [] } = issues[0] ?? {}
      const all = issues.map(({ message, path }) => `${renderPath(path) || "it"}: ${message}`).join("; ")
      return Result.fail({ path: renderPath(path), rule: message, kind: kindOf(at(value, path)), told: told(all) })
    }
  })
}

/** Is it known that what fits is no object, or not one of one shape? */
const isBare = (jsonSchema: Format<unknown>["jsonSchema"]): boolean =>
  ("type" in jsonSchema && jsonSchema["type"] !== "object") ||
  ["anyOf", "oneOf", "enum", "const"].some((word) => word in jsonSchema)

/** References that hold wherever the schema stands, as long as the definitions stay at the root. */
const canMove = (jsonSchema: object): boolean =>
  !/"\$ref":"#(?!\/\$defs\/|\/definitions\/)/.test(JSON.stringify(jsonSchema))

/** Vendors refuse what is no object, so it is asked for inside of one. A model may answer without it all the same. */
const inObject = <A>(format: Format<A>): Format<A> => {
  const { $defs, $schema, definitions, ...value } = format.jsonSchema
  if (!isBare(value) || !canMove(format.jsonSchema)) return format
  const around = Object.entries({ $schema, $defs, definitions }).filter(([, given]) => given !== undefined)
  return {
    ...format,
    jsonSchema: {
      ...Object.fromEntries(around),
      type: "object",
      properties: { value },
      required: ["value"],
      additionalProperties: false
    },
    decode: (answer) => {
      if (typeof answer !== "object" || answer === null || !("value" in answer)) return format.decode(answer)
      const inside = format.decode(answer.value)
      return Result.isSuccess(inside) ? inside : Result.mapError(format.decode(answer), () => inside.failure)
    }
  }
}

/**
 * A call of one of these tools, its parameters as their schema has them. The name tells them apart.
 *
 * @category models
 * @since 0.2.0
 */
export type ToolCall<T extends Tool.Any> = T extends Tool.Any
  ? { readonly id: string; readonly name: Tool.Name<T>; readonly params: Tool.Parameters<T> }
  : never

/**
 * The tool calls of a response, read by the tools or the toolkit of its request. In a response they are what the model
 * wrote, and nobody has looked at it: a call of another tool, or with parameters that do not fit, is an `InvalidOutput`.
 * Calls that the vendor has run itself are left out.
 *
 * **Example** (Parameters are decoded)
 *
 * ```ts import.meta.vitest
 * import { Effect, Schema } from "effect"
 * import { LlmClient, LlmObject } from "effect-resilient-llm"
 * import { ScriptedProvider } from "effect-resilient-llm/testing"
 * import { Tool } from "effect/ai"
 *
 * class Vendor extends ScriptedProvider.Service<Vendor>()("app/Vendor") {}
 *
 * const Sunrise = Tool.make("Sunrise", { parameters: Schema.Struct({ day: Schema.DateFromString }) })
 * const program = Effect.gen(function*() {
 *   const client = yield* LlmClient.make([Vendor])
 *   const response = yield* client.complete({ prompt: "When does the sun rise?", tools: [Sunrise] })
 *   const calls = yield* LlmObject.toolCalls(response, [Sunrise])
 *   return calls.map(({ name, params }) => `${name} ${params.day.getUTCFullYear()}`)
 * })
 * const live = Vendor.layer([ScriptedProvider.answer([
 *   { type: "tool-call", id: "1", name: "Sunrise", params: { day: "2026-06-21" } },
 *   { type: "finish", reason: "tool-calls", usage: { inputTokens: {}, outputTokens: {} } }
 * ])])
 * await Effect.runPromise(Effect.scoped(program).pipe(Effect.provide(live))) // => ["Sunrise 2026"]
 * ```
 *
 * @category accessors
 * @since 0.2.0
 */
export const toolCalls = <T extends Tool.Any>(
  response: LlmResponse,
  tools: ReadonlyArray<T> | { readonly tools: Readonly<Record<string, T>> }
): Effect.Effect<ReadonlyArray<ToolCall<T>>, InvalidOutput, Tool.ParametersDecodingServices<T>> => {
  const list: ReadonlyArray<T> = "tools" in tools ? Object.values(tools.tools) : tools
  // A vendor's own tool is called by the vendor's name for it.
  const byName = new Map(list.map((tool) => [definitionOf(tool).name, tool]))
  const { ledger, target, text } = response
  const invalid = (path: string, { kind, rule }: Pick<Complaint, "kind" | "rule">): InvalidOutput =>
    InvalidOutput.of(text, { path, rule, kind, target, ledger, repairs: 0 })
  const calls = response.toolCalls.filter((call) => call.providerExecuted !== true)
  const read = Effect.forEach(calls, ({ id, name, params }, i) => {
    const tool = byName.get(name)
    if (tool === undefined) {
      const rule = `one of ${[...byName.keys()].join(", ")}`
      return Effect.fail(invalid(`toolCalls[${i}].name`, { rule, kind: "another name" }))
    }
    return paramsOf(tool, params).pipe(
      Effect.flatMap(Schema.decodeUnknownEffect(tool.parametersSchema)),
      Effect.mapBoth({
        onFailure: ({ issue }) => {
          const { path, ...complaint } = firstIssue(issue, params)
          const inside = path === "" || path.startsWith("[") ? path : `.${path}`
          return invalid(`toolCalls[${i}].params${inside}`, complaint)
        },
        onSuccess: (params): unknown => ({ id, name: tool.name, params })
      })
    )
  })
  // The tool of this name has just said what its parameters are.
  return read as Effect.Effect<ReadonlyArray<ToolCall<T>>, InvalidOutput, Tool.ParametersDecodingServices<T>>
}

/** @internal */
export interface Prepared<A> {
  readonly input: Input
  readonly check: Check
  readonly read: (response: LlmResponse) => ObjectResponse<A> | InvalidOutput
}

const readings = new WeakMap<object, Format<unknown>>()

/** @internal */
export const ofSchema = <A>(schema: Schema.Codec<A, unknown>): Format<A> => {
  const known = readings.get(schema)
  if (known !== undefined) return known as Format<A>
  const made = reading(schema)
  readings.set(schema, made)
  return made
}

const reading = <A>(schema: Schema.Codec<A, unknown>): Format<A> => {
  const { codec, jsonSchema } = codecTransformer(schema)
  const decode = Schema.decodeUnknownResult(codec, { errors: "all" })
  return inObject({
    [TypeId]: TypeId,
    jsonSchema,
    strict: isStrict(jsonSchema),
    decode: (value) =>
      Result.mapError(decode(value), ({ issue, message }) => ({ ...firstIssue(issue, value), told: told(message) }))
  })
}

/** @internal */
export const fromInput = <A>({ schema, ...input }: ObjectInput<A>): Prepared<A> | InvalidRequest => {
  const { repairs = 1 } = input
  if (!Number.isInteger(repairs) || repairs < 0) {
    return new InvalidRequest({ path: "repairs", rule: "a whole number, not negative", kind: kindOf(repairs) })
  }
  if (typeof schema === "object" && schema !== null && isFormat(schema)) return prepare(input, schema)
  if (!Schema.isSchema(schema)) return new InvalidRequest({ path: "schema", rule: "a schema", kind: kindOf(schema) })
  try {
    return prepare(input, ofSchema(schema))
  } catch {
    return new InvalidRequest({ path: "schema", rule: "one that JSON Schema can say", kind: "a schema that it cannot" })
  }
}

/** @internal */
export const told = (complaint: string): string =>
  `Your answer does not fit the JSON schema: ${complaint.slice(0, 2000)}\n` +
  "Answer again with the whole corrected JSON, and nothing else."

/** @internal */
export const prepare = <A>(
  { objectName = "object", repairs = 1, ...input }: ObjectQuestion,
  reading: Format<A>
): Prepared<A> => {
  const known = new WeakMap<Answer["parts"], Result.Result<A, Objection>>()
  const readText = (text: string): Result.Result<A, Objection> => {
    let value: unknown
    try {
      value = JSON.parse(unfenced(text))
    } catch {
      const kind = text.trim() === "" ? kindOf("") : "a text that is not JSON"
      return Result.fail({ path: "", rule: "JSON", kind, told: told("it is not JSON.") })
    }
    return reading.decode(value)
  }
  const readResponse = (response: LlmResponse): Result.Result<A, Objection> => {
    // What is cut off would be cut off again.
    if (response.finishReason === "length") {
      return Result.fail({ path: "", rule: "a whole answer", kind: "cut off by its token limit", told: undefined })
    }
    const kind = insteadOfValue(response)
    const result = readText(response.text)
    return kind === undefined
      ? result
      : Result.mapError(result, () => ({ path: "", rule: "a value", kind, told: undefined }))
  }
  const readAnswer = (answer: Answer): Result.Result<A, Objection> => {
    const before = known.get(answer.parts)
    if (before !== undefined) return before
    const result = readResponse(fromAnswer(answer, "provider", 0, []))
    known.set(answer.parts, result)
    return result
  }
  return {
    input: {
      ...input,
      responseFormat: {
        type: "json",
        name: objectName,
        schema: reading.jsonSchema,
        ...(reading.strict ? { strict: true } : undefined)
      }
    },
    check: {
      repairs,
      objection: (answer) => {
        const result = readAnswer(answer)
        return Result.isFailure(result) ? result.failure : undefined
      }
    },
    read: (response) => {
      const result = readResponse(response)
      if (Result.isSuccess(result)) return { value: result.success, response }
      const { kind, path, rule } = result.failure
      const made = response.ledger.filter((event) => event._tag === "AnswerRejected" && event.repair !== undefined)
      return InvalidOutput.of(response.text, {
        path,
        rule,
        kind,
        target: response.target,
        repairs: made.length,
        ledger: response.ledger
      })
    }
  }
}

/** What it is where asking again is no use: vendors take no question behind a call without its result. */
const insteadOfValue = ({ finishReason, toolCalls }: LlmResponse): string | undefined => {
  if (toolCalls.length > 0) return "a call of a tool"
  return finishReason === "content-filter" ? "kept back by the provider's policy" : undefined
}

/**
 * Models without a JSON mode like to wrap what they are asked for in a fence.
 *
 * @internal
 */
export const unfenced = (text: string): string => {
  const trimmed = text.trim()
  const firstLine = trimmed.indexOf("\n")
  return trimmed.startsWith("```") && trimmed.endsWith("```") && firstLine > 0 ? trimmed.slice(firstLine, -3) : trimmed
}
