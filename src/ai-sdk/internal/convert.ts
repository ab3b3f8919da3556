// Between the vocabularies of the AI SDK (spec v4) and of effect/ai. What the SDK has a word for and effect/ai has not
// (custom content, citations, raw finish reasons) is remembered beside the part that stands for it, so it comes out as
// it went in as long as the answer has not been written to a store.
import type {
  JSONObject,
  LanguageModelV4CallOptions,
  LanguageModelV4Content,
  LanguageModelV4FinishReason,
  LanguageModelV4GenerateResult,
  LanguageModelV4Message,
  LanguageModelV4StreamPart,
  LanguageModelV4ToolResultOutput,
  LanguageModelV4Usage,
  SharedV4FileData,
  SharedV4ProviderMetadata,
  SharedV4Warning
} from "@ai-sdk/provider"
import type * as Prompt from "effect/ai/Prompt"
import type * as Response from "effect/ai/Response"
import * as Base64 from "effect/encoding/Base64"
import type { Input, ToolDefinition } from "../../LlmRequest.ts"
import { type LlmResponse, NAMESPACE, type Part, type StreamPart, type Usage } from "../../LlmResponse.ts"

// -----------------------------------------------------------------------------
// what is asked
// -----------------------------------------------------------------------------

type Unsupported = (feature: string) => void

const options = (holder: { readonly providerOptions?: Readonly<Record<string, unknown>> | undefined }) =>
  holder.providerOptions === undefined ? undefined : { options: holder.providerOptions as Prompt.ProviderOptions }

const dataOf = (data: SharedV4FileData, unsupported: Unsupported): string | Uint8Array | URL | undefined => {
  switch (data.type) {
    case "data":
      return data.data
    case "url":
      return data.url
    case "text":
      return new TextEncoder().encode(data.text)
    case "reference":
      unsupported("files that a vendor keeps")
      return undefined
  }
}

const fileOf = (
  part: {
    readonly data: SharedV4FileData
    readonly mediaType: string
    readonly filename?: string | undefined
    readonly providerOptions?: Readonly<Record<string, unknown>> | undefined
  },
  unsupported: Unsupported
): ReadonlyArray<Prompt.FilePartEncoded> => {
  const data = dataOf(part.data, unsupported)
  return data === undefined ? [] : [{
    type: "file",
    mediaType: part.mediaType,
    ...(part.filename === undefined ? undefined : { fileName: part.filename }),
    data,
    ...options(part)
  }]
}

const resultOf = (
  output: LanguageModelV4ToolResultOutput,
  unsupported: Unsupported
): Pick<Prompt.ToolResultPartEncoded, "result" | "isFailure" | "modelOutput"> => {
  switch (output.type) {
    case "text":
    case "json":
      return { result: output.value, isFailure: false }
    case "error-text":
    case "error-json":
      return { result: output.value, isFailure: true }
    case "execution-denied":
      return { result: { type: "execution-denied", reason: output.reason ?? null }, isFailure: true }
    case "content": {
      const modelOutput = output.value.flatMap(
        (part): ReadonlyArray<Prompt.TextPartEncoded | Prompt.FilePartEncoded> => {
          if (part.type === "text") return [{ type: "text", text: part.text }]
          if (part.type === "file") return fileOf(part, unsupported)
          unsupported("custom tool results")
          return []
        }
      )
      const text = modelOutput.flatMap((part) => part.type === "text" ? [part.text] : []).join("\n")
      return { result: text, isFailure: false, modelOutput }
    }
  }
}

const messageOf = (message: LanguageModelV4Message, unsupported: Unsupported): Prompt.MessageEncoded => {
  switch (message.role) {
    case "system":
      return { role: "system", content: message.content, ...options(message) }
    case "user":
      return {
        role: "user",
        content: message.content.flatMap((part): ReadonlyArray<Prompt.UserMessagePartEncoded> =>
          part.type === "text"
            ? [{ type: "text", text: part.text, ...options(part) }]
            : fileOf(part, unsupported)
        ),
        ...options(message)
      }
    case "assistant":
      return {
        role: "assistant",
        content: message.content.flatMap((part): ReadonlyArray<Prompt.AssistantMessagePartEncoded> => {
          switch (part.type) {
            case "text":
            case "reasoning":
              return [{ type: part.type, text: part.text, ...options(part) }]
            case "file":
              return fileOf(part, unsupported)
            case "tool-call":
              return [{
                type: "tool-call",
                id: part.toolCallId,
                name: part.toolName,
                params: part.input,
                providerExecuted: part.providerExecuted ?? false,
                ...options(part)
              }]
            case "tool-result":
              return [{
                type: "tool-result",
                id: part.toolCallId,
                name: part.toolName,
                ...resultOf(part.output, unsupported),
                providerExecuted: true,
                ...options(part)
              }]
            case "custom":
            case "reasoning-file":
              unsupported(`${part.type} parts of a prompt`)
              return []
          }
        }),
        ...options(message)
      }
    case "tool":
      return {
        role: "tool",
        content: message.content.map((part): Prompt.ToolMessagePartEncoded =>
          part.type === "tool-result"
            ? {
              type: "tool-result",
              id: part.toolCallId,
              name: part.toolName,
              ...resultOf(part.output, unsupported),
              ...options(part)
            }
            : {
              type: "tool-approval-response",
              approvalId: part.approvalId,
              approved: part.approved,
              ...(part.reason === undefined ? undefined : { reason: part.reason }),
              ...options(part)
            }
        ),
        ...options(message)
      }
  }
}

const toolOf = (tool: NonNullable<LanguageModelV4CallOptions["tools"]>[number]): ToolDefinition =>
  tool.type === "provider"
    ? { name: tool.name, parameters: { type: "object" }, provider: { id: tool.id, args: tool.args } }
    : {
      name: tool.name,
      ...(tool.description === undefined ? undefined : { description: tool.description }),
      parameters: tool.inputSchema as Readonly<Record<string, unknown>>,
      ...(tool.strict === undefined ? undefined : { strict: tool.strict })
    }

const toolChoiceOf = (choice: NonNullable<LanguageModelV4CallOptions["toolChoice"]>): Input["toolChoice"] =>
  choice.type === "tool" ? { tool: choice.toolName } : choice.type

export interface Asked {
  readonly input: Input
  readonly warnings: Array<SharedV4Warning>
}

/** The SDK has one step more at the top. */
const effortOf = (reasoning: LanguageModelV4CallOptions["reasoning"]): Input["reasoningEffort"] =>
  reasoning === "provider-default" ? undefined : reasoning === "max" ? "xhigh" : reasoning

export const toInput = (call: LanguageModelV4CallOptions): Asked => {
  const features = new Set<string>()
  const unsupported: Unsupported = (feature) => features.add(feature)
  const { responseFormat, toolChoice, tools } = call
  const input: Input = {
    prompt: call.prompt.map((message) => messageOf(message, unsupported)),
    maxTokens: call.maxOutputTokens,
    temperature: call.temperature,
    topP: call.topP,
    topK: call.topK,
    presencePenalty: call.presencePenalty,
    frequencyPenalty: call.frequencyPenalty,
    reasoningEffort: effortOf(call.reasoning),
    seed: call.seed,
    stop: call.stopSequences,
    ...(tools === undefined || tools.length === 0
      ? undefined
      : { tools: tools.map(toolOf), toolChoice: toolChoice && toolChoiceOf(toolChoice) }),
    ...(responseFormat?.type === "json"
      ? {
        responseFormat: {
          type: "json",
          name: responseFormat.name,
          schema: responseFormat.schema as Readonly<Record<string, unknown>> | undefined
        }
      }
      : undefined)
  }
  // The SDK names itself in every call.
  if (Object.entries(call.headers ?? {}).some(([name, value]) => value !== undefined && name !== "user-agent")) {
    unsupported("headers")
  }
  for (const vendor of Object.keys(call.providerOptions ?? {})) {
    if (vendor !== NAMESPACE) unsupported(`providerOptions.${vendor}`)
  }
  return { input, warnings: [...features].map((feature) => ({ type: "unsupported", feature })) }
}

// -----------------------------------------------------------------------------
// what came back
// -----------------------------------------------------------------------------

const metadataOf = (
  part: { readonly metadata?: Response.ProviderMetadata | undefined }
): { readonly providerMetadata: SharedV4ProviderMetadata } | undefined =>
  part.metadata === undefined || Object.keys(part.metadata).length === 0
    ? undefined
    : { providerMetadata: part.metadata as SharedV4ProviderMetadata }

const marked = (
  part: { readonly providerMetadata?: SharedV4ProviderMetadata | undefined }
): { readonly metadata: Response.ProviderMetadata } | undefined =>
  part.providerMetadata === undefined ? undefined : { metadata: part.providerMetadata as Response.ProviderMetadata }

export const usageOf = ({ inputTokens, outputTokens }: Usage): LanguageModelV4Usage => ({
  inputTokens: {
    total: inputTokens.total,
    noCache: inputTokens.uncached,
    cacheRead: inputTokens.cacheRead,
    cacheWrite: inputTokens.cacheWrite
  },
  outputTokens: { total: outputTokens.total, text: outputTokens.text, reasoning: outputTokens.reasoning }
})

export const finishOf = (reason: Response.FinishReason): LanguageModelV4FinishReason => ({
  unified: reason === "pause" || reason === "unknown" ? "other" : reason,
  raw: undefined
})

const inputText = (params: unknown): string => typeof params === "string" ? params : JSON.stringify(params ?? {})

const callOf = (part: Response.ToolCallPartEncoded) => ({
  type: "tool-call" as const,
  toolCallId: part.id,
  toolName: part.name,
  input: inputText(part.params),
  ...(part.providerExecuted === true ? { providerExecuted: true } : undefined),
  ...metadataOf(part)
})

/** Parts that both vocabularies have, in whole answers and in streams alike. */
const sharedOf = (part: Part | StreamPart): Extract<LanguageModelV4Content, LanguageModelV4StreamPart> | undefined => {
  switch (part.type) {
    case "tool-call":
      return callOf(part)
    case "tool-result":
      return {
        type: "tool-result",
        toolCallId: part.id,
        toolName: part.name,
        result: (part.result ?? {}) as NonNullable<JSONObject>,
        ...(part.isFailure ? { isError: true } : undefined),
        ...(part.preliminary === true ? { preliminary: true } : undefined),
        ...metadataOf(part)
      }
    case "file":
      return {
        type: "file",
        mediaType: part.mediaType,
        data: { type: "data", data: part.data },
        ...metadataOf(part)
      }
    case "source":
      return part.sourceType === "url"
        ? { type: "source", sourceType: "url", id: part.id, url: part.url, title: part.title, ...metadataOf(part) }
        : {
          type: "source",
          sourceType: "document",
          id: part.id,
          mediaType: part.mediaType,
          title: part.title,
          ...(part.fileName === undefined ? undefined : { filename: part.fileName }),
          ...metadataOf(part)
        }
    default:
      return undefined
  }
}

const contentOf = (part: Part): ReadonlyArray<LanguageModelV4Content> => {
  const original = contents.get(part)
  if (original !== undefined) return original
  if (part.type === "text" || part.type === "reasoning") {
    return [{ type: part.type, text: part.text, ...metadataOf(part) }]
  }
  const shared = sharedOf(part)
  return shared === undefined ? [] : [shared]
}

/** How an answer came about, for its `providerMetadata`. */
export const factsOf = ({ age, ledger, provider, source, target }: LlmResponse): SharedV4ProviderMetadata => ({
  [NAMESPACE]: {
    source,
    target,
    provider,
    attempts: ledger.filter((event) => event._tag === "AttemptStarted").length,
    age
  }
})

export const toResult = (response: LlmResponse, warnings: Array<SharedV4Warning>): LanguageModelV4GenerateResult => {
  const { content, finish, id, model, timestamp, usage } = response
  const original = finish && results.get(finish)
  return {
    content: content.flatMap(contentOf),
    finishReason: original?.finishReason ?? finishOf(response.finishReason),
    usage: original?.usage ?? usageOf(usage),
    providerMetadata: { ...(finish && metadataOf(finish)?.providerMetadata), ...factsOf(response) },
    ...(original?.request === undefined ? undefined : { request: original.request }),
    response: {
      ...original?.response,
      ...(id === undefined ? undefined : { id }),
      ...(model === undefined ? undefined : { modelId: model }),
      ...(timestamp === undefined ? undefined : { timestamp: new Date(timestamp) })
    },
    warnings: [...warnings, ...original?.warnings ?? []]
  }
}

/** A part of a stream; the finish part is made from the whole response. */
export const toStreamPart = (part: StreamPart): ReadonlyArray<LanguageModelV4StreamPart> => {
  const original = streamed.get(part)
  if (original !== undefined) return original
  switch (part.type) {
    case "text-start":
    case "text-end":
    case "reasoning-start":
    case "reasoning-end":
      return [{ type: part.type, id: part.id, ...metadataOf(part) }]
    case "text-delta":
    case "reasoning-delta":
      return [{ type: part.type, id: part.id, delta: part.delta, ...metadataOf(part) }]
    case "tool-params-start":
      return [{ type: "tool-input-start", id: part.id, toolName: part.name, ...metadataOf(part) }]
    case "tool-params-delta":
      return [{ type: "tool-input-delta", id: part.id, delta: part.delta, ...metadataOf(part) }]
    case "tool-params-end":
      return [{ type: "tool-input-end", id: part.id, ...metadataOf(part) }]
    case "response-metadata":
      return [{
        type: "response-metadata",
        ...(part.id === undefined ? undefined : { id: part.id }),
        ...(part.modelId === undefined ? undefined : { modelId: part.modelId }),
        ...(part.timestamp === undefined ? undefined : { timestamp: new Date(part.timestamp) })
      }]
    default: {
      const shared = sharedOf(part)
      return shared === undefined ? [] : [shared]
    }
  }
}

export const toFinish = (response: LlmResponse): LanguageModelV4StreamPart => {
  const { finish, finishReason, usage } = response
  const original = finish && results.get(finish)
  return {
    type: "finish",
    finishReason: original?.finishReason ?? finishOf(finishReason),
    usage: original?.usage ?? usageOf(usage),
    providerMetadata: { ...(finish && metadataOf(finish)?.providerMetadata), ...factsOf(response) }
  }
}

// -----------------------------------------------------------------------------
// from models of the SDK
// -----------------------------------------------------------------------------

/**
 * What stands behind a part that we made, on the part itself, so that copies of it have it too; JSON does not. Bodies of
 * requests and responses are left out, for they can be large.
 */
class Behind<A> {
  private readonly key = Symbol("effect-resilient-llm/ai-sdk")
  set(part: Part | StreamPart, original: A): void {
    Object.assign(part, { [this.key]: original })
  }
  get(part: Part | StreamPart): A | undefined {
    return Reflect.get(part, this.key) as A | undefined
  }
}

const contents = new Behind<ReadonlyArray<LanguageModelV4Content>>()
const streamed = new Behind<ReadonlyArray<LanguageModelV4StreamPart>>()
const results = new Behind<
  Pick<LanguageModelV4GenerateResult, "finishReason" | "usage"> & Partial<LanguageModelV4GenerateResult>
>()

const fromUsage = ({ inputTokens, outputTokens }: LanguageModelV4Usage): Usage => {
  const known = <O extends Readonly<Record<string, number | undefined>>>(counts: O) =>
    Object.fromEntries(Object.entries(counts).filter(([, count]) => count !== undefined)) as {
      readonly [K in keyof O]?: number
    }
  return {
    inputTokens: known({
      uncached: inputTokens.noCache,
      total: inputTokens.total,
      cacheRead: inputTokens.cacheRead,
      cacheWrite: inputTokens.cacheWrite
    }),
    outputTokens: known({
      total: outputTokens.total,
      text: outputTokens.text,
      reasoning: outputTokens.reasoning
    })
  }
}

const fromFinish = (
  { unified }: LanguageModelV4FinishReason
): Response.FinishReason => unified === "interrupted" ? "error" : unified

/** `interrupted` says so; older packages only have no reason to tell. */
const isInterrupted = ({ raw, unified }: LanguageModelV4FinishReason): boolean =>
  unified === "interrupted" || unified === "other" && raw === undefined

const paramsOf = (input: string): unknown => {
  try {
    return input.trim() === "" ? {} : JSON.parse(input)
  } catch {
    return input // what is not JSON stays as it came
  }
}

const base64Of = (data: { readonly type: "data"; readonly data: string | Uint8Array }): string =>
  typeof data.data === "string" ? data.data : Base64.encode(data.data)

const fromShared = (part: LanguageModelV4Content | LanguageModelV4StreamPart): (Part & StreamPart) | undefined => {
  switch (part.type) {
    case "tool-call":
      return {
        type: "tool-call",
        id: part.toolCallId,
        name: part.toolName,
        params: paramsOf(part.input),
        ...(part.providerExecuted === true ? { providerExecuted: true } : undefined),
        ...marked(part)
      }
    case "tool-result":
      return {
        type: "tool-result",
        id: part.toolCallId,
        name: part.toolName,
        result: part.result,
        isFailure: part.isError ?? false,
        providerExecuted: true,
        ...marked(part)
      }
    case "file":
      return part.data.type === "url"
        ? undefined
        : { type: "file", mediaType: part.mediaType, data: base64Of(part.data), ...marked(part) }
    case "source":
      return part.sourceType === "url"
        ? { type: "source", sourceType: "url", id: part.id, url: part.url, title: part.title ?? "", ...marked(part) }
        : {
          type: "source",
          sourceType: "document",
          id: part.id,
          mediaType: part.mediaType,
          title: part.title,
          ...(part.filename === undefined ? undefined : { fileName: part.filename }),
          ...marked(part)
        }
    default:
      return undefined
  }
}

/** The parts of a whole answer. What effect/ai has no word for goes along with the part before it. */
export const fromResult = (result: LanguageModelV4GenerateResult): ReadonlyArray<Part> => {
  const { finishReason, response, usage, warnings } = result
  const parts: Array<Part> = []
  const behind: Array<Array<LanguageModelV4Content>> = []
  for (const content of result.content) {
    const part: Part | undefined = content.type === "text" || content.type === "reasoning"
      ? { type: content.type, text: content.text, ...marked(content) }
      : fromShared(content)
    if (part === undefined && behind.length > 0) behind.at(-1)!.push(content)
    else {
      parts.push(part ?? { type: "text", text: "" })
      behind.push([content])
    }
  }
  for (const [i, part] of parts.entries()) contents.set(part, behind[i]!)
  const finish: Response.FinishPartEncoded = {
    type: "finish",
    reason: fromFinish(finishReason),
    usage: fromUsage(usage),
    ...marked(result)
  }
  const { body: _, ...facts } = response ?? {}
  results.set(finish, {
    finishReason,
    usage,
    warnings,
    response: facts,
    ...(result.request?.url === undefined ? undefined : { request: { url: result.request.url } })
  })
  return [metadataPart(response ?? {}), ...parts, finish]
}

const metadataPart = (
  facts: { readonly id?: string; readonly modelId?: string; readonly timestamp?: Date }
): Response.ResponseMetadataPartEncoded => ({
  type: "response-metadata",
  id: facts.id,
  modelId: facts.modelId,
  timestamp: facts.timestamp?.toISOString()
})

/** A part of a stream. What effect/ai has no word for travels as metadata, which says nothing to anybody else. */
export const fromStreamPart = (part: LanguageModelV4StreamPart): StreamPart | undefined => {
  const made = madeOf(part)
  if (made === undefined) return undefined
  if (made.type !== "finish") streamed.set(made, [part])
  return made
}

const madeOf = (part: LanguageModelV4StreamPart): StreamPart | undefined => {
  switch (part.type) {
    case "text-start":
    case "text-end":
    case "reasoning-start":
    case "reasoning-end":
      return { type: part.type, id: part.id, ...marked(part) }
    case "text-delta":
    case "reasoning-delta":
      return { type: part.type, id: part.id, delta: part.delta, ...marked(part) }
    case "tool-input-start":
      return { type: "tool-params-start", id: part.id, name: part.toolName, ...marked(part) }
    case "tool-input-delta":
      return { type: "tool-params-delta", id: part.id, delta: part.delta, ...marked(part) }
    case "tool-input-end":
      return { type: "tool-params-end", id: part.id, ...marked(part) }
    case "response-metadata":
      return metadataPart(part)
    case "finish": {
      // The SDK's packages finish every stream, also one whose end never came. Without a finish part it counts as what
      // it is, truncated.
      if (isInterrupted(part.finishReason)) return undefined
      const finish: Response.FinishPartEncoded = {
        type: "finish",
        reason: fromFinish(part.finishReason),
        usage: fromUsage(part.usage),
        ...marked(part)
      }
      results.set(finish, { finishReason: part.finishReason, usage: part.usage })
      return finish
    }
    case "error":
    case "ping":
      return undefined
    default:
      return fromShared(part) ?? { type: "response-metadata" }
  }
}
