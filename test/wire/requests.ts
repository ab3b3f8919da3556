// The questions that are asked through the SDKs and through our adapters, and the comparison of both.
import { assert } from "@effect/vitest"
import * as LlmRequest from "effect-resilient-llm/LlmRequest"
import { FaultServer } from "effect-resilient-llm/testing"
import * as Effect from "effect/Effect"
import * as FetchHttpClient from "effect/http/FetchHttpClient"
import { type Make, run } from "../providers/support.ts"

export type Server = FaultServer.FaultServer

export interface Case {
  readonly name: string
  readonly input: LlmRequest.Input
  readonly streaming: boolean
  readonly ours: (server: Server) => Make
  readonly theirs: (server: Server) => PromiseLike<unknown>
  /** Headers that differ, ours and theirs. All others must be the same. */
  readonly headers: Readonly<Record<string, readonly [ours: string | undefined, theirs: string | undefined]>>
  /** Fields that only ours has. */
  readonly onlyOurs?: Readonly<Record<string, unknown>>
}

// What an SDK tells about itself, and what belongs to the connection.
const incidental =
  /^(x-stainless-.*|user-agent|x-fern-.*|content-length|connection|host|accept-(encoding|language)|sec-fetch-mode|cache-control|pragma)$/

const withoutIncidental = (headers: Readonly<Record<string, string>>) =>
  Object.fromEntries(Object.entries(headers).filter(([name]) => !incidental.test(name)))

// A default that the types of OpenAI's responses want to be told, and the API does not.
const withoutImplied = (body: unknown): Record<string, unknown> =>
  JSON.parse(JSON.stringify(body, (key, value) => key === "detail" && value === "auto" ? undefined : value))

export const same = ({ headers, input, onlyOurs, ours, streaming, theirs }: Case) =>
  Effect.gen(function*() {
    const server = yield* FaultServer.make()
    yield* Effect.promise(() => Promise.resolve(theirs(server)))
    const provider = yield* ours(server)
    const request = yield* LlmRequest.make(input)
    yield* run(provider, streaming, request)
    const [sdk, adapter] = yield* server.requests
    assert.deepStrictEqual(withoutImplied(adapter?.body), { ...withoutImplied(sdk?.body), ...onlyOurs })
    assert.deepStrictEqual([adapter?.method, adapter?.path], [sdk?.method, sdk?.path])
    const [told, expected] = [withoutIncidental(adapter!.headers), withoutIncidental(sdk!.headers)]
    for (const [name, [our, their]] of Object.entries(headers)) {
      assert.deepStrictEqual([told[name], expected[name]], [our, their], name)
      delete told[name]
      delete expected[name]
    }
    assert.deepStrictEqual(told, expected)
  }).pipe(Effect.provide(FetchHttpClient.layer))

export const json = { accept: ["application/json", "application/json"] } as const
export const sse = { accept: ["text/event-stream", "application/json"] } as const

// -----------------------------------------------------------------------------
// questions
// -----------------------------------------------------------------------------

export const schema = {
  type: "object" as const,
  properties: { city: { type: "string" }, maxDays: { type: "integer" } },
  required: ["city", "maxDays"],
  additionalProperties: false
}
export const model = "model-1"
export const png = "iVBORw0KGgo="
export const pdf = "JVBERi0xLjQK"

const settings = { model, maxTokens: 100, temperature: 0.7, topP: 0.9, stop: ["END", "STOP"] } as const

/** Several turns with system, images, tool calls and their results, one of them a failure. */
export const conversation: LlmRequest.Input = {
  ...settings,
  prompt: [
    { role: "system", content: "Be brief." },
    {
      role: "user",
      content: [
        { type: "text", text: "Grüezi 😀, what is this?" },
        { type: "file", mediaType: "image/png", data: png },
        { type: "file", mediaType: "image/jpeg", data: new URL("https://img.test/a.jpg") }
      ]
    },
    {
      role: "assistant",
      content: [
        { type: "text", text: "Let me see." },
        { type: "tool-call", id: "call_1", name: "weather", params: { city: "Bern", maxDays: 2 } },
        { type: "tool-call", id: "call_2", name: "clock", params: {} }
      ]
    },
    {
      role: "tool",
      content: [
        { type: "tool-result", id: "call_1", name: "weather", isFailure: false, result: { degrees: 21 } },
        { type: "tool-result", id: "call_2", name: "clock", isFailure: true, result: "no clock" }
      ]
    },
    { role: "user", content: "And now?" }
  ],
  tools: [
    { name: "weather", description: "The weather", parameters: schema, strict: true },
    { name: "clock", description: "The time", parameters: { type: "object", properties: {} } }
  ],
  toolChoice: "required"
}

export const structured: LlmRequest.Input = {
  ...settings,
  prompt: "Where?",
  responseFormat: { type: "json", name: "answer", schema, strict: true }
}

export const least: LlmRequest.Input = { model, prompt: "Hi" }

export const oneTool: LlmRequest.Input = {
  model,
  prompt: "Hi",
  tools: [{ name: "weather", description: "The weather", parameters: schema }],
  toolChoice: { tool: "weather" }
}

export const document: LlmRequest.Input = {
  model,
  prompt: [{
    role: "user",
    content: [
      { type: "file", mediaType: "application/pdf", fileName: "a.pdf", data: pdf },
      { type: "text", text: "Sum it up." }
    ]
  }]
}
