// An incremental decoder of server-sent events, by the algorithm of the HTML standard ("9.2.6 Interpreting an event
// stream"), with deliberate differences: a last event without its blank line is dispatched by `end`, because some
// servers close without one; `id` and `retry` have no effect, because nobody reconnects to a model's answer; and JSON
// outside of any field, or in a field `error`, is an event too, because servers put their errors there.
import { parse } from "./json.ts"

/** Called for each event. `event` is empty when the server named none. */
export type OnEvent = (event: string, data: string) => void

export interface Decoder {
  /** Takes the next piece of text. `false`: a line or event is too long, and the decoder must not be used again. */
  readonly feed: (chunk: string) => boolean
  /** The body has ended: dispatches what a missing final newline or blank line holds back. */
  readonly end: () => void
}

/**
 * Each character is looked at a fixed number of times whatever the chunk boundaries. `maxLength` bounds, in UTF-16
 * units, one line and the data of one event: nothing else is kept.
 */
export const make = (onEvent: OnEvent, maxLength: number): Decoder => {
  let started = false // the byte order mark is looked for once
  let skipLineFeed = false // the last chunk ended with CR, which may be half of a CRLF
  let line = "" // the unfinished line
  let event = ""
  let data: string | undefined
  let raw = false // is `data` JSON that came without a field?
  let rawLines = 0
  let withinLimit = true

  const dispatch = (): void => {
    raw = false
    if (data !== undefined) {
      const [name, value] = [event, data]
      event = ""
      data = undefined
      onEvent(name, value)
    } else event = ""
  }

  const takeLine = (text: string): void => {
    if (text === "") return dispatch()
    const colon = text.indexOf(":")
    if (colon === 0) return // a comment: keep-alive
    const field = colon === -1 ? text : text.slice(0, colon)
    if (field !== "data" && field !== "event" && field !== "error") return takeRaw(text)
    if (raw) dispatch()
    let value = colon === -1 ? "" : text.slice(text.charCodeAt(colon + 1) === 0x20 ? colon + 2 : colon + 1)
    if (field === "event") event = value
    else {
      if (field === "error") event = field
      if (data !== undefined) value = `${data}\n${value}`
      data = value
      if (value.length > maxLength) withinLimit = false
    }
  }

  const takeRaw = (text: string): void => {
    const starts = text.startsWith("{") || text.startsWith("[")
    if (raw && starts && rawLines === 1 && parse(data!) !== undefined) dispatch()
    rawLines++
    if (raw) data += `\n${text}`
    else if (starts && data === undefined) {
      raw = true
      rawLines = 1
      data = text
    }
    if ((data?.length ?? 0) > maxLength) withinLimit = false
  }

  return {
    feed: (chunk) => {
      let start = 0
      if (chunk === "") return withinLimit
      if (!started) {
        started = true
        if (chunk.charCodeAt(0) === 0xfeff) start = 1
      }
      if (skipLineFeed) {
        skipLineFeed = false
        if (chunk.charCodeAt(start) === 0x0a) start++
      }
      let lf = chunk.indexOf("\n", start)
      let cr = chunk.indexOf("\r", start)
      while (lf !== -1 || cr !== -1) {
        const atCr = cr !== -1 && (lf === -1 || cr < lf)
        const end = atCr ? cr : lf
        if (line.length + end - start > maxLength) return withinLimit = false
        const text = line === "" ? chunk.slice(start, end) : line + chunk.slice(start, end)
        line = ""
        start = end + 1
        if (atCr) {
          if (start === chunk.length) skipLineFeed = true
          else if (start === lf) start++
          cr = chunk.indexOf("\r", start)
        }
        if (lf !== -1 && lf < start) lf = chunk.indexOf("\n", start)
        takeLine(text)
        if (!withinLimit) return false
      }
      if (start < chunk.length) line += start === 0 ? chunk : chunk.slice(start)
      return withinLimit = line.length <= maxLength
    },
    end: () => {
      const rest = line
      line = ""
      if (rest !== "") takeLine(rest)
      dispatch()
    }
  }
}
