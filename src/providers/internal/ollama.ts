// Ollama's own chat protocol. A stream is one JSON object per line.
import type * as Prompt from "effect/ai/Prompt"
import type * as Response from "effect/ai/Response"
import type { LlmRequest } from "../../LlmRequest.ts"
import { functionTools } from "./chat.ts"
import { type Exchange, malformed, unsupported, WRONG_SHAPE } from "./errors.ts"
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
  textOf,
  textOfContent
} from "./json.ts"
import { type Assembler, callParts, finishPart, imagePart, metadataPart, type Tokens, type WholeCall } from "./parts.ts"
import { argumentsObject, fileOf, isOurs, partsOf, resultText } from "./prompt.ts"
import type { Decoder, OnEvent } from "./Sse.ts"
import { changesOf, optionsFor, type Support, threeSteps, withOptions } from "./support.ts"

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
      calls.push({ id, function: { name, arguments: argumentsObject(params) } })
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
    top_k: request.topK,
    presence_penalty: request.presencePenalty,
    frequency_penalty: request.frequencyPenalty,
    stop: request.stop === undefined || request.stop.length === 0 ? undefined : request.stop,
    seed: request.seed
  })
  const effort = request.reasoningEffort
  const body = compact({
    model,
    messages: withIds(request.prompt, anyIds).flatMap((message) => messagesOf(provider, message)),
    tools: functionTools(tools, false),
    format: responseFormat?.type === "json" ? responseFormat.schema ?? "json" : undefined,
    options: Object.keys(options).length === 0 ? undefined : options,
    think: effort === undefined ? undefined : effort === "none" ? false : threeSteps[effort],
    stream // true unless told
  })
  return withOptions(body, optionsFor(request, vendor))
}

const vendor = "ollama"

const support: Support = {
  fields: {
    toolChoice: ({ toolChoice }) =>
      toolChoice === "required" ? "dropped" : typeof toolChoice === "object" ? "as the only tool" : undefined,
    reasoningEffort: ({ reasoningEffort: effort }) =>
      effort === undefined || effort === "none" || threeSteps[effort] === effort
        ? undefined
        : `as ${threeSteps[effort]}`
  },
  file: ({ data, mediaType }) => mediaType.startsWith("image/") && data.base64 !== undefined,
  resultFiles: false,
  ownFiles: false
}

// -----------------------------------------------------------------------------
// shared by both kinds of answer
// -----------------------------------------------------------------------------

const tokensOf = (answer: Fields): Tokens => ({
  input: countOf(answer["prompt_eval_count"]),
  output: countOf(answer["eval_count"])
})

const callsOf = (message: Fields): ReadonlyArray<WholeCall> =>
  listed(message["tool_calls"]).map((input) => {
    const call = fieldsOf(input)
    const { arguments: args, name } = fieldsOf(call["function"])
    return { id: call["id"], name, args }
  })

const imagesOf = (message: Fields): ReadonlyArray<Response.FilePartEncoded> =>
  listOf(message["images"]).flatMap((image) => imagePart(image) ?? [])

const checked = (exchange: Exchange, answer: unknown): Fields => {
  if (!isFields(answer) || !isContent(fieldsOf(answer["message"])["content"])) throw malformed(exchange, WRONG_SHAPE)
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
  const reason = finishReason(exchange, answer["done_reason"], calls.length > 0)
  const parts: Array<Response.PartEncoded> = [metadataPart(exchange, undefined, model)]
  const [thinking, text] = [textOf(message["thinking"]), textOfContent(message["content"])]
  if (thinking !== undefined) parts.push({ type: "reasoning", text: thinking })
  if (text !== "") parts.push({ type: "text", text })
  for (const part of [...imagesOf(message), ...callParts(exchange, calls, reason)]) parts.push(part)
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
  const told = new Set<string>()
  let calls = 0
  return {
    event: (_, data) => {
      const answer = checked(exchange, data)
      const message = fieldsOf(answer["message"])
      // Some servers end without `done`, and some tell the whole message again.
      const said = { reasoning: textOf(message["thinking"]) ?? "", text: textOfContent(message["content"]) }
      const isEnd = answer["done"] === true || textOf(answer["done_reason"]) !== undefined
      const again = (type: "text" | "reasoning", text: string): boolean =>
        isEnd && text !== "" && parts.isHeard(type) && parts.rest(type, text) === ""
      parts.describe(undefined, answer["model"])
      for (const type of ["reasoning", "text"] as const) if (!again(type, said[type])) parts.delta(type, said[type])
      for (const image of imagesOf(message)) parts.add(image)
      for (const call of callsOf(message)) {
        const name = JSON.stringify(call)
        if (isEnd && told.has(name)) continue
        parts.spend(name.length)
        told.add(name)
        const key = calls++
        parts.call({ ...call, key, apart: true })
        parts.endTool(key)
      }
      if (isEnd) parts.finish(finishReason(exchange, answer["done_reason"], parts.hasTools), tokensOf(answer))
    }
  }
}

export const protocol = (provider: string): Protocol => ({
  vendor,
  changes: (request, model) => changesOf(support, request, model),
  encode: (request, model, stream) => encode(provider, request, model, stream),
  decode,
  stream: decodeStream,
  frames: lines
})
