// Ollama's own chat protocol. A stream is one JSON object per line.
import type * as Prompt from "effect/ai/Prompt"
import type * as Response from "effect/ai/Response"
import type { LlmRequest } from "../../LlmRequest.ts"
import { functionTools } from "./chat.ts"
import { type Exchange, malformed, ofEvent, unsupported, WRONG_SHAPE } from "./errors.ts"
import type { Protocol, StreamDecoder } from "./http.ts"
import { compact, countOf, type Fields, fieldsOf, isFields, listOf, parse, textOf } from "./json.ts"
import { type Assembler, callId, finishPart, metadataPart, type Tokens, toolCallPart } from "./parts.ts"
import { fileOf, isOurs, partsOf, resultText } from "./prompt.ts"
import type { Decoder, OnEvent } from "./Sse.ts"

// -----------------------------------------------------------------------------
// request
// -----------------------------------------------------------------------------

const imageOf = (provider: string, part: Prompt.FilePartEncoded): string => {
  const { data, mediaType } = fileOf(part)
  if (!mediaType.startsWith("image/")) throw unsupported(provider, "unsupported_media_type")
  if (data.base64 === undefined) throw unsupported(provider, "unsupported_file_url")
  return data.base64
}

const messagesOf = (provider: string, message: Prompt.MessageEncoded): ReadonlyArray<Fields> => {
  if (message.role === "system") return [{ role: "system", content: message.content }]
  if (message.role === "tool") {
    return message.content.flatMap((part) =>
      part.type === "tool-result" && isOurs(part)
        ? [{ role: "tool", tool_name: part.name, tool_call_id: part.id, content: resultText(part) }]
        : []
    )
  }
  let content = ""
  const images: Array<string> = []
  const calls: Array<Fields> = []
  for (const part of partsOf<Prompt.UserMessagePartEncoded | Prompt.AssistantMessagePartEncoded>(message.content)) {
    if (part.type === "text") content += part.text
    else if (part.type === "file" && message.role === "user") images.push(imageOf(provider, part))
    else if (part.type === "tool-call" && isOurs(part)) {
      const { id, name, params } = part
      const args = fieldsOf(typeof params === "string" ? parse(params) : params)
      calls.push({ id, function: { name, arguments: args } })
    }
  }
  return [compact({
    role: message.role,
    content,
    images: images.length === 0 ? undefined : images,
    tool_calls: calls.length === 0 ? undefined : calls
  })]
}

const encode = (provider: string, request: LlmRequest, model: string, stream: boolean): Fields => {
  const { responseFormat, toolChoice } = request
  // The protocol has no choice of tools: those that must not be called are left out.
  const tools = toolChoice === "none"
    ? undefined
    : typeof toolChoice === "object"
    ? request.tools?.filter(({ name }) => name === toolChoice.tool)
    : request.tools
  const options = compact({
    num_predict: request.maxTokens,
    temperature: request.temperature,
    top_p: request.topP,
    stop: request.stop === undefined || request.stop.length === 0 ? undefined : request.stop,
    seed: request.seed
  })
  return compact({
    model,
    messages: request.prompt.flatMap((message) => messagesOf(provider, message)),
    tools: functionTools(tools, false),
    format: responseFormat?.type === "json" ? responseFormat.schema ?? "json" : undefined,
    options: Object.keys(options).length === 0 ? undefined : options,
    stream // true unless told
  })
}

// -----------------------------------------------------------------------------
// shared by both kinds of answer
// -----------------------------------------------------------------------------

const finishReason = (answer: Fields, calls: boolean): Response.FinishReason => {
  const reason = textOf(answer["done_reason"])
  if (reason === "length") return "length"
  if (reason === "stop" || reason === undefined) return calls ? "tool-calls" : reason ?? "unknown"
  return "other"
}

const tokensOf = (answer: Fields): Tokens => ({
  input: countOf(answer["prompt_eval_count"]),
  output: countOf(answer["eval_count"])
})

const callsOf = (message: Fields) =>
  listOf(message["tool_calls"]).flatMap((input) => {
    const call = fieldsOf(input)
    const { arguments: args, name } = fieldsOf(call["function"])
    return textOf(name) === undefined ? [] : [{ id: textOf(call["id"]), name: name as string, args }]
  })

const checked = (exchange: Exchange, answer: unknown): Fields => {
  if (!isFields(answer)) throw malformed(exchange, WRONG_SHAPE)
  if (answer["error"]) throw ofEvent(exchange, answer)
  return answer
}

// -----------------------------------------------------------------------------
// whole answer
// -----------------------------------------------------------------------------

const decode = (body: unknown, exchange: Exchange): ReadonlyArray<Response.PartEncoded> => {
  const answer = checked(exchange, body)
  const { message, model } = answer
  if (!isFields(message)) throw malformed(exchange, WRONG_SHAPE)
  const calls = callsOf(message)
  const reason = finishReason(answer, calls.length > 0)
  const parts: Array<Response.PartEncoded> = [metadataPart(exchange, undefined, model)]
  const [thinking, text] = [textOf(message["thinking"]), textOf(message["content"])]
  if (thinking !== undefined) parts.push({ type: "reasoning", text: thinking })
  if (text !== undefined) parts.push({ type: "text", text })
  calls.forEach(({ args, id, name }, i) => {
    const call = toolCallPart(id ?? callId(undefined, i), name, args, reason)
    if (call !== undefined) parts.push(call)
  })
  parts.push(finishPart(reason, tokensOf(answer)))
  return parts
}

// -----------------------------------------------------------------------------
// stream
// -----------------------------------------------------------------------------

/** Each line that is not blank is an event. */
const lines = (onEvent: OnEvent, maxLength: number): Decoder => {
  let line = ""
  const take = (text: string): void => {
    if (text.trim() !== "") onEvent("", text)
  }
  return {
    feed: (chunk) => {
      const [first = "", ...rest] = chunk.split("\n")
      if (line.length + first.length > maxLength) return false
      line += first
      for (const next of rest) {
        take(line)
        line = next
        if (line.length > maxLength) return false
      }
      return true
    },
    end: () => {
      take(line)
      line = ""
    }
  }
}

const decodeStream = (parts: Assembler, exchange: Exchange): StreamDecoder => {
  let calls = 0
  return {
    event: (_, data) => {
      const answer = checked(exchange, data)
      const message = fieldsOf(answer["message"])
      parts.describe(undefined, answer["model"])
      parts.delta("reasoning", textOf(message["thinking"]) ?? "")
      parts.delta("text", textOf(message["content"]) ?? "")
      for (const { args, id, name } of callsOf(message)) {
        const key = calls++
        parts.startTool(key, id, name)
        if (args !== undefined && args !== null) {
          parts.toolDelta(key, typeof args === "string" ? args : JSON.stringify(args))
        }
      }
      if (answer["done"] === true) parts.finish(finishReason(answer, parts.hasTools), tokensOf(answer))
    }
  }
}

export const protocol = (provider: string): Protocol => ({
  encode: (request, model, stream) => encode(provider, request, model, stream),
  decode,
  stream: decodeStream,
  frames: lines
})
