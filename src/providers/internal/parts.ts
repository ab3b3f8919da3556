// Builds the parts of an answer in the vocabulary of `effect/ai`, whole or as they stream in.
import type * as Response from "effect/ai/Response"
import * as LlmResponse from "../../LlmResponse.ts"
import { type Exchange, malformed, NESTED, TOO_LARGE, WRONG_SHAPE } from "./errors.ts"
import { limitsOf, published } from "./failure.ts"
import { requestIdOf } from "./headers.ts"
import { countOf, type Fields, fieldsOf, isFields, Nesting, parse, textOf, TOO_DEEP } from "./json.ts"

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

const difference = (total: number | undefined, one: number | undefined, other?: number): number | undefined => {
  if (total === undefined || (one === undefined && other === undefined)) return undefined
  const rest = total - (one ?? 0) - (other ?? 0)
  return rest < 0 ? undefined : rest
}

type Counts<A> = { -readonly [K in keyof A]: A[K] }

export const usageOf = (tokens: Tokens): LlmResponse.Usage => {
  const { cacheRead, cacheWrite, input, output, reasoning } = tokens
  const uncached = tokens.uncached ?? difference(input, cacheRead, cacheWrite)
  const text = difference(output, reasoning)
  const inputTokens: Counts<LlmResponse.Usage["inputTokens"]> = {}
  if (input !== undefined) inputTokens.total = input
  if (uncached !== undefined) inputTokens.uncached = uncached
  if (cacheRead !== undefined) inputTokens.cacheRead = cacheRead
  if (cacheWrite !== undefined) inputTokens.cacheWrite = cacheWrite
  const outputTokens: Counts<LlmResponse.Usage["outputTokens"]> = {}
  if (output !== undefined) outputTokens.total = output
  if (text !== undefined) outputTokens.text = text
  if (reasoning !== undefined) outputTokens.reasoning = reasoning
  return { inputTokens, outputTokens }
}

/** Counts that are kept of one answer at one level, and levels. */
const mostCounts = 64
const countLevels = 3

/**
 * Counts that were told before and are told again. They are cumulative: what is left out stays, and none falls, because
 * some servers end with zeros.
 */
export const grown = (before: Fields, told: unknown, levels = countLevels): Fields => {
  if (!isFields(told)) return before
  const counts = new Map(Object.entries(before))
  for (const [key, value] of Object.entries(told)) {
    const old = counts.get(key)
    if (counts.size === mostCounts && old === undefined) continue
    if (isFields(value)) { if (levels > 1) counts.set(key, grown(fieldsOf(old), value, levels - 1)) }
    else if ((countOf(value) ?? -1) >= (countOf(old) ?? 0)) counts.set(key, value)
  }
  return Object.fromEntries(counts)
}

const identifier = /^\P{C}{1,256}$/u
/** What nearly all of them are, found out without a table of characters. */
const printable = /^[ -~]{1,256}$/

/** A name of a model or an answer that is fit to be shown. */
const identifierOf = (value: unknown): string | undefined =>
  typeof value === "string" && (printable.test(value) || identifier.test(value)) ? value : undefined

/** The first part of every answer. `told`: tokens of a stream that has begun, for where it breaks. */
export const metadataPart = (
  exchange: Exchange,
  id: unknown,
  model: unknown,
  told: Tokens = {}
): Response.ResponseMetadataPartEncoded => {
  const responseId = published(identifierOf(id), exchange)
  const modelId = published(identifierOf(model), exchange)
  const metadata = LlmResponse.httpMetadata({
    requestId: published(requestIdOf(exchange.headers), exchange),
    rateLimits: limitsOf(exchange),
    usage: told.input === undefined ? undefined : { inputTokens: told.input }
  })
  return responseId !== undefined && modelId !== undefined
    ? { type: "response-metadata", id: responseId, modelId, metadata }
    : {
      type: "response-metadata",
      ...(responseId === undefined ? undefined : { id: responseId }),
      ...(modelId === undefined ? undefined : { modelId }),
      metadata
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

const longestCallId = 4096

/** Names the calls of one answer: as the server did, unless it gave no name, one twice, or one without bounds. */
export class CallIds {
  private readonly taken = new Set<string>()
  private readonly exchange: Exchange
  private prefix: string | undefined
  private invented = 0

  constructor(exchange: Exchange) {
    this.exchange = exchange
  }

  of(given: unknown): string {
    let id = textOf(given)
    while (id === undefined || id.length > longestCallId || this.taken.has(id)) id = this.invent()
    this.taken.add(id)
    return id
  }

  /** Drawn, so that it is new in a conversation of which we see one answer. */
  private invent(): string {
    const draw = () =>
      Math.floor((this.exchange.random?.nextDoubleUnsafe() ?? 0) * 36 ** 8).toString(36).padStart(8, "0")
    this.prefix ??= draw() + draw()
    return `call_${this.prefix}_${this.invented++}`
  }
}

/** Arguments as the text that most servers send them as; lenient ones send them parsed. */
const argumentsText = (args: unknown): string =>
  args === undefined || args === null ? "" : typeof args === "string" ? args : JSON.stringify(args)

/** Arguments that say nothing: none, a blank, an object without fields. */
export const saysNothing = (args: unknown): boolean =>
  isFields(args) ? Object.keys(args).length === 0 : argumentsText(args).trim() === ""

/** Some servers put the text of the arguments into a text once more. */
const unwrapped = (params: unknown): unknown => {
  const inner = typeof params === "string" ? parse(params) : undefined
  return typeof inner === "object" && inner !== null || inner === TOO_DEEP ? inner : params
}

/**
 * A tool call. Arguments come as JSON text, or parsed from lenient servers; none at all mean `{}`, and a text that does
 * not parse stays a text. A text that the token limit or a filter cut, be it before its first character, is not a call.
 */
export const toolCallPart = (
  exchange: Exchange,
  id: string,
  name: string,
  args: unknown,
  reason: FinishReason,
  metadata?: Metadata
): Response.ToolCallPartEncoded | undefined => {
  let params = args
  if (typeof args === "string") {
    params = unwrapped(parse(args))
    if (params === TOO_DEEP) throw malformed(exchange, NESTED)
    if (params === undefined) {
      if (reason === "length" || reason === "content-filter") return undefined
      params = args.trim() === "" ? {} : args
    }
  }
  return {
    type: "tool-call",
    id,
    name,
    params: params === undefined || params === null ? {} : params,
    ...(metadata === undefined ? undefined : { metadata })
  }
}

/** A call as whole answers tell it. */
export interface WholeCall {
  readonly id?: unknown
  readonly name: unknown
  readonly args: unknown
  readonly metadata?: Metadata | undefined
}

/** The calls of a whole answer. One that has arguments and no name is none, and cannot be left out in silence. */
export const callParts = (
  exchange: Exchange,
  calls: ReadonlyArray<WholeCall>,
  reason: FinishReason,
  ids = new CallIds(exchange)
): ReadonlyArray<Response.ToolCallPartEncoded> =>
  calls.flatMap(({ args, id, metadata, name }) => {
    if (textOf(name) === undefined) {
      if (saysNothing(args)) return []
      throw malformed(exchange, WRONG_SHAPE)
    }
    return toolCallPart(exchange, ids.of(id), name as string, args, reason, metadata) ?? []
  })

const dataUrl = /^data:([^;,]+)(?:;[^,]*)?;base64,/i

const signatures: ReadonlyArray<readonly [start: string, mediaType: string]> = [
  ["iVBORw", "image/png"],
  ["/9j/", "image/jpeg"],
  ["R0lGOD", "image/gif"],
  ["UklGR", "image/webp"]
]

/** An image that an answer holds, as a data URL or mere base64; `undefined` when it is none. */
export const imagePart = (
  image: unknown,
  mediaType?: string
): Response.FilePartEncoded | undefined => {
  const text = textOf(image)
  if (text === undefined || /^https?:/i.test(text)) return undefined
  const prefix = dataUrl.exec(text)
  const data = prefix === null ? text : text.slice(prefix[0].length)
  const seen = signatures.find(([start]) => data.startsWith(start))?.[1]
  return data === "" || !base64.test(data)
    ? undefined
    : { type: "file", mediaType: prefix?.[1]?.toLowerCase() ?? mediaType ?? seen ?? "image/png", data }
}

const base64 = /^[a-z\d+/_-]+={0,2}$/i

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
    if (this.found.size === mostSources) return 0
    const address = textOf(url)
    if (address !== undefined && this.found.has(`url ${address}`)) return 0
    const page = address !== undefined && URL.canParse(address) ? address : undefined
    const name = page ?? id
    if (name === undefined) return 0
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

/** What a stream tells of a call at one time. */
export interface CallPiece {
  /** The place where the protocol says the call is; without one, it goes on with the last. */
  readonly key?: unknown
  readonly id?: unknown
  readonly name?: unknown
  /** More of the arguments' text, or all of them, parsed. */
  readonly args?: unknown
  /** Arguments that were told with the call's start. They count where no others follow. */
  readonly start?: unknown
  readonly metadata?: Metadata | undefined
  /** Does the protocol say that a call starts here? One that is told again under its own id does not. */
  readonly apart?: boolean
}

interface Tool {
  id: string
  /** The server's name for it. */
  given: string | undefined
  /** The one with the same id and name that had ended. */
  readonly before: Tool | undefined
  metadata: Metadata | undefined
  name: string | undefined
  args: string
  /** See {@link CallPiece}. */
  start: string | undefined
  nesting: Nesting
  closed: boolean
}

const blockCost = 64
/** Text that is kept to compare it with a whole message that may follow. */
const mostHeard = 1024 * 1024

/**
 * Assembles stream parts into `out`, which the transport takes away after each chunk. Text and reasoning are one block
 * at a time; tools are addressed by the key the protocol uses. What is kept for the final tool calls is bounded.
 */
export class Assembler {
  out: Array<Response.StreamPartEncoded> = []
  finished = false
  private described = false
  private block: { readonly type: "text" | "reasoning"; readonly id: string } | undefined
  private blocks = 0
  private readonly heard = { text: "", reasoning: "" }
  private readonly tools: Array<Tool> = []
  private readonly toolOf = new Map<unknown, Tool>()
  private readonly toolById = new Map<string, Tool>()
  private lastTool: Tool | undefined
  private readonly ids: CallIds
  private readonly sources = new Sources()
  private said = false
  private readonly exchange: Exchange
  private budget: number

  constructor(exchange: Exchange, budget: number) {
    this.exchange = exchange
    this.budget = budget
    this.ids = new CallIds(exchange)
  }

  /** Emits the response metadata, once. */
  describe(id?: unknown, model?: unknown, told?: Tokens): void {
    if (this.described) return
    this.described = true
    this.out.push(metadataPart(this.exchange, id, model, told))
  }

  // --- text and reasoning -----------------------------------------------------

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
    if (this.heard[type].length <= mostHeard) this.heard[type] += delta
    this.out.push({ type: `${type}-delta`, id, delta })
  }

  /** Was any of it streamed? */
  isHeard(type: "text" | "reasoning"): boolean {
    return this.heard[type] !== ""
  }

  /** How what is told as a whole goes on where the stream has come to; `undefined` when it tells something else. */
  rest(type: "text" | "reasoning", whole: string): string | undefined {
    const heard = this.heard[type]
    if (heard.length > mostHeard) return ""
    return whole.startsWith(heard) ? whole.slice(heard.length) : undefined
  }

  /** Ends the open block. */
  close(metadata?: Metadata): void {
    if (this.block === undefined) return
    const { id, type } = this.block
    this.block = undefined
    this.out.push({ type: `${type}-end`, id, ...(metadata === undefined ? undefined : { metadata }) })
  }

  /** Something whole, such as a file. */
  add(part: Response.FilePartEncoded): void {
    this.said = true
    this.close()
    this.describe()
    this.out.push(part)
  }

  // --- tool calls -------------------------------------------------------------

  get hasTools(): boolean {
    return this.tools.length > 0
  }

  hasTool(key: unknown): boolean {
    return this.toolOf.has(key)
  }

  /** Has the call under `key` begun? */
  isNamed(key: unknown): boolean {
    return this.toolOf.get(key)?.name !== undefined
  }

  /** The arguments told so far for the call under `key`, or for the last one. */
  toolArguments(key: unknown): string {
    return (key === undefined ? this.lastTool : this.toolOf.get(key))?.args ?? ""
  }

  /** Can what is told of a call be about the one under `key`, as far as both are told? */
  isCall(key: unknown, name: string | undefined, args: string): boolean {
    const tool = this.toolOf.get(key)
    return tool !== undefined && (name === undefined || tool.name === undefined || name === tool.name) &&
      (args === "" || args.startsWith(tool.args))
  }

  /**
   * Takes a piece of a call. The one place that knows which call it belongs to:
   *
   * - Another name starts a call, and so does the same name where whole arguments are followed by others.
   * - An id without a name starts no call, whatever it is: some servers draw one per piece.
   * - Where the protocol says that a call starts, one does, although the last one that ended here has its id and name;
   *   unless its arguments turn out to be the same: then it was told twice.
   * - A name that is said again goes on with its call, and arguments that are sent again add nothing.
   */
  call(piece: CallPiece): void {
    const { key, metadata } = piece
    const id = textOf(piece.id)
    const name = textOf(piece.name)
    const args = argumentsText(piece.args)
    const known = this.toolFor(key, id, name)
    const starts = piece.apart === true && name !== undefined
    // One of this id and name has ended here.
    const before = known?.closed === true && known.nesting.isWhole && id !== undefined && id === known.given &&
        name === known.name
      ? known
      : undefined
    const apart = starts && (id === undefined || id !== known?.given || before !== undefined)
    const goesOn = known !== undefined && !apart && continues(known, id, name, args)
    const tool = goesOn ? known : this.startTool(key, id, before)
    if (tool.given === undefined && tool.name === undefined && id !== undefined) this.giveId(tool, id)
    if (key !== undefined) this.toolOf.set(key, tool)
    this.lastTool = tool
    if (metadata !== undefined) {
      this.spend(JSON.stringify(metadata).length)
      tool.metadata = { ...tool.metadata, ...metadata }
    }
    // Arguments first: those that cannot be taken must not have begun a call, after which no other target may answer.
    if (!saysNothing(piece.start)) this.begin(tool, argumentsText(piece.start))
    // Some servers begin with an empty object, whatever follows.
    if (tool.args === "" && args.trim() === "{}") this.begin(tool, args)
    else if (!(tool.nesting.isWhole && args === tool.args)) this.extend(tool, args)
    if (name !== undefined) this.nameTool(tool, name)
  }

  private toolFor(key: unknown, id: string | undefined, name: string | undefined): Tool | undefined {
    const named = id === undefined ? undefined : this.toolById.get(id)
    const here = key === undefined ? this.lastTool : this.toolOf.get(key)
    return named !== undefined && (name === undefined || named.name === undefined || named.name === name)
      ? named
      : here
  }

  private startTool(key: unknown, given: string | undefined, before: Tool | undefined): Tool {
    this.spend(blockCost + (given?.length ?? 0))
    this.endTool(key)
    const tool: Tool = {
      id: this.ids.of(given),
      given,
      before,
      metadata: undefined,
      name: undefined,
      args: "",
      start: undefined,
      nesting: new Nesting(),
      closed: false
    }
    this.tools.push(tool)
    if (given !== undefined) this.toolById.set(given, tool)
    return tool
  }

  private giveId(tool: Tool, given: string): void {
    this.spend(given.length)
    tool.id = this.ids.of(given)
    tool.given = given
    this.toolById.set(given, tool)
  }

  private nameTool(tool: Tool, name: string): void {
    if (tool.name !== undefined) return
    this.spend(name.length)
    tool.name = name
    this.said = true
    this.close()
    this.describe()
    this.out.push({ type: "tool-params-start", id: tool.id, name })
    if (tool.args !== "") this.out.push({ type: "tool-params-delta", id: tool.id, delta: tool.args })
    if (tool.closed) this.out.push({ type: "tool-params-end", id: tool.id })
  }

  private extend(tool: Tool, delta: string): void {
    if (delta === "") return
    this.spend(delta.length)
    tool.args += delta
    tool.nesting.feed(delta)
    if (tool.nesting.isTooDeep) throw malformed(this.exchange, NESTED)
    if (tool.name !== undefined && !tool.closed) this.out.push({ type: "tool-params-delta", id: tool.id, delta })
  }

  private begin(tool: Tool, start: string): void {
    this.spend(start.length)
    tool.start = start
  }

  /**
   * The server tells all arguments of the call under `key`, and they are not what it told before: then pieces were lost.
   * What says nothing or was cut does not count.
   */
  correct(key: unknown, args: string): void {
    const tool = key === undefined ? this.lastTool : this.toolOf.get(key)
    const told = parse(args)
    if (tool === undefined || !isFields(told) || saysNothing(told)) return
    this.spend(args.length)
    tool.args = args
    tool.nesting = new Nesting()
    tool.nesting.feed(args)
  }

  /** All arguments are told. */
  private settle(tool: Tool): void {
    const { args, start } = tool
    if (start === undefined || args.trim() !== "") return
    tool.start = undefined
    this.extend(tool, start)
  }

  /** No more arguments will come for the call under `key`. */
  endTool(key: unknown): void {
    const tool = this.toolOf.get(key)
    if (tool !== undefined) this.closeTool(tool)
  }

  private closeTool(tool: Tool): void {
    if (tool.closed) return
    this.settle(tool)
    tool.closed = true
    if (tool.name !== undefined) this.out.push({ type: "tool-params-end", id: tool.id })
  }

  // --- the end ----------------------------------------------------------------

  /** Keeps a source until the end. Some are what was said. */
  cite(cited: Cited, said = false): void {
    const size = this.sources.add(cited)
    this.said ||= said && size > 0
    this.spend(size)
  }

  /** The answer came as a whole. */
  whole(parts: ReadonlyArray<Response.StreamPartEncoded>): void {
    for (const part of parts) this.out.push(part)
    this.finished = true
  }

  /** The protocol's terminal signal: only now are the tool calls known to be whole. */
  finish(reason: FinishReason, tokens: Tokens, metadata?: Metadata): void {
    for (const tool of this.tools) this.settle(tool)
    // First of all, because it may throw, and a broken answer has no calls.
    const calls = this.tools.map(({ args, before, id, metadata, name }) => {
      if (before !== undefined && before.args === args) return undefined
      if (name !== undefined) return toolCallPart(this.exchange, id, name, args, reason, metadata)
      if (reason === "length" || args.trim() === "") return undefined
      throw malformed(this.exchange, WRONG_SHAPE)
    })
    this.describe()
    this.close()
    for (const tool of this.tools) this.closeTool(tool)
    for (const call of calls) if (call !== undefined) this.out.push(call)
    for (const source of this.sources.parts(this.said)) this.out.push(source)
    this.out.push(finishPart(reason, tokens, metadata))
    this.finished = true
  }

  /** Accounts for what is kept until the end. */
  spend(amount: number): void {
    this.budget -= amount
    if (this.budget < 0) throw malformed(this.exchange, TOO_LARGE)
  }
}

/** Does the piece belong to this call, which is at its place or has its id? */
const continues = (tool: Tool, id: string | undefined, name: string | undefined, args: string): boolean => {
  if (name === undefined || tool.name === undefined) return true
  if (name !== tool.name) return false
  const another = id !== undefined && tool.given !== undefined && id !== tool.given
  if (tool.args === "" && tool.start !== undefined) return !another && (args.trim() === "" || id !== undefined)
  if (tool.nesting.isWhole) return args.trim() === "" ? !another : !another && id !== undefined && args === tool.args
  return !another || args.trim() !== "" || tool.args.trim() !== ""
}

/** A JSON value of a provider as metadata; `undefined` when it is no object. */
export const asMetadata = (value: unknown): Metadata[string] | undefined =>
  isFields(value) ? value as Metadata : undefined
