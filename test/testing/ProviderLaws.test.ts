import { NodeHttpClient } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import { LlmProvider } from "effect-resilient-llm"
import { ProviderError } from "effect-resilient-llm/LlmError"
import { Anthropic, Cohere, Gemini, OpenAi, OpenAiCompatible } from "effect-resilient-llm/providers"
import { Bedrock } from "effect-resilient-llm/providers/Bedrock"
import { Ollama } from "effect-resilient-llm/providers/Ollama"
import { type FaultServer, ProviderLaws, providerLaws } from "effect-resilient-llm/testing"
import type * as Response from "effect/ai/Response"
import * as Effect from "effect/Effect"
import * as Stream from "effect/Stream"
import { apiKey, connect, type Make, type Script, serve } from "../providers/support.ts"

// -----------------------------------------------------------------------------
// ours, over a real server
// -----------------------------------------------------------------------------

describe.each([
  ["OpenAI", ProviderLaws.overServer("openai", (baseUrl) => OpenAi.make({ apiKey, baseUrl }))],
  [
    "a compatible server",
    ProviderLaws.overServer("openai", (baseUrl) => OpenAiCompatible.make({ apiKey, baseUrl, defaultModel: "m" }))
  ],
  ["Anthropic", ProviderLaws.overServer("anthropic", (baseUrl) => Anthropic.make({ apiKey, baseUrl }))],
  ["Cohere", ProviderLaws.overServer("cohere", (baseUrl) => Cohere.make({ apiKey, baseUrl }))],
  [
    "Bedrock",
    ProviderLaws.overServer("bedrock", (baseUrl) => {
      const credentials = { accessKeyId: "AKIDEXAMPLE", secretAccessKey: apiKey }
      return Bedrock.make({ region: "eu-central-1", credentials, baseUrl })
    })
  ]
])("%s over FaultServer", (_, subject) => {
  for (const { check, name } of providerLaws(subject)) {
    it.live(name, () => Effect.provide(check, NodeHttpClient.layerUndici))
  }
})

// -----------------------------------------------------------------------------
// ours, over a stub
// -----------------------------------------------------------------------------

interface Words {
  readonly whole: (answer: ProviderLaws.Answer) => unknown
  /** The data of the events, of which the first two hold content and the last one ends the answer. */
  readonly events: (answer: ProviderLaws.Answer) => ReadonlyArray<unknown>
  readonly refusal: (reason: FaultServer.ErrorReason) => readonly [status: number, body: unknown]
  readonly frame?: (event: unknown) => string
}

const sse = (event: unknown): string => `data: ${JSON.stringify(event)}\n\n`

const stub = (make: Make, { events, frame = sse, refusal, whole }: Words): ProviderLaws.Subject<unknown> => {
  const scene = (script: (streaming: boolean) => Script) => {
    let received = 0
    const transport = serve((request) => {
      received++
      return Effect.succeed(script(/text\/event-stream/.test(request.headers["accept"] ?? "")))
    })
    return Effect.map(connect(make, transport), (provider): ProviderLaws.Scene => ({
      provider,
      traffic: Effect.sync(() => ({ received, active: received - transport.cancelled }))
    }))
  }
  const answered = (answer: ProviderLaws.Answer, count = Infinity, after: Script["after"] = "end") =>
    scene((streaming) => ({
      headers: streaming ? { "content-type": "text/event-stream" } : {},
      body: streaming ? events(answer).slice(0, count).map(frame) : JSON.stringify(whole(answer)),
      after
    }))
  const long = { text: "one two", toolCalls: [], usage: { inputTokens: 1, outputTokens: 1 } }
  return {
    answering: (answer) => Effect.map(answered(answer), ({ provider }) => ({ provider })),
    refusing: ({ reason, retryAfter }) =>
      scene(() => {
        const [status, body] = refusal(reason)
        const headers = retryAfter === undefined ? {} : { "retry-after": String(retryAfter) }
        return { status, headers, body: JSON.stringify(body) }
      }),
    garbling: scene(() => ({ headers: { "content-type": "text/html" }, body: "<html>Hello.</html>" })),
    breaking: answered(long, 1),
    hanging: scene(() => ({ body: "", after: "hang" })),
    stalling: answered(long, 1, "hang")
  }
}

const statuses: Readonly<Partial<Record<FaultServer.ErrorReason, number>>> = {
  RateLimit: 429,
  Overloaded: 503,
  Server: 500,
  Authentication: 401,
  NotFound: 404,
  ContextLength: 400,
  InvalidRequest: 400
}
const sentence = (reason: FaultServer.ErrorReason) => reason === "ContextLength" ? "prompt is too long" : "no"
const google = (reason: FaultServer.ErrorReason) =>
  [statuses[reason]!, { error: { code: statuses[reason], message: sentence(reason) } }] as const

const half = (text: string) => [text.slice(0, 3), text.slice(3)]
const candidate = (parts: ReadonlyArray<unknown>, more: object = {}) => ({
  candidates: [{ content: { role: "model", parts }, ...more }]
})
const functionCalls = ({ toolCalls }: ProviderLaws.Answer) =>
  toolCalls.map(({ name, params }) => ({ functionCall: { name, args: params } }))
const googleUsage = ({ usage }: ProviderLaws.Answer) => ({
  usageMetadata: { promptTokenCount: usage.inputTokens, candidatesTokenCount: usage.outputTokens }
})
const gemini: Words = {
  whole: (answer) => ({
    ...candidate([...(answer.text === "" ? [] : [{ text: answer.text }]), ...functionCalls(answer)], {
      finishReason: "STOP"
    }),
    ...googleUsage(answer)
  }),
  events: (answer) => [
    ...half(answer.text).filter((text) => text !== "").map((text) => candidate([{ text }])),
    { ...candidate(functionCalls(answer), { finishReason: "STOP" }), ...googleUsage(answer) }
  ],
  refusal: google
}

const ollamaUsage = ({ usage }: ProviderLaws.Answer) => ({
  done: true,
  done_reason: "stop",
  prompt_eval_count: usage.inputTokens,
  eval_count: usage.outputTokens
})
const ollamaCalls = ({ toolCalls }: ProviderLaws.Answer) =>
  toolCalls.map(({ name, params }) => ({ function: { name, arguments: params } }))
const ollama: Words = {
  whole: (answer) => ({ message: { content: answer.text, tool_calls: ollamaCalls(answer) }, ...ollamaUsage(answer) }),
  events: (answer) => [
    ...half(answer.text).filter((text) => text !== "").map((content) => ({ message: { content } })),
    { message: { content: "", tool_calls: ollamaCalls(answer) } },
    ollamaUsage(answer)
  ],
  refusal: (reason) => [statuses[reason]!, { error: sentence(reason) }],
  frame: (event) => `${JSON.stringify(event)}\n`
}

const calls = ({ toolCalls }: ProviderLaws.Answer) =>
  toolCalls.map(({ name, params }, i) => ({
    type: "function_call",
    id: `fc_${i}_${Math.random()}`,
    call_id: `call_${i}_${Math.random()}`,
    name,
    arguments: JSON.stringify(params)
  }))
const response = (answer: ProviderLaws.Answer) => ({
  object: "response",
  status: "completed",
  output: [
    ...(answer.text === ""
      ? []
      : [{
        type: "message",
        role: "assistant",
        content: [{ type: "output_text", text: answer.text, annotations: [] }]
      }]),
    ...calls(answer)
  ],
  usage: { input_tokens: answer.usage.inputTokens, output_tokens: answer.usage.outputTokens }
})
const responses: Words = {
  whole: response,
  events: (answer) => [
    ...half(answer.text).filter((text) => text !== "").map((delta) => ({
      type: "response.output_text.delta",
      output_index: 0,
      content_index: 0,
      delta
    })),
    { type: "response.completed", response: response(answer) }
  ],
  refusal: google
}

describe.each([
  ["Gemini", stub(Gemini.make({ apiKey }), gemini)],
  ["Ollama", stub(Ollama.make({ defaultModel: "m" }), ollama)],
  ["OpenAI responses", stub(OpenAi.make({ apiKey, api: "responses" }), responses)]
])("%s over a stub", (_, subject) => {
  for (const { check, name } of providerLaws(subject)) it.live(name, () => check)
})

// -----------------------------------------------------------------------------
// whoever breaks a law is told
// -----------------------------------------------------------------------------

const usage: Response.FinishPartEncoded["usage"] = { inputTokens: { total: 12 }, outputTokens: { total: 7 } }
const finish: Response.FinishPartEncoded = { type: "finish", reason: "stop", usage }
const text = (id: string, ...deltas: ReadonlyArray<string>): ReadonlyArray<Response.StreamPartEncoded> => [
  { type: "text-start", id },
  ...deltas.map((delta) => ({ type: "text-delta", id, delta }) as const),
  { type: "text-end", id }
]

const of = (
  whole: ReadonlyArray<Response.PartEncoded>,
  streamed: ReadonlyArray<Response.StreamPartEncoded>
): LlmProvider.LlmProvider =>
  LlmProvider.make({ id: "p", generate: () => Effect.succeed(whole), stream: () => Stream.fromIterable(streamed) })

const hello: Response.PartEncoded = { type: "text", text: "Hello." }
const good = of([hello, finish], [...text("0", "Hel", "lo."), finish])
const call = (id: string): Response.ToolCallPartEncoded => ({ type: "tool-call", id, name: "f", params: {} })

const broken = <E>(subject: LlmProvider.LlmProvider | ProviderLaws.Subject<E>): Effect.Effect<ReadonlyArray<string>> =>
  Effect.map(
    Effect.forEach(
      providerLaws(subject),
      ({ check, name }) => Effect.map(Effect.exit(check), (exit) => ({ exit, name }))
    ),
    (all) => all.filter(({ exit }) => exit._tag === "Failure").map(({ name }) => name)
  )

const END = "an answer ends with one finish part, and nothing follows"
const PARTS = "parts are those of effect/ai"
const BLOCKS = "a stream opens, feeds and closes its blocks, each under an id of its own"
const USAGE = "usage is told in whole numbers, as the server told it"
const SAME = "a stream says what the whole answer says"
const IDS = "tool calls have names, parameters, and ids that never repeat"
const SENSE = "an answer that makes no sense is one ProviderError"
const CUT = "a stream that is cut fails, and has no finish"
const INTERRUPTED = "interruption ends the call at once and frees the connection"
const ENOUGH = "a reader that has enough frees the connection"

describe("laws that are broken", () => {
  const cases: ReadonlyArray<readonly [name: string, provider: LlmProvider.LlmProvider, laws: ReadonlyArray<string>]> =
    [
      ["none", good, []],
      ["no finish", of([hello], [...text("0", "Hello."), finish]), [END]],
      ["no finish in the stream", of([hello, finish], text("0", "Hello.")), [END]],
      ["a part after the finish", of([hello, finish], [...text("0", "Hello."), finish, ...text("1", "")]), [END]],
      ["two finishes", of([hello, finish, finish], [...text("0", "Hello."), finish]), [END]],
      [
        "a part that is none",
        of([hello, { type: "text", txt: 1 } as never, finish], [...text("0", "Hello."), finish]),
        [PARTS]
      ],
      ["no start", of([hello, finish], [{ type: "text-delta", id: "0", delta: "Hello." }, finish]), [BLOCKS]],
      ["no end", of([hello, finish], [...text("0", "Hello.").slice(0, -1), finish]), [BLOCKS]],
      ["an id twice", of([hello, finish], [...text("0", "Hel"), ...text("0", "lo."), finish]), [BLOCKS]],
      [
        "half a token",
        of([hello, { ...finish, usage: { ...usage, outputTokens: { total: 0.5 } } }], [...text("0", "Hello."), finish]),
        [PARTS, USAGE]
      ],
      ["another text", of([hello, finish], [...text("0", "Bye."), finish]), [SAME]],
      ["an id for all calls", of([hello, call("c"), call("c"), finish], [...text("0", "Hello."), finish]), [IDS]]
    ]
  for (const [name, provider, laws] of cases) {
    it.live(name, () => Effect.map(broken(provider), (found) => assert.deepStrictEqual(found, laws)))
  }

  it.live(
    "a failure that is no ProviderError, a retry, a cut stream that looks whole, a connection that stays",
    () =>
      Effect.gen(function*() {
        let received = 0
        const traffic = Effect.sync(() => ({ received, active: 1 }))
        const failing = LlmProvider.make({
          id: "p",
          generate: () =>
            Effect.suspend(() => {
              received += 2
              return Effect.fail(new ProviderError({ provider: "other", reason: { _tag: "Server" } }))
            })
        })
        const throwing = LlmProvider.make({ id: "p", generate: () => Effect.sync(() => JSON.parse("<html>")) })
        const never = LlmProvider.make({
          id: "p",
          generate: () => Effect.uninterruptible(Effect.sleep("3 seconds")) as never
        })
        const found = yield* broken({
          answering: () => Effect.succeed({ provider: good }),
          refusing: () => Effect.succeed({ provider: failing, traffic }),
          garbling: Effect.succeed({ provider: throwing }),
          breaking: Effect.succeed({ provider: good }),
          hanging: Effect.succeed({ provider: never, traffic }),
          stalling: Effect.succeed({ provider: good, traffic })
        })
        // Scripted, so its own text and usage are not what was asked for.
        for (const law of [SAME, SENSE, CUT, INTERRUPTED, ENOUGH]) assert.include(found, law)
        assert.strictEqual(found.filter((name) => name.startsWith("a refusal is one ProviderError")).length, 7)
      }),
    20_000
  )

  it.live("a law that is broken says which, where and how", () =>
    Effect.gen(function*() {
      const [law] = providerLaws(of([hello], [finish]))
      const error = yield* Effect.flip(law!.check)
      assert.strictEqual(
        error.message,
        `"${END}", generate: expected "one finish, at the end", got ["text"]`
      )
    }))
})
