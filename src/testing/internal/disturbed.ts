// One fault in front of one provider: what a built-in provider would make of it on the wire.
import * as Effect from "effect/Effect"
import * as Stream from "effect/Stream"
import { ProviderError, type RateLimitFact, TRUNCATED } from "../../LlmError.ts"
import type { LlmProvider } from "../../LlmProvider.ts"
import type { LlmRequest } from "../../LlmRequest.ts"
import { httpMetadata, isContent, type Part, type StreamPart } from "../../LlmResponse.ts"
import { EMPTY_BODY, EVENT_NOT_JSON, NOT_JSON, providerError } from "../../providers/internal/errors.ts"
import { rateLimitsOf } from "../../providers/internal/headers.ts"
import type { Fault } from "../Chaos.ts"
import type { Context } from "./dialect.ts"
import { openai } from "./openai.ts"
import { errorOf, plan } from "./plan.ts"

/** How one attempt is answered. */
export type Step = Pick<LlmProvider, "generate" | "stream">

type Of<Tag extends Fault["_tag"]> = Extract<Fault, { readonly _tag: Tag }>
type Breaking = Of<"ResetInBody" | "Stall" | "Truncate" | "ErrorEvent" | "MalformedJson">
type Reason = ProviderError["reason"]
type Parts = Stream.Stream<StreamPart, ProviderError>

const resetting: Reason = { _tag: "Network", sent: true, kind: "reset" }

/** `number`: of the disturbance, from which the ids in its answer follow. */
export const disturbed = (provider: LlmProvider, fault: Fault, number: number): Step => {
  const failed = (reason: Reason) => Effect.suspend(() => Effect.fail(providerError(provider.id, { reason })))
  const malformed = (problem: string) => failed({ _tag: "MalformedResponse", problem })
  const contextOf = ({ model }: LlmRequest): Context => ({
    number,
    epochMillis: 0,
    model,
    inputTokens: 0,
    includeUsage: false
  })

  /** As the classifier of the built-in providers reads it. */
  const refused = (fault: Of<"Status">, request: LlmRequest) =>
    Effect.suspend(() => {
      const { body, head } = plan(withoutDelay(fault), {
        dialect: openai,
        context: contextOf(request),
        streaming: false,
        latency: 0,
        reply: nothing,
        random: () => 0
      })
      return Effect.fail(ProviderError.fromHttp({ provider: provider.id, ...head!, body: body[0] }))
    })

  /** Said in the place of an answer, or of the rest of one. */
  const errorEvent = (fault: Of<"ErrorEvent">, request: LlmRequest) =>
    Effect.suspend(() => {
      const around = { dialect: openai, context: contextOf(request) }
      const body = openai.errorJson(errorOf(fault, around), around.context)
      return Effect.fail(ProviderError.fromHttp({ provider: provider.id, status: 200, body }))
    })

  /** What comes where the answer breaks. */
  const broken = (fault: Breaking, request: LlmRequest, streaming: boolean): Effect.Effect<never, ProviderError> => {
    switch (fault._tag) {
      case "ResetInBody":
        return failed(resetting)
      case "Stall":
        return Effect.never
      case "ErrorEvent":
        return errorEvent(fault, request)
      case "MalformedJson":
        return malformed(streaming ? EVENT_NOT_JSON : NOT_JSON)
      case "Truncate":
        return malformed((fault.afterChunks ?? 0) === 0 ? EMPTY_BODY : streaming ? TRUNCATED : NOT_JSON)
    }
  }

  /** What comes instead of an answer, for faults that need none. */
  const instead = (request: LlmRequest, streaming: boolean): Effect.Effect<never, ProviderError> | undefined => {
    switch (fault._tag) {
      case "Status":
        return refused(fault, request)
      case "Hang":
        return Effect.never
      case "ResetBeforeHeaders":
        return failed(resetting)
      case "EmptyBody":
        return malformed(EMPTY_BODY)
      case "KeepAlives":
        return Effect.andThen(pause(fault.forMillis ?? Infinity), malformed(streaming ? TRUNCATED : EMPTY_BODY))
      case "Ok":
      case "Duplicate":
        return undefined
      default:
        return streaming && (fault.afterChunks ?? 0) > 0 ? undefined : broken(fault, request, streaming)
    }
  }

  const altered = (parts: Parts, request: LlmRequest): Parts => {
    if (fault._tag === "Duplicate") return repeated(parts, fault.afterChunks ?? 0)
    if (!("afterChunks" in fault)) return parts
    return Stream.concat(upTo(parts, fault.afterChunks ?? 0), Stream.fromEffect(broken(fault, request, true)))
  }

  const before = "delayMillis" in fault ? fault.delayMillis ?? 0 : 0
  const silence = "firstTokenMillis" in fault ? fault.firstTokenMillis ?? 0 : 0
  const gap = "chunkDelayMillis" in fault ? fault.chunkDelayMillis ?? 0 : 0
  const limits = "headers" in fault && fault._tag !== "Status" ? rateLimitsOf(lowerCased(fault.headers), 0) : []

  return {
    generate: (request) =>
      Effect.andThen(
        pause(before + silence),
        instead(request, false) ?? Effect.map(provider.generate(request), (parts) => told(parts, limits))
      ),
    stream: (request) =>
      after(before, () => {
        const failure = instead(request, true)
        if (failure !== undefined) return after(silence, () => Stream.fromEffect(failure))
        const parts = toldIn(provider.stream(request), limits)
        return paced(altered(parts, request), silence, gap)
      })
  }
}

const nothing = (): undefined => undefined

const withoutDelay = (fault: Of<"Status">): Of<"Status"> => ({ ...fault, delayMillis: 0 })

const pause = (millis: number): Effect.Effect<void> =>
  millis === 0 ? Effect.void : millis === Infinity ? Effect.never : Effect.sleep(millis)

const after = (millis: number, parts: () => Parts): Parts =>
  millis === 0 ? Stream.suspend(parts) : Stream.unwrap(Effect.map(Effect.sleep(millis), parts))

// -----------------------------------------------------------------------------
// streams
// -----------------------------------------------------------------------------

/** What counts as a chunk: the deltas of text, reasoning and tool arguments. */
const isChunk = (part: StreamPart): boolean => "delta" in part && part.delta.length > 0

/** A stream up to its `count`-th chunk, or to its end, which it lacks. */
const upTo = (parts: Parts, count: number): Parts =>
  Stream.suspend(() => {
    let seen = 0
    return parts.pipe(
      Stream.rechunk(1),
      Stream.takeWhile((part) => part.type !== "finish"),
      Stream.takeUntil((part) => isChunk(part) && ++seen >= count)
    )
  })

/** The chunk after the first `count` comes twice. */
const repeated = (parts: Parts, count: number): Parts =>
  Stream.suspend(() => {
    let seen = 0
    return Stream.flattenIterable(
      Stream.map(parts, (part) => isChunk(part) && seen++ === count ? [part, part] : [part])
    )
  })

/** A pause before the first content, and between two chunks. */
const paced = (parts: Parts, silence: number, gap: number): Parts =>
  silence === 0 && gap === 0 ? parts : Stream.suspend(() => {
    let isSilent = true
    let isFirst = true
    return Stream.mapEffect(parts, (part) => {
      let millis = 0
      if (isSilent && isContent(part)) {
        isSilent = false
        millis += silence
      }
      if (isChunk(part)) {
        if (!isFirst) millis += gap
        isFirst = false
      }
      return Effect.as(pause(millis), part)
    })
  })

// -----------------------------------------------------------------------------
// headers
// -----------------------------------------------------------------------------

const lowerCased = (headers: Readonly<Record<string, string>> = {}): Readonly<Record<string, string>> =>
  Object.fromEntries(Object.entries(headers).map(([name, value]) => [name.toLowerCase(), value]))

type Limits = ReadonlyArray<RateLimitFact>
type Metadata = Extract<Part & StreamPart, { readonly type: "response-metadata" }>

const isMetadata = (part: Part | StreamPart): part is Metadata => part.type === "response-metadata"

/** An answer that says this of the vendor's limits. */
const told = (parts: ReadonlyArray<Part>, limits: Limits): ReadonlyArray<Part> => {
  if (limits.length === 0) return parts
  const [first, ...others] = parts
  return first !== undefined && isMetadata(first)
    ? [saying(first, limits), ...others]
    : [saying({ type: "response-metadata" }, limits), ...parts]
}

const toldIn = (parts: Parts, limits: Limits): Parts =>
  limits.length === 0 ? parts : Stream.suspend(() => {
    let isFirst = true
    return Stream.flattenIterable(Stream.map(parts, (part): ReadonlyArray<StreamPart> => {
      if (!isFirst) return [part]
      isFirst = false
      return isMetadata(part) ? [saying(part, limits)] : [saying({ type: "response-metadata" }, limits), part]
    }))
  })

const saying = (part: Metadata, rateLimits: Limits): Metadata => ({
  ...part,
  metadata: { ...part.metadata, ...httpMetadata({ rateLimits }) }
})
