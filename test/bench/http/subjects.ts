// The ways of asking a chat model over HTTP: another prompt in every call, and the text that came. What a subject imports,
// it imports when it is made.
import type { Layer } from "effect"
import type { HttpClient } from "effect/http/HttpClient"
import type * as LlmConfig from "../../../src/LlmConfig.ts"
import { inTurn, prompts } from "../prompts.ts"

export type Ask = () => Promise<string>

export interface Asker {
  readonly complete: Ask
  readonly stream: Ask
}

const KEY = "sk-bench"
const MODEL = "gpt-bench"

const texts = (): () => string => inTurn((i) => prompts[i]!, false)
const payload = (prompt: string, stream: boolean): string =>
  JSON.stringify({
    model: MODEL,
    messages: [{ role: "user", content: prompt }],
    ...(stream ? { stream, stream_options: { include_usage: true } } : undefined)
  })

let asked = 0
/** What the library sends, for those who write their requests themselves. */
const headers = () => ({
  authorization: `Bearer ${KEY}`,
  accept: "application/json",
  "content-type": "application/json",
  "idempotency-key": `bench-${process.pid}-${++asked}`
})

interface Completion {
  readonly choices: ReadonlyArray<{ readonly message: { readonly content: string } }>
}
const contentOf = (completion: unknown): string => (completion as Completion).choices[0]!.message.content

/** The texts of the events in a piece of a stream; an event may be torn between two pieces. */
const reader = () => {
  let rest = ""
  return (piece: string): string => {
    const lines = (rest + piece).split("\n")
    rest = lines.pop() ?? ""
    let text = ""
    for (const line of lines) {
      if (line.startsWith("data: {")) text += JSON.parse(line.slice(6)).choices[0]?.delta.content ?? ""
    }
    return text
  }
}

const contextOf = async <A, E>(layer: Layer.Layer<A, E>) => {
  const { Effect, Layer, Scope } = await import("effect")
  return Effect.runPromise(Layer.buildWithScope(layer, Scope.makeUnsafe()))
}

/** The library over one of the clients of `effect/http`. */
const ours =
  (clientOf: () => Promise<Layer.Layer<HttpClient>>, isOff = false) => async (url: string): Promise<Asker> => {
    const { Effect, Layer, Redacted, Stream } = await import("effect")
    const { LlmClient } = await import("../../../src/index.ts")
    const { OpenAi } = await import("../../../src/providers/OpenAi.ts")
    const { off, on } = await import("../stubs.ts")
    const options: LlmConfig.Options = isOff ? off : { ...on, bulkhead: { maxConcurrent: 100_000 } }
    const context = await contextOf(
      LlmClient.layer([OpenAi], options).pipe(
        Layer.provide(OpenAi.layer({ apiKey: Redacted.make(KEY), baseUrl: url, defaultModel: MODEL })),
        Layer.provide(await clientOf())
      )
    )
    const run = Effect.runPromiseWith(context)
    const next = texts()
    const complete = Effect.flatMap(LlmClient, (client) => Effect.map(client.complete(next()), ({ text }) => text))
    const stream = Effect.flatMap(LlmClient, (client) =>
      Stream.runFold(
        client.stream(next()),
        () => "",
        (text, part) => part.type === "text-delta" ? text + part.delta : text
      ))
    return { complete: () => run(complete), stream: () => run(stream) }
  }

/** Effect's client alone: one request, its JSON, nothing of ours. */
const effectAlone = (clientOf: () => Promise<Layer.Layer<HttpClient>>) => async (url: string): Promise<Asker> => {
  const { Effect, Stream } = await import("effect")
  const { HttpClient, HttpClientRequest } = await import("effect/http")
  const context = await contextOf(await clientOf())
  const run = Effect.runPromiseWith(context)
  const next = texts()
  const request = (stream: boolean) =>
    HttpClientRequest.post(`${url}/chat/completions`).pipe(
      HttpClientRequest.setHeaders(headers()),
      HttpClientRequest.bodyText(payload(next(), stream), "application/json")
    )
  const untraced = Effect.provideService(HttpClient.TracerDisabledWhen, () => true)
  const complete = Effect.suspend(() => HttpClient.execute(request(false))).pipe(
    Effect.flatMap((response) => response.json),
    Effect.map(contentOf),
    untraced
  )
  const stream = Effect.suspend(() => HttpClient.execute(request(true))).pipe(
    Effect.flatMap((response) => {
      const read = reader()
      return Stream.runFold(Stream.decodeText(response.stream), () => "", (text, piece) => text + read(piece))
    }),
    untraced
  )
  return { complete: () => run(complete), stream: () => run(stream) }
}

const dispatcher = async () => (await import("../../../src/node/DispatcherHttpClient.ts")).layerAgent()
const undici = async () => (await import("@effect/platform-node/NodeHttpClient")).layerUndici
const fetching = async () => (await import("effect/http/FetchHttpClient")).layer

export const FLOOR = "undici"
export const OURS = "effect-resilient-llm"

export const makers: Readonly<Record<string, (url: string) => Promise<Asker>>> = {
  [FLOOR]: async (url) => {
    const { Agent, request } = await import("undici")
    const dispatcher = new Agent()
    const next = texts()
    const ask = async (stream: boolean) => {
      const { body } = await request(`${url}/chat/completions`, {
        method: "POST",
        headers: headers(),
        body: payload(next(), stream),
        dispatcher
      })
      return body
    }
    return {
      complete: async () => contentOf(await (await ask(false)).json()),
      stream: async () => {
        const body = await ask(true)
        const read = reader()
        let text = ""
        body.setEncoding("utf8")
        for await (const piece of body) text += read(piece as string)
        return text
      }
    }
  },

  [OURS]: ours(dispatcher),
  [`${OURS}, every pattern off`]: ours(dispatcher, true),
  "effect-resilient-llm on Effect's undici": ours(undici),
  "effect-resilient-llm on fetch": ours(fetching),
  "DispatcherHttpClient alone": effectAlone(dispatcher),
  "Effect's undici client alone": effectAlone(undici),

  "hand-written promises on fetch": async (url) => {
    const { byHand } = await import("../peers/byHand.ts")
    const provider = async ({ prompt }: { readonly prompt: unknown }): Promise<string> => {
      const response = await fetch(`${url}/chat/completions`, {
        method: "POST",
        headers: headers(),
        body: payload(String(prompt), false)
      })
      if (!response.ok) throw new Error(`status ${response.status}`)
      return contentOf(await response.json())
    }
    const ask = byHand([provider, provider])
    const next = texts()
    return {
      complete: () => ask({ prompt: next() }),
      // It has no streams; this is what it would be built on.
      stream: async () => {
        const response = await fetch(`${url}/chat/completions`, {
          method: "POST",
          headers: headers(),
          body: payload(next(), true)
        })
        const read = reader()
        const decoder = new TextDecoder()
        let text = ""
        for await (const piece of response.body!) text += read(decoder.decode(piece, { stream: true }))
        return text
      }
    }
  },

  "openai": async (url) => {
    const { OpenAI } = await import("openai")
    const client = new OpenAI({ apiKey: KEY, baseURL: url })
    const next = texts()
    const request = () => ({ model: MODEL, messages: [{ role: "user" as const, content: next() }] })
    return {
      complete: async () => (await client.chat.completions.create(request())).choices[0]!.message.content ?? "",
      stream: async () => {
        let text = ""
        for await (const chunk of await client.chat.completions.create({ ...request(), stream: true })) {
          text += chunk.choices[0]?.delta.content ?? ""
        }
        return text
      }
    }
  },

  "@anthropic-ai/sdk": async (url) => {
    const { Anthropic } = await import("@anthropic-ai/sdk")
    const client = new Anthropic({ apiKey: KEY, baseURL: url })
    const next = texts()
    const request = () => ({
      model: "claude-bench",
      max_tokens: 1000,
      messages: [{ role: "user" as const, content: next() }]
    })
    return {
      complete: async () => {
        const [block] = (await client.messages.create(request())).content
        return block?.type === "text" ? block.text : ""
      },
      stream: async () => {
        let text = ""
        for await (const event of await client.messages.create({ ...request(), stream: true })) {
          if (event.type === "content_block_delta" && event.delta.type === "text_delta") text += event.delta.text
        }
        return text
      }
    }
  },

  "AI SDK": async (url) => {
    const { generateText, streamText } = await import("ai")
    const { createOpenAI } = await import("@ai-sdk/openai")
    const model = createOpenAI({ apiKey: KEY, baseURL: url }).chat(MODEL)
    const next = texts()
    return {
      complete: async () => (await generateText({ model, prompt: next() })).text,
      stream: async () => {
        let text = ""
        for await (const delta of streamText({ model, prompt: next() }).textStream) text += delta
        return text
      }
    }
  },

  "LangChain": async (url) => {
    const { ChatOpenAI } = await import("@langchain/openai")
    const model = new ChatOpenAI({ apiKey: KEY, model: MODEL, configuration: { baseURL: url } })
    const next = texts()
    return {
      complete: async () => (await model.invoke(next())).text,
      stream: async () => {
        let text = ""
        for await (const chunk of await model.stream(next())) text += chunk.text
        return text
      }
    }
  },

  "resilient-llm": async (url) => {
    const { ProviderRegistry, ResilientLLM } = await import("resilient-llm")
    console.log = () => {} // it prints a line for every call
    const name = `bench-${asked++}`
    ProviderRegistry.configure(name, { chatApiUrl: `${url}/chat/completions`, apiKey: KEY })
    const llm = new ResilientLLM({
      aiService: name,
      model: MODEL,
      rateLimitConfig: { requestsPerMinute: 1e9, llmTokensPerMinute: 1e12 }
    })
    const next = texts()
    const complete = async (): Promise<string> => {
      // It answers a question that it has heard before from its memory.
      const { content } = await llm.chat([{ role: "user", content: `${next()} ${++asked}` }])
      return typeof content === "string" ? content : ""
    }
    return { complete, stream: complete }
  }
}

/** They have no streams. */
export const withoutStreams: ReadonlySet<string> = new Set(["resilient-llm", "hand-written promises on fetch"])
