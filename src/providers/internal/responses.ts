// OpenAI's responses protocol. Nothing is kept at the provider: each request holds the whole conversation.
import type * as Prompt from "effect/ai/Prompt"
import type * as Response from "effect/ai/Response"
import type { LlmRequest } from "../../LlmRequest.ts"
import { type Exchange, malformed, NO_CHOICE, ofEvent, unsupported, WRONG_SHAPE } from "./errors.ts"
import type { Protocol, StreamDecoder } from "./http.ts"
import { compact, countOf, type Fields, fieldsOf, isFields, listOf, textOf } from "./json.ts"
import { type Assembler, callId, finishPart, metadataPart, type Tokens, toolCallPart } from "./parts.ts"
import { argumentsText, fileOf, isOurs, partsOf, resultText, urlOf, vendorOptions } from "./prompt.ts"

/** Name under which parts keep what only this protocol understands, whoever serves it. */
const vendor = "openai"

/** Where servers differ. */
export interface Dialect {
  readonly provider: string
  /** Ask for reasoning in encrypted form; models that do not reason refuse it. */
  readonly encryptedReasoning: boolean
}

// -----------------------------------------------------------------------------
// request
// -----------------------------------------------------------------------------

const inputPart = (provider: string, part: Prompt.UserMessagePartEncoded): Fields => {
  if (part.type === "text") return { type: "input_text", text: part.text }
  const file = fileOf(part)
  if (file.mediaType.startsWith("image/")) return { type: "input_image", image_url: urlOf(file) }
  if (file.mediaType.startsWith("audio/")) throw unsupported(provider, "unsupported_media_type")
  return file.data.url === undefined
    ? { type: "input_file", filename: file.name ?? "file", file_data: urlOf(file) }
    : { type: "input_file", file_url: file.data.url }
}

const assistantItem = (part: Prompt.AssistantMessagePartEncoded): Fields | undefined => {
  switch (part.type) {
    case "text":
      return part.text === ""
        ? undefined
        : compact({ role: "assistant", content: part.text, phase: textOf(vendorOptions(part, vendor)["phase"]) })
    case "reasoning": {
      // Only what this vendor sealed may be sent back; reasoning of others is left out.
      const { encryptedContent, itemId } = vendorOptions(part, vendor)
      if (textOf(encryptedContent) === undefined) return undefined
      return compact({
        type: "reasoning",
        id: textOf(itemId),
        summary: part.text === "" ? [] : [{ type: "summary_text", text: part.text }],
        encrypted_content: encryptedContent
      })
    }
    case "tool-call":
      return isOurs(part)
        ? { type: "function_call", call_id: part.id, name: part.name, arguments: argumentsText(part.params) }
        : undefined
    default:
      return undefined
  }
}

const itemsOf = (provider: string, message: Prompt.MessageEncoded): ReadonlyArray<Fields> => {
  switch (message.role) {
    case "system":
      return [{ role: "system", content: message.content }]
    case "user": {
      const parts = partsOf(message.content)
      const [only] = parts
      const content = parts.length === 1 && only?.type === "text"
        ? only.text
        : parts.map((part) => inputPart(provider, part))
      return [{ role: "user", content }]
    }
    case "assistant":
      return partsOf<Prompt.AssistantMessagePartEncoded>(message.content).map(assistantItem).filter(isFields)
    case "tool":
      return message.content.flatMap((part) => {
        if (part.type !== "tool-result" || !isOurs(part)) return []
        const output = part.modelOutput?.some(({ type }) => type === "file") === true
          ? part.modelOutput.map((output) => inputPart(provider, output))
          : resultText(part)
        return [{ type: "function_call_output", call_id: part.id, output }]
      })
  }
}

const textFormat = (format: LlmRequest["responseFormat"]): Fields | undefined => {
  if (format === undefined || format.type === "text") return undefined
  return {
    format: format.schema === undefined
      ? { type: "json_object" }
      : compact({
        type: "json_schema",
        name: format.name ?? "response",
        schema: format.schema,
        strict: format.strict
      })
  }
}

const encode = (dialect: Dialect, request: LlmRequest, model: string, stream: boolean): Fields => {
  const { prompt, toolChoice } = request
  const tools = request.tools === undefined || request.tools.length === 0 ? undefined : request.tools
  // System messages that open the conversation are its instructions; later ones keep their place.
  const start = prompt.findIndex(({ role }) => role !== "system")
  const opening = start === -1 ? prompt : prompt.slice(0, start)
  const instructions = opening.flatMap((message) => message.role === "system" ? [message.content] : []).join("\n\n")
  return compact({
    model,
    instructions: textOf(instructions),
    input: prompt.slice(opening.length).flatMap((message) => itemsOf(dialect.provider, message)),
    max_output_tokens: request.maxTokens,
    temperature: request.temperature,
    top_p: request.topP,
    // Without `strict` the API would turn strictness on.
    tools: tools?.map(({ description, name, parameters, strict }) =>
      compact({ type: "function", name, description, parameters, strict: strict ?? false })
    ),
    tool_choice: tools === undefined || toolChoice === undefined
      ? undefined
      : typeof toolChoice === "string"
      ? toolChoice
      : { type: "function", name: toolChoice.tool },
    text: textFormat(request.responseFormat),
    include: dialect.encryptedReasoning ? ["reasoning.encrypted_content"] : undefined,
    store: false,
    stream: stream ? true : undefined
  })
}

// -----------------------------------------------------------------------------
// shared by both kinds of answer
// -----------------------------------------------------------------------------

const incomplete: Readonly<Record<string, Response.FinishReason>> = {
  max_output_tokens: "length",
  content_filter: "content-filter"
}

const finishReason = (response: Fields, calls: boolean): Response.FinishReason => {
  switch (response["status"]) {
    case "completed":
      return calls ? "tool-calls" : "stop"
    case "incomplete":
      return incomplete[textOf(fieldsOf(response["incomplete_details"])["reason"]) ?? ""] ?? "other"
    default:
      return "unknown"
  }
}

const tokensOf = (input: unknown): Tokens => {
  const usage = fieldsOf(input)
  const details = fieldsOf(usage["input_tokens_details"])
  return {
    input: countOf(usage["input_tokens"]),
    cacheRead: countOf(details["cached_tokens"]),
    cacheWrite: countOf(details["cache_write_tokens"]),
    output: countOf(usage["output_tokens"]),
    reasoning: countOf(fieldsOf(usage["output_tokens_details"])["reasoning_tokens"])
  }
}

/** Throws when the response failed, or is an error itself. */
const failOnError = (exchange: Exchange, response: Fields): void => {
  const { error, object, status } = response
  if (Boolean(error) || object === "error") throw ofEvent(exchange, response)
  if (status === "failed" || status === "cancelled") throw ofEvent(exchange, {})
}

const joined = (list: unknown, field: "text" | "refusal", separator: string): string =>
  listOf(list).flatMap((piece) => textOf(fieldsOf(piece)[field]) ?? []).join(separator)

const messageOf = (item: Fields) => {
  const phase = textOf(item["phase"])
  return {
    text: joined(item["content"], "text", ""),
    refusal: joined(item["content"], "refusal", ""),
    metadata: phase === undefined ? undefined : { [vendor]: { phase } },
    citations: listOf(item["content"]).flatMap((piece) => listOf(fieldsOf(piece)["annotations"]))
  }
}

const reasoningOf = (item: Fields) => {
  const encryptedContent = textOf(item["encrypted_content"])
  const itemId = textOf(item["id"])
  return {
    text: joined(item["summary"], "text", "\n\n") || joined(item["content"], "text", "\n\n"),
    metadata: encryptedContent === undefined
      ? undefined
      : { [vendor]: { ...(itemId === undefined ? undefined : { itemId }), encryptedContent } }
  }
}

/** A page that the model cites; other citations name what only the provider knows. */
const sourcePart = (citation: unknown, index: number): ReadonlyArray<Response.UrlSourcePartEncoded> => {
  const { title, type, url } = fieldsOf(citation)
  if (type !== "url_citation" || typeof url !== "string" || !URL.canParse(url)) return []
  return [{ type: "source", sourceType: "url", id: `source_${index}`, url, title: textOf(title) ?? url }]
}

// -----------------------------------------------------------------------------
// whole answer
// -----------------------------------------------------------------------------

const decode = (body: unknown, exchange: Exchange): ReadonlyArray<Response.PartEncoded> => {
  if (!isFields(body)) throw malformed(exchange, WRONG_SHAPE)
  failOnError(exchange, body)
  const { id, model, output, status, usage } = body
  if (!Array.isArray(output) || !output.every(isFields)) throw malformed(exchange, WRONG_SHAPE)
  if (status === "queued" || status === "in_progress") throw malformed(exchange, NO_CHOICE)
  const called = (item: Fields): boolean => item["type"] === "function_call" && textOf(item["name"]) !== undefined
  const reason = finishReason(body, output.some(called))
  const parts: Array<Response.PartEncoded> = [metadataPart(exchange, id, model)]
  let refusal = ""
  let sources = 0
  output.forEach((item, i) => {
    if (called(item)) {
      const call = textOf(item["call_id"]) ?? textOf(item["id"]) ?? callId(id, i)
      const part = toolCallPart(call, item["name"] as string, item["arguments"], reason)
      if (part !== undefined) parts.push(part)
    } else if (item["type"] === "message") {
      const { citations, metadata, text, ...message } = messageOf(item)
      refusal += message.refusal
      if (text !== "") parts.push({ type: "text", text, ...(metadata === undefined ? undefined : { metadata }) })
      for (const citation of citations) parts.push(...sourcePart(citation, sources++))
    } else if (item["type"] === "reasoning") {
      const { metadata, text } = reasoningOf(item)
      if (metadata !== undefined) parts.push({ type: "reasoning", text, metadata })
      else if (text !== "") parts.push({ type: "reasoning", text })
    }
  })
  parts.push(finishPart(reason, tokensOf(usage), refusal === "" ? undefined : { refusal }))
  return parts
}

// -----------------------------------------------------------------------------
// stream
// -----------------------------------------------------------------------------

const itemCost = 64

const decodeStream = (parts: Assembler, exchange: Exchange): StreamDecoder => {
  let refusal = ""
  let sources = 0
  let block: { readonly item: unknown; readonly kind: unknown; piece: unknown } | undefined
  // Items whose content came in deltas; of others it is taken from their end.
  const fed = new Set<unknown>()
  const calls = new Set<string>()

  const feed = (item: unknown): void => {
    if (fed.has(item)) return
    parts.spend(itemCost)
    fed.add(item)
  }

  const startBlock = (item: unknown, kind: unknown, piece: unknown): void => {
    if (block !== undefined && block.item === item) return
    parts.close()
    block = { item, kind, piece }
  }

  const textDelta = (item: unknown, delta: string): void => {
    startBlock(item, "text", undefined)
    feed(item)
    parts.delta("text", delta)
  }

  /** Reasoning comes as summaries or as it is. Of an item that tells both, what comes first is taken. */
  const reasoningDelta = (item: unknown, kind: unknown, piece: unknown, delta: string): void => {
    startBlock(item, kind, piece)
    if (block === undefined || block.kind !== kind) return
    feed(item)
    parts.delta("reasoning", block.piece === piece ? delta : `\n\n${delta}`)
    block.piece = piece
  }

  const toolDelta = (item: unknown, args: unknown): void => {
    if (args === undefined || args === null || args === "" || !parts.hasTool(item)) return
    feed(item)
    parts.toolDelta(item, argumentsText(args))
  }

  const startTool = (key: unknown, item: Fields): void => {
    const name = textOf(item["name"])
    if (item["type"] !== "function_call" || name === undefined || parts.hasTool(key)) return
    const id = textOf(item["id"])
    // One item in two places: whose the arguments were cannot be known.
    if (id !== undefined && calls.has(id)) throw malformed(exchange, WRONG_SHAPE)
    if (id !== undefined) calls.add(id)
    parts.startTool(key, textOf(item["call_id"]) ?? id, name)
    toolDelta(key, item["arguments"])
  }

  const takeRefusal = (text: string): void => {
    parts.spend(text.length)
    refusal += text
  }

  const endItem = (key: unknown, item: Fields): void => {
    switch (item["type"]) {
      case "message": {
        const message = messageOf(item)
        if (!fed.has(key) && message.text !== "") textDelta(key, message.text)
        if (refusal === "") takeRefusal(message.refusal)
        if (block?.item === key) parts.close(message.metadata)
        for (const citation of message.citations) parts.out.push(...sourcePart(citation, sources++))
        break
      }
      case "reasoning": {
        const { metadata, text } = reasoningOf(item)
        if (!fed.has(key) && text !== "") reasoningDelta(key, "end", undefined, text)
        if (metadata !== undefined) {
          startBlock(key, "end", undefined)
          parts.open("reasoning")
        }
        if (block?.item === key) parts.close(metadata)
        break
      }
      case "function_call":
        startTool(key, item)
        if (!fed.has(key)) toolDelta(key, item["arguments"])
        parts.endTool(key)
    }
  }

  return {
    event: (name, data) => {
      if (!isFields(data)) throw malformed(exchange, WRONG_SHAPE)
      const type = data["type"] ?? name
      if (name === "error" || type === "error" || isFields(data["error"])) throw ofEvent(exchange, data)
      const item = fieldsOf(data["item"])
      const key = countOf(data["output_index"]) ?? textOf(data["item_id"]) ?? textOf(item["id"])
      const delta = textOf(data["delta"])
      switch (type) {
        case "response.created":
        case "response.in_progress": {
          const response = fieldsOf(data["response"])
          parts.describe(response["id"], response["model"])
          break
        }
        case "response.output_item.added":
          startTool(key, item)
          break
        case "response.output_text.delta":
          if (delta !== undefined) textDelta(key, delta)
          break
        case "response.reasoning_summary_text.delta":
          if (delta !== undefined) reasoningDelta(key, type, data["summary_index"], delta)
          break
        case "response.reasoning_text.delta":
          if (delta !== undefined) reasoningDelta(key, type, data["content_index"], delta)
          break
        case "response.refusal.delta":
          takeRefusal(delta ?? "")
          break
        case "response.function_call_arguments.delta":
          toolDelta(key, delta)
          break
        case "response.output_item.done":
          endItem(key, item)
          break
        case "response.completed":
        case "response.incomplete": {
          const response = fieldsOf(data["response"])
          failOnError(exchange, response)
          parts.describe(response["id"], response["model"])
          const reason = finishReason(response, parts.hasTools)
          parts.finish(reason, tokensOf(response["usage"]), refusal === "" ? undefined : { refusal })
          break
        }
        case "response.failed":
          throw ofEvent(exchange, { error: fieldsOf(data["response"])["error"] })
      }
    }
  }
}

export const protocol = (dialect: Dialect): Protocol => ({
  encode: (request, model, stream) => encode(dialect, request, model, stream),
  decode,
  stream: decodeStream
})
