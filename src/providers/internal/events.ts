// Reads the body of a streamed answer by what it is: events in frames, one JSON text, or an error that came without any
// frame, whatever the headers call it.
import { TRUNCATED } from "../../LlmError.ts"
import * as LlmResponse from "../../LlmResponse.ts"
import {
  EMPTY_BODY,
  EVENT_NOT_JSON,
  type Exchange,
  malformed,
  NESTED,
  NOT_JSON,
  ofEvent,
  ONLY_KEEP_ALIVES,
  TOO_LARGE
} from "./errors.ts"
import { tellsFailure } from "./failure.ts"
import type { Protocol, StreamDecoder } from "./http.ts"
import { Nesting, parse, TOO_DEEP } from "./json.ts"
import type { Assembler } from "./parts.ts"
import * as Sse from "./Sse.ts"

/** Decodes a whole answer. */
export const decodeWhole = (protocol: Protocol, exchange: Exchange, text: string): ReturnType<Protocol["decode"]> => {
  if (text.trim() === "") throw malformed(exchange, EMPTY_BODY)
  const body = parse(text)
  if (body === TOO_DEEP) throw malformed(exchange, NESTED)
  if (body === undefined) throw malformed(exchange, NOT_JSON)
  if (tellsFailure(body)) throw ofEvent(exchange, body)
  return protocol.decode(body, exchange)
}

// -----------------------------------------------------------------------------
// one event
// -----------------------------------------------------------------------------

/** Keep-alives in a row after which a server is taken to have nothing else to say. */
const mostKeepAlives = 10_000
const keepAlives: ReadonlySet<string> = new Set(["ping", "pong", "keepalive", "keep-alive", "heartbeat"])
const isKeepAlive = (text: string): boolean =>
  text === "" || text === "null" || text.startsWith(":") || keepAlives.has(text.toLowerCase())

const saysError =
  /\b(?:error|exception|fail(?:ed|ure)|overloaded|unavailable|time[ds]? ?out|rate limit|quota|exceeded|denied|forbidden|unauthori[sz]ed|bad gateway)\b/i

/** Gives the JSON of events to `decoder`. Frames that hold something else are keep-alives, errors, or break the protocol. */
const eventReader = (exchange: Exchange, decoder: StreamDecoder) => {
  let silent = 0
  return (name: string, data: string, isLast: boolean): void => {
    const json = data.startsWith("{") ? parse(data) : undefined
    if (json === undefined && (isKeepAlive(data.trim()) || keepAlives.has(name))) {
      if (++silent > mostKeepAlives) throw malformed(exchange, ONLY_KEEP_ALIVES)
      return
    }
    silent = 0
    if (data.trim() === "[DONE]") return decoder.marker?.()
    const value = json ?? parse(data)
    if (value === TOO_DEEP) throw malformed(exchange, NESTED)
    if (name === "error" || tellsFailure(value)) throw ofEvent(exchange, value ?? data)
    if (value !== undefined && typeof value !== "string") return decoder.event(name, value)
    const text = value ?? data
    if (!/^\s*(?:\{|\[\s*[{["])/.test(text) && saysError.test(text)) throw ofEvent(exchange, text)
    // An event without its end was cut: the end of the body says so better.
    if (!isLast) throw malformed(exchange, EVENT_NOT_JSON)
  }
}

// -----------------------------------------------------------------------------
// a body
// -----------------------------------------------------------------------------

/** Takes the pieces of a body. Both functions may throw `ProviderError`. */
export interface BodyReader {
  readonly feed: (text: string) => void
  /** The body ended by itself: from here on the answer is whole, or has failed. */
  readonly end: () => void
}

/**
 * Reads a body into `assembler`. `isJson` is what the headers say; without it the first character decides between events
 * and one JSON text, in which some servers answer a stream, and many put an error.
 */
export const bodyReader = (
  protocol: Protocol,
  exchange: Exchange,
  assembler: Assembler,
  maxLength: number,
  isJson: boolean
): BodyReader => {
  const decoder = protocol.stream(assembler, exchange)
  const read = eventReader(exchange, decoder)
  let ended = false
  let received = false
  let kind: "unknown" | "frames" | "whole" = isJson ? "whole" : protocol.frames === undefined ? "unknown" : "frames"
  let body = ""
  let nesting: Nesting | undefined = new Nesting()

  const frames = (protocol.frames ?? Sse.make)((name, data) => {
    if (!assembler.finished) read(name, data, ended)
  }, maxLength)
  const feedFrames = (text: string): void => {
    if (!frames.feed(text)) throw malformed(exchange, TOO_LARGE)
  }

  const takeWhole = (): void => assembler.whole(LlmResponse.toStreamParts(decodeWhole(protocol, exchange, body)))

  /** An error says all there is to say, also when the body does not end. */
  const failEarly = (text: string): void => {
    nesting?.feed(text)
    if (nesting?.isWhole !== true) return
    nesting = undefined
    const value = parse(body)
    if (tellsFailure(value)) throw ofEvent(exchange, value)
  }

  return {
    feed: (text) => {
      received ||= text !== ""
      if (kind === "frames") return feedFrames(text)
      body += text
      let more = text
      if (kind === "unknown") {
        // All before is blank.
        const first = /[^\s\ufeff]/.exec(text)?.[0]
        if (first !== undefined) kind = first === "{" || first === "[" ? "whole" : "frames"
        if (kind === "frames") return feedFrames(body)
        more = body
      }
      if (body.length > maxLength) throw malformed(exchange, TOO_LARGE)
      if (kind === "whole") failEarly(more)
    },
    end: () => {
      ended = true
      const isEmpty = !received || (isJson && body.trim() === "")
      if (kind === "whole" && parse(body) !== undefined) return takeWhole()
      if (kind === "whole") feedFrames(body)
      frames.end()
      if (!assembler.finished) decoder.end?.()
      if (assembler.finished) return
      throw malformed(exchange, isEmpty ? EMPTY_BODY : isJson && assembler.out.length === 0 ? NOT_JSON : TRUNCATED)
    }
  }
}
