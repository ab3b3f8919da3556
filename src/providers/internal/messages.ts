// Anthropic's messages protocol.
import type * as Prompt from "effect/ai/Prompt"
import type * as Response from "effect/ai/Response"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import type { Change } from "../../LlmProvider.ts"
import type { LlmRequest } from "../../LlmRequest.ts"
import { type Exchange, malformed, unsupported, WRONG_SHAPE } from "./errors.ts"
import { finishReason, laterReason } from "./finish.ts"
import type { Protocol, StreamDecoder } from "./http.ts"
import { anthropicIds, withIds } from "./ids.ts"
import { compact, countOf, type Fields, fieldsOf, isFields, listOf, placeOf, textOf } from "./json.ts"
import {
  asMetadata,
  type Assembler,
  CallIds,
  callParts,
  type Cited,
  finishPart,
  grown,
  hasContent,
  metadataPart,
  Sources,
  type Tokens
} from "./parts.ts"
import { argumentsObject, fileOf, isOurs, partsOf, resultText, vendorOptions } from "./prompt.ts"
import {
  changesOf,
  jsonInstruction,
  optionsFor,
  parametersOf,
  type Support,
  thinkingBudget,
  threeSteps,
  withOptions
} from "./support.ts"
import * as Turns from "./turns.ts"
import { isBlank, type Turn } from "./turns.ts"

const vendor = "anthropic"

// -----------------------------------------------------------------------------
// request
// -----------------------------------------------------------------------------

type Options = { readonly options?: Prompt.ProviderOptions | undefined }

/** Adds `cache_control` where the caller marked the end of a cached prefix. Thinking takes no mark. */
const cached = (block: Fields, from: Options): Fields => {
  const control = vendorOptions(from, vendor)["cacheControl"]
  return isFields(control) && !String(block["type"]).endsWith("thinking") ? { ...block, cache_control: control } : block
}

const fileBlock = (provider: string, part: Prompt.FilePartEncoded): Fields => {
  const { data, mediaType, name } = fileOf(part)
  const image = mediaType.startsWith("image/")
  if (!image && mediaType !== "application/pdf") throw unsupported(provider, "unsupported_media_type")
  return compact({
    type: image ? "image" : "document",
    source: data.url === undefined
      ? { type: "base64", media_type: mediaType, data: data.base64 }
      : { type: "url", url: data.url },
    title: image ? undefined : name
  })
}

const resultBlock = (provider: string, part: Prompt.ToolResultPartEncoded): Fields => ({
  type: "tool_result",
  tool_use_id: part.id,
  content: part.modelOutput?.some((output) => output.type === "file") === true
    ? part.modelOutput.flatMap((output) =>
      output.type === "file"
        ? [fileBlock(provider, output)]
        : isBlank(output.text)
        ? []
        : [{ type: "text", text: output.text }]
    )
    : resultText(part),
  ...(part.isFailure ? { is_error: true } : undefined)
})

const blockOf = (
  provider: string,
  part: Prompt.UserMessagePartEncoded | Prompt.AssistantMessagePartEncoded | Prompt.ToolMessagePartEncoded
): Fields | undefined => {
  switch (part.type) {
    case "text":
      return isBlank(part.text) ? undefined : { type: "text", text: part.text }
    case "file":
      return fileBlock(provider, part)
    case "reasoning": {
      // Only what this vendor signed may be sent back; reasoning of others is left out.
      const { redactedData, signature } = vendorOptions(part, vendor)
      if (typeof redactedData === "string") return { type: "redacted_thinking", data: redactedData }
      return typeof signature === "string" ? { type: "thinking", thinking: part.text, signature } : undefined
    }
    case "tool-call":
      return isOurs(part)
        ? { type: "tool_use", id: part.id, name: part.name, input: argumentsObject(part.params) }
        : undefined
    case "tool-result":
      return isOurs(part) ? resultBlock(provider, part) : undefined
    default:
      return undefined
  }
}

const blocksOf = (provider: string, message: Prompt.MessageEncoded): ReadonlyArray<Fields> => {
  if (message.role === "system") return []
  const blocks: Array<Fields> = []
  for (const part of partsOf<Parameters<typeof blockOf>[1]>(message.content)) {
    if (part.type === "file" && message.role === "assistant") continue
    const block = blockOf(provider, part)
    if (block !== undefined) blocks.push(cached(block, part))
  }
  const last = blocks.pop()
  return last === undefined ? [] : [...blocks, cached(last, message)]
}

const isResult = (block: Fields): boolean => block["type"] === "tool_result"

const turnsOf = (provider: string, prompt: LlmRequest["prompt"]): ReadonlyArray<Turn> =>
  Turns.turnsOf(prompt, (message) => blocksOf(provider, message), isResult)

const systemOf = (request: LlmRequest): ReadonlyArray<Fields> | undefined => {
  const blocks = request.prompt.flatMap((message) =>
    message.role === "system" && !isBlank(message.content)
      ? [cached({ type: "text", text: message.content }, message)]
      : []
  )
  const all = wantsInstruction(request) ? [...blocks, { type: "text", text: jsonInstruction }] : blocks
  return all.length === 0 ? undefined : all
}

/** JSON without a schema has no field. */
const wantsInstruction = ({ responseFormat: format }: LlmRequest): boolean =>
  format?.type === "json" && format.schema === undefined

const toolChoice = (choice: LlmRequest["toolChoice"]): Fields | undefined => {
  if (choice === undefined) return undefined
  if (typeof choice !== "string") return { type: "tool", name: choice.tool }
  return { type: choice === "required" ? "any" : choice }
}

/** Where addresses differ. */
export interface Dialect {
  readonly provider: string
  /** Asked for when a request has no limit. */
  readonly maxTokens: number
  /** At Vertex AI the version is in the body, and the model in the address alone. */
  readonly bodyVersion?: string | undefined
}

// -----------------------------------------------------------------------------
// thinking
// -----------------------------------------------------------------------------

const decidesItself = /claude-[a-z]+-(?:4-[6-9]|[5-9]|\d\d)(?!\d)/

/** How thinking is asked for: by the vendor's own field, or by the effort; `undefined` where there is no room for it. */
const askedThinking = (request: LlmRequest, maxTokens: number, model: string): Fields | undefined => {
  const own = optionsFor(request, vendor)?.["thinking"]
  if (isFields(own)) return own
  const effort = request.reasoningEffort
  if (effort === undefined) return undefined
  if (effort === "none") return { type: "disabled" }
  if (decidesItself.test(model)) return { type: "adaptive" }
  // The budget is a part of all tokens, and the answer wants some too.
  const budget = Math.min(thinkingBudget[effort], Math.floor((request.maxTokens ?? maxTokens) * 3 / 4))
  return budget < 1024 ? undefined : { type: "enabled", budget_tokens: budget }
}

/** Does the assistant's turn that the model goes on with, if it does, begin with thinking of its own? */
const goesOnThinking = (turns: ReadonlyArray<Turn>): boolean => {
  const last = turns[turns.length - 1]
  const goesOn = last?.role === "assistant" || last?.content.some(({ type }) => type === "tool_result") === true
  const first = turns.findLast(({ role }) => role === "assistant")?.content[0]
  return !goesOn || first === undefined || String(first["type"]).endsWith("thinking")
}

interface Thinking {
  readonly thinking: Fields | undefined
  /** Is it left out, because the turn under way was begun without? */
  readonly isLeftOut: boolean
  /** What the API refuses beside it. */
  readonly thinks: boolean
}

const thinkingOf = (
  maxTokens: number,
  request: LlmRequest,
  model: string,
  turns: () => ReadonlyArray<Turn>
): Thinking => {
  const thinking = askedThinking(request, maxTokens, model)
  const thinks = thinking?.["type"] === "enabled" || thinking?.["type"] === "adaptive"
  const isLeftOut = thinking?.["type"] === "enabled" && !goesOnThinking(turns())
  return { thinking: isLeftOut ? undefined : thinking, isLeftOut, thinks: thinks && !isLeftOut }
}

const isForced = (choice: LlmRequest["toolChoice"]): boolean => choice === "required" || typeof choice === "object"

const changes = (
  { maxTokens, provider }: Dialect,
  request: LlmRequest,
  model: string
): ReadonlyArray<Change> => {
  const turns = (): ReadonlyArray<Turn> => {
    try {
      return turnsOf(provider, withIds(request.prompt, anthropicIds))
    } catch {
      return [] // a file that cannot be sent, which is told below
    }
  }
  const { isLeftOut, thinking, thinks } = thinkingOf(maxTokens, request, model, turns)
  const effort = request.reasoningEffort
  const besideThinking = thinks ? "dropped" : undefined
  const support: Support = {
    fields: {
      seed: "dropped",
      presencePenalty: "dropped",
      frequencyPenalty: "dropped",
      topK: () => besideThinking,
      topP: () => besideThinking,
      temperature: ({ temperature }) => besideThinking ?? ((temperature ?? 0) > 1 ? "as 1" : undefined),
      toolChoice: ({ toolChoice }) => thinks && isForced(toolChoice) ? "as auto" : undefined,
      responseFormat: (asked) => wantsInstruction(asked) ? "as an instruction" : undefined,
      reasoningEffort: () => {
        if (thinking === undefined) return "dropped"
        return thinking["type"] === "adaptive" && effort !== undefined && effort !== "none" &&
            threeSteps[effort] !== effort
          ? `as ${threeSteps[effort]}`
          : undefined
      }
    },
    file: ({ mediaType }) => mediaType.startsWith("image/") || mediaType === "application/pdf",
    resultFiles: true,
    ownFiles: false,
    systemFirst: true,
    vendorTools
  }
  const all = changesOf(support, request, model)
  return isLeftOut && effort === undefined
    ? [...all, { field: `providerOptions.${vendor}.thinking`, action: "dropped" }]
    : all
}

const vendorTools = "anthropic."

const encode = (dialect: Dialect, request: LlmRequest, model: string, stream: boolean): Fields => {
  const { bodyVersion, maxTokens, provider } = dialect
  const format = request.responseFormat
  const tools = request.tools === undefined || request.tools.length === 0 ? undefined : request.tools
  const messages = turnsOf(provider, withIds(request.prompt, anthropicIds))
  const { isLeftOut, thinking, thinks } = thinkingOf(maxTokens, request, model, () => messages)
  const effort = request.reasoningEffort
  const config = compact({
    format: format?.type === "json" && format.schema !== undefined
      ? { type: "json_schema", schema: format.schema }
      : undefined,
    effort: thinking?.["type"] === "adaptive" && effort !== undefined && effort !== "none"
      ? threeSteps[effort]
      : undefined
  })
  const choice = thinks && isForced(request.toolChoice) ? "auto" : request.toolChoice
  const body = compact({
    model: bodyVersion === undefined ? model : undefined,
    anthropic_version: bodyVersion,
    max_tokens: request.maxTokens ?? maxTokens,
    system: systemOf(request),
    messages,
    thinking,
    temperature: request.temperature === undefined || thinks ? undefined : Math.min(1, request.temperature),
    top_p: thinks ? undefined : request.topP,
    top_k: thinks ? undefined : request.topK,
    stop_sequences: request.stop === undefined || request.stop.length === 0 ? undefined : request.stop,
    tools: tools?.map(({ description, name, parameters, provider, strict }) =>
      provider === undefined
        ? compact({ name, description, input_schema: parametersOf(parameters), strict })
        : toolOfVendor(provider)
    ),
    tool_choice: tools === undefined ? undefined : toolChoice(choice),
    output_config: Object.keys(config).length === 0 ? undefined : config,
    stream: stream ? true : undefined
  })
  const { thinking: _, ...options } = optionsFor(request, vendor) ?? {}
  return isLeftOut ? withOptions(body, options) : withOptions(body, optionsFor(request, vendor))
}

/** Types of the vendor's tools end with a date, which their names do not. */
const toolOfVendor = ({ args, id }: { readonly id: string; readonly args?: Fields | undefined }): Fields => {
  const type = id.slice(vendorTools.length)
  return { name: type.replace(/_\d{8}$/, ""), ...args, type }
}

// -----------------------------------------------------------------------------
// shared by both kinds of answer
// -----------------------------------------------------------------------------

const finishMetadata = (stopReason: unknown, details: unknown): Response.ProviderMetadata | undefined =>
  stopReason === "refusal" ? { refusal: asMetadata(details) ?? {} } : undefined

/** `input_tokens` leaves the cached ones out; a total needs it and takes an untold cache as none. */
const tokensOf = (input: unknown): Tokens => {
  const usage = fieldsOf(input)
  const uncached = countOf(usage["input_tokens"])
  const cacheRead = countOf(usage["cache_read_input_tokens"])
  const cacheWrite = countOf(usage["cache_creation_input_tokens"])
  return {
    input: uncached === undefined ? undefined : uncached + (cacheRead ?? 0) + (cacheWrite ?? 0),
    uncached,
    cacheRead,
    cacheWrite,
    output: countOf(usage["output_tokens"]),
    reasoning: countOf(fieldsOf(usage["output_tokens_details"])["thinking_tokens"])
  }
}

const signed = (signature: unknown): Response.ProviderMetadata | undefined =>
  typeof signature === "string" && signature !== "" ? { [vendor]: { signature } } : undefined

const redacted = (data: unknown): Response.ProviderMetadata => ({ [vendor]: { redactedData: textOf(data) ?? "" } })

const citedBy = (citation: unknown): Cited => {
  const { document_index, document_title, file_id, source, title, type, url } = fieldsOf(citation)
  switch (type) {
    case "web_search_result_location":
      return { url, title }
    // A result of the caller's own search, whose source is an address or any name.
    case "search_result_location":
      return { url: url ?? source, id: textOf(source), title }
    case "char_location":
    case "content_block_location":
    case "page_location": {
      const index = countOf(document_index)
      return {
        id: textOf(file_id) ?? (index === undefined ? undefined : `document_${index}`),
        title: document_title,
        mediaType: type === "page_location" ? "application/pdf" : "text/plain"
      }
    }
    default:
      return {}
  }
}

// -----------------------------------------------------------------------------
// whole answer
// -----------------------------------------------------------------------------

const loose = Schema.optionalKey(Schema.Unknown)

const Message = Schema.Struct({
  id: loose,
  model: loose,
  content: Schema.Array(Schema.Struct({
    type: Schema.String,
    id: loose,
    name: loose,
    text: loose,
    citations: loose,
    thinking: loose,
    signature: loose,
    data: loose,
    input: loose
  })),
  stop_reason: loose,
  stop_details: loose,
  usage: loose
})
const decodeMessage = Schema.decodeUnknownResult(Message)

const decode = (body: unknown, exchange: Exchange): ReadonlyArray<Response.PartEncoded> => {
  const decoded = decodeMessage(body)
  if (Result.isFailure(decoded)) throw malformed(exchange, WRONG_SHAPE)
  const message = decoded.success
  const uses = message.content.filter(({ name, type }) => type === "tool_use" && textOf(name) !== undefined)
  const reason = finishReason(exchange, message.stop_reason, uses.length > 0)
  const ids = new CallIds(exchange)
  const parts: Array<Response.PartEncoded> = [metadataPart(exchange, message.id, message.model)]
  const sources = new Sources()
  for (const block of message.content) {
    switch (block.type) {
      case "text": {
        const text = textOf(block.text)
        if (text !== undefined) parts.push({ type: "text", text })
        for (const citation of listOf(block.citations)) sources.add(citedBy(citation))
        break
      }
      case "thinking": {
        const metadata = signed(block.signature)
        parts.push({
          type: "reasoning",
          text: textOf(block.thinking) ?? "",
          ...(metadata === undefined ? undefined : { metadata })
        })
        break
      }
      case "redacted_thinking":
        parts.push({ type: "reasoning", text: "", metadata: redacted(block.data) })
        break
      case "tool_use": {
        const { id, input: args, name } = block
        parts.push(...callParts(exchange, [{ id, name, args }], reason, ids))
      }
    }
  }
  parts.push(
    ...sources.parts(hasContent(parts)),
    finishPart(reason, tokensOf(message.usage), finishMetadata(message.stop_reason, message.stop_details))
  )
  return parts
}

// -----------------------------------------------------------------------------
// stream
// -----------------------------------------------------------------------------

const decodeStream = (parts: Assembler, exchange: Exchange): StreamDecoder => {
  let usage: Fields = {}
  /** Where blocks are that are not ours to read, such as calls of tools that run at the provider. */
  const others = new Set<unknown>()
  let stopReason: unknown
  let stopDetails: unknown
  let signature = ""
  let textBlock: unknown // index of the open block of text or reasoning

  const start = (index: unknown, block: Fields): void => {
    switch (block["type"]) {
      case "text":
        textBlock = index
        parts.delta("text", textOf(block["text"]) ?? "")
        for (const citation of listOf(block["citations"])) parts.cite(citedBy(citation))
        break
      case "thinking":
        textBlock = index
        signature = textOf(block["signature"]) ?? ""
        parts.open("reasoning")
        parts.delta("reasoning", textOf(block["thinking"]) ?? "")
        break
      case "redacted_thinking":
        parts.open("reasoning", redacted(block["data"]))
        parts.close()
        break
      case "tool_use": {
        const { id, input, name } = block
        parts.call({ key: index, id, name, start: input, apart: true })
        break
      }
      default:
        parts.spend(16)
        others.add(index)
    }
  }

  const delta = (index: unknown, change: Fields): void => {
    switch (change["type"]) {
      case "text_delta":
        parts.delta("text", textOf(change["text"]) ?? "")
        break
      case "citations_delta":
        parts.cite(citedBy(change["citation"]))
        break
      case "thinking_delta":
        parts.delta("reasoning", textOf(change["thinking"]) ?? "")
        break
      case "signature_delta": {
        const more = textOf(change["signature"]) ?? ""
        parts.spend(more.length)
        signature += more
        break
      }
      case "input_json_delta":
        if (!others.has(index)) parts.call({ key: index, args: change["partial_json"] })
    }
  }

  return {
    event: (name, data) => {
      if (!isFields(data)) throw malformed(exchange, WRONG_SHAPE)
      const index = placeOf(data["index"])
      switch (data["type"] ?? name) {
        case "message_start": {
          const message = fieldsOf(data["message"])
          usage = grown(usage, message["usage"])
          parts.describe(message["id"], message["model"], tokensOf(usage))
          break
        }
        case "content_block_start":
          start(index, fieldsOf(data["content_block"]))
          break
        case "content_block_delta":
          delta(index, fieldsOf(data["delta"]))
          break
        case "content_block_stop":
          if (parts.hasTool(index)) parts.endTool(index)
          else if (index === textBlock) {
            parts.close(signed(signature))
            signature = ""
          }
          break
        case "message_delta": {
          const change = fieldsOf(data["delta"])
          stopReason = laterReason(stopReason, change["stop_reason"])
          stopDetails = change["stop_details"] ?? stopDetails
          usage = grown(usage, data["usage"])
          break
        }
        case "message_stop":
          parts.finish(
            finishReason(exchange, stopReason, parts.hasTools),
            tokensOf(usage),
            finishMetadata(stopReason, stopDetails)
          )
          break
      }
    }
  }
}

export const protocol = (dialect: Dialect): Protocol => ({
  vendor,
  changes: (request, model) => changes(dialect, request, model),
  encode: (request, model, stream) => encode(dialect, request, model, stream),
  decode,
  stream: decodeStream
})
