// Google's generateContent protocol, of the Gemini API and of Vertex AI.
import type * as Prompt from "effect/ai/Prompt"
import type * as Response from "effect/ai/Response"
import { TRUNCATED } from "../../LlmError.ts"
import type { LlmRequest } from "../../LlmRequest.ts"
import { type Exchange, malformed, NO_CHOICE, ofEvent, WRONG_SHAPE } from "./errors.ts"
import { tellsFailure } from "./failure.ts"
import { finishReason, laterReason } from "./finish.ts"
import type { Protocol, StreamDecoder } from "./http.ts"
import { anyIds, withIds } from "./ids.ts"
import { compact, countOf, type Fields, fieldsOf, isFields, listed, listOf, placeOf, textOf } from "./json.ts"
import {
  type Assembler,
  CallIds,
  callParts,
  type Cited,
  finishPart,
  hasContent,
  metadataPart,
  saysNothing,
  Sources,
  type Tokens
} from "./parts.ts"
import { argumentsObject, fileOf, isOurs, partsOf, resultText, vendorOptions } from "./prompt.ts"
import {
  changesOf,
  optionsFor,
  parametersOf,
  type Support,
  thinkingBudget,
  threeSteps,
  withOptions
} from "./support.ts"

const vendor = "google"

// -----------------------------------------------------------------------------
// request
// -----------------------------------------------------------------------------

export interface Dialect {
  /** Send the ids of calls and results? Vertex AI refuses them: it pairs results with calls by order and name. */
  readonly callIds: boolean
}

// Gemini 3 refuses a step whose first call has no signature. This one is Google's own for calls it did not make.
const foreignSignature = "skip_thought_signature_validator"
const wantsSignature = /gemini-(?:[3-9]|\d\d)/

const signatureOf = (part: { readonly options?: Prompt.ProviderOptions | undefined }): string | undefined =>
  textOf(vendorOptions(part, vendor)["thoughtSignature"])

const filePart = (part: Prompt.FilePartEncoded): Fields => {
  const { data, mediaType } = fileOf(part)
  return data.url === undefined
    ? { inlineData: { mimeType: mediaType, data: data.base64 } }
    : { fileData: { mimeType: mediaType, fileUri: data.url } }
}

/** A result is an object: as it is, or under Google's names for the output and the error of a function. */
const resultPart = (part: Prompt.ToolResultPartEncoded, { callIds }: Dialect): Fields => {
  const output = part.modelOutput ?? []
  const told = output.some(({ type }) => type === "text") ? resultText(part) : part.result ?? null
  const files = output.flatMap((file) => file.type === "file" ? [filePart(file)] : [])
  return {
    functionResponse: compact({
      id: callIds ? part.id : undefined,
      name: part.name,
      response: part.isFailure ? { error: told } : isFields(told) ? told : { output: told },
      parts: files.length === 0 ? undefined : files
    })
  }
}

const pieceOf = (
  part: Prompt.UserMessagePartEncoded | Prompt.AssistantMessagePartEncoded | Prompt.ToolMessagePartEncoded,
  dialect: Dialect
): Fields | undefined => {
  const thoughtSignature = signatureOf(part)
  switch (part.type) {
    case "text":
      return part.text === "" && thoughtSignature === undefined
        ? undefined
        : compact({ text: part.text, thoughtSignature })
    case "file":
      return compact({ ...filePart(part), thoughtSignature })
    case "reasoning":
      // Only what this vendor signed may be sent back; reasoning of others is left out.
      return thoughtSignature === undefined ? undefined : { text: part.text, thought: true, thoughtSignature }
    case "tool-call": {
      if (!isOurs(part)) return undefined
      const args = argumentsObject(part.params)
      const functionCall = compact({ id: dialect.callIds ? part.id : undefined, name: part.name, args })
      return compact({ functionCall, thoughtSignature })
    }
    case "tool-result":
      return isOurs(part) ? resultPart(part, dialect) : undefined
    default:
      return undefined
  }
}

const piecesOf = (
  message: Exclude<Prompt.MessageEncoded, Prompt.SystemMessageEncoded>,
  model: string,
  dialect: Dialect
): ReadonlyArray<Fields> => {
  const pieces: Array<Fields> = []
  let step = wantsSignature.test(model)
  for (const part of partsOf<Parameters<typeof pieceOf>[0]>(message.content)) {
    const piece = pieceOf(part, dialect)
    if (piece === undefined) continue
    const foreign = step && piece["functionCall"] !== undefined && piece["thoughtSignature"] === undefined
    if (piece["functionCall"] !== undefined) step = false
    pieces.push(foreign ? { ...piece, thoughtSignature: foreignSignature } : piece)
  }
  return pieces
}

/** Neighbours of one role are one turn. Results stay apart from what the user says: they must be as many as the calls. */
const contentsOf = (prompt: LlmRequest["prompt"], model: string, dialect: Dialect): ReadonlyArray<Fields> => {
  const turns: Array<{ readonly of: string; readonly parts: Array<Fields> }> = []
  for (const message of prompt) {
    if (message.role === "system") continue
    const parts = piecesOf(message, model, dialect)
    if (parts.length === 0) continue
    const turn = turns[turns.length - 1]
    if (turn?.of === message.role) { for (const part of parts) turn.parts.push(part) }
    else turns.push({ of: message.role, parts: [...parts] })
  }
  return turns.map(({ of, parts }) => ({ role: of === "assistant" ? "model" : "user", parts }))
}

const modes = { auto: "AUTO", none: "NONE", required: "ANY" } as const

const callingConfig = (choice: NonNullable<LlmRequest["toolChoice"]>): Fields =>
  typeof choice === "string" ? { mode: modes[choice] } : { mode: "ANY", allowedFunctionNames: [choice.tool] }

const encode = (dialect: Dialect, request: LlmRequest, model: string): Fields => {
  const { responseFormat: format, stop, toolChoice } = request
  const system = request.prompt.flatMap((message) =>
    message.role === "system" && message.content !== "" ? [{ text: message.content }] : []
  )
  const tools = request.tools === undefined || request.tools.length === 0 ? undefined : request.tools
  const config = compact({
    maxOutputTokens: request.maxTokens,
    temperature: request.temperature,
    topP: request.topP,
    topK: request.topK,
    presencePenalty: request.presencePenalty,
    frequencyPenalty: request.frequencyPenalty,
    thinkingConfig: thinkingOf(request.reasoningEffort, model),
    stopSequences: stop === undefined || stop.length === 0 ? undefined : stop,
    seed: request.seed,
    responseMimeType: format?.type === "json" ? "application/json" : undefined,
    responseJsonSchema: format?.type === "json" ? format.schema : undefined
  })
  const functions = tools?.filter(({ provider }) => provider === undefined) ?? []
  const body = compact({
    contents: contentsOf(withIds(request.prompt, anyIds), model, dialect),
    systemInstruction: system.length === 0 ? undefined : { parts: system },
    tools: tools === undefined ? undefined : [
      ...functions.length === 0 ? [] : [{
        functionDeclarations: functions.map(({ description, name, parameters }) =>
          compact({ name, description, parametersJsonSchema: parametersOf(parameters) })
        )
      }],
      ...tools.flatMap(({ provider }) =>
        provider === undefined ? [] : [{ [fieldOf(provider.id.slice(vendorTools.length))]: provider.args ?? {} }]
      )
    ],
    toolConfig: tools === undefined || toolChoice === undefined
      ? undefined
      : { functionCallingConfig: callingConfig(toolChoice) },
    generationConfig: Object.keys(config).length === 0 ? undefined : config
  })
  return withOptions(body, optionsFor(request, vendor))
}

const vendorTools = "google."

/** `google_search` → `googleSearch`. */
const fieldOf = (tool: string): string => tool.replace(/_([a-z])/g, (_, letter: string) => letter.toUpperCase())

/** Models since Gemini 3 take a level, those before a budget, of which the larger ones want some. */
const thinkingOf = (effort: LlmRequest["reasoningEffort"], model: string): Fields | undefined => {
  if (effort === undefined) return undefined
  if (wantsSignature.test(model)) {
    return { thinkingLevel: effort === "none" || effort === "minimal" ? "minimal" : threeSteps[effort] }
  }
  if (effort === "none") return { thinkingBudget: model.includes("pro") ? 128 : 0 }
  return { thinkingBudget: Math.min(24_576, thinkingBudget[effort]) }
}

const support: Support = {
  fields: {
    reasoningEffort: ({ reasoningEffort: effort }, model) => {
      if (effort === "none") return wantsSignature.test(model) || model.includes("pro") ? "as the least" : undefined
      return effort === "xhigh" ? "as the most" : undefined
    }
  },
  file: () => true,
  resultFiles: true,
  ownFiles: true,
  systemFirst: true,
  vendorTools
}

// -----------------------------------------------------------------------------
// shared by both kinds of answer
// -----------------------------------------------------------------------------

/** What one piece of content says. */
type Piece =
  | { readonly type: "text" | "reasoning"; readonly text: string; readonly metadata: Metadata | undefined }
  | {
    readonly type: "file"
    readonly mediaType: string
    readonly data: string
    readonly metadata: Metadata | undefined
  }
  | {
    readonly type: "call"
    readonly id: string | undefined
    /** Without one it is no call, which is found at the end. */
    readonly name: string | undefined
    readonly args: unknown
    readonly metadata: Metadata | undefined
  }
type Metadata = Response.ProviderMetadata

const readPiece = (input: unknown): ReadonlyArray<Piece> => {
  const piece = typeof input === "string" ? { text: input } : fieldsOf(input)
  const signature = textOf(piece["thoughtSignature"])
  const metadata: Metadata | undefined = signature === undefined
    ? undefined
    : { [vendor]: { thoughtSignature: signature } }
  const { args, id, name } = fieldsOf(piece["functionCall"])
  const called = textOf(name)
  if (called !== undefined || !saysNothing(args)) {
    return [{ type: "call", id: textOf(id), name: called, args, metadata }]
  }
  const thought = piece["thought"] === true
  const file = fieldsOf(piece["inlineData"])
  const mediaType = textOf(file["mimeType"])
  const data = textOf(file["data"])
  // Images inside thoughts are drafts.
  if (mediaType !== undefined && data !== undefined) {
    return thought ? [] : [{ type: "file", mediaType, data, metadata }]
  }
  const { text } = piece
  // A signature can come with an empty text.
  return typeof text === "string" && (text !== "" || metadata !== undefined)
    ? [{ type: thought ? "reasoning" : "text", text, metadata }]
    : []
}

const counts = ["promptTokenCount", "cachedContentTokenCount", "candidatesTokenCount", "thoughtsTokenCount"] as const

/** An answer comes in chunks, each in the shape of a whole one, which is one chunk. */
class Answer {
  id: unknown
  model: unknown
  /** Was there a candidate, or word that there will be none? */
  given = false
  private called = false
  private blocked = false
  private reason: unknown
  private readonly usage: { [K in typeof counts[number]]?: unknown } = {}
  private readonly exchange: Exchange
  private readonly cite: (cited: Cited) => void

  constructor(exchange: Exchange, cite: (cited: Cited) => void) {
    this.exchange = exchange
    this.cite = cite
  }

  /** Takes the next chunk, or a list of them, and returns its content. */
  take(data: unknown): ReadonlyArray<Piece> {
    return Array.isArray(data) ? data.flatMap((chunk) => this.takeChunk(chunk)) : this.takeChunk(data)
  }

  private takeChunk(chunk: unknown): ReadonlyArray<Piece> {
    if (!isFields(chunk)) throw malformed(this.exchange, WRONG_SHAPE)
    if (tellsFailure(chunk)) throw ofEvent(this.exchange, chunk)
    this.id ??= textOf(chunk["responseId"])
    this.model ??= textOf(chunk["modelVersion"])
    // Each chunk tells them anew, and some that say less than before are right. A zero at the end says nothing.
    const usage = fieldsOf(chunk["usageMetadata"])
    for (const name of counts) {
      if (usage[name] !== 0 || this.usage[name] === undefined) this.usage[name] = usage[name] ?? this.usage[name]
    }
    if (textOf(fieldsOf(chunk["promptFeedback"])["blockReason"]) !== undefined) this.given = this.blocked = true
    const candidate = listed(chunk["candidates"]).find((one) => isFields(one) && placeOf(one["index"] ?? 0) === 0)
    if (!isFields(candidate)) return []
    this.given = true
    const pieces = listed(fieldsOf(candidate["content"])["parts"]).flatMap(readPiece)
    // Some models tell a reason in every chunk: only the last one counts.
    const reason = textOf(candidate["finishReason"])
    this.reason = pieces.length > 0 ? reason : laterReason(this.reason, reason)
    for (const piece of pieces) {
      if (piece.type === "call" && piece.name !== undefined) this.called = true
    }
    this.takeSources(candidate)
    return pieces
  }

  private takeSources(candidate: Fields): void {
    for (const ground of listOf(fieldsOf(candidate["groundingMetadata"])["groundingChunks"])) {
      const { maps, retrievedContext, web } = fieldsOf(ground)
      const { title, uri } = fieldsOf(web ?? retrievedContext ?? maps)
      this.cite({ url: uri, title })
    }
    const { citationSources, citations } = fieldsOf(candidate["citationMetadata"])
    for (const list of [citationSources, citations]) {
      for (const citation of listOf(list)) {
        const { title, uri } = fieldsOf(citation)
        this.cite({ url: uri, title })
      }
    }
  }

  /** Has the last chunk of content said why it is the last? */
  get whole(): boolean {
    return this.blocked || this.reason !== undefined
  }

  get finishReason(): Response.FinishReason {
    if (this.reason === undefined) return this.blocked ? "content-filter" : "unknown"
    return finishReason(this.exchange, this.reason, this.called)
  }

  /** Thoughts are not among the candidates' tokens, but cached tokens are among the prompt's. */
  get tokens(): Tokens {
    const told = countOf(this.usage.candidatesTokenCount)
    const reasoning = countOf(this.usage.thoughtsTokenCount)
    return {
      input: countOf(this.usage.promptTokenCount),
      cacheRead: countOf(this.usage.cachedContentTokenCount),
      output: told === undefined && reasoning === undefined ? undefined : (told ?? 0) + (reasoning ?? 0),
      reasoning
    }
  }
}

const described = <P extends object>(part: P, metadata: Metadata | undefined) =>
  metadata === undefined ? part : { ...part, metadata }

// -----------------------------------------------------------------------------
// whole answer
// -----------------------------------------------------------------------------

const decode = (body: unknown, exchange: Exchange): ReadonlyArray<Response.PartEncoded> => {
  const sources = new Sources()
  const answer = new Answer(exchange, (cited) => sources.add(cited))
  const pieces = answer.take(body)
  if (!answer.given) throw malformed(exchange, NO_CHOICE)
  // A stream without events is a list of chunks.
  if (Array.isArray(body) && !answer.whole) throw malformed(exchange, TRUNCATED)
  const { finishReason: reason, id, model } = answer
  const parts: Array<Response.PartEncoded> = [metadataPart(exchange, id, model)]
  const ids = new CallIds(exchange)
  for (const piece of pieces) {
    if (piece.type === "call") {
      parts.push(...callParts(exchange, [piece], reason, ids))
    } else if (piece.type === "file") {
      const { data, mediaType, type } = piece
      parts.push(described({ type, mediaType, data }, piece.metadata))
    } else {
      const { metadata, text, type } = piece
      const last = parts[parts.length - 1]
      // A signature belongs to its piece alone.
      if (last?.type === type && last.metadata === undefined && metadata === undefined) {
        parts[parts.length - 1] = { type, text: last.text + text }
      } else parts.push(described({ type, text }, metadata))
    }
  }
  parts.push(...sources.parts(hasContent(parts)), finishPart(reason, answer.tokens))
  return parts
}

// -----------------------------------------------------------------------------
// stream
// -----------------------------------------------------------------------------

const decodeStream = (parts: Assembler, exchange: Exchange): StreamDecoder => {
  const answer = new Answer(exchange, (cited) => parts.cite(cited))
  let calls = 0

  const takePiece = (piece: Piece): void => {
    const { metadata } = piece
    switch (piece.type) {
      case "call": {
        const { args = {}, id, name } = piece
        const key = calls++
        parts.call({ key, id, name, args, metadata, apart: true })
        parts.endTool(key)
        break
      }
      case "file": {
        const { data, mediaType, type } = piece
        parts.add(described({ type, mediaType, data }, metadata))
        break
      }
      default:
        // A signature belongs to its piece alone.
        if (metadata !== undefined) parts.close()
        parts.open(piece.type)
        parts.delta(piece.type, piece.text)
        if (metadata !== undefined) parts.close(metadata)
    }
  }

  return {
    event: (_, data) => {
      const pieces = answer.take(data)
      parts.describe(answer.id, answer.model, answer.tokens)
      for (const piece of pieces) takePiece(piece)
    },
    end: () => {
      if (answer.whole) parts.finish(answer.finishReason, answer.tokens)
    }
  }
}

export const protocol = (dialect: Dialect): Protocol => ({
  vendor,
  changes: (request, model) => changesOf(support, request, model),
  encode: (request, model) => encode(dialect, request, model),
  decode,
  stream: decodeStream
})
