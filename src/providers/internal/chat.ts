// The chat completions protocol, as OpenAI defines it and as others speak it.
import type * as Prompt from "effect/ai/Prompt"
import type * as Response from "effect/ai/Response"
import type { LlmRequest } from "../../LlmRequest.ts"
import { type Exchange, malformed, NO_CHOICE, ofEvent, unsupported, WRONG_SHAPE } from "./errors.ts"
import type { Protocol, StreamDecoder } from "./http.ts"
import { compact, countOf, type Fields, fieldsOf, isFields, listOf, textOf } from "./json.ts"
import {
  type Assembler,
  callId,
  type Cited,
  finishPart,
  hasContent,
  metadataPart,
  Sources,
  type Tokens,
  toolCallPart
} from "./parts.ts"
import { argumentsText, fileOf, isOurs, partsOf, resultText, urlOf } from "./prompt.ts"

/** Where servers differ. */
export interface Dialect {
  readonly provider: string
  readonly maxTokensField: "max_tokens" | "max_completion_tokens"
  readonly seedField: "seed" | "random_seed"
  /** Ask for usage at the end of a stream; some servers refuse the field. */
  readonly streamOptions: boolean
  /** Is a stream without `[DONE]` cut even if its answer finished? */
  readonly requireDone: boolean
}

// -----------------------------------------------------------------------------
// request
// -----------------------------------------------------------------------------

const audioFormat: Readonly<Record<string, string>> = {
  "audio/wav": "wav",
  "audio/x-wav": "wav",
  "audio/mpeg": "mp3",
  "audio/mp3": "mp3"
}

const userPart = (provider: string, part: Prompt.UserMessagePartEncoded): Fields => {
  if (part.type === "text") return { type: "text", text: part.text }
  const file = fileOf(part)
  if (file.mediaType.startsWith("image/")) return { type: "image_url", image_url: { url: urlOf(file) } }
  const { base64 } = file.data
  if (base64 === undefined) throw unsupported(provider, "unsupported_file_url")
  const format = audioFormat[file.mediaType]
  return format === undefined
    ? { type: "file", file: { filename: file.name ?? "file", file_data: urlOf(file) } }
    : { type: "input_audio", input_audio: { data: base64, format } }
}

const assistantMessage = (text: string, calls: ReadonlyArray<Fields>): Fields => ({
  role: "assistant",
  content: text === "" && calls.length > 0 ? null : text,
  ...(calls.length === 0 ? undefined : { tool_calls: calls })
})

/** Messages in the form that OpenAI made common; a vendor tells how it writes a user's part and an assistant's turn. */
export const messagesOf = (
  prompt: LlmRequest["prompt"],
  userPart: (part: Prompt.UserMessagePartEncoded) => Fields,
  assistant: (text: string, calls: ReadonlyArray<Fields>, message: Prompt.AssistantMessageEncoded) => Fields
): ReadonlyArray<Fields> => {
  const messages: Array<Fields> = []
  for (const message of prompt) {
    if (message.role === "system") messages.push({ role: "system", content: message.content })
    else if (message.role === "user") {
      const parts = partsOf(message.content)
      const [only] = parts
      const content = parts.length === 1 && only?.type === "text" ? only.text : parts.map(userPart)
      messages.push({ role: "user", content })
    } else if (message.role === "tool") {
      for (const part of message.content) {
        if (part.type !== "tool-result" || !isOurs(part)) continue
        messages.push({ role: "tool", tool_call_id: part.id, content: resultText(part) })
      }
    } else {
      let text = ""
      const calls: Array<Fields> = []
      for (const part of partsOf(message.content)) {
        if (part.type === "text") text += part.text
        if (part.type !== "tool-call" || !isOurs(part)) continue
        const call = { name: part.name, arguments: argumentsText(part.params) }
        calls.push({ id: part.id, type: "function", function: call })
      }
      messages.push(assistant(text, calls, message))
    }
  }
  return messages
}

/** Tools in the form that OpenAI made common. */
export const functionTools = (tools: LlmRequest["tools"], strictness: boolean): ReadonlyArray<Fields> | undefined =>
  tools === undefined || tools.length === 0 ? undefined : tools.map(({ description, name, parameters, strict }) => ({
    type: "function",
    function: compact({ name, description, parameters, strict: strictness ? strict : undefined })
  }))

const responseFormat = (format: LlmRequest["responseFormat"]): Fields | undefined => {
  if (format === undefined || format.type === "text") return undefined
  return format.schema === undefined
    ? { type: "json_object" }
    : {
      type: "json_schema",
      json_schema: compact({ name: format.name ?? "response", schema: format.schema, strict: format.strict })
    }
}

const encode = (dialect: Dialect, request: LlmRequest, model: string, stream: boolean): Fields => {
  const tools = functionTools(request.tools, true)
  const choice = request.toolChoice
  return compact({
    model,
    messages: messagesOf(request.prompt, (part) => userPart(dialect.provider, part), assistantMessage),
    [dialect.maxTokensField]: request.maxTokens,
    temperature: request.temperature,
    top_p: request.topP,
    stop: request.stop === undefined || request.stop.length === 0 ? undefined : request.stop,
    [dialect.seedField]: request.seed,
    tools,
    tool_choice: tools === undefined || choice === undefined
      ? undefined
      : typeof choice === "string"
      ? choice
      : { type: "function", function: { name: choice.tool } },
    response_format: responseFormat(request.responseFormat),
    stream: stream ? true : undefined,
    stream_options: stream && dialect.streamOptions ? { include_usage: true } : undefined
  })
}

// -----------------------------------------------------------------------------
// shared by both kinds of answer
// -----------------------------------------------------------------------------

const finishReasons: Readonly<Record<string, Response.FinishReason>> = {
  stop: "stop",
  eos: "stop",
  length: "length",
  max_tokens: "length",
  model_length: "length",
  tool_calls: "tool-calls",
  function_call: "tool-calls",
  content_filter: "content-filter"
}

const finishReason = (value: unknown): Response.FinishReason => {
  const raw = textOf(value)
  return raw === undefined ? "unknown" : finishReasons[raw] ?? "other"
}

const tokensOf = (input: unknown): Tokens => {
  const usage = fieldsOf(input)
  const prompt = fieldsOf(usage["prompt_tokens_details"])
  return {
    input: countOf(usage["prompt_tokens"]),
    cacheRead: countOf(prompt["cached_tokens"]) ?? countOf(usage["prompt_cache_hit_tokens"]) ??
      countOf(usage["cached_tokens"]),
    cacheWrite: countOf(prompt["cache_write_tokens"]),
    output: countOf(usage["completion_tokens"]),
    reasoning: countOf(fieldsOf(usage["completion_tokens_details"])["reasoning_tokens"])
  }
}

/** Calls `take` with each piece of text and reasoning. Content may be a text or a list, whose items may nest. */
const takeContent = (message: Fields, take: (type: "text" | "reasoning", text: string) => void): void => {
  const reasoning = textOf(message["reasoning_content"]) ?? textOf(message["reasoning"])
  if (reasoning !== undefined) take("reasoning", reasoning)
  const { content } = message
  if (typeof content === "string") {
    if (content !== "") take("text", content)
    return
  }
  for (const item of listOf(content)) {
    const { text, thinking, type } = fieldsOf(item)
    if (type === "thinking") {
      const pieces = typeof thinking === "string"
        ? [thinking]
        : listOf(thinking).map((piece) => fieldsOf(piece)["text"])
      for (const piece of pieces) if (textOf(piece) !== undefined) take("reasoning", textOf(piece)!)
    } else if (textOf(text) !== undefined) take("text", textOf(text)!)
  }
}

const citedBy = (annotation: unknown): Cited => {
  const { type, url_citation } = fieldsOf(annotation)
  const { title, url } = fieldsOf(type === "url_citation" ? url_citation : undefined)
  return { url, title }
}

/** Pages that Perplexity and others tell beside the answer: with their titles, or as mere addresses. */
const pagesOf = (results: unknown, citations: unknown): ReadonlyArray<Cited> =>
  [...listOf(results), ...listOf(citations)].map((page) => {
    const { title, url } = fieldsOf(page)
    return typeof page === "string" ? { url: page } : { url, title }
  })

/** Throws when the body is, or holds, an error. */
const failOnError = (exchange: Exchange, body: Fields): void => {
  const { error, object } = body
  if (Boolean(error) || object === "error") throw ofEvent(exchange, body)
}

const failOnChoiceError = (exchange: Exchange, choice: Fields): void => {
  if (isFields(choice["error"])) throw ofEvent(exchange, choice)
  if (choice["finish_reason"] === "error") throw ofEvent(exchange, {})
}

/** Several answers come interleaved; the first is the one that was asked for. */
const isFirst = (choice: { readonly index?: unknown }): boolean => (choice.index ?? 0) === 0

// -----------------------------------------------------------------------------
// whole answer
// -----------------------------------------------------------------------------

// By hand, because every answer comes through here: a `Schema` would copy what it checks.
const isAbsentOr = (u: unknown, is: (u: unknown) => boolean): boolean => u === undefined || u === null || is(u)
const isContent = (u: unknown): boolean => typeof u === "string" || Array.isArray(u)
const isMessage = (u: unknown): boolean =>
  isFields(u) && isAbsentOr(u["content"], isContent) && isAbsentOr(u["tool_calls"], Array.isArray)
// Azure leaves the message out when its filter took the answer.
const isChoice = (u: unknown): u is Fields => isFields(u) && isAbsentOr(u["message"], isMessage)

const decode = (body: unknown, exchange: Exchange): ReadonlyArray<Response.PartEncoded> => {
  if (!isFields(body)) throw malformed(exchange, WRONG_SHAPE)
  failOnError(exchange, body)
  const { choices, citations, id, model, search_results, usage } = body
  for (const choice of listOf(choices)) failOnChoiceError(exchange, fieldsOf(choice))
  if (!Array.isArray(choices) || !choices.every(isChoice)) throw malformed(exchange, WRONG_SHAPE)
  const choice = choices.find(isFirst) ?? choices[0]
  const given = choice?.["message"] ?? (textOf(choice?.["finish_reason"]) === undefined ? undefined : {})
  if (choice === undefined || given === undefined) throw malformed(exchange, NO_CHOICE)
  const message = fieldsOf(given)
  const reason = finishReason(choice["finish_reason"])
  const parts: Array<Response.PartEncoded> = [metadataPart(exchange, id, model)]
  takeContent(message, (type, text) => {
    const last = parts[parts.length - 1]
    if (last?.type === type) parts[parts.length - 1] = { type, text: last.text + text }
    else parts.push({ type, text })
  })
  const calls = [
    ...listOf(message["tool_calls"]),
    ...isFields(message["function_call"]) ? [{ function: message["function_call"] }] : []
  ]
  calls.map(fieldsOf).forEach((call, i) => {
    const { arguments: args, name } = fieldsOf(call["function"])
    if (typeof name !== "string" || name === "") return
    const part = toolCallPart(textOf(call["id"]) ?? callId(id, i), name, args, reason)
    if (part !== undefined) parts.push(part)
  })
  const refusal = textOf(message["refusal"])
  const sources = new Sources()
  for (const annotation of listOf(message["annotations"])) sources.add(citedBy(annotation))
  for (const page of pagesOf(search_results, citations)) sources.add(page)
  parts.push(
    ...sources.parts(hasContent(parts)),
    finishPart(reason, tokensOf(usage), refusal === undefined ? undefined : { refusal })
  )
  return parts
}

// -----------------------------------------------------------------------------
// stream
// -----------------------------------------------------------------------------

const decodeStream = (dialect: Dialect, parts: Assembler, exchange: Exchange): StreamDecoder => {
  let reason: unknown
  let usage: unknown
  let refusal = ""
  let lastTool: unknown
  let results: unknown
  let citations: unknown

  const takeTool = (call: Fields): void => {
    const id = textOf(call["id"])
    const { arguments: args, name } = fieldsOf(call["function"])
    // Without an index: an id starts a call, and what has none belongs to the last one.
    const key = countOf(call["index"]) ?? (id === undefined ? lastTool ?? 0 : id)
    const known = parts.hasTool(key)
    if (!known || (id !== undefined && id !== parts.toolId(key))) parts.startTool(key, id, textOf(name))
    else if (textOf(name) !== undefined) parts.nameTool(key, textOf(name)!)
    lastTool = key
    if (args !== undefined && args !== null) {
      parts.toolDelta(key, typeof args === "string" ? args : JSON.stringify(args))
    }
  }

  const takeDelta = (delta: Fields): void => {
    takeContent(delta, (type, text) => parts.delta(type, text))
    const refused = textOf(delta["refusal"])
    if (refused !== undefined) {
      parts.spend(refused.length)
      refusal += refused
    }
    for (const annotation of listOf(delta["annotations"])) parts.cite(citedBy(annotation))
    for (const call of listOf(delta["tool_calls"])) takeTool(fieldsOf(call))
    if (isFields(delta["function_call"])) takeTool({ index: 0, function: delta["function_call"] })
  }

  const finish = (): void => {
    for (const page of pagesOf(results, citations)) parts.cite(page)
    parts.finish(finishReason(reason), tokensOf(usage), refusal === "" ? undefined : { refusal })
  }

  return {
    event: (name, data) => {
      if (name === "error") throw ofEvent(exchange, data)
      if (!isFields(data)) throw malformed(exchange, WRONG_SHAPE)
      failOnError(exchange, data)
      // Azure describes its filters in a first chunk without id and model.
      if (textOf(data["id"]) !== undefined || textOf(data["model"]) !== undefined) {
        parts.describe(data["id"], data["model"])
      }
      if (isFields(data["usage"])) usage = data["usage"]
      const groq = fieldsOf(data["x_groq"])["usage"]
      if (isFields(groq)) usage = groq
      // Each chunk tells them all: the last ones count.
      results = data["search_results"] ?? results
      citations = data["citations"] ?? citations
      const choice = listOf(data["choices"]).map(fieldsOf).find(isFirst)
      if (choice === undefined) return
      failOnChoiceError(exchange, choice)
      takeDelta(fieldsOf(choice["delta"] ?? choice["message"]))
      if (textOf(choice["finish_reason"]) !== undefined) reason = choice["finish_reason"]
    },
    marker: finish,
    end: () => {
      if (!dialect.requireDone && reason !== undefined) finish()
    }
  }
}

export const protocol = (dialect: Dialect): Protocol => ({
  encode: (request, model, stream) => encode(dialect, request, model, stream),
  decode,
  stream: (assembler, exchange) => decodeStream(dialect, assembler, exchange)
})
