// Cohere's chat protocol, version 2.
import type * as Prompt from "effect/ai/Prompt"
import type * as Response from "effect/ai/Response"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import type { LlmRequest } from "../../LlmRequest.ts"
import { functionTools, messagesOf } from "./chat.ts"
import { type Exchange, malformed, ofEvent, unsupported, WRONG_SHAPE } from "./errors.ts"
import { finishReason } from "./finish.ts"
import type { Protocol, StreamDecoder } from "./http.ts"
import { anyIds, withIds } from "./ids.ts"
import {
  compact,
  countOf,
  type Fields,
  fieldsOf,
  isContent,
  isFields,
  listed,
  listOf,
  placeOf,
  textOf,
  textOfPiece
} from "./json.ts"
import {
  type Assembler,
  callParts,
  type Cited,
  finishPart,
  hasContent,
  metadataPart,
  Sources,
  type Tokens,
  type WholeCall
} from "./parts.ts"
import { fileOf, partsOf, urlOf, vendorOptions } from "./prompt.ts"
import { changesOf, optionsFor, type Support, thinkingBudget, withOptions } from "./support.ts"

const vendor = "cohere"

// The plan before tool calls is reasoning; marked, because only a plan is sent back.
const plan: Response.ProviderMetadata = { [vendor]: { toolPlan: true } }

// -----------------------------------------------------------------------------
// request
// -----------------------------------------------------------------------------

const userPart = (provider: string, part: Prompt.UserMessagePartEncoded): Fields => {
  if (part.type === "text") return { type: "text", text: part.text }
  const file = fileOf(part)
  if (!file.mediaType.startsWith("image/")) throw unsupported(provider, "unsupported_media_type")
  return { type: "image_url", image_url: { url: urlOf(file) } }
}

const assistantMessage = (
  text: string,
  calls: ReadonlyArray<Fields>,
  message: Prompt.AssistantMessageEncoded
): Fields => {
  let toolPlan = ""
  for (const part of partsOf(message.content)) {
    if (part.type === "reasoning" && vendorOptions(part, vendor)["toolPlan"] === true) toolPlan += part.text
  }
  return compact({
    role: "assistant",
    content: text === "" && calls.length > 0 ? undefined : text,
    tool_plan: calls.length === 0 || toolPlan === "" ? undefined : toolPlan,
    tool_calls: calls.length === 0 ? undefined : calls
  })
}

const encode = (provider: string, request: LlmRequest, model: string, stream: boolean): Fields => {
  const choice = request.toolChoice
  // One tool cannot be named: it is the only one offered instead.
  const named = typeof choice === "object" ? choice.tool : undefined
  const offered = named === undefined ? request.tools : request.tools?.filter((tool) => tool.name === named)
  const tools = functionTools(offered, false)
  const format = request.responseFormat
  const body = compact({
    model,
    messages: messagesOf(withIds(request.prompt, anyIds), (part) => userPart(provider, part), assistantMessage),
    max_tokens: request.maxTokens,
    temperature: request.temperature,
    p: request.topP === undefined ? undefined : clamped(request.topP, range.topP),
    k: request.topK,
    presence_penalty: request.presencePenalty === undefined
      ? undefined
      : clamped(request.presencePenalty, range.penalty),
    frequency_penalty: request.frequencyPenalty === undefined
      ? undefined
      : clamped(request.frequencyPenalty, range.penalty),
    thinking: thinkingOf(request.reasoningEffort),
    stop_sequences: request.stop === undefined || request.stop.length === 0 ? undefined : request.stop,
    seed: request.seed,
    tools,
    tool_choice: tools === undefined || choice === undefined || choice === "auto"
      ? undefined
      : choice === "none"
      ? "NONE"
      : "REQUIRED",
    strict_tools: tools !== undefined && offered?.every((tool) => tool.strict === true) === true ? true : undefined,
    response_format: format?.type === "json" ? compact({ type: "json_object", json_schema: format.schema }) : undefined,
    stream
  })
  return withOptions(body, optionsFor(request, vendor))
}

type Range = readonly [least: number, most: number]

/** What Cohere takes, where that is less than a request can say. */
const range: { readonly topP: Range; readonly penalty: Range } = { topP: [0.01, 0.99], penalty: [0, 1] }

const clamped = (value: number, [least, most]: Range): number => Math.min(most, Math.max(least, value))

const outside = (value: number | undefined, range: Range): string | undefined =>
  value === undefined || value === clamped(value, range) ? undefined : `as ${clamped(value, range)}`

const thinkingOf = (effort: LlmRequest["reasoningEffort"]): Fields | undefined => {
  if (effort === undefined) return undefined
  return effort === "none" ? { type: "disabled" } : { type: "enabled", token_budget: thinkingBudget[effort] }
}

const support: Support = {
  fields: {
    topP: ({ topP }) => outside(topP, range.topP),
    presencePenalty: ({ presencePenalty }) => outside(presencePenalty, range.penalty),
    frequencyPenalty: ({ frequencyPenalty }) => outside(frequencyPenalty, range.penalty)
  },
  file: ({ mediaType }) => mediaType.startsWith("image/"),
  resultFiles: false,
  ownFiles: false
}

// -----------------------------------------------------------------------------
// shared by both kinds of answer
// -----------------------------------------------------------------------------

/** The reason to finish, unless it is a failure. */
const reasonOf = (exchange: Exchange, end: Fields, calls: boolean): Response.FinishReason => {
  if (textOf(end["error"]) !== undefined) throw ofEvent(exchange, end)
  return finishReason(exchange, end["finish_reason"], calls)
}

/** `tokens` counts all that went through the model, `billed_units` what is paid for. */
const tokensOf = (input: unknown): Tokens => {
  const usage = fieldsOf(input)
  const tokens = fieldsOf(usage["tokens"])
  return {
    input: countOf(tokens["input_tokens"]),
    cacheRead: countOf(usage["cached_tokens"]),
    output: countOf(tokens["output_tokens"]),
    reasoning: countOf(tokens["reasoning_tokens"])
  }
}

const callOf = (input: unknown): WholeCall => {
  const call = fieldsOf(input)
  const { arguments: args, name } = fieldsOf(call["function"])
  return { id: call["id"], name, args }
}

/** Documents of the request, and pages among the results of tools; other results are no sources. */
const citedBy = (citation: unknown): ReadonlyArray<Cited> =>
  listOf(fieldsOf(citation)["sources"]).map((source) => {
    const { document, id, tool_output, type } = fieldsOf(source)
    const { title, url } = fieldsOf(type === "document" ? document : tool_output)
    return { url, title, id: type === "document" ? textOf(id) : undefined }
  })

// -----------------------------------------------------------------------------
// whole answer
// -----------------------------------------------------------------------------

const loose = Schema.optionalKey(Schema.Unknown)

const Chat = Schema.Struct({
  id: loose,
  finish_reason: loose,
  message: Schema.Struct({
    content: loose,
    tool_plan: loose,
    tool_calls: loose,
    citations: loose
  }),
  usage: loose
})
const decodeChat = Schema.decodeUnknownResult(Chat)

const decode = (body: unknown, exchange: Exchange): ReadonlyArray<Response.PartEncoded> => {
  const decoded = decodeChat(body)
  if (Result.isFailure(decoded) || !isContent(decoded.success.message.content)) throw malformed(exchange, WRONG_SHAPE)
  const { id, message, usage } = decoded.success
  const calls = listed(message.tool_calls).map(callOf)
  const reason = reasonOf(exchange, fieldsOf(body), calls.some(({ name }) => textOf(name) !== undefined))
  const parts: Array<Response.PartEncoded> = [metadataPart(exchange, id, undefined)]
  const toolPlan = textOf(message.tool_plan)
  if (toolPlan !== undefined) parts.push({ type: "reasoning", text: toolPlan, metadata: plan })
  for (const item of listed(message.content)) {
    const text = textOfPiece(item)
    const thinking = textOf(fieldsOf(item)["thinking"])
    if (thinking !== undefined) parts.push({ type: "reasoning", text: thinking })
    else if (text !== undefined) parts.push({ type: "text", text })
  }
  for (const call of callParts(exchange, calls, reason)) parts.push(call)
  const sources = new Sources()
  for (const cited of listOf(message.citations).flatMap(citedBy)) sources.add(cited)
  parts.push(...sources.parts(hasContent(parts)), finishPart(reason, tokensOf(usage)))
  return parts
}

// -----------------------------------------------------------------------------
// stream
// -----------------------------------------------------------------------------

const decodeStream = (parts: Assembler, exchange: Exchange): StreamDecoder => {
  const takeContent = (content: unknown): void => {
    if (!isContent(content)) throw malformed(exchange, WRONG_SHAPE)
    for (const item of listed(content)) {
      parts.delta("reasoning", textOf(fieldsOf(item)["thinking"]) ?? "")
      parts.delta("text", textOfPiece(item) ?? "")
    }
  }

  const takeCalls = (calls: unknown, key: unknown, apart: boolean): void => {
    for (const call of listed(calls)) parts.call({ ...callOf(call), key, apart })
  }

  return {
    event: (name, data) => {
      if (!isFields(data)) throw malformed(exchange, WRONG_SHAPE)
      const index = placeOf(data["index"])
      const end = fieldsOf(data["delta"])
      const message = fieldsOf(end["message"])
      switch (data["type"] ?? name) {
        case "message-start":
          parts.describe(data["id"])
          break
        case "content-start":
          parts.close()
          takeContent(message["content"])
          break
        case "content-delta":
          takeContent(message["content"])
          break
        case "content-end":
          parts.close()
          break
        case "tool-plan-delta":
          parts.delta("reasoning", textOf(message["tool_plan"]) ?? "", plan)
          break
        case "tool-call-start":
          takeCalls(message["tool_calls"], index, true)
          break
        case "tool-call-delta":
          takeCalls(message["tool_calls"], index, false)
          break
        case "tool-call-end":
          parts.endTool(index)
          break
        case "citation-start":
          for (const cited of citedBy(message["citations"])) parts.cite(cited)
          break
        case "message-end":
          parts.finish(reasonOf(exchange, end, parts.hasTools), tokensOf(end["usage"]))
          break
      }
    }
  }
}

export const protocol = (provider: string): Protocol => ({
  vendor,
  changes: (request, model) => changesOf(support, request, model),
  encode: (request, model, stream) => encode(provider, request, model, stream),
  decode,
  stream: decodeStream
})
