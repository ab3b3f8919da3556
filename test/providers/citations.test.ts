// Citations of each protocol, hand-written as a whole answer and as a stream: which `source` parts they become.
import { assert, describe, it } from "@effect/vitest"
import type { LlmConfigError } from "effect-resilient-llm/LlmError"
import { Anthropic } from "effect-resilient-llm/providers"
import * as Response from "effect/ai/Response"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { anthropic, cohere, compatible, openAi } from "./samples.ts"
import { apiKey, type Make, type Outcome, play } from "./support.ts"

const decodeSource = Schema.decodeUnknownSync(Schema.Union([Response.UrlSourcePart, Response.DocumentSourcePart]))

const page = (at: number, url: string, title = url) => ({
  type: "source" as const,
  sourceType: "url" as const,
  id: `source_${at}`,
  url,
  title
})

const document = (id: string, title = id, mediaType = "text/plain") => ({
  type: "source" as const,
  sourceType: "document" as const,
  id,
  mediaType,
  title
})

/** The sources of an answer, which follow all else but the finish part. */
const sourcesOf = (outcome: Outcome) => {
  assert.strictEqual(outcome.error, undefined)
  const sources = outcome.parts.filter((part) => part.type === "source")
  for (const part of sources) decodeSource(part)
  assert.deepStrictEqual(outcome.parts.slice(outcome.parts.length - 1 - sources.length, -1), sources)
  assert.strictEqual(outcome.parts[outcome.parts.length - 1]?.type, "finish")
  return sources
}

const whole = (make: Make, body: unknown) => Effect.map(play(make, { body: JSON.stringify(body) }, false), sourcesOf)

const streamed = (make: Make, events: ReadonlyArray<unknown>) =>
  Effect.map(
    play(make, {
      headers: { "content-type": "text/event-stream" },
      body: events.map((event) => `data: ${typeof event === "string" ? event : JSON.stringify(event)}\n\n`)
    }, true),
    sourcesOf
  )

/** One answer that says `text` (nothing by default) and calls a tool if told so, with citations, in both kinds. */
interface Vendor {
  readonly name: string
  readonly whole: (
    text: string,
    citations: ReadonlyArray<unknown>,
    call?: boolean
  ) => Effect.Effect<ReadonlyArray<unknown>, LlmConfigError>
  readonly streamed: Vendor["whole"]
  /** Citations as this vendor writes them; the first two name the same source. */
  readonly citations: ReadonlyArray<unknown>
  readonly sources: ReadonlyArray<unknown>
  readonly many: (i: number) => unknown
}

const toolCall = { id: "t1", type: "function", function: { name: "clock", arguments: "{}" } }

const urlCitation = (url_citation: unknown) => ({ type: "url_citation", url_citation })

const chat = (name: string, make: Make): Vendor => ({
  name,
  whole: (content, annotations, call) =>
    whole(make, {
      choices: [{
        message: { content, annotations, ...(call === true ? { tool_calls: [toolCall] } : undefined) },
        finish_reason: "stop"
      }]
    }),
  streamed: (content, annotations, call) =>
    streamed(make, [
      ...annotations.map((annotation) => ({ choices: [{ delta: { content: "", annotations: [annotation] } }] })),
      {
        choices: [{ delta: { content, ...(call === true ? { tool_calls: [{ index: 0, ...toolCall }] } : undefined) } }]
      },
      { choices: [{ delta: {}, finish_reason: "stop" }] },
      "[DONE]"
    ]),
  citations: [
    urlCitation({ url: "https://a.test/", title: "A", start_index: 0, end_index: 4, content: "secret" }),
    urlCitation({ url: "https://a.test/", title: "A, again" }),
    urlCitation({ url: "https://b.test/", title: "" }),
    urlCitation({ url: "nowhere", title: "C" }),
    urlCitation(null),
    { type: "file_citation", url_citation: { url: "https://d.test/" } },
    {},
    null
  ],
  sources: [page(0, "https://a.test/", "A"), page(1, "https://b.test/")],
  many: (i) => urlCitation({ url: `https://${i}.test/` })
})

const vendors: ReadonlyArray<Vendor> = [
  {
    name: "Anthropic",
    whole: (text, citations, call) =>
      whole(anthropic, {
        content: [
          { type: "text", text, citations },
          { type: "text", text, citations: null },
          ...(call === true ? [{ type: "tool_use", id: "t1", name: "clock", input: {} }] : [])
        ],
        stop_reason: "end_turn"
      }),
    streamed: (text, citations, call) =>
      streamed(anthropic, [
        { type: "message_start", message: { id: "m1" } },
        { type: "content_block_start", index: 0, content_block: { type: "text", text: "", citations: [] } },
        ...citations.map((citation) => ({
          type: "content_block_delta",
          index: 0,
          delta: { type: "citations_delta", citation }
        })),
        { type: "content_block_delta", index: 0, delta: { type: "text_delta", text } },
        { type: "content_block_stop", index: 0 },
        ...(call === true
          ? [{ type: "content_block_start", index: 1, content_block: { type: "tool_use", id: "t1", name: "clock" } }]
          : []),
        { type: "message_delta", delta: { stop_reason: "end_turn" } },
        { type: "message_stop" }
      ]),
    citations: [
      { type: "web_search_result_location", url: "https://a.test/", title: "A", cited_text: "secret" },
      { type: "web_search_result_location", url: "https://a.test/", title: "A, again" },
      { type: "web_search_result_location", url: "nowhere", title: "B" },
      { type: "search_result_location", source: "https://c.test/c", title: null, search_result_index: 0 },
      { type: "search_result_location", source: "handbook", title: "D" },
      { type: "char_location", document_index: 0, document_title: "facts.txt", cited_text: "secret" },
      { type: "char_location", document_index: 0, document_title: "facts.txt", start_char_index: 7 },
      { type: "page_location", document_index: 1, document_title: "e.pdf", file_id: null, start_page_number: 1 },
      { type: "page_location", document_index: 2, document_title: "f.pdf", file_id: "file_f" },
      { type: "content_block_location", document_index: 3, document_title: null },
      { type: "char_location", document_title: "without an index" },
      { type: "unheard_of", url: "https://g.test/", document_index: 4 },
      {},
      "h",
      null
    ],
    sources: [
      page(0, "https://a.test/", "A"),
      page(1, "https://c.test/c"),
      document("handbook", "D"),
      document("document_0", "facts.txt"),
      document("document_1", "e.pdf", "application/pdf"),
      document("file_f", "f.pdf", "application/pdf"),
      document("document_3")
    ],
    many: (i) => ({ type: "web_search_result_location", url: `https://${i}.test/` })
  },
  {
    name: "Cohere",
    whole: (text, citations, call) =>
      whole(cohere, {
        message: {
          content: [{ type: "text", text }],
          citations,
          ...(call === true ? { tool_calls: [toolCall] } : undefined)
        },
        finish_reason: "COMPLETE"
      }),
    streamed: (text, all, call) =>
      streamed(cohere, [
        { type: "message-start", id: "m1", delta: { message: { citations: [] } } },
        { type: "content-start", index: 0, delta: { message: { content: { type: "text", text } } } },
        ...all.flatMap((citations, index) => [
          { type: "citation-start", index, delta: { message: { citations } } },
          { type: "citation-end", index }
        ]),
        { type: "content-end", index: 0 },
        ...(call === true
          ? [{ type: "tool-call-start", index: 0, delta: { message: { tool_calls: toolCall } } }]
          : []),
        { type: "message-end", delta: { finish_reason: "COMPLETE" } }
      ]),
    citations: [
      {
        text: "secret",
        sources: [{ type: "document", id: "doc:0", document: { id: "doc:0", title: "A", text: "secret" } }]
      },
      { sources: [{ type: "document", id: "doc:0", document: { title: "A, again" } }] },
      {
        sources: [
          { type: "document", id: "doc:1", document: { url: "https://b.test/", title: "B" } },
          { type: "document", id: "doc:2", document: { url: "nowhere" } },
          { type: "document", id: "doc:3" },
          { type: "document", document: { title: "no id" } }
        ]
      },
      { sources: [{ type: "tool", id: "weather_1:0", tool_output: { content: "secret" } }] },
      { sources: [{ type: "tool", id: "search_1:0", tool_output: { url: "https://c.test/", title: "C" } }] },
      { sources: null },
      {},
      null
    ],
    sources: [
      document("doc:0", "A"),
      page(1, "https://b.test/", "B"),
      document("doc:2"),
      document("doc:3"),
      page(4, "https://c.test/", "C")
    ],
    many: (i) => ({ sources: [{ type: "document", id: `doc:${i}` }] })
  },
  chat("OpenAI chat", openAi),
  chat("compatible chat", compatible)
]

describe("citations", () => {
  for (const vendor of vendors) {
    for (const kind of ["whole", "streamed"] as const) {
      const answer = vendor[kind]

      it.effect(`${vendor.name}, ${kind}: each source is told once, last before the finish`, () =>
        Effect.gen(function*() {
          for (const call of [false, true]) {
            const sources = yield* answer("Hi", vendor.citations, call)
            assert.deepStrictEqual(sources, vendor.sources)
            assert.notInclude(JSON.stringify(sources), "secret")
          }
        }))

      it.effect(`${vendor.name}, ${kind}: without content there are no sources`, () =>
        Effect.gen(function*() {
          assert.deepStrictEqual(yield* answer("", vendor.citations), [])
          assert.deepStrictEqual(yield* answer("", vendor.citations, true), vendor.sources)
        }))

      it.effect(`${vendor.name}, ${kind}: their number is bounded`, () =>
        Effect.gen(function*() {
          const sources = yield* answer("Hi", Array.from({ length: 300 }, (_, i) => vendor.many(i)))
          assert.strictEqual(sources.length, 256)
        }))
    }
  }

  const results = [
    { title: "A", url: "https://a.test/", snippet: "secret", date: "2025-01-01" },
    { title: "B", url: "nowhere" },
    { url: "https://c.test/" },
    null
  ]
  const citations = ["https://a.test/", "https://d.test/", "nowhere", 1]
  const told = [page(0, "https://a.test/", "A"), page(1, "https://c.test/"), page(2, "https://d.test/")]
  const message = { message: { content: "Hi" }, finish_reason: "stop" }

  it.effect("pages beside a whole answer are sources, with the titles of its search results", () =>
    Effect.gen(function*() {
      const body = { choices: [message], search_results: results, citations }
      assert.deepStrictEqual(yield* whole(compatible, body), told)
      assert.deepStrictEqual(
        yield* whole(compatible, { choices: [message], citations }),
        [page(0, "https://a.test/"), page(1, "https://d.test/")]
      )
      for (const none of [null, "https://a.test/", {}]) {
        const body = { choices: [message], search_results: none, citations: none }
        assert.deepStrictEqual(yield* whole(compatible, body), [])
      }
    }))

  it.effect("pages beside a stream are those of the last chunk that has some", () =>
    Effect.gen(function*() {
      const delta = { choices: [{ delta: { content: "Hi" } }] }
      const stop = { choices: [{ delta: {}, finish_reason: "stop" }] }
      const early = { ...delta, search_results: [{ url: "https://early.test/" }], citations: ["https://early.test/"] }
      const late = { ...delta, search_results: results, citations }
      // With the marker and, as Perplexity ends its streams, without.
      assert.deepStrictEqual(yield* streamed(compatible, [early, late, stop, "[DONE]"]), told)
      assert.deepStrictEqual(yield* streamed(compatible, [early, late, { ...stop, citations: null }]), told)
      assert.deepStrictEqual(yield* streamed(compatible, [late, { ...stop, ...early, choices: stop.choices }]), [
        page(0, "https://early.test/")
      ])
    }))

  it.effect("what a stream keeps of its sources counts against its bound", () =>
    Effect.gen(function*() {
      const make = Anthropic.make({ apiKey, maxBodyBytes: 2048 })
      const events = (pages: number) => [
        { type: "content_block_start", index: 0, content_block: { type: "text", text: "Hi" } },
        ...Array.from({ length: 20 }, (_, i) => {
          const url = `https://${i % pages}.test/${"x".repeat(200)}`
          return {
            type: "content_block_delta",
            index: 0,
            delta: { type: "citations_delta", citation: { type: "web_search_result_location", url } }
          }
        }),
        { type: "message_stop" }
      ]
      assert.strictEqual((yield* streamed(make, events(3))).length, 3)
      const body = events(20).map((event) => `data: ${JSON.stringify(event)}\n\n`)
      const outcome = yield* play(make, { headers: { "content-type": "text/event-stream" }, body }, true)
      assert.strictEqual(outcome.error?.reason._tag, "MalformedResponse")
    }))
})
