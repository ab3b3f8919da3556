// Tools and schemas of effect/ai as the plain data of a request, and what comes back as what they declare.
import * as AnthropicStructuredOutput from "effect/ai/AnthropicStructuredOutput"
import * as LanguageModel from "effect/ai/LanguageModel"
import * as Tool from "effect/ai/Tool"
import type * as Toolkit from "effect/ai/Toolkit"
import * as Effect from "effect/Effect"
import * as Predicate from "effect/Predicate"
import * as Schema from "effect/Schema"
import type { ToolDefinition } from "../LlmRequest.ts"

const strictly = new WeakSet<object>()

/** May a vendor be asked to follow this schema, which {@link codecTransformer} made, to the letter? */
export const isStrict = (jsonSchema: object): boolean => strictly.has(jsonSchema)

/**
 * One request may be served by any vendor, attempt by attempt, so its schemas stay in what all of them take. A schema
 * beyond that (a recursive one) goes out as it is, and no vendor is asked to follow it to the letter.
 */
export const codecTransformer: LanguageModel.CodecTransformer = (schema) => {
  try {
    const transformed = AnthropicStructuredOutput.toCodecAnthropic(schema)
    strictly.add(transformed.jsonSchema)
    return transformed
  } catch {
    return LanguageModel.defaultCodecTransformer(schema)
  }
}

export const isTool = (u: unknown): u is Tool.Any =>
  Tool.isUserDefined(u) || Tool.isProviderDefined(u) || Tool.isDynamic(u)

export const isToolkit = (u: unknown): u is Toolkit.Any =>
  Predicate.hasProperty(u, "tools") && Predicate.isObject(u.tools) && Object.values(u.tools).every(isTool)

const definitions = new WeakMap<Tool.Any, ToolDefinition>()

/** Throws where a schema has no JSON Schema. */
export const definitionOf = (tool: Tool.Any): ToolDefinition => {
  const known = definitions.get(tool)
  if (known !== undefined) return known
  const strict = Tool.getStrictMode(tool)
  const description = Tool.getDescription(tool)
  const made: ToolDefinition = {
    name: Tool.isProviderDefined(tool) ? tool.providerName : tool.name,
    ...(description === undefined ? undefined : { description }),
    parameters: Tool.getJsonSchema(tool, strict === true ? { transformer: codecTransformer } : undefined),
    ...(strict === undefined ? undefined : { strict }),
    ...(Tool.isProviderDefined(tool) ? { provider: { id: tool.id, args: tool.args ?? {} } } : undefined)
  }
  definitions.set(tool, made)
  return made
}

/**
 * A strict schema may differ from the tool's own in how it is written (an absent field is null there), so what came is
 * rewritten to what the tool declares. What does not fit stays as it came: who reads it says what is wrong with it.
 */
export const paramsOf = (tool: Tool.Any, params: unknown): Effect.Effect<unknown> => {
  if (Tool.isDynamic(tool) || Tool.getStrictMode(tool) !== true) return Effect.succeed(params)
  const declared = tool.parametersSchema as Schema.Codec<unknown>
  return Schema.decodeUnknownEffect(codecTransformer(declared).codec)(params).pipe(
    Effect.flatMap(Schema.encodeUnknownEffect(declared)),
    Effect.orElseSucceed(() => params)
  )
}
