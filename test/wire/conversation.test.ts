// A conversation moves through all vendors: each turn is answered by another one, over real HTTP. The servers refuse what
// the vendors refuse; the rules are data, each with the thread or page that quotes it. The same conversation written as
// it is, with its ids and in its order, is refused by every one of them.
import { assert, describe, it } from "@effect/vitest"
import { LlmClient, type LlmProvider, LlmRequest } from "effect-resilient-llm"
import { Anthropic, Cohere, Gemini, OpenAi, OpenAiCompatible } from "effect-resilient-llm/providers"
import { Bedrock } from "effect-resilient-llm/providers/Bedrock"
import { Ollama } from "effect-resilient-llm/providers/Ollama"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as FetchHttpClient from "effect/http/FetchHttpClient"
import { createServer } from "node:http"
import type { AddressInfo } from "node:net"
import { apiKey, type Make } from "../providers/support.ts"

// -----------------------------------------------------------------------------
// what vendors refuse
// -----------------------------------------------------------------------------

interface Rule {
  readonly rule: string
  readonly source: string
  readonly isBroken: (body: any) => boolean
}

const list = (value: unknown): ReadonlyArray<any> => Array.isArray(value) ? value : []

/** Each turn with calls is followed by the results of all of them, and by nothing else before. */
const isPaired = ({ messages }: any): boolean =>
  list(messages).every((message, i) => {
    const calls = list(message.tool_calls).map(({ id }) => id)
    const results = messages.slice(i + 1, i + 1 + calls.length)
    return results.length === calls.length &&
      results.every((result: any) => result.role === "tool" && calls.includes(result.tool_call_id)) &&
      new Set(results.map((result: any) => result.tool_call_id)).size === calls.length
  })
const chatIds = ({ messages }: any): ReadonlyArray<string> =>
  list(messages).flatMap(({ tool_calls }) => list(tool_calls).map(({ id }) => id))
const chatImages = ({ messages }: any): boolean =>
  list(messages).some(({ content }) => list(content).some(({ type }) => type === "image_url"))
const paired: Rule = {
  rule: "an assistant message with tool_calls must be followed by tool messages responding to each tool_call_id",
  source: "OpenAI's own sentence, quoted in many threads; langchain PR 37756",
  isBroken: (body) => !isPaired(body)
}

const turnsOf = ({ messages }: any): ReadonlyArray<{ readonly role: string; readonly blocks: ReadonlyArray<any> }> =>
  list(messages).map(({ content, role }) => ({
    role,
    blocks: typeof content === "string" ? [{ type: "text", text: content }] : list(content)
  }))

const rules: Readonly<Record<string, ReadonlyArray<Rule>>> = {
  deepseek: [
    paired,
    {
      rule: "the reasoning_content in the thinking mode must be passed back to the API",
      source: "earendil-works/pi#3636, NousResearch/hermes-agent PR 15325",
      isBroken: ({ messages }) =>
        list(messages).some((m) => m.tool_calls !== undefined && typeof m.reasoning_content !== "string")
    },
    {
      rule: "unknown variant `image_url`, expected `text`",
      source: "DeepSeek's chat models take text only (its API reference)",
      isBroken: chatImages
    }
  ],
  openai: [
    paired,
    {
      rule: "tool_calls[].id: string too long, maximum length 40",
      source: "langchain PR 37756, pi#9048",
      isBroken: (body) => chatIds(body).some((id) => id.length > 40)
    }
  ],
  responses: [
    {
      rule: "call_id: letters, numbers, underscores or dashes, at most 64",
      source: "pi#9048, Switchyard#502",
      isBroken: ({ input }) =>
        list(input).some(({ call_id }) => call_id !== undefined && !/^[\w-]{1,64}$/.test(call_id))
    },
    {
      rule: "no tool output found for function call",
      source: "OpenAI's own sentence",
      isBroken: ({ input }) => {
        const ids = (type: string) => list(input).flatMap((item) => item.type === type ? [item.call_id] : [])
        return ids("function_call").toSorted().join() !== ids("function_call_output").toSorted().join() ||
          new Set(ids("function_call")).size !== ids("function_call").length
      }
    },
    {
      rule: "the encrypted content could not be verified",
      source: "OpenAI's own sentence",
      isBroken: ({ input }) =>
        list(input).some(({ encrypted_content, type }) => type === "reasoning" && !encrypted_content.startsWith("oai_"))
    }
  ],
  anthropic: [
    {
      rule: "tool_use.id: string should match pattern ^[a-zA-Z0-9_-]+$, and be unique",
      source: "opencode#1680, Switchyard#502",
      isBroken: (body) => {
        const ids = turnsOf(body).flatMap(({ blocks }) => blocks.flatMap((b) => b.type === "tool_use" ? [b.id] : []))
        return new Set(ids).size !== ids.length || !ids.every((id) => /^[\w-]+$/.test(id))
      }
    },
    {
      rule: "tool_use ids were found without tool_result blocks immediately after",
      source: "LibreChat agents PR 124",
      isBroken: (body) =>
        turnsOf(body).some(({ blocks }, i, turns) => {
          const calls = blocks.flatMap((block) => block.type === "tool_use" ? [block.id] : [])
          const first = turns[i + 1]?.blocks.slice(0, calls.length) ?? []
          return calls.some((id) => !first.some((block) => block.type === "tool_result" && block.tool_use_id === id))
        })
    },
    {
      rule: "text content blocks must contain non-whitespace text",
      source: "vercel/ai PR 2124",
      isBroken: (body) =>
        turnsOf(body).some(({ blocks }) => blocks.some((b) => b.type === "text" && b.text.trim() === ""))
    },
    {
      rule: "invalid signature in thinking block",
      source: "opencode#3077",
      isBroken: (body) =>
        turnsOf(body).some(({ blocks }) => blocks.some((b) => b.type === "thinking" && !b.signature.startsWith("ant_")))
    },
    {
      rule: "expected `thinking`, but found `tool_use`",
      source: "continuedev/continue#4470, opencode#3077",
      isBroken: (body) => {
        const turns = turnsOf(body)
        const isLoop = turns[turns.length - 1]?.blocks.some(({ type }) => type === "tool_result") === true
        const last = turns.findLast(({ role }) => role === "assistant")
        return body.thinking?.type === "enabled" && isLoop && last?.blocks[0]?.type !== "thinking"
      }
    }
  ],
  mistral: [
    paired,
    {
      rule: "tool call id must be a-z, A-Z, 0-9, with a length of 9",
      source: "anomalyco/opencode#1680, langchain PR 24668",
      isBroken: (body) => chatIds(body).some((id) => !/^[a-zA-Z\d]{9}$/.test(id))
    },
    {
      rule: "extra inputs are not permitted",
      source: "Mistral's own sentence",
      isBroken: ({ messages }) => list(messages).some((m) => "reasoning_content" in m || "reasoning" in m)
    }
  ],
  cohere: [{ ...paired, source: "Cohere's guide to tool use: results answer the message before them" }],
  gemini: [
    {
      rule:
        "the number of function response parts must equal the number of function call parts of the function call turn",
      source: "google-gemini/gemini-cli#16543, #4217",
      isBroken: ({ contents }) =>
        list(contents).some(({ parts }, i) => {
          const calls = list(parts).flatMap(({ functionCall }) => functionCall === undefined ? [] : [functionCall.name])
          const results = list(contents[i + 1]?.parts).map(({ functionResponse }) => functionResponse?.name)
          return calls.length > 0 && calls.join() !== results.join()
        })
    },
    {
      rule: "function call is missing a thought_signature",
      source: "Google's page on thought signatures (Gemini 3)",
      isBroken: ({ contents }) =>
        list(contents).some(({ parts }) => {
          const first = list(parts).find(({ functionCall }) => functionCall !== undefined)
          return first !== undefined && !/^(?:goo_|skip_thought)/.test(first.thoughtSignature ?? "")
        })
    }
  ],
  bedrock: [
    {
      rule: "tool ids: letters, digits, dashes and underscores; and unique",
      source: "gethnet/litellm-connector-copilot PR 101",
      isBroken: ({ messages }) => {
        const ids = list(messages).flatMap(({ content }) =>
          list(content).flatMap(({ toolUse }) => toolUse === undefined ? [] : [toolUse.toolUseId])
        )
        return new Set(ids).size !== ids.length || !ids.every((id) => /^[\w-]{1,64}$/.test(id))
      }
    },
    {
      rule: "expected toolResult blocks at messages.N.content for the following ids",
      source: "agno-agi/agno#6698, zeroclaw PR 1476",
      isBroken: ({ messages }) =>
        list(messages).some(({ content }, i) => {
          const calls = list(content).flatMap(({ toolUse }) => toolUse === undefined ? [] : [toolUse.toolUseId])
          const results = new Set(list(messages[i + 1]?.content).map(({ toolResult }) => toolResult?.toolUseId))
          return calls.some((id) => !results.has(id))
        })
    },
    {
      rule: "the toolConfig field must be defined when using toolUse and toolResult content blocks",
      source: "vxcontrol/pentagi PR 196, patriceckhart/zot PR 18",
      isBroken: ({ messages, toolConfig }) =>
        toolConfig === undefined &&
        list(messages).some(({ content }) => list(content).some(({ toolUse }) => toolUse !== undefined))
    },
    {
      rule: "text content blocks must be non-empty",
      source: "NousResearch/hermes-agent#55092",
      isBroken: ({ messages }) =>
        list(messages).some(({ content }) =>
          list(content).some(({ text, toolResult }) =>
            [text, ...list(toolResult?.content).map((block) => block.text)].some((said) => said?.trim() === "")
          )
        )
    }
  ],
  ollama: [
    {
      rule:
        "json: cannot unmarshal string into Go struct field ChatRequest.messages of type api.ToolCallFunctionArguments",
      source: "neuron-core/neuron-ai#219, aliasrobotics/cai#76",
      isBroken: ({ messages }) =>
        list(messages).some(({ tool_calls }) =>
          list(tool_calls).some((call) => typeof call.function.arguments !== "object")
        )
    },
    {
      rule: "illegal base64 data",
      source: "Ollama's own sentence",
      isBroken: ({ messages }) => list(messages).some(({ images }) => list(images).some((image) => image.includes(":")))
    }
  ]
}

// -----------------------------------------------------------------------------
// what vendors answer
// -----------------------------------------------------------------------------

let drawn = 0
const letters = (count: number): string => (String(++drawn) + "x".repeat(count)).slice(0, count)

const args = { city: "Bern" }
const text = JSON.stringify(args)
const names = ["weather", "clock"]

/** Two calls with reasoning, where the vendor shows any; or the end of the turn. */
const answers: Readonly<Record<string, (calls: boolean) => unknown>> = {
  deepseek: (calls) => chatAnswer(calls, () => `call_00_${letters(40)}`, { reasoning_content: "Hm, DeepSeek" }),
  openai: (calls) => chatAnswer(calls, () => `call_${letters(24)}`),
  mistral: (calls) => chatAnswer(calls, () => letters(9)),
  cohere: (calls) => ({
    id: "c",
    finish_reason: calls ? "TOOL_CALL" : "COMPLETE",
    message: calls
      ? {
        tool_plan: "I look",
        tool_calls: names.map((name) => ({
          id: `${name}_${letters(12)}`,
          type: "function",
          function: { name, arguments: text }
        }))
      }
      : { content: [{ type: "text", text: "Done." }] }
  }),
  responses: (calls) => ({
    id: "resp",
    status: "completed",
    output: calls
      ? [
        { type: "reasoning", id: "rs", summary: [], encrypted_content: "oai_sealed" },
        ...names.map((name) => ({ type: "function_call", call_id: `call_${letters(55)}`, name, arguments: text }))
      ]
      : [{ type: "message", content: [{ type: "output_text", text: "Done." }] }]
  }),
  anthropic: (calls) => ({
    id: "msg",
    stop_reason: calls ? "tool_use" : "end_turn",
    content: calls
      ? [
        { type: "thinking", thinking: "Hm, Claude", signature: "ant_sig" },
        ...names.map((name) => ({ type: "tool_use", id: `toolu_01${letters(22)}`, name, input: args }))
      ]
      : [{ type: "text", text: "Done." }]
  }),
  gemini: (calls) => ({
    candidates: [{
      finishReason: "STOP",
      content: {
        parts: calls
          ? [
            { text: "Hm, Gemini", thought: true },
            { functionCall: { name: names[0], args }, thoughtSignature: "goo_sig" },
            { functionCall: { name: names[1], args } }
          ]
          : [{ text: "Done." }]
      }
    }]
  }),
  bedrock: (calls) => ({
    stopReason: calls ? "tool_use" : "end_turn",
    output: {
      message: {
        content: calls
          ? [
            { reasoningContent: { reasoningText: { text: "Hm, Bedrock", signature: "aws_sig" } } },
            ...names.map((name) => ({ toolUse: { toolUseId: `tooluse_${letters(22)}`, name, input: args } }))
          ]
          : [{ text: "Done." }]
      }
    }
  }),
  ollama: (calls) => ({
    model: "m",
    done: true,
    done_reason: "stop",
    message: calls
      ? {
        thinking: "Hm, Llama",
        content: "",
        tool_calls: names.map((name) => ({ function: { name, arguments: args } }))
      }
      : { content: "Done." }
  })
}

const chatAnswer = (calls: boolean, id: () => string, more: object = {}) => ({
  id: "chat",
  choices: [{
    finish_reason: calls ? "tool_calls" : "stop",
    message: calls
      ? {
        content: null,
        ...more,
        tool_calls: names.map((name) => ({ id: id(), type: "function", function: { name, arguments: text } }))
      }
      : { content: "Done.", ...more }
  }]
})

/** Is something asked, rather than told what came of calls? */
const isQuestion = (body: any): boolean =>
  JSON.stringify(list(body.messages ?? body.input ?? body.contents).at(-1)).includes("Question")

interface Refusal {
  readonly vendor: string
  readonly rule: string
}

/** One server for all: the first part of the path names the vendor. */
const makeServer = Effect.acquireRelease(
  Effect.callback<{ readonly url: string; readonly refusals: Array<Refusal>; readonly stop: () => void }>((resume) => {
    const refusals: Array<Refusal> = []
    const server = createServer((request, response) => {
      const chunks: Array<Buffer> = []
      request.on("data", (chunk: Buffer) => chunks.push(chunk)).on("end", () => {
        const body = JSON.parse(Buffer.concat(chunks).toString())
        const vendor = request.url!.split("/")[1]!
        const broken = rules[vendor]!.find(({ isBroken }) => isBroken(body))
        if (broken !== undefined) refusals.push({ vendor, rule: broken.rule })
        const answer = broken === undefined
          ? answers[vendor]!(isQuestion(body))
          : { message: broken.rule, error: { message: broken.rule, type: "invalid_request_error", code: 400 } }
        response.writeHead(broken === undefined ? 200 : 400, { "content-type": "application/json" })
        response.end(JSON.stringify(answer))
      })
    })
    const stop = (): void => {
      server.closeAllConnections()
      server.close()
    }
    server.listen(0, "127.0.0.1", () => {
      resume(Effect.succeed({ url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, refusals, stop }))
    })
  }),
  ({ stop }) => Effect.sync(stop)
)

// -----------------------------------------------------------------------------
// the conversation
// -----------------------------------------------------------------------------

const { presets } = OpenAiCompatible
const makes: Readonly<Record<string, (url: string) => Make>> = {
  deepseek: (baseUrl) => OpenAiCompatible.make(presets.deepseek({ apiKey, baseUrl, defaultModel: "m" })),
  openai: (baseUrl) => OpenAi.make({ apiKey, baseUrl }),
  responses: (baseUrl) => OpenAi.make({ apiKey, baseUrl, api: "responses", encryptedReasoning: true }),
  anthropic: (baseUrl) => Anthropic.make({ apiKey, baseUrl }),
  mistral: (baseUrl) => OpenAiCompatible.make(presets.mistral({ apiKey, baseUrl })),
  cohere: (baseUrl) => Cohere.make({ apiKey, baseUrl }),
  gemini: (baseUrl) => Gemini.make({ apiKey, baseUrl, defaultModel: "gemini-3-pro" }),
  bedrock: (baseUrl) => Bedrock.make({ region: "eu-central-1", apiKey, baseUrl, defaultModel: "m" }),
  ollama: (baseUrl) => Ollama.make({ baseUrl, defaultModel: "m" })
}
const vendors = Object.keys(makes)

class Tag extends Context.Service<Tag, LlmProvider.LlmProvider>()("test/conversation") {}
const tags = new Map(vendors.map((vendor) => [vendor, Context.Service<Tag, LlmProvider.LlmProvider>(vendor)]))

/** Who is asked first, question and answer of each of the six turns. */
const schedule = [
  ["deepseek", "openai"],
  ["responses", "deepseek"],
  ["anthropic", "mistral"],
  ["gemini", "cohere"],
  ["deepseek", "gemini"], // with an image
  ["bedrock", "anthropic"]
] as const
const imageTurn = 4

const tools = names.map((name) => ({ name, parameters: { type: "object" } }))
const image = { type: "file", mediaType: "image/png", data: "iVBORw0KGgo=" } as const

/** The conversation as somebody would write it who knows one vendor only. */
const asItIs = (vendor: string, prompt: LlmRequest.LlmRequest["prompt"]): readonly [path: string, body: object] => {
  const parts = (message: any): ReadonlyArray<any> =>
    typeof message.content === "string" ? [{ type: "text", text: message.content }] : message.content
  const textOf = (message: any) => parts(message).flatMap((p) => p.type === "text" ? [p.text] : []).join("")
  const chat = prompt.flatMap((message): ReadonlyArray<object> => {
    if (message.role === "tool") {
      return parts(message).map((p) => ({ role: "tool", tool_call_id: p.id, content: JSON.stringify(p.result) }))
    }
    const calls = parts(message).flatMap((p) =>
      p.type === "tool-call" ? [{ id: p.id, function: { name: p.name, arguments: JSON.stringify(p.params) } }] : []
    )
    return [{
      role: message.role,
      content: textOf(message),
      ...(calls.length === 0 ? undefined : { tool_calls: calls })
    }]
  })
  switch (vendor) {
    case "anthropic":
      return ["/v1/messages", {
        messages: prompt.map((message) => ({
          role: message.role === "assistant" ? "assistant" : "user",
          content: parts(message).flatMap((p): ReadonlyArray<object> =>
            p.type === "tool-call"
              ? [{ type: "tool_use", id: p.id, name: p.name, input: p.params }]
              : p.type === "tool-result"
              ? [{ type: "tool_result", tool_use_id: p.id, content: "" }]
              : p.type === "text"
              ? [{ type: "text", text: p.text }]
              : []
          )
        }))
      }]
    case "bedrock":
      return ["/model/m/converse", {
        messages: prompt.map((message) => ({
          role: message.role === "assistant" ? "assistant" : "user",
          content: parts(message).flatMap((p): ReadonlyArray<object> =>
            p.type === "tool-call"
              ? [{ toolUse: { toolUseId: p.id, name: p.name, input: p.params } }]
              : p.type === "tool-result"
              ? [{ toolResult: { toolUseId: p.id, content: [{ text: "…" }] } }]
              : p.type === "text"
              ? [{ text: p.text }]
              : []
          )
        }))
      }]
    case "gemini":
      return ["/v1beta/models/m:generateContent", {
        contents: prompt.map((message) => ({
          parts: parts(message).flatMap((p): ReadonlyArray<object> =>
            p.type === "tool-call"
              ? [{ functionCall: { name: p.name, args: p.params } }]
              : p.type === "tool-result"
              ? [{ functionResponse: { name: p.name, response: p.result } }]
              : p.type === "text"
              ? [{ text: p.text }]
              : []
          )
        }))
      }]
    case "responses":
      return ["/responses", {
        input: prompt.flatMap((message) =>
          parts(message).flatMap((p): ReadonlyArray<object> =>
            p.type === "tool-call"
              ? [{ type: "function_call", call_id: p.id, name: p.name, arguments: JSON.stringify(p.params) }]
              : p.type === "tool-result"
              ? [{ type: "function_call_output", call_id: p.id, output: "" }]
              : p.type === "reasoning"
              ? [{ type: "reasoning", encrypted_content: p.text }]
              : p.type === "text"
              ? [{ role: message.role, content: p.text }]
              : []
          )
        )
      }]
    default:
      return ["/chat", { messages: chat }]
  }
}

describe("a conversation that moves through all vendors", () => {
  it.live(
    "is answered by each, in six turns with two calls each, reasoning and an image",
    () =>
      Effect.gen(function*() {
        const server = yield* makeServer
        const providers = yield* Effect.forEach(vendors, (vendor) => makes[vendor]!(`${server.url}/${vendor}`))
        let context: Context.Context<Tag> = Context.make(Tag, providers[0]!)
        for (const [i, vendor] of vendors.entries()) context = Context.add(context, tags.get(vendor)!, providers[i]!)
        const prompt: Array<any> = [{ role: "system", content: "Be brief." }]
        const answered: Array<string> = []
        const skipped: Array<readonly [turn: number, target: string, because: string, field: string | undefined]> = []

        const ask = (first: string, turn: number) =>
          Effect.gen(function*() {
            const at = vendors.indexOf(first)
            const order = [first, ...[...vendors, ...vendors].slice(at + 1, at + vendors.length).toReversed()]
            const [target, ...others] = order.map((vendor) => LlmClient.target(tags.get(vendor)!, { id: vendor }))
            const client = yield* LlmClient.make([target!, ...others], { retry: false, circuitBreaker: false })
            const response = yield* client.complete({ prompt, tools, reasoningEffort: "low" }).pipe(
              Effect.catch((error) => Effect.die(new Error(`${error.message} ${JSON.stringify(server.refusals)}`)))
            )
            for (const event of response.ledger) {
              if (event._tag === "TargetSkipped") skipped.push([turn, event.target, event.because, event.field])
              if (event._tag === "AttemptFailed") assert.fail(`${event.target}: ${JSON.stringify(event.error)}`)
            }
            answered.push(response.target)
            return response
          }).pipe(Effect.scoped, Effect.provide(context))

        for (const [turn, [asked, told]] of schedule.entries()) {
          const question = `Question ${turn}`
          prompt.push({
            role: "user",
            content: turn === imageTurn ? [{ type: "text", text: question }, image] : question
          })
          const calls = yield* ask(asked, turn)
          assert.deepStrictEqual(
            calls.toolCalls.map(({ name, params }: any) => [name, params]),
            names.map((n) => [n, args])
          )
          prompt.push(calls.message)
          // Somebody is impatient, and the second tool is done first.
          if (turn % 2 === 1) prompt.push({ role: "user", content: "Still there?" })
          for (const call of calls.toolCalls.toReversed()) prompt.push(LlmRequest.toolResult(call, { of: call.name }))
          const end = yield* ask(told, turn)
          prompt.push(end.message)
        }

        assert.deepStrictEqual(server.refusals, [])
        assert.deepStrictEqual(new Set(answered), new Set(vendors))
        for (const [i, target] of answered.entries()) assert.notStrictEqual(target, answered[i - 1])
        // Only the one without images is passed over, and only where there is one.
        assert.deepStrictEqual(skipped, [[imageTurn, "deepseek", "unsupported", "prompt.file"]])

        const request = yield* LlmRequest.make({ prompt })
        for (const vendor of vendors) {
          server.refusals.length = 0
          const [path, body] = asItIs(vendor, request.prompt)
          const response = yield* Effect.promise(() =>
            fetch(`${server.url}/${vendor}${path}`, { method: "POST", body: JSON.stringify(body) })
          )
          assert.strictEqual(response.status, 400, vendor)
          assert.strictEqual(server.refusals.length, 1, vendor)
        }
      }).pipe(Effect.scoped, Effect.provide(FetchHttpClient.layer)),
    30_000
  )
})
