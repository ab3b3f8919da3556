// Amazon Bedrock: no recording of it is at hand, so its official client and our adapter talk to the same server, are asked
// the same, and must say the same. Signatures are computed here once more, by AWS's description of version 4.
import {
  BedrockRuntimeClient,
  type ContentBlock,
  ConverseCommand,
  type ConverseCommandInput,
  ConverseStreamCommand
} from "@aws-sdk/client-bedrock-runtime"
import { assert, describe, it } from "@effect/vitest"
import { NodeHttpHandler } from "@smithy/node-http-handler"
import { LlmRequest } from "effect-resilient-llm"
import { Bedrock } from "effect-resilient-llm/providers/Bedrock"
import { FaultServer } from "effect-resilient-llm/testing"
import * as Effect from "effect/Effect"
import * as FetchHttpClient from "effect/http/FetchHttpClient"
import * as Redacted from "effect/Redacted"
import { createHash, createHmac } from "node:crypto"
import { createServer } from "node:http"
import type { AddressInfo } from "node:net"
import { apiKey, connect, digest, play, run, seeded, sent, serve, wellFormed } from "../providers/support.ts"

const accessKeyId = "AKIDEXAMPLE"
const secretAccessKey = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
const sessionToken = "session/token+of=this"
const region = "eu-central-1"
const modelId = "eu.anthropic.claude-haiku-4-5-20251001-v1:0"
const credentials = {
  accessKeyId,
  secretAccessKey: Redacted.make(secretAccessKey),
  sessionToken: Redacted.make(sessionToken)
}

const official = (endpoint: string) =>
  new BedrockRuntimeClient({
    region,
    endpoint,
    credentials: { accessKeyId, secretAccessKey, sessionToken },
    maxAttempts: 1,
    // By itself it speaks HTTP/2.
    requestHandler: new NodeHttpHandler()
  })
const ours = (baseUrl: string) => Bedrock.make({ region, baseUrl, credentials, defaultModel: modelId })

interface Seen {
  readonly text: string
  readonly reasoning: string
  readonly calls: ReadonlyArray<readonly [id: string | undefined, name: string | undefined, params: unknown]>
  readonly finish: string | undefined
  readonly usage: ReadonlyArray<number | undefined>
}

const input: ConverseCommandInput = { modelId, messages: [{ role: "user", content: [{ text: "Hi" }] }] }

const wholeBy = async (client: BedrockRuntimeClient): Promise<Seen> => {
  const { output, stopReason, usage } = await client.send(new ConverseCommand(input))
  const blocks: ReadonlyArray<ContentBlock> = output?.message?.content ?? []
  return {
    text: blocks.map(({ text }) => text ?? "").join(""),
    reasoning: blocks.map(({ reasoningContent }) => reasoningContent?.reasoningText?.text ?? "").join(""),
    calls: blocks.flatMap(({ toolUse }) =>
      toolUse === undefined ? [] : [[toolUse.toolUseId, toolUse.name, toolUse.input] as const]
    ),
    finish: stopReason,
    usage: [usage?.inputTokens, usage?.cacheReadInputTokens, usage?.outputTokens]
  }
}

const streamedBy = async (client: BedrockRuntimeClient): Promise<Seen> => {
  const { stream } = await client.send(new ConverseStreamCommand(input))
  let text = ""
  let reasoning = ""
  let finish: string | undefined
  let usage: Seen["usage"] = []
  const calls: Array<{ readonly id: string | undefined; readonly name: string | undefined; args: string }> = []
  for await (const event of stream!) {
    const delta = event.contentBlockDelta?.delta
    text += delta?.text ?? ""
    reasoning += delta?.reasoningContent?.text ?? ""
    const start = event.contentBlockStart?.start?.toolUse
    if (start !== undefined) calls.push({ id: start.toolUseId, name: start.name, args: "" })
    if (delta?.toolUse !== undefined) calls.at(-1)!.args += delta.toolUse.input
    finish ??= event.messageStop?.stopReason
    const told = event.metadata?.usage
    if (told !== undefined) usage = [told.inputTokens, told.cacheReadInputTokens, told.outputTokens]
  }
  return {
    text,
    reasoning,
    calls: calls.map(({ args, id, name }) => [id, name, args === "" ? {} : JSON.parse(args)] as const),
    finish,
    usage
  }
}

const finishes: Readonly<Record<string, string>> = {
  end_turn: "stop",
  max_tokens: "length",
  tool_use: "tool-calls",
  guardrail_intervened: "content-filter"
}

const steps: Readonly<Record<string, FaultServer.AnswerOptions>> = {
  "a text": { text: "Grüezi, Welt 😀" },
  "a text of many pieces, with reasoning and counts": {
    chunks: Array.from({ length: 200 }, (_, i) => `Wort ${i} 😀, `),
    reasoning: "Hm, let me see.",
    usage: { inputTokens: 1000, cachedInputTokens: 400, outputTokens: 70 }
  },
  "two calls": {
    text: "",
    toolCalls: [{ name: "weather", params: { city: "Zürich" } }, { name: "clock", params: {} }]
  },
  "an answer without room": { text: "Half of", finish: "length" },
  "one that a guardrail stopped": { text: "No.", finish: "content-filter" }
}

describe("the official client and ours see the same", () => {
  for (const [name, step] of Object.entries(steps)) {
    for (const streaming of [false, true]) {
      it.live(`${name}, ${streaming ? "streamed" : "whole"}`, () =>
        Effect.gen(function*() {
          const server = yield* FaultServer.make()
          const scene = Effect.andThen(server.reset, server.always(FaultServer.ok({ ...step, headers: {} })))
          yield* scene
          const theirs = yield* Effect.promise(() => (streaming ? streamedBy : wholeBy)(official(server.bedrock)))
          const outcome = yield* run(yield* ours(server.bedrock), streaming)
          wellFormed(outcome)
          const { finish, reasoning, requestId, text, toolCalls } = digest(outcome)
          assert.strictEqual(outcome.error, undefined)
          assert.deepStrictEqual([text, reasoning], [theirs.text, theirs.reasoning])
          assert.deepStrictEqual(
            toolCalls.map(({ name, params }) => [name, params] as const),
            theirs.calls.map(([, name, params]) => [name, params] as const)
          )
          assert.isTrue(toolCalls.every(({ id }) => id.startsWith("tooluse_")))
          assert.strictEqual(finish?.reason, finishes[theirs.finish!])
          const [uncached, cacheRead, output] = theirs.usage
          const { inputTokens, outputTokens } = finish!.usage
          if (step.usage !== undefined) {
            assert.deepStrictEqual([inputTokens.uncached, inputTokens.cacheRead, outputTokens.total], [
              uncached,
              cacheRead,
              output
            ])
            assert.strictEqual(inputTokens.total, uncached! + cacheRead!)
          }
          assert.match(requestId!, /^[\da-f-]{36}$/)
        }).pipe(Effect.scoped, Effect.provide(FetchHttpClient.layer)))
    }
  }

  const reasons = ["RateLimit", "Quota", "Overloaded", "Server", "Timeout", "Authentication", "Permission"] as const
  const more = ["NotFound", "ContextLength", "ContentPolicy", "InvalidRequest"] as const
  for (const reason of [...reasons, ...more]) {
    it.live(`a refusal: ${reason}`, () =>
      Effect.gen(function*() {
        const server = yield* FaultServer.make()
        yield* server.always(FaultServer.error(reason))
        const theirs = yield* Effect.promise(() =>
          wholeBy(official(server.bedrock)).then(() => undefined, (e: any) => e)
        )
        for (const streaming of [false, true]) {
          const { error } = yield* run(yield* ours(server.bedrock), streaming)
          assert.strictEqual(error?.reason._tag, reason)
          assert.strictEqual(error?.status, theirs.$metadata.httpStatusCode)
          assert.strictEqual(error?.code, theirs.name)
        }
      }).pipe(Effect.scoped, Effect.provide(FetchHttpClient.layer)))
  }

  it.live("a failure inside a stream, a cut, a broken frame", () =>
    Effect.gen(function*() {
      const server = yield* FaultServer.make()
      const provider = yield* ours(server.bedrock)
      const cases = [
        [FaultServer.errorEvent({ afterChunks: 2, reason: "RateLimit" }), "RateLimit"],
        [FaultServer.errorEvent({ afterChunks: 0, reason: "Overloaded" }), "Overloaded"],
        [FaultServer.truncate({ afterChunks: 2 }), "MalformedResponse"],
        [FaultServer.truncate({ afterChunks: 2, midEvent: true }), "MalformedResponse"],
        [FaultServer.malformedJson({ afterChunks: 2 }), "MalformedResponse"],
        [FaultServer.emptyBody(), "MalformedResponse"]
      ] as const
      for (const [fault, reason] of cases) {
        yield* server.always(fault)
        const { error, parts } = yield* run(provider, true)
        assert.strictEqual(error?.reason._tag, reason)
        assert.isFalse(parts.some(({ type }) => type === "finish"))
        // What came before it is not lost.
        const text = "afterChunks" in fault && fault.afterChunks === 2 ? "This answer" : ""
        assert.strictEqual(digest({ error, parts }).text, text)
      }
    }).pipe(Effect.scoped, Effect.provide(FetchHttpClient.layer)))
})

// -----------------------------------------------------------------------------
// requests
// -----------------------------------------------------------------------------

const png = "iVBORw0KGgo="

/** What both are to ask. */
const asked: LlmRequest.Input = {
  system: "Be brief.",
  maxTokens: 300,
  temperature: 0.5,
  topP: 0.9,
  stop: ["END"],
  tools: [{ name: "weather", description: "Tells it.", parameters: { type: "object", properties: { city: {} } } }],
  toolChoice: { tool: "weather" },
  prompt: [
    { role: "user", content: [{ type: "text", text: "Hi" }, { type: "file", mediaType: "image/png", data: png }] },
    {
      role: "assistant",
      content: [
        { type: "reasoning", text: "Hm", options: { bedrock: { signature: "sig" } } },
        { type: "reasoning", text: "not of here", options: { anthropic: { signature: "sig" } } },
        { type: "text", text: " " },
        { type: "tool-call", id: "functions.ls:0", name: "weather", params: { city: "Bern" } }
      ]
    },
    { role: "user", content: "Still there?" },
    {
      role: "tool",
      content: [{ type: "tool-result", id: "functions.ls:0", name: "weather", isFailure: true, result: "no" }]
    },
    {
      role: "user",
      content: [{ type: "file", mediaType: "application/pdf", fileName: "a/b:c.pdf", data: png }],
      options: { bedrock: { cachePoint: { type: "default" } } }
    }
  ],
  providerOptions: { bedrock: { additionalModelRequestFields: { top_k: 5 } } }
}

const bytes = Uint8Array.from(Buffer.from(png, "base64"))
const theirs = (toolUseId: string): ConverseCommandInput => ({
  modelId,
  system: [{ text: "Be brief." }],
  messages: [
    { role: "user", content: [{ text: "Hi" }, { image: { format: "png", source: { bytes } } }] },
    {
      role: "assistant",
      content: [
        { reasoningContent: { reasoningText: { text: "Hm", signature: "sig" } } },
        { toolUse: { toolUseId, name: "weather", input: { city: "Bern" } } }
      ]
    },
    {
      role: "user",
      content: [
        { toolResult: { toolUseId, content: [{ text: "no" }], status: "error" } },
        { text: "Still there?" },
        { document: { format: "pdf", name: "a b c pdf", source: { bytes } } },
        { cachePoint: { type: "default" } }
      ]
    }
  ],
  inferenceConfig: { maxTokens: 300, temperature: 0.5, topP: 0.9, stopSequences: ["END"] },
  toolConfig: {
    tools: [{
      toolSpec: {
        name: "weather",
        description: "Tells it.",
        inputSchema: { json: { type: "object", properties: { city: {} } } }
      }
    }],
    toolChoice: { tool: { name: "weather" } }
  },
  additionalModelRequestFields: { top_k: 5 }
})

interface Received {
  readonly path: string
  readonly headers: Readonly<Record<string, string | undefined>>
  readonly body: string
}

/** Keeps what it is sent. */
const recorder = Effect.acquireRelease(
  Effect.callback<{ readonly url: string; readonly received: Array<Received>; readonly stop: () => void }>((resume) => {
    const received: Array<Received> = []
    const server = createServer((request, response) => {
      const chunks: Array<Buffer> = []
      request.on("data", (chunk: Buffer) => chunks.push(chunk)).on("end", () => {
        const headers = request.headers as Received["headers"]
        received.push({ path: request.url!, headers, body: Buffer.concat(chunks).toString() })
        response.writeHead(400, { "content-type": "application/json" }).end("{\"message\":\"no\"}")
      })
    })
    const stop = (): void => {
      server.closeAllConnections()
      server.close()
    }
    server.listen(0, "127.0.0.1", () => {
      resume(Effect.succeed({ url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, received, stop }))
    })
  }),
  ({ stop }) => Effect.sync(stop)
)

const sha256 = (text: string) => createHash("sha256").update(text).digest("hex")
const hmac = (key: string | Buffer, text: string) => createHmac("sha256", key).update(text).digest()

/** The signature that a request must have, by "Create a signed AWS API request" of AWS's reference. */
const signatureOf = ({ body, headers, path }: Received): readonly [told: string | undefined, right: string] => {
  const { authorization = "" } = headers
  const names = /SignedHeaders=([^,]+)/.exec(authorization)?.[1]?.split(";") ?? []
  const date = headers["x-amz-date"] ?? ""
  const scope = `${date.slice(0, 8)}/${region}/bedrock/aws4_request`
  const canonical = [
    "POST",
    path.split("/").map(encodeURIComponent).join("/"),
    "",
    ...names.map((name) => `${name}:${headers[name]?.trim()}`),
    "",
    names.join(";"),
    headers["x-amz-content-sha256"] ?? sha256(body)
  ].join("\n")
  const key = [date.slice(0, 8), region, "bedrock", "aws4_request"].reduce<string | Buffer>(
    hmac,
    `AWS4${secretAccessKey}`
  )
  const signature = hmac(key, `AWS4-HMAC-SHA256\n${date}\n${scope}\n${sha256(canonical)}`).toString("hex")
  return [
    authorization,
    `AWS4-HMAC-SHA256 Credential=${accessKeyId}/${scope}, SignedHeaders=${names.join(";")}, Signature=${signature}`
  ]
}

describe("requests", () => {
  it.live("are what the official client sends, and signed as it signs", () =>
    Effect.gen(function*() {
      const { received, url } = yield* recorder
      const provider = yield* ours(url)
      for (const streaming of [false, true]) {
        received.length = 0
        yield* run(provider, streaming, yield* LlmRequest.make(asked))
        const own = received[0]!
        const id: string = JSON.parse(own.body).messages[1].content[1].toolUse.toolUseId
        assert.match(id, /^[\w-]{1,64}$/)
        const command = streaming ? new ConverseStreamCommand(theirs(id)) : new ConverseCommand(theirs(id))
        yield* Effect.promise(() => official(url).send(command as ConverseCommand).then(() => {}, () => {}))
        const other = received[1]!
        assert.strictEqual(own.path, other.path)
        assert.deepStrictEqual(JSON.parse(own.body), JSON.parse(other.body))
        for (const request of [own, other]) {
          const [told, right] = signatureOf(request)
          assert.strictEqual(told, right)
          assert.strictEqual(request.headers["x-amz-security-token"], sessionToken)
          assert.strictEqual(request.headers["content-type"], "application/json")
        }
        const signs = /SignedHeaders=([^,]+)/.exec(own.headers["authorization"]!)![1]!.split(";")
        assert.includeMembers(signs, ["host", "content-type", "x-amz-date", "x-amz-security-token"])
      }
    }).pipe(Effect.scoped, Effect.provide(FetchHttpClient.layer)))

  it.effect("what has no place is told, and tools of the conversation are named", () =>
    Effect.gen(function*() {
      const provider = yield* connect(ours("https://bedrock.test"), serve({}))
      const request = {
        seed: 1,
        topK: 5,
        reasoningEffort: "low",
        responseFormat: { type: "json" },
        prompt: [{ role: "assistant", content: [{ type: "tool-call", id: "c", name: "ls", params: {} }] }]
      } as const satisfies LlmRequest.Input
      const { json } = yield* sent(ours("https://bedrock.test"), request)
      assert.deepStrictEqual(json.toolConfig.tools, [
        { toolSpec: { name: "ls", inputSchema: { json: { type: "object", properties: {} } } } }
      ])
      assert.deepStrictEqual(json.system, [{ text: "Answer with one JSON object and nothing else." }])
      const told = provider.changes!(yield* LlmRequest.make(request)).map(({ action, field }) => [field, action])
      assert.sameDeepMembers(told, [
        ["seed", "dropped"],
        ["topK", "dropped"],
        ["reasoningEffort", "dropped"],
        ["responseFormat", "substituted"],
        ["tools", "substituted"]
      ])
      const schema = { type: "object", properties: { a: { type: "string" } } }
      const formed = yield* sent(ours("https://bedrock.test"), {
        prompt: "Hi",
        responseFormat: { type: "json", schema, name: "answer" }
      })
      assert.deepStrictEqual(formed.json.outputConfig, {
        textFormat: {
          type: "json_schema",
          structure: { jsonSchema: { name: "answer", schema: JSON.stringify(schema) } }
        }
      })
      const image = { type: "file", mediaType: "image/png", data: "https://img.test/a.png" } as const
      const refused = yield* sent(ours("https://bedrock.test"), { prompt: [{ role: "user", content: [image] }] })
      assert.strictEqual(refused.error.code, "unsupported_media_type")
    }))

  it.effect("an empty result says so, and with no choice there are no tools unless the conversation tells of them", () =>
    Effect.gen(function*() {
      const tools = [{ name: "ls", parameters: {} }]
      const result = (text: string) =>
        ({ type: "tool-result", id: "c", name: "ls", isFailure: false, result: text }) as const
      const call = { type: "tool-call", id: "c", name: "ls", params: {} } as const
      const told = yield* sent(ours("https://bedrock.test"), {
        tools,
        toolChoice: "none",
        prompt: [
          { role: "user", content: "Hi" },
          { role: "assistant", content: [call] },
          { role: "tool", content: [result("")] }
        ]
      })
      assert.deepStrictEqual(told.json.messages[2].content[0].toolResult.content, [{ text: "(empty)" }])
      assert.strictEqual(told.json.toolConfig.tools.length, 1)
      const untold = yield* sent(ours("https://bedrock.test"), { tools, toolChoice: "none", prompt: "Hi" })
      assert.notProperty(untold.json, "toolConfig")
    }))

  it.effect("keys may be an effect, which runs once per request; a key of Bedrock's own signs nothing", () =>
    Effect.gen(function*() {
      let count = 0
      const some = Effect.sync(() => ({ ...credentials, accessKeyId: `AKID${++count}` }))
      const transport = serve({
        status: 403,
        body: JSON.stringify({ message: `bad ${sessionToken}`, code: sessionToken })
      })
      const provider = yield* connect(Bedrock.make({ region, credentials: some, defaultModel: modelId }), transport)
      yield* run(provider, false)
      const { error } = yield* run(provider, true)
      assert.include(transport.sent[1]!.request.headers["authorization"], "Credential=AKID2/")
      assert.strictEqual(
        transport.sent[0]!.url,
        `https://bedrock-runtime.${region}.amazonaws.com/model/${encodeURIComponent(modelId)}/converse`
      )
      assert.notInclude(JSON.stringify(error), sessionToken)
      const failing = Bedrock.make({ region, credentials: Effect.fail("no"), defaultModel: modelId })
      const failed = yield* run(yield* connect(failing, transport), false)
      assert.deepStrictEqual([failed.error?.reason, failed.error?.code], [
        { _tag: "Network", sent: false },
        "credentials_unavailable"
      ])
      const keyed = serve({ status: 400 })
      yield* run(yield* connect(Bedrock.make({ region, apiKey, defaultModel: modelId }), keyed), false)
      const { headers } = keyed.sent[0]!.request
      assert.deepStrictEqual([headers["authorization"], headers["x-amz-date"]], ["Bearer test-key", undefined])
    }))

  it.effect("wrong options are told with their path", () =>
    Effect.gen(function*() {
      const cases = [
        [{ region: "../SECRET", credentials }, "bedrock.region"],
        [{ region }, "bedrock.credentials"],
        [{ region, credentials: { ...credentials, accessKeyId: "SECRET\n" } }, "bedrock.credentials"],
        [{ region, credentials, apiKey }, "bedrock.credentials"]
      ] as const
      for (const [options, path] of cases) {
        const error = yield* Effect.flip(connect(Bedrock.make(options), serve({})))
        assert.strictEqual(error.path, path)
        assert.notInclude(error.message, "SECRET")
      }
    }))
})

// -----------------------------------------------------------------------------
// frames
// -----------------------------------------------------------------------------

describe("frames that are cut and bent", () => {
  const streamOf = Effect.gen(function*() {
    const server = yield* FaultServer.make()
    yield* server.always(
      FaultServer.ok({ text: "Grüezi 😀", reasoning: "Hm", toolCalls: [{ name: "f", params: { a: 1 } }] })
    )
    const url = `${server.bedrock}/model/m/converse-stream`
    return yield* Effect.promise(async () =>
      new Uint8Array(await (await fetch(url, { method: "POST", body: "{}" })).arrayBuffer())
    )
  }).pipe(Effect.scoped)
  const make = Bedrock.make({ region, apiKey, defaultModel: modelId })
  const read = (body: ReadonlyArray<Uint8Array<ArrayBuffer>>, maxBodyBytes?: number) =>
    play(
      maxBodyBytes === undefined ? make : Bedrock.make({ region, apiKey, defaultModel: modelId, maxBodyBytes }),
      { headers: { "content-type": "application/vnd.amazon.eventstream" }, body },
      true
    )

  it.live("in any pieces they say the same, and cut at any byte nothing is made up", () =>
    Effect.gen(function*() {
      const all = yield* streamOf
      const whole = digest(yield* read([all]))
      assert.deepStrictEqual([whole.text, whole.reasoning, whole.toolCalls.length], ["Grüezi 😀", "Hm", 1])
      for (const size of [1, 2, 3, 5, 17]) {
        const pieces = Array.from(
          { length: Math.ceil(all.length / size) },
          (_, i) => all.slice(i * size, (i + 1) * size)
        )
        assert.deepStrictEqual(digest(yield* read(pieces)), whole)
      }
      for (let length = 0; length < all.length; length++) {
        const outcome = yield* read([all.slice(0, length)])
        if (outcome.error === undefined) assert.deepStrictEqual(digest(outcome).toolCalls, whole.toolCalls)
        else assert.isTrue(whole.text.startsWith(digest(outcome).text) && digest(outcome).finish === undefined)
      }
    }))

  it.live("a bit that is another is found by its checksum, and a length is bounded", () =>
    Effect.gen(function*() {
      const all = yield* streamOf
      const random = seeded(7)
      const whole = digest(yield* read([all]))
      for (let i = 0; i < 2000; i++) {
        const bent = all.slice()
        bent[Math.floor(random() * bent.length)]! ^= 1 << Math.floor(random() * 8)
        const outcome = yield* read([bent])
        if (outcome.error === undefined) assert.deepStrictEqual(digest(outcome).text, whole.text)
        else assert.strictEqual(outcome.error.reason._tag, "MalformedResponse")
      }
      const long = Uint8Array.of(0x7f, 0xff, 0xff, 0xff, ...new Uint8Array(64))
      assert.strictEqual((yield* read([long], 2000)).error?.reason._tag, "MalformedResponse")
      assert.strictEqual((yield* read([new Uint8Array(64)])).error?.reason._tag, "MalformedResponse")
    }))
})
