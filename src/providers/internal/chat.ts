// The chat completions protocol, as OpenAI defines it and as others speak it.
import type * as Prompt from "effect/ai/Prompt"
import type * as Response from "effect/ai/Response"
import * as Base64 from "effect/encoding/Base64"
import * as Result from "effect/Result"
import type { LlmRequest } from "../../LlmRequest.ts"
import { type Exchange, malformed, NO_CHOICE, ofEvent, unsupported, WRONG_SHAPE } from "./errors.ts"
import { finishReason, laterReason } from "./finish.ts"
import type { Protocol, StreamDecoder } from "./http.ts"
import { type IdRule, withIds } from "./ids.ts"
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
  grown,
  hasContent,
  imagePart,
  metadataPart,
  Sources,
  type Tokens
} from "./parts.ts"
import { argumentsText, fileOf, isOurs, partsOf, resultText, urlOf, vendorOptions } from "./prompt.ts"
import { changesOf, optionsFor, parametersOf, type Support, withOptions } from "./support.ts"

/** Where servers differ. */
export interface Dialect {
  readonly provider: string
  readonly maxTokensField: "max_tokens" | "max_completion_tokens"
  readonly seedField: "seed" | "random_seed"
  /** Ask for usage at the end of a stream; some servers refuse the field. */
  readonly streamOptions: boolean
  /** Is a stream without `[DONE]` cut even if its answer finished? */
  readonly requireDone: boolean
  /** The name of what is this vendor's own: options of requests, and marks of parts. */
  readonly vendor: string
  /** Do parts keep marks that only this vendor understands, and does it want them back? */
  readonly marks: boolean
  readonly ids: IdRule
  /** Do its models see images? */
  readonly images: boolean
  /** Does it take `top_k`? */
  readonly topK: boolean
}

// -----------------------------------------------------------------------------
// request
// -----------------------------------------------------------------------------

const audioFormats: ReadonlyMap<string, string> = new Map([
  ["audio/wav", "wav"],
  ["audio/x-wav", "wav"],
  ["audio/mpeg", "mp3"],
  ["audio/mp3", "mp3"]
])

const userPart = ({ images, provider }: Dialect, part: Prompt.UserMessagePartEncoded): Fields => {
  if (part.type === "text") return { type: "text", text: part.text }
  const file = fileOf(part)
  const isImage = file.mediaType.startsWith("image/")
  if (isImage && !images) throw unsupported(provider, "unsupported_media_type")
  if (isImage) return { type: "image_url", image_url: { url: urlOf(file) } }
  const { base64 } = file.data
  if (base64 === undefined) throw unsupported(provider, "unsupported_file_url")
  const format = audioFormats.get(file.mediaType)
  return format === undefined
    ? { type: "file", file: { filename: file.name ?? "file", file_data: urlOf(file) } }
    : { type: "input_audio", input_audio: { data: base64, format } }
}

/** Where a message tells its reasoning beside its content. */
const reasoningFields = ["reasoning_content", "reasoning"] as const

/** Whose API refuses a turn that called tools without its reasoning, be it another's turn: then an empty one. */
const wantReasoning: ReadonlySet<string> = new Set(["deepseek", "moonshot"])

type AssistantTurn = (text: string, calls: ReadonlyArray<Fields>, message: Prompt.AssistantMessageEncoded) => Fields

/** An assistant's turn, with the marks of this vendor: those of others mean nothing to it. */
const assistantMessage = (vendor: string | undefined): AssistantTurn => (text, calls, message) => {
  const reasoning: Record<string, string> = calls.length > 0 && vendor !== undefined && wantReasoning.has(vendor)
    ? { reasoning_content: "" }
    : {}
  const details: Array<unknown> = []
  if (vendor !== undefined) {
    for (const part of partsOf<Prompt.AssistantMessagePartEncoded>(message.content)) {
      if (part.type !== "reasoning") continue
      const { field, reasoningDetails } = vendorOptions(part, vendor)
      for (const detail of listOf(reasoningDetails)) details.push(detail)
      const name = reasoningFields.find((name) => name === field)
      if (name !== undefined && calls.length > 0) reasoning[name] = (reasoning[name] ?? "") + part.text
    }
  }
  return {
    role: "assistant",
    content: text === "" && calls.length > 0 ? null : text,
    ...(details.length === 0 ? reasoning : { reasoning_details: details }),
    ...(calls.length === 0 ? undefined : { tool_calls: calls })
  }
}

/** Messages in the form that OpenAI made common; a vendor tells how it writes a user's part and an assistant's turn. */
export const messagesOf = (
  prompt: LlmRequest["prompt"],
  userPart: (part: Prompt.UserMessagePartEncoded) => Fields,
  assistant: AssistantTurn,
  vendor?: string
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
        const extra_content = vendor === undefined ? undefined : vendorOptions(part, vendor)["extraContent"]
        calls.push(compact({ id: part.id, type: "function", function: call, extra_content }))
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
    function: compact({
      name,
      description,
      parameters: parametersOf(parameters),
      strict: strictness ? strict : undefined
    })
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

const markOf = ({ marks, vendor }: Dialect): string | undefined => marks ? vendor : undefined

const encode = (dialect: Dialect, request: LlmRequest, model: string, stream: boolean): Fields => {
  const tools = functionTools(request.tools, true)
  const choice = request.toolChoice
  const body = compact({
    model,
    messages: messagesOf(
      withIds(request.prompt, dialect.ids),
      (part) => userPart(dialect, part),
      assistantMessage(markOf(dialect)),
      markOf(dialect)
    ),
    [dialect.maxTokensField]: request.maxTokens,
    temperature: request.temperature,
    top_p: request.topP,
    top_k: dialect.topK ? request.topK : undefined,
    presence_penalty: request.presencePenalty,
    frequency_penalty: request.frequencyPenalty,
    reasoning_effort: request.reasoningEffort,
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
  return withOptions(body, optionsFor(request, dialect.vendor))
}

const supportOf = (dialect: Dialect): Support => ({
  fields: dialect.topK ? {} : { topK: "dropped" },
  file: ({ data, mediaType }) => mediaType.startsWith("image/") ? dialect.images : data.base64 !== undefined,
  resultFiles: false,
  ownFiles: false
})

// -----------------------------------------------------------------------------
// shared by both kinds of answer
// -----------------------------------------------------------------------------

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

type Take = (type: "text" | "reasoning", text: string, field?: string) => void

/** Calls `take` with each piece of text and reasoning. Content may be a text or a list, whose items may nest. */
const takeContent = (message: Fields, take: Take): void => {
  const field = reasoningFields.find((name) => textOf(message[name]) !== undefined)
  if (field !== undefined) take("reasoning", message[field] as string, field)
  const { content } = message
  if (typeof content === "string") {
    if (content !== "") take("text", content)
    return
  }
  for (const item of listed(content)) {
    const { thinking, type } = fieldsOf(item)
    if (type === "thinking") {
      const pieces = typeof thinking === "string"
        ? [thinking]
        : listOf(thinking).map((piece) => fieldsOf(piece)["text"])
      for (const piece of pieces) if (textOf(piece) !== undefined) take("reasoning", textOf(piece)!)
    } else if (textOfPiece(item) !== undefined) take("text", textOfPiece(item)!)
  }
}

/** Images that come in or beside the content; some servers give their address instead. */
const imagesOf = ({ content, images }: Fields): ReadonlyArray<Response.FilePartEncoded | Cited & { type?: never }> => {
  if (typeof content === "string" && images === undefined) return []
  const inside = listed(content).filter((item) => textOf(fieldsOf(item)["type"])?.includes("image") === true)
  return [...inside, ...listOf(images)].flatMap((item): ReturnType<typeof imagesOf> => {
    const { b64_json, data, image_url, url } = fieldsOf(item)
    const given = typeof item === "string" ? item : fieldsOf(image_url)["url"] ?? image_url ?? url ?? b64_json ?? data
    const part = imagePart(given)
    return part === undefined ? [{ url: given, title: "image" }] : [part]
  })
}

/** What only this vendor understands about a reasoning or a call, and wants back. */
const marked = (vendor: string | undefined, mark: Fields): Response.ProviderMetadata | undefined =>
  vendor === undefined ? undefined : { [vendor]: mark as Response.ProviderMetadata[string] }

const markOfCall = (vendor: string | undefined, call: Fields): Response.ProviderMetadata | undefined =>
  isFields(call["extra_content"]) ? marked(vendor, { extraContent: call["extra_content"] }) : undefined

/** A call in its frame, or without one. */
const callOf = (vendor: string | undefined, call: Fields) => {
  const { arguments: args, input, name } = [call["function"], call["custom"]].find(isFields) ?? call
  return { id: call["id"], name, args: args ?? input, metadata: markOfCall(vendor, call) }
}

/** What the model refuses to say; some tell it among the pieces of the content. */
const refusalOf = ({ content, refusal }: Fields): string | undefined =>
  textOf(refusal) ?? (typeof content === "object"
    ? textOf(listed(content).map((piece) => textOf(fieldsOf(piece)["refusal"]) ?? "").join(""))
    : undefined)

const citedBy = (annotation: unknown): Cited => {
  const { type, url_citation } = fieldsOf(annotation)
  const { title, url } = fieldsOf(type === "url_citation" ? url_citation : undefined)
  return { url, title }
}

/** Pages that Perplexity and others tell beside the answer: with their titles, or as mere addresses. */
const pagesOf = (results: unknown, citations: unknown): ReadonlyArray<Cited> =>
  listOf(results).concat(listOf(citations)).map((page) => {
    const { title, url } = fieldsOf(page)
    return typeof page === "string" ? { url: page } : { url, title }
  })

const failOnChoiceError = (exchange: Exchange, choice: Fields): void => {
  if (isFields(choice["error"])) throw ofEvent(exchange, choice)
}

/** Several answers come interleaved; the first is the one that was asked for. */
const isFirst = (choice: { readonly index?: unknown }): boolean => placeOf(choice.index ?? 0) === 0

/** Speech, with what is needed to name it in the next request and what was said. */
const audioPart = (
  vendor: string,
  { id, transcript }: Fields,
  data: string,
  mediaType = audioTypes.find(([start]) => data.startsWith(start))?.[1] ?? "audio/wav"
): Response.FilePartEncoded => {
  const mark = compact({ audioId: textOf(id), transcript: textOf(transcript) })
  const metadata = Object.keys(mark).length === 0 ? undefined : marked(vendor, mark)
  return { type: "file", mediaType, data, ...(metadata === undefined ? undefined : { metadata }) }
}

const audioTypes: ReadonlyArray<readonly [start: string, mediaType: string]> = [
  ["SUQz", "audio/mpeg"],
  ["//", "audio/mpeg"],
  ["T2dn", "audio/ogg"],
  ["ZkxhQ", "audio/flac"]
]

/** Pieces of base64, each of which may end with padding, as one. */
const joined = (pieces: ReadonlyArray<string>): string => {
  const all = pieces.join("")
  if (!all.slice(0, -2).includes("=")) return all
  const bytes = pieces.map((piece) => Result.getOrElse(Base64.decode(piece), () => new Uint8Array()))
  const whole = new Uint8Array(bytes.reduce((sum, { length }) => sum + length, 0))
  let at = 0
  for (const piece of bytes) {
    whole.set(piece, at)
    at += piece.length
  }
  return Base64.encode(whole)
}

// -----------------------------------------------------------------------------
// whole answer
// -----------------------------------------------------------------------------

// By hand, because every answer comes through here: a `Schema` would copy what it checks.
const isAbsentOr = (u: unknown, is: (u: unknown) => boolean): boolean => u === undefined || u === null || is(u)
const isCalls = (u: unknown): boolean => typeof u === "object"
const isMessage = (u: unknown): boolean =>
  isFields(u) && isContent(u["content"]) && isAbsentOr(u["tool_calls"], isCalls)
// Azure leaves the message out when its filter took the answer.
const isChoice = (u: unknown): u is Fields =>
  isFields(u) && isAbsentOr(u["message"], isMessage) && isAbsentOr(u["delta"], isMessage)

const decode = (dialect: Dialect, body: unknown, exchange: Exchange): ReadonlyArray<Response.PartEncoded> => {
  const vendor = markOf(dialect)
  if (!isFields(body)) throw malformed(exchange, WRONG_SHAPE)
  const { choices, citations, id, model, search_results, usage } = body
  for (const choice of listOf(choices)) failOnChoiceError(exchange, fieldsOf(choice))
  if (!Array.isArray(choices) || !choices.every(isChoice)) throw malformed(exchange, WRONG_SHAPE)
  const choice = choices.find(isFirst) ?? choices[0]
  const given = choice?.["message"] ?? (textOf(choice?.["finish_reason"]) === undefined ? undefined : {})
  if (choice === undefined || given === undefined) throw malformed(exchange, NO_CHOICE)
  const message = fieldsOf(given)
  const calls = listed(message["tool_calls"]).map((call) => callOf(vendor, fieldsOf(call)))
  if (isFields(message["function_call"])) calls.push(callOf(vendor, { function: message["function_call"] }))
  const reason = finishReason(exchange, choice["finish_reason"], calls.some(({ name }) => textOf(name) !== undefined))
  const parts: Array<Response.PartEncoded> = [metadataPart(exchange, id, model)]
  const details = listOf(message["reasoning_details"])
  takeContent(message, (type, text, field) => {
    const last = parts[parts.length - 1]
    if (last?.type === type) parts[parts.length - 1] = { ...last, text: last.text + text }
    else {
      const metadata = field === undefined ? undefined : marked(vendor, { field })
      parts.push({ type, text, ...(metadata === undefined ? undefined : { metadata }) })
    }
  })
  const metadata = details.length === 0 ? undefined : marked(vendor, { reasoningDetails: details })
  if (metadata !== undefined) parts.push({ type: "reasoning", text: "", metadata })
  const sources = new Sources()
  let shown = false
  for (const image of imagesOf(message)) {
    if (image.type === "file") parts.push(image)
    else if (sources.add(image) > 0) shown = true
  }
  const audio = fieldsOf(message["audio"])
  if (textOf(audio["data"]) !== undefined) parts.push(audioPart(dialect.vendor, audio, audio["data"] as string))
  for (const call of callParts(exchange, calls, reason)) parts.push(call)
  const refusal = refusalOf(message)
  for (const annotation of listOf(message["annotations"])) sources.add(citedBy(annotation))
  for (const page of pagesOf(search_results, citations)) sources.add(page)
  for (const source of sources.parts(shown || hasContent(parts))) parts.push(source)
  const told = isFields(choice["usage"]) ? grown(choice["usage"], usage) : usage
  parts.push(finishPart(reason, tokensOf(told), refusal === undefined ? undefined : { refusal }))
  return parts
}

// -----------------------------------------------------------------------------
// stream
// -----------------------------------------------------------------------------

/** What counts of a message told as a whole. */
const wholes = ["content", ...reasoningFields, "reasoning_details", "tool_calls", "refusal", "images", "audio"] as const

const decodeStream = (dialect: Dialect, parts: Assembler, exchange: Exchange): StreamDecoder => {
  const vendor = markOf(dialect)
  let reason: unknown
  /** Was nothing said since? */
  let isLast = false
  let usage: Fields = {}
  let refusal = ""
  let results: unknown
  let citations: unknown
  /** Kinds of content that came in deltas. Of a message told as a whole, only the others are taken. */
  const streamed = new Set<string>()
  const message: Record<string, unknown> = {}
  const details: Array<Fields> = []
  /** Where in them the last one is of an index and type. */
  const places = new Map<string, number>()
  const sound: Array<string> = []
  const audio = { id: "", transcript: "" }

  const takeCalls = (calls: unknown): void => {
    listed(calls).map(fieldsOf).forEach((call, i) => {
      const key = placeOf(call["index"])
      parts.call({ ...callOf(vendor, call), key, apart: key === undefined && i > 0 })
    })
  }

  const takeText: Take = (type, text, field) =>
    parts.delta(type, text, field === undefined ? undefined : marked(vendor, { field }))

  const takeRefusal = (text: string): void => {
    parts.spend(text.length)
    refusal += text
  }

  /** Details come in pieces: those of one index and type are one, of which the texts go on. */
  const takeDetails = (pieces: unknown): void => {
    if (vendor === undefined) return
    for (const piece of listOf(pieces).filter(isFields)) {
      parts.spend(JSON.stringify(piece).length)
      const place = JSON.stringify([piece["index"], piece["type"]])
      const at = piece["index"] === undefined ? undefined : places.get(place)
      if (at === undefined) places.set(place, details.push(piece) - 1)
      else {
        const before = details[at]!
        const more: Record<string, unknown> = { ...before, ...compact(piece) }
        for (const name of ["text", "summary", "data"]) {
          const [start, next] = [textOf(before[name]), textOf(piece[name])]
          if (start !== undefined) more[name] = start + (next ?? "")
        }
        details[at] = more
      }
    }
  }

  const takeFiles = (from: Fields): void => {
    for (const image of imagesOf(from)) {
      streamed.add("files")
      if (image.type === "file") parts.add(image)
      else parts.cite(image, true)
    }
  }

  const takeDelta = (delta: Fields): void => {
    takeContent(delta, (type, text, field) => {
      streamed.add(type)
      takeText(type, text, field)
    })
    takeDetails(delta["reasoning_details"])
    takeFiles(delta)
    const { data, id, transcript } = fieldsOf(delta["audio"])
    if (textOf(data) !== undefined) {
      parts.spend((data as string).length)
      sound.push(data as string)
    }
    parts.spend(textOf(transcript)?.length ?? 0)
    audio.id = textOf(id) ?? audio.id
    audio.transcript += textOf(transcript) ?? ""
    const refused = refusalOf(delta)
    if (refused !== undefined) takeRefusal(refused)
    for (const annotation of listOf(delta["annotations"])) parts.cite(citedBy(annotation))
    takeCalls(delta["tool_calls"])
    if (isFields(delta["function_call"])) {
      const { arguments: args, name } = delta["function_call"]
      parts.call({ key: "function_call", name, args })
    }
  }

  const takeMessage = (whole: Fields, take: Take): void => {
    const said = { text: "", reasoning: "" }
    const from: { text?: string | undefined; reasoning?: string | undefined } = {}
    takeContent(whole, (type, text, field) => {
      said[type] += text
      from[type] = field
    })
    take("reasoning", said.reasoning, from.reasoning)
    take("text", said.text, from.text)
  }

  const finish = (): void => {
    takeMessage(message, (type, text, field) => {
      if (!parts.isHeard(type)) takeText(type, text, field)
    })
    if (!streamed.has("files")) takeFiles(message)
    if (!parts.hasTools) takeCalls(message["tool_calls"])
    if (refusal === "") takeRefusal(refusalOf(message) ?? "")
    if (details.length === 0) takeDetails(message["reasoning_details"])
    if (details.length > 0) {
      parts.close()
      parts.open("reasoning", marked(vendor, { reasoningDetails: details }))
    }
    const whole = fieldsOf(message["audio"])
    if (sound.length > 0) parts.add(audioPart(dialect.vendor, audio, joined(sound), "audio/pcm"))
    else if (textOf(whole["data"]) !== undefined) parts.add(audioPart(dialect.vendor, whole, whole["data"] as string))
    for (const page of pagesOf(results, citations)) parts.cite(page)
    const end = finishReason(exchange, reason, parts.hasTools)
    parts.finish(end, tokensOf(usage), refusal === "" ? undefined : { refusal })
  }

  return {
    event: (_, data) => {
      if (!isFields(data)) throw malformed(exchange, WRONG_SHAPE)
      // Azure describes its filters in a first chunk without id and model.
      if (textOf(data["id"]) !== undefined || textOf(data["model"]) !== undefined) {
        parts.describe(data["id"], data["model"])
      }
      usage = grown(grown(usage, data["usage"]), fieldsOf(data["x_groq"])["usage"])
      // Each chunk tells them all: the last ones count.
      results = data["search_results"] ?? results
      citations = data["citations"] ?? citations
      const choice = listOf(data["choices"]).map(fieldsOf).find(isFirst)
      if (choice === undefined) return
      failOnChoiceError(exchange, choice)
      if (!isChoice(choice)) throw malformed(exchange, WRONG_SHAPE)
      usage = grown(usage, choice["usage"])
      const said = parts.out.length
      takeDelta(fieldsOf(choice["delta"]))
      if (parts.out.length > said) isLast = false
      const told = choice["message"]
      if (isFields(told)) {
        for (const name of wholes) message[name] = told[name] ?? message[name]
        for (const annotation of listOf(told["annotations"])) parts.cite(citedBy(annotation))
        // A server without deltas tells the message again and again, as far as it is, or in pieces.
        if (!isFields(choice["delta"])) {
          takeMessage(told, (type, text, field) => {
            if (!streamed.has(type)) takeText(type, parts.rest(type, text) ?? text, field)
          })
        }
      }
      if (textOf(choice["finish_reason"]) === undefined) return
      reason = isLast ? laterReason(reason, choice["finish_reason"]) : choice["finish_reason"]
      isLast = true
      finishReason(exchange, reason, false)
    },
    marker: finish,
    end: () => {
      if (!dialect.requireDone && isLast) finish()
    }
  }
}

export const protocol = (dialect: Dialect): Protocol => {
  const support = supportOf(dialect)
  return {
    vendor: dialect.vendor,
    changes: (request, model) => changesOf(support, request, model),
    encode: (request, model, stream) => encode(dialect, request, model, stream),
    decode: (body, exchange) => decode(dialect, body, exchange),
    stream: (assembler, exchange) => decodeStream(dialect, assembler, exchange)
  }
}
