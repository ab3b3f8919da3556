// Builds the parts of an answer in the vocabulary of `effect/ai`, whole or as they stream in.
import type * as Response from "effect/ai/Response"
import * as LlmResponse from "../../LlmResponse.ts"
import { type Exchange, malformed, TOO_LARGE } from "./errors.ts"
import { rateLimitsOf, requestIdOf } from "./headers.ts"
import { isFields, parse, textOf } from "./json.ts"

type Metadata = Response.ProviderMetadata
type FinishReason = Response.FinishReason

/** Token counts as a provider tells them; what it does not tell is absent. `total` includes cache and reasoning. */
export interface Tokens {
  readonly input?: number | undefined
  /** Input that is neither read from nor written to a cache; what the rest leaves by default. */
  readonly uncached?: number | undefined
  readonly cacheRead?: number | undefined
  readonly cacheWrite?: number | undefined
  readonly output?: number | undefined
  readonly reasoning?: number | undefined
}

const difference = (total: number | undefined, ...parts: ReadonlyArray<number | undefined>): number | undefined => {
  if (total === undefined || parts.every((part) => part === undefined)) return undefined
  const rest = parts.reduce<number>((left, part) => left - (part ?? 0), total)
  return rest < 0 ? undefined : rest
}

export const usageOf = (tokens: Tokens): LlmResponse.Usage => {
  const { cacheRead, cacheWrite, input, output, reasoning } = tokens
  const uncached = tokens.uncached ?? difference(input, cacheRead, cacheWrite)
  const text = difference(output, reasoning)
  return {
    inputTokens: {
      ...(input === undefined ? undefined : { total: input }),
      ...(uncached === undefined ? undefined : { uncached }),
      ...(cacheRead === undefined ? undefined : { cacheRead }),
      ...(cacheWrite === undefined ? undefined : { cacheWrite })
    },
    outputTokens: {
      ...(output === undefined ? undefined : { total: output }),
      ...(text === undefined ? undefined : { text }),
      ...(reasoning === undefined ? undefined : { reasoning })
    }
  }
}

/** The first part of every answer. */
export const metadataPart = (exchange: Exchange, id: unknown, model: unknown): Response.ResponseMetadataPartEncoded => {
  const responseId = textOf(id)
  const modelId = textOf(model)
  return {
    type: "response-metadata",
    ...(responseId === undefined ? undefined : { id: responseId }),
    ...(modelId === undefined ? undefined : { modelId }),
    metadata: LlmResponse.httpMetadata({
      requestId: requestIdOf(exchange.headers),
      rateLimits: rateLimitsOf(exchange.headers, exchange.now)
    })
  }
}

/** The last part of every answer. */
export const finishPart = (
  reason: FinishReason,
  tokens: Tokens,
  metadata?: Metadata
): Response.FinishPartEncoded => ({
  type: "finish",
  reason,
  usage: usageOf(tokens),
  ...(metadata === undefined ? undefined : { metadata })
})

/**
 * A tool call. Arguments come as JSON text, or parsed from lenient servers; none at all mean `{}`, and a text that does
 * not parse stays a text. A text that the token limit or a filter cut, be it before its first character, is not a call.
 */
export const toolCallPart = (
  id: string,
  name: string,
  args: unknown,
  reason: FinishReason,
  metadata?: Metadata
): Response.ToolCallPartEncoded | undefined => {
  let params = args
  if (typeof args === "string") {
    params = parse(args)
    if (params === undefined) {
      if (reason === "length" || reason === "content-filter") return undefined
      params = args
    }
  }
  return {
    type: "tool-call",
    id,
    name,
    params: params === undefined || params === null || params === "" ? {} : params,
    ...(metadata === undefined ? undefined : { metadata })
  }
}

/** What a citation names: a page by its address, or a document by its id. */
export interface Cited {
  readonly url?: unknown
  readonly id?: string | undefined
  readonly title?: unknown
  readonly mediaType?: string | undefined
}

type SourcePart = Response.UrlSourcePartEncoded | Response.DocumentSourcePartEncoded

const mostSources = 256

/** The sources of an answer, each told once, in the order in which they were cited. */
export class Sources {
  private readonly found = new Map<string, SourcePart>()

  /** Takes a source, unless it is known, has neither an address nor an id, or is one too many. Returns its size. */
  add({ id, mediaType = "text/plain", title, url }: Cited): number {
    const address = textOf(url)
    const page = address !== undefined && URL.canParse(address) ? address : undefined
    const name = page ?? id
    if (name === undefined || this.found.size === mostSources) return 0
    const key = page === undefined ? `document ${name}` : `url ${name}`
    if (this.found.has(key)) return 0
    const called = textOf(title) ?? name
    this.found.set(
      key,
      page === undefined
        ? { type: "source", sourceType: "document", id: name, mediaType, title: called }
        : { type: "source", sourceType: "url", id: `source_${this.found.size}`, url: page, title: called }
    )
    return name.length + called.length
  }

  /** The sources of what was said; without content they mean nothing. */
  parts(said: boolean): ReadonlyArray<SourcePart> {
    return said ? Array.from(this.found.values()) : []
  }
}

/** Is there content among these parts? */
export const hasContent = (parts: ReadonlyArray<Response.PartEncoded>): boolean => parts.some(LlmResponse.isContent)

/** An id for a call to which the server gave none. */
export const callId = (responseId: unknown, index: number): string => `${textOf(responseId) ?? "call"}_${index}`

interface Tool {
  readonly id: string
  readonly metadata: Metadata | undefined
  name: string | undefined
  args: string
  closed: boolean
}

const blockCost = 64

/**
 * Assembles stream parts into `out`, which the transport takes away after each chunk. Text and reasoning are one block
 * at a time; tools are addressed by the key the protocol uses. What is kept for the final tool calls is bounded.
 */
export class Assembler {
  out: Array<Response.StreamPartEncoded> = []
  finished = false
  private described = false
  private responseId = "call"
  private block: { readonly type: "text" | "reasoning"; readonly id: string } | undefined
  private blocks = 0
  private readonly tools: Array<Tool> = []
  private readonly toolOf = new Map<unknown, Tool>()
  private readonly sources = new Sources()
  private said = false
  private readonly exchange: Exchange
  private budget: number

  constructor(exchange: Exchange, budget: number) {
    this.exchange = exchange
    this.budget = budget
  }

  /** Emits the response metadata, once. */
  describe(id?: unknown, model?: unknown): void {
    if (this.described) return
    this.described = true
    this.responseId = textOf(id) ?? this.responseId
    this.out.push(metadataPart(this.exchange, id, model))
  }

  /** Starts a block of text or reasoning, unless one of this type is open. */
  open(type: "text" | "reasoning", metadata?: Metadata): string {
    if (this.block?.type === type) return this.block.id
    this.close()
    this.describe()
    const id = String(this.blocks++)
    this.block = { type, id }
    this.out.push({ type: `${type}-start`, id, ...(metadata === undefined ? undefined : { metadata }) })
    return id
  }

  delta(type: "text" | "reasoning", delta: string, metadata?: Metadata): void {
    if (delta === "") return
    this.said = true
    const id = this.open(type, metadata)
    this.out.push({ type: `${type}-delta`, id, delta })
  }

  /** Ends the open block. */
  close(metadata?: Metadata): void {
    if (this.block === undefined) return
    const { id, type } = this.block
    this.block = undefined
    this.out.push({ type: `${type}-end`, id, ...(metadata === undefined ? undefined : { metadata }) })
  }

  hasTool(key: unknown): boolean {
    return this.toolOf.has(key)
  }

  toolId(key: unknown): string | undefined {
    return this.toolOf.get(key)?.id
  }

  /** Starts a tool call under `key`; an earlier call under the same key is complete. Its name may follow later. */
  startTool(key: unknown, id: string | undefined, name: string | undefined, metadata?: Metadata): void {
    this.spend(blockCost)
    this.endTool(key)
    const tool: Tool = {
      id: id ?? callId(this.responseId, this.tools.length),
      metadata,
      name: undefined,
      args: "",
      closed: false
    }
    this.tools.push(tool)
    this.toolOf.set(key, tool)
    if (name !== undefined) this.nameTool(key, name)
  }

  nameTool(key: unknown, name: string): void {
    const tool = this.toolOf.get(key)
    if (tool === undefined || tool.name !== undefined) return
    tool.name = name
    this.said = true
    this.close()
    this.describe()
    this.out.push({ type: "tool-params-start", id: tool.id, name })
    if (tool.args !== "") this.out.push({ type: "tool-params-delta", id: tool.id, delta: tool.args })
  }

  toolDelta(key: unknown, delta: string): void {
    const tool = this.toolOf.get(key)
    if (tool === undefined || delta === "") return
    this.spend(delta.length)
    tool.args += delta
    if (tool.name !== undefined) this.out.push({ type: "tool-params-delta", id: tool.id, delta })
  }

  /** No more arguments will come for the call under `key`. */
  endTool(key: unknown): void {
    const tool = this.toolOf.get(key)
    if (tool === undefined || tool.closed) return
    tool.closed = true
    if (tool.name !== undefined) this.out.push({ type: "tool-params-end", id: tool.id })
  }

  /** Keeps a source until the end. */
  cite(cited: Cited): void {
    this.spend(this.sources.add(cited))
  }

  get hasTools(): boolean {
    return this.tools.length > 0
  }

  /** The protocol's terminal signal: only now are the tool calls known to be whole. */
  finish(reason: FinishReason, tokens: Tokens, metadata?: Metadata): void {
    this.describe()
    this.close()
    for (const key of this.toolOf.keys()) this.endTool(key)
    for (const { args, id, metadata, name } of this.tools) {
      const call = name === undefined ? undefined : toolCallPart(id, name, args, reason, metadata)
      if (call !== undefined) this.out.push(call)
    }
    this.out.push(...this.sources.parts(this.said), finishPart(reason, tokens, metadata))
    this.finished = true
  }

  /** Accounts for what is kept until the end. */
  spend(amount: number): void {
    this.budget -= amount
    if (this.budget < 0) throw malformed(this.exchange, TOO_LARGE)
  }
}

/** A JSON value of a provider as metadata; `undefined` when it is no object. */
export const asMetadata = (value: unknown): Metadata[string] | undefined =>
  isFields(value) ? value as Metadata : undefined
