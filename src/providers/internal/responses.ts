// OpenAI's responses protocol. Nothing is kept at the provider: each request holds the whole conversation.
import type * as Prompt from "effect/ai/Prompt"
import type * as Response from "effect/ai/Response"
import type { LlmRequest } from "../../LlmRequest.ts"
import { type Exchange, malformed, NO_CHOICE, ofEvent, unsupported, WRONG_SHAPE } from "./errors.ts"
import { finishReason } from "./finish.ts"
import type { Protocol, StreamDecoder } from "./http.ts"
import { responsesIds, withIds } from "./ids.ts"
import {
  compact,
  countOf,
  type Fields,
  fieldsOf,
  isFields,
  listed,
  listOf,
  placeOf,
  textOf,
  textOfContent
} from "./json.ts"
import {
  type Assembler,
  CallIds,
  callParts,
  type Cited,
  finishPart,
  hasContent,
  imagePart,
  metadataPart,
  Sources,
  type Tokens,
  type WholeCall
} from "./parts.ts"
import { argumentsText, fileOf, isOurs, partsOf, resultText, urlOf, vendorOptions } from "./prompt.ts"
import { changesOf, optionsFor, parametersOf, type Support, withOptions } from "./support.ts"

/** Name under which parts keep what only this protocol understands, whoever serves it. */
const vendor = "openai"

/** Where servers differ. */
export interface Dialect {
  readonly provider: string
  /** Ask for reasoning in encrypted form; models that do not reason refuse it. */
  readonly encryptedReasoning: boolean
  /** The name of this vendor's options in requests. */
  readonly vendor: string
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
  const { toolChoice } = request
  const prompt = withIds(request.prompt, responsesIds)
  const tools = request.tools === undefined || request.tools.length === 0 ? undefined : request.tools
  // System messages that open the conversation are its instructions; later ones keep their place.
  const start = prompt.findIndex(({ role }) => role !== "system")
  const opening = start === -1 ? prompt : prompt.slice(0, start)
  const instructions = opening.flatMap((message) => message.role === "system" ? [message.content] : []).join("\n\n")
  const body = compact({
    model,
    instructions: textOf(instructions),
    input: prompt.slice(opening.length).flatMap((message) => itemsOf(dialect.provider, message)),
    max_output_tokens: request.maxTokens,
    temperature: request.temperature,
    top_p: request.topP,
    // Without `strict` the API would turn strictness on.
    tools: tools?.map(({ description, name, parameters, provider, strict }) =>
      provider === undefined
        ? compact({
          type: "function",
          name,
          description,
          parameters: parametersOf(parameters),
          strict: strict ?? false
        })
        : { ...provider.args, type: provider.id.slice(vendorTools.length) }
    ),
    tool_choice: tools === undefined || toolChoice === undefined
      ? undefined
      : typeof toolChoice === "string"
      ? toolChoice
      : { type: "function", name: toolChoice.tool },
    text: textFormat(request.responseFormat),
    reasoning: request.reasoningEffort === undefined ? undefined : { effort: request.reasoningEffort },
    include: dialect.encryptedReasoning ? ["reasoning.encrypted_content"] : undefined,
    store: false,
    stream: stream ? true : undefined
  })
  return withOptions(body, optionsFor(request, dialect.vendor))
}

const vendorTools = "openai."

const support: Support = {
  fields: {
    stop: "dropped",
    seed: "dropped",
    topK: "dropped",
    presencePenalty: "dropped",
    frequencyPenalty: "dropped"
  },
  file: ({ mediaType }) => !mediaType.startsWith("audio/"),
  resultFiles: true,
  ownFiles: false,
  vendorTools
}

// -----------------------------------------------------------------------------
// shared by both kinds of answer
// -----------------------------------------------------------------------------

const reasonOf = (exchange: Exchange, { incomplete_details, status }: Fields, calls: boolean): Response.FinishReason =>
  status === "incomplete"
    ? finishReason(exchange, textOf(fieldsOf(incomplete_details)["reason"]) ?? "incomplete", false)
    : finishReason(exchange, status, calls)

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

/** Throws when the response failed without telling an error. */
const failOnStatus = (exchange: Exchange, { status }: Fields): void => {
  if (status === "failed" || status === "cancelled") throw ofEvent(exchange, {})
}

const messageOf = (item: Fields) => {
  const phase = textOf(item["phase"])
  return {
    text: textOfContent(item["content"]),
    refusal: listed(item["content"]).map((piece) => textOf(fieldsOf(piece)["refusal"]) ?? "").join(""),
    metadata: phase === undefined ? undefined : { [vendor]: { phase } },
    citations: listed(item["content"]).flatMap((piece) => listOf(fieldsOf(piece)["annotations"]))
  }
}

const reasoningOf = (item: Fields) => {
  const encryptedContent = textOf(item["encrypted_content"])
  const itemId = textOf(item["id"])
  return {
    text: textOfContent(item["summary"], "\n\n") || textOfContent(item["content"], "\n\n"),
    metadata: encryptedContent === undefined
      ? undefined
      : { [vendor]: { ...(itemId === undefined ? undefined : { itemId }), encryptedContent } }
  }
}

/** A page that the model cites; other citations name what only the provider knows. */
const citedBy = (citation: unknown): Cited => {
  const { title, type, url } = fieldsOf(citation)
  return type === "url_citation" ? { url, title } : {}
}

/** An image that the model made. */
const imageOf = (item: Fields): Response.FilePartEncoded | undefined =>
  item["type"] === "image_generation_call"
    ? imagePart(item["result"], `image/${textOf(item["output_format"]) ?? "png"}`)
    : undefined

/** A call of a function, or of a tool that takes a text. */
const isCall = ({ type }: Fields): boolean => type === "function_call" || type === "custom_tool_call"

const callOf = (item: Fields): WholeCall => ({
  id: textOf(item["call_id"]) ?? item["id"],
  name: item["name"],
  args: item["arguments"] ?? item["input"]
})

// -----------------------------------------------------------------------------
// whole answer
// -----------------------------------------------------------------------------

const decode = (body: unknown, exchange: Exchange): ReadonlyArray<Response.PartEncoded> => {
  if (!isFields(body)) throw malformed(exchange, WRONG_SHAPE)
  failOnStatus(exchange, body)
  const { id, model, output, status, usage } = body
  if (!Array.isArray(output) || !output.every(isFields)) throw malformed(exchange, WRONG_SHAPE)
  if (status === "queued" || status === "in_progress") throw malformed(exchange, NO_CHOICE)
  const calls = output.filter(isCall)
  const reason = reasonOf(exchange, body, calls.some((item) => textOf(item["name"]) !== undefined))
  const parts: Array<Response.PartEncoded> = [metadataPart(exchange, id, model)]
  const ids = new CallIds(exchange)
  const sources = new Sources()
  let refusal = ""
  for (const item of output) {
    if (isCall(item)) {
      for (const call of callParts(exchange, [callOf(item)], reason, ids)) parts.push(call)
    } else if (item["type"] === "message") {
      const { citations, metadata, text, ...message } = messageOf(item)
      refusal += message.refusal
      if (text !== "") parts.push({ type: "text", text, ...(metadata === undefined ? undefined : { metadata }) })
      for (const citation of citations) sources.add(citedBy(citation))
    } else if (item["type"] === "reasoning") {
      const { metadata, text } = reasoningOf(item)
      if (metadata !== undefined) parts.push({ type: "reasoning", text, metadata })
      else if (text !== "") parts.push({ type: "reasoning", text })
    } else {
      const image = imageOf(item)
      if (image !== undefined) parts.push(image)
    }
  }
  parts.push(
    ...sources.parts(hasContent(parts)),
    finishPart(reason, tokensOf(usage), refusal === "" ? undefined : { refusal })
  )
  return parts
}

// -----------------------------------------------------------------------------
// stream
// -----------------------------------------------------------------------------

const itemCost = 64
/** More calls under one name are no mistake any more. */
const mostTwins = 256
/** Text of one item that is kept to compare it with what its end tells. */
const mostHeard = 1024 * 1024

/** What came of one item. */
interface Item {
  text: string
  /** Which of the reasoning's kinds counts, and its last piece. */
  kind: unknown
  piece: unknown
  over: boolean
}

/** Content comes in deltas; the ends of pieces, of items and of the whole bring what deltas did not. */
const decodeStream = (parts: Assembler, exchange: Exchange): StreamDecoder => {
  let refusal = ""
  let open: unknown
  let last: unknown
  const items = new Map<unknown, Item>()
  /** Items are named by place or by id, and by both at their start and end. */
  const places = new Map<string, unknown>()

  const itemAt = (key: unknown): Item => {
    let item = items.get(key)
    if (item === undefined) {
      parts.spend(itemCost)
      items.set(key, item = { text: "", kind: undefined, piece: undefined, over: false })
    }
    return item
  }

  /** Items that were added. */
  let added = 0
  /** Where calls are whose server gives several of them one name. */
  const twins: Array<unknown> = []

  /** Where a call is that is told as an item: at `key`, unless another one is there. */
  const callKey = (key: unknown, item: Fields): unknown => {
    if (!isCall(item) || !parts.hasTool(key)) return key
    const { args: told } = callOf(item)
    const args = told === undefined || told === null ? "" : argumentsText(told)
    const isHere = (place: unknown): boolean => parts.isCall(place, textOf(item["name"]), args)
    if (isHere(key)) return key
    const known = twins.find(isHere)
    if (known !== undefined) return known
    if (twins.length === mostTwins) throw malformed(exchange, WRONG_SHAPE)
    if (twins.length === 0) twins.push(key)
    const twin = {}
    twins.push(twin)
    const name = textOf(item["id"]) ?? textOf(item["call_id"])
    if (name !== undefined) places.set(name, twin)
    return twin
  }

  const keyOf = (place: unknown, id: unknown): unknown => {
    const name = textOf(id)
    const key = placeOf(place) ?? (name === undefined ? undefined : places.get(name) ?? name)
    if (name !== undefined && !places.has(name)) {
      parts.spend(itemCost + name.length)
      places.set(name, key)
    }
    return key
  }

  const say = (type: "text" | "reasoning", key: unknown, delta: string): void => {
    if (delta === "") return
    if (open !== key) parts.close()
    open = key
    const item = itemAt(key)
    if (item.text.length <= mostHeard) item.text += delta
    parts.delta(type, delta)
  }

  /** Says what is missing of a text whose end is known. */
  const complete = (type: "text" | "reasoning", key: unknown, whole: string): void => {
    const { text } = itemAt(key)
    if (text.length <= mostHeard && whole.startsWith(text)) say(type, key, whole.slice(text.length))
  }

  /** Reasoning comes as summaries or as it is. Of an item that tells both, what comes first is taken. */
  const sayReasoning = (key: unknown, kind: "summary" | "content", piece: unknown, delta: string): void => {
    const item = itemAt(key)
    item.kind ??= kind
    if (item.kind !== kind) return
    const separator = item.text !== "" && item.piece !== piece ? "\n\n" : ""
    item.piece = piece
    say("reasoning", key, separator + delta)
  }

  const takeArguments = (key: unknown, args: unknown): void => {
    const told = args === undefined || args === null ? "" : argumentsText(args)
    const known = parts.toolArguments(key)
    if (told.startsWith(known)) parts.call({ key, args: told.slice(known.length) })
    else parts.correct(key, told)
  }

  const startTool = (key: unknown, item: Fields): void => {
    const call = callOf(item)
    if (!isCall(item) || parts.isNamed(key)) return
    // One item in two places: whose the arguments were cannot be known.
    const place = places.get(textOf(item["id"]) ?? "")
    if (place !== undefined && place !== key && parts.hasTool(place)) throw malformed(exchange, WRONG_SHAPE)
    parts.call({ key, id: call.id, name: call.name, apart: !parts.hasTool(key) })
    takeArguments(key, call.args)
  }

  const takeRefusal = (text: string): void => {
    parts.spend(text.length)
    refusal += text
  }

  const endItem = (key: unknown, item: Fields): void => {
    const { over } = itemAt(key)
    if (over && key !== undefined) return
    itemAt(key).over = true
    switch (item["type"]) {
      case "message": {
        const message = messageOf(item)
        complete("text", key, message.text)
        if (refusal === "") takeRefusal(message.refusal)
        if (open === key) parts.close(message.metadata)
        for (const citation of message.citations) parts.cite(citedBy(citation))
        break
      }
      case "reasoning": {
        const { metadata, text } = reasoningOf(item)
        complete("reasoning", key, text)
        if (metadata !== undefined) {
          if (open !== key) parts.close()
          open = key
          parts.open("reasoning")
        }
        if (open === key) parts.close(metadata)
        break
      }
      case "function_call":
      case "custom_tool_call":
        startTool(key, item)
        takeArguments(key, callOf(item).args)
        parts.endTool(key)
        break
      default: {
        const image = imageOf(item)
        if (image !== undefined) parts.add(image)
      }
    }
    if (key === undefined) itemAt(key).text = ""
  }

  /** The output at the end tells every item once more. */
  const endAll = (output: unknown): void => {
    if (items.get(undefined)?.over === true) return
    const known = Array.from(items.keys())
    listed(output).map(fieldsOf).forEach((item, i) => {
      const name = textOf(item["id"]) ?? textOf(item["call_id"])
      const nth = known[i]
      const place = items.has(undefined) ? undefined : nth === undefined || typeof nth === "number" ? i : nth
      endItem(callKey(name === undefined ? place : places.get(name) ?? place, item), item)
    })
  }

  return {
    event: (name, data) => {
      if (!isFields(data)) throw malformed(exchange, WRONG_SHAPE)
      const type = data["type"] ?? name
      const item = fieldsOf(data["item"])
      const isNew = type === "response.output_item.added"
      // What names no item is about the last one.
      const named = keyOf(data["output_index"], data["item_id"] ?? item["id"] ?? item["call_id"])
      const key = callKey(named ?? (isNew ? added : last), item)
      if (isNew) added++
      last = key
      const delta = textOf(data["delta"]) ?? ""
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
          say("text", key, delta)
          break
        case "response.content_part.done":
        case "response.output_text.done":
          // Of several pieces of one item, only the item's end tells where each begins.
          if ((countOf(data["content_index"]) ?? 0) === 0) {
            complete("text", key, textOf(data["text"]) ?? textOf(fieldsOf(data["part"])["text"]) ?? "")
          }
          break
        case "response.reasoning_summary_text.delta":
          sayReasoning(key, "summary", data["summary_index"], delta)
          break
        case "response.reasoning_text.delta":
          sayReasoning(key, "content", data["content_index"], delta)
          break
        case "response.refusal.delta":
          takeRefusal(delta)
          break
        case "response.refusal.done":
          if (refusal === "") takeRefusal(textOf(data["refusal"]) ?? "")
          break
        case "response.function_call_arguments.delta":
        case "response.custom_tool_call_input.delta":
          parts.call({ key, args: data["delta"] })
          break
        case "response.function_call_arguments.done":
        case "response.custom_tool_call_input.done":
          takeArguments(key, data["arguments"] ?? data["input"])
          break
        case "response.output_item.done":
          endItem(key, item)
          break
        case "response.completed":
        case "response.incomplete": {
          const response = fieldsOf(data["response"])
          failOnStatus(exchange, response)
          parts.describe(response["id"], response["model"])
          endAll(response["output"])
          const reason = reasonOf(
            exchange,
            type === "response.completed" ? { status: "completed", ...response } : response,
            parts.hasTools
          )
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
  vendor: dialect.vendor,
  changes: (request, model) => changesOf(support, request, model),
  encode: (request, model, stream) => encode(dialect, request, model, stream),
  decode,
  stream: decodeStream
})
