// The binary frames in which AWS streams, by the official codec, as the text of server-sent events: what reads those
// reads these.
import { EventStreamCodec } from "@smithy/core/event-streams"
import { type Exchange, malformed, TOO_LARGE, WRONG_FRAME } from "./errors.ts"
import type { Binary } from "./http.ts"
import { fieldsOf, parse, textOf } from "./json.ts"

const utf8 = new TextDecoder()
const encoder = new TextEncoder()
const codec = new EventStreamCodec((bytes) => utf8.decode(bytes as Uint8Array), (text) => encoder.encode(text))

/** Lengths and checksums of an empty frame. */
const smallest = 16
const prelude = 4

const joined = (chunks: ReadonlyArray<Uint8Array>, length: number): Uint8Array => {
  const [only] = chunks
  if (chunks.length === 1) return only!
  const out = new Uint8Array(length)
  let at = 0
  for (const chunk of chunks) {
    out.set(chunk, at)
    at += chunk.byteLength
  }
  return out
}

/** One frame as an event. A failure that the server tells inside the stream is the event `error`. */
const eventOf = (frame: Uint8Array): string => {
  const { body, headers } = codec.decode(frame)
  const header = (name: string): string => String(headers[`:${name}`]?.value ?? "")
  const data = utf8.decode(body)
  const kind = header("message-type")
  if (kind === "event") {
    const name = header("event-type")
    return `event: ${/^\w+$/.test(name) ? name : ""}\ndata: ${data.replaceAll(/\r\n|\r|\n/g, "\ndata: ")}\n\n`
  }
  const { Message, message } = fieldsOf(parse(data))
  const error = {
    code: header("exception-type") || header("error-code"),
    message: textOf(message) ?? textOf(Message) ?? header("error-message")
  }
  return `event: error\ndata: ${JSON.stringify({ error })}\n\n`
}

export const eventStream: Binary = {
  mediaType: "application/vnd.amazon.eventstream",
  decoder: (exchange: Exchange, maxLength, feed) => {
    let chunks: Array<Uint8Array> = []
    let size = 0
    let needed = prelude
    return (chunk) => {
      chunks.push(chunk)
      size += chunk.byteLength
      if (size < needed) return
      const bytes = joined(chunks, size)
      const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
      let at = 0
      for (needed = prelude; size - at >= needed;) {
        needed = view.getUint32(at)
        if (needed < smallest) throw malformed(exchange, WRONG_FRAME)
        if (needed > maxLength) throw malformed(exchange, TOO_LARGE)
        if (size - at < needed) break
        let event
        try {
          event = eventOf(bytes.subarray(at, at + needed))
        } catch {
          throw malformed(exchange, WRONG_FRAME)
        }
        feed(event)
        at += needed
        needed = prelude
      }
      chunks = [bytes.subarray(at)]
      size -= at
    }
  }
}
