// A scripted HTTP transport: no sockets, exact bytes, chunk boundaries of our choosing.
import { assert } from "@effect/vitest"
import type { LlmConfigError, ProviderError } from "effect-resilient-llm/LlmError"
import type { LlmProvider } from "effect-resilient-llm/LlmProvider"
import { type Input, type LlmRequest, make as makeRequest } from "effect-resilient-llm/LlmRequest"
import * as ResponsePart from "effect/ai/Response"
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as HttpClient from "effect/http/HttpClient"
import type { HttpClientError } from "effect/http/HttpClientError"
import type { HttpClientRequest } from "effect/http/HttpClientRequest"
import * as HttpClientResponse from "effect/http/HttpClientResponse"
import * as Redacted from "effect/Redacted"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"

export const apiKey = Redacted.make("test-key")

export const ask: LlmRequest = { prompt: [{ role: "user", content: [{ type: "text", text: "Hi" }] }] }

/** A small seeded generator (mulberry32), so that a failing run can be repeated. */
export const seeded = (seed: number) => (): number => {
  seed = (seed + 0x6d2b79f5) | 0
  let t = Math.imul(seed ^ (seed >>> 15), 1 | seed)
  t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
  return ((t ^ (t >>> 14)) >>> 0) / 4294967296
}

export const hash = (text: string): number => {
  let h = 2166136261
  for (let i = 0; i < text.length; i++) h = Math.imul(h ^ text.charCodeAt(i), 16777619)
  return h
}

/** Cuts bytes at random places, also inside UTF-8 sequences and between CR and LF. */
export const randomChunks = (bytes: Uint8Array, random: () => number): ReadonlyArray<Uint8Array<ArrayBuffer>> => {
  const chunks: Array<Uint8Array<ArrayBuffer>> = []
  const most = 1 + Math.floor(random() * (random() < 0.5 ? 8 : 400))
  for (let at = 0; at < bytes.length;) {
    const size = 1 + Math.floor(random() * most)
    chunks.push(Uint8Array.from(bytes.subarray(at, at + size)))
    at += size
  }
  return chunks
}

export interface Script {
  readonly status?: number
  readonly headers?: Readonly<Record<string, string>>
  readonly body?: string | ReadonlyArray<string | Uint8Array<ArrayBuffer>>
  /** What follows the body: its end (default), a broken connection, or nothing ever. */
  readonly after?: "end" | "reset" | "hang"
}

export interface Transport {
  readonly client: HttpClient.HttpClient
  readonly sent: Array<{ readonly request: HttpClientRequest; readonly url: string; readonly json: any }>
  /** Bodies that were cancelled or aborted before their end. */
  cancelled: number
  /** Requests whose signal fired, early or late. */
  aborted: number
}

const encoder = new TextEncoder()

const responseOf = (script: Script, transport: Transport, signal: AbortSignal): Response => {
  const { body = "", headers = {}, status = 200 } = script
  const chunks = (typeof body === "string" ? [body] : body).map((c) => typeof c === "string" ? encoder.encode(c) : c)
  let at = 0
  let over = false
  const stop = (): void => {
    if (!over) transport.cancelled++
    over = true
  }
  signal.addEventListener("abort", () => {
    transport.aborted++
    stop()
  }, { once: true })
  return new Response(
    new ReadableStream<Uint8Array<ArrayBuffer>>({
      pull: (controller) => {
        while (at < chunks.length && chunks[at]!.length === 0) at++
        if (at < chunks.length) return controller.enqueue(chunks[at++]!)
        if (script.after === "hang") return new Promise(() => {})
        over = true
        if (script.after === "reset") controller.error(Object.assign(new Error("aborted"), { code: "ECONNRESET" }))
        else controller.close()
      },
      cancel: stop
    }, { highWaterMark: 0 }),
    { status, headers }
  )
}

export const serve = (
  script: Script | ((request: HttpClientRequest) => Effect.Effect<Script, HttpClientError>)
): Transport => {
  const transport: Transport = {
    sent: [],
    cancelled: 0,
    aborted: 0,
    client: HttpClient.make((request, url, signal) => {
      const { body } = request
      const json = body._tag === "Uint8Array" ? JSON.parse(new TextDecoder().decode(body.body)) : undefined
      transport.sent.push({ request, url: url.href, json })
      return Effect.map(
        typeof script === "function" ? script(request) : Effect.succeed(script),
        (script) => HttpClientResponse.fromWeb(request, responseOf(script, transport, signal))
      )
    })
  }
  return transport
}

export type Make = Effect.Effect<LlmProvider, LlmConfigError, HttpClient.HttpClient>

export const connect = (make: Make, transport: Transport): Effect.Effect<LlmProvider, LlmConfigError> =>
  Effect.provideService(make, HttpClient.HttpClient, transport.client)

export interface Outcome {
  readonly parts: ReadonlyArray<ResponsePart.PartEncoded | ResponsePart.StreamPartEncoded>
  readonly error: ProviderError | undefined
}

/** Everything a call gives: the parts that came, then its typed error. A defect stays one. */
export const run = (provider: LlmProvider, streaming: boolean, request: LlmRequest = ask): Effect.Effect<Outcome> =>
  Effect.suspend(() => {
    const parts: Array<ResponsePart.PartEncoded | ResponsePart.StreamPartEncoded> = []
    const call: Effect.Effect<unknown, ProviderError> = streaming
      ? Stream.runForEach(provider.stream(request), (part) => Effect.sync(() => parts.push(part)))
      : Effect.tap(provider.generate(request), (all) => Effect.sync(() => parts.push(...all)))
    return Effect.flatMap(Effect.exit(call), (exit): Effect.Effect<Outcome> => {
      if (Exit.isSuccess(exit)) return Effect.succeed({ parts, error: undefined })
      const fail = exit.cause.reasons.find(Cause.isFailReason)
      return fail === undefined
        ? Effect.failCause(exit.cause as Cause.Cause<never>)
        : Effect.succeed({ parts, error: fail.error })
    })
  })

export const play = (make: Make, script: Script, streaming: boolean, request?: LlmRequest) =>
  Effect.flatMap(connect(make, serve(script)), (provider) => run(provider, streaming, request))

/** The parts as a reader of the answer sees them. */
const inventedId = /^call_[a-z\d]{16}_(?=\d+$)/

/** Ids of calls that we invent are new each time; here only their place stays. */
export const withInvented = <P extends { readonly type: string }>(parts: ReadonlyArray<P>): ReadonlyArray<P> =>
  parts.map((part) =>
    part.type === "tool-call" && "id" in part ? { ...part, id: String(part.id).replace(inventedId, "invented_") } : part
  )

export const digest = (outcome: Outcome) => {
  let text = ""
  let reasoning = ""
  const toolCalls: Array<ResponsePart.ToolCallPartEncoded> = []
  let finish: ResponsePart.FinishPartEncoded | undefined
  let metadata: ResponsePart.ResponseMetadataPartEncoded | undefined
  for (const part of outcome.parts) {
    if (part.type === "text") text += part.text
    else if (part.type === "text-delta") text += part.delta
    else if (part.type === "reasoning") reasoning += part.text
    else if (part.type === "reasoning-delta" && "delta" in part) reasoning += part.delta
    else if (part.type === "tool-call") toolCalls.push(...withInvented([part]))
    else if (part.type === "finish") finish = part
    else if (part.type === "response-metadata") metadata = part
  }
  const facts = metadata?.metadata?.["effect-resilient-llm"] as { readonly requestId?: string } | undefined
  return { text, reasoning, toolCalls, finish, metadata, requestId: outcome.error?.requestId ?? facts?.requestId }
}

const decodePart = Schema.decodeUnknownSync(Schema.Union([
  ResponsePart.TextPart,
  ResponsePart.TextStartPart,
  ResponsePart.TextDeltaPart,
  ResponsePart.TextEndPart,
  ResponsePart.ReasoningPart,
  ResponsePart.ReasoningStartPart,
  ResponsePart.ReasoningDeltaPart,
  ResponsePart.ReasoningEndPart,
  ResponsePart.ToolParamsStartPart,
  ResponsePart.ToolParamsDeltaPart,
  ResponsePart.ToolParamsEndPart,
  ResponsePart.UrlSourcePart,
  ResponsePart.DocumentSourcePart,
  ResponsePart.FilePart,
  ResponsePart.ResponseMetadataPart,
  ResponsePart.FinishPart
]))

/** Holds for every stream: parts are valid, blocks are opened, fed and closed, and the finish comes last. */
export const wellFormed = (outcome: Outcome): void => {
  const open = new Set<string>()
  const seen = new Set<string>()
  outcome.parts.forEach((part, i) => {
    if (part.type !== "tool-call") decodePart(part)
    const match = /^(text|reasoning|tool-params)-(start|delta|end)$/.exec(part.type)
    if (match !== null && "id" in part) {
      const key = `${match[1]} ${part.id}`
      if (match[2] === "start") {
        assert.isFalse(seen.has(key), `${key} is new`)
        open.add(key)
        seen.add(key)
      } else assert.isTrue(open.has(key), `${key} is open`)
      if (match[2] === "end") open.delete(key)
    }
    assert.strictEqual(part.type === "response-metadata", i === 0, "metadata is first, once")
    if (part.type === "finish") {
      assert.strictEqual(i, outcome.parts.length - 1, "finish is last")
      assert.strictEqual(open.size, 0, "all blocks are closed")
    }
  })
}

/** Every value inside `input`, one at a time, replaced by each of `values` or taken away. */
export function* mutants(input: unknown, values: ReadonlyArray<unknown>): Generator {
  if (typeof input !== "object" || input === null) return
  for (const key of Object.keys(input)) {
    const inner = (input as Record<string, unknown>)[key]
    const replace = (value: unknown): unknown =>
      Array.isArray(input) ? input.map((v, i) => String(i) === key ? value : v) : { ...input, [key]: value }
    for (const value of values) yield replace(value)
    yield replace(undefined)
    for (const mutant of mutants(inner, values)) yield replace(mutant)
  }
}

/** What is sent; the answer does not matter. `error` is what came of it, also when nothing was sent. */
export const sent = (make: Make, input: string | Input, streaming = false) =>
  Effect.gen(function*() {
    const transport = serve({ status: 400 })
    const provider = yield* connect(make, transport)
    const request = yield* makeRequest(input)
    const error = yield* Effect.flip(streaming ? Stream.runDrain(provider.stream(request)) : provider.generate(request))
    return { error, ...transport.sent[0]! }
  })
