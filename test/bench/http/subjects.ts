// The ways of asking a chat model over HTTP. Each module is loaded only by the process that measures it.
import { ANSWER, PROMPT } from "../stubs.ts"

export interface Asker {
  readonly complete: () => Promise<unknown>
  readonly stream: () => Promise<unknown>
}

const KEY = "sk-bench"
const MODEL = "gpt-bench"
const payload = (stream: boolean): string =>
  JSON.stringify({ model: MODEL, messages: [{ role: "user", content: PROMPT }], ...(stream ? { stream } : undefined) })
let asked = 0
/** What the library sends, for those who write their requests themselves. */
const headers = () => ({
  authorization: `Bearer ${KEY}`,
  accept: "application/json",
  "content-type": "application/json",
  "idempotency-key": `bench-${process.pid}-${++asked}`
})

const same = (text: unknown): void => {
  if (text !== ANSWER) throw new Error("not the expected answer")
}
const long = (text: string): void => {
  if (text.length !== 500) throw new Error(`a stream of ${text.length} characters`)
}

interface Completion {
  readonly choices: ReadonlyArray<{ readonly message: { readonly content: string } }>
}

/** The text in the events of a stream that were read whole. */
const textOf = (events: string): string => {
  let text = ""
  for (const line of events.split("\n")) {
    if (!line.startsWith("data: {")) continue
    text += JSON.parse(line.slice(6)).choices[0]?.delta.content ?? ""
  }
  return text
}

export const makers: Readonly<Record<string, (url: string) => Promise<Asker>>> = {
  "undici": async (url) => {
    const { Agent, request } = await import("undici")
    const dispatcher = new Agent()
    const ask = async (stream: boolean) => {
      const { body } = await request(`${url}/chat/completions`, {
        method: "POST",
        headers: headers(),
        body: payload(stream),
        dispatcher
      })
      return body
    }
    return {
      complete: async () => same((await (await ask(false)).json() as Completion).choices[0]!.message.content),
      stream: async () => {
        let events = ""
        for await (const chunk of await ask(true)) events += chunk
        long(textOf(events))
      }
    }
  },

  "Effect's HttpClient on undici": async (url) => {
    const { NodeHttpClient } = await import("@effect/platform-node")
    const { Effect, Layer, Scope, Stream } = await import("effect")
    const { HttpClient, HttpClientRequest } = await import("effect/http")
    const context = await Effect.runPromise(Layer.buildWithScope(NodeHttpClient.layerUndici, Scope.makeUnsafe()))
    const request = (stream: boolean) =>
      HttpClientRequest.post(`${url}/chat/completions`).pipe(
        HttpClientRequest.setHeaders(headers()),
        HttpClientRequest.bodyText(payload(stream), "application/json")
      )
    const run = Effect.runPromiseWith(context)
    const complete = Effect.suspend(() => HttpClient.execute(request(false))).pipe(
      Effect.flatMap((response) => response.json),
      Effect.map((json) => same((json as unknown as Completion).choices[0]!.message.content))
    )
    const stream = Effect.suspend(() => HttpClient.execute(request(true))).pipe(
      Effect.flatMap((response) => Stream.mkString(Stream.decodeText(response.stream))),
      Effect.map((events) => long(textOf(events)))
    )
    return { complete: () => run(complete), stream: () => run(stream) }
  },

  "effect-resilient-llm": async (url) => {
    const { NodeHttpClient } = await import("@effect/platform-node")
    const { Effect, Layer, Redacted, Scope, Stream } = await import("effect")
    const { LlmClient } = await import("../../../src/index.ts")
    const { OpenAi } = await import("../../../src/providers/OpenAi.ts")
    const { on } = await import("../stubs.ts")
    const live = LlmClient.layer([OpenAi], on).pipe(
      Layer.provide(OpenAi.layer({ apiKey: Redacted.make(KEY), baseUrl: url, defaultModel: MODEL })),
      Layer.provide(NodeHttpClient.layerUndici)
    )
    const context = await Effect.runPromise(Layer.buildWithScope(live, Scope.makeUnsafe()))
    const run = Effect.runPromiseWith(context)
    const complete = Effect.flatMap(LlmClient, (client) => client.complete(PROMPT))
    const stream = Effect.flatMap(
      LlmClient,
      (client) =>
        Stream.runFold(
          client.stream(PROMPT),
          () => "",
          (text, part) => part.type === "text-delta" ? text + part.delta : text
        )
    )
    return {
      complete: async () => same((await run(complete)).text),
      stream: async () => long(await run(stream))
    }
  },

  "openai SDK": async (url) => {
    const { OpenAI } = await import("openai")
    const client = new OpenAI({ apiKey: KEY, baseURL: url })
    const messages = [{ role: "user" as const, content: PROMPT }]
    return {
      complete: async () =>
        same((await client.chat.completions.create({ model: MODEL, messages })).choices[0]!.message.content),
      stream: async () => {
        let text = ""
        for await (const chunk of await client.chat.completions.create({ model: MODEL, messages, stream: true })) {
          text += chunk.choices[0]?.delta.content ?? ""
        }
        long(text)
      }
    }
  },

  "AI SDK": async (url) => {
    const { generateText, streamText } = await import("ai")
    const { createOpenAI } = await import("@ai-sdk/openai")
    const model = createOpenAI({ apiKey: KEY, baseURL: url }).chat(MODEL)
    return {
      complete: async () => same((await generateText({ model, prompt: PROMPT })).text),
      stream: async () => {
        let text = ""
        for await (const delta of streamText({ model, prompt: PROMPT }).textStream) text += delta
        long(text)
      }
    }
  },

  "LangChain": async (url) => {
    const { ChatOpenAI } = await import("@langchain/openai")
    const model = new ChatOpenAI({ apiKey: KEY, model: MODEL, configuration: { baseURL: url } })
    return {
      complete: async () => same((await model.invoke(PROMPT)).content),
      stream: async () => {
        let text = ""
        for await (const chunk of await model.stream(PROMPT)) text += chunk.text
        long(text)
      }
    }
  }
}
