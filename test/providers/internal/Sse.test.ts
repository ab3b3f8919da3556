import { assert, describe, it } from "@effect/vitest"
import * as Sse from "effect-resilient-llm/providers/internal/Sse"
import { randomChunks, seeded } from "../support.ts"

interface Event {
  readonly event: string
  readonly data: string
}

const decode = (chunks: ReadonlyArray<string>, maxLength = 1_000_000): ReadonlyArray<Event> | "too large" => {
  const events: Array<Event> = []
  const decoder = Sse.make((event, data) => events.push({ event, data }), maxLength)
  for (const chunk of chunks) if (!decoder.feed(chunk)) return "too large"
  decoder.end()
  return events
}

const data = (...values: ReadonlyArray<string>): ReadonlyArray<Event> => values.map((data) => ({ event: "", data }))

describe("Sse", () => {
  it("ends lines with LF, CRLF or CR", () => {
    for (const eol of ["\n", "\r\n", "\r"]) {
      assert.deepStrictEqual(decode([["event: a", "data: 1", "", "data: 2", "", ""].join(eol)]), [
        { event: "a", data: "1" },
        { event: "", data: "2" }
      ])
    }
  })

  it("takes a CRLF apart for one end of line when the chunks split it", () => {
    assert.deepStrictEqual(decode(["data: 1\r", "\ndata: 2\r", "\n\r", "\ndata: 3\r", "\n\r", "\n"]), data("1\n2", "3"))
  })

  it("ignores a byte order mark, once", () => {
    assert.deepStrictEqual(decode(["\ufeffdata: 1\n\n\ufeffdata: 2\n\n"]), data("1"))
  })

  it("ignores comments and empty events", () => {
    assert.deepStrictEqual(decode([": keep-alive\n\n: OPENROUTER PROCESSING\n\nevent: ping\n\ndata: 1\n\n"]), data("1"))
  })

  it("joins data lines and strips one space", () => {
    assert.deepStrictEqual(decode(["data:a\ndata:  b\ndata\ndata:\n\n"]), data("a\n b\n\n"))
  })

  it("ignores id, retry and unknown fields, without ending", () => {
    assert.deepStrictEqual(decode(["id: 7\nretry: 100\nfoo: bar\ndata: 1\n\nretry: 5\n\ndata: 2\n\n"]), data("1", "2"))
  })

  it("forgets the name of an event after it", () => {
    assert.deepStrictEqual(decode(["event: a\n\ndata: 1\n\n"]), data("1"))
  })

  it("dispatches a last event without blank line or newline", () => {
    assert.deepStrictEqual(decode(["data: 1\n\ndata: [DONE]"]), data("1", "[DONE]"))
    assert.deepStrictEqual(decode(["data: 1\n\ndata: [DONE]\n"]), data("1", "[DONE]"))
    assert.deepStrictEqual(decode(["event: a"]), [])
  })

  it("bounds lines and events", () => {
    const chunk = "x".repeat(60)
    assert.strictEqual(decode(["data: ", chunk, chunk], 100), "too large")
    assert.strictEqual(decode([`data: ${chunk}\n`, `data: ${chunk}\n`], 100), "too large")
    assert.strictEqual(decode([`: ${chunk}${chunk}\n`], 100), "too large")
    assert.deepStrictEqual(decode([`data: ${chunk}\n\n`, `data: ${chunk}\n\n`], 100), data(chunk, chunk))
  })

  it("gives the same events for any chunking", () => {
    const random = seeded(1)
    const pick = <A>(values: ReadonlyArray<A>): A => values[Math.floor(random() * values.length)]!
    for (let round = 0; round < 500; round++) {
      let body = pick(["", "\ufeff"])
      for (let i = 0; i < 12; i++) {
        body += pick(["data: ", "data:", "data", "event: x", ": c", "id: 1", "", "é€😀 ", "{\"a\":1}", ":"]) +
          pick(["\n", "\r\n", "\r", "\n\n", "\r\n\r\n", ""])
      }
      const whole = decode([body])
      // By UTF-16 units and by bytes, as the transport does.
      const units: Array<string> = []
      for (let at = 0; at < body.length;) {
        const size = 1 + Math.floor(random() * 4)
        units.push(body.slice(at, at + size))
        at += size
      }
      const text = new TextDecoder("utf-8", { ignoreBOM: true })
      const bytes = randomChunks(new TextEncoder().encode(body), random).map((chunk) =>
        text.decode(chunk, { stream: true })
      )
      assert.deepStrictEqual(decode(units), whole, `round ${round}: ${JSON.stringify(units)}`)
      assert.deepStrictEqual(decode([...bytes, text.decode()]), whole, `round ${round}: ${JSON.stringify(bytes)}`)
    }
  })

  it("takes time in proportion to the length, however small the chunks", () => {
    let events = 0
    const decoder = Sse.make(() => events++, 4_000_000)
    const line = `data: ${"x".repeat(1_000_000)}\n\n`
    for (let i = 0; i < line.length; i++) decoder.feed(line[i]!)
    assert.strictEqual(events, 1)
  })
})
