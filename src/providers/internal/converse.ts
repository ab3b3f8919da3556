// The Converse protocol of Amazon Bedrock: one form for the models of all vendors there.
import type * as Prompt from "effect/ai/Prompt"
import type * as Response from "effect/ai/Response"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import type { Change } from "../../LlmProvider.ts"
import type { LlmRequest } from "../../LlmRequest.ts"
import { type Exchange, malformed, unsupported, WRONG_SHAPE } from "./errors.ts"
import { eventStream } from "./eventStream.ts"
import { finishReason, laterReason } from "./finish.ts"
import type { Protocol, StreamDecoder } from "./http.ts"
import { responsesIds, withIds } from "./ids.ts"
import { compact, countOf, type Fields, fieldsOf, isFields, listOf, placeOf, textOf } from "./json.ts"
import {
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
import { argumentsObject, type File, fileOf, isOurs, partsOf, resultText, vendorOptions } from "./prompt.ts"
import { changesOf, jsonInstruction, optionsFor, parametersOf, type Support, withOptions } from "./support.ts"
import { isBlank, turnsOf } from "./turns.ts"

const vendor = "bedrock"

// -----------------------------------------------------------------------------
// request
// -----------------------------------------------------------------------------

const images: ReadonlyMap<string, string> = new Map([
  ["image/png", "png"],
  ["image/jpeg", "jpeg"],
  ["image/jpg", "jpeg"],
  ["image/gif", "gif"],
  ["image/webp", "webp"]
])
const documents: ReadonlyMap<string, string> = new Map([
  ["application/pdf", "pdf"],
  ["text/csv", "csv"],
  ["application/msword", "doc"],
  ["application/vnd.openxmlformats-officedocument.wordprocessingml.document", "docx"],
  ["application/vnd.ms-excel", "xls"],
  ["application/vnd.openxmlformats-officedocument.spreadsheetml.sheet", "xlsx"],
  ["text/html", "html"],
  ["text/plain", "txt"],
  ["text/markdown", "md"]
])

/** Files go by their bytes; addresses would have to be of S3. */
const takes = ({ data, mediaType }: File): boolean =>
  data.url === undefined && (images.has(mediaType) || documents.has(mediaType))

const fileBlock = (provider: string, part: Prompt.FilePartEncoded): Fields => {
  const file = fileOf(part)
  if (!takes(file)) throw unsupported(provider, "unsupported_media_type")
  const { data, mediaType, name } = file
  const source = { bytes: data.base64 }
  const image = images.get(mediaType)
  if (image !== undefined) return { image: { format: image, source } }
  // Letters, digits, single blanks, hyphens and brackets are all that a name may hold.
  const called = (name ?? "").replaceAll(/[^a-z\d\-()[\]]+/gi, " ").trim()
  return { document: { format: documents.get(mediaType), name: called === "" ? "document" : called, source } }
}

/** Blank text is refused in results, too. */
const said = (text: string): Fields => ({ text: isBlank(text) ? "(empty)" : text })

const resultBlock = (provider: string, part: Prompt.ToolResultPartEncoded): Fields => ({
  toolResult: {
    toolUseId: part.id,
    content: part.modelOutput?.some((output) => output.type === "file") === true
      ? part.modelOutput.map((output) => output.type === "file" ? fileBlock(provider, output) : said(output.text))
      : [said(resultText(part))],
    // Not every model has a place for it.
    ...(part.isFailure ? { status: "error" } : undefined)
  }
})

const blockOf = (
  provider: string,
  part: Prompt.UserMessagePartEncoded | Prompt.AssistantMessagePartEncoded | Prompt.ToolMessagePartEncoded
): Fields | undefined => {
  switch (part.type) {
    case "text":
      return isBlank(part.text) ? undefined : { text: part.text }
    case "file":
      return fileBlock(provider, part)
    case "reasoning": {
      // Only what was signed here may be sent back.
      const { redactedContent, signature } = vendorOptions(part, vendor)
      if (typeof redactedContent === "string") return { reasoningContent: { redactedContent } }
      return typeof signature === "string"
        ? { reasoningContent: { reasoningText: { text: part.text, signature } } }
        : undefined
    }
    case "tool-call":
      return isOurs(part)
        ? { toolUse: { toolUseId: part.id, name: part.name, input: argumentsObject(part.params) } }
        : undefined
    case "tool-result":
      return isOurs(part) ? resultBlock(provider, part) : undefined
    default:
      return undefined
  }
}

type Options = { readonly options?: Prompt.ProviderOptions | undefined }

/** The end of a cached prefix, where the caller marked one. */
const cachePoint = (from: Options): ReadonlyArray<Fields> => {
  const point = vendorOptions(from, vendor)["cachePoint"]
  return isFields(point) ? [{ cachePoint: point }] : []
}

const blocksOf = (provider: string, message: Prompt.MessageEncoded): ReadonlyArray<Fields> => {
  if (message.role === "system") return []
  const blocks: Array<Fields> = []
  for (const part of partsOf<Parameters<typeof blockOf>[1]>(message.content)) {
    if (part.type === "file" && message.role === "assistant") continue
    const block = blockOf(provider, part)
    if (block !== undefined) blocks.push(block, ...cachePoint(part))
  }
  return blocks.length === 0 ? [] : [...blocks, ...cachePoint(message)]
}

const isResult = (block: Fields): boolean => block["toolResult"] !== undefined

const wantsInstruction = ({ responseFormat: format }: LlmRequest): boolean =>
  format?.type === "json" && format.schema === undefined

const systemOf = (request: LlmRequest): ReadonlyArray<Fields> | undefined => {
  const blocks = request.prompt.flatMap((message) =>
    message.role === "system" && !isBlank(message.content) ? [{ text: message.content }, ...cachePoint(message)] : []
  )
  const all = wantsInstruction(request) ? [...blocks, { text: jsonInstruction }] : blocks
  return all.length === 0 ? undefined : all
}

/** Names of the tools that the conversation tells of. */
const toldTools = (prompt: LlmRequest["prompt"]): ReadonlyArray<string> => [
  ...new Set(prompt.flatMap((message) =>
    message.role !== "assistant" || typeof message.content === "string"
      ? []
      : message.content.flatMap((part) => part.type === "tool-call" && isOurs(part) ? [part.name] : [])
  ))
]

const hasTools = ({ tools }: LlmRequest): boolean => tools !== undefined && tools.length > 0

/** There is no choice of none: then there are no tools, where the conversation may do without. */
const withholds = ({ prompt, toolChoice }: LlmRequest): boolean =>
  toolChoice === "none" && toldTools(prompt).length === 0

/** The API refuses a conversation that tells of tools beside a request that has none: then those are named. */
const toolsOf = (request: LlmRequest): ReadonlyArray<Fields> =>
  hasTools(request) && !withholds(request)
    ? request.tools!.map(({ description, name, parameters, strict }) => ({
      toolSpec: compact({ name, description, inputSchema: { json: parametersOf(parameters) }, strict })
    }))
    : toldTools(request.prompt).map((name) => ({ toolSpec: { name, inputSchema: { json: parametersOf({}) } } }))

const toolChoice = (choice: LlmRequest["toolChoice"]): Fields | undefined => {
  if (choice === undefined || choice === "none") return undefined
  if (typeof choice !== "string") return { tool: { name: choice.tool } }
  return choice === "required" ? { any: {} } : { auto: {} }
}

const outputConfig = ({ responseFormat: format }: LlmRequest): Fields | undefined =>
  format?.type === "json" && format.schema !== undefined
    ? {
      textFormat: {
        type: "json_schema",
        structure: { jsonSchema: compact({ name: format.name, schema: JSON.stringify(format.schema) }) }
      }
    }
    : undefined

const support: Support = {
  fields: {
    seed: "dropped",
    topK: "dropped",
    presencePenalty: "dropped",
    frequencyPenalty: "dropped",
    reasoningEffort: "dropped",
    toolChoice: (request) => request.toolChoice === "none" && !withholds(request) ? "dropped" : undefined,
    responseFormat: (request) => wantsInstruction(request) ? "as an instruction" : undefined
  },
  file: takes,
  resultFiles: true,
  ownFiles: false,
  systemFirst: true
}

const changes = (request: LlmRequest, model: string): ReadonlyArray<Change> => {
  const all = changesOf(support, request, model)
  return hasTools(request) || toldTools(request.prompt).length === 0
    ? all
    : [...all, { field: "tools", action: "substituted", detail: "those of the conversation" }]
}

const encode = (provider: string, request: LlmRequest): Fields => {
  const turns = turnsOf(withIds(request.prompt, responsesIds), (message) => blocksOf(provider, message), isResult)
  const inference = compact({
    maxTokens: request.maxTokens,
    temperature: request.temperature,
    topP: request.topP,
    stopSequences: request.stop === undefined || request.stop.length === 0 ? undefined : request.stop
  })
  const tools = toolsOf(request)
  const body = compact({
    system: systemOf(request),
    messages: turns,
    inferenceConfig: Object.keys(inference).length === 0 ? undefined : inference,
    toolConfig: tools.length === 0 ? undefined : compact({ tools, toolChoice: toolChoice(request.toolChoice) }),
    outputConfig: outputConfig(request)
  })
  return withOptions(body, optionsFor(request, vendor))
}

// -----------------------------------------------------------------------------
// shared by both kinds of answer
// -----------------------------------------------------------------------------

/** `inputTokens` leaves out what a cache gave or took. */
const tokensOf = (input: unknown): Tokens => {
  const usage = fieldsOf(input)
  const uncached = countOf(usage["inputTokens"])
  const cacheRead = countOf(usage["cacheReadInputTokens"])
  const cacheWrite = countOf(usage["cacheWriteInputTokens"])
  return {
    input: uncached === undefined ? undefined : uncached + (cacheRead ?? 0) + (cacheWrite ?? 0),
    uncached,
    cacheRead,
    cacheWrite,
    output: countOf(usage["outputTokens"])
  }
}

const marked = (mark: "signature" | "redactedContent", value: unknown): Response.ProviderMetadata | undefined =>
  typeof value === "string" && value !== "" ? { [vendor]: { [mark]: value } } : undefined

const citedBy = (citation: unknown): Cited => {
  const { location, source, title } = fieldsOf(citation)
  const { documentChar, documentChunk, documentPage, web } = fieldsOf(location)
  const page = [documentChar, documentPage, documentChunk].find(isFields)
  const index = countOf(page?.["documentIndex"])
  return {
    url: fieldsOf(web)["url"],
    title,
    id: textOf(source) ?? (index === undefined ? undefined : `document_${index}`)
  }
}

// -----------------------------------------------------------------------------
// whole answer
// -----------------------------------------------------------------------------

const loose = Schema.optionalKey(Schema.Unknown)

const Answer = Schema.Struct({
  output: Schema.Struct({ message: Schema.Struct({ content: Schema.Array(Schema.Unknown) }) }),
  stopReason: loose,
  usage: loose
})
const decodeAnswer = Schema.decodeUnknownResult(Answer)

const decode = (body: unknown, exchange: Exchange): ReadonlyArray<Response.PartEncoded> => {
  const decoded = decodeAnswer(body)
  if (Result.isFailure(decoded)) throw malformed(exchange, WRONG_SHAPE)
  const { output, stopReason, usage } = decoded.success
  const blocks = output.message.content.map(fieldsOf)
  const calls = blocks.filter(({ toolUse }) => textOf(fieldsOf(toolUse)["name"]) !== undefined)
  const reason = finishReason(exchange, stopReason, calls.length > 0)
  const ids = new CallIds(exchange)
  const parts: Array<Response.PartEncoded> = [metadataPart(exchange, undefined, undefined)]
  const sources = new Sources()
  const say = (text: unknown): void => {
    const said = textOf(text)
    if (said !== undefined) parts.push({ type: "text", text: said })
  }
  for (const { citationsContent, reasoningContent, text, toolUse } of blocks) {
    say(text)
    if (isFields(citationsContent)) {
      for (const generated of listOf(citationsContent["content"])) say(fieldsOf(generated)["text"])
      for (const citation of listOf(citationsContent["citations"])) sources.add(citedBy(citation))
    }
    if (isFields(reasoningContent)) {
      const { reasoningText, redactedContent } = reasoningContent
      const thought = fieldsOf(reasoningText)
      const metadata = marked("redactedContent", redactedContent) ?? marked("signature", thought["signature"])
      parts.push({
        type: "reasoning",
        text: textOf(thought["text"]) ?? "",
        ...(metadata === undefined ? undefined : { metadata })
      })
    }
    if (isFields(toolUse)) {
      const { input: args, name, toolUseId: id } = toolUse
      parts.push(...callParts(exchange, [{ id, name, args }], reason, ids))
    }
  }
  parts.push(...sources.parts(hasContent(parts)), finishPart(reason, tokensOf(usage)))
  return parts
}

// -----------------------------------------------------------------------------
// stream
// -----------------------------------------------------------------------------

const decodeStream = (parts: Assembler, exchange: Exchange): StreamDecoder => {
  let usage: Fields = {}
  let isTold = false
  let stopReason: unknown
  let isOver = false
  let mark: Response.ProviderMetadata | undefined
  let signature = ""

  const finish = (): void => {
    parts.finish(finishReason(exchange, stopReason, parts.hasTools), tokensOf(usage))
  }

  const reason = ({ redactedContent, signature: more, text }: Fields): void => {
    if (typeof redactedContent === "string") {
      parts.spend(redactedContent.length)
      parts.open("reasoning")
      mark = marked("redactedContent", redactedContent)
    }
    const signed = textOf(more) ?? ""
    parts.spend(signed.length)
    signature += signed
    if (signed !== "") parts.open("reasoning")
    parts.delta("reasoning", textOf(text) ?? "")
  }

  return {
    event: (name, data) => {
      if (!isFields(data)) throw malformed(exchange, WRONG_SHAPE)
      const index = placeOf(data["contentBlockIndex"])
      switch (name) {
        case "messageStart":
          parts.describe()
          break
        case "contentBlockStart": {
          const { toolUse } = fieldsOf(data["start"])
          if (!isFields(toolUse)) break
          const { input, name, toolUseId: id } = toolUse
          parts.call({ key: index, id, name, start: input, apart: true })
          break
        }
        case "contentBlockDelta": {
          const { citation, reasoningContent, text, toolUse } = fieldsOf(data["delta"])
          parts.delta("text", textOf(text) ?? "")
          if (isFields(reasoningContent)) reason(reasoningContent)
          if (isFields(toolUse)) parts.call({ key: index, args: toolUse["input"] })
          if (isFields(citation)) parts.cite(citedBy(citation))
          break
        }
        case "contentBlockStop":
          if (parts.hasTool(index)) parts.endTool(index)
          else parts.close(mark ?? marked("signature", signature))
          mark = undefined
          signature = ""
          break
        case "messageStop":
          stopReason = laterReason(stopReason, data["stopReason"])
          isOver = true
          if (isTold) finish()
          break
        case "metadata":
          usage = grown(usage, data["usage"])
          isTold = true
          if (isOver) finish()
          break
      }
    },
    // What it cost may be missing.
    end: () => {
      if (isOver) finish()
    }
  }
}

export const protocol = (provider: string): Protocol => ({
  vendor,
  changes,
  encode: (request) => encode(provider, request),
  decode,
  stream: decodeStream,
  binary: eventStream
})
